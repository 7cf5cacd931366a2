"""A project as a directory and back: the same files, checked against the card before anything is written."""

from __future__ import annotations

import json

import pytest
from django.core.management import CommandError, call_command

from annotation.feedback import FeedbackKind, Form
from annotation.models import Project, User
from annotation.people import add_guideline
from tests import builders
from tests.builders import NOW

pytestmark = pytest.mark.django_db
SAME = ("prompts", "completions", "comparisons", "votes", "consensus")


@pytest.fixture
def project():
    made = builders.project(dispute_below=0.7)
    add_guideline(project=made, text="Prefer the shorter one.", by=made.created_by, now=NOW)
    builders.settled(made, 4)
    User.objects.filter(pk=made.created_by_id).update(is_staff=True)
    return made


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_directory_makes_the_project_again(project, tmp_path, ending):
    call_command("rebuild_consensus", "helpful")  # as the new project's is: by a fit of the votes alone
    call_command("export_project", "helpful", str(tmp_path / "one"), format=ending)
    call_command("import_project", str(tmp_path / "one"), slug="again")
    call_command("export_project", "again", str(tmp_path / "two"), format=ending)
    one, two = (json.loads((tmp_path / name / "card.json").read_text()) for name in ("one", "two"))
    for name in SAME:
        assert one["files"][f"{name}.{ending}"] == two["files"][f"{name}.{ending}"], name
    assert one["files"]["project.json"] == two["files"]["project.json"]
    assert (one["counts"]["votes"], one["licences"]) == (12, {"not stated": 4})
    assert one["agreement"] == two["agreement"]
    again = Project.objects.get(slug="again")
    assert (again.dispute_below, again.guidelines.count()) == (0.7, 2)


def test_an_empty_project_of_another_kind_keeps_its_form(tmp_path):
    owner = builders.user("olga", is_staff=True)
    form = Form(kind=FeedbackKind.RANKING, size=5)
    builders.project(owner=owner, form=form)
    call_command("export_project", "helpful", str(tmp_path / "one"))
    call_command("import_project", str(tmp_path / "one"), slug="again")
    assert Project.objects.get(slug="again").feedback == form


@pytest.mark.parametrize("spoil", ["change", "remove", "card", "outside", "form"])
def test_a_directory_that_is_not_what_its_card_says_is_refused(project, tmp_path, spoil):
    place = tmp_path / "one"
    call_command("export_project", "helpful", str(place))
    card = json.loads((place / "card.json").read_text())
    match spoil:
        case "change":
            with (place / "votes.jsonl").open("a") as handle:
                handle.write("\n")
        case "remove":
            (place / "votes.jsonl").unlink()
        case "card":
            card["winnow"] = 99
        case "outside":
            (tmp_path / "secret").write_text("x")
            card["files"]["../secret"] = {"sha256": "0" * 64}
        case "form":
            card["files"].pop("project.json")
    (place / "card.json").write_text(json.dumps(card))
    with pytest.raises(CommandError):
        call_command("import_project", str(place), slug="again")
    assert not Project.objects.filter(slug="again").exists()


def test_a_directory_that_is_there_is_left_alone(project, tmp_path):
    with pytest.raises(CommandError, match="there already"):
        call_command("export_project", "helpful", str(tmp_path))
    with pytest.raises(CommandError, match="no project"):
        call_command("export_project", "nothing", str(tmp_path / "x"))
    with pytest.raises(CommandError, match=r"card\.json"):
        call_command("import_project", str(tmp_path))
