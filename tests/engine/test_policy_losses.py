"""The claims of A6 and A7 on the formulas: expectations are sums over a bandit's actions or over all 15 completions."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.engine import enumerated
from tests.engine.enumerated import (
    FINISHED,
    LENGTHS,
    ROWS,
    completion_logp,
    gradient,
    per_completion,
    relative,
    table,
    token_logp,
)
from tests.engine.finite_differences import gradient_error
from training.engine import policy_losses
from training.engine.advantages import (
    gae,
    group_normalised,
    leave_one_out,
    per_token,
    replace_missing_end,
    token_rewards,
)

torch.set_num_threads(1)
EXACT = 1e-10
ACTIONS = 8
CLIP = {"low": 0.2, "high": 0.28}
OPEN = {"low": 1.0, "high": math.inf}


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


OLD, REFERENCE, ADVANTAGES = doubles(40, seed=1), doubles(40, seed=2), doubles(40, seed=3)
RATIOS = doubles(40, seed=4)
DIFFERENTIABLE: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
    "ppo_clip": (lambda logp: policy_losses.ppo_clip(logp, OLD, ADVANTAGES, **CLIP), [OLD + 0.3 * RATIOS]),
    "sequence_clip": (lambda sums: policy_losses.sequence_clip(sums, ADVANTAGES, epsilon=0.2), [0.3 * RATIOS]),
    "clipped_value": (lambda v: policy_losses.clipped_value(v, OLD, REFERENCE, epsilon=0.2), [OLD + 0.3 * RATIOS]),
    "k1": (policy_losses.k1, [RATIOS]),
    "k2": (policy_losses.k2, [RATIOS]),
    "k3": (policy_losses.k3, [RATIOS]),
    "sequence_kl_penalty": (lambda d: policy_losses.sequence_kl_penalty(d, RATIOS), [REFERENCE]),  # ρ is held
    "grpo_token_term": (
        lambda logp: policy_losses.grpo_token_term(logp, OLD, REFERENCE, ADVANTAGES, **CLIP, beta=0.3),
        [OLD + 0.3 * RATIOS],
    ),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_every_loss_has_the_gradient_of_its_values(name: str) -> None:
    loss, inputs = DIFFERENTIABLE[name]
    assert gradient_error(loss, *inputs) < 1e-6
    assert loss(*inputs).dtype == torch.float64
    assert loss(*inputs).shape == inputs[0].shape  # a term each, not a mean


@pytest.mark.parametrize("positive", [True, False])
def test_the_clip_takes_the_gradient_where_the_step_went_far_enough(positive: bool) -> None:
    """For A > 0 above 1 + high, for A < 0 below 1 − low; never on the way back."""
    ratios = torch.tensor([0.5, 0.79, 0.81, 1.0, 1.27, 1.29, 2.0], dtype=torch.float64)
    advantage = 1.5 if positive else -1.5
    logp = ratios.log().requires_grad_()
    advantages = torch.full_like(ratios, advantage)
    terms = policy_losses.ppo_clip(logp, torch.zeros_like(ratios), advantages, **CLIP)
    slope = gradient(terms.sum(), logp)
    flat = ratios > 1.28 if positive else ratios < 0.8
    wanted = torch.where(flat, torch.zeros_like(ratios), -advantage * ratios)
    assert slope.tolist() == pytest.approx(wanted.tolist(), abs=1e-12)
    assert policy_losses.is_clipped(logp.detach(), advantages, **CLIP).tolist() == flat.tolist()


@given(old=st.floats(-2, 2), moved=st.floats(-1, 1), back=st.floats(-2, 2))
def test_the_clipped_value_loss_is_the_larger_of_two_squares(old: float, moved: float, back: float) -> None:
    value, epsilon = old + moved, 0.2
    near = min(max(value, old - epsilon), old + epsilon)
    wanted = max((value - back) ** 2, (near - back) ** 2) / 2
    as_tensor = [torch.tensor([x], dtype=torch.float64) for x in (value, old, back)]
    assert float(policy_losses.clipped_value(*as_tensor, epsilon=epsilon)) == pytest.approx(wanted, abs=1e-12)


@given(log_ratios=st.lists(st.floats(-3, 3), max_size=6))
def test_values_to_log_are_those_of_their_definitions(log_ratios: list[float]) -> None:
    ratios = torch.tensor(log_ratios, dtype=torch.float64)
    wanted = [math.exp(r) - 1 - r for r in log_ratios]
    assert policy_losses.approx_kl(ratios).tolist() == pytest.approx(wanted, abs=1e-12)
    assert policy_losses.k3(-ratios).tolist() == pytest.approx(wanted, abs=1e-12)
    largest = max((math.exp(r) for r in log_ratios), default=0.0)
    assert float(policy_losses.ratio_max(ratios)) == pytest.approx(largest, rel=1e-12)


def test_small_divergences_keep_their_digits() -> None:
    """(ρ − 1) − log ρ = x²/2 + x³/6 + … for ρ = e^x: at 1e-4 the plain form has 8 digits left, this one 12."""
    x = 1e-4
    found = float(policy_losses.approx_kl(torch.tensor(x, dtype=torch.float64)))
    assert math.isclose(found, x**2 / 2 + x**3 / 6 + x**4 / 24, rel_tol=1e-11)


def bandit() -> tuple[Tensor, Tensor]:
    """log π with its gradient's leaf behind it, and log π_ref, [8] each."""
    logits = doubles(ACTIONS, seed=5).requires_grad_()
    return logits, doubles(ACTIONS, seed=6).log_softmax(0)


