"""Alarms about labels: agreement that drops, people below gold, people who prefer a side."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest

from annotation import fits, quality
from annotation.models import Membership, Purpose, Vote
from annotation.reports.change import BLOCK
from tests import builders
from tests.builders import NOW
from training import label_alarms
from training.models import Alarm, LabelWatch

pytestmark = pytest.mark.django_db

LATER = NOW + timedelta(days=1)


@pytest.fixture
def project():
    return builders.project(overlap=2, pause_min_gold=10)


def names() -> list[str]:
    return sorted(Alarm.objects.values_list("name", flat=True))


# --- agreement --------------------------------------------------------------------------------------------------------


def judged(project, n: int, *, agreeing: float, start: int) -> None:
    """`n` comparisons with two votes each, of which this share agree; one a minute."""
    people = [builders.member(project, name) for name in ("ann", "ben")]
    for i, comparison in enumerate(builders.comparisons(project, n, start=start)):
        agrees = (i % 20) < 20 * agreeing
        letters = ("a", "a") if agrees else ("a", "b")
        for person, letter in zip(people, letters, strict=True):
            builders.cast(comparison, person, letter, now=NOW + timedelta(minutes=start + i))


def test_agreement_that_drops_rings_once_and_what_rang_is_the_measure_from_then_on(project):
    judged(project, 2 * BLOCK, agreeing=0.9, start=0)
    assert label_alarms.look(project, LATER) == 0  # nothing to compare with yet
    judged(project, BLOCK, agreeing=0.5, start=2 * BLOCK)
    assert label_alarms.look(project, LATER) == 1
    assert label_alarms.look(project, LATER) == 0
    alarm = Alarm.objects.get()
    assert (alarm.name, alarm.job, alarm.acknowledged_at) == ("agreement_drop", None, None)
    (evidence,) = alarm.evidence
    figures = evidence["figures"]
    assert (figures["agreement"], figures["agreement_before"], figures["comparisons"]) == (0.5, 0.9, BLOCK)
    assert figures["drop"] == pytest.approx(0.4) and 0.2 < figures["least_drop"] < 0.4
    since = NOW + timedelta(minutes=2 * BLOCK)
    assert f"since {since:%Y-%m-%d %H:%M} UTC, 50% of the pairs of votes agree" in evidence["text"]
    judged(project, 3 * BLOCK, agreeing=0.5, start=3 * BLOCK)
    assert label_alarms.look(project, LATER) == 0  # low as before
    judged(project, BLOCK, agreeing=0.1, start=6 * BLOCK)
    assert label_alarms.look(project, LATER) == 1
    assert Alarm.objects.latest("pk").evidence[0]["figures"]["agreement_before"] == 0.5


@pytest.mark.parametrize(("before", "now", "n"), [(0.9, 0.85, BLOCK), (0.5, 0.9, BLOCK), (0.9, 0.2, BLOCK - 1)])
def test_agreement_that_drops_a_little_or_rises_or_is_of_too_few_rings_nothing(project, before, now, n):
    judged(project, 2 * BLOCK, agreeing=before, start=0)
    judged(project, n, agreeing=now, start=2 * BLOCK)
    assert label_alarms.look(project, LATER) == 0


# --- gold -------------------------------------------------------------------------------------------------------------


def answered(project, person, letters: str, *, start: int, now=NOW) -> None:
    """Hidden gold, whose answer is a, answered with these letters."""
    for comparison, letter in zip(builders.hidden_gold(project, len(letters), start=start), letters, strict=True):
        vote = builders.cast(comparison, person, letter, now=now)
        Vote.objects.filter(pk=vote.pk).update(purpose=Purpose.GOLD)


def test_a_person_who_is_surely_below_gold_is_told_once_with_the_figures(project):
    ann, ben = builders.member(project, "ann"), builders.member(project, "ben")
    answered(project, ann, "b" * 12 + "a" * 8, start=10_000)
    answered(project, ben, "b" * 5 + "a" * 15, start=11_000)  # 75 %
    assert label_alarms.look(project, LATER) == 1
    assert label_alarms.look(project, LATER) == 0
    alarm = Alarm.objects.get()
    figures = alarm.evidence[0]["figures"]
    assert alarm.name == "annotator_below_gold"
    assert (figures["right"], figures["n"], figures["gold"], figures["mark"]) == (8, 20, 0.4, 0.7)
    assert figures["gold"] < figures["high"] < 0.7
    pseudonym = Membership.objects.get(project=project, user=ann).pseudonym
    assert alarm.evidence[0]["text"].startswith(f"{pseudonym}: 8 of 20 answers to hidden gold are right (40%")


def test_the_mark_is_the_one_that_the_project_pauses_at(project):
    project.pause_below = 0.3
    project.save()
    answered(project, builders.member(project, "ann"), "b" * 12 + "a" * 8, start=10_000)
    assert label_alarms.look(project, LATER) == 0


def test_few_answers_and_people_whose_votes_do_not_count_ring_nothing(project):
    answered(project, builders.member(project, "ann"), "b" * 9, start=10_000)
    for name, field in (("ben", "excluded_at"), ("lea", "left_at")):
        person = builders.member(project, name)
        answered(project, person, "b" * 20, start=11_000 + 1000 * len(field))
        Membership.objects.filter(project=project, user=person).update(**{field: NOW})
    assert label_alarms.look(project, LATER) == 0


def test_who_was_let_go_on_and_is_below_it_again_is_told_again(project):
    ann = builders.member(project, "ann")
    member = Membership.objects.get(project=project, user=ann)
    answered(project, ann, "b" * 20, start=10_000)
    assert label_alarms.look(project, LATER) == 1
    quality.pause(member=member, reason="gold", by=project.created_by, now=NOW)
    quality.resume(member=member, reason="talked", by=project.created_by, now=LATER)
    assert label_alarms.look(project, LATER) == 0
    answered(project, ann, "b" * 20, start=12_000, now=LATER + timedelta(hours=1))
    assert label_alarms.look(project, LATER + timedelta(days=1)) == 1
    assert names() == ["annotator_below_gold"] * 2


# --- sides ------------------------------------------------------------------------------------------------------------


def test_a_person_who_prefers_a_side_is_told_once(project):
    """Six people judge 60 comparisons; five by what is there, one always for the left."""
    rng = random.Random(5)
    truth = {item.pk: rng.choice("ab") for item in builders.comparisons(project, 60, overlap=6)}
    for name in ("ann", "ben", "cem", "dan", "eve", "lefty"):
        person = builders.member(project, name)
        while leased := builders.lease(project, person, wanted=5):
            for item in leased:
                said = truth[item.comparison_id] if rng.random() < 0.85 else rng.choice("ab")
                builders.vote(item, item.sides[0] if name == "lefty" else said)
    assert label_alarms.look(project, LATER) == 1
    assert label_alarms.look(project, LATER) == 0
    alarm = Alarm.objects.get()
    lefty = Membership.objects.get(project=project, user__name="lefty")
    assert (alarm.name, alarm.key) == ("annotator_one_sided", f"annotator_one_sided/{lefty.user.public_id}")
    assert alarm.evidence[0]["text"].startswith(f"{lefty.pseudonym} prefers the left side by ")
    assert alarm.evidence[0]["figures"]["side_bias"] > 0.4


# --- when -------------------------------------------------------------------------------------------------------------


def test_a_project_is_looked_at_once_for_each_fit(project, monkeypatch, django_assert_num_queries):
    looked = []
    monkeypatch.setattr(label_alarms, "look", lambda project, now: looked.append(project.slug) or 0)
    assert label_alarms.due(NOW) == []
    builders.settled(project, 2)
    fits.refit(project=project, now=NOW)
    label_alarms.run_due(NOW)
    label_alarms.run_due(NOW)
    assert looked == ["helpful"]
    with django_assert_num_queries(1):
        assert label_alarms.due(NOW) == []
    fits.refit(project=project, now=NOW)
    label_alarms.run_due(NOW)
    assert looked == ["helpful"] * 2


def test_what_somebody_looks_at_is_left_alone_until_their_lease_is_over(project):
    builders.settled(project, 2)
    fits.refit(project=project, now=NOW)
    LabelWatch.objects.create(project=project, lease_expires_at=NOW + label_alarms.LEASE)
    assert label_alarms.due(NOW) == []
    assert [fit.project for fit in label_alarms.due(NOW + label_alarms.LEASE + timedelta(seconds=1))] == [project]


def test_a_project_that_cannot_be_looked_at_keeps_no_other_waiting(project, monkeypatch):
    looked = []

    def look(which, now):
        if which == project:
            raise ValueError("broken")
        looked.append(which.slug)
        return 0

    monkeypatch.setattr(label_alarms, "look", look)
    other = builders.project(slug="other")
    for which in (project, other):
        which.form_number = 1
        builders.settled(which, 1, people=1)
        fits.refit(project=which, now=NOW)
    label_alarms.run_due(NOW)
    assert looked == ["other"]
    assert [fit.project for fit in label_alarms.due(NOW + label_alarms.LEASE + timedelta(seconds=1))] == [project]
