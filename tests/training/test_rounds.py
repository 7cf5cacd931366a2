"""Rounds: which completions meet, and that sampling twice or reading twice changes nothing."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import pairwise
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation.errors import Invalid
from annotation.models import Comparison, Completion, Prompt, Slot, Source, SourceKind
from annotation.pairing import choose_pairs, create_comparisons
from tests import builders, world
from tests.builders import NOW
from training.models import Job, JobStatus, ModelKind, ModelSource, ModelVersion, Round
from training.rounds import (
    NoPrompts,
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


def lines_of(made: Round, *, text="{policy} says {index} to {prompt}"):
    sources = [row["name"] for row in sampling_policies(made.job)]
    return [
        {
            "policy": source, "prompt_id": str(prompt.public_id), "index": index, "seed": index,
            "text": text.format(policy=source, index=index, prompt=prompt.pk), "token_ids": [1], "logprob": -1.5,
            "finish": "end", "tokens": 1,
        }
        for prompt in round_prompts(made) for source in sources for index in range(made.completions)
    ]  # fmt: skip


# --- pairs ------------------------------------------------------------------------------------------------------------


def written(prompt, **texts):
    origin = uuid4()
    return [
        builders.completion(prompt, text, by=source, index=i, origin=origin)
        for source, own in texts.items() for i, text in enumerate(own)
    ]  # fmt: skip


def met(pairs):
    return {frozenset((pair.a.text, pair.b.text)) for pair in pairs}


def test_one_sources_completions_meet_their_neighbours(project):
    x = builders.prompt(project)
    assert met(choose_pairs(x, written(x, p=["0", "1", "2", "3", "4"]))) == {frozenset("01"), frozenset("23")}


def test_completions_of_several_sources_meet_across_by_index(project):
    x = builders.prompt(project)
    pairs = choose_pairs(x, written(x, p=["p0", "p1"], q=["q0", "q1"], r=["r0"]))
    assert met(pairs) == {frozenset(pair) for pair in (("p0", "q0"), ("p1", "q1"), ("p0", "r0"), ("q0", "r0"))}


def test_equal_and_empty_texts_meet_nobody(project):
    x = builders.prompt(project)
    assert choose_pairs(x, written(x, p=["same", " ", "", "a"], q=[" same\n", "other", "b", ""])) == []
    assert choose_pairs(x, []) == []


def test_stored_order_says_nothing_about_the_source(project):
    first = 0
    for i in range(200):
        x = Prompt(project=project, content_hash=f"{i:064x}", messages=[])
        one, two = (
            Completion(text=f"{s}{i}", content_hash=f"{s}{i}", source_id=k, index=0) for k, s in enumerate("pq")
        )
        (pair,) = choose_pairs(x, [one, two])
        (again,) = choose_pairs(x, [two, one])
        assert pair.a is again.a
        first += pair.a is one
    assert 66 <= first <= 134  # the 99.9 % interval of a fair coin is 77 to 123


def test_the_same_pair_is_made_once_whichever_way_round(project):
    x = builders.prompt(project)
    pairs = choose_pairs(x, written(x, p=["0", "1"]))
    assert len(create_comparisons(project=project, pairs=pairs, origin=uuid4(), now=NOW)) == 1
    turned = [type(pair)(prompt=x, a=pair.b, b=pair.a) for pair in pairs]
    assert create_comparisons(project=project, pairs=turned * 2, origin=uuid4(), now=NOW) == []
    assert Slot.objects.count() == 2


# --- rounds -----------------------------------------------------------------------------------------------------------


def test_a_round_is_a_queued_job_with_its_settings(project):
    for i in range(5):
        builders.prompt(project, f"Prompt {i}?")
    plan = SamplingPlan(completions=3, temperature=0.7, seed=9)
    made = start(project, policy(), plan=plan, prompts=4, overlap=5, name="first")
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
    reward = policy("reward", kind=ModelKind.REWARD)
    for bad, code in (
        ({"policies": [str(uuid4())]}, "unknown_model"),
        ({"policies": [str(reward.public_id)]}, "unknown_model"),
        ({"policies": [str(base.public_id)] * 2}, "invalid"),
        ({"policies": []}, "invalid"),
        ({"policies": [str(base.public_id)], "temperature": 9}, "invalid"),
    ):
        answer = olga.post(address, bad)
        assert (answer.status_code, answer.json()["code"]) == (400, code), bad
