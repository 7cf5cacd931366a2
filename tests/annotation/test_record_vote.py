"""Votes: stored once, counted at most as often as wanted, never refused for coming late."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction

from annotation import assignment as assignments
from annotation.errors import Invalid
from annotation.feedback import Form
from annotation.models import Assignment, AssignmentState, Retraction, Role, Slot, SlotState, Vote
from annotation.pairing import change_overlap
from annotation.voting import (
    AlreadyRetracted,
    AlreadyVoted,
    Answer,
    Frozen,
    KeyReused,
    record_vote,
    retract,
)
from tests import builders
from tests.builders import NOW

pytestmark = pytest.mark.django_db
LATER = NOW + timedelta(minutes=16)  # after a lease of 15 minutes


@pytest.fixture
def project():
    return builders.project(overlap=2)


@pytest.fixture
def ann(project):
    return builders.member(project, "ann")


def say(assignment, choice, key, *, now=NOW, **fields):
    return record_vote(
        assignment=assignment, annotator=assignment.annotator, key=key, answer=Answer(choice=choice, **fields), now=now
    )


def test_a_vote_fills_its_slot_and_is_stored_in_stored_order(project, ann):
    builders.comparisons(project)
    (leased,) = builders.lease(project, ann)
    receipt = say(leased, "left", uuid4(), rationale="It answers.", active_ms=1200)
    assert receipt.counted
    assert not receipt.replayed
    vote = Vote.objects.get()
    assert vote.choice == leased.sides[0]
    assert vote.body == {"rationale": "It answers."}
    assert (vote.active_ms, vote.guideline.number, vote.created_at) == (1200, 1, NOW)
    slot = Slot.objects.get(vote=vote)
    assert (slot.state, slot.assignment_id, slot.lease_expires_at) == (SlotState.DONE, leased.pk, None)
    leased.refresh_from_db()
    assert leased.state == AssignmentState.VOTED
    assert vote.comparison.consensus.due_at == NOW


def test_the_same_request_again_is_the_first_vote(project, ann):
    builders.comparisons(project)
    (leased,) = builders.lease(project, ann)
    key = uuid4()
    first = say(leased, "right", key, active_ms=10)
    again = say(leased, "right", key, active_ms=99, now=LATER)
    assert again.replayed
    assert again.counted
    assert again.vote.pk == first.vote.pk
    assert Vote.objects.count() == 1


@pytest.mark.parametrize("other", [{"choice": "left"}, {"choice": "right", "rationale": "Changed my mind."}])
def test_a_key_with_another_body_is_refused_and_changes_nothing(project, ann, other):
    builders.comparisons(project)
    (leased,) = builders.lease(project, ann)
    key = uuid4()
    say(leased, "right", key)
    with pytest.raises(KeyReused):
        say(leased, other["choice"], key, rationale=other.get("rationale", ""))
    assert Vote.objects.count() == 1


def test_a_key_of_another_assignment_or_person_is_refused(project, ann):
    builders.comparisons(project, 2)
    first, second = builders.lease(project, ann, wanted=2)
    key = uuid4()
    say(first, "left", key)
    with pytest.raises(KeyReused):
        say(second, "left", key)
    (of_ben,) = builders.lease(project, builders.member(project, "ben"))
    with pytest.raises(KeyReused):
        say(of_ben, "left", key)
    assert Vote.objects.count() == 1


def test_a_second_vote_with_a_new_key_is_refused(project, ann):
    builders.comparisons(project)
    (leased,) = builders.lease(project, ann)
    builders.vote(leased, "a")
    with pytest.raises(AlreadyVoted):
        builders.vote(leased, "b")
    assert Vote.objects.get().choice == "a"


def test_a_tie_is_refused_where_the_project_allows_none(ann):
    strict = builders.project(slug="strict", form=Form(allow_tie=False))
    builders.member(strict, "ann")
    builders.comparisons(strict)
    (leased,) = builders.lease(strict, ann)
    with pytest.raises(Invalid, match="choice: must be one of left, right, got 'tie'"):
        builders.vote(leased, "tie")
    assert not Vote.objects.exists()


def test_a_late_vote_takes_a_free_slot(project, ann):
    builders.comparisons(project)
    (leased,) = builders.lease(project, ann)
    assignments.expire(LATER)
    receipt = builders.vote(leased, "a", now=LATER)
    assert receipt.counted
    assert Slot.objects.filter(vote=receipt.vote, assignment=leased, state=SlotState.DONE).count() == 1


def test_a_late_vote_takes_over_the_expired_lease_of_somebody_else(ann):
    project = builders.project(overlap=1, slug="single")
    builders.member(project, "ann")
    builders.comparisons(project)
    (of_ann,) = builders.lease(project, ann)
    ben = builders.member(project, "ben")
    (of_ben,) = builders.lease(project, ben, now=LATER)
    receipt = builders.vote(of_ann, "a", now=LATER + timedelta(minutes=16))
    assert receipt.counted
    of_ben.refresh_from_db()
    assert of_ben.state == AssignmentState.EXPIRED
    assert not builders.vote(of_ben, "b", now=LATER + timedelta(minutes=17)).counted


def test_a_late_vote_without_a_free_slot_is_surplus(ann):
    project = builders.project(overlap=1, slug="single")
    builders.member(project, "ann")
    builders.comparisons(project)
    (of_ann,) = builders.lease(project, ann)
    (of_ben,) = builders.lease(project, builders.member(project, "ben"), now=LATER)
    builders.vote(of_ben, "b", now=LATER)
    receipt = builders.vote(of_ann, "a", now=LATER)
    assert not receipt.counted
    assert Vote.objects.count() == 2
    assert Slot.objects.get().vote.annotator == of_ben.annotator
    again = say(of_ann, of_ann.side_of("a"), receipt.vote.key, now=LATER)
    assert (again.replayed, again.counted) == (True, False)


def test_a_paused_project_takes_the_votes_of_running_leases(project, ann):
    builders.comparisons(project)
    (leased,) = builders.lease(project, ann)
    project.paused_at = NOW
    project.save()
    assert builders.vote(leased, "a").counted


def test_a_vote_after_a_skip_is_stored(project, ann):
    builders.comparisons(project)
    (leased,) = builders.lease(project, ann)
    assignments.skip(assignment=leased, reason="too_long", now=NOW)
    assert builders.vote(leased, "a").counted


def test_a_vote_from_the_old_tab_uses_the_slot_of_the_new_one(project, ann):
    builders.comparisons(project)
    (old,) = builders.lease(project, ann, tab="old")
    (new,) = builders.lease(project, ann, tab="new", now=LATER)
    assert old.comparison_id == new.comparison_id
    assert builders.vote(old, "a", now=LATER).counted
    new.refresh_from_db()
    assert new.state == AssignmentState.RELEASED
    assert Slot.objects.filter(state=SlotState.OPEN).count() == 1
    with pytest.raises(AlreadyVoted):
        builders.vote(new, "b", now=LATER)


def test_a_late_vote_is_stored_although_another_tab_has_skipped_the_comparison(project, ann):
    builders.comparisons(project)
    (old,) = builders.lease(project, ann, tab="old")
    (new,) = builders.lease(project, ann, tab="new", now=LATER)
    assignments.skip(assignment=new, reason="too_long", now=LATER)
    assert builders.vote(old, "a", now=LATER).counted
    assert Vote.objects.count() == 1


def test_undo_and_vote_again_replaces_the_first_vote(project, ann):
    builders.comparisons(project)
    (leased,) = builders.lease(project, ann)
    first = builders.vote(leased, "a").vote
    again = retract(vote=first, by=ann, now=NOW)
    assert again.pk == leased.pk
    assert again.state == AssignmentState.LEASED
    assert Slot.objects.filter(assignment=leased, state=SlotState.LEASED, vote=None).count() == 1
    second = builders.vote(again, "b")
    assert second.counted
    assert second.vote.replaces == Retraction.objects.get(vote=first)
    assert Vote.objects.count() == 2
    assert Slot.objects.filter(state=SlotState.DONE).count() == 1


def test_undo_can_be_repeated_in_a_chain(project, ann):
    builders.comparisons(project)
    (leased,) = builders.lease(project, ann)
    for letter in ("a", "b", "tie", "a"):
        vote = builders.vote(leased, letter).vote
        retract(vote=vote, by=ann, now=NOW)
    last = builders.vote(leased, "b")
    assert last.counted
    assert Vote.objects.count() == 5
    assert Retraction.objects.count() == 4
    assert Vote.objects.get(retractions__isnull=True) == last.vote


def test_a_vote_is_taken_back_once(project, ann):
    builders.comparisons(project)
    (leased,) = builders.lease(project, ann)
    vote = builders.vote(leased, "a").vote
    retract(vote=vote, by=ann, now=NOW)
    with pytest.raises(AlreadyRetracted):
        retract(vote=vote, by=ann, now=NOW)
    assert Retraction.objects.count() == 1


def test_the_replay_of_a_vote_that_was_taken_back_says_that_it_does_not_count(project, ann):
    builders.comparisons(project)
    (leased,) = builders.lease(project, ann)
    key = uuid4()
    vote = builders.vote(leased, "a", key=key).vote
    retract(vote=vote, by=ann, now=NOW)
    receipt = builders.vote(leased, "a", key=key)
    assert (receipt.replayed, receipt.counted, receipt.vote.pk) == (True, False, vote.pk)


def test_a_vote_on_another_lease_replaces_the_retraction_too(ann):
    project = builders.project(overlap=1, slug="single")
    builders.member(project, "ann")
    builders.comparisons(project)
    (leased,) = builders.lease(project, ann)
    vote = builders.vote(leased, "a").vote
    retract(vote=vote, by=ann, now=NOW)
    assignments.expire(LATER)
    (fresh,) = builders.lease(project, ann, now=LATER)
    assert fresh.pk != leased.pk
    second = builders.vote(fresh, "b", now=LATER)
    assert second.counted
    assert second.vote.replaces.vote == vote


def test_a_surplus_vote_can_be_undone_and_stays_surplus(ann):
    project = builders.project(overlap=1, slug="single")
    builders.member(project, "ann")
    builders.comparisons(project)
    (of_ann,) = builders.lease(project, ann)
    (of_ben,) = builders.lease(project, builders.member(project, "ben"), now=LATER)
    builders.vote(of_ben, "b", now=LATER)
    surplus = builders.vote(of_ann, "a", now=LATER).vote
    retract(vote=surplus, by=ann, now=LATER)
    assert not builders.vote(of_ann, "b", now=LATER).counted
    assert Slot.objects.get().vote.annotator == of_ben.annotator


def test_a_frozen_comparison_refuses_undo(project, ann):
    (made,) = builders.comparisons(project)
    (leased,) = builders.lease(project, ann)
    vote = builders.vote(leased, "a").vote
    made.frozen_at = NOW
    made.save()
    with pytest.raises(Frozen):
        retract(vote=vote, by=ann, now=NOW)
    assert not Retraction.objects.exists()


def test_an_imported_vote_cannot_be_taken_back(project, ann):
    (made,) = builders.comparisons(project)
    vote = Vote.objects.create(
        project=project, comparison=made, annotator=ann, key=uuid4(), choice="a", body_hash="", created_at=NOW
    )
    with pytest.raises(Invalid, match="imported"):
        retract(vote=vote, by=ann, now=NOW)


def test_the_database_itself_refuses_a_second_live_vote_of_a_person(project, ann):
    builders.comparisons(project)
    (leased,) = builders.lease(project, ann)
    builders.vote(leased, "a")
    with pytest.raises(IntegrityError), transaction.atomic():
        Vote.objects.create(
            project=project, comparison=leased.comparison, assignment=leased, annotator=ann, key=uuid4(), choice="b",
            body_hash="", created_at=NOW,
        )  # fmt: skip


def test_no_more_votes_count_than_are_wanted(project):
    builders.comparisons(project)
    counted = []
    for number in range(5):
        person = builders.member(project, f"p{number}")
        leased = builders.lease(project, person, now=NOW + timedelta(minutes=20 * number))
        counted += [(item, number) for item in leased]
    receipts = [builders.vote(item, "a", now=NOW + timedelta(hours=3)) for item, _ in counted]
    assert len(receipts) == 5
    assert sum(receipt.counted for receipt in receipts) == 2


def test_a_lowered_overlap_keeps_votes_and_running_leases_and_closes_what_opens_later(ann):
    project = builders.project(overlap=3, slug="wide")
    (made,) = builders.comparisons(project)
    people = [builders.member(project, name) for name in ("ann", "ben", "cid")]
    leased = [builders.lease(project, person)[0] for person in people]
    builders.vote(leased[2], "a")
    assert change_overlap(project=project, overlap=1, now=NOW) == 1
    assert Slot.objects.filter(comparison=made).count() == 3  # two are held: nobody's work is thrown away
    assignments.skip(assignment=leased[0], reason="too_long", now=NOW)
    assert Slot.objects.filter(comparison=made).count() == 2
    assignments.expire(LATER)
    assert Slot.objects.filter(comparison=made).count() == 1
    assert not builders.lease(project, builders.member(project, "dan"), now=LATER)
    assert not builders.vote(leased[1], "b", now=LATER).counted
    made.consensus.refresh_from_db()
    assert made.consensus.due_at is not None


def test_an_expired_lease_beyond_a_lowered_overlap_is_not_handed_on(ann):
    project = builders.project(overlap=2, slug="pair")
    builders.comparisons(project)
    (of_ann,) = builders.lease(project, builders.member(project, "ann"))
    (of_ben,) = builders.lease(project, builders.member(project, "ben"))
    builders.vote(of_ben, "a")
    change_overlap(project=project, overlap=1, now=NOW)
    assert not builders.lease(project, builders.member(project, "cid"), now=LATER)
    assert Slot.objects.count() == 1
    assert not builders.vote(of_ann, "a", now=LATER).counted


def test_a_raised_overlap_adds_slots_and_leaves_frozen_comparisons_alone(ann):
    project = builders.project(overlap=1, slug="grow")
    first, second = builders.comparisons(project, 2)
    first.frozen_at = NOW
    first.save()
    assert change_overlap(project=project, overlap=3, now=NOW) == 1
    assert Slot.objects.filter(comparison=first).count() == 1
    assert list(Slot.objects.filter(comparison=second).order_by("number").values_list("number", flat=True)) == [1, 2, 3]
    assert change_overlap(project=project, overlap=3, now=NOW) == 0
    assert change_overlap(project=project, overlap=2, now=NOW) == 1
    assert Slot.objects.filter(comparison=second).count() == 2


def test_a_viewer_who_has_a_lease_from_before_may_still_vote(project, ann):
    builders.comparisons(project)
    (leased,) = builders.lease(project, ann)
    project.memberships.filter(user=ann).update(role=Role.VIEWER)
    assert builders.vote(leased, "a").counted
    assert Assignment.objects.get().state == AssignmentState.VOTED
