"""Questions of a directory and their answers: what `serve` and its clients write to each other. No torch here.

    DIR/in/<id>.json      {messages, max_new_tokens, temperature, top_p, seed, index}; all but messages may be left out
    DIR/in/<id>.cancel    ends the answer (any content)
    DIR/out/<id>.jsonl    {token, text, logprob} for each token as it is drawn; the last line is
                          {done: true, finish, text, tokens} or {error: {code, message}}; with `score` where the
                          server has a reward model (null: it could not read the completion)
    DIR/end               ends the server as soon as nothing is asked (any content)

The texts of the lines join to the last line's `text`; a token that ends inside a character has an empty text, and the
token that completes it has the whole one. `logprob` is log π at temperature 1, nats. `finish` is `end`, `length`,
`cancelled` or `stopped`; error codes are `bad_request`, `too_long`, `diverged` and `no_model` (the policy cannot be
loaded, where a server has several). Questions of one seed that differ in `index` get independent draws. An id is
letters, digits, - and _, and is used once.

A client writes its question under another name (`.x.partial`) and renames it: a file is read when it is seen, once. The
question file goes away when its answer is whole. What a killed server left is answered again from the start by the next
one in the same directory, with the same tokens; what was asked when no server ran waits for it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from training.engine.files import LineFile

LARGEST_QUESTION = 4 * 2**20  # bytes
END = "end"  # the file that ends a server
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")


class BadQuestion(Exception):
    """A question that gets an error line instead of an answer."""

    def __init__(self, code: Literal["bad_request", "too_long"], message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    messages: Sequence[Mapping[str, str]]
    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    index: int = 0


def read_question(raw: bytes) -> Question:
    """A question file's content, checked.

    Raises:
        BadQuestion: names the key.
    """
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadQuestion("bad_request", f"not JSON: {type(error).__name__}") from None
    if not isinstance(value, dict):
        raise BadQuestion("bad_request", "must be an object")
    unknown = value.keys() - {"messages", "max_new_tokens", "temperature", "top_p", "seed", "index"}
    if unknown:
        raise BadQuestion("bad_request", f"unknown key {min(unknown)!r}")
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise BadQuestion("bad_request", "messages must be a list of {role, content}, role system, user or assistant")
    if messages[-1]["role"] != "user":
        raise BadQuestion("bad_request", "the last of messages must be the user's")
    question = Question(
        messages=[{key: message[key] for key in ("role", "content")} for message in messages],
        max_new_tokens=_number(value, "max_new_tokens", 256, low=1, whole=True),
        temperature=_number(value, "temperature", 1.0, low=0.0),
        top_p=_number(value, "top_p", 1.0, low=0.0, high=1.0),
        seed=None if value.get("seed") is None else _number(value, "seed", 0, low=0, high=2**63 - 1, whole=True),
        index=_number(value, "index", 0, low=0, high=2**31 - 1, whole=True),
    )
    if question.top_p == 0:
        raise BadQuestion("bad_request", "top_p must be above 0")
    return question


def _is_message(value: object) -> bool:
    if not isinstance(value, dict) or value.get("role") not in ("system", "user", "assistant"):
        return False
    content = value.get("content")
    # JSON can spell half a character, which is no text.
    return isinstance(content, str) and not re.search("[\ud800-\udfff]", content)


def _number(
    value: Mapping[str, Any], key: str, default: float, *, low: float, high: float = math.inf, whole: bool = False
) -> Any:
    number = value.get(key, default)
    fits = type(number) is int or (type(number) is float and not whole and math.isfinite(number))
    if not fits or not low <= number <= high:
        kind = "a whole number" if whole else "a number"
        bound = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise BadQuestion("bad_request", f"{key} must be {kind} {bound}, got {json.dumps(number)[:80]}")
    return number


class Mailbox:
    """Questions come in, answers go out. Every answer ends with exactly one last line, then its question is removed."""

    def __init__(self, directory: Path) -> None:
        self._in, self._out = directory / "in", directory / "out"
        self._in.mkdir(exist_ok=True)
        self._out.mkdir(exist_ok=True)
        self._begun: set[str] = set()

    def look(self) -> tuple[list[str], set[str]]:
        """Ids of the questions that are not begun, the oldest first; and the ids that are cancelled."""
        asked: list[tuple[int, str]] = []
        cancelled: set[str] = set()
        with os.scandir(self._in) as entries:
            for entry in entries:
                name, _, kind = entry.name.partition(".")
                if not _ID.fullmatch(name) or kind not in ("json", "cancel"):
                    continue
                if kind == "cancel":
                    cancelled.add(name)
                elif name not in self._begun and entry.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):  # taken back since
                        asked.append((entry.stat().st_mtime_ns, name))
        known = self._begun | {name for _, name in asked}
        for name in cancelled - known:  # answered already, or its question is still to come
            if (self._out / f"{name}.jsonl").exists():
                self._remove(name)
        return [name for _, name in sorted(asked)], cancelled & known

    def open(self, name: str) -> tuple[bytes, LineFile] | None:
        """A question's content and the file of its answer; None if it is answered already, or was taken back."""
        path = self._out / f"{name}.jsonl"
        if _is_whole(path):
            self._remove(name)
            return None
        try:
            with (self._in / f"{name}.json").open("rb") as file:
                raw = file.read(LARGEST_QUESTION + 1)
        except FileNotFoundError:
            return None
        except OSError:
            raw = b""  # not readable: its error line says that it is not JSON
        self._begun.add(name)
        return raw, LineFile(path, keep_bytes=0)

    def close(self, name: str, lines: LineFile, last: Mapping[str, Any]) -> None:
        lines.write(last)
        lines.close()
        self._remove(name)

    def _remove(self, name: str) -> None:
        for kind in ("json", "cancel"):
            (self._in / f"{name}.{kind}").unlink(missing_ok=True)
        self._begun.discard(name)


def _is_whole(path: Path) -> bool:
    rows = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    if not rows or not rows[-1].endswith(b"\n"):
        return False
    last = json.loads(rows[-1])
    return "done" in last or "error" in last
