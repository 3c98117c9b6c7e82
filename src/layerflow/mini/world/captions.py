"""Captions in varied wording for the three layers of a scene.

Captions always mention deviations from the default (a tint, a see-through object, a motion, a place other than the
centre, a background colour other than the natural one, a moving background), and defaults only now and then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ...core.schema import BACKGROUND, BLENDED, FOREGROUND
from .backgrounds import FAMILIES
from .pictures import picture_captions
from .variations import CAMERAS, CASTS
from .wordings import (
    ADVERBS,
    ASIDES,
    ATTRIBUTES,
    COLOURED,
    DETERMINERS,
    KINDS,
    LEADS,
    MORE_MOTION,
    TRANSPARENT,
    plural,
)

if TYPE_CHECKING:
    from .scenes import SceneSpec
    from .variations import Companion

MAX_WORDS = 20
"""Limit of a caption's length in words, without the words for company, camera and cast."""
_MORE_WORDS = 4  # for each of these

COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange",),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "blue": ("blue", "azure"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rosy"),
    "white": ("white", "snow-white"),
    "grey": ("grey", "gray"),
    "brown": ("brown",),
    "dark": ("dark", "black"),
}
"""Words by colour, the plain one first; the others are rare."""

MOTION_WORDS: dict[str, tuple[str, ...]] = {
    "still": ("standing still", "not moving", "at rest", "staying still", "motionless"),
    "moving right": (
        "moving right", "moving to the right", "going right", "sliding to the right", "heading right",
        "drifting to the right", "gliding from left to right",
    ),
    "moving left": (
        "moving left", "moving to the left", "going left", "sliding to the left", "heading left",
        "drifting to the left", "gliding from right to left",
    ),
    "rising": ("rising", "moving up", "going up", "floating upwards", "ascending", "climbing", "lifting off"),
    "falling": ("falling", "moving down", "going down", "dropping", "descending", "sinking", "falling down"),
    "bouncing": ("bouncing", "bouncing up and down", "hopping", "jumping", "jumping up and down"),
    "growing": ("growing", "getting bigger", "growing larger", "becoming bigger", "swelling"),
    "shrinking": ("shrinking", "getting smaller", "growing smaller", "becoming smaller", "dwindling"),
    "spinning": ("spinning", "spinning around", "rotating", "turning around", "whirling", "twirling around"),
    "swaying": (
        "swaying", "rocking", "swaying from side to side", "rocking back and forth", "swinging", "wobbling",
    ),
}  # fmt: skip

PLACE_WORDS: dict[str, tuple[str, ...]] = {
    "centre": ("in the centre", "in the middle", "in the center"),
    "left": ("on the left", "on the left side", "at the left"),
    "right": ("on the right", "on the right side", "at the right"),
    "top": ("at the top", "near the top", "in the upper part"),
    "bottom": ("at the bottom", "near the bottom", "in the lower part"),
}

BACKGROUND_WORDS: dict[str, tuple[str, ...]] = {
    "sky": ("@{c}sky with clouds", "@{c}cloudy sky", "white clouds in @{c}sky", "clouds in @{c}sky"),
    "hills": (
        "green hills under @{c}sky", "hills under @{c}sky", "rolling hills below @{c}sky",
        "@{c}sky over hills",
    ),
    "sea": ("the {c}sea", "@{c}sea with waves", "waves on @{c}sea", "the {c}ocean"),
    "bricks": ("@{c}brick wall", "a wall of {c}bricks", "{c}bricks", "@{c}wall of bricks"),
    "wood": ("@{c}wooden wall", "{c}wooden planks", "{c}wood", "{c}planks of wood"),
    "grass": ("{c}grass", "@{c}meadow", "a field of {c}grass", "tall {c}grass"),
    "stars": (
        "@{c}night sky with stars", "stars in @{c}night sky", "@{c}starry sky", "@{c}sky full of stars",
    ),
    "skyline": (
        "a city under @{c}sky", "a city skyline under @{c}sky", "tall buildings under @{c}sky",
        "@{c}sky over a city",
    ),
    "dots": (
        "@{a}background with {b} polka dots", "{b} polka dots on {a}", "{b} dots on @{a}background",
        "@{a}wall with {b} dots",
    ),
    "stripes": (
        "{a}and {b} stripes", "{b} and {a}stripes", "vertical stripes in {a}and {b}",
        "@{a}and {b} striped wall",
    ),
    "checks": (
        "@{a}and {b} checkerboard", "{a}and {b} checks", "{b} and {a}squares", "@{a}and {b} checkered wall",
    ),
    "mountains": (
        "mountains under @{c}sky", "snowy mountains below @{c}sky", "@{c}sky over mountains",
        "snowy peaks under @{c}sky",
    ),
}  # fmt: skip
"""Templates by family: @ is the article of the next word, {c} the colour with a space or empty. Two-coloured families
have the colours {a}, with a space, and {b}."""

