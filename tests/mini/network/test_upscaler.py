"""Joint upscaling of layers: alone, in the pipeline and on the command line."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from layerflow.cli import run
from layerflow.core.layered_video import LayeredVideo
from layerflow.core.schema import CLIPS
from layerflow.media import load_layers, write_video
from layerflow.mini.network.upscaler import LayeredUpscaler, composite, patches
from layerflow.pipeline import LayerFlowPipeline

PROMPTS = {"foreground": "a red ball", "background": "green hills"}


def build(fresh: bool = False) -> LayeredUpscaler:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        upscaler = LayeredUpscaler(factor=4, width=8, num_blocks=3)
        if not fresh:
            for parameter in upscaler.parameters():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.05)
    return upscaler.eval()


def clips(height: int = 8, width: int = 6, frames: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """Return clips (1, F, C, H, W) in model space, with an exact composite."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(1, frames, 1, height, width, generator=generator)
    foreground = (2 * torch.rand(1, frames, 3, height, width, generator=generator) - 1) * share
    background = 2 * torch.rand(1, 1, 3, height, width, generator=generator).expand_as(foreground) - 1
    layers = {"foreground": foreground, "alpha": 2 * share - 1, "background": background}
    return layers | {"blended": composite(layers)}


@pytest.fixture
def upscaling_pipeline(tiny_pipeline: LayerFlowPipeline) -> LayerFlowPipeline:
    tiny_pipeline.register_modules(upscaler=build())
    return tiny_pipeline


@torch.no_grad()
def test_untrained_network_is_bicubic() -> None:
    small = clips()
    large = build(fresh=True)(small)
    for name in ("foreground", "alpha", "background"):
        expected = F.interpolate(small[name][0], scale_factor=4, mode="bicubic")
        torch.testing.assert_close(large[name][0], expected)
    torch.testing.assert_close(large["blended"], composite(large), atol=1e-5, rtol=0)


@torch.no_grad()
def test_residual_of_the_blended_clip_is_kept() -> None:
    small = clips()
    small["blended"] = small["blended"] + 0.25
    large = build()(small)
    torch.testing.assert_close(large["blended"], composite(large) + 0.25, atol=1e-5, rtol=0)


@settings(max_examples=20, deadline=None)
@given(factor=st.sampled_from([1, 2, 4]), names=st.sets(st.sampled_from(CLIPS)), seed=st.integers(0, 99))
def test_given_clips_are_kept(factor: int, names: set[str], seed: int) -> None:
    small, there = clips(seed=seed), clips(8 * factor, 6 * factor, seed=seed)
    large = build().upscale(small, factor, {name: there[name] for name in names})
    for name, clip in large.items():
        assert clip.shape == there[name].shape
        assert clip.abs().max() <= 1
        if name in names:
            assert torch.equal(clip, there[name])
    if factor > 1 and "foreground" not in names and "blended" in names:
        assert (large["foreground"].abs() <= (1 + large["alpha"]) / 2 + 1e-6).all()
    if factor > 1 and "blended" not in names:
        torch.testing.assert_close(large["blended"], composite(large).clamp(-1, 1), atol=1e-5, rtol=0)


def test_background_is_copied_from_a_given_video() -> None:
    generator = torch.Generator().manual_seed(0)
    behind = (2 * torch.rand(1, 1, 3, 64, 64, generator=generator) - 1).expand(1, 3, -1, -1, -1)
    alpha = -torch.ones(1, 3, 1, 64, 64)
    for frame in range(3):  # every part of the background is visible in some frame
        alpha[:, frame, :, 24:40, 4 + 20 * frame : 16 + 20 * frame] = 1
    seen = torch.where(alpha > 0, 0.5, behind)
    small = {name: F.avg_pool3d(clip, (1, 4, 4)) for name, clip in {"alpha": alpha, "blended": seen}.items()}
    small |= {"background": torch.zeros(1, 3, 3, 16, 16), "foreground": torch.zeros(1, 3, 3, 16, 16)}
    large = build(fresh=True).upscale(small, 4, {"blended": seen})
    assert float((large["background"] - behind).abs().mean()) < 0.02
    inside = (large["alpha"] > 0.99).expand_as(seen)
    assert inside.any()
    torch.testing.assert_close(large["foreground"][inside], seen[inside], atol=0.01, rtol=0)


