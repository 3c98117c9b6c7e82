"""The pipeline on the full-size families at tiny random configurations: the same promises as on the mini."""

import json
from pathlib import Path

import pytest
import torch
from full_size import FRAMES, build, plain_cogvideox, plain_wan, random_video
from peft import LoraConfig
from safetensors.torch import save_file

from layerflow import LayerFlowPipeline
from layerflow.cli import run
from layerflow.core.given import Given
from layerflow.core.layered_video import LayeredVideo
from layerflow.core.schema import CLIPS, TASKS
from layerflow.media import load_layers
from layerflow.models.adapters import AdapterError
from layerflow.models.cogvideox.conversion import save_adapter
from layerflow.models.cogvideox.official import CONFIGURATIONS, OfficialConfiguration
from layerflow.models.folders import UnknownModelError
from layerflow.models.registry import skeleton

PROMPTS = {"foreground": "a red fox", "background": "green hills", "num_inference_steps": 2}
families = pytest.mark.parametrize("family", FRAMES)
SUBSETS = [set(), *({name} for name in CLIPS), *TASKS.values(), set(CLIPS) - {"background"}]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def part_of(whole: LayeredVideo, names) -> LayeredVideo | None:
    return LayeredVideo(**{name: whole.clips()[name] for name in names}) if names else None


@pytest.fixture(scope="module")
def pipelines() -> dict[str, LayerFlowPipeline]:
    """Read only."""
    return {family: build(family) for family in FRAMES}


@families
@pytest.mark.parametrize("names", SUBSETS, ids=lambda names: "+".join(sorted(names)) or "none")
def test_any_given_clips_are_unchanged(pipelines: dict[str, LayerFlowPipeline], family: str, names: set[str]) -> None:
    pipeline = pipelines[family]
    whole = random_video(pipeline)
    video = pipeline(**PROMPTS, given=part_of(whole, names), generator=seeded()).video
    assert set(video.clips()) == set(CLIPS)
    assert video.frames == FRAMES[family]
    for name, clip in video.clips().items():
        assert clip.isfinite().all()
        assert torch.equal(clip, whole.clips()[name]) == (name in names), name


@families
def test_given_latents_stay_clean(pipelines: dict[str, LayerFlowPipeline], family: str) -> None:
    pipeline, seen = pipelines[family], []
    given = part_of(random_video(pipeline), {"background"})
    layout, *_ = pipeline.check_size([Given.of(given)], CLIPS, None, None, None)
    where = layout.clip_slice("background")

    def look(pipe, step, timestep, tensors):
        assert tensors["clean"].shape == tensors["latents"].shape
        seen.append(tensors["latents"])
        return {}

    pipeline(**PROMPTS, given=given, generator=seeded(), callback_on_step_end=look)
    assert torch.equal(seen[0][:, where], seen[1][:, where])
    assert seen[0][:, where].std() > 0
    assert not torch.equal(seen[0][:, : where.start], seen[1][:, : where.start])


@families
def test_seed_prompts_and_guidance_matter_and_batches_are_independent(
    pipelines: dict[str, LayerFlowPipeline], family: str
) -> None:
    pipeline = pipelines[family]

    def latents(generator, **kwargs):
        return pipeline(**{**PROMPTS, **kwargs}, generator=generator, output_type="latent").videos

    base = latents(seeded())
    assert torch.equal(base, latents(seeded()))
    assert not torch.equal(base, latents(seeded(1)))
    assert not torch.equal(base, latents(seeded(), foreground="a whale"))
    assert not torch.equal(base, latents(seeded(), guidance_scale=1.0))
    assert not torch.equal(base, latents(seeded(), negative_prompt="a ghost"))
    both = latents([seeded(), seeded(1)], foreground=["a red fox", "a whale"])
    assert torch.allclose(both[:1], base, atol=1e-3 * float(base.std()))


@families
def test_saved_pipeline_gives_the_same_video(
    pipelines: dict[str, LayerFlowPipeline], family: str, tmp_path: Path
) -> None:
    pipelines[family].save_pretrained(tmp_path / "model")
    loaded = LayerFlowPipeline.from_pretrained(tmp_path / "model")
    one, two = (pipe(**PROMPTS, generator=seeded()).video for pipe in (pipelines[family], loaded))
    assert one == two


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda one: one.name)
def test_official_models_do_only_their_task(configuration: OfficialConfiguration) -> None:
    pipeline = build("cogvideox", configuration)
    whole = random_video(pipeline)
    given = part_of(whole, TASKS[configuration.task])
    video = pipeline(**PROMPTS, given=given, generator=seeded()).video
    assert set(configuration.clips) <= set(video.clips())
    assert video.frames == FRAMES["cogvideox"]
    for name in TASKS[configuration.task]:
        assert torch.equal(video.clips()[name], whole.clips()[name])
    wrong = part_of(whole, {"blended"} if configuration.task != "decompose" else {"background"})
    with pytest.raises(ValueError, match=f"this model is for {configuration.task} only"):
        pipeline(**PROMPTS, given=wrong)


