"""`score`: scores.jsonl in the order of the input, resumed after a break, with features, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.engine_runs import error_of, lines_of, own_signals, result_of
from tests.engine.tiny import tiny_model
from training.engine import models, scoring
from training.engine.__main__ import main
from training.engine.config import ScoreConfig, parse_config
from training.engine.files import directory_hash
from training.engine.metrics import METRICS
from training.engine.supervision import Supervision
from training.engine.text import load_text

MEAN = 0.25


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, Any]:
    tiny_model(tmp_path / "reward", seed=3, spread=0.3, reward=True)
    (tmp_path / "reward" / "winnow.json").write_text(json.dumps({"reward": {"mean": MEAN, "std": 1.0}}))
    prompts = [
        {"id": f"p{n}", "group": f"g{n}", "prompt": [{"role": "user", "content": f"good dog {n} \u2028 yes"}]}
        for n in range(4)
    ]
    completions = [
        {"policy": policy, "prompt_id": f"p{n}", "index": index, "text": f"{policy} {index} dog", "finish": finish}
        for index, finish in enumerate(("end", "length"))
        for n in (2, 0, 3, 1)
        for policy in ("one", "two")
    ]
    for name, lines in (("prompts", prompts), ("completions", completions)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return {
        "method": "score",
        "models": {"reward": str(tmp_path / "reward")},
        "data": {"prompts": str(tmp_path / "prompts.jsonl"), "completions": str(tmp_path / "completions.jsonl")},
        "memory": {"micro_tokens": 8},
    }


def score(raw: dict[str, Any], out: Path, *flags: str) -> int:
    path = out.with_suffix(".json")
    path.write_text(json.dumps(raw))
    with own_signals():
        return main(["score", str(path), "--out", str(out), *flags])


def test_scores_come_in_the_order_of_the_input(raw: dict[str, Any], tmp_path: Path) -> None:
    assert score(raw, tmp_path / "out") == 0
    lines = lines_of(tmp_path / "out" / "scores.jsonl")
    given = lines_of(tmp_path / "completions.jsonl")
    names = ("policy", "prompt_id", "index", "finish")
    assert [[line[name] for name in names] for line in lines] == [[line[name] for name in names] for line in given]
    assert lines[0].keys() == {"policy", "prompt_id", "index", "score", "score_raw", "tokens", "finish"}
    model, text = models.load_reward_model(tmp_path / "reward", seed=0), load_text(tmp_path / "reward")
    rows = (tmp_path / "prompts.jsonl").read_text().split("\n")[:-1]  # a text holds a line separator
    prompts = {line["id"]: line["prompt"] for line in map(json.loads, rows)}
    for line, completion in zip(lines, given, strict=True):
        ids = text.completion_ids(completion["text"], finished=completion["finish"] == "end")
        whole = text.prompt_ids(prompts[line["prompt_id"]]) + ids
        alone = float(models.outputs(model, torch.tensor([whole]))[-1, 0])
        assert line["score_raw"] == pytest.approx(alone, abs=1e-5)
        assert line["score"] == line["score_raw"] - MEAN
        assert line["tokens"] == len(ids)
    result = result_of(tmp_path / "out")
    assert (result["status"], result["step"], result["skipped"]) == ("done", 16, [])
    assert result["lineage"]["models"]["reward"] == directory_hash(tmp_path / "reward")
    assert result["metrics"]["rollout/score"] == pytest.approx(sum(line["score"] for line in lines) / 16)
    assert result["metrics"].keys() <= METRICS.keys()


def test_features_are_the_states_that_the_head_reads(raw: dict[str, Any], tmp_path: Path) -> None:
    assert score({**raw, "features": True}, tmp_path / "out") == 0
    features = load_file(tmp_path / "out" / "features.safetensors")["features"]
    lines, index = lines_of(tmp_path / "out" / "scores.jsonl"), lines_of(tmp_path / "out" / "features.jsonl")
    assert features.dtype is torch.float32
    assert features.shape == (16, 32)
    head = models.score_head(models.load_reward_model(tmp_path / "reward", seed=0)).weight
    assert (features @ head[0]).tolist() == pytest.approx([line["score_raw"] for line in lines], abs=1e-5)
    assert [line.pop("row") for line in index] == list(range(16))
    assert all(found.items() <= line.items() for found, line in zip(index, lines, strict=True))


@pytest.mark.parametrize("features", [False, True])
def test_a_broken_attempt_goes_on_to_the_same_bytes(raw: dict[str, Any], tmp_path: Path, features: bool) -> None:
    raw["features"] = features
    assert score(raw, tmp_path / "whole") == 0
    out = tmp_path / "broken"
    out.mkdir()
    stopped = _StopInTheMiddle()
    config = parse_config(raw)
    assert isinstance(config, ScoreConfig)
    result = scoring.run(config, out, resume=None, supervision=stopped)
    assert result["status"] == "stopped"
    assert 0 < result["step"] < 16
    assert not (out / "features.safetensors").exists()
    file = out / "scores.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    assert score(raw, tmp_path / "again", "--resume", str(file)) == 0
    assert score(raw, out) == 0
    for directory in (out, tmp_path / "again"):
        assert (directory / "scores.jsonl").read_bytes() == (tmp_path / "whole" / "scores.jsonl").read_bytes()
        if features:
            name = "features.safetensors"
            assert (directory / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert result_of(out)["metrics"]["rollout/samples"] == 16 - result["step"] + 1


class _StopInTheMiddle(Supervision):
    """Asks for a stop at the fourth look: with two packs a window, inside the second window."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    @property
    def stop_requested(self) -> bool:
        self.looks += 1
        return self.looks > 3


