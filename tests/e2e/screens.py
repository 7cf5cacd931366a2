"""Pictures of every page, for `make screens` (`tools/screens.py`): which, and how they are taken.

The content is that of the browser tests (`content.py`), so what a picture shows is what they look at. Pictures are PNGs
with a palette: a page has few colours, and a third of the bytes are enough.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.e2e.addresses import ADDRESSES, NOBODY
from tests.e2e.content import EMPTY, FULL, HARD_TEXTS, RANK, RATE, SECONDS_TO_WAIT, Filled, Filler
from tests.e2e.looking import DESK, Looker, looking
from tests.e2e.site import CHROMIUM_FLAGS, Site, manage, running_site
from tests.e2e.texts import HARD
from tests.engine.tiny import tiny_model
from winnow.env import BASE_DIR

OUT = BASE_DIR / "docs" / "screens"
PHONE = {"width": 390, "height": 844}
DARK = (
    "home", "annotate-task", "research", "research-comparisons", "research-people", "research-agreement",
    "research-ranking", "research-bias", "research-jobs", "research-jobs-one", "research-policies-one",
    "research-alarms", "research-evaluations-one", "experiments-one",
)  # fmt: skip
CONTRAST = ("annotate-task", "research", "research-agreement", "research-jobs-one")
GERMAN = ("home", "annotate-task", "research", "research-jobs-one")
PAUSE_MS = 400  # a person looks; keys within 250 ms of a new task are ignored on purpose
# Colours by how often they occur, in steps of 8 a channel; each pixel takes the nearest that was kept.
_PALETTE = """async (data) => {
  const blob = await (await fetch('data:image/png;base64,' + data)).blob()
  const bitmap = await createImageBitmap(blob)
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext('2d')
  context.drawImage(bitmap, 0, 0)
  const pixels = new Uint32Array(context.getImageData(0, 0, bitmap.width, bitmap.height).data.buffer)
  const seen = new Map()
  for (const pixel of pixels) seen.set(pixel, (seen.get(pixel) ?? 0) + 1)
  const kept = [], taken = new Set()
  for (const [pixel] of [...seen].sort((one, other) => other[1] - one[1])) {
    const step = pixel & 0xf8f8f8
    if (kept.length >= 24 && taken.has(step)) continue
    taken.add(step)
    kept.push(pixel)
    if (kept.length === 256) break
  }
  const parts = kept.map((pixel) => [pixel & 255, (pixel >> 8) & 255, (pixel >> 16) & 255])
  const nearest = new Map(kept.map((pixel, index) => [pixel, index]))
  for (const pixel of seen.keys()) {
    if (nearest.has(pixel)) continue
    let best = 0, least = Infinity
    for (let index = 0; index < parts.length; index += 1) {
      const [r, g, b] = parts[index]
      const far = (r - (pixel & 255)) ** 2 + (g - ((pixel >> 8) & 255)) ** 2 + (b - ((pixel >> 16) & 255)) ** 2
      if (far < least) [best, least] = [index, far]
    }
    nearest.set(pixel, best)
  }
  const rows = new Uint8Array((bitmap.width + 1) * bitmap.height)
  for (let y = 0, from = 0, to = 0; y < bitmap.height; y += 1) {
    rows[to++] = 0
    for (let x = 0; x < bitmap.width; x += 1) rows[to++] = nearest.get(pixels[from++])
  }
  let text = ''
  for (let at = 0; at < rows.length; at += 32768) text += String.fromCharCode(...rows.subarray(at, at + 32768))
  return { width: bitmap.width, height: bitmap.height, palette: parts.flat(), rows: btoa(text) }
}"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """A picture: its file's name, what it shows, and where that is."""

    name: str
    group: str
    title: str
    path: str
    theme: str = "light"
    # The heading that stands at the top of the picture.
    at: str = ""


def shots(filled: Filled) -> Iterator[Shot]:
    """All but the hard texts, which are reached by answering the one before."""
    for address in ADDRESSES:
        title = address.pattern
        yield Shot(name=address.name, group="Every page", title=title, path=address.full(filled))
    yield Shot(name="run-failed", group="Every page", title="A run that diverged", path=_job(filled.failed_job))
    for tab in ("samples", "config", "log", "history"):
        path = f"{_job(filled.failed_job if tab == 'log' else filled.job)}?tab={tab}"
        yield Shot(name=f"run-{tab}", group="Every page", title=f"A run: {tab}", path=path)
    yield from _states(filled)
    for slug, title in ((RANK, "A ranking of four"), (RATE, "Ratings of two")):
        yield Shot(name=f"annotate-task-{slug}", group="Every page", title=title, path=f"/p/{slug}/task")
    yield Shot(name="nowhere", group="Every page", title="An address that leads nowhere", path="/nowhere")
    for address in ADDRESSES:
        if address.name in DARK:
            path = address.full(filled)
            yield Shot(name=f"dark-{address.name}", group="Dark", title=address.pattern, path=path, theme="dark")
    for address in ADDRESSES:
        if address.name in CONTRAST:
            path = address.full(filled)
            yield Shot(
                name=f"contrast-{address.name}", group="High contrast", title=address.pattern, path=path,
                theme="contrast",
            )  # fmt: skip
    for address in ADDRESSES:
        if address.is_of_a_project and not address.row:
            yield Shot(
                name=f"empty-{address.name}", group="An empty project", title=address.pattern, path=address.empty()
            )
    yield Shot(
        name="empty-research-jobs-one", group="An empty project", title="A job that is not there",
        path=_job(NOBODY),
    )  # fmt: skip


