"""A snapshot with a planted preference, "good" over "bad", and configs that learn it on a tiny model in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.engine.presets import default_config, merge
from training.engine.records import Manifest, write_snapshot

LABEL_POLICY = {"aggregator": "majority", "tie_rule": "half", "min_votes": 1}
SPLIT = {"rule": "by group", "seed": 1, "shares": [0.8, 0.1, 0.1]}


def preference(number: int, **changes: Any) -> dict[str, Any]:
    """One pair; texts of unequal lengths, and the longer one wins as often as not."""
    tail = "it is " * (number % 3) + "a dog"
    record = {
        "id": f"p{number:03d}",
        "group": f"g{number // 2:03d}",
        "prompt": [{"role": "user", "content": f"What is the name of dog {number}?"}],
        "chosen": f"good {tail}" if number % 2 else "good",
        "rejected": "bad" if number % 2 else f"bad {tail}",
        "prob_chosen": 1.0,
    }
    return {**record, **changes}


def planted_snapshot(
    directory: Path, *, train: int = 24, validation: int = 8, test: int = 8, ties: int = 0
) -> Manifest:
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    start = 0
    for part, count in (("train", train), ("validation", validation), ("test", test)):
        parts[part] = [preference(start + number) for number in range(count)]
        start += 2 * ((count + 1) // 2)
    for record in parts["train"][:ties]:
        record["prob_chosen"] = 0.5
    return write_snapshot(directory, kind="preferences", label_policy=LABEL_POLICY, split=SPLIT, lines=parts)


def planted_config(method: str, *, base: Path, snapshot: Path, **overrides: Any) -> dict[str, Any]:
    """The defaults with a learning rate for a model of a few thousand weights."""
    config = merge(
        default_config(method),
        {
            "models": {"base": str(base)},
            "data": {"snapshot": str(snapshot)},
            "batch": {"examples": 16, "epochs": 4} if method == "kto" else {"pairs": 8, "epochs": 4},
            "optim": {"learning_rate": 2e-2 if method == "reward" else 1e-2},
            "memory": {"micro_tokens": 512},
            "eval": {"prompts": 2},
            "checkpoint": {"every": 4},
        },
    )
    if method in ("dpo", "kto"):
        config["eval"]["max_new_tokens"] = 8
    return merge(config, overrides)
