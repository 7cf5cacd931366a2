"""The guideline as one person knows it: what has changed since they confirmed it, and that they confirm it anew."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.db.models import Exists, OuterRef

from annotation.errors import DomainError, Kind
from annotation.gate import write
from annotation.models import GuidelineReading, GuidelineVersion, Project, User


class NotCurrent(DomainError):
    """The guideline version is not the current one."""

    code = "not_current"
    kind = Kind.CONFLICT


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line of the guideline: `same`, `added` since the version that the person confirmed, or `removed`."""

    change: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GuidelineChange:
    """The current version and what is new in it for one person; no lines where they have confirmed none, or this."""

    number: int
    text: str
    confirmed_number: int | None
    lines: tuple[Line, ...]


def guideline_change(*, project: Project, user: User) -> GuidelineChange | None:
    """The current guideline beside the version that this person confirmed last; None where the project has none."""
    current = GuidelineVersion.objects.filter(project=project).order_by("-number").first()
    if current is None:
        return None
    read = GuidelineVersion.objects.filter(project=project, readings__user=user).order_by("-number").first()
    lines: tuple[Line, ...] = ()
    if read is not None and read.number != current.number:
        lines = tuple(difference(read.text.splitlines(), current.text.splitlines()))
    return GuidelineChange(
        number=current.number,
        text=current.text,
        confirmed_number=None if read is None else read.number,
        lines=lines,
    )


def difference(before: Sequence[str], after: Sequence[str]) -> Iterator[Line]:
    """The lines of both texts in order: those that stayed, went and came."""
    for kind, start, end, new_start, new_end in difflib.SequenceMatcher(None, before, after, False).get_opcodes():
        if kind == "equal":
            yield from (Line(change="same", text=text) for text in before[start:end])
            continue
        yield from (Line(change="removed", text=text) for text in before[start:end])
        yield from (Line(change="added", text=text) for text in after[new_start:new_end])


def confirm_guideline(*, project: Project, user: User, number: int, now: datetime) -> None:
    """Write down that a person has read the current guideline. A second call changes nothing.

    Raises:
        NotCurrent: another version has come; `details` has its number.
    """
    with write(), transaction.atomic():
        current = GuidelineVersion.objects.filter(project=project).order_by("-number").first()
        if current is None or current.number != number:
            newest = None if current is None else current.number
            raise NotCurrent(
                f"The guideline is at version {newest}, not {number}. Read that one.", details={"number": newest}
            )
        GuidelineReading.objects.get_or_create(guideline=current, user=user, defaults={"created_at": now})


def has_confirmed(project: Project, user_id: int) -> bool:
    """Whether a person has confirmed the newest version, or there is none; one query."""
    read = GuidelineReading.objects.filter(guideline_id=OuterRef("pk"), user_id=user_id)
    newest = GuidelineVersion.objects.filter(project=project).order_by("-number").annotate(is_read=Exists(read))
    return newest.values_list("is_read", flat=True).first() is not False
