"""Request bodies: JSON by the strict reader, and JSON Lines as a stream."""

from __future__ import annotations

from typing import Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser, JSONParser

from annotation import strict_json


class StrictJSONParser(JSONParser):
    """JSON without NaN, Infinity, NUL, lone surrogates or bottomless nesting; refusals name the path."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        try:
            return strict_json.loads(stream.read())
        except strict_json.BadJSON as error:
            raise ParseError(str(error)) from None


class JSONLinesParser(BaseParser):
    """Leaves a JSON Lines body as bytes: the importer reads it line by line."""

    media_type = "application/x-ndjson"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> bytes:
        data: bytes = stream.read()
        return data
