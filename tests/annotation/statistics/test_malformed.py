"""What is malformed raises a ValueError that begins with the argument's name, whatever it is malformed with."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from annotation.statistics.acquisition import pair_gain, select_pairs, vote_information
from annotation.statistics.aggregation import (
    Method,
    dawid_skene,
    glad,
    held_out_log_loss,
    one_coin,
    update_posterior,
    vote_counts,
    weighted_vote,
)
from annotation.statistics.agreement import agreement_weights, kappa_matrix
from annotation.statistics.bias import annotator_summary, others_log_odds
from annotation.statistics.ranking import (
    bradley_terry,
    crowd_bt,
    elo,
    plackett_luce,
    rank_centrality,
    win_matrix,
    win_rates,
)

VOTES = ([0, 0], [0, 1], [0, 1])
SIZES = {"n_items": 1, "n_annotators": 2, "K": 2}
labels = partial(dawid_skene, *VOTES, **SIZES)
pairs = partial(crowd_bt, [0], [1], [1.0], [0], n=2, n_annotators=1)
select = partial(select_pairs, np.eye(2), mean=[0, 0], cov=np.eye(2), size=1, rng=0)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (partial(plackett_luce, [0, 1, 2], n=3), "rankings"),
        (partial(plackett_luce, [["a", "b"]], n=3), "rankings"),
        (partial(plackett_luce, [[0, 1]], n=2, l2="1"), "l2"),
        (partial(labels, prior=3), "prior"),
        (partial(labels, prior=(np.eye(2),)), "prior"),
        (partial(labels, prior=(np.eye(2), "1")), "prior"),
        (partial(labels, weight=["1", "2"]), "weight"),
        (partial(labels, weight=[[1], [1, 2]]), "weight"),
        (partial(labels, weight=[1e308, 1e308]), "weight"),
        (partial(labels, init=[["a", "b"]]), "init"),
        (partial(labels, max_iter=0), "max_iter"),
        (partial(labels, tol=-1.0), "tol"),
        (partial(labels, tol=float("nan")), "tol"),
        (partial(one_coin, *VOTES, **SIZES, tol="small"), "tol"),
        (partial(glad, *VOTES, **SIZES, max_iter=0), "max_iter"),
        (partial(vote_counts, [0, 0], [0, 0], n_items=1, K=2, weight=[1e308, 1e308]), "weight"),
        (partial(vote_counts, [[0], [0, 1]], [0, 0], n_items=1, K=2), "item"),
        (partial(update_posterior, [["a", "b"]], np.ones((1, 2, 2)) / 2, [0], [0], [0]), "q"),
        (partial(held_out_log_loss, *VOTES, **SIZES, method="best", rng=0), "method"),
        (partial(agreement_weights, [["a"]], K=2), "weights"),
        (partial(pairs, prior=(4,)), "prior"),
        (partial(pairs, prior="strong"), "prior"),
        (partial(bradley_terry, [0], [1], ["1"], n=2), "outcome"),
        (partial(bradley_terry, [0], [1], [1.0], n=2, l2="1"), "l2"),
        (partial(bradley_terry, [0], [1], [1.0], n=2, covariates=[["x"]]), "covariates"),
        (partial(rank_centrality, [["x"]]), "wins"),
        (partial(rank_centrality, [[0, 1], [1, 0]], reg="1"), "reg"),
        (partial(pair_gain, [0.0], [1.0], objective="best"), "objective"),
        (partial(pair_gain, ["0"], [1.0]), "difference"),
        (partial(pair_gain, [0.0], ["1"]), "variance"),
        (partial(pair_gain, [0.0]), "variance"),
        (partial(select, objective="best"), "objective"),
        (partial(select, mean=["0", "0"]), "mean"),
        (partial(vote_information, [["1", "0"]], np.ones((1, 2, 2)) / 2), "q"),
    ],
)
def test_the_argument_is_named(call, name: str):
    with pytest.raises(ValueError, match=f"^{name} "):
        call()


def test_too_many_votes_for_glad_are_refused_by_the_name_of_the_method():
    item = np.repeat(np.arange(70_000), 3)
    votes = item, np.tile([0, 1, 2], 70_000), np.zeros(210_000, dtype=int)
    with pytest.raises(ValueError, match=r"^method "):
        held_out_log_loss(*votes, n_items=70_000, n_annotators=3, K=2, method=Method.GLAD, rng=0)


@pytest.mark.parametrize("call", [dawid_skene, one_coin, glad, weighted_vote, kappa_matrix, others_log_odds])
def test_sizes_may_be_narrow_numpy_integers(call):
    """Whose products, 100 people by 3 classes, would not fit them."""
    item, annotator = np.divmod(np.arange(2000), 100)
    votes, sizes = (item, annotator, (item + annotator // 20) % 3), {"n_items": 200, "n_annotators": 100, "K": 3}
    wide, narrow = call(*votes, **sizes), call(*votes, **{name: np.uint8(size) for name, size in sizes.items()})
    for name in getattr(wide, "__dataclass_fields__", ()):
        np.testing.assert_array_equal(getattr(narrow, name), getattr(wide, name))


def test_sizes_of_a_summary_may_be_narrow_numpy_integers():
    item, annotator = np.divmod(np.arange(2000), 100)
    votes, sizes = (item, annotator, item % 3), {"n_items": 200, "n_annotators": 100, "K": 3}
    narrow = {name: np.uint8(size) for name, size in sizes.items()}
    fit = dawid_skene(*votes, **sizes)
    expected, found = (annotator_summary(fit, *votes, **given) for given in (sizes, narrow))
    np.testing.assert_array_equal(found.kappa, expected.kappa)
    np.testing.assert_array_equal(found.agreement.value, expected.agreement.value)


@pytest.mark.parametrize("call", [bradley_terry, win_matrix, win_rates, elo])
def test_the_number_of_systems_may_be_a_narrow_numpy_integer(call):
    a = np.arange(200)
    votes = np.append(a, 199), np.append((a + 1) % 200, 0), np.append(np.ones(200), 0.0)
    wide, narrow = (call(*votes, n=n) for n in (200, np.uint8(200)))
    found, expected = (getattr(x, "strength", getattr(x, "rate", x)) for x in (narrow, wide))
    np.testing.assert_array_equal(found, expected)
