"""Vocabulary of free captions: attributes, plurals, asides and phrases that no picture shows.

A model trained on plain captions alone reacts to any unknown word. These teach it which words to ignore. None of them
contradicts a scene, except plurals, which still mean a single object.
"""

from __future__ import annotations


def _listed(text: str) -> tuple[str, ...]:
    """Split a text into phrases at semicolons."""
    return tuple(" ".join(phrase.split()) for phrase in text.split(";"))


ATTRIBUTES = _listed(
    """
    big; large; huge; enormous; giant; tiny; small; mini; old; new; ancient; antique; modern; vintage; shiny;
    glossy; polished; fresh; soft; hard; smooth; round; neat; clean; tidy; wooden; plastic; metal; paper; ceramic;
    handmade; painted; drawn; printed; happy; sleepy; hungry; friendly; brave; clever; gentle; wild; tame; famous;
    typical; ordinary; common; classic; traditional; fancy; elegant; charming; adorable; delightful; wonderful;
    marvellous; splendid; perfect; excellent; colourful; vivid; bright; favourite; expensive; cheap; rare; special;
    magic; mysterious; strange; curious; lonely; single; proud; lively; heavy; light; fluffy; cosy; delicious;
    tasty; sweet; yummy; healthy; organic; local; foreign; african; european; asian; american; british; french;
    japanese; mexican; brazilian; nordic; tropical; northern; southern; mountain; city; village; royal; holiday;
    winter; spring; autumn; cartoon; realistic; detailed; stylised
    """
)
"""Adjectives without an effect on the picture."""

ASIDES = _listed(
    """
    in the garden; in the park; in a field; at the zoo; at home; in the kitchen; on the table; by the window;
    from the market; from the shop; from the farm; from the museum; from a fairy tale; from my childhood;
    from abroad; from italy; from france; from japan; from the north; from the jungle; from far away;
    from the mountains; on a sunny day; on a rainy morning; at night; in winter; in autumn; in the evening;
    in the afternoon; for children; for my friend; for a present; for a party; for christmas; for breakfast;
    for a wedding; for sale; of good quality; of the finest kind; of great beauty; of medium size;
    of a famous make; of my dreams; with a smile; with many details; with fine lines; with a nice pattern;
    with soft edges; with big eyes; with a story; with two sides; with a long name; with a thick outline;
    with ten parts; with love; without a care; up close; made of paper; made by hand; made in germany;
    seen from the front; as in a picture book; as seen on television; full of life; full of colour; like no other;
    all alone; all by itself; and nothing else; ready to go; to look at; that everybody likes; that people love;
    that belongs to my aunt; which is very nice; which i found yesterday; you can buy; to play with;
    after the rain; before dawn; under the sun; near the river; beside the road
    """
)
"""Phrases after a noun without an effect on the picture."""

LEADS = _listed(
    """
    a thing everybody knows; something for everyone; a favourite of many; a common sight; an old friend;
    a work of nature; a work of art; a product of the land; a living being; a useful object; a piece of craft;
    something from the shop; a small wonder; something to look at; a sight to see; a creature of the earth;
    a plant of the garden; a thing to eat; a thing to play with; a means of travel; a sign of luck;
    a kind of animal
    """
)
"""Phrases before a noun without an effect on the picture."""
DETERMINERS = ("the", "this", "that", "my", "our", "one", "some", "another", "your")
KINDS = ("a kind of {n}", "a sort of {n}", "something called {s}", "what people call {s}", "{s}, please")
COLOURED = (
    "{n} in {c}",
    "{n}, all in {c}",
    "{n} of {c} colour",
    "{c} coloured {n}",
    "{n} painted {c}",
    "{n} that is {c}",
)
TRANSPARENT = ("{n} you can see through", "half transparent {n}", "{n} as clear as water", "faint {n}", "ghostly {n}")
ADVERBS = ("slowly", "quickly", "gently", "smoothly", "steadily", "all the time", "again", "for a while", "by itself")

MORE_MOTION: dict[str, tuple[str, ...]] = {
    "still": ("standing there", "staying where it is", "resting", "waiting", "frozen in place"),
    "moving right": (
        "crossing to the right", "travelling right", "on its way to the right", "going from left to right",
    ),
    "moving left": ("crossing to the left", "travelling left", "on its way to the left", "going from right to left"),
    "rising": ("going higher and higher", "on its way up", "drifting upward", "lifted up"),
    "falling": ("going lower and lower", "on its way down", "drifting downward", "coming down"),
    "bouncing": ("going up and down", "springing up", "hopping about", "skipping"),
    "growing": ("becoming large", "growing bigger and bigger", "gaining size", "increasing in size"),
    "shrinking": ("becoming small", "getting smaller and smaller", "losing size", "decreasing in size"),
    "spinning": ("going round", "turning about itself", "turning like a wheel", "in a spin"),
    "swaying": ("moving from side to side", "rocking gently", "leaning left and right", "tilting to and fro"),
}  # fmt: skip

DIRECTIONS: dict[str, tuple[str, ...]] = {
    "right": ("to the right", "towards the right", "from left to right", "rightwards"),
    "left": ("to the left", "towards the left", "from right to left", "leftwards"),
    "up": ("upwards", "up", "towards the top"),
    "down": ("downwards", "down", "towards the bottom"),
}
"""Phrases by direction."""

_IRREGULAR = {
    "cactus": "cacti", "mouse": "mice", "fish": "fish", "die": "dice", "leaf": "leaves", "loaf": "loaves",
    "potato": "potatoes", "sheep": "sheep", "human": "humans", "man": "men", "person": "people", "child": "children",
    "wolf": "wolves", "knife": "knives", "foot": "feet", "tooth": "teeth", "goose": "geese",
}  # fmt: skip


def plural(noun: str) -> str:
    """Return the plural of a noun, such as "slices of pizza", "cherries", "cacti"."""
    head, of, rest = noun.partition(" of ")
    if of:
        return plural(head) + of + rest
    before, _, last = noun.rpartition(" ")
    stem = before + " " if before else ""
    for ending, several in _IRREGULAR.items():
        if last.endswith(ending):
            return stem + last.removesuffix(ending) + several
    if last.endswith("y") and last[-2] not in "aeiou":
        return stem + last[:-1] + "ies"
    return stem + last + ("es" if last.endswith(("s", "sh", "ch", "x")) else "s")
