"""Audiences, caps, pauses, what is started first, leases of a given comparison, and the order on the screen."""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta

import pytest
from scipy.stats import chisquare

from annotation import assignment as assignments
from annotation.assignment import AssignmentOver
from annotation.audience import may_serve, served
from annotation.feedback import FeedbackKind, Form
from annotation.models import (
    Assignment,
    AssignmentState,
    Audience,
    Comparison,
    ComparisonCompletion,
    Membership,
    Purpose,
    Slot,
    SlotState,
)
from annotation.progress import progress, why_nothing
from annotation.voting import retract
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


def of(project, person):
    return Membership.objects.get(project=project, user=person)


def why(project, person, closed=""):
    return why_nothing(project=project, membership=of(project, person), closed=closed, now=NOW)


def left(project, person):
    return progress(project=project, membership=of(project, person), now=NOW).remaining


def meant_for(project, key, n=1, *, start=0, priority=0):
    """Comparisons of an audience, as pairing makes them."""
    made = builders.comparisons(project, n, start=start)
    Audience.objects.get_or_create(project=project, key=key)
    Comparison.objects.filter(pk__in=[item.pk for item in made]).update(audience=key, priority=priority)
    Slot.objects.filter(comparison__in=made).update(audience=key, priority=2 * priority)
    return made


def knows(project, name, *, languages=(), skills=()):
    person = builders.member(project, name)
    Membership.objects.filter(project=project, user=person).update(languages=list(languages), skills=list(skills))
    return person


@pytest.mark.parametrize(
    ("languages", "skills", "key", "serves"),
    [
        ([], [], "", True),
        ([], [], "lang:de", True),
        (["en"], [], "lang:de", False),
        (["de", "en"], [], "lang:de", True),
        ([], ["medicine"], "lang:de skill:medicine", True),
        (["de"], [], "lang:de skill:medicine", False),
        (["de"], ["expert"], "skill:expert", True),
        ([], ["expert"], "person:1", False),
    ],
)
def test_a_person_serves_an_audience_whose_tags_they_all_have(project, languages, skills, key, serves):
    person = knows(project, "dora", languages=languages, skills=skills)
    assert may_serve(of(project, person))(key) is serves
    assert may_serve(of(project, person))(f"person:{person.pk}")


def test_what_is_narrow_is_looked_at_first_and_other_peoples_chats_not_at_all(project):
    for key in ("lang:de", "lang:de skill:medicine", "person:999", "lang:fr"):
        Audience.objects.create(project=project, key=key)
    dora = knows(project, "dora", languages=["de"], skills=["medicine"])
    assert served(of(project, dora)) == ["lang:de skill:medicine", "lang:de", ""]


def test_comparisons_go_to_those_whom_they_are_meant_for(project, ann):
    german = {item.pk for item in meant_for(project, "lang:de", 3)}
    for_all = {item.pk for item in builders.comparisons(project, 2, start=50)}
    dora, eva = knows(project, "dora", languages=["de"]), knows(project, "eva", languages=["en"])
    assert left(project, dora) == 5
    assert {item.comparison_id for item in builders.lease(project, dora, wanted=3)} == german
    assert left(project, eva) == 2
    assert {item.comparison_id for item in builders.lease(project, eva, wanted=5)} == for_all
    assert why(project, eva) == "held_by_others"


def test_of_several_audiences_the_highest_priority_goes_first(project):
    meant_for(project, "lang:de", 2, priority=1)
    (urgent,) = meant_for(project, "skill:medicine", start=10, priority=3)
    (soon,) = builders.comparisons(project, 1, start=20)
    Slot.objects.filter(comparison=soon).update(priority=4)
    dora = knows(project, "dora", languages=["de"], skills=["medicine"])
    order = [item.comparison_id for _ in range(4) for item in _next(project, dora)]
    assert order[:2] == [urgent.pk, soon.pk]
    assert len(set(order)) == 4


def _next(project, person):
    leased = builders.lease(project, person)
    for item in leased:
        builders.vote(item)
    return leased


