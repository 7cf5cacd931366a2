"""`python -m benchmarks.budgets [--small] [--json]`: what the pages weigh and how fast they answer, beside the budgets.

A production build, a real server on a free port with data of its own, and headless Chromium. Sizes come from the
build's manifest. Times are measured inside the page: from the event's own time stamp to the first task after the frame
that shows its effect (requestAnimationFrame, then a message). A figure past its target is shown as such; only one past
the wide limit, which leaves room for a slow machine, ends the program with 1.

Charts are drawn, and texts compared, on a page of their own (`frontend/bench`), built from the application's own parts.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import django
from playwright.sync_api import Browser, BrowserContext, Page, Route, sync_playwright

from benchmarks.report import Row, show
from tools.frontend import FRONTEND, build, find_npm

if TYPE_CHECKING:
    from tests.e2e.site import Site

SLUG = "budgets"
VOTES, PREFETCHED_VOTES, LOADS, TICKS = 200, 30, 5, 60
GAP_SECONDS = 0.6  # between two keys: faster than any person who reads, slow enough to render the next task
API_DELAY_MS = 250
HEADING = "div:not([inert]) > section h1"

WATCH = """
(() => {
  const seen = { keys: [], stored: [], shift: 0, interactions: {}, painted: 0, what: '' }
  window.budgets = seen
  // Each visit goes on with the tasks of the last one, as a reload does; a person may hold only so many.
  if (location.protocol.startsWith('http')) sessionStorage.setItem('winnow-tab', 'budgets')
  const heading = () => document.querySelector('HEADING')?.textContent ?? ''
  window.addEventListener('keydown', (event) => {
    if (event.repeat || !/^[abt]$/.test(event.key)) return
    const before = heading()
    const look = () => requestAnimationFrame(() => {
      const channel = new MessageChannel()
      channel.port1.onmessage = () => {
        channel.port1.close()
        if (heading() === before) look()
        else seen.keys.push(performance.now() - event.timeStamp)
      }
      channel.port2.postMessage(0)
    })
    look()
  }, true)
  const put = IDBObjectStore.prototype.put
  IDBObjectStore.prototype.put = function (value, key) {
    const start = performance.now()
    if (value?.attempted === false) {
      this.transaction.addEventListener('complete', () => seen.stored.push(performance.now() - start))
    }
    return put.call(this, value, key)
  }
  const watch = (type, each, more) => new PerformanceObserver((list) => list.getEntries().forEach(each))
    .observe({ type, buffered: true, ...more })
  watch('largest-contentful-paint', (entry) => {
    seen.painted = entry.startTime
    seen.what = `${entry.element?.tagName ?? ''} ${entry.element?.textContent.slice(0, 40) ?? ''}`
  })
  watch('layout-shift', (entry) => { if (!entry.hadRecentInput) seen.shift += entry.value })
  watch('event', (entry) => {
    if (entry.interactionId) {
      seen.interactions[entry.interactionId] = Math.max(entry.duration, seen.interactions[entry.interactionId] ?? 0)
    }
  }, { durationThreshold: 16 })
})()
""".replace("HEADING", HEADING)
SLOW_API = f"""
(() => {{
  const plain = window.fetch
  window.fetch = async (...asked) => {{
    await new Promise((resolve) => setTimeout(resolve, {API_DELAY_MS}))
    return plain(...asked)
  }}
}})()
"""
NOT_BEHIND = "window.requestIdleCallback = () => 0"  # the next task is fetched, but never rendered beforehand


def within(what: str, unit: str, ours: float, *, target: float, limit: float) -> Row:
    """A row of a budget: beside it the target, and the limit up to which a slow machine is excused."""
    name = "target" if ours <= target else "PAST its target"
    return Row(
        what=f"{what} (limit {limit:g})", unit=unit, ours=round(ours, 3), peer=target, peer_name=name,
        ok=bool(ours <= limit),
    )  # fmt: skip


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest-rank quantile."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


# --- sizes ------------------------------------------------------------------------------------------------------------


def npm(*arguments: str) -> str:
    """What an npm script of the frontend prints."""
    command, path = find_npm()
    done = subprocess.run(
        [*command, "run", "--silent", *arguments], cwd=FRONTEND, env=os.environ | {"PATH": path}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"npm run {arguments[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def sizes() -> list[Row]:
    """What the routes load, compressed, in kB of 1,000 bytes."""
    routes = json.loads(npm("size", "--", "--json"))

    def largest(field: str, *starts: str) -> float:
        return max(float(row[field]) for row in routes if row["route"].startswith(starts))

    task = next(row for row in routes if row["route"] == "src/annotate/Task.tsx")
    researcher = [row for row in routes if not row["route"].startswith(("src/annotate/", "src/ui/content/"))]
    return [
        within("script of the annotator's page", "kB", task["js"], target=140, limit=150),
        within("script that renders rich text", "kB", largest("js", "src/ui/content/"), target=110, limit=120),
        within("script of the largest researcher's page", "kB", max(row["js"] for row in researcher), target=110,
               limit=130),
        within("styles of the largest page", "kB", max(row["css"] for row in routes), target=15, limit=20),
    ]  # fmt: skip


# --- the annotator's page ---------------------------------------------------------------------------------------------


def texts(i: int) -> tuple[str, str]:
    """Two completions as a model writes them: paragraphs, a list, code, a table."""
    words = [
        "the",
        "branch",
        "keeps",
        "every",
        "change",
        "that",
        "was",
        "staged",
        "so",
        "nothing",
        "is",
        "lost",
        "later",
    ]
    paragraph = " ".join(words[(i + k) % len(words)] for k in range(90)).capitalize() + "."
    listed = "\n".join(f"{k}. **Step {k}**: run `git reset --soft HEAD~{k + i % 3}` and look." for k in range(1, 6))
    code = (
        f"```python\ndef undo(commits: int = {i}) -> None:\n    for _ in range(commits):\n        print('undone')\n```"
    )
    table = "| Way | Keeps |\n| --- | --- |\n| soft | all |\n| mixed | files |\n| hard | nothing |"
    left = f"Answer {i}.\n\n{paragraph}\n\n{listed}\n\n{code}\n\n{paragraph}"
    return left, f"Another answer {i}.\n\n{paragraph}\n\n{table}\n\n{code}\n\n{listed}"


def seed(site: Site, n: int) -> None:
    """A project whose comparisons want one vote each, by one key."""
    api = site.api()
    api.call("POST", "projects", {"name": SLUG, "overlap": 1, "form": {"rationale": "optional"}})
    lines = [{"prompt": f"How do I undo commit {i}, but keep its changes?", "completions": texts(i)} for i in range(n)]
    raw = "\n".join(json.dumps(line) for line in lines).encode()
    api.call("POST", f"projects/{SLUG}/imports?kind=comparisons", raw=raw)


def signed_in(browser: Browser, site: Site) -> BrowserContext:
    context = browser.new_context(viewport={"width": 1366, "height": 768})
    context.request.get(f"{site.url}/api/v1/session")
    token = next(cookie["value"] for cookie in context.cookies() if cookie["name"] == "csrftoken")
    answer = context.request.post(
        f"{site.url}/api/v1/session", data={"email": site.email, "password": site.password},
        headers={"X-CSRFToken": token},
    )  # fmt: skip
    assert answer.ok, answer.text()
    return context


def opened(context: BrowserContext, site: Site, *scripts: str) -> Page:
    """The task page in a new tab, with its next task rendered behind."""
    page = context.new_page()
    for script in (WATCH, *scripts):
        page.add_init_script(script)
    page.goto(f"{site.url}/p/{SLUG}/task")
    page.locator(HEADING).wait_for()
    page.wait_for_timeout(1500)
    return page


def seen(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate("() => window.budgets")
    return found


def loading(browser: Browser, site: Site, loads: int) -> list[Row]:
    """First visits with an empty cache, each answer of the API later by a quarter of a second."""
    painted, shifts = [], []
    for _ in range(loads):
        context = signed_in(browser, site)
        found = seen(opened(context, site, SLOW_API))
        painted.append(found["painted"] / 1000)
        shifts.append(found["shift"])
        context.close()
    print(f"  largest paint: {found['what']!r}; loads: {', '.join(f'{value:.2f}' for value in painted)} s")
    return [
        within(f"largest paint of a task, median of {loads}", "s", median(painted), target=1.2, limit=2.5),
        within("layout shift while it loads, largest", "", max(shifts), target=0.02, limit=0.1),
    ]


def vote(page: Page, n: int) -> None:
    """So many votes by one key each."""
    for number in range(n):
        started = time.monotonic()
        page.keyboard.press("abt"[number % 3])
        page.wait_for_timeout(1000 * max(0.0, GAP_SECONDS - (time.monotonic() - started)))
    page.wait_for_timeout(1000)


def voting(browser: Browser, site: Site, n: int, prefetched: int) -> list[Row]:
    """A sitting of `n` votes, and a shorter one in which the next task is not rendered beforehand."""
    context = signed_in(browser, site)
    page = opened(context, site)
    vote(page, n)
    found = seen(page)
    keys, stored = found["keys"], found["stored"]
    assert len(keys) == n, f"{n} keys, {len(keys)} votes: the queue ran dry"
    # Interactions below the browser's threshold of 16 ms are not reported, so they count as 16 ms.
    durations = list(found["interactions"].values())
    durations += [16.0] * max(0, n - len(durations))
    spread = " ".join(f"{quantile(keys, share):.0f}" for share in (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1))
    print(f"  key to paint, ms at 5, 25, 50, 75, 90, 95, 99, 100 %: {spread}")
    context.close()
    context = signed_in(browser, site)
    page = opened(context, site, NOT_BEHIND)
    vote(page, prefetched)
    later = seen(page)["keys"]
    context.close()
    return [
        within(f"key to next task painted, p50 of {n}", "ms", quantile(keys, 0.5), target=25, limit=50),
        within(f"key to next task painted, p95 of {n}", "ms", quantile(keys, 0.95), target=50, limit=150),
        within(f"the same, only prefetched, p95 of {len(later)}", "ms", quantile(later, 0.95), target=150, limit=300),
        within(f"interaction to next paint, p75 of {n}", "ms", quantile(durations, 0.75), target=100, limit=200),
        within("layout shift of the sitting", "", found["shift"], target=0.02, limit=0.1),
        within(f"vote durable in IndexedDB, p95 of {len(stored)}", "ms", quantile(stored, 0.95), target=20, limit=100),
    ]


# --- parts ------------------------------------------------------------------------------------------------------------


def parts(browser: Browser, directory: Path, ticks: int) -> list[Row]:
    """Six charts with four curves of 5,000 points: one more point each, redrawn. And two long texts, compared."""
    npm("bench", "--", "--outDir", str(directory), "--emptyOutDir")
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    kinds = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}

    def answer(route: Route) -> None:
        file = directory / route.request.url.removeprefix("http://bench.invalid/").split("?")[0]
        route.fulfill(path=file, content_type=kinds.get(file.suffix, "application/octet-stream"))

    page.route("http://bench.invalid/**", answer)
    page.goto("http://bench.invalid/index.html")
    page.locator("canvas").nth(5).wait_for()
    rows = []
    for smoothing, what in ((0.0, "as measured"), (0.6, "with smoothed curves")):
        page.evaluate("(smoothing) => window.tick(smoothing)", smoothing)  # another shape: built anew
        page.wait_for_timeout(500)
        took = []
        for _ in range(ticks):
            took.append(float(page.evaluate("(smoothing) => window.tick(smoothing)", smoothing)))
            page.wait_for_timeout(100)
        print(f"  chart tick {what}: p50 {quantile(took, 0.5):.0f} ms")
        rows.append(within(f"chart tick, 6 x 4 x 5,000 points {what}, p95 of {ticks}", "ms", quantile(took, 0.95),
                           target=50, limit=120))  # fmt: skip
    compared = [float(page.evaluate("() => window.compare()")) for _ in range(5)]
    rows.append(within("differences of unrelated texts, slowest of 5", "ms", max(compared), target=150, limit=250))
    context.close()
    return rows


def main() -> None:
    """Measure, print, and fail only past the wide limits."""
    parser = argparse.ArgumentParser(description="What the pages weigh and how fast they answer.")
    parser.add_argument("--small", action="store_true", help="A fifth of the votes and charts' ticks.")
    parser.add_argument("--json", action="store_true", help="End with one JSON object.")
    arguments = parser.parse_args()
    share = 5 if arguments.small else 1
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("The budgets need Chromium on PATH.")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "winnow.settings")
    django.setup()
    from tests.e2e.conftest import CHROMIUM_FLAGS  # noqa: PLC0415 - reads models, which Django must have set up
    from tests.e2e.site import running_site  # noqa: PLC0415

    build()
    rows = sizes()
    with tempfile.TemporaryDirectory(prefix="winnow-budgets-") as directory, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        version = browser.version
        rows += parts(browser, Path(directory) / "bench", TICKS // share)
        data_dir = Path(directory) / "site"
        data_dir.mkdir()
        with running_site(data_dir) as site:
            seed(site, (VOTES + PREFETCHED_VOTES) // share + 20)
            rows += loading(browser, site, LOADS)
            rows += voting(browser, site, VOTES // share, PREFETCHED_VOTES // share)
        browser.close()
    show("budgets", rows, as_json=arguments.json, chromium=version)
    sys.exit(0 if all(row.ok for row in rows) else 1)


if __name__ == "__main__":
    main()
