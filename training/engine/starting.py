"""How a training run begins: the device, the checkpoint to go on from, the trained weights, the checks before step 1.

Knows no loss; the run itself is in `loop.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import math
import random
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.engine import checkpoint as checkpoints
from training.engine import ranks
from training.engine.checkpoint import Progress, Saved, Trained
from training.engine.config import BestOfNConfig, RolloutConfig, RunConfig, parse_config, to_dict
from training.engine.errors import ConfigError, ModelError, SnapshotError
from training.engine.files import Status, directory_hash, open_lines
from training.engine.loop import (
    Batch,
    Best,
    Item,
    ItemT,
    Lineage,
    Run,
    plan_batches,
    plan_rollouts,
    precision,
    recompute_from_now,
    weighted_mean,
)
from training.engine.models import add_lora, context_tokens, load_adapter, load_policy
from training.engine.packing import (
    EXACT,
    Pack,
    Sharing,
    build_pack,
    layout_of,
    read_in_packs_if_exact,
    use_layout,
    use_padded_rows,
)
from training.engine.pairs import verify_kind
from training.engine.records import Manifest
from training.engine.sections import Dtype, OptimConfig, Recompute
from training.engine.supervision import Supervision
from training.engine.text import Text, load_text

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """What every run has at hand before it reads its data."""

    out: Path
    supervision: Supervision
    status: Status
    manifest: Manifest
    device: torch.device
    saved: Saved | None
    """The checkpoint that it goes on from."""
    base: Path
    text: Text
    lineage: Lineage


def open_run(
    config: RunConfig,
    out: Path,
    *,
    resume: Path | None,
    supervision: Supervision,
    kinds: Collection[str],
    models: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
) -> Opening:
    """Verify the snapshot, find the checkpoint to go on from, and read the tokenizer.

    Args:
        kinds: of snapshots that the method can read.
        models: directories of other models by role, whose hashes the result names.
        texts: what else decides the numbers, such as a judge's prompt, named by its hash too.

    Raises:
        SnapshotError, ModelError, ConfigError: something that the run would need is not what it must be.
    """
    device = prepare_device(config)
    status = Status(out, writes=ranks.is_main())
    status.update("loading")
    manifest = verify_kind(config.data.snapshot, *kinds)
    saved = find_resume(out, resume)
    ranks.wait_for_all()
    if saved is not None:
        check_same_run(config, saved)
    base = Path(config.models.base)
    hashes = {role: directory_hash(Path(path)) for role, path in {"base": str(base), **(models or {})}.items()}
    hashes |= {role: hashlib.sha256(text.encode()).hexdigest() for role, text in (texts or {}).items()}
    lineage = Lineage(snapshot=manifest.content_hash, models=hashes)
    if saved is not None:
        check_same_inputs(lineage, saved)
    return Opening(
        out=out,
        supervision=supervision,
        status=status,
        manifest=manifest,
        device=device,
        saved=saved,
        base=base,
        text=load_text(base),
        lineage=lineage,
    )


def prepare_device(config: RunConfig | BestOfNConfig) -> torch.device:
    """Pick the device and fix what makes runs repeat."""
    _keep_freed_memory()
    torch.manual_seed(config.seed)
    random.seed(config.seed)
    if not torch.cuda.is_available():
        ranks.join(torch.device("cpu"))
        return torch.device("cpu")
    torch.cuda.set_device(ranks.local_device())
    ranks.join(torch.device("cuda"))
    torch.backends.cuda.matmul.allow_tf32 = False
    if config.precision.deterministic:
        torch.use_deterministic_algorithms(mode=True)
    return torch.device("cuda")


def _keep_freed_memory() -> None:
    """Tell glibc not to hand large freed blocks back to the system: a step frees and asks for the same ones again.

    Without it a step of SmolLM2 on a CPU has 10⁵ page faults, which are 3–6 % of its time; the peak stays the same.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):  # musl has no mallopt
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def find_resume(out: Path, resume: Path | None) -> Saved | None:
    """The checkpoint to go on from: the one that is named, else the newest whole one of this directory.

    Raises:
        ModelError: the named one does not verify.
    """
    if resume is not None:
        return checkpoints.verify_checkpoint(resume)
    return checkpoints.newest_checkpoint(out / "checkpoints")


