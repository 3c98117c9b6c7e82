"""Fitting the card people have: plans against measured peaks, memory and speed switches really taken."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from full_size import FRAMES, build
from torch import nn
from torch.profiler import ProfilerActivity, profile

from layerflow import LayerFlowPipeline, placement
from layerflow.cli import run
from layerflow.cli.models import model_facts, pick_dtype
from layerflow.loading import find_model, skeleton
from layerflow.models.sequence import SequenceCodec
from layerflow.placement import PlacementError, choose_memory, place
from layerflow.plan import MEMORY, LiveBytes, Plan, plan_run

families = pytest.mark.parametrize("family", FRAMES)
PROMPTS = {"foreground": "a red fox", "background": "green hills", "num_inference_steps": 2}
LARGER = {"cogvideox": {}, "wan": {"num_frames": 9, "height": 64, "width": 96}}


def measured_peak(call: Callable[[], object]) -> int:
    """Bytes at the peak of what torch's own allocator handed out during a call."""
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


def test_the_plan_of_the_mini_is_its_measured_peak(tiny_pipeline: LayerFlowPipeline, tiny_model: Path) -> None:
    size = {"num_frames": 4, "height": 64, "width": 64}
    tiny_pipeline(**PROMPTS, **size)
    measured = measured_peak(lambda: tiny_pipeline(**PROMPTS, **size))
    plan = plan_run(tiny_model, frames=4, height=64, width=64, dtype=torch.float32)
    assert within(max(cost.activations for cost in plan.parts.values()), measured)
    weights = sum(
        parameter.nbytes
        for part in (tiny_pipeline.text_encoder, tiny_pipeline.transformer)
        for parameter in (*part.parameters(), *part.buffers())
    )
    assert within(plan.peak("full"), weights + measured)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[LayerFlowPipeline, Plan]]:
    """A pipeline of each family and its plan, at a size where activations are more than weights."""
    made = {}
    for family in FRAMES:
        pipeline, folder = build(family), tmp_path_factory.mktemp("models") / family
        pipeline.save_pretrained(folder)
        size = {name.removeprefix("num_"): value for name, value in LARGER[family].items()}
        made[family] = pipeline, plan_run(folder, dtype=torch.float32, **size)
    return made


