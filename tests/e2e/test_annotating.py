"""The annotator's page under everything that happens to it: fast fingers, lost networks, ended sessions, two tabs.

Each test asks the server what it stored, and the screen what it told. The module is long because these tests share one
cast and one way of breaking the network, and a reader looks for all of them in one place.
"""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, Request, Route, expect

from tests.e2e.site import Site, manage

pytestmark = pytest.mark.e2e
PAUSE_MS = 400  # a person looks; keys within 250 ms of a new task are ignored on purpose
VOTES = re.compile(r"/api/v1/annotate/assignments/[^/]+/vote$")
QUEUE = re.compile(r"/api/v1/annotate/projects/[^/]+/queue$")


@dataclass
class Desk:
    """One person at one browser of their own."""

    context: BrowserContext
    site: Site
    problems: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    queues: list[dict[str, Any]] = field(default_factory=list)

    def page(self) -> Page:
        """A new tab."""
        return self.watch(self.context.new_page())

    def watch(self, page: Page) -> Page:
        """Notes script errors, requests to another origin, and the keys under which votes leave."""
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: self.problems.append(f"page error: {error}"))
        page.on("console", self._heard)
        page.on("request", self._asked)
        page.on("requestfinished", self._answered)
        # What a person does who is asked whether to leave the page with votes unsent.
        page.on("dialog", Dialog.accept)
        return page

    def _heard(self, line: Any) -> None:
        # What the tests break on purpose, the browser reports by itself.
        if line.type == "error" and not line.text.startswith("Failed to load resource"):
            self.problems.append(f"console: {line.text}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self.site.url, "data:")):
            self.problems.append(f"another origin: {request.url}")
        if VOTES.search(request.url):
            self.sent.append(request.headers["idempotency-key"])

    def _answered(self, request: Request) -> None:
        if QUEUE.search(request.url) and (answer := request.response()) is not None and answer.ok:
            self.queues.append(answer.json())

    def shown(self) -> set[str]:
        """The assignments that this browser was given."""
        return {item["assignment"] for queue in self.queues for item in queue["items"]}


@pytest.fixture
def open_desk(browser: Browser, site: Site) -> Iterator[Callable[..., Desk]]:
    """Opens browsers of people who are signed in; at the end none of them may have seen an error of ours."""
    desks: list[Desk] = []

    def opened(email: str = site.email, password: str = site.password, *, signed_in: bool = True) -> Desk:
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        context.set_default_timeout(20_000)
        if signed_in:
            sign_in(context, site, email, password)
        desks.append(Desk(context=context, site=site))
        return desks[-1]

    yield opened
    for desk in desks:
        desk.context.close()
    assert [problem for desk in desks for problem in desk.problems] == []


@pytest.fixture
def desk(open_desk: Callable[..., Desk]) -> Desk:
    """The owner's browser."""
    return open_desk()


@pytest.fixture(scope="session")
def people(site: Site) -> dict[str, tuple[str, str]]:
    """Ann and Bob, who annotate: e-mail and password by name."""
    found = {}
    for name in ("Ann", "Bob"):
        email, password = manage(site.environ, "create_account", f"{name.lower()}@example.org", "--name", name).split()
        found[name] = (email, password)
    return found


def sign_in(context: BrowserContext, site: Site, email: str, password: str) -> None:
    """By the API, as the page does it."""
    context.request.get(f"{site.url}/api/v1/session")
    token = next(cookie["value"] for cookie in context.cookies() if cookie["name"] == "csrftoken")
    answer = context.request.post(
        f"{site.url}/api/v1/session", data={"email": email, "password": password}, headers={"X-CSRFToken": token}
    )
    assert answer.ok, answer.text()


def join(site: Site, slug: str, people: dict[str, tuple[str, str]], *names: str) -> None:
    """Make them annotators of the project."""
    for name in names:
        manage(site.environ, "create_account", people[name][0], "--project", slug)


def comparisons(site: Site, slug: str, n: int, *, start: int = 0) -> None:
    """So many more comparisons, whose texts tell them apart."""
    lines = [
        {"prompt": f"Question {i} of {slug}?", "completions": [f"Text a of {i}.", f"Text b of {i}."]}
        for i in range(start, start + n)
    ]
    raw = "\n".join(json.dumps(line) for line in lines).encode()
    site.api().call("POST", f"projects/{slug}/imports?kind=comparisons", raw=raw)


def project(site: Site, name: str, n: int = 8, **settings: Any) -> str:
    """A project with comparisons that want one vote each; its slug."""
    given = {"overlap": 1, "form": {"rationale": "off"}, **settings}
    slug: str = site.api().call("POST", "projects", {"name": name, **given})["slug"]
    if n:
        comparisons(site, slug, n)
    return slug


def open_task(page: Page, site: Site, slug: str, *, number: int = 1) -> None:
    page.goto(f"{site.url}/p/{slug}/task")
    see(page, number)


def see(page: Page, number: int) -> None:
    """The comparison of that number is on the screen, and keys act."""
    expect(page.get_by_role("heading", name=f"Comparison {number}", exact=True)).to_be_visible()
    page.wait_for_timeout(PAUSE_MS)


def saved(page: Page) -> None:
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()


def votes(site: Site, slug: str) -> list[dict[str, Any]]:
    """All votes that the server has, newest first."""
    items: list[dict[str, Any]] = site.api().call("GET", f"projects/{slug}/votes?limit=200")["items"]
    return items


def live(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if not row["retracted"]]


def prompt(page: Page) -> str:
    """The question on the screen, not the one that is rendered behind it."""
    shown = page.locator("div:not([inert]) > section[aria-label=Conversation]").get_by_role("group")
    return shown.inner_text()


# --- 1, 2: sign-in, fast fingers --------------------------------------------------------------------------------------


def test_a_wrong_password_is_said_and_then_one_key_is_one_vote(open_desk: Callable[..., Desk], site: Site) -> None:
    slug = project(site, "Sign-in")
    desk = open_desk(signed_in=False)
    page = desk.page()
    page.goto(f"{site.url}/p/{slug}/task")
    page.get_by_label("Email").fill(site.email)
    page.get_by_label("Password", exact=True).fill("not this one")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("That email and password don't match.")
    expect(page.get_by_label("Password", exact=True)).to_be_focused()
    page.get_by_label("Password", exact=True).fill(site.password)
    page.keyboard.press("Enter")
    see(page, 1)  # the address that was asked for
    session = next(cookie for cookie in desk.context.cookies() if "session" in cookie["name"])
    assert (session["httpOnly"], session["sameSite"]) == (True, "Lax")
    expect(page.get_by_text("0 of 8", exact=True)).to_be_visible()
    page.keyboard.press("2")
    see(page, 2)
    saved(page)
    expect(page.get_by_text("1 of 8", exact=True)).to_be_visible()
    (vote,) = votes(site, slug)
    assert vote["choice"] == vote["sides"][1]  # the right one
    assert vote["active_ms"] > 0
    assert desk.sent == list(dict.fromkeys(desk.sent))


def test_twenty_keys_are_twenty_votes_and_a_held_or_doubled_key_is_one(desk: Desk, site: Site) -> None:
    slug = project(site, "Fast fingers", 24)
    page = desk.page()
    open_task(page, site, slug)
    for number in range(20):
        page.keyboard.press("ab"[number % 2])
        see(page, number + 2)
    saved(page)
    rows = votes(site, slug)
    assert len(rows) == len({row["comparison"] for row in rows}) == 20
    assert len(desk.sent) == len(set(desk.sent)) == 20
    for _ in range(30):  # held for a second: the first press, then repeats
        page.keyboard.down("1")
        page.wait_for_timeout(33)
    page.keyboard.up("1")
    see(page, 22)
    page.keyboard.press("1")
    page.wait_for_timeout(100)
    page.keyboard.press("1")
    see(page, 23)
    saved(page)
    assert len(votes(site, slug)) == 22


# --- 3: undo ----------------------------------------------------------------------------------------------------------


def test_undo_gives_the_same_comparison_again_and_keeps_one_live_vote(desk: Desk, site: Site) -> None:
    slug = project(site, "Undo")
    page = desk.page()
    open_task(page, site, slug)
    first = prompt(page)
    page.keyboard.press("a")
    see(page, 2)
    saved(page)
    page.keyboard.press("u")
    expect(page.get_by_text("Your earlier choice")).to_be_visible()
    see(page, 1)
    assert prompt(page) == first
    page.keyboard.press("b")
    see(page, 2)
    saved(page)
    rows = votes(site, slug)
    assert [row["retracted"] for row in rows] == [False, True]
    assert rows[0]["comparison"] == rows[1]["comparison"]
    assert rows[0]["choice"] == rows[0]["sides"][1] != rows[1]["choice"]
    assert len(set(desk.sent)) == 2


def test_many_votes_are_undone_one_after_the_other_and_unsent_ones_leave_no_trace(desk: Desk, site: Site) -> None:
    slug = project(site, "Undo many")
    page = desk.page()
    open_task(page, site, slug)
    seen = []
    for number in range(1, 4):
        seen.append(prompt(page))
        page.keyboard.press("a")
        see(page, number + 1)
    saved(page)
    desk.context.set_offline(True)
    seen.append(prompt(page))
    page.keyboard.press("a")
    expect(page.get_by_text("Offline, 1 waiting")).to_be_visible()
    page.wait_for_timeout(PAUSE_MS)
    page.keyboard.press("u")  # never sent: taken back here
    see(page, 4)
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    assert prompt(page) == seen.pop()
    desk.context.set_offline(False)
    while seen:
        page.keyboard.press("u")
        see(page, len(seen))
        assert prompt(page) == seen.pop()
    assert [row["retracted"] for row in votes(site, slug)] == [True] * 3


def test_a_vote_in_a_frozen_snapshot_is_not_undone_and_says_so(desk: Desk, site: Site) -> None:
    slug = project(site, "Frozen", 6)
    page = desk.page()
    open_task(page, site, slug)
    for number in range(2, 6):
        page.keyboard.press("a")
        see(page, number)
    saved(page)
    site.api().call("POST", f"projects/{slug}/snapshots", {"min_votes": 1})
    page.keyboard.press("u")
    said = page.get_by_text("This one is in a frozen snapshot and can't be changed. Flag it instead.")
    expect(said).to_be_visible()
    see(page, 5)
    assert len(live(votes(site, slug))) == 4


# --- 4, 5: lost networks, cut answers, refusals ----------------------------------------------------------------------


def test_votes_without_a_network_wait_are_told_and_arrive(desk: Desk, site: Site) -> None:
    slug = project(site, "Offline", 12)
    page = desk.page()
    open_task(page, site, slug)
    expect(page.get_by_text("5 ready").or_(page.get_by_text("4 ready"))).to_be_visible()
    desk.context.set_offline(True)
    for number in range(1, 4):
        page.keyboard.press("a")
        expect(page.get_by_text(f"Offline, {number} waiting")).to_be_visible()
        page.wait_for_timeout(PAUSE_MS)
    assert votes(site, slug) == []
    desk.context.set_offline(False)
    saved(page)
    assert len(votes(site, slug)) == 3

    desk.context.set_offline(True)
    page.keyboard.press("b")
    expect(page.get_by_text("Offline, 1 waiting")).to_be_visible()
    page.close(run_before_unload=False)  # the tab dies
    desk.context.set_offline(False)
    assert len(votes(site, slug)) == 3
    again = desk.page()
    with again.expect_response(VOTES):
        again.goto(site.url)  # any page of ours sends what is left
    assert len(votes(site, slug)) == 4
    assert len(set(desk.sent)) == 4


def test_all_that_is_leased_can_be_answered_without_a_network(desk: Desk, site: Site) -> None:
    slug = project(site, "Long offline", 12)
    page = desk.page()
    open_task(page, site, slug)
    expect(page.get_by_text("5 ready")).to_be_visible()
    desk.context.set_offline(True)
    for number in range(1, 6):
        page.keyboard.press("a")
        expect(page.get_by_text(f"Offline, {number} waiting")).to_be_visible()
        page.wait_for_timeout(PAUSE_MS)
    expect(page.get_by_text("5 votes are waiting and will be sent when you are back.")).to_be_visible()
    desk.context.set_offline(False)
    see(page, 6)
    saved(page)
    assert len(votes(site, slug)) == 5


def test_a_vote_whose_answer_is_cut_is_stored_once(desk: Desk, site: Site) -> None:
    slug = project(site, "Cut")
    page = desk.page()
    cut: list[str] = []

    def lose_the_answer(route: Route) -> None:
        if cut:
            route.continue_()
            return
        cut.append(route.request.headers["idempotency-key"])
        assert route.fetch().status == 201  # the server has it, and the browser never hears of it
        route.abort()

    page.route(VOTES, lose_the_answer)
    open_task(page, site, slug)
    page.keyboard.press("a")
    expect(page.get_by_text("Offline, 1 waiting")).to_be_visible()
    assert len(votes(site, slug)) == 1
    saved(page)
    assert desk.sent == [cut[0], cut[0]]
    assert len(votes(site, slug)) == 1


def test_a_refused_vote_is_shown_and_holds_up_no_other(desk: Desk, site: Site) -> None:
    slug = project(site, "Refused")
    page = desk.page()
    open_task(page, site, slug)
    expect(page.get_by_text("5 ready")).to_be_visible()
    desk.context.set_offline(True)
    for number in range(1, 4):
        page.keyboard.press("a")
        expect(page.get_by_text(f"Offline, {number} waiting")).to_be_visible()
        page.wait_for_timeout(PAUSE_MS)
    tried: list[str] = []

    def refuse_the_second(route: Route) -> None:
        tried.append(route.request.url)
        if len(tried) == 2:
            body = {"code": "bad_answer", "message": "This answer does not fit the form.", "details": {}}
            route.fulfill(status=400, json=body)
        else:
            route.continue_()

    page.route(VOTES, refuse_the_second)
    desk.context.set_offline(False)
    page.get_by_role("button", name="Not accepted (1)").click()
    dialog = page.get_by_role("dialog", name="Not accepted")
    expect(dialog.get_by_text("This answer does not fit the form.")).to_be_visible()
    expect(dialog.get_by_role("button", name="Copy: the vote")).to_be_visible()
    assert len(votes(site, slug)) == 2
    dialog.get_by_role("button", name="Dismiss").click()
    expect(page.get_by_role("button", name="Not accepted (1)")).to_have_count(0)


# --- 6: sessions and tabs ---------------------------------------------------------------------------------------------


def end_session(desk: Desk) -> None:
    """On the server, behind the browser's back."""
    kept = "; ".join(f"{cookie['name']}={cookie['value']}" for cookie in desk.context.cookies())
    token = next(cookie["value"] for cookie in desk.context.cookies() if cookie["name"] == "csrftoken")
    request = urllib.request.Request(
        f"{desk.site.url}/api/v1/session", headers={"Cookie": kept, "X-CSRFToken": token}, method="DELETE"
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 204


def test_an_ended_session_asks_in_place_and_the_vote_arrives(desk: Desk, site: Site) -> None:
    slug = project(site, "Session")
    page = desk.page()
    open_task(page, site, slug)
    end_session(desk)
    page.keyboard.press("a")
    dialog = page.get_by_role("dialog", name="Sign in again")
    expect(dialog).to_be_visible()
    behind = prompt(page)
    assert votes(site, slug) == []
    dialog.get_by_label("Password", exact=True).fill(site.password)
    page.keyboard.press("Enter")
    expect(dialog).to_have_count(0)
    saved(page)
    assert prompt(page) == behind
    assert len(votes(site, slug)) == 1
    see(page, 2)
    page.keyboard.press("b")
    see(page, 3)


def test_another_person_who_signs_in_does_not_send_the_first_ones_votes(
    open_desk: Callable[..., Desk], people: dict[str, tuple[str, str]], site: Site
) -> None:
    slug = project(site, "Two people", overlap=2)
    join(site, slug, people, "Ann", "Bob")
    desk = open_desk(*people["Ann"])
    page = desk.page()
    open_task(page, site, slug)
    end_session(desk)
    page.keyboard.press("a")
    dialog = page.get_by_role("dialog", name="Sign in again")
    dialog.get_by_label("Email").fill(people["Bob"][0])
    dialog.get_by_label("Password", exact=True).fill(people["Bob"][1])
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Hello, Bob")).to_be_visible()
    open_task(page, site, slug)
    page.keyboard.press("b")
    see(page, 2)
    saved(page)
    (vote,) = votes(site, slug)
    assert vote["choice"] == vote["sides"][1]  # Bob's
    end_session(desk)
    page.reload()
    page.get_by_label("Email").fill(people["Ann"][0])
    page.get_by_label("Password", exact=True).fill(people["Ann"][1])
    with page.expect_response(VOTES):
        page.keyboard.press("Enter")
    assert len({row["annotator"] for row in votes(site, slug)}) == 2


def test_tabs_and_a_duplicated_tab_share_no_task_and_send_each_vote_once(desk: Desk, site: Site) -> None:
    slug = project(site, "Tabs", 20)
    first = desk.page()
    open_task(first, site, slug)
    own = set(desk.shown())
    second = desk.page()
    open_task(second, site, slug)
    with desk.context.expect_page() as opened:
        second.evaluate("() => void window.open(location.href)")  # takes the session storage along, as a duplicate does
    twin = desk.watch(opened.value)
    see(twin, 1)
    shown = [prompt(page) for page in (first, second, twin)]
    assert len(set(shown)) == 3
    assert own < desk.shown()
    for page in (first, second, twin):
        page.bring_to_front()
        page.keyboard.press("a")
        page.wait_for_timeout(PAUSE_MS)
    for page in (first, second, twin):
        saved(page)
    rows = votes(site, slug)
    assert len(rows) == len({row["comparison"] for row in rows}) == 3
    assert len(desk.sent) == len(set(desk.sent)) == 3
    second.reload()  # a reload is the same tab: the task on the screen stays
    see(second, 4)


def test_a_reload_shows_the_same_task(desk: Desk, site: Site) -> None:
    slug = project(site, "Reload")
    page = desk.page()
    open_task(page, site, slug)
    before = prompt(page)
    page.reload()
    see(page, 1)
    assert prompt(page) == before


# --- 7: nothing to do, and why ----------------------------------------------------------------------------------------


def test_a_queue_that_fails_says_so_and_comes_back(desk: Desk, site: Site) -> None:
    slug = project(site, "Queue down")
    page = desk.page()
    page.route(
        QUEUE, lambda route: route.fulfill(status=503, json={"code": "unavailable", "message": "", "details": {}})
    )
    page.goto(f"{site.url}/p/{slug}/task")
    expect(page.get_by_text("Couldn't load the next comparison.")).to_be_visible()
    expect(page.get_by_text("Your votes are safe.")).to_be_visible()
    page.unroute(QUEUE)
    page.get_by_role("button", name="Try again").click()
    see(page, 1)


def test_each_reason_for_having_nothing_to_do_is_said_with_what_comes_next(
    open_desk: Callable[..., Desk], people: dict[str, tuple[str, str]], site: Site
) -> None:
    slug = project(site, "Nothing", 0, person_cap=2)
    join(site, slug, people, "Ann", "Bob")
    ann, bob = open_desk(*people["Ann"]).page(), open_desk(*people["Bob"]).page()
    ann.goto(f"{site.url}/p/{slug}/task")
    expect(ann.get_by_text("Nothing to compare yet")).to_be_visible()
    comparisons(site, slug, 1)
    ann.get_by_role("button", name="Look again").click()
    see(ann, 1)
    bob.goto(f"{site.url}/p/{slug}/task")
    expect(bob.get_by_text("Others hold the last few")).to_be_visible()
    ann.keyboard.press("a")
    expect(ann.get_by_text("That's everything for now")).to_be_visible()
    expect(ann.get_by_text("You have given 1 vote.")).to_be_visible()
    comparisons(site, slug, 3, start=1)
    site.api().call("PATCH", f"projects/{slug}", {"paused": True})
    ann.reload()
    expect(ann.get_by_text("Paused by the researcher")).to_be_visible()
    site.api().call("PATCH", f"projects/{slug}", {"paused": False})
    ann.get_by_role("button", name="Look again").click()
    see(ann, 2)
    ann.keyboard.press("a")
    expect(ann.get_by_text("Your share is done")).to_be_visible()
    bob.get_by_role("button", name="Look again").click()
    see(bob, 1)
    ann.get_by_role("button", name="Undo the last vote").click()  # also from here
    see(ann, 2)
    ann.goto(site.url)
    row = ann.get_by_role("listitem").filter(has_text="Nothing")
    expect(row).to_contain_text("1 vote")
    expect(ann.get_by_text(re.compile(r"^Today \d+ votes? · "))).to_be_visible()


# --- 9, 12: forms -----------------------------------------------------------------------------------------------------


def test_a_digit_in_a_required_reason_is_text_and_the_vote_waits_for_it(desk: Desk, site: Site) -> None:
    slug = project(site, "Reason", form={"rationale": "required"})
    page = desk.page()
    open_task(page, site, slug)
    page.keyboard.press("Enter")
    expect(page.get_by_text("Choose an answer first.")).to_be_visible()
    page.keyboard.press("1")
    box = page.locator("div:not([inert])").get_by_role("textbox")
    expect(box).to_be_focused()
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("Say why, in a few words.")).to_be_visible()
    page.keyboard.type("1 of 2, and b")
    expect(box).to_have_value("1 of 2, and b")
    page.wait_for_timeout(PAUSE_MS)
    assert votes(site, slug) == []
    page.reload()  # the draft survives
    see(page, 1)
    expect(box).to_have_value("1 of 2, and b")
    page.keyboard.press("r")
    page.keyboard.press("Control+Enter")
    see(page, 2)
    saved(page)
    (vote,) = votes(site, slug)
    assert vote["answer"]["rationale"] == "1 of 2, and b"


def test_keys_of_an_input_method_and_keys_with_a_modifier_are_no_votes(desk: Desk, site: Site) -> None:
    slug = project(site, "Input method")
    page = desk.page()
    open_task(page, site, slug)
    press = "(init) => document.body.dispatchEvent(new KeyboardEvent('keydown', { bubbles: true, ...init }))"
    page.evaluate(press, {"key": "1", "isComposing": True})
    page.evaluate(press, {"key": "1", "keyCode": 229})
    for key in ("Control+b", "Alt+1", "Meta+a"):
        page.keyboard.press(key)
    page.wait_for_timeout(PAUSE_MS)
    see(page, 1)
    page.keyboard.press("1")
    see(page, 2)
    saved(page)
    assert len(votes(site, slug)) == 1


def test_vote_keys_are_silent_but_say_why_until_both_are_rated(desk: Desk, site: Site) -> None:
    slug = project(site, "Rate first", form={"rationale": "off", "read_first": True})
    page = desk.page()
    open_task(page, site, slug)
    status = page.get_by_role("status").filter(has_text="Read and rate each response first.")
    page.keyboard.press("a")
    expect(status).to_be_visible()
    page.keyboard.press("Enter")
    expect(status).to_be_visible()
    for point in ("6", "2"):
        page.keyboard.press(point)
        page.keyboard.press("Enter")
        page.wait_for_timeout(PAUSE_MS)
    page.keyboard.press("b")
    see(page, 2)
    saved(page)
    (vote,) = votes(site, slug)
    left, right = vote["sides"]
    assert vote["choice"] == right
    assert vote["answer"]["first_ratings"] == {left: 6, right: 2}


def long_texts(site: Site, slug: str, n: int) -> None:
    """Comparisons whose second text is longer than a screen."""
    tale = "\n\n".join(f"Paragraph {i} of a long answer." for i in range(80))
    lines = [{"prompt": f"Long question {i}?", "completions": ["Short.", tale]} for i in range(n)]
    raw = "\n".join(json.dumps(line) for line in lines).encode()
    site.api().call("POST", f"projects/{slug}/imports?kind=comparisons", raw=raw)


def test_a_vote_key_says_which_response_has_more_until_its_end_was_on_the_screen(desk: Desk, site: Site) -> None:
    slug = project(site, "Read to the end", 0, read_to_end=True)
    long_texts(site, slug, 2)
    page = desk.page()
    open_task(page, site, slug)
    held = page.get_by_role("status").filter(has_text=re.compile("^Read both responses first: [AB] has more below"))
    page.keyboard.press("a")
    expect(held).to_be_visible()
    page.get_by_role("button", name="B is better").click()
    see(page, 1)
    assert votes(site, slug) == []
    long = page.locator("div:not([inert]) > div > section[aria-label^=Response]").filter(has_text="Paragraph 79")
    long.get_by_role("group").evaluate("text => text.scrollTo(0, text.scrollHeight)")
    page.wait_for_timeout(PAUSE_MS)
    page.keyboard.press("a")
    see(page, 2)
    saved(page)
    assert len(votes(site, slug)) == 1
    # The next one was rendered behind, and its short text was not yet read for that.
    page.keyboard.press("a")
    expect(held).to_be_visible()
    page.keyboard.press("u")
    see(page, 1)
    page.keyboard.press("b")
    see(page, 2)
    assert len(live(votes(site, slug))) == 1


def test_a_text_behind_a_tab_of_a_phone_is_said_to_be_unseen(desk: Desk, site: Site) -> None:
    slug = project(site, "Read on a phone", read_to_end=True)
    page = desk.page()
    page.set_viewport_size({"width": 390, "height": 844})
    open_task(page, site, slug)
    page.get_by_role("button", name="A is better").click()
    expect(page.get_by_role("status").filter(has_text="the end of B was not on the screen yet")).to_be_visible()
    page.get_by_role("button", name="Response B", exact=True).click()
    page.wait_for_timeout(PAUSE_MS)
    page.get_by_role("button", name="A is better").click()
    see(page, 2)


def test_a_vote_key_says_how_long_is_left_to_read(desk: Desk, site: Site) -> None:
    slug = project(site, "Read a while", min_reading_seconds=3)
    page = desk.page()
    open_task(page, site, slug)
    page.keyboard.press("a")
    expect(
        page.get_by_role("status").filter(has_text=re.compile(r"asks for 3 s a comparison, [123] s to go"))
    ).to_be_visible()
    page.wait_for_timeout(3_000)
    page.keyboard.press("a")
    see(page, 2)


def drag(page: Page, letter: str, *, onto: str) -> None:
    """By the handle, to the near end of the place of another."""
    handle = page.locator(f"[data-grip={letter}]").bounding_box()
    place = page.locator("[data-place]").filter(has=page.locator(f"[data-grip={onto}]")).bounding_box()
    assert handle is not None
    assert place is not None
    page.mouse.move(handle["x"] + 8, handle["y"] + 8)
    page.mouse.down()
    page.mouse.move(place["x"] + 8, place["y"] + place["height"] / 2, steps=8)
    page.mouse.up()


def test_keys_buttons_lists_and_the_handle_store_the_same_order(desk: Desk, site: Site) -> None:
    slug = project(site, "Order", 0, form={"kind": "ranking", "size": 4, "rationale": "off"})
    lines = [{"prompt": f"Question {i}?", "completions": [f"Text {x}." for x in "abcd"]} for i in range(5)]
    raw = "\n".join(json.dumps(line) for line in lines).encode()
    site.api().call("POST", f"projects/{slug}/imports?kind=comparisons", raw=raw)
    page = desk.page()
    open_task(page, site, slug)

    page.keyboard.press("Shift+F")  # letters place, so what they do elsewhere needs Shift here
    expect(page.get_by_role("dialog", name="Flag this comparison")).to_be_visible()
    page.keyboard.press("Escape")
    for key in ("d", "a", "=", "c", "b", "Enter"):
        page.keyboard.press(key)
        page.wait_for_timeout(60)

    see(page, 2)
    bar = page.get_by_role("region", name="Your answer")
    for name in ("Place D next", "Place A next", "Equal to the previous", "Place C next", "Place B next", "Submit"):
        bar.get_by_role("button", name=name).click()

    see(page, 3)
    for letter, place in (("D", 1), ("A", 2), ("C", 3), ("B", 4)):
        choose = page.get_by_role("combobox", name=f"Place of response {letter}")
        choose.select_option(str(place))
    bar.get_by_role("button", name="Make places 2 and 3 equal").click()
    bar.get_by_role("button", name="Submit").click()

    see(page, 4)
    for key in ("a", "c", "b", "d"):
        page.keyboard.press(key)
        page.wait_for_timeout(60)
    drag(page, "D", onto="A")
    bar.get_by_role("button", name="Make places 2 and 3 equal").click()
    bar.get_by_role("button", name="Submit").click()
    see(page, 5)
    saved(page)
    orders = []
    for vote in votes(site, slug):
        letter = dict(zip(vote["sides"], "ABCD", strict=True))
        orders.append([sorted(letter[one] for one in group) for group in vote["answer"]["ranking"]])
    assert orders == [[["D"], ["A", "C"], ["B"]]] * 4


# --- 13: practice, qualification, feedback ----------------------------------------------------------------------------


def test_practice_explains_and_a_qualification_gates_until_it_is_passed(
    open_desk: Callable[..., Desk], people: dict[str, tuple[str, str]], site: Site
) -> None:
    gates = {"practice_items": 1, "qualification_items": 1, "attempts_allowed": 3, "retry_hours": 0, "pass_mark": 1}
    slug = project(site, "Gate", **gates)
    api = site.api()
    for use, n in (("practice", 1), ("qualification", 3)):
        for i in range(n):
            gold = {
                "prompt": [{"role": "user", "content": f"Known {use} {i}?"}],
                "completions": ["This one is right.", "This one is wrong."],
                "answer": {"choice": "a"}, "use": use, "explanation": "The other invents a flag.",
            }  # fmt: skip
            api.call("POST", f"projects/{slug}/gold", gold)
    join(site, slug, people, "Ann")
    desk = open_desk(*people["Ann"])
    page = desk.page()
    page.goto(site.url)
    row = page.get_by_role("listitem").filter(has_text="Gate")
    expect(row).to_contain_text("practice comes first")
    page.goto(f"{site.url}/p/{slug}/task")
    expect(page.get_by_text("Practice comes first")).to_be_visible()
    page.get_by_role("link", name="Go there").click()

    def choose(*, right: bool) -> None:
        expect(page.get_by_role("heading", name="Comparison 1", exact=True)).to_be_visible()
        page.wait_for_timeout(PAUSE_MS)
        left = page.get_by_role("region", name="Response A", exact=True)
        is_left = "right" in left.inner_text()
        page.keyboard.press("a" if is_left is right else "b")

    page.get_by_role("link", name="Begin").click()
    choose(right=False)
    panel = page.get_by_role("complementary", name="Explanation")
    expect(panel).to_contain_text("Another answer was expected.")
    expect(panel).to_contain_text("The other invents a flag.")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Practice is done")).to_be_visible()
    page.get_by_role("link", name="What comes next").click()

    page.get_by_role("button", name="Begin").click()
    choose(right=False)
    expect(page.get_by_text("Not passed this time: 0 of 1 right.")).to_be_visible()  # and not which one
    page.get_by_role("link", name="What comes next").click()
    page.get_by_role("button", name="Begin").click()
    choose(right=True)
    expect(page.get_by_text("Passed: 1 of 1 right.")).to_be_visible()
    page.get_by_role("link", name="What comes next").click()
    page.get_by_role("link", name="Go to work").click()
    see(page, 1)
    page.keyboard.press("a")
    see(page, 2)


def test_a_chat_shows_both_answers_at_once_and_the_better_one_goes_on(desk: Desk, site: Site) -> None:
    slug = project(site, "Chat", 0)
    api = site.api()
    (model,) = api.call("GET", f"projects/{slug}/models")["items"]
    chat = {"enabled": True, "policies": [model["id"]], "sampling": {"max_new_tokens": 8}}
    api.call("PUT", f"projects/{slug}/chat", chat)
    page = desk.page()
    page.goto(f"{site.url}/p/{slug}/chat")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_text("Write the first message.")).to_be_visible()
    page.get_by_role("textbox", name="Your message").fill("What is a round number?")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("Two answers are being written. They appear here together.")).to_be_visible()
    page.keyboard.press("a")  # nothing to vote on yet
    panes = page.get_by_role("region", name=re.compile("^Response [AB]$"))
    expect(panes).to_have_count(2, timeout=120_000)
    page.wait_for_timeout(PAUSE_MS)
    better = panes.last.get_by_role("group").inner_text()
    page.keyboard.press("b")
    expect(page.get_by_role("textbox", name="Your message")).to_be_visible()
    expect(page.get_by_role("main")).to_contain_text(better)
    (vote,) = votes(site, slug)
    assert vote["choice"] == vote["sides"][1]
    page.get_by_role("button", name="End and rate").click()
    dialog = page.get_by_role("dialog", name="End and rate")
    dialog.get_by_role("radio", name=re.compile("^5")).check(force=True)
    dialog.get_by_role("button", name="End the conversation").click()
    expect(page.get_by_text("This conversation has ended. You rated it 5 of 7.")).to_be_visible()