def check_same_run(config: RunConfig, saved: Saved) -> None:
    """A checkpoint goes on only under the config that made it; places, memory, evaluation and limits may change.

    Raises:
        ConfigError: names the first key that differs.
    """
    free = (
        *("models.base", "models.policy", "models.rewards", "models.held_out", "data.snapshot"),  # places, not contents
        *("memory", "eval", "checkpoint", "data.allow_drop", "online_dpo.judge.server"),
        *("stop.grace_seconds", "stop.on_alarm", "kl.budget"),  # a run that one of them has ended may go on
    )
    # Parsed, so that an option which is newer than the checkpoint has its default on both sides.
    ours, theirs = _flat(to_dict(config)), _flat(to_dict(parse_config(saved.state["config"])))
    for key in sorted(ours.keys() | theirs.keys()):
        if any(key == name or key.startswith(f"{name}.") for name in free):
            continue
        if ours.get(key) != theirs.get(key):
            raise ConfigError(
                key=key,
                value=ours.get(key),
                message=f"{key} is {ours.get(key)!r}, but the checkpoint was made with {theirs.get(key)!r}",
            )


def check_same_inputs(lineage: Lineage, saved: Saved) -> None:
    """Wherever they lie now, the snapshot and the models are those that the checkpoint was made with.

    Raises:
        ConfigError: names the first that is another.
    """
    theirs = saved.state["lineage"]
    for key, now, before in (
        ("data.snapshot", lineage.snapshot, theirs["snapshot"]),
        *((f"models.{role}", lineage.models.get(role), sha256) for role, sha256 in theirs["models"].items()),
    ):
        if now != before:
            message = f"{key} has the hash {now}, but the checkpoint was made with {before}"
            raise ConfigError(key=key, value=now, message=message)


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return flat


def load_policies(opening: Opening, config: RunConfig, items: Sequence[Item]) -> tuple[Any, Any | None]:
    """The policy in training, ready for packs, and its frozen reference (None: the same with its adapter off).

    Args:
        items: what it will read, to see whether it reads packs exactly.
    """
    model = load_policy_alone(opening, config, items)
    reference = None
    if config.adapter is None:
        reference = load_policy(opening.base, device=opening.device.type).requires_grad_(requires_grad=False)
        use_layout(reference, layout_of(model))
    return model, reference


def load_policy_alone(opening: Opening, config: RunConfig, items: Sequence[Item]) -> Any:
    """The policy in training, ready for packs, from the base or from the checkpoint that the run goes on from."""
    saved = opening.saved
    whole = saved is not None and config.adapter is None
    place = saved.path / "model" if saved is not None and whole else opening.base
    model = load_policy(place, device=opening.device.type)
    choose_layout(model, items, config=config, device=opening.device)
    return make_trainable(model, config, saved)


def choose_layout(model: Any, items: Sequence[Item], *, config: RunConfig, device: torch.device) -> None:
    """Packs where they give what the model's own attention gives, else padded rows, by the shortest and longest items.

    A sliding window, recurrent layers or positions of another kind show here, not in a list of names.
    """
    by_length = sorted(items, key=lambda item: (item.sharing.positions, item.id))
    some = {item.id: item.sharing for item in (*by_length[:2], *by_length[-1:])}
    longest = config.sampling.max_new_tokens if isinstance(config, RolloutConfig) else 0
    probes = [_probe(sharing, tokens=longest, context=context_tokens(model)) for sharing in some.values()]
    with precision(config, device):
        read_in_packs_if_exact(model, probes, tolerance=EXACT[config.precision.dtype])


def _probe(sharing: Sharing, *, tokens: int, context: int) -> Sharing:
    """The item itself; for a prompt alone, two completions that repeat it, one as long as what will be sampled."""
    if sharing.completions:
        return sharing
    prompt = sharing.prompt
    count = max(1, min(tokens, context - len(prompt)))
    ids = (prompt * math.ceil(count / len(prompt)))[:count]
    return Sharing(prompt=prompt, completions=(ids, ids[: math.ceil(count / 2)]))


