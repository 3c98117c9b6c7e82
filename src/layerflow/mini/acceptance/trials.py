"""The trials of an evaluation: what is given, what is asked, and what is measured of one sample."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...core.compositing import blend
from ...core.layered_video import LayeredVideo
from ...core.schema import CLIPS, LAYERS, TASKS
from ...evaluation import metrics
from ...evaluation.baselines import BASELINES
from ..world import MissingPhotographsError, Scene, SceneSource, Split, Variations, captions, find_photographs
from .judge import NATURAL, Judge
from .motion import name_motion
from .variety import thumbnail, variety
from .words import PARAPHRASES, scene_in_words

Record = dict[str, Any]
"""What is known of one sample: JSON values only."""

STREAM = 40_000
"""Added to a seed of the evaluation to give its stream of scenes, apart from those used elsewhere."""


@dataclass(frozen=True)
class Trial:
    """One task on one held-out set."""

    task: str
    """A name of `TASKS`: which clips are given."""
    split: Split
    """Where its scenes come from."""
    prompted: bool
    """False: nothing but the given clips tells the model what to make."""
    guided: bool
    """Whether classifier-free guidance is on unless asked otherwise."""
    measure: Callable[[Scene, LayeredVideo, Judge], Record]
    """Figures of one sample; `score` ranks samples from worst to best."""
    scene: Callable[[SceneSource, int, int, Scene], Scene] | None = None
    """Makes another scene of the source's, by seed and index."""
    variations: Variations | None = None
    """Of its scenes."""

    def given(self, scene: Scene) -> LayeredVideo | None:
        """The clips of a scene that the model is shown, or None when it is shown none."""
        names = TASKS[self.task]
        return _video(scene, names) if names else None


def measure_decompose(scene: Scene, video: LayeredVideo, judge: Judge) -> Record:
    """A decomposed clip against the true layers, and the trivial baselines on the same clip."""
    alpha, background = _clip(scene, "alpha"), _clip(scene, "background")
    record = _errors(video, alpha, background)
    out_alpha, out_background = _need(video, "alpha"), _need(video, "background")
    return record | {
        "score": record["alpha_iou"],
        "sad": metrics.sad(out_alpha, alpha),
        "gradient_error": metrics.gradient_error(out_alpha, alpha),
        "dtssd": metrics.dtssd(out_alpha, alpha),
        "background_flicker": metrics.flicker(out_background, background),
        "background_leak": metrics.background_leak(out_background, background, alpha),
        "foreground_psnr": metrics.psnr(_over_grey(video), blend(scene.foreground, alpha, torch.tensor(0.5))),
        "composite_psnr": metrics.composite_psnr(video),
        "baselines": {
            name: _errors(baseline(_clip(scene, "blended")), alpha, background) for name, baseline in BASELINES.items()
        },
    }


COVERED = 0.1
"""Alpha from which a see-through foreground counts as being there."""


def measure_see_through(scene: Scene, video: LayeredVideo, judge: Judge) -> Record:
    """A clip with a see-through foreground taken apart, and the better of two hard masks made from the true matte."""
    record, alpha = measure_decompose(scene, video, judge), _clip(scene, "alpha")
    masks = ((alpha >= threshold).to(alpha.dtype) for threshold in (COVERED, 0.5))
    cover = metrics.alpha_iou(_need(video, "alpha"), alpha, threshold=COVERED)
    hard = min(metrics.alpha_mae(mask, alpha) for mask in masks)
    return record | {"score": cover, "cover_iou": cover, "hard_mask_mae": hard}


def _errors(video: LayeredVideo, alpha: Tensor, background: Tensor) -> Record:
    squared = metrics.mse(_need(video, "background"), background)
    return {
        "alpha_iou": metrics.alpha_iou(_need(video, "alpha"), alpha),
        "alpha_mae": metrics.alpha_mae(_need(video, "alpha"), alpha),
        "background_mse": squared,
        "background_psnr": metrics.psnr_of(squared),
    }


