"""The researcher's view of people: their records, pauses, and agreement with a reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

from django.db.models import Count
from django.http import Http404
from django.urls import URLPattern, path
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from annotation import quality
from annotation import records as people_records
from annotation.api.access import ProjectView, user_of
from annotation.api.pagination import CURSOR_PARAMETERS, page
from annotation.api.projects import EstimateSerializer
from annotation.api.task import AnswerSerializer, MessageSerializer
from annotation.feedback import LETTERS, Answer, shown
from annotation.models import Comparison, Gold, GoldUse, Membership, Purpose, Role, Vote
from annotation.references import record_reference, reference_agreement

MOST_VOTES = 50
CAN_ANNOTATE = [role.value for role in Role if role.can_annotate]


class RecordSerializer(serializers.Serializer[Any]):
    votes = serializers.IntegerField()
    gold = EstimateSerializer()
    agreement = EstimateSerializer(help_text="With most of the others, the own vote left out.")
    consistency = EstimateSerializer(help_text="Of silent repeats: the same again.")
    side_driven = EstimateSerializer(help_text="Of repeats decisive both times: the same side again.")
    left_share = EstimateSerializer()
    longer_share = EstimateSerializer()
    tie_share = EstimateSerializer()
    median_seconds = serializers.FloatField(allow_null=True)
    votes_per_hour = serializers.FloatField(allow_null=True, help_text="Of focused time.")
    skips = serializers.IntegerField()
    cannot_judge = serializers.IntegerField()
    flags = serializers.IntegerField()
    last_vote_at = serializers.DateTimeField(allow_null=True)


class AnnotatorSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    name = serializers.CharField()
    pseudonym = serializers.CharField()
    role = serializers.ChoiceField(choices=Role.choices)
    reliability = serializers.FloatField(allow_null=True, help_text="Estimated P(a vote is right).")
    paused_at = serializers.DateTimeField(allow_null=True)
    pause_reason = serializers.CharField(allow_blank=True)
    requalify_at = serializers.DateTimeField(allow_null=True)
    excluded_at = serializers.DateTimeField(allow_null=True)
    left_at = serializers.DateTimeField(allow_null=True)


class AnnotatorRowSerializer(AnnotatorSerializer):
    record = RecordSerializer()


class AnnotatorListSerializer(serializers.Serializer[Any]):
    items = AnnotatorRowSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class BucketSerializer(serializers.Serializer[Any]):
    started_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField()
    votes = serializers.IntegerField()
    gold = EstimateSerializer()
    agreement = EstimateSerializer()
    median_seconds = serializers.FloatField(allow_null=True)


class SideCountsSerializer(serializers.Serializer[Any]):
    left = serializers.IntegerField()
    tie = serializers.IntegerField()
    right = serializers.IntegerField()


class LastVoteSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    comparison = serializers.UUIDField()
    purpose = serializers.ChoiceField(choices=Purpose.choices)
    answer = AnswerSerializer(help_text="As the person's screen had it.")
    active_ms = serializers.IntegerField(allow_null=True)
    created_at = serializers.DateTimeField()


class AnnotatorDetailSerializer(AnnotatorRowSerializer):
    buckets = BucketSerializer(many=True, help_text="Tenths of their votes, the oldest first.")
    confusion = serializers.DictField(
        child=SideCountsSerializer(), help_text="Of gold pairs: by the side that was right, votes by the side chosen."
    )
    votes = LastVoteSerializer(many=True, help_text="The last fifty.")


class PauseReasonSerializer(serializers.Serializer[Any]):
    reason = serializers.CharField(max_length=300)


class GoldCountsSerializer(serializers.Serializer[Any]):
    hidden = serializers.IntegerField()
    practice = serializers.IntegerField()
    qualification = serializers.IntegerField()


class QualitySerializer(serializers.Serializer[Any]):
    gold = EstimateSerializer()
    agreement = EstimateSerializer()
    consistency = EstimateSerializer()
    side_driven = EstimateSerializer()
    left_share = EstimateSerializer()
    longer_share = EstimateSerializer()
    tie_share = EstimateSerializer()
    live_gold = GoldCountsSerializer()


class WithReferenceSerializer(serializers.Serializer[Any]):
    percent = EstimateSerializer()
    kappa = EstimateSerializer()


class PersonWithReferenceSerializer(WithReferenceSerializer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    pseudonym = serializers.CharField()


class ReferenceAgreementSerializer(serializers.Serializer[Any]):
    references = serializers.IntegerField()
    consensus = WithReferenceSerializer()
    people = PersonWithReferenceSerializer(many=True)


class ReferenceSerializer(serializers.Serializer[Any]):
    """A researcher's own answer, given with a on the left: the completions in the order of the comparisons list."""

    answer = AnswerSerializer()


class ReferenceMadeSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    prompt = MessageSerializer(many=True)
    answer = AnswerSerializer()
    created_at = serializers.DateTimeField()


def _person(member: Membership) -> dict[str, Any]:
    return {
        "id": member.user.public_id,
        "name": member.user.name or member.pseudonym,
        "pseudonym": member.pseudonym,
        "role": member.role,
        "reliability": member.reliability,
        "paused_at": member.paused_at,
        "pause_reason": member.pause_reason,
        "requalify_at": member.requalify_at,
        "excluded_at": member.excluded_at,
        "left_at": member.left_at,
    }


class AnnotatorsView(ProjectView):
    """Who annotates, and how."""

    @extend_schema(operation_id="annotators_list", responses=AnnotatorListSerializer, parameters=CURSOR_PARAMETERS)
    def get(self, request: Request, slug: str) -> Response:
        """People who may annotate, the newest first, with their records; who has left stays in the list."""
        rows = Membership.objects.filter(project=self.project, role__in=CAN_ANNOTATE).select_related("user")

        def render(members: Sequence[Membership]) -> list[Any]:
            found = people_records.records(self.project, user_ids=[member.user_id for member in members])
            items = [_person(member) | {"record": found[member.user_id]} for member in members]
            return list(AnnotatorRowSerializer(items, many=True).data)

        return page(request, rows, render)


class _AnnotatorView(ProjectView):
    """Views of one person in the project; the id is the person's."""

    def member(self, public_id: UUID) -> Membership:
        found = (
            Membership.objects.filter(project=self.project, user__public_id=public_id, role__in=CAN_ANNOTATE)
            .select_related("user", "project")
            .first()
        )
        if found is None:
            raise Http404
        return found


