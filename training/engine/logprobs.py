"""Log-probabilities of completion tokens, in nats, from hidden states: the head is applied to the scored rows only.

    log p(y) = (z_y − max z) − log Σ_v exp(z_v − max z),   z = W h,  in fp32 (fp64 inputs stay fp64)

`z_y − logsumexp z` loses digits where p is near 1 (gradient error 5e-5 against 4e-7). Since a row yields one number,
its gradient is that number's upstream gradient times a fixed vector,

    ∂ log p(y) / ∂h = (1 − p_y) W_y − Σ_{v≠y} p_v W_v,

which the forward pass computes while the logits of a tile exist, with the running maximum of Milakov and Gimelshein
(2018); they are gone before the next tile. The target stays out of the sum: of p_y W_y a bf16 product loses 2⁻⁹, and
for p_y near 1 that is more than the whole difference. A frozen head thus costs two matrix products and [C, D] memory.
A trained one needs ∂/∂W = (onehot(y) − p)ᵀ h, split likewise, once the upstream gradient is known: a third product
where exp z was kept (on CPU, up to `KEPT_BYTES`), a fourth where it is computed again. Entropies and the KL of whole
vocabularies go by chunks of rows that are computed again in the backward pass.

C scored rows; D hidden size; V vocabulary; K completions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from training.engine.models import lm_head_weight
from training.engine.packing import Pack, hidden_states
from training.engine.products import matmul

ROWS = 1024
"""Rows whose logits exist at one time: 200 MB in fp32 for 49,152 words."""
TILE = 2048
"""Columns of one product on CPU: 1,024 × 2,048 logits stay in the cache from the product to the sums (8,192: +30 %)."""
KEPT_BYTES = 512 * 2**20
"""Most memory for the exp z of one call, kept on CPU for a trained head: 2,730 rows of 49,152 words in fp32."""


class _TargetLogProbs(torch.autograd.Function):
    """hidden [C, D], weight [V, D], targets [C] → log p of the targets [C], fp32."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        needs_hidden, needs_weight, _ = ctx.needs_input_grad
        matrix = weight.to(hidden.dtype)
        size = len(hidden) * len(matrix) * hidden.element_size()
        keep = needs_weight and hidden.device.type == "cpu" and size <= KEPT_BYTES
        result = torch.empty(len(hidden), dtype=_wide(hidden), device=hidden.device)
        slope = torch.empty_like(hidden) if needs_hidden else None
        kept: list[_Softmax] = []
        for start in range(0, len(hidden), ROWS):
            rows = slice(start, start + ROWS)
            softmax = _softmax(hidden[rows], matrix, targets[rows], others=slope is not None, keep=keep)
            result[rows] = softmax.logp
            if slope is not None:
                assert softmax.others is not None
                words = matrix[targets[rows]].to(softmax.others.dtype)
                slope[rows] = (softmax.missing[:, None] * words - softmax.others).to(slope.dtype)
                softmax.others = None
            kept.append(softmax)
        ctx.kept = kept if keep else None
        ctx.save_for_backward(slope, hidden if needs_weight else None, weight if needs_weight else None, targets)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        slope, hidden, weight, targets = ctx.saved_tensors
        gradient = gradients[0]
        to_hidden = None if slope is None else gradient[:, None].to(slope.dtype) * slope
        if weight is None:
            return to_hidden, None, None
        to_weight = torch.zeros_like(weight, dtype=_wide(hidden))
        matrix = weight.to(hidden.dtype)
        for number, start in enumerate(range(0, len(hidden), ROWS)):
            rows = slice(start, start + ROWS)
            if ctx.kept is None:
                softmax = _softmax(hidden[rows], matrix, targets[rows], others=False, keep=True)
            else:
                softmax, ctx.kept[number] = ctx.kept[number], None
            wide = hidden[rows].to(to_weight.dtype)
            column = 0
            for tile, scale in zip(softmax.tiles, softmax.scales(), strict=True):
                scaled = (wide * (-gradient[rows] * scale)[:, None]).to(tile.dtype)
                part = to_weight[column : column + tile.shape[1]]
                part.add_(matmul(tile.T, scaled))
                column += tile.shape[1]
            to_weight.index_add_(0, targets[rows], wide * (gradient[rows] * softmax.missing)[:, None])
        return to_hidden, to_weight.to(weight.dtype), None


