"""Rows into a table without model instances: of an import of prompts, building and unpacking those is half the time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any
from uuid import UUID

from django.db import connection, models


def insert(model: type[models.Model], names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Insert values by the names of their fields, which must be all that have no default in the database.

    Values are checked already: this goes around every validation, and sets no default of the model.
    """
    fields = [model._meta.get_field(name) for name in names]
    convert = [_converter(field) for field in fields]
    quote = connection.ops.quote_name
    columns = ", ".join(quote(str(field.column)) for field in fields if isinstance(field, models.Field))
    places = ", ".join(["%s"] * len(fields))
    values = [tuple(change(value) for change, value in zip(convert, row, strict=True)) for row in rows]
    if values:
        with connection.cursor() as cursor:
            cursor.executemany(f"INSERT INTO {quote(model._meta.db_table)} ({columns}) VALUES ({places})", values)  # noqa: S608


def _converter(field: Any) -> Callable[[Any], Any]:
    """How the database takes a value of the field."""
    if isinstance(field, models.JSONField):
        return json.dumps
    if isinstance(field, models.UUIDField):
        return _as_is if connection.features.has_native_uuid_field else _hex
    if isinstance(field, models.DateTimeField):
        return cache(lambda value: field.get_db_prep_save(value, connection))  # an import has one time for all
    return _as_is


def _as_is(value: Any) -> Any:
    return value


def _hex(value: UUID) -> str:
    return value.hex
