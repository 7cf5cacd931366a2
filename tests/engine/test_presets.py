"""Configs with all their defaults, for people who train from the command line and for the web's form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.engine.tiny import tiny_model
from training.engine.__main__ import main
from training.engine.config import parse_config, to_dict
from training.engine.errors import ConfigError, ModelError
from training.engine.files import stored_parameters
from training.engine.models import count_parameters, load_policy
from training.engine.presets import LORA_FACTOR, PRESETS, SMALL_FACTOR, TRAINING, config_for, default_config

NEEDS_A_REWARD = {"ppo", "rloo", "grpo", "quark", "best_of_n", "expert_iteration", "online_dpo", "reinforce", "dr_grpo"}


@pytest.mark.parametrize("name", [*TRAINING, *PRESETS])
def test_every_method_and_preset_has_a_config_that_can_be_run(name: str, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "model")
    rewards = [Path("reward")] if name in NEEDS_A_REWARD else []
    config = config_for(name, base=base, snapshot=Path("snapshot"), rewards=rewards)
    assert to_dict(parse_config(config)) == config
    preset = PRESETS.get(name)
    assert config["method"] == (name if preset is None else preset.method)
    for section, values in (preset.overrides if preset is not None else {}).items():
        shown = {key: value for key, value in config[section].items() if key in values and key != "learning_rate"}
        assert shown == {key: value for key, value in values.items() if key != "learning_rate"}


def test_rates_follow_the_size_of_the_model_and_the_adapter() -> None:
    published = default_config("reward", adapter=None)["optim"]["learning_rate"]
    assert default_config("reward")["optim"]["learning_rate"] == pytest.approx(published * LORA_FACTOR)
    small = default_config("reward", parameters=135_000_000, adapter=None)["optim"]["learning_rate"]
    assert small == pytest.approx(published * SMALL_FACTOR)
    assert default_config("ppo", parameters=135_000_000, adapter=None)["optim"]["learning_rate"] == 3e-6


def test_a_model_is_counted_by_the_headers_of_its_files(tmp_path: Path) -> None:
    for tied in (True, False):
        directory = tiny_model(tmp_path / str(tied), tied=tied)
        assert stored_parameters(directory) == count_parameters(load_policy(directory)).total
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not a header")
    for name in ("broken", "absent"):
        with pytest.raises(ModelError, match="safetensors"):
            stored_parameters(tmp_path / name)


def test_what_a_method_lacks_is_named(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"models\.rewards is required"):
        config_for("ppo", base=base, snapshot=Path("s"))
    with pytest.raises(ConfigError, match=r"unknown key models\.rewards"):
        config_for("dpo", base=base, snapshot=Path("s"), rewards=[Path("r")])
    with pytest.raises(ConfigError, match="machine must be one of"):
        config_for("dpo", base=base, snapshot=Path("s"), machine="abacus")


def test_the_command_prints_a_config_for_the_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tiny_model(tmp_path / "model")
    arguments = ["--base", str(base), "--snapshot", str(tmp_path), "--machine", "one GPU", "--all-weights"]
    assert main(["defaults", "ipo", *arguments]) == 0
    config = json.loads(capsys.readouterr().out)
    assert (config["dpo"]["link"], config["precision"]["dtype"], config["adapter"]) == ("ipo", "bf16", None)
    assert main(["defaults", "ppo", *arguments]) == 2
    assert "models.rewards" in capsys.readouterr().err
