"""The annotator's onboarding: guideline, practice, qualification, and feedback on one's own work.

Every serializer lists its fields by hand. A right answer leaves here only for practice that is answered, and for hidden
gold that a person has answered and will not get again.
"""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID

from django.http import Http404
from django.urls import URLPattern, path
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from annotation import guideline, qualification, quality
from annotation.api.access import AnnotatorProjectView, user_of
from annotation.api.annotate import TabSerializer
from annotation.api.task import AnswerSerializer, MessageSerializer, TaskSerializer, render_tasks
from annotation.feedback import LETTERS
from annotation.models import Assignment, FeedbackGiven, Objection, Purpose, Vote
from annotation.qualification import Step

MOST_FEEDBACK = 20  # the newest that are listed


class LineSerializer(serializers.Serializer[Any]):
    change = serializers.ChoiceField(choices=["same", "added", "removed"])
    text = serializers.CharField(allow_blank=True)


class GuidelineChangeSerializer(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    text = serializers.CharField(allow_blank=True)
    confirmed_number = serializers.IntegerField(allow_null=True)
    lines = LineSerializer(many=True, help_text="Against the version that you confirmed; empty where there is none.")


class ConfirmSerializer(serializers.Serializer[Any]):
    number = serializers.IntegerField(min_value=1)


class AttemptSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    number = serializers.IntegerField()
    items = serializers.IntegerField()
    right = serializers.IntegerField(allow_null=True, help_text="Null until all are answered.")
    passed = serializers.BooleanField(allow_null=True)
    started_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)


class StandingSerializer(serializers.Serializer[Any]):
    next = serializers.ChoiceField(choices=[step.value for step in Step], source="step")
    guideline_number = serializers.IntegerField(allow_null=True)
    confirmed_number = serializers.IntegerField(allow_null=True)
    practice_items = serializers.IntegerField()
    practice_done = serializers.IntegerField()
    qualification_items = serializers.IntegerField()
    pass_mark = serializers.FloatField()
    attempt = AttemptSerializer(allow_null=True)
    answered = serializers.IntegerField(help_text="Of the open attempt.")
    attempts_left = serializers.IntegerField(allow_null=True)
    retry_at = serializers.DateTimeField(allow_null=True)
    pause_reason = serializers.CharField(allow_blank=True)


class PracticeSerializer(serializers.Serializer[Any]):
    task = TaskSerializer(allow_null=True, help_text="Null when there is no more practice.")


class RightAnswerSerializer(AnswerSerializer):
    worst = serializers.CharField(required=False, help_text="The letter that had to be last.")


class ExplanationSerializer(serializers.Serializer[Any]):
    is_right = serializers.BooleanField()
    yours = AnswerSerializer()
    right = RightAnswerSerializer()
    text = serializers.CharField(allow_blank=True)


class QualificationTaskSerializer(serializers.Serializer[Any]):
    attempt = AttemptSerializer()
    task = TaskSerializer(allow_null=True, help_text="Null when all are answered.")


class FigureSerializer(serializers.Serializer[Any]):
    value = serializers.FloatField(allow_null=True)
    low = serializers.FloatField(allow_null=True)
    high = serializers.FloatField(allow_null=True)
    n = serializers.IntegerField()
    reason = serializers.CharField(allow_null=True)


class ToldSerializer(ExplanationSerializer):
    vote = serializers.UUIDField()
    objection = serializers.CharField(allow_null=True, help_text="What the person wrote against the right answer.")
    prompt = MessageSerializer(many=True)
    completions = serializers.ListField(child=serializers.CharField(allow_blank=True), help_text="From left to right.")


class FeedbackSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    votes = serializers.IntegerField()
    gold = FigureSerializer()
    consistency = FigureSerializer()
    median_seconds = serializers.FloatField(allow_null=True)
    items = ToldSerializer(many=True)
    created_at = serializers.DateTimeField()
    read_at = serializers.DateTimeField(allow_null=True)


class ObjectionSerializer(serializers.Serializer[Any]):
    text = serializers.CharField(max_length=1000)


