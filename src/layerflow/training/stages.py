"""A recipe from its first stage to its last; each begins with what those before it left on disk."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Protocol

from ..core.config import ConfigError
from .recipe import Recipe, StageRecipe
from .results import CARD
from .trainer import Trainer


class StageReport(Protocol):
    """Callback after a step."""

    def __call__(self, step: int, values: dict[str, float], of: StageRecipe) -> None:
        """Take the number of a step, measured values by name, and the stage."""


def train_stages(
    recipe: Recipe,
    output: Path,
    resume: bool = False,
    report: StageReport | None = None,
    only: str | None = None,
) -> Path:
    """Train all stages of a recipe, or one of them; return the folder of the run.

    A stage that is done is not trained again. Every stage starts from files, also when the one before it ran in the
    same process, so that a run which was stopped anywhere ends with the same weights.

    Args:
        recipe: its stages, in order.
        output: folder of runs.
        resume: go on with what is there already.
        report: called with a step's number, measured values by name, and the stage.
        only: name of the one stage to train; those before it must be done.

    Raises:
        ConfigError: a run is there already, or a stage needs another before it.
    """
    stages, folder = recipe.stages, Path(output) / recipe.name
    if only is not None and only not in [stage.stage for stage in stages]:
        raise ConfigError(f"stage {only!r} is not one of {recipe.name}'s: {', '.join(s.stage for s in stages)}")
    earlier: list[Path] = []
    for stage in stages:
        last = stage is stages[-1]
        place = folder / stage.stage if recipe.staged else folder
        result = place / "result"
        done = (result / CARD).is_file() and (not last or (folder / "model").is_dir())
        if not done and only not in (None, stage.stage):
            raise ConfigError(f"stage {only} needs stage {stage.stage} done before it; train that first")
        if done and not resume and only in (None, stage.stage):
            raise ConfigError(f"{place} is trained already; continue it with `resume`, or choose another `output`")
        if not done:
            own_report = partial(report, of=stage) if report is not None else None
            trainer = Trainer(stage, output, resume, own_report, place, earlier, final=last)
            if own_report is not None and trainer.step:
                own_report(trainer.step, {})
            trainer.train()
        if only == stage.stage:
            break
        earlier.append(result)
    return folder


__all__ = ["train_stages"]
