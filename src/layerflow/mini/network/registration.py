"""Motion of a background between frames, so that what one frame hides can be copied from another that shows it.

Affine maps between neighbouring frames are estimated from brightness, coarse to fine (direct alignment after Lucas and
Kanade, 1981), with weights that leave out the foreground and, robustly, whatever else moves by itself. Maps between
distant frames are their products.

Coordinates are those of `F.grid_sample`: -1 and 1 are the borders of a frame. Letters in shape comments: B batch, F
frames of one clip, N pairs of frames, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = ((8, 6), (4, 5), (2, 4))
"""Factors by which frames are shrunk, coarse to fine, and iterations at each; whole frames are not aligned better."""
LEAST_SIDE = 12
"""Shortest side in pixels of a frame that is worth aligning."""
LEAST_SCALE = 0.02
"""Least residual in model space that counts as half an outlier."""
LEAST_SEEN = 0.02
"""Least mean weight with which a map is estimated; less leaves it as it was."""
DAMPING = 1e-3
"""Added to the diagonal of the normal equations, relative to its mean."""
SHARPNESS = 4.0
"""Exponent of the visibility of a background as a frame's weight."""
REACH = 6.0
"""Distance in frames over which the weight of a frame falls to 1/e: nearer frames are aligned better."""
MEDIAN_OF = 8
"""Most frames in a median."""
CONSTANCY = 0.02
"""Variance in model space at which aligned frames count as contradicting each other."""


def background_motion(seen: Tensor, visible: Tensor) -> Tensor:
    """Return the motion of the background from each frame to each, (B, F, F, 3, 3).

    The map at [b, t, f] takes coordinates (x, y, 1) of frame t to those of frame f.

    Args:
        seen: (B, F, C, H, W) blended video in model space.
        visible: (B, F, 1, H, W) in [0, 1], how much of the background is visible.
    """
    b, f = seen.shape[:2]
    identity = torch.eye(3, device=seen.device).expand(b, max(f - 1, 0), 3, 3)
    grey = seen.float().mean(2, keepdim=True)
    steps = identity
    if f > 1:
        first, second = (
            torch.cat([grey, visible.float()], dim=2)[:, part].flatten(0, 1) for part in (slice(f - 1), slice(1, f))
        )
        steps = _aligned(first, second).view(b, f - 1, 3, 3)
    maps = torch.eye(3, device=seen.device).repeat(b, f, f, 1, 1)
    for t in range(f):
        for other in range(t + 1, f):
            maps[:, t, other] = steps[:, other - 1] @ maps[:, t, other - 1]
            maps[:, other, t] = torch.linalg.inv(maps[:, t, other])
    return maps


def _aligned(first: Tensor, second: Tensor) -> Tensor:
    """Return the maps (N, 3, 3) from frames to others, both (N, 2, H, W) brightness and visibility."""
    n, _, height, width = first.shape
    theta = torch.eye(2, 3, device=first.device).repeat(n, 1, 1)
    for factor, iterations in LEVELS:
        if min(height, width) // factor < LEAST_SIDE:
            continue
        one, two = (F.avg_pool2d(x, factor, ceil_mode=True) for x in (first, second))
        theta = _descended(one, two, theta, iterations)
    return torch.cat([theta, theta.new_tensor([0.0, 0.0, 1.0]).expand(n, 1, 3)], dim=1)


def _descended(one: Tensor, two: Tensor, theta: Tensor, iterations: int) -> Tensor:
    """Return maps (N, 2, 3) after iterations of Gauss-Newton."""
    n, _, h, w = one.shape
    grid = F.affine_grid(torch.eye(2, 3, device=one.device)[None], [1, 1, h, w], align_corners=False)
    points = torch.cat([grid, torch.ones_like(grid[..., :1])], dim=-1).view(1, h * w, 3)
    padded = F.pad(two[:, :1], (1, 1, 1, 1), mode="replicate")
    slope_x = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) * (w / 4)  # per unit of x: a frame is 2 wide
    slope_y = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) * (h / 4)
    source = torch.cat([two, slope_x, slope_y], dim=1)
    for _ in range(iterations):
        moved = F.grid_sample(
            source, F.affine_grid(theta, [n, 1, h, w], align_corners=False), padding_mode="zeros", align_corners=False
        ).flatten(2)  # (N, 4, H*W)
        residual = moved[:, 0] - one[:, 0].flatten(1)
        trusted = moved[:, 1] * one[:, 1].flatten(1)  # zero outside of the other frame
        scale = (trusted * residual.abs()).sum(1, keepdim=True) / trusted.sum(1, keepdim=True).clamp(min=1e-6)
        scale = (1.5 * scale).clamp(min=LEAST_SCALE)
        weight = trusted / (1 + (residual / scale).square()).square()
        jacobian = torch.cat([moved[:, 2:3].mT * points, moved[:, 3:4].mT * points], dim=2)  # (N, H*W, 6)
        weighted = jacobian * weight[..., None]
        normal, side = weighted.mT @ jacobian, (weighted.mT @ residual[..., None])
        diagonal = normal.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        normal = normal + (DAMPING * diagonal + 1e-6) * torch.eye(6, device=one.device)
        step = torch.linalg.solve(normal, side).view(n, 2, 3)
        enough = (weight.mean(1) > LEAST_SEEN)[:, None, None]
        theta = torch.where(enough & (step.abs().amax((1, 2), keepdim=True) < 1), theta - step, theta)
    return theta


