"""Placement: memory and speed settings take effect and keep results; for plans see test_plan.py."""

import runpy
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload
from diffusers import FirstBlockCacheConfig
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from forked import fork
from full_size import FRAMES, blocks_of, build, random_video
from torch import nn

from layerflow import LayerFlowPipeline
from layerflow.cli import run
from layerflow.core.layered_video import LayeredVideo
from layerflow.generation.load import model_facts, pick_dtype
from layerflow.mini.network.transformer import CompactTransformer3DModel
from layerflow.models.codec import SequenceCodec
from layerflow.models.folders import find_model
from layerflow.models.registry import skeleton
from layerflow.runtime import placement
from layerflow.runtime.placement import PlacementError, check_speed, place
from layerflow.runtime.plan import MEMORY

families = pytest.mark.parametrize("family", FRAMES)
PROMPTS = {"foreground": "a red fox", "background": "green hills", "num_inference_steps": 2}


def latents(pipeline: LayerFlowPipeline) -> torch.Tensor:
    return pipeline(**PROMPTS, generator=torch.Generator().manual_seed(0), output_type="latent").videos


def all_blocks(pipeline: LayerFlowPipeline) -> list[nn.Module]:
    return [block for blocks in blocks_of(pipeline) for block in blocks]


def is_close(pipeline: LayerFlowPipeline, expected: torch.Tensor, tolerance: float) -> bool:
    """Return True if results differ on average by at most a share of their standard deviation."""
    return float((latents(pipeline) - expected).abs().mean()) <= tolerance * float(expected.std())