def measure_generate(scene: Scene, video: LayeredVideo, judge: Judge) -> Record:
    """Whether a generated clip shows what the prompts name, and whether its layers agree."""
    return (
        _judged(scene, video, judge, ("foreground", "background"))
        | _leak(scene, video, judge)
        | variety(scene, _need(video, "blended"))
    )


def measure_again(scene: Scene, video: LayeredVideo, judge: Judge) -> Record:
    """What another seed makes of the same prompts."""
    return {"score": 0.0, "thumbnail": thumbnail(_need(video, "blended"))}


def _leak(scene: Scene, video: LayeredVideo, judge: Judge) -> Record:
    """Whether a foreground is found in the background, and in what is known to have none and one."""
    return {
        "leak": judge.finds_foreground(_need(video, "background")),
        "false_leak": judge.finds_foreground(_clip(scene, "background")),
        "true_leak": judge.finds_foreground(_clip(scene, "blended")),
    }


def measure_background(scene: Scene, video: LayeredVideo, judge: Judge) -> Record:
    """Whether the background generated behind a given foreground is the one that the prompt names."""
    return _judged(scene, video, judge, ("background",))


def measure_foreground(scene: Scene, video: LayeredVideo, judge: Judge) -> Record:
    """Whether the foreground generated on a given background is the one that the prompt names."""
    return _judged(scene, video, judge, ("foreground",))


def measure_object(scene: Scene, video: LayeredVideo, judge: Judge) -> Record:
    """Whether a generated clip shows the object that the prompt means, whatever else it says."""
    record = _judged(scene, video, judge, ("foreground",))
    for key in ("found", "real_found"):
        record[key] = {"object": record[key]["object"]}
    return record


def _judged(scene: Scene, video: LayeredVideo, judge: Judge, layers: tuple[str, ...]) -> Record:
    named, score = name_layers(scene, video, judge, layers)
    real, _ = name_layers(scene, _video(scene, CLIPS), judge, layers)
    return {
        "score": score,
        "composite_psnr": metrics.composite_psnr(video),
        "named": named,
        "found": found(scene, named),
        "real_found": found(scene, real),
    }


def name_layers(
    scene: Scene, video: LayeredVideo, judge: Judge, layers: tuple[str, ...]
) -> tuple[dict[str, str | None], float]:
    """What judge and rule name in a clip, and the log-probability of what the prompts asked for."""
    named: dict[str, str | None] = {}
    score = 0.0
    spec = scene.spec
    if "foreground" in layers:
        verdict = judge.name_foreground(_need(video, "foreground"), _need(video, "alpha"))
        named |= verdict.names | {"motion": name_motion(_need(video, "alpha"))}
        score += verdict.of("object", spec.object.name) + verdict.of("colour", spec.colour or NATURAL)
    if "background" in layers:
        verdict = judge.name_background(_need(video, "background"))
        named |= {"family": verdict.names["family"], "background_colour": verdict.names["colour"]}
        score += verdict.of("family", spec.family) + verdict.of("colour", spec.background_colour)
    return named, score


def found(scene: Scene, named: dict[str, str | None]) -> dict[str, bool]:
    """Which of the named things are those asked for.

    An object's colour is `colour` where the prompt names one and `own_colour` where it names none;
    `background` wants family and colour both.
    """
    spec = scene.spec
    result: dict[str, bool] = {}
    if "object" in named:
        result["object"] = named["object"] == spec.object.name
        result["colour" if spec.colour else "own_colour"] = named["colour"] == (spec.colour or NATURAL)
        result["motion"] = named["motion"] == spec.motion
    if "family" in named:
        result["family"] = named["family"] == spec.family
        result["background"] = result["family"] and named["background_colour"] == spec.background_colour
    return result


