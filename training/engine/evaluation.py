"""The `evaluate` command: figures of reward models on preferences, and of a policy beside its reference.

Reward models: accuracy, calibration, length and votes on the snapshot's preferences, and how far several agree. Policy:
completions of the snapshot's prompts at temperature 1, their KL to the reference, their scores, the win rate against
what the reference writes on the same prompts with the same random numbers, and the expected best of n. Or, in place of
samples, how alike the two completions of each preference are to the policy.

M reward models; K completions; P prompts with N completions each.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.engine import models
from training.engine.advantages import best_of_n_curve, best_of_n_kl_bound
from training.engine.alarms import raised
from training.engine.compared import judged_pairs, sample_lines
from training.engine.config import EvaluateConfig
from training.engine.diagnostics import reward_alarms
from training.engine.errors import Diverged, SnapshotError
from training.engine.evaluate import (
    clustered_mean,
    clustered_share,
    correlation,
    preference_metrics,
    probability_metrics,
    with_interval,
)
from training.engine.examples import PromptItem, control_of, load_prompts, with_control
from training.engine.files import LineFile, Status, check_values, directory_hash, write_json
from training.engine.logprobs import token_logprobs
from training.engine.packing import EXACT, Sharing, build_pack, plan_packs, read_in_packs_if_exact
from training.engine.pairs import Pair, load_part
from training.engine.records import Manifest, verify_snapshot
from training.engine.rollout_figures import Limits, Rollout, reference_metrics, rollout_metrics, rollouts_of
from training.engine.rollouts import Group, kl_figures
from training.engine.sampling import Completion, Prompt, generate
from training.engine.scoring import Given, GivenCompletion, RewardModels, combined, load_reward_models
from training.engine.sections import DataConfig, Dtype, Labels, PromptsConfig
from training.engine.similarity import measure_similarity, summary
from training.engine.supervision import StopRun, Supervision
from training.engine.text import Text, load_text
from training.engine.win_rates import Contest, outcome_of_scores, win_metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class _Policy:
    model: Any
    text: Text
    control: str | None
    sha256: str

    def prompt_ids(self, item: PromptItem) -> tuple[int, ...]:
        messages = item.prompt if self.control is None else with_control(item.prompt, self.control)
        return tuple(self.text.prompt_ids(messages))


@dataclass(kw_only=True, slots=True)
class _Session:
    """What every part of an evaluation needs, and what it has found."""

    config: EvaluateConfig
    device: torch.device
    status: Status
    supervision: Supervision
    samples: LineFile
    values: dict[str, float]
    alarms: list[str]
    details: dict[str, Any]
    """Further entries of result.json: figures of single reward models, the best-of-n curve."""
    phase: str = "loading"

    def between(self) -> None:
        """Between packs and token batches. An evaluation is short and keeps nothing, so a stop ends it at once."""
        if self.supervision.stop_requested:
            raise StopRun
        self.status.update(self.phase)

    def tell(self, phase: str) -> None:
        self.phase = phase
        self.status.update(phase)


def run(config: EvaluateConfig, out: Path, *, resume: Path | None, supervision: Supervision) -> dict[str, Any]:
    """Write OUT/samples.jsonl and OUT/result.json, always anew: `resume` has nothing to go on from.

    Figures on preferences are `test/*` for the test part and `eval/*` for any other. With `evaluate.similarity` the
    policy is not sampled: OUT/similarity.jsonl has a line a preference, in order of id, and the result their summary.

    Raises:
        SnapshotError: it does not verify, its part is empty, or holds no preferences where some are asked about.
        ModelError: a directory that is not the kind of model that is asked for.
        StopRun: a stop was asked for.
    """
    started = time.monotonic()
    status = Status(out)
    status.update("loading")
    manifest = verify_snapshot(config.data.snapshot)
    preferences = manifest.kind == "preferences"
    if not preferences and (config.models.policy is None or config.evaluate.similarity):
        raise SnapshotError(f"holds {manifest.kind}, not preferences", file=config.data.snapshot)
    if not manifest.counts[config.data.part]:
        raise SnapshotError("is empty or absent", file=f"{config.data.part}.jsonl")
    session = _Session(
        config=config,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        status=status,
        supervision=supervision,
        samples=LineFile(out / "samples.jsonl", keep_bytes=0),
        values={},
        alarms=[],
        details={},
    )
    rewards = _load_rewards(session) if config.models.rewards else None
    hashes = {f"reward_{n}": m.sha256 for n, m in enumerate(rewards.members)} if rewards else {}
    if rewards is not None and preferences:
        _evaluate_rewards(session, rewards)
    if config.evaluate.similarity:
        hashes |= _evaluate_similarity(session, out)
    elif config.models.policy is not None:
        hashes |= _evaluate_policy(session, rewards)
    session.samples.close()
    return _write_result(session, out, manifest=manifest, hashes=hashes, seconds=time.monotonic() - started)


def _write_result(
    session: _Session, out: Path, *, manifest: Manifest, hashes: dict[str, str], seconds: float
) -> dict[str, Any]:
    alarms = sorted(set(session.alarms))
    values = {**session.values, **{f"alarm/{name}": 1.0 for name in alarms}, "time/eval": seconds}
    check_values(values, step=0, examples=[])
    result = {
        "status": "done",
        "reason": None,
        "step": 0,
        "checkpoints": {"best": None, "last": None},
        "metrics": values,
        "alarms": [{"name": name, "step": 0} for name in alarms],
        "lineage": {"snapshot": manifest.content_hash, "models": hashes},
        **session.details,
    }
    session.status.update("done")
    write_json(out / "result.json", result)
    return result


def _load_rewards(session: _Session) -> RewardModels:
    config = session.config
    return load_reward_models(
        config.models.rewards,
        device=session.device.type,
        combine=config.models.combine,
        dtype=config.precision.dtype,
        micro_tokens=config.memory.micro_tokens,
        between=session.between,
    )


# --- reward models on preferences -------------------------------------------------------------------------------------


def _evaluate_rewards(session: _Session, rewards: RewardModels) -> None:
    """All figures of the combined margin; of several models also how far they agree, and each one's own figures.

    Lengths, and what is too long, are counted by the first model's tokenizer.
    """
    config = session.config
    pairs = _pairs(session, rewards.members[0].text)
    session.tell("scoring")
    found = rewards.score([_given(pair) for pair in pairs]).view(len(rewards.members), -1, 2)  # [M, pairs, 2]
    both = combined(found.flatten(1), rewards.combine).view(-1, 2)  # [pairs, 2]
    part = "test" if config.data.part == "test" else "eval"
    figures = margin_figures(both, pairs, part=part)
    if len(rewards.members) > 1:
        figures |= agreement_figures(found[..., 0] - found[..., 1], pairs, part=part)
        session.details["members"] = [
            {"sha256": member.sha256, "metrics": margin_figures(scores, pairs, part=part)}
            for member, scores in zip(rewards.members, found, strict=True)
        ]
    session.values |= figures
    session.alarms += reward_alarms(figures, part=part)
    for pair, scores in list(zip(pairs, both.tolist(), strict=True))[: config.evaluate.prompts]:
        for line in sample_lines(pair, scores, step=0):
            session.samples.write(line)


def _pairs(session: _Session, text: Text) -> list[Pair]:
    """The preferences of the part, without those that are too long, which are counted."""
    config = session.config.data
    data = DataConfig(snapshot=config.snapshot, max_tokens=config.max_tokens, allow_drop=True)
    loaded = load_part(config.part, data=data, labels=Labels.SOFT, text=text)
    session.values["data/dropped_too_long"] = float(loaded.dropped)
    if not loaded.pairs:
        raise SnapshotError("every pair is longer than data.max_tokens", file=f"{config.part}.jsonl")
    return loaded.pairs


def _given(pair: Pair) -> Given:
    sides = zip(pair.texts, pair.finishes, strict=True)
    return Given(id=pair.id, prompt=pair.prompt, completions=[GivenCompletion(text=t, finish=f) for t, f in sides])


def margin_figures(scores: Tensor, pairs: Sequence[Pair], *, part: str) -> dict[str, float]:
    """Everything that held-out pairs tell of scores [pairs, 2], chosen first."""
    judged = judged_pairs(pairs, scores.tolist())
    lengths = [float(length) for pair in pairs for length in pair.lengths]
    return {
        **preference_metrics(judged, part=part),
        **probability_metrics(judged, part=part),
        f"{part}/margin": sum(pair.margin for pair in judged) / len(judged),
        f"{part}/length_correlation": correlation(scores.flatten().tolist(), lengths),
    }


def agreement_figures(margins: Tensor, pairs: Sequence[Pair], *, part: str) -> dict[str, float]:
    """How far several reward models say the same of pairs, by their margins [M, pairs].

    The agreement of two models on a pair is 1 where they prefer one side, ½ where one has no preference; the mean over
    all couples of models has an interval by prompt group.
    """
    couples = list(itertools.combinations(margins.tolist(), 2))
    alike = [
        sum(0.5 if a[i] * b[i] == 0 else float(a[i] * b[i] > 0) for a, b in couples) / len(couples)
        for i in range(len(pairs))
    ]
    return {
        **with_interval(f"{part}/models_agreement", clustered_share(alike, [pair.group for pair in pairs])),
        f"{part}/models_correlation": sum(correlation(a, b) for a, b in couples) / len(couples),
    }


# --- a policy ---------------------------------------------------------------------------------------------------------


def _evaluate_similarity(session: _Session, out: Path) -> dict[str, str]:
    """How alike the completions of each preference are to the policy; returns the policy's hash."""
    config = session.config
    policy = _load_policy(Path(str(config.models.policy)), session)
    pairs = _pairs(session, policy.text)
    session.tell("evaluating")
    _choose_layout(policy.model, [pair.sharing for pair in pairs], dtype=Dtype.FP32)
    micro_tokens = config.memory.micro_tokens
    found = measure_similarity(
        policy.model, pairs, device=session.device, micro_tokens=micro_tokens, between=session.between
    )
    lines = LineFile(out / "similarity.jsonl", keep_bytes=0)
    for pair in found:
        lines.write(asdict(pair))
    lines.close()
    session.values["data/pairs"] = float(len(found))
    session.details["similarity"] = summary(found)
    return {"policy": policy.sha256}


