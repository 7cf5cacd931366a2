"""Alarms as rows: raised once for a cause, told to people and programs, acknowledged with a note.

Those of a run come from the lines that the engine writes, in the transaction that stores them; those of the platform
from rows that say what has happened, by the tick. Both may run twice or beside themselves: a cause has one key. Alarms
about people's votes are found by `training.label_alarms`; what can be done about one is in `training.remedies`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.db import transaction
from django.db.models import Count, Max, Prefetch, Q, QuerySet

from annotation import mailing
from annotation.errors import DomainError, Invalid, Kind
from annotation.gate import write
from annotation.models import AuditAction, AuditEvent, Project, Role, User, Webhook
from annotation.people import audit
from annotation.reports.change import BLOCK
from annotation.webhooks import Event, emit
from training import jobs, workers
from training.engine import alarms as rules
from training.models import Alarm, Checkpoint, Job, JobStatus, Queue, Quota, Run, RunMetric, Worker

WAITING_SECONDS = 60
"""A nudge is sent again after 30 s: a job that still waits beside an idle worker after two of them waits in vain."""
LOOK_BACK = timedelta(days=1)
"""A tick that was away for longer tells what is newer than this."""
MOST_WAITING = 50
RECENT_LINES = 200
AGREEMENT_DROP = 0.05
"""A smaller drop matters little, however certain it is."""
GOLD_MARK = 0.7
_PREFIX = "alarm/"

PLATFORM: dict[str, rules.Alarm] = {
    "run_diverged": rules.Alarm(
        "Run diverged",
        "a loss, a gradient or a score was not finite, so the run has ended",
        "any value that is not finite",
        "Start a clone with a lower learning rate, from the last good checkpoint if there is one; read its samples.",
    ),
    "run_stalled": rules.Alarm(
        "Run stalled",
        "an attempt made no step for too long, or its worker was not heard of",
        "no new step, or no heartbeat within the lease",
        "Look at the log and at the worker; the job goes on by itself from its newest checkpoint unless it has failed.",
    ),
    "job_waiting": rules.Alarm(
        "Job waits in vain",
        "a job could start, and a worker of its queue lives and does nothing",
        f"{WAITING_SECONDS} seconds",
        "Do what the worker says it lacks; if it says nothing, restart it: it has probably lost its broker.",
    ),
    "webhook_paused": rules.Alarm(
        "Webhook paused",
        "a webhook failed too often, and its deliveries wait",
        "every try of one delivery",
        "Mend the receiver, then resume the webhook and say whether what waits is sent.",
    ),
    "worker_lost": rules.Alarm(
        "Worker lost",
        "a worker stopped telling that it lives, without ending orderly",
        "no heartbeat within the lease",
        "Look at its machine: memory, disk, GPU, network. Its jobs go on at other workers, if there are any.",
    ),
    "agreement_drop": rules.Alarm(
        "Agreement drop",
        f"people agree less on the last {BLOCK} comparisons than on those before them",
        f"{AGREEMENT_DROP:.0%} or more, with 99 % certainty that it is one",
        "Look at the most divided of these comparisons: new kinds of prompts, new people, or a guideline that does not "
        "say. Then mend the guideline, or have people read it again.",
    ),
    "annotator_below_gold": rules.Alarm(
        "Annotator below gold",
        "a person answers hidden gold wrong too often",
        f"the whole 95 % interval below what the project pauses at ({GOLD_MARK:.0%} where it pauses nobody)",
        "Look at the person's answers, and at the gold: is it right? Then write to them, ask them to qualify again, or "
        "exclude their votes.",
    ),
    "annotator_one_sided": rules.Alarm(
        "Annotator one-sided",
        "a person prefers the left or the right side, whatever stands there",
        "0.4 logits beyond what the others' votes say, at a false-discovery rate of 5 %",
        "Look at the person's answers and their time for each. Then write to them, or exclude their votes.",
    ),
}
CATALOGUE: dict[str, rules.Alarm] = {**rules.ALARMS, **PLATFORM}
"""What a person reads about each alarm, those of the engine first."""

log = logging.getLogger(__name__)


class AlarmAcknowledged(DomainError):
    """Somebody has acknowledged the alarm already."""

    code = "alarm_acknowledged"
    kind = Kind.CONFLICT


# --- raising ----------------------------------------------------------------------------------------------------------


def raise_alarm(
    *,
    project: Project,
    key: str,
    name: str,
    evidence: Sequence[Mapping[str, Any]],
    job: Job | None = None,
    run: Run | None = None,
    step: int | None = None,
    now: datetime,
) -> Alarm | None:
    """An alarm with its event and its mails to the owners; None, and nothing told, if its cause has one already.

    Args:
        key: names the cause within the project.
        evidence: `{"text": a sentence, "step": …, "figures": {metric: value}}` for each reason.
    """
    with write(), transaction.atomic():
        alarm, made = Alarm.objects.get_or_create(
            project=project,
            key=key,
            defaults={
                "name": name, "job": job, "run": run, "step": step, "evidence": list(evidence), "raised_at": now,
            },
        )  # fmt: skip
        if not made:
            return None
        _tell(alarm, now)
    log.warning("project %s: alarm %s (%s)", project.slug, name, key)
    return alarm


def _tell(alarm: Alarm, now: datetime) -> None:
    about, job = CATALOGUE[alarm.name], alarm.job
    sentences = [item["text"] for item in alarm.evidence]
    payload = {
        "alarm": str(alarm.public_id), "name": alarm.name, "title": about.title,
        "job": None if job is None else str(job.public_id), "number": None if job is None else job.number,
        "step": alarm.step, "evidence": sentences, "remedy": about.remedy,
    }  # fmt: skip
    emit(project=alarm.project, event=Event.ALARM_RAISED, payload=payload, now=now)
    owners = User.objects.filter(
        memberships__project=alarm.project, memberships__role=Role.OWNER, memberships__left_at=None
    )
    where = "" if job is None else f", job {job.number}"
    mailing.post(
        project=alarm.project,
        to=owners,
        subject=f"[{alarm.project.name}] {about.title}{where}",
        text=_letter(alarm, about, sentences),
        now=now,
    )


def _letter(alarm: Alarm, about: rules.Alarm, sentences: Sequence[str]) -> str:
    job = alarm.job
    step = "" if alarm.step is None else f", at step {alarm.step}"
    lines = [
        f"{about.title}: {about.measures}.",
        "",
        f"Project: {alarm.project.name}",
        *([] if job is None else [f"Job {job.number}: {job.title or job.method}{step}"]),
        *(f"Why: {sentence}" for sentence in sentences),
        f"It rings at: {about.limit}.",
        f"What to do: {about.remedy}",
    ]
    if settings.SITE_URL:
        lines += ["", f"{settings.SITE_URL}/r/{alarm.project.slug}/alarms"]
    return "\n".join(lines) + "\n"


def because(text: str, *, step: int | None = None, **figures: float) -> dict[str, Any]:
    """A reason of an alarm, as its evidence holds it."""
    return {"text": text, "step": step, "figures": figures}


# --- of the engine ----------------------------------------------------------------------------------------------------


def take(*, rows: Sequence[RunMetric], now: datetime) -> int:
    """Raise what these stored lines of one run ring, each alarm of a job once; how many are new.

    To be called inside the transaction that stores the lines, so that neither is there without the other.
    """
    rung: dict[str, RunMetric] = {}
    for row in rows:
        for metric, value in row.values.items():
            if metric.startswith(_PREFIX) and value:
                rung.setdefault(metric.removeprefix(_PREFIX), row)
    rung = {name: row for name, row in rung.items() if name in rules.ALARMS}
    if not rung:
        return 0
    run = Run.objects.select_related("job__project").get(pk=rows[0].run_id)
    job = run.job
    keys = {name: _key(job, name) for name in rung}
    known = set(Alarm.objects.filter(project=job.project, key__in=keys.values()).values_list("key", flat=True))
    raised = 0
    for name, row in rung.items():
        if keys[name] in known:
            continue
        made = raise_alarm(
            project=job.project, key=keys[name], name=name, evidence=_evidence(name, job, row), job=job, run=run,
            step=row.step, now=now,
        )  # fmt: skip
        raised += made is not None
    return raised


def _evidence(name: str, job: Job, row: RunMetric) -> list[dict[str, Any]]:
    """The rules that rang, from the figures that the engine had: this line's, and the last of each before it."""
    lines = RunMetric.objects.filter(run__job=job)
    figures: dict[str, float] = {}
    first = lines.order_by("pk").values_list("values", flat=True).first()  # has the reference's figures
    for values in (
        first,
        *reversed(lines.filter(step__lte=row.step).order_by("-pk").values_list("values", flat=True)[:RECENT_LINES]),
    ):
        figures |= values or {}
    figures |= {**row.values, "train/step": float(row.step)}
    found = [
        because(reason.text, step=row.step, **reason.figures)
        for reason in rules.reasons(figures)
        if reason.alarm == name
    ]
    # The engine may know a figure under a name that no line has: then the alarm says what it measures.
    about = rules.ALARMS[name]
    return found or [because(f"{about.measures}: {about.limit}.", step=row.step, **_own_figures(name, row.values))]


