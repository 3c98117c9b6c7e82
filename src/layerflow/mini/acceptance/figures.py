"""Figures of the table from the records of samples, each with its bar. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from ...core.schema import BACKGROUND
from ...evaluation.baselines import BASELINES
from ...evaluation.metrics import psnr_of
from .cases import Record
from .diversity import TRAINING_SCENES, thumbnail_distance
from .judge import FOREGROUND_HEADS

Getter = Callable[[Record], float | None]
"""Function from a record to one of its numbers; None where it lacks that."""


@dataclass(frozen=True)
class Measure:
    """A figure of some records: a function of the mean of one number of each."""

    get: Getter
    """Number of one record."""
    of_mean: Callable[[float], float] = float
    """Figure for the mean of these numbers."""

    def values(self, records: Sequence[Record]) -> list[float]:
        """Return the numbers of the records that have them."""
        return [value for record in records if (value := self.get(record)) is not None]

    def __call__(self, records: Sequence[Record]) -> float | None:
        """Return the figure; None where no record has the number."""
        values = self.values(records)
        return self.of_mean(fmean(values)) if values else None


def mean_of(get: Getter) -> Measure:
    return Measure(get)


def share_of(get: Getter) -> Measure:
    return Measure(get, lambda mean: 100 * mean)


def pooled_psnr(get: Getter) -> Measure:
    """Measure the PSNR of the mean squared error over all clips.

    The mean of single clips' PSNR has no bound, because the median of a static background may be exact.
    """
    return Measure(get, psnr_of)


def getter(*keys: str) -> Getter:
    def get(record: Record) -> float | None:
        value: Any = record
        for key in keys:
            if key not in value:
                return None
            value = value[key]
        return float(value)

    return get


def _baseline(name: str, key: str) -> Getter:
    return getter("baselines", name, key)


SLACK = 5.0
"""Percentage points by which a layer generated for a given one may fall behind `generate`."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    task: str
    """Name of the case."""
    figure: str
    """Name of the figure."""
    value: float | None
    """Value over all records of the case; None where no record has it."""
    spread: float | None
    """Standard deviation over the seeds; None with fewer than two of them."""
    unit: str
    """`%`, `dB` or empty."""
    count: int
    """Number of records."""
    reference: str = ""
    """Score of a trivial baseline or of true clips."""
    bar: float | None = None
    """Value to reach; None for figures without a bar."""
    at_most: bool = False
    """The bar is an upper limit."""

    @property
    def passed(self) -> bool | None:
        """Result of the comparison with the bar; None without a bar or a value."""
        if self.bar is None or self.value is None:
            return None
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def format(self, value: float | None) -> str:
        """Format a number with the digits and the unit of this row."""
        if value is None:
            return "-"
        return f"{value:.1f} {self.unit}" if self.unit else f"{value:.4f}"

    @property
    def bar_text(self) -> str:
        """Bar as text."""
        if self.bar is None:
            return ""
        return f"{'at most' if self.at_most else 'at least'} {self.format(self.bar)}"


def make_rows(records: Sequence[Record]) -> list[Row]:
    """Return all rows for which these records suffice, in the order of the table."""
    by_case: dict[str, list[Record]] = {}
    for record in records:
        by_case.setdefault(record["case"], []).append(record)
    rows: list[Row] = []
    for case, own in by_case.items():
        if case == "decompose-see-through":
            rows += _see_through(case, own, by_case.get("decompose"))
        elif case.startswith("decompose"):
            rows += _decompose(case, own)
            rows += _hard_scenes(case, own) if case in IOU_BARS else []
    generate = _generate(by_case["generate"]) if "generate" in by_case else []
    rows += generate
    values = {row.figure: row.value for row in generate}
    for case, figures in (("add-background", _BACKGROUND_FIGURES), ("add-foreground", _FOREGROUND_FIGURES)):
        if case in by_case:
            rows += [_composite(case, by_case[case], bar=None)]
            rows += [_named(case, by_case[case], *figure, generate=values) for figure in figures]
    rows += _diversity(by_case) + _paraphrases(by_case)
    given = [record for record in records if "given_exact" in record]
    if given:
        exact = share_of(getter("given_exact"))
        rows.append(make_row("all with given clips", "given clips returned bit for bit", given, exact, "%", bar=100))
    return rows


def ceilings(records: Sequence[Record]) -> dict[str, float]:
    """Return the accuracy of judge and motion rule in percent on the true clips of the same scenes, by attribute."""
    result: dict[str, float] = {}
    for key in ("object", "colour", "natural_colour", "motion", "family", BACKGROUND):
        value = share_of(getter("real_matches", key))(records)
        if value is not None:
            result[key] = value
    return result


