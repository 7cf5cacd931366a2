"""The draw of a token: uniform numbers of a completion, the sampler's law μ, and the inverse CDF.

Token t of completion i of prompt p uses one uniform number, from a counter-based generator keyed by sha256(seed,
stream, prompt id, i), so a draw depends on nothing that stands beside it in a batch. Knows logits; no models, no text.

B rows, V vocabulary, π the policy at temperature 1 over the whole vocabulary, μ the law that is drawn from.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

_NUCLEUS_FIRST = 1024  # tokens looked at before the whole vocabulary is sorted; nearly always enough for top_p
_BLOCK = 256  # tokens a block: a draw cumulates V/256 block sums and one block, not V numbers in fp64


@dataclass(frozen=True, kw_only=True, slots=True)
class Law:
    """What is done to π before a draw, in this order; each part sees the distribution that the one before left.

    1. temperature: weights π^(1/T); 0 is the most likely token.
    2. top_k: the k most likely tokens stay (all that tie with the k-th); 0 is off.
    3. top_p: of those, renormalised, the fewest most likely that hold `top_p` stay; 1 is off.
    4. min_p: of those, the ones at least `min_p` times as likely as the most likely stay; 0 is off.

    The order matters to top_p alone, whose share is counted among the k tokens kept. It is that of transformers.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    @property
    def cuts(self) -> bool:
        """Whether some token may be left out."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    tokens: Tensor  # [B] int64
    logprobs: Tensor  # [B] log π(token), nats
    sampler_logprobs: Tensor  # [B] log μ(token), nats; 0 at temperature 0


def uniforms(*, seed: int, stream: str, prompt_id: str, index: int, count: int) -> NDArray[np.float32]:
    """The first `count` uniform numbers in [0, 1) of one completion; more of them begin with the same ones."""
    digest = hashlib.sha256(json.dumps([seed, stream, prompt_id, index]).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little"))).random(
        count, dtype=np.float32
    )


def draw(logits: Tensor, uniform: Tensor, law: Law) -> Drawn:
    """One token a row by the inverse CDF in order of token ids.

    Args:
        logits: [B, V] fp32.
        uniform: [B], in [0, 1); not looked at when temperature is 0 (the most likely token, the first of equals).
    """
    shifted = logits - logits.amax(dim=-1, keepdim=True)
    weights = shifted.exp()
    blocks = _block_sums(weights)
    log_total = blocks.sum(dim=-1).log()
    if law.temperature == 0:
        tokens = logits.argmax(dim=-1)
    elif law.temperature == 1 and not law.cuts:
        tokens = _inverse_cdf(weights, blocks, uniform)
    else:
        weights = cut(shifted, law)
        blocks = _block_sums(weights)
        tokens = _inverse_cdf(weights, blocks, uniform)
    at_token = shifted.gather(1, tokens[:, None])[:, 0]
    logprobs = (at_token - log_total).float()
    if law.temperature == 0:
        return Drawn(tokens=tokens, logprobs=logprobs, sampler_logprobs=torch.zeros_like(logprobs))
    sampler = (at_token / law.temperature - blocks.sum(dim=-1).log()).float()
    return Drawn(tokens=tokens, logprobs=logprobs, sampler_logprobs=sampler)


def cut(shifted: Tensor, law: Law) -> Tensor:
    """μ up to its total, [B, V]: weights of which the largest is 1, 0 for the tokens left out.

    Args:
        shifted: [B, V], logits less the row's largest.
    """
    weights = shifted.exp() if law.temperature == 1 else (shifted / law.temperature).exp()
    if 0 < law.top_k < weights.shape[-1]:
        weights = weights * (weights >= weights.topk(law.top_k, dim=-1).values[:, -1:])
    if law.top_p < 1:
        weights = _nucleus(weights, law.top_p)
    if law.min_p > 0:
        weights = weights * (weights >= law.min_p)
    return weights


def _block_sums(weights: Tensor) -> Tensor:
    """[B, V] → fp64 [B, V/256]; a sum of 256 terms loses nothing that fp32 weights had."""
    missing = -weights.shape[-1] % _BLOCK
    filled = pad(weights, (0, missing)) if missing else weights
    return filled.view(len(weights), -1, _BLOCK).sum(dim=-1).double()


def _inverse_cdf(weights: Tensor, blocks: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the cumulated weights pass `uniform` of their total: first its block, then its place there.

    In fp64, with the share of the block redone from the block's own terms, so that rounding never hits a weight of 0.
    """
    cumulated = _cumulate(blocks)
    goal = uniform.to(torch.float64)[:, None] * cumulated[:, -1:]
    # The bounds are for logits that are not finite; the caller sees that by the log-probability.
    block = torch.searchsorted(cumulated, goal, right=True).clamp(max=blocks.shape[-1] - 1)  # [B, 1]
    of_block = blocks.gather(1, block)
    share = (goal - (cumulated.gather(1, block) - of_block)) / of_block
    places = block * _BLOCK + torch.arange(_BLOCK, device=weights.device)  # [B, 256]
    inside = weights.gather(1, places.clamp(max=weights.shape[-1] - 1)).masked_fill(places >= weights.shape[-1], 0.0)
    within = _cumulate(inside)
    place = torch.searchsorted(within, share.clamp(0.0, 1 - 2**-53) * within[:, -1:], right=True)
    return (block * _BLOCK + place)[:, 0].clamp(max=weights.shape[-1] - 1)


def _cumulate(values: Tensor) -> Tensor:
    """Running sums of each row in fp64, [B, n].

    On a GPU the order of `cumsum` may change from call to call, and torch refuses it where runs must repeat; then it is
    left to the host. (Products with a triangle of ones repeat too, but may give a weight of 0 a share by rounding.)
    """
    wide = values.double()
    if wide.is_cuda and torch.are_deterministic_algorithms_enabled():
        return wide.cpu().cumsum(dim=-1).to(wide.device)
    return wide.cumsum(dim=-1)


def _nucleus(weights: Tensor, top_p: float) -> Tensor:
    """The weights [B, V] of the fewest most likely tokens that hold `top_p` of the total; 0 elsewhere."""
    goal = top_p * weights.sum(dim=-1, keepdim=True, dtype=torch.float64)
    top, where = weights.topk(min(_NUCLEUS_FIRST, weights.shape[-1]), dim=-1)
    cumulated = _cumulate(top)
    if bool((cumulated[:, -1:] < goal).any()):
        top, where = weights.sort(dim=-1, descending=True, stable=True)
        cumulated = _cumulate(top)
    kept = top * (cumulated - top < goal)
    return torch.zeros_like(weights).scatter_(-1, where, kept)