@dataclass(slots=True)
class _Softmax:
    """What one pass over the vocabulary leaves of some rows. exp z is relative to the greatest z of its own tile."""

    logp: Tensor  # [rows] of the targets
    peak: Tensor  # [rows] max z
    total: Tensor  # [rows] Σ_v exp(z_v − peak)
    missing: Tensor  # [rows] 1 − p_y, as the sum of the others: 1 less a p_y near 1 would have no digits
    others: Tensor | None  # [rows, D] Σ_{v≠y} p_v W_v, where asked for
    tiles: list[Tensor]  # [rows, ≤ TILE] each: exp(z − max z of the tile), 0 at the target; where kept
    peaks: list[Tensor]  # [rows] each: max z of the tile

    def scales(self) -> list[Tensor]:
        """What turns the kept tiles into probabilities, [rows] each."""
        return [(peak - self.peak).exp() / self.total for peak in self.peaks]


def _softmax(hidden: Tensor, matrix: Tensor, targets: Tensor, *, others: bool, keep: bool) -> _Softmax:
    """One pass over the vocabulary, tile by tile, so that a tile is used while it is in the cache."""
    width = TILE if hidden.device.type == "cpu" else len(matrix)
    wide = _wide(hidden)
    peak = hidden.new_full((len(hidden),), -torch.inf, dtype=wide)
    rest, found = torch.zeros_like(peak), torch.zeros_like(peak)  # rest: Σ_{v≠y} exp(z_v − peak)
    mean = torch.zeros(hidden.shape, dtype=wide, device=hidden.device) if others else None
    tiles: list[Tensor] = []
    peaks: list[Tensor] = []
    for column in range(0, len(matrix), width):
        words = matrix[column : column + width]
        tile = matmul(hidden, words.T).to(wide)
        # By gather and scatter, not by a boolean index, whose size a GPU would have to tell the host.
        here = (targets >= column) & (targets < column + len(words))
        place = (targets - column).clamp(0, len(words) - 1)[:, None]
        found = torch.where(here, tile.gather(1, place)[:, 0], found)
        top = tile.amax(dim=1)
        tile.sub_(top[:, None]).exp_()
        tile.scatter_(1, place, tile.gather(1, place).masked_fill(here[:, None], 0.0))
        higher = torch.maximum(peak, top)
        before, now = (peak - higher).exp_(), (top - higher).exp_()
        rest = rest * before + tile.sum(dim=1) * now
        tile = tile.to(hidden.dtype)
        if mean is not None:
            mean.mul_(before[:, None]).add_(matmul(tile, words).to(wide) * now[:, None])
        if keep:
            tiles.append(tile)
            peaks.append(top)
        peak = higher
    shifted = found - peak
    total = rest + shifted.exp()
    if mean is not None:
        mean.div_(total[:, None])
    return _Softmax(shifted - total.log(), peak, total, rest / total, mean, tiles, peaks)


def _wide(values: Tensor) -> torch.dtype:
    """The type of softmax and sums: fp32, or fp64 where the values are fp64."""
    return torch.float64 if values.dtype is torch.float64 else torch.float32


def _product_type(hidden: Tensor) -> Tensor:
    """Hidden states in the type of the matrix products: autocast's, where it is on."""
    if torch.is_autocast_enabled(hidden.device.type):
        return hidden.to(torch.get_autocast_dtype(hidden.device.type))
    return hidden


