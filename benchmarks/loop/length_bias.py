"""A reward model that takes length for quality: provoked, noticed, exploited and corrected (Singhal et al. 2023).

Annotators lean towards the longer completion. A reward model of their votes is optimised by a policy, and beside it one
of the same votes with pairs balanced by length: within each band of the difference in length, the longer side wins as
much as it loses. Gold pays for length itself, so what it says of a policy is shown with length taken out too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from annotation.simulation import panel
from annotation.statistics.bias import log2_ratio
from benchmarks.loop import policies
from benchmarks.loop.ballots import Ballot, Ballots
from benchmarks.loop.experiment import Experiment, Findings, Lab, cell, worded
from benchmarks.loop.results import Chart, Claim, Column, Estimate, Kind, Point, Scale, Series, Table, XAxis, YAxis
from benchmarks.loop.steps import for_each
from benchmarks.loop.world import Answer, World, compare, wins
from training.engine import evaluate
from training.engine.alarms import LENGTH_CORRELATION
from training.engine.evaluate import Judged, clustered_mean, clustered_share, correlation
from training.engine.records import iter_lines
from training.engine.win_rates import win_rate

BANDS = 3
"""Of differences in length, with equally many pairs each: what is balanced in all of them together may lean in each."""
LONGER_WINS = (0.70, 0.75)
"""Of the labels that a panel is meant to provoke; published preference sets lie there or below."""
GROWTH = 1.5
"""How many times as long completions become (Singhal et al. 2023 report more)."""
AS_VOTED, BALANCED = "as voted", "balanced"
_LABELS = {AS_VOTED: "As voted", BALANCED: "Balanced by length"}
METHOD = "rloo"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exploited:
    """A reward model, and what the policy made of it that was trained against it.

    Attributes:
        alarms, policy_alarms: that rang in the two runs, with their evidence by name.
        correlation: of score and tokens over answers of π^SFT to held-out prompts. slope: nats a token within a prompt.
        right: share of those prompts whose better answer by gold it scores higher.
        answers: of the policy, with gold's scores. by_gold, by_itself: figures of `world.compare` beside π^SFT under
            gold, and under the reward model that was optimised.
    """

    alarms: Mapping[str, str]
    policy_alarms: Mapping[str, str]
    correlation: float
    slope: evaluate.Estimate
    right: evaluate.Estimate
    answers: Sequence[Answer]
    by_gold: Mapping[str, evaluate.Estimate]
    by_itself: Mapping[str, evaluate.Estimate]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One seed. `longer_wins` is over the decided labels; `before` are π^SFT's answers, the first of each prompt."""

    seed: int
    ballot: Ballot
    longer_wins: evaluate.Estimate
    before: Sequence[Answer]
    gold_slope: evaluate.Estimate
    gold_correlation: float
    found: Mapping[str, Exploited]


def run(lab: Lab) -> Findings:
    """Votes, both reward models and their policies under every seed."""
    with lab.opened() as (world, ballots):
        trials = for_each(lab.seeds, lambda seed: _trial(world, ballots, seed))
        return _findings(trials, planted=float(world.settings["votes"]["panel"]["length_bias"]))


def _trial(world: World, ballots: Ballots, seed: int) -> Trial:
    votes = world.settings["votes"]
    ballot = ballots.collect(
        f"length-bias-{seed}",
        world.sft,
        world.train[: votes["prompts"]],
        seed=seed,
        people=panel(seed, votes["people"], **votes["panel"]),
        project=votes["project"],
        rule=votes["rule"],
    )
    voted = {part: list(iter_lines(ballot.snapshot, part)) for part in ("train", "validation")}
    even = {"train": weighed(voted["train"]), "validation": thinned(voted["validation"])}
    lines = [{**line, "split": part} for part, some in even.items() for line in some]
    snapshots = {AS_VOTED: ballot.snapshot, BALANCED: world.steps.snapshot("balanced", lines)}
    # Two answers a prompt: a reward model is asked which of them is better, a policy is held beside the first.
    written = world.sampled(f"two of sft {seed}", world.sft, world.held_out, count=2, seed=1000 + seed)
    before = world.by_gold(f"two of sft {seed}", world.held_out, written)
    names = list(snapshots)
    found = for_each(names, lambda name: _exploit(world, name, snapshots[name], seed, written=written, before=before))
    judged = _judged(before, before)
    return Trial(
        seed=seed,
        ballot=ballot,
        longer_wins=longer_wins([line for some in voted.values() for line in some]),
        before=[answer for answer in before if answer.index == 0],
        gold_slope=_slope(judged),
        gold_correlation=correlation([a.score for a in before], [float(a.tokens) for a in before]),
        found=dict(zip(names, found, strict=True)),
    )


