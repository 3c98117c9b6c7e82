"""Speed of building layered clips from footage, and load of the cores.

    python benchmarks/footage.py [--clips 48] [--frames 16] [--size 64] [--workers N]

The footage is drawn: videos of 128x128 with a mask for each frame, in which a disc crosses a background that pans.
Seconds and cores are those of the build alone, the start of its processes within. What other programs take of the cores
is missing in the share, so nothing else should run.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from layerflow.datasets import FootageRecipe, build_shards
from layerflow.datasets.pool import stopwatch
from layerflow.datasets.recipe import SourceRecipe

SIDE = 128
"""Height and width of the drawn footage in pixels."""


def draw(folder: Path, clips: int, frames: int) -> None:
    """Write videos with masks, in the layout of DAVIS without a folder for the resolution."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for clip in range(clips):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 32, 3), dtype=np.uint8))
        wide = np.asarray(coarse.resize((2 * SIDE, SIDE), Image.Resampling.BICUBIC))
        homes = [folder / kind / f"disc{clip:03d}" for kind in ("JPEGImages", "Annotations")]
        for home in homes:
            home.mkdir(parents=True)
        for frame in range(frames):
            pan, across = frame * SIDE // (2 * frames), SIDE * (frame + 4) // (frames + 8)
            mask = (rows - SIDE // 2) ** 2 + (columns - across) ** 2 < (SIDE // 6) ** 2
            picture = wide[:, pan : pan + SIDE].copy()
            picture[mask] = (230, 40, 40)
            Image.fromarray(picture).save(homes[0] / f"{frame:05d}.jpg")
            Image.fromarray(mask.astype(np.uint8)).save(homes[1] / f"{frame:05d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=64, help="pixels of a clip's side")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder) / "drawn", given.clips, given.frames)
        source = SourceRecipe("masks", folder="drawn")
        size = (given.size, given.size)
        recipe = FootageRecipe("drawn", (source,), size, given.frames, matting="crude", folder=folder)
        start, busy = time.perf_counter(), stopwatch()
        index = build_shards(recipe, Path(folder) / "shards", given.workers)
        seconds = time.perf_counter() - start
        share = busy()
    what = f"{index['clips']} clips of {given.frames} frames, {SIDE}x{SIDE} to {given.size}x{given.size}"
    print(f"{what}, {given.workers} processes")
    print(f"{seconds:.1f} s, {index['clips'] / seconds:.2f} clips/s, cores busy {share:.0%} of {os.cpu_count()}")


if __name__ == "__main__":
    main()
