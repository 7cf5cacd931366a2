"""German and high contrast in a real browser: chosen in place, kept, and carried through numbers and dates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.site import Site
from winnow.env import BASE_DIR

pytestmark = pytest.mark.e2e

# Where a string is missing its key is shown, and no text of a project looks like one.
STRINGS = BASE_DIR / "frontend" / "src" / "ui" / "i18n"
KEYS = frozenset(
    key
    for path in STRINGS.glob("en*.ts")
    for key in re.findall(r"^  '([\w.]+)':", path.read_text("utf-8"), re.MULTILINE)
)

RESEARCH = [
    "", "/data", "/imports", "/rounds", "/pairing", "/comparisons", "/snapshots", "/people", "/gold", "/adjudicate",
    "/agreement", "/ranking", "/bias", "/worst", "/advice", "/jobs", "/jobs/new", "/policies", "/evaluations",
    "/strengths", "/alarms", "/workers", "/settings", "/webhooks", "/audit",
]  # fmt: skip


@pytest.fixture(scope="module")
def project(site: Site, test_data: Path) -> str:
    """A project with the shared PandaLM votes, whose figures have thousands and fractions."""
    api = site.api()
    api.call("POST", "projects", {"name": "Sprachen", "overlap": 3})
    raw = (test_data / "multi_annotator" / "pandalm.jsonl").read_bytes()
    api.call("POST", "projects/sprachen/imports?kind=votes", raw=raw)
    return f"{site.url}/r/sprachen"


@pytest.fixture
def german(browser: Browser, site: Site) -> Iterator[Page]:
    """A page of a browser whose languages are German first."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="de-DE", timezone_id="Europe/Berlin")
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(f"page error: {error}"))
    page.on(
        "console",
        # A refused sign-in is an answer that the browser reports as a failed request.
        lambda line: (
            problems.append(f"console: {line.text}") if line.type == "error" and "400" not in line.text else None
        ),
    )
    page.set_default_timeout(20_000)
    yield page
    context.close()
    assert problems == []


def sign_in_auf_deutsch(page: Page, site: Site) -> None:
    page.get_by_label("E-Mail").fill(site.email)
    page.get_by_label("Passwort", exact=True).fill(site.password)
    page.get_by_role("button", name="Anmelden").click()
    page.get_by_role("button", name="Konto").wait_for()


def language_of(page: Page) -> str | None:
    return page.locator("html").get_attribute("lang")


def test_the_sign_in_page_changes_its_language_in_place_and_keeps_it(page: Page, site: Site) -> None:
    page.goto(site.url)
    expect(page.get_by_role("heading", name="Sign in to Winnow")).to_be_visible()
    assert language_of(page) == "en"
    page.get_by_label("Language").select_option("Deutsch")
    expect(page.get_by_role("heading", name="Bei Winnow anmelden")).to_be_visible()
    expect(page).to_have_title("Anmelden · Winnow")
    assert language_of(page) == "de"
    page.reload()
    expect(page.get_by_role("heading", name="Bei Winnow anmelden")).to_be_visible()
    sign_in_auf_deutsch(page, site)
    expect(page.get_by_role("heading", name="Hallo, Olga")).to_be_visible()


def test_a_german_browser_gets_german_and_never_loads_english(german: Page, site: Site) -> None:
    loaded: list[str] = []
    german.on("request", lambda request: loaded.append(request.url))
    german.goto(site.url)
    expect(german.get_by_role("heading", name="Bei Winnow anmelden")).to_be_visible()
    german.get_by_label("Passwort", exact=True).fill("falsch")
    german.get_by_label("E-Mail").fill(site.email)
    german.get_by_role("button", name="Anmelden").click()
    expect(german.get_by_role("alert")).to_have_text("E-Mail und Passwort passen nicht zusammen.")
    assert any(re.search(r"/de-[^/]+\.js", url) for url in loaded)
    assert not any(re.search(r"/en-[^/]+\.js", url) for url in loaded)


def test_the_account_menu_changes_the_language_of_an_open_page(project: str, signed_in: Page) -> None:
    page = signed_in
    page.goto(f"{project}/agreement")
    main = page.get_by_role("main")
    expect(main.get_by_role("heading", name="Agreement", level=1)).to_be_visible()
    expect(main.get_by_text(re.compile(r"^\d+\.\d %$")).first).to_be_visible()
    page.get_by_role("button", name="Account").click()
    page.get_by_role("menuitemradio", name="Deutsch").click()
    expect(main.get_by_role("heading", name="Übereinstimmung", level=1)).to_be_visible()
    expect(main.get_by_text(re.compile(r"^\d+,\d %$")).first).to_be_visible()
    expect(main.get_by_text(re.compile(r"^\[\d+,\d; \d+,\d\]")).first).to_be_visible()
    assert language_of(page) == "de"
    # The button that was used has the focus again, though the page was made anew.
    expect(page.get_by_role("button", name="Konto")).to_be_focused()
    page.reload()
    expect(main.get_by_role("heading", name="Übereinstimmung", level=1)).to_be_visible()
    page.get_by_role("button", name="Konto").click()
    page.get_by_role("menuitemradio", name="English").click()
    expect(main.get_by_role("heading", name="Agreement", level=1)).to_be_visible()


def test_numbers_dates_and_every_page_are_german(project: str, german: Page, site: Site) -> None:
    german.goto(site.url)
    sign_in_auf_deutsch(german, site)
    main = german.get_by_role("main")
    german.goto(project)
    expect(main.get_by_text("2.058").first).to_be_visible()
    moment = main.locator("time").first
    expect(moment).to_have_attribute("title", re.compile(r"\d{2}\.\d{2}\.\d{4}, \d{2}:\d{2}"))
    for path in [*(project + path for path in RESEARCH), f"{site.url}/experiments"]:
        german.goto(path)
        expect(main.get_by_role("heading", level=1)).to_be_visible()
        expect(main.get_by_text("Wird geladen")).to_have_count(0)
        shown = german.locator("body").inner_text()
        # Actions of the audit log are codes, and one has the name of a key.
        assert KEYS.intersection(re.findall(r"[\w.]*\w", shown)) - {"import.done"} == set(), path
        assert not re.search(r"Couldn't|\bthe\b", main.get_by_role("heading").first.inner_text()), path


def test_high_contrast_can_be_chosen_and_comes_by_itself(page: Page, site: Site) -> None:
    root = page.locator("html")
    page.emulate_media(contrast="more")
    page.goto(site.url)
    expect(root).to_have_attribute("data-theme", "contrast")
    form = page.locator("form")
    # Borders have the colour of the text.
    assert form.evaluate("form => getComputedStyle(form).borderTopColor") == form.evaluate(
        "form => getComputedStyle(form).color"
    )
    page.emulate_media(contrast="no-preference")
    expect(root).not_to_have_attribute("data-theme", "contrast")

    page.get_by_label("Email").fill(site.email)
    page.get_by_label("Password", exact=True).fill(site.password)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Theme").click()
    page.get_by_role("menuitemradio", name="High contrast").click()
    expect(root).to_have_attribute("data-theme", "contrast")
    page.reload()
    expect(root).to_have_attribute("data-theme", "contrast")
    # Who chose light keeps it, whatever the system wishes.
    page.get_by_role("button", name="Theme").click()
    page.get_by_role("menuitemradio", name="Light").click()
    page.emulate_media(contrast="more")
    page.reload()
    expect(root).to_have_attribute("data-theme", "light")
