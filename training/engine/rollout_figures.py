"""Figures of completions that a policy writes at an evaluation: length, end, repetition, score, KL. Knows no model.

The reference's figures are those of the first evaluation, when the policy still is the reference: the same prompts and
random numbers. Lengths in tokens, scores and KL in nats a completion, entropy in nats a token.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from training.engine.evaluate import (
    Estimate,
    clustered_mean,
    clustered_ratio,
    clustered_share,
    mean_and_spread,
    percentile,
    with_interval,
)

Tokens = Sequence[int]
Gram = tuple[int, ...]

REFERENCE_RANGE = 0.99
"""Share of the reference's single values below the top of its range."""
DISTINCT_TOKENS = 64
"""Only the beginnings count for distinct-n: it falls with length, whatever is written."""
BLEU_ORDER = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One sampled completion. A figure that any completion of an evaluation lacks is not computed.

    Attributes:
        group: prompt group, by which intervals are clustered; `prompt_id`: completions of one prompt share it.
        token_ids: with the end token if it finished.
        score: by the reward models that training uses, each less its stored mean, before any end-token rule.
        held_out_score: by reward models that training never sees; of an ensemble the least one.
        kl: d(y) = log π(y) − log π_ref(y); `kl_token_max`: the largest d_t.
        entropy: of π at the completion's tokens, mean.
    """

    prompt_id: str
    group: str
    token_ids: tuple[int, ...]
    finished: bool
    score: float | None = None
    held_out_score: float | None = None
    kl: float | None = None
    kl_token_max: float | None = None
    entropy: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a run knows before it samples, for figures that compare with it; None where it is not known.

    Attributes:
        p99: 99th percentile of the reward model's scores in its training, less its mean (`reward.p99 − reward.mean`).
        length_slope: nats that the reward model pays for a token, within a prompt (`reward.length_slope`).
        kl_budget: nats a completion.
    """

    p99: float | None = None
    length_slope: float | None = None
    kl_budget: float | None = None


class Drawn(Protocol):
    """A completion as a sampler gives it."""

    @property
    def token_ids(self) -> tuple[int, ...]: ...
    @property
    def finish(self) -> str: ...


