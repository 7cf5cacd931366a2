"""How many queries an annotator's click costs: the numbers do not grow with the project."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from annotation.assignment import RANKS
from annotation.models import Slot
from tests import builders, world

pytestmark = pytest.mark.django_db
SESSION = 2  # the session and its user


@pytest.mark.parametrize("size", [10, 100])
def test_a_click_costs_a_fixed_number_of_queries(size):
    project = builders.project(overlap=2)
    ann = builders.member(project, "ann")
    builders.comparisons(project, size)
    Slot.objects.update(rank=RANKS - 1)  # nobody has to wrap round, which costs one query more
    browser = world.client(ann)

    def cost(address, body, **headers):
        with CaptureQueriesContext(connection) as queries:
            answer = browser.post(f"/api/v1/annotate/{address}", body, headers=headers)
        assert answer.status_code in {200, 201, 204}, answer.content
        return len(queries) - SESSION, answer

    costs = {}
    costs["first task"], _ = cost("projects/helpful/queue", {"tab": "t", "n": 1})
    costs["two more tasks"], answer = cost("projects/helpful/queue", {"tab": "t", "n": 3})
    task, other, third = answer.json()["items"]
    key = {"Idempotency-Key": str(uuid4())}
    costs["vote"], voted = cost(f"assignments/{task['assignment']}/vote", {"choice": "left"}, **key)
    costs["replay"], _ = cost(f"assignments/{task['assignment']}/vote", {"choice": "left"}, **key)
    costs["heartbeat"], _ = cost("projects/helpful/heartbeat", {"tab": "t"})
    costs["skip"], _ = cost(f"assignments/{other['assignment']}/skip", {"reason": "too_long"})
    costs["undo"], _ = cost(f"votes/{voted.json()['vote']}/retract", {})
    costs["release"], _ = cost("projects/helpful/release", {"tab": "t", "assignments": [third["assignment"]]})
    assert costs == COSTS


# Beside the session, with the membership and the two statements of the transaction. A lease is own leases, audiences;
# claim, balance of sides (1 or 2), insert, slot; then three for the texts and three for the progress (counts of own
# tasks, audiences, what is left). A vote is its assignment; key, last vote, slot, guideline, insert, slot, consensus,
# other tabs, assignment; is the comparison done, membership; then progress.
COSTS = {
    "first task": 16,
    "two more tasks": 23,
    "vote": 17,
    "replay": 9,
    "heartbeat": 6,
    "skip": 9,
    "undo": 13,
    "release": 8,
}