def make_trainable(model: Any, config: RunConfig, saved: Saved | None, *, role: str | None = None) -> Any:
    """The model with its adapter (new, or that of the checkpoint), or with all weights trained.

    Args:
        role: of a model that is not the run's first, as its checkpoint's folder is named.
    """
    if config.adapter is None:
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        return model
    if saved is not None:
        return load_adapter(model, (saved.path / role if role else saved.path) / "adapter")
    adapter = config.adapter
    return add_lora(model, seed=config.seed, rank=adapter.rank, alpha=adapter.alpha, last_layers=adapter.last_layers)


def make_trained(model: Any, optim: OptimConfig, *, extra: Mapping[str, nn.Parameter] | None = None) -> Trained:
    """A model with its optimizer: AdamW over the trained parameters, fused. Over several ranks it is sharded first."""
    extra = dict(extra or {})
    root = ranks.shard(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Groups apart, because one call of the optimizer cannot hold sharded and whole parameters.
    groups = [{"params": part} for part in (trained, list(extra.values())) if part]
    optimizer = torch.optim.AdamW(
        groups,
        lr=optim.learning_rate,
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        fused=True,
    )
    return Trained(model=model, optimizer=optimizer, optim=optim, extra=extra, root=root)


def plan_of(config: RunConfig, count: int, *, size: int, inner: int) -> tuple[list[list[int]], float]:
    """The iterations of a run over `count` examples (their indices), and how many go once over all of them.

    Args:
        size: examples (prompts) of an iteration; `inner`: its optimizer steps.
    """
    if isinstance(config, RolloutConfig):
        iterations = config.batch.iterations
        if config.stop.max_steps is not None:
            iterations = min(iterations, -(-config.stop.max_steps // inner))
        return plan_rollouts(count, prompts=size, iterations=iterations, seed=config.seed), count / size
    plan = plan_batches(count, size=size, epochs=config.batch.epochs, seed=config.seed, max_steps=config.stop.max_steps)
    return plan, -(-count // size)


def start_run(
    config: RunConfig,
    opening: Opening,
    *,
    kind: str,
    trained: dict[str, Trained],
    items: Sequence[ItemT],
    size: int,
    inner: int = 1,
    reference: Any | None = None,
    facts: Mapping[str, float] | None = None,
    best_by: Best | None = None,
) -> Run[ItemT]:
    """Put the parts together; with a checkpoint, give them the state that it holds.

    The JSON Lines files are cut back to the lines that the checkpoint had seen, so no step appears twice; in a new
    directory they begin with the following step. A checkpoint of another directory is brought along, and its best one.

    Args:
        size: items of an iteration; `inner`: its optimizer steps.
        facts: metrics about the data, for the line of step 0.

    Raises:
        SnapshotError: there are no items, or the data no longer gives the batch that the checkpoint expects next.
    """
    if not items:
        raise SnapshotError("holds nothing to train on", file="train.jsonl")
    plan, per_epoch = plan_of(config, len(items), size=size, inner=inner)
    saved, out = opening.saved, opening.out
    progress = Progress() if saved is None else checkpoints.progress_from(saved.state)
    written = progress.step + (progress.pending is None) if saved is not None else 0
    inside = saved is not None and saved.path.resolve().parent == (out / "checkpoints").resolve()
    run: Run[ItemT] = Run(
        config=config,
        kind=kind,
        out=out,
        supervision=opening.supervision,
        status=opening.status,
        text=opening.text,
        trained=trained,
        reference=reference,
        items=items,
        plan=plan,
        inner=inner,
        epoch_iterations=per_epoch,
        most_steps=config.stop.max_steps,
        lineage=opening.lineage,
        progress=progress,
        metrics=open_lines(out / "metrics.jsonl", before_step=written, writes=ranks.is_main()),
        samples=open_lines(out / "samples.jsonl", before_step=written, writes=ranks.is_main()),
        device=opening.device,
        started_at=time.monotonic(),
        first_step=progress.step,
        saved=saved if inside else None,
        best_by=best_by or Best(),
        facts=dict(facts or {}),
    )
    if saved is not None:
        _restore(run, saved, inside=inside)
    if progress.recomputes or config.memory.recompute is Recompute.ON:
        recompute_from_now(run)
    return run


def _restore(run: Run[Any], saved: Saved, *, inside: bool) -> None:
    """Optimizers, generators and the method's own state out of a checkpoint; the checkpoint itself is brought along."""
    state = saved.state
    following = [] if run.is_last else [item.id for item in run.next_batch()]
    if following != state["next_batch"]:
        raise SnapshotError("the snapshot does not give the batch that the checkpoint expects next")
    for number, (role, part) in enumerate(run.trained.items()):
        checkpoints.restore_trained(part, saved.path, role=role if number else None)
    checkpoints.restore_generators(saved.path)
    checkpoints.restore_python_generator(state)
    run.state = state["method"]
    run.tensors = checkpoints.method_tensors(saved.path)
    run.saved = saved
    lost = False
    if ranks.is_main():
        checkpoints.drop_after(run.folder, step=saved.step)
        if not inside:
            run.saved = checkpoints.adopt_checkpoint(saved.path, run.folder)
            lost = not _adopt_best(run, saved)
    if ranks.any_rank(lost):
        run.progress.best = None  # the next evaluation finds a new one


def _adopt_best(run: Run[Any], saved: Saved) -> bool:
    """Bring the best checkpoint of a former attempt along; false where it was pruned or is broken."""
    best = run.progress.best
    if best is None or best["step"] == saved.step:
        return True
    former = saved.path.parent / f"step-{int(best['step'])}"
    try:
        checkpoints.verify_checkpoint(former)
        checkpoints.adopt_checkpoint(former, run.folder)
    except ModelError:
        return False
    return True


def check_packing(run: Run[Any], values_of: Callable[[Pack], Tensor]) -> None:
    """The four shortest items give the same numbers packed and one completion at a time (before step 1).

    Args:
        values_of: a pack → one number a completion, [K].

    Raises:
        ModelError: they differ; a model with recurrent layers or a sliding window cannot be read in packs.
    """
    shortest = sorted(run.items, key=lambda item: (item.sharing.positions, item.id))[:4]
    tolerance = 1e-2 if run.config.precision.dtype is Dtype.BF16 else 1e-5

    def values(groups: Sequence[Sharing]) -> Tensor:
        return ranks.call(run.roots, lambda: values_of(build_pack(groups, device=run.device)))

    with torch.no_grad(), precision(run.config, run.device):
        packed = values([item.sharing for item in shortest])
        alone = torch.cat([values([sharing]) for item in shortest for sharing in _one_by_one(item.sharing)])
    scale = float(alone.abs().max().clamp(min=1.0))
    worst = float((packed - alone).abs().max())
    if not worst <= tolerance * scale:
        raise ModelError(f"the model reads packed completions differently: {worst:.2e} of {scale:.2e} off")


def check_split(run: Run[ItemT], loss_of: Callable[[Sequence[ItemT]], Batch]) -> None:
    """Four items of the first batch have one loss: in one micro-batch, in one each, and with padding (before step 1).

    Args:
        loss_of: the losses of some items as a batch, without gradient.

    Raises:
        AssertionError: the loss depends on `memory.micro_tokens`.
        ModelError: it depends on how the model is given its completions.
    """
    items = [run.items[index] for index in run.plan[0]][:4]
    config: Any = run.config
    layout = layout_of(run.model)
    together = _mean_loss(loss_of(items))
    run.config = replace(config, memory=replace(config.memory, micro_tokens=1))
    try:
        apart = _mean_loss(loss_of(items))
        use_padded_rows(run.model)
        padded = _mean_loss(loss_of(items))
    finally:
        use_layout(run.model, layout)
        run.config = config
    # A score in bf16 is off by a hundredth or two, and four items average little of it away: 1e-2 refused sound runs.
    tolerance = (3e-2 if run.config.precision.dtype is Dtype.BF16 else 1e-5) * max(1.0, abs(together))
    if not abs(apart - together) <= tolerance:
        raise AssertionError(f"the loss of a batch is {together:.9f} or {apart:.9f}, as it is split")
    if not abs(padded - apart) <= tolerance:
        raise ModelError(f"the loss of a batch is {apart:.9f} in packs and {padded:.9f} in padded rows")


def _mean_loss(batch: Batch) -> float:
    return weighted_mean(batch.losses, batch.weights)


def _one_by_one(sharing: Sharing) -> list[Sharing]:
    """Each completion with the prompt alone, its unscored tokens unscored."""
    scored = sharing.scored or (None,) * len(sharing.completions)
    return [
        Sharing(prompt=sharing.prompt, completions=(ids,), scored=None if flags is None else (flags,))
        for ids, flags in zip(sharing.completions, scored, strict=True)
    ]
