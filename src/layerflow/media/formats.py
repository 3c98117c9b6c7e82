"""File formats of layers, by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .video import MediaError

BT709 = "BT.709 Y'CbCr, limited range, chroma sited left; code values of sRGB as displayed"
SRGB = "sRGB as displayed, full range"


@dataclass(frozen=True)
class Format:
    """One way to write a clip."""

    name: str
    """Name of the format in options and files."""
    suffix: str
    """Suffix of the file's name; for a folder of frames, of the folder's name."""
    codec: str
    """FFmpeg name of the encoder, or `pillow`."""
    pixels: str
    """Pixel format without alpha."""
    alpha_pixels: str | None
    """Pixel format with alpha; None when the format cannot hold alpha."""
    lossless: bool
    """True if reading gives back the written values, rounded to `bits`."""
    bits: int
    """Bits per sample."""
    convention: str
    """Colour encoding of the code values."""
    purpose: str
    """One-line description for lists of formats."""
    folder: bool = False
    """True if a video is a folder with a file for each frame."""
    container: str | None = None
    """FFmpeg muxer."""
    options: dict[str, str] = field(default_factory=dict)
    """Options of the encoder."""
    container_options: dict[str, str] = field(default_factory=dict)
    """Options of the muxer."""

    @property
    def alpha(self) -> bool:
        """True if the format holds alpha."""
        return self.alpha_pixels is not None

    def name_of(self, layer: str) -> str:
        """Return the file or folder name of a layer."""
        return layer + self.suffix


FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        Format(
            name="prores",
            suffix=".mov",
            codec="prores_ks",
            pixels="yuv444p10le",
            alpha_pixels="yuva444p10le",
            lossless=False,
            bits=10,
            convention=BT709,
            purpose="ProRes 4444 with alpha, for editors",
            container="mov",
            options={"profile": "4444", "vendor": "apl0", "alpha_bits": "16"},
        ),
        Format(
            name="webm",
            suffix=".webm",
            codec="libvpx-vp9",
            pixels="yuv420p",
            alpha_pixels="yuva420p",
            lossless=False,
            bits=8,
            convention=BT709,
            purpose="VP9 with alpha, for the web; small",
            container="webm",
            # Alternate reference frames and alpha exclude each other in libvpx.
            options={"crf": "8", "b": "0", "auto-alt-ref": "0", "deadline": "good", "cpu-used": "3"},
        ),
        Format(
            name="mp4",
            suffix=".mp4",
            codec="libx264",
            pixels="yuv420p",
            alpha_pixels=None,
            lossless=False,
            bits=8,
            convention=BT709,
            purpose="H.264, plays everywhere; no alpha; odd sizes are padded to even ones",
            container="mp4",
            options={"crf": "14", "preset": "medium"},
            container_options={"movflags": "+faststart"},
        ),
        Format(
            name="ffv1",
            suffix=".mkv",
            codec="ffv1",
            pixels="gbrp16le",
            alpha_pixels="gbrap16le",
            lossless=True,
            bits=16,
            convention=SRGB,
            purpose="FFV1, 16-bit lossless with alpha in one file, for keeping",
            container="matroska",
            options={"level": "3", "g": "1", "slicecrc": "1"},
        ),
        Format(
            name="png16",
            suffix="_png16",
            codec="png",
            pixels="rgb48be",
            alpha_pixels="rgba64be",
            lossless=True,
            bits=16,
            convention=SRGB,
            purpose="a folder of 16-bit PNG frames",
            folder=True,
        ),
        Format(
            name="png",
            suffix="_png",
            codec="pillow",
            pixels="RGB",
            alpha_pixels="RGBA",
            lossless=True,
            bits=8,
            convention=SRGB,
            purpose="a folder of 8-bit PNG frames",
            folder=True,
        ),
        Format(
            name="webp",
            suffix=".webp",
            codec="pillow",
            pixels="RGB",
            alpha_pixels="RGBA",
            lossless=True,
            bits=8,
            convention=SRGB + "; colour where alpha is 0 is not kept",
            purpose="animated lossless WebP with alpha, for pages and chats",
        ),
    )
}
"""Every format by name: first those for editors and the web, then the lossless ones."""

BEST_FIRST = ("ffv1", "png16", "png", "webp", "prores", "webm", "mp4")
"""Formats in the order in which a reader prefers them."""


def find_format(name: str | None, path: str | Path | None = None) -> Format:
    """Return the format of a name, or else of the path's suffix. Raises `MediaError` when there is none."""
    if name is not None:
        if name not in FORMATS:
            raise MediaError(f"format {name!r} is not known: choose one of {', '.join(FORMATS)}.")
        return FORMATS[name]
    suffix = Path(path or "").suffix.lower()
    for one in FORMATS.values():
        if not one.folder and one.suffix == suffix:
            return one
    if not suffix:
        return FORMATS["png"]
    known = ", ".join(f"{one.suffix} ({one.name})" for one in FORMATS.values() if not one.folder)
    raise MediaError(f"{path}: no format goes with {suffix!r}; end the name in {known}, or pass format=.")
