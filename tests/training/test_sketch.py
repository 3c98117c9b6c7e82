"""The sketch: what it is fitted to, and that fitting it beats not knowing the prompt."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

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
    Pose,
    follow_sketch,
    lay,
    placement_between,
    sketch_targets,
)
from layerflow.models.text import load_text_encoder
from layerflow.training.network import fit_text_whitening
from layerflow.training.recipe import PhaseRecipe, Recipe
from layerflow.training.sketch import best_quarter, fit, from_bytes, gather

RECIPE = Recipe(
    name="sketch", phases=(PhaseRecipe(1, {1: 1.0}),), size=32, clip_frames=2, sketch_scenes=500, sketch_epochs=30,
    workers=0, model={"widths": (8, 8, 8), "blocks_up": (1, 1, 1), "dim": 16, "num_heads": 2, "sketch_width": 64},
)  # fmt: skip


def build() -> tuple:  # type: ignore[type-arg]
    torch.manual_seed(0)
    tokenizer, encoder = load_text_encoder(find_model("mini"))
    model = CompactTransformer3DModel(sample_size=32, sample_frames=2, **RECIPE.model)
    fit_text_whitening(model, tokenizer, encoder, RECIPE, scenes=60)
    return model, tokenizer, encoder


def upright(count: int) -> Pose:
    return Pose(torch.zeros(count, 2), torch.zeros(count, 2), torch.zeros(count, 4))


def wedge(count: int) -> torch.Tensor:
    """Sprites that look different whichever way they are turned: (N, 4, S, S)."""
    rows, columns = torch.meshgrid(torch.arange(SPRITE_SIZE), torch.arange(SPRITE_SIZE), indexing="ij")
    alpha = ((rows > columns) & (rows > SPRITE_SIZE // 4)).float()[None]
    return torch.cat([alpha * 0.5, -alpha, alpha * 0.1, alpha])[None].expand(count, -1, -1, -1)


def test_targets_are_the_clips_themselves_made_small() -> None:
    clips = {name: torch.rand(2, 3, 3, 128, 128) for name in CLIPS}
    scene, sprite = sketch_targets(Layout(3).pack(clips), Layout(3))
    assert scene.shape == (6, SCENE_PLANES, SCENE_SIZE, SCENE_SIZE)
    assert sprite.shape == (6, OBJECT_PLANES, OBJECT_SIZE, OBJECT_SIZE)
    torch.testing.assert_close(scene[4, 4:, 0, 0], clips["background"][1, 1, :, :8, :8].mean((1, 2)))
    torch.testing.assert_close(sprite[4, :3, 0, 0], clips["foreground"][1, 1, :, :2, :2].mean((1, 2)))
    torch.testing.assert_close(sprite[4, 3, 5, 7], clips["alpha"][1, 1, 0, 10:12, 14:16].mean())


def test_a_sprite_goes_where_its_pose_and_its_placement_say() -> None:
    sketch = ObjectSketch(channels=4, width=16)
    with torch.no_grad():
        for parameter in sketch.parameters():
            parameter.zero_()
        last = sketch.looks.drawing[-1]
        assert isinstance(last.bias, torch.Tensor)
        last.bias[3] = 20.0  # opaque everywhere
        sketch.to_pose.bias[:2] = torch.tensor([0.25, -0.25])  # of half the frame's side, y down
    text, moment = torch.zeros(1, len(LAYERS), 4), torch.zeros(1, 1, 64)
    for placement, left, top in ((None, 24, 8), (torch.tensor([[0.125, 0.0, 0.0]]), 28, 8)):
        alpha = (sketch(text, moment, placement)[0, 3] + 1) / 2
        rows, columns = (alpha > 0.5).nonzero().unbind(1)
        assert (int(columns.min()), int(columns.max())) == (left, left + 31)
        assert (int(rows.min()), int(rows.max())) == (top, top + 31)


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.floats(-0.09, 0.09)] * 3), st.integers(0, 3))
def test_a_placement_is_measured_as_it_was_laid(placement: tuple[float, ...], turn: int) -> None:
    pose, quarter = upright(2), torch.tensor([turn, turn])
    wanted = torch.tensor([placement])
    drawn = lay(wedge(2), pose, quarter)[:, 3]
    true = lay(wedge(2), pose, quarter, wanted.expand(2, -1))[:, 3]
    found = placement_between(drawn[None], true[None], limit=0.2)
    # The size comes about the sprite's middle, the place is that of the matte's, a little beside it.
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0)
    assert placement_between(drawn[None], true[None], limit=0.01).abs().max() <= 0.01


def test_an_empty_matte_has_no_placement() -> None:
    empty, full = -torch.ones(1, 2, 16, 16), torch.ones(1, 2, 16, 16)
    assert torch.equal(placement_between(empty, full, limit=0.2), torch.zeros(1, 3))


@pytest.mark.parametrize("turn", range(4))
def test_the_quarter_turn_that_a_still_shows_is_found(turn: int) -> None:
    still = lay(wedge(1), upright(1), torch.tensor([turn]))
    assert best_quarter(wedge(1), upright(1), still).tolist() == [turn]


def test_fitted_sketches_know_more_than_the_mean_of_all_scenes() -> None:
    model, tokenizer, encoder = build()
    data = gather(model, tokenizer, encoder, RECIPE)
    again = gather(model, tokenizer, encoder, dataclasses.replace(RECIPE, sketch_scenes=250))
    assert torch.equal(data.scenes[:250], again.scenes)
    assert torch.equal(data.objects[:250], again.objects)
    shares: list[float] = []
    before = fit(model, data, dataclasses.replace(RECIPE, sketch_epochs=0))
    error = fit(model, data, RECIPE, lambda _, share: shares.append(share))
    assert error < before
    scenes = from_bytes(data.scenes)
    with torch.no_grad():
        drawn = model.sketch(data.means[450:], model.frame_code(data.positions[450:]))
    mean = scenes[:450].mean(0).expand(50, -1, -1, -1)
    assert F.mse_loss(drawn[0], scenes[450:]) < 0.9 * F.mse_loss(mean, scenes[450:])
    assert shares
    assert all(0 < share <= 1 for share in shares)


@pytest.mark.parametrize("size", [64, 32])
def test_clips_follow_the_sketch_as_far_as_it_is_trusted(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = {
        name: torch.rand(2, 3, channels, size, size, generator=generator)
        for name, channels in (("foreground", 3), ("alpha", 1))
    }
    sketch = torch.rand(6, 4, 64, 64, generator=generator)
    background = torch.rand(2, 3, 3, size, size, generator=generator)
    trust = torch.zeros(2, 3, 1, size, size)
    same = follow_sketch(drawn | {"background": background}, sketch, trust)
    assert all(torch.equal(same[name], clip) for name, clip in drawn.items())
    assert same["background"] is background
    trust[:, 1] = 1
    taken = follow_sketch({"alpha": drawn["alpha"]}, sketch, trust)
    assert set(taken) == {"alpha"}
    expected = sketch.unflatten(0, (2, 3))[:, 1, 3:]
    expected = F.interpolate(expected, (size, size), mode="bilinear")
    torch.testing.assert_close(taken["alpha"][:, 1], expected)
    assert torch.equal(taken["alpha"][:, 0], drawn["alpha"][:, 0])