def _evaluate_policy(session: _Session, rewards: RewardModels | None) -> dict[str, str]:
    """Sample, score, and hold beside the reference, where one is named; returns the hashes of the models.

    The KL needs a reference that reads the same tokens; with another tokenizer it is left out.
    """
    config = session.config
    policy = _load_policy(Path(str(config.models.policy)), session)
    named = config.models.reference
    reference = _load_policy(Path(named), session) if named is not None else None
    items = _prompts(session, [policy] if reference is None else [policy, reference])
    groups = _sample(session, policy, items)
    scores = None if rewards is None else _scores(session, rewards, groups, policy)
    ratios, theirs, other_scores = None, [], None
    if reference is not None:
        if reference.text.tokenizer_sha256 == policy.text.tokenizer_sha256:
            ratios = _log_ratios(session, policy, reference, items, groups)
        theirs = _sample(session, reference, items)
        other_scores = None if rewards is None else _scores(session, rewards, theirs, reference)
    rollouts = _rollouts(groups, scores, ratios)
    usual = reference_metrics(_rollouts(theirs, other_scores, None)) if theirs else None
    figures = {**(usual or {}), **rollout_metrics(rollouts, limits=Limits(), reference=usual)}
    if ratios is not None:
        figures |= _kl_by_both(ratios)
    if scores is not None and other_scores is not None:
        figures |= win_metrics(_contests(groups, scores, theirs, other_scores))
    if scores is not None and config.evaluate.samples > 1:
        curve = best_of_n_points(scores.view(len(groups), -1), [group.group for group in groups])
        session.details["best_of_n"] = curve
        best = {"rollout/best_score": curve[-1]["score"], "rollout/kl_bound": curve[-1]["kl_bound"]}
        ends = {f"rollout/best_score_{end}": curve[-1][end] for end in ("low", "high") if end in curve[-1]}
        figures |= {**best, **ends}
    session.values |= figures
    session.alarms += raised(figures)
    _write_samples(session, "policy", groups, scores, ratios)
    _write_samples(session, "reference", theirs, other_scores, None)
    return {"policy": policy.sha256, **({"reference": reference.sha256} if reference is not None else {})}


