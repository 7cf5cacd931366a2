"""Completions of prompts: the draw of each token, a queue of completions over one decoder, and the `sample` command.

Token t of completion i of prompt p uses one uniform number, from a counter-based generator keyed by sha256(seed,
stream, prompt id, i); a stream is a round's policy or an evaluation's step. So a completion depends on its model,
prompt and key alone, not on the batch size, the order or what was there before a resume (up to rounding at a tie).

B rows in work, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.engine import models
from training.engine.config import PolicyConfig, SampleConfig
from training.engine.decoding import Decoder, Prefix
from training.engine.errors import Diverged, ModelError, SnapshotError
from training.engine.files import LineFile, Status, directory_hash, write_json
from training.engine.supervision import Supervision
from training.engine.text import Text, load_text

_NUCLEUS_FIRST = 1024  # tokens looked at before the whole vocabulary is sorted; nearly always enough for top_p

_READ_TOKENS = 4096  # positions of prompts read at one time: bounds memory, and larger products are no faster


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    id: str
    messages: Sequence[Mapping[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What a policy wrote. `token_ids` include the end token if it finished.

    `logprob` is Σ log π(token) in nats over all `token_ids`, end token included, at temperature 1 and top-p 1, whatever
    it was sampled with: the policy's own log-probability, not the sampler's.
    """

    prompt_id: str
    index: int
    text: str
    token_ids: tuple[int, ...]
    logprob: float
    finish: Literal["end", "length"]


@dataclass(kw_only=True, slots=True)
class _Row:
    """A completion in work."""

    prompt_id: str
    index: int
    uniforms: NDArray[np.float32]
    token_ids: list[int] = field(default_factory=list)
    logprob: float = 0.0

    @property
    def next_uniform(self) -> float:
        return float(self.uniforms[len(self.token_ids)])

    def take(self, token: int, logprob: float, *, stop_ids: frozenset[int]) -> bool:
        """Add a token; true when it was the last."""
        self.token_ids.append(token)
        self.logprob += logprob
        return token in stop_ids or len(self.token_ids) == len(self.uniforms)


def uniforms(*, seed: int, stream: str, prompt_id: str, index: int, count: int) -> NDArray[np.float32]:
    """The first `count` uniform numbers in [0, 1) of one completion; more of them begin with the same ones."""
    digest = hashlib.sha256(json.dumps([seed, stream, prompt_id, index]).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little"))).random(
        count, dtype=np.float32
    )


