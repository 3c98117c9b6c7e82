"""Recognises which look of the sprite book a clip shows, and at which phase of its own motion.

Training needs it: what prompts leave open is drawn by chance in sampling, and must be what the true clip shows here.

Letters in shape comments: F frames of one clip, C concepts, S styles, K looks, P phases, H height, W width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..world.art_objects import LOOP
from .carrying import spots
from .sprite_book import SpriteBook, Understood, likely

SIDE = 16
"""Height and width of a portrait."""
MOST_CONCEPTS, MOST_FRAMES = 3, 4
"""Concepts and frames that are compared at most."""
_WIDER = 2.0  # side of a portrait relative to that of a square with the matte's area


class Candidates(NamedTuple):
    """Looks that prompts leave possible, with chances that choose them."""

    look: Tensor
    """(K,)"""
    concept: Tensor
    """(K,) chance of the concept in [0, 1)."""
    style: Tensor
    """(K,) chance of the style in [0, 1)."""


def portraits(planes: Tensor, angle: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
    """Crop objects to pictures of one size, wherever they are and however large.

    Args:
        planes: (N, 4, H, W) premultiplied colour in [-1, 1] and alpha in [0, 1].
        angle: (N,) clockwise turn in radians, which is undone.
        mirrored: (N,) bool; mirrored ones are mirrored again.

    Returns:
        (N, 4, 16, 16), and (N,) bool, False where there is nothing to see.
    """
    found = spots(planes[:, None, 3])
    reach = _WIDER * found.size[:, 0].exp()  # half of the side, in half frames of a square frame
    cosine, sine = reach * angle.cos(), reach * angle.sin()
    flip, ratio = torch.where(mirrored, -1.0, 1.0), (planes.shape[-2] / planes.shape[-1]) ** 0.5
    rows = [
        torch.stack([ratio * flip * cosine, -ratio * sine, found.centre[:, 0, 0]], dim=-1),
        torch.stack([flip * sine / ratio, cosine / ratio, found.centre[:, 0, 1]], dim=-1),
    ]
    size = [len(planes), 4, 2 * SIDE, 2 * SIDE]
    grid = F.affine_grid(torch.stack(rows, dim=1), size, align_corners=False)
    return F.avg_pool2d(F.grid_sample(planes.float(), grid, align_corners=False), 2), found.there[:, 0]


def candidates(book: SpriteBook, understood: Understood) -> Candidates:
    """Return the looks that the prompts of one sample leave possible."""
    probability = likely(understood.concepts)[0]
    concepts = probability.topk(min(MOST_CONCEPTS, len(probability))).indices
    concepts = concepts[probability[concepts] > 0]
    reached = probability.double().cumsum(0)
    reached = reached / reached[-1]
    looks, chances, styles = [], [], []
    for concept in concepts.tolist():
        offered = book.looks[concept]  # (S,)
        shares = understood.styles[0].masked_fill(offered < 0, float("-inf")).softmax(-1).double()
        style = shares.cumsum(0) / shares.sum()
        there = (offered >= 0) & (shares > 0)
        looks.append(offered[there])
        styles.append((style - shares / shares.sum() / 2)[there])
        middle = reached[concept] - probability[concept].double() / (2 * probability.double().sum())
        chances.append(middle.expand(len(looks[-1])))
    return Candidates(torch.cat(looks), torch.cat(chances).float(), torch.cat(styles).float())


@torch.no_grad()
def recognise(
    book: SpriteBook, understood: Understood, planes: Tensor, positions: Tensor, angle: Tensor, mirrored: Tensor
) -> Tensor:
    """Return chances (3,) with which the book draws what one clip shows: of concept, style and phase at position 0.

    Args:
        book: a book.
        understood: meaning of the clip's prompts, for one sample.
        planes: (F, 4, H, W) premultiplied colour in [-1, 1] and alpha in [0, 1] of the true foreground.
        positions: (F,) position of each frame in its clip, in frames.
        angle: (F,) clockwise turn of the object in radians.
        mirrored: (F,) bool, whether it is mirrored.
    """
    shown, there = portraits(planes, angle, mirrored)
    frames = there.nonzero()[:, 0]
    if not len(frames):
        return torch.full((3,), 0.5, device=planes.device)
    frames = frames[torch.linspace(0, len(frames) - 1, min(MOST_FRAMES, len(frames))).round().long()]
    shown, positions = shown[frames], positions[frames]
    possible = candidates(book, understood)
    best, found = float("inf"), None
    for look, concept, style in zip(*possible, strict=True):
        count = LOOP if bool((book.owner == look).any()) else 1
        phase = torch.arange(count, device=planes.device)[None] / count
        drawn = book.coloured(book.draw(look[None], phase), understood, count)
        still = torch.zeros(count, device=planes.device)
        drawn, _ = portraits(drawn, still, still.bool())  # (P, 4, 16, 16)
        # Frame f shows phase p + f: compare all starts p at once.
        start = torch.arange(count, device=planes.device)[:, None]
        numbers = (start + positions.round().long()) % count  # (P, F)
        error = (drawn[numbers] - shown).abs().mean((1, 2, 3, 4))  # (P,)
        at = int(error.argmin())
        if float(error[at]) < best:
            best, found = float(error[at]), torch.stack([concept, style, phase[0, at]])
    assert found is not None
    return found