def target_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """log p of each target given its row's hidden state.

    Args:
        hidden: [C, D], the rows that predict; `weight`: [V, D], the head; `targets`: [C].

    Returns:
        [C] fp32 (fp64 for fp64 inputs), in nats. Inside autocast the products are in its type, the softmax is not.
    """
    hidden = _product_type(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        result: Tensor = _TargetLogProbs.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
    return result


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetStatistics:
    """Of each scored row, without gradient."""

    entropy: Tensor  # [C] −Σ_v p_v log p_v, nats
    correct: Tensor  # [C] bool: the target is the most probable word


@torch.no_grad()
def target_statistics(hidden: Tensor, weight: Tensor, targets: Tensor) -> TargetStatistics:
    """Entropy and top-1 correctness: one more pass over the vocabulary, so not for every step."""
    hidden = _product_type(hidden)
    entropies: list[Tensor] = []
    correct: list[Tensor] = []
    for start in range(0, len(hidden), ROWS):
        logp = _log_softmax(hidden[start : start + ROWS], weight)
        correct.append(logp.argmax(dim=1) == targets[start : start + ROWS])
        entropies.append(_entropy(logp))
    if not entropies:
        return TargetStatistics(entropy=hidden.new_zeros(0), correct=targets.new_zeros(0, dtype=torch.bool))
    return TargetStatistics(entropy=torch.cat(entropies), correct=torch.cat(correct))


def entropy(hidden: Tensor, weight: Tensor) -> Tensor:
    """−Σ_v π_v log π_v of each row, [C] nats, differentiable in both arguments."""

    def of_rows(rows: Tensor, weight: Tensor) -> Tensor:
        return _entropy(_log_softmax(rows, weight))

    return _by_chunks(of_rows, [_product_type(hidden)], [weight])


def vocabulary_kl(hidden: Tensor, weight: Tensor, reference_hidden: Tensor, reference_weight: Tensor) -> Tensor:
    """Σ_v π_v log(π_v / π_ref,v) of each row over the whole vocabulary, [C] nats.

    Differentiable in the first two arguments; the reference gets no gradient. Its hidden size may be another.
    """

    def of_rows(rows: Tensor, reference_rows: Tensor, weight: Tensor, reference_weight: Tensor) -> Tensor:
        logp = _log_softmax(rows, weight)
        with torch.no_grad():
            reference = _log_softmax(reference_rows, reference_weight)
        return (logp.exp() * (logp - reference)).sum(dim=1)

    tall = [_product_type(hidden), _product_type(reference_hidden.detach())]
    return _by_chunks(of_rows, tall, [weight, reference_weight.detach()])


def _log_softmax(hidden: Tensor, weight: Tensor) -> Tensor:
    """log p of every word, [rows, V] fp32."""
    with torch.autocast(hidden.device.type, enabled=False):
        return (hidden @ weight.to(hidden.dtype).T).to(_wide(hidden)).log_softmax(dim=1)


def _entropy(logp: Tensor) -> Tensor:
    return -(logp.exp() * logp).sum(dim=1)


def _by_chunks(of_rows: Callable[..., Tensor], tall: list[Tensor], whole: list[Tensor]) -> Tensor:
    """One number a row of the tall tensors; the logits of a chunk are computed again in the backward pass."""
    parts: list[Tensor] = []
    for start in range(0, len(tall[0]), ROWS):
        rows = [tensor[start : start + ROWS] for tensor in tall]
        if torch.is_grad_enabled():
            part: Tensor = checkpoint(of_rows, *rows, *whole, use_reentrant=False, preserve_rng_state=False)
        else:
            part = of_rows(*rows, *whole)
        parts.append(part)
    return torch.cat(parts) if parts else tall[0].sum(dim=1)


def token_logprobs(model: Any, pack: Pack) -> Tensor:
    """log π of every scored token of a pack given what stands before it, [C] fp32, in nats."""
    return target_logprobs(hidden_states(model, pack)[pack.rows], lm_head_weight(model), pack.targets)


def sum_by_completion(values: Tensor, pack: Pack) -> Tensor:
    """Sums of values [C] over the scored tokens of each completion.

    Returns:
        [K] fp64: in fp32 a sum of 300 tokens is rounded by 3e-5 nats, as much as early differences amount to.
    """
    sums = torch.zeros(len(pack.lengths), dtype=torch.float64, device=values.device)
    return sums.index_add(0, pack.owner, values.double())


def completion_logprobs(model: Any, pack: Pack) -> Tensor:
    """log π(y|x) of every completion of a pack, summed over its scored tokens (end token included), [K] fp64, nats."""
    return sum_by_completion(token_logprobs(model, pack), pack)
