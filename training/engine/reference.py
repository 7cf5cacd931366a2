"""Log-probabilities under the reference policy, computed once and kept in a file.

A file holds lines {"key", "logp", "tokens"}: sha256 of prompt ids and completion ids → Σ log π_ref in nats and T. Its
name is a hash of everything that the numbers depend on, so runs can share a directory. Lines are appended whole; a
broken last one is passed over.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from training.engine.packing import Pack, Sharing, build_pack, plan_packs
from training.engine.records import canonical_json

CODE_VERSION = 1
"""Raise it when the same model and text would give other numbers."""
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
"""Nats by which a stored value may differ from one computed now."""


def key_of(prompt: Sequence[int], completion: Sequence[int]) -> str:
    text = f"{','.join(map(str, prompt))}|{','.join(map(str, completion))}"
    return hashlib.sha256(text.encode()).hexdigest()


class ReferenceCache:
    """The stored values of one reference; `fill` adds what is missing, `lookup` reads."""

    def __init__(self, directory: Path, *, identity: dict[str, str]) -> None:
        """`identity` names model, tokenizer, template, dtype and device kind."""
        directory.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(canonical_json({**identity, "code": CODE_VERSION}).encode()).hexdigest()[:32]
        self.path = directory / f"{name}.jsonl"
        self._values: dict[str, float] = {}
        if self.path.exists():
            for line in self.path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    entry = json.loads(line)
                    self._values[entry["key"]] = entry["logp"]

    def lookup(self, groups: Sequence[Sharing]) -> Tensor:
        """Values of all completions in order, [K] fp64, on the host."""
        values = [self._values[key_of(group.prompt, ids)] for group in groups for ids in group.completions]
        return torch.tensor(values, dtype=torch.float64)

    def check(
        self, groups: Sequence[Sharing], values_of: Callable[[Pack], Tensor], *, dtype: str, device: torch.device
    ) -> None:
        """Recompute two stored completions; if one is off, the file is discarded."""
        for group in [group for group in groups if self._knows(group)][:2]:
            now = values_of(build_pack([group], device=device)).cpu()
            if bool(((now - self.lookup([group])).abs() > TOLERANCE[dtype]).any()):
                self.path.unlink()
                self._values.clear()
                return

    def fill(
        self,
        batches: Sequence[Sequence[Sharing]],
        values_of: Callable[[Pack], Tensor],
        *,
        micro_tokens: int,
        device: torch.device,
        between: Callable[[int, int], None],
    ) -> None:
        """Compute what is missing, pack by pack as training will read it, so that its first differences are exactly 0.

        Args:
            values_of: a pack → log π_ref of its completions, [K].
            between: called with the numbers of batches done and in all before each pack; may raise to give up.
        """
        for number, batch in enumerate(batches):
            for indices in plan_packs([group.positions for group in batch], micro_tokens=micro_tokens):
                groups = [batch[index] for index in indices]
                if all(self._knows(group) for group in groups):
                    continue
                between(number, len(batches))
                values = values_of(build_pack(groups, device=device)).cpu().tolist()
                completions = [(group.prompt, ids) for group in groups for ids in group.completions]
                self._append(
                    [
                        {"key": key_of(prompt, ids), "logp": value, "tokens": len(ids)}
                        for (prompt, ids), value in zip(completions, values, strict=True)
                    ]
                )

    def _knows(self, group: Sharing) -> bool:
        return all(key_of(group.prompt, ids) in self._values for ids in group.completions)

    def _append(self, entries: list[dict[str, str | float | int]]) -> None:
        data = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries).encode()
        with self.path.open("ab", buffering=0) as file:
            file.write(data)
        self._values |= {str(entry["key"]): float(entry["logp"]) for entry in entries}
