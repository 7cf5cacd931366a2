"""Rewards, returns and advantages of sampled completions, and the estimators of best-of-n: pure functions, no config.

Numbers per token are flat, [C], in the order of the completions, `lengths` [K] saying how many each has; nothing is
padded. Results have the dtype of the inputs and carry no gradient: an advantage is a number, not a path to the
critic.

A completion of length 0 has no token to hold a reward. Per token it does not exist: its score is in no reward,
advantage or return. Per completion it counts like any other: its score is in its group's mean, its KL is 0.

C tokens; K completions; P groups, each the completions of a prompt; N completions of one prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SPREAD_FLOOR = 1e-8
"""Added to the spread when advantages are whitened, so that equal ones become 0."""
BETA_STEP = 0.2
"""Largest relative error of the KL that adaptive β answers to (Ziegler et al. 2019)."""


def owners(lengths: Tensor) -> Tensor:
    """The completion of each token, [C] ascending."""
    return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)


def per_token(x: Tensor, lengths: Tensor) -> Tensor:
    """A number per completion [K], given to each of its tokens, [C]."""
    return torch.repeat_interleave(x, lengths)


def replace_missing_end(scores: Tensor, finished: Tensor, *, missing_end_score: float | None) -> Tensor:
    """The score of a completion without an end token is `missing_end_score`, whatever the reward model says, [K].

    None leaves the reward model's own score of the text as far as it goes.

    Applied after centring. Source: Huang et al. 2024 (N+ implementation details of RLHF), "EOS trick".
    """
    if missing_end_score is None:
        return scores.detach()
    return torch.where(finished, scores, torch.full_like(scores, missing_end_score)).detach()


def token_rewards(scores: Tensor, k1: Tensor, lengths: Tensor, *, beta: float) -> Tensor:
    """r_t = −β k1_t + 1[t = T] s, [C]: T is the last token of the completion, finished or not.

    Args:
        scores: [K], centred; `k1`: [C], log π_old − log π_ref; `lengths`: [K].

    Source: Ziegler et al. 2019, eq. 2; Ouyang et al. 2022, eq. 2.
    """
    held = lengths > 0
    last = lengths.cumsum(0)[held] - 1
    return (-beta * k1.detach()).index_add(0, last, scores.detach()[held].to(k1.dtype))


def gae(rewards: Tensor, values: Tensor, lengths: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates A_t and the returns A_t + V_t (of advantages not yet whitened), [C] each.

        δ_t = r_t + γ V_{t+1} − V_t,   V_{T+1} = 0;      A_t = δ_t + γλ A_{t+1},   A_{T+1} = 0

    Args:
        rewards, values: [C], V_t the value of the state before y_t; `lengths`: [K].

    Source: Schulman et al. 2016, eq. 16.
    """
    rewards, values = rewards.detach(), values.detach()
    if not len(rewards):
        return rewards.clone(), values.clone()
    owner = owners(lengths)
    to_go = lengths.cumsum(0)[owner] - 1 - torch.arange(len(owner), device=owner.device)  # [C] 0 at the last token
    following = torch.where(to_go > 0, values.roll(-1), torch.zeros_like(values))
    delta = rewards + gamma * following - values
    # One step for all completions at once, counted from their ends; rows before a start stay 0 and are not read.
    steps = delta.new_zeros(int(lengths.max()), len(lengths))
    steps[to_go, owner] = delta
    for back in range(1, len(steps)):
        steps[back] += gamma * lam * steps[back - 1]
    advantages = steps[to_go, owner]
    return advantages, advantages + values


def power_sums(x: Tensor) -> Tensor:
    """(count, Σx, Σx²), [3] fp64: adding those of all ranks gives those of all numbers.

    fp64, since Σx² − (Σx)²/n loses the digits of a mean that is large beside the spread.
    """
    wide = x.detach().double()
    return torch.stack([torch.full_like(wide.sum(), wide.numel()), wide.sum(), (wide**2).sum()])


def mean_and_std(sums: Tensor) -> tuple[float, float]:
    """Mean and unbiased spread of the numbers behind `power_sums`; 0 and 0 for none, spread 0 for one."""
    count, total, squares = (float(part) for part in sums)
    if not count:
        return 0.0, 0.0
    mean = total / count
    variance = max(squares - count * mean**2, 0.0) / (count - 1) if count > 1 else 0.0
    return mean, math.sqrt(variance)


def whiten(x: Tensor, *, mean: float | None = None, std: float | None = None) -> Tensor:
    """(x − mean)/(std + 1e-8) over all tokens of an iteration, [C].

    Both moments are given by whoever has a part of the tokens (`mean_and_std` of the all-reduced `power_sums`), or
    neither.
    """
    if mean is None or std is None:
        if mean is not None or std is not None:
            raise ValueError(f"whiten takes both moments or none, got mean {mean} and std {std}")
        mean, std = mean_and_std(power_sums(x))
    return (x.detach() - mean) / (std + SPREAD_FLOOR)


def explained_variance(residuals: Tensor, returns: Tensor) -> float:
    """1 − Var(Ret − V)/Var(Ret), at most 1; below 0 the values are worse than their mean. 0 if returns do not vary.

    Args:
        residuals, returns: [3] each, the `power_sums` of Ret − V and of Ret over all tokens of the iteration.
    """
    left, spread = mean_and_std(residuals)[1], mean_and_std(returns)[1]
    return 1 - (left / spread) ** 2 if spread else 0.0


