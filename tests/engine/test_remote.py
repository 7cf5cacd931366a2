"""Completions by a server: what is asked, what comes back, and what a server can do wrong."""

from __future__ import annotations

import json
import math
import shutil
import socket
import threading
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from tests.engine.engine_runs import error_of, own_signals, result_of, wait_until
from tests.engine.openai_server import Answer, Server, said, serving
from tests.engine.tiny import tiny_model
from training.engine import sampling
from training.engine.__main__ import EXIT_CODES, _kind, main
from training.engine.config import SampleConfig, ServerConfig, parse_config
from training.engine.errors import ConfigError
from training.engine.metrics import METRICS
from training.engine.remote import Client, Patience, RemoteError, in_parallel, open_client, post
from training.engine.remote_sampling import RemoteSampler
from training.engine.sampling import Prompt, Sampler
from training.engine.supervision import Supervision
from training.engine.text import load_text

QUICK = Patience(attempts=3, first_wait_seconds=0.01, longest_wait_seconds=0.5)
PROMPTS = [Prompt(id=f"p{i}", messages=[{"role": "user", "content": f"good {i}"}]) for i in range(4)]


def _client(url: str, *, timeout: float = 5.0, parallel: int = 4, key: Path | None = None) -> Client:
    server = ServerConfig(
        url=url, timeout_seconds=timeout, parallel=parallel, key_file=None if key is None else str(key)
    )
    return open_client(server, patience=QUICK)


def _post(client: Client) -> dict[str, Any]:
    return post(client, "/chat/completions", {"model": "m"}, halt=threading.Event())


def _in_turn(*answers: Answer) -> Any:
    waiting = list(answers)
    return lambda _body: waiting.pop(0) if len(waiting) > 1 else waiting[0]


def _vllm(body: dict[str, Any]) -> Answer:
    """Three tokens, the end token among them, as vLLM gives them."""
    entries = [{"token": f"token_id:{t}", "logprob": -0.5 * t, "bytes": None, "top_logprobs": []} for t in (1, 2, 3)]
    return said(f"seed {body['seed']}", token_ids=[1, 2, 3], logprobs={"content": entries})


# --- HTTP -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(status: int) -> None:
    with serving(_in_turn(Answer(status=status, body={"error": "busy"}), Answer(body={"ok": 1}))) as server:
        assert _post(_client(server.url)) == {"ok": 1}
        assert len(server.requests) == 2


@pytest.mark.parametrize("value", ["0.3", formatdate(time.time() + 3600, usegmt=True)], ids=["seconds", "date"])
def test_retry_after_is_honoured_up_to_the_longest_wait(value: str) -> None:
    busy = Answer(status=429, body={}, headers={"Retry-After": value})
    with serving(_in_turn(busy, Answer(body={}))) as server:
        _post(_client(server.url))
        first, second = server.requests
        # 0.3 s as told; an hour is cut to 0.5 s. The back-off alone would be 0.01 s.
        assert 0.3 <= second.at - first.at < 3


def test_a_server_that_stays_busy_is_given_up_with_its_words() -> None:
    with serving(lambda _: Answer(status=503, body={"error": "over capacity"})) as server:
        with pytest.raises(RemoteError, match=r"status 503: given up after 3 attempts.*over capacity") as caught:
            _post(_client(server.url))
        assert server.url in str(caught.value)
        assert len(server.requests) == 3
    assert _kind(caught.value) == "network" and EXIT_CODES["network"] == 1  # a later attempt may find it idle


def test_a_refusal_is_not_repeated_and_its_body_is_cut() -> None:
    with serving(lambda _: Answer(status=404, body={"error": "no such model " + "x" * 5000})) as server:
        with pytest.raises(RemoteError, match=r"status 404.*no such model") as caught:
            _post(_client(server.url))
        assert len(server.requests) == 1
        assert len(str(caught.value)) < 500
    assert _kind(caught.value) == "data"


def test_a_connection_that_is_refused_or_cut_is_tried_again_and_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"  # bound, but nobody listens
        with pytest.raises(RemoteError, match=rf"{url}/chat/completions: ConnectionRefusedError.*3 attempts"):
            _post(_client(url))
    with serving(_in_turn(Answer(body={"a": "b" * 50}, cut=10), Answer(body={"a": 1}))) as server:
        assert _post(_client(server.url)) == {"a": 1}


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_object_is_named(body: bytes) -> None:
    with serving(lambda _: Answer(body=body)) as server:
        with pytest.raises(RemoteError, match=r"status 200: no JSON object came back"):
            _post(_client(server.url))
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"choices": []},
        {"choices": [{}]},
        {"choices": [{"message": {"content": 3}}]},
        {"choices": [{"message": []}]},
    ],
)
def test_an_object_that_is_no_chat_completion_is_named(body: dict[str, Any]) -> None:
    with serving(lambda _: Answer(body=body)) as server, pytest.raises(RemoteError, match="no chat completion"):
        list(RemoteSampler(_client(server.url), model="m")(PROMPTS[:1], seed=1, stream="s"))


