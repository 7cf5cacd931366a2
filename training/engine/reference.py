"""Log-probabilities under the reference policy, computed once and kept in a file.

A file holds lines {"key", "logp", "tokens"}: sha256 of prompt ids and completion ids → Σ log π_ref in nats and T. Its
name is a hash of everything that the numbers depend on, so runs can share a directory, also at one time: each append
is one write of whole lines, and a line that a full disk or a power cut left broken is passed over.

K completions of a pack or of some groups.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from training.engine import loop, ranks
from training.engine.config import DpoConfig, KtoConfig
from training.engine.logprobs import completion_logprobs
from training.engine.packing import Pack, Sharing, build_pack, plan_packs
from training.engine.records import canonical_json
from training.engine.rollouts import as_reference
from training.engine.starting import Opening

CODE_VERSION = 1
"""Raise it when the same model and text would give other numbers."""
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
"""Nats by which a stored value may differ from one computed now."""
RECOMPUTED = 2
"""Stored values that a run computes again before it trusts the file."""


class References(Protocol):
    """What a loss asks of a reference: its log-probabilities of all completions in order, [K] fp64, on the host."""

    def lookup(self, groups: Sequence[Sharing]) -> Tensor: ...


def open_cache(
    config: DpoConfig | KtoConfig,
    opening: Opening,
    model: Any,
    reference: Any | None,
    batches: Sequence[Sequence[Sharing]],
) -> ReferenceCache:
    """The cache of a run's reference, with the values of all completions that the run will see.

    Args:
        reference: the frozen model; None: `model` with its adapter off.
        batches: what is read together later: computed in the same packs, the first differences are exactly 0.

    Raises:
        StopRun: a stop was asked for and its grace is over; what was computed stays in the file.
    """
    cache = ReferenceCache(
        Path(config.memory.reference_cache or opening.out / "reference"),
        identity={
            "model": opening.lineage.models["base"],
            "tokenizer": opening.text.tokenizer_sha256,
            "template": opening.text.template_sha256,
            "dtype": config.precision.dtype.value,
            "device": opening.device.type,
        },
    )

    def values_of(pack: Pack) -> Tensor:
        with torch.no_grad(), loop.precision(config, opening.device), as_reference(model, reference) as frozen:
            return completion_logprobs(frozen, pack)

    def between() -> None:
        if ranks.world() == 1:  # one of several ranks would leave the others waiting for its part
            opening.supervision.raise_if_overdue(grace_seconds=config.stop.grace_seconds)
        opening.status.update("reference")  # no steps: these are packs of the cache, not optimizer steps

    everything = [group for batch in batches for group in batch]
    cache.check(everything, values_of, dtype=config.precision.dtype.value, device=opening.device, seed=config.seed)
    cache.fill(batches, values_of, micro_tokens=config.memory.micro_tokens, device=opening.device, between=between)
    return cache


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
        own = dict(_entries(self.path)) if self.path.exists() else {}
        # All ranks must know the same, or they would not compute the rest together; another run may be writing too.
        self._values: dict[str, float] = {}
        for known in ranks.gather_dict({ranks.rank(): own}).values():
            self._values |= known

    def lookup(self, groups: Sequence[Sharing]) -> Tensor:
        """Values of all completions in order, [K] fp64, on the host."""
        values = [self._values[key_of(group.prompt, ids)] for group in groups for ids in group.completions]
        return torch.tensor(values, dtype=torch.float64)

    def check(
        self,
        groups: Sequence[Sharing],
        values_of: Callable[[Pack], Tensor],
        *,
        dtype: str,
        device: torch.device,
        seed: int,
    ) -> None:
        """Recompute two stored completions, drawn by the seed; if one is off, the file is discarded."""
        known = [
            Sharing(prompt=group.prompt, completions=(ids,))
            for group in groups
            for ids in group.completions
            if key_of(group.prompt, ids) in self._values
        ]
        drawn = random.Random(f"{seed}:reference").sample(known, min(RECOMPUTED, len(known)))  # noqa: S311 - no secret
        for group in drawn:
            now = values_of(build_pack([group], device=device)).cpu()
            if bool(((now - self.lookup([group])).abs() > TOLERANCE[dtype]).any()):
                if ranks.is_main():
                    self.path.unlink(missing_ok=True)
                self._values.clear()
                return

    def fill(
        self,
        batches: Sequence[Sequence[Sharing]],
        values_of: Callable[[Pack], Tensor],
        *,
        micro_tokens: int,
        device: torch.device,
        between: Callable[[], None],
    ) -> None:
        """Compute what is missing, pack by pack as training will read it, so that its first differences are exactly 0.

        Args:
            values_of: a pack → log π_ref of its completions, [K].
            between: called before each pack; may raise to give up.
        """

        def compute(packs: list[list[Sharing]]) -> list[list[float]]:
            return [values_of(build_pack(groups, device=device)).cpu().tolist() for groups in packs]

        for batch in batches:
            planned = plan_packs([group.positions for group in batch], micro_tokens=micro_tokens)
            packs = [[batch[index] for index in indices] for indices in planned]
            waiting = [groups for groups in packs if not all(self._knows(group) for group in groups)]
            for start in range(0, len(waiting), ranks.world()):
                between()
                together = waiting[start : start + ranks.world()]
                for groups, values in zip(together, ranks.share_out(together, compute), strict=True):
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
        self._values |= {str(entry["key"]): float(entry["logp"]) for entry in entries}
        if not ranks.is_main():
            return
        data = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries).encode()
        with self.path.open("ab+", buffering=0) as file:
            if file.tell():
                file.seek(-1, 2)
                # Behind a broken last line, a line of its own: otherwise that would be lost too.
                data = data if file.read(1) == b"\n" else b"\n" + data
            file.write(data)


def _entries(path: Path) -> Iterator[tuple[str, float]]:
    """Key and value of every whole line."""
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            entry = json.loads(line)
            key, value = entry["key"], float(entry["logp"])
        except (ValueError, KeyError, TypeError):
            continue
        if line.endswith(b"\n") and isinstance(key, str) and math.isfinite(value):
            yield key, value
