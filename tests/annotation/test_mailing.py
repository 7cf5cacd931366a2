"""E-mails: written with what they tell, sent until they arrive, and never in the way of anything else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection

from annotation import mailing
from annotation.mailing import BACKOFF, MOST_TRIES
from annotation.models import Mail
from tests import builders
from tests.builders import NOW
from tests.mail_server import mail_server
from tests.services.servers import free_port
from winnow.env import EnvironmentError_, read_environment

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return builders.project()


@pytest.fixture
def server(settings):
    with mail_server() as running:
        use(settings, running.port)
        yield running


def use(settings, port: int) -> None:
    settings.MAIL_IS_ON = True
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", port
    settings.DEFAULT_FROM_EMAIL = "Winnow <winnow@example.org>"


def write(project, *names: str, subject: str = "Look", text: str = "At this — ünd that.") -> int:
    people = [builders.user(name) for name in names]
    return mailing.post(project=project, to=people, subject=subject, text=text, now=NOW)


def send(now=NOW) -> int:
    return mailing.send_due(clock=lambda: now)


def test_each_person_gets_a_mail_of_their_own_by_one_connection(project, server):
    assert write(project, "ann", "ada") == 2
    assert mailing.is_due(now=NOW)
    assert send() == 2
    assert sorted(server.recipients) == ["ada@example.org", "ann@example.org"]
    assert server.connections == 1
    (to, message), _ = server.got
    assert to == [message["To"]]
    assert message["From"] == "Winnow <winnow@example.org>"
    assert message["Subject"] == "Look"
    assert message.get_content().strip() == "At this — ünd that."
    ids = {f"<{mail.public_id}@example.org>" for mail in Mail.objects.all()}
    assert {item["Message-ID"] for _, item in server.got} == ids
    assert set(Mail.objects.values_list("next_at", "sent_at", "tries", "error")) == {(None, NOW, 1, "")}
    assert not mailing.is_due(now=NOW)
    assert send() == 0
    assert server.connections == 1


def test_a_mail_server_that_is_down_delays_mails_and_loses_none(project, settings):
    port = free_port()
    use(settings, port)
    write(project, "ann", "ada")
    assert send() == 0
    tried = Mail.objects.order_by("pk").values_list("tries", "next_at", "error")
    assert list(tried) == [
        (1, NOW + BACKOFF[0], "The mail server cannot be reached: ConnectionRefusedError"),
        (0, NOW, ""),  # not asked in vain
    ]
    with mail_server(port=port) as back:
        assert send() == 1
        assert send(NOW + BACKOFF[0] - timedelta(seconds=1)) == 0
        assert send(NOW + BACKOFF[0]) == 1
        assert sorted(back.recipients) == ["ada@example.org", "ann@example.org"]


def test_a_recipient_that_is_refused_keeps_nobody_waiting_and_is_given_up_in_the_end(project, server):
    server.refused = {"ann@example.org"}
    write(project, "ann", "ada")
    now = NOW
    assert send() == 1
    assert server.recipients == ["ada@example.org"]
    for wait in BACKOFF:
        now += wait
        assert send(now) == 0
    mail = Mail.objects.get(to__name="ann")
    assert (mail.tries, mail.next_at, mail.sent_at) == (MOST_TRIES, None, None)
    assert mail.error == "The mail server refused the recipient: 550"  # and not what it said
    assert send(now + timedelta(days=9)) == 0


def test_a_mail_that_the_server_does_not_keep_is_sent_again_under_its_old_id(project, server):
    server.answers_to_data = ["451 the disk is full of secrets"]
    write(project, "ann")
    assert send() == 0
    mail = Mail.objects.get()
    assert mail.error == "The mail server answered 451"
    assert send(NOW + BACKOFF[0]) == 1
    assert server.got[0][1]["Message-ID"] == f"<{mail.public_id}@example.org>"


def test_nothing_is_written_without_a_mail_server_or_for_those_who_are_gone(project, settings, server):
    gone = builders.user("gone", is_active=False)
    assert mailing.post(project=project, to=[gone], subject="s", text="t", now=NOW) == 0
    settings.MAIL_IS_ON = False
    assert write(project, "ann") == 0
    assert not Mail.objects.exists()


def test_a_line_end_in_a_subject_begins_no_header(project, server):
    write(project, "ann", subject="Look\r\nBcc: stan@example.org\n" + "x" * 300)
    assert send() == 1
    (to, message) = server.got[0]
    assert to == ["ann@example.org"]
    assert message["Bcc"] is None
    assert message["Subject"].startswith("Look Bcc: stan@example.org xxx")


@pytest.mark.django_db(transaction=True)
def test_two_senders_at_once_send_each_mail_once(server):
    project = builders.project()
    write(project, *(f"p{i}" for i in range(12)))

    def sender(_: int) -> int:
        try:
            return send()
        finally:
            connection.close()

    with ThreadPoolExecutor(3) as pool:
        arrived = list(pool.map(sender, range(3)))
    assert sum(arrived) == 12
    assert sorted(server.recipients) == sorted(f"p{i}@example.org" for i in range(12))


def test_mails_that_have_ended_are_forgotten_after_a_while(project, server):
    write(project, "ann")
    send()
    server.refused = {"ada@example.org"}
    write(project, "ada")
    assert mailing.prune(now=NOW + mailing.KEPT) == 0
    assert mailing.prune(now=NOW + mailing.KEPT + timedelta(seconds=1)) == 1
    assert Mail.objects.get().to.name == "ada"


def test_the_mail_server_is_read_from_the_environment():
    def read(url: str, sender: str = "w@example.org"):
        return read_environment({"WINNOW_MAIL_URL": url, "WINNOW_MAIL_FROM": sender}).mail_server

    server = read("smtp+starttls://ann:p%40ss@mail.example.org")
    assert server is not None
    assert (server.host, server.port, server.user, server.password) == ("mail.example.org", 587, "ann", "p@ss")
    assert (read("smtp://here").port, read("smtps://here").port, read("smtp://here:2525").port) == (25, 465, 2525)
    assert read("", "") is None
    for url in ("mail.example.org", "http://here", "smtp://", "smtp://here:99999", "smtp://here:0"):
        with pytest.raises(EnvironmentError_, match="WINNOW_MAIL_URL"):
            read(url)
    with pytest.raises(EnvironmentError_, match="WINNOW_MAIL_FROM"):
        read("smtp://here", "")
    with pytest.raises(EnvironmentError_) as refused:
        read("imap://ann:secret@here")
    assert "secret" not in str(refused.value)
