"""Settling, deciding and excluding by several at once: real threads on a real database."""

from __future__ import annotations

from collections import Counter

import pytest
from django.db import transaction
from django.db.models import Count

from annotation import adjudication, exclusion
from annotation.consensus import mark_due, rebuild, settle, settle_due
from annotation.feedback import read_form
from annotation.gate import write
from annotation.models import (
    Adjudication,
    Comparison,
    Consensus,
    Exclusion,
    OverlapRule,
    Role,
    Slot,
    SlotState,
    Vote,
)
from tests import builders
from tests.annotation.test_at_the_same_time import errors, together
from tests.builders import NOW, cast

pytestmark = pytest.mark.django_db(transaction=True)


def test_settlers_at_once_add_one_slot():
    project = builders.project(
        overlap_rule=OverlapRule.ADAPTIVE, min_votes=2, max_votes=5, full_share=0.0, stop_at=0.95,
        form=read_form({"allow_tie": False}),
    )  # fmt: skip
    people = [builders.member(project, f"p{i}") for i in range(6)]
    made = builders.comparisons(project, 12)
    for item in made:
        cast(item, people[0], "a")
        cast(item, people[1], "b")

    def settle_all():
        return settle_due(now=NOW)

    results = together(settle_all, settle_all, lambda: rebuild(project=project, now=NOW), settle_all)
    assert errors(results) == []
    sizes = Comparison.objects.annotate(n=Count("slots")).values_list("overlap", "n")
    assert set(sizes) == {(3, 3)}
    assert Slot.objects.filter(state=SlotState.OPEN).count() == 12


def test_of_adjudicators_at_once_one_rules():
    project = builders.project(overlap=2)
    (made,) = builders.comparisons(project)
    for name, choice in (("ann", "a"), ("ben", "b")):
        cast(made, builders.member(project, name), choice)
    settle_due(now=NOW)
    judges = [builders.member(project, f"judge-{i}", Role.ADJUDICATOR) for i in range(4)]

    def ruling(judge, choice):
        return lambda: adjudication.rule(
            comparison=made, by=judge, role=Role.ADJUDICATOR, answer={"choice": choice}, reason="so", now=NOW
        )

    results = together(*(ruling(judge, choice) for judge, choice in zip(judges, "abab", strict=True)))
    assert Counter(type(item).__name__ for item in results) == {"Adjudication": 1, "AlreadyRuled": 3}
    (fact,) = Adjudication.objects.all()
    row = Consensus.objects.get()
    assert (row.state, {"choice": row.label}) == ("adjudicated", fact.answer)


def test_the_same_first_answer_twice_at_once_is_one_vote():
    project = builders.project(overlap=1)
    (made,) = builders.comparisons(project)
    ada = builders.member(project, "ada", Role.ADJUDICATOR)
    adjudication.send([made], by=project.created_by, reason="odd", now=NOW)

    def answer(choice):
        return lambda: adjudication.answer_first(comparison=made, user=ada, data={"choice": choice}, now=NOW)

    results = together(answer("a"), answer("a"), answer("b"))
    assert errors(results, adjudication.AlreadyAnswered) == []
    assert Vote.objects.filter(annotator=ada).count() == 1


def test_excluding_settling_and_voting_at_once_keep_the_overlap():
    project = builders.project(overlap=3)
    people = [builders.member(project, f"p{i}") for i in range(5)]
    made = builders.comparisons(project, 25)
    for item in made:
        for person, choice in zip(people, "aab", strict=False):
            cast(item, person, choice)

    def exclude(person):
        return lambda: exclusion.exclude(project=project, user=person, by=project.created_by, reason="asleep", now=NOW)

    def vote():
        for _ in range(10):
            for item in builders.lease(project, people[3], wanted=3):
                builders.vote(item)

    def work():
        for _ in range(6):
            settle_due(now=NOW)
            with write(), transaction.atomic():
                mark_due([item.pk for item in made], now=NOW)

    results = together(exclude(people[2]), exclude(people[2]), work, work, vote)
    assert errors(results, exclusion.AlreadyExcluded) == []
    assert Exclusion.objects.count() == 1
    exclusion.readmit(project=project, user=people[2], by=project.created_by, reason="awake", now=NOW)
    settle([item.pk for item in made], now=NOW)
    sizes = Comparison.objects.annotate(n=Count("slots")).values_list("overlap", "n")
    assert all(overlap == n for overlap, n in sizes)
    for row in Consensus.objects.select_related("comparison"):
        assert row.votes == row.comparison.slots.filter(state=SlotState.DONE).count()