def _load_policy(directory: Path, session: _Session) -> _Policy:
    session.tell("loading")
    return _Policy(
        model=models.load_policy(directory, device=session.device.type),
        text=load_text(directory),
        control=control_of(directory),
        sha256=directory_hash(directory),
    )


def _prompts(session: _Session, policies: Sequence[_Policy]) -> list[PromptItem]:
    """The first prompts by id that leave room for a whole completion as each policy reads them, under its control and
    by its tokenizer, within `data.max_tokens` and the model's context.
    """
    config = session.config
    data = PromptsConfig(snapshot=config.data.snapshot, max_prompt_tokens=sys.maxsize)
    items = load_prompts(config.data.part, data=data, text=policies[0].text).examples
    room = [min(config.data.max_tokens, models.context_tokens(policy.model)) for policy in policies]
    limits = [tokens - config.sampling.max_new_tokens for tokens in room]
    kept = [
        item
        for item in items
        if all(len(policy.prompt_ids(item)) <= limit for policy, limit in zip(policies, limits, strict=True))
    ]
    session.values["data/prompts_too_long"] = float(len(items) - len(kept))
    if not kept:
        raise SnapshotError(f"every prompt is longer than {min(limits)} tokens", file=f"{config.data.part}.jsonl")
    return kept[: config.evaluate.prompts]


