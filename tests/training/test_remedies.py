"""What is done about an alarm: once, in one transaction, and so that nothing of the run is lost."""

from __future__ import annotations

import dataclasses
import shutil
from uuid import uuid4

import pytest
from django.conf import settings as django_settings

from annotation.errors import Invalid
from annotation.models import AuditEvent, Comparison, Completion, Prompt, Slot, Source, TokenScope
from annotation.people import create_token
from tests import builders, world
from tests.builders import NOW
from tests.training import rows
from tests.training.rows import claim, submit
from training import attempts, jobs, remedies, runner
from training.alarms import raise_alarm
from training.jobs import JobFinished, Outcome
from training.launching import Wish as JobWish
from training.launching import prepare, queue
from training.models import (
    Alarm,
    Checkpoint,
    Job,
    JobStatus,
    ModelKind,
    ModelSource,
    ModelVersion,
    Round,
    Run,
    RunSample,
    Snapshot,
)
from training.remedies import Action, AlarmHandled, NotOffered, Wish, act, offered
from training.rounds import ingest, read_plan, round_prompts, sampling_policies

pytestmark = pytest.mark.django_db


def olga():
    return rows.project().created_by


def ring(job: Job, *, step: int | None = 20, name: str = "kl_budget") -> Alarm:
    made = raise_alarm(
        project=job.project, key=str(uuid4()), name=name, job=job, run=Run.objects.filter(job=job).last(), step=step,
        evidence=[{"text": "so it is", "step": step, "figures": {}}], now=NOW,
    )  # fmt: skip
    assert made is not None
    return made


def do(alarm: Alarm, action: Action, **wish) -> dict:
    act(alarm=alarm, wish=Wish(action=action, **wish), by=olga(), now=NOW)
    alarm.refresh_from_db()
    return alarm.done[-1]


def offers(alarm: Alarm) -> list[str]:
    return [action.value for action in offered(Alarm.objects.get(pk=alarm.pk))]


def ppo(**fields) -> Job:
    """A queued PPO job with a base policy, a reward model and a snapshot."""
    project = rows.project()
    base = rows.model(f"base-{uuid4()}")
    reward = ModelVersion.objects.create(
        project=project, name=f"reward-{uuid4()}", kind=ModelKind.REWARD, source=ModelSource.LOCAL, path="r", sha256="0"
    )
    snapshot = Snapshot.objects.filter(project=project).first() or rows.snapshot()
    Snapshot.objects.filter(pk=snapshot.pk).update(counts={"train": 9, "validation": 1, "test": 1, "total": 11})
    snapshot.refresh_from_db()
    values = {
        "method": "ppo", "snapshot": snapshot, "model": base, "overrides": {"sampling": {"max_new_tokens": 33}},
        "inputs": {"rewards": [{"model": str(reward.public_id)}]},
    } | fields  # fmt: skip
    return queue(prepare(project, JobWish(**values)), by=olga(), now=NOW)


def checkpoint(job: Job, step: int, **fields) -> Checkpoint:
    """A checkpoint of the job's last run, with a file."""
    made = Run.objects.filter(job=job).order_by("attempt").last()
    path = f"{job.public_id}/{made.attempt}/checkpoints/step-{step}"
    directory = django_settings.RUNS_DIR / path
    directory.mkdir(parents=True)
    (directory / "model").mkdir()
    (directory / "model" / "weights").write_text(f"weights of step {step}")
    (directory / "manifest.json").write_text("{}")
    return Checkpoint.objects.create(run=made, step=step, path=path, sha256="0", size_bytes=1, **fields)


# --- pause ------------------------------------------------------------------------------------------------------------


def test_a_running_job_is_asked_to_stop_and_can_be_retried():
    job = submit()
    claimed = claim(job_id=job.pk)
    alarm = ring(job, name="length_bias")
    assert offers(alarm) == ["pause"]
    entry = do(alarm, Action.PAUSE, note="The scores follow length.")
    job.refresh_from_db()
    assert job.cancel_requested_at is not None
    assert (entry["action"], entry["by"], entry["job"]) == ("pause", str(olga().public_id), str(job.public_id))
    assert (alarm.note, alarm.acknowledged_by) == ("The scores follow length.", olga())
    assert offers(alarm) == []
    assert jobs.cancelled(claimed, Outcome(reason="stopped"), now=NOW)
    jobs.retry(job, now=NOW)
    assert AuditEvent.objects.filter(action="alarm.acted", target=str(alarm.public_id)).count() == 1