def _own_figures(name: str, values: Mapping[str, float]) -> dict[str, float]:
    wanted = {need for rule in rules.RULES if rule.alarm == name for need in rule.needs}
    return {metric: values[metric] for metric in sorted(wanted) if metric in values}


# --- of the platform --------------------------------------------------------------------------------------------------


def raise_for_platform(now: datetime) -> int:
    """The tick's part: what rows say has gone wrong since `LOOK_BACK`; how many alarms are new. Safe to repeat."""
    return _raise_for_runs(now) + _raise_for_lost_workers(now) + _raise_for_waiting_jobs(now) + _raise_for_webhooks(now)


def _raise_for_runs(now: datetime) -> int:
    ended = Run.objects.filter(ended_at__gte=now - LOOK_BACK).select_related("job__project").order_by("pk")
    stalled = ended.filter(ending__in=(jobs.Ending.HUNG.value, jobs.Ending.CUT_OFF.value))
    diverged = ended.filter(Q(exit_code=4) | Q(result__status="diverged"))
    # Beyond the budget at one blow: no evaluation has rung that the budget was near.
    over_budget = ended.filter(result__status="stopped_kl").exclude(job__alarms__name="kl_budget")
    found = [(_of_attempt("run_stalled", run), run) for run in stalled.exclude(alarms__name="run_stalled")]
    found += [(_of_attempt("run_diverged", run), run) for run in diverged.exclude(alarms__name="run_diverged")]
    found += [(("kl_budget", _key(run.job, "kl_budget")), run) for run in over_budget]
    raised = 0
    for (name, key), run in found:
        evidence = [because(f"Attempt {run.attempt}: {run.reason}.", step=run.last_step)]
        made = raise_alarm(
            project=run.job.project, key=key, name=name, evidence=evidence, job=run.job, run=run, step=run.last_step,
            now=now,
        )  # fmt: skip
        raised += made is not None
    return raised


