"""The import rule of docs/architecture.md, read from the source."""

import ast
from collections.abc import Iterator
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
BELOW["mini"] = {*BELOW}
BELOW["studio"] = {"core", "media", "models", "pipeline", "runtime", "generation"}
BELOW["cli"] = {*BELOW} - {"mini"}
"""What each folder (or module beside the folders) may import."""


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
    assert breaches == set()


def file_imports() -> dict[str, set[str]]:
    """Modules that each module imports, function-level imports included, those for types alone excluded.

    That importing `a.b` also runs `a/__init__.py` is left out of account.
    """
    paths = {
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in SOURCE.rglob("*.py")
    }
    graph: dict[str, set[str]] = {}
    for module, path in paths.items():
        package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
        names: set[str] = set()
        for node in runtime_nodes(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                inner = {alias.name: f"{base}.{alias.name}" for alias in node.names}
                names |= {inner[name] if inner[name] in paths else base for name in inner}
        graph[module] = (names & paths.keys()) - {module}
    return graph


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes of a syntax tree but those under `if TYPE_CHECKING`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")):
            yield from runtime_nodes(child)


def test_files_have_no_import_circle() -> None:
    circles = strong_components(file_imports())
    assert circles == []


def strong_components(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return groups of nodes that each reach every other one."""
    reached = {node: reachable(graph, node) for node in graph}
    groups = {tuple(sorted(other for other in reached[node] if node in reached[other])) for node in graph}
    return sorted(list(group) for group in groups if group)


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Return the nodes that one step or several lead to."""
    found: set[str] = set()
    todo = list(graph[start])
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo.extend(graph[node])
    return found


def test_circles_are_found() -> None:
    graph: dict[str, set[str]] = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"e"}, "f": {"a"}}
    assert strong_components(graph) == [["a", "b", "c"], ["e"]]


def test_the_rule_itself_has_no_circle() -> None:
    remaining = {folder: set(below) for folder, below in BELOW.items()}
    while remaining:
        bottom = [folder for folder, below in remaining.items() if not below]
        assert bottom, f"a circle among {sorted(remaining)}"
        for folder in bottom:
            del remaining[folder]
        for below in remaining.values():
            below.difference_update(bottom)
