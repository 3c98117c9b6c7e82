"""The pipeline: every set of given clips, guidance, batches, determinism, saving, interruption."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance
from safetensors.torch import load_file

from layerflow.core.layered_video import LayeredVideo
from layerflow.core.schema import CLIPS, TASKS
from layerflow.models.folders import UnknownModelError, find_model
from layerflow.models.model_space import from_model_space, to_model_space
from layerflow.models.scene import task_of
from layerflow.models.text import blended_prompt
from layerflow.pipeline import LayerFlowPipeline

PROMPTS = {"foreground": "a red fox", "background": "green hills"}


def random_video(seed: int = 0, frames: int = 2, size: int = 16) -> LayeredVideo:
    generator = torch.Generator().manual_seed(seed)
    colour = [torch.rand(frames, 3, size, size, generator=generator) for _ in range(2)]
    alpha = torch.rand(frames, 1, size, size, generator=generator)
    return LayeredVideo(colour[0], alpha, colour[1]).compose()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SUBSETS = [s for n in range(len(CLIPS)) for s in itertools.combinations(CLIPS, n)]


@pytest.mark.parametrize("names", SUBSETS, ids=lambda s: "+".join(s) or "none")
def test_any_given_clips_are_unchanged(tiny_pipeline: LayerFlowPipeline, names: tuple[str, ...]) -> None:
    whole = random_video()
    given = LayeredVideo(**{n: whole.clips()[n] for n in names}) if names else None
    video = tiny_pipeline(**PROMPTS, given=given, num_inference_steps=2, generator=seeded()).video
    assert set(video.clips()) == set(CLIPS)
    for name, clip in video.clips().items():
        assert torch.equal(clip, whole.clips()[name]) == (name in names), name


def test_given_clips_stay_clean_during_denoising(tiny_pipeline: LayerFlowPipeline) -> None:
    given = LayeredVideo(background=random_video().background)
    clean = to_model_space(given.clips())["background"]
    where = slice(4, 6)  # two frames each of foreground and alpha come before
    seen = []

    def look(pipe, step, timestep, tensors):
        seen.append(torch.equal(tensors["latents"][0, where], clean))
        return {}

    tiny_pipeline(**PROMPTS, given=given, num_inference_steps=3, callback_on_step_end=look)
    assert seen == [True] * 3


def test_smaller_noise_scale_makes_seeds_more_alike(tiny_pipeline: LayerFlowPipeline) -> None:
    def apart(scale: float | None) -> float:
        ends = [
            tiny_pipeline(
                **PROMPTS, noise_scale=scale, num_inference_steps=2, generator=seeded(seed), output_type="latent"
            ).videos
            for seed in (0, 1)
        ]
        return float((ends[0] - ends[1]).abs().mean())

    assert apart(0) < apart(0.4) < apart(1)  # places are left to chance in any case
    conventions = tiny_pipeline.transformer.conventions
    assert apart(None) == pytest.approx(apart(conventions.noise_scale_of("generate")))
    assert conventions.noise_scale_of("decompose") < conventions.noise_scale_of("generate")


def test_placement_is_drawn_once_for_all_steps(
    tiny_pipeline: LayerFlowPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    forward = tiny_pipeline.transformer.forward

    def look(*args, placement, **kwargs):  # type: ignore[no-untyped-def]
        seen.append(placement)
        return forward(*args, placement=placement, **kwargs)

    monkeypatch.setattr(tiny_pipeline.transformer, "forward", look)
    for seed in (0, 1, 0):
        tiny_pipeline(**PROMPTS, num_inference_steps=2, guidance_scale=2.0, generator=seeded(seed))
    assert all(torch.equal(placement, placement[:1].expand(2, 3)) for placement in seen)  # with prompts and without
    one, again, other, _, same, _ = seen
    assert torch.equal(one, again)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_mini_runs_in_a_fresh_process_without_warnings(tmp_path: Path) -> None:
    """Its parts are found only once their modules are imported, which another test may have done in this process."""
    code = f"""
import gc, torch
from diffusers.utils import logging
from layerflow import LayerFlowPipeline, LayeredVideo, save_layers

