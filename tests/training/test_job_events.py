"""A job's end is an event, once, however it ends; and who asked for what is written down."""

from __future__ import annotations

import pytest

from annotation.models import AuditEvent, Delivery, Webhook
from tests import builders
from tests.builders import NOW
from training import jobs
from training.jobs import Ending, Outcome, submit
from training.models import Queue

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    made = builders.project()
    Webhook.objects.create(
        project=made, url="https://example.org/", events=["job.finished"], secret="s", created_by=made.created_by
    )
    return made


def queued(project, **fields):
    return submit(project=project, method="reward", config={}, by=None, now=NOW, **fields)


def claim(*, now):
    return jobs.claim(queue=Queue.GPU, host="here", lease_seconds=60, now=now)


def told():
    return [(row.body["data"]["number"], row.body["data"]["status"]) for row in Delivery.objects.order_by("pk")]


@pytest.mark.parametrize("end", [jobs.finish, jobs.fail])
def test_a_job_that_ends_tells_so_once(project, end):
    queued(project)
    claimed = claim(now=NOW)
    assert end(claimed, Outcome(reason="so it is"), now=NOW)
    assert not end(claimed, Outcome(reason="so it is"), now=NOW)
    assert told() == [(1, "succeeded" if end is jobs.finish else "failed")]
    assert Delivery.objects.get().body["data"]["reason"] == "so it is"


def test_a_job_that_is_queued_again_has_not_ended(project):
    job = queued(project)
    claimed = claim(now=NOW)
    jobs.requeue(
        job_id=job.pk, owner=claimed.owner, ending=Ending.SHUTDOWN, outcome=Outcome(reason="shutdown"), now=NOW
    )
    assert told() == []


def test_a_cancelled_job_and_those_that_waited_for_it_tell_so(project):
    first = queued(project)
    queued(project, depends_on=[first])
    jobs.cancel(first, by=project.created_by, now=NOW)
    assert jobs.fail_dependents(now=NOW) == 1
    assert jobs.fail_dependents(now=NOW) == 0
    assert told() == [(1, "cancelled"), (2, "failed")]
    assert AuditEvent.objects.get(action="job.cancelled").by == project.created_by


def test_asking_a_running_job_to_stop_twice_is_written_down_once(project):
    job = queued(project)
    claim(now=NOW)
    for _ in range(2):
        jobs.cancel(job, by=project.created_by, now=NOW)
    assert AuditEvent.objects.filter(action="job.cancelled").count() == 1
    assert told() == []
