"""Rounds that open by themselves, and how fresh the comparisons are."""

from __future__ import annotations

from typing import Any

from django.urls import URLPattern, path
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from annotation.api.access import ProjectView, user_of
from annotation.models import TokenScope
from training import schedules
from training.api.rounds import SAMPLING, RoundContinueView, RoundPlanSerializer, RoundStopView, meeting_of
from training.api.serializers import ModelRefSerializer, ObjectField, RoundPairingSerializer, person
from training.freshness import freshness
from training.models import Opponent, Round, RoundSchedule


class ScheduleChangeSerializer(RoundPlanSerializer):
    """The whole schedule: what is left out has its default."""

    is_on = serializers.BooleanField()
    opponent = serializers.ChoiceField(choices=Opponent.choices, default=Opponent.PREVIOUS.value)


class OpenedRoundSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    number = serializers.IntegerField()
    opened_for = ModelRefSerializer()
    created_at = serializers.DateTimeField()


class ScheduleSerializer(serializers.Serializer[Any]):
    """`due` is the policy that the next look opens a round for, `opened` the last round that was opened so."""

    is_on = serializers.BooleanField()
    opponent = serializers.ChoiceField(choices=Opponent.choices)
    prompts = serializers.IntegerField(allow_null=True)
    sampling = ObjectField()
    pairing = RoundPairingSerializer()
    since = serializers.DateTimeField(allow_null=True)
    problem = serializers.CharField()
    due = ModelRefSerializer(allow_null=True)
    opened = OpenedRoundSerializer(allow_null=True)
    updated_at = serializers.DateTimeField(allow_null=True)
    updated_by = serializers.CharField(allow_null=True)


class ScheduleView(ProjectView):
    """The schedule of rounds."""

    write_scope = TokenScope.JOBS

    @extend_schema(operation_id="schedule_show", responses=ScheduleSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """Whether a round opens after each promotion, how it samples, what is due and why it has not opened yet."""
        return self._answer()

    @extend_schema(operation_id="schedule_change", request=ScheduleChangeSerializer, responses=ScheduleSerializer)
    def put(self, request: Request, slug: str) -> Response:
        """Set it. Only policies that are promoted after it was switched on open a round, each one."""
        data = ScheduleChangeSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        values = data.validated_data
        schedules.change(
            project=self.project,
            is_on=values["is_on"],
            opponent=Opponent(values["opponent"]),
            prompts=values.get("prompts"),
            sampling={key: values[key] for key in SAMPLING if key in values},
            meeting=meeting_of(values),
            by=user_of(request),
            now=timezone.now(),
        )
        return self._answer()

    def _answer(self) -> Response:
        rows = RoundSchedule.objects.select_related("project", "updated_by")
        found = rows.filter(project=self.project).first()
        rounds = Round.objects.filter(project=self.project, opened_for__isnull=False).select_related("opened_for")
        body: dict[str, Any] = {"opened": rounds.order_by("-pk").first()}
        if found is None:
            body |= {
                "is_on": False, "opponent": Opponent.PREVIOUS.value, "prompts": None, "sampling": {}, "pairing": {},
                "since": None, "problem": "", "due": None, "updated_at": None, "updated_by": None,
            }  # fmt: skip
        else:
            kept = ("is_on", "opponent", "prompts", "sampling", "pairing", "since", "problem", "updated_at")
            body |= {name: vars(found)[name] for name in kept}
            body |= {"due": schedules.due_policy(found), "updated_by": person(found.updated_by)}
        return Response(ScheduleSerializer(body).data)


class PolicyPairsSerializer(serializers.Serializer[Any]):
    source = serializers.UUIDField()  # type: ignore[assignment]  # DRF keeps fields apart
    name = serializers.CharField()
    kind = serializers.CharField()
    model = serializers.UUIDField(allow_null=True)
    pairs = serializers.IntegerField()
    share = serializers.FloatField()
    age_days = serializers.FloatField()


class FreshnessSerializer(serializers.Serializer[Any]):
    current = ModelRefSerializer(allow_null=True)
    pairs = serializers.IntegerField()
    share_current = serializers.FloatField(allow_null=True)
    median_age_days = serializers.FloatField(allow_null=True)
    by_policy = PolicyPairsSerializer(many=True)


class FreshnessView(ProjectView):
    """How fresh the comparisons are."""

    @extend_schema(operation_id="rounds_freshness", responses=FreshnessSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """The share of comparisons that show the current policy, their median age, and both by source."""
        return Response(FreshnessSerializer(freshness(self.project, now=timezone.now())).data)


_ROUNDS = "projects/<slug:slug>/rounds"

urlpatterns: list[URLPattern] = [
    path("projects/<slug:slug>/schedule", ScheduleView.as_view()),
    path(f"{_ROUNDS}/freshness", FreshnessView.as_view()),
    path(f"{_ROUNDS}/<uuid:public_id>/stop", RoundStopView.as_view()),
    path(f"{_ROUNDS}/<uuid:public_id>/continue", RoundContinueView.as_view()),
]
