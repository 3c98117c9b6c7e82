"""The evaluation: held-out scenes through the pipeline, one record for each sample.

Results are kept after each (trial, seed), so that an evaluation that was stopped goes on where it was.
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
from .figures import Row, ceilings, rows_of
from .judge import Judge, Progress, data_version, load_judge
from .trials import PAIRED, TRIALS, Record, noise_of, record_of, scene_of, scenes_version, source_of

QUICK_SAMPLES = 12
"""Samples of each trial with `quick`."""

KINDS = ("best", "median", "worst")
"""Samples of each trial that are shown, by their score."""


@dataclass
class Picture:
    """A sample to be shown."""

    trial: str
    """A name of `TRIALS`."""
    kind: str
    """One of `KINDS`."""
    record: Record
    """What was measured of it."""
    output: LayeredVideo
    """What the model gave back, in 8 bits."""
    truth: LayeredVideo
    """The real scene; what the prompts were written from."""


@dataclass
class Report:
    """Everything that an evaluation found out."""

    settings: dict[str, Any]
    """What was evaluated, and how."""
    records: list[Record]
    """One for each sample."""
    pictures: list[Picture] = field(default_factory=list)
    """Best, median and worst sample of each trial."""

    def rows(self) -> list[Row]:
        """The table."""
        return rows_of(self.records)

    def to_json(self) -> dict[str, Any]:
        """Settings, table and records as JSON values, without the pictures."""
        rows = [asdict(row) | {"passed": row.passed} for row in self.rows()]
        ceiling = ceilings(self.records)
        return {"settings": self.settings, "rows": rows, "real_clips": ceiling, "records": self.records}


def evaluate(
    pipeline: LayerFlowPipeline,
    *,
    samples: int = 200,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int | None = None,
    guidance: float | None = None,
    batch_size: int = 4,
    quick: bool = False,
    trials: Sequence[str] = tuple(TRIALS),
    judge: Judge | None = None,
    folder: str | Path | None = None,
    name: str = "",
    progress: Progress | None = None,
) -> Report:
    """Measure a model on held-out scenes.

    Args:
        pipeline: the model, all four clips in its layout, square frames.
        samples: of each trial over all seeds together: 200 on three seeds are 67, 67 and 66.
        seeds: of the scenes and of the noise.
        steps: denoising steps; None: the pipeline's default.
        guidance: guidance scale of every trial; None: the pipeline's default where there are prompts, and 1
            where a clip is decomposed, which takes none.
        batch_size: samples denoised together; it changes time and memory, not what is drawn.
        quick: only the first seed and `QUICK_SAMPLES` samples of each trial, to see that all works.
        trials: names of `TRIALS` to run.
        judge: None: the one from the cache, trained first when it is not there.
        folder: where results are kept as they come, and looked for first; None: nowhere.
        name: of the model, for the report.
        progress: called as (done, total, what).

    Raises:
        ValueError: an argument is out of its range, or the model has an autoencoder.
        MissingFontError: the emoji font is not installed.
    """
    if quick:
        samples, seeds = min(samples, QUICK_SAMPLES), seeds[:1]
    _check(samples, seeds, batch_size, trials)
    if pipeline.vae is not None:
        raise ValueError(
            f"{name} works on latents, and the drawn scenes are for models of their own size in pixels; measure it on "
            "videos of yours with --truth"
        )
    plan = [(trial, seed, n) for trial in trials for seed, n in share_out(samples, seeds).items() if n]
    judge = judge or load_judge(progress=progress)
    config, conventions = pipeline.transformer.config, pipeline.transformer.conventions
    steps = conventions.steps if steps is None else steps
    settings: dict[str, Any] = {
        "model": name,
        "samples": samples,
        "seeds": list(seeds),
        "steps": steps,
        "guidance": {t: _guidance(t, guidance, conventions) for t in trials},
        "noise_scale": {t: conventions.noise_scale_of(TRIALS[t].task) for t in trials},
        "frames": config.sample_frames,
        "size": config.sample_size,
    }
    version = fingerprint(pipeline, judge)
    parts = Path(folder) / "parts" if folder is not None else None
    total, done = sum(n for *_, n in plan), 0
    records: list[Record] = []
    pictures: list[Picture] = []
    for trial, seed, n in plan:
        key = {
            "version": version, "samples": n, "steps": steps, "guidance": _guidance(trial, guidance, conventions),
            "noise_scale": conventions.noise_scale_of(TRIALS[trial].task),
            "scenes": scenes_version(trial, source_of(trial, config.sample_size, config.sample_frames), seed, n),
        }  # fmt: skip
        path = parts / f"{trial}-seed{seed}.json" if parts else None
        part = _load_part(path, key)
        if part is None:
            part = _run(pipeline, judge, trial, seed, n, key, batch_size, (done, total), progress)
            if path is not None:
                _save_part(path, key, *part)
        done += n
        if progress is not None:
            progress(done, total, trial)
        records += part[0]
        pictures += part[1]
    return Report(settings, records, _of_all_seeds(pictures))


def share_out(samples: int, seeds: Sequence[int]) -> dict[int, int]:
    """Samples of each seed, as even as can be, the first ones getting what is left over."""
    each, left = divmod(samples, len(seeds))
    return {seed: each + (i < left) for i, seed in enumerate(seeds)}


def fingerprint(pipeline: LayerFlowPipeline, judge: Judge) -> str:
    """Hash of the weights and settings of model and judge, and of what the judge was trained on."""
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


def _check(samples: int, seeds: Sequence[int], batch_size: int, trials: Sequence[str]) -> None:
    if samples < 1 or batch_size < 1:
        raise ValueError(f"samples and batch_size must be at least 1, got {samples} and {batch_size}")
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds must be different numbers from 0 up, at least one, got {list(seeds)}")
    unknown = [name for name in trials if name not in TRIALS]
    if unknown or not trials:
        raise ValueError(f"trials must be some of {', '.join(TRIALS)}, got {list(trials)}")
    for name, other in PAIRED.items():
        if name in trials and other not in trials:
            raise ValueError(f"trial {name} tells nothing without {other}: run both")


def _guidance(trial: str, guidance: float | None, conventions: Conventions) -> float:
    if guidance is not None:
        return guidance
    return conventions.guidance if TRIALS[trial].guided else 1.0


# --- one trial with one seed ------------------------------------------------------------------------------

Part = tuple[list[Record], list[Picture]]


def _run(
    pipeline: LayerFlowPipeline,
    judge: Judge,
    name: str,
    seed: int,
    count: int,
    key: Mapping[str, Any],
    batch_size: int,
    done_of: tuple[int, int],
    progress: Progress | None,
) -> Part:
    config: Any = pipeline.transformer.config
    source = source_of(name, config.sample_size, config.sample_frames)
    records: list[Record] = []
    kept: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []  # bytes, for the pictures
    for start in range(0, count, batch_size):
        indices = range(start, min(start + batch_size, count))
        scenes = [scene_of(name, source, seed, index) for index in indices]
        noise = [noise_of(name, seed, index) for index in indices]
        videos = sample(pipeline, name, scenes, noise, int(key["steps"]), float(key["guidance"]))
        for index, scene, video in zip(indices, scenes, videos, strict=True):
            records.append(record_of(name, seed, index, scene, video, judge))
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
    """The model's answer to each scene in a trial."""
    trial = TRIALS[name]
    given = [video for scene in scenes if (video := trial.given(scene)) is not None]
    prompts: dict[str, Any] = {}
    if trial.prompted:
        prompts = {layer: [scene.captions[layer] for scene in scenes] for layer in LAYERS}
    config: Any = pipeline.transformer.config
    with _without_bar(pipeline):
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
def _without_bar(pipeline: Any) -> Iterator[None]:
    before = dict(getattr(pipeline, "_progress_bar_config", {}))
    pipeline.set_progress_bar_config(**(before | {"disable": True}))
    try:
        yield
    finally:
        pipeline.set_progress_bar_config(**before)


