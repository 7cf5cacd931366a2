"""SFT: what it learns, what its loss is a mean over, what it writes, and that it goes on where it was stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.engine_runs import error_of, lines_of, places, result_of, run_here, same_numbers, steps_of
from tests.engine.planted import LABEL_POLICY, SPLIT
from tests.engine.test_resume import weights_of
from tests.engine.tiny import tiny_model
from training.engine import sft
from training.engine.config import SftConfig, parse_config
from training.engine.errors import SnapshotError
from training.engine.examples import Demonstration
from training.engine.metrics import METRICS
from training.engine.models import load_policy
from training.engine.packing import Sharing
from training.engine.presets import default_config, merge
from training.engine.records import write_snapshot
from training.engine.supervision import Supervision
from training.engine.text import load_text

_ = places
USER = {"role": "user", "content": "What is the name?"}


def demonstration(number: int, **changes: Any) -> dict[str, Any]:
    tail = "it is " * (number % 3)
    record = {
        "id": f"d{number:03d}",
        "group": f"g{number:03d}",
        "prompt": [{"role": "user", "content": f"What is the name of dog {number}?"}],
        "completion": f"{tail}good dog",
    }
    return {**record, **changes}


def write(directory: Path, train: list[dict[str, Any]], *, validation: int = 4, test: int = 4) -> Path:
    held_out = [demonstration(100 + number) for number in range(validation + test)]
    lines = {"train": train, "validation": held_out[:validation], "test": held_out[validation:]}
    write_snapshot(directory, kind="demonstrations", label_policy=LABEL_POLICY, split=SPLIT, lines=lines)
    return directory


def sft_config(base: Path, snapshot: Path, **overrides: Any) -> dict[str, Any]:
    config = merge(
        default_config("sft"),
        {
            "models": {"base": str(base)},
            "data": {"snapshot": str(snapshot)},
            "batch": {"examples": 8, "epochs": 6},
            "optim": {"learning_rate": 2e-2},
            "memory": {"micro_tokens": 512},
            "eval": {"prompts": 2, "max_new_tokens": 8},
            "checkpoint": {"every": 4},
        },
    )
    return merge(config, overrides)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("sft") / "snapshot", [demonstration(number) for number in range(24)])


@pytest.mark.parametrize("adapter", [{"rank": 16}, None], ids=["lora", "all weights"])
def test_the_policy_learns_to_write_the_demonstrated_words(
    adapter: dict[str, int] | None, snapshot: Path, tmp_path: Path
) -> None:
    # The frozen head of an adapter's model must be large enough to say anything with certainty.
    base = tiny_model(tmp_path / "base", spread=0.3)
    out = tmp_path / "out"
    assert run_here(sft_config(base, snapshot, batch={"epochs": 16}, adapter=adapter), out) == 0
    lines = lines_of(out / "metrics.jsonl")
    assert lines[0]["rollout/kl"] == 0
    assert lines[0]["eval/loss"] > 3.0
    metrics = result_of(out)["metrics"]
    assert metrics["eval/loss"] < 1.0
    assert metrics["eval/end_probability"] > 0.5
    assert metrics["test/loss"] < lines[0]["eval/loss"] / 2
    assert metrics["rollout/kl"] > 1
    written = [line["completion"] for line in lines_of(out / "samples.jsonl") if line["step"] == 48]
    assert any("good dog" in text for text in written)
    assert lines[41]["train/token_accuracy"] > lines[1]["train/token_accuracy"]
    assert lines[41]["train/entropy"] < lines[1]["train/entropy"]


def test_every_metric_is_named_and_the_scored_tokens_are_shown(
    places: dict[str, Path], snapshot: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run_here(sft_config(places["base"], snapshot, batch={"epochs": 1}), out) == 0
    lines = lines_of(out / "metrics.jsonl")
    names = {name for line in lines for name in line if "/" in name}
    assert names <= METRICS.keys()
    assert {"train/loss", "eval/loss", "eval/end_probability", "test/loss", "rollout/kl", "data/examples"} <= names
    assert (lines[0]["data/examples"], lines[0]["data/dropped_too_long"], lines[0]["data/dropped_empty"]) == (24, 0, 0)
    assert [("train/entropy" in line) for line in lines] == [False, True, False, False]
    shown = [line for line in lines_of(out / "samples.jsonl") if "scored" in line]
    assert [line["prompt_id"] for line in shown] == ["d000", "d001", "d002", "d003"]
    assert shown[1]["scored"] == [{"text": "it is good dog<|end|>", "scored": True}]
    assert all("kl" in line for line in lines_of(out / "samples.jsonl") if "scored" not in line)


def logprobs_of(base: Path, record: dict[str, Any]) -> torch.Tensor:
    """log π of each token of a completion by the model's own forward pass, [T]."""
    text, model = load_text(base), load_policy(base)
    prompt = text.prompt_ids(record["prompt"])
    completion = text.completion_ids(record["completion"], finished=record.get("finish", "end") == "end")
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + completion])).logits[0]
    rows = torch.arange(len(prompt) - 1, len(prompt) + len(completion) - 1)
    return logits.double().log_softmax(dim=-1)[rows, torch.tensor(completion)]


