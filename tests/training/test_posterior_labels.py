"""Labels of a snapshot by the model: fitted on the training part, told apart from rulings, the same when rebuilt."""

from __future__ import annotations

import numpy as np
import pytest
from django.core.management import call_command

from annotation import fits
from annotation.consensus import mark_due, settle_due
from annotation.feedback import read_form
from annotation.models import Adjudication, AdjudicationKind, Aggregator, Comparison, Project, Slot
from annotation.preferences import LabelPolicy
from annotation.statistics.aggregation import dawid_skene, preference_values, prior_confusion, update_posterior
from annotation.vote_arrays import load
from tests import builders
from tests.builders import NOW, cast
from training.engine.records import iter_lines
from training.models import Snapshot
from training.snapshots import FreezeRule, freeze, preview, rebuilt_hash, snapshot_path

pytestmark = pytest.mark.django_db
PARTS = ("train", "validation", "test")


@pytest.fixture
def project() -> Project:
    return builders.project()


def votes(project: Project, n: int = 40, *, start: int = 0) -> list[Comparison]:
    """Three people; the third is wrong in one of three. The truth is a, b or a tie in turn."""
    voters = [builders.member(project, f"voter-{i}") for i in range(3)]
    made = builders.comparisons(project, n, overlap=3, start=start)
    for i, comparison in enumerate(made):
        truth = ("a", "b", "tie", "a", "b")[i % 5]
        wrong = {"a": "b", "b": "tie", "tie": "a"}[truth]
        for person, choice in zip(voters, (truth, truth, truth if i % 3 else wrong), strict=True):
            cast(comparison, person, choice)
    while settle_due(now=NOW):
        pass
    return made


def frozen(project: Project, **policy) -> Snapshot:
    return freeze(project=project, rule=FreezeRule(policy=LabelPolicy(**policy)), by=project.created_by, now=NOW)


def lines(snapshot: Snapshot) -> dict[str, tuple[str, dict]]:
    return {line["id"]: (part, line) for part in PARTS for line in iter_lines(snapshot_path(snapshot), part)}


def test_the_people_are_fitted_on_the_training_part_alone(project):
    made = {str(item.public_id): item.pk for item in votes(project)}
    snapshot = frozen(project)
    found = lines(snapshot)
    assert {part for part, _ in found.values()} == set(PARTS)
    arrays = load(project, counted=True)
    train = {made[key] for key, (part, _) in found.items() if part == "train"}
    trains = np.isin(arrays.comparison, list(train))
    part = arrays.only(trains[arrays.item])
    fit = dawid_skene(*part.votes, **part.sizes)
    theta = np.tile(prior_confusion(3), (len(arrays.user), 1, 1))
    theta[np.searchsorted(arrays.user, part.user)] = fit.theta
    q = update_posterior(np.tile(fit.pi, (len(arrays.comparison), 1)), theta, *arrays.votes)
    wins = dict(zip(arrays.comparison.tolist(), q @ preference_values(3), strict=True))
    ties = dict(zip(arrays.comparison.tolist(), q.argmax(axis=1) == 1, strict=True))
    for key, (_, line) in found.items():
        a_wins = wins[made[key]]
        expected = 0.5 if ties[made[key]] else max(a_wins, 1 - a_wins)
        assert line["prob_chosen"] == pytest.approx(expected, abs=1e-9)
    about = snapshot.label_policy
    assert (about["aggregator"], about["fit"]["fitted_on"]) == ("dawid_skene/1", "train")
    assert about["fit"]["votes"] == 3 * len(train)
    assert about["fit"]["prior"]["confusion"] == [[3, 1, 1], [1, 3, 1], [1, 1, 3]]


def test_a_tie_is_one_half_and_says_how_sure_that_is(project):
    votes(project)
    snapshot = frozen(project)
    ties = [line for _, line in lines(snapshot).values() if line["prob_chosen"] == 0.5]
    assert len(ties) == snapshot.ties == 8
    assert all(line["meta"]["p_tie"] > 0.5 for line in ties)
    others = [line for _, line in lines(snapshot).values() if line["prob_chosen"] != 0.5]
    assert all(0.5 < line["prob_chosen"] < 1 and line["meta"]["p_tie"] < 0.5 for line in others)
    dropped = frozen(project, tie_rule="drop")
    assert (dropped.ties, dropped.dropped, dropped.counts["total"]) == (0, {"tie": 8}, 32)


def test_votes_outside_the_snapshot_move_no_label(project):
    inside = votes(project)
    before = {key: line["prob_chosen"] for key, (_, line) in lines(frozen(project)).items()}
    waiting = builders.comparisons(project, 20, overlap=3, start=800)
    for comparison in waiting:
        for i in (0, 1):  # the third vote is still wanted, so none of these is ready
            cast(comparison, builders.member(project, f"voter-{i}"), "ab"[i])
    after = {key: line["prob_chosen"] for key, (_, line) in lines(frozen(project)).items()}
    assert set(before) == {str(item.public_id) for item in inside}
    assert after == before


