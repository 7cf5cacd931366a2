"""Checkpoints: everything that a run needs to go on with the same bytes, in a directory that is whole or absent.

    checkpoints/step-N/
      adapter/                 LoRA: adapter_model.safetensors, adapter_config.json (PEFT's format)
      head.safetensors         LoRA reward model: {"score.weight": [1, D]}
      model/                   all weights trained: a model directory as `models.write_model` makes it
      winnow.json              method, kind, step, base_sha256, template_sha256, reward {mean, std, count, step} | null
      state.safetensors        optimizer moments by parameter name, generator states
      state.json               progress, ids of the next batch, config, python's generator state
      manifest.json            path, sha256 and bytes of every other file; written last

Written to `.partial-step-N`, each file synced, renamed; a directory without a manifest does not exist.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.engine.errors import ModelError
from training.engine.files import read_json, sha256_of_file, write_json
from training.engine.models import save_adapter, score_head, write_model
from training.engine.text import Text

FORMAT = "winnow-checkpoint"
MANIFEST = "manifest.json"


@dataclass(kw_only=True, slots=True)
class Progress:
    """Where a run stands. `pending` holds the figures of a step whose line is not written yet: it may be evaluated."""

    step: int = 0
    pending: dict[str, float] | None = field(default_factory=dict)
    tokens: int = 0
    latest: dict[str, float] = field(default_factory=dict)
    """Last value of every metric."""
    alarms: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, float] | None = None
    """`step` and `value` of the checkpoint with the least held-out loss."""
    asked: list[int] = field(default_factory=list)
    """Steps of checkpoints that the supervisor asked for; they are kept."""
    scores: dict[str, float] | None = None
    """Mean, std and count of held-out scores, with the `step` of the weights that gave them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """A verified checkpoint; `sha256` is that of its manifest, which names the hash of everything else."""

    path: Path
    step: int
    sha256: str

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = read_json(self.path / "state.json")
        return state


# --- writing ----------------------------------------------------------------------------------------------------------


def save_checkpoint(
    folder: Path,
    *,
    model: Any,
    text: Text,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    facts: Mapping[str, Any],
    step: int,
    adapter: bool,
) -> Saved:
    """Write `folder/step-N` aside and rename it into place; one that is there already is replaced.

    Args:
        state: goes to `state.json`; `facts`: goes to `winnow.json`, and to that of `model/` when all weights train.

    Raises:
        OSError: no space (checked first) or another failure; former checkpoints stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = _optimizer_tensors(model, optimizer) | _generator_tensors()
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad or not adapter)
    needed = int(1.1 * (trained + sum(t.numel() * t.element_size() for t in tensors.values()))) + 2**20
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, f"a checkpoint needs {needed} bytes", str(folder))
    partial = folder / f".partial-step-{step}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    if adapter:
        save_adapter(model, partial / "adapter")
        if facts["kind"] == "reward":
            save_file({"score.weight": score_head(model).weight.detach().cpu()}, partial / "head.safetensors")
    else:
        (partial / "model").mkdir()
        write_model(model, text, partial / "model", winnow={**facts, "format": FORMAT})
    write_json(partial / "winnow.json", {**facts, "format": FORMAT, "step": step})
    save_file(tensors, partial / "state.safetensors")
    write_json(partial / "state.json", dict(state))
    files = [
        {"path": path.relative_to(partial).as_posix(), "sha256": sha256_of_file(path), "bytes": path.stat().st_size}
        for path in sorted(partial.rglob("*"))
        if path.is_file()
    ]
    for path in [*partial.rglob("*"), partial]:
        _sync(path)
    write_json(partial / MANIFEST, {"format": FORMAT, "version": 1, "step": step, "files": files})
    _sync(partial)
    target, former = folder / f"step-{step}", folder / f".former-step-{step}"
    if target.exists():
        target.rename(former)
    partial.rename(target)
    _sync(folder)
    shutil.rmtree(former, ignore_errors=True)
    return Saved(path=target, step=step, sha256=sha256_of_file(target / MANIFEST))


def prune_checkpoints(folder: Path, *, keep_last: int, keep_steps: set[int]) -> None:
    """Delete all but the newest `keep_last` and those named."""
    steps = _steps(folder)
    for step in steps[:-keep_last]:
        if step not in keep_steps:
            shutil.rmtree(folder / f"step-{step}")


def drop_after(folder: Path, *, step: int) -> None:
    """Delete checkpoints above a step that a run goes on from: they are of a line given up, or broken."""
    for other in _steps(folder):
        if other > step:
            shutil.rmtree(folder / f"step-{other}")


def adopt_checkpoint(source: Path, folder: Path) -> Saved:
    """Bring a checkpoint of an earlier attempt into this one's folder, by hard links where the disk allows."""
    target = folder / source.name
    if not target.exists():
        partial = folder / f".partial-{source.name}"
        shutil.rmtree(partial, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, partial, copy_function=_link_or_copy)
        partial.rename(target)
    return verify_checkpoint(target)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- reading ----------------------------------------------------------------------------------------------------------


