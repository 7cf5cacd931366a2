"""Runs of methods that sample: a tiny policy that says "good" as often as "bad", and a reward model that prefers one.

A random policy hardly ever ends a completion, so nothing could be learned from it: the policy here was taught to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.engine_runs import result_of, run_here
from tests.engine.planted import planted_config, planted_snapshot
from tests.engine.tiny import tiny_model
from training.engine.logprobs import completion_logprobs
from training.engine.models import load_policy, save_model
from training.engine.packing import Sharing, build_pack, use_packed_attention
from training.engine.presets import default_config, merge
from training.engine.text import load_text

SAYINGS = ("good", "bad", "good a dog", "bad a dog", "yes", "no it is")


def taught_policy(directory: Path, *, base: Path, sayings: tuple[str, ...] = SAYINGS, steps: int = 60) -> Path:
    """A policy that writes one of some sayings, each as likely, and ends; made of a tiny one in a second."""
    text = load_text(base)
    model = load_policy(base)
    use_packed_attention(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    completions = tuple(tuple(text.completion_ids(saying, finished=True)) for saying in sayings)
    prompts = [text.prompt_ids([{"role": "user", "content": f"What is the name of dog {n}?"}]) for n in range(4)]
    pack = build_pack(
        [Sharing(prompt=tuple(ids), completions=completions) for ids in prompts], device=torch.device("cpu")
    )
    for _ in range(steps):
        loss = -completion_logprobs(model, pack).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_model(model, text, directory, winnow={})
    return directory


@pytest.fixture(scope="session")
def sampled_places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A taught policy, reward models that prefer "good" (`reward`) and know another seed (`other`), and a snapshot."""
    root = tmp_path_factory.mktemp("sampled")
    tiny = tiny_model(root / "tiny")
    planted_snapshot(root / "snapshot", validation=32)
    base = taught_policy(root / "base", base=tiny)
    found = {"base": base, "snapshot": root / "snapshot"}
    for name, seed in (("reward", 1), ("other", 2)):
        changes: dict[str, Any] = {"adapter": None, "seed": seed, "optim": {"learning_rate": 3e-3}}
        config = planted_config("reward", base=tiny, snapshot=root / "snapshot", **changes)
        assert run_here(config, root / name) == 0
        found[name] = root / name / result_of(root / name)["checkpoints"]["last"]["path"] / "model"
    return found


def sampled_config(method: str, places: dict[str, Path], **overrides: Any) -> dict[str, Any]:
    """Six iterations of 32 completions, at a learning rate for a model of a few thousand weights."""
    config = merge(
        default_config(method),
        {
            "models": {"base": str(places["base"]), "rewards": [str(places["reward"])]},
            "data": {"snapshot": str(places["snapshot"])},
            "batch": {"iterations": 6, "completions": 32},
            "optim": {"learning_rate": 1e-2},
            "memory": {"micro_tokens": 512},
            "sampling": {"max_new_tokens": 8},
            "eval": {"prompts": 8},
            "checkpoint": {"every": 2},
        },
    )
    return merge(config, overrides)
