"""The shared data as an experiment reads it: prompts to sample from, demonstrations for π^SFT, preferences for the gold
reward. Nothing is copied into the project; where the data lies is an option of the command.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SYSTEM = "Answer in one short sentence."
"""Stands before every prompt: short answers make an experiment on a CPU possible, and a template's default longer."""
DEMONSTRATIONS_OF = ("self_instruct", "llamafactory_demo", "halueval", "gpteacher")


class NoSharedData(FileNotFoundError):
    """A file that an experiment needs is not there; the message names it and the option."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """The directory and what was read of it.

    Attributes:
        read: sha256 of every file that was read, by its name.
    """

    directory: Path
    read: dict[str, str]

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """The objects of a JSON Lines file.

        Raises:
            NoSharedData: it is not there.
        """
        file = self.directory / name
        try:
            raw = file.read_bytes()
        except FileNotFoundError:
            raise NoSharedData(f"{file} is not there: name the directory of the shared data with --shared") from None
        self.read[name] = hashlib.sha256(raw).hexdigest()
        return (json.loads(line) for line in raw.splitlines())

    def prompts(self, *, most_tokens: int, count: int, seed: int) -> list[dict[str, Any]]:
        """`count` short prompts, as {id, group, prompt: messages}, drawn by the seed."""
        short = [row for row in self.lines("prompts.jsonl") if row["tokens"] <= most_tokens]
        if len(short) < count:
            raise ValueError(f"{count} prompts of at most {most_tokens} tokens were asked for, there are {len(short)}")
        random.Random(seed).shuffle(short)  # noqa: S311 - draws no secret
        return [{"id": row["id"], "group": row["id"], "prompt": asked(row["prompt"])} for row in short[:count]]

    def demonstrations(self, *, most_prompt: int, most_response: int) -> list[dict[str, Any]]:
        """Short answers of people and models to short prompts, as lines of `engine snapshot`."""
        return [
            {
                "id": row["id"],
                "prompt": asked(row["messages"][0]["content"]),
                "completion": row["messages"][1]["content"],
                "split": row["split"],
            }
            for row in self.lines("sft.jsonl")
            if row["source"] in DEMONSTRATIONS_OF
            and row["tokens"]["prompt"] <= most_prompt
            and 3 <= row["tokens"]["response"] <= most_response
        ]

    def preferences(self, counts: Sequence[tuple[str, int, int]], *, seed: int) -> list[dict[str, Any]]:
        """Pairs of the named sets: (name, most tokens of a pair, how many), drawn by the seed from train and
        validation, and up to an eighth as many from the test part.

        Only of those among which the longer side wins as often as the shorter: else what they teach is mostly length.
        """
        found = []
        for name, most_tokens, count in counts:
            for parts, wanted in ((("train", "validation"), count), (("test",), count // 8)):
                rows = [
                    row
                    for part in parts
                    for row in self.lines(f"preferences/{name}.{part}.jsonl")
                    if row["length_balanced"] and sum(row["tokens"].values()) <= most_tokens
                ]
                random.Random(seed).shuffle(rows)  # noqa: S311 - draws no secret
                found += [{**row, "prompt": [system(), *row["prompt"]]} for row in rows[:wanted]]
        return found


def asked(text: str) -> list[dict[str, str]]:
    """A prompt's text as the turns that every policy of the experiments gets."""
    return [system(), {"role": "user", "content": text}]


def system() -> dict[str, str]:
    return {"role": "system", "content": SYSTEM}