def test_what_was_done_is_not_done_again_and_what_failed_leaves_nothing():
    job = submit()
    alarm = ring(job)
    do(alarm, Action.PAUSE)
    with pytest.raises(AlarmHandled):
        do(alarm, Action.PAUSE)
    other = ring(job)
    with pytest.raises(JobFinished):
        do(other, Action.PAUSE, note="a note that must not stay")
    other.refresh_from_db()
    assert (other.done, other.note, other.acknowledged_at) == ([], "", None)


def test_an_alarm_of_the_platform_offers_nothing():
    job = submit(model=rows.model())
    assert offers(ring(job, name="run_stalled")) == []
    lost = raise_alarm(project=job.project, key="k", name="worker_lost", evidence=[], now=NOW)
    with pytest.raises(NotOffered, match="no job"):
        do(lost, Action.PAUSE)


def test_a_job_that_waits_is_taken_out_of_the_queue():
    job = submit()
    do(ring(job), Action.PAUSE)
    job.refresh_from_db()
    assert job.status == JobStatus.CANCELLED
    assert claim() is None


# --- a smaller budget -------------------------------------------------------------------------------------------------


def test_a_smaller_budget_goes_on_from_the_checkpoint_before_the_alarm():
    job = ppo(title="First PPO")
    claim(job_id=job.pk)
    for step in (10, 15, 20, 25):
        checkpoint(job, step)
    Checkpoint.objects.filter(step=15).update(files_pruned_at=NOW)
    alarm = ring(job, step=20)
    assert offers(alarm) == ["pause", "lower_budget", "ask_people"]
    entry = do(alarm, Action.LOWER_BUDGET)
    clone = Job.objects.get(public_id=entry["job"])
    assert (entry["budget"], entry["step"]) == (12.5, 10)
    assert (clone.clone_of, clone.checkpoint.step, clone.method) == (job, 10, "ppo")
    assert (clone.snapshot, clone.model, clone.inputs) == (job.snapshot, job.model, job.inputs)
    assert list(clone.uses.all()) == list(job.uses.all())
    assert clone.title == "First PPO, KL budget 12.5"
    assert clone.config["kl"] == {**job.config["kl"], "budget": 12.5}
    assert {**clone.config, "kl": None} == {**job.config, "kl": None}
    job.refresh_from_db()
    assert job.cancel_requested_at is not None
    with pytest.raises(AlarmHandled):
        do(alarm, Action.LOWER_BUDGET)
    assert Job.objects.filter(clone_of=job).count() == 1


def test_the_checkpoint_is_there_when_the_clone_starts_though_the_job_pruned_it():
    job = ppo()
    claim(job_id=job.pk)
    source = django_settings.RUNS_DIR / checkpoint(job, 10).path
    clone = Job.objects.get(public_id=do(ring(job), Action.LOWER_BUDGET)["job"])
    kept = attempts.start_directory(django_settings.RUNS_DIR, clone.public_id, 10)
    assert (source / "model" / "weights").samefile(kept / "model" / "weights")  # no second copy on the disk
    shutil.rmtree(source)
    assert (kept / "model" / "weights").read_text() == "weights of step 10"
    assert (kept / "manifest.json").is_file()
    assert list(kept.parent.iterdir()) == [kept]


def test_a_budget_is_lowered_for_a_job_that_has_ended_too():
    job = ppo()
    claimed = claim(job_id=job.pk)
    checkpoint(job, 10)
    jobs.finish(claimed, Outcome(reason="KL is 26 nats", result={"status": "stopped_kl"}), now=NOW)
    entry = do(ring(job), Action.LOWER_BUDGET, budget=5.0)
    assert Job.objects.get(public_id=entry["job"]).config["kl"]["budget"] == 5.0
    job.refresh_from_db()
    assert (job.status, job.cancel_requested_at) == (JobStatus.SUCCEEDED, None)


@pytest.mark.parametrize("budget", [0.0, -1.0, 25.0, 30.0])
def test_a_budget_that_is_no_smaller_is_refused(budget):
    job = ppo()
    claim(job_id=job.pk)
    checkpoint(job, 10)
    with pytest.raises(Invalid) as refused:
        do(ring(job), Action.LOWER_BUDGET, budget=budget)
    assert list(refused.value.details) == ["budget"]
    job.refresh_from_db()
    assert job.cancel_requested_at is None


