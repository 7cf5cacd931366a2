"""Every page, full and empty, light and dark: nothing for axe to find, nothing that fails, nothing that sticks out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.addresses import ADDRESSES, NOBODY, REDIRECTS, Address, routes
from tests.e2e.content import EMPTY, FULL, HARD_TEXTS, RANK, RATE, Filled, Filler
from tests.e2e.looking import Looker, looking
from tests.e2e.site import Site
from tests.e2e.texts import HARD

pytestmark = pytest.mark.e2e
WIDTHS = (768, 390, 320)
PAUSE_MS = 400  # a person looks; keys within 250 ms of a new task are ignored on purpose
OF_PROJECTS = [address for address in ADDRESSES if address.is_of_a_project]


@pytest.fixture(scope="module")
def site(own_site: Site) -> Site:
    """Its own: the content names people and projects that must not be there yet."""
    return own_site


@pytest.fixture(scope="module")
def filled(site: Site) -> Filled:
    return Filler(site).fill()


@pytest.fixture(scope="module")
def looker(browser: Browser, site: Site, filled: Filled) -> Iterator[Looker]:
    with looking(browser, site) as made:
        yield made


def examine(looker: Looker, path: str, *, refusals: tuple[int, ...] = ()) -> list[str]:
    """All that is wrong with a page: at four widths, and in both themes."""
    looker.page.set_viewport_size({"width": 1440, "height": 900})
    looker.open(path, refusals=refusals)
    assert looker.page.get_by_role("heading", level=1).count() > 0, "the page has no heading"
    found = [f"1440 px: {what}" for what in looker.sticks_out(1440)]
    for theme in ("light", "dark"):
        looker.dress(theme)
        found += [f"{theme}: {what}" for what in looker.violations()]
    looker.dress("light")
    for width in WIDTHS:
        found += [f"{width} px: {what}" for what in looker.sticks_out(width)]
    looker.page.set_viewport_size({"width": 1440, "height": 900})
    return found + looker.problems


def test_the_table_of_addresses_has_every_route() -> None:
    assert sorted([address.pattern for address in ADDRESSES] + list(REDIRECTS)) == sorted(routes())


@pytest.mark.parametrize("address", ADDRESSES, ids=lambda address: address.name)
def test_a_page_with_content(looker: Looker, filled: Filled, address: Address) -> None:
    assert examine(looker, address.full(filled)) == []


@pytest.mark.parametrize("address", OF_PROJECTS, ids=lambda address: address.name)
def test_the_same_page_of_an_empty_project(looker: Looker, address: Address) -> None:
    # No id names anything there, and nobody has begun a qualification.
    refusals = (404,) if address.row else (409,) if address.name == "annotate-qualification" else ()
    assert examine(looker, address.empty(), refusals=refusals) == []


@pytest.mark.parametrize("path", ["/nowhere", "/r/nobody-has-this/jobs", "/p/nobody-has-this/task", "/r", "/p"])
def test_an_address_that_leads_nowhere_says_so(looker: Looker, path: str) -> None:
    looker.open(path, refusals=(404,))
    if path == "/r":  # only leads on
        expect(looker.page.get_by_role("heading", name="Your work")).to_be_visible()
        return
    expect(looker.page.get_by_role("heading", level=1, name="Nothing here")).to_be_visible()
    expect(looker.page.get_by_role("link", name="Go home")).to_be_visible()
    assert looker.problems == []


@pytest.mark.parametrize("address", [row for row in ADDRESSES if row.row], ids=lambda address: address.name)
def test_an_id_of_nothing_says_so(looker: Looker, address: Address) -> None:
    for slug in (FULL, EMPTY):
        path = address.pattern.replace(":slug", slug).replace(":id", NOBODY).replace(":other", NOBODY)
        looker.open(path, refusals=(404,))
        main = looker.page.get_by_role("main")
        expect(main.get_by_text("Nothing here", exact=True).first).to_be_visible()
        expect(main.get_by_role("button", name="Try again")).to_have_count(0)
        assert looker.problems == []


@pytest.mark.parametrize("slug", [RANK, RATE])
def test_a_task_of_another_kind(looker: Looker, slug: str) -> None:
    assert examine(looker, f"/p/{slug}/task") == []


def test_hard_texts_break_no_page(looker: Looker) -> None:
    looker.open(f"/p/{HARD_TEXTS}/task")
    for number, hard in enumerate(HARD, start=1):
        expect(looker.page.get_by_role("heading", name=f"Comparison {number}", exact=True)).to_be_visible()
        looker.rest()
        found = looker.violations()
        for width in (1440, *WIDTHS):
            found += looker.sticks_out(width)
        assert found + looker.problems == [], hard.name
        looker.page.set_viewport_size({"width": 1440, "height": 900})
        looker.page.wait_for_timeout(PAUSE_MS)
        looker.page.keyboard.press("1")
