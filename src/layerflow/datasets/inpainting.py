"""Fill in the background behind an object: from other frames along optical flow, else from the surroundings.

Letters in shape comments: F frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..core.optical_flow import flows_both_ways, warp

KNOWN = 0.99
"""Share of known pixels among those that a warped pixel is mixed of, for it to count as known."""


def inpaint(frames: Tensor, hole: Tensor, still: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
    """Fill a hole that moves over a video.

    Colours travel from frame to frame along the background's flow, which inside of the hole is continued from around
    it; a pixel visible both earlier and later takes more of the nearer frame. Pixels that no frame shows are filled in
    from their surroundings in the frame where most is known, and travel on from there, so that they do not flicker.

    Args:
        frames: (F, 3, H, W) in [0, 1].
        hole: (F, 1, H, W) bool, True where the object is.
        still: function that fills that one frame, from a frame (3, H, W) and its hole (1, H, W); `fill_still` by
            default.

    Returns:
        (F, 3, H, W) in [0, 1], unchanged outside the hole.
    """
    if frames.shape[0] != hole.shape[0] or frames.shape[-2:] != hole.shape[-2:]:
        raise ValueError(f"frames {tuple(frames.shape)} and hole {tuple(hole.shape)} differ in frames or size")
    if not hole.any():
        return frames
    ahead, back = flows_both_ways(frames, hole)  # from each frame to the next, and to the one before
    filled, known = gather(frames, ~hole, ahead, back)
    if known.all():
        return filled
    best = int(known.flatten(1).sum(1).argmax())
    filled[best] = (still or fill_still)(filled[best], ~known[best])
    known[best] = True
    filled, known = gather(filled, known, ahead, back)
    for index in range(len(filled)):  # pixels that have entered or left the view since
        filled[index] = fill_still(filled[index], ~known[index])
    return filled


def gather(frames: Tensor, known: Tensor, ahead: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """Fill unknown pixels from the frames before and after, near ones first; return colours and which are known now."""
    count = len(frames)
    before = travel(frames, known, back, range(1, count), -1)
    after = travel(frames, known, ahead, range(count - 2, -1, -1), 1)
    weights = [torch.where(seen, 1 / age, 0.0) for _, seen, age in (before, after)]
    total = (weights[0] + weights[1]).clamp(min=1e-6)
    mixed = (before[0] * weights[0] + after[0] * weights[1]) / total
    now = known | before[1] | after[1]
    return torch.where(~known & now, mixed, frames), now


def travel(frames: Tensor, known: Tensor, flow: Tensor, order: range, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pass known colours on from frame to frame; return colours, which are known, and their age in frames."""
    colour, seen, age = frames.clone(), known.clone(), torch.ones_like(known, dtype=torch.float32)
    for index in order:
        source = index + step
        moved = flow[min(index, source)][None]
        parts = torch.cat([colour[source], seen[source].float(), age[source]])[None]
        warped = warp(parts, moved)[0]
        new = ~seen[index] & (warped[3:4] > KNOWN)
        colour[index] = torch.where(new, warped[:3], colour[index])
        age[index] = torch.where(new, warped[4:5] + 1, age[index])
        seen[index] |= new
    return colour, seen, age


def fill_still(frame: Tensor, hole: Tensor, radius: float = 3.0) -> Tensor:
    """Fill a hole (1, H, W) of one frame (3, H, W) from around it (Telea 2004); a frame that is all hole turns grey."""
    import cv2

    if not hole.any():
        return frame
    if hole.all():
        return torch.full_like(frame, 0.5)
    pixels = np.ascontiguousarray((frame * 255).round().byte().permute(1, 2, 0).numpy())
    mask = np.ascontiguousarray(hole[0].byte().numpy())
    filled = cv2.inpaint(pixels, mask, radius, cv2.INPAINT_TELEA)
    return torch.where(hole, torch.from_numpy(filled).permute(2, 0, 1).float() / 255, frame)
