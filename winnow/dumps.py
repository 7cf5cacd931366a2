"""Every row of the database as files that SQLite and PostgreSQL both can load: a table a file, gzipped JSON Lines.

The first line names the columns, each other line is a row. Tables are those of the applied migrations, not of today's
models, so that an older dump loads into the schema that it was made with and is migrated from there. A table's digest
does not depend on the order of its rows, nor on how a database writes JSON.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.management.color import no_style
from django.db import connection, models, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.graph import MigrationGraph
from django.db.migrations.recorder import MigrationRecorder

_ROWS = 2000  # read at a time
_MOST = 2**256


class BadDump(ValueError):
    """A table's file is not what a dump holds; the message names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A dumped table: its model's label, how many rows, and what their digests add up to."""

    label: str
    rows: int
    digest: str

    @property
    def file(self) -> str:
        """Its file in the dump's directory."""
        return f"{self.label}.jsonl.gz"


@contextmanager
def one_moment() -> Iterator[None]:
    """All reads of the block see the database as it was at one moment; others go on writing."""
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("BEGIN DEFERRED")  # Django's own would take the write lock
            try:
                yield
            finally:
                cursor.execute("ROLLBACK")
        return
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def applied_migrations() -> dict[str, list[str]]:
    """The names of the applied migrations by app."""
    found: dict[str, list[str]] = {}
    for app, name in sorted(MigrationRecorder(connection).applied_migrations()):
        found.setdefault(app, []).append(name)
    return found


def is_migrated() -> bool:
    """Whether every migration of this version is applied."""
    executor = MigrationExecutor(connection)
    return not executor.migration_plan(executor.loader.graph.leaf_nodes())


def migrate_to(migrations: dict[str, list[str]]) -> None:
    """Bring an empty database to exactly these migrations.

    Raises:
        BadDump: this version of Winnow does not know one of them, or the database is further already.
    """
    executor = MigrationExecutor(connection)
    wanted = {(app, name) for app, names in migrations.items() for name in names}
    known = set(executor.loader.graph.nodes) | set(executor.loader.replacements)
    if unknown := sorted(wanted - known):
        names = ", ".join(".".join(node) for node in unknown)
        raise BadDump(f"made by a newer or differently set up Winnow: it has applied {names}, which is not known here")
    if further := sorted(set(executor.loader.applied_migrations) - wanted):
        names = ", ".join(".".join(node) for node in further)
        raise BadDump(f"the database has applied {names}, the dump has not: make the database anew, without any table")
    # Of a line of migrations the executor wants the last one: for an earlier one it would plan the way back.
    graph = executor.loader.graph
    last = [node for node in wanted if node in graph.nodes and not _followers(graph, node) & wanted]
    executor.migrate(sorted(set(last) - set(executor.loader.applied_migrations)))


def _followers(graph: MigrationGraph, node: tuple[str, str]) -> set[tuple[str, str]]:
    return {child.key for child in graph.node_map[node].children}


def dump(directory: Path) -> list[Table]:
    """Write every table; call it within `one_moment`."""
    directory.mkdir()
    return [_dump_table(model, directory) for model in _tables()]


def digests() -> list[Table]:
    """The tables as they are in the database now."""
    return [_dump_table(model, None) for model in _tables()]


def load(directory: Path, tables: Sequence[Table]) -> None:
    """Fill the tables of a database that `migrate_to` has made, and check what is then in it: all or nothing.

    Raises:
        BadDump: a file cannot be read, or what the database gives back is not what the dump has.
    """
    found = {model._meta.label: model for model in _tables()}
    if {table.label for table in tables} != set(found):
        raise BadDump(f"tables differ: {sorted({table.label for table in tables} ^ set(found))}")
    with transaction.atomic():
        for model in found.values():
            model._base_manager.all().delete()  # what migrations themselves have made
        for table in tables:
            _load_table(found[table.label], directory / table.file)
        connection.check_constraints()
        with connection.cursor() as cursor:
            for sql in connection.ops.sequence_reset_sql(no_style(), list(found.values())):
                cursor.execute(sql)
        for table, restored in zip(sorted(tables, key=lambda item: item.label), digests(), strict=True):
            if table != restored:
                raise BadDump(
                    f"{table.label}: {restored.rows} rows came back with another digest than {table.rows} of the dump"
                )


