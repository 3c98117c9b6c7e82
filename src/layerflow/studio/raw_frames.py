"""A job's layers as bare samples beside its files, so that an export need not decode what was just encoded.

FFV1 of 16 bits takes longer to decode than most exports take to write. The samples are the same ones, rounded in the
same way: `read_raw` gives what reading the files would.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..core.layered_video import LayeredVideo

NAME = "layers.safetensors"
LARGEST = 2**29
"""Bytes of a file beyond which there is none; 16 frames of 720x480 with all clips are 111 million."""
WHITE = 65535


def write_raw(video: LayeredVideo, folder: Path) -> None:
    """Write `layers.safetensors`, 16 bits a sample, unless it would be larger than `LARGEST`."""
    clips = video.clips()
    if sum(clip.numel() for clip in clips.values()) * 2 > LARGEST:
        return
    # Offset to fit int16: unsigned 16 bits are not everywhere in torch.
    samples = {
        name: ((clip * WHITE + 0.5).floor() - 32768).to(torch.int16).contiguous() for name, clip in clips.items()
    }
    save_file(samples, folder / NAME, {"fps": repr(float(video.fps))})


def read_raw(folder: Path) -> LayeredVideo | None:
    """The layers that `write_raw` wrote, None where there are none."""
    if not (folder / NAME).exists():
        return None
    with safe_open(folder / NAME, "pt") as file:
        clips = {name: (file.get_tensor(name).float() + 32768) / WHITE for name in file.keys()}  # noqa: SIM118
        return LayeredVideo(**clips, fps=float(file.metadata()["fps"]))