class FeedbackListSerializer(serializers.Serializer[Any]):
    items = FeedbackSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class OnboardingView(AnnotatorProjectView):
    """Where the caller stands."""

    @extend_schema(operation_id="annotate_onboarding", responses=StandingSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """What comes next: the guideline, practice, qualification, or work."""
        found = qualification.standing(project=self.project, membership=self.membership, now=timezone.now())
        return Response(StandingSerializer(found).data)


class GuidelineChangeView(AnnotatorProjectView):
    """What is new in the guideline."""

    @extend_schema(operation_id="annotate_guideline_changes", responses=GuidelineChangeSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """The current version beside the one that the caller confirmed last, line by line."""
        found = guideline.guideline_change(project=self.project, user=user_of(request))
        if found is None:
            raise Http404
        return Response(GuidelineChangeSerializer(found).data)


class ConfirmView(AnnotatorProjectView):
    """Having read the guideline."""

    @extend_schema(operation_id="annotate_guideline_confirm", request=ConfirmSerializer, responses={204: None})
    def post(self, request: Request, slug: str) -> Response:
        """Confirm the current version; 409 if another has come meanwhile."""
        data = ConfirmSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        guideline.confirm_guideline(
            project=self.project, user=user_of(request), number=data.validated_data["number"], now=timezone.now()
        )
        return Response(status=status.HTTP_204_NO_CONTENT)


class PracticeView(AnnotatorProjectView):
    """Practice."""

    @extend_schema(operation_id="annotate_practice", request=TabSerializer, responses=PracticeSerializer)
    def post(self, request: Request, slug: str) -> Response:
        """The practice task that the caller has begun, or the next one. Its vote goes where all votes go."""
        data = TabSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        task = qualification.next_practice(
            project=self.project, membership=self.membership, tab=data.validated_data["tab"], now=timezone.now(),
            rng=random.SystemRandom(),
        )  # fmt: skip
        return Response(PracticeSerializer({"task": self.render(task)}).data)

    def render(self, task: Assignment | None) -> Any:
        return None if task is None else render_tasks(self.project, [task])[0]


class ExplanationView(AnnotatorProjectView):
    """Why an answer was right."""

    @extend_schema(operation_id="annotate_explanation", responses=ExplanationSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """The right answer to a practice task, once it is answered; 404 for every other task."""
        task = Assignment.objects.filter(
            project=self.project, annotator=user_of(request), public_id=public_id, purpose=Purpose.PRACTICE
        ).first()
        if task is None:
            raise Http404
        return Response(ExplanationSerializer(qualification.explanation_of(task)).data)


class QualificationView(AnnotatorProjectView):
    """An attempt at the qualification."""

    @extend_schema(operation_id="annotate_qualification", request=None, responses={201: AttemptSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Begin an attempt, or go on with the open one; 409 says what comes first, or when to try again."""
        attempt = qualification.start_attempt(project=self.project, membership=self.membership, now=timezone.now())
        return Response(AttemptSerializer(attempt).data, status=status.HTTP_201_CREATED)


class QualificationTaskView(PracticeView):
    """The tasks of an attempt."""

    @extend_schema(
        operation_id="annotate_qualification_next", request=TabSerializer, responses=QualificationTaskSerializer
    )
    def post(self, request: Request, slug: str) -> Response:
        """The next task of the open attempt. The last vote closes it, and then this answers 409 `not_now`."""
        data = TabSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        attempt, task = qualification.next_item(
            project=self.project, membership=self.membership, tab=data.validated_data["tab"], now=timezone.now(),
            rng=random.SystemRandom(),
        )  # fmt: skip
        return Response(QualificationTaskSerializer({"attempt": attempt, "task": self.render(task)}).data)


class FeedbackListView(AnnotatorProjectView):
    """What the caller was told of their work."""

    @extend_schema(operation_id="annotate_feedback", responses=FeedbackListSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """The newest feedbacks, with the quality checks that each tells of."""
        rows = list(
            FeedbackGiven.objects.filter(project=self.project, annotator=user_of(request)).order_by("-pk")[
                :MOST_FEEDBACK
            ]
        )
        texts = _texts([item["vote"] for row in rows for item in row.body["items"]])
        items = [
            {
                **row.body,
                "id": row.public_id,
                "votes": row.votes,
                "created_at": row.created_at,
                "read_at": row.read_at,
                "items": [{**item, **texts[item["vote"]]} for item in row.body["items"] if item["vote"] in texts],
            }
            for row in rows
        ]
        return Response(FeedbackListSerializer({"items": items, "next": None}).data)


def _texts(public_ids: list[str]) -> dict[str, dict[str, Any]]:
    """Prompt and completions of votes as their screen had them, and what the person wrote against the answer."""
    votes = Vote.objects.filter(public_id__in=public_ids).select_related("assignment", "comparison__prompt")
    objections = dict(Objection.objects.filter(vote__in=votes).values_list("vote_id", "text"))
    found = {}
    for vote in votes.prefetch_related("comparison__places__completion"):
        assert vote.assignment is not None
        text = {LETTERS[place.position]: place.completion.text for place in vote.comparison.places.all()}
        found[str(vote.public_id)] = {
            "prompt": vote.comparison.prompt.messages,
            "completions": [text[letter] for letter in vote.assignment.sides],
            "objection": objections.get(vote.pk),
        }
    return found


class FeedbackReadView(AnnotatorProjectView):
    """Having read a feedback."""

    @extend_schema(operation_id="annotate_feedback_read", request=None, responses={204: None})
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Note that it was read."""
        given = FeedbackGiven.objects.filter(
            project=self.project, annotator=user_of(request), public_id=public_id
        ).first()
        if given is None:
            raise Http404
        quality.read_feedback(given=given, now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)


class ObjectionView(AnnotatorProjectView):
    """Disagreeing with a right answer."""

    @extend_schema(operation_id="annotate_objection", request=ObjectionSerializer, responses={204: None})
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Say why the answer that the caller was told is wrong; 404 for a vote whose answer they were not told."""
        data = ObjectionSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        vote = quality.told_vote(project=self.project, annotator=user_of(request), public_id=public_id)
        if vote is None:
            raise Http404
        quality.object_to(vote=vote, text=data.validated_data["text"], now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)


_PROJECT = "annotate/projects/<slug:slug>"

urlpatterns: list[URLPattern] = [
    path(f"{_PROJECT}/onboarding", OnboardingView.as_view()),
    path(f"{_PROJECT}/guideline/changes", GuidelineChangeView.as_view()),
    path(f"{_PROJECT}/guideline/confirm", ConfirmView.as_view()),
    path(f"{_PROJECT}/practice", PracticeView.as_view()),
    path(f"{_PROJECT}/practice/<uuid:public_id>/explanation", ExplanationView.as_view()),
    path(f"{_PROJECT}/qualification", QualificationView.as_view()),
    path(f"{_PROJECT}/qualification/next", QualificationTaskView.as_view()),
    path(f"{_PROJECT}/votes/<uuid:public_id>/objection", ObjectionView.as_view()),
    path(f"{_PROJECT}/feedback", FeedbackListView.as_view()),
    path(f"{_PROJECT}/feedback/<uuid:public_id>/read", FeedbackReadView.as_view()),
]
