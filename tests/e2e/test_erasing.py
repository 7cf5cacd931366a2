"""A prompt is erased in a browser: what is touched is named first, and its tombstone and the snapshot tell of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.site import Site

pytestmark = pytest.mark.e2e
SECRET = "Ingeborg"


@pytest.fixture(scope="module")
def frozen(site: Site) -> None:
    """A project whose one snapshot holds three preferences, one of them about a person."""
    api = site.api()
    api.call("POST", "projects", {"name": "Private", "overlap": 1})
    comparisons = [
        {"id": name, "prompt": f"Who is {name}?",
         "completions": [{"text": f"{name} is {word}.", "source": word} for word in ("tall", "small")]}
        for name in (SECRET, "Ada", "Emmy")
    ]  # fmt: skip
    at = datetime.now(UTC).isoformat()
    votes = [
        {"id": row["id"], "comparison_id": row["id"], "annotator": "ann", "choice": "a", "created_at": at}
        for row in comparisons
    ]
    for kind, rows in (("comparisons", comparisons), ("votes", votes)):
        raw = "\n".join(json.dumps(row) for row in rows).encode()
        api.call("POST", f"projects/private/imports?kind={kind}&name={kind}.jsonl", raw=raw)
    api.call("POST", "projects/private/snapshots", {"name": "all", "shares": {"train": 1, "validation": 0, "test": 0}})


def test_an_owner_erases_a_prompt_and_sees_what_went(frozen: None, signed_in: Page, site: Site) -> None:
    page = signed_in
    page.goto(f"{site.url}/r/private/data")
    page.get_by_role("button", name=f"Who is {SECRET}?").click()
    page.get_by_role("link", name="Erase…").click()
    expect(page.get_by_role("heading", name="Erase a prompt")).to_be_visible()
    expect(page.get_by_text(f"Who is {SECRET}?")).to_be_visible()
    expect(page.get_by_role("link", name="Snapshot v1 · all")).to_be_visible()
    expect(page.get_by_text("No job or model was trained on it.")).to_be_visible()
    button = page.get_by_role("button", name="Erase for good")
    page.get_by_label("Reason").fill("She asked for it.")
    expect(button).to_be_disabled()
    page.get_by_label("Type private to confirm").fill("private")
    button.click()
    expect(page.get_by_role("heading", name="Tombstone")).to_be_visible()
    expect(page.get_by_text("She asked for it.")).to_be_visible()
    expect(page.get_by_text("1 line erased")).to_be_visible()  # a worker's doing
    expect(page.get_by_text("gone through")).to_be_visible()
    expect(page.get_by_text(SECRET)).to_have_count(0)
    page.get_by_role("link", name="Snapshot v1 · all").first.click()
    expect(page.get_by_text("1 line was erased for privacy since it was frozen.")).to_be_visible()
    page.get_by_role("link", name="Snapshots").last.click()
    expect(page.get_by_text("1 erased")).to_be_visible()
    page.goto(f"{site.url}/r/private/data")
    page.get_by_role("button", name="The texts were erased for privacy.").click()
    expect(page.get_by_role("link", name="See its tombstone")).to_be_visible()