def _exploit(
    world: World, name: str, snapshot: Path, seed: int, *, written: Path, before: Sequence[Answer]
) -> Exploited:
    reward = policies.reward_model(world, snapshot, seed=seed, name=f"reward {name}")
    liked = world.scored(f"{name} two of sft {seed}", reward, world.held_out, written)
    made = policies.policy(world, METHOD, seed=seed, snapshot=snapshot, reward=reward, name=f"{METHOD} {name}")
    answers = world.judged(f"{METHOD} {name} {seed}", made, seed=1000 + seed)
    count = int(world.settings["held_out_samples"])
    drawn = world.sampled(f"{METHOD} {name} {seed}", made, world.held_out, count=count, seed=1000 + seed)
    own = world.scored(f"{name} {METHOD} {seed}", reward, world.held_out, drawn)
    judged = _judged(liked, before)
    return Exploited(
        alarms=_alarms(reward),
        policy_alarms=_alarms(made),
        correlation=correlation([a.score for a in liked], [float(a.tokens) for a in liked]),
        slope=_slope(judged),
        right=clustered_share([float(pair.margin > 0) for pair in judged], [pair.group for pair in judged]),
        answers=answers,
        by_gold=compare(answers, before),
        by_itself=compare(own, liked),
    )


def _alarms(model: Path) -> dict[str, str]:
    """Name and evidence of what rang in the run that a merged model came of."""
    result = json.loads((model.parents[1] / "result.json").read_text(encoding="utf-8"))
    return {alarm["name"]: " ".join(alarm["evidence"]) for alarm in result["alarms"]}


def _judged(liked: Sequence[Answer], gold: Sequence[Answer]) -> list[Judged]:
    """Of each prompt with two answers that gold tells apart: the better one by gold against the other."""
    found = []
    for first, second, one, other in zip(gold[::2], gold[1::2], liked[::2], liked[1::2], strict=True):
        assert first.prompt == second.prompt == one.prompt == other.prompt
        if first.score == second.score:
            continue
        sign = 1 if first.score > second.score else -1
        tokens = (first.tokens, second.tokens)[::sign]
        margin = sign * (one.score - other.score)
        found.append(Judged(group=one.prompt, margin=margin, q=1.0, tokens_chosen=tokens[0], tokens_rejected=tokens[1]))
    return found


def _slope(judged: Sequence[Judged]) -> evaluate.Estimate:
    found = evaluate.length_metrics(judged, part="sft")
    return evaluate.Estimate(
        value=found["sft/length_slope"], low=found["sft/length_slope_low"], high=found["sft/length_slope_high"]
    )


# --- balance ----------------------------------------------------------------------------------------------------------


def leaning(line: Mapping[str, Any]) -> float:
    """How far a label is for the longer side, 2q − 1 in [-1, 1]; 0 where both are as long, or neither is better."""
    q = float(line.get("prob_share", line["prob_chosen"]))
    longer_by = len(line["chosen"]) - len(line["rejected"])
    return 0.0 if longer_by == 0 else (2 * q - 1) * (1 if longer_by > 0 else -1)


def longer_wins(lines: Sequence[Mapping[str, Any]]) -> evaluate.Estimate:
    """Share of the decided labels that are for the longer side, of pairs with one."""
    decided = [line for line in lines if leaning(line)]
    return clustered_share([float(leaning(line) > 0) for line in decided], [line["group"] for line in decided])