def test_lead_frame_is_not_returned() -> None:
    configuration = next(one for one in CONFIGURATIONS if one.name == "fg2bg_rgba")
    pipeline, seen = build("cogvideox", configuration), []
    whole = random_video(pipeline)
    real = pipeline.vae.encode
    pipeline.vae.encode = lambda video: seen.append(video) or real(video)
    pipeline(**PROMPTS, given=part_of(whole, {"foreground", "alpha"}), generator=seeded())
    (video,) = seen  # both clips in one
    assert video.shape[2] == 1 + 2 * FRAMES["cogvideox"]
    assert torch.equal(video[:, :, 0], video[:, :, 1])


@families
def test_sizes_are_checked(pipelines: dict[str, LayerFlowPipeline], family: str) -> None:
    pipeline = pipelines[family]
    cases = {
        "cogvideox": {
            r"64x32 pixels do not fit this model: its positions were learnt at 48x32": {"width": 64},
            r"12 frames do not fit this model, which takes 8n; the nearest: 16": {"num_frames": 12},
            r"24 frames do not fit this model: its positions were learnt for up to 16": {"num_frames": 24},
        },
        "wan": {
            r"50x32 pixels .* must divide by 16; the nearest is 48x32": {"width": 50},
            r"6 frames do not fit this model, which takes 4n \+ 1; the nearest: 5 or 9": {"num_frames": 6},
        },
    }[family.removesuffix("2.2")]
    hook = pipeline.text_encoder.register_forward_pre_hook(lambda *_: pytest.fail("worked before checking"))
    try:
        for match, kwargs in cases.items():
            with pytest.raises(ValueError, match=match):
                pipeline(**PROMPTS, **kwargs)
    finally:
        hook.remove()


@families
def test_plain_model_gets_layers(family: str, tmp_path: Path) -> None:
    plain = plain_wan(family) if family.startswith("wan") else plain_cogvideox()
    plain.save_pretrained(tmp_path)
    pipeline = LayerFlowPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.codec.trained_size[0] == (16 if family == "cogvideox" else 17)
    video = pipeline(**PROMPTS, num_frames=FRAMES[family], height=32, width=48).video
    assert set(video.clips()) == set(CLIPS)
    assert list(pipeline.transformers) == ["transformer", "transformer_2"][: 2 if family == "wan2.2" else 1]
    assert pipeline.config.boundary_ratio == plain.config.get("boundary_ratio")
    loaded = skeleton(tmp_path)
    for part, transformer in pipeline.transformers.items():
        before, after = getattr(plain, part).state_dict(), transformer.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items() if name in after)
        embeddings = [tensor for name, tensor in after.items() if name.startswith(("clip_embed", "layer_embed"))]
        assert not any(embedding.any() for embedding in embeddings)  # fresh
        assert getattr(loaded, part).config == transformer.config
    assert loaded.vae is not None


def test_unsupported_models_are_errors(tmp_path: Path) -> None:
    plain_wan().save_pretrained(tmp_path)
    file = tmp_path / "model_index.json"
    index = json.loads(file.read_text())
    for change, match in (
        ({"transformer_2": ["diffusers", "WanTransformer3DModel"]}, "boundary_ratio None and a transformer_2/, but"),
        ({"boundary_ratio": 0.9}, "boundary_ratio 0.9 and no transformer_2/, but a second transformer"),
        ({"_class_name": "FluxPipeline"}, "is a FluxPipeline; layers go on text-to-video models"),
        ({"text_encoder": [None, None]}, "has no text_encoder/; convert it with a `base`"),
    ):
        file.write_text(json.dumps(index | change))
        with pytest.raises(UnknownModelError, match=match):
            LayerFlowPipeline.from_pretrained(tmp_path)
    file.write_text("{")
    with pytest.raises(UnknownModelError, match="is damaged"):
        LayerFlowPipeline.from_pretrained(tmp_path)


def test_content_adapter_is_fused_without_the_motion_adapter(tmp_path: Path) -> None:
    pipeline = build("cogvideox")
    pipeline.save_pretrained(tmp_path)
    target = "transformer_blocks.0.attn1"
    for name, scale in (("content", 0.5), ("motion", 100.0)):
        weights = {
            f"{target}.{part}.lora_{side}.weight": torch.full((2, 32) if side == "A" else (32, 2), scale)
            for part in ("to_q", "to_k", "to_v", "to_out.0")
            for side in "AB"
        }
        save_adapter(tmp_path / "adapters" / name, weights)
    loaded = LayerFlowPipeline.from_pretrained(tmp_path)
    before, after = (pipe.transformer.get_submodule(target).to_q.weight for pipe in (pipeline, loaded))
    change = after - before
    assert torch.allclose(change, torch.full_like(change, 0.5 * 0.5), atol=1e-6)  # B A / r
    assert not hasattr(loaded.transformer, "peft_config")


