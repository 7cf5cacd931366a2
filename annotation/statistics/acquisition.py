"""How many votes a comparison should get: when to stop asking, and what that costs.

Pure functions of arrays. Knows the posterior of an item, not how it came to be, and nothing of slots or people.

Shapes: n items, K classes.
"""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from annotation.statistics.estimates import check_codes


class Decision(StrEnum):
    """Whether an item gets another vote, and why not."""

    MORE = "more"
    STOP_CONFIDENT = "stop_confident"
    STOP_CAP = "stop_cap"
    STOP_NO_ANNOTATOR = "stop_no_annotator"


def overlap_decision(
    q: npt.ArrayLike,
    n_votes: npt.ArrayLike,
    *,
    tau: float = 0.95,
    start: int = 2,
    cap: int = 9,
    eligible: npt.ArrayLike | None = None,
) -> npt.NDArray[np.str_]:
    """Whether each item gets another vote: [n] of `Decision`.

    At least `start` votes, then it stops once a class has the posterior `tau`, at `cap` votes, or when everybody who
    may vote has done so: Wald's test with a bound on its length.

    Args:
        q: [n, K] posterior of each class, or [n] that of the leading one.
        n_votes: [n] votes so far.
        tau: posterior of the leading class that suffices, in (0, 1].
        start, cap: fewest and most votes, 1 ≤ start ≤ cap.
        eligible: [n] people who have voted or still may; None: there is always somebody.

    Raises:
        ValueError: naming the argument that is malformed.

    Source: Wald 1945, sequential tests.
    """
    posterior = np.asarray(q, dtype=np.float64)
    if posterior.ndim not in (1, 2) or not np.all((posterior >= 0) & (posterior <= 1)):
        raise ValueError(f"q must hold probabilities [n, K] or [n], got shape {posterior.shape}")
    votes = check_codes(n_votes, name="n_votes", length=len(posterior))
    if not 0 < tau <= 1:
        raise ValueError(f"tau must be above 0 and at most 1, got {tau}")
    if not 1 <= start <= cap:
        raise ValueError(f"start must be from 1 to cap ({cap}), got {start}")
    confidence = posterior.max(axis=1) if posterior.ndim == 2 else posterior
    nobody = np.zeros(len(votes), dtype=bool)
    if eligible is not None:
        nobody = votes >= check_codes(eligible, name="eligible", length=len(votes))
    return np.select(
        [votes < start, confidence >= tau, votes >= cap, nobody],
        [Decision.MORE.value, Decision.STOP_CONFIDENT.value, Decision.STOP_CAP.value, Decision.STOP_NO_ANNOTATOR.value],
        default=Decision.MORE.value,
    ).astype(np.str_)


def expected_votes(accuracy: float, *, tau: float = 0.95) -> float:
    """Votes that `overlap_decision` takes on the mean, without cap, if everybody is right with this probability.

    (1−2e) ln((1−e)/e) / ((2a−1) logit a) with e = 1−tau: the mean length of Wald's test, overshoot neglected.

    Args:
        accuracy: in (½, 1).
        tau: in (½, 1).

    Source: Wald 1945.
    """
    for name, value in (("accuracy", accuracy), ("tau", tau)):
        if not 0.5 < value < 1:
            raise ValueError(f"{name} must be above 0.5 and below 1, got {value}")
    error = 1 - tau
    gain = (2 * accuracy - 1) * math.log(accuracy / (1 - accuracy))
    return (1 - 2 * error) * math.log((1 - error) / error) / gain
