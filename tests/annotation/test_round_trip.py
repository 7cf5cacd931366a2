"""Export, import into an empty project, export again: the same bytes, for every kind of project."""

from __future__ import annotations

import itertools
import json
from uuid import uuid4

import pytest

from annotation import exporting
from annotation.consensus import rebuild, settle_due
from annotation.exporting import Dataset, Format
from annotation.feedback import Answer, Criterion, FeedbackKind, Form, ReasonChip
from annotation.importing.batches import Incoming, import_file, import_lines
from annotation.importing.reading import FileFormat
from annotation.importing.rows import ImportKind
from annotation.models import CompletionScore, ConsensusState, Prompt, Purpose, Retraction, Slot, Vote, content_hash
from annotation.pairing import Meeting, create_comparisons
from annotation.voting import record_vote, retract
from tests import builders
from tests.builders import NOW

pytestmark = pytest.mark.django_db
IN_ORDER = (Dataset.PROMPTS, Dataset.COMPLETIONS, Dataset.COMPARISONS, Dataset.VOTES)
SAME = (*IN_ORDER, Dataset.CONSENSUS)


def write(project, dataset, file_format, path):
    found = exporting.rows(project, dataset, now=NOW)
    with path.open("wb") as handle:
        handle.writelines(exporting.encode(found, exporting.columns(dataset), file_format))
    return path


def copy(project, tmp_path, file_format=Format.JSONL, slug="copy"):
    """A second project made of the first one's files."""
    made = builders.project(slug=slug, form=project.feedback, overlap=project.overlap)
    for dataset in IN_ORDER:
        path = write(project, dataset, file_format, tmp_path / f"{dataset.value}.{file_format.value}")
        if not path.read_bytes().strip() or not exporting.count(project, dataset):
            continue
        incoming = Incoming(
            kind=ImportKind(dataset.value), path=path, file_format=FileFormat(file_format.value), name=path.name
        )
        batch = import_file(project=made, incoming=incoming, by=None, now=NOW)
        assert (batch.skipped, batch.duplicates) == (0, 0), batch.errors
        assert batch.imported == exporting.count(project, dataset)
    return made


def assert_same(project, made, tmp_path):
    rebuild(project=project, now=NOW)
    rebuild(project=made, now=NOW)
    for dataset in SAME:
        one = write(project, dataset, Format.JSONL, tmp_path / "one").read_bytes()
        other = write(made, dataset, Format.JSONL, tmp_path / "other").read_bytes()
        assert one == other, dataset
        assert one or dataset is Dataset.VOTES


CHOICE = Form(
    allow_both_bad=True,
    criteria=(Criterion(key="truth", label="True"),),
    reasons=(ReasonChip(key="short", label="Short"),),
)
FORMS = {
    "choice": CHOICE,
    "scale": Form(kind=FeedbackKind.SCALE, points=7, criteria=(Criterion(key="tone", label="Tone"),)),
    "ranking": Form(kind=FeedbackKind.RANKING, size=4),
    "rating": Form(kind=FeedbackKind.RATING, size=3, criteria=(Criterion(key="help", label="Helpful"),)),
    "single": Form(kind=FeedbackKind.RATING, size=1),
    "read_first": Form(read_first=True),
}


def answers(name, form):
    """Answers of several sorts, without end."""
    letters = "ABCDEFGHI"[: form.size]
    match name:
        case "choice":
            given = [
                Answer(choice="left", criteria={"truth": "tie"}, reasons=["short"], rationale="=1+1"),
                Answer(choice="both_bad", criteria={"truth": "right"}, active_ms=7),
                Answer(choice="tie", criteria={"truth": "left"}),
            ]
        case "scale":
            given = [Answer(scale=n, criteria={"tone": 8 - n}) for n in (1, 4, 6)]
        case "ranking":
            given = [Answer(ranking=[["C"], ["A", "B"], ["D"]]), Answer(ranking=[[x] for x in letters])]
        case "read_first":
            given = [Answer(choice="right", first_ratings={"A": 2, "B": 7})]
        case _:
            key = form.rated[0]
            given = [
                Answer(ratings={x: {key: 1 + (i + k) % 5} for i, x in enumerate(letters)}, rationale="Ünïcode 🙂")
                for k in range(3)
            ]
    return itertools.cycle(given)


