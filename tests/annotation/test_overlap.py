"""How many votes a comparison gets: fixed, until its posterior is clear, or with experts."""

from __future__ import annotations

import random
from statistics import fmean

import pytest

from annotation.consensus import mark_due, rebuild, settle, settle_due
from annotation.feedback import read_form
from annotation.models import Audience, Comparison, Consensus, Membership, OverlapRule, Project, Slot, SlotState
from annotation.overlap import Step, first_overlap, grow
from annotation.statistics.aggregation import coin_confusion
from tests import builders
from tests.builders import NOW, cast

pytestmark = pytest.mark.django_db
NO_TIE = read_form({"kind": "choice", "allow_tie": False})


def adaptive(**fields) -> Project:
    settings = {"min_votes": 2, "max_votes": 5, "stop_at": 0.9, "full_share": 0.0, "form": NO_TIE} | fields
    return builders.project(overlap_rule=OverlapRule.ADAPTIVE, **settings)


def people(project: Project, n: int, *, accuracy: float | None = None, skills: tuple[str, ...] = (), name="p"):
    made = [builders.member(project, f"{name}-{i}") for i in range(n)]
    members = Membership.objects.filter(user__in=made)
    members.update(skills=list(skills), confusion=None if accuracy is None else coin(accuracy))
    return made


def coin(accuracy: float) -> list[list[float]]:
    """The confusion of somebody who is right about a and b with this probability, where no tie is offered."""
    return coin_confusion([accuracy], K=2)[0].tolist()


def settled(comparison: Comparison) -> Consensus:
    settle([comparison.pk], now=NOW)
    comparison.refresh_from_db()
    return Consensus.objects.get(comparison=comparison)


def test_fixed_overlap_is_the_projects():
    project = builders.project(overlap=4)
    assert first_overlap(project, "any") == (4, False)


def test_adaptive_overlap_starts_with_few_and_a_random_share_with_all():
    project = adaptive(full_share=0.15)
    drawn = [first_overlap(project, f"pair {i}") for i in range(4000)]
    assert set(drawn) == {(2, False), (5, True)}
    assert fmean(full for _, full in drawn) == pytest.approx(0.15, abs=0.02)
    assert drawn == [first_overlap(project, f"pair {i}") for i in range(4000)]


def test_two_reliable_votes_that_agree_are_enough():
    project = adaptive()
    (made,) = builders.comparisons(project)
    for person in people(project, 5, accuracy=0.9)[:2]:
        cast(made, person, "a")
    row = settled(made)
    odds = (0.9 / 0.1) ** 2
    assert row.posterior == pytest.approx(odds / (1 + odds))
    assert (row.state, row.stopped, made.overlap) == ("settled", "confident", 2)


def test_votes_that_disagree_ask_for_one_more_at_a_time_up_to_the_cap():
    project = adaptive()
    (made,) = builders.comparisons(project)
    for i, (person, choice) in enumerate(zip(people(project, 6), "ababa", strict=False), start=1):
        cast(made, person, choice)
        row = settled(made)
        assert (row.state, made.overlap) == (("settled", 5) if i == 5 else ("open", max(2, i + 1)))
    assert (row.stopped, row.votes, row.label) == ("cap", 5, "a")
    assert not Slot.objects.exclude(state=SlotState.DONE).exists()


def test_nobody_left_to_ask_stops_too():
    project = adaptive()
    (made,) = builders.comparisons(project)
    builders.member(project, "left", builders.Role.VIEWER)
    Membership.objects.filter(role="owner").update(left_at=NOW)
    for person, choice in zip(people(project, 3), "aba", strict=True):
        cast(made, person, choice)
        row = settled(made)
    assert (row.state, row.stopped, row.votes) == ("settled", "cap", 3)


def test_full_overlap_never_stops_early():
    project = adaptive(full_share=1.0)
    (made,) = builders.comparisons(project)
    assert (made.full_overlap, made.overlap) == (True, 5)
    for i, person in enumerate(people(project, 5, accuracy=0.99), start=1):
        cast(made, person, "a")
        row = settled(made)
        assert row.state == ("settled" if i == 5 else "open")
    assert row.stopped == "full"


def test_a_slot_is_added_once_whoever_settles_and_however_often():
    project = adaptive()
    (made,) = builders.comparisons(project)
    for person, choice in zip(people(project, 5), "ab", strict=False):
        cast(made, person, choice)
    settled(made)
    for _ in range(3):
        mark_due([made.pk], now=NOW)
        settled(made)
        rebuild(project=project, now=NOW)
    assert (made.overlap, Slot.objects.count()) == (3, 3)
    assert grow({made.pk: Step(slots=1)}) == set()  # one is open still


