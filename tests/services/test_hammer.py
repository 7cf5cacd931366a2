"""No acknowledged vote is lost: real clients over HTTP, a web server killed under them, and SQL that counts."""

from __future__ import annotations

import http.client
import json
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest

from annotation.models import Assignment, Comparison, Retraction, Slot, Vote
from tests import builders
from tests.conftest import require_or_skip
from tests.services.hammer import ABOVE_TARGET, HOST, PROJECT, Site, check, hammer, read_answers
from tests.services.servers import NoService, free_port, postgres_database

pytestmark = pytest.mark.services


CLIENTS = {"sqlite": 8, "postgresql": 20}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def site(request, tmp_path_factory) -> Iterator[Site]:
    with ExitStack() as stack:
        made = Site(directory=tmp_path_factory.mktemp(request.param), port=free_port())
        if request.param == "postgresql":
            try:
                made.url = stack.enter_context(postgres_database())
            except NoService as error:
                require_or_skip(str(error))
            made.workers, made.threads = 2, 8
        stack.callback(made.kill)
        # Fewer people than clients, so that some have two tabs; the last is only for the first test.
        made.seed(comparisons=90, overlap=3, people=CLIENTS[request.param] * 3 // 4 + 1)
        yield made


def _post(site: Site, path: str, body: dict, key: str = "") -> dict:
    connection = http.client.HTTPConnection(HOST, site.port, timeout=20)
    headers = {"Authorization": f"Bearer {site.tokens[-1]}", "Content-Type": "application/json", "Idempotency-Key": key}
    connection.request("POST", f"/api/v1/annotate/{path}", json.dumps(body), headers)
    answer = connection.getresponse()
    content = json.loads(answer.read())
    assert answer.status < 300, content
    return content


def _answers(site: Site, n: int) -> list[dict]:
    queue = _post(site, f"projects/{PROJECT}/queue", {"tab": "t", "n": n})
    told = []
    for task in queue["items"]:
        answer = _post(site, f"assignments/{task['assignment']}/vote", {"choice": "left"}, key=str(uuid4()))
        told.append({"kind": "vote", "assignment": task["assignment"], "choice": "left", **answer})
    return told


def test_a_vote_is_there_when_the_web_is_killed_right_after_its_answer(site: Site):
    told = []
    for _ in range(2):
        site.start()
        told += _answers(site, 1)
        site.kill()
        with site.database() as execute:
            found = check(execute, told)
        assert found.faults == {}
        assert found.acknowledged == found.stored == len(told)


def test_no_acknowledged_vote_is_lost_or_counted_too_often(site: Site):
    clients = CLIENTS["postgresql" if site.url else "sqlite"]
    site.start()
    files = hammer(site, clients=clients, tokens=site.tokens[:-1], seconds=9, kills=2)
    with site.database() as execute:
        found = check(execute, read_answers(files))
        assert execute(ABOVE_TARGET) == [(0,)]
    site.kill()
    print(f"\n{'PostgreSQL' if site.url else 'SQLite'}: {clients} clients, 2 kills, {found}")
    assert found.faults == {}, (site.directory / "web.log").read_text()[-3000:]
    assert found.acknowledged > 20
    assert found.stored >= found.acknowledged


LOSSES = {
    "lost": "DELETE FROM annotation_vote WHERE id = {vote}",
    "lost, another answer": "UPDATE annotation_vote SET choice = 'tie' WHERE id = {vote}",
    "doubled": (
        "INSERT INTO annotation_vote (public_id, project_id, comparison_id, assignment_id, annotator_id, repetition, "
        "key, choice, body, body_hash, created_at) SELECT '{fresh}', project_id, comparison_id, assignment_id, "
        "annotator_id, repetition, '{fresh}', choice, body, body_hash, created_at FROM annotation_vote "
        "WHERE id = {vote}"
    ),
    "above_k": "UPDATE annotation_comparison SET overlap = 0",
    "done_without_vote": "UPDATE annotation_slot SET vote_id = NULL WHERE vote_id = {vote}",
    "uncounted": "DELETE FROM annotation_slot WHERE vote_id = {vote}",
    "double_counted": "UPDATE annotation_slot SET vote_id = {vote}, state = 'done' WHERE state = 'open'",
    "lost_retractions": "",
    "server_errors": "",
    "misunderstandings": "",
}


@pytest.mark.django_db
def test_the_checker_finds_planted_losses():
    """Each in a copy of the tables without their constraints."""
    project = builders.project(overlap=2)
    builders.comparisons(project, 4)
    told = []
    for leased in builders.lease(project, builders.member(project, "ann"), wanted=2):
        receipt = builders.vote(leased, leased.letter_of("left"))
        ids = {"key": receipt.vote.key, "vote": receipt.vote.public_id, "assignment": leased.public_id}
        told.append({"kind": "vote", "choice": "left", "counted": True, **{name: str(ids[name]) for name in ids}})
    lite = sqlite3.connect(":memory:", isolation_level=None)
    for model in (Comparison, Assignment, Vote, Retraction, Slot):
        columns = [column.column for column in model._meta.concrete_fields]
        lite.execute(f"CREATE TABLE {model._meta.db_table} ({', '.join(columns)})")
        for row in model.objects.values_list(*(column.attname for column in model._meta.concrete_fields)):
            plain = [value if isinstance(value, (int, type(None))) else str(value) for value in row]
            lite.execute(f"INSERT INTO {model._meta.db_table} VALUES ({', '.join('?' * len(row))})", plain)

    def execute(sql):
        return lite.execute(sql).fetchall()

    assert check(execute, told).faults == {}
    assert execute(ABOVE_TARGET) == [(0,)]
    for fault, sql in LOSSES.items():
        answers = list(told)
        if fault == "lost_retractions":
            answers.append({"kind": "retraction", "vote": told[0]["vote"]})
        elif not sql:
            answers.append({"kind": fault.removesuffix("s")})
        execute("BEGIN")
        ((vote,),) = execute("SELECT min(id) FROM annotation_vote")
        if sql:
            execute(sql.format(vote=vote, fresh=uuid4()))
        assert check(execute, answers).faults.get(fault.split(",")[0], 0) >= 1, fault
        assert (execute(ABOVE_TARGET) > [(0,)]) is (fault == "above_k")
        execute("ROLLBACK")
