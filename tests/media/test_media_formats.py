"""Every format there and back, what the streams say about their colour, and what failures leave behind."""

import av
import pytest
import torch

from layerflow.media import BEST_FIRST, FORMATS, MediaError, find_format, read_video, write_video, writing

with_alpha = [name for name, one in FORMATS.items() if one.alpha]
lossless = [name for name, one in FORMATS.items() if one.lossless]


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(-10 * torch.log10((one - other).square().mean()))


def rounded(clip: torch.Tensor, bits: int) -> torch.Tensor:
    top = 2**bits - 1
    return (clip * top + 0.5).floor() / top


def content(path) -> bytes:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return b"".join(file.read_bytes() for file in files)


def test_each_format_has_its_own_suffix() -> None:
    assert len({one.suffix for one in FORMATS.values()}) == len(FORMATS)


@pytest.mark.parametrize("size", [(32, 48), (31, 47), (1, 1)], ids=str)
@pytest.mark.parametrize("alpha", [True, False], ids=["alpha", "opaque"])
@pytest.mark.parametrize("name", lossless)
def test_lossless_formats_are_exact(scene, tmp_path, name, alpha, size):
    one = FORMATS[name]
    scene = scene.crop(0, 0, *size)
    if name == "webp" and size == (1, 1):
        scene = scene[:1]  # the encoder makes a still of frames that are all equal
    path = write_video(tmp_path / one.name_of("clip"), scene.foreground, scene.alpha if alpha else None, 8, name)
    back = read_video(path)
    colour = rounded(scene.foreground, one.bits)
    if alpha:
        assert torch.equal(back.alpha, rounded(scene.alpha, one.bits))
        if name == "webp":  # which drops colour that is not seen
            seen = (back.alpha > 0).expand_as(colour)
            assert torch.equal(back.colour[: len(seen)][seen], colour[seen])
            return
    else:
        assert back.alpha is None
    assert torch.equal(back.colour, colour)
    assert back.fps == 8


@pytest.mark.parametrize("name", ["ffv1", "png16", "png"])
def test_eight_bit_values_survive_bit_for_bit(tmp_path, name):
    generator = torch.Generator().manual_seed(0)
    samples = torch.randint(0, 256, (3, 4, 9, 11), generator=generator).float() / 255
    path = write_video(tmp_path / FORMATS[name].name_of("noise"), samples[:, :3], samples[:, 3:], format=name)
    back = read_video(path)
    assert torch.equal(back.colour, samples[:, :3])
    assert torch.equal(back.alpha, samples[:, 3:])


@pytest.mark.parametrize("size", [(32, 48), (31, 47)], ids=str)
def test_prores_keeps_colour_and_alpha(scene, tmp_path, size):
    scene = scene.crop(0, 0, *size)
    back = read_video(write_video(tmp_path / "clip.mov", scene.foreground, scene.alpha))
    seen = (scene.alpha > 1 / 255).expand_as(back.colour)
    assert psnr(back.colour[seen], scene.foreground[seen]) > 40
    assert psnr(back.alpha, scene.alpha) > 60
    assert bool((back.alpha[scene.alpha == 1] == 1).all())
    assert bool((back.alpha[scene.alpha == 0] == 0).all())


@pytest.mark.parametrize("size", [(32, 48), (31, 47)], ids=str)
def test_webm_keeps_alpha(scene, tmp_path, size):
    scene = scene.crop(0, 0, *size)
    back = read_video(write_video(tmp_path / "clip.webm", scene.foreground, scene.alpha))
    assert back.colour.shape == scene.foreground.shape
    assert psnr(back.alpha, scene.alpha) > 40
    assert psnr(back.alpha * back.colour, scene.premultiplied()) > 40
    opaque = read_video(write_video(tmp_path / "opaque.webm", scene.background))
    assert opaque.alpha is None
    assert psnr(opaque.colour, scene.background) > 40


def test_mp4_is_tagged_and_converted_with_bt709(scene, tmp_path):
    path = write_video(tmp_path / "clip.mp4", scene.background)
    back = read_video(path)
    assert back.alpha is None
    assert psnr(back.colour, scene.background) > 38
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        tags = (context.color_range, context.colorspace, context.color_primaries, context.color_trc)
        assert tags == (1, 1, 1, 1)  # limited range, BT.709 three times, in the terms of H.273
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(2, 3, 16, 16)
    with av.open(str(write_video(tmp_path / "red.mp4", red.contiguous()))) as container:
        frame = next(container.decode(video=0))
    luma, blue, red_part = (bytes(plane)[0] for plane in frame.planes)
    # BT.709-6: Y' = 16 + 219 * 0.2126; Cb = 128 - 224 * 0.2126 / 1.8556; Cr = 128 + 224 / 2
    assert abs(luma - 63) <= 1
    assert abs(blue - 102) <= 1
    assert abs(red_part - 240) <= 1


@pytest.mark.parametrize("name", ["prores", "webm"])
def test_alpha_formats_are_tagged_bt709(scene, tmp_path, name):
    path = write_video(tmp_path / FORMATS[name].name_of("clip"), scene.foreground, scene.alpha)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.color_range, context.colorspace, context.color_primaries) == (1, 1, 1)


def test_mp4_pads_odd_sizes_with_their_edge(scene, tmp_path):
    odd = scene.crop(0, 0, 31, 47)
    back = read_video(write_video(tmp_path / "clip.mp4", odd.background))
    assert back.colour.shape[-2:] == (32, 48)
    assert psnr(back.colour[..., :31, :47], odd.background) > 38
    assert psnr(back.colour[..., 31:, :], back.colour[..., 30:31, :]) > 35


