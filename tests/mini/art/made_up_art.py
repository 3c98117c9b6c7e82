"""Writes a tiny folder of made-up art in the layout of the real packages."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from layerflow.mini.art.packages import PACKAGES, package

LAND = "usr/share/games/endless-sky/plugins/endless-sky-high-dpi/images/land"
COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: Somebody
License: GPL-3+

Files: images/land/*
Copyright: Various
License: public-domain
 Taken from morgue-file.com.

Files:
 images/land/desert0*
Copyright: NASA
License: public-domain
 From NASA.

Files: images/land/lava5*
Copyright: Somebody
License: CC-BY-SA-4.0
"""


def write_art(folder: Path) -> None:
    """Write a fox that moves, a house that does not, and a little of everything else."""
    for item in PACKAGES:
        (folder / item.folder).mkdir(parents=True)
    write_emoji(folder)
    write_furniture(folder / package("sweethome3d-furniture").folder / "usr/share/sweethome3d/furniture")
    write_photographs(folder / package("endless-sky-high-dpi").folder)
    write_characters(folder / package("arcade").folder)
    write_film(folder / package("moviepy").folder)


def disc(x: int, side: int = 64, colour: tuple[int, int, int] = (220, 90, 20)) -> Image.Image:
    """A disc on nothing, whose invisible pixels are black."""
    picture = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    ImageDraw.Draw(picture).ellipse((x, 16, x + 20, 36), fill=(*colour, 255))
    return picture


def write_emoji(art: Path) -> None:
    """Write names, an animation, a still, a 3D picture, and sets of vector drawings."""
    data = art / package("emojibase-data").folder
    write_json(
        data / "meta" / "groups.json", {"subgroups": {"0": "animal-mammal", "1": "place-building", "2": "arrow"}}
    )
    entries = [("1F98A", "fox", 0), ("1F3E0", "house", 1), ("2B06-FE0F", "up arrow", 2), ("1F411", "ewe", 0)]
    write_json(
        data / "en" / "data.json",
        [
            {"hexcode": code, "label": label, "tags": [], "subgroup": subgroup, "order": order}
            for order, (code, label, subgroup) in enumerate(entries)
        ],
    )
    frames = [disc(4 + 2 * step) for step in range(12)]
    assets = art / package("@lobehub/fluent-emoji-anim-1").folder / "assets"
    assets.mkdir()
    save = {"lossless": True, "save_all": True, "append_images": frames[1:], "duration": 42}
    frames[0].save(assets / "1f98a.webp", **save)
    disc(8).save(assets / "1f3e0.webp", lossless=True)
    for part in (2, 3, 4):
        (art / package(f"@lobehub/fluent-emoji-anim-{part}").folder / "assets").mkdir()
    pictures = art / package("@lobehub/fluent-emoji-3d").folder / "assets"
    pictures.mkdir()
    disc(8).save(pictures / "1f3e0.webp", lossless=True)
    body = '<rect x="2" y="4" width="12" height="8" fill="#00f"/>'
    for name in ("fluent-emoji", "fluent-emoji-flat", "noto", "noto-v1", "twemoji", "fxemoji", "emojione"):
        folder = art / package(f"@iconify-json/{name}").folder
        icons = {"house": {"body": body}} if name != "fxemoji" else {"foxface": {"body": body}}
        write_json(folder / "icons.json", {"icons": icons, "width": 16, "height": 16})
        flat = name == "fluent-emoji-flat"
        write_json(folder / "chars.json", {"1f98a": "fox", "1f3e0": "house", "2b06": "up-arrow"} if flat else {})


def write_json(file: Path, content: object) -> None:
    """Write a JSON file and its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def write_furniture(folder: Path) -> None:
    """Write five libraries, one of which holds a chair, a socket and a chair that was cut from white."""
    folder.mkdir(parents=True)
    soft = Image.new("RGBA", (128, 128), (90, 60, 30, 0))
    soft.putalpha(Image.radial_gradient("L").resize((128, 128)).point(lambda value: max(0, 255 - 2 * value)))
    hard = disc(8, 128)
    hard.putalpha(hard.getchannel("A").point(lambda value: 255 if value > 127 else 0))
    lines = []
    for key, (name, icon) in enumerate((("Chair", "soft"), ("Wall socket", "soft"), ("Table", "hard")), 1):
        lines += [f"name#{key}={name}", f"icon#{key}=/{icon}.png", f"tags#{key}=Seat, Outdoor", f"creator#{key}=Ann"]
    for library in ("BlendSwap-CC-0", "BlendSwap-CC-BY", "KatorLegaz", "Reallusion", "Scopia"):
        with zipfile.ZipFile(folder / f"{library}.sh3f", "w") as archive:
            archive.writestr("PluginFurnitureCatalog.properties", "\n".join(lines if library == "Scopia" else []))
            for name, icon in (("soft", soft), ("hard", hard)):
                content = io.BytesIO()
                icon.save(content, "PNG")
                archive.writestr(f"{name}.png", content.getvalue())


def write_photographs(folder: Path) -> None:
    """Write three photographs in the public domain and two that are not."""
    (folder / LAND).mkdir(parents=True)
    for name in ("desert0", "forest0", "quarry1", "lava5", "sea11-harro"):
        Image.new("RGB", (1440, 720), (200, 150, 90)).save(folder / LAND / f"{name}@2x.jpg")
    copyright_file = folder / "usr/share/doc/endless-sky-high-dpi/copyright"
    copyright_file.parent.mkdir(parents=True)
    copyright_file.write_text(COPYRIGHT)


def write_characters(folder: Path) -> None:
    """Write walks of 8 phases."""
    for name in ("female_adventurer", "female_person", "male_adventurer", "male_person", "robot", "zombie"):
        inner = folder / "arcade/resources/assets/images/animated_characters" / name
        inner.mkdir(parents=True)
        for phase in range(8):
            disc(4 + 3 * phase).save(inner / f"{name}_walk{phase}.png")


def write_film(folder: Path) -> None:
    """Write a film of 40 seconds, which changes from one lively scene to another after 36."""
    inner = folder / "moviepy-2.2.1/docs/_static/medias/getting_started/moviepy_10_minutes"
    inner.mkdir(parents=True)
    film = inner / "bbb.mp4"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 256, 144, "yuv420p"
        for number in range(40 * 8):
            pixels = np.full((144, 256, 3), 200 if number < 36 * 8 else 60, np.uint8)
            pixels[40:80, number % 200 : number % 200 + 40] = 120
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))
    with zipfile.ZipFile(inner / "moviepy_10_minutes.zip", "w") as archive:
        archive.write(film, "moviepy_10_minutes/resources/bbb.mp4")
