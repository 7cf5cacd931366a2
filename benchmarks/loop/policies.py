"""The methods that an experiment holds beside each other: each makes a policy out of the same votes.

Dubois et al. (2023, AlpacaFarm) compare them in this way: one π^SFT, one set of comparisons, one reward model of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.loop.world import Answer, World, read_lines
from training.engine.presets import merge

FROM_REWARD = frozenset({"ppo", "rloo", "grpo", "online_dpo", "expert_iteration", "quark", "best_of_n"})
"""Methods that ask the reward model while they run."""
NAMES = {
    "sft": "SFT",
    "longer_sft": "Longer SFT",
    "feedme": "Binary FeedME",
    "binary_conditioning": "Binary reward conditioning",
    "quark": "Quark",
    "expert_iteration": "Expert iteration",
    "dpo": "DPO",
    "online_dpo": "Online DPO",
    "rloo": "RLOO",
    "ppo": "PPO",
    "best_of_n": "Best of 16",
}


def reward_model(world: World, snapshot: Path, *, seed: int, name: str = "reward", **overrides: Any) -> Path:
    """A reward model of frozen preferences, by the settings' `reward`."""
    sections = merge({**world.training, **world.settings["reward"]}, overrides)
    fixed = {"models": {"base": str(world.sft)}, "data": {"snapshot": str(snapshot)}, "seed": seed}
    return world.steps.policy(f"{name} {seed}", "reward", **merge(fixed, sections))


def policy(
    world: World,
    method: str,
    *,
    seed: int,
    snapshot: Path,
    reward: Path | None = None,
    base: Path | None = None,
    name: str = "",
    **overrides: Any,
) -> Path:
    """The policy that a method makes of π^SFT (or of `base`), by its settings under `methods`.

    Args:
        snapshot: preferences; methods that sample take its prompts from the world instead.
        reward: for the methods of FROM_REWARD.
    """
    sections = merge({**world.training, **world.settings["methods"][method]}, overrides)
    models: dict[str, Any] = {"base": str(base or world.sft)}
    data = {"snapshot": str(prompts_of(world) if method in FROM_REWARD else snapshot)}
    if method in FROM_REWARD:
        models["rewards"] = [str(reward)]
        sections = merge({"sampling": {"max_new_tokens": world.new_tokens}}, sections)
        if method in ("ppo", "rloo", "grpo", "online_dpo"):
            evaluations = {"every": 100_000, "prompts": 4}
            sections["eval"] = merge(evaluations, world.settings["methods"][method].get("eval", {}))
    if method == "longer_sft":
        method, data = "sft", {"snapshot": str(world.demonstrations)}
    sections = merge({"models": models, "data": data, "seed": seed}, sections)
    return world.steps.policy(f"{name or method} {seed}", method, **sections)


def best_of_n(world: World, reward: Path, *, seed: int, n: int) -> list[Answer]:
    """The best of n answers of π^SFT to each held-out prompt by the reward model, with gold's scores."""
    done = world.steps.run(
        f"best_of_{n} {seed}",
        {
            "method": "best_of_n",
            "seed": seed,
            "models": {"base": str(world.sft), "rewards": [str(reward)]},
            "data": {"snapshot": str(world.steps.snapshot("held out", _as_prompts(world.held_out)))},
            "precision": world.training["precision"],
            "sampling": {"max_new_tokens": world.new_tokens},
            "best_of_n": {"n": n},
        },
    )
    lines = [{**row, "index": 0} for row in read_lines(done / "completions.jsonl")]
    file = world.steps.file("best", lines)
    return world.by_gold(f"best_of_{n} {seed}", world.held_out, file)


def prompts_of(world: World) -> Path:
    """The training prompts as a snapshot."""
    return world.steps.snapshot("prompts", _as_prompts(world.train))


def _as_prompts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of every twenty prompts one is for a run's own evaluations."""
    return [
        {
            "id": row["id"],
            "group": row["group"],
            "prompt": row["prompt"],
            "split": "validation" if n % 20 == 0 else "train",
        }
        for n, row in enumerate(rows)
    ]
