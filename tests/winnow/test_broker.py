"""The directory transport: nothing lost, nothing doubled, nothing half-read, nothing kept past its time."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from queue import Empty

import pytest
from kombu import Connection

import winnow.broker
from winnow.broker import BrokerDirectoryError, DirectoryChannel

PUBLISHER = """
import sys
import winnow.broker
from kombu import Connection
directory, who, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Connection("directory://", transport_options={"directory": directory}) as connection:
    queue = connection.SimpleQueue("cpu")
    for number in range(count):
        queue.put({"id": f"{who}-{number}"})
"""
CONSUMER = """
import sys
from queue import Empty
import winnow.broker
from kombu import Connection
with Connection("directory://", transport_options={"directory": sys.argv[1]}) as connection:
    queue = connection.SimpleQueue("cpu", no_ack=True)
    while True:
        try:
            print(queue.get(timeout=3).payload["id"], flush=True)
        except Empty:
            break
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "broker"


def connect(directory: Path) -> Connection:
    return Connection("directory://", transport_options={"directory": str(directory)})


def channel(directory: Path) -> DirectoryChannel:
    return connect(directory).default_channel


def test_four_publishers_and_two_consumers_lose_and_double_nothing(directory):
    consumers = [
        subprocess.Popen([sys.executable, "-c", CONSUMER, directory], stdout=subprocess.PIPE, text=True) for _ in "12"
    ]
    publishers = [subprocess.Popen([sys.executable, "-c", PUBLISHER, directory, who, "100"]) for who in "abcd"]
    assert [publisher.wait(60) for publisher in publishers] == [0] * 4
    seen = Counter(line for consumer in consumers for line in consumer.communicate(timeout=60)[0].split())
    assert seen == Counter(f"{who}-{number}" for who in "abcd" for number in range(100))
    assert not [path for path in directory.rglob("*") if path.is_file()]


def test_messages_come_in_the_order_they_were_sent(directory):
    with connect(directory) as connection:
        queue = connection.SimpleQueue("cpu", no_ack=True)
        for number in range(10):
            queue.put(number)
        assert [queue.get(timeout=2).payload for _ in range(10)] == list(range(10))


def test_a_half_written_message_is_never_read(directory):
    receiver = channel(directory)
    draft = directory / "ctl" / "1700000000000000000_00000000000000000000000000000000.cpu.msg.tmp"
    draft.write_text('{"body": "half')
    with pytest.raises(Empty):
        receiver._get("cpu")
    (directory / "q" / "1700000000000000000_00000000000000000000000000000000.cpu.msg").write_text('{"body": "half')
    with pytest.raises(Empty):
        receiver._get("cpu")


def test_readers_never_see_a_partial_file_while_large_messages_are_written(directory):
    sender, receiver = channel(directory), channel(directory)
    big = {"headers": {}, "properties": {}, "body": "x" * 300_000}
    writer = threading.Thread(target=lambda: [sender._put("cpu", big) for _ in range(30)])
    writer.start()
    received, deadline = 0, time.monotonic() + 30
    while received < 30 and time.monotonic() < deadline:
        try:
            assert receiver._get("cpu") == big
            received += 1
        except Empty:
            time.sleep(0.001)
    writer.join()
    assert received == 30


@pytest.mark.parametrize(
    "mark", [{"headers": {"expires": "2020-01-01T00:00:00+00:00"}}, {"properties": {"expiration": "0"}}]
)
def test_an_expired_message_is_dropped(directory, mark):
    both = channel(directory)
    both._put("cpu", {"headers": {}, "properties": {}, "body": "old"} | mark)
    both._put("cpu", {"headers": {"expires": "2999-01-01T00:00:00"}, "properties": {}, "body": "new"})
    assert both._get("cpu")["body"] == "new"
    with pytest.raises(Empty):
        both._get("cpu")


def test_expired_messages_of_an_unread_queue_go_when_the_next_process_connects(directory):
    channel(directory)._put("gpu", {"headers": {"expires": "2020-01-01T00:00:00+00:00"}, "properties": {}})
    assert channel(directory)._size("gpu") == 0


def test_queues_do_not_see_each_other(directory):
    both = channel(directory)
    both._put("cpu", {"headers": {}, "properties": {}, "body": "1"})
    with pytest.raises(Empty):
        both._get("gpu")
    assert (both._size("cpu"), both._size("gpu")) == (1, 0)
    assert both._purge("cpu") == 1


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".", "a.b", "x" * 65])
def test_a_queue_name_that_could_be_a_path_is_refused(directory, name):
    with pytest.raises(BrokerDirectoryError):
        channel(directory)._put(name, {})


def test_strange_files_in_the_directory_are_ignored(directory):
    both = channel(directory)
    (directory / "q" / "README").write_text("hello")
    (directory / "q" / "..cpu.msg").write_text("{}")
    with pytest.raises(Empty):
        both._get("cpu")


def test_directory_and_messages_are_for_the_owner_alone(directory):
    channel(directory)._put("cpu", {"headers": {}, "properties": {}})
    (message,) = (directory / "q").iterdir()
    assert stat.S_IMODE(message.stat().st_mode) == 0o600
    for folder in (directory, *(path for path in directory.iterdir())):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert json.loads(message.read_text()) == {"headers": {}, "properties": {}}


def test_the_transport_needs_its_directory():
    with pytest.raises(BrokerDirectoryError):
        Connection("directory://").default_channel  # noqa: B018
    assert winnow.broker.DirectoryTransport.polling_interval == 0.5