@torch.no_grad()
def test_temporal_receptive_field() -> None:
    upscaler, small = build(), clips(frames=7)
    other = {name: clip.clone() for name, clip in small.items()}
    other["alpha"][:, 6] += 0.5
    changed = (upscaler(small)["background"] != upscaler(other)["background"]).flatten(2).any(2)[0]
    # The stem and one block of three see neighbouring frames: two frames away.
    assert changed.tolist() == [False] * 4 + [True] * 3


@settings(max_examples=30, deadline=None)
@given(dark=st.tuples(*[st.floats(-1, 1)] * 3), light=st.tuples(*[st.floats(-1, 1)] * 3), seed=st.integers(0, 99))
def test_patches_of_colours_equal_those_of_a_matte(dark: tuple[float], light: tuple[float], seed: int) -> None:
    low, high = (torch.tensor(colour)[None, :, None, None] for colour in (dark, light))
    reach = float((high - low).norm())
    assume(reach > 0.3 and abs(float((high - low).sum())) > 0.05)  # else neither is the lighter
    share = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(seed))
    share = share if float((high - low).sum()) > 0 else 1 - share
    first, last = (low, high) if float((high - low).sum()) > 0 else (high, low)
    actual, expected = patches(first + share * (last - first), 5), patches(share, 5, faint=0.02 / reach)
    torch.testing.assert_close(actual[:, :-1], expected[:, :-1], atol=2e-2, rtol=0)
    torch.testing.assert_close(actual[:, -1], expected[:, -1] + math.log(reach) / 2, atol=2e-2, rtol=0)
    assert actual[:, :-1].abs().max() <= 1 + 1e-4
    assert (patches(low.expand(1, 3, 9, 9), 5)[:, :-1] == -1).all()


@torch.no_grad()
def test_flat_colours_are_kept() -> None:
    upscaler = build()
    torch.nn.init.zeros_(upscaler.head.weight)
    torch.nn.init.zeros_(upscaler.head.bias)
    small = {name: clip[..., :1, :1].expand_as(clip).clone() for name, clip in clips().items()}
    large = upscaler(small)
    for name, clip in small.items():
        torch.testing.assert_close(large[name], clip[..., :1, :1].expand_as(large[name]), atol=1e-4, rtol=0)


def test_invalid_factors() -> None:
    with pytest.raises(ValueError, match="factor 3 is not a power of two"):
        LayeredUpscaler(factor=3)
    with pytest.raises(ValueError, match="1, 2, 4 times as large, not 8"):
        build().upscale(clips(), 8)


