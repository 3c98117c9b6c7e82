"""Interface of a family of models that brings more to training than its backbone.

The mini draws its training clips, fits parts of a fresh network before training, and has an evaluation of its own.
Training and the command line know it by this interface alone, and find it by name in `models.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch

from ..models.backbone import Backbone
from ..models.registry import import_family

if TYPE_CHECKING:
    from rich.table import Table

    from ..pipeline import LayerFlowPipeline
    from .loop import Report
    from .recipe import DataRecipe, StageRecipe
    from .sources import Source

Progress = Callable[[int, int, str], None]
"""Called with the number of items done, their number in all, and the name of what they belong to."""


class Evaluation(Protocol):
    """Figures of a model on the family's own material."""

    def table(self) -> Table:
        """Return the figures as a table for the terminal."""

    def write(self, folder: Path) -> Path:
        """Write report.json and index.html into a folder, and return the path of the page."""


class Ablation(Protocol):
    """Figures of several runs on the same material."""

    def markdown(self) -> str:
        """Return the figures as a table in Markdown."""

    def write(self, folder: Path) -> Path:
        """Write the table and charts into a folder, and return the path of the table."""


class Family(ABC):
    """A family of models, with fresh networks, clips and an evaluation of its own."""

    recipe_keys: ClassVar[type]
    """Dataclass of the family's keys in a training recipe."""

    @abstractmethod
    def check_installation(self) -> None:
        """Raise a UserError where something that drawing clips needs is not installed."""

    @abstractmethod
    def fresh_network(self, recipe: StageRecipe) -> Backbone:
        """Return a network with random weights, of the sizes of a recipe."""

    @abstractmethod
    def text_model(self, recipe: StageRecipe) -> str:
        """Return the name or folder of the model whose text encoder fresh networks use."""

    @abstractmethod
    def fresh_pipeline(self, recipe: StageRecipe, fit: bool = True, report: Report | None = None) -> LayerFlowPipeline:
        """Return a pipeline with a fresh network.

        Args:
            recipe: one stage.
            fit: fit the parts of the network that are fitted before training, which takes minutes; a checkpoint that is
                loaded over it holds them already.
            report: called with step 0 and the share of each part of the fitting that is done.
        """

    @abstractmethod
    def grow_pipeline(self, pipeline: LayerFlowPipeline, changes: Mapping[str, Any]) -> None:
        """Put a resized network in the place of a pipeline's transformer, with all that depends on its configuration.

        Args:
            pipeline: of any family.
            changes: entries of the configuration.

        Raises:
            UserError: the network cannot be resized, or its weights do not fit the changes.
        """

    @abstractmethod
    def extend_pipeline(
        self, pipeline: LayerFlowPipeline, recipe: StageRecipe, fit: bool = True, report: Report | None = None
    ) -> None:
        """Add the parts to a pipeline's transformer that keys of this family in a recipe ask for.

        Args:
            pipeline: the model to start from, already resized.
            recipe: one stage.
            fit, report: as for `fresh_pipeline`.
        """

    @abstractmethod
    def open_source(self, data: DataRecipe, recipe: StageRecipe) -> Source:
        """Return a source of drawn clips."""

    @abstractmethod
    def write_samples(self, pipeline: LayerFlowPipeline, recipe: StageRecipe, path: Path) -> None:
        """Write a sheet of samples of a pipeline as a PNG file, whole or not at all."""

    @abstractmethod
    def train_upscaler(self, path: Path, output: Path, resume: bool, report: Report) -> Path:
        """Train an upscaler by the recipe at a path; return its folder."""

    @abstractmethod
    def distil_text_encoder(self, path: Path, output: Path, report: Report, say: Callable[[str], object]) -> Path:
        """Distil a text encoder by the recipe at a path; return the folder of encoder and tokenizer."""

    @abstractmethod
    def fit_sprite_book(self, path: Path, output: Path, report: Callable[[str, float], None]) -> Path:
        """Fit a sprite book by the recipe at a path; return its file."""

    @abstractmethod
    def evaluate(
        self,
        pipeline: LayerFlowPipeline,
        name: str,
        folder: Path,
        samples: int,
        quick: bool = False,
        cases: Sequence[str] | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Measure a pipeline on held-out clips.

        Args:
            pipeline: a loaded model.
            name: its name in the report.
            folder: where finished parts are kept, so that a stopped evaluation continues.
            samples: clips of each case.
            quick: measure a few clips of each.
            cases: names of cases; by default all that this installation has the material for.
            steps: denoising steps; the model's by default.
            guidance: guidance scale; the task's by default.
            progress: called as it goes on.
        """

    @abstractmethod
    def evaluate_runs(
        self,
        folder: Path,
        samples: int,
        steps: int | None = None,
        dtype: torch.dtype = torch.float32,
        progress: Progress | None = None,
    ) -> Ablation:
        """Measure all runs in a folder on the same held-out clips.

        Args:
            folder: runs of recipes, as `train_stages` leaves them.
            samples: clips of each task.
            steps: denoising steps; the model's by default.
            dtype: number format of the networks.
            progress: called as it goes on.

        Raises:
            UserError: a run has no model.
        """


def load_family(name: str) -> Family:
    """Return a family by its name in `models.registry.FAMILIES`."""
    family: Family = import_family(name)
    return family


__all__ = ["Ablation", "Evaluation", "Family", "Progress", "load_family"]
