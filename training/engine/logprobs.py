"""Log-probabilities of completion tokens, in nats, from hidden states: the head is applied to the scored rows only.

    log p(y) = (z_y − max z) − log Σ_v exp(z_v − max z),   z = W h,  in fp32 (fp64 inputs stay fp64)

`z_y − logsumexp z` loses digits where p is near 1 (gradient error 5e-5 against 4e-7). Since a row yields one number,
its gradient is that number's upstream gradient times a fixed vector,

    ∂ log p(y) / ∂h = W_y − Σ_v p_v W_v,

which the forward pass computes while the logits exist; they are gone before the next chunk of rows. A frozen head
thus costs two matrix products and [C, D] memory; a trained one has its logits computed again in the backward pass.

C scored rows; D hidden size; V vocabulary; K completions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.engine.models import lm_head_weight
from training.engine.packing import Pack, hidden_states

ROWS = 1024
"""Rows whose logits exist at one time: 200 MB in fp32 for 49,152 words."""
TILE = 8192
"""Columns of one product on CPU: wide ones run at a lower rate."""


class _TargetLogProbs(torch.autograd.Function):
    """hidden [C, D], weight [V, D], targets [C] → log p of the targets [C], fp32."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        needs_hidden, needs_weight, _ = ctx.needs_input_grad
        matrix = weight.to(hidden.dtype)
        result = torch.empty(len(hidden), dtype=_wide(hidden), device=hidden.device)
        slope = torch.empty_like(hidden) if needs_hidden else None
        for start in range(0, len(hidden), ROWS):
            rows = slice(start, start + ROWS)
            tiles = _logits(hidden[rows], matrix)
            target = _gather(tiles, targets[rows])
            total, peak = _exponentiate(tiles)
            result[rows] = (target - peak) - total.log()
            if slope is not None:
                expected = _expected_rows(tiles, total, matrix)
                slope[rows] = matrix[targets[rows]] - expected
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
        for start in range(0, len(hidden), ROWS):
            rows = slice(start, start + ROWS)
            tiles = _logits(hidden[rows], matrix)
            total, _ = _exponentiate(tiles)
            scaled = hidden[rows].to(_wide(hidden)) * (-gradient[rows] / total)[:, None]
            column = 0
            for tile in tiles:
                to_weight[column : column + tile.shape[1]].addmm_(tile.T, scaled)
                column += tile.shape[1]
            to_weight.index_add_(0, targets[rows], hidden[rows].to(_wide(hidden)) * gradient[rows, None])
        return to_hidden, to_weight.to(weight.dtype), None


def _wide(values: Tensor) -> torch.dtype:
    """The type of softmax and sums: fp32, or fp64 where the values are fp64."""
    return torch.float64 if values.dtype is torch.float64 else torch.float32


def _logits(hidden: Tensor, matrix: Tensor) -> list[Tensor]:
    """Tiles of z in fp32, [rows, ≤ TILE] each on CPU, one tile elsewhere."""
    tile = TILE if hidden.device.type == "cpu" else len(matrix)
    return [(hidden @ matrix[start : start + tile].T).to(_wide(hidden)) for start in range(0, len(matrix), tile)]


def _gather(tiles: list[Tensor], targets: Tensor) -> Tensor:
    """z of each row's target, [rows]."""
    width = tiles[0].shape[1]
    found = torch.empty(len(targets), dtype=tiles[0].dtype, device=targets.device)
    for number, tile in enumerate(tiles):
        here = targets // width == number
        found[here] = tile[here, targets[here] - number * width]
    return found


def _exponentiate(tiles: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Turn z into exp(z − max z) in place; returns its sum and the maximum, [rows] each."""
    peak = torch.stack([tile.amax(dim=1) for tile in tiles]).amax(dim=0)
    for tile in tiles:
        tile.sub_(peak[:, None]).exp_()
    return torch.stack([tile.sum(dim=1) for tile in tiles]).sum(dim=0), peak


def _expected_rows(tiles: list[Tensor], total: Tensor, matrix: Tensor) -> Tensor:
    """Σ_v p_v W_v for each row, [rows, D]."""
    result = torch.zeros(len(total), matrix.shape[1], dtype=total.dtype, device=matrix.device)
    column = 0
    for tile in tiles:
        result += (tile.to(matrix.dtype) @ matrix[column : column + tile.shape[1]]).to(total.dtype)
        column += tile.shape[1]
    return (result / total[:, None]).to(matrix.dtype)


def target_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """log p of each target given its row's hidden state.

    Args:
        hidden: [C, D], the rows that predict; `weight`: [V, D], the head; `targets`: [C].

    Returns:
        [C] fp32 (fp64 for fp64 inputs), in nats. Inside autocast the products are in its type, the softmax is not.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    with torch.autocast(hidden.device.type, enabled=False):
        result: Tensor = _TargetLogProbs.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
    return result


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
