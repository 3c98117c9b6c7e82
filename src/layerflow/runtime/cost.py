"""Memory and operations of a call of a module, counted with weights and tensors that have no data."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.hooks._common import _GO_LC_SUPPORTED_PYTORCH_LAYERS as CAST_LAYERS
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ..models.backbone import is_delicate


@dataclass
class Stretch:
    """Memory of a call between the start or end of a layer and the next one, in bytes."""

    held: int
    """Weights of the layers that are running."""
    arrived: int
    """Weights, as stored before its start, of the layer that starts here."""
    live: int
    """Peak of everything else."""


@dataclass(frozen=True)
class Cost:
    """Size of one part of a model, and the cost of one call."""

    parameters: int
    weights: int
    """Bytes of its weights."""
    activations: int
    """Bytes at the peak of a call: with inputs, output and scratch space of convolutions, without weights."""
    flops: int
    """Floating-point operations of a call; a multiplication and an addition are two."""
    stretches: tuple[Stretch, ...]
    """The call, layer by layer."""

    def streamed(self, prefetch: bool) -> int:
        """Return the bytes at the peak if weights are present only while their layer runs, or is next (`prefetch`)."""
        most = waiting = 0
        for stretch in reversed(self.stretches):
            most = max(most, stretch.live + stretch.held + (waiting if prefetch else 0))
            waiting = stretch.arrived or waiting
        return most


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all live tensors, and records the peak, also layer by layer."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.held = 0
        self.stretches = [Stretch(0, 0, 0)]
        self._seen: dict[int, weakref.ref[Any]] = {}

    def add(self, tensor: Tensor) -> None:
        """Count the storage of a tensor, once, until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return

        def freed(_: Any) -> None:
            if self._seen.pop(key, None) is not None:
                self.live -= size

        self._seen[key] = weakref.ref(storage, freed)
        self.live += size
        self.note()

    def note(self, scratch: int = 0) -> None:
        """Record the live bytes, plus `scratch` temporary bytes, if they are a new peak."""
        self.peak = max(self.peak, self.live + scratch)
        self.stretches[-1].live = max(self.stretches[-1].live, self.live + scratch)

    def forget(self, tensor: Tensor) -> None:
        """Exclude the storage of a tensor from the count, as that of a weight."""
        storage = tensor.untyped_storage()
        self._seen[storage._cdata] = weakref.ref(storage)

    def follow(self, layer: nn.Module, held: int, waiting: int) -> list[Any]:
        """Record when a layer runs, with `held` bytes of weights then and `waiting` before; return the hooks."""

        def turn(change: int, arrived: int) -> None:
            self.held += change
            self.stretches.append(Stretch(self.held, arrived, self.live))

        return [
            layer.register_forward_pre_hook(lambda *_: turn(held, waiting)),
            layer.register_forward_hook(lambda *_: turn(-held, 0)),
        ]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        if func is torch.ops.aten.convolution.default and not _channels_last(args[0]):
            # Fast kernels work in channels-last format: they copy inputs and output.
            self.note(scratch=args[0].nbytes + args[1].nbytes + out.nbytes)
        return out


def _channels_last(x: Tensor) -> bool:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.ndim in formats and x.is_contiguous(memory_format=formats[x.ndim])


class FusedAttention(TorchFunctionMode):
    """Models scaled dot-product attention as a fused kernel: no score matrix, four flops per pair and channel."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = args[:3] if len(args) >= 3 else (kwargs[name] for name in ("query", "key", "value"))
        self.flops += 2 * query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        return query.new_empty(*query.shape[:-1], value.shape[-1])


def cost_of(
    module: nn.Module, call: Callable[[], Any], kept: int = 0, eight_bits: bool = False, count_flops: bool = True
) -> Cost:
    """Return the cost of a call of a module whose weights have no data.

    Args:
        module: the module.
        call: the call, on tensors without data.
        kept: bytes that are allocated before the call and stay.
        eight_bits: weights that are loaded layer by layer are stored in 8 bits, as by diffusers' layerwise casting.
        count_flops: count floating-point operations too, which takes two thirds of the time; 0 without.
    """
    live, fused = LiveBytes(), FusedAttention()
    live.live = kept
    for weight in (*module.parameters(), *module.buffers()):
        live.forget(weight)
    hooks: list[Any] = []
    for path, layer in module.named_modules():
        if (held := _bytes(layer, recurse=False)) > 0:
            hooks += live.follow(layer, held, _waiting_bytes(module, path, layer) if eight_bits else held)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter if count_flops else nullcontext(), live, fused:
        call()
    for hook in hooks:
        hook.remove()
    return Cost(
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        weights=_bytes(module),
        activations=live.peak,
        flops=counter.get_total_flops() + fused.flops if count_flops else 0,
        stretches=tuple(live.stretches),
    )


def _bytes(module: nn.Module, recurse: bool = True) -> int:
    return sum(weight.nbytes for weight in (*module.parameters(recurse), *module.buffers(recurse)))


def _waiting_bytes(model: Any, path: str, layer: nn.Module) -> int:
    """Return the bytes of a layer's weights as layerwise casting stores them."""
    if not isinstance(layer, CAST_LAYERS) or is_delicate(model, path):
        return _bytes(layer, recurse=False)
    return sum(weight.numel() for weight in layer.parameters(recurse=False))
