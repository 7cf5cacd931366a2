"""Whether people agree less of late than they did before: the newest comparisons beside those before them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from annotation.models import Project
from annotation.reports.agreement import measured, share_agreeing
from annotation.reports.features import load_times
from annotation.reports.votes import codes_of, load_comparisons
from annotation.statistics.estimates import IntArray, interval
from annotation.vote_arrays import VoteArrays, load

BLOCK = 100  # comparisons that are looked at together: about ±8 points of agreement with two votes each
FEWEST_BEFORE = 2  # blocks to compare with
LEVEL = 0.99  # of the interval of the difference: a project has many blocks, and each is looked at


@dataclass(frozen=True, kw_only=True, slots=True)
class AgreementChange:
    """Percent agreement of the newest whole block of comparisons, and of all those before it.

    Attributes:
        since: when the first of the block was done. comparisons, comparisons_before: with two votes or more.
        drop: how much lower agreement is now; `least_drop`, the lower end of its interval at `LEVEL`, clustered by
            prompt.
    """

    since: datetime
    comparisons: int
    comparisons_before: int
    agreement: float
    agreement_before: float
    drop: float
    least_drop: float


def agreement_change(project: Project, *, since: datetime | None = None) -> AgreementChange | None:
    """How agreement has changed; None while there are too few comparisons or prompts to say. Five queries.

    A comparison is done at its last vote. Blocks are counted from the first one on, so a block is looked at with the
    same comparisons however often this is asked, but for votes that are taken back.

    Args:
        since: leave out comparisons that were done before it.
    """
    comparisons = load_comparisons(project)
    votes = measured(project, load(project, counted=True), comparisons)
    votes = votes.only((np.bincount(votes.item, minlength=len(votes.comparison)) > 1)[votes.item])
    comparison, n = codes_of(votes.comparison)
    done = np.zeros(n, dtype=np.int64)
    np.maximum.at(done, comparison[votes.item], load_times(project, votes)[1])
    order = np.argsort(done, kind="stable")
    if since is not None:
        order = order[done[order] >= int(since.timestamp())]
    blocks = len(order) // BLOCK
    if blocks < 1 + FEWEST_BEFORE:
        return None
    before, now = np.split(order[: blocks * BLOCK], [(blocks - 1) * BLOCK])
    first = share_agreeing(_of(votes, before), comparisons)
    last = share_agreeing(_of(votes, now), comparisons)
    if first.value is None or last.value is None or first.se is None or last.se is None:
        return None
    drop = first.value - last.value
    least, _, _ = interval(
        drop, se=math.hypot(first.se, last.se), df=min(first.n_groups, last.n_groups) - 1, bounds=(-1.0, 1.0),
        level=LEVEL,
    )  # fmt: skip
    return AgreementChange(
        since=datetime.fromtimestamp(int(done[now[0]]), tz=UTC),
        comparisons=len(now),
        comparisons_before=len(before),
        agreement=last.value,
        agreement_before=first.value,
        drop=drop,
        least_drop=least,
    )


def _of(votes: VoteArrays, comparisons: IntArray) -> VoteArrays:
    """The votes on these comparisons, named by their codes."""
    return votes.only(np.isin(codes_of(votes.comparison)[0], comparisons)[votes.item])
