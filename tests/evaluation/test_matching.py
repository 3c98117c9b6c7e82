"""Foregrounds matched to the true ones, and reports of samples with several."""

import json
from pathlib import Path

import pytest
import torch
from full_size import build
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from layerflow.cli import run
from layerflow.core.layered_video import Foreground, LayeredVideo
from layerflow.core.schema import CLIPS, model_clips
from layerflow.evaluation import folders, metrics
from layerflow.evaluation.matching import match, matched, repeated_iou
from layerflow.evaluation.run import run_on
from layerflow.media import load_layers, save_layers
from layerflow.pipeline import LayerFlowPipeline

FRAMES, SIZE = 3, 24


def stack(count: int, seed: int = 0) -> LayeredVideo:
    """Return a scene of squares of different sizes that move down, one beside the other, over a flat background."""
    generator = torch.Generator().manual_seed(seed)
    foregrounds = []
    for index in range(count):
        alpha = torch.zeros(FRAMES, 1, SIZE, SIZE)
        left, side = 3 * index, 2 + int(torch.randint(0, 8, (), generator=generator))
        for frame in range(FRAMES):
            alpha[frame, :, 2 + 2 * frame : 2 + 2 * frame + side, left : left + 3] = 1
        foregrounds.append(Foreground(flat(generator), alpha))
    return LayeredVideo(background=flat(generator)).replace(foregrounds=foregrounds).compose()


def flat(generator: torch.Generator) -> Tensor:
    return torch.rand(3, generator=generator).view(1, 3, 1, 1).expand(FRAMES, 3, SIZE, SIZE).contiguous()


def mattes(count: int, generator: torch.Generator) -> list[Tensor]:
    """Return random mattes, some alike, some empty."""
    coarse = torch.randint(0, 3, (count, 2, 1, 12, 12), generator=generator) / 2
    coarse *= torch.randint(0, 4, (count, 1, 1, 1, 1), generator=generator) > 0
    return list(coarse)


def matched_figures(video: LayeredVideo, true: LayeredVideo) -> dict[str, float]:
    figures = folders.measure_sample(video, true)
    return {name: value for name, value in figures.items() if name.startswith(("matched", folders.FLOOR, "surplus"))}


# --- properties -------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 4), st.integers(1, 4), st.data())
def test_any_order_of_foregrounds_gives_the_same_figures(seed: int, made: int, true: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)

    def scene(alphas: list[Tensor]) -> LayeredVideo:
        pairs = [Foreground(alpha.expand(-1, 3, -1, -1) * 0.5, alpha) for alpha in alphas]
        return LayeredVideo(background=torch.zeros(2, 3, 12, 12)).replace(foregrounds=pairs)

    results, targets = mattes(made, generator), mattes(true, generator)
    expected = matched_figures(scene(results), scene(targets))
    shuffled = data.draw(st.permutations(results))
    figures = matched_figures(scene(shuffled), scene(targets))
    order = data.draw(st.permutations(targets))
    other = matched_figures(scene(results), scene(order))
    for name in ("matched alpha IoU", "matched alpha MAE", folders.FLOOR):
        if name in expected:
            assert figures[name] == expected[name]
            assert other[name] == pytest.approx(expected[name], abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**20), st.integers(2, 6), st.data())