def test_scores_of_another_model_are_not_kept(raw: dict[str, Any], tmp_path: Path) -> None:
    assert score(raw, tmp_path / "out") == 0
    first = lines_of(tmp_path / "out" / "scores.jsonl")
    raw["models"]["reward"] = str(tiny_model(tmp_path / "other", seed=4, spread=0.3, reward=True))
    assert score(raw, tmp_path / "out") == 0
    second = lines_of(tmp_path / "out" / "scores.jsonl")
    assert all(a["score_raw"] != b["score_raw"] for a, b in zip(first, second, strict=True))


def test_a_completion_longer_than_the_context_is_skipped_and_listed(raw: dict[str, Any], tmp_path: Path) -> None:
    with (tmp_path / "completions.jsonl").open("a") as file:
        file.write(json.dumps({"prompt_id": "p0", "index": 9, "text": "dog " * 600, "finish": "end"}) + "\n")
    assert score(raw, tmp_path / "out") == 0
    assert len(lines_of(tmp_path / "out" / "scores.jsonl")) == 16
    assert result_of(tmp_path / "out")["skipped"] == [{"prompt_id": "p0", "index": 9, "reason": "too_long"}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no json", "not JSON"),
        (json.dumps({"prompt_id": "p0", "index": 7}), "must hold prompt_id, index, text and finish"),
        (json.dumps({"prompt_id": "p0", "index": 7, "text": "a", "finish": "eos"}), "must hold prompt_id"),
        (json.dumps({"prompt_id": "p9", "index": 0, "text": "a"}), "prompt 'p9' is not there"),
        (json.dumps({"policy": "one", "prompt_id": "p0", "index": 0, "text": "a"}), "was there before"),
    ],
)
def test_a_bad_line_exits_3_and_is_named(raw: dict[str, Any], tmp_path: Path, line: str, message: str) -> None:
    with (tmp_path / "completions.jsonl").open("a") as file:
        file.write(line + "\n")
    assert score(raw, tmp_path / "out") == 3
    shown = error_of(tmp_path / "out")["message"]
    assert shown.startswith("completions.jsonl, line 17: ")
    assert message in shown


def test_a_policy_exits_3_and_an_unknown_key_exits_2(raw: dict[str, Any], tmp_path: Path) -> None:
    policy = tiny_model(tmp_path / "policy")
    assert score({**raw, "models": {"reward": str(policy)}}, tmp_path / "a") == 3
    assert error_of(tmp_path / "a")["message"].endswith("is a policy, not a reward model")
    assert score({**raw, "feature": True}, tmp_path / "b") == 2
    assert "unknown key feature" in error_of(tmp_path / "b")["message"]
