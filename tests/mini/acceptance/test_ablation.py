"""Ablations: recipes, discovery and measurement of runs, tables and charts."""

import dataclasses
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from layerflow.mini.acceptance import Judge, ablation
from layerflow.mini.acceptance.ablation import (
    AblationReport,
    Run,
    find_runs,
    load_run,
    measure_ablation,
    write_ablation,
)
from layerflow.mini.network.text_encoder import load_text_encoder
from layerflow.mini.network.transformer import CompactTransformer3DModel
from layerflow.models.folders import UnknownModelError, find_model
from layerflow.pipeline import LayerFlowPipeline
from layerflow.training import adapters
from layerflow.training.recipe import AdapterRecipe, PhaseRecipe, Recipe, load_recipe
from layerflow.training.stages import train_stages

RECIPES = sorted((Path(__file__).parents[3] / "recipes" / "ablations").glob("*.yaml"))
TINY = {
    "widths": [8, 8, 8],
    "blocks_up": [1, 1, 1],
    "dim": 16,
    "num_layers": 1,
    "num_heads": 2,
    "cond_dim": 16,
    "sketch_width": 16,
    "fill_width": 8,
}


def tiny(path: Path, start: Path) -> Recipe:
    """Return a recipe with one step per stage, tiny sizes and another start model."""
    recipe = load_recipe(path)
    name, stages = f"{recipe.name}-seed0", []
    for stage in recipe.stages:
        most = max(frames for phase in stage.phases for frames in phase.frames)
        small = dataclasses.replace(
            stage,
            name=name,
            start_from=str(start),
            size=32,
            clip_frames=2,
            frames_per_batch=4,
            workers=0,
            adapters=AdapterRecipe(rank=2),
            precision="no",
            phases=(PhaseRecipe(1, {min(2, most): 1.0}),),
        )
        stages.append(small)
    return Recipe(name, tuple(stages), recipe.staged)


def test_variants_have_equal_steps() -> None:
    steps = {path.stem: sum(stage.steps for stage in load_recipe(path).stages) for path in RECIPES}
    assert len(steps) == 7
    quarter = {name: n for name, n in steps.items() if name.startswith("separate-")}
    assert set(quarter.values()) == {40}
    assert {n for name, n in steps.items() if name not in quarter} == {160}
    batches = {(r.frames_per_batch, r.size, r.clip_frames) for path in RECIPES for r in load_recipe(path).stages}
    assert len(batches) == 1


@pytest.mark.real_scenes
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_train(path: Path, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {**TINY, "sample_size": 32, "sample_frames": 2}
    LayerFlowPipeline(
        *load_text_encoder(find_model("mini")), CompactTransformer3DModel(**sizes), FlowMatchEulerDiscreteScheduler()
    ).save_pretrained(tmp_path / "start")
    run = train_stages(tiny(path, tmp_path / "start"), tmp_path)
    model: Any = LayerFlowPipeline.from_pretrained(run / "model").transformer
    config = model.config
    assert bool(model.clip_embed.any()) == config.layer_embedding
    assert config.layer_embedding == (path.stem != "without-layer-embedding")
    assert config.timestep_per_clip == (path.stem != "shared-timestep")


def fake_run(folder: Path, pipeline: LayerFlowPipeline, adapter: bool = False) -> None:
    pipeline.save_pretrained(folder / "model")
    if adapter:
        model = pipeline.transformer
        adapters.add_adapter(model, "motion", AdapterRecipe(rank=2))
        for name, parameter in model.named_parameters():
            if adapters.belongs_to(name, "motion"):
                torch.nn.init.normal_(parameter, std=0.1)
        adapters.save(model, "motion", folder / "model" / "adapters" / "motion")
        model.unload_lora()


@pytest.mark.real_scenes
def test_runs_are_measured_once(
    tmp_path: Path, tiny_pipeline: LayerFlowPipeline, untrained_judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_run(tmp_path / "full-seed0", tiny_pipeline, adapter=True)
    fake_run(tmp_path / "separate-decompose-seed0", tiny_pipeline)
    runs = find_runs(tmp_path)
    both = ("decompose", "generate")
    assert [(run.variant, run.tasks) for run in runs] == [
        ("full", both),
        ("motion-left-on", both),
        ("separate", ("decompose",)),
    ]
    plain, moved = (load_run(run).transformer.state_dict() for run in runs[:2])
    name = next(name for name in plain if name.endswith("to_q.weight"))
    assert not torch.equal(plain[name], moved[name])
    report = measure_ablation(tmp_path, 2, untrained_judge)
    assert set(report.figures["full"][0]) == set(ablation.FIGURES)
    assert set(report.figures["separate"][0]) == {f for f, (task, _) in ablation.FIGURES.items() if task == "decompose"}
    # The same weights and scenes, and noise that is independent of the other tasks.
    same = report.figures["separate"][0]
    assert same == {figure: report.figures["full"][0][figure] for figure in same}
    fewer = measure_ablation(tmp_path, 2, untrained_judge, steps=1)
    assert fewer.figures["full"][0] != report.figures["full"][0]
    monkeypatch.setattr(ablation, "measure_run", lambda *_: pytest.fail("measured again"))
    assert measure_ablation(tmp_path, 2, untrained_judge, steps=1).figures == fewer.figures


def test_table_and_charts(tmp_path: Path) -> None:
    figures = {
        "full": {0: {"alpha MAE": 0.01, "motion": 0.5}, 1: {"alpha MAE": 0.03, "motion": 0.5}},
        "crude-only": {0: {"alpha MAE": 0.05, "motion": 0.6}},
    }
    path = write_ablation(AblationReport(4, figures), tmp_path)
    text = path.read_text()
    assert "| alpha MAE ↓ | **0.02 ± 0.014** | 0.05 |" in text
    assert "| motion ↑ | 0.5 ± 0 | **0.6** |" in text
    assert "(full: 2, crude-only: 1)" in text
    chart = ElementTree.parse(tmp_path / "alpha-mae.svg").getroot()
    bars = [element.attrib for element in chart if element.tag.endswith("rect") and "fill" in element.attrib]
    widths = [float(bar["width"]) for bar in bars if bar["width"] != "100%"]
    assert widths[0] / widths[1] == pytest.approx(0.4, abs=0.01)
    assert "![motion](motion.svg)" in text


def test_runs_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="holds no runs named VARIANT-seedN"):
        find_runs(tmp_path)
    (tmp_path / "full-seed3").mkdir()
    with pytest.raises(UnknownModelError, match="full-seed3 has no model yet"):
        find_runs(tmp_path)
    assert Run("full", 3, tmp_path).tasks == ("decompose", "generate")
