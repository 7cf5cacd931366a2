"""Rounds: which completions meet, and that sampling twice or reading twice changes nothing."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from annotation.errors import Invalid
from annotation.feedback import read_form
from annotation.meetings import Strategy
from annotation.models import Arm, Comparison, Completion, OverlapRule, Prompt, Slot, Source, SourceKind
from tests import builders, world
from tests.builders import NOW
from training import queries
from training.freshness import freshness, rounds_freshness
from training.models import Job, JobStatus, ModelKind, ModelSource, ModelVersion, Round, RoundPurpose
from training.rounds import (
    MeetingPlan,
    NoPrompts,
    PolicyPlan,
    SamplingPlan,
    ingest,
    round_prompts,
    sampling_policies,
    start_round,
    write_prompts,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return builders.project(overlap=2)


def policy(name="base", *, project=None, kind=ModelKind.POLICY):
    return ModelVersion.objects.create(
        project=project, name=name, kind=kind, source=ModelSource.LOCAL, path=name, sha256="0" * 64
    )


def start(project, *policies, plan=None, **fields):
    return start_round(project=project, policies=policies, plan=plan or SamplingPlan(), by=None, now=NOW, **fields)


TEXTS = ("red green blue", "one two three four", "up and down", "yes", "no", "winter is coming", "seven", "over there")


def lines_of(made: Round, *, text="{policy} says {words} to {prompt}"):
    sources = [row["name"] for row in sampling_policies(made.job)]
    return [
        {
            "policy": source, "prompt_id": str(prompt.public_id), "index": index, "seed": index,
            "text": text.format(policy=source[:8], words=TEXTS[index], prompt=prompt.pk), "token_ids": [1],
            "logprob": -1.5, "finish": "end", "tokens": 1,
        }
        for prompt in round_prompts(made) for source in sources for index in range(made.completions)
    ]  # fmt: skip


# --- rounds -----------------------------------------------------------------------------------------------------------


def test_a_round_is_a_queued_job_with_its_settings(project):
    for i in range(5):
        builders.prompt(project, f"Prompt {i}?")
    plan = SamplingPlan(completions=3, temperature=0.7, seed=9)
    made = start(project, policy(), plan=plan, prompts=4, meeting=MeetingPlan(overlap=5), name="first")
    assert (made.number, made.prompts, made.overlap, made.job.status) == (1, 4, 5, JobStatus.QUEUED)
    assert made.job.config["sampling"]["completions"] == 3
    assert start(project, policy("other"), prompts=99).prompts == 5


def test_the_prompts_of_a_round_are_a_function_of_seed_and_time(project, tmp_path):
    for i in range(8):
        builders.prompt(project, f"Prompt {i}?")
    base = policy()
    first, same, other = (start(project, base, plan=SamplingPlan(seed=seed), prompts=5) for seed in (1, 1, 2))
    assert round_prompts(first) == round_prompts(same) != round_prompts(other)
    before = round_prompts(first)
    late = builders.prompt(project, "Late?")
    Prompt.objects.filter(pk=late.pk).update(created_at=NOW + timedelta(seconds=1))
    assert round_prompts(first) == before
    write_prompts(first.job, tmp_path / "a.jsonl")
    write_prompts(same.job, tmp_path / "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    records = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [set(record) for record in records] == [{"id", "group", "prompt"}] * 5


@pytest.mark.parametrize(("policies", "completions", "comparisons"), [(1, 2, 3), (1, 4, 6), (2, 1, 3), (3, 2, 18)])
def test_completions_become_comparisons_as_soon_as_a_prompt_has_them_all(project, policies, completions, comparisons):
    for i in range(3):
        builders.prompt(project, f"Prompt {i}?")
    made = start(project, *(policy(f"m{i}") for i in range(policies)), plan=SamplingPlan(completions=completions))
    lines = lines_of(made)
    assert len(lines) == 3 * policies * completions
    counts = [ingest(made.job, [line], now=NOW) for line in lines]
    assert sum(counts) == comparisons == Comparison.objects.filter(origin=made.public_id).count()
    per_prompt = policies * completions
    assert [i for i, n in enumerate(counts) if n] == [per_prompt * k - 1 for k in (1, 2, 3)]
    assert Slot.objects.count() == 2 * comparisons


def test_reading_lines_again_in_any_order_adds_nothing(project):
    for i in range(3):
        builders.prompt(project, f"Prompt {i}?")
    made = start(project, policy())
    lines = lines_of(made)
    assert ingest(made.job, lines, now=NOW) == 3
    for again in (lines, lines[::-1], lines[2:5], lines + lines):
        assert ingest(made.job, again, now=NOW) == 0
    assert Completion.objects.count() == 6
    assert Comparison.objects.count() == 3


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(8)), cuts=st.lists(st.integers(0, 8), max_size=4))
def test_however_the_lines_are_cut_the_comparisons_are_the_same(django_db_blocker, order, cuts):
    from django.db import transaction

    with transaction.atomic():
        project = builders.project(overlap=1, slug=f"s{uuid4().hex[:8]}")
        for i in range(2):
            builders.prompt(project, f"Prompt {i}?")
        made = start(
            project, policy("m1", project=project), policy("m2", project=project), plan=SamplingPlan(completions=2)
        )
        lines = [lines_of(made)[i] for i in order]
        edges = sorted({0, *cuts, 8})
        total = sum(ingest(made.job, lines[a:b], now=NOW) for a, b in pairwise(edges))
        assert total == Comparison.objects.filter(origin=made.public_id).count() == 4
        transaction.set_rollback(True)


# --- how they meet ----------------------------------------------------------------------------------------------------


def ask(project, n=3):
    return [builders.prompt(project, f"Prompt {i}?") for i in range(n)]


def sources_of(made):
    return [
        sorted(place.completion.source.name for place in comparison.places.all())
        for comparison in Comparison.objects.filter(origin=made.public_id)
    ]


def test_a_round_meets_human_references_and_nothing_else(project):
    asked = ask(project)
    for prompt in asked[:2]:
        builders.completion(prompt, f"A person's own words on {prompt.pk}", by="human")
    human = Source.objects.get(name="human")
    meeting = MeetingPlan(against=(str(human.public_id),), priority=2, language="de", overlap=1)
    made = start(project, policy(), plan=SamplingPlan(completions=1), meeting=meeting)
    assert ingest(made.job, lines_of(made), now=NOW) == 2  # one prompt has no reference
    assert sources_of(made) == [["base", "human"]] * 2
    slots = Slot.objects.filter(comparison__origin=made.public_id)
    assert set(slots.values_list("audience", "priority", "number")) == {("lang:de", 4, 1)}
    assert ingest(made.job, lines_of(made), now=NOW) == 0


def test_a_round_meets_the_completions_of_an_earlier_round(project):
    ask(project)
    base = policy()
    first = start(project, base)
    ingest(first.job, lines_of(first), now=NOW)
    meeting = MeetingPlan(rounds=(str(first.public_id),))
    second = start(project, base, plan=SamplingPlan(completions=2, seed=2), meeting=meeting)
    lines = lines_of(second, text="later: {words} and more of {prompt}")
    assert ingest(second.job, lines, now=NOW) == 6
    origins = {
        frozenset(place.completion.origin for place in comparison.places.all())
        for comparison in Comparison.objects.filter(origin=second.public_id)
    }
    assert origins == {frozenset((first.public_id, second.public_id))}


@pytest.mark.parametrize(
    ("policies", "completions", "meeting", "sizes"),
    [
        (4, 1, MeetingPlan(), [4] * 3),
        (4, 2, MeetingPlan(), [4] * 6),
        (1, 4, MeetingPlan(), [4] * 3),
        (4, 2, MeetingPlan(strategy=Strategy.RANDOM, per_prompt=3), [4] * 9),
        (4, 2, MeetingPlan(strategy=Strategy.BALANCED), [4] * 3),
    ],
)
def test_a_ranking_project_gets_sets(policies, completions, meeting, sizes):
    project = builders.project(overlap=1, form=read_form({"kind": "ranking", "size": 4}))
    ask(project)
    made = start(
        project, *(policy(f"m{i}") for i in range(policies)), plan=SamplingPlan(completions=completions),
        meeting=meeting,
    )  # fmt: skip
    assert ingest(made.job, lines_of(made), now=NOW) == len(sizes)
    assert [c.places.count() for c in Comparison.objects.filter(origin=made.public_id)] == sizes
    assert ingest(made.job, lines_of(made), now=NOW) == 0


def test_a_rating_project_of_one_gets_single_completions():
    project = builders.project(overlap=1, form=read_form({"kind": "rating", "size": 1}))
    ask(project, 2)
    made = start(project, policy(), plan=SamplingPlan(completions=1))
    assert ingest(made.job, lines_of(made), now=NOW) == 2


def test_named_prompts_are_sampled_and_no_others(project):
    asked = ask(project, 5)
    named = tuple(str(prompt.public_id) for prompt in asked[1:3])
    made = start(project, policy(), meeting=MeetingPlan(prompts=named))
    assert made.prompts == 2
    assert {str(prompt.public_id) for prompt in round_prompts(made)} == set(named)


def test_a_balanced_round_read_twice_adds_nothing(project):
    ask(project, 6)
    made = start(
        project, *(policy(f"m{i}") for i in range(4)), plan=SamplingPlan(completions=1),
        meeting=MeetingPlan(strategy=Strategy.BALANCED),
    )  # fmt: skip
    lines = lines_of(made)
    assert sum(ingest(made.job, lines[i : i + 5], now=NOW) for i in range(0, len(lines), 5)) == 6
    assert ingest(made.job, lines, now=NOW) == 0
    assert len({tuple(pair) for pair in sources_of(made)}) == 6  # six pairs of four sources, each once


def test_a_round_by_information_keeps_its_control_in_parts_and_adds_nothing_twice(project):
    ask(project, 40)
    made = start(
        project, *(policy(f"m{i}") for i in range(3)), plan=SamplingPlan(completions=1),
        meeting=MeetingPlan(strategy=Strategy.INFORMATION, control_share=0.25),
    )  # fmt: skip
    lines = lines_of(made)
    assert sum(ingest(made.job, lines[i : i + 12], now=NOW) for i in range(0, len(lines), 12)) == 40
    assert ingest(made.job, lines, now=NOW) == 0
    controls = Comparison.objects.filter(origin=made.public_id, arm=Arm.CONTROL).count()
    low, high = binom.interval(0.999, 40, 0.25)
    assert low <= controls <= high
    assert Comparison.objects.filter(origin=made.public_id, arm=Arm.CHOSEN).count() == 40 - controls
    met = Counter(tuple(pair) for pair in sources_of(made))
    assert len(met) == 3  # of equals that wait for votes, none is preferred


@pytest.mark.parametrize(
    ("meeting", "plan", "said"),
    [
        (MeetingPlan(strategy=Strategy.CLOSEST_SCORE), SamplingPlan(), "strategy"),
        (MeetingPlan(strategy=Strategy.DISAGREEMENT), SamplingPlan(), "strategy"),
        (MeetingPlan(strategy=Strategy.INFORMATION), SamplingPlan(), "strategy"),
        (MeetingPlan(against=(str(uuid4()),)), SamplingPlan(), "against"),
        (MeetingPlan(rounds=(str(uuid4()),)), SamplingPlan(), "rounds"),
        (MeetingPlan(prompts=(str(uuid4()),)), SamplingPlan(), "prompt_ids"),
        (MeetingPlan(skills=("a b",)), SamplingPlan(), "skills"),
        (MeetingPlan(), SamplingPlan(completions=1), "completions"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_by_name(project, meeting, plan, said):
    ask(project)
    with pytest.raises(Invalid) as refused:
        start(project, policy(), plan=plan, meeting=meeting)
    assert said in refused.value.details
    assert not Round.objects.exists()


def test_an_adaptive_project_decides_how_many_votes_a_round_wants(project):
    project.overlap_rule, project.min_votes, project.full_share = OverlapRule.ADAPTIVE, 3, 0.0
    project.save()
    ask(project, 1)
    made = start(project, policy())
    ingest(made.job, lines_of(made), now=NOW)
    assert made.overlap == Comparison.objects.get().overlap == 3


def test_a_completion_with_nul_is_stored_with_a_replacement(project):
    builders.prompt(project)
    made = start(project, policy())
    lines = lines_of(made)
    lines[0]["text"] = "odd\x00text"
    assert ingest(made.job, lines, now=NOW) == 1
    assert Completion.objects.filter(text="odd\ufffdtext").exists()


def test_models_of_the_site_and_the_project_with_one_name_are_two_sources(project):
    builders.prompt(project)
    made = start(project, policy("same"), policy("same", project=project), plan=SamplingPlan(completions=1))
    assert len({row["name"] for row in sampling_policies(made.job)}) == 2
    assert ingest(made.job, lines_of(made), now=NOW) == 1
    again = start(project, *(ModelVersion.objects.order_by("pk")), plan=SamplingPlan(completions=1))
    assert sampling_policies(again.job) == sampling_policies(made.job)
    assert Source.objects.filter(kind=SourceKind.POLICY).count() == 2


def test_what_cannot_be_a_round_is_refused_and_leaves_no_job(project):
    base = policy()
    with pytest.raises(NoPrompts):
        start(project, base)
    builders.prompt(project)
    for policies, plan in (
        ([], SamplingPlan()),
        ([base, base], SamplingPlan()),
        ([policy(f"m{i}") for i in range(5)], SamplingPlan()),
        ([policy("r", kind=ModelKind.REWARD)], SamplingPlan()),
        ([base], SamplingPlan(completions=1)),
        ([base], SamplingPlan(temperature=-1.0)),
    ):
        with pytest.raises(Exception, match=r"."):  # Invalid, or the engine's own refusal of the config
            start(project, *policies, plan=plan)
    assert not Job.objects.exists()
    assert not Round.objects.exists()
    with pytest.raises(Invalid):
        start(project, base, plan=SamplingPlan(completions=1))


def test_rounds_through_the_api(project):
    builders.prompt(project)
    base, other = policy(), policy("other")
    olga = world.client(project.created_by)
    address = "/api/v1/projects/helpful/rounds"
    made = olga.post(address, {"policies": [str(base.public_id)], "name": "one"})
    assert made.status_code == 201
    body = made.json()
    assert (body["completions"], body["completions_wanted"], body["status"]) == (2, 2, "queued")
    two = olga.post(address, {"policies": [str(base.public_id), str(other.public_id)]}).json()
    assert (two["completions"], two["completions_wanted"], len(two["policies"])) == (1, 2, 2)
    ingest(Round.objects.get(number=2).job, lines_of(Round.objects.get(number=2)), now=NOW)
    shown = olga.get(f"{address}/{two['id']}").json()
    assert (shown["completions_done"], shown["comparisons"]) == (2, 1)
    found = olga.get(f"/api/v1/projects/helpful/comparisons?round={two['id']}").json()["items"]
    assert {item["source"] for item in found[0]["completions"]} == {"base", "other"}
    human = builders.source(project, "human", SourceKind.HUMAN)
    three = olga.post(
        address,
        {"policies": [str(base.public_id)], "against": [str(human.public_id)], "strategy": "balanced", "priority": 3,
         "skills": ["medicine"], "overlap": 4},
    ).json()  # fmt: skip
    assert (three["completions"], three["overlap"]) == (1, 4)
    assert three["pairing"] == {
        "strategy": "balanced", "per_prompt": None, "against": [str(human.public_id)], "rounds": [], "priority": 3,
        "language": None, "skills": ["medicine"], "categories": [], "languages": [], "fresh": False,
        "overlap": 4, "objective": "order", "control_share": 0.1,
    }  # fmt: skip
    reward = policy("reward", kind=ModelKind.REWARD)
    for bad, code in (
        ({"policies": [str(uuid4())]}, "unknown_model"),
        ({"policies": [str(reward.public_id)]}, "unknown_model"),
        ({"policies": [str(base.public_id)] * 2}, "invalid"),
        ({"policies": []}, "invalid"),
        ({"policies": [str(base.public_id)], "temperature": 9}, "invalid"),
        ({"policies": [str(base.public_id)], "strategy": "closest_score"}, "invalid"),
        ({"policies": [str(base.public_id)], "against": [str(uuid4())]}, "invalid"),
    ):
        answer = olga.post(address, bad)
        assert (answer.status_code, answer.json()["code"]) == (400, code), bad


# --- mixtures ---------------------------------------------------------------------------------------------------------


def dealt_lines(made, file):
    """Lines as the engine writes them when the prompts say how many."""
    write_prompts(made.job, file)
    records = [json.loads(row) for row in file.read_text().splitlines()]
    return records, [
        {
            "policy": source, "prompt_id": record["id"], "index": index, "seed": index, "logprob": -1.5,
            "text": f"{source[:8]} says {TEXTS[index]} to {record['id']}", "finish": "end", "tokens": 1,
        }
        for record in records for source, count in record["completions"].items() for index in range(count)
    ]  # fmt: skip


def test_weights_deal_every_prompt_as_many_completions_and_each_policy_its_share(project, tmp_path):
    ask(project, 400)
    weights = (3.0, 1.0, 0.5)
    made = start(
        project, *(policy(f"m{i}") for i in range(3)), plan=SamplingPlan(completions=2),
        policy_plans=[PolicyPlan(weight=weight) for weight in weights],
    )  # fmt: skip
    records, lines = dealt_lines(made, tmp_path / "prompts.jsonl")
    names = [row["name"] for row in sampling_policies(made.job)]
    expected = [6 * weight / 4.5 for weight in weights]  # 2 of each of 3 policies: 6 for each prompt
    assert {sum(record["completions"].values()) for record in records} == {6}
    for name, mean in zip(names, expected, strict=True):
        counts = [record["completions"][name] for record in records]
        assert set(counts) <= {int(mean), int(mean) + 1}
        low, high = binom.interval(0.999, 400, mean - int(mean)) if mean > int(mean) else (0, 0)
        assert low <= sum(counts) - 400 * int(mean) <= high
    assert made.job.config["sampling"]["completions"] == max(max(r["completions"].values()) for r in records)
    again, _ = dealt_lines(made, tmp_path / "again.jsonl")
    assert again == records
    # A prompt is compared once it has its six, whoever wrote them; the last line of each prompt completes it.
    ingest(made.job, lines[:6], now=NOW)
    assert Comparison.objects.values("prompt").distinct().count() == 1
    ingest(made.job, lines[6:17], now=NOW)
    assert Comparison.objects.values("prompt").distinct().count() == 2
    before = Comparison.objects.count()
    assert ingest(made.job, lines[:17], now=NOW) == 0
    assert Comparison.objects.count() == before


def test_each_policy_has_its_own_number_and_temperature(project, tmp_path):
    ask(project, 3)
    made = start(
        project, policy("calm"), policy("wild"), plan=SamplingPlan(completions=1, temperature=0.7),
        policy_plans=[PolicyPlan(temperature=0.0), PolicyPlan(completions=2)],
    )  # fmt: skip
    calm, wild = sampling_policies(made.job)
    assert (calm["temperature"], "temperature" in wild) == (0.0, False)
    records, lines = dealt_lines(made, tmp_path / "prompts.jsonl")
    assert [record["completions"] for record in records] == [{calm["name"]: 1, wild["name"]: 2}] * 3
    assert made.job.config["sampling"]["completions"] == 2
    assert ingest(made.job, lines, now=NOW) == 3
    drawn = {(row.source.name, row.sampling["temperature"]) for row in Completion.objects.select_related("source")}
    assert drawn == {("calm", 0.0), ("wild", 0.7)}


def test_a_mixture_through_the_api_with_its_refusals(project):
    ask(project, 4)
    base, other = policy(), policy("other")
    olga = world.client(project.created_by)
    address = "/api/v1/projects/helpful/rounds"
    mix = [{"model": str(base.public_id), "weight": 3}, {"model": str(other.public_id), "weight": 1}]
    body = olga.post(address, {"mix": mix, "completions": 2, "seed": 7}, format="json").json()
    assert [(row["name"], row["weight"], row["temperature"]) for row in body["policies"]] == [
        ("base", 3.0, None), ("other", 1.0, None),
    ]  # fmt: skip
    assert (body["completions_wanted"], body["purpose"], body["can"]) == (
        16, "training", {"stop": True, "go_on": False},
    )  # fmt: skip
    alone = {"model": str(base.public_id)}
    for bad, field in (
        ({"mix": [{**alone, "weight": 2}, {"model": str(other.public_id)}]}, "weight"),
        ({"mix": [{**alone, "weight": 2, "completions": 3}, {**mix[1]}]}, "weight"),
        ({"mix": [{**alone, "weight": 0}]}, "mix"),
        ({"mix": [{**alone, "completions": 1}]}, "completions"),
        ({"mix": mix, "policies": [str(base.public_id)]}, "policies"),
        ({}, "policies"),
    ):
        answer = olga.post(address, bad, format="json")
        assert (answer.status_code, list(answer.json()["details"])) == (400, [field]), bad
    assert Round.objects.count() == 1


def test_prompts_are_chosen_by_category_language_and_whether_they_were_compared(project):
    asked = ask(project, 6)
    Prompt.objects.filter(pk__in=[x.pk for x in asked[:3]]).update(category="code", language="de")
    Prompt.objects.filter(pk=asked[3].pk).update(language="de")
    base = policy()

    def found(meeting):
        return {prompt.pk for prompt in round_prompts(start(project, base, meeting=meeting))}

    assert found(MeetingPlan(categories=("code",))) == {x.pk for x in asked[:3]}
    assert found(MeetingPlan(languages=("de",))) == {x.pk for x in asked[:4]}
    assert found(MeetingPlan(categories=("explanation",), languages=("de",))) == {asked[3].pk}
    first = start(project, base, prompts=2)
    lines = lines_of(first)
    used = {prompt.pk for prompt in round_prompts(first)}
    second = start_round(
        project=project, policies=[base], plan=SamplingPlan(), meeting=MeetingPlan(fresh=True), by=None,
        now=NOW + timedelta(minutes=1),
    )  # fmt: skip
    assert len(round_prompts(second)) == 6  # nothing is compared yet
    ingest(first.job, lines, now=NOW)
    later = NOW + timedelta(minutes=2)
    third = start_round(
        project=project, policies=[base], plan=SamplingPlan(), meeting=MeetingPlan(fresh=True), by=None, now=later
    )
    fresh = {prompt.pk for prompt in round_prompts(third)}
    assert fresh == {x.pk for x in asked} - used
    ingest(third.job, lines_of(third), now=later)
    assert {prompt.pk for prompt in round_prompts(third)} == fresh  # what it made itself changes nothing
    with pytest.raises(NoPrompts, match="fits"):
        start(project, base, meeting=MeetingPlan(categories=("poetry",)))


def test_a_round_is_stopped_and_goes_on_with_what_is_missing(project):
    ask(project, 2)
    made = start(project, policy())
    olga, stan = world.client(project.created_by), world.client(builders.user("stan"))
    address = f"/api/v1/projects/helpful/rounds/{made.public_id}"
    assert stan.post(f"{address}/stop").status_code == stan.post(f"{address}/continue").status_code == 404
    ingest(made.job, lines_of(made)[:2], now=NOW)
    stopped = olga.post(f"{address}/stop").json()
    assert (stopped["status"], stopped["comparisons"], stopped["can"]) == (
        "cancelled", 1, {"stop": False, "go_on": True},
    )  # fmt: skip
    assert olga.post(f"{address}/stop").status_code == 409
    again = olga.post(f"{address}/continue").json()
    assert (again["status"], again["can"]) == ("queued", {"stop": True, "go_on": False})
    assert olga.post(f"{address}/continue").status_code == 409
    ingest(made.job, lines_of(made), now=NOW)
    assert olga.get(address).json()["comparisons"] == 2


# --- how fresh --------------------------------------------------------------------------------------------------------


def test_the_share_from_the_current_policy_and_the_age_are_counted(project, django_assert_num_queries):
    ask(project, 3)
    old, new = policy("old"), policy("new", project=project)
    both = start(project, old, new, plan=SamplingPlan(completions=1))
    alone = start(project, old, plan=SamplingPlan(completions=2, seed=3))
    own = start(project, new, plan=SamplingPlan(completions=2, seed=4))
    judged = start(project, new, plan=SamplingPlan(completions=2, seed=5), purpose=RoundPurpose.EVALUATION)
    for i, made in enumerate((both, alone, own, judged)):
        lines = lines_of(made, text=f"round {i}: {{words}} of {{policy}} and {{prompt}}")
        assert ingest(made.job, lines[:4] if made is own else lines, now=NOW + timedelta(days=i)) in (2, 3)
    Round.objects.filter(pk=own.pk).update(created_at=NOW + timedelta(days=2))
    later = NOW + timedelta(days=4)
    rounds = list(queries.rounds(project))
    assert {row.share_from_current for row in rounds_freshness(project, rounds, now=later).values()} == {None}
    ModelVersion.objects.filter(pk=new.pk).update(is_current=True)
    with django_assert_num_queries(3):
        found = rounds_freshness(project, rounds, now=later)
    assert [found[made.pk].share_from_current for made in (both, alone, own, judged)] == [1.0, 0.0, 1.0, 1.0]
    assert (found[both.pk].age_days, found[own.pk].age_days) == (4.0, 2.0)
    with django_assert_num_queries(6):
        whole = freshness(project, now=later)
    # 3 of both, 3 of old alone, 2 of new alone; the evaluation's are nobody's training data.
    assert (whole.pairs, whole.share_current) == (8, 5 / 8)
    assert whole.median_age_days == 3.0  # of ages 4 4 4 3 3 3 2 2
    assert {(row.name, row.pairs, row.age_days) for row in whole.by_policy} == {("old", 6, 3.0), ("new", 5, 2.0)}

    olga, stan = world.client(project.created_by), world.client(builders.user("stan"))
    body = olga.get("/api/v1/projects/helpful/rounds/freshness").json()
    assert (body["current"]["name"], body["pairs"], body["share_current"]) == ("new", 8, 5 / 8)
    assert stan.get("/api/v1/projects/helpful/rounds/freshness").status_code == 404
    listed = olga.get("/api/v1/projects/helpful/rounds").json()["items"]
    assert [row["share_from_current"] for row in listed] == [1.0, 1.0, 0.0, 1.0]


def test_a_list_of_rounds_asks_as_often_for_one_as_for_many(project):
    ask(project, 2)
    base = policy()
    olga = world.client(project.created_by)
    for seed in range(3):
        made = start(project, base, plan=SamplingPlan(seed=seed))
        ingest(made.job, lines_of(made, text=f"{seed} {{words}} {{prompt}}"), now=NOW)
    counts = []
    for limit in (1, 3):
        with CaptureQueriesContext(connection) as asked:
            items = olga.get(f"/api/v1/projects/helpful/rounds?limit={limit}").json()["items"]
        assert len(items) == limit
        counts.append(len(asked))
    assert counts[0] == counts[1]
