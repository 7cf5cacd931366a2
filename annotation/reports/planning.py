"""How much to ask for: what so many pairs and votes would tell, by what the project has measured so far.

Every figure that is not given and not measured is an assumption, and is named as one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from django.db.models import Count
from scipy.stats import binom

from annotation import vote_arrays
from annotation.models import Comparison, OverlapRule, Project, Source
from annotation.statistics.acquisition import (
    design_effect,
    expected_votes,
    groups_for_half_width,
    items_for_accuracy,
    votes_for_bt_se,
    votes_for_win_rate,
)
from annotation.statistics.aggregation import vote_counts
from annotation.statistics.agreement import krippendorff_alpha, percent_agreement
from annotation.statistics.estimates import Estimate

POWER_QUANTILES = 2.8016  # z_.975 + z_.80: a difference of so many standard errors is found in four of five cases
ASSUMED = {"win_rate": 0.55, "half_width": 0.03, "accuracy": 0.8, "icc": 0.1, "agreement": 0.7}
DEFINITION = (
    "Two-sided tests at 5 % with 80 % power, intervals at 95 %. Pairs of one prompt resemble each other: numbers are "
    "multiplied by 1 + (pairs per prompt − 1) × icc. The answer of a pair counts once, however many votes it has."
)


class Origin(StrEnum):
    """Where a figure of a plan comes from."""

    GIVEN = "given"
    MEASURED = "measured"
    ASSUMED = "assumed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a person wants to know; None: what the project has measured, else what is assumed.

    Attributes:
        win_rate: to be told from a half, also between two of the systems. half_width: of intervals of accuracy and
            alpha. accuracy: expected of a model. systems: to be ranked. icc: correlation of pairs of one prompt.
    """

    win_rate: float | None = None
    half_width: float | None = None
    accuracy: float | None = None
    systems: int | None = None
    pairs_per_prompt: float | None = None
    icc: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A number that the plan rests on."""

    name: str
    value: float
    origin: Origin


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """What so much gives, in numbers and as a sentence."""

    what: str
    pairs: int
    votes_per_pair: float
    votes: int
    prompts: int
    sentence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Lines and what they rest on."""

    figures: list[Figure]
    lines: list[Line]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Measured:
    """What the project's counted votes say; None where they say nothing."""

    agreement: Estimate
    alpha: Estimate
    pairs_per_prompt: float | None
    icc: float | None
    systems: int


def plan(project: Project, asked: Asked) -> Plan:
    """Power planning for a project. Seven queries."""
    measured = _measure(project)
    agreement = None if measured.agreement.value is None else max(0.5, measured.agreement.value)
    figures = {
        name: _figure(name, getattr(asked, name, None), value)
        for name, value in {
            "win_rate": None,
            "half_width": None,
            "accuracy": None,
            "systems": measured.systems if measured.systems >= 2 else None,
            "pairs_per_prompt": measured.pairs_per_prompt,
            "icc": measured.icc,
            "agreement": agreement,
        }.items()
    }
    of = {name: figure.value for name, figure in figures.items()}
    lines = [
        _win_rate(project, of),
        _accuracy(project, of),
        _ranking(project, of),
        *_labels(project, of),
        *_alpha(project, of, measured.alpha),
    ]
    return Plan(figures=list(figures.values()), lines=lines)


def _figure(name: str, given: float | None, measured: float | None) -> Figure:
    if given is not None:
        return Figure(name=name, value=given, origin=Origin.GIVEN)
    if measured is not None:
        return Figure(name=name, value=measured, origin=Origin.MEASURED)
    fallback = {**ASSUMED, "systems": 2, "pairs_per_prompt": 1.0}
    return Figure(name=name, value=fallback[name], origin=Origin.ASSUMED)


def _measure(project: Project) -> _Measured:
    votes = vote_arrays.load(project, counted=True)
    prompt = dict(Comparison.objects.filter(project=project).values_list("pk", "prompt_id"))
    group = np.array([prompt[pk] for pk in votes.comparison.tolist()], dtype=np.int64)
    counts = vote_counts(votes.item, votes.label, n_items=len(group), K=votes.K)
    agreement = percent_agreement(counts, group=group)
    sources = Source.objects.filter(project=project).annotate(n=Count("completions")).filter(n__gt=0).count()
    pairs = len(prompt) / len(set(prompt.values())) if prompt else None
    return _Measured(
        agreement=agreement,
        alpha=krippendorff_alpha(counts, group=group),
        pairs_per_prompt=pairs,
        icc=_icc(agreement),
        systems=sources,
    )


