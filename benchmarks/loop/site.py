"""A whole Winnow for an experiment: real web, workers and database, and simulated annotators who vote through its API.

What an annotator is shown is what the queue answers, and no more: two texts without their sources. The votes differ
from people's only in where they come from: a gold reward instead of a judgement (`annotation.simulation`).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotation.simulation import SimulatedAnnotator, choose
from annotation.statistics.bias import log2_ratio
from winnow.client import Client
from winnow.env import BASE_DIR, read_environment
from winnow.supervisor import Group, programs, wait_until_serving

Utility = Callable[[str, str], float]
"""Of a prompt's last turn and a completion, nats."""
TASKS_AT_A_TIME = 5
QUIET_LOOKS = 4
"""So often nothing must be open, a second apart, before the votes are over."""
_WAIT_SECONDS, _MOST_SECONDS = 1.0, 1800.0
_UNDER_WAY = {"queued", "checking", "loading"}
"""States of an import that goes on."""


class SiteError(RuntimeError):
    """The site did not start, or something in it failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Voters:
    """A panel, and what it likes.

    Attributes:
        utility: nats; a difference of 1 is odds of e for somebody of skill 1.
    """

    people: Sequence[SimulatedAnnotator]
    utility: Utility
    seed: int


@dataclass(frozen=True, kw_only=True)
class Site:
    """A running installation and its owner's client."""

    url: str
    data_dir: Path
    api: Client
    environ: Mapping[str, str]

    def project(self, slug: str, *, prompts: Sequence[Mapping[str, Any]] = (), **settings: Any) -> None:
        """A project with these prompts ({id, prompt: messages})."""
        self.api.call(
            "POST", "projects", {"name": slug, "slug": slug, "guideline": "Choose the better one.", **settings}
        )
        if prompts:
            self.bring_in(slug, "prompts", [{"id": row["id"], "messages": row["prompt"]} for row in prompts])

    def bring_in(self, slug: str, kind: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Import these lines, at once or, where they are many, as a task of the site's.

        Raises:
            SiteError: some were refused, or were there already.
        """
        raw = "".join(json.dumps(line) + "\n" for line in lines).encode()
        batch = self.api.call("POST", f"projects/{slug}/imports?kind={kind}", raw=raw)
        deadline = time.monotonic() + _MOST_SECONDS
        while batch["state"] in _UNDER_WAY and time.monotonic() < deadline:
            time.sleep(_WAIT_SECONDS)
            batch = self.api.call("GET", f"projects/{slug}/imports/{batch['id']}")
        if batch["state"] != "done" or batch["imported"] != len(lines):
            said = f"{batch['state']} {batch['reason']}".strip()
            raise SiteError(f"{slug}: {batch['imported']} of {len(lines)} {kind} came in: {said}")

    def register(self, slug: str, name: str, directory: Path) -> str:
        """The id of this policy in the project; registered for all projects unless it was before."""
        _manage(self.environ, "register_model", name, str(directory))
        models = self.api.call("GET", f"projects/{slug}/models")["items"]
        return next(str(model["id"]) for model in models if model["name"] == name)

    def sample(self, slug: str, policies: Sequence[str], **sampling: Any) -> None:
        """A round: its completions by the site's own worker, and its comparisons."""
        made = self.api.call("POST", f"projects/{slug}/rounds", {"policies": list(policies), **sampling})
        self.finished(slug, made["job"])

    def finished(self, slug: str, job_id: str) -> Any:
        """The job when it has succeeded."""
        deadline = time.monotonic() + _MOST_SECONDS
        while time.monotonic() < deadline:
            job = self.api.call("GET", f"projects/{slug}/jobs/{job_id}")
            if job["status"] == "succeeded":
                return job
            if job["status"] in {"failed", "cancelled"}:
                raise SiteError(f"{slug}: job {job['status']}: {job['reason']}\n{job['error_tail'] or ''}")
            time.sleep(_WAIT_SECONDS)
        raise SiteError(f"{slug}: a job did not end within {_MOST_SECONDS:.0f} s")

    def rows(self, slug: str, data_set: str) -> list[dict[str, Any]]:
        """A data set of the project's export."""
        text = self.api.text("GET", f"projects/{slug}/exports/{data_set}?as=jsonl")
        return [json.loads(line) for line in text.splitlines()]

    def vote(self, slug: str, voters: Voters) -> int:
        """Let everybody vote until nothing is open or asked for once more; how many votes were given."""
        over = threading.Event()
        accounts = [self._account(slug, person) for person in voters.people]
        counts, failures = [0] * len(accounts), list[BaseException]()

        def work(number: int) -> None:
            person, email, password = voters.people[number], *accounts[number]
            try:
                counts[number] = _annotate(Client(self.url), slug, person, email, password, voters, over)
            except BaseException as error:
                failures.append(error)
                over.set()

        threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(len(accounts))]
        for thread in threads:
            thread.start()
        quiet, deadline = 0, time.monotonic() + _MOST_SECONDS
        while not over.wait(_WAIT_SECONDS) and quiet < QUIET_LOOKS and time.monotonic() < deadline:
            left = self.api.call("GET", f"projects/{slug}/overview")["counts"]
            # An overlap that grows with doubt comes a moment after the last vote.
            quiet = quiet + 1 if left["open"] == left["leased"] == 0 else 0
        over.set()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        if quiet < QUIET_LOOKS:
            raise SiteError(f"{slug}: votes did not end within {_MOST_SECONDS:.0f} s")
        return sum(counts)

    def freeze(self, slug: str, **rule: Any) -> Path:
        """The directory of a snapshot of what the votes say now."""
        made = self.api.call("POST", f"projects/{slug}/snapshots", rule)
        found = [file.parent for file in (self.data_dir / "snapshots").glob("**/manifest.json")]
        for directory in found:
            manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
            if manifest["content_hash"] == made["content_hash"]:
                return directory
        raise SiteError(f"{slug}: snapshot {made['content_hash']} is nowhere below {self.data_dir}")

    def newest_snapshot(self, slug: str) -> dict[str, Any]:
        """What the site shows of the snapshot that was frozen last."""
        row: dict[str, Any] = self.api.call("GET", f"projects/{slug}/snapshots")["items"][0]
        return row

    def _account(self, slug: str, person: SimulatedAnnotator) -> tuple[str, str]:
        email = f"{person.name}-{uuid.uuid4().hex[:8]}@loop.localhost"
        said = _manage(self.environ, "create_account", email, "--name", person.name, "--project", slug)
        address, password = said.split()[:2]
        return address, password


