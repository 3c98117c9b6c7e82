"""Time and memory of a full-size model: CogVideoX-2B with layers, four clips of 16 frames at 720x480, random weights.

    python benchmarks/full_size.py --device cuda [--dtype bfloat16] [--only plain compile ...]
    python benchmarks/full_size.py --tiny        # the same code at a tiny size, on any CPU
    python benchmarks/full_size.py --write out/2b && layerflow info out/2b --plan   # plan it without any weights

Prints seconds of a guided step and of 50, the peaks of memory, and TFLOP/s beside those of a large matrix product in
the same run, plain and with each speed and memory setting. Text states are random; the text encoder is not run. With
`cache`, a step is the mean of a run of 50 on noise, because the skipped work depends on how little changes.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from common import matmul_rate, median_seconds, wait
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from transformers import T5Config

from layerflow.generation.load import quiet_libraries
from layerflow.models.cogvideox.sampler import DynamicGuidance, LayerFlowDPMScheduler
from layerflow.models.cogvideox.transformer import CogVideoXLayerTransformer3DModel
from layerflow.pipeline import LayerFlowPipeline
from layerflow.runtime.cost import cost_of
from layerflow.runtime.placement import PlacementError, place

STEPS = 50
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "attention=_native_flash": {"speed": ["attention=_native_flash"]},
    "attention=_native_cudnn": {"speed": ["attention=_native_cudnn"]},
    "compile": {"speed": ["compile"]},
    "cache": {"speed": ["cache"]},
    "int8": {"speed": ["int8"]},
    "fp8": {"speed": ["fp8"]},
    "fp8 compile": {"speed": ["fp8", "compile"]},
    "memory low": {"memory": "low"},
    "memory lowest": {"memory": "lowest"},
}
TINY = {
    "sample_size": (4, 6), "num_attention_heads": 2, "attention_head_dim": 16, "time_embed_dim": 16,
    "text_embed_dim": 16, "num_layers": 2, "text_length": 8, "in_channels": 4, "out_channels": 4,
}  # fmt: skip
TINY_AUTOENCODER = {
    "block_out_channels": (8, 8, 8, 8), "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 2,
    "sample_height": 32, "sample_width": 48,
}  # fmt: skip


@dataclass(frozen=True)
class Figures:
    """Measurements of one setting."""

    step_seconds: float
    step_peak: int
    """Peak of a step in bytes; 0 where torch does not count them."""
    decode_seconds: float | None
    """Peak of decoding; None where the autoencoder ran out of memory."""
    decode_peak: int


def build(tiny: bool, dtype: torch.dtype, device: str = "cpu") -> LayerFlowPipeline:
    """Return the pipeline without text encoder, with random weights."""
    torch.manual_seed(0)
    with torch.device(device):
        transformer = CogVideoXLayerTransformer3DModel(**(TINY if tiny else {})).to(dtype).eval()
        vae = AutoencoderKLCogVideoX(scaling_factor=1.15258426, **(TINY_AUTOENCODER if tiny else {})).to(dtype).eval()
    pipeline = LayerFlowPipeline(None, None, transformer.cpu(), LayerFlowDPMScheduler(), vae.cpu())  # type: ignore[arg-type]
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def step_of(pipeline: LayerFlowPipeline, device: str) -> tuple[Callable[[], torch.Tensor], torch.Tensor]:
    """Return a guided step of the pipeline's denoiser, and a sequence for it."""
    config = pipeline.transformer.config
    frames, height, width = pipeline.codec.trained_size
    layout = pipeline.codec.check(frames, height, width)
    generator = torch.Generator().manual_seed(0)
    shape = (1, layout.length, config.in_channels, *config.sample_size)
    sequence = torch.randn(shape, generator=generator).to(device)
    text = torch.randn(1, 3, config.text_length, config.text_embed_dim, generator=generator)
    text = text.to(device, pipeline.transformer.dtype)
    mask = torch.ones(text.shape[:3], dtype=torch.bool, device=device)
    times = torch.full((1, len(layout.clips), 1), 0.5, device=device)
    guider = DynamicGuidance()
    guider.set_state(0, STEPS, torch.tensor(500))
    guider.guidance_scale = 6.0

    @torch.no_grad()
    def step() -> torch.Tensor:
        uncond = torch.zeros_like(text), mask
        return pipeline.predict(pipeline.transformer, sequence, times, (text, mask), uncond, layout, guider)

    return step, sequence


