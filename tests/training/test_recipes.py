"""Every shipped recipe is read by its loader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from layerflow.core.config import load_config
from layerflow.mini.fitting.sprite_book import BookRecipe
from layerflow.mini.recipes import TextRecipe, UpscalerRecipe
from layerflow.training.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
FILES = sorted(path for path in RECIPES.rglob("*") if path.suffix in (".yaml", ".yml"))


def read_training(path: Path) -> None:
    assert all(stage.steps > 0 for stage in load_recipe(path).stages)


def read_accelerate(path: Path) -> None:
    # Accelerate refuses unknown keys itself.
    assert load_config_from_file(str(path)).distributed_type.value != "NO"


LOADERS: dict[str, Callable[[Path], Any]] = {
    "text.yaml": lambda path: load_config(TextRecipe, path),
    "upscaler.yaml": lambda path: load_config(UpscalerRecipe, path),
    "book.yaml": lambda path: load_config(BookRecipe, path),
    "mini.yaml": read_training,
    "mini-generation.yaml": read_training,
    "mini-generation-gpu.yaml": read_training,
    "pointing.yaml": read_training,
    "two-foregrounds.yaml": read_training,
    "mini-continue.yaml": read_training,
    "mini-separation.yaml": read_training,
    "mini-separation-gpu.yaml": read_training,
    "mini-gpu.yaml": read_training,
    "cogvideox-2b.yaml": read_training,
    "accelerate": read_accelerate,
    "ablations": read_training,
    "ablations/longer": read_training,
}
"""Loader by path below recipes/, of a file or of its folder."""


def loader_of(path: Path) -> Callable[[Path], Any]:
    place = path.relative_to(RECIPES)
    for key in (place, place.parent):
        if key.as_posix() in LOADERS:
            return LOADERS[key.as_posix()]
    raise AssertionError(f"recipes/{place} has no loader; name the one that reads it in LOADERS")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(RECIPES).as_posix())
def test_recipe_is_read_by_its_loader(path: Path) -> None:
    loader_of(path)(path)


def test_recipe_without_loader_fails() -> None:
    with pytest.raises(AssertionError, match=r"recipes/new\.yaml has no loader"):
        loader_of(RECIPES / "new.yaml")


def test_every_loader_has_a_recipe() -> None:
    assert FILES
    assert [place for place in LOADERS if not (RECIPES / place).exists()] == []


def test_no_recipe_uses_the_former_key_of_extends() -> None:
    assert [path.name for path in FILES if "like" in yaml.safe_load(path.read_text(encoding="utf-8"))] == []
