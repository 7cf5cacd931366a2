"""Preference losses: pure functions of tensors, no config, no state. All are per pair, [B], in nats.

Δs, Δ, u: margins of chosen over rejected; q: probability that chosen is the better one; ½ is a tie.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid, relu


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


def centring(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(s_w + s_l)², which draws the scores of a pair towards 0 (Eisenstein et al. 2023, arXiv 2312.09244)."""
    return (chosen + rejected) ** 2
