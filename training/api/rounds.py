"""Rounds of sampling."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import Http404
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import ValidationError
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
from training.jobs import cancel, retry
from training.models import ModelKind, Round
from training.rounds import (
    MOST_POLICIES,
    NEEDS_SCORES,
    MeetingPlan,
    PolicyPlan,
    SamplingPlan,
    completions_needed,
    start_round,
)

OPEN = [strategy.value for strategy in Strategy if strategy not in NEEDS_SCORES]


class PolicyPlanSerializer(serializers.Serializer[Any]):
    """One policy of a mixture."""

    model = serializers.UUIDField()
    weight = FiniteFloatField(
        min_value=0.001, max_value=1000, required=False, allow_null=True,
        help_text="Its share of each prompt's completions, as a ratio to the others'; every policy has one, or none.",
    )  # fmt: skip
    completions = serializers.IntegerField(
        min_value=1, max_value=16, required=False, allow_null=True, help_text="Of it for each prompt."
    )
    temperature = FiniteFloatField(min_value=0, max_value=5, required=False, allow_null=True)


class RoundPlanSerializer(serializers.Serializer[Any]):
    """How a round samples, which prompts, and how its completions meet."""

    prompts = serializers.IntegerField(
        min_value=1, required=False, allow_null=True, help_text="How many of those that fit; null: all."
    )
    categories = serializers.ListField(
        child=serializers.CharField(max_length=80), required=False, max_length=50, help_text="Prompts of these only."
    )
    languages = serializers.ListField(child=serializers.CharField(max_length=12), required=False, max_length=50)
    fresh = serializers.BooleanField(required=False, help_text="Only prompts without a comparison so far.")
    completions = serializers.IntegerField(min_value=1, max_value=16, required=False)
    temperature = FiniteFloatField(min_value=0, max_value=5, required=False)
    top_p = FiniteFloatField(min_value=0.01, max_value=1, required=False)
    max_new_tokens = serializers.IntegerField(min_value=1, max_value=4096, required=False)
    seed = serializers.IntegerField(min_value=0, max_value=2**31 - 1, required=False)
    overlap = serializers.IntegerField(min_value=1, max_value=99, required=False, allow_null=True)
    strategy = serializers.ChoiceField(choices=OPEN, required=False)
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


class RoundCreateSerializer(RoundPlanSerializer):
    """Policies that are alike in `policies`, or with weights, numbers and temperatures of their own in `mix`."""

    policies = serializers.ListField(
        child=serializers.UUIDField(), required=False, min_length=1, max_length=MOST_POLICIES
    )
    mix = serializers.ListField(child=PolicyPlanSerializer(), required=False, min_length=1, max_length=MOST_POLICIES)
    name = serializers.CharField(max_length=120, required=False, allow_blank=True)
    prompt_ids = serializers.ListField(child=serializers.UUIDField(), required=False, min_length=1, max_length=5000)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("policies" in attrs) == ("mix" in attrs):
            raise ValidationError({"policies": ["give either policies or mix"]})
        return attrs


SAMPLING = ("completions", "temperature", "top_p", "max_new_tokens", "seed")
_MEETING = ("strategy", "per_prompt", "overlap", "priority", "language", "objective", "control_share", "fresh")
_LISTS = ("against", "rounds", "skills", "categories", "languages")


def meeting_of(values: dict[str, Any]) -> MeetingPlan:
    """The plan of checked input."""
    given: dict[str, Any] = {key: values[key] for key in _MEETING if values.get(key) is not None}
    given |= {key: tuple(map(str, values[key])) for key in _LISTS if key in values}
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
        now = timezone.now()
        return page(
            request, queries.rounds(self.project), lambda rows: RoundSerializer.of_all(self.project, rows, now=now)
        )

    @extend_schema(operation_id="rounds_start", request=RoundCreateSerializer, responses={201: RoundSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Sample from policies into fresh comparisons. With several policies, completions of different ones meet.

        `completions` are of each policy for each prompt; with weights, in the mean over the policies.
        """
        data = RoundCreateSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        values, now = data.validated_data, timezone.now()
        mix = values.get("mix", [])
        wanted = [item["model"] for item in mix] or values["policies"]
        policies = [registry.find(self.project, item, kind=ModelKind.POLICY) for item in wanted]
        plan = {key: values[key] for key in SAMPLING if key in values}
        meeting = meeting_of(values)
        size = self.project.feedback.size
        plan.setdefault("completions", completions_needed(size=size, policies=len(policies), meeting=meeting))
        made = start_round(
            project=self.project,
            policies=policies,
            plan=SamplingPlan(**plan),
            policy_plans=[
                PolicyPlan(**{key: item.get(key) for key in ("weight", "completions", "temperature")}) for item in mix
            ],
            meeting=meeting,
            prompts=values.get("prompts"),
            name=values.get("name", ""),
            by=user_of(request),
            now=now,
        )
        return _answer(self, made.public_id, status.HTTP_201_CREATED)


class RoundView(ProjectView):
    """One round."""

    @extend_schema(operation_id="rounds_show", responses=RoundSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Its policies, settings and progress."""
        return _answer(self, public_id, status.HTTP_200_OK)


class RoundStopView(ProjectView):
    """Stop."""

    write_scope = TokenScope.JOBS

    @extend_schema(operation_id="rounds_stop", request=None, responses=RoundSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Stop sampling after the token it is at. What is there stays, and its comparisons are judged."""
        cancel(_round(self, public_id).job, by=user_of(request))
        return _answer(self, public_id, status.HTTP_200_OK)


class RoundContinueView(ProjectView):
    """Go on."""

    write_scope = TokenScope.JOBS

    @extend_schema(operation_id="rounds_continue", request=None, responses=RoundSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Go on with a round that was stopped or failed: only what is missing is sampled, with the same seed."""
        retry(_round(self, public_id).job, by=user_of(request))
        return _answer(self, public_id, status.HTTP_200_OK)


def _round(view: ProjectView, public_id: UUID) -> Round:
    found: Round | None = queries.rounds(view.project).filter(public_id=public_id).first()
    if found is None:
        raise Http404
    return found


def _answer(view: ProjectView, public_id: UUID, code: int) -> Response:
    found = _round(view, public_id)
    return Response(RoundSerializer(found, context={"now": timezone.now()}).data, status=code)
