"""Several claim, submit and cancel at once: each job has one owner, each number one job."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest
from django.db import connection

from tests.builders import NOW
from tests.training.rows import claim, project, submit
from training import jobs
from training.models import Job, JobStatus, Run

pytestmark = pytest.mark.django_db(transaction=True)


def at_once(*acts: Callable[[], object]) -> list[object]:
    """The results of acts in threads of their own that start together."""
    results: list[object] = []
    barrier = threading.Barrier(len(acts))

    def one(act: Callable[[], object]) -> None:
        barrier.wait()
        try:
            results.append(act())
        finally:
            connection.close()

    threads = [threading.Thread(target=one, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_of_two_that_claim_one_job_one_gets_it():
    job = submit()
    results = at_once(claim, claim)
    assert sorted(result is None for result in results) == [False, True]
    assert Run.objects.count() == 1
    job.refresh_from_db()
    assert job.attempt == 1


def test_many_claimers_share_many_jobs_without_a_double():
    for _ in range(6):
        submit()
    results = at_once(*[claim] * 8)
    taken = [result.job_id for result in results if result is not None]
    while (more := claim()) is not None:  # SKIP LOCKED may leave a claimer without a job, never a job to two
        taken.append(more.job_id)
    assert sorted(taken) == sorted(Job.objects.values_list("pk", flat=True))
    assert Run.objects.count() == 6


def test_jobs_that_are_submitted_at_once_get_numbers_of_their_own():
    project()
    results = at_once(*[submit] * 6)
    assert sorted(job.number for job in results) == [1, 2, 3, 4, 5, 6]


def test_a_job_that_is_claimed_and_cancelled_at_once_is_stopped_either_way():
    for _ in range(5):
        job = submit()
        at_once(partial(claim, job_id=job.pk), partial(jobs.cancel, job, now=NOW))
        job.refresh_from_db()
        asked = job.cancel_requested_at is not None
        assert asked and job.status in {JobStatus.RUNNING, JobStatus.CANCELLED}
        assert Run.objects.filter(job=job).count() == (job.status == JobStatus.RUNNING)