@pytest.mark.parametrize("average", ["token", "sequence"])
def test_the_first_loss_is_the_weighted_mean_over_tokens_or_over_completions(
    average: str, places: dict[str, Path], tmp_path: Path
) -> None:
    records = [
        demonstration(0, completion="yes", weight=3.0),
        demonstration(1, completion="the dog is red and good, it is"),
        demonstration(2, completion="no the", finish="length", weight=0.5),
    ]
    snapshot = write(tmp_path / "s", records, validation=0, test=0)
    found = [logprobs_of(places["base"], record) for record in records]
    weights = [3.0, 1.0, 0.5]
    if average == "token":
        total = sum(w * float(logp.sum()) for w, logp in zip(weights, found, strict=True))
        expected = -total / sum(w * len(logp) for w, logp in zip(weights, found, strict=True))
    else:
        expected = -sum(w * float(logp.mean()) for w, logp in zip(weights, found, strict=True)) / sum(weights)
    for micro_tokens in (1, 4096):
        out = tmp_path / f"{micro_tokens}"
        overrides = {"sft": {"average": average}, "memory": {"micro_tokens": micro_tokens}}
        assert run_here(sft_config(places["base"], snapshot, batch={"epochs": 1}, **overrides), out) == 0
        line = lines_of(out / "metrics.jsonl")[1]
        assert line["train/loss"] == pytest.approx(expected, rel=1e-6)
        # One prompt token sequence a completion, counted once.
        assert line["train/tokens"] == sum(len(logp) for logp in found) + 3 * prompt_tokens(places["base"])


def prompt_tokens(base: Path) -> int:
    return len(load_text(base).prompt_ids(demonstration(1)["prompt"]))


@pytest.mark.parametrize("average", ["token", "sequence"])
def test_the_split_into_micro_batches_changes_nothing(
    average: str, places: dict[str, Path], snapshot: Path, tmp_path: Path
) -> None:
    weights = []
    for micro_tokens in (16, 4096):
        out = tmp_path / str(micro_tokens)
        config = sft_config(
            places["base"],
            snapshot,
            batch={"epochs": 1},
            optim={"learning_rate": 1e-3, "eps": 1e-3},
            sft={"average": average},
            memory={"micro_tokens": micro_tokens},
        )
        assert run_here(config, out) == 0
        weights.append(load_file(out / "checkpoints" / "step-3" / "adapter" / "adapter_model.safetensors"))
    for name, one in weights[0].items():
        assert torch.allclose(one, weights[1][name], rtol=1e-4, atol=1e-6), name


def test_every_assistant_turn_of_a_conversation_is_learned(places: dict[str, Path], tmp_path: Path) -> None:
    prompt = [USER, {"role": "assistant", "content": "good dog"}, {"role": "user", "content": "is it red?"}]
    records = [demonstration(number, prompt=prompt, completion="yes it is") for number in range(8)]
    snapshot = write(tmp_path / "s", records, validation=0, test=0)
    out = tmp_path / "out"
    assert run_here(sft_config(places["base"], snapshot, batch={"epochs": 1}), out) == 0
    (shown, *_) = [line for line in lines_of(out / "samples.jsonl") if "scored" in line]
    scored = [run["text"] for run in shown["scored"] if run["scored"]]
    assert scored == ["good dog<|end|>", "yes it is<|end|>"]
    first = logprobs_of(places["base"], {"prompt": [USER], "completion": "good dog"})
    second = logprobs_of(places["base"], {"prompt": prompt, "completion": "yes it is"})
    expected = -float(first.sum() + second.sum()) / (len(first) + len(second))
    assert lines_of(out / "metrics.jsonl")[1]["train/loss"] == pytest.approx(expected, rel=1e-6)
    sampled = [line for line in lines_of(out / "samples.jsonl") if "kl" in line]
    assert sampled[0]["prompt"] == prompt


def test_a_lost_space_inside_a_turn_is_seen(places: dict[str, Path]) -> None:
    """As of any completion; at the ends of a turn a template may trim."""
    text = load_text(places["base"])
    prompt = [{"role": "user", "content": "is it?"}, {"role": "assistant", "content": "yes it is"}]
    prompt.append({"role": "user", "content": "and the dog?"})
    runs = text.conversation_ids(prompt, "the dog", finished=True)
    (first, _), rest = runs[0], runs[1:]
    example = Demonstration(
        id="d",
        group="g",
        sharing=Sharing(
            prompt=tuple(first),
            completions=(tuple(token for run, _ in rest for token in run),),
            scored=(tuple(scored for run, scored in rest for _ in run),),
        ),
        weight=1.0,
        prompt=prompt,
        text=" the dog",
        finish="end",
    )
    sft.check_scored_turns([example], text)
    with pytest.raises(SnapshotError, match="scored tokens are"):
        sft.check_scored_turns([replace(example, text="thedog")], text)


