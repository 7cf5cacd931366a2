"""Online DPO: pairs that the policy has just written, labelled, and one DPO step on them against the fixed reference.

    y_a, y_b ~ π at `temperature`;   q = P(y_a ≻ y_b) by a labeller
    L = Σ_i w_i [−q log σ(β Δ) − (1 − q) log σ(−β Δ)] / Σ_i w_i,   Δ = d(y_a) − d(y_b),  d = log π − log π_ref

A reward model says q = σ((s_a − s_b)/τ): as a soft label (the fixed point is π* ∝ π_ref exp(s/(τβ))), as a seeded
coin with that q (the same in expectation), or, for comparisons alone, as its argmax, which collapses onto the best
completion. The score of a completion without end token is `missing_end_score`. A judge is asked in both orders and
reads a cut text as it stands; its answers are kept in `judge.jsonl` of the run directory. Equal texts, and two
completions that both hit the token limit, say nothing and are skipped.

With labeller "people" a run writes the pairs of one iteration to `pairs.jsonl` and ends as `waiting_for_labels`. Lines
have id, group, prompt, completions and finishes, as a snapshot of rankings has them, the ranking still to come. People
vote, and the snapshot of their votes is for a run of `dpo`, which ends where one iteration of this method would.

An iteration is one optimizer step. One in which every pair is skipped is counted as a step that moves no weight and no
moment of the optimizer, so evaluations, checkpoints and the schedule stay where they were planned.
Source: Guo et al. 2024 (online AI feedback), alg. 1, with the vote as a probability.

B pairs of a step; K = 2B completions of a pack; C scored tokens; T of a completion.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.engine import judging, loop, losses, starting
from training.engine.config import Labeller, OnlineDpoConfig, OnlineLabel, OnlineOptions
from training.engine.diagnostics import Watched
from training.engine.evaluate import Judged, accuracy_metrics
from training.engine.examples import PromptItem, load_prompts
from training.engine.experience import check_gap
from training.engine.fresh_pairs import Fresh, FreshPair, Judge, ask_people, bring_answers, gather, own_judge
from training.engine.held_out import (
    BEST,
    OWN_NAMES,
    HeldOut,
    held_out_names,
    load_held_out,
    load_rewards,
    prompt_facts,
)
from training.engine.logprobs import sum_by_completion, target_logprobs, target_statistics
from training.engine.loop import Batch, Run
from training.engine.models import lm_head_weight
from training.engine.packing import Pack, hidden_states
from training.engine.records import KINDS
from training.engine.rollouts import (
    Group,
    Sampler,
    Scorer,
    first_of_groups,
    kl_figures,
    own_sampler,
    policy_columns,
    reference_logprobs,
    sample_line,
    watch,
)
from training.engine.scoring import reward_roles
from training.engine.sections import Dtype
from training.engine.supervision import Supervision

FIRST_LOSS_TOLERANCE = {Dtype.FP32: 1e-6, Dtype.BF16: 1e-2}


def run(config: OnlineDpoConfig, out: Path, *, resume: Path | None, supervision: Supervision) -> None:
    """Train, evaluate and write everything to `out`; go on from `resume`, or from `out`'s own newest checkpoint.

    Raises:
        SnapshotError, ModelError, Diverged; ConfigError for a judge's prompt or server that cannot be used.
    """
    options = config.online_dpo
    opening = starting.open_run(
        config,
        out,
        resume=resume,
        supervision=supervision,
        kinds=KINDS,
        models=reward_roles(config.models.rewards, config.models.held_out),
        texts={} if options.judge is None else {"judge_prompt": judging.check_template(options.judge)},
    )
    prompts, validation = (load_prompts(part, data=config.data, text=opening.text) for part in ("train", "validation"))
    model, reference = starting.load_policies(opening, config, prompts.examples)
    facts = prompt_facts(prompts, validation, asked=config.eval.prompts)
    if options.label is OnlineLabel.ARGMAX:
        facts["online/argmax"] = 1.0
        sys.stderr.write("online_dpo.label is argmax: the policy will collapse onto what scores best, whatever β is\n")
    session = starting.start_run(
        config,
        opening,
        kind="policy",
        trained={"policy": starting.make_trained(model, config.optim)},
        reference=reference,
        items=prompts.examples,
        size=config.batch.prompts,
        inner=config.batch.steps,
        facts=facts,
        best_by=BEST,
    )
    judge = None
    if options.judge is not None:
        bring_answers(out, resume)
        judge = own_judge(session, options.judge)
    scorer = None
    if config.models.rewards:
        scorer = load_rewards(session, config.models.rewards, combine=config.models.combine)
    held_out = load_held_out(session, config.models.held_out, validation=validation.examples, rewards=scorer)
    sampler = own_sampler(session, config.sampling)
    train(session, config, sampler=sampler, scorer=scorer, held_out=held_out, judge=judge)


def train(
    session: Run[PromptItem],
    config: OnlineDpoConfig,
    *,
    sampler: Sampler,
    scorer: Scorer | None,
    held_out: HeldOut,
    judge: Judge | None = None,
) -> None:
    """The loop, to its end or a stop.

    Args:
        sampler: of the policy in training; two completions a prompt, their group's weight is that of the pair.
        scorer: centred scores, nats; None where a judge or people label and nothing is measured by a reward model.
    """
    with session.ending():
        while not session.is_over:
            if session.is_open:
                _close_step(session, config, sampler=sampler, scorer=scorer, held_out=held_out)
                continue
            if config.online_dpo.labeller is Labeller.PEOPLE:
                ask_people(session, config, sampler=sampler)
                break
            started = time.monotonic()
            fresh = gather(session, config, sampler=sampler, scorer=scorer, judge=judge)
            session.open_step(_take_step(session, config, fresh, started=started))


# --- a step -----------------------------------------------------------------------------------------------------------


def forward(
    session: Run[Any], options: OnlineOptions, pairs: Sequence[FreshPair], *, train: bool, measure: bool = False
) -> Batch:
    """Losses [B] and figures [B]: `change_chosen` and `change_rejected` (log π − log π_ref, nats), the sum `gap` and
    the largest `gap_max` of |log π − the decoder's| over tokens; with `measure`, the summed `entropy` of the tokens.
    """

    def terms(pack: Pack, chosen: list[FreshPair]) -> tuple[Tensor, dict[str, Tensor]]:
        hidden, head = hidden_states(session.model, pack)[pack.rows], lm_head_weight(session.model)
        tokens = target_logprobs(hidden, head, pack.targets)  # [C]
        logp = sum_by_completion(tokens, pack).view(-1, 2)  # [B, 2]
        reference = torch.tensor([pair.reference for pair in chosen], dtype=logp.dtype, device=logp.device)
        q = torch.tensor([pair.q for pair in chosen], dtype=logp.dtype, device=logp.device)
        change = logp - reference
        loss = losses.preference_nll(options.beta * (change[:, 0] - change[:, 1]), q)
        figures = {"change_chosen": change[:, 0], "change_rejected": change[:, 1]}
        own = torch.split(tokens.detach(), [sum(map(len, pair.sharing.completions)) for pair in chosen])
        gaps = [_gaps(values, pair) for values, pair in zip(own, chosen, strict=True)]
        figures["gap"] = torch.stack([gap.sum() for gap in gaps])
        figures["gap_max"] = torch.stack([gap.max() if len(gap) else gap.sum() for gap in gaps])
        if measure:
            entropy = target_statistics(hidden.detach(), head.detach(), pack.targets).entropy
            figures["entropy"] = sum_by_completion(entropy, pack).view(-1, 2).sum(dim=1)
        return loss, figures

    return loop.forward_batch(session, pairs, terms, train=train)


def _gaps(values: Tensor, pair: FreshPair) -> Tensor:
    """|log π − the decoder's| of each token; nothing where a sampler gave no log-probabilities."""
    if len(pair.decoded) != len(values):
        return values[:0]
    return (values - torch.tensor(pair.decoded, dtype=values.dtype, device=values.device)).abs()


