"""Options of the command line, made from the fields of a request."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from ..core.schema import ALPHA
from ..generation.givens import parse_given
from ..generation.request import OUTPUT, ModelOptions, Request, Size, field_of, flag, from_plain, options, type_of
from .errors import as_option


def option(kind: type, name: str) -> Any:
    """Return a field of a request as an annotation for Typer."""
    facts = options(kind)[name]
    field_type, optional = type_of(kind, name)
    plain = str if field_type == Size else field_type if field_type in (int, float, str) else list[str]
    shown = typer.Option(
        flag(kind, name),
        metavar=facts.metavar,
        help=as_option(facts.help),
        rich_help_panel=facts.panel or None,
        show_default=as_option(facts.unset) if facts.unset else True,
    )
    return Annotated[plain | None if optional else plain, shown]  # type: ignore[valid-type]


Alpha = Annotated[
    Path | None,
    typer.Option("--alpha", metavar="VIDEO", help="The foreground's alpha, if its file has none."),
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write.", rich_help_panel=OUTPUT)]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace layers in a folder that has files already.", rich_help_panel=OUTPUT),
]
Given = Annotated[
    list[str],
    typer.Option(
        "--given",
        metavar="CLIP=PATH[@FRAMES]",
        help="A clip to keep: foreground, alpha, background or blended; at some FRAMES only, such as 0, 0,15, 0-3 or "
        "-1 for the last, a still is put there and a video gives its own; may be repeated.",
    ),
]
Trimap = Annotated[
    list[str],
    typer.Option(
        "--trimap",
        metavar="PATH[@FRAMES]",
        help="The foreground's matte where it is known: black is background, white is foreground, grey is unknown; "
        "alpha-2=PATH for a second foreground; may be repeated.",
    ),
]
Device = option(ModelOptions, "device")


@dataclass(frozen=True)
class Target:
    """The model of a run and the folder for its layers."""

    model: ModelOptions
    output: Path
    overwrite: bool


def with_model(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that takes `model: ModelOptions` the options of the model."""
    return _expand(command, {"model": _parameters(ModelOptions)}, lambda values: {"model": _read(ModelOptions, values)})


def with_request(*required: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command that takes `request: Request` and `target: Target` all options of a generation.

    Args:
        required: fields without a default.
    """
    given_default = inspect.Parameter.empty if "given" in required else ()
    files = [
        inspect.Parameter("given", inspect.Parameter.KEYWORD_ONLY, default=given_default, annotation=Given),
        inspect.Parameter("trimap", inspect.Parameter.KEYWORD_ONLY, default=(), annotation=Trimap),
    ]
    target = [
        inspect.Parameter("output", inspect.Parameter.KEYWORD_ONLY, annotation=Output),
        inspect.Parameter("overwrite", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Overwrite),
        *_parameters(ModelOptions),
    ]

    def read(values: dict[str, Any]) -> dict[str, Any]:
        output, overwrite = values.pop("output"), values.pop("overwrite")
        model = _read(ModelOptions, values)
        given = parse_given(values.pop("given"))
        trimap = parse_given(values.pop("trimap"), "trimap", ALPHA)
        request = _read(Request, values, given=given, trimap=trimap)
        return {"request": request, "target": Target(model, output, overwrite)}

    fields = _parameters(Request, required)
    parameters = {"request": [*files, *fields] if "given" in required else [*fields, *files], "target": target}
    return lambda command: _expand(command, parameters, read)


def _parameters(kind: type, required: tuple[str, ...] = ()) -> list[inspect.Parameter]:
    made = []
    for name in sorted(options(kind), key=lambda name: name not in required):
        default = inspect.Parameter.empty if name in required else field_of(kind, name).default
        assert default is not MISSING
        made.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=option(kind, name))
        )
    return made


def _read(kind: type, values: dict[str, Any], **more: Any) -> Any:
    """Return a request made from its options among `values`, which are removed, and of more fields."""
    own = {name: values.pop(name) for name in options(kind)}
    return kind(**from_plain(kind, own), **more)


def _expand(
    command: Callable[..., None],
    parameters: dict[str, list[inspect.Parameter]],
    read: Callable[[dict[str, Any]], dict[str, Any]],
) -> Callable[..., None]:
    """Replace parameters of a command by several each; `read` computes the values of the former from the latter."""
    hints = get_type_hints(command, include_extras=True)
    shown: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        own = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
        shown += parameters.get(name, [own])

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        made = read(values)
        command(**values, **made)

    del wrapper.__wrapped__  # type: ignore[attr-defined]
    wrapper.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return wrapper