@contextmanager
def running_site(data_dir: Path, *, models: Path, log: Path) -> Iterator[Site]:
    """Migrate, make an owner, start everything; stop it all at the end.

    Raises:
        SiteError: it does not answer within a minute.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WINNOW_")}
    environ = {
        **kept,
        "WINNOW_DATA_DIR": str(data_dir),
        "WINNOW_PORT": str(port),
        "WINNOW_MODEL_ROOTS": str(models),
        "WINNOW_LOG_FORMAT": "text",
        "DJANGO_SETTINGS_MODULE": "winnow.settings",
    }
    _manage(environ, "migrate", "--verbosity", "0")
    email, password = _manage(environ, "create_account", "owner@loop.localhost", "--operator").split()[:2]
    url = f"http://127.0.0.1:{port}"
    with log.open("w", encoding="utf-8") as file:
        group = Group(programs(read_environment(environ)), environ=environ, log=file)
        group.start()
        try:
            if not wait_until_serving(url, seconds=60, give_up=lambda: group.failure is not None):
                raise SiteError(group.failure or f"the web did not start within a minute; see {log}")
            browser = Client(url)
            browser.sign_in(email, password)
            token = browser.call("POST", "tokens", {"name": "loop", "scopes": ["read", "write", "jobs"]})["secret"]
            yield Site(url=url, data_dir=data_dir, api=Client(url, token=token), environ=environ)
        finally:
            group.stop()


def _annotate(
    client: Client,
    slug: str,
    person: SimulatedAnnotator,
    email: str,
    password: str,
    voters: Voters,
    over: threading.Event,
) -> int:
    client.sign_in(email, password)
    tab, votes = uuid.uuid4().hex, 0
    while not over.is_set():
        queue = client.call("POST", f"annotate/projects/{slug}/queue", {"tab": tab, "n": TASKS_AT_A_TIME})
        for task in queue["items"]:
            asked = task["prompt"][-1]["content"]
            left, right = (voters.utility(asked, text) for text in task["completions"])
            # Named by what is shown, so a person has the same vote on the same texts in every run.
            key = f"{voters.seed}:{asked}:{task['completions'][0]}"
            doublings = float(log2_ratio(*(len(text) for text in task["completions"])))
            choice = choose(person, left_utility=left, right_utility=right, length_doublings=doublings, seed_key=key)
            path = f"annotate/assignments/{task['assignment']}/vote"
            client.call("POST", path, {"choice": choice, "active_ms": 8000}, key=str(uuid.uuid4()))
            votes += 1
        if not queue["items"]:
            over.wait(_WAIT_SECONDS)
    return votes


def _manage(environ: Mapping[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "django", *arguments],
        cwd=BASE_DIR,
        env=dict(environ),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SiteError(f"manage.py {' '.join(arguments)} failed: {done.stderr[-2000:]}")
    return done.stdout