_PASSING = (", panning", ", scrolling by", ", passing by")
_SCROLLING = (" scrolling", " panning", " sliding past")

BACKGROUND_MOTION_WORDS: dict[str, tuple[str, ...]] = {
    "sky": (", clouds drifting", ", the clouds drifting", ", with drifting clouds"),
    "hills": _PASSING,
    "sea": (", waves rolling", ", the waves rolling", ", with rolling waves"),
    "bricks": _SCROLLING,
    "grass": (" swaying in the wind", " moving in the wind", " waving in the breeze"),
    "stars": (", stars twinkling", ", the stars twinkling", ", with twinkling stars"),
    "skyline": _PASSING,
    "dots": _SCROLLING,
    "stripes": _SCROLLING,
    "checks": _SCROLLING,
    "mountains": _PASSING,
}
"""Endings of captions by family when the background moves."""

FILLERS = ("cute", "lovely", "pretty", "nice", "simple", "funny", "little", "beautiful")
"""Adjectives without an effect on the picture."""

FRAMES = ("a picture of {x}", "a video of {x}", "an image of {x}", "we see {x}", "here we see {x}", "show {x}")
"""Phrases around a caption without an effect on the picture."""

SEE_THROUGH = ("see-through", "transparent", "translucent", "glassy")
"""Adjectives of a see-through foreground."""

_FILLED = 0.15  # probability of a filler before a noun
_FRAMED = 0.1  # probability of a phrase around a caption
_RARE = 0.12  # probability of a colour's rare words
_MENTION_DEFAULT = 0.15  # probability that a default is mentioned
_TRIES = 40  # texts that are written until one is short enough


def _article(words: str) -> str:
    sounds_like_you = words.startswith(("uni", "ufo", "euro"))
    return f"{'an' if words[0] in 'aeiou' and not sounds_like_you else 'a'} {words}"


