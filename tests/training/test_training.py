"""Training: validation of recipes, batches, the loss, resuming bit for bit, surviving kill -9."""

import dataclasses
import math
import os
import time
from pathlib import Path

import pytest
import tiny_recipe
import torch
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from forked import fork

from layerflow.core.config import ConfigError
from layerflow.core.schema import CLIPS, TASKS
from layerflow.mini.fitting import fill, sketch, whitening
from layerflow.mini.world import MissingFontError, find_font
from layerflow.pipeline import LayerFlowPipeline
from layerflow.training import batches as batches_module
from layerflow.training.batches import ClipBatches, draw_noise_levels
from layerflow.training.checkpoints import list_checkpoints, load_checkpoint, save_checkpoint
from layerflow.training.objective import clip_errors, loss_of, make_target
from layerflow.training.recipe import NoiseRecipe, PhaseRecipe, StageRecipe, load_recipe, mixed_precision
from layerflow.training.trainer import Trainer

try:
    find_font()
    HAS_FONT = True
except MissingFontError:
    HAS_FONT = False

needs_font = pytest.mark.skipif(
    not HAS_FONT and not os.environ.get("CI"), reason="the emoji font is missing (fonts-noto-color-emoji)"
)

RECIPES = Path(__file__).parents[2] / "recipes"
TINY = (
    tiny_recipe.TINY
    + """name: tiny
frames_per_batch: 4
phases: [{steps: 4, frames: {1: 0.5, 2: 0.5}}, {steps: 2, frames: {2: 1.0}}]
warmup: 2
log_every: 2
checkpoint_every: 2
"""
)


@pytest.fixture
def recipe(tmp_path: Path) -> StageRecipe:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return load_recipe(path).stages[0]


def test_recipe_is_read_into_dataclasses(recipe: StageRecipe) -> None:
    assert recipe.steps == 6
    assert recipe.phase_at(3).frames == {1: 0.5, 2: 0.5}
    assert recipe.phase_at(4) == PhaseRecipe(2, {2: 1.0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("sise: 32", "unknown key 'sise'"),
        ("learning_rate: fast", "learning_rate: expected float, got 'fast'"),
        ("size: 6.5", "size: expected int"),
        ("tasks: {fly: 1.0}", "unknown task 'fly'"),
        ("phases: []", "at least one phase"),
        ("phases: [{steps: 2, frames: {3: 1.0}}]", "3 frames per sample"),
        ("phases: [{step: 2}]", r"phases\[0\]: unknown key 'step'"),
        ("noise: {pure: 2.0}", "noise.pure is a share"),
        ("mini: {fill_steps: -1}", r"bad\.yaml: mini: fill_steps is -1, but must be at least 0"),
        ("precision: half", "precision is 'half', but must be auto, no, bf16 or fp16"),
    ],
)
def test_mistake_in_a_recipe_is_refused(tmp_path: Path, change: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    key = change.split(":")[0]
    path.write_text("\n".join(line for line in TINY.splitlines() if not line.startswith(key)) + "\n" + change)
    with pytest.raises(ConfigError, match=message):
        load_recipe(path)


def test_missing_or_malformed_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="not readable as YAML"):
        load_recipe(tmp_path / "bad.yaml")


def test_shipped_recipes_are_readable() -> None:
    for name in ("mini", "mini-continue", "cogvideox-2b"):
        assert all(stage.steps > 0 for stage in load_recipe(RECIPES / f"{name}.yaml").stages)


@pytest.mark.parametrize(("name", "kind"), [("ddp", "MULTI_GPU"), ("fsdp2", "FSDP"), ("zero2", "DEEPSPEED")])
def test_launch_configurations_are_read_by_accelerate(name: str, kind: str) -> None:
    # It reads unknown keys with a complaint of its own.
    assert load_config_from_file(str(RECIPES / "accelerate" / f"{name}.yaml")).distributed_type.value == kind


