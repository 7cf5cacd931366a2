"""What an iteration of PPO, RLOO and GRPO learns from: groups sampled, scored and held beside π_old and π_ref.
Knows no loss; the evaluation on held-out prompts is in `held_out.py`.

Every number is known on the whole iteration before its first optimizer step, so minibatches are whole groups in an
order given by (seed, iteration, epoch) and nothing else. With a single step an iteration, π_old is the current forward
pass, detached: `old` is then None, and figures that need log π_old before it (KL, budget, β) read the decoder's.

G completions of a prompt; K of a pack; B items of it; C tokens of it, T of one item.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from training.engine import policy_losses
from training.engine.advantages import next_beta, replace_missing_end
from training.engine.config import GrpoConfig, PpoConfig, RlooConfig
from training.engine.errors import ConfigError, ModelError
from training.engine.logprobs import target_statistics
from training.engine.loop import MEASURED_EVERY, Batch, Run
from training.engine.models import lm_head_weight
from training.engine.packing import Pack, Sharing
from training.engine.rollouts import (
    Group,
    Sampler,
    Scorer,
    by_completion,
    groups_from_json,
    groups_to_json,
    kl_figures,
    length_figures,
    mean_of,
    policy_columns,
    reference_logprobs,
)
from training.engine.sections import Dtype

PolicyGradientConfig = PpoConfig | RlooConfig | GrpoConfig

RATIO_TOLERANCE = 1e-4
"""fp32: largest |ρ − 1| of a token in the very first minibatch, two packings of one model."""
MEAN_RATIO_TOLERANCE = 2e-2
"""bf16: the same, mean over tokens. One rounding of a logit in [16, 32) is 0.125 nats, so the largest says nothing."""
GAP_TOLERANCE = 1e-3
"""fp32: largest |log π_old − log μ| of a token, decoder against training pass, nats."""
MEAN_GAP_TOLERANCE = 5e-2
"""bf16: the same, mean over tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Experience:
    """A prompt's completions with all that is known about them: an item of an optimizer step. Tensors on the host.

    `advantages`, `returns` and `values` are PPO's alone.
    """

    group: Group
    scores: Tensor
    """[G] fp64, centred, `missing_end_score` where the end token is missing."""
    reference: Tensor
    """[T] log π_ref of the completions' tokens, one completion after the other."""
    old: Tensor | None = None
    """[T] log π_old; None: the current forward pass is π_old."""
    advantages: Tensor | None = None
    returns: Tensor | None = None
    values: Tensor | None = None

    @property
    def id(self) -> str:
        return self.group.id

    @property
    def sharing(self) -> Sharing:
        return self.group.sharing

    @property
    def weight(self) -> float:
        return self.group.weight

    @property
    def decoded(self) -> Tensor:
        """[T] the decoder's log π of the same tokens."""
        found = [logprob for completion in self.group.completions for logprob in completion.token_logprobs]
        return torch.tensor(found, dtype=self.reference.dtype)

    @property
    def known_old(self) -> Tensor:
        """[T] log π_old as far as it is known before the step."""
        return self.decoded if self.old is None else self.old

    @property
    def lengths(self) -> Tensor:
        """[G] tokens of each completion."""
        return torch.tensor([len(ids) for ids in self.group.sharing.completions])


@dataclass(kw_only=True, slots=True)
class Iteration:
    """The experience of one iteration. `figures` wait for the line of its first step; `kl` is K̂, nats a completion."""

    items: list[Experience]
    kl: float
    figures: dict[str, float] = field(default_factory=dict)


# --- gathering --------------------------------------------------------------------------------------------------------


