"""What a prompt's erasure means for training: the lines of snapshots, the samples of runs, and whom to tell of models.

`annotation.erasure` takes the texts from the rows and leaves a tombstone; this goes after the files, which may take a
while: a worker does it, as often as it takes. They are found by what stays, the ids and the hash of the prompt. What
cannot be taken back is named: models that were trained on it, their checkpoints, exports and backups.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction

from annotation import erasure
from annotation.erasure import ERASED
from annotation.gate import write
from annotation.models import Comparison, Completion, Erasure, Prompt, User, messages_hash
from training import lineage
from training.engine.records import erase_lines
from training.models import Job, PlaygroundAnswer, PlaygroundQuestion, RunSample, Snapshot, SnapshotErasure
from training.snapshot_index import index_of
from training.snapshots import snapshot_path

_ID_LENGTH = 36
_IDS = ("id", "prompt_id", "policy", "index", "step")  # of a line in a run's files; all else in it may be text
_HASHED = {"checkpoints", "start", "model"}  # directories whose files are held by a manifest
_PAGE = 500

log = logging.getLogger(__name__)


def erase(*, prompt: Prompt, reason: str, confirm: str, by: User, now: datetime) -> None:
    """Erase the texts of a prompt; files follow (`run_due`).

    Raises:
        Invalid, AlreadyErased: as `annotation.erasure.erase`. SnapshotUnreadable: nobody can say what holds it.
    """
    lineage.of_prompt(prompt)  # before anything is done: it refuses where a snapshot cannot be read
    erasure.erase(prompt=prompt, reason=reason, confirm=confirm, by=by, now=now)


# --- files ------------------------------------------------------------------------------------------------------------


def is_due() -> bool:
    """Whether files may hold what was erased. One query."""
    return Erasure.objects.filter(finished_at=None).exists()


def run_due(now: datetime) -> int:
    """Erase from the files what is due; how many prompts. One process at a time; what fails is tried again."""
    done = 0
    with _alone() as mine:
        for found in Erasure.objects.filter(finished_at=None).select_related("prompt", "project") if mine else ():
            try:
                _erase_files(found)
            except Exception:  # whatever it is, the others must not wait for it
                log.exception("the files of prompt %s could not be erased yet", found.prompt.public_id)
                continue
            done += Erasure.objects.filter(pk=found.pk, finished_at=None).update(finished_at=now)
    return done


@contextlib.contextmanager
def _alone() -> Iterator[bool]:
    root = Path(settings.SNAPSHOTS_DIR)
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".erasing").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@dataclass(frozen=True, kw_only=True, slots=True)
class _Traces:
    """What tells that a line is about the prompt, though its texts are not known any more."""

    ids: frozenset[str]
    content_hash: str

    def is_in(self, record: Mapping[str, Any]) -> bool:
        """Whether a line of a file is about the prompt: by an id, or by the messages that it holds."""
        named = (record.get("id"), record.get("prompt_id"), record.get("group"))
        if any(isinstance(value, str) and (value[:_ID_LENGTH] in self.ids or value in self.ids) for value in named):
            return True
        messages = record.get("prompt")
        try:
            return bool(messages) and messages_hash(messages) == self.content_hash  # type: ignore[arg-type]
        except (TypeError, KeyError, AttributeError):
            return False


def _erase_files(found: Erasure) -> None:
    prompt = found.prompt
    comparisons = list(Comparison.objects.filter(prompt=prompt).values_list("public_id", flat=True))
    completions = Completion.objects.filter(prompt=prompt).values_list("public_id", flat=True)
    ids = {str(public_id) for public_id in (prompt.public_id, *comparisons, *completions)}
    traces = _Traces(ids=frozenset({*ids, prompt.content_hash}), content_hash=prompt.content_hash)
    _erase_snapshots(found, traces, {public_id.bytes for public_id in comparisons})
    _erase_questions(found, traces)
    jobs = list(Job.objects.filter(project=found.project).order_by("pk").values_list("pk", "public_id"))
    for pk, public_id in jobs:
        _erase_samples(pk, traces)
        for file in sorted((Path(settings.RUNS_DIR) / str(public_id)).rglob("*.jsonl")):
            if _HASHED.isdisjoint(file.relative_to(settings.RUNS_DIR).parts):
                _erase_lines_in_place(file, traces)


def _erase_snapshots(found: Erasure, traces: _Traces, comparisons: set[bytes]) -> None:
    """From each directory once, though two snapshots with one hash share it."""
    for snapshot in Snapshot.objects.filter(project=found.project).order_by("number"):
        if not index_of(snapshot).among(comparisons):
            continue
        left = erase_lines(snapshot_path(snapshot), doomed=lambda record: _is_of(record, traces))
        lines = sum(item.comparison in traces.ids for item in left.erased)
        SnapshotErasure.objects.get_or_create(snapshot=snapshot, erasure=found, defaults={"lines": lines})


def _erase_questions(found: Erasure, traces: _Traces) -> None:
    """The same asked in the playground, and what the policies answered."""
    for pk, messages in PlaygroundQuestion.objects.filter(project=found.project).values_list("pk", "messages"):
        if traces.is_in({"prompt": messages}):
            with write(), transaction.atomic():
                PlaygroundQuestion.objects.filter(pk=pk).update(messages=[{"role": "user", "content": ERASED}])
                PlaygroundAnswer.objects.filter(question=pk).update(text=ERASED)


def _is_of(record: Mapping[str, Any], traces: _Traces) -> bool:
    return record.get("meta", {}).get("comparison") in traces.ids or traces.is_in(record)


def _erase_samples(job_id: int, traces: _Traces) -> None:
    """The rows of what a job's runs wrote."""
    last = 0
    rows = RunSample.objects.filter(run__job=job_id).order_by("pk")
    while page := list(rows.filter(pk__gt=last)[:_PAGE]):
        last = page[-1].pk
        told = [row for row in page if traces.is_in(row.body)]
        for row in told:
            row.body = {**_kept(row.body), "prompt": [{"role": "user", "content": ERASED}], "completion": ERASED}
        if told:
            with write(), transaction.atomic():
                RunSample.objects.bulk_update(told, ["body"])


def _kept(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what may be text, or tokens of one: its ids, and numbers."""
    return {key: value for key, value in record.items() if key in _IDS or isinstance(value, int | float)}


def _erase_lines_in_place(file: Path, traces: _Traces) -> None:
    """Overwrite lines with what may stay of them, filled up with spaces: a run may be writing behind them, and rows
    know offsets in the file."""
    with file.open("r+b") as handle:
        while raw := handle.readline():
            try:
                record = json.loads(raw)
            except ValueError:
                continue
            if not isinstance(record, dict) or not traces.is_in(record) or record.get("erased") is True:
                continue
            end = handle.tell()
            kept = json.dumps({**_kept(record), "erased": True}, ensure_ascii=False).encode()
            if len(kept) >= len(raw):
                kept = b"{}"
            handle.seek(end - len(raw))
            handle.write(kept.ljust(len(raw) - 1) + b"\n")
            handle.seek(end)
