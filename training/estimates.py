"""What a job would take, said before it starts: steps, tokens, memory and time, each with what it was reckoned from.

Steps are exact where the model's own tokenizer counted every line, because they depend on which lines are too long.
Memory is arithmetic over weights, gradients, optimizer and activations. Time is taken from past runs of the same method
on the same model, evaluations and all; without any, from the arithmetic of the passes at a rate that is stated.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.db.models import FloatField, Max, Min
from django.db.models.fields.json import KT
from django.db.models.functions import Cast

from training import registry
from training.engine.config import AnyConfig, RolloutConfig, to_dict
from training.engine.errors import SnapshotError
from training.engine.records import PARTS
from training.jobs import checked
from training.launching import Prepared
from training.lengths import Lengths, measure, measured
from training.models import ModelVersion, Run, RunMetric, Worker
from training.snapshots import snapshot_path

RATES = {"GPU": 5e13, "CPU": 5e10}
"""Useful floating-point operations a second that are assumed where nothing has run yet: a third of an A100 in bf16
without the best kernels, and two cores of a laptop in fp32."""
DECODING_SHARE = 0.1
"""Of that rate, while completions are written token by token: memory, not arithmetic, is then the limit."""
PAST_RUNS = 5
DROP_LIMIT = 0.05
"""Of `engine.pairs`: more lines that are too long, and the run is refused."""
_WHOLE = 4  # bytes of an fp32 number
_TRAINED = 4 * _WHOLE  # weight, gradient, and two moments of AdamW


log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """None where it cannot be known. `basis` says by name what each figure was reckoned from."""

    steps: int | None
    iterations: int | None
    examples: int | None
    dropped: int | None
    tokens: int | None
    memory_bytes: int | None
    seconds: float | None
    basis: dict[str, str]
    notes: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """Steps and the tokens that go through the weights, trained on and sampled."""

    iterations: int | None
    steps: int
    trained: float
    sampled: float
    tokens_basis: str


def estimate(prepared: Prepared) -> Estimate:
    """Reckon, and start nothing. A fixed number of queries."""
    model = _base(prepared)
    config = to_dict(checked(prepared.complete))
    basis, notes = dict[str, str](), list[str]()
    lengths = _lengths(prepared, model, config, notes)
    plan = None
    kept = dropped = None
    if lengths is not None:
        kept, dropped = _kept(lengths, config, notes)
        similar = math.floor(config["dpo"]["drop_similar"] * kept) if "dpo" in config else 0
        if similar:
            notes.append(f"{similar} of {kept} pairs are left out as too similar (dpo.drop_similar)")
            kept, dropped = kept - similar, dropped + similar
        plan = _planned(prepared.method.name, checked(prepared.complete), config, lengths, kept)
        said = "every line, by " if lengths.is_exact else "about, by "
        basis["steps"] = said + lengths.basis
        basis["tokens"] = plan.tokens_basis + lengths.basis
        if kept == 0:
            notes.append("nothing would be left to train on")
    memory = _memory(prepared, model, config)
    if memory is not None:
        basis["memory_bytes"] = memory[1]
    seconds = _seconds(prepared, model, config, plan)
    if seconds is not None:
        basis["seconds"] = seconds[1]
    return Estimate(
        steps=None if plan is None or not prepared.method.trains else plan.steps,
        iterations=None if plan is None else plan.iterations,
        examples=kept,
        dropped=dropped,
        tokens=None if plan is None else round(plan.trained),
        memory_bytes=None if memory is None else memory[0],
        seconds=None if seconds is None else seconds[0],
        basis=basis,
        notes=notes,
    )


def _base(prepared: Prepared) -> ModelVersion | None:
    """The model whose tokenizer and size count; for a promised one that of the job that it is trained from."""
    if prepared.wish.model is not None:
        return prepared.wish.model
    rewards = next(iter(prepared.uses), None)
    promised = next((job.model for job in prepared.waits_for if job.model is not None), None)
    return promised if "base" in prepared.inputs and rewards is None else rewards or promised


# --- lines ------------------------------------------------------------------------------------------------------------


def _lengths(
    prepared: Prepared, model: ModelVersion | None, config: Mapping[str, Any], notes: list[str]
) -> Lengths | None:
    """Of the part that the method works on; None where it has none, or the files are not here."""
    snapshot = prepared.wish.snapshot
    if snapshot is None:
        return None
    method = prepared.method.name
    parts = PARTS if method in ("score", "best_of_n") else (config["data"].get("part", "train"),)
    counter = measure(registry.model_path(model) if model is not None else Path())
    try:
        return measured(snapshot_path(snapshot), parts=parts, config=config, method=method, measure=counter)
    except (SnapshotError, OSError) as error:
        log.warning("no estimate from snapshot %s: %s", snapshot.pk, error)
        notes.append("the snapshot's files cannot be read on this server")
        return None


def _kept(lengths: Lengths, config: Mapping[str, Any], notes: list[str]) -> tuple[int, int]:
    """How many examples are short enough, and how many are not."""
    data = config["data"]
    option = "data.max_prompt_tokens" if "max_prompt_tokens" in data else "data.max_tokens"
    limit = data.get("max_prompt_tokens", data.get("max_tokens"))
    fitting = sum(limit is None or item.longest <= limit for item in lengths.examples)
    total = round(lengths.weight * len(lengths.examples))
    kept = total if fitting == len(lengths.examples) else round(lengths.weight * fitting)
    dropped = total - kept
    if dropped:
        notes.append(f"{dropped} of {total} examples are longer than {option} = {limit} and are left out")
    if dropped > DROP_LIMIT * total and not data.get("allow_drop", True):
        notes.append(f"the run will be refused: raise {option}, or set data.allow_drop")
    return kept, dropped


def _planned(method: str, typed: AnyConfig, config: Mapping[str, Any], lengths: Lengths, kept: int) -> _Plan:
    limit = config["data"].get("max_prompt_tokens", config["data"].get("max_tokens", math.inf))
    fitting = [item for item in lengths.examples if item.longest <= limit]
    mean = sum(item.tokens for item in fitting) / len(fitting) if fitting else 0.0
    most = config.get("stop", {}).get("max_steps")
    if isinstance(typed, RolloutConfig):
        return _rollouts(method, typed, config, mean_prompt=mean, most=most)
    if method in ("best_of_n", "expert_iteration"):
        options, longest = config[method], config["sampling"]["max_new_tokens"]
        sampled = kept * (options["samples"] or options["n"]) * (mean + longest)
        basis = "at most, every completion at its limit; prompts by "
        if method == "best_of_n":
            return _Plan(iterations=None, steps=0, trained=sampled, sampled=sampled, tokens_basis=basis)
        steps, share = _epochs(kept, size=config["batch"]["examples"], epochs=config["batch"]["epochs"], most=most)
        trained = share * kept * (mean + longest)
        return _Plan(iterations=None, steps=steps, trained=trained, sampled=sampled, tokens_basis=basis)
    if "batch" not in config:
        return _Plan(iterations=None, steps=0, trained=kept * mean, sampled=0.0, tokens_basis="")
    size = config["batch"].get("pairs") or config["batch"]["examples"]
    steps, share = _epochs(kept, size=size, epochs=config["batch"]["epochs"], most=most)
    return _Plan(iterations=None, steps=steps, trained=share * kept * mean, sampled=0.0, tokens_basis="")


def _epochs(count: int, *, size: int, epochs: int, most: int | None) -> tuple[int, float]:
    """Optimizer steps as `engine.loop.plan_batches` lays them, and how often they go over the examples."""
    whole = epochs * -(-count // size)
    steps = whole if most is None else min(whole, most)
    return steps, epochs * steps / whole if whole else 0.0


def _rollouts(
    method: str, typed: RolloutConfig, config: Mapping[str, Any], *, mean_prompt: float, most: int | None
) -> _Plan:
    """Iterations as `engine.starting.plan_of` lays them; a last one may be cut short by `stop.max_steps`."""
    batch = typed.batch
    size, inner = batch.completions, batch.steps
    if method == "quark":  # as `engine.quark.pass_size`
        options = config["quark"]
        size = max(1, size // options["parts"]) if options["quantiles"] == "best" else size
        inner = batch.inner_epochs * -(-size // (batch.minibatch or size))
    iterations, steps = batch.iterations, batch.iterations * inner
    if most is not None:
        iterations, steps = min(iterations, -(-most // inner)), min(steps, most)
    each = mean_prompt + config["sampling"]["max_new_tokens"]
    return _Plan(
        iterations=iterations,
        steps=steps,
        trained=steps / inner * batch.inner_epochs * size * each,
        sampled=iterations * batch.completions * each,
        tokens_basis="at most, every completion at its limit; prompts by ",
    )


# --- memory -----------------------------------------------------------------------------------------------------------


def _memory(prepared: Prepared, model: ModelVersion | None, config: Mapping[str, Any]) -> tuple[int, str] | None:
    """The peak of the process, from what must be there at one time."""
    if model is None or model.parameters is None:
        return None
    whole = model.parameters
    shape = _shape(model)
    adapter = config.get("adapter")
    parts: dict[str, float] = {}
    if not prepared.method.trains:
        parts["weights"] = _WHOLE * whole
    elif adapter is None:
        parts["weights, gradients and optimizer"] = _TRAINED * whole
        parts["reference"] = _WHOLE * whole if _has_reference(prepared.method.name, config) else 0
    else:
        added = _adapter_parameters(shape, rank=adapter["rank"]) or whole * 0.01
        parts["weights"] = _WHOLE * whole
        parts["adapter with its optimizer"] = _TRAINED * added
    if prepared.method.name == "ppo" and config["ppo"]["critic"] == "separate":
        parts["critic"] = sum(size for name, size in parts.items() if name != "reference")
    others = [used for used in prepared.uses if used.pk != model.pk]
    promised = sum(len(refs) for role, refs in prepared.inputs.items() if role in prepared.method.roles) - len(others)
    parts["further models"] = _WHOLE * (sum(used.parameters or whole for used in others) + max(promised, 0) * whole)
    positions = config.get("memory", {}).get("micro_tokens", 0)
    trains = prepared.method.trains
    recomputes = config.get("memory", {}).get("recompute") == "on"
    width = 2 if config.get("precision", {}).get("dtype") == "bf16" else _WHOLE
    parts["activations"] = _activations(shape, positions=positions, width=width, trains=trains, recomputes=recomputes)
    if "sampling" in config:
        length = config["sampling"]["max_new_tokens"] + config["data"].get("max_prompt_tokens", 512)
        parts["keys and values of the decoder"] = _cache(shape, tokens=config["sampling"]["batch_size"] * length)
    total = sum(parts.values())
    said = ", ".join(f"{name} {size / 2**30:.2f} GiB" for name, size in parts.items() if size >= 2**20)
    return round(total), said or f"{total / 2**20:.1f} MiB of weights and activations"


def _has_reference(method: str, config: Mapping[str, Any]) -> bool:
    """Whether a second copy of the policy is held beside one whose every weight is trained."""
    if method == "reward":
        return False
    if method == "dpo":
        return config["dpo"]["logit"] in ("dpo", "dpo_avg") or config["dpo"]["measure_kl"]
    return method in ("kto", "ppo", "rloo", "grpo", "online_dpo", "quark") or bool(config["eval"]["prompts"])


def _shape(model: ModelVersion) -> dict[str, int]:
    """Sizes out of the model's `config.json`; empty where it is not here."""
    try:
        raw = json.loads((registry.model_path(model) / "config.json").read_text(encoding="utf-8"))
        heads = int(raw["num_attention_heads"])
        head = int(raw.get("head_dim") or raw["hidden_size"] // heads)
        return {
            "layers": int(raw["num_hidden_layers"]),
            "hidden": int(raw["hidden_size"]),
            "inner": int(raw["intermediate_size"]),
            "queries": heads * head,
            "keys": int(raw.get("num_key_value_heads") or heads) * head,
            "vocabulary": int(raw["vocab_size"]),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _adapter_parameters(shape: Mapping[str, int], *, rank: int) -> int:
    """A and B of every linear layer of a block: queries, keys, values, output, and three of a gated feed-forward."""
    if not shape:
        return 0
    hidden, inner, queries, keys = shape["hidden"], shape["inner"], shape["queries"], shape["keys"]
    ends = 2 * (hidden + queries) + 2 * (hidden + keys) + 3 * (hidden + inner)
    return rank * ends * shape["layers"]


def _activations(shape: Mapping[str, int], *, positions: int, width: int, trains: bool, recomputes: bool) -> float:
    """Of one pass, with attention that keeps no scores.

    Source: Korthikanti et al. 2022, section 4: 34 bytes a position and unit of width in a block at 16 bits, 2 of them
    where activations are computed again; and the logits with their gradient in fp32.
    """
    if not shape:
        return 0.0
    block = 34 / 2 * width * shape["hidden"]
    if not trains:
        kept = block
    elif recomputes:
        kept = block + width * shape["hidden"] * shape["layers"]
    else:
        kept = block * shape["layers"]
    return positions * (kept + 2 * _WHOLE * shape["vocabulary"])


def _cache(shape: Mapping[str, int], *, tokens: int) -> float:
    return 2.0 * _WHOLE * tokens * shape["layers"] * shape["keys"] if shape else 0.0


# --- time -------------------------------------------------------------------------------------------------------------


def _seconds(
    prepared: Prepared, model: ModelVersion | None, config: Mapping[str, Any], plan: _Plan | None
) -> tuple[float, str] | None:
    if plan is None or model is None:
        return None
    speed = _past_speed(prepared, model)
    if speed is not None:
        rate, runs = speed
        many = f"the last {runs} runs" if runs > 1 else "the last run"
        basis = f"{many} of {prepared.method.name} on {model.name}, evaluations and all: {rate:.0f} tokens a second"
        return plan.trained / rate, basis
    if model.parameters is None:
        return None
    where = "GPU" if Worker.objects.filter(ended_at=None, queue="gpu").exclude(devices=[]).exists() else "CPU"
    # Forward 2 operations a weight and token, backward 4; the frozen weights below an adapter have no gradient (2).
    passes = 2 if not prepared.method.trains else 6 if config.get("adapter") is None else 4
    reference = 2 if prepared.method.trains and prepared.method.name != "reward" else 0
    work = model.parameters * (plan.trained * (passes + reference) + plan.sampled * 2 / DECODING_SHARE)
    basis = (
        f"no run of {prepared.method.name} on {model.name} yet: {_counted(model.parameters)} parameters at an "
        f"assumed {RATES[where] / 1e9:,.0f} billion operations a second on a {where}, without evaluations"
    )
    return work / RATES[where], basis


def _counted(parameters: int) -> str:
    return f"{parameters / 1e6:,.0f} M" if parameters >= 1e6 else f"{parameters:,}"


def _past_speed(prepared: Prepared, model: ModelVersion) -> tuple[float, int] | None:
    """Median tokens a second of the last runs of the method on the model, from their first to their last line."""
    runs = Run.objects.filter(
        job__project=prepared.project, job__method=prepared.method.name, job__model=model, last_step__isnull=False
    ).order_by("-pk")
    tokens = Cast(KT("values__train/tokens"), FloatField())
    rows = (
        RunMetric.objects.filter(run__in=list(runs.values_list("pk", flat=True)[:PAST_RUNS]))
        .filter(**{"values__has_key": "train/tokens"})
        .values("run")
        .annotate(first=Min("time"), last=Max("time"), few=Min(tokens), many=Max(tokens))
    )
    rates = sorted(
        (row["many"] - row["few"]) / (row["last"] - row["first"])
        for row in rows
        if row["last"] > row["first"] and row["many"] > row["few"]
    )
    return (rates[len(rates) // 2], len(rates)) if rates else None