def _of_all_seeds(pictures: Sequence[Picture]) -> list[Picture]:
    """Of the seeds' best the best, of their worst the worst, of their medians the middle one."""
    result = []
    for trial in dict.fromkeys(picture.trial for picture in pictures):
        for kind in KINDS:
            own = [p for p in pictures if (p.trial, p.kind) == (trial, kind)]
            own.sort(key=lambda picture: picture.record["score"])
            result.append({"best": own[-1], "median": own[len(own) // 2], "worst": own[0]}[kind])
    return result


# --- parts on disk ----------------------------------------------------------------------------------------


def _save_part(path: Path, key: Mapping[str, Any], records: list[Record], pictures: list[Picture]) -> None:
    """Pictures first: where the JSON file is, the part is whole."""
    tensors = {}
    for picture in pictures:
        for side, video in (("output", picture.output), ("truth", picture.truth)):
            for clip, value in _to_bytes(video.clips()).items():
                tensors[f"{picture.kind}.{side}.{clip}"] = value
    shown = [{"trial": p.trial, "kind": p.kind, "record": p.record} for p in pictures]
    path.unlink(missing_ok=True)  # an older part, whose pictures are replaced first
    write_atomically(path.with_suffix(".safetensors"), save(tensors))
    text = json.dumps({"key": key, "records": records, "pictures": shown})
    write_atomically(path, text.encode())


def _load_part(path: Path | None, key: Mapping[str, Any]) -> Part | None:
    """A part that was saved with the same key; None where there is none, or one of something else."""
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
