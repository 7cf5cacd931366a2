"""Offline preference optimization: a policy from pairs, without a reward model. A logit, a link, and the loop.

A loss is a *logit* u (what the policy says about a pair) under a *link* (how the votes enter; `losses.py`):

    d(y) = log π(y|x) − log π_ref(y|x);   Δ = d(y_w) − d(y_l)
    dpo      u = β Δ                                        Rafailov et al. 2023, eq. 7
    dpo_avg  u = β (d(y_w)/T_w − d(y_l)/T_l)
    simpo    u = β (log π(y_w)/T_w − log π(y_l)/T_l)        Meng, Xia & Chen 2024, eq. 4
    orpo     u = o(y_w) − o(y_l), o the log-odds of the mean log-probability   Hong, Lee & Thorne 2024, eq. 4
    L = Σ_i w_i link(u_i, q_i) / Σ_i w_i  +  α Σ_{q_i > ½} w_i (−log π(y_w)/T_w) / Σ_{q_i > ½} w_i

orpo's own loss is −log π(y_w)/T_w + λ·link; with `nll_on_prompt` its first term is the mean over the tokens of all
prompts and chosen completions of the batch, as in its authors' code. The link ipo takes Δ (or its form per token)
without β.

Likelihood displacement, a chosen completion that becomes less likely while the margin grows, has two remedies here:
the NLL term, and `drop_similar`, which leaves out the pairs that drive it most by the start's own states
(`similarity.py`); which ones is settled once, before step 1, and kept in the checkpoints.

The reference is the model that training starts from; its log-probabilities are computed once, before step 1. simpo and
orpo need none, so nothing is computed or held for them: with an adapter, evaluations still measure KL (the adapter off
is the reference, for nothing); with all weights trained they do so where `dpo.measure_kl` asks for a frozen copy. What
held-out pairs gained since the start is known in any case, from the evaluation of step 0.

B pairs; K = 2B completions of a pack; C scored tokens; N rows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

import torch
from torch import Tensor

from training.engine import loop, losses, ranks, starting
from training.engine.compared import judged_pairs
from training.engine.config import DpoConfig, DpoOptions, Link, Logit
from training.engine.displacement import displacement_metrics
from training.engine.evaluate import Judged, accuracy_metrics, preference_metrics, probability_metrics
from training.engine.logprobs import completion_logprobs, sum_by_completion, target_logprobs, target_statistics
from training.engine.loop import Batch, Run
from training.engine.models import lm_head_weight, load_policy
from training.engine.packing import Pack, hidden_states
from training.engine.pairs import Pair, Part, check_scored_tokens, data_figures, load_part
from training.engine.reference import TOLERANCE, References, open_cache
from training.engine.rollouts import watch_held_out
from training.engine.sections import Dtype
from training.engine.similarity import measure_similarity, most_similar
from training.engine.starting import Opening
from training.engine.supervision import Supervision

FIRST_LOSS_TOLERANCE = 1e-6
"""How far the first loss may be from its exact value in fp32; bf16 rounds a log-probability by up to 2⁻⁸ of it."""
LIKELIHOODS = (Link.NLL, Link.SMOOTHED, Link.ROBUST)
"""Links whose σ(u) is a probability that the votes can be held beside."""
WATCHED = ("pairs", "vote_accuracy_low", "ceiling_upper", "falling_share", "logp_chosen_change", "changed_pairs")
"""Held-out figures that ring alarms: σ(u) follows β as well as the votes, so calibration is not among them."""


def run(config: DpoConfig, out: Path, *, resume: Path | None, supervision: Supervision) -> None:
    """Train, evaluate and write everything to `out`; go on from `resume`, or from `out`'s own newest checkpoint.

    Raises:
        SnapshotError, ModelError, Diverged; StopRun when a stop comes before the first step.
    """
    opening = starting.open_run(config, out, resume=resume, supervision=supervision, kinds=("preferences",))
    training, validation, test = (
        load_part(part, data=config.data, labels=config.dpo.labels, text=opening.text)
        for part in ("train", "validation", "test")
    )
    check_scored_tokens(training.pairs, opening.text)
    left_out = _similar_pairs(config, opening, training.pairs)
    training = Part(pairs=[pair for pair in training.pairs if pair.id not in left_out], dropped=training.dropped)
    model, reference = _load(config, opening, training.pairs)
    held_out = validation.pairs[: config.eval.pairs]
    cache: References | None = None
    if config.dpo.needs_reference:
        batches = [*_first_epoch(config, training.pairs), held_out, test.pairs]
        sharings = [[pair.sharing for pair in batch] for batch in batches]
        cache = open_cache(config, opening, model, reference, sharings)
    session = starting.start_run(
        config,
        opening,
        kind="policy",
        trained={"policy": starting.make_trained(model, config.optim)},
        reference=reference,
        items=training.pairs,
        size=config.batch.pairs,
        facts=data_figures(training),
    )
    if config.dpo.drop_similar:
        session.state["dropped_similar"] = session.details["dropped_similar"] = left_out
        session.facts["data/dropped_similar"] = float(len(left_out))
    starting.check_packing(session, lambda pack: completion_logprobs(session.model, pack))
    starting.check_split(session, lambda pairs: forward(session, config.dpo, pairs, cache=cache, train=False))
    with session.ending():
        train(session, config, cache=cache, held_out=held_out, test=test.pairs)


def train(
    session: Run[Pair], config: DpoConfig, *, cache: References | None, held_out: Sequence[Pair], test: Sequence[Pair]
) -> None:
    """The loop, to the end of the plan or a stop.

    Args:
        cache: log π_ref of all pairs; None for a logit without a reference.
    """
    while not session.is_over:
        if not session.is_open:
            session.open_step(_take_step(session, config.dpo, session.next_batch(), cache=cache))
        elif session.evaluation_is_due:
            figures, alarms = _evaluate(session, config, cache=cache, held_out=held_out, test=test)
            session.close_step(figures, alarms=alarms)
        else:
            session.close_step({})


# --- loss -------------------------------------------------------------------------------------------------------------


def pair_logit(options: DpoOptions, logp: Tensor, reference: Tensor | None, lengths: Tensor) -> Tensor:
    """u of each pair but for β, [B]: Δ of sums for `dpo`, a difference of means or log-odds for the others.

    Args:
        logp: [B, 2] log π of chosen and rejected; `reference`: [B, 2] log π_ref, where the logit has one.
        lengths: [B, 2] their scored tokens; an empty completion counts as one.
    """
    match options.logit:
        case Logit.DPO:
            assert reference is not None
            each = logp - reference
        case Logit.DPO_AVG:
            assert reference is not None
            each = (logp - reference) / lengths.clamp(min=1)
        case Logit.SIMPO:
            each = logp / lengths.clamp(min=1)
        case Logit.ORPO:
            each = losses.log_odds(logp / lengths.clamp(min=1))
        case _:
            assert_never(options.logit)
    return each[:, 0] - each[:, 1]


def scale_of(options: DpoOptions) -> float:
    """What makes u of `pair_logit`: β, or 1 where the loss has none."""
    return 1.0 if options.link is Link.IPO or options.logit is Logit.ORPO else options.beta


def link_loss(options: DpoOptions, delta: Tensor, q: Tensor) -> Tensor:
    """The loss of each pair, [B], given u without its β (Δ for `dpo`) and q."""
    u = scale_of(options) * delta
    match options.link:
        case Link.NLL:
            return losses.preference_nll(u, q)
        case Link.SMOOTHED:
            return losses.smoothed_nll(u, q, epsilon=options.epsilon)
        case Link.ROBUST:
            return losses.robust_nll(u, q, epsilon=options.epsilon)
        case Link.IPO:
            return losses.ipo(u, q, tau=options.tau)
        case Link.HINGE:
            return losses.hinge(u, q)
        case Link.MARGIN:
            return losses.margin_nll(u, q, gamma=options.gamma)
        case _:
            assert_never(options.link)


def first_loss(options: DpoOptions) -> float | None:
    """The link's loss where π = π_ref, the same for every q; None without a reference: it depends on the model."""
    if not options.needs_reference:
        return None
    match options.link:
        case Link.NLL | Link.SMOOTHED | Link.ROBUST:
            return math.log(2)
        case Link.IPO:
            return 1 / (4 * options.tau**2)
        case Link.HINGE:
            return 1.0
        case Link.MARGIN:
            return math.log1p(math.exp(options.gamma))
        case _:
            assert_never(options.link)


