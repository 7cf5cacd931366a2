"""Comparisons of a project: their rows, their audience and priority, and what a plan comes to."""

from __future__ import annotations

from collections import Counter
from uuid import uuid4

import pytest

from annotation.errors import Invalid
from annotation.feedback import read_form
from annotation.meetings import Meeting, Pair, Rule, Strategy, meeting
from annotation.models import (
    Audience,
    AuditEvent,
    Comparison,
    ComparisonCompletion,
    CompletionScore,
    Consensus,
    OverlapRule,
    Project,
    Slot,
    SlotState,
)
from annotation.pairing import (
    MissingScores,
    Plan,
    audience_key,
    change_overlap,
    choose_for,
    create_comparisons,
    set_priority,
    sources_met,
)
from tests import builders, world
from tests.builders import NOW

pytestmark = pytest.mark.django_db
TEXTS = ["A short one.", "Something else entirely, at more length.", "No.", "Perhaps; it depends.", "42 apples"]


@pytest.fixture
def project():
    return builders.project(overlap=2)


def written(prompt, *sources, each=1):
    """`each` completions of every source, all different."""
    rows = ((source, i) for source in sources for i in range(each))
    origin = uuid4()
    return [
        builders.completion(prompt, f"{TEXTS[k % 5]} {source} {k // 5 or ''}", by=source, index=i, origin=origin)
        for k, (source, i) in enumerate(rows)
    ]


def create(project, *meetings, **fields):
    return create_comparisons(project=project, pairs=meetings, origin=uuid4(), now=NOW, **fields)


def plan(project, **fields):
    rule = Rule(**{name: fields.pop(name) for name in ("strategy", "size", "per_prompt", "seed") if name in fields})
    return Plan(project=project, rule=rule, prompts=project.prompts.all(), **fields)


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_a_meeting_becomes_a_comparison_with_its_completions_in_stored_order(project, size):
    x = builders.prompt(project)
    own = [builders.completion(x, f"text {i}", index=i) for i in range(size)]
    drawn = meeting(x, own)
    (made,) = create(project, drawn)
    places = ComparisonCompletion.objects.filter(comparison=made).values_list("position", "completion_id")
    assert list(places) == [(i, item.pk) for i, item in enumerate(drawn.completions)]
    assert Slot.objects.filter(comparison=made, state=SlotState.OPEN, rank=made.rank).count() == 2
    assert Consensus.objects.filter(comparison=made, state="open").count() == 1
    assert create(project, Meeting(prompt=x, completions=drawn.completions[::-1])) == []


def test_slots_carry_twice_the_priority_and_the_audience(project):
    x = builders.prompt(project)
    x.language = "de"
    one, other = written(x, "p", each=2)
    (made,) = create(project, Pair(prompt=x, a=one, b=other), priority=3, skills=["medicine"])
    assert made.audience == "lang:de skill:medicine"
    assert set(Slot.objects.values_list("priority", "audience")) == {(6, "lang:de skill:medicine")}
    assert list(Audience.objects.values_list("key", flat=True)) == ["lang:de skill:medicine"]
    create(project, Pair(prompt=x, a=one, b=other, external_id="2"), language="", overlap=0)
    create(project, Pair(prompt=x, a=one, b=other, external_id="3"), language="fr", overlap=4)
    create(project, Pair(prompt=x, a=one, b=other, external_id="4"), audience="person:7", overlap=1)
    found = {row.audience: (row.overlap, row.slots.count()) for row in Comparison.objects.all()}
    assert found == {"lang:de skill:medicine": (2, 2), "": (0, 0), "lang:fr": (4, 4), "person:7": (1, 1)}
    assert Audience.objects.count() == 3


@pytest.mark.parametrize(
    ("given", "key"),
    [({}, ""), ({"language": "de"}, "lang:de"), ({"skills": ["b", "a", "b"]}, "skill:a skill:b"),
     ({"language": "pt-BR", "skills": ["expert"]}, "lang:pt-BR skill:expert")],
)  # fmt: skip
def test_an_audience_is_sorted_tags(given, key):
    assert audience_key(**given) == key


