from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.engine.engine_runs import (
    error_of,
    lines_of,
    own_signals,
    places,
    result_of,
    run_here,
    same_numbers,
    start_child,
    steps_of,
    wait_until,
)
from tests.engine.planted import planted_config
from training.engine import dpo, kto, reward, starting
from training.engine.checkpoint import newest_checkpoint, verify_checkpoint
from training.engine.config import DpoConfig, KtoConfig, RewardConfig, parse_config
from training.engine.errors import ConfigError, ModelError
from training.engine.files import sha256_of_file
from training.engine.supervision import StopRun, Supervision

_ = places, own_signals


def weights_of(out: Path) -> list[str]:
    """Hashes of everything trained, in the last checkpoint."""
    folder = out / result_of(out)["checkpoints"]["last"]["path"]
    return [sha256_of_file(path) for path in sorted(folder.rglob("*.safetensors"))]


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "reward": ("reward", {}),
    "ties": ("reward", {"reward": {"ties": "rao_kupper"}}),
    "dpo": ("dpo", {}),
    "simpo": ("dpo", {"dpo": {"logit": "simpo", "link": "margin", "beta": 2.0, "gamma": 1.0}}),
    "kto": ("kto", {}),
}
"""Of the methods that train on a snapshot's lines; with what each keeps beside the weights."""


def run_until_stopped(config: RewardConfig | DpoConfig | KtoConfig, out: Path, *, at_step: int) -> None:
    """Run in this process and ask for a stop as soon as the line of a step is there."""
    out.mkdir(exist_ok=True)
    supervision = Supervision()

    def watch() -> None:
        wait_until(lambda: at_step in steps_of(out))
        supervision.request_stop()

    threading.Thread(target=watch, daemon=True).start()
    if isinstance(config, RewardConfig):
        reward.run(config, out, resume=None, supervision=supervision)
    elif isinstance(config, KtoConfig):
        kto.run(config, out, resume=None, supervision=supervision)
    else:
        dpo.run(config, out, resume=None, supervision=supervision)


@pytest.mark.parametrize("method", ["reward", "dpo", "kto"])
def test_a_killed_run_ends_with_the_same_bytes(method: str, places: dict[str, Path], tmp_path: Path) -> None:
    raw = planted_config(method, **places, batch={"epochs": 20})
    child = start_child(raw, tmp_path / "killed")
    whole = start_child(raw, tmp_path / "whole")
    wait_until(lambda: 9 in steps_of(tmp_path / "killed"))
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert whole.wait() == 0
    assert not (tmp_path / "killed" / "result.json").exists()
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "killed", moved)

    in_place = start_child(raw, tmp_path / "killed")
    former = newest_checkpoint(moved / "checkpoints")
    assert former is not None
    elsewhere = start_child(raw, tmp_path / "elsewhere", "--resume", str(former.path))
    assert (in_place.wait(), elsewhere.wait()) == (0, 0)

    steps = steps_of(tmp_path / "whole")
    assert steps == list(range(61))
    assert steps_of(tmp_path / "killed") == steps
    assert steps_of(tmp_path / "elsewhere") == steps[former.step + 1 :]
    for out in ("killed", "elsewhere"):
        assert weights_of(tmp_path / out) == weights_of(tmp_path / "whole")
        best, whole_best = (result_of(tmp_path / name)["checkpoints"]["best"] for name in (out, "whole"))
        assert best["step"] == whole_best["step"]
    assert same_numbers(tmp_path / "killed" / "metrics.jsonl", tmp_path / "whole" / "metrics.jsonl")
    assert lines_of(tmp_path / "killed" / "samples.jsonl") == lines_of(tmp_path / "whole" / "samples.jsonl")


@pytest.mark.parametrize(
    ("variant", "at_step", "grace"),
    [
        *((variant, at_step, grace) for variant in ("reward", "dpo") for at_step, grace in ((0, 20.0), (5, 20.0))),
        *((variant, at_step, 0.0) for variant in VARIANTS for at_step in (5, 8)),
    ],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    variant: str, at_step: int, grace: float, places: dict[str, Path], tmp_path: Path
) -> None:
    method, options = VARIANTS[variant]
    raw = planted_config(
        method, **places, batch={"epochs": 6}, stop={"grace_seconds": grace}, eval={"every": 3}, **options
    )
    config = parse_config(raw)
    assert isinstance(config, RewardConfig | DpoConfig | KtoConfig)
    run_until_stopped(config, tmp_path / "out", at_step=at_step)
    stopped = result_of(tmp_path / "out")
    assert stopped["status"] == "stopped"
    assert at_step <= stopped["step"] < 18
    assert stopped["checkpoints"]["last"]["step"] == stopped["step"]
    assert run_here(raw, tmp_path / "out") == 0
    assert run_here(raw, tmp_path / "whole") == 0
    assert steps_of(tmp_path / "out") == list(range(19))
    assert weights_of(tmp_path / "out") == weights_of(tmp_path / "whole")
    assert same_numbers(tmp_path / "out" / "metrics.jsonl", tmp_path / "whole" / "metrics.jsonl")


