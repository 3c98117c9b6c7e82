"""The sketch: what it is fitted to, and that fitting it beats not knowing the prompt."""

import dataclasses

import torch

from layerflow.loading import find_model
from layerflow.models.compact import CompactTransformer3DModel
from layerflow.models.layout import CLIPS, LAYERS, Layout
from layerflow.models.sketch import (
    OBJECT_PLANES,
    OBJECT_SIZE,
    SCENE_PLANES,
    SCENE_SIZE,
    SPRITE_SIZE,
    ObjectSketch,
    sketch_error,
    sketch_targets,
)
from layerflow.models.text import load_text_encoder
from layerflow.training.network import fit_text_whitening
from layerflow.training.recipe import PhaseRecipe, Recipe
from layerflow.training.sketch import fit, gather

RECIPE = Recipe(
    name="sketch", phases=(PhaseRecipe(1, {1: 1.0}),), size=32, clip_frames=2, sketch_scenes=500, sketch_epochs=80,
    workers=0, model={"widths": (8, 8, 8), "blocks_up": (1, 1, 1), "dim": 16, "num_heads": 2, "sketch_width": 128},
)  # fmt: skip


def build() -> tuple:  # type: ignore[type-arg]
    torch.manual_seed(0)
    tokenizer, encoder = load_text_encoder(find_model("mini"))
    model = CompactTransformer3DModel(sample_size=32, sample_frames=2, **RECIPE.model)
    fit_text_whitening(model, tokenizer, encoder, RECIPE, scenes=60)
    return model, tokenizer, encoder


def test_targets_are_the_clips_themselves_made_small() -> None:
    clips = {name: torch.rand(2, 3, 3, 64, 64) for name in CLIPS}
    scene, sprite = sketch_targets(Layout(3).pack(clips), Layout(3))
    assert scene.shape == (6, SCENE_PLANES, SCENE_SIZE, SCENE_SIZE)
    assert sprite.shape == (6, OBJECT_PLANES, OBJECT_SIZE, OBJECT_SIZE)
    torch.testing.assert_close(scene[4, 4:, 0, 0], clips["background"][1, 1, :, :4, :4].mean((1, 2)))
    torch.testing.assert_close(sprite[4, :3, 0, 0], clips["foreground"][1, 1, :, :2, :2].mean((1, 2)))
    torch.testing.assert_close(sprite[4, 3, 5, 7], clips["alpha"][1, 1, 0, 10:12, 14:16].mean())


def test_a_sprite_goes_where_its_pose_says() -> None:
    sketch = ObjectSketch(channels=4, width=8)
    with torch.no_grad():
        for parameter in sketch.parameters():
            parameter.zero_()
        sketch.looks[-1].bias[3 * SPRITE_SIZE**2 :] = 20.0  # opaque everywhere
        sketch.pose.bias[:2] = torch.tensor([0.25, -0.5])  # of half the frame's side, y down
    alpha = (sketch(torch.zeros(1, len(LAYERS), 4), torch.zeros(1, 1, 64))[0, 3] + 1) / 2
    rows, columns = (alpha > 0.5).nonzero().unbind(1)
    assert (int(columns.min()), int(columns.max())) == (12, 27)  # 16 wide about 16 + 0.25 * 16
    assert (int(rows.min()), int(rows.max())) == (0, 15)  # 16 high about 16 - 0.5 * 16


def test_fitted_sketches_know_more_than_the_mean_of_all_scenes() -> None:
    model, tokenizer, encoder = build()
    data = gather(model, tokenizer, encoder, RECIPE)
    again = gather(model, tokenizer, encoder, dataclasses.replace(RECIPE, sketch_scenes=250))
    assert torch.equal(data.scenes[:250], again.scenes)
    assert torch.equal(data.objects[:250], again.objects)
    rest, rows = (data.scenes[450:].float(), data.objects[450:].float()), slice(0, 450)
    means = tuple(planes[rows].float().mean(0).expand(50, -1, -1, -1) for planes in (data.scenes, data.objects))
    shares: list[float] = []
    error = fit(model, data, RECIPE, lambda _, share: shares.append(share))
    assert error < 0.93 * float(sketch_error(means, rest))
    assert shares
    assert all(0 < share <= 1 for share in shares)
