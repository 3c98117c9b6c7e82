"""Footage as tests draw it."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from layerflow.core.layered_video import LayeredVideo
from layerflow.datasets import Item

HEIGHT, WIDTH, FRAMES = 48, 64, 6


def texture(height: int, width: int, seed: int = 0) -> Tensor:
    """Return a still (3, H, W) with something to follow at every place."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 4, width // 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]


def moving_square(frames: int = FRAMES, pan: int = 0, step: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Return video, mask and background (F, C, H, W) of a red square that crosses a texture, which may pan."""
    wide = texture(HEIGHT, WIDTH + pan * frames)
    backgrounds, masks = [], torch.zeros(frames, 1, HEIGHT, WIDTH, dtype=torch.bool)
    for index in range(frames):
        backgrounds.append(wide[:, :, index * pan : index * pan + WIDTH])
        masks[index, :, 16:30, 4 + step * index : 18 + step * index] = True
    background = torch.stack(backgrounds)
    video = torch.where(masks, torch.tensor([0.9, 0.1, 0.1]).view(1, 3, 1, 1), background)
    return video, masks, background


def deadly_captions(recipe: object, item: Item, video: LayeredVideo) -> dict[str, str]:
    """End the process over one clip, as too little memory does: a captioning plug-in."""
    if item.about == "deadly":
        os._exit(9)
    return {"foreground": item.about}


def save(path: Path, colour: Tensor, alpha: Tensor | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    clip = colour if alpha is None else torch.cat([colour, alpha])
    Image.fromarray((clip * 255).round().byte().permute(1, 2, 0).numpy()).save(path)


def save_mask(path: Path, mask: Tensor, number: int = 1) -> None:
    """Write a mask (1, H, W) as the data sets have them: a palette picture of object numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray((mask[0].numpy() * number).astype(np.uint8), mode="P")
    picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0] + [0] * 759)
    picture.save(path)
