"""Given frames, clicks and trimaps from the command line and job files, on tiny models."""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import full_size
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from layerflow.cli import run
from layerflow.core.layered_video import LayeredVideo
from layerflow.generation.givens import frame_numbers, frames_in_words, parse_given, split_objects
from layerflow.generation.hints import discs
from layerflow.generation.load import model_facts
from layerflow.generation.request import Request
from layerflow.generation.resolve import Resolved, resolve
from layerflow.media import load_layers, write_video

FRAMES = 6
QUICK = ("--steps", "1", "--format", "ffv1", "--frames", str(FRAMES), "--upscale", "1")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """A shot, stills and mattes of 16x16 in the working directory, with 8-bit levels."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(3)

    def levels(frames: int, channels: int) -> torch.Tensor:
        return torch.randint(0, 256, (frames, channels, 16, 16), generator=generator).float() / 255

    clips = {"shot": levels(FRAMES, 3), "moving": levels(FRAMES, 3), "picture": levels(1, 3)}
    for name in ("shot", "moving"):
        write_video(tmp_path / f"{name}.mkv", clips[name], None, 12.0, "ffv1")
    clips["hero"], clips["matte"] = levels(1, 4), levels(1, 1)
    for name in ("picture", "hero", "matte"):
        save(tmp_path / f"{name}.png", clips[name][0])
    trimap = torch.full((1, 16, 16), 0.5)
    trimap[:, 4:8, 4:8], trimap[:, 12:] = 1, 0
    save(tmp_path / "trimap.png", trimap)
    clips["trimap"] = trimap[None]
    return clips


def save(path: Path, picture: torch.Tensor) -> None:
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[len(picture)]
    pixels = (picture * 255).round().byte().permute(1, 2, 0).squeeze(-1)
    Image.fromarray(pixels.numpy(), mode).save(path)


@pytest.fixture
def layerflow_run(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command on the tiny model into a new folder: layers, metadata, messages."""

    def call(*words: object) -> tuple[LayeredVideo, dict[str, Any], str]:
        capsys.readouterr()
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        code = run([*map(str, words), *QUICK, "--model", str(tiny_model), "-o", str(tmp_path / "out")])
        err = capsys.readouterr().err
        assert code == 0, err
        metadata = json.loads((tmp_path / "out" / "layers.json").read_text())["metadata"]
        return load_layers(tmp_path / "out"), metadata, err

    return call


def refusal(capsys: pytest.CaptureFixture[str], tiny_model: Path, *words: str) -> str:
    """Run a command that is refused, and return its message."""
    capsys.readouterr()
    assert run([*words, *QUICK, "--model", str(tiny_model), "-o", "refused"]) == 2
    assert not Path("refused").exists()
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    return err


# Given frames


def test_given_frames_are_unchanged(layerflow_run: Callable, files: dict[str, torch.Tensor]) -> None:
    words = ["--given", "alpha=matte.png@0", "--given", "foreground=hero.png@1,-1", "--given", "blended=shot.mkv@0,2-3"]
    layers, metadata, err = layerflow_run("complete", *words)
    back = layers.clips()
    assert torch.equal(back["alpha"][0], files["matte"][0])
    for number in (1, 5):
        assert torch.equal(back["foreground"][number], files["hero"][0, :3])
        assert torch.equal(back["alpha"][number], files["hero"][0, 3:])  # the alpha of its file
    for number in (0, 2, 3):
        assert torch.equal(back["blended"][number], files["shot"][number])
    assert not torch.equal(back["blended"][1], files["shot"][1])
    assert layers.fps == 12
    given = {entry["file"]: (entry["clips"], entry["frames"]) for entry in metadata["given"]}
    assert given == {
        "matte.png": (["alpha"], [0]), "hero.png": (["foreground", "alpha"], [1, 5]),
        "shot.mkv": (["blended"], [0, 2, 3]),
    }  # fmt: skip
    assert metadata["task"] == "complete"
    assert "this model was not trained with single frames given; it may follow them badly" in err


def test_files_of_one_clip_take_turns(layerflow_run: Callable, files: dict[str, torch.Tensor]) -> None:
    layers, *_ = layerflow_run(
        "complete", "--given", "background=shot.mkv@0-2", "--given", "background=moving.mkv@3,5",
        "--given", "background=picture.png@4",
    )  # fmt: skip
    expected = torch.cat([files["shot"][:3], files["moving"][3:4], files["picture"], files["moving"][5:]])
    assert torch.equal(layers.background, expected)


