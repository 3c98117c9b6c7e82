"""Learning rates over the steps of a run."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warm_cosine(step: int, steps: int, warmup: int, decay: float = 1.0, floor: float = 0.0) -> float:
    """Return the factor of the learning rate at a step, in (0, 1].

    It rises linearly for `warmup` steps, stays at 1, and falls along a cosine to `floor` over the last share `decay`
    of the steps; a decay of 1 is a plain cosine.
    """
    start = steps * (1 - decay)
    progress = max(0.0, (step - start) / max(1.0, steps - start))
    return min(1.0, (step + 1) / max(1, warmup)) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def make_schedule(optimizer: Optimizer, rate: float, factor: Callable[[int], float], step: int = 0) -> LambdaLR:
    """Return a scheduler that sets the learning rate to `rate * factor(step)`, for a run that is at `step`.

    Its state follows from the step, so that checkpoints hold none of it; build it after the optimiser's state is
    loaded.
    """
    for group in optimizer.param_groups:
        group["initial_lr"] = rate
    return LambdaLR(optimizer, factor, last_epoch=step - 1)


__all__ = ["make_schedule", "warm_cosine"]
