"""Gold: comparisons whose answer is known, and whether a vote on one is right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from annotation.feedback import LETTERS, pair_classes, ranks


def is_right(answer: Mapping[str, Any], choice: str, body: Mapping[str, Any], *, size: int) -> bool:
    """Whether a vote agrees with a gold answer, whatever the kind of form.

    `{"choice": "tie"}` wants a tie. `{"worst": "c"}` wants c below every other one. A ranking wants what it puts apart
    in the same order; the order of what it ties does not matter.
    """
    places = ranks(choice, body, size=size)
    if "worst" in answer:
        worst = LETTERS.index(answer["worst"])
        return all(places[worst] > place for i, place in enumerate(places) if i != worst)
    if answer.get("choice") == "tie":
        return places[0] == places[1]
    wanted = ranks(answer.get("choice", ""), answer, size=size)
    given = pair_classes(places)
    return all(found == want for found, want in zip(given, pair_classes(wanted), strict=True) if want[2] != 1)
