"""Any frames of any clips: given frames come back, stay clean, and are refused where a model cannot take them."""

import itertools

import pytest
import torch
from full_size import FRAMES, build, random_video

from layerflow import LayerFlowPipeline
from layerflow.core.given import Given
from layerflow.core.layered_video import LayeredVideo
from layerflow.core.schema import CLIPS, TASKS, clip_names, model_clips, scene_layers
from layerflow.mini.network.transformer import CompactTransformer3DModel
from layerflow.models.backbone import Backbone
from layerflow.models.cogvideox.official import CONFIGURATIONS, OfficialConfiguration
from layerflow.models.model_space import to_model_space

PROMPTS = {"foreground": "a red fox", "background": "green hills", "num_inference_steps": 2}
GROUPS = {"mini": [range(0, 1), range(1, 2)], "cogvideox": [range(4 * i, 4 * i + 4) for i in range(4)],
          "wan": [range(0, 1), range(1, 5)], "wan2.2": [range(0, 1), range(1, 5)]}  # fmt: skip
"""Frames that each family takes together."""
families = pytest.mark.parametrize("family", GROUPS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pipelines() -> dict[str, LayerFlowPipeline]:
    """Read only."""
    return {family: build(family) for family in FRAMES}


@pytest.fixture
def pipeline(request: pytest.FixtureRequest, family: str) -> LayerFlowPipeline:
    if family == "mini":
        return request.getfixturevalue("tiny_pipeline")
    return request.getfixturevalue("pipelines")[family]


def of_several(pipeline: LayerFlowPipeline, foregrounds: int) -> LayerFlowPipeline:
    """Return a pipeline whose transformer has several foregrounds, with random weights."""
    clips = model_clips(foregrounds)
    larger: dict[str, Backbone] = {}
    for name, transformer in pipeline.transformers.items():
        if not isinstance(transformer, CompactTransformer3DModel):
            larger[name] = transformer.resized({"clips": clips})
            continue
        torch.manual_seed(0)
        own = {key: value for key, value in transformer.config.items() if not key.startswith("_")}
        larger[name] = CompactTransformer3DModel(**{**own, "clips": clips})
        for parameter in larger[name].parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    parts = {**pipeline.components, **larger, "upscaler": None}
    made = LayerFlowPipeline(**parts, boundary_ratio=pipeline.config.boundary_ratio)
    made.set_progress_bar_config(disable=True)
    return made


def scene_of(pipeline: LayerFlowPipeline, foregrounds: int) -> LayeredVideo:
    frames, height, width = pipeline.codec.trained_size
    generator = torch.Generator().manual_seed(5)
    names = [name for name in clip_names(scene_layers(foregrounds)) if name != "blended"]
    clips = {n: torch.rand(frames, 1 if "alpha" in n else 3, height, width, generator=generator) for n in names}
    return LayeredVideo.from_clips(clips).compose()


@families
def test_groups_are_the_frames_of_a_latent_frame(pipeline: LayerFlowPipeline, family: str) -> None:
    assert pipeline.codec.groups(pipeline.codec.trained_size[0]) == GROUPS[family]


@families
@pytest.mark.parametrize("task", TASKS)
def test_given_frames_come_back_bit_for_bit_in_every_task(pipeline: LayerFlowPipeline, family: str, task: str) -> None:
    """The clips of the task are given whole, the first latent frame of the others too."""
    whole = scene_of(pipeline, 1)
    first = GROUPS[family][0]
    frames = {name: first for name in CLIPS if name not in TASKS[task]}
    video = pipeline(**PROMPTS, given=Given(whole, frames), generator=seeded()).video
    for name, clip in video.clips().items():
        same = [torch.equal(clip[n], whole.clips()[name][n]) for n in range(whole.frames)]
        assert same == [name in TASKS[task] or n in first for n in range(whole.frames)], name


@families
def test_given_latents_of_some_frames_stay_clean(pipeline: LayerFlowPipeline, family: str) -> None:
    whole, seen = scene_of(pipeline, 1), []
    given = Given(LayeredVideo(background=whole.background, alpha=whole.alpha), {"alpha": GROUPS[family][-1]})

    def look(pipe, step, timestep, tensors):
        seen.append(tensors["latents"])
        return {}

    pipeline(**PROMPTS, given=given, generator=seeded(), callback_on_step_end=look)
    count = len(GROUPS[family])
    one, two = (latents.unflatten(1, (len(CLIPS), count)) for latents in seen)
    same = [[torch.equal(one[:, k, f], two[:, k, f]) for f in range(count)] for k in range(len(CLIPS))]
    last = [False] * (count - 1) + [True]
    assert same == [[False] * count, last, [True] * count, [False] * count]


@families
def test_given_frames_change_the_others(pipeline: LayerFlowPipeline, family: str) -> None:
    whole = scene_of(pipeline, 1)
    first = GROUPS[family][0]
    made = []
    for shift in (0.0, 0.5):
        blended = (whole.blended + shift) % 1
        given = Given(LayeredVideo(blended=blended), {"blended": first})
        made.append(pipeline(**PROMPTS, given=given, generator=seeded()).video.blended[first[-1] + 1 :])
    assert not torch.equal(*made)


@pytest.mark.parametrize("family", [family for family in GROUPS if family != "mini"])
def test_part_of_a_latent_frame_is_refused(pipeline: LayerFlowPipeline, family: str) -> None:
    first, together = (
        ("0 to 3", "0 to 3, 4 to 7, 8 to 11, 12 to 15") if family == "cogvideox" else ("1 to 4", "0, 1 to 4")
    )
    message = f"alpha is given in a part of frames {first}, .* too, or none of them. It takes frames {together}"
    with pytest.raises(ValueError, match=message):
        pipeline(**PROMPTS, given=Given(scene_of(pipeline, 1), {"alpha": 2}))


@families
def test_hints_guide_models_in_pixels_and_are_refused_by_others(pipeline: LayerFlowPipeline, family: str) -> None:
    whole = scene_of(pipeline, 1)
    known = torch.zeros_like(whole.alpha, dtype=torch.bool)
    known[0, 0, 2:6, 2:6] = True
    videos = []
    for value in (0.0, 1.0):
        hinted = LayeredVideo(alpha=torch.full_like(whole.alpha, value), blended=whole.blended)
        given = Given(hinted, {"alpha": ()}, {"alpha": known})
        if family != "mini":
            with pytest.raises(ValueError, match="no hints at parts of it"):
                pipeline(**PROMPTS, given=given)
            return
        videos.append(pipeline(**PROMPTS, given=given, generator=seeded()).video)
    inside = [video.alpha[known].mean() for video in videos]
    assert inside[0] < 0.1
    assert inside[1] > 0.9


def test_a_network_that_takes_hints_is_not_pulled(tiny_pipeline: LayerFlowPipeline) -> None:
    torch.manual_seed(0)
    transformer = tiny_pipeline.transformer.resized({"hints": True})
    torch.nn.init.normal_(transformer.hint_stem.weight)
    pipeline = LayerFlowPipeline(**{**tiny_pipeline.components, "transformer": transformer})
    whole = scene_of(pipeline, 1)
    known = torch.zeros_like(whole.alpha, dtype=torch.bool)
    known[0, 0, 2:6, 2:6] = True
    videos = [
        pipeline(
            **PROMPTS,
            given=Given(LayeredVideo(alpha=torch.full_like(whole.alpha, value)), {"alpha": ()}, {"alpha": known}),
            generator=seeded(),
        ).video
        for value in (0.0, 1.0)
    ]
    assert not torch.equal(videos[0].alpha, videos[1].alpha)
    assert not (videos[1].alpha[known] > 0.99).all()


def test_all_samples_of_a_batch_give_the_same_frames(tiny_pipeline: LayerFlowPipeline) -> None:
    whole = scene_of(tiny_pipeline, 1)
    with pytest.raises(ValueError, match="same frames of the same clips"):
        tiny_pipeline(**PROMPTS, given=[Given(whole, {"blended": 0}), Given(whole, {"blended": 1})])


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda one: one.name)
def test_official_models_take_frames_besides_the_clips_of_their_task(configuration: OfficialConfiguration) -> None:
    pipeline = build("cogvideox", configuration)
    whole = random_video(pipeline)
    names = TASKS[configuration.task] | {"background"}
    given = Given(
        LayeredVideo(**{name: whole.clips()[name] for name in names}),
        {} if "background" in TASKS[configuration.task] else {"background": range(4)},
    )
    video = pipeline(**PROMPTS, given=given, generator=seeded()).video
    for name in given.clips:
        assert torch.equal(video.clips()[name][:4], whole.clips()[name][:4])


