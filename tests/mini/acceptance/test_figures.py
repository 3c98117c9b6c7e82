"""Rows from records: values, spread, bars."""

from typing import Any

import pytest

from layerflow.mini.acceptance.figures import Row, ceilings, make_rows


def decomposed(seed: int, iou: float, mae: float, squared: float, case: str = "decompose") -> dict[str, Any]:
    trivial = {"alpha_iou": 0.3, "alpha_mae": 0.1, "background_mse": 0.01, "background_psnr": 20.0}
    worse = trivial | {"alpha_iou": 0.1, "alpha_mae": 0.2}
    names = ("border colour", "centre disc", "alpha = 0")
    return {
        "case": case,
        "seed": seed,
        "scene": {"background_moves": seed == 0, "motion": "rising"},
        "alpha_iou": iou,
        "alpha_mae": mae,
        "background_mse": squared,
        "background_psnr": 30.0,
        "background_leak": 0.0,
        "background_flicker": 0.0,
        "foreground_psnr": 30.0,
        "dtssd": 0.0,
        "sad": 0.0,
        "gradient_error": 0.0,
        "given_exact": True,
        "baselines": {"temporal median": trivial} | {name: worse for name in names},
    }


def generated(case: str, seed: int, psnr: float = 30.0, **matches: bool) -> dict[str, Any]:
    real = {key: True for key in matches}
    return {"case": case, "seed": seed, "composite_psnr": psnr, "matches": matches, "real_matches": real}


def row(rows: list[Row], task: str, start: str) -> Row:
    own = [r for r in rows if r.task == task]
    (result,) = [r for r in own if r.figure == start] or [r for r in own if r.figure.startswith(start)]
    return result


def test_value_and_spread() -> None:
    records = [decomposed(0, 0.8, 0.02, 0.001), decomposed(0, 1.0, 0.02, 0.001), decomposed(1, 0.7, 0.02, 0.001)]
    result = row(make_rows(records), "decompose", "alpha IoU")
    assert result.value == pytest.approx(2.5 / 3)
    assert result.spread == pytest.approx(abs(0.9 - 0.7) / 2**0.5)
    assert result.count == 3
    assert result.passed is False
    assert "0.3000 (temporal median)" in result.reference


def test_alpha_mae_has_an_upper_limit() -> None:
    for mae, reached in ((0.015, True), (0.016, False)):
        result = row(make_rows([decomposed(0, 0.9, mae, 0.001)]), "decompose", "alpha MAE")
        assert result.bar == pytest.approx(0.015)
        assert result.at_most
        assert result.passed is reached
        assert result.spread is None


def test_background_psnr_of_the_mean_squared_error() -> None:
    rows = make_rows([decomposed(0, 0.9, 0.01, 0.0), decomposed(0, 0.9, 0.01, 0.008)])
    result = row(rows, "decompose", "background PSNR of")
    assert result.value == pytest.approx(23.98, abs=0.01)
    assert result.bar == pytest.approx(26.0)
    assert not result.passed


def test_bar_of_unseen_objects() -> None:
    rows = make_rows([decomposed(0, 0.86, 0.06, 0.001, case="decompose-unseen-objects")])
    assert row(rows, "decompose-unseen-objects", "alpha IoU").passed
    assert row(rows, "decompose-unseen-objects", "alpha MAE").passed is None


def test_accuracy_counts_records_with_the_attribute() -> None:
    records = [
        generated("generate", 0, object=True, colour=True, motion=True, background=True, family=True),
        generated("generate", 0, object=False, natural_colour=False, motion=False, background=False, family=True),
    ]
    rows = make_rows(records)
    assert row(rows, "generate", "prompted object").value == 50
    assert row(rows, "generate", "foreground colour").value == 100
    assert row(rows, "generate", "foreground colour").count == 1
    assert row(rows, "generate", "natural colours").value == 0
    assert row(rows, "generate", "background family and").passed is False
    assert row(rows, "generate", "composite").passed is False
    assert row(make_rows([generated("generate", 0, psnr=33.0)]), "generate", "composite").passed
    assert ceilings(records)["object"] == 100


@pytest.mark.parametrize(("correct", "reached"), [(9, True), (8, False)])
def test_single_layers_may_lose_five_points(correct: int, reached: bool) -> None:
    generate = [generated("generate", 0, background=i < 18, family=True) for i in range(20)]
    added = [generated("add-background", 0, background=i < correct, family=True) for i in range(10)]
    result = row(make_rows(generate + added), "add-background", "background family and")
    assert result.bar == pytest.approx(85)
    assert result.passed is reached
    assert "generate: 90.0 %" in result.reference


