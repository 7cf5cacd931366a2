"""Completions that a policy in training writes: sampled, scored, held beside the reference, shown. Knows no loss.

Methods that sample work on groups, a prompt with its G completions; a group is an item of the loop, so its completions
share their prompt in every pass. What samples and what scores are protocols: the engine's own decoder and reward
models fill them, a server can, and the exact tests put an enumerated policy there.

K completions; C completion tokens; T tokens of one completion.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from training.engine import loop, ranks
from training.engine.diagnostics import Watch, Watched, rollout_alarms, watch_rollouts
from training.engine.logprobs import target_logprobs, target_statistics, token_logprobs
from training.engine.loop import Run
from training.engine.models import adapters_off, lm_head_weight
from training.engine.packing import Pack, Sharing, hidden_states
from training.engine.rollout_figures import Limits, rollouts_of
from training.engine.sampling import Completion, Prompt, generate
from training.engine.sections import DecodingConfig, SampledEvalConfig


class Asked(Protocol):
    """A prompt that can be sampled: its messages, and its ids as `sharing.prompt`."""

    @property
    def id(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def prompt(self) -> Sequence[Mapping[str, str]]: ...
    @property
    def sharing(self) -> Sharing: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A prompt and the G completions that were sampled for it; `sharing` holds all of them."""

    id: str
    group: str
    prompt: Sequence[Mapping[str, str]]
    sharing: Sharing
    completions: tuple[Completion, ...]
    weight: float = 1.0


class Sampler(Protocol):
    """Completions of prompts by the policy in training, in the order of the prompts."""

    def __call__(
        self, prompts: Sequence[Asked], *, per_prompt: int, stream: str, temperature: float = 1.0
    ) -> list[Group]: ...


class Scorer(Protocol):
    """Scores of all completions of some groups, one after the other: [K] fp64 on the host, nats (log-odds)."""

    def __call__(self, groups: Sequence[Group], /) -> Tensor: ...


def own_sampler(run: Run[Any], decoding: DecodingConfig) -> Sampler:
    """The engine's decoder on the run's model. `stream` names the use of the seed, `iteration 3` for one."""

    def sample(prompts: Sequence[Asked], *, per_prompt: int, stream: str, temperature: float = 1.0) -> list[Group]:
        def go_on(_tokens: int) -> bool:
            run.check_stop()
            run.tell("sampling")
            return True

        # A prompt that is asked twice in one call gets other random numbers the second time.
        names = _occurrences([prompt.id for prompt in prompts])
        asked = [Prompt(id=n, messages=p.prompt, ids=p.sharing.prompt) for n, p in zip(names, prompts, strict=True)]
        root = run.roots[0]

        def answer(own: list[Prompt]) -> list[list[Completion]]:
            found: dict[str, list[Completion]] = {prompt.id: [] for prompt in own}
            for completion in generate(
                run.model,
                run.text,
                own,
                seed=run.config.seed,
                stream=stream,
                completions=per_prompt,
                temperature=temperature,
                max_new_tokens=decoding.max_new_tokens,
                batch_size=decoding.batch_size,
                after_tokens=go_on,
            ):
                found[completion.prompt_id].append(completion)
            return [sorted(found[prompt.id], key=lambda c: c.index) for prompt in own]

        with torch.no_grad(), loop.precision(run.config, run.device), ranks.whole(root):
            answers = ranks.share_out(asked, lambda own: ranks.call([root], lambda: answer(own)))
        return [make_group(prompt, found) for prompt, found in zip(prompts, answers, strict=True)]

    return sample


def first_of_groups(prompts: Sequence[Asked], *, count: int) -> list[Asked]:
    """What an evaluation asks: one prompt of each group, and of these the first `count` by id."""
    first: dict[str, Asked] = {}
    for prompt in prompts:
        first.setdefault(prompt.group, prompt)
    return sorted(first.values(), key=lambda prompt: prompt.id)[:count]


