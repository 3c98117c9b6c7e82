"""Layout: the clips of the model's sequence and their order. It alone packs and unpacks.

Letters in shape comments: B batch, K clips, F frames of one clip, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..core.schema import ALPHA, CLIPS, LAYER_OF_CLIP, LAYERS


def nearest_size(sides: Sequence[int], steps: Sequence[int]) -> str:
    """Return the nearest WIDTHxHEIGHT whose sides divide by `steps`, for sides and steps (height, width)."""
    height, width = (max(round(side / step), 1) * step for side, step in zip(sides, steps, strict=True))
    return f"{width}x{height}"


@dataclass(frozen=True)
class Layout:
    """The clips of one sample, concatenated in time to one long video (LayerFlow, section 3.1)."""

    frames: int
    """Latent frames of each clip."""
    clips: tuple[str, ...] = CLIPS
    """Clips in the order of the sequence."""
    lead: int = 0
    """Latent frames of the first clip besides `frames`: a causal video autoencoder encodes the very first frame of a
    sequence to a separate latent frame."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.clips if name not in LAYER_OF_CLIP]
        if unknown:
            raise ValueError(f"unknown clip {unknown[0]!r}; the clips are {', '.join(CLIPS)}")
        if len(set(self.clips)) != len(self.clips) or not self.clips:
            raise ValueError(f"a layout needs at least one clip and each once, got {self.clips}")
        if self.frames < 1:
            raise ValueError(f"a clip has at least one frame, got {self.frames}")
        if self.lead < 0:
            raise ValueError(f"lead must be 0 or more frames, got {self.lead}")

    @property
    def length(self) -> int:
        """Frames of the whole sequence."""
        return self.lead + self.frames * len(self.clips)

    @property
    def layers(self) -> list[int]:
        """Index in `LAYERS`, for each clip, of the layer whose prompt describes it."""
        return [LAYERS.index(LAYER_OF_CLIP[name]) for name in self.clips]

    def clip_slice(self, name: str) -> slice:
        """Return the slice of a clip in the sequence's frames."""
        index = self.clips.index(name)
        end = self.lead + (index + 1) * self.frames
        return slice(end - self.frames if index else 0, end)

    def clip_frames(self, name: str) -> int:
        """Return the latent frames of one clip."""
        where = self.clip_slice(name)
        return int(where.stop - where.start)

    def pack(self, clips: Mapping[str, Tensor]) -> Tensor:
        """Pack clips (B, F, C, H, W) by name into one sequence (B, K*F, C, H, W)."""
        missing = [name for name in self.clips if name not in clips]
        if missing:
            raise ValueError(f"clip {missing[0]!r} of the layout is missing in pack()")
        for name in self.clips:
            frames, expected = clips[name].shape[1], self.clip_frames(name)
            if frames != expected:
                raise ValueError(f"clip {name!r} has {frames} frames, the layout {expected}")
        return torch.cat([clips[name] for name in self.clips], dim=1)

    def unpack(self, sequence: Tensor) -> dict[str, Tensor]:
        """Unpack one sequence (B, K*F, C, H, W) to clips (B, F, C, H, W) by name."""
        if sequence.shape[1] != self.length:
            raise ValueError(f"the sequence has {sequence.shape[1]} frames, the layout {self.length}")
        return {name: sequence[:, self.clip_slice(name)] for name in self.clips}

    def given_mask(self, given: Collection[str], device: torch.device | str | None = None) -> Tensor:
        """Return a mask (K,) bool of the clips that are given."""
        unknown = [name for name in given if name not in self.clips]
        if unknown:
            raise ValueError(f"given clip {unknown[0]!r} is not in the layout {self.clips}")
        return torch.tensor([name in given for name in self.clips], device=device)

    def timesteps(self, t: Tensor, given: Tensor) -> Tensor:
        """Return a timestep per clip (B, K): 0 for given clips, the sample's t (B,) for generated ones."""
        return t[:, None] * (~given.expand(t.shape[0], -1)).to(t.dtype)

    def per_frame(self, per_clip: Tensor) -> Tensor:
        """Repeat values per clip (B, K) over the sequence's frames: (B, K*F, 1, 1, 1)."""
        frames = torch.tensor([self.clip_frames(name) for name in self.clips], device=per_clip.device)
        return per_clip.repeat_interleave(frames, dim=1, output_size=self.length)[:, :, None, None, None]

    def noise(self, like: Tensor, generator: torch.Generator | list[torch.Generator] | None = None) -> Tensor:
        """Draw Gaussian noise of the sequence's shape, the same in all three channels of alpha.

        Alpha is one value repeated in three channels. With independent noise in each, their mean would reveal alpha at
        noise levels that hide everything else, and a network would learn to read alpha only there.
        """
        noise: Tensor = randn_tensor(like.shape, generator=generator, device=like.device, dtype=like.dtype)
        if ALPHA in self.clips and like.shape[2] == 3:
            where = self.clip_slice(ALPHA)
            noise[:, where] = noise[:, where, :1]
        return noise
