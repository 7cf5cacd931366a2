"""Prompts that people write by chatting with a model: at each turn two fresh completions are compared.

Knows no model: `training.chat` samples the turns that wait, and calls `answer` with what came.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from annotation.meetings import Meeting


def answer(*, turn: UUID, origin: UUID, met: Meeting, now: datetime) -> int:
    """Make a comparison of the two completions that answer a turn."""
    raise NotImplementedError
