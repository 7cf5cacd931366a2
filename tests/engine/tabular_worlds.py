"""Worlds small enough to know: all that can be written after one prompt, its scores, the reference and π*."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tests.engine import enumerated

Ids = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """All that can be written after one prompt, what it is worth, and the reference."""

    completions: tuple[Ids, ...]
    finished: tuple[bool, ...]
    states: tuple[Ids, ...]
    """Prompt and prefix: what a token is drawn in."""
    reference: Tensor
    """Logits [S, V]."""
    scores: Tensor
    """[K] as the scorer gives them."""
    beta: float
    prompt: Ids = (9,)
    missing_end_score: float = -1.0

    def logp(self, logits: Tensor) -> Tensor:
        """log π of every completion, [K]."""
        logp = logits.log_softmax(1)
        place = {state: number for number, state in enumerate(self.states)}
        return torch.stack(
            [sum(logp[place[(*self.prompt, *y[:t])], y[t]] for t in range(len(y))) for y in self.completions]
        )

    def visits(self, logits: Tensor) -> Tensor:
        """d(s), the probability that a completion passes each state, [S]."""
        law = self.logp(logits).exp()
        seen = [[(*self.prompt, *y[:t]) for t in range(len(y))] for y in self.completions]
        return torch.stack([sum(p for p, states in zip(law, seen, strict=True) if s in states) for s in self.states])

    @property
    def counted(self) -> Tensor:
        """Scores with the end-token rule, [K]."""
        return torch.where(
            torch.tensor(self.finished), self.scores, torch.full_like(self.scores, self.missing_end_score)
        )

    @property
    def optimum(self) -> Tensor:
        """π* ∝ π_ref exp(s/β), [K]."""
        return (self.logp(self.reference) + self.counted / self.beta).softmax(0)

    @property
    def best_value(self) -> float:
        """J* = β log Z."""
        return self.beta * float((self.logp(self.reference) + self.counted / self.beta).logsumexp(0))

    def value(self, logits: Tensor) -> Tensor:
        """J^KL = E s − β KL(π‖π_ref), differentiable."""
        logp = self.logp(logits)
        return (logp.exp() * (self.counted - self.beta * (logp - self.logp(self.reference)))).sum()

    def distance(self, logits: Tensor, target: Tensor | None = None) -> float:
        """Total variation from π* (or another law)."""
        wanted = self.optimum if target is None else target
        return float((self.logp(logits).exp() - wanted).abs().sum() / 2)


def bandit(*, seed: int = 0, actions: int = 8, beta: float = 0.5, spread: float = 1.0) -> World:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(2, actions, generator=generator, dtype=torch.float64)
    return World(
        completions=tuple((action,) for action in range(actions)),
        finished=(True,) * actions,
        states=((9,),),
        reference=0.5 * numbers[:1],
        scores=spread * numbers[1],
        beta=beta,
    )


def sequences(*, seed: int = 0, beta: float = 0.5) -> World:
    """ENGINE §6.1: 3 tokens, one of which ends, at most 3 steps."""
    generator = torch.Generator().manual_seed(seed)
    return World(
        completions=tuple(enumerated.COMPLETIONS),
        finished=tuple(enumerated.FINISHED.tolist()),
        states=tuple((9, *state) for state in enumerated.STATES),
        reference=enumerated.table(seed + 10, spread=0.5),
        scores=torch.randn(len(enumerated.COMPLETIONS), generator=generator, dtype=torch.float64),
        beta=beta,
    )
