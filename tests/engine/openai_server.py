"""A real HTTP server in a thread that answers like an OpenAI-compatible one, or as badly as a test asks."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`body`: an object is sent as JSON, bytes as they are. `cut`: bytes left out though Content-Length counts them."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0
    drip_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Request:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float


class Server:
    """`answer` makes the answer of each request; `requests` are all that came; `most` were there at one time."""

    def __init__(self, answer: Callable[[dict[str, Any]], Answer]) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.url = ""
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def handle(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            return self.answer(request.body)
        finally:
            with self._lock:
                self._now -= 1


@contextlib.contextmanager
def serving(answer: Callable[[dict[str, Any]], Answer]) -> Iterator[Server]:
    server = Server(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            request = Request(path=self.path, headers=dict(self.headers), body=body, at=time.monotonic())
            made = server.handle(request)
            sent = made.body if isinstance(made.body, bytes) else json.dumps(made.body).encode()
            with contextlib.suppress(OSError):  # the client may have gone
                self.send_response(made.status)
                for name, value in {"Content-Length": str(len(sent)), **made.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                whole = sent[: len(sent) - made.cut]
                for begin in range(0, len(whole), 16 if made.drip_seconds else max(len(whole), 1)):
                    self.wfile.write(whole[begin : begin + 16] if made.drip_seconds else whole)
                    self.wfile.flush()
                    time.sleep(made.drip_seconds)

        def log_message(self, format: str, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    server.url = f"http://127.0.0.1:{listening.server_port}/v1"
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join(timeout=10)


def said(text: str | None, *, finish: str | None = "stop", tokens: int | None = 3, **choice: Any) -> Answer:
    """A chat completion with one choice."""
    message = {"role": "assistant", "content": text}
    return Answer(
        body={
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "finish_reason": finish, **choice}],
            "usage": {"prompt_tokens": 5, "completion_tokens": tokens},
        }
    )
