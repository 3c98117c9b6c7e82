"""Several foregrounds with the weights of one.

What a network learns for a foreground holds for each of them, so all share stem, tokens and head; a scale and a shift
for each place in the stack tell them apart. The nearest has neither, so that a scene of one foreground needs none.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.schema import ALPHA, ALPHA_OF, FOREGROUND, MOST_FOREGROUNDS


class PlaceInStack(nn.Module):
    """Scale and shift of channels by the place of a foreground, 1 for the one behind the nearest.

    Args:
        channels: number of channels.
        distinct: start from random signs, so that a sum over foregrounds can be told apart; else from next to nothing.
    """

    def __init__(self, channels: int, distinct: bool = False) -> None:
        super().__init__()
        shape = MOST_FOREGROUNDS - 1, channels
        signs = torch.randint(0, 2, shape) * 2.0 - 1.0
        self.scale = nn.Parameter(signs if distinct else torch.ones(shape))
        self.shift = nn.Parameter(torch.randn(shape) * 0.02)

    def forward(self, x: Tensor, place: int, dim: int = 1) -> Tensor:
        """Transform x, whose channels are in dimension `dim`; at place 0 it stays as it is."""
        if place == 0:
            return x
        shape = [1] * x.dim()
        shape[dim] = -1
        return x * self.scale[place - 1].view(shape) + self.shift[place - 1].view(shape)


def shared_with(clip: str) -> tuple[str, int]:
    """Return the clip of a scene with one foreground whose weights a clip shares, and the place of its foreground.

    `alpha-3` shares those of `alpha`, at place 2; `background` is at place 0.
    """
    for place, (colour, alpha) in enumerate(ALPHA_OF.items()):
        if clip in (colour, alpha):
            return FOREGROUND if clip == colour else ALPHA, place
    return clip, 0


def share_of(layer: Any, x: Tensor) -> Tensor:
    """Return what the first channels of a convolution's input contribute to its output.

    Args:
        layer: convolution, perhaps with an adapter.
        x: (N, C, H, W) first channels of its input.
    """
    missing = layer.weight.shape[1] - x.shape[1]
    out: Tensor = layer(F.pad(x, (0, 0, 0, 0, 0, missing)))
    return out - layer.bias.view(-1, 1, 1)
