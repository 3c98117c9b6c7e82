"""The mini's side of training and evaluation: what `training.family` asks of a family of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..core.config import load_config
from ..models.folders import find_model
from ..training.family import Family, Progress
from ..training.loop import Report
from .recipes import MiniRecipe, TextRecipe, UpscalerRecipe

if TYPE_CHECKING:
    from rich.table import Table

    from ..pipeline import LayerFlowPipeline
    from ..training.recipe import DataRecipe, StageRecipe
    from ..training.sources import Source
    from .acceptance import Report as EvaluationReport
    from .acceptance.ablation import AblationReport
    from .network.transformer import CompactTransformer3DModel


@dataclass
class MiniEvaluation:
    """Figures of a model on held-out drawn scenes."""

    report: EvaluationReport

    def table(self) -> Table:
        from .acceptance import rich_table

        return rich_table(self.report)

    def write(self, folder: Path) -> Path:
        from .acceptance import write_report

        return write_report(self.report, folder)


@dataclass
class MiniAblation:
    """Figures of several runs on held-out drawn scenes."""

    report: AblationReport

    def markdown(self) -> str:
        return self.report.markdown()

    def write(self, folder: Path) -> Path:
        from .acceptance.ablation import write_ablation

        return write_ablation(self.report, folder)


class Mini(Family):
    """The bundled model's family. Modules are imported on demand: each command uses few of them."""

    recipe_keys = MiniRecipe

    def check_installation(self) -> None:
        from .world import find_font

        find_font()

    def fresh_network(self, recipe: StageRecipe) -> CompactTransformer3DModel:
        from .network.transformer import CompactTransformer3DModel

        sizes: dict[str, Any] = {"sample_size": recipe.size, "sample_frames": recipe.clip_frames}
        return CompactTransformer3DModel(**{**sizes, **recipe.model})

    def text_model(self, recipe: StageRecipe) -> str:
        text: str = recipe.mini.text
        return text

    def fresh_pipeline(self, recipe: StageRecipe, fit: bool = True, report: Report | None = None) -> LayerFlowPipeline:
        from diffusers import FlowMatchEulerDiscreteScheduler

        from ..pipeline import LayerFlowPipeline
        from .fitting.fill import fit_fill
        from .fitting.sketch import fit_sketch
        from .fitting.whitening import fit_text_whitening
        from .network.text_encoder import load_text_encoder

        tokenizer, text_encoder = load_text_encoder(find_model(self.text_model(recipe)))
        model = self.fresh_network(recipe)
        self._complete(model)
        if recipe.mini.book:
            model = self._with_book(model, recipe.mini.book)
        progress = None if report is None else lambda part, share: report(0, {part: share})
        if fit:
            fit_text_whitening(model, tokenizer, text_encoder, recipe)
        if fit and recipe.mini.sketch_scenes:
            fit_sketch(model, tokenizer, text_encoder, recipe, progress)
        if fit and recipe.mini.fill_steps:
            fit_fill(model, recipe, recipe.mini.fill_steps, progress)
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        return LayerFlowPipeline(tokenizer, text_encoder, model.float(), scheduler)

    def grow_pipeline(self, pipeline: LayerFlowPipeline, changes: Mapping[str, Any]) -> None:
        before = pipeline.transformer
        grown = before.resized(changes)
        self._complete(grown, before)
        pipeline.register_modules(transformer=grown)
        pooling, former = (network.config.get("noise_pooling", 1) for network in (grown, before))
        if pooling != former:
            # The network sees the same levels as before, see `pool_noise`: shifting a schedule by s and then by r is
            # shifting it by r * s.
            config = pipeline.scheduler.config
            shift = config.shift * pooling / former
            pipeline.register_modules(scheduler=type(pipeline.scheduler).from_config(config, shift=shift))

    def extend_pipeline(
        self, pipeline: LayerFlowPipeline, recipe: StageRecipe, fit: bool = True, report: Report | None = None
    ) -> None:
        from .fitting.fill import fit_fill
        from .fitting.sketch import fit_sketch

        if not recipe.mini.book and not recipe.mini.fill_refit_steps:
            return
        network = pipeline.transformer
        progress = None if report is None else lambda part, share: report(0, {part: share})
        if recipe.mini.book:
            network = self._with_book(network, recipe.mini.book)
            if fit and recipe.mini.sketch_scenes:
                fit_sketch(network, pipeline.tokenizer, pipeline.text_encoder, recipe, progress)
        if fit and recipe.mini.fill_refit_steps:
            fit_fill(network, recipe, recipe.mini.fill_refit_steps, progress)
        pipeline.register_modules(transformer=network)

    def _with_book(self, network: Any, path: str) -> Any:
        """Return a network with the sprite book in a file."""
        from dataclasses import asdict

        from .fitting.sprite_book import load_book

        book, _, _ = load_book(Path(path))
        network = network.resized({"sprite_book": asdict(book.sizes)})
        network.sketch.object.book.load_state_dict(book.state_dict())
        return network

    def _complete(self, network: Any, before: Any = None) -> None:
        """Load the image encoder of a network that has one for the first time."""
        from .fitting.image_encoder import load_image_encoder

        if hasattr(network, "separation") and not hasattr(before, "separation"):
            load_image_encoder(network.separation.observation.encoder)

    def open_source(self, data: DataRecipe, recipe: StageRecipe) -> Source:
        from .data import open_drawn

        return open_drawn(data, recipe)

    def write_samples(self, pipeline: LayerFlowPipeline, recipe: StageRecipe, path: Path) -> None:
        from .fitting.sample_sheet import write_sample_sheet

        write_sample_sheet(pipeline, recipe, path)

    def train_upscaler(self, path: Path, output: Path, resume: bool, report: Report) -> Path:
        from .fitting.upscaler import train_upscaler

        return train_upscaler(load_config(UpscalerRecipe, path), output, resume, report)

    def distil_text_encoder(self, path: Path, output: Path, report: Report, say: Callable[[str], object]) -> Path:
        from .fitting.text_encoder import distil_text_encoder

        return distil_text_encoder(load_config(TextRecipe, path), output, report, say)

    def fit_sprite_book(self, path: Path, output: Path, report: Callable[[str, float], None]) -> Path:
        from .fitting.sprite_book import fit_book_by_recipe

        return fit_book_by_recipe(path, output, report)

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
    ) -> MiniEvaluation:
        from .acceptance import evaluate
        from .acceptance.cases import available_cases

        report = evaluate(
            pipeline,
            samples=samples,
            quick=quick,
            cases=cases or available_cases(),
            steps=steps,
            guidance=guidance,
            folder=folder,
            name=name,
            progress=progress,
        )
        return MiniEvaluation(report)

    def evaluate_runs(
        self,
        folder: Path,
        samples: int,
        steps: int | None = None,
        dtype: torch.dtype = torch.float32,
        progress: Progress | None = None,
    ) -> MiniAblation:
        from .acceptance import load_judge
        from .acceptance.ablation import find_runs, measure_ablation

        find_runs(folder)  # refuse a run without a model before the judge is trained
        judge = load_judge(progress=progress)
        return MiniAblation(measure_ablation(folder, samples, judge, progress, dtype, steps))


FAMILY = Mini()
