"""What samples of training are given besides the whole clips of their task: frames, and places of mattes.

Letters in shape comments: A mattes, F frames of a clip, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.compositing import blend
from ..core.schema import ALPHA_OF, BACKGROUND, BLENDED, LAYER_OF_CLIP
from ..datasets.encoding import clips_for
from ..models.given import mattes_of

MOST_INSIDE, MOST_OUTSIDE = 3, 2
"""Clicks on the foreground, of which there is at least one, and beside it."""
CLICK = (0.015, 0.05)
"""Range of the radius of a click's disc, in heights of the frame."""
BAND = (0.02, 0.1)
"""Range of the width of a trimap's unknown band on either side of an edge, in heights of the frame."""
LEAST_OVERLAP = 0.01
"""Share of the smaller of two foregrounds from which their overlap tells which is nearer."""
TOLD = 0.5
"""Chance that the clips of foregrounds that a scene lacks are given as transparent, as they are in sampling."""
SURE = 0.95
"""Alpha from which a pixel is surely foreground; one minus it, background."""


def draw_kind(shares: Mapping[str, float], rng: np.random.Generator) -> str:
    """Draw a kind by its share of samples; "" for the rest."""
    draw = rng.random()
    for kind, share in shares.items():
        draw -= share
        if draw < 0:
            return kind
    return ""