def _states(filled: Filled) -> Iterator[Shot]:
    """What an address alone does not show: steps, forms that are open, and parts further down."""
    for step in ("prompts", "people", "completions"):
        yield Shot(
            name=f"set-up-{step}", group="Steps and forms", title=f"Setting a project up: {step}",
            path=f"/r/{EMPTY}/setup?step={step}",
        )  # fmt: skip
    for name, title, path in (
        ("freeze", "Freezing a snapshot", "snapshots?freeze=1"),
        ("round-new", "A new round", "rounds?new=1"),
        ("settings-form", "What a task asks", "settings?tab=form"),
        ("settings-guideline", "The guideline", "settings?tab=guideline"),
    ):
        yield Shot(name=name, group="Steps and forms", title=title, path=f"/r/{FULL}/{path}")
    yield Shot(
        name="model-lineage", group="Steps and forms", title="From votes to a model",
        path=f"/r/{FULL}/policies/{filled.model}", at="Lineage",
    )  # fmt: skip


def german_shots(filled: Filled) -> Iterator[Shot]:
    """Some pages in the other language."""
    for address in ADDRESSES:
        if address.name in GERMAN:
            path = address.full(filled)
            yield Shot(name=f"german-{address.name}", group="In German", title=address.pattern, path=path)


def phone_shots(filled: Filled) -> Iterator[Shot]:
    """The annotator's pages, and how researchers' pages look there."""
    wanted = [
        row for row in ADDRESSES
        if not row.pattern.startswith("/r/") or row.name in {"research", "research-jobs-one", "research-comparisons"}
    ]  # fmt: skip
    for address in wanted:
        title = address.pattern
        yield Shot(name=f"phone-{address.name}", group="On a phone", title=title, path=address.full(filled))
    for slug, title in ((RANK, "A ranking of four"), (RATE, "Ratings of two")):
        yield Shot(name=f"phone-task-{slug}", group="On a phone", title=title, path=f"/p/{slug}/task")


def _job(job: str) -> str:
    return f"/r/{FULL}/jobs/{job}"


class Camera:
    """Takes pictures into a directory, and remembers which."""

    def __init__(self, out: Path, *, only: str, full_page: bool, darkroom: Page) -> None:
        self._out, self._only, self._full_page, self._darkroom = out, only, full_page, darkroom
        self.taken: list[Shot] = []
        self.problems: list[str] = []

    def wants(self, name: str) -> bool:
        return self._only in name

    def take(self, looker: Looker, shot: Shot) -> None:
        """Go there and take the picture."""
        if not self.wants(shot.name):
            return
        looker.open(shot.path, refusals=(404, 409))
        looker.dress(shot.theme)
        if shot.at:
            heading = looker.page.get_by_role("heading", name=shot.at, exact=True)
            heading.evaluate("(element) => element.scrollIntoView()")
        looker.page.wait_for_timeout(150)
        self.snap(looker, shot)

    def snap(self, looker: Looker, shot: Shot) -> None:
        """Take the picture of what is there."""
        raw = looker.page.screenshot(full_page=self._full_page)
        self.problems += [f"{shot.name}: {problem}" for problem in looker.problems]
        (self._out / f"{shot.name}.png").write_bytes(self._develop(raw))
        self.taken.append(shot)
        print(shot.name, flush=True)

    def _develop(self, raw: bytes) -> bytes:
        """The same picture with 256 colours."""
        found = self._darkroom.evaluate(_PALETTE, base64.b64encode(raw).decode())
        parts = [
            (b"IHDR", struct.pack(">IIBBBBB", found["width"], found["height"], 8, 3, 0, 0, 0)),
            (b"PLTE", bytes(found["palette"])),
            (b"IDAT", zlib.compress(base64.b64decode(found["rows"]), 9)),
            (b"IEND", b""),
        ]
        chunks = [
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in parts
        ]
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def take_all(browser: Browser, site: Site, filled: Filled, camera: Camera) -> None:
    """At the desk, on the phone, and last what answering changes."""
    with looking(browser, site) as looker:
        for shot in shots(filled):
            camera.take(looker, shot)
    phone = {"viewport": PHONE, "has_touch": True}
    with looking(browser, site, **phone) as looker:
        for shot in phone_shots(filled):
            camera.take(looker, shot)
    with looking(browser, site) as looker:
        looker.page.evaluate("localStorage.setItem('winnow-language', 'de')")
        for shot in german_shots(filled):
            camera.take(looker, shot)
    with looking(browser, site) as looker:
        _playground(looker, camera)
        _aids(looker, camera)
        _hard(looker, camera)
    context = browser.new_context(viewport=DESK, reduced_motion="reduce")
    looker = Looker(context.new_page(), site)
    camera.take(looker, Shot(name="sign-in", group="Every page", title="Sign-in", path="/"))
    camera.take(
        looker,
        Shot(
            name="invite-new", group="Every page", title="A link, for a new person", path=f"/invite#{filled.invitation}"
        ),
    )
    context.close()


