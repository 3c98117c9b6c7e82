"""Cases of an evaluation: the given clips, the prompts and the figures of one sample."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...core.compositing import blend
from ...core.layered_video import LayeredVideo
from ...core.schema import ALPHA, BACKGROUND, BLENDED, CLIPS, FOREGROUND, LAYERS, TASKS
from ...evaluation import metrics
from ...evaluation.baselines import BASELINES
from ..world import MissingPhotographsError, Scene, SceneSource, Split, Variations, captions, find_photographs
from .diversity import measure_diversity, thumbnail
from .judge import GREY, NATURAL, Judge
from .motion import name_motion
from .paraphrases import PARAPHRASES, paraphrased_scene

Record = dict[str, Any]
"""Measurements of one sample, as JSON values."""

STREAM = 40_000
"""Added to a seed of the evaluation to give its stream of scenes, apart from those used elsewhere."""
COVERED = 0.1
"""Alpha from which a see-through foreground counts as present."""


@dataclass(frozen=True)
class Case:
    """One task on one held-out set."""

    task: str
    """A name of `TASKS`, which decides the given clips."""
    split: Split
    """Held-out set of the scenes."""
    prompted: bool
    """Prompts are passed; without them the model sees the given clips alone."""
    guided: bool
    """Classifier-free guidance is on by default."""
    measure: Callable[[Scene, LayeredVideo, Judge], Record]
    """Function that measures one sample; its `score` ranks samples from worst to best."""
    scene: Callable[[SceneSource, int, int, Scene], Scene] | None = None
    """Function that derives another scene from one of the source's, by seed and index."""
    variations: Variations | None = None
    """Variations of the scenes."""

    def given(self, scene: Scene) -> LayeredVideo | None:
        """Return the clips of a scene that are given to the model; None if there are none."""
        names = TASKS[self.task]
        return _true_video(scene, names) if names else None


def measure_decompose(scene: Scene, video: LayeredVideo, judge: Judge) -> Record:
    """Compare a decomposed video and trivial baselines with the true layers."""
    truth = _true_video(scene, CLIPS)
    alpha, background = require_clips(truth, ALPHA, BACKGROUND)
    foreground, predicted_alpha, predicted_background = require_clips(video, FOREGROUND, ALPHA, BACKGROUND)
    (blended,) = require_clips(truth, BLENDED)
    record = _errors(video, truth)
    return record | {
        "score": record["alpha_iou"],
        "sad": metrics.sad(predicted_alpha, alpha),
        "gradient_error": metrics.gradient_error(predicted_alpha, alpha),
        "dtssd": metrics.dtssd(predicted_alpha, alpha),
        "background_flicker": metrics.flicker(predicted_background, background),
        "background_leak": metrics.background_leak(predicted_background, background, alpha),
        "foreground_psnr": metrics.psnr(blend(foreground, predicted_alpha, GREY), blend(scene.foreground, alpha, GREY)),
        "composite_psnr": metrics.composite_psnr(video),
        "baselines": {name: _errors(baseline(blended), truth) for name, baseline in BASELINES.items()},
    }


def measure_see_through(scene: Scene, video: LayeredVideo, judge: Judge) -> Record:
    """Compare a decomposed see-through foreground with the better of two hard masks of the true matte."""
    (predicted,), (alpha,) = require_clips(video, ALPHA), require_clips(_true_video(scene, CLIPS), ALPHA)
    masks = ((alpha >= threshold).to(alpha.dtype) for threshold in (COVERED, 0.5))
    cover = metrics.alpha_iou(predicted, alpha, threshold=COVERED)
    hard = min(metrics.alpha_mae(mask, alpha) for mask in masks)
    return measure_decompose(scene, video, judge) | {"score": cover, "cover_iou": cover, "hard_mask_mae": hard}


def _errors(video: LayeredVideo, truth: LayeredVideo) -> Record:
    alpha, background = require_clips(video, ALPHA, BACKGROUND)
    true_alpha, true_background = require_clips(truth, ALPHA, BACKGROUND)
    squared = metrics.mse(background, true_background)
    return {
        "alpha_iou": metrics.alpha_iou(alpha, true_alpha),
        "alpha_mae": metrics.alpha_mae(alpha, true_alpha),
        "background_mse": squared,
        "background_psnr": metrics.psnr_of(squared),
    }