def _occurrences(ids: Sequence[str]) -> list[str]:
    """Each id at its first occurrence, and with its number from then on: a, b, a#1."""
    seen: Counter[str] = Counter()
    names = []
    for name in ids:
        names.append(f"{name}#{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return names


def make_group(prompt: Asked, completions: Sequence[Completion]) -> Group:
    return Group(
        id=prompt.id,
        group=prompt.group,
        prompt=prompt.prompt,
        sharing=Sharing(prompt=prompt.sharing.prompt, completions=tuple(c.token_ids for c in completions)),
        completions=tuple(completions),
    )


@contextlib.contextmanager
def as_reference(model: Any, reference: Any | None) -> Iterator[Any]:
    """Inside, the model that is the reference: a frozen one, or the trained one with its adapter off."""
    if reference is not None:
        yield reference
        return
    with adapters_off(model):
        yield model


def reference_logprobs(run: Run[Any], groups: Sequence[Group]) -> list[Tensor]:
    """log π_ref of the same tokens, on the same path."""

    def values_of(pack: Pack) -> Tensor:
        with as_reference(run.model, run.reference) as reference:
            return token_logprobs(reference, pack)

    return loop.infer(run, groups, values_of, per="token")


def with_prompts(groups: Sequence[Group], prompts: Mapping[str, tuple[int, ...]] | None) -> list[Group]:
    """The same completions after other prompts, by id; their scored tokens stay in the same order."""
    if prompts is None:
        return list(groups)
    return [replace(group, sharing=replace(group.sharing, prompt=prompts[group.id])) for group in groups]


def policy_columns(
    session: Run[Any],
    groups: Sequence[Group],
    *,
    logp: bool = True,
    entropy: bool = False,
    value_head: Tensor | None = None,
) -> list[dict[str, Tensor]]:
    """One pass of the policy, none where nothing is asked: for each group `logp`, `entropy` and `value`, [T] each."""
    names = [name for name, asked in (("logp", logp), ("entropy", entropy), ("value", value_head is not None)) if asked]
    if not names:
        return [{} for _ in groups]

    def values_of(pack: Pack) -> Tensor:
        rows = hidden_states(session.model, pack)[pack.rows]
        head = lm_head_weight(session.model)
        columns: list[Tensor] = []
        if logp:
            columns.append(target_logprobs(rows, head, pack.targets))
        if entropy:
            columns.append(target_statistics(rows, head, pack.targets).entropy)
        if value_head is not None:
            columns.append(read_values(rows, value_head))
        return torch.stack([column.to(columns[0].dtype) for column in columns], dim=1)

    found = loop.infer(session, groups, values_of, per="token")
    return [{name: part[:, place].contiguous() for place, name in enumerate(names)} for part in found]


def read_values(rows: Tensor, head: Tensor) -> Tensor:
    """V = w·h of hidden states [C, D], in the head's precision whatever they were computed in: [C]."""
    with torch.autocast(rows.device.type, enabled=False):
        return rows.to(head.dtype) @ head


def mean_of(parts: Sequence[Tensor]) -> float:
    whole = torch.cat(list(parts)).double()
    return float(whole.mean()) if len(whole) else 0.0


def by_completion(groups: Sequence[Group], values: Sequence[Tensor]) -> list[Tensor]:
    """Values per group [tokens] as values per completion [T], in the order of the completions."""
    return [
        part
        for group, tokens in zip(groups, values, strict=True)
        for part in torch.split(tokens, [len(ids) for ids in group.sharing.completions])
    ]


def length_figures(groups: Sequence[Group]) -> dict[str, float]:
    """Lengths of the completions and how many hit the limit."""
    lengths = sorted(len(c.token_ids) for group in groups for c in group.completions)
    finishes = [c.finish for group in groups for c in group.completions]
    return {
        "rollout/length_mean": sum(lengths) / len(lengths),
        "rollout/length_p95": float(lengths[min(len(lengths) - 1, int(0.95 * len(lengths)))]),
        "rollout/unfinished_share": sum(finish == "length" for finish in finishes) / len(finishes),
        "rollout/samples": float(len(lengths)),
    }


def kl_figures(ratios: Sequence[Tensor]) -> dict[str, float]:
    """KL(π‖π_ref) from d_t = log π − log π_ref of sampled completions [T] each: the mean of their sums.

    k1, the mean of Σ d, is unbiased and may be negative; k3, the mean of Σ (e^−d − 1 + d), never is (Schulman 2020).
    """
    sums = torch.stack([ratio.double().sum() for ratio in ratios])
    tokens = max(1, sum(len(ratio) for ratio in ratios))
    k3 = torch.stack([(torch.expm1(-ratio.double()) + ratio.double()).sum() for ratio in ratios])
    return {
        "rollout/kl": float(sums.mean()),
        "rollout/kl_k3": float(k3.mean()),
        "rollout/kl_per_token": float(sums.sum()) / tokens,
        "rollout/kl_k3_per_token": float(k3.sum()) / tokens,
    }


def watch_held_out(
    run: Run[Any],
    prompts: Sequence[Asked],
    config: SampledEvalConfig,
    *,
    reward_per_nat: float | None = None,
    figures: Mapping[str, float] | None = None,
    bare: Mapping[str, tuple[int, ...]] | None = None,
) -> tuple[dict[str, float], list[str]]:
    """Figures and alarms of a policy that is trained without a reward model, from completions of the first prompts.

    They are sampled at temperature 1 with the same random numbers at every evaluation, and written to `samples.jsonl`
    with their log-ratio to the reference. What alarms remember between evaluations is kept in `run.state`, as the last
    thing done. At step 0 none is raised: nothing was trained yet.

    Args:
        reward_per_nat: β of an implicit reward β·d(y), which is written too; None: it is not.
        bare: by prompt id, the ids that the reference reads where the policy reads a control before them.
        figures: further figures of this evaluation that alarms read; they are not among the result's.
    """
    step = run.progress.step
    asked = first_of_groups(prompts, count=config.prompts)
    if not asked:
        return {}, rollout_alarms(figures or {}, step=step) if step else []
    sampler = own_sampler(run, DecodingConfig(max_new_tokens=config.max_new_tokens, batch_size=len(asked)))
    groups = sampler(asked, per_prompt=1, stream="evaluation")
    # Where all weights are trained and no frozen copy is held, there is nothing to compare with.
    referred = run.reference is not None or run.config.adapter is not None
    columns = policy_columns(run, groups, logp=referred, entropy=True)
    theirs = reference_logprobs(run, with_prompts(groups, bare)) if referred else []
    ratios = [own["logp"] - other for own, other in zip(columns, theirs, strict=True)] if referred else None
    for number, group in enumerate(groups):
        change = {} if ratios is None else {"kl": float(ratios[number].double().sum())}
        reward = {"reward": reward_per_nat * change["kl"]} if change and reward_per_nat is not None else {}
        run.samples.write({**sample_line(run, group, 0), **reward, **change})
    watched = watch(run, groups, entropies=[own["entropy"] for own in columns], ratios=ratios, figures=figures)
    return {**(kl_figures(ratios) if ratios else {}), **watched.figures}, watched.alarms if step else []


def watch(
    run: Run[Any],
    groups: Sequence[Group],
    *,
    entropies: Sequence[Tensor],
    ratios: Sequence[Tensor] | None,
    scores: Sequence[float] | None = None,
    held_out_scores: Sequence[float] | None = None,
    limits: Limits | None = None,
    figures: Mapping[str, float] | None = None,
) -> Watched:
    """Figures and alarms of one completion a prompt. What alarms remember between evaluations is kept in `run.state`.

    Args:
        entropies, ratios: of π and log π − log π_ref at the tokens of each completion, [T] each.
        figures: further figures of this evaluation that alarms read; they are not among the result's.
    """
    former = run.state.get("watch")
    watched = watch_rollouts(
        Watch.from_dict(former) if former is not None else None,
        rollouts_of(
            groups,
            log_ratios=None if ratios is None else [ratio.tolist() for ratio in ratios],
            scores=scores,
            held_out_scores=held_out_scores,
            entropies=[mean_of([tokens]) for tokens in entropies],
        ),
        limits=limits or Limits(),
        step=run.progress.step,
        figures=figures,
    )
    run.state["watch"] = watched.state.to_dict()
    return watched


def sample_line(run: Run[Any], group: Group, index: int) -> dict[str, Any]:
    """What every line of `samples.jsonl` says about a sampled completion."""
    completion = group.completions[index]
    return {
        "step": run.progress.step,
        "prompt_id": group.id,
        "prompt": list(group.prompt),
        "completion": completion.text,
        "finish": completion.finish,
        "length": len(completion.token_ids),
    }


def groups_to_json(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Sampled groups for a checkpoint; `groups_from_json` reads them beside the prompts that were asked."""
    return [
        {
            "id": group.id,
            "completions": [
                {
                    "prompt_id": c.prompt_id,
                    "index": c.index,
                    "text": c.text,
                    "token_ids": list(c.token_ids),
                    "token_logprobs": list(c.token_logprobs),
                    "sampler_logprob": c.sampler_logprob,
                    "finish": c.finish,
                }
                for c in group.completions
            ],
        }
        for group in groups
    ]


def groups_from_json(stored: Sequence[Mapping[str, Any]], prompts: Sequence[Asked]) -> list[Group]:
    """The groups again, bit for bit; `prompts` are those that were asked, in the same order."""
    groups = []
    for entry, prompt in zip(stored, prompts, strict=True):
        assert entry["id"] == prompt.id
        completions = [
            Completion(
                prompt_id=c["prompt_id"],
                index=c["index"],
                text=c["text"],
                token_ids=tuple(c["token_ids"]),
                token_logprobs=tuple(c["token_logprobs"]),
                logprob=math.fsum(c["token_logprobs"]),
                sampler_logprob=c["sampler_logprob"],
                finish=c["finish"],
            )
            for c in entry["completions"]
        ]
        groups.append(make_group(prompt, completions))
    return groups
