"""The researcher's path in a real browser, from an account without projects to a second round, with everybody it takes.

Nia, who has never been here, sets a project up; Ann and Ben come by the links that she copies and judge by keys alone,
Ann without a network in the middle; Nia rules on what they disagree about, freezes, trains, stops, goes on, promotes,
samples the new policy, and takes the data away. One test: each chapter goes on where the one before has ended.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.e2e.site import Site, manage
from winnow.client import Client

pytestmark = pytest.mark.e2e
PROMPTS = [f"What is {i} plus {i}, and why?" for i in range(2, 14)]
LOOK_MS = 400  # a person looks; keys within 250 ms of a new task are ignored on purpose
WORK_MS = 300_000  # for what a worker does, on a machine that does much else
CONTRARY = 2  # of Ben's answers


@pytest.fixture(scope="module")
def site(own_site: Site) -> Site:
    """Its own: with nothing but the one model, as a newcomer finds it."""
    return own_site


@dataclass
class Person:
    """Somebody's browser, and what went wrong in it. `is_offline` forgives what a missing network causes."""

    page: Page
    context: BrowserContext
    problems: list[str] = field(default_factory=list)
    is_offline: bool = False

    def watch(self, site: Site) -> None:
        page = self.page
        page.on("pageerror", lambda error: self.problems.append(f"page error: {error}"))
        page.on("console", lambda line: self.blame(f"console: {line.text}", when=line.type == "error"))
        page.on("response", lambda answer: self.blame(f"{answer.status} {answer.url}", when=answer.status >= 400))
        # A page that is left takes its requests along, and a download leaves its page.
        page.on(
            "requestfailed",
            lambda request: self.blame(
                f"{request.failure} {request.url}", when="ERR_ABORTED" not in (request.failure or "")
            ),
        )
        own = (site.url, "data:", "blob:")
        page.on(
            "request", lambda request: self.blame(f"elsewhere: {request.url}", when=not request.url.startswith(own))
        )

    def blame(self, what: str, *, when: bool) -> None:
        if when and not self.is_offline:
            self.problems.append(what)


@contextmanager
def browsing(browser: Browser, site: Site) -> Iterator[Person]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site.url)
    person = Person(context.new_page(), context)
    person.page.set_default_timeout(20_000)
    person.watch(site)
    try:
        yield person
    finally:
        context.close()
    assert person.problems == []


@dataclass
class Shots:
    """Pictures of the chapters, numbered, for whoever looks at how they are."""

    directory: Path
    taken: int = 0

    def take(self, page: Page, name: str) -> None:
        self.taken += 1
        page.screenshot(path=self.directory / f"{self.taken:02}-{name}.png", full_page=True)


def test_from_nothing_to_a_new_round(browser: Browser, site: Site, tmp_path: Path) -> None:
    email, password = manage(site.environ, "create_account", "nia@example.org", "--name", "Nia").split()
    api, shots = Client(site.url), Shots(tmp_path)
    api.sign_in(email, password)
    with browsing(browser, site) as nia:
        page = nia.page
        sign_in(page, site, email, password)
        links = set_up(page, shots)
        # By the model of the annotators, whom eleven votes make more reliable wins a split of one to one.
        api.call("PATCH", "projects/sums", {"aggregator": "majority"})
        sample_first_round(page, shots)
        for link, name, contrary in zip(links, ("Ann", "Ben"), (0, CONTRARY), strict=True):
            with browsing(browser, site) as person:
                join_and_judge(person, link, name, contrary=contrary, shots=shots)
        adjudicate(page, site, shots)
        freeze(page, site, shots)
        take_away(page, tmp_path, shots)
        train_reward_model(page, shots)
        stop_go_on_and_promote(page, shots)
        sample_again(page, shots)
        overview(page, site, api, shots)


def sign_in(page: Page, site: Site, email: str, password: str) -> None:
    page.goto(site.url)
    page.get_by_label("Email").fill(email)
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Account").wait_for()


def set_up(page: Page, shots: Shots) -> list[str]:
    """A project, its prompts, and the links that bring two people."""
    expect(page.get_by_text("No projects yet")).to_be_visible()
    shots.take(page, "home")
    page.get_by_role("link", name="New project").click()
    page.get_by_label("Name", exact=True).fill("Sums")
    page.get_by_role("radio", name=re.compile("^Choice")).check()
    page.get_by_label("Question").fill("Which answer is better?")
    page.get_by_label("Votes per comparison").select_option("2")
    page.get_by_label("Text (Markdown)").fill("# Sums\n\nPrefer the answer that is **right**.")
    expect(page.get_by_label("How it looks").get_by_text("right")).to_be_visible()
    shots.take(page, "new-project")
    page.get_by_role("button", name="Create the project").click()

    page.get_by_label("Paste prompts").fill("\n".join([*PROMPTS, PROMPTS[0]]))
    shots.take(page, "prompts")
    page.get_by_role("button", name=f"Add {len(PROMPTS)} prompts").click()
    expect(page.get_by_text(f"{len(PROMPTS)} prompts were added.")).to_be_visible()
    page.get_by_role("link", name="Next: people").click()

    page.get_by_role("button", name="Make 2 links").click()
    links = []
    for number in (1, 2):
        page.get_by_role("button", name=f"Copy: Link {number}, annotator").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        links.append(page.evaluate("navigator.clipboard.readText()"))
        expect(page.get_by_role("button", name="Copied")).to_have_count(0)
    assert len(set(links)) == 2
    shots.take(page, "people")
    page.get_by_role("link", name="Next: completions").click()
    shots.take(page, "completions")
    page.get_by_role("link", name="Start a sampling round").click()
    return links


