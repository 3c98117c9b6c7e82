"""The mean of two models' weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from layerflow import LayerFlowPipeline
from layerflow.cli import run
from layerflow.mini.network.transformer import CompactTransformer3DModel
from layerflow.training.average import average


@pytest.fixture
def trained_on(tiny_pipeline: LayerFlowPipeline, tmp_path: Path) -> Path:
    """A model with other weights than the tiny model's."""
    for part in (tiny_pipeline.transformer, tiny_pipeline.text_encoder):
        for parameter in part.parameters():
            parameter.data.add_(1)
    tiny_pipeline.save_pretrained(tmp_path / "trained")
    return tmp_path / "trained"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return LayerFlowPipeline.from_pretrained(folder).transformer.state_dict()


def test_weights_are_interpolated(tiny_model: Path, trained_on: Path, tmp_path: Path) -> None:
    average(tiny_model, trained_on, tmp_path / "mean", share=0.25)
    own, others, mean = (weights(folder) for folder in (tiny_model, trained_on, tmp_path / "mean"))
    for name, tensor in mean.items():
        target = 0.75 * own[name] + 0.25 * others[name]
        torch.testing.assert_close(tensor, target.bfloat16().float())
    assert any(not torch.equal(mean[name], own[name].bfloat16().float()) for name in mean)


def test_text_encoder_of_the_first_model(tiny_model: Path, trained_on: Path, tmp_path: Path) -> None:
    average(tiny_model, trained_on, tmp_path / "mean")
    folders = tiny_model, tmp_path / "mean"
    own, mean = (LayerFlowPipeline.from_pretrained(folder).text_encoder.state_dict() for folder in folders)
    assert all(torch.equal(mean[name], tensor.bfloat16().float()) for name, tensor in own.items())


def test_failed_average_keeps_the_old_model(tiny_model: Path, trained_on: Path, tmp_path: Path) -> None:
    average(tiny_model, trained_on, tmp_path / "mean", share=1.0)
    before = weights(tmp_path / "mean")
    with pytest.raises(ValueError, match=r"folder .* is not a model"):
        average(tiny_model, tmp_path, tmp_path / "mean")
    after = weights(tmp_path / "mean")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_other_files_are_not_overwritten(tiny_model: Path, trained_on: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="files that are no model"):
        average(tiny_model, trained_on, tmp_path / "notes")
    assert (tmp_path / "notes" / "mine.txt").read_text() == "keep"


def test_other_architecture_is_refused(tiny_model: Path, tiny_pipeline: LayerFlowPipeline, tmp_path: Path) -> None:
    config = {**tiny_pipeline.transformer.config, "widths": (8, 8, 16)}
    tiny_pipeline.register_modules(transformer=CompactTransformer3DModel.from_config(config))
    tiny_pipeline.save_pretrained(tmp_path / "wider")
    with pytest.raises(ValueError, match=r"not of one architecture: .* average a model with one"):
        average(tiny_model, tmp_path / "wider", tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_share_out_of_range(share: float, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be from 0 to 1"):
        average(tiny_model, tiny_model, tmp_path / "mean", share)


def test_average_command(tiny_model: Path, trained_on: Path, tmp_path: Path) -> None:
    output = tmp_path / "mean"
    assert run(["average", str(tiny_model), str(trained_on), "--share", "1", "-o", str(output)]) == 0
    expected, mean = weights(trained_on), weights(output)
    assert all(torch.equal(mean[name], tensor.bfloat16().float()) for name, tensor in expected.items())
