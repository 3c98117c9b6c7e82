"""How near one clip is to another. Pure functions of tensors, no network among them.

Clips are (F, C, H, W) in [0, 1], alpha (F, 1, H, W). Every function takes one clip and returns a number.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.compositing import blend
from ..core.layered_video import LayeredVideo

MAX_PSNR = 100.0
"""What `psnr` gives for equal clips, dB: finite, so that means of it are numbers."""


def psnr_of(squared_error: float) -> float:
    """A mean squared error on a scale of 1 as PSNR in dB, at most `MAX_PSNR`."""
    return min(MAX_PSNR, -10 * math.log10(max(squared_error, 1e-30)))


def mse(a: Tensor, b: Tensor) -> float:
    """Mean squared error."""
    _same_shape(a, b)
    return float((a.double() - b.double()).square().mean())


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB for a peak of 1; `MAX_PSNR` where the clips are equal."""
    return psnr_of(mse(a, b))


def alpha_mae(pred: Tensor, target: Tensor) -> float:
    """Mean absolute error over all pixels and frames."""
    _same_shape(pred, target)
    return float((pred.double() - target.double()).abs().mean())


def alpha_iou(pred: Tensor, target: Tensor, threshold: float = 0.5) -> float:
    """Intersection over union of the pixels at or above the threshold, over all frames together.

    It is 1 where neither matte reaches the threshold anywhere.
    """
    _same_shape(pred, target)
    one, other = pred >= threshold, target >= threshold
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def sad(pred: Tensor, target: Tensor) -> float:
    """Sum of absolute differences of a frame in thousands, mean over frames (Rhemann et al. 2009)."""
    _same_shape(pred, target)
    return float((pred.double() - target.double()).abs().flatten(1).sum(1).mean() / 1000)


def gradient_error(pred: Tensor, target: Tensor, sigma: float = 1.4) -> float:
    """Sum of squared differences of gradient magnitudes of a frame in thousands, mean over frames.

    Gradients are by first derivatives of a Gaussian (Rhemann et al. 2009, section 4, sigma 1.4).
    """
    _same_shape(pred, target)
    difference = _gradient(pred.double(), sigma) - _gradient(target.double(), sigma)
    return float(difference.square().flatten(1).sum(1).mean() / 1000)


def dtssd(pred: Tensor, target: Tensor) -> float:
    """Root mean square difference of the change from frame to frame, mean over frames; 0 for a still.

    The temporal measure of Erofeev et al. 2015, a mean over pixels here in place of a sum.
    """
    _same_shape(pred, target)
    if len(pred) < 2:
        return 0.0
    change = pred.double().diff(dim=0) - target.double().diff(dim=0)  # (F-1, 1, H, W)
    return float(change.square().flatten(1).mean(1).sqrt().mean())


def connectivity_error(pred: Tensor, target: Tensor, step: float = 0.1, least: float = 0.15) -> float:
    """How differently pixels hang together with the main part of the matte: sum of a frame in thousands, mean over
    frames (Rhemann et al. 2009, section 4).

    A pixel is connected up to the highest threshold at which it belongs to the largest region (4 neighbours) where both
    mattes reach the threshold; what its alpha exceeds that by counts as disconnected, from `least` on.
    """
    _same_shape(pred, target)
    total = 0.0
    for one, other in zip(pred.double(), target.double(), strict=True):
        connected = _connected_up_to(one[0], other[0], step)
        loose = [(alpha[0] - connected) * (alpha[0] - connected >= least - 1e-9) for alpha in (one, other)]
        total += float((loose[0] - loose[1]).abs().sum())
    return total / len(pred) / 1000


def _connected_up_to(one: Tensor, other: Tensor, step: float) -> Tensor:
    """The highest threshold at which each pixel (H, W) belongs to the region that both mattes have in common."""
    level = torch.zeros_like(one)
    still = torch.ones_like(one, dtype=torch.bool)
    for index in range(1, round(1 / step) + 1):
        threshold = index * step - 1e-9
        still = still & largest_region((one >= threshold) & (other >= threshold))
        level = torch.where(still, torch.full_like(level, index * step), level)
    return level


