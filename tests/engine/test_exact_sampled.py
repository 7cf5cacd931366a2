"""A10 and A12 of ENGINE §6.1: PPO on real samples reaches π*, and the adaptive β its target, in the trainers' loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.engine.tabular import (
    Bench,
    TableLM,
    drawing,
    known_scorer,
    make_bench,
    prompts_of,
    rationing,
    table_lm,
)
from tests.engine.tabular_worlds import World, bandit, sequences
from tests.engine.test_exact_preferences import train_online
from training.engine import ppo, rloo
from training.engine.held_out import HeldOut

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("exact"))


def frozen(world: World) -> TableLM:
    return table_lm(world.states, world.reference).requires_grad_(requires_grad=False)


def train_ppo(
    bench: Bench, world: World, *, iterations: int, rate: float, completions: int = 128, seed: int = 0, **options: Any
) -> TableLM:
    """PPO with its clip, two minibatches, two inner epochs, AdamW as in every run, and a separate critic."""
    model = table_lm(world.states, world.reference)
    critic = TableLM(world.states, torch.zeros(1, len(world.states), dtype=torch.float64), reward=True)
    session = bench.session(
        "ppo",
        model,
        prompts_of(world, completions),
        size=completions,
        inner=4,
        rate=rate,
        floor=0.0,
        reference=frozen(world),
        critic=critic,
        critic_rate=1.0,
        batch={
            "iterations": iterations,
            "completions": completions,
            "per_prompt": 1,
            "minibatch": completions // 2,
            "inner_epochs": 2,
        },
        memory={"micro_tokens": 10**6},
        kl={"beta": world.beta},
        ppo={"inner_kl_target": None, "value_clip": 10.0, **options},
    )
    session.trained["policy"].optimizer = torch.optim.AdamW(model.parameters(), eps=1e-5, weight_decay=0.0)
    ppo.train(
        session,
        session.config,
        sampler=drawing(world, model, seed=seed),
        scorer=known_scorer(world),
        held_out=HeldOut(prompts=()),
    )
    return model


def check_sampled_ppo(bench: Bench, world: World, **options: Any) -> float:
    """A10. At π* every advantage is 0 where the KL is in the reward, so even samples end there."""
    model = train_ppo(bench, world, rate=0.1, **{"iterations": 60, **options})
    assert world.distance(world.reference) > 0.3
    assert world.distance(model.logits) < 0.01
    return world.distance(model.logits)


@pytest.mark.parametrize("whiten", [False, True])
def test_a10_sampled_ppo_ends_at_the_optimum_of_a_bandit(bench: Bench, whiten: bool) -> None:
    check_sampled_ppo(bench, bandit(), whiten_advantages=whiten)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("lam", [0.95, 1.0])
def test_a10_sampled_ppo_ends_at_the_optimum_of_sequences(bench: Bench, lam: float, whiten: bool) -> None:
    check_sampled_ppo(bench, sequences(), whiten_advantages=whiten, lam=lam)


def test_a10_sampled_ppo_with_the_kl_in_its_loss_ends_there_too(bench: Bench) -> None:
    options: dict[str, Any] = {"whiten_advantages": False, "lam": 1.0, "kl_in": "loss"}
    check_sampled_ppo(bench, sequences(), completions=256, **options)


def test_a2_online_dpo_and_sampled_ppo_end_at_one_policy(bench: Bench) -> None:
    world = bandit()
    pairs = train_online(bench, world, label="soft", iterations=160, rate=3.0)
    samples = train_ppo(bench, world, iterations=60, rate=0.1)
    assert world.distance(samples.logits, world.logp(pairs.logits).exp()) < 0.01


# --- A12 --------------------------------------------------------------------------------------------------------------


def kl_at(world: World, beta: float) -> float:
    """KL(π‖π_ref) at π ∝ π_ref exp(s/β)."""
    reference = world.logp(world.reference)
    logp = (reference + world.counted / beta).log_softmax(0)
    return float((logp.exp() * (logp - reference)).sum())


def beta_for(world: World, target: float) -> float:
    low, high = 1e-3, 1e3
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if kl_at(world, middle) > target else (low, middle)
    return low


def steer(bench: Bench, world: World, *, beta: float, target: float, horizons: float, rate: float) -> float:
    """KL(π‖π_ref) of the policy that RLOO's loop leaves after so many horizons of its adaptive β."""
    completions, horizon = 128, 512
    model = table_lm(world.states, world.reference)
    session = bench.session(
        "rloo",
        model,
        prompts_of(world, 32),
        size=32,
        rate=rate,
        momentum=0.0,
        natural=world,
        reference=frozen(world),
        batch={
            "iterations": math.ceil(horizons * horizon / completions),
            "completions": completions,
            "per_prompt": 4,
        },
        memory={"micro_tokens": 10**6},
        kl={"beta": beta, "target": target, "horizon": horizon},
    )
    session.trained["policy"].optimizer.unit = lambda: 1 / session.state["beta"]
    rloo.train(
        session,
        session.config,
        sampler=rationing(world, model),
        scorer=known_scorer(world),
        held_out=HeldOut(prompts=()),
    )
    logp = world.logp(model.logits)
    return float((logp.exp() * (logp - world.logp(world.reference))).sum())


@pytest.mark.parametrize(("far", "rate"), [(1 / 3, 0.15), (8.0, 0.7)])
def test_a12_the_adaptive_price_of_kl_reaches_its_target(bench: Bench, far: float, rate: float) -> None:
    """β moves by at most e^±0.2 a horizon: within 10 + 5·|ln far| horizons it is there, and well before it is not.

    From a price that is far too low it must not go too fast, or the samples lose what they would have to come back to.
    """
    world, target = bandit(), 0.3
    allowed, too_few = 10 + 5 * abs(math.log(far)), 3.0
    beta = far * beta_for(world, target)
    found = steer(bench, world, beta=beta, target=target, horizons=allowed, rate=rate)
    early = steer(bench, world, beta=beta, target=target, horizons=too_few, rate=rate)
    assert abs(found / target - 1) < 0.1
    assert abs(early / target - 1) > 0.1
