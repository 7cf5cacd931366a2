"""One run on two processes: the same losses as on one, and checkpoints that either can go on from."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engine.engine_runs import ROOT, lines_of, places, result_of, run_here, steps_of
from tests.engine.planted import planted_config
from tests.engine.sampled_runs import sampled_config, sampled_places
from tests.engine.test_bestofn import best_of_n_config, expert_config
from tests.engine.test_sft import demonstration, sft_config
from tests.engine.test_sft import write as demonstrated

_ = places, sampled_places
STEPS = 5
TOLERANCE = 1e-5
"""Relative, of every loss and norm: sums in another order are all that differs."""
COMPARED = ("train/loss", "train/grad_norm", "rollout/score", "rollout/kl", "eval/loss", "eval/score", "ppo/value_loss")


def run_on_two(config: dict[str, Any], out: Path, *flags: str) -> None:
    path = out.parent / f"{out.name}.request.json"
    path.write_text(json.dumps(config))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "training.engine", "run", str(path), "--out", str(out), *flags],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def check_equal(first: Path, second: Path) -> None:
    ours, theirs = lines_of(first / "metrics.jsonl"), lines_of(second / "metrics.jsonl")
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    compared = 0
    for one, two in zip(ours, theirs, strict=True):
        assert one.keys() == two.keys()
        assert one["tokens"] == two["tokens"]
        for name in COMPARED:
            if name in one:
                compared += 1
                assert math.isclose(one[name], two[name], rel_tol=TOLERANCE, abs_tol=TOLERANCE), (name, one["step"])
    assert compared > STEPS


def offline(method: str, places: dict[str, Path], **changes: Any) -> dict[str, Any]:
    """A gentle rate: Adam turns a difference of rounding in a tiny gradient into one of its whole step."""
    config = planted_config(method, **places, optim={"learning_rate": 1e-3, "eps": 1e-3}, **changes)
    return {
        **config,
        "stop": {**config["stop"], "max_steps": STEPS},
        "memory": {**config["memory"], "micro_tokens": 96},
    }


def sampling(method: str, places: dict[str, Path], **changes: Any) -> dict[str, Any]:
    iterations = {"iterations": STEPS, "completions": 16}
    return sampled_config(method, places, batch=iterations, optim={"learning_rate": 1e-3, "eps": 1e-3}, **changes)


@pytest.mark.parametrize("adapter", [None, {"rank": 4, "alpha": 8}], ids=["all weights", "LoRA"])
@pytest.mark.parametrize("method", ["reward", "dpo", "kto"])
def test_two_ranks_have_the_losses_of_one(
    method: str, adapter: dict[str, int] | None, places: dict[str, Path], tmp_path: Path
) -> None:
    config = offline(method, places, adapter=adapter)
    assert run_here(config, tmp_path / "one") == 0
    run_on_two(config, tmp_path / "two")
    check_equal(tmp_path / "one", tmp_path / "two")


def test_a_checkpoint_of_two_ranks_goes_on_with_one_and_back(places: dict[str, Path], tmp_path: Path) -> None:
    config = offline("reward", places, adapter=None, checkpoint={"every": 2, "keep": 9})
    assert run_here(config, tmp_path / "one") == 0
    run_on_two(config, tmp_path / "two")
    for name, start in (("one", "two"), ("two", "one")):
        out = tmp_path / f"{name} from {start}"
        former = tmp_path / start / "checkpoints" / "step-2"
        if name == "one":
            assert run_here(config, out, resume=former) == 0
        else:
            run_on_two(config, out, "--resume", str(former))
        assert steps_of(out) == [3, 4, 5]
        ours, theirs = (lines_of(place / "metrics.jsonl")[-1]["train/loss"] for place in (out, tmp_path / "one"))
        assert math.isclose(ours, theirs, rel_tol=TOLERANCE)
        assert result_of(out)["status"] == "done"


def test_two_ranks_learn_demonstrations_as_one_does(places: dict[str, Path], tmp_path: Path) -> None:
    snapshot = demonstrated(tmp_path / "snapshot", [demonstration(number) for number in range(24)])
    config = sft_config(places["base"], snapshot, optim={"learning_rate": 1e-3, "eps": 1e-3}, stop={"max_steps": STEPS})
    assert run_here(config, tmp_path / "one") == 0
    run_on_two(config, tmp_path / "two")
    check_equal(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("method", ["rloo", "grpo", "ppo", "online_dpo", "quark"])
def test_two_ranks_sample_and_score_what_one_does(method: str, sampled_places: dict[str, Path], tmp_path: Path) -> None:
    config = sampling(method, sampled_places)
    assert run_here(config, tmp_path / "one") == 0
    run_on_two(config, tmp_path / "two")
    check_equal(tmp_path / "one", tmp_path / "two")


def test_two_ranks_choose_among_the_scores_of_one(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    """Each rank scores what it has written itself, by the models that choose and by those that do not."""
    config = best_of_n_config(sampled_places, models={"held_out": [str(sampled_places["other"])]})
    assert run_here(config, tmp_path / "one") == 0
    run_on_two(config, tmp_path / "two")
    ours, theirs = (lines_of(tmp_path / name / "candidates.jsonl") for name in ("one", "two"))
    assert len(ours) == len(theirs) > 8 * STEPS
    assert len({line["score"] for line in ours}) > STEPS
    for one, two in zip(ours, theirs, strict=True):
        assert [one[name] for name in ("prompt_id", "index", "text")] == [two["prompt_id"], two["index"], two["text"]]
        for name in ("score", "held_out_score"):
            assert math.isclose(one[name], two[name], rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    for name in ("demonstrations", "pairs"):
        ours, theirs = (lines_of(tmp_path / out / name / "train.jsonl") for out in ("one", "two"))
        assert [line["id"] for line in ours] == [line["id"] for line in theirs] != []


def test_two_ranks_learn_from_the_best_of_n_as_one_does(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    changes = {"optim": {"learning_rate": 1e-3, "eps": 1e-3}, "stop": {"max_steps": STEPS}}
    config = expert_config(sampled_places, **changes)
    assert run_here(config, tmp_path / "one") == 0
    run_on_two(config, tmp_path / "two")
    check_equal(tmp_path / "one", tmp_path / "two")
