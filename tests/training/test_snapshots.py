"""A snapshot is what it says: what goes in, its split, its hash, its files, and what freezing forbids afterwards."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta

import pytest

from annotation import assignment as assignments
from annotation.consensus import settle_due
from annotation.errors import Invalid
from annotation.gold import promote
from annotation.importing.batches import import_lines
from annotation.importing.rows import ImportKind
from annotation.models import Aggregator, Choice, Comparison, Consensus, FlagKind, GoldUse, Project, Vote
from annotation.preferences import LabelPolicy
from annotation.voting import Frozen, retract
from tests import builders, world
from tests.builders import NOW
from training.engine.errors import SnapshotError
from training.engine.records import iter_lines, verify_snapshot
from training.models import Snapshot
from training.snapshots import (
    FreezeRule,
    Layout,
    NoPreferences,
    export_lines,
    freeze,
    preview,
    rebuilt_hash,
    snapshot_path,
)

pytestmark = pytest.mark.django_db
TRAIN_ONLY = {"train": 1.0, "validation": 0.0, "test": 0.0}


@pytest.fixture(params=Aggregator.values)
def project(request) -> Project:
    return builders.project(aggregator=request.param)


def counts_majorities(project: Project) -> bool:
    return project.aggregator == Aggregator.MAJORITY


def rule(shares=None, **policy) -> FreezeRule:
    return FreezeRule(policy=LabelPolicy(**policy), **({"shares": shares} if shares else {}))


def frozen(project, shares=TRAIN_ONLY, **policy) -> Snapshot:
    return freeze(project=project, rule=rule(shares, **policy), by=project.created_by, now=NOW)


def records(snapshot: Snapshot):
    return [line for part in ("train", "validation", "test") for line in iter_lines(snapshot_path(snapshot), part)]


def votes_for(project, letters: str, *, start: int = 0) -> Comparison:
    """A comparison with these votes (a, b, t for a tie)."""
    (made,) = builders.comparisons(project, 1, overlap=len(letters), start=start)
    for i, letter in enumerate(letters):
        (leased,) = builders.lease(project, builders.member(project, f"voter-{i}"))
        builders.vote(leased, {"t": "tie"}.get(letter, letter))
    settle_due(now=NOW)
    return made


def test_a_line_says_which_completion_won_and_how_people_voted(project):
    made = votes_for(project, "bbbta")
    snapshot = frozen(project)
    (line,) = records(snapshot)
    a, b = (place.completion for place in made.places.all())
    assert (line["id"], line["chosen"], line["rejected"]) == (str(made.public_id), b.text, a.text)
    assert line["prompt"] == made.prompt.messages
    assert (line["prob_chosen"] == 1.0) == counts_majorities(project)  # a posterior is never certain
    assert line["prob_chosen"] > 0.8
    assert line["prob_share"] == pytest.approx(1 - (1 + 0.5 + 0.5) / (5 + 1))  # ties half, drawn to ½ by one vote
    assert line["meta"]["votes"] == {"chosen": 3, "tie": 1, "rejected": 1, "surplus": 0}
    assert line["meta"]["sources"] == {"chosen": "policy-1", "rejected": "policy-1"}
    assert (snapshot.counts["total"], snapshot.ties, snapshot.number) == (1, 0, 1)
    assert snapshot.label_policy["guideline_versions"] == [1]


def test_surplus_votes_are_told_apart(project):
    votes_for(project, "a")
    late = builders.member(project, "late")
    made = Comparison.objects.get()
    (extra,) = builders.lease(project, late) or [None]
    assert extra is None
    Vote.objects.create(
        project=project,
        comparison=made,
        annotator=late,
        key=made.public_id,
        choice=Choice.B,
        body_hash="",
        created_at=NOW,
    )
    (line,) = records(frozen(project))
    assert line["meta"]["votes"] == {"chosen": 1, "tie": 0, "rejected": 0, "surplus": 1}


@pytest.mark.parametrize(
    ("letters", "tie_rule", "lines", "dropped"),
    [
        ("tta", "half", 1, {}),
        ("tta", "drop", 0, {"tie": 1}),
        ("aab", "drop", 1, {}),
    ],
)
def test_tie_rules(project, letters, tie_rule, lines, dropped):
    votes_for(project, "aaa", start=50)  # so that something is left
    votes_for(project, letters)
    snapshot = frozen(project, tie_rule=tie_rule)
    assert snapshot.counts["total"] == 1 + lines
    assert snapshot.dropped == dropped
    assert snapshot.ties == (letters == "tta" and tie_rule == "half")
    if snapshot.ties:
        assert [line["prob_chosen"] for line in records(snapshot)].count(0.5) == 1


@pytest.mark.parametrize(
    ("letters", "policy", "dropped"),
    [
        ("aa", {"min_votes": 3}, {"too_few_votes": 1}),
        ("aab", {"min_confidence": 0.7}, {"low_confidence": 1}),
    ],
)
def test_a_stricter_policy_leaves_comparisons_out(project, letters, policy, dropped):
    votes_for(project, "aaaa", start=50)
    votes_for(project, letters)
    assert frozen(project, **policy).dropped == dropped
    shown = preview(project=project, rule=rule(TRAIN_ONLY, **policy), now=NOW)
    assert (shown.preferences, shown.dropped, shown.splits["train"]) == (1, dropped, 1)


def test_flagged_comparisons_are_left_out(project):
    votes_for(project, "aa", start=50)
    (made,) = builders.comparisons(project, 1, overlap=2)
    for name in ("ann", "ben"):
        (leased,) = builders.lease(project, builders.member(project, name))
        builders.vote(leased)
        assignments.flag(assignment=leased, kind=FlagKind.HARMFUL, note="", now=NOW)
    settle_due(now=NOW)
    assert frozen(project).dropped == {"withdrawn": 1}
    made.refresh_from_db()
    assert made.frozen_at is None


def test_two_equal_texts_make_no_preference(project):
    votes_for(project, "aa", start=50)
    line = {"prompt": "x", "response_a": "Same.", "response_b": "Same. ", "votes": [{"annotator": "z", "choice": "a"}]}
    import_lines(project=project, kind=ImportKind.VOTES, lines=[json.dumps(line)], by=None, now=NOW)
    assert frozen(project).dropped == {"same_text": 1}


@pytest.mark.parametrize(
    ("letters", "policy", "said"),
    [
        ("", {}, "no comparisons yet"),
        ("open", {}, "No comparison is settled yet: 1 still want votes"),
        ("ab", {}, "nothing to freeze: 1 disputed"),
        ("tt", {"tie_rule": "drop"}, "1 tie"),
        ("aa", {"min_votes": 9}, "1 too few votes"),
    ],
)
def test_without_preferences_the_reason_is_said_and_nothing_is_left_behind(project, data_dir, letters, policy, said):
    if letters == "open":
        builders.comparisons(project)
    elif letters:
        votes_for(project, letters)
    with pytest.raises(NoPreferences, match=said):
        frozen(project, **policy)
    assert not Snapshot.objects.exists()
    assert not Comparison.objects.filter(frozen_at__isnull=False).exists()
    assert list((data_dir / "snapshots").iterdir()) == []


@pytest.mark.parametrize(
    "values",
    [
        {"shares": {"train": 0.5, "validation": 0.1, "test": 0.1}},
        {"shares": {"train": 0.0, "validation": 0.5, "test": 0.5}},
        {"shares": {"train": 1.5, "validation": -0.5, "test": 0.0}},
        {"shares": {"train": 1.0}},
        {"policy": LabelPolicy(tie_rule="coin")},
        {"policy": LabelPolicy(min_votes=0)},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(values):
    with pytest.raises(Invalid):
        FreezeRule(**values)


def test_frozen_twice_is_one_content_and_two_rows(project):
    builders.settled(project, 6)
    first, second = frozen(project), frozen(project)
    assert first.content_hash == second.content_hash
    assert first.path == second.path
    assert (first.number, second.number) == (1, 2)
    assert verify_snapshot(snapshot_path(second)).content_hash == first.content_hash


def test_rebuilt_from_the_facts_the_hash_is_the_same_until_a_vote_differs(project):
    builders.settled(project, 6, letters="aab")
    snapshot = frozen(project, shares={"train": 0.5, "validation": 0.25, "test": 0.25})
    Consensus.objects.all().update(state="open", label="", prob=None, votes_a=9)  # derived: not what counts
    Consensus.objects.all().update(due_at=NOW - timedelta(days=1))
    assert rebuilt_hash(snapshot=snapshot, now=NOW) == snapshot.content_hash
    vote = Vote.objects.filter(choice="a").first()
    Vote.objects.filter(pk=vote.pk).update(choice="tie")  # behind the back of every rule
    Consensus.objects.filter(comparison=vote.comparison_id).update(due_at=NOW)
    assert rebuilt_hash(snapshot=snapshot, now=NOW) != snapshot.content_hash


def test_what_became_gold_later_stays_in_the_snapshot_that_is_rebuilt(project):
    builders.settled(project, 6, letters="aaa")
    snapshot = frozen(project)
    promote(
        project=project, votes=3, top_share=1.0, most=1, use=GoldUse.HIDDEN, by=project.created_by,
        now=NOW + timedelta(days=1),
    )  # fmt: skip
    assert rebuilt_hash(snapshot=snapshot, now=NOW + timedelta(days=2)) == snapshot.content_hash
    later = freeze(project=project, rule=rule(TRAIN_ONLY), by=project.created_by, now=NOW + timedelta(days=2))
    assert later.dropped == {"gold": 1}


def test_the_hash_depends_on_the_rule(project):
    builders.settled(project, 6)
    hashes = {frozen(project).content_hash, frozen(project, min_votes=2).content_hash}
    hashes.add(frozen(project, tie_rule="drop").content_hash)
    hashes.add(frozen(project, shares={"train": 0.5, "validation": 0.5, "test": 0.0}).content_hash)
    assert len(hashes) == 4


def test_a_frozen_comparison_refuses_undo_and_keeps_its_first_moment(project):
    builders.settled(project, 1)
    frozen(project)
    freeze(project=project, rule=rule(TRAIN_ONLY), by=project.created_by, now=NOW + timedelta(days=1))
    made = Comparison.objects.get()
    assert made.frozen_at == NOW
    vote = Vote.objects.first()
    with pytest.raises(Frozen):
        retract(vote=vote, by=vote.annotator, now=NOW)


def test_one_groups_lines_are_never_in_two_parts(project):
    lines = []
    for i in range(30):
        for j in range(3):
            text = " ".join(f"topic{i}word{k}" for k in range(9 + (j == 1))) + "  " * (j == 2)
            lines.append(
                {
                    "id": f"{i}-{j}", "prompt": text, "response_a": f"A {i} {j}", "response_b": f"B {i} {j}",
                    "votes": [{"annotator": "x", "choice": "a"}],
                }
            )  # fmt: skip
    import_lines(project=project, kind=ImportKind.VOTES, lines=map(json.dumps, lines), by=None, now=NOW)
    snapshot = frozen(project, shares={"train": 0.5, "validation": 0.25, "test": 0.25})
    part_of_group: dict[str, set[str]] = {}
    for part in ("train", "validation", "test"):
        assert snapshot.counts[part] > 0
        for line in iter_lines(snapshot_path(snapshot), part):
            part_of_group.setdefault(line["group"], set()).add(part)
    assert sum(snapshot.counts[part] for part in ("train", "validation", "test")) == 90
    assert all(len(parts) == 1 for parts in part_of_group.values())


def test_the_layouts_of_an_export(project):
    builders.settled(project, 2)
    snapshot = frozen(project)
    whole = [json.loads(line) for line in export_lines(snapshot, layout=Layout.WINNOW)]
    trl = [json.loads(line) for line in export_lines(snapshot, layout=Layout.TRL)]
    plain = [json.loads(line) for line in export_lines(snapshot, layout=Layout.PLAIN)]
    assert whole == records(snapshot)
    for line, conversational, text in zip(whole, trl, plain, strict=True):
        assert set(conversational) == {"prompt", "chosen", "rejected", "prob_chosen", "prob_share", "weight"}
        assert conversational["prompt"] == line["prompt"]
        assert conversational["chosen"] == [{"role": "assistant", "content": line["chosen"]}]
        assert conversational["rejected"] == [{"role": "assistant", "content": line["rejected"]}]
        assert text["prompt"] == line["prompt"][0]["content"]
        assert (text["chosen"], text["rejected"]) == (line["chosen"], line["rejected"])
    assert list(export_lines(snapshot, layout=Layout.TRL, part="test")) == []


def test_the_plain_layout_takes_no_conversations(project):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    line = {"prompt": turns, "response_a": "a", "response_b": "b", "votes": [{"annotator": "x", "choice": "a"}]}
    import_lines(project=project, kind=ImportKind.VOTES, lines=[json.dumps(line)], by=None, now=NOW)
    snapshot = frozen(project)
    with pytest.raises(Invalid, match="plain"):
        export_lines(snapshot, layout=Layout.PLAIN)
    olga = world.client(project.created_by)
    address = f"/api/v1/projects/helpful/snapshots/{snapshot.public_id}/export"
    assert olga.get(f"{address}?layout=plain").json()["code"] == "invalid"
    assert b"".join(olga.get(f"{address}?layout=trl").streaming_content).count(b"\n") == 1


def test_freezing_and_exporting_through_the_api(project):
    builders.settled(project, 4)
    olga = world.client(project.created_by)
    base = "/api/v1/projects/helpful/snapshots"
    shown = olga.get(f"{base}/preview?tie_rule=drop").json()
    assert (shown["preferences"], shown["splits"]["total"]) == (4, 4)
    made = olga.post(base, {"name": "first", "shares": TRAIN_ONLY})
    assert made.status_code == 201
    body = made.json()
    assert (body["counts"]["train"], body["jobs"], body["created_by"]) == (4, 0, "olga")
    answer = olga.get(f"{base}/{body['id']}/export?layout=winnow&split=train")
    assert answer["X-Content-Hash"] == body["content_hash"]
    assert answer["Content-Type"] == "application/x-ndjson"
    assert answer["Content-Disposition"] == 'attachment; filename="helpful-v1-train.winnow.jsonl"'
    file = snapshot_path(Snapshot.objects.get()) / "train.jsonl"
    assert b"".join(answer.streaming_content) == file.read_bytes()
    for query in ("layout=csv", "split=half"):
        assert olga.get(f"{base}/{body['id']}/export?{query}").status_code == 400
    nothing = olga.post(base, {"min_votes": 50})
    assert (nothing.status_code, nothing.json()["code"]) == (400, "no_preferences")
    assert [row["number"] for row in olga.get(base).json()["items"]] == [1]


@pytest.mark.parametrize("what", ["a text", "a number", "a line", "the manifest", "a file"])
def test_a_tampered_snapshot_is_found_out(project, what):
    builders.settled(project, 3)
    snapshot = frozen(project)
    directory = snapshot_path(snapshot)
    verify_snapshot(directory)
    file = directory / "train.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    if what == "a text":
        file.write_text(file.read_text().replace("answer", "Answer", 1))
    elif what == "a number":
        file.write_text(file.read_text().replace('"weight":1.0', '"weight":2.0', 1))
    elif what == "a line":
        file.write_text("".join(lines[:-1]))
    elif what == "the manifest":
        manifest = directory / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"half"', '"drop"'))
    else:
        file.unlink()
    with pytest.raises(SnapshotError):
        verify_snapshot(directory)
    if what != "the manifest":
        with pytest.raises(SnapshotError):
            frozen(project)  # the same content again: the files there are checked before they count
        assert Snapshot.objects.count() == 1


def test_pandalm_is_split_without_a_leak(test_data, project):
    lines = (test_data / "multi_annotator" / "pandalm.jsonl").read_text().splitlines()
    import_lines(project=project, kind=ImportKind.VOTES, lines=lines, by=None, now=NOW)
    while settle_due(now=NOW):
        pass
    snapshot = freeze(project=project, rule=FreezeRule(), by=project.created_by, now=NOW)
    total = snapshot.counts["total"]
    assert total + sum(snapshot.dropped.values()) == 686
    seen: dict[str, set[tuple[str, str]]] = {"group": set(), "prompt": set()}
    sizes = Counter()
    for part in ("train", "validation", "test"):
        for line in iter_lines(snapshot_path(snapshot), part):
            sizes[part] += 1
            seen["group"].add((line["group"], part))
            seen["prompt"].add((line["prompt"][-1]["content"].casefold().strip(), part))
    for pairs in seen.values():
        assert len(pairs) == len({value for value, _ in pairs})  # leak 0
    assert sizes["train"] / total == pytest.approx(0.8, abs=0.1)
    assert rebuilt_hash(snapshot=snapshot, now=NOW) == snapshot.content_hash
