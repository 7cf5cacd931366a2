"""Spoilt completions, which everybody who reads must find worse than a normal one: for gold that nobody has to write.

Pure functions of texts and a seeded generator; knows no rows.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from enum import StrEnum


class Spoilt(StrEnum):
    """What is wrong with a spoilt completion."""

    TRUNCATED = "truncated"
    OFF_TOPIC = "off_topic"
    WRONG_LANGUAGE = "wrong_language"


EXPLANATION = {
    Spoilt.TRUNCATED: "This response breaks off in the middle of a sentence, so the question stays unanswered.",
    Spoilt.OFF_TOPIC: "This response answers a different question.",
    Spoilt.WRONG_LANGUAGE: "This response is in another language than the prompt and does not answer it.",
}
GIVEN_SOURCE = "gold, written"
SPOILT_SOURCE = "gold, spoilt"
OWN_SOURCES = (GIVEN_SOURCE, SPOILT_SOURCE)  # of completions that are no normal answers: pairing leaves them out
LEAST_CHARACTERS = 80  # of a completion worth cutting: half a line that is cut may pass for a short answer
CUT = (0.2, 0.5)

_ENDS = '.!?…。！？"”»)]}>`*'

PASSAGES = {
    "en": (
        "The old harbour lies on the north side of the bay, where the water is deep enough for larger boats. In the "
        "morning the fishermen come back, sort what they have caught and sell it from wooden tables along the quay. "
        "By noon the stalls are empty, and only a few gulls are left looking for something to eat between the ropes."
    ),
    "de": (
        "Der alte Hafen liegt auf der Nordseite der Bucht, wo das Wasser tief genug für größere Boote ist. Am Morgen "
        "kommen die Fischer zurück, sortieren ihren Fang und verkaufen ihn an Holztischen entlang der Mole. Gegen "
        "Mittag sind die Stände leer, und nur ein paar Möwen suchen zwischen den Tauen noch nach etwas Essbarem."
    ),
    "fr": (
        "Le vieux port se trouve du côté nord de la baie, là où l'eau est assez profonde pour les grands bateaux. Le "
        "matin, les pêcheurs reviennent, trient leurs poissons et les vendent sur des tables en bois le long du quai. "
        "Vers midi, les étals sont vides, et il ne reste que quelques mouettes qui cherchent à manger entre les cordes."
    ),
    "es": (
        "El puerto viejo está en el lado norte de la bahía, donde el agua es bastante profunda para los barcos "
        "grandes. Por la mañana vuelven los pescadores, ordenan lo que han sacado y lo venden en mesas de madera a lo "
        "largo del muelle. Hacia el mediodía los puestos están vacíos y solo quedan unas gaviotas entre las cuerdas."
    ),
    "ru": (
        "Старая гавань лежит на северной стороне залива, где вода достаточно глубока для больших лодок. Утром рыбаки "
        "возвращаются, разбирают улов и продают его с деревянных столов вдоль причала. К полудню прилавки пустеют, и "
        "только несколько чаек ищут себе еду между канатами."
    ),
    "zh": (
        "老港口位于海湾的北侧，那里的水足够深，可以停靠较大的船只。清晨，渔民们回到岸边，把捕到的鱼分好，"
        "摆在码头边的木桌上出售。到了中午，摊位都空了，只剩下几只海鸥在缆绳之间寻找食物。"
    ),
}  # fmt: skip

# Frequent short words that the other languages lack; enough to tell which passage would be no surprise.
_WORDS = {
    "en": {"the", "and", "of", "is", "what", "how", "with", "you", "that", "this", "are", "it"},
    "de": {"der", "die", "das", "und", "ist", "wie", "nicht", "ein", "eine", "für", "mit", "was"},
    "fr": {"le", "les", "des", "est", "une", "pour", "dans", "que", "qui", "comment", "avec", "quel"},
    "es": {"el", "los", "las", "una", "por", "para", "qué", "cómo", "con", "del", "es", "está"},
}


def truncate(text: str, rng: random.Random) -> str | None:
    """The first 20–50 % of a text, cut in the middle of a sentence; None where it is too short or has no such place."""
    text = text.strip()
    if len(text) < LEAST_CHARACTERS:
        return None
    for _ in range(8):
        cut = text[: round(rng.uniform(*CUT) * len(text))]
        whole_words = cut.rsplit(None, 1)[0] if len(cut.split()) > 3 else cut
        if whole_words and whole_words.rstrip()[-1] not in _ENDS:
            return whole_words.rstrip()
    return None


def language_of(text: str) -> str:
    """Which of the passages' languages a text is in, by its letters or its most frequent small words; else ""."""
    letters = [char for char in text if char.isalpha()]
    for language, low, high in (("zh", "\u4e00", "\u9fff"), ("ru", "\u0400", "\u04ff")):
        if letters and sum(low <= char <= high for char in letters) > len(letters) / 2:
            return language
    words = Counter(re.findall(r"[^\W\d_]+", text.lower()))
    hits = {language: sum(words[word] for word in known) for language, known in _WORDS.items()}
    best = max(hits, key=lambda language: hits[language])
    return best if hits[best] else ""


def foreign_passage(language: str, rng: random.Random) -> str:
    """A natural passage in another language than this one (as `en`, or `en-GB`)."""
    own = language.lower().split("-")[0]
    return PASSAGES[rng.choice([name for name in sorted(PASSAGES) if name != own])]