def test_a_person_with_a_cap_gets_so_many_tasks_and_no_more(project, ann):
    builders.comparisons(project, 9)
    project.person_cap = 4
    assert len(builders.lease(project, ann, wanted=3, tab="one")) == 3
    assert left(project, ann) == 4
    (last,) = builders.lease(project, ann, wanted=3, tab="two")
    assert builders.lease(project, ann, wanted=3, tab="three") == []
    vote = builders.vote(last).vote
    assert left(project, ann) == 3
    project.save()
    assert why(project, ann) == "share_done"
    assert builders.vote(retract(vote=vote, by=ann, now=NOW)).counted  # what is held stays theirs
    Membership.objects.filter(user=ann, project=project).update(cap=6)
    assert len(builders.lease(project, ann, wanted=5, tab="three")) == 2


def test_a_project_with_a_cap_hands_out_so_many_tasks_to_all_together(project, ann):
    builders.comparisons(project, 9)
    project.vote_cap = 5
    project.save()
    ben = builders.member(project, "ben")
    assert len(builders.lease(project, ann, wanted=3)) == 3
    assert left(project, ben) == 2
    assert len(builders.lease(project, ben, wanted=5)) == 2
    assert builders.lease(project, builders.member(project, "cid")) == []
    assert why(project, builders.member(project, "cid")) == "share_done"


@pytest.mark.parametrize("field", ["paused_at", "excluded_at"])
def test_a_paused_or_excluded_person_keeps_what_they_hold_and_gets_nothing_new(project, ann, field):
    builders.comparisons(project, 5)
    (held,) = builders.lease(project, ann)
    Membership.objects.filter(user=ann).update(**{field: NOW})
    assert [item.pk for item in builders.lease(project, ann, wanted=4)] == [held.pk]
    assert builders.vote(held).counted
    assert why(project, ann) == "person_paused"


def test_what_has_to_be_done_first_is_the_reason(project, ann):
    builders.comparisons(project)
    assert why(project, ann, closed="practise") == "practise"
    project.paused_at = NOW
    assert why(project, ann, closed="practise") == "paused"


# --- started comparisons first ----------------------------------------------------------------------------------------


def priorities(comparison):
    return set(comparison.slots.values_list("priority", flat=True))


def test_a_started_comparison_goes_before_the_others_and_back_when_its_last_lease_ends(project, ann):
    project.finish_started = True
    project.save()
    made = builders.comparisons(project, 6)
    (leased,) = builders.lease(project, ann)
    assert priorities(leased.comparison) == {1}
    assert {0} == set().union(*(priorities(item) for item in made if item != leased.comparison))
    (of_ben,) = builders.lease(project, builders.member(project, "ben"))
    assert of_ben.comparison_id == leased.comparison_id
    assignments.skip(assignment=leased, reason="too_long", now=NOW)
    assert priorities(leased.comparison) == {1}  # ben still has it
    assignments.expire(LATER)
    assert priorities(leased.comparison) == {0}


def test_a_comparison_with_a_vote_stays_started_until_the_vote_is_taken_back_and_the_lease_is_over(project, ann):
    project.finish_started = True
    project.save()
    builders.comparisons(project, 2)
    (leased,) = builders.lease(project, ann)
    vote = builders.vote(leased).vote
    assignments.expire(LATER)
    assert priorities(leased.comparison) == {1}
    retract(vote=vote, by=ann, now=NOW)
    assert priorities(leased.comparison) == {1}
    assignments.expire(LATER)
    assert priorities(leased.comparison) == {0}


def test_a_late_vote_starts_a_comparison_too(project, ann):
    project.finish_started = True
    project.save()
    builders.comparisons(project, 2)
    (leased,) = builders.lease(project, ann)
    assignments.expire(LATER)
    builders.vote(leased, now=LATER)
    assert priorities(leased.comparison) == {1}


def test_switching_the_setting_gives_the_slots_that_are_there_their_priorities(project, ann):
    made = builders.comparisons(project, 4)
    Comparison.objects.filter(pk=made[0].pk).update(priority=-3)
    Slot.objects.filter(comparison=made[0]).update(priority=-6)
    started = {item.comparison_id for item in builders.lease(project, ann, wanted=2)}
    project.finish_started = True
    project.save()
    assert assignments.apply_finish_started(project=project) == 4
    assert assignments.apply_finish_started(project=project) == 0
    for item in made:
        base = -6 if item == made[0] else 0
        assert priorities(item) == {base + 1 if item.pk in started else base}
    project.finish_started = False
    project.save()
    assert assignments.apply_finish_started(project=project) == 4
    assert {0, -6} == set(Slot.objects.values_list("priority", flat=True))


