"""The main job in a real browser: sign in, vote by keyboard, freeze, train, and see the curve."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.conftest import require_or_skip
from tests.e2e.site import Site, manage, running_site
from tests.engine.tiny import tiny_model
from winnow.env import BASE_DIR

COMPARISONS = 6
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if not (BASE_DIR / "frontend" / "dist" / "index.html").is_file():
        require_or_skip("the frontend is not built (make frontend)")
    data_dir = tmp_path_factory.mktemp("site")
    with running_site(data_dir) as running:
        manage(running.environ, "register_model", "tiny", str(tiny_model(data_dir / "tiny")))
        api = running.api()
        project = {"name": "Loop", "overlap": 1, "guideline": "# Guideline\n\nPrefer the **true** one."}
        api.call("POST", "projects", project)
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
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        require_or_skip("no Chromium on PATH")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser, site: Site, tmp_path: Path) -> Iterator[Page]:
    """A page that fails the test on any script error, console error or request to another origin."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(f"page error: {error}"))
    opened.on("console", lambda line: problems.append(f"console: {line.text}") if line.type == "error" else None)
    opened.on(
        "request", lambda request: None if request.url.startswith((site.url, "data:")) else problems.append(request.url)
    )
    opened.set_default_timeout(20_000)
    yield opened
    opened.screenshot(path=tmp_path / "last.png")
    context.close()
    assert problems == []


def test_a_person_votes_freezes_and_trains_in_the_browser(page: Page, site: Site) -> None:
    page.goto(site.url)
    page.get_by_label("Email").fill(site.email)
    page.get_by_label("Password", exact=True).fill(site.password)
    page.get_by_role("button", name="Sign in").click()

    page.get_by_role("link", name="Start").first.click()
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
    page.get_by_role("radio", name="DPO").check(force=True)
    page.get_by_role("button", name="Start the job").click()
    expect(page.get_by_text("Succeeded").first).to_be_visible(timeout=120_000)
    expect(page.get_by_text("train/loss").or_(page.get_by_text("Loss")).first).to_be_visible()
    (job,) = site.api().call("GET", "projects/loop/jobs")["items"]
    points = site.api().call("GET", f"projects/loop/jobs/{job['id']}/metrics")["items"]
    first = next(point["values"]["train/loss"] for point in points if "train/loss" in point["values"])
    assert first == pytest.approx(0.6931472, abs=1e-4)
