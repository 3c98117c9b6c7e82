"""The request: every field of a generation declared once.

The options of the command line, the keys of a job in a batch, the body of the studio's API, the sockets of the ComfyUI
nodes, the fingerprint of a job and the command that makes the same layers again all follow from these two dataclasses.
A field with an `argument` is passed on to `LayerFlowPipeline` under that name.

This module imports no torch, so that `layerflow --help` is quick.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from reprlib import repr as shortly
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from ..core.errors import FieldError
from ..core.schema import ALPHA_OF, BACKGROUND, BLENDED, MOST_FOREGROUNDS, scene_layers
from .givens import Click, Files, check_files, check_something_left, joined, listed, split_objects

DTYPES = ("auto", "float32", "bfloat16", "float16")
MEMORY = ("auto", "full", "low", "lowest")
OUTPUT, RUN = "Output", "Model and sampling"
"""Groups of fields, as headings of the help."""
MOST_CLICKS = 100
"""Largest number of clicks of a kind."""
Size = tuple[int, int]
"""Height and width in pixels; WIDTHxHEIGHT in text."""


@dataclass(frozen=True)
class Option:
    """Presentation and bounds of a field in every front end."""

    help: str
    """One line."""
    metavar: str = ""
    """Placeholder of the value in the help; empty for a switch."""
    unset: str = ""
    """Text for the default of a value that is left out."""
    minimum: float | None = None
    """Least value."""
    above: float | None = None
    """Bound that the value must exceed."""
    maximum: float | None = None
    """Greatest value."""
    hint: str = ""
    """Advice at the end of an error: usual values."""
    choices: tuple[str, ...] = ()
    """Values of a text."""
    check: Callable[[Any], None] | None = None
    """Raises a ValueError for what `minimum` to `choices` do not express; its message is a whole sentence."""
    argument: str | None = None
    """Argument of `LayerFlowPipeline` that gets the value."""
    flag: str = ""
    """Option of the command line where it is not the field's name."""
    panel: str = RUN
    prompt: bool = False
    """True for a text that describes what to show, or what not to show; a list of them may be one text."""
    most: int = 0
    """Greatest length of a list; 0 for no bound."""


def _option(default: Any, help: str, **facts: Any) -> Any:
    return field(default=default, metadata={"option": Option(help, **facts)})


def parse_size(text: str) -> Size:
    """Return height and width of "96x64" (96 wide, 64 high), or of "64" for a square; raises FieldError."""
    parts = text.lower().replace("×", "x").split("x")  # noqa: RUF001
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and 0 < int(part) <= 16384 for part in parts):
        raise FieldError("size", f"{text} is not a size; write WIDTHxHEIGHT such as 96x64, or one number such as 64")
    return int(parts[-1]), int(parts[0])


def format_size(size: Size) -> str:
    """Return WIDTHxHEIGHT of a height and width."""
    return f"{size[1]}x{size[0]}"


def parse_lora(text: str) -> tuple[str, float]:
    """Return path and weight of "PATH[:WEIGHT]"; the weight is 1 by default."""
    path, colon, weight = text.rpartition(":")
    try:
        return (path, float(weight)) if colon and path else (text, 1.0)
    except ValueError:  # a colon in the path
        return text, 1.0


def _check_formats(names: tuple[str, ...]) -> None:
    from ..media import find_format

    if not names:
        raise FieldError("formats", "is empty; name at least one")
    for name in names:
        find_format(name)


def _check_loras(texts: tuple[str, ...]) -> None:
    for text in texts:
        path, weight = parse_lora(text)
        if not math.isfinite(weight) or abs(weight) > 10:
            raise FieldError("lora", f"{text} has weight {weight:g}; usual is 0 to 1")
        is_hub_id = path.count("/") == 1 and not path.startswith((".", "/", "~"))
        if not Path(path).exists() and not is_hub_id:
            raise FieldError("lora", f"{path} does not exist; name a safetensors file, a folder or a hub id")


