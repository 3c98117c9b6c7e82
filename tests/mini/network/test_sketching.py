"""The backbone with a sprite book: its inputs in sampling and training, and what it draws from given frames."""

from typing import Any

import pytest
import torch

from layerflow.core.schema import ALPHA, FOREGROUND
from layerflow.mini.network.carrying import spots
from layerflow.mini.network.sketch import BESIDE, OBJECT_CHANCES
from layerflow.mini.network.transformer import CompactTransformer3DModel
from layerflow.models.layout import Layout

BOOK = {"concepts": 3, "styles": 2, "looks": 5, "directions": 2, "code": 4, "width": 32, "hidden": 32}
SIZES: dict[str, Any] = {
    "widths": [8, 8, 8], "blocks_up": [1, 1, 1], "dim": 16, "num_layers": 1, "num_heads": 2, "cond_dim": 16,
    "sketch_width": 16, "fill_width": 8,
}  # fmt: skip
FRAMES, SIDE = 3, 32
LAYOUT = Layout(FRAMES)


@pytest.fixture
def model() -> CompactTransformer3DModel:
    torch.manual_seed(0)
    model = CompactTransformer3DModel(**SIZES, sprite_book=BOOK)
    book = model.sketch.object.book
    with torch.no_grad():
        book.looks.copy_(torch.tensor([[0, 1], [2, -1], [3, 4]]))
        book.codes.mul_(4)
    return model.eval()


def text() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, 3, 4, 384, generator=generator), torch.ones(1, 3, 4, dtype=torch.bool)


def noise() -> torch.Tensor:
    return torch.randn(1, LAYOUT.length, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_seeds_choose_looks(model: CompactTransformer3DModel) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in range(8)]
    chance = model.sampling_inputs(8, generators)["chance"]
    assert chance.shape == (8, OBJECT_CHANCES)
    assert bool(((chance >= 0) & (chance < 1)).all())
    alone = model.sampling_inputs(1, torch.Generator().manual_seed(3))
    assert torch.equal(alone["chance"][0], chance[3])
    level = torch.ones(1, 4, 1)
    drawn = [
        model(noise(), level, *text(), LAYOUT, chance=chance[n : n + 1], placement=torch.zeros(1, 3)).sample
        for n in range(8)
    ]
    assert len({tuple(one.flatten()[:2000].tolist()) for one in drawn}) > 1


@torch.no_grad()
def test_the_object_is_drawn_as_sketched(model: CompactTransformer3DModel) -> None:
    states, mask = text()
    chance, placement = torch.tensor([[0.2, 0.3, 0.4]]), torch.zeros(1, 3)
    sample = model(noise(), torch.ones(1, 4, 1), states, mask, LAYOUT, chance=chance, placement=placement).sample
    clips = LAYOUT.unpack(sample)
    mean = model.pool_whitening(states.mean(2))
    positions = torch.arange(FRAMES)[None]
    sketch = model.sketch.object(mean, model.frame_code(positions), placement, chance, positions, (SIDE, SIDE))
    torch.testing.assert_close(clips[ALPHA][0, :, 0], sketch[:, 3], atol=1e-4, rtol=0)
    torch.testing.assert_close(clips[FOREGROUND][0], sketch[:, :3], atol=1e-4, rtol=0)