def test_on_a_bandit_each_estimator_has_the_gradient_of_its_own_divergence() -> None:
    logits, reference = bandit()
    logp = logits.log_softmax(0)
    d, p = logp - reference, logp.exp().detach()
    backward = gradient((logp.exp() * d).sum(), logits)  # ∇KL(π‖π_ref)
    forward = gradient((reference.exp() * (reference - logp)).sum(), logits)  # ∇KL(π_ref‖π)
    assert float(gradient((p * policy_losses.k1(d)).sum(), logits).abs().max()) < EXACT
    assert relative(gradient((p * policy_losses.k2(d)).sum(), logits), backward) < EXACT
    assert relative(gradient((p * policy_losses.k3(d)).sum(), logits), forward) < EXACT
    assert relative(forward, backward) > 0.05
    through_ratio = policy_losses.grpo_token_term(logp, logp.detach(), reference, torch.zeros_like(p), **CLIP, beta=1.0)
    assert relative(gradient((p * through_ratio).sum(), logits), backward) < EXACT
    in_reward = policy_losses.sequence_clip(logp - logp.detach(), -d.detach(), epsilon=0.2)
    assert relative(gradient((p * in_reward).sum(), logits), backward) < EXACT


def test_as_values_k1_and_k3_are_the_divergence_and_k2_is_not() -> None:
    logits, reference = bandit()
    logp = logits.detach().log_softmax(0)
    d, p = logp - reference, logp.exp()
    divergence = float((p * d).sum())
    assert float((p * policy_losses.k1(d)).sum()) == pytest.approx(divergence, rel=1e-12)
    assert float((p * policy_losses.k3(d)).sum()) == pytest.approx(divergence, rel=1e-12)
    assert float((p * policy_losses.k2(d)).sum()) != pytest.approx(divergence, rel=1e-2)


class Sequences:
    """A policy, its reference and the gradient of KL(π‖π_ref) over all completions."""

    def __init__(self) -> None:
        self.logits = table(7).requires_grad_()
        self.reference = table(8)
        logp = completion_logp(self.logits)
        assert float(logp.exp().sum().detach()) == pytest.approx(1, rel=1e-12)
        self.p = logp.exp().detach()
        self.kl_gradient = gradient((logp.exp() * (logp - completion_logp(self.reference))).sum(), self.logits)

    def d(self) -> Tensor:
        return token_logp(self.logits) - token_logp(self.reference)

    def expected(self, terms: Tensor) -> Tensor:
        """The gradient of Σ_y p(y) terms(y), p held: what samples of π give on average."""
        return gradient((self.p * terms).sum(), self.logits)


def test_k1_of_completions_has_no_gradient_and_bare_k3_has_the_other_divergence() -> None:
    model = Sequences()
    assert float(model.expected(per_completion(policy_losses.k1(model.d()), LENGTHS)).abs().max()) < EXACT
    d_sums = per_completion(model.d(), LENGTHS)
    logp = completion_logp(model.logits)
    fixed = completion_logp(model.reference)
    other = gradient((fixed.exp() * (fixed - logp)).sum(), model.logits)
    assert relative(model.expected(policy_losses.k3(d_sums)), other) < EXACT


