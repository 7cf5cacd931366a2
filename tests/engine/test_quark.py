"""Quark: it learns what the reward model prefers; its loss is the one written down; its pool outlives a kill."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.engine_runs import (
    error_of,
    lines_of,
    result_of,
    run_here,
    same_numbers,
    start_child,
    steps_of,
    wait_until,
)
from tests.engine.sampled_runs import sampled_config, sampled_places, taught_policy
from tests.engine.test_conditioning import DEAF
from tests.engine.test_resume import weights_of
from tests.engine.tiny import tiny_model
from training.engine import quark
from training.engine.config import QuarkConfig, parse_config
from training.engine.examples import control_of, load_prompts, with_control
from training.engine.metrics import METRICS
from training.engine.models import load_policy
from training.engine.presets import merge
from training.engine.sections import PromptsConfig
from training.engine.supervision import Supervision
from training.engine.text import load_text

_ = sampled_places


def config_of(places: dict[str, Path], quantiles: str, **overrides: Any) -> dict[str, Any]:
    """Two optimizer steps an iteration."""
    own = {"quark": {"quantiles": quantiles}, "batch": {"minibatch": 4 if quantiles == "best" else 16}}
    return merge(sampled_config("quark", places, **own), overrides)


def parsed(raw: dict[str, Any]) -> QuarkConfig:
    config = parse_config(raw)
    assert isinstance(config, QuarkConfig)
    return config


@pytest.fixture(scope="module")
def attentive(sampled_places: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same places with a policy whose first weights are large enough to attend to a control."""
    root = tmp_path_factory.mktemp("attentive")
    return {**sampled_places, "base": taught_policy(root / "base", base=tiny_model(root / "tiny", spread=0.1))}


