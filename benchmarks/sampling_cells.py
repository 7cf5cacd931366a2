"""One cell of `benchmarks.sampling` in a process of its own: `python -m benchmarks.sampling_cells '{"side": …}'`.

Loads the model, makes a short run that is not counted, then the timed one, and prints one JSON line. Both sides start
from the same token ids, and a token counts up to and with the end token that stops its completion.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from training.engine import models
from training.engine.sampling import Prompt, generate
from training.engine.sections import Weights
from training.engine.text import Text, load_text

Ids = list[list[int]]
"""Tokens of each completion, the end token included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What is sampled, and by whom. `batches` are sets of prompts sampled one after the other, each at once."""

    side: str
    batches: tuple[tuple[tuple[int, ...], ...], ...]
    completions: int
    new_tokens: int
    temperature: float
    weights: str
    seed: int
    threads: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    tokens: int
    wall_seconds: float
    cpu_seconds: float
    peak_mib: float
    longest: int
    ids: Ids
    load: float


def choose_prompts(count: int, *, text: Text, data: Path, seed: int = 0) -> list[tuple[int, ...]]:
    """Real prompts of mixed length, rendered by the model's template."""
    lines = (data / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    chosen = random.Random(seed).sample(lines, count)  # noqa: S311 - a choice of prompts, no secret
    return [tuple(text.prompt_ids([{"role": "user", "content": json.loads(line)["prompt"]}])) for line in chosen]


def ours(model: Any, text: Text, prompts: list[tuple[int, ...]], cell: Cell) -> Ids:
    asked = [Prompt(id=str(number), messages=[], ids=ids) for number, ids in enumerate(prompts)]
    found = generate(
        model,
        text,
        asked,
        seed=cell.seed,
        stream="benchmark",
        completions=cell.completions,
        temperature=cell.temperature,
        max_new_tokens=cell.new_tokens,
        batch_size=len(prompts) * cell.completions,
        weights=Weights(cell.weights),
    )
    return [list(c.token_ids) for c in sorted(found, key=lambda c: (int(c.prompt_id), c.index))]


def transformers(model: Any, text: Text, prompts: list[tuple[int, ...]], cell: Cell) -> Ids:
    """`generate` as its guide calls it: one batch, filled up on the left, its dynamic cache."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[text.pad_id] * (longest - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    torch.manual_seed(cell.seed)
    law: dict[str, Any] = {"do_sample": False}
    if cell.temperature > 0:
        law = {"do_sample": True, "temperature": cell.temperature, "top_k": 0, "top_p": 1.0}
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=cell.new_tokens,
            num_return_sequences=cell.completions,
            eos_token_id=sorted(text.stop_ids),
            pad_token_id=text.pad_id,
            use_cache=True,
            **law,
        )
    return [_up_to_end(row, text.stop_ids) for row in out[:, longest:].tolist()]


def _up_to_end(row: list[int], stop_ids: frozenset[int]) -> list[int]:
    ends = [place for place, token in enumerate(row) if token in stop_ids]
    return row[: ends[0] + 1] if ends else row


def run(cell: Cell, directory: Path) -> Timed:
    torch.set_num_threads(cell.threads)
    text = load_text(directory)
    side: Callable[..., Ids]
    if cell.side == "ours":
        side, model = ours, models.load_policy(directory)
    else:  # as its guide loads it: our own loader would give it our products
        dtype = torch.bfloat16 if cell.weights == "bf16" else torch.float32
        side, model = transformers, AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    first = [prompt[:24] for prompt in cell.batches[0][:2]]
    side(model, text, first, Cell(**{**asdict(cell), "new_tokens": 3}))  # pages, threads and code are there after it
    ids: Ids = []
    load = os.getloadavg()[0]
    wall, cpu = time.perf_counter(), time.process_time()
    for prompts in cell.batches:
        ids += side(model, text, list(prompts), cell)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Timed(
        tokens=sum(map(len, ids)),
        wall_seconds=wall,
        cpu_seconds=cpu,
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        longest=max(map(len, ids)),
        ids=ids,
        load=load,
    )


if __name__ == "__main__":
    asked = json.loads(sys.stdin.read())
    print(json.dumps(asdict(run(Cell(**asked["cell"]), Path(asked["model"])))))
