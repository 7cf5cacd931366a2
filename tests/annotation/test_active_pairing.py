"""Pairs chosen across prompts by information or by disagreement, their control, and what the arms show."""

from __future__ import annotations

from collections import Counter
from uuid import uuid4

import numpy as np
import pytest

from annotation.asking import check_rule, source_votes, standing
from annotation.errors import Invalid
from annotation.meetings import Rule, Strategy
from annotation.models import Arm, Comparison, CompletionScore
from annotation.pairing import MissingScores, Plan, choose_for, create_comparisons
from annotation.reports.arms import arms
from annotation.statistics.acquisition import Objective
from annotation.statistics.estimates import Reason
from tests import builders, world
from tests.builders import NOW

pytestmark = pytest.mark.django_db
PAIRS = "/api/v1/projects/helpful/pairs"
WORDS = ["Rain falls.", "Something else entirely, and longer.", "No.", "It depends on the day.", "Forty-two apples."]


@pytest.fixture
def project():
    return builders.project(overlap=1)


def written(project, n, *sources, start=0):
    """`n` prompts with an answer of every source."""
    for i in range(start, start + n):
        prompt = builders.prompt(project, f"Question {i}?")
        for k, source in enumerate(sources):
            builders.completion(prompt, f"{WORDS[k % 5]} {source} {i}", by=source, origin=uuid4())


def ask(project, strategy=Strategy.INFORMATION, *, scorers=(), **fields):
    rule = Rule(strategy=strategy, **fields)
    return choose_for(Plan(project=project, rule=rule, prompts=project.prompts.all(), scorers=scorers)).meetings


def make(project, meetings):
    return create_comparisons(project=project, pairs=meetings, origin=uuid4(), now=NOW)


def pair_of(made):
    return "-".join(sorted(item.source.name for item in made.completions))


def judge(project, comparisons, *, better="p"):
    """One vote each, for the completion of `better` where there is one, else for a."""
    person = builders.member(project, f"voter-{Comparison.objects.count()}-{better}")
    for comparison in comparisons:
        names = {place.position: place.completion.source.name for place in comparison.places.all()}
        builders.cast(comparison, person, "b" if names[1] == better else "a")


def test_at_most_so_many_of_a_prompt_and_in_all_and_always_a_control(project):
    written(project, 12, "p", "q", "r")
    chosen = ask(project)
    assert len(chosen) == len({item.prompt.pk for item in chosen}) == 12
    assert Counter(item.arm for item in chosen)[Arm.CONTROL] >= 1
    few = ask(project, total=3)
    assert Counter(item.arm for item in few) == {Arm.CHOSEN: 2, Arm.CONTROL: 1}
    assert len(ask(project, per_prompt=2, total=20)) == 20
    half = ask(project, per_prompt=3, control_share=0.5)
    assert Counter(item.arm for item in half) == {Arm.CHOSEN: 18, Arm.CONTROL: 18}
    assert [item.hash for item in ask(project)] == [item.hash for item in chosen]


def test_those_that_are_known_least_meet_first(project):
    written(project, 30, "p", "q")
    judge(project, make(project, ask(project)))
    written(project, 10, "p", "q", "r", start=100)
    chosen = [item for item in ask(project, total=8, objective=Objective.STRENGTH) if item.arm == Arm.CHOSEN]
    assert chosen
    assert all("r" in pair_of(item) for item in chosen)  # nobody has voted on r


def test_what_waits_for_its_vote_is_not_asked_for_again(project):
    written(project, 40, "p", "q", "r")
    first = ask(project, total=20, objective=Objective.STRENGTH)
    before = standing(project, sources=project.sources.values_list("pk", flat=True))
    made = make(project, first)
    assert {row.arm for row in made} == {Arm.CHOSEN, Arm.CONTROL}
    after = standing(project, sources=before.source.tolist())
    assert np.trace(after.cov) < np.trace(before.cov)
    second = ask(project, total=20, objective=Objective.STRENGTH)
    assert not {item.hash for item in first} & {item.hash for item in second}
    met = Counter(pair_of(item) for item in [*first, *second])
    assert max(met.values()) - min(met.values()) <= 8  # three pairs of equals share 40 meetings


def test_votes_are_read_between_sources_with_ties_as_halves(project):
    written(project, 3, "p", "q")
    made = make(project, ask(project))
    judge(project, made[:2])
    builders.cast(made[2], builders.member(project, "tied"), "tie")
    votes = source_votes(project)
    names = dict(project.sources.values_list("pk", "name"))
    won = {(names[votes.source[a]], y) for a, y in zip(votes.a, votes.outcome, strict=True)}
    assert won <= {("p", 1.0), ("q", 0.0), ("p", 0.5), ("q", 0.5)}
    assert sorted(votes.outcome.tolist()).count(0.5) == 1
    assert set(votes.arm) <= {"chosen", "control"}
    now = standing(project, sources=())
    strength = {names[pk]: value for pk, value in zip(now.source, now.mean, strict=True)}
    assert strength["p"] > 0 > strength["q"]


