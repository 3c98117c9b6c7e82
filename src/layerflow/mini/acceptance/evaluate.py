"""The evaluation: runs a model on held-out scenes and makes a record of each sample.

Results are saved after each pair of case and seed, so that an interrupted evaluation resumes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ...core.atomic import write_atomically
from ...core.layered_video import LayeredVideo
from ...core.schema import CLIPS, LAYERS
from ...models.backbone import Conventions
from ...pipeline import LayerFlowPipeline
from ..world import Scene
from .cases import CASES, PAIRED, Record, case_scene, case_source, make_record, noise_generator, scenes_hash
from .figures import Row, ceilings, make_rows
from .judge import Judge, Progress, data_version, load_judge

QUICK_SAMPLES = 12
"""Samples of each case with `quick`."""

KINDS = ("best", "median", "worst")
"""Samples of each case that a report shows, by their score."""


@dataclass
class Picture:
    """A sample in the report."""

    case: str
    """A name of `CASES`."""
    kind: str
    """One of `KINDS`."""
    record: Record
    """Measurements of the sample."""
    output: LayeredVideo
    """Result of the model, in 8 bits."""
    truth: LayeredVideo
    """True layers of the scene that the prompts describe."""


@dataclass
class Report:
    """Result of an evaluation."""

    settings: dict[str, Any]
    """Model and settings of the evaluation."""
    records: list[Record]
    """Records of all samples."""
    pictures: list[Picture] = field(default_factory=list)
    """Best, median and worst sample of each case."""

    def rows(self) -> list[Row]:
        """Return the rows of the table."""
        return make_rows(self.records)

    def to_json(self) -> dict[str, Any]:
        """Return settings, table and records as JSON values, without the pictures."""
        rows = [asdict(row) | {"passed": row.passed} for row in self.rows()]
        ceiling = ceilings(self.records)
        return {"settings": self.settings, "rows": rows, "judge_accuracy": ceiling, "records": self.records}


def evaluate(
    pipeline: LayerFlowPipeline,
    *,
    samples: int = 200,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int | None = None,
    guidance: float | None = None,
    batch_size: int = 4,
    quick: bool = False,
    cases: Sequence[str] = tuple(CASES),
    judge: Judge | None = None,
    folder: str | Path | None = None,
    name: str = "",
    progress: Progress | None = None,
) -> Report:
    """Measure a model on held-out scenes.

    Args:
        pipeline: model of all four clips and square frames.
        samples: samples of each case over all seeds: 200 on three seeds are 67, 67 and 66.
        seeds: seeds of scenes and noise.
        steps: denoising steps; the pipeline's default if None.
        guidance: guidance scale of every case; if None the pipeline's default with prompts, and 1 without.
        batch_size: samples denoised together; it changes time and memory, not the results.
        quick: run only the first seed and `QUICK_SAMPLES` samples of each case, as a smoke test.
        cases: names of `CASES` to run.
        judge: judge of the results; if None the cached one, trained first where there is none.
        folder: folder for results, which are saved as they come and reused; not saved if None.
        name: name of the model, for the report.
        progress: callback (done, total, label).

    Raises:
        ValueError: an argument is out of its range, or the model has an autoencoder.
        MissingFontError: the emoji font is not installed.
    """
    if quick:
        samples, seeds = min(samples, QUICK_SAMPLES), seeds[:1]
    _check(samples, seeds, batch_size, cases)
    if pipeline.vae is not None:
        raise ValueError(
            f"{name} works on latents, and the drawn scenes are for models of their own size in pixels; measure it on "
            "videos of yours with `truth`"
        )
    plan = [(case, seed, n) for case in cases for seed, n in split_samples(samples, seeds).items() if n]
    judge = judge or load_judge(progress=progress)
    config, conventions = pipeline.transformer.config, pipeline.transformer.conventions
    settings: dict[str, Any] = {
        "model": name,
        "samples": samples,
        "seeds": list(seeds),
        "steps": {case: steps or conventions.steps_of(CASES[case].task) for case in cases},
        "guidance": {case: _guidance(case, guidance, conventions) for case in cases},
        "noise_scale": {case: conventions.noise_scale_of(CASES[case].task) for case in cases},
        "frames": config.sample_frames,
        "size": config.sample_size,
    }
    version = fingerprint(pipeline, judge)
    parts = Path(folder) / "parts" if folder is not None else None
    total, done = sum(n for *_, n in plan), 0
    records: list[Record] = []
    pictures: list[Picture] = []
    for case, seed, n in plan:
        key = {
            "case": case,
            "version": version,
            "samples": n,
            "steps": settings["steps"][case],
            "guidance": settings["guidance"][case],
            "noise_scale": settings["noise_scale"][case],
            "scenes": scenes_hash(case, case_source(case, config.sample_size, config.sample_frames), seed, n),
        }
        path = parts / f"{case}-seed{seed}.json" if parts else None
        part = _load_part(path, key)
        if part is None:
            part = _run(pipeline, judge, seed, key, batch_size, (done, total), progress)
            if path is not None:
                _save_part(path, key, *part)
        done += n
        if progress is not None:
            progress(done, total, case)
        records += part[0]
        pictures += part[1]
    return Report(settings, records, _over_seeds(pictures))


def split_samples(samples: int, seeds: Sequence[int]) -> dict[int, int]:
    """Divide samples evenly among seeds, with the remainder on the first ones."""
    each, left = divmod(samples, len(seeds))
    return {seed: each + (i < left) for i, seed in enumerate(seeds)}


def fingerprint(pipeline: LayerFlowPipeline, judge: Judge) -> str:
    """Hash weights and settings of model and judge, and the judge's training data."""
    digest = hashlib.sha256(data_version().encode())
    scheduler: Any = pipeline.scheduler
    digest.update(json.dumps(dict(pipeline.transformer.config), sort_keys=True, default=str).encode())
    digest.update(json.dumps(dict(scheduler.config), sort_keys=True, default=str).encode())
    for module in (pipeline.transformer, pipeline.text_encoder, judge):
        _hash_weights(module, digest)
    return digest.hexdigest()