@families
def test_the_plan_of_the_transformer_is_its_measured_peak(
    planned: dict, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, plan = planned[family]
    peaks = []

    def without_scratch(query: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        """The output alone: what an attention kernel takes for itself grows with its threads."""
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
    kept = 2 * plan.layout.length * 4 * (plan.height // 8) * (plan.width // 8) * 4  # sequence and noisy latents
    assert within(plan.parts["transformer"].activations, max(peaks) + kept)


def _own_bytes(value: object) -> int:
    return value.nbytes if isinstance(value, torch.Tensor) else 0


@families
@pytest.mark.parametrize("tiled", [False, True], ids=["whole", "tiled"])
def test_the_plan_of_the_autoencoder_is_its_measured_peak(
    planned: dict, family: str, tiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, plan = planned[family]
    real = nn.functional.conv3d

    def without_scratch(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        """The output alone: what a convolution library takes for itself differs from machine to machine."""
        shape = real(input.to("meta"), weight.to("meta"), None, stride, padding, dilation, groups).shape
        return torch.zeros(shape)

    monkeypatch.setattr(nn.functional, "conv3d", without_scratch)
    monkeypatch.setattr(pipeline.vae, "use_tiling", tiled)
    size = plan.layout.length, 4, plan.height // 8, plan.width // 8
    sequence = torch.zeros(1, *size)
    measured = measured_peak(lambda: pipeline.codec.decode(sequence, plan.layout, plan.layout.clips))
    assert within(plan.tiled_activations if tiled else plan.parts["vae"].activations, measured)


def test_live_bytes_counts_a_storage_once_and_until_it_is_freed() -> None:
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
def test_each_memory_setting_needs_less_than_the_one_before(planned: dict, family: str) -> None:
    _, plan = planned[family]
    peaks = [plan.peak(memory) for memory in MEMORY]
    assert peaks == sorted(peaks, reverse=True)
    assert plan.step_flops == 2 * plan.parts["transformer"].flops
    assert plan.seconds(1e-6) == pytest.approx(plan.flops / 1e6)
    with pytest.raises(ValueError, match="memory must be one of"):
        plan.peak("least")


def test_auto_takes_the_fastest_setting_that_fits(planned: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plan = planned["wan"]
    assert choose_memory(plan, "cpu") == "full"
    for memory in MEMORY:
        free = plan.peak(memory) / placement.HEADROOM + 1
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 0))
        assert choose_memory(plan, "cuda:0") == memory
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 0))
    assert choose_memory(plan, "cuda") == MEMORY[-1]


def latents(pipeline: LayerFlowPipeline) -> torch.Tensor:
    return pipeline(**PROMPTS, generator=torch.Generator().manual_seed(0), output_type="latent").videos


@families
@pytest.mark.parametrize("memory", MEMORY)
def test_memory_settings_keep_the_result(family: str, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, pipeline, calls = latents(build(family)), build(family), []
    for name in ("enable_model_cpu_offload", "enable_group_offload"):
        monkeypatch.setattr(pipeline, name, lambda *args, _name=name, **kwargs: calls.append(_name))
    place(pipeline, "cpu", memory)
    assert calls == {"full": [], "low": ["enable_model_cpu_offload"], "lowest": ["enable_group_offload"]}[memory]
    assert pipeline.vae.use_tiling == (memory != "full")
    cast = pipeline.transformer.proj_out.weight.dtype == torch.float8_e4m3fn or any(
        parameter.dtype == torch.float8_e4m3fn for parameter in pipeline.transformer.parameters()
    )
    assert cast == (memory == "lowest")
    tolerance = 0.2 if cast else 1e-6  # 8 bits have 3 of mantissa
    assert float((latents(pipeline) - expected).abs().mean()) <= tolerance * float(expected.std())


@families
@pytest.mark.parametrize("kind", ["group", "model"])
def test_every_kind_of_offload_runs_the_whole_pipeline(family: str, kind: str) -> None:
    expected, pipeline = latents(build(family)), build(family)
    if kind == "group":
        pipeline.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    else:
        pipeline.enable_model_cpu_offload(device="cpu")
    assert torch.allclose(latents(pipeline), expected, atol=1e-5)


def test_after_an_error_the_cache_is_empty() -> None:
    pipeline = build("wan")
    place(pipeline, "cpu", speed=["cache"])

    def fail(*_: object) -> dict:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline(**PROMPTS, callback_on_step_end=fail)
    pipeline(**PROMPTS, height=64, width=96)  # a left residual would have another shape


@families
def test_speed_settings_are_taken(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = build(family)
    expected = latents(pipeline)
    compiled = []
    monkeypatch.setattr(pipeline.transformer, "compile_repeated_blocks", lambda **kwargs: compiled.append(kwargs))
    # Choosing a backend also makes it the default of every other model.
    monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", _AttentionBackendRegistry._active_backend)
    place(pipeline, "cpu", speed=["compile", "attention=_native_math"])
    assert compiled == [{"fullgraph": True}]
    assert torch.allclose(latents(pipeline), expected, atol=1e-4)
    place(pipeline, "cpu", speed=["cache"])
    assert pipeline.transformer.is_cache_enabled
    processors = [module.processor for module in pipeline.transformer.modules() if hasattr(module, "processor")]
    backends = {getattr(processor, "_attention_backend", None) for processor in processors}
    assert {getattr(backend, "value", backend) for backend in backends} == {"_native_math"}
    calls: list[int] = []
    blocks = pipeline.transformer.blocks if family == "wan" else pipeline.transformer.transformer_blocks
    blocks[-1].attn1.register_forward_hook(lambda *_: calls.append(1))
    pipeline.transformer.disable_cache()
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))  # all steps but the first leave it out
    for _ in range(2):  # a second run starts anew
        calls.clear()
        latents(pipeline)
        assert len(calls) == 2  # with prompts and without


@families
@pytest.mark.parametrize("speed", [["compile", "cache"], ["compile"]], ids="+".join)
def test_compiled_blocks_run_with_caches_and_group_offload(
    family: str, speed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, pipeline = latents(build(family)), build(family)
    real = pipeline.transformer.compile_repeated_blocks
    monkeypatch.setattr(
        pipeline.transformer, "compile_repeated_blocks", lambda **kwargs: real(backend="eager", **kwargs)
    )
    place(pipeline, "cpu", "full" if "cache" in speed else "lowest", speed)
    assert latents(pipeline).isfinite().all()
    assert latents(pipeline).shape == expected.shape


def test_unknown_settings_are_refused_before_anything_is_loaded(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LayerFlowPipeline, "from_pretrained", lambda *_, **__: pytest.fail("loaded before checking"))
    command = ["generate", "--foreground", "a", "--background", "b", "--model", str(tiny_model), "-o"]
    for name, value in (("--speed", "warp"), ("--speed", "attention="), ("--memory", "none"), ("--dtype", "float8")):
        assert run([*command, str(tmp_path / "out"), name, value]) == 2
        assert f"{name} {value} is not known" in capsys.readouterr().err


def test_what_this_machine_does_not_have_is_said(
    tiny_pipeline: LayerFlowPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PlacementError, match="--speed attention=nonsense"):
        place(tiny_pipeline, "cpu", speed=["attention=nonsense"])
    monkeypatch.setattr(placement, "find_spec", lambda _: None)
    with pytest.raises(PlacementError, match="--speed int8 wants torchao"):
        place(tiny_pipeline, "cpu", speed=["int8"])
    with pytest.raises(PlacementError, match="memory must be one of full, low, lowest"):
        place(tiny_pipeline, "cpu", "none")


def test_info_prints_the_plan(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", str(tiny_model), "--plan", "--size", "32x16", "--frames", "3", "--tflops", "0.1"]) == 0
    shown = capsys.readouterr().out
    for line in ("4 clips of 3 frames of 32x16", "tokens of video", "--memory lowest", "at 0.1 TFLOP/s"):
        assert line in shown
    assert run(["info", str(tiny_model), "--plan", "--size", "33x16"]) == 2
    assert "the nearest is 32x16" in capsys.readouterr().err
    assert run(["info", str(tiny_model), "--plan", "--dtype", "float8"]) == 2


def test_the_full_size_benchmark_runs_tiny_and_writes_what_can_be_planned(tmp_path: Path) -> None:
    script = [sys.executable, str(Path(__file__).parents[1] / "benchmarks" / "full_size.py")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    shown = subprocess.run(
        [*script, "--tiny", "--device", "cpu", "--repeats", "1", "--only", "plain", "cache"],
        check=True, capture_output=True, text=True, env=environment,
    ).stdout  # fmt: skip
    lines = [line for line in shown.splitlines() if line.startswith(("plain", "cache"))]
    assert len(lines) == 2
    assert not any("not here" in line for line in lines)
    subprocess.run([*script, "--write", str(tmp_path / "2b")], check=True, env=environment)
    transformer, vae = skeleton(tmp_path / "2b")
    assert vae is not None
    assert SequenceCodec.of(transformer, vae).trained_size == (16, 480, 720)


def test_out_of_memory_names_the_switches() -> None:
    from layerflow.cli.errors import exit_code, sentence

    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    assert exit_code(error) == 1
    assert "try --memory low or --memory lowest, fewer --frames or a smaller --size" in sentence(error)


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"avx512_f": True}, "float32"),
        ({}, "float32"),
    ],
)
def test_a_processor_that_computes_in_bfloat16_does(
    capabilities: dict[str, bool], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = model_facts(Path(find_model("mini")))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert pick_dtype("auto", "cpu", facts) == dtype
    assert pick_dtype("float32", "cpu", facts) == "float32"  # what is asked for
    assert pick_dtype("auto", "cuda", facts) == "float32"  # the mini gains nothing there
