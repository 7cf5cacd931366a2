"""From votes, people, prompts and snapshots to jobs, runs and models, and from a model back: one request each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from django.http import Http404, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from annotation.api.access import ProjectView
from annotation.models import Membership, Prompt, Vote
from training import lineage, registry
from training.models import ModelVersion, Snapshot


class LineageJobSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    number = serializers.IntegerField()
    method = serializers.CharField()
    title = serializers.CharField()
    status = serializers.CharField()


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


class SnapshotReachSerializer(serializers.Serializer[Any]):
    """What came of a snapshot, and what brought its comparisons."""

    sources = BroughtSerializer(many=True)
    snapshots = UsedSerializer(source="reach.snapshots", many=True)
    jobs = LineageJobSerializer(source="reach.jobs", many=True)
    runs = LineageRunSerializer(source="reach.runs", many=True)
    models = LineageModelSerializer(source="reach.models", many=True)
    links = LineageLinkSerializer(source="reach.links", many=True)


class VoteReachSerializer(serializers.Serializer[Any]):
    vote = serializers.UUIDField(source="vote.public_id")
    comparison = serializers.UUIDField(source="vote.comparison.public_id")
    created_at = serializers.DateTimeField(source="vote.created_at")
    annotator = serializers.CharField(source="pseudonym", help_text="A pseudonym.")
    counts = serializers.BooleanField(help_text="False for a surplus vote, one taken back, gold, and practice.")
    snapshots = UsedSerializer(source="reach.snapshots", many=True)
    jobs = LineageJobSerializer(source="reach.jobs", many=True)
    runs = LineageRunSerializer(source="reach.runs", many=True)
    models = LineageModelSerializer(source="reach.models", many=True)


class PromptReachSerializer(serializers.Serializer[Any]):
    prompt = serializers.UUIDField(source="prompt.public_id")
    completions = serializers.IntegerField()
    comparisons = serializers.IntegerField()
    frozen = serializers.IntegerField(help_text="Comparisons in a snapshot, whose files keep the texts.")
    votes = serializers.IntegerField()
    rounds = LineageRoundSerializer(many=True)
    snapshots = UsedSerializer(source="reach.snapshots", many=True)
    jobs = LineageJobSerializer(source="reach.jobs", many=True)
    runs = LineageRunSerializer(source="reach.runs", many=True)
    models = LineageModelSerializer(source="reach.models", many=True)


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


class VoteLineageView(ProjectView):
    """Forward from a vote."""

    @extend_schema(operation_id="votes_lineage", responses=VoteReachSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Every snapshot that used this vote, and every job, run and model that was trained on it."""
        rows = Vote.objects.filter(project=self.project, public_id=public_id).select_related("project", "comparison")
        vote = rows.first()
        if vote is None:
            raise Http404
        return Response(VoteReachSerializer(lineage.of_vote(vote)).data)


class MemberLineageView(ProjectView):
    """Forward from a person."""

    @extend_schema(operation_id="members_lineage", responses=ReachSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Snapshots that used this person's votes, and jobs, runs and models of them: read it before excluding."""
        member = Membership.objects.filter(project=self.project, user__public_id=public_id).select_related("user")
        found = member.first()
        if found is None:
            raise Http404
        return Response(ReachSerializer(lineage.of_person(self.project, found.user)).data)


class PromptLineageView(ProjectView):
    """Forward from a prompt."""

    @extend_schema(operation_id="prompts_lineage", responses=PromptReachSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """What hangs on this prompt, and every snapshot, job, run and model touched: read it before taking it away."""
        rows = Prompt.objects.filter(project=self.project, public_id=public_id).select_related("project")
        prompt = rows.first()
        if prompt is None:
            raise Http404
        return Response(PromptReachSerializer(lineage.of_prompt(prompt)).data)


class SnapshotLineageView(ProjectView):
    """Forward from a snapshot."""

    @extend_schema(operation_id="snapshots_lineage", responses=SnapshotReachSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Jobs, runs and models that were trained on this snapshot, and on what came of it."""
        rows = Snapshot.objects.filter(project=self.project, public_id=public_id).select_related("project")
        snapshot = rows.first()
        if snapshot is None:
            raise Http404
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
    path(f"{_PROJECT}/snapshots/<uuid:public_id>/lineage", SnapshotLineageView.as_view()),
    path(f"{_PROJECT}/models/<uuid:public_id>/lineage", ModelLineageView.as_view()),
    path(f"{_PROJECT}/models/<uuid:public_id>/votes", ModelVotesView.as_view()),
]