@families
@pytest.mark.parametrize(("model", "scene"), [(2, 2), (3, 3), (3, 1)])
def test_several_foregrounds(pipeline: LayerFlowPipeline, family: str, model: int, scene: int) -> None:
    """A scene may have fewer foregrounds than the model."""
    several = of_several(pipeline, model)
    prompts = ["a red fox", "a ball", "a whale"][:scene]
    video = several(background="green hills", foregrounds=prompts, num_inference_steps=2, generator=seeded()).video
    assert set(video.clips()) == set(clip_names(scene_layers(scene)))
    assert all(clip.isfinite().all() for clip in video.clips().values())
    changed = several(
        background="green hills", foregrounds=[*prompts[:-1], "a cat"], num_inference_steps=2, generator=seeded()
    ).video
    assert changed != video


@families
def test_clips_of_several_foregrounds_are_given_by_name(pipeline: LayerFlowPipeline, family: str) -> None:
    several = of_several(pipeline, 2)
    whole = scene_of(several, 2)
    names = ["foreground-2", "alpha-2", "blended"]
    given = Given(
        LayeredVideo.from_clips({name: whole.clips()[name] for name in names}), {"alpha-2": GROUPS[family][0]}
    )
    video = several(given=given, num_inference_steps=2, generator=seeded()).video
    assert set(video.clips()) == set(clip_names(scene_layers(2)))
    assert torch.equal(video.clips()["foreground-2"], whole.clips()["foreground-2"])
    assert torch.equal(video.clips()["alpha-2"][0], whole.clips()["alpha-2"][0])
    assert not torch.equal(video.clips()["alpha-2"][-1], whole.clips()["alpha-2"][-1])


