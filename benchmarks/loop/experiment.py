"""What an experiment is: a question, settings, and a function from a laboratory to findings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.loop import ballots, world
from benchmarks.loop.ballots import Ballots
from benchmarks.loop.results import Chart, Claim, Estimate, Setting, Table
from benchmarks.loop.shared import Shared
from benchmarks.loop.steps import Steps
from benchmarks.loop.world import World
from training.engine import evaluate
from training.engine.presets import merge

CONFIGS = Path(__file__).with_name("configs")
COMMON = "world"
"""The config whose sections all experiments begin with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What an experiment found out; `results.Result` says what each part holds."""

    tables: Sequence[Table]
    charts: Sequence[Chart]
    claims: Sequence[Claim]
    reading: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lab:
    """Where an experiment works, and with what.

    Attributes:
        settings: the common ones with the experiment's own laid over them.
        directory: of everything that experiments leave behind but their results; they share it.
        name: of the experiment; what only it needs lies below a directory of that name.
    """

    steps: Steps
    shared: Shared
    settings: Mapping[str, Any]
    seeds: Sequence[int]
    directory: Path
    name: str

    @contextmanager
    def opened(self) -> Iterator[tuple[World, Ballots]]:
        """The world, and an installation to vote in, whose processes are ended afterwards."""
        built = world.build(self.steps, self.shared, self.settings)
        with ballots.opened(built, self.directory / "ballots", home=self.directory / self.name) as turns:
            yield built, turns


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """One question, answered by a command."""

    title: str
    question: str
    run: Callable[[Lab], Findings]


def settings_of(name: str, setting: Setting) -> dict[str, Any]:
    """The experiment's settings of that size, over the common ones."""
    common, own = (
        json.loads((CONFIGS / f"{part}.json").read_text(encoding="utf-8"))[setting.value] for part in (COMMON, name)
    )
    return merge(common, own)


def cell(estimate: evaluate.Estimate, *, n: int) -> Estimate:
    """An estimate of the engine's functions as a result shows it, with what it is over."""
    return Estimate(value=estimate.value, low=estimate.low, high=estimate.high, n=n)


def worded(estimate: evaluate.Estimate, *, share: bool = True) -> str:
    """Such as `62 % [58, 66]`, or `0.41 [0.2, 0.62]`."""
    if share:
        return f"{100 * estimate.value:.0f} % [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def in_points(estimate: evaluate.Estimate) -> str:
    """A difference of two shares, such as `+3 points [-4, +10]`."""
    return f"{100 * estimate.value:+.0f} points [{100 * estimate.low:+.0f}, {100 * estimate.high:+.0f}]"
