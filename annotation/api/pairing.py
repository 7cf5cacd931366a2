"""Making comparisons of the completions that are there, and which of them come first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet
from django.urls import URLPattern, path
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from annotation import queries
from annotation.api.access import ProjectView, user_of
from annotation.api.parsing import FiniteFloatField
from annotation.api.task import MessageSerializer
from annotation.meetings import Meeting, Rule, Strategy
from annotation.models import Arm, Comparison, ConsensusState, Project, Prompt, Source, SourceKind
from annotation.pairing import MOST_A_CALL, Chosen, Plan, choose_for, pair_up, set_priority
from annotation.statistics.acquisition import Objective

_EXAMPLES = 10
_MOST_PRIORITY = 100  # a slot carries twice as much


class PromptFilterSerializer(serializers.Serializer[Any]):
    """Which prompts; without any, all."""

    ids = serializers.ListField(child=serializers.UUIDField(), required=False, max_length=5000)
    category = serializers.CharField(max_length=80, required=False)
    language = serializers.CharField(max_length=12, required=False)


class PairsAskSerializer(serializers.Serializer[Any]):
    strategy = serializers.ChoiceField(choices=[item.value for item in Strategy])
    per_prompt = serializers.IntegerField(min_value=1, max_value=500, required=False, allow_null=True)
    sources = serializers.ListField(child=serializers.UUIDField(), required=False, max_length=200)
    against = serializers.ListField(
        child=serializers.UUIDField(), required=False, max_length=200, help_text="Each comparison has one of these."
    )
    scorer = serializers.CharField(max_length=200, required=False, help_text="For closest_score.")
    scorers = serializers.ListField(
        child=serializers.CharField(max_length=200),
        required=False,
        max_length=20,
        help_text="For disagreement: the ensemble.",
    )
    total = serializers.IntegerField(
        min_value=1, max_value=MOST_A_CALL, required=False, allow_null=True,
        help_text="For information and disagreement: most comparisons in all.",
    )  # fmt: skip
    objective = serializers.ChoiceField(
        choices=[Objective.ORDER.value, Objective.STRENGTH.value],
        required=False,
        help_text="For information: a leaderboard's order, or strengths for rewards.",
    )
    control_share = FiniteFloatField(
        min_value=0.05,
        max_value=0.5,
        required=False,
        help_text="For information and disagreement: drawn at random, so that the gain is measured.",
    )
    seed = serializers.IntegerField(min_value=0, max_value=2**31 - 1, required=False)
    overlap = serializers.IntegerField(min_value=1, max_value=99, required=False, allow_null=True)
    priority = serializers.IntegerField(min_value=-_MOST_PRIORITY, max_value=_MOST_PRIORITY, required=False)
    language = serializers.CharField(
        max_length=40,
        required=False,
        allow_null=True,
        allow_blank=True,
        help_text="Who judges; null: as the prompt is.",
    )
    skills = serializers.ListField(child=serializers.CharField(max_length=40), required=False, max_length=5)
    prompts = PromptFilterSerializer(required=False)
    preview = serializers.BooleanField(required=False, help_text="Count and show ten, write nothing.")


class ExampleCompletionSerializer(serializers.Serializer[Any]):
    text = serializers.CharField()
    source = serializers.CharField()  # type: ignore[assignment]  # DRF's metaclass keeps fields apart from attributes


class PairExampleSerializer(serializers.Serializer[Any]):
    prompt = MessageSerializer(many=True)
    completions = ExampleCompletionSerializer(many=True)
    arm = serializers.ChoiceField(choices=Arm.choices, allow_blank=True)


class PairsSerializer(serializers.Serializer[Any]):
    origin = serializers.UUIDField(allow_null=True, help_text="Finds the comparisons in the table; null in a preview.")
    comparisons = serializers.IntegerField(help_text="Made, or that would be.")
    existing = serializers.IntegerField(help_text="Chosen too, but the project has them.")
    prompts = serializers.IntegerField()
    alone = serializers.IntegerField(help_text="Prompts where nothing can meet.")
    examples = PairExampleSerializer(many=True)


class PrioritySerializer(serializers.Serializer[Any]):
    """A priority and which comparisons get it; without any filter, all."""

    priority = serializers.IntegerField(min_value=-_MOST_PRIORITY, max_value=_MOST_PRIORITY)
    ids = serializers.ListField(child=serializers.UUIDField(), required=False, max_length=5000)
    origin = serializers.UUIDField(required=False, help_text="Of this round, import or pairing.")
    state = serializers.ChoiceField(choices=ConsensusState.choices, required=False)
    category = serializers.CharField(max_length=80, required=False)
    language = serializers.CharField(max_length=12, required=False)


class PrioritisedSerializer(serializers.Serializer[Any]):
    changed = serializers.IntegerField()


class SourceSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    name = serializers.CharField()
    kind = serializers.ChoiceField(choices=SourceKind.choices)
    model = serializers.UUIDField(source="model_id", allow_null=True)
    completions = serializers.IntegerField()
    prompts = serializers.IntegerField()
    comparisons = serializers.IntegerField()


class SourceListSerializer(serializers.Serializer[Any]):
    items = SourceSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class PairsView(ProjectView):
    """Comparisons of completions that are there."""

    @extend_schema(operation_id="pairs_make", request=PairsAskSerializer, responses={201: PairsSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Let completions of each prompt meet by a strategy; `preview` writes nothing."""
        data = PairsAskSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        values = data.validated_data
        plan = _plan(self.project, values)
        if values.get("preview"):
            return Response(_render(None, choose_for(plan)))
        origin, chosen = pair_up(
            plan,
            overlap=values.get("overlap"),
            priority=values.get("priority", 0),
            language=values.get("language"),
            skills=values.get("skills", ()),
            by=user_of(request),
            now=timezone.now(),
        )
        return Response(_render(origin, chosen), status=status.HTTP_201_CREATED)


