"""How near one clip is to another. Pure functions of tensors, no network among them.

Clips are (F, C, H, W) in [0, 1], alpha (F, 1, H, W). Every function takes one clip and returns a number.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layered_video import LayeredVideo, blend

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


def _gradient(clip: Tensor, sigma: float) -> Tensor:
    """Magnitude of the Gaussian derivative of (F, 1, H, W), borders replicated."""
    radius = math.ceil(3 * sigma)
    x = torch.arange(-radius, radius + 1, dtype=clip.dtype, device=clip.device)
    bell = torch.exp(-(x**2) / (2 * sigma**2))
    bell = bell / bell.sum()
    slope = x * bell / (x**2 * bell).sum()  # a ramp of 1 per pixel has gradient 1
    padded = F.pad(clip, (radius,) * 4, mode="replicate")

    def along(row: Tensor, column: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(padded, row.view(1, 1, 1, -1)), column.view(1, 1, -1, 1))

    return torch.hypot(along(slope, bell), along(bell, slope))


def _same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(f"clips have shapes {tuple(a.shape)} and {tuple(b.shape)}: both must be the same (F, C, H, W)")
