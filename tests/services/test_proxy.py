"""deploy/nginx.conf in a real nginx: it limits, redirects, and passes on no forwarding header of a client."""

from __future__ import annotations

import http.client
import http.server
import json
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require_or_skip
from tests.services.servers import free_port
from winnow.env import BASE_DIR

pytestmark = pytest.mark.services


class Echo(http.server.BaseHTTPRequestHandler):
    """The application's stand-in: it tells what reached it."""

    def do_GET(self) -> None:
        size = len(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        body = json.dumps({"path": self.path, "headers": dict(self.headers), "size": size}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815  (the name that http.server looks for)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def proxy(tmp_path_factory) -> Iterator[tuple[int, int]]:
    """The ports of nginx with our configuration: plain and TLS."""
    nginx, openssl = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin"), shutil.which("openssl")
    if not nginx or not openssl:
        require_or_skip("no nginx or no openssl (Debian: apt install nginx-light openssl)")
    root = tmp_path_factory.mktemp("proxy")
    subject = ["-subj", "/CN=localhost", "-days", "2", "-newkey", "rsa:2048", "-nodes"]
    certificate = ["-out", root / "fullchain.pem", "-keyout", root / "privkey.pem"]
    subprocess.run([openssl, "req", "-x509", *subject, *certificate], check=True, capture_output=True)
    upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    plain, tls = free_port(), free_port()
    config = (BASE_DIR / "deploy" / "nginx.conf").read_text()
    for ours, here in {
        "/tmp/": f"{root}/",
        "web:8000": f"127.0.0.1:{upstream.server_address[1]}",
        "listen 8080": f"listen 127.0.0.1:{plain}",
        "listen 8443": f"listen 127.0.0.1:{tls}",
        "/etc/nginx/certs": str(root),
        "worker_processes auto;": "worker_processes 1; daemon off;",
        "http2 on;": "",  # nginx of Debian 12 is older than this directive
    }.items():
        assert ours in config
        config = config.replace(ours, here)
    (root / "nginx.conf").write_text(config)
    process = subprocess.Popen([nginx, "-c", root / "nginx.conf", "-p", root], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 15
        while True:
            try:
                ask(plain, "/proxy-health")
                break
            except OSError:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.05)
        yield plain, tls
    finally:
        process.terminate()
        process.wait(10)
        upstream.shutdown()


def ask(port: int, path: str, *, tls: bool = False, body: bytes | None = None, headers: dict | None = None):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = (
        http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)
        if tls
        else http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    )
    connection.request("POST" if body else "GET", path, body=body, headers=headers or {})
    answer = connection.getresponse()
    content = answer.read()
    return answer.status, answer.headers, json.loads(content) if content.startswith(b"{") else content


def test_plain_http_is_sent_to_tls(proxy: tuple[int, int], tmp_path: Path):
    status, headers, _ = ask(proxy[0], "/projects?x=1", headers={"Host": "winnow.example.org"})
    assert (status, headers["Location"]) == (308, "https://winnow.example.org/projects?x=1")


def test_forwarding_headers_of_a_client_are_replaced(proxy):
    forged = {"X-Forwarded-For": "10.9.8.7", "X-Forwarded-Proto": "http", "Host": "winnow.example.org"}
    status, _, seen = ask(proxy[1], "/api/v1/session", tls=True, headers=forged)
    assert status == 200
    assert seen["headers"]["X-Forwarded-For"] == "127.0.0.1"
    assert seen["headers"]["X-Forwarded-Proto"] == "https"
    assert seen["headers"]["Host"] == "winnow.example.org"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/api/v1/annotate/projects", 413), ("/api/v1/projects/demo/imports", 200), ("/api/v1/projects/demo/jobs", 413)],
)
def test_only_imports_may_be_large(proxy, path, status):
    assert ask(proxy[1], path, tls=True, body=b"x" * 4_000_000)[0] == status


def test_nothing_is_served_from_the_proxys_own_disk(proxy):
    for path in ("/static../etc/passwd", "/static/%2e%2e/%2e%2e/etc/passwd", "/../../etc/passwd", "//etc/passwd"):
        status, _, seen = ask(proxy[1], path, tls=True)
        assert status == 400 or "path" in seen, path


def test_sign_in_is_limited_in_rate(proxy):
    statuses = [ask(proxy[1], "/api/v1/session", tls=True, body=b"{}")[0] for _ in range(40)]
    assert statuses.count(429) >= 10
    assert ask(proxy[1], "/api/v1/annotate/projects", tls=True)[0] == 200