def measure_generate(scene: Scene, video: LayeredVideo, judge: Judge) -> Record:
    """Measure how well a generated video follows its prompts, how well its layers agree, and its diversity."""
    (blended,) = require_clips(video, BLENDED)
    return (
        measure_prompted(scene, video, judge, layers=(FOREGROUND, BACKGROUND))
        | _leak(scene, video, judge)
        | measure_diversity(scene, blended)
    )


def measure_again(scene: Scene, video: LayeredVideo, judge: Judge) -> Record:
    """Keep the thumbnail of a video generated from the same prompts with another seed."""
    (blended,) = require_clips(video, BLENDED)
    return {"score": 0.0, "thumbnail": thumbnail(blended)}


def _leak(scene: Scene, video: LayeredVideo, judge: Judge) -> Record:
    """Detect a foreground in the background, and in true clips that hold none and one."""
    background, blended = require_clips(_true_video(scene, CLIPS), BACKGROUND, BLENDED)
    return {
        "leak": judge.detects_foreground(*require_clips(video, BACKGROUND)),
        "false_leak": judge.detects_foreground(background),
        "true_leak": judge.detects_foreground(blended),
    }


def measure_object(scene: Scene, video: LayeredVideo, judge: Judge) -> Record:
    """Measure whether a generated video shows the prompted object, regardless of other attributes."""
    record = measure_prompted(scene, video, judge, layers=(FOREGROUND,))
    for key in ("matches", "real_matches"):
        record[key] = {"object": record[key]["object"]}
    return record


def measure_prompted(scene: Scene, video: LayeredVideo, judge: Judge, *, layers: Collection[str]) -> Record:
    """Measure how well generated layers match their prompts, and the same for the true layers."""
    named, score = name_layers(scene, video, judge, layers)
    real, _ = name_layers(scene, _true_video(scene, CLIPS), judge, layers)
    return {
        "score": score,
        "composite_psnr": metrics.composite_psnr(video),
        "named": named,
        "matches": prompt_matches(scene, named),
        "real_matches": prompt_matches(scene, real),
    }


def name_layers(
    scene: Scene, video: LayeredVideo, judge: Judge, layers: Collection[str]
) -> tuple[dict[str, str | None], float]:
    """Return the classes of layers by judge and motion rule, and the log-probability of the prompted ones.

    Raises:
        ValueError: the video lacks a clip of these layers.
    """
    named: dict[str, str | None] = {}
    score = 0.0
    spec = scene.spec
    if FOREGROUND in layers:
        foreground, alpha = require_clips(video, FOREGROUND, ALPHA)
        verdict = judge.name_foreground(foreground, alpha)
        named |= verdict.names | {"motion": name_motion(alpha)}
        score += verdict.of("object", spec.object.name) + verdict.of("colour", spec.colour or NATURAL)
    if BACKGROUND in layers:
        verdict = judge.name_background(*require_clips(video, BACKGROUND))
        named |= {"family": verdict.names["family"], "background_colour": verdict.names["colour"]}
        score += verdict.of("family", spec.family) + verdict.of("colour", spec.background_colour)
    return named, score


def prompt_matches(scene: Scene, named: dict[str, str | None]) -> dict[str, bool]:
    """Compare the named classes with the prompted ones.

    An object's colour counts as `colour` where the prompt names one and as `natural_colour` where it names none;
    `background` needs both family and colour.
    """
    spec = scene.spec
    matches: dict[str, bool] = {}
    if "object" in named:
        matches["object"] = named["object"] == spec.object.name
        matches["colour" if spec.colour else "natural_colour"] = named["colour"] == (spec.colour or NATURAL)
        matches["motion"] = named["motion"] == spec.motion
    if "family" in named:
        matches["family"] = named["family"] == spec.family
        matches[BACKGROUND] = matches["family"] and named["background_colour"] == spec.background_colour
    return matches