@pytest.mark.parametrize("name", ["blended", "background", "foreground"])
def test_pipeline_with_large_given_clips(upscaling_pipeline: LayerFlowPipeline, name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(2, 3, 32, 32, generator=generator)
    video = upscaling_pipeline(
        **PROMPTS, given=LayeredVideo(**{name: kept}), upscale=2, num_inference_steps=2, generator=generator
    ).video
    assert (video.frames, video.height, video.width) == (2, 32, 32)
    assert torch.equal(video.clips()[name], kept)
    assert set(video.clips()) == set(CLIPS)


def test_upscaling_leaves_denoising_unchanged(upscaling_pipeline: LayerFlowPipeline) -> None:
    def generate(upscale: int, output_type: str):  # type: ignore[no-untyped-def]
        return upscaling_pipeline(
            **PROMPTS,
            upscale=upscale,
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(1),
            output_type=output_type,
        ).videos

    assert torch.equal(generate(1, "latent"), generate(4, "latent"))
    large = upscaling_pipeline.upscaler.upscale(generate(1, "pt"), 4)
    for name, clip in generate(4, "pt").items():
        assert clip.shape == (1, 2, 3, 64, 64)
        assert torch.equal(clip, large[name].expand_as(clip))


def test_invalid_sizes_and_factors(upscaling_pipeline: LayerFlowPipeline, tiny_pipeline: LayerFlowPipeline) -> None:
    for arguments, message in (
        ({"upscale": 8}, "upscale is 8, but this model can do 1, 2, 4"),
        ({"upscale": 4, "height": 66}, "64x66 pixels cannot be made by upscaling 4 times"),
        ({"upscale": 2, "height": 40, "width": 40}, "20x20 pixels do not fit.*before upscaling 2 times"),
    ):
        with pytest.raises(ValueError, match=message):
            upscaling_pipeline(**PROMPTS, **arguments)
    tiny_pipeline.register_modules(upscaler=None)
    with pytest.raises(ValueError, match="upscale is 2, but this model can do 1"):
        tiny_pipeline(**PROMPTS, upscale=2)


@pytest.fixture
def upscaling_model(upscaling_pipeline: LayerFlowPipeline, tmp_path: Path) -> Path:
    upscaling_pipeline.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def generate(model: Path, output: Path, *words: str) -> dict:
    code = run(
        [
            "complete" if "--given" in words else "generate",
            "--foreground",
            "a ball",
            "--background",
            "hills",
            "--model",
            str(model),
            "--steps",
            "1",
            "--format",
            "png",
            "-o",
            str(output),
            *words,
        ]
    )
    assert code == 0
    return json.loads((output / "layers.json").read_text())["metadata"]


def test_saved_upscaler_is_used_by_default(upscaling_model: Path, tmp_path: Path) -> None:
    metadata = generate(upscaling_model, tmp_path / "default")
    assert metadata["upscale"] == 4
    video = load_layers(tmp_path / "default")
    assert (video.height, video.width) == (64, 64)
    assert "--size 64x64 --upscale 4" in metadata["command"]
    for words, size, upscale in (
        (("--upscale", "1"), 16, 1),
        (("--upscale", "2"), 32, 2),
        (("--size", "16"), 16, 1),  # drawn no smaller than the model was trained at
        (("--size", "32"), 32, 2),
        (("--size", "48"), 48, 1),  # 24 is no size that the network draws
        (("--size", "48", "--upscale", "1"), 48, 1),
        (("--size", "128"), 128, 4),
    ):
        output = tmp_path / "-".join(words)
        assert generate(upscaling_model, output, *words)["upscale"] == upscale, words
        assert load_layers(output).height == size, words


def test_upscale_factor_fits_given_clips(upscaling_model: Path, tmp_path: Path) -> None:
    for side, upscale in ((16, 1), (40, 2), (80, 4)):
        colour = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(side))
        write_video(tmp_path / f"clip{side}", colour, format="png")
        metadata = generate(upscaling_model, tmp_path / f"out{side}", "--given", f"blended={tmp_path / f'clip{side}'}")
        assert metadata["upscale"] == upscale
        assert load_layers(tmp_path / f"out{side}").height == 16 * upscale


def test_unsupported_factor(
    upscaling_model: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model, factor, can in ((upscaling_model, "3", "choose 1 or 2 or 4"), (tiny_model, "2", "choose 1")):
        words = ["generate", "--foreground", "a", "--background", "b", "--model", str(model), "--upscale", factor]
        assert run([*words, "-o", str(tmp_path / "none")]) == 2
        assert can in capsys.readouterr().err
    (upscaling_model / "upscaler" / "config.json").write_text('{"factor": 5}')
    assert run(["generate", "--foreground", "a", "--background", "b", "--model", str(upscaling_model), "-o", "x"]) == 2
    assert "is no upscaler: factor 5" in capsys.readouterr().err
