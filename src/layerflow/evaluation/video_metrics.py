"""Metrics of videos that need no true layers: distance between sets, consistency, smoothness, amount of motion.

VBench (arXiv 2311.17982) measures with networks that are not bundled; here each network is a function argument, with a
simple function as the default. Values obtained with different functions are not comparable.

Letters: N videos, F frames, C channels, H, W pixels, D features. Videos are (F, C, H, W) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import first_line
from ..core.optical_flow import flows_both_ways

VideoFeatures = Callable[[Tensor], Tensor]
"""Function of a video (F, C, H, W) that returns features (D,)."""
FrameFeatures = Callable[[Tensor], Tensor]
"""Function of frames (F, C, H, W) that returns features (F, D)."""


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """Return the squared Frechet distance of normal distributions fitted to two sets of features (N, D) and (M, D):
    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson and Landau 1982; FVD, arXiv 1812.01717).

    Raises:
        ValueError: fewer than two samples in a set, or sets of different width.
    """
    if min(len(one), len(other)) < 2 or one.shape[1] != other.shape[1]:
        raise ValueError(f"sets are {tuple(one.shape)} and {tuple(other.shape)}: at least 2 samples each, equally wide")
    means = [x.double().mean(0) for x in (one, other)]
    spreads = [torch.cov(x.double().T).view(x.shape[1], -1) for x in (one, other)]
    values, axes = torch.linalg.eigh(spreads[0])
    root = axes * values.clamp(min=0).sqrt() @ axes.T
    # The root's trace is that of a symmetric matrix with the same eigenvalues, which eigh finds without rounding into
    # complex numbers as a general square root does.
    cross = torch.linalg.eigvalsh(root @ spreads[1] @ root).clamp(min=0).sqrt().sum()
    distance = (means[0] - means[1]).square().sum() + spreads[0].trace() + spreads[1].trace() - 2 * cross
    return max(0.0, float(distance))


@torch.no_grad()
def video_distance(made: Sequence[Tensor], real: Sequence[Tensor], features: VideoFeatures | None = None) -> float:
    """Return the Frechet distance between features of generated and real videos.

    FVD in the strict sense uses features of I3D; see `load_features`.
    """
    features = features or RandomFeatures()
    return frechet_distance(*(torch.stack([features(video) for video in side]) for side in (made, real)))


class RandomFeatures(nn.Module):
    """Features of a fixed, random, untrained 3D convolutional network, the same on every machine.

    Random features distinguish sets by colour, texture and motion, but not by meaning.
    """

    def __init__(self, width: int = 16, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.kernels = [
            torch.randn(w, c, 3, 3, 3, generator=generator) / (27 * c) ** 0.5 for c, w in ((3, width), (width, width))
        ]

    def forward(self, video: Tensor) -> Tensor:
        """Return mean and standard deviation of each channel (2 * width,) of a video (F, 3, H, W)."""
        x = F.interpolate(video.float(), (64, 64), mode="bilinear", antialias=True).transpose(0, 1)[None] * 2 - 1
        for kernel in self.kernels:
            x = F.conv3d(F.pad(x, (1, 1, 1, 1, 1, 1), mode="replicate"), kernel, stride=(1, 2, 2)).relu()
        x = x[0].flatten(1)
        return torch.cat([x.mean(1), x.std(1)])


def load_features(name: str) -> VideoFeatures:
    """Load video features by name: `random`, or a folder or hub id of a VideoMAE model of transformers.

    Raises:
        ValueError: there is no such model.
    """
    if name == "random":
        return RandomFeatures()
    from transformers import VideoMAEModel

    try:
        model = VideoMAEModel.from_pretrained(name).eval()
    except (OSError, ValueError) as error:
        raise ValueError(f"features {name}: no VideoMAE model could be loaded ({first_line(error)})") from error
    config = model.config
    side = config.image_size, config.image_size
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    @torch.no_grad()
    def features(video: Tensor) -> Tensor:
        places = torch.linspace(0, len(video) - 1, config.num_frames).round().long()
        x = F.interpolate(video[places].float(), side, mode="bilinear", antialias=True)
        x = (x - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        return model(pixel_values=x[None]).last_hidden_state[0].mean(0)  # type: ignore[no-any-return]

    return features


def thumbnails(frames: Tensor, side: int = 8) -> Tensor:
    """Return frames reduced to side x side pixels minus their mean, (F, 3*side*side): a simple default feature."""
    small = F.adaptive_avg_pool2d(frames.double(), side).flatten(1)
    return small - small.mean(1, keepdim=True)


def temporal_consistency(video: Tensor, features: FrameFeatures = thumbnails) -> float:
    """Return the mean cosine similarity of each frame's features to those of the first and of the previous frame, as
    VBench's subject and background consistency; 1 for a still."""
    values = features(video)
    if len(values) < 2:
        return 1.0
    to_first = F.cosine_similarity(values[1:], values[:1], dim=1)
    to_last = F.cosine_similarity(values[1:], values[:-1], dim=1)
    return float((to_first + to_last).mean() / 2)


def halfway(before: Tensor, after: Tensor) -> Tensor:
    """Return the mean of two frames: a simple default interpolation."""
    return (before + after) / 2


def motion_smoothness(video: Tensor, between: Callable[[Tensor, Tensor], Tensor] = halfway) -> float:
    """Return 1 minus the mean absolute error of every second frame interpolated from its neighbours, as in VBench; 1
    for clips of fewer than 3 frames."""
    middle = range(1, len(video) - 1, 2)
    errors = [(between(video[i - 1], video[i + 1]) - video[i]).abs().mean() for i in middle]
    return 1 - float(torch.stack(errors).mean()) if errors else 1.0


def motion_flow(video: Tensor) -> Tensor:
    """Return the optical flow (F-1, 2, H, W), in pixels, from each frame of a video (F, 3, H, W) to the next."""
    return flows_both_ways(video)[0]


def motion_amount(flow: Tensor) -> Tensor:
    """Return the mean length of the fastest twentieth of a flow (F-1, 2, H, W) in each frame, in pixels: (F-1,)."""
    lengths = flow.norm(dim=1).flatten(1)
    return lengths.topk(max(1, lengths.shape[1] // 20), dim=1).values.mean(1)


def is_dynamic(flow: Tensor) -> bool:
    """Return if a clip moves in the sense of VBench: a quarter of its frames move by more than 6 pixels of 256."""
    threshold = 6 * min(flow.shape[-2:]) / 256
    return int((motion_amount(flow) > threshold).sum()) >= max(1, round((len(flow) + 1) / 4))


def dynamic_degree(videos: Sequence[Tensor], flow: Callable[[Tensor], Tensor] = motion_flow) -> float:
    """Return the share of videos that move; stills do not."""
    return sum(len(video) > 1 and is_dynamic(flow(video)) for video in videos) / len(videos)
