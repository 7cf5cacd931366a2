"""Checkpoints: everything that a run needs to go on with the same bytes, in a directory that is whole or absent.

    checkpoints/step-N/
      adapter/                 LoRA: adapter_model.safetensors, adapter_config.json (PEFT's format)
      head.safetensors         LoRA reward model: {"score.weight": [1, D]}
      model/                   all weights trained: a model directory as `models.write_model` makes it
      winnow.json              method, kind, step, base_sha256, template_sha256, reward {mean, std, count, step} | null
      critic/                  a second model in training, with adapter/, head.safetensors or model/ of its own
      state.safetensors        optimizer moments by parameter name, other parameters, generators, the method's tensors
      state.json               progress, ids of the next batch, config, python's generator state, the method's state
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
from torch import Tensor, nn

from training.engine import ranks
from training.engine.errors import ModelError
from training.engine.files import read_json, sha256_of_file, write_json
from training.engine.models import adapter_state, base_of, has_score_head, save_adapter, score_head, write_model
from training.engine.ranks import Root
from training.engine.sections import OptimConfig
from training.engine.text import Text

FORMAT = "winnow-checkpoint"
MANIFEST = "manifest.json"


@dataclass(kw_only=True, slots=True)
class Trained:
    """A model in training: its optimizer with its settings, and trained parameters that are no part of the model."""

    model: Any
    optimizer: torch.optim.Optimizer
    optim: OptimConfig
    extra: dict[str, nn.Parameter] = field(default_factory=dict)
    root: Root | None = None
    """The model sharded over several ranks; None where it is whole."""

    @property
    def named(self) -> dict[str, Tensor]:
        """Everything that its optimizer moves, by name."""
        own = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        return own | {f"extra.{name}": parameter for name, parameter in self.extra.items()}

    @property
    def parameters(self) -> list[Tensor]:
        return list(self.named.values())


@dataclass(kw_only=True, slots=True)
class Progress:
    """Where a run stands. `pending` holds the figures of a step whose line is not written yet: it may be evaluated."""

    step: int = 0
    skipped: int = 0
    """Planned optimizer steps that were left out."""
    recomputes: bool = False
    """Whether memory has asked for activations to be computed again in the backward pass."""
    pending: dict[str, float] | None = field(default_factory=dict)
    tokens: int = 0
    latest: dict[str, float] = field(default_factory=dict)
    """Last value of every metric."""
    alarms: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, float] | None = None
    """`step` and `value` of the checkpoint with the best held-out figure."""
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
    trained: Mapping[str, Trained],
    text: Text,
    state: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    step: int,
    adapter: bool,
) -> Saved:
    """Write `folder/step-N` aside and rename it into place; one that is there already is replaced.

    Args:
        trained: models in training by role; the first lies in the checkpoint itself, another in a folder of its role.
        state, tensors: go to `state.json` and `state.safetensors`; `facts`: to `winnow.json`, and to that of `model/`
            when all weights train.

    Raises:
        OSError: no space (checked first) or another failure; former checkpoints stay.
    """
    kept = _generator_tensors() | {f"method/{name}": value.cpu().contiguous() for name, value in tensors.items()}
    for number, (role, part) in enumerate(trained.items()):
        kept |= _trained_tensors(part, prefix="" if number == 0 else f"{role}/")
    states = {role: _whole_weights(part.model, adapter=adapter) for role, part in trained.items()}
    if not ranks.is_main():
        ranks.wait_for_all()
        return Saved(path=folder / f"step-{step}", step=step, sha256="")
    folder.mkdir(parents=True, exist_ok=True)
    weights = sum(t.numel() * t.element_size() for state in states.values() for t in state.values())
    needed = int(1.1 * (weights + sum(t.numel() * t.element_size() for t in kept.values()))) + 2**20
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, f"a checkpoint needs {needed} bytes", str(folder))
    partial = folder / f".partial-step-{step}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for number, (role, part) in enumerate(trained.items()):
        place = partial if number == 0 else partial / role
        _write_weights(part.model, text, place, state=states[role], adapter=adapter, facts=facts)
    write_json(partial / "winnow.json", {**facts, "format": FORMAT, "step": step})
    save_file(kept, partial / "state.safetensors")
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
    ranks.wait_for_all()
    return Saved(path=target, step=step, sha256=sha256_of_file(target / MANIFEST))


def _whole_weights(model: Any, *, adapter: bool) -> dict[str, Tensor]:
    """What a checkpoint keeps of one model, whole and on the host; every rank must ask."""
    if not adapter:
        return ranks.full_state(base_of(model))
    state = {name: ranks.full(tensor) for name, tensor in adapter_state(model).items()}
    if has_score_head(model):
        state["score.weight"] = ranks.full(score_head(model).weight)
    return state


def _write_weights(
    model: Any, text: Text, place: Path, *, state: dict[str, Tensor], adapter: bool, facts: Mapping[str, Any]
) -> None:
    """The weights of one model in training into a folder, which is made if need be."""
    place.mkdir(exist_ok=True)
    if not adapter:
        (place / "model").mkdir()
        write_model(model, text, place / "model", winnow={**facts, "format": FORMAT}, state=state)
        return
    head = state.pop("score.weight", None)
    save_adapter(model, place / "adapter", state=state)
    if head is not None:
        save_file({"score.weight": head}, place / "head.safetensors")


def prune_checkpoints(folder: Path, *, keep_last: int, keep_steps: set[int]) -> None:
    """Delete all but the newest `keep_last` and those named."""
    if not ranks.is_main():
        return
    steps = _steps(folder)
    for step in steps[:-keep_last]:
        if step not in keep_steps:
            shutil.rmtree(folder / f"step-{step}")


def drop_after(folder: Path, *, step: int) -> None:
    """Delete checkpoints above a step that a run goes on from, and what a kill left: of a line given up, or broken."""
    for left in [*folder.glob(".partial-step-*"), *folder.glob(".former-step-*")]:
        shutil.rmtree(left)
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


def restore_trained(part: Trained, path: Path, *, role: str | None = None) -> None:
    """Give a model's optimizer its moments back, and the other parameters their values; `role` as it was saved."""
    tensors = load_file(path / "state.safetensors")
    prefix = "" if role is None else f"{role}/"
    with torch.no_grad():
        for name, other in part.extra.items():
            other.copy_(tensors[f"{prefix}extra/{name}"])
    for name, parameter in part.named.items():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            tensor = tensors.get(f"{prefix}optimizer/{name}/{key}")
            if tensor is not None:
                # AdamW keeps its step counter on the host unless it is fused on a GPU.
                device = parameter.device if key != "step" or parameter.is_cuda else "cpu"
                moved = tensor.to(device)
                part.optimizer.state[parameter][key] = moved if key == "step" else ranks.as_sharded(moved, parameter)


