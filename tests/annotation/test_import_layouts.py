"""Every layout: the examples of docs/FORMATS.md go in, the real rating files too, and what is bad is named."""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotation.consensus import settle_due
from annotation.feedback import Criterion, FeedbackKind, Form
from annotation.importing.batches import Incoming, import_file, import_lines
from annotation.importing.reading import FileFormat
from annotation.importing.rows import BadRows, ImportKind
from annotation.models import (
    Audience,
    Comparison,
    Completion,
    Consensus,
    Membership,
    Prompt,
    Slot,
    SlotState,
    SourceKind,
    Vote,
)
from tests import builders
from tests.builders import NOW
from winnow.env import BASE_DIR

pytestmark = pytest.mark.django_db


def examples():
    found = defaultdict(list)
    text = (BASE_DIR / "docs" / "FORMATS.md").read_text(encoding="utf-8")
    for kind, body in re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.M | re.S):
        found[kind] += body.splitlines()
    return found


def load(project, kind, *rows, skip=False):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    return import_lines(
        project=project, kind=ImportKind(kind), lines=lines, by=project.created_by, skip_bad_rows=skip, now=NOW
    )


def error_of(project, kind, row):
    with pytest.raises(BadRows) as caught:
        load(project, kind, row)
    (error,) = caught.value.errors
    return error


@pytest.fixture
def project():
    return builders.project()


@pytest.mark.parametrize("kind", [item.value for item in ImportKind])
def test_the_examples_of_the_documentation_go_in(project, kind, tmp_path):
    lines = examples()[kind]
    assert lines, f"docs/FORMATS.md has no example of {kind}"
    if kind == "votes":  # the second example is about the first one's comparison
        assert load(project, kind, *lines[:1]).imported == 1
        lines = lines[1:]
    batch = load(project, kind, *lines)
    assert (batch.imported, batch.duplicates, batch.skipped) == (len(lines), 0, 0)
    again = load(project, kind, *lines)
    assert (again.imported, again.duplicates) == (0, len(lines))
    array = tmp_path / "array.json"
    array.write_text("[" + ",\n".join(lines) + "]")
    incoming = Incoming(kind=ImportKind(kind), path=array, file_format=FileFormat.JSON)
    assert import_file(project=project, incoming=incoming, by=None, now=NOW).duplicates == len(lines)
    settle_due(now=NOW)


def test_completions_have_their_source_and_how_they_were_sampled(project):
    load(project, "completions", *examples()["completions"])
    first, human, other = Completion.objects.order_by("pk")
    assert (first.source.name, first.source.kind, first.external_id) == ("sft-1", SourceKind.POLICY, "y1")
    assert (first.sampling["temperature"], first.tokens, first.logprob) == (0.7, 8, -11.5)
    assert first.scores.get().value == 0.8
    assert (human.source.kind, other.source.name) == (SourceKind.HUMAN, "imported")
    load(
        project, "completions", {"prompt_id": "none", "text": "x"}, {"prompt": "Q?", "id": "q", "text": "A"}, skip=True
    )
    assert error_of(project, "completions", {"prompt_id": "none", "text": "x"}).field == "prompt_id"


def test_the_same_completion_is_one_row_and_an_id_tells_twins_apart(project):
    row = {"prompt": "Q?", "text": "A", "source": "m"}
    load(project, "completions", row, row, {**row, "source": "n"}, {**row, "id": "t1"}, {**row, "id": "t2"})
    assert Completion.objects.count() == 4
    assert load(project, "completions", row, {**row, "id": "t1"}, {**row, "id": "t2"}).imported == 0
    other = {"prompt": "Q?", "text": "B", "source": "m", "id": "t1"}  # the id is A's
    assert load(project, "completions", other).imported == 1
    assert load(project, "completions", other).imported == 0


