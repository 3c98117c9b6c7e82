"""Requirements of a run, before weights are loaded: sequence length, operations, memory under each setting.

The parts of the model are built without weights and run on tensors without data, which costs neither memory nor time;
allocations and operations are counted, see `cost.py`, and not estimated by formulas.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.backbone import prompt_prefixes
from ..models.codec import SequenceCodec
from ..models.layout import Layout
from ..models.registry import skeleton, text_encoder_skeleton
from ..models.text import MAX_TOKENS
from .cost import Cost, cost_of

MEMORY = ("full", "low", "lowest")
"""Memory settings, see `placement`; each needs less memory than the previous one and is slower."""


@dataclass(frozen=True)
class Plan:
    """Requirements of generating one video."""

    frames: int
    height: int
    width: int
    steps: int
    calls: int
    """Calls of the transformer in a step: one for each prediction that guidance needs, unless they are batched."""
    layout: Layout
    video_tokens: int
    text_tokens: int
    parts: dict[str, Cost]
    """Text encoder, transformer and, if present, second transformer, autoencoder (without tiling) and upscaler."""
    tiled: Cost | None = None
    """Memory of the autoencoder with tiling; its operations are not counted."""

    @property
    def step_flops(self) -> int:
        """Floating-point operations of a denoising step, which uses one of two equal transformers, if there are two."""
        return self.parts["transformer"].flops * self.calls

    @property
    def flops(self) -> int:
        """Floating-point operations of a whole run."""
        others = sum(cost.flops for name, cost in self.parts.items() if not name.startswith("transformer"))
        return self.step_flops * self.steps + others

    def peak(self, memory: str, prefetch: bool = True) -> int:
        """Return the bytes on the device at the peak under one of `MEMORY`.

        With `prefetch` the next layer is loaded while one runs, as on NVIDIA GPUs.
        """
        if memory == "full":
            costs = self.parts.values()
            return sum(cost.weights for cost in costs) + max(cost.activations for cost in costs)
        tiled = (self.parts | ({"vae": self.tiled} if self.tiled else {})).values()
        if memory == "low":  # one part at a time
            return max(cost.weights + cost.activations for cost in tiled)
        if memory == "lowest":  # one layer of a part at a time
            return max(cost.streamed(prefetch) for cost in tiled)
        raise ValueError(f"memory must be one of {', '.join(MEMORY)}, got {memory!r}")

    def seconds(self, tflops: float) -> float:
        """Return the seconds of a run at a rate in TFLOP/s."""
        return self.flops / (tflops * 1e12)


def plan_run(
    folder: Path,
    *,
    frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    upscale: int = 1,
    steps: int | None = None,
    guided: bool | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Plan:
    """Plan a run of the model in a folder; only its configuration files are read.

    Args:
        folder: a model folder.
        frames, height, width: frames and pixels of the clips as the transformer draws them; as in training if None.
        upscale: factor of the upscaler.
        steps: denoising steps; the model's default if None.
        guided: with classifier-free guidance; by the model's default scale if None.
        dtype: number format of weights and activations.

    Raises:
        UnknownModelError: the folder is not a model.
        ValueError: a size that the model does not take; the message names the nearest.
    """
    transformer, vae, upscaler, listing, transformer_2 = skeleton(folder)
    codec, conventions = SequenceCodec.of(transformer, vae), transformer.conventions
    trained = codec.trained_size
    frames, height, width = frames or trained[0], height or trained[1], width or trained[2]
    layout = codec.check(frames, height, width)
    config, latent = transformer.config, codec.autoencoder.latent_size(height, width)
    conditions = 2 if (conventions.guidance > 1 if guided is None else guided) else 1
    batched = conventions.batched_guidance
    encoder, text_dim = text_encoder_skeleton(folder, listing, dtype)
    prompts, words = len(prompt_prefixes(config)), config.get("text_length", MAX_TOKENS)

    with torch.device("meta"):
        transformer.to("meta", dtype).to(memory_format=transformer.memory_format)
        batch = conditions if batched else 1
        text = torch.empty(batch, prompts, words, text_dim, dtype=dtype)
        inputs = (
            torch.empty(batch, layout.length, config.in_channels, *latent, dtype=dtype),
            torch.empty(batch, len(layout.clips), 1),
            text,
            torch.empty(batch, prompts, words, dtype=torch.bool),
            layout,
        )
        encoded = 1 if conventions.zero_unconditional else conditions
        ids = torch.empty((encoded * prompts, words), dtype=torch.long)
        parts = {
            "text_encoder": cost_of(encoder, lambda: encoder(input_ids=ids)),
            "transformer": cost_of(transformer, lambda: transformer(*inputs), kept=_kept(inputs), eight_bits=True),
        }
        if transformer_2 is not None:
            transformer_2.to("meta", dtype)
            denoise = lambda: transformer_2(*inputs)  # noqa: E731
            parts["transformer_2"] = cost_of(transformer_2, denoise, kept=_kept(inputs), eight_bits=True)
        tiled = None
        if vae is not None:
            vae.to("meta", dtype)
            sequence = torch.empty(1, layout.length, config.in_channels, *latent)
            # Clips that are decoded one by one cost the same; the others are in memory beside the last one.
            alike = 1 if codec.joint else len(layout.clips)
            beside = (alike - 1) * frames * 3 * height * width * torch.float32.itemsize
            decode = lambda: codec.decode(sequence, layout, layout.clips if codec.joint else layout.clips[:1])  # noqa: E731
            plain = cost_of(vae, decode, kept=beside)
            vae.enable_tiling()
            tiled = cost_of(vae, decode, kept=beside, count_flops=False)
            parts["vae"] = replace(plain, flops=plain.flops * alike)
        if upscaler is not None:
            upscaler.to("meta", dtype).to(memory_format=upscaler.memory_format)
            size = 1, layout.frames, 3, height, width
            upscaling = lambda: upscaler.upscale({name: torch.empty(size) for name in layout.clips}, upscale)  # noqa: E731
            parts["upscaler"] = cost_of(upscaler, upscaling)
    return Plan(
        frames,
        height,
        width,
        steps or conventions.steps,
        1 if batched else conditions,
        layout,
        video_tokens=transformer.video_tokens(layout, *latent),
        text_tokens=prompts * words,
        parts=parts,
        tiled=tiled,
    )


def _kept(inputs: tuple[Any, ...]) -> int:
    """Return the bytes of a call's inputs and of five float32 sequences beside it: the given one, and prediction,
    output, clean and next sequence of the last step."""
    return sum(x.nbytes for x in inputs if isinstance(x, Tensor)) + 5 * inputs[0][0].numel() * 4
