"""Distances between clips: pure functions of tensors, without networks.

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
"""Value of `psnr` for equal clips, in dB: finite, so that means are finite too."""


def psnr_of(squared_error: float) -> float:
    """Return the PSNR in dB of a mean squared error for a peak of 1, at most `MAX_PSNR`."""
    return min(MAX_PSNR, -10 * math.log10(max(squared_error, 1e-30)))


def mse(a: Tensor, b: Tensor) -> float:
    """Return the mean squared error."""
    _same_shape(a, b)
    return float((a.double() - b.double()).square().mean())


def psnr(a: Tensor, b: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB for a peak of 1; `MAX_PSNR` for equal clips."""
    return psnr_of(mse(a, b))


def alpha_mae(pred: Tensor, target: Tensor) -> float:
    """Return the mean absolute error over all pixels and frames."""
    _same_shape(pred, target)
    return float((pred.double() - target.double()).abs().mean())


def alpha_iou(pred: Tensor, target: Tensor, threshold: float = 0.5) -> float:
    """Return the intersection over union of the pixels at or above the threshold, over all frames together.

    It is 1 if neither matte reaches the threshold anywhere.
    """
    _same_shape(pred, target)
    one, other = pred >= threshold, target >= threshold
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def sad(pred: Tensor, target: Tensor) -> float:
    """Return the sum of absolute differences of a frame in thousands, mean over frames (Rhemann et al. 2009)."""
    _same_shape(pred, target)
    return float((pred.double() - target.double()).abs().flatten(1).sum(1).mean() / 1000)


def gradient_error(pred: Tensor, target: Tensor, sigma: float = 1.4) -> float:
    """Return the sum of squared differences of gradient magnitudes of a frame in thousands, mean over frames.

    Gradients are computed with first derivatives of a Gaussian (Rhemann et al. 2009, section 4, sigma 1.4).
    """
    _same_shape(pred, target)
    difference = _gradient(pred.double(), sigma) - _gradient(target.double(), sigma)
    return float(difference.square().flatten(1).sum(1).mean() / 1000)


def dtssd(pred: Tensor, target: Tensor) -> float:
    """Return the root mean square difference of the change from frame to frame, mean over frames; 0 for a still.

    dtSSD of Erofeev et al. 2015, with a mean over pixels in place of a sum.
    """
    _same_shape(pred, target)
    if len(pred) < 2:
        return 0.0
    change = pred.double().diff(dim=0) - target.double().diff(dim=0)  # (F-1, 1, H, W)
    return float(change.square().flatten(1).mean(1).sqrt().mean())


def connectivity_error(pred: Tensor, target: Tensor, step: float = 0.1, least: float = 0.15) -> float:
    """Return the connectivity error: sum of a frame in thousands, mean over frames (Rhemann et al. 2009, section 4).

    A pixel is connected up to the highest threshold at which it belongs to the largest region (4 neighbours) where both
    mattes reach the threshold; the excess of its alpha over that counts as disconnected, from `least` on.
    """
    _same_shape(pred, target)
    total = 0.0
    for one, other in zip(pred.double(), target.double(), strict=True):
        connected = _connected_up_to(one[0], other[0], step)
        loose = [(alpha[0] - connected) * (alpha[0] - connected >= least - 1e-9) for alpha in (one, other)]
        total += float((loose[0] - loose[1]).abs().sum())
    return total / len(pred) / 1000


def _connected_up_to(one: Tensor, other: Tensor, step: float) -> Tensor:
    """Return the highest threshold at which each pixel (H, W) belongs to the region common to both mattes."""
    level = torch.zeros_like(one)
    still = torch.ones_like(one, dtype=torch.bool)
    for index in range(1, round(1 / step) + 1):
        threshold = index * step - 1e-9
        still = still & largest_region((one >= threshold) & (other >= threshold))
        level = torch.where(still, torch.full_like(level, index * step), level)
    return level


def largest_region(mask: Tensor) -> Tensor:
    """Return the largest region (4 neighbours) of a bool mask (H, W), any of equals; the mask itself if all False."""
    height, width = mask.shape
    if not mask.any():
        return mask
    unlabelled = height * width
    labels = torch.where(mask, torch.arange(unlabelled, device=mask.device).view(height, width), unlabelled)
    while True:
        around = F.pad(labels, (1, 1, 1, 1), value=unlabelled)
        sides = [around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:], labels]
        lowest = torch.where(mask, torch.stack(sides).amin(0), unlabelled)
        # A label is the index of a pixel in the same region, whose own label may be lower still: jump there.
        table = torch.cat([lowest.flatten(), lowest.new_tensor([unlabelled])])
        lowest = table[lowest]
        if torch.equal(lowest, labels):
            break
        labels = lowest
    counts = torch.bincount(labels[mask], minlength=unlabelled)
    return labels == counts.argmax()


