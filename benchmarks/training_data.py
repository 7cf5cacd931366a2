"""Made-up examples of stated lengths, as a snapshot for the engine and as lines of ids in its order for the peer.

Words are common ones with a token each, so a text has as many tokens as it is told to, and both sides can be held to
the same ids. Every prompt has `PROMPT` tokens, its chat template included; completions are drawn between two lengths.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.engine.loop import plan_batches, plan_rollouts
from training.engine.records import write_snapshot
from training.engine.text import Text, load_text

PROMPT = 64
WORDS = (
    *("time", "people", "way", "water", "day", "man", "part", "place", "work", "week", "case", "point", "company"),
    *("number", "group", "problem", "fact", "house", "area", "story", "month", "lot", "study", "book", "eye", "job"),
    *("word", "business", "issue", "side", "kind", "head", "service", "friend", "father", "power", "hour", "game"),
    *("line", "end", "member", "law", "car", "city", "name", "team", "minute", "idea", "body", "back", "parent"),
)
SEED = 7


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One method's work: `steps` batches of `batch` examples, each example with its ids.

    Attributes:
        lines: JSON Lines of the examples in the order in which the engine takes them.
        tokens: of each step, the prompt counted once per completion; empty where completions are sampled.
    """

    method: str
    snapshot: Path
    lines: Path
    batch: int
    steps: int
    tokens: tuple[int, ...]


def make_task(
    directory: Path, *, method: str, model: Path, batch: int, steps: int, shortest: int, longest: int
) -> Task:
    """Write the snapshot and the lines.

    Args:
        batch: pairs (reward, dpo), demonstrations (sft) or prompts (RL) of a step.
        shortest, longest: tokens of a completion, its end token included.
    """
    text = load_text(model)
    draw = random.Random(SEED)  # noqa: S311 - data of a benchmark
    records, examples = [], {}
    for number in range(batch * steps):
        record, example = _example(draw, text, method=method, number=number, shortest=shortest, longest=longest)
        records.append(record)
        examples[record["id"]] = example
    kind = {"sft": "demonstrations", "reward": "preferences", "dpo": "preferences"}.get(method, "prompts")
    snapshot = directory / f"{method}-snapshot"
    write_snapshot(
        snapshot,
        kind=kind,
        label_policy={"aggregator": "majority", "tie_rule": "half", "min_votes": 1},
        split={"rule": "by group", "seed": SEED, "shares": [1.0, 0.0, 0.0]},
        lines={"train": records},
    )
    if kind == "prompts":
        plan = plan_rollouts(len(records), prompts=batch, iterations=steps, seed=SEED)
    else:
        plan = plan_batches(len(records), size=batch, epochs=1, seed=SEED, max_steps=steps)
    ordered = [[examples[records[index]["id"]] for index in indices] for indices in plan]
    lines = directory / f"{method}.jsonl"
    lines.write_text("".join(json.dumps(example) + "\n" for step in ordered for example in step))
    tokens = tuple(sum(_tokens(example) for example in step) for step in ordered)
    return Task(method=method, snapshot=snapshot, lines=lines, batch=batch, steps=steps, tokens=tokens)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as file:
        yield from map(json.loads, file)


def _example(
    draw: random.Random, text: Text, *, method: str, number: int, shortest: int, longest: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A line of the snapshot, and the same as ids and as plain text with the template applied."""
    messages, prompt_ids = _prompt(draw, text, number=number)
    name = f"e{number:05d}"
    record: dict[str, Any] = {"id": name, "group": name, "prompt": messages}
    shown = text.tokenizer.decode(prompt_ids, clean_up_tokenization_spaces=False)
    example: dict[str, Any] = {"id": name, "prompt": shown, "prompt_ids": prompt_ids}
    sides = {"sft": ("completion",), "reward": ("chosen", "rejected"), "dpo": ("chosen", "rejected")}.get(method, ())
    for side in sides:
        count = draw.randint(shortest, longest)
        record[side] = " ".join(draw.choice(WORDS) for _ in range(count - 1))
        ids = text.completion_ids(record[side], finished=True)
        if len(ids) != count:
            raise AssertionError(f"{count} tokens were wanted, the tokenizer makes {len(ids)} of {record[side][:60]!r}")
        example |= {side: record[side], f"{side}_ids": list(ids)}
    if len(sides) == 2:
        record["prob_chosen"] = 1.0
    return record, example


def _prompt(draw: random.Random, text: Text, *, number: int) -> tuple[list[dict[str, str]], list[int]]:
    words = ["Write", "a", "long", "story", "about", *(draw.choice(WORDS) for _ in range(PROMPT))]
    while True:
        messages = [{"role": "user", "content": " ".join(words)}]
        ids = list(text.prompt_ids(messages))
        if len(ids) == PROMPT:
            return messages, ids
        if len(ids) < PROMPT:
            raise AssertionError(f"prompt {number} jumped over {PROMPT} tokens")
        del words[-max(1, (len(ids) - PROMPT) // 2) :]


def _tokens(example: dict[str, Any]) -> int:
    completions = [len(example[key]) for key in ("completion_ids", "chosen_ids", "rejected_ids") if key in example]
    return sum(completions) + len(example["prompt_ids"]) * len(completions)
