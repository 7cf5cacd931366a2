"""A person's record: figures worked out by hand, in a fixed number of queries, over many votes."""

from __future__ import annotations

import random
from datetime import timedelta
from uuid import uuid4

import pytest

from annotation import assignment as assignments
from annotation import gold
from annotation.feedback import Answer, FeedbackKind, Form
from annotation.meetings import Meeting
from annotation.models import Assignment, GoldUse, Membership, Purpose, Vote
from annotation.pairing import create_comparisons
from annotation.records import history, pool, records
from annotation.statistics.estimates import Reason, wilson
from annotation.voting import record_vote, retract
from tests import builders
from tests.builders import NOW

pytestmark = pytest.mark.django_db


def give(comparison, person, purpose=Purpose.GOLD, repetition=0):
    """A task without a slot."""
    return assignments.give(
        project=comparison.project, annotator=person, comparison=comparison, tab="t", purpose=purpose,
        repetition=repetition, now=NOW, rng=random.Random(0),
    )  # fmt: skip


def say(task, answer, seconds=10.0, now=NOW):
    """A vote for a stored letter, `tie`, `left` or `right`."""
    side = answer if answer in {"left", "right", "tie"} else task.side_of(answer)
    return record_vote(
        assignment=task, annotator=task.annotator, key=uuid4(), now=now,
        answer=Answer(choice=side, active_ms=round(seconds * 1000)),
    ).vote  # fmt: skip


def record_of(project, person):
    return records(project, user_ids=[person.pk])[person.pk]


def everyone(project):
    return list(Membership.objects.filter(project=project).values_list("user_id", flat=True))


def gold_of(project, n, answer="a"):
    made = builders.comparisons(project, n, start=100)
    for row in made:
        gold.give(
            comparison=row,
            answer={"choice": answer},
            use=GoldUse.HIDDEN,
            explanation="",
            by=project.created_by,
            now=NOW,
        )
    return made


def test_agreement_leaves_the_own_vote_out_and_shares_ties_at_the_top():
    """Votes a a b: each a meets {a, b}, a tie at the top (½); the b meets {a, a} (0)."""
    project = builders.project()
    builders.settled(project, 4, letters="aab")
    found = records(project, user_ids=everyone(project))
    by_name = {Membership.objects.get(project=project, user_id=pk).user.name: row for pk, row in found.items()}
    assert [by_name[f"voter-{i}"].agreement.value for i in range(3)] == [0.5, 0.5, 0.0]
    assert by_name["voter-0"].agreement == wilson(2, 4)
    assert by_name["olga"].agreement.reason == Reason.NO_VOTES
    assert pool(project).agreement.value == pytest.approx(1 / 3)


def test_an_excluded_person_is_compared_with_the_others_and_nobody_with_them():
    project = builders.project()
    builders.settled(project, 4, letters="aab")
    out = Membership.objects.get(project=project, user__name="voter-2")
    Membership.objects.filter(pk=out.pk).update(excluded_at=NOW)
    found = records(project, user_ids=everyone(project))
    values = {
        Membership.objects.get(project=project, user_id=pk).user.name: row.agreement.value for pk, row in found.items()
    }
    assert (values["voter-0"], values["voter-1"], values["voter-2"]) == (1.0, 1.0, 0.0)


def test_gold_counts_only_hidden_gold_and_only_live_votes():
    project = builders.project()
    ann = builders.member(project, "ann")
    for row, letter in zip(gold_of(project, 4), ("a", "a", "b", "tie"), strict=True):
        say(give(row, ann), letter)
    retract(vote=Vote.objects.get(choice="tie"), by=ann, now=NOW)
    practice = builders.comparisons(project, 1, start=50)[0]
    gold.give(
        comparison=practice,
        answer={"choice": "a"},
        use=GoldUse.PRACTICE,
        explanation="",
        by=project.created_by,
        now=NOW,
    )
    say(give(practice, ann, Purpose.PRACTICE), "b")
    found = record_of(project, ann)
    assert found.gold == wilson(2, 3)
    assert found.votes == 3
    assert history(project, user_id=ann.pk).confusion["left"]["tie"] == 0


def test_repeats_tell_consistency_and_whether_the_side_decided():
    """Three repeats with sides swapped: once the same completion, once the same side, once a tie after a decision."""
    project = builders.project(overlap=1)
    ann = builders.member(project, "ann")
    builders.comparisons(project, 3)
    tasks = builders.lease(project, ann, wanted=3)
    for task in tasks:
        say(task, "left")
    for task, answer in zip(tasks, ("right", "left", "tie"), strict=True):
        again = give(task.comparison, ann, Purpose.REPEAT, repetition=1)
        Assignment.objects.filter(pk=again.pk).update(sides=task.sides[::-1])
        again.refresh_from_db()
        say(again, answer)
    found = record_of(project, ann)
    assert found.consistency == wilson(1, 3)
    assert found.side_driven == wilson(1, 2)
    assert found.left_share == wilson(4, 5)
    assert found.tie_share == wilson(0, 3)


