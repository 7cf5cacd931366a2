"""`serve`: questions of a directory, answered token by token, several at one time, by a real tiny model."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.engine_runs import PATIENCE_SECONDS, ROOT, lines_of, result_of, wait_until
from tests.engine.tiny import tiny_model
from training.engine import models, sampling, serving
from training.engine.config import ServeConfig, parse_config
from training.engine.errors import ConfigError
from training.engine.mailbox import BadQuestion, read_question
from training.engine.sampling import Completion, Prompt
from training.engine.sections import Weights
from training.engine.serving import ROWS, Pieces, Server
from training.engine.supervision import Supervision
from training.engine.text import Text, load_text

ASK = [{"role": "user", "content": "good dog?"}]
TURNS = 20_000  # of a server, before a test gives up


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A peaked random model with room for 2,048 positions: its text is mostly broken bytes."""
    directory = tiny_model(tmp_path_factory.mktemp("serving") / "model", spread=0.3)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    return directory


@pytest.fixture(scope="module")
def model(place: Path) -> Any:
    return models.load_policy(place)


@pytest.fixture(scope="module")
def text(place: Path) -> Text:
    return load_text(place)


def _server(model: Any, text: Text, directory: Path) -> Server:
    return Server(model, text, directory, weights=Weights.FP32)


def _ask(directory: Path, name: str, **question: Any) -> None:
    """As a client must: write aside, then rename."""
    (directory / "in").mkdir(exist_ok=True)
    aside = directory / "in" / f".{name}.partial"
    aside.write_text(json.dumps({"messages": ASK, "max_new_tokens": 12, **question}))
    aside.rename(directory / "in" / f"{name}.json")


def _answer(directory: Path, name: str) -> list[dict[str, Any]]:
    return lines_of(directory / "out" / f"{name}.jsonl")


def _tokens(directory: Path, name: str) -> list[int]:
    return [line["token"] for line in _answer(directory, name)[:-1]]


def _serve_all(server: Server, directory: Path) -> None:
    """Turns until nothing is asked. A turn looks at the directory only now and then, so wait for the files to go."""
    for _ in range(TURNS):
        if not server.turn() and not list((directory / "in").glob("*.json")):
            return
    raise AssertionError("the server never came to rest")


def _sampled(model: Any, text: Text, name: str, *, seed: int = 0, **options: Any) -> Completion:
    """What the sampler draws for the question of that id (a seed has the empty id)."""
    messages = options.pop("messages", ASK)
    (completion,) = sampling.generate(
        model, text, [Prompt(id=name, messages=messages)], seed=seed, stream="serve",
        **{"max_new_tokens": 12, **options},
    )  # fmt: skip
    return completion


def test_an_answer_is_what_the_sampler_draws_a_line_a_token(model: Any, text: Text, tmp_path: Path) -> None:
    server = _server(model, text, tmp_path)
    _ask(tmp_path, "q1", temperature=0.8, top_p=0.9, max_new_tokens=60)
    _serve_all(server, tmp_path)
    expected = _sampled(model, text, "q1", temperature=0.8, top_p=0.9, max_new_tokens=60)
    *lines, last = _answer(tmp_path, "q1")
    assert [line["token"] for line in lines] == list(expected.token_ids)
    assert sum(line["logprob"] for line in lines) == pytest.approx(expected.logprob, abs=1e-3)
    assert last == {"done": True, "finish": expected.finish, "text": expected.text, "tokens": len(lines)}
    assert "".join(line["text"] for line in lines) == expected.text
    assert not list((tmp_path / "in").iterdir())


def test_a_character_of_several_tokens_comes_whole(text: Text) -> None:
    pieces = Pieces(text)
    ids = text.completion_ids("a🙂b", finished=True)
    given = [pieces.add(token, last=token == ids[-1]) for token in ids]
    assert len(ids) == 1 + 4 + 1 + 1  # four bytes of the face, and the end token
    assert given == ["a", "", "", "", "🙂", "b", ""]


