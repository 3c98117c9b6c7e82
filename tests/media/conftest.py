"""A tiny smooth scene, whose colour under transparent pixels is black as a model leaves it."""

import pytest
import torch

from layerflow.core.layered_video import LayeredVideo


@pytest.fixture(scope="session")
def scene() -> LayeredVideo:
    """4 frames of 32x48: a soft disc that moves over a gradient."""
    frames, height, width = 4, 32, 48
    t = torch.arange(frames).view(-1, 1, 1, 1) / frames
    y = torch.linspace(0, 1, height).view(1, 1, -1, 1)
    x = torch.linspace(0, 1, width).view(1, 1, 1, -1)
    waves = [torch.sin(3 * x + 2 * y + t), torch.cos(4 * y - x + t), torch.sin(4 * x * y + t)]
    foreground = torch.cat([0.5 + 0.4 * wave for wave in waves], dim=1)
    background = torch.cat([0.5 + 0.3 * wave for wave in reversed(waves)], dim=1)
    distance = ((x - 0.35 - 0.2 * t) ** 2 * 1.8 + (y - 0.5) ** 2).sqrt()
    alpha = ((0.35 - distance) * 8 + 0.5).clamp(0, 1)
    foreground = torch.where(alpha > 0, foreground, torch.zeros_like(foreground))
    return LayeredVideo(foreground, alpha, background, fps=8.0).compose()
