"""Snapshots of rankings, scales and rulings; and who stays out of them."""

from __future__ import annotations

from fractions import Fraction

import pytest

from annotation import exclusion
from annotation.consensus import mark_due, settle_due
from annotation.feedback import read_form
from annotation.models import (
    Adjudication,
    AdjudicationKind,
    Comparison,
    Delivery,
    Gold,
    GoldOrigin,
    GoldUse,
    Membership,
    Project,
    Webhook,
)
from annotation.preferences import LabelPolicy
from tests import builders
from tests.builders import NOW, cast
from training.engine.records import iter_lines, verify_snapshot
from training.snapshots import FreezeRule, NoPreferences, freeze, rebuilt_hash, snapshot_path

pytestmark = pytest.mark.django_db
TRAIN_ONLY = {"train": 1.0, "validation": 0.0, "test": 0.0}


def project_of(kind: str, *, aggregator: str = "dawid_skene", **form) -> Project:
    return builders.project(overlap=2, aggregator=aggregator, form=read_form({"kind": kind, **form}))


def frozen(project: Project, **policy):
    rule = FreezeRule(policy=LabelPolicy(**policy), shares=TRAIN_ONLY)
    made = freeze(project=project, rule=rule, by=project.created_by, now=NOW)
    verify_snapshot(snapshot_path(made))
    assert rebuilt_hash(snapshot=made, now=NOW) == made.content_hash
    return made


def lines(snapshot) -> dict[str, dict]:
    return {line["id"]: line for line in iter_lines(snapshot_path(snapshot), "train")}


def rank(comparison: Comparison, *orders: str) -> None:
    """One vote an order, such as `ca=b` for c, then a and b alike."""
    for i, order in enumerate(orders):
        groups: list[list[str]] = []
        for letter in order:
            if letter == "=":
                continue
            if order[order.index(letter) - 1] == "=" and order.index(letter):
                groups[-1].append(letter)
            else:
                groups.append([letter])
        cast(comparison, builders.member(comparison.project, f"person-{i}"), ranking=groups)


def rule_on(comparison: Comparison, answer: dict) -> None:
    Adjudication.objects.create(
        project=comparison.project, comparison=comparison, kind=AdjudicationKind.RULING, answer=answer, reason="so",
        by=comparison.project.created_by, created_at=NOW,
    )  # fmt: skip
    mark_due([comparison.pk], now=NOW)


def test_a_ranking_gives_a_preference_a_pair_that_weigh_one_together():
    project = project_of("ranking", size=4, aggregator="majority")
    made, other = builders.sets(project, 2, size=4)
    rank(made, "cab=d", "cabd")
    rank(other, "abcd", "abcd")
    snapshot = frozen(project)
    found = lines(snapshot)
    mine = {key.split(":")[1]: line for key, line in found.items() if key.startswith(str(made.public_id))}
    assert sorted(mine) == ["ab", "ac", "ad", "bc", "bd", "cd"]
    assert sum(Fraction(line["weight"]).limit_denominator(99) for line in mine.values()) == 1
    assert len(found) == snapshot.counts["total"] == 12
    text = {letter: f"Answer {k} to question 0." for k, letter in enumerate("abcd")}
    assert (mine["ac"]["chosen"], mine["ac"]["rejected"]) == (text["c"], text["a"])
    assert mine["ac"]["prob_chosen"] == 1
    assert mine["ac"]["prob_share"] == (2 + 0.5) / (2 + 1)
    assert mine["bd"]["prob_chosen"] == 0.5  # one tie, one b: no class leads
    assert mine["ac"]["meta"]["ranking"] == [["c"], ["a"], ["b"], ["d"]]
    assert mine["ac"]["meta"]["votes"] == {"chosen": 2, "tie": 0, "rejected": 0, "surplus": 0}
    assert {line["group"] for line in mine.values()} == {mine["ab"]["group"]}
    assert Comparison.objects.filter(frozen_at__isnull=False).count() == 2


def test_dropping_ties_leaves_the_other_pairs_which_then_weigh_one():
    project = project_of("ranking", size=3)
    (made,) = builders.sets(project)
    rank(made, "ab=c", "ab=c")
    snapshot = frozen(project, tie_rule="drop")
    assert sorted(lines(snapshot)) == [f"{made.public_id}:ab", f"{made.public_id}:ac"]
    assert {line["weight"] for line in lines(snapshot).values()} == {0.5}
    assert snapshot.dropped == {"tie": 1}


def test_ratings_of_two_are_preferences_and_of_one_are_none():
    pair = project_of("rating", size=2, aggregator="majority")
    (made,) = builders.comparisons(pair)
    for name, points in (("p", 5), ("q", 4)):
        ratings = {"a": {"overall": points}, "b": {"overall": 2}}
        cast(made, builders.member(pair, name), "a", points=5, ratings=ratings)
    (line,) = lines(frozen(pair)).values()
    assert (line["id"], line["prob_chosen"], line["weight"]) == (str(made.public_id), 1, 1)
    alone = builders.project(slug="alone", overlap=1, form=read_form({"kind": "rating", "size": 1}))
    (one,) = builders.sets(alone, size=1)
    cast(one, builders.member(alone, "p"), points=5, ratings={"a": {"overall": 5}})
    with pytest.raises(NoPreferences, match="1 one completion"):
        frozen(alone)


