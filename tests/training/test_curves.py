"""Curves: thinned without losing a spike, each step from its latest attempt, live, compared, and as files."""

from __future__ import annotations

import csv
import io
import math
import struct
import time
import zipfile
from datetime import timedelta

import numpy as np
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from tests import builders, world
from tests.training import rows, toy_engine
from tests.training.rows import Runner, claim, submit, toy_hooks
from training import curves, jobs, tensorboard
from training.curves import MAIN, lines, thin
from training.curves import curves as curves_of
from training.engine.metrics import METRICS
from training.jobs import Ending, Outcome
from training.models import Alarm, JobStatus, Run, RunMetric, RunSample
from training.runner import Timing

pytestmark = pytest.mark.django_db
T0 = 1_700_000_000.0


def write(run, metrics, *, seq=1):
    """Lines as a runner stores them; metrics by step."""
    RunMetric.objects.bulk_create(
        RunMetric(run=run, seq=i, step=step, time=T0 + step, values=values, offset=i)
        for i, (step, values) in enumerate(metrics.items(), start=seq)
    )


def write_samples(run, step, texts):
    RunSample.objects.bulk_create(
        RunSample(
            run=run, seq=step * 100 + i, step=step, offset=i,
            body={"prompt_id": name, "prompt": [{"role": "user", "content": f"{name}?"}], "completion": text},
        )
        for i, (name, text) in enumerate(texts.items())
    )  # fmt: skip


def job_with(metrics, **fields):
    """A running job with these lines."""
    job = submit(**fields)
    claimed = claim(job_id=job.pk)
    write(Run.objects.get(pk=claimed.run_id), metrics)
    job.refresh_from_db()
    return job


def twice_tried():
    """Steps 1 to 8, killed; again from the checkpoint of step 5, now at step 7."""
    job = submit()
    first = claim(job_id=job.pk)
    write(Run.objects.get(pk=first.run_id), {s: {"train/loss": float(s), "eval/loss": 10.0 + s} for s in range(1, 9)})
    saved = jobs.record_checkpoint(first, run_id=first.run_id, step=5, path="x", sha256="0", size_bytes=1)
    outcome = Outcome(reason="killed", exit_code=-9, last_step=8)
    jobs.requeue(job_id=job.pk, owner=first.owner, ending=Ending.KILLED, outcome=outcome, now=builders.NOW)
    second = claim(job_id=job.pk, now=builders.NOW + timedelta(hours=1))
    jobs.record_resume(second, saved)
    write(Run.objects.get(pk=second.run_id), {s: {"train/loss": 100.0 + s} for s in (6, 7)})
    job.refresh_from_db()
    return job


def olga():
    return world.client(rows.project().created_by)


def address(job, end):
    return f"/api/v1/projects/helpful/jobs/{job.public_id}/{end}"


# --- thinning ---------------------------------------------------------------------------------------------------------


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300),
    gaps=st.lists(st.integers(1, 50), min_size=300, max_size=300),
    points=st.integers(10, 60),
)
def test_a_thinned_curve_keeps_ends_and_extremes_and_is_no_longer_than_asked(values, gaps, points):
    column, steps = np.array(values), np.cumsum(gaps[: len(values)])
    kept = thin(steps, column, points=points)
    assert len(kept) <= points
    assert (np.diff(kept) > 0).all()
    assert {0, len(values) - 1} <= set(kept.tolist())
    assert column[kept].min() == column.min() and column[kept].max() == column.max()
    if len(values) <= points:
        assert len(kept) == len(values)


def test_every_stretch_keeps_its_own_spike():
    steps = np.arange(10_000)
    column = np.sin(steps / 500)
    spikes = [137, 4_242, 9_001]
    column[spikes] = [9.0, -9.0, 7.0]
    kept = set(thin(steps, column, points=200).tolist())
    assert set(spikes) <= kept
    assert 150 <= len(kept) <= 200
    # No stretch of the axis is left empty, so the shape can be drawn from what is kept.
    assert max(np.diff(sorted(kept))) <= 2 * 10_000 / 99


# --- one job ----------------------------------------------------------------------------------------------------------


