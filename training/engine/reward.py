"""Reward models: s(x, y) = w·h at the last completion token, trained so that σ(s_a − s_b) is the share of the votes.

    L = Σ_i w_i ℓ_i / Σ_i w_i,    ℓ_i = 1/P_i Σ_{pairs (a, b) of i} [ℓ(Δs − m, q) + c (s_a + s_b)²],   Δs = s_a − s_b

ℓ is `preference_nll`; a preference is one pair, a ranking of K completions all pairs of which an order is known (tied
ones have q = ½), and one prompt weighs 1 however many those are. With `link: plackett_luce` the order of a ranking is
drawn place by place instead (on a single pair that is Bradley–Terry itself). With `ties: rao_kupper` a tie is an
outcome: P(a) = σ(Δs − η), P(b) = σ(−Δs − η), and η > 0, the tie width, is learned. Its votes are q and the line's
`meta.p_tie`; without the latter a pair is a tie where q = ½, and none elsewhere. m is the line's margin (hard labels).

The head has no bias and starts at N(0, 1/(D+1)); scores are log-odds. Whatever c, a checkpoint whose weights were
evaluated stores the mean and spread of its held-out scores (every user of the model subtracts the mean), the 99th
percentile of the latest training scores, what it pays for a token of length, and the temperature τ for which σ(Δs/τ)
is likeliest on held-out pairs. Members of an ensemble are runs of their own, with another seed or `data.half`.

B items of an optimizer step, pairs or rankings; P pairs and K completions of a pack; N its rows; D hidden size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.nn.utils.rnn import pad_sequence

from training.engine import loop, losses, starting
from training.engine.calibration import fit_temperature
from training.engine.checkpoint import load_head
from training.engine.compared import (
    Compared,
    Example,
    compare,
    judged_pairs,
    left_out,
    named,
    pairs_of,
    sample_lines,
)
from training.engine.config import RankingLink, RewardConfig, RewardOptions, Ties
from training.engine.diagnostics import reward_alarms
from training.engine.errors import ConfigError, SnapshotError
from training.engine.evaluate import (
    Judged,
    accuracy_metrics,
    correlation,
    mean_and_spread,
    percentile,
    preference_metrics,
    probability_metrics,
    slice_metrics,
)
from training.engine.examples import Ranked, load_rankings
from training.engine.loop import Batch, Run
from training.engine.models import load_reward_model, score_head
from training.engine.packing import Pack
from training.engine.pairs import Pair, check_scored_tokens, load_part
from training.engine.scoring import scores
from training.engine.starting import Opening
from training.engine.supervision import Supervision

TIE_RATE = 0.01
"""Learning rate of softplus⁻¹(η): an AdamW step of the trunk's rate would never move it."""
LIKELY_TIES = (0.01, 0.9)
"""Shares of ties between which η starts."""
RECENT_SCORES = 2048
"""Training scores of which the 99th percentile is stored: twenty lie above it."""


def run(config: RewardConfig, out: Path, *, resume: Path | None, supervision: Supervision) -> None:
    """Train, evaluate and write everything to `out`; go on from `resume`, or from `out`'s own newest checkpoint.

    Raises:
        ConfigError, SnapshotError, ModelError, Diverged.
    """
    opening = starting.open_run(config, out, resume=resume, supervision=supervision, kinds=("preferences", "rankings"))
    training, validation, test = (_load_examples(part, config, opening) for part in ("train", "validation", "test"))
    check_scored_tokens(training.examples, opening.text)
    _check_options(config.reward, opening, training.examples)
    model = _load(config, opening, training.examples)
    extra = {}
    if config.reward.ties is Ties.RAO_KUPPER:
        extra["tie_width"] = first_tie_width(config, training.examples, device=opening.device)
    session = starting.start_run(
        config,
        opening,
        kind="reward",
        trained={"reward": starting.make_trained(model, config.optim, extra=extra)},
        items=training.examples,
        size=config.batch.pairs,
        facts=_data_figures(training),
    )
    starting.check_packing(session, lambda pack: scores(session.model, pack))
    starting.check_split(session, lambda items: forward(session, config.reward, items, train=False))
    with session.ending():
        train(session, config, held_out=validation.examples[: config.eval.pairs], test=test.examples)


