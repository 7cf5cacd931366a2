"""`python -m benchmarks.refit --json [--small]`: the joint fit of a project with a million votes, from the database.

200,000 comparisons with five votes each by 1,000 people, made by set-based SQL, on SQLite and on PostgreSQL (skipped
with a line that says so where there is no server). In a process of its own, as a worker does it: the fit from the
votes alone, and the one that goes on after 1 % new votes. Timed from reading the votes to the result, and with writing
what it moved, which after the first fit is every consensus. `--small` has 100,000 votes. The peer is a limit: a million
votes are to be fitted "in seconds", which is taken as half a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.imports import databases
from benchmarks.report import Row, shorter, show

OVERLAP, PEOPLE, SEED = 5, 1000, 0
LIMIT_SECONDS = 30.0
FRESH = 0.01  # of the votes come after the first fit


def child(comparisons: int) -> dict[str, Any]:
    """Fill the database that the environment names, fit twice, and say what it took."""
    import django  # noqa: PLC0415 - the parent must not open a database of its own

    django.setup()
    from django.core.management import call_command  # noqa: PLC0415
    from django.utils import timezone  # noqa: PLC0415

    from annotation import fits  # noqa: PLC0415
    from annotation.models import AggregationFit, Membership, Project, User  # noqa: PLC0415
    from annotation.people import create_project  # noqa: PLC0415
    from annotation.vote_arrays import load  # noqa: PLC0415
    from benchmarks.tables import cast_votes, fill  # noqa: PLC0415
    from tests.services.hammer import PROJECT  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    now = timezone.now()
    create_project(name="bench", slug=PROJECT, by=User.objects.create_user("bench@example.org"), now=now)
    fill(comparisons, overlap=OVERLAP)
    accuracy = cast_votes(comparisons, overlap=OVERLAP, people=PEOPLE, seed=SEED, share=1 - FRESH)
    project = Project.objects.get(slug=PROJECT)
    found: dict[str, Any] = {}
    for name in ("cold", "warm"):
        if name == "warm":
            cast_votes(comparisons, overlap=OVERLAP, people=PEOPLE, seed=SEED, share=FRESH)
        started = time.perf_counter()
        arrays = load(project)
        read = time.perf_counter() - started
        started = time.perf_counter()
        fits.refit(project=project, warm=name == "warm", now=now)
        seconds = time.perf_counter() - started
        fit = AggregationFit.objects.get(project=project)
        found[name] = {
            "seconds": seconds, "read": read, "fit": fit.seconds, "votes": len(arrays), "steps": fit.steps,
            "converged": fit.converged,
        }  # fmt: skip
    members = Membership.objects.filter(project=project, reliability__isnull=False).order_by("user_id")
    estimated = list(members.values_list("reliability", flat=True))
    found["error"] = sum(abs(a - b) for a, b in zip(estimated, accuracy, strict=True)) / len(accuracy)
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def run(comparisons: int, url: str) -> dict[str, Any]:
    """The child's report, from a process of its own on an empty database."""
    with tempfile.TemporaryDirectory(prefix="winnow-refit-") as data:
        environment = os.environ | {"WINNOW_DATA_DIR": data, "DJANGO_SETTINGS_MODULE": "winnow.settings"}
        environment.pop("WINNOW_DATABASE_URL", None)
        if url:
            environment["WINNOW_DATABASE_URL"] = url
        command = [sys.executable, "-m", "benchmarks.refit", "--child", str(comparisons)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--small", action="store_true", help="100,000 votes")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.child)))
        return 0
    comparisons = 20_000 if options.small else 200_000
    rows: list[Row] = []
    with databases() as urls:
        for name, url in urls:
            found = run(comparisons, url)
            print(f"{name}: {found}", flush=True)
            votes = found["warm"]["votes"]
            for start in ("cold", "warm"):
                what = f"refit of {votes:,} votes, {start}, {name}"
                rows.append(shorter(what, "s", found[start]["fit"], peer=LIMIT_SECONDS, peer_name="limit"))
                rows.append(Row(what=f"{what}, with consensuses", unit="s", ours=round(found[start]["seconds"], 3)))
            rows.append(Row(what=f"refit, mean error of an accuracy, {name}", unit="share", ours=found["error"]))
            rows.append(Row(what=f"refit, peak memory, {name}", unit="MB", ours=found["peak_mb"]))
    show("refit", rows, as_json=options.json)
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
