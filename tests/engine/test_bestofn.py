from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.engine_runs import (
    error_of,
    lines_of,
    result_of,
    run_here,
    same_numbers,
    start_child,
    steps_of,
    wait_until,
)
from tests.engine.sampled_runs import sampled_places
from tests.engine.test_resume import weights_of
from training.engine.advantages import best_of_n_curve, best_of_n_kl_bound
from training.engine.candidates import Candidate
from training.engine.checkpoint import newest_checkpoint
from training.engine.choosing import choose, choose_other, curve_metrics, curve_points, held_out_curve
from training.engine.config import parse_config
from training.engine.errors import ConfigError
from training.engine.metrics import METRICS
from training.engine.models import load_policy
from training.engine.presets import default_config, merge
from training.engine.records import iter_lines, verify_snapshot
from training.engine.sampling import Prompt, generate
from training.engine.scoring import Given, GivenCompletion, load_reward_models
from training.engine.text import load_text

_ = sampled_places


def best_of_n_config(places: dict[str, Path], **overrides: Any) -> dict[str, Any]:
    """Eight completions of each prompt; a chunk is four prompts."""
    config = merge(
        default_config("best_of_n"),
        {
            "models": {"base": str(places["base"]), "rewards": [str(places["reward"])]},
            "data": {"snapshot": str(places["snapshot"])},
            "memory": {"micro_tokens": 512},
            "sampling": {"max_new_tokens": 8, "batch_size": 16},
            "best_of_n": {"n": 8},
        },
    )
    return merge(config, overrides)


def expert_config(places: dict[str, Path], **overrides: Any) -> dict[str, Any]:
    config = merge(
        default_config("expert_iteration"),
        {
            "models": {"base": str(places["base"]), "rewards": [str(places["reward"])]},
            "data": {"snapshot": str(places["snapshot"])},
            "batch": {"examples": 8, "epochs": 4},
            "optim": {"learning_rate": 1e-2},
            "memory": {"micro_tokens": 512},
            "sampling": {"max_new_tokens": 8, "batch_size": 16},
            "eval": {"prompts": 2, "max_new_tokens": 8},
            "checkpoint": {"every": 3},
            "expert_iteration": {"n": 8},
        },
    )
    return merge(config, overrides)


def candidate(index: int, text: str, score: float, *, finish: str = "end", other: float | None = None) -> Candidate:
    return Candidate(
        index=index,
        text=text,
        token_ids=(1,),
        logprob=-1.0,
        sampler_logprob=-1.0,
        finish=finish,
        score=score,
        held_out_score=other,
    )


def prompts_of(places: dict[str, Path]) -> int:
    return verify_snapshot(places["snapshot"]).counts["total"]


def files_of(out: Path) -> dict[str, bytes]:
    names = ("candidates.jsonl", "candidates.json", "completions.jsonl")
    folders = [path for name in ("demonstrations", "pairs") for path in sorted((out / name).iterdir())]
    return {str(path.relative_to(out)): path.read_bytes() for path in [*(out / name for name in names), *folders]}


# --- the law of the choice (A8) ---------------------------------------------------------------------------------------


def best_of_8_law(scores: list[float], probabilities: list[float], *, draws: int) -> list[float]:
    """Shares of the actions that `choose` takes from eight samples each, over many prompts."""
    generator = torch.Generator().manual_seed(7)
    sampled = torch.multinomial(torch.tensor(probabilities), 8 * draws, replacement=True, generator=generator)
    taken: Counter[int] = Counter()
    for number, actions in enumerate(sampled.view(draws, 8).tolist()):
        place = choose([scores[action] for action in actions], seed=1, prompt_id=str(number))
        taken[actions[place]] += 1
    return [taken[action] / draws for action in range(len(scores))]


