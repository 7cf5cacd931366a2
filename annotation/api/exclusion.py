"""Letting a person's votes count no more, or again, with a look at the consequences first."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import Http404
from django.urls import URLPattern, path
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from annotation import exclusion
from annotation.api.access import ProjectView, user_of
from annotation.api.projects import AgreementSerializer
from annotation.models import Exclusion, Membership


class ExclusionFactSerializer(serializers.Serializer[Any]):
    lifted = serializers.BooleanField()
    reason = serializers.CharField()
    by = serializers.CharField(source="by.name")
    created_at = serializers.DateTimeField()


class ExclusionPreviewSerializer(serializers.Serializer[Any]):
    excluded_at = serializers.DateTimeField(allow_null=True)
    history = ExclusionFactSerializer(many=True)
    votes = serializers.IntegerField(help_text="Of this person, that count now.")
    comparisons = serializers.IntegerField()
    frozen = serializers.IntegerField(help_text="Comparisons in a snapshot, which keeps the votes.")
    reopened = serializers.IntegerField(help_text="Comparisons that would want another vote.")
    without_votes = serializers.IntegerField(help_text="Comparisons on which no other vote counts.")
    agreement = AgreementSerializer()
    agreement_without = AgreementSerializer()


class ExclusionReasonSerializer(serializers.Serializer[Any]):
    reason = serializers.CharField(max_length=300)


class ExcludedSerializer(serializers.Serializer[Any]):
    excluded_at = serializers.DateTimeField(allow_null=True)


class MemberExclusionView(ProjectView):
    """What excluding would do."""

    def found(self, public_id: UUID) -> Membership:
        """The member, also one who has left; else 404."""
        rows = Membership.objects.filter(project=self.project, user__public_id=public_id).select_related("user")
        row = rows.first()
        if row is None:
            raise Http404
        return row

    def reason(self, request: Request) -> str:
        """The reason in the body."""
        data = ExclusionReasonSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        return str(data.validated_data["reason"])

    @extend_schema(operation_id="members_exclusion", responses=ExclusionPreviewSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """What excluding this person would do to votes and agreement; `…/lineage` names snapshots and models."""
        member = self.found(public_id)
        found = exclusion.preview(self.project, member.user)
        facts = Exclusion.objects.filter(project=self.project, user=member.user).select_related("by").order_by("id")
        body = {
            "excluded_at": member.excluded_at,
            "history": facts,
            "votes": found.votes,
            "comparisons": found.comparisons,
            "frozen": found.frozen,
            "reopened": found.reopened,
            "without_votes": found.without_votes,
            "agreement": found.agreement,
            "agreement_without": found.agreement_without,
        }
        return Response(ExclusionPreviewSerializer(body).data)


class MemberExcludeView(MemberExclusionView):
    """Excluding."""

    http_method_names = ("post", "options")

    @extend_schema(operation_id="members_exclude", request=ExclusionReasonSerializer, responses=ExcludedSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Let this person's votes count no more; their slots of unfrozen comparisons open for others."""
        fact = exclusion.exclude(
            project=self.project,
            user=self.found(public_id).user,
            by=user_of(request),
            reason=self.reason(request),
            now=timezone.now(),
        )
        return Response(ExcludedSerializer({"excluded_at": fact.created_at}).data)


class MemberReadmitView(MemberExclusionView):
    """Readmitting."""

    http_method_names = ("post", "options")

    @extend_schema(operation_id="members_readmit", request=ExclusionReasonSerializer, responses=ExcludedSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Let this person's votes count again where a slot is still free; the others are surplus."""
        exclusion.readmit(
            project=self.project,
            user=self.found(public_id).user,
            by=user_of(request),
            reason=self.reason(request),
            now=timezone.now(),
        )
        return Response(ExcludedSerializer({"excluded_at": None}).data)


_ONE = "projects/<slug:slug>/members/<uuid:public_id>"
urlpatterns: list[URLPattern] = [
    path(f"{_ONE}/exclusion", MemberExclusionView.as_view()),
    path(f"{_ONE}/exclude", MemberExcludeView.as_view()),
    path(f"{_ONE}/readmit", MemberReadmitView.as_view()),
]
