"""The loop of all trainers: batches in, optimiser steps, and at intervals reports, checkpoints and samples."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

B = TypeVar("B")
Report = Callable[[int, dict[str, float]], None]
"""Called with the number of steps done and measured values by name."""


@dataclass(frozen=True)
class Every:
    """An action at intervals."""

    steps: int
    """Length of the interval."""
    action: Callable[[int], object]
    """Called with the number of steps done."""
    at_end: bool = True
    """Also after the last step."""


def run_steps(
    train_step: Callable[[B], Mapping[str, float]],
    batches: Iterable[B],
    start: int = 0,
    stop: int | None = None,
    report: Report | None = None,
    report_every: int = 20,
    actions: Sequence[Every] = (),
    unit: str = "steps",
    size: Callable[[B], float] = lambda _: 1,
) -> int:
    """Train on batches until the last step; return the number of steps done, those of earlier runs included.

    Args:
        train_step: makes one optimiser step and returns what it measured by name.
        batches: of step `start` and those after it.
        start: steps that were done before, from a checkpoint.
        stop: steps that are to be done in all; by default as many as there are batches.
        report: called at intervals and after step `stop` with the mean of each value since its last call, with
            `speed/{unit}_per_second`, and `speed/waited_for_data`, the share of time spent waiting for batches.
        report_every: steps from one report to the next.
        actions: what else is done at intervals, after the report.
        unit: what batches consist of.
        size: how much of it a batch holds.
    """
    numbers: Iterable[int] = itertools.count(start + 1) if stop is None else range(start + 1, stop + 1)
    meters: dict[str, list[float]] = {}
    waited, spent = 0.0, 0.0  # seconds in this loop
    step, ready = start, time.perf_counter()
    for step, batch in zip(numbers, batches, strict=False):
        begun = time.perf_counter()
        values = train_step(batch)
        now = time.perf_counter()
        for name, value in {**values, f"speed/{unit}_per_second": size(batch) / (now - ready)}.items():
            meters.setdefault(name, []).append(value)
        waited, spent = waited + begun - ready, spent + now - ready
        if step % report_every == 0 or step == stop:
            if report is not None:
                means = {name: sum(values) / len(values) for name, values in meters.items()}
                report(step, {**means, "speed/waited_for_data": waited / spent})
            meters.clear()
        for every in actions:
            if step % every.steps == 0 or (every.at_end and step == stop):
                every.action(step)
        ready = time.perf_counter()
    return step


def optimizer_step(
    loss: Tensor,
    parameters: Iterable[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    max_grad_norm: float | None = None,
) -> None:
    """Step an optimiser and its learning rate down the gradient of a loss, clipped to a norm if one is given."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if max_grad_norm is not None:
        nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    optimizer.step()
    schedule.step()


__all__ = ["Every", "Report", "optimizer_step", "run_steps"]
