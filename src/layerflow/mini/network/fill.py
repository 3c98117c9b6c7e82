"""Inpainting of the part of a background that no frame shows.

A network that sees the foreground leaves traces of it in the background. This one sees the background alone, with a
hole, so that there is nothing to leave.

Letters in shape comments: N frames, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .sketch import zeroed


class FillBlock(nn.Module):
    """Residual block of two 3x3 convolutions, with scale and shift per level."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(4, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(4, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Parameter(torch.zeros(levels, 2, width))

    def forward(self, x: Tensor, level: int) -> Tensor:
        """Transform features (N, width, H, W) of a level."""
        scale, shift = self.modulation[level][:, None, :, None, None]
        h = self.conv1(F.silu(self.norm1(x)))
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return x + self.conv2(F.silu(h))


class BackgroundFill(nn.Module):
    """U-Net that shares its weights between levels, because patterns continue alike at any scale.

    Args:
        channels: channels of a frame.
        width: features at every level.
        levels: number of levels, each at half the size of the one before.
        patch_size: height and width of the pixel patches that are folded into channels first.
    """

    def __init__(self, channels: int = 3, width: int = 48, levels: int = 5, patch_size: int = 2) -> None:
        super().__init__()
        self.levels, self.patch_size = levels, patch_size
        self.stem = nn.Conv2d((channels + 1) * patch_size**2, width, 3, padding=1)
        self.down = FillBlock(width, levels)
        self.shrink = nn.Conv2d(width, width, 2, stride=2)
        self.grow = nn.Conv2d(width, 4 * width, 1)
        self.merge = nn.Conv2d(2 * width, width, 1)
        self.up = FillBlock(width, levels)
        self.head = zeroed(nn.Conv2d(width, channels * patch_size**2, 1))

    def forward(self, known: Tensor, certainty: Tensor) -> Tensor:
        """Inpaint backgrounds.

        Args:
            known: (N, C, H, W) background in model space, weighted with its certainty.
            certainty: (N, 1, H, W) in [0, 1]; 0 is a hole.

        Returns:
            The whole background (N, C, H, W).
        """
        height, width = known.shape[-2:]
        multiple = self.patch_size * 2 ** (self.levels - 1)
        known, certainty = (F.pad(x, (0, -width % multiple, 0, -height % multiple)) for x in (known, certainty))
        seen = torch.cat([known * certainty, 2 * certainty - 1], dim=1).to(self.stem.weight.dtype)
        x = F.pixel_unshuffle(seen, self.patch_size).contiguous(
            memory_format=torch.channels_last
        )  # (N, 4*p*p, H/p, W/p)
        x, skips = self.stem(x), []
        for level in range(self.levels):
            x = self.down(x, level)
            if level < self.levels - 1:
                skips.append(x)
                x = self.shrink(x)
        for level in reversed(range(self.levels)):
            if level < self.levels - 1:
                x = self.merge(torch.cat([F.pixel_shuffle(self.grow(x), 2), skips[level]], dim=1))
            x = self.up(x, level)
        return F.pixel_shuffle(self.head(x), self.patch_size)[..., :height, :width]
