"""Conditioning of the mini's backbone: noise level, clip, prompt and moment.

Letters in shape comments: B batch, K clips, F frames of one clip, N = B*F, L layers (prompts), S text tokens,
R whitened text channels, D transformer width, E conditioning width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.schema import ALPHA, ALPHA_OF, CLIPS, FOREGROUND, LAYERS, foreground_count, prompt_layers
from ...models.backbone import Backbone
from ...models.layout import Layout
from .blocks import Whitening, sinusoid
from .foregrounds import shared_with
from .sketch import FRAME_CODE, zeroed
from .text_encoder import pool

LAST_MOMENT = 87.5
"""Position of a clip's last frame that is encoded."""
OWN_CLIPS = (FOREGROUND, ALPHA)
"""Clips of the nearest foreground, whose weights the others share."""


class Conditioned(Backbone):
    """A backbone with the mini's embeddings; its configuration has their sizes."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers of the prompts, in their order."""
        return prompt_layers(foreground_count(self.config.clips))

    @property
    def foregrounds(self) -> list[str]:
        """Transparent layers, the nearest first."""
        return [layer for layer in self.layers if layer in ALPHA_OF]

    def _add_conditioning(self, text_rank: int) -> None:
        """Add embeddings and projections of noise level, clip, prompt and frame."""
        dim, cond_dim, text_dim = self.config.dim, self.config.cond_dim, self.config.text_dim
        embedded, k = self.config.layer_embedding, len(CLIPS)
        scale = 0.02 if embedded else 0.0
        self.time_embed = nn.Sequential(nn.Linear(128, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim))
        self.clip_embed = nn.Parameter(torch.randn(k, cond_dim) * scale, embedded)
        self.layer_embed = nn.Parameter(torch.randn(len(LAYERS), dim) * scale, embedded)
        # Text states are whitened first: nouns differ in directions of a hundredth of the largest variance, which
        # gradient descent would take ages to find.
        self.text_whitening = Whitening(text_dim, text_rank)
        self.pool_whitening = Whitening(text_dim, text_rank)
        self.text_proj = nn.Linear(text_rank, dim)
        self.text_pool = nn.Sequential(nn.Linear(text_rank, 512), nn.GELU("tanh"), nn.Linear(512, cond_dim))
        self.pool_proj = zeroed(nn.Linear(text_rank, cond_dim))
        self.frame_cond = nn.Linear(FRAME_CODE, cond_dim)
        # "rising" at the first frame looks like "falling" at the last: a product of prompt and moment tells them
        # apart, which a sum learns only slowly.
        self.moment_text = nn.Linear(text_rank, cond_dim // 2)
        self.moment_frame = nn.Linear(FRAME_CODE, cond_dim // 2)
        self.moment_out = zeroed(nn.Linear(cond_dim // 2, cond_dim))
        self.conv_cond = nn.Sequential(
            nn.Linear(k * cond_dim, 2 * cond_dim), nn.SiLU(), nn.Linear(2 * cond_dim, cond_dim)
        )
        self.block_cond = nn.Linear(cond_dim, 6 * dim)

    def condition(
        self, timestep: Tensor, text: Tensor, mask: Tensor, means: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the conditioning of each clip.

        Args:
            timestep: (B, K, F or 1) noise levels.
            text, mask: (B, L, S, text_dim) text states and (B, L, S) mask.
            means: (B, L, R) mean whitened text states.
            layout: layout of the clips.

        Returns:
            Vector (B, K, F or 1, E) of noise level and prompt, text states of each clip's layer (B*K, S, D) and their
            mask (B*K, 1, 1, S).
        """
        dtype = self.text_proj.weight.dtype
        text = text.to(dtype)
        if not self.config.timestep_per_clip:
            timestep = timestep.amax(dim=(1, 2), keepdim=True).expand_as(timestep)
        text = self.text_whitening(text)  # (B, L, S, R)
        pooled = pool(self.text_pool(text), mask) + self.pool_proj(means)  # (B, L, E)
        cond = self.time_embed(sinusoid(timestep * 1000, 128, 10000.0).to(dtype))  # (B, K, F or 1, E)
        cond = cond + pooled[:, layout.layers, None] + self.clip_rows(layout)[:, None]
        states = self.text_proj(text) + self.layer_rows()[:, None]  # (B, L, S, D)
        mask = mask[:, layout.layers].flatten(0, 1)[:, None, None, :]  # (B*K, 1, 1, S)
        return cond, states[:, layout.layers].flatten(0, 1), mask

    def clip_rows(self, layout: Layout) -> Tensor:
        """Return the embedding of each clip of a layout, (K, E)."""
        return self._rows(self.clip_embed, CLIPS, layout.clips, "place_cond")

    def layer_rows(self) -> Tensor:
        """Return the embedding of each layer, (L, D)."""
        return self._rows(self.layer_embed, LAYERS, self.layers, "place_text")

    def _rows(self, table: Tensor, known: Sequence[str], names: Sequence[str], by_place: str) -> Tensor:
        """Return the rows of a table for `known` that `names` share, further foregrounds modulated by their place."""
        shared = [shared_with(name) for name in names]
        rows = ((table[known.index(own)], place) for own, place in shared)
        return torch.stack([getattr(self, by_place)(row, place, 0) if place else row for row, place in rows])

    def condition_frames(
        self, cond: Tensor, means: Tensor, frame_code: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor]:
        """Return conditioning vectors of each clip and frame (B, K, F, E) and of each frame (N, E).

        Args:
            cond: (B, K, F or 1, E) conditioning of each clip and noise level.
            means: (B, L, R) whitened mean text states.
            frame_code: (B, F, 64) encoded frame positions.
            layout: layout of the clips.
        """
        moment = self.moment_text(means[:, layout.layers])[:, :, None] * self.moment_frame(frame_code)[:, None]
        cond = cond + self.moment_out(moment)  # (B, K, F, E)
        enter, *then = self.conv_cond
        scene = enter(cond[:, : len(CLIPS)].transpose(1, 2).flatten(2))
        for first in range(len(CLIPS), cond.shape[1], len(OWN_CLIPS)):
            scene = scene + self.place_frames(cond[:, first : first + len(OWN_CLIPS)].transpose(1, 2).flatten(2))
        for layer in then:
            scene = layer(scene)
        return cond, F.silu(scene + self.frame_cond(frame_code)).flatten(0, 1)

    def frame_code(self, positions: Tensor, frames: int = 0) -> Tensor:
        """Encode frame positions (B, F) in clips of a number of frames, `sample_frames` at 0, as (B, F, 64)."""
        # The last frame of a clip has the same code whatever the number of frames.
        frames = frames or self.config.sample_frames
        return sinusoid(positions * (LAST_MOMENT / max(frames - 1, 1)), FRAME_CODE)
