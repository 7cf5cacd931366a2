"""The audit log: who did what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from django.urls import URLPattern, path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from annotation.api.access import ManagerView
from annotation.api.pagination import CURSOR_PARAMETERS, page
from annotation.api.parsing import query_text
from annotation.models import AuditAction, AuditEvent


class AuditPersonSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    name = serializers.CharField(source="__str__")


class AuditEventSerializer(serializers.Serializer[Any]):
    id = serializers.IntegerField(source="pk")
    by = AuditPersonSerializer(allow_null=True, help_text="Null: Winnow itself, or a command of the operator.")
    action = serializers.ChoiceField(choices=AuditAction.choices)
    target = serializers.CharField()
    details = serializers.JSONField()
    created_at = serializers.DateTimeField()


class AuditListSerializer(serializers.Serializer[Any]):
    items = AuditEventSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class AuditView(ManagerView):
    """What was done in the project, by whom. Events are never changed."""

    @extend_schema(
        operation_id="audit_list",
        responses=AuditListSerializer,
        parameters=[
            OpenApiParameter("by", OpenApiTypes.UUID, description="Of this person only."),
            OpenApiParameter("action", str, description="`member.removed`, or `member` for all of its kind."),
            OpenApiParameter("target", str),
            OpenApiParameter("since", OpenApiTypes.DATETIME),
            OpenApiParameter("until", OpenApiTypes.DATETIME, description="Before this time."),
            *CURSOR_PARAMETERS,
        ],
    )
    def get(self, request: Request, slug: str) -> Response:
        """Events, newest first."""
        rows = AuditEvent.objects.filter(project=self.project).select_related("by")
        if by := query_text(request, "by"):
            rows = rows.filter(by__public_id=_read(serializers.UUIDField(), "by", by))
        if action := query_text(request, "action"):
            rows = rows.filter(action=action) if "." in action else rows.filter(action__startswith=f"{action}.")
        if target := query_text(request, "target"):
            rows = rows.filter(target=target)
        if since := query_text(request, "since"):
            rows = rows.filter(created_at__gte=_read(serializers.DateTimeField(), "since", since))
        if until := query_text(request, "until"):
            rows = rows.filter(created_at__lt=_read(serializers.DateTimeField(), "until", until))
        return page(request, rows, _render)


def _read(field: serializers.Field[Any, Any, Any, Any], name: str, value: str) -> Any:
    try:
        return field.run_validation(value)
    except ValidationError as error:
        raise ValidationError({name: error.detail}) from None


def _render(rows: Sequence[AuditEvent]) -> list[Any]:
    return cast(list[Any], AuditEventSerializer(rows, many=True).data)


urlpatterns: list[URLPattern] = [path("projects/<slug:slug>/audit", AuditView.as_view())]
