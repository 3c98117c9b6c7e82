"""Given frames on their way into a model's sequence.

Letters in shape comments: B batch, K clips, F latent frames of one clip (1 where clips are given whole or not at all),
N latent frames of the sequence, A mattes, C latent channels, h, w latents.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.given import Given
from ..core.layered_video import LayeredVideo
from ..core.schema import CHANNELS
from .codec import SequenceCodec
from .layout import Layout
from .model_space import given_space


@dataclass(frozen=True)
class Clean:
    """What is given of a sequence."""

    sequence: Tensor
    """(B, N, C, h, w) clean latents where frames are given, anything elsewhere."""
    given: Tensor
    """(B, K, F) bool, True for given frames."""
    where: Tensor
    """(B, N, 1, 1, 1) bool, the same along the sequence."""


def prepare_given(
    given: Sequence[Given],
    codec: SequenceCodec,
    layout: Layout,
    size: tuple[int, int, int, int],
    device: torch.device,
    upscale: int = 1,
    given_frames: tuple[int, int] | None = None,
) -> Clean:
    """Encode given frames.

    Args:
        given: of one sample for the whole batch, or of each; all give the same frames of the same clips.
        codec: conversion between clips in pixels and the sequence.
        layout: of the sequence, in latent frames.
        size: (B, C, h, w) of the sequence.
        device: device of the result.
        upscale: given clips are reduced by it.
        given_frames: first and one past the last latent frame of the sequence that count as given, where anything is;
            one official model is given the end of a clip only.

    Raises:
        ValueError: the model does not take these frames without others.
    """
    batch = size[0]
    clips = {name: clip for name, clip in batched(given, batch, device).items() if name in layout.clips}
    if upscale > 1:
        clips = {name: F.avg_pool3d(clip, (1, upscale, upscale)) for name, clip in clips.items()}
    sequence = codec.encode(clips, layout, size).to(device)
    masks = {name: codec.latent_mask(name, given[0].mask(name)) for name in clips}
    mask = layout.given_mask(masks, device).expand(batch, -1, -1)
    where = layout.per_frame(mask)
    if clips and given_frames is not None:
        where = torch.zeros_like(where)
        where[:, slice(*given_frames)] = True
    return Clean(sequence, mask, where)


def with_transparent(given: Sequence[Given], absent: Sequence[str], size: tuple[int, int, int]) -> list[Given]:
    """Return givens in which the clips of absent foregrounds are given as transparent; `size` is (F, H, W)."""
    if not absent:
        return list(given)
    frames, *sides = size
    empty = {name: torch.zeros(frames, CHANNELS[name], *sides) for name in absent}
    if not given:
        return [Given(LayeredVideo.from_clips(empty))]
    return [
        Given(one.video.replace(**empty), {name: one.numbers(name) for name in one.video.clips()}, one.hints)
        for one in given
    ]


def batched(
    given: Sequence[Given], batch: int, device: torch.device, names: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Return given clips, or those of some names, of a batch in model space: (B, F, 3, H, W) by name."""
    spaces = [given_space(one) for one in given]
    spaces = spaces * batch if len(spaces) == 1 else spaces
    chosen = [name for name in (spaces[0] if spaces else ()) if names is None or name in names]
    return {name: torch.stack([space[name] for space in spaces]).to(device) for name in chosen}


def prepare_hints(
    given: Sequence[Given], layout: Layout, batch: int, device: torch.device, reduce: int = 1
) -> Tensor | None:
    """Return known places of mattes for `Backbone.forward`, (B, A, F, 2, H, W); None where there are none.

    Frames that are given whole have no hints. A pixel of a clip that is reduced is known where one of its parts is.
    """
    mattes = mattes_of(layout.clips)
    if not any(known.any() for one in given for known in one.hints.values()):
        return None
    rows = [torch.stack([_hint(one, name, reduce) for name in mattes]) for one in given]
    rows = rows * batch if len(rows) == 1 else rows
    return torch.stack(rows).to(device)


def _hint(given: Given, name: str, reduce: int) -> Tensor:
    """Return known values of a matte and where they are known, (F, 2, H, W)."""
    clips = given.video.clips()
    first = next(iter(clips.values()))[:, :1]
    known = given.hints.get(name, torch.zeros_like(first, dtype=torch.bool)).to(first.device)
    known = (known & ~given.mask(name).to(first.device)[:, None, None, None]).float()
    value = known * (2 * clips[name] - 1) if name in clips else torch.zeros_like(known)
    if reduce > 1:
        value, share = F.avg_pool2d(value, reduce), F.avg_pool2d(known, reduce)
        known = (share > 0).float()
        value = value / share.clamp(min=1e-6)
    return torch.cat([value, known], dim=1)


def pull(clean: Tensor, hints: Tensor, layout: Layout) -> Tensor:
    """Return a clean prediction (B, N, C, H, W) with hints (B, A, F, 2, H, W) in place of its own values.

    So a network in pixels that does not take hints follows them nevertheless, without knowing what they stand for.
    """
    clips = layout.unpack(clean)
    mattes = mattes_of(layout.clips)
    for name, hint in zip(mattes, hints.unbind(1), strict=True):
        value, known = hint.split(1, dim=2)
        clips[name] = torch.where(known > 0, value, clips[name])
    return layout.pack(clips)


def mattes_of(clips: Sequence[str]) -> list[str]:
    """Return the mattes among clips, in order."""
    return [name for name in clips if CHANNELS[name] == 1]


def restored(decoded: Mapping[str, Tensor], given: Given) -> dict[str, Tensor]:
    """Return decoded clips (F, 3, H, W) in model space with those frames of given clips that are given.

    Colour is computed by dividing by alpha, so a given alpha counts here.
    """
    clips = dict(decoded)
    for name, clip in given_space(given).items():
        kept = given.mask(name)[:, None, None, None]
        clips[name] = torch.where(kept, clip.cpu(), clips[name]) if name in clips else clip.cpu()
    return clips


__all__ = ["Clean", "batched", "mattes_of", "prepare_given", "prepare_hints", "pull", "restored", "with_transparent"]