def _of_attempt(name: str, run: Run) -> tuple[str, str]:
    return name, f"{_key(run.job, name)}/{run.attempt}"


def _key(job: Job, name: str) -> str:
    return f"{job.public_id}/{name}"


def _raise_for_lost_workers(now: datetime) -> int:
    """To those whose jobs it ran, and, where no other worker of its queue lives, to those whose jobs wait."""
    raised = 0
    for worker in Worker.objects.filter(ended_at=None, lost_at__gte=now - LOOK_BACK).order_by("pk"):
        assert worker.lost_at is not None
        hurt: dict[int, Run | None] = {}
        cut = Run.objects.filter(Q(ended_at=None) | Q(ended_at__gte=worker.heartbeat_at), worker=worker)
        for run in cut.select_related("job__project").order_by("-pk"):
            hurt[run.job.project_id] = run
        if not workers.alive(now).filter(queue=worker.queue).exists():
            waiting = jobs.claimable(now=now).filter(queue=worker.queue).values_list("project_id", flat=True)
            hurt = {**dict.fromkeys(waiting.distinct()), **hurt}
        key = f"worker_lost/{worker.public_id}/{worker.lost_at.isoformat()}"
        told = set(Alarm.objects.filter(key=key, project__in=hurt).values_list("project_id", flat=True))
        text = (
            f"The worker {worker.pid} on {worker.host} (queue {worker.queue}) was last heard of at "
            f"{worker.heartbeat_at:%Y-%m-%d %H:%M:%S} UTC."
        )
        for project in Project.objects.filter(pk__in=hurt.keys() - told):
            touched = hurt[project.pk]
            job = None if touched is None else touched.job
            made = raise_alarm(
                project=project, key=key, name="worker_lost", evidence=[because(text)], job=job, run=touched, now=now
            )
            raised += made is not None
    return raised


