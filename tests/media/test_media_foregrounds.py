"""Several foregrounds through every format and preset: each one there, in order, and exact where files are lossless."""

import json
import shutil
from pathlib import Path

import av
import numpy as np
import OpenEXR
import opentimelineio as otio
import pytest
import torch
from PIL import Image

from layerflow.core.layered_video import Foreground, LayeredVideo
from layerflow.media import (
    FORMATS,
    MediaError,
    contact_sheet,
    load_layers,
    lossy_layers,
    read_video,
    save_layers,
    saved_clips,
    write_preview,
)
from layerflow.media.export import PRESETS, Settings, clean_edges, deliver
from layerflow.media.export.exr import to_linear

FRAMES, HEIGHT, WIDTH = 3, 12, 16
NAMES = ("foreground", "alpha", "foreground-2", "alpha-2", "foreground-3", "alpha-3", "background", "blended")
LAYERS = ("foreground", "foreground-2", "foreground-3", "background", "blended")
LOSSLESS = [name for name, one in FORMATS.items() if one.lossless]
LOSSY = [name for name, one in FORMATS.items() if not one.lossless]


@pytest.fixture(scope="module")
def levels() -> LayeredVideo:
    """Three foregrounds of random 8-bit levels, so that files of 8 and 16 bits keep them. Blended is none of them."""
    generator = torch.Generator().manual_seed(0)
    return LayeredVideo.from_clips(
        {
            name: torch.randint(0, 256, (FRAMES, 1 if "alpha" in name else 3, HEIGHT, WIDTH), generator=generator) / 255
            for name in NAMES
        }
    )


@pytest.fixture(scope="module")
def stack(scene: LayeredVideo) -> LayeredVideo:
    """Three smooth foregrounds that overlap: the disc, mirrored, and turned, in other colours."""
    colour, alpha = scene.foreground, scene.alpha
    assert colour is not None
    assert alpha is not None
    mirrored = Foreground(colour.flip(-1).flip(1), alpha.flip(-1))
    turned = Foreground(colour.flip(-2, 1), alpha.flip(-2) * 0.7)
    return scene.replace(behind=(mirrored, turned)).compose()


def entries(folder: Path) -> list[str]:
    return [file["name"] for file in json.loads((folder / "layers.json").read_text())["files"]]


def assert_same(one: LayeredVideo, other: LayeredVideo, visible_only: bool = False) -> None:
    """Assert that all clips are equal, with `visible_only` only where colour has alpha above 0."""
    assert list(one.clips()) == list(other.clips())
    for mine, theirs in zip(one.foregrounds, other.foregrounds, strict=True):
        assert mine.alpha is not None
        assert mine.colour is not None
        assert theirs.colour is not None
        seen = (mine.alpha > 0).expand_as(mine.colour) if visible_only else torch.ones_like(mine.colour, dtype=bool)
        assert torch.equal(mine.colour[seen], theirs.colour[seen])
    for name in one.clips():
        if not name.startswith("foreground"):
            assert torch.equal(one.clips()[name], other.clips()[name]), name


# Folders of layers


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_give_back_every_foreground(levels: LayeredVideo, tmp_path: Path, name: str) -> None:
    index = save_layers(levels, tmp_path, (name,))
    assert entries(tmp_path) == [FORMATS[name].name_of(layer) for layer in LAYERS]
    assert (index["version"], index["clips"]) == (2, list(NAMES))
    hides = name == "webp"  # drops colour where alpha is 0
    assert_same(levels, load_layers(tmp_path), visible_only=hides)
    assert lossy_layers(tmp_path) == []
    (tmp_path / "layers.json").unlink()
    assert_same(levels, load_layers(tmp_path), visible_only=hides)


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_formats_give_back_every_foreground(stack: LayeredVideo, tmp_path: Path, name: str) -> None:
    save_layers(stack, tmp_path, (name,))
    for indexed in (True, False):
        if not indexed:
            (tmp_path / "layers.json").unlink()
        back = load_layers(tmp_path)
        assert list(back.clips()) == list(NAMES)
        for mine, theirs in zip(stack.foregrounds, back.foregrounds, strict=True):
            assert float((mine.alpha - theirs.alpha).abs().mean()) < 0.01
            assert float((mine.alpha * mine.colour - theirs.alpha * theirs.colour).abs().mean()) < 0.01
        assert float((back.compose().blended - stack.blended).abs().mean()) < 0.015


