"""From facts to the state of a comparison, and the same again."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from annotation import consensus
from annotation.consensus import METHODS, mark_due, rebuild, settle, settle_due
from annotation.feedback import read_form
from annotation.models import (
    Adjudication,
    AdjudicationKind,
    Assignment,
    Comparison,
    Consensus,
    Delivery,
    Flag,
    FlagKind,
    Membership,
    Project,
    Webhook,
)
from tests import builders
from tests.builders import NOW, cast

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return builders.project(overlap=3)


@pytest.fixture
def ranking():
    return builders.project(slug="ranked", overlap=3, form=read_form({"kind": "ranking", "size": 3}))


def people(project: Project, n: int):
    return [builders.member(project, f"person-{i}") for i in range(n)]


def decide(comparison: Comparison, kind: AdjudicationKind, answer: dict | None = None) -> None:
    Adjudication.objects.create(
        project=comparison.project, comparison=comparison, kind=kind, by=comparison.project.created_by, answer=answer,
        reason="because", created_at=NOW,
    )  # fmt: skip
    mark_due([comparison.pk], now=NOW)


def state(comparison: Comparison) -> Consensus:
    while settle_due(now=NOW):
        pass
    return Consensus.objects.get(comparison=comparison)


def everything(project: Project) -> list[dict]:
    return list(Consensus.objects.filter(project=project).order_by("pk").values())


@pytest.mark.parametrize(
    ("choices", "wanted", "label"),
    [("aa", "open", "a"), ("aab", "settled", "a"), ("ttt", "settled", "tie"), ("atb", "disputed", "")],
)
def test_a_pair_settles_when_all_its_slots_are_done_and_a_class_leads(project, choices, wanted, label):
    (made,) = builders.comparisons(project)
    for person, choice in zip(people(project, 3), choices, strict=False):
        cast(made, person, {"t": "tie"}.get(choice, choice))
    row = state(made)
    assert (row.state, row.label, row.votes, row.method) == (wanted, label, len(choices), METHODS["dawid_skene"])
    assert row.top_share == max(choices.count(c) for c in "atb") / len(choices)
    assert (row.settled_at is None) == (wanted == "open")


def test_a_ranking_is_disputed_where_its_pairs_are_on_the_mean(ranking):
    one, other = builders.sets(ranking, 2)
    voters = people(ranking, 3)
    for person, order in zip(voters, ("abc", "abc", "bac"), strict=True):
        cast(one, person, ranking=[[letter] for letter in order])
    for person, order in zip(voters, ("abc", "cab", "bca"), strict=True):
        cast(other, person, ranking=[[letter] for letter in order])
    settled, split = state(one), state(other)
    assert (settled.state, settled.details["ranking"]) == ("settled", [["a"], ["b"], ["c"]])
    assert (settled.label, settled.prob, settled.votes_a, settled.votes) == ("", None, 0, 3)
    assert split.state == "disputed"
    Project.objects.filter(pk=ranking.pk).update(dispute_below=0.9)  # (2/3 + 1 + 1)/3 is below it
    mark_due([one.pk], now=NOW)
    assert state(one).state == "disputed"


def test_votes_of_excluded_people_never_count(project):
    (made,) = builders.comparisons(project)
    voters = people(project, 3)
    for person, choice in zip(voters, "abb", strict=True):
        cast(made, person, choice)
    assert state(made).label == "b"
    Membership.objects.filter(user__in=voters[1:]).update(excluded_at=NOW)
    mark_due([made.pk], now=NOW)
    row = state(made)
    assert (row.votes_a, row.votes_b, row.votes, row.label) == (1, 0, 1, "a")


def test_the_newest_adjudication_decides(project):
    (made,) = builders.comparisons(project)
    for person in people(project, 3):
        cast(made, person, "a")
    assert state(made).state == "settled"
    decide(made, AdjudicationKind.REQUEST)
    assert state(made).state == "disputed"
    decide(made, AdjudicationKind.RULING, {"choice": "b"})
    row = state(made)
    assert (row.state, row.label, row.prob, row.votes_a, row.share) == ("adjudicated", "b", 0.0, 3, 3.5 / 4)
    decide(made, AdjudicationKind.ESCALATION)
    assert state(made).state == "disputed"
    decide(made, AdjudicationKind.RULING, {"choice": "tie"})
    assert (state(made).label, state(made).prob) == ("tie", 0.5)
    decide(made, AdjudicationKind.RULING, {"invalid": True})
    assert state(made).state == "withdrawn"
    decide(made, AdjudicationKind.REOPENING)
    row = state(made)
    assert (row.state, row.label) == ("settled", "a")
    assert row.prob == pytest.approx((8 + 0.5) / (8 + 2))  # three people of whom nothing is known: ½ against ¼


def test_a_ruling_on_a_ranking_fixes_its_pairs(ranking):
    (made,) = builders.sets(ranking)
    decide(made, AdjudicationKind.RULING, {"ranking": [["b"], ["a", "c"]]})
    row = state(made)
    assert row.state == "adjudicated"
    assert {pair["a"] + pair["b"]: pair["prob"] for pair in row.details["pairs"]} == {"ab": 0.0, "ac": 0.5, "bc": 1.0}


def test_flags_of_different_people_withdraw_until_somebody_rules(project):
    (made,) = builders.comparisons(project)
    for person in people(project, 2):
        turn = Assignment.objects.create(
            project=project, comparison=made, annotator=person, tab="t", sides="ab", state="flagged",
            lease_expires_at=NOW,
        )  # fmt: skip
        for kind in (FlagKind.HARMFUL, FlagKind.BROKEN):
            Flag.objects.create(project=project, comparison=made, assignment=turn, by=person, kind=kind)
        mark_due([made.pk], now=NOW)
        state(made)
    assert state(made).state == "withdrawn"
    decide(made, AdjudicationKind.RULING, {"choice": "a"})
    assert state(made).state == "adjudicated"


def test_rebuilding_gives_the_same(project, ranking):
    voters = people(project, 3)
    for i, made in enumerate(builders.comparisons(project, 5)):
        for person, choice in zip(voters, ("aab", "abt", "bb", "", "ttt")[i], strict=False):
            cast(made, person, {"t": "tie"}.get(choice, choice), both_bad=choice == "t")
    for made in builders.sets(ranking, 2):
        for person, order in zip(people(ranking, 3), ("abc", "acb", "abc"), strict=True):
            cast(made, person, ranking=[[letter] for letter in order])
    Consensus.objects.update(due_at=NOW)
    while settle_due(now=NOW):
        pass
    for place in (project, ranking):
        before = everything(place)
        assert rebuild(project=place, now=NOW + timedelta(days=1)) == len(before)
        assert everything(place) == before
        Consensus.objects.filter(project=place).update(
            state="open", label="", prob=None, votes=0, details={}, settled_at=NOW, method="other", top_share=0.1
        )
        rebuild(project=place, now=NOW)
        kept = [{**row, "settled_at": None} for row in everything(place)]
        assert kept == [{**row, "settled_at": None} for row in before]


def test_a_change_during_settling_stays_due(project):
    (made,) = builders.comparisons(project)
    due = NOW
    Consensus.objects.update(due_at=due)
    row = Consensus.objects.get()
    Consensus.objects.update(due_at=due + timedelta(seconds=1))
    assert consensus._settle({made.pk: due}, now=NOW) == 0
    row.refresh_from_db()
    assert row.due_at == due + timedelta(seconds=1)
    assert settle([made.pk], now=NOW) == 1
    assert settle([made.pk], now=NOW) == 0


def test_settling_many_takes_few_queries(project, django_assert_max_num_queries):
    voters = people(project, 3)
    for made in builders.comparisons(project, 120):
        for person in voters:
            cast(made, person, "a")
    # which are due; rows, people, slots, places, flags, adjudications; transaction, lock, an upsert for 40 rows, events
    with django_assert_max_num_queries(16):
        assert settle_due(now=NOW) == 120
    assert not Consensus.objects.exclude(state="settled").exists()


def test_a_change_of_state_is_an_event_and_no_change_is_none(project):
    Webhook.objects.create(
        project=project, url="https://example.org/hook", secret="s", created_by=project.created_by,
        events=["comparison.settled", "comparison.disputed", "comparison.adjudicated"],
    )  # fmt: skip
    one, two = builders.comparisons(project, 2)
    for person, choice in zip(people(project, 3), "aab", strict=True):
        cast(one, person, choice)
        cast(two, person, {"a": "a", "b": "tie"}[choice] if person.name != "person-1" else "b")
    state(one)
    events = list(Delivery.objects.order_by("pk").values_list("event", "body__data__comparison"))
    assert sorted(events) == sorted(
        [("comparison.settled", str(one.public_id)), ("comparison.disputed", str(two.public_id))]
    )
    mark_due([one.pk, two.pk], now=timezone.now())
    state(one)
    assert Delivery.objects.count() == 2
    decide(two, AdjudicationKind.RULING, {"choice": "a"})
    state(two)
    assert Delivery.objects.order_by("-pk").values_list("event", flat=True)[0] == "comparison.adjudicated"