def verify_checkpoint(path: Path) -> Saved:
    """Compare every file with the manifest.

    Raises:
        ModelError: no manifest, or a file that is missing, foreign or changed.
    """
    try:
        manifest = read_json(path / MANIFEST)
        listed = {item["path"]: item["sha256"] for item in manifest["files"]}
        step = int(manifest["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not a checkpoint: {error}") from None
    found = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()} - {MANIFEST}
    for name in sorted(found ^ listed.keys()):
        raise ModelError(f"{path}: {name} is {'missing' if name in listed else 'not in the manifest'}")
    for name, sha256 in listed.items():
        if sha256_of_file(path / name) != sha256:
            raise ModelError(f"{path}: {name} was changed, its sha256 is not the manifest's")
    return Saved(path=path, step=step, sha256=sha256_of_file(path / MANIFEST))


def newest_checkpoint(folder: Path) -> Saved | None:
    """The newest one that verifies; a broken one is passed over."""
    for step in reversed(_steps(folder)):
        try:
            return verify_checkpoint(folder / f"step-{step}")
        except ModelError:
            continue
    return None


def _steps(folder: Path) -> list[int]:
    names = [path.name.removeprefix("step-") for path in folder.glob("step-*")]
    return sorted(int(name) for name in names if name.isdigit())


def load_head(model: Any, path: Path) -> None:
    """Put the head of a LoRA reward checkpoint into a loaded model."""
    weight = load_file(path / "head.safetensors")["score.weight"]
    head = score_head(model)
    if weight.shape != head.weight.shape:
        raise ModelError(f"{path}: head.safetensors has shape {tuple(weight.shape)}, not {tuple(head.weight.shape)}")
    with torch.no_grad():
        head.weight.copy_(weight)


def restore_optimizer(model: Any, optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Give the optimizer its moments and the process its generator states back."""
    tensors = load_file(path / "state.safetensors")
    for name, parameter in _trained(model).items():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            tensor = tensors.get(f"optimizer/{name}/{key}")
            if tensor is not None:
                # AdamW keeps its step counter on the host unless it is fused on a GPU.
                device = parameter.device if key != "step" or parameter.is_cuda else "cpu"
                optimizer.state[parameter][key] = tensor.to(device)
    torch.set_rng_state(tensors["generator/torch"])
    if torch.cuda.is_available() and "generator/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["generator/cuda"])


def restore_python_generator(state: Mapping[str, Any]) -> None:
    version, internal, following = state["python_generator"]
    random.setstate((version, tuple(internal), following))


def progress_from(state: Mapping[str, Any]) -> Progress:
    return Progress(**state["progress"])


def progress_to_dict(progress: Progress) -> dict[str, Any]:
    return dataclasses.asdict(progress)


def _trained(model: Any) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _optimizer_tensors(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"optimizer/{name}/{key}": value.detach().cpu().contiguous()
        for name, parameter in _trained(model).items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _generator_tensors() -> dict[str, Tensor]:
    tensors = {"generator/torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["generator/cuda"] = torch.cuda.get_rng_state()
    return tensors
