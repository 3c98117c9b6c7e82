"""Nouns of captions with their articles."""

from __future__ import annotations

import re


def listed(text: str) -> frozenset[str]:
    """Return the entries of a text that are separated by semicolons."""
    return frozenset(" ".join(entry.split()) for entry in text.split(";"))


_UNCOUNTED = listed(
    """
    bread; broccoli; butter; salt; rice; spaghetti; popcorn; bacon; sushi; oden; garlic; ice; fire; fog; coral;
    confetti; wood; soap; yarn; thread; money; milk; water; furniture; snow; fondue; sake; cooking; bamboo;
    equipment; lightning; rain; golf; bowling; ginger; soup; corn; tea; coffee; hair; luggage; folding; clothing;
    mate; mail; food; lettuce
    """
)
_SINGULAR_IN_S = listed(
    """
    bus; minibus; trolleybus; octopus; cactus; hibiscus; lotus; compass; dress; glass; briefs-case; canvas; walrus;
    platypus; citrus; circus; campus; chess; tennis; lens; gas; class; mattress; waitress; actress; princess;
    cypress; chassis; iris; atlas; hippopotamus;
    rhinoceros; tyrannosaurus; abacus; santa-claus; claus; molasses; express; tatamis; bias
    """
)
_PLURAL = listed("people; men; women; children; teeth; feet; mice; geese; dice; police; cattle; trousers")
_LIKE_A_CONSONANT = re.compile(r"(?i)(uni(?!n)|use|usu|ufo|uk|eu|ewe|one|ut(ens|il)|ukulele)")
_AFTER_HEAD = r" (?:with|of|in|on|at|under|behind|over|and|for|without|from|to|\w+ing)\b"
_LIKE_A_VOWEL = re.compile(r"(hour|honest|heir|SUV|MP3|X-|x-ray|LED|LCD|RV)")
_DEFINITE = frozenset(("milky way", "statue of liberty", "sun", "earth"))
_PROPER = ("santa", "mrs", "mx ", "mount ", "tokyo")


def with_article(name: str) -> str:
    """Return a noun with its indefinite article, where it takes one: "a fox", "an owl", "grapes", "bread".

    The head of a phrase decides: the last word before a preposition or a participle.
    """
    lower = name.lower()
    if lower in _DEFINITE or lower.startswith("sun "):
        return f"the {name}"
    if lower.startswith(_PROPER) or lower.startswith(("a ", "an ", "the ", "two ", "three ")):
        return name
    if _head(lower) in _UNCOUNTED or are_several(name):
        return name
    if _LIKE_A_CONSONANT.match(name):
        return f"a {name}"
    return f"an {name}" if lower[0] in "aeiou" or _LIKE_A_VOWEL.match(name) else f"a {name}"


def _head(lower: str) -> str:
    head = re.split(_AFTER_HEAD, lower)[0]
    return head.split()[-1] if head else lower.split()[-1]


def are_several(name: str) -> bool:
    """Return whether a noun is plural, such as "grapes" and "people in a row"."""
    head = _head(name.lower())
    return head in _PLURAL or is_plural(head)


def is_plural(word: str) -> bool:
    """Return whether a single noun looks like a plural."""
    return word.endswith("s") and not word.endswith(("ss", "'s")) and word not in _SINGULAR_IN_S
