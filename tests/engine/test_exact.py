"""ENGINE §6.1 on the engine's own trainers: a policy that is a table, expectations that are sums, and π* known.

Each claim is a function that runs a trainer and asserts, so that `test_exact_planted` can run it on a broken engine.
Samples, the adaptive β and PPO's convergence are in `test_exact_sampled`, reward models in `test_exact_reward`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.engine.enumerated import LENGTHS, relative
from tests.engine.tabular import (
    Bench,
    TableLM,
    World,
    all_pairs,
    bandit,
    enumerating,
    gradient_of,
    groups_in,
    known_reference,
    known_scorer,
    make_bench,
    pair_of,
    prompts_of,
    sequences,
    table_lm,
)
from training.engine import dpo, online, ppo, rloo
from training.engine.critics import VALUE_HEAD
from training.engine.held_out import HeldOut
from training.engine.logprobs import completion_logprobs
from training.engine.reference import ReferenceCache

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
        memory=WHOLE,
        **{"kl": {"beta": world.beta}, **changes},
    )
    rloo.train(
        session,
        session.config,
        sampler=enumerating(world, model),
        scorer=known_scorer(world),
        held_out=HeldOut(prompts=()),
    )
    return session, model


def train_ppo(bench: Bench, world: World, start: Tensor, *, values: Tensor | None = None, **options: Any) -> Any:
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
        memory=WHOLE,
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
    assert cosine(found["spread"], wanted) < 0.99
    assert cosine(found["lengths"], wanted) < 0.999


# --- preference losses ------------------------------------------------------------------------------------------------


def train_dpo(
    bench: Bench,
    world: World,
    pairs: Any,
    *,
    epochs: int,
    rate: float,
    cache: Any = None,
    momentum: float = 0.9,
    memory: Any = WHOLE,
    **options: Any,
) -> tuple[Any, TableLM]:
    model = table_lm(world.states, world.reference)
    session = bench.session(
        "dpo",
        model,
        pairs,
        size=len(pairs),
        rate=rate,
        momentum=momentum,
        dpo={"beta": world.beta, **options},
        batch={"pairs": len(pairs), "epochs": epochs},
        memory=memory,
    )
    dpo.train(session, session.config, cache=cache or known_reference(world), held_out=[], test=[])
    return session, model


def cache_of(
    bench: Bench, world: World, pairs: Any, *, folder: Path, reference: Tensor | None = None
) -> ReferenceCache:
    """The engine's own cache, filled from the reference (or from another one, whose file it then is)."""
    model = table_lm(world.states, world.reference if reference is None else reference)
    cache = ReferenceCache(folder, identity={"model": "table"})
    sharings = [pair.sharing for pair in pairs]
    cpu = torch.device("cpu")

    def values_of(pack: Any) -> Tensor:
        return completion_logprobs(model, pack).detach()

    cache.check(sharings, values_of, dtype="fp32", device=cpu, seed=1)
    cache.fill([sharings], values_of, micro_tokens=10**6, device=cpu, between=lambda: None)
    return cache


def check_dpo_ends_at_the_optimum(bench: Bench, world: World, *, folder: Path | None = None) -> float:
    """A2: with the Bradley–Terry shares of every pair the expected loss is least at π*."""
    pairs = all_pairs(world)
    cache = cache_of(bench, world, pairs, folder=folder) if folder else None
    rate, epochs = (6.0, 220) if len(world.states) > 1 else (50.0, 100)
    _, model = train_dpo(bench, world, pairs, epochs=epochs, rate=rate, cache=cache)
    assert world.distance(model.logits) < 1e-6
    return world.distance(model.logits)


@pytest.mark.parametrize("make", [bandit, sequences])
def test_a2_dpo_on_the_shares_of_all_pairs_ends_at_the_optimum(bench: Bench, make: Any, tmp_path: Path) -> None:
    check_dpo_ends_at_the_optimum(bench, make(), folder=tmp_path)


def train_online(bench: Bench, world: World, *, label: str, iterations: int, rate: float) -> TableLM:
    model = table_lm(world.states, world.reference)
    session = bench.session(
        "online_dpo",
        model,
        prompts_of(world, 1),
        size=1,
        rate=rate,
        reference=frozen(world),
        batch={"iterations": iterations, "completions": 2 * groups_in(world, 2)},
        memory=WHOLE,
        online_dpo={"beta": world.beta, "label": label},
    )
    online.train(
        session,
        session.config,
        sampler=enumerating(world, model),
        scorer=known_scorer(world),
        held_out=HeldOut(prompts=()),
    )
    return model


