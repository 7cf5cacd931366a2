"""The `serve` command: policies stay loaded and answer the questions of a directory (`mailbox.py`), a line a token.

Several policies have a directory each and take turns, a token each, so that their answers grow side by side; a reward
model scores what was written before the last line tells it.

Answers in work share each step of the decoder, so nobody waits for another's answer; a question that begins is read
whole before the next token of the others. Without a seed the id is the key of the draw, so two questions differ; with a
seed (and index) the same messages give the same text, whatever the id. A prompt that begins like a former one is read
again.

B answers in work, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.engine import models
from training.engine.config import ServeConfig
from training.engine.decoding import Decoder
from training.engine.drawing import Law, draw, uniforms
from training.engine.errors import Diverged, ModelError
from training.engine.examples import control_of, with_control
from training.engine.files import LineFile, Status, directory_hash, write_json
from training.engine.mailbox import END, LARGEST_QUESTION, BadQuestion, Mailbox, read_question
from training.engine.scoring import Given, GivenCompletion, load_reward_models
from training.engine.sections import Weights
from training.engine.supervision import Supervision
from training.engine.text import Text, load_text

ROWS = 8
"""Answers in work at one time; the others wait in the order of their files."""
_POSITIONS = 32_768  # that all in work may come to: bounds keys and values (1.5 GB for SmolLM2-135M in fp32)
_POLL_SECONDS = 0.05

Finish = Literal["end", "length", "cancelled", "stopped"]
Messages = Sequence[Mapping[str, str]]
Score = Callable[[Messages, str, str], float | None]
"""What a reward model says of a completion of messages that ended so; None: it cannot read it."""


class Pieces:
    """The text of a completion, token by token; the pieces join to the text of all tokens.

    A byte-level token may end inside a character. What decodes to an unfinished character is held back until a token
    finishes it, or until the last. A piece is what a token adds to the text of the few tokens before it, since some
    tokenizers look at the neighbour (a leading space).
    """

    def __init__(self, text: Text) -> None:
        self._text = text
        self._ids: list[int] = []
        self._window = 0  # tokens before it are not looked at any more
        self._given = 0  # tokens whose text has been given

    def add(self, token: int, *, last: bool) -> str:
        self._ids.append(token)
        before = self._text.decode(self._ids[self._window : self._given])
        now = self._text.decode(self._ids[self._window :])
        if len(now) <= len(before) or (now.endswith("\ufffd") and not last):
            return ""
        self._window, self._given = self._given, len(self._ids)
        return now[len(before) :]


# --- answers in work --------------------------------------------------------------------------------------------------


@dataclass(kw_only=True, slots=True, eq=False)
class Answer:
    """A question in work."""

    name: str
    lines: LineFile
    messages: Messages
    prompt: list[int]
    law: Law
    uniforms: NDArray[np.float32]
    pieces: Pieces
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    finish: Finish | None = None
    failed: bool = False

    @property
    def room(self) -> int:
        """Most positions that it can come to."""
        return len(self.prompt) + len(self.uniforms)

    @property
    def is_over(self) -> bool:
        return self.failed or self.finish is not None

    def take(self, token: int, logprob: float, *, stop_ids: frozenset[int]) -> None:
        """Add a token and write its line."""
        self.token_ids.append(token)
        if token in stop_ids:
            self.finish = "end"
        elif len(self.token_ids) == len(self.uniforms):
            self.finish = "length"
        piece = self.pieces.add(token, last=self.finish is not None)
        self.text += piece
        self.lines.write({"token": token, "text": piece, "logprob": logprob})

    def last_line(self) -> dict[str, Any]:
        if self.failed:
            return {"error": {"code": "diverged", "message": "the model's numbers are not finite"}}
        return {"done": True, "finish": self.finish, "text": self.text, "tokens": len(self.token_ids)}


class Rows:
    """The answers in work on one decoder, which is made once: it copies the weights, and the model may go."""

    def __init__(self, model: Any, text: Text, *, weights: Weights) -> None:
        self._decoder: Decoder[Answer] = Decoder(model, room=models.context_tokens(model), weights=weights)
        self._stop_ids = text.stop_ids

    @property
    def answers(self) -> list[Answer]:
        return self._decoder.rows

    def has_place(self, room: int) -> bool:
        """Whether a question of so many positions can begin beside those in work. Alone any can."""
        answers = self.answers
        fits = sum(answer.room for answer in answers) + room <= _POSITIONS
        return not answers or (len(answers) < ROWS and fits)

    def begin(self, answer: Answer) -> None:
        """Read the question and draw its first token, which may be its last."""
        (prefix,) = self._decoder.read([answer.prompt])
        self._draw([answer], prefix.logits[None])
        if not answer.is_over:
            self._decoder.add([(answer, prefix)])

    def step(self) -> list[Answer]:
        """A token for every answer; returns those that it ended."""
        answers, logits = self._decoder.step(lambda answer: answer.token_ids[-1])
        self._draw(answers, logits)
        return self._dropped([answer for answer in answers if answer.is_over])

    def drop(self, names: set[str]) -> list[Answer]:
        """Take answers out of work."""
        return self._dropped([answer for answer in self.answers if answer.name in names])

    def _dropped(self, answers: list[Answer]) -> list[Answer]:
        for answer in answers:
            self._decoder.drop(answer)
        return answers

    def _draw(self, answers: list[Answer], logits: Tensor) -> None:
        """Each answer's next token from its row of logits [B, V], by its own law."""
        is_finite = torch.isfinite(logits.amax(dim=-1)).tolist()
        places: dict[Law, list[int]] = defaultdict(list)
        for place, answer in enumerate(answers):
            answer.failed = not is_finite[place]
            if is_finite[place]:
                places[answer.law].append(place)
        for law, rows in places.items():
            uniform = torch.tensor([float(answers[i].uniforms[len(answers[i].token_ids)]) for i in rows])
            drawn = draw(logits[rows], uniform.to(logits.device), law)
            for place, token, logprob in zip(rows, drawn.tokens.tolist(), drawn.logprobs.tolist(), strict=True):
                answers[place].take(token, logprob, stop_ids=self._stop_ids)


