"""The one way out: what the operator did not allow is never asked, whatever the address looks like."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time

import pytest

from annotation import outbound
from annotation.outbound import Refused, Unanswered, addresses, check
from tests.conftest import require_or_skip
from tests.receiver import receiver

PUBLIC = ("public",)
HOSTILE = {
    "loopback": "https://127.0.0.1/",
    "short loopback": "https://127.1/",
    "decimal": "https://2130706433/",
    "hexadecimal": "https://0x7f000001/",
    "hexadecimal part": "https://127.0.0.0x1/",
    "octal": "https://0177.0.0.1/",
    "zero": "https://0/",
    "nobody": "https://0.0.0.0/",
    "six": "https://[::1]/",
    "six unspecified": "https://[::]/",
    "mapped": "https://[::ffff:127.0.0.1]/",
    "mapped in hexadecimal": "https://[::ffff:7f00:1]/",
    "compatible": "https://[::127.0.0.1]/",
    "translated": "https://[64:ff9b::7f00:1]/",
    "6to4": "https://[2002:7f00:1::]/",
    "teredo": "https://[2001:0:7f00:1::]/",
    "zone": "https://[fe80::1%25lo]/",
    "private 10": "https://10.0.0.1/",
    "private 172": "https://172.16.0.1/",
    "private 192": "https://192.168.0.1/",
    "carrier": "https://100.64.0.1/",
    "unique local": "https://[fd00::1]/",
    "multicast": "https://224.0.0.1/",
    "broadcast": "https://255.255.255.255/",
    "documentation": "https://192.0.2.1/",
    "metadata": "https://169.254.169.254/latest/meta-data/",
    "metadata in six": "https://[fd00:ec2::254]/",
    "metadata mapped": "https://[::ffff:169.254.169.254]/",
    "metadata alibaba": "https://100.100.100.200/",
    "metadata oracle": "https://192.0.0.192/",
    "metadata azure": "https://168.63.129.16/",
    "local name": "https://localhost/",
    "local name with a dot": "https://localhost./",
    "http": "http://example.org/",
    "other port": "https://example.org:8443/",
    "ssh": "https://example.org:22/",
    "port beyond": "https://example.org:99999/",
    "file": "file:///etc/passwd",
    "gopher": "gopher://example.org/",
    "ftp": "ftp://example.org/",
    "no scheme": "//example.org/",
    "no host": "https:///path",
    "user": "https://example.org@127.0.0.1/",
    "user of a public host": "https://127.0.0.1@example.org/",
    "backslash": "https://example.org\\@127.0.0.1/",
    "fragment": "https://127.0.0.1#example.org/",
    "line feed": "https://example.org/\r\nHost: 127.0.0.1",
    "tab": "https://exam\tple.org/",
    "blank": "https://example.org/ HTTP/1.1",
    "NUL": "https://example.org/\x00",
    "wide digits": "https://１２７.0.0.1/",
    "circled": "https://ⓔxample.org/",
    "empty": "",
    "long": "https://example.org/" + "x" * 500,
    "bad bracket": "https://[::1/",
    "empty label": "https://example..org/",
    "percent": "https://127.0.0.1%2f.example.org/",
}


def real(host, port):
    """The machine's own resolver, which also reads 127.1 and the like; no network is needed for numbers."""
    return [item[4][0] for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


@pytest.mark.parametrize("url", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_address_is_refused(url):
    with pytest.raises(Refused) as refused:
        addresses(check(url, allowed=PUBLIC), resolve=real)
    assert refused.value.details["url"]


@pytest.mark.parametrize("url", [*HOSTILE.values(), "https://example.org/", "http://127.0.0.1:8000/"])
def test_without_leave_nothing_is_asked(url):
    with pytest.raises(Refused):
        check(url, allowed=())


def test_public_https_is_allowed():
    target = check("https://Hooks.Example.org/a?b=c", allowed=PUBLIC)
    assert (target.authority, target.path, target.is_private) == ("hooks.example.org", "/a?b=c", False)
    assert [str(a) for a in addresses(target, resolve=lambda *_: ["93.184.216.34"])] == ["93.184.216.34"]
    six = addresses(check("https://[2606:2800:220:1::1]/", allowed=PUBLIC), resolve=real)
    assert [str(a) for a in six] == ["2606:2800:220:1::1"]


@pytest.mark.parametrize(
    "found", [["127.0.0.1"], ["93.184.216.34", "10.0.0.1"], ["::ffff:10.0.0.1"], ["fe80::1%eth0"], [], ["nonsense"]]
)
def test_a_name_is_as_bad_as_its_worst_address(found):
    with pytest.raises(Refused, match="does not resolve"):
        addresses(check("https://example.org/", allowed=PUBLIC), resolve=lambda *_: found)


def test_a_name_that_is_not_there_looks_like_one_of_our_network():
    def nothing(*_):
        raise socket.gaierror(8, "internal detail")

    messages = set()
    for resolve in (nothing, lambda *_: ["10.0.0.1"]):
        with pytest.raises(Refused) as refused:
            addresses(check("https://example.org/", allowed=PUBLIC), resolve=resolve)
        messages.add(str(refused.value))
    assert len(messages) == 1


def test_a_name_that_changes_its_mind_is_asked_once():
    """Rebinding: what was checked is what is connected to, though the name is sent as Host."""
    with receiver() as server:
        answers = [["127.0.0.1"], ["169.254.169.254"]]
        reply = outbound.post(
            f"http://sampler.example:{server.port}/v1", b"[1]", allowed=(f"sampler.example:{server.port}",),
            resolve=lambda *_: answers.pop(0),
        )  # fmt: skip
        assert reply.status == 200
        assert len(answers) == 1
        assert server.got[0].headers["Host"] == f"sampler.example:{server.port}"
        assert (server.got[0].path, server.got[0].body) == ("/v1", b"[1]")


def test_an_endpoint_of_the_operator_is_that_endpoint_only():
    allowed = ("127.0.0.1:8001", "[::1]:8001", "public")
    assert check("http://127.0.0.1:8001/v1", allowed=allowed).is_private
    assert check("http://[::1]:8001/v1", allowed=allowed).authority == "[::1]:8001"
    for url in ("http://127.0.0.1:8002/", "http://127.0.0.1/", "http://127.1:8001/", "http://localhost:8001/"):
        with pytest.raises(Refused):
            check(url, allowed=allowed)


def test_metadata_is_never_asked_even_where_the_operator_lists_it():
    for entry in ("169.254.169.254:80", "metadata.internal:80"):
        target = check(f"http://{entry}/", allowed=(entry,))
        with pytest.raises(Refused):
            addresses(target, resolve=lambda *_: ["169.254.169.254"])


def test_a_redirect_is_told_and_not_followed():
    with receiver() as server, receiver() as inside:
        server.statuses, server.headers = [302], {"Location": inside.url}
        reply = outbound.post_json(server.url, {}, allowed=(server.endpoint, inside.endpoint))
        assert (reply.status, reply.is_success, inside.got) == (302, False, [])


def test_proxies_of_the_environment_are_not_used(monkeypatch):
    with receiver() as server, receiver() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{proxy.endpoint}")
        outbound.post_json(server.url, {"x": 1}, allowed=(server.endpoint,), headers={"X-Key": "k"})
        assert proxy.got == []
        assert (server.got[0].headers["X-Key"], server.got[0].body) == ("k", b'{"x":1}')
        assert server.got[0].headers["Content-Type"] == "application/json"


def test_a_server_that_drips_is_left_when_the_time_is_over():
    with receiver() as server:
        server.drip_seconds, server.body = 0.05, b"x" * 1000
        started = time.monotonic()
        with pytest.raises(Unanswered, match=r"0\.4 s"):
            outbound.post_json(server.url, {}, timeout_seconds=0.4, allowed=(server.endpoint,))
        assert time.monotonic() - started < 2


def test_a_server_that_takes_and_says_nothing_is_left_when_the_time_is_over():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        for scheme in ("http", "https"):
            with pytest.raises(Unanswered, match=r"0\.3 s"):
                outbound.post_json(f"{scheme}://{endpoint}/", {}, timeout_seconds=0.3, allowed=(endpoint,))


def test_an_answer_that_is_too_large_is_refused():
    with receiver() as server:
        server.body = b"x" * (outbound.MOST_BYTES + 1)
        with pytest.raises(Unanswered, match="larger"):
            outbound.post_json(server.url, {}, allowed=(server.endpoint,))


def test_no_error_tells_what_the_server_said():
    with receiver() as server:
        server.body = b"the secret of the inside"
        reply = outbound.post_json(server.url, {}, allowed=(server.endpoint,))
        with pytest.raises(Unanswered) as failed:
            reply.json()
        assert "secret" not in str(failed.value)
        plain = f"https://{server.endpoint}/"  # speaks no TLS
        with pytest.raises(Unanswered) as failed:
            outbound.post_json(plain, {}, allowed=(server.endpoint,))
        assert "secret" not in str(failed.value)
    with pytest.raises(Unanswered):  # nobody there any more
        outbound.post_json(server.url, {}, allowed=(server.endpoint,))


@pytest.mark.parametrize(("certified", "ok"), [("sampler.example", True), ("other.example", False)])
def test_a_certificate_must_be_for_the_name(tmp_path, monkeypatch, certified, ok):
    tool = shutil.which("openssl")
    if tool is None:
        require_or_skip("no openssl, which makes the certificate")
    files = [str(tmp_path / name) for name in ("cert.pem", "key.pem")]
    subprocess.run(
        [tool, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={certified}",
         "-addext", f"subjectAltName=DNS:{certified}", "-out", files[0], "-keyout", files[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    monkeypatch.setenv("SSL_CERT_FILE", files[0])
    with receiver(certificate=(files[0], files[1])) as server:

        def ask():
            return outbound.post(
                f"https://sampler.example:{server.port}/", b"{}", allowed=(f"sampler.example:{server.port}",),
                resolve=lambda *_: ["127.0.0.1"],
            )  # fmt: skip

        if ok:
            assert ask().status == 200
        else:
            with pytest.raises(Unanswered, match="certificate"):
                ask()
        assert len(server.got) == ok


def test_headers_cannot_smuggle_lines():
    with receiver() as server, pytest.raises(ValueError, match="Invalid header"):
        outbound.post_json(server.url, {}, headers={"X": "a\r\nHost: b"}, allowed=(server.endpoint,))
