"""Backgrounds behind objects: found in other frames, made up only where no frame shows them, never the object's own."""

import pytest
import torch
from drawn_footage import moving_square

from layerflow.datasets.inpainting import fill_still, inpaint
from layerflow.datasets.mattes import crude_matte, grow


def psnr_in(found: torch.Tensor, true: torch.Tensor, where: torch.Tensor) -> float:
    error = (found - true).square() * where
    return float(-10 * torch.log10(error.sum() / (3 * where.sum())))


@pytest.mark.parametrize(("pan", "least"), [(0, 38.0), (2, 26.0)])
def test_a_background_that_other_frames_show_is_found_there(pan: int, least: float) -> None:
    video, masks, background = moving_square(pan=pan)
    hole = grow(masks, 2) > 0.5
    filled = inpaint(video, hole)
    assert torch.equal(torch.where(hole, 0, filled), torch.where(hole, 0, video))
    still = torch.stack([fill_still(frame, where) for frame, where in zip(video, hole, strict=True)])
    assert psnr_in(filled, background, hole) > least
    assert psnr_in(filled, background, hole) > psnr_in(still, background, hole) + 5  # than from around it alone


def test_what_no_frame_shows_is_made_up_once_and_stays() -> None:
    video, masks, _ = moving_square(step=0)
    hole = grow(masks, 2) > 0.5
    filled = inpaint(video, hole)
    assert float(filled.diff(dim=0).abs().max()) < 0.02  # no flicker
    inside = filled.permute(1, 0, 2, 3)[:, hole[:, 0]]
    red = (inside[0] > 0.8) & (inside[1] < 0.2)
    assert float(red.float().mean()) < 0.01  # nothing of the object


def test_without_a_hole_nothing_changes_and_all_hole_is_grey() -> None:
    video, masks, _ = moving_square(frames=2)
    assert inpaint(video, torch.zeros_like(masks)) is video
    assert float((inpaint(video, torch.ones_like(masks)) - 0.5).abs().max()) < 1e-3
    single = inpaint(video[:1], masks[:1])
    assert torch.isfinite(single).all()
    with pytest.raises(ValueError, match="differ in frames or size"):
        inpaint(video, masks[:1])


def test_a_crude_matte_is_hard_and_jumps_but_stays_near() -> None:
    _, masks, _ = moving_square()
    crude = crude_matte(masks, torch.Generator().manual_seed(1))
    assert set(crude.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(crude, masks.float())
    assert (crude <= grow(masks, 3)).all()
    assert (crude >= grow(masks.float(), -1)).all()
    assert torch.equal(crude, crude_matte(masks, torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("pixels", [-2, 0, 2])
def test_growing_moves_the_edge(pixels: int) -> None:
    mask = torch.zeros(1, 1, 20, 20)
    mask[..., 6:14, 6:14] = 1
    assert float(grow(mask, pixels).sum()) == (8 + 2 * pixels) ** 2
