"""The network that a recipe trains, with what stays frozen beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from transformers import PreTrainedTokenizerBase

from ..core.config import ConfigError
from ..core.schema import LAYERS
from ..mini.fitting.fill import fit_fill
from ..mini.fitting.sketch import fit_sketch
from ..mini.network.text_encoder import LayerTextEncoder, load_text_encoder, pool
from ..mini.network.transformer import CompactTransformer3DModel
from ..mini.world import SceneSource
from ..models.registry import find_model
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


BLOCK = re.compile(r"(down|up)\.\d+\.\d+\.|blocks\.\d+\.")
"""Names of what a block of the compact network holds."""
BRANCH_END = re.compile(r"attn\.to_out\.|\.mlp\.2\.")
"""Last layers of a transformer block's residual branches; those of a convolutional block are zero at first."""


def resize_network(model: Any, config: dict[str, Any]) -> CompactTransformer3DModel:
    """A compact network with parts of its configuration changed, and its weights otherwise.

    Blocks beyond those that there were come last in their row and change nothing before they are trained.

    Raises:
        ConfigError: it is another network, or its weights do not fit what is asked for.
    """
    if not isinstance(model, CompactTransformer3DModel):
        raise ConfigError(f"model: only the compact network can be changed, not a {type(model).__name__}; leave it out")
    arguments = {name: value for name, value in model.config.items() if not name.startswith("_")}
    other = CompactTransformer3DModel(**{**arguments, **config})
    # An embedding that an ablation switches off is there, zero and never trained.
    off = {name: tensor.detach() for name, tensor in other.named_parameters() if not tensor.requires_grad}
    known, added = model.state_dict(), {}
    for name, tensor in other.state_dict().items():
        if name not in known and BLOCK.match(name):
            added[name] = torch.zeros_like(tensor) if BRANCH_END.search(name) else tensor
    try:
        other.load_state_dict({**known, **off, **added})
    except RuntimeError as error:
        raise ConfigError(f"model: the weights to start from have other sizes than {config}; leave it out") from error
    return other.float()


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
