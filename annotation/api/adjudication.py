"""Disputes: the queue, a blind first answer, the votes without names, rulings, re-openings, escalations."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import Http404
from django.urls import URLPattern, path
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from annotation import adjudication
from annotation.api.access import AdjudicatorView, ProjectView, user_of
from annotation.api.pagination import CURSOR_PARAMETERS, MOST, whole_number
from annotation.api.parsing import FiniteFloatField, query_text
from annotation.api.task import FormSerializer, MessageSerializer
from annotation.feedback import LETTERS
from annotation.models import (
    Adjudication,
    AdjudicationKind,
    Comparison,
    Consensus,
    ConsensusState,
    FlagKind,
    Purpose,
    Vote,
)

MOST_SENT = 20_000
_WHY = {"sent": AdjudicationKind.REQUEST, "escalated": AdjudicationKind.ESCALATION}


class DisputeSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    prompt = MessageSerializer(many=True)
    category = serializers.CharField()
    language = serializers.CharField()
    why = serializers.ChoiceField(choices=["votes", "sent", "escalated"])
    votes = serializers.IntegerField()
    disagreement = serializers.FloatField(allow_null=True, help_text="1 − share of the leading answer.")
    answered = serializers.BooleanField(help_text="The caller has given a first answer.")
    frozen = serializers.BooleanField()


class DisputeListSerializer(serializers.Serializer[Any]):
    items = DisputeSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class LetteredTextSerializer(serializers.Serializer[Any]):
    letter = serializers.CharField()
    text = serializers.CharField()
    finish = serializers.CharField()


class DisputeFlagSerializer(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(choices=FlagKind.choices)
    note = serializers.CharField()
    created_at = serializers.DateTimeField()


class RequestSerializer(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(choices=[AdjudicationKind.REQUEST, AdjudicationKind.ESCALATION])
    reason = serializers.CharField()
    created_at = serializers.DateTimeField()


class SaidSerializer(serializers.Serializer[Any]):
    """An answer in stored order: a choice for two completions, a ranking for more."""

    choice = serializers.ChoiceField(choices=["a", "tie", "b"], required=False)
    ranking = serializers.ListField(child=serializers.ListField(child=serializers.CharField()), required=False)


class DisputeDetailSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    state = serializers.ChoiceField(choices=ConsensusState.choices)
    question = serializers.CharField()
    form = FormSerializer()
    prompt = MessageSerializer(many=True)
    completions = LetteredTextSerializer(many=True)
    flags = DisputeFlagSerializer(many=True)
    requests = RequestSerializer(many=True)
    frozen = serializers.BooleanField()
    my_answer = serializers.DictField(allow_null=True)
    ruling = serializers.UUIDField(allow_null=True, help_text="The ruling that stands.")


class BlindVoteSerializer(serializers.Serializer[Any]):
    choice = serializers.CharField(allow_null=True)
    both_bad = serializers.BooleanField()
    scale = serializers.IntegerField(allow_null=True, help_text="1 (a clearly) to `points` (b clearly).")
    points = serializers.IntegerField(allow_null=True)
    ranking = serializers.ListField(child=serializers.ListField(child=serializers.CharField()), allow_null=True)
    ratings = serializers.DictField(allow_null=True)
    criteria = serializers.DictField()
    reasons = serializers.ListField(child=serializers.CharField())
    rationale = serializers.CharField()


class DecisionSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    kind = serializers.ChoiceField(choices=AdjudicationKind.choices)
    answer = serializers.DictField(allow_null=True)
    reason = serializers.CharField()
    mine = serializers.BooleanField()
    created_at = serializers.DateTimeField()


class DisputeVotesSerializer(serializers.Serializer[Any]):
    my_answer = serializers.DictField()
    votes = BlindVoteSerializer(many=True)
    history = DecisionSerializer(many=True)


class RulingRequestSerializer(SaidSerializer):
    invalid = serializers.BooleanField(required=False, help_text="Withdraw it: nobody can judge this.")
    reason = serializers.CharField(max_length=2000)
    supersedes = serializers.UUIDField(required=False, help_text="The ruling that stands, to replace it.")
    make_gold = serializers.BooleanField(required=False)
    explanation = serializers.CharField(max_length=4000, required=False, allow_blank=True)


class DecisionReasonSerializer(serializers.Serializer[Any]):
    reason = serializers.CharField(max_length=2000)


class DecidedSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    kind = serializers.ChoiceField(choices=AdjudicationKind.choices)
    state = serializers.ChoiceField(choices=ConsensusState.choices)
    frozen = serializers.BooleanField()
    note = serializers.CharField(help_text="What the caller should know, or empty.")


class SendFilterSerializer(serializers.Serializer[Any]):
    state = serializers.ChoiceField(choices=ConsensusState.choices, required=False)
    top_share_below = FiniteFloatField(min_value=0, max_value=1, required=False)
    category = serializers.CharField(required=False)


class SendSerializer(serializers.Serializer[Any]):
    comparisons = serializers.ListField(child=serializers.UUIDField(), max_length=1000, required=False)
    filter = SendFilterSerializer(required=False)
    reason = serializers.CharField(max_length=2000)


class SentSerializer(serializers.Serializer[Any]):
    matched = serializers.IntegerField()
    sent = serializers.IntegerField(help_text="Those that did not wait for a ruling already.")


class DisputesView(AdjudicatorView):
    """The queue."""

    @extend_schema(
        operation_id="adjudication_list",
        responses=DisputeListSerializer,
        parameters=[
            OpenApiParameter("why", str, enum=["votes", "sent", "escalated"]),
            OpenApiParameter("category", str),
            OpenApiParameter("language", str),
            *CURSOR_PARAMETERS,
        ],
    )
    def get(self, request: Request, slug: str) -> Response:
        """Disputed comparisons, the most disputed first; what was escalated comes first for managers and owners."""
        limit = whole_number(request, "limit", default=50, low=1, high=MOST)
        rows = adjudication.queue(self.project, role=self.role, after=_read_cursor(request))
        rows = _filtered(request, rows)
        found = list(rows[: limit + 1])
        page, more = found[:limit], len(found) > limit
        mine = Vote.objects.filter(
            annotator=user_of(request),
            comparison_id__in=[row.comparison_id for row in page],
            purpose__in=(Purpose.REFERENCE, Purpose.WANTED),
            retractions__isnull=True,
        )
        answered = set(mine.values_list("comparison_id", flat=True))
        items = [_render_row(row, answered) for row in page]
        return Response(
            {
                "items": DisputeSerializer(items, many=True).data,
                "next": _cursor(page[-1]) if more else None,
            }
        )


def _filtered(request: Request, rows: QuerySet[Consensus]) -> QuerySet[Consensus]:
    why = query_text(request, "why")
    if why and why not in {"votes", *_WHY}:
        raise ValidationError({"why": [f"must be votes, sent or escalated, got {why!r}"]})
    if why:
        waits = Q(newest__in=adjudication.WAITING)
        rows = rows.filter(~waits if why == "votes" else Q(newest=_WHY[why]))
    if category := query_text(request, "category"):
        rows = rows.filter(comparison__prompt__category=category)
    if language := query_text(request, "language"):
        rows = rows.filter(comparison__prompt__language=language)
    return rows


def _render_row(row: Any, answered: set[int]) -> dict[str, Any]:
    prompt = row.comparison.prompt
    reasons = {AdjudicationKind.REQUEST.value: "sent", AdjudicationKind.ESCALATION.value: "escalated"}
    return {
        "id": row.comparison.public_id,
        "prompt": prompt.messages,
        "category": prompt.category,
        "language": prompt.language,
        "why": reasons.get(row.newest, "votes"),
        "votes": row.votes,
        "disagreement": None if row.top_share is None else 1 - row.top_share,
        "answered": row.comparison_id in answered,
        "frozen": row.comparison.frozen_at is not None,
    }


def _cursor(row: Any) -> str:
    return urlsafe_b64encode(f"{row.order} {row.lead!r} {row.comparison_id}".encode()).decode()


def _read_cursor(request: Request) -> adjudication.Place | None:
    cursor = request.query_params.get("cursor")
    if not cursor:
        return None
    try:
        order, lead, pk = urlsafe_b64decode(cursor.encode()).decode().split(" ")
        place = adjudication.Place(order=int(order), top_share=float(lead), pk=int(pk))
    except ValueError:
        raise ValidationError({"cursor": [f"not a cursor: {cursor!r}"]}) from None
    if not (place.order in {0, 1} and 0 <= place.top_share <= 2 and 0 < place.pk < 2**63):
        raise ValidationError({"cursor": [f"not a cursor: {cursor!r}"]})
    return place


class DisputeView(AdjudicatorView):
    """One comparison that is or was disputed."""

    def found(self, public_id: UUID) -> Comparison:
        """The comparison, if it has to do with adjudication; else 404."""
        facts = Adjudication.objects.filter(comparison=OuterRef("pk"))
        rows = Comparison.objects.filter(project=self.project, public_id=public_id).select_related(
            "prompt", "consensus", "project"
        )
        row = rows.filter(Q(consensus__state=ConsensusState.DISPUTED) | Exists(facts)).first()
        if row is None:
            raise Http404
        return row

    def decided(self, fact: Adjudication, comparison: Comparison) -> Response:
        """What an adjudicator is told of their decision."""
        consensus = Consensus.objects.get(comparison=comparison)
        frozen = comparison.frozen_at is not None
        note = "A snapshot holds this comparison with its older label; the next one takes the ruling."
        body = {
            "id": fact.public_id,
            "kind": fact.kind,
            "state": consensus.state,
            "frozen": frozen,
            "note": note if frozen and fact.kind == AdjudicationKind.RULING else "",
        }
        return Response(DecidedSerializer(body).data, status=status.HTTP_201_CREATED)


class DisputeDetailView(DisputeView):
    """The texts, without sources and names."""

    @extend_schema(operation_id="adjudication_show", responses=DisputeDetailSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Prompt and completions in stored order, flags, and why it waits; no votes, sources or names."""
        row = self.found(public_id)
        places = row.places.select_related("completion")
        history = adjudication.history(row)
        ruling = history[-1] if history and history[-1].kind == AdjudicationKind.RULING else None
        body = {
            "id": row.public_id,
            "state": row.consensus.state,
            "question": self.project.question,
            "form": self.project.feedback.as_dict(),
            "prompt": row.prompt.messages,
            "completions": [
                {
                    "letter": LETTERS[place.position],
                    "text": place.completion.text,
                    "finish": place.completion.finish,
                }
                for place in places
            ],
            "flags": list(row.flags.order_by("id").values("kind", "note", "created_at")),
            "requests": [
                {"kind": fact.kind, "reason": fact.reason, "created_at": fact.created_at}
                for fact in history
                if fact.kind in adjudication.WAITING
            ],
            "frozen": row.frozen_at is not None,
            "my_answer": adjudication.first_answer(row, user_of(request)),
            "ruling": None if ruling is None else ruling.public_id,
        }
        return Response(DisputeDetailSerializer(body).data)


