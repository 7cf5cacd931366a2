"""From votes, people, prompts and snapshots to jobs, runs and models, and from a model back: one request each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeVar
from uuid import UUID

from django.db.models import Model, QuerySet
from django.http import Http404, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from annotation.api.access import OwnerView, ProjectView, user_of
from annotation.api.task import MessageSerializer
from annotation.models import Membership, Prompt, Vote
from training import erasure, lineage, registry
from training.models import JobStatus, ModelVersion, Snapshot
from training.tasks import wake_erasures

Row = TypeVar("Row", bound=Model)


class LineageJobSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    number = serializers.IntegerField()
    method = serializers.CharField()
    title = serializers.CharField()
    status = serializers.ChoiceField(choices=JobStatus.choices)


class LineageRunSerializer(serializers.Serializer[Any]):
    job = serializers.UUIDField(source="job.public_id")
    attempt = serializers.IntegerField()
    started_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)
    exit_code = serializers.IntegerField(allow_null=True)
    last_step = serializers.IntegerField(allow_null=True)


class LineageModelSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    name = serializers.CharField()
    kind = serializers.CharField()
    is_current = serializers.BooleanField()
    archived_at = serializers.DateTimeField(allow_null=True)


class LineageSnapshotSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    number = serializers.IntegerField()
    name = serializers.CharField()
    created_at = serializers.DateTimeField()


class LineageRoundSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    number = serializers.IntegerField()
    name = serializers.CharField()


class UsedSerializer(serializers.Serializer[Any]):
    snapshot = LineageSnapshotSerializer()
    comparisons = serializers.IntegerField(help_text="In it, of those asked about: with a vote that counted.")


class LineageLinkSerializer(serializers.Serializer[Any]):
    """That one row came of another."""

    start = serializers.UUIDField()
    end = serializers.UUIDField()


class BroughtSerializer(serializers.Serializer[Any]):
    """How many comparisons came from where."""

    kind = serializers.ChoiceField(choices=[kind.value for kind in lineage.SourceOfComparisons])
    id = serializers.UUIDField(allow_null=True, help_text="Null for all pairings together.")
    name = serializers.CharField()
    comparisons = serializers.IntegerField()


class ReachSerializer(serializers.Serializer[Any]):
    """What came of some votes. Jobs that only read a model (sampling, scores, evaluations) are left out."""

    snapshots = UsedSerializer(many=True)
    jobs = LineageJobSerializer(many=True)
    runs = LineageRunSerializer(many=True)
    models = LineageModelSerializer(many=True)
    links = LineageLinkSerializer(many=True, help_text="Between snapshots, jobs and models.")


class OwnReachSerializer(serializers.Serializer[Any]):
    """The reach of what has facts of its own beside it."""

    snapshots = UsedSerializer(source="reach.snapshots", many=True)
    jobs = LineageJobSerializer(source="reach.jobs", many=True)
    runs = LineageRunSerializer(source="reach.runs", many=True)
    models = LineageModelSerializer(source="reach.models", many=True)
    links = LineageLinkSerializer(source="reach.links", many=True)


class SnapshotReachSerializer(OwnReachSerializer):
    """What came of a snapshot, and what brought its comparisons."""

    sources = BroughtSerializer(many=True)


class VoteReachSerializer(OwnReachSerializer):
    vote = serializers.UUIDField(source="vote.public_id")
    comparison = serializers.UUIDField(source="vote.comparison.public_id")
    created_at = serializers.DateTimeField(source="vote.created_at")
    annotator = serializers.CharField(source="pseudonym", help_text="A pseudonym.")
    counts = serializers.BooleanField(help_text="False for a surplus vote, one taken back, gold, and practice.")


class SnapshotTombstoneSerializer(serializers.Serializer[Any]):
    snapshot = LineageSnapshotSerializer()
    lines = serializers.IntegerField(help_text="That were erased of it.")


class ErasureSerializer(serializers.Serializer[Any]):
    """The tombstone of a prompt."""

    reason = serializers.CharField()
    by = serializers.CharField(source="by.name")
    created_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True, help_text="Null while files may still hold its texts.")
    snapshots = SnapshotTombstoneSerializer(source="snapshots.all", many=True)


class PromptReachSerializer(OwnReachSerializer):
    prompt = serializers.UUIDField(source="prompt.public_id")
    messages = MessageSerializer(source="prompt.messages", many=True)
    later = serializers.IntegerField(
        help_text="Prompts of later turns of its chats: they repeat it, are erased with it, and are counted here too."
    )
    erasure = ErasureSerializer(allow_null=True)
    completions = serializers.IntegerField()
    comparisons = serializers.IntegerField()
    frozen = serializers.IntegerField(help_text="Comparisons in a snapshot.")
    votes = serializers.IntegerField()
    rounds = LineageRoundSerializer(many=True)


class PromptEraseSerializer(serializers.Serializer[Any]):
    confirm = serializers.CharField(max_length=60, help_text="The project's short name, typed.")
    reason = serializers.CharField(max_length=300)


class ShareSerializer(serializers.Serializer[Any]):
    snapshot = LineageSnapshotSerializer()
    comparisons = serializers.IntegerField()
    votes = serializers.IntegerField()
    people = serializers.IntegerField()
    sources = BroughtSerializer(many=True, help_text="What brought its comparisons, most first.")


class LineagePersonSerializer(serializers.Serializer[Any]):
    pseudonym = serializers.CharField(allow_null=True)
    votes = serializers.IntegerField()


class OriginSerializer(serializers.Serializer[Any]):
    jobs = LineageJobSerializer(many=True)
    runs = LineageRunSerializer(many=True)
    models = LineageModelSerializer(many=True)
    snapshots = LineageSnapshotSerializer(many=True)
    shares = ShareSerializer(many=True, help_text="What each snapshot brought.")
    comparisons = serializers.IntegerField()
    votes = serializers.IntegerField()
    people = serializers.IntegerField()
    annotators = LineagePersonSerializer(many=True, help_text="By pseudonym, most votes first.")
    links = LineageLinkSerializer(many=True, help_text="Between snapshots, jobs and models.")


def _of_project(view: ProjectView, rows: QuerySet[Row], **fields: object) -> Row:
    """A row of the view's project, else 404."""
    found = rows.filter(project=view.project, **fields).select_related("project").first()
    if found is None:
        raise Http404
    return found