# --- the tasks --------------------------------------------------------------------------------------------


IOU_BARS = {"decompose": 0.93, "decompose-unseen-objects": 0.85}
"""Bars of alpha IoU by case."""


def _decompose(case: str, records: Sequence[Record]) -> list[Row]:
    def best(key: str, higher: bool) -> tuple[float, str]:
        means = [(mean_of(_baseline(name, key))(records) or 0.0, name) for name in BASELINES]
        value, name = max(means) if higher else min(means)
        return value, f"best trivial: {value:.4f} ({name})"

    _, iou_text = best("alpha_iou", higher=True)
    mae, mae_text = best("alpha_mae", higher=False)
    median = pooled_psnr(_baseline("temporal median", "background_mse"))
    further: list[tuple[str, str, str]] = [
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
        make_row(case, "alpha IoU", records, mean_of(getter("alpha_iou")), "", iou_text, bar=IOU_BARS.get(case)),
        make_row(
            case,
            "alpha MAE",
            records,
            mean_of(getter("alpha_mae")),
            "",
            mae_text,
            bar=min(0.015, mae / 2) if case == "decompose" else None,
            at_most=True,
        ),
        make_row(
            case,
            "background PSNR of the mean squared error",
            records,
            pooled_psnr(getter("background_mse")),
            "dB",
            f"temporal median: {median_value:.1f} dB",
            bar=median_value + 6 if median_value is not None and case in IOU_BARS else None,
        ),
    ]
    for figure, key, unit in further:
        reference = ""
        if key == "background_psnr":
            single = mean_of(_baseline("temporal median", key))(records)
            reference = f"temporal median: {single:.1f} dB"
        rows.append(make_row(case, figure, records, mean_of(getter(key)), unit, reference))
    return rows


HARD_SCENES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "moving background": lambda scene: bool(scene["background_moves"]),
    "static foreground": lambda scene: scene["motion"] == "still",
}
"""Scenes that are harder to decompose, because motion does not tell the foreground from the background."""
HARDER_BY = 0.08
"""Alpha IoU by which they may fall behind all scenes."""


def _hard_scenes(case: str, records: Sequence[Record]) -> list[Row]:
    whole = mean_of(getter("alpha_iou"))
    rows = []
    for name, belongs in HARD_SCENES.items():
        own = [record for record in records if belongs(record["scene"])]
        if own:
            bar = (whole(records) or 0.0) - HARDER_BY
            rows.append(make_row(case, f"alpha IoU, {name}", own, whole, "", f"all: {bar + HARDER_BY:.4f}", bar=bar))
    return rows


def _see_through(case: str, records: Sequence[Record], opaque: Sequence[Record] | None) -> list[Row]:
    """Return rows of soft mattes, compared with opaque foregrounds and with hard masks."""
    iou = mean_of(getter("alpha_iou"))(opaque) if opaque else None
    reference, bar = (f"decompose: {iou:.4f}", iou - HARDER_BY) if iou is not None else ("", None)
    hard = mean_of(getter("hard_mask_mae"))(records) or 0.0
    figures: tuple[tuple[str, str, str, str, float | None], ...] = (
        ("IoU of covered pixels, alpha over 0.1", "cover_iou", "", reference, bar),
        ("alpha MAE", "alpha_mae", "", f"the best hard mask: {hard:.4f}", hard / 2),
        ("background PSNR, mean of single clips", "background_psnr", "dB", "", None),
        ("foreground PSNR over grey", "foreground_psnr", "dB", "", None),
    )
    return [
        make_row(case, figure, records, mean_of(getter(key)), unit, text, bar=bar, at_most=key == "alpha_mae")
        for figure, key, unit, text, bar in figures
    ]


_FOREGROUND_FIGURES: tuple[tuple[str, str, float | None], ...] = (
    (f"prompted object recognised, of {len(FOREGROUND_HEADS['object'])}", "object", 0.80),
    ("foreground colour named by the prompt", "colour", 0.90),
    ("natural colours where the prompt names none", "natural_colour", None),
    ("motion named by the prompt", "motion", 0.85),
)
"""Figure, key of `matches`, and bar as a share of the score of true clips."""

_BACKGROUND_FIGURES: tuple[tuple[str, str, float | None], ...] = (
    ("background family and colour named by the prompt", BACKGROUND, 0.75),
    ("background family alone", "family", 0.90),
)


PARAPHRASE_SLACK = 10.0
"""Percentage points by which paraphrases may fall behind plain prompts."""