def test_each_step_comes_from_its_latest_attempt():
    job = twice_tried()
    found = {curve.name: curve for curve in curves_of(job, names=(), points=500).curves}
    assert found["train/loss"].steps == list(range(1, 9))
    assert found["train/loss"].values == [1, 2, 3, 4, 5, 106, 107, 8]
    assert found["train/loss"].times == [T0 + step for step in range(1, 9)]
    assert found["eval/loss"].points == 8
    named = curves_of(job, names=("train/loss", "train/none"), points=500).curves
    assert [(curve.name, curve.values) for curve in named] == [("train/loss", [1, 2, 3, 4, 5, 106, 107, 8])]


def test_who_was_away_is_given_what_it_missed_and_ends_with_the_same_curve():
    job = submit()
    first = claim(job_id=job.pk)
    run = Run.objects.get(pk=first.run_id)
    write(run, {step: {"train/loss": float(step)} for step in range(1, 7)})
    browser = olga()
    before = browser.get(address(job, "curves")).json()
    held = dict(zip(before["curves"][0]["steps"], before["curves"][0]["values"], strict=True))
    assert (before["first_step"], before["last_step"], before["terminal"]) == (1, 6, False)

    write(run, {step: {"train/loss": float(step)} for step in range(7, 11)}, seq=7)
    outcome = Outcome(reason="killed", last_step=10)
    jobs.requeue(job_id=job.pk, owner=first.owner, ending=Ending.SHUTDOWN, outcome=outcome, now=builders.NOW)
    second = claim(job_id=job.pk)
    write(Run.objects.get(pk=second.run_id), {step: {"train/loss": 100.0 + step} for step in range(4, 9)})
    missed = browser.get(address(job, f"curves?after={before['next_after']}")).json()
    assert (missed["first_step"], missed["last_step"]) == (4, 10)
    held = {step: value for step, value in held.items() if not missed["first_step"] <= step <= missed["last_step"]}
    held |= dict(zip(missed["curves"][0]["steps"], missed["curves"][0]["values"], strict=True))
    whole = browser.get(address(job, "curves")).json()["curves"][0]
    assert sorted(held.items()) == list(zip(whole["steps"], whole["values"], strict=True))
    assert whole["values"] == [1, 2, 3, 104, 105, 106, 107, 108, 9, 10]
    # The same cursor serves the plain pages of lines, and nothing is left.
    rest = browser.get(address(job, f"metrics?after={missed['next_after']}")).json()
    assert rest["items"] == []
    again = browser.get(address(job, f"curves?after={missed['next_after']}")).json()
    assert (again["curves"], again["first_step"], again["next_after"]) == ([], None, missed["next_after"])


def test_a_long_run_is_thinned_and_of_a_very_long_one_every_so_manieth_line_is_read():
    job = job_with({step: {"train/loss": float(step == 1_234), "time/step": 1.0} for step in range(3_000)})
    (loss,) = curves_of(job, names=("train/loss",), points=100).curves
    assert (loss.points, len(loss.steps) <= 100, loss.steps[0], loss.steps[-1]) == (3_000, True, 0, 2_999)
    assert loss.values[loss.steps.index(1_234)] == 1.0
    coarse = curves_of(job, names=("train/loss",), points=5_000, most_lines=1_000)
    assert coarse.stride == 3
    assert coarse.curves[0].steps == [*range(0, 3_000, 3), 2_999]  # and the last line, always
    assert coarse.next_after == RunMetric.objects.latest("pk").pk


def test_what_happened_is_marked_at_its_step():
    job = twice_tried()
    run = job.runs.get(attempt=2)
    Alarm.objects.create(project=job.project, job=job, run=run, name="kl_budget", step=7, key="k")
    result = {"status": "diverged", "reason": "train/loss is nan at step 8"}
    second = jobs.Claim(job_id=job.pk, run_id=run.pk, owner=run.owner, attempt=2)
    assert jobs.fail(second, Outcome(reason="diverged", exit_code=4, last_step=7, result=result))
    job.refresh_from_db()
    marks = curves_of(job, names=(), points=100).marks
    assert [(mark.step, mark.kind, mark.attempt, mark.name) for mark in marks] == [
        (5, "resumed", 2, ""), (7, "alarm", 2, "kl_budget"), (8, "diverged", 2, "train/loss"),
    ]  # fmt: skip
    shown = olga().get(address(job, "curves")).json()
    assert shown["marks"][2]["text"] == result["reason"]
    assert shown["terminal"] is True


