"""What every full-size backbone promises of diffusers' switches; a test of each backbone calls these."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch import Tensor, nn

Inputs = Callable[[], dict[str, Any]]


def check_gradient_checkpointing(model: nn.Module, blocks: nn.ModuleList, inputs: Inputs) -> None:
    calls: list[int] = []
    blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model(**inputs()).sample.square().mean().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    plain = gradients()
    model.train()
    model.enable_gradient_checkpointing()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients(), plain, strict=True))
    assert len(calls) == 3  # once, then once and once more on the way back


@torch.no_grad()
def check_attention_backend(model: nn.Module, attentions: int, inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, calls = AttentionBackendName._NATIVE_MATH, []
    real = _AttentionBackendRegistry._backends[chosen]
    monkeypatch.setitem(
        _AttentionBackendRegistry._backends, chosen, lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs)
    )
    expected = model(**inputs()).sample
    assert not calls
    with monkeypatch.context() as patch:  # choosing a backend also makes it the default of every other model
        patch.setattr(_AttentionBackendRegistry, "_active_backend", _AttentionBackendRegistry._active_backend)
        model.set_attention_backend(chosen.value)
        assert torch.allclose(model(**inputs()).sample, expected, atol=1e-5)
    assert len(calls) == attentions


@torch.no_grad()
def check_first_block_cache(model: nn.Module, blocks: nn.ModuleList, inputs: Inputs) -> None:
    calls: list[int] = []
    blocks[1].attn1.register_forward_hook(lambda *_: calls.append(1))
    model.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    with model.cache_context("cond"):
        model(**inputs())
        model(**inputs())
    assert len(calls) == 1
    model.disable_cache()


@torch.no_grad()
def check_repeated_blocks(model: nn.Module, inputs: Inputs) -> None:
    names = {type(module).__name__ for module in model.modules()}
    assert set(model._repeated_blocks) | set(model._no_split_modules) <= names
    expected = model(**inputs()).sample
    model.compile_repeated_blocks(backend="eager", fullgraph=True)
    assert torch.allclose(model(**inputs()).sample, expected, atol=1e-5)
