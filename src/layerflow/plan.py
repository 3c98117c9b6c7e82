"""What a run needs, before any weights are loaded: sequence length, arithmetic, memory under each setting.

Nothing is estimated by formula. The parts of the model are built without weights and run on tensors without data,
which cost neither memory nor time; what they would allocate and compute is counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from .loading import read_index, skeleton
from .models.backbone import prompt_prefixes
from .models.layout import Layout
from .models.sequence import SequenceCodec
from .models.text import MAX_TOKENS

MEMORY = ("full", "low", "lowest")
"""Settings of memory, see `placement`; each needs less than the one before and is slower."""


@dataclass(frozen=True)
class Cost:
    """One part of the model, and one call of it."""

    parameters: int
    weights: int
    """Bytes of its weights."""
    largest_layer: int
    """Bytes of the weights that are needed at once where it is loaded piece by piece."""
    activations: int
    """Bytes at the peak of a call, inputs and output included, weights not."""
    flops: int
    """Floating-point operations of a call; a multiplication and an addition are two."""


@dataclass(frozen=True)
class Plan:
    """What generating one video needs."""

    frames: int
    height: int
    width: int
    steps: int
    calls: int
    """Calls of the transformer in a step: one for each prediction that guidance wants, unless they are batched."""
    layout: Layout
    video_tokens: int
    text_tokens: int
    parts: dict[str, Cost]
    """Text encoder, transformer, and autoencoder where there is one, the last without tiling."""
    tiled_activations: int
    """Bytes at the peak of the autoencoder with tiling."""

    @property
    def step_flops(self) -> int:
        """Floating-point operations of a denoising step."""
        return self.parts["transformer"].flops * self.calls

    @property
    def flops(self) -> int:
        """Floating-point operations of a whole run."""
        others = sum(cost.flops for name, cost in self.parts.items() if name != "transformer")
        return self.step_flops * self.steps + others

    def peak(self, memory: str) -> int:
        """Bytes on the device at the peak, under one of `MEMORY`."""
        tiled = memory != "full"
        active = {
            name: self.tiled_activations if name == "vae" and tiled else cost.activations
            for name, cost in self.parts.items()
        }
        if memory == "full":
            return sum(cost.weights for cost in self.parts.values()) + max(active.values())
        if memory == "low":  # one part at a time
            return max(cost.weights + active[name] for name, cost in self.parts.items())
        if memory == "lowest":  # one layer of a part at a time, and the next one on its way
            return max(2 * cost.largest_layer + active[name] for name, cost in self.parts.items())
        raise ValueError(f"memory must be one of {', '.join(MEMORY)}, got {memory!r}")

    def seconds(self, tflops: float) -> float:
        """Seconds of a run at a rate in TFLOP/s."""
        return self.flops / (tflops * 1e12)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive, and remembers the most."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once, until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return

        def freed(_: Any) -> None:
            if self._seen.pop(key, None) is not None:
                self.live -= size

        self._seen[key] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)

    def forget(self, tensor: Tensor) -> None:
        """Never count a tensor's storage: it is a weight."""
        storage = tensor.untyped_storage()
        self._seen[storage._cdata] = weakref.ref(storage)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return out


