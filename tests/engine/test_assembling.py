"""`snapshot`: what becomes of lines from elsewhere, how they are divided, and what is refused by file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.engine.__main__ import main
from training.engine.records import PARTS, iter_lines, read_manifest, verify_snapshot

TURN = {"role": "user", "content": "What is the name?"}


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def write(tmp_path: Path, *lines: dict[str, Any] | str) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def assemble(tmp_path: Path, *lines: dict[str, Any] | str, flags: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The records of all parts in order of id."""
    source, out = write(tmp_path, *lines), tmp_path / "snapshot"
    assert main(["snapshot", str(source), "--out", str(out), *flags]) == 0
    verify_snapshot(out)
    return sorted((line for part in PARTS for line in iter_lines(out, part)), key=lambda line: str(line["id"]))


def refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str], *lines: dict[str, Any] | str, flags: Any = ()) -> str:
    source, out = write(tmp_path, *lines), tmp_path / "snapshot"
    before = set(tmp_path.iterdir())
    assert main(["snapshot", str(source), "--out", str(out), *flags]) == 3
    assert set(tmp_path.iterdir()) == before
    return capsys.readouterr().err


# --- what lines become ------------------------------------------------------------------------------------------------


def test_plain_preferences_become_one_user_turn_and_hard_labels(tmp_path: Path) -> None:
    (found,) = assemble(tmp_path, {"prompt": "What?", "chosen": "good", "rejected": "bad", "score_chosen": 8.5})
    assert found == {
        "id": found["id"],
        "group": found["group"],
        "prompt": [{"role": "user", "content": "What?"}],
        "chosen": "good",
        "rejected": "bad",
        "prob_chosen": 1.0,
        "meta": {"score_chosen": 8.5},
    }
    assert len(found["id"]) == 24


@pytest.mark.parametrize(
    "line",
    [
        {"prompt": [TURN], "chosen": [answer("good")], "rejected": [answer("bad")]},
        {"chosen": [TURN, answer("good")], "rejected": [TURN, answer("bad")]},
        {"prompt": TURN["content"], "chosen": [TURN, answer("good")], "rejected": [TURN, answer("bad")]},
    ],
    ids=["prompt and turns", "whole conversations", "prompt repeated in conversations"],
)
def test_conversational_preferences_are_the_same_pair_in_every_layout(tmp_path: Path, line: dict[str, Any]) -> None:
    (found,) = assemble(tmp_path, line)
    assert (found["prompt"], found["chosen"], found["rejected"]) == ([TURN], "good", "bad")


def test_conversations_are_split_after_all_their_common_turns(tmp_path: Path) -> None:
    start = [TURN, answer("good"), {"role": "user", "content": "is it?"}]
    (found,) = assemble(tmp_path, {"chosen": [*start, answer("yes")], "rejected": [*start, answer("no")]})
    assert (found["prompt"], found["chosen"], found["rejected"]) == (start, "yes", "no")


@pytest.mark.parametrize(
    ("line", "kind", "wanted"),
    [
        ({"prompt": "a?", "completion": "yes"}, "demonstrations", {"completion": "yes"}),
        ({"prompt": [TURN], "completion": [answer("yes")]}, "demonstrations", {"completion": "yes"}),
        ({"messages": [TURN, answer("yes")]}, "demonstrations", {"prompt": [TURN], "completion": "yes"}),
        ({"prompt": "a?"}, "prompts", {"prompt": [{"role": "user", "content": "a?"}]}),
        ({"prompt": "a?", "completion": "yes", "label": False}, "ratings", {"desirable": False}),
        ({"prompt": "a?", "completion": "yes", "label": "odd"}, "demonstrations", {"meta": {"label": "odd"}}),
        ({"prompt": "a?", "completions": ["x", "y"], "ranking": [[1], [0]]}, "rankings", {"ranking": [[1], [0]]}),
    ],
)  # fmt: skip
def test_the_keys_tell_the_kind(tmp_path: Path, line: dict[str, Any], kind: str, wanted: dict[str, Any]) -> None:
    (found,) = assemble(tmp_path, line)
    assert read_manifest(tmp_path / "snapshot").kind == kind
    assert wanted.items() <= found.items()


