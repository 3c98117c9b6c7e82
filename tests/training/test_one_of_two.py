"""Training of models with one transformer for high and one for low noise: a run trains one of them, at its levels."""

from pathlib import Path

import pytest
import torch
from drawn_shards import write_set
from full_size import build
from test_stages import LARGE

from layerflow import LayerFlowPipeline
from layerflow.core.config import ConfigError
from layerflow.training.batches import draw_noise_levels
from layerflow.training.plan import plan_training
from layerflow.training.recipe import NoiseRecipe, PhaseRecipe, Recipe, StageRecipe, load_recipe
from layerflow.training.stages import train_stages
from layerflow.training.trainer import Trainer

FRAMES = 5


@pytest.fixture
def start(tmp_path: Path) -> Path:
    build("wan2.2").save_pretrained(tmp_path / "start")
    write_set(tmp_path / "shards", {f"clip{i}": (FRAMES, 32, 48, "masks") for i in range(2)})
    return tmp_path


def recipe_of(folder: Path, *more: str) -> Recipe:
    text = LARGE.format(model=folder / "start", frames=FRAMES, batch=3 * FRAMES, steps=2)
    (folder / "large.yaml").write_text("\n".join([text, *more]))
    return load_recipe(folder / "large.yaml")


@pytest.mark.parametrize(
    ("part", "other", "adapters"),
    [("transformer", "transformer_2", "adapters"), ("transformer_2", "transformer", "adapters_2")],
)
def test_one_transformer_is_trained_at_its_levels(
    start: Path, part: str, other: str, adapters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: list[torch.Tensor] = []

    def draw(*args: object) -> torch.Tensor:
        levels.append(draw_noise_levels(*args))
        return levels[-1]

    monkeypatch.setattr("layerflow.training.trainer.draw_noise_levels", draw)
    before = LayerFlowPipeline.from_pretrained(start / "start")
    run = train_stages(recipe_of(start, f"transformer: {part}"), start / "runs")
    drawn = torch.cat(levels)
    assert ((drawn >= 0.875) == (part == "transformer")).all()
    assert {path.name for path in (run / "model" / adapters).iterdir()} == {"motion", "content"}
    assert len(list((run / "model").glob("adapters*"))) == 1
    after = LayerFlowPipeline.from_pretrained(run / "model")
    assert after.config.boundary_ratio == 0.875
    for name, stays in ((other, True), (part, False)):
        old, new = (pipe.transformers[name].state_dict() for pipe in (before, after))
        assert all(torch.equal(new[key], tensor.bfloat16().float()) for key, tensor in old.items()) == stays


def test_transformer_must_be_named_and_exist(start: Path) -> None:
    recipe = recipe_of(start)
    with pytest.raises(ConfigError, match="has two transformers, of which a run trains one; set transformer to"):
        Trainer(recipe.stages[0], start / "runs")
    with pytest.raises(ConfigError, match="has two transformers"):
        plan_training(recipe)
    build("wan").save_pretrained(start / "start")
    with pytest.raises(ConfigError, match="has no transformer_2; leave transformer out"):
        plan_training(recipe_of(start, "transformer: transformer_2"))
    with pytest.raises(ConfigError, match="transformer is 'low', but must be auto, transformer or transformer_2"):
        recipe_of(start, "transformer: low")


@pytest.mark.parametrize("uniform", [True, False])
def test_levels_follow_the_truncated_distribution(uniform: bool) -> None:
    recipe = StageRecipe("tiny", (PhaseRecipe(1, {1: 1.0}),), noise=NoiseRecipe(pure=0.0, uniform=uniform))
    whole = draw_noise_levels(recipe, 200_000, torch.Generator().manual_seed(0))
    for low, high in ((0.0, 0.875), (0.875, 1.0)):
        some = draw_noise_levels(recipe, 50_000, torch.Generator().manual_seed(1), (low, high))
        inside = whole[(whole >= low) & (whole <= high)]
        assert float(some.min()) >= low
        assert float(some.max()) <= high + 1e-6
        for share in (0.1, 0.5, 0.9):
            assert float(some.quantile(share)) == pytest.approx(float(inside.quantile(share)), abs=0.01)
    pure = StageRecipe("tiny", (PhaseRecipe(1, {1: 1.0}),), noise=NoiseRecipe(pure=1.0))
    assert (draw_noise_levels(pure, 10, torch.Generator(), (0.875, 1.0)) == 1).all()
    assert (draw_noise_levels(pure, 10, torch.Generator(), (0.0, 0.875)) < 0.875).all()