@pytest.mark.parametrize("given", [{"language": "a b"}, {"skills": [""]}, {"skills": ["x:y"]},
                                   {"skills": [f"{'x' * 30}{i}" for i in range(5)]}])  # fmt: skip
def test_a_tag_that_is_none_is_refused(given):
    with pytest.raises(Invalid):
        audience_key(**given)


def test_adaptive_projects_start_with_the_votes_of_their_rule(project):
    project.overlap_rule, project.min_votes, project.max_votes, project.full_share = OverlapRule.ADAPTIVE, 2, 5, 0.0
    project.save()
    x = builders.prompt(project)
    one, other = written(x, "p", each=2)
    (made,) = create(project, Pair(prompt=x, a=one, b=other))
    assert (made.overlap, made.full_overlap, made.slots.count()) == (2, False, 2)
    (fixed,) = create(project, Pair(prompt=x, a=one, b=other, external_id="2"), overlap=4)
    assert (fixed.overlap, fixed.slots.count()) == (4, 4)
    assert change_overlap(project=project, overlap=3, now=NOW) == 0
    assert Project.objects.get(pk=project.pk).overlap == 3
    assert Slot.objects.count() == 6


def test_a_new_overlap_leaves_chats_alone_and_keeps_audience_and_priority(project):
    x = builders.prompt(project)
    one, other = written(x, "p", each=2)
    create(project, Pair(prompt=x, a=one, b=other), priority=2, language="de")
    (chat,) = create(project, Pair(prompt=x, a=one, b=other, external_id="c"), audience="person:1", overlap=1)
    assert change_overlap(project=project, overlap=4, now=NOW) == 1
    assert chat.slots.count() == 1
    assert set(Slot.objects.exclude(comparison=chat).values_list("audience", "priority")) == {("lang:de", 4)}
    assert Slot.objects.exclude(comparison=chat).count() == 4


def test_slots_for_experts_come_on_top_of_a_new_overlap(project):
    (made,) = builders.comparisons(project)
    Slot.objects.create(project=project, comparison=made, number=3, audience="skill:expert", rank=made.rank)
    Comparison.objects.update(overlap=3)
    for overlap in (1, 3, 2):
        assert change_overlap(project=project, overlap=overlap, now=NOW) == 1
        made.refresh_from_db()
        assert (made.overlap, made.slots.count()) == (overlap + 1, overlap + 1)
        assert made.slots.filter(audience="skill:expert").count() == 1
    assert change_overlap(project=project, overlap=2, now=NOW) == 0


# --- priority ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finish_started", [False, True])
def test_priority_moves_the_slots_and_keeps_what_is_started_ahead(project, finish_started):
    Project.objects.filter(pk=project.pk).update(finish_started=finish_started)
    project.refresh_from_db()
    first, second, third = builders.comparisons(project, 3)
    ann = builders.member(project, "ann")
    (leased,) = builders.lease(project, ann)
    rows = project.comparisons.exclude(pk=next(c.pk for c in (first, second, third) if c.pk != leased.comparison_id))
    assert set_priority(project=project, comparisons=rows, priority=5, by=project.created_by, now=NOW) == 2
    assert set_priority(project=project, comparisons=rows, priority=5, by=project.created_by, now=NOW) == 0
    by_comparison = {}
    for slot in Slot.objects.all():
        by_comparison.setdefault(slot.comparison_id, set()).add(slot.priority)
    assert by_comparison.pop(leased.comparison_id) == {11 if finish_started else 10}
    assert sorted(by_comparison.values()) == [{0}, {10}] or sorted(map(min, by_comparison.values())) == [0, 10]
    elsewhere = builders.project(slug="elsewhere")
    assert (
        set_priority(
            project=elsewhere, comparisons=Comparison.objects.all(), priority=9, by=elsewhere.created_by, now=NOW
        )
        == 0
    )


# --- plans ------------------------------------------------------------------------------------------------------------


