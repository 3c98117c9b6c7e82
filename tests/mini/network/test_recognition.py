"""Looks of the sprite book are recognised in clips that show them."""

import torch

from layerflow.core.schema import LAYERS
from layerflow.mini.network.recognition import candidates, recognise
from layerflow.mini.network.sketch import Pose, place_sprite
from layerflow.mini.network.sprite_book import BookSizes, SpriteBook, Understood
from layerflow.mini.world.art_objects import LOOP

SIZES = BookSizes(concepts=3, styles=3, looks=6, directions=2, code=4, width=32, hidden=32)
FRAMES = 5


def book_of_looks() -> tuple[SpriteBook, Understood]:
    """Return a book with different looks, and prompts that leave two concepts possible."""
    torch.manual_seed(3)
    book = SpriteBook(6, SIZES)
    with torch.no_grad():
        book.looks.copy_(torch.tensor([[0, 1, -1], [2, -1, 3], [4, 5, -1]]))
        book.owner.copy_(torch.tensor([3, 3]))  # look 3 moves
        book.codes.mul_(3)
        book.directions.mul_(30)
        book.waves.zero_()
        book.waves[0, 0], book.waves[1, 11] = 1.0, 1.0  # a circle: each phase differs from all others
        understood = book.reader(torch.randn(1, len(LAYERS), 6))
    concepts = torch.tensor([[2.0, 1.9, -9.0]])
    return book, understood._replace(
        concepts=concepts, tints=torch.tensor([[9.0] + [-9.0] * (understood.tints.shape[1] - 1)])
    )


def shown(book: SpriteBook, understood: Understood, look: int, start: int, positions: torch.Tensor) -> torch.Tensor:
    """Draw a look into frames: smaller, aside, turned and mirrored."""
    phase = (positions[None] + start) / LOOP
    sprite = book.coloured(book.draw(torch.tensor([look]), phase), understood, len(positions)).flip(-1)
    turn = torch.tensor([[2.4 - 2, 0.5]]).expand(len(positions), -1)
    place = torch.stack([torch.linspace(-0.2, 0.2, len(positions)), torch.full((len(positions),), 0.1)], dim=1)
    planes = place_sprite(sprite, Pose(place, turn), size=(96, 128))
    return torch.cat([planes[:, :3], (planes[:, 3:] + 1) / 2], dim=1)


def test_every_candidate_is_chosen_by_its_chances() -> None:
    book, understood = book_of_looks()
    possible = candidates(book, understood)
    assert sorted(possible.look.tolist()) == [0, 1, 2, 3]  # the third concept is unlikely
    for look, concept, style in zip(*possible, strict=True):
        chosen = book.choose(understood, torch.stack([concept, style])[None])
        assert int(chosen) == int(look)


@torch.no_grad()
def test_looks_and_phases_are_recognised() -> None:
    book, understood = book_of_looks()
    positions = torch.tensor([1.0, 2, 4, 5, 9])
    angle = torch.full((FRAMES,), float(torch.atan2(torch.tensor(0.5), torch.tensor(2.4))))
    mirrored = torch.ones(FRAMES, dtype=torch.bool)
    for look, start in ((0, 0), (1, 0), (2, 0), (3, 0), (3, 7), (3, 20)):
        planes = shown(book, understood, look, start, positions)
        planes[1] = 0  # a frame without it does not matter
        chance = recognise(book, understood, planes, positions, angle, mirrored)
        assert int(book.choose(understood, chance[None, :2])) == look
        if look == 3:
            apart = abs(round(float(chance[2]) * LOOP) - start)
            assert min(apart, LOOP - apart) <= 1


def test_nothing_to_see_gives_some_chance() -> None:
    book, understood = book_of_looks()
    empty = torch.zeros(FRAMES, 4, 32, 32)
    positions = torch.arange(FRAMES, dtype=torch.float32)
    chance = recognise(book, understood, empty, positions, torch.zeros(FRAMES), torch.zeros(FRAMES, dtype=torch.bool))
    assert chance.shape == (3,)
    assert int(book.choose(understood, chance[None, :2])) in (0, 1, 2, 3)