def messddt(pred: Tensor, target: Tensor, flow: Tensor | None = None) -> float:
    """Return the change of the error along the motion: mean over pixels and frames of the absolute difference between
    the squared error of a point in a frame and in the next; 0 for a still.

    MESSDdt of Erofeev et al. 2015, section 3, with a mean over pixels in place of a sum.

    Args:
        pred: (F, 1, H, W).
        target: (F, 1, H, W).
        flow: (F-1, 2, H, W) motion to the next frame in pixels, x then y; None for no motion.
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
    """Return a clip (N, C, H, W) sampled bilinearly at the end of each pixel's motion (N, 2, H, W); 0 outside."""
    height, width = clip.shape[-2:]
    rows = torch.arange(height, dtype=clip.dtype, device=clip.device)[:, None]
    columns = torch.arange(width, dtype=clip.dtype, device=clip.device)
    x = (columns + flow[:, 0] + 0.5) * (2 / width) - 1
    y = (rows + flow[:, 1] + 0.5) * (2 / height) - 1
    return F.grid_sample(clip, torch.stack([x, y], dim=-1), align_corners=False)


def matte_motion(alpha: Tensor) -> float:
    """Return the mean change of a matte (F, 1, H, W) from frame to frame relative to its mean area; 0 for a still."""
    if len(alpha) < 2:
        return 0.0
    area = float(alpha.double().mean())
    return float(alpha.double().diff(dim=0).abs().mean()) / area if area > 1e-6 else 0.0


def matte_travel(alpha: Tensor) -> float:
    """Return the travel of a matte (F, 1, H, W): root mean square distance of its centre and size from their means over
    the clip, in sides of the frame; 0 for a still or an empty matte.

    A trembling edge hardly counts, whereas `matte_motion` counts only edges. Rotation on the spot does not count.
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
    """Return the mean absolute difference of the change from frame to frame to the target's; 0 for a still."""
    _same_shape(pred, target)
    if len(pred) < 2:
        return 0.0
    return float((pred.double().diff(dim=0) - target.double().diff(dim=0)).abs().mean())


def background_leak(background: Tensor, target: Tensor, alpha: Tensor) -> float:
    """Return the leak of the foreground into a background, in [-1, 1].

    It is the mean absolute error of the background inside the true matte, weighted with alpha, minus that outside,
    weighted with 1 - alpha. 0 means: as good behind the object as beside it; above 0: traces of the object, its shape
    or its shadow, remain. A side without any weight counts as without error.
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
    """Return the PSNR in dB of the blended clip against the foregrounds over the background.

    Raises:
        ValueError: a clip is missing; with one foreground there are four.
    """
    foregrounds, background, blended = _all_clips("composite_psnr", video)
    composite = background
    for colour, alpha in reversed(foregrounds):
        composite = blend(colour, alpha, composite)
    return psnr(blended, composite)


def layer_agreement(video: LayeredVideo) -> float:
    """Return the agreement of alpha and colours, in [0, 1]; needs no true layers.

    Where a foreground alone is visible, `blended` should equal it, and where none is, the background: 1 minus the mean
    absolute difference, weighted by the square of each layer's share of the pixel (of one foreground alpha and
    1 - alpha), so that mixed pixels hardly count.

    Raises:
        ValueError: a clip is missing; with one foreground there are four.
    """
    foregrounds, background, blended = _all_clips("layer_agreement", video)
    left: Tensor | float = 1.0
    shares = []
    for _, alpha in foregrounds:
        shares.append((left * alpha.double()).square())
        left = left * (1 - alpha.double())
    shares.append(torch.as_tensor(left).square())
    layers = [*(colour for colour, _ in foregrounds), background]
    errors = [(blended.double() - layer.double()).abs().mean(1, keepdim=True) for layer in layers]
    weighted = [share * error for share, error in zip(shares, errors, strict=True)]
    return 1 - float(sum(weighted[1:], weighted[0]).sum() / sum(shares[1:], shares[0]).sum())


def _all_clips(figure: str, video: LayeredVideo) -> tuple[list[tuple[Tensor, Tensor]], Tensor, Tensor]:
    """Return colour and alpha of each foreground, background, and blended; raise ValueError where one is missing."""
    foregrounds = [(one.colour, one.alpha) for one in video.foregrounds]
    pairs = [(colour, alpha) for colour, alpha in foregrounds if colour is not None and alpha is not None]
    if not pairs or len(pairs) < len(foregrounds) or video.background is None or video.blended is None:
        raise ValueError(
            f"{figure} requires all four clips, and colour and alpha of further foregrounds, got "
            f"{', '.join(video.clips())}"
        )
    return pairs, video.background, video.blended


def _gradient(clip: Tensor, sigma: float) -> Tensor:
    """Return the magnitude of the Gaussian derivative of (F, 1, H, W), borders replicated."""
    # Cut where the derivative falls below a hundredth, and normalised to Euclidean norm 1, as in published results.
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
