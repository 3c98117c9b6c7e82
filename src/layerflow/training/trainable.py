"""The network of a stage, with the results of earlier stages and the stage's adapter; other parts are frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ..pipeline import LayerFlowPipeline
from . import adapters as adapters_module
from .adapters import AdapterSwitch
from .loop import Report
from .network import build_pipeline, trained_levels, trained_transformer
from .processes import keeps_strides
from .recipe import ADAPTERS, StageRecipe
from .results import Result


@dataclass
class Trainable:
    """A pipeline and the parameters of it that a stage trains."""

    pipeline: LayerFlowPipeline
    part: str
    """Name of the trained transformer in the pipeline."""
    model: Any
    """The trained transformer."""
    levels: tuple[float, float]
    """Lowest and highest noise level at which it works."""
    adapters: list[str]
    """Names of its adapters, in the order of `ADAPTERS`."""
    own: str
    """Name of the trained adapter, or base."""
    fixed: frozenset[str]
    """Parameters of the network that are fitted before training and stay as they are."""
    switch: AdapterSwitch
    """Turns the adapters on for single samples of a batch."""

    def __post_init__(self) -> None:
        self.network_class = type(self.model)  # FSDP changes that of the model itself

    def is_trained(self, name: str) -> bool:
        """Return whether the stage trains the parameter of that name."""
        if self.own == "base":
            return adapters_module.is_base(name) and adapters_module.plain_name(name) not in self.fixed
        return adapters_module.belongs_to(name, self.own)

    def is_kept(self, name: str) -> bool:
        """Return whether checkpoints hold the tensor of that name: of the base also what was fitted before training."""
        return adapters_module.is_base(name) if self.own == "base" else adapters_module.belongs_to(name, self.own)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the network's own weights, in which it takes its inputs."""
        base = (p.dtype for name, p in self.model.named_parameters() if adapters_module.is_base(name))
        return next(base, torch.float32)

    def freeze(self, model: nn.Module) -> None:
        """Let only the trained parameters of a network like this one require gradients."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.is_trained(name))


def build_trainable(
    recipe: StageRecipe,
    results: Sequence[Result],
    accelerator: Accelerator,
    fit: bool,
    report: Report | None = None,
) -> Trainable:
    """Build the network that a stage trains, on its device.

    Args:
        recipe: one stage.
        results: of the stages before it, in turn.
        accelerator: decides on device and memory format.
        fit: fit the parts of a fresh network that are fitted before training; a checkpoint holds them already.
        report: called with step 0 and the progress of fitting.

    Raises:
        ConfigError: the recipe does not fit the model that it starts from.
    """
    pipeline = build_pipeline(recipe, fit=fit, report=report)
    part = trained_transformer(recipe, pipeline.transformers)
    model: Any = pipeline.transformers[part]
    for fitted in model.fitted_parts():
        fitted.requires_grad_(recipe.train_fitted)
    fixed = frozenset(name for name, parameter in model.named_parameters() if not parameter.requires_grad)
    levels = trained_levels(part, pipeline.config.boundary_ratio)
    names = add_adapters(model, recipe, results)
    switch = AdapterSwitch(model, names)  # PEFT lets all active adapters require gradients
    trainable = Trainable(pipeline, part, model, levels, names, recipe.trained, fixed, switch)
    trainable.freeze(model)
    if recipe.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    model.to(accelerator.device)
    if pipeline.vae is None and keeps_strides(accelerator):
        model.to(memory_format=torch.channels_last)
    return trainable


def add_adapters(model: Any, recipe: StageRecipe, results: Sequence[Result]) -> list[str]:
    """Load the results of earlier stages into a network and add the adapter of this one; return the adapters' names."""
    for result in results:
        if result.base is not None:
            model.load_state_dict(result.base)
    own = recipe.trained
    if own != "base" and recipe.frozen_dtype == "bfloat16":
        model.to(torch.bfloat16)
    latest = {name: folder for result in results for name, folder in result.adapters.items()}
    names = [name for name in ADAPTERS if name in latest or name == own]
    for name in names:
        if name in latest:
            adapters_module.load(model, name, latest[name])
        else:
            adapters_module.add_adapter(model, name, recipe.adapters)
    return names


def place_encoders(pipeline: LayerFlowPipeline, recipe: StageRecipe, device: torch.device, idle: bool) -> None:
    """Freeze text encoder and autoencoder and move them to their device, in the number format of training.

    Args:
        pipeline: that of `build_trainable`.
        recipe: decides on tiling and number format.
        device: where they encode.
        idle: latents and text states are precomputed, so that large encoders stay in main memory.
    """
    if pipeline.vae is not None:
        pipeline.vae.enable_slicing()
        if recipe.tiling:
            pipeline.vae.enable_tiling()
    # The large models' text encoders are larger than their networks.
    half = pipeline.vae is not None and recipe.mixed_precision == "bf16"
    idle = pipeline.vae is not None and idle
    for part in (pipeline.text_encoder, pipeline.vae):
        if part is not None:
            part.requires_grad_(False).to("cpu" if idle else device, torch.bfloat16 if half else torch.float32)


__all__ = ["Trainable", "add_adapters", "build_trainable", "place_encoders"]
