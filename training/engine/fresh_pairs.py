"""Pairs that the policy has just written, and their labels: by a reward model, a judge, or people who are waited for.

Knows no loss; what the labels are for is in `online.py`.

B pairs of a step; K = 2B completions of a pack.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, assert_never

import torch
from torch import Tensor

from training.engine import judging, loop, ranks
from training.engine.advantages import replace_missing_end
from training.engine.config import JudgeConfig, Labeller, OnlineDpoConfig, OnlineLabel, OnlineOptions
from training.engine.drawing import uniforms
from training.engine.logprobs import completion_logprobs
from training.engine.loop import Run
from training.engine.packing import Pack, Sharing
from training.engine.rollouts import Group, Sampler, Scorer, as_reference, length_figures
from training.engine.supervision import StopRun

ANSWERS = "judge.jsonl"
WAITING_PAIRS = "pairs.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What a judge says of groups of two.

    Attributes:
        labels: q of each, the share of the answers in which the first completion wins; None: unreadable.
        figures: `online/judge_*`, how the judge answered.
    """

    labels: list[float | None]
    figures: dict[str, float] = field(default_factory=dict)


Judge = Callable[[Sequence[Group]], Judgement]


@dataclass(frozen=True, kw_only=True, slots=True)
class FreshPair:
    """A labelled pair, an item of the loop. As in a snapshot the side with q ≥ ½ comes first."""

    id: str
    group: str
    sharing: Sharing
    q: float
    weight: float
    decoded: tuple[float, ...]
    """The decoder's log π of the tokens of both."""
    reference: tuple[float, float] | None = None
    """log π_ref of both, nats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fresh:
    """What one iteration has sampled: the pairs that have a label, and figures of all of it."""

    pairs: list[FreshPair]
    figures: dict[str, float] = field(default_factory=dict)


def gather(
    session: Run[Any], config: OnlineDpoConfig, *, sampler: Sampler, scorer: Scorer | None, judge: Judge | None
) -> Fresh:
    """Sample, score, label, and hold the pairs beside the reference."""
    at = time.monotonic()
    groups = _sample(session, config, sampler=sampler)
    figures = {**length_figures(groups), "time/sample": time.monotonic() - at}
    at = time.monotonic()
    session.tell("scoring")
    raw = scorer(groups) if scorer is not None else None
    if raw is not None:
        figures["rollout/score"] = float(raw.mean())
    tells = [says_something(group) for group in groups]
    figures["online/skipped_share"] = tells.count(False) / len(tells)
    asked = [group for group, told in zip(groups, tells, strict=True) if told]
    if config.online_dpo.labeller is Labeller.JUDGE:
        assert judge is not None, "a judge labels, and none was given"
        judgement = judge(asked)
        said = judgement.labels
        figures |= judgement.figures
        if asked:
            figures["online/unreadable_share"] = said.count(None) / len(asked)
    else:
        assert raw is not None, "a reward model labels, and none was given"
        finished = torch.tensor([c.finish == "end" for group in groups for c in group.completions])
        scores = replace_missing_end(raw, finished, missing_end_score=config.online_dpo.missing_end_score)
        said = list(win_probabilities(scores.view(-1, 2)[torch.tensor(tells)], config.online_dpo))
    labelled = [(group, q) for group, q in zip(asked, said, strict=True) if q is not None]
    if labelled:
        figures["online/label_entropy"] = sum(_entropy(q) for _, q in labelled) / len(labelled)
    if config.online_dpo.label is OnlineLabel.COIN:
        labelled = toss(labelled, seed=config.seed, iteration=session.iteration)
    figures["time/score"] = time.monotonic() - at
    at = time.monotonic()
    pairs = _beside_reference(session, [make_pair(group, q) for group, q in labelled])
    return Fresh(pairs=pairs, figures={**figures, "time/logprobs": time.monotonic() - at})


def _sample(session: Run[Any], config: OnlineDpoConfig, *, sampler: Sampler) -> list[Group]:
    return sampler(
        session.next_batch(),
        per_prompt=config.batch.per_prompt,
        stream=f"iteration {session.iteration}",
        temperature=config.online_dpo.temperature,
    )


def says_something(group: Group) -> bool:
    """Whether a label of the two completions can teach anything: texts differ, and at least one has ended."""
    a, b = group.completions
    return a.text != b.text and "end" in (a.finish, b.finish)


def win_probabilities(scores: Tensor, options: OnlineOptions) -> list[float]:
    """q of each pair: P(the first one wins) before any coin is tossed, [B].

    Args:
        scores: [B, 2] nats, the end-token rule applied.
    """
    gaps = scores.double()[:, 0] - scores.double()[:, 1]
    match options.label:
        case OnlineLabel.SOFT | OnlineLabel.COIN:
            found = torch.sigmoid(gaps / options.tau)
        case OnlineLabel.ARGMAX:
            found = (gaps.sign() + 1) / 2
        case _:
            assert_never(options.label)
    values: list[float] = found.tolist()
    return values


def toss(labelled: Sequence[tuple[Group, float]], *, seed: int, iteration: int) -> list[tuple[Group, float]]:
    """Labels 1 and 0 by a coin of each prompt; a prompt that an iteration has twice gets a second toss."""
    seen: Counter[str] = Counter()
    tossed = []
    for group, q in labelled:
        stream, toss = f"label of iteration {iteration}", seen[group.id]
        (uniform,) = uniforms(seed=seed, stream=stream, prompt_id=group.id, index=toss, count=1)
        seen[group.id] += 1
        tossed.append((group, float(uniform < q)))
    return tossed


def _entropy(q: float) -> float:
    """Of a yes that has probability q, nats."""
    return -sum(p * math.log(p) for p in (q, 1 - q) if p > 0)


def make_pair(group: Group, q: float) -> FreshPair:
    sides = group.completions if q >= 0.5 else group.completions[::-1]
    return FreshPair(
        id=group.id,
        group=group.group,
        sharing=Sharing(prompt=group.sharing.prompt, completions=tuple(side.token_ids for side in sides)),
        q=max(q, 1 - q),
        weight=group.weight,
        decoded=tuple(logprob for side in sides for logprob in side.token_logprobs),
    )


def _beside_reference(session: Run[Any], pairs: Sequence[FreshPair]) -> list[FreshPair]:
    """The pairs with log π_ref of both sides, in the packs of the step that follows."""

    def values_of(pack: Pack) -> Tensor:
        with as_reference(session.model, session.reference) as reference:
            return completion_logprobs(reference, pack)

    found = loop.infer(session, pairs, values_of, per="completion") if pairs else []
    return [replace(pair, reference=(float(both[0]), float(both[1]))) for pair, both in zip(pairs, found, strict=True)]


def ask_people(session: Run[Any], config: OnlineDpoConfig, *, sampler: Sampler) -> None:
    """Write the pairs of this iteration for people, and end. A repeat writes the same bytes."""
    groups = _sample(session, config, sampler=sampler)
    asked = [group for group in groups if says_something(group)]
    seen: Counter[str] = Counter()
    rows = []
    for group in asked:
        record = {
            "id": f"{group.id}:{session.iteration}-{seen[group.id]}",
            "group": group.group,
            "prompt": list(group.prompt),
            "completions": [completion.text for completion in group.completions],
            "finishes": [completion.finish for completion in group.completions],
            "meta": {"prompt_id": group.id, "iteration": session.iteration},
        }
        seen[group.id] += 1
        rows.append(json.dumps(record, ensure_ascii=False) + "\n")
    if ranks.is_main():
        aside = session.out / f".{WAITING_PAIRS}.partial"
        aside.write_text("".join(rows), encoding="utf-8")
        aside.replace(session.out / WAITING_PAIRS)
    session.progress.latest["online/skipped_share"] = 1 - len(asked) / len(groups)
    session.end("waiting_for_labels", reason=f"{len(asked)} pairs in {WAITING_PAIRS} wait for votes")


# --- a judge ----------------------------------------------------------------------------------------------------------


def own_judge(session: Run[Any], config: JudgeConfig) -> Judge:
    """The judge behind a server, with its answers in the run directory; the first rank asks for all."""

    def is_overdue() -> bool:
        try:
            session.check_stop()
        except StopRun:
            return True
        session.tell("judging")
        return False

    def label(groups: Sequence[Group]) -> Judgement:
        pairs = [
            (str(number), group.prompt, group.completions[0].text, group.completions[1].text)
            for number, group in enumerate(groups)
        ]
        found: dict[int, float | None] = {}
        figures: dict[int, dict[str, float]] = {}
        if ranks.is_main():
            store = session.out / ANSWERS
            said = judging.judge_pairs(pairs, judge=config, store=store, stopped=is_overdue)
            if len(said) < len(pairs):
                raise StopRun
            found = {int(name): q for name, q in said.items()}
            figures = {0: _figures_of(judging.judge_figures(pairs, judge=config, store=store))}
        found, figures = ranks.gather_dict(found), ranks.gather_dict(figures)
        return Judgement(labels=[found[number] for number in range(len(groups))], figures=figures[0])

    return label


def _figures_of(found: judging.JudgeFigures) -> dict[str, float]:
    """As metrics; nothing of a judge whose every answer is unreadable."""
    named = {"online/judge_agreement": found.orders_agree, "online/judge_first_place": found.first_place}
    return {name: value for name, value in named.items() if value is not None}


def bring_answers(out: Path, resume: Path | None) -> None:
    """What a judge has said to a former attempt in another directory."""
    target = out / ANSWERS
    if resume is None or target.exists() or not ranks.is_main():
        return
    former = resume.parent.parent / ANSWERS
    if former.is_file():
        aside = out / f".{ANSWERS}.partial"
        shutil.copyfile(former, aside)
        aside.replace(target)
