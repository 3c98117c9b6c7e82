"""State that may be sharded among processes (FSDP2): gathered for writing, distributed again after reading.

A checkpoint holds whole tensors, so a run may continue with another number of processes, or without sharding. Without
sharding these functions change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def gathered(tree: Any) -> Any:
    """Return a nest of tensors with every sharded one whole. All processes must call it, in the same order."""
    if isinstance(tree, DTensor):
        return tree.full_tensor()
    if isinstance(tree, dict):
        return {key: gathered(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(gathered(value) for value in tree)
    return tree


def like(tensor: Any, other: Tensor) -> Any:
    """Shard a whole tensor like another of its shape; return numbers and tensors of another shape as they are."""
    if isinstance(other, DTensor) and isinstance(tensor, Tensor) and tensor.shape == other.shape:
        return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)
    return tensor


def load_model(model: torch.nn.Module, state: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Load whole tensors, not strictly; return the missing and the unexpected names."""
    own = model.state_dict()
    shared = {name: like(tensor, own[name]) if name in own else tensor for name, tensor in state.items()}
    missing, unexpected = model.load_state_dict(shared, strict=False)
    return list(missing), list(unexpected)


def load_optimizer(optimizer: Any, state: dict[str, Any]) -> None:
    """Load whole tensors into an optimiser."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state["state"] = {
        place: {key: like(value, parameters[place]) for key, value in own.items()}
        for place, own in state["state"].items()
    }
    optimizer.load_state_dict(state)


def load_average(ema: Any, state: dict[str, Any], parameters: Sequence[Tensor]) -> None:
    """Load whole tensors into a moving average of parameters."""
    pairs = zip(state["shadow_params"], parameters, strict=True)
    ema.load_state_dict({**state, "shadow_params": [like(tensor, parameter) for tensor, parameter in pairs]})
