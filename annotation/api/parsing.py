"""Request bodies: JSON by the strict reader."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from rest_framework import serializers
from rest_framework.exceptions import ParseError, ValidationError
from rest_framework.parsers import BaseParser
from rest_framework.request import Request

from annotation import strict_json
from annotation.errors import DomainError, Kind


class BodyTooLarge(DomainError):
    """The body of a request is larger than its kind may be."""

    code = "too_large"
    kind = Kind.TOO_LARGE


class StrictJSONParser(BaseParser):
    """JSON without NaN, Infinity, NUL, lone surrogates or bottomless nesting; refusals name the path.

    Not DRF's own parser's child: that one reads the body where a large one ends as Django's page for a bad request.
    """

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        _check_size(parser_context, most=settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
        try:
            return strict_json.loads(stream.read())
        except strict_json.BadJSON as error:
            raise ParseError(str(error)) from None


def _check_size(parser_context: Any, *, most: int) -> None:
    size = int(parser_context["request"].META.get("CONTENT_LENGTH") or 0)
    if size > most:
        raise BodyTooLarge(f"The body has {size} bytes; at most {most} are taken.")


class FiniteFloatField(serializers.FloatField):
    """A number; the texts "nan" and "inf", which Python would read, are none."""

    def to_internal_value(self, data: Any) -> float:
        value: float = super().to_internal_value(data)
        if not math.isfinite(value):
            self.fail("invalid")
        return value


def query_text(request: Request, name: str) -> str:
    """A query parameter as text, empty without it; PostgreSQL holds no NUL, so that is refused by name."""
    value: str = request.query_params.get(name, "")
    if "\x00" in value:
        raise ValidationError({name: ["must not contain a NUL character"]})
    return value


def query_choice(request: Request, name: str, choices: Sequence[str], *, default: str) -> str:
    """A query parameter as one of these words; 400 with its name and value otherwise."""
    value = query_text(request, name)
    if value and value not in choices:
        raise ValidationError({name: [f"must be one of {', '.join(choices)}, got {value!r}"]})
    return value or default


def query_choices(request: Request, name: str, choices: Sequence[str]) -> list[str]:
    """A query parameter as some of these words, with commas between them; 400 with its name and value otherwise."""
    given = [word for word in query_text(request, name).split(",") if word]
    for word in given:
        if word not in choices:
            raise ValidationError({name: [f"must be some of {', '.join(choices)}, got {word!r}"]})
    return list(dict.fromkeys(given))


def query_fraction(request: Request, name: str) -> float | None:
    """A query parameter as a number from 0 to 1, None without it; 400 with its name and value otherwise."""
    value = query_text(request, name)
    if not value:
        return None
    try:
        number: float = FiniteFloatField(min_value=0, max_value=1).run_validation(value)
    except ValidationError:
        raise ValidationError({name: [f"must be a number from 0 to 1, got {value!r}"]}) from None
    return number
