"""Likelihood displacement: chosen completions that become less likely while the margin grows (Razin et al. 2024).

B pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

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
