"""Averages of two models' weights.

The mean of a model and one that was trained on from it keeps most of what either can do (arXiv 2109.01903): training on
some noise levels or tasks then costs the others less.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..core.atomic import whole_folder
from ..models.folders import INDEX
from ..pipeline import LayerFlowPipeline


def average(model: str | Path, other: str | Path, folder: Path, share: float = 0.5) -> None:
    """Write `model` with its transformers' weights mixed: (1 - share) of its own and `share` of the other's.

    Everything else is the first model's. Weights are bfloat16, in diffusers layout; content adapters come fused, motion
    adapters are left out.

    Args:
        model: name, folder or hub id, as `layerflow --model` takes it.
        other: a model of the same architecture.
        folder: to write to, whole or not at all; a model in its place is replaced.
        share: of the other's weights, from 0 to 1.

    Raises:
        UnknownModelError: no model has this name.
        ValueError: the share is out of its range, the folder holds something else, or the models' networks are not of
            one architecture.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share:g}, but must be from 0 to 1")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / INDEX).is_file():
        raise ValueError(f"{folder} holds files that are no model; choose another folder")
    own, others = (LayerFlowPipeline.from_pretrained(name) for name in (model, other))
    for part in sorted(own.transformers.keys() | others.transformers.keys()):
        one, two = own.transformers.get(part), others.transformers.get(part)
        if type(one) is not type(two) or one is None or two is None:
            raise ValueError(f"{part} of {model} is {type(one).__name__}, and {type(two).__name__} of {other}")
        tensors, state = one.state_dict(), two.state_dict()
        _check_same_shapes(str(model), tensors, str(other), state)
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                tensor.lerp_(state[name], share)
    for module in (*own.transformers.values(), own.upscaler):
        if module is not None:
            module.to(memory_format=torch.contiguous_format)  # as safetensors requires
    with whole_folder(folder, replace=True) as partial:
        own.to(torch.bfloat16).save_pretrained(partial)


def _check_same_shapes(model: str, tensors: dict[str, Tensor], other: str, others: dict[str, Tensor]) -> None:
    for name in sorted(tensors.keys() | others.keys()):
        shapes = [tuple(state[name].shape) if name in state else "missing" for state in (tensors, others)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{model} and {other} are not of one architecture: {name} is {shapes[0]} and {shapes[1]}; average a "
                f"model with one that was trained on from it"
            )
