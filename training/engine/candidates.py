"""N scored completions of each prompt, in a file that outlives a kill: what best-of-n chooses from. Trains nothing.

    OUT/candidates.jsonl      a line a completion, prompt after prompt: the keys of a `sample` line, its score, and with
                              held-out reward models their least score
    OUT/candidates.json       what they were made from; their sha256 once they are whole

Prompts are worked on a few at a time, and these are written together: a killed or stopped attempt loses at most one
such chunk, and the next one decodes and scores it in the same batches, so it writes the same bytes.

P prompts; N completions of each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.engine import ranks
from training.engine.errors import SnapshotError
from training.engine.examples import PromptItem, with_control
from training.engine.files import read_json, sha256_of_file, write_json
from training.engine.packing import Sharing
from training.engine.rollouts import Group
from training.engine.sampling import Completion, Prompt, generate
from training.engine.scoring import RewardModels, combined
from training.engine.sections import DecodingConfig, Dtype
from training.engine.supervision import StopRun
from training.engine.text import Text

LINES, FACTS = "candidates.jsonl", "candidates.json"
STREAM = "best of n"
BATCHES = 2
"""Batches of completions that a chunk has: more are more to lose, and with fewer the decoder runs half empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A completion with its score; `held_out_score` where models that choose nothing were asked too."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprob: float
    sampler_logprob: float
    finish: str
    score: float
    held_out_score: float | None = None

    def line(self, *, policy: str, prompt_id: str, seed: int) -> dict[str, Any]:
        """The keys of a `sample` line, and the score."""
        found = {
            "policy": policy,
            "prompt_id": prompt_id,
            "index": self.index,
            "seed": seed,
            "text": self.text,
            "token_ids": list(self.token_ids),
            "logprob": self.logprob,
            "sampler_logprob": self.sampler_logprob,
            "finish": self.finish,
            "tokens": len(self.token_ids),
            "score": self.score,
        }
        return found if self.held_out_score is None else {**found, "held_out_score": self.held_out_score}


@dataclass(frozen=True, kw_only=True, slots=True)
class Makers:
    """What writes and what scores. `control`: what a conditioned policy reads before every prompt."""

    policy: Any
    text: Text
    control: str | None
    rewards: RewardModels
    held_out: RewardModels | None
    device: torch.device
    dtype: Dtype


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What is asked for: N = `count` completions of each prompt, and what they are made from.

    `identity`: hashes and settings; a former file of another identity is not used.
    """

    prompts: Sequence[PromptItem]
    count: int
    seed: int
    temperature: float
    decoding: DecodingConfig
    identity: Mapping[str, Any]

    @property
    def chunk(self) -> int:
        """Prompts of a chunk."""
        return max(1, BATCHES * self.decoding.batch_size // self.count)


def gather(
    wanted: Wanted,
    out: Path,
    *,
    load: Callable[[], Makers],
    former: Path | None = None,
    stop_requested: Callable[[], bool],
    tell: Callable[[list[list[Candidate]]], None],
) -> list[list[Candidate]]:
    """All candidates, prompt by prompt: those of a former attempt in `out` (or `former`), and the missing ones.

    Args:
        load: called only where some are missing.
        stop_requested: looked at between tokens, and of several ranks between chunks; what is in work is then lost.
        tell: called with all that is there, at the beginning and after each chunk.

    Raises:
        StopRun: a stop was asked for.
        SnapshotError: the file was whole, and was changed since.
    """
    target = out / LINES
    source = out if target.is_file() or former is None else former
    found, size = _read_kept(source, wanted)
    data = (source / LINES).read_bytes()[:size] if size else b""
    ranks.wait_for_all()
    if ranks.is_main():
        aside = out / f".{LINES}.partial"
        aside.write_bytes(data)
        aside.replace(target)
    whole = len(found) == len(wanted.prompts)
    if ranks.is_main() and not whole:
        write_json(out / FACTS, {"identity": wanted.identity, "sha256": None})
    tell(found)
    if not whole:
        makers = load()
        while len(found) < len(wanted.prompts):
            if ranks.any_rank(stop_requested()):
                raise StopRun
            prompts = wanted.prompts[len(found) : len(found) + wanted.chunk]
            made = ranks.share_out(prompts, lambda own: _make(makers, wanted, own, stop_requested=stop_requested))
            if ranks.is_main():
                _append(target, made, prompts, wanted)
            found += made
            tell(found)
    if ranks.is_main():
        write_json(out / FACTS, {"identity": wanted.identity, "sha256": sha256_of_file(target)})
    ranks.wait_for_all()
    return found


def give_up_after(stop_requested: Callable[[], bool]) -> None:
    """Between tokens and packs. Of several ranks each finishes its part of a chunk: the others are waiting for it."""
    if ranks.world() == 1 and stop_requested():
        raise StopRun


def _append(target: Path, made: Sequence[Sequence[Candidate]], prompts: Sequence[PromptItem], wanted: Wanted) -> None:
    rows = "".join(
        json.dumps(candidate.line(policy="policy", prompt_id=prompt.id, seed=wanted.seed), ensure_ascii=False) + "\n"
        for prompt, candidates in zip(prompts, made, strict=True)
        for candidate in candidates
    )
    with target.open("ab", buffering=0) as file:
        file.write(rows.encode())


# --- a chunk ----------------------------------------------------------------------------------------------------------


def _make(
    makers: Makers, wanted: Wanted, prompts: list[PromptItem], *, stop_requested: Callable[[], bool]
) -> list[list[Candidate]]:
    """The candidates of this rank's prompts. Calling reward models would share the work again, among other prompts."""
    groups = _sample(makers, wanted, prompts, stop_requested=stop_requested)
    if not groups:
        return []
    scores = combined(makers.rewards.score(groups), makers.rewards.combine).tolist()
    others = [None] * len(scores)
    if makers.held_out is not None:
        others = combined(makers.held_out.score(groups), makers.held_out.combine).tolist()
    flat = iter(zip((c for group in groups for c in group.completions), scores, others, strict=True))
    return [[_candidate(*next(flat)) for _ in group.completions] for group in groups]


