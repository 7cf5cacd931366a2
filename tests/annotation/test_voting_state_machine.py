"""Any order of leases, votes, replays, undos, skips, expiries and changes of settings keeps every acknowledgement.

Among the ordinary tasks are hidden gold and repeats, an audience that one person does not serve, caps, started ones
first, and an overlap that grows; once with pairs, once with rankings of three.

The model is a dictionary of what the callers were told; after every step the rows are compared with it. The steps are
one rule with weights: among many rules Hypothesis tries those with the first names far more often.
"""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.db import transaction
from django.db.models import Count
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from annotation import assignment as assignments
from annotation.assignment import AssignmentOver
from annotation.consensus import rebuild, settle_due
from annotation.feedback import Answer, FeedbackKind, Form, store
from annotation.models import (
    Assignment,
    AssignmentState,
    Audience,
    Choice,
    Comparison,
    Consensus,
    FlagKind,
    Membership,
    Project,
    Purpose,
    Retraction,
    Slot,
    SlotState,
    User,
    Vote,
)
from annotation.pairing import change_overlap
from annotation.voting import AlreadyRetracted, AlreadyVoted, KeyReused, record_vote, retract
from tests import builders
from tests.builders import NOW

PEOPLE, COMPARISONS, TABS = ("ann", "ben", "cid"), 3, ("one", "two")
SIDES = ("left", "right", "tie")
RANKINGS = {"left": [["A"], ["B", "C"]], "right": [["C"], ["A", "B"]], "tie": [["A", "B", "C"]]}
GERMAN = "lang:de"  # what the first comparison is for; ben reads English only
WEIGHTS = {
    "answer": 5, "ask_for_work": 4, "vote_anywhere": 2, "change_a_mind": 3, "double_a_request": 2, "misuse_a_key": 1,
    "refuse": 2, "stay_or_leave": 1, "let_time_pass": 3, "set_overlap": 2, "settle": 1,
    "set_caps": 1, "switch_finish_started": 1, "want_one_more": 1,
}  # fmt: skip
STEPS = [name for name, weight in WEIGHTS.items() for _ in range(weight)]
any_index = st.integers(min_value=0, max_value=10_000)


