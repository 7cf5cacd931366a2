"""The project at a glance, and what the engine's numbers mean."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import queries as annotation_queries
from annotation.api.access import ProjectView
from annotation.api.projects import AgreementSerializer
from annotation.reports.agreement import agreement
from training import alarms, queries
from training.api.serializers import (
    JobSerializer,
    NumbersField,
    RoundSerializer,
    SnapshotSerializer,
)
from training.engine.metrics import METRICS


class CountsSerializer(serializers.Serializer[Any]):
    prompts = serializers.IntegerField()
    completions = serializers.IntegerField()
    comparisons = serializers.IntegerField()
    votes = serializers.IntegerField()
    surplus = serializers.IntegerField()
    open = serializers.IntegerField()
    settled = serializers.IntegerField()
    disputed = serializers.IntegerField()
    adjudicated = serializers.IntegerField()
    withdrawn = serializers.IntegerField()
    leased = serializers.IntegerField()
    wanted = serializers.IntegerField()


class RatesSerializer(serializers.Serializer[Any]):
    votes_last_hour = serializers.IntegerField()
    active_annotators = serializers.IntegerField()
    eta_hours = serializers.FloatField(allow_null=True)


class PersonSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    pseudonym = serializers.CharField()
    role = serializers.CharField()
    votes = serializers.IntegerField()
    median_seconds = serializers.FloatField(allow_null=True)
    left_share = serializers.FloatField(allow_null=True)
    last_vote_at = serializers.DateTimeField(allow_null=True)


class OverviewSerializer(serializers.Serializer[Any]):
    counts = CountsSerializer()
    agreement = AgreementSerializer()
    rates = RatesSerializer()
    people = PersonSerializer(many=True)
    round = RoundSerializer(allow_null=True)
    jobs = JobSerializer(many=True)
    snapshot = SnapshotSerializer(allow_null=True)
    alarms = NumbersField(help_text="How many are not acknowledged, by name.")


class OverviewView(ProjectView):
    """The project at a glance."""

    @extend_schema(operation_id="overview", responses=OverviewSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """Counts, agreement, people, the latest round, jobs and snapshot."""
        now = timezone.now()
        counts = annotation_queries.counts(self.project, now=now)
        body = {
            "counts": counts,
            "agreement": agreement(self.project),
            "rates": annotation_queries.rates(self.project, wanted=counts.wanted, now=now),
            "people": annotation_queries.people(self.project, most=50),
            "round": queries.rounds(self.project).order_by("-pk").first(),
            "jobs": list(queries.jobs(self.project).order_by("-pk")[:4]),
            "snapshot": queries.snapshots(self.project).order_by("-pk").first(),
            "alarms": alarms.open_counts(self.project),
        }
        return Response(OverviewSerializer(body, context={"now": now}).data)


class MetricInfoSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    unit = serializers.CharField()
    help = serializers.CharField()
    better = serializers.ChoiceField(choices=["higher", "lower"], allow_null=True)


class MetricInfoListSerializer(serializers.Serializer[Any]):
    items = MetricInfoSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class MetricsView(APIView):
    """What the engine's numbers mean."""

    permission_classes = (IsAuthenticated,)

    @extend_schema(operation_id="metrics_list", responses=MetricInfoListSerializer)
    def get(self, request: Request) -> Response:
        """Every metric with its unit and meaning."""
        items = [
            {"name": name, "unit": metric.unit, "help": metric.help, "better": metric.better}
            for name, metric in METRICS.items()
        ]
        return Response({"items": items, "next": None})
