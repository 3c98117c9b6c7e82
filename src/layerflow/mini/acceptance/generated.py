"""Generation measured on the things of an atlas: objects by name, their own motion, styles, two prompts, given frames.

Letters in shape comments: F frames, H, W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.compositing import blend
from ...core.given import Given
from ...core.layered_video import LayeredVideo
from ...core.schema import ALPHA, FOREGROUND, foreground_count
from ...evaluation.metrics import mse, psnr_of
from ...pipeline import LayerFlowPipeline
from ..world.atlas import STYLES, Atlas, Background, Sprite
from ..world.nouns import with_article
from .cases import Record, noise_generator
from .diversity import thumbnail, thumbnail_distance
from .evaluate import split_samples
from .figures import Measure, Row, getter, make_row, mean_of, share_of
from .moving import Cutout, move
from .things import NONE, RATE, ThingsJudge, class_of

STREAM = 70_000
"""Added to a seed of the evaluation to give its stream of scenes, apart from those used elsewhere."""
GENERATED: dict[str, int] = {
    "objects": 420,
    "styles": 60,
    "two-prompts": 60,
    "animate": 60,
    "inbetween": 60,
}
"""Cases by name, and their samples over all seeds. `objects` prompts for another thing with each sample."""
LOOKS = 3
"""Least styles of a thing whose looks are compared."""

Progress = Callable[[int, int, str], None]
"""Called as (done, total, label)."""


@dataclass(frozen=True)
class Prompted:
    """A prompted scene: sprites nearest first, and the photograph behind them."""

    sprites: tuple[Sprite, ...]
    background: Background
    style: str = ""
    """Style that the prompt names; empty for none."""

    @property
    def prompts(self) -> list[str]:
        """Prompts of the foregrounds."""
        if self.style:
            return [f"{STYLES[self.style][0]} {with_article(sprite.name)}" for sprite in self.sprites]
        return [sprite.phrase() for sprite in self.sprites]


@dataclass(frozen=True)
class Made:
    """A generated video and the true scene beside it, for a sheet."""

    case: str
    prompts: list[str]
    video: LayeredVideo
    truth: LayeredVideo


class Prompts:
    """Deterministic choice of scenes from an atlas."""

    def __init__(self, atlas: Atlas, *, held_out: bool) -> None:
        self.atlas = atlas
        self.backgrounds = [one for one in atlas.backgrounds if one.kind == "photograph" and not one.held_out]
        self.by_class: dict[str, list[Sprite]] = {}
        for sprite in atlas.sprites:
            if sprite.held_out == held_out:
                self.by_class.setdefault(class_of(sprite), []).append(sprite)
        # In an order that does not depend on the alphabet, so that any number of them is a fair choice.
        self.names = sorted(self.by_class, key=lambda name: hashlib.sha256(name.encode()).digest())

    def moving(self) -> list[str]:
        """Return the classes with a sprite that moves by itself."""
        return [name for name in self.names if any(sprite.moves for sprite in self.by_class[name])]

    def sprite_of(self, name: str, rng: np.random.Generator) -> Sprite:
        """Return a sprite of a class: one that moves, if any does."""
        own = self.by_class[name]
        own = [sprite for sprite in own if sprite.moves] or own
        return own[int(rng.integers(len(own)))]

    def background(self, rng: np.random.Generator) -> Background:
        """Return a photograph."""
        return self.backgrounds[int(rng.integers(len(self.backgrounds)))]

    def render(self, scene: Prompted, rng: np.random.Generator, size: int, frames: int) -> LayeredVideo:
        """Draw a true scene."""
        cutouts = []
        for sprite in scene.sprites:
            phases = torch.from_numpy(np.array(self.atlas.phases(sprite))).permute(0, 3, 1, 2).float() / 255
            cutouts.append(Cutout(sprite.name, phases, float(rng.uniform(*RATE))))
        picture = torch.from_numpy(np.array(self.atlas.background(scene.background)[0])).permute(2, 0, 1).float() / 255
        return move(cutouts, picture, rng, size, frames)


# --- the cases ----------------------------------------------------------------------------------------------


def measure_generated(
    pipeline: LayerFlowPipeline,
    atlas: Atlas,
    judge: ThingsJudge,
    cases: Sequence[str],
    *,
    samples: int | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int | None = None,
    batch_size: int = 4,
    shown: int = 6,
    progress: Progress | None = None,
) -> tuple[list[Record], list[Made]]:
    """Generate scenes with a model at its own size and frames and default guidance, and measure them.

    Args:
        pipeline: the model.
        atlas: sprites and photographs.
        judge: judge of things and motion of this atlas.
        cases: names of `GENERATED`; `two-prompts` is left out for a model of one foreground.
        samples: samples of each case over all seeds; the case's own number if None.
        seeds: seeds of scenes and noise.
        steps: denoising steps; the model's default if None.
        batch_size: scenes that are generated together; it does not change the results.
        shown: samples of the first seed to keep for a sheet.
        progress: callback.

    Returns:
        Records of all samples, and the kept results.
    """
    config: Any = pipeline.transformer.config
    records: list[Record] = []
    kept: list[Made] = []
    for case in cases:
        if case == "two-prompts" and foreground_count(config.clips) < 2:
            continue
        counts = split_samples(samples or GENERATED[case], seeds)
        prompts = Prompts(atlas, held_out=case in ("animate", "inbetween"))
        done, place = 0, 0
        for seed, count in counts.items():
            for start in range(0, count, batch_size):
                numbers = range(start, min(start + batch_size, count))
                rngs = [np.random.default_rng([STREAM + seed, list(GENERATED).index(case), n]) for n in numbers]
                scenes = [_choose(case, prompts, place + n, rng) for n, rng in zip(numbers, rngs, strict=True)]
                true = [
                    prompts.render(scene, rng, config.sample_size, config.sample_frames)
                    for scene, rng in zip(scenes, rngs, strict=True)
                ]
                videos = []
                for again in range(2 if case == "styles" else 1):
                    noise = [noise_generator(f"{case}-{again}", seed, number) for number in numbers]
                    videos.append(_generate(pipeline, case, scenes, true, noise, steps))
                for at, (number, scene, truth, rng) in enumerate(zip(numbers, scenes, true, rngs, strict=True)):
                    record = {"case": case, "seed": seed, "index": number, "prompts": scene.prompts}
                    own = [run[at] for run in videos]
                    other = prompts.render(scene, rng, config.sample_size, config.sample_frames)
                    records.append(record | _measure(case, scene, own, truth, other, judge))
                    if seed == seeds[0] and number < shown:
                        kept.append(Made(case, scene.prompts, own[0], truth))
                done += len(numbers)
                if progress is not None:
                    progress(done, sum(counts.values()), case)
            place += count
    return records, kept


def _choose(case: str, prompts: Prompts, number: int, rng: np.random.Generator) -> Prompted:
    """Choose what a sample prompts for."""
    background = prompts.background(rng)
    if case == "objects":
        return Prompted((prompts.sprite_of(prompts.names[number % len(prompts.names)], rng),), background)
    if case == "two-prompts":
        chosen = rng.choice(len(prompts.names), 2, replace=False)
        return Prompted(tuple(prompts.sprite_of(prompts.names[int(n)], rng) for n in chosen), background)
    if case == "styles":
        several = [name for name in prompts.names if len({one.style for one in prompts.by_class[name]}) >= LOOKS]
        own = prompts.by_class[(several or prompts.names)[number % len(several or prompts.names)]]
        sprite = own[int(rng.integers(len(own)))]
        return Prompted((sprite,), background, sprite.style)
    moving = prompts.moving()
    return Prompted((prompts.sprite_of(moving[number % len(moving)], rng),), background)


def _generate(
    pipeline: LayerFlowPipeline,
    case: str,
    scenes: Sequence[Prompted],
    true: Sequence[LayeredVideo],
    noise: list[torch.Generator],
    steps: int | None,
) -> list[LayeredVideo]:
    """Generate scenes from their prompts and, for two cases, from frames of the true foreground."""
    given = None
    if case in ("animate", "inbetween"):
        frames = {"animate": (0,), "inbetween": (0, true[0].frames - 1)}[case]
        given = [
            Given(LayeredVideo(video.foreground, video.alpha), dict.fromkeys((FOREGROUND, ALPHA), frames))
            for video in true
        ]
    by_layer = [[scene.prompts[n] for scene in scenes] for n in range(len(scenes[0].sprites))]
    config: Any = pipeline.transformer.config
    output: Any = pipeline(
        foregrounds=by_layer,
        background=[scene.background.caption for scene in scenes],
        given=given,
        num_frames=config.sample_frames,
        height=config.sample_size,
        width=config.sample_size,
        num_inference_steps=steps,
        generator=noise,
    )
    return output.videos


def _measure(
    case: str,
    scene: Prompted,
    videos: Sequence[LayeredVideo],
    truth: LayeredVideo,
    other: LayeredVideo,
    judge: ThingsJudge,
) -> Record:
    """Measure the videos of one scene. `other` is another true scene of the same prompts."""
    video, name = videos[0], class_of(scene.sprites[0])
    if case == "inbetween":
        return _inbetween(video, truth)
    if case == "animate":
        return {
            "first_named": judge.same(judge.name(*_ends(truth, 0))[0], name),
            "matches": judge.same(judge.name(*_ends(video, -1))[0], judge.name(*_ends(video, 0))[0]),
            "real_matches": judge.same(judge.name(*_ends(truth, -1))[0], judge.name(*_ends(truth, 0))[0]),
        }
    if case == "two-prompts":
        return {
            "matches": _all_named(judge, scene, video),
            "real_matches": _all_named(judge, scene, truth),
        }
    own, real = judge.name(*_nearest(video)), judge.name(*_nearest(truth))
    record: Record = {
        "named": own[0],
        "matches": judge.same(own[0], name),
        "real_matches": judge.same(real[0], name),
    }
    if case == "styles":
        levels = [thumbnail(_over_grey(one)) for one in (*videos, truth, other)]
        return record | {
            "style": own[1] == scene.style,
            "real_style": real[1] == scene.style,
            "distance": thumbnail_distance(*levels[:2]),
            "real_distance": thumbnail_distance(*levels[2:]),
        }
    if scene.sprites[0].moves:
        frozen = [clip[:1].expand_as(clip) for clip in _nearest(truth)]
        record |= {
            "motion": judge.name_motion(*_nearest(video)) == name,
            "moves": judge.name_motion(*_nearest(video)) != NONE,
            "real_motion": judge.name_motion(*_nearest(truth)) == name,
            "frozen_motion": judge.name_motion(*frozen) == name,
        }
    return record


def _nearest(video: LayeredVideo) -> tuple[Tensor, Tensor]:
    """Return colour and alpha of the nearest foreground."""
    assert video.foreground is not None
    assert video.alpha is not None
    return video.foreground, video.alpha


def _ends(video: LayeredVideo, frame: int) -> tuple[Tensor, Tensor]:
    """Return one frame of colour and alpha of the nearest foreground, each with its axis of frames."""
    colour, alpha = _nearest(video)
    frame %= len(alpha)
    return colour[frame : frame + 1], alpha[frame : frame + 1]


def _over_grey(video: LayeredVideo) -> Tensor:
    colour, alpha = _nearest(video)
    return blend(colour, alpha, torch.tensor(0.5))


def _all_named(judge: ThingsJudge, scene: Prompted, video: LayeredVideo) -> bool:
    """Return whether the judge names all prompted things in the foregrounds, in any order."""
    named = [
        judge.name(one.colour, one.alpha)[0]
        for one in video.foregrounds
        if one.colour is not None and one.alpha is not None
    ]
    wanted = [class_of(sprite) for sprite in scene.sprites]
    orders = (wanted, wanted[::-1])
    return len(named) == len(wanted) and any(all(map(judge.same, named, order)) for order in orders)


def _inbetween(video: LayeredVideo, truth: LayeredVideo) -> Record:
    """Compare the frames between the given ends with the truth, and the same for cross-fading."""
    (_, own), (_, alpha) = _nearest(video), _nearest(truth)
    time = torch.linspace(0, 1, len(alpha)).view(-1, 1, 1, 1)
    faded = torch.lerp(alpha[:1], alpha[-1:], time)
    between = slice(1, len(alpha) - 1)
    return {"alpha_mse": mse(own[between], alpha[between]), "faded_mse": mse(faded[between], alpha[between])}


# --- figures ------------------------------------------------------------------------------------------------


def generated_rows(records: Sequence[Record]) -> list[Row]:
    """Return the rows of the table."""
    rows: list[Row] = []
    by_case: dict[str, list[Record]] = {}
    for record in records:
        by_case.setdefault(record["case"], []).append(record)
    for case in GENERATED:
        if case in by_case:
            rows += _ROWS[case](case, by_case[case])
    return rows


def _objects(case: str, records: Sequence[Record]) -> list[Row]:
    names = len({record["prompts"][0] for record in records})
    figure = f"objects named, of {names}: share of the judge's accuracy on true clips"
    rows = [_relative(case, figure, records, "matches", "real_matches", bar=75.0)]
    moving = [record for record in records if "motion" in record]
    if moving:
        true, frozen = (share_of(getter(key))(moving) for key in ("real_motion", "frozen_motion"))
        reference = f"true clips: {true:.1f} %; frozen ones: {frozen:.1f} %"
        figure = "own motion of the prompted object"
        rows.append(make_row(case, figure, moving, share_of(getter("motion")), "%", reference, bar=70))
        figure = "any own motion"
        rows.append(make_row(case, figure, moving, share_of(getter("moves")), "%"))
    return rows


def _styles(case: str, records: Sequence[Record]) -> list[Row]:
    figure = "style named by the prompt: share of the judge's accuracy on true clips"
    rows = [_relative(case, figure, records, "style", "real_style")]
    real = mean_of(getter("real_distance"))(records) or 1.0
    ratio = Measure(getter("distance"), lambda mean: mean / real)
    figure = "distance between two seeds relative to two true clips"
    return [*rows, make_row(case, figure, records, ratio, "", f"{real:.1f} levels", bar=0.85)]


def _two(case: str, records: Sequence[Record]) -> list[Row]:
    reference = f"true clips: {share_of(getter('real_matches'))(records):.1f} %"
    return [make_row(case, "both objects named", records, share_of(getter("matches")), "%", reference, bar=60)]


def _animate(case: str, records: Sequence[Record]) -> list[Row]:
    true, first = (share_of(getter(key))(records) for key in ("real_matches", "first_named"))
    reference = f"true clips: {true:.1f} %; the first frame named rightly: {first:.1f} %"
    figure = "held-out object of the last frame named as that of the first"
    return [make_row(case, figure, records, share_of(getter("matches")), "%", reference, bar=90)]


def _between(case: str, records: Sequence[Record]) -> list[Row]:
    faded = psnr_of(mean_of(getter("faded_mse"))(records) or 0.0)
    gain = Measure(getter("alpha_mse"), lambda mean: psnr_of(mean) - faded)
    figure = "alpha PSNR between given ends above cross-fading"
    return [make_row(case, figure, records, gain, "dB", f"cross-fading: {faded:.1f} dB", bar=3)]


def _relative(
    case: str, figure: str, records: Sequence[Record], key: str, real_key: str, bar: float | None = None
) -> Row:
    """Return a row of a share as a share of that of true clips."""
    real = mean_of(getter(real_key))(records) or 0.0
    measure = Measure(getter(key), lambda mean: 100 * mean / real if real else 0.0)
    return make_row(case, figure, records, measure, "%", f"true clips: {100 * real:.1f} %", bar=bar)


_ROWS = {"objects": _objects, "styles": _styles, "two-prompts": _two, "animate": _animate, "inbetween": _between}

__all__ = ["GENERATED", "Made", "generated_rows", "measure_generated"]
