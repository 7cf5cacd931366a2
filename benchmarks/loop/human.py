"""What reward models learn from votes of people, by how the votes became labels, beside what people's agreement allows.

A model under each rule is trained on the same pairs and asked about the same held-out ones. What it is held against are
the single votes there: no model can side with more of them than people do with each other (`accuracy_ceiling`), and
accuracy against an aggregated label has no such bound.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from annotation.statistics.agreement import Ceiling, accuracy_ceiling, percent_agreement
from benchmarks.loop import crowd
from benchmarks.loop.crowd import MAJORITY, POSTERIOR, RULES, SINGLE, Frozen, Wanted
from benchmarks.loop.experiment import Experiment, Findings, Lab, cell, in_points, worded
from benchmarks.loop.results import (
    Across,
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
from benchmarks.loop.world import scored, training_sections
from training.engine import evaluate
from training.engine.evaluate import clustered_mean, clustered_share
from training.engine.presets import merge
from training.lengths import Measure, measure

LONGER = "longer"
_NAMES = {LONGER: "Pick the longer", **{rule: RULES[rule].label for rule in RULES}}
_IN_TEXT = {
    MAJORITY: "the majority of all votes", POSTERIOR: "the posterior of all votes", SINGLE: "one vote a pair",
}  # fmt: skip
_TEACHES_MORE = ((POSTERIOR, SINGLE), (MAJORITY, SINGLE), (POSTERIOR, MAJORITY))


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A held-out pair. `votes` are for the first text, for neither and for the second; `tokens` of both texts."""

    group: str
    prompt: Sequence[Mapping[str, str]]
    texts: tuple[str, str]
    votes: tuple[int, int, int]
    tokens: tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A set: its held-out pairs, and what each rule's models prefer there.

    Attributes:
        margins: score of the first text over the second, nats, of each pair, a list a seed; `LONGER`: tokens instead.
        trained: pairs that each rule's models learned from.
    """

    title: str
    pairs: Sequence[Pair]
    margins: Mapping[str, Sequence[Sequence[float]]]
    trained: Mapping[str, int]

    @property
    def groups(self) -> list[str]:
        return [pair.group for pair in self.pairs]

    def agreement(self, rule: str) -> list[float]:
        """Share of a pair's decided votes that a model sides with, mean over the seeds."""
        return self._mean(rule, lambda margin, pair: sides_with(margin, votes=pair.votes))

    def accuracy(self, rule: str) -> evaluate.Estimate:
        """Share of the pairs with a majority whose better side a model prefers."""
        right = self._mean(rule, lambda margin, pair: sides_with(margin, votes=majority(pair.votes)))
        decided = [(r, p.group) for r, p in zip(right, self.pairs, strict=True) if not majority(p.votes)[1]]
        return clustered_share([r for r, _ in decided], [group for _, group in decided])

    def ceiling(self) -> Ceiling:
        """The best agreement with single votes that people's agreement on these pairs leaves room for."""
        votes = np.array([(pair.votes[0], pair.votes[2]) for pair in self.pairs], dtype=np.float64)
        groups = np.unique(np.array(self.groups), return_inverse=True)[1]
        return accuracy_ceiling(percent_agreement(votes, group=groups))

    def _mean(self, rule: str, judge: Callable[[float, Pair], float]) -> list[float]:
        of_seeds = [[judge(m, p) for m, p in zip(one, self.pairs, strict=True)] for one in self.margins[rule]]
        return [fmean(values) for values in zip(*of_seeds, strict=True)]


# --- from votes to margins --------------------------------------------------------------------------------------------


def run(lab: Lab) -> Findings:
    """Every set of the settings: frozen by every rule, models trained by those that the settings name."""
    frozen = crowd.frozen(lab)
    counter = measure(lab.steps.base)
    trials = for_each(list(lab.settings["sets"]), lambda name: _trial(lab, name, frozen, counter))
    return Findings(
        tables=[_accuracies(trials), _labels(frozen, lab.settings["sets"])],
        charts=[_chart(trials)],
        claims=[claim for trial in trials for claim in claims_of(trial)],
        reading=[_reading(trial) for trial in trials],
    )


