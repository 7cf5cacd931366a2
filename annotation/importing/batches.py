"""An import as a whole: checked, then loaded in batches; a small one at once, a large one as a task that survives.

The batch's row says what is due. Who claims it holds a lease, and each batch of rows is written in one transaction with
the progress, on condition that the lease is still ours: so a worker that dies is replaced by one that goes on behind
the last batch written, and two never write the same rows.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now

from annotation import webhooks
from annotation.gate import write
from annotation.importing.layouts import read_rows
from annotation.importing.loading import Loader
from annotation.importing.reading import BadFile, FileFormat, check_columns
from annotation.importing.rows import MOST_ERRORS_SHOWN, BadRows, ImportKind, Row, RowError
from annotation.models import AuditAction, ImportBatch, ImportState, Project, User
from annotation.people import audit

INLINE_BYTES = 5_000_000  # a body up to this is imported in its request
EXAMPLES = 20
LEASE_SECONDS = 60
STALE_NUDGE_SECONDS = 30
UNFINISHED = (ImportState.QUEUED, ImportState.CHECKING, ImportState.LOADING)
Moment = datetime | Now
DATABASE_TIME = Now()

_ROWS = 500
_BYTES = 4_000_000
_ANALYZE_FROM = 500
_TABLES = ("prompt", "completion", "comparison", "comparisoncompletion", "slot", "vote", "consensus")


@dataclass(frozen=True, kw_only=True, slots=True)
class Incoming:
    """A file to import. `name` is for people only: it is never part of a path."""

    kind: ImportKind
    path: Path
    file_format: FileFormat = FileFormat.JSONL
    columns: dict[str, str] = field(default_factory=dict)
    name: str = ""
    skip_bad_rows: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class DryRun:
    """What an import would do. `duplicates` are rows that another row of the file repeats or the project has."""

    rows: int
    duplicates: int
    refused: int
    errors: list[RowError]
    examples: list[Row]


class _Lost(Exception):
    """Somebody else has the batch now."""


# --- at once ----------------------------------------------------------------------------------------------------------


def import_lines(
    *,
    project: Project,
    kind: ImportKind,
    lines: Iterable[str | bytes],
    by: User | None,
    name: str = "",
    skip_bad_rows: bool = False,
    now: datetime,
) -> ImportBatch:
    """Import JSON Lines that are at hand.

    Raises:
        BadRows: a row cannot be read and skipping was not asked for, or there is no good one; nothing was written.
    """
    with workplace() as directory:
        path = directory / "body"
        with path.open("wb") as handle:
            for line in lines:
                data = line if isinstance(line, bytes) else line.encode(errors="surrogatepass")
                handle.write(data.rstrip(b"\r\n") + b"\n")
        incoming = Incoming(kind=kind, path=path, name=name, skip_bad_rows=skip_bad_rows)
        return import_file(project=project, incoming=incoming, by=by, now=now)


def import_file(*, project: Project, incoming: Incoming, by: User | None, now: datetime) -> ImportBatch:
    """Check a file whole and load it, here and now. Importing it again adds nothing.

    Raises:
        BadRows, BadFile: as `import_lines` says; nothing was written.
    """
    draft = ImportBatch(project=project)
    found = _Check(Loader(project=project, batch=draft, now=now))
    for items in _batches(_rows(project, incoming)):
        found.add(items)
    found.refuse(skip_bad_rows=incoming.skip_bad_rows)
    with write(), transaction.atomic():
        batch = _create(project, incoming, by, now)
        owner = uuid4()
        ImportBatch.objects.filter(pk=batch.pk).update(owner=owner, lease_expires_at=_lease(), rows=found.rows)
    try:
        _load(batch, incoming, owner, now)
    except BadRows as error:  # what the rows named has gone since they were checked
        _end(batch, owner, ImportState.REFUSED, str(error), now)
        raise
    batch.refresh_from_db()
    return batch


def dry_run(*, project: Project, incoming: Incoming, now: datetime) -> DryRun:
    """Read a file whole and say what importing it would do; writes nothing.

    What is new is counted by loading each batch of rows and taking it back, so that it is right for every layout.
    """
    found = _Check(Loader(project=project, batch=ImportBatch(project=project), now=now))
    examples: list[Row] = []
    seen: set[str] = set()
    imported = 0
    for items in _batches(_rows(project, incoming)):
        good = found.add(items)
        examples += good[: EXAMPLES - len(examples)]
        fresh = []
        for row in good:
            if row.key() not in seen:
                seen.add(row.key())
                fresh.append(row)
        with suppress(_Undone), write(), transaction.atomic():
            loader = Loader(project=project, batch=_create(project, incoming, None, now), now=now)
            imported += loader.load(fresh, first=0).imported
            raise _Undone
    return DryRun(
        rows=found.rows, duplicates=found.rows - found.refused - imported, refused=found.refused, errors=found.errors,
        examples=examples,
    )  # fmt: skip


class _Undone(Exception):
    """Takes back what a dry run wrote."""


# --- as a task --------------------------------------------------------------------------------------------------------


def queue_import(*, project: Project, incoming: Incoming, by: User | None, now: datetime) -> ImportBatch:
    """Take over the file of an import that a worker will do; its directory is the batch's from now on."""
    with write(), transaction.atomic():
        batch = _create(project, incoming, by, now, state=ImportState.QUEUED)
        place = batch_directory(batch)
        place.mkdir(mode=0o700, parents=True)
        incoming.path.rename(place / "body")
        (place / "columns.json").write_text(json.dumps(incoming.columns), encoding="utf-8")
        ImportBatch.objects.filter(pk=batch.pk).update(file=f"imports/{batch.public_id}/body")
        batch.file = f"imports/{batch.public_id}/body"
    return batch


