"""`evaluate`: figures of reward models on preferences and of a policy beside its reference, with what each needs."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.engine_runs import error_of, lines_of, own_signals, result_of
from tests.engine.planted import LABEL_POLICY, SPLIT, planted_snapshot, preference
from tests.engine.tiny import tiny_model
from training.engine import evaluation, models
from training.engine.__main__ import main
from training.engine.config import EvaluateConfig, parse_config
from training.engine.evaluation import best_of_n_points
from training.engine.files import directory_hash
from training.engine.logprobs import completion_logprobs
from training.engine.metrics import METRICS
from training.engine.packing import Sharing, build_pack, use_packed_attention
from training.engine.records import write_snapshot
from training.engine.rollouts import Group
from training.engine.sampling import Completion, Prompt, generate
from training.engine.scoring import Given, GivenCompletion, load_reward_models
from training.engine.supervision import StopRun, Supervision
from training.engine.text import load_text


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("evaluation")
    for name, seed in (("policy", 1), ("reference", 2)):
        tiny_model(root / name, seed=seed, spread=0.3)
    for seed in (3, 4, 5):
        tiny_model(root / f"reward{seed}", seed=seed, spread=0.3, reward=True)
    planted_snapshot(root / "snapshot", train=4, validation=4, test=12)
    return {path.name: str(path) for path in root.iterdir()}


def config(places: dict[str, str], **changes: Any) -> dict[str, Any]:
    return {
        "method": "evaluate",
        "seed": 1,
        "models": {"policy": None},
        "data": {"snapshot": places["snapshot"]},
        "sampling": {"max_new_tokens": 6, "batch_size": 8},
        "memory": {"micro_tokens": 128},
        "evaluate": {"prompts": 5, "samples": 1},
        **changes,
    }


def evaluate(raw: dict[str, Any], out: Path) -> int:
    path = out.with_suffix(".json")
    path.write_text(json.dumps(raw))
    with own_signals():
        return main(["evaluate", str(path), "--out", str(out)])


def done(raw: dict[str, Any], out: Path) -> tuple[dict[str, Any], dict[str, float]]:
    assert evaluate(raw, out) == 0, (out / "error.json").read_text()
    result = result_of(out)
    assert result["status"] == "done"
    assert result["metrics"].keys() <= METRICS.keys()
    return result, result["metrics"]


def given(pair: dict[str, Any]) -> Given:
    sides = [GivenCompletion(text=pair[side]) for side in ("chosen", "rejected")]
    return Given(id=pair["id"], prompt=pair["prompt"], completions=sides)


# --- reward models ----------------------------------------------------------------------------------------------------


def test_a_reward_model_is_measured_on_the_test_preferences(places: dict[str, str], tmp_path: Path) -> None:
    raw = config(places, models={"rewards": [places["reward3"]]})
    result, found = done(raw, tmp_path / "out")
    pairs = [preference(number) for number in range(8, 20)]  # after four lines of train and four of validation
    loaded = load_reward_models([places["reward3"]], device="cpu")
    scores = loaded([given(pair) for pair in pairs]).view(-1, 2)
    margins = [float(chosen - rejected) for chosen, rejected in scores]
    assert found["test/accuracy"] == pytest.approx(sum(margin > 0 for margin in margins) / 12)
    assert found["test/accuracy_low"] <= found["test/accuracy"] <= found["test/accuracy_high"]
    assert found["test/margin"] == pytest.approx(sum(margins) / 12, abs=1e-5)
    brier = sum((1 / (1 + math.exp(-margin)) - 1) ** 2 for margin in margins) / 12
    assert found["test/brier"] == pytest.approx(brier, abs=1e-5)
    assert (found["test/pairs"], found["test/groups"]) == (12, 6)
    assert {"test/longer_wins", "test/calibration_error", "test/length_correlation"} <= found.keys()
    assert "test/models_agreement" not in found
    lines = lines_of(tmp_path / "out" / "samples.jsonl")
    assert [line["completion"] for line in lines[:2]] == [pairs[0]["chosen"], pairs[0]["rejected"]]
    assert len(lines) == 2 * 5
    assert result["lineage"]["models"] == {"reward_0": directory_hash(Path(places["reward3"]))}


def test_several_models_say_how_far_they_agree(places: dict[str, str], tmp_path: Path) -> None:
    names = [places[f"reward{seed}"] for seed in (3, 4, 5)]
    result, found = done(config(places, models={"rewards": names}), tmp_path / "out")
    pairs = [preference(number) for number in range(8, 20)]
    items = [given(pair) for pair in pairs]
    scores = load_reward_models(names, device="cpu").score(items).view(3, 12, 2)
    margins = scores[..., 0] - scores[..., 1]
    alike = [float(((a * b) > 0).double().mean()) for a, b in combinations(margins, 2)]
    assert found["test/models_agreement"] == pytest.approx(sum(alike) / 3)
    assert -1 <= found["test/models_correlation"] <= 1
    assert found["test/margin"] == pytest.approx(float(margins.mean()), abs=1e-5)
    each = [member["metrics"]["test/margin"] for member in result["members"]]
    assert each == pytest.approx(margins.mean(dim=1).tolist(), abs=1e-5)


def test_a_model_agrees_with_itself(places: dict[str, str], tmp_path: Path) -> None:
    _, found = done(config(places, models={"rewards": [places["reward3"]] * 2}), tmp_path / "out")
    assert found["test/models_agreement"] == 1
    assert found["test/models_correlation"] == pytest.approx(1)


def test_the_validation_part_has_names_of_its_own(places: dict[str, str], tmp_path: Path) -> None:
    data = {"snapshot": places["snapshot"], "part": "validation", "max_tokens": 400}
    _, found = done(config(places, models={"rewards": [places["reward3"]]}, data=data), tmp_path / "out")
    assert found["eval/pairs"] == 4
    assert not [name for name in found if name.startswith("test/")]


# --- a policy ---------------------------------------------------------------------------------------------------------


def test_a_policy_beside_itself_has_no_kl_and_wins_half(places: dict[str, str], tmp_path: Path) -> None:
    chosen = {"policy": places["policy"], "reference": places["policy"], "rewards": [places["reward3"]]}
    _, found = done(config(places, models=chosen), tmp_path / "out")
    assert [found[f"rollout/{name}"] for name in ("kl", "kl_k3", "kl_per_token", "kl_token_max")] == [0, 0, 0, 0]
    # The same prompts and random numbers: every contest is a tie.
    assert found["win/win_rate"] == 0.5
    assert found["win/win_rate_length_controlled"] == pytest.approx(0.5)
    assert found["rollout/score"] == pytest.approx(found["reference/score"])
    assert found["rollout/samples"] == 5


def test_kl_scores_and_wins_are_those_of_the_samples(places: dict[str, str], tmp_path: Path) -> None:
    chosen = {"policy": places["policy"], "reference": places["reference"], "rewards": [places["reward3"]]}
    result, found = done(config(places, models=chosen, evaluate={"prompts": 4, "samples": 3}), tmp_path / "out")
    lines = [line for line in lines_of(tmp_path / "out" / "samples.jsonl") if "policy" in line]
    ours, theirs = ([line for line in lines if line["policy"] == who] for who in ("policy", "reference"))
    assert len(ours) == len(theirs) == 12
    changes = _changes(places, ours)
    assert [line["kl"] for line in ours] == pytest.approx(changes, abs=1e-4)
    assert found["rollout/kl"] == pytest.approx(sum(changes) / 12, abs=1e-4)
    tokens = sum(line["length"] for line in ours)
    assert found["rollout/kl_per_token"] == pytest.approx(sum(changes) / tokens, abs=1e-4)
    assert found["rollout/kl_k3_per_token"] == pytest.approx(found["rollout/kl_k3"] * 12 / tokens)
    assert found["rollout/kl_k3"] > 0
    assert found["rollout/score"] == pytest.approx(sum(line["score"] for line in ours) / 12)
    wins = [a["score"] > b["score"] for a, b in zip(ours, theirs, strict=True)]
    assert found["win/win_rate"] == pytest.approx(sum(wins) / 12)
    assert result["lineage"]["models"].keys() == {"policy", "reference", "reward_0"}
    curve = result["best_of_n"]
    assert [point["n"] for point in curve] == [1, 2, 3]
    assert curve[0]["score"] == pytest.approx(found["rollout/score"])
    by_prompt = [max(line["score"] for line in ours[3 * n : 3 * n + 3]) for n in range(4)]
    assert curve[-1]["score"] == found["rollout/best_score"] == pytest.approx(sum(by_prompt) / 4)
    assert found["rollout/kl_bound"] == pytest.approx(math.log(3) - 2 / 3)


def _changes(places: dict[str, str], lines: list[dict[str, Any]]) -> list[float]:
    """log π − log π_ref of each completion alone, sampled once more with the same numbers."""
    text, policy = load_text(Path(places["policy"])), models.load_policy(Path(places["policy"]))
    reference = models.load_policy(Path(places["reference"]))
    prompts = {line["prompt_id"]: Prompt(id=line["prompt_id"], messages=line["prompt"]) for line in lines}
    again = generate(policy, text, list(prompts.values()), seed=1, stream="evaluation", completions=3, max_new_tokens=6)
    found = {(completion.prompt_id, completion.index): completion for completion in again}
    use_packed_attention(reference)
    changes = []
    for line in lines:
        completion = found[line["prompt_id"], line["index"]]
        assert completion.text == line["completion"]
        prompt = tuple(text.prompt_ids(line["prompt"]))
        pack = build_pack([Sharing(prompt=prompt, completions=(completion.token_ids,))], device=torch.device("cpu"))
        with torch.no_grad():
            changes.append(completion.logprob - float(completion_logprobs(reference, pack)))
    return changes


def test_a_policy_alone_is_sampled_and_measured(places: dict[str, str], tmp_path: Path) -> None:
    _, found = done(config(places, models={"policy": places["policy"]}), tmp_path / "out")
    assert {"rollout/length_mean", "rollout/unfinished_share"} <= found.keys()
    assert not [
        name for name in found if name.startswith(("win/", "reference/", "test/", "rollout/kl", "rollout/score"))
    ]


def test_prompts_of_any_kind_of_snapshot_are_sampled(places: dict[str, str], tmp_path: Path) -> None:
    lines = [{"id": f"e{n}", "group": f"g{n}", "prompt": preference(n)["prompt"]} for n in range(3)]
    write_snapshot(tmp_path / "s", kind="prompts", label_policy=LABEL_POLICY, split=SPLIT, lines={"test": lines})
    data = {"snapshot": str(tmp_path / "s")}
    chosen = {"policy": places["policy"], "rewards": [places["reward3"]]}
    _, found = done(config(places, models=chosen, data=data), tmp_path / "out")
    assert found["rollout/samples"] == 3
    assert "test/accuracy" not in found


def test_a_conditioned_policy_is_sampled_under_its_control(places: dict[str, str], tmp_path: Path) -> None:
    controlled = tiny_model(tmp_path / "controlled", seed=1, spread=0.3)
    (controlled / "winnow.json").write_text(json.dumps({"control": "good good good"}))
    written = []
    for directory in (places["policy"], str(controlled)):
        out = tmp_path / f"out{len(written)}"
        models_section = {"policy": directory, "reference": places["policy"]}
        _, found = done(config(places, models=models_section), out)
        lines = [line for line in lines_of(out / "samples.jsonl") if line["policy"] == "policy"]
        written.append([line["completion"] for line in lines])
        assert all(line["prompt"][0]["role"] == "user" for line in lines)
        assert (found["rollout/kl_k3"] > 0) == (directory != places["policy"])
    assert written[0] != written[1]


def test_prompts_are_kept_that_leave_room_as_every_policy_reads_them(places: dict[str, str], tmp_path: Path) -> None:
    lines = [
        {"id": f"e{n}", "group": f"g{n}", "prompt": [{"role": "user", "content": " good" * (1 + 8 * n)}]}
        for n in range(3)
    ]
    write_snapshot(tmp_path / "s", kind="prompts", label_policy=LABEL_POLICY, split=SPLIT, lines={"test": lines})
    text = load_text(Path(places["policy"]))
    longest = max(len(text.prompt_ids(line["prompt"])) for line in lines)
    raw = config(places, data={"snapshot": str(tmp_path / "s"), "max_tokens": longest + 6})
    _, found = done({**raw, "models": {"policy": places["policy"]}}, tmp_path / "all")
    assert (found["rollout/samples"], found["data/prompts_too_long"]) == (3, 0)
    # One more word before each prompt is too much for the longest, for the policy as for its reference.
    controlled = tiny_model(tmp_path / "controlled", seed=1, spread=0.3)
    (controlled / "winnow.json").write_text(json.dumps({"control": "good"}))
    for number, section in enumerate(
        ({"policy": str(controlled)}, {"policy": places["policy"], "reference": str(controlled)})
    ):
        _, found = done({**raw, "models": section}, tmp_path / f"out{number}")
        assert (found["rollout/samples"], found["data/prompts_too_long"]) == (2, 1)
    # So is a context that is shorter than what the config allows.
    shape = json.loads((controlled / "config.json").read_text())
    (controlled / "config.json").write_text(json.dumps({**shape, "max_position_embeddings": longest}))
    (controlled / "winnow.json").unlink()
    _, found = done({**raw, "models": {"policy": str(controlled)}}, tmp_path / "short")
    assert (found["rollout/samples"], found["data/prompts_too_long"]) == (2, 1)
    raw["data"]["max_tokens"] = 7
    assert evaluate({**raw, "models": {"policy": places["policy"]}}, tmp_path / "none") == 3


def test_another_tokenizer_leaves_the_kl_out_and_the_wins_in(places: dict[str, str], tmp_path: Path) -> None:
    other = tiny_model(tmp_path / "other", seed=2, spread=0.3)
    found = json.loads((other / "tokenizer.json").read_text())
    found["model"]["merges"] = []
    (other / "tokenizer.json").write_text(json.dumps(found))
    chosen = {"policy": places["policy"], "reference": str(other), "rewards": [places["reward3"]]}
    _, values = done(config(places, models=chosen), tmp_path / "out")
    assert "rollout/kl" not in values
    assert "win/win_rate" in values


def test_an_empty_completion_has_a_kl_of_zero() -> None:
    completions = tuple(
        Completion(
            prompt_id="p",
            index=number,
            text="",
            token_ids=ids,
            token_logprobs=(0.0,) * len(ids),
            logprob=0.0,
            sampler_logprob=0.0,
            finish="length",
        )
        for number, ids in enumerate([(), (7, 8)])
    )
    sharing = Sharing(prompt=(5,), completions=tuple(c.token_ids for c in completions))
    group = Group(id="p", group="g", prompt=[], sharing=sharing, completions=completions)
    ratios = [torch.zeros(0).double(), torch.tensor([0.5, 0.25]).double()]
    found = evaluation._rollouts([group], torch.tensor([1.0, 2.0]), ratios)
    assert [(r.kl, r.kl_token_max, r.score) for r in found] == [(0.0, 0.0, 1.0), (0.75, 0.5, 2.0)]
    assert evaluation._kl_by_both(ratios)["rollout/kl_per_token"] == pytest.approx(0.375)


def test_the_curve_of_known_scores_is_known() -> None:
    # Best of 2 from {0, 1, 2, 3}: the six pairs have maxima 1, 2, 3, 2, 3, 3.
    points = best_of_n_points(torch.tensor([[3.0, 0.0, 2.0, 1.0]] * 2, dtype=torch.float64), ["a", "b"])
    assert [point["n"] for point in points] == [1, 2, 4]
    assert [point["score"] for point in points] == pytest.approx([1.5, 14 / 6, 3])
    assert points[1]["kl_bound"] == pytest.approx(math.log(2) - 0.5)
    assert points[1]["low"] == pytest.approx(14 / 6)
    assert "low" not in best_of_n_points(torch.ones(1, 2), ["a"])[0]


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_evaluated_exits_3(places: dict[str, str], tmp_path: Path) -> None:
    lines = [{"id": "e", "group": "g", "prompt": preference(0)["prompt"]}]
    write_snapshot(tmp_path / "s", kind="prompts", label_policy=LABEL_POLICY, split=SPLIT, lines={"train": lines})
    data = {"snapshot": str(tmp_path / "s")}
    rewards = {"rewards": [places["reward3"]]}
    cases = {
        "holds prompts, not preferences": config(places, models=rewards, data=data),
        "test.jsonl: is empty or absent": config(places, models={"policy": places["policy"]}, data=data),
        "is a policy, not a reward model": config(places, models={"rewards": [places["policy"]]}),
        "is a reward model, not a policy": config(places, models={"policy": places["reward3"]}),
        "test.jsonl: every pair is longer than data.max_tokens": config(
            places, models=rewards, data={"snapshot": places["snapshot"], "max_tokens": 3}
        ),
        "not found; the directory is no snapshot": config(places, models=rewards, data={"snapshot": str(tmp_path)}),
    }
    for number, (message, raw) in enumerate(cases.items()):
        assert evaluate(raw, tmp_path / f"out{number}") == 3
        assert message in error_of(tmp_path / f"out{number}")["message"]


def test_no_model_at_all_exits_2(places: dict[str, str], tmp_path: Path) -> None:
    assert evaluate(config(places), tmp_path / "out") == 2
    assert "models.policy must be set where no reward model is" in error_of(tmp_path / "out")["message"]


@pytest.mark.parametrize("section", [{"policy": "policy"}, {"rewards": ["reward3"]}])
def test_a_stop_ends_an_evaluation_at_once(places: dict[str, str], tmp_path: Path, section: dict[str, Any]) -> None:
    named = {key: places[name] if isinstance(name, str) else [places[name[0]]] for key, name in section.items()}
    parsed = parse_config(config(places, models=named))
    assert isinstance(parsed, EvaluateConfig)
    supervision = Supervision()
    supervision.request_stop()
    with pytest.raises(StopRun):
        evaluation.run(parsed, tmp_path, resume=None, supervision=supervision)
    assert not (tmp_path / "result.json").exists()


def test_help_shows_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("score", "evaluate"):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        shown = capsys.readouterr().out
        assert f'{{"method": "{command}"' in shown
        start = shown.index("{")
        parsed, _ = json.JSONDecoder().raw_decode(shown[start:])
        parse_config(parsed)
