"""The processes of `make run`: one start, restarts, an end in order, and no orphans."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from tests.services.servers import free_port
from winnow import supervisor
from winnow.env import read_environment
from winnow.supervisor import Group, Program, StartError

OWNER = """
import os, sys, time
from winnow.supervisor import Group, Program
children = [Program(name, "tests.winnow.child", [name, sys.argv[1]]) for name in ("web", "gpu")]
Group(children, environ=os.environ).start()
time.sleep(600)
"""


def until(condition, *, seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def notes(directory: Path, what: str) -> list[str]:
    file = directory / "notes"
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    return [words[0] if what == "stopped" else words[2] for words in lines if words[1] == what]


def group_of(directory: Path, *programs: tuple[str, int, list[str]], log: io.StringIO | None = None) -> Group:
    return Group(
        [
            Program(name, "tests.winnow.child", [name, str(directory), *manner], stop_rank=rank, stop_seconds=5)
            for name, rank, manner in programs
        ],
        environ=os.environ,
        log=log or io.StringIO(),
    )


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_a_program_that_dies_is_started_again_and_its_lines_carry_its_name(tmp_path):
    log = io.StringIO()
    group = group_of(tmp_path, ("gpu", 1, []), log=log)
    group.start()
    try:
        assert until(lambda: len(notes(tmp_path, "started")) == 1)
        os.kill(int(notes(tmp_path, "started")[0]), signal.SIGKILL)
        assert until(lambda: len(notes(tmp_path, "started")) == 2, seconds=5)
        assert group.failure is None
    finally:
        group.stop()
    assert "gpu | gpu says hello" in log.getvalue()
    assert "gpu ended (killed by signal 9); starting it again in 1 s" in log.getvalue()


def test_five_deaths_in_a_minute_end_everything_with_the_last_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "LONGEST_BACKOFF_SECONDS", 0.05)
    group = group_of(tmp_path, ("gpu", 1, ["die"]), ("web", 2, []))
    group.start()
    try:
        assert until(lambda: group.failure is not None)
    finally:
        group.stop()
    assert "gpu died 5 times within a minute" in group.failure
    assert "gpu says hello" in group.failure
    assert len(notes(tmp_path, "started")) == 6  # five of gpu, one of web
    assert notes(tmp_path, "stopped") == ["web"]


def test_programs_stop_in_their_order(tmp_path):
    group = group_of(tmp_path, ("web", 3, []), ("tick", 2, []), ("gpu", 1, []))
    group.start()
    assert until(lambda: len(notes(tmp_path, "started")) == 3)
    group.stop()
    assert notes(tmp_path, "stopped") == ["gpu", "tick", "web"]
    group.stop()  # a second call does nothing


def test_a_second_ctrl_c_kills_what_does_not_stop(tmp_path):
    group = group_of(tmp_path, ("gpu", 1, ["stubborn"]))
    group.start()
    assert until(lambda: notes(tmp_path, "started"))
    threading.Timer(0.5, group.kill).start()
    started = time.monotonic()
    group.stop()
    assert time.monotonic() - started < 3
    assert not is_alive(int(notes(tmp_path, "started")[0]))


def test_children_end_when_the_supervisor_is_killed(tmp_path):
    owner = subprocess.Popen([sys.executable, "-c", OWNER, tmp_path])
    assert until(lambda: len(notes(tmp_path, "started")) == 2)
    children = [int(pid) for pid in notes(tmp_path, "started")]
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert until(lambda: not any(is_alive(pid) for pid in children), seconds=5)
    assert sorted(notes(tmp_path, "stopped")) == ["gpu", "web"]  # asked, not killed: a worker saves its checkpoint


def test_a_second_start_on_the_same_data_is_refused(tmp_path):
    with supervisor.lock_data(tmp_path), pytest.raises(StartError, match=rf"already runs .*process {os.getpid()}"):
        supervisor.lock_data(tmp_path)
    supervisor.lock_data(tmp_path).close()


def test_a_used_port_is_an_error_that_names_the_setting():
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        port = used.getsockname()[1]
        with pytest.raises(StartError, match=f"Port {port} on 127.0.0.1 is in use.*WINNOW_PORT={port + 1}"):
            supervisor.check_port("127.0.0.1", port)
    supervisor.check_port("127.0.0.1", port)
    with pytest.raises(StartError, match="WINNOW_BIND"):
        supervisor.check_port("192.0.2.1", port)


def test_sqlite_refuses_several_web_processes_and_postgresql_runs_them(tmp_path):
    sqlite = read_environment({"WINNOW_DATA_DIR": str(tmp_path)})
    with pytest.raises(StartError, match="WEB_CONCURRENCY=4"):
        supervisor.programs(sqlite, web_processes=4)
    (web, *_) = supervisor.programs(sqlite)
    assert {"--workers=1", "--threads=16", "--keep-alive=65"} <= set(web.arguments)
    postgres = read_environment({"WINNOW_DATABASE_URL": "postgresql://w@h/w", "WINNOW_DATA_DIR": str(tmp_path)})
    (web, *others) = supervisor.programs(postgres, web_processes=4)
    assert {"--workers=4", "--threads=8"} <= set(web.arguments)
    assert [program.name for program in others] == ["cpu", "gpu", "tick"]


def test_an_open_address_without_tls_is_refused_unless_asked_for(tmp_path):
    environment = read_environment({"WINNOW_DATA_DIR": str(tmp_path), "WINNOW_BIND": "0.0.0.0"})
    with pytest.raises(StartError, match="--insecure"):
        supervisor.serve(environment, web_processes=None, insecure=False)


@pytest.mark.parametrize(
    ("path", "kind"), [("/data/team/var", "nfs4"), ("/data/var", None), ("/home/x", None), ("/elsewhere", None)]
)
def test_a_network_file_system_is_recognised(tmp_path, path, kind):
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/sda1 / ext4 rw 0 0\nserver:/x /data/team nfs4 rw 0 0\n/dev/sdb /data ext4 rw 0 0\n")
    assert supervisor.on_network_file_system(Path(path), mounts=mounts) == kind


def test_without_a_mount_table_nothing_is_claimed(tmp_path):
    assert supervisor.on_network_file_system(tmp_path, mounts=tmp_path / "missing") is None


def answer(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return response.status
    except OSError:
        return 0


@pytest.mark.real_model
def test_the_whole_group_serves_survives_a_killed_web_and_stops_cleanly(tmp_path, real_model):
    data, port = tmp_path / "data", free_port()
    (data / "models").mkdir(parents=True)
    (data / "models" / real_model.name).symlink_to(real_model)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WINNOW_")}
    environ |= {"WINNOW_DATA_DIR": str(data), "WINNOW_PORT": str(port)}
    log = (tmp_path / "log").open("w+")
    command = [sys.executable, "-m", "winnow.supervisor"]
    served = subprocess.Popen(command, env=environ, stdout=log, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}/readyz"
        assert until(lambda: answer(url) == 200, seconds=90), (tmp_path / "log").read_text()
        second = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30)
        assert second.returncode == 1
        assert "already runs" in second.stderr
        children = Path(f"/proc/{served.pid}/task/{served.pid}/children").read_text().split()
        (web,) = (pid for pid in children if b"gunicorn" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.killpg(int(web), signal.SIGKILL)
        assert until(lambda: answer(url) == 0)
        assert until(lambda: answer(url) == 200, seconds=15), (tmp_path / "log").read_text()
        served.send_signal(signal.SIGTERM)
        assert served.wait(100) == 0, (tmp_path / "log").read_text()
        assert not any(is_alive(int(pid)) for pid in children)
    finally:
        served.kill()
        served.wait()
        log.close()
