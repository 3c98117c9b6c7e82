"""Thumbnails, distances between clips, and flicker."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerflow.mini.acceptance.diversity import (
    measure_diversity,
    nearest_training_distance,
    second_difference,
    thumbnail,
    thumbnail_distance,
)
from layerflow.mini.world import SceneSource


def test_thumbnail_of_the_middle_frame() -> None:
    clip = torch.stack([torch.full((3, 32, 32), value) for value in (0.0, 0.5, 1.0)])
    assert thumbnail(clip) == [128] * 768


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=1))
def test_thumbnail_distance_is_a_metric(levels: list[tuple[int, int]]) -> None:
    one, other = ([pair[i] for pair in levels] for i in (0, 1))
    assert thumbnail_distance(one, one) == 0
    assert thumbnail_distance(one, other) == thumbnail_distance(other, one) <= 255


@given(st.floats(-0.1, 0.1), st.floats(0, 1))
def test_steady_change_has_no_second_difference(speed: float, start: float) -> None:
    ramp = start + speed * torch.arange(5, dtype=torch.float64)[:, None, None, None].expand(-1, 3, 2, 2)
    assert second_difference(ramp) == pytest.approx(0, abs=1e-12)


def test_blinking_has_a_second_difference() -> None:
    blinking = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None, None, None].expand(-1, 3, 2, 2)
    assert second_difference(blinking) == 2
    assert second_difference(blinking[:2]) == 0


@pytest.mark.real_scenes
def test_nearest_training_scene_of_a_training_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layerflow.mini.acceptance.diversity.TRAINING_SCENES", 3)
    scene = SceneSource("train", 32, 4).scene(1, 50_000)
    assert nearest_training_distance(thumbnail(scene.blended), 32, 4) == 0
    record = measure_diversity(scene, scene.blended)
    assert record["nearest_training"] == record["real_nearest_training"] == 0
    assert record["second_difference"] == record["real_second_difference"] > 0
    assert record["real_distance"] > 0
