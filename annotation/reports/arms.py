"""What choosing pairs by information has gained: the chosen comparisons against their random control.

Both arms are cut to the same number of votes, so that a larger arm is not taken for a better one. Their rankings are
judged on what neither has seen: control votes on other prompts, which are a fair draw of what could be asked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from annotation.asking import SourceVotes, source_votes
from annotation.models import Arm, Comparison, Project
from annotation.statistics.estimates import (
    BoolArray,
    Estimate,
    FloatArray,
    IntArray,
    Reason,
    group_totals,
    jackknife,
    missing,
    ratio,
)
from annotation.statistics.ranking import bradley_terry

FOLDS = 5
DRAWS = 20  # of the larger arm: its votes are more than are compared
FEWEST_VOTES = 20  # of an arm: below this its ranking is the prior's
DEFINITION = (
    "Votes between completions of different sources, of comparisons that were chosen by information and of their "
    "random control, cut to equal numbers of votes. Mean SE: of the difference of two sources' Bradley-Terry strengths "
    "(prior SD 1 logit). Information: growth of half the log-determinant of the information a vote, in nats. Log-loss: "
    "of control votes on prompts that were not fitted, a fifth of the prompts at a time; the interval is clustered by "
    "prompt."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmFigures:
    """One arm. The last three are None where `ArmsReport.reason` says why.

    Attributes:
        comparisons: made; votes, prompts: between different sources.
        mean_se: in logits; information: nats a vote; log_loss: of held-out control votes, nats a vote.
    """

    arm: Arm
    comparisons: int
    votes: int
    prompts: int
    mean_se: float | None = None
    information: float | None = None
    log_loss: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmsReport:
    """Both arms at `votes` each; `gain` is the control's log-loss less that of the chosen: above 0, choosing helps."""

    votes: int
    chosen: ArmFigures
    control: ArmFigures
    gain: Estimate
    reason: Reason | None = None


def arms(project: Project, *, seed: int = 0) -> ArmsReport:
    """The arms of a project at equal numbers of votes; the queries of `source_votes` and one more.

    Args:
        seed: draws the votes of the larger arm.
    """
    votes = source_votes(project)
    made = Comparison.objects.filter(project=project).exclude(arm="").values_list("arm", flat=True)
    counts = {arm: sum(value == arm for value in made) for arm in Arm}
    members = {arm: votes.arm == arm.value for arm in Arm}
    compared = min(int(own.sum()) for own in members.values())
    reason = _too_small(votes, members)
    figures = {arm: _plain(arm, counts[arm], votes, own, reason) for arm, own in members.items()}
    if reason is not None:
        return ArmsReport(
            votes=compared,
            chosen=figures[Arm.CHOSEN],
            control=figures[Arm.CONTROL],
            gain=missing(reason),
            reason=reason,
        )
    rng = np.random.default_rng(seed)
    for arm, own in members.items():
        mean_se, information = _precision(votes, np.flatnonzero(own), compared, rng)
        figures[arm] = replace(figures[arm], mean_se=mean_se, information=information)
    loss = _held_out(votes, members, rng)
    prompts = votes.prompt[members[Arm.CONTROL]]
    for column, arm in enumerate(Arm):
        figures[arm] = replace(figures[arm], log_loss=_mean(loss[:, column], prompts))
    gain = _mean(loss[:, list(Arm).index(Arm.CONTROL)] - loss[:, list(Arm).index(Arm.CHOSEN)], prompts)
    return ArmsReport(votes=compared, chosen=figures[Arm.CHOSEN], control=figures[Arm.CONTROL], gain=gain)


def _too_small(votes: SourceVotes, members: dict[Arm, BoolArray]) -> Reason | None:
    """Why the arms cannot be compared."""
    if any(not own.any() for own in members.values()):
        return Reason.NO_VOTES
    if any(own.sum() < FEWEST_VOTES for own in members.values()):
        return Reason.TOO_FEW_COMMON
    if any(len(np.unique(votes.prompt[own])) < FOLDS for own in members.values()):
        return Reason.TOO_FEW_GROUPS
    return None


def _plain(arm: Arm, comparisons: int, votes: SourceVotes, own: BoolArray, reason: Reason | None) -> ArmFigures:
    return ArmFigures(
        arm=arm,
        comparisons=comparisons,
        votes=int(own.sum()),
        prompts=len(np.unique(votes.prompt[own])),
        log_loss=missing(reason or Reason.NO_VOTES),
    )


def _precision(votes: SourceVotes, own: IntArray, size: int, rng: np.random.Generator) -> tuple[float, float]:
    """Mean SE of a difference and information a vote, over draws of `size` votes."""
    found = []
    n = len(votes.source)
    i, j = np.triu_indices(n, 1)
    for _ in range(DRAWS if len(own) > size else 1):
        _, cov = _fit(votes, rng.choice(own, size=size, replace=False))
        variance = np.diag(cov)[i] + np.diag(cov)[j] - 2 * cov[i, j]
        # Within the plane of sum zero, where the prior has the determinant 1.
        growth = -np.sum(np.log(np.sort(np.linalg.eigvalsh(cov))[1:])) / 2
        found.append((float(np.sqrt(np.maximum(variance, 0)).mean()), float(growth) / size))
    mean_se, information = np.mean(found, axis=0).tolist()
    return mean_se, information


def _held_out(votes: SourceVotes, members: dict[Arm, BoolArray], rng: np.random.Generator) -> FloatArray:
    """Log-loss of each control vote by the ranking of each arm from other prompts: [control votes, arms]."""
    control = members[Arm.CONTROL]
    prompts, code = np.unique(votes.prompt, return_inverse=True)
    fold = rng.permutation(len(prompts))[code] % FOLDS
    loss = np.zeros((len(votes.a), len(Arm)))
    for k in range(FOLDS):
        test = np.flatnonzero(control & (fold == k))
        seen = {arm: np.flatnonzero(own & (fold != k)) for arm, own in members.items()}
        size = min(len(own) for own in seen.values())
        for column, own in enumerate(seen.values()):
            draws = DRAWS if len(own) > size else 1
            for _ in range(draws):
                strength, _ = _fit(votes, rng.choice(own, size=size, replace=False))
                d = strength[votes.a[test]] - strength[votes.b[test]]
                y = votes.outcome[test]
                loss[test, column] += (y * np.logaddexp(0, -d) + (1 - y) * np.logaddexp(0, d)) / draws
    return loss[control]


def _fit(votes: SourceVotes, which: IntArray) -> tuple[FloatArray, FloatArray]:
    """Strengths and covariance from some of the votes; a source without any has the prior's."""
    fit = bradley_terry(votes.a[which], votes.b[which], votes.outcome[which], n=len(votes.source), rng=None)
    assert fit.cov is not None
    return np.where(np.isfinite(fit.strength), fit.strength, 0.0), fit.cov


def _mean(value: FloatArray, prompt: IntArray) -> Estimate:
    """Mean with its interval, by prompt."""
    totals = group_totals(np.column_stack([value, np.ones(len(value))]), prompt)
    return jackknife(
        totals,
        lambda sums: ratio(sums[:, 0], sums[:, 1]),
        n=len(value),
        bounds=(-np.inf, np.inf),
        undefined=Reason.NO_VOTES,
    )