def test_the_number_of_queries_is_fixed(django_assert_num_queries):
    job = job_with({step: {"train/loss": 1.0} for step in range(50)})
    with django_assert_num_queries(4):
        curves_of(job, names=("train/loss",), points=10)
    tried = twice_tried()
    with django_assert_num_queries(4):
        curves_of(tried, names=(), points=10)


@pytest.mark.django_db(transaction=True)
def test_a_line_and_a_sample_can_be_read_within_two_seconds_of_being_written():
    job = submit()
    timing = Timing(lease_seconds=15, heartbeat_seconds=3)  # the others are production's
    runner = Runner(toy_hooks({"steps": 30, "every": 10, "step_seconds": 0.1}), timing=timing)
    browser, after, sample_after, late = olga(), 0, 0, []
    seen_samples: list[int] = []
    while True:
        page = browser.get(address(job, f"metrics?after={after}")).json()
        late += [time.time() - item["time"] for item in page["items"]]
        after = page["next_after"]
        samples = browser.get(address(job, f"samples?after={sample_after}")).json()
        seen_samples += [item["step"] for item in samples["items"]]
        sample_after = samples["next_after"]
        if page["terminal"] and samples["terminal"]:
            break
        time.sleep(0.05)
    assert runner.join() is JobStatus.SUCCEEDED
    assert len(late) == 30
    assert seen_samples == [10, 20, 30]
    assert max(late) < 2.0, sorted(late)[-3:]
    assert rows.curve(job) == toy_engine.curve(30)


# --- several jobs -----------------------------------------------------------------------------------------------------


def test_jobs_are_compared_by_curves_finals_config_and_completions():
    config = {"optim": {"learning_rate": 1e-4}, "batch": {"pairs": 4}}
    one = job_with({1: {"train/loss": 0.7}, 2: {"train/loss": 0.6, "eval/loss": 0.65}}, config=config)
    two = job_with(
        {1: {"train/loss": 0.9, "odd/name": 1.0}}, config={"optim": {"learning_rate": 1e-3}, "batch": {"pairs": 4}},
        title="hot",
    )  # fmt: skip
    three = submit(config=config)
    for job, texts in ((one, {"p": "hello", "q": "old"}), (two, {"p": "goodbye"})):
        write_samples(job.runs.get(), 1, {"p": "early"})
        write_samples(job.runs.get(), 2, texts)
    run = one.runs.get()
    held = jobs.Claim(job_id=one.pk, run_id=run.pk, owner=run.owner, attempt=1)
    assert jobs.finish(held, Outcome(reason="done", result={"status": "done", "metrics": {"eval/loss": 0.61}}))
    body = olga().get(f"/api/v1/projects/helpful/jobs/compare?ids={two.public_id},{one.public_id},{three.public_id}")
    body = body.json()
    assert [row["number"] for row in body["jobs"]] == [two.number, one.number, three.number]
    assert [row["status"] for row in body["jobs"]] == ["running", "succeeded", "queued"]
    shown = [{curve["name"]: curve["values"] for curve in row["curves"]["curves"]} for row in body["jobs"]]
    assert shown == [{"train/loss": [0.9]}, {"eval/loss": [0.65], "train/loss": [0.7, 0.6]}, {}]  # odd/name is not main
    assert [row["finals"] for row in body["jobs"]] == [{"train/loss": 0.9}, {"eval/loss": 0.61}, {}]
    assert body["differences"] == [{"key": "optim.learning_rate", "values": [1e-3, 1e-4, 1e-4]}]
    assert body["alike"] >= 2  # method and batch.pairs at least
    (beside,) = body["samples"]  # q was written by one job only
    assert beside["prompt"] == [{"role": "user", "content": "p?"}]
    assert [sample and sample["completion"] for sample in beside["samples"]] == ["goodbye", "hello", None]
    named = olga().get(f"/api/v1/projects/helpful/jobs/compare?ids={two.public_id}&names=odd/name").json()
    assert [curve["name"] for curve in named["jobs"][0]["curves"]["curves"]] == ["odd/name"]


