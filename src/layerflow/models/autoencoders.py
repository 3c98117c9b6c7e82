"""Encode clips in model space to latents and decode them, with the autoencoder of any backbone.

Letters in shape comments: B clips (samples and clips of a layout may be folded together), F frames, H, W pixels,
f latent frames, C latent channels, h, w latent height and width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .layout import nearest_size

if TYPE_CHECKING:
    from diffusers import AutoencoderKLCogVideoX, AutoencoderKLWan

FAMILIES = ("AutoencoderKLWan", "AutoencoderKLCogVideoX")


@dataclass(frozen=True)
class ClipAutoencoder:
    """Encodes every clip separately to normalised latents, and back; the identity where there is no autoencoder.

    Video autoencoders are causal in time: encoded as one long video, a clip would depend on those before it. Slicing,
    tiling and offloading are switched on the autoencoder itself: `autoencoder.vae.enable_tiling()`.

    Raises:
        TypeError: the autoencoder is of a family whose normalisation is unknown.
    """

    vae: AutoencoderKLWan | AutoencoderKLCogVideoX | None = None
    """The autoencoder of Wan or CogVideoX; None for a backbone that works on pixels."""
    frame_groups: bool = False
    """CogVideoX only: whether to encode and decode 8 frames at a time, as diffusers does by default. That takes less
    memory, but group norms then see 8 frames and not the clip, unlike in the transformer's training latents. Tiling,
    where norms see a tile of the clip, implies it."""

    def __post_init__(self) -> None:
        # By name: importing these classes takes a second, and the mini does not need them.
        names = [kind.__name__ for kind in type(self.vae).__mro__]
        if self.vae is not None and not set(FAMILIES) & set(names):
            raise TypeError(
                f"{type(self.vae).__name__} is not known; give an AutoencoderKLWan, an AutoencoderKLCogVideoX or None"
            )

    @property
    def is_wan(self) -> bool:
        """True if the autoencoder is Wan's."""
        return any(kind.__name__ == FAMILIES[0] for kind in type(self.vae).__mro__)

    @property
    def latent_channels(self) -> int:
        """Channels of a latent; 3 without an autoencoder."""
        if self.vae is None:
            return 3
        config = self.vae.config
        return int(config.z_dim if self.is_wan else config.latent_channels)

    @property
    def spatial_compression(self) -> int:
        """Pixels per latent along height and width, which must divide by it."""
        if self.vae is None:
            return 1
        if self.is_wan:
            return int(self.vae.config.scale_factor_spatial)
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def temporal_compression(self) -> int:
        """Frames per latent frame; a single first frame has a latent frame to itself."""
        if self.vae is None:
            return 1
        if self.is_wan:
            return int(self.vae.config.scale_factor_temporal)
        return int(self.vae.config.temporal_compression_ratio)

    def latent_frames(self, frames: int) -> int:
        """Return the latent frames of a clip.

        Raises:
            ValueError: the autoencoder would decode to another number of frames; the message names the nearest fit.
        """
        if not self._takes(frames):
            below = next(filter(self._takes, range(frames, 0, -1)), None)
            above = next(filter(self._takes, count(max(frames, 1))))
            nearest = above if below is None else f"{below} or {above}"
            raise ValueError(
                f"{frames} frames do not fit this model, which takes {self._frames_rule()}; the nearest: {nearest}"
            )
        return -(-frames // self.temporal_compression)

    def pixel_frames(self, latent_frames: int) -> int:
        """Return the frames that latent frames decode to."""
        lone_first = self.is_wan or latent_frames % 2 == 1
        return latent_frames * self.temporal_compression - (self.temporal_compression - 1) * lone_first

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the latent height and width of a frame.

        Raises:
            ValueError: the sides do not divide; the message names the nearest that do.
        """
        factor = self.spatial_compression
        if height % factor or width % factor:
            nearest = nearest_size((height, width), (factor, factor))
            raise ValueError(
                f"{width}x{height} pixels do not fit this model: width and height must divide by {factor}; "
                f"the nearest is {nearest}"
            )
        return height // factor, width // factor

    @torch.no_grad()
    def encode(self, clips: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Encode clips to normalised latents.

        Args:
            clips: (B, F, 3, H, W) in [-1, 1].
            generator: source of randomness to sample the posterior; without one its mode is returned.

        Returns:
            (B, f, C, h, w), float32, of about unit variance.

        Raises:
            ValueError: frames or size that the autoencoder cannot take.
        """
        self.latent_frames(clips.shape[1])
        self.latent_size(*clips.shape[-2:])
        if self.vae is None:
            return clips
        with self._whole_clips():
            posterior = self.vae.encode(clips.transpose(1, 2).to(self.vae.dtype)).latent_dist
        latents = posterior.mode() if generator is None else posterior.sample(generator)
        mean, std = self._statistics(latents.device)
        normalised: Tensor = (latents.transpose(1, 2).float() - mean) / std
        return normalised

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode normalised latents (B, f, C, h, w) to clips (B, F, 3, H, W), float32 in [-1, 1]."""
        if self.vae is None:
            return latents
        mean, std = self._statistics(latents.device)
        latents = (latents.float() * std + mean).to(self.vae.dtype)
        with self._whole_clips():
            clips: Tensor = self.vae.decode(latents.transpose(1, 2)).sample
        return clips.transpose(1, 2).float().clamp(-1, 1)

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of latents: (C, 1, 1) for Wan, one number for CogVideoX."""
        assert self.vae is not None
        config = self.vae.config
        if self.is_wan:
            mean, std = (torch.tensor(values, device=device) for values in (config.latents_mean, config.latents_std))
            return mean[:, None, None], std[:, None, None]
        return torch.zeros((), device=device), torch.tensor(1 / config.scaling_factor, device=device)

    def _takes(self, frames: int) -> bool:
        ratio = self.temporal_compression
        if frames < 1 or self.vae is None:
            return frames >= 1
        if self.is_wan:
            return frames % ratio == 1
        # An odd number of frames has a single first one, at every halving; so only these keep their number.
        return frames % (2 * ratio) in (0, 1)

    def _frames_rule(self) -> str:
        ratio = self.temporal_compression
        if self.vae is None:
            return "1 or more"
        return f"{ratio}n + 1" if self.is_wan else f"{2 * ratio}n or {2 * ratio}n + 1"

    @contextmanager
    def _whole_clips(self) -> Iterator[None]:
        """Keep CogVideoX's autoencoder from cutting clips in time, unless `frame_groups` or tiling is on."""
        if self.vae is None or self.is_wan or self.frame_groups or self.vae.use_tiling:
            yield
            return
        groups = self.vae.num_sample_frames_batch_size, self.vae.num_latent_frames_batch_size
        self.vae.num_sample_frames_batch_size = self.vae.num_latent_frames_batch_size = 2**31
        try:
            yield
        finally:
            self.vae.num_sample_frames_batch_size, self.vae.num_latent_frames_batch_size = groups