def _hash_weights(module: nn.Module, digest: Any) -> None:
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _check(samples: int, seeds: Sequence[int], batch_size: int, cases: Sequence[str]) -> None:
    if samples < 1 or batch_size < 1:
        raise ValueError(f"samples and batch_size must be at least 1, got {samples} and {batch_size}")
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds must be different numbers from 0 up, at least one, got {list(seeds)}")
    unknown = [name for name in cases if name not in CASES]
    if unknown or not cases:
        raise ValueError(f"cases must be some of {', '.join(CASES)}, got {list(cases)}")
    for name, other in PAIRED.items():
        if name in cases and other not in cases:
            raise ValueError(f"case {name} has no figures without {other}: run both")


def _guidance(case: str, guidance: float | None, conventions: Conventions) -> float:
    if guidance is not None:
        return guidance
    return conventions.guidance if CASES[case].guided else 1.0


# --- one case with one seed -------------------------------------------------------------------------------

Part = tuple[list[Record], list[Picture]]


def _run(
    pipeline: LayerFlowPipeline,
    judge: Judge,
    seed: int,
    key: Mapping[str, Any],
    batch_size: int,
    done_of: tuple[int, int],
    progress: Progress | None,
) -> Part:
    """Run the case of `key` on all its samples of one seed."""
    name, count = str(key["case"]), int(key["samples"])
    config: Any = pipeline.transformer.config
    source = case_source(name, config.sample_size, config.sample_frames)
    records: list[Record] = []
    kept: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []  # bytes, for the pictures
    for start in range(0, count, batch_size):
        indices = range(start, min(start + batch_size, count))
        scenes = [case_scene(name, source, seed, index) for index in indices]
        noise = [noise_generator(name, seed, index) for index in indices]
        videos = sample(pipeline, name, scenes, noise, int(key["steps"]), float(key["guidance"]))
        for index, scene, video in zip(indices, scenes, videos, strict=True):
            records.append(make_record(name, seed, index, scene, video, judge))
            kept.append((_to_bytes(video.clips()), _to_bytes(_true_clips(scene))))
        if progress is not None:
            progress(done_of[0] + len(records), done_of[1], name)
    order = sorted(range(count), key=lambda i: records[i]["score"])
    chosen = {"best": order[-1], "median": order[count // 2], "worst": order[0]}
    pictures = [
        Picture(name, kind, records[i], _from_bytes(kept[i][0]), _from_bytes(kept[i][1])) for kind, i in chosen.items()
    ]
    return records, pictures


def sample(
    pipeline: LayerFlowPipeline,
    name: str,
    scenes: Sequence[Scene],
    noise: list[torch.Generator],
    steps: int,
    guidance: float,
) -> list[LayeredVideo]:
    """Run the model on the scenes of a case."""
    case = CASES[name]
    given = [video for scene in scenes if (video := case.given(scene)) is not None]
    prompts: dict[str, Any] = {}
    if case.prompted:
        prompts = {layer: [scene.captions[layer] for scene in scenes] for layer in LAYERS}
    config: Any = pipeline.transformer.config
    with _without_progress_bar(pipeline):
        output: Any = pipeline(
            **prompts,
            given=given or None,
            num_frames=config.sample_frames,
            height=config.sample_size,
            width=config.sample_size,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=noise,
        )
    return output.videos


@contextmanager
def _without_progress_bar(pipeline: Any) -> Iterator[None]:
    before = dict(getattr(pipeline, "_progress_bar_config", {}))
    pipeline.set_progress_bar_config(**(before | {"disable": True}))
    try:
        yield
    finally:
        pipeline.set_progress_bar_config(**before)


def _over_seeds(pictures: Sequence[Picture]) -> list[Picture]:
    """Return the best of the seeds' best pictures, the worst of their worst and the median of their medians."""
    result = []
    for case in dict.fromkeys(picture.case for picture in pictures):
        for kind in KINDS:
            own = [p for p in pictures if (p.case, p.kind) == (case, kind)]
            own.sort(key=lambda picture: picture.record["score"])
            result.append({"best": own[-1], "median": own[len(own) // 2], "worst": own[0]}[kind])
    return result


# --- parts on disk ----------------------------------------------------------------------------------------


def _save_part(path: Path, key: Mapping[str, Any], records: list[Record], pictures: list[Picture]) -> None:
    """Save pictures before the JSON file, whose presence means that the part is complete."""
    tensors = {}
    for picture in pictures:
        for side, video in (("output", picture.output), ("truth", picture.truth)):
            for clip, value in _to_bytes(video.clips()).items():
                tensors[f"{picture.kind}.{side}.{clip}"] = value
    shown = [{"case": p.case, "kind": p.kind, "record": p.record} for p in pictures]
    path.unlink(missing_ok=True)  # an older part, whose pictures are replaced first
    write_atomically(path.with_suffix(".safetensors"), save(tensors))
    text = json.dumps({"key": key, "records": records, "pictures": shown})
    write_atomically(path, text.encode())


def _load_part(path: Path | None, key: Mapping[str, Any]) -> Part | None:
    """Load a part that was saved with the same key; None if there is none or its key differs."""
    if path is None or not path.is_file() or not path.with_suffix(".safetensors").is_file():
        return None
    content = json.loads(path.read_text())
    if content["key"] != dict(key):
        return None
    tensors = load_file(path.with_suffix(".safetensors"))

    def video(kind: str, side: str) -> LayeredVideo:
        prefix = f"{kind}.{side}."
        return _from_bytes({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})

    pictures = [
        Picture(**entry, output=video(entry["kind"], "output"), truth=video(entry["kind"], "truth"))
        for entry in content["pictures"]
    ]
    return content["records"], pictures


def _true_clips(scene: Scene) -> dict[str, Tensor]:
    return {name: getattr(scene, name) for name in CLIPS}


def _to_bytes(clips: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: (clip.clamp(0, 1) * 255).round().to(torch.uint8).contiguous() for name, clip in clips.items()}


def _from_bytes(clips: Mapping[str, Tensor]) -> LayeredVideo:
    values: dict[str, Any] = {name: clip.float() / 255 for name, clip in clips.items()}
    return LayeredVideo(**values)
