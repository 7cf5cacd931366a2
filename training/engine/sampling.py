"""Completions of prompts: what a sampler is, a queue of completions over one decoder, and the `sample` command.

A completion's random numbers are keyed by (seed, stream, prompt id, index); a stream is a round's policy or an
evaluation's step. So it depends on its model, prompt and key alone, not on the batch size, the order or what was there
before a resume (up to rounding at a tie). π is the policy at temperature 1 over the whole vocabulary, μ what was drawn
from (`drawing.Law`).
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.engine import models
from training.engine.config import PolicyConfig, SampleConfig
from training.engine.decoding import Decoder
from training.engine.drawing import Law, draw, uniforms
from training.engine.errors import Diverged, ModelError, SnapshotError
from training.engine.examples import control_of, with_control
from training.engine.files import LineFile, Status, directory_hash, write_json
from training.engine.kept_completions import open_completions
from training.engine.mixing import are_counts, laws, temperatures, unwanted
from training.engine.row_cache import Prefix
from training.engine.sections import Weights
from training.engine.supervision import Supervision
from training.engine.text import Text, load_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """`ids` are the prompt's tokens where they are known already; else `messages` are rendered.

    `counts` are the completions wanted of each policy, by name; None: as many of each as the config says.
    """

    id: str
    messages: Sequence[Mapping[str, str]]
    ids: tuple[int, ...] | None = None
    counts: Mapping[str, int] | None = None

    def under(self, control: str | None) -> Prompt:
        """What a policy that was trained under a control reads (`examples.control_of`)."""
        if control is None:
            return self
        return Prompt(id=self.id, messages=with_control(self.messages, control))


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What a policy wrote.

    `token_ids` are all tokens that were drawn: the end token is the last one if it was drawn, and where a stop string
    ended the completion they hold the tokens that spelled it, while `text` is cut before it. So the sums of
    log-probabilities are those of what was drawn; training, which needs text and tokens to agree, refuses stop strings
    (ENGINE R12). `finish` is "end" after an end token or a stop string, "length" at the token limit.

    `token_logprobs` are log π of every token, and `logprob` is their sum, whatever the law it was drawn with;
    `sampler_logprob` is Σ log μ. Nats. A sampler that gives text only (a server) leaves the tuples empty and the sums
    NaN.
    """

    prompt_id: str
    index: int
    text: str
    token_ids: tuple[int, ...]
    token_logprobs: tuple[float, ...]
    logprob: float
    sampler_logprob: float
    finish: Literal["end", "length"]


class Sampler(Protocol):
    """Whatever completes prompts with one policy: `functools.partial(generate, model, text)`, or a server.

    Completions come as they are ready, not in order. `done` and `after_tokens` are as in `generate`.
    """

    def __call__(
        self,
        prompts: Sequence[Prompt],
        *,
        seed: int,
        stream: str,
        completions: int = 1,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        stop: Sequence[str] = (),
        max_new_tokens: int = 128,
        batch_size: int = 16,
        done: Collection[tuple[str, int]] = (),
        after_tokens: Callable[[int], bool] | None = None,
    ) -> Iterator[Completion]: ...


@dataclass(kw_only=True, slots=True)
class _Row:
    """A completion in work. `text` is set by the stop string that ended it."""

    prompt_id: str
    index: int
    uniforms: NDArray[np.float32]
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    sampler_logprob: float = 0.0
    text: str | None = None

    @property
    def next_uniform(self) -> float:
        return float(self.uniforms[len(self.token_ids)])

    def take(self, token: int, logprob: float, sampler_logprob: float, *, text: Text, stop: Sequence[str]) -> bool:
        """Add a token; true when it was the last."""
        self.token_ids.append(token)
        self.logprobs.append(logprob)
        self.sampler_logprob += sampler_logprob
        if token in text.stop_ids:
            return True
        if stop:
            written = text.decode(self.token_ids)
            places = [place for string in stop if (place := written.find(string)) >= 0]
            if places:
                self.text = written[: min(places)]
                return True
        return len(self.token_ids) == len(self.uniforms)

    def completion(self, text: Text) -> Completion:
        ended = self.text is not None or self.token_ids[-1] in text.stop_ids
        return Completion(
            prompt_id=self.prompt_id,
            index=self.index,
            text=text.decode(self.token_ids) if self.text is None else self.text,
            token_ids=tuple(self.token_ids),
            token_logprobs=tuple(self.logprobs),
            logprob=math.fsum(self.logprobs),
            sampler_logprob=self.sampler_logprob,
            finish="end" if ended else "length",
        )