def test_preferences_are_votes_of_who_published_them(project):
    load(project, "pairs", *examples()["pairs"])
    assert Comparison.objects.count() == 5
    assert Slot.objects.filter(state=SlotState.OPEN).count() == project.overlap
    assert set(Vote.objects.values_list("annotator__name", flat=True)) == {"published", "lab-1"}
    for vote in Vote.objects.all():
        places = {"ab"[place.position]: place.completion.text for place in vote.comparison.places.all()}
        assert places[vote.choice] in {"An apple.", "An oak.", "The Rhine.", "The North Sea."}
    rows = [{"prompt": f"Q{i}?", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(40)]
    load(project, "pairs", *rows)
    sides = [vote.choice for vote in Vote.objects.filter(comparison__prompt__messages__0__content__startswith="Q")]
    assert 8 < sides.count("a") < 32


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"chosen": "x", "rejected": "y"}, "prompt"),
        ({"prompt": "Q", "chosen": "x"}, "rejected"),
        ({"prompt": "Q", "chosen": "x", "rejected": [{"role": "assistant", "content": "y"}]}, "rejected"),
        ({"prompt": "Q", "chosen": [{"role": "user", "content": "x"}], "rejected": []}, "chosen"),
        ({"prompt": "Q", "chosen": "x", "rejected": "y", "annotator": "z" * 61}, "annotator"),
        ({"prompt": "Q", "response_a": "x", "response_b": "x "}, "response_b"),
        ({"chosen": "\n\nHuman: Q\n\nAssistant: x", "rejected": "\n\nHuman: R\n\nAssistant: y"}, "rejected"),
    ],
)
def test_a_bad_pair_is_named(project, row, field):
    assert error_of(project, "pairs", row).field == field


def test_comparisons_want_what_they_say_of_whom_they_say(project):
    load(project, "comparisons", *examples()["comparisons"])
    first, second = Comparison.objects.order_by("pk")
    assert (first.overlap, first.priority, first.audience) == (5, 2, "lang:en skill:geography")
    assert set(first.slots.values_list("priority", "audience")) == {(4, first.audience)}
    assert Audience.objects.filter(project=project, key=first.audience).exists()
    assert second.slots.get().vote.body == {"rationale": "Better known."}
    assert Consensus.objects.get(comparison=second).due_at == NOW


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"completions": ["x"]}, "completions"),
        ({"completions": ["x", "x"]}, "completions"),
        ({"completions": ["x", {"text": ""}]}, "completions[1].text"),
        ({"completions": ["x", "y", "z"]}, "completions"),
        ({"completion_ids": ["n1", "n2"]}, "completion_ids"),
        ({"completion_ids": ["n1", "n1"]}, "completion_ids"),
        ({"completions": ["x", "y"], "overlap": 100}, "overlap"),
        ({"completions": ["x", "y"], "skills": ["two words"]}, "skills"),
        ({"completions": ["x", "y"], "audience": "person:1"}, "audience"),
        ({"completions": ["x", "y"], "votes": [{"annotator": "w"}]}, "votes[0].choice"),
        ({"completions": ["x", "y"], "votes": [{"annotator": "w", "scale": 9, "points": 5}]}, "votes[0].scale"),
        ({"completions": ["x", "y"], "votes": [{"annotator": "w", "choice": "a", "scale": 5, "points": 5}]},
         "votes[0].choice"),
        ({"completions": ["x", "y"], "votes": [{"annotator": "w", "answer": {"ranking": [["a"]]}}]},
         "votes[0].ranking"),
        ({"completions": ["x", "y"], "votes": [{"annotator": "w", "answer": {"evil": 1}}]}, "votes[0].answer.evil"),
    ],
)  # fmt: skip
def test_a_bad_comparison_is_named(project, row, field):
    assert error_of(project, "comparisons", {"prompt": "Q?", **row}).field == field


def test_completions_of_another_prompt_do_not_meet(project):
    load(project, "completions", {"prompt": "P", "id": "1", "text": "x"}, {"prompt": "Q", "id": "2", "text": "y"})
    assert "another prompt" in error_of(project, "comparisons", {"prompt": "P", "completion_ids": ["1", "2"]}).message


def test_a_flat_vote_takes_a_free_slot_and_is_surplus_without(project):
    load(project, "comparisons", {"id": "c", "prompt": "Q?", "completions": ["x", "y"], "overlap": 2})
    votes = [{"comparison_id": "c", "annotator": f"w{i}", "choice": "a"} for i in range(4)]
    batch = load(project, "votes", *votes, votes[0])
    assert (batch.imported, batch.duplicates) == (4, 1)
    assert Slot.objects.filter(state=SlotState.DONE).count() == 2
    load(project, "votes", {"comparison_id": "c", "annotator": "w9", "choice": "b", "counted": True})
    assert Slot.objects.filter(state=SlotState.DONE).count() == 3
    Comparison.objects.update(frozen_at=NOW)
    load(project, "votes", {"comparison_id": "c", "annotator": "w10", "choice": "b", "counted": True})
    assert (Slot.objects.count(), Vote.objects.count()) == (3, 6)
    assert error_of(project, "votes", {"comparison_id": "?", "annotator": "w", "choice": "a"}).field == "comparison_id"


