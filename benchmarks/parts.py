"""Worth of each block of the compact backbone: the error of its clean prediction with that block left out.

    python benchmarks/parts.py [MODEL] [--scenes 48]

Prints, for generate and decompose at two noise levels, the weighted mean squared error of the generated clips over
training scenes (unseen seed), whole and with each residual block skipped, as a ratio to the whole network's. A block
whose ratio is 1.00 everywhere could be spent on another part of the network.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from layerflow.mini.network.transformer import CompactTransformer3DModel
from layerflow.models.folders import find_model
from layerflow.pipeline import LayerFlowPipeline
from layerflow.training.batches import Batch, ClipBatches
from layerflow.training.objective import clip_errors, encode_batch, make_target
from layerflow.training.recipe import PhaseRecipe, StageRecipe

TASKS = ("generate", "decompose")
LEVELS = (1.0, 0.8)
NO_STEPS = (PhaseRecipe(1, {1: 1.0}),)


class Skipped(nn.Module):
    """Return the features unchanged."""

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return x


def scenes(task: str, count: int) -> Batch:
    recipe = StageRecipe(
        name="parts",
        phases=NO_STEPS,
        tasks={task: 1.0},
        frames_per_batch=count,
        seed=999,
        prompt_dropout=0.0,
        layer_dropout=0.0,
    )
    return ClipBatches(recipe)[0]


@torch.no_grad()
def errors(pipeline: LayerFlowPipeline, batches: list[Batch]) -> list[float]:
    """Return the mean error of the generated clips for each task and level."""
    result = []
    for batch in batches:
        text, mask = encode_batch(pipeline, batch)
        for level in LEVELS:
            t = torch.full((len(batch.tasks),), level)
            noise = batch.layout.noise(batch.sequence, torch.Generator().manual_seed(0))
            asked = make_target(pipeline, batch, batch.sequence, batch.layout, t, noise, StageRecipe("parts", NO_STEPS))
            prediction = pipeline.transformer(
                asked.noised, asked.timestep, text, mask, batch.layout, batch.positions
            ).sample
            result.append(float(clip_errors(prediction, asked)[(~batch.given).any(2)].mean()))
    return result


def residual_blocks(model: CompactTransformer3DModel) -> Iterator[tuple[str, nn.ModuleList, int]]:
    """Return name, list and index of every residual block."""
    for kind in ("down", "up"):
        for level, blocks in enumerate(getattr(model, kind)):
            for index in range(len(blocks)):
                yield f"{kind}.{level}.{index}", blocks, index
    for index in range(len(model.blocks)):
        yield f"blocks.{index}", model.blocks, index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="mini")
    parser.add_argument("--scenes", type=int, default=48)
    arguments = parser.parse_args()
    pipeline = LayerFlowPipeline.from_pretrained(find_model(arguments.model), torch_dtype=torch.float32)
    batches = [scenes(task, arguments.scenes) for task in TASKS]
    whole = errors(pipeline, batches)
    columns = [f"{task} t={level:g}" for task in TASKS for level in LEVELS]
    print(f"{'left out':12}" + "".join(f"{column:>18}" for column in columns))
    print(f"{'none':12}" + "".join(f"{value:18.4f}" for value in whole))
    for name, blocks, index in residual_blocks(pipeline.transformer):
        block = blocks[index]
        blocks[index] = Skipped()
        ratios = [value / base for value, base in zip(errors(pipeline, batches), whole, strict=True)]
        blocks[index] = block
        print(f"{name:12}" + "".join(f"{ratio:17.2f}x" for ratio in ratios))


if __name__ == "__main__":
    main()
