"""A policy small enough to enumerate: 3 tokens, one of which ends, at most 3 steps, so 7 states and 15 completions.

Expectations over completions are sums over all of them: what holds in expectation is tested to the last digits.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from training.engine.advantages import owners

END = 2
STEPS = 3
STATES = [prefix for length in range(STEPS) for prefix in product(range(END), repeat=length)]
COMPLETIONS = [
    (*prefix, token) for prefix in STATES for token in range(END + 1) if token == END or len(prefix) == STEPS - 1
]
LENGTHS = torch.tensor([len(completion) for completion in COMPLETIONS])
FINISHED = torch.tensor([completion[-1] == END for completion in COMPLETIONS])
ROWS = torch.tensor([STATES.index(completion[:step]) for completion in COMPLETIONS for step in range(len(completion))])
TOKENS = torch.tensor([token for completion in COMPLETIONS for token in completion])


def table(seed: int, *, spread: float = 1.0) -> Tensor:
    """Logits [7, 3], fp64."""
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(len(STATES), END + 1, generator=generator, dtype=torch.float64)


def token_logp(logits: Tensor) -> Tensor:
    """log π of every token of every completion, [C] in the order of COMPLETIONS."""
    return logits.log_softmax(1)[ROWS, TOKENS]


def per_completion(x: Tensor, lengths: Tensor) -> Tensor:
    """Sums over the tokens [C] of each completion, [K]; 0 where there is none. Gradients pass."""
    return x.new_zeros(len(lengths)).index_add(0, owners(lengths), x)


def completion_logp(logits: Tensor) -> Tensor:
    """log π of every completion, [15]; their probabilities sum to 1."""
    return per_completion(token_logp(logits), LENGTHS)


def gradient(value: Tensor, logits: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(value, logits, retain_graph=True)
    return result


def relative(found: Tensor, wanted: Tensor) -> float:
    """|found − wanted| / |wanted|, Euclidean."""
    return float((found - wanted).norm() / wanted.norm())
