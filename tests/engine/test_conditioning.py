"""FeedME and binary conditioning: what they learn, and that the control goes with the policy wherever it is sampled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.engine.engine_runs import error_of, lines_of, own_signals, result_of, run_here, same_numbers, steps_of
from tests.engine.planted import planted_config, planted_snapshot, preference
from tests.engine.test_resume import weights_of
from tests.engine.tiny import TEMPLATE, tiny_model
from training.engine import conditioning
from training.engine.__main__ import main
from training.engine.config import BinaryConditioningConfig, FeedMeConfig, parse_config
from training.engine.examples import control_of, with_control
from training.engine.metrics import METRICS
from training.engine.models import load_policy
from training.engine.presets import merge
from training.engine.sampling import Prompt, generate
from training.engine.supervision import Supervision
from training.engine.text import load_text

METHODS = ["feedme", "binary_conditioning"]


def config_of(method: str, base: Path, snapshot: Path, **overrides: Any) -> dict[str, Any]:
    config = planted_config(method, base=base, snapshot=snapshot)
    del config["batch"]["pairs"]
    own = {
        "adapter": None,
        "batch": {"examples": 8, "epochs": 16},
        "optim": {"learning_rate": 1e-2},
        "eval": {"max_new_tokens": 8},
    }
    return merge(merge(config, own), overrides)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model that is peaked enough to learn from a few dozen steps, and preferences with three ties."""
    root = tmp_path_factory.mktemp("conditioning")
    planted_snapshot(root / "snapshot", ties=3)
    return {"base": tiny_model(root / "model", spread=0.1), "snapshot": root / "snapshot"}


