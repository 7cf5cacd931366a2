"""The ranking of a project's systems, which are the sources of its completions, from counted votes.

Strengths are natural-log odds with sum zero, intervals are clustered by prompt, and beside the plain ranking stand the
controlled one (at equal side, length and style) and the adjusted one (by the reliability and side bias of the people).

Shapes: V votes between different systems, C systems, W people, S completions of a comparison.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, assert_never
from uuid import UUID

import numpy as np

from annotation.models import Project, Source
from annotation.reports.systems import SystemVotes, load_system_votes, orders
from annotation.reports.votes import Member, members
from annotation.statistics.estimates import (
    Estimate,
    FloatArray,
    IntArray,
    Reason,
    missing,
    reason_of,
)
from annotation.statistics.ranking import (
    Ranking,
    WinRates,
    bradley_terry,
    crowd_bt,
    davidson,
    elo_curve,
    elo_scale,
    plackett_luce,
    rank_centrality,
    rao_kupper,
    win_matrix,
    win_rates,
)

ELO_POINTS = 200  # of a system's curve at most


class Model(StrEnum):
    """How strengths are estimated."""

    RAO_KUPPER = "rao_kupper"
    DAVIDSON = "davidson"
    BRADLEY_TERRY = "bradley_terry"
    CROWD_BT = "crowd_bt"
    PLACKETT_LUCE = "plackett_luce"
    RANK_CENTRALITY = "rank_centrality"


class Control(StrEnum):
    """What is held equal: how completions were shown, or who judged them."""

    SIDE = "side"
    LENGTH = "length"
    STYLE = "style"
    PEOPLE = "people"


@dataclass(frozen=True, kw_only=True, slots=True)
class Strength:
    """Of one system; None where the model gives none. `elo` is for display only."""

    strength: float | None
    se: float | None
    low: float | None
    high: float | None
    rank: int | None
    rank_low: int | None
    rank_high: int | None
    elo: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedSystem:
    """A source and what the rankings say of it.

    Attributes:
        votes: votes that it took part in, against other systems. comparisons: that these are on.
        component: systems with the same number can be compared.
    """

    id: UUID
    name: str
    votes: int
    comparisons: int
    component: int
    plain: Strength
    controlled: Strength | None
    adjusted: Strength | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """How an estimate went. `reason`: why strengths or their intervals are missing."""

    model: Model
    converged: bool
    log_likelihood: float | None
    tie_parameter: Estimate | None
    reason: Reason | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RankingAnnotator:
    """What Crowd-BT says of a person: P(a vote follows the strengths), and logits in favour of the left side."""

    person: Member
    votes: int
    follows: Estimate
    side_bias: Estimate | None


@dataclass(frozen=True, kw_only=True, slots=True)
class EloCurve:
    """A system's rating after so many votes. It depends on their order."""

    system: str
    votes: Sequence[int]
    rating: Sequence[float]


@dataclass(frozen=True, kw_only=True, slots=True)
class RankingReport:
    """The ranking of a project's systems, the strongest first.

    Attributes:
        votes: that entered the model. left_out: those between completions of one system, and what the model has no
            place for. win_rates: in the order of `systems`.
    """

    definition: str
    model: Model
    criterion: str | None
    controls: tuple[Control, ...]
    votes: int
    left_out: int
    prompts: int
    people: int
    both_bad: Estimate
    systems: tuple[RankedSystem, ...]
    fit: Fit
    controlled_fit: Fit | None
    adjusted_fit: Fit | None
    effects: tuple[tuple[Control, Estimate], ...]
    win_rates: WinRates | None
    annotators: tuple[RankingAnnotator, ...]
    elo: tuple[EloCurve, ...]


