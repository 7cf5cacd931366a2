from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.engine_runs import ROOT, error_of, lines_of, places, result_of, run_here
from tests.engine.planted import planted_config
from tests.engine.tiny import tiny_model
from training.engine import checkpoint, losses

_ = places


def test_a_bad_config_exits_2_within_seconds_and_names_the_key(tmp_path: Path) -> None:
    config = planted_config("dpo", base=tmp_path, snapshot=tmp_path, optim={"lerning_rate": 1.0})
    (tmp_path / "c.json").write_text(json.dumps(config))
    started = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "importtime",
            "-m",
            "training.engine",
            "run",
            tmp_path / "c.json",
            "--out",
            tmp_path / "o",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 2
    assert time.monotonic() - started < 20
    assert " torch" not in done.stderr
    assert error_of(tmp_path / "o")["kind"] == "config"
    assert "optim.lerning_rate (value 1.0)" in error_of(tmp_path / "o")["message"]
    assert result_of(tmp_path / "o")["status"] == "failed"


def test_a_method_of_another_command_and_no_json_are_bad_configs(tmp_path: Path) -> None:
    assert run_here({"method": "convert", "models": {"source": "x"}, "name": "x"}, tmp_path / "a") == 2
    assert run_here({"method": "nothing"}, tmp_path / "b") == 2
    assert error_of(tmp_path / "b")["message"].startswith("method must be one of")


def test_a_changed_snapshot_exits_3_and_names_the_line(places: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(places["snapshot"], tmp_path / "s")
    path = tmp_path / "s" / "train.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[6] = lines[6].replace('"prob_chosen":1.0', '"prob_chosen":7.0')
    path.write_text("".join(lines))
    config = planted_config("reward", base=places["base"], snapshot=tmp_path / "s")
    assert run_here(config, tmp_path / "out") == 3
    assert error_of(tmp_path / "out") == {
        "kind": "data",
        "message": "train.jsonl, line 7: prob_chosen must be a number in [0, 1], got 7.0",
    }


def test_a_model_that_is_not_there_exits_3(places: dict[str, Path], tmp_path: Path) -> None:
    config = planted_config("reward", base=tmp_path / "none", snapshot=places["snapshot"])
    assert run_here(config, tmp_path / "out") == 3
    assert str(tmp_path / "none") in error_of(tmp_path / "out")["message"]


def test_cublas_is_told_to_repeat_its_sums_before_torch_is_loaded(places: dict[str, Path], tmp_path: Path) -> None:
    """Without it `precision.deterministic` fails on a GPU at the first product."""
    config = planted_config("reward", base=tmp_path / "nowhere", snapshot=places["snapshot"])
    own = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "training.engine", "run", str(tmp_path / "config.json")]
    run = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], env=own, cwd=ROOT, capture_output=True, check=False
    )
    assert run.returncode == 3, run.stderr
    recorded = json.loads((tmp_path / "out" / "environment.json").read_text())
    assert recorded["cublas_workspace_config"] == ":4096:8"


@pytest.mark.parametrize("method", ["reward", "dpo"])
def test_a_value_that_is_not_finite_exits_4_before_the_weights_change(
    method: str, places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = losses.preference_nll, []

    def poisoned(margin: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return real(margin, q) * (float("nan") if len(calls) == 30 else 1.0)

    monkeypatch.setattr(losses, "preference_nll", poisoned)
    config = planted_config(method, **places, batch={"epochs": 20}, eval={"every": 100, "prompts": 1})
    assert run_here(config, tmp_path / "out") == 4
    result = result_of(tmp_path / "out")
    assert result["status"] == "diverged"
    assert result["reason"].startswith(f"train/{'loss' if method == 'reward' else 'linked'} is nan at step")
    assert result["diverged"]["step"] == result["step"] + 1
    assert any(name.startswith("p0") for name in result["diverged"]["examples"])
    assert error_of(tmp_path / "out")["kind"] == "diverged"
    assert result["checkpoints"]["last"]["step"] == result["step"] // 4 * 4
    assert lines_of(tmp_path / "out" / "metrics.jsonl")[-1]["step"] == result["step"]


def test_a_model_with_a_nan_is_stopped_before_step_1(places: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    base = tiny_model(tmp_path / "m")
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    assert run_here(planted_config("reward", base=base, snapshot=places["snapshot"]), tmp_path / "out") in (3, 4)


def test_a_full_disk_exits_1_and_says_so(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage

    def full(path: Any) -> Any:
        return real(path)._replace(free=1000)

    monkeypatch.setattr(checkpoint.shutil, "disk_usage", full)
    assert run_here(planted_config("reward", **places), tmp_path / "out") == 1
    assert error_of(tmp_path / "out")["kind"] == "disk"
    assert list((tmp_path / "out" / "checkpoints").iterdir()) == []
    assert result_of(tmp_path / "out")["status"] == "failed"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError("no"), "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "memory"),
        (RuntimeError("CUDA error: out of memory"), "memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (OSError(errno.EIO, "Input/output error"), "disk"),
        (ValueError("Error while serializing: I/O error: No space left on device (os error 28)"), "disk"),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), "device"),
        (RuntimeError("No CUDA GPUs are available"), "device"),
        (RuntimeError("CUDA error: device-side assert triggered"), "defect"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "defect"),
        (AssertionError("a bug"), "defect"),
    ],
    ids=["memory", "cpu", "gpu", "gpu later", "disk", "bad disk", "rust", "ecc", "gone", "assert", "no file", "defect"],
)
def test_the_machine_and_our_bugs_exit_1(
    error: Exception, kind: str, places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: Any, **_kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(losses, "preference_nll", fail)
    assert run_here(planted_config("reward", **places), tmp_path / "out") == 1
    assert error_of(tmp_path / "out")["kind"] == kind
    assert result_of(tmp_path / "out")["status"] == "failed"


def test_a_reference_that_is_not_the_policy_is_a_defect(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.engine.reference import ReferenceCache

    real = ReferenceCache.lookup
    monkeypatch.setattr(ReferenceCache, "lookup", lambda self, groups: real(self, groups) * 1.01)
    assert run_here(planted_config("dpo", **places), tmp_path / "out") == 1
    assert "π is not π_ref" in error_of(tmp_path / "out")["message"]


def test_help_needs_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "training.engine", "run", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert "CONFIG" in done.stdout
    assert " torch" not in done.stderr
