"""Best-of-n, and expert iteration: choose by a reward model among what a policy writes, and learn it.

Best of n keeps argmax s of n completions, equal scores by a seeded draw. For distinct scores its law is

    P(y) = F(s_y)^n − F(s_y−)^n,     F the distribution function of s(y) under π
    KL(best of n ‖ π) ≤ log n − (n − 1)/n      (Hilton & Gao 2022; Beirami et al. 2024), less where scores tie

One draw of n says little of what n buys, so the curve over n = 1, 2, 4 … N is the unbiased estimate from all N samples
of a prompt (`advantages.best_of_n_curve`; Nakano et al. 2021, app. I), with intervals by prompt group.

`best_of_n` trains nothing. It reads every part of the snapshot and leaves in OUT

    completions.jsonl    the best of n of each prompt: the keys of a `sample` line, and `score`
    candidates.jsonl     all N of each prompt (`candidates.py`)
    demonstrations/      a snapshot of the best ones, for `sft`
    pairs/               a snapshot of preferences for `dpo` or `reward`: the best against a seeded other one, labelled
                         by the reward model with q = σ(Δs)

Expert iteration is one round: best of n on the training prompts by `models.policy` (the last round's policy), then SFT
on it from `models.base`, the SFT weights, not from the last round's (Dubois et al. 2023, AlpacaFarm). Its evaluations
read the best of n on validation prompts.

P prompts; N completions of each.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from training.engine import ranks, sft, starting
from training.engine.candidates import LINES, Candidate, Makers, Wanted, gather, give_up_after
from training.engine.checkpoint import newest_checkpoint
from training.engine.choosing import Chosen, choose_all, choose_other, curve_metrics, curve_points
from training.engine.config import BestOfNConfig, BestOfNOptions, ExpertIterationConfig
from training.engine.errors import ModelError, SnapshotError
from training.engine.examples import Demonstration, Loaded, PromptItem, control_of, demonstration, load_prompts
from training.engine.files import Lines, Status, check_values, directory_hash, open_lines, read_json, write_json
from training.engine.models import load_policy
from training.engine.records import KINDS, PARTS, Manifest, canonical_json, verify_snapshot, write_snapshot
from training.engine.scoring import load_reward_models, reward_roles
from training.engine.sections import Combine
from training.engine.starting import Opening
from training.engine.supervision import StopRun, Supervision
from training.engine.text import load_text


def run(
    config: BestOfNConfig | ExpertIterationConfig, out: Path, *, resume: Path | None, supervision: Supervision
) -> None:
    """Write everything to `out`; go on from what is there.

    Args:
        resume: an earlier attempt's directory; for expert iteration a checkpoint in one, too.

    Raises:
        SnapshotError, ModelError, Diverged; StopRun when a stop comes before the first step of training.
    """
    if isinstance(config, BestOfNConfig):
        _run_best_of_n(config, out, resume=resume, supervision=supervision)
    else:
        _run_expert_iteration(config, out, resume=resume, supervision=supervision)


# --- best of n --------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True, slots=True)
class _Telling:
    """What this attempt says of itself; a line of `metrics.jsonl` tells of all prompts so far, of any attempt."""

    out: Path
    status: Status
    total: int
    metrics: Lines | None = None
    started_at: float = field(default_factory=time.monotonic)
    kept_tokens: int = 0

    def __call__(self, found: list[list[Candidate]]) -> None:
        done = len(found)
        if self.metrics is None:
            self.metrics = open_lines(self.out / "metrics.jsonl", before_step=done, writes=ranks.is_main())
            self.kept_tokens = _tokens(found)
        if 0 < done < self.total:
            self.write(found, {})
        speed = self.speed(found) or None
        self.status.update("sampling", step=done, steps=self.total, tokens_per_second=speed)

    def speed(self, found: Sequence[Sequence[Candidate]]) -> float:
        return (_tokens(found) - self.kept_tokens) / max(time.monotonic() - self.started_at, 1e-9)

    def write(self, found: Sequence[Sequence[Candidate]], more: dict[str, float]) -> dict[str, float]:
        flat = [candidate for candidates in found for candidate in candidates]
        values = {
            "rollout/score": sum(c.score for c in flat) / len(flat),
            "rollout/length_mean": _tokens(found) / len(flat),
            "rollout/unfinished_share": sum(c.finish == "length" for c in flat) / len(flat),
            "rollout/samples": float(len(flat)),
            "speed/tokens_per_second": self.speed(found),
            **more,
        }
        check_values(values, step=len(found), examples=[])
        assert self.metrics is not None
        line = {"step": len(found), "time": round(time.time(), 3), "tokens": _tokens(found)}
        self.metrics.write({**line, **values})
        return values


def _tokens(found: Sequence[Sequence[Candidate]]) -> int:
    return sum(len(candidate.token_ids) for candidates in found for candidate in candidates)


def _run_best_of_n(config: BestOfNConfig, out: Path, *, resume: Path | None, supervision: Supervision) -> None:
    device = starting.prepare_device(config)
    status = Status(out, writes=ranks.is_main())
    status.update("loading")
    manifest = verify_snapshot(config.data.snapshot)
    base, options = Path(config.models.base), config.best_of_n
    loaded = {part: load_prompts(part, data=config.data, text=load_text(base)) for part in PARTS}
    prompts = [prompt for part in PARTS for prompt in loaded[part].examples]
    if not prompts:
        raise SnapshotError("holds no prompt", file=config.data.snapshot)
    hashes = _hashes({"base": str(base), **reward_roles(config.models.rewards, config.models.held_out)})
    telling = _Telling(out=out, status=status, total=len(prompts))
    stop_requested = functools.partial(_stop_requested, supervision)
    result: dict[str, Any] = {
        "status": "stopped",
        "reason": "a stop was asked for",
        "step": 0,
        "checkpoints": {"best": None, "last": None},
        "metrics": {},
        "alarms": [],
        "lineage": {"snapshot": manifest.content_hash, "models": hashes},
    }
    wanted = _wanted(config, options, prompts, hashes=hashes, snapshot=manifest.content_hash)
    load = functools.partial(_load, config, base, device, supervision)

    def tell(found: list[list[Candidate]]) -> None:
        result["step"] = len(found)
        telling(found)

    try:
        found = gather(wanted, out, load=load, former=resume, stop_requested=stop_requested, tell=tell)
    except StopRun:
        _finish(out, status, result)
        return
    points = curve_points(found, [prompt.group for prompt in prompts], n=options.n)
    facts = {
        "data/prompts": float(len(prompts)),
        "data/dropped_too_long": float(sum(part.dropped for part in loaded.values())),
    }
    if ranks.is_main():
        part_of = {prompt.id: part for part in PARTS for prompt in loaded[part].examples}
        best = choose_all(prompts, found, n=options.n, seed=config.seed)
        _write_completions(out, best, n=options.n, seed=config.seed)
        _write_demonstrations(config, out, best, part_of, manifest=manifest, hashes=hashes)
        facts["data/pairs"] = float(_write_pairs(config, out, best, found, part_of, manifest=manifest, hashes=hashes))
    metrics = telling.write(found, {**curve_metrics(points, n=options.n), **facts})
    _finish(out, status, {**result, "status": "done", "reason": None, "metrics": metrics, "best_of_n": points})


def _finish(out: Path, status: Status, result: dict[str, Any]) -> None:
    if ranks.is_main():
        write_json(out / "result.json", result)
    status.update(result["status"], step=result["step"])


def _write_completions(out: Path, best: Chosen, *, n: int, seed: int) -> None:
    policy = f"best of {n}"
    lines = [candidate.line(policy=policy, prompt_id=prompt.id, seed=seed) for prompt, candidate in best]
    aside = out / ".completions.partial"
    aside.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    aside.replace(out / "completions.jsonl")


def _write_demonstrations(
    config: BestOfNConfig,
    out: Path,
    best: Chosen,
    part_of: dict[str, str],
    *,
    manifest: Manifest,
    hashes: dict[str, str],
) -> None:
    lines: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for prompt, candidate in best:
        record = {
            "id": prompt.id,
            "group": prompt.group,
            "prompt": prompt.prompt,
            "completion": candidate.text,
            "finish": candidate.finish,
            "meta": {"label_source": "reward_model", "score": candidate.score},
        }
        lines[part_of[prompt.id]].append(record)
    shutil.rmtree(out / "demonstrations", ignore_errors=True)
    policy = _label_policy(config, hashes)
    write_snapshot(
        out / "demonstrations", kind="demonstrations", label_policy=policy, split=manifest.split, lines=lines
    )


def _write_pairs(
    config: BestOfNConfig,
    out: Path,
    best: Chosen,
    found: Sequence[Sequence[Candidate]],
    part_of: dict[str, str],
    *,
    manifest: Manifest,
    hashes: dict[str, str],
) -> int:
    """How many there are; with none, no snapshot."""
    lines: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for (prompt, chosen), candidates in zip(best, found, strict=True):
        among = candidates[: config.best_of_n.n]
        other = choose_other(among, chosen.index, seed=config.seed, prompt_id=prompt.id)
        if other is not None:
            lines[part_of[prompt.id]].append(_preference(prompt, chosen, among[other]))
    shutil.rmtree(out / "pairs", ignore_errors=True)
    count = sum(map(len, lines.values()))
    if count:
        policy = _label_policy(config, hashes)
        write_snapshot(out / "pairs", kind="preferences", label_policy=policy, split=manifest.split, lines=lines)
    return count


def _preference(prompt: PromptItem, chosen: Candidate, rejected: Candidate) -> dict[str, Any]:
    """Scores are log-odds, so their difference is that of the label."""
    return {
        "id": prompt.id,
        "group": prompt.group,
        "prompt": prompt.prompt,
        "chosen": chosen.text,
        "rejected": rejected.text,
        "chosen_finish": chosen.finish,
        "rejected_finish": rejected.finish,
        "prob_chosen": 1 / (1 + math.exp(rejected.score - chosen.score)),
        "meta": {"label_source": "reward_model", "scores": {"chosen": chosen.score, "rejected": rejected.score}},
    }


def _label_policy(config: BestOfNConfig, hashes: dict[str, str]) -> dict[str, Any]:
    return {
        "aggregator": "reward_model",
        "combine": config.models.combine.value,
        "n": config.best_of_n.n,
        "rewards": [sha256 for role, sha256 in hashes.items() if role.startswith("reward_")],
    }


# --- expert iteration -------------------------------------------------------------------------------------------------


def _run_expert_iteration(
    config: ExpertIterationConfig, out: Path, *, resume: Path | None, supervision: Supervision
) -> None:
    former, resume = _former_attempt(resume)
    policy = config.models.policy or config.models.base
    opening = starting.open_run(
        config,
        out,
        resume=resume,
        supervision=supervision,
        kinds=KINDS,
        models={"policy": policy, **reward_roles(config.models.rewards)},
    )
    options, text = config.expert_iteration, opening.text
    train_part, validation = (load_prompts(part, data=config.data, text=text) for part in ("train", "validation"))
    prompts = [*train_part.examples, *validation.examples[: config.eval.pairs]]
    if not train_part.examples:
        raise SnapshotError("holds no prompt to train on", file="train.jsonl")
    count = len(train_part.examples)

    def tell(found: list[list[Candidate]]) -> None:
        opening.status.update("sampling", step=len(found), steps=len(prompts))

    hashes = {role: sha256 for role, sha256 in opening.lineage.models.items() if role != "base"}
    found = gather(
        _wanted(config, options, prompts, hashes=hashes, snapshot=opening.lineage.snapshot),
        out,
        load=functools.partial(_load, config, Path(policy), opening.device, supervision),
        former=former,
        stop_requested=functools.partial(_stop_requested, supervision),
        tell=tell,
    )
    points = curve_points(found[:count], [prompt.group for prompt in prompts[:count]], n=options.n)
    if ranks.is_main():
        write_json(out / "best_of_n.json", points)
    chosen = choose_all(prompts, found, n=options.n, seed=config.seed)
    own = load_text(Path(policy)).tokenizer_sha256 == text.tokenizer_sha256
    examples = [_as_demonstration(prompt, candidate, opening, own=own) for prompt, candidate in chosen]
    sha256 = _check_demonstrations(opening, examples[:count])
    sft.train_on(
        config,
        opening,
        train_part=Loaded(examples=examples[:count], dropped=train_part.dropped),
        validation=examples[count:],
        card={"demonstrations_sha256": sha256},
        facts={"data/prompts": float(count), **curve_metrics(points, n=options.n)},
    )


def _former_attempt(resume: Path | None) -> tuple[Path | None, Path | None]:
    """The directory of an earlier attempt, which holds its candidates, and the checkpoint in it to go on from, if any.

    Args:
        resume: that directory, or a checkpoint in it.
    """
    if resume is None:
        return None, None
    if not (resume / LINES).is_file():
        return resume.parent.parent, resume
    newest = newest_checkpoint(resume / "checkpoints")
    return resume, newest.path if newest is not None else None


def _as_demonstration(prompt: PromptItem, candidate: Candidate, opening: Opening, *, own: bool) -> Demonstration:
    """The sampled tokens where the policy has the base's tokenizer; any end id becomes the one that is trained."""
    text, ids = opening.text, candidate.token_ids
    if candidate.finish == "end" and ids:
        ids = (*ids[:-1], text.end_id)
    return demonstration(
        prompt.prompt,
        candidate.text,
        finish=candidate.finish,
        text=text,
        id=prompt.id,
        group=prompt.group,
        token_ids=ids if own else None,
    )