def test_bars_need_the_generate_case() -> None:
    rows = make_rows([generated("add-foreground", 0, object=True, natural_colour=True, motion=True)])
    assert row(rows, "add-foreground", "prompted object").passed is None
    colour = row(rows, "add-foreground", "foreground colour")
    assert (colour.value, colour.passed, colour.format(colour.value)) == (None, None, "-")


def test_given_clips_are_exact() -> None:
    records = [decomposed(0, 0.9, 0.01, 0.001) for _ in range(3)]
    assert row(make_rows(records), "all with given clips", "given").passed
    records[1]["given_exact"] = False
    assert row(make_rows(records), "all with given clips", "given").passed is False


def test_moving_backgrounds_have_a_row() -> None:
    rows = make_rows([decomposed(0, 0.8, 0.02, 0.001), decomposed(1, 0.9, 0.02, 0.001)])
    moving = row(rows, "decompose", "alpha IoU, moving background")
    assert (moving.value, moving.count) == (0.8, 1)
    assert moving.bar == pytest.approx(0.85 - 0.08)
    assert not any("static" in r.figure for r in rows)  # there are none of them


def test_photographs_have_no_bars() -> None:
    rows = make_rows([decomposed(0, 0.8, 0.02, 0.001, case="decompose-photographs")])
    assert row(rows, "decompose-photographs", "alpha IoU").value == 0.8
    assert all(r.bar is None for r in rows if r.task == "decompose-photographs")


@pytest.mark.parametrize(("correct", "reached"), [(2, True), (0, False)])
def test_paraphrases_may_lose_ten_points(correct: int, reached: bool) -> None:
    plain = [generated("plain-words", seed, object=True) for seed in (0, 1)]
    other = [generated("other-words", seed, object=seed < correct) for seed in (0, 1)]
    result = row(make_rows(plain + other), "generate", "object recognised")
    assert result.passed is reached
    assert result.bar == 90
    assert make_rows(other) == []


def test_bars_of_soft_mattes() -> None:
    soft = decomposed(0, 0.2, 0.04, 0.001, case="decompose-see-through") | {"cover_iou": 0.83, "hard_mask_mae": 0.07}
    rows = make_rows([decomposed(0, 0.9, 0.01, 0.001), soft])
    cover = row(rows, "decompose-see-through", "IoU of covered")
    assert (cover.value, cover.bar, cover.passed) == (0.83, pytest.approx(0.82), True)
    error = row(rows, "decompose-see-through", "alpha MAE")
    assert (error.value, error.bar, error.passed) == (0.04, pytest.approx(0.035), False)
    assert not [r for r in rows if r.task == "decompose-see-through" and "static" in r.figure]


@pytest.mark.parametrize(("share", "reached"), [(0.5, True), (0.3, False)])
def test_bars_are_shares_of_the_judge_accuracy(share: float, reached: bool) -> None:
    records = [generated("generate", 0, object=n < 10 * share) for n in range(10)]
    for n, record in enumerate(records):
        record["real_matches"] = {"object": n < 6}
    named = row(make_rows(records), "generate", "prompted object")
    assert named.bar == pytest.approx(48)
    assert named.passed is reached


@pytest.mark.parametrize(("left", "reached"), [(1, True), (2, False)])
def test_leak_has_an_upper_limit(left: int, reached: bool) -> None:
    records = [
        generated("generate", 0, object=True) | {"leak": n < left, "false_leak": False, "true_leak": True}
        for n in range(20)
    ]
    leak = row(make_rows(records), "generate", "backgrounds with")
    assert (leak.value, leak.passed) == (5 * left, reached)
    assert leak.reference == "true backgrounds: 0.0 %, true blended clips: 100.0 %"


def test_flicker_and_distance_between_seeds() -> None:
    def record(case: str, index: int, level: int) -> dict[str, Any]:
        return generated(case, 0) | {
            "index": index,
            "thumbnail": [level] * 4,
            "second_difference": 0.03,
            "real_second_difference": 0.02,
            "nearest_training": 9.0,
            "real_nearest_training": 10.0,
            "real_distance": 6.0,
        }

    records = [record("generate", 0, 10), record("generate", 1, 20), record("generate-again", 1, 24)]
    rows = make_rows(records)
    flicker = row(rows, "generate", "flicker")
    assert flicker.value == pytest.approx(1.5)
    assert flicker.passed is False
    apart = row(rows, "generate", "distance between")
    assert (apart.value, apart.count, apart.reference) == (4, 1, "true clips of the same facts: 6.0")
    assert row(rows, "generate", "distance to the nearest").value == 9