def test_a_slow_server_runs_into_the_time_limit() -> None:
    def slow(_: dict[str, Any]) -> Answer:
        time.sleep(0.6)
        return Answer(body={})

    with serving(slow) as server, pytest.raises(RemoteError, match=r"TimeoutError.*3 attempts"):
        _post(_client(server.url, timeout=0.1))
    dripping = Answer(body=b" " * 320, drip_seconds=0.05)  # a second in all, each read within the limit
    with serving(lambda _: dripping) as server, pytest.raises(RemoteError, match=r"no whole answer within 0.2 s"):
        _post(_client(server.url, timeout=0.2))


def test_the_key_is_sent_and_shown_nowhere(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-very-secret\n")
    with serving(lambda _: Answer(status=401, body={"error": "bad key sk-very-secret"})) as server:
        client = _client(server.url, key=tmp_path / "key")
        with pytest.raises(RemoteError, match="bad key •••") as caught:
            _post(client)
        assert server.requests[0].headers["Authorization"] == "Bearer sk-very-secret"
    assert "secret" not in f"{client!r} {caught.value}"


def test_a_key_file_or_address_that_cannot_be_used_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "two").write_text("sk-hidden\nsk-other\n")
    for path in (tmp_path / "none", tmp_path / "two"):
        with pytest.raises(ConfigError, match=r"server.key_file") as caught:
            _client("http://localhost:1/v1", key=path)
        assert "hidden" not in str(caught.value)
    for url in ("http://user:pass@host/v1", "http:///v1", "http://host:99999/v1", "http://[::1/v1"):
        with pytest.raises(ConfigError, match=r"server.url") as refused:
            _client(url)
        assert "pass@" not in str(refused.value)
    assert _client("http://[::1]:8000/v1/?version=2").url == "http://[::1]:8000/v1"


def test_a_halt_ends_the_waiting_between_two_tries() -> None:
    with serving(lambda _: Answer(status=503, body={})) as server:
        patience = Patience(attempts=9, first_wait_seconds=60.0)
        client = open_client(ServerConfig(url=server.url), patience=patience)
        halt = threading.Event()
        threading.Timer(0.1, halt.set).start()
        began = time.monotonic()
        with pytest.raises(RemoteError, match="after 1 attempts"):
            post(client, "/x", {}, halt=halt)
        assert time.monotonic() - began < 10


def test_tasks_run_side_by_side_up_to_the_bound_and_end_at_a_stop() -> None:
    def slow(_: dict[str, Any]) -> Answer:
        time.sleep(0.05)
        return Answer(body={})

    with serving(slow) as server:
        client = _client(server.url)
        done = list(in_parallel(lambda _t, _h: _post(client), list(range(12)), parallel=3, stopped=lambda: False))
        assert sorted(task for task, _ in done) == list(range(12))
        assert 2 <= server.most <= 3
    asked = threading.Event()
    began = time.monotonic()

    def stuck(_task: int, halt: threading.Event) -> None:
        asked.set()
        halt.wait(60)

    assert list(in_parallel(stuck, [1, 2], parallel=2, stopped=asked.is_set)) == []
    assert time.monotonic() - began < 10


def test_the_failure_of_one_task_ends_the_others() -> None:
    halted = threading.Event()

    def work(task: int, halt: threading.Event) -> None:
        if task == 0:
            raise RemoteError("broken", url="http://x")
        if halt.wait(60):
            halted.set()

    with pytest.raises(RemoteError, match="broken"):
        list(in_parallel(work, [0, 1], parallel=2, stopped=lambda: False))
    assert halted.wait(10)


# --- a sampler --------------------------------------------------------------------------------------------------------


def test_vllm_gives_token_ids_and_their_logprobs() -> None:
    with serving(_vllm) as server:
        sampler = RemoteSampler(_client(server.url), model="m")
        asked: Sampler = sampler  # the protocol that our own decoder follows too
        found = list(asked(PROMPTS, seed=1, stream="s", completions=2, max_new_tokens=7, stop=["\n"], top_k=5))
        assert {(c.prompt_id, c.index) for c in found} == {(p.id, i) for p in PROMPTS for i in range(2)}
        assert all(c.token_ids == (1, 2, 3) and c.token_logprobs == (-0.5, -1.0, -1.5) for c in found)
        assert all(c.logprob == c.sampler_logprob == -3.0 and c.finish == "end" for c in found)
        assert len({c.text for c in found}) == len(found)  # a seed each
        assert len(server.requests) == len(found)
        body = server.requests[0].body
        assert server.requests[0].path == "/v1/chat/completions"
        assert body.items() >= {
            "model": "m", "n": 1, "temperature": 1.0, "top_p": 1.0, "max_tokens": 7, "stop": ["\n"], "top_k": 5,
            "logprobs": True, "return_token_ids": True, "messages": [{"role": "user", "content": "good 0"}],
        }.items()  # fmt: skip
        assert "min_p" not in body


