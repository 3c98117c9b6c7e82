"""Captions of scenes with the art of an atlas: names, styles, and what an object does by itself while it moves."""

from __future__ import annotations

from typing import cast

from .art_objects import ArtObject
from .atlas import STYLES
from .captions import MOTION_WORDS, FreeWriter, Writer
from .nouns import are_several, listed, with_article
from .objects import ObjectSpec
from .variations import Companion
from .wordings import DIRECTIONS

_STYLED, _VERB, _IN_PLACE, _DIRECTED = 0.35, 0.6, 0.15, 0.6  # probabilities
_STAYING = ("on the spot", "in place", "while staying in place")
_TRAVELLING = listed(
    """
    walking; running; flying; swimming; crawling; driving; biking; sailing; galloping; trotting; hopping; jumping;
    gliding; floating; rowing; surfing; skiing; snowboarding; climbing; slithering; riding; rolling
    """
)
_IN_THE_AIR = listed("flying; floating; gliding; swimming; climbing")
_WAYS = {"moving right": "right", "moving left": "left", "rising": "up", "falling": "down"}
"""Keys of `DIRECTIONS` by motion."""


class ArtWriter(Writer):
    """Writes captions of a scene whose objects are sprites of an atlas."""

    most_words = 20

    def noun(self) -> str:
        """Choose a noun for the object, seldom one that is as true of others, such as "animal"."""
        return self.mostly_first(self.spec.object.nouns, 0.8)

    def article(self, noun: str) -> str:
        """Put the article before a noun, if it takes one."""
        return with_article(noun)

    def templates(self, *, moves: bool, placed: bool) -> tuple[str, ...]:
        """Return templates of captions, see `Writer`."""
        if not (moves or placed):
            return ("{s}", "{s}", "{s}", "just {s}")  # a proper name is not "one" of its kind
        templates = super().templates(moves=moves, placed=placed)
        if not _ends_in_action(self.spec.object.name):
            return templates
        return tuple(template.replace("{s} {m}", "{s}, {m}") for template in templates)

    def styled(self, subject: str) -> str:
        """Name the style of the sprite now and then, but not where company makes the caption long."""
        phrases = STYLES.get(cast(ArtObject, self.spec.object).sprite.style, ())
        named = self.chance(_STYLED) and bool(phrases) and not self.spec.company
        self._several = not named and are_several(subject)
        return f"{self.pick(phrases)} {subject}" if named else subject

    def action(self) -> str:
        """Describe what the object does by itself and its motion."""
        return self._acting(self.spec.object, self.spec.motion, super().action())

    def foreground(self) -> str:
        """Write the foreground's caption."""
        text = super().foreground()
        return text.replace(" is ", " are ") if self._several else text

    def companion(self, companion: Companion) -> str:
        """Describe a further object."""
        noun = companion.object.nouns[0]
        subject = with_article(noun if companion.colour is None else f"{self.colour(companion.colour)} {noun}")
        motion = self.mostly_first(MOTION_WORDS[companion.motion])
        joint = ", " if _ends_in_action(noun) else " "
        return f"{subject}{joint}{self._acting(companion.object, companion.motion, motion)}"

    def drawn_background(self) -> str:
        """Describe a background of the atlas or of one of the families."""
        return self.spec.backdrop.caption if self.spec.backdrop else super().drawn_background()

    def _acting(self, entry: ObjectSpec, name: str, motion: str) -> str:
        """Join the verb of an object's own motion, which is not always named, and words for the motion `name`."""
        sprite = cast(ArtObject, entry).sprite
        first = sprite.verb.partition(" ")[0]
        known = {*sprite.name.replace("-", " ").split(), *motion.split()}
        if not sprite.moves or not first or first in known or not self.chance(_VERB):
            return motion
        if name == "still":
            return f"{sprite.verb} {self.pick(_STAYING)}" if self.chance(_IN_PLACE) else sprite.verb
        travels = first in (_IN_THE_AIR if name in ("rising", "falling") else _TRAVELLING)
        if name in _WAYS and travels and self.chance(_DIRECTED):
            return f"{sprite.verb} {self.pick(DIRECTIONS[_WAYS[name]])}"
        return self.pick(("{v}, {m}", "{v} and {m}")).format(v=sprite.verb, m=motion)


def _ends_in_action(name: str) -> bool:
    """Return whether a name tells an action, such as "woman swimming", after which another one needs a comma."""
    return any(word.endswith("ing") for word in name.split()[1:])


class FreeArtWriter(ArtWriter, FreeWriter):
    """Writes the foreground's caption freely, with details that no picture shows."""
