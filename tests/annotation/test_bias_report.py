"""What the statistics say of people: bias by side, repeats, drift, accuracy with flags, and advice."""

from __future__ import annotations

import math
import random
from datetime import timedelta
from uuid import uuid4

import pytest
from django.core.cache import cache

from annotation.exclusion import exclude
from annotation.feedback import Answer, read_form
from annotation.importing.batches import import_lines
from annotation.importing.rows import ImportKind
from annotation.models import Assignment, Purpose, Vote
from annotation.pairing import Pair, create_comparisons
from annotation.references import record_reference
from annotation.reports.bias import advice_report, bias_report, people_report
from annotation.statistics.estimates import Reason
from tests import builders
from tests.builders import NOW, cast

pytestmark = [pytest.mark.django_db, pytest.mark.filterwarnings("error")]


@pytest.fixture(autouse=True)
def _empty_cache():
    cache.clear()


def project_of(*names):
    project = builders.project(overlap=max(2, len(names)), form=read_form({"kind": "choice"}))
    return project, [builders.member(project, name) for name in names]


def pairs(project, n):
    """Comparisons of two equally long texts without marks, each of its own prompt."""
    found = []
    for i in range(n):
        asked = builders.prompt(project, f"Which of {i}?")
        first, second = (builders.completion(asked, text, by=text, index=k) for k, text in enumerate(("one.", "two.")))
        pair = Pair(prompt=asked, a=first, b=second)
        found += create_comparisons(project=project, pairs=[pair], origin=uuid4(), overlap=None, now=NOW)
    return found


def seen(comparison, person, letter, sides, *, now=NOW):
    """A counted vote that was given on a screen."""
    vote = cast(comparison, person, letter, now=now)
    Vote.objects.filter(pk=vote.pk).update(assignment=screen(comparison, person, sides, Purpose.WANTED))


def again(comparison, person, letter, sides):
    """The answer to a silent repeat."""
    turn = screen(comparison, person, sides, Purpose.REPEAT)
    Vote.objects.create(
        project_id=comparison.project_id, comparison=comparison, annotator=person, assignment=turn, repetition=1,
        purpose=Purpose.REPEAT, key=uuid4(), choice=letter, body_hash="",
    )  # fmt: skip


def screen(comparison, person, sides, purpose):
    return Assignment.objects.create(
        project_id=comparison.project_id, comparison=comparison, annotator=person, tab="t", sides=sides, state="voted",
        purpose=purpose, repetition=purpose == Purpose.REPEAT, lease_expires_at=NOW,
    )  # fmt: skip


def test_who_takes_the_left_side_in_three_of_four_has_a_bias_of_ln_3():
    project, (ann,) = project_of("ann")
    for i, made in enumerate(pairs(project, 40)):
        sides = "ab" if i % 2 else "ba"
        seen(made, ann, sides[0] if i % 4 else sides[1], sides)
    found = bias_report(project)
    position, length, style = found.effects
    assert (position.bias, position.pooled.value) == ("position", pytest.approx(math.log(3)))
    assert position.pooled.low < math.log(3) < position.pooled.high
    assert position.effect.reason == "one_annotator"  # nobody to differ from
    assert (length.pooled.reason, style.pooled.reason) == ("one_class", "one_class")
    assert (found.votes, found.prompts, found.reason) == (40, 40, None)
    assert people_report(project).people[0].left_share.value == 0.75


def test_each_person_has_their_own_bias_and_only_a_large_one_is_flagged():
    """Six people are right in three of four, whatever the side; the seventh takes the left one in nine of ten."""
    project, people = project_of("ann", "ben", "cid", "dan", "eve", "fay", "gus")
    rng = random.Random(0)
    for i, made in enumerate(pairs(project, 60)):
        for w, person in enumerate(people):
            sides = "ab" if (i + w) % 2 else "ba"
            right = "a" if rng.random() < 0.75 else "b"
            lefty = sides[0] if i % 10 else sides[1]
            seen(made, person, lefty if person.name == "gus" else right, sides)
    found = {row.person.name: row.effects[0] for row in bias_report(project).people}
    assert [name for name, effect in found.items() if effect.flagged] == ["gus"]
    assert found["gus"].effect.low > 0.4
    flags = {row.person.name: row.flags for row in people_report(project).people}
    assert [name for name, which in flags.items() if "position" in which] == ["gus"]


def test_few_votes_are_said_to_be_few_and_never_flagged():
    project, people = project_of("ann", "ben")
    for i, made in enumerate(pairs(project, 4)):
        for person in people:
            seen(made, person, "ab"[i % 2], "ab" if person is people[0] else "ba")
    for row in bias_report(project).people:
        assert not any(item.flagged for item in row.effects)
        assert row.windows == ()
        assert all("few_votes" in item.effect.warnings for item in row.effects)


def test_sides_that_were_always_the_same_cannot_be_told_from_the_completion():
    project, people = project_of("ann", "ben")
    rng = random.Random(0)
    for made in pairs(project, 40):
        for person in people:
            seen(made, person, rng.choice("ab"), "ab")
    position = bias_report(project).effects[0]
    assert position.pooled.reason == "sides_not_randomised"