def _take_step(session: Run[Any], config: OnlineDpoConfig, fresh: Fresh, *, started: float) -> dict[str, float]:
    """One update on the pairs that have a label; with none, no update."""
    pairs = fresh.pairs
    if not pairs:
        seconds = time.monotonic() - started
        return {**fresh.figures, **loop.step_figures(session, tokens=0, seconds=seconds)}
    trained_from = time.monotonic()
    measure = session.progress.step % loop.MEASURED_EVERY == 0
    batch = forward(session, config.online_dpo, pairs, train=True, measure=measure)
    tokens = sum(sum(map(len, pair.sharing.completions)) for pair in pairs)
    loss = loop.weighted_mean(batch.losses, batch.weights)
    if "updated" not in session.state:
        _check_first_step(session, batch, loss=loss, tokens=tokens)
    updated = loop.update_weights(session, pairs)
    session.state["updated"] = True
    margins = batch.figures["change_chosen"] - batch.figures["change_rejected"]
    judged = [
        Judged(group=p.group, margin=m, q=p.q, tokens_chosen=len(chosen), tokens_rejected=len(rejected))
        for p, m, (chosen, rejected) in zip(
            pairs, margins.tolist(), [p.sharing.completions for p in pairs], strict=True
        )
    ]
    accuracy = accuracy_metrics(judged, part="train")
    now = time.monotonic()
    return {
        "train/loss": loss,
        **{name: accuracy[name] for name in ("train/accuracy",) if name in accuracy},
        **({"train/entropy": float(batch.figures["entropy"].sum()) / max(1, tokens)} if measure else {}),
        "policy/margin": float(margins.mean()),
        "policy/logp_chosen_change": float(batch.figures["change_chosen"].mean()),
        "policy/logp_rejected_change": float(batch.figures["change_rejected"].mean()),
        "policy/falling_share": float((batch.figures["change_chosen"] < 0).double().mean()),
        "rollout/sampler_gap": float(batch.figures["gap"].sum()) / max(1, tokens),
        **fresh.figures,
        **updated,
        "time/train": now - trained_from,
        **loop.step_figures(session, tokens=batch.tokens, seconds=now - started),
    }