def test_formats_without_alpha_have_a_file_per_clip(stack: LayeredVideo, tmp_path: Path) -> None:
    index = save_layers(stack, tmp_path, ("mp4",))
    assert entries(tmp_path) == [f"{name}.mp4" for name in NAMES]
    by_name = {file["name"]: file["alpha"] for file in index["files"]}
    assert by_name["foreground-2.mp4"] == "foreground-2 over mid-grey; its alpha is in the file of layer alpha-2"
    assert by_name["alpha-2.mp4"].startswith("this file")
    assert lossy_layers(tmp_path) == list(NAMES)


def test_best_file_is_chosen_for_each_foreground(levels: LayeredVideo, tmp_path: Path) -> None:
    save_layers(levels, tmp_path, ("mp4", "webm", "ffv1"))
    assert_same(levels, load_layers(tmp_path))
    (tmp_path / "layers.json").unlink()
    (tmp_path / "foreground-2.mkv").unlink()
    assert lossy_layers(tmp_path) == ["alpha", "foreground-2", "alpha-2", "alpha-3"]


def test_a_missing_blend_is_composed_from_all(stack: LayeredVideo, tmp_path: Path) -> None:
    index = save_layers(stack.replace(blended=None), tmp_path, ("ffv1",))
    assert index["blended"] == "composed from foregrounds over background"
    assert index["convention"].endswith("foregrounds are numbered from near to far and composited from far to near")
    torch.testing.assert_close(load_layers(tmp_path).blended, stack.blended, rtol=0, atol=1e-5)


def test_one_foreground_is_written_as_version_1(scene: LayeredVideo, tmp_path: Path) -> None:
    index = save_layers(scene, tmp_path, ("png",))
    assert index["version"] == 1
    (tmp_path / "layers.json").write_text(json.dumps({**index, "version": 2}))
    assert list(load_layers(tmp_path).clips()) == ["foreground", "alpha", "background", "blended"]
    (tmp_path / "layers.json").write_text(json.dumps({**index, "version": 3}))
    with pytest.raises(MediaError, match="version 3, but versions 1 and 2 can be read"):
        load_layers(tmp_path)


@pytest.mark.parametrize("clips", [["foreground", "alpha-9"], ["matte"]], ids=str)
def test_unknown_clips_in_the_index_are_refused(scene: LayeredVideo, tmp_path: Path, clips: list[str]) -> None:
    index = save_layers(scene, tmp_path, ("png",))
    (tmp_path / "layers.json").write_text(json.dumps({**index, "clips": clips}))
    with pytest.raises(MediaError, match=f"it is damaged.*{clips[-1]}"):
        load_layers(tmp_path)


def test_parts_of_a_stack_keep_their_numbers(levels: LayeredVideo, tmp_path: Path) -> None:
    kept = {"alpha-2": levels.clips()["alpha-2"], "foreground-3": levels.clips()["foreground-3"]}
    save_layers(LayeredVideo.from_clips(kept), tmp_path, ("png",))
    assert entries(tmp_path) == ["alpha-2_png", "foreground-3_png"]
    back = load_layers(tmp_path)
    assert list(back.clips()) == list(kept)
    assert all(torch.equal(back.clips()[name], clip) for name, clip in kept.items())


def test_opaque_foregrounds_survive_webp(stack: LayeredVideo, tmp_path: Path) -> None:
    opaque = stack.replace(**{"alpha-2": torch.ones_like(stack.alpha)})
    save_layers(opaque, tmp_path, ("webp",))
    back = load_layers(tmp_path)
    assert list(back.clips()) == list(NAMES)
    assert bool((back.clips()["alpha-2"] == 1).all())


def test_saved_clips_reads_no_video(levels: LayeredVideo, tmp_path: Path) -> None:
    save_layers(levels, tmp_path, ("ffv1",))
    (tmp_path / "foreground-2.mkv").write_bytes(b"")
    assert saved_clips(tmp_path) == list(NAMES)
    (tmp_path / "layers.json").unlink()
    with pytest.raises(MediaError, match=r"no layers\.json"):
        saved_clips(tmp_path)


