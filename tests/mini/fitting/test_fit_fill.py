"""Fitting of the network that fills holes in backgrounds."""

import dataclasses

import torch

from layerflow.mini.fitting.fill import fit_fill
from layerflow.mini.network.transformer import CompactTransformer3DModel
from layerflow.mini.recipes import MiniRecipe
from layerflow.training.recipe import PhaseRecipe, StageRecipe

RECIPE = StageRecipe(
    name="fill",
    phases=(PhaseRecipe(1, {1: 1.0}),),
    size=32,
    clip_frames=2,
    mini=MiniRecipe(fill_steps=60),
    workers=0,
    model={"widths": (8, 8, 8), "blocks_up": (1, 1, 1), "dim": 16, "num_heads": 2, "fill_width": 16},
)


def error_after(steps: int, shares: list[float] | None = None) -> float:
    torch.manual_seed(0)
    model = CompactTransformer3DModel(sample_size=32, sample_frames=2, **RECIPE.model)
    report = None if shares is None else lambda _, share: shares.append(share)
    return fit_fill(model, dataclasses.replace(RECIPE, mini=MiniRecipe(fill_steps=steps)), report)


def test_fitting_lowers_the_error_and_reports_progress() -> None:
    shares: list[float] = []
    grey = error_after(1)  # measured before its step: a fresh network draws mid-grey
    assert error_after(60, shares) < 0.6 * grey
    assert shares == [1 / 3, 2 / 3, 1]


def test_fitting_is_reproducible() -> None:
    assert error_after(3) == error_after(3)