def _raise_for_waiting_jobs(now: datetime) -> int:
    long_ago = now - timedelta(seconds=WAITING_SECONDS)
    idle = _idle_workers(now, since=long_ago)
    if not idle:
        return 0
    rows = (
        jobs.claimable(now=now)
        .filter(queue__in=idle, created_at__lt=long_ago)
        .select_related("project")
        .annotate(left_at=Max("runs__ended_at"), ready_at=Max("depends_on__ended_at"))
        .order_by("pk")[:MOST_WAITING]
    )
    waiting = _without_full_quotas([job for job in rows if _waits_since(job) < long_ago])
    again = set(
        AuditEvent.objects.filter(
            action=AuditAction.JOB_RETRIED, target__in=[str(job.public_id) for job in waiting], created_at__gte=long_ago
        ).values_list("target", flat=True)
    )
    raised = 0
    for job in waiting:
        if str(job.public_id) in again:
            continue
        worker, seconds = idle[Queue(job.queue)], (now - _waits_since(job)).total_seconds()
        state = f"takes no jobs: {worker.obstacle}" if worker.obstacle else "is idle"
        made = raise_alarm(
            project=job.project,
            key=f"{_key(job, 'job_waiting')}/{job.attempt}",
            name="job_waiting",
            evidence=[
                because(
                    f"Job {job.number} has waited for {seconds:.0f} seconds, while the worker {worker.pid} on "
                    f"{worker.host} {state}.",
                    waiting_seconds=round(seconds),
                )
            ],
            job=job,
            now=now,
        )
        raised += made is not None
    return raised


def _idle_workers(now: datetime, *, since: datetime) -> dict[Queue, Worker]:
    """By queue, a live worker that had a free slot since then, one that may take jobs before one that may not."""
    rows = workers.alive(now).filter(started_at__lt=since)
    rows = rows.annotate(running=Count("runs", filter=Q(runs__ended_at=None)), freed_at=Max("runs__ended_at"))
    return {
        Queue(worker.queue): worker
        for worker in sorted(rows, key=lambda row: (not row.obstacle, row.pk))
        if worker.running < worker.slots and (worker.freed_at is None or worker.freed_at < since)
    }


def _waits_since(job: Job) -> datetime:
    """From when on the job could have started, as far as its row tells (a retry leaves no time in it)."""
    annotated = vars(job)
    moments: tuple[datetime | None, ...] = (
        job.created_at, job.not_before_at, annotated["left_at"], annotated["ready_at"],
    )  # fmt: skip
    return max(moment for moment in moments if moment is not None)