def sample_first_round(page: Page, shots: Shots) -> None:
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("checkbox", name=re.compile("^tiny"))).to_be_checked()  # the only policy there is
    dialog.get_by_label("Max new tokens").fill("16")
    shots.take(page, "new-round")
    dialog.get_by_role("button", name=f"Sample {2 * len(PROMPTS)} completions").click()
    sampled(page, 1)
    shots.take(page, "rounds")


def sampled(page: Page, number: int) -> None:
    made = page.get_by_role("region", name=f"Round {number}")
    expect(made.get_by_text("Succeeded")).to_be_visible(timeout=WORK_MS)
    expect(made.get_by_text(re.compile(r"^[1-9]\d* comparisons$"))).to_be_visible()


def join_and_judge(person: Person, link: str, name: str, *, contrary: int, shots: Shots) -> None:
    """Come by a link and vote on everything without a mouse."""
    page = person.page
    page.goto(link)
    page.get_by_label("Email").focus()
    for text in (f"{name.lower()}@example.org", name, "a long walk home"):
        page.keyboard.type(text)
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Go to work").focus()
    shots.take(page, f"start-{name}")
    page.keyboard.press("Enter")
    done = page.get_by_text("That's everything for now")
    number = 1
    while True:
        heading = page.get_by_role("heading", name=f"Comparison {number}", exact=True)
        expect(heading.or_(done)).to_be_visible()
        if done.is_visible():
            break
        page.wait_for_timeout(LOOK_MS)
        page.keyboard.press(better(page, is_contrary=number <= contrary))
        if name == "Ann" and number == 3:
            shots.take(page, "task")
            leave_the_network(person, heading=page.get_by_role("heading", name="Comparison 4", exact=True))
            number += 2
        number += 1
    assert number > len(PROMPTS) // 2
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    shots.take(page, f"done-{name}")


def better(page: Page, *, is_contrary: bool) -> str:
    """The key for the text that sorts first, or for the other one: everybody sees their own sides."""
    left, right = (page.get_by_label(f"Text of response {letter}").first.inner_text() for letter in "AB")
    return "1" if (left <= right) != is_contrary else "2"


def leave_the_network(person: Person, *, heading: Locator) -> None:
    """Two votes without a network; both are there when it is back."""
    page = person.page
    expect(heading).to_be_visible()
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    person.is_offline = True
    person.context.set_offline(True)
    for waiting in (1, 2):
        page.wait_for_timeout(LOOK_MS)
        page.keyboard.press(better(page, is_contrary=False))
        expect(page.get_by_text(f"Offline, {waiting} waiting")).to_be_visible()
    person.context.set_offline(False)
    expect(page.get_by_text("Saved", exact=True)).to_be_visible(timeout=90_000)
    person.is_offline = False


def adjudicate(page: Page, site: Site, shots: Shots) -> None:
    """From the overview, which says that it is due, until nothing is disputed."""
    page.goto(f"{site.url}/r/sums")
    due = page.get_by_role("region", name="Next step").filter(has_text=f"{CONTRARY} comparisons are disputed")
    expect(due).to_be_visible(timeout=WORK_MS)  # a worker settles what was voted on
    shots.take(page, "overview-disputed")
    due.get_by_role("link").click()
    for _ in range(CONTRARY):
        store = page.get_by_role("button", name="Store my answer and show the votes")
        expect(store).to_be_visible()
        page.wait_for_timeout(LOOK_MS)
        page.keyboard.press("1")
        store.click()
        page.get_by_label("Reason").fill("It is the right sum.")
        shots.take(page, "adjudication")
        page.get_by_role("button", name="Give the ruling").click()
    expect(page.get_by_text("Nothing is disputed")).to_be_visible()


def freeze(page: Page, site: Site, shots: Shots) -> None:
    page.goto(f"{site.url}/r/sums")
    shots.take(page, "overview-settled")
    page.get_by_role("link", name="Freeze").first.click()
    submit = page.get_by_role("button", name=re.compile(r"^Freeze \d+ preferences"))
    expect(submit).to_be_enabled()
    shots.take(page, "freeze")
    submit.click()
    expect(page.get_by_role("heading", name="Snapshot v1")).to_be_visible()
    expect(page.get_by_text("Labels by ruling")).to_be_visible()
    shots.take(page, "snapshot")


