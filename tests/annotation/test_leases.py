"""The queue: leases, their renewal and their end; sides; what is left."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from scipy.stats import binom

from annotation import assignment as assignments
from annotation.assignment import AssignmentOver
from annotation.consensus import settle_due
from annotation.models import Assignment, AssignmentState, Flag, FlagKind, Project, Slot, SlotState
from annotation.progress import progress, why_nothing
from tests import builders
from tests.builders import NOW

pytestmark = pytest.mark.django_db
LATER = NOW + timedelta(minutes=16)


@pytest.fixture
def project():
    return builders.project(overlap=2)


@pytest.fixture
def ann(project):
    return builders.member(project, "ann")


def why(project, person, now=NOW):
    return why_nothing(project=project, membership=project.memberships.get(user=person), now=now)


def left(project, person, now=NOW):
    return progress(project=project, membership=project.memberships.get(user=person), now=now).remaining


def test_a_tab_gets_its_own_leases_again_before_new_ones(project, ann):
    builders.comparisons(project, 5)
    first = builders.lease(project, ann, wanted=2)
    again = builders.lease(project, ann, wanted=4, now=NOW + timedelta(minutes=5))
    assert [item.pk for item in again[:2]] == [item.pk for item in first]
    assert len({item.comparison_id for item in again}) == 4
    assert {item.lease_expires_at for item in again} == {NOW + timedelta(minutes=20)}


def test_an_expired_lease_that_nobody_has_taken_is_renewed_for_its_tab(project, ann):
    builders.comparisons(project)
    (first,) = builders.lease(project, ann)
    (again,) = builders.lease(project, ann, now=LATER)
    assert again.pk == first.pk
    assert Slot.objects.get(assignment=first).lease_expires_at == LATER + timedelta(minutes=15)


def test_a_tab_holds_five_and_a_person_twenty(project, ann):
    builders.comparisons(project, 30)
    assert len(builders.lease(project, ann, wanted=50, tab="one")) == 5
    for tab in ("two", "three", "four"):
        assert len(builders.lease(project, ann, wanted=5, tab=tab)) == 5
    assert builders.lease(project, ann, wanted=5, tab="five") == []
    assert why(project, ann) == "held_by_others"
    assert left(project, ann) == 30


def test_two_tabs_of_a_person_get_different_comparisons(project, ann):
    builders.comparisons(project, 2)
    (one,) = builders.lease(project, ann, tab="one")
    (two,) = builders.lease(project, ann, tab="two")
    assert one.comparison_id != two.comparison_id
    assert builders.lease(project, ann, tab="three") == []


def test_a_comparison_goes_to_as_many_people_as_votes_are_wanted(project, ann):
    builders.comparisons(project)
    assert builders.lease(project, ann)
    assert builders.lease(project, builders.member(project, "ben"))
    cid = builders.member(project, "cid")
    assert builders.lease(project, cid) == []
    assert why(project, cid) == "held_by_others"


def test_an_expired_lease_goes_to_somebody_else(ann):
    project = builders.project(overlap=1, slug="single")
    builders.comparisons(project)
    (of_ann,) = builders.lease(project, builders.member(project, "ann"))
    ben = builders.member(project, "ben")
    assert builders.lease(project, ben) == []
    (of_ben,) = builders.lease(project, ben, now=LATER)
    of_ann.refresh_from_db()
    assert (of_ann.state, of_ann.ended_at) == (AssignmentState.EXPIRED, LATER)
    assert Slot.objects.get().assignment == of_ben


def test_a_renewed_lease_is_not_handed_on_and_does_not_expire(ann):
    project = builders.project(overlap=1, slug="single")
    builders.comparisons(project)
    builders.lease(project, builders.member(project, "ann"), tab="mine")
    assert assignments.renew(project=project, annotator=ann, tab="mine", now=NOW + timedelta(minutes=10)) == 1
    assert assignments.renew(project=project, annotator=ann, tab="other", now=NOW + timedelta(minutes=10)) == 0
    assert builders.lease(project, builders.member(project, "ben"), now=LATER) == []
    assert assignments.expire(LATER) == 0


def test_a_lease_that_was_renewed_after_it_was_read_does_not_expire(project, ann):
    builders.comparisons(project)
    stale = builders.lease(project, ann)
    assignments.renew(project=project, annotator=ann, tab="tab", now=LATER)
    assert assignments.end(assignments=stale, state=AssignmentState.EXPIRED, now=LATER) == 0
    assert Slot.objects.filter(state=SlotState.LEASED).count() == 1


def test_a_sole_annotator_gets_the_own_expired_lease_of_another_tab_again(ann):
    project = builders.project(overlap=1, slug="single")
    builders.member(project, "ann")
    builders.comparisons(project)
    (lost,) = builders.lease(project, ann, tab="crashed")
    assert builders.lease(project, ann, tab="new") == []
    assert why(project, ann) == "held_by_others"  # not "all done": the own lease of the other tab still runs
    (again,) = builders.lease(project, ann, tab="new", now=LATER)
    assert again.comparison_id == lost.comparison_id
    lost.refresh_from_db()
    assert lost.state == AssignmentState.EXPIRED


def test_released_leases_are_free_at_once_and_a_second_release_does_nothing(project, ann):
    builders.comparisons(project, 2)
    one, two = builders.lease(project, ann, wanted=2)

    def give_back(tab):
        return assignments.release(
            project=project, annotator=ann, tab=tab, public_ids=[one.public_id, two.public_id], now=NOW
        )

    assert give_back("elsewhere") == 0
    assert give_back("tab") == 2
    assert give_back("tab") == 0
    assert Slot.objects.filter(state=SlotState.OPEN).count() == 4
    assert len(builders.lease(project, ann, wanted=2)) == 2


def test_a_skipped_comparison_goes_to_others_and_not_to_the_same_person_again(ann):
    project = builders.project(overlap=1, slug="single")
    builders.member(project, "ann")
    builders.comparisons(project)
    (leased,) = builders.lease(project, ann)
    assignments.skip(assignment=leased, reason="too_long", now=NOW)
    assert builders.lease(project, ann) == []
    assert why(project, ann) == "all_done"
    assert builders.lease(project, builders.member(project, "ben"))


def test_a_second_skip_changes_nothing(project, ann):
    builders.comparisons(project)
    (leased,) = builders.lease(project, ann)
    assignments.skip(assignment=leased, reason="too_long", now=NOW)
    assignments.skip(assignment=leased, reason="broken", now=LATER)
    leased.refresh_from_db()
    assert (leased.state, leased.reason, leased.ended_at) == (AssignmentState.SKIPPED, "too_long", NOW)


def test_a_comparison_with_a_vote_cannot_be_skipped(project, ann):
    builders.comparisons(project)
    (leased,) = builders.lease(project, ann)
    builders.vote(leased)
    with pytest.raises(AssignmentOver):
        assignments.skip(assignment=leased, reason="too_long", now=NOW)


def test_a_skip_with_an_expired_lease_holds(project, ann):
    builders.comparisons(project)
    (leased,) = builders.lease(project, ann)
    assignments.expire(LATER)
    leased.refresh_from_db()
    assignments.skip(assignment=leased, reason="too_long", now=LATER)
    assert builders.lease(project, ann, now=LATER) == []


@pytest.mark.parametrize("then", ["skip", "flag"])
def test_a_skip_from_the_old_tab_ends_the_lease_of_the_new_one(project, ann, then):
    builders.comparisons(project)
    (old,) = builders.lease(project, ann, tab="old")
    (new,) = builders.lease(project, ann, tab="new", now=LATER)
    if then == "skip":
        assignments.skip(assignment=old, reason="too_long", now=LATER)
    else:
        assignments.flag(assignment=old, kind=FlagKind.BROKEN, note="", now=LATER)
    new.refresh_from_db()
    assert new.state == {"skip": AssignmentState.SKIPPED, "flag": AssignmentState.FLAGGED}[then]
    assert Slot.objects.filter(state=SlotState.OPEN).count() == 2
    assert builders.lease(project, ann, now=LATER) == []


def test_a_skip_from_the_old_tab_is_refused_after_the_vote_in_the_new_one(project, ann):
    builders.comparisons(project)
    (old,) = builders.lease(project, ann, tab="old")
    (new,) = builders.lease(project, ann, tab="new", now=LATER)
    builders.vote(new, now=LATER)
    with pytest.raises(AssignmentOver):
        assignments.skip(assignment=old, reason="too_long", now=LATER)


def test_a_flag_without_a_vote_ends_the_assignment_and_is_stored_once(project, ann):
    builders.comparisons(project)
    (leased,) = builders.lease(project, ann)
    for _ in range(2):
        assignments.flag(assignment=leased, kind=FlagKind.HARMFUL, note="a threat", now=NOW)
    leased.refresh_from_db()
    assert leased.state == AssignmentState.FLAGGED
    assert Flag.objects.count() == 1
    assert leased.comparison.consensus.due_at == NOW
    assert Slot.objects.filter(state=SlotState.OPEN).count() == 2


def test_a_flag_beside_a_vote_leaves_the_vote(project, ann):
    builders.comparisons(project)
    (leased,) = builders.lease(project, ann)
    builders.vote(leased)
    assignments.flag(assignment=leased, kind=FlagKind.OTHER, note="", now=NOW)
    leased.refresh_from_db()
    assert leased.state == AssignmentState.VOTED
    assert Slot.objects.filter(state=SlotState.DONE).count() == 1


def test_the_tick_opens_slots_whose_lease_is_over(project, ann):
    builders.comparisons(project, 3)
    builders.lease(project, ann, wanted=3)
    assert assignments.expire(NOW + timedelta(minutes=15)) == 0  # the last moment still counts
    assert assignments.expire(LATER, limit=2) == 2
    assert assignments.expire(LATER) == 1
    assert assignments.expire(LATER) == 0
    assert Slot.objects.filter(state=SlotState.OPEN).count() == 6


def test_a_paused_project_hands_out_nothing_new(project, ann):
    builders.comparisons(project, 3)
    held = builders.lease(project, ann)
    project.paused_at = NOW
    assert [item.pk for item in builders.lease(project, ann, wanted=3)] == [item.pk for item in held]
    ben = builders.member(project, "ben")
    assert builders.lease(project, ben) == []
    assert why(project, ben) == "paused"


def test_why_there_is_nothing_to_do(project, ann):
    assert why(project, ann) == "nothing_yet"
    builders.comparisons(project)
    builders.vote(builders.lease(project, ann)[0])
    assert why(project, ann) == "all_done"


def test_what_remains_falls_by_one_with_each_vote(project, ann):
    builders.comparisons(project, 4)
    assert left(project, ann) == 4
    for i, item in enumerate(builders.lease(project, ann, wanted=3), start=1):
        assert left(project, ann) == 4 - i + 1
        builders.vote(item)
        assert left(project, ann) == 4 - i


def test_a_higher_priority_goes_first_wherever_a_person_starts(project):
    builders.comparisons(project, 12)
    (urgent,) = builders.comparisons(project, 1, start=100, overlap=8)
    Slot.objects.filter(comparison=urgent).update(priority=5)
    for i in range(8):
        (leased,) = builders.lease(project, builders.member(project, f"p{i}"))
        assert leased.comparison_id == urgent.pk


def test_everybody_walks_the_whole_queue_once_round(project):
    builders.comparisons(project, 12)
    for name in ("ann", "ben"):
        person = builders.member(project, name)
        seen = []
        while leased := builders.lease(project, person, wanted=5):
            for item in leased:
                seen.append(item.comparison_id)
                builders.vote(item)
        assert len(seen) == len(set(seen)) == 12


def test_sides_are_balanced_over_a_comparison_and_over_a_sitting():
    project = builders.project(overlap=2)
    made = builders.comparisons(project, 60)
    people = [builders.member(project, name) for name in ("ann", "ben")]
    rng = random.Random(7)
    for person in people:
        while leased := assignments.lease(project=project, annotator=person, tab="tab", wanted=5, now=NOW, rng=rng):
            for item in leased:
                builders.vote(item)
    for comparison in made:
        assert sorted(comparison.assignments.values_list("sides", flat=True)) == ["ab", "ba"]
    for person in people:
        sides = list(Assignment.objects.filter(annotator=person).values_list("sides", flat=True))
        low, high = binom.interval(0.999, len(sides), 0.5)
        assert low <= sides.count("ab") <= high


def test_first_sides_are_a_fair_coin():
    project = builders.project(overlap=1)
    people = [builders.member(project, f"p{i}") for i in range(60)]
    builders.comparisons(project, 60)
    rng = random.Random(11)
    for person in people:  # each one's first lease: nothing to balance against
        assignments.lease(project=project, annotator=person, tab="t", wanted=1, now=NOW, rng=rng)
    low, high = binom.interval(0.999, 60, 0.5)
    assert low <= Assignment.objects.filter(sides="ab").count() <= high


def test_a_claim_is_nine_statements_and_each_of_its_queries_is_one_stretch_of_the_queue_index(project, ann):
    builders.comparisons(project, 200)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    member = project.memberships.get(user=ann)
    # SAVEPOINT, own leases, audiences, claim, two for the sides, insert, slot, RELEASE; behind the start only where the
    # person has come to the end.
    with CaptureQueriesContext(connection) as queries:
        assignments.lease(
            project=project, annotator=ann, tab="t", wanted=1, now=NOW, rng=random.Random(0), membership=member
        )
    assert len(queries) == 9
    (claim,) = [query["sql"] for query in queries if "RANK" in query["sql"].upper() and "SELECT" in query["sql"]]
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {claim}")
            plan = "\n".join(row[3] for row in cursor.fetchall())
        index = "USING INDEX slot_queue (project_id=? AND audience=? AND priority=? AND rank>?)"
        assert index in plan.replace("<expr>", "priority"), plan
        assert "TEMP B-TREE FOR ORDER BY" not in plan.split("SUBQUERY")[0], plan


def test_a_withdrawn_comparison_is_handed_to_nobody(project, ann):
    Project.objects.update(flag_limit=1)
    builders.comparisons(project, 1)
    ada = builders.member(project, "ada")
    (leased,) = builders.lease(project, ann)
    assignments.flag(assignment=leased, kind=FlagKind.PERSONAL_DATA, note="", now=NOW)
    settle_due(now=NOW)
    assert builders.lease(project, ada) == []
