"""Prompts and votes from JSON Lines: every bad line is named, nothing half-imported, and a second time adds nothing."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from annotation.consensus import settle_due
from annotation.importing.batches import import_lines
from annotation.importing.reading import MOST_LINE
from annotation.importing.rows import BadRows, ImportKind
from annotation.models import (
    Comparison,
    Completion,
    Consensus,
    ConsensusState,
    ImportBatch,
    Membership,
    Prompt,
    Slot,
    SlotState,
    User,
    Vote,
)
from tests import builders, world
from tests.builders import NOW

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return builders.project()


def load(project, lines, kind=ImportKind.PROMPTS, **fields):
    rows = [line if isinstance(line, (str, bytes)) else json.dumps(line) for line in lines]
    return import_lines(project=project, kind=kind, lines=rows, by=project.created_by, now=NOW, **fields)


def row(**fields):
    return {
        "id": "p1", "prompt": "Why?", "response_a": "Because.", "response_b": "Why not?",
        "votes": [{"annotator": "x", "choice": "a"}, {"annotator": "y", "choice": "tie", "reason": "Same."}],
        "meta": {"model_a": "m1", "model_b": "m2"},
    } | fields  # fmt: skip


def errors_of(project, line, kind=ImportKind.PROMPTS):
    with pytest.raises(BadRows) as caught:
        load(project, [{"prompt": "Good."} if kind is ImportKind.PROMPTS else row(), line], kind)
    assert not ImportBatch.objects.exists()
    assert not Prompt.objects.exists()
    (error,) = caught.value.errors
    assert error.line == 2
    assert str(caught.value).startswith("line 2")
    assert str(caught.value).endswith("Nothing was imported.")
    return error


def test_prompts_come_in_as_text_and_as_conversations(project):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Why?"},
    ]
    lines = [{"prompt": "Naïve “quotes”\u2028one line", "category": "chat", "id": "7"}, {"prompt": turns}]
    batch = load(project, [*lines, "", "   "])
    assert (batch.rows, batch.imported, batch.duplicates, batch.skipped) == (2, 2, 0, 0)
    first, second = Prompt.objects.order_by("pk")
    assert first.messages == [{"role": "user", "content": "Naïve “quotes”\u2028one line"}]
    assert (first.category, first.external_id) == ("chat", "7")
    assert second.messages == turns
    assert (second.category, second.external_id) == ("", "")


def test_optional_fields_may_be_null(project):
    assert load(project, [{"prompt": "x", "category": None, "id": None}]).imported == 1


@pytest.mark.parametrize(
    ("line", "field", "said"),
    [
        ("{", "", "not JSON"),
        ("[1]", "", "must be a JSON object"),
        ('"text"', "", "must be a JSON object"),
        ({}, "prompt", "missing"),
        ({"prompt": ""}, "prompt", "empty"),
        ({"prompt": "  \n"}, "prompt", "empty"),
        ({"prompt": 7}, "prompt", "text"),
        ({"prompt": []}, "prompt", "user's"),
        ({"prompt": [{"role": "assistant", "content": "x"}]}, "prompt", "user's"),
        ({"prompt": ["x"]}, "prompt[0]", "role and content"),
        ({"prompt": [{"role": "user", "content": "x", "name": "y"}]}, "prompt[0]", "role and content"),
        ({"prompt": [{"role": "tool", "content": "x"}]}, "prompt[0].role", "system, user, assistant"),
        ({"prompt": [{"role": ["user"], "content": "x"}]}, "prompt[0].role", "one of"),
        ({"prompt": [{"role": "user", "content": " "}]}, "prompt[0].content", "not empty"),
        ({"prompt": [{"role": "user", "content": None}]}, "prompt[0].content", "not empty"),
        ({"prompt": "x", "category": 1}, "category", "text"),
        ({"prompt": "x", "category": "c" * 81}, "category", "at most 80"),
        ({"prompt": "x", "id": "i" * 201}, "id", "at most 200"),
        ('{"prompt": NaN}', "", "NaN"),
        ('{"prompt": "x", "meta": {"score": -Infinity}}', "", "Infinity"),
        ('{"prompt": "x", "meta": {"score": 1e999}}', "meta.score", "too large"),
        ('{"prompt": "a\\u0000b"}', "prompt", "NUL"),
        ('{"prompt": "x", "a\\u0000": 1}', "", "NUL"),
        ('{"prompt": "\\ud800"}', "prompt", "surrogate"),
        ('{"prompt": "x", "deep": ' + "[" * 70 + "]" * 70 + "}", "deep", "nested"),
        ('{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}", "", "nested"),
        (b'{"prompt": "\xff"}', "", "UTF-8"),
        ('{"prompt": "x", "n": ' + "1" * 5000 + "}", "", "not JSON"),
        (json.dumps({"prompt": "x" * MOST_LINE}), "", "longer than"),
    ],
)
def test_a_bad_prompt_is_named_by_line_field_and_value(project, line, field, said):
    error = errors_of(project, line)
    assert said in error.message
    if error.field != field:  # a deep path is shortened
        assert field
        assert error.field.startswith(field)
    assert len(error.value) <= 120


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"prompt": None}, "prompt", "missing"),
        ({"response_a": None}, "response_a", "missing"),
        ({"response_b": " "}, "response_b", "empty"),
        ({"response_b": "Because. ", "votes": []}, "response_b", "differ"),
        ({"votes": None}, "votes", "list"),
        ({"votes": {}}, "votes", "list"),
        ({"votes": ["a"]}, "votes[0]", "object"),
        ({"votes": [{"choice": "a"}]}, "votes[0].annotator", "name"),
        ({"votes": [{"annotator": "", "choice": "a"}]}, "votes[0].annotator", "name"),
        ({"votes": [{"annotator": "z" * 61, "choice": "a"}]}, "votes[0].annotator", "60"),
        ({"votes": [{"annotator": 3, "choice": "a"}]}, "votes[0].annotator", "name"),
        ({"votes": [{"annotator": "x", "choice": "left"}]}, "votes[0].choice", "a, tie, b"),
        ({"votes": [{"annotator": "x", "choice": ["a"]}]}, "votes[0].choice", "a, tie, b"),
        ({"votes": [{"annotator": "x", "choice": "a"}] * 2}, "votes[1].annotator", "twice"),
    ],
)
def test_a_bad_vote_is_named_by_line_field_and_value(project, change, field, said):
    error = errors_of(project, row(id="p2", **change), ImportKind.VOTES)
    assert error.field == field
    assert said in error.message


def test_all_bad_lines_are_reported_at_once(project):
    with pytest.raises(BadRows) as caught:
        load(project, ["{"] * 150 + [{"prompt": "x"}])
    assert len(caught.value.details["errors"]) == 100
    assert caught.value.details["refused"] == 150


def test_bad_lines_may_be_skipped_and_are_written_down(project):
    batch = load(project, ["{", {"prompt": "x"}, {}], skip_bad_rows=True)
    assert (batch.rows, batch.imported, batch.skipped) == (3, 1, 2)
    assert [error["line"] for error in batch.errors] == [1, 3]
    with pytest.raises(BadRows):
        load(project, ["{"], skip_bad_rows=True)


@pytest.mark.parametrize("lines", [[], [""], ["\n", "  "]])
def test_a_file_without_rows_is_refused(project, lines):
    with pytest.raises(BadRows, match="no rows"):
        load(project, lines)


def test_importing_again_adds_nothing(project):
    lines = [{"prompt": "x"}, {"prompt": "y"}, {"prompt": "x"}]
    first = load(project, lines)
    assert (first.imported, first.duplicates) == (2, 1)
    again = load(project, lines)
    assert (again.imported, again.duplicates) == (0, 3)
    assert Prompt.objects.count() == 2
    rows = [row(), row(id="p2"), row()]
    first = load(project, rows, ImportKind.VOTES)
    assert (first.imported, first.duplicates) == (2, 1)
    before = (Vote.objects.count(), Completion.objects.count(), Slot.objects.count())
    again = load(project, rows, ImportKind.VOTES)
    assert (again.imported, again.duplicates) == (0, 3)
    assert (Vote.objects.count(), Completion.objects.count(), Slot.objects.count()) == before == (4, 2, 4)


def test_imported_votes_are_votes_of_people_who_cannot_sign_in(project):
    load(project, [row(), row(id="p2", votes=[{"annotator": "x", "choice": "b"}])], ImportKind.VOTES)
    settle_due(now=NOW)
    assert Vote.objects.count() == 3
    assert Slot.objects.exclude(state=SlotState.DONE).count() == 0
    assert Counter(Comparison.objects.values_list("overlap", flat=True)) == {2: 1, 1: 1}
    imported = User.objects.filter(is_active=False)
    assert set(imported.values_list("name", flat=True)) == {"x", "y"}
    assert not any(person.has_usable_password() for person in imported)
    assert Vote.objects.get(choice="tie").body == {"rationale": "Same."}
    assert set(Consensus.objects.values_list("state", flat=True)) == {ConsensusState.DISPUTED, ConsensusState.SETTLED}
    assert {place.completion.source.name for place in Comparison.objects.first().places.all()} == {"m1", "m2"}


def test_a_comparison_without_votes_waits_for_the_projects_annotators(project):
    load(project, [row(votes=[])], ImportKind.VOTES)
    assert Slot.objects.filter(state=SlotState.OPEN).count() == project.overlap


def test_an_annotator_named_like_a_members_pseudonym_is_a_member_all_the_same(project):
    load(project, [row(votes=[{"annotator": "person-01", "choice": "a"}])], ImportKind.VOTES)
    person = Vote.objects.get().annotator
    assert Membership.objects.filter(project=project, user=person).exists()
    load(project, [row(id="p9", votes=[{"annotator": "person-04", "choice": "a"}])], ImportKind.VOTES)
    builders.member(project, "dan")  # whose number, by joining, would be the fourth


def test_the_api_says_what_came_in_and_what_was_refused(project):
    olga = world.client(project.created_by)

    def send(body, query):
        return olga.generic(
            "POST", f"/api/v1/projects/helpful/imports?{query}", body, content_type="application/x-ndjson"
        )

    answer = send('{"prompt": "x"}\r\n{"prompt": "y\u2028z"}\n', "kind=prompts")
    assert answer.status_code == 201
    assert {key: answer.json()[key] for key in ("rows", "imported", "errors")} == {
        "rows": 2,
        "imported": 2,
        "errors": [],
    }
    refused = send('{"prompt": "q"}\n{"prompt": 5}\n', "kind=prompts")
    assert (refused.status_code, refused.json()["code"]) == (400, "bad_rows")
    assert refused.json()["details"]["errors"] == [
        {"line": 2, "field": "prompt", "value": "5", "message": "prompt must be a text"}
    ]
    assert send('{"prompt": "q"}\n{"prompt": 5}\n', "kind=prompts&on_error=skip").json()["skipped"] == 1
    assert send("", "kind=prompts").json()["code"] == "bad_rows"
    assert send("{}", "kind=texts").json()["details"]["kind"]
    assert send("{}", "kind=prompts&on_error=ignore").json()["details"]["on_error"]


def test_prompts_are_found_by_words_that_json_escapes(project):
    load(project, [{"prompt": 'Warum "für"\nmich?'}, {"prompt": "Other"}])
    olga = world.client(project.created_by)
    for word in ("für", '"für"', '"\nmich', "WARUM"):
        found = olga.get("/api/v1/projects/helpful/prompts", {"q": word}).json()["items"]
        assert len(found) == 1, word


def test_the_pandalm_votes_give_the_published_agreement(test_data, project):
    body = (test_data / "multi_annotator" / "pandalm.jsonl").read_bytes()
    olga = world.client(project.created_by)
    address = "/api/v1/projects/helpful/imports?kind=votes"
    answer = olga.generic("POST", address, body, content_type="application/x-ndjson")
    assert answer.status_code == 201, answer.content
    assert (answer.json()["rows"], answer.json()["imported"]) == (686, 686)
    settle_due(now=NOW, limit=10_000)
    overview = olga.get("/api/v1/projects/helpful/overview").json()
    counts = overview["counts"]
    assert (counts["comparisons"], counts["votes"], counts["prompts"], counts["surplus"]) == (686, 2058, 123, 0)
    assert counts["settled"] + counts["disputed"] == 686
    assert round(overview["agreement"]["unanimous"]["value"], 3) == 0.869
    assert round(overview["agreement"]["alpha"]["value"], 3) == 0.849
    assert [person["votes"] for person in overview["people"]] == [686, 686, 686, 0]
    shares = Counter(Vote.objects.values_list("choice", flat=True))
    assert [round(shares[choice] / 2058, 3) for choice in ("a", "b", "tie")] == [0.398, 0.504, 0.098]


def test_the_tulu_votes_come_in_with_their_different_numbers(test_data, project):
    lines = (test_data / "multi_annotator" / "tulu.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    batch = import_lines(project=project, kind=ImportKind.VOTES, lines=lines, by=None, now=NOW)
    assert (batch.rows, batch.imported, batch.duplicates) == (736, 736, 0)
    assert Vote.objects.count() == 838
    assert Prompt.objects.count() == len({record["prompt"] for record in records}) == 246
    assert Counter(Comparison.objects.values_list("overlap", flat=True)) == {1: 652, 2: 66, 3: 18}
    assert Membership.objects.filter(project=project).count() == 16 + 1
    again = import_lines(project=project, kind=ImportKind.VOTES, lines=lines, by=None, now=NOW)
    assert (again.imported, again.duplicates) == (0, 736)
