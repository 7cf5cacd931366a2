"""The annotator's API: prompt, completions, question, progress and lease, and nothing that could bias.

Every serializer here lists its fields by hand. No source, score, vote of others, consensus, gold mark or stored order
leaves through this module; a test walks it with secrets planted in every hidden column.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from django.http import Http404
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import assignment as assignments
from annotation import qualification, quality
from annotation.api.access import AnnotatorProjectView, NoStore, require_scope, user_of
from annotation.api.task import AnswerSerializer, TaskSerializer, render_tasks
from annotation.feedback import Answer, FeedbackKind, shown
from annotation.models import (
    Assignment,
    FlagKind,
    Membership,
    Role,
    Token,
    TokenScope,
    Vote,
)
from annotation.progress import Progress, progress, sitting, why_nothing
from annotation.tasks import wake_settling
from annotation.voting import MOST_CHARACTERS, own_votes, record_vote, retract, write_completion

DONE = (
    "all_done", "held_by_others", "paused", "nothing_yet", "person_paused", "confirm_guideline", "practise", "qualify",
    "share_done",
)  # fmt: skip
MOST_LINE = 160  # characters of a prompt's first line in a list
SKIP_REASONS = ("cannot_judge", "need_expertise", "too_long", "broken", "rather_not")


class QueueSerializer(serializers.Serializer[Any]):
    items = TaskSerializer(many=True)
    done = serializers.ChoiceField(choices=DONE, allow_null=True, help_text="Why there is nothing to do.")
    votes = serializers.IntegerField()
    remaining = serializers.IntegerField(help_text="About how many tasks are left; counted up to 200.")
    lease_minutes = serializers.IntegerField()


class QueueAskSerializer(serializers.Serializer[Any]):
    tab = serializers.CharField(max_length=64)
    n = serializers.IntegerField(min_value=1, max_value=assignments.MOST_A_TAB)


class TabSerializer(serializers.Serializer[Any]):
    tab = serializers.CharField(max_length=64)


class ReleaseSerializer(TabSerializer):
    assignments = serializers.ListField(child=serializers.UUIDField(), max_length=20)


class RenewedSerializer(serializers.Serializer[Any]):
    renewed = serializers.IntegerField()


class ReleasedSerializer(serializers.Serializer[Any]):
    released = serializers.IntegerField()


class AnnotateProjectSerializer(serializers.Serializer[Any]):
    slug = serializers.CharField()
    name = serializers.CharField()
    question = serializers.CharField()
    kind = serializers.ChoiceField(choices=[kind.value for kind in FeedbackKind])
    votes = serializers.IntegerField()
    remaining = serializers.IntegerField()
    paused = serializers.BooleanField()
    guideline_number = serializers.IntegerField(allow_null=True)
    next = serializers.ChoiceField(choices=[step.value for step in qualification.Step])
    today_votes = serializers.IntegerField(help_text="Own votes since `since`.")
    today_active_ms = serializers.IntegerField()
    median_ms = serializers.IntegerField(allow_null=True, help_text="Of the last own votes; null for a few.")
    unread_feedback = serializers.IntegerField()
    feedback_at = serializers.DateTimeField(allow_null=True, help_text="When feedback came last.")


class AnnotateProjectListSerializer(serializers.Serializer[Any]):
    items = AnnotateProjectSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class GuidelineSerializer(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    text = serializers.CharField()


class VoteSerializer(AnswerSerializer):
    active_ms = serializers.IntegerField(min_value=0, max_value=86_400_000, required=False, allow_null=True)


class ReceiptSerializer(serializers.Serializer[Any]):
    vote = serializers.UUIDField()
    key = serializers.UUIDField()
    counted = serializers.BooleanField()
    votes = serializers.IntegerField()
    remaining = serializers.IntegerField()


class RetractedSerializer(serializers.Serializer[Any]):
    task = TaskSerializer()


class OwnVoteSerializer(serializers.Serializer[Any]):
    vote = serializers.UUIDField()
    prompt = serializers.CharField(help_text="The first line of the prompt's last turn.")
    answer = AnswerSerializer()
    created_at = serializers.DateTimeField()
    can_retract = serializers.BooleanField()


class OwnVoteListSerializer(serializers.Serializer[Any]):
    items = OwnVoteSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class OwnCompletionSerializer(serializers.Serializer[Any]):
    text = serializers.CharField(max_length=MOST_CHARACTERS, trim_whitespace=False)


class SkipSerializer(serializers.Serializer[Any]):
    reason = serializers.ChoiceField(choices=SKIP_REASONS)
    note = serializers.CharField(max_length=150, required=False, allow_blank=True)


class FlagSerializer(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(choices=FlagKind.choices)
    note = serializers.CharField(max_length=1000, required=False, allow_blank=True)


def _progress(figures: Progress) -> dict[str, int]:
    return {"votes": figures.votes, "remaining": figures.remaining}


class AnnotateProjectsView(NoStore, APIView):
    """Where the caller may annotate."""

    @extend_schema(
        operation_id="annotate_projects",
        responses=AnnotateProjectListSerializer,
        parameters=[
            OpenApiParameter("since", datetime, description="Start of the caller's day; default: 24 hours ago.")
        ],
    )
    def get(self, request: Request) -> Response:
        """The caller's projects with what is left to do, and how their own day went."""
        require_scope(request, TokenScope.READ)
        user, now = user_of(request), timezone.now()
        given = request.query_params.get("since")
        since = now - timedelta(days=1) if given is None else _since(given)
        rows = Membership.objects.filter(user=user, left_at=None).select_related("project").order_by("project__name")
        if isinstance(request.auth, Token) and request.auth.project_id is not None:
            rows = rows.filter(project_id=request.auth.project_id)
        items = [_work(row, since, now) for row in rows if Role(row.role).can_annotate]
        return Response({"items": AnnotateProjectSerializer(items, many=True).data, "next": None})


