"""Small networks that are told which of two moving things is the foreground, or take both: training and figures.

    python benchmarks/pointing.py --output runs                       # recipes/pointing.yaml
    python benchmarks/pointing.py --recipe two-foregrounds --output runs

Trains the recipe, or continues it, and decomposes held-out scenes of two moving things:

- one foreground: IoU of the one that is meant, in the frames after the first, without a hint, and with its matte,
  clicks or a trimap in the first;
- two foregrounds: IoU of both, matched, and of the better one taken for both.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from layerflow import LayerFlowPipeline
from layerflow.core.given import Given
from layerflow.core.layered_video import LayeredVideo
from layerflow.core.schema import ALPHA, ALPHA_OF, BLENDED, CLIPS, foreground_count, model_clips
from layerflow.evaluation.matching import match, repeated_iou
from layerflow.evaluation.metrics import alpha_iou
from layerflow.training.givens import choose_foregrounds, draw_hints
from layerflow.training.recipe import StageRecipe, load_recipe
from layerflow.training.sources import Query, open_sources
from layerflow.training.trainer import Trainer

RECIPES = Path(__file__).parents[1] / "recipes"
HELD_OUT = 1_000_003
"""Added to the recipe's seed for scenes that training does not see."""
SHOWN = 8
"""Scenes on a sheet."""
AT_ONCE = 16
"""Scenes that are decomposed together."""


def train(recipe: StageRecipe, output: Path) -> LayerFlowPipeline:
    """Train a recipe to its end, or take the result of an earlier run."""
    started = time.perf_counter()

    def report(step: int, values: Mapping[str, float]) -> None:
        shown = ", ".join(f"{name} {value:.3f}" for name, value in values.items() if name in ("loss", "error/alpha"))
        print(f"step {step}/{recipe.steps}, {time.perf_counter() - started:.0f} s: {shown}", flush=True)

    if not (output / recipe.name / "model").exists():
        trainer = Trainer(replace(recipe, log_every=100), output, resume=True, report=report)
        trainer.train()
    pipeline = LayerFlowPipeline.from_pretrained(output / recipe.name / "model")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def held_out(recipe: StageRecipe, count: int) -> list[dict[str, Tensor]]:
    """Return the clips of scenes with two foregrounds, by name."""
    recipe = replace(recipe, seed=recipe.seed + HELD_OUT)
    (source,) = open_sources(recipe)
    scenes = []
    for number in range(count):
        query = Query((recipe.size, recipe.size), recipe.clip_frames, number, scattered=True)
        read = source.read(query, np.random.default_rng([recipe.seed, number]))
        scenes.append(choose_foregrounds(read.clips, {}, model_clips(2), np.random.default_rng(0))[0])
    return scenes


def decompose(pipeline: LayerFlowPipeline, given: list[Given]) -> list[LayeredVideo]:
    """Decompose scenes without prompts, from the same noise for each."""
    videos: list[LayeredVideo] = []
    for start in range(0, len(given), AT_ONCE):
        part = given[start : start + AT_ONCE]
        generators = [torch.Generator().manual_seed(start + number) for number in range(len(part))]
        result = pipeline(given=part, generator=generators)
        assert not isinstance(result, tuple)
        assert isinstance(result.videos, list)
        videos += result.videos
    return videos


def write_sheet(path: Path, rows: list[list[Tensor]]) -> None:
    """Write clips (F, 1 or 3, H, W) side by side, a row of clips for each scene, enlarged twice."""
    lines = [torch.cat([torch.cat(list(clip.expand(-1, 3, -1, -1)), -1) for clip in row], -1) for row in rows]
    pixels = (torch.cat(lines, -2).permute(1, 2, 0) * 255).round().byte().numpy()
    picture = Image.fromarray(pixels)
    picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.BICUBIC).save(path, quality=80)


