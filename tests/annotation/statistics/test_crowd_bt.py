"""Annotator-aware Bradley-Terry: who follows the strengths, who reverses, who leans to a side."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from annotation.statistics.crowd import count_crowd, log_posterior
from annotation.statistics.estimates import Caution, Reason
from annotation.statistics.ranking import bradley_terry, crowd_bt
from tests.annotation.statistics.contest_votes import draw_votes

SURE = (1e13, 1.0)  # a prior that holds η at 1


def draw_crowd(
    eta: np.ndarray, bias: np.ndarray, *, per_person: int, n: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """a, b, outcome, annotator, a_left of people with η and side bias."""
    rng = np.random.default_rng(seed)
    V = per_person * len(eta)
    s = rng.normal(scale=1.5, size=n)
    a = rng.integers(n, size=V)
    b = (a + rng.integers(1, n, size=V)) % n
    annotator = np.repeat(np.arange(len(eta)), per_person)
    left = rng.random(V) < 0.5
    p = expit(s[a] - s[b] + bias[annotator] * np.where(left, 1, -1))
    won = rng.random(V) < eta[annotator] * p + (1 - eta[annotator]) * (1 - p)
    return a, b, won.astype(float), annotator, left


@pytest.mark.parametrize("grouped", [False, True])
def test_people_who_are_never_wrong_leave_bradley_terry(grouped: bool):
    votes = draw_votes(400, 5, seed=1, ties=0.2)
    annotator = np.arange(400) % 7
    group = np.arange(400) % 30 if grouped else None
    ranking = crowd_bt(*votes, annotator, n=5, n_annotators=7, prior=SURE, group=group)
    plain = bradley_terry(*votes, n=5, group=group)
    for name in ("strength", "cov", "cov_clustered", "low", "high", "loglik"):
        assert getattr(ranking, name) == pytest.approx(getattr(plain, name), abs=1e-8)
    assert ranking.rank_low.tolist() == plain.rank_low.tolist()


def test_a_person_who_answers_the_wrong_way_round_is_found_and_not_inverted():
    eta = np.array([0.95, 0.95, 0.95, 0.95, 0.1])
    votes = draw_crowd(eta, np.zeros(5), per_person=400, n=6, seed=2)
    people = crowd_bt(*votes, n=6, n_annotators=5).annotators
    assert people.eta_high[4] < 0.5
    assert people.eta_low[:4].min() > 0.5
    assert np.all((people.eta_low < people.eta) & (people.eta < people.eta_high))


def test_a_side_bias_is_found_where_it_is():
    bias = np.array([1.5, -1.5, 0.0, 0.0])
    votes = draw_crowd(np.full(4, 0.95), bias, per_person=1500, n=6, seed=3)
    people = crowd_bt(*votes, n=6, n_annotators=4, bias=True).annotators
    assert np.all((people.bias_low < bias) & (bias < people.bias_high))
    assert people.bias_low[0] > 0 > people.bias_high[1]
    assert crowd_bt(*votes, n=6, n_annotators=4).annotators.bias is None


def test_one_vote_leaves_a_person_near_the_prior():
    people = crowd_bt([0], [1], [1.0], [0], n=2, n_annotators=2).annotators
    assert people.eta[0] == pytest.approx(0.8, abs=0.02)
    assert people.reason.tolist() == [0, Reason.NO_VOTES.number]
    assert np.isnan(people.eta[1])


def test_without_side_bias_it_does_not_matter_what_was_shown_left():
    votes = draw_crowd(np.full(3, 0.9), np.zeros(3), per_person=100, n=4, seed=4)
    with_side, without = (crowd_bt(*given, n=4, n_annotators=3) for given in (votes, votes[:4]))
    assert np.array_equal(with_side.strength, without.strength)


def test_ties_are_half_of_each_outcome():
    a, b, _, annotator, _ = draw_crowd(np.full(3, 0.9), np.zeros(3), per_person=50, n=4, seed=5)
    mixed = crowd_bt(a, b, np.full(150, 0.5) + 0.5 * (np.arange(150) == 0), annotator, n=4, n_annotators=3)
    assert np.abs(mixed.strength).max() < 0.2
    assert mixed.loglik == pytest.approx(150 * np.log(0.5), abs=0.5)


def test_a_thousand_people_with_few_votes_leave_the_order_of_the_systems():
    rng = np.random.default_rng(6)
    eta = expit(rng.normal(logit(0.85), 0.5, size=1000))
    votes = draw_crowd(eta, np.zeros(1000), per_person=20, n=10, seed=7)
    ranking = crowd_bt(*votes, n=10, n_annotators=1000)
    assert ranking.converged
    assert np.argsort(ranking.strength).tolist() == np.argsort(bradley_terry(*votes[:3], n=10).strength).tolist()
    assert np.mean((ranking.annotators.eta_low < eta) & (eta < ranking.annotators.eta_high)) > 0.85


@pytest.mark.slow
def test_eta_is_recovered_at_five_hundred_votes_a_person():
    rng = np.random.default_rng(8)
    eta = rng.beta(5, 2, size=60)
    votes = draw_crowd(eta, np.zeros(60), per_person=500, n=12, seed=9)
    people = crowd_bt(*votes, n=12, n_annotators=60).annotators
    assert np.corrcoef(people.eta, eta)[0, 1] > 0.95
    covered = (people.eta_low < eta) & (eta < people.eta_high)
    assert covered.mean() > 0.85


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"annotator": [0, 2]}, "annotator"),
        ({"annotator": [0]}, "annotator"),
        ({"l2": 0.0}, "l2"),
        ({"prior": (4.0, 0.0)}, "prior"),
        ({"bias": True}, "a_left"),
        ({"bias": True, "a_left": [True]}, "a_left"),
        ({"bias": True, "a_left": [1, 0]}, "a_left"),
    ],
)
def test_malformed_votes_raise_and_name_the_argument(changed: dict[str, object], named: str):
    arguments = {"annotator": [0, 1], "n": 2, "n_annotators": 2, **changed}
    with pytest.raises(ValueError, match=named):
        crowd_bt([0, 1], [1, 0], [1.0, 0.0], **arguments)


def opposed(people: int = 2) -> tuple[np.ndarray, ...]:
    """Three systems; half of the people always take the first of a pair and the others always the second."""
    a, b = np.tile([[0, 0, 1], [1, 2, 2]], 20 * people)
    annotator = np.repeat(np.arange(people), 60)
    return a, b, (annotator % 2 == 0).astype(float), annotator


def test_votes_that_balance_are_read_one_way_and_not_left_on_the_saddle_between_two():
    balanced = crowd_bt(*opposed(), n=3, n_annotators=2)
    with_one_less = crowd_bt(*(x[:-1] for x in opposed()), n=3, n_annotators=2)
    assert balanced.converged
    assert balanced.strength == pytest.approx([1, 0, -1] * balanced.strength[:1], abs=1e-9)
    assert balanced.strength == pytest.approx(with_one_less.strength, abs=0.05)
    assert balanced.annotators.eta == pytest.approx(with_one_less.annotators.eta, abs=0.01)
    assert balanced.loglik > 120 * np.log(0.5) + 50


def test_of_two_equal_readings_the_first_person_is_taken_to_be_right():
    a, b, outcome, annotator = opposed()
    assert crowd_bt(a, b, outcome, annotator, n=3, n_annotators=2).annotators.eta[0] > 0.9
    assert crowd_bt(a, b, 1 - outcome, annotator, n=3, n_annotators=2).annotators.eta[0] > 0.9


@pytest.mark.parametrize("prior", [(4.0, 1.0), (0.1, 0.1)])
@pytest.mark.parametrize("seed", range(12))
def test_what_is_called_converged_bends_down_in_every_direction(seed: int, prior: tuple[float, float]):
    rng = np.random.default_rng(seed)
    a = rng.integers(3, size=24)
    votes = a, (a + rng.integers(1, 3, size=24)) % 3, rng.integers(0, 3, size=24) / 2, rng.integers(3, size=24)
    left = rng.random(24) < 0.5
    ranking = crowd_bt(*votes, left, n=3, n_annotators=3, prior=prior, bias=True)
    people = ranking.annotators
    crowd = count_crowd(*votes, left, n=3, n_annotators=3, l2=1.0, prior=prior, bias=True)[0]
    mode = crowd.join(ranking.strength, np.stack([logit(people.eta), people.bias]))
    top = log_posterior(crowd, mode)[0]
    steps = rng.normal(scale=1e-2, size=(200, len(mode)))
    assert ranking.converged
    assert max(log_posterior(crowd, mode + step)[0] for step in steps) < top
    assert np.all((people.eta_low < people.eta) & (people.eta < people.eta_high))


def test_where_no_proper_mode_is_reached_there_are_no_intervals(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("annotation.statistics.crowd.ESCAPES", 0)
    ranking = crowd_bt(*opposed(), n=3, n_annotators=2)
    assert (ranking.converged, ranking.warnings) == (False, (Caution.NOT_CONVERGED,))
    assert (ranking.cov, ranking.low, ranking.rank_low) == (None, None, None)
    assert (ranking.annotators.eta_low, ranking.annotators.eta_high) == (None, None)


def test_votes_that_are_all_ties_say_nothing_of_people():
    people = crowd_bt(
        [0, 1], [1, 0], [0.5, 0.5], [0, 0], n=2, n_annotators=2, bias=True, a_left=[True, False]
    ).annotators
    assert people.reason.tolist() == [Reason.ONE_CLASS.number, Reason.NO_VOTES.number]
    assert np.isnan(people.eta).all()
    assert np.isnan(people.bias).all()


def test_no_votes_at_all_leave_nobody_with_a_side_bias():
    people = crowd_bt([], [], [], [], [], n=2, n_annotators=2, bias=True).annotators
    assert people.reason.tolist() == [Reason.NO_VOTES.number] * 2
    assert np.isnan(people.bias).all()
