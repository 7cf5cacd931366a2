"""What snapshots hold, read back: a card counts it, a difference says what changed, a download can be checked."""

from __future__ import annotations

import hashlib
import json

import pytest

from annotation.consensus import settle_due
from annotation.models import Aggregator, Comparison
from annotation.preferences import LabelPolicy
from tests import builders, world
from tests.builders import NOW
from training.engine.records import write_snapshot
from training.models import Snapshot
from training.snapshot_contents import Change, SnapshotUnreadable, card, difference, export_sum
from training.snapshots import FreezeRule, Layout, export_lines, freeze, snapshot_path

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return builders.project(aggregator=Aggregator.MAJORITY)


def frozen(project, **policy) -> Snapshot:
    shares = {"train": 1.0, "validation": 0.0, "test": 0.0}
    return freeze(
        project=project, rule=FreezeRule(policy=LabelPolicy(**policy), shares=shares), by=project.created_by, now=NOW
    )


def votes_for(project, letters: str, *, start: int) -> Comparison:
    """A comparison with these votes (a, b, t for a tie)."""
    (made,) = builders.comparisons(project, 1, overlap=len(letters), start=start)
    for i, letter in enumerate(letters):
        (leased,) = builders.lease(project, builders.member(project, f"voter-{i}"))
        builders.vote(leased, {"t": "tie"}.get(letter, letter))
    settle_due(now=NOW)
    return made


def test_a_difference_names_what_came_what_went_and_what_flipped(project):
    stays = votes_for(project, "aaa", start=0)
    goes = votes_for(project, "aab", start=10)
    first = frozen(project)
    comes = votes_for(project, "bbb", start=20)
    second = frozen(project, min_confidence=0.7)
    found = difference(first, second)
    assert (found.added, found.removed, found.flipped, found.same) == (1, 1, 0, 1)
    assert {(item.change, item.id) for item in found.shown} == {
        (Change.ADDED, str(comes.public_id)),
        (Change.REMOVED, str(goes.public_id)),
    }
    assert str(stays.public_id) not in {item.id for item in found.shown}
    back = difference(second, first)
    assert (back.added, back.removed) == (1, 1)
    new = difference(None, first)
    assert (new.added, new.removed, new.flipped, new.same) == (2, 0, 0, 0)
    only = difference(first, second, only=Change.REMOVED)
    assert [item.change for item in only.shown] == [Change.REMOVED]
    assert only.added == 1


def test_another_winner_and_a_tie_are_flips_and_a_moved_probability_is_none(project, tmp_path):
    before, after = (frozen_lines(project, tmp_path / name, sides) for name, sides in (
        ("before", {"one": ("a", 0.9), "two": ("a", 0.9), "three": ("a", 0.6), "four": ("a", 0.5)}),
        ("after", {"one": ("b", 0.8), "two": ("a", 0.5), "three": ("a", 0.9), "four": ("b", 0.5)}),
    ))  # fmt: skip
    found = difference(before, after)
    assert (found.flipped, found.same) == (2, 2)
    assert {item.id: (item.prob_before, item.prob_after) for item in found.shown} == {
        "one": (pytest.approx(0.1), 0.8),  # of the side that is chosen now
        "two": (0.9, 0.5),
    }


def frozen_lines(project, directory, sides) -> Snapshot:
    """A snapshot of lines as given: id → what is chosen, and how surely."""
    lines = [
        {
            "id": name, "group": name, "prompt": [{"role": "user", "content": "Why?"}],
            "chosen": chosen, "rejected": "b" if chosen == "a" else "a", "prob_chosen": prob,
        }
        for name, (chosen, prob) in sides.items()
    ]  # fmt: skip
    manifest = write_snapshot(directory, kind="preferences", label_policy={}, split={}, lines={"train": lines})
    return Snapshot.objects.create(
        project=project, number=Snapshot.objects.count() + 1, content_hash=manifest.content_hash, path=str(directory),
        counts=manifest.counts, dropped={}, label_policy={}, split={}, agreement={}, created_at=NOW,
        created_by=project.created_by,
    )  # fmt: skip


