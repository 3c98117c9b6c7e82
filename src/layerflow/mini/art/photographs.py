"""Photographs of landscapes, cities and machines of Endless Sky that are in the public domain."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from PIL import Image

from layerflow.mini.art.packages import folder_of
from layerflow.mini.art.photograph_captions import CAPTIONS
from layerflow.mini.art.pictures import ArtError, BackgroundArt

SIZE = 720, 360
"""Largest width and height, pixels."""
HELD_OUT = 36
_SHARE_ALIKE = re.compile(r"-(sfiera|harro|spfld|striker|iridium)|^(bwerner|myrabella|dmottl|mfield|lava5)")
"""Names of photographs under share-alike licences; the copyright file of the package says the same."""
_SOURCES = {"unsplash": "Unsplash", "morgue": "morgueFile", "NASA": "NASA", "USGS": "USGS"}


def backgrounds(art: Path) -> Iterator[BackgroundArt]:
    """Yield the photographs in the public domain.

    Raises:
        ArtError: the package is missing, damaged, or holds none.
    """
    package = folder_of(art, "endless-sky-high-dpi")
    try:
        rules = read_copyright((package / "usr/share/doc/endless-sky-high-dpi/copyright").read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtError(f"the licences in {package} cannot be read ({error}); fetch the art again") from error
    files = {}
    for file in sorted(
        (package / "usr/share/games/endless-sky/plugins/endless-sky-high-dpi/images/land").glob("*.jpg")
    ):
        licence, source = rule_of(rules, f"images/land/{file.name}")
        if licence == "public-domain" and not _SHARE_ALIKE.search(file.name):
            files[file.name.partition("@")[0]] = file, source
    if not files:
        raise ArtError(f"{package} holds no photographs; fetch the art again with `tools/atlas.py fetch`")
    held_out = set(sorted(files, key=lambda name: hashlib.sha256(name.encode()).digest())[:HELD_OUT])
    for name, (file, source) in files.items():
        with Image.open(file) as picture:
            small = picture.convert("RGB")
            small.thumbnail(SIZE, Image.Resampling.LANCZOS)
            pixels = np.asarray(small)[None]
        yield BackgroundArt(
            name, caption_of(name), "photograph", "public domain", f"{source} (Endless Sky)", pixels, name in held_out
        )


def caption_of(name: str) -> str:
    """Return the caption of a photograph, made of its name where the table has none."""
    return CAPTIONS.get(name) or f"a photo of a {re.sub(r'[-0-9].*', '', name)}"


def read_copyright(text: str) -> list[tuple[list[str], str, str]]:
    """Return patterns of files, licence and source of each paragraph of a Debian copyright file."""
    rules = []
    for paragraph in text.split("\n\n"):
        fields: dict[str, str] = {}
        key = ""
        for line in paragraph.strip("\n").splitlines():
            if re.match(r"[A-Z][A-Za-z-]*:", line):
                key, _, value = line.partition(":")
                fields[key] = value
            else:
                fields[key] = f"{fields.get(key, '')}\n{line}"
        if "Files" in fields and "License" in fields:
            source = next((name for word, name in _SOURCES.items() if word in paragraph), fields.get("Copyright", ""))
            rules.append((fields["Files"].split(), fields["License"].split("\n")[0].strip(), source.strip()))
    return rules


def rule_of(rules: list[tuple[list[str], str, str]], file: str) -> tuple[str, str]:
    """Return licence and source of a file; the last paragraph that names it counts."""
    for patterns, licence, source in reversed(rules):
        if any(fnmatchcase(file, pattern) for pattern in patterns):
            return licence, source
    return "", ""
