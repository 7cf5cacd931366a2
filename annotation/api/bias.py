"""What the statistics say of people: their accuracy, their biases, and what would help most."""

from __future__ import annotations

from typing import Any

from django.http import Http404
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request

from annotation.api.access import ProjectView
from annotation.api.reports import StatisticSerializer, report_schema
from annotation.api.statistics import AccuracyCeilingSerializer, StatisticsPersonSerializer


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
    flags = serializers.ListField(child=serializers.CharField(), help_text="accuracy, position, length, format.")


class PeopleReportSerializer(serializers.Serializer[Any]):
    definition = serializers.CharField()
    lower_quartile = serializers.FloatField(allow_null=True, help_text="Of the people's accuracy.")
    people = PersonSummarySerializer(many=True)


class PooledEffectSerializer(serializers.Serializer[Any]):
    bias = serializers.ChoiceField(choices=["position", "length", "format"])
    effect = StatisticSerializer(help_text="Logits; of length and format a doubling.")
    tau = serializers.FloatField(allow_null=True, help_text="Spread of people around it (SD), logits.")


class PersonEffectSerializer(serializers.Serializer[Any]):
    bias = serializers.ChoiceField(choices=["position", "length", "format"])
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
    same = StatisticSerializer(help_text="Of silent repeats: the same class again.")
    kappa = StatisticSerializer()
    side_driven = StatisticSerializer(help_text="Of repeats decisive both times: the same side again.")
    accuracy = StatisticSerializer(help_text="Implied for independent errors between two answers.")


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
    advice = serializers.ChoiceField(
        choices=["better_guideline", "train_annotators", "more_votes", "more_pairs"], allow_null=True
    )
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
        raise Http404


class BiasView(ProjectView):
    """Bias and consistency."""

    @report_schema("bias", BiasReportSerializer)
    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """Effects of position, length and format on votes, pooled and by person; drift and self-consistency."""
        raise Http404


class AdviceView(ProjectView):
    """Advice."""

    @report_schema(
        "advice", AdviceReportSerializer,
        OpenApiParameter("accuracy", float, description="Of a model against votes, 0 to 1."),
    )  # fmt: skip
    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """More votes, more pairs, or a better guideline, with the figures that say so."""
        raise Http404


_STATISTICS = "projects/<slug:slug>/statistics"

urlpatterns: list[URLPattern] = [
    path(f"{_STATISTICS}/people", PeopleView.as_view()),
    path(f"{_STATISTICS}/bias", BiasView.as_view()),
    path(f"{_STATISTICS}/advice", AdviceView.as_view()),
]
