"""PPO: a policy that climbs a reward model's score in small trusted steps, with a critic that says what to expect.

An iteration samples completions and scores them; log π_old, log π_ref and V_old come from one packed pass each; then
some epochs of minibatches go over them.

    k1_t = log π_old(y_t) − log π_ref(y_t)                     detached
    r_t  = −β k1_t + 1[t = T] s,   T the last token, finished or not
    δ_t  = r_t + γ V_{t+1} − V_t,  V_{T+1} = 0;   A_t = δ_t + γλ A_{t+1};   Ret_t = A_t + V_t   (before whitening)
    A    ← (A − mean)/(std + 1e-8)  over all completion tokens of the iteration
    L_π  = −Σ min(ρ_t A_t, clip(ρ_t, 1−ε, 1+ε) A_t) / Σ 1
    L_V  = ½ Σ max((V−Ret)², (clip(V, V_old ± ε_v) − Ret)²) / Σ 1

A shared critic trains on L_π + c_v L_V, a separate one has L_V, an optimizer and a learning rate of its own. s is
centred, and `missing_end_score` where a completion hit the token limit. What is maximised, and why a clip stands for
the trust region, is in `policy_losses.py`. With `kl_in: "loss"` the reward is free of KL and L_π gets

    + β Σ_i sg[ρ(y_i)] ½ d(y_i)² / Σ 1,     d(y) = log π(y) − log π_ref(y),  ρ(y) clipped at 2,

the sequence form of J^KL. Above 1.5 × `inner_kl_target` nats a token of KL(π_old‖π) the rest of an iteration is left
out: the step that finds it is counted, and moves nothing.

Source: Schulman et al. 2017, eq. 7; Schulman et al. 2016, eq. 16; Ziegler et al. 2019; Huang et al. 2024 (N+).

C scored tokens of a pack, K its completions, B its prompts.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.engine import critics, loop, starting
from training.engine.advantages import explained_variance, gae, mean_and_std, power_sums, token_rewards, whiten
from training.engine.config import Critic, KlPlace, PpoConfig
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
from training.engine.policy_losses import clipped_value, is_clipped, ppo_clip, sequence_kl_penalty
from training.engine.records import KINDS
from training.engine.rollouts import Sampler, Scorer, own_sampler, read_values
from training.engine.scoring import reward_roles
from training.engine.supervision import Supervision

INNER_KL_SLACK = 1.5
"""The inner KL may exceed its target by this factor, as in OpenAI's Spinning Up."""


def run(config: PpoConfig, out: Path, *, resume: Path | None, supervision: Supervision) -> None:
    """Train, evaluate and write everything to `out`; go on from `resume`, or from `out`'s own newest checkpoint.

    Raises:
        SnapshotError, ModelError, Diverged.
    """
    roles = reward_roles(config.models.rewards, config.models.held_out)
    opening = starting.open_run(config, out, resume=resume, supervision=supervision, kinds=KINDS, models=roles)
    prompts, validation = (load_prompts(part, data=config.data, text=opening.text) for part in ("train", "validation"))
    model, reference = starting.load_policies(opening, config, prompts.examples)
    separate = config.ppo.critic is Critic.SEPARATE
    extra = {} if separate else {critics.VALUE_HEAD: critics.shared_head(model)}
    trained = {"policy": starting.make_trained(model, config.optim, extra=extra)}
    offset = 0.0
    if separate:
        critic, offset = critics.load_critic(config, opening, prompts=prompts.examples)
        optim = dataclasses.replace(config.optim, learning_rate=config.ppo.critic_learning_rate)
        trained[critics.ROLE] = starting.make_trained(critic, optim)
    session = starting.start_run(
        config,
        opening,
        kind="policy",
        trained=trained,
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
    sampler = own_sampler(session, config.sampling)
    train(session, config, sampler=sampler, scorer=scorer, held_out=held_out, value_offset=offset)


def train(
    session: Run[PromptItem],
    config: PpoConfig,
    *,
    sampler: Sampler,
    scorer: Scorer,
    held_out: HeldOut,
    value_offset: float = 0.0,
) -> None:
    """The loop, to its end or a stop. A second model of the session is the critic; else the policy's value head is.

    Args:
        sampler: of the policy in training, at temperature 1; `scorer`: centred scores, nats.
        value_offset: taken off a separate critic's values.
    """
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
                    missing_end_score=config.ppo.missing_end_score,
                )
                continue
            started = time.monotonic()
            if iteration is None:
                iteration = _begin(session, config, sampler=sampler, scorer=scorer, offset=value_offset)
                if end_over_budget(session, config, iteration):
                    break
                keep(session, iteration)
            session.open_step(_take_step(session, config, iteration, offset=value_offset, started=started))
            if session.progress.pending is not None and session.progress.pending["ppo/early_stop"]:
                session.skip_rest()
            if session.inner_step == 0:
                finish(session, config, iteration)
                iteration = None


