"""Memory and arithmetic of training, counted without weights: one step runs forwards and back on meta tensors.

As in `runtime.plan` only plain arithmetic is computed by formula: the bytes of gradients and states of every trained
parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..core.config import ConfigError
from ..core.schema import CLIPS, foreground_count, prompt_layers
from ..models.codec import SequenceCodec
from ..models.folders import model_folder, read_index
from ..models.layout import Layout
from ..models.registry import skeleton, text_encoder_skeleton
from ..models.text import MAX_TOKENS
from ..runtime.cost import LiveBytes, cost_of
from . import adapters
from .batches import check_hints
from .family import load_family
from .network import trained_transformer
from .recipe import ADAPTERS, Recipe, StageRecipe

FULL, HALF = 4, 2
"""Bytes of a number."""


@dataclass(frozen=True)
class TrainingPlan:
    """Memory of one stage, in bytes, on each device."""

    stage: str
    trained: str
    frames: int
    height: int
    width: int
    samples: int
    """Samples of a batch on one device."""
    processes: int
    parameters: int
    trained_parameters: int
    weights: int
    """Weights of the network: trained ones in float32, frozen ones in the recipe's `frozen_dtype`."""
    copies: int
    """Copies of trained weights in half precision, which autocast keeps during a step."""
    gradients: int
    optimizer: int
    averages: int
    activations: int
    """Activations at the peak of a step, by the recipe."""
    activations_otherwise: int
    """Activations with gradient checkpointing the other way."""
    encoding: int
    """Peak of encoding a batch's clips to latents, before the step; 0 without an autoencoder."""
    largest_block: int
    """Largest block of weights that sharding gathers at once."""
    frozen_parts: int
    """Text encoder and autoencoder."""
    flops: int
    """Floating-point operations of a step on one device."""

    @property
    def state(self) -> int:
        """Bytes that sharding divides among the devices."""
        return self.weights + self.gradients + self.optimizer + self.averages

    @property
    def peak(self) -> int:
        """Peak with everything on every device."""
        return self.state + self.frozen_parts + max(self.copies + self.activations, self.encoding)

    @property
    def precomputed_peak(self) -> int:
        """Peak with everything but the encoders on every device: shards hold latents and text states."""
        return self.state + self.copies + self.activations

    @property
    def sharded_peak(self) -> int:
        """Peak with the state sharded among the processes, two blocks gathered at once."""
        step = 2 * self.largest_block + self.activations
        return self.state // self.processes + self.frozen_parts + max(step, self.encoding)


class TrainedAttention:
    """Context in which attention has the memory of fused kernels: they keep inputs and output, and recompute scores.

    It replaces the function itself: a torch function mode is not active where checkpointing recomputes.
    """

    def __init__(self) -> None:
        self.flops = 0

    def __enter__(self) -> TrainedAttention:
        self._real = nn.functional.scaled_dot_product_attention
        nn.functional.scaled_dot_product_attention = self._attend  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        nn.functional.scaled_dot_product_attention = self._real

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        return _KeepsInputs.apply(self, query, key, value)  # type: ignore[no-any-return]


