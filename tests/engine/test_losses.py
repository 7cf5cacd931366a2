from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.engine.finite_differences import gradient_error
from training.engine import losses
from training.engine.config import DpoOptions, Labels, Link, RewardOptions
from training.engine.dpo import first_loss, link_loss
from training.engine.examples import Ranked
from training.engine.packing import Sharing
from training.engine.reward import item_losses

torch.set_num_threads(1)
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nll": losses.preference_nll,
    "smoothed": lambda u, q: losses.smoothed_nll(u, q, epsilon=0.1),
    "robust": lambda u, q: losses.robust_nll(u, q, epsilon=0.2),
    "ipo": lambda u, q: losses.ipo(u, q, tau=0.1),
    "hinge": losses.hinge,
}
margins = st.floats(-20, 20)
shares = st.floats(0, 1)


def double(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_finite_differences(name: str) -> None:
    loss = LOSSES[name]
    u = torch.linspace(-3.05, 3.05, 41, dtype=torch.float64, requires_grad=True)
    q = torch.linspace(0, 1, 41, dtype=torch.float64)
    loss(u, q).sum().backward()
    step = 1e-6
    with torch.no_grad():
        numeric = (loss(u + step, q) - loss(u - step, q)) / (2 * step)
    assert u.grad is not None
    assert float((u.grad - numeric).abs().max()) < 1e-6 * max(1.0, float(numeric.abs().max()))


@given(u=margins, q=shares)
def test_a_swapped_pair_with_a_swapped_label_is_the_same_pair(u: float, q: float) -> None:
    for loss in LOSSES.values():
        here, there = loss(double(u), double(q)), loss(double(-u), double(1 - q))
        assert math.isclose(float(here), float(there), rel_tol=1e-9, abs_tol=1e-9)


@given(q=st.floats(0.02, 0.98))
def test_the_soft_label_is_met_at_the_minimum(q: float) -> None:
    at = math.log(q / (1 - q))
    best = float(losses.preference_nll(double(at), double(q)))
    entropy = -q * math.log(q) - (1 - q) * math.log(1 - q)
    assert math.isclose(best, entropy, rel_tol=1e-9)
    for other in (at - 0.1, at + 0.1):
        assert float(losses.preference_nll(double(other), double(q))) > best


@given(q=shares)
def test_ipo_is_least_where_its_authors_say(q: float) -> None:
    tau = 0.1
    delta = torch.tensor([(q - 0.5) / tau], dtype=torch.float64, requires_grad=True)
    losses.ipo(delta, double(q), tau=tau).sum().backward()
    assert delta.grad is not None
    assert abs(float(delta.grad)) < 1e-8


@given(u=margins)
def test_the_robust_loss_is_unbiased_under_flips(u: float) -> None:
    epsilon = 0.2
    clean = float(losses.preference_nll(double(u), double(1.0)))
    kept = float(losses.robust_nll(double(u), double(1.0), epsilon=epsilon))
    flipped = float(losses.robust_nll(double(u), double(0.0), epsilon=epsilon))
    assert math.isclose((1 - epsilon) * kept + epsilon * flipped, clean, rel_tol=1e-9, abs_tol=1e-9)


def test_huge_margins_stay_finite() -> None:
    u = torch.tensor([-1e4, 1e4])
    assert bool(torch.isfinite(losses.preference_nll(u, torch.tensor([1.0, 1.0]))).all())


@pytest.mark.parametrize("link", [link for link in Link if link is not Link.MARGIN])  # its γ has a test of its own
def test_the_first_loss_does_not_depend_on_the_label(link: Link) -> None:
    epsilon = 0.1 if link in (Link.SMOOTHED, Link.ROBUST) else 0.0
    options = DpoOptions(link=link, epsilon=epsilon, labels=Labels.HARD)
    q = torch.tensor([0.0, 0.3, 0.5, 1.0], dtype=torch.float64)
    found = link_loss(options, torch.zeros(4, dtype=torch.float64), q)
    assert found.tolist() == pytest.approx([first_loss(options)] * 4, rel=1e-12)


def test_the_first_loss_under_a_margin_does_not_depend_on_the_label() -> None:
    options = DpoOptions(link=Link.MARGIN, gamma=0.5)
    q = torch.tensor([0.0, 0.3, 0.5, 1.0], dtype=torch.float64)
    found = losses.margin_nll(torch.zeros(4, dtype=torch.float64), q, gamma=0.5)
    assert found.tolist() == pytest.approx([first_loss(options)] * 4, rel=1e-12)


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ranking_loss(scores: Tensor, ranking: list[list[int]]) -> Tensor:
    """The loss of a reward model that gives these scores to one prompt's completions."""
    count = len(scores)
    item = Ranked(
        id="r",
        group="g",
        sharing=Sharing(prompt=(5,), completions=((6,),) * count),
        ranking=ranking,
        weight=1.0,
        prompt=[],
        texts=("",) * count,
        finishes=("end",) * count,
    )
    return item_losses(RewardOptions(), scores, [item]).sum()


DESIRABLE = torch.tensor([True, False, True, True, False, False])
SHARES = doubles(3, 6, seed=1).softmax(0)  # of win, tie, lose
DIFFERENTIABLE: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
    "margin_nll": (lambda u: losses.margin_nll(u, SHARES[0], gamma=0.5), [3 * doubles(6)]),
    "log_odds": (losses.log_odds, [-doubles(6).exp()]),
    "log_odds near 0": (losses.log_odds, [-0.01 - doubles(6).abs() / 10]),
    "log1mexp": (losses.log1mexp, [torch.linspace(-1.5, -0.1, 29, dtype=torch.float64)]),  # both forms
    "orpo": (
        lambda w, loser: losses.preference_nll(losses.log_odds(w) - losses.log_odds(loser), SHARES[0]),
        [
            -doubles(6).exp(),
            -doubles(6, seed=2).exp(),
        ],
    ),
    "kto": (
        lambda d: losses.kto(d, reference_point=torch.tensor(0.3, dtype=torch.float64), beta=0.7, desirable=DESIRABLE),
        [3 * doubles(6)],
    ),
    "plackett_luce": (lambda s: losses.plackett_luce(s, [3, 0, 5, 1, 2, 4]), [doubles(6)]),
    "plackett_luce, top 2": (lambda s: losses.plackett_luce(s, [3, 0, 5, 1, 2, 4], top=2), [doubles(6)]),
    "ranking": (lambda s: ranking_loss(s, [[3], [0, 5], [1], [2, 4]]), [doubles(6)]),
    "rao_kupper": (
        lambda u, eta: losses.rao_kupper(u, eta=eta, win=SHARES[0], tie=SHARES[1], lose=SHARES[2]),
        [3 * doubles(6), torch.tensor(0.4, dtype=torch.float64)],
    ),
    "centring": (losses.centring, [doubles(6), doubles(6, seed=2)]),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_every_loss_has_the_gradient_of_its_values(name: str) -> None:
    loss, inputs = DIFFERENTIABLE[name]
    assert gradient_error(loss, *inputs) < 1e-6


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_every_loss_keeps_the_precision_of_its_inputs(name: str) -> None:
    loss, inputs = DIFFERENTIABLE[name]
    assert loss(*inputs).dtype == torch.float64
    single = losses.preference_nll(torch.zeros(2), torch.ones(2))
    assert single.dtype == torch.float32


def test_ipo_on_two_actions_ends_where_its_authors_say() -> None:
    """The loss is a parabola of Δ, so one Newton step from anywhere is its minimum: Δ = (q − ½)/τ."""
    tau, q, reference = 0.1, double(0.7), 0.4
    logit = double(-1.3).requires_grad_()

    def loss(logit: Tensor) -> Tensor:  # log π(a) − log π(b) is the logit of a two-action policy
        return losses.ipo(logit - reference, q, tau=tau).sum()

    (slope,) = torch.autograd.grad(loss(logit), logit, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), logit)
    end = float((logit - slope / bend).detach())
    assert abs((end - reference) - 0.2 / tau) < 1e-8


