"""Makes layers larger together, so that alpha, colour and background agree on where an edge is.

Letters in shape comments: B batch, F frames of one clip, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from .composition import known_background, still_background, visibility
from .layout import CLIPS
from .sketch import zeroed

Clips = dict[str, Tensor]
"""Clips (B, F, C, H, W) in model space by name, alpha with one channel."""
DRAWN = {"foreground": 3, "alpha": 1, "background": 3}
"""Clips that are drawn, and their channels; `blended` is composed of them."""
PLANES = sum(DRAWN.values())


def windows(x: Tensor, frames: int) -> Tensor:
    """Every frame between the one before and the one after: (B*F, C, H, W) to (B*F, 3*C, H, W)."""
    clip = x.unflatten(0, (-1, frames))
    before = torch.cat([clip[:, :1], clip[:, :-1]], dim=1)
    after = torch.cat([clip[:, 1:], clip[:, -1:]], dim=1)
    return torch.cat([before, clip, after], dim=2).flatten(0, 1).contiguous(memory_format=torch.channels_last)


class UpscalerBlock(nn.Module):
    """Residual block of two 3x3 convolutions, without norms, which would tie a pixel to the whole frame."""

    def __init__(self, width: int, frames: int = 1) -> None:
        super().__init__()
        self.frames = frames
        self.conv1 = nn.Conv2d(frames * width, width, 3 if frames == 1 else 1, padding=int(frames == 1))
        self.conv2 = zeroed(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        h = x if self.frames == 1 else windows(x, frames)
        return x + self.conv2(F.silu(self.conv1(h)))


class LayeredUpscaler(ModelMixin, ConfigMixin):
    """Feed-forward network from four small clips to four large ones.

    It corrects what bicubic interpolation gives (arXiv 1707.02921 without batch norm, shuffled pixels of arXiv
    1609.05158), and sees the frames before and after, so that what stands still stays still.
    """

    @register_to_config
    def __init__(self, factor: int = 4, width: int = 64, num_blocks: int = 10) -> None:
        """
        Args:
            factor: how many times as high and wide clips become; a power of two.
            width: features at the small size; half of them, and again half, at the larger ones.
            num_blocks: residual blocks; one in three sees the frames beside its own.
        """
        super().__init__()
        factors = factors_up_to(factor)
        self.stem = nn.Conv2d(3 * (PLANES + 3), width, 3, padding=1)
        self.blocks = nn.ModuleList(UpscalerBlock(width, 3 if i % 3 == 2 else 1) for i in range(num_blocks))
        grow = []
        for _ in factors[1:]:
            grow.append(nn.Conv2d(width, 4 * (width // 2), 3, padding=1))
            width //= 2
        self.grow = nn.ModuleList(grow)
        self.head = zeroed(nn.Conv2d(width, PLANES, 3, padding=1))

    def forward(self, clips: Mapping[str, Tensor]) -> Clips:
        """
        Args:
            clips: all of `CLIPS`, (B, F, C, H, W) in model space; of alpha the first channel counts.

        Returns:
            The clips `factor` times as large, alpha with one channel. `blended` is the composite of the others, and
            bicubic what the small one was beside theirs.
        """
        factor, frames = self.config.factor, clips["alpha"].shape[1]
        small = {name: clips[name][:, :, : DRAWN.get(name, 3)].flatten(0, 1).float() for name in CLIPS}
        planes = torch.cat([small[name] for name in DRAWN], dim=1)
        base = F.interpolate(planes, scale_factor=factor, mode="bicubic")
        dtype = self.stem.weight.dtype
        x = self.stem(windows(torch.cat([planes, small["blended"]], dim=1).to(dtype), frames))
        body = x
        for block in self.blocks:
            body = block(body, frames)
        x = x + body
        for conv in self.grow:
            x = F.silu(F.pixel_shuffle(conv(x), 2))
        drawn = (base + self.head(x).float()).split(list(DRAWN.values()), dim=1)
        large = {name: clip.unflatten(0, (-1, frames)) for name, clip in zip(DRAWN, drawn, strict=True)}
        rest = F.interpolate(small["blended"] - composite(small), scale_factor=factor, mode="bicubic")
        return large | {"blended": composite(large) + rest.unflatten(0, (-1, frames))}

    @torch.no_grad()
    def upscale(self, clips: Mapping[str, Tensor], factor: int, given: Mapping[str, Tensor] | None = None) -> Clips:
        """Clips made `factor` times as large, within [-1, 1].

        What a given blended video shows at the large size is taken from there, as `solve_composition` does at the
        small one.

        Args:
            clips: all of `CLIPS`, as for `forward`.
            factor: one of `factors`.
            given: those that are there at the large size already.

        Raises:
            ValueError: the factor is none of these.
        """
        if factor not in self.factors:
            raise ValueError(f"clips can be made {', '.join(map(str, self.factors))} times as large, not {factor}")
        given = {name: clip[:, :, : DRAWN.get(name, 3)] for name, clip in (given or {}).items()}
        if factor == 1:
            return {name: clips[name][:, :, : DRAWN.get(name, 3)] for name in CLIPS} | given
        large = self(clips)
        size = 1, self.config.factor // factor, self.config.factor // factor
        rest = large.pop("blended") - composite(large)
        rest, *drawn = (F.avg_pool3d(clip.transpose(1, 2), size).transpose(1, 2) for clip in (rest, *large.values()))
        large = dict(zip(large, drawn, strict=True))
        large = {name: clip.clamp(-1, 1) for name, clip in large.items()} | given
        if "blended" not in given:
            return large | {"blended": (composite(large) + rest).clamp(-1, 1)}
        seen = given["blended"]
        if "background" not in given:
            visible = visibility(large["alpha"], rim=factor)
            known, certainty = known_background(seen, visible, *still_background(seen, visible))
            large["background"] = large["background"].lerp(known, certainty)
        if "foreground" not in given:
            share = (1 + large["alpha"]) / 2  # a foreground over mid-grey reaches no further than its alpha
            left = seen - (1 - share) * large["background"]
            large["foreground"] = torch.maximum(torch.minimum(left, share), -share)
        return large

    @property
    def factors(self) -> list[int]:
        """How many times as large clips can be made."""
        return factors_up_to(self.config.factor)


def factors_up_to(factor: int) -> list[int]:
    """1, 2, 4 and so on; raises ValueError where that does not lead to `factor`."""
    if factor < 2 or factor & (factor - 1):
        raise ValueError(f"factor {factor} is not a power of two")
    return [2**n for n in range(factor.bit_length())]


def composite(clips: Mapping[str, Tensor]) -> Tensor:
    """The foreground over the background, in model space."""
    return clips["foreground"] + (0.5 - 0.5 * clips["alpha"]) * clips["background"]
