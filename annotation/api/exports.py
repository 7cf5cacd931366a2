"""Exports: prompts, completions, comparisons, votes, consensus and preferences as streams."""

from __future__ import annotations

from typing import Any

from django.http import StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from annotation.api.access import ProjectView
from annotation.api.parsing import query_text
from annotation.exporting import Dataset, Filters, Format, Layout, columns, count, encode, rows
from annotation.models import ConsensusState
from annotation.preferences import LabelPolicy


class DatasetSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    rows = serializers.IntegerField(allow_null=True)
    columns = serializers.ListField(child=serializers.CharField())


class DatasetListSerializer(serializers.Serializer[Any]):
    items = DatasetSerializer(many=True)


class ExportsView(ProjectView):
    """What can be exported."""

    @extend_schema(operation_id="exports_list", responses=DatasetListSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """The data sets with their columns and how many rows they have."""
        items = [
            {"name": item.value, "rows": count(self.project, item), "columns": list(columns(item))} for item in Dataset
        ]
        return Response(DatasetListSerializer({"items": items}).data)


class ExportView(ProjectView):
    """One data set as a file."""

    @extend_schema(
        operation_id="exports_download",
        responses={(200, item.content_type): OpenApiTypes.STR for item in Format},
        parameters=[
            OpenApiParameter("dataset", str, OpenApiParameter.PATH, enum=[item.value for item in Dataset]),
            # Not `format`, which DRF takes for the form of its own answers.
            OpenApiParameter("as", str, enum=[item.value for item in Format], description="Default jsonl."),
            OpenApiParameter("layout", str, enum=[item.value for item in Layout], description="Of preferences."),
            OpenApiParameter("min_votes", int, description="Of preferences."),
            OpenApiParameter("tie_rule", str, enum=["half", "drop"], description="Of preferences."),
            OpenApiParameter("state", str, enum=ConsensusState.values),
            OpenApiParameter("since", OpenApiTypes.DATETIME, description="Rows that came then or later."),
            OpenApiParameter("source", str, description="Name of a source."),
            OpenApiParameter("language", str),
            OpenApiParameter("annotator", str, description="A pseudonym."),
        ],
    )
    def get(self, request: Request, slug: str, dataset: str) -> HttpResponseBase:
        """The rows as a stream. What comes out goes in again by an import of the same kind."""
        wanted = _enum(Dataset, "dataset", dataset)
        file_format = _enum(Format, "as", request.query_params.get("as", "jsonl"))
        layout = _enum(Layout, "layout", request.query_params.get("layout", "trl"))
        filters = Filters(
            state=query_text(request, "state"),
            since=_since(request),
            source=query_text(request, "source"),
            language=query_text(request, "language"),
            annotator=query_text(request, "annotator"),
        )
        now = timezone.now()
        found = rows(self.project, wanted, filters=filters, layout=layout, policy=_policy(request), now=now)
        body = encode(found, columns(wanted, layout=layout), file_format)
        response = StreamingHttpResponse(body, content_type=file_format.content_type)
        name = f"{self.project.slug}-{wanted.value}.{file_format.value}"
        response["Content-Disposition"] = f'attachment; filename="{name}"'
        response["X-Content-Type-Options"] = "nosniff"
        return response


def _enum(kind: Any, name: str, value: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        choices = ", ".join(item.value for item in kind)
        raise ValidationError({name: [f"must be one of {choices}, got {value!r}"]}) from None


def _since(request: Request) -> Any:
    value = query_text(request, "since")
    return serializers.DateTimeField().run_validation(value) if value else None


class _PolicySerializer(serializers.Serializer[Any]):
    min_votes = serializers.IntegerField(min_value=1, max_value=99, required=False)
    tie_rule = serializers.ChoiceField(choices=["half", "drop"], required=False)


def _policy(request: Request) -> LabelPolicy:
    given = {name: request.query_params[name] for name in ("min_votes", "tie_rule") if name in request.query_params}
    data = _PolicySerializer(data=given)
    data.is_valid(raise_exception=True)
    return LabelPolicy(**data.validated_data)


urlpatterns: list[URLPattern] = [
    path("projects/<slug:slug>/exports", ExportsView.as_view()),
    path("projects/<slug:slug>/exports/<str:dataset>", ExportView.as_view()),
]
