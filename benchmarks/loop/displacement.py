"""Likelihood displacement: does CHES tell before training which pairs push down what people chose, and what helps?

DPO raises the margin of a pair; where its completions look alike to the model, both can fall, and the probability goes
elsewhere (Razin et al. 2024, arXiv 2410.08847). The tenths of words and of natural pairs with the highest and the
lowest CHES are trained on apart (`moved.py`). The remedies are the engine's own options, `dpo.drop_similar` and
`dpo.nll_weight`. Whether CHES or the head's figure foretells the fall of a word is measured, not assumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from benchmarks.loop.experiment import Experiment, Findings, Lab, cell, worded
from benchmarks.loop.moved import (
    ARMS,
    NATURAL,
    WORDS,
    Moved,
    Trial,
    measured,
    natural_pairs,
    train_and_read,
    word_pairs,
)
from benchmarks.loop.results import (
    Across,
    Cell,
    Chart,
    Claim,
    Column,
    Kind,
    Line,
    Point,
    Scale,
    Series,
    Table,
    XAxis,
    YAxis,
)
from benchmarks.loop.steps import for_each
from training.engine import evaluate
from training.engine.evaluate import clustered_mean, clustered_share, correlation
from training.engine.text import Text, load_text

MOST_GAINING = 4
"""Words of an arm that are named for what they gained."""
FIFTHS = 5


def run(lab: Lab) -> Findings:
    """Measure the candidates of both kinds once, then train and measure every arm under every seed."""
    drawn = {WORDS: word_pairs(lab), NATURAL: natural_pairs(lab)}
    candidates = dict(zip(drawn, for_each(list(drawn), lambda kind: measured(lab, kind, drawn[kind])), strict=True))
    trials = [train_and_read(lab, candidates, seed) for seed in lab.seeds]
    return findings(trials, lab.settings, text=load_text(lab.steps.base))


def findings(trials: Sequence[Trial], settings: Mapping[str, Any], *, text: Text) -> Findings:
    """Tables, charts and claims out of what every arm moved."""
    return Findings(
        tables=[arm_table(trials), foretelling_table(trials), gain_table(trials, text)],
        charts=[arm_chart(trials), rank_chart(trials)],
        claims=claims(trials),
        reading=reading(trials, settings),
    )


def mean_of(trials: Sequence[Trial], arm: str, what: str) -> evaluate.Estimate:
    """Mean of `chosen`, `rejected` or `margin` over the trained pairs of all seeds, nats; the interval is by prompt."""
    kept = [one for trial in trials for one in trial.moved[arm] if one.trained]
    return clustered_mean([_value(one, what) for one in kept], [one.prompt for one in kept])


def gained_over(trials: Sequence[Trial], arm: str, other: str) -> evaluate.Estimate:
    """How much higher the chosen completions end in one arm than in another one of the same draw, pair by pair."""
    differences, groups = [], []
    for trial in trials:
        beside = {one.id: one.chosen for one in trial.moved[other]}
        kept = [one for one in trial.moved[arm] if one.trained]
        differences += [one.chosen - beside[one.id] for one in kept]
        groups += [one.prompt for one in kept]
    return clustered_mean(differences, groups)


def _value(one: Moved, what: str) -> float:
    return {"chosen": one.chosen, "rejected": one.rejected, "margin": one.margin}[what]


def difference(first: evaluate.Estimate, second: evaluate.Estimate) -> evaluate.Estimate:
    """first − second of two arms that are independent of each other, by the squares of their reaches."""
    value = first.value - second.value
    reach = ((first.high - first.value) ** 2 + (second.high - second.value) ** 2) ** 0.5
    return evaluate.Estimate(value=value, low=value - reach, high=value + reach)


def below_zero(estimate: evaluate.Estimate) -> bool | None:
    """True or False where the interval says so; None where 0 is in it."""
    if estimate.high < 0:
        return True
    return False if estimate.low > 0 else None


def above_zero(estimate: evaluate.Estimate) -> bool | None:
    below = below_zero(estimate)
    return None if below is None else not below


def both(first: bool | None, second: bool | None) -> bool | None:
    """Both hold; False where one fails, None where nothing fails and something is open."""
    if first is False or second is False:
        return False
    return None if first is None or second is None else True


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's: Pearson's of the ranks, equal values in the order they come."""
    return correlation(_ranks(first), _ranks(second))


def _ranks(values: Sequence[float]) -> list[float]:
    ranks = [0.0] * len(values)
    for rank, place in enumerate(sorted(range(len(values)), key=lambda index: values[index])):
        ranks[place] = float(rank)
    return ranks


