"""Captions of composites: things with their style, action, direction and speed, before a background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..atlas import STYLES, Sprite
from ..nouns import is_plural, with_article
from ..wordings import DIRECTIONS, plural
from .paths import Path

SHAPES = ("an abstract shape", "a shapeless patch", "a random shape", "a textured shape", "a moving patch", "a blob")
"""Phrases for random shapes."""
MOVING = ("moving", "going", "gliding", "travelling", "drifting")
"""Verbs of things without one of their own."""
NEARER = ("coming closer", "coming nearer", "approaching", "getting bigger")
FARTHER = ("moving away", "going into the distance", "getting smaller", "receding")
STILL = ("standing still", "staying in place", "at rest", "barely moving")
BACK_AND_FORTH = ("there and back", "back and forth", "to and fro")
FAST = ("quickly", "fast", "rapidly")
SLOW = ("slowly", "gently", "at a slow pace")
BEFORE = ("{f} in front of {b}", "{f} before {b}", "{f}, in front of {b}", "{f} against {b}", "{f}, with {b} behind")
TWO = ("{f} and {s}", "{f} with {s} behind it", "{f} before {s}", "{f}, and {s}")
SEE_THROUGH = ("see-through", "translucent", "transparent", "faint")
TEXTURED = ("patterned", "textured", "strangely coloured", "mottled")
ANOTHER = ("and another one", "and a second one", "and one more")
OTHERS = ("and others", "and more of them", "and several others")
SEVERAL = ("several", "some", "a group of")
NUMBERS = {3: "three", 4: "four"}
CAMERA: dict[str, tuple[str, ...]] = {
    "panning right": ("the camera panning right", "filmed from left to right", "the camera moving to the right"),
    "panning left": ("the camera panning left", "filmed from right to left", "the camera moving to the left"),
    "tilting up": ("the camera tilting up", "the camera moving up"),
    "tilting down": ("the camera tilting down", "the camera moving down"),
    "zooming in": ("the camera zooming in", "coming nearer", "the camera moving closer"),
    "zooming out": ("the camera zooming out", "going away", "the camera moving back"),
    "shaking": ("filmed by hand", "a shaky camera", "a handheld camera"),
    "drifting": ("the camera drifting a little", "a slowly moving camera"),
    "still": ("a still camera", "filmed from a tripod"),
}
"""Phrases by camera motion."""

_STYLED, _OTHER_WORD, _VERB, _DIRECTED, _PACED, _CAMERA = 0.4, 0.2, 0.85, 0.55, 0.25, 0.35  # probabilities
_SLOW, _FAST = 0.2, 0.8  # travel over a clip below and above which a thing is slow or fast
_NOTICED = 0.12  # least travel with a direction
_GROWN = 0.25  # least logarithm of the change of size that is mentioned


class Subject(NamedTuple):
    """A foreground to describe."""

    sprite: Sprite | None
    """Its sprite; None for a random shape."""
    path: Path
    see_through: bool = False
    textured: bool = False
    """Its colours are not its own."""
    number: int = 1
    """Number of things of this kind."""


def direction(dx: float, dy: float) -> str:
    """Return the key of `DIRECTIONS` of a travel; empty if it is too short."""
    if max(abs(dx), abs(dy)) < _NOTICED:
        return ""
    if abs(dx) >= abs(dy):
        return "right" if dx > 0 else "left"
    return "down" if dy > 0 else "up"


def camera_motion(path: Path | None) -> str:
    """Return the key of `CAMERA` of the strongest motion of a camera; None is a still one."""
    if path is None:
        return "still"
    if max(abs(path.dx), abs(path.dy), abs(path.growth)) < 0.08:
        return "shaking" if path.x_waves else "drifting"
    if abs(path.growth) > max(abs(path.dx), abs(path.dy)):
        return "zooming in" if path.growth > 0 else "zooming out"
    if abs(path.dx) >= abs(path.dy):
        return "panning right" if path.dx > 0 else "panning left"
    return "tilting down" if path.dy > 0 else "tilting up"


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _noun(subject: Subject, name: str, rng: np.random.Generator) -> str:
    """Return a name with its article or number and what is unusual in its looks."""
    if subject.textured and rng.random() < 0.7:
        name = f"{_pick(TEXTURED, rng)} {name}"
    if subject.see_through and rng.random() < 0.6:
        name = f"{_pick(SEE_THROUGH, rng)} {name}"
    if subject.number == 1:
        return with_article(name)
    if " " in name or is_plural(name) or rng.random() < 0.3:
        return f"{with_article(name)} {_pick(ANOTHER if subject.number == 2 else OTHERS, rng)}"
    number = _pick(("two", "a pair of") if subject.number == 2 else (NUMBERS[subject.number], *SEVERAL), rng)
    return f"{number} {plural(name)}"


def describe(subject: Subject, rng: np.random.Generator) -> str:
    """Describe a thing and its motion; a random shape where there is no sprite, and then perhaps not at all."""
    sprite, path = subject.sprite, subject.path
    if sprite is None:
        if rng.random() < 0.25:
            return ""
        noun, action = _pick(SHAPES, rng), ""
    else:
        name = _pick(sprite.words, rng) if sprite.words and rng.random() < _OTHER_WORD else sprite.name
        noun = _noun(subject, name, rng)
        if rng.random() < _STYLED and sprite.style in STYLES:
            noun = f"{_pick(STYLES[sprite.style], rng)} {noun}"
        said = sprite.verb and sprite.verb.split()[0] in name.split()
        action = sprite.verb if sprite.moves and not said and rng.random() < _VERB else ""
    return " ".join(part for part in (noun, action, _motion(path, bool(action), rng)) if part)


def _motion(path: Path, acts: bool, rng: np.random.Generator) -> str:
    """Describe where a thing moves and how fast, in a share of the cases."""
    heading = direction(path.dx, path.dy)
    if rng.random() >= _DIRECTED:
        return ""
    if abs(path.growth) > _GROWN and path.kind == "near":
        return _pick(NEARER if path.growth > 0 else FARTHER, rng)
    if not heading:
        return "" if acts or path.kind != "still" else _pick(STILL, rng)
    where = _pick(BACK_AND_FORTH if path.ease == "there and back" else DIRECTIONS[heading], rng)
    text = where if acts else f"{_pick(MOVING, rng)} {where}"
    travel = float(np.hypot(path.dx, path.dy))
    if rng.random() < _PACED and not _SLOW < travel < _FAST:
        text = f"{text} {_pick(FAST if travel >= _FAST else SLOW, rng)}"
    return text


def write_captions(
    things: Sequence[Subject], background: str, camera: Path | None, rng: np.random.Generator
) -> tuple[list[str], str, str]:
    """Write the captions of a scene.

    Args:
        things: the foregrounds, the nearest first.
        background: caption of the background.
        camera: path of the camera; None if it is still.
        rng: source of the wording.

    Returns:
        Captions of the foregrounds, of the background and of the blended clip, which is in other words.
    """

    def behind() -> str:
        motion = camera_motion(camera)
        if not background or rng.random() >= (_CAMERA if motion != "still" else 0.05):
            return background
        return f"{background}, {_pick(CAMERA[motion], rng)}"

    def all_things() -> list[str]:
        return [describe(thing, rng) for thing in things]

    own = all_things()
    said = [text or _pick(SHAPES, rng) for text in all_things()]
    front = said[0] if len(said) == 1 else _pick(TWO, rng).format(f=said[0], s=said[1])
    view = behind()
    blended = _pick(BEFORE, rng).format(f=front, b=view) if view else front
    return own, behind(), blended