def largest_region(mask: Tensor) -> Tensor:
    """The largest region (4 neighbours) of a mask (H, W) bool, any of equals; none where nothing is True."""
    height, width = mask.shape
    if not mask.any():
        return mask
    nobody = height * width
    labels = torch.where(mask, torch.arange(nobody, device=mask.device).view(height, width), nobody)
    while True:
        around = F.pad(labels, (1, 1, 1, 1), value=nobody)
        sides = [around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:], labels]
        lowest = torch.where(mask, torch.stack(sides).amin(0), nobody)
        # A label is the place of a pixel of the same region, whose own label may be lower still: jump there.
        table = torch.cat([lowest.flatten(), lowest.new_tensor([nobody])])
        lowest = table[lowest]
        if torch.equal(lowest, labels):
            break
        labels = lowest
    counts = torch.bincount(labels[mask], minlength=nobody)
    return labels == counts.argmax()


def messddt(pred: Tensor, target: Tensor, flow: Tensor | None = None) -> float:
    """How much the error of a point changes as it moves: mean over pixels and frames of the absolute difference between
    its squared error in a frame and in the next, followed along the motion; 0 for a still.

    MESSDdt of Erofeev et al. 2015, section 3, a mean over pixels here in place of a sum.

    Args:
        pred: (F, 1, H, W).
        target: (F, 1, H, W).
        flow: (F-1, 2, H, W) motion to the next frame in pixels, x then y; None: nothing moves.
    """
    _same_shape(pred, target)
    if len(pred) < 2:
        return 0.0
    error = (pred.double() - target.double()).square()
    following, inside = error[1:], torch.ones_like(error[1:])
    if flow is not None:
        if flow.shape != (len(pred) - 1, 2, *pred.shape[-2:]):
            raise ValueError(f"flow has shape {tuple(flow.shape)}: it must be (F-1, 2, H, W) for {tuple(pred.shape)}")
        following, inside = (along(clip, flow.double()) for clip in (following, inside))
    inside = (inside > 0.999).double()  # points that leave the frame cannot be followed
    return float(((error[:-1] - following).abs() * inside).sum() / inside.sum().clamp(min=1))


def along(clip: Tensor, flow: Tensor) -> Tensor:
    """A clip (N, C, H, W) looked up where each pixel's motion (N, 2, H, W) leads, bilinearly; 0 beyond the border."""
    height, width = clip.shape[-2:]
    rows = torch.arange(height, dtype=clip.dtype, device=clip.device)[:, None]
    columns = torch.arange(width, dtype=clip.dtype, device=clip.device)
    x = (columns + flow[:, 0] + 0.5) * (2 / width) - 1
    y = (rows + flow[:, 1] + 0.5) * (2 / height) - 1
    return F.grid_sample(clip, torch.stack([x, y], dim=-1), align_corners=False)


def matte_motion(alpha: Tensor) -> float:
    """How much a matte (F, 1, H, W) moves: change from frame to frame as a share of its mean area; 0 for a still."""
    if len(alpha) < 2:
        return 0.0
    area = float(alpha.double().mean())
    return float(alpha.double().diff(dim=0).abs().mean()) / area if area > 1e-6 else 0.0


def matte_travel(alpha: Tensor) -> float:
    """How far a matte (F, 1, H, W) goes: root mean square distance of its centre and size from their means over the
    clip, in sides of the frame; 0 for a still or an empty matte.

    An edge that trembles hardly counts, where `matte_motion` counts nothing but edges. Turning on the spot is none.
    """
    cover = alpha[:, 0].double()
    mass = cover.sum((1, 2))
    cover, mass = cover[mass > 1e-6], mass[mass > 1e-6]
    if len(cover) < 2:
        return 0.0
    height, width = cover.shape[1:]
    rows, columns = ((torch.arange(side, dtype=torch.float64) + 0.5) / side for side in (height, width))
    x, y = (cover.sum(1) @ columns) / mass, (cover.sum(2) @ rows) / mass
    where = torch.stack([x, y, (mass / (height * width)).sqrt()], dim=1)
    return float((where - where.mean(0)).square().sum(1).mean().sqrt())


