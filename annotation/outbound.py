"""The one way out: HTTP requests to addresses that the operator allows, and to nothing else.

Nothing is sent unless WINNOW_OUTBOUND allows it. `public` allows https to public addresses on port 443; an entry
`host:port` allows exactly that endpoint, by http too, in a private network. The name is resolved once, every address is
checked, and the connection goes to the address that was checked, so a name that changes its mind gains nothing. No
redirect is followed, no proxy of the environment is used, time and size are bounded, and no error tells what a server
answered.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any
from urllib.parse import urlsplit

from annotation import strict_json
from annotation.errors import DomainError

PUBLIC = "public"
TIMEOUT_SECONDS = 10.0
MOST_BYTES = 10_000_000
MOST_URL = 500
_NAME = re.compile(r"(?=.{1,253}\Z)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORTS = {"https": 443, "http": 80}
# Where clouds tell secrets to whoever asks from inside; some of them count as public addresses.
METADATA = tuple(
    ip_network(block)
    for block in ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128", "100.100.100.200/32", "192.0.0.192/32",
                  "168.63.129.16/32")
)  # fmt: skip
# IPv4 addresses in IPv6 clothes that `is_global` lets pass: compatible, translated (NAT64), 6to4, Teredo.
TRANSLATED = tuple(ip_network(block) for block in ("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))

Address = IPv4Address | IPv6Address
Resolver = Callable[[str, int], Sequence[str]]


class Refused(DomainError):
    """This address may not be asked: it is malformed, not allowed by the operator, or not public."""

    code = "outbound_refused"


class Unanswered(DomainError):
    """No answer came: no connection, no time left, or too large. The message never holds what the server said."""

    code = "outbound_failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """An address that the operator allows. `is_private` is an endpoint of the operator's list, by its name."""

    scheme: str
    host: str
    port: int
    path: str
    is_private: bool

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What came back: any status, redirects too."""

    status: int
    body: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The body, read strictly.

        Raises:
            Unanswered: it is no JSON that we take.
        """
        try:
            return strict_json.loads(self.body)
        except strict_json.BadJSON:
            raise Unanswered("The answer is not JSON.") from None


def post_json(
    url: str,
    body: object,
    *,
    headers: Mapping[str, str] | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
    allowed: Sequence[str],
) -> Reply:
    """Send a value as JSON; `allowed` is `settings.OUTBOUND`.

    Raises:
        Refused: the address may not be asked.
        Unanswered: no answer in time.
    """
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    return post(url, data, headers=headers, timeout_seconds=timeout_seconds, allowed=allowed)


def post(
    url: str,
    data: bytes,
    *,
    headers: Mapping[str, str] | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
    allowed: Sequence[str],
    resolve: Resolver | None = None,
) -> Reply:
    """Send bytes that are JSON already; as `post_json`. `timeout_seconds` is for the whole exchange."""
    target = check(url, allowed=allowed)
    found = addresses(target, resolve=resolve or _resolve)
    return _exchange(target, found, data, headers or {}, timeout_seconds)


def check(url: str, *, allowed: Sequence[str]) -> Target:
    """Read an address and hold it against the operator's list, without asking the network.

    Raises:
        Refused: saying what is wrong with it.
    """
    if len(url) > MOST_URL or not all("!" <= letter <= "~" for letter in url) or "\\" in url:
        raise _refused(f"must be at most {MOST_URL} visible ASCII characters without blanks and backslashes")
    try:
        parts = urlsplit(url)
        port, host = parts.port, (parts.hostname or "").lower()
    except ValueError:
        raise _refused("is not a URL") from None
    if parts.scheme not in _PORTS or not host:
        raise _refused("must look like https://host/path")
    if "@" in parts.netloc or parts.fragment:
        raise _refused("must hold no user name and no fragment")
    host = _checked_host(host)
    port = _PORTS[parts.scheme] if port is None else port
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    shown = f"[{host}]" if ":" in host else host
    if f"{shown}:{port}" in {entry.lower() for entry in allowed}:
        return Target(scheme=parts.scheme, host=host, port=port, path=path, is_private=True)
    if PUBLIC not in allowed:
        raise Refused(
            f"This server sends nothing to {shown}:{port}. Its operator may allow it by WINNOW_OUTBOUND.",
            details={"url": ["is not among the addresses that the operator allows"]},
        )
    if parts.scheme != "https" or port != 443:
        raise _refused("must be https on port 443")
    return Target(scheme=parts.scheme, host=host, port=port, path=path, is_private=False)