def _trial(lab: Lab, name: str, frozen: Mapping[Wanted, Frozen], counter: Measure) -> Trial:
    plan = lab.settings["sets"][name]
    of_all = frozen[Wanted(name=name, rule=POSTERIOR, seed=0)]

    def tokens(line: Mapping[str, Any]) -> int:
        sides = (counter.completion(line["chosen"]), counter.completion(line["rejected"]))
        return counter.prompt(line["prompt"]) + sum(sides)

    learned = drawn(of_all.lines("train"), count=plan["train"], most_tokens=plan["most_tokens"], tokens=tokens)
    held_out = drawn(
        {key: line for key, line in of_all.lines("test").items() if _is_decided(line)},
        count=plan["test"],
        most_tokens=plan["most_tokens"],
        tokens=tokens,
    )
    pairs = [_pair(line, counter) for line in held_out.values()]
    if len({pair.group for pair in pairs}) < 2:
        raise ValueError(f"{name}: the held-out pairs are of one prompt group; no interval says anything about others")
    jobs = [(rule, seed) for rule in plan["trained"] for seed in lab.seeds]

    def lines_of(rule: str, seed: int) -> list[dict[str, Any]]:
        wanted = Wanted(name=name, rule=rule, seed=seed if RULES[rule].is_single else 0)
        labelled = frozen[wanted].lines("train")
        # A pair that no side of leads has a posterior, and no majority.
        return [labelled[key] for key in learned if key in labelled]

    def work(job: tuple[str, int]) -> list[float]:
        return _margins(lab, name, *job, lines=lines_of(*job), pairs=pairs)

    found = dict(zip(jobs, for_each(jobs, work), strict=True))
    by_length = [[float(pair.tokens[0] - pair.tokens[1]) for pair in pairs]]
    return Trial(
        title=plan["title"],
        pairs=pairs,
        margins={LONGER: by_length} | {rule: [found[rule, seed] for seed in lab.seeds] for rule in plan["trained"]},
        trained={rule: len(lines_of(rule, lab.seeds[0])) for rule in plan["trained"]},
    )


def drawn(
    lines: Mapping[str, dict[str, Any]], *, count: int, most_tokens: int, tokens: Callable[[Mapping[str, Any]], int]
) -> dict[str, dict[str, Any]]:
    """At most `count` of the lines with at most `most_tokens` tokens, the same ones for the same keys."""
    keys = sorted(lines)
    random.Random(1).shuffle(keys)  # noqa: S311 - draws no secret
    found: dict[str, dict[str, Any]] = {}
    for key in keys:
        if len(found) == count:
            break
        if tokens(lines[key]) <= most_tokens:
            found[key] = lines[key]
    return found


def sides_with(margin: float, *, votes: tuple[int, int, int]) -> float:
    """Share of the decided votes for the side that a margin prefers; ½ at 0, and where no vote decides."""
    first, _, second = votes
    if margin == 0 or not first + second:
        return 0.5
    return (first if margin > 0 else second) / (first + second)


def majority(votes: tuple[int, int, int]) -> tuple[int, int, int]:
    """All votes as one: for the side that most are for, for neither where no side leads alone."""
    first, tie, second = votes
    return (int(first > max(tie, second)), int(max(first, second) <= tie or first == second),
            int(second > max(tie, first)))  # fmt: skip


def _is_decided(line: Mapping[str, Any]) -> bool:
    votes = line["meta"]["votes"]
    return bool(votes["chosen"] + votes["rejected"])


def _pair(line: Mapping[str, Any], counter: Measure) -> Pair:
    votes, texts = line["meta"]["votes"], (line["chosen"], line["rejected"])
    return Pair(
        group=line["group"],
        prompt=line["prompt"],
        texts=texts,
        votes=(votes["chosen"], votes["tie"], votes["rejected"]),
        tokens=(counter.completion(texts[0]), counter.completion(texts[1])),
    )


def _margins(
    lab: Lab, name: str, rule: str, seed: int, *, lines: Sequence[Mapping[str, Any]], pairs: Sequence[Pair]
) -> list[float]:
    """A reward model of these lines, and its margin on each pair."""
    steps, settings = lab.steps, lab.settings
    title = f"{name} {rule} {seed}"
    snapshot = steps.snapshot(title, [{**line, "split": "train"} for line in lines])
    sections = merge(training_sections(settings), settings["reward"])
    data = {"snapshot": str(snapshot), "target": "posterior"}
    model = steps.policy(title, "reward", **sections, data=data, seed=seed)
    prompts, completions, places = asked(pairs)
    file = steps.file("completions", completions)
    answers = scored(steps, title, model, prompts, file, dtype=settings["dtype"])
    scores = {(answer.prompt, answer.index): answer.score for answer in answers}
    return [scores[first] - scores[second] for first, second in places]