@torch.no_grad()
def test_wide_frames_show_objects_as_wide_as_high(model: CompactTransformer3DModel) -> None:
    states, mask = text()
    wide = torch.randn(1, LAYOUT.length, 3, SIDE, 2 * SIDE, generator=torch.Generator().manual_seed(2))
    inputs = {"placement": torch.zeros(1, 3), "chance": torch.tensor([[0.2, 0.3, 0.4]])}
    drawn = [
        LAYOUT.unpack(model(sequence, torch.ones(1, 4, 1), states, mask, LAYOUT, **inputs).sample)[ALPHA][0, 0, 0]
        for sequence in (noise(), wide)
    ]
    torch.testing.assert_close(drawn[1][:, SIDE // 2 : -SIDE // 2], drawn[0], atol=1e-4, rtol=0)


@torch.no_grad()
def test_training_inputs_draw_what_is_true(model: CompactTransformer3DModel) -> None:
    """A clip that the book drew is recognised, so that the sketch shows it again."""
    states, mask = text()
    positions = torch.arange(FRAMES)[None]
    mean = model.pool_whitening(states.mean(2))
    code = model.frame_code(positions)
    given = torch.zeros(1, 4, 1, dtype=torch.bool)
    generators = [torch.Generator().manual_seed(0)]
    for seed in range(6):
        chance = model.draw_chance(1, torch.Generator().manual_seed(seed))
        placement = torch.tensor([[0.05, -0.03, 0.02]])
        true = model.sketch.object(mean, code, placement, chance, positions, (SIDE, SIDE))
        clips = LAYOUT.unpack(noise())
        clips |= {FOREGROUND: true[None, :, :3], ALPHA: true[None, :, 3:].expand(-1, -1, 3, -1, -1)}
        sequence = LAYOUT.pack(clips)
        found = model.training_inputs(sequence, LAYOUT, given, states, mask, positions, generators)
        again = model.sketch.object(mean, code, found["placement"], found["chance"], positions, (SIDE, SIDE))
        assert float((again - true).abs().mean()) < 0.05
        shown = given.clone()
        shown[:, 0] = True  # where a given clip shows the object, the inputs are as random as in sampling
        other = model.training_inputs(sequence, LAYOUT, shown, states, mask, positions, generators)
        assert not torch.equal(other["placement"], found["placement"])


@torch.no_grad()
def test_true_clips_show_where_several_objects_are() -> None:
    """They are not put beside each other in training, where they have places already."""
    torch.manual_seed(0)
    clips = [*LAYOUT.clips, "foreground-2", "alpha-2"]
    model = CompactTransformer3DModel(**SIZES, sprite_book=BOOK, clips=clips).eval()
    model.sketch.object.book.looks.copy_(torch.tensor([[0, 1], [2, -1], [3, 4]]))
    states, mask = torch.randn(1, 4, 4, 384), torch.ones(1, 4, 4, dtype=torch.bool)
    positions = torch.arange(FRAMES)[None]
    shown = {name: torch.zeros(1, FRAMES, 3, SIDE, SIDE) for name in clips}
    for name, left in ((ALPHA, 2), ("alpha-2", 14)):
        shown[name][:] = -1
        shown[name][..., 8:22, left : left + 14] = 1
    found = model.find_inputs(states, mask, positions, shown)
    mean = model.pool_whitening(states.mean(2))
    code = model.frame_code(positions)
    _, objects = model.sketch(mean, code, found["placement"], found["chance"], positions, (SIDE, SIDE))
    for name, planes in zip((ALPHA, "alpha-2"), objects, strict=True):
        centre = spots((planes[None, :, 3] + 1) / 2).centre[0, 0]
        own = spots((shown[name][:, :, 0] + 1) / 2).centre[0, 0]
        limit = 3 * model.config.placement_spread  # larger differences belong to the pose, which is at the middle here
        assert float(centre[0]) == pytest.approx(float(own[0].clamp(-limit, limit)), abs=0.05)


@torch.no_grad()
def test_given_frames_are_carried(model: CompactTransformer3DModel) -> None:
    clips = LAYOUT.unpack(noise())
    square = torch.full((1, FRAMES, 3, SIDE, SIDE), -1.0)
    square[..., 8:20, 8:20] = 1.0
    sequence = LAYOUT.pack(clips | {FOREGROUND: square * 0.5, ALPHA: square})
    level = torch.ones(1, 4, FRAMES)
    level[:, :2, 0] = 0  # foreground and alpha of the first frame are given
    sample = model(sequence, level, *text(), LAYOUT).sample
    alpha = LAYOUT.unpack(sample)[ALPHA][0, :, 0]
    for frame in range(FRAMES):  # the course of an untrained sketch stands still
        assert float((alpha[frame] - square[0, 0, 0]).abs().mean()) < 0.02


@torch.no_grad()
def test_the_network_draws_what_only_a_matte_shows(model: CompactTransformer3DModel) -> None:
    """The book draws its object anywhere, and not within a given matte."""
    level = torch.ones(1, 4, 1)
    level[:, LAYOUT.clips.index(ALPHA)] = 0
    inputs = {"placement": torch.zeros(1, 3), "chance": torch.full((1, 3), 0.5)}
    free = model(noise(), torch.ones(1, 4, 1), *text(), LAYOUT, **inputs).sample
    sequence = LAYOUT.pack(LAYOUT.unpack(noise()) | {ALPHA: torch.full((1, FRAMES, 3, SIDE, SIDE), -1.0)})
    masked = model(sequence, level, *text(), LAYOUT, **inputs).sample
    assert not torch.equal(LAYOUT.unpack(masked)[FOREGROUND], LAYOUT.unpack(free)[FOREGROUND])


@torch.no_grad()
def test_objects_at_one_place_stand_side_by_side(model: CompactTransformer3DModel) -> None:
    sketch = model.sketch
    codes = model.frame_code(torch.arange(FRAMES)[None]).expand(8, -1, -1)
    means = [torch.randn(1, 3, 192).expand(8, -1, -1) for _ in range(2)]
    chance = torch.rand(8, 2 * OBJECT_CHANCES, generator=torch.Generator().manual_seed(0))
    shift = sketch.side_by_side(means, codes, chance).unflatten(1, (2, 3))
    assert torch.allclose(shift[:, 0, 0], -shift[:, 1, 0])
    assert torch.allclose(shift[:, :, 0].abs(), torch.tensor(BESIDE / 2))
    assert bool((shift[:, :, 2] < 0).all())  # and are smaller
    assert len(set(shift[:, 0, 0].sign().tolist())) == 2  # either may be on the left

    # Prompts that name their places, far enough from each other, are followed.
    centres = iter([-0.5, 0.5])
    course = sketch.object.course
    sketch.object.course = lambda *given: course(*given)._replace(place=torch.full((8, FRAMES, 2), next(centres)))
    assert not bool(sketch.side_by_side(means, codes, chance).any())


def test_a_book_takes_the_place_of_sprites() -> None:
    torch.manual_seed(0)
    model = CompactTransformer3DModel(**SIZES)
    grown = model.resized({"sprite_book": BOOK})
    assert grown.config.sprite_book == BOOK
    assert not [name for name in grown.state_dict() if name.startswith("sketch.object.looks.")]
    assert torch.equal(grown.sketch.object.poses.path.weight, model.sketch.object.poses.path.weight)
    again = grown.resized({"frame_masks": True})
    for name, tensor in grown.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
