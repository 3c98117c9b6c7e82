"""Carries what some frames of an object show to all frames of its clip, along the path that prompts describe.

Letters in shape comments: B batch, F frames of one clip, N = B*F, H height, W width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EMPTY = 0.003
"""Share of the frame under which a matte counts as empty."""


class Spots(NamedTuple):
    """Where mattes are."""

    centre: Tensor
    """(B, F, 2) centre x and y in half frames from the middle."""
    size: Tensor
    """(B, F) logarithm of the root of the share of the frame that is covered."""
    there: Tensor
    """(B, F) bool, False where a matte is empty."""


class Course(NamedTuple):
    """Poses of objects over clips; only their differences matter."""

    place: Tensor
    """(B, F, 2) x and y in half frames from the middle."""
    size: Tensor
    """(B, F) logarithm of the size."""
    angle: Tensor
    """(B, F) clockwise turn in radians."""


def spots(alpha: Tensor) -> Spots:
    """Measure mattes (B, F, H, W) in [0, 1]."""
    cover = alpha.float().clamp(0, 1)
    mass = cover.sum((2, 3))  # (B, F)
    columns = torch.linspace(-1, 1, 2 * cover.shape[3] + 1, device=alpha.device)[1::2]
    rows = torch.linspace(-1, 1, 2 * cover.shape[2] + 1, device=alpha.device)[1::2]
    x = (cover.sum(2) * columns).sum(2) / mass.clamp(min=1e-6)
    y = (cover.sum(3) * rows).sum(2) / mass.clamp(min=1e-6)
    share = mass / (cover.shape[2] * cover.shape[3])
    return Spots(torch.stack([x, y], dim=-1), 0.5 * share.clamp(min=1e-6).log(), share > EMPTY)


def carry(planes: Tensor, known: Tensor, course: Course) -> tuple[Tensor, Tensor]:
    """Carry an object from the frames that show it to the others.

    It is moved, enlarged and turned as its course tells. Between two known frames it changes from one to the other,
    and what the course lacks to arrive at the second is spread over the frames between them.

    Args:
        planes: (B, F, 4, H, W) premultiplied colour and alpha in [0, 1]; unknown frames are not looked at.
        known: (B, F) bool, which frames are known.
        course: poses.

    Returns:
        Planes of the same shape, known frames unchanged, and (B,) bool, False where no known frame shows an object; its
        planes are zero.
    """
    found = spots(planes[:, :, 3])
    use = known & found.there  # (B, F)
    frames = planes.shape[1]
    number = torch.arange(frames, device=planes.device)
    last = torch.where(use, number, -1).cummax(1).values  # (B, F) the known frame before or at each
    following = torch.where(use, number, frames).flip(1).cummin(1).values.flip(1)
    before = torch.where(last < 0, following, last).clamp(0, frames - 1)
    after = torch.where(following >= frames, last, following).clamp(0, frames - 1)
    gap = (after - before).clamp(min=1)
    share = ((number - before) / gap).clamp(0, 1) * (after > before)  # (B, F)

    def blend(values: Tensor) -> Tensor:
        """Interpolate (B, F, 3) of the known frames."""
        one, other = (values.gather(1, at[..., None].expand_as(values)) for at in (before, after))
        return one + share[..., None] * (other - one)

    path = torch.cat([course.place, course.size[..., None]], dim=-1)
    seen = torch.cat([found.centre, found.size[..., None]], dim=-1)
    goal = path + blend(seen - path)  # (B, F, 3)
    some = use.any(1)
    carried = torch.zeros_like(planes)
    for at, weight in ((before, 1 - share), (after, share)):
        source = seen.gather(1, at[..., None].expand_as(seen))
        shrink = (source[..., 2] - goal[..., 2]).exp()
        angle = course.angle - course.angle.gather(1, at)
        cosine, sine = shrink * angle.cos(), shrink * angle.sin()
        x, y, ratio = goal[..., 0], goal[..., 1], planes.shape[-2] / planes.shape[-1]  # turned in pixels
        rows = [
            torch.stack([cosine, ratio * sine, source[..., 0] - cosine * x - ratio * sine * y], dim=-1),
            torch.stack([-sine / ratio, cosine, source[..., 1] + sine / ratio * x - cosine * y], dim=-1),
        ]
        pictures = planes.gather(1, at[..., None, None, None].expand_as(planes)).flatten(0, 1)
        theta = torch.stack(rows, dim=-2).flatten(0, 1).to(planes.dtype)
        grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
        moved = F.grid_sample(pictures, grid, align_corners=False).unflatten(0, planes.shape[:2])
        carried = carried + weight[..., None, None, None] * moved
    carried = torch.where(known[..., None, None, None], planes, carried)
    return carried * some.view(-1, 1, 1, 1, 1), some
