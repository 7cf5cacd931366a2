"""Secrets out of text that people will read: log lines, and the last words of a failed run."""

from __future__ import annotations

import re

_SECRET = re.compile(
    r"(wnw_[A-Za-z0-9_-]{6})[A-Za-z0-9_-]+|((?:password|secret|token|key)=)\S+|(://[^:/@\s]+:)[^@\s]+@", re.I
)


def redact(text: str) -> str:
    """The text with API tokens, `password=…` values and passwords inside URLs replaced by `***`."""
    return _SECRET.sub(lambda match: f"{match[1] or match[2] or match[3]}***{'@' if match[3] else ''}", text)