def test_the_true_layers_in_any_order_are_a_perfect_result(seed: int, count: int, data: st.DataObject) -> None:
    true = stack(count, seed)
    order = data.draw(st.permutations(range(count)))
    video = true.replace(foregrounds=[true.foregrounds[index] for index in order])
    figures = matched_figures(video, true)
    assert figures["matched alpha IoU"] == 1
    assert figures["matched alpha MAE"] == figures["matched alpha SAD"] == figures["matched alpha dtSSD"] == 0
    assert figures["matched foreground PSNR over grey"] == metrics.MAX_PSNR
    assert figures[folders.FLOOR] < 1
    assert folders.SURPLUS not in figures
    restored, surplus = matched(video, true)
    assert restored.foregrounds == true.foregrounds
    assert surplus == []


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**20), st.integers(2, 5), st.integers(1, 4))
def test_missing_foregrounds_count_as_transparent(seed: int, count: int, found: int) -> None:
    found = min(found, count - 1)
    true = stack(count, seed)
    video = true.replace(foregrounds=true.foregrounds[::-1][:found])
    assert matched_figures(video, true)["matched alpha IoU"] == pytest.approx(found / count)
    empty = Foreground(torch.zeros(FRAMES, 3, SIZE, SIZE), torch.zeros(FRAMES, 1, SIZE, SIZE))
    padded = video.replace(foregrounds=[empty, *video.foregrounds, *[empty] * (count - found - 1)])
    figures, others = matched_figures(video, true), matched_figures(padded, true)
    assert {n: v for n, v in others.items() if "PSNR" not in n} == pytest.approx(
        {n: v for n, v in figures.items() if "PSNR" not in n}
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 4), st.integers(1, 4))
def test_matching_is_at_least_as_good_as_any_greedy_choice(seed: int, made: int, true: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    results, targets = mattes(made, generator), mattes(true, generator)
    order = match(results, targets)
    assert len(order) == true
    used = [index for index in order if index is not None]
    assert len(set(used)) == len(used) == min(made, true)

    def iou(index: int | None, target: Tensor) -> float:
        return metrics.alpha_iou(torch.zeros_like(target) if index is None else results[index], target)

    total = sum(iou(index, target) for index, target in zip(order, targets, strict=True))
    left: set[int | None] = set(range(made))
    greedy = 0.0
    for target in targets:
        best = max(left, key=lambda index, target=target: iou(index, target), default=None)  # type: ignore[misc]
        left.discard(best)
        greedy += iou(best, target)
    assert total >= greedy - 1e-9


# --- cases by hand ----------------------------------------------------------------------------------------


def test_the_best_total_is_chosen_and_not_the_best_pair() -> None:
    def row(*pixels: int) -> Tensor:
        alpha = torch.zeros(1, 1, 1, 10)
        alpha[..., list(pixels)] = 1
        return alpha

    targets = [row(0, 1, 2, 3), row(0, 1, 2, 3, 4)]
    results = [row(0, 1, 2, 3), row(0, 1)]
    # Its own with the first (1 + 2/5) is better than with the second (4/5 + 2/4).
    assert match(results, targets) == (0, 1)
    assert repeated_iou(results, targets) == pytest.approx((1 + 4 / 5) / 2)
    results = [row(0, 1, 2, 3), row(0, 1, 2)]
    # 1 + 3/5 against 4/5 + 3/4.
    assert match(results, targets) == (0, 1)
    assert match([results[0], row(4)], [targets[1], row(0, 1, 2, 3)]) == (1, 0)  # 1/5 + 1 against 4/5 + 0
    assert match([row(9)], targets) in ((0, None), (None, 0))
    # Equal IoU of 0: the smaller error decides.
    assert match([row(5) * 0.4, row(8)], [row(8) * 0.4, row(9) * 0.9]) == (0, 1)


def test_figures_of_two_foregrounds_by_hand() -> None:
    true = stack(2)
    nearest, farther = true.foregrounds
    assert nearest.alpha is not None
    assert farther.alpha is not None
    half = farther.alpha.clone()
    half[..., 4:] = 0  # one of three columns is left
    video = true.replace(foregrounds=[Foreground(farther.colour, half), nearest])
    figures = folders.measure_sample(video, true)
    assert figures["matched alpha IoU of foreground"] == 1
    assert figures["matched alpha IoU of foreground-2"] == pytest.approx(1 / 3)
    assert figures["matched alpha IoU"] == pytest.approx(2 / 3)
    assert figures["matched alpha MAE of foreground-2"] == pytest.approx(metrics.alpha_mae(half, farther.alpha))
    assert figures["matched alpha SAD"] == pytest.approx(metrics.sad(half, farther.alpha) / 2)
    assert figures["matched alpha dtSSD of foreground-2"] == pytest.approx(metrics.dtssd(half, farther.alpha))
    assert figures[folders.FLOOR] == 0.5  # the nearest one for both
    assert figures["alpha MAE"] == pytest.approx(metrics.alpha_mae(half, farther.alpha))  # all foregrounds together
    assert figures["background PSNR"] == metrics.MAX_PSNR
    assert figures["layer agreement"] < 1


def test_composite_and_agreement_of_several_foregrounds() -> None:
    video = stack(3)
    assert metrics.layer_agreement(video) == 1
    assert metrics.composite_psnr(video) == metrics.MAX_PSNR
    lacking = video.replace(**{"alpha-2": None})
    for figure in (metrics.layer_agreement, metrics.composite_psnr):
        with pytest.raises(ValueError, match="and colour and alpha of further foregrounds"):
            figure(lacking)
    figures = folders.measure_sample(lacking, video)  # what needs all mattes is left out
    assert "background PSNR" in figures
    assert not {"alpha IoU", "matched alpha IoU", "matte motion", "composite PSNR"} & set(figures)
    overlap = torch.full((1, 1, 2, 2), 0.5)
    white, black = torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    pair = [Foreground(white, overlap), Foreground(black, overlap)]
    scene = LayeredVideo(background=black, blended=black).replace(foregrounds=pair)
    # Shares are 1/2, 1/4 and 1/4; only the first is wrong, by 1.
    assert metrics.layer_agreement(scene) == pytest.approx(1 - (1 / 4) / (1 / 4 + 1 / 16 + 1 / 16))


# --- models -----------------------------------------------------------------------------------------------


def stack_of(pipeline: LayerFlowPipeline, count: int) -> LayeredVideo:
    """Return a scene of the size that a pipeline was built for."""
    frames, height, width = pipeline.codec.trained_size
    generator = torch.Generator().manual_seed(count)

    def clip(channels: int) -> Tensor:
        return torch.randint(0, 256, (frames, channels, height, width), generator=generator).float() / 255

    pairs = [Foreground(clip(3), clip(1)) for _ in range(count)]
    return LayeredVideo(background=clip(3)).replace(foregrounds=pairs).compose()


def test_models_run_on_samples_of_more_and_of_fewer_foregrounds(tmp_path: Path) -> None:
    pipeline = build("wan")
    pipeline.register_modules(transformer=pipeline.transformer.resized({"clips": model_clips(2)}))
    names = ("foreground", "foreground-2", "foreground-3")
    for count in (1, 2, 3):
        prompts = {"background": "a wall", **{name: f"a {name}" for name in names[:count]}}
        true = stack_of(pipeline, count)
        save_layers(true, tmp_path / "truth" / f"prompted{count}", ["png"], {"prompts": prompts})
        save_layers(true, tmp_path / "truth" / f"silent{count}", ["png"])
    made, failed = run_on(pipeline, tmp_path / "truth", tmp_path / "out", steps=1)
    assert failed == {}
    found = {
        task: {path.name: len(load_layers(path).foregrounds) for path in folder.iterdir()}
        for task, folder in made.items()
    }
    prompted = {"prompted1": 1, "prompted2": 2}
    assert found["generate"] == found["add-background"] == found["add-foreground"] == prompted
    assert found["decompose"] == {**prompted, "prompted3": 2, "silent1": 2, "silent2": 2, "silent3": 2}
    given = load_layers(made["add-background"] / "prompted2")
    true = load_layers(tmp_path / "truth" / "prompted2")
    assert given.foregrounds == true.foregrounds
    report = folders.measure_folders(made["decompose"], tmp_path / "truth")
    assert report.failed == {}
    assert {name for name, one in report.samples.items() if "matched alpha IoU" in one} == {*found["decompose"]} - {
        "prompted1"
    }
    assert "surplus alpha" in report.samples["silent1"]
    assert "matched alpha IoU of foreground-3" in report.samples["silent3"]


# --- reports ----------------------------------------------------------------------------------------------


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    """Two scenes of two foregrounds and one of one; results: reversed, one of two found, and one too many."""
    for number, name in enumerate("ab"):
        save_layers(stack(2, number), tmp_path / "truth" / name, ["png"])
    save_layers(stack(1, 2), tmp_path / "truth" / "c", ["png"])
    true = stack(2, 0)
    prompts = {"prompts": {"foreground": "a bar", "foreground-2": "a column", "background": "a wall"}}
    save_layers(true.replace(foregrounds=true.foregrounds[::-1]), tmp_path / "made" / "a", ["png"], prompts)
    true = stack(2, 1)
    save_layers(true.replace(foregrounds=true.foregrounds[1:]), tmp_path / "made" / "b", ["png"])
    save_layers(stack(2, 2), tmp_path / "made" / "c", ["png"])
    return tmp_path / "made", tmp_path / "truth"


def test_report_has_matched_figures(
    sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", str(sets[0]), "--truth", str(sets[1]), "-o", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "matched alpha IoU of foreground-2" in shown
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    a, b, c = (report["samples"][name] for name in "abc")
    assert a["matched alpha IoU"] == 1
    assert a["composite PSNR"] > 40
    assert b["matched alpha IoU"] == 0.5
    assert b[folders.FLOOR] == 0.5
    assert c["matched alpha IoU"] == c[folders.FLOOR] == 1
    alpha = load_layers(sets[0] / "c").foregrounds[1].alpha
    assert alpha is not None
    assert c["surplus alpha"] == pytest.approx(float(alpha.mean()))
    lines = {line["figure"]: line for line in report["lines"]}
    assert set(a) <= set(lines)
    assert lines["matched alpha IoU"]["value"] == pytest.approx(2.5 / 3)
    assert lines["matched alpha IoU of foreground-2"]["count"] == 2
    assert lines["foreground-2 FVD (random features)"]["count"] == 2
    assert "| matched alpha SAD of foreground (thousands) |" in (tmp_path / "out" / "report.md").read_text()
    assert folders.prompts_in(sets[0] / "a") == {
        "foreground": "a bar", "background": "a wall", "blended": "", "foreground-2": "a column"
    }  # fmt: skip


def test_reports_of_one_foreground_have_no_matched_figures() -> None:
    figures = folders.measure_sample(stack(1, 1), stack(1, 1))
    assert not [name for name in figures if "matched" in name or "same foreground" in name]
    assert figures["alpha IoU"] == 1


def test_clips_too_small_for_optical_flow_are_measured() -> None:
    small = stack(2).crop(0, 0, 8, 8)
    figures = folders.measure_sample(small, small)
    assert figures["matched alpha IoU"] == 1
    assert not {"dynamic degree", "alpha MESSDdt"} & set(figures)


@pytest.mark.parametrize("form", ["ffv1", "png"])
def test_results_without_layers_json_are_read(tmp_path: Path, form: str) -> None:
    true = stack(2)
    for name, video in (("truth", true), ("made", true.replace(foregrounds=true.foregrounds[::-1]))):
        save_layers(video, tmp_path / name / "one", [form])
        (tmp_path / name / "one" / "layers.json").unlink()
    report = folders.measure_folders(tmp_path / "made", tmp_path / "truth")
    assert report.samples["one"]["matched alpha IoU"] == 1
    only = stack(3).replace(**dict.fromkeys(CLIPS))  # foreground-2 and foreground-3 alone
    save_layers(only, tmp_path / "rest" / "two", [form])
    (tmp_path / "rest" / "two" / "layers.json").unlink()
    assert list(folders.samples_in(tmp_path / "rest")) == ["two"]