def flicker(pred: Tensor, target: Tensor) -> float:
    """Mean absolute change from frame to frame that the target does not have; 0 for a still."""
    _same_shape(pred, target)
    if len(pred) < 2:
        return 0.0
    return float((pred.double().diff(dim=0) - target.double().diff(dim=0)).abs().mean())


def background_leak(background: Tensor, target: Tensor, alpha: Tensor) -> float:
    """How much of the foreground is left in a background, in [-1, 1].

    Mean absolute error of the background inside of the true matte, weighted with alpha, minus that outside,
    weighted with 1 - alpha. 0: as good behind the object as beside it. Above 0: something of the object, its
    shape or its shadow, is left. A side without any weight counts as without error.
    """
    _same_shape(background, target)
    error = (background.double() - target.double()).abs().mean(1, keepdim=True)  # (F, 1, H, W)
    _same_shape(error, alpha)
    inside = alpha.double()

    def weighted(weight: Tensor) -> float:
        total = float(weight.sum())
        return float((error * weight).sum()) / total if total > 0 else 0.0

    return weighted(inside) - weighted(1 - inside)


def composite_psnr(video: LayeredVideo) -> float:
    """PSNR in dB of the blended clip against the foreground over the background.

    Raises:
        ValueError: one of the four clips is missing.
    """
    foreground, alpha, background, blended = video.foreground, video.alpha, video.background, video.blended
    if foreground is None or alpha is None or background is None or blended is None:
        raise ValueError(f"composite_psnr wants all four clips, got {', '.join(video.clips())}")
    return psnr(blended, blend(foreground, alpha, background))


def layer_agreement(video: LayeredVideo) -> float:
    """How far alpha and colours say the same, in [0, 1]; it wants no true layers.

    Where alpha says that only the foreground shows, `blended` should be its colour, and where it says that only the
    background shows, that: 1 minus the mean absolute difference, each weighted by the square of its alpha, so that
    mixed pixels hardly count.

    Raises:
        ValueError: one of the four clips is missing.
    """
    foreground, alpha, background, blended = video.foreground, video.alpha, video.background, video.blended
    if foreground is None or alpha is None or background is None or blended is None:
        raise ValueError(f"layer_agreement wants all four clips, got {', '.join(video.clips())}")
    front, behind = alpha.double().square(), (1 - alpha.double()).square()
    errors = [(blended.double() - layer.double()).abs().mean(1, keepdim=True) for layer in (foreground, background)]
    return 1 - float((front * errors[0] + behind * errors[1]).sum() / (front + behind).sum())


def _gradient(clip: Tensor, sigma: float) -> Tensor:
    """Magnitude of the Gaussian derivative of (F, 1, H, W), borders replicated."""
    # As wide as the derivative is above a hundredth, and of Euclidean norm 1, as published figures have it.
    radius = math.ceil(sigma * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * sigma * 0.01)))
    x = torch.arange(-radius, radius + 1, dtype=clip.dtype, device=clip.device)
    bell = torch.exp(-(x**2) / (2 * sigma**2))
    slope = x * bell
    bell, slope = bell / bell.norm(), slope / slope.norm()  # the norm of their outer product is 1 then
    padded = F.pad(clip, (radius,) * 4, mode="replicate")

    def along(row: Tensor, column: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(padded, row.view(1, 1, 1, -1)), column.view(1, 1, -1, 1))

    return torch.hypot(along(slope, bell), along(bell, slope))


def _same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(f"clips have shapes {tuple(a.shape)} and {tuple(b.shape)}: both must be the same (F, C, H, W)")
