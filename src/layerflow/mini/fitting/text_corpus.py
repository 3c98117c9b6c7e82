"""Texts of distillation: definitions, examples and words of WordNet, and captions of a small grammar."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from ..recipes import TextRecipe

COLOURS = [
    "red", "green", "blue", "yellow", "orange", "purple", "pink", "brown", "black", "white", "grey", "gray", "cyan",
    "magenta", "turquoise", "teal", "violet", "crimson", "scarlet", "maroon", "navy", "indigo", "gold", "golden",
    "silver", "beige", "tan", "olive", "lime", "coral", "salmon", "ivory", "cream", "lavender", "amber", "azure",
    "emerald", "ruby", "sapphire", "bronze", "copper", "khaki", "peach", "mint", "rose", "pale", "dark", "bright",
    "light", "deep", "vivid", "dull",
]  # fmt: skip
SHAPES = [
    "circle", "disc", "ball", "square", "box", "cube", "triangle", "star", "ring", "cross", "heart", "diamond",
    "hexagon", "pentagon", "rectangle", "oval", "ellipse", "arrow", "crescent", "moon", "cloud", "leaf", "flower",
    "bar", "stripe", "dot", "line", "spiral", "wave", "polygon",
]  # fmt: skip
TEXTURES = [
    "striped", "dotted", "spotted", "checkered", "plain", "smooth", "rough", "shiny", "soft", "glowing",
    "transparent", "blurry", "noisy",
]  # fmt: skip
SIZES = [
    "small", "tiny", "little", "big", "large", "huge", "giant", "tall", "short", "wide", "narrow", "long", "round",
    "thin", "thick",
]  # fmt: skip
PLACES = [
    "beach", "street", "forest", "desert", "city", "park", "room", "kitchen", "garden", "sky", "sea", "ocean",
    "river", "lake", "mountain", "hill", "field", "farm", "road", "bridge", "station", "shop", "school", "snow",
    "night", "sunset", "sunrise", "grass", "sand", "water", "wall", "floor", "table",
]  # fmt: skip
MOTIONS = [
    "moving", "running", "walking", "jumping", "flying", "falling", "rising", "swimming", "dancing", "spinning",
    "turning", "rotating", "rolling", "sliding", "bouncing", "floating", "drifting", "swinging", "growing",
    "shrinking", "standing", "sitting", "sleeping", "waiting", "shaking", "driving", "crossing", "climbing",
    "fading", "playing", "resting",
]  # fmt: skip
WAYS = [
    "to the left", "to the right", "up", "down", "upwards", "downwards", "away", "slowly", "quickly", "in a circle",
    "in place", "from left to right", "from right to left", "from top to bottom", "towards the camera",
    "across the frame", "side to side",
]  # fmt: skip
GROUNDS = [
    "background", "gradient", "pattern", "scene", "landscape", "texture", "stripes", "checkerboard", "dots",
    "noise", "waves",
]  # fmt: skip
NOUN_FIELDS = {"05": "animal", "06": "artifact", "13": "food", "17": "object", "18": "person", "20": "plant"}
"""WordNet's lexicographer files whose nouns can be seen (lexnames(5WN))."""


@dataclass(frozen=True)
class WordNet:
    """Texts of WordNet."""

    glosses: list[str]
    """Definitions and examples."""
    names: list[str]
    """All words."""
    things: list[str]
    """Nouns that can be seen."""

    @classmethod
    def read(cls, folder: str | Path) -> WordNet:
        """Read the `data.*` files (wndb(5WN)).

        Raises:
            FileNotFoundError: a file is missing.
        """
        glosses: list[str] = []
        names: dict[str, None] = {}
        things: dict[str, None] = {}
        for part in ("noun", "verb", "adj", "adv"):
            path = Path(folder) / f"data.{part}"
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing: install Debian's wordnet-base or set `wordnet`")
            for line in path.read_text(encoding="latin-1").splitlines():
                if line.startswith("  "):  # the licence at the head
                    continue
                entry, _, gloss = line.partition(" | ")
                items = entry.split()
                for i in range(int(items[3], 16)):
                    name = items[4 + 2 * i].split("(")[0].replace("_", " ")
                    names[name] = None
                    if part == "noun" and items[1] in NOUN_FIELDS and name.islower():
                        things[name] = None
                glosses += [text for piece in gloss.split('"') if len(text := piece.strip(" ;.,")) > 3]
        return cls(glosses, list(names), list(things))


