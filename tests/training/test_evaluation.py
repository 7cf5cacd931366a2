"""Evaluations: two policies on a prompt set, by people, a reward model and a judge, side by side."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from uuid import uuid4

import pytest
from django.core.cache import cache
from django.db import connection
from django.test.utils import CaptureQueriesContext

from annotation import erasure, exporting
from annotation.consensus import settle_due
from annotation.errors import Invalid
from annotation.exclusion import exclude
from annotation.feedback import read_form
from annotation.models import Comparison, Completion, Prompt, Role, Slot
from annotation.outbound import Refused
from annotation.pairing import Pair, create_comparisons
from tests import builders, world
from tests.builders import NOW
from tests.engine.openai_server import Answer, said, serving
from tests.engine.tiny import tiny_model
from tests.training import rows
from training import evaluation, jobs, rounds, runner, verdicts
from training.engine.scoring import Given, GivenCompletion, load_reward_models
from training.evaluation import JudgeSpec, VerdictTwice, add_verdict, start_evaluation
from training.jobs import BadConfig
from training.models import (
    Checkpoint,
    Evaluation,
    Job,
    JobStatus,
    JudgeKind,
    ModelKind,
    ModelSource,
    ModelVersion,
    RoundPurpose,
    Run,
)
from training.policy_ranking import policy_ranking
from training.rounds import MeetingPlan, SamplingPlan, start_round
from training.runner import Timing
from training.snapshots import FreezeRule, freeze, preview

pytestmark = pytest.mark.django_db

PEOPLE = JudgeSpec(kind=JudgeKind.PEOPLE, overlap=1)
SLOW = Timing(lease_seconds=60, heartbeat_seconds=1, ingest_seconds=0.2, hang_seconds=300)
WORDS = ("red green blue", "one two three four", "up and down", "winter is coming", "seven", "over there")


def model(name: str, *, kind: ModelKind = ModelKind.POLICY, path: str = "") -> ModelVersion:
    return ModelVersion.objects.create(
        project=None, name=name, kind=kind, source=ModelSource.LOCAL, path=path or name, sha256="0" * 64
    )


@pytest.fixture
def project():
    made = builders.project(overlap=1)
    for i in range(4):
        builders.prompt(made, f"Prompt {i}?")
    return made


@pytest.fixture
def policies():
    return model("old"), model("new")


@pytest.fixture
def allowed(settings):
    """The operator's own judge, which is not asked here, and no other server."""
    settings.OUTBOUND = ("judge.internal:8000",)
    settings.JUDGE_URL, settings.JUDGE_MODEL, settings.JUDGE_KEY_FILE = "http://judge.internal:8000/v1", "wise", "/k"


def reward() -> JudgeSpec:
    return JudgeSpec(kind=JudgeKind.REWARD, reward_model=model("reward", kind=ModelKind.REWARD))


def start(project, policies, *judges: JudgeSpec, **fields) -> Evaluation:
    return start_evaluation(
        project=project, first=policies[0], second=policies[1], judges=judges, by=project.created_by, now=NOW, **fields
    )


def sampled(made: Evaluation, *, same: int = 0, texts: dict[str, str] | None = None) -> None:
    """Complete its round: each policy says its name and some words; for so many prompts both say the same."""
    names = {str(row.source.public_id): row.model.name for row in made.round.round_policies.select_related("source")}
    lines = []
    for number, prompt in enumerate(rounds.round_prompts(made.round)):
        for source, name in names.items():
            text = "The same." if number < same else f"{name}: {WORDS[number]}"
            lines.append({
                "policy": source, "prompt_id": str(prompt.public_id), "index": 0, "seed": 1, "text": text,
                "token_ids": [1], "logprob": -1.0, "finish": "end", "tokens": 5 if name == "old" else 10,
            })  # fmt: skip
    rounds.ingest(made.round.job, lines, now=NOW)
    Job.objects.filter(pk=made.round.job_id).update(status=JobStatus.SUCCEEDED)


def vote(made: Evaluation, person, letters: str) -> None:
    """For each comparison of the round, in order: `1` the first policy, `2` the second, `t` a tie, `-` no vote."""
    for item, letter in zip(compared(made), letters, strict=True):
        first = item.places.get(completion__source__model_id=made.first.public_id)
        sides = "ab" if first.position == 0 else "ba"
        if letter != "-":
            builders.cast(item, person, {"1": sides[0], "2": sides[1], "t": "tie"}[letter])
    settle_due(now=NOW, limit=1000)


def compared(made: Evaluation) -> list[Comparison]:
    return list(Comparison.objects.filter(origin=made.round.public_id).order_by("prompt_id"))


def figures(made: Evaluation, kind: JudgeKind = JudgeKind.PEOPLE):
    verdict = made.verdicts.get(kind=kind)
    return verdicts.side_by_side(made)["figures"][str(verdict.public_id)]


# --- starting ---------------------------------------------------------------------------------------------------------


