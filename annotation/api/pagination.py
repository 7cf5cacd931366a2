"""One envelope for every list: `{items, next}`, by cursor, newest first."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from django.db.models import Model, QuerySet
from drf_spectacular.utils import OpenApiParameter
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

M = TypeVar("M", bound=Model)
MOST = 200
CURSOR_PARAMETERS = [
    OpenApiParameter("cursor", str, description="From `next` of the page before."),
    OpenApiParameter("limit", int, description=f"1 to {MOST}, default 50."),
]


def page(request: Request, rows: QuerySet[M], render: Callable[[Sequence[M]], list[Any]]) -> Response:
    """A page of rows ordered by primary key, newest first."""
    limit = whole_number(request, "limit", default=50, low=1, high=MOST)
    cursor = request.query_params.get("cursor")
    if cursor:
        try:
            rows = rows.filter(pk__lt=int(urlsafe_b64decode(cursor.encode()).decode()))
        except ValueError:
            raise ValidationError({"cursor": [f"not a cursor: {cursor!r}"]}) from None
    found = list(rows.order_by("-pk")[: limit + 1])
    more = len(found) > limit
    found = found[:limit]
    return Response(
        {
            "items": render(found),
            "next": urlsafe_b64encode(str(found[-1].pk).encode()).decode() if more else None,
        }
    )


def whole_number(request: Request, name: str, *, default: int, low: int, high: int) -> int:
    """A query parameter as a whole number in a range; 400 with its name and value otherwise."""
    value = request.query_params.get(name)
    if value is None:
        return default
    if not value.isdecimal() or len(value) > 18 or not low <= int(value) <= high:
        raise ValidationError({name: [f"must be a whole number from {low} to {high}, got {value!r}"]})
    return int(value)