Place = tuple[str, int]
"""Of a completion: its prompt's id, and its number there."""


def asked(pairs: Sequence[Pair]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[tuple[Place, Place]]]:
    """Prompts and completions as `score` reads them, each text once, and where both sides of each pair are."""
    ids: dict[str, str] = {}
    prompts: list[dict[str, Any]] = []
    known: dict[tuple[str, str], int] = {}
    completions: list[dict[str, Any]] = []

    def place(prompt: str, text: str) -> Place:
        if (prompt, text) not in known:
            known[prompt, text] = len(completions)
            completions.append(
                {"prompt_id": prompt, "index": len(completions), "text": text, "finish": "end", "tokens": 0}
            )
        return prompt, known[prompt, text]

    places = []
    for pair in pairs:
        said = "\n".join(f"{turn['role']}: {turn['content']}" for turn in pair.prompt)
        if said not in ids:
            ids[said] = f"p{len(ids)}"
            prompts.append({"id": ids[said], "prompt": list(pair.prompt)})
        places.append((place(ids[said], pair.texts[0]), place(ids[said], pair.texts[1])))
    return prompts, completions, places


# --- findings ---------------------------------------------------------------------------------------------------------


def _accuracies(trials: Sequence[Trial]) -> Table:
    rows: list[dict[str, Any]] = []
    for trial in trials:
        best = trial.ceiling().ceiling
        for rule in trial.margins:
            agreement = clustered_share(trial.agreement(rule), trial.groups)
            rows.append(
                {
                    "set": trial.title,
                    "labels": _NAMES[rule],
                    "trained": float(trial.trained[rule]) if rule in trial.trained else None,
                    "agreement": cell(agreement, n=len(trial.pairs)),
                    "accuracy": cell(trial.accuracy(rule), n=len(trial.pairs)),
                    "of_ceiling": None if best.value is None else agreement.value / best.value,
                }
            )
        rows.append(
            {
                "set": trial.title,
                "labels": "Human ceiling",
                "trained": None,
                "agreement": _shown(best),
                "accuracy": None,
                "of_ceiling": None,
            }
        )
    return Table(
        title="Held-out pairs",
        note="Intervals by prompt group; means over the seeds. The ceiling follows from how often two people agree on "
        "these pairs.",
        columns=[
            Column(key="set", label="Votes"),
            Column(key="labels", label="Labels"),
            Column(key="trained", label="Pairs learned from"),
            Column(key="agreement", label="Sides with single votes", unit="share"),
            Column(key="accuracy", label="Sides with the majority", unit="share"),
            Column(key="of_ceiling", label="Of the ceiling", unit="share"),
        ],
        rows=rows,
    )


def _shown(found: Any) -> Estimate | float | None:
    """A statistic as a result shows it: without interval where there is none, nothing where it does not exist."""
    if found.value is None or found.low is None or found.high is None:
        return None if found.value is None else float(found.value)
    return Estimate(value=float(found.value), low=float(found.low), high=float(found.high), n=int(found.n))


def _labels(frozen: Mapping[Wanted, Frozen], sets: Mapping[str, Any]) -> Table:
    """What the site froze under each rule, and how far the labels are those of the majority."""
    rows = []
    for wanted, one in frozen.items():
        row, of_all = one.row, frozen[Wanted(name=wanted.name, rule=MAJORITY, seed=0)]
        ceiling = row["ceiling"]["test"]["ceiling"] if row["ceiling"] else None
        rows.append(
            {
                "set": sets[wanted.name]["title"],
                "labels": RULES[wanted.rule].label + (f", seed {wanted.seed}" if wanted.seed else ""),
                "train": float(row["counts"]["train"]),
                "test": float(row["counts"]["test"]),
                "ties": float(row["ties"]),
                "undecided": float(row["dropped"].get("disputed", 0)),
                "same": same_side(one, of_all),
                "ceiling": None if ceiling is None else ceiling["value"],
                "leak": row["leak"]["prompt"] if row["leak"] else None,
            }
        )
    return Table(
        title="What was frozen",
        note="As the snapshots' page shows it, of all pairs of a set; disputed are those that no side of leads.",
        columns=[
            Column(key="set", label="Votes"),
            Column(key="labels", label="Labels"),
            Column(key="train", label="Pairs for training"),
            Column(key="test", label="Pairs held out"),
            Column(key="ties", label="Ties"),
            Column(key="undecided", label="Disputed"),
            Column(key="same", label="Same side as the majority", unit="share"),
            Column(key="ceiling", label="Ceiling, held out", unit="share"),
            Column(key="leak", label="Held-out prompts in training", unit="share"),
        ],
        rows=rows,
    )


