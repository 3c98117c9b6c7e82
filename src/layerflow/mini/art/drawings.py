"""Emoji in seven styles: 3D pictures of Microsoft, and vector drawings of six sets drawn by resvg."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from layerflow.mini.art.animated import moving_files
from layerflow.mini.art.emoji import Emoji, plain_code, read_emoji, read_json
from layerflow.mini.art.packages import EMOJI_ONE, GOOGLE, MICROSOFT, MOZILLA, TWITTER, folder_of
from layerflow.mini.art.pictures import SIDE, ArtError, SpriteArt, is_held_out

DRAWN_SIDE = SIDE * 5 // 4
"""Width and height that vectors are drawn at; what is cut out of it is about as large as a sprite."""


@dataclass(frozen=True)
class IconSet:
    """A set of vector drawings in a package of `@iconify-json`."""

    name: str
    style: str
    licence: str
    author: str


SETS = (
    IconSet("fluent-emoji", "shaded", "MIT", MICROSOFT),
    IconSet("fluent-emoji-flat", "flat", "MIT", MICROSOFT),
    IconSet("noto", "cartoon", "Apache-2.0", GOOGLE),
    IconSet("noto-v1", "blob", "Apache-2.0", GOOGLE),
    IconSet("twemoji", "simple", "CC-BY-4.0", TWITTER),
    IconSet("fxemoji", "bold", "Apache-2.0", MOZILLA),
    IconSet("emojione", "clip art", "CC-BY-4.0", EMOJI_ONE),
)


def sprites(art: Path) -> Iterator[SpriteArt]:
    """Yield all drawings of emoji that are things, or that move in the animated set.

    Raises:
        ArtError: a package is missing or damaged, or resvg_py is not installed.
    """
    try:
        import resvg_py  # noqa: F401
    except ImportError as error:
        raise ArtError("drawing emoji needs resvg_py; install it with `pip install layerflow[art]`") from error
    moving = moving_files(art)
    chosen = [emoji for code, emoji in read_emoji(art).items() if emoji.thing or code in moving]
    pictures = {plain_code(file.stem): file for file in folder_of(art, "@lobehub/fluent-emoji-3d").rglob("*.webp")}
    for emoji in chosen:
        if emoji.code in pictures:
            yield _sprite(emoji, IconSet("", "3d", "MIT", MICROSOFT), partial(picture, pictures[emoji.code]))
    names = {item.name: _names_by_code(art, item) for item in SETS}
    for item in SETS:
        icons = _Icons(read_json(folder_of(art, f"@iconify-json/{item.name}") / "icons.json"))
        for emoji in chosen:
            name = icons.find(emoji, [codes.get(emoji.code, "") for codes in (names[item.name], *names.values())])
            if name and (item.style, emoji.label) not in _SCENES:
                yield _sprite(emoji, item, partial(draw, icons.svg(name)))


def _sprite(emoji: Emoji, item: IconSet, paint: partial[list[Image.Image]]) -> SpriteArt:
    return SpriteArt(
        emoji.code, emoji.name, item.style, "drawing", item.licence, item.author, paint, emoji.words,
        held_out=is_held_out(emoji.name),
    )  # fmt: skip


def picture(file: Path) -> list[Image.Image]:
    """Return the picture in a file."""
    with Image.open(file) as opened:
        return [opened.convert("RGBA")]


def draw(svg: str) -> list[Image.Image]:
    """Draw an SVG, RGBA of at least DRAWN_SIDE pixels a side."""
    import resvg_py

    return [Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=DRAWN_SIDE)))).convert("RGBA")]


def _names_by_code(art: Path, item: IconSet) -> dict[str, str]:
    """Return names of icons by code points; some sets have no such table, and use the names of the others."""
    codes = read_json(folder_of(art, f"@iconify-json/{item.name}") / "chars.json")
    return {plain_code(code): name for code, name in codes.items()}


class _Icons:
    """The icons of a set by name."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content
        self.icons, self.aliases = content["icons"], content.get("aliases", {})
        self.compact = {name.replace("-", ""): name for name in self.icons}

    def find(self, emoji: Emoji, names: list[str]) -> str:
        """Return the name of an emoji's icon, "" if the set has none."""
        label = emoji.label.lower()
        slug = re.sub(r"[^a-z0-9]+", "-", label.replace("\u2019", "")).strip("-")
        for name in (*names, slug):
            if name in self.icons or name in self.aliases:
                return name
        plain = slug.replace("-", "")
        # Animals of fxemoji: "dogside" is the whole dog, "dog" its face.
        for key in (f"{plain}side", plain, plain.removesuffix("face") if f"{plain[:-4]}side" in self.compact else ""):
            if key in self.compact:
                return str(self.compact[key])
        return next((self.compact[key] for key in _OLD_NAMES.get(emoji.label, ()) if key in self.compact), "")

    def svg(self, name: str) -> str:
        """Return an icon as an SVG document."""
        alias: dict[str, Any] = {}
        while name not in self.icons:
            alias = {**self.aliases[name], **alias}
            name = self.aliases[name]["parent"]
        icon = {**{key: self.content[key] for key in ("width", "height") if key in self.content}, **self.icons[name]}
        width, height = icon.get("width", 16), icon.get("height", 16)
        body = icon["body"]
        if alias.get("hFlip"):
            body = f'<g transform="translate({width} 0) scale(-1 1)">{body}</g>'
        box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{width}" height="{height}" viewBox="{box}">{body}</svg>'
        )


