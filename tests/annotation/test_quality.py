"""Pauses and the way back, feedback that tells only what is over, references, and the people's routes."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from annotation import gold, quality
from annotation.consensus import settle_due
from annotation.feedback import Answer
from annotation.models import AuditEvent, FeedbackGiven, GoldUse, Objection, Purpose, Role, Slot, Vote
from annotation.quality import AlreadyPaused, NoQualification, NotPaused, after_vote
from annotation.references import record_reference, reference_agreement
from annotation.statistics.estimates import wilson
from annotation.voting import Frozen, retract
from tests import builders, world
from tests.annotation.test_qualification import gold_for, member, settings, take
from tests.annotation.test_records import give, gold_of, say
from tests.builders import NOW

pytestmark = pytest.mark.django_db
API = "/api/v1/projects/helpful"
WORK = "/api/v1/annotate/projects/helpful"


@pytest.fixture
def project():
    return builders.project()


@pytest.fixture
def ann(project):
    return builders.member(project, "ann")


def judge(project, person, rows, letter, now=NOW):
    """Votes on hidden gold, with what follows them."""
    for row in rows:
        after_vote(say(give(row, person), letter, now=now), now=now)


# --- pausing ----------------------------------------------------------------------------------------------------------


def test_somebody_surely_below_the_mark_is_paused_with_the_figures_in_words(project, ann):
    settings(project, pause_below=0.7, pause_min_gold=4)
    rows = gold_of(project, 6)
    judge(project, ann, rows[:3], "b")
    assert member(project, ann).paused_at is None  # too few answers
    judge(project, ann, rows[3:4], "b")
    found = member(project, ann)
    high = wilson(0, 4).high
    assert found.paused_at == NOW
    assert found.pause_reason == (
        f"0 of 4 quality checks agreed (0%; with 95 % certainty at most {high:.0%}), and this project asks for 70%."
    )
    event = AuditEvent.objects.get(action="member.paused")
    assert (event.by, event.details["rule"], event.details["right"], event.details["n"]) == (None, "gold", 0, 4)


def test_a_bad_share_that_may_be_chance_pauses_nobody(project, ann):
    settings(project, pause_below=0.7, pause_min_gold=2)
    rows = gold_of(project, 4)
    judge(project, ann, rows[:2], "a")
    judge(project, ann, rows[2:], "b")
    assert wilson(2, 4).high > 0.7
    assert member(project, ann).paused_at is None


def test_a_manager_lifts_a_pause_and_the_rule_judges_from_then_on(project, ann):
    settings(project, pause_below=0.9, pause_min_gold=3)
    rows = gold_of(project, 6)
    judge(project, ann, rows[:3], "b")
    quality.resume(member=member(project, ann), reason="We have talked.", by=project.created_by, now=NOW)
    later = NOW + timedelta(hours=1)
    judge(project, ann, rows[3:5], "b", now=later)
    assert member(project, ann).paused_at is None
    judge(project, ann, rows[5:], "b", now=later)
    assert member(project, ann).paused_at == later
    assert AuditEvent.objects.get(action="member.resumed").details == {"reason": "We have talked."}


def test_passing_the_qualification_anew_lifts_a_pause_by_the_rule(project, ann):
    settings(project, pause_below=0.9, pause_min_gold=3, qualification_items=2)
    gold_for(project, GoldUse.QUALIFICATION, 2)
    take(project, ann, "aa", now=NOW - timedelta(hours=1))
    judge(project, ann, gold_of(project, 3), "b")
    assert member(project, ann).paused_at == NOW
    later = NOW + timedelta(hours=1)
    assert take(project, ann, "aa", now=later).passed
    assert member(project, ann).paused_at is None
    assert member(project, ann).judged_from == later
    event = AuditEvent.objects.get(action="member.resumed")
    assert (event.by, event.details) == (None, {"reason": "passed the qualification"})


def test_pausing_twice_for_one_reason_is_one_pause(project, ann):
    olga = project.created_by
    for _ in range(2):
        quality.pause(member=member(project, ann), reason="Too fast.", by=olga, now=NOW)
    with pytest.raises(AlreadyPaused):
        quality.pause(member=member(project, ann), reason="Too slow.", by=olga, now=NOW)
    quality.resume(member=member(project, ann), reason="All right.", by=olga, now=NOW)
    with pytest.raises(NotPaused):
        quality.resume(member=member(project, ann), reason="All right.", by=olga, now=NOW)
    with pytest.raises(NoQualification):
        quality.ask_to_requalify(member=member(project, ann), reason="Again.", by=olga, now=NOW)
    assert AuditEvent.objects.filter(action="member.paused").count() == 1


# --- after a vote -----------------------------------------------------------------------------------------------------


def test_an_ordinary_vote_costs_no_query_without_rules_and_one_with_feedback(project, ann, django_assert_num_queries):
    builders.comparisons(project, 1)
    vote = builders.vote(builders.lease(project, ann)[0]).vote
    vote.assignment.project  # noqa: B018  (the route has read it with the assignment)
    with django_assert_num_queries(0):
        after_vote(vote, now=NOW)
    settings(project, feedback_every=10)
    vote.assignment.project = project
    with django_assert_num_queries(1):
        after_vote(vote, now=NOW)


def test_a_vote_on_gold_costs_what_an_ordinary_one_costs(project, ann):
    settings(project, pause_below=0.5, pause_min_gold=2)
    builders.comparisons(project, 1, start=50)
    ordinary = builders.vote(builders.lease(project, ann)[0]).vote
    judge(project, ann, gold_of(project, 1), "a")
    hidden = Vote.objects.select_related("assignment__project").get(purpose="gold")
    costs = []
    for vote in (ordinary, hidden):
        vote.assignment.project = project
        with CaptureQueriesContext(connection) as queries:
            after_vote(vote, now=NOW)
        costs.append(len(queries))
    assert costs == [2, 2]


# --- feedback ---------------------------------------------------------------------------------------------------------


def test_feedback_comes_at_its_interval_and_tells_only_gold_that_is_answered(project, ann):
    settings(project, feedback_every=3)
    rows = gold_of(project, 5)
    judge(project, ann, rows[:1], "a")
    judge(project, ann, rows[1:2], "b")
    assert not FeedbackGiven.objects.exists()
    judge(project, ann, rows[2:3], "b")
    browser = world.client(ann)
    (told,) = browser.get("/api/v1/annotate/projects/helpful/feedback").json()["items"]
    assert (told["votes"], told["gold"]["value"], told["gold"]["n"]) == (3, pytest.approx(1 / 3), 3)
    assert [item["is_right"] for item in told["items"]] == [True, False, False]
    prompts = {item["prompt"][0]["content"] for item in told["items"]}
    assert prompts == {f"Prompt number {i}?" for i in (100, 101, 102)}
    for item in told["items"]:
        shown = item["completions"][0 if item["right"]["choice"] == "left" else 1]
        assert shown.startswith("First answer")
    assert told["read_at"] is None
    assert browser.post(f"/api/v1/annotate/projects/helpful/feedback/{told['id']}/read").status_code == 204
    assert FeedbackGiven.objects.get().read_at is not None


def test_the_next_feedback_tells_what_came_since(project, ann):
    settings(project, feedback_every=2)
    rows = gold_of(project, 4)
    judge(project, ann, rows[:2], "a")
    judge(project, ann, rows[2:], "b", now=NOW + timedelta(minutes=1))
    first, second = FeedbackGiven.objects.order_by("pk")
    assert (first.votes, second.votes) == (2, 4)
    assert not {item["vote"] for item in first.body["items"]} & {item["vote"] for item in second.body["items"]}


def test_gold_that_was_told_cannot_be_answered_again(project, ann):
    settings(project, feedback_every=1)
    judge(project, ann, gold_of(project, 1), "b")
    with pytest.raises(Frozen):
        retract(vote=Vote.objects.get(), by=ann, now=NOW)


def test_feedback_is_its_persons_own(project, ann):
    settings(project, feedback_every=1)
    judge(project, ann, gold_of(project, 1), "b")
    given = FeedbackGiven.objects.get()
    ben = world.client(builders.member(project, "ben"))
    assert ben.get("/api/v1/annotate/projects/helpful/feedback").json()["items"] == []
    assert ben.post(f"/api/v1/annotate/projects/helpful/feedback/{given.public_id}/read").status_code == 404


def test_nothing_tells_gold_from_ordinary_work_before_feedback(project, ann):
    """The same keys and kinds of values in task, receipt and own votes, and no route that knows the assignment."""
    (ordinary,) = builders.comparisons(project, 1)
    (task,) = builders.lease(project, ann, tab="t")
    hidden = give(gold_of(project, 1)[0], ann)
    assert task.comparison_id == ordinary.pk
    browser = world.client(ann)
    items = browser.post("/api/v1/annotate/projects/helpful/queue", {"tab": "t", "n": 2}, format="json").json()["items"]
    assert {item["assignment"] for item in items} == {str(task.public_id), str(hidden.public_id)}
    assert items[0].keys() == items[1].keys()
    assert items[0]["form"] == items[1]["form"]
    answers = []
    for item in items:
        answer = browser.post(
            f"/api/v1/annotate/assignments/{item['assignment']}/vote", {"choice": "left"}, format="json",
            headers={"Idempotency-Key": str(uuid4())},
        )  # fmt: skip
        answers.append((answer.status_code, sorted(answer.json()), answer.json()["counted"]))
        explained = browser.get(f"/api/v1/annotate/projects/helpful/practice/{item['assignment']}/explanation")
        assert explained.status_code == 404
    assert answers[0] == answers[1]
    assert browser.get("/api/v1/annotate/projects/helpful/feedback").json()["items"] == []


# --- objections -------------------------------------------------------------------------------------------------------


def object_to(browser, vote, text="It is cut off, but right."):
    return browser.post(f"{WORK}/votes/{vote}/objection", {"text": text}, format="json")


def test_an_objection_to_a_told_answer_is_kept_once_and_read_by_researchers(project, ann):
    settings(project, feedback_every=1)
    (row,) = gold_of(project, 1)
    judge(project, ann, [row], "b")
    browser, olga = world.client(ann), world.client(project.created_by)
    (item,) = browser.get(f"{WORK}/feedback").json()["items"][0]["items"]
    assert item["objection"] is None
    assert [object_to(browser, item["vote"]).status_code for _ in range(2)] == [204, 204]
    other = object_to(browser, item["vote"], "No.")
    assert (other.status_code, other.json()["code"]) == (409, "already_objected")
    (item,) = browser.get(f"{WORK}/feedback").json()["items"][0]["items"]
    assert item["objection"] == "It is cut off, but right."
    (told,) = olga.get(f"{API}/gold").json()["items"]
    (objection,) = told["objections"]
    assert objection["created_at"] is not None
    assert (objection["annotator"], objection["text"]) == (
        member(project, ann).pseudonym,
        "It is cut off, but right.",
    )


def test_an_objection_to_practice_needs_no_feedback(project, ann):
    settings(project, practice_items=1)
    (row,) = gold_for(project, GoldUse.PRACTICE, 1)
    vote = say(give(row, ann, Purpose.PRACTICE), "b")
    assert object_to(world.client(ann), vote.public_id).status_code == 204
    assert Objection.objects.get().gold == row.gold


def test_what_was_not_told_cannot_be_objected_to_so_it_tells_nothing_of_gold(project, ann):
    """The same answer for hidden gold, ordinary work, the work of others, and what does not exist."""
    settings(project, feedback_every=2)
    first, second, third = gold_of(project, 3)
    judge(project, ann, [first, second], "b")
    hidden = say(give(third, ann), "b", now=NOW + timedelta(minutes=1))
    builders.comparisons(project, 1)
    (task,) = builders.lease(project, ann, tab="t")
    ordinary = say(task, "a")
    told = Vote.objects.get(comparison=first)
    ben = builders.member(project, "ben")
    for browser, vote in ((ann, hidden.public_id), (ann, ordinary.public_id), (ben, told.public_id), (ann, uuid4())):
        assert object_to(world.client(browser), vote).status_code == 404
    assert object_to(world.client(builders.user("stan")), told.public_id).status_code == 404
    assert not Objection.objects.exists()


@pytest.mark.parametrize("text", ["", " ", "x" * 1001])
def test_an_objection_without_words_or_with_too_many_is_refused_by_name(project, ann, text):
    settings(project, feedback_every=1)
    judge(project, ann, gold_of(project, 1), "b")
    refused = object_to(world.client(ann), Vote.objects.get().public_id, text)
    assert (refused.status_code, list(refused.json()["details"])) == (400, ["text"])


# --- references -------------------------------------------------------------------------------------------------------


def test_a_reference_has_no_slot_and_another_answer_replaces_it(project):
    (row,) = builders.comparisons(project)
    olga = project.created_by
    first = record_reference(comparison=row, by=olga, answer=Answer(choice="left"), now=NOW)
    assert record_reference(comparison=row, by=olga, answer=Answer(choice="left"), now=NOW) == first
    second = record_reference(comparison=row, by=olga, answer=Answer(choice="tie"), now=NOW)
    assert (first.choice, second.choice, second.replaces.vote) == ("a", "tie", first)
    assert (first.purpose, first.assignment) == (Purpose.REFERENCE, None)
    assert Slot.objects.filter(state="open").count() == 3
    assert len(builders.lease(project, olga)) == 1  # the researcher may annotate it too


def test_agreement_with_references_is_counted_for_people_and_for_the_consensus(project):
    """Votes a a b on four comparisons, references a a b b: the two who say a are right on half, as is the third."""
    rows = builders.settled(project, 4, letters="aab")
    for row, side in zip(rows, ("left", "left", "right", "right"), strict=True):
        record_reference(comparison=row, by=project.created_by, answer=Answer(choice=side), now=NOW)
    found = reference_agreement(project)
    assert found.references == 4
    assert found.consensus.percent == wilson(2, 4)
    assert found.consensus.kappa.value == 0
    assert [person.percent.value for person in found.people.values()] == [0.5] * 3
    assert settle_due(now=NOW) == 0  # a reference changes no consensus


# --- routes -----------------------------------------------------------------------------------------------------------


def test_the_table_and_the_page_of_a_person(project, ann):
    olga = world.client(project.created_by)
    judge(project, ann, gold_of(project, 4), "a")
    rows = olga.get(f"{API}/annotators").json()["items"]
    (row,) = [row for row in rows if row["name"] == "ann"]
    assert (row["record"]["gold"]["value"], row["record"]["votes"]) == (1.0, 4)
    page = olga.get(f"{API}/annotators/{row['id']}").json()
    assert (len(page["buckets"]), len(page["votes"])) == (4, 4)
    assert page["votes"][0]["purpose"] == "gold"
    assert sum(sum(line.values()) for line in page["confusion"].values()) == 4
    quality_now = olga.get(f"{API}/quality").json()
    assert quality_now["gold"]["value"] == 1.0
    assert quality_now["live_gold"] == {"hidden": 4, "practice": 0, "qualification": 0}


def test_a_manager_pauses_resumes_and_asks_to_requalify_with_a_reason(project, ann):
    max_ = world.client(builders.member(project, "max", Role.MANAGER))
    address = f"{API}/annotators/{ann.public_id}"
    assert max_.post(f"{address}/pause", {}, format="json").json()["details"]["reason"]
    assert max_.post(f"{address}/pause", {"reason": "Too fast."}, format="json").json()["pause_reason"] == "Too fast."
    mine = "/api/v1/annotate/projects/helpful"
    queue = world.client(ann).post(f"{mine}/queue", {"tab": "t", "n": 1}, format="json").json()
    assert queue["done"] == "person_paused"
    standing = world.client(ann).get(f"{mine}/onboarding").json()
    assert (standing["next"], standing["pause_reason"]) == ("paused", "Too fast.")
    assert max_.post(f"{address}/resume", {"reason": "Fine."}, format="json").json()["paused_at"] is None
    assert max_.post(f"{address}/requalify", {"reason": "x"}, format="json").json()["code"] == "no_qualification"
    settings(project, qualification_items=2)
    assert max_.post(f"{address}/requalify", {"reason": "x"}, format="json").json()["requalify_at"]
    assert list(AuditEvent.objects.order_by("pk").values_list("action", flat=True)[1:]) == [
        "member.paused", "member.resumed", "member.asked_to_requalify",
    ]  # fmt: skip


def test_gold_is_given_built_promoted_explained_and_retired_by_its_routes(project):
    olga = world.client(project.created_by)
    rows = builders.comparisons(project, 2)
    given = olga.post(
        f"{API}/gold",
        {"comparison": str(rows[0].public_id), "answer": {"choice": "a"}, "use": "practice"},
        format="json",
    )
    assert (given.status_code, given.json()["origin"], given.json()["use"]) == (201, "given", "practice")
    texts = {"prompt": [{"role": "user", "content": "2 + 2?"}], "completions": ["4", "5"], "answer": {"choice": "a"}}
    assert olga.post(f"{API}/gold", texts, format="json").json()["completions"] == ["4", "5"]
    assert olga.post(f"{API}/gold", texts, format="json").json()["code"] == "known_comparison"
    bad = olga.post(f"{API}/gold", texts | {"answer": {"choice": "c"}}, format="json")
    assert (bad.status_code, list(bad.json()["details"])) == (400, ["answer.choice"])
    assert olga.post(f"{API}/gold", {"answer": {"choice": "a"}}, format="json").status_code == 400
    built = olga.post(f"{API}/gold/construct", {"kinds": ["wrong_language"], "n": 2}, format="json")
    assert built.json() == {"made": 0}  # the texts are too short
    assert olga.post(f"{API}/gold/promote", {}, format="json").json() == {"made": 0}
    address = f"{API}/gold/{given.json()['id']}"
    assert olga.patch(address, {"explanation": "See 2.3."}, format="json").json()["explanation"] == "See 2.3."
    assert olga.post(f"{address}/retire").json()["retired_at"]
    listed = olga.get(f"{API}/gold?retired=no").json()["items"]
    assert [item["completions"] for item in listed] == [["4", "5"]]
    assert olga.get(f"{API}/gold?use=nonsense").status_code == 400


def test_the_list_of_gold_tells_how_often_it_was_answered_rightly(project, ann):
    rows = gold_of(project, 2)
    judge(project, ann, rows, "a")
    judge(project, builders.member(project, "ben"), rows, "b")
    listed = world.client(project.created_by).get(f"{API}/gold").json()["items"]
    assert [(item["right"], item["answers"]) for item in listed] == [(1, 2), (1, 2)]


def test_a_reference_is_given_as_on_the_screen_with_a_on_the_left(project):
    (row,) = builders.comparisons(project)
    olga = world.client(project.created_by)
    address = f"{API}/comparisons/{row.public_id}/reference"
    answer = olga.post(address, {"answer": {"choice": "right"}}, format="json")
    assert answer.json()["answer"]["choice"] == "right"
    assert Vote.objects.get().choice == "b"
    assert olga.get(f"{API}/agreement/reference").json()["references"] == 1
    assert olga.post(address, {"answer": {"choice": "up"}}, format="json").status_code == 400


def test_annotators_and_strangers_reach_none_of_it(project, ann):
    stan = builders.user("stan")
    made = gold.give(
        comparison=builders.comparisons(project)[0], answer={"choice": "a"}, use=GoldUse.HIDDEN, explanation="",
        by=project.created_by, now=NOW,
    )  # fmt: skip
    reads = ["gold", "annotators", f"annotators/{ann.public_id}", "quality", "agreement/reference"]
    writes = [
        "gold", "gold/construct", "gold/promote", f"gold/{made.public_id}/retire", f"annotators/{ann.public_id}/pause",
        f"annotators/{ann.public_id}/resume", f"annotators/{ann.public_id}/requalify",
        f"comparisons/{made.comparison.public_id}/reference",
    ]  # fmt: skip
    for person, status in ((stan, 404), (ann, 403)):
        browser = world.client(person)
        assert {browser.get(f"{API}/{path}").status_code for path in reads} == {status}
        assert {browser.post(f"{API}/{path}", {}, format="json").status_code for path in writes} == {status}
    vera = world.client(builders.member(project, "vera", Role.VIEWER))
    assert {vera.get(f"{API}/{path}").status_code for path in reads} == {200}
    assert {vera.post(f"{API}/{path}", {}, format="json").status_code for path in writes} == {403}
