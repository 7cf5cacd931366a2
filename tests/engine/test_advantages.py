from __future__ import annotations

import math
from itertools import combinations, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.engine.enumerated import per_completion
from training.engine.advantages import (
    batch_leave_one_out,
    best_of_n_curve,
    best_of_n_kl_bound,
    explained_variance,
    gae,
    group_normalised,
    leave_one_out,
    mean_and_std,
    next_beta,
    per_token,
    power_sums,
    replace_missing_end,
    token_rewards,
    whiten,
)

torch.set_num_threads(1)
lengths_of_batches = st.lists(st.integers(0, 6), min_size=0, max_size=7)
seeds = st.integers(0, 999)


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ragged(lengths: list[int], *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two numbers per token, [C] each, and the lengths [K]."""
    return doubles(sum(lengths), seed=seed), doubles(sum(lengths), seed=seed + 1), torch.tensor(lengths).long()


def reordered(x: Tensor, lengths: list[int], order: list[int]) -> Tensor:
    pieces = x.split(lengths) if lengths else ()
    return torch.cat([x[:0], *(pieces[index] for index in order)])


@given(lengths=lengths_of_batches, seed=seeds)
def test_the_score_is_paid_at_the_last_token_and_the_kl_at_each(lengths: list[int], seed: int) -> None:
    k1, _, shape = ragged(lengths, seed=seed)
    scores = doubles(len(lengths), seed=seed + 2)
    rewards = token_rewards(scores, k1, shape, beta=0.3)
    token = 0
    for completion, length in enumerate(lengths):
        for step in range(length):
            paid = float(scores[completion]) if step == length - 1 else 0.0
            assert float(rewards[token]) == pytest.approx(paid - 0.3 * float(k1[token]), abs=1e-12)
            token += 1
    assert token == len(rewards)


@given(lengths=lengths_of_batches, seed=seeds, gamma=st.floats(0, 1), lam=st.floats(0, 1))
def test_gae_is_the_sum_of_its_definition(lengths: list[int], seed: int, gamma: float, lam: float) -> None:
    """A_t = Σ_l (γλ)^l δ_{t+l} inside the completion, term by term."""
    rewards, values, shape = ragged(lengths, seed=seed)
    advantages, returns = gae(rewards, values, shape, gamma=gamma, lam=lam)
    start = 0
    for length in lengths:
        r, v = rewards[start : start + length].tolist(), [*values[start : start + length].tolist(), 0.0]
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            wanted = sum((gamma * lam) ** (later - t) * delta[later] for later in range(t, length))
            assert float(advantages[start + t]) == pytest.approx(wanted, abs=1e-12)
            assert float(returns[start + t]) == pytest.approx(wanted + v[t], abs=1e-12)
        start += length


@given(lengths=lengths_of_batches, seed=seeds)
def test_gae_at_its_two_ends_is_return_minus_value_and_temporal_difference(lengths: list[int], seed: int) -> None:
    rewards, values, shape = ragged(lengths, seed=seed)
    whole, returns = gae(rewards, values, shape, gamma=1.0, lam=1.0)
    steps, _ = gae(rewards, values, shape, gamma=0.9, lam=0.0)
    start = 0
    for length in lengths:
        for token in range(start, start + length):
            left = float(rewards[token : start + length].sum())
            assert float(whole[token] + values[token]) == pytest.approx(left, abs=1e-12)
            assert float(returns[token]) == pytest.approx(left, abs=1e-12)
            following = float(values[token + 1]) if token + 1 < start + length else 0.0
            wanted = float(rewards[token]) + 0.9 * following - float(values[token])
            assert float(steps[token]) == pytest.approx(wanted, abs=1e-12)
        start += length


@given(lengths=lengths_of_batches, seed=seeds, data=st.data())
def test_other_completions_of_the_batch_change_nothing(lengths: list[int], seed: int, data: st.DataObject) -> None:
    """Shuffled, or one at a time: the same digits."""
    order = data.draw(st.permutations(range(len(lengths))))
    rewards, values, shape = ragged(lengths, seed=seed)
    scores = doubles(len(lengths), seed=seed + 2)

    def both(k1: Tensor, values: Tensor, scores: Tensor, shape: Tensor) -> Tensor:
        return torch.stack(gae(token_rewards(scores, k1, shape, beta=0.1), values, shape, gamma=0.99, lam=0.95))

    together = both(rewards, values, scores, shape)
    moved = both(
        reordered(rewards, lengths, order), reordered(values, lengths, order), scores[list(order)], shape[list(order)]
    )
    assert torch.equal(moved, torch.stack([reordered(row, lengths, order) for row in together]))
    alone = [
        both(r, v, scores[k : k + 1], shape[k : k + 1])
        for k, (r, v) in enumerate(zip(rewards.split(lengths), values.split(lengths), strict=True) if lengths else [])
    ]
    assert torch.equal(torch.cat([together[:, :0], *alone], dim=1), together)


@given(lengths=lengths_of_batches)
def test_numbers_of_completions_and_of_tokens_turn_into_each_other(lengths: list[int]) -> None:
    shape = torch.tensor(lengths).long()
    numbers = doubles(len(lengths))
    wanted = [float(x) * length for x, length in zip(numbers, lengths, strict=True)]
    assert per_completion(per_token(numbers, shape), shape).tolist() == pytest.approx(wanted, abs=1e-12)


def test_an_empty_completion_is_in_no_reward_and_moves_no_other() -> None:
    k1, values, shape = torch.ones(3), torch.zeros(3), torch.tensor([0, 2, 0, 1, 0])
    rewards = token_rewards(torch.tensor([100.0, 1.0, 100.0, 2.0, 100.0]), k1, shape, beta=0.0)
    assert rewards.tolist() == [0, 1, 2]
    assert gae(rewards, values, shape, gamma=1.0, lam=1.0)[1].tolist() == [1, 1, 2]


def test_advantages_are_numbers_and_not_a_path_to_the_critic() -> None:
    values = torch.zeros(3, requires_grad=True)
    shape = torch.tensor([2, 1])
    rewards = token_rewards(torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True), shape, beta=0.1)
    results = [rewards, *gae(rewards, values, shape, gamma=1.0, lam=0.9), whiten(values)]
    groups = torch.tensor([0, 0, 0])
    results += [leave_one_out(values, groups), batch_leave_one_out(values)]
    results += [group_normalised(values, groups, scale=True)[0]]
    assert not any(result.requires_grad for result in results)


def test_a_completion_without_its_end_has_a_score_of_its_own() -> None:
    scores = torch.tensor([3.0, -4.0, 5.0])
    finished = torch.tensor([True, False, False])
    assert replace_missing_end(scores, finished, missing_end_score=-1.0).tolist() == [3, -1, -1]
    assert replace_missing_end(scores, finished, missing_end_score=None).tolist() == scores.tolist()


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=4), seed=seeds)
def test_ranks_whiten_as_one_process_would(sizes: list[int], seed: int) -> None:
    x = 3 + 2 * doubles(sum(sizes), seed=seed)
    mean, std = mean_and_std(torch.stack([power_sums(part) for part in x.split(sizes)]).sum(0))
    if len(x) > 1:
        assert mean == pytest.approx(float(x.mean()), rel=1e-10)
        assert std == pytest.approx(float(x.std()), rel=1e-10)
    parts = [whiten(part, mean=mean, std=std) for part in x.split(sizes)]
    assert torch.cat(parts).tolist() == pytest.approx(whiten(x).tolist(), abs=1e-9)


def test_whitened_numbers_have_mean_0_and_spread_1_and_equal_ones_are_0() -> None:
    white = whiten(5 + 3 * doubles(100))
    assert abs(float(white.mean())) < 1e-12
    assert float(white.std()) == pytest.approx(1, abs=1e-7)  # 1e-8 is added to the spread
    assert whiten(torch.full((4,), 0.5)).tolist() == [0] * 4
    assert whiten(torch.ones(1)).tolist() == [0]
    assert whiten(torch.zeros(0)).tolist() == []
    with pytest.raises(ValueError, match="both moments or none"):
        whiten(torch.zeros(2), mean=0.0)


def test_a_large_mean_does_not_swallow_the_spread() -> None:
    x = torch.tensor([1e4, 1e4 + 1, 1e4 + 2], dtype=torch.float32)  # in fp32, Σx² has spacing 32
    assert mean_and_std(power_sums(x))[1] == pytest.approx(1.0, rel=1e-6)


def test_explained_variance_is_1_for_the_returns_and_0_for_their_mean() -> None:
    returns = doubles(50)

    def of(values: Tensor) -> float:
        return explained_variance(power_sums(returns - values), power_sums(returns))

    assert of(returns) == 1
    assert of(torch.full_like(returns, 7.0)) == pytest.approx(0, abs=1e-12)
    assert of(0.5 * returns) == pytest.approx(0.75, rel=1e-12)  # Var(½R)/Var(R) = ¼
    assert of(-returns) == pytest.approx(-3, rel=1e-12)
    assert explained_variance(power_sums(doubles(3)), power_sums(torch.ones(3))) == 0


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), seed=seeds)
def test_leave_one_out_is_the_return_minus_the_mean_of_the_others(sizes: list[int], seed: int) -> None:
    """Whatever the order of the completions and the names of the groups."""
    generator = torch.Generator().manual_seed(seed)
    names = torch.randperm(50, generator=generator)[: len(sizes)] - 10
    groups = names.repeat_interleave(torch.tensor(sizes))
    order = torch.randperm(len(groups), generator=generator)
    groups, returns = groups[order], doubles(len(groups), seed=seed)
    found = leave_one_out(returns, groups)
    for i, (group, own) in enumerate(zip(groups.tolist(), returns.tolist(), strict=True)):
        others = [float(returns[j]) for j in range(len(returns)) if j != i and int(groups[j]) == group]
        wanted = own - sum(others) / len(others) if others else 0.0
        assert float(found[i]) == pytest.approx(wanted, abs=1e-12)


@given(count=st.integers(1, 9), cut=st.integers(0, 9), seed=seeds)
def test_the_batch_baseline_is_leave_one_out_in_one_group_on_any_ranks(count: int, cut: int, seed: int) -> None:
    returns = doubles(count, seed=seed)
    whole = leave_one_out(returns, torch.zeros(count).long())
    assert batch_leave_one_out(returns).tolist() == pytest.approx(whole.tolist(), abs=1e-12)
    parts = [
        batch_leave_one_out(part, total=float(returns.sum()), count=count) for part in (returns[:cut], returns[cut:])
    ]
    assert torch.cat(parts).tolist() == pytest.approx(whole.tolist(), abs=1e-12)


def test_the_batch_baseline_is_unbiased() -> None:
    """Over all batches of 3 from 4 actions, Σ p(batch) · mean A_i ∇log p(y_i) = ∇E[s]."""
    logits = doubles(4).requires_grad_()
    scores = doubles(4, seed=1)
    (wanted,) = torch.autograd.grad((logits.softmax(0) * scores).sum(), logits)
    logp = logits.log_softmax(0)
    chances = logp.detach().exp()
    total = torch.zeros(())
    for batch in product(range(4), repeat=3):
        drawn = torch.tensor(batch)
        total = total + chances[drawn].prod() * (batch_leave_one_out(scores[drawn]) * logp[drawn]).mean()
    (found,) = torch.autograd.grad(total, logits)
    assert float((found - wanted).abs().max()) < 1e-12


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), seed=seeds)
def test_group_advantages_are_scores_in_units_of_the_group(sizes: list[int], seed: int) -> None:
    groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    scores = doubles(len(groups), seed=seed)
    scaled, without_spread = group_normalised(scores, groups, scale=True)
    centred, _ = group_normalised(scores, groups, scale=False)
    assert without_spread.tolist() == [size == 1 for size in sizes]
    for group, size in enumerate(sizes):
        part = scores[groups == group]
        off = part - part.mean()
        assert centred[groups == group].tolist() == pytest.approx(off.tolist(), abs=1e-12)
        wanted = off / (part.std() + 1e-4) if size > 1 else off
        assert scaled[groups == group].tolist() == pytest.approx(wanted.tolist(), abs=1e-12)


def test_a_group_of_equal_scores_has_advantage_exactly_0_and_is_counted() -> None:
    scores = torch.tensor([0.1, 1.0, 0.1, 2.0, 0.1])  # 0.1 + 0.1 + 0.1 rounds: the mean is not 0.1
    groups = torch.tensor([7, 3, 7, 3, 7])
    for scale in (True, False):
        advantages, without_spread = group_normalised(scores, groups, scale=scale)
        assert without_spread.tolist() == [False, True]  # groups 3 and 7
        assert advantages[groups == 7].tolist() == [0, 0, 0]
        assert float(advantages[1]) == -float(advantages[3]) != 0


def test_no_completions_are_no_trouble() -> None:
    nothing, none = torch.zeros(0), torch.zeros(0).long()
    assert leave_one_out(nothing, none).shape == (0,)
    assert batch_leave_one_out(nothing).shape == (0,)
    assert [part.shape for part in group_normalised(nothing, none, scale=True)] == [(0,), (0,)]


ARMS = torch.linspace(-1, 1, 8, dtype=torch.float64)


def kl_at(beta: float) -> float:
    """KL(π_β‖π_ref) of π_β ∝ π_ref e^{s/β} on a bandit of 8 arms with an even reference: Σ π log 8π."""
    logp = (ARMS / beta).log_softmax(0)
    return float((logp.exp() * (logp + math.log(8))).sum())


def beta_for(kl: float) -> float:
    low, high = 1e-3, 1e3  # the KL falls with β
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if kl_at(middle) > kl else (low, middle)
    return low


@pytest.mark.parametrize("target", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("start", [0.02, 0.2, 2.0, 20.0])
def test_beta_reaches_its_target_in_the_horizons_it_needs(target: float, start: float) -> None:
    completions, horizon = 512, 10_000.0
    far = abs(math.log(beta_for(target) / start))
    beta, off = start, []
    for _ in range(math.ceil((10 + 5 * far) * horizon / completions)):
        beta = next_beta(beta, kl=kl_at(beta), target=target, completions=completions, horizon=horizon)
        off.append(abs(kl_at(beta) / target - 1))
    assert off[-1] < 0.1
    if far > 3:
        assert off[int(10 * horizon / completions)] > 0.1  # 10 horizons move β by e² at most


def test_beta_moves_by_a_fifth_of_its_share_of_a_horizon_at_most() -> None:
    step = {"target": 6.0, "completions": 1000, "horizon": 10_000.0}
    assert next_beta(0.1, kl=600.0, **step) == pytest.approx(0.1 * (1 + 0.2 * 0.1))
    assert next_beta(0.1, kl=-3.0, **step) == pytest.approx(0.1 * (1 - 0.2 * 0.1))
    assert next_beta(0.1, kl=6.6, **step) == pytest.approx(0.1 * (1 + 0.1 * 0.1))
    assert next_beta(0.1, kl=6.0, **step) == 0.1


def law_of_best(p: Tensor, scores: Tensor, n: int) -> Tensor:
    """P(y) = F(s_y)^n − F(s_y−)^n, shared among equal scores in proportion to p (the first of n to show it)."""
    at_most = torch.stack([p[scores <= s].sum() for s in scores])
    below = torch.stack([p[scores < s].sum() for s in scores])
    return (at_most**n - below**n) * p / (at_most - below)


def test_best_of_8_spends_at_most_the_kl_bound_and_less_with_ties() -> None:
    p = doubles(8).softmax(0)
    bound = best_of_n_kl_bound(8)
    assert bound == pytest.approx(math.log(8) - 7 / 8)
    spent = []
    for scores in (torch.arange(8), torch.arange(8) // 2):
        law = law_of_best(p, scores, 8)
        assert float(law.sum()) == pytest.approx(1, rel=1e-12)
        spent.append(float((law * (law / p).log()).sum()))
    assert spent[1] < spent[0] < bound
    assert best_of_n_kl_bound(1) == 0


def test_the_bound_is_met_by_many_equally_likely_completions() -> None:
    p = torch.full((20_000,), 1 / 20_000, dtype=torch.float64)
    rank = torch.arange(1, 20_001, dtype=torch.float64) / 20_000
    law = rank**8 - (rank - 1 / 20_000) ** 8
    assert float((law * (law / p).log()).sum()) == pytest.approx(best_of_n_kl_bound(8), abs=1e-3)


def test_the_best_of_sampled_groups_follows_its_law() -> None:
    """40,000 groups: the total variation of 8 shares is about ½ Σ √(2p(1−p)/πN) ≈ 0.004."""
    generator = torch.Generator().manual_seed(1)
    p, scores = doubles(8).softmax(0), torch.randperm(8, generator=generator)
    drawn = torch.multinomial(p, 40_000 * 8, replacement=True, generator=generator).view(-1, 8)
    best = drawn.gather(1, scores[drawn].argmax(1, keepdim=True)).flatten()
    found = torch.bincount(best, minlength=8) / len(best)
    assert float((found - law_of_best(p, scores, 8)).abs().sum() / 2) < 0.01


@pytest.mark.parametrize("ties", [False, True])
def test_the_curve_is_the_mean_over_all_subsets(ties: bool) -> None:
    scores = doubles(7)
    scores = scores.round() if ties else scores
    for n in range(1, 8):
        subsets = list(combinations(scores.tolist(), n))
        wanted = sum(max(subset) for subset in subsets) / len(subsets)
        assert float(best_of_n_curve(scores, [n])) == pytest.approx(wanted, abs=1e-12)


def test_the_best_of_n_among_the_first_numbers_is_known() -> None:
    """E max of n of {1 … N} = n(N+1)/(n+1): 8/9 of N+1 for n = 8."""
    count = 1024
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    scores = torch.stack([shuffled, count - 1 - shuffled]).double() + 1  # [2, N]: one prompt a row
    sizes = [1, 2, 8, 512, 1024]
    wanted = [n * (count + 1) / (n + 1) for n in sizes]
    for row in best_of_n_curve(scores, sizes):
        assert row.tolist() == pytest.approx(wanted, rel=1e-12)


def test_the_curve_is_unbiased_for_the_law() -> None:
    """Over all draws of N = 4 from 3 completions, the mean estimate for n = 2 is Σ s·P(best of 2)."""
    p, scores = doubles(3).softmax(0), torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    draws = torch.tensor(list(product(range(3), repeat=4)))
    estimate = best_of_n_curve(scores[draws], [2])[:, 0]
    expected = float((p[draws].prod(1) * estimate).sum())
    assert expected == pytest.approx(float((law_of_best(p, scores, 2) * scores).sum()), rel=1e-12)


def test_a_size_beyond_the_sample_is_refused_with_its_value() -> None:
    with pytest.raises(ValueError, match="got n = 5"):
        best_of_n_curve(torch.zeros(4), [5])
