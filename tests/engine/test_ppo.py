"""PPO on a taught tiny policy: its critics, rewards and advantages, both places of the KL, early stop, resume."""

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
from transformers import MistralConfig, MistralForCausalLM, MistralForSequenceClassification

from tests.engine.engine_runs import lines_of, result_of, run_here, start_child, steps_of
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
    weights_of,
)
from training.engine import critics, ppo, starting
from training.engine.checkpoint import newest_checkpoint
from training.engine.config import PpoConfig, parse_config
from training.engine.errors import ConfigError
from training.engine.examples import load_prompts
from training.engine.experience import Iteration, keep, kept
from training.engine.logprobs import token_logprobs
from training.engine.models import save_model, score_head
from training.engine.packing import ATTENTION, PADDED, Sharing, build_pack, layout_of
from training.engine.records import KINDS
from training.engine.scoring import Given, GivenCompletion, load_reward_models
from training.engine.supervision import Supervision
from training.engine.text import load_text

_ = sampled_places
INNER = {"minibatch": 16, "inner_epochs": 2}
RATES: dict[str, Any] = {"optim": {"learning_rate": 3e-3}}


def config_of(places: dict[str, Path], **changes: Any) -> dict[str, Any]:
    options = {"critic_learning_rate": 1e-2, **changes.pop("ppo", {})}
    return sampled_config("ppo", places, **{**RATES, "batch": INNER, "ppo": options, **changes})


