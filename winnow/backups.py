"""Backups: the database and every file that its rows name, in one directory with a manifest; and back, verified.

A backup is taken while everything runs. The rows are those of one moment; the files are copied after it, so each file
that a row names is there, but for checkpoints that a running job has removed meanwhile. A restore checks every hash
before it writes anything, writes only what is not there, fills an empty database in one transaction, and then verifies
what the rows say of snapshots, models and checkpoints.

    manifest.json      written last: a directory without it is no backup
    database/          `winnow.dumps`
    files/             snapshots/ models/ runs/ imports/, as below the data directory

The secret key is not in it: without it people only sign in again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.db import connection

from annotation.models import User
from training import attempts, registry, snapshots
from training.engine.errors import SnapshotError
from training.engine.files import directory_hash, sha256_of_file, write_json
from training.engine.records import verify_snapshot
from training.models import Checkpoint, Job, ModelVersion, Snapshot
from winnow import dumps

FORMAT = "winnow-backup"
VERSION = 1
MANIFEST = "manifest.json"
_AREAS = ("snapshots", "models", "runs", "imports")
_PIECE = 4 * 1024 * 1024

Say = Callable[[str], object]


class BackupError(Exception):
    """A backup that cannot be made, read or restored here; the message says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """One copied file: its path below `files/`, `area/…`."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Backup:
    """The manifest."""

    created_at: datetime
    winnow: str
    database: str
    migrations: dict[str, list[str]]
    tables: list[dumps.Table]
    dumped: list[File] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    outside: dict[str, str] = field(default_factory=dict)


# --- making one -------------------------------------------------------------------------------------------------------


def make(parent: Path, *, now: datetime, say: Say) -> Path:
    """Write a backup below `parent`; its directory. One that breaks off leaves a directory that is none.

    Raises:
        BackupError: the database is not migrated, a named file is missing, or the disk is too small.
    """
    if not dumps.is_migrated():
        raise BackupError("the database lacks migrations of this version: run `manage.py migrate` first")
    target = parent / f"winnow-{now:%Y%m%dT%H%M%SZ}"
    if target.exists():
        raise BackupError(f"{target} exists already: try again in a second")
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = parent / f".{target.name}.partial"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)  # it holds texts, password hashes and webhook secrets
    with dumps.one_moment():
        migrations, tables, named = dumps.applied_migrations(), dumps.dump(draft / "database"), _named()
    say(f"{sum(table.rows for table in tables):,} rows of {len(tables)} tables")
    _check_room(draft, named)
    files: list[File] = []
    for unit in named.units:
        files += _copy_unit(unit, draft / "files")
    dumped = [_dumped(draft / "database" / table.file) for table in tables]
    backup = Backup(
        created_at=now,
        winnow=version("winnow"),
        database=connection.vendor,
        migrations=migrations,
        tables=tables,
        dumped=dumped,
        files=sorted(files, key=lambda file: file.path),
        outside=named.outside,
    )
    write_json(draft / MANIFEST, asdict(backup) | {"format": FORMAT, "version": VERSION, "created_at": now.isoformat()})
    draft.rename(target)
    say(f"{len(files):,} files, {sum(file.size for file in files) / 1e9:.2f} GB")
    for path in named.outside:
        say(f"not copied, because it lies outside of the models directory: {path}")
    return target


def _dumped(path: Path) -> File:
    return File(path=path.name, size=path.stat().st_size, sha256=sha256_of_file(path))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Unit:
    """A directory that is copied whole; `may_vanish` for what a running job removes by itself."""

    area: str
    path: Path  # below the area's directory
    may_vanish: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class _Named:
    """What the rows name: directories of ours, and models elsewhere with their hash."""

    units: list[_Unit]
    outside: dict[str, str]


def _roots() -> dict[str, Path]:
    places = (settings.SNAPSHOTS_DIR, settings.MODELS_DIR, settings.RUNS_DIR, Path(settings.DATA_DIR) / "imports")
    return dict(zip(_AREAS, map(Path, places), strict=True))


def _named() -> _Named:
    roots = _roots()
    models = dict(ModelVersion.objects.values_list("path", "sha256"))
    units = [
        _Unit(area="snapshots", path=Path(path))
        for path in sorted(set(Snapshot.objects.values_list("path", flat=True)))
    ]
    units += [_Unit(area="models", path=Path(path)) for path in sorted(models) if not Path(path).is_absolute()]
    for job in Job.objects.order_by("pk").values_list("public_id", flat=True):
        if (roots["runs"] / str(job)).is_dir():
            units.append(_Unit(area="runs", path=Path(str(job)), may_vanish=True))
    if roots["imports"].is_dir():
        units.append(_Unit(area="imports", path=Path(), may_vanish=True))
    return _Named(units=units, outside={path: sha256 for path, sha256 in models.items() if Path(path).is_absolute()})


def _members(unit: _Unit) -> Iterator[Path]:
    """The files of a unit, below its area: no drafts, no scratch, no checkpoint without its manifest.

    Raises:
        BackupError: a directory that a row names is not there.
    """
    root = _roots()[unit.area]
    start = root / unit.path
    if not start.is_dir():
        if unit.may_vanish:
            return
        raise BackupError(f"{start} is missing, though the database names it")
    for directory, names, files in os.walk(start):
        here = Path(directory)
        names[:] = sorted(
            name for name in names if not name.startswith(".") and not (unit.area == "runs" and name == "tmp")
        )
        if unit.area == "runs" and here.parent.name == "checkpoints" and attempts.MANIFEST not in files:
            names.clear()
            continue
        for name in sorted(files):
            if not name.startswith(".") and not name.endswith(".partial"):
                yield (here / name).relative_to(root)


def _check_room(target: Path, named: _Named) -> None:
    roots, wanted = _roots(), 0
    for unit in named.units:
        for path in _members(unit):
            wanted += _size(roots[unit.area] / path)
    free = shutil.disk_usage(target).free
    if wanted > free:
        raise BackupError(f"{target.parent} has {free / 1e9:.1f} GB free, the files need {wanted / 1e9:.1f} GB")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a running job has removed it; copying will see that too
        return 0


def _copy_unit(unit: _Unit, target: Path) -> list[File]:
    """Copy the unit; a checkpoint that loses a file on the way is left out as a whole."""
    root, copied, gone = _roots()[unit.area], list[File](), set[str]()
    for path in _members(unit):
        name = f"{unit.area}/{path.as_posix()}"
        try:
            copied.append(_copy(root / path, target / name, name))
        except FileNotFoundError:
            if not unit.may_vanish:
                raise BackupError(f"{root / path} vanished while it was copied") from None
            if checkpoint := _checkpoint_of(name):
                gone.add(checkpoint)
    for name in gone:
        shutil.rmtree(target / name, ignore_errors=True)
    return [file for file in copied if _checkpoint_of(file.path) not in gone]


def _checkpoint_of(name: str) -> str | None:
    """`runs/<job>/<attempt>/checkpoints/step-N` of a file in it."""
    parts = name.split("/")
    return "/".join(parts[:5]) if parts[0] == "runs" and len(parts) > 5 and parts[3] == "checkpoints" else None


def _copy(source: Path, target: Path, name: str) -> File:
    """Copy what the file holds now, and its hash; a log may grow meanwhile."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reading:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with target.open("wb") as writing:
            while piece := reading.read(_PIECE):
                digest.update(piece)
                size += len(piece)
                writing.write(piece)
            writing.flush()
            os.fsync(writing.fileno())
    return File(path=name, size=size, sha256=digest.hexdigest())


