"""Policy-gradient losses: pure functions of flat tensors, no config, no state. In the dtype of their inputs.

Each gives a term per token [C] or per completion [K], never a mean: whoever calls divides by the count over the whole
optimizer batch. Tokens are flat, without padding; a completion without tokens has no term [C] and a term [K] with an
empty sum, ρ = 1 and d = 0.

**What is maximised.** π_old sampled the completions. The surrogate

    J(θ_old, θ) = J(θ_old) + E_{y~π_old} Σ_t ρ_t A_t,     ρ_t = π(y_t|·) / π_old(y_t|·),

has the value and the gradient of the true objective J(θ) at θ = θ_old, and bounds it from below nearby: J(θ) ≥
J(θ_old, θ) − c · max KL(π_old‖π), c = 4 max|A| γ/(1−γ)² (Schulman et al. 2015, "Trust region policy optimization",
thm 1; it follows Kakade & Langford 2002). PPO puts the clip of ρ in the place of that bound (Schulman et al. 2017,
"Proximal policy optimization algorithms", eq. 7).

The objective of preference tuning has a second KL, to the reference that the policy started from,

    J^KL(θ) = E_{y~π} [s(y)] − β KL(π‖π_ref),     greatest at π* ∝ π_ref exp(s/β),

(Jaques et al. 2017; Ziegler et al. 2019, eq. 2). Its KL goes into the reward (−β k1_t at each token) or, as
`sequence_kl_penalty`, into the loss.

d = log π − log π_ref, of a token [C] or summed over a completion [K]. k1, k2, k3: Schulman 2020, "Approximating KL
divergence". On samples of π all are estimates of KL(π‖π_ref) as values (k2 a biased one); as losses they differ:
the gradient of k1 is 0 on average, that of k2 is ∇KL(π‖π_ref), that of a bare k3 is ∇KL(π_ref‖π).
"""

from __future__ import annotations

import torch
from torch import Tensor


def _clipped_surrogate(log_ratio: Tensor, advantages: Tensor, *, low: float, high: float) -> Tensor:
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def ppo_clip(logp: Tensor, logp_old: Tensor, advantages: Tensor, *, low: float, high: float) -> Tensor:
    """−min(ρA, clip(ρ, 1−low, 1+high) A), [C]: no reward for moving a token further than the clip allows.

    Source: Schulman et al. 2017, eq. 7; a high unequal to low is the clip-higher of Yu et al. 2025 (DAPO).
    """
    return _clipped_surrogate(logp - logp_old, advantages, low=low, high=high)


def sequence_clip(log_ratio_sums: Tensor, advantages: Tensor, *, epsilon: float) -> Tensor:
    """−min(ρ(y)A, clip(ρ(y), 1−ε, 1+ε) A), [K], with ρ(y) = exp Σ_t (log π − log π_old): one action a completion.

    Not divided by length, which would tilt the gradient. Source: Ahmadian et al. 2024 (RLOO), with PPO's clip.
    """
    return _clipped_surrogate(log_ratio_sums, advantages, low=epsilon, high=epsilon)


def is_clipped(log_ratio: Tensor, advantages: Tensor, *, low: float, high: float) -> Tensor:
    """Bool, True where the clip takes the gradient away: ρ > 1+high with A > 0, or ρ < 1−low with A < 0.

    Its share is `ppo/clip_share`. Works for tokens [C] and for completions [K].
    """
    ratio = log_ratio.exp()
    return ((ratio > 1 + high) & (advantages > 0)) | ((ratio < 1 - low) & (advantages < 0))


def clipped_value(values: Tensor, old_values: Tensor, returns: Tensor, *, epsilon: float) -> Tensor:
    """½ max((V−Ret)², (clip(V, V_old ± ε) − Ret)²), [C]: a step beyond ε has no gradient, unless it went away.

    Source: the implementation of Schulman et al. 2017 (OpenAI baselines); the paper does not have it.
    """
    kept_near = old_values + (values - old_values).clamp(-epsilon, epsilon)
    return 0.5 * torch.maximum((values - returns) ** 2, (kept_near - returns) ** 2)


def k1(d: Tensor) -> Tensor:
    """d: unbiased for KL(π‖π_ref) on samples of π. For values and rewards: as a loss its expected gradient is 0."""
    return d


def k2(d: Tensor) -> Tensor:
    """½d²: biased as a value; as a loss on whole completions its gradient d·∇log π is that of KL(π‖π_ref)."""
    return 0.5 * d**2


def k3(d: Tensor) -> Tensor:
    """e^{−d} − 1 + d ≥ 0: unbiased on samples of π, with less variance than k1 when π is near π_ref. A value to log.

    As a bare loss its gradient (1 − e^{−d})∇log π is that of KL(π_ref‖π), another objective.
    """
    return torch.expm1(-d) + d


def sequence_kl_penalty(d_sums: Tensor, log_ratio_sums: Tensor, *, ratio_limit: float = 2.0) -> Tensor:
    """sg[ρ(y)] · ½ d(y)², [K]: the KL term of J^KL as a loss, to be multiplied by β.

    Its gradient is ρ(y) d(y) ∇log π(y), on samples of π_old exactly ∇KL(π‖π_ref) where the limit on ρ(y) does not
    bind. The square is of the *sum*: Σ_t ½d_t² drops the later KL that y_t causes, and its fixed point is another.
    """
    ratio = log_ratio_sums.detach().exp().clamp(max=ratio_limit)
    return ratio * k2(d_sums)


def grpo_token_term(
    logp: Tensor,
    logp_old: Tensor,
    reference_logp: Tensor,
    advantages: Tensor,
    *,
    low: float,
    high: float,
    beta: float,
) -> Tensor:
    """−min(ρA, clip(ρ, 1−low, 1+high) A) + β ρ k3(d), [C], with gradient through ρ; at β = 0 it is `ppo_clip`.

    With ρ the gradient of the second term is, on samples of π_old, that of the local KL(π‖π_ref) at the visited
    states; with k3 alone it would be that of KL(π_ref‖π). Neither is the KL of J^KL, so the fixed point is not π*.

    Source: Shao et al. 2024 (DeepSeekMath), eq. 3 and 4, where ρ is missing; with ρ: Liu et al. 2025 (DeepSeek-V3.2).
    """
    penalty = (logp - logp_old).exp() * k3(logp - reference_logp)
    return ppo_clip(logp, logp_old, advantages, low=low, high=high) + beta * penalty


def approx_kl(log_ratio: Tensor) -> Tensor:
    """(ρ − 1) − log ρ ≥ 0, [C]: on samples of π_old its mean estimates KL(π_old‖π) in nats per token; a value."""
    log_ratio = log_ratio.detach()
    return torch.expm1(log_ratio) - log_ratio


def ratio_max(log_ratio: Tensor) -> Tensor:
    """The largest ρ, scalar; 0 where there is no token, which is neutral when ranks take the maximum."""
    if not log_ratio.numel():
        return log_ratio.new_zeros(())
    return log_ratio.detach().max().exp()
