"""Optical flow and warping."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from layerflow.core import optical_flow
from layerflow.core.errors import UserError
from layerflow.core.optical_flow import flows_both_ways, warp


def moving_texture(across: int, frames: int = 3, side: int = 64) -> Tensor:
    """Return smooth noise that moves to the right by whole pixels, (F, 3, H, W)."""
    noise = torch.rand(1, 1, side, side + across * frames, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(noise, 5, 1, 2)[0].expand(3, -1, -1)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    starts = [across * (frames - 1 - index) for index in range(frames)]
    return torch.stack([smooth[..., start : start + side] for start in starts])


def test_flow_is_the_motion_in_both_directions() -> None:
    ahead, back = flows_both_ways(moving_texture(3))
    inner = (..., slice(16, 48), slice(16, 48))
    for flow, x in ((ahead, 3), (back, -3)):
        assert flow.shape == (2, 2, 64, 64)
        assert float(flow[:, 0][inner].median()) == pytest.approx(x, abs=0.3)
        assert float(flow[:, 1][inner].abs().median()) < 0.3


def test_empty_hole_changes_nothing() -> None:
    frames = moving_texture(2)
    hole = torch.zeros(3, 1, 64, 64, dtype=torch.bool)
    for plain, continued in zip(flows_both_ways(frames), flows_both_ways(frames, hole), strict=True):
        assert torch.equal(plain, continued)


def test_flow_in_a_hole_is_that_around_it() -> None:
    frames = moving_texture(3)
    hole = torch.zeros(3, 1, 64, 64, dtype=torch.bool)
    hole[..., 24:40, 24:40] = True
    frames = torch.where(hole, 0.5, frames)  # a patch that stands still
    ahead, _ = flows_both_ways(frames, hole)
    assert float(ahead[:, 0, 28:36, 28:36].median()) == pytest.approx(3, abs=1)
    plain, _ = flows_both_ways(frames)
    assert float(plain[:, 0, 28:36, 28:36].median()) < 2


def test_single_frame_has_no_flow() -> None:
    hole = torch.ones(1, 1, 64, 64, dtype=torch.bool)
    for flow in (*flows_both_ways(moving_texture(1)[:1]), *flows_both_ways(moving_texture(1)[:1], hole)):
        assert flow.shape == (0, 2, 64, 64)


def test_missing_opencv_is_an_error_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optical_flow, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"layerflow\[data\]"):
        flows_both_ways(moving_texture(1))


@settings(max_examples=20, deadline=None)
@given(down=st.integers(-3, 3), across=st.integers(-3, 3))
def test_warp_by_a_constant_flow_shifts(down: int, across: int) -> None:
    image = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    flow = torch.tensor([across, down], dtype=torch.float32).view(1, 2, 1, 1).expand(1, 2, 12, 12)
    inner = slice(3, 9)
    moved = image[..., 3 + down : 9 + down, 3 + across : 9 + across]
    torch.testing.assert_close(warp(image, flow)[..., inner, inner], moved, atol=1e-4, rtol=0)
