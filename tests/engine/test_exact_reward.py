"""A5, A13 and A14 of ENGINE §6.1 on the engine's own trainers: reward models, splits of a batch, finite differences."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.finite_differences import STEP
from tests.engine.tabular import (
    Bench,
    TableLM,
    all_pairs,
    known_reference,
    make_bench,
    pair_of,
    table_lm,
    table_reward,
)
from tests.engine.tabular_worlds import World, bandit, sequences
from tests.engine.tiny import tiny_model
from training.engine import dpo, kto, loop, reward
from training.engine.examples import Ranked, Rated
from training.engine.models import load_policy, load_reward_model
from training.engine.packing import Sharing, use_packed_attention, use_padded_rows
from training.engine.pairs import Pair

torch.set_num_threads(1)
WHOLE = {"micro_tokens": 10**6}


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("exact"))


# --- A5 ---------------------------------------------------------------------------------------------------------------


def train_reward(
    bench: Bench, world: World, items: Any, *, epochs: int = 120, rate: float = 15.0, **options: Any
) -> Tensor:
    """The scores of all completions that a free score each ends with, mean 0."""
    model = table_reward(world.completions, torch.zeros(len(world.completions), dtype=torch.float64), prompt=(9,))
    session = bench.session(
        "reward",
        model,
        items,
        size=len(items),
        rate=rate,
        reward=options,
        batch={"pairs": len(items), "epochs": epochs},
        memory=WHOLE,
    )
    reward.train(session, session.config, held_out=[], test=[])
    found = model.score.weight.detach()[0]
    return found - found.mean()


def votes_on(world: World, *, each: int, seed: int) -> list[Pair]:
    """`each` votes on every pair by the Bradley–Terry law of the scores, as a share and a weight."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for pair in all_pairs(world):
        wins = int((torch.rand(each, generator=generator, dtype=torch.float64) < pair.q).sum())
        found.append(replace(pair, q=wins / each, weight=float(each)))
    return found


def information(scores: Tensor, pairs: list[Pair]) -> tuple[Tensor, Tensor]:
    """Slope of the votes' log-likelihood in the scores, and Fisher's matrix Σ n p(1−p) (e_a − e_b)(e_a − e_b)ᵀ."""
    slope, fisher = torch.zeros_like(scores), torch.zeros(len(scores), len(scores), dtype=torch.float64)
    for (a, b), pair in zip(itertools.combinations(range(len(scores)), 2), pairs, strict=True):
        p = torch.sigmoid(scores[a] - scores[b])
        edge = torch.zeros_like(scores)
        edge[a], edge[b] = 1.0, -1.0
        slope += pair.weight * (pair.q - p) * edge
        fisher += pair.weight * p * (1 - p) * torch.outer(edge, edge)
    return slope, fisher


def maximum_likelihood(pairs: list[Pair], *, count: int) -> Tensor:
    """Bradley and Terry's estimate by Newton's method, mean 0."""
    scores = torch.zeros(count, dtype=torch.float64)
    for _ in range(30):
        slope, fisher = information(scores, pairs)
        scores = scores + torch.linalg.pinv(fisher) @ slope
    return scores - scores.mean()


def check_reward_is_the_maximum_likelihood(bench: Bench, world: World) -> tuple[float, float, float]:
    """A5: the estimate itself, with errors that Fisher's matrix allows, half as large with four times the votes."""
    true = world.scores - world.scores.mean()
    furthest, largest, sizes = 0.0, 0.0, []
    for each in (100, 400):
        squares = []
        for seed in (101, 102, 103, 104):
            pairs = votes_on(world, each=each, seed=seed)
            found = train_reward(bench, world, pairs, epochs=70)
            errors = torch.linalg.pinv(information(true, pairs)[1]).diagonal().sqrt()
            furthest = max(furthest, float((found - maximum_likelihood(pairs, count=len(true))).abs().max()))
            largest = max(largest, float(((found - true) / errors).abs().max()))
            squares.append(float(((found - true) ** 2).mean()))
        sizes.append((sum(squares) / len(squares)) ** 0.5)
    assert furthest < 1e-6
    assert largest < 4
    assert 0.35 < sizes[1] / sizes[0] < 0.7  # 1/2, give or take what 4 × 7 errors say of their spread
    return furthest, largest, sizes[1] / sizes[0]


def test_a5_a_reward_model_errs_as_its_fisher_matrix_says(bench: Bench) -> None:
    check_reward_is_the_maximum_likelihood(bench, bandit())


def ranking(world: World, order: tuple[int, ...], *, weight: float = 1.0) -> Ranked:
    """All completions of a world, in their own order, ranked."""
    return Ranked(
        id="r" + "".join(map(str, order)),
        group="g",
        sharing=Sharing(prompt=world.prompt, completions=world.completions),
        ranking=[[place] for place in order],
        weight=weight,
        prompt=[{"role": "user", "content": "?"}],
        texts=tuple("?" for _ in world.completions),
        finishes=tuple("end" for _ in world.completions),
    )


