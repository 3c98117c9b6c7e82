"""The benchmark of small networks for two moving things, as documented, with a few steps."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIGURES = {
    "pointing": [r"0\.\d+ M parameters", *(rf"{way} +\d\.\d+" for way in ("nothing", "matte", "clicks", "trimap"))],
    "two-foregrounds": [r"matched alpha IoU: nearer \d\.\d+, farther \d\.\d+", r"taken twice: \d\.\d+"],
}


@pytest.mark.parametrize("recipe", FIGURES)
def test_figures_are_printed(recipe: str, tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/pointing.py", "--recipe", recipe, "--steps", "2", "--scenes", "2"]
    done = subprocess.run([*command, "--output", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for figure in FIGURES[recipe]:
        assert re.search(figure, done.stdout), done.stdout