def gather(
    session: Run[Any],
    config: PolicyGradientConfig,
    *,
    sampler: Sampler,
    scorer: Scorer,
    missing_end_score: float | None,
    with_old: bool,
    value_head: Tensor | None = None,
) -> Iteration:
    """Sample, score, and hold beside the reference: one pass each.

    Args:
        with_old: compute log π_old in a pass of its own, for iterations of several steps.
        value_head: [D] of a critic on the policy's trunk; its values come from that same pass.

    Raises:
        ConfigError: the sampler gave no token ids, or not the log-probabilities of the policy.
        ModelError: before the first step, decoder and training pass disagree.
    """
    clock = _Clock()
    groups = sampler(session.next_batch(), per_prompt=config.batch.per_prompt, stream=f"iteration {session.iteration}")
    check_token_ids(groups)
    clock.lap("sample")
    raw = scorer(groups)
    clock.lap("score")
    reference = reference_logprobs(session, groups)
    entropy = with_old and session.iteration % math.ceil(MEASURED_EVERY / session.inner) == 0
    columns = policy_columns(session, groups, logp=with_old, entropy=entropy, value_head=value_head)
    clock.lap("logprobs")
    finished = torch.tensor([c.finish == "end" for group in groups for c in group.completions])
    scores = replace_missing_end(raw, finished, missing_end_score=missing_end_score)
    items = [
        Experience(group=group, scores=part, reference=theirs, old=own.get("logp"), values=own.get("value"))
        for group, part, theirs, own in zip(
            groups, torch.split(scores, [len(g.completions) for g in groups]), reference, columns, strict=True
        )
    ]
    figures = {
        "rollout/score": float(raw.mean()),
        **_sampled_figures(items, beta=session.state["beta"]),
        **clock.laps,
    }
    if entropy:
        figures["rollout/entropy"] = mean_of([own["entropy"] for own in columns])
    if with_old:
        gaps = torch.cat([(item.known_old - item.decoded).abs().double() for item in items])
        check_gap(session, largest=float(gaps.max()) if len(gaps) else 0.0, mean=mean_of([gaps]))
        figures["rollout/sampler_gap"] = mean_of([gaps])
    return Iteration(items=items, kl=figures["rollout/kl"], figures=figures)


def _sampled_figures(items: Sequence[Experience], *, beta: float) -> dict[str, float]:
    groups = [item.group for item in items]
    ratios = by_completion(groups, [item.known_old - item.reference for item in items])
    kl = kl_figures(ratios)
    scores = torch.cat([item.scores for item in items])
    found = {**length_figures(groups), **kl, "rollout/reward": float(scores.mean()) - beta * kl["rollout/kl"]}
    if len(items[0].scores) > 1:
        without = [float(item.scores.max() == item.scores.min()) for item in items]
        found["rollout/groups_without_spread"] = sum(without) / len(without)
    return found


@dataclass(kw_only=True, slots=True)
class _Clock:
    at: float = field(default_factory=time.monotonic)
    laps: dict[str, float] = field(default_factory=dict)

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[f"time/{name}"], self.at = now - self.at, now


def check_token_ids(groups: Sequence[Group]) -> None:
    """A policy gradient needs the tokens that were drawn and their log-probabilities, not a text (ENGINE §3.8).

    Raises:
        ConfigError: a completion has a text alone.
    """
    for group in groups:
        for completion in group.completions:
            known = len(completion.token_logprobs) == len(completion.token_ids) and math.isfinite(completion.logprob)
            if not known or (completion.text and not completion.token_ids):
                message = f"sampling gave a text without token ids and log-probabilities for prompt {group.id}"
                raise ConfigError(key="sampling", value="text only", message=message)


# --- what outlives a kill ---------------------------------------------------------------------------------------------


def keep(session: Run[Any], iteration: Iteration) -> None:
    """Put an iteration of several steps where a checkpoint finds it."""
    if session.inner == 1:
        return
    session.state["iteration"] = {
        "kl": iteration.kl,
        "figures": iteration.figures,
        "groups": groups_to_json([item.group for item in iteration.items]),
    }
    items = iteration.items
    columns = {
        "scores": [item.scores for item in items],
        "reference": [item.reference for item in items],
        "old": [item.old for item in items if item.old is not None],
        "advantages": [item.advantages for item in items if item.advantages is not None],
        "returns": [item.returns for item in items if item.returns is not None],
        "values": [item.values for item in items if item.values is not None],
    }
    session.tensors = {name: torch.cat(parts) for name, parts in columns.items() if parts}


