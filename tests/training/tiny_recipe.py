"""Common part of the recipes in tests: a network that trains in moments, on clips of two frames.

Its text encoder is that of the tiny model of tests/conftest.py: a fresh network encodes 1200 captions.
"""

import os
from pathlib import Path

from layerflow.training.recipe import StageRecipe
from layerflow.training.trainer import Trainer

TINY = f"""
size: 32
clip_frames: 2
model:
  {{widths: [8, 8, 8], blocks_up: [1, 1, 1], dim: 16, num_layers: 1, num_heads: 2, cond_dim: 16, sketch_width: 16,
   fill_width: 8, text_dim: 24}}
mini: {{sketch_scenes: 0, fill_steps: 0, text: {os.environ["LAYERFLOW_TINY_MODEL"]}}}
workers: 0
sample_every: 1000
"""


def losses_of(recipe: StageRecipe, output: Path) -> list[float]:
    """Return the losses of all steps, without checkpoints and without a model at the end."""
    trainer, losses = Trainer(recipe, output), []
    for step in range(recipe.steps):
        losses.append(trainer.train_step(trainer.batches[step])["loss"])
        trainer.step += 1
    return losses