def _check_clicks(field: str) -> Callable[[tuple[str, ...]], None]:
    def check(texts: tuple[str, ...]) -> None:
        for text in texts:
            Click.of(field, text)

    return check


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request for layers. None stands for a default of the model or the task, which `resolve` fills in.

    Raises:
        FieldError: a value that no model takes; the error names the field, the value and the constraint.
    """

    foreground: tuple[str, ...] = _option(
        (),
        "Prompt for the foreground; may be repeated for several, the nearest first.",
        metavar="TEXT",
        argument="foreground",
        prompt=True,
        most=MOST_FOREGROUNDS,
        panel="",
    )
    background: str = _option(
        "", "Prompt for the background.", metavar="TEXT", argument="background", prompt=True, panel=""
    )
    blended: str | None = _option(
        None,
        "Prompt for the blended video.",
        metavar="TEXT",
        unset="from the others",
        argument="blended",
        prompt=True,
        panel="",
    )
    negative_prompt: str = _option(
        "",
        "Content to avoid in all layers; needs guidance above 1.",
        metavar="TEXT",
        argument="negative_prompt",
        prompt=True,
        panel="",
    )
    object: tuple[str, ...] = _option(
        (),
        "A click on the foreground, in pixels of the given blended video at a frame, or its matte at a frame, "
        "PATH@FRAME; may be repeated.",
        metavar="X,Y@FRAME",
        check=_check_clicks("object"),
        most=MOST_CLICKS,
        panel="",
    )
    not_object: tuple[str, ...] = _option(
        (),
        "A click beside the foreground, such as on another thing that moves; may be repeated.",
        metavar="X,Y@FRAME",
        check=_check_clicks("not_object"),
        most=MOST_CLICKS,
        panel="",
    )
    formats: tuple[str, ...] = _option(
        ("webm",),
        "prores, webm, mp4, ffv1, png16, png or webp; may be repeated.",
        metavar="NAME",
        flag="--format",
        check=_check_formats,
        panel=OUTPUT,
    )
    frames: int | None = _option(
        None,
        "Frames; of given videos the first N.",
        metavar="N",
        unset="the model's",
        minimum=1,
        argument="num_frames",
        panel=OUTPUT,
    )
    size: tuple[int, int] | None = _option(
        None, "Pixels, or one number for a square.", metavar="WIDTHxHEIGHT", unset="the model's", panel=OUTPUT
    )
    upscale: int | None = _option(
        None,
        "Enlarge all layers N times with the upscaler, after generation at an Nth of the size.",
        metavar="N",
        unset="the model's largest, 4 for mini; given clips are not enlarged",
        minimum=1,
        hint="1 keeps the generated size",
        argument="upscale",
        panel=OUTPUT,
    )
    fps: float | None = _option(
        None,
        "Frame rate; given videos are resampled to it.",
        metavar="RATE",
        unset="the given video's, else 8",
        above=0,
        maximum=240,
        panel=OUTPUT,
    )
    seed: int = _option(0, "The same seed gives the same files.", metavar="N", minimum=0, maximum=2**63 - 1)
    steps: int | None = _option(
        None,
        "Denoising steps.",
        metavar="N",
        unset="the model's, 12 for mini",
        minimum=1,
        argument="num_inference_steps",
    )
    guidance: float | None = _option(
        None,
        "Strength of classifier-free guidance; 1 turns it off and halves the time.",
        metavar="SCALE",
        unset="the model's, 1 for mini",
        minimum=0,
        maximum=100,
        hint="usual is 1 to 7",
        argument="guidance_scale",
    )
    guidance_scale_2: float | None = _option(
        None,
        "Guidance scale of a model's second transformer, which works at low noise.",
        metavar="SCALE",
        unset="as `guidance`",
        minimum=0,
        maximum=100,
        hint="usual is 1 to 7",
        argument="guidance_scale_2",
    )
    noise_scale: float | None = _option(
        None,
        "Scale of the initial noise; higher values vary more between seeds, with less stable shapes.",
        metavar="SCALE",
        unset="the model's; for mini 1, decompose 0.4",
        minimum=0,
        maximum=2,
        hint="models are trained with 1",
        argument="noise_scale",
    )
    lora: tuple[str, ...] = _option(
        (),
        "A LoRA for the transformer and its weight, 1 by default; may be repeated.",
        metavar="PATH[:WEIGHT]",
        check=_check_loras,
    )
    given: Files = field(default_factory=dict)
    """Clips to keep, and their files: of all frames, or of some."""
    trimap: Files = field(default_factory=dict)
    """Mattes that are known in part, by alpha clip, and their files: black is background, white is foreground, grey is
    unknown."""

    def __post_init__(self) -> None:
        texts = (self.foreground,) if isinstance(self.foreground, str) else self.foreground
        if isinstance(texts, tuple) and all(text == "" for text in texts):
            texts = ()
        _set(self, foreground=texts)
        if isinstance(self.object, tuple) and all(is_text(text) for text in self.object):
            clicks, mattes = split_objects(self.object)
            _set(self, object=clicks, given=joined([*listed(self.given), *mattes]) if mattes else self.given)
        check_fields(self)
        check_files("given", self.given)
        check_files("trimap", self.trimap, ALPHA_OF.values())
        check_something_left(self.given, len(self.foreground))

    @property
    def files(self) -> list[Path]:
        """Paths of all given clips and trimaps."""
        return [file.path for files in (self.given, self.trimap) for file in listed(files)]

    @property
    def prompts(self) -> dict[str, str]:
        """Prompts by layer, "" where there is none; of foregrounds those that have one, at least the nearest."""
        layers = [layer.name for layer in scene_layers(max(1, len(self.foreground))) if layer.transparent]
        texts = self.foreground or ("",)
        return dict(zip(layers, texts, strict=True)) | {BACKGROUND: self.background, BLENDED: self.blended or ""}


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model and how it runs; shared by all jobs of a batch or a studio.

    Raises:
        FieldError: a number format or memory setting that is not known.
    """

    model: str = _option("mini", "mini, a model folder, or a hub id owner/name or owner/name@revision.", metavar="NAME")
    device: str = _option("auto", "auto, cpu, cuda, cuda:1 or mps.", metavar="NAME")
    dtype: str = _option(
        "auto",
        f"Number format: {', '.join(DTYPES)}; auto takes bfloat16 where that is faster.",
        metavar="NAME",
        choices=DTYPES,
    )
    memory: str = _option(
        "auto",
        "Weights on the GPU: the whole model (full), one part at a time (low) or one layer (lowest); auto takes the "
        "fastest that fits.",
        metavar="NAME",
        choices=MEMORY,
    )
    speed: tuple[str, ...] = _option(
        (),
        "compile, cache, int8, fp8 or attention=NAME; may be repeated. All but compile change results a little.",
        metavar="NAME",
    )

    def __post_init__(self) -> None:
        check_fields(self)