TRIALS: dict[str, Trial] = {
    "decompose": Trial("decompose", "held_out_combinations", False, False, measure_decompose),
    "decompose-unseen-objects": Trial("decompose", "held_out_objects", False, False, measure_decompose),
    "decompose-see-through": Trial(
        "decompose", "held_out_combinations", False, False, measure_see_through, variations=Variations(see_through=1.0)
    ),
    "decompose-photographs": Trial(
        "decompose", "held_out_combinations", False, False, measure_decompose, variations=Variations(photographs=1.0)
    ),
    "generate": Trial("generate", "held_out_combinations", True, True, measure_generate),
    "generate-again": Trial("generate", "held_out_combinations", True, True, measure_again),
    "add-background": Trial("add-background", "held_out_combinations", True, True, measure_background),
    "add-foreground": Trial("add-foreground", "held_out_combinations", True, True, measure_foreground),
    "plain-words": Trial(
        "generate", "held_out_combinations", True, True, measure_object, partial(scene_in_words, plain=True)
    ),
    "other-words": Trial(
        "generate", "held_out_combinations", True, True, measure_object, partial(scene_in_words, plain=False)
    ),
}
"""Name to trial, in the order they are run. Those on one split use the same scenes, so that they compare; see-through
ones differ in the foreground alone, photographs in the background."""
PAIRED = {"generate-again": "generate", "plain-words": "other-words", "other-words": "plain-words"}
"""Trials that tell nothing without another."""
PHOTOGRAPHED = "decompose-photographs"
"""The trial whose backgrounds come with scikit-image."""


def trials_here() -> list[str]:
    """The trials that can be run with what is installed."""
    try:
        find_photographs()
    except MissingPhotographsError:
        return [name for name in TRIALS if name != PHOTOGRAPHED]
    return list(TRIALS)


def source_of(name: str, size: int, frames: int) -> SceneSource:
    """Where a trial's scenes come from."""
    trial = TRIALS[name]
    return SceneSource(trial.split, size, frames, variations=trial.variations)


def scene_of(name: str, source: SceneSource, seed: int, index: int) -> Scene:
    """Scene number `index` of a seed of the evaluation, as a trial wants it."""
    scene, make = source.scene(index, STREAM + seed), TRIALS[name].scene
    return scene if make is None else make(source, seed, index, scene)


def scenes_version(name: str, source: SceneSource, seed: int, count: int) -> str:
    """Hash of the first scenes of a seed: what all of them show and say, and the pixels of one."""
    digest = hashlib.sha256()
    for index in range(count):
        spec = source.spec(index, STREAM + seed)
        digest.update(f"{spec}|{captions(spec)}".encode())
    if TRIALS[name].scene is not None:
        digest.update(repr(PARAPHRASES).encode())
    digest.update(source.scene(0, STREAM + seed, [0]).blended.numpy().tobytes())
    return digest.hexdigest()


def noise_of(name: str, seed: int, index: int) -> torch.Generator:
    """The noise of one sample: the same whatever the batch it is in."""
    digest = hashlib.sha256(f"{name}|{seed}|{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def record_of(name: str, seed: int, index: int, scene: Scene, video: LayeredVideo, judge: Judge) -> Record:
    """Everything that is kept of one sample."""
    trial = TRIALS[name]
    given = trial.given(scene)
    clips = video.clips()
    spec = scene.spec
    record: Record = {
        "trial": name,
        "seed": seed,
        "index": index,
        "prompts": {layer: scene.captions[layer] for layer in LAYERS} if trial.prompted else {},
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
    return record | trial.measure(scene, video, judge)


def _clip(scene: Scene, name: str) -> Tensor:
    """A clip of a scene, held to [0, 1]: drawing may overshoot by a rounding error."""
    return getattr(scene, name).clamp(0, 1)


def _video(scene: Scene, names: Iterable[str]) -> LayeredVideo:
    clips: dict[str, Any] = {name: _clip(scene, name) for name in names}
    return LayeredVideo(**clips)


def _need(video: LayeredVideo, name: str) -> Tensor:
    clip = video.clips().get(name)
    if clip is None:
        raise ValueError(f"the {name} clip is missing: the evaluation wants a model of all four clips")
    return clip


def _over_grey(video: LayeredVideo) -> Tensor:
    return blend(_need(video, "foreground"), _need(video, "alpha"), torch.tensor(0.5))