def test_a_kind_can_be_named(tmp_path: Path) -> None:
    lines = {"prompt": "a?", "completion": "yes"}, {"prompt": "b?"}
    found = assemble(tmp_path, *lines, flags=("--kind", "prompts"))
    assert [line.get("meta") for line in sorted(found, key=lambda line: line["prompt"][0]["content"])] == [
        {"completion": "yes"},
        None,
    ]


def test_lines_of_our_own_stay_as_they_are(tmp_path: Path) -> None:
    line = {
        "id": "c1", "group": "g", "prompt": [TURN], "chosen": "good", "rejected": "bad", "prob_chosen": 0.75,
        "prob_share": 0.6, "margin": 0.5, "weight": 2.0, "rejected_finish": "length", "meta": {"votes": {"chosen": 3}},
    }  # fmt: skip
    assert assemble(tmp_path, line) == [line]


def test_the_shared_layout_is_read(tmp_path: Path) -> None:
    (found,) = assemble(
        tmp_path,
        {
            "id": "pandalm-0000", "prompt": [TURN], "chosen": "good", "rejected": "bad", "label_source": "human",
            "split": "test", "tokens": {"prompt": 1}, "meta": {"votes": 3}, "length_balanced": True,
        },
    )  # fmt: skip
    assert found["meta"] == {
        "votes": 3, "label_source": "human", "tokens": {"prompt": 1}, "length_balanced": True,
    }  # fmt: skip
    manifest = read_manifest(tmp_path / "snapshot")
    assert manifest.counts == {"train": 0, "validation": 0, "test": 1, "total": 1}
    assert manifest.split["rule"] == "given"


def test_keys_that_are_null_and_numbers_as_ids_are_no_offence(tmp_path: Path) -> None:
    (found,) = assemble(tmp_path, {"id": 7, "prompt": "a?", "completion": "yes", "weight": None, "split": None})
    assert found["id"] == "7"
    assert "weight" not in found


# --- how they are divided ---------------------------------------------------------------------------------------------


def prompts(count: int) -> list[dict[str, Any]]:
    words = ["red", "dog", "name", "good", "bad", "yes", "no", "is"]
    return [{"prompt": f"{words[n % 8]} {n} {words[n // 8 % 8]} {n * n} {words[n // 64]}"} for n in range(count)]


def test_parts_have_about_their_shares_and_a_seed_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, counts = write(tmp_path, *prompts(500)), []
    for name, flags in (("a", []), ("b", []), ("c", ["--seed", "2"]), ("d", ["--shares", "0.5,0,0.5"])):
        assert main(["snapshot", str(source), "--out", str(tmp_path / name), *flags]) == 0
        counts.append(read_manifest(tmp_path / name).counts)
    hashes = [read_manifest(tmp_path / name).content_hash for name in "abcd"]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
    # 500 draws at 0.8: the standard deviation is √(500·0.8·0.2) = 9; five of them.
    assert abs(counts[0]["train"] - 400) < 45
    assert counts[3]["validation"] == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"{tmp_path / 'a'}: prompts, " + ", ".join(f"{k} {v}" for k, v in counts[0].items()) + " lines"


def test_prompts_that_are_nearly_one_stay_in_one_part(tmp_path: Path) -> None:
    lines = [
        {"prompt": f"Write a long and friendly letter to the good dog of my neighbour number {n}", "completion": str(n)}
        for n in range(30)
    ]
    assert len({line["group"] for line in assemble(tmp_path, *lines)}) == 1
    assert sorted(read_manifest(tmp_path / "snapshot").counts.values()) == [0, 0, 30, 30]


