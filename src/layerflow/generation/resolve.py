"""Defaults of a request, resolved from its given clips, the model and the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..core.errors import FieldError, UserError
from ..core.layered_video import LayeredVideo
from ..core.schema import CLIPS, DEFAULT_FPS
from ..models.codec import check_drawn_size
from ..models.scene import check_task, task_of
from ..models.text import blended_prompt
from .inputs import Source, check_exists, common_rate, cut, fit, merge, read_sources
from .load import ModelFacts
from .request import Request


@dataclass(frozen=True)
class Resolved:
    """A request with all defaults resolved, and its given clips."""

    request: Request
    """None only in `guidance_scale_2`, which follows `guidance`, and in `fps` where given clips have their own."""
    blended_written: bool
    """True if the prompt of the blended layer was written from the other two."""
    sources: tuple[Source, ...]
    given: LayeredVideo | None
    """All given clips, at the size and frame count of the result."""
    size: tuple[int, int]
    """Height and width of the result."""
    frames: int
    steps: int
    upscale: int
    fps: float
    task: str

    @property
    def notes(self) -> list[str]:
        """Sentences on the changes to given clips and on fields that were filled in or have no effect."""
        request = self.request
        notes = [f"{source.path}: {change}" for source in self.sources for change in source.treatment]
        if self.blended_written and (request.foreground or request.background):
            notes.append(f'`blended` was not given; written from the other two: "{request.blended}"')
        if request.negative_prompt and max(request.guidance or 0, request.guidance_scale_2 or 0) <= 1:
            notes.append("`negative_prompt` has no effect without guidance; set `guidance` above 1")
        return notes


def check_request(request: Request) -> None:
    """Check everything that needs no model, before anything is loaded; raises UserError or MediaError."""
    check_exists(request.given.values())
    if set(request.given) == set(CLIPS):
        raise UserError("every clip is given, so nothing is left to make; leave one of `given` out")


def resolve(request: Request, facts: ModelFacts, sources: Sequence[Source] | None = None) -> Resolved:
    """Return a request with all defaults resolved.

    Args:
        request: the request.
        facts: facts of the model.
        sources: the given clips; read from the files of `request.given` if None.

    Raises:
        UserError, MediaError: given clips that cannot be used.
        ValueError: sizes, tasks or values that the model does not take; the message names those that it takes.
    """
    conventions, (trained_frames, *trained_size) = facts.conventions, facts.codec.trained_size
    if sources is None:
        sources = read_sources(request.given, request.frames or trained_frames, request.fps)
    upscale = pick_upscale(request, sources, facts)
    height, width = request.size or (upscale * trained_size[0], upscale * trained_size[1])
    frames = request.frames or trained_frames
    given, rate = None, common_rate(sources, request.fps)
    if sources:
        sources = fit(cut(sources, request.frames, trained_frames), height, width)
        given = merge(sources, rate or DEFAULT_FPS)
        frames = given.frames
    check_drawn_size(facts.codec, frames, height, width, upscale)
    whole = frozenset(given.clips() if given is not None else ())
    check_task(facts.config, whole)
    check_model_fields(request, facts)
    task, blended = task_of(whole), request.blended
    steps = request.steps or conventions.steps
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
        task,
    )


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
