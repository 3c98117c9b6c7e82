"""Models with one transformer for high and one for low noise, as Wan 2.2 A14B; what all families have in common is
tested in test_full_size.py, test_fit.py, test_plan.py and test_processes.py."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline
from full_size import LATENT_SIZE, WORDS, build, plain_wan
from torch import nn

from layerflow import LayerFlowPipeline
from layerflow.cli import run
from layerflow.models.adapters import AdapterError
from layerflow.models.cogvideox.conversion import save_adapter
from layerflow.models.wan import WanLayerTransformer3DModel
from layerflow.runtime.placement import place

PROMPTS = {"foreground": "a red fox", "background": "green hills", "num_inference_steps": 2}
SIZE = {"num_frames": 5, "height": 32, "width": 48}
BOUNDARY = 875
WIDTH = 32


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def without_layers(plain: WanPipeline) -> LayerFlowPipeline:
    """The same parts, with one clip and embeddings that say nothing."""
    first, second = (
        one
        and WanLayerTransformer3DModel.from_plain(
            one, clips=("background",), text_length=WORDS, sample_size=LATENT_SIZE, sample_frames=2
        )
        for one in (plain.transformer, plain.transformer_2)
    )
    return LayerFlowPipeline(
        plain.tokenizer,
        plain.text_encoder,
        first,
        deepcopy(plain.scheduler),
        plain.vae,
        transformer_2=second,
        boundary_ratio=plain.config.boundary_ratio,
    )


def calls_of(pipeline: WanPipeline | LayerFlowPipeline) -> list[str]:
    """Return a list that collects the names of transformers as they are called."""
    calls: list[str] = []
    for name in ("transformer", "transformer_2"):
        part: nn.Module | None = getattr(pipeline, name)
        if part is not None:
            part.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    return calls


@pytest.mark.parametrize("style", ["a14b", "a14b, one guidance", "ti2v-5b"])
def test_without_layers_each_step_is_that_of_the_plain_pipeline(style: str) -> None:
    plain = plain_wan("wan" if style == "ti2v-5b" else "wan2.2")
    if style == "ti2v-5b":
        plain.register_to_config(expand_timesteps=True)  # a timestep per token, as its index has it
    ours = without_layers(plain)
    expected: list[torch.Tensor] = []
    traced: list[torch.Tensor] = []
    times: list[float] = []
    plain_calls, calls = calls_of(plain), calls_of(ours)
    guidance = {"guidance_scale": 4.0} | ({"guidance_scale_2": 2.5} if style == "a14b" else {})
    shared = {"negative_prompt": "a ghost", "num_inference_steps": 8, "output_type": "latent", **guidance, **SIZE}

    def keep(_: object, __: int, timestep: torch.Tensor, tensors: dict) -> dict:
        expected.append(tensors["latents"].transpose(1, 2))
        times.append(float(timestep))
        return tensors

    layout, *_ = ours.check_size([], ours.transformer.config.clips, *SIZE.values())
    noise = layout.noise(torch.zeros(1, layout.length, 4, *LATENT_SIZE), seeded())
    plain("green hills", latents=noise.transpose(1, 2), max_sequence_length=WORDS, callback_on_step_end=keep, **shared)
    ours(
        background="green hills",
        generator=seeded(),
        callback_on_step_end=lambda *args: traced.append(args[-1]["latents"]) or {},
        **shared,
    )
    assert len(traced) == len(expected) == 8
    for mine, theirs in zip(traced, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    assert calls == plain_calls
    if style != "ti2v-5b":
        sides = ["transformer" if time >= BOUNDARY else "transformer_2" for time in times]
        assert calls == [name for name in sides for _ in range(2)]  # with the prompt and without
        assert 0 < sides.count("transformer_2") < len(sides)


def test_guidance_scale_2_acts_on_the_second_transformer_only() -> None:
    pipeline = build("wan2.2")

    def trace(**kwargs: float) -> list[torch.Tensor]:
        kept: list[torch.Tensor] = []
        pipeline(
            **PROMPTS,
            **kwargs,
            generator=seeded(),
            output_type="latent",
            callback_on_step_end=lambda *args: kept.append(args[-1]["latents"]) or {},
        )
        return kept

    (high, low), (high_2, low_2) = trace(guidance_scale=4.0), trace(guidance_scale=4.0, guidance_scale_2=1.0)
    assert torch.equal(high, high_2)
    assert not torch.equal(low, low_2)
    assert torch.equal(trace(guidance_scale=4.0, guidance_scale_2=4.0)[1], low)


def test_missing_second_transformer_is_an_error() -> None:
    pipeline = build("wan")
    with pytest.raises(ValueError, match=r"guidance_scale_2 is 3\.0, but there is no transformer_2; leave it out"):
        pipeline(**PROMPTS, guidance_scale_2=3.0)
    with pytest.raises(AdapterError, match="no transformer_2; leave load_into_transformer_2 out"):
        pipeline.load_lora_weights(lora(), load_into_transformer_2=True)
    with pytest.raises(ValueError, match=r"boundary_ratio is 0\.9 without a transformer_2; give both, or neither"):
        LayerFlowPipeline(**pipeline.components, boundary_ratio=0.9)


def lora(prefix: str = "transformer.", scale: float = 1.0) -> dict[str, torch.Tensor]:
    return {
        f"{prefix}blocks.0.attn1.to_q.lora_{side}.weight": torch.full((2, WIDTH) if side == "A" else (WIDTH, 2), scale)
        for side in "AB"
    }


def test_lora_is_loaded_into_its_transformer() -> None:
    pipeline = build("wan2.2")
    weights = {name: part.blocks[0].attn1.to_q for name, part in pipeline.transformers.items()}
    before = {name: layer.weight.detach().clone() for name, layer in weights.items()}
    pipeline.load_lora_weights(lora(), adapter_name="high")
    pipeline.load_lora_weights(lora(), adapter_name="low", load_into_transformer_2=True)
    assert pipeline.get_list_adapters() == {"transformer": ["high"], "transformer_2": ["low"]}
    pipeline.set_adapters(["high", "low"], [0.0, 0.5])
    pipeline.fuse_lora(components=["transformer", "transformer_2"])
    pipeline.unload_lora_weights()
    after = {name: part.blocks[0].attn1.to_q.weight for name, part in pipeline.transformers.items()}
    assert torch.allclose(after["transformer"], before["transformer"])
    assert torch.allclose(after["transformer_2"] - before["transformer_2"], torch.ones(WIDTH, WIDTH), atol=1e-6)


def test_content_adapters_are_fused_into_their_transformers(tmp_path: Path) -> None:
    pipeline = build("wan2.2")
    pipeline.save_pretrained(tmp_path)
    for folder, scale in (("adapters", 0.5), ("adapters_2", 0.25)):
        save_adapter(tmp_path / folder / "content", lora("", scale))
    loaded = LayerFlowPipeline.from_pretrained(tmp_path)
    assert loaded.config.boundary_ratio == pipeline.config.boundary_ratio
    for name, scale in (("transformer", 0.5), ("transformer_2", 0.25)):
        before, after = (pipe.transformers[name].blocks[0].attn1.to_q.weight for pipe in (pipeline, loaded))
        assert torch.allclose(after - before, torch.full_like(before, scale**2), atol=1e-6)  # B A / r


def test_info_lists_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build("wan2.2").save_pretrained(tmp_path)
    assert run(["info", str(tmp_path)]) == run(["info", str(tmp_path), "--plan", "--size", "48x32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "boundary        transformer_2 takes over under noise level 0.875" in lines
    one, two = ([line[16:] for line in lines if line.split()[0] == f"transformer{end}"] for end in ("", "_2"))
    assert len(one) == 2  # of the model, and of the plan
    assert one == two


def test_model_offload_decodes_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline, order = build("wan2.2"), []
    called = calls_of(pipeline)
    place(pipeline, "cpu", "low")
    pipeline.vae.disable_tiling()  # the last tile of so small a video is smaller than a kernel
    for hook in pipeline._all_hooks:
        name = next(name for name, part in pipeline.components.items() if part is hook.model)
        monkeypatch.setattr(hook, "offload", lambda name=name: order.append(f"{name} leaves"))
    pipeline.transformer.register_forward_pre_hook(lambda *_: order.append("transformer"))
    decode = pipeline.vae.decode
    monkeypatch.setattr(pipeline.vae, "decode", lambda *args: order.append("decode") or decode(*args))

    def stop(pipe: LayerFlowPipeline, *_: object) -> dict:
        pipe.interrupt = True
        return {}

    pipeline(**PROMPTS, callback_on_step_end=stop)
    assert set(called) == {"transformer"}
    last = len(order) - 1 - order[::-1].index("transformer")
    assert "transformer leaves" in order[last : order.index("decode")]
