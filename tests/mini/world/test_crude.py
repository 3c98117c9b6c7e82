"""Crude layers, and recipes of training data."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from layerflow.core.config import ConfigError
from layerflow.core.layered_video import LayeredVideo
from layerflow.mini.world.crude import crude_layers, pasted_layers
from layerflow.training.recipe import DataRecipe, load_recipe
from layerflow.training.schedule import warm_cosine


def scene(seed: int = 0, frames: int = 6) -> dict[str, Tensor]:
    """Return the clips of a still, soft disc over a texture."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    distance = ((rows - 16).square() + (columns - 14).square()).sqrt()
    alpha = ((9 - distance) / 2).clamp(0, 1).expand(frames, 1, 32, 32).contiguous()
    background = torch.rand(1, 3, 8, 8, generator=generator)
    background = torch.nn.functional.interpolate(background, (32, 32), mode="bilinear").repeat(frames, 1, 1, 1)
    colour = torch.rand(1, 3, 1, 1, generator=generator).expand(frames, 3, 32, 32).contiguous()
    return LayeredVideo(colour, alpha, background).compose().clips()  # type: ignore[return-value]


def test_crude_layers() -> None:
    clean = scene()
    crude = crude_layers(clean, torch.Generator().manual_seed(1))
    assert set(crude["alpha"].unique().tolist()) == {0.0, 1.0}
    assert crude["alpha"].diff(dim=0).any()  # the object stands still
    assert float(crude["alpha"].mean()) > float(clean["alpha"].mean())
    assert torch.equal(crude["blended"], clean["blended"])
    error = (crude["background"] - clean["background"]).abs()
    object_ = clean["alpha"] > 0
    assert float(error[object_.expand_as(error)].mean()) > 0.02
    assert crude["background"].diff(dim=0).any()  # filled in frame by frame
    far = torch.nn.functional.max_pool2d(clean["alpha"], 15, 1, 7) == 0
    assert not error[far.expand_as(error)].any()
    again = crude_layers(clean, torch.Generator().manual_seed(1))
    assert all(torch.equal(crude[name], again[name]) for name in crude)


def test_pasted_layers() -> None:
    front, behind = scene(0), scene(1)
    pasted = pasted_layers(front, behind, torch.Generator().manual_seed(1))
    assert torch.equal(pasted["background"], behind["background"])
    assert set(pasted["alpha"].unique().tolist()) == {0.0, 1.0}
    over = pasted["alpha"] * pasted["foreground"] + (1 - pasted["alpha"]) * pasted["background"]
    assert torch.allclose(pasted["blended"], over, atol=1e-6)


def test_adapters_follow_what_stands_still_unless_the_recipe_says_otherwise() -> None:
    assert DataRecipe().adapters_on(frozen=True) == {"motion", "content"}
    assert DataRecipe().adapters_on(frozen=False) == {"content"}
    assert DataRecipe(adapters=("content",)).adapters_on(frozen=True) == {"content"}
    with pytest.raises(ConfigError, match="adapter 'style' is not known"):
        DataRecipe(adapters=("style",))
    with pytest.raises(ConfigError, match="share is 0"):
        DataRecipe(share=0.0)


def test_a_recipe_takes_over_what_the_one_that_it_extends_says(tmp_path: Path) -> None:
    phases = "phases: [{steps: 3, frames: {1: 1.0}}]"
    (tmp_path / "first.yaml").write_text(f"seed: 4\nsize: 32\n{phases}\n")
    (tmp_path / "second.yaml").write_text("extends: first.yaml\nseed: 5\n")
    recipe = load_recipe(tmp_path / "second.yaml").stages[0]
    assert (recipe.name, recipe.seed, recipe.size, recipe.steps) == ("second", 5, 32, 3)
    (tmp_path / "round.yaml").write_text("extends: trip.yaml\n")
    (tmp_path / "trip.yaml").write_text("extends: round.yaml\n")
    with pytest.raises(ConfigError, match="extends itself"):
        load_recipe(tmp_path / "round.yaml")
    (tmp_path / "far.yaml").write_text("extends: ../first.yaml\n")
    with pytest.raises(ConfigError, match="must be the name of a recipe in the same folder"):
        load_recipe(tmp_path / "far.yaml")


def test_the_learning_rate_warms_up_stays_and_falls_to_its_floor() -> None:
    factors = [warm_cosine(step, 100, warmup=10, decay=0.5, floor=0.1) for step in range(101)]
    assert factors[:10] == [pytest.approx((step + 1) / 10) for step in range(10)]
    assert factors[10:51] == [pytest.approx(1.0)] * 41
    assert factors[75] == pytest.approx(0.55)
    assert factors[100] == pytest.approx(0.1)
    assert warm_cosine(50, 100, warmup=1) == pytest.approx(0.5)
