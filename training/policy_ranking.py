"""The ranking of all policies of a project by each kind of judge, and how far the kinds agree over all evaluations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID

import numpy as np
from django.db.models import Count

from annotation.models import Project, Source, SourceKind
from annotation.reports.cache import kept
from annotation.reports.ranking import strengths
from annotation.reports.systems import load_system_votes
from annotation.statistics.ranking import bradley_terry
from training.models import Evaluation, JobStatus, JudgeKind, ModelVersion, Verdict
from training.verdicts import PLACES, View, agreement, common, load_pairs, load_people, turned, views_of


@dataclass(kw_only=True, slots=True)
class _Field:
    """Contests between policies: codes, outcomes of the first (1, ½, 0) and prompts."""

    names: dict[object, int] = field(default_factory=dict)
    a: list[int] = field(default_factory=list)
    b: list[int] = field(default_factory=list)
    outcome: list[float] = field(default_factory=list)
    prompt: list[int] = field(default_factory=list)

    def add(self, first: object, second: object, outcome: float, prompt: int) -> None:
        self.a.append(self.names.setdefault(first, len(self.names)))
        self.b.append(self.names.setdefault(second, len(self.names)))
        self.outcome.append(outcome)
        self.prompt.append(prompt)


def policy_ranking(project: Project) -> dict[str, Any]:
    """All policies of a project by each kind of judge, strongest first, and how far the kinds agree on evaluations.

    People's ranking rests on all their comparisons, those for training too. Strengths are natural-log odds with sum
    zero; a judge's two orders are two answers. Computed once for the same facts.
    """
    done = Verdict.objects.filter(evaluation__project=project, result__isnull=False).count()
    sampled = Evaluation.objects.filter(project=project, round__job__status=JobStatus.SUCCEEDED).count()
    models = Source.objects.filter(project=project, kind=SourceKind.POLICY).aggregate(n=Count("model_id"))
    parameters = (done, sampled, models["n"])
    return kept(project, report="policies", parameters=parameters, compute=lambda: _policy_ranking(project))


def _policy_ranking(project: Project) -> dict[str, Any]:
    evaluations = list(
        Evaluation.objects.filter(project=project)
        .select_related("round", "project", "first", "second")
        .prefetch_related("verdicts")
        .order_by("pk")
    )
    fields = {kind: _Field() for kind in JudgeKind}
    names = _add_people(project, fields[JudgeKind.PEOPLE])
    judges: dict[JudgeKind, int] = defaultdict(int)
    for item in evaluations:
        names |= {model.public_id: (model.public_id, model.name) for model in (item.first, item.second)}
        for verdict in item.verdicts.all():
            judges[JudgeKind(verdict.kind)] += verdict.result is not None
            for row in (verdict.result or {"pairs": []})["pairs"]:
                _add_row(fields[JudgeKind(verdict.kind)], item, row)
    return {
        "rankings": [
            _ranked(kind, fields[kind], names, verdicts=None if kind is JudgeKind.PEOPLE else judges[kind])
            for kind in JudgeKind
        ],
        "agreement": _agreement_of_kinds(evaluations),
    }


def _add_people(project: Project, contests: _Field) -> dict[object, tuple[UUID | None, str]]:
    """All counted votes between completions of different policies; id and name of each. Ten queries at most."""
    votes = load_system_votes(project, with_marks=False)
    rows = {row.pk: row for row in Source.objects.filter(project=project, kind=SourceKind.POLICY)}
    models = dict(
        ModelVersion.objects.filter(public_id__in=[row.model_id for row in rows.values() if row.model_id]).values_list(
            "public_id", "name"
        )
    )
    key_of: dict[int, object] = {pk: row.model_id or row.public_id for pk, row in rows.items()}
    source = votes.source.tolist()
    for a, b, outcome, prompt in zip(votes.a, votes.b, votes.outcome, votes.prompt, strict=True):
        first, second = source[a], source[b]
        if first in rows and second in rows and key_of[first] != key_of[second]:
            contests.add(key_of[first], key_of[second], float(outcome), int(prompt))
    found: dict[object, tuple[UUID | None, str]] = {}
    for pk, row in rows.items():
        name = models.get(row.model_id) if row.model_id else None
        found[key_of[pk]] = (row.model_id if name else None, name or row.name)
    return found


def _add_row(contests: _Field, evaluation: Evaluation, row: Sequence[Any]) -> None:
    _, _, prompt, outcome, _, ab, ba = row
    if outcome is None:
        return
    both = [PLACES[ab], 1 - PLACES[ba]] if ab and ba else [outcome]
    for value in both:
        contests.add(evaluation.first.public_id, evaluation.second.public_id, value, prompt)


def _ranked(
    kind: JudgeKind, contests: _Field, names: Mapping[object, tuple[UUID | None, str]], *, verdicts: int | None
) -> dict[str, Any]:
    n = len(contests.names)
    group = np.array(contests.prompt, dtype=np.int64)
    found = bradley_terry(contests.a, contests.b, contests.outcome, n=n, group=group) if n else None
    each = strengths(found) if found is not None else []
    taken = np.bincount(np.array([*contests.a, *contests.b], dtype=np.int64), minlength=n)
    rows = []
    for key, i in contests.names.items():
        model, name = names[key]
        row = {"model": None if model is None else str(model), "name": name, "contests": int(taken[i])}
        component = int(found.component[i]) if found is not None else 0
        rows.append(row | asdict(each[i]) | {"component": component})
    rows.sort(key=lambda row: (row["component"], -(row["strength"] or 0.0), row["name"]))
    return {
        "kind": kind.value,
        "verdicts": verdicts,
        "contests": len(contests.a),
        "prompts": len(set(contests.prompt)),
        "policies": rows,
        "warnings": [str(warning) for warning in found.warnings] if found is not None else [],
    }


def _agreement_of_kinds(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Over all evaluations, each two kinds of judge; a verdict meets every verdict of the other kind on its pairs."""
    compared = load_pairs(evaluations)
    people = load_people(evaluations, compared)
    met: dict[tuple[JudgeKind, JudgeKind], list[tuple[int, View, View]]] = defaultdict(list)
    for item in evaluations:
        for one, other in turned(list(item.verdicts.all())):
            if one.kind != other.kind:
                low, high = (
                    (one, other) if other.kind == JudgeKind.PEOPLE or one.kind == JudgeKind.JUDGE else (other, one)
                )
                views = (views_of(verdict, people[item.pk]) for verdict in (low, high))
                met[JudgeKind(low.kind), JudgeKind(high.kind)] += common(compared[item.pk], *views)
    kinds = [
        (JudgeKind.REWARD, JudgeKind.PEOPLE), (JudgeKind.JUDGE, JudgeKind.PEOPLE), (JudgeKind.JUDGE, JudgeKind.REWARD)
    ]  # fmt: skip
    return [{"first": a.value, "second": b.value} | agreement(met[a, b]) for a, b in kinds]
