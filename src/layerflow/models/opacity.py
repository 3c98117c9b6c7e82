"""How opaque a foreground is, told by the background that shines through it.

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
SPREAD = 0.25
"""Standard deviation of what is drawn too opaque or too clear, as a factor."""
LEAST_DOUBT = 1e-4
"""Of the evidence, as a variance of the factor."""
OPAQUE = 0.05
"""How far from 1 alpha is at most where a foreground is taken for opaque, and believed the more the nearer it is."""


def opacity_factor(seen: Tensor, background: Tensor, alpha: Tensor, certainty: Tensor) -> Tensor:
    """By how much to multiply a matte so that its foreground keeps nothing of the background's texture.

    Where a matte is flat, the gradient of the background less the video is alpha times that of the background less
    alpha times that of the foreground. The textures of the two layers have nothing to do with each other, so least
    squares find alpha; how surely, cells of the frame tell that agree or do not (clustered standard errors), and by
    that the factor is drawn to 1.

    Args:
        seen, background: (B, F, C, H, W) in any one range.
        alpha: (B, F, 1, H, W) from 0 to 1.
        certainty: (B, F, 1, H, W) from 0, where the background is a guess, to 1.

    Returns:
        (B, 1, 1, 1, 1); 1 where nothing that has texture shines through.
    """
    planes = alpha.flatten(0, 1)
    most, least = F.max_pool2d(planes, 5, 1, 2), -F.max_pool2d(-planes, 5, 1, 2)
    flat = ((least > FLAT * most) & (least > PRESENT)).view_as(alpha).to(alpha.dtype)
    weight = flat * (GUESSED + (1 - GUESSED) * certainty)
    pairs = [
        (weight * alpha * across, weight * rest)
        for across, rest in zip(gradients(background), gradients(background - seen), strict=True)
    ]
    whole = (1, 2, 3, 4)
    # (B, 2, cells): both directions of the gradient.
    xx = torch.stack([cells(x.square()) for x, _ in pairs], dim=1).clamp(min=1e-9)
    xy = torch.stack([cells(x * y) for x, y in pairs], dim=1)
    evidence = xx.sum((1, 2))
    found = xy.sum((1, 2)) / evidence
    left = (xy - found[:, None, None] * xx).square().sum((1, 2))
    number = evidence.square() / xx.square().sum((1, 2))  # of cells, were they all alike
    doubt = CAUTION * left / evidence.square() * number / (number - 1).clamp(min=1e-3) + LEAST_DOUBT
    mean = (flat * alpha).sum(whole) / flat.sum(whole).clamp(min=1)
    spread = (SPREAD * ((1 - mean) / OPAQUE).clamp(0, 1)).square() * (evidence > 1e-4)
    factor = (found * spread + doubt) / (spread + doubt)
    return factor.clamp(min=PRESENT)[:, None, None, None, None]


def cells(x: Tensor) -> Tensor:
    """Sums over frames, channels and cells of the frame: (B, F, C, H, W) to (B, cells)."""
    return F.avg_pool2d(x.sum((1, 2))[:, None], CELL, ceil_mode=True, divisor_override=1).flatten(1)


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences to the pixels on the right and below, (..., H, W) each, 0 in the last column or row."""
    return F.pad(x.diff(dim=-1), (0, 1)), F.pad(x.diff(dim=-2), (0, 0, 0, 1))
