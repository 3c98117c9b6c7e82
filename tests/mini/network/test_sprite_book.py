"""The sprite book's network: its choice, its phases and its tints."""

import numpy as np
import pytest
import torch

from layerflow.core.compositing import unpremultiply
from layerflow.core.schema import LAYERS
from layerflow.mini.network.sprite_book import (
    CHANCES,
    LOOK_SIZE,
    TINTS,
    BookSizes,
    SpriteBook,
    likely,
    pick,
    tint,
)
from layerflow.mini.world.sprites import FOREGROUND_COLOURS, measure_luminance
from layerflow.mini.world.sprites import tint as tint_drawn

SIZES = BookSizes(concepts=5, styles=3, looks=9, directions=4, code=4, width=32, hidden=32)


@pytest.fixture
def book() -> SpriteBook:
    torch.manual_seed(0)
    book = SpriteBook(6, SIZES)
    book.looks.copy_(torch.tensor([[0, 1, -1], [2, -1, -1], [3, 4, 5], [6, -1, 7], [-1, -1, 8]]))
    book.owner.copy_(torch.tensor([0, 0, 4, -1]))
    return book


def test_drawing_has_its_shape_and_range(book: SpriteBook) -> None:
    sprite, understood = book(torch.randn(2, len(LAYERS), 6), torch.rand(2, 3), torch.rand(2, CHANCES))
    assert sprite.shape == (6, 4, LOOK_SIZE, LOOK_SIZE)
    colour, alpha = sprite.split([3, 1], dim=1)
    assert bool((alpha >= 0).all())
    assert bool((alpha <= 1).all())
    assert bool((colour.abs() <= alpha + 1e-6).all())
    assert [part.shape[1] for part in understood] == [5, 3, len(TINTS), 1]


def test_gradients_reach_codes_and_decoder(book: SpriteBook) -> None:
    sprite, _ = book(torch.randn(1, len(LAYERS), 6), torch.rand(1, 2))
    sprite.square().mean().backward()
    assert book.codes.grad is not None
    assert bool(book.codes.grad.any())
    assert all(parameter.grad is not None for parameter in book.decoder.parameters())


def test_only_existing_looks_are_chosen(book: SpriteBook) -> None:
    generator = torch.Generator().manual_seed(0)
    understood = book.reader(5 * torch.randn(300, len(LAYERS), 6, generator=generator))
    for chance in (None, torch.rand(300, CHANCES, generator=generator)):
        look = book.choose(understood, chance)
        assert bool((look >= 0).all())
        assert bool((look < SIZES.looks).all())


def test_same_chance_same_look(book: SpriteBook) -> None:
    mean, phase = torch.randn(4, len(LAYERS), 6), torch.zeros(4, 1)
    chance = torch.rand(4, CHANCES)
    assert torch.equal(book(mean, phase, chance)[0], book(mean, phase, chance)[0])


def test_only_loops_move_and_with_period_one(book: SpriteBook) -> None:
    phase = torch.tensor([[0.1, 1.1, 0.4]])
    for look, moves in ((0, True), (4, True), (1, False), (8, False)):
        first, again, other = book.code(torch.tensor([look]), phase)
        torch.testing.assert_close(first, again, atol=1e-4, rtol=0)
        assert bool((first - other).abs().max() > 1e-3) == moves


def test_chance_follows_probabilities() -> None:
    probability = torch.tensor([0.5, 0.0, 0.25, 0.25])
    chance = torch.linspace(0, 1, 1001)[:-1]
    counts = pick(probability.expand(1000, -1), chance).bincount(minlength=4) / 1000
    torch.testing.assert_close(counts, probability, atol=2e-3, rtol=0)
    assert int(pick(probability[None], torch.tensor([0.999999]))[0]) == 3
    assert int(pick(probability[None], None)[0]) == 0


def test_unlikely_concepts_are_never_chosen() -> None:
    probability = likely(torch.tensor([[0.9, 0.5, 0.08, 0.02]]).log())
    assert (probability[0] > 0).tolist() == [True, True, False, False]
    assert float(probability.sum()) == pytest.approx(1)


@pytest.mark.parametrize("name", list(FOREGROUND_COLOURS))
def test_tint_equals_that_of_the_drawn_world(name: str) -> None:
    rng = np.random.default_rng(0)
    straight = rng.random((16, 16, 3)).astype(np.float32)
    alpha = (rng.random((16, 16, 1)) > 0.3).astype(np.float32)
    rgba = np.concatenate([straight * alpha, alpha], axis=-1)
    expected = tint_drawn(rgba, name, *measure_luminance(rgba))[..., :3]
    sprite = np.concatenate([(2 * straight - 1) * alpha, alpha], axis=-1).transpose(2, 0, 1)[None]
    drawn = tint(torch.from_numpy(sprite), torch.tensor([FOREGROUND_COLOURS[name]]))
    colour = (drawn[0, :3] + drawn[0, 3:]) / 2
    np.testing.assert_allclose(colour.permute(1, 2, 0).numpy(), expected, atol=2e-5)


def test_tint_is_steady_over_a_clip_and_differentiable() -> None:
    sprite = torch.rand(4, 4, 8, 8).requires_grad_()
    both = torch.cat([sprite[:, :3] * sprite[:, 3:], sprite[:, 3:]], dim=1)
    drawn = tint(both, torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.1, 0.9]]), frames=2)
    drawn.sum().backward()
    assert sprite.grad is not None
    assert bool(sprite.grad.isfinite().all())
    straight = unpremultiply((drawn[:, :3] + drawn[:, 3:]) / 2, drawn[:, 3:])
    assert bool((straight[:2, 0] > straight[:2, 2]).all())
    assert bool((straight[2:, 2] > straight[2:, 0]).all())


def test_prompted_colour_and_opacity_are_drawn(book: SpriteBook) -> None:
    sprite = torch.rand(2, 4, 8, 8)
    sprite = torch.cat([(2 * sprite[:, :3] - 1) * sprite[:, 3:], sprite[:, 3:]], dim=1)
    understood = book.reader(torch.zeros(2, len(LAYERS), 6))
    tints = torch.full((2, len(TINTS)), -20.0)
    tints[0, 0] = tints[1, TINTS.index("green")] = 20.0
    understood = understood._replace(tints=tints, opacity=torch.tensor([[1.0], [0.5]]))
    drawn = book.coloured(sprite, understood, frames=1)
    torch.testing.assert_close(drawn[0], sprite[0], atol=1e-5, rtol=0)
    expected = 0.5 * tint(sprite[1:], torch.tensor([FOREGROUND_COLOURS["green"]]))[0]
    torch.testing.assert_close(drawn[1], expected, atol=1e-4, rtol=0)
