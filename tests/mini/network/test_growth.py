"""A network that grows computes the same at first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from layerflow.core.errors import UserError
from layerflow.core.schema import CLIPS, model_clips
from layerflow.mini.network import transformer as module
from layerflow.mini.network.folding import pool_noise
from layerflow.mini.network.transformer import CompactTransformer3DModel
from layerflow.models.layout import Layout

SIZES: dict[str, Any] = {
    "widths": (8, 8, 16), "blocks_up": (1, 1, 1), "dim": 16, "num_layers": 1, "num_heads": 2, "cond_dim": 16,
    "sketch_width": 16, "fill_width": 8, "text_dim": 12, "sample_size": 32, "sample_frames": 2,
}  # fmt: skip
LAYOUT = Layout(2)


@pytest.fixture
def small() -> CompactTransformer3DModel:
    torch.manual_seed(0)
    model = CompactTransformer3DModel(**SIZES).eval()
    for name, parameter in model.named_parameters():
        if not parameter.any() and "readers" not in name:  # sketches are resampled, which is not exact
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def drawn(model: CompactTransformer3DModel, sequence: Tensor, level: float, monkeypatch: Any) -> Tensor:
    """Return what a network draws, before clips are composed at full size."""
    timestep = torch.full((1, len(CLIPS), 1), level)
    timestep[:, -1] = 0
    with monkeypatch.context() as patch:
        patch.setattr(
            module, "solve_composition", lambda clips, copy, *_: {**clips, "alpha": clips["alpha"] + copy.mean()}
        )
        patch.setattr(module, "follow_sketch", lambda clips, *_: clips)
        text, mask = torch.zeros(1, 3, 2, 12), torch.ones(1, 3, 2, dtype=torch.bool)
        sample: Tensor = model(sequence, timestep, text, mask, LAYOUT).sample
        return sample


@torch.no_grad()
@pytest.mark.parametrize("level", [0.3, 1.0])
def test_larger_patches_shrink_process_and_enlarge(
    small: CompactTransformer3DModel, level: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"patch_size": 4, "sample_size": 64, "noise_pooling": 2, "hints": True}
    large = small.resized(changes).eval()
    sequence = torch.randn(1, LAYOUT.length, 3, 32, 32)

    def enlarged(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, -1).repeat_interleave(2, -2)

    # The level t of the large frame that the mean of 2x2 pixels has at the small one's level s: s = t / (2 - t).
    own = 2 * level / (1 + level)
    timestep = torch.full((1, len(CLIPS), 1), own)
    timestep[:, -1] = 0
    scaled, known = pool_noise(torch.ones_like(sequence), timestep, LAYOUT, 2)
    assert float(known[0, 0, 0]) == pytest.approx(level)
    expected = enlarged(drawn(small, sequence, level, monkeypatch))
    assert torch.allclose(drawn(large, enlarged(sequence / scaled), own, monkeypatch), expected, atol=1e-4)


def test_pooled_noise_has_the_level_that_it_is_given_for() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.full((1, 4, 3, 128, 128), 0.5), torch.randn(1, 4, 3, 128, 128, generator=generator)
    layout, t = Layout(1), torch.tensor([[[0.2], [0.7], [1.0], [0.0]]])
    level = layout.per_frame(t)
    pooled, known = pool_noise((1 - level) * clean + level * noise, t, layout, 2)
    small = torch.nn.functional.avg_pool2d(pooled[0], 2)
    for clip in range(4):
        s = float(known[0, clip, 0])
        assert float(small[clip].mean()) == pytest.approx(0.5 * (1 - s), abs=0.02)
        assert float(small[clip].std()) == pytest.approx(s, rel=0.03, abs=1e-6)


def test_patches_grow_only_to_multiples(small: CompactTransformer3DModel) -> None:
    with pytest.raises(UserError, match="multiple"):
        small.resized({"patch_size": 4}).resized({"patch_size": 2})


def test_the_number_of_foregrounds_is_not_part_of_the_weights() -> None:
    own = {"separation_layers": 1, "separation_dim": 32, "separation_width": 8}
    two, three = (CompactTransformer3DModel(**SIZES, **own, clips=model_clips(count)) for count in (2, 3))
    shapes = [{name: tensor.shape for name, tensor in model.state_dict().items()} for model in (two, three)]
    assert shapes[0] == shapes[1]


def test_clips_without_those_of_a_scene_are_refused() -> None:
    with pytest.raises(ValueError, match="do not begin with"):
        CompactTransformer3DModel(**SIZES, clips=("alpha", "blended"))