def test_unseen_colour_does_not_darken_edges(scene, tmp_path, monkeypatch):
    """Halved chroma mixes neighbours: without the fill, black leaks in from under alpha 0."""
    small = scene.alpha > 0.02
    seen = (small & (scene.alpha < 0.5)).expand_as(scene.foreground)

    def edge_error():
        back = read_video(write_video(tmp_path / "clip.webm", scene.foreground, scene.alpha))
        return float((back.colour[seen] - scene.foreground[seen]).abs().mean())

    filled = edge_error()
    monkeypatch.setattr(writing, "extend_colour", lambda colour, alpha, threshold: colour)
    assert filled < 0.7 * edge_error()


@pytest.mark.parametrize("name", list(FORMATS))
def test_same_clip_gives_same_bytes(scene, tmp_path, name):
    one = FORMATS[name]
    alpha = scene.alpha if one.alpha else None
    paths = [
        write_video(tmp_path / folder / one.name_of("clip"), scene.foreground, alpha, 24, name) for folder in ("a", "b")
    ]
    assert content(paths[0]) == content(paths[1])


@pytest.mark.parametrize("fps", [8, 23.976, 24, 30, 7.5])
@pytest.mark.parametrize("name", ["prores", "webm", "mp4", "ffv1", "webp"])
def test_rate_survives(tmp_path, name, fps):
    clip = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    path = write_video(tmp_path / FORMATS[name].name_of("clip"), clip, fps=fps, format=name)
    back = read_video(path)
    assert len(back.colour) == 5
    # WebP counts whole milliseconds: 23.976 cannot be told from 24 over 5 frames.
    assert back.fps == pytest.approx(fps, rel=2e-3 if name == "webp" else 1e-4)


def test_equal_frames_survive_webp(tmp_path):
    """The WebP encoder merges equal frames into a longer one."""
    clip = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))[[0, 0, 1, 1, 1, 2, 2]]
    back = read_video(write_video(tmp_path / "clip.webp", clip), fps=8)
    assert torch.equal(back.colour, rounded(clip, 8))


# Choosing


def test_formats_are_found_by_name_or_suffix():
    assert set(BEST_FIRST) == set(FORMATS)
    assert find_format(None, "x/y.MOV").name == "prores"
    assert find_format(None, "frames").name == "png"
    assert find_format("png16", "a.mov").name == "png16"
    with pytest.raises(MediaError, match=r"x\.xyz: no format goes with '\.xyz'.*\.webm \(webm\)"):
        find_format(None, "x.xyz")
    with pytest.raises(MediaError, match="format 'gif' is not known: choose one of"):
        find_format("gif")


# Refusals and failures


def test_mp4_refuses_alpha(scene, tmp_path):
    with pytest.raises(MediaError, match=r"clip\.mp4: format mp4 cannot hold alpha; choose one of prores"):
        write_video(tmp_path / "clip.mp4", scene.foreground, scene.alpha)
    assert not list(tmp_path.iterdir())


def test_invalid_clips_are_refused_before_anything_is_written(scene, tmp_path):
    with pytest.raises(ValueError, match="foreground spans"):
        write_video(tmp_path / "clip.mov", scene.foreground + 1)
    with pytest.raises(ValueError, match="alpha has frames 2"):
        write_video(tmp_path / "clip.mov", scene.foreground, scene.alpha[:2])
    with pytest.raises(ValueError, match="fps is 0"):
        write_video(tmp_path / "clip.mov", scene.foreground, fps=0)
    assert not list(tmp_path.iterdir())


def test_a_build_without_the_pixel_format_is_named(scene, tmp_path, monkeypatch):
    one = FORMATS["webm"]
    changed = type(one)(**{**one.__dict__, "alpha_pixels": "yuva444p16le"})
    monkeypatch.setitem(FORMATS, "webm", changed)
    with pytest.raises(MediaError, match="libvpx-vp9 of this PyAV cannot write yuva444p16le"):
        write_video(tmp_path / "clip.webm", scene.foreground, scene.alpha)
    monkeypatch.setitem(FORMATS, "webm", type(one)(**{**one.__dict__, "codec": "no-such"}))
    with pytest.raises(MediaError, match="no no-such encoder"):
        write_video(tmp_path / "clip.webm", scene.foreground, scene.alpha)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["prores", "ffv1", "png16", "png", "webp"])
def test_a_failed_write_leaves_the_old_file(scene, tmp_path, monkeypatch, name):
    """The disc fills up while the third frame is written."""
    path = tmp_path / FORMATS[name].name_of("clip")
    write_video(path, scene.foreground, scene.alpha, format=name)
    before = content(path)

    real = {"tensors_to_frame": writing.tensors_to_frame, "images_of": writing.images_of}
    calls = []

    def failing_frame(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return real["tensors_to_frame"](*arguments)

    def failing_bytes(*arguments):
        for index, image in enumerate(real["images_of"](*arguments)):
            if index == 2:
                raise OSError(28, "No space left on device")
            yield image

    monkeypatch.setattr(writing, "tensors_to_frame", failing_frame)
    monkeypatch.setattr(writing, "images_of", failing_bytes)
    with pytest.raises(MediaError, match=r"cannot be written.*No space left"):
        write_video(path, 1 - scene.foreground, scene.alpha, format=name)
    assert content(path) == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_with_other_things_is_not_replaced(scene, tmp_path):
    folder = tmp_path / "frames"
    write_video(folder, scene.foreground)
    write_video(folder, scene.background[:2])  # a folder of frames is replaced whole
    assert len(list(folder.iterdir())) == 2
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(MediaError, match="other files is in the way"):
        write_video(folder, scene.foreground)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_file_in_the_place_of_a_folder_is_an_error(scene, tmp_path):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(MediaError, match="cannot be written"):
        write_video(tmp_path / "taken" / "clip.mov", scene.foreground)
