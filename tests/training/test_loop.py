"""The loop and the learning rates that all trainers share."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerflow.training.loop import Every, optimizer_step, run_steps
from layerflow.training.recipe import PhaseRecipe, StageRecipe
from layerflow.training.schedule import make_schedule, warm_cosine
from layerflow.training.trainer import learning_rates


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=123.0)


def rates(schedule: torch.optim.lr_scheduler.LRScheduler, steps: int) -> Iterator[float]:
    for _ in range(steps):
        yield schedule.get_last_lr()[0]
        schedule.optimizer.step()
        schedule.step()


def test_learning_rate_warms_up_stays_and_falls() -> None:
    recipe = StageRecipe("rates", (PhaseRecipe(1000, {1: 1.0}),), warmup=100, decay=0.5)
    values = list(rates(learning_rates(recipe, optimizer()), 1000))
    assert values[0] == pytest.approx(recipe.learning_rate / 100)
    assert values[100:500] == [pytest.approx(recipe.learning_rate)] * 400
    assert values[500:] == sorted(values[500:], reverse=True)
    assert values[-1] == pytest.approx(recipe.learning_rate / 50, rel=0.05)


@given(start=st.integers(0, 49), warmup=st.integers(0, 60), decay=st.floats(0, 1))
def test_resumed_schedule_has_the_same_rates(start: int, warmup: int, decay: float) -> None:
    def factor(step: int) -> float:
        return warm_cosine(step, 50, warmup, decay, floor=0.02)

    whole = list(rates(make_schedule(optimizer(), 0.3, factor), 50))
    assert list(rates(make_schedule(optimizer(), 0.3, factor, start), 50 - start)) == whole[start:]


def test_optimizer_step_clips_the_gradient() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    sgd = torch.optim.SGD([weight], lr=1.0)
    schedule = make_schedule(sgd, 0.5, lambda _: 1.0)
    optimizer_step((weight * torch.tensor([30.0, 40.0])).sum(), [weight], sgd, schedule, max_grad_norm=1.0)
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.3, -0.4]), atol=1e-5, rtol=0)


def test_actions_and_reports_come_at_their_intervals_and_at_the_end() -> None:
    reports: list[tuple[int, float]] = []
    saved: list[int] = []
    sampled: list[int] = []
    done = run_steps(
        lambda batch: {"loss": float(batch)},
        range(3, 10),
        start=3,
        stop=10,
        report=lambda step, values: reports.append((step, values["loss"])),
        report_every=4,
        actions=[Every(4, saved.append), Every(4, sampled.append, at_end=False)],
    )
    assert done == 10
    assert reports == [(4, 3.0), (8, 5.5), (10, 8.5)]  # means since the last report
    assert (saved, sampled) == ([4, 8, 10], [4, 8])


def test_a_finished_run_takes_no_batch() -> None:
    def batches() -> Iterator[int]:
        raise AssertionError("a batch was taken")
        yield 0

    assert run_steps(lambda _: {}, batches(), start=5, stop=5) == 5


def test_the_loop_ends_with_the_batches_where_no_stop_is_given() -> None:
    assert run_steps(lambda _: {"loss": math.nan}, range(7)) == 7


def test_speed_counts_what_batches_hold() -> None:
    values: list[dict[str, float]] = []
    run_steps(
        lambda _: {}, [2, 2], stop=2, report=lambda _, means: values.append(means), unit="frames", size=lambda n: n * 5
    )
    assert values[0]["speed/frames_per_second"] > 0
    assert 0 <= values[0]["speed/waited_for_data"] <= 1
