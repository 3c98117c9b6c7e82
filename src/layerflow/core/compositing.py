"""Alpha arithmetic: compositing, its inverses, and colour where alpha hides it. No other module divides by alpha.

Letters: F frames, H height, W width. Colour is display-referred sRGB and alpha is coverage, 0 transparent to 1 opaque.
Straight colour does not depend on alpha; premultiplied colour is straight colour times alpha.

Source of the model: Porter and Duff 1984, Compositing Digital Images, SIGGRAPH.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def blend(foreground: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
    """Return alpha * foreground + (1 - alpha) * background, shapes broadcast. Exact where alpha is 0 or 1.

    Porter and Duff 1984, the operator `over`, on straight colour over an opaque background.
    """
    return alpha * foreground + (1 - alpha) * background


Stack = Sequence[tuple[Tensor, Tensor]]
"""Straight colour and alpha of several foregrounds, the nearest first."""


def blend_all(foregrounds: Stack, background: Tensor) -> Tensor:
    """Return foregrounds over a background, in [0, 1]: `blend` from the farthest to the nearest.

    foregrounds: colour (F, 3, H, W) and alpha (F, 1, H, W) of each, nearest first. background: (F, 3, H, W) or any
    shape that broadcasts. Exact where the alphas are 0 or 1.
    """
    for colour, alpha in reversed(foregrounds):
        background = blend(colour, alpha, background).clamp(0, 1)
    return background


def premultiply_all(foregrounds: Stack) -> tuple[Tensor, Tensor]:
    """Return premultiplied colour (F, 3, H, W) and alpha (F, 1, H, W), in [0, 1], of foregrounds merged into one.

    `over` on premultiplied colour is associative (Porter and Duff 1984), so the result over any background is the same
    as that of `blend_all`. There must be at least one foreground.
    """
    *nearer, (colour, coverage) = foregrounds
    premultiplied = coverage * colour
    for colour, alpha in reversed(nearer):
        premultiplied = blend(colour, alpha, premultiplied).clamp(0, 1)
        coverage = (alpha + (1 - alpha) * coverage).clamp(0, 1)
    return premultiplied, coverage


def flatten(foregrounds: Stack) -> tuple[Tensor, Tensor]:
    """Return straight colour and alpha of foregrounds merged into one, in [0, 1], computed in float64.

    Where only one of them is visible, its values are kept bit for bit; where none is, colour is 0.
    """
    premultiplied, alpha = premultiply_all([(colour.double(), alpha.double()) for colour, alpha in foregrounds])
    return unpremultiply(premultiplied, alpha).float(), alpha.float()


def unpremultiply(
    colour: Tensor, alpha: Tensor, floor: float = 0.0, limits: tuple[float, float] | None = (0.0, 1.0)
) -> Tensor:
    """Divide premultiplied colour by alpha to get straight colour.

    Premultiplied colour as in Porter and Duff 1984. Rounding noise e in the colour becomes e / alpha, which a floor
    limits to e / floor, at the price of colour that is too weak where alpha is below the floor.

    Args:
        colour: premultiplied, such as (F, 3, H, W). In [0, 1], or in [-1, 1] around mid-grey in model space.
        alpha: (F, 1, H, W) or any shape that broadcasts with colour, in [0, 1].
        floor: least value to divide by. At 0, every alpha above 0 divides as it is, and where alpha is 0 the result
            is 0.
        limits: range that the result is clamped to; None leaves it as it is.

    Returns:
        Straight colour, in the shape that colour and alpha broadcast to and in their dtype.
    """
    if floor > 0:
        straight = colour / alpha.clamp(min=floor)
    else:
        visible = alpha > 0
        straight = colour / torch.where(visible, alpha, torch.ones_like(alpha))
        straight = torch.where(visible, straight, torch.zeros_like(straight))
    return straight if limits is None else straight.clamp(*limits)


def uncompose(blended: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
    """Return the straight foreground that gives `blended` over `background`, (F, 3, H, W) in [0, 1].

    blended, background (F, 3, H, W) and alpha (F, 1, H, W), in [0, 1]; the inverse of `blend`, in float64. The result
    is 0 where alpha is 0, since nothing of it is visible there. An error e in the inputs becomes e / alpha: see
    `extend_colour` for edges.
    """
    blended, alpha, background = blended.double(), alpha.double(), background.double()
    return unpremultiply(blended - (1 - alpha) * background, alpha).float()


def extend_colour(colour: Tensor, alpha: Tensor, threshold: float = 0.05) -> Tensor:
    """Fill in straight colour where alpha is below `threshold` from its surroundings.

    Pixels at or above the threshold are kept bit for bit. A scaler or a codec that mixes neighbours then finds the
    foreground's own colour beyond its edge, not black. Frames without such a pixel stay as they are. colour
    (F, 3, H, W), alpha (F, 1, H, W), in [0, 1]; result (F, 3, H, W) in [0, 1]. Raises `ValueError` when the threshold
    is out of its range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}: it must lie above 0 and not above 1, such as 0.05.")
    known = alpha >= threshold
    weight = torch.where(known, alpha, torch.zeros_like(alpha))
    filled = pull_push(colour * weight, weight).clamp(0, 1)
    anything = known.flatten(1).any(dim=1).view(-1, 1, 1, 1)
    return torch.where(known | ~anything, colour, filled)


def pull_push(weighted: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted average around each pixel, from coarser levels where its own weight is short of 1.

    weighted (F, C, H, W): values, of any range, times their weight; weight (F, 1, H, W) in [0, 1]. Result
    (F, C, H, W). Pull and push over a pyramid: Gortler et al. 1996, The Lumigraph, section 3.4.
    """
    own = unpremultiply(weighted, weight, floor=1e-12, limits=None)
    height, width = weight.shape[-2:]
    if height == 1 and width == 1:
        return own
    padding = (0, width % 2, 0, height % 2)
    coarse_weight = F.avg_pool2d(F.pad(weight, padding), 2)
    coarse = pull_push(F.avg_pool2d(F.pad(weighted, padding), 2), coarse_weight)
    above = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    return torch.lerp(above[..., :height, :width], own, weight.clamp(0, 1))


__all__ = [
    "blend",
    "blend_all",
    "extend_colour",
    "flatten",
    "premultiply_all",
    "pull_push",
    "uncompose",
    "unpremultiply",
]
