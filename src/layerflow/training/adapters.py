"""Adapters in training: added to a network, and switched on and off for single samples of a batch.

PEFT chooses adapters for a whole batch, or, in inference only, one for each sample. Here a sample may need two of them
and its neighbour one: images need the motion adapter, which absorbs their stillness, and video does not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from ..core.config import ConfigError
from ..models.backbone import Backbone, ends_with
from .recipe import AdapterRecipe


def targets_of(model: Backbone, recipe: AdapterRecipe) -> list[str]:
    """Return the names of the layers that get an adapter.

    By default the backbone names them.

    Raises:
        ConfigError: a target of the recipe fits no layer.
    """
    layers = [
        name.removesuffix(".base_layer")
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear | nn.Conv2d) and ".lora_" not in name
    ]
    for target in recipe.targets:
        if not any(ends_with(name, target) for name in layers):
            raise ConfigError(f"adapters: no layer's name ends in {target!r}; look at the network's named_modules()")
    if not recipe.targets:
        return model.adapter_layers(layers)
    return [name for name in layers if any(ends_with(name, target) for target in recipe.targets)]


def add_adapter(model: Any, adapter: str, recipe: AdapterRecipe) -> None:
    """Add a fresh adapter to a network; its output is zero until it is trained."""
    config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=targets_of(model, recipe))
    model.add_adapter(config, adapter_name=adapter)
    _in_float32(model, adapter)


def save(model: Any, adapter: str, folder: Path) -> None:
    """Write an adapter in the format that diffusers' pipelines and `models.registry.fuse_content` read."""
    weights, config = get_peft_model_state_dict(model, adapter_name=adapter), model.peft_config[adapter]
    facts = {"r": config.r, "lora_alpha": config.lora_alpha, "target_modules": sorted(config.target_modules)}
    metadata = json.dumps({f"transformer.{key}": value for key, value in facts.items()})
    folder.mkdir(parents=True)
    save_file(
        {f"transformer.{name}": tensor.detach().cpu().contiguous() for name, tensor in weights.items()},
        folder / LORA_WEIGHT_NAME_SAFE,
        {LORA_ADAPTER_METADATA_KEY: metadata},  # one entry: the order of several is not always the same
    )


def load(model: Any, adapter: str, folder: Path) -> None:
    """Load an adapter that `save` wrote into a network."""
    model.load_lora_adapter(folder, adapter_name=adapter, use_safetensors=True)
    _in_float32(model, adapter)


def _in_float32(model: nn.Module, adapter: str) -> None:
    for name, parameter in model.named_parameters():
        if belongs_to(name, adapter):
            parameter.data = parameter.data.float()


def belongs_to(name: str, adapter: str) -> bool:
    """Return whether a parameter is part of an adapter."""
    return f".{adapter}." in name and ".lora_" in name


def is_base(name: str) -> bool:
    """Return whether a parameter is part of the network itself."""
    return ".lora_" not in name


def plain_name(name: str) -> str:
    """Return the name that a parameter has in a network without adapters."""
    return name.replace(".base_layer.", ".")


class AdapterSwitch:
    """Turns adapters on for some samples of a batch and off for others.

    An adapter's output is multiplied by 1 or 0 for each sample. In all layers with adapters the first dimension must be
    the batch, alone or folded with others behind it, as in all backbones here.
    """

    def __init__(self, model: Any, adapters: list[str]) -> None:
        self.on: dict[str, Tensor] = {}
        if not adapters:
            return
        model.set_adapter(adapters)
        for module in model.modules():
            if isinstance(module, LoraLayer):
                for adapter, out in module.lora_B.items():
                    out.register_forward_hook(partial(self._masked, adapter))

    def set(self, on: Mapping[str, Tensor]) -> None:
        """Set which samples each adapter is on for, until the next call: (B,) bool by name.

        The setting also holds where gradient checkpointing computes a forward pass again.
        """
        self.on = dict(on)

    def _masked(self, adapter: str, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        on = self.on.get(adapter)
        if on is None:
            return None
        rows, left = divmod(output.shape[0], len(on))
        if left:
            raise RuntimeError(
                f"a layer with the adapter {adapter} sees {output.shape[0]} rows, which {len(on)} samples do not "
                "divide: leave it out of adapters.targets"
            )
        mask = on.repeat_interleave(rows).view(-1, *[1] * (output.ndim - 1))
        return torch.where(mask, output, torch.zeros_like(output))