def _icc(agreement: Estimate) -> float | None:
    """ρ by which the jackknife's variance exceeds that of independent items: deff = 1 + (m − 1)ρ."""
    p, m = agreement.value, agreement.n / max(1, agreement.n_groups)
    if p is None or agreement.se is None or not 0 < p < 1 or m <= 1:
        return None
    deff = agreement.se**2 * agreement.n / (p * (1 - p))
    return min(max((deff - 1) / (m - 1), 0.0), 1.0)


def _line(project: Project, of: dict[str, float], what: str, answers: int, gives: str) -> Line:
    """Pairs that give so many independent answers, and the votes and prompts that they take."""
    overlap = project.overlap if project.overlap_rule == OverlapRule.FIXED else project.min_votes
    pairs = math.ceil(answers * design_effect(of["pairs_per_prompt"], icc=of["icc"]))
    votes, prompts = pairs * overlap, math.ceil(pairs / of["pairs_per_prompt"])
    sentence = f"{pairs:,} pairs × {overlap} votes ({votes:,} votes, {prompts:,} prompts) give {gives}."
    return Line(what=what, pairs=pairs, votes_per_pair=overlap, votes=votes, prompts=prompts, sentence=sentence)


def _win_rate(project: Project, of: dict[str, float]) -> Line:
    rate = of["win_rate"]
    gives = f"a win rate of {rate:.1%} told from a half in four of five cases"
    return _line(project, of, "win_rate", votes_for_win_rate(rate), gives)


def _accuracy(project: Project, of: dict[str, float]) -> Line:
    p, h = of["accuracy"], of["half_width"]
    return _line(
        project, of, "accuracy", items_for_accuracy(p, half_width=h), f"an accuracy of {p:.1%} known to ± {h:.1%}"
    )


def _ranking(project: Project, of: dict[str, float]) -> Line:
    rate, systems = of["win_rate"], round(of["systems"])
    se = abs(math.log(rate / (1 - rate))) / POWER_QUANTILES
    gives = f"{systems} systems ranked so that two of them at {rate:.1%} are told apart in four of five cases"
    return _line(project, of, "ranking", votes_for_bt_se(se, n_systems=systems), gives)


def _labels(project: Project, of: dict[str, float]) -> list[Line]:
    """How right labels are: a vote is right with a, two agree with a² + (1−a)²."""
    accuracy = (1 + math.sqrt(max(0.0, 2 * of["agreement"] - 1))) / 2
    if not 0.5 < accuracy < 1:
        return []
    pairs = Comparison.objects.filter(project=project).count()
    if project.overlap_rule == OverlapRule.ADAPTIVE and 0.5 < project.stop_at < 1:
        k = min(max(expected_votes(accuracy, tau=project.stop_at), project.min_votes), project.max_votes)
        right = project.stop_at
    else:
        k = float(project.overlap)
        right = majority_accuracy(accuracy, project.overlap)
    sentence = (
        f"{pairs:,} pairs × {k:.1f} votes give labels that are right in about {right:.0%} of the pairs, where a single "
        f"vote is in {accuracy:.0%}."
    )
    prompts = math.ceil(pairs / of["pairs_per_prompt"])
    votes = math.ceil(pairs * k)
    return [Line(what="labels", pairs=pairs, votes_per_pair=k, votes=votes, prompts=prompts, sentence=sentence)]


def majority_accuracy(accuracy: float, votes: int) -> float:
    """P(the majority of so many independent votes is right), an even split half."""
    return float(binom.sf(votes // 2, votes, accuracy) + (votes % 2 == 0) * binom.pmf(votes // 2, votes, accuracy) / 2)


def _alpha(project: Project, of: dict[str, float], alpha: Estimate) -> list[Line]:
    if alpha.value is None or alpha.se is None or alpha.low is None or alpha.high is None or alpha.se == 0:
        return []
    half = (alpha.high - alpha.low) / 2
    prompts = groups_for_half_width(alpha.n_groups, half_width=half, wanted=of["half_width"])
    pairs = math.ceil(prompts * of["pairs_per_prompt"])
    k = max(2, project.overlap)
    sentence = (
        f"{pairs:,} pairs × {k} votes ({prompts:,} prompts) give an alpha known to ± {of['half_width']:.3f}; with "
        f"{alpha.n_groups:,} prompts it is ± {half:.3f}."
    )
    return [Line(what="alpha", pairs=pairs, votes_per_pair=k, votes=pairs * k, prompts=prompts, sentence=sentence)]
