"""Makes layers larger together, so that alpha, colour and background agree on where an edge is.

Letters in shape comments: B batch, F frames of one clip, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from ...core.schema import CLIPS
from ...models.backbone import Upscaler
from .composition import known_background, visibility
from .sketch import zeroed

__all__ = ["LayeredUpscaler", "ModelMixin", "factors_up_to"]  # diffusers looks here for the base class

Clips = dict[str, Tensor]
"""Clips (B, F, C, H, W) in model space by name, alpha with one channel."""
DRAWN = {"foreground": 3, "alpha": 1, "background": 3}
"""Clips that are drawn, and their channels; `blended` is composed of them."""
PLANES = sum(DRAWN.values())
PIXELS_AT_ONCE = 8192
"""Small pixels that kernels are made for at a time: each has some five kilobytes of them."""


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


def surroundings(planes: Tensor, side: int) -> Tensor:
    """The `side` x `side` pixels around each: (N, C, H, W) to (N, C, side², H, W)."""
    reach = F.pad(planes, [side // 2] * 4, mode="replicate")
    return F.unfold(reach, side).view(*planes.shape[:2], side**2, *planes.shape[2:])


@torch.no_grad()
def patches(clip: Tensor, side: int, faint: float = 0.02) -> Tensor:
    """What is around each pixel, from -1, the darkest there, to 1, the lightest, and how far apart these are.

    Colours are seen along the direction in which they differ most around the pixel (their first principal component):
    an edge between any two looks like an edge of a matte.

    Args:
        clip: (N, C, H, W), C at least 1.
        side: height and width of the surroundings, in pixels; odd.
        faint: difference that counts as none.

    Returns:
        (N, side² + 1, H, W), the last plane the logarithm of the difference, about from -1 to 1.
    """
    taps = surroundings(clip, side)
    around = taps - taps.mean(2, keepdim=True)
    covariance = torch.einsum("nctij,ndtij->ncdij", around, around)
    channels = clip.shape[1]
    axis = F.one_hot(covariance.diagonal(dim1=1, dim2=2).argmax(-1), channels).movedim(-1, 1).to(clip.dtype)
    for _ in range(5):  # power iteration from the channel that differs most
        axis = (covariance * axis[:, None]).sum(2)
        axis = axis / axis.square().sum(1, keepdim=True).sqrt().clamp(min=1e-8)
    axis = torch.where(axis.sum(1, keepdim=True) < 0, -axis, axis)  # towards the lighter side
    along = (around * axis[:, :, None]).sum(1)
    darkest, lightest = along.amin(1, keepdim=True), along.amax(1, keepdim=True)
    apart = lightest - darkest + faint
    return torch.cat([2 * (along - darkest) / apart - 1, 1 + apart.log() / 2], dim=1)


class LayeredUpscaler(Upscaler):
    """Feed-forward network from four small clips to four large ones.

    For every pixel of a large clip it says how the small ones around its place are to be weighed (dynamic upsampling
    filters, Jo et al., CVPR 2018), beside bicubic interpolation and a small correction: what the network has to know
    of an edge is where it lies, whatever colours it parts. It sees the frames before and after, so that what stands
    still stays still.
    """

    memory_format = torch.channels_last

    @register_to_config
    def __init__(self, factor: int = 4, width: int = 64, num_blocks: int = 10, kernel_size: int = 5) -> None:
        """
        Args:
            factor: how many times as high and wide clips become; a power of two.
            width: features at the small size.
            num_blocks: residual blocks; one in three sees the frames beside its own.
            kernel_size: height and width of the surroundings that are weighed, in small pixels; odd.
        """
        super().__init__()
        shares = factors_up_to(factor)[-1] ** 2
        self.stem = nn.Conv2d(3 * (PLANES + 3), width, 3, padding=1)
        self.patch_stem = nn.Sequential(
            nn.Conv2d(len(DRAWN) * (kernel_size**2 + 1), 2 * width, 1), nn.SiLU(), nn.Conv2d(2 * width, width, 1)
        )
        self.blocks = nn.ModuleList(UpscalerBlock(width, 3 if i % 3 == 2 else 1) for i in range(num_blocks))
        self.kernels = zeroed(nn.Conv2d(width, len(DRAWN) * kernel_size**2 * shares, 1))
        self.head = zeroed(nn.Conv2d(width, PLANES * shares, 1))

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
        dtype = self.stem.weight.dtype
        near = torch.cat([patches(small[name], self.config.kernel_size) for name in DRAWN], dim=1)
        near = near.to(dtype).contiguous(memory_format=torch.channels_last)
        seen = torch.cat([planes, small["blended"]], dim=1).to(dtype)
        x = self.stem(windows(seen, frames)) + self.patch_stem(near)
        body = x
        for block in self.blocks:
            body = block(body, frames)
        x = F.silu(x + body).contiguous(memory_format=torch.channels_last)
        at_once = max(1, PIXELS_AT_ONCE // planes[0, 0].numel())
        parts = zip(x.split(at_once), planes.split(at_once), strict=True)
        large_planes = torch.cat([self._drawn(*part) for part in parts])
        drawn = large_planes.split(list(DRAWN.values()), dim=1)
        large = {name: clip.unflatten(0, (-1, frames)) for name, clip in zip(DRAWN, drawn, strict=True)}
        rest = F.interpolate(small["blended"] - composite(small), scale_factor=factor, mode="bicubic")
        return large | {"blended": composite(large) + rest.unflatten(0, (-1, frames))}

    def _drawn(self, features: Tensor, planes: Tensor) -> Tensor:
        """Large planes (N, 7, f*H, f*W) of small ones (N, 7, H, W) and what the network makes of them."""
        side, factor = self.config.kernel_size, self.config.factor
        taps = surroundings(planes, side)
        taps = taps - taps.mean(2, keepdim=True)  # as if every kernel added up to 0
        taps = taps.permute(0, 3, 4, 1, 2)  # (N, H, W, 7, side²)
        kernels = self.kernels(features).float().permute(0, 2, 3, 1).unflatten(3, (len(DRAWN), side**2, factor**2))
        weighed = [
            of_clip @ kernel
            for of_clip, kernel in zip(taps.split(list(DRAWN.values()), dim=3), kernels.unbind(3), strict=True)
        ]
        change = torch.cat(weighed, dim=3).permute(0, 3, 4, 1, 2).flatten(1, 2) + self.head(features).float()
        return F.interpolate(planes, scale_factor=factor, mode="bicubic") + F.pixel_shuffle(change, factor)

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
            known, certainty = known_background(seen, visibility(large["alpha"], rim=factor))
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