def _set(request: Request, **values: Any) -> None:
    """Set fields of a frozen dataclass while it is being created."""
    for name, value in values.items():
        object.__setattr__(request, name, value)


def options(kind: type) -> dict[str, Option]:
    """Return the fields of a request that a person sets one by one, with how each is shown and checked."""
    return {f.name: f.metadata["option"] for f in fields(kind) if "option" in f.metadata}


def field_of(kind: type, name: str) -> Field[Any]:
    """Return a field of a dataclass."""
    return next(f for f in fields(kind) if f.name == name)


def type_of(kind: type, name: str) -> tuple[Any, bool]:
    """Return the type of a field without None, and True if it may be None."""
    hint = get_type_hints(kind)[name]
    if get_origin(hint) is UnionType:
        return next(part for part in get_args(hint) if part is not type(None)), True
    return hint, False


def check_fields(request: Any) -> None:
    """Check each field of a request by its declaration; raises FieldError."""
    for name, option in options(type(request)).items():
        value = getattr(request, name)
        kind, optional = type_of(type(request), name)
        if value is None and optional:
            continue
        if not _fits(value, kind, option):
            shown = f"{value:g}" if isinstance(value, float) else shortly(value)
            raise FieldError(name, f"is {shown} but must be {meaning(kind, option)}")
        if option.check is not None:
            option.check(value)


def _fits(value: Any, kind: Any, option: Option) -> bool:
    if kind in (int, float):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or (kind is int and not isinstance(value, int)) or not -(2**63) < value < 2**63:
            return False
        low = option.minimum is None or value >= option.minimum
        return bool(low and (option.above is None or value > option.above) and value <= (option.maximum or 2**63 - 1))
    if kind is str:
        return is_text(value) and (not option.choices or value in option.choices)
    if kind == Size:
        return (
            isinstance(value, tuple) and len(value) == 2 and all(isinstance(side, int) and side > 0 for side in value)
        )
    fits = isinstance(value, tuple) and all(is_text(item) for item in value)
    return fits and (not option.most or len(value) <= option.most)


def is_text(value: Any) -> bool:
    """Return True for text that files and paths can hold: JSON also allows NUL and unpaired surrogates."""
    return isinstance(value, str) and "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


def meaning(kind: Any, option: Option) -> str:
    """Return the constraint on the value of a field, in words."""
    if kind in (int, float):
        number = "a whole number" if kind is int else "a number"
        top = "2^63 - 1" if option.maximum == 2**63 - 1 else f"{option.maximum:g}" if option.maximum else ""
        if option.above is not None:
            number += f" above {option.above:g}" + (f" and at most {top}" if top else "")
        elif option.minimum is not None:
            number += f" from {option.minimum:g} to {top}" if top else f" from {option.minimum:g} on"
        return number + (f"; {option.hint}" if option.hint else "")
    if kind is str:
        return f"one of {', '.join(option.choices)}" if option.choices else "text"
    if kind == Size:
        return "WIDTHxHEIGHT"
    texts = f"a list of at most {option.most} texts" if option.most else "a list of texts"
    return f"text or {texts}" if option.prompt else texts


def from_plain(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return field values from JSON's types: lists to tuples, "96x64" to (64, 96); raises FieldError."""
    return {name: _from_plain(kind, name, value) for name, value in values.items()}


def _from_plain(kind: type, name: str, value: Any) -> Any:
    field_type, _ = type_of(kind, name)
    if field_type == Size and value is not None:
        if not isinstance(value, str):
            raise FieldError(name, f'is {shortly(value)} but must be WIDTHxHEIGHT as text, such as "96x64"')
        return parse_size(value)
    if isinstance(value, str) and get_origin(field_type) is tuple and options(kind)[name].prompt:
        return (value,)
    return tuple(value) if isinstance(value, list) and get_origin(field_type) is tuple else value


def to_plain(value: Any, kind: Any) -> Any:
    """Return a field's value in JSON's types, as `from_plain` reads it."""
    if value is None or kind != Size:
        return list(value) if isinstance(value, tuple) else value
    return format_size(value)


def flag(kind: type, name: str) -> str:
    """Return the option of the command line for a field."""
    return options(kind)[name].flag or "--" + name.replace("_", "-")
