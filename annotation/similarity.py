"""How alike two texts are: what is not worth a person's comparison, and what differs most.

Pure functions of texts, cheap for long ones: shingles (runs of five characters, so that no language needs its words
found) say how much two texts share, and an edit distance is computed only where shingles leave it possible.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

SHINGLE = 5
NEAR_SHARE = 0.9  # Jaccard index of the shingles from which two texts are nearly the same
NEAR_RATIO = 0.95  # 1 − edits ÷ length, likewise
MOST_READ = 40_000  # characters of a text that are looked at: its first and last halves of this
MOST_EDITED = 5_000  # above this the shingles alone decide: few edits in a long text leave most of them alone

_MINUS = re.compile(r"(?<!\w)[-−](?=\d)")
_BLANKS = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Shape:
    """What is compared of a text: its normal form and the shingles of that."""

    text: str
    shingles: Counter[Hashable]


def normal_form(text: str) -> str:
    """The text without what the eye passes over: NFKC, case folded, punctuation and white space as one blank.

    The sign of a number stays. A text of nothing but punctuation stays as it is.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    signed = _MINUS.sub("\N{HEAVY MINUS SIGN}", folded)  # a symbol, so it outlives the punctuation
    kept = "".join(" " if unicodedata.category(char).startswith("P") else char for char in signed)
    return _BLANKS.sub(" ", kept).strip() or folded.strip()


def shape(text: str) -> Shape:
    """What `likeness` and `is_near` look at; make it once for a text that meets several others."""
    normal = normal_form(text)
    if len(normal) > MOST_READ:
        normal = normal[: MOST_READ // 2] + normal[-MOST_READ // 2 :]
    starts = range(max(1, len(normal) - SHINGLE + 1))
    return Shape(text=normal, shingles=Counter(normal[i : i + SHINGLE] for i in starts))


def likeness(one: Shape, other: Shape) -> float:
    """Share of the different shingles of two texts that both have: 1 for equal texts, 0 for strangers."""
    shared = len(one.shingles.keys() & other.shingles.keys())
    return shared / (len(one.shingles) + len(other.shingles) - shared)


def is_near(one: Shape, other: Shape) -> bool:
    """Whether two texts are equal or so nearly that a preference between them says nothing."""
    if one.text == other.text:
        return True
    sizes = sorted((len(one.shingles), len(other.shingles)))
    if sizes[0] >= NEAR_SHARE * sizes[1] and likeness(one, other) >= NEAR_SHARE:
        return True
    longest = max(len(one.text), len(other.text))
    allowed = int((1 - NEAR_RATIO) * longest + 1e-9)
    if not allowed or longest > MOST_EDITED:
        return False
    # One edit destroys at most five shingles (Ukkonen 1992, q-grams): with fewer in common it cannot be that near.
    shared = (one.shingles & other.shingles).total()
    return shared >= longest - SHINGLE + 1 - SHINGLE * allowed and edits_within(one.text, other.text, allowed)


def edits_within(one: str, other: str, most: int) -> bool:
    """Whether at most `most` insertions, deletions and replacements of a character turn one text into the other.

    Source: Ukkonen 1985, the furthest point on each diagonal after d edits; O(most² + length).
    """
    goal = len(other) - len(one)
    if abs(goal) > most:
        return False
    reached = {0: _slide(one, other, 0, 0)}  # diagonal (place in other − place in one) → place in one
    for edits in range(most + 1):
        if reached.get(goal, -1) >= len(one):
            return True
        further: dict[int, int] = {}
        for diagonal in range(-edits - 1, edits + 2):
            place = max(
                reached.get(diagonal, -2) + 1,  # replaced
                reached.get(diagonal - 1, -2),  # inserted
                reached.get(diagonal + 1, -2) + 1,  # deleted
            )
            place = min(place, len(one), len(other) - diagonal)
            if place >= max(0, -diagonal):
                further[diagonal] = _slide(one, other, place, diagonal)
        reached = further
    return False


def _slide(one: str, other: str, place: int, diagonal: int) -> int:
    end = min(len(one), len(other) - diagonal)
    while place < end and one[place] == other[place + diagonal]:
        place += 1
    return place


def are_near_identical(one: str, other: str) -> bool:
    """Whether two texts are equal or nearly so (`is_near`)."""
    return is_near(shape(one), shape(other))
