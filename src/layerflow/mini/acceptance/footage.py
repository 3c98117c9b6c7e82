"""Material from outside of the drawn world: photographic cut-outs, and real footage with mattes.

Nothing of it is part of the package or of any training; paths to it are given. Letters: F frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.errors import UserError
from ...core.layered_video import LayeredVideo
from ...datasets.copy_paste import bounds
from ...media.reading import read_video
from ...media.stills import SUFFIXES, natural_order
from .moving import Cutout

Pixels = npt.NDArray[np.uint8]

CATEGORIES = ("animals", "food", "hobbies", "household", "military", "people", "plants", "space", "sports", "vehicles")
"""Top folders of Tux Paint's stamps that hold photographs."""
DRAWINGS = frozenset(
    ["cartoon", "hedgehog", "pizza", "whale", "0_sun", "bradley", "final-roll-call", "eye", "ww2_german_gun_truck"]
)
"""Folders and stamps in them that hold drawings, and photographs of drawings."""
LEAST_SIDE = 100
"""Least longer side in pixels of a stamp."""
SPAN = 32
"""Consecutive frames of footage that a clip is taken from, at even steps."""

WINDOW, STEP = 224, 32
"""Side of a window of surveillance footage, and step of its places, in pixels."""
WINDOWS = 12
"""Windows that are chosen."""
DIFFERENT = 0.12
"""Largest channel's difference from the median picture, after a 3x3 mean, from which a pixel is foreground."""
FIRST_SHARE = 0.02
"""Least share of a window that people cover in its first frame, so that they can be pointed at."""


class MissingMaterialError(UserError):
    """A folder or file of the material that is missing or holds nothing of use."""


@dataclass(frozen=True)
class Shot:
    """A shot to be taken apart."""

    name: str
    truth: LayeredVideo
    """Blended clip, the matte that is meant, and further layers where they are known."""


def find_stamps(folder: Path) -> list[Path]:
    """Return the photographic stamps of the Debian package tuxpaint-stamps-default, unpacked anywhere below a folder.

    Raises:
        MissingMaterialError: there are none.
    """
    roots = sorted(folder.rglob("tuxpaint/stamps")) if folder.is_dir() else []
    files = [
        path
        for root in roots[:1]
        for category in CATEGORIES
        for path in sorted((root / category).rglob("*.png"))
        if not DRAWINGS & {*path.relative_to(root).with_suffix("").parts} and not path.stem.endswith("_mirror")
    ]
    if not files:
        raise MissingMaterialError(f"{folder} holds no tuxpaint/stamps; unpack tuxpaint-stamps-default below it")
    return files


def read_stamp(path: Path) -> Cutout | None:
    """Read a stamp, cut to its opaque part; None if it is opaque throughout, empty, or smaller than `LEAST_SIDE`."""
    video = read_video(path)
    if video.alpha is None or not bool((video.alpha > 0.5).any()) or float(video.alpha.min()) > 0.1:
        return None
    top, left, bottom, right = bounds(video.alpha)
    if max(bottom - top, right - left) < LEAST_SIDE:
        return None
    picture = torch.cat([video.colour * video.alpha, video.alpha], 1)[..., top:bottom, left:right]
    return Cutout(path.stem, F.pad(picture, (2, 2, 2, 2)))


# --- surveillance footage: the median picture as background -------------------------------------------------


def read_frames(path: Path) -> Pixels:
    """Decode all frames of a video: (F, H, W, 3).

    Raises:
        MissingMaterialError: the file is missing or holds no video.
    """
    try:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (av.FFmpegError, OSError, IndexError) as error:
        raise MissingMaterialError(
            f"{path} cannot be read as a video ({error}); give opencv-doc's vtest.avi"
        ) from error
    if not frames:
        raise MissingMaterialError(f"{path} has no frames; give opencv-doc's vtest.avi")
    return np.stack(frames)


def median_picture(frames: Pixels, rows: int = 32) -> Pixels:
    """Return the median over all frames (F, H, W, 3) of each pixel: (H, W, 3); `rows` at once, to limit memory."""
    middle = len(frames) // 2
    parts = []
    for top in range(0, frames.shape[1], rows):
        values = np.ascontiguousarray(frames[:, top : top + rows].transpose(1, 2, 3, 0))
        values.partition(middle, -1)
        parts.append(values[..., middle])
    return np.concatenate(parts)


def differences(frames: Pixels, median: Pixels) -> Tensor:
    """Return where frames (F, H, W, 3) differ from the median picture: (F, 1, H, W), 0 or 1.

    The differences are averaged over 3x3 pixels; holes of the mask up to 4 pixels wide are closed, specks and lines up
    to 4 pixels wide are removed.
    """
    far = torch.from_numpy(np.abs(frames.astype(np.int16) - median.astype(np.int16)).max(-1)).float()[:, None] / 255
    mask = (F.avg_pool2d(far, 3, 1, 1) > DIFFERENT).float()
    closed = _narrow(_widen(mask, 2), 2)
    return _widen(_narrow(closed, 2), 2)


def _widen(mask: Tensor, radius: int) -> Tensor:
    return F.max_pool2d(mask, 2 * radius + 1, 1, radius)


def _narrow(mask: Tensor, radius: int) -> Tensor:
    return 1 - _widen(1 - mask, radius)


