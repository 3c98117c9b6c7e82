"""Options that every command which runs a model has, written once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from ..core.errors import UserError

DTYPES = ("auto", "float32", "bfloat16", "float16")
MEMORY = ("auto", "full", "low", "lowest")
RUN = "How it runs"
OUTPUT = "What it writes"

Alpha = Annotated[
    Path | None,
    typer.Option("--alpha", metavar="VIDEO", help="The foreground's alpha, where its own file has none."),
]
Foreground = Annotated[str, typer.Option("--foreground", metavar="TEXT", help="What the foreground shows.")]
Background = Annotated[str, typer.Option("--background", metavar="TEXT", help="What the background shows.")]
Blended = Annotated[
    str | None,
    typer.Option("--blended", metavar="TEXT", help="What the whole scene shows.", show_default="from the other two"),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="NAME",
        help="mini, a model folder, or a hub id owner/name or owner/name@revision.",
        rich_help_panel=RUN,
    ),
]
Device = Annotated[
    str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps.", rich_help_panel=RUN)
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="NAME",
        help=f"Number format: {', '.join(DTYPES)}; auto takes bfloat16 where it is the faster one.",
        rich_help_panel=RUN,
    ),
]
Memory = Annotated[
    str,
    typer.Option(
        "--memory",
        metavar="NAME",
        help="What may lie on the GPU: full is all, low one part of the model at a time, lowest one layer; auto the "
        "fastest that fits.",
        rich_help_panel=RUN,
    ),
]
Speed = Annotated[
    list[str],
    typer.Option(
        "--speed",
        metavar="NAME",
        help="compile, cache, int8, fp8 or attention=NAME; may be repeated. All but compile change results a little.",
        rich_help_panel=RUN,
    ),
]


@dataclass(frozen=True)
class RunOptions:
    """The common options. None means: as the model or the task has it."""

    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write.", rich_help_panel=OUTPUT)
    ]
    formats: Annotated[
        list[str],
        typer.Option(
            "--format",
            metavar="NAME",
            help="prores, webm, mp4, ffv1, png16, png or webp; may be repeated.",
            rich_help_panel=OUTPUT,
        ),
    ] = ("webm",)  # type: ignore[assignment]
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace layers in a folder that has files already.", rich_help_panel=OUTPUT),
    ] = False
    frames: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Frames; of given videos the first N.",
            show_default="the model's",
            rich_help_panel=OUTPUT,
        ),
    ] = None
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WIDTHxHEIGHT",
            help="Pixels, or one number for a square.",
            show_default="the model's",
            rich_help_panel=OUTPUT,
        ),
    ] = None
    upscale: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Draw at an Nth of the size, and make all layers N times as large together.",
            show_default="as drawn at the model's size, 4 for mini; given clips are not enlarged",
            rich_help_panel=OUTPUT,
        ),
    ] = None
    fps: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="Frames a second; given videos are resampled to it.",
            show_default="the given video's, else 8",
            rich_help_panel=OUTPUT,
        ),
    ] = None
    model: Model = "mini"
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same files.", rich_help_panel=RUN)] = 0
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Denoising steps.",
            show_default="the model's, 12 for mini",
            rich_help_panel=RUN,
        ),
    ] = None
    guidance: Annotated[
        float | None,
        typer.Option(
            metavar="SCALE",
            help="How closely prompts are followed; 1 turns guidance off and halves the time.",
            show_default="the model's, 1 for mini",
            rich_help_panel=RUN,
        ),
    ] = None
    noise_scale: Annotated[
        float | None,
        typer.Option(
            metavar="SCALE",
            help="How much noise to start from; more gives more variety between seeds and less steady shapes.",
            show_default="the model's; for mini 1, decompose 0.4",
            rich_help_panel=RUN,
        ),
    ] = None
    device: Device = "auto"
    dtype: Dtype = "auto"
    memory: Memory = "auto"
    speed: Speed = ()  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for name, value, known in (("dtype", self.dtype, DTYPES), ("memory", self.memory, MEMORY)):
            if value not in known:
                raise UserError(f"--{name} {value} is not known; choose {', '.join(known)}")
        if self.fps is not None and not 0 < self.fps <= 240:
            raise UserError(f"--fps {self.fps:g} must be above 0 and at most 240")
        if self.guidance is not None and not 0 <= self.guidance <= 100:
            raise UserError(f"--guidance {self.guidance:g} must be from 0 to 100; usual is 1 to 7")
        if self.noise_scale is not None and not 0 <= self.noise_scale <= 2:
            raise UserError(f"--noise-scale {self.noise_scale:g} must be from 0 to 2; models are trained with 1")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed {self.seed} must be a whole number from 0 to 2^63 - 1")
        parse_size(self.size)
        if self.upscale is not None and self.upscale < 1:
            raise UserError(f"--upscale {self.upscale} must be 1 or more; 1 leaves layers as they are drawn")


@dataclass(frozen=True)
class ModelOptions:
    """Of the common options those that all jobs of a batch share."""

    model: str
    device: str = "auto"
    dtype: str = "auto"
    memory: str = "auto"
    speed: tuple[str, ...] = ()


def parse_size(size: str | None) -> tuple[int, int] | None:
    """ "96x64" to (96, 64), "64" to (64, 64): width and height in pixels."""
    if size is None:
        return None
    parts = size.lower().replace("×", "x").split("x")  # noqa: RUF001
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and 0 < int(part) <= 16384 for part in parts):
        raise UserError(f"--size {size} is not a size; write WIDTHxHEIGHT such as 96x64, or one number such as 64")
    width, height = int(parts[0]), int(parts[-1])
    return width, height


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that takes `options: RunOptions` the common options on the command line."""
    hints = get_type_hints(command, include_extras=True)
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "options"
    ]
    common_hints = get_type_hints(RunOptions, include_extras=True)
    common = [
        inspect.Parameter(
            f.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if f.default is MISSING else f.default,
            annotation=common_hints[f.name],
        )
        for f in fields(RunOptions)
    ]

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        options = RunOptions(**{parameter.name: values.pop(parameter.name) for parameter in common})
        command(**values, options=options)

    del wrapper.__wrapped__  # type: ignore[attr-defined]
    wrapper.__signature__ = inspect.Signature([*own, *common])  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *common]}
    return wrapper
