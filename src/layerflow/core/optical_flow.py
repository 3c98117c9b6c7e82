"""Optical flow between the frames of a video, and warping along it.

Letters: N images, F frames, C channels, H height, W width. Flow is in pixels, x before y.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .compositing import pull_push
from .errors import UserError


def flows_both_ways(frames: Tensor, hole: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Estimate flow by dense inverse search (Kroeger et al. 2016, arXiv 1603.03590), OpenCV's medium preset.

    Args:
        frames: (F, 3, H, W) in [0, 1].
        hole: (F, 1, H, W) bool, where flow is not estimated but continued from the surroundings; None for no hole.

    Returns:
        Two flows (F-1, 2, H, W): from each frame but the last to the next, and from each but the first to the one
        before.

    Raises:
        UserError: OpenCV is not installed.
    """
    if find_spec("cv2") is None:
        raise UserError("optical flow needs OpenCV; install it with: pip install 'layerflow[data]'")
    import cv2

    grey = (frames.mean(1) * 255).round().byte().numpy()
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    start = np.zeros((*grey.shape[1:], 2), np.float32)

    def estimate(origin: int, target: int) -> Tensor:
        pairs = range(len(frames) - 1)
        flow = [torch.from_numpy(search.calc(grey[i + origin], grey[i + target], start.copy())) for i in pairs]
        return torch.stack(flow).permute(0, 3, 1, 2) if flow else torch.zeros(0, 2, *frames.shape[-2:])

    ahead, back = estimate(0, 1), estimate(1, 0)
    if hole is None:
        return ahead, back
    return _continued(ahead, hole[:-1]), _continued(back, hole[1:])


def _continued(flow: Tensor, hole: Tensor) -> Tensor:
    """Fill a flow (F-1, 2, H, W) inside a hole (F-1, 1, H, W) from its surroundings."""
    return pull_push(flow * ~hole, (~hole).float()) if len(flow) else flow


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """Look images (N, C, H, W) up at each pixel's position plus its flow (N, 2, H, W), bilinear; 0 beyond the border.

    Returns (N, C, H, W).
    """
    height, width = image.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x = (columns + flow[:, 0] + 0.5) * (2 / width) - 1
    y = (rows + flow[:, 1] + 0.5) * (2 / height) - 1
    return F.grid_sample(image, torch.stack([x, y], dim=-1), align_corners=False)


__all__ = ["flows_both_ways", "warp"]
