"""Four stages from one recipe: trained parts, results, and runs that are stopped anywhere."""

import time
from pathlib import Path
from typing import Any

import pytest
import tiny_recipe
import torch
from drawn_shards import write_set
from forked import fork
from full_size import build, plain_wan
from safetensors.torch import load_file

from layerflow.core.config import ConfigError
from layerflow.pipeline import LayerFlowPipeline
from layerflow.training.checkpoints import list_checkpoints
from layerflow.training.recipe import StageRecipe, load_recipe
from layerflow.training.stages import train_stages
from layerflow.training.trainer import Trainer

STAGES = (
    tiny_recipe.TINY
    + """seed: 3
frames_per_batch: 4
warmup: 1
log_every: 1
checkpoint_every: 2
adapters: {rank: 2, alpha: 2.0}
phases: [{steps: 3, frames: {2: 1.0}}]
stages:
  - {stage: base, data: [{kind: shards, folder: shards, kinds: [masks]}]}
  - {stage: motion, data: [{kind: shards, folder: shards, kinds: [masks], frozen: true}]}
  - stage: content
    learning_rate: 0.01
    data: [{kind: shards, folder: shards, kinds: [pairs]}, {kind: shards, folder: shards, kinds: [copy-paste]}]
  - stage: unify
    tasks: {any: 1.0}
    data: [{kind: shards, folder: shards, kinds: [pairs]}, {kind: shards, folder: shards, kinds: [copy-paste]}]
"""
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    clips = {
        **{f"mask{i}": (2, 32, 32, "masks") for i in range(3)},
        **{f"pair{i}": (1, 32, 32, "pairs") for i in range(3)},
        **{f"paste{i}": (2, 32, 32, "copy-paste") for i in range(3)},
    }
    write_set(home / "shards", clips)
    (home / "four.yaml").write_text(STAGES)
    return home


@pytest.fixture(scope="module")
def finished(home: Path) -> Path:
    """The run of all stages, without a stop."""
    return train_stages(load_recipe(home / "four.yaml"), home / "whole")


def adapter(run: Path, stage: str, name: str) -> dict[str, torch.Tensor]:
    (file,) = (run / stage / "result" / "adapters" / name).glob("*.safetensors")
    return load_file(file)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_each_stage_leaves_its_result_and_card(finished: Path) -> None:
    left = {
        p.name: sorted(str(f.relative_to(p / "result").parent) for f in (p / "result").rglob("*.safetensors"))
        for p in finished.iterdir()
        if (p / "result").is_dir()
    }
    assert left == {
        "base": ["."],
        "motion": ["adapters/motion"],
        "content": ["adapters/content"],
        "unify": ["adapters/content"],
    }
    assert any(tensor.any() for name, tensor in adapter(finished, "motion", "motion").items() if "lora_B" in name)
    first, last = adapter(finished, "content", "content"), adapter(finished, "unify", "content")
    assert any(not torch.equal(first[name], last[name]) for name in first)
    card = (finished / "content" / "result" / "README.md").read_text()
    assert "the content adapter, 3 steps, 6 samples" in card
    assert "shards shards, pairs |" in card
    assert "motion on for" in card


def test_model_has_content_fused_and_no_motion(finished: Path) -> None:
    base = load_file(finished / "base" / "result" / "transformer.safetensors")
    model = finished / "model"
    stored = load_file(next((model / "transformer").glob("*.safetensors")))
    assert all(torch.equal(stored[name], base[name].bfloat16()) for name in stored)
    assert sorted(path.name for path in (model / "adapters").iterdir()) == ["content", "motion"]
    pipeline = LayerFlowPipeline.from_pretrained(model)
    content = adapter(finished, "unify", "content")
    name = "blocks.0.attn1.to_q"
    if not any(name in key for key in content):
        name = next(key.split(".lora_A")[0] for key in content if ".lora_A" in key and content[key].ndim == 2)
        name = name.removeprefix("transformer.")
    a, b = (next(t for key, t in content.items() if f"{name}.lora_{side}." in key) for side in "AB")
    expected = base[f"{name}.weight"].bfloat16().float() + b @ a
    assert torch.allclose(dict(pipeline.transformer.named_parameters())[f"{name}.weight"], expected, atol=1e-6)
    assert pipeline("a square", num_inference_steps=1).video.frames == 2


@pytest.mark.parametrize("stopped", [("base", 1), ("content", 3)])
def test_stopped_run_ends_with_the_same_weights(
    home: Path, finished: Path, tmp_path: Path, stopped: tuple[str, int]
) -> None:
    recipe = load_recipe(home / "four.yaml")

    def stop(step: int, values: dict[str, float], of: StageRecipe) -> None:
        if (of.stage, step) == stopped:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_stages(recipe, tmp_path, report=stop)
    if stopped != ("base", 1):  # at the first step of the first stage there is no checkpoint yet
        with pytest.raises(ConfigError, match="`resume`"):
            train_stages(recipe, tmp_path)
    run = train_stages(recipe, tmp_path, resume=True)
    assert bytes_of(run / "model") == bytes_of(finished / "model")


def test_single_stages(home: Path, finished: Path, tmp_path: Path) -> None:
    recipe = load_recipe(home / "four.yaml")
    with pytest.raises(ConfigError, match="stage motion needs stage base done before it"):
        train_stages(recipe, tmp_path, only="motion")
    with pytest.raises(ConfigError, match="'colour' is not one of four's"):
        train_stages(recipe, tmp_path, only="colour")
    train_stages(recipe, tmp_path, only="base")
    assert not (tmp_path / "four" / "model").exists()
    train_stages(recipe, tmp_path, only="motion")
    with pytest.raises(ConfigError, match="motion is trained already"):
        train_stages(recipe, tmp_path, only="motion")
    assert bytes_of(tmp_path / "four" / "motion" / "result") == bytes_of(finished / "motion" / "result")


def follow_stages(recipe: Path, runs: Path) -> None:
    train_stages(load_recipe(recipe), runs, resume=True)


def test_killed_run_resumes(home: Path, finished: Path, tmp_path: Path) -> None:
    run = fork(follow_stages, home / "four.yaml", tmp_path)
    try:
        deadline = time.monotonic() + 300
        target = tmp_path / "four" / "motion" / "checkpoints"
        while not list_checkpoints(target) and time.monotonic() < deadline and run.is_alive():
            time.sleep(0.01)
    finally:
        run.kill()
        run.join()
    assert list_checkpoints(target)
    assert not (tmp_path / "four" / "model").exists()
    again = train_stages(load_recipe(home / "four.yaml"), tmp_path, resume=True)
    assert bytes_of(again / "model") == bytes_of(finished / "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": ({"stage": "motion"},)}, "motion needs a stage base before it, or start_from"),
        ({"stages": ({"stage": "base"}, {"stage": "unify"})}, "unify needs a stage content before it"),
        ({"stages": ({"stage": "base"}, {"stage": "base"})}, "each may be named once"),
        ({"stages": ({"stage": "bse"},)}, "stage 'bse' is not known"),
        ({"stages": ({"size": 3},)}, r"stages\[0\]: a stage needs the key stage"),
        ({"stages": ({"stage": "base", "sise": 3},)}, r"stages\[0\]: unknown key 'sise'"),
        ({"stages": ({"stage": "base", "data": [{"kind": "film"}]},)}, "kind must be scenes, composites or shards"),
        ({"trains": "all", "stages": ()}, "trains is 'all'"),
        ({"optimizer": "sgd", "stages": ()}, "must be muon or adamw"),
    ],
)
def test_mistakes_in_stages_are_refused(home: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(home / "four.yaml", change)


# --- other backbones --------------------------------------------------------------------------------------

LARGE = """
start_from: {model}
size: 32
clip_frames: {frames}
frames_per_batch: {batch}
optimizer: adamw
learning_rate: 0.005
warmup: 1
ema: 0.5
workers: 0
log_every: 1
checkpoint_every: 100
sample_every: 1000
noise: {{pure: 0.1, uniform: true}}
gradient_checkpointing: true
adapters: {{rank: 2, alpha: 2.0}}
phases: [{{steps: {steps}, frames: {{{frames}: 1.0}}}}]
stages:
  - {{stage: base, data: [{{kind: shards, folder: shards}}]}}
  - {{stage: motion, data: [{{kind: shards, folder: shards, frozen: true}}]}}
  - {{stage: content, frozen_dtype: bfloat16, data: [{{kind: shards, folder: shards}}]}}
"""


@pytest.mark.parametrize(("family", "frames"), [("wan", 5), ("cogvideox", 16)])
def test_full_size_backbones_train(family: str, frames: int, tmp_path: Path) -> None:
    build(family).save_pretrained(tmp_path / "start")
    write_set(tmp_path / "shards", {f"clip{i}": (frames, 32, 48, "masks") for i in range(2)})
    text = LARGE.format(model=tmp_path / "start", frames=frames, batch=3 * frames, steps=8)
    (tmp_path / "large.yaml").write_text(text)
    losses: dict[str, list[float]] = {}
    run = train_stages(
        load_recipe(tmp_path / "large.yaml"),
        tmp_path / "runs",
        report=lambda step, values, of: losses.setdefault(of.stage, []).append(values["loss"]) if values else None,
    )
    assert {stage: len(values) for stage, values in losses.items()} == {"base": 8, "motion": 8, "content": 8}
    assert sum(losses["base"][-3:]) < sum(losses["base"][:3])
    pipeline = LayerFlowPipeline.from_pretrained(run / "model")
    assert type(pipeline.transformer).__name__ == type(build(family).transformer).__name__
    video = pipeline("a square", num_frames=frames, height=32, width=48, num_inference_steps=2).video
    assert (video.frames, video.height, video.width) == (frames, 32, 48)


def test_unsupported_clips_are_refused(tmp_path: Path) -> None:
    plain_wan().save_pretrained(tmp_path / "start")  # layers are put on a plain model
    write_set(tmp_path / "shards", {"clip": (6, 32, 48, "masks")})
    text = LARGE.format(model=tmp_path / "start", frames=6, batch=6, steps=1)
    (tmp_path / "large.yaml").write_text(text)
    recipe = load_recipe(tmp_path / "large.yaml").stages[0]
    with pytest.raises(ConfigError, match=r"do not fit the model: 6 frames do not fit.*the nearest: 5 or 9"):
        Trainer(recipe, tmp_path / "runs")
