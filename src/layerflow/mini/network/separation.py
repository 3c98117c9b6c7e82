"""Takes a given video apart: the layers of frames whose blended clip is given.

They follow from what is given, so nothing is sampled here: no noise comes in, and one pass gives the least-squares
answer. Where nothing is blended yet, the diffusion transformer draws.

Letters in shape comments: B batch, F frames of one clip, N = B*F, A foregrounds, L layers, R whitened text channels,
D channels of a cell, C channels of half a cell, E conditioning width, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.schema import ALPHA_OF, BACKGROUND, BLENDED, CHANNELS, CLIPS, LAYERS
from .blocks import ConvBlock
from .cells import CellTransformer
from .folding import fold_frames
from .foregrounds import PlaceInStack
from .observation import CELL, Observation
from .registration import own_motion
from .sketch import FRAME_CODE, zeroed

HALF = CELL // 2
"""Height and width in pixels of half a cell, into which pixels are folded first."""
HEAD_DIM = 32
"""Channels of an attention head."""
COND_DIM = 128
"""Width of the conditioning vector."""
OWN_PLANES = 4 + 2 + 2
"""Planes of a foreground: colour and alpha, whether either is given, and known places of the matte."""
SHARED_PLANES = 6 + 2 + 3 * 3
"""Planes that foregrounds share: background and blended, whether either is given, and those of `own_motion`."""
PIXEL_FEATURES = 12
"""Channels of a pixel that the features of its half cell give to the last layers."""
PIXEL_WIDTH = 16
"""Hidden channels of the last layers."""
SEEN_PLANES = 3 + 2 * 3
"""Planes of the blended clip that the last layers see: its colour, and its difference from the frame before and the
next."""
OPACITY_SLOPE = 1.5
"""Factor on alpha before it is bounded: a matte is mostly 0 or 1, and a bounded one reaches them easily."""
DRAWN_PLANES = 3 + 1 + 1
"""Planes drawn for a foreground: colour, alpha, and its share of what the composite lacks of the blended clip."""


class PixelHead(nn.Module):
    """Planes of pixels from features of half cells, and from the blended clip at those pixels, where edges are sharp.

    Args:
        fine: channels of half a cell.
        planes: planes of a pixel.
    """

    def __init__(self, fine: int, planes: int) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(fine, planes * HALF**2, 3, padding=1)
        nn.init.normal_(self.coarse.weight, std=0.01)
        self.features = nn.Conv2d(fine, PIXEL_FEATURES * HALF**2, 1)
        self.enter = nn.Conv2d(PIXEL_FEATURES + SEEN_PLANES, PIXEL_WIDTH, 3, padding=1)
        self.leave = zeroed(nn.Conv2d(PIXEL_WIDTH, planes, 3, padding=1))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Map features (N, fine, 2h, 2w) and planes of the blended clip (N, 9, H, W) to planes (N, planes, H, W)."""
        pixels = torch.cat([F.pixel_shuffle(self.features(x), HALF), seen], dim=1)
        drawn: Tensor = F.pixel_shuffle(self.coarse(x), HALF) + self.leave(F.silu(self.enter(pixels)))
        return drawn