@pytest.mark.parametrize("seed", range(20))
def test_pieces_of_any_tokens_join_to_their_text(text: Text, seed: int) -> None:
    numbers = random.Random(seed)
    written = text.completion_ids("déjà 日本語 the good 🙂🏽 dog\n\ufffd", finished=False)
    ids = [*numbers.choices(range(len(text.tokenizer)), k=30), *written, *numbers.choices(written, k=30)]
    pieces = Pieces(text)
    given = [pieces.add(token, last=place == len(ids) - 1) for place, token in enumerate(ids)]
    assert "".join(given) == text.decode(ids)


def test_answers_grow_side_by_side_and_as_if_each_were_alone(model: Any, text: Text, tmp_path: Path) -> None:
    server = _server(model, text, tmp_path)
    laws: list[dict[str, Any]] = [{}, {"temperature": 0}, {"temperature": 2.0}, {"top_p": 0.5}]
    for number, law in enumerate(laws):
        _ask(tmp_path, f"q{number}", max_new_tokens=40, **law)
    for _ in range(8):
        server.turn()
    # A question is taken up each turn and has its first two tokens then; q0 may have ended, the others may too.
    counts = [len(_answer(tmp_path, f"q{number}")) for number in range(4)]
    assert all(counts)
    _serve_all(server, tmp_path)
    for number, law in enumerate(laws):
        assert _tokens(tmp_path, f"q{number}") == list(
            _sampled(model, text, f"q{number}", max_new_tokens=40, **law).token_ids
        )
    assert server.answered == 4


def test_more_questions_than_rows_are_all_answered(model: Any, text: Text, tmp_path: Path) -> None:
    server = _server(model, text, tmp_path)
    names = [f"q{number}" for number in range(2 * ROWS + 1)]
    for name in names:
        _ask(tmp_path, name)
    _serve_all(server, tmp_path)
    assert [_tokens(tmp_path, name) for name in names] == [
        list(_sampled(model, text, name).token_ids) for name in names
    ]


def test_a_seed_gives_the_same_text_whatever_the_id(model: Any, text: Text, tmp_path: Path) -> None:
    server = _server(model, text, tmp_path)
    for name, question in {"a": {"seed": 3}, "b": {"seed": 3}, "c": {}, "d": {}}.items():
        _ask(tmp_path, name, max_new_tokens=40, **question)
    _serve_all(server, tmp_path)
    assert _tokens(tmp_path, "a") == _tokens(tmp_path, "b")
    assert _tokens(tmp_path, "c") != _tokens(tmp_path, "d")


def test_a_long_question_makes_room_without_changing_the_answers_in_work(
    model: Any, text: Text, tmp_path: Path
) -> None:
    server = _server(model, text, tmp_path)
    long = [{"role": "user", "content": "good dog " * 300}]
    assert 512 < len(text.prompt_ids(long)) < 2000
    _ask(tmp_path, "short", max_new_tokens=80, temperature=0)
    server.turn()
    server.turn()
    _ask(tmp_path, "long", messages=long, max_new_tokens=20, temperature=0)
    _serve_all(server, tmp_path)
    assert _tokens(tmp_path, "short") == list(
        _sampled(model, text, "short", max_new_tokens=80, temperature=0).token_ids
    )
    expected = _sampled(model, text, "long", messages=long, max_new_tokens=20, temperature=0)
    assert _tokens(tmp_path, "long") == list(expected.token_ids)


@pytest.mark.parametrize("weights", [Weights.BF16, Weights.INT8])
def test_weights_may_be_held_smaller(model: Any, text: Text, tmp_path: Path, weights: Weights) -> None:
    server = Server(model, text, tmp_path, weights=weights)
    _ask(tmp_path, "q", temperature=0, max_new_tokens=6)
    _serve_all(server, tmp_path)
    expected = _sampled(model, text, "q", temperature=0, max_new_tokens=6, weights=weights)
    assert _tokens(tmp_path, "q") == list(expected.token_ids)
    assert sum(line["logprob"] for line in _answer(tmp_path, "q")[:-1]) == pytest.approx(expected.logprob, abs=1e-3)


