"""How alike the two completions of a pair are to a model: the centred hidden embedding similarity, CHES.

    H(y) = Σ_t h_t,   h_t the last hidden state that predicts y_t (it has read x and y_<t),  t = 1 … T
    CHES = ⟨H(y_w), H(y_l)⟩ − ‖H(y_w)‖²;   length-normalised: H(y)/T in the place of H(y)

The higher it is, the more of what pushes y_l down pushes y_w down too (`displacement.py`). Sums grow with length, so
pairs of unequal lengths are ordered by the normalised form, which is what the authors filter data by. The state of the
last token predicts nothing and is not in it. Before its first token a prompt has one state whatever follows, so two
completions of one token each, without an end token, have a CHES of exactly 0: only the head could tell them apart.

Everything here is fp32 without autocast, its sums fp64. Source: Razin et al. 2024 (arXiv 2410.08847), Definition 2.

B pairs; C scored tokens and K = 2B completions of a pack; D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from training.engine import ranks
from training.engine.errors import Diverged
from training.engine.packing import Pack, build_pack, hidden_states, plan_packs
from training.engine.pairs import Pair

DECILES = 10
MOST_NAMED = 50
"""Pairs of the highest scores that a result names, with their figures; the file has all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Similarity:
    """Of one pair. `cosine` is that of the two sums; `tokens_*` are scored tokens, the end token included.

    y_w is the side that the label prefers: the one stored as rejected where q < ½.
    """

    id: str
    ches: float
    ches_normalised: float
    cosine: float
    tokens_chosen: int
    tokens_rejected: int


def measure_similarity(
    model: Any,
    pairs: Sequence[Pair],
    *,
    device: torch.device,
    micro_tokens: int,
    between: Callable[[], None],
) -> list[Similarity]:
    """The figures of every pair, in their order. Ranks of a run share the work, and all get the same numbers.

    Args:
        model: set to the layout that it reads (`packing.read_in_packs_if_exact`).
        between: called before each pack; may raise to give up.

    Raises:
        Diverged: a figure is not finite.
    """
    packs = plan_packs([pair.sharing.positions for pair in pairs], micro_tokens=micro_tokens)

    def compute(own: list[list[int]]) -> list[list[Similarity]]:
        found = []
        for indices in own:
            between()
            chosen = [pairs[index] for index in indices]
            pack = build_pack([pair.sharing for pair in chosen], device=device)
            found.append(_of_pack(model, chosen, pack))
        return found

    measured: dict[int, Similarity] = {}
    for indices, found in zip(packs, ranks.share_out(packs, compute), strict=True):
        measured |= dict(zip(indices, found, strict=True))
    return [measured[index] for index in range(len(pairs))]


@torch.no_grad()
def summed_states(model: Any, pack: Pack) -> Tensor:
    """H of every completion of a pack, [K, D] fp64; zeros for an empty one."""
    with torch.autocast(pack.ids.device.type, enabled=False):
        states = hidden_states(model, pack)[pack.rows].double()  # [C, D]
    return states.new_zeros(len(pack.lengths), states.shape[1]).index_add(0, pack.owner, states)


def ches(sums: Tensor) -> Tensor:
    """⟨H_w, H_l⟩ − ‖H_w‖² of each pair, [B], from H [B, 2, D], the preferred side first.

    As ⟨H_w, H_l − H_w⟩: the difference of two long products would lose the digits that differ.
    """
    preferred, other = sums.unbind(dim=1)
    return (preferred * (other - preferred)).sum(dim=1)


def _of_pack(model: Any, pairs: Sequence[Pair], pack: Pack) -> list[Similarity]:
    stored = summed_states(model, pack).view(len(pairs), 2, -1)  # [B, 2, D], chosen first
    turned = torch.tensor([pair.q < 0.5 for pair in pairs], device=stored.device)
    sums = torch.where(turned[:, None, None], stored.flip(1), stored)
    lengths = pack.lengths.view(-1, 2)
    counts = torch.where(turned[:, None], lengths.flip(1), lengths).clamp(min=1)
    cosine = torch.nn.functional.cosine_similarity(sums[:, 0], sums[:, 1], dim=1)
    figures = torch.stack([ches(sums), ches(sums / counts[:, :, None]), cosine], dim=1)  # [B, 3]
    found = []
    for pair, values in zip(pairs, figures.tolist(), strict=True):
        if not all(map(math.isfinite, values)):
            raise Diverged(metric="similarity/ches", value=values[0], step=0, examples=[pair.id])
        chosen, rejected = pair.lengths
        found.append(
            Similarity(
                id=pair.id,
                ches=values[0],
                ches_normalised=values[1],
                cosine=values[2],
                tokens_chosen=chosen,
                tokens_rejected=rejected,
            )
        )
    return found


def most_similar(found: Sequence[Similarity], *, share: float) -> list[Similarity]:
    """The share of the pairs with the highest length-normalised CHES, highest first; of equal ones by id.

    The share of all pairs is rounded down.
    """
    ordered = sorted(found, key=lambda pair: (-pair.ches_normalised, pair.id))
    return ordered[: math.floor(share * len(found))]


def summary(found: Sequence[Similarity]) -> dict[str, Any]:
    """What `result.json` tells: figures of each tenth of the pairs, lowest first, and the pairs of the highest scores.

    Tenths are by the length-normalised CHES; with fewer than ten pairs some are empty, and left out.
    """
    ordered = sorted(found, key=lambda pair: (pair.ches_normalised, pair.id))
    tenths: list[list[Similarity]] = [[] for _ in range(DECILES)]
    for place, pair in enumerate(ordered):
        tenths[DECILES * place // len(ordered)].append(pair)
    return {
        "pairs": len(found),
        "deciles": [_decile(number, part) for number, part in enumerate(tenths, start=1) if part],
        "highest": [asdict(pair) for pair in reversed(ordered[-MOST_NAMED:])],
    }


def _decile(number: int, pairs: Sequence[Similarity]) -> dict[str, float]:
    """Number 1 (lowest) to 10, its bounds and means; `tokens` are the mean of a completion."""
    count = len(pairs)
    return {
        "decile": number,
        "pairs": count,
        "low": pairs[0].ches_normalised,
        "high": pairs[-1].ches_normalised,
        "ches_normalised": sum(pair.ches_normalised for pair in pairs) / count,
        "ches": sum(pair.ches for pair in pairs) / count,
        "cosine": sum(pair.cosine for pair in pairs) / count,
        "tokens": sum(pair.tokens_chosen + pair.tokens_rejected for pair in pairs) / (2 * count),
    }
