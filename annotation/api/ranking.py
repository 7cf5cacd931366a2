"""The ranking of a project's systems, which are the sources of its completions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, fields
from operator import itemgetter
from typing import Any

from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request

from annotation.api.access import ProjectView
from annotation.api.parsing import query_choice, query_choices, query_text
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
from annotation.api.statistics import StatisticsPersonSerializer
from annotation.reports import ranking as ranking_report
from annotation.reports.cache import kept
from annotation.reports.ranking import Control, Model, RankingReport


class StrengthSerializer(serializers.Serializer[Any]):
    """Of a system or a policy; null where the model gives none."""

    strength = serializers.FloatField(allow_null=True, help_text="Natural-log odds, sum zero over all of them.")
    se = serializers.FloatField(allow_null=True)
    low = serializers.FloatField(allow_null=True)
    high = serializers.FloatField(allow_null=True)
    rank = serializers.IntegerField(allow_null=True)
    rank_low = serializers.IntegerField(allow_null=True)
    rank_high = serializers.IntegerField(allow_null=True)
    elo = serializers.FloatField(allow_null=True, help_text="Display only: 1000 + 400/ln 10 times the strength.")


class RankedSystemSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    name = serializers.CharField()
    votes = serializers.IntegerField()
    comparisons = serializers.IntegerField()
    component = serializers.IntegerField(help_text="Strengths compare within one component only.")
    plain = StrengthSerializer()
    controlled = StrengthSerializer(allow_null=True)
    adjusted = StrengthSerializer(allow_null=True)


class ControlEffectSerializer(serializers.Serializer[Any]):
    control = serializers.ChoiceField(choices=["side", "length", "style"])
    effect = StatisticSerializer(help_text="Logits towards the left one; of length and style a doubling.")


class RankingFitSerializer(serializers.Serializer[Any]):
    model = serializers.CharField()
    converged = serializers.BooleanField()
    log_likelihood = serializers.FloatField(allow_null=True)
    tie_parameter = StatisticSerializer(allow_null=True, help_text="Davidson's ν, or Rao and Kupper's θ.")
    reason = serializers.CharField(allow_null=True)
    warnings = serializers.ListField(child=serializers.CharField())


class WinRatesSerializer(serializers.Serializer[Any]):
    """Square matrices in the order of `systems`: how often the row's system won against the column's."""

    rate = NumbersField()
    low = NumbersField()
    high = NumbersField()
    n = NumbersField()
    model = NumbersField()


class EloPointSerializer(serializers.Serializer[Any]):
    votes = serializers.IntegerField(help_text="Votes so far.")
    rating = serializers.FloatField()


class EloCurveSerializer(serializers.Serializer[Any]):
    system = serializers.CharField()
    points = EloPointSerializer(many=True)


class RankingAnnotatorSerializer(StatisticsPersonSerializer):
    follows = StatisticSerializer(help_text="P(a vote follows the strengths); below a half the person reverses.")
    side_bias = StatisticSerializer(allow_null=True, help_text="Logits in favour of the left side.")


class RankingReportSerializer(serializers.Serializer[Any]):
    definition = serializers.CharField()
    model = serializers.CharField()
    criterion = serializers.CharField(allow_null=True)
    controls = serializers.ListField(child=serializers.CharField())
    votes = serializers.IntegerField()
    left_out = serializers.IntegerField(help_text="Votes between completions of one system, or unknown to the model.")
    prompts = serializers.IntegerField()
    people = serializers.IntegerField()
    both_bad = StatisticSerializer()
    systems = RankedSystemSerializer(many=True)
    fit = RankingFitSerializer()
    controlled_fit = RankingFitSerializer(allow_null=True)
    adjusted_fit = RankingFitSerializer(allow_null=True)
    effects = ControlEffectSerializer(many=True)
    win_rates = WinRatesSerializer()
    annotators = RankingAnnotatorSerializer(many=True, help_text="Of Crowd-BT: the model, or the adjustment.")
    elo = EloCurveSerializer(many=True, help_text="Display only: depends on the order of the votes.")


def _win_rows(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for every two systems that met."""
    for i, first in enumerate(body["systems"]):
        for j, second in enumerate(body["systems"]):
            if i != j and body["win_rates"]["n"][i][j]:
                yield {"system": first["name"], "against": second["name"]} | {
                    name: matrix[i][j] for name, matrix in body["win_rates"].items()
                }


def _elo_rows(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for every point of every curve."""
    return ({"system": curve["system"], **point} for curve in body["elo"] for point in curve["points"])


TABLES: dict[str, Table] = {
    "systems": itemgetter("systems"),
    "effects": itemgetter("effects"),
    "annotators": itemgetter("annotators"),
    "win_rates": _win_rows,
    "elo": _elo_rows,
}


class RankingView(ProjectView):
    """Ranking of systems."""

    @report_schema(
        "ranking", RankingReportSerializer,
        OpenApiParameter("model", str, enum=[item.value for item in Model], description="Default rao_kupper."),
        OpenApiParameter("controls", str, description="Some of side, length, style, people, with commas."),
        OpenApiParameter("criterion", str, description="Rank by this criterion instead of the main question."),
        tables=TABLES,
    )  # fmt: skip
    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """Strengths of the sources, plain and controlled, with intervals, ranks and win rates."""
        file = wanted_file(request)
        name, table = wanted_table(request, "ranking", TABLES)
        model = Model(query_choice(request, "model", [item.value for item in Model], default="rao_kupper"))
        controls = [Control(name) for name in query_choices(request, "controls", [item.value for item in Control])]
        criterion = query_text(request, "criterion")

        def compute() -> dict[str, Any]:
            found = ranking_report.ranking_report(self.project, model=model, controls=controls, criterion=criterion)
            return dict(RankingReportSerializer(_shown(found)).data)

        parameters = (model.value, sorted(controls), criterion)
        body = kept(self.project, report="ranking", parameters=parameters, compute=compute)
        return answer(self.project, body, name=name, file=file, table=table)


def _shown(report: RankingReport) -> dict[str, Any]:
    rates = report.win_rates
    matrices = ("rate", "low", "high", "model")
    shown = {field.name: getattr(report, field.name) for field in fields(report)}
    return shown | {
        "effects": [{"control": control, "effect": effect} for control, effect in report.effects],
        "win_rates": {name: numbers(getattr(rates, name)) if rates else [] for name in matrices}
        | {"n": rates.n_votes.tolist() if rates else []},
        "annotators": [
            asdict(row.person) | {"votes": row.votes, "follows": row.follows, "side_bias": row.side_bias}
            for row in report.annotators
        ],
        "elo": [
            {
                "system": curve.system,
                "points": [
                    {"votes": votes, "rating": rating} for votes, rating in zip(curve.votes, curve.rating, strict=True)
                ],
            }
            for curve in report.elo
        ],
    }


urlpatterns: list[URLPattern] = [path("projects/<slug:slug>/statistics/ranking", RankingView.as_view())]
