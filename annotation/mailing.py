"""E-mails to people: written in the transaction of what they tell, and sent until they arrive.

A mail is claimed by a conditional write that already sets the time of the next try, so a mail server that is down, or a
sender that dies in the middle, delays a mail and stops nothing else. Each person gets their own mail. Without a mail
server (WINNOW_MAIL_URL) nothing is written. Knows no event: who calls says what happened.
"""

from __future__ import annotations

import logging
import smtplib
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from email.utils import parseaddr

from django.conf import settings
from django.core.mail import EmailMessage, get_connection
from django.core.mail.backends.base import BaseEmailBackend
from django.db.models import Q

from annotation.gate import write
from annotation.models import Mail, Project, User

# After the first, second, … failed try; a night and a day, since a mail server may be mended by hand.
BACKOFF = tuple(timedelta(seconds=s) for s in (60, 300, 1800, 3600, 10_800, 28_800, 43_200))
MOST_TRIES = len(BACKOFF) + 1
KEPT = timedelta(days=30)
BATCH = 50
MOST_SUBJECT = 200

log = logging.getLogger(__name__)


def post(*, project: Project, to: Iterable[User], subject: str, text: str, now: datetime) -> int:
    """Write a mail for each person; to be called inside the transaction of what it tells. How many those are.

    People who are not active get none.
    """
    if not settings.MAIL_IS_ON:
        return 0
    line = " ".join(subject.split())[:MOST_SUBJECT]  # one line: a line end would begin another header
    mails = [
        Mail(project=project, to=person, subject=line, text=text, next_at=now, created_at=now)
        for person in to
        if person.is_active
    ]
    return len(Mail.objects.bulk_create(mails))


def is_due(*, now: datetime) -> bool:
    """Whether anything waits to be sent."""
    return Mail.objects.filter(next_at__lte=now).exists()


def send_due(*, clock: Callable[[], datetime]) -> int:
    """Send what is due; how many arrived at the mail server. Safe to repeat and to run beside itself.

    A server that takes no mail ends the call: the others would ask it in vain.
    """
    due = Mail.objects.filter(next_at__lte=clock()).select_related("to").order_by("next_at", "pk")[:BATCH]
    mails, arrived = list(due), 0
    if not mails:
        return 0
    connection = get_connection(timeout=settings.EMAIL_TIMEOUT)
    try:
        for mail in mails:
            sent = _send(mail, connection, clock)
            if sent is None:
                break
            arrived += sent
    finally:
        _close(connection)
    return arrived


def _send(mail: Mail, connection: BaseEmailBackend, clock: Callable[[], datetime]) -> bool | None:
    """Whether it arrived; None if the server takes no mail at all, so that the others can wait."""
    tried, now = mail.tries + 1, clock()
    again_at = now + BACKOFF[tried - 1] if tried < MOST_TRIES else None
    claimed = Mail.objects.filter(pk=mail.pk, tries=mail.tries, next_at=mail.next_at)
    if not claimed.update(tries=tried, next_at=again_at, error="The sender died."):
        return False  # another sender has it
    mine = Mail.objects.filter(pk=mail.pk, tries=tried)
    try:
        connection.open()  # once: what is open stays open for the others
        _message(mail, connection).send()
    except (smtplib.SMTPException, OSError) as error:
        reason = _reason(error)
        mine.update(error=reason)
        log.warning("mail %s was not sent at try %s of %s: %s", mail.public_id, tried, MOST_TRIES, reason)
        return False if isinstance(error, smtplib.SMTPRecipientsRefused | smtplib.SMTPDataError) else None
    mine.update(next_at=None, sent_at=clock(), error="")
    return True


def _message(mail: Mail, connection: BaseEmailBackend) -> EmailMessage:
    domain = parseaddr(settings.DEFAULT_FROM_EMAIL)[1].rpartition("@")[2] or "localhost"
    headers = {
        "Message-ID": f"<{mail.public_id}@{domain}>",  # the same at each try, so that a doubled one can be told
        "Auto-Submitted": "auto-generated",
    }
    return EmailMessage(mail.subject, mail.text, to=[mail.to.email], connection=connection, headers=headers)


def _reason(error: Exception) -> str:
    """What went wrong, without what the server said: that may hold addresses."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        codes = sorted({code for code, _ in error.recipients.values()})
        return f"The mail server refused the recipient: {', '.join(map(str, codes))}"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"The mail server answered {error.smtp_code}"
    return f"The mail server cannot be reached: {type(error).__name__}"


def _close(connection: BaseEmailBackend) -> None:
    try:
        connection.close()
    except (smtplib.SMTPException, OSError) as error:
        log.info("the mail server hung up: %s", _reason(error))


def prune(*, now: datetime) -> int:
    """Forget mails that were sent or given up, after `KEPT`; how many."""
    with write():
        return Mail.objects.filter(Q(next_at=None), created_at__lt=now - KEPT).delete()[0]