def test_a_completion_keeps_its_seed_whatever_is_asked_beside_it() -> None:
    with serving(_vllm) as server:
        client = _client(server.url)
        whole = {c.prompt_id: c for c in RemoteSampler(client, model="m")(PROMPTS, seed=1, stream="s")}
        rest = list(RemoteSampler(client, model="m")(PROMPTS, seed=1, stream="s", done={("p0", 0), ("p1", 0)}))
        assert {c.prompt_id: c for c in rest} == {name: whole[name] for name in ("p2", "p3")}
        other = list(RemoteSampler(client, model="m")(PROMPTS[:1], seed=1, stream="t"))
        assert other[0].text != whole["p0"].text


def test_the_older_form_of_token_ids_is_read() -> None:
    entries = [{"token": "token_id:7", "logprob": -1.0}, {"token": "token_id:9", "logprob": -2.0}]
    with serving(lambda _: said("x", logprobs={"content": entries})) as server:
        (found,) = RemoteSampler(_client(server.url), model="m")(PROMPTS[:1], seed=1, stream="s")
        assert (found.token_ids, found.logprob) == ((7, 9), -3.0)


def test_a_server_of_text_only_gives_completions_without_tokens_and_log_probabilities() -> None:
    with serving(lambda _: said("hello", finish="length")) as server:
        sampler = RemoteSampler(_client(server.url), model="gpt")
        (found,) = sampler(PROMPTS[:1], seed=1, stream="s")
        assert (found.text, found.finish, found.token_ids) == ("hello", "length", ())
        assert math.isnan(found.logprob) and math.isnan(found.sampler_logprob)


@pytest.mark.parametrize("refused", [{"return_token_ids"}, {"return_token_ids", "logprobs"}])
def test_a_server_that_knows_fewer_fields_is_asked_with_fewer(refused: set[str]) -> None:
    def strict(body: dict[str, Any]) -> Answer:
        if refused & body.keys():
            return Answer(status=400, body={"error": {"message": f"Unrecognized request argument: {refused}"}})
        return said("x")

    with serving(strict) as server:
        found = list(RemoteSampler(_client(server.url), model="m")(PROMPTS, seed=1, stream="s"))
        assert len(found) == len(PROMPTS)
        assert len(server.requests) == len(PROMPTS) + len(refused)  # the first alone was asked more than once


def test_a_law_that_a_server_does_not_know_is_never_dropped() -> None:
    def strict(body: dict[str, Any]) -> Answer:
        return Answer(status=400, body={"error": "top_k?"}) if "top_k" in body else said("x")

    with serving(strict) as server, pytest.raises(RemoteError, match=r"status 400.*top_k"):
        list(RemoteSampler(_client(server.url), model="m")(PROMPTS, seed=1, stream="s", top_k=3))


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, Any]:
    prompts = tmp_path / "prompts.jsonl"
    lines = [{"id": p.id, "group": p.id, "prompt": list(p.messages)} for p in PROMPTS]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {
        "method": "sample",
        "seed": 1,
        "models": {"policies": [{"name": "one", "path": "served/one"}, {"name": "two", "path": "served/two"}]},
        "data": {"prompts": str(prompts)},
        "sampling": {"completions": 2, "max_new_tokens": 12, "first_prompts": 1, "batch_size": 4},
    }


def _run(
    raw: dict[str, Any], server: Server, out: Path, *, resume: Path | None = None, stop: Supervision | None = None
) -> dict[str, Any]:
    config = parse_config({**raw, "sampling": {**raw["sampling"], "server": {"url": server.url, "parallel": 2}}})
    assert isinstance(config, SampleConfig)
    out.mkdir(exist_ok=True)
    return sampling.run(config, out, resume=resume, supervision=stop or Supervision())


def _lines(out: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "completions.jsonl").read_text().splitlines()]
    found = {(line["policy"], line["prompt_id"], line["index"]): line for line in lines}
    assert len(found) == len(lines)
    return found


def test_the_sample_command_writes_the_lines_of_a_server(raw: dict[str, Any], tmp_path: Path) -> None:
    with serving(_vllm) as server:
        result = _run(raw, server, tmp_path / "out")
    lines = _lines(tmp_path / "out")
    assert len(lines) == 2 * 4 * 2
    assert {request.body["model"] for request in server.requests} == {"served/one", "served/two"}
    line = lines["one", "p0", 0]
    assert line.items() >= {"token_ids": [1, 2, 3], "token_ids_from": "server", "logprob": -3.0, "tokens": 3}.items()
    assert (line["finish"], line["seed"]) == ("end", 1)
    assert (result["status"], result["completions"], result["skipped"]) == ("done", 16, [])
    assert result == json.loads((tmp_path / "out" / "result.json").read_text())
    metrics = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["rollout/length_mean"] == 3.0
    assert all(name in METRICS for line in metrics for name in line.keys() - {"step", "time", "tokens"})


