"""Hidden gold and silent repeats: when they come, that they are like any other task, and that nothing tells them."""

from __future__ import annotations

import json
import random
from collections import Counter
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from scipy.stats import binom

from annotation import assignment as assignments
from annotation.models import Assignment, AssignmentState, FlagKind, Gold, GoldUse, Project, Purpose, Slot, Vote
from annotation.progress import progress
from annotation.voting import Frozen, own_votes, retract
from tests import builders, world
from tests.builders import NOW

pytestmark = pytest.mark.django_db
LATER = NOW + timedelta(minutes=16)


@pytest.fixture
def project():
    return builders.project(overlap=1, gold_share=0.5)


@pytest.fixture
def ann(project):
    return builders.member(project, "ann")


def work(project, person, rng, *, most=10_000, wanted=1):
    """Vote until nothing comes; the assignments in their order. Each vote is a second after the one before."""
    done, now = [], NOW
    while len(done) < most:
        leased = assignments.lease(project=project, annotator=person, tab="tab", wanted=wanted, now=now, rng=rng)
        if not leased:
            break
        for item in leased:
            now += timedelta(seconds=1)
            builders.vote(item, rng.choice("ab"), now=now)
            done.append(item)
    return done


def left(project, person):
    return progress(project=project, membership=project.memberships.get(user=person), now=NOW)


def test_hidden_gold_comes_as_often_as_the_project_wants_it(ann):
    project = builders.project(overlap=1, slug="often", gold_share=0.2)
    builders.member(project, "ann")
    builders.comparisons(project, 120)
    builders.hidden_gold(project, 60)
    done = work(project, ann, random.Random(1))
    golden = sum(item.purpose == Purpose.GOLD for item in done)
    low, high = binom.interval(0.999, len(done), 0.2)
    assert low <= golden <= high
    assert len(done) == 120 + golden
    assert len({item.comparison_id for item in done}) == len(done)


def test_hidden_gold_has_no_slot_and_counts_for_the_annotator(project, ann):
    builders.comparisons(project, 30)
    gold = {item.pk for item in builders.hidden_gold(project, 30)}
    done = [item for item in work(project, ann, random.Random(2), most=20) if item.purpose == Purpose.GOLD]
    assert done
    assert {item.comparison_id for item in done} <= gold
    votes = Vote.objects.filter(purpose=Purpose.GOLD)
    assert votes.count() == len(done)
    assert not Slot.objects.filter(vote__in=votes).exists()
    again = builders.vote(done[0], votes.get(assignment=done[0]).choice, key=votes.get(assignment=done[0]).key)
    assert (again.replayed, again.counted) == (True, True)


def test_nothing_hidden_comes_when_nothing_ordinary_is_left(project, ann):
    builders.comparisons(project, 3)
    builders.hidden_gold(project, 50)
    done = work(project, ann, random.Random(3))
    assert done[-1].purpose == Purpose.WANTED
    assert Counter(item.purpose for item in done)[Purpose.WANTED] == 3


@pytest.mark.parametrize("change", ["retired", "practice", "withdrawn", "another audience"])
def test_gold_that_may_not_be_shown_is_not(project, ann, change):
    builders.comparisons(project, 20)
    (gold,) = builders.hidden_gold(project)
    if change == "retired":
        Gold.objects.update(retired_at=NOW)
    elif change == "practice":
        Gold.objects.update(use=GoldUse.PRACTICE)
    elif change == "withdrawn":
        gold.consensus.state = "withdrawn"
        gold.consensus.save()
    else:
        gold.audience = "skill:medicine"
        gold.save()
    assert all(item.purpose == Purpose.WANTED for item in work(project, ann, random.Random(4)))


def test_a_repeat_is_an_own_vote_from_before_with_the_sides_turned_round_and_comes_once(ann):
    project = builders.project(overlap=1, slug="again", repeat_share=0.4, repeat_after=5)
    builders.member(project, "ann")
    builders.comparisons(project, 40)
    done = work(project, ann, random.Random(5))
    repeats = [i for i, item in enumerate(done) if item.purpose == Purpose.REPEAT]
    assert len(repeats) > 10
    first = {item.comparison_id: i for i, item in reversed(list(enumerate(done)))}
    for i in repeats:
        earlier = first[done[i].comparison_id]
        assert earlier <= i - 5
        assert done[i].sides == done[earlier].sides[::-1]
        assert (done[i].repetition, done[earlier].purpose) == (1, Purpose.WANTED)
    assert len({done[i].comparison_id for i in repeats}) == len(repeats)
    assert Slot.objects.filter(vote__purpose=Purpose.WANTED).count() == 40
    assert not Slot.objects.filter(vote__repetition=1).exists()