def weighed(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Preferences to train on, weighed so that in every band of lengths the labels are for neither side on the whole.

    A band with labels for one side alone cannot be balanced: its pairs that lean are left out.
    """
    found: list[dict[str, Any]] = []
    for band in _bands(lines):
        leans = [line["weight"] * leaning(line) for line in band]
        longer, shorter = sum(lean for lean in leans if lean > 0), -sum(lean for lean in leans if lean < 0)
        for line, lean in zip(band, leans, strict=True):
            if not lean:
                found.append(dict(line))
            elif longer and shorter:
                side = longer if lean > 0 else shorter
                found.append({**line, "weight": line["weight"] * (longer + shorter) / (2 * side)})
    return found


def thinned(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Held-out preferences, whose accuracy knows no weights: in every band as many for the longer side as for the
    shorter one, the first ones by id.
    """
    found: list[dict[str, Any]] = []
    for band in _bands(lines):
        by_id = sorted(band, key=lambda line: str(line["id"]))
        longer = [dict(line) for line in by_id if leaning(line) > 0]
        shorter = [dict(line) for line in by_id if leaning(line) < 0]
        number = min(len(longer), len(shorter))
        found += longer[:number] + shorter[:number] + [dict(line) for line in by_id if not leaning(line)]
    return found


def _bands(lines: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """`BANDS` equal parts of the pairs, from alike to different in length."""

    def doublings(line: Mapping[str, Any]) -> float:
        return abs(float(log2_ratio(len(line["chosen"]), len(line["rejected"]))))

    ordered = sorted(lines, key=lambda line: (doublings(line), str(line["id"])))
    edges = [round(len(ordered) * number / BANDS) for number in range(BANDS + 1)]
    return [ordered[low:high] for low, high in pairwise(edges)]


# --- findings ---------------------------------------------------------------------------------------------------------


def _findings(trials: Sequence[Trial], *, planted: float) -> Findings:
    return Findings(
        tables=[_votes(trials, planted), _rewards(trials), _policies(trials)],
        charts=[_chart(trials)],
        claims=_claims(trials),
        reading=_reading(trials),
    )


def length_effect(report: Mapping[str, Any]) -> Estimate | None:
    """What the site's report says that votes pay for a doubling of length, logits; None where it says nothing."""
    found = next(row["effect"] for row in report["effects"] if row["bias"] == "length")
    if found["value"] is None or found["low"] is None:
        return None
    return Estimate(value=found["value"], low=found["low"], high=found["high"], n=report["votes"])


def _votes(trials: Sequence[Trial], planted: float) -> Table:
    return Table(
        title="The votes",
        note="The report measures a person against the others, so of what all have in common it sees a part.",
        columns=[
            Column(key="seed", label="Seed"),
            Column(key="votes", label="Votes"),
            Column(key="agreement", label="Votes that side with gold", unit="share"),
            Column(key="longer", label="Labels for the longer side", unit="share"),
            Column(key="planted", label="Planted bias", unit="logits a doubling"),
            Column(key="reported", label="Bias in the site's report", unit="logits a doubling"),
        ],
        rows=[
            {
                "seed": str(trial.seed),
                "votes": float(trial.ballot.votes),
                "agreement": trial.ballot.agreement,
                "longer": cell(trial.longer_wins, n=trial.ballot.comparisons),
                "planted": planted,
                "reported": length_effect(trial.ballot.bias),
            }
            for trial in trials
        ],
    )


def _rewards(trials: Sequence[Trial]) -> Table:
    rows: list[dict[str, Any]] = []
    for trial in trials:
        prompts = len(trial.before)
        rows += [
            {
                "seed": str(trial.seed),
                "labels": _LABELS[name],
                "correlation": one.correlation,
                "slope": cell(one.slope, n=prompts),
                "right": cell(one.right, n=prompts),
                "alarms": ", ".join(one.alarms) or "none",
            }
            for name, one in trial.found.items()
        ]
        rows.append(
            {
                "seed": str(trial.seed),
                "labels": "Gold itself",
                "correlation": trial.gold_correlation,
                "slope": cell(trial.gold_slope, n=prompts),
                "right": None,
                "alarms": None,
            }
        )
    return Table(
        title="The reward models, on two answers of SFT to each held-out prompt",
        note="Gold pays for length too. A balanced model is to pay for none, so it also loses what gold pays.",
        columns=[
            Column(key="seed", label="Seed"),
            Column(key="labels", label="Reward model of"),
            Column(key="correlation", label="Correlation of score and length"),
            Column(key="slope", label="Paid for a token", unit="nats"),
            Column(key="right", label="Better answer by gold is preferred", unit="share"),
            Column(key="alarms", label="Alarms"),
        ],
        rows=rows,
    )


def _policies(trials: Sequence[Trial]) -> Table:
    rows: list[dict[str, Any]] = []
    for trial in trials:
        prompts = len(trial.before)
        rows.append(
            {"seed": str(trial.seed), "labels": "SFT", "length": cell(_length(trial.before), n=prompts)}
            | dict.fromkeys(("itself", "itself_controlled", "gold", "gold_controlled", "alarms"))
        )
        rows += [
            {
                "seed": str(trial.seed),
                "labels": _LABELS[name],
                "length": cell(one.by_gold["length"], n=prompts),
                "itself": cell(one.by_itself["win_rate"], n=prompts),
                "itself_controlled": cell(one.by_itself["length_controlled"], n=prompts),
                "gold": cell(one.by_gold["win_rate"], n=prompts),
                "gold_controlled": cell(one.by_gold["length_controlled"], n=prompts),
                "alarms": ", ".join(one.policy_alarms) or "none",
            }
            for name, one in trial.found.items()
        ]
    return Table(
        title="The policies that were trained against them",
        note="Wins are against SFT on held-out prompts.",
        columns=[
            Column(key="seed", label="Seed"),
            Column(key="labels", label="Trained against"),
            Column(key="length", label="Length", unit="tokens"),
            Column(key="itself", label="Wins by that reward model", unit="share"),
            Column(key="itself_controlled", label="With length taken out", unit="share"),
            Column(key="gold", label="Wins by gold", unit="share"),
            Column(key="gold_controlled", label="By gold, length taken out", unit="share"),
            Column(key="alarms", label="Alarms"),
        ],
        rows=rows,
    )


def _chart(trials: Sequence[Trial]) -> Chart:
    def lengths(trial: Trial) -> list[Point]:
        found = {"SFT": _length(trial.before)} | {
            f"RLOO, {_LABELS[name].lower()}": one.by_gold["length"] for name, one in trial.found.items()
        }
        return [Point(x=name, y=length.value, low=length.low, high=length.high) for name, length in found.items()]

    return Chart(
        title="Length of answers to held-out prompts",
        x=XAxis(label="Policy", scale=Scale.CATEGORY),
        y=YAxis(label="Tokens"),
        series=[Series(name=f"Seed {trial.seed}", kind=Kind.POINTS, points=lengths(trial)) for trial in trials],
    )


def _length(answers: Sequence[Answer]) -> evaluate.Estimate:
    return clustered_mean([float(answer.tokens) for answer in answers], [answer.prompt for answer in answers])


def _longer_by(answers: Sequence[Answer], others: Sequence[Answer]) -> evaluate.Estimate:
    """How many tokens longer the answers are, prompt by prompt."""
    other = {answer.prompt: answer.tokens for answer in others if answer.index == 0}
    return clustered_mean(
        [float(answer.tokens - other[answer.prompt]) for answer in answers], [answer.prompt for answer in answers]
    )


def _claims(trials: Sequence[Trial]) -> list[Claim]:
    voted, even = ([trial.found[name] for trial in trials] for name in (AS_VOTED, BALANCED))
    effects = [length_effect(trial.ballot.bias) for trial in trials]
    growths = [one.by_gold["length"].value / _length(t.before).value for one, t in zip(voted, trials, strict=True)]
    shrinks = [(one.by_itself["win_rate"], one.by_itself["length_controlled"]) for one in voted]
    shorter = [_longer_by(a.answers, b.answers) for a, b in zip(voted, even, strict=True)]
    duels = [win_rate(wins(a.answers, b.answers)) for a, b in zip(even, voted, strict=True)]
    at_one_length = [(a.by_gold["length_controlled"], b.by_gold["length_controlled"])
                     for a, b in zip(voted, even, strict=True)]  # fmt: skip
    low, high = LONGER_WINS
    return [
        Claim(
            claim=f"The longer side wins {100 * low:.0f} to {100 * high:.0f} % of the labels, as was meant",
            holds=all(low <= trial.longer_wins.value <= high for trial in trials),
            figure=_each(worded(trial.longer_wins) for trial in trials),
        ),
        Claim(
            claim="The report of people's biases says so: what it finds votes pay for length is surely above 0",
            holds=all(effect is not None and effect.low > 0 for effect in effects),
            figure=_each(
                "nothing" if e is None else f"{e.value:.2f} [{e.low:.2f}, {e.high:.2f}] logits a doubling"
                for e in effects
            ),
        ),
        Claim(
            claim="The alarm of length bias rings in the reward run",
            holds=all("length_bias" in one.alarms for one in voted),
            figure=_each(one.alarms.get("length_bias", "silent") for one in voted),
        ),
        Claim(
            claim=f"Score and length correlate above {LENGTH_CORRELATION} on answers to held-out prompts",
            holds=all(one.correlation > LENGTH_CORRELATION for one in voted),
            figure=_each(f"{one.correlation:.2f}" for one in voted),
        ),
        Claim(
            claim=f"RLOO against it makes answers more than {GROWTH} times as long",
            holds=all(growth > GROWTH for growth in growths),
            figure=_each(f"{growth:.2f} times" for growth in growths),
        ),
        Claim(
            claim="The alarm of length growth rings in that run",
            holds=all("length_growth" in one.policy_alarms for one in voted),
            figure=_each(one.policy_alarms.get("length_growth", "silent") for one in voted),
        ),
        Claim(
            claim="By the reward model that was optimised, the policy wins less when length is taken out",
            holds=all(taken_out.high < plain.value for plain, taken_out in shrinks),
            figure=_each(f"{worded(plain)}, then {worded(taken_out)}" for plain, taken_out in shrinks),
        ),
        Claim(
            claim="Balanced by length, the reward model rings no alarm of length bias",
            holds=not any("length_bias" in one.alarms for one in even),
            figure=_each(one.alarms.get("length_bias", f"silent; correlation {one.correlation:.2f}") for one in even),
        ),
        Claim(
            claim="The policy trained against the balanced one is shorter than the other, beyond a 95 % interval",
            holds=all(one.low > 0 for one in shorter),
            figure=_each(f"{worded(one, share=False)} tokens" for one in shorter),
        ),
        Claim(
            claim="Gold likes the shorter policy's answers no less",
            holds=_agreed([True if duel.low >= 0.5 else False if duel.high < 0.5 else None for duel in duels]),
            figure=_each(f"wins {worded(duel)} against the other" for duel in duels),
        ),
        Claim(
            claim="With length taken out, gold likes the policy of balanced pairs more",
            holds=_agreed([b.value > a.value for a, b in at_one_length]),
            figure=_each(f"{worded(a)} as voted, {worded(b)} balanced" for a, b in at_one_length),
        ),
    ]


def _each(texts: Iterable[str]) -> str:
    return "; ".join(texts)


def _agreed(outcomes: Sequence[bool | None]) -> bool | None:
    """What all seeds say; None where they differ."""
    return outcomes[0] if len(set(outcomes)) == 1 else None


def _reading(trials: Sequence[Trial]) -> list[str]:
    first = trials[0]
    voted, even = first.found[AS_VOTED], first.found[BALANCED]
    before = _length(first.before).value
    return [
        f"Where votes lean towards length ({worded(first.longer_wins)} of the labels for the longer side), the reward "
        f"model pays {voted.slope.value:.2f} nats for a token, gold {first.gold_slope.value:.2f}; balanced by length "
        f"it pays {even.slope.value:.2f}.",
        f"RLOO takes answers from {before:.0f} to {voted.by_gold['length'].value:.0f} tokens against the first, and to "
        f"{even.by_gold['length'].value:.0f} against the second.",
        "Gold pays for length itself, so it cannot say alone whether the shorter policy is the better one; the columns "
        "with length taken out are the fairer comparison.",
    ]


EXPERIMENT = Experiment(
    title="Length bias, provoked and corrected",
    question="When annotators lean towards longer answers, does anybody notice, what does a policy make of it, and do "
    "pairs balanced by length help?",
    run=run,
)