def test_a_frozen_comparison_or_one_with_lowered_overlap_does_not_grow():
    project = adaptive()
    frozen, lowered = builders.comparisons(project, 2)
    Comparison.objects.filter(pk=frozen.pk).update(frozen_at=NOW)
    Comparison.objects.filter(pk=lowered.pk).update(overlap=1)
    for made in (frozen, lowered):
        for person, choice in zip(people(project, 5), "ab", strict=False):
            cast(made, person, choice)
        assert settled(made).state == "disputed"
        assert made.slots.count() == 2


def test_rebuilding_asks_nobody_anew_though_the_fit_has_changed():
    project = adaptive()
    (made,) = builders.comparisons(project)
    voters = people(project, 5, accuracy=0.9)
    for person in voters[:2]:
        cast(made, person, "a")
    settled(made)
    Membership.objects.update(confusion=coin(0.55))
    rebuild(project=project, now=NOW)
    made.refresh_from_db()
    assert (made.overlap, made.consensus.stopped, made.consensus.state) == (2, "confident", "settled")


def test_a_dispute_asks_experts_once_and_stands_only_when_they_have_voted():
    project = builders.project(overlap=2, expert_votes=2, finish_started=True)
    (made,) = builders.comparisons(project)
    Comparison.objects.filter(pk=made.pk).update(audience="lang:de", priority=3)
    ordinary = people(project, 4)
    experts = people(project, 2, skills=("expert",), name="expert")
    for person, choice in zip(ordinary, "ab", strict=False):
        cast(made, person, choice)
    row = settled(made)
    assert (row.state, made.overlap) == ("open", 4)
    added = Slot.objects.filter(comparison=made, state=SlotState.OPEN)
    assert set(added.values_list("audience", "priority")) == {("lang:de skill:expert", 7)}
    assert Audience.objects.filter(project=project, key="lang:de skill:expert").exists()
    cast(made, experts[0], "a")
    assert settled(made).state == "open"
    cast(made, experts[1], "b")
    row = settled(made)
    assert (row.state, made.overlap, row.votes) == ("disputed", 4, 4)
    mark_due([made.pk], now=NOW)
    assert settled(made).state == "disputed"
    assert made.slots.count() == 4


def test_without_an_expert_who_may_vote_a_dispute_stands_at_once():
    project = builders.project(overlap=2, expert_votes=2)
    (made,) = builders.comparisons(project)
    for person, choice in zip(people(project, 2, skills=("expert",)), "ab", strict=True):
        cast(made, person, choice)  # the only experts have voted already
    assert settled(made).state == "disputed"
    assert made.slots.count() == 2


def test_adaptive_overlap_of_simulated_people_stops_early_and_keeps_a_full_share():
    """120 pairs, people right with .85 and known to be: fewer votes than always seven, hardly more errors."""
    project = adaptive(max_votes=7, stop_at=0.95, full_share=0.2)
    made = {item.pk: item for item in builders.comparisons(project, 120)}
    voters = people(project, 8, accuracy=0.85)
    rng = random.Random(1)
    truth = {pk: rng.choice("ab") for pk in made}
    waiting = {pk: rng.sample(voters, len(voters)) for pk in made}
    while open_slots := list(Slot.objects.filter(state=SlotState.OPEN).values_list("comparison_id", flat=True)):
        for pk in open_slots:
            wrong = {"a": "b", "b": "a"}[truth[pk]]
            cast(made[pk], waiting[pk].pop(), truth[pk] if rng.random() < 0.85 else wrong)
        while settle_due(now=NOW):
            pass
    rows = list(Consensus.objects.select_related("comparison"))
    full = [row for row in rows if row.comparison.full_overlap]
    early = [row for row in rows if not row.comparison.full_overlap]
    assert {row.stopped for row in full} == {"full"}
    assert {row.votes for row in full} == {7}
    assert 0.1 < len(full) / len(rows) < 0.3
    assert fmean(row.votes for row in early) < 4
    assert all(row.posterior >= 0.95 for row in early if row.stopped == "confident")
    assert fmean(row.label == truth[row.comparison_id] for row in early) > 0.93
    assert all(row.votes == row.comparison.overlap == row.comparison.slots.count() for row in rows)
    print(f"{fmean(row.votes for row in early):.2f} votes of 7, {len(full)} of {len(rows)} in full")
