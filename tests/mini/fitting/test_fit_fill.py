"""Fitting of the network that fills holes in backgrounds."""

import dataclasses
from pathlib import Path

import pytest
import torch
from small_atlas import small_atlas, write_atlas

from layerflow.mini.fitting import fill
from layerflow.mini.fitting.fill import fit_fill
from layerflow.mini.network.composition import moved_background
from layerflow.mini.network.transformer import CompactTransformer3DModel
from layerflow.training.recipe import DataRecipe, PhaseRecipe, StageRecipe

RECIPE = StageRecipe(
    name="fill",
    phases=(PhaseRecipe(1, {1: 1.0}),),
    size=32,
    clip_frames=2,
    workers=0,
    model={"widths": (8, 8, 8), "blocks_up": (1, 1, 1), "dim": 16, "num_heads": 2, "fill_width": 16},
)


def error_after(steps: int, shares: list[float] | None = None) -> float:
    torch.manual_seed(0)
    model = CompactTransformer3DModel(sample_size=32, sample_frames=2, **RECIPE.model)
    report = None if shares is None else lambda _, share: shares.append(share)
    return fit_fill(model, RECIPE, steps, report)


def test_fitting_lowers_the_error_and_reports_progress() -> None:
    shares: list[float] = []
    grey = error_after(1)  # measured before its step: a fresh network draws mid-grey
    assert error_after(60, shares) < 0.6 * grey
    assert shares == [1 / 3, 2 / 3, 1]


def test_fitting_is_reproducible() -> None:
    assert error_after(3) == error_after(3)


def test_where_videos_are_taken_apart_it_learns_from_backgrounds_that_were_copied_along_their_motion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(fill, "MOVED", 1.0)
    monkeypatch.setattr(fill, "moved_background", lambda *args: calls.append(args) or moved_background(*args))
    model = CompactTransformer3DModel(sample_size=32, sample_frames=2, separation_layers=1, **RECIPE.model)
    write_atlas(small_atlas(), tmp_path / "atlas")
    data = (DataRecipe(kind="composites", folder=str(tmp_path / "atlas")),)
    fit_fill(model, dataclasses.replace(RECIPE, data=data), 1)
    assert calls