def point_out(pipeline: LayerFlowPipeline, scenes: list[dict[str, Tensor]], sheet: Path | None) -> None:
    """Print the IoU of the one of two moving things that is meant, in frames after the first, by what is
    given of it in the first."""
    truths = [choose_foregrounds(scene, {}, CLIPS, np.random.default_rng(n))[0] for n, scene in enumerate(scenes)]
    shown = [n for n, truth in enumerate(truths) if bool((truth[ALPHA][0] > 0.95).any())]
    scenes, truths = [scenes[n] for n in shown], [truths[n] for n in shown]

    def nothing(truth: Mapping[str, Tensor], _: int) -> Given:
        return Given(LayeredVideo(blended=truth[BLENDED]))

    def matte(truth: Mapping[str, Tensor], _: int) -> Given:
        return Given(LayeredVideo(blended=truth[BLENDED], alpha=truth[ALPHA]), {ALPHA: 0})

    def hinted(kind: str) -> Callable[[Mapping[str, Tensor], int], Given]:
        def given(truth: Mapping[str, Tensor], number: int) -> Given:
            hint = draw_hints(kind, {ALPHA: truth[ALPHA][:1]}, {}, np.random.default_rng(number))[0]  # (1, 2, H, W)
            value, known = torch.zeros_like(truth[ALPHA]), torch.zeros_like(truth[ALPHA], dtype=torch.bool)
            value[:1], known[:1] = (hint[:, :1] + 1) / 2, hint[:, 1:] > 0
            return Given(LayeredVideo(blended=truth[BLENDED], alpha=value), {ALPHA: ()}, {ALPHA: known})

        return given

    ways = {"nothing": nothing, "matte": matte, "clicks": hinted("click"), "trimap": hinted("trimap")}
    print(f"{len(truths)} scenes of two moving things; alpha IoU of the one that is meant, in the frames after the")
    print("first, by what is given of it in the first:")
    made: dict[str, list[LayeredVideo]] = {}
    for name, way in ways.items():
        videos = made[name] = decompose(pipeline, [way(truth, number) for number, truth in enumerate(truths)])
        ious, others = [], []
        for video, truth, scene in zip(videos, truths, scenes, strict=True):
            assert video.alpha is not None
            later = video.alpha[1:]
            ious.append(alpha_iou(later, truth[ALPHA][1:]))
            others.append(max(alpha_iou(later, scene[alpha][1:]) for alpha in list(ALPHA_OF.values())[:2]))
        means = (sum(values) / len(values) for values in (ious, others))
        print("  {:8} {:.3f} (of whichever it took: {:.3f})".format(name, *means), flush=True)

    if sheet is not None:
        write_sheet(
            sheet,
            [
                [truth[BLENDED], truth[ALPHA], *(made[way][n].clips()[ALPHA] for way in ("nothing", "matte", "clicks"))]
                for n, truth in enumerate(truths[:SHOWN])
            ],
        )


def take_both(pipeline: LayerFlowPipeline, scenes: list[dict[str, Tensor]], sheet: Path | None) -> None:
    """Print the matched IoU of both foregrounds, and that of the better one taken for both."""
    videos = decompose(pipeline, [Given(LayeredVideo(blended=scene[BLENDED])) for scene in scenes])
    rows, floor = [], []
    for video, scene in zip(videos, scenes, strict=True):
        made = [one.alpha for one in video.foregrounds if one.alpha is not None]
        true = [scene[alpha] for alpha in list(ALPHA_OF.values())[:2]]
        order = match(made, true)
        rows.append([0.0 if n is None else alpha_iou(made[n], other) for n, other in zip(order, true, strict=True)])
        floor.append(repeated_iou(made, true))
    near, far = (sum(column) / len(column) for column in zip(*rows, strict=True))
    print(f"{len(scenes)} scenes of two foregrounds; matched alpha IoU: nearer {near:.3f}, farther {far:.3f}, ", end="")
    print(f"mean {(near + far) / 2:.3f}; one of them taken twice: {sum(floor) / len(floor):.3f}")
    if sheet is not None:
        mattes = list(ALPHA_OF.values())[:2]
        write_sheet(
            sheet,
            [
                [scene[BLENDED], *(scene[alpha] for alpha in mattes), *(video.clips()[alpha] for alpha in mattes)]
                for scene, video in zip(scenes[:SHOWN], videos, strict=False)
            ],
        )


def main() -> None:
    """Train and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="pointing", choices=["pointing", "two-foregrounds"])
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder of runs")
    parser.add_argument("--steps", type=int, help="fewer steps than the recipe's, for a look")
    parser.add_argument("--sheet", type=Path, help="picture of the first scenes: given, true, made")
    parser.add_argument("--scenes", type=int, default=96, help="held-out scenes")
    options = parser.parse_args()
    (recipe,) = load_recipe(RECIPES / f"{options.recipe}.yaml").stages
    if options.steps is not None:
        phase = replace(recipe.phases[0], steps=options.steps)
        recipe = replace(recipe, phases=(phase,), name=f"{recipe.name}-{options.steps}")
    pipeline = train(recipe, options.output)
    count = sum(parameter.numel() for parameter in pipeline.transformer.parameters())
    print(f"{recipe.name}: {count / 1e6:.2f} M parameters, {recipe.steps} steps")
    scenes = held_out(recipe, options.scenes)
    if foreground_count(pipeline.transformer.config.clips) == 1:
        point_out(pipeline, scenes, options.sheet)
    else:
        take_both(pipeline, scenes, options.sheet)


if __name__ == "__main__":
    main()
