"""JSON as it comes from outside: refuses what Python's reader lets through and a database or a browser cannot hold.

NaN, Infinity, numbers that overflow, NUL characters, lone surrogates and nesting deeper than `MOST_DEPTH` are refused
with the path of the value. Imports and the API read with the same function.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

MOST_DEPTH = 64
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")


class BadJSON(ValueError):
    """The text is not JSON that we take; `path` names the place, such as `votes[2].choice`."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message


def loads(text: str | bytes) -> Any:
    """Parse and check.

    Raises:
        BadJSON: naming the place.
    """
    found = _quickly(text)
    if found is not None:
        return found
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise BadJSON(f"not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise BadJSON(f"not JSON: {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise BadJSON(f"nested deeper than {MOST_DEPTH}") from None
    except ValueError as error:  # an integer with too many digits
        raise BadJSON(f"not JSON: {error}") from None
    _check(value, "", 0)
    return value


class _LookCloser(Exception):
    """The quick way cannot tell; the slow one names the place."""


def _look_closer(_: str) -> Any:
    raise _LookCloser


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _LookCloser
    return value


_QUICK = json.JSONDecoder(parse_constant=_look_closer, parse_float=_finite)


def _quickly(text: str | bytes) -> Any:
    """The value where a look at the text shows that nothing in it can be refused, else None.

    Without \\u no text holds a NUL or half a pair (the reader refuses them raw), and with few brackets nothing is deep.
    A file of a million rows is read several times faster for it.
    """
    try:
        read = text if isinstance(text, str) else text.decode()
        if "\\u" in read or read.count("[") + read.count("{") > MOST_DEPTH:
            return None
        if read is text and _LONE_SURROGATE.search(read):
            return None
        return _QUICK.decode(read)
    except (ValueError, RecursionError, _LookCloser):
        return None


def _refuse_constant(name: str) -> Any:
    raise BadJSON(f"{name} is not a JSON number")


def _check(value: Any, path: str, depth: int) -> None:
    if depth > MOST_DEPTH:
        raise BadJSON(f"nested deeper than {MOST_DEPTH}", path=path[:80])
    if isinstance(value, str):
        if "\x00" in value:
            raise BadJSON("contains a NUL character", path=path)
        if _LONE_SURROGATE.search(value):
            raise BadJSON("contains half of a surrogate pair", path=path)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise BadJSON("the number is too large", path=path)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _check(item, f"{path}[{i}]", depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check(key, path, depth + 1)
            _check(item, f"{path}.{key}" if path else key, depth + 1)
