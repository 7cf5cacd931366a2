"""The same person in two tabs, and researchers beside annotators: real threads on a real database."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from annotation import assignment as assignments
from annotation.models import Comparison, Retraction, Slot, SlotState, Vote
from annotation.pairing import change_overlap
from annotation.voting import AlreadyVoted, Frozen, retract
from tests import builders
from tests.builders import NOW
from training.engine.records import iter_lines
from training.snapshots import FreezeRule, NoPreferences, freeze, snapshot_path

pytestmark = pytest.mark.django_db(transaction=True)


def together(*actions: Callable[[], object]) -> list[object]:
    """Run the actions at once; what each returned or raised."""
    gate = threading.Barrier(len(actions))
    results: list[object] = [None] * len(actions)

    def run(i: int, action: Callable[[], object]) -> None:
        try:
            gate.wait()
            results[i] = action()
        except Exception as error:
            results[i] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(i, action)) for i, action in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def errors(results: list[object], *expected: type[Exception]) -> list[object]:
    return [item for item in results if isinstance(item, Exception) and not isinstance(item, expected)]


def test_a_heartbeat_in_the_same_moment_does_not_make_a_vote_surplus():
    project = builders.project(overlap=1)
    ann = builders.member(project, "ann")
    builders.comparisons(project, 20)
    over = threading.Event()

    def vote_on_all():
        receipts = []
        try:
            while leased := builders.lease(project, ann, wanted=3):
                receipts += [builders.vote(item) for item in leased]
        finally:
            over.set()
        return receipts

    def stay():
        while not over.is_set():
            assignments.renew(project=project, annotator=ann, tab="tab", now=NOW)

    results = together(vote_on_all, stay, stay)
    assert errors(results) == []
    assert [receipt.counted for receipt in results[0]] == [True] * 20


@pytest.mark.skipif("connection.vendor == 'sqlite'", reason="SQLite has one writer at a time")
def test_a_vote_waits_for_its_own_slot():
    project = builders.project(overlap=1)
    ann = builders.member(project, "ann")
    builders.comparisons(project)
    (leased,) = builders.lease(project, ann)
    held = threading.Event()

    def hold():
        with transaction.atomic():
            Slot.objects.select_for_update().get(assignment=leased)
            held.set()
            threading.Event().wait(0.3)

    def vote():
        held.wait()
        return builders.vote(leased)

    _, receipt = together(hold, vote)
    assert receipt.counted


def test_the_same_request_twice_at_once_is_one_vote():
    project = builders.project(overlap=2)
    ann = builders.member(project, "ann")
    builders.comparisons(project, 6)
    for _ in range(6):
        (leased,) = builders.lease(project, ann)
        key = uuid4()
        results = together(*[lambda leased=leased, key=key: builders.vote(leased, "a", key=key)] * 3)
        assert errors(results) == []
        assert sorted(receipt.replayed for receipt in results) == [False, True, True]
        assert len({receipt.vote.pk for receipt in results}) == 1
        assert all(receipt.counted for receipt in results)
    assert Vote.objects.count() == Slot.objects.filter(state=SlotState.DONE).count() == 6


def test_two_answers_at_once_are_one_vote_and_a_refusal():
    project = builders.project(overlap=2)
    ann = builders.member(project, "ann")
    builders.comparisons(project, 6)
    for _ in range(6):
        (leased,) = builders.lease(project, ann)
        results = together(
            lambda leased=leased: builders.vote(leased, "a"), lambda leased=leased: builders.vote(leased, "b")
        )
        assert errors(results, AlreadyVoted) == []
        assert sum(isinstance(item, AlreadyVoted) for item in results) == 1
    assert Vote.objects.count() == 6


def test_people_at_once_never_get_more_leases_than_votes_are_wanted():
    project = builders.project(overlap=2)
    people = [builders.member(project, f"p{i}") for i in range(6)]
    builders.comparisons(project, 5)
    tabs = [(person, tab) for person in people for tab in ("one", "two")]

    def work(person, tab):
        rng = random.Random(0)
        return [
            builders.vote(item)
            for _ in range(3)
            for item in assignments.lease(project=project, annotator=person, tab=tab, wanted=2, now=NOW, rng=rng)
        ]

    results = together(*[lambda who=who: work(*who) for who in tabs])
    assert errors(results) == []
    assert sum(len(result) for result in results) == Vote.objects.count() == 10
    assert not Slot.objects.exclude(state=SlotState.DONE).exists()


def test_changing_the_overlap_while_leases_end_leaves_no_slot_open_that_nobody_wants():
    project = builders.project(overlap=3)
    people = [builders.member(project, f"p{i}") for i in range(3)]
    for start in range(4):
        builders.comparisons(project, 3, start=10 * start, overlap=3)
        leased = [item for person in people for item in builders.lease(project, person, wanted=3)]
        builders.vote(leased[0])
        ends = [
            lambda part=leased[1 + k :: 4]: [
                assignments.skip(assignment=item, reason="too_long", now=NOW) for item in part
            ]
            for k in range(4)
        ]
        results = together(*ends, lambda: change_overlap(project=project, overlap=1, now=NOW))
        assert errors(results) == []
        for comparison in Comparison.objects.all():
            assert comparison.overlap == 1
            assert comparison.slots.count() == 1
        change_overlap(project=project, overlap=3, now=NOW)
        Slot.objects.filter(state=SlotState.OPEN).delete()


def test_expiring_while_others_take_over_neither_fails_nor_doubles():
    project = builders.project(overlap=2)
    people = [builders.member(project, f"p{i}") for i in range(5)]
    builders.comparisons(project, 6)
    for person in people[:2]:
        builders.lease(project, person, wanted=5)
    later = NOW + timedelta(minutes=16)
    takers = [lambda person=person: builders.lease(project, person, wanted=5, now=later) for person in people[2:]]
    results = together(*takers, lambda: assignments.expire(later), lambda: assignments.expire(later))
    assert errors(results) == []
    held = Slot.objects.filter(state=SlotState.LEASED)
    assert {item.pk for result in results[:3] for item in result} == set(held.values_list("assignment", flat=True))
    assert all(slot.assignment.state == "leased" for slot in held.select_related("assignment"))


def test_a_vote_taken_back_while_freezing_is_either_in_the_snapshot_or_gone():
    project = builders.project()
    for turn in range(4):
        made = builders.settled(project, 3, letters="a", people=1) if not turn else _more(project, turn)
        votes = list(Vote.objects.filter(comparison__in=made, retractions__isnull=True))
        # Each with a moment of its own, as requests have: a mark that a consensus is due is told by its moment.
        undo = [lambda vote=vote: retract(vote=vote, by=vote.annotator, now=timezone.now()) for vote in votes]
        results = together(
            lambda: freeze(project=project, rule=FreezeRule(), by=project.created_by, now=timezone.now()), *undo
        )
        assert errors(results, Frozen, NoPreferences) == []
        if isinstance(results[0], NoPreferences):
            continue
        lines = [
            line["id"]
            for part in ("train", "validation", "test")
            for line in iter_lines(snapshot_path(results[0]), part)
        ]
        undone = {str(pk) for pk in Retraction.objects.values_list("vote__comparison__public_id", flat=True)}
        assert not undone & set(lines)
        frozen = {
            str(pk) for pk in Comparison.objects.filter(frozen_at__isnull=False).values_list("public_id", flat=True)
        }
        assert set(lines) == frozen


def _more(project, turn):
    made = builders.comparisons(project, 3, overlap=1, start=100 * turn)
    ann = builders.member(project, f"ann{turn}")
    while leased := builders.lease(project, ann, wanted=5):
        for item in leased:
            builders.vote(item, "a")
    return made