def test_the_scorers_that_disagree_most_choose(project):
    written(project, 6, "p", "q")
    with pytest.raises(MissingScores, match="12 of 12"):
        ask(project, Strategy.DISAGREEMENT, scorers=("one", "two"))
    prompts = list(project.prompts.order_by("pk"))
    for place, prompt in enumerate(prompts):
        first, second = prompt.completions.order_by("source__name")
        for scorer, sign in (("one", 1), ("two", -1 if place == 4 else 1)):
            CompletionScore.objects.create(completion=first, scorer=scorer, value=sign * 3.0)
            CompletionScore.objects.create(completion=second, scorer=scorer, value=-sign * 3.0)
    for seed in range(5):
        chosen = ask(project, Strategy.DISAGREEMENT, scorers=("one", "two"), total=2, seed=seed)
        assert Counter(item.arm for item in chosen) == {Arm.CHOSEN: 1, Arm.CONTROL: 1}
        assert prompts[4].pk in {item.prompt.pk for item in chosen}
    with pytest.raises(Invalid, match="two scorers"):
        ask(project, Strategy.DISAGREEMENT, scorers=("one",))


def test_only_pairs_can_be_weighed_and_never_without_a_control(project):
    written(project, 2, "p", "q", "r")
    with pytest.raises(Invalid, match="control_share"):
        ask(project, control_share=0.0)
    with pytest.raises(Invalid, match="3 completions meet"):
        check_rule(Rule(strategy=Strategy.INFORMATION, size=3), size=3)


def test_texts_that_are_nearly_the_same_do_not_meet(project):
    prompt = builders.prompt(project)
    builders.completion(prompt, "The very same words.", by="p")
    builders.completion(prompt, "The very same words!", by="q")
    assert ask(project) == []


# --- what the arms show -----------------------------------------------------------------------------------------------


def test_without_arms_or_with_small_ones_there_is_a_reason(project):
    assert arms(project).reason == Reason.NO_VOTES
    written(project, 12, "p", "q", "r")
    judge(project, make(project, ask(project, control_share=0.5)))
    report = arms(project)
    assert report.reason == Reason.TOO_FEW_COMMON
    assert (report.chosen.votes, report.control.votes, report.gain.value) == (6, 6, None)
    assert (report.chosen.comparisons, report.control.comparisons) == (6, 6)


def test_arms_are_compared_at_equal_numbers_of_votes(project):
    written(project, 60, "p", "q", "r", "s")
    judge(project, make(project, ask(project, per_prompt=2, control_share=0.25)))
    report = arms(project)
    assert report.reason is None
    assert report.votes == report.control.votes == 30
    assert report.chosen.votes == 90
    for own in (report.chosen, report.control):
        assert own.mean_se is not None
        assert own.mean_se > 0
        assert own.information is not None
        assert own.information > 0
        assert own.log_loss.value is not None
        assert 0 < own.log_loss.value < 2
    assert report.gain.value == pytest.approx(report.control.log_loss.value - report.chosen.log_loss.value)
    assert arms(project) == report


# --- through the API --------------------------------------------------------------------------------------------------


@pytest.fixture
def olga(project):
    return world.client(project.created_by)


def test_information_is_asked_for_and_shows_its_arms(project, olga):
    written(project, 10, "p", "q", "r")
    shown = olga.post(PAIRS, {"strategy": "information", "objective": "strength", "total": 4, "preview": True}).json()
    assert shown["comparisons"] == 4
    assert sorted(item["arm"] for item in shown["examples"]) == ["chosen", "chosen", "chosen", "control"]
    made = olga.post(PAIRS, {"strategy": "information", "total": 4, "control_share": 0.5}).json()
    rows = Comparison.objects.filter(origin=made["origin"])
    assert Counter(rows.values_list("arm", flat=True)) == {"chosen": 2, "control": 2}
    plain = olga.post(PAIRS, {"strategy": "all"}).json()
    assert set(Comparison.objects.filter(origin=plain["origin"]).values_list("arm", flat=True)) == {""}


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        ({"strategy": "disagreement"}, "scorers"),
        ({"strategy": "disagreement", "scorers": ["rm", "rm"]}, "scorers"),
        ({"strategy": "information", "control_share": 0}, "control_share"),
        ({"strategy": "information", "objective": "bald"}, "objective"),
        ({"strategy": "information", "total": 0}, "total"),
    ],
)
def test_what_cannot_be_weighed_is_refused_by_name(project, olga, ask, name):
    written(project, 1, "p", "q")
    answer = olga.post(PAIRS, ask)
    assert answer.status_code == 400
    assert name in answer.json()["details"]
