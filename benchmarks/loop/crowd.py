"""Votes of people as snapshots: imported through a running Winnow's API, aggregated by it, frozen by each label rule.

The sets are the shared ones of several votes a pair. What a rule freezes lies in a directory of its own, so that an
experiment that goes on later does not import again. The parts of a set are those of its prompt groups, which no rule
changes: a pair is held out under every rule or under none.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.loop.experiment import Lab
from benchmarks.loop.site import Site, running_site
from training.engine.records import iter_lines


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """How votes become labels.

    Attributes:
        freeze: of the snapshot. is_single: of each pair one vote comes in, drawn by the seed; else all of them.
    """

    label: str
    freeze: Mapping[str, Any]
    is_single: bool = False


MAJORITY, POSTERIOR, SINGLE = "majority", "posterior", "single"
RULES: Mapping[str, Rule] = {
    MAJORITY: Rule(label="Majority of all votes", freeze={"aggregator": "majority"}),
    POSTERIOR: Rule(label="Posterior of all votes", freeze={"aggregator": "dawid_skene"}),
    SINGLE: Rule(label="One vote a pair", freeze={"aggregator": "majority"}, is_single=True),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A snapshot: a set under a rule; `seed` is 0 but where it draws the votes."""

    name: str
    rule: str
    seed: int

    @property
    def project(self) -> str:
        """Rules that read the same votes share a project."""
        return f"{self.name}-single-{self.seed}" if RULES[self.rule].is_single else self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Frozen:
    """A snapshot that is there. `row` is what the site showed of it: counts, dropped, ceiling, leak."""

    directory: Path
    row: Mapping[str, Any]

    def lines(self, part: str) -> dict[str, dict[str, Any]]:
        """The preferences of a part, by what they are about."""
        return {pair_key(line): line for line in iter_lines(self.directory, part)}


def frozen(lab: Lab) -> dict[Wanted, Frozen]:
    """Every set of the settings under every rule, imported and frozen unless that was done before."""
    root = lab.directory / lab.name
    with ExitStack() as stack:
        site: Site | None = None
        projects, found = set[str](), dict[Wanted, Frozen]()
        for wanted in _all_wanted(lab):
            plan = lab.settings["sets"][wanted.name]
            lines = list(lab.shared.lines(f"multi_annotator/{wanted.name}.jsonl"))
            of_file = lab.shared.read[f"multi_annotator/{wanted.name}.jsonl"]
            rule = {**RULES[wanted.rule].freeze, "shares": plan["shares"]}
            key = hashlib.sha256(json.dumps([of_file, rule], sort_keys=True).encode()).hexdigest()[:12]
            out = root / f"{wanted.name}-{wanted.rule}-{wanted.seed}-{key}"
            if not (out / "row.json").is_file():
                if site is None:
                    shutil.rmtree(root / "site", ignore_errors=True)
                    opened = running_site(root / "site", models=lab.steps.directory, log=root / "site.log")
                    site = stack.enter_context(opened)
                if wanted.project not in projects:
                    projects.add(wanted.project)
                    _import(site, wanted, lines)
                _freeze(site, wanted, rule, out)
            row = json.loads((out / "row.json").read_text(encoding="utf-8"))
            found[wanted] = Frozen(directory=out / "snapshot", row=row)
    return found


def one_vote(line: Mapping[str, Any], *, seed: int) -> dict[str, Any]:
    """The pair with one of its votes, the same one for the same seed."""
    draw = random.Random(f"{seed}:{line['id']}")  # noqa: S311 - draws no secret
    return {**line, "votes": [draw.choice(line["votes"])]}


def pair_key(line: Mapping[str, Any]) -> str:
    """Names a pair by its texts, whichever side is the better one; two projects give it two ids."""
    text = json.dumps([line["prompt"], sorted([line["chosen"], line["rejected"]])], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _all_wanted(lab: Lab) -> Iterator[Wanted]:
    for name in lab.settings["sets"]:
        for rule in RULES:
            seeds: Sequence[int] = lab.seeds if RULES[rule].is_single else (0,)
            yield from (Wanted(name=name, rule=rule, seed=seed) for seed in seeds)


def _import(site: Site, wanted: Wanted, lines: Sequence[Mapping[str, Any]]) -> None:
    # Nothing is left out as disputed: how divided votes are labelled is what the rules differ in.
    site.project(wanted.project, dispute_below=0)
    chosen = [one_vote(line, seed=wanted.seed) for line in lines] if RULES[wanted.rule].is_single else lines
    site.bring_in(wanted.project, "votes", chosen)


def _freeze(site: Site, wanted: Wanted, rule: Mapping[str, Any], out: Path) -> None:
    found = site.freeze(wanted.project, **rule)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    shutil.copytree(found, out / "snapshot")
    (out / "row.json").write_text(json.dumps(site.newest_snapshot(wanted.project)), encoding="utf-8")
