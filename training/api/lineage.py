"""From a person's votes to snapshots and models, and back."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import Http404
from django.urls import URLPattern, path
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from annotation.api.access import ProjectView
from annotation.models import Membership
from training import lineage, registry


class LineageJobSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    number = serializers.IntegerField()
    method = serializers.CharField()
    title = serializers.CharField()
    status = serializers.CharField()


class LineageModelSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    name = serializers.CharField()
    kind = serializers.CharField()


class LineageSnapshotSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    number = serializers.IntegerField()
    name = serializers.CharField()
    created_at = serializers.DateTimeField()


class UsedSerializer(serializers.Serializer[Any]):
    snapshot = LineageSnapshotSerializer()
    comparisons = serializers.IntegerField(help_text="In it, with a vote of this person that counted.")


class ReachSerializer(serializers.Serializer[Any]):
    snapshots = UsedSerializer(many=True)
    jobs = LineageJobSerializer(many=True)
    runs = serializers.IntegerField()
    models = LineageModelSerializer(many=True)


class OriginSerializer(serializers.Serializer[Any]):
    jobs = LineageJobSerializer(many=True)
    models = LineageModelSerializer(many=True)
    snapshots = LineageSnapshotSerializer(many=True)
    comparisons = serializers.IntegerField()
    people = serializers.IntegerField()


class MemberLineageView(ProjectView):
    """Forward from a person."""

    @extend_schema(operation_id="members_lineage", responses=ReachSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Snapshots that used this person's votes, and the jobs and models that came of them."""
        member = Membership.objects.filter(project=self.project, user__public_id=public_id).first()
        if member is None:
            raise Http404
        return Response(ReachSerializer(lineage.reach(self.project, member.user)).data)


class ModelLineageView(ProjectView):
    """Back from a model."""

    @extend_schema(operation_id="models_lineage", responses=OriginSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Jobs, models and snapshots behind a model, and how many comparisons and people are behind those."""
        model = next((row for row in registry.visible(self.project) if row.public_id == public_id), None)
        if model is None:
            raise Http404
        return Response(OriginSerializer(lineage.origin(model)).data)


_PROJECT = "projects/<slug:slug>"
urlpatterns: list[URLPattern] = [
    path(f"{_PROJECT}/members/<uuid:public_id>/lineage", MemberLineageView.as_view()),
    path(f"{_PROJECT}/models/<uuid:public_id>/lineage", ModelLineageView.as_view()),
]
