"""Placement of a pipeline: device, offloading, quantisation, compilation, and several processes for one video.

Every setting is a switch of diffusers or torch; this module gives them names and checks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import product
from typing import Any

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig, FirstBlockCacheConfig
from torch import nn

from ..core.errors import UserError, first_line
from ..models.backbone import is_delicate, prompt_prefixes
from ..pipeline import LayerFlowPipeline
from .plan import MEMORY, Plan

SPEED = {
    "compile": "the transformer's repeated blocks are compiled; the first step takes long",
    "cache": "steps that change little in the first block reuse the others' result (first block cache)",
    "int8": "weights of linear layers in 8-bit integers (requires torchao)",
    "fp8": "linear layers in 8-bit floating point (requires torchao and a GPU that supports it)",
    "attention=NAME": "another attention backend of diffusers, such as attention=flash or attention=sage",
}
QUANTISED = ("int8", "fp8")
QUANTISED_SIDE = 16
"""Divisor of both sides of a matrix that 8-bit matrix products require."""
FP8_CAPABILITY = (8, 9)
"""Compute capability of the first NVIDIA GPUs that multiply matrices in 8-bit floating point."""
CACHE_THRESHOLD = 0.05
"""Relative change of the first block's output below which the other blocks are skipped."""
HEADROOM = 0.9
"""Share of free memory that a plan may fill: allocators leave gaps."""


class PlacementError(UserError):
    """A setting that is unknown, or that this machine or model does not support."""


def cpu_has_bfloat16() -> bool:
    """Return True if this processor multiplies in bfloat16, and thus faster than in float32."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # missing in older versions of torch
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def check_speed(speed: Sequence[str], device: str | None = None) -> None:
    """Raise PlacementError for a name that is not in `SPEED`, or whose requirements are not met.

    Requirements on the device are checked only if `device` is given.
    """
    for name in speed:
        if name not in SPEED and not (name.startswith("attention=") and name != "attention="):
            raise PlacementError(f"`speed` {name} is not known; choose {', '.join(SPEED)}")
        if name in QUANTISED and find_spec("torchao") is None:
            raise PlacementError(f"`speed` {name} requires torchao: pip install 'layerflow[quantize]'")
    if set(QUANTISED) <= set(speed):
        raise PlacementError("`speed` int8 and `speed` fp8 are two formats for the same weights; choose one")
    if "fp8" in speed and device is not None and not _has_fp8(torch.device(device)):
        raise PlacementError(
            f"`speed` fp8 computes in 8-bit floating point, which {device} here does not support; it requires an "
            "NVIDIA GPU of the Ada or Hopper generation or later; choose `speed` int8, which runs everywhere"
        )


def _has_fp8(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= FP8_CAPABILITY


def choose_memory(plan: Plan, device: str) -> str:
    """Return the fastest of `MEMORY` with which a planned run fits a device's free memory; the last if none does."""
    if torch.device(device).type != "cuda":
        return MEMORY[0]
    free, _ = torch.cuda.mem_get_info(torch.device(device))
    return next((memory for memory in MEMORY if plan.peak(memory) <= HEADROOM * free), MEMORY[-1])


