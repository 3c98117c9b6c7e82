"""The network that a recipe trains, with what stays frozen beside it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..core.config import ConfigError
from ..core.errors import UserError
from ..pipeline import LayerFlowPipeline
from .family import load_family
from .loop import Report
from .recipe import StageRecipe


def build_pipeline(recipe: StageRecipe, fit: bool = True, report: Report | None = None) -> LayerFlowPipeline:
    """Return the pipeline to train: that of the model to start from, or one with a fresh network.

    Args:
        recipe: one stage.
        fit: fit the parts of a fresh network, or of an extended one, that are fitted before training.
        report: called with step 0 and the progress of fitting.
    """
    if recipe.start_from is None:
        return load_family("mini").fresh_pipeline(recipe, fit, report)
    pipeline = LayerFlowPipeline.from_pretrained(recipe.start_from)
    pipeline.set_progress_bar_config(disable=True)
    if recipe.model:
        grow(pipeline, recipe.model)
    load_family("mini").extend_pipeline(pipeline, recipe, fit, report)
    return pipeline


def grow(pipeline: LayerFlowPipeline, changes: dict[str, Any]) -> None:
    """Change parts of the configuration of a pipeline's transformer; see `Backbone.resized`.

    Raises:
        ConfigError: the network cannot be resized, or its weights do not fit the changes.
    """
    try:
        load_family("mini").grow_pipeline(pipeline, changes)
    except UserError as error:
        raise ConfigError(f"model: {error}; leave it out", "model") from error


def trained_transformer(recipe: StageRecipe, names: Collection[str]) -> str:
    """Return the name of the transformer that a recipe trains, among those of the model that it starts from.

    Raises:
        ConfigError: the recipe leaves it open, or names one that is not there.
    """
    if recipe.transformer == "auto" and len(names) > 1:
        raise ConfigError(
            f"start_from: {recipe.start_from} has two transformers, of which a run trains one; set transformer to "
            "transformer, for high noise, or to transformer_2, for low, and train the other one after it"
        )
    name = "transformer" if recipe.transformer == "auto" else recipe.transformer
    if name not in names:
        raise ConfigError(f"transformer: {recipe.start_from or 'a fresh model'} has no {name}; leave transformer out")
    return name


def trained_levels(name: str, boundary_ratio: float | None) -> tuple[float, float]:
    """Return the lowest and highest noise level at which a transformer works, and is trained."""
    if boundary_ratio is None:
        return 0.0, 1.0
    return (boundary_ratio, 1.0) if name == "transformer" else (0.0, boundary_ratio)
