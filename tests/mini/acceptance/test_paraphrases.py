"""Paraphrased prompts: known objects, unseen wordings."""

import pytest

from layerflow.mini.acceptance.paraphrases import PARAPHRASES, paraphrased_scene
from layerflow.mini.world import OBJECTS, SceneSource, captions


def test_a_hundred_paraphrases_of_all_training_objects() -> None:
    assert len({(entry.plain, entry.other) for entry in PARAPHRASES}) == 100
    assert {entry.object for entry in PARAPHRASES} == {entry for entry in OBJECTS if not entry.held_out}


def test_plain_prompts_name_the_object() -> None:
    for entry in PARAPHRASES:
        assert entry.object.name in entry.plain
        assert entry.other != entry.plain


@pytest.mark.real_scenes
def test_paraphrases_are_not_training_captions() -> None:
    source = SceneSource("train", objects="all")
    seen = {captions(source.spec(index, seed))["foreground"] for seed in range(2) for index in range(2000)}
    assert not seen & {entry.other for entry in PARAPHRASES}


@pytest.mark.real_scenes
def test_plain_and_paraphrase_share_the_scene() -> None:
    source = SceneSource("held_out_combinations", size=16, frames=2)
    scene = source.scene(5, 1)
    plain, other = (paraphrased_scene(source, 1, 5, scene, plain=plain) for plain in (True, False))
    assert plain.spec == other.spec
    assert plain.captions["background"] == other.captions["background"] == scene.captions["background"]
    entry = PARAPHRASES[16]
    assert (plain.captions["foreground"], other.captions["foreground"]) == (entry.plain, entry.other)
    assert entry.other in other.captions["blended"]
    assert plain.spec.object == entry.object
