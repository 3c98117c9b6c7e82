"""The command line, on a tiny model with random weights."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import layerflow
from layerflow.cli import app, run
from layerflow.core.layered_video import LayeredVideo
from layerflow.generation.record import LIBRARIES
from layerflow.media import FORMATS, load_layers, read_video, save_layers, write_video
from layerflow.mini.network.transformer import CompactTransformer3DModel

COMMANDS = (
    "generate", "decompose", "animate", "add-background", "add-foreground", "complete", "batch", "compose", "export",
    "convert", "train", "eval", "info", "studio",
)  # fmt: skip
DEFAULTS = CompactTransformer3DModel.conventions
PROMPTS = ("--foreground", "a red ball", "--background", "green hills")


@pytest.fixture
def scene() -> LayeredVideo:
    """Four clips of 16x16, 2 frames, whose values are 8-bit levels, so that PNG keeps them."""
    generator = torch.Generator().manual_seed(1)

    def levels(channels: int) -> torch.Tensor:
        return torch.randint(0, 256, (2, channels, 16, 16), generator=generator).float() / 255

    return LayeredVideo(levels(3), levels(1), levels(3), blended=levels(3))


@pytest.fixture
def clips(scene: LayeredVideo, tmp_path: Path) -> dict[str, Path]:
    """Files of the scene: a foreground with alpha, a matte, a background, a blended video."""
    paths = {name: tmp_path / "in" / name for name in ("foreground", "alpha", "background", "blended")}
    assert scene.foreground is not None
    assert scene.alpha is not None
    write_video(paths["foreground"], scene.foreground, scene.alpha, format="png")
    write_video(paths["alpha"], scene.alpha.expand(-1, 3, -1, -1), format="png")
    for name in ("background", "blended"):
        write_video(paths[name], scene.clips()[name], format="png")
    return paths


@pytest.fixture
def layerflow_run(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str, Path]]:
    """Run a command on the tiny model into a new folder: exit code, stdout, stderr, folder."""
    count = iter(range(100))

    def call(*arguments: str | Path, output: Path | None = None) -> tuple[int, str, str, Path]:
        folder = output or tmp_path / f"out{next(count)}"
        words = [*map(str, arguments), "--model", str(tiny_model), "--steps", "2", "-o", str(folder)]
        capsys.readouterr()
        code = run(words)
        out, err = capsys.readouterr()
        return code, out, err, folder

    return call


def media_bytes(folder: Path) -> dict[str, bytes]:
    """Every file but layers.json, whose timings differ from run to run."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "layers.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def one_sentence(err: str) -> str:
    """Return the only line of stderr that reports an error."""
    lines = [line for line in err.splitlines() if line.startswith("layerflow: ")]
    assert len(lines) == 1
    assert "Traceback" not in err
    return lines[0]


# --- help and the surface ---------------------------------------------------------------------------------


def test_public_names() -> None:
    assert set(layerflow.__all__) == {
        *("Foreground", "Given", "LayerFlowPipeline", "LayeredVideo"),
        *("__version__", "load_layers", "save_layers"),
    }
    assert dir(layerflow) == sorted(layerflow.__all__)
    assert layerflow.LayeredVideo is LayeredVideo
    assert layerflow.LayerFlowPipeline.__name__ == "LayerFlowPipeline"
    with pytest.raises(AttributeError, match="no attribute 'Pipeline'"):
        _ = layerflow.Pipeline


def test_help_has_an_example() -> None:
    runner = CliRunner(env={"COLUMNS": "140", "TERM": "dumb", "NO_COLOR": "1"})
    listed = runner.invoke(app, ["--help"]).output
    for command in COMMANDS:
        assert command in listed
        shown = runner.invoke(app, [command, "--help"])
        assert shown.exit_code == 0
        assert f"layerflow {command}" in shown.output.split("Example")[1]


