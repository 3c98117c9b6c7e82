"""The sprite book: it learns looks, loops and captions of a tiny made-up atlas."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from layerflow.core.schema import LAYERS
from layerflow.mini.fitting.look_captions import CaptionWriter, DrawnCaptions, write_captions
from layerflow.mini.fitting.looks import (
    LookFit,
    book_sizes,
    fit_looks,
    gather_contents,
    loop_directions,
    measure_looks,
    sprites_of,
    style_of,
)
from layerflow.mini.fitting.sprite_book import BookFit, fit_reader, load_book, read_captions, save_book
from layerflow.mini.fitting.sprite_book import whitened_means as encode
from layerflow.mini.network.blocks import Whitening
from layerflow.mini.network.sprite_book import TINTS, SpriteBook, fourier
from layerflow.mini.network.text_encoder import load_text_encoder, pool
from layerflow.mini.world.art_objects import is_shown
from layerflow.mini.world.atlas import Atlas, Sprite
from layerflow.models.folders import find_model
from layerflow.models.text import encode_prompts

SIDE, PHASES = 128, 12
THINGS = (("1f680", "rocket", "flying"), ("1f98b", "butterfly", "fluttering"), ("1f335", "cactus", ""))
QUICK = LookFit(
    encoder_steps=60, steps=60, encoder_batch=16, batch=16, learning_rate=0.02, code_rate=0.03, checkpoint_every=30
)


def disc(x: float, y: float, colour: tuple[float, float, float]) -> np.ndarray:
    """Draw a disc of a colour at a place in [-1, 1], premultiplied bytes (S, S, 4)."""
    axis = np.linspace(-1, 1, SIDE)
    alpha = ((axis[None] - x) ** 2 + (axis[:, None] - y) ** 2 < 0.3).astype(np.float32)[..., None]
    return np.concatenate([alpha * np.array(colour, np.float32), alpha], axis=-1)


def build_atlas() -> Atlas:
    sprites: list[Sprite] = []
    pictures: list[np.ndarray] = []

    def add(concept: str, name: str, verb: str, style: str, drawn: list[np.ndarray], held_out: bool = False) -> None:
        moves = len(drawn) > 1
        sprites.append(
            Sprite(
                len(sprites),
                concept,
                name,
                (),
                verb,
                style,
                len(pictures),
                len(drawn),
                "drawing",
                held_out,
                moves,
                "MIT",
                "nobody",
            )
        )
        pictures.extend(drawn)

    for number, (concept, name, verb) in enumerate(THINGS):
        colour = tuple(0.2 + 0.6 * (channel == number) for channel in range(3))
        for style, x in (("flat", -0.3), ("cartoon", 0.3)):
            add(concept, name, "", style, [disc(x, 0, colour)])  # type: ignore[arg-type]
        if verb:
            angles = 2 * np.pi * np.arange(PHASES) / PHASES
            add(concept, name, verb, "3d", [disc(0, 0.4 * np.sin(a), colour) for a in angles])  # type: ignore[arg-type]
    add("1f4ff", "string of beads", "", "flat", [disc(0, 0, (1, 1, 1))], held_out=True)
    add("1f34e", "apple", "", "flat", [disc(0, 0, (1, 0, 0))], held_out=True)
    add("1f34e", "apple", "", "cartoon", [disc(0, 0, (1, 0, 0))], held_out=True)
    add("1f98a", "fox", "", "cartoon", [disc(0, 0, (1, 0, 0))])
    pixels = (np.stack(pictures) * 255).astype(np.uint8)
    return Atlas(Path("nowhere"), tuple(sprites), (), (), pixels, np.zeros(0, np.uint8))


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return build_atlas()


def small_book(atlas: Atlas) -> tuple[SpriteBook, list[str]]:
    contents = gather_contents(atlas)
    torch.manual_seed(0)
    sizes = book_sizes(contents, 500_000, 192, code=4, width=32, hidden=64)
    return SpriteBook(192, sizes), list(contents.concepts)


def test_book_holds_what_training_shows(atlas: Atlas) -> None:
    contents = gather_contents(atlas)
    assert "1f4ff" not in contents.concepts  # held out by the atlas
    assert "1f98a" not in contents.concepts  # held out by the drawn world
    apple = [entry for entry in contents.entries if entry.concept == "1f34e"]
    assert [style_of(entry) for entry in apple] == ["cartoon"]  # the drawn world trains with it, in that style
    assert {"soft/soap bubble", "1f680"} <= set(contents.concepts)
    assert contents.styles == ("3d moving", "cartoon", "flat", "painted")
    cactus = contents.looks[contents.concepts.index("1f335")]
    assert (cactus >= 0).tolist() == [False, True, True, False]
    assert contents.entries[int(cactus[2])].style == "flat"
    assert not is_shown(next(entry for entry in atlas.sprites if entry.name == "fox"))


def test_contents_are_averaged_pixels(atlas: Atlas) -> None:
    contents = gather_contents(atlas)
    entry = contents.entries[0]
    expected = atlas.sprite(entry, 0).reshape(64, 2, 64, 2, 4).astype(np.float32).mean((1, 3))
    assert np.abs(contents.pixels[0].numpy() - expected).max() <= 0.5
    sprite = sprites_of(contents.pixels[:1])[0]
    torch.testing.assert_close(sprite[0, 32, 22], torch.tensor(2 * 0.8 - 1), atol=0.01, rtol=0)
    assert float(sprite[:, 0, 0].abs().max()) == 0


def test_book_fits_its_parameters(atlas: Atlas) -> None:
    book, _ = small_book(atlas)
    assert sum(parameter.numel() for parameter in book.parameters()) <= 500_000
    with pytest.raises(ValueError, match="9000"):
        book_sizes(gather_contents(atlas), 9000)


def test_directions_rebuild_a_loop() -> None:
    phase = torch.arange(24) / 24
    codes = fourier(phase) @ torch.randn(22, 40, generator=torch.Generator().manual_seed(0)) + 3
    mean, directions, waves = loop_directions(codes)
    torch.testing.assert_close(mean + fourier(phase) @ waves.T @ directions, codes, atol=1e-4, rtol=0)
    norms = directions.norm(dim=1)
    assert (norms[:-1] >= norms[1:] - 1e-5).all()
    torch.testing.assert_close(norms, waves.norm(dim=1))
    short, _, _ = loop_directions(codes[:1])
    torch.testing.assert_close(short, codes[0])


def test_looks_are_learned_and_resumed(atlas: Atlas, tmp_path: Path) -> None:
    contents = gather_contents(atlas)
    book, _ = small_book(atlas)
    before = measure_looks(book, contents)
    parts: list[str] = []
    fit_looks(book, contents, QUICK, tmp_path, lambda part, _: parts.append(part))
    after = measure_looks(book, contents)
    assert all(after[kind] > before[kind] + 3 for kind in ("stills", "loops")), (before, after)
    assert set(parts) == {"looks/encoder", "looks/codes"}

    again, _ = small_book(atlas)
    fit_looks(again, contents, QUICK, tmp_path)  # nothing is left to do
    for name, tensor in book.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor)

    rocket = contents.looks[contents.concepts.index("1f680"), 0][None]
    drawn = book.draw(rocket, torch.tensor([[0.0, 0.25, 1.0, 0.123, 3.123]]))
    torch.testing.assert_close(drawn[0], drawn[2], atol=1e-4, rtol=0)
    torch.testing.assert_close(drawn[3], drawn[4], atol=1e-3, rtol=0)
    assert float((drawn[0] - drawn[1]).detach().abs().max()) > 0.05
    still = contents.looks[contents.concepts.index("1f335"), 2][None]
    drawn = book.draw(still, torch.tensor([[0.0, 0.5]]))
    torch.testing.assert_close(drawn[0], drawn[1])


def test_captions_say_what_they_mean(atlas: Atlas) -> None:
    contents = gather_contents(atlas)
    writer = CaptionWriter(contents, ["a photo of hills"])
    rng = np.random.default_rng(0)
    for _ in range(200):
        caption = writer.write(rng)
        names = {contents.entries[look].name for look in contents.looks[caption.concept] if look >= 0}
        words = {word for name in names for word in (name, *contents.entries[0].words)}
        known = words | {
            w for look in contents.looks[caption.concept] if look >= 0 for w in contents.entries[look].words
        }
        assert any(word in caption.prompts[0] and word in caption.prompts[2] for word in known), caption
        assert caption.styles.sum() == pytest.approx(1)
        assert (caption.styles[contents.looks[caption.concept].numpy() < 0] == 0).all()
        if "flat" in caption.prompts[0] and caption.concept == contents.concepts.index("1f335"):
            assert caption.styles[contents.styles.index("flat")] == 1
    rocket, moving = contents.concepts.index("1f680"), contents.styles.index("3d moving")
    assert writer.style_shares(rocket, None, acts=True)[moving] > 0.9
    assert writer.style_shares(rocket, None, acts=False)[moving] == pytest.approx(0.5)
    assert writer.style_shares(rocket, "clip art", acts=False).sum() == pytest.approx(1)  # one that it lacks


def test_names_of_other_concepts_are_no_synonyms(atlas: Atlas) -> None:
    contents = gather_contents(atlas)
    entries = tuple(dataclasses.replace(entry, words=("rocket", "spacecraft")) for entry in contents.entries)
    writer = CaptionWriter(dataclasses.replace(contents, entries=entries), [""])
    cactus = contents.concepts.index("1f335")
    prompts = [writer.write(np.random.default_rng(seed), cactus).prompts[0] for seed in range(60)]
    assert any("spacecraft" in prompt for prompt in prompts)
    assert not any("rocket" in prompt for prompt in prompts)


def test_drawn_world_is_read_too(atlas: Atlas) -> None:
    contents = gather_contents(atlas)
    captions = [caption for index in range(3000) if (caption := DrawnCaptions(contents, 0).write(index)) is not None]
    assert captions
    assert {contents.concepts[caption.concept] for caption in captions} <= set(contents.concepts)
    assert any(caption.tint for caption in captions)
    assert any(caption.opacity < 1 for caption in captions)


@pytest.fixture(scope="module")
def read_book(atlas: Atlas) -> tuple[SpriteBook, object]:
    """A book that has learned to read, and a function from a prompt to mean text states."""
    contents = gather_contents(atlas)
    tokenizer, encoder = load_text_encoder(find_model("mini"))
    captions = write_captions(contents, ["a photo of hills"], 1800, 200, 0)
    whitening = Whitening(384, 192)
    states, mask = encode_prompts(tokenizer, encoder, [prompt for c in captions[:300] for prompt in c.prompts])
    whitening.fit(pool(states, mask))
    reading = read_captions(captions, tokenizer, encoder, whitening)
    book, _ = small_book(atlas)
    book.looks.copy_(contents.looks)
    right = fit_reader(book, reading, contents.looks, BookFit(epochs=160))
    assert right > 0.7

    def means(foreground: str, background: str = "", blended: str | None = None) -> torch.Tensor:
        prompts = [foreground, background, blended if blended is not None else foreground]
        assert len(prompts) == len(LAYERS)
        return encode(prompts, tokenizer, encoder, whitening)[None]

    return book.eval(), means


def test_names_are_learned(atlas: Atlas, read_book: tuple) -> None:  # type: ignore[type-arg]
    book, means = read_book
    contents = gather_contents(atlas)
    for concept, name, _ in THINGS:
        look = int(book.choose(book.reader(means(f"a {name}")))[0])
        assert contents.entries[look].concept == concept


def test_styles_and_actions_are_chosen(atlas: Atlas, read_book: tuple) -> None:  # type: ignore[type-arg]
    book, means = read_book
    contents = gather_contents(atlas)
    chance = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))

    def drawn(prompt: str) -> list[str]:
        understood = type(book.reader(means(prompt)))(*(part.expand(200, -1) for part in book.reader(means(prompt))))
        return [style_of(contents.entries[int(look)]) for look in book.choose(understood, chance)]

    assert np.mean([style == "flat" for style in drawn("a flat drawing of a cactus")]) > 0.8
    assert np.mean([style == "3d moving" for style in drawn("a rocket flying")]) > 0.7
    free = drawn("a rocket")
    assert set(free) == {"flat", "cartoon", "3d moving"}  # all that it has, and none else
    assert free == drawn("a rocket")
    # It has no other style. Now and then chance takes another thing, which may have.
    assert np.mean([style in ("flat", "cartoon") for style in drawn("a 3D rendering of a cactus")]) > 0.9


def test_colours_are_read(read_book: tuple) -> None:  # type: ignore[type-arg]
    book, means = read_book
    assert int(book.reader(means("a blue rocket")).tints.argmax()) == TINTS.index("blue")
    assert int(book.reader(means("a rocket")).tints.argmax()) == 0


def test_saved_book_draws_the_same(atlas: Atlas, read_book: tuple, tmp_path: Path) -> None:  # type: ignore[type-arg]
    book, means = read_book
    contents = gather_contents(atlas)
    save_book(book, contents, tmp_path / "book.safetensors")
    again, concepts, styles = load_book(tmp_path / "book.safetensors")
    assert (concepts, styles) == (contents.concepts, contents.styles)
    phase = torch.tensor([[0.0, 0.3]])
    with torch.no_grad():
        one, two = (each(means("a rocket"), phase)[0] for each in (book, again))
    torch.testing.assert_close(one, two, atol=0.03, rtol=0)
