"""The committed pages of docs/reference/ equal the output of tools/reference.py."""

import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from layerflow.media import FORMATS
from layerflow.media.export import PRESETS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "reference"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("layerflow_reference", ROOT / "tools" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@dataclass
class Partial:
    first: int = 0
    second: int = 0
    """A docstring."""
    third: int = 0


@pytest.mark.parametrize("name", ["cli.md", "formats.md", "recipes.md", "request.md"])
def test_page_is_current(reference: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")  # the width of a terminal must not matter
    committed, actual = (FOLDER / name).read_text("utf-8"), reference.page(name)
    assert committed == actual, f"docs/reference/{name} differs from the code; run `make reference` and commit it"


def test_formats_page_lists_every_format_and_preset() -> None:
    listed = re.findall(r"^\| `(\w+)`", (FOLDER / "formats.md").read_text("utf-8"), re.MULTILINE)
    assert {*FORMATS, *PRESETS} <= set(listed)


def test_folder_has_no_other_pages(reference: ModuleType) -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(reference.PAGES)


def test_fields_have_docstrings_of_their_own(reference: ModuleType) -> None:
    assert reference.docstrings(reference.FootageRecipe)["per_shard"] == "Clips of a shard."
    meanings = reference.docstrings(Partial)
    assert meanings == {"second": "A docstring."}, "a field without a docstring must not get its neighbour's"


def test_recipe_lists_keys_alone(reference: ModuleType) -> None:
    rows = "".join(reference.recipe_table(reference.FootageRecipe))
    assert "`seed`" in rows
    assert "`folder`" not in rows


def test_table_escapes_bars_and_line_breaks(reference: ModuleType) -> None:
    assert reference.table(["a"], [["1|2\n3"]])[2] == "| 1\\|2 3 |"