def leave_one_out(returns: Tensor, groups: Tensor) -> Tensor:
    """R_i − mean of the *other* completions of its prompt, [K]: the baseline does not depend on y_i, so no bias.

    Counting oneself in would scale the gradient by (G−1)/G. A completion alone in its group has no others, and gets
    0: its prompt has no say.

    Args:
        returns: [K]; `groups`: [K] int, equal within a prompt, any numbers.

    Source: Kool, van Hoof & Welling 2019; Ahmadian et al. 2024 (RLOO).
    """
    group, mean, size = _group_means(returns, groups)
    others = (size - 1).clamp(min=1)
    return (returns.detach() - mean[group]) * (size / others)[group]


def batch_leave_one_out(returns: Tensor, *, total: float | None = None, count: int | None = None) -> Tensor:
    """R_i − mean of all other completions of the batch, [K]: REINFORCE with one completion a prompt.

    Args:
        returns: [K] of this rank; `total`, `count`: Σ R and K over all ranks, where there are several.

    Source: Williams 1992, with the leave-one-out mean as baseline. A batch of one has no others, and gets 0.
    """
    returns = returns.detach()
    if total is None or count is None:
        if total is not None or count is not None:
            raise ValueError(f"batch_leave_one_out takes both sums or none, got total {total} and count {count}")
        total, count = float(returns.double().sum()), len(returns)
    if count < 2:
        return torch.zeros_like(returns)
    return (returns - total / count) * (count / (count - 1))


def group_normalised(scores: Tensor, groups: Tensor, *, scale: bool, epsilon: float = 1e-4) -> tuple[Tensor, Tensor]:
    """GRPO: (s_i − mean_g)/(std_g + ε), unbiased std, [K]; without `scale` the mean alone is taken off.

    Args:
        scores: [K]; `groups`: [K] int, equal within a prompt, any numbers.
        scale: divide by the spread (Shao et al. 2024); without it, Dr. GRPO (Liu et al. 2025).

    Returns:
        Advantages [K] and, per group in ascending order of its number, whether all its scores are equal [P] bool.
        Such a group (one completion is one too) has advantage exactly 0, and stays in every denominator.
    """
    scores = scores.detach()
    group, mean, size = _group_means(scores, groups)
    centred = scores - mean[group]
    least = scores.new_full((len(size),), math.inf).scatter_reduce(0, group, scores, "amin")
    most = scores.new_full((len(size),), -math.inf).scatter_reduce(0, group, scores, "amax")
    without_spread = least == most
    centred = torch.where(without_spread[group], torch.zeros_like(centred), centred)  # the mean rounds, equality not
    if scale:
        squares = torch.zeros_like(mean).index_add(0, group, centred**2)
        centred = centred / ((squares / (size - 1).clamp(min=1)).sqrt() + epsilon)[group]
    return centred, without_spread


def _group_means(x: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(group from 0 [K], mean [P], size [P]), groups in ascending order of their numbers."""
    numbers, group = torch.unique(groups, return_inverse=True)
    total = x.detach().new_zeros(len(numbers)).index_add(0, group, x.detach())
    size = torch.zeros_like(total).index_add(0, group, torch.ones_like(x))
    return group, total / size, size


def next_beta(beta: float, *, kl: float, target: float, completions: int, horizon: float) -> float:
    """β·(1 + clip(K̂/target − 1, ±0.2)·n/horizon): too much KL makes it dearer.

    It moves by at most e^±0.2 a horizon, so a β that is f times away takes at least 5·|ln f| horizons: start near.

    Args:
        kl, target: nats per completion, K̂ the mean of Σ_t k1_t over the `completions` just sampled.
        horizon: completions; five times as many at once could turn β negative, so keep it above a batch.

    Source: Ziegler et al. 2019, §2.2.
    """
    error = min(max(kl / target - 1, -BETA_STEP), BETA_STEP)
    return beta * (1 + error * completions / horizon)


def best_of_n_curve(scores: Tensor, sizes: Sequence[int]) -> Tensor:
    """Expected best score of n completions drawn from N, for each n: Σ_i C(i−1, n−1)/C(N, n) s_(i), ascending.

    The mean over all subsets of size n, so unbiased and with less variance than one draw; equal scores do no harm.

    Args:
        scores: [..., N]; `sizes`: values of n, each from 1 to N.

    Returns:
        [..., len(sizes)]. Source: Nakano et al. 2021 (WebGPT), app. I.
    """
    count = scores.shape[-1]
    for n in sizes:
        if not 1 <= n <= count:
            raise ValueError(f"best of n needs 1 <= n <= {count} completions, got n = {n}")
    draws = [math.comb(count, n) for n in sizes]
    weights = [[math.comb(i, n - 1) / ways for i in range(count)] for n, ways in zip(sizes, draws, strict=True)]
    matrix = torch.tensor(weights, dtype=scores.dtype, device=scores.device)
    return scores.detach().sort(dim=-1).values @ matrix.T


def best_of_n_kl_bound(n: int) -> float:
    """log n − (n−1)/n, in nats: KL(best of n ‖ policy) is at most this, less where scores can be equal.

    Source: Hilton & Gao 2022; that it is a bound: Beirami et al. 2024.
    """
    return math.log(n) - (n - 1) / n
