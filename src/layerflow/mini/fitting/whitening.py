"""Whitening of text states, fitted to the captions of scenes before a fresh network is trained."""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerBase

from ...core.schema import LAYERS
from ...models.text import encode_prompts
from ...training.recipe import StageRecipe
from ..network.text_encoder import LayerTextEncoder, pool
from ..network.transformer import CompactTransformer3DModel
from ..world import SceneSource


def fit_text_whitening(
    model: CompactTransformer3DModel,
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: LayerTextEncoder,
    recipe: StageRecipe,
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