def restore_generators(path: Path) -> None:
    """Give the process the states of torch's generators back."""
    tensors = load_file(path / "state.safetensors")
    torch.set_rng_state(tensors["generator/torch"])
    if torch.cuda.is_available() and "generator/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["generator/cuda"])


def method_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors that the method itself keeps."""
    tensors = load_file(path / "state.safetensors")
    return {name.removeprefix("method/"): value for name, value in tensors.items() if name.startswith("method/")}


def restore_python_generator(state: Mapping[str, Any]) -> None:
    version, internal, following = state["python_generator"]
    random.setstate((version, tuple(internal), following))


def progress_from(state: Mapping[str, Any]) -> Progress:
    return Progress(**state["progress"])


def progress_to_dict(progress: Progress) -> dict[str, Any]:
    return dataclasses.asdict(progress)


def _trained_tensors(part: Trained, *, prefix: str) -> dict[str, Tensor]:
    moments = {
        f"{prefix}optimizer/{name}/{key}": ranks.full(value)
        for name, parameter in part.named.items()
        for key, value in part.optimizer.state.get(parameter, {}).items()
    }
    return moments | {f"{prefix}extra/{name}": value.detach().cpu() for name, value in part.extra.items()}


def _generator_tensors() -> dict[str, Tensor]:
    tensors = {"generator/torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["generator/cuda"] = torch.cuda.get_rng_state()
    return tensors