logging.disable_progress_bar()
pipeline = LayerFlowPipeline.from_pretrained("mini")
assert pipeline.upscaler.factors == [1, 2, 4]
assert gc.isenabled()
pipeline.set_progress_bar_config(disable=True)
video = pipeline("a red ball", "green hills", num_frames=2, num_inference_steps=1, guidance_scale=2.0).video
save_layers(video, {str(tmp_path / "layers")!r})
pipeline(given=LayeredVideo(blended=video.blended), num_inference_steps=1)
pipeline.to(torch.bfloat16).save_pretrained({str(tmp_path / "model")!r})
"""
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_seed_decides_the_video(tiny_pipeline: LayerFlowPipeline) -> None:
    one, same, other = (tiny_pipeline(**PROMPTS, num_inference_steps=2, generator=seeded(s)).video for s in (1, 1, 2))
    assert one == same
    assert one != other


def test_batch_equals_single_calls(tiny_pipeline: LayerFlowPipeline) -> None:
    foregrounds = ["a fox", "a blue car rising quickly"]
    batch = tiny_pipeline(foregrounds, "hills", num_inference_steps=2, generator=[seeded(3), seeded(4)]).videos
    for seed, foreground, video in zip((3, 4), foregrounds, batch, strict=True):
        alone = tiny_pipeline(foreground, "hills", num_inference_steps=2, generator=seeded(seed)).video
        for name in CLIPS:
            assert torch.allclose(alone.clips()[name], video.clips()[name], atol=1e-3), name


def test_prompts_guidance_and_negative_prompt_matter(tiny_pipeline: LayerFlowPipeline) -> None:
    def run(foreground="a fox", **kwargs):
        return tiny_pipeline(
            foreground, "hills", num_inference_steps=2, generator=seeded(), output_type="latent", **kwargs
        ).videos

    base, guided = run(), run(guidance_scale=1.5)
    assert torch.equal(base, run(guidance_scale=tiny_pipeline.transformer.conventions.guidance))
    assert not torch.equal(base, run("a whale"))
    assert not torch.equal(base, guided)
    assert not torch.equal(guided, run(guidance_scale=1.5, negative_prompt="a ghost"))
    assert torch.equal(guided, run(guider=ClassifierFreeGuidance(1.5)))


@pytest.mark.parametrize(("scale", "expected"), [(3.0, 2), (1.0, 1)])
def test_guidance_is_one_batched_forward(tiny_pipeline: LayerFlowPipeline, scale: float, expected: int) -> None:
    sizes = []
    tiny_pipeline.transformer.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[0]))
    tiny_pipeline(**PROMPTS, num_inference_steps=2, guidance_scale=scale)
    assert sizes == [expected] * 2


def test_interrupt_stops_before_the_next_step(tiny_pipeline: LayerFlowPipeline) -> None:
    steps = []

    def stop(pipe, step, timestep, tensors):
        steps.append(step)
        pipe.interrupt = step == 1
        return {}

    tiny_pipeline(**PROMPTS, num_inference_steps=5, callback_on_step_end=stop)
    assert steps == [0, 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(tiny_pipeline: LayerFlowPipeline, dtype: torch.dtype) -> None:
    expected = tiny_pipeline(**PROMPTS, num_inference_steps=2, generator=seeded(), output_type="latent").videos
    tiny_pipeline.to(dtype)
    result = tiny_pipeline(**PROMPTS, num_inference_steps=2, generator=seeded(), output_type="latent").videos
    assert result.dtype == torch.float32
    assert float((result - expected).abs().mean()) < 0.1 * float(expected.std())


def test_output_types(tiny_pipeline: LayerFlowPipeline) -> None:
    kwargs = {**PROMPTS, "num_inference_steps": 1, "num_frames": 3, "height": 32, "width": 16}
    assert tiny_pipeline(**kwargs, output_type="latent").videos.shape == (1, 12, 3, 32, 16)
    clips = tiny_pipeline(**kwargs, output_type="pt").videos
    assert {n: c.shape for n, c in clips.items()} == dict.fromkeys(CLIPS, (1, 3, 3, 32, 16))
    video = tiny_pipeline(**kwargs, fps=12).video
    assert (video.frames, video.height, video.width, video.fps) == (3, 32, 16, 12)
    with pytest.raises(ValueError, match="requires output_type"):
        _ = tiny_pipeline(**kwargs, output_type="pt").video
    assert isinstance(tiny_pipeline(**kwargs, return_dict=False), tuple)


def test_invalid_arguments_are_errors(tiny_pipeline: LayerFlowPipeline) -> None:
    tiny_pipeline.transformer.register_forward_pre_hook(lambda *_: pytest.fail("worked before checking"))
    whole = random_video()
    for match, kwargs in {
        "prompt must be text": {"foreground": 3},
        "must be equal in number": {"foreground": ["a", "b"], "background": ["a", "b", "c"]},
        "nothing is left to generate": {"given": whole},
        "num_inference_steps must be at least 1": {"num_inference_steps": 0},
        "output_type must be": {"output_type": "pil"},
        "20x16 pixels do not fit this model": {"width": 20},
        "resize them first": {"given": LayeredVideo(blended=whole.blended), "height": 32},
        "must give the same frames of the same clips": {
            "given": [LayeredVideo(blended=whole.blended), LayeredVideo(background=whole.background)]
        },
    }.items():
        with pytest.raises(ValueError, match=match):
            tiny_pipeline(**{**PROMPTS, **kwargs})


def test_saved_pipeline_gives_the_same_video(tiny_pipeline: LayerFlowPipeline, tmp_path: Path) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "model")
    loaded = LayerFlowPipeline.from_pretrained(tmp_path / "model")
    for part in ("transformer", "text_encoder"):
        own, other = (getattr(pipeline, part).state_dict() for pipeline in (tiny_pipeline, loaded))
        assert all(torch.equal(own[name], other[name]) for name in own)
    again = LayerFlowPipeline.from_pretrained(tmp_path / "model")
    one, two, three = (
        p(**PROMPTS, num_inference_steps=2, generator=seeded()).video for p in (loaded, again, tiny_pipeline)
    )
    assert one == two
    for name, clip in one.clips().items():  # how weights lie in memory decides the last bits
        assert torch.allclose(clip, three.clips()[name], atol=2e-3), name
    assert not list((tmp_path / "model").rglob("*.bin"))


def test_unknown_model_names_are_errors(tmp_path: Path) -> None:
    assert (Path(find_model("mini")) / "model_index.json").is_file()
    assert find_model("owner/name") == "owner/name"
    with pytest.raises(UnknownModelError, match="neither bundled"):
        find_model("no-such-model")
    with pytest.raises(UnknownModelError, match=r"no model_index\.json"):
        find_model(tmp_path)


def test_blended_prompt_is_written_from_the_others() -> None:
    assert blended_prompt("a fox", "hills") == "a fox, in front of hills"
    assert blended_prompt("", "hills") == "hills"


def test_tasks_are_named_by_their_given_clips() -> None:
    for task, names in TASKS.items():
        assert task_of(names) == task
    assert task_of(["alpha"]) == "complete"


def test_composition_holds_in_model_space() -> None:
    whole = random_video()
    clips = to_model_space(whole.clips())
    over = clips["foreground"] + (0.5 - 0.5 * clips["alpha"]) * clips["background"]
    assert torch.allclose(clips["blended"], over, atol=1e-6)
    back = from_model_space(clips, fps=8)
    assert torch.allclose(back.compose().blended, whole.blended, atol=0.05)
    assert torch.allclose(back.background, whole.background, atol=1e-6)


def test_bundled_mini_is_small() -> None:
    folder = Path(find_model("mini"))
    if not (folder / "model_index.json").exists():
        pytest.skip("the mini is not trained yet")
    weights = list(folder.rglob("*.safetensors"))
    sizes = {weight.parent.name: weight.stat().st_size for weight in weights}
    assert sum(sizes.values()) < 60e6
    tensors = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    video = LayerFlowPipeline.from_pretrained("mini")(**PROMPTS, num_inference_steps=1, guidance_scale=1).video
    assert (video.frames, video.height, video.width) == (8, 64, 64)