def train(session: Run[Example], config: RewardConfig, *, held_out: Sequence[Example], test: Sequence[Example]) -> None:
    """The loop, to the end of the plan or a stop."""
    _tell_tie_width(session)
    while not session.is_over:
        if not session.is_open:
            session.open_step(_take_step(session, config.reward, session.next_batch()))
        elif session.evaluation_is_due:
            figures = _evaluate(session, config, held_out=held_out, test=test)
            # A head that has learned nothing would ring everything, and pause a run that asks for it.
            trained = session.progress.step > 0
            session.close_step(figures, alarms=reward_alarms(figures, part="eval") if trained else [])
        else:
            session.close_step({})


# --- loss -------------------------------------------------------------------------------------------------------------


def pair_losses(found: Tensor, pairs: Compared, *, tie_width: Tensor | None) -> Tensor:
    """ℓ of each pair, [P], without centring. Args: found: [K] scores; tie_width: η, for `ties: rao_kupper`."""
    delta = found[pairs.first] - found[pairs.second]
    if tie_width is None:
        return losses.preference_nll(delta - pairs.margin, pairs.q)
    win, lose = pairs.q - pairs.tie / 2, 1 - pairs.q - pairs.tie / 2
    return losses.rao_kupper(delta, eta=tie_width, win=win, tie=pairs.tie, lose=lose)


def item_losses(
    options: RewardOptions, found: Tensor, items: Sequence[Example], *, tie_width: Tensor | None = None
) -> Tensor:
    """ℓ_i of each item, [B], given the scores [K] of all their completions in order."""
    pairs = compare(items, margins=options.margin, dtype=found.dtype, device=found.device)
    each = torch.zeros_like(pairs.share)
    ranked = options.link is RankingLink.PLACKETT_LUCE and any(isinstance(item, Ranked) for item in items)
    if not ranked:
        each = pair_losses(found, pairs, tie_width=tie_width)
    if options.centring:
        each = each + options.centring * losses.centring(found[pairs.first], found[pairs.second])
    loss = found.new_zeros(len(items)).index_add(0, pairs.item, each * pairs.share)
    if ranked:
        parts = torch.split(found, [len(item.sharing.completions) for item in items])
        loss = loss + torch.stack([_plackett_luce(part, item) for part, item in zip(parts, items, strict=True)])
    return loss


def _plackett_luce(found: Tensor, item: Example) -> Tensor:
    assert isinstance(item, Ranked)
    known, rest = named(item), left_out(item)
    return losses.plackett_luce(found, known + rest, top=len(known) if rest else None)


def forward(session: Run[Any], options: RewardOptions, items: Sequence[Example], *, train: bool) -> Batch:
    """Losses [B], and figures [B]: `score_0`, `score_1` … of each item's completions, 0 where it has fewer."""
    widest = max(len(item.sharing.completions) for item in items)

    def terms(pack: Pack, chosen: list[Example]) -> tuple[Tensor, dict[str, Tensor]]:
        found = scores(session.model, pack)  # [K]
        loss = item_losses(options, found, chosen, tie_width=tie_width(session))
        parts = torch.split(found.detach(), [len(item.sharing.completions) for item in chosen])
        columns = pad_sequence(list(parts)).double()  # [most of this pack, B]
        empty = columns.new_zeros(len(chosen))
        return loss, {f"score_{n}": columns[n] if n < len(columns) else empty for n in range(widest)}

    return loop.forward_batch(session, items, terms, train=train)


# --- ties -------------------------------------------------------------------------------------------------------------


def first_tie_width(config: RewardConfig, items: Sequence[Example], *, device: torch.device) -> nn.Parameter:
    """What η is learned through, where completions of equal scores tie as often as the pairs do: η = 2 atanh(share)."""
    pairs = compare(items, margins=False, dtype=torch.float64, device=torch.device("cpu"))
    share = float(pairs.tie.mean().clamp(*LIKELY_TIES))
    return nn.Parameter(torch.tensor(math.log(math.expm1(2 * math.atanh(share))) / _tie_scale(config), device=device))


def tie_width(session: Run[Any]) -> Tensor | None:
    """η of the present weights, a scalar; None where ties are not modelled.

    η = softplus(scale · ρ). The gradient of ρ is taken as that of scale · ρ, so its part in the gradient norm is that
    of any weight while AdamW, which knows no scale, moves scale · ρ by `TIE_RATE`.
    """
    raw = next(iter(session.trained.values())).extra.get("tie_width")
    if raw is None:
        return None
    assert isinstance(session.config, RewardConfig)
    return softplus(raw.detach() * _tie_scale(session.config) + (raw - raw.detach()))


