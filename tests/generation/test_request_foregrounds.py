"""Several foregrounds from the command line and job files."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from layerflow.cli import run
from layerflow.core.layered_video import LayeredVideo
from layerflow.media import load_layers, save_layers

CLIPS = ["foreground", "alpha", "foreground-2", "alpha-2", "background", "blended"]
TWO = ["--foreground", "a fox", "--foreground", "a dog", "--background", "hills"]


def media(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".mkv", ".webp")}


@pytest.fixture
def made(tiny_stack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command on a model of two foregrounds: layers, metadata, messages."""

    def call(*words: object) -> tuple[LayeredVideo, dict[str, Any], str]:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        options = ["--steps", "1", "--format", "ffv1", "--model", str(tiny_stack), "-o", str(tmp_path / "out")]
        code = run([*map(str, words), *options])
        err = capsys.readouterr().err
        assert code == 0, err
        return (
            load_layers(tmp_path / "out"),
            json.loads((tmp_path / "out" / "layers.json").read_text())["metadata"],
            err,
        )

    return call


def test_each_foreground_has_its_prompt(made: Any, tiny_model: Path, tmp_path: Path) -> None:
    layers, metadata, err = made("generate", *TWO)
    assert list(layers.clips()) == CLIPS
    assert metadata["prompts"] == {
        "foreground": "a fox", "foreground-2": "a dog", "background": "hills",
        "blended": "a fox and a dog, in front of hills",
    }  # fmt: skip
    assert 'written from the others: "a fox and a dog, in front of hills"' in err
    assert metadata["task"] == "generate"
    before = media(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    assert run(shlex.split(metadata["command"])[1:]) == 0
    assert media(tmp_path / "out") == before
    words = ["generate", "--foreground", "a fox", "--background", "hills", "--overwrite", "--steps", "1"]
    assert run([*words, "--model", str(tiny_model), "-o", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "background.webm", "blended.webm", "foreground.webm", "layers.json", "preview.webp",
    ]  # fmt: skip
    other, *_ = made("generate", "--foreground", "a dog", "--foreground", "a fox", "--background", "hills")
    assert not torch.equal(other.alpha, layers.alpha)


def test_scene_has_as_many_foregrounds_as_prompts(made: Any, tmp_path: Path) -> None:
    one, *_ = made("generate", "--foreground", "a fox", "--background", "hills")
    assert len(one.foregrounds) == 1
    save_layers(LayeredVideo(blended=torch.rand(2, 3, 16, 16)), tmp_path / "shot", ["ffv1"])
    all_of_the_model, metadata, _ = made("decompose", tmp_path / "shot" / "blended.mkv")
    assert len(all_of_the_model.foregrounds) == 2
    assert metadata["task"] == "decompose"
    words = ["decompose", tmp_path / "shot" / "blended.mkv"]
    inside, outside = (made(*words, option, "foreground-2=5,6@0")[0] for option in ("--object", "--not-object"))
    assert inside.clips()["alpha-2"][0, 0, 6, 5] > outside.clips()["alpha-2"][0, 0, 6, 5]


def test_clips_of_the_second_foreground_are_kept(made: Any, tmp_path: Path) -> None:
    source, *_ = made("generate", *TWO)
    folder = tmp_path / "source"
    (tmp_path / "out").rename(folder)
    words = ["--given", f"foreground-2={folder}", "--given", f"background={folder}@1", "--foreground", "a cat"]
    layers, metadata, _ = made("complete", *words)
    assert list(layers.clips()) == CLIPS
    assert torch.equal(layers.clips()["foreground-2"], source.clips()["foreground-2"])
    assert torch.equal(layers.clips()["alpha-2"], source.clips()["alpha-2"])
    assert torch.equal(layers.background[1], source.background[1])
    assert metadata["given"][0]["clips"] == ["foreground-2", "alpha-2"]


def test_job_takes_a_list_of_prompts(tiny_stack: Path, tmp_path: Path, made: Any) -> None:
    layers, *_ = made("generate", *TWO)
    job = {"foreground": ["a fox", "a dog"], "background": "hills", "steps": 1, "formats": ["ffv1"]}
    (tmp_path / "jobs.jsonl").write_text(json.dumps(job))
    jobs = tmp_path / "jobs"
    assert run(["batch", str(tmp_path / "jobs.jsonl"), "-o", str(jobs), "--model", str(tiny_stack)]) == 0
    assert load_layers(jobs / "0001") == layers


def test_more_prompts_than_foregrounds_are_refused(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["generate", *TWO, "--model", str(tiny_model), "-o", str(tmp_path / "out")]) == 2
    assert "2 foregrounds are prompted or given, but this model has 1; load one with more" in capsys.readouterr().err
    words = ["complete", "--given", "alpha-3=a.png", "--model", str(tiny_model), "-o", str(tmp_path / "out")]
    assert run(words) == 2
    assert "a.png: there is no such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