class Voting(RuleBasedStateMachine):
    begun = False
    states = 0
    acknowledged = 0
    examples = 0
    hidden = 0
    project: Project  # made once, outside: each example is rolled back
    people: list[User]
    form: Form

    @initialize()
    def everybody_has_work(self):
        self.undo = transaction.atomic()
        self.undo.__enter__()
        self.now = NOW
        Voting.examples += 1
        self.rng = random.Random(Voting.examples)
        self.leases: list[Assignment] = []
        self.acks: dict[UUID, tuple[Assignment, str, str, int]] = {}  # key → lease, side, rationale, vote
        self.live: dict[tuple[int, int, int], UUID] = {}  # turn → key of the vote that stands
        self.most: dict[int, int] = dict.fromkeys(Comparison.objects.values_list("pk", flat=True), 2)
        self.begun = True
        self.project.refresh_from_db()
        for who in range(len(PEOPLE)):
            self.leases += self.given(who, "one", 2)

    def teardown(self) -> None:
        if not self.begun:  # Hypothesis makes an instance only to look at it
            return
        Voting.acknowledged += len(self.acks)
        Voting.hidden += sum(lease.purpose != Purpose.WANTED for lease, *_ in self.acks.values())
        transaction.set_rollback(True)
        self.undo.__exit__(None, None, None)

    def given(self, who: int, tab: str, wanted: int) -> list[Assignment]:
        return assignments.lease(
            project=self.project, annotator=self.people[who], tab=tab, wanted=wanted, now=self.now, rng=self.rng
        )

    def pick(self, index: int) -> Assignment:
        found = self.leases[index % len(self.leases)]
        found.refresh_from_db()
        return found

    def say(self, lease: Assignment, side: str, rationale: str, key: UUID):
        return record_vote(
            assignment=lease, annotator=lease.annotator, key=key, answer=self.answered(side, rationale), now=self.now
        )

    def answered(self, side: str, rationale: str) -> Answer:
        if self.form.kind is FeedbackKind.RANKING:
            return Answer(ranking=RANKINGS[side], rationale=rationale)
        return Answer(choice=side, rationale=rationale)

    @staticmethod
    def turn(lease: Assignment) -> tuple[int, int, int]:
        return lease.annotator_id, lease.comparison_id, lease.repetition

    def slot_for(self, lease: Assignment) -> bool:
        """Whether a vote by this lease must count, from the rows and the rule alone."""
        if lease.purpose != Purpose.WANTED:
            return True
        slots = list(Slot.objects.filter(comparison_id=lease.comparison_id).select_related("assignment"))
        if any(slot.state == SlotState.LEASED and slot.assignment.annotator_id == lease.annotator_id for slot in slots):
            return True
        free = [
            s for s in slots if s.state == SlotState.OPEN or (s.state == "leased" and s.lease_expires_at < self.now)
        ]
        excess = len(slots) - Comparison.objects.get(pk=lease.comparison_id).overlap
        return len(free) > max(0, excess)

    def ask_for_work(self, i, j):
        given = self.given(i % len(PEOPLE), TABS[j % 2], 1 + j % 3)
        known = {item.pk for item in self.leases}
        for item in given:
            assert item.lease_expires_at == self.now + timedelta(minutes=15)
            assert self.turn(item) not in self.live
            assert sorted(item.sides) == list("abc"[: self.form.size])
            if item.purpose == Purpose.REPEAT and item.pk not in known:
                assert (item.annotator_id, item.comparison_id, 0) in self.live
        cap = Membership.objects.get(user_id=self.people[i % len(PEOPLE)].pk, project=self.project).cap
        if cap is not None and not {item.pk for item in given} <= known:
            mine = Assignment.objects.filter(annotator=self.people[i % len(PEOPLE)], state__in=("leased", "voted"))
            assert mine.count() <= cap
        self.leases += [item for item in given if item.pk not in known]

    def vote_anywhere(self, i, j):
        self.vote(i, SIDES[j % 3], ("", "Because.")[j % 2])

    def vote(self, index: int, side: str, rationale: str) -> None:
        lease, key = self.pick(index), uuid4()
        turn = self.turn(lease)
        counts = self.slot_for(lease)
        if turn in self.live:
            with pytest.raises(AlreadyVoted):
                self.say(lease, side, rationale, key)
            return
        receipt = self.say(lease, side, rationale, key)
        assert (receipt.replayed, receipt.counted) == (False, counts)
        self.acks[key] = (lease, side, rationale, receipt.vote.pk)
        self.live[turn] = key

    def answer(self, i, j):
        waiting = [item for item in self.leases if self.turn(item) not in self.live]
        if waiting:
            self.vote(self.leases.index(waiting[i % len(waiting)]), SIDES[j % 3], "")

    def double_a_request(self, i, j):
        if not self.acks:
            return
        key = list(self.acks)[i % len(self.acks)]
        lease, side, rationale, pk = self.acks[key]
        receipt = self.say(lease, side, rationale, key)
        assert receipt.replayed
        assert receipt.vote.pk == pk
        is_live = key in self.live.values()
        assert receipt.counted == (
            is_live if lease.purpose != Purpose.WANTED else Slot.objects.filter(vote=pk).exists()
        )

    def misuse_a_key(self, i, j):
        if not self.acks:
            return
        key = list(self.acks)[i % len(self.acks)]
        lease, side, rationale, _ = self.acks[key]
        with pytest.raises(KeyReused):
            self.say(lease, side, rationale + "!", key)
        other = next((item for item in self.leases if item.pk != lease.pk), None)
        if other is not None:
            with pytest.raises(KeyReused):
                self.say(other, side, rationale, key)

    def change_a_mind(self, i, j):
        if not self.acks:
            return
        key = list(self.acks)[i % len(self.acks)]
        lease, _, _, pk = self.acks[key]
        turn = self.turn(lease)
        if self.live.get(turn) != key:
            with pytest.raises(AlreadyRetracted):
                retract(vote=Vote.objects.get(pk=pk), by=lease.annotator, now=self.now)
            return
        retract(vote=Vote.objects.get(pk=pk), by=lease.annotator, now=self.now)
        del self.live[turn]

    def refuse(self, i, j):
        lease = self.pick(i)
        if j % 4 == 0:
            assignments.flag(assignment=lease, kind=FlagKind.BROKEN, note="", now=self.now)
        elif self.turn(lease) in self.live:
            with pytest.raises(AssignmentOver):
                assignments.skip(assignment=lease, reason="too_long", now=self.now)
        else:
            assignments.skip(assignment=lease, reason="too_long", now=self.now)

    def stay_or_leave(self, i, j):
        who, tab = i % len(PEOPLE), TABS[j % 2]
        if j % 4 < 2:
            ids = [item.public_id for item in self.leases]
            assignments.release(project=self.project, annotator=self.people[who], tab=tab, public_ids=ids, now=self.now)
        else:
            assignments.renew(project=self.project, annotator=self.people[who], tab=tab, now=self.now)

    def let_time_pass(self, i, j):
        self.now += timedelta(minutes=(1, 8, 16)[i % 3])
        if j % 2:
            assignments.expire(self.now)

    def set_overlap(self, i, j):
        overlap = 1 + i % 4
        taken = Counter(Slot.objects.exclude(state=SlotState.OPEN).values_list("comparison_id", flat=True))
        change_overlap(project=self.project, overlap=overlap, now=self.now)
        gold = set(Comparison.objects.filter(gold__isnull=False).values_list("pk", flat=True))
        for pk in self.most.keys() - gold:
            self.most[pk] = max(overlap, taken[pk])

    def set_caps(self, i, j):
        Membership.objects.filter(user=self.people[i % len(PEOPLE)]).update(cap=(None, 2, 5)[j % 3])

    def switch_finish_started(self, i, j):
        self.project.finish_started = not self.project.finish_started
        self.project.save()
        assignments.apply_finish_started(project=self.project)

    def want_one_more(self, i, j):
        """As the adaptive rule does: one slot beyond those that are done."""
        comparison = Comparison.objects.get(pk=sorted(self.most)[i % COMPARISONS])
        slots = list(comparison.slots.all())
        if len(slots) != comparison.overlap or any(slot.state != SlotState.DONE for slot in slots):
            return
        Comparison.objects.filter(pk=comparison.pk).update(overlap=comparison.overlap + 1)
        priority = 2 * comparison.priority + self.project.finish_started
        Slot.objects.create(
            project=self.project, comparison=comparison, number=comparison.overlap + 100, rank=comparison.rank,
            priority=priority, audience=comparison.audience,
        )  # fmt: skip
        self.most[comparison.pk] = max(self.most[comparison.pk], comparison.overlap + 1)

    def settle(self, i, j):
        settle_due(now=self.now)
        derived = list(Consensus.objects.order_by("pk").values_list("pk", "state", "label", "votes_a", "votes_b"))
        rebuild(project=self.project, now=self.now)
        assert derived == list(
            Consensus.objects.order_by("pk").values_list("pk", "state", "label", "votes_a", "votes_b")
        )
        for row in Consensus.objects.all():
            assert row.votes == Slot.objects.filter(comparison=row.comparison_id, vote__isnull=False).count()
            if self.form.kind is FeedbackKind.RANKING:
                continue
            letters = Counter(Slot.objects.filter(comparison=row.comparison_id).values_list("vote__choice", flat=True))
            assert (row.votes_a, row.votes_tie, row.votes_b) == tuple(
                letters[c] for c in (Choice.A, Choice.TIE, Choice.B)
            )

    @rule(what=st.sampled_from(STEPS), i=any_index, j=any_index)
    def step(self, what, i, j):
        getattr(self, what)(i, j)

    @invariant()
    def every_acknowledged_vote_is_stored_once_with_its_body(self):
        Voting.states += 1
        stored = {vote.key: vote for vote in Vote.objects.all()}
        assert stored.keys() == self.acks.keys()
        for key, (lease, side, rationale, pk) in self.acks.items():
            vote = stored[key]
            stored_answer = store(self.form, self.answered(side, rationale), sides=lease.sides)
            assert (vote.pk, vote.assignment_id, vote.purpose) == (pk, lease.pk, lease.purpose)
            assert (vote.choice, vote.body) == (stored_answer.choice, stored_answer.body)
        live = Vote.objects.filter(retractions__isnull=True).values_list(
            "annotator_id", "comparison_id", "repetition", "key"
        )
        assert {tuple(turn): key for *turn, key in live} == self.live
        assert len(live) == len(self.live)
        assert Retraction.objects.count() == len(self.acks) - len(self.live)

    @invariant()
    def slots_hold_live_votes_and_live_leases_and_no_more_than_wanted(self):
        taken, total, is_open = Counter(), Counter(), Counter()
        standing = set(self.live.values())
        for slot in Slot.objects.select_related("vote", "assignment"):
            total[slot.comparison_id] += 1
            is_open[slot.comparison_id] += slot.state == SlotState.OPEN
            if slot.state == SlotState.OPEN:
                continue
            taken[slot.comparison_id] += 1
            assert slot.assignment.comparison_id == slot.comparison_id
            assert slot.assignment.purpose == Purpose.WANTED
            if slot.state == SlotState.DONE:
                assert slot.vote.key in standing
                assert slot.vote.assignment_id == slot.assignment_id
                assert slot.assignment.state == AssignmentState.VOTED
            else:
                assert slot.assignment.state == AssignmentState.LEASED
                assert slot.assignment.lease_expires_at == slot.lease_expires_at
        # Only a surplus vote that was taken back leaves a lease without a slot.
        bare = Assignment.objects.filter(state=AssignmentState.LEASED, slots=None, purpose=Purpose.WANTED)
        assert not bare.filter(votes__isnull=True).exists()
        for comparison, overlap in Comparison.objects.filter(gold__isnull=True).values_list("pk", "overlap"):
            assert taken[comparison] <= self.most[comparison]
            assert total[comparison] >= overlap
            if total[comparison] > overlap:
                assert not is_open[comparison]

    @invariant()
    def a_person_has_one_turn_at_a_comparison(self):
        turns = Assignment.objects.exclude(state__in=("expired", "released"))
        turns = turns.values("annotator", "comparison", "repetition")
        assert not turns.annotate(n=Count("pk")).filter(n__gt=1).exists()
        voted = Assignment.objects.filter(state="voted").values_list("annotator_id", "comparison_id", "repetition")
        assert set(voted) == set(self.live)
        ben = Assignment.objects.filter(annotator__name="ben")
        assert not ben.filter(comparison__audience=GERMAN).exists()

    @invariant()
    def a_started_comparison_goes_first_if_that_is_asked_for(self):
        for comparison in Comparison.objects.prefetch_related("slots"):
            slots = comparison.slots.all()
            is_started = self.project.finish_started and any(slot.state != SlotState.OPEN for slot in slots)
            waiting = {slot.priority for slot in slots if slot.state != SlotState.DONE}
            assert waiting <= {2 * comparison.priority + is_started}


