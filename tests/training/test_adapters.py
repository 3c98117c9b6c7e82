"""Adapters switched for single samples: a mixed batch equals its single samples, on every backbone."""

from typing import Any

import pytest
import torch
from full_size import build
from torch import Tensor

from layerflow import LayerFlowPipeline
from layerflow.core.config import ConfigError
from layerflow.core.schema import LAYERS
from layerflow.models.layout import Layout
from layerflow.training.adapters import AdapterSwitch, add_adapter, belongs_to, targets_of
from layerflow.training.recipe import AdapterRecipe

BACKBONES = ("compact", "cogvideox", "wan")


def model_of(name: str, tiny: LayerFlowPipeline) -> Any:
    return tiny.transformer if name == "compact" else build(name).transformer


def inputs(model: Any, batch: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    config = model.config
    size = config.sample_size
    size = (size, size) if isinstance(size, int) else size
    layout = Layout(config.sample_frames, tuple(config.clips), config.get("lead_frames", 0))
    text = config.get("text_dim") or config["text_embed_dim"]
    words = config.get("text_length", 5)
    return {
        "hidden_states": torch.randn(batch, layout.length, config.in_channels, *size, generator=generator),
        "timestep": torch.rand(batch, len(layout.clips), 1, generator=generator).clamp(min=0.1),
        "encoder_hidden_states": torch.randn(batch, len(LAYERS), words, text, generator=generator),
        "encoder_attention_mask": torch.ones(batch, len(LAYERS), words, dtype=torch.bool),
        "layout": layout,
    }


def rows(values: dict[str, Any], picked: slice) -> dict[str, Any]:
    return {name: value[picked] if isinstance(value, Tensor) else value for name, value in values.items()}


def with_adapters(model: Any, *names: str) -> AdapterSwitch:
    for seed, name in enumerate(names):
        add_adapter(model, name, AdapterRecipe(rank=2, alpha=2.0))
        torch.manual_seed(seed)
        for key, parameter in model.named_parameters():
            if belongs_to(key, name):
                torch.nn.init.normal_(parameter, std=0.15)
    return AdapterSwitch(model, list(names))


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_mixed_batch_equals_single_samples(name: str, tiny_pipeline: LayerFlowPipeline) -> None:
    model = model_of(name, tiny_pipeline).eval()
    values = inputs(model, 3)
    plain = model(**values).sample
    switch = with_adapters(model, "motion", "content")
    on = {"motion": torch.tensor([True, False, False]), "content": torch.tensor([True, True, False])}
    switch.set(on)
    mixed = model(**values).sample
    for row in range(3):
        switch.set({key: mask[row : row + 1] for key, mask in on.items()})
        alone = model(**rows(values, slice(row, row + 1))).sample
        scale = max(1.0, float(alone.abs().max()) / 10)  # random weights may give large values
        assert torch.allclose(mixed[row : row + 1], alone, atol=1e-5 * scale)
    assert torch.allclose(mixed[2], plain[2], atol=1e-5)  # off: the network as it was
    assert not torch.allclose(mixed[1], plain[1], atol=1e-3)
    switch.set({**on, "motion": torch.zeros(3, dtype=torch.bool)})
    assert not torch.allclose(model(**values).sample[0], mixed[0], atol=1e-3)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapter_learns_only_from_its_samples(name: str, checkpointing: bool, tiny_pipeline: LayerFlowPipeline) -> None:
    model = model_of(name, tiny_pipeline)
    switch = with_adapters(model, "motion")
    if checkpointing:
        model.enable_gradient_checkpointing()
    values = inputs(model.train(), 2)

    def gradients(on: list[bool], counted: slice) -> list[Tensor]:
        model.zero_grad()
        switch.set({"motion": torch.tensor(on)})
        model(**values).sample[counted].square().mean().backward()
        return [p.grad.clone() for n, p in model.named_parameters() if belongs_to(n, "motion") and p.grad is not None]

    first = slice(0, 1)
    both, own, other = (gradients(on, first) for on in ([True, True], [True, False], [False, True]))
    assert any(gradient.any() for gradient in own)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(both, own, strict=True))
    assert not any(gradient.any() for gradient in other)


def test_targets_match_the_end_of_layer_names(tiny_pipeline: LayerFlowPipeline) -> None:
    wan = build("wan").transformer
    assert all(name.split(".")[-1] in ("to_q", "to_k", "to_v", "0") for name in targets_of(wan, AdapterRecipe()))
    assert len(targets_of(wan, AdapterRecipe(targets=("attn1.to_q",)))) == 2
    assert any("conv1" in name for name in targets_of(tiny_pipeline.transformer, AdapterRecipe()))
    with pytest.raises(ConfigError, match="no layer's name ends in 'to_z'"):
        targets_of(wan, AdapterRecipe(targets=("to_z",)))