def ranking_report(
    project: Project, *, model: Model = Model.RAO_KUPPER, controls: Collection[Control] = (), criterion: str = ""
) -> RankingReport:
    """The ranking by a model, and beside it the controlled and the adjusted one; eight to ten queries.

    Raises:
        UnknownCriterion: the form has no such criterion.
    """
    wanted = tuple(control for control in Control if control in controls)
    votes = load_system_votes(project, criterion=criterion, with_marks=Control.STYLE in wanted)
    used, given = len(votes), len(votes.votes)
    if model is Model.PLACKETT_LUCE:
        ordered = orders(votes)
        plain = plackett_luce(ordered.systems, n=votes.n, group=ordered.prompt)
        used, given = len(ordered.systems), ordered.given
    else:
        plain = _of_pairs(model, votes)
    shown = [control for control in wanted if control is not Control.PEOPLE]
    controlled = _controlled(votes, shown) if shown else None
    adjusted = _adjusted(votes) if Control.PEOPLE in wanted else None
    crowd = adjusted if adjusted is not None else plain if model is Model.CROWD_BT else None
    order = np.lexsort((votes.source, -np.nan_to_num(plain.strength, nan=-np.inf)))
    named = {row.pk: row for row in Source.objects.filter(project=project, pk__in=votes.source.tolist())}
    names = _names([named[pk] for pk in votes.source.tolist()])
    return RankingReport(
        definition=_definition(model, wanted, criterion, votes),
        model=model,
        criterion=criterion or None,
        controls=wanted,
        votes=used,
        left_out=given - used,
        prompts=len(np.unique(votes.prompt)),
        people=len(np.unique(votes.annotator)),
        both_bad=votes.both_bad,
        systems=_systems(votes, order, named, names, (plain, controlled, adjusted)),
        fit=_fit(model, plain),
        controlled_fit=None if controlled is None else _fit(Model.BRADLEY_TERRY, controlled),
        adjusted_fit=None if adjusted is None else _fit(Model.CROWD_BT, adjusted),
        effects=() if controlled is None else tuple(zip(shown, _coefficients(controlled, len(shown)), strict=True)),
        win_rates=_win_rates(votes, order, plain if model is Model.BRADLEY_TERRY else None),
        annotators=() if crowd is None else _annotators(project, votes, crowd),
        elo=_curves(votes, order, names),
    )


def _definition(model: Model, controls: Sequence[Control], criterion: str, votes: SystemVotes) -> str:
    what = f"the criterion {criterion}" if criterion else "the main question"
    text = (
        f"Strengths of the sources of completions from counted votes on {what}, by {_SOURCES[model]}, in natural-log "
        "odds with sum zero and a prior of one logit; votes between two completions of one source are left out. "
        "Intervals are 95 % sandwich intervals clustered by prompt with Student t, those of ranks from 2,000 draws, "
        "those of win rates Wilson's with the design effect of prompts; the model's win rates are Bradley-Terry's. "
        "Elo depends on the order of the votes and is for display only."
    )
    shown = [control.value for control in controls if control is not Control.PEOPLE]
    if shown:
        text += (
            f" Controlled: Bradley-Terry (ties half a win) at equal {', '.join(shown)} (side left or right, length and "
            "style as log2 ratios of characters and of Markdown marks)."
        )
    if Control.PEOPLE in controls:
        text += " Adjusted: Crowd-BT (Chen et al. 2013), which learns how reliable each person is"
        text += " and how far they lean to a side." if votes.has_screens else "; not all votes have a known side."
    return text


_SOURCES = {
    Model.RAO_KUPPER: "Rao and Kupper's model of ties (1967)",
    Model.DAVIDSON: "Davidson's model of ties (1970)",
    Model.BRADLEY_TERRY: "Bradley and Terry's model (1952), a tie being half a win for each",
    Model.CROWD_BT: "Crowd-BT (Chen et al. 2013), a tie being half a win for each",
    Model.PLACKETT_LUCE: "Plackett and Luce's model of orders (1975) without ties",
    Model.RANK_CENTRALITY: "Rank Centrality (Negahban, Oh & Shah 2012), which has no intervals",
}


# --- models -----------------------------------------------------------------------------------------------------------


