"""Sample sheets: results for a few scenes as one picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ...core.atomic import write_atomically
from ...core.layered_video import LayeredVideo
from ...core.schema import CLIPS, LAYERS, TASKS
from ...media import contact_sheet
from ...pipeline import LayerFlowPipeline
from ...training.recipe import StageRecipe
from ..world import SceneSource

SHEET_TASKS = (*["generate"] * 4, *["decompose"] * 2, "add-background", "add-foreground")


def write_sample_sheet(pipeline: LayerFlowPipeline, recipe: StageRecipe, path: Path) -> None:
    """Generate, decompose and add layers for fixed scenes; rows are clips, columns frames."""
    source = SceneSource("held_out_combinations", size=recipe.size, frames=recipe.clip_frames)
    sheets = []
    for index, task in enumerate(SHEET_TASKS):
        scene = source.scene(index, recipe.seed)
        shown: dict[str, Any] = {name: getattr(scene, name) if name in TASKS[task] else None for name in CLIPS}
        result = pipeline(
            *(scene.captions[layer] for layer in LAYERS),
            given=LayeredVideo(**shown) if TASKS[task] else None,
            num_frames=recipe.clip_frames,
            num_inference_steps=recipe.sample_steps,
            generator=torch.Generator().manual_seed(index),
        )
        assert not isinstance(result, tuple)
        sheets.append(contact_sheet(result.video))
    columns = 2
    width, height = sheets[0].size
    sheet = Image.new("RGB", (columns * (width + 4), -(-len(sheets) // columns) * (height + 4)), "black")
    for i, picture in enumerate(sheets):
        sheet.paste(picture, ((i % columns) * (width + 4), (i // columns) * (height + 4)))
    content = io.BytesIO()
    sheet.save(content, format="PNG")
    write_atomically(path, content.getvalue())
