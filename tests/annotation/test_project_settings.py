"""Settings: each can be read and changed, contradictions are refused by name, and a change leaves old and new."""

from __future__ import annotations

import pytest

from annotation import project_settings
from annotation.feedback import Form, read_form
from annotation.models import AuditEvent, GuidelineReading, Project, Slot
from tests import builders, world
from tests.builders import NOW

pytestmark = pytest.mark.django_db
BASE = "/api/v1/projects/helpful"
# Another value than the default for every setting, and values that must be refused.
SETTINGS = {
    "name": ("Other", "", "x" * 121),
    "question": ("Which?", "", "x" * 201),
    "lease_minutes": (30, 0, 241),
    "aggregator": ("majority", "mean", None),
    "dispute_below": (0.7, -0.1, 1.1),
    "flag_limit": (3, 0, 100),
    "paused": (True, "maybe", None),
    "overlap": (4, 0, 100),
    "overlap_rule": ("adaptive", "sometimes", None),
    "min_votes": (3, 0, 8),
    "max_votes": (9, 1, 100),
    "stop_at": (0.9, 0.49, 1.0),
    "full_share": (0.2, -0.1, 1.1),
    "expert_votes": (2, -1, 21),
    "finish_started": (True, "maybe", None),
    "person_cap": (100, 0, 3_000_000_000),
    "vote_cap": (1000, 0, "many"),
    "gold_share": (0.1, -0.1, 0.6),
    "repeat_share": (0.05, -0.1, 0.6),
    "repeat_after": (30, 0, 10_001),
    "min_reading_seconds": (10, -1, 601),
    "read_to_end": (True, "maybe", None),
    "confirm_guideline": (True, "maybe", None),
    "practice_items": (5, -1, 1001),
    "qualification_items": (10, -1, 1001),
    "pass_mark": (0.9, -0.1, 1.1),
    "attempts_allowed": (3, 0, 100),
    "retry_hours": (48, -1, 8761),
    "feedback_every": (50, -1, 1.5),
    "pause_below": (0.6, -0.1, "nan"),
    "pause_min_gold": (20, 0, 1001),
}


@pytest.fixture
def project():
    return builders.project()


@pytest.fixture
def olga(project):
    return world.client(project.created_by)


def test_every_setting_of_a_project_is_in_this_table():
    """A new column is a setting that can be changed, or is named here."""
    others = {"id", "public_id", "slug", "form", "form_number", "chat", "created_at", "created_by"}
    columns = {field.name for field in Project._meta.concrete_fields} - others
    assert columns == set(project_settings.COLUMNS)
    assert columns == {name if name != "paused" else "paused_at" for name in SETTINGS}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_changed_and_a_bad_value_is_refused_by_name(project, olga, name):
    value, *bad = SETTINGS[name]
    before = olga.get(BASE).json()
    assert before[name] != value
    answer = olga.patch(BASE, {name: value})
    assert answer.status_code == 200
    assert answer.json() == before | {name: value} == olga.get(BASE).json()
    for wrong in bad:
        refused = olga.patch(BASE, {name: wrong})
        assert refused.status_code == 400, wrong
        assert name in refused.json()["details"]
        assert name in refused.json()["message"]
    event = AuditEvent.objects.get(action="project.changed")
    column = "paused_at" if name == "paused" else name
    assert set(event.details) == {column}
    if name != "paused":
        assert event.details[name] == {"old": before[name], "new": value}


def test_all_settings_may_be_given_at_the_making(olga):
    values = {name: value for name, (value, *_) in SETTINGS.items() if name != "paused"}
    made = olga.post("/api/v1/projects", {**values, "slug": "made", "form": {"kind": "scale", "points": 7}})
    assert made.status_code == 201, made.content
    assert {name: made.json()[name] for name in values} == values
    assert made.json()["form"]["points"] == 7
    for body, name in (
        ({"name": "x", "min_votes": 8}, "min_votes"),
        ({"name": "x", "overlapp": 8}, "overlapp"),
        ({"name": "x", "gold_share": 0.3, "repeat_share": 0.3}, "repeat_share"),
    ):
        refused = olga.post("/api/v1/projects", body)
        assert (refused.status_code, name in refused.json()["details"]) == (400, True)


def test_empty_takes_a_limit_away(project, olga):
    for name in ("person_cap", "vote_cap", "pause_below"):
        olga.patch(BASE, {name: SETTINGS[name][0]})
        assert olga.patch(BASE, {name: None}).json()[name] is None