def test_a_card_counts_what_the_lines_hold(project):
    builders.settled(project, 4)
    snapshot = frozen(project)
    lines = [json.loads(line) for line in export_lines(snapshot, layout=Layout.WINNOW)]
    found = card(snapshot)
    assert (found["preferences"], found["comparisons"]) == (4, 4)
    assert (found["by_votes"], found["by_ruling"]) == (4, 0)
    assert sum(item["n"] for item in found["certainty"]) == 4
    assert found["certainty"][-1]["n"] == 4  # majorities without a dissenting vote are certain
    assert sum(item["n"] for item in found["sources"]) == 4
    assert sum(item["n"] for item in found["languages"]) == 4
    assert found["mean_chosen"] == sum(len(line["chosen"]) for line in lines) / 4
    given = [line["meta"]["votes"] for line in lines]
    assert found["votes"] == sum(votes["chosen"] + votes["tie"] + votes["rejected"] for votes in given)


def test_the_sum_is_that_of_the_file(project):
    builders.settled(project, 3)
    snapshot = frozen(project)
    for layout in Layout:
        data = "".join(export_lines(snapshot, layout=layout)).encode()
        found = export_sum(snapshot, layout=layout)
        assert (found.sha256, found.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
        assert found.lines == 3
    file = snapshot_path(snapshot) / "train.jsonl"
    found = export_sum(snapshot, layout=Layout.WINNOW, part="train")
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert export_sum(snapshot, layout=Layout.TRL, part="test").lines == 0


def test_through_the_api(project):
    votes_for(project, "aaa", start=0)
    first = frozen(project)
    votes_for(project, "bbb", start=10)
    second = frozen(project)
    olga = world.client(project.created_by)
    base = "/api/v1/projects/helpful/snapshots"
    found = olga.get(f"{base}/{second.public_id}/difference").json()  # against the one before
    assert (found["since"]["number"], found["snapshot"]["number"]) == (1, 2)
    assert (found["added"], found["same"], len(found["items"])) == (1, 1, 1)
    assert found["items"][0]["prob_before"] is None
    alone = olga.get(f"{base}/{first.public_id}/difference").json()
    assert (alone["since"], alone["added"]) == (None, 1)
    back = olga.get(f"{base}/{first.public_id}/difference?since={second.public_id}&change=removed").json()
    assert (back["removed"], back["items"][0]["change"]) == (1, "removed")
    for query in ("since=x", "change=moved"):
        assert olga.get(f"{base}/{first.public_id}/difference?{query}").status_code == 400
    assert olga.get(f"{base}/{first.public_id}/difference?since={project.public_id}").status_code == 404
    assert olga.get(f"{base}/{first.public_id}/card").json()["preferences"] == 1
    answer = olga.get(f"{base}/{second.public_id}/export?layout=trl&split=train")
    body = b"".join(answer.streaming_content)
    said = olga.get(f"{base}/{second.public_id}/sum?layout=trl&split=train").json()
    assert (said["sha256"], said["lines"]) == (hashlib.sha256(body).hexdigest(), 2)
    assert said["name"] in answer["Content-Disposition"]
    assert olga.get(f"{base}/{second.public_id}/sum?layout=csv").status_code == 400


def test_files_that_are_gone_are_said_to_be(project):
    builders.settled(project, 1)
    snapshot = frozen(project)
    (snapshot_path(snapshot) / "train.jsonl").unlink()
    with pytest.raises(SnapshotUnreadable, match="snapshot v1"):
        card(snapshot)
    olga = world.client(project.created_by)
    answer = olga.get(f"/api/v1/projects/helpful/snapshots/{snapshot.public_id}/card")
    assert (answer.status_code, answer.json()["code"]) == (409, "snapshot_unreadable")