@given(u=margins, gamma=st.floats(0, 3))
def test_a_tie_is_symmetric_under_a_margin(u: float, gamma: float) -> None:
    here = float(losses.margin_nll(double(u), double(0.5), gamma=gamma))
    assert math.isclose(here, float(losses.margin_nll(double(-u), double(0.5), gamma=gamma)), rel_tol=1e-12)
    hard = float(losses.margin_nll(double(u), double(1.0), gamma=gamma))
    assert math.isclose(hard, float(losses.preference_nll(double(u - gamma), double(1.0))), rel_tol=1e-12)


@given(p=st.floats(0.001, 0.999))
def test_log_odds_are_those_of_the_mean_probability(p: float) -> None:
    found = float(losses.log_odds(double(math.log(p))))
    assert math.isclose(found, math.log(p) - math.log1p(-p), rel_tol=1e-9, abs_tol=1e-12)


def test_log_odds_keep_their_digits_at_both_ends() -> None:
    tiny = 1e-12  # 1 − e^−x = x − x²/2 + …, so o = −x − log x + x/2 + …
    assert math.isclose(float(losses.log_odds(double(-tiny))), -math.log(tiny) - tiny / 2, rel_tol=1e-15)
    assert float(losses.log_odds(double(-1000.0))) == -1000.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_that_is_sure_has_finite_odds_and_gradient(dtype: torch.dtype) -> None:
    mean_logp = torch.tensor([0.0, -1e-30, -1e-9, -200.0], dtype=dtype, requires_grad=True)
    odds = losses.log_odds(mean_logp)
    odds.sum().backward()
    assert float(odds[0].detach()) == pytest.approx(-math.log(torch.finfo(dtype).eps), rel=1e-6)
    assert bool(torch.isfinite(odds).all())
    assert mean_logp.grad is not None
    assert bool(torch.isfinite(mean_logp.grad).all())
    assert mean_logp.grad[0] == 1


