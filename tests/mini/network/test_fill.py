"""Inpainted backgrounds: continued from their surroundings, never from the foreground."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerflow.core.schema import CLIPS
from layerflow.mini.network.composition import solve_composition
from layerflow.mini.network.fill import BackgroundFill
from layerflow.models.layout import Layout


def drawing_fill(seed: int = 0) -> BackgroundFill:
    """Return a network with random weights in the last layer, which is zero by default."""
    torch.manual_seed(seed)
    fill = BackgroundFill(width=8, levels=3)
    torch.nn.init.normal_(fill.head.weight)
    return fill.eval()


@settings(max_examples=20, deadline=None)
@given(height=st.integers(4, 21).map(lambda n: 2 * n), width=st.integers(4, 21).map(lambda n: 2 * n))
@torch.no_grad()
def test_hole_contents_are_ignored(height: int, width: int) -> None:
    fill = drawing_fill()
    known, certainty = torch.rand(2, 3, height, width), torch.ones(2, 1, height, width)
    certainty[:, :, 2:5, 3:6] = 0
    filled = fill(known, certainty)
    assert filled.shape == known.shape
    other = torch.where(certainty > 0, known, 5.0)
    assert torch.equal(fill(other, certainty), filled)
    assert not torch.equal(fill(known + 0.1, certainty), filled)


@torch.no_grad()
def test_padding_is_a_hole() -> None:
    fill, shown = drawing_fill(), []
    fill.stem.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    fill(torch.rand(1, 3, 12, 12), torch.ones(1, 1, 12, 12))
    certainty = torch.nn.functional.pixel_shuffle(shown[0], fill.patch_size)[0, 3]
    assert certainty.shape == (16, 16)
    assert (certainty[:12, :12] == 1).all()
    assert (certainty[12:] == -1).all()
    assert (certainty[:, 12:] == -1).all()


@torch.no_grad()
@pytest.mark.parametrize("still", [True, False])
def test_no_leak_behind_the_matte(still: bool) -> None:
    layout, fill = Layout(2), drawing_fill()
    alpha = -torch.ones(1, 2, 3, 16, 16)
    alpha[..., 5:11, 5:11] = 1
    generator = torch.Generator().manual_seed(1)
    behind = torch.rand(1, 1 if still else 2, 3, 16, 16, generator=generator).expand(1, 2, 3, 16, 16)
    timestep = layout.timesteps(torch.ones(1), layout.given_mask({"blended", "alpha"}))
    solved = []
    for colour in (-1.0, 1.0):
        clips = {name: behind for name in CLIPS} | {"alpha": alpha}
        clips["blended"] = torch.where(alpha > 0, colour, behind)
        # The drawn background holds the whole foreground, the worst possible leak.
        drawn = {"foreground": torch.zeros_like(behind), "alpha": alpha[:, :, :1], "background": clips["blended"]}
        drawn["blended"] = torch.zeros_like(behind)
        copy = torch.zeros(1, 2, 4, 16, 16)
        solved.append(solve_composition(drawn, copy, layout.pack(clips), timestep, layout, fill)["background"])
    assert torch.allclose(solved[0], solved[1], atol=1e-5)
    assert torch.allclose(solved[0][..., :4, :], behind[..., :4, :], atol=1e-3)


def test_given_background_is_not_filled() -> None:
    layout = Layout(1)
    clips = {name: torch.zeros(1, 1, 3, 16, 16) for name in CLIPS}
    drawn = clips | {"alpha": torch.zeros(1, 1, 1, 16, 16)}
    for names in ({"blended", "background"}, {"background"}, {"background", "alpha"}):
        timestep = layout.timesteps(torch.ones(1), layout.given_mask(names))
        solve_composition(
            drawn, torch.zeros(1, 1, 4, 16, 16), layout.pack(clips), timestep, layout, lambda *_: pytest.fail("filled")
        )


@torch.no_grad()
def test_drawn_background_loses_the_outline() -> None:
    layout, fill = Layout(2), drawing_fill()
    alpha = -torch.ones(1, 2, 1, 32, 32)
    alpha[..., 12:20, 12:20] = 1
    noise = {name: torch.randn(1, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) for name in CLIPS}
    timestep = layout.timesteps(torch.ones(1), layout.given_mask(()))
    solved = []
    for outline in (-1.0, 1.0):
        background = torch.zeros(1, 2, 3, 32, 32)
        background[..., 10:22, 10:22] = outline  # the matte and two pixels around it
        drawn = {"foreground": torch.zeros(1, 2, 3, 32, 32), "alpha": alpha, "background": background}
        drawn["blended"] = torch.zeros_like(background)
        copy = torch.zeros(1, 2, 4, 32, 32)
        solved.append(solve_composition(drawn, copy, layout.pack(noise), timestep, layout, fill)["background"])
    assert torch.allclose(solved[0], solved[1], atol=1e-5)
    assert torch.allclose(solved[0][..., :8, :], torch.zeros(8, 32), atol=1e-3)
