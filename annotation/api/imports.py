"""Imports: files in, their progress, their refused rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

from django.http import Http404, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import UnsupportedMediaType, ValidationError
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response

from annotation import strict_json, tasks
from annotation.api.access import ProjectView, user_of
from annotation.api.pagination import CURSOR_PARAMETERS, page
from annotation.api.parsing import BodyTooLarge, query_text
from annotation.importing import batches
from annotation.importing.batches import INLINE_BYTES, Incoming
from annotation.importing.reading import MOST_BYTES, FileFormat, check_columns
from annotation.importing.rows import ImportKind, PromptRow, Row, VoteRow
from annotation.models import ImportBatch, ImportState, Prompt

_CHUNK = 1 << 16
_TYPES = {
    FileFormat.JSONL: "application/x-ndjson",
    FileFormat.CSV: "text/csv",
    FileFormat.PARQUET: "application/vnd.apache.parquet",
    FileFormat.JSON: "application/json",
}
_ARRAYS = {ImportKind.LABEL_STUDIO, ImportKind.ARGILLA}


class RowErrorSerializer(serializers.Serializer[Any]):
    line = serializers.IntegerField()
    field = serializers.CharField()
    value = serializers.CharField()
    message = serializers.CharField()


class ImportBatchSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    kind = serializers.CharField()
    format = serializers.CharField()
    name = serializers.CharField()
    state = serializers.ChoiceField(choices=ImportState.choices)
    reason = serializers.CharField()
    size_bytes = serializers.IntegerField()
    rows = serializers.IntegerField()
    rows_done = serializers.IntegerField()
    rate = serializers.SerializerMethodField(help_text="Rows a second of the reading that goes on, or was the last.")
    imported = serializers.IntegerField()
    duplicates = serializers.IntegerField()
    skipped = serializers.IntegerField()
    errors = RowErrorSerializer(many=True)  # type: ignore[assignment]
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)

    def get_rate(self, batch: ImportBatch) -> float | None:
        if batch.started_at is None:
            return None
        seconds = ((batch.ended_at or timezone.now()) - batch.started_at).total_seconds()
        return round(batch.rows_done / seconds, 1) if seconds > 0 else None


class ImportListSerializer(serializers.Serializer[Any]):
    items = ImportBatchSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class PreviewVoteSerializer(serializers.Serializer[Any]):
    annotator = serializers.CharField()
    choice = serializers.CharField()
    answer = serializers.DictField()


class PreviewComparisonSerializer(serializers.Serializer[Any]):
    completions = serializers.ListField(child=serializers.CharField())
    votes = PreviewVoteSerializer(many=True)


class PreviewCompletionSerializer(serializers.Serializer[Any]):
    text = serializers.CharField()
    source = serializers.CharField()  # type: ignore[assignment]  # DRF's metaclass keeps fields apart from attributes
    sampling = serializers.DictField()


class PreviewRowSerializer(serializers.Serializer[Any]):
    line = serializers.IntegerField()
    messages = serializers.ListField(child=serializers.DictField(), allow_null=True)
    category = serializers.CharField()
    language = serializers.CharField()
    completions = PreviewCompletionSerializer(many=True)
    comparisons = PreviewComparisonSerializer(many=True)
    votes = PreviewVoteSerializer(many=True)


class DryRunSerializer(serializers.Serializer[Any]):
    rows = serializers.IntegerField()
    duplicates = serializers.IntegerField()
    refused = serializers.IntegerField()
    errors = RowErrorSerializer(many=True)  # type: ignore[assignment]
    examples = PreviewRowSerializer(many=True)


class _Unread(BaseParser):
    """Leaves the body where it is: the view streams it to the disk."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        return stream


class _LinesParser(_Unread):
    media_type = _TYPES[FileFormat.JSONL]


class _CSVParser(_Unread):
    media_type = _TYPES[FileFormat.CSV]


class _ParquetParser(_Unread):
    media_type = _TYPES[FileFormat.PARQUET]


class _ArrayParser(_Unread):
    media_type = _TYPES[FileFormat.JSON]


