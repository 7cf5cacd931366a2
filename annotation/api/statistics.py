"""The statistics of a project's votes: how far people agree, on the whole, in parts, two by two and in single cases.

Each answer says in `definition` what it counts, and can be downloaded with it as JSON or as CSV.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import asdict
from operator import itemgetter
from typing import Any

from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from annotation.api.access import ProjectView
from annotation.api.comparisons import ComparisonSerializer, comparison_row
from annotation.api.pagination import CURSOR_PARAMETERS, MOST, whole_number
from annotation.api.parsing import query_choice
from annotation.api.reports import (
    NumbersField,
    StatisticSerializer,
    Table,
    answer,
    numbers,
    report_schema,
    wanted_file,
    wanted_table,
)
from annotation.feedback import FeedbackKind
from annotation.models import Aggregator
from annotation.reports import agreement as agreement_report
from annotation.reports import divided
from annotation.reports.agreement import Split, Window
from annotation.reports.cache import kept
from annotation.statistics.estimates import reason_of

WEIGHTS = ("identity", "linear", "quadratic", "ordinal")
MOST_PEOPLE = 200


class ClassShareSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="a, tie, b; of ratings a point.")
    share = StatisticSerializer()


class AgreementFiguresSerializer(serializers.Serializer[Any]):
    comparisons = serializers.IntegerField(help_text="With a vote in it.")
    items = serializers.IntegerField(help_text="Pairs, or rated completions.")
    votes = serializers.IntegerField()
    people = serializers.IntegerField()
    prompts = serializers.IntegerField(help_text="Groups that the intervals are clustered by.")
    percent = StatisticSerializer()
    unanimous = StatisticSerializer()
    alpha = StatisticSerializer(help_text="Krippendorff, nominal.")
    alpha_ordinal = StatisticSerializer()
    alpha_interval = StatisticSerializer(allow_null=True, help_text="Of ratings only: on their points.")
    fleiss = StatisticSerializer()
    ac1 = StatisticSerializer(help_text="Gwet.")
    ac2 = StatisticSerializer(help_text="Gwet, ordinal weights.")
    classes = ClassShareSerializer(many=True)
    both_bad = StatisticSerializer(help_text="Share of the votes; they count as ties.")


class AgreementRowSerializer(AgreementFiguresSerializer):
    key = serializers.CharField(help_text="Criterion, batch, guideline version or start of the window.")
    title = serializers.CharField()
    started_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)


class HeldOutSerializer(serializers.Serializer[Any]):
    method = serializers.CharField()
    log_loss = serializers.FloatField(help_text="Of hidden votes, nats a vote; lower is better.")


class AccuracyCeilingSerializer(serializers.Serializer[Any]):
    best = StatisticSerializer(help_text="Best accuracy that a model can reach against single votes.")
    upper = StatisticSerializer(help_text="No spread of opinion allows more.")
    agreement = StatisticSerializer(help_text="Of decisive votes, from which it follows.")


class AgreementReportSerializer(serializers.Serializer[Any]):
    definition = serializers.CharField()
    kind = serializers.ChoiceField(choices=[kind.value for kind in FeedbackKind])
    full_overlap_only = serializers.BooleanField(help_text="Measured on the random slice that gets all votes.")
    split = serializers.ChoiceField(choices=[item.value for item in Split], allow_null=True)
    overall = AgreementFiguresSerializer()
    rows = AgreementRowSerializer(many=True)
    skipped = serializers.IntegerField()
    cannot_judge = serializers.IntegerField(help_text="Of the skipped.")
    aggregator = serializers.ChoiceField(choices=Aggregator.choices)
    held_out = HeldOutSerializer(many=True)
    ceiling = AccuracyCeilingSerializer()


class StatisticsPersonSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    name = serializers.CharField()
    pseudonym = serializers.CharField()
    votes = serializers.IntegerField()


class MatrixReportSerializer(serializers.Serializer[Any]):
    """Square matrices in the order of `people`; null where `reason` says why."""

    definition = serializers.CharField()
    weights = serializers.ChoiceField(choices=WEIGHTS)
    min_common = serializers.IntegerField()
    total_people = serializers.IntegerField()
    people = StatisticsPersonSerializer(many=True)
    kappa = NumbersField()
    se = NumbersField()
    n_common = serializers.ListField(child=serializers.ListField(child=serializers.IntegerField()))
    reason = serializers.ListField(child=serializers.ListField(child=serializers.CharField(allow_null=True)))


class DividedVoteSerializer(serializers.Serializer[Any]):
    annotator = serializers.CharField(help_text="Pseudonym.")
    choice = serializers.CharField(allow_blank=True)
    both_bad = serializers.BooleanField()
    strength = serializers.FloatField(allow_null=True, help_text="1: a clearly, −1: b clearly.")
    answer = serializers.DictField(help_text="The rest of the answer, in stored order.")
    reasons = serializers.ListField(child=serializers.CharField())
    rationale = serializers.CharField(allow_blank=True)
    active_ms = serializers.IntegerField(allow_null=True)
    created_at = serializers.DateTimeField()


class DividedComparisonSerializer(ComparisonSerializer):
    share = serializers.FloatField(allow_null=True)
    top_share = serializers.FloatField(allow_null=True, help_text="Share of the votes for the leading class.")
    posterior = serializers.FloatField(allow_null=True, help_text="Model confidence in the leading class.")
    ballots = DividedVoteSerializer(many=True, help_text="Counted votes, the oldest first.")


class DividedListSerializer(serializers.Serializer[Any]):
    definition = serializers.CharField()
    items = DividedComparisonSerializer(many=True)
    next = serializers.CharField(allow_null=True)


def _agreement_rows(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The whole, then its parts, with a column for each class."""
    for row in ({"key": "overall", "title": "All", **body["overall"]}, *body["rows"]):
        shares = {f"share_{item['name']}": item["share"] for item in row["classes"]}
        yield {name: value for name, value in row.items() if name != "classes"} | shares


