"""LoRA by diffusers' own methods, with what does not fit said before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from diffusers.loaders import PeftAdapterMixin
from diffusers.loaders.lora_pipeline import CogVideoXLoraLoaderMixin
from torch import Tensor, nn

from ..core.errors import UserError

FETCHED_BY = (
    "cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token", "use_safetensors",
    "weight_name",
)  # fmt: skip
"""Options of diffusers that say where an adapter is read from."""


class AdapterError(UserError):
    """An adapter that is not for this transformer; says why."""


def check_adapter(transformer: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Check LoRA weights, named as PEFT names them, against the layers that they are for.

    Raises:
        AdapterError: they are for layers of another width, which it names with both, or for other layers altogether.
    """
    layers, found = dict(transformer.named_modules()), 0
    for name, tensor in weights.items():
        for marker, side, axis in ((".lora_A.", "in", 1), (".lora_B.", "out", 0)):  # from (in) to rank to (out)
            path, is_marked, _ = name.partition(marker)
            if not is_marked or path not in layers or tensor.ndim < 2:
                continue
            found += 1
            wide, wanted = tensor.shape[axis], layers[path].weight.shape[axis]
            if wide != wanted:
                raise AdapterError(
                    f"this LoRA is for a transformer of another width: at {path} it has {wide} channels {side}, the "
                    f"transformer {wanted}; take one that was made for this model"
                )
    if weights and not found:
        raise AdapterError(
            f"this LoRA has nothing for this transformer, its first tensor is {next(iter(weights))!r}; take one that "
            "was made for this model"
        )


class CheckedAdapterMixin(PeftAdapterMixin):
    """`PeftAdapterMixin` that checks a LoRA before it is put in place."""

    lora_files: ClassVar[Any] = CogVideoXLoraLoaderMixin
    """The loader of diffusers that knows in which forms LoRAs for this family come."""

    def load_lora_adapter(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, Tensor],
        prefix: str | None = "transformer",
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """See `PeftAdapterMixin`, but only safetensors are read unless `use_safetensors` says otherwise, and where no
        name begins with `prefix`, names are taken as they are.

        Raises:
            AdapterError: the LoRA is not for this transformer; names both widths. Nothing was changed then.
        """
        where = {name: kwargs.pop(name) for name in FETCHED_BY if name in kwargs}
        weights, metadata = self.lora_files.lora_state_dict(
            pretrained_model_name_or_path_or_dict, return_lora_metadata=True, **{"use_safetensors": True, **where}
        )
        own = {name.removeprefix(f"{prefix}."): tensor for name, tensor in weights.items()
               if prefix is None or name.startswith(f"{prefix}.")}  # fmt: skip
        if not own:
            own, prefix = weights, None
        check_adapter(self, own)
        kwargs.setdefault("metadata", metadata)
        super().load_lora_adapter(weights, prefix=prefix, hotswap=hotswap, **kwargs)