def test_cut_and_single_token_completions_are_learned_and_empty_ones_counted(
    places: dict[str, Path], tmp_path: Path
) -> None:
    records = [
        demonstration(0, completion="good", finish="length"),
        demonstration(1, completion=""),  # its end token alone
        demonstration(2, completion="", finish="length"),
    ]
    snapshot = write(tmp_path / "s", records, validation=0, test=0)
    out = tmp_path / "out"
    assert run_here(sft_config(places["base"], snapshot, batch={"epochs": 1}), out) == 0
    first = lines_of(out / "metrics.jsonl")[0]
    assert (first["data/examples"], first["data/dropped_empty"]) == (2, 1)


def test_the_end_probability_is_that_of_the_end_tokens_where_texts_ended(
    places: dict[str, Path], tmp_path: Path
) -> None:
    records = [demonstration(100), demonstration(101, finish="length"), demonstration(102)]
    write_snapshot(
        tmp_path / "s",
        kind="demonstrations",
        label_policy=LABEL_POLICY,
        split=SPLIT,
        lines={"train": [demonstration(0)], "validation": records},
    )
    assert run_here(sft_config(places["base"], tmp_path / "s", batch={"epochs": 1}), tmp_path / "out") == 0
    ends = [float(logprobs_of(places["base"], record)[-1].exp()) for record in (records[0], records[2])]
    found = lines_of(tmp_path / "out" / "metrics.jsonl")[0]["eval/end_probability"]
    assert found == pytest.approx(sum(ends) / 2, rel=1e-5)


def test_what_cannot_be_trained_on_is_refused_by_name(places: dict[str, Path], snapshot: Path, tmp_path: Path) -> None:
    wrong_kind = sft_config(places["base"], places["snapshot"])
    assert run_here(wrong_kind, tmp_path / "a") == 3
    assert "holds preferences, not demonstrations" in error_of(tmp_path / "a")["message"]
    wrong_average = sft_config(places["base"], snapshot, sft={"average": "constant"})
    assert run_here(wrong_average, tmp_path / "b") == 2
    assert error_of(tmp_path / "b")["message"].startswith("sft.average")
    too_long = sft_config(places["base"], snapshot, data={"max_tokens": 18})
    assert run_here(too_long, tmp_path / "c") == 3
    assert "data.max_tokens" in error_of(tmp_path / "c")["message"]


@pytest.mark.parametrize("at_step", [0, 5])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    at_step: int, places: dict[str, Path], snapshot: Path, tmp_path: Path
) -> None:
    raw = sft_config(places["base"], snapshot, eval={"every": 3})
    config = parse_config(raw)
    assert isinstance(config, SftConfig)
    out = tmp_path / "out"
    out.mkdir()
    stopping(config, out, at_step=at_step)
    assert result_of(out)["status"] == "stopped"
    assert run_here(raw, out) == 0
    assert run_here(raw, tmp_path / "whole") == 0
    assert steps_of(out) == list(range(19))
    assert weights_of(out) == weights_of(tmp_path / "whole")
    assert same_numbers(out / "metrics.jsonl", tmp_path / "whole" / "metrics.jsonl")
    assert same_numbers(out / "samples.jsonl", tmp_path / "whole" / "samples.jsonl")


def stopping(config: SftConfig, out: Path, *, at_step: int) -> None:
    """A run that is asked to stop as soon as the line of a step is there."""

    class Watching(Supervision):
        @property
        def stop_requested(self) -> bool:
            return at_step in steps_of(out) or super().stop_requested

    sft.run(config, out, resume=None, supervision=Watching())


def test_a_policy_that_never_ends_rings_the_alarm_but_not_before_training(
    places: dict[str, Path], tmp_path: Path
) -> None:
    records = [demonstration(number, completion="it is " * 8, finish="length") for number in range(8)]
    snapshot = write(tmp_path / "s", records, validation=8, test=0)
    out = tmp_path / "out"
    assert run_here(sft_config(places["base"], snapshot, batch={"epochs": 2}, eval={"prompts": 8}), out) == 0
    lines = lines_of(out / "metrics.jsonl")
    assert lines[0]["rollout/unfinished_share"] > 0.2
    assert "alarm/end_tokens" not in lines[0]
    assert lines[-1]["alarm/end_tokens"] == 1
