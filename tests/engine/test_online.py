from __future__ import annotations

import json
import math
import os
import shutil
import signal
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
from tests.engine.openai_server import Answer, said, serving
from tests.engine.sampled_runs import sampled_config, sampled_places
from tests.engine.test_resume import weights_of
from training.engine import fresh_pairs, losses
from training.engine.assembling import assemble
from training.engine.checkpoint import newest_checkpoint
from training.engine.config import OnlineLabel, OnlineOptions, parse_config
from training.engine.errors import ConfigError
from training.engine.metrics import METRICS
from training.engine.packing import Sharing
from training.engine.rollouts import Group
from training.engine.sampling import Completion
from training.engine.scoring import load_reward_models

_ = sampled_places


def online_config(places: dict[str, Path], **overrides: Any) -> dict[str, Any]:
    """The other sampled methods' tiny run of six iterations, with 32 pairs each."""
    config = sampled_config("online_dpo", places, optim={"learning_rate": 6e-3}, batch={"completions": 64})
    return merged(config, overrides)


def merged(config: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    for key, value in overrides.items():
        below = config.get(key)
        config[key] = merged(dict(below), value) if isinstance(below, dict) and isinstance(value, dict) else value
    return config


def group_of(a: str, b: str, *, finishes: tuple[str, str] = ("end", "end"), name: str = "p") -> Group:
    completions = tuple(
        Completion(
            prompt_id=name,
            index=index,
            text=text,
            token_ids=(index + 5,),
            token_logprobs=(-1.0,),
            logprob=-1.0,
            sampler_logprob=-1.0,
            finish=finish,  # type: ignore[arg-type]
        )
        for index, (text, finish) in enumerate(zip((a, b), finishes, strict=True))
    )
    sharing = Sharing(prompt=(3, 4), completions=tuple(c.token_ids for c in completions))
    return Group(
        id=name, group=name, prompt=[{"role": "user", "content": "?"}], sharing=sharing, completions=completions
    )


# --- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["soft", "coin", "argmax"])
def test_a_policy_learns_what_the_reward_model_prefers(
    label: str, sampled_places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = online_config(sampled_places, online_dpo={"label": label})
    assert run_here(config, tmp_path / "out") == 0
    lines = lines_of(tmp_path / "out" / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(7))
    scores = [line["eval/score"] for line in lines if "eval/score" in line]
    assert scores[-1] > scores[0] + 1
    # π is π_ref before the first update, so whatever the labels are, the loss is ln 2.
    assert lines[1]["train/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert lines[0]["rollout/kl"] == pytest.approx(0, abs=1e-5)
    assert lines[-1]["rollout/kl"] > 0.01
    assert lines[-1]["rollout/kl_k3"] > 0
    assert all(name in METRICS for line in lines for name in line if "/" in name)
    entropies = [line["online/label_entropy"] for line in lines[1:]]
    assert all(0 <= entropy <= math.log(2) + 1e-9 for entropy in entropies)
    assert (max(entropies) == 0) == (label == "argmax")
    warned = "collapse" in capsys.readouterr().err
    assert warned == (label == "argmax") == ("online/argmax" in result_of(tmp_path / "out")["metrics"])


def test_the_best_checkpoint_is_that_of_the_highest_held_out_score(
    sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    config = online_config(sampled_places, eval={"every": 2}, adapter=None, optim={"learning_rate": 2e-3})
    assert run_here(config, tmp_path / "out") == 0
    scores = {x["step"]: x["eval/score"] for x in lines_of(tmp_path / "out" / "metrics.jsonl") if "eval/score" in x}
    best = result_of(tmp_path / "out")["checkpoints"]["best"]
    trained = {step: score for step, score in scores.items() if step}
    assert best["step"] == max(trained, key=lambda step: trained[step])
    assert max(trained.values()) > scores[0]
    samples = lines_of(tmp_path / "out" / "samples.jsonl")
    assert {line["step"] for line in samples} == {0, 2, 4, 6}
    for line in samples:
        assert line["reward"] == pytest.approx(0.1 * line["kl"])  # β·d(y)
        assert {"prompt", "completion", "finish", "length", "score"} <= line.keys()


def test_the_split_into_micro_batches_changes_no_number_beyond_rounding(
    sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    for name, size in (("one", 4096), ("many", 64)):
        config = online_config(sampled_places, memory={"micro_tokens": size}, batch={"iterations": 2})
        assert run_here(config, tmp_path / name) == 0
    one, many = (lines_of(tmp_path / name / "metrics.jsonl") for name in ("one", "many"))
    for a, b in zip(one, many, strict=True):
        for name in ("train/loss", "train/grad_norm", "policy/margin", "eval/score", "rollout/kl"):
            assert (name in a) == (name in b)
            if name in a:
                assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-5)


# --- labels -----------------------------------------------------------------------------------------------------------


def test_a_soft_label_is_the_logistic_of_the_score_difference_over_tau() -> None:
    scores = torch.tensor([[1.0, 0.0], [0.0, 3.0], [2.0, 2.0]], dtype=torch.float64)
    found = fresh_pairs.win_probabilities(scores, OnlineOptions(tau=2.0))
    assert found == pytest.approx([1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(1.5)), 0.5])
    assert fresh_pairs.win_probabilities(scores, OnlineOptions(label=OnlineLabel.ARGMAX)) == [1.0, 0.0, 0.5]


def test_a_coin_is_seeded_by_run_iteration_and_prompt_and_falls_with_its_q() -> None:
    group = group_of("good", "bad")

    def tosses(*, seed: int, iterations: range, count: int = 1) -> list[float]:
        return [
            q
            for iteration in iterations
            for _, q in fresh_pairs.toss([(group, 0.8)] * count, seed=seed, iteration=iteration)
        ]

    many = tosses(seed=1, iterations=range(4000))
    assert set(many) == {0.0, 1.0}
    # Four standard errors of a share of 0.8 among 4,000.
    assert sum(many) / 4000 == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / 4000))
    assert tosses(seed=1, iterations=range(50)) == many[:50]
    assert tosses(seed=2, iterations=range(50)) != many[:50]
    # The same prompt twice in an iteration has two coins.
    assert len(set(zip(*[iter(tosses(seed=1, iterations=range(50), count=2))] * 2, strict=True))) > 2


def test_the_gradient_of_a_coin_is_that_of_the_soft_label_in_the_mean() -> None:
    u = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    q = 0.8
    gradients = []
    for label in (q, 1.0, 0.0):
        (gradient,) = torch.autograd.grad(losses.preference_nll(u, torch.tensor([label], dtype=u.dtype)).sum(), u)
        gradients.append(float(gradient))
    soft, won, lost = gradients
    assert soft == pytest.approx(q * won + (1 - q) * lost, abs=1e-12)


def test_the_likelier_winner_comes_first_and_a_tie_keeps_its_order() -> None:
    group = group_of("good", "bad")
    for q, first, kept in ((0.8, 5, 0.8), (0.2, 6, 0.8), (0.5, 5, 0.5)):
        pair = fresh_pairs.make_pair(group, q)
        assert pair.sharing.completions[0] == (first,)
        assert pair.q == pytest.approx(kept)


def test_equal_texts_and_two_cut_completions_say_nothing() -> None:
    assert fresh_pairs.says_something(group_of("good", "bad"))
    assert fresh_pairs.says_something(group_of("good", "bad", finishes=("end", "length")))
    assert not fresh_pairs.says_something(group_of("good", "good"))
    assert not fresh_pairs.says_something(group_of("good", "good", finishes=("end", "length")))
    assert not fresh_pairs.says_something(group_of("good", "bad", finishes=("length", "length")))


def test_a_completion_without_an_end_has_the_score_of_the_config(
    sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    """With a score below every other the finished side of each pair wins, so all labels are certain."""
    config = online_config(
        sampled_places,
        batch={"iterations": 3},
        sampling={"max_new_tokens": 2},  # "good" and its end, or three tokens and no end
        online_dpo={"missing_end_score": -1e4},
    )
    assert run_here(config, tmp_path / "out") == 0
    lines = lines_of(tmp_path / "out" / "metrics.jsonl")[1:]
    assert any(0 < line["rollout/unfinished_share"] < 1 for line in lines)
    shares = [line["eval/unfinished_share"] for line in lines if "eval/unfinished_share" in line]
    assert all(line["online/skipped_share"] > 0 for line in lines)
    assert shares


def test_an_iteration_in_which_all_is_skipped_moves_nothing_and_is_counted(
    sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    """With one token no completion has ended but empty ones, which are all the same text."""
    config = online_config(sampled_places, batch={"iterations": 3}, sampling={"max_new_tokens": 1})
    assert run_here(config, tmp_path / "out") == 0
    lines = lines_of(tmp_path / "out" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert [line["online/skipped_share"] for line in lines[1:]] == [1.0, 1.0, 1.0]
    assert not any("train/loss" in line or "train/grad_norm" in line for line in lines)
    assert lines[-1]["rollout/kl_k3"] == 0
    assert result_of(tmp_path / "out")["status"] == "done"


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"batch": {"per_prompt": 4}}, "batch.per_prompt"),
        ({"batch": {"inner_epochs": 2}}, "batch.inner_epochs"),
        ({"batch": {"minibatch": 16}}, "batch.minibatch"),
        ({"models": {"rewards": []}}, "models.rewards"),
        ({"online_dpo": {"tau": 0}}, "online_dpo.tau"),
        ({"online_dpo": {"temperature": 0}}, "online_dpo.temperature"),
        ({"online_dpo": {"labeller": "judge"}}, "online_dpo.judge"),
        ({"online_dpo": {"labeller": "people", "label": "coin"}}, "online_dpo.label"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(
    overrides: dict[str, Any], key: str, sampled_places: dict[str, Path]
) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config(online_config(sampled_places, **overrides))
    assert refused.value.key == key


# --- resume -----------------------------------------------------------------------------------------------------------


LONG = {"batch": {"iterations": 12, "completions": 32}, "eval": {"every": 3}, "online_dpo": {"label": "coin"}}


@pytest.fixture(scope="module")
def whole_run(sampled_places: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("online") / "whole"
    assert run_here(online_config(sampled_places, **LONG), out) == 0
    return out


@pytest.mark.parametrize("how", ["kill", "term"])
def test_a_run_that_is_cut_off_ends_with_the_same_bytes(
    how: str, sampled_places: dict[str, Path], whole_run: Path, tmp_path: Path
) -> None:
    raw, out = online_config(sampled_places, **LONG), tmp_path / "cut"
    child = start_child(raw, out)
    wait_until(lambda: 5 in steps_of(out))
    if how == "kill":
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        assert not (out / "result.json").exists()
    else:
        child.terminate()
        assert child.wait() == 0
        assert result_of(out)["status"] == "stopped"
    former = newest_checkpoint(out / "checkpoints")
    assert former is not None
    shutil.copytree(out, tmp_path / "kept")
    assert run_here(raw, out) == 0
    assert run_here(raw, tmp_path / "moved", resume=tmp_path / "kept" / "checkpoints" / former.path.name) == 0
    assert steps_of(out) == steps_of(whole_run) == list(range(13))
    assert weights_of(out) == weights_of(tmp_path / "moved") == weights_of(whole_run)
    assert same_numbers(out / "metrics.jsonl", whole_run / "metrics.jsonl")
    assert lines_of(out / "samples.jsonl") == lines_of(whole_run / "samples.jsonl")


# --- a judge ----------------------------------------------------------------------------------------------------------


def dislikes_bad(body: dict[str, Any]) -> Answer:
    """Says which of two answers does not begin with "bad"; of "yes" and "no it is" nothing that can be read."""
    content = body["messages"][0]["content"]
    first, second = (content.split(f"[answer {n}]\n")[1].split(f"\n[end of answer {n}]")[0] for n in (1, 2))
    if {first, second} == {"yes", "no it is"}:
        return said("Hard to say, really.")
    if first.startswith("bad") == second.startswith("bad"):
        return said("tie")
    return said("2" if first.startswith("bad") else "1")


def judged_config(places: dict[str, Path], url: str, **overrides: Any) -> dict[str, Any]:
    judge = {"model": "judge", "server": {"url": url, "parallel": 2}}
    return online_config(places, online_dpo={"labeller": "judge", "judge": judge}, **overrides)


def test_a_policy_learns_what_a_judge_prefers_and_a_resumed_run_never_asks_twice(
    sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    with serving(dislikes_bad) as server:
        raw = judged_config(sampled_places, server.url, batch={"iterations": 12}, checkpoint={"every": 3})
        out = tmp_path / "out"
        child = start_child(raw, out)
        wait_until(lambda: 4 in steps_of(out))
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        former = newest_checkpoint(out / "checkpoints")
        assert former is not None
        assert former.step == 3
        shutil.copytree(out, tmp_path / "kept")
        asked = len(server.requests)
        known = len(lines_of(out / "judge.jsonl"))
        assert known <= asked
        assert run_here(raw, out) == 0
        contents = [request.body["messages"][0]["content"] for request in server.requests[:asked]]
        later = [request.body["messages"][0]["content"] for request in server.requests[asked:]]
        answered = {line["key"] for line in lines_of(out / "judge.jsonl")}
        assert len(lines_of(out / "judge.jsonl")) == len(answered)  # no question has two answers
        # What was asked and not yet stored at the kill is at most what was on its way.
        assert len(set(contents) & set(later)) <= asked - known <= 2
        # An attempt in another directory brings the answers along.
        before = len(server.requests)
        kept = tmp_path / "kept" / "checkpoints" / former.path.name
        assert run_here(raw, tmp_path / "moved", resume=kept) == 0
        repeated = [request.body["messages"][0]["content"] for request in server.requests[before:]]
        assert len(set(repeated) & set(contents)) <= 2
    assert weights_of(out) == weights_of(tmp_path / "moved")
    lines = lines_of(out / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(13))
    assert any(line.get("online/unreadable_share", 0) > 0 for line in lines)
    # It goes by the texts, so both orders agree and no place is better.
    told = [line for line in lines if "online/judge_agreement" in line]
    assert told
    assert {(line["online/judge_agreement"], line["online/judge_first_place"]) for line in told} == {(1.0, 0.5)}
    # The reward model, which only measures here, dislikes "bad" as the judge does.
    scores = [line["rollout/score"] for line in lines[1:]]
    assert sum(scores[-4:]) / 4 > scores[0] + 1
    assert "judge_prompt" in result_of(out)["lineage"]["models"]


def test_a_judge_whose_prompt_lacks_a_place_is_refused_before_anything_is_loaded(
    sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    raw = judged_config(sampled_places, "http://127.0.0.1:9/v1")
    raw["online_dpo"]["judge"]["prompt"] = "Which is better, {first} or {second}?"
    assert run_here(raw, tmp_path / "out") == 2
    assert "judge.prompt" in error_of(tmp_path / "out")["message"]


# --- people -----------------------------------------------------------------------------------------------------------


def test_people_are_waited_for_with_pairs_that_a_snapshot_can_be_made_of(
    sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    raw = online_config(sampled_places, online_dpo={"labeller": "people"}, models={"rewards": []})
    out = tmp_path / "out"
    assert run_here(raw, out) == 0
    result = result_of(out)
    assert result["status"] == "waiting_for_labels"
    pairs = lines_of(out / "pairs.jsonl")
    assert 0 < len(pairs) <= 32
    assert str(len(pairs)) in result["reason"]
    assert result["metrics"]["online/skipped_share"] == pytest.approx(1 - len(pairs) / 32)
    written = (out / "pairs.jsonl").read_bytes()
    assert run_here(raw, out) == 0
    assert (out / "pairs.jsonl").read_bytes() == written
    assert result_of(out)["status"] == "waiting_for_labels"
    # Votes turn a line into one of preferences, and the same command trains on them.
    voted = tmp_path / "voted.jsonl"
    with voted.open("w") as file:
        for line in pairs:
            first, second = line["completions"]
            chosen, rejected = (first, second) if first > second else (second, first)
            kept = {key: line[key] for key in ("id", "group", "prompt", "meta")}
            file.write(json.dumps({**kept, "chosen": chosen, "rejected": rejected, "prob_chosen": 1.0}) + "\n")
    manifest = assemble(voted, tmp_path / "snapshot", shares=(1.0, 0.0, 0.0))
    assert manifest.kind == "preferences"
    assert manifest.counts["train"] == len(pairs)


def test_scores_of_the_fixture_tell_good_from_bad(sampled_places: dict[str, Path]) -> None:
    models = load_reward_models([str(sampled_places["reward"])], device="cpu")
    scores = models([group_of("good", "bad")])
    assert scores[0] > scores[1] + 1
