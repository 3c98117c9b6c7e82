"""From records to rows: values, spread, bars."""

from typing import Any

import pytest

from layerflow.evaluation.figures import Row, ceilings, rows_of


def decomposed(seed: int, iou: float, mae: float, squared: float, trial: str = "decompose") -> dict[str, Any]:
    trivial = {"alpha_iou": 0.3, "alpha_mae": 0.1, "background_mse": 0.01, "background_psnr": 20.0}
    worse = trivial | {"alpha_iou": 0.1, "alpha_mae": 0.2}
    names = ("border colour", "centre disc", "alpha = 0")
    return {
        "trial": trial, "seed": seed, "alpha_iou": iou, "alpha_mae": mae, "background_mse": squared,
        "background_psnr": 30.0, "background_leak": 0.0, "background_flicker": 0.0, "foreground_psnr": 30.0,
        "dtssd": 0.0, "sad": 0.0, "gradient_error": 0.0, "given_exact": True,
        "baselines": {"temporal median": trivial} | {name: worse for name in names},
    }  # fmt: skip


def generated(trial: str, seed: int, psnr: float = 30.0, **found: bool) -> dict[str, Any]:
    real = {key: True for key in found}
    return {"trial": trial, "seed": seed, "composite_psnr": psnr, "found": found, "real_found": real}


def row(rows: list[Row], task: str, start: str) -> Row:
    (found,) = [r for r in rows if r.task == task and r.figure.startswith(start)]
    return found


def test_values_are_means_and_spread_is_over_seeds() -> None:
    records = [decomposed(0, 0.8, 0.02, 0.001), decomposed(0, 1.0, 0.02, 0.001), decomposed(1, 0.7, 0.02, 0.001)]
    found = row(rows_of(records), "decompose", "alpha IoU")
    assert found.value == pytest.approx(2.5 / 3)
    assert found.spread == pytest.approx(abs(0.9 - 0.7) / 2**0.5)
    assert found.count == 3
    assert found.passed is False
    assert "0.3000 (temporal median)" in found.beside


def test_the_bar_of_the_error_is_half_of_the_best_trivial_one() -> None:
    for mae, reached in ((0.05, True), (0.051, False)):
        found = row(rows_of([decomposed(0, 0.9, mae, 0.001)]), "decompose", "alpha MAE")
        assert found.bar == pytest.approx(0.05)
        assert found.at_most
        assert found.passed is reached
        assert found.spread is None


def test_background_psnr_is_of_the_mean_squared_error_three_decibels_over_the_median() -> None:
    rows = rows_of([decomposed(0, 0.9, 0.01, 0.0), decomposed(0, 0.9, 0.01, 0.008)])
    found = row(rows, "decompose", "background PSNR of")
    assert found.value == pytest.approx(23.98, abs=0.01)
    assert found.bar == pytest.approx(23.0)
    assert found.passed


def test_unseen_objects_have_a_bar_of_their_own() -> None:
    rows = rows_of([decomposed(0, 0.72, 0.06, 0.001, trial="decompose-unseen-objects")])
    assert row(rows, "decompose-unseen-objects", "alpha IoU").passed
    assert row(rows, "decompose-unseen-objects", "alpha MAE").passed is None


def test_shares_are_percent_of_the_records_that_tell() -> None:
    records = [
        generated("generate", 0, object=True, colour=True, motion=True, background=True, family=True),
        generated("generate", 0, object=False, own_colour=False, motion=False, background=False, family=True),
    ]
    rows = rows_of(records)
    assert row(rows, "generate", "prompted object").value == 50
    assert row(rows, "generate", "foreground colour").value == 100
    assert row(rows, "generate", "foreground colour").count == 1
    assert row(rows, "generate", "own colours").value == 0
    assert row(rows, "generate", "background family and").passed is False
    assert row(rows, "generate", "composite").passed
    assert ceilings(records)["object"] == 100


@pytest.mark.parametrize(("right", "reached"), [(9, True), (8, False)])
def test_a_layer_beside_a_given_one_may_lose_five_points(right: int, reached: bool) -> None:
    generate = [generated("generate", 0, background=i < 18, family=True) for i in range(20)]
    added = [generated("add-background", 0, background=i < right, family=True) for i in range(10)]
    found = row(rows_of(generate + added), "add-background", "background family and")
    assert found.bar == pytest.approx(85)
    assert found.passed is reached
    assert "generate: 90.0 %" in found.beside


def test_without_generate_there_is_nothing_to_compare_with() -> None:
    rows = rows_of([generated("add-foreground", 0, object=True, own_colour=True, motion=True)])
    assert row(rows, "add-foreground", "prompted object").passed is None
    told = row(rows, "add-foreground", "foreground colour")
    assert (told.value, told.passed, told.format(told.value)) == (None, None, "-")


def test_given_clips_must_all_be_exact() -> None:
    records = [decomposed(0, 0.9, 0.01, 0.001) for _ in range(3)]
    assert row(rows_of(records), "all with given clips", "given").passed
    records[1]["given_exact"] = False
    assert row(rows_of(records), "all with given clips", "given").passed is False
