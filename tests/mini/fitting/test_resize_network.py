"""Changes of the network that training starts from, and its fitted parts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipe import TINY

from layerflow.core.config import ConfigError
from layerflow.core.schema import ALL_CLIPS
from layerflow.mini.network.folding import pool_noise
from layerflow.mini.network.transformer import CompactTransformer3DModel
from layerflow.models.layout import Layout
from layerflow.pipeline import LayerFlowPipeline
from layerflow.training.network import grow
from layerflow.training.recipe import load_recipe
from layerflow.training.trainer import Trainer

SIZES: dict[str, Any] = {
    "widths": [8, 8, 8], "blocks_up": [1, 1, 1], "dim": 16, "num_layers": 1, "num_heads": 2, "cond_dim": 16,
    "sketch_width": 16, "fill_width": 8,
}  # fmt: skip


def test_removed_embedding_leaves_other_weights() -> None:
    model = CompactTransformer3DModel(**SIZES)
    other = model.resized({"layer_embedding": False})
    assert not other.config.layer_embedding
    for name, tensor in model.state_dict().items():
        if name in ("clip_embed", "layer_embed"):
            assert tensor.any()
            assert not other.state_dict()[name].any()
        else:
            assert torch.equal(other.state_dict()[name], tensor)


def test_added_blocks_have_no_effect_at_first() -> None:
    torch.manual_seed(0)
    model = CompactTransformer3DModel(**SIZES)
    for parameter in model.parameters():  # as if it were trained: nothing is zero any more
        torch.nn.init.normal_(parameter, std=0.1)
    deeper = model.resized({"blocks_down": [1, 2, 1], "blocks_up": [2, 1, 3], "num_layers": 3})
    assert [len(blocks) for blocks in (*deeper.down, *deeper.up)] == [1, 2, 1, 2, 1, 3]
    layout = Layout(2)
    shown = torch.randn(1, layout.length, 3, 16, 16), torch.full((1, 4, 1), 0.5), torch.randn(1, 3, 4, 384)
    mask = torch.ones(1, 3, 4, dtype=torch.bool)
    drawn = deeper(*shown, mask, layout).sample
    assert torch.equal(drawn, model(*shown, mask, layout).sample)
    drawn.square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in deeper.named_parameters() if parameter.grad is not None}
    for name in ("blocks.2.attn.to_out", "blocks.1.mlp.2", "down.1.1.conv2", "up.2.2.conv2"):  # and all of it can learn
        assert gradients[f"{name}.weight"].any()


def test_hints_have_no_effect_at_first() -> None:
    torch.manual_seed(0)
    model = CompactTransformer3DModel(**SIZES)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    hinted = model.resized({"hints": True})
    assert hinted.takes_hints
    layout = Layout(2)
    shown = torch.randn(1, layout.length, 3, 16, 16), torch.full((1, 4, 1), 0.5), torch.randn(1, 3, 4, 384)
    mask = torch.ones(1, 3, 4, dtype=torch.bool)
    drawn = hinted(*shown, mask, layout, hints=torch.ones(1, 1, 2, 2, 16, 16)).sample
    assert torch.equal(drawn, model(*shown, mask, layout).sample)
    drawn.square().mean().backward()
    assert hinted.hint_stem.weight.grad.any()


def test_unfitting_changes_are_refused(tiny_pipeline: LayerFlowPipeline) -> None:
    with pytest.raises(ConfigError, match="have other sizes than"):
        grow(tiny_pipeline, {"dim": 32})
    with pytest.raises(ConfigError, match="have other sizes than"):
        grow(tiny_pipeline, {"blocks_up": [1, 0, 1]})  # fewer than there are


def test_larger_frames_keep_the_levels_that_the_network_sees(tiny_pipeline: LayerFlowPipeline) -> None:
    def levels() -> torch.Tensor:
        tiny_pipeline.scheduler.set_timesteps(6)
        sigmas = tiny_pipeline.scheduler.sigmas[:6].view(1, 6, 1)
        pooling = tiny_pipeline.transformer.config.noise_pooling
        return pool_noise(torch.zeros(1, 6, 3, 2, 2), sigmas, Layout(1, ALL_CLIPS[:6]), pooling)[1]

    before = levels()
    grow(tiny_pipeline, {"patch_size": 4, "noise_pooling": 2})
    unshifted = before * 2 / (1 + before)  # what the network would see of the former schedule is 2 times less noise
    assert torch.allclose(levels(), before, atol=0.02)  # diffusers shifts the least level of a schedule twice
    assert not torch.allclose(unshifted, before, atol=0.02)


@pytest.mark.parametrize("trained", [False, True])
def test_fitted_sketch_is_frozen_by_default(tmp_path: Path, trained: bool) -> None:
    steps = "phases: [{steps: 1, frames: {1: 1.0}}]\nframes_per_batch: 2\n"
    (tmp_path / "tiny.yaml").write_text(f"{TINY}{steps}train_fitted: {str(trained).lower()}\n")
    trainer = Trainer(load_recipe(tmp_path / "tiny.yaml").stages[0], tmp_path)
    model: Any = trainer.model
    for parameter in model.parameters():  # a fresh network does not look at its sketch yet
        if parameter.requires_grad and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    before = {name: tensor.clone() for name, tensor in model.sketch.named_parameters()}
    trainer.train_step(trainer.batches[0])
    moved = [not torch.equal(tensor, before[name]) for name, tensor in model.sketch.named_parameters()]
    assert any(moved) == trained
