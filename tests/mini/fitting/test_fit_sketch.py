"""The sketch: its targets, and that fitting it beats ignoring the prompt."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from layerflow.core.schema import CLIPS, LAYERS
from layerflow.mini.fitting.sketch import fit, from_bytes, gather, pose_of, upright
from layerflow.mini.fitting.whitening import fit_text_whitening
from layerflow.mini.network.sketch import (
    OBJECT_SIZE,
    SCENE_PLANES,
    SCENE_SIZE,
    SPRITE_EXTENT,
    SPRITE_SIZE,
    ObjectSketch,
    Pose,
    follow_sketch,
    place_sprite,
    placement_between,
    scene_target,
)
from layerflow.mini.network.text_encoder import load_text_encoder
from layerflow.mini.network.transformer import CompactTransformer3DModel
from layerflow.mini.recipes import MiniRecipe
from layerflow.mini.world import MOTIONS, SceneSource
from layerflow.mini.world.motions import UNITS
from layerflow.mini.world.scenes import motion_params
from layerflow.models.folders import find_model
from layerflow.models.layout import Layout
from layerflow.training.recipe import PhaseRecipe, StageRecipe

RECIPE = StageRecipe(
    name="sketch",
    phases=(PhaseRecipe(1, {1: 1.0}),),
    size=32,
    clip_frames=2,
    workers=0,
    mini=MiniRecipe(sketch_scenes=500, sketch_epochs=30),
    model={"widths": (8, 8, 8), "blocks_up": (1, 1, 1), "dim": 16, "num_heads": 2, "sketch_width": 64},
)


def build() -> tuple:  # type: ignore[type-arg]
    torch.manual_seed(0)
    tokenizer, encoder = load_text_encoder(find_model("mini"))
    model = CompactTransformer3DModel(sample_size=32, sample_frames=2, **RECIPE.model)
    fit_text_whitening(model, tokenizer, encoder, RECIPE, scenes=60)
    return model, tokenizer, encoder


def turned(count: int, degrees: float) -> Pose:
    angle = torch.deg2rad(torch.tensor(degrees))
    turn = torch.stack([angle.cos() - 1, angle.sin()]) / SPRITE_EXTENT
    return Pose(torch.zeros(count, 2), turn.expand(count, -1))


def wedge(count: int) -> torch.Tensor:
    """Return sprites without symmetry, (N, 4, S, S)."""
    rows, columns = torch.meshgrid(torch.arange(SPRITE_SIZE), torch.arange(SPRITE_SIZE), indexing="ij")
    alpha = ((rows > columns) & (rows > SPRITE_SIZE // 4)).float()[None]
    return torch.cat([alpha * 0.5, -alpha, alpha * 0.1, alpha])[None].expand(count, -1, -1, -1)


def test_targets_are_downsampled_clips() -> None:
    clips = {name: torch.rand(2, 3, 3, 128, 128) for name in CLIPS}
    scene = scene_target(Layout(3).pack(clips), Layout(3))
    assert scene.shape == (6, SCENE_PLANES, SCENE_SIZE, SCENE_SIZE)
    torch.testing.assert_close(scene[4, 4:, 0, 0], clips["background"][1, 1, :, :8, :8].mean((1, 2)))


def test_sprite_follows_pose_and_placement() -> None:
    sketch = ObjectSketch(channels=4, width=16)
    with torch.no_grad():
        for parameter in sketch.parameters():
            parameter.zero_()
        last = sketch.looks.drawing[-1]
        assert isinstance(last.bias, torch.Tensor)
        last.bias[3] = 20.0  # opaque everywhere
        last = sketch.poses.along[-1]
        assert isinstance(last.bias, torch.Tensor)
        last.bias[:2] = torch.tensor([0.25, -0.25])  # of half the frame's side, y down
    text, moment = torch.zeros(1, len(LAYERS), 4), torch.zeros(1, 1, 64)
    for placement, left, top in ((None, 24, 8), (torch.tensor([[0.125, 0.0, 0.0]]), 28, 8)):
        alpha = (sketch(text, moment, placement)[0, 3] + 1) / 2
        rows, columns = (alpha > 0.5).nonzero().unbind(1)
        assert (int(columns.min()), int(columns.max())) == (left, left + 31)
        assert (int(rows.min()), int(rows.max())) == (top, top + 31)


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.floats(-0.09, 0.09)] * 3), st.floats(0, 360))
def test_placement_is_recovered(placement: tuple[float, ...], angle: float) -> None:
    pose = turned(2, angle)
    target = torch.tensor([placement])
    drawn = place_sprite(wedge(2), pose)[:, 3]
    true = place_sprite(wedge(2), pose, target.expand(2, -1))[:, 3]
    found = placement_between(drawn[None], true[None], limit=0.2)
    # The size comes about the sprite's middle, the place is that of the matte's, a little beside it.
    torch.testing.assert_close(found, target, atol=0.025, rtol=0)
    assert placement_between(drawn[None], true[None], limit=0.01).abs().max() <= 0.01


def test_empty_matte_has_no_placement() -> None:
    empty, full = -torch.ones(1, 2, 16, 16), torch.ones(1, 2, 16, 16)
    assert torch.equal(placement_between(empty, full, limit=0.2), torch.zeros(1, 3))


@pytest.mark.parametrize("motion", list(MOTIONS))
def test_posed_sprite_matches_the_scene(motion: str) -> None:
    source = SceneSource("train", size=OBJECT_SIZE, frames=5)
    spec = dataclasses.replace(source.spec(3, 0), motion=motion, place="centre")
    jitter = motion_params(spec)
    for frame in range(5):
        alpha = source.render(spec, [frame]).alpha
        place, turn = pose_of(spec, frame / 4).split(2)
        # What captions leave open: up to two units of 64, and the size.
        placement = torch.tensor([[jitter.dx * 2 / UNITS, jitter.dy * 2 / UNITS, math.log(jitter.scale)]]).float()
        sprite = upright(spec)[None].clone()
        sprite[:, 3] = (sprite[:, 3] + 1) / 2
        laid = (place_sprite(sprite, Pose(place[None], turn[None]), placement)[:, 3:] + 1) / 2
        assert (laid - alpha).abs().mean() < 0.02
        assert (laid > 0.5).logical_xor(alpha > 0.5).sum() < 0.12 * (alpha > 0.5).sum()


def test_fitted_sketch_beats_the_mean_scene() -> None:
    model, tokenizer, encoder = build()
    data = gather(model, tokenizer, encoder, RECIPE)
    again = gather(model, tokenizer, encoder, dataclasses.replace(RECIPE, mini=MiniRecipe(sketch_scenes=250)))
    assert torch.equal(data.scenes[:250], again.scenes)
    assert torch.equal(data.sprites[:250], again.sprites)
    shares: list[float] = []
    before = fit(model, data, dataclasses.replace(RECIPE, mini=MiniRecipe(sketch_epochs=0)))
    error = fit(model, data, RECIPE, lambda _, share: shares.append(share))
    assert error < before
    scenes = from_bytes(data.scenes)
    with torch.no_grad():
        codes = model.frame_code(data.positions[450:])
        drawn = model.sketch(data.means[450:], codes)
        _, motions, places = model.sketch.object.poses(data.means[:450], model.frame_code(data.positions[:450]))
        _, objects = model.sketch.object.looks(data.means[:450])
    mean = scenes[:450].mean(0).expand(50, -1, -1, -1)
    assert F.mse_loss(drawn[0], scenes[450:]) < 0.9 * F.mse_loss(mean, scenes[450:])
    for scores, senses in zip((motions, places, objects), data.senses[:450].unbind(1), strict=True):
        commonest = senses.bincount().max() / len(senses)
        assert (scores.argmax(1) == senses).float().mean() > commonest + 0.2
    assert shares
    assert all(0 < share <= 1 for share in shares)


@pytest.mark.parametrize("size", [64, 32])
def test_clips_follow_the_sketch_by_its_gate(size: int) -> None:
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
