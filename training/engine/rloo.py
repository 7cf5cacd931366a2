"""REINFORCE, RLOO and GRPO: a policy that climbs a reward model's score, with other completions in a critic's place.

RLOO, and REINFORCE where G = 1. A whole completion is one action, its return holds the KL to the reference:

    R_i = s_i − β Σ_t k1_t,     A_i = R_i − mean of the others' R (of its prompt; G = 1: of the batch)
    L = −(1/K) Σ_i min(ρ(y_i) A_i, clip(ρ(y_i), 1−ε, 1+ε) A_i),     ρ(y) = exp Σ_t (log π − log π_old)

A mean over completions of token *sums*: dividing by length would tilt the gradient. A is not divided by a spread.
Source: Williams 1992; Kool, van Hoof & Welling 2019; Ahmadian et al. 2024.

GRPO. Tokens are actions that share their completion's advantage, the KL is in the loss:

    A_i = (s_i − mean_g)/(std_g + 1e-4)
    L = Σ_i,t [−min(ρ_t A_i, clip(ρ_t, 1−ε, 1+ε_hi) A_i) + β ρ_t k3_t] / Σ_i T_i

with other averages by `grpo.average`. It does not aim at π* ∝ π_ref exp(s/β): compare it with others at equal KL only.
Source: Shao et al. 2024, eq. 3 and 4; the gradient through ρ_t in the KL term: Liu et al. 2025 (DeepSeek-V3.2).

s is centred, and `missing_end_score` where a completion hit the token limit. With one step an iteration π_old is the
current forward pass, detached; R_i then comes from it too. The trust region behind the clip is in `policy_losses.py`.

G completions of a prompt; B prompts and K completions of a step, C tokens of a pack, T_i of a completion.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

import torch
from torch import Tensor

from training.engine import loop, starting
from training.engine.advantages import batch_leave_one_out, group_normalised, leave_one_out, per_token
from training.engine.config import Average, GrpoConfig, RlooConfig, Scale
from training.engine.examples import PromptItem, load_prompts
from training.engine.experience import (
    Experience,
    Iteration,
    count_tokens,
    end_over_budget,
    finish,
    fresh_figures,
    gather,
    items_of_completions,
    keep,
    kept,
    minibatch,
    old_logprobs,
    on_device,
    ratio_figures,
    step_metrics,
    sums_by_item,
    take_figures,
)
from training.engine.held_out import BEST, HeldOut, close_step, load_held_out, load_rewards, prompt_facts
from training.engine.logprobs import sum_by_completion, target_logprobs
from training.engine.loop import Batch, Run
from training.engine.models import lm_head_weight
from training.engine.packing import Pack, hidden_states
from training.engine.policy_losses import grpo_token_term, is_clipped, ppo_clip, sequence_clip
from training.engine.records import KINDS
from training.engine.rollouts import Sampler, Scorer, own_sampler
from training.engine.scoring import reward_roles
from training.engine.supervision import Supervision


def run(config: RlooConfig | GrpoConfig, out: Path, *, resume: Path | None, supervision: Supervision) -> None:
    """Train, evaluate and write everything to `out`; go on from `resume`, or from `out`'s own newest checkpoint.

    Raises:
        SnapshotError, ModelError, Diverged.
    """
    roles = reward_roles(config.models.rewards, config.models.held_out)
    opening = starting.open_run(config, out, resume=resume, supervision=supervision, kinds=KINDS, models=roles)
    prompts, validation = (load_prompts(part, data=config.data, text=opening.text) for part in ("train", "validation"))
    model, reference = starting.load_policies(opening, config, prompts.examples)
    session = starting.start_run(
        config,
        opening,
        kind="policy",
        trained={"policy": starting.make_trained(model, config.optim)},
        reference=reference,
        items=prompts.examples,
        size=config.batch.prompts,
        inner=config.batch.steps,
        facts=prompt_facts(prompts, validation, asked=config.eval.prompts),
        best_by=BEST,
    )
    scorer = load_rewards(session, config.models.rewards, combine=config.models.combine)
    held_out = load_held_out(
        session, config.models.held_out, validation=validation.examples, rewards=scorer, budget=config.kl.budget
    )
    train(session, config, sampler=own_sampler(session, config.sampling), scorer=scorer, held_out=held_out)


def train(
    session: Run[PromptItem],
    config: RlooConfig | GrpoConfig,
    *,
    sampler: Sampler,
    scorer: Scorer,
    held_out: HeldOut,
) -> None:
    """The loop, to its end or a stop.

    Args:
        sampler: of the policy in training, at temperature 1; `scorer`: centred scores, nats.
    """
    missing_end_score = _missing_end_score(config)
    session.state.setdefault("beta", config.kl.beta)
    iteration = kept(session)
    with session.ending():
        while not session.is_over:
            if session.is_open:
                close_step(
                    session,
                    config,
                    sampler=sampler,
                    scorer=scorer,
                    held_out=held_out,
                    missing_end_score=missing_end_score,
                )
                continue
            started = time.monotonic()
            if iteration is None:
                iteration = gather(
                    session,
                    config,
                    sampler=sampler,
                    scorer=scorer,
                    missing_end_score=missing_end_score,
                    with_old=session.inner > 1,
                )
                if end_over_budget(session, config, iteration):
                    break
                keep(session, iteration)
            session.open_step(_take_step(session, config, iteration, started=started))
            if session.inner_step == 0:
                finish(session, config, iteration)
                iteration = None


def _missing_end_score(config: RlooConfig | GrpoConfig) -> float | None:
    return config.rloo.missing_end_score if isinstance(config, RlooConfig) else config.grpo.missing_end_score


def _take_step(
    session: Run[PromptItem], config: RlooConfig | GrpoConfig, iteration: Iteration, *, started: float
) -> dict[str, float]:
    trained_from = time.monotonic()
    items = minibatch(session, config, iteration)
    if isinstance(config, RlooConfig):
        divisor = units = float(sum(len(item.scores) for item in items))
        batch = _rloo_pass(session, config, iteration, items, divisor=divisor)
    else:
        divisor, units = _grpo_divisor(config, items), float(count_tokens(items))
        batch = _grpo_pass(session, config, items, divisor=divisor)
    metrics = step_metrics(session, batch, tokens=count_tokens(items))
    updated = loop.update_weights(session, items)
    completions = sum(len(item.scores) for item in items)
    mean = float(batch.figures["advantage"].sum()) / completions
    square = float(batch.figures["advantage_squared"].sum()) / completions
    now = time.monotonic()
    return {
        "train/loss": float(batch.losses.sum()) / divisor,
        "ppo/policy_loss": float(batch.figures["policy"].sum()) / divisor,
        "ppo/clip_share": float(batch.figures["clipped"].sum()) / max(1.0, units),
        "ppo/beta": session.state["beta"],
        "rollout/advantage_std": max(square - mean**2, 0.0) ** 0.5,
        **metrics,
        **updated,
        **take_figures(session, iteration),
        "time/train": now - trained_from,
        **loop.step_figures(session, tokens=batch.tokens, seconds=now - started),
    }


# --- RLOO and REINFORCE -----------------------------------------------------------------------------------------------


def _rloo_pass(
    session: Run[PromptItem],
    config: RlooConfig,
    iteration: Iteration,
    items: list[Experience],
    *,
    divisor: float,
) -> Batch:
    beta = session.state["beta"]
    count = sum(len(item.scores) for item in iteration.items)
    total = sum(float(item.scores.sum()) for item in iteration.items) - beta * iteration.kl * count  # Σ R

    def terms(pack: Pack, chosen: list[Experience]) -> tuple[Tensor, dict[str, Tensor]]:
        rows = hidden_states(session.model, pack)[pack.rows]
        logp = target_logprobs(rows, lm_head_weight(session.model), pack.targets)  # [C]
        old = old_logprobs(chosen, logp)
        of_completion = items_of_completions(chosen, logp.device)  # [K]
        of_token = of_completion[pack.owner]  # [C]
        reference = on_device([item.reference for item in chosen], logp)
        scores = torch.cat([item.scores for item in chosen]).to(logp.device)
        returns = scores - beta * sum_by_completion(old - reference, pack)
        if config.batch.per_prompt > 1:
            advantages = leave_one_out(returns, of_completion)
        else:
            advantages = batch_leave_one_out(returns, total=total, count=count)
        log_ratios = sum_by_completion(logp - old, pack)  # [K]
        loss = sequence_clip(log_ratios, advantages, epsilon=config.rloo.clip)
        clipped = is_clipped(log_ratios.detach(), advantages, low=config.rloo.clip, high=config.rloo.clip)
        losses = sums_by_item(loss, of_completion, len(chosen))
        figures = ratio_figures(logp - old, of_token, len(chosen))
        if chosen[0].old is None:
            figures |= fresh_figures(session, chosen, rows, pack, logp, of_token)
        return losses, {
            **figures,
            **_advantage_figures(advantages, of_completion, len(chosen)),
            "policy": losses.detach(),
            "clipped": sums_by_item(clipped.double(), of_completion, len(chosen)),
        }

    return loop.forward_batch(session, items, terms, train=True, divisor=divisor)


def _advantage_figures(advantages: Tensor, of_completion: Tensor, count: int) -> dict[str, Tensor]:
    return {
        "advantage": sums_by_item(advantages, of_completion, count),
        "advantage_squared": sums_by_item(advantages**2, of_completion, count),
    }


# --- GRPO -------------------------------------------------------------------------------------------------------------


def _counts(config: GrpoConfig, items: Sequence[Experience]) -> Tensor:
    """Which completions count, [K] bool: with `mask_unfinished` the finished ones, else all."""
    finished = [c.finish == "end" for item in items for c in item.group.completions]
    return torch.tensor([done or not config.grpo.mask_unfinished for done in finished])


def _grpo_divisor(config: GrpoConfig, items: Sequence[Experience]) -> float:
    """What the step's sum is divided by: tokens or completions that count, or the latter with all their room."""
    counts = _counts(config, items)
    completions = float(counts.sum())
    match config.grpo.average:
        case Average.TOKEN:
            divisor = float((torch.cat([item.lengths for item in items]) * counts).sum())
        case Average.SEQUENCE:
            divisor = completions
        case Average.CONSTANT:
            divisor = completions * config.sampling.max_new_tokens
        case _:
            assert_never(config.grpo.average)
    return max(1.0, divisor)