def _sample(session: _Session, policy: _Policy, items: Sequence[PromptItem]) -> list[Group]:
    """N completions of each prompt. A group's `prompt` is what a reward model reads, without the policy's control."""
    config = session.config
    asked = {item.id: policy.prompt_ids(item) for item in items}
    found: dict[str, list[Completion]] = {item.id: [] for item in items}
    total, done = len(items) * config.evaluate.samples, 0
    session.phase = "sampling"

    def go_on(_tokens: int) -> bool:
        session.between()
        session.status.update("sampling", step=done, steps=total)
        return True

    with _autocast(session), torch.no_grad():
        for completion in generate(
            policy.model,
            policy.text,
            [Prompt(id=item.id, messages=item.prompt, ids=asked[item.id]) for item in items],
            seed=config.seed,
            stream="evaluation",
            completions=config.evaluate.samples,
            max_new_tokens=config.sampling.max_new_tokens,
            batch_size=config.sampling.batch_size,
            after_tokens=go_on,
        ):
            found[completion.prompt_id].append(completion)
            done += 1
    groups = []
    for item in items:
        completions = tuple(sorted(found[item.id], key=lambda completion: completion.index))
        sharing = Sharing(prompt=asked[item.id], completions=tuple(c.token_ids for c in completions))
        groups.append(Group(id=item.id, group=item.group, prompt=item.prompt, sharing=sharing, completions=completions))
    return groups


def _autocast(session: _Session) -> torch.autocast:
    bf16 = session.config.precision.dtype is Dtype.BF16
    return torch.autocast(session.device.type, dtype=torch.bfloat16, enabled=bf16)


def _scores(session: _Session, rewards: RewardModels, groups: Sequence[Group], policy: _Policy) -> Tensor:
    """[K] of all completions, group after group."""
    session.tell("scoring")
    return replace(rewards, own=policy.text)(groups)


def _log_ratios(
    session: _Session, policy: _Policy, reference: _Policy, items: Sequence[PromptItem], groups: Sequence[Group]
) -> list[Tensor]:
    """d_t = log π − log π_ref of every token of every completion, [T] each; each model after its own prompt."""
    prompts = [reference.prompt_ids(item) for item in items]
    bare = [
        Sharing(prompt=ids, completions=group.sharing.completions) for ids, group in zip(prompts, groups, strict=True)
    ]
    ours = _token_logprobs(session, policy.model, [group.sharing for group in groups])
    theirs = _token_logprobs(session, reference.model, bare)
    ratios = [a - b for a, b in zip(ours, theirs, strict=True)]
    names = [group.id for group in groups for _ in group.completions]
    for name, ratio in zip(names, ratios, strict=True):
        if not bool(torch.isfinite(ratio).all()):
            raise Diverged(metric="rollout/kl", value=float(ratio.sum()), step=0, examples=[name])
    return ratios