class AnnotatorView(_AnnotatorView):
    """One person."""

    @extend_schema(operation_id="annotators_show", responses=AnnotatorDetailSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Their record over time, their answers to gold by side, and their last votes."""
        member = self.member(public_id)
        found = people_records.history(self.project, user_id=member.user_id)
        ends = [key for bucket in found.buckets for key in (bucket.first, bucket.last)]
        times = dict(Vote.objects.filter(pk__in=ends).values_list("pk", "created_at"))
        votes = Vote.objects.filter(
            project=self.project, annotator=member.user, assignment__isnull=False, retractions__isnull=True
        ).select_related("assignment", "comparison")
        body = _person(member) | {
            "record": found.record,
            "confusion": found.confusion,
            "buckets": [
                {
                    "started_at": times[bucket.first],
                    "ended_at": times[bucket.last],
                    "votes": bucket.votes,
                    "gold": bucket.gold,
                    "agreement": bucket.agreement,
                    "median_seconds": bucket.median_seconds,
                }
                for bucket in found.buckets
            ],
            "votes": [_vote(vote) for vote in votes.order_by("-pk")[:MOST_VOTES]],
        }
        return Response(AnnotatorDetailSerializer(body).data)


def _vote(vote: Vote) -> dict[str, Any]:
    assert vote.assignment is not None
    return {
        "id": vote.public_id,
        "comparison": vote.comparison.public_id,
        "purpose": vote.purpose,
        "answer": shown(vote.choice, vote.body, sides=vote.assignment.sides),
        "active_ms": vote.active_ms,
        "created_at": vote.created_at,
    }


class _ActView(_AnnotatorView):
    """A decision about a person, with its reason."""

    def reason(self, request: Request) -> str:
        data = PauseReasonSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        return str(data.validated_data["reason"])


class PauseView(_ActView):
    """A pause."""

    @extend_schema(operation_id="annotators_pause", request=PauseReasonSerializer, responses=AnnotatorSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Give this person nothing new to do; they are told the reason."""
        member = self.member(public_id)
        quality.pause(member=member, reason=self.reason(request), by=user_of(request), now=timezone.now())
        return Response(AnnotatorSerializer(_person(member)).data)


class ResumeView(_ActView):
    """The end of a pause."""

    @extend_schema(operation_id="annotators_resume", request=PauseReasonSerializer, responses=AnnotatorSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Lift a pause; the gold rule judges from now on only."""
        member = self.member(public_id)
        quality.resume(member=member, reason=self.reason(request), by=user_of(request), now=timezone.now())
        return Response(AnnotatorSerializer(_person(member)).data)


class RequalifyView(_ActView):
    """Another qualification."""

    @extend_schema(operation_id="annotators_requalify", request=PauseReasonSerializer, responses=AnnotatorSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Let only a qualification from now on count; passing it lifts a pause that they are under."""
        member = self.member(public_id)
        quality.ask_to_requalify(member=member, reason=self.reason(request), by=user_of(request), now=timezone.now())
        return Response(AnnotatorSerializer(_person(member)).data)


class QualityView(ProjectView):
    """Quality of the project."""

    @extend_schema(operation_id="quality_show", responses=QualitySerializer)
    def get(self, request: Request, slug: str) -> Response:
        """Gold accuracy, agreement, consistency and biases of all people together, and the gold there is."""
        found = people_records.pool(self.project)
        counts = dict.fromkeys(GoldUse.values, 0)
        live = Gold.objects.filter(project=self.project, retired_at=None).order_by()
        counts |= dict(live.values_list("use").annotate(n=Count("pk")))
        return Response(QualitySerializer({**asdict(found), "live_gold": counts}).data)


class ReferenceView(ProjectView):
    """A researcher's own answer to a comparison."""

    @extend_schema(operation_id="references_give", request=ReferenceSerializer, responses=ReferenceMadeSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Store the caller's answer as a reference, with a on the left; another answer replaces it."""
        comparison = (
            Comparison.objects.select_related("project", "prompt")
            .filter(project=self.project, public_id=public_id)
            .first()
        )
        if comparison is None:
            raise Http404
        data = ReferenceSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        vote = record_reference(
            comparison=comparison, by=user_of(request), answer=Answer(**data.validated_data["answer"]),
            now=timezone.now(),
        )  # fmt: skip
        size = self.project.feedback.size
        body = {
            "id": vote.public_id,
            "prompt": comparison.prompt.messages,
            "answer": shown(vote.choice, vote.body, sides=LETTERS[:size]),
            "created_at": vote.created_at,
        }
        return Response(ReferenceMadeSerializer(body).data)


class ReferenceAgreementView(ProjectView):
    """Agreement with the references."""

    @extend_schema(operation_id="agreement_reference", responses=ReferenceAgreementSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """How far the consensus and each annotator agree with the researchers' own answers."""
        found = reference_agreement(self.project)
        members = Membership.objects.filter(project=self.project, user_id__in=found.people).select_related("user")
        people = [
            {
                "id": member.user.public_id,
                "name": member.user.name or member.pseudonym,
                "pseudonym": member.pseudonym,
                "percent": found.people[member.user_id].percent,
                "kappa": found.people[member.user_id].kappa,
            }
            for member in members.order_by("pseudonym")
        ]
        body = {"references": found.references, "consensus": found.consensus, "people": people}
        return Response(ReferenceAgreementSerializer(body).data)


_ANNOTATOR = "projects/<slug:slug>/annotators/<uuid:public_id>"

urlpatterns: list[URLPattern] = [
    path("projects/<slug:slug>/annotators", AnnotatorsView.as_view()),
    path(_ANNOTATOR, AnnotatorView.as_view()),
    path(f"{_ANNOTATOR}/pause", PauseView.as_view()),
    path(f"{_ANNOTATOR}/resume", ResumeView.as_view()),
    path(f"{_ANNOTATOR}/requalify", RequalifyView.as_view()),
    path("projects/<slug:slug>/quality", QualityView.as_view()),
    path("projects/<slug:slug>/comparisons/<uuid:public_id>/reference", ReferenceView.as_view()),
    path("projects/<slug:slug>/agreement/reference", ReferenceAgreementView.as_view()),
]
