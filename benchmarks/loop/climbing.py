"""Reward models of ever more labels, pushed in two ways, with gold as the judge: what `overoptimisation` measures.

Best of n draws from one pool of π^SFT's completions. RLOO asks the pool's prompts at its own evaluations, so gold needs
no more than the texts that the run wrote there.

P places of a climb, M prompts, N completions of each (`frontiers`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loop import policies
from benchmarks.loop.frontiers import Climb, Form, Scores, agreement, best_of_n, spread
from benchmarks.loop.steps import for_each
from benchmarks.loop.world import Answer, World, read_lines
from training.engine.advantages import best_of_n_kl_bound
from training.engine.evaluate import Estimate
from training.engine.presets import merge

ALARM = "over_optimisation"
GOLD, HELD_OUT = "gold", "held out"
"""Names of two judges; a proxy's is that of its labels (`proxy_name`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """A run of RL and what its alarm saw.

    Attributes:
        held_out: [P, M] gains by the reward model that the run never sees, in spreads.
        cusum: [P]. alarm: the place where it rang first.
    """

    climb: Climb
    held_out: Scores
    cusum: Sequence[float]
    alarm: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What came out under one seed.

    Attributes:
        agreements: correlation of each proxy with gold, by its labels. draws: by best of n, fewest labels first.
    """

    seed: int
    agreements: Mapping[int, Estimate]
    draws: Sequence[Climb]
    runs: Sequence[Watched]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Completions of π^SFT to some prompts, with every judge's scores of them, [M, N]."""

    prompts: Sequence[str]
    scores: Mapping[str, Scores]

    def gains(self, scores: Scores, judge: str) -> Scores:
        """A judge's scores [P, M] as gains over what π^SFT is worth at a prompt, in spreads of its completions."""
        own = self.scores[judge]
        found: Scores = (scores - own.mean(axis=1)) / spread(own)
        return found


def proxy_name(labels: int) -> str:
    return f"{labels} labels"


def trial(world: World, snapshot: Path, *, seed: int) -> Trial:
    """Proxies of parts of a ballot, pushed in both ways."""
    labels, climbs = world.settings["labels"], world.settings["climbs"]
    prompts = world.held_out[: world.settings["pool"]["prompts"]]
    parts = parts_of(snapshot, proxies=labels["proxies"], held_out=labels["held_out"], seed=seed)

    def trained(name: str) -> Path:
        lines = world.steps.snapshot(name, parts[name])
        return policies.reward_model(world, lines, seed=seed, name=f"reward {name}")

    rewards = dict(zip(parts, for_each(list(parts), trained), strict=True))

    def climbed(count: int) -> Path:
        return _rloo(world, rewards, prompts, labels=count, seed=seed)

    works: list[Callable[[], Any]] = [partial(climbed, count) for count in climbs["labels"]]
    *runs, pool = for_each([*works, partial(pool_of, world, rewards, prompts, seed=seed)], lambda work: work())
    return Trial(
        seed=seed,
        agreements={n: agreement(pool.scores[proxy_name(n)], pool.scores[GOLD]) for n in labels["proxies"]},
        draws=[_drawn(pool, count) for count in labels["proxies"]],
        runs=[watched(world, run, pool, labels=n) for run, n in zip(runs, climbs["labels"], strict=True)],
    )