def same_side(one: Frozen, other: Frozen) -> float:
    """Share of the pairs that both decide for which they decide alike."""
    theirs = {key: better(line) for part in ("train", "test") for key, line in other.lines(part).items()}
    ours = {key: better(line) for part in ("train", "test") for key, line in one.lines(part).items()}
    both = [(text, theirs[key]) for key, text in ours.items() if text is not None and theirs.get(key) is not None]
    return fmean(float(mine == other_text) for mine, other_text in both)


def better(line: Mapping[str, Any]) -> str | None:
    """The text that a label prefers; None for a tie."""
    return None if line["prob_chosen"] == 0.5 else str(line["chosen"])


def _chart(trials: Sequence[Trial]) -> Chart:
    rules = list(dict.fromkeys(rule for trial in trials for rule in trial.margins))
    series = [
        Series(
            name=_NAMES[rule],
            kind=Kind.POINTS,
            points=[
                _point(trial.title, cell(clustered_share(trial.agreement(rule), trial.groups), n=len(trial.pairs)))
                for trial in trials
                if rule in trial.margins
            ],
        )
        for rule in rules
    ]
    ceilings = [(trial.title, _shown(trial.ceiling().ceiling)) for trial in trials]
    points = [_point(title, shown) for title, shown in ceilings if shown is not None]
    if points:
        series.append(Series(name="Human ceiling", kind=Kind.POINTS, points=points))
    return Chart(
        title="Single votes that reward models side with",
        x=XAxis(label="Votes", scale=Scale.CATEGORY),
        y=YAxis(label="Share of held-out votes"),
        series=series,
        lines=[Line(axis=Across.Y, at=0.5, label="chance")],
    )


def _point(title: str, shown: Estimate | float) -> Point:
    if isinstance(shown, Estimate):
        return Point(x=title, y=shown.value, low=shown.low, high=shown.high)
    return Point(x=title, y=shown)


def difference(trial: Trial, rule: str, other: str) -> evaluate.Estimate:
    """How much more of the single votes a rule's models side with, pair by pair."""
    ours, theirs = trial.agreement(rule), trial.agreement(other)
    return clustered_mean([a - b for a, b in zip(ours, theirs, strict=True)], trial.groups)


def claims_of(trial: Trial) -> list[Claim]:
    """What a set decides: beyond its length baseline or not, below people's ceiling, and which labels teach more."""
    claims = [
        Claim(
            claim=f"{trial.title}: a model of {_IN_TEXT[rule]} sides with more votes than “pick the longer”, beyond a "
            "95 % interval",
            holds=(found := difference(trial, rule, LONGER)).low > 0,
            figure=in_points(found),
        )
        for rule in trial.trained
    ]
    upper = trial.ceiling().upper.value
    if upper is not None:
        shares = {rule: clustered_share(trial.agreement(rule), trial.groups) for rule in trial.trained}
        claims.append(
            Claim(
                claim=f"{trial.title}: no model sides with more votes than people's agreement allows",
                holds=all(share.low <= upper for share in shares.values()),
                figure="; ".join(worded(share) for share in shares.values()) + f"; at most {100 * upper:.0f} %",
            )
        )
    for more, less in _TEACHES_MORE:
        if more in trial.trained and less in trial.trained:
            found = difference(trial, more, less)
            claims.append(
                Claim(
                    claim=f"{trial.title}: {_IN_TEXT[more]} teaches more than {_IN_TEXT[less]}",
                    holds=True if found.low > 0 else False if found.high < 0 else None,
                    figure=in_points(found),
                )
            )
    return claims


def _reading(trial: Trial) -> str:
    best = trial.ceiling().ceiling.value
    of_models = ", ".join(
        f"{100 * fmean(trial.agreement(rule)):.0f} % of the single votes by {_IN_TEXT[rule]}" for rule in trial.trained
    )
    allowed = "" if best is None else f", where people's agreement allows {100 * best:.0f} %"
    return (
        f"{trial.title}: models side with {of_models}; “pick the longer” with "
        f"{100 * fmean(trial.agreement(LONGER)):.0f} %{allowed}."
    )


EXPERIMENT = Experiment(
    title="What reward models learn from people's votes",
    question="How close do reward models come to people's own agreement, and does it matter how votes become labels?",
    run=run,
)