def _playground(looker: Looker, camera: Camera) -> None:
    """Two policies that have answered, with the scores of a reward model."""
    shot = Shot(name="playground-done", group="Steps and forms", title="The playground, answered", path="")
    if not camera.wants(shot.name):
        return
    page = looker.page
    looker.open(f"/r/{FULL}/playground")
    for box in page.get_by_role("checkbox").all()[:2]:
        box.check(force=True)
    page.get_by_label("Prompt", exact=True).fill("How do I keep basil alive on a windowsill?")
    page.get_by_label("Score with").select_option(index=1)
    page.get_by_label("Most tokens").fill("48")
    page.get_by_role("button", name="Ask 2 policies").click()
    page.get_by_text("All have ended.").wait_for(timeout=SECONDS_TO_WAIT * 1000)
    page.get_by_role("heading", name="Completions", exact=True).evaluate("(element) => element.scrollIntoView()")
    looker.rest()
    camera.snap(looker, shot)


def _aids(looker: Looker, camera: Camera) -> None:
    """What helps while voting, each by its key."""
    page = looker.page
    for name, title, key in (("key-sheet", "All keys", "?"), ("guideline", "The guideline beside a task", "g")):
        if not camera.wants(name):
            continue
        looker.open(f"/p/{FULL}/task")
        page.wait_for_timeout(PAUSE_MS)
        page.keyboard.press(key)
        looker.rest()
        camera.snap(looker, Shot(name=name, group="Steps and forms", title=title, path=""))


def _hard(looker: Looker, camera: Camera) -> None:
    """Each hard text at both widths; answering it brings the next."""
    names = [f"{kind}{hard.name}" for hard in HARD for kind in ("hard-", "hard-phone-")]
    if not any(camera.wants(name) for name in (*names, "differences")):
        return
    page = looker.page
    looker.open(f"/p/{HARD_TEXTS}/task")
    for number, hard in enumerate(HARD, start=1):
        page.get_by_role("heading", name=f"Comparison {number}", exact=True).wait_for()
        for prefix, size in (("hard-phone-", PHONE), ("hard-", DESK)):
            page.set_viewport_size({"width": size["width"], "height": size["height"]})
            looker.rest()
            page.wait_for_timeout(PAUSE_MS)
            if camera.wants(prefix + hard.name):
                title = f"{hard.name.replace('-', ' ')}, {size['width']} px"
                camera.snap(looker, Shot(name=prefix + hard.name, group="Hard texts", title=title, path=""))
        if hard.name == "similar" and camera.wants("differences"):
            page.keyboard.press("d")
            looker.rest()
            page.wait_for_timeout(PAUSE_MS)
            shot = Shot(name="differences", group="Steps and forms", title="Words that only one response has", path="")
            camera.snap(looker, shot)
        page.keyboard.press("1")


def write_list(out: Path, taken: list[Shot]) -> None:
    """README.md: every picture under its group."""
    lines = [
        "# Screens", "",
        "Written by `make screens`; do not edit. A site is filled through its API with made-up projects, votes of",
        "simulated people and a tiny model that has read forty answers: figures on these pages say nothing about any",
        "model or person.", "",
    ]  # fmt: skip
    for group in dict.fromkeys(shot.group for shot in taken):
        lines += [f"## {group}", ""]
        lines += [f"- [`{shot.title}`]({shot.name}.png)" for shot in taken if shot.group == group]
        lines.append("")
    (out / "README.md").write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Pictures of every page.")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", default="", help="only those whose name has this in it; keeps the others")
    parser.add_argument("--full-page", action="store_true", help="to the end of each page, not only its first screen")
    given = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("No Chromium on PATH: install chromium, then run this again.")
    if not given.only:
        shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True, exist_ok=True)
    with (
        sync_playwright() as playwright,
        tempfile.TemporaryDirectory() as directory,
        running_site(Path(directory)) as site,
    ):
        manage(site.environ, "register_model", "tiny", str(tiny_model(Path(directory) / "tiny")))
        filled = Filler(site).fill(tuned=True)
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        camera = Camera(given.out, only=given.only, full_page=given.full_page, darkroom=browser.new_page())
        take_all(browser, site, filled, camera)
        browser.close()
    if not given.only:
        write_list(given.out, camera.taken)
    size = sum(file.stat().st_size for file in given.out.iterdir())
    print(f"{len(camera.taken)} pictures, {size / 1e6:.1f} MB in {given.out}")
    if camera.problems:
        raise SystemExit("\n".join(["Pages had problems:", *camera.problems]))