def test_a_conditioned_policy_is_asked_under_its_control(model: Any, text: Text, tmp_path: Path) -> None:
    server = Server(model, text, tmp_path, weights=Weights.FP32, control="good")
    _ask(tmp_path, "q", temperature=0)
    _serve_all(server, tmp_path)
    under = [{"role": "system", "content": "good"}, *ASK]
    assert _tokens(tmp_path, "q") == list(_sampled(model, text, "q", messages=under, temperature=0).token_ids)


def test_an_answer_ends_at_the_models_context(model: Any, text: Text, tmp_path: Path) -> None:
    server = _server(model, text, tmp_path)
    room = 6
    words = "a" * 3000
    while len(text.prompt_ids([{"role": "user", "content": words}])) > 2048 - room:
        words = words[:-1]
    exact = [{"role": "user", "content": words}]
    _ask(tmp_path, "fits", messages=exact, max_new_tokens=1000, temperature=0)
    _ask(tmp_path, "not", messages=[{"role": "user", "content": words + "a" * 2 * room}])
    _serve_all(server, tmp_path)
    assert 1 <= _answer(tmp_path, "fits")[-1]["tokens"] <= 2048 - len(text.prompt_ids(exact))
    (error,) = _answer(tmp_path, "not")
    assert error["error"]["code"] == "too_long"
    assert "context is 2048" in error["error"]["message"]


def test_a_cancel_ends_an_answer_in_work_and_one_that_waits(model: Any, text: Text, tmp_path: Path) -> None:
    server = _server(model, text, tmp_path)
    names = [f"q{number:02}" for number in range(ROWS + 2)]
    for name in names:
        _ask(tmp_path, name, max_new_tokens=1500, temperature=5.0)
    wait_until(lambda: server.turn() and all(_answer(tmp_path, name) for name in names[:3]))
    for name in (names[0], names[-1], "nobody"):
        (tmp_path / "in" / f"{name}.cancel").touch()
    wait_until(lambda: server.turn() and not (tmp_path / "in" / f"{names[-1]}.cancel").exists())
    *lines, last = _answer(tmp_path, names[0])
    assert (last["finish"], last["tokens"]) == ("cancelled", len(lines))
    assert last["text"] == "".join(line["text"] for line in lines)
    assert _answer(tmp_path, names[-1])[-1].items() >= {"finish": "cancelled"}.items()
    assert not (tmp_path / "in" / f"{names[0]}.json").exists()
    server.stop()


@pytest.mark.parametrize(
    "raw, problem",
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "object"),
        (b"{}", "messages"),
        (b'{"messages": []}', "messages"),
        (b'{"messages": [{"role": "robot", "content": "x"}]}', "messages"),
        (b'{"messages": [{"role": "user", "content": 3}]}', "messages"),
        (b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', "messages"),
        (b'{"messages": [{"role": "assistant", "content": "x"}]}', "user"),
        (b'{"messages": [{"role": "user", "content": "x"}], "temprature": 1}', "temprature"),
        *[
            (json.dumps({"messages": ASK, key: value}).encode(), key)
            for key, value in (
                ("max_new_tokens", 0), ("max_new_tokens", 2.0), ("max_new_tokens", True), ("temperature", -1),
                ("temperature", float("nan")), ("temperature", "1"), ("top_p", 0), ("top_p", 1.5), ("seed", -1),
                ("seed", 2**63), ("seed", "x"), ("max_new_tokens", None),
            )
        ],
    ],
)  # fmt: skip
def test_a_bad_question_is_named(raw: bytes, problem: str) -> None:
    with pytest.raises(BadQuestion, match=problem) as caught:
        read_question(raw)
    assert caught.value.code == "bad_request"
    assert len(str(caught.value)) < 300


