"""A world for the loop's experiments in which every model is tiny and random, so that a step takes seconds."""

from __future__ import annotations

from pathlib import Path

from benchmarks.loop.steps import Steps
from benchmarks.loop.world import World
from tests.engine.tiny import tiny_model

PROMPTS = [
    {"id": f"p{n}", "group": f"p{n}", "prompt": [{"role": "user", "content": f"What is the name of dog {n}?"}]}
    for n in range(6)
]


def tiny_steps(directory: Path) -> Steps:
    return Steps(directory=directory / "steps", base=tiny_model(directory / "base", spread=0.3))


def world_of(steps: Steps, tmp_path: Path, **settings: object) -> World:
    gold = tiny_model(tmp_path / "gold", seed=2, spread=0.3, reward=True)
    common = {"new_tokens": 6, "held_out_samples": 1, "dtype": "fp32", "adapter": {"rank": 2}, "vote_agreement": 0.8}
    return World(
        steps=steps,
        sft=steps.base,
        gold=gold,
        demonstrations=tmp_path,
        train=PROMPTS,
        held_out=PROMPTS[:3],
        settings={**common, "gold": {"cut_off": 0.5}, **settings},
    )
