"""The demo's annotators are programs that talk HTTP: they must see the task as it is."""

from __future__ import annotations

import threading

import pytest

from annotation.consensus import settle_due
from annotation.models import Consensus, User, Vote
from annotation.simulation import from_default_panel
from tests import builders
from tests.builders import NOW
from training.management.commands.demo import annotate
from winnow.client import Client

pytestmark = pytest.mark.django_db(transaction=True)
PASSWORD = "a long and simple sentence"


def test_the_demos_annotators_vote_through_http_until_nothing_is_left(live_server):
    project = builders.project(slug="demo", overlap=3)
    builders.comparisons(project, 7)
    panel = from_default_panel(7)
    for number, _ in enumerate(panel):
        person = builders.member(project, f"simulated-{number}")
        person.set_password(PASSWORD)
        person.save()
    over = threading.Event()
    over.set()
    for number, person in enumerate(panel):
        address = User.objects.get(name=f"simulated-{number}").email
        annotate(Client(live_server.url), person, address, PASSWORD, over)
    while settle_due(now=NOW):
        pass
    assert Vote.objects.count() == 21
    assert not Consensus.objects.filter(state="open").exists()