def plackett_luce_law(scores: Tensor, order: tuple[int, ...]) -> float:
    logp = sum(scores[place] - scores[list(order[k:])].logsumexp(0) for k, place in enumerate(order))
    return float(torch.as_tensor(logp).exp())


def test_a5_plackett_luce_of_two_is_bradley_terry(bench: Bench) -> None:
    world = bandit(actions=2)
    scores = torch.tensor([0.7, -1.9], dtype=torch.float64)
    for order in ((0, 1), (1, 0)):
        model = table_reward(world.completions, scores, prompt=(9,))
        found = []
        for link in ("plackett_luce", "bradley_terry"):
            items = [ranking(world, order)]
            session = bench.session("reward", model, items, size=1, reward={"link": link}, batch={"pairs": 1})
            batch = reward.forward(session, session.config.reward, items, train=True)
            slope = model.score.weight.grad.clone()
            model.zero_grad()
            found.append((float(batch.losses[0]), slope))
        assert found[0][0] == pytest.approx(found[1][0], abs=1e-12)
        assert float((found[0][1] - found[1][1]).abs().max()) < 1e-12


def test_a5_pairs_and_plackett_luce_agree_on_rankings_of_four(bench: Bench) -> None:
    """On the law of all 24 rankings both losses are least at the scores that the law was made with."""
    world = bandit(actions=4)
    orders = list(itertools.permutations(range(4)))
    items = [ranking(world, order, weight=plackett_luce_law(world.scores, order)) for order in orders]
    true = world.scores - world.scores.mean()
    for link, rate in (("bradley_terry", 4.0), ("plackett_luce", 1.0)):
        found = train_reward(bench, world, items, epochs=120, rate=rate, link=link)
        assert float((found - true).abs().max()) < 1e-6


# --- A13 --------------------------------------------------------------------------------------------------------------