def test_kto_starts_at_a_half_and_prefers_what_is_desirable() -> None:
    at_start = losses.kto(torch.zeros(6).double(), reference_point=torch.tensor(0.0), beta=0.1, desirable=DESIRABLE)
    assert at_start.tolist() == [0.5] * 6
    u, z0, beta = 1.7, 0.4, 0.5
    value = 1 / (1 + math.exp(-beta * (u - z0)))
    point = torch.tensor(z0, dtype=torch.float64)
    good = losses.kto(double(u), reference_point=point, beta=beta, desirable=torch.tensor([True]))
    bad = losses.kto(double(u), reference_point=point, beta=beta, desirable=torch.tensor([False]))
    assert float(good) == pytest.approx(1 - value, rel=1e-14)
    assert float(bad) == pytest.approx(value, rel=1e-14)


def test_the_reference_point_is_a_mean_that_is_never_negative_and_has_no_gradient() -> None:
    ratios = torch.tensor([0.5, -0.1, 0.2], requires_grad=True)
    assert float(losses.kto_reference_point(ratios)) == pytest.approx(0.2)
    assert not losses.kto_reference_point(ratios).requires_grad
    assert float(losses.kto_reference_point(-ratios)) == 0
    assert float(losses.kto_reference_point(torch.zeros(0))) == 0


@given(desirable=st.integers(1, 10**6), undesirable=st.integers(1, 10**6))
def test_balanced_weights_give_both_classes_one_say_and_a_mean_of_one(desirable: int, undesirable: int) -> None:
    heavy, light = losses.balanced_weights(desirable=desirable, undesirable=undesirable)
    assert math.isclose(heavy * desirable, light * undesirable, rel_tol=1e-12)
    assert math.isclose(heavy * desirable + light * undesirable, desirable + undesirable, rel_tol=1e-12)


def test_weights_follow_the_class_of_the_example() -> None:
    weights = losses.kto_weights(
        torch.tensor([True, False, True]), desirable_weight=0.1, undesirable_weight=1.7, dtype=torch.float64
    )
    assert weights.tolist() == [0.1, 1.7, 0.1]
    assert losses.balanced_weights(desirable=3, undesirable=0) == (1.0, 1.0)


@given(a=st.floats(-50, 50), b=st.floats(-50, 50))
def test_plackett_luce_of_two_is_bradley_terry(a: float, b: float) -> None:
    scores = torch.tensor([a, b], dtype=torch.float64)
    luce = float(losses.plackett_luce(scores, [1, 0]))
    terry = float(losses.preference_nll(double(b - a), double(1.0)))
    assert math.isclose(luce, terry, rel_tol=1e-12, abs_tol=0)
    assert math.isclose(luce, float(ranking_loss(scores, [[1], [0]])), rel_tol=1e-12, abs_tol=0)


def order_probability(scores: Tensor, order: Sequence[int]) -> float:
    """Of drawing the completions in this order, each from what is left, in proportion to e^s."""
    strengths = [math.exp(float(scores[index])) for index in order]
    return math.prod(strengths[place] / sum(strengths[place:]) for place in range(len(order)))


def test_plackett_luce_is_the_probability_of_the_order() -> None:
    scores = doubles(4)
    found = [math.exp(-float(losses.plackett_luce(scores, order))) for order in permutations(range(4))]
    wanted = [order_probability(scores, order) for order in permutations(range(4))]
    assert found == pytest.approx(wanted, rel=1e-12)
    assert sum(found) == pytest.approx(1, rel=1e-12)


def test_a_ranking_known_at_the_top_is_the_sum_of_its_orders() -> None:
    """P(first two) is the sum over the orders of the rest, so the rest's order cannot matter."""
    scores = doubles(4)
    wanted = sum(order_probability(scores, [2, 0, *rest]) for rest in ([1, 3], [3, 1]))
    for rest in ([1, 3], [3, 1]):
        assert math.exp(-float(losses.plackett_luce(scores, [2, 0, *rest], top=2))) == pytest.approx(wanted, rel=1e-12)


