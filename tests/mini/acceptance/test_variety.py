"""Thumbnails, steadiness and distances between clips."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerflow.mini.acceptance.variety import distance, nearest_training_scene, restlessness, thumbnail, variety
from layerflow.mini.world import SceneSource


def test_a_thumbnail_is_the_middle_frame_in_levels() -> None:
    clip = torch.stack([torch.full((3, 32, 32), value) for value in (0.0, 0.5, 1.0)])
    assert thumbnail(clip) == [128] * 768


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=1))
def test_a_distance_is_one(levels: list[tuple[int, int]]) -> None:
    one, other = ([pair[i] for pair in levels] for i in (0, 1))
    assert distance(one, one) == 0
    assert distance(one, other) == distance(other, one) <= 255


@given(st.floats(-0.1, 0.1), st.floats(0, 1))
def test_steady_change_is_at_rest(speed: float, start: float) -> None:
    ramp = start + speed * torch.arange(5, dtype=torch.float64)[:, None, None, None].expand(-1, 3, 2, 2)
    assert restlessness(ramp) == pytest.approx(0, abs=1e-12)


def test_what_comes_and_goes_is_restless() -> None:
    blinking = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None, None, None].expand(-1, 3, 2, 2)
    assert restlessness(blinking) == 2
    assert restlessness(blinking[:2]) == 0


@pytest.mark.real_scenes
def test_a_training_scene_is_its_own_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layerflow.mini.acceptance.variety.TRAINING_SCENES", 3)
    scene = SceneSource("train", 32, 4).scene(1, 50_000)
    assert nearest_training_scene(thumbnail(scene.blended), 32, 4) == 0
    told = variety(scene, scene.blended)
    assert told["nearest_training"] == told["real_nearest_training"] == 0
    assert told["restlessness"] == told["real_restlessness"] > 0
    assert told["real_variety"] > 0
