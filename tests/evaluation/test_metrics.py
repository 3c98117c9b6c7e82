"""Metrics and baselines: hand-worked cases and properties of random clips."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from layerflow.core.layered_video import LayeredVideo
from layerflow.evaluation import metrics
from layerflow.evaluation.baselines import border_colour, centre_disc, empty_foreground, temporal_median
from layerflow.mini.acceptance import BASELINES


def clip(value: float = 0.0, frames: int = 2, channels: int = 1, size: int = 4) -> Tensor:
    return torch.full((frames, channels, size, size), value)


def random_clip(seed: int, frames: int = 2, channels: int = 1, size: int = 6) -> Tensor:
    return torch.rand(frames, channels, size, size, generator=torch.Generator().manual_seed(seed))


def square(frames: int = 4, size: int = 16) -> Tensor:
    """A matte (F, 1, H, W) of a 6x6 square that moves three pixels a frame to the right."""
    alpha = torch.zeros(frames, 1, size, size)
    for i in range(frames):
        alpha[i, :, 5:11, 3 * i : 3 * i + 6] = 1
    return alpha


seeds = st.integers(0, 2**20)


def test_psnr_of_an_error_of_a_tenth_is_20_db() -> None:
    assert metrics.psnr(clip(0.5), clip(0.6)) == pytest.approx(20, abs=1e-4)
    assert metrics.mse(clip(0.5), clip(0.6)) == pytest.approx(0.01)


def test_psnr_of_equal_clips_is_finite() -> None:
    assert metrics.psnr(clip(), clip()) == metrics.MAX_PSNR
    assert metrics.psnr_of(0.0) == metrics.MAX_PSNR


def test_iou_counts_pixels_at_the_threshold() -> None:
    pred, target = torch.zeros(2, 1, 1, 2), torch.zeros(2, 1, 1, 2)
    pred[0, 0, 0] = torch.tensor([0.5, 0.9])
    target[0, 0, 0, 0] = 1
    target[1, 0, 0, 1] = 0.7
    assert metrics.alpha_iou(pred, target) == pytest.approx(1 / 3)
    assert metrics.alpha_iou(pred, target, threshold=0.8) == 0


def test_iou_of_two_empty_mattes_is_one() -> None:
    assert metrics.alpha_iou(clip(0.1), clip(0.2)) == 1


def test_mae_and_sad_of_four_pixels_of_a_half() -> None:
    pred = clip()
    pred[0, 0, 0] = 0.5
    assert metrics.alpha_mae(pred, clip()) == pytest.approx(4 * 0.5 / 32)
    assert metrics.sad(pred, clip()) == pytest.approx(4 * 0.5 / 1000 / 2)  # mean of two frames


def test_gradient_error_of_a_ramp_and_of_an_edge() -> None:
    # By hand: kernels of sigma 1.4 over -4..4, g(x) = exp(-x^2 / 3.92) and x g(x), each divided by its Euclidean norm.
    bell = [math.exp(-(x**2) / 3.92) for x in range(-4, 5)]
    slope = [x * weight for x, weight in zip(range(-4, 5), bell, strict=True)]
    smooth = sum(bell) / math.hypot(*bell)
    ramp = (torch.arange(64) / 64).expand(1, 1, 64, 64)
    steep = smooth * sum(x * weight for x, weight in zip(range(-4, 5), slope, strict=True)) / math.hypot(*slope)
    expected = 64 * 64 * (steep / 64) ** 2 / 1000
    assert metrics.gradient_error(ramp, torch.zeros_like(ramp)) == pytest.approx(expected, rel=0.1)  # but for borders
    edge = torch.zeros(1, 1, 16, 16)
    edge[..., 8:] = 1
    across = [smooth * sum(slope[12 - x :]) / math.hypot(*slope) for x in range(4, 12)]
    assert metrics.gradient_error(edge, edge * 0) == pytest.approx(16 * sum(a**2 for a in across) / 1000)
    assert metrics.gradient_error(ramp * 0.5, ramp * 0.5 + 0.3) == pytest.approx(0, abs=1e-9)


def test_dtssd_measures_change_relative_to_the_target() -> None:
    blinking = clip()
    blinking[1, 0, :2] = 1  # half of the pixels
    assert metrics.dtssd(blinking, clip()) == pytest.approx(math.sqrt(0.5))
    assert metrics.dtssd(blinking, blinking * 0.5 + 0.5) == pytest.approx(0.5 * math.sqrt(0.5))
    assert metrics.dtssd(clip(0.7), clip(0.1)) == 0
    assert metrics.dtssd(clip(frames=1), clip(frames=1)) == 0


def test_connectivity_error_counts_disconnected_pixels() -> None:
    target = torch.zeros(1, 1, 5, 5)
    target[..., 1:4, 1:4] = 1
    pred = target.clone()
    assert metrics.connectivity_error(pred, target) == 0
    pred[..., 0, 0] = 1  # a stray pixel, disconnected in one matte and absent in the other
    assert metrics.connectivity_error(pred, target) == pytest.approx(1 / 1000)
    pred[..., 0, 0] = 0.1  # below `least`: it does not count
    assert metrics.connectivity_error(pred, target) == 0
    two = torch.zeros(1, 1, 3, 7)
    two[..., :3] = 1
    two[..., 5:] = 1  # both have the second, smaller region, disconnected in both
    assert metrics.connectivity_error(two, two) == 0
    half = two.clone()
    half[..., 5:] = 0.5  # 6 pixels of 1 against 0.5, none of them connected
    assert metrics.connectivity_error(half, two) == pytest.approx(6 * 0.5 / 1000)
    part = two.clone()
    part[..., :3] = 0.6  # 9 connected pixels, up to 0.6: the excess of the target is disconnected
    assert metrics.connectivity_error(part, two) == pytest.approx(9 * 0.4 / 1000)


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_largest_region_equals_a_flood_fill(seed: int) -> None:
    mask = torch.rand(9, 11, generator=torch.Generator().manual_seed(seed)) < 0.55
    left, best = {(y, x) for y, x in mask.nonzero().tolist()}, set()
    while left:
        region, edge = set(), [min(left)]
        while edge:
            y, x = edge.pop()
            if (y, x) in left:
                left.remove((y, x))
                region.add((y, x))
                edge += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        best = max(best, region, key=len)
    largest = {(y, x) for y, x in metrics.largest_region(mask).nonzero().tolist()}
    assert len(largest) == len(best)
    assert not largest or largest == best or len(largest & best) == 0  # any of several equally large


def test_messddt_follows_the_motion() -> None:
    target = clip(frames=2, size=8)
    pred = target.clone()
    pred[0, 0, 2, 2] = pred[1, 0, 2, 3] = 0.5  # an error of 0.25 that moves a pixel to the right
    assert metrics.messddt(pred, target) == pytest.approx(2 * 0.25 / 64)  # it comes and goes
    flow = torch.zeros(1, 2, 8, 8)
    flow[:, 0] = 1
    assert metrics.messddt(pred, target, flow) == pytest.approx(0, abs=1e-9)  # it stays with its point
    pred[1, 0, 2, 3] = 1
    # 0.25 becomes 1 on one of the 56 points that stay in the frame.
    assert metrics.messddt(pred, target, flow) == pytest.approx(0.75 / 56)
    assert metrics.messddt(pred[:1], target[:1]) == 0
    with pytest.raises(ValueError, match="flow has shape"):
        metrics.messddt(pred, target, flow[..., :4])


def test_matte_motion_is_the_changed_share_of_the_matte() -> None:
    # A 6x6 square that moves 3 pixels a frame leaves and enters 18 of its 36 pixels each.
    assert metrics.matte_motion(square(frames=3)) == pytest.approx(1.0)
    assert metrics.matte_motion(square(frames=3)[:1].expand(3, -1, -1, -1)) == 0
    assert metrics.matte_motion(clip(0.0)) == 0


def test_matte_travel_of_centre_and_size() -> None:
    # A 6x6 square of a 16-pixel frame moves 3 pixels: its centre is 1.5 from the mean in both frames.
    side = square(frames=2).shape[-1]
    assert metrics.matte_travel(square(frames=2)) == pytest.approx(1.5 / side)
    assert metrics.matte_travel(square(frames=3)[:1].expand(3, -1, -1, -1)) == 0
    assert metrics.matte_travel(clip(0.0)) == 0
    growing = torch.zeros(2, 1, 20, 20)
    growing[0, :, 8:12, 8:12] = 1
    growing[1, :, 5:15, 5:15] = 1  # 4 pixels wide, then 10: both 3 from their mean
    assert metrics.matte_travel(growing) == pytest.approx(3 / 20)


def test_layer_agreement_of_a_composite_is_one() -> None:
    alpha = clip(0.0)
    alpha[:, :, :2] = 1
    video = LayeredVideo(clip(0.8, channels=3), alpha, clip(0.2, channels=3)).compose()
    assert metrics.layer_agreement(video) == 1
    swapped = video.replace(alpha=1 - alpha)
    assert metrics.layer_agreement(swapped) == pytest.approx(0.4)  # off by 0.6 everywhere
    with pytest.raises(ValueError, match="all four clips"):
        metrics.layer_agreement(video.replace(alpha=None))


def test_flicker_is_change_relative_to_the_target() -> None:
    pred, target = clip(0.5, channels=3), clip(0.5, channels=3)
    pred[1] += 0.2
    target[1] += 0.05
    assert metrics.flicker(pred, target) == pytest.approx(0.15, abs=1e-6)
    assert metrics.flicker(pred[:1], target[:1]) == 0


def test_background_leak_is_error_inside_minus_outside_the_matte() -> None:
    alpha = clip()
    alpha[:, :, :2] = 1
    background = clip(0.5, channels=3)
    pred = background + torch.where(alpha > 0, 0.3, 0.1)
    assert metrics.background_leak(pred, background, alpha) == pytest.approx(0.2, abs=1e-6)
    assert metrics.background_leak(background + 0.1, background, alpha) == pytest.approx(0, abs=1e-6)
    assert metrics.background_leak(background + 0.1, background, clip(1.0)) == pytest.approx(0.1, abs=1e-6)


def test_composite_psnr_compares_blended_with_the_composite() -> None:
    video = LayeredVideo(clip(0.8, channels=3), clip(0.5), clip(0.2, channels=3)).compose()
    assert metrics.composite_psnr(video) > 90
    off = video.replace(blended=clip(0.6, channels=3))
    assert metrics.composite_psnr(off) == pytest.approx(20, abs=1e-3)
    with pytest.raises(ValueError, match="all four clips"):
        metrics.composite_psnr(video.replace(background=None))


def test_different_shapes_are_an_error() -> None:
    with pytest.raises(ValueError, match="both must be the same"):
        metrics.mse(clip(frames=2), clip(frames=3))


@settings(max_examples=25, deadline=None)
@given(seeds, seeds)
def test_errors_are_symmetric_and_bounded(one: int, other: int) -> None:
    a, b = random_clip(one), random_clip(other)
    for figure in (
        metrics.mse, metrics.psnr, metrics.alpha_mae, metrics.alpha_iou, metrics.sad, metrics.dtssd,
        metrics.gradient_error, metrics.flicker, metrics.connectivity_error, metrics.messddt,
    ):  # fmt: skip
        assert figure(a, b) == pytest.approx(figure(b, a))
        assert figure(a, b) >= 0
    assert metrics.alpha_iou(a, b) <= 1
    assert metrics.alpha_mae(a, b) ** 2 <= metrics.mse(a, b) + 1e-12


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_errors_of_a_clip_to_itself_are_zero(seed: int) -> None:
    a = random_clip(seed)
    assert metrics.alpha_iou(a, a) == 1
    for figure in (metrics.mse, metrics.alpha_mae, metrics.sad, metrics.dtssd, metrics.gradient_error,
                   metrics.connectivity_error, metrics.messddt):  # fmt: skip
        assert figure(a, a) == 0


@settings(max_examples=25, deadline=None)
@given(seeds, seeds, seeds)
def test_background_leak_is_bounded(one: int, other: int, matte: int) -> None:
    leak = metrics.background_leak(random_clip(one, channels=3), random_clip(other, channels=3), random_clip(matte))
    assert -1 <= leak <= 1


# --- baselines --------------------------------------------------------------------------------------------


def test_temporal_median_recovers_a_mostly_visible_background() -> None:
    alpha = square(frames=5, size=24)
    background = random_clip(1, frames=1, channels=3, size=24).expand(5, -1, -1, -1) * 0.4
    blended = LayeredVideo(clip(0.9, 5, 3, 24), alpha, background.contiguous()).compose().blended
    assert blended is not None
    video = temporal_median(blended)
    assert torch.equal(video.background, background)
    assert metrics.alpha_iou(video.alpha, alpha) == 1


def test_border_colour_recovers_a_flat_background() -> None:
    alpha = square(frames=2)
    blended = LayeredVideo(clip(0.9, 2, 3, 16), alpha, clip(0.3, 2, 3, 16)).compose().blended
    assert blended is not None
    inside = blended[1:]  # the first frame's square touches the border
    video = border_colour(inside)
    assert torch.equal(video.alpha, alpha[1:])
    torch.testing.assert_close(video.background, clip(0.3, 1, 3, 16))


def test_centre_disc_has_a_fifth_of_the_side_as_radius() -> None:
    alpha = centre_disc(clip(0.5, 2, 3, 50)).alpha
    assert alpha is not None
    assert float(alpha[0].sum()) == pytest.approx(math.pi * 10**2, rel=0.01)
    assert alpha[0, 0, 25, 25] == 1
    assert alpha[0, 0, 0, 0] == 0


def test_empty_foreground_leaves_all_to_the_background() -> None:
    blended = random_clip(3, channels=3)
    video = empty_foreground(blended)
    assert not video.alpha.any()
    assert torch.equal(video.background, blended)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("frames", [1, 3])
def test_baselines_return_all_clips(name: str, frames: int) -> None:
    blended = random_clip(5, frames=frames, channels=3)
    video = BASELINES[name](blended)
    assert list(video.clips()) == ["foreground", "alpha", "background", "blended"]
    assert torch.equal(video.blended, blended)
