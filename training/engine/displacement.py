"""Likelihood displacement: chosen completions that become less likely while the margin grows (Razin et al. 2024).

B pairs; C scored tokens; K completions; D hidden size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from training.engine.evaluate import clustered_mean, clustered_share, with_interval


def displacement_metrics(
    chosen_changes: Sequence[float], rejected_changes: Sequence[float], groups: Sequence[str], *, part: str
) -> dict[str, float]:
    """log π − log π_ref of chosen and of rejected completions apart, and the share of chosen ones that fell, [B] each.

    A rising margin hides whether the chosen rises or the rejected falls faster: the two are never only subtracted.
    """
    falling = [float(change < 0) for change in chosen_changes]
    return {
        **with_interval(f"{part}/logp_chosen_change", clustered_mean(chosen_changes, groups)),
        **with_interval(f"{part}/logp_rejected_change", clustered_mean(rejected_changes, groups)),
        **with_interval(f"{part}/falling_share", clustered_share(falling, groups)),
        f"{part}/changed_pairs": float(len(chosen_changes)),
    }


def gaining_tokens(token_ids: Sequence[int], changes: Sequence[float], *, count: int) -> list[tuple[int, float]]:
    """The tokens whose probability grew most, with Σ (log π − log π_ref) over where they stand, greatest first.

    Args:
        token_ids, changes: [C], of completions sampled from the policy: there the mass that chosen ones lost shows.
    """
    sums: dict[int, float] = defaultdict(float)
    for token, change in zip(token_ids, changes, strict=True):
        sums[token] += change
    return sorted(sums.items(), key=lambda item: (-item[1], item[0]))[:count]


def hidden_sums(hidden: Tensor, owner: Tensor, *, completions: int) -> Tensor:
    """Σ_t h of the states that predict each completion's tokens, [K, D] fp64.

    Args:
        hidden: [C, D], `hidden_states(model, pack)[pack.rows]`; `owner`: [C], the completion of each.
    """
    sums = torch.zeros(completions, hidden.shape[1], dtype=torch.float64, device=hidden.device)
    return sums.index_add(0, owner, hidden.detach().double())


def ches_scores(chosen: Tensor, rejected: Tensor) -> Tensor:
    """CHES of each pair, [B]: ⟨Σ h_w, Σ h_l⟩ − ‖Σ h_w‖², from `hidden_sums` of both sides, [B, D] each.

    The higher, the more alike the two sides are to the model, and the more likely is training to push both down.
    Source: Razin et al. 2024, definition 2 (centred hidden embedding similarity).
    """
    return (chosen * rejected).sum(dim=1) - (chosen * chosen).sum(dim=1)
