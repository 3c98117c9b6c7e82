"""Metrics of folders of layers: comparison with true layers, failures, reports."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from layerflow.cli import run
from layerflow.core.layered_video import LayeredVideo
from layerflow.core.schema import TASKS
from layerflow.evaluation import folders, metrics
from layerflow.media import MediaError, load_layers, save_layers, write_video


def scene(seed: int, frames: int = 3) -> LayeredVideo:
    generator = torch.Generator().manual_seed(seed)
    colour, back = torch.rand(2, 3, generator=generator)
    alpha = torch.zeros(frames, 1, 32, 32)
    for frame in range(frames):
        alpha[frame, :, 8:20, 4 + 3 * frame : 16 + 3 * frame] = 1
    stills = [c.view(1, 3, 1, 1).expand(frames, 3, 32, 32).contiguous() for c in (colour, back)]
    return LayeredVideo(stills[0], alpha, stills[1]).compose()


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    """Three true samples, and results: one correct, one with a wrong matte, one of another length, one unmatched."""
    for name in ("a", "b", "c"):
        save_layers(scene(ord(name)), tmp_path / "truth" / name, ["png"])
    good = scene(ord("a"))
    save_layers(good, tmp_path / "made" / "a", ["png"], {"prompts": {"foreground": "a red square"}})
    wrong = scene(ord("b"))
    assert wrong.alpha is not None
    save_layers(
        wrong.replace(alpha=wrong.alpha.flip(3)), tmp_path / "made" / "b", ["png"], {"prompts": {"foreground": "a fox"}}
    )
    save_layers(scene(ord("c"), frames=2), tmp_path / "made" / "c", ["png"])
    save_layers(scene(ord("d")), tmp_path / "made" / "d", ["png"])
    return tmp_path / "made", tmp_path / "truth"


def test_samples_are_compared_by_name(sets: tuple[Path, Path]) -> None:
    report = folders.measure_folders(*sets)
    assert list(report.samples) == ["a", "b"]
    assert set(report.failed) == {"c", "d"}
    assert "3 frames" in report.failed["c"]
    assert "no sample of that name" in report.failed["d"]
    good, wrong = report.samples["a"], report.samples["b"]
    assert good["alpha MAE"] == good["alpha Conn"] == good["alpha MESSDdt"] == 0
    assert good["alpha IoU"] == good["layer agreement"] == 1
    true = scene(ord("b")).alpha
    assert true is not None
    assert wrong["alpha MAE"] == pytest.approx(metrics.alpha_mae(true.flip(3), true), abs=1e-6)
    assert wrong["composite PSNR"] < 30 < good["composite PSNR"]
    lines = {line.figure: line for line in report.lines()}
    assert lines["alpha MAE"].value == pytest.approx(wrong["alpha MAE"] / 2)
    assert lines["background FVD (random features)"].value == pytest.approx(0, abs=1e-9)
    assert lines["foreground FVD (random features)"].value > 0
    assert set(good) <= set(lines)  # every metric is in the table
    assert "| alpha SAD (thousands) |" in report.markdown()
    assert "- not measured: d: " in report.markdown()


def test_metrics_without_true_layers(sets: tuple[Path, Path]) -> None:
    report = folders.measure_folders(sets[0])
    assert not report.failed
    assert "alpha MAE" not in report.samples["a"]
    assert report.samples["a"]["matte motion"] == pytest.approx(0.5)  # 3 of 12 columns leave, 3 enter


def test_retrieval_uses_the_embedder(sets: tuple[Path, Path]) -> None:
    def embed(layers: Sequence[Tensor], prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        assert list(prompts) == ["a red square", "a fox"]
        assert [tuple(layer.shape) for layer in layers] == [(3, 3, 32, 32)] * 2
        return torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.1]])

    report = folders.measure_folders(*sets, embedder=embed)
    (line,) = [line for line in report.of_set if "retrieves" in line.figure]
    assert (line.figure, line.value, line.count) == ("foreground retrieves its prompt", 1.0, 2)


def test_files_named_for_clips_make_a_sample(tmp_path: Path) -> None:
    video = scene(1)
    assert video.alpha is not None
    for layer, clip in (("foreground", video.over((0.5, 0.5, 0.5))), ("alpha", video.alpha.expand(-1, 3, -1, -1))):
        write_video(tmp_path / "peer" / "one" / f"{layer}.webp", clip, None, 8.0, "webp")
    save_layers(video, tmp_path / "truth" / "one", ["png"])
    report = folders.measure_folders(tmp_path / "peer", tmp_path / "truth")
    assert report.samples["one"]["alpha MAE"] < 0.02
    # A single sample on each side is compared with the other, whatever its name.
    (tmp_path / "truth" / "one").rename(tmp_path / "truth" / "other")
    assert "alpha MAE" in folders.measure_folders(tmp_path / "peer", tmp_path / "truth").samples["one"]


def test_errors(tmp_path: Path, sets: tuple[Path, Path]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MediaError, match="holds no folders of layers"):
        folders.measure_folders(tmp_path / "empty")
    with pytest.raises(MediaError, match="there is no such folder"):
        folders.measure_folders(tmp_path / "none")
    with pytest.raises(MediaError, match=r"no sample of .* could be measured"):
        folders.measure_folders(sets[0] / "c", sets[1] / "a")


def test_command_prints_the_table_and_writes_the_report(
    sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["eval", str(sets[0]), "--truth", str(sets[1]), "-o", str(tmp_path / "report")])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert "alpha MESSDdt" in shown.out
    assert "d: " in shown.err
    kept = json.loads((tmp_path / "report" / "report.json").read_text())
    assert kept["samples"]["a"]["alpha MAE"] == 0
    assert (tmp_path / "report" / "report.md").read_text().startswith("2 samples of ")


def test_model_is_run_on_true_samples_and_measured(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {name: scene(ord(name), frames=2).fit(16, 16) for name in "ab"}
    save_layers(small["a"], tmp_path / "truth" / "a", ["png"])
    texts = {"foreground": "a red square", "background": "a blue wall"}
    save_layers(small["b"], tmp_path / "truth" / "b", ["png"], {"prompts": texts})
    save_layers(scene(1, frames=2).fit(20, 20), tmp_path / "truth" / "c", ["png"])  # a size that the model refuses
    words = ["eval", str(tiny_model), "--truth", str(tmp_path / "truth"), "-o", str(tmp_path / "out"), "--steps", "1"]
    assert run(words) == 0
    shown = capsys.readouterr()
    assert "decompose/c: 20x20 pixels do not fit this model" in shown.err
    counts = {task: len(json.loads((tmp_path / "out" / task / "report.json").read_text())["samples"]) for task in TASKS}
    assert counts == {"generate": 1, "decompose": 2, "add-background": 1, "add-foreground": 1}
    made = load_layers(tmp_path / "out" / "results" / "decompose" / "b")
    true = load_layers(tmp_path / "truth" / "b")
    assert torch.equal(made.blended, true.blended)  # type: ignore[arg-type]
    assert not torch.equal(made.background, true.background)  # type: ignore[arg-type]
    kept = tmp_path / "out" / "results" / "generate" / "b" / "layers.json"
    changed = kept.stat().st_mtime_ns
    assert run(words) == 0
    assert kept.stat().st_mtime_ns == changed  # results are reused
    assert run([*words[:-1], "2"]) == 0
    assert kept.stat().st_mtime_ns != changed


def test_samples_that_allow_no_task_are_an_error(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_layers(scene(1, frames=2).replace(blended=None, background=None), tmp_path / "truth" / "a", ["png"])
    assert run(["eval", str(tiny_model), "--truth", str(tmp_path / "truth"), "-o", str(tmp_path / "out")]) == 2
    assert "no task can be run on the samples" in capsys.readouterr().err
    assert run(["eval", "mini", "--truth", str(tmp_path / "none")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
