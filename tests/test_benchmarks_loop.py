"""The frame of the experiments: steps that are done once, figures against gold, claims that can fail."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.loop import methods, policies, rounds
from benchmarks.loop.ballots import Ballot
from benchmarks.loop.experiment import CONFIGS, in_points, settings_of, worded
from benchmarks.loop.fewer_votes import ADAPTIVE, FIXED, Outcome, saved
from benchmarks.loop.results import Setting
from benchmarks.loop.shared import NoSharedData, Shared
from benchmarks.loop.steps import StepError, Steps
from benchmarks.loop.world import Answer, compare, vote_scale
from tests.tiny_world import PROMPTS, tiny_steps, world_of
from training.engine.config import parse_config
from training.engine.evaluate import Estimate


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return tiny_steps(tmp_path)


def answer(prompt: str, score: float, *, tokens: int = 3) -> Answer:
    return Answer(prompt=prompt, index=0, text="t", finish="end", tokens=tokens, score=score)


def test_a_step_is_done_once_and_another_config_is_another_step(steps: Steps, tmp_path: Path) -> None:
    world = world_of(steps, tmp_path)
    first = world.sampled("a", steps.base, PROMPTS, count=2, seed=1)
    stamp = (first.parent / "result.json").stat().st_mtime_ns
    assert len(first.read_text().splitlines()) == 12
    assert world.sampled("a", steps.base, PROMPTS, count=2, seed=1) == first
    assert (first.parent / "result.json").stat().st_mtime_ns == stamp
    assert world.sampled("a", steps.base, PROMPTS, count=2, seed=2) != first
    assert {spent.name for spent in steps.spent()} == {"sample a"}
    assert len(steps.spent()) == 2


def test_a_step_that_is_refused_says_why_and_is_not_taken_for_done(steps: Steps) -> None:
    config = {"method": "score", "models": {"reward": "nowhere"}, "data": {"prompts": "a", "completions": "b"}}
    for _ in range(2):
        with pytest.raises(StepError, match="nowhere"):
            steps.run("score", config)


def test_gold_takes_a_fixed_loss_off_what_is_cut(steps: Steps, tmp_path: Path) -> None:
    world = world_of(steps, tmp_path)
    completions = world.sampled("a", steps.base, PROMPTS, count=2, seed=1)
    bare = world.scored("bare", world.gold, PROMPTS, completions)
    liked = world.by_gold("a", PROMPTS, completions)
    assert {one.finish for one in bare} >= {"length"}
    for plain, with_loss in zip(bare, liked, strict=True):
        assert with_loss.score == plain.score - (0.5 if plain.finish == "length" else 0)


def test_figures_beside_another_policy() -> None:
    ours = [answer("a", 2.0), answer("b", 1.0), answer("c", 0.0), answer("d", 5.0)]
    theirs = [answer("a", 1.0), answer("b", 1.0), answer("c", 1.0), answer("d", 1.0)]
    found = compare(ours, theirs)
    assert found["win_rate"].value == pytest.approx(0.625)  # two won, one tie, one lost
    assert found["gain"].value == pytest.approx(1.0)
    assert found["win_rate"].low < 0.5 < found["win_rate"].high


def test_the_vote_scale_makes_the_wanted_agreement() -> None:
    pairs = [(0.0, 0.3), (1.0, -1.0), (0.2, 0.1)]
    scale = vote_scale(pairs, agreement=0.75)
    shares = [1 / (1 + math.exp(-scale * abs(one - other))) for one, other in pairs]
    assert sum(shares) / len(shares) == pytest.approx(0.75)
    with pytest.raises(ValueError, match="too many scores are equal"):
        vote_scale([(1.0, 1.0)], agreement=0.75)


def test_what_is_missing_of_the_shared_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoSharedData, match=r"prompts\.jsonl is not there.*--shared"):
        Shared(directory=tmp_path, read={}).prompts(most_tokens=9, count=1, seed=1)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.json")), ids=lambda file: file.stem)
def test_every_config_has_both_settings(file: Path) -> None:
    for setting in Setting:
        assert settings_of(file.stem, setting)["new_tokens"] > 0


@pytest.mark.parametrize("setting", Setting)
def test_the_engine_takes_every_config_of_the_methods(
    setting: Setting, steps: Steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = replace(world_of(steps, tmp_path), settings=settings_of("methods", setting))
    taken = dict[str, object]()

    def train(self: Steps, name: str, config: dict[str, object]) -> Path:
        parsed = parse_config(config)
        taken[parsed.method] = parsed
        raise StopIteration

    monkeypatch.setattr(Steps, "run", train)
    for method in world.settings["methods"].keys() - {"best_of_n"}:
        with pytest.raises(StopIteration):
            policies.policy(world, method, seed=1, snapshot=tmp_path, reward=tmp_path)
    with pytest.raises(StopIteration):
        policies.reward_model(world, tmp_path, seed=1)
    with pytest.raises(StopIteration):
        policies.best_of_n(world, tmp_path, seed=1, n=16)
    assert {"dpo", "ppo", "reward", "best_of_n"} <= taken.keys()
    assert (setting is Setting.FULL) == ("quark" in taken)


def test_figures_are_worded_with_their_intervals() -> None:
    found = Estimate(value=0.031, low=-0.04, high=0.102)
    assert in_points(found) == "+3 points [-4, +10]"
    assert worded(found) == "3 % [-4, 10]" and worded(found, share=False) == "0.03 [-0.04, 0.10]"


def estimate(value: float, reach: float = 0.02) -> Estimate:
    return Estimate(value=value, low=value - reach, high=value + reach)


def trial(seed: int, **rates: float) -> methods.Trial:
    ballot = Ballot(snapshot=Path(), comparisons=10, votes=30, agreement=0.75, right=0.9, seconds=1.0)
    figures = {
        name: {
            "win_rate": estimate(rate),
            "length_controlled": estimate(rate),
            "gain": estimate(0.1),
            "length": estimate(9),
        }
        for name, rate in rates.items()
    }
    return methods.Trial(seed=seed, ballot=ballot, figures=figures)


def test_a_claim_about_a_method_holds_only_beyond_the_interval_under_every_seed() -> None:
    found = methods.findings([trial(1, dpo=0.6, ppo=0.6), trial(2, dpo=0.55, ppo=0.51)], answers=100)
    claims = {claim.claim.split(" ")[0]: claim for claim in found.claims if "SFT" in claim.claim}
    assert claims["DPO"].holds is True
    assert claims["PPO"].holds is False
    assert claims["DPO"].figure == "60 % [58, 62]; 55 % [53, 57]"


def test_an_order_is_open_where_the_seeds_disagree() -> None:
    same = methods.findings(
        [trial(1, expert_iteration=0.5, ppo=0.6), trial(2, expert_iteration=0.5, ppo=0.7)], answers=9
    )
    turned = methods.findings(
        [trial(1, expert_iteration=0.5, ppo=0.6), trial(2, expert_iteration=0.8, ppo=0.7)], answers=9
    )
    assert [claim.holds for claim in same.claims if "worse" in claim.claim] == [True]
    assert [claim.holds for claim in turned.claims if "worse" in claim.claim] == [None]


def test_rounds_are_held_beside_one_round() -> None:
    turn = [
        rounds.Turn(comparisons=n, votes=3 * n, beside_sft=estimate(0.5 + n / 100), beside_former=estimate(0.5))
        for n in (5, 10, 15)
    ]
    found = rounds.findings(
        {("whole", 1): turn, ("divided", 1): turn[:2]}, seeds=[1], arms=["whole", "divided"], answers=9
    )
    assert [claim.holds for claim in found.claims] == [True, True]


def test_votes_saved_are_a_share_of_those_of_the_fixed_overlap() -> None:
    def outcome(votes: int) -> Outcome:
        ballot = Ballot(snapshot=Path(), comparisons=10, votes=votes, agreement=0.75, right=0.9, seconds=1.0)
        return Outcome(ballot=ballot, beside_sft=estimate(0.6), beside_fixed=estimate(0.5))

    assert saved({FIXED: outcome(50), ADAPTIVE: outcome(30)}) == pytest.approx(0.4)
