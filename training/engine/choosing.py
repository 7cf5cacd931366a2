"""The best of n completions by their scores, one to hold beside it, and the curve of what n buys. Knows no model.

P prompts; N completions of each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.engine.advantages import best_of_n_curve, best_of_n_kl_bound
from training.engine.candidates import Candidate
from training.engine.drawing import uniforms
from training.engine.evaluate import clustered_mean, with_interval
from training.engine.examples import PromptItem
from training.engine.metrics import BEST_OF_N

Chosen = list[tuple[PromptItem, Candidate]]

# --- choosing ---------------------------------------------------------------------------------------------------------


def choose(scores: Sequence[float], *, seed: int, prompt_id: str) -> int:
    """The place of the highest score; among equal ones a draw of (seed, prompt)."""
    highest = max(scores)
    places = [place for place, score in enumerate(scores) if score == highest]
    return places[_draw(len(places), seed=seed, stream="equal scores", prompt_id=prompt_id)]


def choose_other(candidates: Sequence[Candidate], best: int, *, seed: int, prompt_id: str) -> int | None:
    """A place to hold beside the best: another text, and not both without an end; None where there is none."""
    winner = candidates[best]
    places = [
        place
        for place, candidate in enumerate(candidates)
        if candidate.text != winner.text and "end" in (candidate.finish, winner.finish)
    ]
    return places[_draw(len(places), seed=seed, stream="the other one", prompt_id=prompt_id)] if places else None


def _draw(count: int, *, seed: int, stream: str, prompt_id: str) -> int:
    (uniform,) = uniforms(seed=seed, stream=stream, prompt_id=prompt_id, index=0, count=1)
    return int(float(uniform) * count)


def choose_all(prompts: Sequence[PromptItem], found: Sequence[Sequence[Candidate]], *, n: int, seed: int) -> Chosen:
    """Each prompt with the best of its first n candidates."""
    return [
        (prompt, candidates[choose([c.score for c in candidates[:n]], seed=seed, prompt_id=prompt.id)])
        for prompt, candidates in zip(prompts, found, strict=True)
    ]


# --- the curve --------------------------------------------------------------------------------------------------------


def curve_points(found: Sequence[Sequence[Candidate]], groups: Sequence[str], *, n: int) -> list[dict[str, float]]:
    """What the best of 1, 2, 4 … N completions scores, and of n itself: mean over prompts, intervals by prompt group.

    Each point has `n`, `score` with `score_low` and `score_high`, the same of `held_out_score` where it is known, and
    `kl_bound`, the most that KL(best of n ‖ policy) can be, nats.
    """
    count = len(found[0])
    sizes = sorted({2**power for power in range(count.bit_length()) if 2**power <= count} | {n, count})
    scores = torch.tensor([[c.score for c in candidates] for candidates in found], dtype=torch.float64)  # [P, N]
    columns = {"score": best_of_n_curve(scores, sizes)}
    others = [[c.held_out_score for c in candidates if c.held_out_score is not None] for candidates in found]
    if all(len(row) == count for row in others):
        columns["held_out_score"] = held_out_curve(scores, torch.tensor(others, dtype=torch.float64), sizes)
    points = []
    for place, size in enumerate(sizes):
        point = {"n": float(size), "kl_bound": best_of_n_kl_bound(size)}
        for name, column in columns.items():
            point |= with_interval(name, clustered_mean(column[:, place].tolist(), groups))
        points.append(point)
    return points


def held_out_curve(scores: Tensor, others: Tensor, sizes: Sequence[int]) -> Tensor:
    """Expected `others` of the completion that `scores` choose among n of N, for each n: [P, len(sizes)].

    The weights of the ordered scores are those of `best_of_n_curve`; completions of one score share theirs evenly.

    Args:
        scores, others: [P, N].
    """
    count = scores.shape[1]
    # Row i is 1 from rank i on, so its curve is the chance that the best has at least that rank.
    steps = torch.ones(count, count, dtype=others.dtype).triu()
    reached = best_of_n_curve(steps, sizes)  # [N, sizes]
    weights = reached - torch.cat([reached[1:], torch.zeros_like(reached[:1])])
    order = scores.argsort(dim=1)
    ranked, held = scores.gather(1, order), others.gather(1, order)
    equal = (ranked[:, :, None] == ranked[:, None, :]).to(others.dtype)  # [P, N, N]
    shared = (equal @ held[:, :, None])[:, :, 0] / equal.sum(dim=2)
    return shared @ weights


def curve_metrics(points: Sequence[dict[str, float]], *, n: int) -> dict[str, float]:
    """The points as metrics: `best_of_n/*` at powers of two; `rollout/best_score` and its KL bound are those of n."""
    found: dict[str, float] = {}
    for point in points:
        size = int(point["n"])
        named = {name: value for name, value in point.items() if "score" in name}
        if size in BEST_OF_N:
            found |= {_at_size(name, size): value for name, value in named.items()}
        if size == n:
            found |= {f"rollout/best_{name}": value for name, value in named.items() if name.startswith("score")}
            found["rollout/kl_bound"] = point["kl_bound"]
    return found


def _at_size(name: str, size: int) -> str:
    for end in ("_low", "_high"):
        if name.endswith(end):
            return f"best_of_n/{name.removesuffix(end)}_{size}{end}"
    return f"best_of_n/{name}_{size}"
