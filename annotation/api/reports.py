"""What every report has in common: its schema, and the answer as a page's JSON, as a file of JSON, or as CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from django.http import StreamingHttpResponse
from django.http.response import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from annotation.api.parsing import query_choice
from annotation.api.projects import EstimateSerializer
from annotation.exporting import csv_pieces
from annotation.models import Project
from annotation.statistics.estimates import Caution, FloatArray

Method = TypeVar("Method", bound=Callable[..., Any])
Table = Callable[[Any], Iterable[Mapping[str, Any]]]  # the rows of a CSV from a report's body
FILES = ("json", "csv")


class StatisticSerializer(EstimateSerializer):
    """A number with its interval, or the reason why there is none."""

    se = serializers.FloatField(allow_null=True)
    level = serializers.FloatField()
    warnings = serializers.ListField(child=serializers.ChoiceField(choices=[item.value for item in Caution]))


class NumbersField(serializers.ListField):
    """A matrix of numbers, null where there is none."""

    child = serializers.ListField(child=serializers.FloatField(allow_null=True))


def numbers(matrix: FloatArray) -> list[list[float | None]]:
    """A matrix as JSON holds it."""
    shown = matrix.astype(object)
    shown[np.isnan(matrix)] = None
    rows: list[list[float | None]] = shown.tolist()
    return rows


def report_schema(name: str, shape: Any, *parameters: Any, tables: Iterable[str] = ()) -> Callable[[Method], Method]:
    """The schema of a report that is also a download.

    Args:
        parameters: of the query, or a serializer of them.
        tables: what the CSV may hold where one table does not hold all; the first is the default.
    """
    named = [OpenApiParameter("table", str, enum=list(tables), description="Of the CSV.")] if tables else []
    decorate: Callable[[Method], Method] = extend_schema(
        operation_id=f"statistics_{name}",
        responses={(200, "application/json"): shape, (200, "text/csv"): OpenApiTypes.STR},
        parameters=[
            *parameters,
            OpenApiParameter("as", str, enum=list(FILES), description="As a file, with the definition in it."),
            *named,
        ],
    )
    return decorate


def wanted_file(request: Request) -> str:
    """json, csv, or empty for the page; to be asked first, so that a wrong word costs no computing."""
    return query_choice(request, "as", FILES, default="")


def wanted_table(request: Request, report: str, tables: Mapping[str, Table]) -> tuple[str, Table]:
    """Name of the file, and the rows of the table that the CSV shall hold: the first one where none is named."""
    first = next(iter(tables))
    name = query_choice(request, "table", list(tables), default=first)
    return report if name == first else f"{report}-{name}", tables[name]


def answer(
    project: Project,
    body: Mapping[str, Any],
    *,
    name: str,
    file: str,
    table: Table,
) -> HttpResponseBase:
    """A report as it was asked for.

    Args:
        body: what the serializer made; its `definition` heads the CSV as a comment.
        name: of the file. table: the rows of the CSV from the body, flat or with figures in them.
    """
    if not file:
        return Response(body)
    filename = f"{project.slug}-{name}.{file}"
    headers = {"Content-Disposition": f'attachment; filename="{filename}"', "X-Content-Type-Options": "nosniff"}
    if file == "json":
        return Response(body, headers=headers)
    rows = [flat(row) for row in table(body)]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    pieces = csv_pieces(({name: row.get(name) for name in columns} for row in rows), columns)
    comment = f"# {body['definition']}\r\n".encode()
    return StreamingHttpResponse(
        (piece for part in ([comment], pieces) for piece in part), content_type="text/csv", headers=headers
    )


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its figures as columns: agreement, agreement_se, agreement_low, agreement_high, agreement_reason."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping) and "value" in value:
            found[name] = value["value"]
            found |= {f"{name}_{part}": value[part] for part in ("se", "low", "high", "reason")}
        elif isinstance(value, Mapping):
            found |= {f"{name}_{part}": inner for part, inner in flat(value).items()}
        elif isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(x, str) for x in value):
            found[name] = " ".join(value)
        else:
            found[name] = value
    return found