_SCENES = {
    ("bold", label)
    for label in ("person rowing boat", "volcano", "mount fuji", "desert island", "Statue of Liberty", "fountain",
    "tent",
                  "carousel horse", "ferris wheel", "roller coaster", "sailboat", "ship", "rainbow")
} | {
    ("clip art", label) for label in ("snow-capped mountain", "mount fuji", "desert island", "tent")
} | {("blob", "man technologist"), ("simple", "Statue of Liberty")}  # fmt: skip
"""Drawings that fill their square with a sky, in contrast to other drawings of the same."""

_OLD_NAMES: dict[str, tuple[str, ...]] = {
    "rabbit": ("bunnyside",), "rabbit face": ("bunny",), "hamster": ("hampster",), "panda": ("pandaface",),
    "wolf": ("wolfface",), "camel": ("dromedarycamel",), "two-hump camel": ("bactriancamel",),
    "eggplant": ("aubergine",), "ear of corn": ("earofmaize",), "hot pepper": ("chilipepper",),
    "evergreen tree": ("evergreen",), "maple leaf": ("mapleleaf",), "pig nose": ("pigsnout",),
    "dragon": ("dragonside",), "dragon face": ("dragonhead",), "ewe": ("sheep",), "spouting whale": ("spurtingwhale",),
    "baby chick": ("babychick",), "front-facing baby chick": ("frontfacingchick",), "dove": ("doveofpeace",),
    "pizza": ("sliceofpizza",), "poultry leg": ("poultryleg",), "motor boat": ("speedboat",), "sailboat": ("sailboat",),
    "racing car": ("racecar",), "fire engine": ("fireengine",), "locomotive": ("steamlocomotive",),
    "high-heeled shoe": ("heels",), "woman\u2019s boot": ("boot",), "man\u2019s shoe": ("mensshoe",),
    "bicycle": ("bicycle",), "flashlight": ("electrictorch",), "jack-o-lantern": ("jackolantern",),
    "pile of poo": ("poo",), "bowling": ("bowling",), "tennis": ("tennisball",),
    "basketball": ("basketballandhoop",), "house": ("housebuilding",), "castle": ("europeancastle",),
    "star": ("whitestar",), "sun": ("sunrays",), "fire": ("fire",), "water wave": ("wave",), "cactus": ("cactus",),
    "umbrella on ground": ("beachumbrella",), "hot beverage": ("hotbeverage",),
    "mobile phone": ("cellphone",), "telephone": ("blacktelephone",), "scissors": ("blackscissors",),
    "desktop computer": ("desktopcomputer",), "laptop": ("personalcomputer",), "mouse face": ("mouse",),
    "party popper": ("partypopper",), "confetti ball": ("confetti",), "wrapped gift": ("present",),
    "gem stone": ("gem",), "pistol": ("pistol",), "hourglass done": ("hourglass",),
    "hourglass not done": ("hourglassflowingsand",), "red apple": ("redapple",), "bread": ("bread",),
    "locked": ("lock",), "unlocked": ("openlock",), "pen": ("lowerleftpen",), "pencil": ("lowerleftpencil",),
    "crayon": ("lowerleftcrayon",), "paintbrush": ("lowerleftpaintbrush",), "person running": ("running",),
    "person walking": ("walking",), "person swimming": ("swimming",), "person surfing": ("surfer",),
    "person rowing boat": ("rowboat",), "person biking": ("bicyclist",), "person golfing": ("golfer",),
    "person lifting weights": ("weightlifter",), "Santa Claus": ("fatherchristmas",), "detective": ("sleuthspy",),
    "police officer": ("cop",), "guard": ("guardsman",), "construction worker": ("construct",),
    "chicken": ("chicken",), "necktie": ("tie",), "t-shirt": ("mansshirt",), "purse": ("handbag",),
    "backpack": ("schoolsatchel",), "light bulb": ("lightbulb",), "moai": ("moyai",), "camera with flash":
    ("camerawithflash",), "horse": ("horse",), "fishing pole": ("fishingpoleandfish",), "skis": ("skiandskiboot",),
    "ghost": ("ghost",), "alien": ("alien",), "skull": ("skull",),
}  # fmt: skip
"""Names of fxemoji that differ from the labels of today."""
