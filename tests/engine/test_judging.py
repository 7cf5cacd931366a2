"""A judge is asked in both orders, once, and its answers are read or counted as unreadable."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.engine.openai_server import Answer, said, serving
from training.engine.__main__ import main
from training.engine.config import JudgeConfig, ServerConfig
from training.engine.errors import ConfigError
from training.engine.judging import Pair, Verdict, judge_figures, judge_pairs, read_answers, read_verdict
from training.engine.remote import Patience, RemoteError

ASK = [{"role": "user", "content": "Which {second}?"}]
PAIRS: list[Pair] = [(f"c{i}", ASK, f"good {i}", f"bad {i}") for i in range(3)]
QUICK = Patience(attempts=1, first_wait_seconds=0.0)


def _judge(url: str, **more: Any) -> JudgeConfig:
    return JudgeConfig(model="judge", server=ServerConfig(url=url, parallel=2, timeout_seconds=5.0), **more)


def _first_answer(body: dict[str, Any]) -> str:
    found = re.search(r"\[answer 1\]\n(.*?)\n\[end of answer 1\]", body["messages"][0]["content"], re.DOTALL)
    assert found is not None
    return found[1]


def _likes_good(body: dict[str, Any]) -> Answer:
    return said("1" if _first_answer(body).startswith("good") else "**2**")


def test_a_judge_is_asked_in_both_orders_at_temperature_0(tmp_path: Path) -> None:
    with serving(_likes_good) as server:
        judge = _judge(server.url)
        q = judge_pairs(PAIRS, judge=judge, store=tmp_path / "answers.jsonl")
        turned = [(name, ask, b, a) for name, ask, a, b in PAIRS]
        other = judge_pairs(turned, judge=judge, store=tmp_path / "answers.jsonl")
    assert q == {"c0": 1.0, "c1": 1.0, "c2": 1.0}
    assert other == {"c0": 0.0, "c1": 0.0, "c2": 0.0}
    assert len(server.requests) == 2 * 3  # the turned pairs are the same six questions
    assert all(request.body["temperature"] == 0 for request in server.requests)
    assert {_first_answer(request.body) for request in server.requests} == {
        "good 0", "bad 0", "good 1", "bad 1", "good 2", "bad 2",
    }  # fmt: skip
    figures = judge_figures(PAIRS, judge=judge, store=tmp_path / "answers.jsonl")
    assert (figures.pairs, figures.unreadable, figures.orders_agree, figures.first_place) == (3, 0, 1.0, 0.5)


def test_a_judge_of_places_says_nothing_and_is_found_out(tmp_path: Path) -> None:
    def places(body: dict[str, Any]) -> Answer:
        return said("1") if "good 0" not in body["messages"][0]["content"] else _likes_good(body)

    with serving(places) as server:
        judge = _judge(server.url)
        q = judge_pairs(PAIRS, judge=judge, store=tmp_path / "a")
    assert q == {"c0": 1.0, "c1": 0.5, "c2": 0.5}
    figures = judge_figures(PAIRS, judge=judge, store=tmp_path / "a")
    # One of three pairs follows the texts; the first place has ½ there and 1 in the two others.
    assert figures.orders_agree == pytest.approx(1 / 3)
    assert figures.first_place == pytest.approx((0.5 + 1 + 1) / 3)


def test_a_tie_in_one_order_is_a_quarter_off_and_two_ties_are_one_half(tmp_path: Path) -> None:
    def half(body: dict[str, Any]) -> Answer:
        first = _first_answer(body)
        return said("tie" if first != "good 0" else "1")

    with serving(half) as server:
        q = judge_pairs(PAIRS, judge=_judge(server.url), store=tmp_path / "a")
    assert q == {"c0": 0.75, "c1": 0.5, "c2": 0.5}


def test_an_unreadable_answer_leaves_its_pair_without_a_label_and_counts(tmp_path: Path) -> None:
    def mumbles(body: dict[str, Any]) -> Answer:
        return said("I would rather not.") if _first_answer(body) == "bad 1" else _likes_good(body)

    with serving(mumbles) as server:
        judge = _judge(server.url)
        assert judge_pairs(PAIRS, judge=judge, store=tmp_path / "a") == {"c0": 1.0, "c1": None, "c2": 1.0}
        asked = len(server.requests)
        judge_pairs(PAIRS, judge=judge, store=tmp_path / "a")
        assert len(server.requests) == asked  # at temperature 0 it would mumble again
    figures = judge_figures(PAIRS, judge=judge, store=tmp_path / "a")
    assert (figures.pairs, figures.unreadable, figures.orders_agree) == (3, 1, 1.0)


def test_a_resumed_run_asks_only_what_is_missing(tmp_path: Path) -> None:
    with serving(_likes_good) as server:
        judge, store = _judge(server.url), tmp_path / "answers.jsonl"
        whole = judge_pairs(PAIRS, judge=judge, store=store)
        lines = store.read_bytes().splitlines(keepends=True)
        assert len(lines) == 6
        store.write_bytes(lines[0] + b"not json\n" + lines[1] + lines[2][:-7])
        before = len(server.requests)
        assert judge_pairs(PAIRS, judge=judge, store=store) == whole
        assert len(server.requests) - before == 4
        assert len(read_answers(store)) == 6


def test_another_prompt_model_or_text_is_another_question(tmp_path: Path) -> None:
    with serving(lambda _: said("1")) as server:
        store, judge = tmp_path / "a", _judge(server.url)
        judge_pairs(PAIRS[:1], judge=judge, store=store)
        judge_pairs(PAIRS[:1], judge=_judge(server.url, prompt="{prompt}|{first}|{second}"), store=store)
        other = JudgeConfig(model="another", server=judge.server)
        judge_pairs(PAIRS[:1], judge=other, store=store)
        judge_pairs([("c0", ASK, "good 0", "bad 0!")], judge=judge, store=store)
        assert len(server.requests) == 8
        assert len({json.loads(line)["prompt_sha256"] for line in store.read_text().splitlines()}) == 2


def test_braces_in_a_text_stay_what_they_are(tmp_path: Path) -> None:
    with serving(lambda _: said("tie")) as server:
        judge = _judge(server.url, prompt="<{prompt}> <{first}> <{second}> {}")
        judge_pairs([("c", ASK, "{second} {0}", "\\1 {first}")], judge=judge, store=tmp_path / "a")
        asked = {request.body["messages"][0]["content"] for request in server.requests}
    assert asked == {
        "<User: Which {second}?> <{second} {0}> <\\1 {first}> {}",
        "<User: Which {second}?> <\\1 {first}> <{second} {0}> {}",
    }


def test_a_judge_prompt_without_its_places_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"judge\.prompt .*lacks \{second\}"):
        judge_pairs(PAIRS, judge=_judge("http://localhost:1", prompt="{prompt} {first}"), store=tmp_path / "a")


def test_what_a_judge_said_before_it_failed_is_kept(tmp_path: Path) -> None:
    def dies(body: dict[str, Any]) -> Answer:
        if len(server.requests) > 3:
            return Answer(status=500, body={"error": "gone"})
        return _likes_good(body)

    with serving(dies) as server:
        judge = JudgeConfig(model="judge", server=ServerConfig(url=server.url, parallel=1))
        with pytest.raises(RemoteError, match="status 500"):
            judge_pairs(PAIRS, judge=judge, store=tmp_path / "a", patience=QUICK)
        assert len(read_answers(tmp_path / "a")) == 3
        server.answer = _likes_good
        assert judge_pairs(PAIRS, judge=judge, store=tmp_path / "a") == {"c0": 1.0, "c1": 1.0, "c2": 1.0}
        assert len(server.requests) == 3 + 1 + 3


def test_a_stop_leaves_the_rest_unlabelled(tmp_path: Path) -> None:
    with serving(_likes_good) as server:
        labels = judge_pairs(
            PAIRS, judge=_judge(server.url), store=tmp_path / "a", stopped=lambda: len(server.requests) > 0
        )
    assert len(labels) < len(PAIRS)


@pytest.mark.parametrize(
    "answer, verdict",
    [
        *[
            (text, Verdict.FIRST)
            for text in ("1", " 1.\n", "A", "**a**", "(1)", '"1"', "Answer: 1", "Answer 1", "[[A]]")
        ],
        *[(text, Verdict.FIRST) for text in ("The answer is 1.", "Response A is better.", "Both help.\n\nAnswer: 1")],
        *[(text, Verdict.FIRST) for text in ("1\n\nIt is shorter.", "Answer 1 is better than answer 2.", "Better: 1")],
        *[
            (text, Verdict.SECOND)
            for text in ("2", "B", "Verdict: **B**", "The winner is 2", "second", "so [[2]] it is")
        ],
        *[
            (text, Verdict.SECOND)
            for text in ("<think>1? no: answer is 1</think>\n2", "I say answer 2 is much better.")
        ],
        *[(text, Verdict.TIE) for text in ("tie", "Tie.", "It's a tie", "[[C]]", "Neither", "Answer: tie")],
        *[(text, None) for text in ("", "12", "10", "1 2", "1\nno, wait\n2", "A dog is an animal", "I cannot say")],
        *[(text, None) for text in ("The answer is a dog.", "Answer: A and B are equal", "[[A]] or [[B]]", "<think>1")],
        *[(text, None) for text in ("1. The first is good\n2. The second is bad", "First is nice\nSecond is bad")],
    ],
)
def test_an_answer_is_read_as_a_person_would(answer: str, verdict: Verdict | None) -> None:
    assert read_verdict(answer) is verdict


@pytest.mark.parametrize("answer", ["*" * 20_000, "answer is " * 5_000, "<think>" * 3_000, " \n" * 20_000, "answer: ("])
def test_a_hostile_answer_is_read_at_once(answer: str) -> None:
    began = time.process_time()
    assert read_verdict(answer) is None
    assert time.process_time() - began < 2


# --- the command ------------------------------------------------------------------------------------------------------


def _command(url: str, directory: Path, *, lines: list[Any] | None = None, **server: Any) -> list[str]:
    rows = [{"id": name, "prompt": ask, "a": a, "b": b} for name, ask, a, b in PAIRS] if lines is None else lines
    (directory / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "method": "judge",
        "judge": {"model": "judge", "server": {"url": url, "parallel": 1, **server}},
        "data": {"pairs": str(directory / "pairs.jsonl")},
    }
    (directory / "config.json").write_text(json.dumps(config))
    return ["judge", str(directory / "config.json"), "--out", str(directory / "out")]


def test_the_command_writes_a_line_a_pair_with_what_was_said_in_each_order(tmp_path: Path) -> None:
    def biased(body: dict[str, Any]) -> Answer:
        return said("1") if "good 2" in body["messages"][0]["content"] else _likes_good(body)

    with serving(biased) as server:
        assert main(_command(server.url, tmp_path)) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()]
    assert lines == [
        {"id": "c0", "q": 1.0, "ab": "first", "ba": "second"},
        {"id": "c1", "q": 1.0, "ab": "first", "ba": "second"},
        {"id": "c2", "q": 0.5, "ab": "first", "ba": "first"},
    ]
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (result["status"], result["step"]) == ("done", 6)
    assert result["judge"] == {
        "model": "judge", "pairs": 3, "unreadable": 0, "orders_agree": pytest.approx(2 / 3),
        "first_place": pytest.approx(2 / 3),
    }  # fmt: skip


def test_another_attempt_asks_only_what_the_first_had_no_answer_to(tmp_path: Path) -> None:
    def refuses(body: dict[str, Any]) -> Answer:
        return _likes_good(body) if len(server.requests) <= 4 else Answer(status=401, body={"error": "no"})

    with serving(refuses) as server:
        assert main(_command(server.url, tmp_path)) == 3  # nothing that waiting would mend
        error = json.loads((tmp_path / "out" / "error.json").read_text())
        assert error["kind"] == "data" and "status 401" in error["message"]
        server.answer = _likes_good
        again = [*_command(server.url, tmp_path), "--resume", str(tmp_path / "out" / "answers.jsonl")]
        again[again.index("--out") + 1] = str(tmp_path / "second")
        assert main(again) == 0
        assert len(server.requests) == 5 + 2
    assert len((tmp_path / "second" / "verdicts.jsonl").read_text().splitlines()) == 3


def test_a_connection_goes_to_the_given_address_whatever_the_name_means(tmp_path: Path) -> None:
    with serving(_likes_good) as server:
        url = server.url.replace("127.0.0.1", "judge.invalid")  # a name that no resolver knows
        assert main(_command(url, tmp_path, addresses=["127.0.0.1"])) == 0
        assert server.requests[0].headers["Host"].startswith("judge.invalid:")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"id": "x", "prompt": ASK, "a": "1"}, "line 2: must hold id, prompt, a and b"),
        ({"id": "c0", "prompt": ASK, "a": "1", "b": "2"}, "line 2: id 'c0' was there before"),
        ({"id": "x", "prompt": ASK, "a": 1, "b": "2"}, "line 2: id, a, b, roles and contents must be texts"),
        ({"id": "x", "prompt": [], "a": "1", "b": "2"}, "line 2: id, a, b, roles and contents must be texts"),
    ],
)
def test_a_line_that_is_no_pair_is_named(row: Any, problem: str, tmp_path: Path) -> None:
    first = {"id": "c0", "prompt": ASK, "a": "x", "b": "y"}
    assert main(_command("http://127.0.0.1:1", tmp_path, lines=[first, row])) == 3
    assert problem in json.loads((tmp_path / "out" / "error.json").read_text())["message"]
