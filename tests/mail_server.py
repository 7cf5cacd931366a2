"""A mail server on this machine that keeps what it is handed and refuses whom it is told to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage


@dataclass(kw_only=True)
class MailServer:
    """What came in: (recipients, message), and how often somebody connected."""

    port: int = 0
    got: list[tuple[list[str], EmailMessage]] = field(default_factory=list)
    connections: int = 0
    refused: set[str] = field(default_factory=set)
    answers_to_data: list[str] = field(default_factory=list)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        to: list[str] = []

        def say(line: str) -> None:
            writer.write(f"{line}\r\n".encode())

        say("220 here")
        while line := (await reader.readline()).decode().strip():
            verb = line.partition(" ")[0].upper()
            if verb in {"EHLO", "HELO", "RSET", "NOOP"} or verb == "MAIL":
                to = []
                say("250 well")
            elif verb == "RCPT":
                address = line[line.index("<") + 1 : line.index(">")]
                to.append(address)
                say(f"550 no such {address}" if address in self.refused else "250 well")
            elif verb == "DATA":
                say("354 go on")
                raw = await reader.readuntil(b"\r\n.\r\n")
                answer = self.answers_to_data.pop(0) if self.answers_to_data else "250 kept"
                if answer.startswith("250"):
                    message = message_from_bytes(raw.removesuffix(b".\r\n"), policy=policy.default)
                    self.got.append((to, message))  # type: ignore[arg-type]
                say(answer)
            else:
                say("221 bye" if verb == "QUIT" else "502 what?")
            if verb == "QUIT":
                break
        writer.close()

    @property
    def recipients(self) -> list[str]:
        return [address for to, _ in self.got for address in to]


@contextmanager
def mail_server(*, port: int = 0) -> Iterator[MailServer]:
    """A running one, on a port of its own or the one that is named."""
    state, loop, ready = MailServer(), asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        server = await asyncio.start_server(state.talk, "127.0.0.1", port)
        state.port = server.sockets[0].getsockname()[1]
        ready.set()
        async with server:
            await server.serve_forever()

    def run() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(serve())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10), "the mail server does not start"
    try:
        yield state
    finally:
        loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
        thread.join(10)
