"""Text in the library: the command line alone writes options, other parts name fields."""

import ast
import re
from pathlib import Path

import pytest

import layerflow

SOURCE = Path(layerflow.__file__).parent
OPTION = re.compile(r"(?<![\w(-])--[a-z][a-z-]*(?![\w:-])")
WITH_OPTIONS = {
    "generation/record.py": "writes the command that reproduces a run",
    "generation/request.py": "names the options of the fields",
    "mini/art/packages.py": "runs npm and pip",
}
"""Modules beside the command line whose text has options."""
MODULES = [
    name
    for path in sorted(SOURCE.rglob("*.py"))
    if (name := path.relative_to(SOURCE).as_posix()) not in WITH_OPTIONS and not name.startswith("cli/")
]


def texts(tree: ast.AST) -> set[str]:
    """Return the strings of a module that are not docstrings."""
    docstrings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings)
    return {node.value for node in constants if isinstance(node.value, str)}


@pytest.mark.parametrize("name", MODULES)
def test_library_text_has_no_options(name: str) -> None:
    module = ast.parse((SOURCE / name).read_text("utf-8"))
    assert [text for text in texts(module) if OPTION.search(text)] == []


def test_modules_with_options_have_some() -> None:
    for name in WITH_OPTIONS:
        assert any(OPTION.search(text) for text in texts(ast.parse((SOURCE / name).read_text("utf-8")))), name
