"""Blocks of the mini's backbone.

Letters in shape comments: B batch, K clips, F frames of one clip, N = B*F, G groups, C channels, H height, W width,
P tokens of one frame of one clip, S text tokens, D transformer width, E conditioning width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn

from .sketch import zeroed


def sinusoid(values: Tensor, dim: int, max_period: float = 1000.0) -> Tensor:
    """Encode values (...) as sines and cosines (..., dim) with wavelengths up to 2 pi times `max_period`."""
    frequencies = torch.exp(-math.log(max_period) * torch.arange(dim // 2, device=values.device) / (dim // 2))
    angles = values[..., None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def place_code(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Encode pixel positions as (1, dim, H, W), waves of a quarter to eight periods over each side."""
    rows = sinusoid((torch.arange(height, device=device) + 0.5) * (16 * math.pi / height), dim // 2, 32.0)
    columns = sinusoid((torch.arange(width, device=device) + 0.5) * (16 * math.pi / width), dim // 2, 32.0)
    grid = torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], dim=-1)  # (H, W, dim)
    return grid.permute(2, 0, 1)[None]  # (1, dim, H, W)


class Whitening(nn.Module):
    """A fixed affine map to decorrelated channels of about unit variance, fitted once to text states of captions."""

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.matrix: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("matrix", torch.eye(rank, channels))

    @torch.no_grad()
    def fit(self, states: Tensor, floor: float = 3e-3) -> None:
        """Fit to states (N, channels); the amplification of variances is limited to `floor` times the largest one."""
        mean = states.mean(0)
        variance, axes = torch.linalg.eigh((states - mean).T @ (states - mean) / len(states))
        rank = self.matrix.shape[0]
        variance, axes = variance.flip(0)[:rank], axes.flip(1)[:, :rank]
        scale = (variance + floor * variance[0]).rsqrt()
        self.mean.copy_(mean)
        self.matrix.copy_(scale[:, None] * axes.T)

    def forward(self, states: Tensor) -> Tensor:
        """Whiten states (..., channels) to (..., rank)."""
        return F.linear(states - self.mean, self.matrix)


class FrameAttentionPool(nn.Module):
    """Attention over the frames of a clip at each pixel, with a learned score per frame.

    A background hidden in one frame is often visible in another: the score may learn to prefer those frames.
    """

    def __init__(self, channels: int, groups: int = 8) -> None:
        super().__init__()
        self.groups = groups
        self.to_score = nn.Conv2d(channels, groups, 1)
        self.to_value = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """Add pooled features to x (N, C, H, W)."""
        if frames == 1:  # the only frame has all the weight
            return x + self.to_value(x)
        n, c, h, w = x.shape
        score = self.to_score(x).view(n // frames, frames, self.groups, 1, h, w).softmax(dim=1)  # (B, F, G, 1, H, W)
        value = self.to_value(x).view(n // frames, frames, self.groups, c // self.groups, h, w)  # (B, F, G, C/G, H, W)
        pooled = (score * value).sum(dim=1, keepdim=True).expand_as(value)  # (B, F, G, C/G, H, W)
        return x + pooled.reshape(n, c, h, w)  # (N, C, H, W)


class ConvBlock(nn.Module):
    """Residual block of two 3x3 convolutions, modulated by the conditioning vector of its frame."""

    def __init__(self, channels: int, cond_dim: int, pool_frames: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.pool = FrameAttentionPool(channels) if pool_frames else None
        self.modulation = nn.Linear(cond_dim, 2 * channels)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, cond: Tensor, frames: int) -> Tensor:
        """Transform x (N, C, H, W) under the conditioning (N, E)."""
        h = self.conv1(F.silu(self.norm1(x)))
        if self.pool is not None:
            h = self.pool(h, frames)
        scale, shift = self.modulation(cond)[:, :, None, None].chunk(2, dim=1)  # (N, C, 1, 1) each
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return x + self.conv2(F.silu(h))


class Attention(nn.Module):
    """Multi-head attention through diffusers' dispatcher, which supports all of its backends."""

    _attention_backend = None

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.to_out = nn.Linear(dim, dim)
        self.norm_q = nn.LayerNorm(dim // heads)
        self.norm_k = nn.LayerNorm(dim // heads)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend from x (B, T, D) to context (B, S, D), or to x itself, with a mask (B, 1, 1, S)."""
        context = x if context is None else context
        q = self.norm_q(self.to_q(x).unflatten(-1, (self.heads, -1)))  # (B, T, heads, D/heads)
        k = self.norm_k(self.to_k(context).unflatten(-1, (self.heads, -1)))  # (B, S, heads, D/heads)
        v = self.to_v(context).unflatten(-1, (self.heads, -1))
        out = dispatch_attention_fn(q, k, v, attn_mask=mask, backend=self._attention_backend)
        return self.to_out(out.flatten(2))  # (B, T, D)


class CompactBlock(nn.Module):
    """Full attention over all clips and frames, attention of each clip to its layer's prompt, MLP.

    All three are modulated by their clip's timestep and prompt (adaptive layer norm, arXiv 2212.09748).
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=False)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attn = Attention(dim, heads)
        self.norm3 = nn.LayerNorm(dim, elementwise_affine=False)
        self.mlp = nn.Sequential(
            nn.Linear(dim, int(dim * mlp_ratio)), nn.GELU("tanh"), nn.Linear(int(dim * mlp_ratio), dim)
        )
        self.modulation = nn.Parameter(torch.zeros(6, dim))

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, text_mask: Tensor, temb: Tensor) -> Tensor:
        """Transform tokens (B, K, F, P, D).

        Args:
            hidden_states: (B, K, F, P, D) tokens.
            encoder_hidden_states: (B*K, S, D) text states of each clip's layer.
            text_mask: (B*K, 1, 1, S) bool.
            temb: (B, K, F, 6, D) modulation.
        """
        b, k, f, p, d = hidden_states.shape
        # Each (B, K, F, 1, D).
        shift1, scale1, gate1, shift2, scale2, gate2 = (temb + self.modulation).unsqueeze(3).unbind(4)
        x = hidden_states
        h = torch.addcmul(shift1, self.norm1(x), 1 + scale1)  # (B, K, F, P, D)
        x = torch.addcmul(x, gate1, self.attn(h.view(b, k * f * p, d)).view_as(x))  # over all clips and frames
        h = self.norm2(x).view(b * k, f * p, d)
        x = x + self.cross_attn(h, encoder_hidden_states, text_mask).view_as(x)  # each clip to its layer's prompt
        h = torch.addcmul(shift2, self.norm3(x), 1 + scale2)
        return torch.addcmul(x, gate2, self.mlp(h))


TransformerBlockRegistry.register(
    CompactBlock, TransformerBlockMetadata(return_hidden_states_index=None, return_encoder_hidden_states_index=None)
)