def parts_of(snapshot: Path, *, proxies: Sequence[int], held_out: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """The lines that each proxy and the held-out model learn from, by their names.

    Smaller parts are parts of larger ones; the held-out one shares no prompt with them. The ballot's validation and
    test labels go to all: they set the mean that a reward model's scores are counted from.

    Raises:
        ValueError: there are fewer labels.
    """
    lines = read_lines(snapshot / "train.jsonl")
    groups = sorted({line["group"] for line in lines})
    random.Random(seed).shuffle(groups)  # noqa: S311 - draws no secret
    lines.sort(key=lambda line: groups.index(line["group"]))
    chosen = {proxy_name(count): lines[:count] for count in proxies}
    seen = {line["group"] for line in lines[: max(proxies)]}
    chosen[HELD_OUT] = [line for line in lines if line["group"] not in seen][:held_out]
    if min(len(chosen[HELD_OUT]) - held_out, len(lines) - max(proxies)) < 0:
        raise ValueError(f"{max(proxies)} and {held_out} labels are asked for, the ballot has {len(lines)} to train")
    others = [line for part in ("validation", "test") for line in read_lines(snapshot / f"{part}.jsonl")]
    return {
        name: [{**line, "split": "train"} for line in part] + [{**line, "split": "validation"} for line in others]
        for name, part in chosen.items()
    }


# --- best of n --------------------------------------------------------------------------------------------------------


def pool_of(world: World, rewards: Mapping[str, Path], prompts: Sequence[Mapping[str, Any]], *, seed: int) -> Pool:
    """Sampled and scored in as many parts as run at a time."""
    count, slots = int(world.settings["pool"]["completions"]), world.steps.slots
    judges = [GOLD, *rewards]

    def scored(number: int) -> dict[str, list[Answer]]:
        part, name = prompts[number::slots], f"pool {seed} {number + 1}"
        completions = world.sampled(name, world.sft, part, count=count, seed=seed)

        def by(judge: str) -> list[Answer]:
            if judge == GOLD:
                return world.by_gold(name, part, completions)
            return world.scored(f"{judge} {name}", rewards[judge], part, completions)

        return dict(zip(judges, for_each(judges, by), strict=True))

    parts = for_each(range(slots), scored)
    ids = [row["id"] for row in prompts]
    return Pool(
        prompts=ids, scores={judge: _table(chain.from_iterable(part[judge] for part in parts), ids) for judge in judges}
    )


def _table(answers: Iterable[Answer], prompts: Sequence[str]) -> Scores:
    """Scores by prompt and index, [M, N]."""
    by_prompt: dict[str, dict[int, float]] = {prompt: {} for prompt in prompts}
    for answer in answers:
        by_prompt[answer.prompt][answer.index] = answer.score
    return np.array([[scores[index] for index in sorted(scores)] for scores in by_prompt.values()])


def sizes_up_to(most: int) -> list[int]:
    """Values of n from 1 to `most`, two to a doubling."""
    return sorted({*(round(2 ** (half / 2)) for half in range(2 * most.bit_length() - 1)), most} - {0})


def _drawn(pool: Pool, labels: int) -> Climb:
    proxy = pool.scores[proxy_name(labels)]
    sizes = sizes_up_to(proxy.shape[1])
    return Climb(
        labels=labels,
        form=Form.BEST_OF_N,
        places=sizes,
        kl=[best_of_n_kl_bound(n) for n in sizes],
        proxy=pool.gains(best_of_n(proxy, proxy, sizes), proxy_name(labels)),
        gold=pool.gains(best_of_n(proxy, pool.scores[GOLD], sizes), GOLD),
    )


# --- reinforcement learning -------------------------------------------------------------------------------------------


def _rloo(
    world: World, rewards: Mapping[str, Path], prompts: Sequence[Mapping[str, Any]], *, labels: int, seed: int
) -> Path:
    """The directory of a run that asks the pool's prompts at every evaluation."""
    asked = [
        {**row, "split": split} for split, rows in (("train", world.train), ("validation", prompts)) for row in rows
    ]
    fixed = {
        "seed": seed,
        "models": {
            "base": str(world.sft),
            "rewards": [str(rewards[proxy_name(labels)])],
            "held_out": [str(rewards[HELD_OUT])],
        },
        "data": {"snapshot": str(world.steps.snapshot("climbed", asked))},
        "sampling": {"max_new_tokens": world.new_tokens},
        "eval": {"prompts": len(prompts)},
    }
    sections = merge(merge(world.training, fixed), world.settings["climbs"]["training"])
    return world.steps.train(f"rloo {proxy_name(labels)} {seed}", "rloo", **sections)


def watched(world: World, run: Path, pool: Pool, *, labels: int) -> Watched:
    """A run by what it wrote at its evaluations of the pool's prompts, judged by gold."""
    lines = read_lines(run / "samples.jsonl")
    steps = sorted({line["step"] for line in lines})
    written = {(line["step"], line["prompt_id"]): line for line in lines}

    def column(name: str) -> Scores:
        return np.array([[written[step, prompt][name] for prompt in pool.prompts] for step in steps])

    texts = [
        {
            "prompt_id": line["prompt_id"],
            "index": steps.index(line["step"]),
            "text": line["completion"],
            "finish": line["finish"],
            "tokens": line["length"],
        }
        for line in lines
    ]
    judged = world.by_gold(f"rloo {proxy_name(labels)}", world.held_out, world.steps.file("climb", texts))
    measured = {line["step"]: line for line in read_lines(run / "metrics.jsonl")}
    rang = [step for step in steps if f"alarm/{ALARM}" in measured[step]]
    return Watched(
        climb=Climb(
            labels=labels,
            form=Form.RL,
            places=steps,
            kl=column("kl").mean(axis=1).tolist(),
            proxy=pool.gains(column("score"), proxy_name(labels)),
            gold=pool.gains(_table(judged, pool.prompts).T, GOLD),
        ),
        held_out=pool.gains(column("held_out_score"), HELD_OUT),
        cusum=[measured[step]["rollout/cusum"] for step in steps],
        alarm=steps.index(rang[0]) if rang else None,
    )
