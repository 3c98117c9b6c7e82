"""Icons of the 3D models of Sweet Home 3D: 128x128 with alpha, seen from above at an angle."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from layerflow.mini.art.packages import folder_of
from layerflow.mini.art.pictures import ArtError, SpriteArt, is_held_out
from layerflow.mini.world.nouns import listed

LIBRARIES = {
    "BlendSwap-CC-0": ("CC0-1.0", "contributors of Blend Swap"),
    "BlendSwap-CC-BY": ("CC-BY-3.0", "contributors of Blend Swap"),
    "KatorLegaz": ("CC-BY-3.0-US", "Andrew Kator and Jennifer Legaz"),
    "Reallusion": ("CC-BY-3.0-US", "Reallusion"),
    "Scopia": ("CC-BY-3.0", "Scopia"),
}
"""Licence and author by file; the file itself names authors of single models."""


def sprites(art: Path) -> Iterator[SpriteArt]:
    """Yield an icon for each model that a caption can name."""
    folder = folder_of(art, "sweethome3d-furniture") / "usr/share/sweethome3d/furniture"
    counts: dict[str, int] = {}
    for library, (licence, author) in LIBRARIES.items():
        for name, words, icon, creator in _models(folder / f"{library}.sh3f"):
            counts[name] = counts.get(name, 0) + 1
            yield SpriteArt(
                f"furniture/{name.replace(' ', '-')}-{counts[name]}", name, "model", "furniture", licence,
                creator or author, partial(_open, icon), words, held_out=is_held_out(name),
            )  # fmt: skip


def _models(file: Path) -> Iterator[tuple[str, tuple[str, ...], bytes, str]]:
    """Yield name, other nouns, icon (PNG) and author of the models in a library."""
    try:
        with zipfile.ZipFile(file) as library:
            text = library.read("PluginFurnitureCatalog.properties").decode("latin-1")
            for key, label in re.findall(r"^name#(\d+)=(.*)$", text, re.MULTILINE):
                name = plain_name(label.strip())
                if name:
                    values = {
                        field: "".join(re.findall(rf"^{field}#{key}=(.*)$", text, re.MULTILINE)[:1]).strip()
                        for field in ("tags", "icon", "creator")
                    }
                    tags = (tag.strip().lower() for tag in values["tags"].split(","))
                    words = tuple(dict.fromkeys(tag for tag in tags if tag in _NOUNS and tag != name))
                    icon = library.read(values["icon"].lstrip("/"))
                    if has_soft_edge(icon):
                        yield name, words, icon, values["creator"]
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ArtError(f"{file} cannot be read ({error}); fetch the art again with `tools/atlas.py fetch`") from error


def _open(icon: bytes) -> list[Image.Image]:
    return [Image.open(io.BytesIO(icon)).convert("RGBA")]


def has_soft_edge(icon: bytes) -> bool:
    """Return whether an icon has pixels that are partly transparent; the others were cut from white and show it."""
    alpha = np.asarray(_open(icon)[0].getchannel("A"))
    return bool(((alpha > 20) & (alpha < 235)).any())


def plain_name(label: str) -> str:
    """Return the noun of captions for the name of a model, "" if none fits."""
    lower = re.sub(r"\s+", " ", label.lower())
    if re.search(_LEFT_OUT, lower):
        return ""
    return _RENAMED.get(lower, lower)


_LEFT_OUT = (
    r"plug\b|socket|switch|parking slot|^arrow|pedestrian crossing|rail crossing|^bill |^tools?$|living room|frame |"
    r"sidewalk|^screen$|^short$|^tape$|^barnum$|^hood$|island|intercom|speech unit|bell ring|stone grill|^flacon$|"
    r"porch column|strip$|^rails$|swimming pool|^trunck$|^pine under snow"
)
"""Models without a plain name, flat ones, and pictures of brands."""

_RENAMED = {
    "female": "woman", "male": "man", "holding male": "man holding something",
    "holding female": "woman holding something",
    "sitting male": "sitting man", "sitting female": "sitting woman", "lying down female": "woman lying down",
    "lying down male": "man lying down", "lying down boy": "boy lying down", "mannequin male": "male mannequin",
    "mannequin female": "female mannequin", "little bank": "small bench", "wood bank": "wooden bench",
    "teck chair": "teak chair", "tv 16:9": "tv", "apple imac 2004": "desktop computer",
    "apple imac 1998": "old computer",
    "apple ibook": "laptop", "apple iphone": "smartphone", "seat leon": "car", "renault scenic": "car",
    "peugeot 308 cc": "convertible car", "ford focus": "car", "vw new beetle": "small car", "chevrolet": "car",
    "smart car": "small car", "concept sedan 01": "car", "concept sedan 02": "car",
    "concept sedan 02 sport": "sports car",
    "suv": "off-road car", "yamaha yzr r6": "motorcycle", "motorbike": "motorcycle", "hashtray": "ashtray",
    "gaz water heater": "gas water heater", "children game": "slide", "flipper": "pinball machine",
    "puff": "pouf", "penbox": "pen box", "mocassin": "moccasin", "bended coconut tree": "bent coconut tree",
    "sofa 2 seats": "sofa", "sofa 3 seats": "sofa", "convertible sofa bz": "sofa",
    "opened convertible sofa bz": "sofa bed",
    "clear sofa": "pale sofa", "letters box": "mailbox", "cup cake": "cupcake", "lip stick": "lipstick",
    "wire coathanger": "coat hanger", "toilets unit": "toilet", "punching ball": "punching bag",
    "air conditioning - external unit": "air conditioner", "air conditioning - internal unit": "air conditioner",
    "induction cooker 2 zones": "cooktop", "induction cooker 4 zones": "cooktop", "mp3 base": "music dock",
    "mp3 station": "music dock", "playstation": "game console", "cone": "traffic cone", "rigged fan": "fan",
    "child hut": "playhouse", "abdominal bench": "training bench", "dart game": "dartboard", "fork lift": "forklift",
    "wall flat tv": "flat tv", "bowl with fruits": "bowl of fruit", "bowl with salad": "bowl of salad",
    "relax chair": "lounge chair", "captain's bed": "bed with drawers", "large fridge": "fridge",
    "turn window": "window",
    "double arched window": "arched window", "quadruple arched window": "arched window", "cctv": "security camera",
    "surveillance camera": "security camera", "double window 3 panes": "double window",
    "double window 4 panes": "double window", "double window with large pane": "double window",
    "double french window 3 panes": "french window", "double french window small panes": "french window",
    "triple french window": "french window", "quadruple french window": "french window",
    "quadruple french window 3 panes": "french window", "quadruple french window small panes": "french window",
    "text marker": "marker pen", "rubik's cube": "puzzle cube", "milk": "milk carton", "bread": "loaf of bread",
    "bath": "bathtub", "refrigerator": "fridge", "tulips": "vase of tulips", "residential trashcan":
    "trash can", "park trashcan": "trash can", "bullet trash can": "trash can", "dustbin": "trash can",
    "oval plate": "plate", "extinguisher": "fire extinguisher", "locked locker": "locker", "bike": "bicycle",
    "boiler": "kettle", "cooker": "rice cooker", "car model": "vintage car",
    "class seat": "school chair", "table tennis": "table tennis table", "suit": "suit jacket",
    "chest": "chest of drawers",
}  # fmt: skip

_NOUNS = listed(
    """
    seat; plant; couch; sofa; chair; table; cupboard; car; animal; tree; food; toy; flowers; bicycle; motorbike;
    lamp; bookcase; shelf; shelves; bed; television; computer; laptop; notebook; closet; wardrobe; telephone;
    smartphone; tool; clothes; shoes; bench; bottle; vase; clock; cabinet; nightstand; appliance; oven;
    refrigerator; freezer; stereo; speaker; fence; hanger; pouf; desk; billiard; basin; drink; bag
    """
)
"""Tags that are nouns of their own."""