def _plan(project: Project, values: dict[str, Any]) -> Plan:
    strategy = Strategy(values["strategy"])
    if strategy is Strategy.CLOSEST_SCORE and not values.get("scorer"):
        raise ValidationError({"scorer": ["closest_score needs the name of a scorer"]})
    scorers = (values["scorer"],) if strategy is Strategy.CLOSEST_SCORE else ()
    if strategy is Strategy.DISAGREEMENT:
        scorers = tuple(dict.fromkeys(values.get("scorers", ())))
        if len(scorers) < 2:
            raise ValidationError({"scorers": [f"disagreement needs two scorers or more, got {len(scorers)}"]})
    size = project.feedback.size
    against = _source_keys(project, "against", values.get("against", ()))
    if against and size == 1:
        raise ValidationError({"against": ["one completion at a time is judged here, so none meets another"]})
    choice: dict[str, Any] = {name: values[name] for name in ("seed", "total", "control_share") if name in values}
    if "objective" in values:
        choice["objective"] = Objective(values["objective"])
    rule = Rule(strategy=strategy, size=size, per_prompt=values.get("per_prompt"), **choice)
    return Plan(
        project=project,
        rule=rule,
        prompts=_prompts(project, values.get("prompts", {})),
        sources=_source_keys(project, "sources", values["sources"]) if "sources" in values else None,
        against=against,
        scorers=scorers,
    )


def _source_keys(project: Project, name: str, ids: Sequence[UUID]) -> frozenset[int]:
    known = dict(Source.objects.filter(project=project, public_id__in=ids).values_list("public_id", "pk"))
    missing = [str(public_id) for public_id in ids if public_id not in known]
    if missing:
        raise ValidationError({name: [f"this project has no source {missing[0]}"]})
    return frozenset(known.values())


def _prompts(project: Project, values: dict[str, Any]) -> QuerySet[Prompt]:
    wanted = Q()
    if "ids" in values:
        wanted &= Q(public_id__in=values["ids"])
    wanted &= Q(**{name: values[name] for name in ("category", "language") if name in values})
    return Prompt.objects.filter(wanted, project=project)


def _render(origin: UUID | None, chosen: Chosen) -> Any:
    body = {
        "origin": origin,
        "comparisons": len(chosen.meetings),
        "existing": chosen.existing,
        "prompts": chosen.prompts,
        "alone": chosen.alone,
        "examples": [_example(item) for item in chosen.meetings[:_EXAMPLES]],
    }
    return PairsSerializer(body).data


def _example(item: Meeting) -> dict[str, Any]:
    completions = [{"text": one.text, "source": one.source.name} for one in item.completions]
    return {"prompt": item.prompt.messages, "completions": completions, "arm": item.arm}


class PriorityView(ProjectView):
    """Which comparisons come first."""

    @extend_schema(operation_id="comparisons_prioritise", request=PrioritySerializer, responses=PrioritisedSerializer)
    def patch(self, request: Request, slug: str) -> Response:
        """Give comparisons a priority: higher ones are judged first."""
        data = PrioritySerializer(data=request.data)
        data.is_valid(raise_exception=True)
        values = data.validated_data
        unknown = set(request.data) - set(data.fields)
        if unknown:  # a filter that is spelled wrong must not mean all
            raise ValidationError({name: ["there is no such filter"] for name in sorted(unknown)})
        columns = {
            "ids": "public_id__in", "origin": "origin", "state": "consensus__state", "category": "prompt__category",
            "language": "prompt__language",
        }  # fmt: skip
        wanted = {column: values[name] for name, column in columns.items() if name in values}
        changed = set_priority(
            project=self.project,
            comparisons=Comparison.objects.filter(**wanted),
            priority=values["priority"],
            by=user_of(request),
            now=timezone.now(),
        )
        return Response({"changed": changed})


class SourcesView(ProjectView):
    """Who wrote the completions."""

    @extend_schema(operation_id="sources_list", responses=SourceListSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """Every source with how much of it there is."""
        return Response({"items": SourceSerializer(queries.sources(self.project), many=True).data, "next": None})


urlpatterns: list[URLPattern] = [
    path("projects/<slug:slug>/pairs", PairsView.as_view()),
    path("projects/<slug:slug>/comparisons/priority", PriorityView.as_view()),
    path("projects/<slug:slug>/sources", SourcesView.as_view()),
]