_Pairs = Literal[Model.RAO_KUPPER, Model.DAVIDSON, Model.BRADLEY_TERRY, Model.CROWD_BT, Model.RANK_CENTRALITY]


def _of_pairs(model: _Pairs, votes: SystemVotes) -> Ranking:
    a, b, outcome, n, group = votes.a, votes.b, votes.outcome, votes.n, votes.prompt
    match model:
        case Model.RAO_KUPPER:
            return rao_kupper(a, b, outcome, n=n, group=group)
        case Model.DAVIDSON:
            return davidson(a, b, outcome, n=n, group=group)
        case Model.BRADLEY_TERRY:
            return bradley_terry(a, b, outcome, n=n, group=group)
        case Model.CROWD_BT:
            return crowd_bt(a, b, outcome, votes.annotator, n=n, n_annotators=len(votes.user), group=group)
        case Model.RANK_CENTRALITY:
            return rank_centrality(win_matrix(a, b, outcome, n=n))
        case _:
            assert_never(model)


def _controlled(votes: SystemVotes, controls: Sequence[Control]) -> Ranking:
    columns = {
        Control.SIDE: np.where(votes.a_left < 0, 0.0, 2.0 * votes.a_left - 1),
        Control.LENGTH: votes.length,
        Control.STYLE: votes.style,
    }
    covariates = np.column_stack([columns[control] for control in controls])
    return bradley_terry(votes.a, votes.b, votes.outcome, n=votes.n, group=votes.prompt, covariates=covariates)


def _coefficients(ranking: Ranking, k: int) -> Sequence[Estimate]:
    """The effects of k covariates, which do not exist where strengths do not."""
    reason = _why(ranking) or Reason.NO_VOTES
    return ranking.coefficients or [missing(reason, method="sandwich")] * k


def _why(ranking: Ranking) -> Reason | None:
    """The most frequent reason why systems have no strength, or no interval."""
    reasons = ranking.reason[ranking.reason > 0]
    return reason_of(int(np.bincount(reasons).argmax())) if len(reasons) else None


def _adjusted(votes: SystemVotes) -> Ranking:
    left = votes.a_left == 1 if votes.has_screens else None
    return crowd_bt(
        votes.a, votes.b, votes.outcome, votes.annotator, left, n=votes.n,
        n_annotators=len(votes.user), bias=left is not None, group=votes.prompt,
    )  # fmt: skip


# --- what to show -----------------------------------------------------------------------------------------------------


def _number(values: FloatArray | IntArray | None, i: int) -> float | None:
    if values is None:
        return None
    value = float(values[i])
    return value if np.isfinite(value) else None


def _place(values: IntArray | None, i: int) -> int | None:
    return None if values is None or values[i] < 1 else int(values[i])


def strengths(ranking: Ranking) -> list[Strength]:
    """What a ranking says of each system; ranks are among those that can be compared."""
    s = ranking.strength
    known = np.isfinite(s)
    same = ranking.component[:, None] == ranking.component[None, :]
    rank = 1 + np.sum(same & (np.nan_to_num(s)[None, :] > np.nan_to_num(s)[:, None]) & known[None, :], axis=1)
    shown = elo_scale(s)
    return [
        Strength(
            strength=_number(s, i),
            se=_number(ranking.se, i),
            low=_number(ranking.low, i),
            high=_number(ranking.high, i),
            rank=int(rank[i]) if known[i] else None,
            rank_low=_place(ranking.rank_low, i),
            rank_high=_place(ranking.rank_high, i),
            elo=_number(shown, i),
        )
        for i in range(len(s))
    ]


def _names(sources: Sequence[Source]) -> list[str]:
    """What systems are called: by kind too, where two have one name."""
    names = [source.name for source in sources]
    return [
        f"{source.name} ({source.kind})" if names.count(source.name) > 1 else source.name for source in sources
    ]  # fmt: skip


