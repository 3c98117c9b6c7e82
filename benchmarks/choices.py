"""Ablation of the mini's design: networks with one change each, trained for equal processor time.

    python benchmarks/choices.py [--minutes 6] [--only NAME ...] [--threads 1] [--output runs/choices]

Each starts with the mini's fitted parts (sketches, whitening and fill) and fresh weights otherwise, and is trained on
the same scenes; the number of steps follows from the processor time of the first ones. Then all are measured on the
same held-out scenes. Six minutes are far from the end of training: the table shows what learns faster, not what
ends best. Results are kept in the output folder and not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

import torch
from denoising import reached
from torch import Tensor

from layerflow.core.layered_video import LayeredVideo
from layerflow.core.schema import CLIPS
from layerflow.evaluation import metrics
from layerflow.mini.acceptance.cases import noise_generator
from layerflow.mini.network import transformer as compact
from layerflow.mini.network.blocks import CompactBlock
from layerflow.mini.network.transformer import CompactTransformer3DModel
from layerflow.mini.recipes import MiniRecipe
from layerflow.mini.world import SceneSource
from layerflow.models.folders import find_model
from layerflow.models.layout import Layout
from layerflow.pipeline import LayerFlowPipeline
from layerflow.training.recipe import NoiseRecipe, PhaseRecipe, StageRecipe
from layerflow.training.trainer import Trainer

SAMPLES, SEED, LEVELS = 24, 3, (0.4, 0.7, 0.9, 1.0)
TIMED = 6
"""Steps whose processor time is measured."""
FITTED = ("sketch.", "fill.", "text_whitening.", "pool_whitening.")
STILLS, MIXED, CLIPS_ONLY = {1: 0.85, 2: 0.15}, {1: 0.3, 2: 0.2, 8: 0.5}, {8: 1.0}
BASE = StageRecipe(
    "choices",
    size=32,
    frames_per_batch=24,
    warmup=30,
    decay=0.5,
    ema=0.99,
    precision="auto",
    hidden_weight=6.0,
    tasks={"generate": 0.5, "decompose": 0.4, "any": 0.1},
    mini=MiniRecipe(sketch_scenes=0, fill_steps=0),
    noise=NoiseRecipe(pure=0.33, mean=1.5, std=1.2),
    phases=(PhaseRecipe(1, STILLS), PhaseRecipe(1, MIXED)),
    checkpoint_every=10**6,
    sample_every=10**6,
)


def alternating(self: CompactBlock, hidden_states: Tensor, text: Tensor, mask: Tensor, temb: Tensor) -> Tensor:
    """Block with attention within each frame over all clips, then within each clip over all frames."""
    b, k, f, p, d = hidden_states.shape
    shift1, scale1, gate1, shift2, scale2, gate2 = (temb + self.modulation).unsqueeze(3).unbind(4)
    x = hidden_states
    h = torch.addcmul(shift1, self.norm1(x), 1 + scale1)
    within_frames = self.attn(h.transpose(1, 2).reshape(b * f, k * p, d)).view(b, f, k, p, d).transpose(1, 2)
    within_clips = self.attn(h.reshape(b * k, f * p, d)).view_as(x)
    x = torch.addcmul(x, gate1, (within_frames + within_clips) / 2)
    x = x + self.cross_attn(self.norm2(x).view(b * k, f * p, d), text, mask).view_as(x)
    h = torch.addcmul(shift2, self.norm3(x), 1 + scale2)
    return torch.addcmul(x, gate2, self.mlp(h))


def uncomposed(drawn: Any, copy: Tensor, sequence: Tensor, timestep: Tensor, layout: Layout, fill: Any) -> Any:
    """Return all four clips as predicted: nothing is copied, and `blended` is not composed of the others."""
    shown = layout.unpack(sequence)
    shown["alpha"] = shown["alpha"][:, :, :1]
    given = {name: (timestep[:, layout.clips.index(name)] == 0)[:, None, None, None, None] for name in CLIPS}
    return {name: torch.where(given[name], shown[name], drawn[name]).float() for name in CLIPS}


@dataclass(frozen=True)
class Choice:
    """A change of the mini's design."""

    recipe: dict[str, Any] = field(default_factory=dict)
    patches: tuple[tuple[Any, str, Any], ...] = ()
    """Object, attribute and replacement."""


CHOICES = {
    "as the mini": Choice(),
    "AdamW at 1e-3": Choice({"optimizer": "adamw"}),
    "AdamW at 3e-4": Choice({"optimizer": "adamw", "learning_rate": 3e-4}),
    "attention in frames and in clips": Choice(patches=((CompactBlock, "forward", alternating),)),
    "whole clips from the start": Choice({"phases": (PhaseRecipe(1, CLIPS_ONLY), PhaseRecipe(1, CLIPS_ONLY))}),
    "noise levels uniform": Choice({"noise": NoiseRecipe(pure=0.0, uniform=True)}),
    "no samples of pure noise": Choice({"noise": replace(BASE.noise, pure=0.0)}),
    "noise levels not shifted": Choice({"noise": replace(BASE.noise, mean=0.0)}),
    "all pixels weigh the same": Choice({"foreground_weight": 0.0, "hidden_weight": 0.0}),
    "no composition, nothing copied": Choice(patches=((compact, "solve_composition", uncomposed),)),
    "64x64 pixels": Choice({"size": 64}),
    "128x128 pixels, 16 frames": Choice(
        {"size": 128, "clip_frames": 16, "frames_per_batch": 16,
         "phases": (PhaseRecipe(1, STILLS), PhaseRecipe(1, {1: 0.3, 2: 0.2, 16: 0.5}))}
    ),
}  # fmt: skip