def test_repeats_tell_who_repeats_themselves_and_who_the_side():
    """Of four repeats with sides swapped two say the same class, and two the same side."""
    project, (ann, ben) = project_of("ann", "ben")
    made = pairs(project, 4)
    for item, second in zip(made, "aabb", strict=True):
        seen(item, ann, "a", "ab")
        again(item, ann, second, "ba")
    seen(made[0], ben, "a", "ab")
    again(made[0], ben, "b", "ba")
    exclude(project=project, user=ben, by=project.created_by, reason="guessed", now=NOW)
    found = bias_report(project).consistency
    assert (found.share.value, found.side_driven.value) == (0.5, 0.5)
    assert found.share.n == 4  # none of ben's
    assert "few_votes" in found.share.warnings
    (row,) = [row for row in people_report(project).people if row.person.name == "ann"]
    assert (row.consistency.value, row.side_driven.value) == (0.5, 0.5)


def test_windows_of_drift_have_their_times():
    project, (ann, ben) = project_of("ann", "ben")
    for i, made in enumerate(pairs(project, 60)):
        cast(made, ann, "a", now=NOW + timedelta(minutes=i))
        cast(made, ben, "a" if i < 30 or i % 2 else "b", now=NOW + timedelta(minutes=i))
    rows = {row.person.name: row for row in bias_report(project).people}
    first, second = rows["ben"].windows
    assert (first.votes, second.votes) == (30, 30)
    assert (first.started_at, first.ended_at) == (NOW, NOW + timedelta(minutes=29))
    assert second.started_at == NOW + timedelta(minutes=30)
    assert (first.agreement.value, second.agreement.value) == (1, 0.5)


def test_who_votes_at_random_is_flagged_and_nobody_else():
    project, people = project_of("ann", "ben", "cid", "dan", "eve")
    for i, made in enumerate(pairs(project, 40)):
        truth = "ab"[i % 2]
        for person in people:
            cast(made, person, "ab"[i // 2 % 2] if person.name == "eve" else truth)
    found = people_report(project)
    rows = {row.person.name: row for row in found.people}
    assert {name: row.flags for name, row in rows.items() if row.flags} == {"eve": ("accuracy",)}
    assert rows["eve"].accuracy.high < found.lower_quartile
    assert rows["eve"].agreement.value == 0.5
    assert rows["eve"].kappa.value == pytest.approx(0, abs=1e-9)
    assert rows["ann"].agreement.value == 1


def test_an_excluded_person_stays_in_the_table_and_has_no_part_in_the_fit():
    project, (ann, ben) = project_of("ann", "ben")
    for made in pairs(project, 3):
        cast(made, ann, "a")
        cast(made, ben, "b")
    exclude(project=project, user=ben, by=project.created_by, reason="guessed", now=NOW)
    rows = {row.person.name: row for row in people_report(project).people}
    assert rows["ben"].person.is_excluded
    assert (rows["ben"].votes, rows["ben"].accuracy.reason) == (3, "no_votes")
    assert rows["ann"].accuracy.value is not None


def test_the_table_has_the_agreement_with_references():
    project, (ann,) = project_of("ann")
    for made, reference in zip(pairs(project, 4), ("left", "left", "left", "right"), strict=True):
        cast(made, ann, "a")
        record_reference(comparison=made, by=project.created_by, answer=Answer(choice=reference), now=NOW)
    (row,) = people_report(project).people
    assert (row.reference.value, row.reference.n) == (0.75, 4)


def test_people_who_are_sure_and_differ_need_a_better_guideline():
    project, (ann, ben) = project_of("ann", "ben")
    for i, made in enumerate(pairs(project, 12)):
        for person, letter in ((ann, "a"), (ben, "a" if i < 3 else "b")):
            seen(made, person, letter, "ab")
            again(made, person, letter, "ba")
    found = advice_report(project)
    assert (found.self_consistency.value, found.agreement.value) == (1, 0.25)
    assert found.advice == "better_guideline"
    assert "100 %" in found.words
    assert "25 %" in found.words
    assert found.ceiling.best.reason == "below_chance"


@pytest.mark.parametrize(("accuracy", "advice"), [(0.99, "more_votes"), (0.8, "more_pairs"), (None, None)])
def test_a_model_at_the_ceiling_needs_more_votes_and_below_it_more_pairs(accuracy, advice):
    project, people = project_of("ann", "ben")
    for i, made in enumerate(pairs(project, 4)):
        for person in people:
            cast(made, person, "ab"[i % 2])
    found = advice_report(project, accuracy=accuracy)
    assert found.ceiling.best.value == 1
    assert found.advice == advice
    assert found.share_of_ceiling == accuracy
    if accuracy is None:
        assert "silent repeats" in found.words


def test_imported_votes_without_screens_tell_of_length_and_format_but_not_of_the_position(test_data):
    """LLMFAO as it is shared: the pooled effects of STATISTICS 10, row 30, to what its cleaned texts leave of them."""
    project = builders.project(slug="llmfao")
    lines = (test_data / "multi_annotator" / "llmfao.jsonl").read_text(encoding="utf-8").splitlines()
    import_lines(project=project, kind=ImportKind.VOTES, lines=lines, by=project.created_by, now=NOW)
    found = bias_report(project)
    assert (found.votes, found.prompts) == (3329, 9)
    position, length, style = found.effects
    assert position.pooled.reason is Reason.SIDES_NOT_RANDOMISED
    assert length.pooled.value == pytest.approx(-0.0550, abs=0.005)
    assert style.pooled.value == pytest.approx(-0.0631, abs=0.005)
