"""One turn of an experiment through a real site: sampled by its worker, voted on through its API, frozen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from annotation.simulation import panel
from benchmarks.loop.ballots import opened
from tests.tiny_world import PROMPTS, tiny_steps, world_of


@pytest.mark.e2e
def test_a_turn_goes_through_a_real_site(tmp_path: Path) -> None:
    steps = tiny_steps(tmp_path)
    world = world_of(steps, tmp_path)
    people = panel(1, 3, skill=3.0, lapse=0.0)
    with opened(world, tmp_path / "ballots", home=tmp_path / "home") as ballots:
        ballot = ballots.collect("turn", steps.base, PROMPTS, seed=1, people=people, project={"overlap": 3})
        again = ballots.collect("turn", steps.base, PROMPTS, seed=1, people=people, project={"overlap": 3})
    assert again == ballot
    lines = [line for file in ballot.snapshot.glob("*.jsonl") for line in file.open()]
    assert 0 < len(lines) == ballot.comparisons <= len(PROMPTS)
    assert ballot.votes == 3 * ballot.comparisons
    assert 0.5 < ballot.agreement <= 1
    assert {"chosen", "rejected", "prob_chosen"} <= json.loads(lines[0]).keys()