def test_length_time_skips_and_flags():
    project = builders.project(overlap=1)
    ann = builders.member(project, "ann")
    builders.comparisons(project, 5)  # "Second answer" is longer than "First answer"
    tasks = builders.lease(project, ann, wanted=5)
    for task, (letter, seconds) in zip(tasks, (("b", 10), ("b", 20), ("a", 60)), strict=False):
        say(task, letter, seconds)
    assignments.skip(assignment=tasks[3], reason="cannot_judge: both are code", now=NOW)
    assignments.flag(assignment=tasks[4], kind="broken", note="", now=NOW)
    found = record_of(project, ann)
    assert found.longer_share == wilson(2, 3)
    assert found.median_seconds == 20.0
    assert found.votes_per_hour == 120.0
    assert (found.skips, found.cannot_judge, found.flags, found.last_vote_at) == (1, 1, 1, NOW)


def test_a_ranking_is_judged_by_its_pairs():
    """ann and ben: abc; cid: cba. ann meets {abc, cba}: every pair ties at the top, so ½; cid meets two abc: 0."""
    project = builders.project(form=Form(kind=FeedbackKind.RANKING, size=3))
    x = builders.prompt(project)
    items = [builders.completion(x, "word " * n, index=n) for n in (3, 2, 1)]
    create_comparisons(project=project, pairs=[Meeting(prompt=x, completions=tuple(items))], origin=uuid4(), now=NOW)
    people = [builders.member(project, name) for name in ("ann", "ben", "cid")]
    for person, order in zip(people, ("abc", "abc", "cba"), strict=True):
        (task,) = builders.lease(project, person)
        shown = {letter: "ABC"[i] for i, letter in enumerate(task.sides)}
        answer = Answer(ranking=[[shown[letter]] for letter in order])
        record_vote(assignment=task, annotator=person, key=uuid4(), answer=answer, now=NOW)
    found = records(project, user_ids=[person.pk for person in people])
    assert [found[person.pk].agreement.value for person in people] == [0.5, 0.5, 0.0]
    assert [found[person.pk].longer_share.value for person in people] == [1.0, 1.0, 0.0]
    assert found[people[0].pk].agreement.n == 1


def test_the_record_over_time_has_tenths_of_the_votes():
    project = builders.project(overlap=1)
    ann = builders.member(project, "ann")
    for i, row in enumerate(gold_of(project, 20)):
        say(give(row, ann), "a" if i < 10 else "b", seconds=i, now=NOW + timedelta(minutes=i))
    found = history(project, user_id=ann.pk)
    assert [bucket.votes for bucket in found.buckets] == [2] * 10
    assert [bucket.gold.value for bucket in found.buckets] == [1.0] * 5 + [0.0] * 5
    assert found.buckets[1].median_seconds == 2.5
    assert sum(sum(row.values()) for row in found.confusion.values()) == 20
    assert found.confusion["left"]["left"] + found.confusion["right"]["right"] == 10


def test_a_project_and_a_person_without_votes_have_no_figures_and_a_reason():
    project = builders.project()
    found = record_of(project, project.created_by)
    assert (found.votes, found.median_seconds, found.gold.reason) == (0, None, Reason.NO_VOTES)
    assert history(project, user_id=project.created_by.pk).buckets == ()
    assert pool(project).gold.reason == Reason.NO_VOTES


def test_the_interval_of_the_pool_allows_for_people_who_differ():
    """One always right, one always wrong: twenty answers are worth hardly more than two."""
    project = builders.project()
    made = gold_of(project, 10)
    for name, letter in (("ann", "a"), ("ben", "b")):
        person = builders.member(project, name)
        for row in made:
            say(give(row, person), letter)
    found = pool(project).gold
    assert found.value == 0.5
    assert found.high - found.low > wilson(10, 20).high - wilson(10, 20).low


@pytest.mark.parametrize("people", [1, 6])
def test_the_number_of_queries_does_not_grow_with_the_people(people, django_assert_num_queries):
    project = builders.project()
    builders.settled(project, 3, people=people, letters="ab")
    user_ids = everyone(project)
    with django_assert_num_queries(7):
        records(project, user_ids=user_ids)
