"""How opaque a foreground is, told by the background that shines through it.

Where a matte is flat, the video is alpha F + (1 - alpha) B. Of differences in which the foreground F cancels, or has
nothing to do with the background B, alpha is what least squares of B less the video on B find.

Letters in shape comments: B batch, F frames of one clip, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FLAT = 0.8
"""Least share of the largest alpha around a pixel that its smallest may be where opacity is measured."""
PRESENT = 0.1
"""Alpha from which it is measured."""
GUESSED = 0.5
"""Weight of a background that no frame shows: it was drawn by what shines through the foreground, if anything does."""
CELL = 16
"""Height and width of the cells, in pixels, whose evidence counts as one piece: neighbours and frames repeat it."""
CAUTION = 4.0
"""Factor on the variance of the evidence: cells are few and repeat each other too."""
LEAST_DOUBT, LEAST_EVIDENCE = 1e-4, 1e-4
"""Variance that evidence has at least, and the square sum under which there is none."""
SPREAD = 0.25
"""Standard deviation of what is drawn too opaque or too clear, as a factor."""
OPAQUE, OPAQUE_SPREAD = 0.02, 0.025
"""How far from 1 alpha is at most where a foreground is more and more taken for opaque, and the factor's standard
deviation at 1."""

Pair = tuple[Tensor, Tensor]
"""Differences of the background times alpha, and of the background less the video, (B, F, C, H, W)."""


def opacity_factor(seen: Tensor, background: Tensor, alpha: Tensor, certainty: Tensor) -> Tensor:
    """By how much to multiply a matte so that its foreground keeps nothing of the background.

    Args:
        seen, background: (B, F, C, H, W) in [-1, 1].
        alpha: (B, F, 1, H, W) from 0 to 1.
        certainty: (B, F, 1, H, W) from 0, where the background is a guess, to 1.

    Returns:
        (B, 1, 1, 1, 1); 1 where nothing that could be told from the foreground shines through.
    """
    flat = flat_parts(alpha)
    trust = GUESSED + (1 - GUESSED) * certainty
    mean = (flat * alpha).sum((1, 2, 3, 4)) / flat.sum((1, 2, 3, 4)).clamp(min=1)
    spread = (SPREAD * (1 - mean) / OPAQUE).clamp(OPAQUE_SPREAD, SPREAD)
    precision = spread.pow(-2)
    weighted = precision
    rest = background - seen
    for pairs in (across_frames(background, rest, alpha, flat * trust), along_time(background, rest, alpha, trust)):
        found, doubt = least_squares(pairs)
        precision = precision + 1 / doubt
        weighted = weighted + found / doubt
    return (weighted / precision).clamp(min=PRESENT)[:, None, None, None, None]


def across_frames(background: Tensor, rest: Tensor, alpha: Tensor, weight: Tensor) -> list[Pair]:
    """Differences between neighbouring pixels: the textures of the two layers have nothing to do with each other."""
    return [
        (weight * alpha * F.pad(background.diff(dim=dim), pad), weight * F.pad(rest.diff(dim=dim), pad))
        for dim, pad in ((-1, (0, 1)), (-2, (0, 0, 0, 1)))
    ]


def along_time(background: Tensor, rest: Tensor, alpha: Tensor, trust: Tensor) -> list[Pair]:
    """Differences to the mean over time at one place of the foreground, as that moves over the background: its own
    colour there is the same in all frames."""
    planes = torch.cat([alpha, trust, background, rest, torch.ones_like(alpha)], dim=2)
    followed = F.grid_sample(planes.flatten(0, 1), frames_of(alpha), align_corners=False).view_as(planes)
    c = background.shape[2]
    alpha, trust, background, rest, inside = followed.split([1, 1, c, c, 1], dim=2)
    weight = flat_parts(alpha) * trust * (inside > 0.99)
    total = weight.sum(1, keepdim=True).clamp(min=1e-3)
    change, left = (x - (weight * x).sum(1, keepdim=True) / total for x in (background, rest))
    return [(weight * alpha * change, weight * left)]


def frames_of(alpha: Tensor) -> Tensor:
    """Sampling grids (B*F, H, W, 2) under which a foreground stays in the middle and keeps its size: its matte's centre
    and spread, of which turning changes neither."""
    b, f, _, h, w = alpha.shape
    planes = alpha.flatten(0, 2)
    y, x = ((torch.arange(n, device=alpha.device) * 2 + 1) / n - 1 for n in (h, w))
    mass = planes.sum((1, 2)).clamp(min=1e-3)
    centre_x, centre_y = (planes * x).sum((1, 2)) / mass, (planes * y[:, None]).sum((1, 2)) / mass
    square = (x - centre_x[:, None, None]).square() + (y[:, None] - centre_y[:, None, None]).square()
    size = ((planes * square).sum((1, 2)) / mass).sqrt().view(b, f)
    scale = (size / size.amax(1, keepdim=True).clamp(min=1e-3)).flatten()
    nothing = torch.zeros_like(scale)
    theta = torch.stack([scale, nothing, centre_x, nothing, scale, centre_y], dim=1).view(-1, 2, 3)
    return F.affine_grid(theta, [b * f, 1, h, w], align_corners=False)


def flat_parts(alpha: Tensor) -> Tensor:
    """1 where a matte (B, F, 1, H, W) is there and hardly varies around the pixel, else 0."""
    planes = alpha.flatten(0, 1)
    most, least = F.max_pool2d(planes, 5, 1, 2), -F.max_pool2d(-planes, 5, 1, 2)
    return ((least > FLAT * most) & (least > PRESENT)).view_as(alpha).to(alpha.dtype)


def least_squares(pairs: list[Pair]) -> tuple[Tensor, Tensor]:
    """The factor (B,) by which the first of the pairs come nearest to the second, and its variance (B,), by how far
    cells of the frame agree on it (clustered standard errors)."""
    xx = torch.cat([cells(x.square()) for x, _ in pairs], dim=1)
    xy = torch.cat([cells(x * y) for x, y in pairs], dim=1)
    evidence = xx.sum(1)
    known = evidence > LEAST_EVIDENCE
    evidence = torch.where(known, evidence, 1)
    found = xy.sum(1) / evidence
    left = (xy - found[:, None] * xx).square().sum(1)
    number = evidence.square() / xx.square().sum(1).clamp(min=1e-12)  # of cells, were they all alike
    doubt = CAUTION * left / evidence.square() * number / (number - 1).clamp(min=1e-3) + LEAST_DOUBT
    return found, torch.where(known, doubt, torch.inf)


def cells(x: Tensor) -> Tensor:
    """Sums over frames, channels and cells of the frame: (B, F, C, H, W) to (B, cells)."""
    return F.avg_pool2d(x.sum((1, 2))[:, None], CELL, ceil_mode=True, divisor_override=1).flatten(1)