def _check_first_step(session: Run[Any], batch: Batch, *, loss: float, tokens: int) -> None:
    """Before the first update π is π_ref, so the loss is ln 2 whatever the labels say, and decoder and training agree.

    Raises:
        AssertionError: the loss is another.
        ModelError: the model reads packed completions differently.
    """
    tolerance = FIRST_LOSS_TOLERANCE[session.config.precision.dtype]
    if abs(loss - math.log(2)) > tolerance:
        raise AssertionError(f"the first loss is {loss:.9f}, it must be ln 2 = {math.log(2):.9f}: π is not π_ref")
    mean = float(batch.figures["gap"].sum()) / max(1, tokens)
    check_gap(session, largest=float(batch.figures["gap_max"].max()), mean=mean)


# --- evaluations ------------------------------------------------------------------------------------------------------


def _close_step(
    session: Run[Any], config: OnlineDpoConfig, *, sampler: Sampler, scorer: Scorer | None, held_out: HeldOut
) -> None:
    """Close the open step, evaluated where that is due: one completion of each held-out prompt, at temperature 1.

    Where none is held out (`held_out`), training prompts are asked, and no checkpoint is the best.
    """
    asked = first_of_groups(held_out.prompts, count=config.eval.prompts)
    if not (asked and session.evaluation_is_due):
        session.close_step({})
        return
    started = time.monotonic()
    session.tell("evaluating")
    groups = sampler(asked, per_prompt=1, stream="evaluation")
    watched, ratios = _evaluate(session, config, groups=groups, scorer=scorer, held_out=held_out)
    # No step measures KL, so that of an evaluation needs no other name.
    own = [name for name in OWN_NAMES if name != "kl"]
    figures = {**held_out_names(watched.figures, own=own), **_both_estimates(ratios)}
    session.close_step(
        {**figures, "time/eval": time.monotonic() - started},
        alarms=watched.alarms,
        figures={**_of_the_steps(session), **watched.figures},
        may_be_best=not held_out.of_training,
    )


def _evaluate(
    session: Run[Any], config: OnlineDpoConfig, *, groups: list[Group], scorer: Scorer | None, held_out: HeldOut
) -> tuple[Watched, list[Tensor]]:
    """Figures and alarms of one completion a prompt, and d_t of its tokens, [T] each; writes `samples.jsonl`."""
    scores: list[float] | None = scorer(groups).tolist() if scorer is not None else None
    others: list[float] | None = held_out.scorer(groups).tolist() if held_out.scorer is not None else None
    columns = policy_columns(session, groups, entropy=True)
    theirs = reference_logprobs(session, groups)
    ratios = [own["logp"] - reference for own, reference in zip(columns, theirs, strict=True)]
    watched = watch(
        session,
        groups,
        entropies=[own["entropy"] for own in columns],
        ratios=ratios,
        scores=scores,
        held_out_scores=others,
        limits=held_out.limits,
        figures=_of_the_steps(session),
    )
    for number, (group, ratio) in enumerate(zip(groups, ratios, strict=True)):
        kl = math.fsum(ratio.tolist())
        line = {**sample_line(session, group, 0), "kl": kl, "reward": config.online_dpo.beta * kl}
        if scores is not None:
            line["score"] = scores[number]
        if others is not None:
            line["held_out_score"] = others[number]
        session.samples.write(line)
    return watched, ratios


def _of_the_steps(session: Run[Any]) -> dict[str, float]:
    """The figures of training itself that alarms read, as new as they are; those of pairs under a held-out name."""
    known = {**session.progress.latest, **(session.progress.pending or {})}
    names = {
        "policy/falling_share": "eval/falling_share",
        "policy/logp_chosen_change": "eval/logp_chosen_change",
        "rollout/sampler_gap": "rollout/sampler_gap",
    }
    return {name: known[own] for own, name in names.items() if own in known}


def _both_estimates(ratios: Sequence[Tensor]) -> dict[str, float]:
    """k1 a token and k3 a completion, beside `rollout/kl`, which has an interval."""
    found = kl_figures(ratios)
    return {name: found[name] for name in ("rollout/kl_k3", "rollout/kl_per_token")}
