"""What the studio lets anybody ask of the machine. All of it can be set on the command line or by code."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Bounds, with defaults for one person's machine."""

    concurrency: int = 1
    """Jobs that run at the same time; each has a process with a model of its own."""
    queue: int = 20
    """Jobs that may wait; one more is refused."""
    job_seconds: float = 900
    """A job that takes longer is stopped."""
    job_memory: int = 16 * 1024 * MIB
    """Bytes of main memory that a job's process may hold; beyond, it is stopped."""
    keep_seconds: float = 7 * 24 * 3600
    """Ended jobs and uploads are removed after so long."""
    keep_jobs: int = 1000
    """Ended jobs that are kept; beyond, the oldest go."""
    keep_uploads: int = 200
    """Uploads that are kept; beyond, the oldest go."""
    upload_bytes: int = 64 * MIB
    """Of one uploaded file."""
    upload_seconds: float = 60
    """Longest clip, by its header."""
    upload_frames: int = 1800
    """Most frames of a clip, by its header; of these the first `read_frames` are read."""
    upload_pixels: int = 4096 * 2304
    """Most pixels of one frame, by its header."""
    read_frames: int = 64
    """Frames that are taken of a clip, from its start."""
    read_pixels: int = 2**25
    """Pixels over all frames that are taken: 16 frames of 1920x1080, 64 of 960x540."""
    child_seconds: float = 60
    """Longest that a clip may take to decode; an export may take as long as a job."""
    child_memory: int = 3 * 1024 * MIB
    """Bytes that the process which decodes may add to what it starts with; one that exports, as many as a job holds."""
    make_frames: int = 97
    """Most frames of a result."""
    make_pixels: int = 2**26
    """Most pixels over all frames of a result, in each clip."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0 and name != "queue":
                raise ValueError(f"the limit {name} is {value}: it must be above 0.")