def shared_session(
    places: dict[str, Path], out: Path, *, with_old: bool = True, **changes: Any
) -> tuple[Any, PpoConfig, Iteration]:
    """A run with a shared critic whose head is not zero, and its first iteration."""
    options = {"critic": "shared", **changes.pop("ppo", {})}
    session, scorer = open_session(config_of(places, ppo=options, **changes), out)
    config = session.config
    assert isinstance(config, PpoConfig)
    head = session.trained["policy"].extra[critics.VALUE_HEAD]
    with torch.no_grad():
        head.copy_(torch.randn(head.shape, generator=torch.Generator().manual_seed(3)))
    iteration = gathered(session, scorer, with_old=with_old, value_head=head)
    # A reference that is not the policy, so that the KL is not zero.
    iteration.items = [replace(item, reference=item.reference - 0.3) for item in iteration.items]
    return session, config, ppo.estimate_advantages(config, iteration, beta=config.kl.beta)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"adapter": None, "optim": {"learning_rate": 1e-3}},
        {"ppo": {"critic": "shared"}},
        {"ppo": {"critic": "shared"}, "adapter": None, "optim": {"learning_rate": 1e-3}},
        {"ppo": {"kl_in": "loss"}},
        # Returns that are not whitened are noisier: it needs more of them.
        {
            "batch": {"iterations": 12},
            "ppo": {"whiten_advantages": False, "lam": 1.0, "critic_learning_rate": 1e-2},
        },
    ],
    ids=["separate", "all weights", "shared", "shared, all weights", "KL in the loss", "returns, not whitened"],
)
def test_the_planted_preference_is_learned(
    changes: dict[str, Any], sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    assert run_here(config_of(sampled_places, **changes), tmp_path / "out") == 0
    before, after = learned(tmp_path / "out")
    assert after > before + 2
    result = result_of(tmp_path / "out")
    separate = changes.get("ppo", {}).get("critic") != "shared"
    folder = tmp_path / "out" / result["checkpoints"]["last"]["path"]
    assert (folder / "critic").is_dir() == separate
    if separate and "adapter" not in changes:
        assert (folder / "critic" / "head.safetensors").is_file()
    state = load_file(folder / "state.safetensors")
    assert ("extra/value_head" in state) == (not separate)
    if not separate:
        assert float(state["extra/value_head"].abs().max()) > 0


def test_every_figure_of_the_specification_is_written(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    assert run_here(config_of(sampled_places, batch={**INNER, "iterations": 2}), tmp_path / "out") == 0
    lines = lines_of(tmp_path / "out" / "metrics.jsonl")
    each = {
        *("train/loss", "ppo/policy_loss", "ppo/beta", "ppo/approx_kl", "ppo/clip_share", "ppo/ratio_max"),
        *("ppo/early_stop", "time/step", "time/train", "train/tokens"),
    }
    moved = {
        *("train/learning_rate", "train/grad_norm", "ppo/value_loss"),
        *("train/critic_learning_rate", "train/critic_grad_norm"),
    }
    sampled = {
        *("rollout/score", "rollout/reward", "rollout/kl", "rollout/kl_per_token"),
        *("rollout/sampler_gap", "ppo/explained_variance", "rollout/advantage_std", "rollout/length_mean"),
        *("time/sample", "time/score", "time/logprobs"),
    }
    begins = [number for number, line in enumerate(lines) if "rollout/score" in line]
    assert len(begins) == 2
    assert begins[0] == 1
    assert "rollout/entropy" in lines[1]
    for number, line in enumerate(lines[1:], start=1):
        assert each <= line.keys()
        assert (sampled <= line.keys()) == (number in begins)
        assert (moved <= line.keys()) == (line["ppo/early_stop"] == 0)
    assert lines[1]["train/critic_learning_rate"] == pytest.approx(lines[1]["train/learning_rate"] * 1e-2 / 3e-3)


@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_with_one_minibatch_and_one_epoch_every_ratio_is_one(
    critic: str, sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    batch = {"minibatch": None, "inner_epochs": 1}
    assert run_here(config_of(sampled_places, batch=batch, ppo={"critic": critic}), tmp_path / "out") == 0
    lines = lines_of(tmp_path / "out" / "metrics.jsonl")[1:]
    assert len(lines) == 6
    for line in lines:
        assert (line["ppo/ratio_max"], line["ppo/approx_kl"], line["ppo/clip_share"]) == (1, 0, 0)
        # Whitened advantages sum to 0, and at ρ = 1 the loss is their mean.
        assert line["ppo/policy_loss"] == pytest.approx(0, abs=1e-6)
        assert line["rollout/sampler_gap"] < 1e-5


@pytest.mark.parametrize("whiten", [True, False])
@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_advantages_and_returns_are_those_of_the_formula(
    kl_in: str, whiten: bool, sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    options = {"gamma": 0.9, "lam": 0.8, "kl_in": kl_in, "whiten_advantages": whiten}
    _session, config, iteration = shared_session(sampled_places, tmp_path, ppo=options, kl={"beta": 0.2})
    raw: list[float] = []
    returns: list[float] = []
    values: list[float] = []
    price = 0.2 if kl_in == "reward" else 0.0
    for item in iteration.items:
        assert item.old is not None
        assert item.values is not None
        (score,) = item.scores.tolist()
        v = [*item.values.tolist(), 0.0]
        assert max(map(abs, v)) > 0.1
        k1 = (item.old - item.reference).tolist()
        assert k1 == pytest.approx([0.3] * len(k1), abs=1e-4)
        r = [-price * k for k in k1]
        r[-1] += score
        advantage, backwards = 0.0, []
        for t in reversed(range(len(r))):
            advantage = r[t] + 0.9 * v[t + 1] - v[t] + 0.9 * 0.8 * advantage
            backwards.append(advantage)
        own = backwards[::-1]
        raw += own
        returns += [a + x for a, x in zip(own, v, strict=False)]
        values += v[:-1]
    mean = sum(raw) / len(raw)
    spread = math.sqrt(sum((a - mean) ** 2 for a in raw) / (len(raw) - 1))
    wanted = [(a - mean) / (spread + 1e-8) if whiten else a for a in raw]
    found = torch.cat([item.advantages for item in iteration.items if item.advantages is not None])
    assert found.tolist() == pytest.approx(wanted, abs=1e-4)
    found = torch.cat([item.returns for item in iteration.items if item.returns is not None])
    assert found.tolist() == pytest.approx(returns, abs=1e-4)
    assert iteration.figures["rollout/advantage_std"] == pytest.approx(spread, rel=1e-4)
    residual = torch.tensor(returns) - torch.tensor(values)
    share = 1 - float(residual.var() / torch.tensor(returns).var())
    assert iteration.figures["ppo/explained_variance"] == pytest.approx(share, rel=1e-3)
    assert config.ppo.lam == 0.8


@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_the_gradient_is_that_of_the_formula(kl_in: str, sampled_places: dict[str, Path], tmp_path: Path) -> None:
    """Policy, value and, where it is in the loss, KL term by hand, with π_old and V_old away from π and V."""
    changes: dict[str, Any] = {"kl": {"beta": 0.2}, "batch": {"completions": 8, "minibatch": 8, "inner_epochs": 2}}
    session, config, iteration = shared_session(sampled_places, tmp_path, ppo={"kl_in": kl_in}, **changes)
    generator = torch.Generator().manual_seed(5)

    def moved(column: torch.Tensor | None) -> torch.Tensor:
        assert column is not None
        return column + 0.3 * torch.randn(len(column), generator=generator)

    items = [replace(item, old=moved(item.old), values=moved(item.values)) for item in iteration.items]
    count = sum(len(item.reference) for item in items)
    ppo._policy_pass(session, config, items, divisor=float(count))
    found = gradients(session)

    head = session.trained["policy"].extra[critics.VALUE_HEAD]
    loss = torch.zeros(())
    for item in items:
        pack = build_pack([item.sharing], device=session.device)
        logp = token_logprobs(session.model, pack)
        values = ppo.hidden_states(session.model, pack)[pack.rows] @ head
        assert item.old is not None
        assert item.values is not None
        assert item.advantages is not None
        assert item.returns is not None
        ratio = (logp - item.old).exp()
        loss = loss - torch.minimum(ratio * item.advantages, ratio.clamp(0.8, 1.2) * item.advantages).sum()
        near = torch.maximum(torch.minimum(values, item.values + 0.2), item.values - 0.2)
        squares = torch.maximum((values - item.returns) ** 2, (near - item.returns) ** 2)
        loss = loss + 0.1 * 0.5 * squares.sum()
        if kl_in == "loss":
            whole = min(float((logp - item.old).detach().sum().exp()), 2.0)
            loss = loss + 0.2 * whole * 0.5 * (logp - item.reference).sum() ** 2
    (loss / count).backward()  # type: ignore[no-untyped-call]
    wanted = gradients(session)
    scale = max(float(g.abs().max()) for g in wanted)
    assert scale > 1e-2
    for one, two in zip(found, wanted, strict=True):
        assert float((one - two).abs().max()) < 1e-5 * scale


def test_a_separate_critic_starts_as_the_centred_score_of_what_is_there_so_far(
    sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    """V_t before y_t is s(x, y_<t) − mean: row and offset are right, without any training."""
    directory = tmp_path / "reward"
    shutil.copytree(sampled_places["reward"], directory)
    facts = json.loads((directory / "winnow.json").read_text())
    (directory / "winnow.json").write_text(json.dumps({**facts, "reward": {"mean": 1.5, "std": 1.0}}))
    places = {**sampled_places, "reward": directory}
    config = parse_config(config_of(places))
    assert isinstance(config, PpoConfig)
    (tmp_path / "out").mkdir()
    opening = starting.open_run(config, tmp_path / "out", resume=None, supervision=Supervision(), kinds=KINDS)
    prompts = load_prompts("train", data=config.data, text=opening.text).examples
    critic, offset = critics.load_critic(config, opening, prompts=prompts)
    assert offset == 1.5
    prompt = prompts[0]
    ids = tuple(opening.text.completion_ids("good a dog", finished=True))
    pack = build_pack([Sharing(prompt=prompt.sharing.prompt, completions=(ids[:2], ids))], device=opening.device)
    values = critics.values_of(critic, pack, offset=offset)[2:].tolist()
    scorer = load_reward_models([str(directory)], device="cpu", own=opening.text)
    begun = [GivenCompletion(text="not read", finish="length", token_ids=ids[:length]) for length in range(1, len(ids))]
    scores = scorer([Given(id="p", prompt=prompt.prompt, completions=begun)]).tolist()
    assert values[1:] == pytest.approx(scores, abs=1e-4)


def test_a_critic_begins_from_the_policy_where_the_reward_model_reads_other_ids(
    sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    directory = tmp_path / "reward"
    shutil.copytree(sampled_places["reward"], directory)
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["merges"] = []
    path.write_text(json.dumps(tokenizer))
    places = {**sampled_places, "reward": directory}
    config = parse_config(config_of(places))
    assert isinstance(config, PpoConfig)
    (tmp_path / "out").mkdir()
    opening = starting.open_run(config, tmp_path / "out", resume=None, supervision=Supervision(), kinds=KINDS)
    prompts = load_prompts("train", data=config.data, text=opening.text).examples
    critic, offset = critics.load_critic(config, opening, prompts=prompts)
    assert offset == 0
    assert not score_head(critic).weight.any()
    raw = config_of(places, batch={**INNER, "iterations": 1})
    assert run_here(raw, tmp_path / "run") == 0
    raw["adapter"] = None
    assert run_here(raw, tmp_path / "whole") == 0


@pytest.mark.parametrize(("tokens", "layout"), [(8, ATTENTION), (64, PADDED)])
def test_policy_and_critic_are_looked_at_with_texts_as_long_as_sampled_ones(
    tokens: int, layout: str, sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    """A window that holds the longest prompt with 8 tokens more, and not with 64."""
    text = load_text(sampled_places["base"])
    options = {
        "vocab_size": len(text.tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3,
        "eos_token_id": text.end_id, "pad_token_id": text.pad_id,
    }  # fmt: skip
    config = parse_config(config_of(sampled_places, sampling={"max_new_tokens": tokens}))
    assert isinstance(config, PpoConfig)
    prompts = load_prompts("train", data=config.data, text=text).examples
    options["sliding_window"] = max(len(prompt.ids) for prompt in prompts) + 32 + 8
    models = {"base": str(tmp_path / "base"), "rewards": [str(tmp_path / "reward")]}
    torch.manual_seed(0)
    save_model(MistralForCausalLM(MistralConfig(**options)), text, tmp_path / "base", winnow={})
    scored = MistralForSequenceClassification(MistralConfig(**options, num_labels=1))
    save_model(scored, text, tmp_path / "reward", winnow={})
    config = replace(config, models=replace(config.models, base=models["base"], rewards=tuple(models["rewards"])))
    (tmp_path / "out").mkdir()
    opening = starting.open_run(config, tmp_path / "out", resume=None, supervision=Supervision(), kinds=KINDS)
    policy, _ = starting.load_policies(opening, config, prompts)
    critic, _ = critics.load_critic(config, opening, prompts=prompts)
    assert (layout_of(policy), layout_of(critic)) == (layout, layout)


def test_too_large_an_inner_kl_leaves_out_the_rest_of_the_iteration(
    sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    limit = 1e-4
    raw = config_of(
        sampled_places,
        ppo={"inner_kl_target": limit},
        checkpoint={"every": 1, "keep": 100},
        batch={**INNER, "iterations": 3},
    )
    assert run_here(raw, tmp_path / "out") == 0
    lines = lines_of(tmp_path / "out" / "metrics.jsonl")[1:]
    stops = [line["step"] for line in lines if line["ppo/early_stop"]]
    assert stops
    for line in lines:
        assert (line["ppo/approx_kl"] > 1.5 * limit) == bool(line["ppo/early_stop"])
        if line["step"] - 1 in stops:
            assert "rollout/score" in line  # the next line begins an iteration
        if line["step"] in stops:
            before, after = (
                load_file(tmp_path / "out" / "checkpoints" / f"step-{step}" / "adapter" / "adapter_model.safetensors")
                for step in (line["step"] - 1, line["step"])
            )
            assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert sum("rollout/score" in line for line in lines) == 3
    result = result_of(tmp_path / "out")
    assert result["status"] == "done"
    assert result["checkpoints"]["last"]["step"] == result["step"] == lines[-1]["step"] < 3 * 4
    assert "eval/score" in lines[-1]

    raw["ppo"]["inner_kl_target"] = None
    assert run_here(raw, tmp_path / "never") == 0
    assert len(steps_of(tmp_path / "never")) == 1 + 3 * 4


def test_a_checkpoint_in_the_middle_of_an_iteration_holds_all_of_it(
    sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    session, _config, iteration = shared_session(sampled_places, tmp_path)
    keep(session, iteration)
    again = kept(session)
    assert again is not None
    for one, two in zip(iteration.items, again.items, strict=True):
        assert one.group == two.group
        for name in ("scores", "reference", "old", "advantages", "returns", "values"):
            assert getattr(one, name) is not None
            assert torch.equal(getattr(one, name), getattr(two, name))


def test_the_split_into_micro_batches_changes_nothing(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    weights = []
    for micro_tokens in (64, 4096):
        rates = {"optim": {"learning_rate": 1e-3, "eps": 1e-3}, "batch": {**INNER, "iterations": 1}}
        raw = config_of(sampled_places, memory={"micro_tokens": micro_tokens}, **rates)
        assert run_here(raw, tmp_path / str(micro_tokens)) == 0
        (folder,) = (tmp_path / str(micro_tokens) / "checkpoints").glob("step-4")
        weights.append(
            {
                **load_file(folder / "adapter" / "adapter_model.safetensors"),
                **{
                    f"critic.{k}": v
                    for k, v in load_file(folder / "critic" / "adapter" / "adapter_model.safetensors").items()
                },
            }
        )
    for name, one in weights[0].items():
        assert torch.allclose(one, weights[1][name], rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"lam": 1.5}, "ppo.lam"),
        ({"clip": 1.0}, "ppo.clip"),
        ({"critic": "none"}, "ppo.critic"),
        ({"tau": 1}, "ppo.tau"),
    ],
)
def test_a_refusal_names_its_key(options: dict[str, Any], key: str, sampled_places: dict[str, Path]) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config(config_of(sampled_places, ppo=options))
    assert refused.value.key == key


def test_a_killed_run_ends_with_the_same_bytes(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    kl = {"target": 0.5, "horizon": 64}
    raw = config_of(sampled_places, kl=kl, checkpoint={"every": 3}, optim={"learning_rate": 1e-3})
    check_a_kill_changes_nothing(raw, tmp_path, at_steps=(3, 10))
    # Another attempt in a directory of its own goes on from the checkpoint that it is given.
    middle = newest_checkpoint(tmp_path / "whole" / "checkpoints")
    assert middle is not None
    child = start_child(raw, tmp_path / "elsewhere", "--resume", str(middle.path))
    assert child.wait() == 0
    assert weights_of(tmp_path / "elsewhere") == weights_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "at_step", "grace"),
    [
        ({}, 5, 20.0),
        ({}, 11, 0.0),
        ({"adapter": None}, 5, 0.0),
        ({"ppo": {"critic": "shared"}}, 5, 0.0),
        ({"ppo": {"inner_kl_target": 1e-4}}, 4, 0.0),
    ],
    ids=["finishes the step", "drops the step", "all weights", "shared", "early stop"],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    changes: dict[str, Any], at_step: int, grace: float, sampled_places: dict[str, Path], tmp_path: Path
) -> None:
    raw = config_of(
        sampled_places, **{"optim": {"learning_rate": 1e-3}, "batch": {**INNER, "iterations": 4}, **changes}
    )
    raw["stop"]["grace_seconds"] = grace
    run_until_stopped(raw, tmp_path / "out", at_step=at_step)
    assert result_of(tmp_path / "out")["status"] == "stopped"
    assert run_here(raw, tmp_path / "out") == 0
    assert run_here(raw, tmp_path / "whole") == 0
    check_same_end(tmp_path / "out", tmp_path / "whole")