@pytest.mark.django_db
@pytest.mark.parametrize("form", [Form(), Form(kind=FeedbackKind.RANKING, size=3)], ids=["pairs", "rankings"])
def test_no_order_of_steps_loses_or_doubles_a_vote(form):
    Voting.states = Voting.acknowledged = Voting.hidden = Voting.examples = 0
    Voting.form = form
    Voting.project = builders.project(overlap=2, form=form, gold_share=0.3, repeat_share=0.2, repeat_after=1)
    made = builders.sets(Voting.project, COMPARISONS + 2, size=form.size)
    for gold in made[COMPARISONS:]:
        builders.make_gold(gold)
    Audience.objects.create(project=Voting.project, key=GERMAN)
    Comparison.objects.filter(pk=made[0].pk).update(audience=GERMAN, priority=1)
    Slot.objects.filter(comparison=made[0]).update(audience=GERMAN, priority=2)
    Voting.people = [builders.member(Voting.project, name) for name in PEOPLE]
    Membership.objects.filter(user__name="ben").update(languages=["en"])
    run_state_machine_as_test(
        Voting,
        settings=settings(
            max_examples=30,
            stateful_step_count=24,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"{Voting.states} states, {Voting.acknowledged} votes acknowledged, {Voting.hidden} of them hidden")
    assert Voting.states > 500
    assert Voting.acknowledged > 100
    assert Voting.hidden > 20
