"""The evaluation of a model with random weights: report, resuming, page."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from full_size import build
from rich.console import Console

from layerflow import LayerFlowPipeline
from layerflow.mini.acceptance import TRIALS, Judge, Report, evaluate, rich_table, write_report
from layerflow.mini.acceptance.evaluate import KINDS, share_out
from layerflow.mini.network.transformer import CompactTransformer3DModel
from layerflow.mini.world.captions import BACKGROUND_WORDS

pytestmark = pytest.mark.real_scenes


def run(pipeline: LayerFlowPipeline, judge: Judge, **changes: Any) -> Report:
    options: dict[str, Any] = {"samples": 2, "seeds": (0,), "steps": 1, "batch_size": 2}
    return evaluate(pipeline, judge=judge, **(options | changes))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of each call of the pipeline."""
    seen: list[dict[str, Any]] = []
    original = LayerFlowPipeline.__call__

    def call(self: LayerFlowPipeline, *args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(LayerFlowPipeline, "__call__", call)
    return seen


def test_samples_are_shared_out_evenly() -> None:
    assert share_out(200, (0, 1, 2)) == {0: 67, 1: 67, 2: 66}
    assert share_out(1, (4, 5)) == {4: 1, 5: 0}


def test_every_trial_is_run_as_it_should(
    tiny_pipeline: LayerFlowPipeline, untrained_judge: Judge, calls: list[dict[str, Any]]
) -> None:
    told: list[tuple[int, int, str]] = []
    report = run(tiny_pipeline, untrained_judge, progress=lambda *t: told.append(t))
    assert [record["trial"] for record in report.records] == [trial for trial in TRIALS for _ in range(2)]
    assert told[-1][:2] == (2 * len(TRIALS), 2 * len(TRIALS))
    by_trial = dict(zip(TRIALS, calls, strict=True))
    scale = CompactTransformer3DModel.conventions.guidance
    assert [call["guidance_scale"] for call in calls] == [*[1.0] * 4, *[scale] * 6]
    assert "foreground" not in by_trial["decompose"]
    assert by_trial["generate"]["given"] is None
    assert set(by_trial["add-background"]["given"][0].clips()) == {"foreground", "alpha"}
    assert by_trial["generate"]["blended"] == [
        record["prompts"]["blended"] for record in report.records if record["trial"] == "generate"
    ]
    # The same scenes wherever layers are generated, so that the tasks compare.
    assert by_trial["generate"]["foreground"] == by_trial["add-foreground"]["foreground"]
    assert by_trial["plain-words"]["background"] == by_trial["other-words"]["background"]
    exact = [record["given_exact"] for record in report.records if "given_exact" in record]
    assert exact == [True] * 12
    assert tiny_pipeline._progress_bar_config == {"disable": True}


def test_a_sample_does_not_depend_on_its_batch(tiny_pipeline: LayerFlowPipeline, untrained_judge: Judge) -> None:
    options = {"trials": ["generate"], "samples": 2}
    together = run(tiny_pipeline, untrained_judge, **options).records
    alone = run(tiny_pipeline, untrained_judge, batch_size=1, **options).records
    for one, other in zip(together, alone, strict=True):
        assert one["composite_psnr"] == pytest.approx(other["composite_psnr"], abs=1e-3)
        assert one["prompts"] == other["prompts"]


def test_what_is_done_is_not_done_again(
    tiny_pipeline: LayerFlowPipeline, untrained_judge: Judge, tmp_path: Path, calls: list[dict[str, Any]]
) -> None:
    first = run(tiny_pipeline, untrained_judge, folder=tmp_path, trials=["decompose", "generate"])
    assert len(calls) == 2
    again = run(tiny_pipeline, untrained_judge, folder=tmp_path)
    assert len(calls) == len(TRIALS)  # those that were left
    assert [record for record in again.records if record["trial"] in ("decompose", "generate")] == first.records
    shown = [picture for picture in again.pictures if picture.trial in ("decompose", "generate")]
    for one, other in zip(first.pictures, shown, strict=True):
        assert (one.kind, one.output, one.truth) == (other.kind, other.output, other.truth)
    run(tiny_pipeline, untrained_judge, folder=tmp_path, trials=["decompose"], steps=2)
    assert len(calls) == len(TRIALS) + 1  # other steps, other results


def test_other_words_or_scenes_are_measured_anew(
    tiny_pipeline: LayerFlowPipeline, untrained_judge: Judge, tmp_path: Path, calls: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for changed in range(2):
        run(tiny_pipeline, untrained_judge, folder=tmp_path, trials=["generate"])
        assert len(calls) == 1 + changed
        for family in BACKGROUND_WORDS:
            monkeypatch.setitem(BACKGROUND_WORDS, family, ("something else",))


def test_other_weights_are_another_model(
    tiny_pipeline: LayerFlowPipeline, untrained_judge: Judge, tmp_path: Path, calls: list[dict[str, Any]]
) -> None:
    run(tiny_pipeline, untrained_judge, folder=tmp_path, trials=["decompose"])
    next(tiny_pipeline.transformer.parameters()).data.add_(1e-3)
    run(tiny_pipeline, untrained_judge, folder=tmp_path, trials=["decompose"])
    assert len(calls) == 2


def test_an_interrupted_evaluation_goes_on(
    tiny_pipeline: LayerFlowPipeline, untrained_judge: Judge, tmp_path: Path, calls: list[dict[str, Any]]
) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if what == "generate":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny_pipeline, untrained_judge, folder=tmp_path, progress=stop)
    assert len(calls) == 5
    run(tiny_pipeline, untrained_judge, folder=tmp_path)
    assert len(calls) == 5 + len(TRIALS) - 4  # four were done before


def test_quick_takes_one_seed(tiny_pipeline: LayerFlowPipeline, untrained_judge: Judge) -> None:
    report = run(tiny_pipeline, untrained_judge, quick=True, seeds=(3, 4), samples=2, trials=["decompose"])
    assert [record["seed"] for record in report.records] == [3, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, "samples and batch_size"),
        ({"seeds": ()}, "seeds must be"),
        ({"seeds": (1, 1)}, "seeds must be"),
        ({"trials": ["juggle"]}, "juggle"),
        ({"trials": ["decompose", "other-words"]}, "other-words tells nothing without plain-words"),
    ],
)
def test_arguments_are_checked_first(
    tiny_pipeline: LayerFlowPipeline, untrained_judge: Judge, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(tiny_pipeline, untrained_judge, **changes)


def test_a_model_with_an_autoencoder_is_sent_to_videos(untrained_judge: Judge) -> None:
    with pytest.raises(ValueError, match="--truth"):
        run(build("cogvideox"), untrained_judge)


def test_the_report_is_a_table_a_file_and_a_page(
    tiny_pipeline: LayerFlowPipeline, untrained_judge: Judge, tmp_path: Path
) -> None:
    report = run(tiny_pipeline, untrained_judge, name="<b>mini</b> [red]", trials=["decompose", "generate"])
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
    assert set(content["real_clips"]) <= {"object", "colour", "own_colour", "motion", "family", "background"}
    out = io.StringIO()
    Console(file=out, width=220).print(rich_table(report))
    assert "<b>mini</b> [red]" in out.getvalue()
    assert "composite PSNR" in out.getvalue()
