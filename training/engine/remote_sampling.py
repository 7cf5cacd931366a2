"""Completions by an OpenAI-compatible server: a `sampling.Sampler`, and the `sample` command where a server is named.

A request asks for one completion, with a seed of its own made of the run's seed, the stream, the prompt's id and the
index, so that a resumed run asks for the missing ones alone; vLLM's prefix cache makes the shared prompt cheap. Whether
the same seed gives the same text is the server's affair.

Fields of a request beyond OpenAI's: `top_k` and `min_p` where set, `return_token_ids` (vLLM's choice then holds
`token_ids`) and `return_tokens_as_token_ids` (its older form: each `logprobs.content[].token` is "token_id:17"). A
server that refuses them (400 or 422) is asked with OpenAI's own fields, then without `logprobs`; what it took first is
kept. A server's log-probabilities are its own: vLLM gives log π at temperature 1 before any cut, its default
(`logprobs_mode` raw_logprobs), end token included; OpenAI leaves the end token out.

Methods that train sample with their own weights, not by a server.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

from training.engine.config import PolicyConfig, SampleConfig, SamplingConfig
from training.engine.examples import control_of
from training.engine.files import LineFile, Status, write_json
from training.engine.kept_completions import open_completions
from training.engine.mixing import laws, temperatures, unwanted
from training.engine.remote import Client, RemoteError, Reply, chat, in_parallel, open_client
from training.engine.sampling import Completion, Prompt, read_prompts
from training.engine.supervision import Supervision
from training.engine.text import Text, load_text

_FINISH: dict[str | None, Literal["end", "length"]] = {"stop": "end", "length": "length"}
"""`stop` is an end token or a stop string alike."""


class _Fields(IntEnum):
    """Which fields a server takes, from the fewest."""

    PLAIN = 0
    LOGPROBS = 1
    ALL = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class _Law:
    """What a request says of the draw."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    stop: tuple[str, ...]
    max_new_tokens: int

    def body(self, fields: _Fields) -> dict[str, Any]:
        """The fields of a request. `top_k` and `min_p` are never left out: that would be another law."""
        body: dict[str, Any] = {
            "n": 1,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_new_tokens,
        }
        if self.stop:
            body["stop"] = list(self.stop)
        if self.top_k > 0:
            body["top_k"] = self.top_k
        if self.min_p > 0:
            body["min_p"] = self.min_p
        if fields >= _Fields.LOGPROBS:
            body["logprobs"] = True
        if fields is _Fields.ALL:
            body |= {"return_token_ids": True, "return_tokens_as_token_ids": True}
        return body


class RemoteSampler:
    """A `sampling.Sampler` behind a server.

    Where the server gives text only, a completion's tuples are empty and its sums NaN. `tokens` then still counts its
    tokens, as far as the server said. `skipped` fills with what the server would not complete.
    """

    def __init__(self, client: Client, *, model: str) -> None:
        self.tokens: dict[tuple[str, int], int | None] = {}
        """Of the completions of the last call, by prompt id and index: tokens, as the server counts them."""
        self.skipped: list[tuple[str, int, str]] = []
        """Prompt id, index and reason: `too_long`, or the server's finish reason, such as `content_filter`."""
        self._client = client
        self._model = model
        self._fields: _Fields | None = None

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
        batch_size: int = 0,
        done: Collection[tuple[str, int]] = (),
        after_tokens: Callable[[int], bool] | None = None,
    ) -> Iterator[Completion]:
        """As `sampling.Sampler`; `batch_size` is not looked at, since `server.parallel` bounds the requests.

        `after_tokens` is called several times a second, mostly with 0. What the server would not complete is left out
        and added to `skipped`.

        Raises:
            RemoteError: the server fails, or refuses what was asked.
        """
        law = _Law(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            stop=tuple(stop),
            max_new_tokens=max_new_tokens,
        )
        tasks = [(p, i) for p in prompts for i in range(completions) if (p.id, i) not in done]
        self.tokens = {}

        def ask(task: tuple[Prompt, int], halt: threading.Event) -> Reply | str:
            own_seed = request_seed(seed=seed, stream=stream, prompt_id=task[0].id, index=task[1])
            return self._reply(task[0], law, seed=own_seed, halt=halt)

        def stopped() -> bool:
            return after_tokens is not None and not after_tokens(0)

        # The first completion alone settles which fields the server takes, so that only it is asked more than once.
        first = 1 if self._fields is None else 0
        for part, parallel in ((tasks[:first], 1), (tasks[first:], self._client.parallel)):
            for (prompt, index), reply in in_parallel(ask, part, parallel=parallel, stopped=stopped):
                if isinstance(reply, str):
                    self.skipped.append((prompt.id, index, reply))
                    continue
                self.tokens[prompt.id, index] = reply.tokens
                goes_on = after_tokens is None or after_tokens(reply.tokens or 0)
                yield _completion(reply, prompt_id=prompt.id, index=index)
                if not goes_on:
                    return

    def _reply(self, prompt: Prompt, law: _Law, *, seed: int, halt: threading.Event) -> Reply | str:
        """A reply that is a completion, or the reason why there is none."""
        try:
            reply = self._ask(prompt.messages, law, seed=seed, halt=halt)
        except RemoteError as error:
            if error.is_too_long:
                return "too_long"
            raise
        return reply if reply.finish_reason in _FINISH else reply.finish_reason or "no finish reason"

    def _ask(self, messages: Sequence[Mapping[str, str]], law: _Law, *, seed: int, halt: threading.Event) -> Reply:
        """Ask with the fields that the server takes; while they are not known, with fewer after each refusal."""
        asked = {"model": self._model, "messages": [dict(message) for message in messages], "seed": seed}
        fields = _Fields.ALL if self._fields is None else self._fields
        while True:
            try:
                reply = chat(self._client, {**asked, **law.body(fields)}, halt=halt)
                break
            except RemoteError as error:
                refused = error.status in (400, 422) and not error.is_too_long
                if self._fields is not None or not refused or fields is _Fields.PLAIN:
                    raise
                fields = _Fields(fields - 1)
        if self._fields is None:
            self._fields = fields
        return reply