def test_rebuilt_from_the_facts_it_has_the_same_hash_by_either_aggregator(project):
    votes(project)
    for aggregator in Aggregator:
        snapshot = frozen(project, aggregator=aggregator)
        assert rebuilt_hash(snapshot=snapshot, now=NOW) == snapshot.content_hash
    hashes = set(Snapshot.objects.values_list("content_hash", flat=True))
    assert len(hashes) == 2
    assert {row.label_policy["aggregator"] for row in Snapshot.objects.all()} == {"dawid_skene/1", "majority/3"}


def test_fits_in_the_background_and_a_changed_setting_change_no_hash(project):
    """What is in a snapshot, and how it is labelled, comes from facts and the policy alone."""
    votes(project, 40)
    snapshot = frozen(project)
    fits.refit(project=project, now=NOW)
    assert rebuilt_hash(snapshot=snapshot, now=NOW) == snapshot.content_hash
    project.aggregator, project.dispute_below = "majority", 0.99
    project.save()
    snapshot.refresh_from_db()
    assert rebuilt_hash(snapshot=snapshot, now=NOW) == snapshot.content_hash
    call_command("rebuild_consensus", project.slug)
    assert rebuilt_hash(snapshot=snapshot, now=NOW) == snapshot.content_hash


def test_freezing_asks_nobody_for_more_votes():
    """A fit that has learned that two people are noisy does not reopen what they settled."""
    project = builders.project(
        overlap_rule="adaptive", min_votes=2, max_votes=5, stop_at=0.8, full_share=0.0,
        form=read_form({"kind": "choice", "allow_tie": False}),
    )  # fmt: skip
    people = [builders.member(project, f"voter-{i}") for i in range(6)]
    for comparison in builders.comparisons(project, 20):
        for person in people[:2]:
            cast(comparison, person, "a")
    while settle_due(now=NOW):
        pass
    for comparison in builders.comparisons(project, 20, overlap=6, start=100):
        for person, choice in zip(people, "bbaaaa", strict=True):
            cast(comparison, person, choice)
    while settle_due(now=NOW):
        pass
    slots = Slot.objects.count()
    shown = preview(project=project, rule=FreezeRule(), now=NOW)
    snapshot = frozen(project)
    assert (snapshot.counts["total"], snapshot.dropped) == (shown.preferences, shown.dropped)
    fits.refit(project=project, now=NOW)
    assert Slot.objects.count() == slots


def test_the_aggregator_of_the_policy_decides_what_is_disputed(project):
    votes(project, 20)
    careful, careless = builders.member(project, "voter-0"), builders.member(project, "voter-2")
    (divided,) = builders.comparisons(project, 1, overlap=2, start=900)
    cast(divided, careful, "a")
    cast(divided, careless, "b")
    while settle_due(now=NOW):
        pass
    train = {"train": 1.0, "validation": 0.0, "test": 0.0}
    kept = {}
    for aggregator in Aggregator:
        rule = FreezeRule(policy=LabelPolicy(aggregator=aggregator), shares=train)
        snapshot = freeze(project=project, rule=rule, by=project.created_by, now=NOW)
        kept[aggregator] = str(divided.public_id) in lines(snapshot)
    assert kept == {Aggregator.DAWID_SKENE: True, Aggregator.MAJORITY: False}


def test_pairs_of_a_ranking_weigh_one_together_though_ties_are_dropped():
    project = builders.project(overlap=2, form=read_form({"kind": "ranking", "size": 3}))
    one, other = (builders.member(project, name) for name in ("one", "other"))
    for item in builders.sets(project, 4):
        cast(item, one, ranking=[["a"], ["b", "c"]])
        cast(item, other, ranking=[["a"], ["b", "c"]])
    while settle_due(now=NOW):
        pass
    found = [line for _, line in lines(frozen(project, tie_rule="drop")).values()]
    assert len(found) == 8
    assert {line["weight"] for line in found} == {0.5}


def test_a_ruling_is_certain_and_no_model_moves_it(project):
    made = votes(project)[0]
    Adjudication.objects.create(
        project=project, comparison=made, kind=AdjudicationKind.RULING, by=project.created_by,
        answer={"choice": "b"}, created_at=NOW,
    )  # fmt: skip
    mark_due([made.pk], now=NOW)
    _, line = lines(frozen(project))[str(made.public_id)]
    assert (line["prob_chosen"], line["meta"]["label_source"]) == (1.0, "adjudication")
    assert line["chosen"].startswith("Second")


def test_held_out_parts_carry_the_ceiling_that_their_votes_allow(project):
    votes(project, 60)
    agreement = frozen(project).agreement
    assert agreement["leak"] == {"prompt": 0, "completion": 0}
    allowed = agreement["ceiling"]
    assert set(allowed) == {"validation", "test"}
    for part in allowed.values():
        value, upper = part["ceiling"]["value"], part["upper"]["value"]
        assert value is None or 0.5 <= value <= upper <= 1
    assert any(part["ceiling"]["value"] is not None for part in allowed.values())


def test_without_held_out_votes_the_ceiling_says_why_there_is_none(project):
    votes(project, 5)
    shares = {"train": 1.0, "validation": 0.0, "test": 0.0}
    snapshot = freeze(project=project, rule=FreezeRule(shares=shares), by=project.created_by, now=NOW)
    assert snapshot.agreement["ceiling"]["test"]["ceiling"]["reason"] == "no_overlap"
