"""CogVideoX's positions and patches for a sequence of all prompts and clips, and the layer embedding.

Letters in shape comments: B batch, N latent frames of the whole sequence, F of one clip, V video tokens, L prompts, S
tokens of a prompt, C latent channels, H, W height and width in latents, h, w in patches, D width.
"""

from __future__ import annotations

import torch
from diffusers.models.embeddings import CogVideoXPatchEmbed, get_3d_rotary_pos_embed, get_3d_sincos_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch import Tensor, nn

from ..layout import Layout


def sequence_positions(layout: Layout, frame_positions: Tensor | None, clip_frames: int) -> tuple[int, Tensor | None]:
    """Return the number of positions of a sequence, and each latent frame's index among them (B, N) or None for 0..N-1.

    Positions count on over all clips; a still has those that its clip of `clip_frames` has in a video.
    """
    if frame_positions is None:
        return layout.length, None
    step = max(clip_frames, layout.frames)
    starts = [layout.lead + step * i for i in range(len(layout.clips))]
    lead = torch.arange(layout.lead, device=frame_positions.device).expand(len(frame_positions), -1)
    return starts[-1] + step, torch.cat([lead, *(start + frame_positions for start in starts)], dim=1)


class SequenceRotaryPosEmbed(nn.Module):
    """CogVideoX-5B's and 1.5's rotary positions of a sequence of latent frames."""

    def __init__(self, head_dim: int, patch_size: int, patch_size_t: int, sample_size: tuple[int, int]) -> None:
        super().__init__()
        self.head_dim, self.patch_size_t = head_dim, patch_size_t
        self.base = sample_size[0] // patch_size, sample_size[1] // patch_size

    def forward(
        self, frames: int, places: Tensor | None, rows: int, columns: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return cosines and sines, each (B or 1, V, 1, D/heads), for `sequence_positions` in patches of time."""
        if self.patch_size_t == 1:
            window = get_resize_crop_region_for_grid((rows, columns), self.base[1], self.base[0])
            table = get_3d_rotary_pos_embed(self.head_dim, window, (rows, columns), frames, device=device)
        else:
            table = get_3d_rotary_pos_embed(
                self.head_dim, None, (rows, columns), frames, grid_type="slice", max_size=self.base, device=device
            )
        waves = []
        for wave in table:
            wave = wave.unflatten(0, (frames, rows * columns))
            wave = wave[None] if places is None else wave[places]  # (B or 1, N, h*w, D/heads)
            waves.append(wave.flatten(1, 2)[:, :, None])
        return waves[0], waves[1]


class LayerEmbedding(nn.Module):
    """`LayerNorm(Linear(i))` for prompt i, which distinguishes the prompts of the layers."""

    def __init__(self, prompts: int, width: int) -> None:
        super().__init__()
        self.prompts = prompts
        self.linear = nn.Linear(1, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, like: Tensor) -> Tensor:
        """Return embeddings (L, D) of all prompts, on the device and in the number format of `like`."""
        numbers = torch.arange(self.prompts, device=like.device, dtype=like.dtype)
        embeddings: Tensor = self.norm(self.linear(numbers[:, None]))
        return embeddings

    def reset(self, like: Tensor) -> None:
        """Reset on the device and in the number format of `like`, without any effect until it is trained."""
        self.to_empty(device=like.device).to(like.dtype)
        self.linear.reset_parameters()
        nn.init.zeros_(self.norm.weight)
        nn.init.zeros_(self.norm.bias)


class LayerPatchEmbed(CogVideoXPatchEmbed):
    """CogVideoX's patches and text projection, with one position table for the sequence and the layer embedding."""

    def __init__(
        self,
        patch_size: int,
        in_channels: int,
        embed_dim: int,
        text_embed_dim: int,
        bias: bool,
        sample_size: tuple[int, int],
        clip_frames: int,
        position_frames: int,
        prompts: int,
        text_length: int,
        spatial_interpolation_scale: float,
        learned_positions: bool,
        layer_embedding: bool,
        patch_size_t: int | None = None,
        rotary_positions: bool = False,
    ) -> None:
        super().__init__(
            patch_size=patch_size,
            patch_size_t=patch_size_t,
            in_channels=in_channels,
            embed_dim=embed_dim,
            text_embed_dim=text_embed_dim,
            bias=bias,
            sample_height=sample_size[0],
            sample_width=sample_size[1],
            max_text_seq_length=prompts * text_length,
            spatial_interpolation_scale=spatial_interpolation_scale,
            use_positional_embeddings=False,
            use_learned_positional_embeddings=False,
        )
        self.clip_frames = clip_frames
        self.position_frames = position_frames
        self.rotary_positions = rotary_positions
        self.pos_embedding = None
        if learned_positions:
            rows, columns = sample_size[0] // patch_size, sample_size[1] // patch_size
            text = torch.zeros(1, self.max_text_seq_length, embed_dim)
            video = self.sine_positions(position_frames, rows, columns, text.device).flatten(0, 1)
            self.pos_embedding = nn.Parameter(torch.cat([text, video[None].to(text.dtype)], dim=1))
        self.layer_embedding = LayerEmbedding(prompts, embed_dim) if layer_embedding else None

    def sine_positions(self, frames: int, rows: int, columns: int, device: torch.device) -> Tensor:
        """Return CogVideoX's fixed table (frames, rows*columns, D): a quarter of the channels for time."""
        table: Tensor = get_3d_sincos_pos_embed(
            self.embed_dim,
            (columns, rows),
            frames,
            self.spatial_interpolation_scale,
            device=device,
            output_type="pt",
        )
        return table

    def grown(self, other: LayerPatchEmbed, known: Layout, layout: Layout) -> Tensor:
        """Return the learned positions of a larger model with another layout: those of this one where it has them."""
        assert self.pos_embedding is not None
        table = self.pos_embedding[0]
        rows, columns = self.sample_height // self.patch_size, self.sample_width // self.patch_size
        text, video = table.split([self.max_text_seq_length, len(table) - self.max_text_seq_length])
        video = video.unflatten(0, (-1, rows * columns))
        grown_text = text.new_zeros(other.max_text_seq_length, text.shape[1])
        common = min(len(text), len(grown_text))
        grown_text[:common] = text[:common]
        grown_video = self.sine_positions(layout.length, rows, columns, table.device).to(table.dtype)
        for name in set(known.clips) & set(layout.clips):
            if known.clip_frames(name) == layout.clip_frames(name):
                grown_video[layout.clip_slice(name)] = video[known.clip_slice(name)]
        return torch.cat([grown_text, grown_video.flatten(0, 1)])[None]

    def video_positions(self, frames: int, rows: int, columns: int, like: Tensor) -> Tensor:
        """Return the positions (N, h*w, D) of a sequence of latent frames.

        Raises:
            ValueError: the learned table is of another size, or too short.
        """
        if self.pos_embedding is None:
            return self.sine_positions(frames, rows, columns, like.device).to(like.dtype)
        height, width = self.sample_height, self.sample_width
        if (rows, columns) != (height // self.patch_size, width // self.patch_size):
            raise ValueError(
                f"latents of {columns * self.patch_size}x{rows * self.patch_size} do not fit this model: its learned "
                f"positions are for {width}x{height} and no other size"
            )
        if frames > self.position_frames:
            raise ValueError(
                f"the sequence has {frames} latent frames, this model has positions for {self.position_frames}; "
                "take fewer frames"
            )
        table: Tensor = self.pos_embedding[0, self.max_text_seq_length :].unflatten(0, (-1, rows * columns))
        return table[:frames]

    def forward(
        self, text_embeds: Tensor, latents: Tensor, layout: Layout, frame_positions: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Embed text states (B, L, S, text_dim) and latents (B, N, C, H, W) to tokens (B, L*S, D) and (B, N*h*w, D)."""
        text = self.text_proj(text_embeds)  # (B, L, S, D)
        if self.layer_embedding is not None:
            text = text + self.layer_embedding(text)[: text.shape[1], None]
        text = text.flatten(1, 2)
        if self.pos_embedding is not None:
            text = text + self.pos_embedding[:, : text.shape[1]].to(text.dtype)

        p, p_t = self.patch_size, self.patch_size_t or 1
        if self.patch_size_t is None:
            video = self.proj(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])  # (B, N, D, h, w)
            video = video.flatten(3).transpose(2, 3)
        else:
            video = latents.unflatten(4, (-1, p)).unflatten(3, (-1, p)).unflatten(1, (-1, p_t))
            video = video.permute(0, 1, 4, 6, 3, 2, 5, 7).flatten(4).flatten(2, 3)  # (B, N/p_t, h*w, C*p_t*p*p)
            video = self.proj(video)
        if not self.rotary_positions:
            frames, places = sequence_positions(layout, frame_positions, self.clip_frames)
            positions = self.video_positions(frames, latents.shape[-2] // p, latents.shape[-1] // p, like=video)
            video = video + (positions if places is None else positions[places]).to(video.dtype)
        return text, video.flatten(1, 2)


__all__ = ["LayerEmbedding", "LayerPatchEmbed", "SequenceRotaryPosEmbed", "sequence_positions"]
