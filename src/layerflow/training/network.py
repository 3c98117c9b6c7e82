"""The network that a recipe trains, with what stays frozen beside it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from transformers import PreTrainedTokenizerBase

from ..core.config import ConfigError
from ..core.errors import UserError
from ..core.schema import LAYERS
from ..mini.fitting.fill import fit_fill
from ..mini.fitting.sketch import fit_sketch
from ..mini.network.text_encoder import LayerTextEncoder, load_text_encoder, pool
from ..mini.network.transformer import CompactTransformer3DModel
from ..mini.world import SceneSource
from ..models.backbone import Backbone
from ..models.folders import find_model
from ..models.text import encode_prompts
from ..pipeline import LayerFlowPipeline
from .recipe import Recipe


def build_pipeline(
    recipe: Recipe, fit: bool = True, report: Callable[[int, dict[str, float]], None] | None = None
) -> LayerFlowPipeline:
    """The pipeline to train: that of the model to start from, or a fresh compact one with a text encoder that is there.

    A fresh one is fitted to captions, small stills and holes in backgrounds, which takes minutes; a checkpoint that is
    loaded over it holds that already, so `fit` leaves it out.
    """
    if recipe.start_from is not None:
        pipeline = LayerFlowPipeline.from_pretrained(recipe.start_from)
        pipeline.set_progress_bar_config(disable=True)
        if recipe.model:
            pipeline.register_modules(transformer=resize_network(pipeline.transformer, recipe.model))
        return pipeline
    tokenizer, text_encoder = load_text_encoder(find_model(recipe.text))
    sizes: dict[str, Any] = {"sample_size": recipe.size, "sample_frames": recipe.clip_frames}
    model = CompactTransformer3DModel(**{**sizes, **recipe.model})
    if fit:
        fit_text_whitening(model, tokenizer, text_encoder, recipe)
    done = None if report is None else lambda what, share: report(0, {what: share})
    if fit and recipe.sketch_scenes:
        fit_sketch(model, tokenizer, text_encoder, recipe, done)
    if fit and recipe.fill_steps:
        fit_fill(model, recipe, done)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return LayerFlowPipeline(tokenizer, text_encoder, model.float(), scheduler)


def resize_network(model: Backbone, changes: dict[str, Any]) -> Backbone:
    """Return a copy of a network with parts of its configuration changed; see `Backbone.resized`.

    Raises:
        ConfigError: the network cannot be resized, or its weights do not fit the changes.
    """
    try:
        return model.resized(changes)
    except UserError as error:
        raise ConfigError(f"model: {error}; leave it out", "model") from error


def trained_transformer(recipe: Recipe, found: Collection[str]) -> str:
    """The name of the transformer that a recipe trains, among those of the model that it starts from.

    Raises:
        ConfigError: the recipe leaves it open, or names one that is not there.
    """
    if recipe.transformer == "auto" and len(found) > 1:
        raise ConfigError(
            f"start_from: {recipe.start_from} has two transformers, of which a run trains one; set transformer to "
            "transformer, for high noise, or to transformer_2, for low, and train the other one after it"
        )
    name = "transformer" if recipe.transformer == "auto" else recipe.transformer
    if name not in found:
        raise ConfigError(f"transformer: {recipe.start_from or 'a fresh model'} has no {name}; leave transformer out")
    return name


def trained_levels(name: str, boundary_ratio: float | None) -> tuple[float, float]:
    """Ends of the noise levels at which a transformer works, and is trained."""
    if boundary_ratio is None:
        return 0.0, 1.0
    return (boundary_ratio, 1.0) if name == "transformer" else (0.0, boundary_ratio)


def fit_text_whitening(
    model: CompactTransformer3DModel,
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: LayerTextEncoder,
    recipe: Recipe,
    scenes: int = 400,
) -> None:
    """Fit the backbone's whitening of text states to the captions of some scenes and to the empty prompt."""
    source = SceneSource("train", size=recipe.size, frames=recipe.clip_frames)
    prompts = [source.prompts(index, recipe.seed)[layer] for index in range(scenes) for layer in LAYERS]
    prompts += [""] * (len(prompts) // 10)
    tokens, means = [], []
    for start in range(0, len(prompts), 100):
        states, mask = encode_prompts(tokenizer, text_encoder, prompts[start : start + 100])
        tokens.append(states[mask])
        means.append(pool(states, mask))
    model.text_whitening.fit(torch.cat(tokens))
    model.pool_whitening.fit(torch.cat(means))
