"""The processes of a run: how they are started, and the network and optimiser that they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from diffusers.training_utils import EMAModel
from torch import nn
from torch.distributed.tensor import DTensor

from ..core.config import ConfigError
from . import zero
from .optimizer import make_optimizer
from .recipe import StageRecipe


def build_accelerator(recipe: StageRecipe) -> Accelerator:
    """Return Accelerate's handle on the processes that `torchrun` or `accelerate launch` started; else on this one.

    Raises:
        ConfigError: weights are to be sharded with FSDP1.
    """
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # those that no sample of a batch needs
    # Processes on a machine without a GPU only form a group when `cpu` asks for it.
    cpu = not torch.accelerator.is_available() and not zero.is_requested()
    precision = "no" if zero.is_requested() else recipe.mixed_precision  # DeepSpeed computes in bf16 by itself
    accelerator = Accelerator(cpu=cpu, mixed_precision=precision, kwargs_handlers=[unused])
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise ConfigError("FSDP: weights are sharded with FSDP2 here; see recipes/accelerate/fsdp2.yaml")
    return accelerator


def keeps_strides(accelerator: Accelerator) -> bool:
    """Return whether weights may have any memory format; FSDP and DeepSpeed share out contiguous ones alone."""
    return accelerator.distributed_type not in (DistributedType.FSDP, DistributedType.DEEPSPEED)


@dataclass
class Optimisation:
    """A network as Accelerate returns it, with everything that has a value for each of its trained parameters."""

    model: Any
    optimizer: Any
    zero: zero.ZeRO | None
    """DeepSpeed's way of storing optimiser states, where it runs."""
    sharded: bool
    """Whether each process holds a part of the weights (FSDP2)."""
    trained: list[nn.Parameter]
    ema: EMAModel


def build_optimisation(accelerator: Accelerator, recipe: StageRecipe, model: Any) -> Optimisation:
    """Build the optimiser and the moving average of the parameters that require gradients, among all processes.

    Args:
        accelerator: from `build_accelerator`.
        recipe: decides on the optimiser, its learning rate, the moving average and compilation.
        model: on its device; parameters that stay frozen do not require gradients.

    Raises:
        ConfigError: Muon with sharded weights, or settings of DeepSpeed that are not supported.
    """
    named = [(name, parameter) for name, parameter in model.train().named_parameters() if parameter.requires_grad]
    if recipe.compile:  # blocks alone: those of a kind are compiled once, and in a fraction of the time
        model.compile_repeated_blocks(backend=recipe.compile_backend, dynamic=False)
    optimizer = make_optimizer(recipe, named)
    deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
    states = zero.ZeRO(accelerator, recipe, optimizer) if deepspeed else None
    model, optimizer = accelerator.prepare(model, optimizer)
    sharded = any(isinstance(parameter, DTensor) for parameter in model.parameters())
    if sharded and recipe.optimizer == "muon":
        raise ConfigError("optimizer: muon wants whole matrices, and these are sharded; set optimizer: adamw")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    ema = EMAModel(trained, decay=recipe.ema, use_ema_warmup=True, inv_gamma=1.0, power=0.75, foreach=not sharded)
    return Optimisation(model, optimizer, states, sharded, trained, ema)


__all__ = ["Optimisation", "build_accelerator", "build_optimisation", "keeps_strides"]