def test_preview_and_sheet_show_every_clip(stack: LayeredVideo, tmp_path: Path) -> None:
    shown = read_video(write_preview(stack, tmp_path / "preview.webp", scale=1))
    assert shown.colour.shape == (4, 3, 32 + 8, len(NAMES) * 48 + (len(NAMES) + 1) * 4)
    sheet = contact_sheet(stack, columns=2, scale=1)
    assert sheet.size == (2 * 48 + 3 * 4, len(NAMES) * 32 + (len(NAMES) + 1) * 4)
    pixels = np.asarray(sheet)
    row = 2 * (32 + 4) + 4  # of foreground-2, which lies over a checkerboard
    corner = pixels[row : row + 4, 4:8].astype(float) / 255
    assert float(stack.clips()["alpha-2"][0, :, :4, :4].max()) == 0
    assert np.allclose(corner, 0.6, atol=0.01)


# Presets


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_every_foreground(levels: LayeredVideo, tmp_path: Path, preset: str) -> None:
    record = deliver(levels, tmp_path, preset)
    names = [file["name"] for file in record["files"]]
    assert all((tmp_path / name).exists() for name in names)
    if preset != "compositing":  # which has all layers in each file
        suffix = {"editors": ".mov", "web": ".webm", "game": ".png"}[preset]
        assert [Path(name).stem for name in names if name.endswith(suffix)] == list(LAYERS)


def test_timeline_has_the_nearest_on_top(levels: LayeredVideo, tmp_path: Path) -> None:
    deliver(levels, tmp_path, "editors")
    timeline = otio.adapters.read_from_file(str(tmp_path / "layers.otio"))
    tracks = [(track.name, track.enabled) for track in timeline.tracks]
    assert tracks == [
        *(("background", True), ("foreground-3", True), ("foreground-2", True), ("foreground", True)),
        ("blended", False),
    ]
    for track in timeline.tracks:
        (clip,) = track
        path = tmp_path / clip.media_reference.target_url
        with av.open(str(path)) as container:
            context = container.streams.video[0].codec_context
            assert context.name == "prores"
            assert context.pix_fmt.startswith("yuva" if "foreground" in track.name else "yuv4")


def test_editors_get_each_alpha(stack: LayeredVideo, tmp_path: Path) -> None:
    deliver(stack, tmp_path, "editors")
    for layer, one in zip(LAYERS, stack.foregrounds, strict=False):
        back = read_video(tmp_path / f"{layer}.mov")
        assert back.alpha is not None
        assert float((back.alpha - one.alpha).abs().max()) < 0.01
        assert float((back.alpha * back.colour - one.alpha * one.colour).abs().mean()) < 0.01


def test_exr_has_a_layer_for_each_foreground(levels: LayeredVideo, tmp_path: Path) -> None:
    deliver(levels, tmp_path, "compositing")
    with OpenEXR.File(str(tmp_path / "layers_exr" / "layers.0002.exr"), separate_channels=True) as file:
        planes = {name: channel.pixels for name, channel in file.channels().items()}
    colours = [f"{layer}.{channel}" for layer in LAYERS[:-1] for channel in "RGB"]
    assert set(planes) == {*colours, *(f"{layer}.A" for layer in LAYERS[:3]), "R", "G", "B"}
    for layer, one in zip(LAYERS, levels.foregrounds, strict=False):
        assert one.colour is not None
        assert one.alpha is not None
        linear = to_linear(one.colour[2]) * one.alpha[2]  # the format holds linear light, premultiplied
        for channel, plane in zip("RGB", linear, strict=True):
            assert np.array_equal(planes[f"{layer}.{channel}"], plane.numpy().astype(np.float16))
        assert np.array_equal(planes[f"{layer}.A"], one.alpha[2, 0].numpy().astype(np.float16))


def test_exr_composites_to_blended(stack: LayeredVideo, tmp_path: Path) -> None:
    """Merge the layers of a file as a compositor does: premultiplied `over`, from far to near."""
    deliver(stack, tmp_path, "compositing")
    with OpenEXR.File(str(tmp_path / "layers_exr" / "layers.0000.exr"), separate_channels=True) as file:
        planes = {name: channel.pixels.astype(np.float32) for name, channel in file.channels().items()}
    merged = planes["background.G"]
    expected = to_linear(stack.background[0, 1])
    for layer, one in reversed(list(zip(LAYERS, stack.foregrounds, strict=False))):
        merged = planes[f"{layer}.G"] + (1 - planes[f"{layer}.A"]) * merged
        expected = to_linear(one.colour[0, 1]) * one.alpha[0, 0] + (1 - one.alpha[0, 0]) * expected
    np.testing.assert_allclose(merged, expected.numpy(), atol=2e-3)


