"""Write docs/reference/ from the code: options of the commands, file formats, fields of a request, keys of the recipes.

`make reference` runs it; tests/docs/test_reference.py fails while the committed pages differ from what it writes.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, Field, is_dataclass
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch
import typer
import yaml

from layerflow import LayeredVideo
from layerflow.cli import app
from layerflow.cli.errors import as_option
from layerflow.core.config import config_keys
from layerflow.datasets import FootageRecipe
from layerflow.generation.jobs import KEYS
from layerflow.generation.request import ModelOptions, Request, field_of, flag, meaning, options, to_plain, type_of
from layerflow.media import BEST_FIRST, FORMATS
from layerflow.media.export import PRESETS, deliver
from layerflow.mini.fitting.text_encoder import TextRecipe
from layerflow.mini.fitting.upscaler import UpscalerRecipe
from layerflow.studio.requests import JobRequest
from layerflow.training.recipe import Recipe

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reference"
NOTE = "<!-- Written by `make reference` from the code. Change the code, not this file. -->"
NONE = "-"


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return a table in Markdown; line breaks and bars in cells are escaped."""
    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *([cell(text) for text in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    return f"`{text}`" if text else ""


# --- command line


def cli() -> Iterator[str]:
    """Yield the page of the command line: each command with its arguments and options."""
    root = typer.main.get_command(app)
    yield "# Command line\n"
    yield "`layerflow COMMAND --help` prints the same, `layerflow --version` the version. The exit code is 2 for a"
    yield "mistake in the input, 1 for other failures. [request.md](request.md) has the fields of a generation in all"
    yield "front ends.\n"
    yield from command_table(root)
    for name, command in leaves(root, "layerflow"):
        yield f"## {name}\n"
        yield from described(command.help or "")
        yield from parameter_tables(command)


def leaves(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the commands of a group and of its groups, with their whole names."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, f"{path} {name}")
        elif not command.hidden:
            yield f"{path} {name}", command


def command_table(root: Any) -> list[str]:
    rows = []
    for name, command in leaves(root, "layerflow"):
        first = inspect.cleandoc(command.help or "").split("\n\n")[0]
        rows.append([f"[{code(name)}](#{name.replace(' ', '-')})", first])
    return table(["command", "purpose"], rows)


def described(text: str) -> Iterator[str]:
    """Yield the help of a command, with examples as code."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        joined = " ".join(paragraph.split())
        example = re.fullmatch(r"\[bold\]Example\[/\]: (.*)", joined)
        yield f"    {example[1]}\n" if example else f"{joined}\n"


def parameter_tables(command: Any) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    if arguments:
        rows = [[code(p.metavar or p.name.upper()), default_of(p), help_of(p)] for p in arguments]
        yield from table(["argument", "default", "meaning"], rows)
    panels: dict[str, list[list[str]]] = {"": []}  # options of the command itself come first
    for p in command.params:
        if p.param_type_name == "option" and not p.hidden:
            names = ", ".join(code(name) for name in (*p.opts, *p.secondary_opts))
            value = "" if p.is_flag else code(p.metavar or p.name.upper())
            panels.setdefault(p.rich_help_panel or "", []).append([names, value, default_of(p), help_of(p)])
    for panel, rows in panels.items():
        if panel:
            yield f"{panel}:\n"
        if rows:
            yield from table(["option", "value", "default", "meaning"], rows)


def default_of(parameter: Any) -> str:
    """Return the default of an argument or option in words."""
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    if getattr(parameter, "is_flag", False):
        return "on" if parameter.default else "off"
    return plain_default(parameter.default)


def plain_default(value: Any) -> str:
    if value is None or value == "" or value == () or value == []:
        return NONE
    if isinstance(value, tuple | list):
        return ", ".join(code(str(item)) for item in value)
    return code(f"{value:g}" if isinstance(value, float) else str(value))


def help_of(parameter: Any) -> str:
    # Typer has had the bounds of a number on the parameter and, before, on its type.
    bounded = parameter if hasattr(parameter, "min") else parameter.type
    low, high = getattr(bounded, "min", None), getattr(bounded, "max", None)
    bounds = [f"{word} {value:g}" for word, value in (("at least", low), ("at most", high)) if value is not None]
    return (parameter.help or "") + (f" Must be {' and '.join(bounds)}." if bounds else "")


# --- file formats


def formats() -> Iterator[str]:
    """Yield the page of file formats and export presets."""
    yield "# File formats\n"
    yield "## `--format`\n"
    yield "Alpha is straight. Where a format holds none, the foreground is composited over grey, and alpha is a file"
    yield "beside it.\n"
    rows = [
        [code(f.name), code(f.name_of("foreground") + ("/" if f.folder else "")), f.purpose, "yes" if f.alpha else "no",
         "yes" if f.lossless else "no", str(f.bits)]
        for f in FORMATS.values()
    ]  # fmt: skip
    yield from table(["format", "file", "for", "alpha", "lossless", "bits"], rows)
    yield "Encoding:\n"
    rows = []
    for f in FORMATS.values():
        settings = " ".join(f"{key}={value}" for key, value in {**f.options, **f.container_options}.items())
        rows.append(
            [code(f.name), code(f.codec), code(f.alpha_pixels or f.pixels), f.convention, code(settings) or NONE]
        )
    yield from table(["format", "encoder", "pixels", "colour", "options"], rows)
    best = ", ".join(code(name) for name in BEST_FIRST)
    yield f"Where a folder holds a layer in several formats, the first of these is read: {best}.\n"
    yield "## `layerflow export --preset`\n"
    yield "[delivery.md](../delivery.md) tells how to choose.\n"
    rows = [[code(p.name), p.purpose, ", ".join(p.needs) or NONE] for p in PRESETS.values()]
    yield from table(["preset", "for", "needs"], rows)
    yield "Packages under *needs* come with `pip install 'layerflow[delivery]'`. AVIF is written where Pillow can.\n"
    for name in PRESETS:
        yield f"Files of `{name}`:\n"
        rows = [[code(file["name"]), file["holds"]] for file in delivered(name)]
        yield from table(["file", "holds"], rows)


def delivered(preset: str) -> list[dict[str, Any]]:
    """Return the record of the files that a preset writes, from writing a tiny video."""
    size = (2, 3, 16, 16)
    video = LayeredVideo(
        foreground=torch.zeros(size), alpha=torch.ones(2, 1, 16, 16), background=torch.ones(size), fps=8.0
    )
    with tempfile.TemporaryDirectory() as folder:
        record: list[dict[str, Any]] = deliver(video, folder, preset)["files"]
    return record


# --- requests


def request() -> Iterator[str]:
    """Yield the page of the fields of a generation, in every front end."""
    nodes = load_nodes()
    yield "# Fields of a generation\n"
    yield "Each is declared once, in `src/layerflow/generation/request.py`, and every front end takes it from there."
    yield "A field that is left out has its default.\n"
    yield "## What to make\n"
    yield from field_table(Request)
    yield "The same fields by their names in each front end:\n"
    rows = [
        [code(name), python_name(name), code(flag(Request, name)), code(name) if name in KEYS else NONE,
         rest_name(name), socket_of(nodes, name)]
        for name in options(Request)
    ]  # fmt: skip
    columns = ["field", "`LayerFlowPipeline(...)`", "command line", "`layerflow batch`, key", "studio's API", "ComfyUI"]
    yield from table(columns, rows)
    yield "Given clips: arguments of a command or `--given CLIP=VIDEO`; in a job file `given`, clips and their files;"
    yield "in the studio's API `given`, clips and uploads or other jobs ([studio.md](../studio.md)); in ComfyUI inputs"
    yield "of each node; in Python `given=LayeredVideo(...)`. A job file also has `id`, the studio's API `session`.\n"
    yield "## Model and how it runs\n"
    yield "Options of every command that runs a model, of `layerflow batch` and of `layerflow studio`; in ComfyUI"
    yield "inputs of the node *Load LayerFlow model*.\n"
    yield from field_table(ModelOptions)
    inputs = nodes.LoadModel.INPUT_TYPES()["required"]
    rows = []
    for name in options(ModelOptions):
        own = "name" if name == "model" else name
        rows.append([code(name), code(flag(ModelOptions, name)), code(own) if own in inputs else NONE])
    yield from table(["field", "command line", "ComfyUI"], rows)


def field_table(kind: type) -> list[str]:
    rows = []
    for name, option in options(kind).items():
        wanted, _ = type_of(kind, name)
        unset = as_option(option.unset)
        default = unset or plain_default(to_plain(field_of(kind, name).default, wanted))
        rows.append([code(name), meaning(wanted, option), default, as_option(option.help)])
    return table(["field", "value", "default", "meaning"], rows)


PYTHON = {"size": "`height`, `width`", "seed": "`generator`", "fps": "`fps`", "lora": "`load_lora_weights`"}
"""How `LayerFlowPipeline` takes the fields that are not one argument of the same meaning."""


def python_name(name: str) -> str:
    argument = options(Request)[name].argument
    return code(argument) if argument else PYTHON.get(name, NONE)


def rest_name(name: str) -> str:
    """Return the name of a field in the body of a job, and the bounds that the studio adds."""
    properties = JobRequest.model_json_schema()["properties"]
    if name not in properties:
        return NONE
    schemas = [properties[name], *properties[name].get("anyOf", [])]
    own = {key: value for schema in schemas for key, value in schema.items()}
    bounds = []
    if "maximum" in own and own["maximum"] != options(Request)[name].maximum:
        bounds.append(f"at most {power(own['maximum'])}")
    if "maxLength" in own and "pattern" not in own:
        bounds.append(f"at most {own['maxLength']} characters")
    if "maxItems" in own:
        bounds.append(f"at most {own['maxItems']}")
    return ", ".join([code(name), *bounds])


def power(value: float) -> str:
    exponent = int(value + 1).bit_length() - 1
    return f"2^{exponent} - 1" if exponent > 31 and value == 2**exponent - 1 else f"{value:g}"


def load_nodes() -> ModuleType:
    """Load the ComfyUI nodes, which lie outside the package, by their path."""
    spec = importlib.util.spec_from_file_location("comfyui_nodes", ROOT / "integrations" / "comfyui" / "nodes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def socket_of(nodes: ModuleType, name: str) -> str:
    if name in nodes.LEFT_OUT:
        return NONE
    kind, facts = nodes.socket(name)
    shown = f"{code(nodes.socket_name(name))}, {kind}"
    if type_of(Request, name)[1] and name != "upscale":
        shown += f", {'empty' if facts['default'] == '' else format(facts['default'], 'g')} for the default"
    return shown


# --- recipes


RECIPES: tuple[tuple[str, str, type], ...] = (
    ("Training", "`layerflow train RECIPE.yaml`; see [training.md](../training.md).", Recipe),
    ("Footage", "`layerflow data build RECIPE.yaml`; see [footage.md](../footage.md).", FootageRecipe),
    ("Text encoder of the mini", "`python -m layerflow.mini.fitting.text_encoder RECIPE.yaml`.", TextRecipe),
    ("Upscaler of the mini", "`python -m layerflow.mini.fitting.upscaler RECIPE.yaml`.", UpscalerRecipe),
)
"""Heading, use and class of each kind of recipe."""


def recipes() -> Iterator[str]:
    """Yield the page of the keys of all recipes."""
    yield "# Keys of recipes\n"
    yield "Recipes are YAML. Unknown keys and values of another type are refused before anything starts. `name` is by"
    yield "default the file's, and `extends: other.yaml` takes over keys of a recipe in the same folder.\n"
    for title, use, kind in RECIPES:
        yield f"## {title}\n"
        yield f"{use}\n"
        yield from recipe_table(kind)
        for key, nested in nested_recipes(kind):
            yield f"### {title}: `{key}`\n"
            yield f"{first_paragraph(nested)}\n"
            yield from recipe_table(nested)


def recipe_table(kind: type) -> list[str]:
    meanings, hints = docstrings(kind), get_type_hints(kind)
    named = "name" in hints
    rows = []
    for field in config_keys(kind):
        default = "the file's name" if named and field.name == "name" else recipe_default(field)
        rows.append([code(field.name), shown_type(hints[field.name]), default, meanings.get(field.name, "")])
    return table(["key", "value", "default", "meaning"], rows)


def nested_recipes(kind: type, path: str = "") -> Iterator[tuple[str, type]]:
    """Yield the keys whose values are mappings with keys of their own, and their classes."""
    for name, hint in get_type_hints(kind).items():
        inner = next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)
        if inner is not None:
            yield path + name, inner  # type: ignore[misc]
            yield from nested_recipes(inner, f"{path}{name}.")  # type: ignore[arg-type]


def shown_type(hint: Any) -> str:
    """Return a type in words of YAML."""
    names = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "any value"}
    if hint in names:
        return names[hint]
    if is_dataclass(hint):
        return "mapping, see below"
    parts = [part for part in get_args(hint) if part is not type(None)]
    if get_origin(hint) is UnionType:
        return " or ".join(shown_type(part) for part in parts)
    if get_origin(hint) is dict:
        return f"mapping of {plural(parts[0])} to {plural(parts[1])}"
    assert get_origin(hint) is tuple, hint
    return f"list of {plural(parts[0])}" if parts[-1] is ... else f"list of {len(parts)} {plural(parts[0])}"


def plural(hint: Any) -> str:
    if is_dataclass(hint):
        return "mappings, see below"
    return {int: "whole numbers", float: "numbers", str: "texts", Any: "any values"}.get(hint) or "mappings"


def recipe_default(field: Field[Any]) -> str:
    """Return the default of a key as YAML would have it."""
    if field.default is MISSING and field.default_factory is MISSING:
        return "required"
    value = field.default if field.default_factory is MISSING else field.default_factory()
    if is_dataclass(value) or (isinstance(value, tuple) and any(is_dataclass(item) for item in value)):
        return "as below"
    if value is None or value in ("", (), {}):
        return NONE
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=sys.maxsize)
    return code(text.removesuffix("\n").removesuffix("\n..."))


def docstrings(kind: type) -> dict[str, str]:
    """Return the docstring below each field of a dataclass, by the field's name."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for statement, after in zip(definition.body, definition.body[1:], strict=False):
        is_field = isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if is_field and is_text:
            found[statement.target.id] = inspect.cleandoc(after.value.value)  # type: ignore[attr-defined]
    return found


def first_paragraph(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "cli.md": cli,
    "formats.md": formats,
    "recipes.md": recipes,
    "request.md": request,
}
"""Pages by file name."""


def page(name: str) -> str:
    """Return the text of a page."""
    return "\n".join([NOTE, "", *PAGES[name]()]).rstrip("\n") + "\n"


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in PAGES:
        (FOLDER / name).write_text(page(name), "utf-8")


if __name__ == "__main__":
    main()