def test_matte_given_at_a_frame_replaces_that_of_the_foreground(
    layerflow_run: Callable, files: dict[str, torch.Tensor]
) -> None:
    words = ["--given", "foreground=hero.png@0,2", "--given", "alpha=matte.png@0"]
    layers, *_ = layerflow_run("generate", "--foreground", "a", "--background", "b", *words)
    assert torch.equal(layers.alpha[0], files["matte"][0])
    assert torch.equal(layers.alpha[2], files["hero"][0, 3:])


def test_name_with_an_at_sign_is_a_name(layerflow_run: Callable, files: dict[str, torch.Tensor]) -> None:
    Path("hero.png").rename("hero@1.png")
    save(Path("night.png"), files["picture"][0])
    Path("night.png").rename("night@0")
    layers, *_ = layerflow_run("complete", "--given", "foreground=hero@1.png@0", "--given", "background=night@0")
    assert torch.equal(layers.foreground[0], files["hero"][0, :3])
    assert torch.equal(layers.background, files["picture"].expand(FRAMES, -1, -1, -1))


def test_recorded_command_gives_the_same_bytes(layerflow_run: Callable, files: dict[str, torch.Tensor]) -> None:
    words = ["--object", "5,6@0", "--not-object", "12,3.5@2", "--object", "matte.png@1", "--trimap", "trimap.png@3"]
    _, metadata, _ = layerflow_run("decompose", "shot.mkv", *words)
    assert (metadata["object"], metadata["not_object"]) == (["5,6@0"], ["12,3.5@2"])
    assert [(one["file"], one["frames"]) for one in metadata["trimap"]] == [("trimap.png", [3])]
    before = {path.name: path.read_bytes() for path in Path("out").glob("*.mkv")}
    shutil.rmtree("out")
    words = shlex.split(metadata["command"])
    done = subprocess.run([sys.executable, "-m", "layerflow.cli", *words[1:]], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in Path("out").glob("*.mkv")} == before