def due(*, now: Moment = DATABASE_TIME) -> QuerySet[ImportBatch]:
    """Imports that nobody works on."""
    free = Q(lease_expires_at__isnull=True) | Q(lease_expires_at__lt=now)
    return ImportBatch.objects.filter(free, state__in=UNFINISHED).order_by("pk")


def stale(*, now: Moment = DATABASE_TIME) -> bool:
    """Whether an import waits that was not nudged lately; marks it as nudged. A lost message is repaired so."""
    long_ago = Q(nudged_at__isnull=True) | Q(nudged_at__lt=now - timedelta(seconds=STALE_NUDGE_SECONDS))
    waiting = due(now=now).filter(long_ago).values_list("pk", flat=True)[:100]
    ids = list(waiting)
    return bool(ids) and bool(ImportBatch.objects.filter(long_ago, pk__in=ids).update(nudged_at=now))


def run_due(*, now: datetime, at: Moment = DATABASE_TIME) -> int:
    """Claim imports and do them until none waits; how many. One that fails is marked and does not stop the others."""
    done = 0
    while (claimed := _claim(at)) is not None:
        with suppress(_Lost):
            _run(*claimed, now)
        done += 1
    return done


def _claim(at: Moment) -> tuple[ImportBatch, UUID] | None:
    while True:
        batch = due(now=at).select_related("project").first()
        if batch is None:
            return None
        owner = uuid4()
        free = Q(lease_expires_at__isnull=True) | Q(lease_expires_at__lt=at)
        with write(), transaction.atomic():
            taken = ImportBatch.objects.filter(free, pk=batch.pk, state__in=UNFINISHED).update(
                owner=owner, lease_expires_at=_lease()
            )
        if taken:
            return batch, owner


def _run(batch: ImportBatch, owner: UUID, now: datetime) -> None:
    path = Path(settings.DATA_DIR) / batch.file
    if not batch.file or not path.is_file():
        _end(batch, owner, ImportState.FAILED, "The program that read the file ended. Import the file again.", now)
        return
    try:
        columns = check_columns(json.loads((path.parent / "columns.json").read_text(encoding="utf-8")))
        incoming = Incoming(
            kind=ImportKind(batch.kind), path=path, file_format=FileFormat(batch.format), columns=columns,
            skip_bad_rows=batch.skip_bad_rows,
        )  # fmt: skip
        if batch.state != ImportState.LOADING and not batch.skip_bad_rows:
            _check(batch, incoming, owner, now)
        _load(batch, incoming, owner, now)
    except BadRows as error:
        _end(batch, owner, ImportState.REFUSED, str(error), now)
    except BadFile as error:
        batch.refresh_from_db()
        started = f" {batch.imported} rows had been imported." if batch.imported else " Nothing was imported."
        _end(batch, owner, ImportState.REFUSED, f"{error}{started}", now)
    except _Lost:
        raise
    except Exception as error:  # a bug ends this import visibly, not the worker
        _end(batch, owner, ImportState.FAILED, f"{type(error).__name__}: {error}", now)
        raise