@torch.no_grad()
def uncovered(seen: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Copy a background along its motion from the frames that show it.

    Args:
        seen: (B, F, C, H, W) blended video in model space.
        visible: (B, F, 1, H, W) in [0, 1], how much of the background is visible.

    Returns:
        The background (B, F, C, H, W), and its certainty (B, F, 1, H, W) in [0, 1]: 0 where no frame shows it, or where
        the frames that do contradict each other.
    """
    with torch.autocast(seen.device.type, enabled=False):  # half a pixel is more than bfloat16 resolves
        return _uncovered(seen.float(), visible.float())


def _uncovered(seen: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    maps = background_motion(seen, visible)
    f, c = seen.shape[1:3]
    source = torch.cat([seen, visible], dim=2)
    backgrounds, certainties = [], []
    for t in range(f):
        moved, inside = _seen_from(source, maps[:, t])
        shown = moved[:, :, c : c + 1] * inside
        nearness = (-(torch.arange(f, device=seen.device) - t).abs() / REACH).exp().view(1, f, 1, 1, 1)
        weight = nearness * shown**SHARPNESS
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-6)
        mean = (weight * moved[:, :, :c]).sum(1)
        spread = (weight * (moved[:, :, :c] - mean[:, None]).square()).sum(1).mean(1, keepdim=True)
        around = F.avg_pool2d(spread, 7, 1, 3, count_include_pad=False)
        backgrounds.append(mean)
        certainties.append(shown.amax(1) ** SHARPNESS * torch.exp(-around / CONSTANCY))
    return torch.stack(backgrounds, dim=1), torch.stack(certainties, dim=1)


@torch.no_grad()
def own_motion(seen: Tensor, known: Tensor) -> Tensor:
    """Return how frames differ from others that are aligned with them: what is left moves by itself.

    Args:
        seen: (B, F, 3, H, W) blended video in model space.
        known: (B, F) bool, frames of it that are given.

    Returns:
        (B, F, 9, H, W): the frame before, the next one, and the median of up to `MEDIAN_OF` frames, each minus the
        frame itself; 0 where the other frame is not given or does not show the place.
    """
    with torch.autocast(seen.device.type, enabled=False):
        return _own_motion(seen.float(), known)


def _own_motion(seen: Tensor, known: Tensor) -> Tensor:
    f = known.shape[1]
    where = known[..., None, None, None]
    seen = torch.where(where, seen, 0)
    maps = background_motion(seen, where.float().expand(-1, -1, 1, *seen.shape[-2:]))
    spread = torch.linspace(0, f - 1, min(f, MEDIAN_OF)).round().long().tolist()
    differences = []
    for t in range(f):
        others = sorted({*spread, *(place for place in (t - 1, t + 1) if 0 <= place < f)})
        moved, inside = _seen_from(seen[:, others], maps[:, t, others])
        usable = inside & where[:, others] & where[:, t : t + 1]
        own = torch.where(usable, moved - seen[:, t : t + 1], torch.nan)
        nothing = torch.zeros_like(seen[:, t])
        planes = [own[:, others.index(near)] if near in others else nothing for near in (t - 1, t + 1)]
        planes.append(own[:, [others.index(place) for place in spread]].nanmedian(dim=1).values)
        differences.append(torch.cat(planes, dim=1).nan_to_num(nan=0.0))
    return torch.stack(differences, dim=1)


def _seen_from(frames: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return frames (B, F, C, H, W) as seen from one whose maps to them are (B, F, 3, 3), and where they show it,
    (B, F, 1, H, W) bool."""
    b, f, _, height, width = frames.shape
    grid = F.affine_grid(maps[:, :, :2].flatten(0, 1), [b * f, 1, height, width], align_corners=False)
    moved = F.grid_sample(frames.flatten(0, 1), grid, padding_mode="border", align_corners=False)
    inside = (grid.abs().amax(-1) <= 1).view(b, f, 1, height, width)
    return moved.unflatten(0, (b, f)), inside
