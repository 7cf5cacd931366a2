"""A2, A3, A4 and A11 of ENGINE §6.1: preference losses on a table, by the trainers of DPO and of online DPO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.tabular import (
    Bench,
    TableLM,
    all_pairs,
    enumerating,
    groups_in,
    known_reference,
    known_scorer,
    make_bench,
    pair_of,
    prompts_of,
    table_lm,
)
from tests.engine.tabular_worlds import World, bandit, sequences
from training.engine import dpo, online
from training.engine.held_out import HeldOut
from training.engine.logprobs import completion_logprobs
from training.engine.reference import ReferenceCache
from training.engine.similarity import measure_similarity

torch.set_num_threads(1)
WHOLE = {"micro_tokens": 10**6}


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("exact"))


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
        reference=table_lm(world.states, world.reference).requires_grad_(requires_grad=False),
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


def displace(bench: Bench, *, alike: bool, **options: Any) -> tuple[float, float, float, float, float]:
    """Change of log π of chosen and rejected, of the margin, and of another token where the chosen one ends; and CHES.

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
    (similarity,) = measure_similarity(model, pairs, device=torch.device("cpu"), micro_tokens=64, between=lambda: None)
    session = bench.session(
        "dpo",
        model,
        pairs,
        size=1,
        rate=1.0,
        momentum=0.0,
        dpo={"beta": 0.1, **options},
        batch={"pairs": 1, "epochs": 20},
        memory=WHOLE,
    )
    dpo.train(session, session.config, cache=known_reference(world), held_out=[], test=[])
    after = features @ model.head.weight.detach().T
    chosen, rejected = (world.logp(after) - world.logp(world.reference)).tolist()
    other = (after.log_softmax(1) - world.reference.log_softmax(1))[1, [0, 1, 3]].max()
    assert session.progress.latest["policy/logp_chosen_change"] == pytest.approx(chosen, rel=0.1)
    return chosen, rejected, chosen - rejected, float(other), similarity.ches


def test_a11_alike_features_push_both_completions_down_while_the_margin_grows(bench: Bench) -> None:
    chosen, rejected, margin, other, ches = displace(bench, alike=True)
    assert chosen < 0 < ches
    assert rejected < chosen
    assert margin > 0
    assert other > 0
    apart = displace(bench, alike=False)
    assert apart[0] > 0 > apart[4]
    assert apart[1] < 0


def test_the_nll_term_lifts_the_chosen_completion_of_an_alike_pair(bench: Bench) -> None:
    """At the price of margin: what lifts the chosen completion of an alike pair lifts the rejected one too."""
    plain, lifted, too_much = (displace(bench, alike=True, nll_weight=weight) for weight in (0.0, 0.05, 0.5))
    assert plain[0] < 0 < lifted[0] < too_much[0]
    assert plain[2] > lifted[2] > 0 > too_much[2]