class Writer:
    """Writes random captions of a scene."""

    most_words = MAX_WORDS
    """Limit of a caption's length in words, without the words for company, camera and cast."""

    def __init__(self, spec: SceneSpec, rng: np.random.Generator) -> None:
        self.spec, self.rng = spec, rng

    def pick(self, options: tuple[str, ...]) -> str:
        """Choose one of the options."""
        return options[self.rng.integers(len(options))]

    def mostly_first(self, options: tuple[str, ...], probability: float = 0.5) -> str:
        """Choose the first option with a probability, else one of the others."""
        if len(options) == 1 or self.rng.random() < probability:
            return options[0]
        return self.pick(options[1:])

    def chance(self, probability: float) -> bool:
        """Return true with a probability."""
        return bool(self.rng.random() < probability)

    def colour(self, name: str) -> str:
        """Choose a word for a colour."""
        return self.mostly_first(COLOUR_WORDS[name], 1 - _RARE)

    def subject(self) -> str:
        """Describe the object, with an article."""
        spec = self.spec
        noun = self.noun()
        noun = noun if spec.colour is None else f"{self.colour(spec.colour)} {noun}"
        noun = noun if spec.opacity == 1 else f"{self.mostly_first(SEE_THROUGH, 0.4)} {noun}"
        return self.styled(self.article(f"{self.pick(FILLERS)} {noun}" if self.chance(_FILLED) else noun))

    def noun(self) -> str:
        """Choose a noun for the object."""
        return self.mostly_first(self.spec.object.nouns, 0.6)

    def article(self, noun: str) -> str:
        """Put the article before a noun."""
        return _article(noun)

    def styled(self, subject: str) -> str:
        """Name the style of the object, if it has one."""
        return subject

    def action(self) -> str:
        """Describe the motion, except that a still object is seldom called one."""
        return self.motion() if self.spec.motion != "still" or self.chance(_MENTION_DEFAULT) else ""

    def motion(self) -> str:
        """Describe the motion."""
        return self.mostly_first(MOTION_WORDS[self.spec.motion])

    def templates(self, *, moves: bool, placed: bool) -> tuple[str, ...]:
        """Return templates of captions: {s} is the subject, {n} the same without its article, {m} motion, {p} place."""
        if moves and placed:
            return ("{s} {m} {p}", "{s} {m} {p}", "{s} {p}, {m}", "{p}, {s} {m}", "{s} is {m} {p}", "{s}, {m} {p}")
        if moves:
            return ("{s} {m}", "{s} {m}", "{s}, {m}", "{s} is {m}", "{s} that is {m}")
        if placed:
            return ("{s} {p}", "{s} {p}", "{p}, {s}", "{s} is {p}", "{s}, {p}")
        return ("{s}", "{s}", "{s}", "one {n}", "just {s}")

    def foreground(self) -> str:
        """Write the foreground's caption."""
        spec = self.spec
        subject = self.subject()
        motion, place = self.action(), ""
        if spec.place != "centre" or self.chance(_MENTION_DEFAULT):
            place = self.mostly_first(PLACE_WORDS[spec.place])
        templates = self.templates(moves=bool(motion), placed=bool(place))
        text = self.pick(templates).format(s=subject, m=motion, p=place, n=subject.split(" ", 1)[-1])
        return "".join([text, *(f", and {self.companion(companion)}" for companion in spec.company)])

    def companion(self, companion: Companion) -> str:
        """Describe a further object."""
        noun = companion.object.nouns[0]
        subject = _article(noun if companion.colour is None else f"{self.colour(companion.colour)} {noun}")
        return f"{subject} {self.mostly_first(MOTION_WORDS[companion.motion])}"

    def background(self) -> str:
        """Write the background's caption."""
        spec = self.spec
        text = self.pick(picture_captions(spec.picture)) if spec.picture else self.drawn_background()
        return f"{text}, {self.pick(CAMERAS[spec.camera])}" if spec.camera else text

    def drawn_background(self) -> str:
        """Describe a background of one of the families."""
        spec = self.spec
        family = FAMILIES[spec.family]
        words = {"a": "", "b": "", "c": ""}
        if " and " in spec.background_colour:
            first, second = spec.background_colour.split(" and ")
            words["a"], words["b"] = self.colour(first) + " ", self.colour(second)
        elif spec.background_colour != family.natural or self.chance(2 * _MENTION_DEFAULT):
            words["c"] = self.colour(spec.background_colour) + " "
        before, article, after = self.pick(BACKGROUND_WORDS[spec.family]).partition("@")
        text = before.format(**words) + (_article(after.format(**words)) if article else "")
        text = text.strip()  # "dots on {a}" ends in the space of its colour
        return text + (self.pick(BACKGROUND_MOTION_WORDS[spec.family]) if spec.background_moves else "")

    def framed(self, text: str) -> str:
        """Put a phrase around a caption now and then."""
        placed = text.startswith(("in front", "in the", "on the", "at the", "near the"))
        sentence = placed or " is " in text or " are " in text
        return self.pick(FRAMES).format(x=text) if not sentence and self.chance(_FRAMED) else text

    def blended(self, foreground: str, background: str) -> str:
        """Write the caption of the blended clip."""
        templates = (
            "{f}, in front of {b}",
            "{f} in front of {b}",
            "{f} against {b}",
            "{f}, with {b} behind",
            "{b}, and {f}",
            "in front of {b}, {f}",
        )
        text = self.pick(templates).format(f=foreground, b=background)
        return f"{text}, {self.pick(CASTS[self.spec.cast])}" if self.spec.cast else text


