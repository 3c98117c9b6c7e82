"""Photographs and collages as backgrounds."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from layerflow.mini.world import (
    COLLAGE,
    PHOTOGRAPHS,
    MissingPhotographsError,
    SceneSource,
    Variations,
    captions,
    picture,
    picture_captions,
)

try:
    from layerflow.mini.world import find_font, find_photographs

    find_photographs()
    find_font()
except RuntimeError as error:
    pytest.skip(str(error), allow_module_level=True)

ALL = Variations(photographs=1.0)


@pytest.mark.parametrize("name", [*PHOTOGRAPHS, COLLAGE])
def test_picture_by_seed(name: str) -> None:
    one, again, other = (picture(name, seed=seed, size=48) for seed in (3, 3, 4))
    assert one.shape == (48, 48, 3)
    assert one.dtype == np.float32
    assert 0 <= one.min() < one.max() <= 1
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).mean() > 0.01


def test_picture_at_another_size() -> None:
    small, large = (torch.from_numpy(picture("chelsea", seed=3, size=size)).permute(2, 0, 1) for size in (32, 64))
    assert (torch.nn.functional.avg_pool2d(large, 2) - small).abs().mean() < 0.02


def test_held_out_photographs() -> None:
    held_out = {name for name, one in PHOTOGRAPHS.items() if one.held_out}
    shown = {
        split: {SceneSource(split, variations=ALL).spec(index, 3).picture for index in range(150)}
        for split in ("train", "held_out_combinations")
    }
    assert shown["train"] == set(PHOTOGRAPHS) - held_out
    assert shown["held_out_combinations"] == held_out


@pytest.mark.parametrize("variations", [ALL, Variations(collages=1.0)], ids=["photograph", "collage"])
def test_picture_as_background(variations: Variations) -> None:
    source = SceneSource("train", size=32, frames=3, variations=variations)
    scene = source.scene(5, 3)
    expected = torch.from_numpy(picture(scene.spec.picture, seed=scene.spec.seed, size=32)).permute(2, 0, 1)
    torch.testing.assert_close(scene.background, expected.expand(3, -1, -1, -1))
    clear = (scene.alpha == 0).expand_as(scene.background)
    torch.testing.assert_close(scene.blended[clear], scene.background[clear])
    assert any(words in captions(scene.spec)["background"] for words in picture_captions(scene.spec.picture))


def test_camera_over_a_photograph() -> None:
    source = SceneSource("train", size=32, frames=3, variations=Variations(photographs=1.0, camera=1.0))
    first, _, last = source.scene(5, 3).background
    assert (first - last).abs().mean() > 0.005


def test_missing_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    monkeypatch.setitem(sys.modules, "skimage", None)
    SceneSource("train", variations=Variations(collages=1.0))
    with pytest.raises(MissingPhotographsError, match=r"pip install 'layerflow\[train\]'"):
        SceneSource("train", variations=ALL)
