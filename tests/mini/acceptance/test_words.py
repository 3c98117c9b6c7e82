"""Prompts in other words: that they are other words, of known things."""

import pytest

from layerflow.mini.acceptance.words import PARAPHRASES, scene_in_words
from layerflow.mini.world import OBJECTS, SceneSource, captions


def test_there_are_a_hundred_for_all_objects_of_the_training_set() -> None:
    assert len({(entry.plain, entry.other) for entry in PARAPHRASES}) == 100
    assert {entry.object for entry in PARAPHRASES} == {entry for entry in OBJECTS if not entry.held_out}


def test_plain_words_are_those_of_captions_and_other_words_are_not() -> None:
    for entry in PARAPHRASES:
        assert entry.object.name in entry.plain
        assert entry.other != entry.plain


@pytest.mark.real_scenes
def test_other_words_are_never_training_captions() -> None:
    source = SceneSource("train", objects="all")
    said = {captions(source.spec(index, seed))["foreground"] for seed in range(2) for index in range(2000)}
    assert not said & {entry.other for entry in PARAPHRASES}


@pytest.mark.real_scenes
def test_both_ways_ask_for_one_scene() -> None:
    source = SceneSource("held_out_combinations", size=16, frames=2)
    scene = source.scene(5, 1)
    plain, other = (scene_in_words(source, 1, 5, scene, plain=plain) for plain in (True, False))
    assert plain.spec == other.spec
    assert plain.captions["background"] == other.captions["background"] == scene.captions["background"]
    entry = PARAPHRASES[16]
    assert (plain.captions["foreground"], other.captions["foreground"]) == (entry.plain, entry.other)
    assert entry.other in other.captions["blended"]
    assert plain.spec.object == entry.object
