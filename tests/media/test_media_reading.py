"""Every kind of input: read, or refused with one sentence that names the file and the way out."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from layerflow.media import FORMATS, MediaError, ReadLimits, read_video, write_video
from layerflow.media.timing import constant_rate

LADDER = torch.linspace(0.1, 0.9, 6).view(6, 1, 1, 1).expand(6, 3, 16, 16).contiguous()
"""Six frames, each brighter than the one before."""


def levels(clip: torch.Tensor) -> list[float]:
    return [round(float(frame.mean()), 2) for frame in clip]


def write_at(path, times, clip=LADDER, clock=1000, codec="ffv1", pixels="bgr0", **tags):
    """Write a video whose frames begin at the given ticks of the clock."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = clip.shape[-1], clip.shape[-2], pixels
        stream.codec_context.time_base = Fraction(1, clock)
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for time, image in zip(times, clip, strict=False):
            pixel = (image.permute(1, 2, 0).numpy() * 255 + 0.5).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixel), format="rgb24")
            frame = frame.reformat(format=pixels)
            frame.pts, frame.time_base = time, Fraction(1, clock)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


# Images and folders


def test_still_image_is_one_frame(tmp_path):
    Image.new("RGB", (5, 3), (255, 0, 51)).save(tmp_path / "a.png")
    still = read_video(tmp_path / "a.png")
    assert still.colour.shape == (1, 3, 3, 5)
    assert still.alpha is None
    assert still.fps == 8
    assert still.colour[0, :, 0, 0].tolist() == pytest.approx([1, 0, 0.2])
    assert read_video(tmp_path / "a.png", fps=24).fps == 24


@pytest.mark.parametrize(
    ("mode", "colour", "alpha"),
    [
        ("L", 51, None),
        ("LA", (51, 102), 0.4),
        ("RGBA", (51, 51, 51, 102), 0.4),
        ("1", 1, None),
        ("CMYK", (0, 0, 0, 204), None),
        ("I;16", 13107, None),
    ],
)
def test_modes_of_stills(tmp_path, mode, colour, alpha):
    suffix = "tif" if mode in ("CMYK", "I;16") else "png"
    Image.new(mode, (4, 4), colour).save(tmp_path / f"a.{suffix}")
    still = read_video(tmp_path / f"a.{suffix}")
    assert float(still.colour.mean()) == pytest.approx(1 if mode == "1" else 0.2, abs=1e-6)
    assert still.alpha is None if alpha is None else float(still.alpha.mean()) == pytest.approx(alpha)


@pytest.mark.parametrize("pixels", ["gray16be", "ya16be", "rgb48be", "rgba64be"])
def test_sixteen_bit_png_keeps_its_depth(tmp_path, pixels):
    encoder = av.CodecContext.create("png", "w")
    encoder.pix_fmt, encoder.width, encoder.height, encoder.time_base = pixels, 3, 2, Fraction(1, 8)
    frame = av.VideoFrame(3, 2, pixels)
    plane = frame.planes[0]
    plane.update(np.full(plane.buffer_size // 2, 12345, ">u2").tobytes())
    path = tmp_path / "deep.png"
    path.write_bytes(b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)]))
    deep = read_video(path)
    assert torch.equal(deep.colour, torch.full((1, 3, 2, 3), 12345 / 65535))
    assert (deep.alpha is not None) == ("a" in pixels.replace("gray", ""))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(MediaError, match=r"deep\.png: the image ends early"):
        read_video(path)


def test_camera_rotation_of_a_photograph_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees to show
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert read_video(tmp_path / "a.jpg").colour.shape[-2:] == (8, 4)


def test_animated_gif_with_transparency(tmp_path):
    images = []
    for index in range(4):
        image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
        image.paste((255, 0, 0, 255), (0, 0, 8, 2 * index + 1))
        images.append(image)
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=120, disposal=2)
    shown = read_video(tmp_path / "a.gif")
    assert shown.colour.shape == (4, 3, 8, 8)
    assert [round(float(frame.mean()) * 8) for frame in shown.alpha] == [1, 3, 5, 7]
    assert shown.fps == pytest.approx(1 / 0.12, rel=1e-3)


def test_animation_of_variable_rate_is_resampled(tmp_path):
    images = [Image.new("L", (8, 8), 40 * index) for index in range(4)]
    path = tmp_path / "a.webp"
    images[0].save(path, save_all=True, append_images=images[1:], duration=[100, 300, 100, 200], lossless=True)
    shown = read_video(path)
    assert shown.fps == pytest.approx(10)
    assert [round(level * 255 / 40) for level in levels(shown.colour)] == [0, 1, 1, 1, 2, 3, 3]
    assert len(read_video(path, fps=5).colour) == 4
    assert len(read_video(path, frames=2).colour) == 2