def test_contradictions_are_refused_with_what_stays(project, olga):
    for body, names in (
        ({"min_votes": 8}, {"min_votes", "max_votes"}),
        ({"max_votes": 1}, {"min_votes", "max_votes"}),
        ({"gold_share": 0.3, "repeat_share": 0.3}, {"gold_share", "repeat_share"}),
    ):
        answer = olga.patch(BASE, body)
        assert (answer.status_code, set(answer.json()["details"])) == (400, names)
    olga.patch(BASE, {"gold_share": 0.4})
    assert olga.patch(BASE, {"repeat_share": 0.2}).status_code == 400
    assert olga.patch(BASE, {"min_votes": 8, "max_votes": 9}).status_code == 200


def test_a_refused_change_changes_nothing(project, olga):
    builders.comparisons(project)
    before = olga.get(BASE).json()
    answer = olga.patch(BASE, {"name": "New", "overlap": 5, "form": {"kind": "rating"}})
    assert (answer.status_code, answer.json()["code"]) == (409, "has_votes")
    assert olga.get(BASE).json() == before
    assert Slot.objects.count() == 3
    assert not AuditEvent.objects.filter(action="project.changed").exists()


def test_one_change_is_one_event_and_the_same_again_is_none(project, olga):
    body = {"name": "New", "overlap": 5, "form": {"kind": "scale"}, "finish_started": False}
    for _ in range(2):
        assert olga.patch(BASE, body).status_code == 200
    event = AuditEvent.objects.get(action="project.changed")
    assert set(event.details) == {"name", "overlap", "form"}
    assert read_form(event.details["form"]["old"]) == Form()
    assert event.details["form"]["new"]["kind"] == "scale"
    assert event.details["overlap"] == {"old": 3, "new": 5}


def test_a_pause_keeps_the_time_when_it_began(project, olga):
    olga.patch(BASE, {"paused": True})
    began = Project.objects.get().paused_at
    olga.patch(BASE, {"paused": True})
    assert Project.objects.get().paused_at == began
    olga.patch(BASE, {"paused": False})
    assert Project.objects.get().paused_at is None


def test_a_new_overlap_goes_to_what_is_there_and_another_rule_to_what_comes(project, olga):
    builders.comparisons(project)
    olga.patch(BASE, {"overlap": 4})
    assert Slot.objects.count() == 4
    olga.patch(BASE, {"overlap_rule": "adaptive", "full_share": 0})
    assert Slot.objects.count() == 4
    project.refresh_from_db()
    fresh = builders.comparisons(project, start=1)[0]
    assert fresh.slots.count() == 2
    olga.patch(BASE, {"overlap": 5})
    assert Slot.objects.count() == 6


def test_started_first_goes_to_slots_that_wait(project, olga):
    builders.comparisons(project, 2)
    ann = builders.member(project, "ann")
    (lease,) = builders.lease(project, ann)
    builders.vote(lease)
    olga.patch(BASE, {"finish_started": True})
    started = Slot.objects.filter(comparison=lease.comparison)
    assert set(started.values_list("priority", flat=True)) == {1}
    assert set(Slot.objects.exclude(comparison=lease.comparison).values_list("priority", flat=True)) == {0}
    olga.patch(BASE, {"finish_started": False})
    assert set(Slot.objects.values_list("priority", flat=True)) == {0}


def test_guideline_versions_with_what_changed_and_who_confirmed(project, olga):
    first = project.guidelines.get()
    text = "Prefer the true one.\nThen the shorter one."
    assert olga.post(f"{BASE}/guidelines", {"text": text}).json()["number"] == 2
    assert olga.post(f"{BASE}/guidelines", {"text": text}).json()["number"] == 2
    GuidelineReading.objects.create(guideline=first, user=builders.member(project, "ann"), created_at=NOW)
    rows = olga.get(f"{BASE}/guidelines").json()["items"]
    assert [(row["number"], row["created_by"], row["confirmed"]) for row in rows] == [(2, "olga", 0), (1, "olga", 1)]
    assert rows[0]["text"] == text
    difference = olga.get(f"{BASE}/guidelines/2").json()
    assert difference == {
        "number": 2, "since": 1,
        "lines": [
            {"change": "same", "text": "Prefer the true one."}, {"change": "added", "text": "Then the shorter one."}
        ],
    }  # fmt: skip
    back = olga.get(f"{BASE}/guidelines/1?since=2").json()["lines"]
    assert [line["change"] for line in back] == ["same", "removed"]
    assert [line["change"] for line in olga.get(f"{BASE}/guidelines/1").json()["lines"]] == ["added"]
    for address in ("3", "2?since=7", "9999999999999999999999"):
        assert olga.get(f"{BASE}/guidelines/{address}").status_code == 404
    assert olga.get(f"{BASE}/guidelines/2?since=x").status_code == 400
    assert AuditEvent.objects.filter(action="guideline.added").count() == 1
