"""Free captions: details beyond the picture, and complete facts."""

import dataclasses

import pytest

from layerflow.mini.acceptance.paraphrases import PARAPHRASES
from layerflow.mini.world import EXTRA_OBJECTS, OBJECTS, SceneSource, Variations, captions
from layerflow.mini.world.captions import COLOUR_WORDS, MAX_WORDS
from layerflow.mini.world.wordings import ASIDES, ATTRIBUTES, plural


@pytest.mark.parametrize(
    ("noun", "several"),
    [
        ("cat", "cats"), ("cactus", "cacti"), ("butterfly", "butterflies"), ("key", "keys"), ("bus", "buses"),
        ("slice of pizza", "slices of pizza"), ("maple leaf", "maple leaves"), ("loaf of bread", "loaves of bread"),
        ("fish", "fish"), ("pair of cherries", "pairs of cherries"), ("torch", "torches"), ("fox", "foxes"),
        ("woman", "women"), ("human", "humans"), ("person", "people"),
    ],
)  # fmt: skip
def test_plurals(noun: str, several: str) -> None:
    assert plural(noun) == several


def test_free_captions_mention_object_and_colour() -> None:
    source = SceneSource("train", objects="all", variations=Variations(free_words=1.0))
    details = set()
    for index in range(400):
        spec = source.spec(index, 3)
        text = captions(spec)["foreground"]
        nouns = [word for noun in spec.object.nouns for word in (noun, plural(noun))]
        assert any(noun in text for noun in nouns), text
        assert spec.colour is None or any(word in text for word in COLOUR_WORDS[spec.colour]), text
        assert all(len(text.split()) <= MAX_WORDS for text in captions(spec).values())
        details |= {word for word in ATTRIBUTES if f" {word} " in text} | {aside for aside in ASIDES if aside in text}
    assert len(details) > 100


def test_free_words_change_captions_alone() -> None:
    plain = SceneSource("train", size=16, frames=1)
    free = SceneSource("train", size=16, frames=1, variations=Variations(free_words=0.3))
    chosen = [free.spec(index, 0) for index in range(400)]
    assert 0.2 < sum(spec.free_words for spec in chosen) / len(chosen) < 0.4
    for index, spec in enumerate(chosen):
        assert dataclasses.replace(spec, free_words=False) == plain.spec(index, 0)
    free_one = next(index for index, spec in enumerate(chosen) if spec.free_words)
    assert free.scene(free_one, 0).blended.equal(plain.scene(free_one, 0).blended)
    assert free.scene(free_one, 0).captions != plain.scene(free_one, 0).captions


def test_long_captions_have_no_free_words() -> None:
    both = SceneSource("train", variations=Variations(free_words=1.0, company=0.5, camera=0.5))
    for index in range(60):
        spec = both.spec(index, 0)
        assert spec.free_words != bool(spec.company or spec.camera)


def test_paraphrases_are_not_in_training() -> None:
    tested = {entry.other for entry in PARAPHRASES}
    source = SceneSource("train", objects="all", variations=Variations(free_words=1.0))
    seen = {source.prompts(index, 0)["foreground"] for index in range(2000)}
    assert not tested & seen
    for number, entry in enumerate(OBJECTS):
        spec = dataclasses.replace(source.spec(number, 1), object=entry, colour=None, motion="still", place="centre")
        seen = {captions(dataclasses.replace(spec, seed=seed))["foreground"] for seed in range(200)}
        assert not tested & (seen | {plural(noun) for noun in entry.nouns})
    assert not any(aside in other for aside in ASIDES for other in tested)


def test_plurals_are_distinct() -> None:
    nouns = [noun for entry in OBJECTS + EXTRA_OBJECTS for noun in entry.nouns]
    assert len({plural(noun) for noun in nouns}) == len(set(nouns))