def _answer(name: str, raw: bytes, lines: LineFile, *, text: Text, control: str | None, context: int) -> Answer:
    """Check a question and tokenise its prompt.

    Raises:
        BadQuestion: it cannot be answered.
    """
    if len(raw) > LARGEST_QUESTION:
        raise BadQuestion("bad_request", f"more than {LARGEST_QUESTION} bytes")
    question = read_question(raw)
    try:
        asked = question.messages if control is None else with_control(question.messages, control)
        prompt = text.prompt_ids(asked)
    except ModelError as error:  # some templates refuse a system turn, or two turns of one role
        raise BadQuestion("bad_request", str(error)) from None
    if len(prompt) >= context:
        raise BadQuestion("too_long", f"the messages have {len(prompt)} tokens, the model's context is {context}")
    count = min(question.max_new_tokens, context - len(prompt))
    seed, key = (0, name) if question.seed is None else (question.seed, "")
    return Answer(
        name=name,
        lines=lines,
        messages=question.messages,
        prompt=prompt,
        law=Law(temperature=question.temperature, top_p=question.top_p),
        uniforms=uniforms(seed=seed, stream="serve", prompt_id=key, index=question.index, count=count),
        pieces=Pieces(text),
    )


# --- the command ------------------------------------------------------------------------------------------------------


class Server:
    """A loaded policy, its mailbox and the answers in work."""

    def __init__(
        self,
        model: Any,
        text: Text,
        directory: Path,
        *,
        weights: Weights,
        control: str | None = None,
        score: Score | None = None,
    ) -> None:
        """`control`: the system turn under which a conditioned policy is sampled (ENGINE §2.9)."""
        self._mailbox = Mailbox(directory)
        self._rows = Rows(model, text, weights=weights)
        self._text = text
        self._control = control
        self._score = score
        self._context = models.context_tokens(model)
        self._next: Answer | None = None  # checked, and waiting for a place
        self._looked_at = -math.inf
        self._asked: list[str] = []
        self._cancelled: set[str] = set()
        self.answered = 0
        self.tokens = 0
        self.busy_seconds = 0.0

    def turn(self) -> bool:
        """Look for questions, begin at most one, and give every answer in work a token; false if there is nothing."""
        began = time.monotonic()
        if began - self._looked_at >= _POLL_SECONDS:
            self._looked_at = began
            self._asked, self._cancelled = self._mailbox.look()
            self._cancel()
        if self._next is None and self._asked:
            self._next = self._open(self._asked.pop(0))
        if self._next is not None and self._rows.has_place(self._next.room):
            answer, self._next = self._next, None
            self._rows.begin(answer)
            self.tokens += 1
            if answer.is_over:
                self._close(answer)
        in_work = len(self._rows.answers)
        if in_work:
            self.tokens += in_work
            for answer in self._rows.step():
                self._close(answer)
        is_busy = bool(self._rows.answers or self._asked) or self._next is not None
        self.busy_seconds += time.monotonic() - began
        return is_busy

    def stop(self) -> None:
        """End what is in work; questions that were not begun stay for the next server."""
        for answer in self._rows.drop({answer.name for answer in self._rows.answers}):
            answer.finish = "stopped"
            self._close(answer)

    def _cancel(self) -> None:
        for name in self._cancelled.intersection(self._asked):
            self._asked.remove(name)
            self._open(name)
        in_work = self._rows.drop(self._cancelled)
        if self._next is not None and self._next.name in self._cancelled:
            in_work.append(self._next)
            self._next = None
        for answer in in_work:
            answer.finish = "cancelled"
            self._close(answer)

    def _open(self, name: str) -> Answer | None:
        """Take a question up; None if it needs no work (bad, cancelled, answered), and its last line is written."""
        opened = self._mailbox.open(name)
        if opened is None:
            return None
        raw, lines = opened
        try:
            answer = _answer(name, raw, lines, text=self._text, control=self._control, context=self._context)
        except BadQuestion as error:
            self._mailbox.close(name, lines, {"error": {"code": error.code, "message": str(error)}})
            self.answered += 1
            return None
        if name in self._cancelled:
            answer.finish = "cancelled"
            self._close(answer)
            return None
        return answer

    def _close(self, answer: Answer) -> None:
        last = answer.last_line()
        if self._score is not None and answer.finish in ("end", "length"):
            last["score"] = self._score(answer.messages, answer.text, answer.finish)
        self._mailbox.close(answer.name, answer.lines, last)
        self.answered += 1