@pytest.mark.parametrize("shares", ["0.8,0.1", "0.8,0.1,0.2", "a,b,c", "1.2,-0.1,-0.1"])
def test_shares_that_do_not_add_up_exit_2(tmp_path: Path, shares: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["snapshot", str(write(tmp_path, {"prompt": "a"})), "--out", str(tmp_path / "s"), f"--shares={shares}"])
    assert ended.value.code == 2
    assert "add up to 1" in capsys.readouterr().err


# --- what is refused --------------------------------------------------------------------------------------------------

GOOD = {"prompt": "a?", "chosen": "x", "rejected": "y"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "no UTF-8 JSON"),
        ("", "no UTF-8 JSON"),
        ('{"prompt": "\\ud800"}', "no UTF-8 JSON"),
        ('{"prompt": "a", "chosen": "x", "rejected": "y", "weight": NaN}', "holds NaN, which is no JSON number"),
        ("[1]", "a line must be a JSON object"),
        ({"prompt": "b?"}, "is a line of prompts, the lines before are preferences"),
        ({"text": "b?"}, "keys text tell no kind"),
        ({**GOOD, "chosen": 5}, "chosen must be a text, got 5"),
        ({**GOOD, "prompt": [answer("x")]}, "prompt must be a list"),
        ({**GOOD, "prob_chosen": 2}, r"prob_chosen must be a number in [0, 1], got 2"),
        ({**GOOD, "chosen": [TURN]}, "chosen must be a text or one turn of the assistant"),
        ({"chosen": "x", "rejected": "y"}, "prompt is missing"),
        ({"chosen": [TURN, answer("a"), TURN, answer("x")], "rejected": [TURN, answer("y")]}, "last turn only"),
        ({**GOOD, "source": "here", "meta": {"source": "there"}}, "source is there twice"),
        ({**GOOD, "split": "train"}, "data.jsonl, line 1: split is missing, but other lines have one"),
        ({**GOOD, "group": "g"}, "data.jsonl, line 1: group is missing, but other lines have one"),
        ({**GOOD, "split": "dev"}, "split must be one of train, validation, test, got 'dev'"),
        ({"prompt": "first?", "chosen": "x", "rejected": "y"}, "is that of line 1, or the lines are equal"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: dict[str, Any] | str, message: str
) -> None:
    shown = refuse(tmp_path, capsys, {**GOOD, "prompt": "first?"}, line)
    assert message in shown
    assert "line 1" in message or shown.startswith("data: data.jsonl, line 2: ")


def test_a_kept_split_that_divides_a_prompt_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{**GOOD, "chosen": str(n), "split": part} for n, part in enumerate(("train", "train", "test"))]
    assert "line 3: is in test, but line 1 of its prompt group is in train" in refuse(tmp_path, capsys, *lines)


def test_a_repeated_id_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{**GOOD, "id": "one", "chosen": str(n)} for n in range(2)]
    assert "data.jsonl, line 2: id 'one' is that of line 1" in refuse(tmp_path, capsys, *lines)


def test_messages_that_end_with_the_user_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "completion must be a text or one turn of the assistant" in refuse(
        tmp_path, capsys, {"messages": [TURN, TURN]}
    )


def test_an_existing_directory_and_a_missing_file_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path, GOOD)
    (tmp_path / "there").mkdir()
    assert main(["snapshot", str(source), "--out", str(tmp_path / "there")]) == 3
    assert "there: exists already" in capsys.readouterr().err
    assert list((tmp_path / "there").iterdir()) == []
    assert main(["snapshot", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "s")]) == 3
    assert "none.jsonl: cannot be read" in capsys.readouterr().err
    assert main(["snapshot", str(write(tmp_path)), "--out", str(tmp_path / "s")]) == 3
    assert "data.jsonl: holds no lines" in capsys.readouterr().err


def test_help_says_what_lines_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["snapshot", "--help"])
    assert ended.value.code == 0
    assert "prompt, chosen, rejected" in " ".join(capsys.readouterr().out.split())