def test_bad_questions_get_an_error_line_and_the_server_goes_on(model: Any, text: Text, tmp_path: Path) -> None:
    server = _server(model, text, tmp_path)
    inbox = tmp_path / "in"
    (inbox / "bad.json").write_text('{"messages": ')
    (inbox / "huge.json").write_bytes(b" " * (4 * 2**20 + 1))
    (inbox / ".aside.json").write_text("{}")
    (inbox / "half.json.partial").write_text("{}")
    (inbox / "notes.txt").write_text("x")
    (inbox / "directory.json").mkdir()
    (inbox / "link.json").symlink_to("/etc/hostname")
    os.mkfifo(inbox / "pipe.json")
    _ask(tmp_path, "good")
    wait_until(lambda: server.turn() or bool(_answer(tmp_path, "good") and "done" in _answer(tmp_path, "good")[-1]))
    wait_until(lambda: not server.turn())
    assert _answer(tmp_path, "bad") == [{"error": {"code": "bad_request", "message": "not JSON: JSONDecodeError"}}]
    assert _answer(tmp_path, "huge")[0]["error"]["code"] == "bad_request"
    assert _answer(tmp_path, "good")[-1]["done"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"bad.jsonl", "huge.jsonl", "good.jsonl"}
    assert {path.name for path in inbox.iterdir()} == {
        ".aside.json", "half.json.partial", "notes.txt", "directory.json", "link.json", "pipe.json",
    }  # fmt: skip


def test_a_template_that_refuses_the_messages_is_a_bad_question(tmp_path: Path) -> None:
    strict = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system turn here') }}{% endif %}"
        "{{ '<|start|>' + m['role'] + '\\n' + m['content'] + '<|end|>' + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"
    )
    place = tiny_model(tmp_path / "model", template=strict)
    server = _server(models.load_policy(place), load_text(place), tmp_path)
    _ask(tmp_path, "q", messages=[{"role": "system", "content": "x"}, *ASK])
    _serve_all(server, tmp_path)
    (line,) = _answer(tmp_path, "q")
    assert line["error"]["code"] == "bad_request"
    assert "no system turn here" in line["error"]["message"]


def test_numbers_that_are_not_finite_end_their_answers_alone(place: Path, text: Text, tmp_path: Path) -> None:
    model = models.load_policy(place)
    server = _server(model, text, tmp_path)
    _ask(tmp_path, "before")
    _serve_all(server, tmp_path)
    with torch.no_grad():
        models.trunk(model).norm.weight[0] = torch.nan  # the decoder looks at the model's own norms
    _ask(tmp_path, "after")
    _serve_all(server, tmp_path)
    assert _answer(tmp_path, "before")[-1]["done"]
    assert _answer(tmp_path, "after")[-1]["error"]["code"] == "diverged"


def test_what_a_killed_server_left_is_answered_by_the_next_one(model: Any, text: Text, tmp_path: Path) -> None:
    killed = _server(model, text, tmp_path)
    _ask(tmp_path, "q", max_new_tokens=40)
    killed.turn()
    assert (tmp_path / "in" / "q.json").exists()
    (tmp_path / "out" / "q.jsonl").open("a").write('{"tok')
    server = _server(model, text, tmp_path)
    _serve_all(server, tmp_path)
    assert _tokens(tmp_path, "q") == list(_sampled(model, text, "q", max_new_tokens=40).token_ids)
    whole = (tmp_path / "out" / "q.jsonl").read_bytes()
    _ask(tmp_path, "q", max_new_tokens=40)  # as if it had died between the last line and taking the question away
    _serve_all(_server(model, text, tmp_path), tmp_path)
    assert (tmp_path / "out" / "q.jsonl").read_bytes() == whole


# --- the command ------------------------------------------------------------------------------------------------------