def draw_frames(
    kind: str, whole: frozenset[str], clips: Sequence[str], frames: int, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Draw a mask of given frames.

    Args:
        kind: one of `recipe.FRAME_MASKS`, or "" for none.
        whole: clips that are given whole.
        clips: all clips of the sequence.
        frames: latent frames of a clip; of single ones there are no masks.
        rng: source of randomness.

    Returns:
        Masks (F,) bool of all clips with a given frame, by name.
    """
    masks = {name: torch.ones(frames, dtype=torch.bool) for name in whole}
    others = [name for name in clips if name not in whole]
    if not kind or frames < 2:
        return masks
    if kind == "matte":
        chosen, numbers = _one(mattes_of(others), rng), [int(rng.integers(frames))]
    elif kind == "prefix":
        chosen, numbers = others, list(range(int(rng.integers(1, frames))))
    else:
        chosen = _some(others, rng)
        few = np.sort(rng.choice(frames, int(rng.integers(1, frames)), replace=False)).tolist()
        numbers = {"first": [0], "ends": [0, frames - 1], "few": few}[kind]
        if len(numbers) == frames:
            numbers = numbers[:1]
    for name in chosen:
        masks[name] = torch.zeros(frames, dtype=torch.bool)
        masks[name][numbers] = True
    return masks


def _one(names: Sequence[str], rng: np.random.Generator) -> list[str]:
    return [names[int(rng.integers(len(names)))]] if names else []


def _some(clips: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Draw at least one of some clips; half of the time colour and alpha of a layer go together."""
    together = rng.random() < 0.5
    groups = list(dict.fromkeys(LAYER_OF_CLIP[name] if together else name for name in clips))
    chosen = {group for group in groups if rng.random() < 0.5} or set(_one(groups, rng))
    return [name for name in clips if (LAYER_OF_CLIP[name] if together else name) in chosen]


def draw_hints(
    kind: str, mattes: Mapping[str, Tensor], given: Mapping[str, Tensor], rng: np.random.Generator
) -> Tensor:
    """Draw known places of one matte at one frame.

    Args:
        kind: one of `recipe.HINTS`, or "" for none.
        mattes: alpha (F, 1, H, W) in [0, 1] of each foreground, by clip.
        given: masks (F,) of given frames by clip; these have no hints.
        rng: source of randomness.

    Returns:
        (A, F, 2, H, W), as for `Backbone.forward`.
    """
    first = next(iter(mattes.values()))
    hints = torch.zeros(len(mattes), len(first), 2, *first.shape[2:])
    none = torch.zeros(len(first), dtype=torch.bool)
    places = [
        (row, frame)
        for row, (name, alpha) in enumerate(mattes.items())
        for frame in range(len(alpha))
        if not given.get(name, none)[frame] and bool((alpha[frame] > SURE).any())
    ]
    if not kind or not places:
        return hints
    row, frame = places[int(rng.integers(len(places)))]
    alpha = list(mattes.values())[row][frame, 0]
    draw = {"click": _clicks, "trimap": _trimap, "matte": lambda matte, _: (matte, torch.ones_like(matte))}[kind]
    value, known = draw(alpha, rng)
    hints[row, frame] = torch.stack([known * (2 * value - 1), known])
    return hints


def _clicks(alpha: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return value and known places (H, W) of discs around pixels inside and outside of a matte."""
    height, width = alpha.shape
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    value, known = torch.zeros_like(alpha), torch.zeros_like(alpha)
    counts = int(rng.integers(1, MOST_INSIDE + 1)), int(rng.integers(MOST_OUTSIDE + 1))
    for count, inside in zip(counts, (True, False), strict=True):
        pixels = ((alpha > SURE) if inside else (alpha < 1 - SURE)).nonzero()
        for _ in range(count if len(pixels) else 0):
            row, column = pixels[int(rng.integers(len(pixels)))].tolist()
            radius = max(0.5, float(rng.uniform(*CLICK)) * height)
            disc = (rows - row).square() + (columns - column).square() <= radius**2
            value[disc], known[disc] = float(inside), 1.0
    return value, known


def _trimap(alpha: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return value and known places (H, W) of a trimap: all but a band along edges and soft parts."""
    radius = max(1, round(float(rng.uniform(*BAND)) * alpha.shape[0]))
    sure = torch.stack([alpha > SURE, alpha < 1 - SURE]).float()[:, None]
    inner = 1 - F.max_pool2d(1 - sure, 2 * radius + 1, 1, radius)[:, 0]
    return inner[0], inner.sum(0).clamp(max=1)


def choose_foregrounds(
    clips: Mapping[str, Tensor], captions: Mapping[str, str], names: Sequence[str], rng: np.random.Generator
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the clips of a network from those of a sample, and their captions.

    Of more foregrounds than the network has, a random few stay, and the others become part of the background: which is
    meant can then only be seen from what is given. A foreground that is
    hidden by one of them becomes transparent there. Those that the sample lacks are transparent.

    Args:
        clips: (F, C, H, W) in [0, 1] of all layers of the sample, by name.
        captions: captions by layer.
        names: clips of the network.
        rng: source of randomness; not used where there is nothing to choose.
    """
    count = sum(name in ALPHA_OF for name in names)
    own = [name for name in ALPHA_OF if name in clips]
    if len(own) <= count:
        return clips_for(clips, names), dict(captions)
    kept = sorted(rng.choice(len(own), count, replace=False).tolist())
    background, through = clips[BACKGROUND], torch.ones_like(clips[ALPHA_OF[own[0]]])
    chosen = {name: clip for name, clip in clips.items() if name == BLENDED}
    texts = {layer: text for layer, text in captions.items() if layer not in (*own, BLENDED)}
    for place, name in enumerate(own):
        colour, alpha = clips[name], clips[ALPHA_OF[name]]
        if place not in kept:
            through = through * (1 - alpha)
            continue
        layer = list(ALPHA_OF)[kept.index(place)]
        chosen |= {layer: colour, ALPHA_OF[layer]: alpha * through}
        if name in captions:
            texts[layer] = captions[name]
    for place, name in reversed(list(enumerate(own))):
        if place not in kept:
            background = blend(clips[name], clips[ALPHA_OF[name]], background)
    return clips_for(chosen | {BACKGROUND: background}, names), texts


def lacking(clips: Mapping[str, Tensor], names: Sequence[str], rng: np.random.Generator) -> frozenset[str]:
    """Draw which clips are given because the scene lacks their foreground: all of them, or none.

    Args:
        clips: (F, C, H, W) in [0, 1] of a network, by name.
        names: clips of the network.
        rng: source of randomness; not used where nothing is lacking.
    """
    empty = [colour for colour, alpha in ALPHA_OF.items() if alpha in names and not bool(clips[alpha].any())]
    further = [colour for colour in empty if colour != next(iter(ALPHA_OF))]
    if not further or rng.random() >= TOLD:
        return frozenset()
    return frozenset(name for colour in further for name in (colour, ALPHA_OF[colour]))


def are_interchangeable(
    clips: Mapping[str, Tensor],
    prompts: Sequence[str],
    layers: Sequence[str],
    given: Mapping[str, Tensor],
    hints: Tensor | None,
) -> bool:
    """Return whether nothing tells which foreground of a sample comes first: none of them is prompted, given or hinted
    at, and they hardly overlap, so that none is nearer.

    Args:
        clips: (F, C, H, W) in [0, 1]; empty where only latents are known, of which this cannot be said.
        prompts: of the sample, in the order of `layers`.
        layers: from `prompt_layers`.
        given: masks of given frames by clip.
        hints: from `draw_hints`.
    """
    mattes = {colour: clips[alpha] for colour, alpha in ALPHA_OF.items() if alpha in clips}
    told = any(text and layer in ALPHA_OF for layer, text in zip(layers, prompts, strict=True))
    known = any(name in given for pair in ALPHA_OF.items() for name in pair) or (
        hints is not None and bool(hints.any())
    )
    if len(mattes) < 2 or told or known:
        return False
    pairs = combinations(mattes.values(), 2)
    return all(float((a * b).sum()) <= LEAST_OVERLAP * float(torch.minimum(a.sum(), b.sum())) for a, b in pairs)


__all__ = ["are_interchangeable", "choose_foregrounds", "draw_frames", "draw_hints", "draw_kind", "lacking"]