@families
@pytest.mark.parametrize("memory", MEMORY)
def test_memory_settings_keep_the_result(family: str, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, pipeline, calls = latents(build(family)), build(family), []
    for name in ("enable_model_cpu_offload", "enable_group_offload"):
        monkeypatch.setattr(pipeline, name, lambda *args, _name=name, **kwargs: calls.append(_name))
    place(pipeline, "cpu", memory)
    assert calls == {"full": [], "low": ["enable_model_cpu_offload"], "lowest": ["enable_group_offload"]}[memory]
    assert pipeline.vae.use_tiling == pipeline.vae.use_slicing == (memory != "full")
    waiting = {block.attn1.to_q.weight.dtype for block in all_blocks(pipeline)}
    assert waiting == {torch.float8_e4m3fn if memory == "lowest" else torch.float32}
    # 8 bits have 3 of mantissa; that it runs at all tells that layers compute in another format, for a CPU has no fp8
    assert is_close(pipeline, expected, 0.2 if memory == "lowest" else 1e-6)
    assert {block.attn1.to_q.weight.dtype for block in all_blocks(pipeline)} == waiting


def test_lowest_memory_prefetches_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, calls = build("wan"), []
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(pipeline, "enable_group_offload", lambda *args, **kwargs: calls.append((args, kwargs)))
    place(pipeline, "cuda:1", "lowest")
    assert calls == [((torch.device("cuda:1"),), {"offload_type": "leaf_level", "use_stream": True})]


@families
@pytest.mark.parametrize("memory", ["full", "low"])
def test_autoencoder_is_tiled_and_sliced(family: str, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, samples, tiled = build(family), [], []
    place(pipeline, "cpu", memory)
    monkeypatch.setattr(pipeline.vae, "tile_sample_min_height", 16)  # Wan's are larger than these videos
    monkeypatch.setattr(pipeline.vae, "tile_sample_min_width", 16)
    if family.startswith("wan"):
        monkeypatch.setattr(pipeline.vae, "tile_sample_stride_height", 8)
        monkeypatch.setattr(pipeline.vae, "tile_sample_stride_width", 8)
    one, in_tiles = pipeline.vae._decode, pipeline.vae.tiled_decode
    monkeypatch.setattr(pipeline.vae, "_decode", lambda z, **kwargs: samples.append(len(z)) or one(z, **kwargs))
    monkeypatch.setattr(pipeline.vae, "tiled_decode", lambda z, **kwargs: tiled.append(1) or in_tiles(z, **kwargs))
    videos = pipeline(**PROMPTS | {"foreground": ["a red fox", "a whale"]}).videos
    assert len(videos) == 2
    assert set(samples) == {1 if memory == "low" else 2}
    assert len(tiled) == (len(samples) if memory == "low" else 0)


@families
@pytest.mark.parametrize("kind", ["group", "model", "sequential"])
def test_offloading_keeps_the_result(family: str, kind: str) -> None:
    expected, pipeline = latents(build(family)), build(family)
    if kind == "group":
        pipeline.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    elif kind == "model":
        pipeline.enable_model_cpu_offload(device="cpu")
    else:
        # As enable_sequential_cpu_offload does it, which calls a CPU cpu:0; torch copies a tensor to go there, and what
        # was a parameter comes back as none.
        for part in (pipeline.text_encoder, *pipeline.transformers.values(), pipeline.vae):
            cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)
        assert {parameter.device.type for parameter in pipeline.transformer.parameters()} == {"meta"}
    for _ in range(2):
        assert torch.allclose(latents(pipeline), expected, atol=1e-5)


@families
def test_model_offload_encodes_given_clips_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, order = build(family), []
    place(pipeline, "cpu", "low")
    pipeline.vae.disable_tiling()  # the last tile of so small a video is smaller than a kernel
    whole = random_video(pipeline)
    for hook in pipeline._all_hooks:
        name = next(name for name, part in pipeline.components.items() if part is hook.model)
        monkeypatch.setattr(hook, "offload", lambda name=name: order.append(f"{name} leaves"))
    encode = pipeline.vae.encode
    monkeypatch.setattr(pipeline.vae, "encode", lambda x: order.append("encode") or encode(x))
    pipeline.transformer.register_forward_pre_hook(lambda *_: order.append("transformer"))
    pipeline(**PROMPTS, given=LayeredVideo(background=whole.background))
    encoding, denoising = order.index("encode"), order.index("transformer")
    assert "text_encoder leaves" in order[:encoding]
    assert {"text_encoder leaves", "vae leaves"} <= set(order[encoding:denoising])


@families
@pytest.mark.parametrize("memory", ["full", "lowest"])
def test_int8_keeps_the_result(family: str, memory: str) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    expected, pipeline = latents(build(family)), build(family)
    place(pipeline, "cpu", memory, ["int8"])
    for block in all_blocks(pipeline):
        for layer in (block.attn1.to_q, block.attn1.to_out[0]):
            assert isinstance(layer.weight, quantization.Int8Tensor)
            assert layer.weight.qdata.dtype == torch.int8
    for transformer in pipeline.transformers.values():
        for name, module in transformer.named_modules():
            if ("norm" in name or "embed" in name) and "time_embedding" not in name:
                assert not isinstance(getattr(module, "weight", None), quantization.Int8Tensor), name
    assert not torch.equal(latents(pipeline), expected)
    assert is_close(pipeline, expected, 0.02)


@pytest.mark.parametrize("memory", ["low", "lowest"])
def test_memory_settings_of_the_mini(tiny_pipeline: LayerFlowPipeline, memory: str) -> None:
    expected = latents(tiny_pipeline)
    place(tiny_pipeline, "cpu", memory)
    assert is_close(tiny_pipeline, expected, 0.5 if memory == "lowest" else 1e-6)


def test_int8_of_the_mini(tiny_pipeline: LayerFlowPipeline) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    expected = latents(tiny_pipeline)
    place(tiny_pipeline, "cpu", speed=["int8"])
    assert any(isinstance(weight, quantization.Int8Tensor) for weight in tiny_pipeline.transformer.parameters())
    assert is_close(tiny_pipeline, expected, 0.05)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_fp8_needs_hardware_support(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchao")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    with pytest.raises(PlacementError, match=f"`speed` fp8 .* {device} here does not support; .* choose `speed` int8"):
        place(build("wan"), device, speed=["fp8"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    check_speed(["fp8"], "cuda")
    with pytest.raises(PlacementError, match="two formats for the same weights"):
        check_speed(["fp8", "int8"])


def test_fp8_quantises_the_same_layers_as_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    quantised = {}

    def quantize(model: nn.Module, config: object, takes: Callable[[nn.Module, str], bool]) -> None:
        quantised[type(config).__name__] = [name for name, module in model.named_modules() if takes(module, name)]

    monkeypatch.setattr(quantization, "quantize_", quantize)
    for name in ("int8", "fp8"):
        placement._quantize(build("cogvideox").transformer, name)
    int8, fp8 = quantised["Int8WeightOnlyConfig"], quantised["Float8DynamicActivationFloat8WeightConfig"]
    assert int8 == fp8
    assert "transformer_blocks.1.ff.net.2" in fp8
    assert not any("norm" in name or "patch_embed" in name for name in fp8)


def test_cache_is_empty_after_an_error() -> None:
    pipeline = build("wan")
    place(pipeline, "cpu", speed=["cache"])

    def fail(*_: object) -> dict:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline(**PROMPTS, callback_on_step_end=fail)
    pipeline(**PROMPTS, height=64, width=96)  # a left residual would have another shape


@families
def test_speed_settings_take_effect(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = build(family)
    expected = latents(pipeline)
    compiled = []
    for transformer in pipeline.transformers.values():
        monkeypatch.setattr(transformer, "compile_repeated_blocks", lambda **kwargs: compiled.append(kwargs))
    # Choosing a backend also makes it the default of every other model.
    monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", _AttentionBackendRegistry._active_backend)
    place(pipeline, "cpu", speed=["compile", "attention=_native_math"])
    assert compiled == [{"fullgraph": True}] * len(pipeline.transformers)
    assert torch.allclose(latents(pipeline), expected, atol=1e-4)
    place(pipeline, "cpu", speed=["cache"])
    assert all(transformer.is_cache_enabled for transformer in pipeline.transformers.values())
    modules = [module for block in all_blocks(pipeline) for module in block.modules()]
    processors = [module.processor for module in modules if hasattr(module, "processor")]
    backends = {getattr(processor, "_attention_backend", None) for processor in processors}
    assert {getattr(backend, "value", backend) for backend in backends} == {"_native_math"}
    calls: list[int] = []
    for *_, last in blocks_of(pipeline):
        last.attn1.register_forward_hook(lambda *_: calls.append(1))
    for transformer in pipeline.transformers.values():
        transformer.disable_cache()
        transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))  # all its steps but the first leave it out
    for _ in range(2):  # a second run starts anew
        calls.clear()
        pipeline(**PROMPTS | {"num_inference_steps": 6}, output_type="latent")
        assert len(calls) == 2 * len(pipeline.transformers)  # with prompts and without


@families
@pytest.mark.parametrize("speed", [["compile", "cache"], ["compile"]], ids="+".join)
def test_compile_with_cache_and_group_offload(family: str, speed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    expected, pipeline = latents(build(family)), build(family)
    for transformer in pipeline.transformers.values():
        real = partial(transformer.compile_repeated_blocks, backend="eager")
        monkeypatch.setattr(transformer, "compile_repeated_blocks", real)
    place(pipeline, "cpu", "full" if "cache" in speed else "lowest", speed)
    assert latents(pipeline).isfinite().all()
    assert latents(pipeline).shape == expected.shape


def test_unknown_settings_are_refused_before_loading(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LayerFlowPipeline, "from_pretrained", lambda *_, **__: pytest.fail("loaded before checking"))
    command = ["generate", "--foreground", "a", "--background", "b", "--model", str(tiny_model), "-o"]
    for name, value in (("--speed", "warp"), ("--speed", "attention="), ("--memory", "none"), ("--dtype", "float8")):
        assert run([*command, str(tmp_path / "out"), name, value]) == 2
        error = capsys.readouterr().err
        assert name in error
        assert value in error
        assert "is not known" in error or "must be one of" in error


def test_unavailable_settings_are_errors(tiny_pipeline: LayerFlowPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlacementError, match="`speed` attention=nonsense"):
        place(tiny_pipeline, "cpu", speed=["attention=nonsense"])
    monkeypatch.setattr(placement, "find_spec", lambda _: None)
    with pytest.raises(PlacementError, match="`speed` int8 requires torchao"):
        place(tiny_pipeline, "cpu", speed=["int8"])
    with pytest.raises(PlacementError, match="memory must be one of full, low, lowest"):
        place(tiny_pipeline, "cpu", "none")


def run_benchmark(output: Path, *arguments: str) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "full_size.py"
    sys.path.insert(0, str(script.parent))
    sys.argv = [str(script), *arguments]
    with output.open("w") as file, redirect_stdout(file):
        runpy.run_path(str(script), run_name="__main__")


def test_full_size_benchmark(tmp_path: Path) -> None:
    tiny = ("--tiny", "--device", "cpu", "--repeats", "1", "--only", "plain", "cache")
    for arguments in (tiny, ("--write", str(tmp_path / "2b"))):
        process = fork(run_benchmark, tmp_path / arguments[0], *arguments)
        process.join()
        assert process.exitcode == 0
    lines = [line for line in (tmp_path / "--tiny").read_text().splitlines() if line.startswith(("plain", "cache"))]
    assert len(lines) == 2
    assert not any("not here" in line for line in lines)
    transformer, vae, *_ = skeleton(tmp_path / "2b")
    assert vae is not None
    assert SequenceCodec.of(transformer, vae).trained_size == (16, 480, 720)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
    ids=lambda error: str(error)[:16],
)
def test_out_of_memory_names_remedies(
    error: Exception, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(CompactTransformer3DModel, "forward", fail)
    command = ["generate", "--foreground", "a", "--background", "b", "--model", str(tiny_model), "--device", "cpu"]
    assert run([*command, "-o", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "out of memory; set --memory to low or lowest, or ask for fewer --frames or a smaller --size" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"avx512_f": True}, "float32"),
        ({}, "float32"),
    ],
)
def test_auto_dtype_on_a_cpu(capabilities: dict[str, bool], dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = model_facts(Path(find_model("mini")))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert pick_dtype("auto", "cpu", facts) == dtype
    assert pick_dtype("float32", "cpu", facts) == "float32"  # explicit
    assert pick_dtype("auto", "cuda", facts) == "float32"  # the mini gains nothing there