def test_a_repeat_is_not_asked_under_another_form(ann):
    project = builders.project(overlap=1, slug="formed", repeat_share=0.5, repeat_after=1)
    builders.member(project, "ann")
    builders.comparisons(project, 30)
    work(project, ann, random.Random(6), most=10)
    Project.objects.update(form_number=2)
    project.refresh_from_db()
    earlier = set(Vote.objects.values_list("comparison_id", flat=True))
    later = work(project, ann, random.Random(7), most=10)
    assert not earlier & {item.comparison_id for item in later if item.purpose == Purpose.REPEAT}


def _hold(project, person):
    """One ordinary and one hidden lease of a person, in two tabs."""
    found = {}
    for seed in range(60):
        (item,) = assignments.lease(
            project=project, annotator=person, tab=f"tab{seed}", wanted=1, now=NOW, rng=random.Random(seed)
        )
        if item.purpose in found:
            assignments.release(project=project, annotator=person, tab=item.tab, public_ids=[item.public_id], now=NOW)
        found.setdefault(item.purpose, item)
        if len(found) == 2:
            break
    return found[Purpose.WANTED], found[Purpose.GOLD]


def test_leases_without_a_slot_are_renewed_released_expired_skipped_and_flagged_like_others(project, ann):
    builders.comparisons(project, 20)
    builders.hidden_gold(project, 20)

    def states(act):
        seen = []
        for item in _hold(project, ann):
            value = act(item)
            item.refresh_from_db()
            seen.append((value, item.state, item.reason, item.ended_at, item.lease_expires_at))
        Assignment.objects.filter(state=AssignmentState.LEASED).update(lease_expires_at=NOW)
        assignments.expire(LATER)
        return seen

    for act in (
        lambda item: assignments.renew(project=project, annotator=ann, tab=item.tab, now=NOW + timedelta(minutes=3)),
        lambda item: assignments.release(
            project=project, annotator=ann, tab=item.tab, public_ids=[item.public_id], now=NOW
        ),
        lambda item: assignments.end(assignments=[item], state=AssignmentState.EXPIRED, now=LATER),
        lambda item: assignments.skip(assignment=item, reason="too_long", now=NOW),
        lambda item: assignments.flag(assignment=item, kind=FlagKind.OTHER, note="", now=NOW),
        lambda item: builders.vote(item).counted,
    ):
        ordinary, hidden = states(act)
        assert ordinary == hidden


def test_a_hidden_vote_is_taken_back_and_given_again(project, ann):
    builders.comparisons(project, 20)
    builders.hidden_gold(project, 20)
    for item in _hold(project, ann):
        vote = builders.vote(item, "a").vote
        assert retract(vote=vote, by=ann, now=NOW).state == AssignmentState.LEASED
        assert not builders.vote(item, "a", key=vote.key).counted  # a replay of what was taken back
        again = builders.vote(item, "b")
        assert again.counted
        assert again.vote.replaces.vote == vote