class FreeWriter(Writer):
    """Writes the foreground's caption freely, with details that no picture shows."""

    def noun(self) -> str:
        """Choose a noun for the object."""
        return self.pick(self.spec.object.nouns)

    def subject(self) -> str:
        """Describe the object, with an article."""
        spec = self.spec
        noun = self.noun()
        several = self.chance(0.12)
        noun = plural(noun) if several else noun
        for share in (0.5, 0.2):
            noun = f"{self.pick(ATTRIBUTES)} {noun}" if self.chance(share) else noun
        if spec.colour is not None:
            colour = self.colour(spec.colour)
            way = self.pick(COLOURED) if self.chance(0.4) else "{c} {n}"
            noun = way.format(n=noun, c=colour)
        if spec.opacity != 1:
            noun = self.pick(TRANSPARENT).format(n=noun) if self.chance(0.3) else f"{self.pick(SEE_THROUGH)} {noun}"
        if several:
            text = self.pick(("{n}", "{n}", "some {n}", "many {n}", "the {n}")).format(n=noun)
        elif self.chance(0.25):
            text = f"{self.pick(DETERMINERS)} {noun}"
        elif self.chance(0.15):
            text = noun
        else:
            text = self.article(noun)
        text = self.styled(text)
        if self.chance(0.12):
            text = f"{self.pick(LEADS)}, {text}"
        elif self.chance(0.1):
            text = self.pick(KINDS).format(n=noun, s=text)
        return f"{text} {self.pick(ASIDES)}" if self.chance(0.4) else text

    def motion(self) -> str:
        """Describe the motion."""
        text = self.pick(MORE_MOTION[self.spec.motion]) if self.chance(0.4) else super().motion()
        return f"{text} {self.pick(ADVERBS)}" if self.chance(0.15) else text


def captions(spec: SceneSpec, plain: type[Writer] = Writer, free: type[Writer] = FreeWriter) -> dict[str, str]:
    """Write the captions of a scene, a deterministic function of its specification.

    Args:
        spec: the scene.
        plain: writer of plain captions.
        free: writer of captions with `free_words`.

    Returns:
        Texts by layer. That of the blended layer has the same facts in other words.
    """
    rng = np.random.default_rng([spec.seed, 1])
    writer = free(spec, rng) if spec.free_words else plain(spec, rng)
    foreground, background = writer.foreground(), writer.background()
    blended = writer.framed(writer.blended(writer.foreground(), writer.background()))
    most = writer.most_words + _MORE_WORDS * (len(spec.company) + bool(spec.camera) + bool(spec.cast))
    foreground = _short(foreground, writer.foreground, most)  # only free captions and long names
    blended = _short(blended, lambda: writer.blended(writer.foreground(), writer.background()), most)  # rare
    framed, background = writer.framed(foreground), writer.framed(background)
    framed = _short(framed, lambda: writer.framed(foreground), most)  # because of the phrase around it
    return {FOREGROUND: framed, BACKGROUND: background, BLENDED: blended}


def _short(text: str, write: Callable[[], str], most: int) -> str:
    """Write a text again while it has too many words; return the shortest if none is short enough."""
    shortest = text
    for _ in range(_TRIES):
        if len(text.split()) <= most:
            return text
        text = write()
        shortest = min(shortest, text, key=lambda one: len(one.split()))
    return shortest