class Separation(nn.Module):
    """Network from given clips to layers.

    Args:
        dim: channels of a cell of 8 pixels.
        layers: of the transformer over cells.
        fine: channels of half a cell.
        blocks: convolutional blocks of the decoder.
        text_rank: channels of whitened text states.
        foregrounds: whether there can be more than one.
    """

    def __init__(self, dim: int, layers: int, fine: int, blocks: int, text_rank: int, foregrounds: bool) -> None:
        super().__init__()
        self.observation = Observation(dim, fine, foregrounds)
        self.flags = nn.Linear(len(CLIPS), COND_DIM)
        self.moment = nn.Linear(FRAME_CODE, COND_DIM)
        self.text = nn.Linear(len(LAYERS) * text_rank, COND_DIM)
        self.own_stem = nn.Conv2d(OWN_PLANES * HALF**2, fine, 3, padding=1)
        self.stem = nn.Conv2d(SHARED_PLANES * HALF**2, fine, 3, padding=1)
        self.down = ConvBlock(fine, COND_DIM)
        self.shrink = nn.Conv2d(fine, dim, 2, stride=2)
        self.cells = CellTransformer(dim, dim, layers, dim // HEAD_DIM, 3.0, COND_DIM)
        self.grow = nn.Conv2d(dim, 4 * fine, 1)
        self.merge = nn.Conv2d(2 * fine, fine, 1)
        self.up = nn.ModuleList(ConvBlock(fine, COND_DIM, pool_frames=True) for _ in range(blocks))
        self.norm = nn.GroupNorm(8, fine)
        self.pixels = PixelHead(fine, DRAWN_PLANES)
        if foregrounds:
            self.place_stem = PlaceInStack(fine, distinct=True)
            self.place_text = PlaceInStack(text_rank, distinct=True)
            self.place_decode = PlaceInStack(fine)

    def forward(
        self,
        clips: Mapping[str, Tensor],
        given: Mapping[str, Tensor],
        means: Tensor,
        frame_code: Tensor,
        hints: Tensor | None = None,
    ) -> Tensor:
        """Draw the foregrounds of all frames; `solve_separation` finds the background.

        Args:
            clips: (B, F, 3, H, W) in model space, by name; what is not given is not looked at.
            given: (B, F) bool by clip.
            means: (B, L, R) mean whitened text states of layers.
            frame_code: (B, F, 64) encoded frame positions.
            hints: (B, A, F, 2, H, W), see `Backbone.takes_hints`.

        Returns:
            (B, F, planes, H, W), to be read by `drawn_clips`.
        """
        names = [name for name in ALPHA_OF if name in clips]
        b, f = frame_code.shape[:2]
        cond = self.condition(given, means, frame_code, names)
        cells, fine = self.observation(clips, given, hints)
        shared = self.shared_planes(clips, given)
        x = self.stem(fold_frames(shared, HALF)) + fine
        for place, name in enumerate(names):
            own = self.own_planes(clips, given, name, None if hints is None else hints[:, place])
            stem = self.own_stem(fold_frames(own, HALF))
            x = x + (self.place_stem(stem, place) if place else stem)
        x = self.down(x, cond, f)
        coarse = self.shrink(x)
        coarse = coarse + self.follow(coarse, cells, cond, frame_code)
        x = self.merge(torch.cat([F.pixel_shuffle(self.grow(coarse), 2), x], dim=1))
        seen = torch.cat([shared[:, :, 3:6], shared[:, :, -9:-3]], dim=2).flatten(0, 1)
        drawn = []
        for place in range(len(names)):
            own = self.place_decode(x, place) if place else x
            for block in self.up:
                own = block(own, cond, f)
            drawn.append(self.pixels(F.silu(self.norm(own)), seen.to(own.dtype)))
        return torch.cat(drawn, dim=1).unflatten(0, (b, f))

    def follow(self, x: Tensor, observed: Tensor, cond: Tensor, frame_code: Tensor) -> Tensor:
        """Return what the transformer over cells adds to cells (N, D, h, w)."""
        size = frame_code.shape[1], *x.shape[-2:]
        cells = self.cells.embed(x, observed, frame_code)
        for block in self.cells.blocks:
            cells = block(cells, cond, size)
        added: Tensor = self.cells.result(cells, *size[1:])
        return added

    def condition(self, given: Mapping[str, Tensor], means: Tensor, frame_code: Tensor, names: list[str]) -> Tensor:
        """Return the conditioning vector of each frame, (N, E)."""
        flags = torch.stack([given[name] for name in CLIPS], dim=-1).to(frame_code.dtype)  # (B, F, 4)
        texts = means[:, : len(LAYERS)]
        for place in range(1, len(names)):
            further = self.place_text(means[:, len(LAYERS) + place - 1], place)
            texts = torch.cat([texts[:, :1] + further[:, None], texts[:, 1:]], dim=1)
        cond = self.flags(flags) + self.moment(frame_code) + self.text(texts.flatten(1))[:, None]
        return F.silu(cond).flatten(0, 1)

    @staticmethod
    def shared_planes(clips: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Tensor:
        """Return the planes that foregrounds share, (B, F, 17, H, W)."""
        moving = own_motion(clips[BLENDED], given[BLENDED]).to(clips[BLENDED].dtype)
        return torch.cat([*_shown(clips, given, (BACKGROUND, BLENDED)), moving], dim=2)

    @staticmethod
    def own_planes(clips: Mapping[str, Tensor], given: Mapping[str, Tensor], name: str, hints: Tensor | None) -> Tensor:
        """Return the planes of a foreground, (B, F, 8, H, W)."""
        planes = _shown(clips, given, (name, ALPHA_OF[name]))
        if hints is None:
            b, f, _, height, width = clips[name].shape
            hints = clips[name].new_zeros(b, f, 2, height, width)
        return torch.cat([*planes, hints.to(planes[0].dtype)], dim=2)


def _shown(clips: Mapping[str, Tensor], given: Mapping[str, Tensor], names: tuple[str, ...]) -> list[Tensor]:
    """Return clips where they are given, zero elsewhere, and for each whether it is."""
    masks = [given[name][..., None, None, None].to(clips[name].dtype) for name in names]
    shown = [clips[name][:, :, : CHANNELS[name]] * mask for name, mask in zip(names, masks, strict=True)]
    height, width = shown[0].shape[-2:]
    return [*shown, *(mask.expand(-1, -1, 1, height, width) for mask in masks)]


def bounded(x: Tensor) -> Tensor:
    """Return tanh(x), with the gradient of x itself.

    Under a squared error, values that are confidently wrong would have no gradient. With this one they have that of the
    cross entropy, which is the difference between bounded value and target.
    """
    return x + (torch.tanh(x) - x).detach()


def drawn_clips(planes: Tensor, names: list[str]) -> tuple[dict[str, Tensor], Tensor]:
    """Return what `Separation` drew as clips (B, F, C, H, W) of foregrounds `names` by name, alpha with one channel,
    and the share of each in what the composite lacks of the blended clip, (B, F, A, H, W)."""
    clips: dict[str, Tensor] = {}
    residuals = []
    for name, own in zip(names, planes.split(DRAWN_PLANES, dim=2), strict=True):
        colour, alpha, residual = own.split([3, 1, 1], dim=2)
        clips |= {name: colour, ALPHA_OF[name]: bounded(OPACITY_SLOPE * alpha)}
        residuals.append(residual)
    return clips, torch.cat(residuals, dim=2)
