"""The main job in a real browser: sign in, vote by keyboard, freeze, train, and see the curve."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.site import Site

COMPARISONS = 6
pytestmark = pytest.mark.e2e


@pytest.fixture
def loop(site: Site) -> None:
    """A project with six comparisons that want one vote each."""
    api = site.api()
    api.call("POST", "projects", {"name": "Loop", "overlap": 1, "guideline": "# Guideline\n\nPrefer the **true** one."})
    lines = [
        {
            "prompt": f"Question {i}: what is {i} + {i}?",
            "response_a": f"It is {2 * i}.",
            "response_b": f"I think that the answer may be {3 * i}.",
            "votes": [],
        }
        for i in range(COMPARISONS)
    ]
    raw = "\n".join(json.dumps(line) for line in lines).encode()
    api.call("POST", "projects/loop/imports?kind=votes", raw=raw)


def test_a_person_votes_freezes_and_trains_in_the_browser(loop: None, signed_in: Page, site: Site) -> None:
    page = signed_in
    page.goto(f"{site.url}/p/loop/task")
    for number in range(1, COMPARISONS):
        expect(page.get_by_role("heading", name=f"Comparison {number}", exact=True)).to_be_visible()
        page.wait_for_timeout(400)  # a person looks; keys within 250 ms of a new task are ignored on purpose
        page.keyboard.press("1" if number % 2 else "2")
    expect(page.get_by_role("heading", name=f"Comparison {COMPARISONS}", exact=True)).to_be_visible()
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    overview = site.api().call("GET", "projects/loop/overview")
    assert overview["counts"]["votes"] == COMPARISONS - 1

    page.goto(f"{site.url}/r/loop/snapshots")
    page.get_by_role("button", name="Freeze").first.click()
    page.get_by_role("button", name=f"Freeze {COMPARISONS - 1} preferences").click()
    expect(page.get_by_role("heading", name="Snapshot v1")).to_be_visible()
    (snapshot,) = site.api().call("GET", "projects/loop/snapshots")["items"]
    assert snapshot["counts"]["total"] == COMPARISONS - 1

    page.goto(f"{site.url}/r/loop/jobs/new")
    page.get_by_role("radio", name=re.compile("^DPO")).check(force=True)
    page.get_by_role("button", name="Start the job").click()
    expect(page.get_by_text("Succeeded").first).to_be_visible(timeout=120_000)
    expect(page.get_by_text("train/loss").or_(page.get_by_text("Loss")).first).to_be_visible()
    (job,) = site.api().call("GET", "projects/loop/jobs")["items"]
    points = site.api().call("GET", f"projects/loop/jobs/{job['id']}/metrics")["items"]
    first = next(point["values"]["train/loss"] for point in points if "train/loss" in point["values"])
    assert first == pytest.approx(0.6931472, abs=1e-4)