@contextlib.contextmanager
def otherwise(choice: Choice) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for owner, name, value in choice.patches:
            stack.enter_context(patch.object(owner, name, value))
        yield


def lasting(recipe: StageRecipe, steps: int) -> StageRecipe:
    """Return the recipe with a number of steps, seven tenths of them in the first phase."""
    first = max(1, round(0.7 * steps))
    phases = tuple(replace(p, steps=n) for p, n in zip(recipe.phases, (first, max(1, steps - first)), strict=True))
    return replace(recipe, phases=phases)


def trainer_of(recipe: StageRecipe, steps: int, folder: Path, report: Callable[..., None] | None = None) -> Trainer:
    """Return a fresh run, with the mini's fitted parts."""
    shutil.rmtree(folder, ignore_errors=True)
    trainer = Trainer(lasting(recipe, steps), folder, report=report, final=False)
    fitted = CompactTransformer3DModel.from_pretrained(find_model("mini"), subfolder="transformer").state_dict()
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    model.load_state_dict({n: t.float() for n, t in fitted.items() if n.startswith(FITTED)}, strict=False)
    return trainer


def seconds_per_step(recipe: StageRecipe, folder: Path) -> float:
    """Return the processor time of a step, over as many of the first phase as of the second."""
    trainer = trainer_of(recipe, 100, folder)
    spent = []
    for number in (*range(TIMED + 1), *range(70, 70 + TIMED)):
        batch = trainer.batches[number]
        start = time.process_time()
        trainer.train_step(batch)
        spent.append(time.process_time() - start)
    return 0.7 * fmean(spent[1 : TIMED + 1]) + 0.3 * fmean(spent[TIMED + 1 :])


@torch.no_grad()
def measure(pipeline: LayerFlowPipeline, recipe: StageRecipe) -> dict[str, float]:
    """Measure mattes and backgrounds of decompose, and denoising of generate, on held-out scenes."""
    source = SceneSource("held_out_combinations", recipe.size, recipe.clip_frames)
    values: dict[str, list[float]] = {}
    for number in range(SAMPLES):
        scene = source.scene(number, SEED)
        true = LayeredVideo(**{name: getattr(scene, name).clamp(0, 1) for name in CLIPS})
        output: Any = pipeline(
            given=[LayeredVideo(blended=true.blended)],
            num_frames=recipe.clip_frames,
            height=recipe.size,
            width=recipe.size,
            generator=[noise_generator("decompose", SEED, number)],
        )
        found = output.videos[0].clips()
        own = {
            "alpha MAE": metrics.alpha_mae(found["alpha"], true.clips()["alpha"]),
            "alpha IoU": metrics.alpha_iou(found["alpha"], true.clips()["alpha"]),
            "background PSNR": metrics.psnr(found["background"], true.clips()["background"]),
            "denoising PSNR": fmean(row["all clips"] for row in reached(pipeline, scene, number, LEVELS)),
        }
        for name, value in own.items():
            values.setdefault(name, []).append(value)
    return {name: fmean(own) for name, own in values.items()}


def run(name: str, choice: Choice, minutes: float, folder: Path) -> dict[str, float]:
    """Train and measure one choice, or read its earlier result."""
    kept = folder / f"{name.replace(' ', '-').replace(',', '')}.json"
    if kept.is_file():
        record = json.loads(kept.read_text("utf-8"))
        if record.pop("minutes") == minutes:
            return record
    recipe = replace(BASE, **choice.recipe)
    with otherwise(choice):
        each = seconds_per_step(recipe, folder / "timed")
        steps = max(2, round(60 * minutes / each))
        trainer = trainer_of(recipe, steps, folder / "run", lambda step, _: print(f"  {step}/{steps}", end="\r"))
        trainer.train()
        record = {"steps": steps, "seconds per step": each, **measure(trainer.averaged(), recipe)}
    for left in ("timed", "run"):
        shutil.rmtree(folder / left)
    kept.write_text(json.dumps({"minutes": minutes, **record}, indent=1), "utf-8")
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=6.0, help="processor time of each, in training")
    parser.add_argument("--only", nargs="+", choices=CHOICES, metavar="NAME", default=list(CHOICES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("runs/choices"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    records = {name: run(name, CHOICES[name], arguments.minutes, arguments.output) for name in arguments.only}
    figures = list(next(iter(records.values())))
    print(f"| {arguments.minutes:g} minutes of one core each | {' | '.join(figures)} |")
    print(f"| --- |{' ---: |' * len(figures)}")
    for name, record in records.items():
        print(f"| {name} | {' | '.join(f'{record[figure]:.4g}' for figure in figures)} |")


if __name__ == "__main__":
    main()