def test_folder_is_sorted_as_people_sort(tmp_path):
    for index in (1, 2, 10):
        Image.new("L", (4, 4), index * 10).save(tmp_path / f"frame{index}.png")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("x")
    shown = read_video(tmp_path, fps=12)
    assert [round(level * 25.5) for level in levels(shown.colour)] == [1, 2, 10]
    assert shown.fps == 12
    assert len(read_video(tmp_path, frames=2).colour) == 2
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "frame3.png")
    assert levels(read_video(tmp_path).alpha) == [1, 1, 0, 1]
    Image.new("L", (5, 4)).save(tmp_path / "frame4.png")
    with pytest.raises(MediaError, match=r"frame4\.png: it is 5x4 but frame1\.png is 4x4"):
        read_video(tmp_path)


# Time


def test_variable_rate_video_is_resampled_by_its_timestamps(tmp_path):
    path = write_at(tmp_path / "vfr.mkv", [0, 100, 200, 500, 600, 800])
    shown = read_video(path)
    assert shown.fps == pytest.approx(10, rel=1e-3)
    steps = [round((level - 0.1) / 0.16) for level in levels(shown.colour)]
    assert steps[:9] == [0, 1, 2, 2, 2, 3, 4, 4, 5]
    first = read_video(path, frames=3)
    assert len(first.colour) == 3


def test_wanted_rate_resamples(tmp_path):
    path = write_video(tmp_path / "a.mkv", LADDER, fps=10)
    half = read_video(path, fps=5)
    assert half.fps == 5
    assert levels(half.colour) == levels(LADDER[::2])
    double = read_video(path, fps=20)
    assert levels(double.colour) == levels(LADDER.repeat_interleave(2, dim=0))
    assert levels(read_video(path, fps=5, frames=2).colour) == levels(LADDER[:3:2])


def test_late_start_and_coarse_clocks_are_no_variable_rate():
    times = [round(index * 1000 / 24) / 1000 for index in range(48)]
    assert constant_rate(times, 2.0) == (list(range(48)), 24.0)
    assert constant_rate([0.0], 0.0) == ([0], 8.0)
    assert constant_rate([0.0, 0.001], 0.5)[1] == 60.0  # a short gap does not multiply the video


# Colour and geometry


def patched(path, old: bytes, new: bytes):
    data = path.read_bytes()
    assert data.count(old) >= 1
    path.write_bytes(data.replace(old, new))
    return path


def test_rotation_of_a_phone_is_applied(tmp_path):
    half = torch.zeros(2, 3, 16, 32)
    half[..., :16] = 1  # left half white
    path = write_video(tmp_path / "a.mp4", half)
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    header = path.read_bytes().index(b"tkhd")
    assert path.read_bytes().index(upright, header) - header < 100
    clockwise = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 16 << 16, 0, 1 << 30)
    data = path.read_bytes()
    at = data.index(upright, header)
    path.write_bytes(data[:at] + clockwise + data[at + 36 :])
    shown = read_video(path)
    assert shown.colour.shape == (2, 3, 32, 16)
    assert shown.colour[:, :, :14].mean() > 0.95  # left goes to the top
    assert shown.colour[:, :, 18:].mean() < 0.05


def test_premultiplied_files_are_divided_when_told(tmp_path):
    alpha = torch.full((2, 1, 8, 8), 0.5)
    path = write_video(tmp_path / "a.mkv", torch.full((2, 3, 8, 8), 0.4), alpha)
    assert read_video(path).colour.mean() == pytest.approx(0.4, abs=1e-4)
    assert read_video(path, premultiplied=True).colour.mean() == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p10le", "yuv444p", "nv12", "gray", "yuvj420p"])
def test_pixel_formats_of_others(tmp_path, pixels):
    codec = {"nv12": "libx264", "gray": "ffv1", "yuvj420p": "libx264"}.get(pixels, "ffv1")
    path = write_at(tmp_path / "a.mkv", range(0, 600, 100), codec=codec, pixels=pixels)
    torch.testing.assert_close(read_video(path).colour, LADDER, rtol=0, atol=0.02)


def test_hdr_is_refused(tmp_path):
    path = write_at(tmp_path / "hdr.mkv", [0, 100], pixels="yuv420p10le", color_trc=16, colorspace=9, color_primaries=9)
    with pytest.raises(MediaError, match=r"hdr\.mkv: its colour is HDR \(PQ\).*Rec\. 709"):
        read_video(path)


# Refusals