def _check_demonstrations(opening: Opening, examples: Sequence[Demonstration]) -> str:
    """sha256 of what is trained on; a checkpoint goes on with what it was trained on and nothing else.

    Raises:
        ModelError: it was trained on others.
    """
    digest = hashlib.sha256()
    for example in examples:
        digest.update(canonical_json([example.id, list(example.sharing.completions[0])]).encode() + b"\n")
    found = digest.hexdigest()
    if opening.saved is not None:
        stored = read_json(opening.saved.path / "winnow.json").get("demonstrations_sha256")
        if stored != found:
            raise ModelError(f"{opening.saved.path}: was trained on other completions than those of {LINES}")
    return found


# --- opening ----------------------------------------------------------------------------------------------------------


def _stop_requested(supervision: Supervision) -> bool:
    return supervision.stop_requested


def _hashes(roles: dict[str, str]) -> dict[str, str]:
    return {role: directory_hash(Path(path)) for role, path in roles.items()}


def _wanted(
    config: BestOfNConfig | ExpertIterationConfig,
    options: BestOfNOptions,
    prompts: Sequence[PromptItem],
    *,
    hashes: dict[str, str],
    snapshot: str,
) -> Wanted:
    count = options.samples or options.n
    return Wanted(
        prompts=prompts,
        count=count,
        seed=config.seed,
        temperature=options.temperature,
        decoding=config.sampling,
        identity={
            "models": hashes,
            "combine": config.models.combine.value,
            "snapshot": snapshot,
            "seed": config.seed,
            "completions": count,
            "temperature": options.temperature,
            "max_new_tokens": config.sampling.max_new_tokens,
            "batch_size": config.sampling.batch_size,
            "dtype": config.precision.dtype.value,
        },
    )


def _load(
    config: BestOfNConfig | ExpertIterationConfig, directory: Path, device: torch.device, supervision: Supervision
) -> Makers:
    text = load_text(directory)
    stop_requested = functools.partial(_stop_requested, supervision)
    load = functools.partial(
        load_reward_models,
        device=device.type,
        own=text,
        dtype=config.precision.dtype,
        micro_tokens=config.memory.micro_tokens,
        between=functools.partial(give_up_after, stop_requested),
    )
    held_out = config.models.held_out if isinstance(config, BestOfNConfig) else ()
    return Makers(
        policy=load_policy(directory, device=device.type),
        text=text,
        control=control_of(directory),
        rewards=load(config.models.rewards, combine=config.models.combine),
        held_out=load(held_out, combine=Combine.WORST) if held_out else None,
        device=device,
        dtype=config.precision.dtype,
    )