# --- keys, text, phone ------------------------------------------------------------------------------------------------


def test_single_keys_can_be_changed_and_switched_off_and_buttons_do_all(desk: Desk, site: Site) -> None:
    slug = project(site, "Keys")
    page = desk.page()
    page.goto(f"{site.url}/me")
    page.get_by_role("button", name=re.compile("^Response A is better: A")).click()
    page.keyboard.press("b")
    expect(page.get_by_text("B is used already: Response B is better.")).to_be_visible()
    page.keyboard.press("j")
    expect(page.get_by_role("button", name=re.compile("^Response A is better: J"))).to_be_visible()
    open_task(page, site, slug)
    page.keyboard.press("a")
    page.wait_for_timeout(PAUSE_MS)
    see(page, 1)
    page.keyboard.press("j")
    see(page, 2)
    page.goto(f"{site.url}/me")
    page.get_by_role("checkbox", name="Single keys act").uncheck()
    page.goto(f"{site.url}/p/{slug}/task")
    see(page, 2)
    for key in ("j", "b", "1", "s", "?"):
        page.keyboard.press(key)
    see(page, 2)
    page.get_by_role("button", name="B is better").click()
    see(page, 3)
    page.get_by_role("button", name="Undo", exact=True).click()
    see(page, 2)
    assert len(live(votes(site, slug))) == 1


