"""Limits on the resources that clients of the studio may use."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Limits, with defaults for a personal machine."""

    concurrency: int = 1
    """Jobs that run at the same time, each in a process with its own model."""
    queue: int = 20
    """Jobs that may wait; further ones are refused."""
    job_seconds: float = 900
    """Time limit of a job, in seconds; it is stopped then."""
    job_memory: int = 16 * 1024 * MIB
    """Bytes of main memory that a job's process may hold; it is stopped beyond."""
    keep_seconds: float = 7 * 24 * 3600
    """Age in seconds at which ended jobs and uploads are removed."""
    keep_jobs: int = 1000
    """Number of ended jobs that are kept; beyond, the oldest are removed."""
    keep_uploads: int = 200
    """Number of uploads that are kept; beyond, the oldest are removed."""
    upload_bytes: int = 64 * MIB
    """Bytes of one uploaded file."""
    upload_seconds: float = 60
    """Duration of a clip in seconds, by its header."""
    upload_frames: int = 1800
    """Frames of a clip, by its header; the first `read_frames` are read."""
    upload_pixels: int = 4096 * 2304
    """Pixels of one frame, by its header."""
    read_frames: int = 64
    """Frames that are read of a clip, from its start."""
    read_pixels: int = 2**25
    """Pixels over all frames that are read: 16 frames of 1920x1080, 64 of 960x540."""
    child_seconds: float = 60
    """Time limit for decoding a clip, in seconds; exports have that of a job."""
    child_memory: int = 3 * 1024 * MIB
    """Bytes that a decoding process may allocate beyond those at its start; exports have the limit of a job."""
    make_frames: int = 97
    """Frames of a result."""
    make_pixels: int = 2**26
    """Pixels over all frames of a result, in each clip."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0 and name != "queue":
                raise ValueError(f"the limit {name} is {value}: it must be above 0.")