def _grpo_pass(session: Run[PromptItem], config: GrpoConfig, items: list[Experience], *, divisor: float) -> Batch:
    options, beta = config.grpo, session.state["beta"]
    clip = {"low": options.clip_low, "high": options.clip_high}

    def terms(pack: Pack, chosen: list[Experience]) -> tuple[Tensor, dict[str, Tensor]]:
        rows = hidden_states(session.model, pack)[pack.rows]
        logp = target_logprobs(rows, lm_head_weight(session.model), pack.targets)  # [C]
        old = old_logprobs(chosen, logp)
        of_completion = items_of_completions(chosen, logp.device)  # [K]
        of_token = of_completion[pack.owner]  # [C]
        reference = on_device([item.reference for item in chosen], logp)
        scores = torch.cat([item.scores for item in chosen]).to(logp.device)
        advantages, _ = group_normalised(scores, of_completion, scale=options.scale is Scale.STD)
        weights = _counts(config, chosen).to(logp.device, logp.dtype)
        if options.average is Average.SEQUENCE:
            weights = weights / pack.lengths.clamp(min=1)
        weight, advantage = (per_token(x, pack.lengths).to(logp.dtype) for x in (weights, advantages))  # [C]
        term = grpo_token_term(logp, old, reference, advantage, beta=beta, **clip)
        policy = ppo_clip(logp.detach(), old, advantage, **clip)
        clipped = is_clipped((logp - old).detach(), advantage, **clip)
        figures = ratio_figures(logp - old, of_token, len(chosen))
        if chosen[0].old is None:
            figures |= fresh_figures(session, chosen, rows, pack, logp, of_token)
        return sums_by_item(weight * term, of_token, len(chosen)), {
            **figures,
            **_advantage_figures(advantages, of_completion, len(chosen)),
            "policy": sums_by_item(weight * policy, of_token, len(chosen)),
            "clipped": sums_by_item(clipped.to(logp.dtype), of_token, len(chosen)),
        }

    return loop.forward_batch(session, items, terms, train=True, divisor=divisor)