def forward(
    session: Run[Any],
    options: DpoOptions,
    pairs: Sequence[Pair],
    *,
    cache: References | None,
    train: bool,
    measure: bool = False,
) -> Batch:
    """Losses [B], and figures [B]: `linked` (the link's loss alone), `logit` (u), `logp_*` (nats) of both sides, with
    a reference `change_*` (log π − log π_ref), with `measure` the `entropy` summed over the scored tokens.
    """
    totals = _totals(options, pairs)

    def terms(pack: Pack, chosen: list[Pair]) -> tuple[Tensor, dict[str, Tensor]]:
        hidden, head = hidden_states(session.model, pack), lm_head_weight(session.model)
        scored, targets = hidden[pack.rows], pack.targets
        if options.nll_on_prompt:
            rows, owner = _prompt_rows(pack, chosen)
            scored, targets = torch.cat([scored, hidden[rows]]), torch.cat([targets, pack.ids[rows + 1]])
        tokens = target_logprobs(scored, head, targets)
        count = len(pack.rows)
        logp = sum_by_completion(tokens[:count], pack).view(-1, 2)  # [B, 2]
        q = torch.tensor([pair.q for pair in chosen], device=logp.device, dtype=logp.dtype)
        reference = None
        if cache is not None:
            reference = cache.lookup([pair.sharing for pair in chosen]).to(logp.device, logp.dtype).view(-1, 2)
        lengths = pack.lengths.view(-1, 2)  # [B, 2]
        delta = pair_logit(options, logp, reference, lengths)
        loss = linked = link_loss(options, delta, q)
        if options.nll_on_prompt:
            prompts = logp.new_zeros(len(chosen)).index_add(0, owner, tokens[count:].to(logp.dtype))
            loss = options.odds_weight * linked - (prompts + _better(logp, q)) * (totals.weight / totals.tokens)
        elif options.logit is Logit.ORPO:
            loss = options.odds_weight * linked - _better(logp / lengths.clamp(min=1), q)
        elif options.nll_weight and totals.decided:
            nll = -logp[:, 0] / lengths[:, 0].clamp(min=1) * (q > 0.5)
            loss = linked + options.nll_weight * nll * (totals.weight / totals.decided)
        figures = {"linked": linked, "logit": scale_of(options) * delta}
        figures |= {"logp_chosen": logp[:, 0], "logp_rejected": logp[:, 1]}
        if reference is not None:
            figures |= {"change_chosen": (logp - reference)[:, 0], "change_rejected": (logp - reference)[:, 1]}
        if measure:
            entropy = target_statistics(scored[:count].detach(), head.detach(), pack.targets).entropy
            figures["entropy"] = sum_by_completion(entropy, pack).view(-1, 2).sum(dim=1)
        return loss, figures

    return loop.forward_batch(session, pairs, terms, train=train)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Totals:
    """Of the whole optimizer batch. Its mean divides by `weight`; terms that are means over something else, by more."""

    weight: float
    decided: float
    """Weight of the pairs that the added NLL is a mean over."""
    tokens: float
    """Weighted tokens that ORPO's first term is a mean over with `nll_on_prompt`."""


