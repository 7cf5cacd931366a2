"""Between the rows of a playground session and its engine: questions become files, and what is written becomes rows.

Runs in the worker, between two looks at the child. Every write is guarded by the job's lease, so an attempt that lost
it writes nothing more; the next attempt asks anew what is not answered, and with the same seed gets the same text. It
also ends a session that nobody asks: after five minutes, or as soon as another job waits for the worker.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from training import attempts, jobs
from training.engine.mailbox import END
from training.ingestion import LeaseLost
from training.jobs import Claim
from training.models import AnswerState, Job, PlaygroundAnswer, PlaygroundSession
from training.playground import OPEN, has_open_answers

LOOK_SECONDS = 0.25
STORE_SECONDS = 0.3  # between two writes of texts that grow
IDLE_SECONDS = 300.0
GIVE_WAY_SECONDS = 10.0  # without a question, when another job waits
_WAITED = timedelta(seconds=5)  # so long another job has found no worker
_LINES = 2000

log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class _Writing:
    """An answer that the engine works on, and how far its file is read."""

    pk: int
    file: Path
    cancel: Path
    with_score: bool
    offset: int = 0
    text: list[str] = field(default_factory=list)
    tokens: int = 0
    logprob: float = 0.0
    last: Mapping[str, Any] | None = None
    is_new: bool = False
    is_cancelled: bool = False


class Relay:
    """Of one attempt at a session's job."""

    def __init__(self, claim: Claim, job: Job, directory: Path) -> None:
        self._claim = claim
        self._job = job
        self._directory = directory
        self._session = PlaygroundSession.objects.get(job=job)
        self._writing: dict[int, _Writing] = {}
        self._over: set[int] = set()
        self._looked_at = self._stored_at = self._end_looked_at = 0.0
        self._busy_at = time.monotonic()

    def exchange(self, *, is_last: bool = False) -> None:
        """Pass on what is new, both ways. Call it often; `is_last` when the child has ended.

        Raises:
            LeaseLost: nothing more was stored.
        """
        now = time.monotonic()
        if not is_last and now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        if not is_last:
            self._ask()
        for item in self._writing.values():
            _read(item)
        has_ended = any(item.last is not None for item in self._writing.values())
        if is_last or has_ended or now - self._stored_at >= STORE_SECONDS:
            self._stored_at = now
            self._store()
        if self._writing:
            self._busy_at = now
        elif not is_last:
            self._end_if_idle(now)

    # --- out ----------------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        rows = PlaygroundAnswer.objects.filter(question__session=self._session, state__in=OPEN)
        asked = dict(rows.order_by("pk").values_list("pk", "question__stopped_at"))
        for item in self._writing.values():
            is_stopped = item.pk not in asked or asked[item.pk] is not None  # before its first token, or after it
            if is_stopped and not item.is_cancelled:
                item.cancel.touch()
                item.is_cancelled = True
        for pk in [pk for pk in self._writing if pk not in asked]:
            del self._writing[pk]
            self._over.add(pk)
        fresh = [pk for pk in asked if pk not in self._writing and pk not in self._over]
        for answer in rows.filter(pk__in=fresh).select_related("question", "model") if fresh else ():
            self._put(answer)

    def _put(self, answer: PlaygroundAnswer) -> None:
        """Written aside and renamed: the engine reads a file when it is seen."""
        name, place = str(answer.public_id), self._directory / str(answer.model.public_id)
        (place / "in").mkdir(parents=True, exist_ok=True)
        body = {"messages": answer.question.messages, "index": answer.index, **answer.question.sampling}
        aside = place / "in" / f".{name}.partial"
        aside.write_text(json.dumps(body, ensure_ascii=False), encoding="utf-8")
        aside.rename(place / "in" / f"{name}.json")
        self._writing[answer.pk] = _Writing(
            pk=answer.pk,
            file=place / "out" / f"{name}.jsonl",
            cancel=place / "in" / f"{name}.cancel",
            with_score=answer.question.reward_id is not None,
        )

    # --- back ---------------------------------------------------------------------------------------------------------

    def _store(self) -> None:
        changed = [item for item in self._writing.values() if item.is_new]
        if not changed:
            return
        with transaction.atomic():
            if not jobs.record_progress(self._claim):
                raise LeaseLost
            for item in changed:
                PlaygroundAnswer.objects.filter(pk=item.pk, state__in=OPEN).update(**_fields(item))
        for item in changed:
            item.is_new = False
            if item.last is not None:
                del self._writing[item.pk]
                self._over.add(item.pk)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _end_if_idle(self, now: float) -> None:
        """Close the session, so that nothing more is asked of it, and only then let the engine end."""
        if now < self._end_looked_at + 1.0 or (self._directory / END).exists():
            return
        self._end_looked_at = now
        idle = now - self._busy_at
        is_due = idle >= IDLE_SECONDS or (idle >= GIVE_WAY_SECONDS and self._others_wait())
        is_closed = PlaygroundSession.objects.filter(pk=self._session.pk, closed_at__isnull=False).exists()
        if not is_due and not is_closed:
            return
        with transaction.atomic():
            row = PlaygroundSession.objects.select_for_update().get(pk=self._session.pk)
            if has_open_answers(row):
                return
            PlaygroundSession.objects.filter(pk=row.pk, closed_at=None).update(closed_at=timezone.now())
        log.info("job %s: nobody asks the playground any more", self._job.pk)
        (self._directory / END).touch()

    def _others_wait(self) -> bool:
        waiting = jobs.claimable().filter(queue=self._job.queue).filter(~Q(pk=self._job.pk))
        return waiting.filter(created_at__lte=timezone.now() - _WAITED).exists()


def _read(item: _Writing) -> None:
    while item.last is None and (lines := attempts.read_lines(item.file, offset=item.offset, limit=_LINES)):
        item.offset = lines[-1].end
        item.is_new = True
        for record in (line.record for line in lines if line.record is not None):
            if "done" in record or "error" in record:
                item.last = record
                break
            item.text.append(str(record["text"]))
            item.tokens += 1
            item.logprob += float(record["logprob"])


def _fields(item: _Writing) -> dict[str, Any]:
    fields: dict[str, Any] = {"state": AnswerState.WRITING, "text": "".join(item.text), "tokens": item.tokens}
    last = item.last
    if last is None:
        return fields
    if "error" in last:
        return {**fields, "state": AnswerState.FAILED, "error": str(last["error"].get("message", ""))}
    match last["finish"]:
        case "end" | "length":
            score = last.get("score") if item.with_score else None
            done = {"state": AnswerState.DONE, "finish": last["finish"], "logprob": item.logprob, "score": score}
            return {**fields, **done}
        case "cancelled":
            return {**fields, "state": AnswerState.STOPPED}
        case _:  # the engine was told to stop: the job has ended, or its next attempt answers anew
            return fields