def test_an_evaluation_is_a_round_and_a_job_for_every_machine_behind_it(project, policies, allowed):
    made = start(project, policies, PEOPLE, reward(), JudgeSpec(kind=JudgeKind.JUDGE), prompts=3, name="weekly")
    assert (made.number, made.round.purpose, made.round.prompts) == (1, RoundPurpose.EVALUATION, 3)
    assert {row.model.name for row in made.round.round_policies.all()} == {"old", "new"}
    kinds = {verdict.kind: verdict for verdict in made.verdicts.all()}
    assert kinds["people"].job is None
    assert (kinds["reward"].job.method, kinds["reward"].job.queue) == ("score", "gpu")
    assert (kinds["judge"].job.method, kinds["judge"].job.queue) == ("judge", "cpu")
    assert kinds["judge"].judge == {"url": "http://judge.internal:8000/v1", "model": "wise", "prompt": None}
    for kind in ("reward", "judge"):
        assert list(kinds[kind].job.depends_on.all()) == [made.round.job]
    assert list(jobs.claimable().values_list("method", flat=True)) == ["sample"]  # the judges wait for the round
    sampled(made)
    assert set(jobs.claimable().values_list("method", flat=True)) == {"score", "judge"}
    assert start(project, policies, PEOPLE).number == 2


