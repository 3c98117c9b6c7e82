"""The atlas of made-up art: built, read, packed and drawn as a sheet, through the same code as the real one."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from layerflow.mini.art import packages
from layerflow.mini.art.build import build
from layerflow.mini.art.pictures import PHASES, SIDE, ArtError
from layerflow.mini.art.sheet import contact_sheet
from layerflow.mini.world import packing
from layerflow.mini.world.atlas import BACKGROUNDS, INDEX, SPRITES, STYLES, Atlas, AtlasError, Sprite
from layerflow.mini.world.packing import pack, unpack

SOURCES = ("animated emoji", "furniture", "characters", "photographs", "film")
"""Those that need no library of the extra `art`."""
TOOL = Path(__file__).parents[3] / "tools" / "atlas.py"


@pytest.fixture
def folder(art: Path, tmp_path: Path) -> Path:
    """Built atlas."""
    build(art, tmp_path / "atlas", lambda line: None, SOURCES)
    return tmp_path / "atlas"


def test_build_and_open(folder: Path) -> None:
    atlas = Atlas.open(folder)
    assert [sprite.name for sprite in atlas.sprites[:2]] == ["fox", "chair"]
    assert [sprite.phases for sprite in atlas.sprites] == [PHASES, 1] + [8] * 6
    assert [sprite.moves for sprite in atlas.sprites] == [True, False] + [True] * 6
    assert [sprite.number for sprite in atlas.sprites] == list(range(8))
    assert {sprite.style for sprite in atlas.sprites} <= STYLES.keys()
    assert {background.kind for background in atlas.backgrounds} == {"photograph", "film"}
    assert atlas.phases(atlas.sprites[2]).shape == (8, SIDE, SIDE, 4)
    assert np.array_equal(atlas.sprite(atlas.sprites[0], PHASES + 1), atlas.phases(atlas.sprites[0])[1])
    for background in atlas.backgrounds:
        assert atlas.background(background).shape == (background.frames, background.height, background.width, 3)
    assert atlas.background(atlas.backgrounds[0])[0, 0, 0].tolist() == pytest.approx([200, 150, 90], abs=3)
    assert {package["name"] for package in atlas.packages} == {item.name for item in packages.PACKAGES}


def test_build_with_drawings(art: Path, tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    build(art, tmp_path / "atlas", lambda line: None, ["drawn emoji"])
    atlas = Atlas.open(tmp_path / "atlas")
    assert {sprite.name for sprite in atlas.sprites} == {"house"}
    assert len({sprite.held_out for sprite in atlas.sprites}) == 1
    assert not atlas.backgrounds


def test_failed_build_leaves_the_earlier_atlas(art: Path, folder: Path) -> None:
    before = (folder / INDEX).read_bytes()
    (art / packages.package("arcade").folder).rename(art / "elsewhere")
    with pytest.raises(ArtError, match="is missing; fetch the art"):
        build(art, folder, lambda line: None, SOURCES)
    assert (folder / INDEX).read_bytes() == before
    assert not [path for path in folder.parent.iterdir() if path.name.endswith(".partial")]


def test_build_names_what_cannot_be_drawn(art: Path, tmp_path: Path) -> None:
    walk = art / packages.package("arcade").folder / "arcade/resources/assets/images/animated_characters/robot"
    (walk / "robot_walk3.png").write_bytes(b"no picture")
    with pytest.raises(ArtError, match=r"robot \(character/robot, game\) cannot be drawn"):
        build(art, tmp_path / "atlas", lambda line: None, ["characters"])


def test_build_refuses_unknown_source_and_missing_folder(art: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtError, match=r"stamps is no source of art; choose of animated emoji, .*film"):
        build(art, tmp_path / "atlas", sources=["stamps"])
    with pytest.raises(ArtError, match="nowhere is missing; fetch the art"):
        build(tmp_path / "nowhere", tmp_path / "atlas")


@pytest.mark.parametrize("name", [INDEX, SPRITES, BACKGROUNDS])
def test_open_refuses_incomplete_atlas(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(AtlasError, match=rf"{name} is missing; build the atlas with `tools/atlas.py build`"):
        Atlas.open(folder)


def test_open_refuses_other_version(folder: Path) -> None:
    content = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps({**content, "version": 0}))
    with pytest.raises(AtlasError, match="has version 0, but 1 is needed"):
        Atlas.open(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_open_refuses_other_json(folder: Path, text: str) -> None:
    (folder / INDEX).write_text(text)
    with pytest.raises(AtlasError, match=r"atlas\.json is no index of an atlas"):
        Atlas.open(folder)


def test_open_refuses_arrays_of_another_atlas(folder: Path) -> None:
    np.save(folder / SPRITES, np.zeros((3, SIDE, SIDE, 4), np.uint8))
    with pytest.raises(AtlasError, match=r"sprites\.npy does not hold the 73 phases of 128x128 pixels"):
        Atlas.open(folder)
    (folder / SPRITES).write_bytes(b"no array")
    with pytest.raises(AtlasError, match="holds a damaged atlas"):
        Atlas.open(folder)


def test_phrase() -> None:
    fox = Sprite(0, "1f98a", "fox", (), "walking", "3d", 0, 1, "animated", False, True, "MIT", "Microsoft")
    assert fox.phrase() == "a fox walking"
    assert fox.phrase(verb=False) == "a fox"
    assert replace(fox, name="person running", verb="running").phrase() == "a person running"
    assert replace(fox, verb="").phrase() == "a fox"


def test_packed_atlas_unpacks_to_the_same_format(folder: Path, tmp_path: Path) -> None:
    level = pack(folder, tmp_path / "atlas.zip", report=lambda line: None)
    assert level == packing.LEVELS[0]
    unpack(tmp_path / "atlas.zip", tmp_path / "copy")
    before, after = Atlas.open(folder), Atlas.open(tmp_path / "copy")
    assert before.sprites == after.sprites
    assert before.backgrounds == after.backgrounds
    assert before.packages == after.packages
    for one, other in zip(before.sprites, after.sprites, strict=True):
        assert np.abs(before.phases(one).astype(int) - after.phases(other)).mean() < 3
    for one, other in zip(before.backgrounds, after.backgrounds, strict=True):
        assert np.abs(before.background(one).astype(int) - after.background(other)).mean() < 4


def test_pack_lowers_quality_to_fit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best = tmp_path / "best.zip"
    pack(folder, best, report=lambda line: None)
    monkeypatch.setattr(packing, "LEVELS", (packing.LEVELS[0], packing.Level(20, 8, 6)))
    level = pack(folder, tmp_path / "small.zip", int(best.stat().st_size * 0.8), lambda line: None)
    assert level.phases == 6
    assert (tmp_path / "small.zip").stat().st_size <= best.stat().st_size * 0.8
    unpack(tmp_path / "small.zip", tmp_path / "copy")
    atlas = Atlas.open(tmp_path / "copy")
    assert [sprite.phases for sprite in atlas.sprites] == [6, 1] + [6] * 6
    assert max(background.frames for background in atlas.backgrounds) == 8
    first = Atlas.open(folder)
    fourth = atlas.sprite(atlas.sprites[0], 3).astype(int)
    assert np.abs(fourth - first.sprite(first.sprites[0], 12)).mean() < 8  # the same moment of the loop


def test_packing_is_reproducible(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        pack(folder, tmp_path / name, report=lambda line: None)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_pack_refuses_small_budget_and_leaves_the_earlier_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "atlas.zip").write_bytes(b"earlier")
    with pytest.raises(AtlasError, match=r"needs about \d+\.\d MiB at the lowest quality, but 0\.0 are allowed"):
        pack(folder, tmp_path / "atlas.zip", 100, lambda line: None)
    assert (tmp_path / "atlas.zip").read_bytes() == b"earlier"


def test_unpack_refuses_other_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AtlasError, match=r"is missing; write it with `tools/atlas.py pack`"):
        unpack(tmp_path / "none.zip", tmp_path / "copy")
    (tmp_path / "bad.zip").write_bytes(b"no archive")
    with pytest.raises(AtlasError, match=r"bad\.zip is no packed atlas"):
        unpack(tmp_path / "bad.zip", tmp_path / "copy")
    shutil.make_archive(str(tmp_path / "other"), "zip", folder, BACKGROUNDS)
    with pytest.raises(AtlasError, match=r"other\.zip is no packed atlas"):
        unpack(tmp_path / "other.zip", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_contact_sheet_shows_every_kind(folder: Path) -> None:
    sheet = contact_sheet(Atlas.open(folder), rows=1)
    assert sheet.width > 1000
    assert sheet.height > 4 * 60
    assert len(sheet.getcolors(sheet.width * sheet.height) or ()) > 100


def test_tool_reports_errors_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, TOOL, "sheet", tmp_path, tmp_path / "x.png"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "tools/atlas.py build" in done.stderr
    assert "Traceback" not in done.stderr


def test_tool_commands(folder: Path, tmp_path: Path) -> None:
    app = runpy.run_path(str(TOOL))["app"]
    for arguments in (
        ["pack", folder, tmp_path / "packed"],
        ["unpack", tmp_path / "packed", tmp_path / "copy"],
        ["sheet", tmp_path / "copy", tmp_path / "sheet.png", "--rows", "1"],
    ):
        app([str(argument) for argument in arguments], standalone_mode=False)
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_fetch_runs_the_clients_and_skips_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = tuple(packages.package(name) for name in ("emojibase-data", "endless-sky-high-dpi", "arcade"))
    monkeypatch.setattr(packages, "PACKAGES", chosen)
    content = tmp_path / "content"
    (content / "package").mkdir(parents=True)
    (content / "package" / "file.txt").write_text("art")
    commands: list[list[str]] = []

    def client(command: list[str], cwd: Path, **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        if command[0] == "npm":
            shutil.make_archive(str(cwd / "x"), "gztar", content)
            (cwd / "x.tar.gz").rename(cwd / "x.tgz")
        elif command[0] == "apt-get":
            (cwd / "x.deb").touch()
        elif command[0] == "dpkg":
            (Path(command[3]) / "usr").mkdir()
        else:
            shutil.make_archive(str(cwd / "x"), "zip", content)
            (cwd / "x.zip").rename(cwd / "x.whl")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packages.subprocess, "run", client)
    monkeypatch.setattr(packages.shutil, "which", lambda name: name)
    art = tmp_path / "art"
    packages.fetch(art)
    assert commands[0] == ["npm", "pack", "--silent", "emojibase-data@17.0.0"]
    assert commands[1] == ["apt-get", "download", "endless-sky-high-dpi"]
    assert commands[3][-1] == "arcade==3.3.3"
    assert (art / "npm/emojibase-data-17.0.0/file.txt").read_text() == "art"
    assert (art / "deb/endless-sky-high-dpi/usr").is_dir()
    assert (art / "pypi/arcade-3.3.3/package/file.txt").is_file()
    count = len(commands)
    packages.fetch(art)
    assert len(commands) == count
    assert "arcade 3.3.3: already there" in capsys.readouterr().out


def test_fetch_says_why_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "PACKAGES", (packages.package("emojibase-data"),))
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(ArtError, match="npm is needed to fetch emojibase-data"):
        packages.fetch(tmp_path, lambda line: None)
    failed = subprocess.CompletedProcess([], 1, "", "first line\nE404 not found\n")
    monkeypatch.setattr(packages.shutil, "which", lambda name: name)
    monkeypatch.setattr(packages.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ArtError, match=r"fetching emojibase-data 17\.0\.0 failed: E404 not found"):
        packages.fetch(tmp_path, lambda line: None)
    assert not (tmp_path / "npm" / "emojibase-data-17.0.0").exists()