class Absent:
    """In the place of a policy that cannot be loaded: the others answer, and its questions are told why it does not."""

    tokens = 0
    busy_seconds = 0.0

    def __init__(self, directory: Path, *, why: str) -> None:
        self._mailbox = Mailbox(directory)
        self._why = why
        self.answered = 0

    def turn(self) -> bool:
        """Refuse what is asked."""
        asked, _ = self._mailbox.look()
        for name in asked:
            opened = self._mailbox.open(name)
            if opened is not None:
                self._mailbox.close(name, opened[1], {"error": {"code": "no_model", "message": self._why}})
                self.answered += 1
        return bool(asked)

    def stop(self) -> None:
        """Nothing is in work."""


def _scorer(directory: str, *, device: str) -> Score:
    rewards = load_reward_models([directory], device=device)

    def score(messages: Messages, text: str, finish: str) -> float | None:
        item = Given(id="-", prompt=messages, completions=[GivenCompletion(text=text, finish=finish)])
        try:
            return float(rewards.score([item])[0, 0])
        except (ModelError, Diverged):  # longer than its context; a completion without a score is one all the same
            return None

    return score


def _load(directory: Path, place: Path, config: ServeConfig, *, device: str, score: Score | None) -> Server:
    return Server(
        models.load_policy(directory, device=device),
        load_text(directory),
        place,
        weights=config.weights,
        control=control_of(directory),
        score=score,
    )


def _servers(config: ServeConfig, out: Path) -> tuple[list[Server | Absent], dict[str, str]]:
    """A server for each policy, and the hashes of the models by their names."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reward = config.models.reward
    score = None if reward is None else _scorer(reward, device=device)
    hashes = {} if reward is None else {"reward": directory_hash(Path(reward))}
    if config.models.base is not None:
        directory = Path(config.models.base)
        hashes["base"] = directory_hash(directory)
        return [_load(directory, out, config, device=device, score=score)], hashes
    servers: list[Server | Absent] = []
    for policy in config.models.policies:
        place = out / policy.name
        place.mkdir(exist_ok=True)
        try:
            servers.append(_load(Path(policy.path), place, config, device=device, score=score))
        except ModelError as error:
            servers.append(Absent(place, why=str(error)))
        else:
            hashes[policy.name] = directory_hash(Path(policy.path))
    return servers, hashes


def run(config: ServeConfig, out: Path, *, resume: Path | None, supervision: Supervision) -> dict[str, Any]:
    """Answer until nothing was asked for `idle_seconds`, or the end was (status `done`), or a stop (`stopped`).

    A stop is heeded after the current token. `resume` has no meaning here: what waits in `in` is the state.
    """
    status = Status(out)
    status.update("loading")
    servers, hashes = _servers(config, out)
    reason = f"nothing was asked for {config.idle_seconds:g} s"
    busy_at = time.monotonic()
    while not supervision.stop_requested:
        is_busy = sum(server.turn() for server in servers) > 0  # not `any`: each has its turn
        now = time.monotonic()
        if is_busy:
            busy_at = now
        elif (out / END).exists():
            reason = "the end was asked for"
            break
        elif now - busy_at >= config.idle_seconds:
            break
        answered = sum(server.answered for server in servers)
        status.update("answering" if is_busy else "waiting", step=answered, tokens_per_second=_speed(servers))
        if not is_busy:
            time.sleep(_POLL_SECONDS)
    for server in servers:
        server.stop()
    is_stopped = supervision.stop_requested
    speed, answered = _speed(servers), sum(server.answered for server in servers)
    result: dict[str, Any] = {
        "status": "stopped" if is_stopped else "done",
        "reason": "a stop was asked for" if is_stopped else reason,
        "step": answered,
        "checkpoints": {"best": None, "last": None},
        "metrics": {} if speed is None else {"speed/tokens_per_second": speed},
        "alarms": [],
        "lineage": {"snapshot": None, "models": hashes},
    }
    status.update(result["status"], step=answered)
    write_json(out / "result.json", result)
    return result


def _speed(servers: Sequence[Server | Absent]) -> float | None:
    """Tokens by the time spent on them, reading included."""
    tokens = sum(server.tokens for server in servers)
    return tokens / sum(server.busy_seconds for server in servers) if tokens else None
