"""The joint fit: who is trusted, when it is done anew, and what it settles again."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import numpy as np
import pytest
from django.core.management import call_command

from annotation import consensus, fits
from annotation.consensus import mark_due, settle_due
from annotation.exclusion import exclude
from annotation.feedback import read_form
from annotation.meetings import Meeting
from annotation.models import AggregationFit, Consensus, Gold, Membership, Project
from annotation.pairing import create_comparisons
from annotation.people import change_form
from annotation.project_settings import change_settings
from annotation.statistics.aggregation import dawid_skene, prior_confusion
from annotation.vote_arrays import known_classes, load
from tests import builders
from tests.builders import NOW, cast

pytestmark = pytest.mark.django_db


@pytest.fixture
def project() -> Project:
    return builders.project()


def settle_all() -> None:
    while settle_due(now=NOW):
        pass


def fitted(project: Project, *, warm: bool = True) -> AggregationFit:
    assert fits.refit(project=project, warm=warm, now=NOW)
    return AggregationFit.objects.get(project=project)


def stored(project: Project) -> list[tuple]:
    rows = Consensus.objects.filter(project=project).order_by("comparison_id")
    return list(rows.values_list("comparison_id", "state", "label", "prob", "posterior", "method", "settled_at"))


def divided(project: Project, n: int = 30) -> None:
    """Two people who always agree, one who says the same in two of three, one who always says b. Truth is a or b."""
    voters = [builders.member(project, f"voter-{i}") for i in range(4)]
    for i, made in enumerate(builders.comparisons(project, n, overlap=4)):
        truth = "ab"[i % 2]
        other = "ba"[i % 2]
        for person, choice in zip(voters, (truth, truth, truth if i % 3 else other, "b"), strict=True):
            cast(made, person, choice)
    settle_all()


def test_the_careful_are_trusted_more_than_the_careless(project):
    divided(project)
    fit = fitted(project)
    found = dict(Membership.objects.filter(user__name__startswith="voter").values_list("user__name", "reliability"))
    assert found["voter-0"] == pytest.approx(found["voter-1"])
    assert found["voter-0"] > 0.85 > found["voter-2"] > found["voter-3"]
    says_b = Membership.objects.get(user__name="voter-3").confusion
    assert says_b[0][2] > 0.7  # b, whatever is true
    assert Membership.objects.get(user__name="olga").confusion is None
    assert (fit.votes, fit.items, fit.annotators, fit.converged) == (120, 30, 4, True)
    assert fit.held_out["dawid_skene"] < fit.held_out["vote_share"]


def test_what_is_stored_is_the_fit_of_the_functions(project):
    divided(project)
    fit = fitted(project)
    arrays = load(project)
    again = dawid_skene(*arrays.votes, **arrays.sizes)
    members = dict(Membership.objects.values_list("user_id", "confusion"))
    assert np.allclose([members[int(user)] for user in arrays.user], again.theta, atol=1e-12)
    assert fit.shares == pytest.approx(again.pi.tolist())
    rows = dict(Consensus.objects.values_list("comparison_id", "posterior"))
    assert [rows[int(pk)] for pk in arrays.comparison] == pytest.approx(again.q.max(axis=1).tolist(), abs=1e-9)


def test_a_vote_is_taken_by_the_last_fit_at_once(project):
    divided(project)
    fits.refit(project=project, now=NOW)
    careful, says_b = (Membership.objects.get(user__name=f"voter-{i}") for i in (0, 3))
    first, second = builders.comparisons(project, 2, overlap=1, start=90)
    cast(first, careful.user, "b")
    cast(second, says_b.user, "b")
    settle_all()
    first_lead, second_lead = (Consensus.objects.get(comparison=made).posterior for made in (first, second))
    assert first_lead > second_lead
    shares = np.array(AggregationFit.objects.get().shares)
    expected = shares * np.array(careful.confusion)[:, 2]
    assert first_lead == pytest.approx(max(expected / expected.sum()))


def test_a_fit_computes_anew_what_it_moved_and_a_second_one_moves_nothing(project, monkeypatch):
    divided(project)
    before = stored(project)
    fits.refit(project=project, now=NOW)
    after = stored(project)
    assert after != before
    assert not Consensus.objects.filter(due_at__isnull=False).exists()
    asked = []
    monkeypatch.setattr(fits, "refresh", lambda ids, now: asked.extend(ids))
    fits.refit(project=project, now=NOW + timedelta(hours=1))
    assert AggregationFit.objects.get().is_warm
    assert asked == []


def test_warm_and_cold_fits_agree(project):
    divided(project, 20)
    fits.refit(project=project, now=NOW)
    divided_more = builders.comparisons(project, 10, overlap=3, start=500)
    for i, made in enumerate(divided_more):
        for j in range(3):
            cast(made, builders.member(project, f"voter-{j}"), "ab"[i % 2])
    warm = fitted(project)
    people = {m.user_id: m.confusion for m in Membership.objects.filter(confusion__isnull=False)}
    cold = fitted(project, warm=False)
    assert (warm.is_warm, cold.is_warm) == (True, False)
    assert cold.objective == pytest.approx(warm.objective, rel=1e-5)
    for member in Membership.objects.filter(confusion__isnull=False):
        assert np.allclose(member.confusion, people[member.user_id], atol=2e-3)


def test_rebuilding_gives_the_same_as_what_grew(project):
    divided(project)
    fits.refit(project=project, warm=False, now=NOW)
    grown = stored(project)
    AggregationFit.objects.all().delete()
    Membership.objects.update(confusion=None, reliability=None)
    Consensus.objects.update(state="open", label="", prob=None, posterior=None)
    call_command("rebuild_consensus", project.slug)
    rebuilt = stored(project)
    assert [row[:3] + row[5:6] for row in rebuilt] == [row[:3] + row[5:6] for row in grown]
    assert [row[3] for row in rebuilt] == pytest.approx([row[3] for row in grown], abs=fits.MOVED)


def test_it_is_done_anew_when_enough_has_changed_and_by_one_worker_only(project):
    assert fits.due(NOW) == []  # nobody has voted
    divided(project, 12)
    assert fits.due(NOW) == [project]
    AggregationFit.objects.create(project=project, owner=project.public_id, lease_expires_at=NOW + timedelta(minutes=9))
    assert fits.due(NOW) == []  # somebody is at it
    assert fits.due(NOW + timedelta(minutes=10)) == [project]  # and died
    assert fits.run_due(now=NOW + timedelta(minutes=10)) == 1
    later = NOW + timedelta(minutes=20)
    assert fits.due(later) == []
    (made,) = builders.comparisons(project, 1, overlap=3, start=300)
    for i in range(2):
        cast(made, builders.member(project, f"voter-{i}"), "a")
    assert fits.due(later) == []  # 2 of 48 are less than a twentieth
    cast(made, builders.member(project, "voter-2"), "a")
    assert fits.due(NOW + timedelta(minutes=14)) == []  # fitted four minutes ago
    assert fits.due(later) == [project]


def test_votes_that_do_not_count_do_not_ask_for_ever(project):
    divided(project, 12)
    fits.run_due(now=NOW)
    (made,) = builders.comparisons(project, 1, overlap=5, start=300)
    out = builders.member(project, "out")
    for name in ("voter-0", "voter-1", "voter-2"):
        cast(made, builders.member(project, name), "a")
    cast(made, out, "b")
    exclude(project=project, user=out, by=project.created_by, reason="bot", now=NOW)
    assert fits.run_due(now=NOW + timedelta(minutes=6)) == 1
    for minutes in (12, 18, 24):
        assert fits.due(NOW + timedelta(minutes=minutes)) == []


def test_a_request_that_comes_while_somebody_fits_is_not_forgotten(project, monkeypatch):
    divided(project, 12)
    real = fits.dawid_skene

    def slow(*votes, **sizes):
        fits.request(project)
        return real(*votes, **sizes)

    monkeypatch.setattr(fits, "dawid_skene", slow)
    assert fits.run_due(now=NOW) == 1
    assert fits.due(NOW) == [project]


def test_who_dies_while_consensuses_are_computed_anew_is_followed_by_another(project, monkeypatch):
    divided(project, 12)

    def dies(ids, *, now):
        raise KeyboardInterrupt

    monkeypatch.setattr(fits, "refresh", dies)
    with pytest.raises(KeyboardInterrupt):
        fits.run_due(now=NOW)
    monkeypatch.undo()
    later = NOW + timedelta(minutes=fits.LEASE_MINUTES, seconds=1)
    assert fits.due(later) == [project]
    assert fits.run_due(now=later) == 1
    arrays = load(project)
    again = dawid_skene(*arrays.votes, **arrays.sizes)
    rows = dict(Consensus.objects.values_list("comparison_id", "posterior"))
    assert [rows[int(pk)] for pk in arrays.comparison] == pytest.approx(again.q.max(axis=1).tolist(), abs=fits.MOVED)
    assert fits.due(later) == []


def test_one_project_that_fails_keeps_no_other_waiting(project, monkeypatch, caplog):
    divided(project, 12)
    other = builders.project(slug="other")
    divided(other, 12)
    real = fits.load

    def fails(of, **how):
        if of == project:
            raise RuntimeError("broken")
        return real(of, **how)

    monkeypatch.setattr(fits, "load", fails)
    assert fits.run_due(now=NOW) == 1
    assert AggregationFit.objects.get(project=other).number == 1
    assert "broken" in caplog.text
    assert fits.due(NOW + timedelta(minutes=1)) == []  # tried again when the lease has run out
    assert project in fits.due(NOW + timedelta(minutes=11))


def test_who_settles_while_a_fit_is_written_reads_again(project, monkeypatch):
    """What was read with the people of two fits is not written, and the mark stays."""
    divided(project)
    mark_due([row.comparison_id for row in Consensus.objects.all()], now=NOW)
    real = consensus.tallies

    def late(*args):
        monkeypatch.setattr(consensus, "tallies", real)
        fits.refit(project=project, now=NOW)
        return real(*args)

    monkeypatch.setattr(consensus, "tallies", late)
    assert settle_due(now=NOW) == 0
    assert Consensus.objects.filter(due_at__isnull=False).count() == 30
    settle_all()
    arrays = load(project)
    again = dawid_skene(*arrays.votes, **arrays.sizes)
    rows = dict(Consensus.objects.values_list("comparison_id", "posterior"))
    assert [rows[int(pk)] for pk in arrays.comparison] == pytest.approx(again.q.max(axis=1).tolist(), abs=1e-9)


def test_a_fit_that_turns_a_ranking_round_is_seen(monkeypatch):
    project = builders.project(overlap=2, form=read_form({"kind": "ranking", "size": 3}))
    one, other = (builders.member(project, name) for name in ("one", "other"))
    made = builders.sets(project, 12)
    for item in made:
        cast(item, one, ranking=[["a"], ["b"], ["c"]])
        cast(item, other, ranking=[["c"], ["b"], ["a"]])
    settle_all()
    for right, answer in ((one, "abc"), (other, "cba")):
        Gold.objects.all().delete()
        for item in made[:6]:
            Gold.objects.create(
                project=project, comparison=item, origin="given", answer={"ranking": list(answer)}, created_at=NOW
            )
        fits.refit(project=project, warm=False, now=NOW)
        assert Membership.objects.get(user=right).reliability > 0.6
        last = Consensus.objects.get(comparison=made[-1])
        assert last.details["ranking"] == [[letter] for letter in answer]


def test_a_form_that_loses_its_tie_is_read_alike_by_fits_and_settling(project, monkeypatch):
    divided(project)
    tied = builders.comparisons(project, 5, overlap=1, start=700)
    for item in tied:
        cast(item, builders.member(project, "voter-0"), "tie")
    settle_all()
    change_form(project=project, form=read_form({"kind": "choice", "allow_tie": False}), by=project.created_by, now=NOW)
    project.refresh_from_db()
    real, asked = fits.refresh, []
    for _ in range(4):
        asked.clear()
        monkeypatch.setattr(fits, "refresh", lambda ids, now: asked.extend(ids) or real(ids, now=now))
        fits.refit(project=project, now=NOW)
    assert asked == []


def test_an_exclusion_asks_for_a_fit_in_which_the_person_has_no_say(project):
    divided(project)
    fits.run_due(now=NOW)
    out = Membership.objects.get(user__name="voter-3")
    assert out.confusion is not None
    exclude(project=project, user=out.user, by=project.created_by, reason="always b", now=NOW)
    assert fits.due(NOW) == [project]
    fits.run_due(now=NOW)
    out.refresh_from_db()
    assert (out.confusion, out.reliability) == (None, None)


def test_gold_and_rulings_are_known_and_teach_who_is_right(project):
    """Two people contradict each other everywhere: only the known answers tell them apart."""
    one, other = (builders.member(project, name) for name in ("one", "other"))
    for i, made in enumerate(builders.comparisons(project, 12, overlap=2)):
        cast(made, one, "ab"[i % 2])
        cast(made, other, "ba"[i % 2])
        if i < 4:
            Gold.objects.create(
                project=project, comparison=made, origin="given", answer={"choice": "ab"[i % 2]}, created_at=NOW
            )
    arrays = load(project)
    assert known_classes(project, arrays).tolist() == [0, 2, 0, 2] + [-1] * 8
    fits.refit(project=project, now=NOW)
    right, wrong = (Membership.objects.get(user=user).reliability for user in (one, other))
    assert right > 0.6
    assert wrong < 0.4


def test_a_form_without_ties_has_two_classes_and_ratings_of_one_have_none():
    pairs = builders.project(slug="pairs", form=read_form({"kind": "choice", "allow_tie": False}))
    (made,) = builders.comparisons(pairs, 1)
    cast(made, builders.member(pairs, "ann"), "b")
    fit = fitted(pairs)
    assert (fit.classes, len(fit.shares)) == (2, 2)
    assert np.shape(Membership.objects.get(project=pairs, user__name="ann").confusion) == (2, 2)
    single = builders.project(slug="single", form=read_form({"kind": "rating", "size": 1}))
    assert fitted(single).votes == 0


def test_ratings_are_read_without_each_persons_leniency():
    project = builders.project(overlap=2, form=read_form({"kind": "rating", "size": 1, "points": 7}))
    kind, strict, new = (builders.member(project, name) for name in ("kind", "strict", "new"))
    made = [item for i in range(22) for item in single(project, i)]
    for i, item in enumerate(made):
        quality = 3 + i % 2
        cast(item, kind, points=7, ratings={"a": {"overall": quality + 1}})
        other, points = (strict, quality - 1) if i < 21 else (new, 2)
        cast(item, other, points=7, ratings={"a": {"overall": points}})
    settle_all()
    assert Consensus.objects.get(comparison=made[0]).details["ratings"]["a"]["overall"] == {"mean": 3.0, "n": 2}
    fits.refit(project=project, now=NOW)
    offsets = dict(Membership.objects.values_list("user__name", "rating_offset"))
    total = sum(4 + i % 2 for i in range(22)) + sum(2 + i % 2 for i in range(21)) + 2
    assert offsets["kind"] == pytest.approx(4.5 - total / 44)
    assert offsets["new"] is None  # one rating says nothing about a person
    expected = (4 - offsets["kind"] + 2) / 2
    last = Consensus.objects.get(comparison=made[21]).details["ratings"]["a"]["overall"]
    assert last["mean"] == pytest.approx((5 - offsets["kind"] + 2) / 2)
    first = Consensus.objects.get(comparison=made[0]).details["ratings"]["a"]["overall"]
    assert first["mean"] == pytest.approx(expected - offsets["strict"] / 2)


def single(project: Project, i: int):
    """A comparison of one completion."""
    prompt = builders.prompt(project, f"Prompt {i}?")
    meeting = Meeting(prompt=prompt, completions=(builders.completion(prompt, f"Answer {i}."),))
    return create_comparisons(project=project, pairs=[meeting], origin=uuid4(), now=NOW)


def test_another_aggregator_settles_everything_again(project):
    divided(project)
    change_settings(project=project, values={"aggregator": "majority"}, by=project.created_by, now=NOW)
    fits.run_due(now=NOW)
    assert set(Consensus.objects.values_list("method", flat=True)) == {"majority/3"}
    assert set(Consensus.objects.exclude(label="").values_list("prob", flat=True)) <= {0.0, 0.5, 1.0}


def test_before_the_first_fit_people_are_as_the_prior_has_them(project):
    (made,) = builders.comparisons(project, 1, overlap=1)
    cast(made, builders.member(project, "ann"), "tie")
    settle_all()
    row = Consensus.objects.get(comparison=made)
    assert row.posterior == pytest.approx(prior_confusion(3)[1, 1])
    assert row.prob == pytest.approx(0.5)


def test_counting_the_queries_of_a_fit(project, django_assert_num_queries):
    divided(project, 12)
    fits.refit(project=project, now=NOW)
    settle_all()
    # The row, the votes' number; excluded people, votes, gold, rulings; the last fit and its people;
    # in a transaction the row and its people; what it moved, from one read of the consensuses; that all is done.
    with django_assert_num_queries(15):
        fits.refit(project=project, now=NOW)
