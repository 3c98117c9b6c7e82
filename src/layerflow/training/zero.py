"""DeepSpeed's ZeRO-2: gradients and optimiser shared out among processes; weights and averages are whole on each.

Checkpoints hold whole tensors as elsewhere, so a run may go on without DeepSpeed, or with another number of processes.
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
"""What AdamW keeps of a parameter."""


def is_requested() -> bool:
    """Whether `accelerate launch` was told to use DeepSpeed."""
    return bool(parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"))


class ZeRO:
    """The parts of training that DeepSpeed does in its own way.

    Raises:
        ConfigError: the recipe or DeepSpeed's configuration ask for what is not known here.
    """

    def __init__(self, accelerator: Accelerator, recipe: StageRecipe, optimizer: torch.optim.Optimizer) -> None:
        """`optimizer` as it is before DeepSpeed gets it."""
        config = accelerator.deepspeed_plugin.deepspeed_config
        zero = config.get("zero_optimization", {})
        offloads = [zero.get(f"offload_{what}", {}).get("device", "none") for what in ("optimizer", "param")]
        if zero.get("stage") not in (1, 2) or any(device != "none" for device in offloads):
            raise ConfigError(
                f"DeepSpeed: stage {zero.get('stage')} with offloading to {' and '.join(offloads)}; stages 1 and 2 "
                "without offloading are known here, and where weights must be shared out recipes/accelerate/fsdp2.yaml"
            )
        if recipe.optimizer != "adamw" or recipe.mixed_precision == "fp16":
            raise ConfigError(
                f"DeepSpeed wants optimizer: adamw and precision: bf16 or no, not {recipe.optimizer} and "
                f"{recipe.precision}"
            )
        # Batches vary in size, which DeepSpeed only counts; norms are clipped by its engine.
        config.update(train_micro_batch_size_per_gpu=1, gradient_clipping=recipe.max_grad_norm)
        if recipe.mixed_precision == "bf16":  # computed in, as elsewhere, while weights stay float32
            config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
        self.groups = optimizer.state_dict()["param_groups"]
        self.parameters: list[Tensor] = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """`state_dict` of the optimiser as it would be in one process. All processes must call it."""
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
        """Put in what a checkpoint has of network and optimiser; names that are missing and unexpected."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        # The optimiser's state is made at the first step, so one is made that changes nothing.
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        accelerator.backward(sum(parameter.sum() * 0.0 for parameter in self.parameters))
        told = load_model(model, state["model"])
        _link(optimizer)
        moments = state["optimizer"]["state"]
        for place, parameter in enumerate(self.parameters):
            safe_set_full_fp32_param(parameter, parameter.data.float())
            for key in MOMENTS:
                safe_set_full_optimizer_state(parameter, moments[place][key].to(parameter.device), key)
        for own in _inner(optimizer).state.values():
            own["step"].copy_(torch.as_tensor(moments[0]["step"]))
        return told


def _link(optimizer: Any) -> None:
    """Let DeepSpeed find the moments of all parameters: by itself it looks for them once, when its first group of
    parameters was stepped and the others have none yet (0.19.8)."""
    zero = optimizer.optimizer
    zero._hp_optimizer_states_linked = False
    zero._lazy_init_hp_params_optimizer_state()


def _inner(optimizer: Any) -> Any:
    """torch's optimiser, inside DeepSpeed's, inside Accelerate's."""
    return optimizer.optimizer.optimizer


__all__ = ["ZeRO", "is_requested"]
