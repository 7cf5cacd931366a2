"""Runs of methods that sample: a tiny policy that says "good" as often as "bad", and a reward model that prefers one.

A random policy hardly ever ends a completion, so nothing could be learned from it: the policy here was taught to.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.engine_runs import lines_of, result_of, run_here, same_numbers, start_child, steps_of, wait_until
from tests.engine.planted import planted_config, planted_snapshot
from tests.engine.tiny import tiny_model
from training.engine import critics, ppo, rloo, starting
from training.engine.config import GrpoConfig, PpoConfig, RlooConfig, parse_config
from training.engine.examples import PromptItem, load_prompts
from training.engine.experience import Iteration, gather
from training.engine.files import sha256_of_file
from training.engine.held_out import load_rewards
from training.engine.logprobs import completion_logprobs
from training.engine.loop import Run
from training.engine.models import load_policy, save_model
from training.engine.packing import Sharing, build_pack, use_packed_attention
from training.engine.presets import default_config, merge
from training.engine.records import KINDS
from training.engine.rollouts import Scorer, own_sampler
from training.engine.supervision import Supervision
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


def open_session(raw: dict[str, Any], out: Path) -> tuple[Run[PromptItem], Scorer]:
    """A run of RLOO, GRPO or PPO with a shared critic before its first step, and its scorer; step 0 is closed."""
    config = parse_config(raw)
    assert isinstance(config, PpoConfig | RlooConfig | GrpoConfig)
    out.mkdir(parents=True, exist_ok=True)
    opening = starting.open_run(config, out, resume=None, supervision=Supervision(), kinds=KINDS)
    prompts = load_prompts("train", data=config.data, text=opening.text).examples
    model, reference = starting.load_policies(opening, config, prompts)
    session = starting.start_run(
        config,
        opening,
        kind="policy",
        trained={
            "policy": starting.make_trained(
                model,
                config.optim,
                extra={critics.VALUE_HEAD: critics.shared_head(model)} if raw["method"] == "ppo" else {},
            )
        },
        reference=reference,
        items=prompts,
        size=config.batch.prompts,
        inner=config.batch.steps,
    )
    session.state["beta"] = config.kl.beta
    session.close_step({})
    return session, load_rewards(session, config.models.rewards, combine=config.models.combine)


def gathered(session: Run[PromptItem], scorer: Scorer, *, with_old: bool = True, **changes: Any) -> Iteration:
    config = session.config
    assert isinstance(config, PpoConfig | RlooConfig | GrpoConfig)
    sampler = own_sampler(session, config.sampling)
    return gather(session, config, sampler=sampler, scorer=scorer, missing_end_score=-1.0, with_old=with_old, **changes)


def gradients(session: Run[Any]) -> list[torch.Tensor]:
    """Those of the trained parameters, which are cleared."""
    found = [p.grad.clone() for p in session.trained["policy"].parameters if p.grad is not None]
    session.trained["policy"].optimizer.zero_grad()
    return found


def weights_of(out: Path) -> dict[str, str]:
    """Hashes of everything trained, critic, optimizers and all, in the last checkpoint."""
    folder = out / result_of(out)["checkpoints"]["last"]["path"]
    return {str(path.relative_to(folder)): sha256_of_file(path) for path in sorted(folder.rglob("*.safetensors"))}


def run_until_stopped(raw: dict[str, Any], out: Path, *, at_step: int) -> None:
    """Run in this process and ask for a stop as soon as the line of a step is there."""
    out.mkdir(exist_ok=True)
    supervision = Supervision()

    def watch() -> None:
        wait_until(lambda: at_step in steps_of(out))
        supervision.request_stop()

    threading.Thread(target=watch, daemon=True).start()
    config = parse_config(raw)
    if isinstance(config, PpoConfig):
        ppo.run(config, out, resume=None, supervision=supervision)
    else:
        assert isinstance(config, RlooConfig | GrpoConfig)
        rloo.run(config, out, resume=None, supervision=supervision)


def check_a_kill_changes_nothing(raw: dict[str, Any], root: Path, *, at_steps: tuple[int, ...]) -> None:
    """A run killed as soon as the lines of some steps are there ends as the one that was not."""
    assert run_here(raw, root / "whole") == 0
    for step in at_steps:
        child = start_child(raw, root / "killed")
        wait_until(lambda: step in steps_of(root / "killed"))  # noqa: B023 - waited for at once
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        assert not (root / "killed" / "result.json").exists()
    assert run_here(raw, root / "killed") == 0
    check_same_end(root / "killed", root / "whole")


def check_same_end(first: Path, second: Path) -> None:
    assert steps_of(first) == steps_of(second)
    assert weights_of(first) == weights_of(second)
    assert same_numbers(first / "metrics.jsonl", second / "metrics.jsonl")
    assert lines_of(first / "samples.jsonl") == lines_of(second / "samples.jsonl")
    best = [result_of(out)["checkpoints"]["best"] for out in (first, second)]
    assert best[0]["step"] == best[1]["step"]


def learned(out: Path) -> tuple[float, float]:
    """Held-out score before and after."""
    found = [line["eval/score"] for line in lines_of(out / "metrics.jsonl") if "eval/score" in line]
    return found[0], found[-1]
