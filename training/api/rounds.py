"""Rounds of sampling."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import Http404
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from annotation.api.access import ProjectView, user_of
from annotation.api.pagination import CURSOR_PARAMETERS, page
from annotation.api.parsing import FiniteFloatField
from annotation.meetings import Strategy
from annotation.models import TokenScope
from annotation.statistics.acquisition import Objective
from training import queries, registry
from training.api.serializers import (
    RoundListSerializer,
    RoundSerializer,
)
from training.models import ModelKind, Round
from training.rounds import MOST_POLICIES, NEEDS_SCORES, MeetingPlan, SamplingPlan, completions_needed, start_round

_OPEN = [strategy.value for strategy in Strategy if strategy not in NEEDS_SCORES]


class RoundCreateSerializer(serializers.Serializer[Any]):
    policies = serializers.ListField(child=serializers.UUIDField(), min_length=1, max_length=MOST_POLICIES)
    name = serializers.CharField(max_length=120, required=False, allow_blank=True)
    prompts = serializers.IntegerField(min_value=1, required=False, allow_null=True)
    completions = serializers.IntegerField(min_value=1, max_value=16, required=False)
    temperature = FiniteFloatField(min_value=0, max_value=5, required=False)
    top_p = FiniteFloatField(min_value=0.01, max_value=1, required=False)
    max_new_tokens = serializers.IntegerField(min_value=1, max_value=4096, required=False)
    seed = serializers.IntegerField(min_value=0, max_value=2**31 - 1, required=False)
    overlap = serializers.IntegerField(min_value=1, max_value=99, required=False, allow_null=True)
    strategy = serializers.ChoiceField(choices=_OPEN, required=False)
    per_prompt = serializers.IntegerField(min_value=1, max_value=200, required=False, allow_null=True)
    objective = serializers.ChoiceField(
        choices=[Objective.ORDER.value, Objective.STRENGTH.value], required=False, help_text="For information."
    )
    control_share = FiniteFloatField(
        min_value=0.05, max_value=0.5, required=False, help_text="For information: drawn at random, as its control."
    )
    against = serializers.ListField(
        child=serializers.UUIDField(),
        required=False,
        max_length=20,
        help_text="Sources that each comparison has one of.",
    )
    rounds = serializers.ListField(
        child=serializers.UUIDField(), required=False, max_length=20, help_text="Earlier rounds, likewise."
    )
    priority = serializers.IntegerField(min_value=-100, max_value=100, required=False)
    language = serializers.CharField(max_length=40, required=False, allow_null=True, allow_blank=True)
    skills = serializers.ListField(child=serializers.CharField(max_length=40), required=False, max_length=5)
    prompt_ids = serializers.ListField(child=serializers.UUIDField(), required=False, min_length=1, max_length=5000)


_SAMPLING = ("completions", "temperature", "top_p", "max_new_tokens", "seed")
_MEETING = ("strategy", "per_prompt", "overlap", "priority", "language", "objective", "control_share")


def _meeting(values: dict[str, Any]) -> MeetingPlan:
    given: dict[str, Any] = {key: values[key] for key in _MEETING if values.get(key) is not None}
    given |= {key: tuple(map(str, values[key])) for key in ("against", "rounds", "skills") if key in values}
    if "strategy" in given:
        given["strategy"] = Strategy(given["strategy"])
    if "objective" in given:
        given["objective"] = Objective(given["objective"])
    if "prompt_ids" in values:
        given["prompts"] = tuple(map(str, values["prompt_ids"]))
    return MeetingPlan(**given)


class RoundsView(ProjectView):
    """Rounds of sampling."""

    write_scope = TokenScope.JOBS

    @extend_schema(operation_id="rounds_list", responses=RoundListSerializer, parameters=CURSOR_PARAMETERS)
    def get(self, request: Request, slug: str) -> Response:
        """Rounds, newest first, with their progress."""
        context = {"now": timezone.now()}
        return page(
            request,
            queries.rounds(self.project),
            lambda rows: list(RoundSerializer(rows, many=True, context=context).data),
        )

    @extend_schema(operation_id="rounds_start", request=RoundCreateSerializer, responses={201: RoundSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Sample from policies into fresh comparisons. With several policies, completions of different ones meet."""
        data = RoundCreateSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        values, now = data.validated_data, timezone.now()
        policies = [registry.find(self.project, item, kind=ModelKind.POLICY) for item in values["policies"]]
        plan = {key: values[key] for key in _SAMPLING if key in values}
        meeting = _meeting(values)
        size = self.project.feedback.size
        plan.setdefault("completions", completions_needed(size=size, policies=len(policies), meeting=meeting))
        made = start_round(
            project=self.project,
            policies=policies,
            plan=SamplingPlan(**plan),
            meeting=meeting,
            prompts=values.get("prompts"),
            name=values.get("name", ""),
            by=user_of(request),
            now=now,
        )
        found = queries.rounds(self.project).get(pk=made.pk)
        return Response(RoundSerializer(found, context={"now": now}).data, status=status.HTTP_201_CREATED)


class RoundView(ProjectView):
    """One round."""

    @extend_schema(operation_id="rounds_show", responses=RoundSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Its policies, settings and progress."""
        found: Round | None = queries.rounds(self.project).filter(public_id=public_id).first()
        if found is None:
            raise Http404
        return Response(RoundSerializer(found, context={"now": timezone.now()}).data)
