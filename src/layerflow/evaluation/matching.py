"""Foregrounds of a result matched to the true ones: the order in which a model decomposes into them is ambiguous.

Mattes are alpha (F, 1, H, W) in [0, 1], one of each foreground.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from math import fsum

import torch
from torch import Tensor

from ..core.layered_video import Foreground, LayeredVideo
from .metrics import alpha_iou, alpha_mae


def mattes_of(video: LayeredVideo) -> list[Tensor]:
    """Return the mattes of all foregrounds, nearest first; none where a foreground lacks its matte."""
    mattes = [one.alpha for one in video.foregrounds if one.alpha is not None]
    return mattes if len(mattes) == len(video.foregrounds) else []


def match(made: Sequence[Tensor], true: Sequence[Tensor]) -> tuple[int | None, ...]:
    """Return for each true matte the index of the made one that belongs to it, or None.

    Of all assignments of different made mattes to the true ones, the one of the largest sum of IoU is chosen, and of
    equally good ones that of the smallest sum of absolute errors. Where there are fewer made mattes than true ones, the
    missing ones count as transparent. The search is exact, over at most 8! assignments.
    """
    if not true:
        return ()
    candidates = [*made, *[torch.zeros_like(true[0])] * (len(true) - len(made))]
    ious = [[alpha_iou(one, other) for one in candidates] for other in true]
    errors = [[alpha_mae(one, other) for one in candidates] for other in true]

    def score(order: Sequence[int]) -> tuple[float, float]:
        # Sums that are rounded once do not depend on the order of their terms.
        return fsum(row[index] for row, index in zip(ious, order, strict=True)), -fsum(
            row[index] for row, index in zip(errors, order, strict=True)
        )

    best = max(permutations(range(len(candidates)), len(true)), key=score)
    return tuple(index if index < len(made) else None for index in best)


def repeated_iou(made: Sequence[Tensor], true: Sequence[Tensor]) -> float:
    """Return the largest mean IoU that one and the same made matte reaches against all true ones.

    A decomposition into several foregrounds must beat it: it is what a method reaches that finds one foreground and
    takes it for every other too.
    """
    return max(fsum(alpha_iou(one, other) for other in true) / len(true) for one in made)


def matched(made: LayeredVideo, true: LayeredVideo) -> tuple[LayeredVideo, list[Foreground]]:
    """Return a result with its foregrounds in the order of the true ones, and its foregrounds that match none.

    Missing foregrounds are transparent, in grey. A video whose foregrounds lack mattes is returned as it is.
    """
    mattes, targets = mattes_of(made), mattes_of(true)
    if not mattes or not targets:
        return made, []
    order = match(mattes, targets)
    empty = Foreground(
        targets[0].new_full((len(targets[0]), 3, *targets[0].shape[2:]), 0.5), torch.zeros_like(targets[0])
    )
    own = made.foregrounds
    surplus = [one for index, one in enumerate(own) if index not in order]
    return made.replace(foregrounds=[empty if index is None else own[index] for index in order]), surplus


__all__ = ["match", "matched", "mattes_of", "repeated_iou"]
