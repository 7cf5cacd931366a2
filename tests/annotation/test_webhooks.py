"""Deliveries: written with the event, signed, sent until they arrive, and given up with a reason."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from annotation import webhooks
from annotation.models import AuditEvent, Delivery, Webhook
from annotation.webhooks import BACKOFF, MOST_TRIES, Event, deliver_due, emit
from tests import builders, world
from tests.builders import NOW
from tests.receiver import receiver
from winnow.env import BASE_DIR

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return builders.project()


@pytest.fixture
def server(settings):
    with receiver() as running:
        settings.OUTBOUND = (running.endpoint,)
        yield running


@pytest.fixture
def hook(project, server):
    events = [Event.COMPARISON_SETTLED, Event.JOB_FINISHED]
    return webhooks.create(project=project, url=server.url, events=events, by=project.created_by, now=NOW)[0]


def happen(project, event=Event.COMPARISON_SETTLED, now=NOW, **payload):
    return emit(project=project, event=event, payload=payload, now=now)


def deliver(now=NOW):
    return deliver_due(clock=lambda: now)


def genuine():
    """The function that the documentation shows."""
    (code,) = re.findall(r"```python\n(.*?)```", (BASE_DIR / "docs" / "WEBHOOKS.md").read_text(), flags=re.DOTALL)
    scope = {}
    exec(code, scope)
    return scope["is_genuine"]


def test_an_event_without_listeners_costs_one_query(project, django_assert_num_queries):
    with django_assert_num_queries(1):
        assert happen(project) == 0


def test_only_those_who_asked_get_an_event(project, server, hook):
    other = builders.project(slug="other")
    webhooks.create(project=project, url=server.url, events=[Event.SNAPSHOT_FROZEN], by=project.created_by, now=NOW)
    assert happen(project, comparison="7") == 1
    assert happen(other) == 0
    assert happen(project, Event.COMPARISON_DISPUTED) == 0
    with pytest.raises(ValueError, match="nonsense"):
        happen(project, "nonsense")
    assert deliver() == 1
    (sent,) = server.got
    body = json.loads(sent.body)
    delivery = Delivery.objects.get()
    assert body == {
        "id": str(delivery.public_id), "event": "comparison.settled", "project": "helpful",
        "created_at": NOW.isoformat(), "data": {"comparison": "7"},
    }  # fmt: skip
    assert sent.headers["Winnow-Event"] == "comparison.settled"
    assert sent.headers["Winnow-Delivery"] == body["id"]
    assert (delivery.status, delivery.delivered_at, delivery.next_at, delivery.tries) == (200, NOW, None, 1)
    assert deliver() == 0


def test_the_documented_check_takes_a_genuine_delivery_and_no_other(project, server):
    _, secret = webhooks.create(
        project=project, url=server.url, events=[Event.JOB_FINISHED], by=project.created_by, now=NOW
    )
    happen(project, Event.JOB_FINISHED, name="ä")
    deliver(timezone.now())
    signature, body = server.got[0].headers["Winnow-Signature"], server.got[0].body
    is_genuine = genuine()
    assert is_genuine(secret, signature, body)
    assert not is_genuine(secret, signature, body + b" ")
    assert not is_genuine(secret + "x", signature, body)
    assert not is_genuine(secret, signature.replace("t=", "t=1"), body)
    late = webhooks.sign(secret, body, at=timezone.now() - timedelta(minutes=6))
    assert not is_genuine(secret, late, body)


def test_a_failure_is_tried_again_later_and_later_until_the_webhook_is_paused(project, server, hook):
    happen(project)
    server.statuses = [500, 302, 404, 503, 500, 500, 500, 429]
    server.headers = {"Location": server.url}
    server.body = b"a secret of the receiver"
    now = NOW
    for wait in BACKOFF:
        assert deliver(now) == 0
        assert deliver(now + wait - timedelta(seconds=1)) == 0
        now += wait
    assert len(server.got) == MOST_TRIES - 1
    assert deliver(now) == 0
    assert len(server.got) == MOST_TRIES
    assert len({sent.headers["Winnow-Delivery"] for sent in server.got}) == 1
    delivery = Delivery.objects.get()
    assert (delivery.status, delivery.error, delivery.next_at) == (429, "HTTP 429", None)
    hook.refresh_from_db()
    assert hook.paused_at == now
    assert "failed 8 times" in hook.pause_reason
    assert "HTTP 429" in hook.pause_reason
    assert "secret" not in hook.pause_reason
    assert AuditEvent.objects.filter(action="webhook.paused", by=None).count() == 1
    assert deliver(now + timedelta(days=1)) == 0


def test_events_of_a_pause_wait_and_resuming_sends_them_if_asked(project, server, hook):
    happen(project, number=1)
    assert webhooks.pause(hook=hook, reason="holidays", by=project.created_by, now=NOW)
    assert not webhooks.pause(hook=hook, reason="again", by=project.created_by, now=NOW)
    happen(project, number=2)
    assert deliver() == 0
    assert webhooks.resume(hook=hook, resend=False, by=project.created_by, now=NOW) == 0
    assert deliver() == 0
    assert webhooks.resume(hook=hook, resend=True, by=project.created_by, now=NOW) == 2
    assert webhooks.resume(hook=hook, resend=True, by=project.created_by, now=NOW) == 0
    assert deliver() == 2
    assert [json.loads(sent.body)["data"]["number"] for sent in server.got] == [1, 2]
    assert webhooks.resume(hook=hook, resend=True, by=project.created_by, now=NOW) == 0


def test_an_event_that_a_pause_overtook_waits(project, server, hook):
    happen(project)
    Webhook.objects.update(paused_at=NOW)  # between the reading and the writing of the event
    assert not webhooks.is_due(now=NOW)
    assert deliver() == 0
    webhooks.resume(hook=hook, resend=False, by=project.created_by, now=NOW)
    assert webhooks.is_due(now=NOW)
    Webhook.objects.update(removed_at=NOW)
    assert deliver() == 0
    assert server.got == []
    assert webhooks.prune(now=NOW + timedelta(days=31)) == 1


def test_a_dead_receiver_keeps_no_other_waiting(project, server, hook, settings):
    with receiver() as dead:
        settings.OUTBOUND = (*settings.OUTBOUND, dead.endpoint)
        webhooks.create(
            project=project, url=dead.url, events=[Event.COMPARISON_SETTLED], by=project.created_by, now=NOW
        )
    for number in range(3):
        happen(project, number=number)
    assert deliver() == 3
    tried = Delivery.objects.filter(delivered_at=None).order_by("pk").values_list("tries", "error")
    assert list(tried) == [(1, "The server did not answer."), (0, ""), (0, "")]


def test_what_the_operator_forbids_meanwhile_is_not_sent(project, server, hook, settings):
    happen(project)
    settings.OUTBOUND = ()
    assert deliver() == 0
    assert server.got == []
    assert "WINNOW_OUTBOUND" in Delivery.objects.get().error


def test_a_sender_that_died_in_its_try_costs_one_try(project, server, hook):
    happen(project)
    Delivery.objects.update(tries=1, next_at=NOW + BACKOFF[0])  # claimed, and never heard of again
    assert deliver() == 0
    assert deliver(NOW + BACKOFF[0]) == 1
    Delivery.objects.update(tries=MOST_TRIES, next_at=NOW, delivered_at=None)
    assert deliver() == 0
    assert len(server.got) == 1
    hook.refresh_from_db()
    assert hook.paused_at == NOW


@pytest.mark.django_db(transaction=True)
def test_two_senders_send_a_delivery_once(project, server, hook):
    for number in range(12):
        happen(project, number=number)

    def send(_):
        try:
            return deliver()
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, range(4)))
    deliver()
    assert len(server.got) == 12
    assert len({sent.headers["Winnow-Delivery"] for sent in server.got}) == 12
    assert not Delivery.objects.filter(delivered_at=None).exists()


def test_deliveries_are_forgotten_after_a_month_but_not_those_on_their_way(project, server, hook):
    happen(project)
    deliver()
    happen(project)
    assert webhooks.prune(now=NOW + timedelta(days=29)) == 0
    assert webhooks.prune(now=NOW + timedelta(days=31)) == 1
    assert Delivery.objects.get().delivered_at is None


# --- by the API -------------------------------------------------------------------------------------------------------


@pytest.fixture
def olga(project):
    return world.client(project.created_by)


BASE = "/api/v1/projects/helpful/webhooks"


def test_a_webhook_from_its_making_to_its_end(project, server, olga):
    made = olga.post(BASE, {"url": server.url, "events": ["job.finished", "job.finished"]})
    assert made.status_code == 201
    secret, address = made.json()["secret"], f"{BASE}/{made.json()['id']}"
    assert made.json()["events"] == ["job.finished"]
    listed = olga.get(BASE)
    assert secret not in listed.content.decode()
    assert listed.json()["items"][0]["url"] == server.url
    assert olga.patch(address, {"events": ["import.finished"]}).json()["events"] == ["import.finished"]
    pinged = olga.post(f"{address}/ping")
    assert pinged.status_code == 202
    assert deliver(timezone.now()) == 1
    (row,) = olga.get(f"{address}/deliveries").json()["items"]
    assert (row["id"], row["event"], row["status"], row["tries"]) == (pinged.json()["id"], "ping", 200, 1)
    assert olga.get(f"{address}/deliveries?undelivered=true").json()["items"] == []
    again = olga.post(f"/api/v1/projects/helpful/deliveries/{row['id']}/repeat")
    assert (again.status_code, again.json()["tries"]) == (202, 0)
    assert deliver(timezone.now()) == 1
    assert [sent.headers["Winnow-Delivery"] for sent in server.got] == [row["id"]] * 2
    assert olga.post(f"{address}/pause").json()["pause_reason"] == "Paused by olga."
    assert olga.post(f"{address}/ping").json()["code"] == "webhook_over"
    assert olga.post(f"{address}/resume", {"resend": True}).json()["paused_at"] is None
    assert olga.delete(address).status_code == 204
    assert olga.delete(address).status_code == 204
    assert olga.get(BASE).json()["items"] == []
    assert olga.post(f"{address}/ping").status_code == 404
    assert Webhook.objects.get().secret == ""
    actions = list(
        AuditEvent.objects.filter(action__startswith="webhook").order_by("pk").values_list("action", flat=True)
    )
    assert actions == [
        f"webhook.{verb}" for verb in ("created", "changed", "pinged", "redelivered", "paused", "resumed", "removed")
    ]
    assert secret not in json.dumps(list(AuditEvent.objects.values_list("details", flat=True)))


def test_bad_webhooks_are_refused_by_name(project, server, olga, settings):
    for body, name in (
        ({"url": server.url, "events": []}, "events"),
        ({"url": server.url, "events": ["everything"]}, "events"),
        ({"url": "https://10.0.0.1/", "events": ["job.finished"]}, "url"),
        ({"url": "nonsense", "events": ["job.finished"]}, "url"),
        ({"events": ["job.finished"]}, "url"),
    ):
        answer = olga.post(BASE, body)
        assert answer.status_code == 400, body
        assert name in answer.json()["details"]
    settings.OUTBOUND = ()
    answer = olga.post(BASE, {"url": "https://example.org/", "events": ["job.finished"]})
    assert (answer.status_code, answer.json()["code"]) == (400, "outbound_refused")
    assert "WINNOW_OUTBOUND" in answer.json()["message"]


def test_a_project_has_only_so_many_webhooks(project, server, olga):
    body = {"url": server.url, "events": ["job.finished"]}
    for _ in range(webhooks.MOST_WEBHOOKS):
        assert olga.post(BASE, body).status_code == 201
    answer = olga.post(BASE, body)
    assert (answer.status_code, answer.json()["code"]) == (409, "too_many_webhooks")


def test_webhooks_of_another_project_are_not_there(project, server, hook):
    builders.project(slug="other", owner=builders.user("oscar"))
    oscar = world.client(Webhook.objects.get().project.created_by.__class__.objects.get(name="oscar"))
    happen(project)
    delivery = Delivery.objects.get().public_id
    base = "/api/v1/projects/other"
    for method, address in (
        ("patch", f"webhooks/{hook.public_id}"),
        ("delete", f"webhooks/{hook.public_id}"),
        ("post", f"webhooks/{hook.public_id}/ping"),
        ("post", f"webhooks/{hook.public_id}/pause"),
        ("post", f"webhooks/{hook.public_id}/resume"),
        ("get", f"webhooks/{hook.public_id}/deliveries"),
        ("post", f"deliveries/{delivery}/repeat"),
    ):
        assert getattr(oscar, method)(f"{base}/{address}").status_code == 404, address
