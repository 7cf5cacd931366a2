"""Planted defects: with one function of the engine broken, one of the exact checks fails.

A fixed point where the advantage vanishes cannot see a wrong weight, a pack that drops the same token on both sides
cancels in a ratio: each defect needs a check that sees it, and these are the ones that peers shipped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.enumerated import END, per_completion
from tests.engine.tabular import (
    Bench,
    all_pairs,
    make_bench,
)
from tests.engine.tabular_worlds import bandit, sequences
from tests.engine.test_exact import check_kl_in_the_loss, check_rloo_is_unbiased
from tests.engine.test_exact_preferences import cache_of, check_dpo_ends_at_the_optimum
from tests.engine.test_exact_reward import check_reward_is_the_maximum_likelihood, check_split_changes_nothing
from training.engine import loop, ppo, reference, rloo, scoring
from training.engine.logprobs import sum_by_completion
from training.engine.packing import Pack, build_pack, hidden_states
from training.engine.policy_losses import k3

torch.set_num_threads(1)
Check = Callable[[Bench, Path], Any]


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("planted"))


# --- the defects ------------------------------------------------------------------------------------------------------


def score_after_the_end(model: Any, pack: Pack) -> Tensor:
    """The state one token after the last one: the next completion's, or the row's first."""
    return hidden_states(model, pack)[(pack.last + 1) % len(pack.ids)]


def mean_with_oneself(returns: Tensor, groups: Tensor) -> Tensor:
    sizes = torch.bincount(groups)
    return returns - (per_completion(returns, sizes) / sizes)[groups]


def bare_k3(d_sums: Tensor, log_ratio_sums: Tensor) -> Tensor:
    return k3(d_sums)


def squares_by_token(values: Tensor, pack: Pack) -> Tensor:
    """What makes ½(·)² of a completion the sum of ½d_t² over its tokens."""
    return sum_by_completion(values**2, pack).clamp(min=1e-300).sqrt()


def score_a_token_late(scores: Tensor, k1: Tensor, lengths: Tensor, *, beta: float) -> Tensor:
    """At the first token of the next completion, as if an end token were followed by a state of its own."""
    return (-beta * k1).index_add(0, lengths.cumsum(0) % len(k1), scores.to(k1.dtype))


_forward_pack = loop._forward_pack


def mean_of_means(run: Any, items: Any, pack: Pack, terms: Any, *, scale: float | None) -> Any:
    """Each micro-batch divided by its own weight (and not by how many there are)."""
    own = None if scale is None else 1 / sum(item.weight for item in items)
    return _forward_pack(run, items, pack, terms, scale=own)


def _keep(pack: Pack, kept: Tensor) -> Pack:
    """The pack with only some of its scored tokens, [C] bool."""
    lengths = torch.zeros_like(pack.lengths).index_add(0, pack.owner, kept.long())
    return dataclasses.replace(
        pack, rows=pack.rows[kept], targets=pack.targets[kept], owner=pack.owner[kept], lengths=lengths
    )


def mask_by_pad_id(groups: Any, *, device: torch.device) -> Pack:
    """pad = end, and what equals pad is not scored."""
    pack = build_pack(groups, device=device)
    return _keep(pack, pack.targets != END)


def end_token_lost(groups: Any, *, device: torch.device) -> Pack:
    """The last token of every completion is not scored."""
    pack = build_pack(groups, device=device)
    last = torch.cat([pack.owner[1:] != pack.owner[:-1], torch.ones(1, dtype=torch.bool)])
    return _keep(pack, ~last)


def shifted_by_one(groups: Any, *, device: torch.device) -> Pack:
    """Each token is predicted by its own state."""
    pack = build_pack(groups, device=device)
    return dataclasses.replace(pack, rows=(pack.rows + 1) % len(pack.ids))


def never_checked(self: Any, *args: Any, **kwargs: Any) -> None:
    """A cache that trusts whatever its file holds."""


# --- and who sees them ------------------------------------------------------------------------------------------------


def reward_check(bench: Bench, _: Path) -> None:
    check_reward_is_the_maximum_likelihood(bench, bandit())


def rloo_check(bench: Bench, _: Path) -> None:
    check_rloo_is_unbiased(bench, sequences(), per_prompt=2)


def kl_check(bench: Bench, _: Path) -> None:
    check_kl_in_the_loss(bench, sequences())


def split_check(bench: Bench, _: Path) -> None:
    check_split_changes_nothing(bench, sequences())


def dpo_check(bench: Bench, folder: Path) -> None:
    """The reference is read through the same packs, so that what a ratio's sides both lose does not show at once."""
    check_dpo_ends_at_the_optimum(bench, sequences(), folder=folder)


def cache_check(bench: Bench, folder: Path) -> None:
    """The directory holds the values of a reference that has been trained further since."""
    world = bandit()
    cache_of(bench, world, all_pairs(world), folder=folder, reference=world.reference.roll(1, dims=1))
    check_dpo_ends_at_the_optimum(bench, world, folder=folder)


BUILDERS = (loop, reference)  # what reads packs in training, and what fills the reference's cache
DEFECTS: dict[str, tuple[Any, str, Any, Check]] = {
    "score one after the end token": (scoring, "last_states", score_after_the_end, reward_check),
    "score of PPO one token late": (ppo, "token_rewards", score_a_token_late, kl_check),
    "self-including mean": (rloo, "leave_one_out", mean_with_oneself, rloo_check),
    "bare k3": (ppo, "sequence_kl_penalty", bare_k3, kl_check),
    "per-token k2 called J^KL": (ppo, "sum_by_completion", squares_by_token, kl_check),
    "mean of means": (loop, "_forward_pack", mean_of_means, split_check),
    "pad mask by id": (BUILDERS, "build_pack", mask_by_pad_id, dpo_check),
    "end token lost": (BUILDERS, "build_pack", end_token_lost, dpo_check),
    "ids shifted by one": (BUILDERS, "build_pack", shifted_by_one, dpo_check),
    "stale reference cache": (reference.ReferenceCache, "check", never_checked, cache_check),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_defect_makes_its_check_fail(
    bench: Bench, defect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, broken, check = DEFECTS[defect]
    for place in owner if isinstance(owner, tuple) else (owner,):
        monkeypatch.setattr(place, name, broken)
    with pytest.raises((AssertionError, RuntimeError)) as failure:
        check(bench, tmp_path)
    assert failure.type is AssertionError, failure.value
    print(defect, "→", failure.traceback[-1].name, str(failure.value).splitlines()[0])


@pytest.mark.parametrize("check", [rloo_check, kl_check, split_check, cache_check])
def test_the_checks_pass_on_the_engine_as_it_is(bench: Bench, check: Check, tmp_path: Path) -> None:
    check(bench, tmp_path)