def test_a_plan_chooses_for_every_prompt_and_writes_nothing(project):
    for i in range(5):
        written(builders.prompt(project, f"{i}?"), "p", "q", each=2)
    builders.prompt(project, "alone?")
    chosen = choose_for(plan(project))
    assert (len(chosen.meetings), chosen.existing, chosen.prompts, chosen.alone) == (10, 0, 6, 1)
    assert not Comparison.objects.exists()
    create(project, *chosen.meetings[:4])
    chosen = choose_for(plan(project))
    assert (len(chosen.meetings), chosen.existing) == (6, 4)


def test_sources_limit_who_meets_and_against_wants_one_of_them(project):
    for i in range(3):
        written(builders.prompt(project, f"{i}?"), "p", "q", "r", "human")
    keys = {source.name: source.pk for source in project.sources.all()}

    def met(**fields):
        chosen = choose_for(plan(project, strategy=Strategy.ALL, **fields))
        return Counter("-".join(sorted(c.source.name for c in m.completions)) for m in chosen.meetings)

    assert met(sources=frozenset({keys["p"], keys["q"]})) == {"p-q": 3}
    assert met(against=frozenset({keys["human"]})) == {"human-p": 3, "human-q": 3, "human-r": 3}
    assert met(against=frozenset({keys["human"]}), sources=frozenset({keys["p"]})) == {"human-p": 3}
    assert met(against=frozenset({source.pk for source in project.sources.all()})) == {}


def test_balance_counts_the_comparisons_that_are_there(project):
    for i in range(30):
        written(builders.prompt(project, f"{i}?"), "p", "q", "r")
    keys = {source.name: source.pk for source in project.sources.all()}
    some = choose_for(plan(project, strategy=Strategy.ALL, sources=frozenset({keys["p"], keys["q"]}))).meetings[:8]
    create(project, *some)
    assert sources_met(project).times == {frozenset((keys["p"], keys["q"])): 8}
    for _ in range(2):  # the second time counts what the first one made
        create(project, *choose_for(plan(project, strategy=Strategy.BALANCED)).meetings)
        counts = sources_met(project).times
        assert len(counts) == 3
        assert max(counts.values()) - min(counts.values()) <= 1
    assert sum(counts.values()) == 8 + 60


def test_scores_that_are_missing_are_counted(project):
    given = written(builders.prompt(project), "p", "q", each=2)
    for completion in given[:3]:
        CompletionScore.objects.create(completion=completion, scorer="rm", value=completion.pk)
    with pytest.raises(MissingScores, match="1 of 4 completions have no score by 'rm'"):
        choose_for(plan(project, strategy=Strategy.CLOSEST_SCORE, scorers=("rm",)))
    CompletionScore.objects.create(completion=given[3], scorer="rm", value=given[0].pk + 0.5)
    (made,) = choose_for(plan(project, strategy=Strategy.CLOSEST_SCORE, scorers=("rm",))).meetings
    assert {item.pk for item in made.completions} in ({given[0].pk, given[3].pk}, {given[1].pk, given[3].pk})


def test_rankings_get_sets_and_ratings_single_completions(project):
    for i in range(4):
        written(builders.prompt(project, f"{i}?"), "p", "q", each=2)
    four = choose_for(plan(project, size=4)).meetings
    assert [len(m.completions) for m in four] == [4] * 4
    assert len(choose_for(plan(project, size=1)).meetings) == 16
    assert read_form({"kind": "rating", "size": 1}).size == 1


def test_the_queries_of_a_plan_do_not_grow_with_its_prompts(project, django_assert_num_queries):
    for i in range(20):
        written(builders.prompt(project, f"{i}?"), "p", "q")
    with django_assert_num_queries(4):  # prompts, completions, what is known, prompts again
        choose_for(plan(project))
    with django_assert_num_queries(6):  # how often sources met, what has been compared
        choose_for(plan(project, strategy=Strategy.BALANCED))


# --- through the API --------------------------------------------------------------------------------------------------


@pytest.fixture
def olga(project):
    return world.client(project.created_by)


PAIRS = "/api/v1/projects/helpful/pairs"