def _paraphrases(by_case: dict[str, list[Record]]) -> list[Row]:
    """Return the row of paraphrased prompts, compared with plain ones."""
    if not {"plain-words", "other-words"} <= set(by_case):
        return []
    accuracy = share_of(getter("matches", "object"))
    plain = accuracy(by_case["plain-words"])
    assert plain is not None
    figure = "object recognised from paraphrased prompts"
    reference = f"plain prompts: {plain:.1f} %"
    return [
        make_row("generate", figure, by_case["other-words"], accuracy, "%", reference, bar=plain - PARAPHRASE_SLACK)
    ]


def _generate(records: Sequence[Record]) -> list[Row]:
    named = [_named("generate", records, *key) for key in (*_BACKGROUND_FIGURES, *_FOREGROUND_FIGURES)]
    return [_composite("generate", records, bar=32), *named, *_leak(records)]


def _leak(records: Sequence[Record]) -> list[Row]:
    """Return the row of backgrounds that hold remains of the foreground."""
    reference = ", ".join(
        f"{label}: {value:.1f} %"
        for label, key in (("true backgrounds", "false_leak"), ("true blended clips", "true_leak"))
        if (value := share_of(getter(key))(records)) is not None
    )
    figure = "backgrounds with a detected foreground"
    return [make_row("generate", figure, records, share_of(getter("leak")), "%", reference, bar=5, at_most=True)]


def _diversity(by_case: dict[str, list[Record]]) -> list[Row]:
    """Return rows of flicker, distance to training scenes and distance between seeds of generated videos."""
    records = by_case.get("generate", [])
    keys = ("second_difference", "nearest_training", "distance")
    change, nearest, apart = (mean_of(getter(f"real_{key}"))(records) for key in keys)
    if change is None or nearest is None or apart is None:
        return []
    flicker = Measure(getter("second_difference"), lambda mean: mean / max(change, 1e-9))
    figure = "flicker: second differences in time, relative to the true clips"
    rows = [make_row("generate", figure, records, flicker, "", f"{change:.4f} in [0, 1]", bar=1.25, at_most=True)]
    figure = f"distance to the nearest of {TRAINING_SCENES} training scenes, levels"
    reference = f"true held-out clips: {nearest:.1f}"
    rows.append(make_row("generate", figure, records, mean_of(getter("nearest_training")), "", reference))
    again = {(r["seed"], r["index"]): r["thumbnail"] for r in by_case.get("generate-again", [])}
    pairs = [
        {"seed": r["seed"], "distance": thumbnail_distance(r["thumbnail"], other)}
        for r in records
        if (other := again.get((r["seed"], r["index"]))) is not None
    ]
    if pairs:
        figure, reference = "distance between two seeds, levels", f"true clips of the same facts: {apart:.1f}"
        rows.append(make_row("generate", figure, pairs, mean_of(getter("distance")), "", reference))
    return rows


def _composite(case: str, records: Sequence[Record], bar: float | None) -> Row:
    figure = "composite PSNR: blended against the over of the other two"
    return make_row(case, figure, records, mean_of(getter("composite_psnr")), "dB", bar=bar)


def _named(
    case: str,
    records: Sequence[Record],
    figure: str,
    key: str,
    share: float | None,
    generate: dict[str, float | None] | None = None,
) -> Row:
    """Return the row of clips, in percent, that show the prompted attribute.

    The bar is a share of the score of true clips or, given the values of `generate`, these minus `SLACK`.
    """
    real = share_of(getter("real_matches", key))(records)
    reference = "" if real is None else f"true clips: {real:.1f} %"
    bar = share * real if share is not None and real is not None else None
    if generate is not None:
        value = generate.get(figure)
        # The motion rule is not part of the judge, so it has no bar here.
        bar = value - SLACK if value is not None and share is not None and key != "motion" else None
        if value is not None:
            reference += f"; generate: {value:.1f} %"
    return make_row(case, figure, records, share_of(getter("matches", key)), "%", reference.lstrip("; "), bar=bar)


def make_row(
    task: str,
    figure: str,
    records: Sequence[Record],
    measure: Measure,
    unit: str,
    reference: str = "",
    *,
    bar: float | None = None,
    at_most: bool = False,
) -> Row:
    seeds = sorted({record["seed"] for record in records})
    each = [measure([r for r in records if r["seed"] == seed]) for seed in seeds]
    values = [value for value in each if value is not None]
    spread = stdev(values) if len(values) > 1 else None
    return Row(task, figure, measure(records), spread, unit, len(measure.values(records)), reference, bar, at_most)