def worked_on(name):
    """A project with prompts of several turns, twins, votes counted, surplus, taken back and replaced."""
    form = FORMS[name]
    project = builders.project(form=form, overlap=2)
    given = answers(name, form)
    meetings = []
    for i in range(5):
        prompt = builders.prompt(project, f"Question {i}?")
        texts = [builders.completion(prompt, f"Answer {i}", index=k) for k in range(form.size)]
        for k, item in enumerate(texts):
            item.text = f"-Answer {i}.{k}" if i else f"Twin {k // 2}"  # equal texts are twins, not one
            item.content_hash = content_hash(item.text)
            item.sampling = {"temperature": 0.7, "b": [1, {"z": 1, "a": None}]}
            item.logprob = -12.5
            item.save()
        CompletionScore.objects.create(completion=texts[0], scorer="rm", value=0.25)
        meetings.append(Meeting(prompt=prompt, completions=tuple(texts)))
    Prompt.objects.filter(pk=meetings[1].prompt.pk).update(
        language="de", category="=cat", meta={"tags": ["x"], "n": 1.5}, external_id="from-elsewhere"
    )
    create_comparisons(project=project, pairs=meetings, origin=uuid4(), priority=3, language="", now=NOW)
    people = [builders.member(project, f"person{i}") for i in range(3)]
    for person in people:
        for item in builders.lease(project, person, wanted=5):
            vote = record_vote(assignment=item, annotator=person, key=uuid4(), answer=next(given), now=NOW).vote
            if vote.pk % 4 == 0:
                again = retract(vote=vote, by=person, reason="slipped", now=NOW)
                if vote.pk % 8 == 0:
                    record_vote(assignment=again, annotator=person, key=uuid4(), answer=next(given), now=NOW)
    surplus = Vote.objects.filter(project=project).first()
    Vote.objects.create(
        project=project, comparison=surplus.comparison, annotator=project.created_by, key=uuid4(),
        choice=surplus.choice, body=surplus.body, body_hash="x", created_at=NOW,
    )  # fmt: skip
    Vote.objects.create(
        project=project, comparison=surplus.comparison, annotator=surplus.annotator, repetition=1, key=uuid4(),
        purpose=Purpose.REPEAT, choice=surplus.choice, body=surplus.body, body_hash="x", created_at=NOW,
    )  # fmt: skip
    settle_due(now=NOW, limit=1000)
    return project


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("file_format", Format)
def test_a_project_of_each_kind_comes_back_as_it_was(name, file_format, tmp_path):
    project = worked_on(name)
    made = copy(project, tmp_path, file_format)
    assert_same(project, made, tmp_path)
    assert Retraction.objects.filter(project=made).count() == Retraction.objects.filter(project=project).count() > 0
    assert Vote.objects.filter(project=made, replaces__isnull=False).exists()
    slots = [Slot.objects.filter(project=each).values_list("state").distinct().count() for each in (project, made)]
    assert slots[0] >= slots[1] > 0
    again = copy(made, tmp_path, file_format, slug="copy-of-the-copy")
    assert_same(made, again, tmp_path)


@pytest.mark.parametrize(("name", "lines"), [("pandalm", 200), ("debate", 120), ("tulu", 736)])
def test_real_votes_come_back_as_they_were(name, lines, test_data, tmp_path):
    project = builders.project()
    with (test_data / "multi_annotator" / f"{name}.jsonl").open("rb") as handle:
        import_lines(project=project, kind=ImportKind.VOTES, lines=itertools.islice(handle, lines), by=None, now=NOW)
    made = copy(project, tmp_path)
    assert_same(project, made, tmp_path)
    assert made.comparisons.exclude(consensus__state=ConsensusState.OPEN).count() == lines


def test_importing_an_export_into_its_own_project_adds_nothing(tmp_path):
    project = worked_on("choice")
    before = [exporting.count(project, dataset) for dataset in SAME]
    for dataset in IN_ORDER:
        path = write(project, dataset, Format.JSONL, tmp_path / "again")
        incoming = Incoming(kind=ImportKind(dataset.value), path=path)
        batch = import_file(project=project, incoming=incoming, by=None, now=NOW)
        assert (batch.imported, batch.skipped) == (0, 0), (dataset, batch.errors)
    assert [exporting.count(project, dataset) for dataset in SAME] == before


def test_lines_have_sorted_keys_within_and_a_fixed_order_of_fields(tmp_path):
    project = worked_on("choice")
    line = write(project, Dataset.COMPLETIONS, Format.JSONL, tmp_path / "x").read_text().splitlines()[0]
    assert list(json.loads(line)) == list(exporting.columns(Dataset.COMPLETIONS))
    assert '"sampling":{"b":[1,{"a":null,"z":1}],"temperature":0.7}' in line