def test_noise_level_distribution(recipe: StageRecipe) -> None:
    recipe = dataclasses.replace(recipe, noise=NoiseRecipe(pure=0.3, mean=1.0, std=1.0))
    t = draw_noise_levels(recipe, 20_000, torch.Generator().manual_seed(0))
    assert ((t > 0) & (t <= 1)).all()
    assert float((t == 1).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert float(t[t < 1].median()) == pytest.approx(1 / (1 + math.exp(-1)), abs=0.02)


@needs_font
def test_batch_is_a_function_of_its_step(recipe: StageRecipe) -> None:
    source = ClipBatches(recipe)
    for step in range(4):
        batch, again = source[step], ClipBatches(recipe)[step]
        assert torch.equal(batch.sequence, again.sequence)
        assert batch.prompts == again.prompts
        assert batch.sequence.shape[0] * batch.layout.frames == recipe.frames_per_batch
        clips = batch.layout.unpack(batch.sequence)
        over = clips["foreground"] + (0.5 - 0.5 * clips["alpha"]) * clips["background"]
        assert torch.allclose(over, clips["blended"], atol=1e-5)
        assert (~batch.given).flatten(1).any(1).all()
        assert batch.weight.max() == 1 + recipe.foreground_weight + recipe.hidden_weight
    assert not torch.equal(source[0].sequence, source[1].sequence)


@needs_font
@pytest.mark.parametrize(("share", "kinds"), [(0.0, {"core"}), (0.5, {"core", "all"}), (1.0, {"all"})])
def test_share_of_extra_objects(
    recipe: StageRecipe, monkeypatch: pytest.MonkeyPatch, share: float, kinds: set[str]
) -> None:
    source = ClipBatches(dataclasses.replace(recipe, mini=dataclasses.replace(recipe.mini, extra_objects=share)))
    drawn = []
    for name in ("core", "all"):
        real = getattr(source.sources[0], name)
        monkeypatch.setattr(real, "scene", lambda *a, _n=name, _r=real.scene, **k: drawn.append(_n) or _r(*a, **k))
    for step in range(5):
        source[step]
    assert set(drawn) == kinds


@needs_font
@pytest.mark.parametrize(("task", "measured"), [("generate", True), ("add-foreground", True), ("decompose", False)])
def test_placements_are_measured_from_generated_clips(
    recipe: StageRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, measured: bool
) -> None:
    trainer = Trainer(dataclasses.replace(recipe, tasks={task: 1.0}), tmp_path)
    monkeypatch.setattr(trainer.model, "find_inputs", lambda *_: {"placement": torch.ones(batch.positions.shape[0], 3)})
    batch = ClipBatches(trainer.recipe)[0]
    unused = torch.empty(0)
    found = trainer.further_inputs(batch, batch.sequence, batch.layout, unused, unused, seed=3)["placement"]
    assert bool((found == 1).all()) == measured
    assert bool((found.abs() <= 2 * trainer.model.config.placement_spread).all()) != measured


@needs_font
def test_given_clips_have_no_noise_and_no_loss(recipe: StageRecipe, tiny_pipeline: LayerFlowPipeline) -> None:
    batch = ClipBatches(recipe)[1]
    layout = batch.layout
    batch.given = layout.given_mask(TASKS["decompose"]).expand(len(batch.tasks), -1, -1)
    noise = torch.randn_like(batch.sequence)
    t = torch.full((len(batch.tasks),), 0.5)
    target = make_target(tiny_pipeline, batch, batch.sequence, layout, t, noise, recipe)
    given, free = layout.clip_slice("blended"), layout.clip_slice("alpha")
    assert torch.equal(target.noised[:, given], batch.sequence[:, given])
    assert torch.allclose(target.noised[:, free], 0.5 * batch.sequence[:, free] + 0.5 * noise[:, free])
    assert target.timestep[0, :, 0].tolist() == [0.5, 0.5, 0.5, 0]
    wrong = batch.sequence.clone()
    wrong[:, given] += 1
    assert loss_of(clip_errors(wrong, target), target) == 0
    wrong[:, free] += 1  # one of three generated clips is off by one, t = 0.5 weighs 4
    assert loss_of(clip_errors(wrong, target), target) == pytest.approx(4 / 3, rel=1e-5)


@needs_font
def test_training_lowers_the_loss(recipe: StageRecipe, tmp_path: Path) -> None:
    recipe = dataclasses.replace(recipe, phases=(PhaseRecipe(40, {1: 1.0}),), learning_rate=5e-3, log_every=10)
    losses = []
    Trainer(recipe, tmp_path / "runs", report=lambda step, values: losses.append(values["loss"])).train()
    assert losses[-1] < 0.8 * losses[0]
    model = LayerFlowPipeline.from_pretrained(tmp_path / "runs" / "tiny" / "model")
    assert model(foreground="a car", num_inference_steps=1).video.frames == 2
    assert list((tmp_path / "runs" / "tiny" / "logs").glob("events*"))


@needs_font
def test_resumed_run_continues_bit_for_bit(recipe: StageRecipe, tmp_path: Path) -> None:
    whole = Trainer(recipe, tmp_path / "whole")
    whole.train()
    Trainer(recipe, tmp_path / "parts").train(until=3)
    rest = Trainer(recipe, tmp_path / "parts", resume=True)
    assert rest.step == 3
    rest.train()
    for (name, a), b in zip(whole.model.state_dict().items(), rest.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    for a, b in zip(whole.ema.shadow_params, rest.ema.shadow_params, strict=True):
        assert torch.equal(a, b)


@needs_font
def test_fp16_resumes_with_its_loss_scale(recipe: StageRecipe, tmp_path: Path) -> None:
    trainer = Trainer(recipe, tmp_path)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    trainer.save()
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    trainer._restore(list_checkpoints(trainer.folder / "checkpoints")[-1])
    assert trainer.accelerator.scaler.state_dict()["scale"] == 8.0


@needs_font
def test_run_is_not_overwritten(recipe: StageRecipe, tmp_path: Path) -> None:
    Trainer(recipe, tmp_path).train(until=2)
    with pytest.raises(ConfigError, match="holds a run already"):
        Trainer(recipe, tmp_path)


def test_checkpoint_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, 1, {"x": torch.ones(2)}, {})

    def fails(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fails)
        with pytest.raises(OSError, match="no space"):
            save_checkpoint(tmp_path, 2, {"x": torch.zeros(2)}, {})
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000001"]
    state, info = load_checkpoint(list_checkpoints(tmp_path)[0])
    assert torch.equal(state["x"], torch.ones(2))
    assert info["step"] == 1
    for step in (2, 3):
        save_checkpoint(tmp_path, step, {}, {}, keep=2)
    assert [p.name[-1] for p in list_checkpoints(tmp_path)] == ["2", "3"]


def train_without_end(recipe: Path, runs: Path) -> None:
    changes = {"checkpoint_every": 1, "phases": [{"steps": 100000, "frames": {1: 1.0}}]}
    Trainer(load_recipe(recipe, changes).stages[0], runs, report=lambda *_: None).train()


@needs_font
@pytest.mark.parametrize("delay", [0.0, 0.15])
def test_kill_loses_at_most_one_interval(recipe: StageRecipe, tmp_path: Path, delay: float) -> None:
    run = fork(train_without_end, tmp_path / "tiny.yaml", tmp_path / "runs")
    checkpoints = tmp_path / "runs" / "tiny" / "checkpoints"
    try:
        deadline = time.monotonic() + 300
        while len(list_checkpoints(checkpoints)) < 2 and time.monotonic() < deadline and run.is_alive():
            time.sleep(0.01)
        time.sleep(delay)
    finally:
        run.kill()
        run.join()
    assert list_checkpoints(checkpoints), "the run was killed without a checkpoint"
    newest = list_checkpoints(checkpoints)[-1]
    step = int(newest.name.split("-")[1])
    trainer = Trainer(recipe, tmp_path / "runs", resume=True)
    assert trainer.step == step >= 2
    partial = list(checkpoints.glob(".step-*.partial"))
    assert all(int(p.stem.split("-")[-1]) <= step + 1 for p in partial)


@needs_font
def test_resumed_run_is_not_fitted_again(recipe: StageRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = dataclasses.replace(
        recipe, mini=dataclasses.replace(recipe.mini, sketch_scenes=250, sketch_epochs=1, fill_steps=20)
    )
    shares: dict[str, float] = {}

    def report(_: int, values: dict[str, float]) -> None:
        shares.update({name: value for name, value in values.items() if "/fitted" in name})

    trainer = Trainer(recipe, tmp_path, report=report)
    assert shares == {"sketch/fitted": 1, "fill/fitted": 1}  # it says how far it is
    trainer.save()
    for module, name in ((whitening, "fit_text_whitening"), (sketch, "fit_sketch"), (fill, "fit_fill")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("fitted again"))
    again = Trainer(recipe, tmp_path, resume=True)
    for name, tensor in trainer.pipeline.transformer.state_dict().items():
        assert torch.equal(tensor, again.pipeline.transformer.state_dict()[name]), name


def test_any_subset_leaves_a_clip_to_generate() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    sets = {batches_module.any_subset(rng) for _ in range(500)}
    assert len(sets) == 2 ** len(CLIPS) - 1


@needs_font
def test_infinite_gradient_ends_the_run_except_in_fp16(
    recipe: StageRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(recipe, tmp_path)
    before = [average.clone() for average in trainer.ema.shadow_params]
    monkeypatch.setattr(trainer.accelerator, "clip_grad_norm_", lambda *_: torch.tensor(math.inf))
    monkeypatch.setattr(Accelerator, "optimizer_step_was_skipped", True)
    assert trainer.train_step(trainer.batches[0])["gradient_norm"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.ema.shadow_params, strict=True))
    monkeypatch.setattr(Accelerator, "optimizer_step_was_skipped", False)
    with pytest.raises(RuntimeError, match="not finite at step 0"):
        trainer.train_step(trainer.batches[0])


@pytest.mark.parametrize(("has", "found"), [(True, "bf16"), (False, "no")])
def test_auto_precision_follows_the_processor(has: bool, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    monkeypatch.setattr("layerflow.runtime.placement.cpu_has_bfloat16", lambda: has)
    assert [mixed_precision(name) for name in ("auto", "no", "fp16")] == [found, "no", "fp16"]