class ImportsView(ProjectView):
    """Imports of files."""

    parser_classes = (_LinesParser, _CSVParser, _ParquetParser, _ArrayParser)

    @extend_schema(operation_id="imports_list", responses=ImportListSerializer, parameters=CURSOR_PARAMETERS)
    def get(self, request: Request, slug: str) -> Response:
        """Imports, newest first."""
        rows = ImportBatch.objects.filter(project=self.project)
        return page(request, rows, lambda found: list(ImportBatchSerializer(found, many=True).data))

    @extend_schema(
        operation_id="imports_create",
        request=dict.fromkeys(_TYPES.values(), OpenApiTypes.STR),
        responses={200: DryRunSerializer, 201: ImportBatchSerializer, 202: ImportBatchSerializer},
        parameters=[
            OpenApiParameter("kind", str, enum=[kind.value for kind in ImportKind], required=True),
            OpenApiParameter("on_error", str, enum=["refuse", "skip"], description="Default refuse."),
            OpenApiParameter("columns", str, description='Our field by the file\'s, in JSON: {"prompt": "question"}.'),
            OpenApiParameter("dry_run", bool, description="Only say what would come in; of the first 5 MB."),
            OpenApiParameter("name", str, description="What to call it, such as the file's name."),
        ],
    )
    def post(self, request: Request, slug: str) -> Response:
        """Import a file: at once (201) up to 5 MB, as a task (202) beyond. With a bad row nothing is imported, unless
        `on_error=skip`."""
        is_dry = _flag(request, "dry_run")
        most = INLINE_BYTES if is_dry else MOST_BYTES
        with batches.workplace() as directory:
            incoming = self._incoming(request, directory / "body")
            size = _save(request, incoming.path, most=most)
            now = timezone.now()
            if is_dry:
                found = batches.dry_run(project=self.project, incoming=incoming, now=now)
                return Response(DryRunSerializer(_render_dry_run(found, self._known(found))).data)
            if size > INLINE_BYTES:
                batch = batches.queue_import(project=self.project, incoming=incoming, by=user_of(request), now=now)
                tasks.wake_imports()
                return Response(ImportBatchSerializer(batch).data, status=status.HTTP_202_ACCEPTED)
            batch = batches.import_file(project=self.project, incoming=incoming, by=user_of(request), now=now)
        return Response(ImportBatchSerializer(batch).data, status=status.HTTP_201_CREATED)

    def _incoming(self, request: Request, place: Path) -> Incoming:
        kind = request.query_params.get("kind", "")
        on_error = request.query_params.get("on_error", "refuse")
        if kind not in {item.value for item in ImportKind}:
            choices = ", ".join(item.value for item in ImportKind)
            raise ValidationError({"kind": [f"must be one of {choices}, got {kind!r}"]})
        if on_error not in {"refuse", "skip"}:
            raise ValidationError({"on_error": [f"must be refuse or skip, got {on_error!r}"]})
        media_type = (request.content_type or "").partition(";")[0].strip().lower()
        file_format = next((item for item, name in _TYPES.items() if name == media_type), None)
        if file_format is None or (file_format is FileFormat.JSON and ImportKind(kind) not in _ARRAYS):
            raise UnsupportedMediaType(media_type)
        columns = query_text(request, "columns") or "{}"
        try:
            mapped = check_columns(strict_json.loads(columns))
        except strict_json.BadJSON as error:
            raise ValidationError({"columns": [str(error)]}) from None
        return Incoming(
            kind=ImportKind(kind), path=place, file_format=file_format, columns=mapped,
            name=query_text(request, "name"), skip_bad_rows=on_error == "skip",
        )  # fmt: skip

    def _known(self, found: batches.DryRun) -> dict[str, Prompt]:
        """Prompts that the examples name by their id."""
        ids = {row.prompt for row in found.examples if isinstance(row.prompt, str)}
        rows = Prompt.objects.filter(project=self.project, external_id__in=ids) if ids else []
        return {row.external_id: row for row in rows}