class DisputeAnswerView(DisputeView):
    """The adjudicator's own first answer."""

    @extend_schema(operation_id="adjudication_answer", request=SaidSerializer, responses=DisputeVotesSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Answer before seeing the votes; they are the reply. The same answer again changes nothing."""
        row = self.found(public_id)
        data = SaidSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        adjudication.answer_first(
            comparison=row, user=user_of(request), data=dict(data.validated_data), now=timezone.now()
        )
        return Response(_render_votes(row, request))


class DisputeVotesView(DisputeView):
    """The votes without names."""

    @extend_schema(operation_id="adjudication_votes", responses=DisputeVotesSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Votes, rationales and earlier decisions, for who has answered first."""
        return Response(_render_votes(self.found(public_id), request))


def _render_votes(row: Comparison, request: Request) -> Any:
    user = user_of(request)
    votes = adjudication.votes_for(comparison=row, user=user)
    body = {
        "my_answer": adjudication.first_answer(row, user),
        "votes": [
            {
                "choice": vote.choice or None,
                "both_bad": bool(vote.body.get("both_bad")),
                "scale": vote.body.get("scale"),
                "points": vote.body.get("points"),
                "ranking": vote.body.get("ranking"),
                "ratings": vote.body.get("ratings"),
                "criteria": vote.body.get("criteria", {}),
                "reasons": vote.body.get("reasons", []),
                "rationale": vote.body.get("rationale", ""),
            }
            for vote in votes
        ],
        "history": [
            {
                "id": fact.public_id,
                "kind": fact.kind,
                "answer": fact.answer,
                "reason": fact.reason,
                "mine": fact.by_id == user.pk,
                "created_at": fact.created_at,
            }
            for fact in adjudication.history(row)
        ],
    }
    return DisputeVotesSerializer(body).data


class RulingView(DisputeView):
    """Rulings."""

    @extend_schema(
        operation_id="adjudication_rule", request=RulingRequestSerializer, responses={201: DecidedSerializer}
    )
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Rule: a choice, a ranking, or invalid, with a reason. Where a ruling stands it must be named."""
        row = self.found(public_id)
        data = RulingRequestSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        values = dict(data.validated_data)
        answer = {key: values[key] for key in ("choice", "ranking") if key in values}
        if values.get("invalid"):
            answer["invalid"] = True
        gold = adjudication.MakeGold(explanation=values.get("explanation", "")) if values.get("make_gold") else None
        fact = adjudication.rule(
            comparison=row,
            by=user_of(request),
            role=self.role,
            answer=answer,
            reason=values["reason"],
            supersedes=values.get("supersedes"),
            make_gold=gold,
            now=timezone.now(),
        )
        return self.decided(fact, row)


class ReopenView(DisputeView):
    """Re-openings."""

    @extend_schema(
        operation_id="adjudication_reopen", request=DecisionReasonSerializer, responses={201: DecidedSerializer}
    )
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Let the votes speak again."""
        row = self.found(public_id)
        fact = adjudication.reopen(comparison=row, by=user_of(request), reason=_reason(request), now=timezone.now())
        return self.decided(fact, row)


class EscalateView(DisputeView):
    """Escalations."""

    @extend_schema(
        operation_id="adjudication_escalate", request=DecisionReasonSerializer, responses={201: DecidedSerializer}
    )
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Leave it to managers and owners."""
        row = self.found(public_id)
        fact = adjudication.escalate(comparison=row, by=user_of(request), reason=_reason(request), now=timezone.now())
        return self.decided(fact, row)


def _reason(request: Request) -> str:
    data = DecisionReasonSerializer(data=request.data)
    data.is_valid(raise_exception=True)
    return str(data.validated_data["reason"])


class SendView(ProjectView):
    """Sending comparisons to adjudication."""

    @extend_schema(operation_id="adjudication_send", request=SendSerializer, responses=SentSerializer)
    def post(self, request: Request, slug: str) -> Response:
        """Ask for rulings on named comparisons, or on all that a filter finds."""
        data = SendSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        rows = self._chosen(data.validated_data)
        sent = adjudication.send(rows, by=user_of(request), reason=data.validated_data["reason"], now=timezone.now())
        return Response(SentSerializer({"matched": len(rows), "sent": sent}).data)

    def _chosen(self, values: dict[str, Any]) -> Sequence[Comparison]:
        rows = Comparison.objects.filter(project=self.project).select_related("project").order_by("pk")
        wanted, chosen = values.get("filter", {}), values.get("comparisons")
        if chosen is None and not wanted:
            raise ValidationError({"comparisons": ["name some, or give a filter"]})
        if chosen is not None:
            rows = rows.filter(public_id__in=chosen)
        if "state" in wanted:
            rows = rows.filter(consensus__state=wanted["state"])
        if "top_share_below" in wanted:
            rows = rows.filter(consensus__top_share__lt=wanted["top_share_below"])
        if "category" in wanted:
            rows = rows.filter(prompt__category=wanted["category"])
        found = list(rows[: MOST_SENT + 1])
        if len(found) > MOST_SENT:
            raise ValidationError({"filter": [f"finds more than {MOST_SENT} comparisons; make it narrower"]})
        return found


_ONE = "projects/<slug:slug>/adjudication/<uuid:public_id>"
urlpatterns: list[URLPattern] = [
    path("projects/<slug:slug>/adjudication", DisputesView.as_view()),
    path("projects/<slug:slug>/adjudication/send", SendView.as_view()),
    path(_ONE, DisputeDetailView.as_view()),
    path(f"{_ONE}/answer", DisputeAnswerView.as_view()),
    path(f"{_ONE}/votes", DisputeVotesView.as_view()),
    path(f"{_ONE}/ruling", RulingView.as_view()),
    path(f"{_ONE}/reopen", ReopenView.as_view()),
    path(f"{_ONE}/escalate", EscalateView.as_view()),
]