def test_a_resumed_command_asks_for_the_missing_completions_alone(raw: dict[str, Any], tmp_path: Path) -> None:
    with serving(_vllm) as server:
        _run(raw, server, tmp_path / "whole")
        lines = (tmp_path / "whole" / "completions.jsonl").read_bytes().splitlines(keepends=True)
        broken = tmp_path / "broken" / "completions.jsonl"
        shutil.copytree(tmp_path / "whole", broken.parent)
        broken.write_bytes(b"".join(lines[:10]) + lines[10][:-5])
        before = len(server.requests)
        result = _run(raw, server, tmp_path / "again", resume=broken)
        assert len(server.requests) - before == 6
    assert result["metrics"]["rollout/samples"] == 6
    assert _lines(tmp_path / "again") == _lines(tmp_path / "whole")


def test_text_alone_is_re_tokenised_where_the_tokenizer_is_here_and_said_so(
    raw: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny_model(tmp_path / "model")
    (model / "winnow.json").write_text(json.dumps({"control": "good"}))
    raw["models"]["policies"][0]["path"] = str(model)
    with serving(lambda _: said("good dog\ud83d", tokens=7)) as server:  # half a character, which no file can hold
        _run(raw, server, tmp_path / "out")
    roles = {request.body["model"]: request.body["messages"][0]["role"] for request in server.requests}
    assert roles == {str(model): "system", "served/two": "user"}  # a conditioned policy is asked under its control
    lines = _lines(tmp_path / "out")
    here, there = lines["one", "p0", 0], lines["two", "p0", 0]
    assert here["text"] == "good dog\ufffd"
    assert here["token_ids"] == load_text(model).completion_ids(here["text"], finished=True)
    assert (here["token_ids_from"], here["tokens"], here["logprob"]) == ("text", len(here["token_ids"]), None)
    assert (there["token_ids_from"], there["token_ids"], there["tokens"], there["logprob"]) == (None, None, 7, None)


def test_what_a_server_will_not_complete_is_listed(raw: dict[str, Any], tmp_path: Path) -> None:
    def picky(body: dict[str, Any]) -> Answer:
        if body["messages"][0]["content"] == "good 1":
            return Answer(status=400, body={"error": {"code": "context_length_exceeded", "message": "too long"}})
        return said("x", finish="content_filter" if body["messages"][0]["content"] == "good 2" else "stop")

    with serving(picky) as server:
        result = _run(raw, server, tmp_path / "out")
    assert (result["status"], result["completions"], len(result["skipped"])) == ("done", 8, 8)
    assert {(skip["prompt_id"], skip["reason"]) for skip in result["skipped"]} == {
        ("p1", "too_long"), ("p2", "content_filter"),
    }  # fmt: skip


def test_a_stop_does_not_wait_for_a_slow_server(raw: dict[str, Any], tmp_path: Path) -> None:
    free = threading.Event()

    def stuck(body: dict[str, Any]) -> Answer:
        if len(server.requests) > 3:
            free.wait(60)
        return _vllm(body)

    supervision = Supervision()
    results: list[dict[str, Any]] = []
    try:
        with serving(stuck) as server:
            runs = threading.Thread(
                target=lambda: results.append(_run(raw, server, tmp_path / "out", stop=supervision)), daemon=True
            )
            runs.start()
            wait_until(lambda: len(server.requests) > 3)
            supervision.request_stop()
            runs.join(timeout=20)
            free.set()
    finally:
        free.set()
    assert results and results[0]["status"] == "stopped"
    assert results[0]["completions"] == len(_lines(tmp_path / "out")) == 3


def test_a_server_that_refuses_ends_the_command_with_code_3_and_without_the_key(
    raw: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text("sk-very-secret")
    out, request = tmp_path / "out", tmp_path / "request.json"
    with serving(lambda _: Answer(status=401, body={"error": "wrong key: sk-very-secret"})) as server:
        raw["sampling"]["server"] = {"url": server.url, "key_file": str(tmp_path / "key")}
        request.write_text(json.dumps(raw))
        with own_signals():
            assert main(["sample", str(request), "--out", str(out)]) == 3
    assert error_of(out)["kind"] == "data"
    assert "status 401" in error_of(out)["message"]
    assert result_of(out)["status"] == "failed"
    written = "".join(path.read_text() for path in out.rglob("*") if path.is_file())
    assert "secret" not in written + "".join(capsys.readouterr())