def addresses(target: Target, *, resolve: Resolver | None = None) -> list[Address]:
    """What the name means now, each one checked: one that is not public spoils them all.

    Raises:
        Refused: the same for a name that is not there and for one inside our network, which is nobody's business.
    """
    try:
        found = [
            ipaddress.ip_address(text.partition("%")[0]) for text in (resolve or _resolve)(target.host, target.port)
        ]
    except (OSError, UnicodeError, ValueError):
        found = []
    if not found or not all(_may_ask(address, is_private=target.is_private) for address in found):
        raise _refused("its host does not resolve to addresses that may be asked")
    return found


def _may_ask(address: Address, *, is_private: bool) -> bool:
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if any(address in block for block in METADATA if block.version == address.version):
        return False
    if is_private:
        return True
    translated = any(address in block for block in TRANSLATED if block.version == address.version)
    return address.is_global and not address.is_multicast and not translated


def _checked_host(host: str) -> str:
    """A plain name, or an address in its usual spelling: 127.1, 0x7f.1 and 2130706433 are neither."""
    if ":" in host or _NUMBER.fullmatch(host.rpartition(".")[2]):
        try:
            return str(ipaddress.ip_address(host))
        except ValueError:
            raise _refused("its host is no address in the usual spelling") from None
    if not _NAME.fullmatch(host):
        raise _refused("its host is not a name")
    return host


def _refused(rule: str) -> Refused:
    return Refused(f"url: {rule}", details={"url": [rule]})


def _resolve(host: str, port: int) -> list[str]:
    return [str(item[4][0]) for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class _Deadline:
    """Hangs up when the time for the whole exchange is over: a socket's own timeout begins anew with each byte."""

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._open: socket.socket | None = None
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def watch(self, opened: socket.socket) -> None:
        with self._lock:
            self._open = opened
            if self.is_over:
                raise TimeoutError

    def cancel(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._open = None

    def _end(self) -> None:
        with self._lock:
            self.is_over = True
            if self._open is not None:
                with contextlib.suppress(OSError):  # closed meanwhile
                    # The plain socket's: the TLS one would wait for the other side.
                    socket.socket.shutdown(self._open, socket.SHUT_RDWR)


def _exchange(
    target: Target, found: Sequence[Address], data: bytes, headers: Mapping[str, str], timeout_seconds: float
) -> Reply:
    kind = HTTPSConnection if target.scheme == "https" else HTTPConnection
    connection = kind(target.host, target.port, timeout=timeout_seconds)
    deadline = _Deadline(timeout_seconds)
    try:
        connection.sock = _connect(target, found, timeout_seconds, deadline)
        sent = {"Content-Type": "application/json", "User-Agent": "Winnow", "Connection": "close", **headers}
        connection.request("POST", target.path, body=data, headers={**sent, "Host": target.authority})
        response = connection.getresponse()
        body = response.read(MOST_BYTES + 1)
        if deadline.is_over:
            raise TimeoutError
    except TimeoutError:
        raise _too_slow(timeout_seconds) from None
    except ssl.SSLError:
        raise (
            _too_slow(timeout_seconds) if deadline.is_over else Unanswered("TLS failed: no valid certificate?")
        ) from None
    except (OSError, HTTPException):
        raise (_too_slow(timeout_seconds) if deadline.is_over else Unanswered("The server did not answer.")) from None
    finally:
        deadline.cancel()
        connection.close()
    if len(body) > MOST_BYTES:
        raise Unanswered(f"The answer is larger than {MOST_BYTES} bytes.")
    return Reply(status=response.status, body=body)


def _too_slow(seconds: float) -> Unanswered:
    return Unanswered(f"No answer within {seconds:g} s.")


def _connect(target: Target, found: Sequence[Address], timeout_seconds: float, deadline: _Deadline) -> socket.socket:
    """A connection to the first address that takes one; TLS is checked against the name."""
    failed: OSError = OSError("no address")
    for address in found:
        try:
            plain = socket.create_connection((str(address), target.port), timeout=timeout_seconds)
        except OSError as error:
            failed = error
            if deadline.is_over:
                raise TimeoutError from None
            continue
        try:
            return _secured(plain, target, deadline)
        except BaseException:
            plain.close()
            raise
    raise failed


def _secured(plain: socket.socket, target: Target, deadline: _Deadline) -> socket.socket:
    deadline.watch(plain)
    if target.scheme == "http":
        return plain
    context = ssl.create_default_context()
    secure = context.wrap_socket(plain, server_hostname=target.host, do_handshake_on_connect=False)
    try:
        deadline.watch(secure)
        secure.do_handshake()
    except BaseException:
        secure.close()
        raise
    return secure
