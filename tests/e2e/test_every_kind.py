"""Every kind of feedback by keyboard alone in a real browser, and what the server has stored afterwards."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.site import Site

pytestmark = pytest.mark.e2e
PAUSE_MS = 400  # a person looks; keys within 250 ms of a new task are ignored on purpose
CRITERIA = [{"key": "truth", "label": "Truth"}, {"key": "clarity", "label": "Clarity"}]


def project(site: Site, name: str, form: dict[str, Any], *, tasks: int = 2) -> str:
    """A project of that form with comparisons of texts that name their stored letter; its slug."""
    api = site.api()
    slug: str = api.call("POST", "projects", {"name": name, "overlap": 1, "form": form})["slug"]
    lines = [
        {
            "prompt": f"Question {i} of {name}?",
            "completions": [f"Text {letter} of {i}." for letter in "abcd"[: form.get("size", 2)]],
        }
        for i in range(tasks)
    ]
    raw = "\n".join(json.dumps(line) for line in lines).encode()
    api.call("POST", f"projects/{slug}/imports?kind=comparisons", raw=raw)
    return slug


def open_task(page: Page, site: Site, slug: str) -> None:
    page.goto(f"{site.url}/p/{slug}/task")
    expect(page.get_by_role("heading", name="Comparison 1", exact=True)).to_be_visible()
    page.wait_for_timeout(PAUSE_MS)


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)
        page.wait_for_timeout(60)


def stored(page: Page, site: Site, slug: str) -> dict[str, Any]:
    """The vote that the server has once the page says that it is saved."""
    expect(page.get_by_role("heading", name="Comparison 2", exact=True)).to_be_visible()
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    (vote,) = site.api().call("GET", f"projects/{slug}/votes")["items"]
    found: dict[str, Any] = vote
    return found


def test_a_scale_with_criteria_and_a_reason(signed_in: Page, site: Site) -> None:
    form = {
        "kind": "scale", "points": 7, "criteria": CRITERIA, "rationale": "required",
        "reasons": [{"key": "true", "label": "It is true"}],
    }  # fmt: skip
    slug = project(site, "Scale", form)
    open_task(signed_in, site, slug)
    press(signed_in, "7")
    expect(signed_in.get_by_role("heading", name="Comparison 1", exact=True)).to_be_visible()
    press(signed_in, "6", "4")  # truth leans to B, clarity is equal; the focus goes to what is missing
    expect(signed_in.get_by_role("textbox")).to_be_focused()
    signed_in.keyboard.type("Because it is right.")
    press(signed_in, "Control+Enter")
    vote = stored(signed_in, site, slug)
    straight = vote["sides"] == "ab"
    assert vote["choice"] == ("b" if straight else "a")
    assert vote["answer"]["scale"] == (7 if straight else 1)
    assert vote["answer"]["criteria"] == {"truth": 6 if straight else 2, "clarity": 4}
    assert vote["answer"]["rationale"] == "Because it is right."
    assert vote["active_ms"] > 0


def test_a_ranking_of_four_with_a_tie(signed_in: Page, site: Site) -> None:
    slug = project(site, "Ranking", {"kind": "ranking", "size": 4, "rationale": "off"})
    open_task(signed_in, site, slug)
    press(signed_in, "c", "a", "=", "d", "b")  # C, then A and D together, then B
    press(signed_in, "Enter")
    vote = stored(signed_in, site, slug)
    letter = dict(zip("ABCD", vote["sides"], strict=True))
    assert vote["answer"] == {"ranking": [[letter["C"]], sorted([letter["A"], letter["D"]]), [letter["B"]]]}
    assert vote["choice"] == ""


def test_a_rating_of_two_by_digits(signed_in: Page, site: Site) -> None:
    slug = project(site, "Rating", {"kind": "rating", "size": 2, "points": 5, "criteria": CRITERIA, "rationale": "off"})
    open_task(signed_in, site, slug)
    press(signed_in, "4", "5", "2", "n", "Enter")
    vote = stored(signed_in, site, slug)
    first, second = vote["sides"]
    assert vote["answer"]["ratings"] == {
        first: {"truth": 4, "clarity": 5},
        second: {"truth": 2, "clarity": None},
    }
    assert vote["choice"] == first


def test_both_are_read_first_and_then_compared(signed_in: Page, site: Site) -> None:
    slug = project(site, "Read first", {"read_first": True, "allow_both_bad": True, "rationale": "off"})
    open_task(signed_in, site, slug)
    press(signed_in, "x")  # not yet: A is alone on the screen
    expect(signed_in.get_by_role("heading", name="Comparison 1", exact=True)).to_be_visible()
    for point in ("5", "3"):
        press(signed_in, point, "Enter")
        signed_in.wait_for_timeout(PAUSE_MS)
    press(signed_in, "x")
    vote = stored(signed_in, site, slug)
    first, second = vote["sides"]
    assert vote["answer"] == {"both_bad": True, "first_ratings": {first: 5, second: 3}}
    assert vote["choice"] == "tie"


def test_a_half_given_answer_survives_a_reload(signed_in: Page, site: Site) -> None:
    slug = project(site, "Draft", {"kind": "ranking", "size": 3, "rationale": "optional"})
    open_task(signed_in, site, slug)
    press(signed_in, "b", "r")
    signed_in.keyboard.type("The second is best")
    signed_in.wait_for_timeout(PAUSE_MS)
    signed_in.reload()
    expect(signed_in.get_by_role("heading", name="Comparison 1", exact=True)).to_be_visible()
    signed_in.wait_for_timeout(PAUSE_MS)
    expect(signed_in.get_by_role("textbox")).to_have_value("The second is best")
    press(signed_in, "a", "c", "Control+Enter")
    vote = stored(signed_in, site, slug)
    letter = dict(zip("ABC", vote["sides"], strict=True))
    assert vote["answer"]["ranking"] == [[letter["B"]], [letter["A"]], [letter["C"]]]