class DrawnGroup(Protocol):
    """A prompt with its completions, `rollouts.Group` for one."""

    @property
    def id(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def completions(self) -> Sequence[Drawn]: ...


def rollouts_of(
    groups: Sequence[DrawnGroup],
    *,
    log_ratios: Sequence[Sequence[float]] | None = None,
    scores: Sequence[float] | None = None,
    held_out_scores: Sequence[float] | None = None,
    entropies: Sequence[float] | None = None,
) -> list[Rollout]:
    """The completions of some prompts with what a method knows about them, each in the order of the completions.

    Args:
        log_ratios: d_t of every token, nats; `scores`, `held_out_scores`: less the reward models' stored means;
        entropies: mean over a completion's tokens.
    """
    written = [(group, completion) for group in groups for completion in group.completions]
    columns = {
        "log_ratios": log_ratios,
        "scores": scores,
        "held_out_scores": held_out_scores,
        "entropies": entropies,
    }
    for name, values in columns.items():
        if values is not None and len(values) != len(written):
            raise ValueError(f"{name} has {len(values)} entries for {len(written)} completions")
    return [
        Rollout(
            prompt_id=group.id,
            group=group.group,
            token_ids=completion.token_ids,
            finished=completion.finish == "end",
            score=scores[k] if scores is not None else None,
            held_out_score=held_out_scores[k] if held_out_scores is not None else None,
            kl=sum(log_ratios[k]) if log_ratios is not None else None,
            kl_token_max=max(log_ratios[k], default=0.0) if log_ratios is not None else None,
            entropy=entropies[k] if entropies is not None else None,
        )
        for k, (group, completion) in enumerate(written)
    ]


def rollout_metrics(
    rollouts: Sequence[Rollout], *, limits: Limits, reference: dict[str, float] | None
) -> dict[str, float]:
    """`rollout/*` of an evaluation, and how they compare with the limits and the reference (`reference_metrics`).

    Where the reward run did not say what length is worth, the slope of the score on length within a prompt is taken
    from the rollouts themselves; with one completion a prompt there is none, and no share of the gain either.
    """
    groups = [rollout.group for rollout in rollouts]
    lengths = [float(len(rollout.token_ids)) for rollout in rollouts]
    found = {
        "rollout/samples": float(len(rollouts)),
        **with_interval("rollout/length_mean", clustered_mean(lengths, groups)),
        "rollout/length_p95": percentile(lengths, 0.95),
        **with_interval("rollout/unfinished_share", clustered_share([float(not r.finished) for r in rollouts], groups)),
        **_repetition(rollouts),
        **_entropy(rollouts),
        **_divergence(rollouts, budget=limits.kl_budget),
        **_scores(rollouts, p99=limits.p99),
    }
    if reference:
        found |= _growth(rollouts, found, reference, slope=limits.length_slope)
    return found


def reference_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """`reference/*`: what later evaluations are compared with, from completions of the reference policy."""
    values = rollout_metrics(rollouts, limits=Limits(), reference=None)
    kept = (
        *("length_mean", "length_p95", "unfinished_share", "duplicate_4grams"),
        *("self_bleu", "distinct_2", "entropy", "score"),
    )
    found = {f"reference/{name}": values[f"rollout/{name}"] for name in kept if f"rollout/{name}" in values}
    repeats = [duplicate_share(rollout.token_ids, order=4) for rollout in rollouts]
    found["reference/duplicate_4grams_top"] = percentile(repeats, REFERENCE_RANGE)
    alike = list(_self_bleus(rollouts).values())
    if alike:
        found["reference/self_bleu_top"] = percentile([value for value, _ in alike], REFERENCE_RANGE)
    for name, scores in (
        ("score", _complete(r.score for r in rollouts)),
        ("held_out_score", _complete(r.held_out_score for r in rollouts)),
    ):
        if scores:
            found[f"reference/{name}_std"] = mean_and_spread(scores)[1]
    return found


# --- parts ------------------------------------------------------------------------------------------------------------


def _repetition(rollouts: Sequence[Rollout]) -> dict[str, float]:
    groups = [rollout.group for rollout in rollouts]
    repeats = [duplicate_share(rollout.token_ids, order=4) for rollout in rollouts]
    found = with_interval("rollout/duplicate_4grams", clustered_share(repeats, groups))
    beginnings = [rollout.token_ids[:DISTINCT_TOKENS] for rollout in rollouts]
    for order in (1, 2):
        found[f"rollout/distinct_{order}"] = distinct_share(beginnings, order=order)
    alike = list(_self_bleus(rollouts).values())
    if alike:
        mean = clustered_share([value for value, _ in alike], [group for _, group in alike])
        found |= with_interval("rollout/self_bleu", mean)
    return found


def _self_bleus(rollouts: Sequence[Rollout]) -> dict[str, tuple[float, str]]:
    """Self-BLEU of each prompt with two completions or more, and the prompt's group."""
    by_prompt: dict[str, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        by_prompt[rollout.prompt_id].append(rollout)
    return {
        prompt_id: (self_bleu([rollout.token_ids for rollout in several]), several[0].group)
        for prompt_id, several in by_prompt.items()
        if len(several) > 1
    }


def _entropy(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Mean over tokens, not over completions."""
    entropies = _complete(r.entropy for r in rollouts)
    lengths = [float(len(rollout.token_ids)) for rollout in rollouts]
    if not entropies or not any(lengths):
        return {}
    sums = [entropy * length for entropy, length in zip(entropies, lengths, strict=True)]
    return with_interval("rollout/entropy", clustered_ratio(sums, lengths, [rollout.group for rollout in rollouts]))


def _divergence(rollouts: Sequence[Rollout], *, budget: float | None) -> dict[str, float]:
    found: dict[str, float] = {}
    kl = _complete(r.kl for r in rollouts)
    if kl:
        mean = clustered_mean(kl, [rollout.group for rollout in rollouts])
        # The estimate is unbiased and may be negative; the divergence is not.
        found |= {**with_interval("rollout/kl", mean), "rollout/kl_root": math.sqrt(max(mean.value, 0.0))}
        if budget is not None:
            found["rollout/kl_budget_share"] = mean.value / budget
    if largest := _complete(r.kl_token_max for r in rollouts):
        found["rollout/kl_token_max"] = max(largest)
    return found


def _scores(rollouts: Sequence[Rollout], *, p99: float | None) -> dict[str, float]:
    groups = [rollout.group for rollout in rollouts]
    found: dict[str, float] = {}
    scores, held_out = _complete(r.score for r in rollouts), _complete(r.held_out_score for r in rollouts)
    if scores:
        found |= with_interval("rollout/score", clustered_mean(scores, groups))
        if p99 is not None:
            found["rollout/score_above_p99"] = sum(score > p99 for score in scores) / len(scores)
    if held_out:
        found |= with_interval("rollout/held_out_score", clustered_mean(held_out, groups))
    return found


def _growth(
    rollouts: Sequence[Rollout], found: dict[str, float], reference: dict[str, float], *, slope: float | None
) -> dict[str, float]:
    """Length against the reference's; where the score has risen, the share of the gain that slope × ΔT explains."""
    usual = reference["reference/length_mean"]
    growth = {"rollout/length_ratio": found["rollout/length_mean"] / usual} if usual else {}
    if slope is None:
        own = length_slope(rollouts)
        slope = own.value if own is not None else None
    if slope is None or "rollout/score" not in found or "reference/score" not in reference:
        return growth
    gain = found["rollout/score"] - reference["reference/score"]
    if gain > 0:
        growth["rollout/length_gain_share"] = slope * (found["rollout/length_mean"] - usual) / gain
    return growth


def length_slope(rollouts: Sequence[Rollout]) -> Estimate | None:
    """Slope of the score on length within a prompt, nats a token; None where no prompt has two lengths and scores."""
    by_prompt: dict[str, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        by_prompt[rollout.prompt_id].append(rollout)
    products, squares, groups = [], [], []
    for several in by_prompt.values():
        scores = _complete(r.score for r in several)
        if not scores:
            return None
        lengths = [float(len(rollout.token_ids)) for rollout in several]
        middle_length, middle_score = sum(lengths) / len(lengths), sum(scores) / len(scores)
        pairs = zip(lengths, scores, strict=True)
        products.append(sum((t - middle_length) * (s - middle_score) for t, s in pairs))
        squares.append(sum((t - middle_length) ** 2 for t in lengths))
        groups.append(several[0].group)
    return clustered_ratio(products, squares, groups) if any(squares) else None


def _complete(values: Iterable[float | None]) -> list[float]:
    """The values of an optional figure; none at all where one of them is missing."""
    found = list(values)
    return [value for value in found if value is not None] if None not in found else []


# --- repetition -------------------------------------------------------------------------------------------------------


def duplicate_share(tokens: Tokens, *, order: int) -> float:
    """n-grams that stand in the completion a second time or more, by all of them; 0 for one that is shorter."""
    grams = _grams(tokens, order)
    return 1 - len(grams) / total if (total := grams.total()) else 0.0


def distinct_share(completions: Sequence[Tokens], *, order: int) -> float:
    """distinct-n: different n-grams of all completions together, by all of them; 1 where there are none.

    Source: Li et al. 2016, section 5.
    """
    grams: Counter[Gram] = Counter()
    for tokens in completions:
        grams.update(_grams(tokens, order))
    return len(grams) / total if (total := grams.total()) else 1.0


def self_bleu(completions: Sequence[Tokens]) -> float:
    """Mean BLEU-4 of each completion against all others, in [0, 1]; two completions or more. 1: all the same.

    Source: Zhu et al. 2018 (Texygen), section 2; smoothed for single sentences by adding 1 to both counts of the
    orders above 1 (Lin & Och 2004); counts clipped, brevity penalty of the nearest length (Papineni et al. 2002).
    """
    lengths = [len(tokens) for tokens in completions]
    logs = [0.0] * len(completions)  # Σ log precision over the orders
    for order in range(1, BLEU_ORDER + 1):
        counts = [_grams(tokens, order) for tokens in completions]
        most: dict[Gram, int] = {}
        second: dict[Gram, int] = {}  # the second most: that of the others where one completion leads
        for grams in counts:
            for gram, n in grams.items():
                if n > (lead := most.get(gram, 0)):
                    most[gram], second[gram] = n, lead
                elif n > second[gram]:
                    second[gram] = n
        for number, grams in enumerate(counts):
            matched = sum(min(n, second[gram] if n == most[gram] else most[gram]) for gram, n in grams.items())
            added = int(order > 1)
            precision = (matched + added) / max(grams.total() + added, 1)
            logs[number] += math.log(precision) if precision else -math.inf
    values = []
    for number, length in enumerate(lengths):
        others = lengths[:number] + lengths[number + 1 :]
        if length:
            nearest = min(others, key=lambda other: (abs(other - length), other))
            values.append(math.exp(logs[number] / BLEU_ORDER + min(0.0, 1 - nearest / length)))
        else:
            values.append(float(0 in others))
    return sum(values) / len(values)


def _grams(tokens: Tokens, order: int) -> Counter[Gram]:
    return Counter(tuple(tokens[start : start + order]) for start in range(len(tokens) - order + 1))
