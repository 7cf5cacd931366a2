"""Preference losses: pure functions of tensors, no config, no state. In nats, in the dtype of their inputs.

Each gives a term per pair or completion, never a mean: whoever calls divides by the count over the whole optimizer
batch. Rankings, which are ragged, are one prompt a call.

Δs, Δ, u: margins of chosen over rejected; q: probability that chosen is the better one; ½ is a tie.
B pairs or completions; K completions of one prompt; P pairs among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

LOG_HALF = -0.6931471805599453
"""Where log1mexp changes its form (Mächler 2012): above, 1 − eˣ cancels; below, log(1 − eˣ) is near 0."""


def preference_nll(margin: Tensor, q: Tensor) -> Tensor:
    """−q log σ(u) − (1−q) log σ(−u): Bradley–Terry with a soft label, least at σ(u) = q.

    Source: Bradley & Terry 1952; with u = βΔ it is DPO (Rafailov et al. 2023, eq. 7).
    """
    return -q * logsigmoid(margin) - (1 - q) * logsigmoid(-margin)


def smoothed_nll(margin: Tensor, q: Tensor, *, epsilon: float) -> Tensor:
    """cDPO: `preference_nll` with q ← q(1−ε) + (1−q)ε. It shrinks margins by design (Mitchell 2023)."""
    return preference_nll(margin, q * (1 - epsilon) + (1 - q) * epsilon)


def robust_nll(margin: Tensor, q: Tensor, *, epsilon: float) -> Tensor:
    """[(1−ε) nll(u, q) − ε nll(u, 1−q)] / (1−2ε): unbiased when a share ε < ½ of hard labels is flipped at random.

    Source: Chowdhury, Kini & Natarajan 2024, eq. 12.
    """
    kept, flipped = preference_nll(margin, q), preference_nll(margin, 1 - q)
    return ((1 - epsilon) * kept - epsilon * flipped) / (1 - 2 * epsilon)


def ipo(delta: Tensor, q: Tensor, *, tau: float) -> Tensor:
    """q(Δ − 1/2τ)² + (1−q)(Δ + 1/2τ)² on Δ itself (sums of log-ratios, no β), least at Δ = (q−½)/τ.

    Source: Azar et al. 2023, eq. 17, with both orders of a soft label.
    """
    target = 1 / (2 * tau)
    return q * (delta - target) ** 2 + (1 - q) * (delta + target) ** 2


def hinge(margin: Tensor, q: Tensor) -> Tensor:
    """q max(0, 1−u) + (1−q) max(0, 1+u): SLiC (Zhao et al. 2023)."""
    return q * relu(1 - margin) + (1 - q) * relu(1 + margin)


def margin_nll(margin: Tensor, q: Tensor, *, gamma: float) -> Tensor:
    """−q log σ(u−γ) − (1−q) log σ(−u−γ): the better side has to lead by γ, whichever it is.

    Not `preference_nll(u − γ, q)`: there a tie would favour chosen. With u the difference of β·(mean log p) it is
    SimPO (Meng, Xia & Chen 2024, eq. 6).
    """
    return -q * logsigmoid(margin - gamma) - (1 - q) * logsigmoid(-margin - gamma)


def centring(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(s_w + s_l)², which draws the scores of a pair towards 0 (Eisenstein et al. 2023, arXiv 2312.09244)."""
    return (chosen + rejected) ** 2


def log1mexp(x: Tensor) -> Tensor:
    """log(1 − eˣ) for x ≤ 0, exact near 0 and far from it (Mächler 2012).

    It is −∞ at 0, where its slope is infinite too. x above −ε, ε the spacing of the dtype at 1, is taken as −ε: the
    value stays above log ε (−15.9 in fp32, −36.0 in fp64), the slope below 1/ε, and in that strip the slope is 0.
    """
    x = x.clamp(max=-torch.finfo(x.dtype).eps)
    near = x > LOG_HALF
    # A branch that is not taken still hands back 0 · its slope, so each is given arguments where that is a number.
    close = torch.log(-torch.expm1(torch.where(near, x, LOG_HALF)))
    far = torch.log1p(-torch.exp(torch.where(near, LOG_HALF, x)))
    return torch.where(near, close, far)


def log_odds(mean_logp: Tensor) -> Tensor:
    """o = ℓ − log(1 − e^ℓ) of the mean log-probability a token, ℓ = logp/T ≤ 0; ORPO's u is o_w − o_l.

    A model that is sure of every token (ℓ = 0 in fp32, and an empty completion) gets the odds of ℓ = −ε instead of
    ∞, 15.9 in fp32, and slope 1 from ℓ alone. Just below it the slope is as large as 1/(1 − e^ℓ), which is right:
    the slope of ℓ in the logits is as small.

    Source: Hong, Lee & Thorne 2024, eq. 4 and 7.
    """
    return mean_logp - log1mexp(mean_logp)


