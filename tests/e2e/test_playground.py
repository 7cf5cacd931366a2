"""The playground in a browser: policies and a reward model answer by the real worker; people get what was written."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.site import Site, manage
from tests.engine.tiny import tiny_model

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def models(site: Site) -> None:
    """A second policy and a reward model beside the site's own policy, and a project that has no prompt."""
    places = {"second": {"seed": 9}, "taste": {"seed": 1, "reward": True}}
    for name, made in places.items():
        kind = "reward" if made.get("reward") else "policy"
        manage(site.environ, "register_model", name, str(tiny_model(site.data_dir / name, **made)), "--kind", kind)
    site.api().call("POST", "projects", {"name": "Play", "overlap": 1})


def test_what_policies_write_side_by_side_goes_to_annotators(models: None, signed_in: Page, site: Site) -> None:
    page, api = signed_in, site.api()
    page.goto(f"{site.url}/r/play")
    page.get_by_role("link", name="Playground").click()
    expect(page.get_by_text("Nothing asked yet").first).to_be_visible()
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("alert").filter(has_text="Choose a policy.")).to_be_visible()
    expect(page.get_by_text("Write a prompt.")).to_be_visible()

    for name in ("tiny", "second"):
        page.get_by_role("checkbox", name=re.compile(f"^{name}")).check(force=True)
    page.get_by_label("Prompt", exact=True).fill("good dog?")
    page.get_by_label("Score with").select_option(label="taste")
    page.get_by_label("Most tokens").fill("24")
    page.get_by_text("The same request with curl").first.click()
    expect(page.get_by_role("region", name="The same request with curl")).to_contain_text('"max_new_tokens": 24')
    page.get_by_role("button", name="Ask 2 policies").click()
    columns = page.get_by_role("article")
    expect(columns).to_have_count(2)
    for name in ("tiny", "second"):
        column = page.get_by_role("article", name=name)
        expect(column.get_by_text("done", exact=True)).to_be_visible(timeout=120_000)
        expect(column.get_by_text(re.compile(r"^Score "))).to_be_visible()
    expect(page.get_by_text("All have ended.")).to_be_visible()

    page.reload()  # the question is in the address
    expect(page.get_by_role("article", name="second").get_by_text("done", exact=True)).to_be_visible()
    expect(page.get_by_label("Most tokens")).to_have_value("24")
    page.get_by_role("button", name="Send to annotators").click()
    expect(page.get_by_text("Sent as 1 comparison.")).to_be_visible()
    (question,) = api.call("GET", "projects/play/playground")["items"]
    (made,) = api.call("GET", f"projects/play/comparisons?round={question['id']}")["items"]
    assert made["prompt"][0]["content"] == "good dog?"
    assert question["comparisons"] == 1
    page.get_by_role("link", name="See the comparisons", exact=True).click()
    expect(page.get_by_text("good dog?").first).to_be_visible()