def test_comparing_many_jobs_takes_as_many_queries_as_comparing_two():
    found = [job_with({1: {"train/loss": 1.0}}) for _ in range(5)]
    for job in found:
        write_samples(job.runs.get(), 1, {"p": "x"})
    browser, counts = olga(), []
    for n in (2, 5):
        ids = ",".join(str(job.public_id) for job in found[:n])
        with CaptureQueriesContext(connection) as asked:
            assert browser.get(f"/api/v1/projects/helpful/jobs/compare?ids={ids}").status_code == 200
        counts.append(len(asked))
    assert counts[0] == counts[1]


# --- files ------------------------------------------------------------------------------------------------------------


def body_of(answer):
    assert answer.status_code == 200
    return b"".join(answer.streaming_content)


def test_the_csv_has_every_step_once_and_every_metric():
    job = twice_tried()
    answer = olga().get(address(job, "metrics.csv"))
    table = list(csv.DictReader(io.StringIO(body_of(answer).decode())))
    assert list(table[0]) == ["attempt", "step", "time", "eval/loss", "train/loss"]
    assert [(int(row["attempt"]), int(row["step"]), float(row["train/loss"])) for row in table] == [
        *((1, step, float(step)) for step in range(1, 6)), (2, 6, 106.0), (2, 7, 107.0), (1, 8, 8.0),
    ]  # fmt: skip
    assert [row["eval/loss"] for row in table] == ["11.0", "12.0", "13.0", "14.0", "15.0", "", "", "18.0"]
    assert f'filename="helpful-job-{job.number}.csv"' in answer["Content-Disposition"]
    empty = submit()
    assert body_of(olga().get(address(empty, "metrics.csv"))) == b"attempt,step,time\r\n"


def test_a_file_of_many_pages_has_every_line():
    n = 2 * curves.PAGE + 7
    job = job_with({step: {"train/loss": float(step)} for step in range(n)})
    assert [line.step for line in lines(job)] == list(range(n))


def crc32c_by_bits(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c_by_bits(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def fields(data):
    """The fields of a protobuf message: number → values, a number or bytes, by wire type."""
    place, found = 0, {}

    def varint():
        nonlocal place
        number = shift = 0
        while True:
            byte = data[place]
            place += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while place < len(data):
        key = varint()
        match key & 7:
            case 0:
                value = varint()
            case 1:
                value, place = struct.unpack_from("<d", data, place)[0], place + 8
            case 2:
                length = varint()
                value, place = data[place : place + length], place + length
            case 5:
                value, place = struct.unpack_from("<f", data, place)[0], place + 4
        found.setdefault(key >> 3, []).append(value)
    return found


def read_events(data):
    """(wall time, step, {tag: value}) of each event, every checksum checked; the first says the version."""
    place, found, version = 0, [], None
    while place < len(data):
        head = data[place : place + 8]
        (length,) = struct.unpack("<Q", head)
        (of_head,) = struct.unpack_from("<I", data, place + 8)
        record = data[place + 12 : place + 12 + length]
        (of_record,) = struct.unpack_from("<I", data, place + 12 + length)
        assert (of_head, of_record) == (masked(head), masked(record))
        place += 16 + length
        event = fields(record)
        if 3 in event:
            version = event[3][0]
            continue
        values = [fields(value) for value in fields(event[5][0])[1]]
        found.append((event[1][0], event[2][0], {value[1][0].decode(): value[2][0] for value in values}))
    return version, found


def test_checksums_are_those_of_the_standard():
    # "123456789" is the check value of CRC-32C; 32 zero bytes are RFC 3720's first example.
    assert tensorboard.crc32c([b"123456789", bytes(32), b""]).tolist() == [0xE3069283, 0x8A9136AA, 0]


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8))
def test_checksums_of_many_records_are_those_of_each(records):
    assert tensorboard.crc32c(records).tolist() == [crc32c_by_bits(record) for record in records]


