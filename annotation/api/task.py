"""What a task looks like to an annotator: the form, the texts from left to right, and the answer they gave before.

Every field is listed by hand. No source, score, vote of others, consensus, gold mark or stored order is among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rest_framework import serializers

from annotation.feedback import LETTERS, SIDES, FeedbackKind, Rationale, shown
from annotation.models import Assignment, ComparisonCompletion, Project, Vote


class MessageSerializer(serializers.Serializer[Any]):
    role = serializers.ChoiceField(choices=["system", "user", "assistant"])
    content = serializers.CharField()


class CriterionSerializer(serializers.Serializer[Any]):
    key = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]  # DRF's metaclass keeps fields apart from attributes
    description = serializers.CharField(allow_blank=True)
    anchors = serializers.ListField(child=serializers.CharField())


class ReasonChipSerializer(serializers.Serializer[Any]):
    key = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]


class FormSerializer(serializers.Serializer[Any]):
    """A feedback form as the screen needs it; `annotation.feedback.Form` says what each setting means."""

    kind = serializers.ChoiceField(choices=[kind.value for kind in FeedbackKind])
    size = serializers.IntegerField()
    allow_tie = serializers.BooleanField()
    allow_both_bad = serializers.BooleanField()
    points = serializers.IntegerField()
    criteria = CriterionSerializer(many=True)
    rationale = serializers.ChoiceField(choices=[item.value for item in Rationale])
    reasons = ReasonChipSerializer(many=True)
    reasons_required = serializers.BooleanField()
    read_first = serializers.BooleanField()
    read_points = serializers.IntegerField()


class AnswerSerializer(serializers.Serializer[Any]):
    """An answer as the screen has it: sides left and right, letters A, B, … from left to right."""

    choice = serializers.ChoiceField(choices=SIDES, required=False, allow_null=True)
    scale = serializers.IntegerField(required=False, allow_null=True)
    ranking = serializers.ListField(
        child=serializers.ListField(child=serializers.CharField(max_length=1), max_length=9),
        required=False, allow_null=True, max_length=9,
    )  # fmt: skip
    ratings = serializers.DictField(
        child=serializers.DictField(child=serializers.IntegerField(allow_null=True)), required=False, allow_null=True
    )
    criteria = serializers.DictField(child=serializers.JSONField(), required=False)
    reasons = serializers.ListField(child=serializers.CharField(max_length=40), required=False, max_length=20)
    rationale = serializers.CharField(max_length=4000, required=False, allow_blank=True)
    first_ratings = serializers.DictField(child=serializers.IntegerField(), required=False)


class TaskSerializer(serializers.Serializer[Any]):
    assignment = serializers.UUIDField()
    prompt = MessageSerializer(many=True)
    completions = serializers.ListField(child=serializers.CharField(allow_blank=True), help_text="From left to right.")
    question = serializers.CharField()
    form = FormSerializer()
    min_reading_seconds = serializers.IntegerField(help_text="Attention before the page takes an answer.")
    read_to_end = serializers.BooleanField(help_text="Whether it first asks for the end of every text to be seen.")
    lease_expires_at = serializers.DateTimeField()
    answer = AnswerSerializer(allow_null=True, help_text="What the person said before they took it back.")


def render_tasks(project: Project, leased: Sequence[Assignment]) -> list[dict[str, Any]]:
    """Tasks in the order of the assignments, as the annotator may see them; three queries."""
    by_id = {
        row.pk: row
        for row in Assignment.objects.filter(pk__in=[item.pk for item in leased]).select_related(
            "comparison__prompt", "project"
        )
    }
    texts: dict[int, dict[str, str]] = {}
    places = ComparisonCompletion.objects.filter(comparison_id__in=[row.comparison_id for row in by_id.values()])
    for comparison_id, position, text in places.values_list("comparison_id", "position", "completion__text"):
        texts.setdefault(comparison_id, {})[LETTERS[position]] = text
    former = {
        vote.assignment_id: vote
        for vote in Vote.objects.filter(assignment_id__in=by_id, retractions__isnull=False).order_by("pk")
    }
    tasks = []
    for item in leased:
        row = by_id[item.pk]
        earlier = former.get(row.pk)
        tasks.append(
            {
                "assignment": row.public_id,
                "prompt": row.comparison.prompt.messages,
                "completions": [texts[row.comparison_id][letter] for letter in row.sides],
                "question": project.question,
                "form": row.form().as_dict(),
                "min_reading_seconds": project.min_reading_seconds,
                "read_to_end": project.read_to_end,
                "lease_expires_at": item.lease_expires_at,
                "answer": None if earlier is None else shown(earlier.choice, earlier.body, sides=row.sides),
            }
        )
    return tasks
