"""Results of a stage for those after it: the network's own weights, or an adapter, and a card."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..core.atomic import whole_folder
from . import adapters
from .adapters import is_base, plain_name
from .card import stage_card

if TYPE_CHECKING:
    from .trainer import Trainer

BASE = "transformer.safetensors"
CARD = "README.md"


@dataclass
class Result:
    """Result of one stage."""

    base: dict[str, Tensor] | None
    """Weights and buffers of the network, float32; None where an adapter was trained."""
    adapters: dict[str, Path]
    """Folders of adapters by name."""


def read_results(folders: Iterable[Path]) -> list[Result]:
    """Read the results of stages, in order."""
    results = []
    for folder in folders:
        adapter_folders = {path.name: path for path in sorted((folder / "adapters").glob("*")) if path.is_dir()}
        base = load_file(folder / BASE) if (folder / BASE).is_file() else None
        results.append(Result(base, adapter_folders))
    return results


def save_result(trainer: Trainer, model: Any, folder: Path) -> None:
    """Write the trained part of a network with averaged weights, in float32, with a card; whole or not at all."""
    own = trainer.recipe.trained
    with whole_folder(folder, replace=True) as partial:
        if own == "base":
            state = {plain_name(n): t.detach() for n, t in model.state_dict().items() if is_base(n)}
            save_file({n: t.cpu().to(torch.float32).contiguous() for n, t in state.items()}, partial / BASE)
        else:
            adapters.save(model, own, partial / "adapters" / own)
        (partial / CARD).write_text(stage_card(trainer.recipe, trainer.batches), "utf-8")
