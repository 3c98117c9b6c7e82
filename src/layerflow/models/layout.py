"""Layout: the clips of the model's sequence and their order. It alone packs and unpacks.

Letters in shape comments: B batch, K clips, F frames of one clip, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..core.schema import CHANNELS, CLIPS, LAYER_OF_CLIP, MOST_FOREGROUNDS, prompt_layers

PROMPTS = prompt_layers(MOST_FOREGROUNDS)


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
        """Index in `prompt_layers`, for each clip, of the layer whose prompt describes it."""
        return [PROMPTS.index(LAYER_OF_CLIP[name]) for name in self.clips]

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

    def given_mask(
        self, given: Collection[str] | Mapping[str, Tensor], device: torch.device | str | None = None
    ) -> Tensor:
        """Return a mask of given frames, bool: (K, 1) where every clip is given whole or not at all, else (K, F).

        Args:
            given: names of whole clips, or masks (F,) of the given latent frames by clip.
            device: device of the mask.
        """
        unknown = [name for name in given if name not in self.clips]
        if unknown:
            raise ValueError(f"given clip {unknown[0]!r} is not in the layout {self.clips}")
        if not isinstance(given, Mapping):
            given = dict.fromkeys(given, torch.ones(self.frames, dtype=torch.bool))
        none = torch.zeros(self.frames, dtype=torch.bool)
        mask = torch.stack([given.get(name, none) for name in self.clips]).to(device)
        return mask[:, :1] if bool((mask == mask[:, :1]).all()) else mask

    def timesteps(self, t: Tensor, given: Tensor) -> Tensor:
        """Return a timestep per clip and frame, 0 where it is given and the sample's t (B,) where it is generated.

        Args:
            t: (B,).
            given: (K, F) or (B, K, F) bool; F is 1 where clips are given whole or not at all, and so it is in the
                result.
        """
        return t[:, None, None] * (~given.expand(t.shape[0], -1, -1)).to(t.dtype)

    def per_frame(self, values: Tensor) -> Tensor:
        """Lay values per clip and frame (B, K, F or 1) along the sequence: (B, N, 1, 1, 1)."""
        values = values.expand(-1, -1, self.frames)
        lead = values[:, 0, :1].expand(-1, self.lead)
        return torch.cat([lead, values.flatten(1)], dim=1)[:, :, None, None, None]

    def noise(self, like: Tensor, generator: torch.Generator | list[torch.Generator] | None = None) -> Tensor:
        """Draw Gaussian noise of the sequence's shape, the same in all three channels of alpha.

        Alpha is one value repeated in three channels. With independent noise in each, their mean would reveal alpha at
        noise levels that hide everything else, and a network would learn to read alpha only there.
        """
        noise: Tensor = randn_tensor(like.shape, generator=generator, device=like.device, dtype=like.dtype)
        for name in self.clips:
            if CHANNELS[name] == 1 and like.shape[2] == 3:
                where = self.clip_slice(name)
                noise[:, where] = noise[:, where, :1]
        return noise