def take_away(page: Page, tmp_path: Path, shots: Shots) -> None:
    """The export is what the page says that it is, and every line of it loads."""
    page.get_by_label("Split").select_option("all")
    name = page.get_by_text(re.compile(r"^sums-v1-all\.trl\.jsonl$"))
    expect(name).to_be_visible()
    sha256 = page.get_by_role("definition").filter(has_text=re.compile("^[0-9a-f]{64}$")).last.inner_text()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download JSONL").click()
    assert download.value.suggested_filename == name.inner_text()
    path = tmp_path / "export.jsonl"
    download.value.save_as(path)
    data = path.read_bytes()
    assert hashlib.sha256(data).hexdigest() == sha256
    lines = [json.loads(line) for line in data.decode().splitlines()]
    assert len(lines) > len(PROMPTS) // 2
    for line in lines:
        assert line["prompt"][-1]["content"] in PROMPTS
        assert [turn["role"] for turn in line["chosen"] + line["rejected"]] == ["assistant", "assistant"]
        assert line["prob_chosen"] >= 0.5


def train_reward_model(page: Page, shots: Shots) -> None:
    page.get_by_role("link", name="Train on it").click()
    page.get_by_role("radio", name=re.compile("^Reward model")).check()
    page.get_by_label("Epochs").fill("4")
    shots.take(page, "new-job")
    page.get_by_role("button", name="Start the job").click()
    expect(page.get_by_role("heading", level=1).get_by_text("Succeeded")).to_be_visible(timeout=WORK_MS)
    shots.take(page, "reward-model")


def stop_go_on_and_promote(page: Page, shots: Shots) -> None:
    """A DPO job is watched as it goes, stopped, gone on with from where it was, and promoted."""
    heading = page.get_by_role("heading", level=1)
    page.get_by_role("link", name="Jobs", exact=True).first.click()
    page.get_by_role("link", name="New job").click()
    page.get_by_role("radio", name=re.compile("^DPO")).check()
    page.get_by_label("Epochs").fill("4000")
    page.get_by_role("button", name="Start the job").click()
    expect(heading.get_by_text("Running")).to_be_visible(timeout=WORK_MS)
    first = rows_of_metrics(page, more_than=0)
    then = rows_of_metrics(page, more_than=first)  # the curve grows under one's eyes
    shots.take(page, "run-live")
    stop(page)
    shots.take(page, "run-stopped")
    page.get_by_role("button", name=re.compile(r"^Continue from step [1-9]")).click()
    rows_of_metrics(page, more_than=then)
    stop(page)  # however quick the machine is, there is more to do than anybody waits for
    for tab in ("Samples", "Log", "Config", "Runs and checkpoints"):
        page.get_by_role("tab", name=tab).click()
        shots.take(page, f"run-{tab.split()[0].lower()}")
    page.get_by_role("button", name="Promote").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Model name").fill("sums-dpo")
    dialog.get_by_role("button", name="Promote").click()
    expect(page.get_by_text("“sums-dpo” is registered.").first).to_be_visible(timeout=WORK_MS)


def stop(page: Page) -> None:
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("heading", level=1).get_by_text("Cancelled")).to_be_visible(timeout=WORK_MS)


def rows_of_metrics(page: Page, *, more_than: int) -> int:
    """Wait, without a reload, until more rows than so many are drawn; how many there are."""
    shown = page.get_by_text(re.compile(r"^[\d,]+ rows? of metrics"))
    for _ in range(WORK_MS // 250):
        if shown.is_visible():
            rows = int(shown.inner_text().split()[0].replace(",", ""))
            if rows > more_than:
                return rows
        page.wait_for_timeout(250)
    raise AssertionError(f"no more than {more_than} rows of metrics came")


def sample_again(page: Page, shots: Shots) -> None:
    """A new round from the model that was promoted: the loop closes."""
    page.get_by_role("link", name="Sample a round").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("checkbox", name=re.compile("^sums-dpo"))).to_be_checked()
    dialog.get_by_label("Max new tokens").fill("16")
    dialog.get_by_role("button", name=re.compile(r"^Sample \d+ completions")).click()
    sampled(page, 2)
    shots.take(page, "second-round")


def overview(page: Page, site: Site, api: Client, shots: Shots) -> None:
    """What the page says at the end is what there is."""
    page.goto(f"{site.url}/r/sums")
    counts = api.call("GET", "projects/sums/overview")["counts"]
    funnel = page.get_by_role("list", name="From prompts to settled comparisons")
    for label in ("prompts", "completions", "comparisons", "votes"):
        step = funnel.get_by_role("link").filter(has_text=re.compile(f"^{label}", re.IGNORECASE))
        expect(step).to_contain_text(str(counts[label]))
    assert counts["adjudicated"] == CONTRARY
    shots.take(page, "overview-again")
    page.goto(f"{site.url}/r/sums/policies")
    expect(page.get_by_role("link", name="sums-dpo", exact=True)).to_be_visible()
    shots.take(page, "models")
