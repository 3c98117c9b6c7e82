"""Shared by the benchmarks: medians, a random model, the rate of the machine's matrix product."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from layerflow.core.schema import LAYERS
from layerflow.generation.load import load_pipeline, model_folder, quiet_libraries
from layerflow.models.layout import Layout
from layerflow.pipeline import LayerFlowPipeline

GUIDED = 2
"""Samples in a forward pass of a guided step: with prompts and without."""


def median_seconds(call: Callable[[], object], repeats: int, warm_up: int = 1) -> float:
    """Return the median wall-clock seconds of a call, after `warm_up` calls that are not counted."""
    times = []
    for index in range(warm_up + repeats):
        wait()
        start = time.perf_counter()
        call()
        wait()
        if index >= warm_up:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def wait() -> None:
    """Wait for an accelerator to finish."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def load(model: str, device: str, dtype: str) -> LayerFlowPipeline:
    """Load the pipeline of a model, without progress bars."""
    quiet_libraries()
    return load_pipeline(model_folder(model), device, dtype)


def denoiser_step(pipeline: LayerFlowPipeline, frames: int, height: int, width: int) -> Callable[[], torch.Tensor]:
    """Return a forward pass of the denoiser in a guided step, on random input."""
    model = pipeline.transformer
    generator = torch.Generator().manual_seed(0)
    layout = Layout(frames, tuple(model.config.clips))
    like = {"device": model.device, "dtype": model.dtype}
    shape = (GUIDED, layout.length, model.config.in_channels, height, width)
    latents = torch.randn(shape, generator=generator).to(**like)
    timestep = torch.full((GUIDED, len(layout.clips), 1), 0.5).to(**like)
    text = torch.randn(GUIDED, len(LAYERS), 12, model.config.text_dim, generator=generator).to(**like)
    mask = torch.ones(GUIDED, len(LAYERS), 12, dtype=torch.bool, device=model.device)

    @torch.no_grad()
    def step() -> torch.Tensor:
        return model(latents, timestep, text, mask, layout).sample

    return step


def flops_of(call: Callable[[], object]) -> int:
    """Count floating-point operations of a call: matrix products, convolutions and attention."""
    # torch 2.13 does not know this one by itself.
    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        call()
    return counter.get_total_flops()


def _attention_flops(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], *_: object, **__: object) -> int:
    return sdpa_flop_count(q, k, v)


def matmul_rate(device: str, dtype: torch.dtype, repeats: int, size: int = 2048) -> float:
    """Measure FLOP/s of a square matrix product, the peak of this machine."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / median_seconds(lambda: a @ b, repeats)
