"""Planned against measured requirements of runs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from full_size import FRAMES, build
from torch import nn
from torch.profiler import ProfilerActivity, profile

from layerflow import LayerFlowPipeline
from layerflow.cli import run
from layerflow.runtime import placement
from layerflow.runtime.cost import LiveBytes, cost_of
from layerflow.runtime.placement import choose_memory
from layerflow.runtime.plan import MEMORY, Plan, plan_run

families = pytest.mark.parametrize("family", FRAMES)
PROMPTS = {"foreground": "a red fox", "background": "green hills", "num_inference_steps": 2}
WAN = {"num_frames": 9, "height": 64, "width": 96}
LARGER = {"cogvideox": {"num_frames": 8}, "wan": WAN, "wan2.2": WAN}


@pytest.fixture(scope="module")
def peaks() -> dict[str, dict[str, list[int]]]:
    """Planned and measured bytes by model and memory setting, from a separate process."""
    script = [sys.executable, str(Path(__file__).parents[1] / "peaks.py")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    shown = subprocess.run(script, check=True, capture_output=True, text=True, env=environment).stdout
    return json.loads(shown.splitlines()[-1])


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux reports the peak of a process's memory"
)
@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("model", [*FRAMES, "mini"])
def test_planned_memory_is_the_measured_peak(peaks: dict[str, dict[str, list[int]]], model: str, memory: str) -> None:
    assert within(*peaks[model][memory])


def measured_peak(call: Callable[[], object]) -> int:
    """Return the peak of the bytes that torch's allocator held during a call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = profiler.profiler.kineto_results.events()
    live = peak = 0
    for _, size in sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"):
        live += size
        peak = max(peak, live)
    return peak


def within(planned: int, measured: int, share: float = 0.15) -> bool:
    print(f"planned {planned}, measured {measured}")
    return abs(planned - measured) <= share * measured


@pytest.mark.parametrize("guided", [None, True])
def test_planned_activations_of_the_mini(
    tiny_pipeline: LayerFlowPipeline, tiny_model: Path, guided: bool | None
) -> None:
    size = {"num_frames": 4, "height": 64, "width": 64, "guidance_scale": 1.5 if guided else None}
    tiny_pipeline(**PROMPTS, **size)
    measured = measured_peak(lambda: tiny_pipeline(**PROMPTS, **size))
    plan = plan_run(tiny_model, frames=4, height=64, width=64, guided=guided, dtype=torch.float32)
    assert within(max(cost.activations for cost in plan.parts.values()), measured)
    weights = sum(
        parameter.nbytes
        for part in (tiny_pipeline.text_encoder, tiny_pipeline.transformer)
        for parameter in (*part.parameters(), *part.buffers())
    )
    assert within(plan.peak("full"), weights + measured)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[LayerFlowPipeline, Plan]]:
    """A pipeline of each family and its plan, at a size at which activations exceed weights."""
    made = {}
    for family in FRAMES:
        pipeline, folder = build(family), tmp_path_factory.mktemp("models") / family
        pipeline.save_pretrained(folder)
        size = {name.removeprefix("num_"): value for name, value in LARGER[family].items()}
        made[family] = pipeline, plan_run(folder, dtype=torch.float32, **size)
    return made


@families
def test_planned_activations_of_the_transformer(planned: dict, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, plan = planned[family]
    peaks = []

    def without_scratch(query: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        """Return only an output: the scratch space of attention kernels grows with their threads."""
        return torch.zeros_like(query)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", without_scratch)
    forward = pipeline.transformer.forward

    def measure(*args, **kwargs):
        peaks.append(measured_peak(lambda: forward(*args, **kwargs)) + sum(map(_own_bytes, args[:4])))
        return forward(*args, **kwargs)

    pipeline.transformer.forward = measure
    try:
        pipeline(**PROMPTS, **LARGER[family], output_type="latent")
    finally:
        del pipeline.transformer.forward
    # Given latents; prediction, output, clean and next latents of the previous step.
    kept = 5 * plan.layout.length * 4 * (plan.height // 8) * (plan.width // 8) * 4
    assert within(plan.parts["transformer"].activations, max(peaks) + kept)


def _own_bytes(value: object) -> int:
    return value.nbytes if isinstance(value, torch.Tensor) else 0


def test_live_bytes_counts_each_storage_once() -> None:
    with LiveBytes() as live:
        a = torch.zeros(100)
        b = a.view(10, 10)
        assert live.live == 400
        del a
        c = b + 1
        assert live.live == 800
        del b, c
        assert live.live == 0
    assert live.peak == 800


@families
def test_memory_settings_need_less_and_less(planned: dict, family: str) -> None:
    _, plan = planned[family]
    peaks = [plan.peak(memory) for memory in MEMORY]
    assert peaks == sorted(peaks, reverse=True)
    assert plan.step_flops == 2 * plan.parts["transformer"].flops
    assert plan.seconds(1e-6) == pytest.approx(plan.flops / 1e6)
    with pytest.raises(ValueError, match="memory must be one of"):
        plan.peak("least")


def test_auto_memory_is_the_fastest_that_fits(planned: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plan = planned["wan"]
    assert choose_memory(plan, "cpu") == "full"
    for memory in MEMORY:
        free = plan.peak(memory) / placement.HEADROOM + 1
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 0))
        assert choose_memory(plan, "cuda:0") == memory
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 0))
    assert choose_memory(plan, "cuda") == MEMORY[-1]


def test_streamed_weights_count_while_their_layer_runs() -> None:
    with torch.device("meta"):
        wide, narrow = nn.Linear(1000, 1000, bias=False), nn.Linear(1000, 10, bias=False)
        cost = cost_of(nn.Sequential(wide, narrow), lambda: narrow(wide(torch.empty(1, 1000))))
    assert cost.weights == 4_040_000
    assert cost.streamed(prefetch=False) == 4_000_000 + 8_000  # one layer, what goes in and what comes out
    assert cost.streamed(prefetch=True) == 4_000_000 + 40_000 + 8_000  # and the next layer


def test_info_prints_the_plan(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", str(tiny_model), "--plan", "--size", "32x16", "--frames", "3", "--tflops", "0.1"]) == 0
    shown = capsys.readouterr().out
    for line in ("4 clips of 3 frames of 32x16", "tokens of video", "--memory lowest", "at 0.1 TFLOP/s"):
        assert line in shown
    assert run(["info", str(tiny_model), "--plan", "--size", "33x16"]) == 2
    assert "the nearest is 32x16" in capsys.readouterr().err
    assert run(["info", str(tiny_model), "--plan", "--dtype", "float8"]) == 2