def test_pairs_and_orders_agree_on_the_scores_that_ranked() -> None:
    """Over rankings drawn by Plackett–Luce both losses are flat at the true scores: their pairs are Bradley–Terry."""
    scores = doubles(4).requires_grad_()
    slopes = torch.zeros(3, 4, dtype=torch.float64)
    for order in permutations(range(4)):
        chance = order_probability(scores.detach(), order)
        ranking = [[index] for index in order]
        of_loss = [
            losses.plackett_luce(scores, order),
            ranking_loss(scores, ranking),
            ranking_loss(1.5 * scores, ranking),  # elsewhere
        ]
        slopes += chance * torch.stack([torch.autograd.grad(loss, scores)[0] for loss in of_loss])
    assert float(slopes[:2].abs().max()) < 1e-12
    assert float(slopes[2].abs().max()) > 1e-2


def test_a_wrong_ranking_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="each of 3 completions once"):
        losses.plackett_luce(torch.zeros(3), [0, 1, 1])
    with pytest.raises(ValueError, match="top must be at least 1"):
        losses.plackett_luce(torch.zeros(3), [0, 1, 2], top=0)


def test_a_ranking_with_ties_is_all_its_pairs() -> None:
    first, second, q = losses.ranking_pairs([[2], [0, 3], [1]])
    pairs = dict(zip(zip(first.tolist(), second.tolist(), strict=True), q.tolist(), strict=True))
    assert pairs == {(2, 0): 1, (2, 3): 1, (2, 1): 1, (0, 3): 0.5, (0, 1): 1, (3, 1): 1}


@given(sizes=st.lists(st.integers(1, 3), min_size=2, max_size=4))
def test_one_prompt_weighs_one_however_many_completions_it_has(sizes: list[int]) -> None:
    indices = iter(range(sum(sizes)))
    ranking = [[next(indices) for _ in range(size)] for size in sizes]
    found = float(ranking_loss(torch.zeros(sum(sizes)).double(), ranking))
    assert found == pytest.approx(math.log(2), rel=1e-12)


def test_one_completion_says_nothing() -> None:
    scores = torch.ones(1, requires_grad=True)
    loss = losses.plackett_luce(scores, [0])
    loss.backward()
    assert float(loss.detach()) == 0
    assert scores.grad is not None
    assert float(scores.grad) == 0


def outcome(name: str) -> dict[str, Tensor]:
    return {key: double(float(key == name)) for key in ("win", "tie", "lose")}


@given(u=st.floats(-15, 15), eta=st.floats(0.01, 5))
def test_rao_kupper_shares_are_the_ones_of_the_paper_and_sum_to_one(u: float, eta: float) -> None:
    found = {
        name: math.exp(-float(losses.rao_kupper(double(u), eta=double(eta), **outcome(name))))
        for name in ("win", "tie", "lose")
    }
    theta = math.exp(eta)
    assert found["win"] == pytest.approx(math.exp(u) / (math.exp(u) + theta), rel=1e-9)
    assert found["lose"] == pytest.approx(1 / (1 + theta * math.exp(u)), rel=1e-9)
    assert sum(found.values()) == pytest.approx(1, rel=1e-12)


def test_rao_kupper_is_least_at_its_own_shares() -> None:
    u, eta = 0.8, 0.5
    win, lose = 1 / (1 + math.exp(eta - u)), 1 / (1 + math.exp(eta + u))
    margin, threshold = double(u).requires_grad_(), double(eta).requires_grad_()
    loss = losses.rao_kupper(
        margin, eta=threshold, win=double(win), tie=double(1 - win - lose), lose=double(lose)
    ).sum()
    for slope in torch.autograd.grad(loss, [margin, threshold]):
        assert abs(float(slope)) < 1e-12


def test_rao_kupper_without_ties_is_bradley_terry_and_stays_finite() -> None:
    eta = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    margin = torch.tensor([-800.0, 0.7, 800.0], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([1.0, 0.3, 0.0], dtype=torch.float64)
    loss = losses.rao_kupper(margin, eta=eta, win=q, tie=torch.zeros(3).double(), lose=1 - q)
    assert loss.tolist() == pytest.approx(losses.preference_nll(margin, q).tolist(), rel=1e-12)
    loss.sum().backward()
    assert margin.grad is not None
    assert eta.grad is not None
    assert bool(torch.isfinite(margin.grad).all())
    assert bool(torch.isfinite(eta.grad).all())
