"""Supported configurations of DeepSpeed; test_several_processes.py trains with it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from layerflow.core.config import ConfigError
from layerflow.training.recipe import PhaseRecipe, StageRecipe
from layerflow.training.zero import ZeRO


def zero(zero_optimization: dict[str, Any], **changes: Any) -> tuple[ZeRO, dict[str, Any]]:
    config: dict[str, Any] = {"zero_optimization": zero_optimization}
    accelerator: Any = SimpleNamespace(deepspeed_plugin=SimpleNamespace(deepspeed_config=config))
    settings: dict[str, Any] = {"phases": (PhaseRecipe(1, {1: 1.0}),), "optimizer": "adamw", **changes}
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])
    return ZeRO(accelerator, StageRecipe("test", **settings), optimizer), config


def test_recipe_sets_clipping_and_precision() -> None:
    _, config = zero({"stage": 2}, max_grad_norm=0.5, precision="bf16")
    assert config["gradient_clipping"] == 0.5
    assert config["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
    assert "torch_autocast" not in zero({"stage": 2})[1]


def test_unsupported_configuration_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"stage 3 with .*; stages 1 and 2 .*recipes/accelerate/fsdp2\.yaml"):
        zero({"stage": 3})
    with pytest.raises(ConfigError, match="offloading to cpu and none"):
        zero({"stage": 2, "offload_optimizer": {"device": "cpu"}})
    with pytest.raises(ConfigError, match="optimizer: adamw and precision: bf16 or no, not muon and no"):
        zero({"stage": 2}, optimizer="muon")
    with pytest.raises(ConfigError, match="not adamw and fp16"):
        zero({"stage": 2}, precision="fp16")