def _without_full_quotas(waiting: Sequence[Job]) -> list[Job]:
    """Without the jobs of projects that run as many as they may."""
    projects = {job.project_id for job in waiting}
    quotas = dict(
        Quota.objects.filter(project__in=projects, running__isnull=False).values_list("project_id", "running")
    )
    running = dict(
        Job.objects.filter(project__in=quotas, status=JobStatus.RUNNING, queue=Queue.GPU)
        .values("project_id")
        .annotate(n=Count("pk"))
        .values_list("project_id", "n")
    )
    full = {project for project, most in quotas.items() if running.get(project, 0) >= (most or 0)}
    return [job for job in waiting if job.queue != Queue.GPU or job.project_id not in full]


def _raise_for_webhooks(now: datetime) -> int:
    """Webhooks that were paused by their failures, not by a person, and still are."""
    events = AuditEvent.objects.filter(action=AuditAction.WEBHOOK_PAUSED, by=None, created_at__gte=now - LOOK_BACK)
    paused = {event.target: event for event in events.select_related("project").order_by("pk")}
    hooks = Webhook.objects.filter(public_id__in=list(paused), paused_at__isnull=False, removed_at=None)
    raised = 0
    for hook in hooks.select_related("project") if paused else ():
        made = raise_alarm(
            project=hook.project,
            key=f"webhook_paused/{paused[str(hook.public_id)].pk}",
            name="webhook_paused",
            evidence=[because(f"The webhook to {urlsplit(hook.url).netloc}: {hook.pause_reason}")],
            now=now,
        )
        raised += made is not None
    return raised


# --- reading and acknowledging ----------------------------------------------------------------------------------------


def alarms(project: Project) -> QuerySet[Alarm]:
    """Alarms with what a page of them shows."""
    checkpoints = Checkpoint.objects.filter(files_pruned_at=None).order_by("step", "pk")
    return (
        Alarm.objects.filter(project=project)
        .select_related("job", "run", "acknowledged_by")
        .prefetch_related(Prefetch("job__runs__checkpoints", queryset=checkpoints))
    )


def open_counts(project: Project) -> dict[str, int]:
    """How many are not acknowledged, by name; one query."""
    rows = Alarm.objects.filter(project=project, acknowledged_at=None).values("name").annotate(n=Count("pk"))
    return dict(rows.order_by("name").values_list("name", "n"))


def checkpoints_before(alarm: Alarm) -> list[Checkpoint]:
    """Checkpoints of the alarm's job whose files are there, from before it rang, oldest first."""
    return [item for item in _checkpoints(alarm) if alarm.step is None or item.step < alarm.step]


def best_checkpoint(alarm: Alarm) -> Checkpoint | None:
    """The one that the engine calls its best, once the run has ended."""
    return next((item for item in reversed(_checkpoints(alarm)) if item.is_best), None)


def _checkpoints(alarm: Alarm) -> list[Checkpoint]:
    runs: Iterable[Run] = () if alarm.job is None else alarm.job.runs.all()
    rows = [item for run in runs for item in run.checkpoints.all() if item.files_pruned_at is None]
    return sorted(rows, key=lambda item: (item.step, item.pk))


def acknowledge(*, alarm: Alarm, note: str, by: User, now: datetime) -> None:
    """Somebody has looked, and says what they found.

    Raises:
        AlarmAcknowledged: somebody has done so before. Invalid: the note is empty.
    """
    said = note.strip()
    if not said:
        raise Invalid("note: say what you found or did", details={"note": ["may not be empty"]})
    with write(), transaction.atomic():
        rows = Alarm.objects.filter(pk=alarm.pk, acknowledged_at=None)
        if not rows.update(acknowledged_at=now, acknowledged_by=by, note=said):
            raise AlarmAcknowledged("this alarm was acknowledged already")
        audit(
            project=alarm.project,
            by=by,
            action=AuditAction.ALARM_ACKNOWLEDGED,
            target=str(alarm.public_id),
            now=now,
            note=said,
        )
