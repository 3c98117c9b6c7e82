"""LoRA by diffusers' methods, with weights checked before the network is changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from diffusers.loaders import PeftAdapterMixin
from diffusers.loaders.lora_pipeline import CogVideoXLoraLoaderMixin
from torch import Tensor, nn

from ..core.errors import UserError

FETCHED_BY = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
    "use_safetensors",
    "weight_name",
)
"""Options of diffusers that choose the file of an adapter."""


class AdapterError(UserError):
    """An adapter that does not fit this transformer."""


def check_adapter(transformer: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Check LoRA weights, under PEFT's names, against the layers of a transformer.

    Raises:
        AdapterError: the weights are for layers of another width (the message names both widths) or for other layers.
    """
    layers, fitting = dict(transformer.named_modules()), 0
    for name, tensor in weights.items():
        for marker, side, axis in ((".lora_A.", "in", 1), (".lora_B.", "out", 0)):  # from (in) to rank to (out)
            path, is_marked, _ = name.partition(marker)
            if not is_marked or path not in layers or tensor.ndim < 2:
                continue
            fitting += 1
            width, expected = tensor.shape[axis], layers[path].weight.shape[axis]
            if width != expected:
                raise AdapterError(
                    f"this LoRA is for a transformer of another width: at {path} it has {width} channels {side}, the "
                    f"transformer {expected}; choose one that was trained for this model"
                )
    if weights and not fitting:
        raise AdapterError(
            f"this LoRA has no weights for this transformer, its first tensor is {next(iter(weights))!r}; choose one "
            "that was trained for this model"
        )


class CheckedAdapterMixin(PeftAdapterMixin):
    """`PeftAdapterMixin` that checks a LoRA before loading it."""

    lora_files: ClassVar[Any] = CogVideoXLoraLoaderMixin
    """Loader of diffusers that reads the formats of LoRAs for this family."""

    def load_lora_adapter(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, Tensor],
        prefix: str | None = "transformer",
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Load a LoRA as in `PeftAdapterMixin`, by default from safetensors alone.

        Where no name begins with `prefix`, names are taken as they are.

        Raises:
            AdapterError: the LoRA does not fit this transformer, which is unchanged then.
        """
        where = {name: kwargs.pop(name) for name in FETCHED_BY if name in kwargs}
        weights, metadata = self.lora_files.lora_state_dict(
            pretrained_model_name_or_path_or_dict, return_lora_metadata=True, **{"use_safetensors": True, **where}
        )
        own = {
            name.removeprefix(f"{prefix}."): tensor
            for name, tensor in weights.items()
            if prefix is None or name.startswith(f"{prefix}.")
        }
        if not own:
            own, prefix = weights, None
        check_adapter(self, own)
        kwargs.setdefault("metadata", metadata)
        super().load_lora_adapter(weights, prefix=prefix, hotswap=hotswap, **kwargs)