def _tables() -> list[type[models.Model]]:
    """Models of the applied migrations, tables between two of them included, by label."""
    executor = MigrationExecutor(connection)
    nodes = [node for node in executor.loader.applied_migrations if node in executor.loader.graph.nodes]
    apps = executor.loader.project_state(nodes).apps
    every = apps.get_models(include_auto_created=True)
    kept = (model for model in every if model._meta.managed and not model._meta.proxy)
    return sorted(kept, key=lambda model: model._meta.label)


def _columns(model: type[models.Model]) -> list[models.Field[Any, Any]]:
    return [field for field in model._meta.local_concrete_fields if not field.generated]


def _dump_table(model: type[models.Model], directory: Path | None) -> Table:
    """Count and add up the rows, and write them where a directory is given."""
    label, columns = model._meta.label, _columns(model)
    count, total = 0, 0
    file = gzip.open(directory / f"{label}.jsonl.gz", "wt", encoding="utf-8") if directory else None  # noqa: SIM115
    try:
        if file:
            file.write(json.dumps([field.attname for field in columns]) + "\n")
        for row in _rows(model, columns):
            values = [_plain(label, value) for value in row]
            total = (total + _digest(values)) % _MOST
            count += 1
            if file:
                file.write(json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")
    finally:
        if file:
            file.close()
    return Table(label=label, rows=count, digest=f"{total:064x}")


def _rows(model: type[models.Model], columns: Sequence[models.Field[Any, Any]]) -> Iterator[tuple[Any, ...]]:
    """All rows, a page at a time by key, so that no cursor has to be held."""
    key = model._meta.pk
    assert key is not None
    names = [field.attname for field in columns]
    at = names.index(key.attname)
    rows = model._base_manager.order_by("pk").values_list(*names)
    page = list(rows[:_ROWS])
    while page:
        yield from page
        page = list(rows.filter(pk__gt=page[-1][at])[:_ROWS])


def _plain(label: str, value: Any) -> Any:
    """A value as JSON has it; columns know how to read it back."""
    if value is None or isinstance(value, (bool, int, float, str, dict, list)):
        return value
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, (UUID, Decimal)):
        return str(value)
    raise TypeError(f"{label} holds a {type(value).__name__}, which a dump cannot: say here how it is written")


def _digest(values: list[Any]) -> int:
    """Of one row: PostgreSQL sorts the keys of JSON objects and writes 1e22 as a whole number."""
    raw = json.dumps(_same(values), sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    return int.from_bytes(hashlib.sha256(raw).digest())


def _same(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_same(item) for item in value]
    if isinstance(value, dict):
        return {key: _same(item) for key, item in value.items()}
    return value


def _load_table(model: type[models.Model], file: Path) -> None:
    columns = _columns(model)
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        names = json.loads(next(lines, "null"))
        if names != [field.attname for field in columns]:
            raise BadDump(f"{file.name}: columns {names} are not those of {model._meta.label}")
        batch: list[models.Model] = []
        most = min(500, connection.ops.bulk_batch_size(columns, [None] * 500) or 500)
        for line in lines:
            values = json.loads(line)
            if len(values) != len(columns):
                raise BadDump(f"{file.name}: a row has {len(values)} values for {len(columns)} columns")
            row = {field.attname: _read(field, value) for field, value in zip(columns, values, strict=True)}
            batch.append(model(**row))
            if len(batch) == most:
                _insert(model, batch, columns)
                batch = []
        _insert(model, batch, columns)


def _insert(model: type[models.Model], batch: list[models.Model], columns: Sequence[models.Field[Any, Any]]) -> None:
    """Rows as they are: `bulk_create` would put the time of now into columns that are filled when a row is added."""
    if batch:
        model._base_manager._insert(batch, fields=columns, using=connection.alias, raw=True)  # type: ignore[attr-defined]


def _read(field: models.Field[Any, Any], value: Any) -> Any:
    if value is None or isinstance(field, models.JSONField):
        return value
    return field.to_python(value)
