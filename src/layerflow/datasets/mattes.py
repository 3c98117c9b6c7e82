"""Masks to mattes, with or without the faults of real mattes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def grow(mask: Tensor, pixels: int) -> Tensor:
    """Dilate a mask or matte (F, 1, H, W) by a number of pixels on every side, or erode it for a negative number."""
    if pixels == 0:
        return mask
    sign = 1 if pixels > 0 else -1
    size = 2 * abs(pixels) + 1
    return sign * F.max_pool2d(sign * mask.float(), size, 1, abs(pixels))


def plain_matte(frames: Tensor, mask: Tensor) -> Tensor:
    """Return the mask itself as alpha (F, 1, H, W), with its hard edges and errors."""
    return mask.float()


def crude_matte(mask: Tensor, generator: torch.Generator, most: int = 2) -> Tensor:
    """Return a matte with the usual faults of one drawn by hand or by a segmenter.

    Its edge is hard, lies up to `most` pixels outside the object, and jumps by a pixel from frame to frame.
    """
    outside = int(torch.randint(0, most + 1, (), generator=generator))
    jumps = torch.randint(-1, 2, (len(mask),), generator=generator).tolist()
    frames = [grow(frame[None], outside + jump) for frame, jump in zip(mask.float(), jumps, strict=True)]
    return (torch.cat(frames) > 0.5).float()
