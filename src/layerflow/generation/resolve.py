"""Defaults of a request, resolved from its given clips, the model and the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..core.errors import FieldError, UserError
from ..core.given import Given
from ..core.layered_video import LayeredVideo
from ..core.schema import ALL_CLIPS, BLENDED, DEFAULT_FPS
from ..models.codec import check_drawn_size
from ..models.scene import check_task, foregrounds_of, task_of
from ..models.text import blended_prompt
from .givens import frames_in_words, listed
from .hints import clicks_of, known_frames, known_pixels
from .inputs import Source, check_exists, common_rate, cut, fit, frame_count, gather, hold, read_sources
from .load import ModelFacts
from .request import Request


@dataclass(frozen=True)
class Resolved:
    """A request with all defaults resolved, and its given clips."""

    request: Request
    """None only in `guidance_scale_2`, which follows `guidance`, and in `fps` where given clips have their own."""
    blended_written: bool
    """True if the prompt of the blended layer was written from the others."""
    sources: tuple[Source, ...]
    """Given clips and trimaps."""
    given: Given | None
    """All given frames and hints, at the size and frame count of the result."""
    size: tuple[int, int]
    """Height and width of the result."""
    frames: int
    steps: int
    upscale: int
    fps: float
    task: str
    needs_mattes: bool = False
    """True if the model takes no hints, so that the bundled one has to make mattes from them first."""
    cautions: tuple[str, ...] = ()
    """Sentences on what the model was not trained for."""

    @property
    def notes(self) -> list[str]:
        """Sentences on the changes to given clips and on fields that were filled in or have no effect."""
        request = self.request
        notes = [f"{source.path}: {change}" for source in self.sources for change in source.treatment]
        if self.blended_written and (request.foreground or request.background):
            notes.append(f'`blended` was not given; written from the others: "{request.blended}"')
        if request.negative_prompt and max(request.guidance or 0, request.guidance_scale_2 or 0) <= 1:
            notes.append("`negative_prompt` has no effect without guidance; set `guidance` above 1")
        return [*notes, *self.cautions]


def check_request(request: Request) -> None:
    """Check everything that needs no model, before anything is loaded; raises UserError or MediaError."""
    check_exists(request.files)


def resolve(request: Request, facts: ModelFacts, more: Sequence[Source] = ()) -> Resolved:
    """Return a request with all defaults resolved.

    Args:
        request: the request.
        facts: facts of the model.
        more: given clips and trimaps besides the files of the request.

    Raises:
        UserError, MediaError: given clips that cannot be used.
        ValueError: sizes, tasks or values that the model does not take; the message names those that it takes.
    """
    facts = facts.for_given({file.clip for file in listed(request.given) if file.frames is None})
    conventions, (trained_frames, *trained_size) = facts.conventions, facts.codec.trained_size
    reading = request.frames or trained_frames, request.fps
    sources = [*read_sources(request.given, *reading), *read_sources(request.trimap, *reading, trimap=True), *more]
    upscale = pick_upscale(request, [source for source in sources if not source.trimap], facts)
    height, width = request.size or (upscale * trained_size[0], upscale * trained_size[1])
    rate, frames = common_rate(sources, request.fps), frame_count(sources, request.frames, trained_frames)
    given, cautions = None, list[str]()
    originals = cut(sources, request.frames, trained_frames)
    check_drawn_size(facts.codec, frames, height, width, upscale)
    sources = fit(hold(originals, facts.codec.groups(frames)), height, width)
    if sources or clicks_of(request):
        given = assemble(request, originals, sources, (frames, height, width), rate or DEFAULT_FPS)
        cautions = check_given(given, facts)
    whole = given.whole if given is not None else frozenset[str]()
    foregrounds = foregrounds_of(facts.config, len(request.foreground), given.video.clips() if given else ())
    check_task(facts.config, whole, foregrounds)
    check_model_fields(request, facts)
    task, blended = task_of(whole, foregrounds), request.blended
    in_part = given is not None and not whole and bool(given.clips)
    steps = request.steps or conventions.steps_of(task)
    decided = replace(
        request,
        blended=blended_prompt(request.foreground, request.background) if blended is None else blended,
        frames=frames,
        size=(height, width),
        upscale=upscale,
        fps=request.fps or (DEFAULT_FPS if given is None else None),
        steps=steps,
        guidance=conventions.guidance if request.guidance is None else request.guidance,
        noise_scale=conventions.noise_scale_of(task) if request.noise_scale is None else request.noise_scale,
    )
    return Resolved(
        decided,
        blended is None,
        tuple(sources),
        given,
        (height, width),
        frames,
        steps,
        upscale,
        rate or DEFAULT_FPS,
        "complete" if in_part else task,
        given is not None and bool(given.hints) and not facts.takes_hints,
        tuple(cautions),
    )


def assemble(
    request: Request,
    originals: Sequence[Source],
    sources: Sequence[Source],
    size: tuple[int, int, int],
    fps: float,
) -> Given:
    """Return all given frames and hints.

    Args:
        request: the request, for its clicks.
        originals: given sources at their own size, cut to the frames of the result.
        sources: the same at the size of the result.
        size: frames, height and width of the result.
        fps: frames per second.

    Raises:
        UserError: a frame is given twice, or a hint cannot be used.
    """
    trimaps = [source for source in sources if source.trimap]
    clips, numbers = gather([source for source in sources if not source.trimap], size[0])
    clicked = [source for source in originals if not source.trimap]
    hints = known_pixels(clicks_of(request), clicked, trimaps, numbers, size)
    for alpha, values in hints.values.items():
        clips[alpha] = torch.where(hints.known[alpha], values, clips.get(alpha, torch.zeros_like(values)))
    ordered = {name: clips[name] for name in ALL_CLIPS if name in clips}
    return Given(LayeredVideo.from_clips(ordered, fps), {name: numbers.get(name, ()) for name in ordered}, hints.known)


def check_given(given: Given, facts: ModelFacts) -> list[str]:
    """Return sentences on what the model was not trained for; raises ValueError for what it cannot do."""
    cautions = []
    for name in given.clips:
        facts.codec.latent_mask(name, given.mask(name))
    if set(given.clips) - given.whole and not facts.config.get("frame_masks"):
        cautions.append("this model was not trained with single frames given; it may follow them badly")
    if not given.hints:
        return cautions
    if not facts.takes_hints:
        hinted = {number for known in given.hints.values() for number in known_frames(known)}
        groups = facts.codec.groups(given.video.frames)
        frames = frames_in_words(number for group in groups if hinted & set(group) for number in group)
        if BLENDED not in given.whole:
            raise UserError(
                f"this model takes no clicks and trimaps, which hint at the matte of {frames}; give that matte whole, "
                f"or the {BLENDED} clip in all frames, from which mini can make it"
            )
        cautions.append(
            f"this model takes no clicks and trimaps: mini, which was not trained with them either, makes the matte of "
            f"{frames} first; look at it, or give a matte with `object`"
        )
        if not facts.config.get("frame_masks") and set(given.clips) <= given.whole:
            cautions.append("this model was not trained with single frames given; it may follow them badly")
    elif not facts.config.get("hints"):
        cautions.append("this model was not trained with clicks and trimaps; it may follow them badly")
    return cautions


def check_model_fields(request: Request, facts: ModelFacts) -> None:
    """Raise FieldError for a value that this model does not take."""
    fewest = facts.conventions.fewest_steps
    if request.steps is not None and request.steps < fewest:
        raise FieldError("steps", f"{request.steps} is too few; this model requires {fewest} or more")
    if request.guidance_scale_2 is not None and not facts.has_second_transformer:
        raise FieldError(
            "guidance_scale_2", f"{request.guidance_scale_2:g}: this model has no second transformer; leave it out"
        )


def pick_upscale(request: Request, sources: Sequence[Source], facts: ModelFacts) -> int:
    """Return the factor by which layers are enlarged after drawing; raises FieldError."""
    if request.upscale is not None:
        if request.upscale not in facts.upscale:
            factors = " or ".join(map(str, facts.upscale))
            raise FieldError("upscale", f"{request.upscale} is not supported by this model; choose {factors}")
        return request.upscale
    if request.size is not None:
        return facts.upscale_to(*request.size, exactly=True)
    sizes = [(source.video.height, source.video.width) for source in sources]
    return min((facts.upscale_to(*size, exactly=False) for size in sizes), default=facts.upscale[-1])
