"""Plans of training: parameters and bytes by closed forms, activations against a real step."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from full_size import build, plain_cogvideox

from layerflow import LayerFlowPipeline
from layerflow.cli import run
from layerflow.core.config import ConfigError
from layerflow.models.autoencoders import ClipAutoencoder
from layerflow.models.layout import Layout
from layerflow.runtime.cost import LiveBytes
from layerflow.training.plan import TrainingPlan, plan_training
from layerflow.training.recipe import AdapterRecipe, PhaseRecipe, Recipe, StageRecipe


def recipe_for(model: Path, frames: int, **changes: object) -> Recipe:
    settings: dict[str, object] = {
        "start_from": str(model), "size": 32, "clip_frames": frames, "frames_per_batch": 2 * frames,
        "optimizer": "adamw", "adapters": AdapterRecipe(rank=2), "phases": (PhaseRecipe(1, {frames: 1.0}),), **changes,
    }  # fmt: skip
    stages = (StageRecipe("plan", stage=stage, **settings) for stage in ("base", "motion", "content"))  # type: ignore[arg-type]
    return Recipe("plan", tuple(stages), staged=True)


def plan_one(**settings: object) -> TrainingPlan:
    (plan,) = plan_training(Recipe("plan", (StageRecipe("plan", **settings),)))  # type: ignore[arg-type]
    return plan


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "wan"
    build("wan").save_pretrained(folder)
    return folder


def test_bytes_of_trained_parameters(wan: Path) -> None:
    base, motion, content = plan_training(recipe_for(wan, 5), processes=2)
    network = sum(p.numel() for p in build("wan").transformer.parameters())
    assert base.parameters == base.trained_parameters == network
    assert (base.weights, base.gradients, base.optimizer, base.averages) == tuple(n * network for n in (4, 4, 8, 4))
    # Two blocks of two attentions of four 32x32 layers, and an adapter of rank 2 on each.
    one = 2 * 2 * 4 * 2 * (32 + 32)
    assert motion.trained_parameters == content.trained_parameters == one
    assert content.parameters == network + 2 * one
    assert motion.gradients == 4 * one
    assert motion.peak < base.peak
    assert (base.samples, base.processes) == (1, 2)
    assert base.state // 2 < base.sharded_peak < base.peak


def test_samples_and_fitted_parts(wan: Path) -> None:
    stage = StageRecipe(
        "plan",
        start_from=str(wan),
        size=32,
        clip_frames=5,
        frames_per_batch=40,
        batch_multiple=3,
        phases=(PhaseRecipe(1, {5: 1.0}),),
    )
    (plan,) = plan_training(Recipe("plan", (stage,)), (32, 32), processes=3)
    assert plan.samples == 2  # of 8 samples a batch takes 6
    mini = plan_one(start_from="mini", phases=(PhaseRecipe(1, {8: 1.0}),))
    sketch = sum(p.numel() for p in LayerFlowPipeline.from_pretrained("mini").transformer.sketch.parameters())
    assert mini.parameters - mini.trained_parameters == sketch  # fitted before
    fp16 = plan_training(recipe_for(wan, 5, precision="fp16"))[0]
    assert fp16.frozen_parts == plan_training(recipe_for(wan, 5))[0].frozen_parts


def test_half_precision_and_frozen_base(wan: Path) -> None:
    full, half = recipe_for(wan, 5), recipe_for(wan, 5, precision="bf16", frozen_dtype="bfloat16")
    plain, mixed = plan_training(full), plan_training(half)
    network = plain[0].parameters
    assert mixed[0].weights == plain[0].weights  # trained weights stay float32
    assert (plain[0].copies, mixed[0].copies) == (0, 2 * network)
    assert mixed[1].weights == 2 * network + 4 * mixed[1].trained_parameters
    assert mixed[0].activations < plain[0].activations


def test_gradient_checkpointing(wan: Path) -> None:
    keeps = plan_training(recipe_for(wan, 5))[0]
    again = plan_training(recipe_for(wan, 5, gradient_checkpointing=True))[0]
    assert (keeps.activations, keeps.activations_otherwise) == (again.activations_otherwise, again.activations)
    assert again.activations < keeps.activations
    assert keeps.flops < again.flops < 1.5 * keeps.flops


def test_activations_match_a_real_step(wan: Path) -> None:
    planned = plan_training(recipe_for(wan, 5))[0]
    model = build("wan").transformer.train()
    live = LiveBytes()
    for weight in (*model.parameters(), *model.buffers()):
        live.forget(weight)
        weight.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None)) if weight.requires_grad else None
    config = model.config

    layout, n = Layout(2), planned.samples
    inputs = (
        torch.randn(n, layout.length, config.in_channels, *config.sample_size), torch.rand(n, 4, 1),
        torch.randn(n, 3, config.text_length, config.text_dim), torch.ones(n, 3, config.text_length, dtype=torch.bool),
    )  # fmt: skip
    with live:
        model(*inputs, layout).sample.float().square().mean().backward()
    assert planned.activations == pytest.approx(live.peak, rel=0.15)


def test_plan_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain_cogvideox().save_pretrained(tmp_path / "cog")
    (tmp_path / "r.yaml").write_text(
        f"start_from: {tmp_path / 'cog'}\nsize: 32\nclip_frames: 16\nframes_per_batch: 32\nadapters: {{rank: 2}}\n"
        "stages: [{stage: base, phases: [{steps: 1, frames: {16: 1.0}}], data: [{kind: shards, folder: nowhere}]}]\n"
    )
    assert run(["train", str(tmp_path / "r.yaml"), "--plan", "--processes", "2"]) == 0
    shown = capsys.readouterr().out
    assert "stage base" in shown
    assert "GiB on each of 2 devices" in shown
    plan = plan_one(phases=(PhaseRecipe(1, {1: 1.0}),))
    assert 5e6 < plan.parameters < 50e6


def test_plan_refuses_hints_that_training_refuses(tmp_path: Path) -> None:
    plain_cogvideox().save_pretrained(tmp_path / "cog")
    with pytest.raises(ConfigError, match="hints: this model takes none; leave hints out"):
        plan_training(recipe_for(tmp_path / "cog", 16, hints={"click": 0.5}))


def test_tiling_and_precomputed_latents(tmp_path: Path) -> None:
    pipeline = plain_cogvideox()
    # Tiles are half of this, and their overlap whole latents, as in the large ones.
    pipeline.vae = AutoencoderKLCogVideoX.from_config({**pipeline.vae.config, "sample_height": 96, "sample_width": 80})
    pipeline.save_pretrained(tmp_path / "cog")
    size = 112, 96  # three by three tiles
    whole, tiled = (plan_training(recipe_for(tmp_path / "cog", 16, tiling=on), size)[0] for on in (False, True))
    assert tiled.encoding < whole.encoding / 3
    assert (tiled.activations, tiled.state) == (whole.activations, whole.state)
    assert whole.precomputed_peak == whole.state + whole.copies + whole.activations < whole.peak
    clips = torch.rand(1, 32, 3, *size) * 2 - 1
    vae = pipeline.vae.requires_grad_(False)
    autoencoder = ClipAutoencoder(vae)
    exact = autoencoder.encode(clips)
    vae.enable_slicing()
    assert torch.allclose(autoencoder.encode(torch.cat([clips, clips])), torch.cat([exact, exact]), atol=1e-5)
    vae.enable_tiling()
    tiles = autoencoder.encode(clips)
    assert tiles.shape == exact.shape
    assert not torch.allclose(tiles, exact, atol=1e-3)  # norms see a tile and 8 frames: hence tiling is off by default