# --- a given comparison -----------------------------------------------------------------------------------------------


def give(project, person, comparison, purpose=Purpose.PRACTICE, tab="t", now=NOW, repetition=0):
    return assignments.give(
        project=project, annotator=person, comparison=comparison, tab=tab, purpose=purpose, repetition=repetition,
        now=now, rng=random.Random(0),
    )  # fmt: skip


@pytest.mark.parametrize("purpose", [Purpose.PRACTICE, Purpose.QUALIFICATION, Purpose.REFERENCE])
def test_a_given_comparison_has_no_slot_is_no_task_of_the_queue_and_does_not_count(project, ann, purpose):
    made, other = builders.comparisons(project, 2)
    given = give(project, ann, made, purpose)
    assert give(project, ann, made, purpose, tab="new", now=LATER).pk == given.pk
    given.refresh_from_db()
    assert (given.tab, given.lease_expires_at > LATER) == ("new", True)
    assert [item.comparison_id for item in builders.lease(project, ann, wanted=5, tab="new")] == [other.pk]
    receipt = builders.vote(given)
    assert receipt.counted
    assert receipt.vote.purpose == purpose
    assert not Slot.objects.filter(vote=receipt.vote).exists()
    assert progress(project=project, membership=of(project, ann), now=NOW).votes == 0
    with pytest.raises(AssignmentOver):
        give(project, ann, made, purpose)
    assert give(project, ann, made, purpose, repetition=1).repetition == 1


def test_a_wanted_comparison_that_is_given_takes_its_slot(project, ann):
    made = meant_for(project, f"person:{ann.pk}")[0]
    Slot.objects.filter(comparison=made, number=2).delete()
    given = give(project, ann, made, Purpose.WANTED)
    assert give(project, ann, made, Purpose.WANTED).pk == given.pk
    assert Slot.objects.get(comparison=made).assignment == given
    with pytest.raises(AssignmentOver):
        give(project, builders.member(project, "ben"), made, Purpose.WANTED)
    assert builders.vote(given).counted
    assert Slot.objects.get(comparison=made).state == SlotState.DONE


def test_a_given_lease_expires_like_any_other_and_is_given_again(project, ann):
    made = builders.comparisons(project)[0]
    given = give(project, ann, made)
    assert assignments.expire(LATER) == 1
    given.refresh_from_db()
    assert given.state == AssignmentState.EXPIRED
    assert give(project, ann, made, now=LATER).pk != given.pk


# --- sides ------------------------------------------------------------------------------------------------------------


def sets_of(project, n, size):
    made = builders.comparisons(project, n)
    for item in made:
        for position in range(2, size):
            extra = builders.completion(item.prompt, f"Answer {position} of {item.pk}.", index=position)
            ComparisonCompletion.objects.create(comparison=item, completion=extra, position=position)
    return made


def test_three_completions_come_in_every_order_and_each_begins_as_often():
    project = builders.project(overlap=3, form=Form(kind=FeedbackKind.RANKING, size=3))
    made = sets_of(project, 60, 3)
    rng = random.Random(5)
    for name in ("ann", "ben", "cid"):
        person = builders.member(project, name)
        while leased := assignments.lease(project=project, annotator=person, tab="t", wanted=5, now=NOW, rng=rng):
            Assignment.objects.filter(pk__in=[item.pk for item in leased]).update(state=AssignmentState.VOTED)
    for item in made:
        assert {sides[0] for sides in item.assignments.values_list("sides", flat=True)} == set("abc")
    orders = Counter(Assignment.objects.values_list("sides", flat=True))
    assert set(orders) == {"abc", "acb", "bac", "bca", "cab", "cba"}
    assert chisquare(list(orders.values())).pvalue > 0.001


def test_a_single_completion_has_one_order(ann):
    project = builders.project(overlap=1, slug="single", form=Form(kind=FeedbackKind.RATING, size=1))
    person = builders.member(project, "ann")
    (made,) = builders.comparisons(project)
    made.places.filter(position=1).delete()
    (leased,) = builders.lease(project, person)
    assert leased.sides == "a"
