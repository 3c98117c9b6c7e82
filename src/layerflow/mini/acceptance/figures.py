"""From the records of single samples to the figures of the table, each beside its bar. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from ...evaluation.baselines import BASELINES
from ...evaluation.metrics import psnr_of
from .judge import FOREGROUND_HEADS
from .trials import Record
from .variety import TRAINING_SCENES, distance

Getter = Callable[[Record], float | None]
"""A number of one record; None where it does not tell."""


@dataclass(frozen=True)
class Measure:
    """A figure of some records: a function of the mean of a number of each."""

    get: Getter
    """The number of one record."""
    of_mean: Callable[[float], float] = float
    """What is told of the mean."""

    def values(self, records: Sequence[Record]) -> list[float]:
        """The numbers of those records that tell."""
        return [value for record in records if (value := self.get(record)) is not None]

    def __call__(self, records: Sequence[Record]) -> float | None:
        """The figure; None where no record tells."""
        values = self.values(records)
        return self.of_mean(fmean(values)) if values else None


def _mean(get: Getter) -> Measure:
    return Measure(get)


def _share(get: Getter) -> Measure:
    return Measure(get, lambda mean: 100 * mean)


def _pooled_psnr(get: Getter) -> Measure:
    """PSNR of the mean squared error over all clips.

    The mean of single clips' PSNR has no bound: the median of a background that stands still may be exact.
    """
    return Measure(get, psnr_of)


def _getter(*keys: str) -> Getter:
    def get(record: Record) -> float | None:
        value: Any = record
        for key in keys:
            if key not in value:
                return None
            value = value[key]
        return float(value)

    return get


def _baseline(name: str, key: str) -> Getter:
    return _getter("baselines", name, key)


SLACK = 5.0
"""Points that a layer generated beside a given one may fall behind `generate`."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    task: str
    """The trial that it is measured in."""
    figure: str
    """What is measured."""
    value: float | None
    """Over all records of the trial; percent where the unit says so. None: no record tells."""
    spread: float | None
    """Standard deviation over the seeds; None with fewer than two of them."""
    unit: str
    """`%`, `dB` or nothing."""
    count: int
    """Records that it is measured on."""
    beside: str = ""
    """A trivial baseline, or what real clips reach."""
    bar: float | None = None
    """What it is to reach; None: the figure is only told."""
    at_most: bool = False
    """True: the bar is not to be exceeded."""

    @property
    def passed(self) -> bool | None:
        """Whether the bar is reached; None without a bar or a value."""
        if self.bar is None or self.value is None:
            return None
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def format(self, value: float | None) -> str:
        """A number with the digits and the unit of this row."""
        if value is None:
            return "-"
        return f"{value:.1f} {self.unit}" if self.unit else f"{value:.4f}"

    @property
    def bar_text(self) -> str:
        """The bar in words."""
        if self.bar is None:
            return ""
        return f"{'at most' if self.at_most else 'at least'} {self.format(self.bar)}"


def rows_of(records: Sequence[Record]) -> list[Row]:
    """All rows that these records can tell, in the order of the table."""
    by_trial: dict[str, list[Record]] = {}
    for record in records:
        by_trial.setdefault(record["trial"], []).append(record)
    rows: list[Row] = []
    for trial, own in by_trial.items():
        if trial == "decompose-see-through":
            rows += _see_through(trial, own, by_trial.get("decompose"))
        elif trial.startswith("decompose"):
            rows += _decompose(trial, own)
            rows += _hard_cases(trial, own) if trial in IOU_BARS else []
    generate = _generate(by_trial["generate"]) if "generate" in by_trial else []
    rows += generate
    values = {row.figure: row.value for row in generate}
    for trial, keys in (("add-background", _BACKGROUND), ("add-foreground", _FOREGROUND)):
        if trial in by_trial:
            rows += [_composite(trial, by_trial[trial], bar=None)]
            rows += [_named(trial, by_trial[trial], *key, beside_generate=values) for key in keys]
    rows += _variety(by_trial) + _words(by_trial)
    given = [record for record in records if "given_exact" in record]
    if given:
        exact = _share(_getter("given_exact"))
        rows.append(_row("all with given clips", "given clips come back bit for bit", given, exact, "%", bar=100))
    return rows


def ceilings(records: Sequence[Record]) -> dict[str, float]:
    """Percent that judge and rule name rightly on the real clips of the same scenes, by what is named."""
    result: dict[str, float] = {}
    for key in ("object", "colour", "own_colour", "motion", "family", "background"):
        value = _share(_getter("real_found", key))(records)
        if value is not None:
            result[key] = value
    return result


# --- the tasks --------------------------------------------------------------------------------------------


