"""What the statistics say of people: their accuracy, their biases, and what would help most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request

from annotation.api.access import ProjectView
from annotation.api.parsing import query_fraction
from annotation.api.reports import StatisticSerializer, Table, answer, report_schema, wanted_file, wanted_table
from annotation.api.statistics import AccuracyCeilingSerializer, StatisticsPersonSerializer
from annotation.reports import bias as bias_report
from annotation.reports.bias import EFFECTS
from annotation.reports.cache import kept
from annotation.reports.votes import Member
from annotation.statistics.bias import Advice


class PersonSummarySerializer(StatisticsPersonSerializer):
    excluded = serializers.BooleanField()
    accuracy = StatisticSerializer(help_text="P(a vote is right), by the joint fit.")
    agreement = StatisticSerializer(help_text="With the answer of the others, the own vote left out.")
    kappa = StatisticSerializer(help_text="Of own votes against the answer of the others.")
    tie_share = StatisticSerializer()
    left_share = StatisticSerializer()
    side_bias = StatisticSerializer(help_text="Logits towards the left side, relative to what others say.")
    consistency = StatisticSerializer()
    side_driven = StatisticSerializer()
    gold = StatisticSerializer()
    reference = StatisticSerializer(help_text="Agreement with researchers' references.")
    reference_kappa = StatisticSerializer()
    median_seconds = serializers.FloatField(allow_null=True)
    flags = serializers.ListField(child=serializers.CharField(), help_text="accuracy, position, length, format, drift.")


class PeopleReportSerializer(serializers.Serializer[Any]):
    definition = serializers.CharField()
    lower_quartile = serializers.FloatField(allow_null=True, help_text="Of the people's accuracy.")
    people = PersonSummarySerializer(many=True)


class PooledEffectSerializer(serializers.Serializer[Any]):
    bias = serializers.ChoiceField(choices=EFFECTS)
    effect = StatisticSerializer(help_text="In the middle annotator; logits, of length and format a doubling.")
    pooled = StatisticSerializer(help_text="Of all votes alike.")
    tau = serializers.FloatField(allow_null=True, help_text="Spread of people around it (SD), logits.")


class PersonEffectSerializer(serializers.Serializer[Any]):
    bias = serializers.ChoiceField(choices=EFFECTS)
    effect = StatisticSerializer()
    flagged = serializers.BooleanField()


class DriftWindowSerializer(serializers.Serializer[Any]):
    votes = serializers.IntegerField()
    started_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField()
    agreement = StatisticSerializer()


class PersonBiasSerializer(StatisticsPersonSerializer):
    effects = PersonEffectSerializer(many=True)
    drift = StatisticSerializer(help_text="Slope of the logit of agreement with the others, a hundred votes.")
    drift_flagged = serializers.BooleanField()
    windows = DriftWindowSerializer(many=True)


class ConsistencySerializer(serializers.Serializer[Any]):
    same = StatisticSerializer(source="share", help_text="Of silent repeats: the same class again.")
    kappa = StatisticSerializer()
    side_driven = StatisticSerializer(help_text="Of repeats decisive both times: the same side again.")
    accuracy = StatisticSerializer(
        source="implied_accuracy", help_text="Implied, if both answers err independently and equally often."
    )


class BiasReportSerializer(serializers.Serializer[Any]):
    definition = serializers.CharField()
    votes = serializers.IntegerField(help_text="Decisive votes with a known screen.")
    prompts = serializers.IntegerField()
    reason = serializers.CharField(allow_null=True)
    warnings = serializers.ListField(child=serializers.CharField())
    effects = PooledEffectSerializer(many=True)
    consistency = ConsistencySerializer()
    people = PersonBiasSerializer(many=True)


class AdviceReportSerializer(serializers.Serializer[Any]):
    definition = serializers.CharField()
    advice = serializers.ChoiceField(choices=[item.value for item in Advice], allow_null=True)
    words = serializers.CharField()
    agreement = StatisticSerializer(help_text="Of two people on a pair.")
    self_consistency = StatisticSerializer(help_text="Of a person with themselves.")
    ceiling = AccuracyCeilingSerializer()
    accuracy = serializers.FloatField(allow_null=True, help_text="Of the model that was asked about.")
    share_of_ceiling = serializers.FloatField(allow_null=True)


class PeopleView(ProjectView):
    """What the statistics say of each person."""

    @report_schema("people", PeopleReportSerializer)
    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """Accuracy, agreement, ties, side bias, consistency, gold and speed of each annotator, with flags."""
        file = wanted_file(request)

        def compute() -> dict[str, Any]:
            found = bias_report.people_report(self.project)
            people = [_named(row, row.person) for row in found.people]
            body = {"definition": found.definition, "lower_quartile": found.lower_quartile, "people": people}
            return dict(PeopleReportSerializer(body).data)

        body = kept(self.project, report="people", compute=compute)
        return answer(self.project, body, name="people", file=file, table=lambda body: body["people"])


def _named(row: Any, person: Member) -> dict[str, Any]:
    """A row of a report about a person, with who that is beside its figures."""
    shown = {field.name: getattr(row, field.name) for field in fields(row)}
    return shown | {"id": person.id, "name": person.name, "pseudonym": person.pseudonym, "excluded": person.is_excluded}


def _bias_rows(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The project's effects, then those of each person with their drift."""
    for row in body["effects"]:
        yield {"who": "all", "votes": body["votes"], **row}
    for person in body["people"]:
        who = {"who": person["pseudonym"], "votes": person["votes"]}
        yield from ({**who, **row} for row in person["effects"])
        yield {**who, "bias": "drift", "effect": person["drift"], "flagged": person["drift_flagged"]}