def test_pairs_are_shown_first_and_then_made_once(project, olga):
    for i in range(12):
        written(builders.prompt(project, f"{i}?"), "p", "q")
    ask = {"strategy": "all", "overlap": 1, "priority": 4, "skills": ["medicine"]}
    shown = olga.post(PAIRS, ask | {"preview": True})
    assert shown.status_code == 200
    body = shown.json()
    assert (body["comparisons"], body["origin"], len(body["examples"])) == (12, None, 10)
    assert {item["source"] for item in body["examples"][0]["completions"]} == {"p", "q"}
    assert not Comparison.objects.exists()
    assert not AuditEvent.objects.filter(action="comparisons.made").exists()
    made = olga.post(PAIRS, ask)
    assert made.status_code == 201
    assert Comparison.objects.filter(origin=made.json()["origin"], overlap=1, audience="skill:medicine").count() == 12
    event = AuditEvent.objects.get(action="comparisons.made")
    assert (event.target, event.details) == (made.json()["origin"], {"strategy": "all", "comparisons": 12})
    again = olga.post(PAIRS, ask).json()
    assert (again["comparisons"], again["existing"]) == (0, 12)


def test_pairs_for_some_prompts_and_sources(project, olga):
    asked = [builders.prompt(project, f"{i}?", category="odd" if i % 2 else "even") for i in range(6)]
    for prompt in asked:
        written(prompt, "p", "q", "human")
    ids = {row["name"]: row["id"] for row in olga.get("/api/v1/projects/helpful/sources").json()["items"]}

    def count(**fields):
        return olga.post(PAIRS, {"strategy": "all", "preview": True} | fields).json()["comparisons"]

    assert count() == 18
    assert count(prompts={"category": "odd"}) == 9
    assert count(prompts={"ids": [str(asked[0].public_id)]}) == 3
    assert count(prompts={"language": "de"}) == 0
    assert count(against=[ids["human"]]) == 12
    assert count(sources=[ids["p"]], against=[ids["human"]]) == 6
    assert count(sources=[ids["p"]]) == 0


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        ({}, "strategy"),
        ({"strategy": "best"}, "strategy"),
        ({"strategy": "closest_score"}, "scorer"),
        ({"strategy": "closest_score", "scorer": "rm"}, "scorer"),
        ({"strategy": "all", "sources": [str(uuid4())]}, "sources"),
        ({"strategy": "all", "against": [str(uuid4())]}, "against"),
        ({"strategy": "all", "skills": ["a b"]}, "skills"),
        ({"strategy": "all", "overlap": 0}, "overlap"),
        ({"strategy": "all", "priority": 30_000}, "priority"),
    ],
)
def test_what_cannot_be_paired_is_refused_by_name(project, olga, ask, name):
    written(builders.prompt(project), "p", "q")
    answer = olga.post(PAIRS, ask)
    assert answer.status_code == 400
    assert name in answer.json()["details"]
    assert not Comparison.objects.exists()


def test_sources_say_how_much_there_is(project, olga, django_assert_num_queries):
    for i in range(3):
        x = builders.prompt(project, f"{i}?")
        one, other, _ = written(x, "p", "q", "r")
        create(project, Pair(prompt=x, a=one, b=other))
    with django_assert_num_queries(6):  # session, user, membership, then three
        items = olga.get("/api/v1/projects/helpful/sources").json()["items"]
    assert [(row["name"], row["completions"], row["prompts"], row["comparisons"]) for row in items] == [
        ("p", 3, 3, 3), ("q", 3, 3, 3), ("r", 3, 3, 0)
    ]  # fmt: skip


def test_priority_through_the_api(project, olga):
    first, *_ = builders.comparisons(project, 3)
    address = "/api/v1/projects/helpful/comparisons/priority"
    assert olga.patch(address, {"priority": 2, "ids": [str(first.public_id)]}).json() == {"changed": 1}
    assert set(first.slots.values_list("priority", flat=True)) == {4}
    assert olga.patch(address, {"priority": 2, "state": "settled"}).json() == {"changed": 0}
    assert olga.patch(address, {"priority": 1, "origin": str(first.origin)}).json() == {"changed": 3}
    assert "categry" in olga.patch(address, {"priority": 1, "categry": "x"}).json()["details"]
    assert AuditEvent.objects.filter(action="comparisons.prioritised").count() == 3
