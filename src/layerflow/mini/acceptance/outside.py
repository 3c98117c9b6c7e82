"""Decomposition measured outside of the drawn world: photographic cut-outs, surveillance footage, footage with masks.

Each shot is taken apart in several ways: `alone`, by one `click` on the foreground, with the `matte` of one frame
given, and by models of two foregrounds into `both`. Letters: F frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.compositing import blend
from ...core.given import Given
from ...core.layered_video import LayeredVideo
from ...core.schema import ALPHA, BLENDED, foreground_count
from ...evaluation import metrics
from ...evaluation.baselines import BASELINES
from ...evaluation.matching import match, mattes_of, repeated_iou
from ...generation.hints import RADIUS
from ...pipeline import LayerFlowPipeline
from ..world.atlas import Atlas
from .cases import Record, noise_generator
from .evaluate import split_samples
from .figures import Measure, Row, getter, make_row, mean_of, pooled_psnr
from .footage import (
    MissingMaterialError,
    Shot,
    find_stamps,
    people_windows,
    read_footage,
    read_frames,
    read_stamp,
)
from .moving import Cutout, move

WAYS = ("alone", "click", "matte", "both")
"""What is given besides the blended clip: nothing, a click, the matte of one frame; nothing, for two foregrounds."""
VISIBLE = 0.005
"""Share of a frame that a foreground covers at least where it is pointed at."""
STREAM = 60_000
"""Added to a seed of the evaluation to give its stream of scenes, apart from those used elsewhere."""


@dataclass(frozen=True)
class Material:
    """Folders of material that is not part of the package."""

    art: Path
    """Unpacked packages, at any depth: tuxpaint-stamps-default, and opencv-doc with its vtest.avi; and `footage`."""
    atlas: Path
    """Atlas with held-out photographs."""

    @property
    def surveillance(self) -> Path:
        """The file vtest.avi.

        Raises:
            MissingMaterialError: there is none.
        """
        found = sorted(self.art.rglob("vtest.avi")) if self.art.is_dir() else []
        if not found:
            raise MissingMaterialError(f"{self.art} holds no vtest.avi; unpack the Debian package opencv-doc below it")
        return found[0]


Shots = Callable[[Material, int, int, Mapping[int, int]], Iterator[tuple[int, Shot]]]
"""Function of the material, size, frames, and samples by seed, that gives each seed with its shots."""


def moving_shots(
    material: Material, size: int, frames: int, samples: Mapping[int, int], *, objects: int
) -> Iterator[tuple[int, Shot]]:
    """Draw scenes of photographic cut-outs over the held-out photographs of an atlas, before a moving camera.

    Raises:
        MissingMaterialError: there are no stamps, or no held-out photographs.
        AtlasError: there is no atlas.
    """
    atlas = Atlas.open(material.atlas)
    photographs = [one for one in atlas.backgrounds if one.held_out and one.kind == "photograph"]
    if not photographs:
        raise MissingMaterialError(f"{material.atlas} has no held-out photographs; build the atlas from all packages")
    stamps = find_stamps(material.art)
    for seed, count in samples.items():
        for index in range(count):
            rng = np.random.default_rng([STREAM + seed, index])
            cutouts: list[Cutout] = []
            while len(cutouts) < objects:
                cutout = read_stamp(stamps[int(rng.integers(len(stamps)))])
                if cutout is not None:
                    cutouts.append(cutout)
            chosen = photographs[int(rng.integers(len(photographs)))]
            pixels = torch.from_numpy(np.array(atlas.background(chosen)[0])).permute(2, 0, 1).float() / 255
            name = f"{' before '.join(cutout.name for cutout in cutouts)}, {chosen.name}"
            yield seed, Shot(name, move(cutouts, pixels, rng, size, frames))


def surveillance_shots(
    material: Material, size: int, frames: int, samples: Mapping[int, int]
) -> Iterator[tuple[int, Shot]]:
    """Take the windows with people of vtest.avi, the same for each seed; with fewer samples, the first of them."""
    shots = people_windows(read_frames(material.surveillance), size, frames)
    for seed, count in samples.items():
        yield from ((seed, shot) for shot in shots[:count])


def footage_shots(material: Material, size: int, frames: int, samples: Mapping[int, int]) -> Iterator[tuple[int, Shot]]:
    """Read footage with masks, the same for each seed; with fewer samples, the first of it."""
    shots = list(read_footage(material.art / "footage", size, frames))
    for seed, count in samples.items():
        yield from ((seed, shot) for shot in shots[:count])


def one_moving(material: Material, size: int, frames: int, samples: Mapping[int, int]) -> Iterator[tuple[int, Shot]]:
    """Draw scenes of one cut-out."""
    return moving_shots(material, size, frames, samples, objects=1)


def two_moving(material: Material, size: int, frames: int, samples: Mapping[int, int]) -> Iterator[tuple[int, Shot]]:
    """Draw scenes of two cut-outs, of which the nearer one is meant."""
    return moving_shots(material, size, frames, samples, objects=2)


@dataclass(frozen=True)
class OutsideCase:
    """Shots of one kind, and the ways in which they are taken apart."""

    shots: Shots
    ways: tuple[str, ...]
    fixed: bool = False
    """The shots are the same for each seed, so that each seed measures all."""


OUTSIDE: dict[str, OutsideCase] = {
    "cutouts": OutsideCase(one_moving, WAYS[:3]),
    "two": OutsideCase(two_moving, WAYS),
    "vtest": OutsideCase(surveillance_shots, WAYS[:3], fixed=True),
    "footage": OutsideCase(footage_shots, WAYS[:3], fixed=True),
}
"""Cases by name."""
SAMPLES = 60
"""Samples of a case over all seeds; those of fixed shots are all shots with each seed."""


# --- what is given ------------------------------------------------------------------------------------------


def pointed_frame(alpha: Tensor) -> int:
    """Return the first frame of a matte (F, 1, H, W) that covers `VISIBLE` of it, else that which covers most."""
    cover = (alpha > 0.5).float().mean((1, 2, 3))
    shown = (cover >= VISIBLE).nonzero()
    return int(shown[0]) if len(shown) else int(cover.argmax())


def click_place(matte: Tensor) -> tuple[int, int]:
    """Return row and column of the pixel deepest inside the largest part of a matte (H, W), nearest to its middle."""
    left = metrics.largest_region(matte > 0.5).float()
    if not bool(left.any()):
        return matte.shape[0] // 2, matte.shape[1] // 2
    depth = torch.zeros_like(left)
    while bool(left.any()):
        depth += left
        left = 1 - F.max_pool2d(F.pad(1 - left[None, None], (1, 1, 1, 1), value=1.0), 3, 1)[0, 0]
    deepest = (depth == depth.max()).nonzero().float()
    nearest = (deepest - deepest.mean(0)).square().sum(1).argmin()
    row, column = deepest[nearest].int().tolist()
    return row, column


def make_given(truth: LayeredVideo, way: str) -> Given:
    """Return what a model is given of a shot."""
    assert truth.blended is not None
    assert truth.alpha is not None
    if way in ("alone", "both"):
        return Given(LayeredVideo(blended=truth.blended))
    frame = pointed_frame(truth.alpha)
    if way == "matte":
        return Given(LayeredVideo(blended=truth.blended, alpha=truth.alpha), {ALPHA: frame})
    row, column = click_place(truth.alpha[frame, 0])
    height, width = truth.alpha.shape[-2:]
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    known = torch.zeros_like(truth.alpha, dtype=torch.bool)
    radius = max(0.5, RADIUS * height)
    known[frame, 0] = (rows - row).square() + (columns - column).square() <= radius**2
    return Given(LayeredVideo(blended=truth.blended, alpha=known.float()), {ALPHA: ()}, {ALPHA: known})


# --- measuring ----------------------------------------------------------------------------------------------

Progress = Callable[[int, int, str], None]
"""Called as (done, total, label)."""


@dataclass(frozen=True)
class Taken:
    """Results of a shot by way, for a sheet."""

    case: str
    shot: Shot
    videos: dict[str, LayeredVideo]


def measure_outside(
    pipeline: LayerFlowPipeline,
    material: Material,
    cases: Sequence[str],
    *,
    samples: int | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    ways: Sequence[str] = WAYS,
    steps: int | None = None,
    batch_size: int = 4,
    shown: int = 6,
    progress: Progress | None = None,
) -> tuple[list[Record], list[Taken]]:
    """Take shots apart with a model at its own size and frames, without prompts and guidance, and measure the result.

    Args:
        pipeline: the model.
        material: folders of the shots.
        cases: names of `OUTSIDE`.
        samples: samples of each case over all seeds, or of each seed for fixed shots; `SAMPLES` if None.
        seeds: seeds of scenes and noise.
        ways: ways to take shots apart, of those that the cases have.
        steps: denoising steps; the model's default if None.
        batch_size: shots that are taken apart together; it does not change the results.
        shown: shots of the first seed to keep for a sheet.
        progress: callback.

    Returns:
        Records of all samples, and the kept results.

    Raises:
        UserError: material is missing.
    """
    config: Any = pipeline.transformer.config
    frames, height, _ = pipeline.codec.for_given({BLENDED}).trained_size
    several = foreground_count(config.clips) > 1
    records: list[Record] = []
    kept: list[Taken] = []
    for name in cases:
        case = OUTSIDE[name]
        counts = dict.fromkeys(seeds, samples or SAMPLES) if case.fixed else split_samples(samples or SAMPLES, seeds)
        shots = list(case.shots(material, height, frames, counts))
        own_ways = [way for way in case.ways if way in ways and (way != "both" or several)]
        done = 0
        for seed in seeds:
            own = [shot for number, shot in shots if number == seed]
            for start in range(0, len(own), batch_size):
                part = own[start : start + batch_size]
                taken = [Taken(name, shot, {}) for shot in part]
                for way in own_ways:
                    noise = [noise_generator(f"{name}-{way}", seed, start + place) for place in range(len(part))]
                    one_alone: dict[str, Any] = {"foreground": ""} if several and way == "alone" else {}
                    output: Any = pipeline(
                        **one_alone,
                        given=[make_given(shot.truth, way) for shot in part],
                        num_inference_steps=steps,
                        guidance_scale=1.0,
                        generator=noise,
                    )
                    for place, (shot, video) in enumerate(zip(part, output.videos, strict=True)):
                        record = {"case": name, "way": way, "seed": seed, "index": start + place, "name": shot.name}
                        records.append(record | measure_shot(shot.truth, video, way))
                        taken[place].videos[way] = video
                done += len(part)
                kept += taken[: max(0, shown - start)] if seed == seeds[0] else []
                if progress is not None:
                    progress(done, len(shots), name)
    return records, kept


def measure_shot(truth: LayeredVideo, video: LayeredVideo, way: str) -> Record:
    """Compare a result with the true layers. A frame whose matte was given does not count for the matte."""
    alpha, mine, blended = truth.alpha, video.alpha, truth.blended
    assert alpha is not None
    assert mine is not None
    assert blended is not None
    if way == "both":
        made, true = mattes_of(video), mattes_of(truth)
        order = match(made, true)
        ious = [0.0 if n is None else metrics.alpha_iou(made[n], other) for n, other in zip(order, true, strict=True)]
        return {"matched_iou": fmean(ious), "repeated_iou": repeated_iou(made, true)}
    counted = torch.ones(len(alpha), dtype=torch.bool)
    if way == "matte":
        counted[pointed_frame(alpha)] = False
    record: Record = {
        "alpha_iou": metrics.alpha_iou(mine[counted], alpha[counted]),
        "alpha_mae": metrics.alpha_mae(mine[counted], alpha[counted]),
    }
    if way == "alone":
        record["baselines"] = {
            name: {"alpha_iou": metrics.alpha_iou(_alpha_of(baseline(blended)), alpha)}
            for name, baseline in BASELINES.items()
        }
    if truth.background is not None and video.background is not None:
        behind = truth.background
        for farther in reversed(truth.foregrounds[1:]):
            assert farther.colour is not None
            assert farther.alpha is not None
            behind = blend(farther.colour, farther.alpha, behind)
        error = (video.background.double() - behind.double()).square().mean(1, keepdim=True)  # (F, 1, H, W)
        never = (alpha.amax(0, keepdim=True) <= 1 / 255).expand_as(error)
        record["background_mse"] = float(error.mean())
        if bool(never.any()):
            record["never_covered_mse"] = float(error[never].mean())
    return record


def _alpha_of(video: LayeredVideo) -> Tensor:
    assert video.alpha is not None
    return video.alpha


# --- figures ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Figure:
    name: str
    measure: Measure
    unit: str = ""
    at_most: bool = False


_IOU, _MAE, _WHOLE, _NEVER, _BOTH = (
    _Figure("alpha IoU", mean_of(getter("alpha_iou"))),
    _Figure("alpha MAE", mean_of(getter("alpha_mae")), at_most=True),
    _Figure("background PSNR of the mean squared error, whole frame", pooled_psnr(getter("background_mse")), "dB"),
    _Figure("the same where the foreground never was", pooled_psnr(getter("never_covered_mse")), "dB"),
    _Figure("mean IoU of the matched foregrounds", mean_of(getter("matched_iou"))),
)
BARS: dict[tuple[str, str], dict[str, float]] = {
    ("cutouts", "alone"): {_IOU.name: 0.85, _MAE.name: 0.03, _WHOLE.name: 27.0, _NEVER.name: 34.0},
    ("cutouts", "matte"): {_IOU.name: 0.90},
    ("two", "click"): {_IOU.name: 0.72},
    ("two", "matte"): {_IOU.name: 0.82},
    ("two", "both"): {_BOTH.name: 0.70},
    ("vtest", "alone"): {_IOU.name: 0.70},
}
"""Values to reach by case and way, and figure."""


def outside_rows(records: Sequence[Record]) -> list[Row]:
    """Return the rows of the table, those of each case and way together."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["case"], record["way"]), []).append(record)
    rows = []
    for (case, way), own in sorted(
        groups.items(), key=lambda item: (list(OUTSIDE).index(item[0][0]), WAYS.index(item[0][1]))
    ):
        for figure in (_IOU, _MAE, _WHOLE, _NEVER, _BOTH):
            if not figure.measure.values(own):
                continue
            bar = BARS.get((case, way), {}).get(figure.name)
            reference = _reference(own) if figure in (_IOU, _BOTH) else ""
            rows.append(
                make_row(
                    f"{case}, {way}", figure.name, own, figure.measure, figure.unit, reference,
                    bar=bar, at_most=figure.at_most,
                )
            )  # fmt: skip
    return rows


def _reference(records: Sequence[Record]) -> str:
    """Return the score of the best trivial method as text."""
    if "repeated_iou" in records[0]:
        return f"one of them for both: {mean_of(getter('repeated_iou'))(records):.4f}"
    if "baselines" not in records[0]:
        return ""
    means = [(mean_of(getter("baselines", name, "alpha_iou"))(records) or 0.0, name) for name in BASELINES]
    return "best trivial: {:.4f} ({})".format(*max(means))


__all__ = ["BARS", "OUTSIDE", "SAMPLES", "WAYS", "Material", "Taken", "measure_outside", "outside_rows"]