def _value_head(session: Run[Any]) -> Tensor | None:
    """The critic on the policy's trunk, [D], if it is there."""
    return next(iter(session.trained.values())).extra.get(critics.VALUE_HEAD)


# --- before the steps -------------------------------------------------------------------------------------------------


def _begin(
    session: Run[PromptItem], config: PpoConfig, *, sampler: Sampler, scorer: Scorer, offset: float
) -> Iteration:
    """Sample and score an iteration, and say what was to be expected of it."""
    iteration = gather(
        session,
        config,
        sampler=sampler,
        scorer=scorer,
        missing_end_score=config.ppo.missing_end_score,
        with_old=session.inner > 1,
        value_head=_value_head(session),
    )
    started = time.monotonic()
    if critics.ROLE in session.trained:
        critic = session.trained[critics.ROLE].model
        values = loop.infer(
            session, iteration.items, lambda pack: critics.values_of(critic, pack, offset=offset), per="token"
        )
        iteration.items = [
            dataclasses.replace(item, values=own) for item, own in zip(iteration.items, values, strict=True)
        ]
    iteration.figures["time/logprobs"] += time.monotonic() - started
    return estimate_advantages(config, iteration, beta=session.state["beta"])


def estimate_advantages(config: PpoConfig, iteration: Iteration, *, beta: float) -> Iteration:
    """The same items with advantages and returns, from their scores, log-ratios and values."""
    items, options = iteration.items, config.ppo
    lengths = torch.cat([item.lengths for item in items])
    k1 = torch.cat([item.known_old - item.reference for item in items])
    values = torch.cat([item.values for item in items if item.values is not None]).to(k1.dtype)
    price = beta if options.kl_in is KlPlace.REWARD else 0.0
    rewards = token_rewards(torch.cat([item.scores for item in items]), k1, lengths, beta=price)
    advantages, returns = gae(rewards, values, lengths, gamma=options.gamma, lam=options.lam)
    mean, spread = mean_and_std(power_sums(advantages))
    if options.whiten_advantages:
        advantages = whiten(advantages, mean=mean, std=spread)
    sizes = [int(item.lengths.sum()) for item in items]
    split = (torch.split(column, sizes) for column in (advantages, returns, values))
    iteration.items = [
        dataclasses.replace(item, advantages=a, returns=r, values=v)
        for item, a, r, v in zip(items, *split, strict=True)
    ]
    iteration.figures["ppo/explained_variance"] = explained_variance(power_sums(returns - values), power_sums(returns))
    iteration.figures["rollout/advantage_std"] = spread
    return iteration


# --- a step -----------------------------------------------------------------------------------------------------------


