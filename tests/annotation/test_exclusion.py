"""A person's votes count no more, and count again."""

from __future__ import annotations

import pytest
from django.db.models import Count

from annotation import exclusion
from annotation.consensus import settle_due
from annotation.models import (
    AuditEvent,
    Comparison,
    Consensus,
    Exclusion,
    Membership,
    Slot,
    SlotState,
    Vote,
)
from annotation.queries import counts
from annotation.reports.agreement import agreement
from tests import builders
from tests.builders import NOW, cast

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return builders.project(overlap=3)


@pytest.fixture
def ann(project):
    return builders.member(project, "ann")


@pytest.fixture
def voted(project, ann):
    """Four comparisons of a a b, ann's being the b; the last one is frozen, the third lacks a vote."""
    made = builders.comparisons(project, 4)
    others = [builders.member(project, name) for name in ("ben", "cid")]
    for i, item in enumerate(made):
        cast(item, ann, "b")
        cast(item, others[0], "a")
        if i != 2:
            cast(item, others[1], "a")
    settle()
    Comparison.objects.filter(pk=made[3].pk).update(frozen_at=NOW)
    return made


def settle():
    while settle_due(now=NOW):
        pass


def exclude(project, person):
    found = exclusion.exclude(project=project, user=person, by=project.created_by, reason="guessed", now=NOW)
    settle()
    return found


def readmit(project, person):
    found = exclusion.readmit(project=project, user=person, by=project.created_by, reason="a mistake", now=NOW)
    settle()
    return found


def test_the_preview_says_what_will_happen_and_changes_nothing(project, ann, voted):
    found = exclusion.preview(project, ann)
    assert (found.votes, found.comparisons, found.frozen) == (4, 4, 1)
    assert (found.reopened, found.without_votes) == (2, 0)
    assert found.agreement["percent"].value < found.agreement_without["percent"].value == 1
    exclude(project, ann)
    assert agreement(project)["percent"].value == found.agreement_without["percent"].value
    assert Consensus.objects.filter(state="open").count() == found.reopened + 1


def test_excluding_opens_slots_of_what_is_not_frozen(project, ann, voted):
    fact = exclude(project, ann)
    assert (fact.lifted, fact.reason) == (False, "guessed")
    assert Vote.objects.filter(annotator=ann).count() == 4  # facts stay
    for item in voted:
        row = Consensus.objects.get(comparison=item)
        assert row.votes_b == 0
        assert row.state == ("settled" if item is voted[3] else "open")
    assert Slot.objects.filter(state=SlotState.OPEN).count() == 2 + 2
    assert not Slot.objects.filter(vote__annotator=ann).exclude(comparison=voted[3]).exists()
    assert AuditEvent.objects.get(action="person.excluded").details["slots"] == 3
    found = counts(project, now=NOW)
    assert (found.votes, found.surplus, found.wanted) == (7, 0, 4)


def test_excluding_twice_and_readmitting_twice_are_refused(project, ann, voted):
    exclude(project, ann)
    with pytest.raises(exclusion.AlreadyExcluded):
        exclude(project, ann)
    readmit(project, ann)
    with pytest.raises(exclusion.NotExcluded):
        readmit(project, ann)
    with pytest.raises(exclusion.NotAMember):
        exclude(project, builders.user("stan"))
    assert list(Exclusion.objects.order_by("pk").values_list("lifted", flat=True)) == [False, True]


def test_readmitting_undoes_it(project, ann, voted):
    before = list(Consensus.objects.order_by("pk").values("state", "label", "votes_a", "votes_b", "posterior"))
    exclude(project, ann)
    readmit(project, ann)
    assert list(Consensus.objects.order_by("pk").values("state", "label", "votes_a", "votes_b", "posterior")) == before
    assert Membership.objects.get(user=ann).excluded_at is None


def test_readmitting_takes_free_slots_only(project, ann, voted):
    exclude(project, ann)
    dot = builders.member(project, "dot")
    cast(voted[0], dot, "a")  # took ann's place
    held = builders.lease(project, dot, wanted=5)
    assert voted[1].pk in {item.comparison_id for item in held}
    readmit(project, ann)
    mine = set(Slot.objects.filter(vote__annotator=ann).values_list("comparison_id", flat=True))
    assert mine & {voted[0].pk, voted[1].pk} == set()
    sizes = Comparison.objects.annotate(n=Count("slots")).values_list("overlap", "n")
    assert all(overlap == n for overlap, n in sizes)
    assert counts(project, now=NOW).surplus == 2


def test_a_slot_beyond_the_votes_wanted_goes_with_the_vote(project, ann, voted):
    Comparison.objects.filter(pk=voted[0].pk).update(overlap=2)
    exclude(project, ann)
    assert voted[0].slots.count() == 2
    assert Consensus.objects.get(comparison=voted[0]).state == "settled"
    readmit(project, ann)
    assert voted[0].slots.count() == 2


def test_an_excluded_persons_leases_end(project, ann):
    builders.comparisons(project, 2)
    held = builders.lease(project, ann, wanted=2)
    exclude(project, ann)
    assert not Slot.objects.filter(state=SlotState.LEASED).exists()
    held[0].refresh_from_db()
    assert held[0].state == "released"
    readmit(project, ann)
    assert not Slot.objects.filter(state=SlotState.LEASED).exists()


def test_a_late_vote_of_an_excluded_person_is_kept_and_takes_nobodys_slot(project, ann):
    builders.comparisons(project, 1)
    (held,) = builders.lease(project, ann)
    exclude(project, ann)
    held.refresh_from_db()
    receipt = builders.vote(held, "a")
    assert not receipt.counted
    assert not Slot.objects.exclude(state=SlotState.OPEN).exists()
    readmit(project, ann)
    assert Slot.objects.get(state=SlotState.DONE).vote == receipt.vote
