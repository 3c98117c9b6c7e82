"""Errors and speed of the upscaler and of bicubic interpolation, compared with scenes drawn at the large size.

    python benchmarks/upscale.py [--model mini] [--samples 60]

Scenes are held out: objects or combinations that no training saw. Alpha's error and flicker are in parts of a thousand.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
import torch.nn.functional as F
from common import median_seconds

from layerflow.core.schema import CLIPS
from layerflow.evaluation.metrics import alpha_mae, dtssd, mse, psnr_of
from layerflow.mini.network.upscaler import LayeredUpscaler, composite
from layerflow.mini.world import Scene, SceneSource
from layerflow.models.folders import find_model
from layerflow.models.model_space import to_model_space

SEED = 5
SPLITS = ("held_out_objects", "held_out_combinations")


def space(scene: Scene) -> dict[str, torch.Tensor]:
    """Return clips (1, F, C, H, W) in model space, alpha with one channel."""
    clips = to_model_space({name: getattr(scene, name)[None] for name in CLIPS})
    return clips | {"alpha": clips["alpha"][:, :, :1]}


def bicubic(clips: dict[str, torch.Tensor], factor: int) -> dict[str, torch.Tensor]:
    """Return each clip interpolated separately, within [-1, 1]."""
    return {
        name: F.interpolate(clip[0], scale_factor=factor, mode="bicubic").clamp(-1, 1)[None]
        for name, clip in clips.items()
    }


def measure(upscaled: dict[str, torch.Tensor], true: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return squared errors of all clips, error and flicker of alpha, and the error of `blended` to the composite."""
    unit = {name: ((clip[0] + 1) / 2, (true[name][0] + 1) / 2) for name, clip in upscaled.items()}
    return {
        **{name: mse(*unit[name]) for name in CLIPS},
        "alpha MAE": 1000 * alpha_mae(*unit["alpha"]),
        "alpha dtSSD": 1000 * dtssd(*unit["alpha"]),
        "blended dtSSD": 1000 * dtssd(*unit["blended"]),
        "composite": mse((composite(upscaled)[0] + 1) / 2, unit["blended"][0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini", help="mini, or a model folder with an upscaler")
    parser.add_argument("--samples", type=int, default=60, help="clips of each kind of held-out scenes")
    arguments = parser.parse_args()
    folder = Path(find_model(arguments.model)) / "upscaler"
    upscaler = LayeredUpscaler.from_pretrained(folder, dtype=torch.float32).to(memory_format=torch.channels_last)
    parameters = sum(parameter.numel() for parameter in upscaler.parameters())
    print(f"{parameters / 1e6:.2f} M parameters, {arguments.samples} clips of 8 frames of 64x64 for each kind of scene")

    for split in SPLITS:
        small_source = SceneSource(split)
        for factor in upscaler.factors[1:]:
            large_source = SceneSource(split, size=64 * factor)
            ours, theirs = [], []
            for index in range(arguments.samples):
                small = space(small_source.scene(index, SEED))
                large = space(large_source.scene(index, SEED))
                ours.append(measure(upscaler.upscale(small, factor), large))
                theirs.append(measure(bicubic(small, factor), large))
            print(f"\n{split}, {factor} times as large: upscaler, bicubic, difference")
            for name in ours[0]:
                a, b = (statistics.mean(row[name] for row in rows) for rows in (ours, theirs))
                if name in (*CLIPS, "composite"):
                    a, b = psnr_of(a), psnr_of(b)
                    print(f"  {name:<14} {a:7.2f} dB  {b:7.2f} dB  {a - b:+.2f} dB")
                else:
                    print(f"  {name:<14} {a:7.3f}     {b:7.3f}     {a / b - 1:+.0%}")

    print()
    small = space(SceneSource("train").scene(0, 0))
    for factor in upscaler.factors[1:]:
        seconds = median_seconds(lambda: upscaler.upscale(small, factor), 5)  # noqa: B023
        print(f"8 frames to {64 * factor}x{64 * factor}: {seconds:.2f} s on {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