def test_exr_names_parts_of_a_foreground(levels: LayeredVideo, tmp_path: Path) -> None:
    part = levels.replace(**{"foreground-2": None, "alpha-3": None, "background": None, "blended": None})
    deliver(part, tmp_path, "compositing")
    with OpenEXR.File(str(tmp_path / "layers_exr" / "layers.0000.exr"), separate_channels=True) as file:
        names = set(file.channels())
    assert {"alpha-2.A", "foreground-3.R", "foreground.A"} < names
    assert not {"foreground-2.A", "foreground-3.A", "background.R"} & names


def test_sprite_sheets_give_back_each_foreground(levels: LayeredVideo, tmp_path: Path) -> None:
    deliver(levels, tmp_path, "game")
    for layer, one in zip(LAYERS, levels.foregrounds, strict=False):
        record = json.loads((tmp_path / f"{layer}.json").read_text())
        assert record["meta"]["image"] == f"{layer}.png"
        sheet = np.asarray(Image.open(tmp_path / f"{layer}.png"))
        samples = torch.cat([one.colour, one.alpha], dim=1).permute(0, 2, 3, 1) * 255
        for entry, expected in zip(record["frames"], samples.round().numpy().astype(np.uint8), strict=True):
            x, y = entry["frame"]["x"], entry["frame"]["y"]
            assert np.array_equal(sheet[y : y + HEIGHT, x : x + WIDTH], expected)
        frames = read_video(tmp_path / f"{layer}_png")
        assert torch.equal(frames.alpha, one.alpha)
        assert torch.equal(frames.colour, one.colour)


def test_page_stacks_the_foregrounds(levels: LayeredVideo, tmp_path: Path) -> None:
    record = deliver(levels, tmp_path, "web")
    page = (tmp_path / "index.html").read_text()
    places = [page.index(f'src="{layer}.webm"') for layer in ("background", *reversed(LAYERS[:3]))]
    assert places == sorted(places)
    assert record["files"][-1]["holds"] == "the foregrounds over the background, as a page shows them"
    for layer, one in zip(LAYERS, levels.foregrounds, strict=False):
        back = read_video(tmp_path / f"{layer}.webp")
        assert torch.equal(back.alpha, one.alpha)
        seen = (one.alpha > 0).expand_as(one.colour)
        assert torch.equal(back.colour[seen], one.colour[seen])


def test_edges_of_every_foreground_are_cleaned(stack: LayeredVideo) -> None:
    cleaned = clean_edges(stack, 1.0)
    assert torch.equal(cleaned.blended, stack.blended)
    for one, whole in zip(stack.foregrounds, cleaned.foregrounds, strict=True):
        assert one.colour is not None
        alone = clean_edges(LayeredVideo(one.colour, one.alpha), 1.0)
        assert alone.foregrounds == (whole,)
    with pytest.raises(ValueError, match="needs foreground and alpha"):
        clean_edges(stack.replace(**{"alpha-3": None}), 1.0)


def test_size_applies_to_every_foreground(levels: LayeredVideo, tmp_path: Path) -> None:
    deliver(levels, tmp_path, "game", Settings(size=(8, 6)))
    assert {Image.open(path).size for path in tmp_path.glob("foreground*_png/*.png")} == {(8, 6)}


def _frames(path: Path) -> list[bytes]:
    """Return the pixels of each frame of a moving picture."""
    with Image.open(path) as picture:
        frames = []
        for number in range(picture.n_frames):
            picture.seek(number)
            frames.append(picture.convert("RGBA").tobytes())
        return frames


def test_one_foreground_is_exported_as_before(levels: LayeredVideo, tmp_path: Path) -> None:
    """The files of the nearest foreground do not depend on those behind it, but for the composite and the page."""
    for preset in PRESETS:
        if preset == "compositing":
            continue
        deliver(levels, tmp_path / "all", preset)
        deliver(levels.replace(behind=()), tmp_path / "one", preset)
        for path in (tmp_path / "one").rglob("foreground*"):
            if path.is_file():
                twin = tmp_path / "all" / path.relative_to(tmp_path / "one")
                if path.suffix == ".avif":  # holds the second at which it was written
                    assert _frames(path) == _frames(twin)
                else:
                    assert path.read_bytes() == twin.read_bytes()
        shutil.rmtree(tmp_path / "all")
        shutil.rmtree(tmp_path / "one")
