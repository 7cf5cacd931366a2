"""The researcher's view of comparisons: the table, one with everything behind it, and the votes and flags as lists."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.http import Http404
from django.urls import path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from annotation import inspection, queries
from annotation.api.access import ProjectView
from annotation.api.pagination import CURSOR_PARAMETERS, page
from annotation.api.parsing import query_text
from annotation.api.task import MessageSerializer
from annotation.feedback import LETTERS
from annotation.models import (
    AdjudicationKind,
    Comparison,
    ConsensusState,
    Flag,
    FlagKind,
    GoldOrigin,
    GoldUse,
    Purpose,
    SourceKind,
    Vote,
)


class ComparisonCompletionSerializer(serializers.Serializer[Any]):
    label = serializers.CharField()  # type: ignore[assignment]  # DRF's metaclass keeps fields apart from attributes
    text = serializers.CharField()
    source = serializers.CharField()  # type: ignore[assignment]
    finish = serializers.CharField()


class VoteCountsSerializer(serializers.Serializer[Any]):
    a = serializers.IntegerField()
    tie = serializers.IntegerField()
    b = serializers.IntegerField()


class ComparisonSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    prompt = MessageSerializer(many=True)
    category = serializers.CharField()
    completions = ComparisonCompletionSerializer(many=True)
    votes = VoteCountsSerializer()
    votes_counted = serializers.IntegerField()
    votes_wanted = serializers.IntegerField()
    state = serializers.ChoiceField(choices=ConsensusState.choices)
    label = serializers.CharField(allow_null=True)  # type: ignore[assignment]
    prob = serializers.FloatField(allow_null=True)
    ranking = serializers.ListField(child=serializers.ListField(child=serializers.CharField()), allow_null=True)
    priority = serializers.IntegerField()
    frozen = serializers.BooleanField()


class ComparisonListSerializer(serializers.Serializer[Any]):
    items = ComparisonSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class VoteRowSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    comparison = serializers.UUIDField()
    annotator = serializers.CharField(help_text="Pseudonym.")
    purpose = serializers.ChoiceField(choices=Purpose.choices)
    choice = serializers.CharField(allow_blank=True)
    answer = serializers.DictField(help_text="The rest of the answer, in stored order.")
    sides = serializers.CharField(allow_blank=True, help_text="Stored letters from left to right; empty: imported.")
    counted = serializers.BooleanField()
    retracted = serializers.BooleanField()
    active_ms = serializers.IntegerField(allow_null=True)
    guideline = serializers.IntegerField(allow_null=True)
    created_at = serializers.DateTimeField()


class VoteListSerializer(serializers.Serializer[Any]):
    items = VoteRowSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class FlagRowSerializer(serializers.Serializer[Any]):
    comparison = serializers.UUIDField()
    annotator = serializers.CharField()
    kind = serializers.ChoiceField(choices=FlagKind.choices)
    note = serializers.CharField(allow_blank=True)
    created_at = serializers.DateTimeField()


class FlagListSerializer(serializers.Serializer[Any]):
    items = FlagRowSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class InspectedCompletionSerializer(ComparisonCompletionSerializer):
    source_kind = serializers.ChoiceField(choices=SourceKind.choices)
    sampling = serializers.DictField()
    tokens = serializers.IntegerField(allow_null=True)
    scores = serializers.DictField(child=serializers.FloatField())


class ConsensusSerializer(serializers.Serializer[Any]):
    state = serializers.ChoiceField(choices=ConsensusState.choices)
    label = serializers.CharField(allow_blank=True)  # type: ignore[assignment]
    prob = serializers.FloatField(allow_null=True)
    share = serializers.FloatField(allow_null=True)
    top_share = serializers.FloatField(allow_null=True)
    posterior = serializers.FloatField(allow_null=True)
    votes = serializers.IntegerField()
    both_bad = serializers.IntegerField()
    details = serializers.DictField()
    method = serializers.CharField()
    stopped = serializers.CharField(allow_blank=True)
    settled_at = serializers.DateTimeField(allow_null=True)


class SkipRowSerializer(serializers.Serializer[Any]):
    annotator = serializers.CharField()
    reason = serializers.CharField()


class AdjudicationRowSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    kind = serializers.ChoiceField(choices=AdjudicationKind.choices)
    by = serializers.CharField(source="by.name")
    answer = serializers.DictField(allow_null=True)
    reason = serializers.CharField(allow_blank=True)
    created_at = serializers.DateTimeField()


class GoldRowSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    use = serializers.ChoiceField(choices=GoldUse.choices)
    origin = serializers.ChoiceField(choices=GoldOrigin.choices)
    answer = serializers.DictField()
    explanation = serializers.CharField(allow_blank=True)
    retired_at = serializers.DateTimeField(allow_null=True)


class InspectedComparisonSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    prompt = MessageSerializer(many=True)
    category = serializers.CharField(allow_blank=True)
    language = serializers.CharField(allow_blank=True)
    completions = InspectedCompletionSerializer(many=True)
    votes_wanted = serializers.IntegerField()
    audience = serializers.CharField(allow_blank=True)
    priority = serializers.IntegerField()
    frozen_at = serializers.DateTimeField(allow_null=True)
    consensus = ConsensusSerializer()
    votes = VoteRowSerializer(many=True)
    flags = FlagRowSerializer(many=True)
    skips = SkipRowSerializer(many=True)
    cannot_judge = serializers.IntegerField()
    adjudications = AdjudicationRowSerializer(many=True)
    gold = GoldRowSerializer(allow_null=True)


class ComparisonsView(ProjectView):
    """The project's comparisons, with sources and votes: never for annotators."""

    @extend_schema(
        operation_id="comparisons_list",
        responses=ComparisonListSerializer,
        parameters=[
            OpenApiParameter("state", str, enum=ConsensusState.values),
            OpenApiParameter("round", OpenApiTypes.UUID, description="Of this round only."),
            OpenApiParameter("source", str, description="In which this source takes part."),
            OpenApiParameter("flagged", bool, description="With flags only, or without."),
            *CURSOR_PARAMETERS,
        ],
    )
    def get(self, request: Request, slug: str) -> Response:
        """Comparisons, newest first."""
        origin = request.query_params.get("round", "")
        if origin:
            origin = str(serializers.UUIDField().run_validation(origin))
        rows = queries.comparisons(self.project, state=_one_of(request, "state", ConsensusState.values), origin=origin)
        flagged = _one_of(request, "flagged", ["true", "false"])
        rows = inspection.searched(
            rows, source=query_text(request, "source"), flagged=flagged == "true" if flagged else None
        )
        return page(request, rows, _render_comparisons)


