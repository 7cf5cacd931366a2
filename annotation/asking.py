"""Which pairs to ask for next across the prompts of a project: those whose vote tells most, beside a random control.

The control is always there and every comparison says which arm it is in, so that what choosing gains is measured
(`annotation.reports.arms`), not believed. Chooses only: `pairing` and rounds make the comparisons.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import numpy.typing as npt

from annotation import vote_arrays
from annotation.errors import Invalid
from annotation.meetings import Candidate, Meeting, Rule, Strategy
from annotation.models import Arm, Comparison, ComparisonCompletion, ConsensusState, Project
from annotation.statistics.acquisition import Objective, Selection, pair_gain, select_pairs, select_top
from annotation.statistics.estimates import FloatArray, IntArray
from annotation.statistics.ranking import bradley_terry


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceVotes:
    """The counted votes between completions of different sources.

    Attributes:
        a, b: [V] places in `source`. outcome: [V] 1 for a, ½ for a tie, 0 for b. prompt, arm, comparison: [V].
        source: [S] primary keys.
        waiting: [P, 2] places of the pairs that are open and have no vote yet.
    """

    a: IntArray
    b: IntArray
    outcome: FloatArray
    prompt: IntArray
    arm: npt.NDArray[np.str_]
    comparison: IntArray
    source: IntArray
    waiting: IntArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What the votes so far say of sources: strengths in logits [S] and their covariance [S, S].

    A source without votes has the prior's: strength 0, variance about 1.
    """

    source: IntArray
    mean: FloatArray
    cov: FloatArray


def source_votes(project: Project, *, also: Collection[int] = ()) -> SourceVotes:
    """Five queries.

    Args:
        also: primary keys of sources that are to be in `source` though they may have no votes.
    """
    arrays = vote_arrays.load(project, counted=True)
    pairs = list(combinations(range(project.feedback.size), 2))
    written_by: dict[int, dict[int, int]] = defaultdict(dict)
    places = ComparisonCompletion.objects.filter(comparison__project=project)
    for key, position, writer in places.values_list("comparison_id", "position", "completion__source_id"):
        written_by[key][position] = writer
    rows = Comparison.objects.filter(project=project).values_list("pk", "prompt_id", "arm", "consensus__state", "gold")
    about = {pk: (prompt, arm) for pk, prompt, arm, _, _ in rows}
    judged = arrays.comparison.tolist()
    still_open = {pk for pk, _, _, state, gold in rows if state == ConsensusState.OPEN and gold is None}
    who = [[written_by[pk][place] for place in pairs[pair]] for pk, pair in zip(judged, arrays.pair, strict=True)]
    asked = [[written_by[pk][i], written_by[pk][j]] for pk in sorted(still_open - set(judged)) for i, j in pairs]
    both = np.array(who + asked, dtype=np.int64).reshape(-1, 2)
    source, code = np.unique(np.concatenate([both.ravel(), sorted(also)]).astype(np.int64), return_inverse=True)
    codes = code[: both.size].reshape(-1, 2)
    differ = codes[:, 0] != codes[:, 1]
    counts = differ[arrays.item]
    item = arrays.item[counts]
    return SourceVotes(
        a=codes[item, 0],
        b=codes[item, 1],
        outcome=1 - arrays.label[counts] / (arrays.K - 1),
        prompt=np.array([about[pk][0] for pk in judged], dtype=np.int64)[item],
        arm=np.array([about[pk][1] for pk in judged], dtype=np.str_)[item],
        comparison=arrays.comparison[item],
        source=source,
        waiting=codes[len(who) :][differ[len(who) :]],
    )


def standing(project: Project, *, sources: Collection[int]) -> Standing:
    """The ranking that the counted votes give to all sources of a project, with the default prior.

    Comparisons that wait for their first vote count as answered in the covariance: nothing is asked twice.
    """
    votes = source_votes(project, also=sources)
    fit = bradley_terry(votes.a, votes.b, votes.outcome, n=len(votes.source), rng=None)
    assert fit.cov is not None
    mean = np.where(np.isfinite(fit.strength), fit.strength, 0.0)
    now = Standing(source=votes.source, mean=mean, cov=fit.cov)
    return replace(now, cov=once_answered(now, contrasts(votes.waiting, n=len(mean))))


def contrasts(pairs: IntArray, *, n: int) -> FloatArray:
    """e_i − e_j of pairs [P, 2] of `n` sources: [P, n]."""
    unit = np.eye(n)
    return unit[pairs[:, 0]] - unit[pairs[:, 1]]


def check_rule(rule: Rule, *, size: int) -> None:
    """Refuse what cannot span prompts.

    Raises:
        Invalid: not two completions meet, or there is no room for a control.
    """
    if size != 2:
        raise Invalid(
            f"strategy: {rule.strategy} chooses pairs, and {size} completions meet in this project",
            details={"strategy": ["for pairs only"]},
        )
    if not 0 < rule.control_share <= 1:
        raise Invalid(
            f"control_share: above 0 and at most 1, got {rule.control_share}; without a control nothing is measured",
            details={"control_share": ["above 0 and at most 1"]},
        )


Pick = Callable[[IntArray, IntArray, int, float], Selection]
"""From the places of candidates that are left, those taken so far, a number and the control's share to more places."""


