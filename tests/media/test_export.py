"""Layers as editors, pages, games and compositors get them: each file is read back by a library for it."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import OpenEXR
import opentimelineio as otio
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from layerflow.cli import run
from layerflow.core.layered_video import LayeredVideo
from layerflow.media import MediaError, load_layers, read_video, save_layers
from layerflow.media.export import PRESETS, Settings, clean_edges, deliver, presets
from layerflow.media.export.exr import to_linear
from layerflow.media.export.sprite_sheets import LARGEST, grid

FRAMES, HEIGHT, WIDTH = 3, 12, 16


def scene(seed: int = 0) -> LayeredVideo:
    """Return layers whose values are 8-bit levels, the foreground soft at its edge."""
    generator = torch.Generator().manual_seed(seed)

    def levels(channels: int) -> torch.Tensor:
        return torch.randint(0, 256, (FRAMES, channels, HEIGHT, WIDTH), generator=generator).float() / 255

    return LayeredVideo(levels(3), levels(1), levels(3), fps=8.0).compose()


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- editors ----------------------------------------------------------------------------------------------


def test_editors_get_prores_with_alpha_timecode_and_tags(tmp_path: Path) -> None:
    video = scene()
    deliver(video, tmp_path, "editors", Settings(timecode="01:02:03:04"))
    assert files_of(tmp_path) == {
        "foreground.mov",
        "background.mov",
        "blended.mov",
        "layers.otio",
        "delivery.json",
    }
    with av.open(str(tmp_path / "foreground.mov")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.pix_fmt.startswith("yuva444p")
        assert stream.codec_context.color_primaries == stream.codec_context.color_trc == 1  # BT.709
        assert [int(part) for part in stream.metadata["timecode"].split(":")] == [1, 2, 3, 4]
        assert any(one.type == "data" for one in container.streams)  # the timecode's own track
    back = read_video(tmp_path / "foreground.mov")
    assert back.alpha is not None
    assert float((back.alpha - video.alpha).abs().max()) < 0.01


def test_the_timeline_stacks_the_layers_at_one_time(tmp_path: Path) -> None:
    deliver(scene(), tmp_path, "editors", Settings(timecode="00:00:10:02"))
    timeline = otio.adapters.read_from_file(str(tmp_path / "layers.otio"))
    assert [track.name for track in timeline.tracks] == ["background", "foreground", "blended"]
    assert [track.enabled for track in timeline.tracks] == [True, True, False]
    assert timeline.global_start_time == otio.opentime.RationalTime(82, 8)
    for track in timeline.tracks:
        (clip,) = track
        assert clip.duration() == otio.opentime.RationalTime(FRAMES, 8)
        assert (tmp_path / clip.media_reference.target_url).is_file()
        assert clip.source_range == clip.media_reference.available_range


@pytest.mark.parametrize("timecode", ["1:00:00:00", "00:60:00:00", "00:00:00:08", "tomorrow", ""])
def test_a_timecode_that_is_none_is_refused(tmp_path: Path, timecode: str) -> None:
    with pytest.raises(ValueError, match="is not HH:MM:SS:FF"):
        deliver(scene(), tmp_path / "out", "editors", Settings(timecode=timecode))
    assert not (tmp_path / "out").exists()


# --- compositing ------------------------------------------------------------------------------------------


def test_exr_holds_every_layer_linear_and_premultiplied(tmp_path: Path) -> None:
    video = scene()
    assert video.foreground is not None
    assert video.alpha is not None
    deliver(video, tmp_path, "compositing")
    frames = sorted((tmp_path / "layers_exr").iterdir())
    assert [path.name for path in frames] == [f"layers.{index:04d}.exr" for index in range(FRAMES)]
    with OpenEXR.File(str(frames[1]), separate_channels=True) as file:
        found = {name: channel.pixels for name, channel in file.channels().items()}
        header = dict(file.header())
    assert set(found) == {
        "foreground.R",
        "foreground.G",
        "foreground.B",
        "foreground.A",
        "background.R",
        "background.G",
        "background.B",
        "R",
        "G",
        "B",
    }
    assert all(plane.dtype == np.float16 for plane in found.values())
    expected = to_linear(video.foreground[1, 0]) * video.alpha[1, 0]
    np.testing.assert_allclose(found["foreground.R"], expected.numpy(), atol=5e-4)
    np.testing.assert_allclose(found["foreground.A"], video.alpha[1, 0].numpy(), atol=5e-4)
    assert np.allclose(header["chromaticities"][:2], (0.64, 0.33))
    assert header["framesPerSecond"] == Fraction(8)


@pytest.mark.parametrize(("code", "light"), [(0.0, 0.0), (0.04045, 0.0031308), (0.5, 0.2140411), (1.0, 1.0)])
def test_linear_light_is_that_of_srgb(code: float, light: float) -> None:
    assert float(to_linear(torch.tensor(code))) == pytest.approx(light, abs=1e-6)


# --- games ------------------------------------------------------------------------------------------------


def test_a_sheet_gives_back_every_frame(tmp_path: Path) -> None:
    video = scene()
    assert video.foreground is not None
    assert video.alpha is not None
    deliver(video, tmp_path, "game")
    record = json.loads((tmp_path / "foreground.json").read_text())
    sheet = np.asarray(Image.open(tmp_path / record["meta"]["image"]))
    assert (record["meta"]["size"]["h"], record["meta"]["size"]["w"]) == sheet.shape[:2]
    assert len(record["frames"]) == FRAMES
    for index, entry in enumerate(record["frames"]):
        where = entry["frame"]
        cut = sheet[where["y"] : where["y"] + where["h"], where["x"] : where["x"] + where["w"]]
        expected = torch.cat([video.foreground[index], video.alpha[index]]).permute(1, 2, 0) * 255
        assert np.array_equal(cut, expected.round().numpy().astype(np.uint8))
        assert entry["duration"] == 125
    assert len(list((tmp_path / "foreground_png").iterdir())) == FRAMES
    assert Image.open(tmp_path / "background.png").mode == "RGB"


@settings(max_examples=50, deadline=None)
@given(frames=st.integers(1, 200), height=st.integers(1, 400), width=st.integers(1, 400))
def test_sheets_hold_all_frames_and_stay_within_what_cards_take(frames: int, height: int, width: int) -> None:
    rows, columns = grid(frames, height, width)
    assert (rows - 1) * columns < frames <= rows * columns
    assert max(rows * height, columns * width) <= LARGEST


def test_a_sheet_beyond_what_cards_take_is_refused() -> None:
    assert grid(16, 2048, 2048) == (4, 4)
    with pytest.raises(MediaError, match=r"a sheet .*10240 pixels long.*smaller `size`"):
        grid(17, 2048, 2048)


# --- web --------------------------------------------------------------------------------------------------


def test_pages_get_alpha_in_every_format(tmp_path: Path) -> None:
    video = scene()
    record = deliver(video, tmp_path, "web")
    assert files_of(tmp_path) == {file["name"] for file in record["files"]} | {"delivery.json"}
    page = (tmp_path / "index.html").read_text()
    for name in ("foreground.webm", "background.webm"):
        assert name in page
        assert (tmp_path / name).is_file()
    still = Image.open(tmp_path / "foreground.webp")
    assert still.n_frames == FRAMES
    assert still.mode == "RGBA"


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_moves_and_keeps_alpha(tmp_path: Path) -> None:
    ramp = torch.linspace(0, 1, 32).expand(2, 1, 32, 32)
    colour = torch.stack([torch.full((3, 32, 32), 0.2), torch.full((3, 32, 32), 0.8)])
    deliver(LayeredVideo(colour, ramp.clone()), tmp_path, "web")
    picture = Image.open(tmp_path / "foreground.avif")
    assert picture.n_frames == 2
    for index, level in enumerate((0.2, 0.8)):
        picture.seek(index)
        pixels = np.asarray(picture.convert("RGBA")).astype(float) / 255
        assert np.abs(pixels[..., 3] - ramp[0, 0].numpy()).max() < 0.04
        assert abs(pixels[:, 16:, :3].mean() - level) < 0.02


# --- settings and faults ----------------------------------------------------------------------------------


def test_clean_edges_take_their_colour_from_inside() -> None:
    alpha = torch.zeros(1, 1, 1, 9)
    alpha[..., 0:4] = 1
    alpha[..., 4] = 0.5
    colour = torch.zeros(1, 3, 1, 9)
    colour[:, 0, :, :4] = 1  # red inside
    colour[:, 2, :, 4] = 1  # blue of an old background at the edge
    video = LayeredVideo(colour, alpha)
    assert clean_edges(video, 0) is video
    cleaned = clean_edges(video, 1.0)
    assert cleaned.foreground is not None
    assert torch.equal(cleaned.alpha, video.alpha)
    assert torch.equal(cleaned.foreground[..., :4], colour[..., :4])
    assert cleaned.foreground[0, 0, 0, 4] > 0.95
    assert cleaned.foreground[0, 2, 0, 4] < 0.05
    half = clean_edges(video, 0.5).foreground
    assert half is not None
    assert 0.4 < half[0, 2, 0, 4] < 0.6
    with pytest.raises(ValueError, match="strength is 2"):
        clean_edges(video, 2)
    with pytest.raises(ValueError, match="needs foreground and alpha"):
        clean_edges(LayeredVideo(background=colour), 1)


def test_a_size_is_made_with_colour_weighed_by_alpha(tmp_path: Path) -> None:
    record = deliver(scene(), tmp_path, "game", Settings(size=(8, 6)))
    assert (record["width"], record["height"]) == (8, 6)
    assert Image.open(tmp_path / "foreground_png" / "0000.png").size == (8, 6)


@pytest.mark.parametrize("preset", PRESETS)
def test_layers_that_are_not_all_there_go_out_too(tmp_path: Path, preset: str) -> None:
    video = scene()
    for name, part in {
        "background": LayeredVideo(background=video.background),
        "matte": LayeredVideo(alpha=video.alpha),
        "foreground": LayeredVideo(video.foreground, video.alpha),
    }.items():
        record = deliver(part, tmp_path / name, preset)
        assert record["files"]
        assert all((tmp_path / name / file["name"]).exists() for file in record["files"])


def test_what_fails_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(scene(0), tmp_path / "out", "game")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(presets, "write_sheet", full)
    with pytest.raises(MediaError, match="No space left"):
        deliver(scene(1), tmp_path / "out", "game")
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files_of(tmp_path) == {"out"}


def test_a_missing_package_is_named_with_the_way_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "find_spec", lambda _: None)
    with pytest.raises(MediaError, match=r"needs OpenEXR; install it with: pip install 'layerflow\[delivery\]'"):
        deliver(scene(), tmp_path, "compositing")
    with pytest.raises(MediaError, match="'film' is not known; choose editors, web, game, compositing"):
        deliver(scene(), tmp_path, "film")


# --- the command ------------------------------------------------------------------------------------------


def test_the_command_delivers_a_folder_of_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers, out = tmp_path / "layers", tmp_path / "out"
    save_layers(scene(), layers, formats=["webm"])
    assert run(["export", str(layers), "-o", str(out), "--preset", "compositing", "--size", "8x6"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [str(out / "layers_exr")]
    assert "lossy files only" in captured.err
    assert run(["export", str(layers), "-o", str(out), "--preset", "compositing"]) == 2
    assert "is not empty; add --overwrite" in capsys.readouterr().err
    save_layers(scene(), layers, formats=["webm", "png"])
    assert run(["export", str(layers), "-o", str(out), "--preset", "game", "--overwrite"]) == 0
    assert "lossy" not in capsys.readouterr().err
    assert read_video(out / "foreground_png").colour.shape[-2:] == load_layers(layers).background.shape[-2:]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "film"], "preset 'film' is not known"),
        (["--preset", "game", "--edges", "3"], "strength is 3"),
        (["--preset", "editors", "--timecode", "noon"], "timecode noon is not"),
        (["--preset", "game", "--size", "big"], "--size big is not a size"),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_layers(scene(), tmp_path / "layers", formats=["png"])
    assert run(["export", str(tmp_path / "layers"), "-o", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert run(["export", str(tmp_path / "layers"), "-o", str(tmp_path / "layers"), "--preset", "game"]) == 2
    assert "holds the layers themselves" in capsys.readouterr().err
    assert run(["export", str(tmp_path / "none"), "-o", str(tmp_path / "out"), "--preset", "game"]) == 2
    assert "there is no such folder" in capsys.readouterr().err