def kto(log_ratio: Tensor, *, reference_point: Tensor, beta: float, desirable: Tensor) -> Tensor:
    """1 − σ(±β(u − z0)), + where desirable, − where not; ½ while the policy is the reference.

    Args:
        log_ratio: [B], u = d(y), summed over the completion's tokens.
        reference_point: scalar z0 of the whole optimizer batch, from `kto_reference_point`; no gradient.
        desirable: [B] bool.

    Returns:
        [B], before the weights of `kto_weights`. Source: Ethayarajh et al. 2024 (KTO).
    """
    advantage = beta * (log_ratio - reference_point.detach())
    return torch.sigmoid(torch.where(desirable, -advantage, advantage))  # 1 − σ(x) = σ(−x), which does not cancel


def kto_reference_point(mismatched: Tensor) -> Tensor:
    """z0 = max(0, mean d(x_i, y_i')) with the completion y_i' of the next different prompt; detached, scalar.

    `mismatched` holds the log-ratios of the whole optimizer batch, all ranks: it is a statistic of the batch, and
    micro-batches must not change it. An empty one gives 0.
    """
    return mismatched.detach().sum().div(max(mismatched.numel(), 1)).clamp(min=0)


def kto_weights(
    desirable: Tensor, *, desirable_weight: float, undesirable_weight: float, dtype: torch.dtype = torch.float32
) -> Tensor:
    """w_D where desirable, w_U elsewhere, [B]."""
    heavy = torch.full_like(desirable, desirable_weight, dtype=dtype)
    return torch.where(desirable, heavy, torch.full_like(heavy, undesirable_weight))


def balanced_weights(*, desirable: int, undesirable: int) -> tuple[float, float]:
    """(w_D, w_U) with w_D n_D = w_U n_U and a mean of 1, so that neither the first loss (½) nor the rate changes.

    The counts are those of the training split: from a batch, the weights of an example would depend on its
    neighbours. A split with one class alone has nothing to balance: both are 1. Ethayarajh et al. 2024 advise a ratio
    w_D n_D / w_U n_U between 1 and 4/3; this is 1.
    """
    if not desirable or not undesirable:
        return 1.0, 1.0
    examples = desirable + undesirable
    return examples / (2 * desirable), examples / (2 * undesirable)


def plackett_luce(scores: Tensor, ranking: Sequence[int], *, top: int | None = None) -> Tensor:
    """−Σ_{k<K} [s_(k) − logsumexp_{j≥k} s_(j)]: the best is drawn first, then the best of the rest, and so on.

    Written as −Σ log σ(s_(k) − logsumexp_{j>k} s_(j)), which keeps the digits of a small term and is Bradley–Terry
    to the last one at K = 2. No ties.

    Args:
        scores: [K] of one prompt's completions.
        ranking: all K indices, best first.
        top: only the first `top` places are known; the order of the others has no effect.

    Returns:
        Scalar, 0 for one completion. Source: Plackett 1975; Luce 1959.
    """
    if sorted(ranking) != list(range(len(scores))):
        raise ValueError(f"ranking must name each of {len(scores)} completions once, got {list(ranking)}")
    if top is not None and top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    ordered = scores[torch.tensor(list(ranking), dtype=torch.long, device=scores.device)]
    rest = ordered.flip(0).logcumsumexp(0).flip(0)[1:]  # [K-1] what is left after each place but the last
    return -logsigmoid(ordered[:-1] - rest)[:top].sum()


def ranking_pairs(ranking: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs of a ranking with ties, best first: (first [P], second [P], q [P]), first the better one or q = ½."""
    places = [(place, index) for place, tied in enumerate(ranking) for index in tied]
    pairs = [(a, b, 0.5 if here == there else 1.0) for (here, a), (there, b) in combinations(places, 2)]
    first = torch.tensor([a for a, _, _ in pairs], dtype=torch.long)
    second = torch.tensor([b for _, b, _ in pairs], dtype=torch.long)
    return first, second, torch.tensor([q for _, _, q in pairs])  # 1 and ½ are exact in any dtype


def rao_kupper(margin: Tensor, *, eta: Tensor, win: Tensor, tie: Tensor, lose: Tensor) -> Tensor:
    """Cross-entropy of votes with ties: P(a) = σ(Δ−η), P(b) = σ(−Δ−η), P(tie) = the rest.

    With x = e^Δ and t = e^η, P(a) = x/(x+t), P(b) = 1/(1+xt) and 1 − P(a) − P(b) = x(t²−1)/((x+t)(1+xt)), so
    log P(tie) = log(e^{2η} − 1) + log P(a) + log P(b): no difference of near numbers is taken.

    Args:
        margin: [B] Δs; `eta`: scalar > 0, learned through a softplus (at 0 a tie is impossible).
        win, tie, lose: [B] shares of the votes for a, for neither and for b; they sum to 1.

    Returns:
        [B]. Source: Rao & Kupper 1967, with θ = e^η.
    """
    log_win, log_lose = logsigmoid(margin - eta), logsigmoid(-margin - eta)
    log_tie = 2 * eta + log1mexp(-2 * eta) + log_win + log_lose
    return -(win * log_win + tie * log_tie + lose * log_lose)
