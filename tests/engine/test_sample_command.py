"""`sample`: completions.jsonl as it grows, resumed after a break, stopped, and over several policies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.engine.tiny import tiny_model
from training.engine import models, sampling
from training.engine.config import SampleConfig, parse_config
from training.engine.errors import SnapshotError
from training.engine.files import directory_hash
from training.engine.metrics import METRICS
from training.engine.models import context_tokens
from training.engine.supervision import Supervision


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, Any]:
    prompts = tmp_path / "prompts.jsonl"
    lines = [
        {"id": f"p{i}", "group": f"g{i}", "prompt": [{"role": "user", "content": f"good dog {i} \u2028 yes"}]}
        for i in range(5)
    ]
    prompts.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return {
        "method": "sample",
        "seed": 1,
        "models": {
            "policies": [
                {"name": name, "path": str(tiny_model(tmp_path / name, spread=0.3, seed=seed))}
                for seed, name in enumerate(("one", "two"))
            ]
        },
        "data": {"prompts": str(prompts)},
        "sampling": {"completions": 2, "max_new_tokens": 12, "batch_size": 4, "first_prompts": 1},
    }


def _config(raw: dict[str, Any]) -> SampleConfig:
    config = parse_config(raw)
    assert isinstance(config, SampleConfig)
    return config


def _run(raw: dict[str, Any], out: Path, *, resume: Path | None = None, supervision: Supervision | None = None) -> Any:
    out.mkdir(exist_ok=True)
    return sampling.run(_config(raw), out, resume=resume, supervision=supervision or Supervision())


def _lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "completions.jsonl").read_text().split("\n")[:-1]]


def _by_key(out: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    return {(line["policy"], line["prompt_id"], line["index"]): line for line in _lines(out)}


def test_every_policy_answers_every_prompt_prompt_by_prompt(raw: dict[str, Any], tmp_path: Path) -> None:
    result = _run(raw, tmp_path / "out")
    lines = _lines(tmp_path / "out")
    assert len(lines) == len(_by_key(tmp_path / "out")) == 2 * 5 * 2
    # The first chunk holds one prompt, the others two: each is finished by both policies before the next begins.
    assert [{line["prompt_id"] for line in part} for part in (lines[:4], lines[4:12], lines[12:])] == [
        {"p0"}, {"p1", "p2"}, {"p3", "p4"},
    ]  # fmt: skip
    assert lines[0].keys() == {
        "policy", "prompt_id", "index", "seed", "text", "token_ids", "logprob", "sampler_logprob", "finish",
        "tokens",
    }  # fmt: skip
    assert all(line["tokens"] == len(line["token_ids"]) <= 12 and line["logprob"] < 0 for line in lines)
    assert (result["status"], result["step"]) == ("done", 20)
    assert result == json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["lineage"]["models"]["two"] == directory_hash(tmp_path / "two")
    status = json.loads((tmp_path / "out" / "status.json").read_text())
    assert (status["phase"], status["step"], status["steps"]) == ("done", 20, 20)
    metrics = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [4, 8, 12, 16, 20]
    assert all(name in METRICS for line in metrics for name in line.keys() - {"step", "time", "tokens"})


def test_policies_sample_independently(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["models"]["policies"][1]["path"] = raw["models"]["policies"][0]["path"]
    _run(raw, tmp_path / "out")
    by_key = _by_key(tmp_path / "out")
    assert any(by_key["one", f"p{i}", 0]["text"] != by_key["two", f"p{i}", 0]["text"] for i in range(5))


def test_a_broken_file_is_resumed_to_the_same_completions(raw: dict[str, Any], tmp_path: Path) -> None:
    _run(raw, tmp_path / "whole")
    whole = (tmp_path / "whole" / "completions.jsonl").read_bytes()
    broken = tmp_path / "broken" / "completions.jsonl"
    shutil.copytree(tmp_path / "whole", broken.parent)
    lines = whole.splitlines(keepends=True)
    foreign = json.dumps({**json.loads(lines[0]), "seed": 2}).encode() + b"\n"
    broken.write_bytes(b"".join(lines[:3]) + foreign + b"not json\n" + lines[2] + b"".join(lines[7:9]) + lines[9][:-9])
    result = _run(raw, tmp_path / "again", resume=broken)
    assert result["status"] == "done"
    assert _lines(tmp_path / "again")[:5] == [json.loads(line) for line in [*lines[:3], *lines[7:9]]]
    assert _same(_by_key(tmp_path / "again"), _by_key(tmp_path / "whole"))


def test_the_same_command_on_the_same_directory_continues(raw: dict[str, Any], tmp_path: Path) -> None:
    _run(raw, tmp_path / "out")
    whole = _by_key(tmp_path / "out")
    file = tmp_path / "out" / "completions.jsonl"
    file.write_bytes(file.read_bytes()[:-40])
    assert _run(raw, tmp_path / "out")["metrics"]["rollout/samples"] == 1
    assert _same(_by_key(tmp_path / "out"), whole)


def test_a_stop_ends_at_the_next_token_and_can_be_resumed(raw: dict[str, Any], tmp_path: Path) -> None:
    _run(raw, tmp_path / "whole")
    stopped = Supervision()
    stopped.request_stop()
    result = _run(raw, tmp_path / "stopped", supervision=stopped)
    assert result["status"] == "stopped"
    assert result["step"] == len(_lines(tmp_path / "stopped")) < 20
    _run(raw, tmp_path / "again", resume=tmp_path / "stopped")
    assert _same(_by_key(tmp_path / "again"), _by_key(tmp_path / "whole"))


@pytest.mark.parametrize(
    "change", [{"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1}, {"stop": ["a"]},
               {"max_new_tokens": 3}, {"weights": "bf16"}],
)  # fmt: skip
def test_completions_drawn_by_another_law_are_not_kept(
    change: dict[str, Any], raw: dict[str, Any], tmp_path: Path
) -> None:
    _run(raw, tmp_path / "former")
    raw["sampling"] |= change
    _run(raw, tmp_path / "fresh")
    assert _run(raw, tmp_path / "again", resume=tmp_path / "former")["metrics"]["rollout/samples"] == 20
    assert _same(_by_key(tmp_path / "again"), _by_key(tmp_path / "fresh"))
    assert _run(raw, tmp_path / "again", resume=tmp_path / "again")["metrics"] == {}


def test_completions_of_another_policy_of_that_name_and_of_changed_prompts_are_not_kept(
    raw: dict[str, Any], tmp_path: Path
) -> None:
    _run(raw, tmp_path / "out")
    former = _by_key(tmp_path / "out")
    shutil.rmtree(tmp_path / "two")
    tiny_model(tmp_path / "two", spread=0.3, seed=7)
    prompts = Path(raw["data"]["prompts"])
    prompts.write_text(prompts.read_text(encoding="utf-8").replace("dog 3", "cat 3"), encoding="utf-8")
    raw["sampling"] |= {"completions": 3}
    kept = {key for key in former if key[0] == "one" and key[1] != "p3"}
    assert _run(raw, tmp_path / "out")["metrics"]["rollout/samples"] == 30 - len(kept)
    now = _by_key(tmp_path / "out")
    assert all(now[key] == former[key] for key in kept)
    assert any(now[key]["text"] != former[key]["text"] for key in former.keys() - kept)


def test_a_directory_without_completions_is_nothing_to_go_on_from(raw: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SnapshotError, match="holds no completions to go on from"):
        _run(raw, tmp_path / "out", resume=tmp_path / "empty")


def test_policies_are_loaded_where_the_gpu_is(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: list[str] = []

    def load_policy(directory: Path, *, device: str = "cpu") -> Any:
        devices.append(device)
        return models.load_policy(directory)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sampling, "models", SimpleNamespace(load_policy=load_policy, context_tokens=context_tokens))
    _run(raw, tmp_path / "out")
    assert devices == ["cuda", "cuda"]


@pytest.mark.parametrize(
    "line, what",
    [
        ("{", "not JSON"),
        ('{"id": "x"}', "must hold"),
        ('{"id": "x", "prompt": [{"role": "user"}]}', "must hold"),
        ('{"id": "p0", "prompt": [{"role": "user", "content": "a"}]}', "was there before"),
    ],
)
def test_a_bad_prompt_line_is_named(raw: dict[str, Any], tmp_path: Path, line: str, what: str) -> None:
    path = Path(raw["data"]["prompts"])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(SnapshotError, match=f"prompts.jsonl, line 6: .*{what}"):
        _run(raw, tmp_path / "out")


def _same(one: dict[Any, dict[str, Any]], two: dict[Any, dict[str, Any]]) -> bool:
    """Equal but for the last digits of the log-probs, which another batch may round otherwise."""
    assert one.keys() == two.keys()
    sums = {"logprob": 0, "sampler_logprob": 0}
    for key, line in one.items():
        for name in sums:
            assert line[name] == pytest.approx(two[key][name], abs=1e-4)
    return all({**line, **sums} == {**two[key], **sums} for key, line in one.items())


def test_policies_write_as_many_as_each_prompt_says_at_their_own_temperature(
    raw: dict[str, Any], tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    _run(raw, plain)
    file = Path(raw["data"]["prompts"])
    records = [json.loads(row) for row in file.read_text(encoding="utf-8").split("\n")[:-1]]
    counts = [{"one": 2}, {"one": 1, "two": 1}, {"two": 2}, {"one": 2, "two": 2}, {}]
    for record, count in zip(records, counts, strict=True):
        record["completions"] = count
    file.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    _run(raw, tmp_path / "mixed")
    wanted = {
        (policy, f"p{i}", index) for i, count in enumerate(counts) for policy, n in count.items() for index in range(n)
    }
    mixed = _by_key(tmp_path / "mixed")
    assert set(mixed) == wanted
    assert len(wanted) == 10
    # Who else is asked changes no completion.
    assert all(_by_key(plain)[key]["text"] == line["text"] for key, line in mixed.items())

    raw["models"]["policies"][1]["temperature"] = 0.0
    result = _run(raw, tmp_path / "cold", resume=tmp_path / "mixed")
    cold = _by_key(tmp_path / "cold")
    assert (result["status"], set(cold)) == ("done", wanted)
    assert all(cold[key] == line for key, line in mixed.items() if key[0] == "one")  # kept from the former attempt
    assert cold["two", "p3", 0]["token_ids"] == cold["two", "p3", 1]["token_ids"]  # greedy
    assert mixed["two", "p3", 0]["token_ids"] != mixed["two", "p3", 1]["token_ids"]

    records[0]["completions"] = {"one": 3}
    file.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    with pytest.raises(SnapshotError, match="wants 3 completions"):
        _run(raw, tmp_path / "much")