def test_the_square_of_the_sum_has_the_gradient_of_the_kl() -> None:
    model = Sequences()
    here = policy_losses.sequence_kl_penalty(per_completion(model.d(), LENGTHS), torch.zeros(len(LENGTHS)).double())
    assert relative(model.expected(here), model.kl_gradient) < EXACT


def test_off_policy_the_ratio_corrects_it_and_its_limit_bends_it() -> None:
    """Samples come from π_old: p_old(y) ρ(y) = p(y), as long as no ρ(y) meets the limit."""
    model = Sequences()
    old = completion_logp(table(9))
    for limit in (math.inf, 2.0):
        penalty = policy_losses.sequence_kl_penalty(
            per_completion(model.d(), LENGTHS), completion_logp(model.logits) - old, ratio_limit=limit
        )
        found = gradient((old.exp() * penalty).sum(), model.logits)
        error = relative(found, model.kl_gradient)
        assert error < EXACT if limit == math.inf else error > 0.05


def test_per_token_penalties_agree_with_each_other_and_not_with_the_kl() -> None:
    """They drop the later KL that a token causes: local KL, not that of completions."""
    model = Sequences()
    squares = model.expected(per_completion(policy_losses.k2(model.d()), LENGTHS))
    logp = token_logp(model.logits)
    term = policy_losses.grpo_token_term(
        logp, logp.detach(), token_logp(model.reference), torch.zeros_like(logp), **CLIP, beta=1.0
    )
    through_ratio = model.expected(per_completion(term, LENGTHS))
    now, then = model.logits.log_softmax(1), model.reference.log_softmax(1)
    whole_vocabulary = (now.exp() * (now - then)).sum(1)  # [7] at each state
    at_visited_states = model.expected(per_completion(whole_vocabulary[ROWS], LENGTHS))
    assert relative(squares, through_ratio) < EXACT
    assert relative(squares, at_visited_states) < EXACT
    assert relative(squares, model.kl_gradient) > 0.05


def objective_gradient(model: Sequences, scores: Tensor, *, beta: float) -> Tensor:
    """∇J^KL = ∇[E s − β KL(π‖π_ref)]."""
    return gradient((completion_logp(model.logits).exp() * scores).sum(), model.logits) - beta * model.kl_gradient


@pytest.mark.parametrize("lam", [1.0, 0.95])
def test_ppo_with_kl_in_the_reward_follows_the_objective(lam: float) -> None:
    """With λ = 1 for any values; with λ < 1 for the true ones, Q and V of the KL-penalised reward."""
    model, beta = Sequences(), 0.5
    scores = replace_missing_end(doubles(len(LENGTHS), seed=10), FINISHED, missing_end_score=-1.0)
    logp = token_logp(model.logits)
    rewards = token_rewards(scores, model.d().detach(), LENGTHS, beta=beta)
    values = true_values(model, rewards)[ROWS] if lam < 1 else doubles(len(enumerated.STATES), seed=11)[ROWS]
    advantages, _ = gae(rewards, values, LENGTHS, gamma=1.0, lam=lam)
    loss = per_completion(policy_losses.ppo_clip(logp, logp.detach(), advantages, **CLIP), LENGTHS)
    assert relative(-model.expected(loss), objective_gradient(model, scores, beta=beta)) < EXACT


def true_values(model: Sequences, rewards: Tensor) -> Tensor:
    """E[return | state], [7]: rewards to go, averaged over the completions that visit it."""
    zeros = torch.zeros_like(rewards)
    to_go, _ = gae(rewards, zeros, LENGTHS, gamma=1.0, lam=1.0)
    chance = per_token(model.p, LENGTHS)
    states = torch.zeros(len(enumerated.STATES), dtype=torch.float64)
    return states.index_add(0, ROWS, chance * to_go) / states.index_add(0, ROWS, chance)


def test_kl_in_the_loss_follows_the_same_objective() -> None:
    model, beta = Sequences(), 0.5
    scores = doubles(len(LENGTHS), seed=10)
    sums = per_completion(token_logp(model.logits) - token_logp(model.logits).detach(), LENGTHS)
    loss = policy_losses.sequence_clip(sums, scores, epsilon=0.2)
    loss = loss + beta * policy_losses.sequence_kl_penalty(per_completion(model.d(), LENGTHS), sums)
    assert relative(-model.expected(loss), objective_gradient(model, scores, beta=beta)) < EXACT


