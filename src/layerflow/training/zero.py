"""DeepSpeed's ZeRO-2: gradients and optimiser are sharded among processes; weights and averages are whole on each.

Checkpoints hold whole tensors as elsewhere, so a run may continue without DeepSpeed or with another number of
processes.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env
from torch import Tensor

from ..core.config import ConfigError
from .recipe import StageRecipe
from .sharding import load_model

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Names of AdamW's states of a parameter."""


def is_requested() -> bool:
    """Return whether `accelerate launch` is set to use DeepSpeed."""
    return bool(parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"))


class ZeRO:
    """The parts of training that DeepSpeed does in its own way.

    Args:
        accelerator: set to use DeepSpeed.
        recipe: decides on the number format.
        optimizer: the optimiser before DeepSpeed wraps it.

    Raises:
        ConfigError: the recipe or DeepSpeed's configuration asks for something that is not supported.
    """

    def __init__(self, accelerator: Accelerator, recipe: StageRecipe, optimizer: torch.optim.Optimizer) -> None:
        config = accelerator.deepspeed_plugin.deepspeed_config
        zero = config.get("zero_optimization", {})
        offloads = [zero.get(f"offload_{part}", {}).get("device", "none") for part in ("optimizer", "param")]
        if zero.get("stage") not in (1, 2) or any(device != "none" for device in offloads):
            raise ConfigError(
                f"DeepSpeed: stage {zero.get('stage')} with offloading to {' and '.join(offloads)}; stages 1 and 2 "
                "without offloading are supported; to shard weights use recipes/accelerate/fsdp2.yaml"
            )
        if recipe.optimizer != "adamw" or recipe.mixed_precision == "fp16":
            raise ConfigError(
                f"DeepSpeed needs optimizer: adamw and precision: bf16 or no, not {recipe.optimizer} and "
                f"{recipe.precision}"
            )
        # Batches vary in size, which DeepSpeed only counts; norms are clipped by its engine.
        config.update(train_micro_batch_size_per_gpu=1, gradient_clipping=recipe.max_grad_norm)
        if recipe.mixed_precision == "bf16":  # computed in, as elsewhere, while weights stay float32
            config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
        self.groups = optimizer.state_dict()["param_groups"]
        self.parameters: list[Tensor] = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Return the state of the optimiser as it would be in one process. All processes must call it."""
        from deepspeed.utils import safe_get_full_optimizer_state

        _link(optimizer)
        step = next(iter(_inner(optimizer).state.values()))["step"]
        state = {
            place: {"step": step, **{key: safe_get_full_optimizer_state(parameter, key).cpu() for key in MOMENTS}}
            for place, parameter in enumerate(self.parameters)
        }
        return {"state": state, "param_groups": self.groups}

    def restore(
        self, accelerator: Accelerator, model: torch.nn.Module, optimizer: Any, state: dict[str, Any]
    ) -> tuple[list[str], list[str]]:
        """Load a checkpoint into network and optimiser; return the missing and the unexpected names."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        # The optimiser's state is made at the first step, so one is made that changes nothing.
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        accelerator.backward(sum(parameter.sum() * 0.0 for parameter in self.parameters))
        mismatches = load_model(model, state["model"])
        _link(optimizer)
        moments = state["optimizer"]["state"]
        for place, parameter in enumerate(self.parameters):
            safe_set_full_fp32_param(parameter, parameter.data.float())
            for key in MOMENTS:
                safe_set_full_optimizer_state(parameter, moments[place][key].to(parameter.device), key)
        for own in _inner(optimizer).state.values():
            own["step"].copy_(torch.as_tensor(moments[0]["step"]))
        return mismatches


def _link(optimizer: Any) -> None:
    """Link the moments of all parameters.

    DeepSpeed 0.19.8 looks for them once, after the step of its first group, when the others have none yet.
    """
    zero = optimizer.optimizer
    zero._hp_optimizer_states_linked = False
    zero._lazy_init_hp_params_optimizer_state()


def _inner(optimizer: Any) -> Any:
    """Return torch's optimiser, inside DeepSpeed's, inside Accelerate's."""
    return optimizer.optimizer.optimizer


__all__ = ["ZeRO", "is_requested"]
