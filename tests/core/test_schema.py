"""The rules by which clips, channels and tasks follow from layers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerflow.core.layered_video import LayeredVideo
from layerflow.core.schema import (
    ALL_CLIPS,
    ALPHA_OF,
    CHANNELS,
    CLIPS,
    LAYER_OF_CLIP,
    LAYERS,
    MOST_FOREGROUNDS,
    SCENE,
    TASKS,
    clip_names,
    foreground_count,
    model_clips,
    prompt_layers,
    scene_layers,
    task_clips,
)

COUNTS = st.integers(1, 12)


def test_scene_of_one_foreground() -> None:
    assert LAYERS == ("foreground", "background", "blended")
    assert CLIPS == ("foreground", "alpha", "background", "blended")
    assert {name: CHANNELS[name] for name in CLIPS} == {"foreground": 3, "alpha": 1, "background": 3, "blended": 3}
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


def test_tables_cover_the_largest_scene() -> None:
    assert clip_names(scene_layers(MOST_FOREGROUNDS)) == ALL_CLIPS == tuple(CHANNELS) == tuple(LAYER_OF_CLIP)
    assert len(ALPHA_OF) == MOST_FOREGROUNDS
    for layer, alpha in ALPHA_OF.items():
        assert (CHANNELS[layer], CHANNELS[alpha]) == (3, 1)
        assert LAYER_OF_CLIP[layer] == LAYER_OF_CLIP[alpha] == layer
    assert set(CLIPS) < set(ALL_CLIPS)


@pytest.mark.parametrize(
    ("clips", "count"),
    [
        ((), 1),
        (("background", "blended"), 1),
        (("foreground",), 1),
        (("alpha-2",), 2),
        (("foreground-3", "alpha", "background"), 3),
        (ALL_CLIPS, MOST_FOREGROUNDS),
    ],
)
def test_foreground_count_is_the_largest_number(clips: tuple[str, ...], count: int) -> None:
    assert foreground_count(clips) == count


@given(count=st.integers(1, MOST_FOREGROUNDS))
def test_foreground_count_inverts_scene_layers(count: int) -> None:
    assert foreground_count(clip_names(scene_layers(count))) == count
    assert foreground_count(prompt_layers(count)) == count


def test_order_of_prompts_and_sequence() -> None:
    assert prompt_layers() == LAYERS
    assert prompt_layers(3) == (*LAYERS, "foreground-2", "foreground-3")
    assert model_clips() == CLIPS
    assert model_clips(3) == (*CLIPS, "foreground-2", "alpha-2", "foreground-3", "alpha-3")


@given(count=COUNTS)
def test_more_foregrounds_change_no_index_of_a_model(count: int) -> None:
    for order in (prompt_layers, model_clips):
        assert order(count + 1)[: len(order(count))] == order(count)
    assert set(model_clips(count)) == set(clip_names(scene_layers(count)))
    assert set(prompt_layers(count)) == {layer.name for layer in scene_layers(count)}


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
    assert [name for name in LayeredVideo.__dataclass_fields__ if name not in ("fps", "behind")] == list(CLIPS)
    assert clip_names(SCENE) == CLIPS
