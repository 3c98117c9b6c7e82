"""Prompt retrieval: is a layer nearer to its own prompt than to those of the other samples?

Letters: N samples, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..core.errors import first_line

Embedder = Callable[[Sequence[Tensor], Sequence[str]], tuple[Tensor, Tensor]]
"""Function of layers (F, 3, H, W) and prompts that returns features (N, D) of each, comparable by cosine."""


def retrieved(layers: Tensor, prompts: Tensor, texts: Sequence[str]) -> list[bool]:
    """Return for each layer (N, D) if its own prompt (N, D) is nearer, by cosine, than all prompts of other texts."""
    similarity = torch.nn.functional.normalize(layers, dim=1) @ torch.nn.functional.normalize(prompts, dim=1).T
    own = similarity.diagonal()
    same = torch.tensor([[a == b for b in texts] for a in texts])
    others = similarity.masked_fill(same, -torch.inf)
    return (own > others.amax(1)).tolist()


def load_embedder(name: str) -> Embedder:
    """Load an embedder of layers and prompts: a CLIP model of transformers, by folder or hub id.

    Raises:
        ValueError: there is no such model.
    """
    from transformers import CLIPModel, CLIPProcessor

    try:
        model, processor = CLIPModel.from_pretrained(name).eval(), CLIPProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"embedder {name}: no CLIP model could be loaded ({first_line(error)})") from error

    @torch.no_grad()
    def embed(layers: Sequence[Tensor], prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        pictures = []
        for layer in layers:
            pixels = processor(images=list(layer), return_tensors="pt", do_rescale=False)["pixel_values"]
            pooled = model.vision_model(pixel_values=pixels).pooler_output
            pictures.append(model.visual_projection(pooled).mean(0))
        ids = processor(text=list(prompts), return_tensors="pt", padding=True, truncation=True)
        pooled = model.text_model(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]).pooler_output
        return torch.stack(pictures), model.text_projection(pooled)

    return embed
