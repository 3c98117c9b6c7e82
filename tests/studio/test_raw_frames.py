"""Bare samples are what the files hold."""

from pathlib import Path

import pytest
import torch

from layerflow import LayeredVideo
from layerflow.media import load_layers, save_layers
from layerflow.studio import raw_frames as raw


def scene() -> LayeredVideo:
    generator = torch.Generator().manual_seed(0)
    clips = {name: torch.rand(2, 3, 10, 12, generator=generator) for name in ("foreground", "background", "blended")}
    # As the upscaler gives them: channels last in memory.
    clips = {name: clip.contiguous(memory_format=torch.channels_last) for name, clip in clips.items()}
    return LayeredVideo(**clips, alpha=torch.rand(2, 1, 10, 12, generator=generator), fps=7.5)


def test_raw_frames_equal_the_files(tmp_path: Path) -> None:
    save_layers(scene(), tmp_path / "layers", ["ffv1"])
    raw.write_raw(scene(), tmp_path)
    assert raw.read_raw(tmp_path) == load_layers(tmp_path / "layers")


def test_large_layers_have_no_raw_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "LARGEST", 100)
    raw.write_raw(scene(), tmp_path)
    assert raw.read_raw(tmp_path) is None
    assert not list(tmp_path.iterdir())