@pytest.mark.parametrize(
    ("quantiles", "adapter", "rate"),
    [("best", None, 3e-3), ("best", {"rank": 16}, 2e-2), ("all", None, 1e-2)],
    ids=["best", "best with lora", "all"],
)
def test_the_score_rises(
    quantiles: str, adapter: dict[str, int] | None, rate: float, attentive: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    raw = config_of(attentive, quantiles, adapter=adapter, optim={"learning_rate": rate}, eval={"prompts": 16})
    raw = merge(raw, {"batch": {"iterations": 8, "inner_epochs": 2}})
    if quantiles == "all":
        raw["quark"] |= {"parts": 2, "controls": ["good good good", "bad bad bad"]}
    assert run_here(raw, out) == 0
    lines = lines_of(out / "metrics.jsonl")
    assert len(lines) == 1 + 8 * 4
    sampled = [line["rollout/score"] for line in lines if "rollout/score" in line]
    assert len(sampled) == 8
    assert sum(sampled[-2:]) / 2 > sampled[0] + 0.5
    assert lines[0]["eval/kl"] == 0
    assert lines[-1]["eval/kl"] > 0
    assert lines[-1]["eval/score"] > lines[0]["eval/score_high"]
    if quantiles == "best":
        assert lines[1]["quark/trained_score"] > sampled[0]  # of the top quarter of what was sampled


def test_the_best_control_is_written_and_sampled_under(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_here(config_of(sampled_places, "all", batch={"iterations": 2}), out) == 0
    assert control_of(out / result_of(out)["checkpoints"]["last"]["path"]) == "Quality: 1 of 4."
    samples = lines_of(out / "samples.jsonl")
    assert {line.get("control") for line in samples if line["step"] == 0} == {None}
    assert {line["control"] for line in samples if line["step"] == 4} == {"Quality: 1 of 4."}
    assert all({"score", "kl", "completion"} <= line.keys() for line in samples)
    assert run_here(config_of(sampled_places, "best", batch={"iterations": 1}), tmp_path / "best") == 0
    last = tmp_path / "best" / result_of(tmp_path / "best")["checkpoints"]["last"]["path"]
    assert control_of(last) is None


def test_the_pool_is_kept_with_controls_and_cleared_without(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    for quantiles, expected in (("all", [32, 64, 96]), ("best", [32, 32, 32])):
        out = tmp_path / quantiles
        assert run_here(config_of(sampled_places, quantiles, batch={"iterations": 3}), out) == 0
        lines = lines_of(out / "metrics.jsonl")
        assert [line["quark/pool"] for line in lines if "quark/pool" in line] == expected
        assert {name for line in lines for name in line if "/" in name} <= METRICS.keys()


def log_softmax_of(model: Any, prompt: list[int], completion: list[int]) -> Tensor:
    """log π of the whole vocabulary at each completion token, by the model's own forward pass, [T, V]."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + completion])).logits[0]
    return logits[len(prompt) - 1 : -1].double().log_softmax(dim=-1)


@pytest.mark.parametrize("quantiles", ["best", "all"])
@pytest.mark.parametrize("micro_tokens", [16, 4096])
def test_the_loss_is_the_one_that_is_written_down(
    quantiles: str, micro_tokens: int, sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    beta, weight = 0.5, 0.25
    raw = config_of(
        sampled_places,
        quantiles,
        batch={"iterations": 1, "minibatch": None, "per_prompt": 4},
        quark={"beta": beta, "entropy_weight": weight},
        memory={"micro_tokens": micro_tokens},
        checkpoint={"every": 1},
    )
    out = tmp_path / "out"
    assert run_here(raw, out) == 0
    state = json.loads((out / "checkpoints" / "step-1" / "state.json").read_text())
    pool = state["method"]["pool"]
    assert len(pool) == 32
    text, model = load_text(sampled_places["base"]), load_policy(sampled_places["base"])
    data = PromptsConfig(snapshot=str(sampled_places["snapshot"]))
    messages = {item.id: item.prompt for item in load_prompts("train", data=data, text=text).examples}
    by_score = sorted(range(32), key=lambda index: -pool[index]["score"])
    totals = {"nll": 0.0, "kl": 0.0, "entropy": 0.0, "tokens": 0.0}
    for rank, index in enumerate(by_score[: 8 if quantiles == "best" else 32]):
        completion, turns = pool[index]["token_ids"], messages[pool[index]["prompt_id"]]
        read = turns if quantiles == "best" else with_control(turns, f"Quality: {rank // 8 + 1} of 4.")
        ours = log_softmax_of(model, text.prompt_ids(read), completion)
        theirs = log_softmax_of(model, text.prompt_ids(turns), completion)
        totals["nll"] -= float(ours[torch.arange(len(completion)), completion].sum())
        totals["kl"] += float((ours.exp() * (ours - theirs)).sum())
        totals["entropy"] -= float((ours.exp() * ours).sum())
        totals["tokens"] += len(completion)
    line = lines_of(out / "metrics.jsonl")[1]
    nll, kl, entropy = (totals[name] / totals["tokens"] for name in ("nll", "kl", "entropy"))
    assert line["quark/nll"] == pytest.approx(nll, rel=1e-5)
    assert line["quark/kl_per_token"] == pytest.approx(kl, rel=1e-4, abs=1e-9)
    assert line["train/entropy"] == pytest.approx(entropy, rel=1e-5)
    assert line["train/loss"] == pytest.approx(nll + beta * kl - weight * entropy, rel=1e-5)
    assert (kl == 0) == (quantiles == "best")  # the reference reads no control


def test_parts_are_equal_and_the_best_comes_first() -> None:
    assert quark.parts_of([0.1, 0.9, 0.5, 0.7], parts=4) == [3, 0, 2, 1]
    assert quark.parts_of([1.0] * 8, parts=4) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [quark.parts_of(list(range(10)), parts=4).count(part) for part in range(4)] == [3, 2, 3, 2]
    assert quark.parts_of([0.0], parts=4) == [0]


def test_a_pass_takes_every_completion_once(sampled_places: dict[str, Path]) -> None:
    scores = [float(number % 7) for number in range(32)]
    config = parsed(config_of(sampled_places, "all", batch={"inner_epochs": 2, "minibatch": 12}))
    assert quark.inner_steps(config) == 2 * 3
    steps = [quark.minibatch_of(config, scores, iteration=3, step=step) for step in range(6)]
    assert [len(step) for step in steps] == [12, 12, 8] * 2
    for epoch in (steps[:3], steps[3:]):
        assert sorted(index for step in epoch for index, _ in step) == list(range(32))
    assert steps[0] != steps[3]
    older = quark.minibatch_of(config, scores * 2, iteration=4, step=0)
    assert len(older) == 12
    assert max(index for index, _ in older) >= 32

    best = parsed(config_of(sampled_places, "best", batch={"minibatch": None}))
    assert quark.inner_steps(best) == 1
    taken = quark.minibatch_of(best, scores, iteration=0, step=0)
    assert {part for _, part in taken} == {0}
    assert sorted(scores[index] for index, _ in taken) == sorted(scores)[-8:]


def test_a_prompt_that_is_asked_twice_and_a_run_without_held_out_prompts(
    sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    # 24 prompts in the train part, 32 asked in an iteration.
    raw = config_of(sampled_places, "all", batch={"iterations": 1}, eval={"prompts": 0})
    assert run_here(raw, tmp_path / "out") == 0
    lines = lines_of(tmp_path / "out" / "metrics.jsonl")
    assert lines[1]["rollout/samples"] == 32
    assert "eval/score" not in lines[0]


def test_a_judge_that_training_never_sees_scores_evaluations(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    raw = config_of(sampled_places, "best", batch={"iterations": 1})
    raw["models"]["held_out"] = [str(sampled_places["other"])]
    assert run_here(raw, tmp_path / "out") == 0
    assert "eval/held_out_score" in lines_of(tmp_path / "out" / "metrics.jsonl")[0]
    assert all("held_out_score" in line for line in lines_of(tmp_path / "out" / "samples.jsonl"))
    assert set(result_of(tmp_path / "out")["lineage"]["models"]) == {"base", "reward_0", "held_out_0"}


def test_what_cannot_be_run_is_refused_by_name(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    raw = config_of(sampled_places, "all", quark={"controls": ["a", "b"]})
    assert run_here(raw, tmp_path / "a") == 2
    assert error_of(tmp_path / "a")["message"].startswith("quark.controls")
    raw = config_of(sampled_places, "all")
    raw["models"]["base"] = str(
        tiny_model(tmp_path / "deaf", template="{% if messages[0]['role'] == 'system' %}" + DEAF)
    )
    assert run_here(raw, tmp_path / "b") == 3
    assert "leaves out the control" in error_of(tmp_path / "b")["message"]
    raw = config_of(sampled_places, "all")
    raw["models"]["rewards"] = [str(sampled_places["base"])]
    assert run_here(raw, tmp_path / "c") == 3
    assert "is a policy, not a reward model" in error_of(tmp_path / "c")["message"]


@pytest.mark.parametrize("quantiles", ["best", "all"])
@pytest.mark.parametrize(("at_step", "grace"), [(3, 20.0), (4, 0.0)])
def test_a_run_stopped_between_inner_steps_goes_on_as_if_it_had_not(
    quantiles: str, at_step: int, grace: float, sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    overrides: dict[str, Any] = {"batch": {"iterations": 4}, "eval": {"every": 3}, "stop": {"grace_seconds": grace}}
    raw = config_of(sampled_places, quantiles, **overrides)
    out = tmp_path / "out"
    out.mkdir()

    class Watching(Supervision):
        @property
        def stop_requested(self) -> bool:
            if at_step in steps_of(out):
                self.request_stop()
            return self._stop_at is not None

    quark.run(parsed(raw), out, resume=None, supervision=Watching())
    stopped = result_of(out)
    assert stopped["status"] == "stopped"
    assert stopped["step"] < 8
    assert run_here(raw, out) == 0
    assert run_here(raw, tmp_path / "whole") == 0
    assert weights_of(out) == weights_of(tmp_path / "whole")
    assert same_numbers(out / "metrics.jsonl", tmp_path / "whole" / "metrics.jsonl")
    assert lines_of(out / "samples.jsonl") == lines_of(tmp_path / "whole" / "samples.jsonl")


def test_a_killed_run_ends_with_the_same_bytes(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    raw = config_of(sampled_places, "all", batch={"iterations": 8}, checkpoint={"every": 3})
    child = start_child(raw, tmp_path / "killed")
    wait_until(lambda: 7 in steps_of(tmp_path / "killed") or child.poll() is not None)
    assert child.poll() is None
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert run_here(raw, tmp_path / "killed") == 0
    assert run_here(raw, tmp_path / "whole") == 0
    assert steps_of(tmp_path / "killed") == list(range(17))
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "whole")
    assert same_numbers(tmp_path / "killed" / "metrics.jsonl", tmp_path / "whole" / "metrics.jsonl")
