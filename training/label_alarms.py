"""Alarms about labels: agreement that drops, people who are below gold, people who prefer a side.

They are looked for whenever a project's votes have been fitted anew, which says that enough of them have changed; a
worker does it, since the statistics read all votes. What is found again has the key that it had and is told once.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.db.models import F, Q, QuerySet

from annotation.models import AggregationFit, Membership, Project
from annotation.quality import gold_scores, surely_below
from annotation.reports.bias import EFFECTS, effect_at, figures
from annotation.reports.change import agreement_change
from training.alarms import AGREEMENT_DROP, GOLD_MARK, because, raise_alarm
from training.models import Alarm, LabelWatch

LEASE = timedelta(minutes=10)
_POSITION = EFFECTS.index("position")

log = logging.getLogger(__name__)


def due(now: datetime) -> list[AggregationFit]:
    """Fits after which nobody has looked, and nobody is looking. One query."""
    fits = AggregationFit.objects.filter(number__gt=0).select_related("project").order_by("project_id")
    looked_at = Q(project__label_watch__fit_number=F("number"))
    return list(fits.exclude(looked_at | Q(project__label_watch__lease_expires_at__gte=now)))


def run_due(now: datetime) -> int:
    """Look at the projects that are due; how many alarms are new. Two at once look at each project once.

    A project that fails is logged and does not keep the others waiting; it is looked at again when its lease is over.
    """
    raised = 0
    for fit in due(now):
        watch = LabelWatch.objects.get_or_create(project=fit.project)[0]
        free = Q(lease_expires_at__isnull=True) | Q(lease_expires_at__lt=now)
        mine = LabelWatch.objects.filter(free, pk=watch.pk, fit_number=watch.fit_number)
        if not mine.update(lease_expires_at=now + LEASE):
            continue
        try:
            raised += look(fit.project, now)
        except Exception:  # whatever it is, it is this project's
            log.exception("the labels of project %s could not be looked at", fit.project.slug)
            continue
        LabelWatch.objects.filter(pk=watch.pk).update(fit_number=fit.number, lease_expires_at=None)
    return raised


def look(project: Project, now: datetime) -> int:
    """Raise what the votes of a project ring; how many alarms are new. A second call raises nothing more."""
    members = list(_working(project))
    return (
        _raise_for_agreement(project, now)
        + _raise_for_gold(project, members, now)
        + _raise_for_sides(project, members, now)
    )


def _working(project: Project) -> QuerySet[Membership]:
    """People whose votes count, and who may give more."""
    return (
        Membership.objects.filter(project=project, excluded_at=None, left_at=None).select_related("user").order_by("pk")
    )


def _raise_for_agreement(project: Project, now: datetime) -> int:
    """What rang once is the measure for what comes after it: agreement that stays low rings no more."""
    last = Alarm.objects.filter(project=project, name="agreement_drop").order_by("-pk").first()
    since = None if last is None else datetime.fromisoformat(last.key.removeprefix("agreement_drop/"))
    found = agreement_change(project, since=since)
    if found is None or found.drop < AGREEMENT_DROP or found.least_drop <= 0:
        return 0
    text = (
        f"On {found.comparisons} comparisons, done since {found.since:%Y-%m-%d %H:%M} UTC, {found.agreement:.0%} of "
        f"the pairs of votes agree; on the {found.comparisons_before} before them it was {found.agreement_before:.0%}. "
        f"That is {100 * found.drop:.0f} points less, with 99 % certainty at least {100 * found.least_drop:.1f}."
    )
    evidence = because(
        text, agreement=found.agreement, agreement_before=found.agreement_before, drop=found.drop,
        least_drop=found.least_drop, comparisons=found.comparisons,
    )  # fmt: skip
    key = f"agreement_drop/{found.since.isoformat()}"
    return _raised(project, "agreement_drop", key, evidence, now)


def _raise_for_gold(project: Project, members: list[Membership], now: datetime) -> int:
    """Once for a person, and again if they are below it after somebody has let them go on."""
    mark = GOLD_MARK if project.pause_below is None else project.pause_below
    raised = 0
    scores = gold_scores(project, members)
    for member in members:
        right, n = scores[member.user_id]
        high = surely_below(right, n, mark=mark, least=project.pause_min_gold)
        if high is None:
            continue
        text = (
            f"{member.pseudonym}: {right} of {n} answers to hidden gold are right ({right / n:.0%}; with 95 % "
            f"certainty at most {high:.0%}), below {mark:.0%}."
        )
        evidence = because(text, right=right, n=n, gold=right / n, high=high, mark=mark)
        key = _of_person("annotator_below_gold", member)
        raised += _raised(project, "annotator_below_gold", key, evidence, now)
    return raised


def _raise_for_sides(project: Project, members: list[Membership], now: datetime) -> int:
    """Likewise, of the bias that the report of people shows."""
    found = figures(project)
    place = {int(user): w for w, user in enumerate(found.user)}
    raised = 0
    for member in members:
        w = place.get(member.user_id)
        if w is None or not found.bias.flagged[w, _POSITION]:
            continue
        n = int(found.bias.n[w])
        effect = effect_at(found.bias.effect, (w, _POSITION), method="laplace", n=n)
        assert effect.value is not None and effect.low is not None and effect.high is not None, "it is flagged"
        text = (
            f"{member.pseudonym} prefers the {'left' if effect.value > 0 else 'right'} side by {abs(effect.value):.1f} "
            f"logits (95 %: {effect.low:.1f} to {effect.high:.1f}) in {n} decisive votes, beyond what the others say."
        )
        evidence = because(text, side_bias=effect.value, low=effect.low, high=effect.high, n=n)
        key = _of_person("annotator_one_sided", member)
        raised += _raised(project, "annotator_one_sided", key, evidence, now)
    return raised


def _of_person(name: str, member: Membership) -> str:
    judged_from = "" if member.judged_from is None else f"/{member.judged_from.isoformat()}"
    return f"{name}/{member.user.public_id}{judged_from}"


def _raised(project: Project, name: str, key: str, evidence: dict[str, object], now: datetime) -> int:
    return int(raise_alarm(project=project, key=key, name=name, evidence=[evidence], now=now) is not None)
