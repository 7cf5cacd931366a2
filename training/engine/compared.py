"""Pairs of completions in known order, out of preferences and rankings. Knows no model and no loss.

P pairs of some items' completions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.engine.evaluate import Judged
from training.engine.examples import Ranked
from training.engine.losses import ranking_pairs
from training.engine.pairs import Pair

Example = Pair | Ranked


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """The pairs of some items' completions, flat."""

    first: Tensor  # [P] completions, numbered through all items
    second: Tensor  # [P]
    item: Tensor  # [P] ascending
    share: Tensor  # [P] 1/P_i
    q: Tensor  # [P]
    margin: Tensor  # [P] nats that the first one must lead by
    tie: Tensor  # [P] probability that neither is better


def pairs_of(item: Example) -> list[tuple[int, int, float]]:
    """Pairs of an item's completions in known order, each with its q; completions that a ranking leaves out come after
    all that it names, in no known order among each other.
    """
    if isinstance(item, Pair):
        return [(0, 1, item.q)]
    first, second, q = ranking_pairs(item.ranking)
    known = list(zip(first.tolist(), second.tolist(), q.tolist(), strict=True))
    return known + [(better, worse, 1.0) for better in named(item) for worse in left_out(item)]


def compare(items: Sequence[Example], *, margins: bool, dtype: torch.dtype, device: torch.device) -> Compared:
    """The pairs of all items with their labels; with `margins` those that the lines state, of what they prefer."""
    rows: list[tuple[float, ...]] = []
    start = 0
    for number, item in enumerate(items):
        pairs = pairs_of(item)
        for first, second, q in pairs:
            margin = item.margin if margins and isinstance(item, Pair) and q > 0.5 else None
            tie = item.p_tie if isinstance(item, Pair) else None
            tie = float(q == 0.5) if tie is None else min(tie, 2 * q, 2 - 2 * q)  # or a side would have less than 0
            rows.append((start + first, start + second, number, 1 / len(pairs), q, margin or 0.0, tie))
        start += len(item.sharing.completions)
    columns = torch.tensor(rows, dtype=torch.float64).T
    first, second, number = columns[:3].long().to(device)
    share, q, margin, tie = columns[3:].to(device, dtype)
    return Compared(first=first, second=second, item=number, share=share, q=q, margin=margin, tie=tie)


def judged_pairs(
    items: Sequence[Example],
    scores: Sequence[Sequence[float]],
    *,
    log_odds: Callable[[float], float] = lambda margin: margin,
) -> list[Judged]:
    """Every pair of every item, held beside its votes.

    Args:
        scores: of each item's completions; of a loss that knows only a margin, that and 0.
        log_odds: of a pair's first side, given its margin Δs, where they are not Δs itself.
    """
    return [
        Judged(
            group=item.group,
            margin=log_odds(found[first] - found[second]),
            q=q,
            tokens_chosen=item.lengths[first],
            tokens_rejected=item.lengths[second],
            votes=item.votes if isinstance(item, Pair) else (0, 0),
        )
        for item, found in zip(items, scores, strict=True)
        for first, second, q in pairs_of(item)
    ]


def sample_lines(item: Example, scores: Sequence[float], *, step: int) -> Iterator[dict[str, Any]]:
    """An item's completions with their scores, as `samples.jsonl` holds them."""
    for number, score in enumerate(scores):
        yield {
            "step": step,
            "prompt_id": item.id,
            "prompt": item.prompt,
            "completion": item.texts[number],
            "finish": item.finishes[number],
            "score": score,
            "length": item.lengths[number],
        }


def named(item: Ranked) -> list[int]:
    """The completions that a ranking names, best first."""
    return [index for tied in item.ranking for index in tied]


def left_out(item: Ranked) -> list[int]:
    """Those that it does not name: they come last, in no known order."""
    return sorted(set(range(len(item.sharing.completions))) - set(named(item)))
