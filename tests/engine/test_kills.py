"""SIGKILL at ten random moments of a run: it ends with the same weights, and each step is there once."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.engine.engine_runs import places, start_child, steps_of, wait_until
from tests.engine.planted import planted_config
from tests.engine.sampled_runs import check_same_end, run_here, sampled_config, sampled_places

_ = places, sampled_places
KILLS = 10


def config_of(method: str, places: dict[str, Path], sampled_places: dict[str, Path]) -> dict[str, Any]:
    if method == "ppo":
        batch = {"iterations": 8, "completions": 32, "minibatch": 16, "inner_epochs": 2}
        changes: dict[str, Any] = {"batch": batch, "ppo": {"inner_kl_target": None}, "checkpoint": {"every": 3}}
        return sampled_config("ppo", sampled_places, **changes)
    return planted_config(method, **places, batch={"epochs": 10}, checkpoint={"every": 3})


@pytest.mark.slow
@pytest.mark.parametrize("method", ["reward", "dpo", "ppo"])
def test_ten_kills_change_nothing(
    method: str, places: dict[str, Path], sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    config = config_of(method, places, sampled_places)
    assert run_here(config, tmp_path / "whole") == 0
    whole = steps_of(tmp_path / "whole")
    chance = random.Random(20261121)
    # Ascending, so that each attempt gets as far as its moment; the pause falls anywhere within a step or a save.
    for step in sorted(chance.sample(range(1, whole[-1] - 1), KILLS)):
        child = start_child(config, tmp_path / "killed")
        wait_until(lambda: max(steps_of(tmp_path / "killed"), default=0) >= step)  # noqa: B023 - waited for at once
        time.sleep(chance.random() * 0.1)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        assert not (tmp_path / "killed" / "result.json").exists()
    assert run_here(config, tmp_path / "killed") == 0
    assert steps_of(tmp_path / "killed") == whole
    check_same_end(tmp_path / "killed", tmp_path / "whole")