def test_a_vote_that_replaces_one_that_stands_is_refused(project):
    load(project, "comparisons", {"id": "c", "prompt": "Q?", "completions": ["x", "y"]})
    first = {"id": "v1", "comparison_id": "c", "annotator": "w", "choice": "a"}
    again = {"id": "v2", "comparison_id": "c", "annotator": "w", "choice": "b", "replaces": "v1"}
    batch = load(project, "votes", first, again, skip=True)
    assert (batch.imported, batch.skipped, batch.errors[0]["field"]) == (1, 1, "replaces")


def test_tulus_strength_is_a_point_of_a_scale(project, test_data):
    with (test_data / "multi_annotator" / "tulu.jsonl").open() as handle:
        lines = list(itertools.islice(handle, 60))
    load(project, "votes", *lines)
    given = [vote for line in lines for vote in json.loads(line)["votes"]]
    clear = [vote for vote in given if vote.get("strength") == "clear" and vote["choice"] != "tie"]
    assert Vote.objects.filter(body__scale__in=[1, 5]).count() == len(clear) > 0


def test_squality_comes_in_as_rankings_and_as_ratings(test_data):
    path = test_data / "ratings" / "squality.jsonl"
    ranking = builders.project(slug="ranking", form=Form(kind=FeedbackKind.RANKING, size=3))
    incoming = Incoming(kind=ImportKind.RATINGS, path=path)
    batch = import_file(project=ranking, incoming=incoming, by=None, now=NOW)
    assert (batch.imported, Vote.objects.filter(project=ranking).count()) == (70, 210)
    criteria = tuple(Criterion(key=key, label=key) for key in ("correctness", "selection", "overall"))
    rating = builders.project(slug="rating", form=Form(kind=FeedbackKind.RATING, size=3, criteria=criteria))
    records = [json.loads(line) for line in path.read_text().splitlines()]
    outside = sum(any(not 1 <= item["value"] <= 100 for item in record["ratings"]) for record in records)
    with pytest.raises(BadRows, match="from 1 to 100"):  # some people gave 0, which is not on the scale
        import_file(project=rating, incoming=incoming, by=None, now=NOW)
    some = Incoming(kind=ImportKind.RATINGS, path=path, skip_bad_rows=True)
    assert import_file(project=rating, incoming=some, by=None, now=NOW).skipped == outside > 0
    vote = Vote.objects.filter(project=rating).first()
    assert vote.body["points"] == 100
    assert set(vote.body["ratings"]["a"]) == {"correctness", "selection", "overall"}
    pairs = builders.project(slug="pairs")
    import_file(project=pairs, incoming=incoming, by=None, now=NOW)
    assert Comparison.objects.filter(project=pairs).count() == 210
    while settle_due(now=NOW):
        pass
    assert Consensus.objects.filter(project=ranking).exclude(details={}).count() == 70


def test_the_other_real_ratings_come_in(test_data):
    for name, form, votes in (("qa_feedback", Form(), 6), ("alce", Form(kind=FeedbackKind.RATING, size=4), 1)):
        project = builders.project(slug=name.replace("_", "-"), form=form)
        path = test_data / "ratings" / f"{name}.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
        empty = sum(any(not item["text"].strip() for item in record["responses"]) for record in records)
        incoming = Incoming(kind=ImportKind.RATINGS, path=path, skip_bad_rows=True)
        batch = import_file(project=project, incoming=incoming, by=None, now=NOW)
        assert (batch.imported, batch.skipped) == (len(records) - empty, empty)
        assert Vote.objects.filter(project=project).count() == votes * batch.imported
    single = builders.project(slug="single", form=Form(kind=FeedbackKind.RATING, size=1))
    with (test_data / "ratings" / "halueval.jsonl").open() as handle:
        load(single, "ratings", *itertools.islice(handle, 50))
    assert Vote.objects.filter(project=single).count() == 50


