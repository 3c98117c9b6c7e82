"""The evaluation of a model with random weights: report, resuming, page."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from full_size import build
from rich.console import Console

from layerflow import LayerFlowPipeline
from layerflow.mini.acceptance import CASES, Judge, Report, evaluate, rich_table, write_report
from layerflow.mini.acceptance.evaluate import KINDS, split_samples
from layerflow.mini.network.transformer import CompactTransformer3DModel
from layerflow.mini.world.captions import BACKGROUND_WORDS

pytestmark = pytest.mark.real_scenes


def run(pipeline: LayerFlowPipeline, judge: Judge, **changes: Any) -> Report:
    options: dict[str, Any] = {"samples": 2, "seeds": (0,), "steps": 1, "batch_size": 2}
    return evaluate(pipeline, judge=judge, **(options | changes))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return the arguments of each call of the pipeline."""
    seen: list[dict[str, Any]] = []
    original = LayerFlowPipeline.__call__

    def call(self: LayerFlowPipeline, *args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(LayerFlowPipeline, "__call__", call)
    return seen


def test_samples_are_split_evenly() -> None:
    assert split_samples(200, (0, 1, 2)) == {0: 67, 1: 67, 2: 66}
    assert split_samples(1, (4, 5)) == {4: 1, 5: 0}


def test_cases_call_the_pipeline(
    tiny_pipeline: LayerFlowPipeline, untrained_judge: Judge, calls: list[dict[str, Any]]
) -> None:
    progress: list[tuple[int, int, str]] = []
    report = run(tiny_pipeline, untrained_judge, progress=lambda *call: progress.append(call))
    assert [record["case"] for record in report.records] == [case for case in CASES for _ in range(2)]
    assert progress[-1][:2] == (2 * len(CASES), 2 * len(CASES))
    by_case = dict(zip(CASES, calls, strict=True))
    scale = CompactTransformer3DModel.conventions.guidance
    assert [call["guidance_scale"] for call in calls] == [*[1.0] * 4, *[scale] * 6]
    assert "foreground" not in by_case["decompose"]
    assert by_case["generate"]["given"] is None
    assert set(by_case["add-background"]["given"][0].clips()) == {"foreground", "alpha"}
    assert by_case["generate"]["blended"] == [
        record["prompts"]["blended"] for record in report.records if record["case"] == "generate"
    ]
    # The same scenes wherever layers are generated, so that the tasks compare.
    assert by_case["generate"]["foreground"] == by_case["add-foreground"]["foreground"]
    assert by_case["plain-words"]["background"] == by_case["other-words"]["background"]
    exact = [record["given_exact"] for record in report.records if "given_exact" in record]
    assert exact == [True] * 12
    assert tiny_pipeline._progress_bar_config == {"disable": True}


def test_samples_are_independent_of_the_batch(tiny_pipeline: LayerFlowPipeline, untrained_judge: Judge) -> None:
    options = {"cases": ["generate"], "samples": 2}
    together = run(tiny_pipeline, untrained_judge, **options).records
    alone = run(tiny_pipeline, untrained_judge, batch_size=1, **options).records
    for one, other in zip(together, alone, strict=True):
        assert one["composite_psnr"] == pytest.approx(other["composite_psnr"], abs=1e-3)
        assert one["prompts"] == other["prompts"]


def test_finished_parts_are_reused(
    tiny_pipeline: LayerFlowPipeline, untrained_judge: Judge, tmp_path: Path, calls: list[dict[str, Any]]
) -> None:
    first = run(tiny_pipeline, untrained_judge, folder=tmp_path, cases=["decompose", "generate"])
    assert len(calls) == 2
    again = run(tiny_pipeline, untrained_judge, folder=tmp_path)
    assert len(calls) == len(CASES)  # the remaining ones
    assert [record for record in again.records if record["case"] in ("decompose", "generate")] == first.records
    shown = [picture for picture in again.pictures if picture.case in ("decompose", "generate")]
    for one, other in zip(first.pictures, shown, strict=True):
        assert (one.kind, one.output, one.truth) == (other.kind, other.output, other.truth)
    run(tiny_pipeline, untrained_judge, folder=tmp_path, cases=["decompose"], steps=2)
    assert len(calls) == len(CASES) + 1  # other steps, other results


def test_changed_captions_are_measured_again(
    tiny_pipeline: LayerFlowPipeline,
    untrained_judge: Judge,
    tmp_path: Path,
    calls: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for changed in range(2):
        run(tiny_pipeline, untrained_judge, folder=tmp_path, cases=["generate"])
        assert len(calls) == 1 + changed
        for family in BACKGROUND_WORDS:
            monkeypatch.setitem(BACKGROUND_WORDS, family, ("something else",))


def test_changed_weights_are_measured_again(
    tiny_pipeline: LayerFlowPipeline, untrained_judge: Judge, tmp_path: Path, calls: list[dict[str, Any]]
) -> None:
    run(tiny_pipeline, untrained_judge, folder=tmp_path, cases=["decompose"])
    next(tiny_pipeline.transformer.parameters()).data.add_(1e-3)
    run(tiny_pipeline, untrained_judge, folder=tmp_path, cases=["decompose"])
    assert len(calls) == 2


def test_interrupted_evaluation_resumes(
    tiny_pipeline: LayerFlowPipeline, untrained_judge: Judge, tmp_path: Path, calls: list[dict[str, Any]]
) -> None:
    def stop(done: int, total: int, label: str) -> None:
        if label == "generate":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny_pipeline, untrained_judge, folder=tmp_path, progress=stop)
    assert len(calls) == 5
    run(tiny_pipeline, untrained_judge, folder=tmp_path)
    assert len(calls) == 5 + len(CASES) - 4  # four were done before


def test_quick_takes_one_seed(tiny_pipeline: LayerFlowPipeline, untrained_judge: Judge) -> None:
    report = run(tiny_pipeline, untrained_judge, quick=True, seeds=(3, 4), samples=2, cases=["decompose"])
    assert [record["seed"] for record in report.records] == [3, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, "samples and batch_size"),
        ({"seeds": ()}, "seeds must be"),
        ({"seeds": (1, 1)}, "seeds must be"),
        ({"cases": ["juggle"]}, "juggle"),
        ({"cases": ["decompose", "other-words"]}, "other-words has no figures without plain-words"),
    ],
)
def test_invalid_arguments(
    tiny_pipeline: LayerFlowPipeline, untrained_judge: Judge, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(tiny_pipeline, untrained_judge, **changes)


def test_autoencoder_models_are_refused(untrained_judge: Judge) -> None:
    with pytest.raises(ValueError, match="with `truth`"):
        run(build("cogvideox"), untrained_judge)


def test_report_as_table_json_and_page(
    tiny_pipeline: LayerFlowPipeline, untrained_judge: Judge, tmp_path: Path
) -> None:
    report = run(tiny_pipeline, untrained_judge, name="<b>mini</b> [red]", cases=["decompose", "generate"])
    report.pictures[-1].record["prompts"]["foreground"] = "<script>alert(1)</script>"
    page = write_report(report, tmp_path)
    html = page.read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "&lt;b&gt;mini" in html
    assert html.count("data:image/webp;base64,UklGR") == 2 * 2 * len(KINDS)  # output and truth
    assert 'src="http' not in html
    content = json.loads((tmp_path / "report.json").read_text())
    assert len(content["records"]) == 4
    assert {row["passed"] for row in content["rows"]} <= {True, False, None}
    assert set(content["judge_accuracy"]) <= {"object", "colour", "natural_colour", "motion", "family", "background"}
    out = io.StringIO()
    Console(file=out, width=220).print(rich_table(report))
    assert "<b>mini</b> [red]" in out.getvalue()
    assert "composite PSNR" in out.getvalue()
