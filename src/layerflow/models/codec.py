"""Encode clips in pixels to the sequence of latents that a backbone sees, and decode it.

Letters in shape comments: B batch, K clips, F frames of one clip, N latent frames of the sequence, C latent channels,
H, W pixels, h, w latents.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Self

import torch
from torch import Tensor

from ..core.schema import BLENDED
from .autoencoders import ClipAutoencoder
from .layout import Layout, nearest_size

MOST_GROUPS = 4
"""Groups of frames that a message lists."""


@dataclass(frozen=True)
class SequenceCodec:
    """The autoencoder applied to the clips of a layout.

    Wan and the mini treat each clip separately. The official LayerFlow weights were trained on latents of all clips
    in one long video (`joint`), in some of them with the very first frame repeated (`lead`): there, all clips must be
    decoded together, and adjacent given clips are encoded together. A causal autoencoder would also see the generated
    clips before a given one, which are not known yet; official code fills their place from its data set, here given
    clips are encoded without them.
    """

    autoencoder: ClipAutoencoder
    clips: tuple[str, ...]
    """Clips in the order of the sequence."""
    joint: bool = False
    """True if all clips are encoded and decoded as one long video."""
    lead: int = 0
    """Latent frames before the clips, see `Layout.lead`."""
    trained: tuple[int, int, int] = (1, 1, 1)
    """Frames, height and width in latents of a clip that the backbone was trained at."""
    separated: tuple[int, int, int] | None = None
    """The same for a given blended clip, where the backbone takes it apart in another way."""
    size_multiple: int = 1
    """Number that height and width in latents must divide by."""
    only_trained_size: bool = False
    """True if the backbone takes no other height and width, nor more frames."""

    @classmethod
    def of(cls, transformer: Any, vae: Any | None) -> SequenceCodec:
        """Create the codec of a backbone and its autoencoder; both may be without weights."""
        config = transformer.config
        size = config.sample_size
        return cls(
            ClipAutoencoder(vae),
            tuple(config.clips),
            transformer.conventions.joint_autoencoding,
            config.get("lead_frames", 0),
            (config.sample_frames, *((size, size) if isinstance(size, int) else size)),
            _separated_size(config),
            transformer.size_multiple,
            config.get("learned_positions", False),
        )

    def for_given(self, clips: Collection[str]) -> Self:
        """Return the codec for runs with whole given clips: another size may suit them."""
        return replace(self, trained=self.separated) if self.separated and BLENDED in clips else self

    @property
    def trained_size(self) -> tuple[int, int, int]:
        """Frames, height and width in pixels of a clip that the backbone was trained at."""
        frames, height, width = self.trained
        pixels = self.autoencoder.spatial_compression
        return self.pixel_frames(frames), height * pixels, width * pixels

    def check(self, frames: int, height: int, width: int) -> Layout:
        """Return the layout, in latent frames, of clips of a size in pixels.

        Raises:
            ValueError: the backbone or its autoencoder does not take the size; the message names the nearest.
        """
        if min(frames, height, width) < 1:
            raise ValueError(f"frames, height and width must be positive, got {(frames, height, width)}")
        multiple = self.autoencoder.spatial_compression * self.size_multiple
        most, trained_height, trained_width = self.trained_size
        if self.only_trained_size and (height, width) != (trained_height, trained_width):
            raise ValueError(
                f"{width}x{height} pixels do not fit this model: its positions were learnt at "
                f"{trained_width}x{trained_height}, and it takes no other size"
            )
        if height % multiple or width % multiple:
            nearest = nearest_size((height, width), (multiple, multiple))
            raise ValueError(
                f"{width}x{height} pixels do not fit this model: width and height must divide by {multiple}; "
                f"the nearest is {nearest}"
            )
        if self.only_trained_size and frames > most:
            raise ValueError(f"{frames} frames do not fit this model: its positions were learnt for up to {most}")
        return self.layout(frames)

    def layout(self, frames: int) -> Layout:
        """Return the layout, in latent frames, of clips with a number of frames.

        Raises:
            ValueError: the autoencoder would decode to another number of frames; the message names the nearest fit.
        """
        if not self.joint:
            return Layout(self.autoencoder.latent_frames(frames), self.clips)
        ratio = self.autoencoder.temporal_compression
        step = 2 * ratio if ratio > 1 else 1  # so that any run of clips keeps its number of frames
        if frames < 1 or frames % step:
            nearest = max(round(frames / step), 1) * step
            raise ValueError(f"{frames} frames do not fit this model, which takes {step}n; the nearest: {nearest}")
        return Layout(frames // ratio, self.clips, self.lead)

    def groups(self, frames: int) -> list[range]:
        """Return the frames of a clip that each of its latent frames stands for, which can only be given together."""
        ratio, count = self.autoencoder.temporal_compression, self.layout(frames).frames
        ends = range(frames - ratio * (count - 1), frames + 1, ratio)  # the first latent frame may stand for fewer
        return [range(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    def latent_mask(self, clip: str, mask: Tensor) -> Tensor:
        """Return which latent frames of a clip are given, from a mask (F,) of its frames.

        Raises:
            ValueError: frames that only together make a latent frame are given in part; the message names them.
        """
        groups = self.groups(len(mask))
        shares = [mask[group.start : group.stop] for group in groups]
        if any(bool(share.any()) and not bool(share.all()) for share in shares):
            part = next(g for g, share in zip(groups, shares, strict=True) if share.any() and not share.all())
            lacking = [str(number) for number in part if not mask[number]]
            shown = [f"{g.start}" if len(g) == 1 else f"{g.start} to {g[-1]}" for g in groups[:MOST_GROUPS]]
            more = ", ..." if len(groups) > MOST_GROUPS else ""
            raise ValueError(
                f"{clip} is given in a part of frames {part[0]} to {part[-1]}, which this model takes only together: "
                f"give {', '.join(lacking)} too, or none of them. It takes frames {', '.join(shown)}{more}"
            )
        return torch.stack([share.all() for share in shares])

    def pixel_frames(self, latent_frames: int) -> int:
        """Return the frames of a clip with a number of latent frames, without the lead."""
        if self.joint:
            return latent_frames * self.autoencoder.temporal_compression
        return self.autoencoder.pixel_frames(latent_frames)

    def encode(self, clips: Mapping[str, Tensor], layout: Layout, size: tuple[int, int, int, int]) -> Tensor:
        """Encode given clips (B, F, 3, H, W) in [-1, 1] to a sequence (B, N, C, h, w), zero where no clip is given.

        A causal autoencoder looks back from a given frame to those before it: hold given frames over the others first.

        Args:
            clips: the given clips by name.
            layout: from `layout()`.
            size: (B, C, h, w) of the sequence.
        """
        batch, channels, height, width = size
        device = next(iter(clips.values())).device if clips else None
        sequence = torch.zeros(batch, layout.length, channels, height, width, device=device)
        for names in self._runs(clips, layout):
            video = torch.cat([clips[name] for name in names], dim=1)
            if names[0] == layout.clips[0] and layout.lead:
                video = torch.cat([video[:, : layout.lead], video], dim=1)
            start, stop = layout.clip_slice(names[0]).start, layout.clip_slice(names[-1]).stop
            sequence[:, start:stop] = self.autoencoder.encode(video)
        return sequence

    def decode(self, sequence: Tensor, layout: Layout, names: Collection[str]) -> dict[str, Tensor]:
        """Decode the named clips of a sequence (B, N, C, h, w) to (B, F, 3, H, W) in [-1, 1]."""
        if not self.joint:
            latents = layout.unpack(sequence)
            return {name: self.autoencoder.decode(latents[name]) for name in layout.clips if name in names}
        video = self.autoencoder.decode(sequence)[:, layout.lead :]
        clips = video.chunk(len(layout.clips), dim=1)
        return {name: clip for name, clip in zip(layout.clips, clips, strict=True) if name in names}

    def _runs(self, clips: Mapping[str, Tensor], layout: Layout) -> list[list[str]]:
        """Return the groups of given clips that are encoded as one video: adjacent ones if `joint`, else each alone."""
        if not self.joint:
            return [[name] for name in layout.clips if name in clips]
        runs = groupby(layout.clips, key=lambda name: name in clips)
        return [list(names) for is_given, names in runs if is_given]


def check_drawn_size(
    codec: SequenceCodec, frames: int, height: int, width: int, upscale: int
) -> tuple[Layout, int, int]:
    """Return the layout, height and width that a transformer draws for a result of a size in pixels.

    Raises:
        ValueError: the model does not take the size; the message names the nearest that it takes.
    """
    if upscale > 1 and (height % upscale or width % upscale):
        raise ValueError(f"{width}x{height} pixels cannot be made by upscaling {upscale} times: both must divide by it")
    try:
        return codec.check(frames, height // upscale, width // upscale), height // upscale, width // upscale
    except ValueError as error:
        if upscale == 1:
            raise
        raise ValueError(f"{error}; that is before upscaling {upscale} times") from error


def _separated_size(config: Any) -> tuple[int, int, int] | None:
    size, frames = config.get("separation_size", 0), config.get("separation_frames", 0)
    if not config.get("separation_layers", 0) or not (size or frames):
        return None
    return frames or config.sample_frames, size or config.sample_size, size or config.sample_size
