"""The settings of a project: which belong together, and what follows when one changes.

Ranges of single values are the API's and the table's constraints; here are the rules between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction

from annotation.assignment import apply_finish_started
from annotation.errors import Invalid
from annotation.feedback import Form
from annotation.fits import request as request_fit
from annotation.gate import write
from annotation.models import AuditAction, Project, User
from annotation.pairing import change_overlap
from annotation.people import audit, change_form

MOST_HIDDEN = 0.5
COLUMNS = (
    "name", "question", "overlap", "lease_minutes", "aggregator", "dispute_below", "flag_limit", "paused_at",
    "overlap_rule", "min_votes", "max_votes", "stop_at", "full_share", "expert_votes", "finish_started", "person_cap",
    "vote_cap", "min_reading_seconds", "read_to_end",
    "gold_share", "repeat_share", "repeat_after", "confirm_guideline", "practice_items", "qualification_items",
    "pass_mark", "attempts_allowed", "retry_hours", "feedback_every", "pause_below", "pause_min_gold",
)  # fmt: skip
DEFAULTS = {field.name: field.get_default() for field in Project._meta.concrete_fields if field.name in COLUMNS}


def check(values: Mapping[str, Any]) -> None:
    """Refuse settings that contradict each other; what is left out has its default.

    Raises:
        Invalid: naming each setting and what it was held against.
    """
    of = {**DEFAULTS, **values}
    if of["min_votes"] > of["max_votes"]:
        raise _contradiction(
            f"min_votes must be at most max_votes, got {of['min_votes']} and {of['max_votes']}",
            "min_votes",
            "max_votes",
        )
    if of["gold_share"] + of["repeat_share"] > MOST_HIDDEN:
        raise _contradiction(
            f"gold_share and repeat_share together must be at most {MOST_HIDDEN}, "
            f"got {of['gold_share']} and {of['repeat_share']}",
            "gold_share", "repeat_share",
        )  # fmt: skip


def _contradiction(message: str, *names: str) -> Invalid:
    return Invalid(message, details={name: [message] for name in names})


def change_settings(
    *, project: Project, values: Mapping[str, Any], form: Form | None = None, by: User, now: datetime
) -> dict[str, dict[str, Any]]:
    """Change settings, all or none; what changed, each with its old and new value. What is so already changes nothing.

    A new overlap applies to every comparison that is not frozen, `finish_started` to the slots that wait; another
    overlap rule applies to comparisons that are made from now on.

    Args:
        values: columns of `COLUMNS`.

    Raises:
        Invalid: they contradict each other or what stays.
        HasVotes: the form cannot change in this way any more.
    """
    unknown = set(values) - set(COLUMNS)
    assert not unknown, f"no settings: {unknown}"
    with write(), transaction.atomic():
        locked = Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        old: dict[str, Any] = Project.objects.values(*COLUMNS).get(pk=project.pk)
        check({**old, **values})
        changed = {name: {"old": old[name], "new": value} for name, value in values.items() if value != old[name]}
        columns = {name: values[name] for name in changed if name != "overlap"}
        if columns:
            Project.objects.filter(pk=project.pk).update(**columns)
        locked.refresh_from_db()
        if form is not None and form != locked.feedback:
            changed["form"] = {"old": locked.form, "new": form.as_dict()}
            change_form(project=locked, form=form, by=by, now=now)
        if "overlap" in changed:
            change_overlap(project=locked, overlap=values["overlap"], now=now)
        if "aggregator" in changed:
            request_fit(project)  # which settles by the new rule what was settled by the old one
        if changed:
            shown = {name: {key: _plain(value) for key, value in pair.items()} for name, pair in changed.items()}
            audit(project=project, by=by, action=AuditAction.PROJECT_CHANGED, target=project.slug, now=now, **shown)
    project.refresh_from_db()
    if "finish_started" in values:
        # Also where it is so already: a process may have died between the setting and the slots.
        apply_finish_started(project=project)
    return changed


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value