def test_without_a_budget_or_a_checkpoint_before_the_alarm_nothing_is_lowered():
    job = ppo()
    claim(job_id=job.pk)
    checkpoint(job, 20)
    with pytest.raises(NotOffered, match="no checkpoint before step 20"):
        do(ring(job, step=20), Action.LOWER_BUDGET)
    reward = submit()
    claim(job_id=reward.pk)
    checkpoint(reward, 10)
    with pytest.raises(NotOffered, match="no KL budget"):
        do(ring(reward), Action.LOWER_BUDGET)
    assert Job.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_the_real_engine_goes_on_from_the_kept_checkpoint_under_the_smaller_budget(tmp_path):
    """The whole way with weights: a run, its alarm, the clone, and the run's own checkpoint gone in between."""
    from tests.engine.planted import planted_snapshot
    from tests.engine.tiny import tiny_model  # torch, for this test alone

    tiny_model(tmp_path / "policy")
    tiny_model(tmp_path / "reward", reward=True, seed=1)
    project = rows.project()
    snapshot = rows.snapshot()
    planted_snapshot(django_settings.SNAPSHOTS_DIR / snapshot.path, validation=8)
    Snapshot.objects.filter(pk=snapshot.pk).update(counts={"train": 24, "validation": 8, "test": 8, "total": 40})
    snapshot.refresh_from_db()
    models = {
        kind: ModelVersion.objects.create(
            project=project, name=kind, kind=kind, source=ModelSource.LOCAL, path=str(tmp_path / kind), sha256="0"
        )
        for kind in ("policy", "reward")
    }
    overrides = {
        "batch": {"iterations": 4, "completions": 8}, "sampling": {"max_new_tokens": 4}, "eval": {"prompts": 2},
        "checkpoint": {"every": 2, "keep": 9}, "kl": {"budget": 1000.0},
    }  # fmt: skip
    wish = JobWish(
        method="rloo", snapshot=snapshot, model=models["policy"], overrides=overrides,
        inputs={"rewards": [{"model": str(models["reward"].public_id)}]},
    )  # fmt: skip
    job = queue(prepare(project, wish), by=olga(), now=NOW)

    def go(which: Job) -> JobStatus | None:
        claimed = jobs.claim(queue="gpu", host="here", lease_seconds=60, job_id=which.pk)
        timing = dataclasses.replace(rows.TIMING, lease_seconds=60.0)
        return rows.Runner(runner.production_hooks(), timing=timing, claim=claimed).join()

    assert go(job) is JobStatus.SUCCEEDED, Job.objects.get(pk=job.pk).reason
    steps = list(Checkpoint.objects.order_by("step").values_list("step", flat=True))
    assert len(steps) >= 2
    entry = do(ring(job, step=steps[1]), Action.LOWER_BUDGET, budget=900.0)
    assert entry["step"] == steps[0]
    clone = Job.objects.get(public_id=entry["job"])
    shutil.rmtree(django_settings.RUNS_DIR / str(job.public_id))
    assert go(clone) is JobStatus.SUCCEEDED, Job.objects.get(pk=clone.pk).reason
    resumed = clone.runs.get()
    assert resumed.resumed_from.step == steps[0]
    assert resumed.metrics.order_by("seq").first().step == steps[0] + 1
    clone.refresh_from_db()
    job.refresh_from_db()
    assert clone.last_step == job.last_step


# --- ask people -------------------------------------------------------------------------------------------------------


def sample(job: Job, prompt: Prompt | str, *, step: int, score: float | None, text: str = "fresh", **body) -> None:
    made = Run.objects.filter(job=job).last()
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt.messages
    number = RunSample.objects.filter(run=made).count() + 1
    line = {"prompt_id": "p", "prompt": messages, "completion": text, "finish": "end", "length": 3, "score": score}
    RunSample.objects.create(run=made, seq=number, step=step, body=line | body, offset=number)


@pytest.fixture
def sampled():
    """A PPO job with samples of five prompts at two steps; scores fall with the number of the prompt."""
    project = rows.project()
    prompts = [builders.prompt(project, f"Prompt {i}?") for i in range(5)]
    job = ppo()
    claim(job_id=job.pk)
    for step in (10, 20):
        for number, prompt in enumerate(prompts):
            sample(job, prompt, step=step, score=9.0 - number, text=f"at {step} to {number}")
    sample(job, "A prompt that is not in the project?", step=20, score=99.0)
    return job, prompts


def test_the_highest_scores_become_a_round_against_the_policy_that_the_run_began_with(sampled):
    job, prompts = sampled
    alarm = ring(job, name="over_optimisation")
    entry = do(alarm, Action.ASK_PEOPLE, samples=3, overlap=2)
    made = Round.objects.get(public_id=entry["round"])
    assert (entry["samples"], entry["step"], entry["job"]) == (3, 20, str(made.job.public_id))
    assert [row.model for row in made.round_policies.all()] == [job.model]
    assert {prompt.pk for prompt in round_prompts(made)} == {prompt.pk for prompt in prompts[:3]}
    source = Source.objects.get(name="Job 1 at step 20")
    plan = read_plan(made.pairing)
    assert (plan.against, plan.overlap, made.completions) == ((str(source.public_id),), 2, 1)
    assert made.job.config["sampling"]["max_new_tokens"] == 33
    written = Completion.objects.filter(source=source).order_by("prompt_id")
    assert [item.text for item in written] == [f"at 20 to {number}" for number in range(3)]
    assert {(item.finish, item.tokens, item.origin) for item in written} == {("end", 3, alarm.public_id)}
    job.refresh_from_db()
    assert job.cancel_requested_at is None  # asking does not stop the run
    with pytest.raises(AlarmHandled):
        do(alarm, Action.ASK_PEOPLE)
    assert (Round.objects.count(), Completion.objects.count()) == (1, 3)


