"""What migrations that move data do to rows that are there."""

from __future__ import annotations

from uuid import uuid4

OLD = [("annotation", "0002_feedback_kinds_and_quality")]
MOVED = [("annotation", "0003_carry_over")]


def test_the_tie_setting_goes_into_the_form_and_priorities_count_double(migrate):
    old = migrate(OLD)
    user = old.get_model("annotation", "User").objects.create(email="olga@example.org")
    made = {}
    for slug, allow_tie in (("with", True), ("without", False)):
        project = old.get_model("annotation", "Project").objects.create(
            slug=slug, name=slug, allow_tie=allow_tie, created_by=user
        )
        prompt = old.get_model("annotation", "Prompt").objects.create(project=project, messages=[], content_hash=slug)
        made[slug] = comparison = old.get_model("annotation", "Comparison").objects.create(
            project=project, prompt=prompt, origin=uuid4(), pair_hash=slug, overlap=3, rank=1
        )
        for number, priority in enumerate((0, 3, -2), start=1):
            old.get_model("annotation", "Slot").objects.create(
                project=project, comparison=comparison, number=number, priority=priority, rank=1
            )
        old.get_model("annotation", "Consensus").objects.create(
            project=project, comparison=comparison, state="settled", label="a"
        )
    new = migrate(MOVED)
    forms = dict(new.get_model("annotation", "Project").objects.values_list("slug", "form"))
    assert forms == {
        "with": {"kind": "choice", "allow_tie": True},
        "without": {"kind": "choice", "allow_tie": False},
    }
    slots = new.get_model("annotation", "Slot").objects.order_by("comparison_id", "number")
    assert list(slots.values_list("priority", flat=True)) == [0, 6, -4] * 2
    rows = new.get_model("annotation", "Consensus").objects.all()
    assert rows.count() == 2
    assert not rows.filter(due_at__isnull=True).exists()  # the next tick fills the new columns
    assert {row.state for row in rows} == {"settled"}


def test_projects_that_are_there_keep_the_majority(migrate):
    old = migrate([("annotation", "0007_chat")])
    user = old.get_model("annotation", "User").objects.create(email="olga@example.org")
    old.get_model("annotation", "Project").objects.create(slug="old", name="old", created_by=user)
    new = migrate([("annotation", "0008_aggregation")])
    assert new.get_model("annotation", "Project").objects.get(slug="old").aggregator == "majority"
    made = new.get_model("annotation", "Project").objects.create(slug="new", name="new", created_by_id=user.pk)
    assert made.aggregator == "dawid_skene"