class VoteLineageView(ProjectView):
    """Forward from a vote."""

    @extend_schema(operation_id="votes_lineage", responses=VoteReachSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Every snapshot that used this vote, and every job, run and model that was trained on it."""
        vote = _of_project(self, Vote.objects.select_related("comparison"), public_id=public_id)
        return Response(VoteReachSerializer(lineage.of_vote(vote)).data)


class MemberLineageView(ProjectView):
    """Forward from a person."""

    @extend_schema(operation_id="members_lineage", responses=ReachSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Snapshots that used this person's votes, and jobs, runs and models of them: read it before excluding."""
        member = _of_project(self, Membership.objects.select_related("user"), user__public_id=public_id)
        return Response(ReachSerializer(lineage.of_person(self.project, member.user)).data)


class PromptLineageView(ProjectView):
    """Forward from a prompt."""

    @extend_schema(operation_id="prompts_lineage", responses=PromptReachSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """What hangs on this prompt, and every snapshot, job, run and model touched: read it before erasing."""
        prompt = _of_project(self, Prompt.objects.all(), public_id=public_id)
        return Response(PromptReachSerializer(lineage.of_prompt(prompt)).data)


class PromptEraseView(OwnerView):
    """Erasing for privacy."""

    @extend_schema(operation_id="prompts_erase", request=PromptEraseSerializer, responses=PromptReachSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Erase the texts of this prompt, of its completions, and what people wrote about them, for good.

        A tombstone stays, votes and lineage too. Snapshots lose its lines, files of runs its samples, once a worker has
        been through them (`erasure.finished_at`). Models that were trained on it, their checkpoints and backups stay:
        the answer names them.
        """
        prompt = _of_project(self, Prompt.objects.all(), public_id=public_id)
        data = PromptEraseSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        erasure.erase(prompt=prompt, **data.validated_data, by=user_of(request), now=timezone.now())
        wake_erasures()
        prompt.refresh_from_db(fields=["messages"])  # not the texts that are gone
        return Response(PromptReachSerializer(lineage.of_prompt(prompt)).data)


class SnapshotLineageView(ProjectView):
    """Forward from a snapshot."""

    @extend_schema(operation_id="snapshots_lineage", responses=SnapshotReachSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Jobs, runs and models that were trained on this snapshot, and on what came of it."""
        snapshot = _of_project(self, Snapshot.objects.all(), public_id=public_id)
        return Response(SnapshotReachSerializer(lineage.of_snapshot(snapshot)).data)


class ModelLineageView(ProjectView):
    """Back from a model."""

    @extend_schema(operation_id="models_lineage", responses=OriginSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Jobs, runs, models and snapshots behind a model, and how many comparisons, votes and people behind those."""
        return Response(OriginSerializer(lineage.origin(_model(self, public_id))).data)


class ModelVotesView(ProjectView):
    """The votes behind a model."""

    @extend_schema(operation_id="models_votes", responses={(200, "application/x-ndjson"): OpenApiTypes.STR})
    def get(self, request: Request, slug: str, public_id: UUID) -> HttpResponseBase:
        """Every vote that the model was trained on, a JSON object a line: vote, comparison, annotator, snapshots."""
        model = _model(self, public_id)
        response = StreamingHttpResponse(_lines(lineage.votes_behind(model)), content_type="application/x-ndjson")
        response["Content-Disposition"] = f'attachment; filename="votes-{model.public_id}.jsonl"'
        response["X-Content-Type-Options"] = "nosniff"
        return response


def _lines(votes: Iterator[lineage.UsedVote]) -> Iterator[str]:
    for item in votes:
        line = {
            "vote": str(item.vote),
            "comparison": str(item.comparison),
            "annotator": item.pseudonym,
            "created_at": item.created_at.isoformat(),
            "snapshots": item.snapshots,
        }
        yield json.dumps(line, ensure_ascii=False) + "\n"


def _model(view: ProjectView, public_id: UUID) -> ModelVersion:
    model = registry.known(view.project).filter(public_id=public_id).first()
    if model is None:
        raise Http404
    return model


_PROJECT = "projects/<slug:slug>"
urlpatterns: list[URLPattern] = [
    path(f"{_PROJECT}/votes/<uuid:public_id>/lineage", VoteLineageView.as_view()),
    path(f"{_PROJECT}/members/<uuid:public_id>/lineage", MemberLineageView.as_view()),
    path(f"{_PROJECT}/prompts/<uuid:public_id>/lineage", PromptLineageView.as_view()),
    path(f"{_PROJECT}/prompts/<uuid:public_id>/erase", PromptEraseView.as_view()),
    path(f"{_PROJECT}/snapshots/<uuid:public_id>/lineage", SnapshotLineageView.as_view()),
    path(f"{_PROJECT}/models/<uuid:public_id>/lineage", ModelLineageView.as_view()),
    path(f"{_PROJECT}/models/<uuid:public_id>/votes", ModelVotesView.as_view()),
]
