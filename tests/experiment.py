"""A result of an experiment, for tests: its figures are invented, and every kind of chart and cell occurs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from training.experiment_format import (
    Across,
    Chart,
    Claim,
    Column,
    Estimate,
    Kind,
    Line,
    Point,
    Provenance,
    Result,
    Scale,
    Series,
    Setting,
    Table,
    XAxis,
    YAxis,
)

FINISHED = datetime(2026, 11, 20, 14, 5, tzinfo=UTC)
METHODS = {  # win rate over the base model with its interval, KL in nats, GPU seconds
    "SFT": (0.548, 0.519, 0.577, 2.1, 41.0),
    "DPO": (0.641, 0.612, 0.669, 9.8, 118.0),
    "IPO": (0.612, 0.583, 0.641, 7.4, 121.0),
    "KTO": (0.588, 0.558, 0.617, 6.9, 117.0),
    "PPO": (0.633, 0.604, 0.661, 11.2, 964.0),
    "Best of 16": (0.667, 0.639, 0.694, 1.8, 12.5),
}
DRAWS = (1, 2, 4, 8, 16, 32, 64)


def result(**changes: Any) -> Result:
    """The example with some of its fields changed."""
    values: dict[str, Any] = {
        "experiment": "example",
        "title": "Methods on the same preferences",
        "question": "Do policies trained on simulated votes beat the model that they came from?",
        "setting": Setting.SMALL,
        "command": "python -m benchmarks.loop example --setting small",
        "finished": FINISHED,
        "seconds": 1834.2,
        "seeds": (1, 2, 3),
        "provenance": provenance(),
        "tables": (table(),),
        "charts": (bars(), curves(), draws()),
        "claims": (
            Claim(claim="DPO beats the base model", holds=True, figure="64.1 % [61.2, 66.9], n 1,104"),
            Claim(claim="PPO beats DPO", holds=None, figure="−0.8 points [−4.9, 3.3], n 1,104"),
            Claim(claim="SFT alone is as good as DPO", holds=False, figure="−9.3 points [−13.2, −5.4], n 1,104"),
        ),
        "reading": (
            "Every method that saw the votes beats the base model.",
            "Best of 16 wins at the least KL, and pays for it with every answer.",
            "Between DPO and PPO the intervals overlap: more prompts would be needed to tell them apart.",
        ),
    } | changes
    return Result(**values)


def provenance() -> Provenance:
    return Provenance(
        commit="3f9c1d2ab04e",
        machine={"system": "Linux", "cpus": 16, "memory_gib": 128.0, "python": "3.11.9", "load": [0.4, 0.6, 0.5]},
        versions={"torch": "2.13.0", "transformers": "5.3.2"},
        models={"smollm2-135m-instruct": "5a" * 32},
        data={"prompts.jsonl": "c3" * 32},
        config={"optim": {"learning_rate": 5e-6}, "steps": 120},
    )


def table() -> Table:
    columns = (
        Column(key="method", label="Method"),
        Column(key="win_rate", label="Win rate against the base", unit="share"),
        Column(key="kl", label="KL", unit="nats"),
        Column(key="seconds", label="Training", unit="s"),
        Column(key="note", label="Note"),
    )
    rows = [
        {
            "method": name,
            "win_rate": Estimate(value=win, low=low, high=high, n=1104),
            "kl": kl,
            "seconds": seconds,
            "note": "draws at every answer" if name.startswith("Best") else None,
        }
        for name, (win, low, high, kl, seconds) in METHODS.items()
    ]
    return Table(title="Methods", note="Means over three seeds; 95 % intervals by prompt.", columns=columns, rows=rows)


def bars() -> Chart:
    judges = (("held-out judge", 0.0), ("the reward model it trained on", 0.07))
    return Chart(
        title="Win rate by method",
        x=XAxis(label="Method", scale=Scale.CATEGORY),
        y=YAxis(label="Win rate against the base model"),
        series=[
            Series(
                name=name,
                kind=Kind.BARS,
                points=[
                    Point(x=method, y=win + more, low=low + more, high=high + more)
                    for method, (win, low, high, _, _) in METHODS.items()
                ],
            )
            for name, more in judges
        ],
        lines=[Line(axis=Across.Y, at=0.5, label="chance")],
    )


def curves() -> Chart:
    steps = range(0, 121, 10)
    return Chart(
        title="Reward over training",
        x=XAxis(label="Step"),
        y=YAxis(label="Reward of the held-out judge"),
        series=[
            Series(
                name=name,
                points=[
                    Point(x=step, y=y, low=y - 0.05, high=y + 0.05)
                    for step, y in ((step, top * (1 - 0.97**step)) for step in steps)
                ],
            )
            for name, top in (("DPO", 0.71), ("PPO", 0.68), ("SFT", 0.2))
        ],
        lines=[Line(axis=Across.X, at=60, label="half of the steps")],
    )


def draws() -> Chart:
    return Chart(
        title="Best of n",
        x=XAxis(label="Completions drawn", scale=Scale.LOG),
        y=YAxis(label="Win rate against one draw"),
        series=[
            Series(name="expected", points=[Point(x=n, y=n / (n + 1)) for n in DRAWS]),
            Series(
                name="measured",
                kind=Kind.POINTS,
                points=[
                    Point(x=n, y=n / (n + 1) - 0.02, low=n / (n + 1) - 0.05, high=n / (n + 1) + 0.01) for n in DRAWS
                ],
            ),
        ],
    )