def with_article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


class Texts:
    """Seeded streams of texts; common names and things (of one word piece) come most often."""

    def __init__(self, wordnet: WordNet, tokenizer: PreTrainedTokenizerBase, recipe: TextRecipe) -> None:
        vocabulary = tokenizer.get_vocab()
        self.recipe = recipe
        self.names = wordnet.names
        self.things = wordnet.things
        self.common_names = [name for name in wordnet.names if name.lower() in vocabulary and len(name) > 2]
        self.common_things = [name for name in wordnet.things if name in vocabulary and len(name) > 2]
        glosses = sorted(set(wordnet.glosses))
        random.Random(recipe.seed).shuffle(glosses)
        kept = recipe.held_out
        self.held_out_glosses, self.glosses = glosses[:kept], glosses[kept:]

    def caption(self, rng: random.Random) -> str:
        """Draw a caption, such as 'a small crimson kettle sliding to the left at the beach'."""

        def noun() -> str:
            kind = rng.random()
            return rng.choice(SHAPES if kind < 0.3 else self.common_things if kind < 0.9 else self.things)

        def thing() -> str:
            words = [noun()]
            if rng.random() < 0.75:
                words.insert(0, rng.choice(COLOURS))
            if rng.random() < 0.15:
                words.insert(0, rng.choice(TEXTURES))
            if rng.random() < 0.25:
                words.insert(0, rng.choice(SIZES))
            phrase = " ".join(words)
            return with_article(phrase) if rng.random() < 0.8 else phrase

        def place() -> str:
            kind = rng.random()
            if kind < 0.35:
                return f"{rng.choice(('at', 'in', 'near', 'by'))} the {rng.choice(PLACES)}"
            words = f"{rng.choice(COLOURS)} {rng.choice(GROUNDS)}"
            if kind < 0.7:
                return f"{rng.choice(('on', 'over', 'in front of', 'against'))} {with_article(words)}"
            return f"{rng.choice(('next to', 'on', 'behind', 'in front of', 'under', 'above'))} {thing()}"

        def motion() -> str:
            return rng.choice(MOTIONS) + (f" {rng.choice(WAYS)}" if rng.random() < 0.5 else "")

        form = rng.random()
        if form < 0.3:
            return thing()
        if form < 0.5:
            return f"{thing()} {motion()}"
        if form < 0.7:
            return f"{thing()} {motion()} {place()}"
        if form < 0.85:
            return f"{thing()} {place()}"
        if form < 0.9:
            return f"{thing()} and {thing()}"
        words = f"{rng.choice(COLOURS)} {rng.choice((*GROUNDS, *PLACES))}"
        if rng.random() < 0.6:
            return with_article(words)
        return f"{words} with {rng.choice(COLOURS)} {rng.choice(GROUNDS)}"

    def name(self, rng: random.Random) -> str:
        """Draw a name, such as 'a teapot'."""
        name = rng.choice(self.common_names if rng.random() < 0.6 else self.names)
        kind = rng.random()
        if kind < 0.1:
            return f"{rng.choice(COLOURS)} {name}"
        return name if kind < 0.7 else with_article(name)

    def draw(self, rng: random.Random, glosses: Iterator[str]) -> str:
        """Draw a caption, a name or the next gloss, by the shares of the recipe."""
        kind = rng.random()
        if kind < self.recipe.captions:
            return self.caption(rng)
        if kind < self.recipe.captions + self.recipe.names:
            return self.name(rng)
        return next(glosses)

    def training(self) -> Iterator[str]:
        """Yield texts without end, the empty prompt first."""
        rng = random.Random(self.recipe.seed + 1)

        def glosses() -> Iterator[str]:
            while True:
                order = list(range(len(self.glosses)))
                rng.shuffle(order)
                yield from (self.glosses[i] for i in order)

        stream = glosses()
        yield ""  # the unconditional prompt
        while True:
            yield self.draw(rng, stream)

    def held_out(self) -> list[str]:
        """Return the texts of the check at the end, whose glosses are not among those of training."""
        rng = random.Random(self.recipe.seed + 2)
        glosses = iter(self.held_out_glosses)
        return [self.draw(rng, glosses) for _ in range(self.recipe.held_out)]