def every_group(size: int, count: int) -> tuple[Tensor, Tensor]:
    """All ways to draw `size` of `count` completions: their indices, flat, and the group of each."""
    draws = torch.tensor(list(product(range(count), repeat=size)))
    return draws.flatten(), torch.arange(len(draws)).repeat_interleave(size)


def expected_over_groups(logp: Tensor, advantages: Tensor, drawn: Tensor, *, size: int) -> Tensor:
    """E over groups of the mean over the group of −(loss of `sequence_clip`), as a number to differentiate."""
    chance = logp.detach()[drawn].view(-1, size).sum(1).exp()  # [groups] the joint probability of the draw
    gain = -policy_losses.sequence_clip((logp - logp.detach())[drawn], advantages, epsilon=0.2)
    return (chance * gain.view(-1, size).mean(1)).sum()


@pytest.mark.parametrize("size", [2, 4])
def test_leaving_oneself_out_is_unbiased_and_counting_oneself_shrinks_the_gradient(size: int) -> None:
    logits, _ = bandit()
    scores = (1.5 * doubles(ACTIONS, seed=12)).exp()  # some groups hold the rare large score, most do not
    wanted = gradient((logits.softmax(0) * scores).sum(), logits)
    drawn, groups = every_group(size, ACTIONS)
    found = []
    for advantages in (
        leave_one_out(scores[drawn], groups),
        group_normalised(scores[drawn], groups, scale=False)[0],
        group_normalised(scores[drawn], groups, scale=True)[0],
    ):
        found.append(gradient(expected_over_groups(logits.log_softmax(0), advantages, drawn, size=size), logits))
    without, with_oneself, scaled = found
    assert relative(without, wanted) < EXACT
    assert relative(with_oneself, wanted * (size - 1) / size) < EXACT
    cosine = float(torch.cosine_similarity(scaled, wanted, dim=0))
    assert cosine < 0.99  # a spread per group turns the gradient


def test_dividing_by_the_length_turns_the_gradient() -> None:
    model = Sequences()
    scores = doubles(len(LENGTHS), seed=13)
    wanted = gradient((completion_logp(model.logits).exp() * scores).sum(), model.logits)
    drawn, groups = every_group(2, len(LENGTHS))
    advantages = leave_one_out(scores[drawn], groups)
    sums = gradient(expected_over_groups(completion_logp(model.logits), advantages, drawn, size=2), model.logits)
    assert relative(sums, wanted) < EXACT
    means = completion_logp(model.logits) / LENGTHS
    chance = model.p[drawn].view(-1, 2).prod(1).repeat_interleave(2) / 2
    divided = gradient((chance * advantages * means[drawn]).sum(), model.logits)
    cosine = float(torch.cosine_similarity(divided.flatten(), wanted.flatten(), dim=0))
    assert cosine < 0.99


def test_the_surrogate_has_the_gradient_of_the_objective_at_the_old_policy_only() -> None:
    """J(θ_old, θ) without a clip: equal gradients at θ_old, and away from it on states that π_old visits."""
    model = Sequences()
    scores = doubles(len(LENGTHS), seed=14)
    old = table(9)
    wide = completion_logp(model.logits) - completion_logp(old)
    chance = completion_logp(old).exp()
    whole = policy_losses.sequence_clip(wide, scores, epsilon=math.inf)
    exact = gradient((completion_logp(model.logits).exp() * scores).sum(), model.logits)
    assert relative(-gradient((chance * whole).sum(), model.logits), exact) < EXACT  # ρ(y) is exact anywhere
    per_token_ratio = policy_losses.ppo_clip(
        token_logp(model.logits), token_logp(old), per_token(scores, LENGTHS), **OPEN
    )
    tokens = -gradient((chance * per_completion(per_token_ratio, LENGTHS)).sum(), model.logits)
    assert relative(tokens, exact) > 0.05  # ρ_t leaves the states' own shift out


@given(lengths=st.lists(st.integers(0, 4), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_sequence_terms_do_not_depend_on_the_order_of_completions(lengths: list[int], seed: int) -> None:
    shape = torch.tensor(lengths)
    order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed))
    d = doubles(int(shape.sum()), seed=seed)
    pieces = d.split(lengths)
    shuffled = torch.cat([pieces[index] for index in order])
    here = policy_losses.sequence_kl_penalty(per_completion(d, shape), per_completion(d, shape))
    there = per_completion(shuffled, shape[order])
    assert torch.equal(here[order], policy_losses.sequence_kl_penalty(there, there))
    assert here[shape == 0].tolist() == [0.0] * lengths.count(0)