def test_a_stop_before_the_first_step_leaves_nothing_half(places: dict[str, Path], tmp_path: Path) -> None:
    config = parse_config(planted_config("dpo", **places, stop={"grace_seconds": 0.0}))
    assert isinstance(config, DpoConfig)
    supervision = Supervision()
    supervision.request_stop()
    with pytest.raises(StopRun):
        dpo.run(config, tmp_path, resume=None, supervision=supervision)
    assert not (tmp_path / "checkpoints").exists()


def test_all_weights_resume_too(places: dict[str, Path], tmp_path: Path) -> None:
    for method in ("reward", "dpo"):
        raw = planted_config(method, **places, adapter=None, batch={"epochs": 6})
        config = parse_config(raw)
        assert isinstance(config, RewardConfig | DpoConfig)
        run_until_stopped(config, tmp_path / method, at_step=5)
        assert result_of(tmp_path / method)["status"] == "stopped"
        assert run_here(raw, tmp_path / method) == 0
        assert run_here(raw, tmp_path / f"{method}-whole") == 0
        assert weights_of(tmp_path / method) == weights_of(tmp_path / f"{method}-whole")


def test_a_broken_checkpoint_is_passed_over_and_a_named_one_refused(places: dict[str, Path], tmp_path: Path) -> None:
    raw = planted_config("reward", **places)
    assert run_here(raw, tmp_path / "out") == 0
    whole = weights_of(tmp_path / "out")
    newest = tmp_path / "out" / "checkpoints" / "step-12"
    weights = newest / "adapter" / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors was changed"):
        verify_checkpoint(newest)
    assert run_here(raw, tmp_path / "other", resume=newest) == 3
    assert "adapter_model.safetensors" in error_of(tmp_path / "other")["message"]
    assert run_here(raw, tmp_path / "out") == 0
    assert weights_of(tmp_path / "out") == whole


def test_a_checkpoint_goes_on_under_its_own_config_only(places: dict[str, Path], tmp_path: Path) -> None:
    raw = planted_config("reward", **places, batch={"epochs": 1})
    assert run_here(raw, tmp_path / "out") == 0
    raw["batch"]["epochs"] = 2
    assert run_here(raw, tmp_path / "out") == 2
    assert error_of(tmp_path / "out")["message"].startswith("batch.epochs is 2")


def test_old_checkpoints_go_and_the_best_stays(places: dict[str, Path], tmp_path: Path) -> None:
    raw = planted_config("reward", **places, batch={"epochs": 8}, checkpoint={"every": 2, "keep": 2})
    assert run_here(raw, tmp_path / "out") == 0
    best = result_of(tmp_path / "out")["checkpoints"]["best"]["step"]
    kept = {int(path.name.removeprefix("step-")) for path in (tmp_path / "out" / "checkpoints").iterdir()}
    assert kept == {22, 24, best}


def test_an_option_newer_than_the_checkpoint_has_its_default(places: dict[str, Path], tmp_path: Path) -> None:
    raw = planted_config("dpo", **places, batch={"epochs": 1})
    assert run_here(raw, tmp_path / "out") == 0
    saved = newest_checkpoint(tmp_path / "out" / "checkpoints")
    assert saved is not None
    del saved.state["config"]["dpo"]["drop_similar"]
    starting.check_same_run(parsed_run(raw), saved)
    with pytest.raises(ConfigError, match=r"dpo\.drop_similar is 0\.1, but the checkpoint was made with 0\.0"):
        starting.check_same_run(parsed_run({**raw, "dpo": {**raw["dpo"], "drop_similar": 0.1}}), saved)


def parsed_run(raw: dict[str, Any]) -> DpoConfig:
    config = parse_config(raw)
    assert isinstance(config, DpoConfig)
    return config
