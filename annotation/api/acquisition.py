"""What asking cleverly has gained, and how much to ask for."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from annotation.api.access import ProjectView
from annotation.api.parsing import FiniteFloatField
from annotation.api.reports import StatisticSerializer, answer, report_schema, wanted_file
from annotation.models import Arm
from annotation.reports import arms, planning

MOST_SYSTEMS = 2_000


class ArmSerializer(serializers.Serializer[Any]):
    arm = serializers.ChoiceField(choices=Arm.choices)
    comparisons = serializers.IntegerField()
    votes = serializers.IntegerField(help_text="Between different sources.")
    prompts = serializers.IntegerField()
    mean_se = serializers.FloatField(allow_null=True, help_text="Of differences of strength, logits, at equal votes.")
    information = serializers.FloatField(allow_null=True, help_text="Nats a vote, at equal votes.")
    log_loss = StatisticSerializer(help_text="Of held-out control votes, nats a vote; lower is better.")


class ArmsReportSerializer(serializers.Serializer[Any]):
    definition = serializers.CharField()
    votes = serializers.IntegerField(help_text="Of each arm, as compared.")
    chosen = ArmSerializer()
    control = ArmSerializer()
    gain = StatisticSerializer(help_text="The control's log-loss less that of the chosen: above 0, choosing helps.")
    reason = serializers.CharField(allow_null=True, help_text="Why the arms cannot be compared.")


class PlanAskSerializer(serializers.Serializer[Any]):
    """What is left out is measured in the project, or assumed."""

    win_rate = FiniteFloatField(min_value=0.01, max_value=0.99, required=False)
    half_width = FiniteFloatField(min_value=0.001, max_value=0.5, required=False)
    accuracy = FiniteFloatField(min_value=0.01, max_value=0.99, required=False)
    systems = serializers.IntegerField(min_value=2, max_value=MOST_SYSTEMS, required=False)
    pairs_per_prompt = FiniteFloatField(min_value=1, max_value=10_000, required=False)
    icc = FiniteFloatField(min_value=0, max_value=1, required=False)

    def validate_win_rate(self, value: float) -> float:
        if abs(value - 0.5) < 0.001:
            raise ValidationError(f"must differ from 0.5 by 0.001 or more, got {value}")
        return value


class PlanFigureSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    value = serializers.FloatField()
    origin = serializers.ChoiceField(choices=[item.value for item in planning.Origin])


class PlanLineSerializer(serializers.Serializer[Any]):
    what = serializers.ChoiceField(choices=["win_rate", "accuracy", "ranking", "labels", "alpha"])
    pairs = serializers.IntegerField()
    votes_per_pair = serializers.FloatField()
    votes = serializers.IntegerField()
    prompts = serializers.IntegerField()
    sentence = serializers.CharField()


class PlanReportSerializer(serializers.Serializer[Any]):
    definition = serializers.CharField()
    figures = PlanFigureSerializer(many=True)
    lines = PlanLineSerializer(many=True)


class ArmsView(ProjectView):
    """The chosen comparisons beside their random control."""

    @report_schema("arms", ArmsReportSerializer)
    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """What choosing pairs has gained at equal numbers of votes."""
        file = wanted_file(request)
        found = asdict(arms.arms(self.project))
        body = ArmsReportSerializer({"definition": arms.DEFINITION} | found).data
        return answer(self.project, body, name="arms", file=file, table=lambda body: (body["chosen"], body["control"]))


class PlanView(ProjectView):
    """How much to ask for."""

    @report_schema("plan", PlanReportSerializer, PlanAskSerializer)
    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """What so many pairs and votes would tell, a sentence each."""
        file = wanted_file(request)
        given = {name: value for name, value in request.query_params.items() if name != "as"}
        ask = PlanAskSerializer(data={name: value for name, value in given.items() if value != ""})
        if not ask.is_valid():
            raise ValidationError(
                {
                    name: [f"{message} Got {given[name]!r}." for message in messages]
                    for name, messages in ask.errors.items()
                }
            )
        unknown = sorted(set(given) - set(ask.fields))
        if unknown:  # a figure that is spelled wrong must not become the default
            raise ValidationError({name: ["there is no such parameter"] for name in unknown})
        found = planning.plan(self.project, planning.Asked(**ask.validated_data))
        body = {"definition": planning.DEFINITION, "figures": found.figures, "lines": found.lines}
        shown = PlanReportSerializer(body).data
        return answer(self.project, shown, name="plan", file=file, table=lambda body: body["lines"])


urlpatterns: list[URLPattern] = [
    path("projects/<slug:slug>/statistics/arms", ArmsView.as_view()),
    path("projects/<slug:slug>/statistics/plan", PlanView.as_view()),
]
