"""Planned and measured peaks of memory at small sizes: `python tests/peaks.py` prints both as JSON, in bytes.

Measured is the memory of the whole process while the pipeline runs, minus that before, without weights: it includes
scratch space of kernels. Blocks of 64 KiB and more are allocated from the system and returned at once, so that no
allocator keeps freed memory. A CPU has no second memory for offloaded weights: here they are offloaded to files.
"""

import ctypes
import gc
import json
import tempfile
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path

import full_size
import safetensors.torch
import torch
from diffusers import AutoencoderKLCogVideoX, AutoencoderKLWan
from diffusers.hooks import apply_group_offloading
from safetensors.torch import save_file
from torch import nn

from layerflow import LayerFlowPipeline
from layerflow.models.folders import find_model
from layerflow.runtime.placement import place
from layerflow.runtime.plan import MEMORY, Plan, plan_run

PROMPTS = {"foreground": "a red fox", "background": "green hills", "num_inference_steps": 2}
SIZES: dict[str, dict[str, int]] = {
    "cogvideox": {"num_frames": 8},
    "wan": {"num_frames": 5, "height": 64, "width": 96},
    "wan2.2": {"num_frames": 5, "height": 64, "width": 96},
    "mini": {"num_frames": 4, "height": 256, "width": 256, "upscale": 4},
}
TEXT = 192
LARGER = {
    "TEXT": TEXT,
    "LATENT_SIZE": (6, 8),
    "TINY_TEXT": {"vocab_size": 30522, "d_model": TEXT, "d_kv": 48, "d_ff": 512, "num_layers": 2, "num_heads": 4},
    "TINY_COGVIDEOX": full_size.TINY_COGVIDEOX | {
        "num_attention_heads": 4, "attention_head_dim": 64, "time_embed_dim": 128, "text_embed_dim": TEXT,
        "num_layers": 8,
    },
    "TINY_WAN": full_size.TINY_WAN | {
        "num_attention_heads": 4, "attention_head_dim": 64, "text_dim": TEXT, "ffn_dim": 4096, "num_layers": 4,
    },
}  # fmt: skip
"""Replacements of constants in tests/full_size.py, so that a model is larger than random variations of a process."""


def resident(peak: bool = False) -> int:
    """Return the bytes of memory that the process holds now, or held at the peak since `forget_peak`."""
    key = "VmHWM" if peak else "VmRSS"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def read_whole(file: str | Path, device: str = "cpu", load: Callable = safetensors.torch.load_file) -> dict:
    """Return the tensors of a file, all of them in memory; `load` alone maps them lazily."""
    tensors = load(file, device)
    for tensor in tensors.values():
        tensor.reshape(-1).view(torch.uint8).max()
    return tensors


class Parked:
    """A part of the model whose weights are in a file while it is not running."""

    def __init__(self, part: nn.Module, file: Path) -> None:
        self.weights, self.file = dict([*part.named_parameters(), *part.named_buffers()]), file
        save_file({name: weight.data.contiguous() for name, weight in self.weights.items()}, file)

    def leave(self) -> None:
        """Replace the weights by untouched allocations, which take no memory."""
        for weight in self.weights.values():
            weight.data = torch.empty_like(weight.data)

    def come(self) -> None:
        for name, tensor in read_whole(self.file).items():
            self.weights[name].data = tensor


