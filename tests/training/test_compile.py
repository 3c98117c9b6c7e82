"""Training with torch.compile has the losses of training without."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn_shards import write_set
from tiny_recipe import TINY, losses_of

from layerflow.core.config import ConfigError
from layerflow.training.recipe import AdapterRecipe, PhaseRecipe, StageRecipe, load_recipe

TOLERANCE = 1e-5
"""Relative tolerance of losses."""


@pytest.fixture
def recipe(tmp_path: Path) -> StageRecipe:
    write_set(tmp_path / "shards", {f"c{i}": (2, 32, 32, "masks") for i in range(3)})
    own = ["frames_per_batch: 4", "learning_rate: 0.00001", "phases: [{steps: 2, frames: {2: 1.0}}]",
           "tasks: {generate: 1.0}", "data: [{kind: shards, folder: shards}]"]  # fmt: skip
    (tmp_path / "r.yaml").write_text("\n".join([TINY, *own]))
    return load_recipe(tmp_path / "r.yaml").stages[0]


ADAPTED = {
    "stage": "motion", "learning_rate": 0.01, "warmup": 1, "phases": (PhaseRecipe(3, {2: 1.0}),),
    "adapters": AdapterRecipe(rank=2),
}  # fmt: skip


@pytest.mark.parametrize("changes", [{}, ADAPTED], ids=["base", "adapters"])
def test_compiled_network_has_the_same_losses(recipe: StageRecipe, tmp_path: Path, changes: dict[str, Any]) -> None:
    if changes:  # on for some samples of a batch and off for others
        on, off = (dataclasses.replace(recipe.data[0], adapters=names) for names in (("motion",), ()))
        changes = {**changes, "data": (on, off)}
    recipe = dataclasses.replace(recipe, **changes)
    plain = losses_of(recipe, tmp_path / "plain")
    compiled: list[int] = []

    def counting(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        compiled.append(len(graph.graph.nodes))
        return graph.forward  # run as traced, without a compiler

    torch._dynamo.register_backend(counting, name=tmp_path.name)
    with_it = dataclasses.replace(recipe, compile=True, compile_backend=tmp_path.name)
    try:
        assert losses_of(with_it, tmp_path / "compiled") == pytest.approx(plain, rel=TOLERANCE)
    finally:
        torch._dynamo.reset()
    assert sum(compiled) > 100  # most of the network, not a few scraps between breaks


def test_unknown_backend_is_refused(recipe: StageRecipe) -> None:
    with pytest.raises(ConfigError, match=r"compile_backend is 'fast', but must be .*inductor"):
        dataclasses.replace(recipe, compile=True, compile_backend="fast")