def gradients(model: Any) -> Tensor:
    parts = [p.grad.flatten().clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return torch.cat(parts)


def check_split_changes_nothing(bench: Bench, world: World) -> float:
    """A13 on a table, where it holds to the last digits: one micro-batch, one an item, and padded rows."""
    pairs = [replace(pair, weight=1.0 + number % 3) for number, pair in enumerate(all_pairs(world)[:20])]
    model = table_lm(world.states, world.reference)
    found = []
    for micro_tokens, padded in ((10**6, False), (1, False), (40, False), (1, True), (10**6, True)):
        session = bench.session(
            "dpo", model, pairs, size=20, dpo={"beta": 0.5, "nll_weight": 0.3}, memory={"micro_tokens": micro_tokens}
        )
        (use_padded_rows if padded else use_packed_attention)(model)
        batch = dpo.forward(session, session.config.dpo, pairs, cache=known_reference(world), train=True)
        found.append((loop.weighted_mean(batch.losses, batch.weights), gradients(model)))
    worst = max(
        max(abs(loss - found[0][0]) / abs(found[0][0]), float((slope - found[0][1]).norm() / found[0][1].norm()))
        for loss, slope in found[1:]
    )
    assert worst < 1e-12
    return worst


def test_a13_neither_split_nor_padding_nor_sharing_changes_the_step_of_a_table(bench: Bench) -> None:
    check_split_changes_nothing(bench, sequences())


@pytest.mark.parametrize("kind", ["dpo", "reward"])
def test_a13_neither_split_nor_padding_nor_sharing_changes_the_step_of_a_transformer(
    bench: Bench, tmp_path: Path, kind: str
) -> None:
    """fp32, real attention: in packs prompts are read once, in padded rows once a completion."""
    generator = torch.Generator().manual_seed(1)

    def ids(least: int, most: int) -> tuple[int, ...]:
        length = int(torch.randint(least, most, (1,), generator=generator))
        return tuple(torch.randint(3, 250, (length,), generator=generator).tolist())

    prompts = [ids(3, 20) for _ in range(8)]
    pairs = [
        replace(
            pair_of(bandit(), 0, 1, q=(1.0, 0.7, 0.5)[number % 3], name=f"p{number}", weight=1.0 + number % 2),
            sharing=Sharing(prompt=prompt, completions=(ids(1, 25), ids(1, 25))),
        )
        for number, prompt in enumerate(prompts)
    ]
    place = tiny_model(tmp_path / "model", spread=0.2)
    model: Any = load_policy(place) if kind == "dpo" else load_reward_model(place, seed=1)
    cache: Any = known_reference(bandit())
    cache.lookup = lambda groups: torch.full((2 * len(groups),), -40.0, dtype=torch.float64)
    found = []
    for micro_tokens, padded in ((10**6, False), (1, False), (120, False), (1, True), (10**6, True)):
        session = bench.session(kind, model, pairs, size=8, memory={"micro_tokens": micro_tokens})
        (use_padded_rows if padded else use_packed_attention)(model)
        if kind == "dpo":
            batch = dpo.forward(session, session.config.dpo, pairs, cache=cache, train=True)
        else:
            batch = reward.forward(session, session.config.reward, pairs, train=True)
        found.append((loop.weighted_mean(batch.losses, batch.weights), gradients(model)))
    for loss, slope in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        assert float((slope - found[0][1]).norm() / found[0][1].norm()) < 1e-5


# --- A14 --------------------------------------------------------------------------------------------------------------

LOSSES: dict[str, dict[str, Any]] = {
    "dpo": {},
    "dpo with nll": {"nll_weight": 0.5},
    "dpo_avg": {"logit": "dpo_avg"},
    "robust": {"link": "robust", "epsilon": 0.2, "labels": "hard"},
    "smoothed": {"link": "smoothed", "epsilon": 0.2},
    "ipo": {"link": "ipo"},
    "ipo_avg": {"link": "ipo", "logit": "dpo_avg"},
    "simpo": {"logit": "simpo", "link": "margin", "gamma": 0.5, "beta": 2.0},
    "orpo": {"logit": "orpo"},
    "hinge": {"link": "hinge"},
}


def difference_error(head: Tensor, loss: Callable[[bool], float]) -> float:
    """max |gradient of the step − central difference of its loss| over the largest, in all entries of the head."""
    loss(True)
    assert head.grad is not None
    exact, numeric = head.grad.clone(), torch.zeros_like(head)
    head.grad = None
    with torch.no_grad():
        for place in range(head.numel()):
            values = []
            for move in (STEP, -2 * STEP, STEP):
                head.view(-1)[place] += move
                values.append(loss(False))
            numeric.view(-1)[place] = (values[0] - values[1]) / (2 * STEP)
    return float((exact - numeric).abs().max() / numeric.abs().max())


@pytest.mark.parametrize("name", LOSSES)
def test_a14_the_step_of_every_preference_loss_has_the_gradient_of_its_loss(bench: Bench, name: str) -> None:
    world = sequences()
    pairs = [pair_of(world, a, b, q=q, name=f"{a}") for a, b, q in ((0, 9, 1.0), (3, 12, 0.7), (14, 5, 0.5))]
    logits = world.reference + 0.4 * torch.randn(
        world.reference.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    model = table_lm(world.states, logits)
    session = bench.session("dpo", model, pairs, size=3, dpo=LOSSES[name])
    cache = known_reference(world) if session.config.dpo.needs_reference else None

    def loss(train: bool) -> float:
        batch = dpo.forward(session, session.config.dpo, pairs, cache=cache, train=train)
        return loop.weighted_mean(batch.losses, batch.weights)

    assert difference_error(model.head.weight, loss) < 1e-6


def test_a14_the_step_of_kto_has_the_gradient_of_its_loss_at_a_held_reference_point(bench: Bench) -> None:
    world = sequences()
    logits = world.reference + 0.4 * torch.randn(
        world.reference.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    items = [
        Rated(
            id=f"{index}",
            group="g",
            sharing=Sharing(prompt=world.prompt, completions=(world.completions[index],)),
            desirable=number % 2 == 0,
            weight=1.0 + number,
            prompt=[{"role": "user", "content": "?"}],
            text="?",
            finish="end",
        )
        for number, index in enumerate((0, 3, 9, 14))
    ]
    model = table_lm(world.states, logits)
    session = bench.session("kto", model, items, size=4, kto={"beta": 0.5}, batch={"examples": 4})
    weights = kto.ClassWeights(desirable=1.2, undesirable=0.8)

    def loss(train: bool) -> float:
        batch = kto.forward(
            session,
            session.config.kto,
            items,
            cache=known_reference(world),
            weights=weights,
            reference_point=torch.tensor(0.3, dtype=torch.float64),
            train=train,
        )
        return loop.weighted_mean(batch.losses, batch.weights)

    assert difference_error(model.head.weight, loss) < 1e-6


@pytest.mark.parametrize("options", [{}, {"centring": 0.1}, {"link": "plackett_luce"}])
def test_a14_the_step_of_a_reward_model_has_the_gradient_of_its_loss(bench: Bench, options: dict[str, Any]) -> None:
    world = bandit(actions=4)
    items = [ranking(world, (2, 0, 3, 1)), ranking(world, (0, 1, 2, 3), weight=2.0)]
    model: TableLM = table_reward(world.completions, world.scores, prompt=(9,))
    session = bench.session("reward", model, items, size=2, reward=options, batch={"pairs": 2})

    def loss(train: bool) -> float:
        batch = reward.forward(session, session.config.reward, items, train=train)
        return loop.weighted_mean(batch.losses, batch.weights)

    assert difference_error(model.score.weight, loss) < 1e-6