def park(pipeline: LayerFlowPipeline, folder: Path) -> None:
    """Emulate model offloading: one part at a time has its weights."""
    parts = {name: Parked(part, folder / name) for name, part in modules(pipeline).items()}
    at_work: list[str] = []

    def comes(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            if at_work != [name]:
                at_work[:] = [name]
                for part in parts.values():
                    part.leave()
                parts[name].come()

        return hook

    for name, part in modules(pipeline).items():
        part.register_forward_pre_hook(comes(name))
    if pipeline.vae is not None:
        decode, arrives = pipeline.vae.decode, comes("vae")
        pipeline.vae.decode = lambda *args, **kwargs: (arrives(), decode(*args, **kwargs))[1]
    for part in parts.values():
        part.leave()


def modules(pipeline: LayerFlowPipeline) -> dict[str, nn.Module]:
    return {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}


def settle(pipeline: LayerFlowPipeline, memory: str, folder: Path) -> None:
    """Run `place` on a CPU, with files instead of the host's memory."""

    def to_disk(device: torch.device, **kwargs: object) -> None:
        for name, part in modules(pipeline).items():
            part.to(memory_format=torch.contiguous_format)  # required by files of tensors
            apply_group_offloading(part, device, offload_to_disk_path=str(folder / name), **kwargs)

    pipeline.enable_group_offload = to_disk
    pipeline.enable_model_cpu_offload = lambda **_: park(pipeline, folder)
    place(pipeline, "cpu", memory)


def load(family: str) -> LayerFlowPipeline:
    pipeline = LayerFlowPipeline.from_pretrained("mini") if family == "mini" else full_size.build(family)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def plan_of(family: str) -> Plan:
    """Return the plan of a family's run, the same for every memory setting."""
    size, factor = SIZES[family], SIZES[family].get("upscale", 1)
    sides = {side: size[side] // factor for side in ("height", "width") if side in size}
    with tempfile.TemporaryDirectory() as folder:
        if family != "mini":
            load(family).save_pretrained(folder)
        model = Path(find_model("mini") if family == "mini" else folder)
        return plan_run(model, frames=size["num_frames"], upscale=factor, dtype=torch.float32, **sides)


def measure(family: str, memory: str, weights: int = 0, **fewer: int) -> int:
    """Return the bytes of a run at its peak, plus `weights`, which are allocated before it."""
    pipeline = load(family)
    with tempfile.TemporaryDirectory() as folder:
        settle(pipeline, memory, Path(folder))
        gc.collect()
        before = resident()
        forget_peak()
        pipeline(**PROMPTS, **SIZES[family] | fewer)
        return resident(peak=True) - before + weights


def planned_and_measured(family: str) -> dict[str, tuple[int, int]]:
    """Return planned and measured bytes at the peak by memory setting."""
    plan = plan_of(family)
    weights = sum(cost.weights for cost in plan.parts.values())
    return {
        memory: (plan.peak(memory, prefetch=False), measure(family, memory, weights if memory == "full" else 0))
        for memory in MEMORY
    }


def convolve(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: tuple[int, ...],
    padding: tuple[int, ...], dilation: tuple[int, ...], groups: int, real: Callable = nn.functional.conv3d,
) -> torch.Tensor:  # fmt: skip
    """Run the kernel that torch uses for videos of realistic size; for tiny ones it would use another one."""
    if x.is_meta:
        return real(x, weight, bias, stride, padding, dilation, groups)
    return torch.ops.aten.mkldnn_convolution(x.contiguous(), weight, bias, padding, stride, dilation, groups)


def main() -> None:
    ctypes.CDLL(None).mallopt(-3, 2**16)  # M_MMAP_THRESHOLD
    torch.set_num_threads(1)
    safetensors.torch.load_file = read_whole  # for group offload
    nn.functional.conv3d = convolve
    for kind, tile in ((AutoencoderKLCogVideoX, (24, 32)), (AutoencoderKLWan, (48, 64))):
        sides = dict(zip(("tile_sample_min_height", "tile_sample_min_width"), tile, strict=True))
        if kind is AutoencoderKLWan:  # tiles lie 3/4 of their side apart, as by default
            sides |= {name.replace("min", "stride"): side * 3 // 4 for name, side in sides.items()}
        kind.enable_tiling = partialmethod(kind.enable_tiling, **sides)
    for family in SIZES:  # libraries load and keep data at their first use, which is not the model's
        measure(family, "full", num_frames={"cogvideox": 8}.get(family, 1))
    for name, value in LARGER.items():
        setattr(full_size, name, value)
    print(json.dumps({family: planned_and_measured(family) for family in SIZES}))


if __name__ == "__main__":
    main()
