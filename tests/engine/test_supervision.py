from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.engine.engine_runs import places, result_of, start_child, stdin_of, steps_of, wait_until
from tests.engine.planted import planted_config
from training.engine.supervision import StopRun, Supervision

_ = places
LONG = {"epochs": 20_000}


def test_the_supervisor_asks_for_a_checkpoint_and_then_for_a_stop(places: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = planted_config("reward", **places, batch=LONG, checkpoint={"every": 100_000}, eval={"every": 100_000})
    child = start_child(config, out, "--supervised")
    stdin_of(child).write(b"..")
    stdin_of(child).flush()
    wait_until(lambda: 3 in steps_of(out))
    stdin_of(child).write(b".c")
    stdin_of(child).flush()
    wait_until(lambda: any((out / "checkpoints").glob("step-*")))
    asked = next(iter((out / "checkpoints").glob("step-*")))
    stdin_of(child).write(b"s")
    stdin_of(child).write(b"s")
    stdin_of(child).flush()
    assert child.wait(timeout=60) == 0
    result = result_of(out)
    assert result["status"] == "stopped"
    assert result["checkpoints"]["last"]["step"] == steps_of(out)[-1] == result["step"]
    assert asked.exists()


def test_a_lost_supervisor_takes_the_run_with_it(places: dict[str, Path], tmp_path: Path) -> None:
    child = start_child(planted_config("reward", **places, batch=LONG), tmp_path / "out", "--supervised")
    wait_until(lambda: 1 in steps_of(tmp_path / "out"))
    stdin_of(child).close()
    assert child.wait(timeout=60) == -signal.SIGKILL
    assert not (tmp_path / "out" / "result.json").exists()


def test_a_silent_supervisor_takes_the_run_with_it(places: dict[str, Path], tmp_path: Path) -> None:
    child = start_child(
        planted_config("reward", **places, batch=LONG), tmp_path / "out", "--supervised", "--lease", "6"
    )
    assert child.wait(timeout=60) == -signal.SIGKILL


def test_sigterm_stops_and_without_the_flag_stdin_means_nothing(places: dict[str, Path], tmp_path: Path) -> None:
    child = start_child(planted_config("reward", **places, batch=LONG), tmp_path / "out")
    stdin_of(child).close()
    wait_until(lambda: 1 in steps_of(tmp_path / "out"))
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=60) == 0
    assert result_of(tmp_path / "out")["status"] == "stopped"


def test_requests_are_remembered_and_a_repeat_changes_nothing() -> None:
    supervision = Supervision()
    assert not supervision.stop_requested
    supervision.raise_if_overdue(grace_seconds=0)
    supervision.request_stop()
    supervision.request_stop()
    assert supervision.stop_requested
    supervision.raise_if_overdue(grace_seconds=1000)
    with pytest.raises(StopRun):
        supervision.raise_if_overdue(grace_seconds=0)
    supervision.request_checkpoint()
    assert supervision.take_checkpoint_request()
    assert not supervision.take_checkpoint_request()