def test_hidden_gold_can_be_taken_back_just_as_long_as_the_vote_before_it(project, ann):
    """A snapshot never takes gold: if only its votes stayed open to a change, that would tell it."""
    builders.comparisons(project, 12)
    builders.hidden_gold(project, 12)
    done = work(project, ann, random.Random(8), most=12)
    ordinary = [item for item in done if item.purpose == Purpose.WANTED]
    for item in ordinary[: len(ordinary) // 2]:
        item.comparison.frozen_at = NOW
        item.comparison.save()
    frozen = False
    for item, listed in zip(done, own_votes(project_id=project.pk, annotator=ann)[::-1], strict=True):
        if item.purpose == Purpose.WANTED:
            frozen = item.comparison.frozen_at is not None
        assert listed.vote.assignment_id == item.pk
        assert listed.can_retract is not frozen
        if frozen:
            with pytest.raises(Frozen):
                retract(vote=listed.vote, by=ann, now=NOW)


def test_figures_move_the_same_way_for_both_kinds(ann):
    project = builders.project(overlap=1, slug="figures", gold_share=0.25, repeat_share=0.1, repeat_after=3)
    builders.member(project, "ann")
    builders.comparisons(project, 60)
    builders.hidden_gold(project, 40)
    rng, moves, now = (
        random.Random(9),
        {Purpose.WANTED: Counter(), Purpose.GOLD: Counter(), Purpose.REPEAT: Counter()},
        NOW,
    )
    before = left(project, ann)
    assert before.remaining == round(60 / 0.65)
    while before.remaining > 15:  # near the end the estimate gives way to what is there
        now += timedelta(seconds=1)
        (item,) = assignments.lease(project=project, annotator=ann, tab="tab", wanted=1, now=now, rng=rng)
        held = left(project, ann)
        what = rng.choice(("vote", "vote", "vote", "skip", "flag", "release", "undo"))
        if what == "skip":
            assignments.skip(assignment=item, reason="too_long", now=now)
        elif what == "flag":
            assignments.flag(assignment=item, kind=FlagKind.OTHER, note="", now=now)
        elif what == "release":
            assignments.release(project=project, annotator=ann, tab="tab", public_ids=[item.public_id], now=now)
        else:
            vote = builders.vote(item, now=now).vote
        after = left(project, ann)
        if what == "undo":
            retract(vote=vote, by=ann, now=now)
            undone = left(project, ann)
            moves[item.purpose][what, undone.votes - after.votes, undone.remaining - after.remaining] += 1
            builders.vote(item, now=now)
            after = left(project, ann)
        moves[item.purpose]["lease", held.votes - before.votes, held.remaining - before.remaining] += 1
        moves[item.purpose][what, after.votes - held.votes, after.remaining - held.remaining] += 1
        before = after
    expected = {("lease", 0, 0), ("vote", 1, -1), ("skip", 0, -1), ("flag", 0, -1), ("release", 0, 0), ("undo", -1, 1)}
    for purpose, seen in moves.items():
        assert sum(seen.values()) > 5, purpose
        assert {move if move[0] != "undo" else ("undo", -1, 1) for move in seen} <= expected, (purpose, seen)


def test_nothing_that_an_annotator_receives_tells_a_hidden_task_from_an_ordinary_one():
    """The same keys, kinds of values, sizes and headers; statements within one; no id that is not random."""
    project = builders.project(overlap=1, gold_share=0.5)
    ann = builders.member(project, "ann")
    builders.comparisons(project, 40, start=1000)
    builders.hidden_gold(project, 40, start=2000)
    browser = world.client(ann)
    traces: dict[str, list] = {Purpose.WANTED: [], Purpose.GOLD: []}
    for _ in range(40):
        with CaptureQueriesContext(connection) as asking:
            queue = browser.post("/api/v1/annotate/projects/helpful/queue", {"tab": "t", "n": 1})
        (task,) = queue.json()["items"]
        address = f"/api/v1/annotate/assignments/{task['assignment']}"
        with CaptureQueriesContext(connection) as voting:
            voted = browser.post(f"{address}/vote", {"choice": "left"}, headers={"Idempotency-Key": str(uuid4())})
        undone = browser.post(f"/api/v1/annotate/votes/{voted.json()['vote']}/retract")
        again = browser.post(f"{address}/vote", {"choice": "tie"}, headers={"Idempotency-Key": str(uuid4())})
        purpose = Assignment.objects.get(public_id=task["assignment"]).purpose
        answers = [queue, voted, undone, again, browser.post(f"{address}/skip", {"reason": "too_long"})]
        visible = [(item.status_code, sorted(item.headers), _shape(item)) for item in answers]
        traces[purpose].append((visible, len(asking), len(voting)))
    ordinary, hidden = traces[Purpose.WANTED], traces[Purpose.GOLD]
    assert min(len(ordinary), len(hidden)) > 8
    shapes = {json.dumps(visible) for visible, _, _ in ordinary}
    assert shapes == {json.dumps(visible) for visible, _, _ in hidden}
    assert len(shapes) == 1
    for k in (1, 2):  # so an answer takes the same time
        assert len({trace[k] for trace in ordinary + hidden}) == 1, [
            Counter(t[k] for t in g) for g in (ordinary, hidden)
        ]


def _shape(answer) -> object:
    """An answer with every text replaced by its length and digits by nothing, and without the running figures."""

    def shape(value: object) -> object:
        if isinstance(value, dict):
            return {key: shape(item) for key, item in value.items() if key not in {"votes", "remaining"}}
        if isinstance(value, list):
            return sorted((shape(item) for item in value), key=str)
        return len(value) if isinstance(value, str) else type(value).__name__

    return shape(answer.json()) if answer.content else None