def _token_logprobs(session: _Session, model: Any, groups: Sequence[Sharing]) -> list[Tensor]:
    """log π of the tokens of every completion, [T] fp64 each on the host, in the order of the groups."""
    session.tell("evaluating")
    found: list[list[Tensor]] = [[] for _ in groups]
    with _autocast(session), torch.no_grad():
        _choose_layout(model, groups, dtype=session.config.precision.dtype)
        sizes = [group.positions for group in groups]
        for numbers in plan_packs(sizes, micro_tokens=session.config.memory.micro_tokens):
            session.between()
            pack = build_pack([groups[number] for number in numbers], device=session.device)
            values = torch.split(token_logprobs(model, pack).double().cpu(), pack.lengths.tolist())
            parts = iter(values)
            for number in numbers:
                found[number] = [next(parts) for _ in groups[number].completions]
    return [part for parts_of_group in found for part in parts_of_group]


def _choose_layout(model: Any, groups: Sequence[Sharing], *, dtype: Dtype) -> None:
    """Packs where they give what the model's own attention gives, by the shortest and the longest of the groups."""
    by_length = sorted(range(len(groups)), key=lambda number: groups[number].positions)
    some = [groups[number] for number in dict.fromkeys([*by_length[:2], by_length[-1]])]
    read_in_packs_if_exact(model, some, tolerance=EXACT[dtype])


def _rollouts(groups: Sequence[Group], scores: Tensor | None, ratios: Sequence[Tensor] | None) -> list[Rollout]:
    return rollouts_of(
        groups,
        scores=None if scores is None else scores.tolist(),
        log_ratios=None if ratios is None else [ratio.tolist() for ratio in ratios],
    )


def _kl_by_both(ratios: Sequence[Tensor]) -> dict[str, float]:
    """k1 a token, and k3 a completion and a token, beside `rollout/kl`, which has an interval."""
    found = kl_figures(ratios)
    tokens = sum(map(len, ratios))
    return {
        "rollout/kl_k3": found["rollout/kl_k3"],
        "rollout/kl_per_token": found["rollout/kl_per_token"],
        "rollout/kl_k3_per_token": found["rollout/kl_k3"] * len(ratios) / max(1, tokens),
    }


def _contests(groups: Sequence[Group], scores: Tensor, theirs: Sequence[Group], other_scores: Tensor) -> list[Contest]:
    """Completion i of the policy against completion i of the reference, prompt by prompt."""
    names = [group.group for group in groups for _ in group.completions]
    ours, others = ([c for group in side for c in group.completions] for side in (groups, theirs))
    return [
        Contest(
            group=name,
            outcome=outcome_of_scores(score, other_score),
            tokens=len(completion.token_ids),
            other_tokens=len(other.token_ids),
        )
        for name, completion, other, score, other_score in zip(
            names, ours, others, scores.tolist(), other_scores.tolist(), strict=True
        )
    ]


def best_of_n_points(scores: Tensor, groups: Sequence[str]) -> list[dict[str, float]]:
    """Expected best score of n of the N completions, n = 1, 2, 4 … N, mean over prompts with its interval by group.

    Args:
        scores: [P, N]; groups: the group of each prompt.

    Returns:
        A point for each n: `n`, `score`, `low` and `high` where the spread is known, and `kl_bound`, the most that
        KL(best of n ‖ policy) can be, nats.
    """
    count = scores.shape[1]
    sizes = [*(2**power for power in range(count.bit_length()) if 2**power < count), count]
    points = []
    for n, column in zip(sizes, best_of_n_curve(scores, sizes).T, strict=True):
        named = with_interval("score", clustered_mean(column.tolist(), groups))
        ends = {name.removeprefix("score_"): value for name, value in named.items()}
        points.append({"n": float(n), **ends, "kl_bound": best_of_n_kl_bound(n)})
    return points


def _write_samples(
    session: _Session, who: str, groups: Sequence[Group], scores: Tensor | None, ratios: Sequence[Tensor] | None
) -> None:
    number = 0
    for group in groups:
        for completion in group.completions:
            line: dict[str, Any] = {
                "step": 0,
                "policy": who,
                "prompt_id": group.id,
                "prompt": list(group.prompt),
                "index": completion.index,
                "completion": completion.text,
                "finish": completion.finish,
                "length": len(completion.token_ids),
            }
            if scores is not None:
                line["score"] = float(scores[number])
            if ratios is not None:
                line["kl"] = float(ratios[number].sum())
            session.samples.write(line)
            number += 1