def _flag(request: Request, name: str) -> bool:
    value = request.query_params.get(name, "false")
    if value not in {"true", "false"}:
        raise ValidationError({name: [f"must be true or false, got {value!r}"]})
    return value == "true"


def _save(request: Request, place: Path, *, most: int) -> int:
    """Stream the body to a file; its size."""
    if int(request.META.get("CONTENT_LENGTH") or 0) > most:
        raise BodyTooLarge(f"The body has {request.META['CONTENT_LENGTH']} bytes; at most {most} are taken here.")
    size = 0
    body = request.data
    with place.open("wb") as handle:
        while hasattr(body, "read") and (chunk := body.read(_CHUNK)):  # without a body DRF gives an empty dict
            size += len(chunk)
            if size > most:
                raise BodyTooLarge(f"The body has more than {most} bytes, which is the most that is taken here.")
            handle.write(chunk)
    return size


def _render_dry_run(found: batches.DryRun, known: dict[str, Prompt]) -> dict[str, Any]:
    return {
        "rows": found.rows,
        "duplicates": found.duplicates,
        "refused": found.refused,
        "errors": [error.as_dict() for error in found.errors],
        "examples": [_render_row(row, known) for row in found.examples],
    }


def _render_row(row: Row, known: dict[str, Prompt]) -> dict[str, Any]:
    prompt = known.get(row.prompt) if isinstance(row.prompt, str) else row.prompt
    is_new = isinstance(prompt, PromptRow)
    return {
        "line": row.line,
        "messages": None if prompt is None else prompt.messages,
        "category": prompt.category if is_new else "",  # type: ignore[union-attr]
        "language": prompt.language if is_new else "",  # type: ignore[union-attr]
        "completions": [
            {"text": item.text, "source": item.source, "sampling": item.sampling} for item in row.completions
        ],
        "comparisons": [
            {
                "completions": [row.completions[x].text if isinstance(x, int) else x for x in item.completions],
                "votes": [_render_vote(vote) for vote in item.votes],
            }
            for item in row.comparisons
        ],
        "votes": [_render_vote(vote) for vote in row.votes],
    }


def _render_vote(vote: VoteRow) -> dict[str, Any]:
    return {"annotator": vote.annotator, "choice": vote.choice, "answer": vote.body}


class ImportView(ProjectView):
    """One import."""

    @extend_schema(operation_id="imports_show", responses=ImportBatchSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Its state, how far it is, and the first refused rows."""
        return Response(ImportBatchSerializer(_batch(self, public_id)).data)


class ImportErrorsView(ProjectView):
    """The refused rows of an import."""

    @extend_schema(operation_id="imports_errors", responses={(200, "application/x-ndjson"): OpenApiTypes.STR})
    def get(self, request: Request, slug: str, public_id: UUID) -> HttpResponseBase:
        """All of them by line, field and value, as JSON Lines."""
        batch = _batch(self, public_id)
        response = StreamingHttpResponse(_report(batch), content_type=_TYPES[FileFormat.JSONL])
        response["Content-Disposition"] = f'attachment; filename="import-{batch.public_id}-refused.jsonl"'
        response["X-Content-Type-Options"] = "nosniff"
        return response


def _report(batch: ImportBatch) -> Iterator[bytes]:
    report = batches.report_path(batch)
    if not report.is_file():
        yield from (json.dumps(error, ensure_ascii=False).encode() + b"\n" for error in batch.errors)
        return
    with report.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            yield chunk


def _batch(view: ProjectView, public_id: UUID) -> ImportBatch:
    batch = ImportBatch.objects.filter(project=view.project, public_id=public_id).first()
    if batch is None:
        raise Http404
    return batch


urlpatterns: list[URLPattern] = [
    path("projects/<slug:slug>/imports", ImportsView.as_view()),
    path("projects/<slug:slug>/imports/<uuid:public_id>", ImportView.as_view()),
    path("projects/<slug:slug>/imports/<uuid:public_id>/errors", ImportErrorsView.as_view()),
]
