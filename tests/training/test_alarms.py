"""Alarms: raised once from what the engine writes and from what rows say, told, shown and acknowledged."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from django.conf import settings as django_settings
from django.db import DatabaseError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from annotation import mailing, webhooks
from annotation.errors import Invalid
from annotation.models import AuditEvent, Delivery, Mail, Role
from annotation.webhooks import Event
from tests import builders, world
from tests.builders import NOW
from tests.mail_server import mail_server
from tests.receiver import receiver
from tests.training import rows
from tests.training.rows import claim, submit
from training import alarms, attempts, jobs
from training.alarms import AlarmAcknowledged, acknowledge, raise_alarm, raise_for_platform, take
from training.engine.alarms import ALARMS
from training.ingestion import Ingestion
from training.jobs import Ending, Outcome
from training.management.commands.tick import run_round
from training.models import Alarm, Checkpoint, Job, Quota, Run, RunMetric, Worker
from winnow.celery import app as celery_app

pytestmark = pytest.mark.django_db

HERE = Path(__file__).resolve().parents[2]
BIASED = {"eval/pairs": 40.0, "eval/length_correlation": 0.71, "eval/accuracy": 0.8, "eval/longer_wins": 0.6}


def running(**fields) -> tuple[Job, jobs.Claim]:
    job = submit(**fields)
    claimed = claim(job_id=job.pk)
    assert claimed is not None
    return job, claimed


def reading(job: Job, claimed: jobs.Claim) -> Ingestion:
    return Ingestion(
        claimed,
        job=job,
        runs_dir=django_settings.RUNS_DIR,
        keep_alive=lambda: None,
        store_completions=lambda job, lines: None,
        say=lambda text: None,
    )


def write_lines(job: Job, claimed: jobs.Claim, *lines: dict) -> None:
    directory = attempts.attempt_directory(django_settings.RUNS_DIR, job.public_id, claimed.attempt)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({"time": 1.0, "tokens": 8, **line}) + "\n" for line in lines)


def store(run_id: int, step: int, **values: float) -> RunMetric:
    """A stored line; `__` stands for `/`."""
    return RunMetric.objects.create(
        run_id=run_id, seq=step + 1, step=step, time=1.0, offset=step + 1,
        values={name.replace("__", "/"): value for name, value in values.items()},
    )  # fmt: skip


# --- what the engine writes -------------------------------------------------------------------------------------------


def test_a_line_that_rings_becomes_an_alarm_with_its_figures():
    job, claimed = running()
    write_lines(
        job, claimed,
        {"step": 1, "train/loss": 0.7},
        {"step": 2, "train/loss": 0.6, **BIASED, "alarm/length_bias": 1.0},
    )  # fmt: skip
    reading(job, claimed).read()
    alarm = Alarm.objects.get()
    assert (alarm.job, alarm.run_id, alarm.name, alarm.step) == (job, claimed.run_id, "length_bias", 2)
    assert alarm.evidence == [
        {
            "text": "score and length correlate by 0.71 (limit 0.5).",
            "step": 2,
            "figures": {"eval/length_correlation": 0.71, "eval/pairs": 40.0},
        }
    ]


def test_an_alarm_that_rings_again_at_later_evaluations_and_attempts_is_raised_once():
    job, claimed = running()
    ringing = [{"step": step, **BIASED, "alarm/length_bias": 1.0} for step in (2, 4)]
    write_lines(job, claimed, *ringing)
    files = reading(job, claimed)
    files.read()
    write_lines(job, claimed, {"step": 6, **BIASED, "alarm/length_bias": 1.0, "alarm/calibration": 0.0})
    files.read()
    jobs.requeue(
        job_id=job.pk, owner=claimed.owner, ending=Ending.SHUTDOWN, outcome=Outcome(reason="shutdown"), now=NOW
    )
    again = claim(job_id=job.pk)
    write_lines(
        job, again, *ringing, {"step": 8, "eval/pairs": 40, "eval/calibration_error": 0.2, "alarm/calibration": 1}
    )
    reading(job, again).read()
    found = Alarm.objects.order_by("pk").values_list("name", "step", "run__attempt")
    assert list(found) == [("length_bias", 2, 1), ("calibration", 8, 2)]


def test_the_evidence_uses_the_reference_of_the_first_line_and_the_last_of_other_figures():
    _, claimed = running()
    store(claimed.run_id, 0, reference__unfinished_share=0.1, rollout__unfinished_share=0.1)
    store(claimed.run_id, 1, ppo__explained_variance=-0.5, ppo__clip_share=0.9)
    store(claimed.run_id, 2, ppo__clip_share=0.1)
    line = store(
        claimed.run_id, 60, rollout__samples=64, rollout__unfinished_share=0.3, rollout__unfinished_share_low=0.2,
        alarm__end_tokens=1, alarm__optimisation=1,
    )  # fmt: skip
    assert take(rows=[line], now=NOW) == 2
    texts = {alarm.name: [item["text"] for item in alarm.evidence] for alarm in Alarm.objects.all()}
    assert texts == {
        "end_tokens": [
            "30% of the completions hit the token limit (limit 20%).",
            "30% of the completions hit the token limit, more than 2 times the reference's 10%.",
        ],
        "optimisation": ["the critic explains -0.50 of the returns' variance, less than their mean."],
    }


def test_an_alarm_whose_figures_have_other_names_says_what_it_measures():
    _, claimed = running()
    line = store(claimed.run_id, 3, alarm__kl_budget=1, rollout__kl_budget_share=0.9)  # too few samples are told
    take(rows=[line], now=NOW)
    (reason,) = Alarm.objects.get().evidence
    assert reason["text"].startswith(ALARMS["kl_budget"].measures)
    assert reason["figures"] == {"rollout/kl_budget_share": 0.9}


def test_a_name_that_no_engine_has_rings_nothing(django_assert_num_queries):
    _, claimed = running()
    line = store(claimed.run_id, 3, alarm__nonsense=1, train__loss=1)
    with django_assert_num_queries(0):
        assert take(rows=[line], now=NOW) == 0
        assert take(rows=[], now=NOW) == 0


def test_a_line_and_its_alarm_are_stored_together_or_not_at_all(settings):
    job, claimed = running()
    write_lines(job, claimed, {"step": 2, **BIASED, "alarm/length_bias": 1.0})
    files = reading(job, claimed)

    def refuse(execute, sql, params, many, context):
        if 'INSERT INTO "training_alarm"' in sql:
            raise DatabaseError("the disk is full")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(refuse), pytest.raises(DatabaseError):
        files.read()
    assert not RunMetric.objects.exists()
    job.refresh_from_db()
    assert job.last_step is None
    files.read()
    job.refresh_from_db()
    assert (RunMetric.objects.count(), Alarm.objects.count(), job.last_step) == (1, 1, 2)


@pytest.mark.django_db(transaction=True)
def test_a_run_of_the_real_engine_rings_and_its_alarm_says_what_the_result_says(tmp_path):
    """“Pick the longer” is always right here, so no reward model can be better: the alarm must ring."""
    from tests.engine.planted import LABEL_POLICY, SPLIT, planted_config, preference  # torch, for this test alone
    from tests.engine.tiny import tiny_model
    from training.engine.records import write_snapshot

    tiny_model(tmp_path / "model")
    longer = {"chosen": "good dog it is", "rejected": "bad"}
    lines = {
        part: [preference(number, **longer) for number in numbers]
        for part, numbers in {"train": range(16), "validation": range(100, 132), "test": range(200, 204)}.items()
    }
    write_snapshot(tmp_path / "snapshot", kind="preferences", label_policy=LABEL_POLICY, split=SPLIT, lines=lines)
    config = planted_config(
        "reward", base=tmp_path / "model", snapshot=tmp_path / "snapshot", batch={"pairs": 8, "epochs": 1}
    )
    job, claimed = running()
    directory = attempts.attempt_directory(django_settings.RUNS_DIR, job.public_id, claimed.attempt)
    directory.mkdir(parents=True)
    (directory / "request.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "training.engine", "run", str(directory / "request.json"), "--out", str(directory)]
    subprocess.run(command, cwd=HERE, check=True, capture_output=True, timeout=300)
    reading(job, claimed).read()
    result = json.loads((directory / "result.json").read_text())
    said = {entry["name"]: entry for entry in reversed(result["alarms"])}  # the first of each
    assert "length_bias" in said
    for alarm in Alarm.objects.all():
        entry = said.pop(alarm.name)
        assert (alarm.step, [item["text"] for item in alarm.evidence]) == (entry["step"], entry["evidence"])
        metrics = RunMetric.objects.get(run=claimed.run_id, step=alarm.step).values
        for item in alarm.evidence:
            assert item["figures"].items() <= metrics.items()
    assert not said


# --- of the platform --------------------------------------------------------------------------------------------------


def names() -> list[str]:
    return list(Alarm.objects.order_by("name").values_list("name", flat=True))


def worker(*, queue="gpu", heard=0, started=600, now=NOW, **fields) -> Worker:
    return Worker.objects.create(
        host="box", pid=7, queue=queue, heartbeat_at=now - timedelta(seconds=heard),
        started_at=now - timedelta(seconds=started), **fields,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (Ending.HUNG, ["run_stalled"]),
        (Ending.CUT_OFF, ["run_stalled"]),
        (Ending.SHUTDOWN, []),
        (Ending.KILLED, []),
        (Ending.CRASHED, []),
    ],
)
def test_a_run_that_hung_or_was_cut_off_is_told_once_an_attempt(ending, expected):
    job, claimed = running()
    outcome = Outcome(reason="hung: no new step for 600 s", last_step=4)
    jobs.requeue(job_id=job.pk, owner=claimed.owner, ending=ending, outcome=outcome, now=NOW)
    for _ in range(2):
        raise_for_platform(NOW)
    assert names() == expected
    if expected:
        alarm = Alarm.objects.get()
        assert (alarm.run_id, alarm.step) == (claimed.run_id, 4)
        assert alarm.evidence[0]["text"] == "Attempt 1: hung: no new step for 600 s."
        Job.objects.update(not_before_at=None)
        again = claim(job_id=job.pk)
        jobs.requeue(job_id=job.pk, owner=again.owner, ending=ending, outcome=outcome, now=NOW)
        assert raise_for_platform(NOW) == 1


def test_a_lease_that_ran_out_is_told_by_the_tick_that_reaps_it():
    running()
    assert jobs.reap(now=NOW + timedelta(seconds=61)) == 1
    assert raise_for_platform(NOW + timedelta(seconds=61)) == 1
    assert Alarm.objects.get().name == "run_stalled"


@pytest.mark.parametrize(("code", "result"), [(4, None), (1, {"status": "diverged"})])
def test_a_run_that_diverged_is_told(code, result):
    _, claimed = running()
    jobs.fail(
        claimed, Outcome(reason="train/loss is nan at step 9", exit_code=code, last_step=9, result=result), now=NOW
    )
    assert raise_for_platform(NOW) == 1
    assert raise_for_platform(NOW) == 0
    alarm = Alarm.objects.get()
    assert (alarm.name, alarm.step) == ("run_diverged", 9)
    assert "train/loss is nan" in alarm.evidence[0]["text"]


def test_a_run_that_failed_for_another_reason_rings_nothing():
    _, claimed = running()
    jobs.fail(claimed, Outcome(reason="bad data", exit_code=3, result={"status": "failed"}), now=NOW)
    assert raise_for_platform(NOW) == 0


def test_a_run_that_its_budget_ended_rings_as_one_that_neared_it_and_once_a_job():
    job, claimed = running()
    outcome = Outcome(reason="KL is 31 nats", last_step=9, result={"status": "stopped_kl"})
    jobs.finish(claimed, outcome, now=NOW)
    assert (raise_for_platform(NOW), raise_for_platform(NOW)) == (1, 0)
    assert (Alarm.objects.get().name, Alarm.objects.get().job) == ("kl_budget", job)
    other, taken = running()
    take(rows=[store(taken.run_id, 3, alarm__kl_budget=1)], now=NOW)
    jobs.finish(taken, outcome, now=NOW)
    assert raise_for_platform(NOW) == 0
    assert Alarm.objects.filter(job=other).count() == 1


def test_what_ended_long_before_the_tick_came_up_is_not_told():
    _, claimed = running()
    jobs.fail(claimed, Outcome(reason="nan", exit_code=4), now=NOW)
    assert raise_for_platform(NOW + alarms.LOOK_BACK + timedelta(seconds=1)) == 0


def test_a_job_that_waits_beside_an_idle_worker_is_told():
    job = submit()
    idle = worker(now=NOW + timedelta(seconds=61))
    assert raise_for_platform(NOW + timedelta(seconds=59)) == 0
    assert raise_for_platform(NOW + timedelta(seconds=61)) == 1
    assert raise_for_platform(NOW + timedelta(seconds=63)) == 0
    alarm = Alarm.objects.get()
    assert (alarm.name, alarm.job) == ("job_waiting", job)
    assert alarm.evidence[0]["text"] == "Job 1 has waited for 61 seconds, while the worker 7 on box is idle."
    assert alarm.evidence[0]["figures"] == {"waiting_seconds": 61}
    assert idle.slots == 1


@pytest.mark.parametrize("why", ["dead", "ended", "other queue", "busy", "just freed", "just up", "none"])
def test_a_job_without_an_idle_worker_just_waits(why):
    now = NOW + timedelta(seconds=100)
    submit()
    match why:
        case "dead":
            worker(now=now, heard=3600)
        case "ended":
            worker(now=now, ended_at=now)
        case "other queue":
            worker(now=now, queue="cpu")
        case "just up":
            worker(now=now, started=10)
        case "busy" | "just freed":
            busy = worker(now=now)
            _, claimed = running(priority=9)
            Run.objects.filter(pk=claimed.run_id).update(worker=busy)
            if why == "just freed":
                jobs.finish(claimed, Outcome(reason="done"), now=now - timedelta(seconds=5))
    raise_for_platform(now)
    assert "job_waiting" not in names()


def test_a_worker_that_takes_no_jobs_is_named_with_what_it_lacks():
    now = NOW + timedelta(seconds=100)
    submit()
    worker(now=now, obstacle="the disk is full: 3 MiB free")
    assert raise_for_platform(now) == 1
    assert Alarm.objects.get().evidence[0]["text"].endswith("takes no jobs: the disk is full: 3 MiB free.")


@pytest.mark.parametrize("why", ["backing off", "dependency just done", "dependency", "quota", "retried", "requeued"])
def test_a_job_that_could_not_start_before_waits_no_longer_than_that(why):
    now = NOW + timedelta(seconds=100)
    lately = now - timedelta(seconds=10)
    job, claimed = running()
    match why:
        case "backing off":
            jobs.finish(claimed, Outcome(reason="done"), now=NOW)
            later = submit()
            Job.objects.filter(pk=later.pk).update(not_before_at=lately)
        case "dependency" | "dependency just done":
            submit(depends_on=[job])
            if why == "dependency just done":
                jobs.finish(claimed, Outcome(reason="done"), now=lately)
        case "quota":
            Quota.objects.create(project=rows.project(), running=1)
            submit()
        case "retried":
            jobs.fail(claimed, Outcome(reason="bad data"), now=NOW)
            jobs.retry(job, by=job.project.created_by, now=lately)
        case "requeued":
            outcome = Outcome(reason="shutdown")
            jobs.requeue(job_id=job.pk, owner=claimed.owner, ending=Ending.SHUTDOWN, outcome=outcome, now=lately)
    worker(now=now, slots=4)
    assert raise_for_platform(now) == 0
    if why not in {"dependency", "quota"}:
        later = now + timedelta(seconds=90)
        Worker.objects.update(heartbeat_at=later)
        raise_for_platform(later)
        assert names() == ["job_waiting"]


def test_a_lost_worker_is_told_to_those_whose_jobs_it_ran():
    silent = worker(lost_at=NOW, heard=90)
    job, claimed = running()
    Run.objects.filter(pk=claimed.run_id).update(worker=silent)
    builders.project(slug="other")
    assert raise_for_platform(NOW) == 1
    assert raise_for_platform(NOW) == 0
    alarm = Alarm.objects.get()
    assert (alarm.name, alarm.project, alarm.job, alarm.run_id) == ("worker_lost", job.project, job, claimed.run_id)
    assert "worker 7 on box (queue gpu)" in alarm.evidence[0]["text"]
    Worker.objects.update(lost_at=NOW + timedelta(hours=1), heartbeat_at=NOW)  # came back, and was lost again
    assert raise_for_platform(NOW + timedelta(hours=1)) == 1


def test_a_lost_worker_without_a_job_is_told_where_jobs_wait_and_nobody_else_takes_them():
    submit()
    worker(lost_at=NOW, heard=90)
    other = worker(queue="gpu", started=1)
    assert raise_for_platform(NOW) == 0
    other.delete()
    assert raise_for_platform(NOW) == 1
    assert names() == ["worker_lost"]


def test_a_webhook_that_its_failures_paused_is_told_and_one_that_a_person_paused_is_not(settings):
    project = rows.project()
    settings.OUTBOUND = ("127.0.0.1:9",)
    url = "http://127.0.0.1:9/hook/with-a-key"
    hooks = [
        webhooks.create(project=project, url=url, events=[Event.ALARM_RAISED], by=project.created_by, now=NOW)[0]
        for _ in range(2)
    ]
    webhooks.pause(hook=hooks[0], reason="holidays", by=project.created_by, now=NOW)
    webhooks.emit(project=project, event=Event.ALARM_RAISED, payload={}, now=NOW)
    now = NOW
    for wait in (*webhooks.BACKOFF, timedelta(0)):
        webhooks.deliver_due(clock=lambda at=now: at)
        now += wait
    assert raise_for_platform(now) == 1
    assert raise_for_platform(now) == 0
    alarm = Alarm.objects.get()
    assert (alarm.name, alarm.job) == ("webhook_paused", None)
    assert "The webhook to 127.0.0.1:9: Delivery" in alarm.evidence[0]["text"]
    assert "with-a-key" not in alarm.evidence[0]["text"]
    webhooks.resume(hook=hooks[1], resend=False, by=project.created_by, now=now)
    Alarm.objects.all().delete()
    assert raise_for_platform(now) == 0  # it was mended before the tick looked


def test_a_quiet_platform_costs_a_fixed_number_of_queries(django_assert_max_num_queries):
    submit()
    worker()
    with django_assert_max_num_queries(7):
        assert raise_for_platform(NOW) == 0


@pytest.mark.django_db(transaction=True)
def test_two_ticks_at_once_raise_an_alarm_once(settings):
    job, claimed = running()
    Delivery.objects.all().delete()
    jobs.fail(claimed, Outcome(reason="nan", exit_code=4), now=NOW)
    with receiver() as server:
        settings.OUTBOUND = (server.endpoint,)
        webhooks.create(
            project=job.project, url=server.url, events=[Event.ALARM_RAISED], by=job.project.created_by, now=NOW
        )

    def tick(_: int) -> int:
        try:
            return raise_for_platform(NOW)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(tick, range(4))) == 1
    assert (Alarm.objects.count(), Delivery.objects.count()) == (1, 1)


# --- telling ----------------------------------------------------------------------------------------------------------


def test_an_alarm_is_told_to_webhooks_and_to_owners_by_mail(settings):
    project = rows.project()
    builders.member(project, "mia", Role.MANAGER)
    builders.member(project, "otto", Role.OWNER)
    left = builders.member(project, "lea", Role.OWNER)
    project.memberships.filter(user=left).update(left_at=NOW)
    with receiver() as hook, mail_server() as post:
        settings.OUTBOUND = (hook.endpoint,)
        settings.MAIL_IS_ON, settings.SITE_URL = True, "https://winnow.example"
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", post.port
        _, secret = webhooks.create(
            project=project, url=hook.url, events=[Event.ALARM_RAISED], by=project.created_by, now=NOW
        )
        job, claimed = running(title="First reward model")
        write_lines(job, claimed, {"step": 2, **BIASED, "alarm/length_bias": 1.0})
        reading(job, claimed).read()
        now = timezone.now()
        assert (Delivery.objects.count(), Mail.objects.count()) == (1, 2)
        assert webhooks.deliver_due(clock=lambda: now) == 1
        assert mailing.send_due(clock=lambda: now) == 2
    (sent,) = hook.got
    alarm = Alarm.objects.get()
    body = json.loads(sent.body)
    assert (body["event"], body["project"]) == ("alarm.raised", "helpful")
    assert body["data"] == {
        "alarm": str(alarm.public_id), "name": "length_bias", "title": "Length bias", "job": str(job.public_id),
        "number": 1, "step": 2, "evidence": ["score and length correlate by 0.71 (limit 0.5)."],
        "remedy": ALARMS["length_bias"].remedy,
    }  # fmt: skip
    assert sent.headers["Winnow-Signature"] == webhooks.sign(secret, sent.body, at=now)
    assert sorted(post.recipients) == ["olga@example.org", "otto@example.org"]
    letter = post.got[0][1]
    assert letter["Subject"] == "[Helpful] Length bias, job 1"
    text = letter.get_content()
    for part in (
        "Job 1: First reward model, at step 2",
        "Why: score and length correlate by 0.71 (limit 0.5).",
        f"What to do: {ALARMS['length_bias'].remedy}",
        "https://winnow.example/r/helpful/alarms",
    ):
        assert part in text


def test_a_mail_server_that_is_down_does_not_stop_the_reading_of_a_run(settings):
    settings.MAIL_IS_ON = True
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 9
    job, claimed = running()
    write_lines(job, claimed, {"step": 2, **BIASED, "alarm/length_bias": 1.0}, {"step": 3, "train/loss": 0.5})
    reading(job, claimed).read()
    job.refresh_from_db()
    assert (job.last_step, RunMetric.objects.count(), Alarm.objects.count()) == (3, 2, 1)
    assert mailing.send_due(clock=timezone.now) == 0
    assert Mail.objects.get().next_at is not None


def test_the_tick_raises_an_alarm_and_wakes_a_worker_that_sends_its_mail(settings):
    job, claimed = running(now=timezone.now())
    jobs.fail(claimed, Outcome(reason="nan", exit_code=4))
    with mail_server() as post:
        settings.MAIL_IS_ON = True
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", post.port
        celery_app.conf.task_always_eager = True  # the broker's part: a worker gets the message
        try:
            for _ in range(2):
                run_round(analyze=False)
        finally:
            celery_app.conf.task_always_eager = False
    assert [message["Subject"] for _, message in post.got] == [f"[Helpful] Run diverged, job {job.number}"]


# --- acknowledging, showing -------------------------------------------------------------------------------------------


def ring(project=None, *, name="length_bias", job=None, step=40, **fields) -> Alarm:
    made = raise_alarm(
        project=project or rows.project(), key=str(uuid4()), name=name, job=job, step=step,
        evidence=[{"text": "so it is", "step": step, "figures": {"eval/pairs": 40.0}}], now=NOW, **fields,
    )  # fmt: skip
    assert made is not None
    return made


def test_an_alarm_is_acknowledged_once_with_a_note():
    alarm = ring()
    olga = alarm.project.created_by
    with pytest.raises(Invalid) as refused:
        acknowledge(alarm=alarm, note=" \n", by=olga, now=NOW)
    assert list(refused.value.details) == ["note"]
    acknowledge(alarm=alarm, note=" The data are short. ", by=olga, now=NOW)
    with pytest.raises(AlarmAcknowledged):
        acknowledge(alarm=alarm, note="again", by=olga, now=NOW)
    alarm.refresh_from_db()
    assert (alarm.note, alarm.acknowledged_at, alarm.acknowledged_by) == ("The data are short.", NOW, olga)
    assert AuditEvent.objects.filter(action="alarm.acknowledged", target=str(alarm.public_id)).count() == 1


def checkpoint(run_id: int, step: int, **fields) -> Checkpoint:
    return Checkpoint.objects.create(run_id=run_id, step=step, path=f"c/{step}", sha256="0", size_bytes=1, **fields)


def test_the_api_shows_alarms_of_a_project_and_of_a_job():
    job, claimed = running(config={"optim": {"learning_rate": 1e-4}}, title="First")
    checkpoint(claimed.run_id, 10, files_pruned_at=NOW)
    good = checkpoint(claimed.run_id, 30, is_best=True)
    checkpoint(claimed.run_id, 40)
    on_run = ring(job=job, run=Run.objects.get(), name="length_bias")
    lost = ring(name="worker_lost", step=None)
    ring(builders.project(slug="other"))
    olga = world.client(job.project.created_by)
    base = "/api/v1/projects/helpful"
    answer = olga.get(f"{base}/alarms").json()
    assert [item["id"] for item in answer["items"]] == [str(lost.public_id), str(on_run.public_id)]
    assert (answer["open"], answer["open_by_name"]) == (2, {"length_bias": 1, "worker_lost": 1})
    shown = answer["items"][1]
    assert shown["job"] == {
        "id": str(job.public_id), "number": 1, "method": "reward", "title": "First", "status": "running",
    }  # fmt: skip
    rule = ALARMS["length_bias"]
    told = (shown["title"], shown["measures"], shown["limit"], shown["remedy"])
    assert told == (rule.title, rule.measures, rule.limit, rule.remedy)
    assert shown["evidence"] == [{"text": "so it is", "step": 40, "figures": {"eval/pairs": 40.0}}]
    assert (shown["attempt"], shown["step"], shown["actions"]) == (1, 40, ["pause"])
    assert shown["best_checkpoint"] == shown["checkpoint_before"] == {"id": str(good.public_id), "step": 30}
    assert (answer["items"][0]["job"], answer["items"][0]["actions"]) == (None, [])
    assert olga.get(f"{base}/overview").json()["alarms"] == {"length_bias": 1, "worker_lost": 1}
    of_job = olga.get(f"{base}/jobs/{job.public_id}/alarms").json()
    assert [item["name"] for item in of_job["items"]] == ["length_bias"]
    assert olga.get(f"{base}/alarms?job={job.public_id}").json()["items"] == of_job["items"]
    said = olga.post(f"{base}/alarms/{lost.public_id}/acknowledge", {"note": "It was the fuse."})
    assert (said.status_code, said.json()["note"], said.json()["acknowledged_by"]) == (200, "It was the fuse.", "olga")
    again = olga.post(f"{base}/alarms/{lost.public_id}/acknowledge", {"note": "again"})
    assert (again.status_code, again.json()["code"]) == (409, "alarm_acknowledged")
    assert olga.post(f"{base}/alarms/{on_run.public_id}/acknowledge", {"note": ""}).status_code == 400
    for query, expected in (("open=true", [on_run]), ("open=false", [lost])):
        items = olga.get(f"{base}/alarms?{query}").json()["items"]
        assert [item["id"] for item in items] == [str(alarm.public_id) for alarm in expected]
    assert olga.get(f"{base}/alarms/{lost.public_id}").json()["acknowledged_at"] is not None
    for query in ("open=yes", "job=7"):
        assert olga.get(f"{base}/alarms?{query}").status_code == 400


def test_alarms_are_for_researchers():
    alarm = ring()
    job = submit()
    base = "/api/v1/projects/helpful"
    paths = [f"{base}/alarms", f"{base}/alarms/{alarm.public_id}", f"{base}/jobs/{job.public_id}/alarms"]
    posts = [f"{base}/alarms/{alarm.public_id}/acknowledge", f"{base}/alarms/{alarm.public_id}/act"]
    stan = world.client(builders.user("stan"))
    ann = world.client(builders.member(alarm.project, "ann", Role.ANNOTATOR))
    viv = world.client(builders.member(alarm.project, "viv", Role.VIEWER))
    for path in paths:
        assert (stan.get(path).status_code, ann.get(path).status_code, viv.get(path).status_code) == (404, 403, 200)
    for path in posts:
        body = {"note": "n", "action": "pause"}
        codes = [caller.post(path, body).status_code for caller in (stan, ann, viv)]
        assert codes == [404, 403, 403]
    other = ring(builders.project(slug="other"))
    olga = world.client(alarm.project.created_by)
    assert olga.get(f"{base}/alarms/{other.public_id}").status_code == 404


def test_a_page_of_alarms_costs_as_much_with_many_as_with_few():
    job, _ = running()
    olga = world.client(job.project.created_by)
    costs = []
    for count in (1, 6):
        for _ in range(count):
            more, taken = running()
            checkpoint(taken.run_id, 10)
            alarm = ring(job=more, run=Run.objects.get(job=more))
            Alarm.objects.filter(pk=alarm.pk).update(
                done=[{"action": "pause", "at": NOW.isoformat(), "by": str(job.project.created_by.public_id)}]
            )
        with CaptureQueriesContext(connection) as spent:
            answer = olga.get("/api/v1/projects/helpful/alarms").json()
        assert answer["items"][0]["done"][0]["by"] == "olga"
        costs.append(len(spent))
    assert costs[0] == costs[1] <= 9


def test_every_alarm_that_can_be_raised_says_what_to_do():
    assert set(alarms.CATALOGUE) == set(ALARMS) | set(alarms.PLATFORM)
    for about in alarms.CATALOGUE.values():
        assert all((about.title, about.measures, about.limit, about.remedy))