def test_an_api_log_has_a_completion_of_each_choice(project):
    load(project, "api_log", *examples()["api_log"])
    assert sorted(Completion.objects.values_list("text", "finish", "source__name")) == [
        ("Helium.", "end", "gpt-x"), ("Iron.", "end", "gpt-x-2"), ("Neon.", "length", "gpt-x"),
    ]  # fmt: skip
    assert Completion.objects.get(text="Iron.").sampling == {"temperature": 0.2}
    tool = {"messages": [{"role": "user", "content": "x"}], "choices": [{"message": {"tool_calls": [{}]}}]}
    assert error_of(project, "api_log", tool).field == "choices[0].message"
    assert error_of(project, "api_log", {"messages": [{"role": "user", "content": "x"}]}).field == "choices"


def test_label_studios_ranker_is_a_ranking():
    project = builders.project(form=Form(kind=FeedbackKind.RANKING, size=3))
    items = [{"id": key, "title": key, "body": f"Body of {key}"} for key in ("blog", "mdn", "wiki")]
    task = {
        "id": 1, "data": {"prompt": "Rank.", "items": items},
        "annotations": [{"completed_by": {"id": 5, "email": "a@example.org"}, "result": [
            {"type": "ranker", "value": {"ranker": {"rank": ["wiki", "blog", "mdn"]}}},
            {"type": "textarea", "value": {"text": ["Wiki is", "best."]}},
        ]}],
    }  # fmt: skip
    load(project, "label_studio", task)
    vote = Vote.objects.get()
    assert vote.body == {"ranking": [["c"], ["a"], ["b"]], "rationale": "Wiki is best."}
    assert Membership.objects.get(project=project, user=vote.annotator).pseudonym == "label-studio-5"
    task["annotations"][0]["result"][0]["value"] = {"ranker": {"rank": ["wiki"]}}
    assert "ranker" in error_of(project, "label_studio", {**task, "id": 2}).field


def test_argillas_rankings_and_ratings():
    ranking = builders.project(slug="ranking", form=Form(kind=FeedbackKind.RANKING, size=3))
    fields = {"prompt": "Q?", **{f"response-{i}": f"Answer {i}" for i in (1, 2, 3)}}
    order = [{"value": "response-3", "rank": 1}, {"value": "response-1", "rank": 2}, {"value": "response-2", "rank": 2}]
    record = {"id": "1", "fields": fields, "responses": {"order": [{"value": order, "user_id": "u"}]}}
    load(ranking, "argilla", record)
    assert Vote.objects.get().body == {"ranking": [["c"], ["a", "b"]]}
    rating = builders.project(slug="rating", form=Form(kind=FeedbackKind.RATING, size=3))
    given = {f"quality-{i}": [{"value": i, "user_id": "u"}] for i in (1, 2, 3)}
    load(rating, "argilla", {**record, "responses": given})
    body = Vote.objects.get(project=rating).body
    assert body == {"points": 5, "ratings": {"abc"[i - 1]: {"quality": i} for i in (1, 2, 3)}}


def test_columns_are_renamed_in_every_format(project, tmp_path):
    (tmp_path / "x.csv").write_text("question,kind\nWhy?,=1+1\n'=Why?,\n")
    (tmp_path / "x.jsonl").write_text('{"data": {"q": "Nested?"}}\n')
    pq.write_table(pa.table({"question": ["From Parquet?"], "n": [1.5]}), tmp_path / "x.parquet")
    for name, columns in (
        ("x.csv", {"prompt": "question", "category": "kind"}), ("x.jsonl", {"prompt": "data.q"}),
        ("x.parquet", {"prompt": "question"}),
    ):  # fmt: skip
        incoming = Incoming(
            kind=ImportKind.PROMPTS, path=tmp_path / name, file_format=FileFormat.of(name), columns=columns
        )
        import_file(project=project, incoming=incoming, by=None, now=NOW)
    assert [row.messages[0]["content"] for row in Prompt.objects.order_by("pk")] == [
        "Why?", "=Why?", "Nested?", "From Parquet?",
    ]  # fmt: skip
    assert Prompt.objects.get(category="=1+1").meta == {}
