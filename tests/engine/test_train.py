from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.engine_runs import error_of, lines_of, places, result_of, run_here, steps_of
from tests.engine.planted import planted_config, planted_snapshot
from training.engine.config import to_dict
from training.engine.metrics import METRICS
from training.engine.models import load_policy, load_reward_model

_ = places


def test_a_reward_model_learns_the_planted_preference(places: dict[str, Path], tmp_path: Path) -> None:
    assert run_here(planted_config("reward", **places), tmp_path / "out") == 0
    result = result_of(tmp_path / "out")
    assert result["status"] == "done"
    assert result["metrics"]["test/accuracy"] == 1.0
    assert result["metrics"]["test/longer_wins"] == 0.5
    assert result["metrics"]["test/accuracy_low"] == pytest.approx(0.025 ** (1 / 4))
    assert steps_of(tmp_path / "out") == list(range(13))
    first = lines_of(tmp_path / "out" / "metrics.jsonl")[0]
    assert (first["data/pairs"], first["data/ties"], first["data/dropped_too_long"]) == (24, 3, 0)


def test_dpo_starts_at_log_two_and_learns_the_planted_preference(places: dict[str, Path], tmp_path: Path) -> None:
    assert run_here(planted_config("dpo", **places), tmp_path / "out") == 0
    lines = lines_of(tmp_path / "out" / "metrics.jsonl")
    assert lines[0]["eval/loss"] == pytest.approx(math.log(2), abs=1e-9)
    assert lines[0]["rollout/kl"] == 0
    assert lines[1]["train/loss"] == pytest.approx(math.log(2), abs=1e-9)
    assert lines[1]["policy/margin"] == 0
    metrics = result_of(tmp_path / "out")["metrics"]
    assert metrics["test/accuracy"] == 1.0
    assert metrics["eval/loss"] < 0.65
    assert metrics["policy/logp_chosen_change"] > metrics["policy/logp_rejected_change"]
    assert metrics["rollout/kl"] != 0


@pytest.mark.parametrize("method", ["reward", "dpo"])
def test_every_file_of_a_run_is_there(method: str, places: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = planted_config(method, **places, batch={"epochs": 1})
    assert run_here(config, out) == 0
    assert json.loads((out / "config.json").read_text()) == config
    assert json.loads((out / "environment.json").read_text())["torch"] == torch.__version__
    assert json.loads((out / "status.json").read_text())["phase"] == "done"
    samples = lines_of(out / "samples.jsonl")
    assert {line["step"] for line in samples} == set(range(4))
    assert samples[-1]["completion"] is not None
    wanted = {"score"} if method == "reward" else {"reward", "kl"}
    assert all(wanted <= line.keys() and line["length"] > 0 for line in samples)
    names = {name for line in lines_of(out / "metrics.jsonl") for name in line if "/" in name}
    assert names <= METRICS.keys()
    last = result_of(out)["checkpoints"]["last"]
    folder = out / last["path"]
    expected = {"adapter/adapter_model.safetensors", "winnow.json", "state.safetensors", "state.json", "manifest.json"}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert expected <= found
    assert ("head.safetensors" in found) == (method == "reward")
    facts = json.loads((folder / "winnow.json").read_text())
    assert (facts["method"], facts["step"]) == (method, 3)
    assert (facts["reward"] is not None) == (method == "reward")
    assert not any(path.name.startswith(".") for path in out.rglob("*"))


@pytest.mark.parametrize("method", ["reward", "dpo"])
def test_all_weights_can_be_trained(method: str, places: dict[str, Path], tmp_path: Path) -> None:
    config = planted_config(method, **places, adapter=None, batch={"epochs": 1}, optim={"learning_rate": 1e-2})
    assert run_here(config, tmp_path / "out") == 0
    folder = tmp_path / "out" / result_of(tmp_path / "out")["checkpoints"]["last"]["path"]
    load: Any = load_policy if method == "dpo" else lambda path: load_reward_model(path, seed=1)
    trained, base = load(folder / "model"), load(places["base"])
    moved = [not torch.equal(a, b) for a, b in zip(trained.parameters(), base.parameters(), strict=True)]
    assert all(moved)
    if method == "dpo":
        assert result_of(tmp_path / "out")["metrics"]["rollout/kl"] != 0


def test_the_split_into_micro_batches_changes_nothing(places: dict[str, Path], tmp_path: Path) -> None:
    for method in ("reward", "dpo"):
        weights = []
        for micro_tokens in (64, 4096):
            out = tmp_path / f"{method}-{micro_tokens}"
            config = planted_config(method, **places, batch={"epochs": 1}, optim={"learning_rate": 1e-3, "eps": 1e-3})
            assert run_here({**config, "memory": {"micro_tokens": micro_tokens}}, out) == 0
            weights.append(load_file(out / "checkpoints" / "step-3" / "adapter" / "adapter_model.safetensors"))
        for name, one in weights[0].items():
            assert torch.allclose(one, weights[1][name], rtol=1e-4, atol=1e-6), name


def test_centring_draws_scores_to_zero(places: dict[str, Path], tmp_path: Path) -> None:
    off = {}
    for centring in (0.0, 1.0):
        config = planted_config("reward", **places, reward={"centring": centring})
        assert run_here(config, tmp_path / str(centring)) == 0
        off[centring] = abs(result_of(tmp_path / str(centring))["metrics"]["train/score_mean"])
    assert off[1.0] < off[0.0]


@pytest.mark.parametrize("method", ["reward", "dpo"])
def test_one_pair_and_no_held_out_part_are_enough(method: str, places: dict[str, Path], tmp_path: Path) -> None:
    planted_snapshot(tmp_path / "one", train=1, validation=0, test=0)
    config = planted_config(method, base=places["base"], snapshot=tmp_path / "one", batch={"epochs": 2})
    assert run_here(config, tmp_path / "out") == 0
    result = result_of(tmp_path / "out")
    assert result["checkpoints"]["best"] is None
    assert result["checkpoints"]["last"]["step"] == 2


def test_the_number_of_steps_can_be_bounded(places: dict[str, Path], tmp_path: Path) -> None:
    assert run_here(planted_config("reward", **places, stop={"max_steps": 2}), tmp_path / "out") == 0
    assert steps_of(tmp_path / "out") == [0, 1, 2]


def test_too_long_pairs_are_dropped_and_counted_only_when_allowed(places: dict[str, Path], tmp_path: Path) -> None:
    config = planted_config("reward", **places, data={"max_tokens": 24}, batch={"epochs": 1})
    assert run_here(config, tmp_path / "refused") == 3
    assert "data.allow_drop" in error_of(tmp_path / "refused")["message"]
    config["data"]["allow_drop"] = True
    assert run_here(config, tmp_path / "allowed") == 0
    first = lines_of(tmp_path / "allowed" / "metrics.jsonl")[0]
    assert first["data/dropped_too_long"] > 0
    assert first["data/pairs"] + first["data/dropped_too_long"] == 24


def test_the_config_that_ran_is_the_one_asked_for(places: dict[str, Path]) -> None:
    from training.engine.config import parse_config

    assert to_dict(parse_config(planted_config("dpo", **places)))["dpo"]["beta"] == 0.1