def test_a2_online_pairs_with_soft_labels_end_at_the_optimum_and_argmax_does_not(bench: Bench) -> None:
    world = bandit()
    soft = train_online(bench, world, label="soft", iterations=160, rate=3.0)
    hard = train_online(bench, world, label="argmax", iterations=60, rate=30.0)
    assert world.distance(soft.logits) < 0.01
    assert int(world.logp(hard.logits).argmax()) == int(world.scores.argmax())
    assert float(world.logp(hard.logits).exp().max()) > 0.99
    assert world.distance(hard.logits) > 0.2


def check_robust_dpo(bench: Bench, world: World) -> tuple[float, float, float]:
    """A3: the distance from π* of robust and plain DPO with a fifth of the labels flipped, and of smoothed without."""
    flips = 0.2
    flipped = all_pairs(world, lambda q: (1 - flips) * q + flips * (1 - q))
    fast: dict[str, Any] = {"epochs": 120, "rate": 30.0}
    _, robust = train_dpo(bench, world, flipped, link="robust", epsilon=flips, labels="hard", **fast)
    _, plain = train_dpo(bench, world, flipped, **fast)
    _, smoothed = train_dpo(bench, world, all_pairs(world), link="smoothed", epsilon=flips, **fast)
    found = tuple(world.distance(model.logits) for model in (robust, plain, smoothed))
    assert found[0] < 1e-6
    assert min(found[1:]) > 0.05
    assert abs(found[1] - found[2]) < 1e-6
    return found


def test_a3_robust_dpo_undoes_flips_and_plain_and_smoothed_are_off_alike(bench: Bench) -> None:
    check_robust_dpo(bench, bandit())


@pytest.mark.parametrize("q", [0.5, 0.7, 0.95])
def test_a4_ipo_ends_where_its_margin_is_the_share_over_tau(bench: Bench, q: float) -> None:
    world, tau = bandit(actions=2), 0.25
    pair = pair_of(world, 0, 1, q=q, name="pair")
    _, model = train_dpo(bench, world, [pair], link="ipo", tau=tau, epochs=60, rate=0.1, momentum=0.5)
    change = world.logp(model.logits) - world.logp(world.reference)
    assert float(change[0] - change[1]) == pytest.approx((q - 0.5) / tau, abs=1e-8)


# --- A11 --------------------------------------------------------------------------------------------------------------


def displace(bench: Bench, *, alike: bool) -> tuple[float, float, float, float]:
    """Change of log π of chosen and rejected, of the margin, and of another token where the chosen one ends.

    Two completions (0, 2) and (1, 2) of which nothing is learned at the first token (its features are 0): what
    differs is the state before the last one. CHES is ⟨h_w, h_l⟩ − ‖h_w‖², so alike features push both down.
    """
    features = torch.zeros(3, 3, dtype=torch.float64)
    features[1, 0] = 1.0
    features[2] = torch.tensor([1.4, 0.3, 0.0] if alike else [0.0, 0.0, 1.4], dtype=torch.float64)
    states = ((9,), (9, 0), (9, 1))
    generator = torch.Generator().manual_seed(3)
    head = 0.3 * torch.randn(4, 3, generator=generator, dtype=torch.float64)
    model = TableLM(states, head, features=features)
    world = World(
        completions=((0, 2), (1, 2)),
        finished=(True, True),
        states=states,
        reference=features @ head.T,
        scores=torch.zeros(2, dtype=torch.float64),
        beta=0.1,
    )
    pairs = [pair_of(world, 0, 1, q=1.0, name="pair")]
    session = bench.session(
        "dpo",
        model,
        pairs,
        size=1,
        rate=1.0,
        momentum=0.0,
        dpo={"beta": 0.1},
        batch={"pairs": 1, "epochs": 20},
        memory=WHOLE,
    )
    dpo.train(session, session.config, cache=known_reference(world), held_out=[], test=[])
    after = features @ model.head.weight.detach().T
    chosen, rejected = (world.logp(after) - world.logp(world.reference)).tolist()
    other = (after.log_softmax(1) - world.reference.log_softmax(1))[1, [0, 1, 3]].max()
    assert session.progress.latest["policy/logp_chosen_change"] == pytest.approx(chosen, rel=0.1)
    return chosen, rejected, chosen - rejected, float(other)


def test_a11_alike_features_push_both_completions_down_while_the_margin_grows(bench: Bench) -> None:
    chosen, rejected, margin, other = displace(bench, alike=True)
    assert chosen < 0
    assert rejected < chosen
    assert margin > 0
    assert other > 0
    apart = displace(bench, alike=False)
    assert apart[0] > 0
    assert apart[1] < 0
