"""Texts of models on the annotator's page: hostile ones do nothing, and both sides look alike."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.e2e.site import Site
from winnow.env import BASE_DIR

pytestmark = pytest.mark.e2e
CONTENT = json.loads((BASE_DIR / "frontend/src/testing/content.json").read_text())
PAUSE_MS = 400  # a person looks; keys within 250 ms of a new task are ignored on purpose

# Everything in a text that the rules of rendering forbid, as one list of words.
FORBIDDEN = """box => {
  const found = []
  const tags = 'script,img,iframe,style,form,details,object,embed,link,meta,base,video,audio,button,textarea,select'
  for (const node of box.querySelectorAll(tags)) found.push(node.tagName)
  const room = box.closest('[role=group]').getBoundingClientRect()
  for (const node of box.querySelectorAll('*')) {
    const formula = node.closest('.katex, .katex-error') !== null
    const tag = node.tagName.toLowerCase()
    if (tag === 'svg' && !formula) found.push('svg')
    if (tag === 'input' && (node.type !== 'checkbox' || !node.disabled)) found.push('input')
    if (['fixed', 'sticky'].includes(getComputedStyle(node).position)) found.push('position of ' + tag)
    for (const { name, value } of node.attributes) {
      if (/^on|src|^name$|action|^data-(?!footnote)/.test(name)) found.push(name)
      if (name === 'style' && (!formula || /fixed|url|background/.test(value))) found.push('style ' + value)
      if (name === 'href' && !/^(https?:|mailto:|#)/.test(value)) found.push('href ' + value)
      if (name === 'href' && !value.startsWith('#') && node.target !== '_blank') found.push('target of ' + value)
      if ((name === 'id' || /^#/.test(value)) && !/^#?[0-9a-f-]{36}-[AB]-/.test(value)) found.push(name + ' ' + value)
    }
  }
  return found
}"""


def project(site: Site, name: str, comparisons: list[tuple[Any, list[str]]], **form: Any) -> str:
    """A project of these prompts and completions; its slug."""
    api = site.api()
    slug: str = api.call("POST", "projects", {"name": name, "overlap": 1, "form": form})["slug"]
    lines = [{"prompt": prompt, "completions": completions} for prompt, completions in comparisons]
    raw = "\n".join(json.dumps(line) for line in lines).encode()
    api.call("POST", f"projects/{slug}/imports?kind=comparisons", raw=raw)
    return slug


def open_task(page: Page, site: Site, slug: str) -> None:
    page.goto(f"{site.url}/p/{slug}/task")
    expect(page.get_by_role("heading", name="Comparison 1", exact=True)).to_be_visible()
    page.wait_for_timeout(PAUSE_MS)


def texts(page: Page) -> list[Locator]:
    """The boxes of both responses on the task in front."""
    return [page.get_by_role("group", name=f"Text of response {letter}", exact=True) for letter in "AB"]


def by_text(page: Page, words: str) -> Locator:
    """The response that holds these words, whichever side it was drawn to."""
    return page.get_by_role("group", name="Text of response").filter(has_text=words)


def no_sideways_scroll(page: Page) -> bool:
    wide: bool = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    return not wide


def words(seed: int, count: int) -> str:
    """Prose of invented words, in sentences."""
    draw = random.Random(seed)
    made = ["".join(draw.choices("abcdefghijklmnoprstuvw", k=draw.randint(3, 9))) for _ in range(count)]
    return " ".join(word + ("." if index % 14 == 13 else "") for index, word in enumerate(made))


def test_no_payload_runs_loads_or_hides(signed_in: Page, site: Site) -> None:
    page = signed_in
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    hostile = CONTENT["hostile"]
    assert len(hostile) == 27
    pairs = list(zip(hostile, hostile[1:] + hostile[:1], strict=True))[::2]
    slug = project(
        site, "Hostile", [(f"Payloads {n}", [one["text"], other["text"]]) for n, (one, other) in enumerate(pairs)]
    )
    open_task(page, site, slug)
    seen: set[int] = set()
    for number in range(1, len(pairs) + 1):
        expect(page.get_by_role("heading", name=f"Comparison {number}", exact=True)).to_be_visible()
        prompt = page.get_by_role("group", name="Conversation", exact=True).inner_text()
        place = int(prompt.split("Payloads ")[1])
        seen.add(place)
        shown = [box.text_content() or "" for box in texts(page)]
        for payload in pairs[place]:
            assert any(payload["visible"] in text for text in shown), payload["name"]
        for box in texts(page):
            assert box.evaluate(FORBIDDEN) == [], place
        page.wait_for_timeout(PAUSE_MS)
        page.keyboard.press("1")
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    assert seen == set(range(len(pairs)))
    assert dialogs == []
    assert page.evaluate("window.owned === undefined && document.getElementById('root') !== null")
    assert len(page.context.pages) == 1


def test_a_giant_rule_and_a_recursion_stay_small(signed_in: Page, site: Site) -> None:
    named = {one["name"]: one["text"] for one in CONTENT["hostile"]}
    slug = project(site, "Giant", [("Draw it.", [named["giant rule"], named["recursive def"]])])
    open_task(signed_in, site, slug)
    rule = by_text(signed_in, "after the rule").locator(".katex .rule").bounding_box()
    assert rule is not None
    assert rule["height"] < 450
    assert rule["width"] < 450
    expect(by_text(signed_in, "six.").locator(".katex-error")).to_be_visible()
    assert no_sideways_scroll(signed_in)


def test_dollars_are_formulas_exactly_where_they_should_be(signed_in: Page, site: Site) -> None:
    cases = CONTENT["dollars"]
    slug = project(
        site, "Dollars", [("Write some.", ["\n\n".join(case["text"] for case in cases), "Nothing with $5 and $10."])]
    )
    open_task(signed_in, site, slug)
    box = by_text(signed_in, "R$ 10")
    expect(box.locator(".katex").first).to_be_attached()
    found = box.evaluate(
        """box => [...box.firstElementChild.firstElementChild.children].map(node => ({
          formulas: node.querySelectorAll('.katex').length,
          display: node.querySelectorAll('.katex-display').length,
          shown: node.textContent,
        }))"""
    )
    assert len(found) == len(cases)
    for case, block in zip(cases, found, strict=True):
        assert block["formulas"] == case["formulas"], case["text"]
        assert block["display"] == (case["formulas"] if case.get("display") else 0), case["text"]
        if "shown" in case:
            assert block["shown"] == case["shown"]
    assert by_text(signed_in, "Nothing with").locator(".katex").count() == 0
    # The fonts are files of this site.
    assert signed_in.evaluate("document.fonts.ready.then(() => [...document.fonts].some(f => f.status === 'loaded'))")


@pytest.mark.parametrize("cap", ["length", "formulas"])
def test_one_side_over_a_cap_makes_both_plain(signed_in: Page, site: Site, cap: str) -> None:
    big = "**strong** " + ("word " * 4_001 if cap == "length" else " ".join(f"$x_{{{n}}}$" for n in range(201)))
    slug = project(site, f"Cap {cap}", [("Write.", [big, "A **small** one."])])
    open_task(signed_in, site, slug)
    expect(signed_in.get_by_text("both are shown as plain text")).to_be_visible()
    expect(by_text(signed_in, "A **small** one.")).to_be_visible()
    expect(by_text(signed_in, "**strong**")).to_be_visible()
    signed_in.get_by_role("button", name="Render anyway").click()
    expect(signed_in.locator("strong")).to_have_count(2)
    expect(signed_in.get_by_role("button", name="Render anyway")).to_have_count(0)
    assert signed_in.locator(".katex").count() == (0 if cap == "length" else 201)


@pytest.fixture
def blocked(browser: Browser, signed_in: Page, tmp_path: Path) -> Iterator[Page]:
    """The same person where the chunk of formulas and code never comes."""
    context = browser.new_context(
        storage_state=signed_in.context.storage_state(), viewport={"width": 1440, "height": 900}
    )
    context.route("**/assets/typeset-*.js", lambda route: route.abort())
    page = context.new_page()
    yield page
    page.screenshot(path=tmp_path / "last.png")
    context.close()


def test_without_the_rich_chunk_both_are_plain_and_the_page_says_so(blocked: Page, site: Site) -> None:
    slug = project(site, "Blocked", [("Write.", ["A **bold** word.", "The formula $x^2$."])])
    open_task(blocked, site, slug)
    expect(blocked.get_by_text("Formatting did not work here")).to_be_visible()
    expect(by_text(blocked, "A **bold** word.")).to_be_visible()
    expect(by_text(blocked, "The formula $x^2$.")).to_be_visible()
    blocked.keyboard.press("1")
    expect(blocked.get_by_text("Saved", exact=True)).to_be_visible()


def test_differences_and_source_of_similar_texts(signed_in: Page, site: Site) -> None:
    page = signed_in
    texts_of = ["Run **git** reset --soft HEAD~1 first.", "Run **git** revert HEAD first."]
    slug = project(site, "Similar", [("Undo it?", texts_of), ("Again?", ["One.", "Two."])])
    open_task(page, site, slug)
    if by_text(page, "--soft").count() == 0:
        page.keyboard.press("1")
        expect(page.get_by_role("heading", name="Comparison 2", exact=True)).to_be_visible()
        page.wait_for_timeout(PAUSE_MS)
    page.keyboard.press("d")
    expect(page.get_by_role("status").get_by_text("Words that only one response has are marked.")).to_be_visible()
    expect(by_text(page, "--soft").locator("ins")).to_have_text(["reset --soft", "~1"])
    expect(by_text(page, "revert").locator("ins")).to_have_text(["revert"])
    expect(page.get_by_role("button", name="Differences")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("v")
    expect(page.locator("ins")).to_have_count(0)
    expect(by_text(page, texts_of[0])).to_be_visible()
    page.keyboard.press("v")
    expect(page.locator("strong")).to_have_count(2)


def test_differences_of_unrelated_long_texts_are_given_up_in_time(signed_in: Page, site: Site) -> None:
    page = signed_in
    slug = project(site, "Unrelated", [("Write a lot.", [words(1, 2_900), words(2, 2_900)])])
    open_task(page, site, slug)
    page.keyboard.press("d")
    expect(page.get_by_text("Too different to compare word by word.")).to_be_visible(timeout=3_000)
    expect(page.locator("ins")).to_have_count(0)
    page.keyboard.press("g")
    expect(page.get_by_role("complementary", name="Guideline")).to_be_visible(timeout=3_000)


def share(box: Locator) -> float:
    found: float = box.evaluate("box => box.scrollTop / (box.scrollHeight - box.clientHeight)")
    return found


def test_locked_panes_scroll_by_the_same_share(signed_in: Page, site: Site) -> None:
    page = signed_in
    slug = project(site, "Lock", [("Write.", [words(3, 1_200), words(4, 2_400)])])
    open_task(page, site, slug)
    left, right = texts(page)
    expect(page.get_by_role("button", name="More below")).to_have_count(2)
    page.keyboard.press("]")
    expect(right).to_be_focused()
    page.keyboard.press("Space")
    assert share(right) > 0.05
    assert share(left) == 0
    page.keyboard.press("[")
    expect(left).to_be_focused()
    page.keyboard.press("l")
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Lock scroll")).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(100)
    assert share(left) > 0.05
    assert share(left) == pytest.approx(share(right), abs=0.02)
    left.hover()
    page.mouse.wheel(0, 50_000)
    page.wait_for_timeout(300)
    assert share(left) == pytest.approx(1, abs=0.01)
    assert share(right) == pytest.approx(1, abs=0.01)
    expect(page.get_by_role("button", name="More below")).to_have_count(0)
    page.keyboard.press("l")
    page.mouse.wheel(0, -50_000)
    page.wait_for_timeout(300)
    assert share(left) == 0
    assert share(right) == pytest.approx(1, abs=0.01)


CODE = (
    "```python\ndef mean(values: list[float]) -> float:\n    return sum(values) / len(values)  # "
    + "long " * 60
    + "\n```"
)
TABLE = (
    "| "
    + " | ".join(f"column {n}" for n in range(14))
    + " |\n|"
    + " --- |" * 14
    + "\n| "
    + " | ".join(["value"] * 14)
    + " |"
)
ARABIC = "مرحبا، هذه إجابة طويلة بعض الشيء مع رمز `git reset` وصيغة $x^2$ في وسطها.\n\n- أولا\n- ثانيا\n\n> اقتباس"
TURNS = [
    {"role": "user" if n % 2 == 0 else "assistant", "content": f"Turn {n + 1}. " + words(n, 60)} for n in range(11)
] + [{"role": "user", "content": "The last question of a long conversation?"}]
LAYOUTS = {
    "turns": (TURNS, ["A short answer.", "Another short answer."]),
    "long": ("Write 3,000 words.", [words(5, 3_000), words(6, 3_000)]),
    "word": ("One word?", ["x" * 1_000, "See https://example.org/" + "path/" * 200]),
    "code": ("Code?", [CODE, "Text, then `" + "code" * 100 + "`"]),
    "tables": ("A table?", [TABLE, "$$" + " + ".join(f"x_{{{n}}}" for n in range(80)) + "$$"]),
    "rtl": ("اكتب شيئا", [ARABIC, "שלום, זו תשובה קצרה. English inside."]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_text_makes_the_page_scroll_sideways(signed_in: Page, site: Site, name: str) -> None:
    page = signed_in
    slug = project(site, f"Layout {name}", [LAYOUTS[name]])
    page.emulate_media(reduced_motion="reduce")
    for width, height in ((1440, 900), (1366, 768), (768, 1024), (390, 844), (320, 640)):
        page.set_viewport_size({"width": width, "height": height})
        open_task(page, site, slug)
        assert no_sideways_scroll(page), width
        for letter, box in zip("AB", texts(page), strict=True):
            if width < 640:
                page.get_by_role("button", name=f"Response {letter}", exact=True).click()
            place = box.bounding_box()
            assert place is not None
            assert place["x"] >= 0
            assert place["x"] + place["width"] <= width
        for answer in ("A is better", "B is better"):
            expect(page.get_by_role("button", name=answer)).to_be_in_viewport()
    if name == "turns":
        expect(page.get_by_text("The last question of a long conversation?")).to_be_in_viewport()
    if name == "rtl":
        directions = page.locator("section [dir=auto]").evaluate_all(
            "nodes => nodes.map(node => getComputedStyle(node).direction)"
        )
        assert directions == ["rtl"] * 3