class _KeepsInputs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, counter: TrainedAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out)
        ctx.counter = counter
        ctx.flops = 2 * query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        counter.flops += ctx.flops
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        ctx.counter.flops += 5 * ctx.flops // 2  # five products of matrices where forward has two
        return None, *(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def plan_training(
    recipe: Recipe, size: tuple[int, int] | None = None, frames: int | None = None, processes: int = 1
) -> list[TrainingPlan]:
    """Plan each stage of a recipe; its data need not exist.

    Args:
        recipe: all stages.
        size: height and width of clips in pixels; by default the recipe's for a fresh model, else the model's.
        frames: of a sample; by default the most that a phase of the stage asks for.
        processes: number of processes that share each batch, and the weights where they are sharded.

    Raises:
        ConfigError: the recipe cannot be followed.
        UnknownModelError: the model to start from does not exist.
        ValueError: a size that the model does not take.
    """
    plans, there = [], []
    for stage in recipe.stages:
        if stage.trained in ADAPTERS and stage.trained not in there:
            there.append(stage.trained)
        plans.append(_plan_stage(stage, list(there), size, frames, processes))
    return plans


def _plan_stage(
    recipe: StageRecipe, names: list[str], size: tuple[int, int] | None, frames: int | None, processes: int
) -> TrainingPlan:
    model, vae, encoder, text_dim = _parts(recipe)
    check_hints(recipe, model)
    codec = SequenceCodec.of(model, vae)
    frames = frames or max(count for phase in recipe.phases for count in phase.frames)
    height, width = size or codec.trained_size[1:]
    layout = codec.check(frames, height, width)
    samples = -(-recipe.samples(frames, height, width) // processes)
    half = recipe.mixed_precision in ("bf16", "fp16")
    half_encoders = vae is not None and recipe.mixed_precision == "bf16"  # as the trainer holds them
    frozen = HALF if recipe.frozen_dtype == "bfloat16" else FULL
    with torch.device("meta"):
        model.to("meta", torch.bfloat16 if half else torch.float32).train()
        for name in names:
            adapters.add_adapter(model, name, recipe.adapters)
        if names:
            model.set_adapter(names)
        own = recipe.trained
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(adapters.is_base(name) if own == "base" else adapters.belongs_to(name, own))
        for fitted in model.fitted_parts():
            fitted.requires_grad_(own == "base" and recipe.train_fitted)
        inputs = _inputs(model, layout, codec.autoencoder.latent_size(height, width), text_dim, samples)
        encoding = 0
        if vae is not None:
            vae.to("meta", torch.bfloat16 if half_encoders else torch.float32)
            vae.enable_slicing()
            if recipe.tiling:
                vae.enable_tiling()
            clips = {name: torch.empty(samples, frames, 3, height, width) for name in CLIPS}
            latents = samples, *inputs[0].shape[2:]
            encoding = cost_of(vae, lambda: codec.encode(clips, layout, latents), count_flops=False).activations
        peaks, flops = {}, 0
        for again in (True, False):
            if again:
                model.enable_gradient_checkpointing()
            else:
                model.disable_gradient_checkpointing()
            peak, counted = _one_step(model, inputs)
            peaks[again] = peak
            flops = counted if again == recipe.gradient_checkpointing else flops
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    held = FULL if own == "base" else frozen
    states = 1 if recipe.optimizer == "muon" else 2
    return TrainingPlan(
        stage=recipe.stage,
        trained=own,
        frames=frames,
        height=height,
        width=width,
        samples=samples,
        processes=processes,
        parameters=total,
        trained_parameters=trained,
        weights=FULL * trained + held * (total - trained),
        copies=HALF * trained if half else 0,
        gradients=FULL * trained,
        optimizer=FULL * states * trained,
        averages=FULL * trained,
        activations=peaks[recipe.gradient_checkpointing],
        activations_otherwise=peaks[not recipe.gradient_checkpointing],
        encoding=encoding,
        largest_block=_largest_block(model) * (HALF if half else FULL),
        frozen_parts=(HALF if half_encoders else FULL) * _count(vae, encoder),
        flops=flops,
    )


def _parts(recipe: StageRecipe) -> tuple[Any, Any, Any, int]:
    """Return transformer, autoencoder and text encoder without weights, and the width of text states."""
    family = load_family("mini")  # of fresh networks
    folder = Path(model_folder(recipe.start_from or family.text_model(recipe), weights=False))
    encoder, text_dim = text_encoder_skeleton(folder, read_index(folder), torch.float32)
    if recipe.start_from is not None:
        parts = skeleton(folder)
        names = ["transformer"] if parts.transformer_2 is None else ["transformer", "transformer_2"]
        return getattr(parts, trained_transformer(recipe, names)), parts.vae, encoder, text_dim
    with torch.device("meta"):
        return family.fresh_network(recipe), None, encoder, text_dim


def _inputs(model: Any, layout: Layout, size: tuple[int, int], text_dim: int, samples: int) -> tuple[Any, ...]:
    config = model.config
    if not set(CLIPS) <= set(config.clips):
        raise ConfigError(f"training needs a model of all clips, but this one has {', '.join(config.clips)}")
    prompts = len(prompt_layers(foreground_count(config.clips)))
    words = config.get("text_length", MAX_TOKENS)
    dtype = next(parameter.dtype for name, parameter in model.named_parameters() if adapters.is_base(name))
    return (
        torch.empty(samples, layout.length, config.in_channels, *size, dtype=dtype),
        torch.ones(samples, len(layout.clips), 1),
        torch.empty(samples, prompts, words, text_dim, dtype=dtype),
        torch.ones(samples, prompts, words, dtype=torch.bool),
        layout,
    )


def _one_step(model: Any, inputs: tuple[Any, ...]) -> tuple[int, int]:
    """Return the peak of activations in bytes, and the floating-point operations, of a forward and backward pass."""
    live, counter = LiveBytes(), FlopCounterMode(display=False)
    for weight in (*model.parameters(), *model.buffers()):
        live.forget(weight)
    # Gradients are counted by arithmetic, so each is dropped at once.
    hooks = [p.register_post_accumulate_grad_hook(_dropped) for p in model.parameters() if p.requires_grad]
    flops = 0
    for mode in (live, counter):  # one after the other: the counter keeps alive what checkpointing computes again
        with mode, TrainedAttention() as attention:
            model(*inputs).sample.float().square().mean().backward()
            flops = attention.flops
    for hook in hooks:
        hook.remove()
    return live.peak, counter.get_total_flops() + flops


def _dropped(parameter: Tensor) -> None:
    parameter.grad = None


def _count(*parts: nn.Module | None) -> int:
    return sum(p.numel() for part in parts if part is not None for p in part.parameters())


def _largest_block(model: nn.Module) -> int:
    """Return the parameters of the largest of the blocks that are sharded one by one."""
    kinds = set(model._no_split_modules or ())  # type: ignore[arg-type]
    blocks = [part for part in model.modules() if type(part).__name__ in kinds]
    return max((sum(p.numel() for p in block.parameters()) for block in blocks), default=0)


def described(plan: TrainingPlan) -> list[str]:
    """Return a plan as lines of text."""
    gib = 2**30
    percent = plan.trained_parameters / plan.parameters
    rows = {
        "trains": f"{plan.trained}: {plan.trained_parameters / 1e6:.1f} M of {plan.parameters / 1e6:.1f} M parameters "
        f"({percent:.1%})",
        "batch": f"{plan.samples} samples a device, {plan.frames} frames of {plan.width}x{plan.height}",
        "arithmetic": f"{plan.flops / 1e12:.2f} TFLOP a step and device",
        "weights": f"{plan.weights / gib:.2f} GiB, and {plan.frozen_parts / gib:.2f} of text encoder and autoencoder",
        "gradients": f"{plan.gradients / gib:.2f} GiB",
        "optimizer": f"{plan.optimizer / gib:.2f} GiB, and {plan.averages / gib:.2f} of moving averages",
        "autocast": f"{plan.copies / gib:.2f} GiB of weights in half precision",
        "activations": f"{plan.activations / gib:.2f} GiB; with gradient checkpointing the other way "
        f"{plan.activations_otherwise / gib:.2f}",
        "encoding": f"{plan.encoding / gib:.2f} GiB for the clips of a batch, before the step",
        "peak": f"{plan.peak / gib:.2f} GiB on a device",
    }
    if plan.encoding:
        rows["precomputed"] = f"{plan.precomputed_peak / gib:.2f} GiB where shards hold latents and text states"
    if plan.processes > 1:
        rows["sharded"] = f"{plan.sharded_peak / gib:.2f} GiB on each of {plan.processes} devices (FSDP2)"
    return [f"stage {plan.stage}", *(f"  {name:<12} {text}" for name, text in rows.items())]
