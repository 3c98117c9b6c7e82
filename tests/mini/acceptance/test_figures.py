"""From records to rows: values, spread, bars."""

from typing import Any

import pytest

from layerflow.mini.acceptance.figures import Row, ceilings, rows_of


def decomposed(seed: int, iou: float, mae: float, squared: float, trial: str = "decompose") -> dict[str, Any]:
    trivial = {"alpha_iou": 0.3, "alpha_mae": 0.1, "background_mse": 0.01, "background_psnr": 20.0}
    worse = trivial | {"alpha_iou": 0.1, "alpha_mae": 0.2}
    names = ("border colour", "centre disc", "alpha = 0")
    return {
        "trial": trial, "seed": seed, "scene": {"background_moves": seed == 0, "motion": "rising"},
        "alpha_iou": iou, "alpha_mae": mae, "background_mse": squared,
        "background_psnr": 30.0, "background_leak": 0.0, "background_flicker": 0.0, "foreground_psnr": 30.0,
        "dtssd": 0.0, "sad": 0.0, "gradient_error": 0.0, "given_exact": True,
        "baselines": {"temporal median": trivial} | {name: worse for name in names},
    }  # fmt: skip


def generated(trial: str, seed: int, psnr: float = 30.0, **found: bool) -> dict[str, Any]:
    real = {key: True for key in found}
    return {"trial": trial, "seed": seed, "composite_psnr": psnr, "found": found, "real_found": real}


def row(rows: list[Row], task: str, start: str) -> Row:
    own = [r for r in rows if r.task == task]
    (found,) = [r for r in own if r.figure == start] or [r for r in own if r.figure.startswith(start)]
    return found


def test_values_are_means_and_spread_is_over_seeds() -> None:
    records = [decomposed(0, 0.8, 0.02, 0.001), decomposed(0, 1.0, 0.02, 0.001), decomposed(1, 0.7, 0.02, 0.001)]
    found = row(rows_of(records), "decompose", "alpha IoU")
    assert found.value == pytest.approx(2.5 / 3)
    assert found.spread == pytest.approx(abs(0.9 - 0.7) / 2**0.5)
    assert found.count == 3
    assert found.passed is False
    assert "0.3000 (temporal median)" in found.beside


def test_the_error_has_a_bar_that_is_not_to_be_exceeded() -> None:
    for mae, reached in ((0.015, True), (0.016, False)):
        found = row(rows_of([decomposed(0, 0.9, mae, 0.001)]), "decompose", "alpha MAE")
        assert found.bar == pytest.approx(0.015)
        assert found.at_most
        assert found.passed is reached
        assert found.spread is None


def test_background_psnr_is_of_the_mean_squared_error_six_decibels_over_the_median() -> None:
    rows = rows_of([decomposed(0, 0.9, 0.01, 0.0), decomposed(0, 0.9, 0.01, 0.008)])
    found = row(rows, "decompose", "background PSNR of")
    assert found.value == pytest.approx(23.98, abs=0.01)
    assert found.bar == pytest.approx(26.0)
    assert not found.passed


def test_unseen_objects_have_a_bar_of_their_own() -> None:
    rows = rows_of([decomposed(0, 0.86, 0.06, 0.001, trial="decompose-unseen-objects")])
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
    assert row(rows, "generate", "composite").passed is False
    assert row(rows_of([generated("generate", 0, psnr=33.0)]), "generate", "composite").passed
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


def test_scenes_with_a_moving_background_have_a_row_beside_all() -> None:
    rows = rows_of([decomposed(0, 0.8, 0.02, 0.001), decomposed(1, 0.9, 0.02, 0.001)])
    moving = row(rows, "decompose", "alpha IoU, moving background")
    assert (moving.value, moving.count) == (0.8, 1)
    assert moving.bar == pytest.approx(0.85 - 0.08)
    assert not any("static" in r.figure for r in rows)  # there are none of them


def test_photographs_are_told_without_bars() -> None:
    rows = rows_of([decomposed(0, 0.8, 0.02, 0.001, trial="decompose-photographs")])
    assert row(rows, "decompose-photographs", "alpha IoU").value == 0.8
    assert all(r.bar is None for r in rows if r.task == "decompose-photographs")


@pytest.mark.parametrize(("found", "reached"), [(2, True), (0, False)])
def test_other_words_may_lose_ten_points_on_plain_ones(found: int, reached: bool) -> None:
    plain = [generated("plain-words", seed, object=True) for seed in (0, 1)]
    other = [generated("other-words", seed, object=seed < found) for seed in (0, 1)]
    found_row = row(rows_of(plain + other), "generate", "object found")
    assert found_row.passed is reached
    assert found_row.bar == 90
    assert rows_of(other) == []


def test_soft_mattes_are_held_to_opaque_ones_and_to_half_of_a_hard_mask() -> None:
    soft = decomposed(0, 0.2, 0.04, 0.001, trial="decompose-see-through") | {"cover_iou": 0.83, "hard_mask_mae": 0.07}
    rows = rows_of([decomposed(0, 0.9, 0.01, 0.001), soft])
    cover = row(rows, "decompose-see-through", "IoU of what is covered")
    assert (cover.value, cover.bar, cover.passed) == (0.83, pytest.approx(0.82), True)
    error = row(rows, "decompose-see-through", "alpha MAE")
    assert (error.value, error.bar, error.passed) == (0.04, pytest.approx(0.035), False)
    assert not [r for r in rows if r.task == "decompose-see-through" and "static" in r.figure]


@pytest.mark.parametrize(("found", "reached"), [(0.5, True), (0.3, False)])
def test_bars_of_what_is_named_are_shares_of_what_real_clips_reach(found: float, reached: bool) -> None:
    records = [generated("generate", 0, object=n < 10 * found) for n in range(10)]
    for n, record in enumerate(records):
        record["real_found"] = {"object": n < 6}
    named = row(rows_of(records), "generate", "prompted object")
    assert named.bar == pytest.approx(48)
    assert named.passed is reached


@pytest.mark.parametrize(("left", "reached"), [(1, True), (2, False)])
def test_few_backgrounds_may_show_the_foreground(left: int, reached: bool) -> None:
    records = [
        generated("generate", 0, object=True) | {"leak": n < left, "false_leak": False, "true_leak": True}
        for n in range(20)
    ]
    leak = row(rows_of(records), "generate", "backgrounds in which")
    assert (leak.value, leak.passed) == (5 * left, reached)
    assert leak.beside == "true backgrounds: 0.0 %, true blended clips: 100.0 %"


def test_flicker_is_a_ratio_and_seeds_are_compared_sample_by_sample() -> None:
    def told(trial: str, index: int, level: int) -> dict[str, Any]:
        return generated(trial, 0) | {
            "index": index, "thumbnail": [level] * 4, "restlessness": 0.03, "real_restlessness": 0.02,
            "nearest_training": 9.0, "real_nearest_training": 10.0, "real_variety": 6.0,
        }  # fmt: skip

    records = [told("generate", 0, 10), told("generate", 1, 20), told("generate-again", 1, 24)]
    rows = rows_of(records)
    flicker = row(rows, "generate", "flicker")
    assert flicker.value == pytest.approx(1.5)
    assert flicker.passed is False
    apart = row(rows, "generate", "levels between")
    assert (apart.value, apart.count, apart.beside) == (4, 1, "real clips of the same facts: 6.0")
    assert row(rows, "generate", "levels to the nearest").value == 9
