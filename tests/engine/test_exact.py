"""ENGINE §6.1 on the engine's own trainers: a policy that is a table, expectations that are sums, and π* known.

Each claim is a function that runs a trainer and asserts, so that `test_exact_planted` can run it on a broken engine.
Here are policy gradients (A1, A6, A7, A13); the other claims are in the files beside this one.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.engine.enumerated import LENGTHS, relative
from tests.engine.tabular import (
    Bench,
    TableLM,
    enumerating,
    gradient_of,
    groups_in,
    known_scorer,
    make_bench,
    prompts_of,
    table_lm,
)
from tests.engine.tabular_worlds import World, bandit, sequences
from training.engine import ppo, rloo
from training.engine.critics import VALUE_HEAD
from training.engine.held_out import HeldOut

torch.set_num_threads(1)
EXACT = 1e-10
WHOLE = {"micro_tokens": 10**6}


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("exact"))


# --- policy gradients -------------------------------------------------------------------------------------------------


def frozen(world: World) -> TableLM:
    return table_lm(world.states, world.reference).requires_grad_(requires_grad=False)


def train_rloo(
    bench: Bench,
    world: World,
    start: Tensor,
    *,
    per_prompt: int = 2,
    iterations: int = 1,
    method: str = "rloo",
    **changes: Any,
) -> tuple[Any, TableLM]:
    """RLOO or GRPO on all groups of G completions, each weighted with its probability."""
    model = table_lm(world.states, start)
    count = groups_in(world, per_prompt)
    session = bench.session(
        method,
        model,
        prompts_of(world, 1),
        size=1,
        natural=world,
        momentum=0.0,
        rate=0.95 / world.beta,
        reference=frozen(world),
        batch={"iterations": iterations, "completions": count * per_prompt, "per_prompt": per_prompt},
        **{"kl": {"beta": world.beta}, "memory": WHOLE, **changes},
    )
    rloo.train(
        session,
        session.config,
        sampler=enumerating(world, model),
        scorer=known_scorer(world),
        held_out=HeldOut(prompts=()),
    )
    return session, model


def train_ppo(
    bench: Bench, world: World, start: Tensor, *, values: Tensor | None = None, memory: Any = WHOLE, **options: Any
) -> Any:
    """One step of PPO on all completions, each weighted with its probability; the critic says what it is told to."""
    model = table_lm(world.states, start)
    head = torch.zeros(len(world.states), dtype=torch.float64) if values is None else values
    session = bench.session(
        "ppo",
        model,
        prompts_of(world, 1),
        size=1,
        reference=frozen(world),
        extra={VALUE_HEAD: nn.Parameter(head.clone())},
        batch={
            "iterations": 1,
            "completions": len(world.completions),
            "per_prompt": 1,
            "inner_epochs": 1,
            "minibatch": None,
        },
        memory=memory,
        kl={"beta": world.beta},
        ppo={"critic": "shared", "whiten_advantages": False, "lam": 1.0, **options},
    )
    ppo.train(
        session,
        session.config,
        sampler=enumerating(world, model),
        scorer=known_scorer(world),
        held_out=HeldOut(prompts=()),
    )
    return session


def slope_of(value: Any, logits: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_()
    (found,) = torch.autograd.grad(value(leaf), leaf)
    return found


def away_from(world: World) -> Tensor:
    """A policy that is neither the reference nor the optimum."""
    noise = torch.randn(world.reference.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return world.reference + 0.7 * noise


def check_policy_gradient_ends_at_the_optimum(bench: Bench, world: World) -> tuple[float, float]:
    """A1."""
    _, model = train_rloo(bench, world, world.reference, iterations=14)
    off = abs(float(world.value(model.logits)) - world.best_value)
    assert world.distance(world.reference) > 0.1
    assert world.distance(model.logits) < 1e-6
    assert off < 1e-12
    return world.distance(model.logits), off


@pytest.mark.parametrize("make", [bandit, sequences])
def test_a1_the_exact_policy_gradient_of_rloo_ends_at_the_optimum(bench: Bench, make: Any) -> None:
    check_policy_gradient_ends_at_the_optimum(bench, make())


def check_kl_in_the_loss(bench: Bench, world: World) -> float:
    """A6 on PPO's step: with λ = 1 its gradient is that of J^KL, whatever the critic says and wherever the KL is."""
    start = away_from(world)
    values = torch.randn(len(world.states), generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    share = len(world.completions) / sum(map(len, world.completions))  # the step divides by tokens, not completions
    wanted = -share * slope_of(world.value, start)
    worst = 0.0
    for place in ("reward", "loss"):
        session = train_ppo(bench, world, start, values=values, kl_in=place)
        worst = max(worst, relative(gradient_of(session), wanted))
    assert worst < EXACT
    return worst


@pytest.mark.parametrize("make", [bandit, sequences])
def test_a6_kl_in_reward_and_in_loss_have_the_gradient_of_the_objective(bench: Bench, make: Any) -> None:
    check_kl_in_the_loss(bench, make())


def test_a6_the_kl_of_grpo_is_not_that_of_the_objective(bench: Bench) -> None:
    """k3·ρ a token drops the later KL that a token causes; on a bandit, where there is none, it is exact."""
    for world, least, most in ((bandit(), 0.0, EXACT), (sequences(), 0.05, 1.0)):
        start = away_from(world)
        changes: dict[str, Any] = {"grpo": {"scale": "none", "average": "constant"}, "sampling": {"max_new_tokens": 1}}
        with_kl, _ = train_rloo(bench, world, start, method="grpo", **changes)
        without, _ = train_rloo(bench, world, start, method="grpo", kl={"beta": 0.0}, **changes)
        found = gradient_of(with_kl) - gradient_of(without)

        def kl(logits: Tensor, world: World = world) -> Tensor:
            logp = world.logp(logits)
            return world.beta * (logp.exp() * (logp - world.logp(world.reference))).sum()

        assert least <= relative(found, slope_of(kl, start)) < most


def check_rloo_is_unbiased(bench: Bench, world: World, *, per_prompt: int) -> float:
    """A7: over all groups the mean of rloo.py's own gradient is that of J^KL."""
    start = away_from(world)
    session, _ = train_rloo(bench, world, start, per_prompt=per_prompt)
    off = relative(gradient_of(session), -slope_of(world.value, start))
    assert off < EXACT
    return off


@pytest.mark.parametrize(("make", "per_prompt"), [(bandit, 2), (bandit, 4), (sequences, 2)])
def test_a7_the_gradient_of_rloo_is_unbiased(bench: Bench, make: Any, per_prompt: int) -> None:
    check_rloo_is_unbiased(bench, make(), per_prompt=per_prompt)


def test_a13_the_split_of_a_batch_changes_no_policy_gradient(bench: Bench) -> None:
    """Every group in a pack of its own, or all in one: RLOO, REINFORCE (its baseline is the batch's), GRPO, PPO."""
    world = sequences()
    start = away_from(world)

    def steps(memory: dict[str, int]) -> list[Tensor]:
        found = [
            train_rloo(bench, world, start, method=method, per_prompt=per_prompt, memory=memory)[0]
            for method, per_prompt in (("rloo", 2), ("rloo", 1), ("grpo", 2))
        ]
        return [gradient_of(session) for session in (*found, train_ppo(bench, world, start, memory=memory))]

    for whole, split in zip(steps(WHOLE), steps({"micro_tokens": 1}), strict=True):
        assert relative(split, whole) < 1e-12


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / a.norm() / b.norm())


