"""Disputes: the queue, the blind first answer, rulings and what they lead to."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from annotation import adjudication
from annotation.adjudication import AlreadyRuled, MakeGold, NotDisputed, send
from annotation.consensus import settle_due
from annotation.errors import Invalid
from annotation.feedback import read_form
from annotation.gold import AlreadyGold
from annotation.models import (
    Adjudication,
    Assignment,
    AuditEvent,
    Comparison,
    Consensus,
    Flag,
    FlagKind,
    Gold,
    Membership,
    Role,
    Slot,
    Vote,
)
from annotation.queries import counts
from annotation.reports.agreement import agreement
from tests import builders, world
from tests.builders import NOW, cast

pytestmark = pytest.mark.django_db
BASE = "/api/v1/projects/helpful/adjudication"


@pytest.fixture
def project():
    return builders.project(overlap=3)


@pytest.fixture
def voters(project):
    return [builders.member(project, f"voter-{i}") for i in range(3)]


@pytest.fixture
def ada(project):
    return builders.member(project, "ada", Role.ADJUDICATOR)


def settle():
    while settle_due(now=NOW):
        pass


def disputed(project, voters, *choices: str) -> list[Comparison]:
    """Comparisons with these votes, such as `atb`."""
    made = builders.comparisons(project, len(choices))
    for item, letters in zip(made, choices, strict=True):
        for person, letter in zip(voters, letters, strict=False):
            cast(item, person, {"t": "tie"}.get(letter, letter), rationale=f"{person.name} says {letter}")
    settle()
    return made


def listed(browser, query: str = "") -> list[str]:
    answer = browser.get(f"{BASE}{query}")
    assert answer.status_code == 200, answer.content
    return [row["id"] for row in answer.json()["items"]]


def test_the_queue_goes_from_the_most_disputed_and_managers_have_escalated_ones_first(project, voters, ada):
    project.dispute_below = 0.9
    project.save()
    mild, sharp, mild_too, calm, escalated = disputed(project, voters, "aab", "atb", "aab", "aaa", "aab")
    send([calm], by=project.created_by, reason="looks odd", now=NOW)
    adjudication.escalate(comparison=escalated, by=ada, reason="legal advice?", now=NOW)
    names = {str(item.public_id): name for item, name in zip(
        (mild, sharp, mild_too, calm, escalated), ("mild", "sharp", "mild too", "calm", "escalated"), strict=True
    )}  # fmt: skip
    order = ["sharp", "mild", "mild too", "calm"]
    by_ada, by_olga = world.client(ada), world.client(project.created_by)
    assert [names[x] for x in listed(by_ada)] == [*order, "escalated"]
    assert [names[x] for x in listed(by_olga)] == ["escalated", *order]
    assert [names[x] for x in listed(by_ada, "?why=sent")] == ["calm"]
    assert [names[x] for x in listed(by_ada, "?why=escalated")] == ["escalated"]
    assert [names[x] for x in listed(by_ada, "?why=votes&category=explanation")] == ["sharp", "mild", "mild too"]
    assert listed(by_ada, "?language=de") == []
    paged, cursor = [], ""
    while cursor is not None:
        page = by_olga.get(f"{BASE}?limit=2{cursor and f'&cursor={cursor}'}").json()
        paged += [names[row["id"]] for row in page["items"]]
        cursor = page["next"]
    assert paged == ["escalated", *order]
    assert by_ada.get(f"{BASE}?cursor=nonsense").status_code == 400
    assert by_ada.get(f"{BASE}?why=never").status_code == 400


def test_a_page_of_the_queue_costs_the_same_however_long(project, voters, ada, django_assert_max_num_queries):
    disputed(project, voters, *["atb"] * 12)
    browser = world.client(ada)
    with django_assert_max_num_queries(6):
        assert len(listed(browser)) == 12


def test_votes_are_shown_after_an_own_answer_and_without_names(project, voters, ada):
    (made,) = disputed(project, voters, "atb")
    for place in made.places.all():
        place.completion.source.name = "secret-source"
        place.completion.source.save()
    browser, address = world.client(ada), f"{BASE}/{made.public_id}"
    before = browser.get(address)
    assert before.json()["my_answer"] is None
    assert [row["letter"] for row in before.json()["completions"]] == ["a", "b"]
    refused = browser.get(f"{address}/votes")
    assert (refused.status_code, refused.json()["code"]) == (409, "answer_first")
    after = browser.post(f"{address}/answer", {"choice": "a"}, format="json")
    assert after.status_code == 200
    assert browser.get(f"{address}/votes").json() == after.json()
    assert sorted(row["choice"] for row in after.json()["votes"]) == ["a", "b", "tie"]
    assert "voter-0 says a" in {row["rationale"] for row in after.json()["votes"]}
    shown = before.content.decode() + json.dumps({**after.json(), "votes": [
        {**row, "rationale": ""} for row in after.json()["votes"]
    ]})  # fmt: skip
    secrets = {"secret-source", *(p.name for p in voters), *(str(p.public_id) for p in voters)}
    secrets |= {str(vote.public_id) for vote in Vote.objects.all()}
    secrets |= set(Membership.objects.values_list("pseudonym", flat=True))
    assert [secret for secret in secrets if secret in shown] == []


def test_the_first_answer_is_one_vote_for_reference_that_never_counts(project, voters, ada):
    (made,) = disputed(project, voters, "atb")
    browser, address = world.client(ada), f"{BASE}/{made.public_id}/answer"
    percent = agreement(project)["percent"].value
    for _ in range(2):
        assert browser.post(address, {"choice": "b"}, format="json").status_code == 200
    other = browser.post(address, {"choice": "a"}, format="json")
    assert (other.status_code, other.json()["code"]) == (409, "already_answered")
    vote = Vote.objects.get(annotator=ada)
    assert (vote.purpose, vote.choice, vote.assignment.state) == ("reference", "b", "voted")
    assert not Slot.objects.filter(vote=vote).exists()
    settle()
    assert Consensus.objects.get().votes == 3
    assert agreement(project)["percent"].value == percent
    assert counts(project, now=NOW).surplus == 0
    for body in ({"choice": "c"}, {"ranking": [["a"], ["b"]]}, {}):
        assert browser.post(address, body, format="json").status_code == 400


def test_a_ruling_keeps_the_first_answer_and_decides(project, voters, ada):
    (made,) = disputed(project, voters, "atb")
    browser, address = world.client(ada), f"{BASE}/{made.public_id}"
    browser.post(f"{address}/answer", {"choice": "a"}, format="json")
    ruled = browser.post(f"{address}/ruling", {"choice": "b", "reason": "a is made up"}, format="json")
    assert ruled.status_code == 201
    assert (ruled.json()["state"], ruled.json()["frozen"], ruled.json()["note"]) == ("adjudicated", False, "")
    fact = Adjudication.objects.get()
    assert (fact.answer, fact.first_answer, fact.by, fact.reason) == (
        {"choice": "b"}, {"choice": "a"}, ada, "a is made up",
    )  # fmt: skip
    row = Consensus.objects.get()
    assert (row.state, row.label, row.prob, row.votes) == ("adjudicated", "b", 0.0, 3)
    assert AuditEvent.objects.get(action="adjudication.ruling").details["answer"] == {"choice": "b"}
    assert listed(browser) == []


def test_the_second_of_two_adjudicators_must_name_what_is_superseded(project, voters, ada):
    (made,) = disputed(project, voters, "atb")
    max_ = builders.member(project, "max", Role.MANAGER)
    first, second = world.client(ada), world.client(max_)
    address = f"{BASE}/{made.public_id}/ruling"
    ruling = first.post(address, {"choice": "a", "reason": "better"}, format="json").json()["id"]
    late = second.post(address, {"choice": "b", "reason": "no, this"}, format="json")
    assert (late.status_code, late.json()["code"], late.json()["details"]) == (
        409, "already_ruled", {"ruling": ruling},
    )  # fmt: skip
    wrong = second.post(address, {"choice": "b", "reason": "x", "supersedes": str(uuid4())}, format="json")
    assert wrong.status_code == 409
    named = second.post(address, {"choice": "b", "reason": "no, this", "supersedes": ruling}, format="json")
    assert named.status_code == 201
    assert Adjudication.objects.count() == 2  # facts stay
    assert Consensus.objects.get().label == "b"


def test_a_frozen_comparison_may_be_ruled_on_and_the_answer_says_so(project, voters, ada):
    (made,) = disputed(project, voters, "atb")
    Comparison.objects.filter(pk=made.pk).update(frozen_at=NOW)
    answer = world.client(ada).post(
        f"{BASE}/{made.public_id}/ruling", {"choice": "tie", "reason": "equal"}, format="json"
    )
    assert answer.json()["frozen"] is True
    assert "older label" in answer.json()["note"]


def test_invalid_withdraws_and_reopening_lets_the_votes_speak(project, voters, ada):
    (made,) = disputed(project, voters, "atb")
    browser, address = world.client(ada), f"{BASE}/{made.public_id}"
    assert browser.post(f"{address}/reopen", {"reason": "x"}, format="json").json()["code"] == "nothing_to_reopen"
    out = browser.post(f"{address}/ruling", {"invalid": True, "reason": "no question at all"}, format="json")
    assert out.json()["state"] == "withdrawn"
    again = browser.post(f"{address}/reopen", {"reason": "there is one"}, format="json")
    assert again.json()["state"] == "disputed"
    assert browser.post(f"{address}/ruling", {"choice": "a", "reason": "so"}, format="json").status_code == 201


def test_what_is_escalated_is_for_managers(project, voters, ada):
    (made,) = disputed(project, voters, "atb")
    browser, address = world.client(ada), f"{BASE}/{made.public_id}"
    for _ in range(2):
        assert browser.post(f"{address}/escalate", {"reason": "beyond me"}, format="json").status_code == 201
    assert Adjudication.objects.count() == 1
    refused = browser.post(f"{address}/ruling", {"choice": "a", "reason": "x"}, format="json")
    assert (refused.status_code, refused.json()["code"]) == (403, "escalated")
    assert browser.get(address).json()["requests"][0]["reason"] == "beyond me"
    olga = world.client(project.created_by)
    assert olga.post(f"{address}/ruling", {"choice": "a", "reason": "x"}, format="json").status_code == 201
    again = olga.post(f"{address}/escalate", {"reason": "x"}, format="json")
    assert again.json()["code"] == "already_ruled"


def test_a_ruling_may_become_gold(project, voters, ada):
    (made,) = disputed(project, voters, "atb")
    body = {"choice": "b", "reason": "a is false", "make_gold": True, "explanation": "The date in A is wrong."}
    assert world.client(ada).post(f"{BASE}/{made.public_id}/ruling", body, format="json").status_code == 201
    gold = Gold.objects.get()
    assert (gold.comparison, gold.use, gold.origin, gold.answer) == (made, "hidden", "given", {"choice": "b"})
    assert gold.explanation == "The date in A is wrong."
    ruling = Adjudication.objects.get().public_id
    with pytest.raises(AlreadyGold):
        adjudication.rule(
            comparison=made, by=ada, role=Role.ADJUDICATOR, answer={"choice": "a"}, reason="x", supersedes=ruling,
            make_gold=MakeGold(), now=NOW,
        )  # fmt: skip
    assert Adjudication.objects.count() == 1  # the ruling went with it


def test_researchers_send_by_id_and_by_filter_and_again_without_harm(project, voters, ada):
    one, two, three = disputed(project, voters, "aaa", "aab", "aab")
    olga = world.client(project.created_by)
    assert olga.post(f"{BASE}/send", {"reason": "check"}, format="json").status_code == 400
    by_id = olga.post(f"{BASE}/send", {"comparisons": [str(one.public_id)], "reason": "check"}, format="json")
    assert by_id.json() == {"matched": 1, "sent": 1}
    weak = {"filter": {"state": "settled", "top_share_below": 0.7}, "reason": "weak"}
    assert olga.post(f"{BASE}/send", weak, format="json").json() == {"matched": 2, "sent": 2}
    weak["filter"]["state"] = "disputed"
    assert olga.post(f"{BASE}/send", weak, format="json").json() == {"matched": 2, "sent": 0}
    assert len(listed(world.client(ada))) == 3
    assert world.client(ada).post(f"{BASE}/send", weak, format="json").status_code == 403
    assert AuditEvent.objects.filter(action="adjudication.requested").count() == 2
    assert {two.public_id, three.public_id} <= set(Comparison.objects.values_list("public_id", flat=True))


def test_what_nobody_disputes_is_neither_shown_nor_ruled(project, voters, ada):
    (made,) = disputed(project, voters, "aaa")
    browser = world.client(ada)
    assert browser.get(f"{BASE}/{made.public_id}").status_code == 404
    with pytest.raises(NotDisputed):
        adjudication.rule(comparison=made, by=ada, role=Role.ADJUDICATOR, answer={"choice": "a"}, reason="x", now=NOW)
    with pytest.raises(NotDisputed):
        adjudication.escalate(comparison=made, by=ada, reason="x", now=NOW)
    for reason in ("", "  "):
        with pytest.raises(Invalid, match="reason"):
            send([made], by=ada, reason=reason, now=NOW)


def test_a_ranking_is_ruled_by_a_ranking(voters):
    project = builders.project(slug="ranked", overlap=1, form=read_form({"kind": "ranking", "size": 3}))
    (made,) = builders.sets(project)
    olga = project.created_by
    send([made], by=olga, reason="check", now=NOW)
    for bad in ({"choice": "a"}, {"ranking": [["a"], ["b"]]}, {"ranking": [["a"], ["a", "b", "c"]]}, {"ranking": "ab"}):
        with pytest.raises(Invalid):
            adjudication.rule(comparison=made, by=olga, role=Role.OWNER, answer=bad, reason="x", now=NOW)
    adjudication.answer_first(comparison=made, user=olga, data={"ranking": [["c"], ["a", "b"]]}, now=NOW)
    fact = adjudication.rule(
        comparison=made, by=olga, role=Role.OWNER, answer={"ranking": [["b"], ["a"], ["c"]]}, reason="x", now=NOW
    )
    assert fact.first_answer == {"ranking": [["c"], ["a", "b"]]}
    assert Consensus.objects.get(comparison=made).details["ranking"] == [["b"], ["a"], ["c"]]


def test_a_voters_own_vote_is_their_first_answer(project, voters):
    (made,) = disputed(project, voters, "atb")
    Membership.objects.filter(user=voters[0]).update(role=Role.ADJUDICATOR)
    seen = world.client(voters[0]).get(f"{BASE}/{made.public_id}/votes").json()
    assert seen["my_answer"] == {"choice": "a"}
    assert len(seen["votes"]) == 2  # the others'


def test_flags_are_shown_without_the_flagger(project, voters, ada):
    (made,) = disputed(project, voters, "atb")
    held = Assignment.objects.create(
        project=project, comparison=made, annotator=voters[0], tab="t", sides="ab", state="flagged",
        lease_expires_at=NOW, repetition=1,
    )  # fmt: skip
    Flag.objects.create(
        project=project, comparison=made, assignment=held, by=voters[0], kind=FlagKind.BROKEN, note="cut off"
    )
    (flag,) = world.client(ada).get(f"{BASE}/{made.public_id}").json()["flags"]
    assert set(flag) == {"kind", "note", "created_at"}


def test_two_rulings_at_once_are_told_apart(project, voters, ada):
    (made,) = disputed(project, voters, "atb")
    adjudication.rule(comparison=made, by=ada, role=Role.ADJUDICATOR, answer={"choice": "a"}, reason="x", now=NOW)
    with pytest.raises(AlreadyRuled):
        adjudication.rule(comparison=made, by=ada, role=Role.ADJUDICATOR, answer={"choice": "a"}, reason="x", now=NOW)
