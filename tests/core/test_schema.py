"""The rules by which clips, channels and tasks follow from layers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerflow.core.layered_video import LayeredVideo
from layerflow.core.schema import (
    CHANNELS,
    CLIPS,
    LAYER_OF_CLIP,
    LAYERS,
    SCENE,
    TASKS,
    clip_names,
    scene_layers,
    task_clips,
)

COUNTS = st.integers(1, 12)


def test_scene_of_one_foreground() -> None:
    assert LAYERS == ("foreground", "background", "blended")
    assert CLIPS == ("foreground", "alpha", "background", "blended")
    assert CHANNELS == {"foreground": 3, "alpha": 1, "background": 3, "blended": 3}
    assert LAYER_OF_CLIP["alpha"] == "foreground"
    assert {
        "generate": set(),
        "decompose": {"blended"},
        "add-background": {"foreground", "alpha"},
        "add-foreground": {"background"},
    } == TASKS


def test_second_foreground_has_clips_of_its_own() -> None:
    names = clip_names(scene_layers(2))
    assert names == ("foreground", "alpha", "foreground-2", "alpha-2", "background", "blended")


@given(count=COUNTS)
def test_clip_names_are_unique(count: int) -> None:
    names = clip_names(scene_layers(count))
    assert len(names) == len(set(names)) == 2 * count + 2


@given(count=COUNTS)
def test_more_foregrounds_keep_the_nearer_ones(count: int) -> None:
    assert scene_layers(count + 1)[:count] == scene_layers(count)[:count]


@given(count=COUNTS)
def test_only_foregrounds_have_alpha(count: int) -> None:
    layers = scene_layers(count)
    assert [layer.transparent for layer in layers] == [True] * count + [False, False]
    assert all((layer.alpha in layer.clips) == layer.transparent for layer in layers)
    assert all(layer.clips[0] == layer.name for layer in layers)


@given(count=COUNTS)
def test_tasks_give_whole_layers_and_leave_something_to_generate(count: int) -> None:
    layers = scene_layers(count)
    for clips in task_clips(layers).values():
        assert clips < set(clip_names(layers))
        assert all(clips.isdisjoint(layer.clips) or clips.issuperset(layer.clips) for layer in layers)


@given(count=COUNTS)
def test_adding_tasks_give_the_parts_of_the_blend(count: int) -> None:
    layers = scene_layers(count)
    tasks = task_clips(layers)
    parts = tasks["add-background"] | tasks["add-foreground"]
    assert parts == set(clip_names(layers)) - tasks["decompose"]
    assert not tasks["add-background"] & tasks["add-foreground"]


def test_scene_without_foreground_is_refused() -> None:
    with pytest.raises(ValueError, match="foregrounds is 0"):
        scene_layers(0)


def test_layered_video_has_a_field_for_each_clip() -> None:
    assert [name for name in LayeredVideo.__dataclass_fields__ if name != "fps"] == list(CLIPS)
    assert clip_names(SCENE) == CLIPS
