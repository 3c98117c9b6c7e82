"""Muon for weight matrices and convolution kernels, AdamW for the rest, as one optimiser with one state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime.placement import cpu_has_bfloat16
from .recipe import StageRecipe

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic Newton-Schulz iteration that Muon was published with."""
MIN_SIDE = 32
"""Shortest side of a matrix for Muon; smaller ones gain nothing from it and are left to AdamW."""


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Return nearly the closest matrices (K, M, N) with orthonormal rows or columns: singular values are near 1.

    It computes in bfloat16, which is accurate enough, except on processors that emulate it at a quarter of the speed.
    """
    a, b, c = COEFFICIENTS
    emulated = matrices.device.type == "cpu" and not cpu_has_bfloat16()
    x = matrices.float() if emulated else matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Return groups for `MuonAdamW`: matrices inside the network, other weights, and weights without decay."""
    groups: list[dict[str, Any]] = [
        {"params": [], "muon": True, "weight_decay": weight_decay},
        {"params": [], "muon": False, "weight_decay": weight_decay},
        {"params": [], "muon": False, "weight_decay": 0.0},
    ]
    for name, parameter in named:
        if parameter.ndim < 2 or "embed" in name:
            groups[2]["params"].append(parameter)
        else:
            sides = parameter.shape[0], parameter[0].numel()
            groups[0 if min(sides) >= MIN_SIDE else 1]["params"].append(parameter)
    return [group for group in groups if group["params"]]


def make_optimizer(recipe: StageRecipe, named: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    """Return the optimiser that a recipe names, for named parameters."""
    if recipe.optimizer == "muon":
        return MuonAdamW(parameter_groups(named, recipe.weight_decay), lr=recipe.learning_rate)
    groups: list[dict[str, Any]] = [
        {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=recipe.learning_rate, betas=(0.9, 0.99))


class MuonAdamW(torch.optim.Optimizer):
    """Muon (momentum, orthogonalised by Newton-Schulz; scaled to AdamW's step size as in arXiv 2502.16982, eq. 4, so
    that both share one learning rate) on groups with `muon`, AdamW on the others.

    A kernel (O, I, h, w) counts as the matrix (O, I*h*w). torch.optim.Muon takes matrices only.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "muon": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                update = self._muon if group["muon"] else self._adamw
                update(parameters, [_gradient_of(parameter) for parameter in parameters], group)

    def _muon(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        averages = self._averages(parameters, "momentum")
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        nesterov = torch._foreach_lerp(gradients, averages, group["momentum"])
        alike: dict[Any, list[int]] = {}  # on a GPU many small products take the time of their launches
        for place, parameter in enumerate(parameters):
            alike.setdefault((parameter.shape, parameter.dtype, parameter.device), []).append(place)
        for (shape, dtype, _), places in alike.items():
            matrices = torch.stack([nesterov[place].flatten(1) for place in places])
            scale = 0.2 * math.sqrt(max(matrices.shape[1:]))
            for place, step in zip(places, orthogonalise(matrices).to(dtype), strict=True):
                parameters[place].sub_(step.view(shape), alpha=group["lr"] * scale)

    def _adamw(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        means, squares = self._averages(parameters, "mean"), self._averages(parameters, "square")
        steps = []
        for parameter in parameters:
            state = self.state[parameter]
            state["step"] = state.get("step", 0) + 1
            steps.append(state["step"])
        first, second = group["betas"]
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)
        spreads = torch._foreach_div(squares, [1 - second**step for step in steps])
        torch._foreach_sqrt_(spreads)
        torch._foreach_add_(spreads, group["eps"])
        torch._foreach_addcdiv_(parameters, means, spreads, [-group["lr"] / (1 - first**step) for step in steps])

    def _averages(self, parameters: list[Tensor], name: str) -> list[Tensor]:
        """Return each parameter's moving average of a name, zero at first."""
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]


def _gradient_of(parameter: Tensor) -> Tensor:
    """Return a gradient with its parameter's strides: a single one with others makes operations on the list slow."""
    gradient = parameter.grad
    assert gradient is not None
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)
