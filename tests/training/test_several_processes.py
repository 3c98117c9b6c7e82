"""Training in several processes (gloo): the losses of one process, also after one of them was lost."""

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny_recipe
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from drawn_shards import write_set
from forked import fork_two
from safetensors.torch import load_file
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException
from torch.optim import Optimizer

from layerflow.training.checkpoints import load_checkpoint
from layerflow.training.network import build_pipeline
from layerflow.training.recipe import StageRecipe, load_recipe
from layerflow.training.stages import train_stages
from layerflow.training.trainer import Trainer

RECIPE = (
    tiny_recipe.TINY
    + """seed: 5
frames_per_batch: 8
batch_multiple: 2
warmup: 1
optimizer: adamw
log_every: 1
checkpoint_every: 2
adapters: {rank: 2, alpha: 2.0}
phases: [{steps: 3, frames: {1: 0.5, 2: 0.5}}]
stages:
  - {stage: base, phases: [{steps: 5, frames: {1: 0.5, 2: 0.5}}], data: [{kind: shards, folder: shards}]}
  - {stage: content, data: [{kind: shards, folder: shards, kinds: [pairs]}, {kind: shards, folder: shards}]}
"""
)


def take_part(home: Path, run: str, lost_at: int = -1) -> None:
    """Run one of the processes; the second is killed at step `lost_at`. Losses are written to a file."""
    torch.set_num_threads(1)
    real = Trainer.train_step

    def step(self: Trainer, batch: object) -> object:
        if self.step == lost_at and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, batch)

    def report(number: int, values: dict[str, float], of: StageRecipe) -> None:
        if "loss" in values:
            with (home / f"{run}.jsonl").open("a") as file:
                print(json.dumps([of.stage, number, values["loss"], values["gradient_norm"]]), file=file)

    Trainer.train_step = step
    if run == "sharded":
        Accelerator.prepare = shard
    elif run == "zero":
        allow_zero()
    train_stages(load_recipe(home / "shared.yaml"), home / run, resume=True, report=report)


def shard(_: Accelerator, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
    """Shard as `Accelerator.prepare` does on GPUs."""
    model.to(memory_format=torch.contiguous_format)
    names = {parameter: name for name, parameter in model.named_parameters()}
    for part in list(model.modules()):
        if type(part).__name__ in model._no_split_modules:
            fully_shard(part)
    fully_shard(model)
    own = dict(model.named_parameters())
    for group in optimizer.param_groups:
        group["params"] = [own[names[parameter]] for parameter in group["params"]]
    return model, optimizer


def allow_zero() -> None:
    """Set up DeepSpeed as Accelerate does on GPUs."""
    os.environ.update(DS_ACCELERATOR="cpu", ACCELERATE_USE_DEEPSPEED="true", ACCELERATE_DEEPSPEED_ZERO_STAGE="2")
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {}  # no kernels are compiled
    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))


def take_part_as(rank: int, home: Path, run: str, lost_at: int) -> None:
    """Call `take_part` in a process with the environment of `torchrun`."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    dist.init_process_group("gloo", init_method=f"file://{home}/{run}{lost_at}", rank=rank, world_size=2)
    take_part(home, run, lost_at)
    dist.destroy_process_group()


def lose_one(home: Path, run: str) -> None:
    """A run of two processes of which the second is killed in its fourth step."""
    with pytest.raises((ProcessExitedException, ProcessRaisedException)):  # the first may fail before it is ended
        fork_two(take_part_as, home, run, 3)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipe, shards, and the run of one process in `one`."""
    home = tmp_path_factory.mktemp("home")
    clips = {f"mask{i}": (2, 32, 32, "masks") for i in range(3)} | {f"pair{i}": (1, 32, 32, "pairs") for i in range(3)}
    write_set(home / "shards", clips)
    (home / "shared.yaml").write_text(RECIPE)
    return home


@pytest.fixture(scope="module")
def alone(home: Path) -> dict[tuple[str, int], list[float]]:
    """Loss and norm of the gradient at each step of the run of one process."""
    found: dict[tuple[str, int], list[float]] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the others: the whitening's eigenvectors make much of a last bit
    try:
        train_stages(
            load_recipe(home / "shared.yaml"),
            home / "one",
            report=lambda step, values, of: found.update({(of.stage, step): [values["loss"], values["gradient_norm"]]}),
        )
    finally:
        torch.set_num_threads(threads)
    return found


def check_losses(home: Path, run: str, alone: dict[tuple[str, int], list[float]]) -> list[int]:
    """Assert that the losses of a run are those of one process; return its steps."""
    together = [json.loads(line) for line in (home / f"{run}.jsonl").read_text().splitlines()]
    for stage, step, loss, norm in together:
        assert loss == pytest.approx(alone[stage, step][0], abs=1e-5), (stage, step)
        assert norm == pytest.approx(alone[stage, step][1], rel=1e-3), (stage, step)
    return [step for _, step, *_ in together]


def goes_on(home: Path, run: str, alone: dict[tuple[str, int], list[float]]) -> None:
    """Assert that a run that loses a process resumes with the losses of one process."""
    lose_one(home, run)
    fork_two(take_part_as, home, run, -1)
    assert check_losses(home, run, alone) == [1, 2, 3, 3, 4, 5, 1, 2, 3]


def test_two_processes_match_one_and_survive_a_loss(home: Path, alone: dict[tuple[str, int], list[float]]) -> None:
    lose_one(home, "two")
    assert not (home / "two" / "shared" / "model").exists()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    again = subprocess.run(
        [*command, __file__, str(home), "two"],
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert again.returncode == 0, again.stderr[-2000:]
    assert check_losses(home, "two", alone) == [1, 2, 3, 3, 4, 5, 1, 2, 3]  # the third step twice
    cards = [(home / run / "shared" / "content" / "result" / "README.md").read_text() for run in ("one", "two")]
    assert cards[0] == cards[1]


def test_sharded_weights_match_and_leave_whole_tensors(home: Path, alone: dict[tuple[str, int], list[float]]) -> None:
    goes_on(home, "sharded", alone)
    whole, shards = (
        load_file(home / run / "shared" / "base" / "result" / "transformer.safetensors") for run in ("one", "sharded")
    )
    assert whole.keys() == shards.keys()
    for name, tensor in whole.items():
        assert torch.allclose(shards[name], tensor, atol=1e-3), name  # AdamW makes steps of what is nearly no gradient
    # Moving averages are those of one process, also after a loss: far nearer to them than to the weights.
    states = [
        load_checkpoint(home / run / "shared" / "base" / "checkpoints" / "step-00000005")[0]
        for run in ("one", "sharded")
    ]
    assert states[0]["ema"]["optimization_step"] == states[1]["ema"]["optimization_step"] == 5
    network = build_pipeline(load_recipe(home / "shared.yaml").stages[0], fit=False).transformer
    names = [name for name, _ in network.named_parameters() if not name.startswith("sketch.")]  # which is not trained
    own = [states[0]["model"][name] for name in names]
    averages = [state["ema"]["shadow_params"] for state in states]
    assert [t.shape for t in averages[0]] == [t.shape for t in averages[1]]
    apart = sum(float((a - b).abs().sum()) for a, b in zip(*averages, strict=True))
    behind = sum(float((a - w).abs().sum()) for a, w in zip(averages[0], own, strict=True))
    assert apart < 1e-3 * behind


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_zero_matches_and_leaves_whole_tensors(home: Path, alone: dict[tuple[str, int], list[float]]) -> None:
    goes_on(home, "zero", alone)


if __name__ == "__main__":
    take_part(Path(sys.argv[1]), sys.argv[2])
