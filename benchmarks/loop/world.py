"""What all experiments stand in: π^SFT, a gold reward that is the truth there, prompts, and figures held against it.

The gold reward is a reward model trained on preferences of people (the shared sets `human`, `debate`, `gsm8k`), less a
fixed loss for an answer that is cut off. It votes through simulated annotators and judges in the end; nothing that is
trained ever sees its scores. A policy's gain under it says how well the loop reaches what its voters like, and nothing
about people.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.loop.shared import Shared
from benchmarks.loop.steps import Steps, for_each
from training.engine.evaluate import Estimate, clustered_mean
from training.engine.win_rates import Contest, length_controlled_win_rate, outcome_of_scores, win_rate


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A completion with its score by a reward model, nats."""

    prompt: str
    index: int
    text: str
    finish: str
    tokens: int
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Models and prompts; all completions are at most `new_tokens` long.

    Attributes:
        sft, gold: directories of the two models. demonstrations: snapshot that π^SFT learned from.
        train, held_out: {id, group, prompt}; no prompt is in both.
        settings: of the experiment.
    """

    steps: Steps
    sft: Path
    gold: Path
    demonstrations: Path
    train: Sequence[Mapping[str, Any]]
    held_out: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]

    @property
    def new_tokens(self) -> int:
        return int(self.settings["new_tokens"])

    @property
    def training(self) -> dict[str, Any]:
        """Sections that every training step begins with: precision, adapter, evaluations as few as there can be."""
        return training_sections(self.settings)

    def sampled(self, name: str, policy: Path, prompts: Sequence[Mapping[str, Any]], *, count: int, seed: int) -> Path:
        """The file of `count` completions of each prompt at temperature 1."""
        return (
            self.steps.run(
                f"sample {name}",
                {
                    "method": "sample",
                    "seed": seed,
                    "models": {"policies": [{"name": name, "path": str(policy)}]},
                    "data": {"prompts": str(self.steps.file("prompts", prompts))},
                    "sampling": {"completions": count, "max_new_tokens": self.new_tokens, "batch_size": 32},
                },
            )
            / "completions.jsonl"
        )

    def scored(self, name: str, reward: Path, prompts: Sequence[Mapping[str, Any]], completions: Path) -> list[Answer]:
        """Those completions with a reward model's scores."""
        return scored(self.steps, name, reward, prompts, completions, dtype=self.settings["dtype"])

    def by_gold(self, name: str, prompts: Sequence[Mapping[str, Any]], completions: Path) -> list[Answer]:
        """Those completions as gold likes them: its reward model's score, less `cut_off` nats where they are cut."""
        loss = float(self.settings["gold"]["cut_off"])
        return [
            replace(answer, score=answer.score - loss) if answer.finish == "length" else answer
            for answer in self.scored(f"gold {name}", self.gold, prompts, completions)
        ]

    def judged(self, name: str, policy: Path, *, seed: int) -> list[Answer]:
        """What a policy answers to the held-out prompts, with gold's scores."""
        count = int(self.settings["held_out_samples"])
        completions = self.sampled(name, policy, self.held_out, count=count, seed=seed)
        return self.by_gold(name, self.held_out, completions)


def scored(
    steps: Steps, name: str, reward: Path, prompts: Sequence[Mapping[str, Any]], completions: Path, *, dtype: str
) -> list[Answer]:
    """Completions of a file with a reward model's scores, in the file's order."""
    done = steps.run(
        f"score {name}",
        {
            "method": "score",
            "models": {"reward": str(reward)},
            "data": {"prompts": str(steps.file("prompts", prompts)), "completions": str(completions)},
            "precision": {"dtype": dtype},
        },
    )
    scores = {(row["prompt_id"], row["index"]): row["score"] for row in read_lines(done / "scores.jsonl")}
    return [
        Answer(
            prompt=row["prompt_id"],
            index=row["index"],
            text=row["text"],
            finish=row["finish"],
            tokens=row["tokens"],
            score=scores[row["prompt_id"], row["index"]],
        )
        for row in read_lines(completions)
    ]