def people_windows(
    frames: Pixels, size: int, count: int, windows: int = WINDOWS, side: int = WINDOW, span: int = SPAN
) -> list[Shot]:
    """Choose windows of footage of a fixed camera with the most people in them, and their true mattes.

    The footage is divided into runs of `span` frames. Of each run, the window that differs most from the median picture
    is taken among those at even steps whose first frame has people; then the `windows` runs with the most. No two
    windows share a frame, so that none overlap.

    Args:
        frames: (F, H, W, 3), all frames.
        size: side of the clips in pixels.
        count: frames of a clip, evenly over a run.
        windows: windows to choose.
        side: side of a window in pixels.
        span: frames of a run.

    Raises:
        MissingMaterialError: the footage is smaller than a window, or has too few with people.
    """
    median = median_picture(frames)
    height, width = median.shape[:2]
    if height < side or width < side:
        raise MissingMaterialError(f"the footage is {width}x{height}, but a window {side}x{side}; give larger footage")
    every = max(1, span // count)
    found: list[tuple[float, int, int, int]] = []
    for start in range(0, len(frames) - every * (count - 1), span):
        mask = differences(frames[start : start + every * count : every], median)
        covered = F.avg_pool2d(mask, side, STEP)[:, 0]  # (F, rows, columns): share of each window
        score = covered.mean(0) * (covered[0] >= FIRST_SHARE)
        best = int(score.argmax())
        row, column = divmod(best, score.shape[1])
        if float(score.max()) > 0:
            found.append((float(score.max()), start, row * STEP, column * STEP))
    if len(found) < windows:
        raise MissingMaterialError(f"the footage has {len(found)} windows with people, but {windows} are needed")
    shots = []
    for _, start, top, left in sorted(sorted(found, reverse=True)[:windows], key=lambda item: item[1]):
        chosen = frames[start : start + every * count : every]
        place = np.s_[top : top + side, left : left + side]
        alpha = differences(chosen, median)[..., place[0], place[1]]
        still = _scaled(_to_clip(median[place][None]), size).expand(count, -1, -1, -1).contiguous()
        name = f"frames {start} to {start + span - 1} at {left}, {top}"
        blended = _scaled(_to_clip(chosen[:, place[0], place[1]]), size)
        shots.append(Shot(name, LayeredVideo(alpha=_scaled(alpha, size), background=still, blended=blended)))
    return shots


# --- footage with masks --------------------------------------------------------------------------------------


def read_footage(folder: Path, size: int, count: int) -> Iterator[Shot]:
    """Read footage with masks: folders NAME/frames and NAME/masks of pictures, one mask for each frame, white or
    numbered from 1 where the foreground is.

    A clip has `count` frames, evenly over the first `SPAN`, cut to a square of the full height whose middle is that of
    the masks.

    Raises:
        MissingMaterialError: there is no footage, or a clip without as many masks as frames.
        MediaError: a picture cannot be read.
    """
    homes = sorted(path.parent for path in folder.glob("*/frames") if path.is_dir()) if folder.is_dir() else []
    if not homes:
        raise MissingMaterialError(f"{folder} holds no footage; put NAME/frames and NAME/masks of pictures into it")
    for home in homes:
        pictures, masks = (_pictures(home / kind) for kind in ("frames", "masks"))
        if len(pictures) != len(masks) or len(pictures) < count:
            raise MissingMaterialError(
                f"{home} has {len(pictures)} frames and {len(masks)} masks; it needs as many masks as frames, at least "
                f"{count}"
            )
        step = max(1, min(SPAN, len(pictures)) // count)
        chosen = range(0, step * count, step)
        blended = torch.cat([read_video(pictures[index]).colour for index in chosen])
        alpha = torch.cat([(read_video(masks[index]).colour.amax(1, keepdim=True) > 0).float() for index in chosen])
        alpha = F.interpolate(alpha, blended.shape[-2:], mode="nearest") if alpha.shape != blended.shape else alpha
        place = _square(alpha)
        yield Shot(home.name, LayeredVideo(alpha=_scaled(alpha[place], size), blended=_scaled(blended[place], size)))


def _pictures(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES), key=natural_order)


def _square(alpha: Tensor) -> tuple[Any, ...]:
    """Return the square of full extent along the shorter side whose middle is that of a matte (F, 1, H, W)."""
    height, width = alpha.shape[-2:]
    side = min(height, width)
    shown = alpha.sum((0, 1))  # (H, W)
    mass = float(shown.sum()) or 1.0
    middles = [float(shown.sum(1 - axis) @ (torch.arange(alpha.shape[2 + axis]) + 0.5)) / mass for axis in (0, 1)]
    starts = [
        int(min(max(middle - side / 2, 0), length - side))
        for middle, length in zip(middles, (height, width), strict=True)
    ]
    return (..., *(slice(start, start + side) for start in starts))


def _to_clip(frames: Pixels) -> Tensor:
    """Return frames (F, H, W, 3) as a clip (F, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))).float() / 255


def _scaled(clip: Tensor, size: int) -> Tensor:
    """Scale a square clip (F, C, H, W), antialiased."""
    return F.interpolate(clip, (size, size), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


__all__ = ["MissingMaterialError", "Shot", "find_stamps", "people_windows", "read_footage", "read_frames", "read_stamp"]
