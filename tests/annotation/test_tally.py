"""What votes of every kind say together."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotation.statistics.aggregation import coin_confusion, prior_confusion
from annotation.tally import Ballot, Confusion, Reading, as_confusion, posteriors, ruled, tallies


def coin(reliability: float, *, K: int = 3) -> Confusion:
    """Somebody who is right with this probability and else takes any other class alike."""
    return as_confusion(coin_confusion([reliability], K=K)[0].tolist())


def ballot(choice: str = "", body: dict | None = None, *, by: int = 0, confusion: Confusion | None = None) -> Ballot:
    return Ballot(annotator_id=by, choice=choice, body=body or {}, confusion=confusion)


def one(*ballots: Ballot, size: int = 2, has_tie: bool = True, by_model: bool = False, shares=()):
    (found,) = tallies([ballots], [Reading(size=size, has_tie=has_tie, by_model=by_model, shares=shares)])
    return found


def ranking(*groups: str) -> Ballot:
    return ballot(body={"ranking": [list(group) for group in groups]})


def test_a_pair_has_counts_label_and_shares():
    found = one(ballot("a"), ballot("a"), ballot("b"))
    assert (found.votes, found.counts, found.label, found.prob) == (3, (2, 0, 1), "a", 1.0)
    assert found.top_share == pytest.approx(2 / 3)
    assert found.share == pytest.approx((2 + 0.5) / (3 + 1))
    assert not found.is_split


def test_the_posterior_of_a_pair_is_the_product_of_likelihoods():
    votes = [ballot("a", confusion=coin(0.9, K=2)), ballot("b", confusion=coin(0.6, K=2))]
    odds = (0.9 / 0.1) * (0.4 / 0.6)
    assert one(*votes, has_tie=False).posterior == pytest.approx(odds / (1 + odds))
    before = one(*votes, has_tie=False, by_model=True, shares=(0.2, 0.8))
    assert before.prob == pytest.approx(odds * 0.25 / (1 + odds * 0.25))


def test_by_the_model_a_careful_person_outweighs_a_careless_one():
    votes = [ballot("a", confusion=coin(0.9)), ballot("b", confusion=coin(0.4))]
    assert (one(*votes).label, one(*votes).is_split) == ("", True)
    found = one(*votes, by_model=True)
    chances = {"a": 0.9 * 0.3, "tie": 0.05 * 0.3, "b": 0.05 * 0.4}
    assert (found.label, found.is_split) == ("a", False)
    assert found.posterior == pytest.approx(chances["a"] / sum(chances.values()))
    assert found.prob == pytest.approx((chances["a"] + chances["tie"] / 2) / sum(chances.values()))
    assert (found.lead, one(*votes).lead) == (found.posterior, 0.5)
    alone = one(ballot("a"), by_model=True)
    assert (alone.lead, alone.posterior) == (1.0, pytest.approx(prior_confusion(3)[0, 0]))  # one vote is no dispute
    assert found.counts == (1, 0, 1)  # what was voted stays as it is


def test_people_without_a_fit_are_taken_as_the_prior_takes_them():
    found = one(ballot("a"), by_model=True)
    assert found.posterior == pytest.approx(prior_confusion(3)[0, 0])
    assert one(ballot("a"), ballot("b"), by_model=True).label == ""  # nothing tells the two apart


def test_a_fit_with_ties_serves_where_none_is_offered():
    theta = ((0.6, 0.3, 0.1), (0.2, 0.6, 0.2), (0.2, 0.4, 0.4))
    found = one(ballot("a", confusion=theta), has_tie=False, by_model=True, shares=(0.4, 0.2, 0.4))
    right, wrong = 0.6 / 0.7, 0.2 / 0.6
    assert found.prob == pytest.approx(right / (right + wrong))


def test_without_a_tie_option_a_tie_is_impossible_and_with_one_it_takes_its_part():
    people = [coin(0.8, K=2), coin(0.8, K=3)]
    has_tie, zeros = np.array([False, True]), np.array([0, 0])
    q = posteriors(np.array([0, 1]), np.array([0, 1]), zeros, people=people, has_tie=has_tie, shares=[(), ()])
    assert q[0] == pytest.approx([0.8, 0, 0.2])
    assert q[1] == pytest.approx([0.8, 0.1, 0.1])


def test_both_bad_is_a_tie_and_counted_beside():
    found = one(ballot("tie", {"both_bad": True}), ballot("tie"), ballot("a"))
    assert (found.counts, found.both_bad, found.label) == ((1, 2, 0), 1, "tie")


def test_strength_is_the_mean_and_both_bad_is_its_middle():
    votes = [ballot("a", {"points": 5, "scale": 1}), ballot("b", {"points": 5, "scale": 4})]
    assert one(*votes).details["strength"] == pytest.approx((1 - 0.5) / 2)
    assert one(*votes, ballot("tie", {"both_bad": True})).details["strength"] == pytest.approx((1 - 0.5 + 0) / 3)
    assert "strength" not in one(ballot("a")).details


def test_criteria_are_counted_by_letter_or_by_the_side_of_the_scale():
    assert one(ballot("a", {"criteria": {"true": "b"}}), ballot("a", {"criteria": {"true": "tie"}})).details == {
        "criteria": {"true": [0, 1, 1]}
    }
    scaled = [ballot("a", {"points": 5, "scale": 1, "criteria": {"true": point}}) for point in (1, 3, 5, 4)]
    assert one(*scaled).details["criteria"] == {"true": [1, 1, 2]}


def test_a_ranking_is_its_pairs_and_the_order_of_mean_preferences():
    found = one(ranking("c", "ab"), ranking("c", "a", "b"), ranking("a", "c", "b"), size=3)
    pairs = {pair["a"] + pair["b"]: pair for pair in found.details["pairs"]}
    assert pairs["ab"]["votes"] == [2, 1, 0]
    assert pairs["ac"]["votes"] == [1, 0, 2]
    assert pairs["bc"]["votes"] == [0, 0, 3]
    assert pairs["ac"] == {"a": "a", "b": "c", "votes": [1, 0, 2], "label": "b", "prob": 0.0, "share": 1.5 / 4}
    assert found.details["ranking"] == [["c"], ["a"], ["b"]]
    assert found.top_share == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert (found.label, found.prob, found.counts, found.is_split) == ("", None, (0, 0, 0), False)


def test_a_circle_of_preferences_has_no_best():
    found = one(ranking("a", "b", "c"), ranking("b", "c", "a"), ranking("c", "a", "b"), size=3)
    assert found.details["ranking"] == [["a", "b", "c"]]
    assert found.is_split


def test_two_that_everybody_calls_equally_good_are_no_split():
    agreed = one(ranking("ab", "c"), ranking("ab", "c"), size=3)
    assert agreed.details["ranking"] == [["a", "b"], ["c"]]
    assert not agreed.is_split
    assert one(ranking("a", "b", "c"), ranking("b", "a", "c"), size=3).is_split


def test_ratings_have_means_by_completion_and_criterion_and_rank():
    votes = [
        ballot("a", {"points": 5, "ratings": {"a": {"true": 5, "kind": None}, "b": {"true": 2, "kind": 3}}}),
        ballot("a", {"points": 5, "ratings": {"a": {"true": 4, "kind": 2}, "b": {"true": 1, "kind": 4}}}),
    ]
    found = one(*votes)
    assert found.details["ratings"] == {
        "a": {"true": {"mean": 4.5, "n": 2}, "kind": {"mean": 2.0, "n": 1}},
        "b": {"true": {"mean": 1.5, "n": 2}, "kind": {"mean": 3.5, "n": 2}},
    }
    assert (found.counts, found.label) == ((2, 0, 0), "a")


def test_one_completion_alone_has_means_and_nothing_to_dispute():
    found = one(ballot(body={"points": 7, "ratings": {"a": {"overall": 6}}}), size=1)
    assert found.details == {"ratings": {"a": {"overall": {"mean": 6.0, "n": 1}}}}
    assert (found.votes, found.top_share, found.prob, found.is_split) == (1, None, None, False)


def test_a_comparison_without_votes_says_nothing():
    empty, full = tallies([[], [ballot("b")]], [Reading(size=4), Reading(size=2)])
    assert (empty.votes, empty.share, empty.details) == (0, None, {})
    assert full.label == "b"


def test_a_ruling_fixes_the_label_and_leaves_what_was_voted():
    pair = ruled(one(ballot("a"), ballot("b")), {"choice": "tie"}, size=2)
    assert (pair.label, pair.prob, pair.counts, pair.share) == ("tie", 0.5, (1, 0, 1), 0.5)
    voted = one(ranking("a", "b", "c"), size=3)
    three = ruled(voted, {"ranking": [["c"], ["a", "b"]]}, size=3)
    assert [pair["prob"] for pair in three.details["pairs"]] == [0.5, 0.0, 0.0]
    assert [pair["votes"] for pair in three.details["pairs"]] == [pair["votes"] for pair in voted.details["pairs"]]
    assert three.details["ranking"] == [["c"], ["a", "b"]]
    assert len(ruled(one(size=3), {"ranking": [["a"], ["b"], ["c"]]}, size=3).details["pairs"]) == 3


@st.composite
def rankings(draw: st.DrawFn) -> tuple[int, list[Ballot]]:
    size = draw(st.integers(3, 5))
    votes = []
    for _ in range(draw(st.integers(1, 4))):
        places = [draw(st.integers(1, size)) for _ in range(size)]
        votes.append(
            ranking(*("".join("abcde"[i] for i in range(size) if places[i] == p) for p in sorted(set(places))))
        )
    return size, votes


@given(rankings())
def test_every_completion_is_ranked_once_and_a_single_vote_is_its_own_ranking(case):
    size, votes = case
    found = one(*votes, size=size)
    letters = [letter for group in found.details["ranking"] for letter in group]
    assert sorted(letters) == list("abcde"[:size])
    assert len(found.details["pairs"]) == math.comb(size, 2)
    assert all(sum(pair["votes"]) == len(votes) for pair in found.details["pairs"])
    if len(votes) == 1:
        assert found.details["ranking"] == votes[0].body["ranking"]
        assert found.top_share == 1


@given(st.lists(st.sampled_from(["a", "tie", "b"]), min_size=1, max_size=7))
def test_a_batch_says_of_each_what_it_says_alone(choices):
    votes = [ballot(choice) for choice in choices]
    noise = [ranking("b", "a", "c")]
    together = tallies([noise, votes, noise], [Reading(size=3), Reading(), Reading(size=3, has_tie=False)])
    assert together[1] == one(*votes, by_model=True)
