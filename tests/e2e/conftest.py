"""One site and one browser for all browser tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.conftest import require_or_skip
from tests.e2e.site import CHROMIUM_FLAGS, Site, manage, running_site
from tests.engine.tiny import tiny_model
from winnow.env import BASE_DIR

# What must come true of itself may take a worker, on a machine that does much else.
expect.set_options(timeout=20_000)


@contextmanager
def fresh_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with a tiny model and no project yet."""
    if not (BASE_DIR / "frontend" / "dist" / "index.html").is_file():
        require_or_skip("the frontend is not built (make frontend)")
    data_dir = tmp_path_factory.mktemp("site")
    with running_site(data_dir) as running:
        manage(running.environ, "register_model", "tiny", str(tiny_model(data_dir / "tiny")))
        yield running


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One site for all modules that say nothing else."""
    with fresh_site(tmp_path_factory) as running:
        yield running


@pytest.fixture(scope="module")
def own_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site for one module, whose tests count what is there; as its `site`, the pages' fixtures use it too."""
    with fresh_site(tmp_path_factory) as running:
        yield running


@pytest.fixture(scope="session")
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
    """The owner's page, which fails the test on any script error, console error or request to another origin."""
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


@pytest.fixture
def signed_in(page: Page, site: Site) -> Page:
    """The page after signing in by hand."""
    page.goto(site.url)
    page.get_by_label("Email").fill(site.email)
    page.get_by_label("Password", exact=True).fill(site.password)
    page.get_by_role("button", name="Sign in").click()
    # Not before: to leave the page now would take the sign-in back.
    page.get_by_role("button", name="Account").wait_for()
    return page
