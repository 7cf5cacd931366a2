from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.engine.planted import LABEL_POLICY, SPLIT, planted_snapshot, preference
from training.engine.errors import SnapshotError
from training.engine.records import (
    Manifest,
    canonical_json,
    erase_lines,
    iter_lines,
    read_manifest,
    verify_snapshot,
    write_snapshot,
)


def write(directory: Path, *records: dict[str, Any], part: str = "train", kind: str = "preferences") -> Manifest:
    return write_snapshot(directory, kind=kind, label_policy=LABEL_POLICY, split=SPLIT, lines={part: records})


def test_a_snapshot_is_read_as_it_was_written(tmp_path: Path) -> None:
    records = [preference(3, prob_share=0.25, meta={"votes": {"chosen": 1}}), preference(1), preference(2, weight=2.0)]
    manifest = write_snapshot(
        tmp_path / "s",
        kind="preferences",
        label_policy=LABEL_POLICY,
        split=SPLIT,
        lines={"train": records, "test": [preference(8)], "validation": []},
    )
    assert manifest.counts == {"train": 3, "validation": 0, "test": 1, "total": 4}
    assert verify_snapshot(tmp_path / "s") == read_manifest(tmp_path / "s") == manifest
    assert [line["id"] for line in iter_lines(tmp_path / "s", "train")] == ["p001", "p002", "p003"]
    assert list(iter_lines(tmp_path / "s", "train"))[2] == records[0]
    assert list(iter_lines(tmp_path / "s", "validation")) == []
    assert not (tmp_path / "s" / "validation.jsonl").exists()


def test_the_content_hash_follows_the_stated_rule(tmp_path: Path) -> None:
    manifest = planted_snapshot(tmp_path / "s")
    head = canonical_json({"kind": "preferences", "label_policy": LABEL_POLICY, "split": SPLIT})
    text = f"{head}\n"
    for part in ("train", "validation", "test"):
        text += f"{part}\n" + (tmp_path / "s" / f"{part}.jsonl").read_text(encoding="utf-8")
    assert manifest.content_hash == hashlib.sha256(text.encode()).hexdigest()


def test_the_content_hash_knows_the_facts_and_not_their_order(tmp_path: Path) -> None:
    planted_snapshot(tmp_path / "a")
    write(tmp_path / "b", preference(1), preference(2))
    write(tmp_path / "c", preference(2), preference(1))
    write(tmp_path / "d", preference(1), preference(2, prob_chosen=0.9))
    hashes = [read_manifest(tmp_path / name).content_hash for name in "bcd"]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prob_chosen": 1.5}, "prob_chosen"),
        ({"prob_chosen": float("nan")}, "prob_chosen"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [{"role": "assistant", "content": "x"}]}, "prompt"),
        ({"chosen": None}, "chosen"),
        ({"chosen_finish": "cut"}, "chosen_finish"),
        ({"weight": 0}, "weight"),
        ({"surprise": 1}, "surprise"),
        ({"id": ""}, "id"),
    ],
)
def test_a_bad_record_is_not_written(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(SnapshotError, match=rf"train\.jsonl, line \d: .*{message}"):
        write(tmp_path / "s", preference(1), preference(2, **change))
    assert not (tmp_path / "s").exists()


def test_an_id_is_unique_and_a_group_is_in_one_part(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="id 'p001' was there before"):
        write(tmp_path / "s", preference(1), preference(1))
    with pytest.raises(SnapshotError, match=r"test\.jsonl, line 1: group 'g000' is in train\.jsonl too"):
        write_snapshot(
            tmp_path / "s",
            kind="preferences",
            label_policy={},
            split={},
            lines={"train": [preference(0)], "test": [preference(1)]},
        )


def test_a_snapshot_is_never_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "s", preference(1))
    with pytest.raises(SnapshotError, match="exists already"):
        write(tmp_path / "s", preference(1))


def test_a_changed_text_is_found_and_the_file_named(tmp_path: Path) -> None:
    planted_snapshot(tmp_path / "s")
    path = tmp_path / "s" / "validation.jsonl"
    path.write_text(path.read_text().replace("good", "evil", 1))
    with pytest.raises(SnapshotError, match=r"validation\.jsonl: sha256") as caught:
        verify_snapshot(tmp_path / "s")
    assert caught.value.file == "validation.jsonl"