def test_the_text_size_is_kept(desk: Desk, site: Site) -> None:
    slug = project(site, "Text size")
    page = desk.page()
    page.goto(f"{site.url}/me")
    page.get_by_role("radio", name="20 px").check()
    open_task(page, site, slug)
    size = page.get_by_text(re.compile(r"^Text [ab] of \d")).first.evaluate("node => getComputedStyle(node).fontSize")
    assert size == "20px"


def test_on_a_phone_both_texts_are_read_by_tabs_and_the_vote_is_in_reach(
    open_desk: Callable[..., Desk], site: Site
) -> None:
    slug = project(site, "Phone")
    desk = open_desk()
    page = desk.page()
    page.set_viewport_size({"width": 390, "height": 844})
    open_task(page, site, slug)
    shown = page.get_by_role("region", name=re.compile("^Response [AB]$"))
    expect(shown).to_have_count(1)
    before = shown.inner_text()
    page.get_by_role("button", name="Response B", exact=True).click()
    expect(shown).to_have_count(1)
    assert shown.inner_text() != before
    pane = shown.bounding_box()
    assert pane is not None
    assert pane["height"] >= 0.35 * 844
    vote = page.get_by_role("button", name="B is better")
    expect(vote).to_be_in_viewport(ratio=1)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    vote.click()
    see(page, 2)
    saved(page)
    (row,) = votes(site, slug)
    assert row["choice"] == row["sides"][1]