AGREEMENT_TABLES: dict[str, Table] = {
    "agreement": _agreement_rows,
    "ceiling": lambda body: [body["ceiling"]],
    "held_out": itemgetter("held_out"),
}


class AgreementView(ProjectView):
    """Agreement."""

    @report_schema(
        "agreement", AgreementReportSerializer,
        OpenApiParameter("split", str, enum=[item.value for item in Split]),
        OpenApiParameter(
            "window", str, enum=[item.value for item in Window],
            description="Of time (UTC), default week; votes: ten parts with equally many.",
        ),
        tables=AGREEMENT_TABLES,
    )  # fmt: skip
    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """How far people agree, with class shares and the ceiling; split by criterion, batch, guideline or time."""
        file = wanted_file(request)
        name, table = wanted_table(request, "agreement", AGREEMENT_TABLES)
        chosen = query_choice(request, "split", [item.value for item in Split], default="")
        split = Split(chosen) if chosen else None
        window = Window(query_choice(request, "window", [item.value for item in Window], default="week"))

        def compute() -> dict[str, Any]:
            found = agreement_report.agreement_report(self.project, split=split, window=window)
            rows = [
                {"key": row.key, "title": row.title, "started_at": row.started_at, "ended_at": row.ended_at}
                | asdict(row.figures)
                for row in found.rows
            ]
            held_out = [{"method": name, "log_loss": loss} for name, loss in found.held_out.items()]
            names = ("definition", "kind", "full_overlap_only", "split", "overall", "skipped", "cannot_judge")
            body = {name: getattr(found, name) for name in (*names, "aggregator", "ceiling")}
            return dict(AgreementReportSerializer({**body, "rows": rows, "held_out": held_out}).data)

        body = kept(self.project, report="agreement", parameters=(chosen, window.value), compute=compute)
        return answer(self.project, body, name=name, file=file, table=table)


