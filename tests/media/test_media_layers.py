"""A layered video as a folder, and the pictures made of it."""

import hashlib
import json

import pytest
import torch
from PIL import Image

from layerflow.core import atomic
from layerflow.core.layered_video import LayeredVideo
from layerflow.media import (
    FORMATS,
    MediaError,
    contact_sheet,
    load_layers,
    read_video,
    save_layers,
    write_preview,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def close(one: LayeredVideo, other: LayeredVideo, worst: float) -> None:
    assert one.clips().keys() == other.clips().keys()
    assert (one.frames, one.height, one.width, one.fps) == (
        other.frames,
        other.height,
        other.width,
        other.fps,
    )
    for name in ("alpha", "background", "blended"):
        assert (one.clips()[name] - other.clips()[name]).abs().mean() < worst
    assert (one.premultiplied() - other.premultiplied()).abs().mean() < worst


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("size", [(32, 48), (31, 47)], ids=str)
def test_saves_and_loads(scene, tmp_path, name, size):
    scene = scene.crop(0, 0, *size)
    folder = tmp_path / "out"
    index = save_layers(scene, folder, formats=(name,), metadata={"seed": 7, "prompt": "une forêt"})
    assert json.loads((folder / "layers.json").read_text("utf-8")) == index
    assert index["metadata"] == {"seed": 7, "prompt": "une forêt"}
    assert index["blended"] == "given"
    files = [entry["name"] for entry in index["files"]]
    assert names(folder) == sorted([*files, "layers.json", "preview.webp"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    for entry in index["files"]:
        if not FORMATS[name].folder:
            data = (folder / entry["name"]).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["bytes"], entry["sha256"])
    close(load_layers(folder), scene, 0.01)


def test_index_states_the_conventions(scene, tmp_path):
    index = save_layers(scene, tmp_path / "out", ("webm", "mp4"))
    by_name = {entry["name"]: entry for entry in index["files"]}
    assert list(by_name) == [
        "foreground.webm",
        "background.webm",
        "blended.webm",
        "foreground.mp4",
        "alpha.mp4",
        "background.mp4",
        "blended.mp4",
    ]
    assert by_name["foreground.webm"]["alpha"] == "straight"
    assert by_name["foreground.webm"]["codec"] == "libvpx-vp9"
    assert by_name["foreground.mp4"]["alpha"].startswith("foreground over mid-grey")
    assert by_name["alpha.mp4"]["alpha"].startswith("this file")
    assert by_name["background.webm"]["alpha"] == "none"
    assert "BT.709" in by_name["background.mp4"]["colour"]


def test_loading_prefers_the_deepest_lossless(scene, tmp_path):
    save_layers(scene, tmp_path / "out", ("mp4", "ffv1", "png"))
    loaded = load_layers(tmp_path / "out")
    for name, clip in scene.clips().items():
        torch.testing.assert_close(loaded.clips()[name], clip, rtol=0, atol=1e-5)


def test_a_missing_blend_is_composed_and_said_so(scene, tmp_path):
    index = save_layers(scene.replace(blended=None), tmp_path / "out", ("ffv1",))
    assert index["blended"] == "composed from foreground over background"
    torch.testing.assert_close(load_layers(tmp_path / "out").blended, scene.blended, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "kept", [("foreground",), ("alpha", "blended"), ("foreground", "alpha"), ("background",)], ids=str
)
def test_missing_clips_are_skipped(scene, tmp_path, kept):
    some = LayeredVideo(**{name: clip for name, clip in scene.clips().items() if name in kept})
    index = save_layers(some, tmp_path / "out", formats=("ffv1",))
    assert index["blended"] == ("given" if "blended" in kept else "missing")
    loaded = load_layers(tmp_path / "out")
    assert tuple(loaded.clips()) == kept
    for name in kept:
        torch.testing.assert_close(loaded.clips()[name], scene.clips()[name], rtol=0, atol=1e-5)


def test_the_same_video_gives_the_same_folder(scene, tmp_path):
    for folder in ("a", "b"):
        save_layers(scene, tmp_path / folder, metadata={"b": 1, "a": 2})
    assert names(tmp_path / "a") == names(tmp_path / "b")
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_still_scene_survives_webp(scene, tmp_path):
    still = LayeredVideo(background=scene.background[:1].expand(4, -1, -1, -1).clone())
    save_layers(still, tmp_path / "out", formats=("webp",))
    assert load_layers(tmp_path / "out").frames == 4


def test_a_folder_is_filled_whole_or_not_at_all(scene, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    save_layers(scene, folder, ("png",))
    (folder / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    real = atomic.os.replace

    def failing(source, target):
        if str(target).endswith("out/layers.json") and ".old" not in str(source):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(atomic.os, "replace", failing)
    with pytest.raises(MediaError, match="No space left"):
        save_layers(scene.replace(background=1 - scene.background), folder, ("png", "webm"))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert names(tmp_path) == ["out"]
    monkeypatch.undo()

    def broken(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("layerflow.media.layers.write_preview", broken)
    with pytest.raises(MediaError, match="No space left"):
        save_layers(scene, tmp_path / "new", ("png",))
    assert names(tmp_path) == ["out"]


def test_refusals(scene, tmp_path):
    with pytest.raises(ValueError, match="at least one of prores"):
        save_layers(scene, tmp_path / "out", ())
    with pytest.raises(ValueError, match="formats is 'webm'"):
        save_layers(scene, tmp_path / "out", "webm")
    with pytest.raises(MediaError, match="'tiff' is not known"):
        save_layers(scene, tmp_path / "out", ("tiff",))
    with pytest.raises(ValueError, match="metadata cannot be kept"):
        save_layers(scene, tmp_path / "out", metadata={"a": object()})
    with pytest.raises(MediaError, match="no such folder"):
        load_layers(tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MediaError, match="holds no layers"):
        load_layers(tmp_path / "empty")
    (tmp_path / "file").write_text("x")
    with pytest.raises(MediaError, match="a file is in the way"):
        save_layers(scene, tmp_path / "file")


def test_layers_are_found_by_name_without_an_index(scene, tmp_path):
    save_layers(scene, tmp_path / "out", ("prores",))
    (tmp_path / "out" / "layers.json").unlink()
    close(load_layers(tmp_path / "out"), scene, 0.01)


@pytest.mark.parametrize(
    "damage",
    [
        lambda index: "{",
        lambda index: "[]",
        lambda index: json.dumps({**index, "version": 99}),
        lambda index: json.dumps({**index, "frames": "many"}),
        lambda index: json.dumps({**index, "files": [{**index["files"][0], "name": "../secret.mkv"}]}),
        lambda index: json.dumps({**index, "files": [{**index["files"][0], "format": "gif"}]}),
        lambda index: json.dumps({**index, "files": [{**index["files"][0], "name": "gone.mkv"}]}),
    ],
)
def test_a_damaged_index_is_an_error(scene, tmp_path, damage):
    index = save_layers(scene, tmp_path / "out", ("ffv1",))
    (tmp_path / "out" / "layers.json").write_text(damage(index))
    with pytest.raises(MediaError, match=r"damaged|version 99|missing"):
        load_layers(tmp_path / "out")


def test_layers_of_different_sizes_do_not_fit(scene, tmp_path):
    save_layers(scene, tmp_path / "out", ("ffv1",))
    save_layers(scene.crop(0, 0, 16, 16), tmp_path / "small", ("ffv1",))
    (tmp_path / "small" / "background.mkv").rename(tmp_path / "out" / "background.mkv")
    with pytest.raises(MediaError, match=r"do not fit together.*height 16"):
        load_layers(tmp_path / "out")


def test_alpha_of_one_survives_webp(scene, tmp_path):
    opaque = scene.replace(alpha=torch.ones_like(scene.alpha), blended=None)
    save_layers(opaque, tmp_path / "out", formats=("webp",))
    assert bool((load_layers(tmp_path / "out").alpha == 1).all())


# Pictures


def test_preview_moves_and_shows_each_clip(scene, tmp_path):
    path = write_preview(scene, tmp_path / "preview.webp")
    shown = read_video(path)
    # 48 pixels wide grows four times; four cells with gaps of 4 around them.
    assert shown.colour.shape == (4, 3, 32 * 4 + 8, 4 * 192 + 5 * 4)
    assert shown.fps == 8
    middle = shown.colour[0, :, 4 + 64, 4 + 192 + 4 + 70]
    assert (middle - scene.alpha[0, 0, 16, 17]).abs().max() < 0.05
    one = write_preview(LayeredVideo(alpha=scene.alpha), tmp_path / "alpha.webp", scale=1)
    assert read_video(one).colour.shape[-2:] == (32 + 8, 48 + 8)
    with pytest.raises(ValueError, match="scale is 0"):
        write_preview(scene, tmp_path / "x.webp", scale=0)


def test_contact_sheet_has_a_row_for_each_clip(scene):
    sheet = contact_sheet(scene, columns=3)
    assert isinstance(sheet, Image.Image)
    assert sheet.size == (3 * 96 + 4 * 4, 4 * 64 + 5 * 4)
    assert contact_sheet(scene[0], columns=8).size == (96 + 8, 4 * 64 + 5 * 4)
    with pytest.raises(ValueError, match="columns is 0"):
        contact_sheet(scene, columns=0)
