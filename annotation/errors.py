"""Expected failures of the domain. `winnow.errors` alone turns a kind into an HTTP status."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any


class Kind(Enum):
    """What the caller can do about a failure."""

    INVALID = "invalid"
    CONFLICT = "conflict"
    NOT_ALLOWED = "not_allowed"
    TOO_LARGE = "too_large"
    TOO_MANY = "too_many"


class DomainError(Exception):
    """An expected failure: `code` is part of the API and never reworded; the message is for a person to act on.

    Subclasses set `code` and `kind`; `details` maps fields to messages or carries data.
    """

    code = "invalid"
    kind = Kind.INVALID

    def __init__(self, message: str, *, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details: dict[str, Any] = dict(details or {})


class Invalid(DomainError):
    """A value that cannot be used; `details` names the fields."""