def _sample(
    makers: Makers, wanted: Wanted, prompts: list[PromptItem], *, stop_requested: Callable[[], bool]
) -> list[Group]:
    """N completions of each prompt. A group's `prompt` is what a reward model reads, without the policy's control."""

    def go_on(_tokens: int) -> bool:
        give_up_after(stop_requested)
        return True

    asked = [
        Prompt(id=p.id, messages=p.prompt if makers.control is None else with_control(p.prompt, makers.control))
        for p in prompts
    ]
    found: dict[str, list[Completion]] = {prompt.id: [] for prompt in prompts}
    bf16 = makers.dtype is Dtype.BF16
    with torch.no_grad(), torch.autocast(makers.device.type, dtype=torch.bfloat16, enabled=bf16):
        for completion in generate(
            makers.policy,
            makers.text,
            asked,
            seed=wanted.seed,
            stream=STREAM,
            completions=wanted.count,
            temperature=wanted.temperature,
            max_new_tokens=wanted.decoding.max_new_tokens,
            batch_size=wanted.decoding.batch_size,
            after_tokens=go_on,
        ):
            found[completion.prompt_id].append(completion)
    groups = []
    for prompt in prompts:
        completions = tuple(sorted(found[prompt.id], key=lambda completion: completion.index))
        sharing = Sharing(prompt=prompt.sharing.prompt, completions=tuple(c.token_ids for c in completions))
        groups.append(
            Group(id=prompt.id, group=prompt.group, prompt=prompt.prompt, sharing=sharing, completions=completions)
        )
    return groups


def _candidate(completion: Completion, score: float, held_out_score: float | None) -> Candidate:
    return Candidate(
        index=completion.index,
        text=completion.text,
        token_ids=completion.token_ids,
        logprob=completion.logprob,
        sampler_logprob=completion.sampler_logprob,
        finish=completion.finish,
        score=score,
        held_out_score=held_out_score,
    )


# --- the file ---------------------------------------------------------------------------------------------------------


def _read_kept(folder: Path, wanted: Wanted) -> tuple[list[list[Candidate]], int]:
    """The candidates of the whole first chunks of a former attempt of the same identity, and their bytes in the file.

    Raises:
        SnapshotError: the file was whole, and its hash is another.
    """
    path, beside = folder / LINES, folder / FACTS
    if not path.is_file() or not beside.is_file():
        return [], 0
    facts = read_json(beside)
    if facts["identity"] != wanted.identity:
        return [], 0
    if facts["sha256"] is not None and facts["sha256"] != sha256_of_file(path):
        raise SnapshotError("was changed: its sha256 is not the one of candidates.json", file=str(path))
    found: list[list[Candidate]] = []
    kept, size = 0, 0
    rows = _rows(path)
    for start in range(0, len(wanted.prompts), wanted.chunk):
        for prompt in wanted.prompts[start : start + wanted.chunk]:
            candidates = []
            for index in range(wanted.count):
                raw = next(rows, None)
                candidate = None if raw is None else _read_line(raw, prompt_id=prompt.id, index=index)
                if raw is None or candidate is None:
                    return found[:start], kept
                size += len(raw)
                candidates.append(candidate)
            found.append(candidates)
        kept = size
    return found, kept


def _rows(path: Path) -> Iterator[bytes]:
    """Whole lines; what a killed attempt left after the last newline is none."""
    with path.open("rb") as file:
        for raw in file:
            if raw.endswith(b"\n"):
                yield raw


def _read_line(raw: bytes, *, prompt_id: str, index: int) -> Candidate | None:
    """The candidate of a line; None where it is another one's, or broken."""
    try:
        line = json.loads(raw)
        other = line.get("held_out_score")
        if (line["prompt_id"], line["index"]) != (prompt_id, index) or not math.isfinite(line["score"]):
            return None
        return Candidate(
            index=index,
            text=line["text"],
            token_ids=tuple(line["token_ids"]),
            logprob=line["logprob"],
            sampler_logprob=line["sampler_logprob"],
            finish=line["finish"],
            score=line["score"],
            held_out_score=other,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
