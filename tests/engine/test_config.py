from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from training.engine.config import Link, parse_config, to_dict
from training.engine.errors import ConfigError
from training.engine.presets import default_config, merge

RUN = {"models": {"base": "base"}, "data": {"snapshot": "snapshot"}}
SAMPLE = {"method": "sample", "models": {"policies": [{"name": "a", "path": "p"}]}, "data": {"prompts": "f.jsonl"}}
CONVERT = {"method": "convert", "models": {"source": "model.gguf"}, "name": "base"}


@pytest.mark.parametrize(
    "raw", [{"method": "reward", **RUN}, {"method": "dpo", **RUN}, SAMPLE, CONVERT], ids=lambda raw: raw["method"]
)
def test_a_config_survives_the_way_through_json(raw: dict[str, Any]) -> None:
    config = parse_config(raw)
    assert parse_config(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("method", ["reward", "dpo"])
@pytest.mark.parametrize("adapter", ["lora", None])
def test_the_defaults_of_a_method_only_lack_the_places(method: str, adapter: str | None) -> None:
    defaults = default_config(method, adapter=adapter)
    assert "models" not in defaults
    assert "snapshot" not in defaults["data"]
    assert to_dict(parse_config(merge(defaults, RUN))) == merge(defaults, RUN)


def test_small_models_and_adapters_raise_the_learning_rate() -> None:
    assert default_config("dpo", adapter=None)["optim"]["learning_rate"] == 1e-6
    assert default_config("dpo", adapter="lora")["optim"]["learning_rate"] == 1e-5
    assert default_config("dpo", parameters=134_000_000)["optim"]["learning_rate"] == 5e-5
    assert default_config("reward", parameters=7_000_000_000, adapter=None)["optim"]["learning_rate"] == 9e-6


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ({"optim": {"learning_rate": -1.0}}, "optim.learning_rate", -1.0),
        ({"optim": {"lerning_rate": 1.0}}, "optim.lerning_rate", 1.0),
        ({"optim": {"learning_rate": float("nan")}}, "optim.learning_rate", None),
        ({"batch": {"pairs": 2.5}}, "batch.pairs", 2.5),
        ({"batch": {"pairs": True}}, "batch.pairs", True),
        ({"batch": 3}, "batch", 3),
        ({"surprise": 1}, "surprise", 1),
        ({"seed": -1}, "seed", -1),
        ({"precision": {"dtype": "fp16"}}, "precision.dtype", "fp16"),
        ({"dpo": {"beta": 0}}, "dpo.beta", 0.0),
        ({"dpo": {"link": "robust", "epsilon": 0.1}}, "dpo.labels", "soft"),
        ({"dpo": {"link": "smoothed"}}, "dpo.epsilon", 0.0),
        ({"dpo": {"epsilon": 0.1}}, "dpo.epsilon", 0.1),
        ({"reward": {"centring": 0.1}}, "reward", {"centring": 0.1}),
        ({"models": {"base": None}}, "models.base", None),
    ],
)
def test_a_bad_value_is_refused_by_its_name(override: dict[str, Any], key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(merge(merge(default_config("dpo"), RUN), override))
    assert caught.value.key == key
    assert key in caught.value.message
    if value is not None:
        assert caught.value.value == value
        assert str(value) in caught.value.message


def test_a_missing_place_and_an_unknown_method_are_named() -> None:
    with pytest.raises(ConfigError, match="models is required"):
        parse_config({"method": "dpo", "data": {"snapshot": "s"}})
    with pytest.raises(ConfigError, match="'trpo'"):
        parse_config({"method": "trpo"})
    with pytest.raises(ConfigError, match="distinct"):
        parse_config(merge(SAMPLE, {"models": {"policies": SAMPLE["models"]["policies"] * 2}}))  # type: ignore[index]


def test_robust_takes_hard_labels() -> None:
    config = parse_config(
        merge(merge(default_config("dpo"), RUN), {"dpo": {"link": "robust", "epsilon": 0.1, "labels": "hard"}})
    )
    assert config.dpo.link is Link.ROBUST  # type: ignore[union-attr]


def test_overrides_are_laid_over_without_touching_the_defaults() -> None:
    defaults = {"a": {"b": 1, "c": 2}, "d": {"e": 3}}
    assert merge(defaults, {"a": {"b": 5}, "d": None, "f": 6}) == {"a": {"b": 5, "c": 2}, "d": None, "f": 6}
    assert defaults == {"a": {"b": 1, "c": 2}, "d": {"e": 3}}


def test_the_plain_modules_load_without_torch() -> None:
    modules = ["config", "presets", "records", "metrics", "errors", "files", "supervision", "__main__"]
    code = "\n".join(f"import training.engine.{name}" for name in modules)
    code += "\nimport sys; print({'torch', 'transformers', 'django', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