def kept(session: Run[Any]) -> Iteration | None:
    """The iteration that a checkpoint was made in the middle of, bit for bit; None at its beginning."""
    stored = session.state.get("iteration")
    if stored is None:
        return None
    groups = groups_from_json(stored["groups"], session.next_batch())
    completions = [len(group.completions) for group in groups]
    tokens = [sum(map(len, group.sharing.completions)) for group in groups]

    def column(name: str) -> Sequence[Tensor | None]:
        return torch.split(session.tensors[name], tokens) if name in session.tensors else [None] * len(groups)

    items = [
        Experience(
            group=group,
            scores=scores,
            reference=reference,
            old=old,
            advantages=advantages,
            returns=returns,
            values=values,
        )
        for group, scores, reference, old, advantages, returns, values in zip(
            groups,
            torch.split(session.tensors["scores"], completions),
            torch.split(session.tensors["reference"], tokens),
            *(column(name) for name in ("old", "advantages", "returns", "values")),
            strict=True,
        )
    ]
    return Iteration(items=items, kl=stored["kl"], figures=stored["figures"])


def finish(session: Run[Any], config: PolicyGradientConfig, iteration: Iteration) -> None:
    """After the last step of an iteration: β follows its KL, and what was sampled is forgotten."""
    if config.kl.target is not None:
        session.state["beta"] = next_beta(
            session.state["beta"],
            kl=iteration.kl,
            target=config.kl.target,
            completions=sum(len(item.scores) for item in iteration.items),
            horizon=config.kl.horizon,
        )
    session.state.pop("iteration", None)
    session.tensors = {}


def take_figures(session: Run[Any], iteration: Iteration) -> dict[str, float]:
    """The figures of the sampling, once: they stand in the line of the iteration's first step."""
    found, iteration.figures = iteration.figures, {}
    if "iteration" in session.state:
        session.state["iteration"]["figures"] = {}
    return found


def end_over_budget(session: Run[Any], config: PolicyGradientConfig, iteration: Iteration) -> bool:
    """End the run where the fresh completions are further from the reference than allowed, before training on them."""
    budget = config.kl.budget
    if budget is None or iteration.kl <= budget:
        return False
    reason = f"KL is {iteration.kl:.2f} nats a completion, above kl.budget = {budget:g}"
    session.end("stopped_kl", reason=reason)
    return True


# --- minibatches ------------------------------------------------------------------------------------------------------