@pytest.mark.parametrize(
    ("points", "scales", "margin"),
    [
        (5, (1, 1), Fraction(2, 3)),
        (7, (1, 3), Fraction(2, 3)),
        (5, (1, 3), Fraction(1, 3)),
        (5, (5, 4), Fraction(1, 2)),
    ],
)
def test_strength_becomes_a_margin_only_when_asked(points, scales, margin):
    """A third of a nat a step: of five points 2 and 1, of seven 3, 2 and 1."""
    project = project_of("scale", points=points)
    (made,) = builders.comparisons(project)
    for i, scale in enumerate(scales):
        choice = "a" if scale < (points + 1) / 2 else "b" if scale > (points + 1) / 2 else "tie"
        cast(made, builders.member(project, f"p{i}"), choice, points=points, scale=scale)
    rule_on(made, {"choice": "a" if scales[0] == 1 else "b"})
    plain = frozen(project)
    (line,) = lines(plain).values()
    assert "margin" not in line
    assert plain.label_policy["margin"] is False
    asked = frozen(project, margin=True)
    (line,) = lines(asked).values()
    assert line["margin"] == pytest.approx(float(margin))
    assert asked.label_policy["margin_per_step"] == pytest.approx(1 / 3)
    assert asked.content_hash != plain.content_hash


def test_a_margin_against_the_ruling_is_none():
    project = project_of("scale", points=5)
    (made,) = builders.comparisons(project)
    cast(made, builders.member(project, "p"), "a", points=5, scale=1)
    rule_on(made, {"choice": "b"})
    (line,) = lines(frozen(project, margin=True)).values()
    assert line["margin"] == 0


def test_a_ruling_is_taken_without_votes_and_outweighs_their_share():
    project = builders.project(overlap=3)
    voted, bare, ranked = builders.comparisons(project, 3)
    for i, choice in enumerate("aab"):
        cast(voted, builders.member(project, f"p{i}"), choice)
    rule_on(voted, {"choice": "b"})
    rule_on(bare, {"choice": "tie"})
    snapshot = frozen(project, min_votes=3, min_confidence=0.9)
    found = lines(snapshot)
    line = found[str(voted.public_id)]
    assert (line["prob_chosen"], line["meta"]["label_source"]) == (1, "adjudication")
    assert line["chosen"].startswith("Second")
    assert "prob_share" not in line  # training takes the share first
    assert line["meta"]["votes"] == {"chosen": 1, "tie": 0, "rejected": 2, "surplus": 0}
    assert found[str(bare.public_id)]["prob_chosen"] == 0.5
    assert snapshot.dropped == {"open": 1}
    assert ranked.public_id not in found


def test_gold_stays_out_whatever_it_is_for():
    project = builders.project(overlap=1)
    made = builders.comparisons(project, 4)
    person = builders.member(project, "p")
    for item in made:
        cast(item, person, "a")
    for item, use, retired in zip(made, GoldUse, (None, NOW, None), strict=False):
        Gold.objects.create(
            project=project, comparison=item, use=use, origin=GoldOrigin.PROMOTED, answer={"choice": "a"},
            created_at=NOW, retired_at=retired,
        )  # fmt: skip
    snapshot = frozen(project)
    assert list(lines(snapshot)) == [str(made[3].public_id)]
    assert snapshot.dropped == {"gold": 3}


def test_excluded_people_stay_out_and_are_named_by_pseudonym():
    project = builders.project(overlap=2)
    one, other = builders.comparisons(project, 2)
    ann, ben = builders.member(project, "ann"), builders.member(project, "ben")
    for item in (one, other):
        cast(item, ann, "a")
        cast(item, ben, "a")
    settle_due(now=NOW)
    before = frozen(project)
    Comparison.objects.filter(pk=one.pk).update(frozen_at=None)
    exclusion.exclude(project=project, user=ann, by=project.created_by, reason="asleep", now=NOW)
    after = frozen(project)
    assert before.label_policy["excluded_annotators"] == []
    assert after.label_policy["excluded_annotators"] == [Membership.objects.get(user=ann).pseudonym]
    (line,) = lines(after).values()  # the frozen one keeps its other vote, the open one waits
    assert line["meta"]["votes"] == {"chosen": 1, "tie": 0, "rejected": 0, "surplus": 0}
    assert line["meta"]["annotators"] == 1
    assert after.dropped == {"open": 1}
    assert after.content_hash != before.content_hash


def test_freezing_is_an_event():
    project = builders.project(overlap=1)
    Webhook.objects.create(
        project=project, url="https://example.org", secret="s", created_by=project.created_by,
        events=["snapshot.frozen"],
    )  # fmt: skip
    (made,) = builders.comparisons(project)
    cast(made, builders.member(project, "p"), "a")
    snapshot = frozen(project)
    assert Delivery.objects.get().body["data"]["snapshot"] == str(snapshot.public_id)
