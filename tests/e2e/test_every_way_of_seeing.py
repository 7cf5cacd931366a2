"""The pages for people who see or steer otherwise: forced colours, no motion, large type, a small phone, no mouse."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.looking import Looker, looking
from tests.e2e.site import Site

pytestmark = pytest.mark.e2e
VOTES = 5
PAUSE_MS = 400  # a person looks; keys within 250 ms of a new task are ignored on purpose
ZOOMED = {"width": 720, "height": 450}  # what 1440 × 900 leaves at 200 %
PHONE = {"width": 320, "height": 640}
FORM = {
    "kind": "choice", "allow_both_bad": True, "rationale": "optional",
    "criteria": [{"key": "truth", "label": "Truth"}, {"key": "clarity", "label": "Clarity"}],
}  # fmt: skip
# Where the focus is, whether anything lies on it, and whether it can be seen: on it, or on the label around it.
_FOCUS = """() => {
  const element = document.activeElement
  if (!element || element === document.body) return null
  const shown = element.closest('label') ?? element
  const { left, top, width, height } = shown.getBoundingClientRect()
  const x = left + width / 2
  const y = Math.max(top, 0) + Math.min(height, innerHeight) / 2
  const hit = document.elementFromPoint(x, Math.min(y, top + height / 2))
  const outlined = (one) => {
    const { outlineStyle, outlineWidth } = getComputedStyle(one)
    return outlineStyle !== 'none' && Number.parseFloat(outlineWidth) >= 2
  }
  return {
    what: element.outerHTML.slice(0, 150),
    covered: !hit || !(shown.contains(hit) || hit.contains(shown)),
    ring: outlined(element) || outlined(shown),
    name: element.getAttribute('aria-label') ?? element.textContent,
  }
}"""
_MOVING = """() => document.getAnimations()
  .filter((one) => one.playState === 'running' && one.effect.getComputedTiming().activeDuration > 1)
  .map((one) => `${one.animationName ?? one.transitionProperty} on ${one.effect.target.outerHTML.slice(0, 120)}`)"""
_STATES = """() => {
  const look = (element, part) => {
    const { backgroundColor, color, borderTopColor, borderTopWidth, outlineStyle, fontWeight, height } =
      getComputedStyle(element, part)
    return [backgroundColor, color, borderTopColor, borderTopWidth, outlineStyle, part && height].join()
  }
  const pairs = [
    ['[aria-pressed=true]', '[aria-pressed=false]', null], ['nav a[aria-current]', 'nav a:not([aria-current])', null],
    ['[role=tab][aria-selected=true]', '[role=tab][aria-selected=false]', '::after'],
    ['label:has(> input[type=radio]:checked)', 'label:has(> input[type=radio]:not(:checked))', null],
  ]
  return pairs.flatMap(([on, off, part]) => {
    const [chosen, other] = [on, off].map((what) =>
      [...document.querySelectorAll(what)].find((element) => element.checkVisibility()))
    return chosen && other && look(chosen, part) === look(other, part) ? [chosen.outerHTML.slice(0, 200)] : []
  })
}"""


@pytest.fixture(scope="module")
def slug(site: Site) -> str:
    """A project with enough to vote on for all of these."""
    api = site.api()
    slug: str = api.call("POST", "projects", {"name": "Every way", "overlap": 1, "form": FORM})["slug"]
    rows = "\n".join(
        f'{{"prompt": "Question {i}?", "completions": ["Yes, {i}. {"So it is. " * 60}", "No, {i}."]}}'
        for i in range(16)
    )
    api.call("POST", f"projects/{slug}/imports?kind=comparisons", raw=rows.encode())
    return slug


@pytest.fixture
def addresses(slug: str) -> list[str]:
    """The task, and two pages of researchers: figures and links, and a form."""
    return [f"/p/{slug}/task", f"/r/{slug}", f"/r/{slug}/settings"]


def test_forced_colours_leave_every_state_visible(browser: Browser, site: Site, addresses: list[str]) -> None:
    with looking(browser, site, forced_colors="active") as looker:
        for address in addresses:
            looker.open(address)
            if address.endswith("/task"):
                looker.page.wait_for_timeout(PAUSE_MS)
                looker.page.get_by_role("group", name="Truth").get_by_role("radio").first.check(force=True)
                looker.page.keyboard.press("1")  # clarity is missing, so the choice stays on the screen
            assert looker.page.evaluate(_STATES) == [], address
            assert looker.sticks_out(1440) + looker.problems == []


def test_nothing_moves_for_those_who_asked_for_that(browser: Browser, site: Site, addresses: list[str]) -> None:
    with looking(browser, site, reduced_motion="reduce") as looker:
        for address in addresses:
            looker.open(address)
            looker.page.mouse.move(700, 500)
            assert looker.page.evaluate(_MOVING) == [], address
            durations = looker.page.evaluate(
                "() => [...new Set([...document.querySelectorAll('*')].map((one) => getComputedStyle(one)"
                ".transitionDuration))]"
            )
            assert set(durations) <= {"0s", "0s, 0s", "0s, 0s, 0s"}, durations


def test_twice_the_size_is_all_there(browser: Browser, site: Site, addresses: list[str]) -> None:
    with looking(browser, site, viewport=ZOOMED, device_scale_factor=2) as looker:
        for address in addresses:
            looker.open(address)
            assert looker.sticks_out(ZOOMED["width"], ZOOMED["height"]) + looker.problems == [], address
        looker.open(addresses[0])
        for name in ("A is better", "B is better"):
            button = looker.page.get_by_role("button", name=re.compile(name)).first
            button.scroll_into_view_if_needed()
            expect(button).to_be_in_viewport(ratio=0.99)
        box = looker.page.get_by_role("region", name=re.compile("Response A")).first.bounding_box()
        assert box is not None and box["height"] >= 90


@pytest.fixture
def phone(browser: Browser, site: Site) -> Iterator[Looker]:
    context = browser.new_context(viewport=PHONE, reduced_motion="reduce", has_touch=True)
    made = Looker(context.new_page(), site)
    yield made
    context.close()


def tab_to(page: Page, name: str, *, most: int = 40, backwards: bool = False) -> None:
    """Press Tab until the focus is on what is called so; at every stop it can be seen and nothing lies on it."""
    for _ in range(most):
        page.keyboard.press("Shift+Tab" if backwards else "Tab")
        at = page.evaluate(_FOCUS)
        if at is None:
            continue
        assert at["ring"], f"the focus cannot be seen on {at['what']}"
        assert not at["covered"], f"something lies on {at['what']}"
        if re.search(name, at["name"] or ""):
            return
    raise AssertionError(f"{most} times Tab, and never on {name}")


def test_from_the_sign_in_to_five_votes_by_keyboard_alone_on_a_small_phone(
    phone: Looker, site: Site, slug: str
) -> None:
    page = phone.page
    page.goto(site.url)
    expect(page.get_by_label("Email")).to_be_visible()
    if not page.get_by_label("Email").evaluate("(field) => field === document.activeElement"):
        page.keyboard.press("Tab")
    page.keyboard.type(site.email)
    page.keyboard.press("Tab")
    page.keyboard.type(site.password)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Account").wait_for()
    phone.rest()
    assert phone.sticks_out(PHONE["width"], PHONE["height"]) == []

    page.goto(f"{site.url}/p/{slug}/task")
    expect(page.get_by_role("heading", name="Comparison 1", exact=True)).to_be_visible()
    phone.rest()
    for number in range(1, VOTES + 1):
        expect(page.get_by_role("heading", name=f"Comparison {number}", exact=True)).to_be_visible()
        page.wait_for_timeout(PAUSE_MS)
        assert phone.sticks_out(PHONE["width"], PHONE["height"]) == []
        for row in ("Truth", "Clarity"):
            group = page.get_by_role("group", name=row, exact=True)
            while not group.evaluate("(group) => group.contains(document.activeElement)"):
                tab_to(page, "")
            page.keyboard.press("Space")
        tab_to(page, "A is better" if number % 2 else "B is better", backwards=number == 2)
        page.keyboard.press("Enter")
        page.wait_for_timeout(60)
        submit = page.get_by_role("button", name=re.compile("^Submit"))
        if submit.is_visible() and page.get_by_role("heading", name=f"Comparison {number}", exact=True).is_visible():
            tab_to(page, "Submit$")
            page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=f"Comparison {VOTES + 1}", exact=True)).to_be_visible()
    expect(page.get_by_text("Saved", exact=True).or_(page.get_by_label("Saved"))).to_be_attached()
    votes = site.api().call("GET", f"projects/{slug}/votes")["items"]
    assert len([vote for vote in votes if vote["answer"].get("criteria")]) == VOTES
