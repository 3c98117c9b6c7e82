"""The public surface as a listing, one name per line; run this file to update surface.txt."""

import inspect
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import typer

from layerflow import LayeredVideo, LayerFlowPipeline
from layerflow.cli import app
from layerflow.generation.request import ModelOptions, Request
from layerflow.media import FORMATS
from layerflow.media.export import PRESETS
from layerflow.studio.requests import ExportRequest, JobRequest

MODULES = ("layerflow", "layerflow.media", "layerflow.media.export", "layerflow.datasets", "layerflow.mini.world")
"""Packages whose names others may import."""
LISTING = Path(__file__).with_name("surface.txt")


def surface() -> str:
    """Return the listing; each line is complete by itself."""
    return "\n".join([*python(), *commands(typer.main.get_command(app), "layerflow"), *requests(), *names()]) + "\n"


def python() -> Iterator[str]:
    for module in MODULES:
        package = import_module(module)
        for name in sorted(package.__all__):
            assert hasattr(package, name), f"{module}.__all__ lists {name}, which it does not have"
            yield f"{module}.{name}"
    for kind in (LayeredVideo, LayerFlowPipeline):
        members = {name for name in vars(kind) if not name.startswith("_")}
        for name in sorted(members | {parameter for parameter in inspect.get_annotations(kind) if parameter[0] != "_"}):
            yield f"{kind.__name__}.{name}"
    for name in list(inspect.signature(LayerFlowPipeline.__call__).parameters)[1:]:
        yield f"LayerFlowPipeline(...) {name}"


def commands(command: typer.core.TyperCommand | typer.core.TyperGroup, path: str) -> Iterator[str]:
    """Yield each command, its arguments and its options; required ones are marked."""
    yield path
    for parameter in command.params:
        names = "/".join([*parameter.opts, *parameter.secondary_opts])
        shown = f"{parameter.metavar or names}" if parameter.param_type_name == "argument" else names
        yield f"{path} {shown}" + (" (required)" if parameter.required else "")
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{path} {name}")


def requests() -> Iterator[str]:
    for kind in (Request, ModelOptions):
        yield from (f"{kind.__name__}.{field.name}" for field in fields(kind))
    for body in (JobRequest, ExportRequest):
        yield from (f"{body.__name__}.{name}" for name in body.model_fields)


def names() -> Iterator[str]:
    yield from (f"format {name}" for name in FORMATS)
    yield from (f"preset {name}" for name in PRESETS)


if __name__ == "__main__":
    LISTING.write_text(surface(), "utf-8")