def test_when_the_round_is_sampled_each_of_them_meets_a_completion_of_the_base_policy(sampled):
    job, _ = sampled
    made = Round.objects.get(public_id=do(ring(job), Action.ASK_PEOPLE, samples=3, overlap=2)["round"])
    (policy,) = sampling_policies(made.job)
    lines = [
        {
            "policy": policy["name"], "prompt_id": str(prompt.public_id), "index": 0, "seed": 1, "text": "as before",
            "token_ids": [1], "logprob": -1.0, "finish": "end", "tokens": 2,
        }
        for prompt in round_prompts(made)
    ]  # fmt: skip
    assert ingest(made.job, lines, now=NOW) == 3
    for comparison in Comparison.objects.filter(origin=made.public_id):
        sources = {place.completion.source.name for place in comparison.places.all()}
        assert sources == {"Job 1 at step 20", job.model.name}
        assert Slot.objects.filter(comparison=comparison).count() == 2


def test_a_sample_without_a_score_or_a_known_prompt_asks_nobody():
    job = ppo()
    claim(job_id=job.pk)
    alarm = ring(job)
    sample(job, "Known?", step=10, score=None)
    with pytest.raises(NotOffered, match="no samples with scores"):
        do(alarm, Action.ASK_PEOPLE)
    sample(job, "Unknown?", step=10, score=1.0)
    with pytest.raises(NotOffered, match="none of the prompts"):
        do(alarm, Action.ASK_PEOPLE)
    bare = submit()
    claim(job_id=bare.pk)
    with pytest.raises(NotOffered, match="names no policy"):
        do(ring(bare), Action.ASK_PEOPLE)
    assert not Source.objects.exists()
    assert not Round.objects.exists()


@pytest.mark.parametrize("samples", [0, remedies.MOST_SAMPLES + 1])
def test_a_number_of_samples_out_of_range_is_refused(sampled, samples):
    with pytest.raises(Invalid) as refused:
        do(ring(sampled[0]), Action.ASK_PEOPLE, samples=samples)
    assert list(refused.value.details) == ["samples"]


# --- over HTTP --------------------------------------------------------------------------------------------------------


def test_the_api_acts_and_shows_what_was_done(sampled):
    job, _ = sampled
    checkpoint(job, 10)
    alarm = ring(job)
    browser = world.client(olga())
    url = f"/api/v1/projects/helpful/alarms/{alarm.public_id}/act"
    asked = browser.post(url, {"action": "ask_people", "samples": 2, "overlap": 1})
    assert asked.status_code == 200, asked.content
    (entry,) = asked.json()["done"]
    assert (entry["action"], entry["by"], entry["samples"], entry["budget"]) == ("ask_people", "olga", 2, None)
    assert entry["round"] == str(Round.objects.get().public_id)
    assert asked.json()["actions"] == ["pause", "lower_budget"]
    lowered = browser.post(url, {"action": "lower_budget", "budget": 4, "note": "Half of it is enough."})
    assert [item["action"] for item in lowered.json()["done"]] == ["ask_people", "lower_budget"]
    assert (lowered.json()["note"], lowered.json()["acknowledged_by"]) == ("Half of it is enough.", "olga")
    again = browser.post(url, {"action": "lower_budget"})
    assert (again.status_code, again.json()["code"]) == (409, "alarm_handled")
    for body in (
        {},
        {"action": "dance"},
        {"action": "ask_people", "samples": 0},
        {"action": "pause", "budget": "much"},
    ):
        assert browser.post(url, body).status_code == 400
    assert browser.post(url, {"action": "lower_budget", "budget": 4}).status_code == 409


def test_a_token_needs_the_scope_for_jobs_to_act():
    job = submit()
    alarm = ring(job)
    url = f"/api/v1/projects/helpful/alarms/{alarm.public_id}/act"
    for scopes, code in (([TokenScope.READ, TokenScope.WRITE], 403), ([TokenScope.READ, TokenScope.JOBS], 200)):
        _, secret = create_token(user=olga(), name="t", scopes=scopes, project=None, expires_days=None, now=NOW)
        assert world.client(secret=secret).post(url, {"action": "pause"}).status_code == code