def test_the_event_file_holds_every_step_once():
    job = twice_tried()
    answer = olga().get(address(job, "tensorboard"))
    version, events = read_events(body_of(answer))
    assert version == b"brain.Event:2"
    assert [(moment, step) for moment, step, _ in events] == [(T0 + step, step) for step in range(1, 9)]
    assert [values["train/loss"] for *_, values in events] == [1, 2, 3, 4, 5, 106, 107, 8]
    assert events[0][2] == {"train/loss": 1.0, "eval/loss": 11.0}
    assert "tfevents" in answer["Content-Disposition"]


def test_numbers_that_a_float32_cannot_hold_and_large_steps_are_written():
    pieces = tensorboard.event_file([(1.5, 2**31 - 1, {"a": 1e300, "b": -1e-3})], started_at=1.0)
    _, [(moment, step, values)] = read_events(b"".join(pieces))
    assert (moment, step, values["a"]) == (1.5, 2**31 - 1, math.inf)
    assert values["b"] == pytest.approx(-1e-3)


def test_several_jobs_are_a_directory_each():
    one = job_with({1: {"train/loss": 0.5}}, title="DPO: β = 0.1 / hot")
    two = job_with({step: {"train/loss": float(step)} for step in range(600)}, title="")
    answer = olga().get(f"/api/v1/projects/helpful/jobs/tensorboard?ids={one.public_id},{two.public_id}")
    with zipfile.ZipFile(io.BytesIO(body_of(answer))) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert [name.split("/")[0] for name in names] == [f"job-{one.number}-DPO-0.1-hot", f"job-{two.number}"]
        _, events = read_events(archive.read(names[1]))
    assert [step for _, step, _ in events] == list(range(600))


# --- who may, and what is refused -------------------------------------------------------------------------------------


def test_a_stranger_finds_none_of_it_and_an_annotator_may_not():
    job = job_with({1: {"train/loss": 1.0}})
    stan, ann = world.client(builders.user("stan")), world.client(builders.member(job.project, "ann"))
    vera = world.client(builders.member(job.project, "vera", "viewer"))
    base = "/api/v1/projects/helpful/jobs"
    for end in (
        f"{job.public_id}/curves", f"{job.public_id}/metrics.csv", f"{job.public_id}/tensorboard",
        f"compare?ids={job.public_id}", f"tensorboard?ids={job.public_id}",
    ):  # fmt: skip
        answers = [client.get(f"{base}/{end}").status_code for client in (stan, ann, vera)]
        assert answers == [404, 403, 200], end


def test_a_job_of_another_project_is_unknown_and_wrong_parameters_are_named():
    other = builders.project(slug="other")
    foreign = submit(project=other)
    job = job_with({1: {"train/loss": 1.0}})
    browser, base = olga(), "/api/v1/projects/helpful/jobs"
    for end in ("curves", "metrics.csv", "tensorboard"):
        assert browser.get(f"{base}/{foreign.public_id}/{end}").status_code == 404
    for end, name in (
        (f"compare?ids={job.public_id},{foreign.public_id}", "ids"), ("compare", "ids"), ("compare?ids=7", "ids"),
        ("tensorboard?ids=" + ",".join(str(i) for i in range(13)), "ids"),
        (f"{job.public_id}/curves?points=5", "points"), (f"{job.public_id}/curves?after=-1", "after"),
        (f"{job.public_id}/curves?names=" + ",".join(f"a/{i}" for i in range(25)), "names"),
    ):  # fmt: skip
        answer = browser.get(f"{base}/{end}")
        assert (answer.status_code, list(answer.json()["details"])) == (400, [name]), end
    odd = browser.get(f'{base}/{job.public_id}/curves?names=train/loss,it\'s "odd".$[0]')
    assert [curve["name"] for curve in odd.json()["curves"]] == ["train/loss"]


def test_the_main_metrics_are_ones_that_the_engine_writes():
    assert set(MAIN) <= set(METRICS)
