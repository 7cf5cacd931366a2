"""How a training run begins: the device, the checkpoint to go on from, the trained weights, the checks before step 1.

Knows no loss; the run itself is in `loop.py`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.engine import checkpoint as checkpoints
from training.engine.checkpoint import Progress, Saved
from training.engine.config import RunConfig, to_dict
from training.engine.errors import ConfigError, ModelError, SnapshotError
from training.engine.files import Status, open_lines
from training.engine.loop import Lineage, Run, plan_batches, precision
from training.engine.models import add_lora, load_adapter
from training.engine.packing import Pack, Sharing, build_pack
from training.engine.pairs import Part
from training.engine.sections import Dtype, OptimConfig
from training.engine.supervision import Supervision
from training.engine.text import Text


def prepare_device(config: RunConfig) -> torch.device:
    """Pick the device and fix what makes runs repeat."""
    torch.manual_seed(config.seed)
    random.seed(config.seed)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cuda.matmul.allow_tf32 = False
    if config.precision.deterministic:
        torch.use_deterministic_algorithms(mode=True)
    return torch.device("cuda")


def find_resume(out: Path, resume: Path | None) -> Saved | None:
    """The checkpoint to go on from: the one that is named, else the newest whole one of this directory.

    Raises:
        ModelError: the named one does not verify.
    """
    if resume is not None:
        return checkpoints.verify_checkpoint(resume)
    return checkpoints.newest_checkpoint(out / "checkpoints")


def check_same_run(config: RunConfig, saved: Saved) -> None:
    """A checkpoint goes on only under the config that made it; places, memory, evaluation and saving may change.

    Raises:
        ConfigError: names the first key that differs.
    """
    free = ("models", "memory", "eval", "checkpoint", "data.snapshot", "data.allow_drop", "stop.grace_seconds")
    ours, theirs = _flat(to_dict(config)), _flat(saved.state["config"])
    for key in sorted(ours.keys() | theirs.keys()):
        if any(key == name or key.startswith(f"{name}.") for name in free):
            continue
        if ours.get(key) != theirs.get(key):
            raise ConfigError(
                key=key,
                value=ours.get(key),
                message=f"{key} is {ours.get(key)!r}, but the checkpoint was made with {theirs.get(key)!r}",
            )


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return flat


def make_trainable(model: Any, config: RunConfig, saved: Saved | None) -> Any:
    """The model with its adapter (new, or that of the checkpoint), or with all weights trained."""
    if config.adapter is None:
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        return model
    if saved is not None:
        return load_adapter(model, saved.path / "adapter")
    return add_lora(model, seed=config.seed, rank=config.adapter.rank, alpha=config.adapter.alpha)


def make_optimizer(model: Any, optim: OptimConfig) -> torch.optim.Optimizer:
    """AdamW over the trained parameters, fused."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        trained,
        lr=optim.learning_rate,
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        fused=True,
    )


def start_run(
    config: RunConfig,
    *,
    kind: str,
    out: Path,
    supervision: Supervision,
    status: Status,
    text: Text,
    model: Any,
    train: Part,
    lineage: Lineage,
    saved: Saved | None,
    device: torch.device,
) -> Run:
    """Put the parts together; with a checkpoint, give them the state that it holds.

    The JSON Lines files are cut back to the lines that the checkpoint had seen, so no step appears twice; in a new
    directory they begin with the following step. A checkpoint of another directory is brought along, and its best one.

    Raises:
        SnapshotError: the part is empty, or the data no longer gives the batch that the checkpoint expects next.
    """
    pairs = train.pairs
    if not pairs:
        raise SnapshotError("holds no pair to train on", file="train.jsonl")
    plan = plan_batches(
        len(pairs),
        size=config.batch.pairs,
        epochs=config.batch.epochs,
        seed=config.seed,
        max_steps=config.stop.max_steps,
    )
    optimizer = make_optimizer(model, config.optim)
    progress, inside = Progress(), False
    if saved is not None:
        state = saved.state
        progress = checkpoints.progress_from(state)
        checkpoints.restore_optimizer(model, optimizer, saved.path)
        checkpoints.restore_python_generator(state)
        following = [pairs[index].id for index in plan[progress.step]] if progress.step < len(plan) else []
        if following != state["next_batch"]:
            raise SnapshotError("the snapshot does not give the batch that the checkpoint expects next")
        inside = saved.path.resolve().parent == (out / "checkpoints").resolve()
        checkpoints.drop_after(out / "checkpoints", step=saved.step)
    written = progress.step + (progress.pending is None) if saved is not None else 0
    run = Run(
        config=config,
        kind=kind,
        out=out,
        supervision=supervision,
        status=status,
        text=text,
        model=model,
        optimizer=optimizer,
        pairs=pairs,
        plan=plan,
        lineage=lineage,
        progress=progress,
        metrics=open_lines(out / "metrics.jsonl", before_step=written),
        samples=open_lines(out / "samples.jsonl", before_step=written),
        device=device,
        started_at=time.monotonic(),
        first_step=progress.step,
        saved=saved if inside else None,
        dropped=train.dropped,
    )
    if saved is not None and not inside:
        run.saved = checkpoints.adopt_checkpoint(saved.path, run.folder)
        if progress.best is not None and progress.best["step"] != saved.step:
            former = saved.path.parent / f"step-{int(progress.best['step'])}"
            try:
                checkpoints.verify_checkpoint(former)
                checkpoints.adopt_checkpoint(former, run.folder)
            except ModelError:  # it was pruned or is broken: the next evaluation finds a new best
                progress.best = None
    return run


def check_packing(run: Run, values_of: Callable[[Pack], Tensor]) -> None:
    """The four shortest pairs give the same numbers packed and one completion at a time (before step 1).

    Args:
        values_of: a pack → one number a completion, [K].

    Raises:
        ModelError: they differ; a model with recurrent layers or a sliding window cannot be read in packs.
    """
    shortest = sorted(run.pairs, key=lambda pair: (pair.sharing.positions, pair.id))[:4]
    tolerance = 1e-2 if run.config.precision.dtype is Dtype.BF16 else 1e-5
    with torch.no_grad(), precision(run.config, run.device):
        packed = values_of(build_pack([pair.sharing for pair in shortest], device=run.device))
        alone = torch.cat(
            [
                values_of(build_pack([Sharing(prompt=pair.sharing.prompt, completions=(ids,))], device=run.device))
                for pair in shortest
                for ids in pair.sharing.completions
            ]
        )
    scale = float(alone.abs().max().clamp(min=1.0))
    worst = float((packed - alone).abs().max())
    if not worst <= tolerance * scale:
        raise ModelError(f"the model reads packed completions differently: {worst:.2e} of {scale:.2e} off")
