"""Joint upscaler of all layers, so that alpha, colour and background agree on the place of an edge.

Letters in shape comments: B batch, F frames of one clip, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from ...core.schema import ALPHA, BACKGROUND, BLENDED, CHANNELS, CLIPS, FOREGROUND
from ...models.backbone import Upscaler
from .composition import composite, known_background, visibility
from .sketch import zeroed

__all__ = ["LayeredUpscaler", "ModelMixin", "composite", "factors_up_to"]  # diffusers looks here for the base class

Clips = dict[str, Tensor]
"""Clips (B, F, C, H, W) in model space by name, alpha with one channel."""
DRAWN = {name: CHANNELS[name] for name in CLIPS if name != BLENDED}
"""Channels of the clips that the network draws; `blended` is composed of them."""
PLANES = sum(DRAWN.values())
"""Channels of all drawn clips, 7."""
KERNELS_AT_ONCE = 4096
"""Small pixels per batch of kernels, which take about 5 kB for each pixel, and should stay in a processor's cache."""


def windows(frames: Sequence[Tensor]) -> list[Tensor]:
    """Concatenate each frame (B, C, H, W) of a clip with its neighbours: (B, 3*C, H, W) each."""
    around = zip([frames[0], *frames[:-1]], frames, [*frames[1:], frames[-1]], strict=True)
    return [torch.cat(three, dim=1).contiguous(memory_format=torch.channels_last) for three in around]


class UpscalerBlock(nn.Module):
    """Residual block of two 3x3 convolutions, without norms, whose statistics would depend on the whole frame."""

    def __init__(self, width: int, frames: int = 1) -> None:
        super().__init__()
        self.frames = frames
        self.conv1 = nn.Conv2d(frames * width, width, 3 if frames == 1 else 1, padding=int(frames == 1))
        self.conv2 = zeroed(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Sequence[Tensor]) -> list[Tensor]:
        """Transform the features (B, width, H, W) of each frame."""
        seen = x if self.frames == 1 else windows(x)
        return [own + self.conv2(F.silu(self.conv1(h))) for own, h in zip(x, seen, strict=True)]


