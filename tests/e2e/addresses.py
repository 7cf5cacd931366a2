"""Every route of the application with an address: in the project that has everything, and in the empty one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields

from tests.e2e.content import EMPTY, FULL, LEARN, PRACTISE, QUALIFY, Filled
from winnow.env import BASE_DIR

NOBODY = "00000000-0000-4000-8000-000000000000"


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """A route as `routes.tsx` writes it.

    Attributes:
        slug: the project in which it shows most.
        row: the name of the field of `Filled` whose id it ends in.
        query: what follows the path.
    """

    pattern: str
    slug: str = FULL
    row: str = ""
    query: str = ""

    @property
    def name(self) -> str:
        """A name for a test or a file."""
        shown = self.pattern.replace("/r/:slug", "research").replace("/p/:slug", "annotate").replace(":id", "one")
        shown = shown.replace(":other", "other").replace(":name/:setting", "one")
        return shown.strip("/").replace("/", "-") or "home"

    @property
    def is_of_a_project(self) -> bool:
        return ":slug" in self.pattern

    def full(self, filled: Filled) -> str:
        """Where there is something to see."""
        ids = {field.name: str(getattr(filled, field.name)) for field in fields(filled)}
        path = self.pattern.replace(":slug", self.slug).replace(":id", ids.get(self.row, ""))
        path = path.replace(":other", filled.snapshot).replace(":name/:setting", filled.experiment)
        return path + self.query.format(**ids)

    def empty(self) -> str:
        """The same in the empty project; what an id names is not there."""
        return self.pattern.replace(":slug", EMPTY).replace(":id", NOBODY).replace(":other", NOBODY)


ADDRESSES = (
    Address(pattern="/"),
    Address(pattern="/me"),
    Address(pattern="/projects/new"),
    Address(pattern="/invite", query="#{invitation}"),
    Address(pattern="/settings/tokens"),
    Address(pattern="/experiments"),
    Address(pattern="/experiments/:name/:setting"),
    Address(pattern="/p/:slug/task"),
    Address(pattern="/p/:slug/chat"),
    Address(pattern="/p/:slug/chat/:id", row="thread"),
    Address(pattern="/p/:slug/start", slug=LEARN),
    Address(pattern="/p/:slug/practice", slug=PRACTISE),
    Address(pattern="/p/:slug/qualification", slug=QUALIFY),
    Address(pattern="/p/:slug/me"),
    Address(pattern="/r/:slug"),
    Address(pattern="/r/:slug/setup"),
    Address(pattern="/r/:slug/data"),
    Address(pattern="/r/:slug/data/:id/erase", row="prompt"),
    Address(pattern="/r/:slug/imports"),
    Address(pattern="/r/:slug/pairing"),
    Address(pattern="/r/:slug/comparisons"),
    Address(pattern="/r/:slug/people"),
    Address(pattern="/r/:slug/gold"),
    Address(pattern="/r/:slug/agreement"),
    Address(pattern="/r/:slug/ranking"),
    Address(pattern="/r/:slug/bias"),
    Address(pattern="/r/:slug/worst"),
    Address(pattern="/r/:slug/advice"),
    Address(pattern="/r/:slug/adjudicate"),
    Address(pattern="/r/:slug/settings"),
    Address(pattern="/r/:slug/webhooks"),
    Address(pattern="/r/:slug/audit"),
    Address(pattern="/r/:slug/rounds"),
    Address(pattern="/r/:slug/snapshots"),
    Address(pattern="/r/:slug/snapshots/:id", row="snapshot"),
    Address(pattern="/r/:slug/snapshots/:id/diff/:other", row="other_snapshot"),
    Address(pattern="/r/:slug/jobs"),
    Address(pattern="/r/:slug/jobs/new"),
    Address(pattern="/r/:slug/jobs/compare", query="?ids={job},{other_job}"),
    Address(pattern="/r/:slug/jobs/:id", row="job"),
    Address(pattern="/r/:slug/workers"),
    Address(pattern="/r/:slug/policies"),
    Address(pattern="/r/:slug/policies/:id", row="model"),
    Address(pattern="/r/:slug/playground"),
    Address(pattern="/r/:slug/alarms"),
    Address(pattern="/r/:slug/evaluations"),
    Address(pattern="/r/:slug/evaluations/:id", row="evaluation"),
    Address(pattern="/r/:slug/strengths"),
)
# These only lead on.
REDIRECTS = {"/signin": "/", "/r": "/", "/p/:slug": "/p/:slug/task"}


def routes() -> Iterator[str]:
    """What `routes.tsx` says: the lists of screens, and the routes that stand alone."""
    source = (BASE_DIR / "frontend" / "src" / "app" / "routes.tsx").read_text(encoding="utf-8")
    for name, area in (("ANNOTATE", "/p/:slug"), ("RESEARCH", "/r/:slug")):
        found = re.search(rf"const {name}: .*?= \[\n(.*?)\n\]", source, re.DOTALL)
        assert found is not None, f"{name} is not where it was"
        yield from (area + path for path in re.findall(r"^ +\[?\s*'([^']*)',", found[1], re.MULTILINE))
    yield from re.findall(r'<Route path="([^"]*)"', source)
