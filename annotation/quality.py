"""A person's record: gold, agreement, consistency, bias and speed; feedback to them; pausing, and the way back."""

from __future__ import annotations

from datetime import datetime

from annotation.models import Project, Vote


def after_vote(vote: Vote, *, now: datetime) -> None:
    """What a stored vote brings about: a closed attempt, a pause, a feedback that is due.

    To be called after the vote's own transaction. It may be lost (the process dies) or come twice without harm: the
    next vote does what was left. An ordinary vote costs no query where the project has no such rule.
    """


def refresh_reliability(*, project: Project, now: datetime) -> int:
    """Estimate anew how often each person is right; how many memberships changed."""
    return 0
