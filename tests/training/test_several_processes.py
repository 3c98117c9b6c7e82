"""Training in several processes (gloo): the losses of one process, also after one of them was lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from drawn_shards import write_set

from layerflow.training.recipe import load_recipe
from layerflow.training.stages import follow

RECIPE = """
seed: 5
size: 32
clip_frames: 2
frames_per_batch: 8
batch_multiple: 2
model:
  {widths: [8, 8, 8], blocks_up: [1, 1, 1], dim: 16, num_layers: 1, num_heads: 2, cond_dim: 16, sketch_width: 16,
   fill_width: 8}
sketch_scenes: 0
fill_steps: 0
warmup: 1
workers: 0
log_every: 1
checkpoint_every: 2
sample_every: 1000
adapters: {rank: 2, alpha: 2.0}
phases: [{steps: 3, frames: {1: 0.5, 2: 0.5}}]
stages:
  - {stage: base, phases: [{steps: 5, frames: {1: 0.5, 2: 0.5}}], data: [{kind: shards, folder: shards}]}
  - {stage: content, data: [{kind: shards, folder: shards, kinds: [pairs]}, {kind: shards, folder: shards}]}
"""
SCRIPT = """
import json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from layerflow.training.recipe import load_recipe
from layerflow.training.stages import follow
from layerflow.training.loop import Trainer

home, lost_at = Path(sys.argv[1]), int(sys.argv[2])
real = Trainer.train_step

def step(self, batch):
    if self.step == lost_at and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, batch)

Trainer.train_step = step

def report(number, values, of):
    if "loss" in values:
        with (home / "losses.jsonl").open("a") as file:
            print(json.dumps([of.stage, number, values["loss"], values["gradient_norm"]]), file=file)

follow(load_recipe(home / "shared.yaml"), home / "two", resume=True, report=report)
"""


def launch(home: Path, lost_at: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, str(home / "train.py"), str(home), str(lost_at)], capture_output=True, text=True, timeout=900,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip


def test_two_processes_have_the_losses_of_one_and_go_on_when_one_was_lost(tmp_path: Path) -> None:
    clips = {f"mask{i}": (2, 32, 32, "masks") for i in range(3)} | {f"pair{i}": (1, 32, 32, "pairs") for i in range(3)}
    write_set(tmp_path / "shards", clips)
    (tmp_path / "shared.yaml").write_text(RECIPE)
    (tmp_path / "train.py").write_text(SCRIPT)
    lost = launch(tmp_path, lost_at=3)
    assert lost.returncode != 0
    assert not (tmp_path / "two" / "shared" / "model").exists()
    again = launch(tmp_path, lost_at=-1)
    assert again.returncode == 0, again.stderr[-2000:]

    alone: dict[tuple[str, int], list[float]] = {}
    run = follow(
        load_recipe(tmp_path / "shared.yaml"), tmp_path / "one",
        report=lambda step, values, of: alone.update({(of.stage, step): [values["loss"], values["gradient_norm"]]}),
    )  # fmt: skip
    together = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert [step for stage, step, *_ in together] == [1, 2, 3, 3, 4, 5, 1, 2, 3]  # the third step twice
    for stage, step, *values in together:
        assert values == pytest.approx(alone[stage, step], abs=1e-5, rel=1e-4), (stage, step)
        assert values[0] == pytest.approx(alone[stage, step][0], abs=1e-5)
    cards = [(folder / "content" / "result" / "README.md").read_text() for folder in (run, tmp_path / "two" / "shared")]
    assert cards[0] == cards[1]
