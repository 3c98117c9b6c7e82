"""Layers of a job as raw samples beside its files, so that exports need not decode them.

Decoding 16-bit FFV1 takes longer than writing most exports. The samples are rounded in the same way, so `read_raw`
returns the same values as reading the files.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..core.layered_video import LayeredVideo

NAME = "layers.safetensors"
LARGEST = 2**29
"""Maximum bytes of the file; 16 frames of 720x480 with all clips take 111 million."""
WHITE = 65535


def write_raw(video: LayeredVideo, folder: Path) -> None:
    """Write `layers.safetensors`, 16 bits per sample, unless it would be larger than `LARGEST`."""
    clips = video.clips()
    if sum(clip.numel() for clip in clips.values()) * 2 > LARGEST:
        return
    # Offset to fit int16: torch supports uint16 only in part.
    samples = {
        name: ((clip * WHITE + 0.5).floor() - 32768).to(torch.int16).contiguous() for name, clip in clips.items()
    }
    save_file(samples, folder / NAME, {"fps": repr(float(video.fps))})


def read_raw(folder: Path) -> LayeredVideo | None:
    """Return the layers that `write_raw` wrote; None if there are none."""
    if not (folder / NAME).exists():
        return None
    with safe_open(folder / NAME, "pt") as file:
        clips = {name: (file.get_tensor(name).float() + 32768) / WHITE for name in file.keys()}  # noqa: SIM118
        return LayeredVideo.from_clips(clips, float(file.metadata()["fps"]))