def _check(batch: ImportBatch, incoming: Incoming, owner: UUID, now: datetime) -> None:
    """The first reading: with a bad row nothing comes in, and all of them go to the report."""
    _beat(batch, owner, state=ImportState.CHECKING, rows_done=0, started_at=Now())
    found = _Check(Loader(project=batch.project, batch=batch, now=now))
    report = report_path(batch)
    report.unlink(missing_ok=True)
    beaten = time.monotonic()
    for items in _batches(_rows(batch.project, incoming)):
        shown = len(found.errors)
        found.add(items, report=report)
        if time.monotonic() - beaten > 1 or len(found.errors) > shown:
            beaten = time.monotonic()
            errors = [error.as_dict() for error in found.errors]
            _beat(batch, owner, rows_done=found.rows, skipped=found.refused, errors=errors)
    errors = [error.as_dict() for error in found.errors]
    _beat(batch, owner, rows=found.rows, rows_done=found.rows, skipped=found.refused, errors=errors)
    found.refuse(skip_bad_rows=False)


# --- reading and loading ----------------------------------------------------------------------------------------------


@dataclass(kw_only=False, slots=True)
class _Check:
    """What a first reading finds."""

    loader: Loader
    rows: int = 0
    refused: int = 0
    errors: list[RowError] = field(default_factory=list)  # the first of them

    def add(self, items: list[Row | RowError], *, report: Path | None = None) -> list[Row]:
        """Check a batch of rows; the good ones."""
        rows = [item for item in items if isinstance(item, Row)]
        errors = [item for item in items if isinstance(item, RowError)] + self.loader.check(rows)
        errors.sort(key=lambda error: error.line)
        self.rows += len(items)
        self.refused += len(errors)
        self.errors += errors[: MOST_ERRORS_SHOWN - len(self.errors)]
        if report is not None and errors:
            _append(report, errors)
        bad = {error.line for error in errors}
        return [row for row in rows if row.line not in bad]

    def refuse(self, *, skip_bad_rows: bool) -> None:
        """Raise if the file is not to be imported."""
        if self.refused and (not skip_bad_rows or self.refused == self.rows):
            raise BadRows(self.errors, refused=self.refused)
        if not self.rows:
            raise BadRows([RowError(line=1, field="", value="", message="the file holds no rows")])


def _load(batch: ImportBatch, incoming: Incoming, owner: UUID, now: datetime) -> None:
    """The second reading: goes on behind the last batch that was written."""
    batch.refresh_from_db()
    loading = batch.state == ImportState.LOADING
    done = batch.rows_done if loading else 0
    _beat(batch, owner, state=ImportState.LOADING, rows_done=done, **({} if loading else {"started_at": Now()}))
    loader = Loader(project=batch.project, batch=batch, now=now)
    report = report_path(batch)
    imported, duplicates, skipped = batch.imported, batch.duplicates, batch.skipped
    shown: list[dict[str, Any]] = list(batch.errors)
    rows = _rows(batch.project, incoming)
    _skip(rows, done, report)
    for items in _batches(rows):
        good = [item for item in items if isinstance(item, Row)]
        with write(), transaction.atomic():
            loaded = loader.load(good, first=done)
            errors = [item for item in items if isinstance(item, RowError)] + loaded.errors
            errors.sort(key=lambda error: error.line)
            done += len(items)
            imported += loaded.imported
            skipped += len(errors)
            duplicates += len(items) - loaded.imported - len(errors)
            shown += [error.as_dict() for error in errors[: max(0, MOST_ERRORS_SHOWN - len(shown))]]
            if errors:
                _append(report, errors)
            changed = {"errors": shown} if errors else {}
            _beat(batch, owner, rows_done=done, imported=imported, duplicates=duplicates, skipped=skipped, **changed)
    if not done or (skipped and skipped == done):
        raise BadRows(
            [RowError(**error) for error in shown]
            or [RowError(line=1, field="", value="", message="the file holds no rows")],
            refused=skipped,
        )
    _analyze(imported)
    _end(batch, owner, ImportState.DONE, "", now)


def _skip(rows: Iterator[Row | RowError], done: int, report: Path) -> None:
    """Pass over what another try has written, and keep of its report what belongs to that."""
    last = 0
    for _ in range(done):
        last = next(rows).line
    if not report.is_file():
        return
    kept = report.with_suffix(".kept")
    with report.open(encoding="utf-8") as old, kept.open("w", encoding="utf-8") as new:
        for line in old:
            with suppress(ValueError):  # its last line may be half written
                if json.loads(line)["line"] <= last:
                    new.write(line)
    kept.replace(report)


