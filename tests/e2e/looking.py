"""What a page is looked at with: when it rests, what axe finds, what sticks out, what went wrong meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, BrowserContext, CDPSession, Page, Request

from tests.e2e.site import Site
from winnow.env import BASE_DIR

AXE = BASE_DIR / "frontend" / "node_modules" / "axe-core" / "axe.min.js"
TAGS = ("wcag2a", "wcag2aa", "wcag21aa", "wcag22aa")
DESK = {"width": 1440, "height": 900}
_QUIET_SECONDS = 0.25
_RUN_AXE = """(async () => {
  const found = await axe.run(document, { runOnly: { type: 'tag', values: %s }, resultTypes: ['violations'] })
  return found.violations.flatMap(({ id, impact, nodes }) => nodes.slice(0, 4).map((node) =>
    `${id} (${impact}): ${node.target.join(' ')} | ${node.html.slice(0, 160)} | ${node.any.concat(node.all, node.none)
      .map(({ message }) => message).join(' ').slice(0, 300)}`))
})()"""
# A busy machine asks for nothing while it thinks, so the page itself must say that it is there: a heading, no skeleton.
_IS_THERE = """() => document.querySelector('h1') !== null
  && document.querySelector('[class*=_skeleton_], [class*=_boxes_], [class*=_ghost_]') === null"""
# What is wider than the window, by the innermost elements that are; those in a box that scrolls by itself may be.
_STICKING_OUT = """() => {
  const width = document.documentElement.clientWidth
  if (document.documentElement.scrollWidth <= width) return []
  const scrolls = (element) => {
    for (let box = element.parentElement; box && box !== document.body; box = box.parentElement)
      if (getComputedStyle(box).overflowX !== 'visible') return true
    return false
  }
  const out = [...document.body.querySelectorAll('*')].filter((element) => {
    const { left, right } = element.getBoundingClientRect()
    return (right > width + 1 || left < -1) && !scrolls(element)
  })
  const inner = out.filter((element) => !out.some((other) => other !== element && element.contains(other)))
  return [`${document.documentElement.scrollWidth} px wide`,
    ...inner.slice(0, 4).map((element) => element.outerHTML.slice(0, 160))]
}"""


class Looker:
    """A person's page in one browser context, and what went wrong on it."""

    def __init__(self, page: Page, site: Site) -> None:
        self.page, self._site = page, site
        self.problems: list[str] = []
        # Answers that the page at hand is expected to get, such as 404 where its address names nothing.
        self.refusals: tuple[int, ...] = ()
        self._open: set[Request] = set()
        self._changed_at = time.monotonic()
        self._devtools: CDPSession | None = None
        page.on("pageerror", lambda error: self.problems.append(f"page error: {error}"))
        page.on("console", lambda line: self._said(line.type, line.text))
        page.on("request", self._asked)
        page.on("requestfinished", self._answered)
        page.on("requestfailed", self._failed)
        page.set_default_timeout(20_000)

    def _said(self, kind: str, text: str) -> None:
        if kind == "error" and not any(f"status of {status}" in text for status in self.refusals):
            self.problems.append(f"console: {text}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self._site.url, "data:", "blob:")):
            self.problems.append(f"off-origin: {request.url}")
        self._open.add(request)
        self._changed_at = time.monotonic()

    def _answered(self, request: Request) -> None:
        self._open.discard(request)
        self._changed_at = time.monotonic()
        response = request.response()
        if response is not None and response.status >= 400 and response.status not in self.refusals:
            self.problems.append(f"{response.status}: {request.method} {request.url}")

    def _failed(self, request: Request) -> None:
        self._open.discard(request)
        self._changed_at = time.monotonic()
        # Leaving a page takes back what it was asking for.
        if "ERR_ABORTED" not in (request.failure or ""):
            self.problems.append(f"failed: {request.method} {request.url}: {request.failure}")

    def sign_in(self) -> None:
        """By hand, as the owner."""
        page = self.page
        page.goto(self._site.url)
        page.get_by_label("Email").fill(self._site.email)
        page.get_by_label("Password", exact=True).fill(self._site.password)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("button", name="Account").wait_for()

    def open(self, path: str, *, refusals: tuple[int, ...] = ()) -> None:
        """Go there and wait until the page rests; the list of problems begins anew. `refusals`: statuses to expect."""
        # A page that only its fragment sets apart would not be loaded again.
        self.page.goto("about:blank")
        self.problems.clear()
        self._open.clear()
        self.refusals = refusals
        self.page.goto(self._site.url + path)
        self.rest()

    def rest(self, seconds: float = 15) -> None:
        """Wait until the page is there and has asked for nothing for a moment; polling cannot hold it up for ever."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            is_quiet = not self._open and time.monotonic() - self._changed_at > _QUIET_SECONDS
            if is_quiet and self.page.evaluate(_IS_THERE):
                return
            self.page.wait_for_timeout(50)

    def dress(self, theme: str) -> None:
        """Another theme on the page as it is."""
        self.page.evaluate(
            """(theme) => {
              document.documentElement.dataset.theme = theme
              window.dispatchEvent(new Event('winnow-theme'))
            }""",
            theme,
        )

    def violations(self) -> list[str]:
        """What axe finds. It comes in through the developer tools: the page's own policy allows no foreign script."""
        if self._devtools is None:
            self._devtools = self.page.context.new_cdp_session(self.page)
        if not self._run("typeof axe === 'object'"):
            self._run(AXE.read_text(encoding="utf-8") + "\n;true")
        found: list[str] = self._run(_RUN_AXE % list(TAGS))
        return found

    def _run(self, expression: str) -> Any:
        assert self._devtools is not None
        answer = self._devtools.send(
            "Runtime.evaluate", {"expression": expression, "awaitPromise": True, "returnByValue": True}
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def sticks_out(self, width: int, height: int = 900) -> list[str]:
        """What makes the page scroll sideways at that width; nothing where it does not."""
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.wait_for_timeout(60)
        found: list[str] = self.page.evaluate(_STICKING_OUT)
        return found


@contextmanager
def looking(browser: Browser, site: Site, **options: Any) -> Iterator[Looker]:
    """The owner, signed in, in a context of its own without motion; `options` are the context's."""
    settings: dict[str, Any] = {"viewport": DESK, "reduced_motion": "reduce", "color_scheme": "light"}
    context: BrowserContext = browser.new_context(**(settings | options))
    try:
        looker = Looker(context.new_page(), site)
        looker.sign_in()
        yield looker
    finally:
        context.close()
