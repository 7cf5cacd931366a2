"""Onboarding: the guideline is confirmed, practice explains itself, and qualification gold must be passed.

Every step is a fact (a reading, an assignment, an attempt), so where a person stands is computed, never stored. Votes
of practice and qualification come through the ordinary vote endpoint; `quality.after_vote` closes an attempt.
"""

from __future__ import annotations

from django.db.models import Exists, OuterRef

from annotation.models import (
    AssignmentState,
    GuidelineReading,
    GuidelineVersion,
    Membership,
    Project,
)

THROUGH = (AssignmentState.VOTED, AssignmentState.SKIPPED, AssignmentState.FLAGGED)


def why_not(project: Project, membership: Membership) -> str:
    """Why this person may not work yet: `person_paused`, `confirm_guideline`, `practise`, `qualify`, or nothing ("").

    For somebody who is ready at most two queries, and none where the project asks for nothing.
    """
    if membership.paused_at is not None:
        return "person_paused"
    if project.confirm_guideline and not _has_confirmed(project, membership):
        return "confirm_guideline"
    return ""


def _has_confirmed(project: Project, membership: Membership) -> bool:
    read = GuidelineReading.objects.filter(guideline_id=OuterRef("pk"), user_id=membership.user_id)
    newest = GuidelineVersion.objects.filter(project=project).order_by("-number").annotate(is_read=Exists(read))
    return newest.values_list("is_read", flat=True).first() is not False