def _window_rows(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for every window of every person."""
    return ({"who": person["pseudonym"], **window} for person in body["people"] for window in person["windows"])


BIAS_TABLES: dict[str, Table] = {
    "effects": _bias_rows,
    "consistency": lambda body: [body["consistency"]],
    "windows": _window_rows,
}


class BiasView(ProjectView):
    """Bias and consistency."""

    @report_schema("bias", BiasReportSerializer, tables=BIAS_TABLES)
    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """Effects of position, length and format on votes, pooled and by person; drift and self-consistency."""
        file = wanted_file(request)
        name, table = wanted_table(request, "bias", BIAS_TABLES)

        def compute() -> dict[str, Any]:
            found = bias_report.bias_report(self.project)
            shown = {field.name: getattr(found, field.name) for field in fields(found)}
            shown["people"] = [_named(row, row.person) for row in found.people]
            return dict(BiasReportSerializer(shown).data)

        body = kept(self.project, report="bias", compute=compute)
        return answer(self.project, body, name=name, file=file, table=table)


class AdviceView(ProjectView):
    """Advice."""

    @report_schema(
        "advice", AdviceReportSerializer,
        OpenApiParameter("accuracy", float, description="Of a model against votes, 0 to 1."),
    )  # fmt: skip
    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """More votes, more pairs, or a better guideline, with the figures that say so."""
        file = wanted_file(request)
        accuracy = query_fraction(request, "accuracy")

        def compute() -> dict[str, Any]:
            return dict(AdviceReportSerializer(bias_report.advice_report(self.project, accuracy=accuracy)).data)

        body = kept(self.project, report="advice", parameters=(accuracy,), compute=compute)
        return answer(self.project, body, name="advice", file=file, table=_advice_rows)


def _advice_rows(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {name: value for name, value in body.items() if name != "definition"}


_STATISTICS = "projects/<slug:slug>/statistics"

urlpatterns: list[URLPattern] = [
    path(f"{_STATISTICS}/people", PeopleView.as_view()),
    path(f"{_STATISTICS}/bias", BiasView.as_view()),
    path(f"{_STATISTICS}/advice", AdviceView.as_view()),
]