def _rows(project: Project, incoming: Incoming) -> Iterator[Row | RowError]:
    return read_rows(
        incoming.path, kind=incoming.kind, file_format=incoming.file_format, form=project.feedback,
        columns=incoming.columns,
    )  # fmt: skip


def _batches(rows: Iterator[Row | RowError]) -> Iterator[list[Row | RowError]]:
    """A few hundred rows, or fewer large ones: what one transaction holds."""
    batch: list[Row | RowError] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += row.size_bytes if isinstance(row, Row) else 0
        if len(batch) == _ROWS or size > _BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


# --- the row and its files --------------------------------------------------------------------------------------------


@contextmanager
def workplace() -> Iterator[Path]:
    """A private directory on the disk of the data for a file that is coming in; gone afterwards."""
    root = Path(settings.DATA_DIR) / "imports"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=".incoming-", dir=root))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def batch_directory(batch: ImportBatch) -> Path:
    """The files of a batch: by its id, never by a name from outside."""
    return Path(settings.DATA_DIR) / "imports" / str(batch.public_id)


def report_path(batch: ImportBatch) -> Path:
    """All refused rows, a JSON line each; there only if there are any."""
    return batch_directory(batch) / "errors.jsonl"


def _append(report: Path, errors: Iterable[RowError]) -> None:
    report.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with report.open("a", encoding="utf-8") as handle:
        handle.writelines(json.dumps(error.as_dict(), ensure_ascii=False) + "\n" for error in errors)


def _create(
    project: Project,
    incoming: Incoming,
    by: User | None,
    now: datetime,
    *,
    state: ImportState = ImportState.CHECKING,
) -> ImportBatch:
    batch = ImportBatch.objects.create(
        project=project, kind=incoming.kind.value, format=incoming.file_format.value,
        name=incoming.name.replace("\x00", "")[:200], state=state, skip_bad_rows=incoming.skip_bad_rows,
        size_bytes=incoming.path.stat().st_size, created_at=now, created_by=by,
    )  # fmt: skip
    audit(
        project=project, by=by, action=AuditAction.IMPORT_CREATED, target=str(batch.public_id), now=now,
        kind=batch.kind, name=batch.name,
    )  # fmt: skip
    return batch


def _lease() -> Any:
    return Now() + timedelta(seconds=LEASE_SECONDS)


def _mine(pk: int, owner: UUID) -> QuerySet[ImportBatch]:
    return ImportBatch.objects.filter(pk=pk, owner=owner, state__in=UNFINISHED)


def _beat(batch: ImportBatch, owner: UUID, **values: Any) -> None:
    """Renew the lease and write the progress, while the batch is ours."""
    with write(), transaction.atomic():
        if not _mine(batch.pk, owner).update(lease_expires_at=_lease(), **values):
            raise _Lost(f"import {batch.public_id} belongs to another worker")


def _end(batch: ImportBatch, owner: UUID, state: ImportState, reason: str, now: datetime) -> None:
    with write(), transaction.atomic():
        ended = _mine(batch.pk, owner).update(
            state=state, reason=reason[:300], owner=None, lease_expires_at=None, ended_at=Now(), file="",
            rows=F("rows_done"),
        )  # fmt: skip
        if not ended:
            raise _Lost(f"import {batch.public_id} belongs to another worker")
        batch.refresh_from_db()
        payload = {
            "id": str(batch.public_id), "kind": batch.kind, "state": batch.state, "rows": batch.rows,
            "imported": batch.imported, "duplicates": batch.duplicates, "refused": batch.skipped,
        }  # fmt: skip
        webhooks.emit(project=batch.project, event=webhooks.Event.IMPORT_FINISHED, payload=payload, now=now)
        audit(
            project=batch.project, by=batch.created_by, action=AuditAction(f"import.{state}"),
            target=str(batch.public_id), now=now, imported=batch.imported, refused=batch.skipped,
        )  # fmt: skip
    place = batch_directory(batch)
    for name in ("body", "columns.json"):
        (place / name).unlink(missing_ok=True)
    with suppress(OSError):  # the report stays
        place.rmdir()


def _analyze(imported: int) -> None:
    """Else the claim's plan is that of a small table, a second each."""
    if imported < _ANALYZE_FROM:
        return
    with write(), connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("PRAGMA analysis_limit = 1000")
        for table in _TABLES:
            cursor.execute(f"ANALYZE annotation_{table}")