def divergence(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def test_the_best_of_n_has_the_law_of_the_highest_order_statistic() -> None:
    weights = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    policy = [w / sum(weights) for w in weights]
    scores = [0.3, -1.0, 2.0, 0.1, -0.4, 1.1, 0.9, -2.0]
    exact = []
    for score in scores:
        below = sum(p for p, s in zip(policy, scores, strict=True) if s < score)
        upto = sum(p for p, s in zip(policy, scores, strict=True) if s <= score)
        exact.append(upto**8 - below**8)
    assert sum(exact) == pytest.approx(1)
    found = best_of_8_law(scores, policy, draws=40_000)
    assert sum(abs(a - b) for a, b in zip(exact, found, strict=True)) / 2 < 5e-3
    assert divergence(exact, policy) < best_of_n_kl_bound(8)
    assert divergence(found, policy) < best_of_n_kl_bound(8)


def test_equal_scores_share_the_mass_of_their_rank_and_stay_below_the_kl_bound() -> None:
    """Two actions a score: within a score a seeded draw keeps the policy's own odds."""
    policy = [0.05, 0.15, 0.1, 0.2, 0.2, 0.3]
    scores = [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]
    cumulative = {0.0: (0.0, 0.2), 1.0: (0.2, 0.5), 2.0: (0.5, 1.0)}
    exact = [
        p / (cumulative[s][1] - cumulative[s][0]) * (cumulative[s][1] ** 8 - cumulative[s][0] ** 8)
        for p, s in zip(policy, scores, strict=True)
    ]
    found = best_of_8_law(scores, policy, draws=40_000)
    assert sum(abs(a - b) for a, b in zip(exact, found, strict=True)) / 2 < 5e-3
    # With three distinct scores the best of eight is far nearer to the policy than the bound says.
    assert divergence(exact, policy) < best_of_n_kl_bound(8) - 0.1


def test_equal_scores_are_drawn_alike_for_one_seed_and_evenly_over_prompts() -> None:
    names = [str(number) for number in range(6000)]
    places = [choose([1.0, 0.0, 1.0, 1.0], seed=3, prompt_id=name) for name in names]
    assert places == [choose([1.0, 0.0, 1.0, 1.0], seed=3, prompt_id=name) for name in names]
    shares = Counter(places)
    assert set(shares) == {0, 2, 3}
    for count in shares.values():
        assert count / 6000 == pytest.approx(1 / 3, abs=4 * math.sqrt(2 / 9 / 6000))


def test_the_other_one_differs_and_teaches_something() -> None:
    found = [
        candidate(0, "good", 2.0),
        candidate(1, "good", 2.0),
        candidate(2, "bad", 0.0),
        candidate(3, "no", 0.5, finish="length"),
    ]
    places = {choose_other(found, 0, seed=1, prompt_id=str(number)) for number in range(50)}
    assert places == {2, 3}
    assert choose_other(found[:2], 0, seed=1, prompt_id="p") is None
    assert choose_other([found[3], candidate(1, "well", 0.0, finish="length")], 0, seed=1, prompt_id="p") is None


# --- the curve --------------------------------------------------------------------------------------------------------


def test_the_held_out_score_of_the_chosen_is_the_mean_over_all_subsets() -> None:
    """All subsets of five, ties among the choosing scores shared evenly."""
    scores = torch.tensor([[0.0, 2.0, 1.0, 2.0, -1.0]], dtype=torch.float64)
    others = torch.tensor([[5.0, -1.0, 3.0, 4.0, 0.5]], dtype=torch.float64)
    for size in range(1, 6):
        means = []
        for subset in itertools.combinations(range(5), size):
            highest = max(float(scores[0, i]) for i in subset)
            best = [float(others[0, i]) for i in subset if scores[0, i] == highest]
            means.append(sum(best) / len(best))
        expected = sum(means) / len(means)
        assert float(held_out_curve(scores, others, [size])) == pytest.approx(expected, abs=1e-12)
    # What scores itself is its own held-out score.
    assert torch.allclose(held_out_curve(scores, scores, [1, 2, 5]), best_of_n_curve(scores, [1, 2, 5]))


def test_the_curve_has_a_point_for_powers_of_two_and_for_n_and_all() -> None:
    found = [[candidate(i, str(i), float(i + p)) for i in range(12)] for p in range(4)]
    points = curve_points(found, ["a", "b", "c", "d"], n=6)
    assert [point["n"] for point in points] == [1, 2, 4, 6, 8, 12]
    assert points[-1]["score"] == pytest.approx(11 + 1.5)  # the best of all is the maximum of each prompt
    assert points[0]["score"] == pytest.approx(5.5 + 1.5)
    metrics = curve_metrics(points, n=6)
    assert all(name in METRICS for name in metrics)
    assert {"best_of_n/score_1", "best_of_n/score_8", "best_of_n/score_8_low"} <= metrics.keys()
    assert metrics["rollout/best_score"] == points[3]["score"]
    assert metrics["rollout/kl_bound"] == pytest.approx(math.log(6) - 5 / 6)
    assert "best_of_n/score_6" not in metrics


# --- best of n --------------------------------------------------------------------------------------------------------


def test_the_best_of_n_scores_more_the_larger_n_is(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    out, prompts = tmp_path / "out", prompts_of(sampled_places)
    assert run_here(best_of_n_config(sampled_places, models={"held_out": [str(sampled_places["other"])]}), out) == 0
    result = result_of(out)
    assert result["status"] == "done"
    assert result["step"] == prompts
    candidates = lines_of(out / "candidates.jsonl")
    assert len(candidates) == 8 * prompts
    best = lines_of(out / "completions.jsonl")
    assert len(best) == prompts
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for line in candidates:
        by_prompt.setdefault(line["prompt_id"], []).append(line)
    for line in best:
        assert line["score"] == max(other["score"] for other in by_prompt[line["prompt_id"]])
        assert {
            "policy",
            "prompt_id",
            "index",
            "seed",
            "text",
            "token_ids",
            "logprob",
            "finish",
            "tokens",
        } <= line.keys()
    # The unbiased curve at n = N is the mean of the best lines themselves, at 1 that of all candidates.
    metrics = result["metrics"]
    assert metrics["rollout/best_score"] == pytest.approx(sum(line["score"] for line in best) / prompts)
    assert metrics["best_of_n/score_1"] == pytest.approx(sum(line["score"] for line in candidates) / len(candidates))
    curve = [point["score"] for point in result["best_of_n"]]
    assert curve == sorted(curve)
    assert [metrics[f"best_of_n/score_{n}"] for n in (1, 2, 4, 8)] == curve
    assert curve[-1] > curve[0] + 1
    assert metrics["rollout/kl_bound"] == pytest.approx(math.log(8) - 7 / 8)
    assert metrics["best_of_n/held_out_score_8"] > metrics["best_of_n/held_out_score_1"]  # both learnt "good"
    lines = lines_of(out / "metrics.jsonl")
    assert [line["step"] for line in lines] == [*range(4, prompts, 4), prompts]
    assert all(name in METRICS for line in lines for name in line if "/" in name)


def test_what_was_chosen_is_a_snapshot_of_demonstrations_and_one_of_pairs(
    sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run_here(best_of_n_config(sampled_places, best_of_n={"n": 4, "samples": 8}), out) == 0
    demonstrations, pairs = verify_snapshot(out / "demonstrations"), verify_snapshot(out / "pairs")
    assert demonstrations.kind == "demonstrations"
    assert demonstrations.counts == verify_snapshot(sampled_places["snapshot"]).counts
    assert pairs.kind == "preferences"
    assert pairs.counts["total"] == result_of(out)["metrics"]["data/pairs"] <= prompts_of(sampled_places)
    best = {line["prompt_id"]: line for line in lines_of(out / "completions.jsonl")}
    assert all(line["index"] < 4 for line in best.values())  # the best of n, though N were drawn for the curve
    for line in iter_lines(out / "demonstrations", "train"):
        assert line["completion"] == best[line["id"]]["text"]
    for line in iter_lines(out / "pairs", "train"):
        assert line["meta"]["label_source"] == "reward_model"
        gap = line["meta"]["scores"]["chosen"] - line["meta"]["scores"]["rejected"]
        assert line["prob_chosen"] == pytest.approx(1 / (1 + math.exp(-gap)))
        assert line["prob_chosen"] >= 0.5
        assert line["chosen"] == best[line["id"]]["text"] != line["rejected"]


LONG = {"best_of_n": {"n": 16}}
"""With chunks of two prompts, long enough to be cut off in the middle."""


@pytest.fixture(scope="module")
def whole_choice(sampled_places: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("choice") / "whole"
    assert run_here(best_of_n_config(sampled_places, **LONG), out) == 0
    return out


@pytest.mark.parametrize("how", ["kill", "term"])
def test_best_of_n_that_is_cut_off_ends_with_the_same_bytes(
    how: str, sampled_places: dict[str, Path], whole_choice: Path, tmp_path: Path
) -> None:
    raw = best_of_n_config(sampled_places, **LONG)
    out = tmp_path / "cut"
    child = start_child(raw, out)
    wait_until(lambda: len(steps_of(out)) >= 2)
    if how == "kill":
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    else:
        child.terminate()
        assert child.wait() == 0
        assert result_of(out)["status"] == "stopped"
        assert not (out / "completions.jsonl").exists()
    there = (out / "candidates.jsonl").read_bytes()
    assert there.count(b"\n") < prompts_of(sampled_places) * 16
    with (out / "candidates.jsonl").open("ab") as file:
        file.write(b'{"prompt_id": "p0')  # what a kill in the middle of a line leaves behind
    shutil.copytree(out, tmp_path / "former")
    assert run_here(raw, out) == 0
    assert run_here(raw, tmp_path / "elsewhere", resume=tmp_path / "former") == 0
    assert (whole_choice / "candidates.jsonl").read_bytes().startswith(there)
    assert files_of(out) == files_of(whole_choice) == files_of(tmp_path / "elsewhere")
    assert result_of(out)["best_of_n"] == result_of(whole_choice)["best_of_n"]
    assert same_numbers(out / "metrics.jsonl", whole_choice / "metrics.jsonl")


def test_candidates_of_another_config_are_not_used_and_changed_ones_are_refused(
    sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run_here(best_of_n_config(sampled_places, best_of_n={"n": 2}), out) == 0
    first = (out / "candidates.jsonl").read_bytes()
    assert run_here(best_of_n_config(sampled_places, best_of_n={"n": 2}, seed=2), out) == 0
    assert (out / "candidates.jsonl").read_bytes() != first
    text = (out / "candidates.jsonl").read_text()
    (out / "candidates.jsonl").write_text(text.replace("bad", "Bad", 1))
    assert run_here(best_of_n_config(sampled_places, best_of_n={"n": 2}, seed=2), out) == 3
    assert "was changed" in error_of(out)["message"]


# --- expert iteration -------------------------------------------------------------------------------------------------


def mean_score(model: Path, places: dict[str, Path]) -> float:
    """Of four completions of each of eight prompts, by the reward model that chose."""
    text, rewards = load_text(model), load_reward_models([str(places["reward"])], device="cpu")
    prompts = [
        Prompt(id=str(n), messages=[{"role": "user", "content": f"What is the name of dog {n}?"}]) for n in range(8)
    ]
    written = list(generate(load_policy(model), text, prompts, seed=5, stream="test", completions=4, max_new_tokens=8))
    messages = {prompt.id: prompt.messages for prompt in prompts}
    given = [
        Given(id=c.prompt_id, prompt=messages[c.prompt_id], completions=[GivenCompletion(text=c.text, finish=c.finish)])
        for c in written
    ]
    return float(rewards(given).mean())


def test_expert_iteration_raises_the_score_from_the_base_weights(
    sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    raw = expert_config(sampled_places, adapter=None, optim={"learning_rate": 4e-3})
    assert run_here(raw, tmp_path / "first") == 0
    result = result_of(tmp_path / "first")
    assert result["status"] == "done"
    model = tmp_path / "first" / result["checkpoints"]["last"]["path"] / "model"
    before = mean_score(sampled_places["base"], sampled_places)
    assert mean_score(model, sampled_places) > before + 1
    metrics = result["metrics"]
    assert all(name in METRICS for name in metrics)
    assert {
        "rollout/best_score",
        "rollout/kl_bound",
        "best_of_n/score_8",
        "train/loss",
        "eval/loss",
        "data/prompts",
    } <= (metrics.keys())
    assert metrics["eval/loss"] < lines_of(tmp_path / "first" / "metrics.jsonl")[0]["eval/loss"]
    # A second round samples the first one's policy, and trains the base anew.
    second = merge(raw, {"models": {"policy": str(model)}})
    assert run_here(second, tmp_path / "second") == 0
    again = result_of(tmp_path / "second")
    assert again["lineage"]["models"]["policy"] != again["lineage"]["models"]["base"]
    assert again["metrics"]["best_of_n/score_1"] > metrics["best_of_n/score_1"] + 1
    card = json.loads((model / "winnow.json").read_text())
    assert len(card["demonstrations_sha256"]) == 64


@pytest.fixture(scope="module")
def whole_round(sampled_places: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("round") / "whole"
    assert run_here(expert_config(sampled_places, expert_iteration={"n": 16}), out) == 0
    return out


@pytest.mark.parametrize("how", ["kill", "term"])
@pytest.mark.parametrize("phase", ["sampling", "training"])
def test_expert_iteration_that_is_cut_off_ends_with_the_same_bytes(
    phase: str, how: str, sampled_places: dict[str, Path], whole_round: Path, tmp_path: Path
) -> None:
    raw = expert_config(sampled_places, expert_iteration={"n": 16})
    out, whole = tmp_path / "cut", whole_round
    child = start_child(raw, out)
    if phase == "sampling":
        wait_until(lambda: len(lines_of(out / "candidates.jsonl")) >= 32)
    else:
        wait_until(lambda: 4 in steps_of(out))
    if how == "kill":
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    else:
        child.terminate()
        assert child.wait() == 0
        assert result_of(out)["status"] == "stopped"
    former = newest_checkpoint(out / "checkpoints")
    assert (former is None) == (phase == "sampling")
    shutil.copytree(out, tmp_path / "former")
    resume = tmp_path / "former" if former is None else tmp_path / "former" / "checkpoints" / former.path.name
    assert run_here(raw, out) == 0
    assert run_here(raw, tmp_path / "elsewhere", resume=resume) == 0
    for other in (out, tmp_path / "elsewhere"):
        assert (other / "candidates.jsonl").read_bytes() == (whole / "candidates.jsonl").read_bytes()
        assert weights_of(other) == weights_of(whole)
    assert same_numbers(out / "metrics.jsonl", whole / "metrics.jsonl")
    assert lines_of(out / "samples.jsonl") == lines_of(whole / "samples.jsonl")


def test_a_checkpoint_goes_on_with_the_completions_that_it_was_trained_on_alone(
    sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    raw = expert_config(sampled_places, batch={"epochs": 2}, expert_iteration={"n": 2})
    out = tmp_path / "out"
    assert run_here(raw, out) == 0
    # With the candidates lost, the same ones are sampled again, and fit.
    (out / "candidates.jsonl").unlink()
    assert run_here(raw, out) == 0
    # Another policy would write others.
    other = merge(raw, {"models": {"policy": str(sampled_places["base"].parent / "tiny")}})
    assert run_here(other, out) == 2
    assert "models.policy has the hash" in error_of(out)["message"]


@pytest.mark.parametrize(
    ("method", "overrides", "key"),
    [
        ("best_of_n", {"best_of_n": {"n": 0}}, "best_of_n.n"),
        ("best_of_n", {"best_of_n": {"n": 4, "samples": 2}}, "best_of_n.samples"),
        ("best_of_n", {"models": {"rewards": []}}, "models.rewards"),
        ("expert_iteration", {"expert_iteration": {"temperature": 0}}, "expert_iteration.temperature"),
        ("expert_iteration", {"models": {"rewards": []}}, "models.rewards"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(
    method: str, overrides: dict[str, Any], key: str, sampled_places: dict[str, Path]
) -> None:
    make = best_of_n_config if method == "best_of_n" else expert_config
    with pytest.raises(ConfigError) as refused:
        parse_config(make(sampled_places, **overrides))
    assert refused.value.key == key
