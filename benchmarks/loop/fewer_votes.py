"""What labels cost: fixed overlap with majority against an overlap that grows with doubt and a model of the people.

The arms of a seed ask about the same pairs, in projects of their own: the round's seed makes the completions the same
in each. What differs is how many votes a pair gets and what the snapshot makes of them; then one DPO run each, judged
by gold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from annotation.simulation import panel
from benchmarks.loop import policies
from benchmarks.loop.ballots import Ballot, Ballots
from benchmarks.loop.experiment import Experiment, Findings, Lab, cell, worded
from benchmarks.loop.results import Chart, Claim, Column, Kind, Line, Point, Scale, Series, Table, XAxis, YAxis
from benchmarks.loop.steps import for_each
from benchmarks.loop.world import Answer, World, compare
from training.engine import evaluate

SAVED = 0.35
"""Share of the votes that the adaptive arm must save."""
FIXED, ADAPTIVE = "majority_of_5", "adaptive"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Of one arm under one seed; `beside_fixed` is the win rate against the policy of FIXED."""

    ballot: Ballot
    beside_sft: evaluate.Estimate
    beside_fixed: evaluate.Estimate


def run(lab: Lab) -> Findings:
    """All arms under every seed."""
    with lab.opened() as (world, ballots):
        answers = len(world.held_out) * int(world.settings["held_out_samples"])
        trials = for_each(lab.seeds, lambda seed: _trial(world, ballots, seed))
        return _findings(dict(zip(lab.seeds, trials, strict=True)), settings=world.settings["arms"], answers=answers)


def _trial(world: World, ballots: Ballots, seed: int) -> dict[str, Outcome]:
    votes, arms = world.settings["votes"], world.settings["arms"]
    people = panel(seed, votes["people"], **votes["panel"])

    def ask(arm: str) -> Ballot:
        plan = arms[arm]
        return ballots.collect(
            f"{arm.replace('_', '-')}-{seed}",
            world.sft,
            world.train[: votes["prompts"]],
            seed=seed,
            people=people,
            project=plan["project"],
            rule=plan["rule"],
        )

    asked = dict(zip(arms, for_each(list(arms), ask), strict=True))
    before = world.judged(f"sft {seed}", world.sft, seed=1000 + seed)

    def answers(arm: str) -> list[Answer]:
        made = policies.policy(
            world, "dpo", seed=seed, snapshot=asked[arm].snapshot, name=f"dpo {arm}", **arms[arm]["training"]
        )
        return world.judged(f"dpo {arm} {seed}", made, seed=1000 + seed)

    said = dict(zip(arms, for_each(list(arms), answers), strict=True))
    return {
        arm: Outcome(
            ballot=asked[arm],
            beside_sft=compare(said[arm], before)["win_rate"],
            beside_fixed=compare(said[arm], said[FIXED])["win_rate"],
        )
        for arm in arms
    }


def _findings(
    trials: Mapping[int, Mapping[str, Outcome]], *, settings: Mapping[str, Mapping[str, str]], answers: int
) -> Findings:
    arms = list(settings)
    table = Table(
        title="Votes asked and what they bought",
        note="Win rates have intervals by prompt; the last column is each arm's policy beside that of majority of 5.",
        columns=[
            Column(key="arm", label="Labels"),
            Column(key="seed", label="Seed"),
            Column(key="votes", label="Votes a comparison"),
            Column(key="right", label="Labels that side with gold", unit="share"),
            Column(key="beside_sft", label="Wins against SFT", unit="share"),
            Column(key="beside_fixed", label="Wins against majority of 5", unit="share"),
        ],
        rows=[
            {
                "arm": settings[arm]["label"],
                "seed": str(seed),
                "votes": outcome.ballot.votes / outcome.ballot.comparisons,
                "right": outcome.ballot.right,
                "beside_sft": cell(outcome.beside_sft, n=answers),
                "beside_fixed": None if arm == FIXED else cell(outcome.beside_fixed, n=answers),
            }
            for seed, outcomes in trials.items()
            for arm, outcome in outcomes.items()
        ],
    )
    chart = Chart(
        title="Win rate against SFT by labels",
        x=XAxis(label="Labels", scale=Scale.CATEGORY),
        y=YAxis(label="Held-out prompts won, gold"),
        series=[
            Series(
                name=f"Seed {seed}",
                kind=Kind.POINTS,
                points=[
                    Point(
                        x=settings[arm]["label"],
                        y=outcomes[arm].beside_sft.value,
                        low=outcomes[arm].beside_sft.low,
                        high=outcomes[arm].beside_sft.high,
                    )
                    for arm in arms
                ],
            )
            for seed, outcomes in trials.items()
        ],
        lines=[Line(axis="y", at=0.5, label="as good as SFT")],
    )
    return Findings(tables=[table], charts=[chart], claims=_claims(trials), reading=_reading(trials, settings))


def saved(outcomes: Mapping[str, Outcome]) -> float:
    """Share of the votes of FIXED that ADAPTIVE did not need."""
    return 1 - outcomes[ADAPTIVE].ballot.votes / outcomes[FIXED].ballot.votes


def _claims(trials: Mapping[int, Mapping[str, Outcome]]) -> list[Claim]:
    return [
        Claim(
            claim=f"Overlap that grows with doubt asks at least {100 * SAVED:.0f} % fewer votes than five a pair",
            holds=all(saved(outcomes) >= SAVED for outcomes in trials.values()),
            figure="; ".join(f"{100 * saved(outcomes):.0f} %" for outcomes in trials.values()),
        ),
        Claim(
            claim="Its policy is as good: no seed's interval of wins against majority of 5 lies below one half",
            holds=all(outcomes[ADAPTIVE].beside_fixed.high >= 0.5 for outcomes in trials.values()),
            figure="; ".join(worded(outcomes[ADAPTIVE].beside_fixed) for outcomes in trials.values()),
        ),
    ]


def _reading(trials: Mapping[int, Mapping[str, Outcome]], settings: Mapping[str, Mapping[str, str]]) -> list[str]:
    found = {arm: [outcomes[arm] for outcomes in trials.values()] for arm in settings}
    return [
        f"{settings[arm]['label']}: {fmean(one.ballot.votes / one.ballot.comparisons for one in some):.1f} votes a "
        f"comparison, {100 * fmean(one.ballot.right for one in some):.0f} % of the labels right, "
        f"{100 * fmean(one.beside_sft.value for one in some):.0f} % won against SFT."
        for arm, some in found.items()
    ]


EXPERIMENT = Experiment(
    title="As good a policy from fewer votes",
    question="Does an overlap that grows with doubt, with labels by a model of the annotators, reach the policy of "
    "five votes and a majority with a third fewer votes?",
    run=run,
)
