"""Metrics of folders of layers from any source, compared with folders of true layers.

A set is a folder of samples, each a folder as `save_layers` writes it or with files named foreground.*, alpha.*,
background.* and blended.*; a sample is compared with the true one of the same name. Without true layers only the
metrics that need none are reported: consistency, motion, and agreement of the layers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from ..core.atomic import write_atomically
from ..core.compositing import blend, premultiply_all
from ..core.layered_video import Foreground, LayeredVideo
from ..core.schema import (
    ALL_CLIPS,
    ALPHA_OF,
    MOST_FOREGROUNDS,
    clip_names,
    foreground_count,
    prompt_layers,
    scene_layers,
)
from ..media import MediaError, load_layers
from . import metrics
from .matching import matched, mattes_of, repeated_iou
from .retrieval import Embedder, retrieved
from .video_metrics import (
    VideoFeatures,
    frechet_distance,
    is_dynamic,
    load_features,
    motion_flow,
    motion_smoothness,
    temporal_consistency,
)

UNITS = {
    "alpha MAE": "", "alpha MSE": "", "alpha SAD": "thousands", "alpha Grad": "thousands", "alpha Conn": "thousands",
    "alpha dtSSD": "", "alpha MESSDdt": "", "alpha IoU": "", "background PSNR": "dB", "background leak": "",
    "background flicker": "", "foreground PSNR over grey": "dB", "blended PSNR": "dB", "composite PSNR": "dB",
    "layer agreement": "", "matte motion": "", "matte travel": "", "temporal consistency": "", "motion smoothness": "",
    "dynamic degree": "share",
}  # fmt: skip
"""Metrics of single samples in the order of the table, and their units."""
MATCHED = {
    "alpha IoU": "", "alpha MAE": "", "alpha SAD": "thousands", "alpha dtSSD": "", "foreground PSNR over grey": "dB",
}  # fmt: skip
"""Metrics of each foreground beside the true one that it is matched with, and their units."""
SMALLEST_FLOW = 12
"""Pixels of the longer side from which on OpenCV computes optical flow."""
FLOOR, SURPLUS = "alpha IoU of the same foreground for all", "surplus alpha"
UNITS |= {f"matched {figure}": unit for figure, unit in MATCHED.items()} | {FLOOR: "", SURPLUS: ""}
UNITS |= {f"matched {figure} of {layer}": unit for layer in ALPHA_OF for figure, unit in MATCHED.items()}


@dataclass
class Line:
    """One row of the table."""

    figure: str
    value: float
    spread: float | None
    """Standard deviation over samples; None for metrics of a whole set."""
    count: int
    """Number of samples measured."""
    unit: str = ""


@dataclass
class FolderReport:
    """Metrics of a set."""

    made: str
    truth: str | None
    features: str
    """Name of the video features that distances are computed from."""
    samples: dict[str, dict[str, float]]
    """Metrics of each sample by its name."""
    of_set: list[Line]
    """Metrics of the whole set."""
    failed: dict[str, str] = field(default_factory=dict)
    """Reason for each sample that could not be measured."""

    def lines(self) -> list[Line]:
        """Return the rows of the table."""
        lines = []
        for figure, unit in UNITS.items():
            values = [sample[figure] for sample in self.samples.values() if figure in sample]
            if values:
                spread = stdev(values) if len(values) > 1 else None
                lines.append(Line(figure, fmean(values), spread, len(values), unit))
        return lines + self.of_set

    def markdown(self) -> str:
        """Return the table in Markdown."""
        beside = f", compared with {self.truth}" if self.truth else ""
        rows = [f"{len(self.samples)} samples of {self.made}{beside}.", "", "| figure | value | spread | n |"]
        rows.append("| --- | ---: | ---: | ---: |")
        for line in self.lines():
            spread = "" if line.spread is None else f"{line.spread:.4g}"
            rows.append(
                f"| {' '.join((line.figure, line.unit and f'({line.unit})')).strip()} "
                f"| {line.value:.4g} | {spread} | {line.count} |"
            )
        rows += ["", *(f"- not measured: {name}: {why}" for name, why in self.failed.items())]
        return "\n".join(rows).rstrip() + "\n"


def samples_in(folder: Path) -> dict[str, Path]:
    """Return the folders of layers in a folder, by name; the folder itself if it holds layers.

    Raises:
        MediaError: there is none.
    """
    if not folder.is_dir():
        raise MediaError(f"{folder}: there is no such folder; name one that holds folders of layers")
    if _is_sample(folder):
        return {folder.name: folder}
    samples = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and _is_sample(path)}
    if not samples:
        raise MediaError(f"{folder} holds no folders of layers: each has layers.json, or files such as foreground.webm")
    return samples


def _is_sample(folder: Path) -> bool:
    # Folders of frames are named for their format: foreground_png.
    names = {re.split("[._]", path.name)[0] for path in folder.iterdir() if not path.name.startswith(".")}
    return (folder / "layers.json").is_file() or bool(names & {*ALL_CLIPS})


def measure_folders(
    made: Path,
    truth: Path | None = None,
    features: str = "random",
    embedder: Embedder | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FolderReport:
    """Measure a set of layered videos. A sample that cannot be read, or has no true one, is listed as failed.

    Args:
        made: folder of samples.
        truth: folder of true samples with the same names.
        features: video features for the distance between sets, see `load_features`.
        embedder: embedder of layers and prompts, for retrieval; prompts are those in layers.json.
        progress: called as (done, total).

    Raises:
        MediaError: a folder holds no samples, or none of them can be measured.
        ValueError: the features are not known.
    """
    mine = samples_in(made)
    theirs = samples_in(truth) if truth is not None else {}
    if truth is not None and len(mine) == len(theirs) == 1:
        theirs = dict(zip(mine, theirs.values(), strict=True))
    embed = load_features(features)
    report = FolderReport(str(made), str(truth) if truth else None, features, {}, [])
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}  # features of made and true layers, by layer
    layers: dict[str, list[tuple[Tensor, str]]] = {}
    for done, (name, path) in enumerate(mine.items(), 1):
        try:
            video = load_layers(path)
            true = load_layers(theirs[name]) if truth is not None else None
            report.samples[name] = measure_sample(video, true)
        except KeyError:
            report.failed[name] = f"{truth} has no sample of that name"
            continue
        except ValueError as error:
            report.failed[name] = str(error)
            continue
        if true is not None:
            _collect(video, true, embed, pairs)
        for layer, prompt in prompts_in(path).items():
            if prompt and layer in video.clips():
                layers.setdefault(layer, []).append((_shown(video, layer), prompt))
        if progress is not None:
            progress(done, len(mine))
    if not report.samples:
        first = next(iter(report.failed.values()))
        raise MediaError(f"no sample of {made} could be measured; the first: {first}")
    for layer, embedded in pairs.items():
        if len(embedded) > 1:
            distance = frechet_distance(*(torch.stack(side) for side in zip(*embedded, strict=True)))
            report.of_set.append(Line(f"{layer} FVD ({features} features)", distance, None, len(embedded)))
    if embedder is not None:
        report.of_set += _retrieval(layers, embedder)
    return report


def measure_sample(video: LayeredVideo, true: LayeredVideo | None) -> dict[str, float]:
    """Return every metric that these layers allow, by name.

    Raises:
        ValueError: the two differ in frames or size.
    """
    figures: dict[str, float] = {}
    if true is not None:
        if (video.frames, video.height, video.width) != (true.frames, true.height, true.width):
            raise ValueError(f"{video!r} is compared with {true!r}: resize or cut one")
        figures |= _metrics_with_truth(video, true)
    if set(clip_names(scene_layers(max(1, len(video.foregrounds))))) <= video.clips().keys():
        figures["composite PSNR"] = metrics.composite_psnr(video)
        figures["layer agreement"] = metrics.layer_agreement(video)
    if (alpha := _coverage(video)) is not None:
        figures["matte motion"] = metrics.matte_motion(alpha)
        figures["matte travel"] = metrics.matte_travel(alpha)
    shown = next((clip for clip in (video.blended, video.background, video.foreground) if clip is not None), None)
    if shown is not None:
        figures["temporal consistency"] = temporal_consistency(shown)
        figures["motion smoothness"] = motion_smoothness(shown)
        if _has_flow(shown):
            figures["dynamic degree"] = float(len(shown) > 1 and is_dynamic(motion_flow(shown)))
    return figures


def _has_flow(clip: Tensor) -> bool:
    """Return whether optical flow can be computed: with OpenCV, for clips that its smallest window fits into."""
    return find_spec("cv2") is not None and max(clip.shape[-2:]) >= SMALLEST_FLOW


def _metrics_with_truth(video: LayeredVideo, true: LayeredVideo) -> dict[str, float]:
    """Return metrics that compare with the truth; those of a matte are of all foregrounds together."""
    figures: dict[str, float] = {}
    alpha, target = _coverage(video), _coverage(true)
    if alpha is not None and target is not None:
        pair = alpha, target
        figures = {
            "alpha MAE": metrics.alpha_mae(*pair), "alpha MSE": metrics.mse(*pair), "alpha SAD": metrics.sad(*pair),
            "alpha Grad": metrics.gradient_error(*pair), "alpha Conn": metrics.connectivity_error(*pair),
            "alpha dtSSD": metrics.dtssd(*pair), "alpha IoU": metrics.alpha_iou(*pair),
        }  # fmt: skip
        shown = true.blended if true.blended is not None else true.foreground
        if shown is not None and len(shown) > 1 and _has_flow(shown):
            figures["alpha MESSDdt"] = metrics.messddt(*pair, motion_flow(shown))
    if video.background is not None and true.background is not None:
        figures["background PSNR"] = metrics.psnr(video.background, true.background)
        figures["background flicker"] = metrics.flicker(video.background, true.background)
        if target is not None:
            figures["background leak"] = metrics.background_leak(video.background, true.background, target)
    over_grey = [_over_grey(v.foregrounds) for v in (video, true)]
    if over_grey[0] is not None and over_grey[1] is not None:
        figures["foreground PSNR over grey"] = metrics.psnr(over_grey[0], over_grey[1])
    if video.blended is not None and true.blended is not None:
        figures["blended PSNR"] = metrics.psnr(video.blended, true.blended)
    if max(len(video.foregrounds), len(true.foregrounds)) > 1:
        figures |= _matched_metrics(video, true)
    return figures


def _matched_metrics(video: LayeredVideo, true: LayeredVideo) -> dict[str, float]:
    """Return metrics of foregrounds matched to the true ones: the mean over these, and for each by its true layer."""
    mattes, targets = mattes_of(video), mattes_of(true)
    if not mattes or not targets:
        return {}
    ordered, surplus = matched(video, true)
    by_layer: dict[str, dict[str, float]] = {}
    for layer, one, other in zip(ALPHA_OF, ordered.foregrounds, true.foregrounds, strict=False):
        assert one.alpha is not None
        assert other.alpha is not None
        pair = one.alpha, other.alpha
        own = by_layer[layer] = {
            "alpha IoU": metrics.alpha_iou(*pair), "alpha MAE": metrics.alpha_mae(*pair),
            "alpha SAD": metrics.sad(*pair), "alpha dtSSD": metrics.dtssd(*pair),
        }  # fmt: skip
        if one.colour is not None and other.colour is not None:
            shown = [blend(each.colour, each.alpha, torch.tensor(0.5)) for each in (one, other)]  # type: ignore[arg-type]
            own["foreground PSNR over grey"] = metrics.psnr(*shown)
    figures = {}
    for figure in MATCHED:
        values = [own[figure] for own in by_layer.values() if figure in own]
        if len(values) == len(by_layer):
            figures[f"matched {figure}"] = fmean(values)
    for layer, own in by_layer.items():
        figures |= {f"matched {figure} of {layer}": value for figure, value in own.items()}
    figures[FLOOR] = repeated_iou(mattes, targets)
    if surplus:
        figures[SURPLUS] = fmean(float(one.alpha.mean()) for one in surplus if one.alpha is not None)
    return figures


def _coverage(video: LayeredVideo) -> Tensor | None:
    """Return the alpha of all foregrounds together; of one it is its own. None where one is missing."""
    mattes = mattes_of(video)
    return premultiply_all([(matte, matte) for matte in mattes])[1] if mattes else None


def _over_grey(foregrounds: Sequence[Foreground]) -> Tensor | None:
    """Return foregrounds over mid-grey; None where there are none, or a clip of one is missing."""
    shown: Tensor | None = torch.tensor(0.5) if foregrounds else None
    for one in reversed(foregrounds):
        if one.colour is None or one.alpha is None or shown is None:
            return None
        shown = blend(one.colour, one.alpha, shown)
    return shown


def _shown(video: LayeredVideo, layer: str) -> Tensor:
    """Return a layer as opaque video; a foreground over mid-grey."""
    clips = video.clips()
    clip, alpha = clips[layer], clips.get(ALPHA_OF.get(layer, ""))
    return clip if alpha is None else blend(clip, alpha, torch.tensor(0.5))


def _collect(
    video: LayeredVideo, true: LayeredVideo, embed: VideoFeatures, pairs: dict[str, list[tuple[Tensor, Tensor]]]
) -> None:
    """Add the features of layers that both videos have; of several foregrounds those that are matched."""
    if max(len(video.foregrounds), len(true.foregrounds)) > 1:
        video, _ = matched(video, true)
    for layer in prompt_layers(MOST_FOREGROUNDS):
        if layer in video.clips() and layer in true.clips():
            pair = embed(_shown(video, layer)), embed(_shown(true, layer))
            pairs.setdefault(layer, []).append(pair)


def metadata_in(folder: Path) -> dict[str, Any]:
    """Return the metadata in the layers.json of a sample; empty if there is none."""
    try:
        return dict(json.loads((folder / "layers.json").read_text("utf-8"))["metadata"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def prompts_in(folder: Path) -> dict[str, str]:
    """Return the prompts in the layers.json of a sample, by layer."""
    prompts = metadata_in(folder).get("prompts")
    if not isinstance(prompts, dict):
        return {}
    return {layer: str(prompts.get(layer) or "") for layer in prompt_layers(foreground_count(prompts))}


def _retrieval(layers: dict[str, list[tuple[Tensor, str]]], embedder: Embedder) -> list[Line]:
    lines = []
    for layer, pairs in layers.items():
        texts = [prompt for _, prompt in pairs]
        if len(set(texts)) > 1:
            right = retrieved(*embedder([clip for clip, _ in pairs], texts), texts)
            lines.append(Line(f"{layer} retrieves its prompt", sum(right) / len(right), None, len(right), "share"))
    return lines


def write_folder_report(report: FolderReport, folder: Path) -> Path:
    """Write `report.json` and `report.md`; return the path of the latter."""
    content: dict[str, Any] = asdict(report) | {"lines": [asdict(line) for line in report.lines()]}
    write_atomically(folder / "report.json", json.dumps(content, indent=1).encode())
    write_atomically(folder / "report.md", report.markdown().encode())
    return folder / "report.md"


__all__: Sequence[str] = ["FolderReport", "Line", "measure_folders", "measure_sample", "write_folder_report"]
