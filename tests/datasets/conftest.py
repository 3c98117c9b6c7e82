"""Footage in the layouts of the usual data sets."""

from pathlib import Path

import pytest
from drawn_footage import FRAMES, HEIGHT, WIDTH, moving_square, save, save_mask, texture


@pytest.fixture
def footage(tmp_path: Path) -> Path:
    """A folder with every kind of footage."""
    root = tmp_path / "footage"
    video, masks, background = moving_square()
    for index in range(FRAMES):
        save(root / "davis" / "JPEGImages" / "480p" / "red-square" / f"{index:05d}.png", video[index])
        save_mask(root / "davis" / "Annotations" / "480p" / "red-square" / f"{index:05d}.png", masks[index])
        save(root / "rgba" / "square_a" / f"{index:03d}.png", video[index], masks[index].float())
        save(root / "videos" / "meadow" / f"{index:03d}.png", background[index])
    save(root / "cutouts" / "toy car.png", video[0], masks[0].float())
    save(root / "photos" / "beach.png", texture(HEIGHT, WIDTH, 5))
    save(root / "mulan" / "0001" / "foreground.png", video[2], masks[2].float())
    save(root / "mulan" / "0001" / "background.png", background[2])
    return root
