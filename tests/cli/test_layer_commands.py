"""The commands that need no model, on a folder of layers with several foregrounds."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from layerflow.cli import run
from layerflow.core.layered_video import LayeredVideo
from layerflow.core.schema import clip_names, scene_layers
from layerflow.media import load_layers, read_video, save_layers, write_video

NAMES = clip_names(scene_layers(3))


@pytest.fixture(scope="module")
def scene() -> LayeredVideo:
    """Three foregrounds of random 8-bit levels, two frames of 12x16."""
    generator = torch.Generator().manual_seed(3)
    clips = {
        name: torch.randint(0, 256, (2, 1 if "alpha" in name else 3, 12, 16), generator=generator) / 255
        for name in NAMES
    }
    return LayeredVideo.from_clips(clips)


@pytest.fixture
def layers(scene: LayeredVideo, tmp_path: Path) -> Path:
    save_layers(scene, tmp_path / "layers", ("png",))
    return tmp_path / "layers"


def test_compose_stacks_all_foregrounds(scene: LayeredVideo, layers: Path, tmp_path: Path) -> None:
    hills = torch.linspace(0, 1, 16).expand(2, 3, 12, 16).contiguous()
    write_video(tmp_path / "hills.mkv", hills)
    assert run(["compose", str(layers), str(tmp_path / "hills.mkv"), "-o", str(tmp_path / "out.mkv")]) == 0
    composed = read_video(tmp_path / "out.mkv").colour
    assert (composed - scene.over(hills)).abs().max() <= 1e-5  # both files have 16 bits
    nearest = scene.replace(behind=()).over(hills)
    assert (composed - nearest).abs().max() > 0.1


def test_compose_puts_further_files_behind(scene: LayeredVideo, layers: Path, tmp_path: Path) -> None:
    near, far = scene.foregrounds[::2]
    for name, one in (("near", near), ("far", far)):
        assert one.colour is not None
        write_video(tmp_path / f"{name}.mkv", one.colour, one.alpha)
    Image.new("RGB", (16, 12), (0, 0, 255)).save(tmp_path / "blue.png")
    words = ["compose", str(tmp_path / "near.mkv"), str(tmp_path / "blue.png"), "-o", str(tmp_path / "out.mkv")]
    behind = ["--behind", str(layers), "--behind", str(tmp_path / "far.mkv")]
    assert run([*words, *behind]) == 0
    expected = scene.replace(foregrounds=[near, *scene.foregrounds, far]).over((0, 0, 1))
    assert (read_video(tmp_path / "out.mkv").colour - expected).abs().max() <= 1e-5


def test_compose_takes_alpha_of_the_nearest_from_its_own_file(scene: LayeredVideo, tmp_path: Path) -> None:
    near, far, _ = scene.foregrounds
    assert near.colour is not None
    assert near.alpha is not None
    assert far.colour is not None
    write_video(tmp_path / "near.mkv", near.colour)
    write_video(tmp_path / "matte.mkv", near.alpha.expand(-1, 3, -1, -1))
    write_video(tmp_path / "far.mkv", far.colour, far.alpha)
    Image.new("RGB", (16, 12)).save(tmp_path / "black.png")
    words = ["compose", str(tmp_path / "near.mkv"), str(tmp_path / "black.png"), "-o", str(tmp_path / "out.mkv")]
    assert run([*words, "--alpha", str(tmp_path / "matte.mkv"), "--behind", str(tmp_path / "far.mkv")]) == 0
    expected = scene.replace(foregrounds=[near, far]).over((0, 0, 0))
    assert (read_video(tmp_path / "out.mkv").colour - expected).abs().max() <= 1e-5


def test_compose_refuses_too_many_foregrounds(layers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (16, 12)).save(tmp_path / "black.png")
    words = ["compose", str(layers), str(tmp_path / "black.png"), "-o", str(tmp_path / "out.mkv")]
    assert run([*words, *["--behind", str(layers)] * 2]) == 2
    assert "there are 9 foregrounds: a layered video has at most 8" in capsys.readouterr().err


def test_compose_resizes_a_stack(scene: LayeredVideo, layers: Path, tmp_path: Path) -> None:
    Image.new("RGB", (32, 24), (255, 0, 0)).save(tmp_path / "red.png")
    words = ["compose", str(layers), str(tmp_path / "red.png"), "-o", str(tmp_path / "out.mkv"), "--fit"]
    assert run(words) == 0
    composed = read_video(tmp_path / "out.mkv").colour
    assert (composed - scene.over((1, 0, 0))).abs().max() <= 1e-5


def test_compose_names_a_missing_alpha(scene: LayeredVideo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_layers(scene.replace(**{"alpha-2": None}), tmp_path / "layers", ("png",))
    Image.new("RGB", (16, 12)).save(tmp_path / "black.png")
    words = ["compose", str(tmp_path / "layers"), str(tmp_path / "black.png"), "-o", str(tmp_path / "out.mkv")]
    assert run(words) == 2
    assert "alpha-2 is missing" in capsys.readouterr().err
    assert not (tmp_path / "out.mkv").exists()


@pytest.mark.parametrize("preset", ["editors", "web", "game", "compositing"])
def test_export_writes_all_foregrounds(
    layers: Path, tmp_path: Path, preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", str(layers), "-o", str(tmp_path / "out"), "--preset", preset, "--edges", "0.5"]) == 0
    printed = capsys.readouterr().out
    for name in ("layers_exr",) if preset == "compositing" else ("foreground.", "foreground-2.", "foreground-3."):
        assert f"{tmp_path / 'out' / name}" in printed


def test_export_names_lossy_foregrounds(
    scene: LayeredVideo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_layers(scene, tmp_path / "layers", ("webm",))
    assert run(["export", str(tmp_path / "layers"), "-o", str(tmp_path / "out"), "--preset", "game"]) == 0
    assert "foreground and foreground-2 and foreground-3 and" in capsys.readouterr().err


def test_info_lists_the_clips(layers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", str(layers)]) == 0
    shown = capsys.readouterr().out
    assert ", ".join(NAMES) in shown
    assert "foreground-2_png: png, RGBA, 8 bits, alpha straight" in shown
    assert load_layers(layers).compose().blended is not None