def _by_seed(trials: Sequence[Trial], arm: str, what: str) -> str:
    return "; ".join(f"{mean_of([trial], arm, what).value:+.2f}" for trial in trials)


def _pairs_of(trials: Sequence[Trial], arm: str) -> list[Moved]:
    return [one for trial in trials for one in trial.moved[arm] if one.trained]


def arm_table(trials: Sequence[Trial]) -> Table:
    rows: list[dict[str, Cell]] = []
    for arm in ARMS:
        some = _pairs_of(trials, arm.key)
        falling = clustered_share([float(one.chosen < 0) for one in some], [one.prompt for one in some])
        ches = [trial.foretold[one.id][0] for trial in trials for one in trial.moved[arm.key] if one.trained]
        rows.append(
            {
                "arm": arm.label,
                "pairs": float(len(some)),
                "ches": sum(ches) / len(ches),
                **{
                    what: cell(mean_of(trials, arm.key, what), n=len(some)) for what in ("chosen", "rejected", "margin")
                },
                "falling": cell(falling, n=len(some)),
                "seeds": _by_seed(trials, arm.key, "chosen"),
            }
        )
    return Table(
        title="What DPO did to the pairs that it was trained on",
        note="Changes of log π since the start, means over pairs and seeds, intervals by prompt.",
        columns=[
            Column(key="arm", label="Trained on"),
            Column(key="pairs", label="Pairs"),
            Column(key="ches", label="Mean CHES a token"),
            Column(key="chosen", label="Chosen", unit="nats"),
            Column(key="rejected", label="Rejected", unit="nats"),
            Column(key="margin", label="Margin", unit="nats"),
            Column(key="falling", label="Chosen that fell", unit="share"),
            Column(key="seeds", label="Chosen, by seed"),
        ],
        rows=rows,
    )


def foretelling_table(trials: Sequence[Trial]) -> Table:
    rows: list[dict[str, Cell]] = []
    for key, label in (("words_any", "Words"), ("natural_any", "Natural")):
        for trial in trials:
            some = [one for one in trial.moved[key] if one.trained]
            changes = [one.chosen for one in some]
            told = [trial.foretold[one.id] for one in some]
            heads = [head for _, head in told if head is not None]
            rows.append(
                {
                    "pairs": label,
                    "seed": str(trial.seed),
                    "ches": rank_correlation([ches for ches, _ in told], changes),
                    "head": rank_correlation(heads, changes) if heads else None,
                }
            )
    return Table(
        title="What foretells the change of the chosen completion",
        note="Rank correlation with the change of log π(chosen) in a draw from all pairs; below 0 as published.",
        columns=[
            Column(key="pairs", label="Pairs"),
            Column(key="seed", label="Seed"),
            Column(key="ches", label="CHES"),
            Column(key="head", label="Figure of the head"),
        ],
        rows=rows,
    )


def gaining(trials: Sequence[Trial], arm: str) -> list[tuple[int, float]]:
    """The words that gained the most probability in the first one's place, with their mean gain."""
    gains = [one.gains for one in _pairs_of(trials, arm) if one.gains is not None]
    top = torch.stack(gains).mean(dim=0).topk(MOST_GAINING)
    return list(zip(top.indices.tolist(), top.values.tolist(), strict=True))


def gain_table(trials: Sequence[Trial], text: Text) -> Table:
    return Table(
        title="Where the probability of the first word went",
        note="Words of the vocabulary by their mean gain over the pairs of an arm.",
        columns=[
            Column(key="arm", label="Trained on"),
            Column(key="word", label="Word"),
            Column(key="gain", label="Gain", unit="probability"),
        ],
        rows=[
            {"arm": arm.label, "word": repr(text.tokenizer.decode([word])), "gain": gain}
            for arm in ARMS
            if arm.kind == WORDS
            for word, gain in gaining(trials, arm.key)
        ],
    )


def arm_chart(trials: Sequence[Trial]) -> Chart:
    def points(what: str) -> list[Point]:
        found = [(arm.label, mean_of(trials, arm.key, what)) for arm in ARMS]
        return [Point(x=label, y=one.value, low=one.low, high=one.high) for label, one in found]

    names = {"chosen": "Chosen", "rejected": "Rejected", "margin": "Margin"}
    return Chart(
        title="Change of log π since the start",
        x=XAxis(label="Trained on", scale=Scale.CATEGORY),
        y=YAxis(label="nats"),
        series=[Series(name=name, kind=Kind.POINTS, points=points(what)) for what, name in names.items()],
        lines=[Line(axis=Across.Y, at=0.0, label="as at the start")],
    )