IOU_BARS = {"decompose": 0.93, "decompose-unseen-objects": 0.85}
"""Alpha IoU to be reached, by trial; the others are only told."""


def _decompose(trial: str, records: Sequence[Record]) -> list[Row]:
    def best(key: str, higher: bool) -> tuple[float, str]:
        means = [(_mean(_baseline(name, key))(records) or 0.0, name) for name in BASELINES]
        value, name = max(means) if higher else min(means)
        return value, f"best trivial: {value:.4f} ({name})"

    _, iou_text = best("alpha_iou", higher=True)
    mae, mae_text = best("alpha_mae", higher=False)
    median = _pooled_psnr(_baseline("temporal median", "background_mse"))
    told: list[tuple[str, str, str]] = [
        ("background PSNR, mean of single clips", "background_psnr", "dB"),
        ("background leak: error inside the matte minus outside", "background_leak", ""),
        ("background flicker", "background_flicker", ""),
        ("foreground PSNR over grey", "foreground_psnr", "dB"),
        ("alpha dtSSD", "dtssd", ""),
        ("alpha SAD, thousands of pixels", "sad", ""),
        ("alpha gradient error, thousands", "gradient_error", ""),
    ]
    median_value = median(records)
    rows = [
        _row(trial, "alpha IoU", records, _mean(_getter("alpha_iou")), "", iou_text, bar=IOU_BARS.get(trial)),
        _row(
            trial,
            "alpha MAE",
            records,
            _mean(_getter("alpha_mae")),
            "",
            mae_text,
            bar=min(0.015, mae / 2) if trial == "decompose" else None,
            at_most=True,
        ),
        _row(
            trial,
            "background PSNR of the mean squared error",
            records,
            _pooled_psnr(_getter("background_mse")),
            "dB",
            f"temporal median: {median_value:.1f} dB",
            bar=median_value + 6 if median_value is not None and trial in IOU_BARS else None,
        ),
    ]
    for figure, key, unit in told:
        beside = ""
        if key == "background_psnr":
            single = _mean(_baseline("temporal median", key))(records)
            beside = f"temporal median: {single:.1f} dB"
        rows.append(_row(trial, figure, records, _mean(_getter(key)), unit, beside))
    return rows


HARD_CASES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "moving background": lambda scene: bool(scene["background_moves"]),
    "static foreground": lambda scene: scene["motion"] == "still",
}
"""Scenes that are harder to take apart than others: what moves is not the foreground, or does not move."""
HARDER_BY = 0.08
"""Alpha IoU that they may fall behind."""


def _hard_cases(trial: str, records: Sequence[Record]) -> list[Row]:
    whole = _mean(_getter("alpha_iou"))
    rows = []
    for name, belongs in HARD_CASES.items():
        own = [record for record in records if belongs(record["scene"])]
        if own:
            bar = (whole(records) or 0.0) - HARDER_BY
            rows.append(_row(trial, f"alpha IoU, {name}", own, whole, "", f"all: {bar + HARDER_BY:.4f}", bar=bar))
    return rows


def _see_through(trial: str, records: Sequence[Record], opaque: Sequence[Record] | None) -> list[Row]:
    """Soft mattes, beside those of opaque foregrounds and beside hard masks."""
    iou = _mean(_getter("alpha_iou"))(opaque) if opaque else None
    beside, bar = (f"decompose: {iou:.4f}", iou - HARDER_BY) if iou is not None else ("", None)
    hard = _mean(_getter("hard_mask_mae"))(records) or 0.0
    figures: tuple[tuple[str, str, str, str, float | None], ...] = (
        ("IoU of what is covered, alpha over 0.1", "cover_iou", "", beside, bar),
        ("alpha MAE", "alpha_mae", "", f"the best hard mask: {hard:.4f}", hard / 2),
        ("background PSNR, mean of single clips", "background_psnr", "dB", "", None),
        ("foreground PSNR over grey", "foreground_psnr", "dB", "", None),
    )
    return [
        _row(trial, figure, records, _mean(_getter(key)), unit, text, bar=bar, at_most=key == "alpha_mae")
        for figure, key, unit, text, bar in figures
    ]


_FOREGROUND: tuple[tuple[str, str, float | None], ...] = (
    (f"prompted object found among {len(FOREGROUND_HEADS['object'])} objects", "object", 0.80),
    ("foreground colour named by the prompt", "colour", 0.90),
    ("own colours where the prompt names none", "own_colour", None),
    ("motion named by the prompt", "motion", 0.85),
)
"""Figure, key of `found`, bar as a share of what real clips reach."""

_BACKGROUND: tuple[tuple[str, str, float | None], ...] = (
    ("background family and colour named by the prompt", "background", 0.75),
    ("background family alone", "family", 0.90),
)


