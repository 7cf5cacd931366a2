"""The researcher's gold: comparisons whose answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db.models import Prefetch
from django.http import Http404
from django.urls import URLPattern, path
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from annotation import gold as golds
from annotation import gold_texts
from annotation.api.access import ProjectView, user_of
from annotation.api.pagination import CURSOR_PARAMETERS, page
from annotation.api.parsing import FiniteFloatField
from annotation.api.task import MessageSerializer
from annotation.inspection import pseudonyms
from annotation.models import Comparison, Gold, GoldOrigin, GoldUse, Objection
from annotation.spoiling import Spoilt


class GoldAnswerSerializer(serializers.Serializer[Any]):
    """In stored order: one of the three."""

    choice = serializers.CharField(max_length=3, required=False)
    ranking = serializers.ListField(
        child=serializers.ListField(child=serializers.CharField(max_length=1), max_length=9),
        required=False, max_length=9,
    )  # fmt: skip
    worst = serializers.CharField(max_length=1, required=False, help_text="Only that this one is last counts.")


class GoldObjectionSerializer(serializers.Serializer[Any]):
    annotator = serializers.CharField(help_text="The pseudonym.")
    text = serializers.CharField()
    created_at = serializers.DateTimeField()


class GoldSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    comparison = serializers.UUIDField()
    prompt = MessageSerializer(many=True)
    completions = serializers.ListField(child=serializers.CharField(allow_blank=True), help_text="In stored order.")
    use = serializers.ChoiceField(choices=GoldUse.choices)
    origin = serializers.ChoiceField(choices=GoldOrigin.choices)
    answer = GoldAnswerSerializer()
    explanation = serializers.CharField(allow_blank=True)
    answers = serializers.IntegerField(help_text="How often it was answered.")
    right = serializers.IntegerField()
    objections = GoldObjectionSerializer(many=True, help_text="Of people who were told the answer; oldest first.")
    created_at = serializers.DateTimeField()
    retired_at = serializers.DateTimeField(allow_null=True)


class GoldListSerializer(serializers.Serializer[Any]):
    items = GoldSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class GoldGiveSerializer(serializers.Serializer[Any]):
    """Of a comparison of the project, or of new texts: a prompt and its completions."""

    comparison = serializers.UUIDField(required=False)
    prompt = MessageSerializer(many=True, required=False, allow_empty=False)
    completions = serializers.ListField(
        child=serializers.CharField(max_length=100_000, trim_whitespace=False), required=False, max_length=9
    )
    answer = GoldAnswerSerializer()
    explanation = serializers.CharField(max_length=4000, required=False, allow_blank=True)
    use = serializers.ChoiceField(choices=GoldUse.choices, required=False)


class GoldPatchSerializer(serializers.Serializer[Any]):
    explanation = serializers.CharField(max_length=4000, allow_blank=True)


class GoldConstructSerializer(serializers.Serializer[Any]):
    kinds = serializers.ListField(
        child=serializers.ChoiceField(choices=[kind.value for kind in Spoilt]), allow_empty=False, max_length=3
    )
    n = serializers.IntegerField(min_value=1, max_value=gold_texts.MOST_SPOILT, help_text="Of each kind.")
    seed = serializers.IntegerField(min_value=0, max_value=2**31 - 1, required=False)
    use = serializers.ChoiceField(choices=GoldUse.choices, required=False)


class GoldPromoteSerializer(serializers.Serializer[Any]):
    votes = serializers.IntegerField(min_value=2, max_value=99, required=False, help_text="At least; default 3.")
    top_share = FiniteFloatField(min_value=0.5, max_value=1, required=False, help_text="At least; default 1.")
    most = serializers.IntegerField(min_value=1, max_value=500, required=False, help_text="Default 50.")
    use = serializers.ChoiceField(choices=GoldUse.choices, required=False)


class GoldMadeSerializer(serializers.Serializer[Any]):
    made = serializers.IntegerField()


def _render(rows: Sequence[Gold]) -> list[Any]:
    """Gold with its texts and how it was answered; the rows have project, prompt and places."""
    tallies = golds.tallies(rows, size=rows[0].project.feedback.size) if rows else {}
    people = [one.vote.annotator_id for row in rows for one in row.objections.all()]
    names = pseudonyms(rows[0].project, people) if people else {}
    items = [
        {
            "id": row.public_id,
            "comparison": row.comparison.public_id,
            "prompt": row.comparison.prompt.messages,
            "completions": [place.completion.text for place in row.comparison.places.all()],
            "use": row.use,
            "origin": row.origin,
            "answer": row.answer,
            "explanation": row.explanation,
            "right": tallies[row.pk][0],
            "answers": tallies[row.pk][1],
            "objections": [
                {"annotator": names[one.vote.annotator_id], "text": one.text, "created_at": one.created_at}
                for one in row.objections.all()
            ],
            "created_at": row.created_at,
            "retired_at": row.retired_at,
        }
        for row in rows
    ]
    return list(GoldSerializer(items, many=True).data)


def _rows() -> Any:
    return Gold.objects.select_related("project", "comparison__prompt").prefetch_related(
        "comparison__places__completion",
        Prefetch("objections", queryset=Objection.objects.select_related("vote").order_by("pk")),
    )


class GoldsView(ProjectView):
    """The project's gold."""

    @extend_schema(
        operation_id="gold_list",
        responses=GoldListSerializer,
        parameters=[
            OpenApiParameter("use", str, enum=GoldUse.values),
            OpenApiParameter("retired", str, enum=["yes", "no"], description="Default: both."),
            *CURSOR_PARAMETERS,
        ],
    )
    def get(self, request: Request, slug: str) -> Response:
        """Gold with its answer and how often it was answered rightly, newest first."""
        rows = _rows().filter(project=self.project)
        for name, allowed in (("use", GoldUse.values), ("retired", ["yes", "no"])):
            value = request.query_params.get(name, "")
            if value and value not in allowed:
                raise ValidationError({name: [f"must be one of {', '.join(allowed)}, got {value!r}"]})
            if value:
                rows = rows.filter(use=value) if name == "use" else rows.filter(retired_at__isnull=value == "no")
        return page(request, rows, _render)

    @extend_schema(operation_id="gold_give", request=GoldGiveSerializer, responses={201: GoldSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Make a comparison gold, which takes it out of the queue; or give new texts with their answer."""
        data = GoldGiveSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        values, now = data.validated_data, timezone.now()
        common = {
            "answer": values["answer"],
            "use": GoldUse(values.get("use", GoldUse.HIDDEN)),
            "explanation": values.get("explanation", ""),
            "by": user_of(request),
            "now": now,
        }
        if "comparison" in values:
            if "prompt" in values or "completions" in values:
                raise ValidationError({"comparison": ["give either a comparison, or a prompt with completions"]})
            comparison = (
                Comparison.objects.select_related("project")
                .filter(project=self.project, public_id=values["comparison"])
                .first()
            )
            if comparison is None:
                raise ValidationError({"comparison": [f"this project has no comparison {values['comparison']}"]})
            made = golds.give(comparison=comparison, **common)
        else:
            for name in ("prompt", "completions"):
                if name not in values:
                    raise ValidationError({name: ["is needed where no comparison is given"]})
            made = gold_texts.give_texts(
                project=self.project, messages=values["prompt"], texts=values["completions"], **common
            )
        return Response(_render([_rows().get(pk=made.pk)])[0], status=status.HTTP_201_CREATED)


class GoldDetailView(ProjectView):
    """One gold comparison."""

    @extend_schema(operation_id="gold_change", request=GoldPatchSerializer, responses=GoldSerializer)
    def patch(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Change what people are told about it; its answer never changes."""
        data = GoldPatchSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        row = self.find(public_id)
        golds.explain(gold=row, explanation=data.validated_data["explanation"], by=user_of(request), now=timezone.now())
        return Response(_render([row])[0])

    def find(self, public_id: UUID) -> Gold:
        row: Gold | None = _rows().filter(project=self.project, public_id=public_id).first()
        if row is None:
            raise Http404
        return row


class GoldRetireView(GoldDetailView):
    """The end of its use."""

    http_method_names = ["post", "options"]

    @extend_schema(operation_id="gold_retire", request=None, responses=GoldSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Give it to nobody any more; answers to it stay."""
        golds.retire(gold=self.find(public_id), by=user_of(request), now=timezone.now())
        return Response(_render([self.find(public_id)])[0])


class GoldConstructView(ProjectView):
    """Gold from spoilt completions."""

    @extend_schema(operation_id="gold_construct", request=GoldConstructSerializer, responses={201: GoldMadeSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Build gold: a truncated, off-topic or foreign completion against normal ones."""
        data = GoldConstructSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        values = data.validated_data
        made = gold_texts.construct(
            project=self.project,
            kinds=[Spoilt(kind) for kind in values["kinds"]],
            n=values["n"],
            seed=values.get("seed", 0),
            use=GoldUse(values.get("use", GoldUse.HIDDEN)),
            by=user_of(request),
            now=timezone.now(),
        )
        return Response({"made": len(made)}, status=status.HTTP_201_CREATED)


class GoldPromoteView(ProjectView):
    """Gold from strong consensus."""

    @extend_schema(operation_id="gold_promote", request=GoldPromoteSerializer, responses={201: GoldMadeSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Make gold of settled comparisons on which all votes agree."""
        data = GoldPromoteSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        values = data.validated_data
        made = golds.promote(
            project=self.project,
            votes=values.get("votes", 3),
            top_share=values.get("top_share", 1.0),
            most=values.get("most", 50),
            use=GoldUse(values.get("use", GoldUse.HIDDEN)),
            by=user_of(request),
            now=timezone.now(),
        )
        return Response({"made": len(made)}, status=status.HTTP_201_CREATED)


urlpatterns: list[URLPattern] = [
    path("projects/<slug:slug>/gold", GoldsView.as_view()),
    path("projects/<slug:slug>/gold/construct", GoldConstructView.as_view()),
    path("projects/<slug:slug>/gold/promote", GoldPromoteView.as_view()),
    path("projects/<slug:slug>/gold/<uuid:public_id>", GoldDetailView.as_view()),
    path("projects/<slug:slug>/gold/<uuid:public_id>/retire", GoldRetireView.as_view()),
]