class FusedAttention(TorchFunctionMode):
    """Stands in for scaled dot-product attention as fused kernels do it: no matrix of scores, four flops a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = args[:3] if len(args) >= 3 else (kwargs[name] for name in ("query", "key", "value"))
        self.flops += 2 * query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        return query.new_empty(*query.shape[:-1], value.shape[-1])


def cost_of(module: nn.Module, call: Callable[[], Any]) -> Cost:
    """Count what a call of a module without weights would allocate and compute."""
    live, fused = LiveBytes(), FusedAttention()
    weights = [*module.parameters(), *module.buffers()]
    for weight in weights:
        live.forget(weight)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, live, fused:
        call()
    return Cost(
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        weights=_bytes(module),
        largest_layer=_largest_layer(module),
        activations=live.peak,
        flops=counter.get_total_flops() + fused.flops,
    )


def plan_run(
    folder: Path,
    *,
    frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    steps: int | None = None,
    guided: bool = True,
    dtype: torch.dtype = torch.bfloat16,
) -> Plan:
    """Plan a run of the model in a folder, of which only configurations are read.

    Args:
        folder: a model folder.
        frames, height, width: of the clips, in pixels; as the model was trained, where None.
        steps: denoising steps; the model's default if None.
        guided: with classifier-free guidance.
        dtype: number format of weights and activations.

    Raises:
        UnknownModelError: the folder is no model.
        ValueError: a size that the model does not take; names the nearest.
    """
    transformer, vae = skeleton(folder)
    codec, conventions = SequenceCodec.of(transformer, vae), transformer.conventions
    trained = codec.trained_size
    frames, height, width = frames or trained[0], height or trained[1], width or trained[2]
    layout = codec.check(frames, height, width)
    config, latent = transformer.config, codec.autoencoder.latent_size(height, width)
    conditions = 2 if guided else 1
    batched = conventions.batched_guidance
    encoder, text_dim = text_encoder_skeleton(folder, dtype)
    prompts, words = len(prompt_prefixes(config)), config.get("text_length", MAX_TOKENS)
    patch = config.patch_size if isinstance(config.patch_size, int) else config.patch_size[-1]
    if batched:  # the mini's tokens lie below its convolutions
        patch = transformer.size_multiple

    with torch.device("meta"):
        transformer.to("meta", dtype)
        batch = conditions if batched else 1
        text = torch.empty(batch, prompts, words, text_dim, dtype=dtype)
        inputs = (
            torch.empty(batch, layout.length, config.in_channels, *latent, dtype=dtype),
            torch.empty(batch, len(layout.clips)),
            text,
            torch.empty(batch, prompts, words, dtype=torch.bool),
            layout,
        )
        encoded = 1 if conventions.zero_unconditional else conditions
        ids = torch.empty((encoded * prompts, words), dtype=torch.long)
        parts = {
            "text_encoder": cost_of(encoder, lambda: encoder(input_ids=ids)),
            "transformer": _with_inputs(cost_of(transformer, lambda: transformer(*inputs)), inputs),
        }
        tiled = 0
        if vae is not None:
            vae.to("meta", dtype)
            sequence = torch.empty(1, layout.length, config.in_channels, *latent)
            decode = lambda: codec.decode(sequence, layout, layout.clips)  # noqa: E731
            parts["vae"] = cost_of(vae, decode)
            vae.enable_tiling()
            tiled = cost_of(vae, decode).activations
    return Plan(
        frames, height, width, steps or conventions.steps, 1 if batched else conditions, layout,
        video_tokens=layout.length // (config.get("patch_size_t") or 1) * (latent[0] // patch) * (latent[1] // patch),
        text_tokens=prompts * words, parts=parts, tiled_activations=tiled,
    )  # fmt: skip


def _with_inputs(cost: Cost, inputs: tuple[Any, ...]) -> Cost:
    """The cost with what was there before the call, and the sequence as it is kept beside it in float32."""
    there = sum(x.nbytes for x in inputs if isinstance(x, Tensor)) + 2 * inputs[0].numel() * 4
    return Cost(cost.parameters, cost.weights, cost.largest_layer, cost.activations + there, cost.flops)


def text_encoder_skeleton(folder: Path, dtype: torch.dtype) -> tuple[nn.Module, int]:
    """The text encoder without weights, and the width of its states."""
    from .models.text import LayerTextEncoder, LayerTextEncoderConfig

    _library, name = read_index(folder)["text_encoder"]
    with init_empty_weights(include_buffers=True):
        if name == LayerTextEncoder.__name__:
            own = LayerTextEncoderConfig.from_pretrained(folder / "text_encoder")
            return LayerTextEncoder(own).to("meta", dtype), own.projection_dim
        import transformers

        config = transformers.AutoConfig.from_pretrained(folder / "text_encoder")
        return getattr(transformers, name)(config).to("meta", dtype), config.d_model


def _bytes(module: nn.Module) -> int:
    return sum(weight.nbytes for weight in (*module.parameters(), *module.buffers()))


def _largest_layer(module: nn.Module) -> int:
    """Bytes of the largest layer, and of the weights that lie outside of layers."""
    layers = [part for part in module.modules() if not any(True for _ in part.children())]
    inside = {id(weight) for layer in layers for weight in (*layer.parameters(), *layer.buffers())}
    outside = sum(weight.nbytes for weight in (*module.parameters(), *module.buffers()) if id(weight) not in inside)
    return max(map(_bytes, layers), default=0) + outside