CASES: dict[str, Case] = {
    "decompose": Case("decompose", "held_out_combinations", False, False, measure_decompose),
    "decompose-unseen-objects": Case("decompose", "held_out_objects", False, False, measure_decompose),
    "decompose-see-through": Case(
        "decompose", "held_out_combinations", False, False, measure_see_through, variations=Variations(see_through=1.0)
    ),
    "decompose-photographs": Case(
        "decompose", "held_out_combinations", False, False, measure_decompose, variations=Variations(photographs=1.0)
    ),
    "generate": Case("generate", "held_out_combinations", True, True, measure_generate),
    "generate-again": Case("generate", "held_out_combinations", True, True, measure_again),
    "add-background": Case(
        "add-background", "held_out_combinations", True, True, partial(measure_prompted, layers=(BACKGROUND,))
    ),
    "add-foreground": Case(
        "add-foreground", "held_out_combinations", True, True, partial(measure_prompted, layers=(FOREGROUND,))
    ),
    "plain-words": Case(
        "generate", "held_out_combinations", True, True, measure_object, partial(paraphrased_scene, plain=True)
    ),
    "other-words": Case(
        "generate", "held_out_combinations", True, True, measure_object, partial(paraphrased_scene, plain=False)
    ),
}
"""Cases by name, in the order of the evaluation. Cases on one split share their scenes, so that figures compare;
see-through ones differ in the foreground alone, photographs in the background."""
PAIRED = {"generate-again": "generate", "plain-words": "other-words", "other-words": "plain-words"}
"""Cases whose figures need another case."""
PHOTOGRAPHED = "decompose-photographs"
"""The case whose backgrounds come with scikit-image."""


def available_cases() -> list[str]:
    """Return the cases that the installed packages allow."""
    try:
        find_photographs()
    except MissingPhotographsError:
        return [name for name in CASES if name != PHOTOGRAPHED]
    return list(CASES)


def case_source(name: str, size: int, frames: int) -> SceneSource:
    """Return the source of a case's scenes."""
    case = CASES[name]
    return SceneSource(case.split, size, frames, variations=case.variations)


def case_scene(name: str, source: SceneSource, seed: int, index: int) -> Scene:
    """Draw scene number `index` of a case for one seed of the evaluation."""
    scene, derive = source.scene(index, STREAM + seed), CASES[name].scene
    return scene if derive is None else derive(source, seed, index, scene)


def scenes_hash(name: str, source: SceneSource, seed: int, count: int) -> str:
    """Hash the first scenes of a seed: specifications and captions of all, pixels of one."""
    digest = hashlib.sha256()
    for index in range(count):
        spec = source.spec(index, STREAM + seed)
        digest.update(f"{spec}|{captions(spec)}".encode())
    if CASES[name].scene is not None:
        digest.update(repr(PARAPHRASES).encode())
    digest.update(source.scene(0, STREAM + seed, [0]).blended.numpy().tobytes())
    return digest.hexdigest()


def noise_generator(name: str, seed: int, index: int) -> torch.Generator:
    """Return the generator of one sample's noise, the same whatever its batch."""
    digest = hashlib.sha256(f"{name}|{seed}|{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def make_record(name: str, seed: int, index: int, scene: Scene, video: LayeredVideo, judge: Judge) -> Record:
    """Return the record of one sample: its scene, prompts and measurements.

    Raises:
        ValueError: the video lacks a clip.
    """
    case = CASES[name]
    given = case.given(scene)
    clips = video.clips()
    spec = scene.spec
    record: Record = {
        "case": name,
        "seed": seed,
        "index": index,
        "prompts": {layer: scene.captions[layer] for layer in LAYERS} if case.prompted else {},
        "scene": {
            "object": spec.object.name,
            "colour": spec.colour or NATURAL,
            "motion": spec.motion,
            "place": spec.place,
            "family": spec.family,
            "background_colour": spec.background_colour,
            "background_moves": spec.background_moves,
            "opacity": spec.opacity,
            "picture": spec.picture,
        },
    }
    if given is not None:
        record["given_exact"] = all(torch.equal(clips[key], clip) for key, clip in given.clips().items())
    return record | case.measure(scene, video, judge)


def require_clips(video: LayeredVideo, *names: str) -> list[Tensor]:
    """Return some clips of a video.

    Raises:
        ValueError: the video lacks one of them.
    """
    clips = video.clips()
    missing = [name for name in names if name not in clips]
    if missing:
        raise ValueError(f"the {missing[0]} clip is missing: the evaluation needs a model of {', '.join(CLIPS)}")
    return [clips[name] for name in names]


def _true_video(scene: Scene, names: Iterable[str]) -> LayeredVideo:
    """Return clips of a scene, clamped because drawing may overshoot by a rounding error."""
    clips: dict[str, Any] = {name: getattr(scene, name).clamp(0, 1) for name in names}
    return LayeredVideo(**clips)