def request_seed(*, seed: int, stream: str, prompt_id: str, index: int) -> int:
    """The seed of one completion, 31 bits, which every server takes; keyed as `drawing.uniforms`."""
    digest = hashlib.sha256(json.dumps([seed, stream, prompt_id, index]).encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


def _has_logprobs(reply: Reply) -> bool:
    ids, logprobs = reply.token_ids, reply.logprobs
    return ids is not None and logprobs is not None and len(ids) == len(logprobs)


def _completion(reply: Reply, *, prompt_id: str, index: int) -> Completion:
    """Token ids and log-probabilities only as a pair; μ is what the server says, since it says nothing else."""
    whole = _has_logprobs(reply)
    logprobs = reply.logprobs if whole and reply.logprobs is not None else ()
    total = math.fsum(logprobs) if whole else math.nan
    return Completion(
        prompt_id=prompt_id,
        index=index,
        text=reply.text,
        token_ids=reply.token_ids if whole and reply.token_ids is not None else (),
        token_logprobs=logprobs,
        logprob=total,
        sampler_logprob=total,
        finish=_FINISH[reply.finish_reason],
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
    skipped: int = 0
    tokens: int = 0
    unfinished: int = 0

    @property
    def step(self) -> int:
        return self.kept + self.made

    def after_tokens(self, count: int) -> bool:
        self.tokens += count
        seconds = max(time.monotonic() - self.started_at, 1e-9)
        eta = seconds / self.made * (self.total - self.step - self.skipped) if self.made else None
        self.status.update(
            "sampling", step=self.step, steps=self.total, tokens_per_second=self.tokens / seconds, eta_seconds=eta
        )
        return not self.supervision.stop_requested

    def add(self, line: Mapping[str, Any]) -> None:
        self.made += 1
        self.unfinished += line["finish"] == "length"
        if self.made % self.every == 0 or self.step == self.total:
            self.metrics.write({"step": self.step, "time": time.time(), "tokens": self.tokens, **self.values()})

    def values(self) -> dict[str, float]:
        if not self.made:
            return {}
        return {
            "rollout/samples": float(self.made),
            "rollout/length_mean": self.tokens / self.made,
            "rollout/unfinished_share": self.unfinished / self.made,
            "speed/tokens_per_second": self.tokens / max(time.monotonic() - self.started_at, 1e-9),
        }


def run(config: SampleConfig, out: Path, *, resume: Path | None, supervision: Supervision) -> dict[str, Any]:
    """`sampling.run` where `sampling.server` is set: the same files, the same lines, the same resume.

    A line has `token_ids_from` besides: "server", "text" (re-tokenised, where the policy's path is a local directory
    too) or null (`token_ids` is null then). `logprob` and `sampler_logprob` are null where the server gave none. What
    the server would not complete (too long, filtered) is in the result's `skipped`; a resumed run asks for it again.
    """
    assert config.sampling.server is not None
    status = Status(out)
    status.update("loading")
    client = open_client(config.sampling.server)
    policies = [_Policy.of(policy, client) for policy in config.models.policies]
    prompts = read_prompts(Path(config.data.prompts))
    messages = {prompt.id: prompt.messages for prompt in prompts}
    served = {policy.name: policy.path for policy in config.models.policies}
    kept, lines = open_completions(out, resume, config=config, prompts=messages, policies=laws(config, served))
    excess = unwanted(config, {prompt.id: prompt.counts for prompt in prompts})
    progress = _Progress(
        status=status,
        metrics=LineFile(out / "metrics.jsonl", keep_bytes=0),
        supervision=supervision,
        total=len(prompts) * config.sampling.completions * len(policies) - sum(map(len, excess.values())),
        kept=len(kept),
        every=config.sampling.batch_size,
    )
    for chunk in _chunks(config.sampling, prompts):
        for policy in policies:
            if supervision.stop_requested:
                break
            written = {(line["prompt_id"], line["index"]) for line in kept if line["policy"] == policy.name}
            done = excess[policy.name] | written
            for completion in _sample(policy, chunk, config, done=done, progress=progress):
                line = _line(completion, policy=policy, seed=config.seed)
                lines.write(line)
                progress.add(line)
            progress.skipped = sum(len(other.sampler.skipped) for other in policies)
    result = _result(policies, progress, server=client.url)
    status.update(result["status"], step=progress.step, steps=progress.total)
    write_json(out / "result.json", result)
    return result


def _result(policies: Sequence[_Policy], progress: _Progress, *, server: str) -> dict[str, Any]:
    is_whole = progress.step + progress.skipped == progress.total
    return {
        "status": "done" if is_whole else "stopped",
        "reason": None if is_whole else "a stop was asked for",
        "step": progress.step,
        "checkpoints": {"best": None, "last": None},
        "metrics": progress.values(),
        "alarms": [],
        "lineage": {"snapshot": None, "models": {}, "server": server},
        "completions": progress.step,
        "skipped": [
            {"prompt_id": prompt_id, "policy": policy.name, "index": index, "reason": reason}
            for policy in policies
            for prompt_id, index, reason in policy.sampler.skipped
        ],
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Policy:
    """A served model. `text` and `control` are known where the server's name for it is a directory that is here too."""

    name: str
    sampler: RemoteSampler
    text: Text | None
    control: str | None

    @classmethod
    def of(cls, policy: PolicyConfig, client: Client) -> _Policy:
        directory = Path(policy.path)
        return cls(
            name=policy.name,
            sampler=RemoteSampler(client, model=policy.path),
            text=load_text(directory) if directory.is_dir() else None,
            control=control_of(directory),
        )


def _sample(
    policy: _Policy,
    chunk: Sequence[Prompt],
    config: SampleConfig,
    *,
    done: set[tuple[str, int]],
    progress: _Progress,
) -> Iterator[Completion]:
    sampling = config.sampling
    return policy.sampler(
        [prompt.under(policy.control) for prompt in chunk],
        seed=config.seed,
        stream=policy.name,
        completions=sampling.completions,
        temperature=temperatures(config)[policy.name],
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        stop=sampling.stop,
        max_new_tokens=sampling.max_new_tokens,
        done=done,
        after_tokens=progress.after_tokens,
    )


def _chunks(sampling: SamplingConfig, prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
    """A small first chunk, so that its comparisons are ready early; then enough to keep the server busy."""
    first = sampling.first_prompts
    yield prompts[:first]
    server = sampling.server
    size = max(8 * (server.parallel if server is not None else 1) // sampling.completions, 1)
    for begin in range(first, len(prompts), size):
        yield prompts[begin : begin + size]


def _line(completion: Completion, *, policy: _Policy, seed: int) -> dict[str, Any]:
    ids: list[int] | None = list(completion.token_ids) or None
    source = "server" if ids else None
    if ids is None and policy.text is not None:
        ids, source = policy.text.completion_ids(completion.text, finished=completion.finish == "end"), "text"
    has_logprobs = not math.isnan(completion.logprob)
    said = policy.sampler.tokens[completion.prompt_id, completion.index]
    return {
        "policy": policy.name,
        "prompt_id": completion.prompt_id,
        "index": completion.index,
        "seed": seed,
        "text": completion.text,
        "token_ids": ids,
        "token_ids_from": source,
        "logprob": completion.logprob if has_logprobs else None,
        "sampler_logprob": completion.sampler_logprob if has_logprobs else None,
        "finish": completion.finish,
        "tokens": len(ids) if ids is not None else said,
    }