@pytest.mark.parametrize(
    ("tamper", "line"),
    [
        (lambda lines: [*lines[:4], b'{"id": "p1"}\n', *lines[5:]], 5),
        (lambda lines: [*lines[:2], b"not json\n", *lines[3:]], 3),
        (lambda lines: [*lines[:2], lines[2].replace(b'"prob_chosen":1.0', b'"prob_chosen":2.0'), *lines[3:]], 3),
        (lambda lines: [*lines[:6], lines[5], *lines[7:]], 7),
        (lambda lines: lines[:-1], 24),
    ],
    ids=["keys", "json", "range", "twice", "missing"],
)
def test_a_broken_line_is_named(tmp_path: Path, tamper: Any, line: int) -> None:
    planted_snapshot(tmp_path / "s")
    path = tmp_path / "s" / "train.jsonl"
    path.write_bytes(b"".join(tamper(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(SnapshotError) as caught:
        verify_snapshot(tmp_path / "s")
    assert (caught.value.file, caught.value.line) == ("train.jsonl", line)


def test_a_changed_manifest_is_found(tmp_path: Path) -> None:
    planted_snapshot(tmp_path / "s")
    path = tmp_path / "s" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["label_policy"]["min_votes"] = 2
    path.write_text(json.dumps(manifest))
    with pytest.raises(SnapshotError, match="content_hash"):
        verify_snapshot(tmp_path / "s")
    path.unlink()
    with pytest.raises(SnapshotError, match="not found"):
        verify_snapshot(tmp_path / "s")
    manifest["files"][0]["name"] = "../../etc/passwd"
    path.write_text(json.dumps(manifest))
    with pytest.raises(SnapshotError, match="no part of a snapshot"):
        verify_snapshot(tmp_path / "s")


def erase(directory: Path, *ids: str) -> Manifest:
    return erase_lines(directory, doomed=lambda record: record["id"] in ids)


def test_erased_lines_are_gone_and_the_manifest_says_which(tmp_path: Path) -> None:
    frozen = write(
        tmp_path / "s", preference(1, meta={"comparison": "c1"}), preference(2, chosen="a secret"), preference(3)
    )
    left = erase(tmp_path / "s", "p001", "p002")
    assert left == verify_snapshot(tmp_path / "s") == read_manifest(tmp_path / "s")
    assert (left.frozen_hash, left.counts["train"]) == (frozen.content_hash, 1)
    assert left.content_hash == write(tmp_path / "other", preference(3)).content_hash != frozen.content_hash
    assert [(item.id, item.split, item.comparison) for item in left.erased] == [
        ("p001", "train", "c1"), ("p002", "train", "")
    ]  # fmt: skip
    assert "secret" not in "".join(file.read_text() for file in (tmp_path / "s").iterdir())
    assert erase(tmp_path / "s", "p001", "p002") == left
    empty = erase(tmp_path / "s", "p003")
    assert verify_snapshot(tmp_path / "s") == empty
    assert [file.name for file in (tmp_path / "s").iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("ids", [("p001",), ("p001", "p002")], ids=["some", "all"])
def test_an_erasure_that_was_cut_short_is_ended_by_the_next_call(tmp_path: Path, monkeypatch: Any, ids: Any) -> None:
    write(tmp_path / "s", preference(1), preference(2))
    real = Path.replace

    def cut(self: Path, target: Path) -> Path:
        if target.name == "train.jsonl":
            raise KeyboardInterrupt
        return real(self, target)

    def never(self: Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", cut)
        patch.setattr(Path, "unlink", never)
        erase(tmp_path / "s", *ids)
    left = erase(tmp_path / "s", *ids)
    assert verify_snapshot(tmp_path / "s") == left
    assert {item.id for item in left.erased} == set(ids)
    assert left.counts["train"] == 2 - len(ids)
    assert not (tmp_path / "s" / "train.jsonl").exists() or len(ids) == 1


def test_prompts_are_a_kind_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "s", {"id": "a", "group": "g", "prompt": [{"role": "user", "content": "Hello"}]}, kind="prompts")
    assert verify_snapshot(tmp_path / "s").kind == "prompts"
    with pytest.raises(SnapshotError, match="unknown key 'chosen'"):
        write(tmp_path / "t", preference(1), kind="prompts")


def test_a_refused_snapshot_leaves_nothing_behind(tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    with pytest.raises(SnapshotError):
        write(tmp_path / "s", preference(0), preference(1, prob_chosen=2.0))
    assert set(tmp_path.iterdir()) == before


def test_a_ranking_has_a_finish_for_each_completion_or_none(tmp_path: Path) -> None:
    base = {"id": "r", "group": "g", "prompt": preference(0)["prompt"], "completions": ["a", "b"], "ranking": [[1]]}
    with pytest.raises(SnapshotError, match=r"line 1: finishes must have one entry for each of 2 completions"):
        write(tmp_path / "s", {**base, "finishes": ["end"]}, kind="rankings")
    write(tmp_path / "s", {**base, "finishes": ["end", "length"]}, kind="rankings")
    assert verify_snapshot(tmp_path / "s").kind == "rankings"