def _tie_scale(config: RewardConfig) -> float:
    return TIE_RATE / config.optim.learning_rate


def _tell_tie_width(session: Run[Any]) -> dict[str, float]:
    """η for `winnow.json` of the next checkpoint, and as a metric."""
    width = tie_width(session)
    if width is None:
        return {}
    session.card["tie_width"] = float(width.detach())
    return {"train/tie_width": float(width.detach())}


def _expected(margin: float, eta: float | None) -> float:
    """The log-odds of P(a) + ½ P(tie) at a margin Δs: what q is held beside where ties are modelled."""
    if eta is None:
        return margin
    wins, loses = (1 / (1 + math.exp(min(eta - side, 700.0))) for side in (margin, -margin))
    return math.log1p(wins - loses) - math.log1p(loses - wins) if abs(wins - loses) < 1 else margin


# --- steps and evaluations --------------------------------------------------------------------------------------------


def _take_step(session: Run[Example], options: RewardOptions, items: Sequence[Example]) -> dict[str, float]:
    started = time.monotonic()
    batch = forward(session, options, items, train=True)
    updated = loop.update_weights(session, items)
    judged, found = _judge(batch, items), _all_scores(batch, items)
    _remember(session, found)
    mean, spread = mean_and_spread(found)
    accuracy = accuracy_metrics(judged, part="train")
    return {
        "train/loss": loop.weighted_mean(batch.losses, batch.weights),
        **({"train/accuracy": accuracy["train/accuracy"]} if "train/accuracy" in accuracy else {}),
        "train/margin": sum(pair.margin for pair in judged) / len(judged),
        "train/score_mean": mean,
        "train/score_std": spread,
        **updated,
        **_tell_tie_width(session),
        **loop.step_figures(session, tokens=batch.tokens, seconds=time.monotonic() - started),
    }


def _remember(session: Run[Example], found: Sequence[float]) -> None:
    """Keep the latest training scores: those of weights long gone would say little about the present ones."""
    former = session.tensors.get("recent_scores", torch.zeros(0, dtype=torch.float64))
    session.tensors["recent_scores"] = torch.cat([former, torch.tensor(found, dtype=torch.float64)])[-RECENT_SCORES:]


def _evaluate(
    session: Run[Example], config: RewardConfig, *, held_out: Sequence[Example], test: Sequence[Example]
) -> dict[str, float]:
    """`eval/*` on the held-out items; at the end `test/*` too; and what `winnow.json` says about the scores."""
    started = time.monotonic()
    session.tell("evaluating")
    values: dict[str, float] = {}
    parts = [("eval", held_out)] + ([("test", test)] if session.is_last else [])
    batches: dict[str, Batch] = {}
    for part, items in parts:
        if items:
            batch = batches[part] = forward(session, config.reward, items, train=False)
            values |= _held_out_metrics(batch, items, tie_width=tie_width(session), part=part)
    shown_items = held_out or session.items[: config.eval.pairs]
    shown = batches["eval"] if held_out else forward(session, config.reward, shown_items, train=False)
    _describe_scores(session, _all_scores(shown, shown_items), values)
    _write_samples(session, shown_items, shown, count=config.eval.prompts)
    return {**values, "time/eval": time.monotonic() - started}


def _describe_scores(session: Run[Example], found: Sequence[float], values: dict[str, float]) -> None:
    """`reward` of the next `winnow.json`; what is measured on held-out pairs only where there are some."""
    mean, spread = mean_and_spread(found)
    facts = {"mean": mean, "std": spread, "count": float(len(found)), "step": float(session.progress.step)}
    for name in ("temperature", "length_slope"):
        if f"eval/{name}" in values:
            facts[name] = values[f"eval/{name}"]
    recent = session.tensors.get("recent_scores")
    if recent is not None:
        facts["p99"] = percentile(recent.tolist(), 0.99)
    session.progress.scores = facts