def test_missing_and_empty(tmp_path):
    with pytest.raises(MediaError, match=r"no\.mp4: there is no such file"):
        read_video(tmp_path / "no.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(MediaError, match=r"empty\.mp4: the file is empty"):
        read_video(tmp_path / "empty.mp4")
    (tmp_path / "folder").mkdir()
    with pytest.raises(MediaError, match="folder: the folder holds no images"):
        read_video(tmp_path / "folder")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", b"some words, and more of them\n" * 50),
        ("clip.mp4", b"not a video at all, but named like one\n" * 50),
        ("list.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n"),
        ("list.txt", b"ffconcat version 1.0\nfile a.mp4\n"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + b"rubbish" * 20),
        ("a.gif", b"GIF89a" + b"\xff" * 40),
        ("a.webp", b"RIFF\x20\x00\x00\x00WEBPVP8 rubbish rubbish"),
        ("a.jpg", b"\xff\xd8\xff\xe0" + bytes(60)),
        ("zeros.mkv", bytes(2000)),
    ],
)
def test_what_is_no_video_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(MediaError) as caught:
        read_video(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sound_alone_is_refused(tmp_path):
    path = tmp_path / "sound.mka"
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(MediaError, match=r"sound\.mka: the file holds no video stream, only audio"):
        read_video(path)


@pytest.mark.parametrize("part", [0.1, 0.4, 0.7, 0.9])
@pytest.mark.parametrize("name", [name for name, one in FORMATS.items() if not one.folder])
def test_truncated_files_are_refused(tmp_path, name, part):
    clip = torch.rand(6, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    path = write_video(tmp_path / FORMATS[name].name_of("clip"), clip)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(MediaError, match="clip"):
        read_video(path)


def test_what_is_left_of_a_truncated_file_can_be_read(tmp_path):
    clip = torch.rand(6, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    path = write_video(tmp_path / "clip.mkv", clip)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    with pytest.raises(MediaError, match=r"ends early.*frames=") as caught:
        read_video(path)
    count = int(str(caught.value).rsplit("=", 1)[1].rstrip("."))
    torch.testing.assert_close(read_video(path, frames=count).colour, clip[:count], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", list(FORMATS))
def test_damaged_bytes_never_raise_anything_else(tmp_path, name):
    generator = np.random.default_rng(0)
    clip = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    path = write_video(tmp_path / FORMATS[name].name_of("clip"), clip, format=name)
    file = next(iter(sorted(path.iterdir()))) if path.is_dir() else path
    whole = file.read_bytes()
    for _ in range(30):
        damaged = bytearray(whole)
        for at in generator.integers(0, len(whole), 8):
            damaged[at] = generator.integers(256)
        file.write_bytes(damaged)
        try:
            shown = read_video(path)
        except MediaError:
            continue
        assert bool(shown.colour.isfinite().all())


# Limits


@pytest.mark.parametrize("name", ["mp4", "ffv1", "webm", "webp", "png", "png16"])
def test_limits_are_checked_before_decoding(tmp_path, name, monkeypatch):
    path = write_video(tmp_path / FORMATS[name].name_of("clip"), LADDER.flip(-1), format=name)

    def never(*arguments):
        raise AssertionError("decoded")

    with monkeypatch.context() as patch:
        for function in ("reading._frames", "stills._pillow_to_tensors", "stills.frame_to_tensors"):
            patch.setattr(f"layerflow.media.{function}", never)
        with pytest.raises(MediaError, match=r"max_pixels=100; scale it down, or .*max_pixels=256"):
            read_video(path, limits=ReadLimits(max_pixels=100))
        with pytest.raises(MediaError, match=r"max_frames=5; read fewer with frames=N, or .*max_frames=6"):
            read_video(path, limits=ReadLimits(max_frames=5))
        with pytest.raises(MediaError, match=r"max_total_pixels=1000"):
            read_video(path, limits=ReadLimits(max_total_pixels=1000))
    assert len(read_video(path, frames=5, limits=ReadLimits(max_frames=5)).colour) == 5
    assert len(read_video(path, limits=ReadLimits(max_frames=6)).colour) == 6


def test_limits_hold_for_resampling_and_for_silent_headers(tmp_path):
    path = write_video(tmp_path / "a.mkv", LADDER, fps=10)
    with pytest.raises(MediaError, match="max_frames=600"):
        read_video(path, fps=2000)
    raw = write_at(tmp_path / "a.h264", range(6), codec="libx264", pixels="yuv420p", clock=10)
    with pytest.raises(MediaError, match="max_frames=4"):
        read_video(raw, limits=ReadLimits(max_frames=4))


def test_arguments_are_checked(tmp_path):
    with pytest.raises(ValueError, match="frames is 0"):
        read_video(tmp_path, frames=0)
    with pytest.raises(ValueError, match="fps is -1"):
        read_video(tmp_path, fps=-1)
