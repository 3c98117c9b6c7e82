"""State that may be shared out among processes (FSDP2): gathered to be written, shared out again when read.

A checkpoint holds whole tensors, so a run may go on with another number of processes, or without sharding. Where
nothing is sharded these functions change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def gathered(tree: Any) -> Any:
    """A nest of tensors with every sharded one whole. All processes must call it, in the same order."""
    if isinstance(tree, DTensor):
        return tree.full_tensor()
    if isinstance(tree, dict):
        return {key: gathered(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(gathered(value) for value in tree)
    return tree


def like(tensor: Any, other: Tensor) -> Any:
    """A whole tensor shared out as another of its shape is; numbers and tensors of another shape stay."""
    if isinstance(other, DTensor) and isinstance(tensor, Tensor) and tensor.shape == other.shape:
        return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)
    return tensor


def load_model(model: torch.nn.Module, state: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """`load_state_dict` of whole tensors, not strict; names that are missing and unexpected."""
    own = model.state_dict()
    shared = {name: like(tensor, own[name]) if name in own else tensor for name, tensor in state.items()}
    missing, unexpected = model.load_state_dict(shared, strict=False)
    return list(missing), list(unexpected)


def load_optimizer(optimizer: Any, state: dict[str, Any]) -> None:
    """`load_state_dict` of whole tensors."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state["state"] = {
        place: {key: like(value, parameters[place]) for key, value in own.items()}
        for place, own in state["state"].items()
    }
    optimizer.load_state_dict(state)


def load_average(ema: Any, state: dict[str, Any], parameters: Sequence[Tensor]) -> None:
    """`load_state_dict` of whole tensors for a moving average of parameters."""
    pairs = zip(state["shadow_params"], parameters, strict=True)
    ema.load_state_dict({**state, "shadow_params": [like(tensor, parameter) for tensor, parameter in pairs]})