def test_a7_group_means_shrink_the_gradient_and_spreads_and_lengths_turn_it(bench: Bench) -> None:
    """GRPO: a mean with oneself in it is (G − 1)/G of the gradient; dividing by the spread or by lengths turns it."""
    world = sequences()
    start, steps = away_from(world), int(LENGTHS.max())

    def score(logits: Tensor) -> Tensor:
        return (world.logp(logits).exp() * world.counted).sum()

    wanted = -slope_of(score, start)
    found = {}
    for name, options in {
        "mean": {"scale": "none", "average": "constant"},
        "spread": {"scale": "std", "average": "constant"},
        "lengths": {"scale": "none", "average": "sequence"},
    }.items():
        session, _ = train_rloo(
            bench,
            world,
            start,
            method="grpo",
            grpo=options,
            kl={"beta": 0.0},
            sampling={"max_new_tokens": steps},
        )
        found[name] = gradient_of(session)
    assert relative(steps * found["mean"], 0.5 * wanted) < EXACT  # G = 2
    assert cosine(found["mean"], wanted) > 1 - 1e-12
    other = bandit()
    session, _ = train_rloo(
        bench,
        other,
        other.reference,
        method="grpo",
        per_prompt=4,
        grpo={"scale": "none", "average": "constant"},
        kl={"beta": 0.0},
        sampling={"max_new_tokens": 1},
    )
    expected = -slope_of(lambda logits: (other.logp(logits).exp() * other.counted).sum(), other.reference)
    assert relative(gradient_of(session), 0.75 * expected) < EXACT  # G = 4
    assert cosine(found["spread"], wanted) < 0.99
    assert cosine(found["lengths"], wanted) < 0.999
