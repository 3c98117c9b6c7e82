"""Captions that teach the sprite book to read: of the looks of an atlas and of scenes of the drawn world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...core.schema import BACKGROUND, BLENDED, FOREGROUND
from ...models.text import blended_prompt
from ..network.sprite_book import TINTS
from ..world import SceneSource, Variations
from ..world.art_objects import concept_of
from ..world.atlas import STYLES, Sprite
from ..world.captions import COLOUR_WORDS, FILLERS, FRAMES, MOTION_WORDS, PLACE_WORDS, SEE_THROUGH
from ..world.nouns import with_article
from ..world.wordings import ADVERBS, ASIDES, ATTRIBUTES, COLOURED, MORE_MOTION
from .looks import MOVING, Contents

_NAMED, _STYLED, _VERB, _TINTED, _SEE_THROUGH = 0.6, 0.35, 0.55, 0.12, 0.04  # probabilities
_ADJECTIVE, _MOTION, _PLACE, _ASIDE, _FRAMED, _SECOND, _DOES = 0.25, 0.4, 0.15, 0.15, 0.06, 0.15, 0.2
_MOVES, _MOVES_BY_VERB = 0.5, 0.95  # share of loops among a concept's looks: in general, and where a verb is named
_FAINT = 0.55  # opacity of what is called see-through
_BEFORE = ("{f} in front of {b}", "{f}, in front of {b}", "{f} against {b}", "{f}, with {b} behind", "{b}, and {f}")
_WAYS = (
    "to the right", "to the left", "from left to right", "from right to left", "upwards", "downwards", "quickly",
    "slowly", "back and forth", "coming closer", "moving away", "towards the right", "towards the left",
)  # fmt: skip


_DOING = (
    "running", "walking", "jumping", "flying", "swimming", "dancing", "climbing", "sitting", "sleeping", "playing",
    "eating", "looking around", "waiting", "turning its head", "galloping", "driving", "sailing", "shaking",
)  # fmt: skip
"""What prompts say that things do, whether their pictures show it or not."""


@dataclass(frozen=True)
class Caption:
    """Prompts of one scene and what they mean."""

    prompts: tuple[str, str, str]
    """By layer, in the order of `LAYERS`."""
    concept: int
    """Number of the concept."""
    styles: np.ndarray
    """(S,) probabilities of the styles that the prompts leave possible."""
    tint: int
    """Position in `TINTS`."""
    opacity: float
    """Opacity in [0, 1]."""


class CaptionWriter:
    """Writes captions of looks.

    Args:
        contents: looks of the book.
        backgrounds: captions of backgrounds, at least one.
    """

    def __init__(self, contents: Contents, backgrounds: Sequence[str]) -> None:
        self.contents, self.backgrounds = contents, backgrounds
        self.by_concept = [row[row >= 0].tolist() for row in contents.looks]
        self.names = {entry.name for entry in contents.entries}
        self.moving = np.array([style.endswith(MOVING) for style in contents.styles])
        self.plain = np.array([style.removesuffix(MOVING) for style in contents.styles])

    def write(self, rng: np.random.Generator, concept: int | None = None) -> Caption:
        """Write a caption of a random concept, or of a given one."""
        concept = int(rng.integers(len(self.by_concept))) if concept is None else concept
        looks = self.by_concept[concept]
        entry = self.contents.entries[looks[rng.integers(len(looks))]]
        subject, styled, acts, tint, opacity = self._subject(entry, rng)
        texts = [self._sentence(subject, rng)]
        if rng.random() < 0.5:  # the blended clip's prompt tells the same in other words
            texts.append(self._sentence(subject, rng))
        behind = _pick(self.backgrounds, rng) if rng.random() < 0.9 else ""
        last = texts[-1]
        if rng.random() < _SECOND:
            last = f"{last}{_pick((' and ', ', and ', ' with '), rng)}{self._other(rng)}"
        if behind and rng.random() < 0.5:
            blended = _pick(_BEFORE, rng).format(f=last, b=behind)
        else:
            blended = blended_prompt(last, behind)
        prompts = {FOREGROUND: texts[0], BACKGROUND: behind, BLENDED: blended}
        styles = self.style_shares(concept, entry.style if styled else None, acts)
        return Caption((prompts[FOREGROUND], prompts[BACKGROUND], prompts[BLENDED]), concept, styles, tint, opacity)

    def _subject(self, entry: Sprite, rng: np.random.Generator) -> tuple[str, bool, bool, int, float]:
        """Describe an entry; return the text, whether it names style and action, the tint and the opacity."""
        words = [word for word in entry.words if word not in self.names]  # "dog" names a dog, not a hot dog
        noun = entry.name if not words or rng.random() < _NAMED else _pick(words, rng)
        # Many names contain an action already: "person running".
        own = bool(entry.verb) and entry.verb.split()[0] in noun.split()
        tint, opacity, described = 0, 1.0, noun
        if rng.random() < _TINTED:
            tint = int(rng.integers(1, len(TINTS)))
            word = _pick(COLOUR_WORDS[TINTS[tint]], rng)
            way = _pick(COLOURED, rng) if rng.random() < 0.2 else "{c} {n}"
            described = way.format(c=word, n=described)
        if rng.random() < _SEE_THROUGH:
            opacity, described = _FAINT, f"{_pick(SEE_THROUGH, rng)} {described}"
        if rng.random() < _ADJECTIVE:
            described = f"{_pick(FILLERS if rng.random() < 0.4 else ATTRIBUTES, rng)} {described}"
        text = with_article(described) if rng.random() < 0.93 else described
        styled = entry.style in STYLES and rng.random() < _STYLED
        if styled:
            text = f"{_pick(STYLES[entry.style], rng)} {text}"
        acts = bool(entry.verb) and not own and rng.random() < _VERB
        verb = entry.verb if acts else self._other_verb(noun, own, rng)
        return f"{text} {verb}".strip(), styled, acts or own, tint, opacity

    def _other_verb(self, noun: str, own: bool, rng: np.random.Generator) -> str:
        """Return a verb that says nothing about which thing is meant, or none."""
        verb = _pick(_DOING, rng)
        # "person running" is a thing of its own.
        return verb if not own and rng.random() < _DOES and f"{noun} {verb}" not in self.names else ""

    def _sentence(self, subject: str, rng: np.random.Generator) -> str:
        """Add what does not matter to a subject: motion, place, asides and phrases around it."""
        parts = [subject]
        if rng.random() < _MOTION:
            words = MOTION_WORDS if rng.random() < 0.7 else MORE_MOTION
            parts.append(_pick(words[_pick(tuple(words), rng)], rng) if rng.random() < 0.6 else _pick(_WAYS, rng))
            parts += [_pick(ADVERBS, rng)] if rng.random() < 0.1 else []
        if rng.random() < _PLACE:
            parts.append(_pick(PLACE_WORDS[_pick(tuple(PLACE_WORDS), rng)], rng))
        if rng.random() < _ASIDE:
            parts.append(_pick(ASIDES, rng))
        text = " ".join(parts)
        return _pick(FRAMES, rng).format(x=text) if rng.random() < _FRAMED else text

    def _other(self, rng: np.random.Generator) -> str:
        other = self.contents.entries[int(rng.integers(len(self.contents.entries)))]
        return f"{with_article(other.name)} {other.verb}".strip()

    def style_shares(self, concept: int, style: str | None, acts: bool) -> np.ndarray:
        """Return probabilities (S,) of a concept's styles.

        Args:
            concept: number of the concept.
            style: name of the style that the prompt asks for, None for any.
            acts: whether the prompt names an action.
        """
        there = self.contents.looks[concept].numpy() >= 0
        fitting = there & (self.plain == style) if style is not None else there
        fitting = fitting if fitting.any() else there
        moves = _MOVES_BY_VERB if acts else _MOVES
        weights = np.zeros(len(fitting))
        for kind, share in ((self.moving, moves), (~self.moving, 1 - moves)):
            among = fitting & kind
            weights += share * among / max(1, among.sum())
        return weights / weights.sum()


class DrawnCaptions:
    """Writes captions of scenes of the drawn world whose object the book knows."""

    def __init__(self, contents: Contents, seed: int) -> None:
        self.contents, self.seed = contents, seed
        self.source = SceneSource("train", objects="all", variations=Variations(see_through=0.1, free_words=0.3))
        self.numbers = {name: number for number, name in enumerate(contents.concepts)}
        self.writer = CaptionWriter(contents, [""])

    def write(self, index: int) -> Caption | None:
        """Write the captions of scene `index`; None where the book lacks its object."""
        spec = self.source.spec(index, self.seed)
        concept = self.numbers.get(concept_of(spec.object))
        if concept is None:
            return None
        texts = self.source.prompts(index, self.seed)
        prompts = (texts[FOREGROUND], texts[BACKGROUND], texts[BLENDED])
        styles = self.writer.style_shares(concept, None, acts=False)
        return Caption(prompts, concept, styles, TINTS.index(spec.colour or ""), spec.opacity)


def backgrounds_of(captions: Sequence[str], seed: int, count: int = 300) -> list[str]:
    """Return captions of backgrounds: given ones, and some of the drawn world."""
    source = SceneSource("train", objects="all")
    return [*captions, *(source.prompts(index, seed)[BACKGROUND] for index in range(count))]


def write_captions(contents: Contents, backgrounds: Sequence[str], count: int, drawn: int, seed: int) -> list[Caption]:
    """Write captions: about `count` of looks, all concepts alike, and at most `drawn` of the drawn world."""
    rng = np.random.default_rng([seed, 8])
    writer = CaptionWriter(contents, backgrounds_of(backgrounds, seed))
    concepts = len(contents.concepts)
    captions = [writer.write(rng, number % concepts) for number in range(-(-count // concepts) * concepts)]
    scenes = DrawnCaptions(contents, seed)
    return [*captions, *(caption for index in range(drawn) if (caption := scenes.write(index)) is not None)]


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