def _one_of(request: Request, name: str, allowed: Sequence[str]) -> str:
    value: str = request.query_params.get(name, "")
    if value and value not in allowed:
        raise ValidationError({name: [f"must be one of {', '.join(allowed)}, got {value!r}"]})
    return value


def _moment(request: Request, name: str) -> datetime | None:
    value = request.query_params.get(name)
    if value is None:
        return None
    try:
        found: datetime = serializers.DateTimeField().run_validation(value)
    except ValidationError:
        raise ValidationError({name: [f"must be a time such as 2026-11-21T12:00:00Z, got {value!r}"]}) from None
    return found


def comparison_row(row: Comparison) -> dict[str, Any]:
    """A comparison of `queries.comparisons` as `ComparisonSerializer` takes it."""
    return {
        "id": row.public_id,
        "prompt": row.prompt.messages,
        "category": row.prompt.category,
        "completions": [
            {
                "label": LETTERS[place.position],
                "text": place.completion.text,
                "source": place.completion.source.name,
                "finish": place.completion.finish,
            }
            for place in row.places.all()
        ],
        "votes": {"a": row.consensus.votes_a, "tie": row.consensus.votes_tie, "b": row.consensus.votes_b},
        "votes_counted": row.consensus.votes,
        "votes_wanted": row.overlap,
        "state": row.consensus.state,
        "label": row.consensus.label or None,
        "prob": row.consensus.prob,
        "ranking": row.consensus.details.get("ranking"),
        "priority": row.priority,
        "frozen": row.frozen_at is not None,
    }


def _render_comparisons(rows: Sequence[Comparison]) -> list[Any]:
    return list(ComparisonSerializer([comparison_row(row) for row in rows], many=True).data)


class ComparisonView(ProjectView):
    """One comparison, for a researcher."""

    @extend_schema(operation_id="comparisons_show", responses=InspectedComparisonSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Everything about one comparison: texts, sources, scores, votes by pseudonym, flags, rulings, gold."""
        found = inspection.comparison(self.project, public_id)
        if found is None:
            raise Http404
        return Response(InspectedComparisonSerializer(found).data)


class VotesView(ProjectView):
    """The project's votes."""

    @extend_schema(
        operation_id="votes_list",
        responses=VoteListSerializer,
        parameters=[
            OpenApiParameter("annotator", str, description="Pseudonym."),
            OpenApiParameter("purpose", str, enum=Purpose.values),
            OpenApiParameter("comparison", OpenApiTypes.UUID),
            OpenApiParameter("since", OpenApiTypes.DATETIME),
            OpenApiParameter("until", OpenApiTypes.DATETIME, description="Before this time."),
            *CURSOR_PARAMETERS,
        ],
    )
    def get(self, request: Request, slug: str) -> Response:
        """Votes, newest first: counted, surplus, taken back, gold and repeats."""
        comparison = request.query_params.get("comparison", "")
        if comparison:
            comparison = str(serializers.UUIDField().run_validation(comparison))
        chosen = inspection.VoteFilter(
            annotator=query_text(request, "annotator"),
            purpose=_one_of(request, "purpose", Purpose.values),
            comparison=comparison,
            since=_moment(request, "since"),
            until=_moment(request, "until"),
        )

        def render(rows: Sequence[Vote]) -> list[Any]:
            names = inspection.pseudonyms(self.project, [row.annotator_id for row in rows])
            shown = [inspection.vote_row(row, names) for row in rows]
            return list(VoteRowSerializer(shown, many=True).data)

        return page(request, inspection.votes(self.project, chosen), render)


class FlagsView(ProjectView):
    """The project's flags."""

    @extend_schema(
        operation_id="flags_list",
        responses=FlagListSerializer,
        parameters=[OpenApiParameter("kind", str, enum=FlagKind.values), *CURSOR_PARAMETERS],
    )
    def get(self, request: Request, slug: str) -> Response:
        """Flags, newest first."""

        def render(rows: Sequence[Flag]) -> list[Any]:
            names = inspection.pseudonyms(self.project, [row.by_id for row in rows])
            return list(FlagRowSerializer([inspection.flag_row(row, names) for row in rows], many=True).data)

        return page(request, inspection.flags(self.project, kind=_one_of(request, "kind", FlagKind.values)), render)


urlpatterns = [
    path("projects/<slug:slug>/comparisons", ComparisonsView.as_view()),
    path("projects/<slug:slug>/comparisons/<uuid:public_id>", ComparisonView.as_view()),
    path("projects/<slug:slug>/votes", VotesView.as_view()),
    path("projects/<slug:slug>/flags", FlagsView.as_view()),
]
