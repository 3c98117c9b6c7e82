"""The examples run as users run them: each script in a process of its own, from a folder outside the checkout."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from layerflow.core.compositing import blend
from layerflow.media import load_layers, read_video

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def run(folder: Path, script: str, *arguments: str) -> str:
    """Run an example in `folder` and return what it prints."""
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the layers of the first example, which the others read."""
    folder = tmp_path_factory.mktemp("examples")
    run(folder, "text_to_layers.py", "--steps", "2")
    return folder


def test_text_to_layers(folder: Path) -> None:
    files = {path.name for path in (folder / "out/text_to_layers").iterdir()}
    assert {"foreground.webm", "background.webm", "blended.webm", "foreground.mov", "preview.webp"} <= files
    assert read_video(folder / "out/text_to_layers/foreground.mov").alpha is not None


def test_decompose_video(folder: Path) -> None:
    run(folder, "decompose_video.py", "out/text_to_layers/blended.webm", "--steps", "1")
    video, given = load_layers(folder / "out/decompose_video"), read_video(folder / "out/text_to_layers/blended.webm")
    assert video.alpha is not None
    assert video.blended is not None
    assert (video.blended - given.colour).abs().max() < 1 / 255, "the given clip comes back unchanged"
    assert 0.01 < video.alpha.mean() < 0.5


def test_replace_background(folder: Path) -> None:
    run(folder, "replace_background.py", "out/text_to_layers/blended.webm", "--steps", "1", "-o", "night")
    video = load_layers(folder / "night")
    assert video.foreground is not None
    assert video.alpha is not None
    assert video.background is not None
    assert video.blended is not None
    composite = blend(video.foreground, video.alpha, video.background)
    assert (video.blended - composite).abs().mean() < 0.02
    corner = read_video(folder / "night/green_screen.mp4").colour[:, :, 0, 0].mean(0)
    assert torch.allclose(corner, torch.tensor([0.0, 0.7, 0.2]), atol=0.1)


def test_save_for_editors(folder: Path) -> None:
    printed = run(folder, "save_for_editors.py", "out/text_to_layers", "--preset", "editors", "--preset", "game")
    output = folder / "out/save_for_editors"
    assert (output / "editors/layers.otio").is_file()
    assert read_video(output / "editors/foreground.mov").colour.shape[2:] == (512, 512)
    assert (output / "game/foreground.json").is_file()
    assert "editors/foreground.mov" in printed


def test_measure_decomposition(folder: Path) -> None:
    printed = run(folder, "measure_decomposition.py", "out/text_to_layers", "--steps", "1")
    figures = {line.rsplit(maxsplit=1)[0].strip(): line for line in printed.removesuffix(" dB\n").splitlines()}
    assert set(figures) == {"alpha IoU", "alpha MAE", "alpha edge error", "background PSNR"}
    assert float(figures["alpha IoU"].split()[-1]) > 0.5
    assert float(figures["background PSNR"].split()[-1]) > 20


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), f"strip the outputs of {path.name}"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 5


def test_each_example_is_tested_and_listed() -> None:
    names = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    tests, listing = Path(__file__).read_text("utf-8"), (EXAMPLES / "README.md").read_text("utf-8")
    assert all(f"({name})" in listing for name in names)
    assert all(f'"{name}"' in tests for name in names - {path.name for path in NOTEBOOKS})