def training_sections(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Sections that every training step begins with, out of an experiment's settings."""
    return {
        "precision": {"dtype": settings["dtype"]},
        "adapter": settings["adapter"],
        "eval": {"every": 100_000, "prompts": 4},
        "checkpoint": {"every": 100_000, "keep": 1},
    }


def build(steps: Steps, shared: Shared, settings: Mapping[str, Any]) -> World:
    """π^SFT and the gold reward, trained unless they were before, and the prompts."""
    prompts = shared.prompts(
        most_tokens=settings["prompt_tokens"], count=settings["train_prompts"] + settings["held_out_prompts"], seed=1
    )
    held_out, train = prompts[: settings["held_out_prompts"]], prompts[settings["held_out_prompts"] :]
    common, sft, gold = training_sections(settings), settings["sft"], settings["gold"]

    rows = shared.demonstrations(most_prompt=sft["prompt_tokens"], most_response=sft["response_tokens"])
    demonstrations = steps.snapshot("demonstrations", rows)

    def policy() -> Path:
        return steps.policy(
            "sft",
            "sft",
            **common,
            seed=1,
            data={"snapshot": str(demonstrations)},
            batch={"examples": sft["examples"], "epochs": sft["epochs"]},
            optim={"learning_rate": sft["learning_rate"]},
        )

    def reward() -> Path:
        rows = shared.preferences(
            [(str(name), int(most), int(count)) for name, most, count in gold["preferences"]], seed=1
        )
        return steps.policy(
            "gold",
            "reward",
            **{**common, "eval": {**common["eval"], "pairs": 32}},
            seed=1,
            data={"snapshot": str(steps.snapshot("preferences", rows)), "target": "posterior"},
            batch={"pairs": gold["pairs"], "epochs": gold["epochs"]},
            optim={"learning_rate": gold["learning_rate"]},
        )

    made, judge = for_each((policy, reward), lambda make: make())
    return World(
        steps=steps,
        sft=made,
        gold=judge,
        demonstrations=demonstrations,
        train=train,
        held_out=held_out,
        settings=settings,
    )


def wins(ours: Sequence[Answer], theirs: Sequence[Answer]) -> list[Contest]:
    """Each completion beside that of the other policy with the same prompt and index."""
    other = {(answer.prompt, answer.index): answer for answer in theirs}
    return [
        Contest(
            group=answer.prompt,
            outcome=outcome_of_scores(answer.score, other[answer.prompt, answer.index].score),
            tokens=answer.tokens,
            other_tokens=other[answer.prompt, answer.index].tokens,
        )
        for answer in ours
    ]


def compare(ours: Sequence[Answer], theirs: Sequence[Answer]) -> dict[str, Estimate]:
    """Figures of a policy beside another under gold, each with its interval by prompt.

    Returns:
        win_rate, length_controlled (both shares); gain: mean difference of scores, nats; length: mean tokens.
    """
    contests = wins(ours, theirs)
    other = {(answer.prompt, answer.index): answer for answer in theirs}
    gains = [answer.score - other[answer.prompt, answer.index].score for answer in ours]
    groups = [answer.prompt for answer in ours]
    return {
        "win_rate": win_rate(contests),
        "length_controlled": length_controlled_win_rate(contests),
        "gain": clustered_mean(gains, groups),
        "length": clustered_mean([float(answer.tokens) for answer in ours], groups),
    }


def vote_scale(pairs: Iterable[tuple[float, float]], *, agreement: float) -> float:
    """The factor c for which somebody who votes by σ(c·Δ) sides with gold in `agreement` of these pairs, by bisection.

    Args:
        pairs: gold's scores of both sides, nats. agreement: in (½, 1).

    Raises:
        ValueError: no factor reaches it, since too many scores are equal.
    """
    differences = [abs(one - other) for one, other in pairs]

    def share(scale: float) -> float:
        return fmean((1 + math.tanh(scale * difference / 2)) / 2 for difference in differences)

    low, high = 0.0, 1.0
    while share(high) < agreement:
        high *= 2
        if high > 1e6:
            raise ValueError(f"no scale makes an agreement of {agreement}: too many scores are equal")
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) < agreement else (low, middle)
    return high


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
