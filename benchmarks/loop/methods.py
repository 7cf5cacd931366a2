"""Which method makes the most of the same votes (Dubois et al. 2023, AlpacaFarm, table 2), under a gold reward.

One π^SFT; a round of pairs, votes of simulated annotators who err like people through the real API, one snapshot, one
reward model of it; then every method, and its answers to held-out prompts beside π^SFT's as gold has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from annotation.simulation import panel
from benchmarks.loop import policies
from benchmarks.loop.ballots import Ballot, Ballots
from benchmarks.loop.experiment import Experiment, Findings, Lab, cell, worded
from benchmarks.loop.results import (
    Chart,
    Claim,
    Column,
    Estimate,
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
from benchmarks.loop.world import Answer, World, compare
from training.engine import evaluate

BEST_OF = 16
MUST_WIN = ("dpo", "ppo", "best_of_n")
PUBLISHED = (("feedme", "expert_iteration"), ("binary_conditioning", "expert_iteration"), ("quark", "expert_iteration"),
             ("expert_iteration", "best_of_n"), ("expert_iteration", "ppo"), ("dpo", "online_dpo"))  # fmt: skip
"""Which did worse than which in Dubois et al. 2023, table 2, and (the last) in Guo et al. 2024, table 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What came out under one seed: of each method the figures of `world.compare` beside π^SFT."""

    seed: int
    ballot: Ballot
    figures: Mapping[str, Mapping[str, evaluate.Estimate]]


def run(lab: Lab) -> Findings:
    """Every method of the settings under every seed."""
    with lab.opened() as (world, ballots):
        trials = for_each(lab.seeds, lambda seed: _trial(world, ballots, seed))
        return findings(trials, answers=len(world.held_out) * int(world.settings["held_out_samples"]))


def _trial(world: World, ballots: Ballots, seed: int) -> Trial:
    votes = world.settings["votes"]
    ballot = ballots.collect(
        f"methods-{seed}",
        world.sft,
        world.train[: votes["prompts"]],
        seed=seed,
        people=panel(seed, votes["people"], **votes["panel"]),
        project=votes["project"],
        rule=votes["rule"],
    )
    reward = policies.reward_model(world, ballot.snapshot, seed=seed)
    before = world.judged(f"sft {seed}", world.sft, seed=1000 + seed)

    def answers(method: str) -> list[Answer]:
        if method == "best_of_n":
            return policies.best_of_n(world, reward, seed=seed, n=BEST_OF)
        made = policies.policy(world, method, seed=seed, snapshot=ballot.snapshot, reward=reward)
        return world.judged(f"{method} {seed}", made, seed=1000 + seed)

    names = list(world.settings["methods"])
    found = for_each(names, answers)
    return Trial(seed=seed, ballot=ballot, figures={n: compare(a, before) for n, a in zip(names, found, strict=True)})


def findings(trials: Sequence[Trial], *, answers: int) -> Findings:
    """Tables, chart and claims; `answers` is how many held-out completions each interval is over."""
    names = sorted(trials[0].figures, key=lambda name: _mean(trials, name))
    rates = [
        {
            "method": policies.NAMES[name],
            **{f"seed{t.seed}": cell(t.figures[name]["win_rate"], n=answers) for t in trials},
        }
        | {"mean": _mean(trials, name)}
        | {key: _average(trials, name, key, answers) for key in ("length_controlled", "gain", "length")}
        for name in names
    ]
    table = Table(
        title="Held-out prompts won against SFT, as gold has it",
        note="Intervals by prompt, ties count half; the last three columns are means over the seeds.",
        columns=[
            Column(key="method", label="Method"),
            *(Column(key=f"seed{trial.seed}", label=f"Seed {trial.seed}", unit="share") for trial in trials),
            Column(key="mean", label="Mean", unit="share"),
            Column(key="length_controlled", label="Length taken out", unit="share"),
            Column(key="gain", label="Gain of gold score", unit="nats"),
            Column(key="length", label="Length", unit="tokens"),
        ],
        rows=rates,
    )
    votes = Table(
        title="The votes behind it",
        columns=[
            Column(key="seed", label="Seed"),
            Column(key="comparisons", label="Comparisons"),
            Column(key="votes", label="Votes"),
            Column(key="agreement", label="Votes that side with gold", unit="share"),
            Column(key="right", label="Labels that do", unit="share"),
        ],
        rows=[
            {
                "seed": str(trial.seed),
                "comparisons": float(trial.ballot.comparisons),
                "votes": float(trial.ballot.votes),
                "agreement": trial.ballot.agreement,
                "right": trial.ballot.right,
            }
            for trial in trials
        ],
    )
    chart = Chart(
        title="Win rate against SFT",
        x=XAxis(label="Method", scale=Scale.CATEGORY),
        y=YAxis(label="Held-out prompts won, gold"),
        series=[
            Series(
                name=f"Seed {trial.seed}",
                kind=Kind.POINTS,
                points=[_point(name, trial.figures[name]["win_rate"]) for name in names],
            )
            for trial in trials
        ],
        lines=[Line(axis="y", at=0.5, label="as good as SFT")],
    )
    return Findings(
        tables=[table, votes], charts=[chart], claims=_claims(trials, names), reading=_reading(trials, names)
    )


def _claims(trials: Sequence[Trial], names: Sequence[str]) -> list[Claim]:
    must = [
        Claim(
            claim=f"{policies.NAMES[name]} beats SFT beyond a 95 % interval under every seed",
            holds=all(trial.figures[name]["win_rate"].low > 0.5 for trial in trials),
            figure="; ".join(worded(trial.figures[name]["win_rate"]) for trial in trials),
        )
        for name in MUST_WIN
        if name in names
    ]
    orders = [
        Claim(
            claim=f"{policies.NAMES[worse]} does worse than {policies.NAMES[better]}, as published",
            holds=_order(trials, worse, better),
            figure="; ".join(
                " and ".join(f"{100 * trial.figures[name]['win_rate'].value:.0f} %" for name in (worse, better))
                for trial in trials
            ),
        )
        for worse, better in PUBLISHED
        if worse in names and better in names
    ]
    return must + orders


def _order(trials: Sequence[Trial], worse: str, better: str) -> bool | None:
    """True or False where all seeds say the same; None where they differ."""
    signs = {trial.figures[worse]["win_rate"].value < trial.figures[better]["win_rate"].value for trial in trials}
    return signs.pop() if len(signs) == 1 else None


def _reading(trials: Sequence[Trial], names: Sequence[str]) -> list[str]:
    best = names[-1]
    agreement = sum(trial.ballot.agreement for trial in trials) / len(trials)
    right = sum(trial.ballot.right for trial in trials) / len(trials)
    return [
        f"{trials[0].ballot.comparisons} comparisons with {trials[0].ballot.votes} votes, of which "
        f"{100 * agreement:.0f} % side with gold, became labels of which {100 * right:.0f} % do.",
        f"{policies.NAMES[best]} wins most: {100 * _mean(trials, best):.0f} % of the held-out prompts against SFT.",
    ]


def _mean(trials: Sequence[Trial], name: str) -> float:
    return sum(trial.figures[name]["win_rate"].value for trial in trials) / len(trials)


def _average(trials: Sequence[Trial], name: str, key: str, answers: int) -> Estimate:
    """Over the seeds, whose prompts are the same: the widest interval of one, moved to the mean, is the honest one."""
    found = [trial.figures[name][key] for trial in trials]
    mean = sum(estimate.value for estimate in found) / len(found)
    down = max(estimate.value - estimate.low for estimate in found)
    up = max(estimate.high - estimate.value for estimate in found)
    return Estimate(value=mean, low=mean - down, high=mean + up, n=answers)


def _point(name: str, estimate: evaluate.Estimate) -> Point:
    return Point(x=policies.NAMES[name], y=estimate.value, low=estimate.low, high=estimate.high)


EXPERIMENT = Experiment(
    title="What each method makes of the same votes",
    question="Does a policy trained on simulated people's votes please them more than the one it came from, and which "
    "method gets furthest?",
    run=run,
)