def minibatch(session: Run[Any], config: PolicyGradientConfig, iteration: Iteration) -> list[Experience]:
    """The groups of the next optimizer step, in the order in which they were sampled."""
    items = iteration.items
    size = (config.batch.minibatch or config.batch.completions) // config.batch.per_prompt
    epoch, part = divmod(session.inner_step, -(-len(items) // size))
    order = list(range(len(items)))
    random.Random(f"{config.seed}:{session.iteration}:{epoch}").shuffle(order)  # noqa: S311 - an order, no secret
    return [items[place] for place in sorted(order[part * size : (part + 1) * size])]


def items_of_completions(items: Sequence[Experience], device: torch.device) -> Tensor:
    """The number of the item that each completion of a pack belongs to, [K]."""
    numbers = [number for number, item in enumerate(items) for _ in item.sharing.completions]
    return torch.tensor(numbers, device=device)


def sums_by_item(values: Tensor, owners: Tensor, count: int) -> Tensor:
    """Sums over the tokens [C] or completions [K] of each of `count` items, [B]; gradients pass."""
    return values.new_zeros(count).index_add(0, owners, values)


def most_by_item(values: Tensor, owners: Tensor, count: int) -> Tensor:
    """The largest value of each item, [B]; 0 where it has none. For values that are not negative."""
    return values.new_zeros(count).scatter_reduce(0, owners, values, "amax")


def on_device(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.cat(list(parts)).to(like.device, like.dtype)


def old_logprobs(items: Sequence[Experience], logp: Tensor) -> Tensor:
    """log π_old of the tokens of a pack, [C]: known, or that of the present pass."""
    known = [item.old for item in items if item.old is not None]
    return on_device(known, logp) if known else logp.detach()


def count_tokens(items: Sequence[Experience]) -> int:
    return sum(int(item.lengths.sum()) for item in items)


def ratio_figures(log_ratio: Tensor, of_token: Tensor, count: int) -> dict[str, Tensor]:
    """Figures of ρ per item [B] over tokens [C]: sums of approx-KL and |ρ − 1|, the largest of ρ and |ρ − 1|."""
    log_ratio = log_ratio.detach()
    off = torch.expm1(log_ratio).abs()
    return {
        "approx_kl": sums_by_item(policy_losses.approx_kl(log_ratio), of_token, count),
        "ratio_max": most_by_item(log_ratio.exp(), of_token, count),
        "ratio_off": sums_by_item(off, of_token, count),
        "ratio_off_max": most_by_item(off, of_token, count),
    }


def fresh_figures(
    session: Run[Any], items: Sequence[Experience], rows: Tensor, pack: Pack, logp: Tensor, of_token: Tensor
) -> dict[str, Tensor]:
    """What a pass knows that is the only one over its completions, per item [B]: gap to the decoder, and entropy."""
    gap = (logp.detach() - on_device([item.decoded for item in items], logp)).abs()
    found = {
        "gap": sums_by_item(gap, of_token, len(items)),
        "gap_max": most_by_item(gap, of_token, len(items)),
    }
    if session.progress.step % MEASURED_EVERY == 0:
        statistics = target_statistics(rows.detach(), lm_head_weight(session.model), pack.targets)
        found["entropy"] = sums_by_item(statistics.entropy, of_token, len(items))
    return found


def step_metrics(session: Run[Any], batch: Batch, *, tokens: int) -> dict[str, float]:
    """Ratio, gap and entropy of an optimizer step out of its figures; checked before the run's very first update."""
    figures, count = batch.figures, max(1, tokens)
    if session.progress.step == 0:
        mean = float(figures["ratio_off"].sum()) / count
        _check_ratio(session, largest=float(figures["ratio_off_max"].max()), mean=mean)
    found = {
        "ppo/approx_kl": float(figures["approx_kl"].sum()) / count,
        "ppo/ratio_max": float(figures["ratio_max"].max()),
    }
    if "gap" in figures:
        found["rollout/sampler_gap"] = float(figures["gap"].sum()) / count
        check_gap(session, largest=float(figures["gap_max"].max()), mean=found["rollout/sampler_gap"])
    if "entropy" in figures:
        found["rollout/entropy"] = float(figures["entropy"].sum()) / count
    return found


def _check_ratio(session: Run[Any], *, largest: float, mean: float) -> None:
    """The policy that is trained is the one that sampled, so before step 1 every ρ is 1."""
    exact = session.config.precision.dtype is Dtype.FP32
    if not (largest <= RATIO_TOLERANCE if exact else mean <= MEAN_RATIO_TOLERANCE):
        raise AssertionError(f"before step 1 ratios to π_old are up to {largest:.2e} off 1, in the mean {mean:.2e}")


def check_gap(session: Run[Any], *, largest: float, mean: float) -> None:
    """Before step 1, decoder and training pass give the sampled tokens the same log-probabilities.

    Raises:
        ModelError: they do not; a model with a sliding window or recurrent layers cannot be read in packs.
    """
    if session.progress.step:
        return
    exact = session.config.precision.dtype is Dtype.FP32
    if not (largest <= GAP_TOLERANCE if exact else mean <= MEAN_GAP_TOLERANCE):
        raise ModelError(
            f"decoder and training pass differ by up to {largest:.2e}, in the mean {mean:.2e} nats a token: "
            "the model reads packed completions differently"
        )