WORDS_SLACK = 10.0
"""Points that prompts in other words may fall behind plain ones."""


def _words(by_trial: dict[str, list[Record]]) -> list[Row]:
    """Prompts in other words beside the same ones in plain words."""
    if not {"plain-words", "other-words"} <= set(by_trial):
        return []
    found = _share(_getter("found", "object"))
    plain = found(by_trial["plain-words"])
    assert plain is not None
    figure = "object found: prompts in words that no training caption has"
    beside = f"the same in plain words: {plain:.1f} %"
    return [_row("generate", figure, by_trial["other-words"], found, "%", beside, bar=plain - WORDS_SLACK)]


def _generate(records: Sequence[Record]) -> list[Row]:
    named = [_named("generate", records, *key) for key in (*_BACKGROUND, *_FOREGROUND)]
    return [_composite("generate", records, bar=32), *named, *_clean(records)]


def _clean(records: Sequence[Record]) -> list[Row]:
    """Whether backgrounds are free of the foreground."""
    beside = ", ".join(
        f"{what}: {value:.1f} %"
        for what, key in (("true backgrounds", "false_leak"), ("true blended clips", "true_leak"))
        if (value := _share(_getter(key))(records)) is not None
    )
    figure = "backgrounds in which the judge finds a foreground"
    return [_row("generate", figure, records, _share(_getter("leak")), "%", beside, bar=5, at_most=True)]


def _variety(by_trial: dict[str, list[Record]]) -> list[Row]:
    """How steady generated clips are, how far from training scenes, and how far from each other with another seed."""
    records = by_trial.get("generate", [])
    real = {key: _mean(_getter(f"real_{key}"))(records) for key in ("restlessness", "nearest_training", "variety")}
    restless, nearest, apart = (real[key] for key in ("restlessness", "nearest_training", "variety"))
    if restless is None or nearest is None or apart is None:
        return []
    flicker = Measure(_getter("restlessness"), lambda mean: mean / max(restless, 1e-9))
    figure = "flicker: second differences in time, over those of the real clips"
    rows = [_row("generate", figure, records, flicker, "", f"{restless:.4f} in [0, 1]", bar=1.25, at_most=True)]
    figure = f"levels to the nearest of {TRAINING_SCENES} training scenes"
    beside = f"true held-out clips: {nearest:.1f}"
    rows.append(_row("generate", figure, records, _mean(_getter("nearest_training")), "", beside))
    again = {(r["seed"], r["index"]): r["thumbnail"] for r in by_trial.get("generate-again", [])}
    pairs = [
        {"seed": r["seed"], "apart": distance(r["thumbnail"], other)}
        for r in records
        if (other := again.get((r["seed"], r["index"]))) is not None
    ]
    if pairs:
        figure, beside = "levels between two seeds", f"real clips of the same facts: {apart:.1f}"
        rows.append(_row("generate", figure, pairs, _mean(_getter("apart")), "", beside))
    return rows


def _composite(trial: str, records: Sequence[Record], bar: float | None) -> Row:
    figure = "composite PSNR: blended against the over of the other two"
    return _row(trial, figure, records, _mean(_getter("composite_psnr")), "dB", bar=bar)


def _named(
    trial: str,
    records: Sequence[Record],
    figure: str,
    key: str,
    share: float | None,
    beside_generate: dict[str, float | None] | None = None,
) -> Row:
    """Percent of clips in which what was asked for is found.

    The bar is so large a share of what real clips reach, or, where that is given, what `generate` reaches less `SLACK`.
    """
    real = _share(_getter("real_found", key))(records)
    beside = "" if real is None else f"real clips: {real:.1f} %"
    bar = share * real if share is not None and real is not None else None
    if beside_generate is not None:
        generate = beside_generate.get(figure)
        # The motion rule is not part of the judge: told, without a bar.
        bar = generate - SLACK if generate is not None and share is not None and key != "motion" else None
        if generate is not None:
            beside += f"; generate: {generate:.1f} %"
    return _row(trial, figure, records, _share(_getter("found", key)), "%", beside.lstrip("; "), bar=bar)


def _row(
    task: str,
    figure: str,
    records: Sequence[Record],
    measure: Measure,
    unit: str,
    beside: str = "",
    *,
    bar: float | None = None,
    at_most: bool = False,
) -> Row:
    seeds = sorted({record["seed"] for record in records})
    each = [measure([r for r in records if r["seed"] == seed]) for seed in seeds]
    told = [value for value in each if value is not None]
    spread = stdev(told) if len(told) > 1 else None
    return Row(task, figure, measure(records), spread, unit, len(measure.values(records)), beside, bar, at_most)
