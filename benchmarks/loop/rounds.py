"""The loop, closed: the policy that the votes made is sampled, voted on and trained again (iterative DPO).

Xu et al. 2023 ("Some things are more cringe than others", iterative DPO) and Guo et al. 2024 find fresh pairs of the
current policy worth more than more pairs of the first one. Two arms go round three times: one asks as many people in
every round as the single round did, the other divides the same number of comparisons among its rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from annotation.simulation import panel
from benchmarks.loop import policies
from benchmarks.loop.ballots import Ballots
from benchmarks.loop.experiment import Experiment, Findings, Lab, cell, worded
from benchmarks.loop.results import Chart, Claim, Column, Line, Point, Series, Table, XAxis, YAxis
from benchmarks.loop.steps import for_each
from benchmarks.loop.world import Answer, World, compare
from training.engine import evaluate


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One time round: the policy that came out, beside π^SFT and beside the policy of the turn before.

    Attributes:
        comparisons, votes: of all turns so far.
    """

    comparisons: int
    votes: int
    beside_sft: evaluate.Estimate
    beside_former: evaluate.Estimate


Arm = str
_NAMES: Mapping[Arm, str] = {"whole": "New votes in each round", "divided": "The same votes, divided among the rounds"}


def run(lab: Lab) -> Findings:
    """Both arms under every seed."""
    with lab.opened() as (world, ballots):
        answers = len(world.held_out) * int(world.settings["held_out_samples"])
        arms = list(world.settings["rounds"])
        plans = [(arm, seed) for seed in lab.seeds for arm in arms]
        turns = dict(zip(plans, for_each(plans, lambda plan: _go_round(world, ballots, *plan)), strict=True))
        return findings(turns, seeds=lab.seeds, arms=arms, answers=answers)


def _go_round(world: World, ballots: Ballots, arm: Arm, seed: int) -> list[Turn]:
    votes, plan = world.settings["votes"], world.settings["rounds"][arm]
    people = panel(seed, votes["people"], **votes["panel"])
    policy, turns = world.sft, list[Turn]()
    first: Sequence[Answer] = world.judged(f"sft {seed}", world.sft, seed=1000 + seed)
    former, comparisons, given = first, 0, 0
    for number in range(plan["rounds"]):
        start = number * plan["prompts"] if plan["next_prompts"] else 0
        ballot = ballots.collect(
            # The first turn of the arm that asks everything is that of `methods`, and is not asked again.
            f"methods-{seed}" if number == 0 and plan["prompts"] == votes["prompts"] else f"{arm}-{number + 1}-{seed}",
            policy,
            world.train[start : start + plan["prompts"]],
            seed=seed + 100 * number,
            people=people,
            project=votes["project"],
            rule=votes["rule"],
        )
        name = "dpo" if number == 0 and plan["prompts"] == votes["prompts"] else f"dpo {arm} {number + 1}"
        policy = policies.policy(world, "dpo", seed=seed, snapshot=ballot.snapshot, base=policy, name=name)
        now = world.judged(f"{name} {seed}", policy, seed=1000 + seed)
        comparisons, given = comparisons + ballot.comparisons, given + ballot.votes
        turns.append(
            Turn(
                comparisons=comparisons,
                votes=given,
                beside_sft=compare(now, first)["win_rate"],
                beside_former=compare(now, former)["win_rate"],
            )
        )
        former = now
    return turns


def findings(
    turns: Mapping[tuple[Arm, int], Sequence[Turn]], *, seeds: Sequence[int], arms: Sequence[Arm], answers: int
) -> Findings:
    """Table, chart and claims; `answers` is how many held-out completions each interval is over."""
    rows = [
        {
            "arm": _NAMES[arm],
            "seed": str(seed),
            "round": float(number),
            "comparisons": float(turn.comparisons),
            "votes": float(turn.votes),
            "beside_sft": cell(turn.beside_sft, n=answers),
            "beside_former": cell(turn.beside_former, n=answers),
        }
        for (arm, seed), found in turns.items()
        for number, turn in enumerate(found, start=1)
    ]
    table = Table(
        title="Round by round, as gold has it",
        note="Intervals by prompt. Comparisons and votes are of all rounds so far.",
        columns=[
            Column(key="arm", label="Arm"),
            Column(key="seed", label="Seed"),
            Column(key="round", label="Round"),
            Column(key="comparisons", label="Comparisons"),
            Column(key="votes", label="Votes"),
            Column(key="beside_sft", label="Wins against SFT", unit="share"),
            Column(key="beside_former", label="Wins against the round before", unit="share"),
        ],
        rows=rows,
    )
    chart = Chart(
        title="Win rate against SFT over comparisons asked",
        x=XAxis(label="Comparisons so far"),
        y=YAxis(label="Held-out prompts won, gold"),
        series=[
            Series(
                name=f"{_NAMES[arm]}, seed {seed}",
                points=[
                    Point(x=t.comparisons, y=t.beside_sft.value, low=t.beside_sft.low, high=t.beside_sft.high)
                    for t in turns[arm, seed]
                ],
            )
            for arm in arms
            for seed in seeds
        ],
        lines=[Line(axis="y", at=0.5, label="as good as SFT")],
    )
    return Findings(tables=[table], charts=[chart], claims=_claims(turns, seeds, arms), reading=_reading(turns, seeds))


def _claims(turns: Mapping[tuple[Arm, int], Sequence[Turn]], seeds: Sequence[int], arms: Sequence[Arm]) -> list[Claim]:
    claims = []
    if "whole" in arms:
        claims.append(
            Claim(
                claim="Three rounds win more against SFT than one, under every seed",
                holds=all(
                    turns["whole", s][-1].beside_sft.value > turns["whole", s][0].beside_sft.value for s in seeds
                ),
                figure="; ".join(
                    f"{worded(turns['whole', s][0].beside_sft)} after one, {worded(turns['whole', s][-1].beside_sft)} "
                    "after three"
                    for s in seeds
                ),
            )
        )
    if "divided" in arms and "whole" in arms:
        claims.append(
            Claim(
                claim="With as many comparisons in all, three rounds win more than one",
                holds=_agreed(
                    [turns["divided", s][-1].beside_sft.value > turns["whole", s][0].beside_sft.value for s in seeds]
                ),
                figure="; ".join(
                    f"{worded(turns['whole', s][0].beside_sft)} in one, {worded(turns['divided', s][-1].beside_sft)} "
                    "in three"
                    for s in seeds
                ),
            )
        )
    return claims


def _agreed(outcomes: Sequence[bool]) -> bool | None:
    """What all seeds say; None where they differ."""
    return outcomes[0] if len(set(outcomes)) == 1 else None


def _reading(turns: Mapping[tuple[Arm, int], Sequence[Turn]], seeds: Sequence[int]) -> list[str]:
    return [
        f"{_NAMES[arm]}: "
        + ", then ".join(
            f"{100 * sum(turns[arm, s][number].beside_sft.value for s in seeds) / len(seeds):.0f} %"
            for number in range(len(turns[arm, seeds[0]]))
        )
        + " of the held-out prompts won against SFT, in the mean over the seeds."
        for arm in dict.fromkeys(arm for arm, _ in turns)
    ]


EXPERIMENT = Experiment(
    title="Going round the loop again",
    question="Is a policy that is sampled, voted on and trained three times better than one that is trained once?",
    run=run,
)
