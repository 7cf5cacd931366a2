"""The fault programme: its checker finds what was planted, its parts find processes, and a small storm passes."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.faults import __main__ as programme
from benchmarks.faults import checking, storm, web
from benchmarks.faults.checking import Attempt, Facts, weights_hash
from benchmarks.faults.storm import Fault, Running, Wanted, bears
from benchmarks.faults.topology import PROGRAMS, Engine, engines, meetings
from tests.conftest import require_or_skip
from tests.services.servers import NoService
from tests.training.rows import until

WEIGHTS = "a" * 64


def lines(first: int, last: int) -> list[tuple[int, int, dict[str, float]]]:
    """Lines of steps whose loss is half the step, with what a clock says."""
    return [
        (seq, step, {"train/loss": step / 2, "time/step": 0.1 * seq})
        for seq, step in enumerate(range(first, last + 1), start=1)
    ]


WHOLE = Facts(
    job=1,
    name="dpo-1",
    status="succeeded",
    reason="done",
    ends_told=1,
    attempts=[Attempt(number=1, closed=True, result={"status": "done"}, lines=lines(0, 6))],
    weights=WEIGHTS,
)
FIRST = Attempt(number=1, closed=True, result=None, lines=lines(0, 4))
SECOND = Attempt(number=2, closed=True, result={"status": "done"}, lines=lines(3, 6))
STRUCK = replace(WHOLE, job=2, attempts=[FIRST, SECOND])


def found(facts: Facts) -> dict[str, int]:
    """What the checker finds, without the zeros."""
    counts = checking.check([facts], {"dpo-1": WHOLE}, say=lambda _: None).counts
    return {name: count for name, count in counts.items() if count}


def test_a_job_that_repeated_the_steps_after_its_checkpoint_is_as_good_as_an_undisturbed_one():
    assert found(STRUCK) == {}


@pytest.mark.parametrize(
    ("planted", "faults"),
    [
        (replace(STRUCK, weights="b" * 64), {"weights_unequal": 1}),
        (replace(STRUCK, weights=""), {"weights_unequal": 1}),
        (replace(STRUCK, ends_told=2), {"jobs_not_ended_once": 1}),
        (replace(STRUCK, attempts=[replace(FIRST, closed=False), SECOND]), {"runs_left_open": 1}),
        (
            replace(STRUCK, attempts=[FIRST, replace(SECOND, lines=[*lines(3, 6), (5, 6, {"train/loss": 3.0})])]),
            {"metric_steps_doubled": 1},
        ),
        (replace(STRUCK, attempts=[FIRST, replace(SECOND, lines=lines(3, 7))]), {"metric_steps_doubled": 1}),
        (replace(STRUCK, attempts=[replace(FIRST, lines=lines(0, 1)), SECOND]), {"metric_steps_lost": 1}),
        (
            replace(STRUCK, attempts=[FIRST, replace(SECOND, lines=[*lines(3, 5), (4, 6, {"train/loss": 3.1})])]),
            {"metric_values_unequal": 1},
        ),
        (
            replace(STRUCK, status="failed", ends_told=1, attempts=[FIRST], weights=""),
            {"jobs_not_succeeded": 1, "jobs_not_ended_once": 1, "metric_steps_lost": 2, "weights_unequal": 1},
        ),
    ],
)
def test_the_checker_finds_what_was_planted(planted: Facts, faults: dict[str, int]):
    assert found(planted) == faults


def test_the_hash_of_weights_sees_one_byte_and_no_optimizer(tmp_path: Path):
    for name in ("adapter/adapter_model.safetensors", "head.safetensors", "state.safetensors", "state.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"weights")
    before = weights_hash(tmp_path)
    (tmp_path / "state.safetensors").write_bytes(b"others")
    assert weights_hash(tmp_path) == before
    (tmp_path / "head.safetensors").write_bytes(b"weightS")
    assert weights_hash(tmp_path) != before
    assert weights_hash(tmp_path / "nothing") == ""


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="processes are found in /proc")
def test_an_orphan_is_found_by_the_directory_it_works_in(tmp_path: Path):
    directory = tmp_path / "runs" / "job-1" / "2"
    directory.mkdir(parents=True)
    # The shell ends at once, and leaves its child to nobody.
    command = f"cd {directory} && {sys.executable} -c 'import time; time.sleep(60)' > /dev/null & echo $!"
    pid = int(subprocess.run(["sh", "-c", command], check=True, stdout=subprocess.PIPE).stdout)
    try:
        (orphan,) = until(lambda: engines(tmp_path / "runs"))
        assert (orphan.pid, orphan.job, orphan.attempt) == (pid, "job-1", 2)
        assert engines(tmp_path / "other") == []
    finally:
        subprocess.run(["kill", "-9", str(pid)], check=True)
    until(lambda: engines(tmp_path / "runs") == [])


def test_two_attempts_of_one_job_at_once_are_a_meeting_and_two_processes_of_one_are_none():
    def one(job: str, attempt: int) -> Engine:
        return Engine(pid=1, parent=1, job=job, attempt=attempt)

    assert meetings([one("a", 1), one("a", 1), one("b", 2)]) == set()
    assert meetings([one("a", 1), one("b", 2), one("a", 3)]) == {("a", 1, 3)}


def test_no_fault_strikes_a_job_that_the_next_failure_ends():
    def job(failures: int, *, engine_killed: bool = False, may_start_again: bool = True) -> Running:
        return Running(
            job=1, attempt=1, failures=failures, engine_killed=engine_killed, may_start_again=may_start_again,
            engine=Engine(pid=1, parent=1, job="a", attempt=1),
        )  # fmt: skip

    assert bears(job(0, engine_killed=True), Fault.ENGINE)
    assert bears(job(1), Fault.ENGINE)
    assert bears(job(1, engine_killed=True), Fault.WORKER)
    assert not bears(job(1, engine_killed=True), Fault.ENGINE)  # two kills at one step are out of memory
    assert not bears(job(0, may_start_again=False), Fault.ENGINE)
    assert not bears(job(1), Fault.FROZEN)
    assert not any(bears(job(2), fault) for fault in Fault)


def test_the_rows_of_the_web_hold_the_promise_and_not_the_idle_figure():
    idle = web.Waits(next=[0.01] * 20, vote=[0.02] * 20, busy=0.2)
    beside = web.Waits(next=[0.1] * 20, vote=[0.2] * 20, busy=0.95)
    rows = {row.what: row for row in web.rows_of(idle, beside, steps=3)}
    assert rows["web: next_p95_ms, while training"].ok
    assert not rows["web: vote_p95_ms, while training"].ok
    assert rows["web: vote_p95_ms, while training beside idle"].peer == pytest.approx(20)
    assert not {row.what: row for row in web.rows_of(idle, idle, steps=0)}["web: processor use while training"].ok


@pytest.mark.services
@pytest.mark.slow
def test_a_small_storm_passes_and_what_is_planted_afterwards_is_found():
    wanted = [Wanted(method="reward", seed=1)]
    faults = {Fault.WORKER: 1, Fault.ENGINE: 1, Fault.DOUBLED: 1}
    try:
        with (
            programme.directory(keep=False) as root,  # not pytest's own, into which PostgreSQL's user may not look
            programme.site_in(root, seed=1, threads=1, names=tuple(PROGRAMS)) as site,
        ):
            calm = storm.quiet(site, wanted, most_seconds=200)
            ledger = storm.storm(site, wanted=wanted, faults=faults, most_seconds=200)
            assert sorted(item.fault for item in ledger.strikes) == [Fault.ENGINE, Fault.WORKER]
            assert [row for row in programme.verdict(site, calm, ledger) if not row.ok] == []

            job = min(ledger.jobs)
            site.rows(
                'INSERT INTO training_runmetric (run_id, seq, step, time, "values", "offset") '
                'SELECT run_id, seq + 1, step, time, "values", "offset" + 1 FROM training_runmetric m '
                "JOIN training_run r ON r.id = m.run_id WHERE r.job_id = %s ORDER BY run_id DESC, seq DESC LIMIT 1 "
                "RETURNING id",
                job,
            )
            ((public_id,),) = site.rows("SELECT public_id FROM training_job WHERE id = %s", job)
            directory = site.topology.runs_dir / str(public_id)
            for weights in directory.glob("*/checkpoints/step-*/**/*.safetensors"):
                changed = bytearray(weights.read_bytes())
                changed[-1] ^= 1
                weights.write_bytes(changed)
            orphan = subprocess.Popen(["sleep", "600"], cwd=directory / "1")
            try:
                rows = programme.verdict(site, calm, ledger)
            finally:
                orphan.send_signal(signal.SIGKILL)
                orphan.wait()
            failed = {row.what: row.ours for row in rows if not row.ok}
            assert failed == {"metric steps doubled": 1, "weights unequal": 1, "orphan processes": 1}
    except NoService as error:
        require_or_skip(str(error))