def draw(logits: Tensor, uniform: Tensor, *, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """One token a row by the inverse CDF in order of token ids, and its log π at temperature 1.

    Args:
        logits: [B, V] fp32.
        uniform: [B], in [0, 1); not looked at when temperature is 0 (the most likely token).

    Returns:
        Token ids [B] and log-probabilities [B], nats.
    """
    shifted = logits - logits.max(dim=-1, keepdim=True).values
    weights = shifted.exp()
    log_total = weights.sum(dim=-1).log()
    if temperature == 0:
        tokens = logits.argmax(dim=-1)
    else:
        if temperature != 1:
            weights = (shifted / temperature).exp()
        if top_p < 1:
            weights = _nucleus(weights, top_p)
        # Cumulated in fp64, so that a row's last entry is its total and no token of weight 0 can be hit by rounding.
        cumulated = weights.cumsum(dim=-1, dtype=torch.float64)
        goal = uniform.to(torch.float64)[:, None] * cumulated[:, -1:]
        tokens = torch.searchsorted(cumulated, goal, right=True)[:, 0]
    return tokens, shifted.gather(1, tokens[:, None])[:, 0] - log_total


def _nucleus(weights: Tensor, top_p: float) -> Tensor:
    """The weights [B, V] of the fewest most likely tokens that hold `top_p` of the total; 0 elsewhere."""
    goal = top_p * weights.sum(dim=-1, keepdim=True, dtype=torch.float64)
    top, where = weights.topk(min(_NUCLEUS_FIRST, weights.shape[-1]), dim=-1)
    cumulated = top.cumsum(dim=-1, dtype=torch.float64)
    if bool((cumulated[:, -1:] < goal).any()):
        top, where = weights.sort(dim=-1, descending=True, stable=True)
        cumulated = top.cumsum(dim=-1, dtype=torch.float64)
    kept = top * (cumulated - top < goal)
    return torch.zeros_like(weights).scatter_(-1, where, kept)


def generate(
    model: Any,
    text: Text,
    prompts: Sequence[Prompt],
    *,
    seed: int,
    stream: str,
    completions: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 128,
    batch_size: int = 16,
    done: Collection[tuple[str, int]] = (),
    after_tokens: Callable[[int], bool] | None = None,
) -> Iterator[Completion]:
    """Sample `completions` completions of every prompt; they come as they are ready, not in order.

    Up to `batch_size` are in work at once, prompt by prompt; when one ends, the next begins. The model's weights must
    not change before the iterator is exhausted or closed.

    Args:
        stream: names this use of the seed (a policy's name, `step 40`): another stream is an independent sample.
        done: pairs of prompt id and index that are left out, since they are there already.
        after_tokens: called with the number of new tokens after each step; false gives up what is in work.

    Raises:
        ModelError: a prompt leaves no room for a completion in the model's context.
        Diverged: the model's logits are not finite.
    """
    context = models.context_tokens(model)
    waiting = _Waiting(
        ids={prompt.id: text.prompt_ids(prompt.messages) for prompt in prompts},
        queue=deque((p.id, index) for p in prompts for index in range(completions) if (p.id, index) not in done),
    )
    for prompt_id, ids in waiting.ids.items():
        if len(ids) >= context:
            raise ModelError(f"prompt {prompt_id} has {len(ids)} tokens, the model's context is {context}")
    if not waiting.queue:
        return
    longest = max(len(waiting.ids[prompt_id]) for prompt_id, _ in waiting.queue)
    room = min(longest + max_new_tokens, context)
    decoder = Decoder(model, rows=min(batch_size, len(waiting.queue)), room=room)
    rows: list[_Row] = []

    def advance(logits: Tensor, advanced: list[_Row]) -> list[bool]:
        """Give each row its next token; tells which of them it ended."""
        uniform = torch.tensor([row.next_uniform for row in advanced], device=logits.device)
        tokens, logprobs = draw(logits, uniform, temperature=temperature, top_p=top_p)
        if not bool(torch.isfinite(logprobs).all()):
            raise Diverged(metric="logprob", value=math.nan, step=0, examples=[row.prompt_id for row in advanced])
        drawn = zip(advanced, tokens.tolist(), logprobs.tolist(), strict=True)
        return [row.take(token, logprob, stop_ids=text.stop_ids) for row, token, logprob in drawn]

    while waiting.queue or rows:
        new_tokens = len(rows)
        if rows:
            ended = advance(decoder.step([row.token_ids[-1] for row in rows]), rows)
            for place in reversed(range(len(rows))):
                if ended[place]:
                    decoder.drop(place)
                    yield _completion(rows[place], text)
                    rows[place] = rows[-1]
                    rows.pop()
        for prompt_id, index, prefix in waiting.enter(decoder, batch_size - len(rows)):
            count = min(max_new_tokens, context - len(waiting.ids[prompt_id]))
            numbers = uniforms(seed=seed, stream=stream, prompt_id=prompt_id, index=index, count=count)
            row = _Row(prompt_id=prompt_id, index=index, uniforms=numbers)
            new_tokens += 1
            if advance(prefix.logits[None], [row])[0]:
                yield _completion(row, text)
            else:
                decoder.add(prefix)
                rows.append(row)
        if after_tokens is not None and not after_tokens(new_tokens):
            return


@dataclass(kw_only=True, slots=True)
class _Waiting:
    """Completions not begun: (prompt id, index), prompt by prompt; and the prompts read that more of them need."""

    ids: dict[str, list[int]]
    queue: deque[tuple[str, int]]
    prefixes: dict[str, Prefix] = field(default_factory=dict)

    def enter(self, decoder: Decoder, count: int) -> list[tuple[str, int, Prefix]]:
        """Take up to `count` completions from the queue, and read those of their prompts that are new."""
        entering = [self.queue.popleft() for _ in range(min(len(self.queue), count))]
        unread = {prompt_id for prompt_id, _ in entering} - self.prefixes.keys()
        for group in _read_together(sorted(unread, key=lambda i: (len(self.ids[i]), i)), self.ids):
            self.prefixes.update(zip(group, decoder.read([self.ids[i] for i in group]), strict=True))
        found = [(prompt_id, index, self.prefixes[prompt_id]) for prompt_id, index in entering]
        needed = {self.queue[0][0]} if self.queue else set()  # only the last prompt can have more to come
        self.prefixes = {prompt_id: self.prefixes[prompt_id] for prompt_id in needed & self.prefixes.keys()}
        return found


def _read_together(ids: list[str], asked: Mapping[str, list[int]]) -> Iterator[list[str]]:
    """Prompts, sorted by length, in groups that waste little on filling up and fit into memory."""
    group: list[str] = []
    for prompt_id in ids:
        filled = len(asked[prompt_id]) * (len(group) + 1)
        used = sum(len(asked[i]) for i in group) + len(asked[prompt_id])
        if group and (filled > _READ_TOKENS or filled > 1.25 * used):
            yield group
            group = []
        group.append(prompt_id)
    if group:
        yield group


def _completion(row: _Row, text: Text) -> Completion:
    return Completion(
        prompt_id=row.prompt_id,
        index=row.index,
        text=text.decode(row.token_ids),
        token_ids=tuple(row.token_ids),
        logprob=row.logprob,
        finish="end" if row.token_ids[-1] in text.stop_ids else "length",
    )


# --- the command ------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True, slots=True)
class _Progress:
    """Counts of this attempt, told to status.json and metrics.jsonl."""

    status: Status
    metrics: LineFile
    supervision: Supervision
    total: int
    kept: int
    every: int
    started_at: float = field(default_factory=time.monotonic)
    made: int = 0
    tokens: int = 0
    unfinished: int = 0
    lengths: int = 0

    def after_tokens(self, count: int) -> bool:
        self.tokens += count
        self.tell()
        return not self.supervision.stop_requested

    def tell(self) -> None:
        seconds = time.monotonic() - self.started_at
        remaining = self.total - self.kept - self.made
        eta = seconds / self.made * remaining if self.made else None
        step = self.kept + self.made
        self.status.update(
            "sampling", step=step, steps=self.total, tokens_per_second=self.tokens / seconds, eta_seconds=eta
        )

    def add(self, completion: Completion) -> None:
        self.made += 1
        self.lengths += len(completion.token_ids)
        self.unfinished += completion.finish == "length"
        if self.made % self.every == 0 or self.kept + self.made == self.total:
            step = self.kept + self.made
            self.metrics.write({"step": step, "time": time.time(), "tokens": self.tokens, **self.values()})

    def values(self) -> dict[str, float]:
        if not self.made:
            return {}
        return {
            "rollout/samples": float(self.made),
            "rollout/length_mean": self.lengths / self.made,
            "rollout/unfinished_share": self.unfinished / self.made,
            "speed/tokens_per_second": self.tokens / (time.monotonic() - self.started_at),
        }


def run(config: SampleConfig, out: Path, *, resume: Path | None, supervision: Supervision) -> dict[str, Any]:
    """Write OUT/completions.jsonl, a line as soon as a completion is there, and OUT/result.json last.

    A prompt that leaves no room for a completion in some policy's context is skipped for all of them and listed in the
    result. Lines of `resume` (or of a former attempt in OUT itself) that belong to this config are kept, a broken last
    one is cut off, and only the missing completions are sampled. A stop is heeded after the current token: what is in
    work is dropped, and a resumed run writes it again, alike.
    """
    status = Status(out)
    status.update("loading")
    policies = [_load_policy(policy) for policy in config.models.policies]
    prompts, too_long = _fitting(read_prompts(Path(config.data.prompts)), policies)
    target = out / "completions.jsonl"
    kept = _read_kept(resume or target, config=config, prompts=prompts)
    aside = out / ".completions.partial"
    aside.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in kept), encoding="utf-8")
    aside.replace(target)
    lines = LineFile(target, keep_bytes=target.stat().st_size)
    total = len(prompts) * config.sampling.completions * len(config.models.policies)
    progress = _Progress(
        status=status,
        metrics=LineFile(out / "metrics.jsonl", keep_bytes=0),
        supervision=supervision,
        total=total,
        kept=len(kept),
        every=config.sampling.batch_size,
    )
    done = {name: {(k["prompt_id"], k["index"]) for k in kept if k["policy"] == name} for name, _, _, _ in policies}
    for chunk in _chunks(config, prompts):
        for name, model, text, _ in policies:
            if supervision.stop_requested:
                break
            for completion in generate(
                model,
                text,
                chunk,
                seed=config.seed,
                stream=name,
                completions=config.sampling.completions,
                temperature=config.sampling.temperature,
                top_p=config.sampling.top_p,
                max_new_tokens=config.sampling.max_new_tokens,
                batch_size=config.sampling.batch_size,
                done=done[name],
                after_tokens=progress.after_tokens,
            ):
                lines.write(_line(completion, policy=name, seed=config.seed))
                progress.add(completion)
    made = progress.kept + progress.made
    result: dict[str, Any] = {
        "status": "done" if made == total else "stopped",
        "reason": None if made == total else "a stop was asked for",
        "step": made,
        "checkpoints": {"best": None, "last": None},
        "metrics": progress.values(),
        "alarms": [],
        "lineage": {"snapshot": None, "models": {name: sha256 for name, _, _, sha256 in policies}},
        "completions": made,
        "skipped": [{"prompt_id": prompt.id, "reason": "too_long"} for prompt in too_long],
    }
    status.update("done" if made == total else "stopped", step=made, steps=total)
    write_json(out / "result.json", result)
    return result


