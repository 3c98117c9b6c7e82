"""Opacity of a foreground from the background that shines through."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from layerflow.core.compositing import blend
from layerflow.mini.network.composition import settle_opacity
from layerflow.mini.network.opacity import opacity_factor, tracking_grid

FRAMES, SIZE = 4, 64


def texture(seed: int) -> Tensor:
    """Return a texture (1, F, 3, H, W) in [0, 1], the same in all frames."""
    small = torch.rand(1, 3, SIZE // 4, SIZE // 4, generator=torch.Generator().manual_seed(seed))
    large = torch.nn.functional.interpolate(small, size=(SIZE, SIZE), mode="bicubic").clamp(0, 1)
    return large[:, None].expand(-1, FRAMES, -1, -1, -1)


def square(alpha: float) -> Tensor:
    """Return the matte (1, F, 1, H, W) of a square that moves over the whole frame."""
    matte = torch.zeros(1, FRAMES, 1, SIZE, SIZE)
    for frame in range(FRAMES):
        matte[:, frame, :, 8 * frame : 8 * frame + 40, 8 * frame : 8 * frame + 40] = alpha
    return matte


def layers(alpha: float, foreground: Tensor, background: Tensor) -> dict[str, Tensor]:
    """Return clips in model space."""
    matte = square(alpha)
    return {
        "foreground": matte * (2 * foreground - 1),
        "alpha": 2 * matte - 1,
        "background": 2 * background - 1,
        "blended": 2 * blend(foreground, matte, background) - 1,
    }


@settings(max_examples=20)
@given(true=st.floats(0.3, 0.85), drawn=st.floats(0.3, 0.85), seed=st.integers(0, 1000))
def test_factor_of_a_plain_foreground(true: float, drawn: float, seed: int) -> None:
    plain = torch.full((1, FRAMES, 3, SIZE, SIZE), 0.3)
    seen = blend(plain, square(true), texture(seed))
    factor = opacity_factor(seen, texture(seed), square(drawn), torch.ones(1, FRAMES, 1, SIZE, SIZE))
    assert drawn * factor.item() == pytest.approx(true, abs=0.02)


@pytest.mark.parametrize("drawn", [0.4, 0.7])
def test_factor_of_a_textured_foreground(drawn: float) -> None:
    seen = blend(texture(1), square(0.55), texture(2))
    factor = opacity_factor(seen, texture(2), square(drawn), torch.ones(1, FRAMES, 1, SIZE, SIZE)).item()
    assert abs(drawn * factor - 0.55) < 0.8 * abs(drawn - 0.55)


@pytest.mark.parametrize(
    ("background", "alpha"),
    [
        pytest.param(torch.full((1, FRAMES, 3, SIZE, SIZE), 0.6), 0.5, id="plain background"),
        pytest.param(texture(3), 0.0, id="no foreground"),
    ],
)
def test_factor_without_evidence(background: Tensor, alpha: float) -> None:
    seen = blend(texture(4), square(0.5), background)
    factor = opacity_factor(seen, background, square(alpha), torch.ones(1, FRAMES, 1, SIZE, SIZE))
    assert factor.item() == pytest.approx(1, abs=1e-4)


def test_opaque_foreground() -> None:
    # With textures in both layers and a wrong, uncertain background.
    seen = blend(texture(1), square(1.0), texture(2))
    factor = opacity_factor(seen, texture(3), square(1.0), torch.zeros(1, FRAMES, 1, SIZE, SIZE))
    assert factor.item() == pytest.approx(1, abs=0.02)


def moved(content: Tensor) -> Tensor:
    """Move a still like `square`: (1, F, 3, H, W)."""
    return torch.stack([content[:, 0].roll((8 * n, 8 * n), (-2, -1)) for n in range(FRAMES)], dim=1)


@pytest.mark.parametrize("drawn", [0.35, 0.7])
def test_factor_of_a_moving_textured_foreground(drawn: float) -> None:
    # Both layers are shaded alike and the foreground's texture is stronger, so only motion tells them apart.
    slope = torch.linspace(0, 1, SIZE)[:, None].expand(1, FRAMES, 3, SIZE, SIZE)
    background, own = 0.3 + 0.4 * slope, moved(0.7 * texture(1) + 0.3 * slope)
    seen = blend(own, square(0.55), background)
    factor = opacity_factor(seen, background, square(drawn), torch.ones(1, FRAMES, 1, SIZE, SIZE)).item()
    assert drawn * factor == pytest.approx(0.55, abs=0.03)


def test_tracking_grid_stabilises_the_foreground() -> None:
    layer = moved(torch.zeros(1, FRAMES, 3, SIZE, SIZE).index_fill(-1, torch.arange(10, 30), 1.0))
    matte = square(0.5)
    tracked = torch.nn.functional.grid_sample((layer * matte).flatten(0, 1), tracking_grid(matte), align_corners=False)
    middle = tracked[..., 14:50, 14:50]
    assert (middle - middle[:1]).abs().max() < 1e-3 < middle.abs().max()


def test_factor_per_sample() -> None:
    seen = torch.cat([blend(torch.zeros(1), square(alpha), texture(5)) for alpha in (0.4, 0.7)])
    known = torch.ones(2, FRAMES, 1, SIZE, SIZE)
    factors = opacity_factor(seen, torch.cat([texture(5)] * 2), torch.cat([square(0.55)] * 2), known)
    assert 0.55 * factors.flatten() == pytest.approx(torch.tensor([0.4, 0.7]), abs=0.02)


def test_settled_foreground_has_its_true_colour() -> None:
    colour = torch.tensor([0.9, 0.2, 0.4])[:, None, None].expand(1, FRAMES, 3, SIZE, SIZE)
    true = layers(0.5, colour, texture(6))
    drawn = layers(0.8, colour, texture(6)) | {"blended": true["blended"]}
    settled = settle_opacity(drawn, ["blended"])
    for name in ("foreground", "alpha"):
        assert (settled[name] - true[name]).abs().max() < 0.05 < (drawn[name] - true[name]).abs().max()
    assert torch.equal(settled["blended"], drawn["blended"])
    assert torch.equal(settled["background"], drawn["background"])


@pytest.mark.parametrize("names", [[], ["background"], ["blended", "alpha"], ["blended", "foreground"]])
def test_given_foreground_is_not_settled(names: list[str]) -> None:
    drawn = layers(0.8, texture(7), texture(8)) | {"blended": 2 * texture(9) - 1}
    settled = settle_opacity(drawn, names)
    assert all(torch.equal(settled[name], clip) for name, clip in drawn.items())
