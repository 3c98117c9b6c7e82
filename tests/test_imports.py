"""The import rule of docs/architecture.md, read from the source. Its breaches are listed, and the list only shrinks."""

import ast
from pathlib import Path

import layerflow

SOURCE = Path(layerflow.__file__).parent

BELOW: dict[str, set[str]] = {
    "core": set(),
    "media": {"core"},
    "models": {"core"},
    "pipeline": {"core", "models"},
    "runtime": {"core", "models", "pipeline"},
    "generation": {"core", "media", "models", "pipeline", "runtime"},
    "datasets": {"core", "media", "models", "pipeline", "runtime"},
    "evaluation": {"core", "media", "models", "pipeline", "runtime", "generation"},
    "training": {"core", "media", "models", "pipeline", "runtime", "datasets", "evaluation"},
}
BELOW["mini"] = {*BELOW} - {"generation"}
BELOW["studio"] = {"core", "media", "models", "pipeline", "runtime", "generation"}
BELOW["cli"] = {*BELOW} - {"mini"}
"""What each folder (or module beside the folders) may import."""

EXCEPTIONS = {
    ("cli.evaluate", "mini"),
    ("cli.train", "mini"),
    ("training.network", "mini"),
    ("training.plan", "mini"),
    ("training.recipe", "mini"),
    ("training.sources", "mini"),
    ("training.trainer", "mini"),
}
"""Module and imported folder: breaches of the rule. The registry knows the mini by name and imports it on demand."""


def imports() -> set[tuple[str, str]]:
    """Pairs of a module and a folder that it imports, function-level imports and those for types included."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        module, package = ".".join(parts).removesuffix(".__init__"), ["layerflow", *parts[:-1]]
        if module == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            targets: list[str] = []
            if isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                name = ".".join([*base, node.module] if node.module else base)
                targets = [f"{name}.{alias.name}" for alias in node.names] if name == "layerflow" else [name]
            elif isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            for target in targets:
                top, _, rest = target.partition(".")
                folder = rest.partition(".")[0]
                if top == "layerflow" and folder in BELOW and folder != parts[0]:
                    found.add((module, folder))
    return found


def test_folders_import_only_what_is_below_them() -> None:
    breaches = {(module, folder) for module, folder in imports() if folder not in BELOW[module.partition(".")[0]]}
    assert breaches - EXCEPTIONS == set()
    assert EXCEPTIONS - breaches == set(), "mended: take it off the list"


def test_the_rule_itself_has_no_circle() -> None:
    remaining = {folder: set(below) for folder, below in BELOW.items()}
    while remaining:
        bottom = [folder for folder, below in remaining.items() if not below]
        assert bottom, f"a circle among {sorted(remaining)}"
        for folder in bottom:
            del remaining[folder]
        for below in remaining.values():
            below.difference_update(bottom)
