"""A client for OpenAI-compatible servers (vLLM is one): one request, tried again where that helps, or many in parallel.

Requests run in daemon threads, so a stop never waits for a slow server. Knows HTTP and JSON, standard library only; no
torch, no tokenizer, and neither the environment's proxies nor its keys.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import math
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from training.engine.config import ServerConfig
from training.engine.errors import ConfigError, ModelError

_TRANSIENT = frozenset({408, 409, 425, 429, *range(500, 600)})
_LARGEST_BODY = 64 * 2**20  # bytes; log-probabilities of a long completion are a few megabytes
_SHOWN = 300  # characters of a body that an error quotes
_NOTICE_SECONDS = 0.1  # a stop is seen this often

Task = TypeVar("Task")
Answer = TypeVar("Answer")


class RemoteError(ModelError):
    """A server that cannot be reached, refuses, or answers what cannot be read: names its address and status."""

    def __init__(
        self, message: str, *, url: str, status: int | None = None, body: str = "", is_passing: bool = False
    ) -> None:
        shown = body[:_SHOWN] + (" …" if len(body) > _SHOWN else "")
        parts = [url, f"status {status}" if status is not None else "", message, shown.strip()]
        super().__init__(": ".join(part for part in parts if part))
        self.url = url
        self.status = status
        self.body = body
        self.is_passing = is_passing
        """Nothing is wrong with the request: later the server may answer it."""

    @property
    def is_too_long(self) -> bool:
        """Whether the prompt alone was at fault. The words are OpenAI's code and vLLM's message; there is no field."""
        said = self.body.lower()
        return self.status == 400 and ("context_length_exceeded" in said or "maximum context length" in said)


# --- HTTP -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How often a request is tried and how long is waited between two tries, doubling, or as `Retry-After` says."""

    attempts: int = 6
    first_wait_seconds: float = 0.5
    longest_wait_seconds: float = 60.0
    """Also of a server's `Retry-After`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Client:
    """Where and how a server is asked. The key is in no message and in no `repr`."""

    url: str
    """Without a query, for messages."""
    secure: bool
    host: str
    port: int | None
    path: str
    query: str
    parallel: int
    timeout_seconds: float
    addresses: tuple[str, ...]
    patience: Patience
    key: str | None = field(repr=False)


def open_client(server: ServerConfig, *, patience: Patience | None = None) -> Client:
    """Check the address and read the key. Nothing is sent.

    Raises:
        ConfigError: an address without a host or with a password in it; a key file that cannot be read or holds
            anything but one line of plain characters.
    """
    try:
        parts = urlsplit(server.url)
        host, port = parts.hostname, parts.port
        is_plain = bool(host) and parts.username is None and parts.password is None
    except ValueError:
        is_plain = False
    if not is_plain or host is None:
        message = "server.url must name a host, a valid port if any, and no user or password"
        raise ConfigError(key="server.url", value="", message=message)
    shown = f"[{host}]" if ":" in host else host
    path = parts.path.rstrip("/")
    return Client(
        url=f"{parts.scheme}://{shown}{f':{port}' if port else ''}{path}",
        secure=parts.scheme == "https",
        host=host,
        port=port,
        path=path,
        query=parts.query,
        parallel=server.parallel,
        timeout_seconds=server.timeout_seconds,
        addresses=server.addresses,
        patience=patience or Patience(),
        key=_read_key(server.key_file),
    )


def _read_key(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        key = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not plain text"
        message = f"server.key_file cannot be read: {path}: {reason}"
        raise ConfigError(key="server.key_file", value=path, message=message) from None
    if not key or not key.isprintable() or " " in key:
        message = f"server.key_file must hold one key on one line: {path}"
        raise ConfigError(key="server.key_file", value=path, message=message)
    return key


def post(client: Client, path: str, body: Mapping[str, Any], *, halt: threading.Event) -> dict[str, Any]:
    """The server's answer to one request, tried again after 408, 409, 425, 429, 5xx and broken connections.

    Args:
        halt: set from elsewhere, it ends the waiting between two tries.

    Raises:
        RemoteError: another status, too many tries, or an answer that is no JSON object.
    """
    url = client.url + path
    payload = json.dumps(body, allow_nan=False).encode()
    for attempt in range(1, client.patience.attempts + 1):
        status, retry_after, problem, shown = None, None, "", ""
        try:
            status, retry_after, received = _exchange(client, path, payload)
            if status == 200:
                return _parse(received, client=client, url=url)
            shown = _shown(client, received)
            if status not in _TRANSIENT:
                raise RemoteError("refused", url=url, status=status, body=shown)
        except ssl.SSLCertVerificationError as error:
            raise RemoteError(f"its certificate is not trusted: {error.verify_message}", url=url) from None
        except (OSError, http.client.HTTPException) as error:
            problem = f"{type(error).__name__}: {error}, "
        wait = client.patience.first_wait_seconds * 2 ** (attempt - 1) if retry_after is None else retry_after
        if attempt == client.patience.attempts or halt.wait(min(wait, client.patience.longest_wait_seconds)):
            break
    message = f"{problem}given up after {attempt} attempts"
    raise RemoteError(message, url=url, status=status, body=shown, is_passing=True)


def _exchange(client: Client, path: str, payload: bytes) -> tuple[int, float | None, bytes]:
    """Status, seconds of Retry-After, and body of one try on a connection of its own."""
    deadline = time.monotonic() + client.timeout_seconds
    kind = http.client.HTTPSConnection if client.secure else http.client.HTTPConnection
    connection = kind(client.host, client.port, timeout=client.timeout_seconds)
    if client.addresses:
        connection.sock = _connect_to_addresses(client)
    headers = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close"}
    if client.key is not None:
        headers["Authorization"] = f"Bearer {client.key}"
    try:
        connection.request("POST", client.path + path + (f"?{client.query}" if client.query else ""), payload, headers)
        response = connection.getresponse()
        received = bytearray()
        while chunk := response.read1(1 << 16):
            received += chunk
            if time.monotonic() > deadline:  # the socket's own limit holds for each read, not for their sum
                raise TimeoutError(f"no whole answer within {client.timeout_seconds:g} s")
            if len(received) > _LARGEST_BODY:
                raise http.client.HTTPException(f"an answer of more than {_LARGEST_BODY} bytes")
        if response.length:
            raise http.client.IncompleteRead(bytes(received[:0]), response.length)
        return response.status, _retry_after(response.getheader("Retry-After")), bytes(received)
    finally:
        connection.close()


def _connect_to_addresses(client: Client) -> socket.socket:
    """A connection to the first of the given addresses that takes one; TLS is checked against the name."""
    failed = OSError("no address")
    for address in client.addresses:
        try:
            plain = socket.create_connection(
                (address, client.port or (443 if client.secure else 80)), timeout=client.timeout_seconds
            )
        except OSError as error:
            failed = error
            continue
        if not client.secure:
            return plain
        try:
            return ssl.create_default_context().wrap_socket(plain, server_hostname=client.host)
        except BaseException:
            plain.close()
            raise
    raise failed


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date (RFC 9110 §10.2.3)."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _shown(client: Client, received: bytes) -> str:
    """The beginning of a body, without the key: some servers repeat it."""
    text = received[: 16 * _SHOWN].decode("utf-8", errors="replace")
    return text.replace(client.key, "•••") if client.key else text


def _parse(received: bytes, *, client: Client, url: str) -> dict[str, Any]:
    try:
        value = json.loads(received)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RemoteError("no JSON object came back", url=url, status=200, body=_shown(client, received))
    return value


def in_parallel(
    do: Callable[[Task, threading.Event], Answer],
    tasks: Sequence[Task],
    *,
    parallel: int,
    stopped: Callable[[], bool],
) -> Iterator[tuple[Task, Answer]]:
    """`do` of every task, up to `parallel` at one time, as they are ready.

    It ends at once when `stopped` says so, when it is closed, or when one task fails (whose exception it raises): tasks
    in work are left to daemon threads, which see the event and whose results nobody takes.
    """
    waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
    ready: queue.SimpleQueue[tuple[Task, Answer] | BaseException] = queue.SimpleQueue()
    halt = threading.Event()
    for task in tasks:
        waiting.put(task)

    def work() -> None:
        try:
            while not halt.is_set():
                task = waiting.get_nowait()
                ready.put((task, do(task, halt)))
        except queue.Empty:
            return
        except BaseException as error:  # handed to the thread that waits, which raises it
            ready.put(error)

    for number in range(min(parallel, len(tasks))):
        threading.Thread(target=work, name=f"request-{number}", daemon=True).start()
    try:
        for _ in tasks:
            while True:
                if stopped():
                    return
                try:
                    result = ready.get(timeout=_NOTICE_SECONDS)
                    break
                except queue.Empty:
                    continue
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        halt.set()


# --- chat completions -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """The first choice of a chat completion, as the server gave it."""

    text: str
    finish_reason: str | None
    tokens: int | None
    token_ids: tuple[int, ...] | None
    logprobs: tuple[float, ...] | None


def chat(client: Client, body: Mapping[str, Any], *, halt: threading.Event) -> Reply:
    """One chat completion.

    Raises:
        RemoteError: as `post`, or the answer is not of the expected form.
    """
    path = "/chat/completions"
    answer = post(client, path, body, halt=halt)
    try:
        choice = answer["choices"][0]
        text = choice["message"].get("content") or ""
        if not isinstance(text, str):
            raise TypeError("content is no text")
        usage = answer.get("usage") or {}
        entries = (choice.get("logprobs") or {}).get("content") or []
        token_ids = _token_ids(choice, entries)
        logprobs = tuple(float(entry["logprob"]) for entry in entries) or None
        tokens = usage.get("completion_tokens") or (len(token_ids) if token_ids else None)
        reason = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        shown = _shown(client, json.dumps(answer).encode())
        raise RemoteError("no chat completion", url=client.url + path, status=200, body=shown) from None
    # JSON can spell half a character, which no UTF-8 file can hold.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return Reply(text=text, finish_reason=reason, tokens=tokens, token_ids=token_ids, logprobs=logprobs)


def _token_ids(choice: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> tuple[int, ...] | None:
    if choice.get("token_ids"):
        return tuple(int(token) for token in choice["token_ids"])
    prefix = "token_id:"
    if entries and all(str(entry["token"]).startswith(prefix) for entry in entries):
        return tuple(int(entry["token"][len(prefix) :]) for entry in entries)
    return None