def place(pipeline: LayerFlowPipeline, device: str, memory: str = "full", speed: Sequence[str] = ()) -> None:
    """Place a pipeline, loaded on the CPU, on a device.

    Args:
        pipeline: the pipeline.
        device: device of the computation.
        memory: one of `MEMORY`. "full" keeps all parts on the device; "low" one part at a time, and the autoencoder
            works in tiles; "lowest" keeps one layer of a part at a time, those of transformers in 8-bit floating
            point, and the autoencoder works in tiles.
        speed: names from `SPEED`.

    Raises:
        PlacementError: a name is unknown, or a setting is not supported here; the message says why.
    """
    check_speed(speed, device)
    if memory not in MEMORY:
        raise PlacementError(f"memory must be one of {', '.join(MEMORY)}, got {memory!r}")
    transformers, target = pipeline.transformers.values(), torch.device(device)
    if target.type == "cuda":
        torch.cuda.set_device(target)  # streams and kernels without an explicit device use the current one
    for name, transformer in product(speed, transformers):
        if name in QUANTISED:
            _quantize(transformer, name)
    if memory == "full":
        pipeline.to(target)
    else:
        if pipeline.vae is not None:
            pipeline.vae.enable_tiling()
            pipeline.vae.enable_slicing()
        if memory == "low":
            pipeline.enable_model_cpu_offload(device=target)
        else:
            if not set(QUANTISED) & set(speed):
                for transformer in transformers:
                    transformer.enable_layerwise_casting(torch.float8_e4m3fn, transformer.dtype)
            pipeline.enable_group_offload(target, offload_type="leaf_level", use_stream=target.type == "cuda")
    for name, transformer in product(speed, transformers):
        if name.startswith("attention="):
            try:
                transformer.set_attention_backend(name.removeprefix("attention="))
            except (ValueError, RuntimeError, ImportError) as error:
                raise PlacementError(f"`speed` {name}: {first_line(error)}") from error
        elif name == "cache":
            transformer.enable_cache(FirstBlockCacheConfig(threshold=CACHE_THRESHOLD))
        elif name == "compile":
            # Caching and group offloading act inside a block, where torch must break the graph.
            transformer.compile_repeated_blocks(fullgraph=memory != "lowest" and "cache" not in speed)


def parallelise(pipeline: LayerFlowPipeline, split_guidance: bool = True) -> None:
    """Split the work on each video among the processes of `torchrun`; all of them make the same calls.

    With an even number of processes, one half computes the conditional and the other the unconditional prediction,
    unless `split_guidance` is off; the processes of a half split the sequence (Ulysses, arXiv 2309.14509). All get the
    same result, if their generators have the same seed.

    Raises:
        PlacementError: attention heads or tokens do not divide among the processes that split a sequence, or a setting
            does not work with several processes.
    """
    size = dist.get_world_size()
    split = split_guidance and size % 2 == 0 and not pipeline.transformer.conventions.batched_guidance
    halves = 2 if split else 1
    share = size // halves
    if share > 1:
        _check_share(pipeline.transformer, size, share)
    device = pipeline._execution_device.type
    mesh = dist.init_device_mesh(device, (halves, 1, share), mesh_dim_names=("guidance", "ring", "ulysses"))
    if share > 1:
        config = ContextParallelConfig(ulysses_degree=share, mesh=mesh["ring", "ulysses"])
        try:
            for transformer in pipeline.transformers.values():
                transformer.enable_parallelism(config=config)
        except ValueError as error:  # an attention backend without support for it
            raise PlacementError(f"{size} processes: {first_line(error)}") from error
    if split:
        pipeline.guidance_group = mesh["guidance"].get_group()


def _check_share(transformer: Any, size: int, share: int) -> None:
    """Raise PlacementError if a sequence cannot be split among processes."""
    processes = f"{size} processes are {share} for a sequence"
    if transformer._cp_plan is None:
        raise PlacementError(f"{processes}, but this model is too small to be split; start one")
    if transformer.is_cache_enabled:
        raise PlacementError(f"{processes}, which would skip different blocks; leave out `speed` cache")
    counts = {"attention heads": transformer.config.num_attention_heads}
    if transformer.conventions.attend_padding:  # text is part of the split sequence
        counts["tokens of text"] = len(prompt_prefixes(transformer.config)) * transformer.config.text_length
    for name, count in counts.items():
        if count % share:
            raise PlacementError(
                f"{processes}, which do not divide the {count} {name} of this model; start another number"
            )


def _quantize(transformer: Any, name: str) -> None:
    """Quantise the weights of linear layers to 8 bits, except delicate ones and shapes that 8-bit kernels refuse."""
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, Int8WeightOnlyConfig, quantize_

    def takes(module: nn.Module, path: str) -> bool:
        fits = isinstance(module, nn.Linear) and not any(side % QUANTISED_SIDE for side in module.weight.shape)
        return fits and not is_delicate(transformer, path)

    config = Int8WeightOnlyConfig() if name == "int8" else Float8DynamicActivationFloat8WeightConfig()
    quantize_(transformer, config, takes)