def _since(given: str) -> datetime:
    try:
        return cast(datetime, serializers.DateTimeField().run_validation(given))
    except ValidationError as error:
        raise ValidationError({"since": error.detail}) from None


def _work(row: Membership, since: datetime, now: datetime) -> dict[str, Any]:
    """What one project asks of a person, and how it goes for them."""
    own = sitting(project=row.project, user_id=row.user_id, since=since)
    standing = qualification.standing(project=row.project, membership=row, now=now)
    return {
        "slug": row.project.slug,
        "name": row.project.name,
        "question": row.project.question,
        "kind": row.project.feedback.kind.value,
        **_progress(progress(project=row.project, membership=row, now=now)),
        "paused": row.project.paused_at is not None,
        "guideline_number": standing.guideline_number,
        "next": standing.step,
        "today_votes": own.votes,
        "today_active_ms": own.active_ms,
        "median_ms": own.median_ms,
        "unread_feedback": own.unread_feedback,
        "feedback_at": own.told_at,
    }


class AnnotateGuidelineView(AnnotatorProjectView):
    """What annotators are told."""

    @extend_schema(operation_id="annotate_guideline", responses=GuidelineSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """The current guideline version."""
        guideline = self.project.guidelines.order_by("-number").first()
        if guideline is None:
            raise Http404
        return Response(GuidelineSerializer(guideline).data)


class QueueView(AnnotatorProjectView):
    """The next comparisons."""

    @extend_schema(operation_id="annotate_queue", request=QueueAskSerializer, responses=QueueSerializer)
    def post(self, request: Request, slug: str) -> Response:
        """Lease up to `n` comparisons for this tab: those it holds already first, then new ones."""
        data = QueueAskSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        project, member, now = self.project, self.membership, timezone.now()
        closed = qualification.why_not(project, member)
        leased = assignments.lease(
            project=project,
            annotator=user_of(request),
            tab=data.validated_data["tab"],
            wanted=data.validated_data["n"],
            now=now,
            rng=random.SystemRandom(),
            membership=member,
            only_held=bool(closed),
        )
        nothing = None if leased else why_nothing(project=project, membership=member, closed=closed, now=now)
        body = {
            "items": render_tasks(project, leased),
            "done": nothing,
            **_progress(progress(project=project, membership=member, now=now)),
            "lease_minutes": project.lease_minutes,
        }
        return Response(QueueSerializer(body).data)


class HeartbeatView(AnnotatorProjectView):
    """Keeping leases alive."""

    @extend_schema(operation_id="annotate_heartbeat", request=TabSerializer, responses=RenewedSerializer)
    def post(self, request: Request, slug: str) -> Response:
        """Renew this tab's leases that nobody has taken."""
        data = TabSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        renewed = assignments.renew(
            project=self.project, annotator=user_of(request), tab=data.validated_data["tab"], now=timezone.now()
        )
        return Response({"renewed": renewed})


class ReleaseView(AnnotatorProjectView):
    """Giving leases back unseen."""

    @extend_schema(operation_id="annotate_release", request=ReleaseSerializer, responses=ReleasedSerializer)
    def post(self, request: Request, slug: str) -> Response:
        """Give leases of this tab back, so that others get them at once."""
        data = ReleaseSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        released = assignments.release(
            project=self.project,
            annotator=user_of(request),
            tab=data.validated_data["tab"],
            public_ids=data.validated_data["assignments"],
            now=timezone.now(),
        )
        return Response({"released": released})


class _OwnAssignmentView(NoStore, APIView):
    """Views of one of the caller's own assignments; anybody else's is not found."""

    def own(self, request: Request, public_id: UUID) -> Assignment:
        require_scope(request, TokenScope.WRITE)
        rows = Assignment.objects.select_related("project").filter(
            public_id=public_id,
            annotator=user_of(request),
            project__memberships__user=user_of(request),
            project__memberships__left_at=None,
        )
        if isinstance(request.auth, Token) and request.auth.project_id is not None:
            rows = rows.filter(project_id=request.auth.project_id)
        found = rows.first()
        if found is None:
            raise Http404
        return found


class VoteView(_OwnAssignmentView):
    """A vote."""

    @extend_schema(
        operation_id="annotate_vote",
        request=VoteSerializer,
        responses={201: ReceiptSerializer, 200: ReceiptSerializer},
        parameters=[
            OpenApiParameter("Idempotency-Key", UUID, OpenApiParameter.HEADER, required=True, description="Made once.")
        ],
    )
    def post(self, request: Request, public_id: UUID) -> Response:
        """Store a vote; answered after it is committed. The same key again answers with the first vote (200)."""
        assignment = self.own(request, public_id)
        data = VoteSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        now = timezone.now()
        receipt = record_vote(
            assignment=assignment,
            annotator=user_of(request),
            key=_idempotency_key(request),
            answer=Answer(**data.validated_data),
            now=now,
        )
        # After a replay too: whoever stored the vote may have died before this.
        quality.after_vote(receipt.vote, now=now)
        if receipt.counted and not receipt.replayed:
            wake_settling(assignment.comparison_id)
        member = Membership.objects.get(project=assignment.project, user=user_of(request))
        body = {
            "vote": receipt.vote.public_id,
            "key": receipt.vote.key,
            "counted": receipt.counted,
            **_progress(progress(project=assignment.project, membership=member, now=now)),
        }
        code = status.HTTP_200_OK if receipt.replayed else status.HTTP_201_CREATED
        return Response(ReceiptSerializer(body).data, status=code)


def _idempotency_key(request: Request) -> UUID:
    value = request.headers.get("Idempotency-Key", "")
    try:
        return UUID(value)
    except ValueError:
        raise ValidationError({"Idempotency-Key": [f"this header must be a UUID, got {value!r}"]}) from None


class SkipView(_OwnAssignmentView):
    """No vote, with a reason."""

    @extend_schema(operation_id="annotate_skip", request=SkipSerializer, responses={204: None})
    def post(self, request: Request, public_id: UUID) -> Response:
        """End the assignment without a vote."""
        assignment = self.own(request, public_id)
        data = SkipSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        note = data.validated_data.get("note", "")
        reason = data.validated_data["reason"] + (f": {note}" if note else "")
        assignments.skip(assignment=assignment, reason=reason, now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)


class FlagView(_OwnAssignmentView):
    """A warning about a comparison."""

    @extend_schema(operation_id="annotate_flag", request=FlagSerializer, responses={204: None})
    def post(self, request: Request, public_id: UUID) -> Response:
        """Flag the comparison; without a vote this ends the assignment."""
        assignment = self.own(request, public_id)
        data = FlagSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        assignments.flag(
            assignment=assignment,
            kind=FlagKind(data.validated_data["kind"]),
            note=data.validated_data.get("note", ""),
            now=timezone.now(),
        )
        return Response(status=status.HTTP_204_NO_CONTENT)


class CompletionView(_OwnAssignmentView):
    """A better completion by the annotator."""

    @extend_schema(operation_id="annotate_completion", request=OwnCompletionSerializer, responses={204: None})
    def post(self, request: Request, public_id: UUID) -> Response:
        """Write a completion for the prompt of a task; the same text again changes nothing."""
        assignment = self.own(request, public_id)
        data = OwnCompletionSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        write_completion(
            assignment=assignment, annotator=user_of(request), text=data.validated_data["text"], now=timezone.now()
        )
        return Response(status=status.HTTP_204_NO_CONTENT)


class OwnVotesView(AnnotatorProjectView):
    """What the caller has said."""

    @extend_schema(operation_id="annotate_votes", responses=OwnVoteListSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """The caller's last fifty votes, as the screen showed them, and whether each can still be taken back."""
        items = [
            {
                "vote": item.vote.public_id,
                "prompt": _first_line(item.vote.comparison.prompt.messages),
                "answer": shown(item.vote.choice, item.vote.body, sides=_sides_of(item.vote)),
                "created_at": item.vote.created_at,
                "can_retract": item.can_retract,
            }
            for item in own_votes(project_id=self.project.pk, annotator=user_of(request))
        ]
        return Response(OwnVoteListSerializer({"items": items, "next": None}).data)


def _sides_of(vote: Vote) -> str:
    assert vote.assignment is not None
    return vote.assignment.sides


def _first_line(messages: Sequence[dict[str, str]]) -> str:
    lines = messages[-1]["content"].strip().splitlines()
    return lines[0][:MOST_LINE] if lines else ""


class RetractView(NoStore, APIView):
    """Undo."""

    @extend_schema(operation_id="annotate_retract", request=None, responses=RetractedSerializer)
    def post(self, request: Request, public_id: UUID) -> Response:
        """Take a vote back and get its comparison again, unless a snapshot holds it."""
        require_scope(request, TokenScope.WRITE)
        vote = (
            Vote.objects.select_related("assignment__project", "project")
            .filter(
                public_id=public_id,
                annotator=user_of(request),
                project__memberships__user=user_of(request),
                project__memberships__left_at=None,
            )
            .first()
        )
        if vote is None or (isinstance(request.auth, Token) and request.auth.project_id not in {None, vote.project_id}):
            raise Http404
        assignment = retract(vote=vote, by=user_of(request), now=timezone.now())
        (task,) = render_tasks(vote.project, [assignment])
        return Response(RetractedSerializer({"task": task}).data)