def test_job_file_takes_frames_clicks_and_trimaps(
    tiny_model: Path,
    files: dict[str, torch.Tensor],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = {
        "given": {"blended": "shot.mkv", "alpha": {"1": "matte.png"}}, "object": ["5,6@0", "matte.png@2"],
        "not_object": ["12,3@0"], "trimap": {"alpha": {"3": "trimap.png"}}, "formats": ["ffv1"], "steps": 1,
        "frames": FRAMES, "upscale": 1,
    }  # fmt: skip
    Path("jobs.jsonl").write_text(json.dumps(job))
    place = Path.cwd()
    monkeypatch.chdir("/")  # paths are relative to the jobs file
    command = ["batch", str(place / "jobs.jsonl"), "--model", str(tiny_model), "-o", str(place / "out")]
    assert run(command) == 0, capsys.readouterr().err
    layers = load_layers(place / "out" / "0001")
    for number in (1, 2):
        assert torch.equal(layers.alpha[number], files["matte"][0])
    assert torch.equal(layers.blended, files["shot"])
    assert run(command) == 0
    assert "1 skipped" in capsys.readouterr().err
    save(place / "trimap.png", 1 - files["trimap"][0])
    assert run(command) == 0
    assert "0 skipped" in capsys.readouterr().err


# Clicks and trimaps


def resolved(tiny_model: Path, **fields: Any) -> Resolved:
    request = Request(frames=FRAMES, upscale=1, **fields)
    return resolve(request, model_facts(tiny_model))


def test_matte_is_short_for_given_alpha(files: dict[str, torch.Tensor]) -> None:
    shot = {"blended": Path("shot.mkv")}
    short = Request(given=shot, object=("matte.png@0", "3,4@1"))
    assert short == Request(given={**shot, "alpha": {"0": Path("matte.png")}}, object=("3,4@1",))


def test_clicks_become_discs(tiny_model: Path, files: dict[str, torch.Tensor]) -> None:
    write_video(Path("wide.mkv"), torch.rand(FRAMES, 3, 32, 96), fps=8)  # columns 32 to 63 are used, at half the size
    one = resolved(
        tiny_model, given={"blended": Path("wide.mkv")}, object=("42,10@0",), not_object=("62.5,31@-1",)
    ).given
    assert one is not None
    known, alpha = one.hints["alpha"], one.video.alpha
    assert known.flatten(1).any(1).tolist() == [True, False, False, False, False, True]
    assert known[0, 0].nonzero().tolist() == [[5, 5]]
    assert known[5, 0].nonzero().tolist() == [[15, 15]]
    assert (alpha[0, 0, 5, 5], alpha[5, 0, 15, 15]) == (1, 0)
    assert one.numbers("alpha") == ()
    assert one.whole == {"blended"}


def test_nearest_click_counts() -> None:
    clicks = [(20.0, 20.0, None, True), (20.0, 24.0, None, False)]
    value, known = discs(clicks, 100, 100)  # type: ignore[arg-type]
    assert 24 < known.sum() < 60
    assert value[0, 19, 17:24].tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert not known[0, 19, 15]


def test_trimap_is_known_where_it_is_black_or_white(tiny_model: Path, files: dict[str, torch.Tensor]) -> None:
    one = resolved(tiny_model, given={"blended": Path("shot.mkv")}, trimap={"alpha": {"2": Path("trimap.png")}}).given
    assert one is not None
    assert torch.equal(one.hints["alpha"][2], (files["trimap"][0] - 0.5).abs() > 0.4)
    assert torch.equal(one.video.alpha[2], (files["trimap"][0] > 0.9).float())
    assert not one.hints["alpha"][[0, 1, 3, 4, 5]].any()


def test_clicks_change_the_matte(layerflow_run: Callable, files: dict[str, torch.Tensor]) -> None:
    plain, *_ = layerflow_run("decompose", "shot.mkv")
    inside, _, err = layerflow_run("decompose", "shot.mkv", "--object", "5,6@0")
    outside, *_ = layerflow_run("decompose", "shot.mkv", "--not-object", "5,6@0")
    assert inside.alpha[0, 0, 6, 5] > outside.alpha[0, 0, 6, 5]
    assert not torch.equal(plain.alpha, inside.alpha)
    assert "this model was not trained with clicks and trimaps; it may follow them badly" in err
    assert torch.equal(inside.blended, files["shot"])


# Stills


def test_still_with_alpha_is_the_first_foreground(layerflow_run: Callable, files: dict[str, torch.Tensor]) -> None:
    layers, metadata, _ = layerflow_run("animate", "hero.png", "--background", "a green valley")
    assert torch.equal(layers.foreground[0], files["hero"][0, :3])
    assert torch.equal(layers.alpha[0], files["hero"][0, 3:])
    assert not torch.equal(layers.foreground[1], files["hero"][0, :3])
    assert "complete --given foreground=hero.png@0 " in metadata["command"]


def test_opaque_still_is_the_first_blended_frame(layerflow_run: Callable, files: dict[str, torch.Tensor]) -> None:
    layers, *_ = layerflow_run("animate", "picture.png", "--object", "8,8@0")
    assert torch.equal(layers.blended[0], files["picture"][0])
    assert not torch.equal(layers.blended[1], files["picture"][0])
    same, *_ = layerflow_run("animate", "--given", "blended=picture.png@0", "--object", "8,8@0")
    assert same == layers


# Models of latents


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wan")
    full_size.build("wan").save_pretrained(folder)
    return folder


def test_still_is_held_over_the_frames_of_a_latent(
    wan: Path, files: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "latents"
    words = ["complete", "--given", "foreground=hero.png@3", "--given", "alpha=matte.png@0", "--model", str(wan)]
    assert run([*words, "--steps", "1", "--format", "ffv1", "-o", str(out)]) == 0
    assert "hero.png: held over frames 1 to 4, because this model takes these together only" in capsys.readouterr().err
    layers, (record, _) = load_layers(out), json.loads((out / "layers.json").read_text())["metadata"]["given"]
    assert record["frames"] == [1, 2, 3, 4]
    for number in (2, 3, 4):
        assert torch.equal(layers.foreground[1], layers.foreground[number])
    assert not torch.equal(layers.foreground[0], layers.foreground[1])


def test_matte_is_held_beside_a_foreground_with_alpha(
    wan: Path, files: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["complete", "--given", "foreground=hero.png@2", "--given", "alpha=matte.png@3", "--model", str(wan)]
    assert run([*words, "--steps", "1", "--format", "ffv1", "-o", str(tmp_path / "held")]) == 0
    layers, matte = load_layers(tmp_path / "held"), torch.nn.functional.interpolate(files["matte"], (48, 48))
    assert layers.alpha.shape[-2:] == (32, 48)
    for number in (2, 3, 4):
        assert torch.equal(layers.alpha[1], layers.alpha[number])
        assert torch.equal(layers.foreground[1], layers.foreground[number])
    assert (layers.alpha[1] - matte[0, :, 8:40]).abs().mean() < 0.25  # the matte, not the hero's alpha


def test_mini_makes_the_matte_for_a_model_without_hints(
    wan: Path, files: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shot = torch.full((5, 3, 64, 96), 0.2)
    shot[:, 0, 20:44, 30:54] = 0.9
    write_video(Path("square.mkv"), shot, None, 8.0, "ffv1")
    trimap = torch.full((1, 64, 96), 0.5)
    trimap[..., -4:] = 0
    save(Path("edge.png"), trimap)
    words = ["decompose", "square.mkv", "--object", "42,32@2", "--trimap", "edge.png@2", "--not-object", "8,8@2"]
    words += ["--model", str(wan)]
    mattes = []
    for name in ("one", "two"):
        assert run([*words, "--steps", "1", "--format", "ffv1", "-o", str(tmp_path / name)]) == 0
        err = capsys.readouterr().err
        assert "makes the matte of frames 1 to 4 first" in err
        assert "not trained with single frames given" in err
        assert "held over" not in err
        mattes.append(load_layers(tmp_path / name).alpha)
    assert torch.equal(*mattes)
    for number in (1, 2, 3, 4):  # the frames of a latent: the square against the rest, from the clicks
        assert mattes[0][number, 0, 16, 21] > mattes[0][number, 0, 2, 2] + 0.5
    metadata = json.loads((tmp_path / "one" / "layers.json").read_text())["metadata"]
    assert metadata["object"] == ["42,32@2"]


MISTAKES = [
    (["complete", "--given", "blended=shot.mkv@3"], "frames 1 to 4, which this model takes only together"),
    (["complete", "--given", "alpha=matte.png@2", "--given", "alpha=hero.png@3"], "within frames 1 to 4, which"),
    (["decompose", "picture.png@0", "--object", "3,4@0"], "there is no such file"),
    (["complete", "--given", "blended=picture.png@0", "--object", "3,4@0"], "this model takes no clicks and trimaps"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_frames_that_a_latent_model_does_not_take(
    words: list[str], message: str, wan: Path, files: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, "--steps", "1", "--model", str(wan), "-o", "refused"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("refused").exists()


# Refusals


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["complete", "--given", "alpha=matte.png@9"], "matte.png@9: frame 9 does not exist: there are 6, from 0 to"),
        (["complete", "--given", "alpha=matte.png@-7"], "frame -7 does not exist"),
        (
            ["complete", "--given", "alpha=matte.png@first"],
            "--given matte.png@first: 'first' are no frames; write",
        ),
        (["complete", "--given", "alpha=matte.png@"], "--given matte.png@: '' are no frames"),
        (["complete", "--given", "alpha=matte.png@3-1"], "3-1 runs backwards"),
        (["complete", "--given", "alpha=matte.png@0,0"], "names frame 0 twice"),
        (["complete", "--given", "alpha=none.png@0"], "none.png: there is no such file"),
        (["complete", "--given", "alpha=matte.png@0", "--given", "alpha=hero.png@0"], "--given names alpha twice"),
        (
            ["complete", "--given", "alpha=matte.png@5", "--given", "alpha=hero.png@-1"],
            "frame 5 of alpha is given",
        ),
        (["complete", "--given", "alpha=matte.png", "--given", "alpha=hero.png@1"], "--given names alpha twice"),
        (["decompose", "shot.mkv", "--given", "blended=picture.png@0"], "--given names blended twice"),
        (["complete", "--given", "blended=hero.png@0"], "it has transparent parts"),
        (["complete", "--given", "sky=hero.png@0"], "'sky' is no clip"),
        (["decompose", "shot.mkv", "--object", "20,3@0"], "--object 20,3@0 lies outside of shot.mkv, which is 16x16"),
        (["decompose", "shot.mkv", "--object", "3,-1@0"], "y from 0 to 15"),
        (["decompose", "shot.mkv", "--not-object", "3,3@6"], "--not-object 3,3@6: frame 6 does not exist"),
        (["decompose", "shot.mkv", "--object", "3,3"], "--object '3,3' is neither a click X,Y@FRAME"),
        (["decompose", "shot.mkv", "--object", "matte.png"], "nor a matte PATH@FRAME of a file that exists"),
        (["decompose", "shot.mkv", "--object", "3, 3@0"], "'3, 3@0' is neither a click X,Y@FRAME"),
        (["decompose", "shot.mkv", "--object", "3x3@0"], "'3x3@0' is neither a click X,Y@FRAME"),
        (["complete", "--given", "alpha-9=matte.png"], "and those of further foregrounds, such as alpha-2"),
        (["decompose", "shot.mkv", "--not-object", "matte.png@0"], "--not-object 'matte.png@0' is no click"),
        (["decompose", "shot.mkv", "--object", "3,3@0", "--not-object", "3,3@0"], "is both in --object and"),
        (["decompose", "shot.mkv", "--object", "matte.png@0", "--object", "3,3@0"], "the click 3,3@0 adds nothing"),
        (["decompose", "shot.mkv", "--object", "matte.png@0", "--trimap", "trimap.png@0"], "trimap.png adds nothing"),
        (["decompose", "shot.mkv", "--trimap", "trimap.png@0", "--trimap", "trimap.png@-6"], "has two trimaps"),
        (["decompose", "shot.mkv", "--trimap", "hero.png@0"], "a trimap is opaque: black is background"),
        (["decompose", "shot.mkv", "--trimap", "blended=trimap.png@0"], "--trimap names 'blended'"),
        (["decompose", "shot.mkv", "--trimap", "grey.png@0"], "grey.png: no pixel of it is black"),
        (["complete", "--given", "background=shot.mkv", "--object", "3,3@0"], "needs the blended clip at frame 0"),
        (["animate", "shot.mkv"], "shot.mkv is a video, and a still is animated"),
        (["animate", "none.png"], "there is no such file"),
        (["animate"], "no still is given; name a picture, or stills with --given, such as blended=still.png@0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistake_is_one_sentence(
    words: list[str], message: str, tiny_model: Path, files: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    save(Path("grey.png"), torch.full((1, 16, 16), 0.5))
    assert message in refusal(capsys, tiny_model, *words)


def test_video_has_no_frame_after_its_last(
    tiny_model: Path, files: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(Path("short.mkv"), files["shot"][:3], None, 12.0, "ffv1")
    message = "short.mkv@0,4: it has 3 frames, so none for frame 4"
    assert message in refusal(capsys, tiny_model, "complete", "--given", "blended=short.mkv@0,4")


def test_click_on_a_part_that_is_cropped_is_refused(
    tiny_model: Path, files: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(Path("wide.mkv"), torch.rand(FRAMES, 3, 16, 48), None, 12.0)
    message = refusal(capsys, tiny_model, "decompose", "wide.mkv", "--object", "10,5@0")
    assert (
        "that is used for a result of 16x16: x from 16 to 31, y from 0 to 15; set --size to another aspect" in message
    )


# By rule


@given(st.lists(st.integers(0, 30), min_size=1, unique=True))
def test_frames_are_read_as_written(numbers: list[int]) -> None:
    expected = tuple(sorted(numbers))
    assert frame_numbers(",".join(map(str, numbers)), 31) == expected
    assert frame_numbers(",".join(str(number - 31) for number in numbers), 31) == expected
    words = frames_in_words(expected).removeprefix("frames ").removeprefix("frame ")
    assert frame_numbers(words.replace(" to ", "-").replace(" ", ""), 31) == expected


def test_second_foreground_has_clicks_and_mattes_of_its_own(files: dict[str, torch.Tensor]) -> None:
    clicks, (matte,) = split_objects(["foreground-2=3,4@0", "foreground-2=matte.png@0", "5,5@-1"])
    assert clicks == ("foreground-2=3,4@0", "5,5@-1")
    assert (matte.clip, matte.frames) == ("alpha-2", "0")
    assert parse_given(["alpha-2=matte.png@0", "hero.png@1"], "trimap", "alpha") == {
        "alpha-2": {"0": Path("matte.png")}, "alpha": {"1": Path("hero.png")},
    }  # fmt: skip


def test_a_given_video_is_taken_apart_at_the_size_that_the_model_learned_that_at(
    tiny_model: Path, tmp_path: Path, files: dict[str, torch.Tensor]
) -> None:
    """The video is whole and small; a size, a number of frames, or single given frames leave the other size alone."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    path = model / "transformer" / "config.json"
    config = json.loads(path.read_text())
    larger, longer = 2 * config["sample_size"], config["sample_frames"] + 1
    changes = {"separation_layers": 1, "separation_size": larger, "separation_frames": longer}
    path.write_text(json.dumps(config | changes))
    facts = model_facts(model)

    def size(**request: Any) -> tuple[int, int, int]:
        resolved = resolve(Request(upscale=1, **request), facts)
        return resolved.frames, *resolved.size

    drawn = config["sample_frames"], config["sample_size"], config["sample_size"]
    assert size(foreground="a ball") == drawn
    assert size(given=parse_given(["blended=shot.mkv"])) == (min(longer, FRAMES), larger, larger)
    assert size(given=parse_given(["blended=shot.mkv"]), size=(16, 16), frames=2) == (2, 16, 16)
    assert size(given=parse_given(["blended=picture.png@1"])) == drawn
    assert size(given=parse_given(["background=shot.mkv"]))[1:] == drawn[1:]
