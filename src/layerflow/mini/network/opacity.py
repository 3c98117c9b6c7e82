"""Opacity of a foreground, estimated from the background that shines through it.

Where a matte is flat, the video is V = alpha F + (1 - alpha) B. In differences between pixels or frames in which the
foreground F cancels or is uncorrelated with the background B, alpha is the least-squares factor from B to B - V.

Letters in shape comments: B batch, F frames of one clip, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FLAT = 0.8
"""Least ratio of smallest to largest alpha around a pixel at which its opacity is measured."""
PRESENT = 0.1
"""Least alpha at which opacity is measured."""
GUESSED = 0.5
"""Weight of a background that no frame shows, which was drawn from what shines through the foreground."""
CELL = 16
"""Height and width in pixels of the cells that count as one observation, as neighbours and frames are correlated."""
CAUTION = 4.0
"""Factor on the variance of the estimate, as cells are few and correlated too."""
LEAST_VARIANCE, LEAST_EVIDENCE = 1e-4, 1e-4
"""Least variance of an estimate, and sum of squares under which there is no estimate."""
SPREAD = 0.25
"""Prior standard deviation of the factor."""
OPAQUE, OPAQUE_SPREAD = 0.02, 0.025
"""Distance of alpha from 1 under which the prior of the factor narrows, and its standard deviation at alpha 1."""

Pair = tuple[Tensor, Tensor]
"""Differences of the background times alpha, and of the background minus the video, (B, F, C, H, W)."""


def opacity_factor(seen: Tensor, background: Tensor, alpha: Tensor, certainty: Tensor) -> Tensor:
    """Return the factor on a matte that leaves no trace of the background in its foreground.

    Args:
        seen, background: (B, F, C, H, W) in [-1, 1].
        alpha: (B, F, 1, H, W) from 0 to 1.
        certainty: (B, F, 1, H, W) certainty of the background in [0, 1].

    Returns:
        (B, 1, 1, 1, 1); 1 without evidence.
    """
    flat = flat_parts(alpha)
    trust = GUESSED + (1 - GUESSED) * certainty
    mean = (flat * alpha).sum((1, 2, 3, 4)) / flat.sum((1, 2, 3, 4)).clamp(min=1)
    spread = (SPREAD * (1 - mean) / OPAQUE).clamp(OPAQUE_SPREAD, SPREAD)
    precision = spread.pow(-2)
    weighted = precision
    residual = background - seen
    for pairs in (
        spatial_differences(background, residual, alpha, flat * trust),
        temporal_differences(background, residual, alpha, trust),
    ):
        estimate, variance = least_squares(pairs)
        precision = precision + 1 / variance
        weighted = weighted + estimate / variance
    return (weighted / precision).clamp(min=PRESENT)[:, None, None, None, None]


def spatial_differences(background: Tensor, residual: Tensor, alpha: Tensor, weight: Tensor) -> list[Pair]:
    """Return differences between neighbouring pixels, in which the textures of both layers are uncorrelated."""
    return [
        (weight * alpha * F.pad(background.diff(dim=dim), pad), weight * F.pad(residual.diff(dim=dim), pad))
        for dim, pad in ((-1, (0, 1)), (-2, (0, 0, 0, 1)))
    ]


def temporal_differences(background: Tensor, residual: Tensor, alpha: Tensor, trust: Tensor) -> list[Pair]:
    """Return differences from the mean over time at fixed places of the moving foreground, whose colour there is
    constant."""
    planes = torch.cat([alpha, trust, background, residual, torch.ones_like(alpha)], dim=2)
    tracked = F.grid_sample(planes.flatten(0, 1), tracking_grid(alpha), align_corners=False).view_as(planes)
    c = background.shape[2]
    alpha, trust, background, residual, inside = tracked.split([1, 1, c, c, 1], dim=2)
    weight = flat_parts(alpha) * trust * (inside > 0.99)
    total = weight.sum(1, keepdim=True).clamp(min=1e-3)
    change, residual = (x - (weight * x).sum(1, keepdim=True) / total for x in (background, residual))
    return [(weight * alpha * change, weight * residual)]


def tracking_grid(alpha: Tensor) -> Tensor:
    """Return sampling grids (B*F, H, W, 2) that keep a foreground in the middle at constant size.

    They follow centre and spread of the matte, which are invariant under rotation.
    """
    b, f, _, h, w = alpha.shape
    planes = alpha.flatten(0, 2)
    y, x = ((torch.arange(n, device=alpha.device) * 2 + 1) / n - 1 for n in (h, w))
    mass = planes.sum((1, 2)).clamp(min=1e-3)
    centre_x, centre_y = (planes * x).sum((1, 2)) / mass, (planes * y[:, None]).sum((1, 2)) / mass
    square = (x - centre_x[:, None, None]).square() + (y[:, None] - centre_y[:, None, None]).square()
    size = ((planes * square).sum((1, 2)) / mass).sqrt().view(b, f)
    scale = (size / size.amax(1, keepdim=True).clamp(min=1e-3)).flatten()
    zero = torch.zeros_like(scale)
    theta = torch.stack([scale, zero, centre_x, zero, scale, centre_y], dim=1).view(-1, 2, 3)
    return F.affine_grid(theta, [b * f, 1, h, w], align_corners=False)


def flat_parts(alpha: Tensor) -> Tensor:
    """Return 1 where a matte (B, F, 1, H, W) is present and hardly varies around the pixel, else 0."""
    planes = alpha.flatten(0, 1)
    most, least = F.max_pool2d(planes, 5, 1, 2), -F.max_pool2d(-planes, 5, 1, 2)
    return ((least > FLAT * most) & (least > PRESENT)).view_as(alpha).to(alpha.dtype)


def least_squares(pairs: list[Pair]) -> tuple[Tensor, Tensor]:
    """Fit the factor (B,) from the first to the second of each pair.

    Returns:
        The factor and its variance (B,), with standard errors clustered by cells of the frame.
    """
    xx = torch.cat([cells(x.square()) for x, _ in pairs], dim=1)
    xy = torch.cat([cells(x * y) for x, y in pairs], dim=1)
    evidence = xx.sum(1)
    known = evidence > LEAST_EVIDENCE
    evidence = torch.where(known, evidence, 1)
    factor = xy.sum(1) / evidence
    residual = (xy - factor[:, None] * xx).square().sum(1)
    count = evidence.square() / xx.square().sum(1).clamp(min=1e-12)  # effective number of cells
    variance = CAUTION * residual / evidence.square() * count / (count - 1).clamp(min=1e-3) + LEAST_VARIANCE
    return factor, torch.where(known, variance, torch.inf)


def cells(x: Tensor) -> Tensor:
    """Sum over frames, channels and the pixels of each cell: (B, F, C, H, W) to (B, cells)."""
    return F.avg_pool2d(x.sum((1, 2))[:, None], CELL, ceil_mode=True, divisor_override=1).flatten(1)