@families
def test_fewer_foregrounds_than_prompts_are_refused(pipeline: LayerFlowPipeline, family: str) -> None:
    with pytest.raises(ValueError, match="2 foregrounds are prompted or given, but this model has 1"):
        pipeline(background="hills", foregrounds=["a fox", "a ball"])
    with pytest.raises(ValueError, match="both foreground and foregrounds"):
        pipeline(foreground="a fox", foregrounds=["a fox"])
    with pytest.raises(ValueError, match="must be a list of prompts"):
        pipeline(foregrounds="a fox")


@families
def test_whole_clips_of_one_foreground_are_those_of_the_smaller_model(pipeline: LayerFlowPipeline, family: str) -> None:
    """Weights that grow by a foreground make the same scenes of one as before."""
    if family == "mini":
        pytest.skip("its convolutions see all clips side by side")
    several = of_several(pipeline, 2)
    for given in (None, LayeredVideo(blended=scene_of(pipeline, 1).blended)):
        one, two = (
            made(**PROMPTS, given=given, generator=seeded(), output_type="latent").videos
            for made in (pipeline, several)
        )
        assert torch.allclose(one, two, atol=1e-6)


def test_every_pair_of_clips_and_frames_is_taken(tiny_pipeline: LayerFlowPipeline) -> None:
    """Masks of any clips and any frames, for the smallest network: two frames of four clips."""
    whole = scene_of(tiny_pipeline, 1)
    for chosen in itertools.product([(), (0,), (1,), (0, 1)], repeat=2):
        frames = dict(zip(("alpha", "blended"), chosen, strict=True)) | {"foreground": (), "background": (1,)}
        video = tiny_pipeline(given=Given(whole, frames), num_inference_steps=1, generator=seeded()).video
        for name, numbers in frames.items():
            for number in numbers:
                assert torch.equal(video.clips()[name][number], whole.clips()[name][number])


@families
def test_tensors_hold_given_frames_too(pipeline: LayerFlowPipeline, family: str) -> None:
    whole = scene_of(pipeline, 1)
    given = Given(LayeredVideo(blended=whole.blended, alpha=whole.alpha), {"alpha": GROUPS[family][0]})
    clips = pipeline(**PROMPTS, given=given, generator=seeded(), output_type="pt").videos
    space = to_model_space(given.video.clips())
    assert torch.equal(clips["blended"][0], space["blended"])
    assert torch.equal(clips["alpha"][0, : len(GROUPS[family][0])], space["alpha"][: len(GROUPS[family][0])])
    assert not torch.equal(clips["alpha"][0, -1], space["alpha"][-1])
