"""Training of the upscaler: its pairs, its loss, and resuming to the same weights."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from small_atlas import small_atlas, write_atlas

from layerflow.core.config import ConfigError, load_config
from layerflow.core.schema import CLIPS
from layerflow.mini.fitting.upscaler import TILES, ScenePairs, crops, soften, train_upscaler, upscaling_loss
from layerflow.mini.network.upscaler import LayeredUpscaler
from layerflow.mini.recipes import CROPS, UpscalerRecipe
from layerflow.training.checkpoints import list_checkpoints

RECIPE = UpscalerRecipe(
    name="up",
    size=32,
    clip_frames=3,
    factor=2,
    width=8,
    num_blocks=3,
    crop=16,
    frames=2,
    batch=8,
    steps=8,
    warmup=2,
    ema=0.8,
    workers=0,
    log_every=2,
    checkpoint_every=4,
)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), size=st.integers(4, 16), clear=st.booleans())
def test_crops_lie_inside_and_at_the_matte(seed: int, size: int, clear: bool) -> None:
    alpha = -torch.ones(2, 1, 16, 20)
    if not clear:
        alpha[1, 0, 13, 2] = 1
    corners = crops(alpha, size, np.random.default_rng(seed))
    assert len(corners) == CROPS
    for index, (top, left) in enumerate(corners):
        assert 0 <= top <= 16 - size
        assert 0 <= left <= 20 - size
        assert clear or index == 0 or (top <= 13 < top + size and left <= 2 < left + size)


def test_pairs_are_aligned() -> None:
    pairs = ScenePairs(RECIPE)
    small, large = pairs[3]
    for name in CLIPS:
        channels = 1 if name == "alpha" else 3
        assert small[name].shape == (8, 2, channels, 16, 16)
        assert large[name].shape == (8, 2, channels, 32, 32)
        shrunk = F.avg_pool3d(large[name].transpose(1, 2), (1, 2, 2)).transpose(1, 2)
        assert float((shrunk - small[name]).abs().mean()) < 0.1  # but for blur and noise
    again = ScenePairs(RECIPE)[3]
    assert all(torch.equal(small[name], again[0][name]) for name in CLIPS)


def test_composites_are_aligned_too(tmp_path: Path) -> None:
    folder = write_atlas(small_atlas(), tmp_path / "atlas")
    recipe = replace(RECIPE, composites=1.0, folder=str(folder), blur=0.0, noise=0.0, grid=0.0)
    small, large = ScenePairs(recipe)[3]
    for name in CLIPS:
        assert large[name].shape[-1] == 2 * small[name].shape[-1]
        reduced = F.avg_pool2d(large[name].flatten(0, 1), 2).view_as(small[name])
        assert float((reduced - small[name]).abs().mean()) < 0.1
    drawn, _ = ScenePairs(replace(recipe, composites=0.0))[3]
    assert not torch.equal(drawn["background"], small["background"])
    with pytest.raises(ConfigError, match="with the folder of an atlas"):
        replace(RECIPE, composites=0.5)


def test_grid_repeats_in_space_and_time() -> None:
    recipe = replace(RECIPE, blur=0.0, noise=0.0, grid=0.1)
    clear = {name: torch.zeros(2, 1 if name == "alpha" else 3, 16, 24) for name in CLIPS}
    sides = set()
    for seed in range(40):
        soft = soften(clear, np.random.default_rng(seed), recipe)["background"]
        assert torch.equal(soft[0], soft[1])
        assert float(soft.abs().max()) < 0.5
        if soft.any():
            sides.add(min(side for side in TILES if torch.equal(soft[..., side:, side:], soft[..., :-side, :-side])))
    assert sides == set(TILES)


def test_upscaler_beats_interpolation() -> None:
    torch.manual_seed(0)
    small, large = ({name: clip[:4] for name, clip in clips.items()} for clips in ScenePairs(RECIPE)[0])
    model = LayeredUpscaler(2, 32, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(120):
        loss = upscaling_loss(model(small), large, 0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.75 * losses[0]  # a fresh network is bicubic interpolation


def test_upscaler_resumes_to_the_same_weights(tmp_path: Path) -> None:
    folder = train_upscaler(RECIPE, tmp_path)
    whole = load_file(folder / "diffusion_pytorch_model.safetensors")
    assert LayeredUpscaler.from_pretrained(folder).config.factor == 2
    with pytest.raises(ConfigError, match=r"holds a run already .*; continue it with `resume`"):
        train_upscaler(RECIPE, tmp_path)
    shutil.rmtree(folder)
    shutil.rmtree(list_checkpoints(tmp_path / "up" / "checkpoints")[-1])
    reports: list[int] = []
    train_upscaler(RECIPE, tmp_path, resume=True, report=lambda step, _: reports.append(step))
    assert reports == [6, 8]  # from the checkpoint at 4
    for name, tensor in load_file(folder / "diffusion_pytorch_model.safetensors").items():
        assert torch.equal(tensor, whole[name]), name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch: 6", "batch 6 a multiple of 4"),
        ("crop: 80", "crop 80 at most size 64"),
        ("frames: 9", "frames 9 must be from 2 to clip_frames 8"),
        ("step: 4", "unknown key 'step'"),
    ],
)
def test_bad_upscaler_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "up.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(UpscalerRecipe, tmp_path / "up.yaml")


def test_shipped_upscaler_recipe() -> None:
    recipe = load_config(UpscalerRecipe, Path(__file__).parents[3] / "recipes" / "upscaler.yaml")
    assert recipe.name == "mini-upscaler"
