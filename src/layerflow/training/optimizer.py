"""Muon for weight matrices and convolution kernels, AdamW for the rest, as one optimiser with one state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..placement import cpu_has_bfloat16
from .recipe import Recipe

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration that Muon was published with."""
MIN_SIDE = 32
"""A matrix with a shorter side gains nothing from being orthogonalised and is left to AdamW."""


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Nearly the closest matrix with orthonormal rows or columns: (M, N) to (M, N), singular values near 1.

    In bf16, which loses nothing here, but for processors that only emulate it and take four times as long.
    """
    a, b, c = COEFFICIENTS
    x = matrix.float() if matrix.device.type == "cpu" and not cpu_has_bfloat16() else matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.mT if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Groups for `MuonAdamW`: matrices inside the network, other weights, and what is not decayed."""
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


def make_optimizer(recipe: Recipe, named: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    """The optimiser that a recipe names, for named parameters."""
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
        """One step on all parameters that have a gradient."""
        for group in self.param_groups:
            update = self._muon if group["muon"] else self._adamw
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    update(parameter, parameter.grad, self.state[parameter], group)

    def _muon(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        average = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        nesterov = gradient.lerp(average, group["momentum"]).flatten(1)
        scale = 0.2 * math.sqrt(max(nesterov.shape))
        parameter.sub_(orthogonalise(nesterov).to(parameter.dtype).view(parameter.shape), alpha=group["lr"] * scale)

    def _adamw(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state.update(step=0, mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter))
        state["step"] += 1
        first, second = group["betas"]
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        spread = (state["square"] / (1 - second ** state["step"])).sqrt_().add_(group["eps"])
        parameter.addcdiv_(state["mean"], spread, value=-group["lr"] / (1 - first ** state["step"]))
