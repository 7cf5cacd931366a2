"""RLOO and REINFORCE on a taught tiny policy, and what all policy gradients share: sampling, budget, β, evaluation."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.engine_runs import error_of, lines_of, result_of, run_here, steps_of
from tests.engine.planted import planted_snapshot
from tests.engine.sampled_runs import (
    check_a_kill_changes_nothing,
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
from training.engine.advantages import next_beta
from training.engine.config import RlooConfig, parse_config
from training.engine.errors import ConfigError, ModelError
from training.engine.experience import finish, keep, kept, minibatch, ratio_figures, step_metrics
from training.engine.held_out import HeldOut, limits_of
from training.engine.logprobs import completion_logprobs
from training.engine.loop import Batch
from training.engine.packing import Sharing, build_pack
from training.engine.rollout_figures import Limits
from training.engine.rollouts import Group, own_sampler, policy_columns
from training.engine.scoring import load_reward_models
from training.engine.sections import Combine

_ = sampled_places
BETA = 0.2
INNER = {"minibatch": 16, "inner_epochs": 2}


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("rloo", {}),
        ("rloo", {"adapter": None, "optim": {"learning_rate": 2e-3}}),
        ("rloo", {"batch": INNER, "optim": {"learning_rate": 3e-3}}),
        ("reinforce", {}),
        ("reinforce", {"batch": INNER, "optim": {"learning_rate": 3e-3}}),
    ],
    ids=["rloo", "rloo all weights", "rloo inner", "reinforce", "reinforce inner"],
)
def test_the_planted_preference_is_learned(
    method: str, changes: dict[str, Any], sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    assert run_here(sampled_config(method, sampled_places, **changes), tmp_path / "out") == 0
    before, after = learned(tmp_path / "out")
    assert after > before + 2
    first = lines_of(tmp_path / "out" / "metrics.jsonl")[1]
    assert first["ppo/ratio_max"] == 1
    assert abs(first["rollout/kl"]) < 1e-5
    assert first["rollout/sampler_gap"] < 1e-5


def test_every_figure_of_the_specification_is_written(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    held_out = {"held_out": [str(sampled_places["other"])]}
    assert run_here(sampled_config("rloo", sampled_places, models=held_out), tmp_path / "out") == 0
    lines = lines_of(tmp_path / "out" / "metrics.jsonl")
    each = {
        *("train/loss", "train/learning_rate", "train/grad_norm", "train/tokens", "ppo/beta", "ppo/policy_loss"),
        *("ppo/approx_kl", "ppo/clip_share", "ppo/ratio_max", "rollout/score", "rollout/reward", "rollout/kl"),
        *(
            "rollout/kl_k3",
            "rollout/kl_per_token",
            "rollout/kl_k3_per_token",
            "rollout/length_mean",
            "rollout/length_p95",
        ),
        *("rollout/unfinished_share", "rollout/advantage_std", "rollout/sampler_gap", "rollout/groups_without_spread"),
        *("time/step", "time/sample", "time/score", "time/logprobs", "time/train", "speed/tokens_per_second"),
    }
    assert all(each <= line.keys() for line in lines[1:])
    assert ["rollout/entropy" in line for line in lines[1:]] == [True] + 5 * [False]
    evaluated = {"eval/score", "eval/score_low", "eval/held_out_score", "eval/kl", "eval/length_mean", "eval/entropy"}
    assert all(evaluated <= line.keys() for line in (lines[0], lines[2], lines[-1]))
    assert lines[0]["eval/kl"] == 0
    assert lines[0]["data/prompts"] == 24
    assert "rollout/cusum" in lines[-1]
    result = result_of(tmp_path / "out")
    assert result["checkpoints"]["best"] is not None
    assert {"base", "reward_0", "held_out_0"} <= result["lineage"]["models"].keys()
    samples = lines_of(tmp_path / "out" / "samples.jsonl")
    assert {line["step"] for line in samples} == {0, 2, 4, 6}
    wanted = {"prompt", "completion", "score", "held_out_score", "reward", "kl", "length", "finish"}
    assert len(samples) == 4 * 8
    assert all(wanted <= line.keys() for line in samples)
    shown = samples[-1]
    assert shown["finish"] == "length" or shown["reward"] == pytest.approx(shown["score"] - 0.05 * shown["kl"])


def test_the_gradient_is_that_of_the_formula(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    """−(1/K) Σ (R_i − mean of the others' R) ∇ log π(y_i), each completion read alone."""
    for method, per_prompt in (("rloo", 4), ("reinforce", 1)):
        raw = sampled_config(method, sampled_places, kl={"beta": BETA}, batch={"completions": 8})
        session, scorer = open_session(raw, tmp_path / method)
        config = session.config
        assert isinstance(config, RlooConfig)
        iteration = gathered(session, scorer, with_old=False)
        # A reference that is not the policy, so that the KL is not zero.
        iteration.items = [replace(item, reference=item.reference - 0.3) for item in iteration.items]
        iteration.kl += 0.3 * sum(float(item.lengths.sum()) for item in iteration.items) / 8
        rloo._rloo_pass(session, config, iteration, iteration.items, divisor=8.0)
        found = gradients(session)
        fresh = [
            replace(item, old=own["logp"])
            for item, own in zip(
                iteration.items, policy_columns(session, [i.group for i in iteration.items]), strict=True
            )
        ]
        rloo._rloo_pass(session, config, iteration, fresh, divisor=8.0)
        with_old = gradients(session)

        alone = [
            Sharing(prompt=item.sharing.prompt, completions=(ids,))
            for item in iteration.items
            for ids in item.sharing.completions
        ]
        logps = [completion_logprobs(session.model, build_pack([one], device=session.device))[0] for one in alone]
        lengths = [len(one.completions[0]) for one in alone]
        scores = [float(score) for item in iteration.items for score in item.scores]
        returns = [s - BETA * 0.3 * t for s, t in zip(scores, lengths, strict=True)]
        size = per_prompt if per_prompt > 1 else 8
        loss = 0.0
        for i, logp in enumerate(logps):
            others = [returns[j] for j in range(8) if j // size == i // size and j != i]
            loss = loss - (returns[i] - sum(others) / len(others)) * logp / 8
        loss.backward()  # type: ignore[attr-defined]
        wanted = gradients(session)
        scale = max(float(g.abs().max()) for g in wanted)
        assert scale > 0.1
        for one, two, three in zip(found, with_old, wanted, strict=True):
            assert float((one - three).abs().max()) < 1e-5 * scale
            assert float((two - three).abs().max()) < 1e-5 * scale


def test_the_split_into_micro_batches_changes_nothing(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    weights = []
    for micro_tokens in (64, 4096):
        changes: dict[str, Any] = {"optim": {"learning_rate": 1e-3, "eps": 1e-3}, "batch": {"iterations": 2}}
        config = sampled_config("rloo", sampled_places, memory={"micro_tokens": micro_tokens}, **changes)
        out = tmp_path / str(micro_tokens)
        assert run_here(config, out) == 0
        weights.append(load_file(out / "checkpoints" / "step-2" / "adapter" / "adapter_model.safetensors"))
    for name, one in weights[0].items():
        assert torch.allclose(one, weights[1][name], rtol=1e-4, atol=1e-6), name


def test_without_an_end_token_the_score_is_replaced(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    raw = sampled_config(
        "rloo",
        sampled_places,
        sampling={"max_new_tokens": 1},
        rloo={"missing_end_score": -3.0},
        batch={"iterations": 1},
    )
    assert run_here(raw, tmp_path / "out") == 0
    line = lines_of(tmp_path / "out" / "metrics.jsonl")[1]
    assert line["rollout/unfinished_share"] == 1
    assert line["rollout/reward"] == pytest.approx(-3.0, abs=1e-6)
    assert line["rollout/score"] != pytest.approx(-3.0, abs=0.1)
    assert line["rollout/groups_without_spread"] == 1
    assert all(s["reward"] < -2 for s in lines_of(tmp_path / "out" / "samples.jsonl"))


@pytest.mark.parametrize(("target", "rises"), [(1e-3, True), (1e3, False)])
def test_beta_moves_towards_the_kl_that_is_asked_for(
    target: float, rises: bool, sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    kl = {"target": target, "horizon": 64, "beta": 0.1, "budget": None}
    assert run_here(sampled_config("rloo", sampled_places, kl=kl, batch=INNER), tmp_path / "out") == 0
    lines = lines_of(tmp_path / "out" / "metrics.jsonl")[1:]
    assert len(lines) == 6 * 4
    beta = 0.1
    for start in range(0, len(lines), 4):  # the same β in all steps of an iteration
        assert [line["ppo/beta"] for line in lines[start : start + 4]] == 4 * [beta]
        beta = next_beta(beta, kl=lines[start]["rollout/kl"], target=target, completions=32, horizon=64)
    assert (lines[-1]["ppo/beta"] > 0.1) == rises


@pytest.mark.parametrize("method", ["ppo", "rloo", "grpo", "online_dpo", "quark"])
def test_without_a_validation_part_no_checkpoint_is_the_best(
    method: str, sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    """Training prompts are asked then; the record says so, and their scores do not choose."""
    planted_snapshot(tmp_path / "snapshot", validation=0)
    for name, snapshot, asked in (("with", sampled_places["snapshot"], 8), ("without", tmp_path / "snapshot", 0)):
        batch = {"iterations": 2, "completions": 16}
        config = sampled_config(method, {**sampled_places, "snapshot": snapshot}, batch=batch)
        assert run_here(config, tmp_path / name) == 0
        lines = lines_of(tmp_path / name / "metrics.jsonl")
        assert lines[0]["data/held_out_prompts"] == asked
        assert (result_of(tmp_path / name)["checkpoints"]["best"] is None) == (asked == 0)
        assert lines_of(tmp_path / name / "samples.jsonl")


def test_one_rounding_of_a_large_logit_is_no_wrong_policy_in_bf16(
    sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    """bf16 numbers in [16, 32) are 0.125 apart; 0.05 off in the mean is another policy."""
    one, all_tokens = torch.zeros(200), torch.full((200,), 0.05)
    one[7] = 0.125
    assert float(torch.expm1(one).abs().max()) > 0.13
    of_token = torch.arange(200) // 50
    for dtype in ("bf16", "fp32"):
        raw = sampled_config("rloo", sampled_places, precision={"dtype": dtype})
        session, _ = open_session(raw, tmp_path / dtype)
        for log_ratio, fits in ((one, dtype == "bf16"), (all_tokens, False)):
            figures = ratio_figures(log_ratio, of_token, 4)
            batch = Batch(losses=torch.zeros(4), weights=torch.ones(4), figures=figures, tokens=200)
            if fits:
                assert step_metrics(session, batch, tokens=200)["ppo/ratio_max"] == pytest.approx(math.exp(0.125))
                continue
            with pytest.raises(AssertionError, match="before step 1 ratios to π_old"):
                step_metrics(session, batch, tokens=200)


def test_a_run_ends_above_its_kl_budget_and_its_best_is_below(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    raw = sampled_config("rloo", sampled_places, kl={"budget": 1.0}, eval={"every": 1})
    assert run_here(raw, tmp_path / "out") == 0
    result = result_of(tmp_path / "out")
    assert result["status"] == "stopped_kl"
    assert "above kl.budget = 1" in result["reason"]
    assert 0 < result["step"] < 6
    assert result["checkpoints"]["last"]["step"] == result["step"]
    evaluated = {line["step"]: line["eval/kl"] for line in lines_of(tmp_path / "out" / "metrics.jsonl")}
    best = result["checkpoints"]["best"]
    assert best is None or evaluated[best["step"]] <= 1.0
    assert any(alarm["name"] == "kl_budget" for alarm in result["alarms"])
    assert run_here(raw, tmp_path / "out") == 0  # going on samples the same completions
    assert result_of(tmp_path / "out") == result


def test_a_checkpoint_in_the_middle_of_an_iteration_holds_it(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    session, scorer = open_session(sampled_config("rloo", sampled_places, batch=INNER), tmp_path)
    iteration = gathered(session, scorer)
    assert kept(session) is None
    keep(session, iteration)
    again = kept(session)
    assert again is not None
    assert (again.kl, again.figures) == (iteration.kl, iteration.figures)
    for one, two in zip(iteration.items, again.items, strict=True):
        assert one.group == two.group
        assert one.old is not None
        assert two.old is not None
        for name in ("scores", "reference", "old"):
            assert torch.equal(getattr(one, name), getattr(two, name))
    finish(session, session.config, iteration)  # type: ignore[arg-type]
    assert kept(session) is None
    assert session.tensors == {}


def test_every_completion_is_trained_on_once_an_epoch_in_whole_groups(
    sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    session, scorer = open_session(sampled_config("rloo", sampled_places, batch=INNER), tmp_path)
    config = session.config
    assert isinstance(config, RlooConfig)
    iteration = gathered(session, scorer)
    epochs = []
    for _epoch in range(2):
        seen: list[str] = []
        for _part in range(2):
            items = minibatch(session, config, iteration)
            assert sum(len(item.scores) for item in items) == 16
            seen += [item.id for item in items]
            session.open_step({})
            session.close_step({})
        assert sorted(seen) == sorted(item.id for item in iteration.items)
        epochs.append(seen)
    assert epochs[0] != epochs[1]


def test_a_sampler_of_texts_alone_is_refused(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    session, scorer = open_session(sampled_config("rloo", sampled_places), tmp_path)
    config = session.config
    assert isinstance(config, RlooConfig)
    own = own_sampler(session, config.sampling)

    def server(*args: Any, **options: Any) -> list[Group]:
        def bare(group: Group) -> Group:
            nothing: dict[str, Any] = {"token_ids": (), "token_logprobs": (), "logprob": math.nan}
            return replace(group, completions=tuple(replace(c, **nothing) for c in group.completions))

        return [bare(group) for group in own(*args, **options)]

    with pytest.raises(ConfigError, match="text without token ids"):
        rloo.train(session, config, sampler=server, scorer=scorer, held_out=HeldOut(prompts=[]))


def test_a_sampler_that_is_not_the_policy_is_found_before_step_1(
    sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    for batch in ({}, INNER):
        session, scorer = open_session(sampled_config("rloo", sampled_places, batch=batch), tmp_path / str(len(batch)))
        config = session.config
        assert isinstance(config, RlooConfig)
        own = own_sampler(session, config.sampling)

        def other(*args: Any, sample: Any = own, **options: Any) -> list[Group]:
            def moved(group: Group) -> Group:
                return replace(
                    group,
                    completions=tuple(
                        replace(c, token_logprobs=tuple(x - 0.01 for x in c.token_logprobs)) for c in group.completions
                    ),
                )

            return [moved(group) for group in sample(*args, **options)]

        with pytest.raises(ModelError, match=r"differ by up to 1\.00e-02"):
            rloo.train(session, config, sampler=other, scorer=scorer, held_out=HeldOut(prompts=[]))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"kl": {"target": 6.0, "horizon": 31}}, "kl.horizon"),
        ({"batch": {"completions": 1, "per_prompt": 1}}, "batch.completions"),
        ({"batch": {"minibatch": 6}}, "batch.minibatch"),
        ({"rloo": {"clip": 0.0}}, "rloo.clip"),
        ({"models": {"rewards": []}}, "models.rewards"),
        ({"sampling": {"temperature": 0.7}}, "sampling.temperature"),
    ],
)
def test_a_refusal_names_its_key(changes: dict[str, Any], key: str, sampled_places: dict[str, Path]) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config(sampled_config("rloo", sampled_places, **changes))
    assert refused.value.key == key


def test_a_policy_is_refused_as_a_reward_model(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    raw = sampled_config("rloo", sampled_places, models={"rewards": [str(sampled_places["base"])]})
    assert run_here(raw, tmp_path / "out") == 3
    assert "is a policy, not a reward model" in error_of(tmp_path / "out")["message"]


def test_what_the_reward_models_own_training_said_bounds_the_scores(
    sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    """The 99th percentile and the price of length stand in winnow.json; several models' are combined as the scores."""
    directories = []
    for number, (mean, p99, slope) in enumerate([(1.0, 1.5, 0.25), (0.0, -9.0, 0.75)]):
        directory = tmp_path / str(number)
        shutil.copytree(sampled_places["reward"], directory)
        facts = json.loads((directory / "winnow.json").read_text())
        reward = {"mean": mean, "std": 1.0, "p99": p99, "length_slope": slope}
        (directory / "winnow.json").write_text(json.dumps({**facts, "reward": reward}))
        directories.append(str(directory))
    both = load_reward_models(directories, device="cpu")
    assert limits_of(both, budget=3.0) == Limits(p99=(0.5 - 9.0) / 2, length_slope=0.5, kl_budget=3.0)
    assert limits_of(replace(both, combine=Combine.WORST), budget=None).p99 == -9.0
    without = load_reward_models([directories[0], str(sampled_places["reward"])], device="cpu")
    known = json.loads((sampled_places["reward"] / "winnow.json").read_text())["reward"]
    assert (limits_of(without, budget=None).p99 is None) == (known.get("p99") is None)

    raw = sampled_config("rloo", sampled_places, models={"rewards": directories[1:]}, batch={"iterations": 1})
    assert run_here(raw, tmp_path / "out") == 0
    line = lines_of(tmp_path / "out" / "metrics.jsonl")[-1]
    assert line["rollout/score_above_p99"] == 1
    assert line["alarm/score_range"] == 1
    alarms = {alarm["name"]: alarm["evidence"] for alarm in result_of(tmp_path / "out")["alarms"]}
    assert "100%" in alarms["score_range"][0]


def test_several_reward_models_and_more_prompts_than_there_are(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    models = {"rewards": [str(sampled_places[name]) for name in ("reward", "other")], "combine": "worst"}
    batch = {"completions": 64, "per_prompt": 2, "iterations": 1}  # 32 prompts of the 24 there are
    assert run_here(sampled_config("rloo", sampled_places, models=models, batch=batch), tmp_path / "out") == 0
    assert steps_of(tmp_path / "out") == [0, 1]


@pytest.mark.parametrize("batch", [{}, INNER], ids=["one step", "inner steps"])
def test_a_killed_run_ends_with_the_same_bytes(
    batch: dict[str, Any], sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    kl = {"target": 0.5, "horizon": 64}
    raw = sampled_config(
        "rloo", sampled_places, batch={**batch, "iterations": 8 if batch else 30}, kl=kl, checkpoint={"every": 3}
    )
    raw["optim"]["learning_rate"] = 1e-3
    check_a_kill_changes_nothing(raw, tmp_path, at_steps=(7, 17))


@pytest.mark.parametrize(("at_step", "grace"), [(0, 20.0), (5, 20.0), (6, 0.0), (9, 0.0)])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    at_step: int, grace: float, sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    raw = sampled_config("rloo", sampled_places, batch=INNER, stop={"grace_seconds": grace})
    raw["optim"]["learning_rate"] = 1e-3
    run_until_stopped(raw, tmp_path / "out", at_step=at_step)
    stopped = result_of(tmp_path / "out")
    assert stopped["status"] == "stopped"
    assert at_step <= stopped["step"] < 24
    assert run_here(raw, tmp_path / "out") == 0
    assert run_here(raw, tmp_path / "whole") == 0
    check_same_end(tmp_path / "out", tmp_path / "whole")
