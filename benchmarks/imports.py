"""`python -m benchmarks.imports --json [--small]`: a million prompts in, whole and with 1,000 broken rows among them.

Each import runs in a process of its own, as a task of a worker does it, on SQLite and on PostgreSQL (skipped with a
line that says so where there is no server); its peak memory is that process's own. The peer of the speed is the floor
that any reader of the format has: `json.loads` of every line, and nothing done with it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.report import Row, faster, shorter, show

MEMORY_MB = 500
WORDS = "why how what when the of a sky river engine letter number small large old new write list name explain".split()  # noqa: SIM905
BROKEN = ('{"prompt": ', '{"prompt": 7}', '{"prompt": ""}', '{"prompt": "x", "category": []}', "[]", "\udcff")


def write_prompts(path: Path, rows: int, *, broken: int = 0) -> list[int]:
    """Prompts of 10 to 60 words; the lines of the broken ones, spread evenly."""
    draw = random.Random(1729)  # noqa: S311 - made-up text
    bad = {1 + i * rows // broken for i in range(broken)} if broken else set()
    with path.open("w", encoding="utf-8", errors="surrogateescape") as handle:
        for line in range(1, rows + 1):
            if line in bad:
                handle.write(BROKEN[line % len(BROKEN)] + "\n")
                continue
            text = " ".join(draw.choices(WORDS, k=draw.randint(10, 60)))
            row = {"id": f"p{line}", "prompt": f"{text} {line}?", "category": "bench", "licence": "CC0"}
            handle.write(json.dumps(row) + "\n")
    return sorted(bad)


def write_pairs(path: Path, rows: int) -> None:
    """Ready-made pairs, four of a prompt."""
    draw = random.Random(1729)  # noqa: S311
    with path.open("w", encoding="utf-8") as handle:
        for line in range(rows):
            a, b = (" ".join(draw.choices(WORDS, k=draw.randint(20, 80))) for _ in range(2))
            row = {"id": f"c{line}", "prompt": f"Question {line // 4}?", "response_a": a, "response_b": f"{b} {line}"}
            handle.write(json.dumps(row) + "\n")


def floor(path: Path) -> float:
    """Rows a second of `json.loads` alone."""
    started, rows = time.perf_counter(), 0
    with path.open("rb") as handle:
        for line in handle:
            with suppress(ValueError):
                json.loads(line)
            rows += 1
    return rows / (time.perf_counter() - started)


def child(path: Path, kind: str, *, skip: bool) -> None:
    """Import one file into an empty database and print what it took."""
    # Set up here, because the parent must not open a database of its own.
    import django  # noqa: PLC0415

    django.setup()
    from django.core.management import call_command  # noqa: PLC0415
    from django.utils import timezone  # noqa: PLC0415

    from annotation.importing import batches  # noqa: PLC0415
    from annotation.importing.rows import ImportKind  # noqa: PLC0415
    from annotation.models import Comparison, Prompt, User  # noqa: PLC0415
    from annotation.people import create_project  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    now = timezone.now()
    project = create_project(name="bench", by=User.objects.create_user("bench@example.org"), now=now)
    with batches.workplace() as place:
        body = place / "body"
        os.link(path, body) if path.stat().st_dev == place.stat().st_dev else body.write_bytes(path.read_bytes())
        incoming = batches.Incoming(kind=ImportKind(kind), path=body, name=path.name, skip_bad_rows=skip)
        batch = batches.queue_import(project=project, incoming=incoming, by=None, now=now)
    started = time.perf_counter()
    batches.run_due(now=now)
    seconds = time.perf_counter() - started
    batch.refresh_from_db()
    report = batches.report_path(batch)
    lines = [json.loads(line)["line"] for line in report.read_text("utf-8").splitlines()] if report.is_file() else []
    print(
        json.dumps({
            "state": batch.state, "reason": batch.reason, "rows": batch.rows, "imported": batch.imported,
            "refused": batch.skipped, "lines": lines, "seconds": seconds,
            "stored": (Comparison if kind == "pairs" else Prompt).objects.filter(project=project).count(),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        })
    )  # fmt: skip


@contextmanager
def databases() -> Iterator[list[tuple[str, str]]]:
    """The URLs to run on, by name."""
    from tests.services.servers import NoService, postgres_database  # noqa: PLC0415 - a program's own need

    try:
        with postgres_database() as url:
            yield [("SQLite", ""), ("PostgreSQL", url)]
    except NoService as error:
        print(f"PostgreSQL skipped: {error}")
        yield [("SQLite", "")]


def run(path: Path, kind: str, url: str, directory: Path, *, skip: bool) -> dict[str, Any]:
    """One import in a process of its own, in an empty database."""
    with tempfile.TemporaryDirectory(dir=directory) as data:
        environment = os.environ | {"WINNOW_DATA_DIR": data, "DJANGO_SETTINGS_MODULE": "winnow.settings"}
        environment.pop("WINNOW_DATABASE_URL", None)
        if url:
            _empty(url)
            environment["WINNOW_DATABASE_URL"] = url
        command = [
            sys.executable,
            "-m",
            "benchmarks.imports",
            "--child",
            str(path),
            kind,
            *(["--skip"] if skip else []),
        ]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def _empty(url: str) -> None:
    import psycopg  # noqa: PLC0415

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


def beside(what: str, unit: str, speed: float, least: float) -> Row:
    """Our speed beside that of reading the lines alone, which nothing can reach: no target."""
    return Row(
        what=what, unit=unit, ours=round(speed, 1), peer=round(least, 1), peer_name="json.loads of each line",
        ratio=round(speed / least, 3),
    )  # fmt: skip


def memory(what: str, found: dict[str, Any]) -> Row:
    """Peak memory of an import under its limit."""
    return shorter(what, "MB", found["peak_mb"], peer=MEMORY_MB, peer_name="limit")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--small", action="store_true", help="100,000 prompts and 10,000 pairs")
    parser.add_argument("--child", nargs=2)
    parser.add_argument("--skip", action="store_true")
    options = parser.parse_args()
    if options.child:
        child(Path(options.child[0]), options.child[1], skip=options.skip)
        return 0
    prompts, pairs = (100_000, 10_000) if options.small else (1_000_000, 100_000)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="winnow-imports-") as root:
        directory = Path(root)
        whole, spoilt, ready = (directory / f"{name}.jsonl" for name in ("whole", "spoilt", "pairs"))
        write_prompts(whole, prompts)
        bad = write_prompts(spoilt, prompts, broken=1000)
        write_pairs(ready, pairs)
        least = floor(whole)
        with databases() as urls:
            for name, url in urls:
                found = run(whole, "prompts", url, directory, skip=False)
                print(f"{name}: {prompts} prompts: {found}", flush=True)
                assert (found["state"], found["imported"], found["stored"]) == ("done", prompts, prompts), found
                speed = prompts / found["seconds"]
                rows.append(beside(f"rows a second, {name}, {prompts}", "rows/s", speed, least))
                rows.append(memory(f"peak memory, {name}, {prompts}", found))
                found = run(spoilt, "prompts", url, directory, skip=True)
                print(f"{name}: with broken rows: { {**found, 'lines': len(found['lines'])} }", flush=True)
                right = len(set(bad) & set(found["lines"])) if len(found["lines"]) == len(bad) else 0
                rows.append(
                    faster(f"broken rows reported by line, {name}", "rows", right, peer=len(bad), peer_name="broken")
                )
                good = prompts - len(bad)
                rows.append(faster(f"the rest in, {name}", "rows", found["stored"], peer=good, peer_name="good rows"))
                speed = prompts / found["seconds"]
                rows.append(beside(f"rows a second, {name}, skipping", "rows/s", speed, least))
                rows.append(memory(f"peak memory, {name}, skipping", found))
                found = run(ready, "pairs", url, directory, skip=False)
                print(f"{name}: {pairs} pairs: {found}", flush=True)
                assert (found["state"], found["imported"]) == ("done", pairs), found
                speed = pairs / found["seconds"]
                rows.append(Row(what=f"pairs a second, {name}, {pairs}", unit="pairs/s", ours=round(speed, 1)))
                rows.append(memory(f"peak memory, {name}, pairs", found))
    show("imports", rows, as_json=options.json)
    return 0 if all(item.ok for item in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
