"""The one course of learning rates."""

from __future__ import annotations

import math


def warm_cosine(step: int, steps: int, warmup: int, decay: float = 1.0, floor: float = 0.0) -> float:
    """Factor of the learning rate at a step, in (0, 1]: linear warm-up, a plateau, then a cosine over the last share
    `decay` of the steps down to `floor`; a decay of 1 is a plain cosine."""
    start = steps * (1 - decay)
    progress = max(0.0, (step - start) / max(1.0, steps - start))
    return min(1.0, (step + 1) / max(1, warmup)) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