# --- reading one ------------------------------------------------------------------------------------------------------


def check(directory: Path) -> Backup:
    """Read the manifest and every file that it names.

    Raises:
        BackupError: no manifest, or a file is missing or has another hash.
    """
    backup = _read(directory)
    for place, files in ((directory / "database", backup.dumped), (directory / "files", backup.files)):
        for file in files:
            if problem := _differs(place / file.path, file):
                raise BackupError(f"{place / file.path} {problem}: this backup is damaged")
    return backup


def _read(directory: Path) -> Backup:
    try:
        raw: dict[str, Any] = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        if raw.pop("format") != FORMAT or raw.pop("version") != VERSION:
            raise BackupError(f"{directory / MANIFEST} is of another format or version than {FORMAT} {VERSION}")
        return Backup(
            created_at=datetime.fromisoformat(raw.pop("created_at")),
            tables=[dumps.Table(**item) for item in raw.pop("tables")],
            dumped=[_safe(File(**item)) for item in raw.pop("dumped")],
            files=[_safe(File(**item)) for item in raw.pop("files")],
            **raw,
        )
    except FileNotFoundError:
        raise BackupError(f"{directory} is no backup: it has no {MANIFEST}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackupError(f"{directory / MANIFEST} cannot be read: {error!r}") from None


def _safe(file: File) -> File:
    path = PurePosixPath(file.path)
    if path.is_absolute() or ".." in path.parts:
        raise BackupError(f"the manifest names {file.path}, which lies outside of the backup")
    return file


def _differs(path: Path, file: File) -> str | None:
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != file.size:
        return f"has {path.stat().st_size} bytes, not {file.size}"
    return None if sha256_of_file(path) == file.sha256 else "has another sha256"


# --- restoring one ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """What came back and was verified."""

    rows: int
    files: int
    snapshots: int
    models: int
    checkpoints: int
    pruned: int  # checkpoints whose files were gone when the backup was taken
    outside: list[str]  # models elsewhere that are not here


def restore(directory: Path, *, say: Say) -> Restored:
    """Bring a backup back into an empty database and the data directory. Broken off, it may be run again.

    Raises:
        BackupError: the backup is damaged, something is in its way, or what came back does not verify.
    """
    backup = check(directory)
    say(f"backup of {backup.created_at:%Y-%m-%d %H:%M} UTC, Winnow {backup.winnow}, {backup.database}: undamaged")
    _check_place(backup)
    for file in backup.files:
        _place(directory / "files" / file.path, _target(file), file)
    say(f"{len(backup.files):,} files are in place")
    try:
        dumps.migrate_to(backup.migrations)
        dumps.load(directory / "database", backup.tables)
    except dumps.BadDump as error:
        raise BackupError(str(error)) from None
    rows = sum(table.rows for table in backup.tables)
    say(f"{rows:,} rows are back, as they were")
    call_command("migrate", interactive=False, verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return _verify(backup, rows=rows, pruned=_mark_pruned(backup))


def _target(file: File) -> Path:
    area, _, rest = file.path.partition("/")
    return _roots()[area] / rest


def _check_place(backup: Backup) -> None:
    """Nothing is overwritten, and no database with people in it is emptied."""
    if User._meta.db_table in connection.introspection.table_names() and User.objects.exists():
        raise BackupError(
            f"the database holds {User.objects.count()} people already. Restore into an empty one: move the SQLite "
            "file away, or create another PostgreSQL database and name it in WINNOW_DATABASE_URL"
        )
    for file in backup.files:
        target = _target(file)
        if target.exists() and (problem := _differs(target, file)):
            raise BackupError(f"{target} is in the way: it {problem}. Restore into an empty data directory")
    sizes = sum(file.size for file in backup.files if not _target(file).exists())
    free = shutil.disk_usage(settings.DATA_DIR).free
    if sizes > free:
        raise BackupError(f"{settings.DATA_DIR} has {free / 1e9:.1f} GB free, the files need {sizes / 1e9:.1f} GB")


def _place(source: Path, target: Path, file: File) -> None:
    """Copy aside and rename; what is there already was compared."""
    if target.exists():
        return
    draft = target.with_name(f".{target.name}.partial")
    if _copy(source, draft, file.path) != file:
        raise BackupError(f"{source} changed while it was read")
    draft.replace(target)


def _mark_pruned(backup: Backup) -> int:
    """Checkpoints that a running job removed between the rows and the files: their rows say so now."""
    there = {_checkpoint_of(file.path) for file in backup.files}
    rows = Checkpoint.objects.filter(files_pruned_at=None).values_list("pk", "path")
    gone = [pk for pk, path in rows if f"runs/{path}" not in there]
    return Checkpoint.objects.filter(pk__in=gone).update(files_pruned_at=backup.created_at)


def _verify(backup: Backup, *, rows: int, pruned: int) -> Restored:
    """Every file once more from the disk, and every snapshot, model and checkpoint against its row."""
    problems = [f"{_target(file)} {why}" for file in backup.files if (why := _differs(_target(file), file))]
    frozen, models, outside = list(Snapshot.objects.all()), list(ModelVersion.objects.all()), []
    for snapshot in frozen:
        try:
            if verify_snapshot(snapshots.snapshot_path(snapshot)).frozen_hash != snapshot.content_hash:
                problems.append(f"snapshot {snapshot.public_id} has another content hash than its row")
        except SnapshotError as error:
            problems.append(f"snapshot {snapshot.public_id}: {error}")
    for model in models:
        path = registry.model_path(model)
        if model.path in backup.outside and not path.is_dir():
            outside.append(model.path)
        elif directory_hash(path) != model.sha256:
            problems.append(f"model {model.name} has another hash than its row")
    kept = list(Checkpoint.objects.filter(files_pruned_at=None))
    for checkpoint in kept:
        path = Path(settings.RUNS_DIR) / checkpoint.path
        manifest = path / attempts.MANIFEST
        if not attempts.verifies(path, alive=lambda: None) or sha256_of_file(manifest) != checkpoint.sha256:
            problems.append(f"checkpoint {checkpoint.path} does not verify")
    if problems:
        raise BackupError("restored, but not what the rows say:\n" + "\n".join(problems))
    return Restored(
        rows=rows,
        files=len(backup.files),
        snapshots=len(frozen),
        models=len(models) - len(outside),
        checkpoints=len(kept),
        pruned=pruned,
        outside=outside,
    )