def _load_policy(policy: PolicyConfig) -> tuple[str, Any, Text, str]:
    directory = Path(policy.path)
    return policy.name, models.load_policy(directory), load_text(directory), directory_hash(directory)


def _fitting(prompts: list[Prompt], policies: list[tuple[str, Any, Text, str]]) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts that every policy can read with a token to spare, and the others."""
    contexts = [(text, models.context_tokens(model)) for _, model, text, _ in policies]
    fitting: list[Prompt] = []
    too_long: list[Prompt] = []
    for prompt in prompts:
        fits = all(len(text.prompt_ids(prompt.messages)) < context for text, context in contexts)
        (fitting if fits else too_long).append(prompt)
    return fitting, too_long


def _chunks(config: SampleConfig, prompts: list[Prompt]) -> Iterator[list[Prompt]]:
    """A small first chunk, so that its comparisons are ready early; then, with several policies, a batch at a time."""
    sampling = config.sampling
    first = min(sampling.first_prompts, len(prompts))
    yield prompts[:first]
    several = len(config.models.policies) > 1
    size = max(1, sampling.batch_size // sampling.completions) if several else max(1, len(prompts))
    for begin in range(first, len(prompts), size):
        yield prompts[begin : begin + size]


def _line(completion: Completion, *, policy: str, seed: int) -> dict[str, Any]:
    return {
        "policy": policy,
        "prompt_id": completion.prompt_id,
        "index": completion.index,
        "seed": seed,
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "logprob": completion.logprob,
        "finish": completion.finish,
        "tokens": len(completion.token_ids),
    }


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a JSON Lines file of {"id", "prompt": [{"role", "content"}]}; other keys are left alone.

    Raises:
        SnapshotError: no such file, no prompts, a line that is not such an object, or an id that was there before.
    """
    try:
        rows = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # splitlines would split inside texts
    except (OSError, UnicodeDecodeError) as error:
        raise SnapshotError(f"cannot be read: {error}", file=path.name) from error
    prompts: dict[str, Prompt] = {}
    for number, row in enumerate(rows, start=1):
        try:
            record = json.loads(row)
        except ValueError as error:
            raise SnapshotError(f"not JSON: {error}", file=path.name, line=number) from error
        prompt_id, messages = (record.get("id"), record.get("prompt")) if isinstance(record, dict) else (None, None)
        if not isinstance(prompt_id, str) or not isinstance(messages, list) or not all(map(_is_message, messages)):
            raise SnapshotError("must hold id and prompt: [{role, content}]", file=path.name, line=number)
        if not messages or prompt_id in prompts:
            raise SnapshotError(f"prompt {prompt_id!r} is empty or was there before", file=path.name, line=number)
        prompts[prompt_id] = Prompt(id=prompt_id, messages=[{k: m[k] for k in ("role", "content")} for m in messages])
    if not prompts:
        raise SnapshotError("holds no prompts", file=path.name)
    return list(prompts.values())


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def _read_kept(path: Path, *, config: SampleConfig, prompts: list[Prompt]) -> list[dict[str, Any]]:
    """The whole lines of a former completions file that this config would write too, each completion once."""
    if not path.is_file():
        return []
    names, ids = {policy.name for policy in config.models.policies}, {prompt.id for prompt in prompts}
    kept: dict[tuple[str, str, int], dict[str, Any]] = {}
    for row in path.read_bytes().split(b"\n")[:-1]:  # what follows the last newline is a broken line
        try:
            line = json.loads(row)
            key = (line["policy"], line["prompt_id"], line["index"])
            wanted = line["seed"] == config.seed and key[0] in names and key[1] in ids
            fits = 0 <= key[2] < config.sampling.completions and line["finish"] in ("end", "length")
        except (ValueError, KeyError, TypeError):
            continue
        if wanted and fits:
            kept.setdefault(key, line)
    return list(kept.values())