def measure(tiny: bool, dtype: torch.dtype, device: str, repeats: int, setting: dict[str, Any]) -> Figures:
    """Build, place and run one setting."""
    pipeline = build(tiny, dtype, device)
    place(pipeline, device, **setting)
    step, sequence = step_of(pipeline, device)
    layout = pipeline.codec.layout(pipeline.codec.trained_size[0])

    @torch.no_grad()
    def decode() -> object:
        return pipeline.codec.decode(sequence, layout, layout.clips)

    reset(device)
    if "cache" in setting.get("speed", ()):
        seconds = whole_run(pipeline, sequence, step) / STEPS
    else:
        seconds = median_seconds(step, repeats)
    step_peak = peak_of(device)
    reset(device)
    try:
        decoding = median_seconds(decode, 1)
    except torch.OutOfMemoryError:
        decoding = None
    return Figures(seconds, step_peak, decoding, peak_of(device))


def whole_run(pipeline: LayerFlowPipeline, sequence: torch.Tensor, step: Callable[[], torch.Tensor]) -> float:
    """Return seconds of denoising, each step on the output of the one before."""
    pipeline.scheduler.set_timesteps(STEPS, device=sequence.device)
    generator = torch.Generator().manual_seed(1)
    step()
    pipeline.transformer._reset_stateful_cache()
    wait()
    start = time.perf_counter()
    for timestep in pipeline.scheduler.timesteps:
        sequence.copy_(pipeline.scheduler.step(step(), timestep, sequence, generator=generator, return_dict=False)[0])
    wait()
    return time.perf_counter() - start


def peak_of(device: str) -> int:
    """Return the peak in bytes since the last `reset`."""
    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else 0


def reset(device: str) -> None:
    """Reset peaks and free unused memory."""
    gc.collect()
    wait()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def write_configuration(folder: Path) -> None:
    """Write a model folder without weights, which is enough for planning."""
    with init_empty_weights():
        transformer, vae = CogVideoXLayerTransformer3DModel(), AutoencoderKLCogVideoX(scaling_factor=1.15258426)
    transformer.save_config(folder / "transformer")
    vae.save_config(folder / "vae")
    LayerFlowDPMScheduler().save_pretrained(folder / "scheduler")
    T5Config(
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=24,
        num_heads=64,
        vocab_size=32128,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
    ).save_pretrained(folder / "text_encoder")
    index = {
        "_class_name": "LayerFlowPipeline",
        "transformer": [type(transformer).__module__, type(transformer).__name__],
        "scheduler": [LayerFlowDPMScheduler.__module__, LayerFlowDPMScheduler.__name__],
        "vae": ["diffusers", type(vae).__name__],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--repeats", type=int, default=3, help="the median of so many steps is printed")
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--tiny", action="store_true", help="a tiny network, to see that all of this runs")
    parser.add_argument("--write", type=Path, metavar="DIR", help="only write the configuration, as a model folder")
    options = parser.parse_args(arguments)
    quiet_libraries()
    if options.write:
        write_configuration(options.write)
        return
    dtype, device = getattr(torch, options.dtype), options.device
    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    rate = matmul_rate(device, dtype, 5, 512 if options.tiny else 8192) / 1e12
    print(f"torch {torch.__version__}, {device} ({name}), {options.dtype}, matrix product {rate:.1f} TFLOP/s")

    pipeline = build(options.tiny, dtype)
    frames, height, width = pipeline.codec.trained_size
    meta = pipeline.to("meta")
    step, _ = step_of(meta, "meta")
    cost = cost_of(meta.transformer, step)
    parameters = cost.parameters / 1e6
    peak = (cost.weights + cost.activations) / 2**30
    print(f"{parameters:.0f} M parameters, 4 clips of {frames} frames of {width}x{height}")
    print(f"a guided step: {cost.flops / 1e12:.3g} TFLOP, planned peak {peak:.2f} GiB\n")
    print(f"{'':24}  s/step    50 steps  TFLOP/s  of product  GiB step  GiB decode  s decode  speed")
    plain, backend = 0.0, _AttentionBackendRegistry._active_backend
    for setting in options.only:
        try:
            found = measure(options.tiny, dtype, device, options.repeats, SETTINGS[setting])
        except (PlacementError, RuntimeError, ImportError, ValueError) as error:
            print(f"{setting:24}  not here: {str(error).strip().splitlines()[0][:90]}")
            continue
        finally:
            _AttentionBackendRegistry._active_backend = backend  # choosing one makes it the default of later models
            reset(device)
        plain = plain or found.step_seconds
        reached = cost.flops / found.step_seconds / 1e12
        decoding = "no memory" if found.decode_seconds is None else f"{found.decode_seconds:.2f}"
        print(
            f"{setting:24}{found.step_seconds:8.3f}{found.step_seconds * STEPS:12.1f}{reached:9.1f}"
            f"{reached / rate:12.0%}{found.step_peak / 2**30:10.2f}{found.decode_peak / 2**30:12.2f}"
            f"{decoding:>10}{plain / found.step_seconds:7.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