@pytest.mark.parametrize(
    ("judges", "error", "field"),
    [
        ([], Invalid, "judges"),
        ([PEOPLE, JudgeSpec(kind=JudgeKind.PEOPLE, overlap=1)], Invalid, "judges"),
        ([JudgeSpec(kind=JudgeKind.REWARD)], Invalid, "model"),
        ([JudgeSpec(kind=JudgeKind.JUDGE, url="http://judge.internal:8001/v1", model="m")], Refused, "url"),
        ([JudgeSpec(kind=JudgeKind.JUDGE, url="http://169.254.169.254/v1", model="m")], Refused, "url"),
        ([JudgeSpec(kind=JudgeKind.JUDGE, url="file:///etc/passwd", model="m")], Refused, "url"),
        ([JudgeSpec(kind=JudgeKind.JUDGE, prompt="Which, {first} or {second}?")], BadConfig, "prompt"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_refused_by_its_field(judges, error, field, project, policies, allowed):
    with pytest.raises(error) as refused:
        start(project, policies, *judges)
    assert list(refused.value.details) == [field]
    assert not Evaluation.objects.exists() and not Job.objects.exists()


def test_a_site_without_a_judge_says_so_and_two_policies_are_two(project, policies, settings):
    settings.JUDGE_URL = ""
    with pytest.raises(Invalid, match="WINNOW_JUDGE_URL"):
        start(project, policies, JudgeSpec(kind=JudgeKind.JUDGE))
    with pytest.raises(Invalid, match="old is the first policy too"):
        start(project, (policies[0], policies[0]), PEOPLE)


def test_without_people_nobody_is_asked(project, policies):
    made = start(project, policies, reward())
    sampled(made)
    assert Completion.objects.count() == 8
    assert not Comparison.objects.exists() and not Slot.objects.exists()


def test_a_judge_may_come_later_but_once(project, policies, allowed):
    made = start(project, policies, PEOPLE)
    sampled(made)
    spec = JudgeSpec(kind=JudgeKind.JUDGE)
    verdict = add_verdict(evaluation=made, spec=spec, by=None, now=NOW)
    assert verdict.job in jobs.claimable()
    with pytest.raises(VerdictTwice):
        add_verdict(evaluation=made, spec=spec, by=None, now=NOW)
    other = JudgeSpec(kind=JudgeKind.JUDGE, prompt="{prompt} {first} {second}: 1 or 2?")
    assert add_verdict(evaluation=made, spec=other, by=None, now=NOW).pk != verdict.pk
    with pytest.raises(Invalid, match="when the evaluation is started"):
        add_verdict(evaluation=made, spec=PEOPLE, by=None, now=NOW)


# --- people -----------------------------------------------------------------------------------------------------------


def test_people_s_shares_are_those_of_the_first_policy_whatever_was_stored_first(project, policies):
    made = start(project, policies, PEOPLE)
    sampled(made)
    vote(made, builders.member(project, "ann"), "11t2")
    found = figures(made)
    assert (found["pairs"], found["prompts"], found["answers"], found["people"]) == (4, 4, 4, 1)
    assert [found[name]["value"] for name in ("win", "tie", "loss")] == [0.5, 0.25, 0.25]
    rate = found["win_rate"]
    assert rate["value"] == (1 + 1 + 0.5 + 0) / 4
    # Leave-one-out means of 1, 1, ½, 0 and Student's t with three degrees of freedom.
    values = [1.0, 1.0, 0.5, 0.0]
    without = [(sum(values) - value) / 3 for value in values]
    centre = sum(without) / 4
    reach = 3.182446305 * math.sqrt(3 / 4 * sum((value - centre) ** 2 for value in without))
    assert rate["high"] == pytest.approx(min(1.0, rate["value"] + reach))
    assert rate["low"] == pytest.approx(max(0.0, rate["value"] - reach))
    # All pairs differ by the same length, of which nothing can be taken out; the ridge pulls towards ½ a little.
    assert found["mean_tokens"] == [5.0, 10.0]


def test_votes_of_one_pair_are_shared_and_people_agree_as_often_as_they_do(project, policies):
    made = start(project, policies, JudgeSpec(kind=JudgeKind.PEOPLE, overlap=3))
    sampled(made)
    for name, letters in (("ann", "11t-"), ("ben", "12t-"), ("eve", "12t-")):
        vote(made, builders.member(project, name), letters)
    found = figures(made)
    assert (found["pairs"], found["unjudged"], found["answers"], found["people"]) == (3, 1, 9, 3)
    assert found["win"]["value"] == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert found["loss"]["value"] == pytest.approx((0 + 2 / 3 + 0) / 3)
    # Of two votes on a pair: always equal, equal in one of three draws, always equal.
    assert found["people_agree"]["value"] == pytest.approx((1 + 1 / 3 + 1) / 3)
    assert found["people_agree_decided"]["value"] == pytest.approx((1 + 1 / 3) / 2)


def test_the_same_text_is_compared_by_nobody_and_counted(project, policies):
    made = start(project, policies, PEOPLE)
    sampled(made, same=1)
    side = verdicts.side_by_side(made)
    assert (side["pairs"], side["identical"], len(compared(made))) == (3, 1, 3)


def test_votes_on_a_pair_that_was_compared_before_count(project, policies):
    first = start(project, policies, PEOPLE)
    sampled(first)
    vote(first, builders.member(project, "ann"), "1112")
    again = start(project, policies[::-1], PEOPLE)
    sampled(again)
    assert compared(again) == []  # the same pairs are not asked for twice
    found = figures(again)
    assert (found["pairs"], found["win_rate"]["value"]) == (4, 0.25)  # seen from the other side


def test_orders_of_more_than_two_are_read_pair_by_pair():
    project = builders.project(overlap=1, form=read_form({"kind": "ranking", "size": 4}))
    builders.prompt(project, "Prompt?")
    made = start(project, (model("old"), model("new")), PEOPLE)
    assert made.round.completions == 2
    names = {str(row.source.public_id): row.model.name for row in made.round.round_policies.select_related("source")}
    texts = {"old": ("apples are round", "no idea"), "new": ("it is a long way home", "seven times eight")}
    (prompt,) = rounds.round_prompts(made.round)
    lines = [
        {"policy": source, "prompt_id": str(prompt.public_id), "index": index, "seed": 1, "text": text,
         "token_ids": [1], "logprob": -1.0, "finish": "end", "tokens": 4}
        for source, name in names.items() for index, text in enumerate(texts[name])
    ]  # fmt: skip
    assert rounds.ingest(made.round.job, lines, now=NOW) == 1
    (item,) = compared(made)
    letter = {place.completion.text: "abcd"[place.position] for place in item.places.select_related("completion")}
    best = [texts["old"][0], texts["new"][0], texts["new"][1], texts["old"][1]]
    builders.cast(item, builders.member(project, "ann"), ranking=[[letter[text]] for text in best])
    found = figures(made)
    # Old's first answer beats both of new's, its second loses to both.
    assert (found["pairs"], found["prompts"], found["answers"]) == (4, 1, 4)
    assert [found[name]["value"] for name in ("win", "tie", "loss")] == [0.5, 0.0, 0.5]
    assert (found["win_rate"]["low"], found["win_rate"]["high"]) == (0.0, 1.0)  # one prompt says nothing of others


def test_people_who_judge_one_completion_at_a_time_compare_no_policies(policies):
    project = builders.project(overlap=1, form=read_form({"kind": "rating", "size": 1}))
    builders.prompt(project, "Prompt?")
    with pytest.raises(Invalid, match="one completion at a time"):
        start(project, policies, PEOPLE)
    made = start(project, policies, reward())
    sampled(made)
    assert len(verdicts.load_pairs([made])[made.pk].pairs) == 1


def test_votes_of_an_excluded_person_count_no_more(project, policies):
    made = start(project, policies, PEOPLE)
    sampled(made)
    ann = builders.member(project, "ann")
    vote(made, ann, "1111")
    assert figures(made)["win_rate"]["value"] == 1.0
    exclude(project=project, user=ann, by=project.created_by, reason="asleep", now=NOW)
    assert figures(made)["pairs"] == 0 and figures(made)["win_rate"] is None


def test_comparisons_of_an_evaluation_never_get_into_a_snapshot_or_an_export(project, policies):
    made = start(project, policies, PEOPLE)
    sampled(made)
    ann = builders.member(project, "ann")
    vote(made, ann, "1122")
    # A training comparison, one of an evaluation, and one made elsewhere of the evaluation's completions.
    builders.cast(builders.comparisons(project, 1)[0], ann, "a")
    prompt = Prompt.objects.filter(project=project).earliest("pk")
    old = Completion.objects.get(prompt=prompt, origin=made.round.public_id, source__model_id=policies[0].public_id)
    mixed = Pair(prompt=prompt, a=old, b=builders.completion(prompt, "Written by a person", by="human"))
    (between,) = create_comparisons(project=project, pairs=[mixed], origin=uuid4(), overlap=1, now=NOW)
    builders.cast(between, ann, "a")
    rule = FreezeRule(shares={"train": 1.0, "validation": 0.0, "test": 0.0})
    shown = preview(project=project, rule=rule, now=NOW)
    assert (shown.preferences, shown.dropped["evaluation"]) == (1, 5)
    frozen = freeze(project=project, rule=rule, by=project.created_by, now=NOW)
    assert frozen.counts["total"] == 1
    assert not Comparison.objects.filter(origin=made.round.public_id, frozen_at__isnull=False).exists()
    assert len(list(exporting.rows(project, exporting.Dataset.PREFERENCES, now=NOW))) == 1


def test_completions_of_evaluations_from_before_the_mark_get_it(migrate):
    old = migrate([("annotation", "0009_mail"), ("training", "0003_training_service")])

    def make(model, **fields):
        return old.get_model(*model.split(".")).objects.create(**fields)

    user = make("annotation.User", email="olga@example.org")
    there = make("annotation.Project", slug="helpful", name="helpful", created_by=user)
    prompt = make("annotation.Prompt", project=there, messages=[], content_hash="p")
    source = make("annotation.Source", project=there, kind="policy", name="base")
    for number, purpose in enumerate(("training", "evaluation"), start=1):
        job = make("training.Job", project=there, number=number, method="sample", config={})
        sampled = make(
            "training.Round", project=there, number=number, job=job, prompts=1, completions=1, sampling={}, overlap=1,
            purpose=purpose, public_id=uuid4(),
        )  # fmt: skip
        make(
            "annotation.Completion", project=there, prompt=prompt, source=source, text=purpose, content_hash=purpose,
            origin=sampled.public_id, public_id=uuid4(),
        )  # fmt: skip
    new = migrate([("training", "0004_mark_evaluation_completions")])
    rows = new.get_model("annotation", "Completion").objects.values_list("text", "for_evaluation")
    assert dict(rows) == {"training": False, "evaluation": True}


def test_an_erased_prompt_keeps_its_votes_and_is_sent_to_no_judge(project, policies, tmp_path, allowed):
    made = start(project, policies, PEOPLE, JudgeSpec(kind=JudgeKind.JUDGE))
    sampled(made)
    vote(made, builders.member(project, "ann"), "1122")
    before = figures(made)
    gone, *others = rounds.round_prompts(made.round)
    erasure.erase(prompt=gone, reason="r", confirm=project.slug, by=project.created_by, now=NOW)
    assert figures(made)["pairs"] == before["pairs"]
    evaluation._write_pairs(made, tmp_path / "pairs.jsonl")  # the inputs are this file and an address
    asked = [json.loads(line)["prompt"] for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert sorted(map(str, asked)) == sorted(str(prompt.messages) for prompt in others)


def test_prompts_that_a_policy_was_trained_on_are_counted(project, policies):
    older = start_round(
        project=project, policies=policies, plan=SamplingPlan(completions=1), meeting=MeetingPlan(overlap=1), prompts=3,
        by=None, now=NOW,
    )  # fmt: skip
    lines = [
        {"policy": str(row.source.public_id), "prompt_id": str(prompt.public_id), "index": 0, "seed": 1,
         "text": f"{row.model.name} wrote: {WORDS[number]}", "token_ids": [1], "logprob": -1.0, "finish": "end",
         "tokens": 3}
        for number, prompt in enumerate(rounds.round_prompts(older))
        for row in older.round_policies.select_related("source", "model")
    ]  # fmt: skip
    rounds.ingest(older.job, lines, now=NOW)
    for item in Comparison.objects.filter(origin=older.public_id):
        builders.cast(item, project.created_by, "a")
    rule = FreezeRule(shares={"train": 1.0, "validation": 0.0, "test": 0.0})
    snapshot = freeze(project=project, rule=rule, by=project.created_by, now=NOW)
    assert snapshot.counts["total"] == 3
    job = jobs.submit(project=project, method="dpo", config={}, snapshot=snapshot, model=policies[0], by=None, now=NOW)
    run = Run.objects.create(job=job, attempt=1, owner=job.public_id, config_hash="0" * 64, host="here")
    checkpoint = Checkpoint.objects.create(run=run, step=1, path="x", sha256="0" * 64, size_bytes=1)
    trained = ModelVersion.objects.create(
        project=project, name="trained", kind=ModelKind.POLICY, source=ModelSource.JOB, path="trained", sha256="1" * 64,
        checkpoint=checkpoint, base=policies[0],
    )  # fmt: skip
    made = start(project, (trained, policies[1]), PEOPLE)
    sampled(made)
    assert verdicts.side_by_side(made)["trained_prompts"] == [3, 0]


# --- machines ---------------------------------------------------------------------------------------------------------


def scores(made: Evaluation, directory: Path, firsts: list[float]) -> None:
    """What the engine's `score` would leave: so much for the first policy, 0 for the second."""
    lines = []
    for prompt, value in zip(Prompt.objects.filter(project=made.project).order_by("pk"), firsts, strict=True):
        for completion in Completion.objects.filter(prompt=prompt, origin=made.round.public_id):
            is_first = completion.source.model_id == made.first.public_id
            lines.append({
                "policy": str(completion.source.public_id), "prompt_id": str(prompt.public_id),
                "index": completion.index, "score": value if is_first else 0.0, "score_raw": 0.0, "tokens": 3,
                "finish": "end",
            })  # fmt: skip
    directory.mkdir(exist_ok=True)
    (directory / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_reward_model_s_scores_are_kept_once_and_meet_people_s_votes(project, policies, tmp_path):
    made = start(project, policies, PEOPLE, reward())
    sampled(made)
    vote(made, builders.member(project, "ann"), "1122")
    job = made.verdicts.get(kind="reward").job
    scores(made, tmp_path / "one", [2.0, -1.0, -3.0, 0.0])
    assert evaluation.keep_result(job, tmp_path / "one")
    scores(made, tmp_path / "two", [9.0, 9.0, 9.0, 9.0])
    assert not evaluation.keep_result(job, tmp_path / "two")  # what was said stays said
    made = Evaluation.objects.get(pk=made.pk)
    found = figures(made, JudgeKind.REWARD)
    assert [found[name]["value"] for name in ("win", "tie", "loss")] == [0.25, 0.25, 0.5]
    assert [row[4] for row in made.verdicts.get(kind="reward").result["pairs"]] == [2.0, -1.0, -3.0, 0.0]
    (agree,) = verdicts.side_by_side(made)["agreement"]
    assert (agree["first"], agree["second"]) == tuple(
        str(made.verdicts.get(kind=kind).public_id) for kind in ("reward", "people")
    )
    # People 1 1 2 2, scores 1 2 2 tie: three decided, of which two agree.
    assert (agree["pairs"], agree["decided"]) == (4, 3)
    assert agree["agree"]["value"] == pytest.approx(2 / 3) == agree["votes"]["value"]
    # κ: observed 2/4; by chance 1/4·2/4 (win) + 2/4·2/4 (loss) + 1/4·0 (tie) = 3/8.
    assert agree["kappa"]["value"] == pytest.approx((1 / 2 - 3 / 8) / (1 - 3 / 8))


def test_a_completion_without_a_score_leaves_its_pair_unjudged(project, policies, tmp_path):
    made = start(project, policies, reward())
    sampled(made)
    scores(made, tmp_path, [1.0, 1.0, 1.0, 1.0])
    file = tmp_path / "scores.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    evaluation.keep_result(made.verdicts.get().job, tmp_path)
    found = figures(Evaluation.objects.get(pk=made.pk), JudgeKind.REWARD)
    assert (found["pairs"], found["unjudged"]) == (3, 1)


def test_a_judge_of_places_is_found_out(project, policies, allowed, tmp_path):
    made = start(project, policies, JudgeSpec(kind=JudgeKind.JUDGE))
    sampled(made)
    pairs = verdicts.load_pairs([made])[made.pk].pairs
    said_of = [("first", "second"), ("first", "first"), ("tie", "second"), (None, "first")]
    q = {("first", "second"): 1.0, ("first", "first"): 0.5, ("tie", "second"): 0.75, (None, "first"): None}
    (tmp_path / "verdicts.jsonl").write_text(
        "".join(
            json.dumps({"id": f"{pair.first}-{pair.second}", "q": q[ab, ba], "ab": ab, "ba": ba}) + "\n"
            for pair, (ab, ba) in zip(pairs, said_of, strict=True)
        )
    )
    evaluation.keep_result(made.verdicts.get().job, tmp_path)
    found = figures(Evaluation.objects.get(pk=made.pk), JudgeKind.JUDGE)
    assert (found["pairs"], found["unreadable"], found["unjudged"]) == (3, 1, 0)
    # A win, a tie (the place decided), and half of each.
    assert [found[name]["value"] for name in ("win", "tie", "loss")] == [0.5, 0.5, 0.0]
    assert found["win_rate"]["value"] == pytest.approx((1 + 0.5 + 0.75) / 3)
    assert found["orders_agree"]["value"] == pytest.approx(1 / 3)
    assert found["first_place"]["value"] == pytest.approx((0.5 + 1 + 0.25) / 3)


def test_a_key_goes_to_the_operator_s_judge_alone_and_to_the_addresses_that_were_checked(
    project, policies, allowed, settings, tmp_path
):
    settings.JUDGE_URL = "http://127.0.0.1:8000/v1"
    settings.OUTBOUND = ("127.0.0.1:8000", "localhost:9000", "169.254.169.254:80")
    urls = [settings.JUDGE_URL, "http://localhost:9000/v1", "http://169.254.169.254:80/v1"]
    made = start(project, policies, *(JudgeSpec(kind=JudgeKind.JUDGE, url=url, model="m") for url in urls))
    sampled(made)
    job_of = {verdict.judge["url"]: verdict.job for verdict in made.verdicts.all()}
    own, foreign = (runner.build_request(job_of[url], tmp_path)["judge"]["server"] for url in urls[:2])
    assert (own["key_file"], foreign["key_file"]) == ("/k", None)
    assert own["addresses"] == ["127.0.0.1"] and "127.0.0.1" in foreign["addresses"]
    assert all("key_file" not in json.dumps(job.config) for job in job_of.values())
    with pytest.raises(Refused):  # where clouds keep their secrets, whatever the operator's list says
        runner.build_request(job_of[urls[2]], tmp_path)
    settings.OUTBOUND = ()  # and the permission can be taken back
    with pytest.raises(Refused):
        runner.build_request(job_of[urls[0]], tmp_path)


# --- the ranking ------------------------------------------------------------------------------------------------------


def test_policies_are_ranked_by_each_kind_of_judge(project, policies, tmp_path):
    third = model("newest")
    one = start(project, policies, PEOPLE, reward())
    two = start(project, (third, policies[1]), JudgeSpec(kind=JudgeKind.PEOPLE, overlap=1))
    for made in (one, two):
        sampled(made)
        vote(made, builders.member(project, f"ann-{made.pk}"), "1112")
    scores(one, tmp_path, [-1.0, -1.0, -1.0, 1.0])
    evaluation.keep_result(one.verdicts.get(kind="reward").job, tmp_path)
    # People's comparisons for training count too: newest against old, won by newest.
    versus = start_round(
        project=project, policies=[third, policies[0]], plan=SamplingPlan(completions=1),
        meeting=MeetingPlan(overlap=1), by=None, now=NOW,
    )  # fmt: skip
    prompt = rounds.round_prompts(versus)[0]
    lines = [
        {"policy": str(row.source.public_id), "prompt_id": str(prompt.public_id), "index": 0, "seed": 1,
         "text": f"{row.model.name} says {'yes, of course' if row.model == third else 'no'}", "token_ids": [1],
         "logprob": -1.0, "finish": "end", "tokens": 3}
        for row in versus.round_policies.select_related("source", "model")
    ]  # fmt: skip
    assert rounds.ingest(versus.job, lines, now=NOW) == 1
    item = Comparison.objects.get(origin=versus.public_id)
    place = item.places.get(completion__source__model_id=third.public_id).position
    builders.cast(item, builders.member(project, "zoe"), "ab"[place])
    settle_due(now=NOW, limit=100)

    found = policy_ranking(project)
    by_kind = {row["kind"]: row for row in found["rankings"]}
    people = by_kind["people"]
    assert (people["contests"], people["prompts"]) == (9, 4)
    assert [row["name"] for row in people["policies"]] == ["newest", "old", "new"]
    assert [row["rank"] for row in people["policies"]] == [1, 2, 3]
    assert sum(row["strength"] for row in people["policies"]) == pytest.approx(0)
    assert all(row["low"] < row["strength"] < row["high"] for row in people["policies"])
    reward_row = by_kind["reward"]
    assert (reward_row["contests"], reward_row["verdicts"]) == (4, 1)
    assert [row["name"] for row in reward_row["policies"]] == ["new", "old"]
    assert by_kind["judge"]["policies"] == [] and by_kind["judge"]["contests"] == 0
    (met,) = [row for row in found["agreement"] if (row["first"], row["second"]) == ("reward", "people")]
    assert (met["pairs"], met["agree"]["value"]) == (4, 0.0)  # people 1112, scores 2221


# --- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.fixture
def olga(project):
    return world.client(project.created_by)


URL = "/api/v1/projects/helpful/evaluations"


def test_an_evaluation_over_http(project, policies, olga, allowed, django_assert_max_num_queries):
    scorer = model("reward", kind=ModelKind.REWARD)
    body = {
        "first": str(policies[0].public_id), "second": str(policies[1].public_id), "prompts": 3,
        "sampling": {"temperature": 0.7, "seed": 5},
        "judges": [
            {"kind": "people", "overlap": 2}, {"kind": "reward", "model": str(scorer.public_id)}, {"kind": "judge"},
        ],
    }  # fmt: skip
    made = olga.post(URL, body, format="json")
    assert made.status_code == 201, made.data
    assert [(row["kind"], row["figures"] and row["figures"]["pairs"]) for row in made.data["verdicts"]] == [
        ("people", 0), ("reward", None), ("judge", None),
    ]  # fmt: skip
    row = Evaluation.objects.get()
    assert (row.round.sampling["temperature"], row.round.sampling["seed"], row.round.overlap) == (0.7, 5, 2)
    sampled(row)
    vote(row, builders.member(project, "ann"), "12t")
    vote(row, builders.member(project, "ben"), "12t")
    shown = olga.get(f"{URL}/{made.data['id']}").data
    people = shown["verdicts"][0]["figures"]
    assert people["win_rate"]["value"] == 0.5 and people["people_agree"]["value"] == 1.0
    assert (shown["pairs"], shown["completions_done"], shown["completions_wanted"]) == (3, 6, 6)
    assert shown["verdicts"][2]["judge"]["model"] == "wise"
    assert len(shown["agreement"]) == 3
    listed = olga.get(URL).data["items"]
    assert [(item["number"], item["first"]["name"], len(item["verdicts"])) for item in listed] == [(1, "old", 3)]
    more = olga.post(f"{URL}/{made.data['id']}/judges", {"kind": "judge", "model": "wiser"}, format="json")
    assert more.status_code == 201 and len(more.data["verdicts"]) == 4
    again = olga.post(f"{URL}/{made.data['id']}/judges", {"kind": "judge", "model": "wiser"}, format="json")
    assert (again.status_code, again.data["code"]) == (409, "verdict_twice")
    ranking = olga.get("/api/v1/projects/helpful/policies/ranking")
    assert [item["kind"] for item in ranking.data["rankings"]] == ["people", "reward", "judge"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"judges": []}, "judges"),
        ({"judges": [{"kind": "reward", "model": "nonsense"}]}, "model"),
        ({"judges": [{"kind": "reward"}]}, "judges"),
        ({"judges": [{"kind": "people", "url": "http://x"}]}, "judges"),
        ({"judges": [{"kind": "judge", "url": "http://127.0.0.1:22/v1", "model": "m"}]}, "url"),
        ({"second": "00000000-0000-0000-0000-000000000000"}, "model"),
        ({"prompt_ids": ["00000000-0000-0000-0000-000000000000"]}, "prompt_ids"),
    ],
)
def test_what_is_wrong_is_named(project, policies, olga, change, field):
    body = {
        "first": str(policies[0].public_id), "second": str(policies[1].public_id), "judges": [{"kind": "people"}],
    } | change  # fmt: skip
    refused = olga.post(URL, body, format="json")
    assert refused.status_code == 400, refused.data
    assert field in json.dumps(refused.data["details"]), refused.data
    assert not Evaluation.objects.exists()


def test_strangers_and_annotators_see_nothing_of_it(project, policies):
    made = start(project, policies, PEOPLE)
    stan, ann = builders.user("stan"), builders.member(project, "ann")
    vera = builders.member(project, "vera", Role.VIEWER)
    paths = [URL, f"{URL}/{made.public_id}", "/api/v1/projects/helpful/policies/ranking"]
    for path in paths:
        assert world.client(stan).get(path).status_code == 404
        assert world.client(ann).get(path).status_code == 403
    assert world.client(ann).post(URL, {}, format="json").status_code == 403
    assert world.client(vera).get(URL).status_code == 200
    assert world.client(vera).post(URL, {}, format="json").status_code == 403


def test_a_page_of_it_takes_as_many_queries_for_many_pairs_as_for_few(project, policies, olga, allowed):
    def queries() -> int:
        cache.clear()
        with CaptureQueriesContext(connection) as seen:
            assert olga.get(f"{URL}/{made.public_id}").status_code == 200
        return len(seen)

    judges = [PEOPLE, reward(), JudgeSpec(kind=JudgeKind.JUDGE)]
    made = start(project, policies, *judges, prompts=1)
    sampled(made)
    vote(made, builders.member(project, "ben"), "1")
    few = queries()
    for i in range(4, 6):
        builders.prompt(project, f"Prompt {i}?")
    made = start(project, policies[::-1], *judges)
    sampled(made)
    vote(made, builders.member(project, "ann"), "1" * len(compared(made)))
    assert queries() == few


# --- the real engine --------------------------------------------------------------------------------------------------


def likes_short(body: dict) -> Answer:
    """A judge that takes the shorter answer, wherever it stands."""
    shown = re.findall(r"\[answer [12]\]\n(.*?)\n\[end of answer", body["messages"][0]["content"], re.DOTALL)
    return said("tie" if len(shown[0]) == len(shown[1]) else "1" if len(shown[0]) < len(shown[1]) else "2")


@pytest.mark.django_db(transaction=True)
def test_sampled_scored_judged_and_voted_on_from_end_to_end(project, settings, tmp_path):
    paths = {
        "old": tiny_model(tmp_path / "old", spread=0.3),
        "new": tiny_model(tmp_path / "new", seed=1, spread=0.3),
        "reward": tiny_model(tmp_path / "reward", seed=2, reward=True, spread=0.3),
    }
    first, second = model("old", path=str(paths["old"])), model("new", path=str(paths["new"]))
    scorer = model("reward", kind=ModelKind.REWARD, path=str(paths["reward"]))
    key = tmp_path / "key"
    key.write_text("s3cret\n")
    with serving(likes_short) as server:
        settings.OUTBOUND = (server.url.removeprefix("http://").removesuffix("/v1"),)
        settings.JUDGE_URL, settings.JUDGE_MODEL, settings.JUDGE_KEY_FILE = server.url, "short", str(key)
        made = start(
            project, (first, second), PEOPLE, JudgeSpec(kind=JudgeKind.REWARD, reward_model=scorer),
            JudgeSpec(kind=JudgeKind.JUDGE), plan=SamplingPlan(completions=1, max_new_tokens=8),
        )  # fmt: skip
        for queue in ("gpu", "gpu", "cpu"):  # sampled, then scored, then judged
            claimed = jobs.claim(queue=queue, host="here", lease_seconds=60)
            done = rows.Runner(runner.production_hooks(), timing=SLOW, claim=claimed).join()
            job = Job.objects.get(pk=claimed.job_id)
            assert done is JobStatus.SUCCEEDED, (job.method, job.reason, job.runs.get().error_tail)
    texts = {row.pk: row for row in Completion.objects.all()}
    vote(made, builders.member(project, "ann"), "1" * len(compared(made)))
    shown = world.client(project.created_by).get(f"{URL}/{made.public_id}").data
    by_kind = {row["kind"]: row for row in shown["verdicts"]}
    assert {row["job"]["status"] for row in shown["verdicts"] if row["job"]} == {"succeeded"}
    assert by_kind["people"]["figures"]["win_rate"]["value"] == 1.0
    # The reward model, read by hand, says the same of the same texts.
    scored = load_reward_models([str(paths["reward"])], device="cpu")
    verdict = made.verdicts.get(kind="reward")
    assert len(verdict.result["pairs"]) == shown["pairs"] > 0
    for one, other, _, outcome, margin, *_ in verdict.result["pairs"]:
        asked = texts[one].prompt.messages
        given = tuple(GivenCompletion(text=texts[pk].text, finish=texts[pk].finish) for pk in (one, other))
        mine = scored([Given(id="x", prompt=asked, completions=given)]).tolist()
        assert margin == pytest.approx(mine[0] - mine[1], abs=1e-5)
        assert outcome == float(margin > 0)
    # The judge was asked twice a pair, with the operator's key, and follows length alone.
    judged = made.verdicts.get(kind="judge")
    assert len(server.requests) == 2 * shown["pairs"] == by_kind["judge"]["figures"]["answers"]
    assert {request.headers["Authorization"] for request in server.requests} == {"Bearer s3cret"}
    for one, other, _, outcome, *_ in judged.result["pairs"]:
        lengths = [len(texts[pk].text) for pk in (one, other)]
        assert outcome == (0.5 if lengths[0] == lengths[1] else float(lengths[0] < lengths[1]))
    assert by_kind["judge"]["figures"]["orders_agree"]["value"] == 1.0
    for name in ("win_rate", "win_rate_length_controlled"):
        for kind in ("people", "reward", "judge"):
            figure = by_kind[kind]["figures"][name]
            assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1
    assert len(shown["agreement"]) == 3
    # No secret stays on the disk of a run, and nothing of it in the job.
    for file in settings.RUNS_DIR.rglob("*"):
        assert not file.is_file() or b"s3cret" not in file.read_bytes(), file


@pytest.mark.django_db(transaction=True)
def test_a_judge_s_job_that_is_cut_off_asks_only_what_it_has_not_asked(project, policies, settings):
    def refuses(body: dict) -> Answer:
        return likes_short(body) if len(server.requests) <= 5 else Answer(status=400, body={"error": "no more"})

    with serving(refuses) as server:
        settings.OUTBOUND = (server.url.removeprefix("http://").removesuffix("/v1"),)
        settings.JUDGE_URL, settings.JUDGE_MODEL, settings.JUDGE_KEY_FILE = server.url, "short", ""
        made = start(project, policies, JudgeSpec(kind=JudgeKind.JUDGE))
        sampled(made)
        job = made.verdicts.get().job
        Job.objects.filter(pk=job.pk).update(
            config={**job.config, "judge": {**job.config["judge"], "server": {"url": server.url, "parallel": 1}}}
        )
        assert attempt(job) is JobStatus.FAILED
        assert "no more" in Job.objects.get(pk=job.pk).reason
        server.answer = likes_short
        jobs.retry(job, by=project.created_by)
        assert attempt(job) is JobStatus.SUCCEEDED
        assert len(server.requests) == 6 + 3  # five answers of eight were kept
    assert figures(Evaluation.objects.get(pk=made.pk), JudgeKind.JUDGE)["pairs"] == 4


def attempt(job: Job) -> JobStatus | None:
    claimed = jobs.claim(queue="cpu", host="here", lease_seconds=60, job_id=job.pk)
    assert claimed is not None
    return rows.Runner(runner.production_hooks(), timing=SLOW, claim=claimed).join()
