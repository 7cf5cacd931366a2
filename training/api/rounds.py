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
from annotation.models import TokenScope
from training import queries, registry
from training.api.serializers import (
    RoundListSerializer,
    RoundSerializer,
)
from training.models import ModelKind, Round
from training.rounds import MOST_POLICIES, SamplingPlan, start_round


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
        plan_keys = ("completions", "temperature", "top_p", "max_new_tokens", "seed")
        plan = {key: values[key] for key in plan_keys if key in values}
        plan.setdefault("completions", 2 if len(policies) == 1 else 1)
        made = start_round(
            project=self.project,
            policies=policies,
            plan=SamplingPlan(**plan),
            prompts=values.get("prompts"),
            overlap=values.get("overlap"),
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