def generate(
    model: Any,
    text: Text,
    prompts: Sequence[Prompt],
    *,
    seed: int,
    stream: str,
    completions: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    stop: Sequence[str] = (),
    max_new_tokens: int = 128,
    batch_size: int = 16,
    weights: Weights = Weights.FP32,
    done: Collection[tuple[str, int]] = (),
    after_tokens: Callable[[int], bool] | None = None,
) -> Iterator[Completion]:
    """Sample `completions` completions of every prompt; they come as they are ready, not in order.

    Up to `batch_size` are in work at once, prompt by prompt; when one ends, the next begins. The model's weights must
    not change before the iterator is exhausted or closed.

    Args:
        stream: names this use of the seed (a policy's name, `step 40`): another stream is an independent sample.
        temperature, top_k, top_p, min_p: see `drawing.Law`.
        stop: strings that end a completion; the earliest in its text counts.
        weights: how the decoder holds the weights; log π is then that of the weights so held.
        done: pairs of prompt id and index that are left out, since they are there already.
        after_tokens: called with the number of new tokens after each step; false gives up what is in work.

    Raises:
        ModelError: a prompt leaves no room for a completion in the model's context.
        Diverged: the model's logits are not finite.
    """
    context = models.context_tokens(model)
    waiting = _Waiting(
        ids={p.id: list(p.ids) if p.ids is not None else text.prompt_ids(p.messages) for p in prompts},
        queue=deque((p.id, index) for p in prompts for index in range(completions) if (p.id, index) not in done),
    )
    for prompt_id, ids in waiting.ids.items():
        if len(ids) >= context:
            raise ModelError(f"prompt {prompt_id} has {len(ids)} tokens, the model's context is {context}")
    if not waiting.queue:
        return
    longest = max(len(waiting.ids[prompt_id]) for prompt_id, _ in waiting.queue)
    room = min(longest + max_new_tokens, context)
    decoder: Decoder[_Row] = Decoder(model, room=room, rows=min(batch_size, len(waiting.queue)), weights=weights)

    def begin(prompt_id: str, index: int) -> _Row:
        count = min(max_new_tokens, context - len(waiting.ids[prompt_id]))
        numbers = uniforms(seed=seed, stream=stream, prompt_id=prompt_id, index=index, count=count)
        return _Row(prompt_id=prompt_id, index=index, uniforms=numbers)

    law = Law(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    advance = functools.partial(_advance, law=law, text=text, stop=stop)
    for row in _decode(waiting, decoder, begin=begin, advance=advance, rows=batch_size, after_tokens=after_tokens):
        yield row.completion(text)


def _decode(
    waiting: _Waiting,
    decoder: Decoder[_Row],
    *,
    begin: Callable[[str, int], _Row],
    advance: Callable[[list[_Row], Tensor], list[bool]],
    rows: int,
    after_tokens: Callable[[int], bool] | None,
) -> Iterator[_Row]:
    """The rows as they end, with up to `rows` of them in work at once."""
    while waiting.queue or decoder.rows:
        new_tokens = 0
        if decoder.rows:
            working, logits = decoder.step(lambda row: row.token_ids[-1])
            new_tokens = len(working)
            ended = advance(working, logits)
            for row in (row for row, last in zip(working, ended, strict=True) if last):
                decoder.drop(row)
                yield row
        entering = waiting.enter(decoder, rows - len(decoder.rows))
        if entering:
            new_tokens += len(entering)
            begun = [(begin(prompt_id, index), prefix) for prompt_id, index, prefix in entering]
            logits = torch.stack([prefix.logits for _, prefix in begun])
            ended = advance([row for row, _ in begun], logits)
            decoder.add([entry for entry, last in zip(begun, ended, strict=True) if not last])
            for (row, _), last in zip(begun, ended, strict=True):
                if last:
                    yield row
        if after_tokens is not None and not after_tokens(new_tokens):
            return


def _advance(rows: list[_Row], logits: Tensor, *, law: Law, text: Text, stop: Sequence[str]) -> list[bool]:
    """Draw each row's next token from its logits [B, V]; tells which rows it ended."""
    drawn = draw(logits, torch.tensor([row.next_uniform for row in rows], device=logits.device), law)
    if not bool(torch.isfinite(drawn.logprobs).all()):
        raise Diverged(metric="logprob", value=math.nan, step=0, examples=[row.prompt_id for row in rows])
    columns = zip(rows, drawn.tokens.tolist(), drawn.logprobs.tolist(), drawn.sampler_logprobs.tolist(), strict=True)
    return [row.take(token, ours, sampler, text=text, stop=stop) for row, token, ours, sampler in columns]


@dataclass(kw_only=True, slots=True)
class _Waiting:
    """Completions not begun: (prompt id, index), prompt by prompt; and the prompts read that more of them need."""

    ids: dict[str, list[int]]
    queue: deque[tuple[str, int]]
    prefixes: dict[str, Prefix] = field(default_factory=dict)

    def enter(self, decoder: Decoder[_Row], count: int) -> list[tuple[str, int, Prefix]]:
        """Take up to `count` completions from the queue, and read those of their prompts that are new."""
        entering = [self.queue.popleft() for _ in range(min(len(self.queue), count))]
        # In the order of their ids' tokens, not of entry: neighbours share more of their beginnings.
        unread = sorted({prompt_id for prompt_id, _ in entering} - self.prefixes.keys(), key=lambda i: self.ids[i])
        if unread:
            self.prefixes.update(zip(unread, decoder.read([self.ids[i] for i in unread]), strict=True))
        found = [(prompt_id, index, self.prefixes[prompt_id]) for prompt_id, index in entering]
        needed = {self.queue[0][0]} if self.queue else set()  # only the last prompt can have more to come
        self.prefixes = {prompt_id: self.prefixes[prompt_id] for prompt_id in needed & self.prefixes.keys()}
        return found


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
    result. Lines of `resume` (or of a former attempt in OUT itself) that this attempt would write too are kept
    (`kept_completions`), a broken last one is cut off, and only the missing completions are sampled. A stop is heeded
    after the current token: what is in work is dropped, and a resumed run writes it again, alike.
    """
    if config.sampling.server is not None:
        # Imported here, since it takes its values and the reading of prompts from this module.
        from training.engine import remote_sampling  # noqa: PLC0415

        return remote_sampling.run(config, out, resume=resume, supervision=supervision)
    status = Status(out)
    status.update("loading")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policies = [_load_policy(policy, device=device) for policy in config.models.policies]
    controls = {policy.name: control_of(Path(policy.path)) for policy in config.models.policies}
    prompts, too_long = _fitting(read_prompts(Path(config.data.prompts)), policies, controls)
    messages = {prompt.id: prompt.messages for prompt in prompts}
    hashes = {name: sha256 for name, _, _, sha256 in policies}
    kept, lines = open_completions(out, resume, config=config, prompts=messages, policies=laws(config, hashes))
    excess = unwanted(config, {prompt.id: prompt.counts for prompt in prompts})
    total = len(prompts) * config.sampling.completions * len(policies) - sum(map(len, excess.values()))
    progress = _Progress(
        status=status,
        metrics=LineFile(out / "metrics.jsonl", keep_bytes=0),
        supervision=supervision,
        total=total,
        kept=len(kept),
        every=config.sampling.batch_size,
    )
    done = {name: excess[name] | {(k["prompt_id"], k["index"]) for k in kept if k["policy"] == name} for name in excess}
    for name, completion in _sample_all(config, policies, prompts, controls=controls, done=done, progress=progress):
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
        "lineage": {"snapshot": None, "models": hashes},
        "completions": made,
        "skipped": [{"prompt_id": prompt.id, "reason": "too_long"} for prompt in too_long],
    }
    status.update("done" if made == total else "stopped", step=made, steps=total)
    write_json(out / "result.json", result)
    return result


def _sample_all(
    config: SampleConfig,
    policies: Sequence[tuple[str, Any, Text, str]],
    prompts: list[Prompt],
    *,
    controls: Mapping[str, str | None],
    done: Mapping[str, Collection[tuple[str, int]]],
    progress: _Progress,
) -> Iterator[tuple[str, Completion]]:
    """Each completion with its policy's name, chunk by chunk and policy by policy, until a stop is asked for."""
    sampling = config.sampling
    own = temperatures(config)
    for chunk in _chunks(config, prompts):
        for name, model, text, _ in policies:
            if progress.supervision.stop_requested:
                return
            for completion in generate(
                model,
                text,
                [prompt.under(controls[name]) for prompt in chunk],
                seed=config.seed,
                stream=name,
                completions=sampling.completions,
                temperature=own[name],
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                min_p=sampling.min_p,
                stop=sampling.stop,
                weights=sampling.weights,
                max_new_tokens=sampling.max_new_tokens,
                batch_size=sampling.batch_size,
                done=done[name],
                after_tokens=progress.after_tokens,
            ):
                yield name, completion


def _load_policy(policy: PolicyConfig, *, device: str) -> tuple[str, Any, Text, str]:
    directory = Path(policy.path)
    return policy.name, models.load_policy(directory, device=device), load_text(directory), directory_hash(directory)


def _fitting(
    prompts: list[Prompt], policies: list[tuple[str, Any, Text, str]], controls: Mapping[str, str | None]
) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts that every policy can read with a token to spare, and the others."""
    contexts = [(text, models.context_tokens(model), controls[name]) for name, model, text, _ in policies]
    fitting: list[Prompt] = []
    too_long: list[Prompt] = []
    for prompt in prompts:
        fits = all(
            len(text.prompt_ids(prompt.under(control).messages)) < context for text, context, control in contexts
        )
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
        "sampler_logprob": completion.sampler_logprob,
        "finish": completion.finish,
        "tokens": len(completion.token_ids),
    }


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a JSON Lines file of {"id", "prompt": [{"role", "content"}]}; other keys are left alone, but for
    {"completions": {policy: count}}, where the policies write differently many.

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
        counts = record.get("completions")
        if counts is not None and not are_counts(counts):
            raise SnapshotError("completions must be {policy: count}", file=path.name, line=number)
        written = [{k: m[k] for k in ("role", "content")} for m in messages]
        prompts[prompt_id] = Prompt(id=prompt_id, messages=written, counts=counts)
    if not prompts:
        raise SnapshotError("holds no prompts", file=path.name)
    return list(prompts.values())


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)