def test_adapter_of_another_width_is_an_error(tmp_path: Path) -> None:
    build("cogvideox").save_pretrained(tmp_path)
    weights = {
        f"transformer_blocks.{block}.attn1.to_q.lora_{side}.weight": torch.zeros((2, 48) if side == "A" else (48, 2))
        for block in range(2)
        for side in "AB"
    }
    save_adapter(tmp_path / "adapters" / "content", weights)
    with pytest.raises(UnknownModelError, match=r"content is no adapter .* has 48 channels in, the transformer 32"):
        LayerFlowPipeline.from_pretrained(tmp_path)


def lora_of_width(family: str, width: int) -> dict[str, torch.Tensor]:
    """A LoRA for the first block of a model of that width."""
    block = "blocks.0" if family.startswith("wan") else "transformer_blocks.0"
    return {
        f"transformer.{block}.attn1.to_q.lora_{side}.weight": torch.ones((2, width) if side == "A" else (width, 2))
        for side in "AB"
    }


@families
def test_lora_is_loaded_and_checked(family: str, tmp_path: Path) -> None:
    pipeline = build(family)

    def latents():
        return pipeline(**PROMPTS, generator=seeded(), output_type="latent").videos

    plain = latents()
    for width, message in ((48, "it has 48 channels in, the transformer 32"), (16, "it has 16 channels in")):
        with pytest.raises(AdapterError, match=f"another width: at .*attn1.to_q {message}"):
            pipeline.load_lora_weights(lora_of_width(family, width))
    other = lora_of_width("wan" if family == "cogvideox" else "cogvideox", 32)
    with pytest.raises(AdapterError, match="has no weights for this transformer"):
        pipeline.load_lora_weights(other)
    assert not hasattr(pipeline.transformer, "peft_config")
    assert torch.equal(latents(), plain)

    save_file(lora_of_width(family, 32), tmp_path / "pytorch_lora_weights.safetensors")
    pipeline.load_lora_weights(tmp_path, adapter_name="ones")
    loaded = latents()
    assert not torch.equal(loaded, plain)
    pipeline.set_adapters(["ones"], [0.0])
    assert torch.allclose(latents(), plain, atol=1e-5)
    pipeline.set_adapters(["ones"])
    pipeline.fuse_lora(components=["transformer"])
    assert torch.allclose(latents(), loaded, atol=1e-3)
    pipeline.unfuse_lora(components=["transformer"])
    pipeline.unload_lora_weights()
    assert torch.allclose(latents(), plain, atol=1e-4)
    pipeline.load_lora_weights({name.removeprefix("transformer."): x for name, x in lora_of_width(family, 32).items()})
    assert torch.allclose(latents(), loaded, atol=1e-3)


def test_wan_loras_of_other_programs_are_read(tmp_path: Path) -> None:
    pipeline = build("wan")
    weights = {
        f"diffusion_model.blocks.{block}.self_attn.q.lora_{side}.weight": tensor
        for block in range(2)
        for side, tensor in (("A", torch.ones(2, 48)), ("B", torch.ones(48, 2)))
    }
    with pytest.raises(AdapterError, match=r"at blocks\.0\.attn1\.to_q it has 48 channels in, the transformer 32"):
        pipeline.load_lora_weights(weights)


def test_pickled_adapter_is_refused(tmp_path: Path) -> None:
    torch.save(lora_of_width("wan", 32), tmp_path / "pytorch_lora_weights.bin")
    with pytest.raises(OSError, match="pytorch_lora_weights"):
        build("wan").load_lora_weights(tmp_path)


@families
def test_lora_methods_of_diffusers(family: str, tmp_path: Path) -> None:
    pipeline = build(family)
    transformer = pipeline.transformer

    def latents():
        return pipeline(**PROMPTS, generator=seeded(), output_type="latent").videos

    plain = latents()
    for index, name in enumerate(("one", "two")):
        torch.manual_seed(index)
        config = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
        transformer.add_adapter(config, adapter_name=name)
        transformer.save_lora_adapter(tmp_path / name, adapter_name=name)
    transformer.unload_lora()
    assert torch.equal(latents(), plain)
    for name in ("one", "two"):
        transformer.load_lora_adapter(tmp_path / name, adapter_name=name, prefix=None, use_safetensors=True)
    transformer.set_adapters(["one"])
    first = latents()
    transformer.set_adapters(["one", "two"], [1.0, 0.5])
    stacked = latents()
    assert not torch.equal(first, plain)
    assert not torch.equal(first, stacked)
    transformer.fuse_lora(adapter_names=["one", "two"])
    transformer.unload_lora()
    assert torch.allclose(latents(), stacked, atol=1e-3)


@families
def test_command_line(family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(family).save_pretrained(tmp_path / "model")
    command = ["generate", "--foreground", "a fox", "--background", "hills", "--model", str(tmp_path / "model")]
    assert run([*command, "--steps", "2", "-o", str(tmp_path / "out")]) == 0
    video = load_layers(tmp_path / "out")
    assert (video.frames, video.height, video.width) == (FRAMES[family], 32, 48)
    assert run([*command, "--frames", "7", "-o", str(tmp_path / "no")]) == 2
    assert "7 frames do not fit this model" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
