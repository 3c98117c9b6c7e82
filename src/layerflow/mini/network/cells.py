"""Transformer over cells of 8 pixels, fine enough to follow a thing through the frames.

Letters in shape comments: B batch, F frames of one clip, N = B*F, C channels, D width, E conditioning width, h, w cells
of a frame's height and width, P = h*w.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Attention, sinusoid
from .sketch import FRAME_CODE, zeroed

OVER_FRAMES = 3
"""Every so many layers attend over all frames, the others within a frame."""


class CellBlock(nn.Module):
    """Depthwise convolution, attention within a frame or over all frames, and MLP, modulated by each frame's
    conditioning.

    Over all frames, keys and values are means of 2x2 cells: a quarter of the work, and a thing is larger than that.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float, cond_dim: int, over_frames: bool) -> None:
        super().__init__()
        self.over_frames = over_frames
        self.local = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=False)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=False)
        self.mlp = nn.Sequential(
            nn.Linear(dim, int(dim * mlp_ratio)), nn.GELU("tanh"), nn.Linear(int(dim * mlp_ratio), dim)
        )
        self.modulation = zeroed(nn.Linear(cond_dim, 4 * dim))

    def forward(self, x: Tensor, cond: Tensor, size: tuple[int, int, int]) -> Tensor:
        """Transform x (N, P, D).

        Args:
            x: cells.
            cond: (N, E).
            size: F, h and w.
        """
        frames, h, w = size
        n, p, d = x.shape
        grid = x.transpose(1, 2).reshape(n, d, h, w)
        x = x + self.local(grid).flatten(2).transpose(1, 2)
        shift1, scale1, shift2, scale2 = self.modulation(cond)[:, None].chunk(4, dim=-1)
        normed = torch.addcmul(shift1, self.norm1(x), 1 + scale1)
        if self.over_frames and frames > 1:
            pooled = F.avg_pool2d(normed.transpose(1, 2).reshape(n, d, h, w), 2, ceil_mode=True).flatten(2)
            context = pooled.transpose(1, 2).reshape(n // frames, -1, d)
            x = x + self.attn(normed.reshape(n // frames, frames * p, d), context).reshape(n, p, d)
        else:
            x = x + self.attn(normed)
        return x + self.mlp(torch.addcmul(shift2, self.norm2(x), 1 + scale2))


class CellTransformer(nn.Module):
    """Adds to the features of the level with cells what frames, observations and each other tell; zero before training.

    Args:
        channels: of the level.
        dim, layers, heads, mlp_ratio: sizes of the transformer.
        cond_dim: width of the conditioning vector.
    """

    def __init__(self, channels: int, dim: int, layers: int, heads: int, mlp_ratio: float, cond_dim: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, dim, 1)
        self.frame = nn.Linear(FRAME_CODE, dim)
        self.space = nn.Linear(2 * FRAME_CODE, dim)
        self.blocks = nn.ModuleList(
            CellBlock(dim, heads, mlp_ratio, cond_dim, number % OVER_FRAMES == OVER_FRAMES - 1)
            for number in range(layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.leave = zeroed(nn.Conv2d(dim, channels, 1))

    def embed(self, x: Tensor, observed: Tensor | None, frame_code: Tensor) -> Tensor:
        """Return cells (N, P, D) of features (N, C, h, w), observations (N, D, h, w) and frame codes (B, F, 64)."""
        cells = self.enter(x)
        if observed is not None:
            cells = cells + observed
        h, w = cells.shape[-2:]
        rows = (torch.arange(h, device=x.device) + 0.5) / h
        columns = (torch.arange(w, device=x.device) + 0.5) / w
        code = torch.cat(
            [
                sinusoid(rows * 100, FRAME_CODE)[:, None].expand(h, w, -1),
                sinusoid(columns * 100, FRAME_CODE)[None].expand(h, w, -1),
            ],
            dim=-1,
        )
        place = self.space(code.flatten(0, 1).to(cells.dtype))  # (P, D)
        moment = self.frame(frame_code.flatten(0, 1))[:, None]  # (N, 1, D)
        return cells.flatten(2).transpose(1, 2) + place + moment

    def result(self, cells: Tensor, height: int, width: int) -> Tensor:
        """Return what is added to the features, (N, C, h, w), from cells (N, P, D)."""
        grid = self.norm(cells).transpose(1, 2).unflatten(2, (height, width))
        return self.leave(grid.contiguous(memory_format=torch.channels_last))