def choose_across(
    project: Project,
    candidates: Sequence[Candidate],
    rule: Rule,
    *,
    scores: Mapping[str, Mapping[int, float]] | None = None,
    is_whole: bool = True,
) -> list[Meeting]:
    """Meetings among candidates of many prompts, with their arms: at most `per_prompt` (1) of each, and `total`.

    Args:
        scores: by scorer and completion key, for `disagreement`.
        is_whole: whether these are all, so that at least one is a control; else they are some of many, and the
            control's share is kept over all of them.

    Raises:
        Invalid: fewer than two scorers for `disagreement`.
    """
    if not candidates:
        return []
    # By content as well: the parts of a round must not all draw alike.
    rng = np.random.default_rng([rule.seed, int(candidates[0].hash[:16], 16)])
    if rule.strategy is Strategy.INFORMATION:
        return _take(candidates, rule, _by_information(project, candidates, rule, rng), is_whole=is_whole, rng=rng)
    assert rule.strategy is Strategy.DISAGREEMENT
    gain = disagreement(candidates, scores or {})

    def pick(left: IntArray, taken: IntArray, size: int, explore: float) -> Selection:
        found = select_top(gain[left], size=size, explore=explore, rng=rng)
        return Selection(index=left[found.index], explored=found.explored)

    return _take(candidates, rule, pick, is_whole=is_whole, rng=rng)


def _take(
    candidates: Sequence[Candidate], rule: Rule, pick: Pick, *, is_whole: bool, rng: np.random.Generator
) -> list[Meeting]:
    """Pick again while room is left: a pick falls away where its prompt is full or the texts are nearly the same."""
    prompts = np.array([item.prompt.pk for item in candidates])
    room = Counter(prompts.tolist())
    wanted = sum(min(n, rule.limit) for n in room.values())
    wanted = wanted if rule.total is None else min(wanted, rule.total)
    controls = max(int(is_whole), math.floor(rule.control_share * wanted + rng.random()))
    full: Counter[int] = Counter()
    is_left = np.ones(len(candidates), dtype=bool)
    taken: dict[int, Meeting] = {}
    while len(taken) < wanted and is_left.any():
        size = wanted - len(taken)
        explore = (controls - sum(made.arm is Arm.CONTROL for made in taken.values())) / size
        found = pick(np.flatnonzero(is_left), np.array(list(taken), dtype=np.int64), size, min(max(explore, 0.0), 1.0))
        for i, explored in zip(found.index.tolist(), found.explored, strict=True):
            key = int(prompts[i])
            if full[key] >= rule.limit:
                continue
            is_left[i] = False
            made = candidates[i].meeting(Arm.CONTROL if explored else Arm.CHOSEN)
            if made is not None:
                taken[i] = made
                full[key] += 1
        is_left &= ~np.isin(prompts, [key for key, n in full.items() if n >= rule.limit])
    return list(taken.values())


def _by_information(project: Project, candidates: Sequence[Candidate], rule: Rule, rng: np.random.Generator) -> Pick:
    """Picks by what a vote tells of the ranking; candidates of the same two sources are alike, so one is drawn."""
    pairs = [tuple(one.source_id for one in item.completions) for item in candidates]
    now = standing(project, sources={key for pair in pairs for key in pair})
    kinds, kind = np.unique(np.searchsorted(now.source, np.array(pairs)), axis=0, return_inverse=True)
    x = contrasts(kinds, n=len(now.source))
    kind = kind.reshape(-1)

    def pick(left: IntArray, taken: IntArray, size: int, explore: float) -> Selection:
        found = select_pairs(
            x, mean=now.mean, cov=once_answered(now, x[kind[taken]]), size=size, objective=rule.objective,
            explore=explore, room=np.bincount(kind[left], minlength=len(x)), rng=rng,
        )  # fmt: skip
        queue: dict[int, list[int]] = defaultdict(list)
        for i in rng.permutation(left).tolist():
            queue[int(kind[i])].append(i)
        index = np.array([queue[code].pop() for code in found.index.tolist()], dtype=np.int64)
        return Selection(index=index, explored=found.explored)

    return pick


def once_answered(now: Standing, x: FloatArray) -> FloatArray:
    """The covariance with a vote on each of these contrasts in it; pseudo-inverses, since strengths sum to zero."""
    p = 1 / (1 + np.exp(-(x @ now.mean)))
    information = np.linalg.pinv(now.cov, rcond=1e-10, hermitian=True) + (x.T * (p * (1 - p))) @ x
    return np.asarray(np.linalg.pinv(information, rcond=1e-10, hermitian=True))


def disagreement(candidates: Sequence[Candidate], scores: Mapping[str, Mapping[int, float]]) -> FloatArray:
    """What the scorers disagree on of each pair, in nats: BALD of their score differences.

    Scores are standardised per scorer over the candidates' completions, since every reward model has its own scale.

    Raises:
        Invalid: fewer than two scorers.
    """
    if len(scores) < 2:
        raise Invalid(
            f"scorers: disagreement needs two scorers or more, got {len(scores)}",
            details={"scorers": ["at least two"]},
        )
    pairs = [item.completions for item in candidates]
    keys, code = np.unique(np.array([[one.pk for one in pair] for pair in pairs]), return_inverse=True)
    places = code.reshape(-1, 2)
    value = np.array([[own[int(key)] for key in keys] for own in scores.values()])  # [M, completions]
    spread = value.std(axis=1, keepdims=True)
    standard = (value - value.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
    return pair_gain(standard[:, places[:, 0]] - standard[:, places[:, 1]], objective=Objective.BALD)
