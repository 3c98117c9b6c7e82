"""Features of given frames from a network that was trained on photographs.

Drawn scenes cannot teach what an object of the real world is; these features carry it. The network is
EfficientNet-lite0 (arXiv 1905.11946, without its classifier; weights Apache-2.0), frozen, with batch normalisation
folded into its convolutions.

Letters in shape comments: N frames, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Stage:
    """Blocks of one width."""

    kernel: int
    stride: int
    """Of the first block."""
    expand: int
    """Channels inside of a block, as a multiple of those before it."""
    channels: int
    blocks: int


STEM = 32
STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)
"""Stages of EfficientNet-B0 without squeeze-and-excitation."""
TAPS = {2: 8, 4: 16, 6: 32}
"""Stages whose output counts as features, and the stride of that output."""
CHANNELS = tuple(STAGES[stage].channels for stage in TAPS)
"""Channels of the features, the finest first."""
ENLARGED = 2
"""Factor by which frames are enlarged first: the network was trained on larger pictures than the mini's frames."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the training pictures, in [0, 1]."""
AT_ONCE = 4
"""Frames that pass through the network together on a processor: more would not fit its caches."""
_BATCH_NORM_EPSILON = 1e-3


class PaddedConv(nn.Conv2d):
    """Convolution whose output has ceil(size / stride) pixels, padded below and to the right first, as TensorFlow's."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        # With odd kernels and stride 1, padding is the same on both sides.
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2 if stride == 1 else 0, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (N, C, H, W)."""
        if self.stride[0] > 1:
            kernel, stride = self.kernel_size[0], self.stride[0]
            missing = [max(0, (-(-side // stride) - 1) * stride + kernel - side) for side in x.shape[-2:]]
            x = F.pad(x, (missing[1] // 2, missing[1] - missing[1] // 2, missing[0] // 2, missing[0] - missing[0] // 2))
        return super().forward(x)


class InvertedBlock(nn.Module):
    """Expansion, depthwise convolution and projection, with a shortcut where the shape stays the same."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = inputs * expand
        self.expand = PaddedConv(inputs, inner, 1) if expand > 1 else None
        self.depthwise = PaddedConv(inner, inner, kernel, stride, groups=inner)
        self.project = PaddedConv(inner, outputs, 1)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Transform features (N, C, H, W)."""
        h = x if self.expand is None else F.relu6(self.expand(x))
        h = self.project(F.relu6(self.depthwise(h)))
        return x + h if self.shortcut else h


class ImageFeatures(nn.Module):
    """Frozen features at strides 8, 16 and 32 of the enlarged frame, so 4, 8 and 16 of the frame itself."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = PaddedConv(3, STEM, 3, 2)
        self.stages, inputs = nn.ModuleList(), STEM
        for stage in STAGES:
            blocks = nn.ModuleList()
            for place in range(stage.blocks):
                stride = stage.stride if place == 0 else 1
                blocks.append(InvertedBlock(inputs, stage.channels, stage.kernel, stride, stage.expand))
                inputs = stage.channels
            self.stages.append(blocks)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, frames: Tensor) -> list[Tensor]:
        """Return features of frames (N, 3, H, W) in [-1, 1]: (N, 40, H/4, W/4), (N, 112, H/8, W/8) and
        (N, 320, H/16, W/16), rounded up."""
        at_once = AT_ONCE if frames.device.type == "cpu" else max(1, len(frames))
        parts = [self._encode(part) for part in frames.split(at_once)]
        return [torch.cat(level) for level in zip(*parts, strict=True)]

    def _encode(self, frames: Tensor) -> list[Tensor]:
        dtype = self.first.weight.dtype
        x = F.interpolate(frames.float(), scale_factor=ENLARGED, mode="bilinear", align_corners=False)
        x = ((x.clamp(-1, 1) + 1) / 2 - self.mean) / self.std
        x = F.relu6(self.first(x.to(dtype).contiguous(memory_format=torch.channels_last)))
        features = []
        for number, blocks in enumerate(self.stages):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x)
            if number in TAPS:
                features.append(x)
        return features


def folded_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of `ImageFeatures` from those of the original network, whose layers are named `_conv_stem`,
    `_blocks.N._expand_conv` and so on, with batch normalisation."""
    convolutions = {"first": ("_conv_stem", "_bn0")}
    number = 0
    for place, stage in enumerate(STAGES):
        for block in range(stage.blocks):
            own, theirs = f"stages.{place}.{block}", f"_blocks.{number}"
            if stage.expand > 1:
                convolutions[f"{own}.expand"] = f"{theirs}._expand_conv", f"{theirs}._bn0"
            convolutions[f"{own}.depthwise"] = f"{theirs}._depthwise_conv", f"{theirs}._bn1"
            convolutions[f"{own}.project"] = f"{theirs}._project_conv", f"{theirs}._bn2"
            number += 1
    folded = {}
    for own, (convolution, norm) in convolutions.items():
        scale = state[f"{norm}.weight"] * (state[f"{norm}.running_var"] + _BATCH_NORM_EPSILON).rsqrt()
        folded[f"{own}.weight"] = state[f"{convolution}.weight"] * scale[:, None, None, None]
        folded[f"{own}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    return folded
