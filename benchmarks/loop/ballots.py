"""One turn of the loop up to its dataset: a round is sampled, annotators vote, and what they said is frozen.

All of it goes through a running Winnow and its API (`site.py`). What comes out is a directory like that of a step, so
an experiment that goes on later does not ask again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from annotation.simulation import SimulatedAnnotator
from benchmarks.loop.site import Site, Voters, running_site
from benchmarks.loop.world import Answer, World, read_lines, vote_scale

SHARES = {"train": 0.9, "validation": 0.05, "test": 0.05}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ballot:
    """What a turn left behind.

    Attributes:
        snapshot: the frozen preferences. votes: how many counted, of `comparisons` comparisons.
        agreement: share of decided votes that side with gold. right: share of labels that do.
        seconds: from the first prompt to the frozen snapshot.
    """

    snapshot: Path
    comparisons: int
    votes: int
    agreement: float
    right: float
    seconds: float

    @property
    def bias(self) -> dict[str, Any]:
        """What the site's report says that votes follow beside the consensus: position, length, format."""
        report: dict[str, Any] = json.loads((self.snapshot.parent / "bias.json").read_text(encoding="utf-8"))
        return report


@dataclass(kw_only=True)
class Ballots:
    """Turns of the loop, in one installation that is started when the first of them is needed.

    Attributes:
        directory: of every turn. home: of the installation's data, made anew when it is started.
    """

    world: World
    directory: Path
    home: Path
    _site: Site | None = field(default=None, init=False)
    _open: Any = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def collect(
        self,
        name: str,
        policy: Path,
        prompts: Sequence[Mapping[str, Any]],
        *,
        seed: int,
        people: Sequence[SimulatedAnnotator],
        project: Mapping[str, Any] | None = None,
        rule: Mapping[str, Any] | None = None,
    ) -> Ballot:
        """Sample two completions of each prompt, let everybody vote, freeze.

        Args:
            project: settings of the project, such as its overlap. rule: of the snapshot, such as its aggregator.
        """
        wanted = {
            "policy": str(policy),
            "prompts": str(self.world.steps.file("prompts", prompts)),
            "new_tokens": self.world.new_tokens,
            "seed": seed,
            "people": [str(person) for person in people],
            "gold": str(self.world.gold),
            "cut_off": self.world.settings["gold"]["cut_off"],
            "agreement": self.world.settings["vote_agreement"],
            "project": dict(project or {}),
            "rule": dict(rule or {}),
        }
        key = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:12]
        out = self.directory / f"{name}-{key}"
        if not (out / "ballot.json").is_file():
            shutil.rmtree(out, ignore_errors=True)
            self._turn(f"{name}-{key}", policy, prompts, wanted, people, out)
        summary = json.loads((out / "ballot.json").read_text(encoding="utf-8"))
        return Ballot(snapshot=out / "snapshot", **summary)

    def _turn(
        self,
        slug: str,
        policy: Path,
        prompts: Sequence[Mapping[str, Any]],
        wanted: Mapping[str, Any],
        people: Sequence[SimulatedAnnotator],
        out: Path,
    ) -> None:
        site, begun = self._started(), time.monotonic()
        site.project(slug, prompts=prompts, **wanted["project"])
        model = site.register(slug, f"{slug}-policy", policy)
        plan = {"completions": 2, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": self.world.new_tokens}
        site.sample(slug, [model], **plan, seed=wanted["seed"])
        liked = self._liked(slug, prompts, site.rows(slug, "completions"))
        comparisons = [row["completion_ids"] for row in site.rows(slug, "comparisons")]
        sides = [(liked[one].score, liked[other].score) for one, other in comparisons]
        scale = vote_scale(sides, agreement=wanted["agreement"])
        asked = {row["id"]: row["prompt"][-1]["content"] for row in prompts}
        scores = {(asked[answer.prompt], answer.text): answer.score for answer in liked.values()}

        def utility(prompt: str, text: str) -> float:
            return scale * scores[prompt, text]

        site.vote(slug, Voters(people=people, utility=utility, seed=wanted["seed"]))
        frozen = site.freeze(slug, **{"shares": SHARES, **wanted["rule"]})
        out.mkdir(parents=True)
        shutil.copytree(frozen, out / "snapshot")
        votes = [row for row in site.rows(slug, "votes") if row["counted"]]
        text = "".join(json.dumps(row) + "\n" for row in votes)
        (out / "votes.jsonl").write_text(text, encoding="utf-8")
        bias = site.api.call("GET", f"projects/{slug}/statistics/bias")
        (out / "bias.json").write_text(json.dumps(bias), encoding="utf-8")
        better = {
            row["id"]: liked[row["completion_ids"][0]].score > liked[row["completion_ids"][1]].score
            for row in site.rows(slug, "comparisons")
        }
        decided = [(row["choice"] == "a") == better[row["comparison_id"]] for row in votes if row["choice"] != "tie"]
        summary = {
            "comparisons": len(comparisons),
            "votes": len(votes),
            "agreement": fmean(map(float, decided)),
            "right": _right(out / "snapshot", scores),
            "seconds": round(time.monotonic() - begun, 1),
        }
        (out / "ballot.json").write_text(json.dumps(summary), encoding="utf-8")

    def _liked(
        self, name: str, prompts: Sequence[Mapping[str, Any]], completions: Sequence[Mapping[str, Any]]
    ) -> dict[str, Answer]:
        """Gold's scores of a project's completions, by their ids."""
        counts = Counter[str]()
        lines, ids = [], {}
        for row in completions:
            key = (row["prompt_id"], counts[row["prompt_id"]])
            counts[row["prompt_id"]] += 1
            ids[key] = row["id"]
            finish = row.get("finish") or "end"
            lines.append({"prompt_id": key[0], "index": key[1], "text": row["text"], "finish": finish, "tokens": 0})
        file = self.world.steps.file("completions", lines)
        answers = self.world.by_gold(name, prompts, file)
        return {ids[answer.prompt, answer.index]: answer for answer in answers}

    def _started(self) -> Site:
        with self._lock:
            if self._site is None:
                shutil.rmtree(self.home, ignore_errors=True)
                models = self.world.steps.directory
                self._open = running_site(self.home / "site", models=models, log=self.home / "site.log")
                self._site = self._open.__enter__()
            return self._site

    def close(self) -> None:
        """End the installation's processes, if they were started."""
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = self._site = None


@contextmanager
def opened(world: World, directory: Path, *, home: Path) -> Iterator[Ballots]:
    """Turns of the loop whose installation is ended afterwards."""
    ballots = Ballots(world=world, directory=directory, home=home)
    try:
        yield ballots
    finally:
        ballots.close()


def _right(snapshot: Path, scores: Mapping[tuple[str, str], float]) -> float:
    """Share of the decided labels whose chosen side gold scores higher."""
    lines = [row for file in snapshot.glob("*.jsonl") for row in read_lines(file) if row["prob_chosen"] != 0.5]
    asked = [(row["prompt"][-1]["content"], row["chosen"], row["rejected"]) for row in lines]
    return fmean(float(scores[prompt, chosen] > scores[prompt, rejected]) for prompt, chosen, rejected in asked)