def surroundings(planes: Tensor, side: int) -> Tensor:
    """Return a view of the `side` x `side` pixels around each pixel: (N, C, H, W) to (N, C, side, side, H, W)."""
    padded = F.pad(planes, [side // 2] * 4, mode="replicate")
    height, width = planes.shape[-2:]
    return padded.unfold(2, height, 1).unfold(3, width, 1)


@torch.no_grad()
def patches(clip: Tensor, side: int, faint: float = 0.02) -> Tensor:
    """Return the normalised pixels around each pixel: -1 for the darkest, 1 for the lightest, and their contrast.

    Colours are projected on their first principal component around the pixel, so that an edge between any two colours
    looks like an edge of a matte.

    Args:
        clip: (N, C, H, W), C at least 1.
        side: height and width of the surroundings in pixels; odd.
        faint: contrast that counts as none.

    Returns:
        (N, side² + 1, H, W), the last plane the logarithm of the contrast, about from -1 to 1.
    """
    taps = surroundings(clip, side).flatten(2, 3)  # (N, C, side², H, W)
    around = taps - taps.mean(2, keepdim=True)
    along = around[:, 0]  # (N, side², H, W)
    if clip.shape[1] > 1:
        axis = principal_axis(around)
        along = along * axis[:, :1]
        for channel in range(1, clip.shape[1]):
            along = along.addcmul_(around[:, channel], axis[:, channel : channel + 1])
    darkest, lightest = along.amin(1, keepdim=True), along.amax(1, keepdim=True)
    contrast = lightest - darkest + faint
    return torch.cat([2 * (along - darkest) / contrast - 1, 1 + contrast.log() / 2], dim=1)


def principal_axis(around: Tensor) -> Tensor:
    """Return the unit vector (N, C, H, W), towards the lighter side, along which (N, C, side², H, W) differ most."""
    channels = around.shape[1]
    rows = [[(around[:, a] * around[:, b]).sum(1) for b in range(a + 1)] for a in range(channels)]  # (N, H, W) each
    rows = [[rows[max(a, b)][min(a, b)] for b in range(channels)] for a in range(channels)]
    covariance = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)  # (N, C, C, H, W)
    most = torch.stack([rows[a][a] for a in range(channels)], dim=-1).argmax(-1)
    axis = F.one_hot(most, channels).movedim(-1, 1).to(around.dtype)
    for _ in range(5):  # power iteration from the channel that differs most
        axis = (covariance * axis[:, None]).sum(2)
        axis = axis / axis.square().sum(1, keepdim=True).sqrt().clamp(min=1e-8)
    return torch.where(axis.sum(1, keepdim=True) < 0, -axis, axis)


class LayeredUpscaler(Upscaler):
    """Feed-forward network from four small clips to four large ones.

    For every large pixel it predicts a kernel over the small pixels around it (dynamic upsampling filters, Jo et al.,
    CVPR 2018), added to bicubic interpolation and a small correction: the network only has to know where an edge is,
    not the colours on its sides. It sees the previous and the next frame, so that still content stays still.
    """

    memory_format = torch.channels_last

    @register_to_config
    def __init__(self, factor: int = 4, width: int = 64, num_blocks: int = 10, kernel_size: int = 5) -> None:
        """
        Args:
            factor: factor on height and width; a power of two.
            width: features at the small size.
            num_blocks: residual blocks; every third one sees neighbouring frames.
            kernel_size: height and width of the kernels in small pixels; odd.
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
        """Enlarge clips by `factor`.

        Args:
            clips: all of `CLIPS`, (B, F, C, H, W) in model space; only the first channel of alpha counts.

        Returns:
            Clips (B, F, C, f*H, f*W), alpha with one channel. `blended` is the composite of the others, plus the
            bicubic difference of the small one from the small composite.
        """
        small = {name: clips[name][:, :, : CHANNELS[name]].float() for name in CLIPS}
        planes = torch.cat([small[name] for name in DRAWN], dim=2).unbind(1)  # (B, 7, H, W) for each frame
        # One frame at a time: its features stay in a processor's cache from one layer to the next.
        pixels = [torch.cat(frame, dim=1) for frame in zip(planes, small[BLENDED].unbind(1), strict=True)]
        dtype = self.stem.weight.dtype
        x = [
            self.stem(seen.to(dtype)) + self.patch_stem(self._patches(frame).to(dtype))  # (B, width, H, W)
            for seen, frame in zip(windows(pixels), planes, strict=True)
        ]
        body = x
        for block in self.blocks:
            body = block(body)
        features = (F.silu(a + b).contiguous(memory_format=torch.channels_last) for a, b in zip(x, body, strict=True))
        large_planes = torch.stack([self._draw(*frame) for frame in zip(features, planes, strict=True)], dim=1)
        large = dict(zip(DRAWN, large_planes.split(list(DRAWN.values()), dim=2), strict=True))
        lacking = (small[BLENDED] - composite(small)).flatten(0, 1)
        residual = F.interpolate(lacking, scale_factor=self.config.factor, mode="bicubic")
        return large | {BLENDED: composite(large) + residual.view_as(large[BACKGROUND])}

    def _patches(self, planes: Tensor) -> Tensor:
        """Return the `patches` of all drawn clips, (B, 3 * (side² + 1), H, W), from their planes (B, 7, H, W)."""
        clips = planes.split(list(DRAWN.values()), dim=1)
        near = torch.cat([patches(clip, self.config.kernel_size) for clip in clips], dim=1)
        return near.contiguous(memory_format=torch.channels_last)

    def _draw(self, features: Tensor, planes: Tensor) -> Tensor:
        """Return large planes (N, 7, f*H, f*W) from small ones (N, 7, H, W) and features (N, width, H, W)."""
        side, factor = self.config.kernel_size, self.config.factor
        number, height, width = features.shape[0], *features.shape[2:]
        taps = surroundings(planes, side).permute(0, 4, 5, 1, 2, 3).flatten(4)  # (N, H, W, 7, side²)
        drawn = [
            self._draw_pixels(*part)
            for part in zip(
                features.permute(0, 2, 3, 1).flatten(0, 2).split(KERNELS_AT_ONCE),
                taps.flatten(0, 2).split(KERNELS_AT_ONCE),
                strict=True,
            )
        ]
        change = torch.cat(drawn).view(number, height, width, PLANES, factor, factor).permute(0, 3, 1, 4, 2, 5)
        large = F.interpolate(planes, scale_factor=factor, mode="bicubic")
        return large + change.reshape(large.shape)

    def _draw_pixels(self, features: Tensor, taps: Tensor) -> Tensor:
        """Return changes (P, 7, f²) of large pixels from features (P, width) and taps (P, 7, side²) of small ones."""
        side, shares = self.config.kernel_size, self.config.factor**2
        taps = taps - taps.mean(2, keepdim=True)  # as if every kernel added up to 0
        image = features.mT[None, :, :, None]  # (1, width, P, 1), the pixels as one column
        kernels = self.kernels(image).float()[0, :, :, 0].mT.unflatten(1, (len(DRAWN), side**2, shares))
        filtered = [
            channels @ kernel  # (P, C, f²)
            for channels, kernel in zip(taps.split(list(DRAWN.values()), dim=1), kernels.unbind(1), strict=True)
        ]
        correction = self.head(image).float()[0, :, :, 0].mT.unflatten(1, (PLANES, shares))
        return torch.cat(filtered, dim=1) + correction

    @torch.no_grad()
    def upscale(self, clips: Mapping[str, Tensor], factor: int, given: Mapping[str, Tensor] | None = None) -> Clips:
        """Enlarge clips by `factor`, within [-1, 1].

        Background and foreground are copied from a given blended video at the large size, as `solve_composition` does
        at the small one.

        Args:
            clips: all of `CLIPS`, as for `forward`.
            factor: one of `factors`.
            given: given clips at the large size, returned unchanged.

        Raises:
            ValueError: the factor is none of `factors`.
        """
        if factor not in self.factors:
            raise ValueError(f"clips can be made {', '.join(map(str, self.factors))} times as large, not {factor}")
        given = {name: clip[:, :, : CHANNELS[name]] for name, clip in (given or {}).items()}
        if factor == 1:
            return {name: clips[name][:, :, : CHANNELS[name]] for name in CLIPS} | given
        large = self(clips)
        residual = large.pop(BLENDED) - composite(large)
        if factor < self.config.factor:
            size = 1, self.config.factor // factor, self.config.factor // factor
            residual, *drawn = (
                F.avg_pool3d(clip.transpose(1, 2), size).transpose(1, 2) for clip in (residual, *large.values())
            )
            large = dict(zip(large, drawn, strict=True))
        large = {name: clip.clamp(-1, 1) for name, clip in large.items()} | given
        if BLENDED not in given:
            return large | {BLENDED: (composite(large) + residual).clamp(-1, 1)}
        blended, alpha = given[BLENDED], large[ALPHA]
        if BACKGROUND not in given:
            known, certainty = known_background(blended, visibility(alpha, rim=factor))
            large[BACKGROUND] = large[BACKGROUND].lerp(known, certainty)
        if FOREGROUND not in given:
            share = (1 + alpha) / 2  # a foreground over mid-grey is bounded by its alpha
            uncomposed = blended - (1 - share) * large[BACKGROUND]
            large[FOREGROUND] = torch.maximum(torch.minimum(uncomposed, share), -share)
        return large

    @property
    def factors(self) -> list[int]:
        """Supported factors on height and width."""
        return factors_up_to(self.config.factor)


def factors_up_to(factor: int) -> list[int]:
    """Return 1, 2, 4 and so on up to `factor`.

    Raises:
        ValueError: the factor is not a power of two above 1.
    """
    if factor < 2 or factor & (factor - 1):
        raise ValueError(f"factor {factor} is not a power of two")
    return [2**n for n in range(factor.bit_length())]