class MatrixView(ProjectView):
    """Agreement of every two people."""

    @report_schema(
        "matrix", MatrixReportSerializer,
        OpenApiParameter("weights", str, enum=list(WEIGHTS), description="Default identity."),
        OpenApiParameter("min_common", int, description="Items that two people need in common: 2 or more, default 20."),
        OpenApiParameter("most", int, description=f"The busiest so many people; 2 to {MOST_PEOPLE}, default 60."),
    )  # fmt: skip
    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """Cohen's κ of every two annotators, with what they have in common."""
        file = wanted_file(request)
        weights = query_choice(request, "weights", WEIGHTS, default="identity")
        min_common = whole_number(request, "min_common", default=20, low=2, high=1_000_000)
        most = whole_number(request, "most", default=60, low=2, high=MOST_PEOPLE)

        def compute() -> dict[str, Any]:
            found = agreement_report.matrix_report(self.project, weights=weights, min_common=min_common, most=most)
            people = [asdict(person) | {"votes": n} for person, n in zip(found.people, found.votes, strict=True)]
            body = {
                "definition": found.definition, "weights": weights, "min_common": min_common,
                "total_people": found.total_people, "people": people, "kappa": numbers(found.matrix.kappa),
                "se": numbers(found.matrix.se), "n_common": found.matrix.n_common.tolist(),
                "reason": [[reason_of(code) for code in row] for row in found.matrix.reason.tolist()],
            }  # fmt: skip
            return dict(MatrixReportSerializer(body).data)

        body = kept(self.project, report="matrix", parameters=(weights, min_common, most), compute=compute)
        return answer(self.project, body, name="matrix", file=file, table=_matrix_rows)


def _matrix_rows(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for every two people."""
    for i, first in enumerate(body["people"]):
        for j, second in enumerate(body["people"][:i]):
            cell = {name: body[name][i][j] for name in ("kappa", "se", "n_common", "reason")}
            yield {"first": second["pseudonym"], "second": first["pseudonym"], **cell}


class WorstView(ProjectView):
    """Divided comparisons."""

    @report_schema(
        "worst", DividedListSerializer,
        OpenApiParameter("by", str, enum=[item.value for item in divided.Order], description="Default confidence."),
        *CURSOR_PARAMETERS,
    )  # fmt: skip
    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """Comparisons with the least clear outcome first, their votes side by side. Never for annotators."""
        file = wanted_file(request)
        order = divided.Order(
            query_choice(request, "by", [item.value for item in divided.Order], default="confidence")
        )  # fmt: skip
        limit = whole_number(request, "limit", default=50, low=1, high=MOST)
        found = divided.divided(self.project, order=order, after=_after(request), most=limit + 1)
        page, more = found[:limit], len(found) > limit
        ballots = divided.ballots(self.project, page)
        items = [
            comparison_row(row)
            | {name: getattr(row.consensus, name) for name in ("share", "top_share", "posterior")}
            | {"ballots": ballots.get(row.pk, [])}
            for row in page
        ]
        last = (getattr(page[-1].consensus, order.column), page[-1].pk) if more else None
        body = {"definition": divided.definition(order), "items": items, "next": _cursor(*last) if last else None}
        shown = DividedListSerializer(body).data
        return answer(self.project, shown, name="worst", file=file, table=_worst_rows)


def _cursor(figure: float, key: int) -> str:
    return urlsafe_b64encode(f"{figure!r} {key}".encode()).decode()


def _after(request: Request) -> tuple[float, int] | None:
    """The place in the list that the cursor names."""
    cursor = request.query_params.get("cursor")
    if not cursor:
        return None
    try:
        figure, key = urlsafe_b64decode(cursor.encode()).decode().split(" ")
        if not 0 <= float(figure) <= 1 or not 0 <= int(key) < 2**63:
            raise ValueError(cursor)
        return float(figure), int(key)
    except ValueError:
        raise ValidationError({"cursor": [f"not a cursor: {cursor!r}"]}) from None


def _worst_rows(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for every vote, beside what it was given on."""
    for item in body["items"]:
        figures = {name: item[name] for name in ("state", "label", "prob", "share", "top_share", "posterior")}
        texts = {completion["label"]: completion["text"] for completion in item["completions"]}
        for ballot in item["ballots"]:
            given = {name: ballot[name] for name in ("annotator", "choice", "both_bad", "strength", "rationale")}
            yield {"comparison": item["id"], "prompt": item["prompt"][-1]["content"], **texts, **figures, **given}


_STATISTICS = "projects/<slug:slug>/statistics"

urlpatterns: list[URLPattern] = [
    path(f"{_STATISTICS}/agreement", AgreementView.as_view()),
    path(f"{_STATISTICS}/matrix", MatrixView.as_view()),
    path(f"{_STATISTICS}/worst", WorstView.as_view()),
]