def rank_chart(trials: Sequence[Trial]) -> Chart:
    """Of a draw from all: the change of the chosen completion by fifth of CHES."""
    series = []
    for key, label in (("words_any", "Words"), ("natural_any", "Natural")):
        ordered = sorted(
            ((trial.foretold[one.id][0], one) for trial in trials for one in trial.moved[key] if one.trained),
            key=lambda pair: (pair[0], pair[1].id),
        )
        parts: list[list[Moved]] = [[] for _ in range(FIFTHS)]
        for place, (_, one) in enumerate(ordered):
            parts[FIFTHS * place // len(ordered)].append(one)
        found = [clustered_mean([one.chosen for one in part], [one.prompt for one in part]) for part in parts if part]
        points = [Point(x=n, y=one.value, low=one.low, high=one.high) for n, one in enumerate(found, start=1)]
        series.append(Series(name=label, points=points))
    return Chart(
        title="Change of log π(chosen) by fifth of CHES, trained together",
        x=XAxis(label="Fifth of the pairs by CHES, 5 the most alike"),
        y=YAxis(label="nats"),
        series=series,
        lines=[Line(axis=Across.Y, at=0.0, label="as at the start")],
    )


def claims(trials: Sequence[Trial]) -> list[Claim]:
    """What was published, as sentences that these figures may refute."""
    found = []
    for kind, name in ((WORDS, "words"), (NATURAL, "natural pairs")):
        top, bottom = (mean_of(trials, f"{kind}_{tenth}", "chosen") for tenth in ("top", "bottom"))
        grows = mean_of(trials, f"{kind}_top", "margin")
        found += [
            Claim(
                claim=f"{name.capitalize()}, top tenth of CHES: the chosen completion falls while the margin grows",
                holds=both(below_zero(top), above_zero(grows)),
                figure=f"chosen {worded(top, share=False)}, margin {worded(grows, share=False)} nats",
            ),
            Claim(
                claim=f"{name.capitalize()}, bottom tenth: the chosen completion rises",
                holds=above_zero(bottom),
                figure=f"{worded(bottom, share=False)} nats",
            ),
            Claim(
                claim=f"{name.capitalize()}: the chosen completion ends lower in the top tenth than in the bottom one",
                holds=below_zero(difference(top, bottom)),
                figure=f"{worded(difference(top, bottom), share=False)} nats",
            ),
        ]
    fewer, lifted = (gained_over(trials, f"natural_{key}", "natural_any") for key in ("fewer", "nll"))
    rises, margin = (mean_of(trials, "natural_nll", what) for what in ("chosen", "margin"))
    return [
        *found,
        Claim(
            claim="Without the most alike pairs the chosen completions of the others end higher than with them",
            holds=above_zero(fewer),
            figure=f"{worded(fewer, share=False)} nats",
        ),
        Claim(
            claim="With the NLL term the chosen completions end higher than without it, and the margin still grows",
            holds=both(above_zero(lifted), above_zero(margin)),
            figure=f"{worded(lifted, share=False)} nats; chosen {worded(rises, share=False)}, "
            f"margin {worded(margin, share=False)}",
        ),
    ]


def reading(trials: Sequence[Trial], settings: Mapping[str, Any]) -> list[str]:
    words, natural = (
        {tenth: mean_of(trials, f"{kind}_{tenth}", "chosen").value for tenth in ("top", "bottom")}
        for kind in (WORDS, NATURAL)
    )
    table = foretelling_table(trials)

    def mean(pairs: str, key: str) -> float:
        found = [value for row in table.rows if row["pairs"] == pairs and isinstance(value := row[key], float)]
        return sum(found) / len(found)

    return [
        f"After {settings['words']['epochs']} passes over {settings['words']['pairs']} pairs of words the chosen one "
        f"moved by {words['top']:+.2f} nats in the top tenth of CHES and by {words['bottom']:+.2f} in the bottom one.",
        f"Of short natural pairs it moved by {natural['top']:+.2f} and {natural['bottom']:+.2f} nats.",
        f"In a draw from all, CHES ranks the changes with {mean('Words', 'ches'):+.2f} (words) and "
        f"{mean('Natural', 'ches'):+.2f} (natural pairs), the figure of the head those of words with "
        f"{mean('Words', 'head'):+.2f}; below 0 is as published.",
    ]


EXPERIMENT = Experiment(
    title="Pairs that push down what people chose",
    question="Does the similarity of a pair's hidden states (CHES) tell before training whether DPO will make the "
    "chosen completion less likely, and do leaving such pairs out or an NLL term prevent it?",
    run=run,
)
