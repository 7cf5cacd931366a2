"""GRPO on a taught tiny policy: every average and scale, its gradient by hand, groups without spread."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.engine_runs import lines_of, run_here
from tests.engine.sampled_runs import (
    check_same_end,
    gathered,
    gradients,
    learned,
    open_session,
    run_until_stopped,
    sampled_config,
    sampled_places,
)
from training.engine import rloo
from training.engine.config import GrpoConfig, parse_config
from training.engine.errors import ConfigError
from training.engine.logprobs import token_logprobs
from training.engine.packing import Sharing, build_pack

_ = sampled_places
BETA = 0.2


@pytest.mark.parametrize("average", ["token", "sequence", "constant"])
@pytest.mark.parametrize("scale", ["std", "none"])
def test_the_planted_preference_is_learned(
    average: str, scale: str, sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    raw = sampled_config("grpo", sampled_places, grpo={"average": average, "scale": scale}, batch={"iterations": 12})
    raw["optim"]["learning_rate"] = 5e-3
    assert run_here(raw, tmp_path / "out") == 0
    before, after = learned(tmp_path / "out")
    assert after > before + 2
    first = lines_of(tmp_path / "out" / "metrics.jsonl")[1]
    assert first["ppo/ratio_max"] == 1
    assert first["ppo/beta"] == 0.04


def test_all_weights_and_several_steps_an_iteration_learn_it_too(
    sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    batch = {"minibatch": 16, "inner_epochs": 2}
    raw = sampled_config("grpo", sampled_places, adapter=None, batch=batch, optim={"learning_rate": 1e-3})
    assert run_here(raw, tmp_path / "out") == 0
    before, after = learned(tmp_path / "out")
    assert after > before + 2


@pytest.mark.parametrize("mask_unfinished", [False, True])
@pytest.mark.parametrize("average", ["token", "sequence", "constant"])
def test_the_gradient_is_that_of_the_formula(
    average: str, mask_unfinished: bool, sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    """Σ_t −A_i ρ_t + β ρ_t k3_t by hand, token by token, with π_old away from π so that ρ and its clip matter."""
    raw = sampled_config(
        "grpo",
        sampled_places,
        kl={"beta": BETA},
        batch={"completions": 16},
        grpo={"average": average, "mask_unfinished": mask_unfinished},
        sampling={"max_new_tokens": 3},
    )
    session, scorer = open_session(raw, tmp_path)
    config = session.config
    assert isinstance(config, GrpoConfig)
    iteration = gathered(session, scorer)
    generator = torch.Generator().manual_seed(5)
    items = [
        replace(
            item,
            old=item.known_old + 0.3 * torch.randn(len(item.reference), generator=generator),
            reference=item.reference + 0.3 * torch.randn(len(item.reference), generator=generator),
        )
        for item in iteration.items
    ]
    rloo._grpo_pass(session, config, items, divisor=rloo._grpo_divisor(config, items))
    found = gradients(session)

    terms: list[tuple[bool, torch.Tensor]] = []
    for item in items:
        mean, spread = float(item.scores.mean()), float(item.scores.std())
        assert item.old is not None
        at = 0
        for ids, score, completion in zip(
            item.sharing.completions, item.scores.tolist(), item.group.completions, strict=True
        ):
            pack = build_pack([Sharing(prompt=item.sharing.prompt, completions=(ids,))], device=session.device)
            logp = token_logprobs(session.model, pack)
            old, reference = item.old[at : at + len(ids)], item.reference[at : at + len(ids)]
            at += len(ids)
            advantage = (score - mean) / (spread + 1e-4)
            ratio = (logp - old).exp()
            surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage)
            k3 = (reference - logp).exp() - 1 + logp - reference
            terms.append((completion.finish == "end", -surrogate + BETA * ratio * k3))
    counted = [term for finished, term in terms if finished or not mask_unfinished]
    assert 0 < sum(finished for finished, _ in terms) < len(terms)
    match average:
        case "token":
            loss = torch.cat(counted).sum() / sum(map(len, counted))
        case "sequence":
            loss = torch.stack([term.mean() for term in counted]).mean()
        case _:
            loss = torch.cat(counted).sum() / (len(counted) * config.sampling.max_new_tokens)
    loss.backward()  # type: ignore[no-untyped-call]
    wanted = gradients(session)
    scale = max(float(g.abs().max()) for g in wanted)
    assert scale > 1e-2
    for one, two in zip(found, wanted, strict=True):
        assert float((one - two).abs().max()) < 1e-5 * scale


def test_groups_without_spread_are_counted_and_teach_nothing(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    """A policy cut after one token: every score is that of a missing end token."""
    raw = sampled_config("grpo", sampled_places, sampling={"max_new_tokens": 1}, batch={"iterations": 2})
    assert run_here(raw, tmp_path / "out") == 0
    lines = lines_of(tmp_path / "out" / "metrics.jsonl")
    for line in lines[1:]:
        assert line["rollout/groups_without_spread"] == 1
        assert line["rollout/advantage_std"] == 0
        assert line["train/grad_norm"] < 1e-5
    assert lines[2]["alarm/optimisation"] == 1


def test_a_group_of_one_is_refused(sampled_places: dict[str, Path]) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config(sampled_config("grpo", sampled_places, batch={"per_prompt": 1}))
    assert refused.value.key == "batch.per_prompt"


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    batch = {"minibatch": 16, "inner_epochs": 2}
    changes: dict[str, Any] = {"batch": batch, "stop": {"grace_seconds": 0.0}, "optim": {"learning_rate": 1e-3}}
    raw = sampled_config("grpo", sampled_places, **changes)
    run_until_stopped(raw, tmp_path / "out", at_step=6)
    assert run_here(raw, tmp_path / "out") == 0
    assert run_here(raw, tmp_path / "whole") == 0
    check_same_end(tmp_path / "out", tmp_path / "whole")