@pytest.fixture(scope="module")
def conditioned(here: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of binary conditioning."""
    out = tmp_path_factory.mktemp("conditioned") / "out"
    assert run_here(config_of("binary_conditioning", **here), out) == 0
    return out


def model_of(out: Path) -> Path:
    return out / str(result_of(out)["checkpoints"]["last"]["path"]) / "model"


def first_words(model: Path, messages: list[list[dict[str, str]]]) -> list[str]:
    policy, text = load_policy(model), load_text(model)
    prompts = [Prompt(id=f"p{number}", messages=turns) for number, turns in enumerate(messages)]
    found = generate(policy, text, prompts, seed=5, stream="test", max_new_tokens=8, batch_size=32)
    return [(completion.text.split() or [""])[0] for completion in sorted(found, key=lambda c: c.prompt_id)]


def asked(count: int) -> list[list[dict[str, str]]]:
    return [preference(number)["prompt"] for number in range(100, 100 + count)]


def test_feedme_writes_what_was_chosen(here: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_here(config_of("feedme", **here), out) == 0
    first = lines_of(out / "metrics.jsonl")[0]
    assert (first["data/examples"], first["data/ties"]) == (21, 3)  # ties are left out
    assert first["rollout/kl"] == 0
    words = first_words(model_of(out), asked(20))
    assert words.count("good") >= 18
    assert "bad" not in words
    metrics = result_of(out)["metrics"]
    assert metrics["test/loss"] < first["eval/loss"] / 3
    assert control_of(model_of(out)) is None


def test_a_conditioned_policy_writes_good_or_bad_as_it_is_told(conditioned: Path) -> None:
    out = conditioned
    first = lines_of(out / "metrics.jsonl")[0]
    assert (first["data/examples"], first["data/ties"]) == (42, 3)
    assert first["rollout/kl"] == 0
    model = model_of(out)
    assert control_of(model) == "Write a good answer."
    good = first_words(model, [with_control(turns, "Write a good answer.") for turns in asked(20)])
    bad = first_words(model, [with_control(turns, "Write a bad answer.") for turns in asked(20)])
    assert good.count("good") >= 18
    assert bad.count("bad") >= 18
    samples = [line for line in lines_of(out / "samples.jsonl") if "kl" in line]
    assert samples[0]["prompt"][0]["role"] == "user"  # step 0 shows the policy as it was
    assert samples[-1]["prompt"][0] == {"role": "system", "content": "Write a good answer."}
    assert samples[-1]["completion"].startswith("good")


def test_the_sample_command_applies_the_control(conditioned: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        "".join(json.dumps({"id": f"p{n}", "prompt": turns}) + "\n" for n, turns in enumerate(asked(10)))
    )
    request = {
        "method": "sample",
        "models": {"policies": [{"name": "a", "path": str(model_of(conditioned))}]},
        "data": {"prompts": str(prompts)},
        "sampling": {"completions": 1, "max_new_tokens": 8},
    }
    (tmp_path / "sample.json").write_text(json.dumps(request))
    with own_signals():
        assert main(["sample", str(tmp_path / "sample.json"), "--out", str(tmp_path / "sampled")]) == 0
    texts = [line["text"] for line in lines_of(tmp_path / "sampled" / "completions.jsonl")]
    assert len(texts) == 10
    assert sum(text.startswith("good") for text in texts) >= 9


def test_an_adapter_carries_the_control_too(here: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = {"good": "Be good.", "bad": "Be bad."}
    overrides = {"adapter": {"rank": 4, "alpha": 8}, "batch": {"epochs": 1}, "binary_conditioning": options}
    assert run_here(config_of("binary_conditioning", **here, **overrides), out) == 0
    assert control_of(out / result_of(out)["checkpoints"]["last"]["path"]) == "Be good."


@pytest.mark.parametrize("method", METHODS)
def test_every_metric_is_named(method: str, here: dict[str, Path], tmp_path: Path) -> None:
    assert run_here(config_of(method, **here, batch={"epochs": 1}), tmp_path / "out") == 0
    names = {name for line in lines_of(tmp_path / "out" / "metrics.jsonl") for name in line if "/" in name}
    assert names <= METRICS.keys()
    assert {"train/loss", "eval/loss", "test/loss", "rollout/kl", "data/ties"} <= names


@pytest.mark.parametrize("method", METHODS)
def test_the_split_into_micro_batches_changes_nothing(method: str, here: dict[str, Path], tmp_path: Path) -> None:
    losses = []
    for micro_tokens in (16, 4096):
        out = tmp_path / str(micro_tokens)
        config = config_of(method, **here, batch={"epochs": 1}, memory={"micro_tokens": micro_tokens})
        assert run_here(config, out) == 0
        losses.append([line["train/loss"] for line in lines_of(out / "metrics.jsonl")[1:]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_what_cannot_be_conditioned_is_refused(here: dict[str, Path], tmp_path: Path) -> None:
    same = config_of("binary_conditioning", **here, binary_conditioning={"good": "a", "bad": "a"})
    assert run_here(same, tmp_path / "a") == 2
    assert error_of(tmp_path / "a")["message"].startswith("binary_conditioning.bad")
    deaf = tiny_model(tmp_path / "deaf", template="{% if messages[0]['role'] == 'system' %}" + DEAF)
    assert run_here(config_of("binary_conditioning", base=deaf, snapshot=here["snapshot"]), tmp_path / "b") == 3
    assert "leaves out the control" in error_of(tmp_path / "b")["message"]
    planted_snapshot(tmp_path / "ties", train=4, ties=4)
    only_ties = config_of("feedme", base=here["base"], snapshot=tmp_path / "ties")
    assert run_here(only_ties, tmp_path / "c") == 3
    assert "nothing to train on" in error_of(tmp_path / "c")["message"]


DEAF = "{% set messages = messages[1:] %}{% endif %}" + TEMPLATE


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(method: str, here: dict[str, Path], tmp_path: Path) -> None:
    raw = config_of(method, **here, batch={"epochs": 4}, eval={"every": 3}, adapter={"rank": 4, "alpha": 8})
    config = parse_config(raw)
    assert isinstance(config, FeedMeConfig | BinaryConditioningConfig)
    out = tmp_path / "out"
    out.mkdir()

    class Watching(Supervision):
        @property
        def stop_requested(self) -> bool:
            return 4 in steps_of(out) or super().stop_requested

    conditioning.run(config, out, resume=None, supervision=Watching())
    assert result_of(out)["status"] == "stopped"
    assert run_here(raw, out) == 0
    assert run_here(raw, tmp_path / "whole") == 0
    assert weights_of(out) == weights_of(tmp_path / "whole")
    assert same_numbers(out / "metrics.jsonl", tmp_path / "whole" / "metrics.jsonl")
    assert same_numbers(out / "samples.jsonl", tmp_path / "whole" / "samples.jsonl")
