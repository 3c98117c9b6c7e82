"""Clips side by side in channels, and pixels folded into channels: the form in which convolutions see a frame.

Letters in shape comments: B batch, K clips, F frames of one clip, N = B*F, C channels, H height, W width, p patch size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.schema import ALPHA, ALPHA_OF, CHANNELS, CLIPS, FOREGROUND
from ...models.layout import Layout

FOLDED_PLANES = sum(CHANNELS[name] for name in CLIPS)
"""Channels of the clips of one foreground, with background and blended, that convolutions see side by side."""


def fold(sequence: Tensor, layout: Layout, foregrounds: Sequence[str], patch_size: int) -> list[Tensor]:
    """Put clips side by side in channels, one for alpha: (B, K*F, C, H, W) to (N, planes*p*p, H/p, W/p) for each
    foreground, with background and blended."""
    clips = layout.unpack(sequence)
    folded = []
    for name in foregrounds:
        scene = {**clips, FOREGROUND: clips[name], ALPHA: clips[ALPHA_OF[name]]}
        planes = torch.cat([scene[own][:, :, : CHANNELS[own]] for own in CLIPS], dim=2)
        folded.append(fold_frames(planes, patch_size))
    return folded


def fold_frames(planes: Tensor, patch_size: int) -> Tensor:
    """Fold pixels (B, F, planes, H, W) into channels, (N, planes*p*p, H/p, W/p)."""
    folded = F.pixel_unshuffle(planes.flatten(0, 1), patch_size)
    return folded.contiguous(memory_format=torch.channels_last)


def unfold(x: Tensor, batch: int, patch_size: int) -> dict[str, Tensor]:
    """Invert `fold` for one foreground, to clips (B, F, C, H, W) by name, alpha with one channel."""
    planes = F.pixel_shuffle(x, patch_size).unflatten(0, (batch, -1))  # (B, F, planes, H, W)
    return dict(zip(CLIPS, planes.split([CHANNELS[name] for name in CLIPS], dim=2), strict=True))


def pool_noise(sequence: Tensor, timestep: Tensor, layout: Layout, pooling: int) -> tuple[Tensor, Tensor]:
    """Return a sequence and its noise levels as a network knows them that averages over pixels.

    The mean of r x r pixels of x_t = (1 - t) x + t n is (1 - t) x + (t / r) n, which is proportional to x_s at
    s = t / (r - (r - 1) t); the factor is (1 - s) / (1 - t) = r / (r - (r - 1) t). Given frames stay as they are.

    Args:
        sequence: (B, K*F, C, H, W).
        timestep: (B, K, F or 1) in [0, 1].
        layout: layout of the sequence.
        pooling: r.
    """
    if pooling == 1:
        return sequence, timestep
    divisor = pooling - (pooling - 1) * timestep
    return sequence * layout.per_frame(pooling / divisor).to(sequence.dtype), timestep / divisor