def test_help_names_formats_and_defaults() -> None:
    runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    shown = runner.invoke(app, ["generate", "--help"]).output
    for name in FORMATS:
        assert re.search(rf"\b{name}\b", shown)
    assert re.search(rf"--steps.*{DEFAULTS.steps}", shown)
    assert re.search(rf"--guidance.*{DEFAULTS.guidance:g} for mini", shown)


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from layerflow.cli import run; run(['generate', '--help']); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', 'transformers', 'av')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_info_imports_no_pipeline(scene: LayeredVideo, tmp_path: Path) -> None:
    save_layers(scene, tmp_path)
    commands = [["info"], ["info", str(tmp_path)], ["info", str(tmp_path / "blended.webm")]]
    heavy = ("torch._dynamo", "peft", "diffusers", "transformers", "accelerate")
    code = (
        f"import sys; from layerflow.cli import run; assert not any(run(words) for words in {commands}); "
        f"sys.exit(','.join(name for name in {heavy} if name in sys.modules) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"layerflow {layerflow.__version__}\n"


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    run([])
    out, err = capsys.readouterr()
    assert "generate" in out
    assert "layerflow:" not in err


# --- the tasks --------------------------------------------------------------------------------------------


def test_generate_writes_layers_and_metadata(
    layerflow_run: Callable, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err, folder = layerflow_run("generate", *PROMPTS, "--format", "png", "--format", "webm")
    assert code == 0, err
    made = {f"{layer}{end}" for layer in ("foreground", "background", "blended") for end in ("_png", ".webm")}
    assert {path.name for path in folder.iterdir()} == made | {"preview.webp", "layers.json"}
    assert [Path(line) for line in out.splitlines() if Path(line).name in made]
    assert '"a red ball, in front of green hills"' in err
    index = json.loads((folder / "layers.json").read_text())
    made_of = index["metadata"]
    assert made_of["task"] == "generate"
    assert made_of["prompts"]["blended"] == "a red ball, in front of green hills"
    assert made_of["blended_prompt"] == "written from the others"
    assert (made_of["seed"], made_of["steps"], made_of["guidance"]) == (0, 2, DEFAULTS.guidance)
    assert (made_of["noise_scale"], made_of["upscale"]) == (1, 1)
    assert re.fullmatch("[0-9a-f]{64}", made_of["model_sha256"])
    assert set(made_of["versions"]) == {"python", "layerflow", *LIBRARIES}
    assert set(made_of["timings"]) == {"load_seconds", "denoise_seconds"}
    assert all({"colour", "alpha", "layer", "name"} <= set(file) for file in index["files"])
    assert load_layers(folder).frames == 2


def test_same_seed_gives_the_same_bytes(layerflow_run: Callable) -> None:
    arguments = ("generate", *PROMPTS, "--format", "webm", "--format", "mp4", "--format", "ffv1")
    *_, first = layerflow_run(*arguments)
    *_, second = layerflow_run(*arguments)
    *_, other = layerflow_run(*arguments, "--seed", "1")
    assert media_bytes(first) == media_bytes(second)
    assert media_bytes(first)["blended.mkv"] != media_bytes(other)["blended.mkv"]


def test_recorded_command_reproduces_the_bytes(layerflow_run: Callable, clips: dict[str, Path]) -> None:
    code, _, err, folder = layerflow_run(
        "add-background", clips["foreground"], "--background", "it's snow", "--format", "png", "--seed", "7"
    )
    assert code == 0, err
    before = media_bytes(folder)
    words = shlex.split(json.loads((folder / "layers.json").read_text())["metadata"]["command"])
    shutil.rmtree(folder)
    assert words[0] == "layerflow"
    assert run(words[1:]) == 0
    assert media_bytes(folder) == before


@pytest.mark.parametrize(
    ("arguments", "given", "task", "guidance"),
    [
        (["decompose", "blended"], ["blended"], "decompose", 1.0),
        (["add-background", "foreground", "--background", "b"], ["foreground", "alpha"], "add-background", None),
        (["add-foreground", "background", "--foreground", "f"], ["background"], "add-foreground", None),
        (
            ["complete", "--given", "background=background", "--given", "alpha=alpha"],
            ["alpha", "background"],
            "complete",
            None,
        ),
    ],
)
def test_given_clips_are_unchanged(
    layerflow_run: Callable, clips: dict[str, Path], scene: LayeredVideo,
    arguments: list[str], given: list[str], task: str, guidance: float | None,
) -> None:  # fmt: skip
    words = [str(clips.get(word, word)) for word in arguments]
    words = [f"{w.split('=')[0]}={clips[w.split('=')[1]]}" if "=" in w else w for w in words]
    code, _, err, folder = layerflow_run(*words, "--format", "png")
    assert code == 0, err
    back = load_layers(folder)
    for name in given:
        assert torch.equal(back.clips()[name], scene.clips()[name]), name
    assert set(back.clips()) == {"foreground", "alpha", "background", "blended"}
    made_of = json.loads((folder / "layers.json").read_text())["metadata"]
    assert (made_of["task"], made_of["guidance"]) == (task, guidance or DEFAULTS.guidance)
    assert sorted(name for source in made_of["given"] for name in source["clips"]) == sorted(given)


def test_alpha_from_a_separate_file(layerflow_run: Callable, clips: dict[str, Path], scene: LayeredVideo) -> None:
    code, _, err, folder = layerflow_run(
        "add-background", clips["blended"], "--alpha", clips["alpha"], "--background", "b", "--format", "png"
    )
    assert code == 0, err
    assert torch.equal(load_layers(folder).clips()["alpha"], scene.clips()["alpha"])


def test_given_folder_of_layers(layerflow_run: Callable, scene: LayeredVideo, tmp_path: Path) -> None:
    save_layers(scene, tmp_path / "layers", formats=["png"])
    code, _, err, folder = layerflow_run("add-foreground", tmp_path / "layers", "--foreground", "f", "--format", "png")
    assert code == 0, err
    assert torch.equal(load_layers(folder).clips()["background"], scene.clips()["background"])


def test_given_videos_are_fitted_to_the_model(layerflow_run: Callable, tmp_path: Path) -> None:
    path = tmp_path / "wide.mkv"
    write_video(path, torch.rand(5, 3, 24, 64), fps=12)
    code, _, err, folder = layerflow_run("decompose", path)
    assert code == 0, err
    assert "took the first 2 frames" in err
    assert "resized 64x24 to 16x16 after a crop around the centre to 24x24" in err
    back = load_layers(folder)
    assert (back.frames, back.height, back.width, back.fps) == (2, 16, 16, 12)


def test_still_is_repeated(layerflow_run: Callable, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "navy").save(tmp_path / "night.png")
    code, _, err, folder = layerflow_run(
        "add-foreground", tmp_path / "night.png", "--foreground", "a moon", "--frames", "3", "--size", "32x16"
    )
    assert code == 0, err
    assert "repeated a still 3 times" in err
    back = load_layers(folder)
    assert (back.frames, back.height, back.width) == (3, 16, 32)


def test_overwrite_removes_only_files_of_an_earlier_run(layerflow_run: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    layerflow_run("generate", *PROMPTS, "--format", "png", output=folder)
    (folder / "notes.txt").write_text("mine")
    code, _, err, _ = layerflow_run("generate", *PROMPTS, "--overwrite", output=folder)
    assert code == 0, err
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "foreground_png").exists()
    assert (folder / "foreground.webm").exists()


def test_long_prompt_is_cut_with_a_note(layerflow_run: Callable) -> None:
    code, _, err, _ = layerflow_run("generate", "--foreground", "red " * 60, "--background", "b")
    assert code == 0, err
    assert "note: prompt of 62 tokens is cut" in err


# --- compose ----------------------------------------------------------------------------------------------


def test_compose_is_exact(
    clips: dict[str, Path], scene: LayeredVideo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "composed.mkv"
    assert run(["compose", str(clips["foreground"]), str(clips["background"]), "-o", str(target)]) == 0
    exact = scene.compose().blended
    assert exact is not None
    assert (read_video(target).colour - exact).abs().max() <= 0.5 / 65535 + 1e-6  # the file has 16 bits
    assert capsys.readouterr().out.strip() == str(target)


def test_compose_fits_on_request_only(
    clips: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 20), "navy").save(tmp_path / "night.png")
    words = ["compose", str(clips["foreground"]), str(tmp_path / "night.png"), "-o", str(tmp_path / "a.webm")]
    assert run(words) == 2
    assert "--fit" in one_sentence(capsys.readouterr().err)
    assert run([*words, "--fit"]) == 0
    assert read_video(tmp_path / "a.webm").colour.shape == (2, 3, 16, 16)


# --- info, train, eval ------------------------------------------------------------------------------------


def test_info_of_model_layers_and_files(
    layerflow_run: Callable, tiny_model: Path, clips: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    *_, folder = layerflow_run("generate", *PROMPTS)
    for subject, expected in (
        ([], "torch"),
        ([tiny_model], "M parameters"),
        ([folder], "libvpx-vp9"),
        ([folder / "foreground.webm"], "transparent"),
        ([folder / "blended.webm"], "2 of 16x16 at 8 frames a second"),
        ([clips["background"]], "a folder of images"),
        ([folder / "preview.webp"], "WEBP image"),
    ):
        capsys.readouterr()
        assert run(["info", *map(str, subject)]) == 0
        assert expected in capsys.readouterr().out


@pytest.fixture
def recipe(tiny_model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"""
        start_from: {tiny_model}
        size: 16
        clip_frames: 2
        frames_per_batch: 2
        phases: [{{steps: 2, frames: {{1: 1.0}}}}]
        warmup: 1
        workers: 0
        log_every: 1
        checkpoint_every: 1
        sample_every: 100
        """
    )
    return path


@pytest.fixture
def emoji_font() -> None:
    from layerflow.mini.world import find_font

    find_font()  # the test is skipped where there is none


@pytest.mark.usefixtures("emoji_font")
def test_train_and_resume(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", str(recipe), "-o", str(tmp_path / "runs")]
    assert run(words) == 0
    out, err = capsys.readouterr()
    assert re.search(r"waited for data: \d+\.\d% of base", err)
    model = Path(out.strip().splitlines()[-1])
    assert (model / "model_index.json").is_file()
    assert run(words) == 2  # a run is there
    assert "--resume" in one_sentence(capsys.readouterr().err)
    assert run([*words, "--resume"]) == 0


@pytest.mark.usefixtures("emoji_font")
def test_eval_prints_the_table_and_writes_the_report(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from layerflow.cli import evaluate as measuring
    from layerflow.mini.acceptance import Judge, evaluate

    torch.manual_seed(0)
    judge = Judge().eval()
    monkeypatch.setattr(measuring, "evaluate", lambda *a, **k: evaluate(*a, **k, judge=judge))
    words = ["eval", str(tiny_model), "-o", str(tmp_path / "report"), "--samples", "1", "--steps", "1"]
    assert run(words) == 0
    out, _ = capsys.readouterr()
    assert "decompose" in out
    assert "generate" in out
    assert {"index.html", "report.json"} <= {path.name for path in (tmp_path / "report").iterdir()}

    words[3] = str(tmp_path / "one")
    assert run([*words, "--case", "decompose-see-through"]) == 0
    records = json.loads((tmp_path / "one" / "report.json").read_text())["records"]
    assert {record["case"] for record in records} == {"decompose-see-through"}


# --- a user's mistakes ------------------------------------------------------------------------------------

MISTAKES = [
    (["generate", "--foreground", "a", "-o", "{out}"], "Missing option '--background'"),
    (["generate", "--foreground", "a", "--background", "b"], "Missing option '--output'"),
    (["bogus"], "No such command 'bogus'"),
    (["generate", *PROMPTS, "-o", "{out}", "--bogus"], "No such option"),
    (["generate", *PROMPTS, "-o", "{out}", "--steps", "0"], "--steps"),
    (["generate", *PROMPTS, "-o", "{out}", "--steps", "many"], "--steps"),
    (["generate", *PROMPTS, "-o", "{out}", "--size", "0x8"], "--size 0x8 is not a size"),
    (["generate", *PROMPTS, "-o", "{out}", "--size", "20", "--model", "{model}"], "must divide by 16"),
    (["generate", *PROMPTS, "-o", "{out}", "--fps", "0"], "--fps is 0 but must be a number above 0"),
    (["generate", *PROMPTS, "-o", "{out}", "--fps", "nan"], "--fps is nan"),
    (["generate", *PROMPTS, "-o", "{out}", "--guidance", "-1"], "--guidance is -1 but"),
    (["generate", *PROMPTS, "-o", "{out}", "--seed", "-1"], "--seed is -1 but"),
    (["generate", *PROMPTS, "-o", "{out}", "--dtype", "int8"], "--dtype is 'int8' but"),
    (["generate", *PROMPTS, "-o", "{out}", "--device", "toaster"], "--device toaster"),
    (["generate", *PROMPTS, "-o", "{out}", "--device", "cuda:99"], "--device cuda:99"),
    (["generate", *PROMPTS, "-o", "{out}", "--format", "avi"], "format 'avi' is not known"),
    (["generate", *PROMPTS, "-o", "{out}", "--model", "nope"], "neither bundled (mini) nor a folder"),
    (["generate", *PROMPTS, "-o", "{out}", "--model", "{in}"], "has no model_index.json"),
    (["generate", *PROMPTS, "-o", "{in}"], "is not empty; set --overwrite"),
    (["generate", *PROMPTS, "-o", "{in}/text.mp4"], "is a file; name a folder"),
    (["decompose", "{in}/none.mp4", "-o", "{out}"], "there is no such file"),
    (["decompose", "{in}/text.mp4", "-o", "{out}", "--model", "{model}"], "cannot be read as a video"),
    (["decompose", "{in}/blended.png", "-o", "{in}", "--overwrite"], "would be written over"),
    (["decompose", "{in}", "-o", "{in}", "--overwrite"], "would be written over"),
    (["decompose", "{in}/clip.mkv", "-o", "{out}", "--model", "{model}", "--frames", "9"], "fewer than --frames"),
    (["decompose", "{in}/clear.png", "-o", "{out}", "--model", "{model}"], "it has transparent parts"),
    (["add-background", "{in}/still.png", "--background", "b", "-o", "{out}", "--model", "{model}"], "--alpha"),
    (["complete", "--given", "{in}/still.png", "-o", "{out}"], "must be CLIP=PATH"),
    (["complete", "--given", "matte={in}/still.png", "-o", "{out}"], "'matte' is no clip"),
    (["complete", "--given", "alpha=a", "--given", "alpha=b", "-o", "{out}"], "names alpha twice"),
    (
        ["complete", *(w for c in ("foreground", "alpha", "background", "blended")
                       for w in ("--given", f"{c}={{in}}/still.png")), "-o", "{out}", "--model", "{model}"],
        "nothing is left to make",
    ),
    (["compose", "{in}/clear.png", "{in}/still.png", "-o", "{out}.xyz"], "no format goes with '.xyz'"),
    (["compose", "{in}/clear.png", "{in}/still.png", "-o", "{in}/clip.mkv"], "is there already"),
    (["compose", "{in}/still.png", "{in}/still.png", "-o", "{out}.mp4"], "it has no alpha"),
    (["train", "{in}/none.yaml"], "does not exist"),
    (["train", "{in}/bad.yaml", "-o", "{out}"], "unknown key 'color'"),
    (["eval", "mini", "--case", "compose"], "cases must be some of decompose,"),
    (["eval", "nope"], "neither bundled (mini) nor a folder"),
    (["info", "{in}/none.mp4"], "is no file, no folder and no model"),
]  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "text.mp4").write_text("not a video")
    (folder / "bad.yaml").write_text("phases: [{steps: 1, frames: {1: 1.0}}]\ncolor: red\n")
    for name in ("still", "blended"):
        Image.new("RGB", (16, 16), "navy").save(folder / f"{name}.png")
    Image.new("RGBA", (16, 16), (200, 0, 0, 100)).save(folder / "clear.png")
    write_video(folder / "clip.mkv", torch.rand(3, 3, 16, 16))
    return folder


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_user_error_is_one_sentence_with_exit_code_2(
    arguments: list[str], message: str, inputs: Path, tiny_model: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    if arguments[0] == "eval":
        request.getfixturevalue("emoji_font")
    before = sorted(inputs.iterdir())
    places = {"out": tmp_path / "out", "in": inputs, "model": tiny_model}
    assert run([argument.format(**places) for argument in arguments]) == 2
    assert message in one_sentence(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
    assert sorted(inputs.iterdir()) == before


def test_internal_error_is_one_line_with_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("out of cheese")

    monkeypatch.setattr("layerflow.cli.info.describe", broken)
    assert run(["info"]) == 1
    assert one_sentence(capsys.readouterr().err) == (
        "layerflow: RuntimeError: out of cheese (LAYERFLOW_DEBUG=1 shows where)"
    )
    monkeypatch.setenv("LAYERFLOW_DEBUG", "1")
    with pytest.raises(RuntimeError, match="cheese"):
        run(["info"])


def test_exit_code_of_the_installed_command() -> None:
    words = [sys.executable, "-m", "layerflow.cli", "info", "none.mp4"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    message = "layerflow: none.mp4 is no file, no folder and no model; the bundled models are mini\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)