def _start(place: Path, out: Path, **config: Any) -> subprocess.Popen[bytes]:
    path = out.parent / "serve.json"
    path.write_text(json.dumps({"method": "serve", "models": {"base": str(place)}, **config}))
    return subprocess.Popen(
        [sys.executable, "-m", "training.engine", "serve", str(path), "--out", str(out)],
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def _ended(child: subprocess.Popen[bytes]) -> int:
    try:
        return child.wait(timeout=PATIENCE_SECONDS)
    finally:
        child.kill()
        assert child.stderr is not None
        child.stderr.close()


def test_without_questions_it_ends_by_itself(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    _ask(out, "early")  # before the server is there
    child = _start(place, out, idle_seconds=1.0)
    assert _ended(child) == 0
    result = result_of(out)
    assert (result["status"], result["step"]) == ("done", 1)
    assert result["metrics"]["speed/tokens_per_second"] > 0
    assert _answer(out, "early")[-1]["done"]
    status = json.loads((out / "status.json").read_text())
    assert (status["phase"], status["step"]) == ("done", 1)


def test_a_sigterm_ends_the_answers_in_work_and_keeps_the_questions_that_wait(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    names = [f"q{number:02}" for number in range(ROWS + 3)]
    for name in names:
        _ask(out, name, max_new_tokens=2000, temperature=5.0)
    child = _start(place, out, idle_seconds=60.0)
    try:
        wait_until(lambda: len(_answer(out, names[0])) > 3 or child.poll() is not None)
        status = json.loads((out / "status.json").read_text())
        asked_at = time.monotonic()
        child.send_signal(signal.SIGTERM)
    finally:
        code = _ended(child)
    assert code == 0
    assert time.monotonic() - asked_at < 20
    assert status["phase"] == "answering"
    assert result_of(out)["status"] == "stopped"
    last = _answer(out, names[0])[-1]
    assert last["done"] and last["finish"] in ("stopped", "end")
    assert (out / "in" / f"{names[-1]}.json").exists()
    assert all("done" in _answer(out, n)[-1] for n in names if not (out / "in" / f"{n}.json").exists())


def test_a_stop_before_the_first_question_is_a_stop(place: Path, tmp_path: Path) -> None:
    supervision = Supervision()
    supervision.request_stop()
    config = parse_config({"method": "serve", "models": {"base": str(place)}})
    assert isinstance(config, ServeConfig)
    assert serving.run(config, tmp_path, resume=None, supervision=supervision)["status"] == "stopped"


# --- several policies -------------------------------------------------------------------------------------------------


def test_several_policies_answer_side_by_side_with_a_score_and_one_that_is_broken_says_so(
    place: Path, tmp_path: Path
) -> None:
    reward = tiny_model(tmp_path / "reward", seed=1, reward=True)
    broken = tmp_path / "broken"
    broken.mkdir()
    named = {"one": place, "other": tiny_model(tmp_path / "other", seed=5), "broken": broken}
    out = tmp_path / "out"
    out.mkdir()
    for name in named:
        (out / name).mkdir()
        _ask(out / name, "q", seed=7, index=0)
        _ask(out / name, "again", seed=7, index=0)
        _ask(out / name, "second", seed=7, index=1)
    (out / "end").touch()
    config = parse_config(
        {
            "method": "serve",
            "models": {
                "policies": [{"name": name, "path": str(path)} for name, path in named.items()],
                "reward": str(reward),
            },
        }
    )
    assert isinstance(config, ServeConfig)
    result = serving.run(config, out, resume=None, supervision=Supervision())
    assert (result["status"], result["reason"], result["step"]) == ("done", "the end was asked for", 9)
    assert set(result["lineage"]["models"]) == {"one", "other", "reward"}
    for name in ("one", "other"):
        assert _tokens(out / name, "q") == _tokens(out / name, "again") != _tokens(out / name, "second")
        assert isinstance(_answer(out / name, "q")[-1]["score"], float)
    assert _tokens(out / "one", "q") != _tokens(out / "other", "q")
    assert _answer(out / "broken", "q")[-1]["error"]["code"] == "no_model"


@pytest.mark.parametrize("given", [{}, {"base": "x", "policies": [{"name": "a", "path": "y"}]},
                                   {"policies": [{"name": "../a", "path": "y"}]},
                                   {"policies": [{"name": "a", "path": "y"}] * 2}])  # fmt: skip
def test_models_to_serve_are_one_or_several_by_name(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        parse_config({"method": "serve", "models": given})