def _held_out_metrics(
    batch: Batch, items: Sequence[Example], *, tie_width: Tensor | None, part: str
) -> dict[str, float]:
    judged = _judge(batch, items)
    found = {
        f"{part}/loss": loop.weighted_mean(batch.losses, batch.weights),
        f"{part}/margin": sum(pair.margin for pair in judged) / len(judged),
        f"{part}/length_correlation": correlation(_all_scores(batch, items), _all_lengths(items)),
        **preference_metrics(judged, part=part),
        **probability_metrics(judged, part=part),
    }
    if tie_width is None:
        return found
    # With ties σ(Δs) is not the model's probability, and q is the share of wins and half the ties.
    expected = _judge(batch, items, eta=float(tie_width.detach()))
    found |= {**slice_metrics(expected, part=part), **probability_metrics(expected, part=part)}
    # Users of the scores know nothing of η: for them it is σ(Δs/τ) again.
    temperature = fit_temperature([pair.margin for pair in judged], [pair.q for pair in judged])
    return {**found, f"{part}/temperature": temperature}


def _judge(batch: Batch, items: Sequence[Example], *, eta: float | None = None) -> list[Judged]:
    """Every pair of every item, with its margin Δs, or what that comes to under the tie width η."""
    return judged_pairs(items, _scores_by_item(batch, items), log_odds=lambda margin: _expected(margin, eta))


def _scores_by_item(batch: Batch, items: Sequence[Example]) -> list[list[float]]:
    rows = torch.stack([value for name, value in batch.figures.items() if name.startswith("score_")], dim=1).tolist()
    return [row[: len(item.sharing.completions)] for row, item in zip(rows, items, strict=True)]


def _all_scores(batch: Batch, items: Sequence[Example]) -> list[float]:
    """Scores of all completions, item by item."""
    return [score for found in _scores_by_item(batch, items) for score in found]


def _all_lengths(items: Sequence[Example]) -> list[float]:
    return [float(length) for item in items for length in item.lengths]


def _write_samples(session: Run[Example], items: Sequence[Example], batch: Batch, *, count: int) -> None:
    """The first items of a batch with their scores."""
    for item, found in list(zip(items, _scores_by_item(batch, items), strict=True))[:count]:
        for line in sample_lines(item, found, step=session.progress.step):
            session.samples.write(line)


# --- opening ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    examples: Sequence[Example]
    dropped: int


def _load_examples(part: str, config: RewardConfig, opening: Opening) -> _Part:
    if opening.manifest.kind == "rankings":
        ranked = load_rankings(part, data=config.data, text=opening.text)
        return _Part(examples=ranked.examples, dropped=ranked.dropped)
    pairs = load_part(part, data=config.data, labels=config.reward.labels, text=opening.text)
    return _Part(examples=pairs.pairs, dropped=pairs.dropped)


def _check_options(options: RewardOptions, opening: Opening, items: Sequence[Example]) -> None:
    """Options that this snapshot has no use for are refused, not ignored.

    Raises:
        ConfigError: a margin with rankings. SnapshotError: no line has a margin; a tied ranking under Plackett–Luce.
    """
    rankings = opening.manifest.kind == "rankings"
    if options.margin and rankings:
        raise ConfigError(
            key="reward.margin", value=True, message="reward.margin must be false with rankings: they have none"
        )
    if options.margin and not any(item.margin is not None for item in items if isinstance(item, Pair)):
        raise SnapshotError("no line has a margin, which reward.margin asks for", file="train.jsonl")
    if options.link is RankingLink.PLACKETT_LUCE:
        for item in items:
            if isinstance(item, Ranked) and any(len(tied) > 1 for tied in item.ranking):
                raise SnapshotError(
                    f"{item.id} has tied places, which reward.link plackett_luce does not know", file="train.jsonl"
                )


def _data_figures(part: _Part) -> dict[str, float]:
    qs = [q for item in part.examples for _, _, q in pairs_of(item)]
    rankings = sum(isinstance(item, Ranked) for item in part.examples)
    return {
        "data/pairs": float(len(qs)),
        "data/ties": float(sum(q == 0.5 for q in qs)),
        "data/dropped_too_long": float(part.dropped),
        **({"data/rankings": float(rankings)} if rankings else {}),
    }


def _load(config: RewardConfig, opening: Opening, items: Sequence[Example]) -> Any:
    """The trunk with its head: from the base, or from the checkpoint that the run goes on from."""
    saved = opening.saved
    whole = saved is not None and config.adapter is None
    place = saved.path / "model" if saved is not None and whole else opening.base
    model = load_reward_model(place, seed=config.seed, device=opening.device.type)
    starting.choose_layout(model, items, config=config, device=opening.device)
    model = starting.make_trainable(model, config, saved)
    score_head(model).weight.requires_grad_(True)
    if saved is not None and not whole:
        load_head(model, saved.path)
    return model
