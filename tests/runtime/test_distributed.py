"""Distributed inference: several processes give the result of one, on CPU with gloo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from forked import fork_two
from full_size import FRAMES, blocks_of, build
from safetensors.torch import load_file, save_file

from layerflow import LayerFlowPipeline
from layerflow.cli import run
from layerflow.media import load_layers
from layerflow.runtime.placement import PlacementError, parallelise

PROMPTS = {"foreground": "a red fox", "background": "green hills", "num_inference_steps": 3}


def latents(pipeline: LayerFlowPipeline) -> torch.Tensor:
    return pipeline(**PROMPTS, generator=torch.Generator().manual_seed(0), output_type="latent").videos


def share(rank: int, folder: str, family: str, split_guidance: bool) -> None:
    torch.set_num_threads(1)
    torch.accelerator.device_count = lambda: 1  # diffusers counts accelerators, also where there are none
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    pipeline = build(family)
    shapes: list[int] = []
    for *_, last in blocks_of(pipeline):
        last.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape[-2]))
    parallelise(pipeline, split_guidance)
    result = latents(pipeline)
    save_file({"latents": result, "calls": torch.tensor(shapes)}, Path(folder) / f"{rank}.safetensors")
    dist.destroy_process_group()


@pytest.mark.parametrize("family", FRAMES)
@pytest.mark.parametrize("split_guidance", [True, False], ids=["guidance", "sequence"])
def test_two_processes_equal_one(family: str, split_guidance: bool, tmp_path: Path) -> None:
    pipeline, shapes = build(family), []
    for *_, last in blocks_of(pipeline):
        last.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape[-2]))
    expected = latents(pipeline)
    fork_two(share, str(tmp_path), family, split_guidance)
    for rank in range(2):
        got = load_file(tmp_path / f"{rank}.safetensors")
        assert torch.allclose(got["latents"], expected, atol=1e-5)
        if split_guidance:  # each computes one of the two predictions of a step, of all tokens
            assert len(got["calls"]) == PROMPTS["num_inference_steps"] < len(shapes)
            assert set(got["calls"].tolist()) == set(shapes)
        else:  # each computes both, of half the tokens
            assert got["calls"].tolist() == [tokens // 2 for tokens in shapes]


def test_indivisible_heads_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    with pytest.raises(PlacementError, match="3 processes are 3 for a sequence, which do not divide the 2 attention"):
        parallelise(build("wan"))


def test_torchrun_writes_the_same_layers_once(tmp_path: Path) -> None:
    build("wan").save_pretrained(tmp_path / "model")
    command = ["generate", "--foreground", "a fox", "--background", "hills", "--steps", "2"]
    command += ["--model", str(tmp_path / "model"), "--format", "png", "-o"]
    assert run([*command, str(tmp_path / "one")]) == 0
    launched = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "-m",
            "layerflow.cli",
            *command,
            str(tmp_path / "two"),
        ],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert launched.stdout.count("layers.json") == 1
    one, two = load_layers(tmp_path / "one"), load_layers(tmp_path / "two")
    for name, clip in one.clips().items():
        assert torch.allclose(clip, two.clips()[name], atol=2 / 255), name