def _systems(
    votes: SystemVotes,
    order: IntArray,
    named: dict[int, Source],
    names: Sequence[str],
    rankings: tuple[Ranking, Ranking | None, Ranking | None],
) -> tuple[RankedSystem, ...]:
    plain, controlled, adjusted = (None if ranking is None else strengths(ranking) for ranking in rankings)
    assert plain is not None
    taken = np.bincount(np.concatenate([votes.a, votes.b]), minlength=votes.n)
    met = np.unique(np.column_stack([np.concatenate([votes.a, votes.b]), np.tile(votes.comparison, 2)]), axis=0)
    on = np.bincount(met[:, 0], minlength=votes.n)
    return tuple(
        RankedSystem(
            id=named[int(votes.source[i])].public_id,
            name=names[i],
            votes=int(taken[i]),
            comparisons=int(on[i]),
            component=int(rankings[0].component[i]),
            plain=plain[i],
            controlled=None if controlled is None else controlled[i],
            adjusted=None if adjusted is None else adjusted[i],
        )
        for i in order.tolist()
    )


def _fit(model: Model, ranking: Ranking) -> Fit:
    votes = int(ranking.n_votes.sum()) // 2
    tie = None
    if ranking.tie_parameter is not None:
        tie = Estimate(
            value=ranking.tie_parameter, low=ranking.tie_low, high=ranking.tie_high, method="sandwich", n=votes,
            n_groups=ranking.n_groups, reason=Reason.TOO_FEW_GROUPS if ranking.n_groups < 2 else None,
        )  # fmt: skip
    return Fit(
        model=model,
        converged=ranking.converged,
        log_likelihood=ranking.loglik,
        tie_parameter=tie,
        reason=_why(ranking),
        warnings=tuple(str(warning) for warning in ranking.warnings),
    )


def _win_rates(votes: SystemVotes, order: IntArray, ranking: Ranking | None) -> WinRates | None:
    """Rates with rows and columns in this order; None without votes."""
    if not len(votes):
        return None
    found = win_rates(
        votes.a, votes.b, votes.outcome, n=votes.n, group=votes.prompt, ranking=ranking
    )  # fmt: skip
    square = np.ix_(order, order)
    return WinRates(
        rate=found.rate[square],
        low=found.low[square],
        high=found.high[square],
        n_votes=found.n_votes[square],
        n_groups=found.n_groups[square],
        model=found.model[square],
        reason=found.reason[square],
        model_reason=found.model_reason[square],
    )


def _annotators(project: Project, votes: SystemVotes, ranking: Ranking) -> tuple[RankingAnnotator, ...]:
    """People with votes between different systems, the busiest first. One query."""
    fit = ranking.annotators
    if fit is None:
        return ()
    given = np.bincount(votes.annotator, minlength=len(votes.user))
    known = members(project, votes.user.tolist())
    found = []
    for w in np.lexsort((votes.user, -given)).tolist():
        if not given[w]:
            continue

        def estimate(values: FloatArray, low: FloatArray | None, high: FloatArray | None, w: int = w) -> Estimate:
            value, ends = _number(values, w), (_number(low, w), _number(high, w))
            if value is None:
                return missing(reason_of(int(fit.reason[w])) or Reason.NO_VOTES, method="laplace")
            n = int(given[w])
            return Estimate(value=value, low=ends[0], high=ends[1], method="laplace", n=n, n_groups=n)

        found.append(
            RankingAnnotator(
                person=known[int(votes.user[w])],
                votes=int(given[w]),
                follows=estimate(fit.eta, fit.eta_low, fit.eta_high),
                side_bias=None if fit.bias is None else estimate(fit.bias, fit.bias_low, fit.bias_high),
            )
        )
    return tuple(found)


def _curves(votes: SystemVotes, order: IntArray, names: Sequence[str]) -> tuple[EloCurve, ...]:
    after, ratings = elo_curve(votes.a, votes.b, votes.outcome, n=votes.n, points=ELO_POINTS)
    return tuple(
        EloCurve(system=names[i], votes=after.tolist(), rating=ratings[:, i].tolist()) for i in order.tolist()
    )  # fmt: skip