def _take_step(
    session: Run[PromptItem], config: PpoConfig, iteration: Iteration, *, offset: float, started: float
) -> dict[str, float]:
    trained_from = time.monotonic()
    items = minibatch(session, config, iteration)
    tokens = count_tokens(items)
    divisor = float(max(1, tokens))
    batch = _policy_pass(session, config, items, divisor=divisor)
    metrics = step_metrics(session, batch, tokens=tokens)
    target = config.ppo.inner_kl_target
    stops = target is not None and metrics["ppo/approx_kl"] > INNER_KL_SLACK * target
    value_figures = batch.figures
    updated: dict[str, float] = {}
    if stops:
        for part in session.trained.values():
            part.optimizer.zero_grad(set_to_none=True)
    else:
        if critics.ROLE in session.trained:
            value_figures = _critic_pass(session, config, items, divisor=divisor, offset=offset).figures
            updated = loop.update_weights(session, items, name=critics.ROLE)
        updated |= loop.update_weights(session, items)
    value_loss = {"ppo/value_loss": float(value_figures["value"].sum()) / divisor} if "value" in value_figures else {}
    now = time.monotonic()
    return {
        "train/loss": float(batch.losses.sum()) / divisor,
        "ppo/policy_loss": float(batch.figures["policy"].sum()) / divisor,
        **value_loss,
        "ppo/clip_share": float(batch.figures["clipped"].sum()) / divisor,
        "ppo/beta": session.state["beta"],
        "ppo/early_stop": float(stops),
        **metrics,
        **updated,
        **take_figures(session, iteration),
        "time/train": now - trained_from,
        **loop.step_figures(session, tokens=batch.tokens, seconds=now - started),
    }


def _column(items: list[Experience], read: Callable[[Experience], Tensor | None], like: Tensor) -> Tensor:
    """A number of every token of a pack, [C]."""
    return on_device([part for item in items if (part := read(item)) is not None], like)


def _policy_pass(session: Run[PromptItem], config: PpoConfig, items: list[Experience], *, divisor: float) -> Batch:
    options, beta, head = config.ppo, session.state["beta"], _value_head(session)

    def terms(pack: Pack, chosen: list[Experience]) -> tuple[Tensor, dict[str, Tensor]]:
        count = len(chosen)
        rows = hidden_states(session.model, pack)[pack.rows]
        logp = target_logprobs(rows, lm_head_weight(session.model), pack.targets)  # [C]
        old = old_logprobs(chosen, logp)
        of_completion = items_of_completions(chosen, logp.device)  # [K]
        of_token = of_completion[pack.owner]  # [C]
        advantages = _column(chosen, lambda item: item.advantages, logp)
        term = ppo_clip(logp, old, advantages, low=options.clip, high=options.clip)
        losses = sums_by_item(term, of_token, count)
        clipped = is_clipped((logp - old).detach(), advantages, low=options.clip, high=options.clip)
        figures = {
            **ratio_figures(logp - old, of_token, count),
            "policy": losses.detach(),
            "clipped": sums_by_item(clipped.to(logp.dtype), of_token, count),
        }
        if options.kl_in is KlPlace.LOSS:
            d = sum_by_completion(logp - on_device([item.reference for item in chosen], logp), pack)  # [K]
            penalty = beta * sequence_kl_penalty(d, sum_by_completion(logp - old, pack))
            losses = losses + sums_by_item(penalty.to(logp.dtype), of_completion, count)
        if head is not None:
            value = sums_by_item(_value_terms(config, chosen, read_values(rows, head)), of_token, count)
            figures["value"] = value.detach()
            losses = losses + options.value_weight * value
        if chosen[0].old is None:
            figures |= fresh_figures(session, chosen, rows, pack, logp, of_token)
        return losses, figures

    return loop.forward_batch(session, items, terms, train=True, divisor=divisor)


def _critic_pass(
    session: Run[PromptItem], config: PpoConfig, items: list[Experience], *, divisor: float, offset: float
) -> Batch:
    critic = session.trained[critics.ROLE].model

    def terms(pack: Pack, chosen: list[Experience]) -> tuple[Tensor, dict[str, Tensor]]:
        of_token = items_of_completions(chosen, pack.ids.device)[pack.owner]
        values = critics.values_of(critic, pack, offset=offset)
        losses = sums_by_item(_value_terms(config, chosen, values), of_token, len(chosen))
        return losses, {"value": losses.detach()}

    return loop.forward_batch(session, items, terms, train=True, divisor=divisor)


def _value_terms(config: PpoConfig, items: list[Experience], values: Tensor) -> Tensor:
    """The clipped squared errors of the values of a pack, [C]."""
    old = _column(items, lambda item: item.values, values)
    returns = _column(items, lambda item: item.returns, values)
    return clipped_value(values, old, returns, epsilon=config.ppo.value_clip)