def _totals(options: DpoOptions, pairs: Sequence[Pair]) -> _Totals:
    tokens = 0.0
    if options.nll_on_prompt:
        # Nothing predicts a prompt's first token.
        tokens = sum(p.weight * (len(p.sharing.prompt) - 1 + p.lengths[0 if p.q >= 0.5 else 1]) for p in pairs)
    return _Totals(
        weight=sum(pair.weight for pair in pairs),
        decided=sum(pair.weight for pair in pairs if pair.q > 0.5),
        tokens=max(tokens, 1.0),
    )


def _better(values: Tensor, q: Tensor) -> Tensor:
    """Of [B, 2], the value of the side that the votes prefer, [B]; of a tie, that of the side stored as chosen."""
    return torch.where(q < 0.5, values[:, 1], values[:, 0])


def _prompt_rows(pack: Pack, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """The rows that predict the prompts' tokens, each one before its token, and the pair of each."""
    counts = [len(pair.sharing.prompt) - 1 for pair in pairs]
    starts = [start for start, _ in pack.layout.trunks]
    rows = [torch.arange(start, start + count) for start, count in zip(starts, counts, strict=True)]
    owner = torch.arange(len(pairs)).repeat_interleave(torch.tensor(counts))
    return torch.cat(rows).to(pack.ids.device), owner.to(pack.ids.device)


# --- steps and evaluations --------------------------------------------------------------------------------------------


def _take_step(
    session: Run[Pair], options: DpoOptions, pairs: Sequence[Pair], *, cache: References | None
) -> dict[str, float]:
    started = time.monotonic()
    measure = session.progress.step % loop.MEASURED_EVERY == 0
    batch = forward(session, options, pairs, cache=cache, train=True, measure=measure)
    if session.progress.step == 0:
        _check_first_loss(session, options, batch)
    updated = loop.update_weights(session, pairs)
    accuracy = accuracy_metrics(_judge(batch, pairs), part="train")
    figures = {"train/loss": loop.weighted_mean(batch.losses, batch.weights), "policy/margin": mean_margin(batch)}
    if "train/accuracy" in accuracy:
        figures["train/accuracy"] = accuracy["train/accuracy"]
    if measure:
        figures["train/entropy"] = float(batch.figures["entropy"].sum()) / max(1, sum(sum(p.lengths) for p in pairs))
    if "change_chosen" in batch.figures:
        chosen, rejected = batch.figures["change_chosen"], batch.figures["change_rejected"]
        figures["policy/logp_chosen_change"] = float(chosen.mean())
        figures["policy/logp_rejected_change"] = float(rejected.mean())
        figures["policy/falling_share"] = float((chosen < 0).double().mean())
    return {
        **figures,
        **updated,
        **loop.step_figures(session, tokens=batch.tokens, seconds=time.monotonic() - started),
    }


def mean_margin(batch: Batch) -> float:
    """Mean Δ, nats; mean u where the logit has no reference."""
    if "change_chosen" in batch.figures:
        return float((batch.figures["change_chosen"] - batch.figures["change_rejected"]).mean())
    return float(batch.figures["logit"].mean())


def _check_first_loss(session: Run[Pair], options: DpoOptions, batch: Batch) -> None:
    """Before step 1 policy and reference are equal, so the loss is known exactly; anything else is a bug.

    Values of the cache that were computed in other packs differ by rounding; the loss may be off by what that makes.
    """
    expected = first_loss(options)
    if expected is None:
        return
    dtype = session.config.precision.dtype
    found = loop.weighted_mean(batch.figures["linked"], batch.weights)
    off = max(float(batch.figures[f"change_{side}"].abs().max()) for side in ("chosen", "rejected"))
    moved = torch.tensor([2 * off, -2 * off, 2 * off, -2 * off], dtype=torch.float64)
    reach = float((link_loss(options, moved, torch.tensor([0.0, 0.0, 1.0, 1.0])) - expected).abs().max())
    tolerance = FIRST_LOSS_TOLERANCE if dtype is Dtype.FP32 else 1e-2
    if off > TOLERANCE[dtype.value] or abs(found - expected) > tolerance * max(expected, 1.0) + reach:
        raise AssertionError(
            f"the first loss is {found:.9f}, it must be {expected:.9f}: π is not π_ref, "
            f"some log-probability is {off:.2e} nats off"
        )


def _judge(batch: Batch, pairs: Sequence[Pair]) -> list[Judged]:
    return judged_pairs(pairs, [(u, 0.0) for u in batch.figures["logit"].tolist()])


def _evaluate(
    session: Run[Pair], config: DpoConfig, *, cache: References | None, held_out: Sequence[Pair], test: Sequence[Pair]
) -> tuple[dict[str, float], list[str]]:
    """`eval/*`, at the end `test/*` too, and sampled completions; and the alarms that they ring."""
    started = time.monotonic()
    session.tell("evaluating")
    values: dict[str, float] = {}
    start: dict[str, list[float]] = session.state.get("start", {})
    for part, pairs in [("eval", held_out)] + ([("test", test)] if session.is_last else []):
        if not pairs:
            continue
        batch = forward(session, config.dpo, pairs, cache=cache, train=False)
        if part == "eval" and cache is None and session.progress.step == 0:
            start = {pair.id: logps for pair, logps in _both_sides(batch, pairs, kind="logp")}
        values |= _held_out_figures(config.dpo, batch, pairs, start=start, part=part)
    watched = {f"eval/{name}": values[f"eval/{name}"] for name in WATCHED if f"eval/{name}" in values}
    sampled, alarms = watch_held_out(
        session, held_out or session.items, config.eval, reward_per_nat=config.dpo.beta, figures=watched
    )
    if start:
        session.state["start"] = start
    return {**values, **sampled, "time/eval": time.monotonic() - started}, alarms


def _held_out_figures(
    options: DpoOptions, batch: Batch, pairs: Sequence[Pair], *, start: Mapping[str, Sequence[float]], part: str
) -> dict[str, float]:
    judged = _judge(batch, pairs)
    found = {
        f"{part}/loss": loop.weighted_mean(batch.losses, batch.weights),
        f"{part}/margin": mean_margin(batch),
        **preference_metrics(judged, part=part),
    }
    if options.link in LIKELIHOODS:
        found |= probability_metrics(judged, part=part)
    kind = "change" if "change_chosen" in batch.figures else "logp"
    before = {pair.id: [0.0, 0.0] for pair in pairs} if kind == "change" else start
    known = [(pair, now, before[pair.id]) for pair, now in _both_sides(batch, pairs, kind=kind) if pair.id in before]
    if known:
        chosen, rejected = ([now[side] - then[side] for _, now, then in known] for side in (0, 1))
        found |= displacement_metrics(chosen, rejected, [pair.group for pair, _, _ in known], part=part)
    return found


def _both_sides(batch: Batch, pairs: Sequence[Pair], *, kind: str) -> list[tuple[Pair, list[float]]]:
    """Each pair with `logp` or `change` of its chosen and rejected side."""
    both = torch.stack([batch.figures[f"{kind}_chosen"], batch.figures[f"{kind}_rejected"]], dim=1)
    return list(zip(pairs, both.tolist(), strict=True))


# --- opening ----------------------------------------------------------------------------------------------------------


def _similar_pairs(config: DpoConfig, opening: Opening, pairs: list[Pair]) -> list[str]:
    """Ids of the pairs that `drop_similar` leaves out, the most similar first. A resumed run keeps to what it chose."""
    if not config.dpo.drop_similar:
        return []
    if opening.saved is not None:
        chosen: list[str] = opening.saved.state["method"]["dropped_similar"]
        return chosen
    start = load_policy(opening.base, device=opening.device.type)
    starting.choose_layout(start, pairs, config=config, device=opening.device)

    def between() -> None:
        if ranks.world() == 1:  # one of several ranks would leave the others waiting for its part
            opening.supervision.raise_if_overdue(grace_seconds=config.stop.grace_seconds)
        opening.status.update("similarity")

    found = measure_similarity(
        start, pairs, device=opening.device, micro_tokens=config.memory.micro_tokens, between=between
    )
    return [pair.id for pair in most_similar(found, share=config.dpo.drop_similar)]


def _load(config: DpoConfig, opening: Opening, pairs: Sequence[Pair]) -> tuple[Any, Any | None]:
    """The policy and its frozen reference, which only a loss or a KL that needs it brings into memory."""
    if config.adapter is not None or config.dpo.needs_reference or config.dpo.measure_kl:
        return starting.load_policies(opening, config, pairs)
    return starting.load_policy_alone(opening, config, pairs), None


def _first_epoch(config: DpoConfig, pairs: list[Pair]) -> list[list[Pair]]:
    """The batches of the first epoch: together all pairs that the run will see."""
    plan = loop.plan_batches(
        len(pairs), size=config.batch.pairs, epochs=1, seed=config.seed, max_steps=config.stop.max_steps
    )
    return [[pairs[index] for index in batch] for batch in plan]
