"""manage.py demo: the whole loop once, headless, through the real web, workers and API, with a report.

It starts its own processes on a free port with data of their own (`demo/site` below the data directory, made anew), and
then only talks HTTP, as any program could: a token for the owner, a session for each simulated annotator.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from annotation.simulation import SimulatedAnnotator, choose, from_default_panel, utility
from training.management.commands.fetch_base_model import NAME as BASE_MODEL
from winnow.client import Client, Refused
from winnow.env import BASE_DIR, read_environment
from winnow.supervisor import Group, programs, wait_until_serving

PROMPTS, OVERLAP, SEED = 40, 3, 7
SAMPLING = {"temperature": 0.7, "top_p": 0.95, "max_new_tokens": 96, "seed": SEED}
SHARES = {"train": 0.55, "validation": 0.05, "test": 0.4}
REWARD: dict[str, Any] = {"batch": {"pairs": 8, "epochs": 2}, "seed": SEED}
DPO: dict[str, Any] = {"batch": {"pairs": 8, "epochs": 3}, "eval": {"prompts": 2}, "seed": SEED}
MOST_SECONDS = 1800


class Command(BaseCommand):
    """Run the loop."""

    help = (
        "Run the whole loop once, headless: sample, vote, freeze, train a reward model and DPO, promote, sample again."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--prompts", type=int, default=PROMPTS)
        parser.add_argument(
            "--keep-log", action="store_true", help="Show the processes' log instead of keeping a file."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        started = time.monotonic()
        home = Path(settings.DATA_DIR) / "demo"
        site = home / "site"
        shutil.rmtree(site, ignore_errors=True)
        site.mkdir(parents=True, mode=0o700)
        self._seconds: dict[str, float] = {}
        call_command("fetch_base_model", files_only=True)
        with self._station("setup"), _free_port() as port:
            environ = _environment(site, port)
            owner, people = self._people(environ)
        log = sys.stdout if options["keep_log"] else (home / "log.txt").open("w", encoding="utf-8")
        group = Group(programs(read_environment(environ)), environ=environ, log=log)
        # `timeout` and service managers send SIGTERM: the processes must end with us then too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        group.start()
        try:
            base = f"http://127.0.0.1:{port}"
            if not wait_until_serving(base, seconds=60, give_up=lambda: group.failure is not None):
                raise CommandError(group.failure or f"The web did not start within a minute; see {home / 'log.txt'}.")
            report = self._loop(base, owner, people, environ, options["prompts"])
        except Refused as refused:
            raise CommandError(str(refused)) from None
        finally:
            group.stop()
        report["seconds"] = {**self._seconds, "total": round(time.monotonic() - started, 1)}
        file = home / "report.json"
        file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        self.stdout.write(json.dumps(report, indent=2))
        self.stdout.write(f"Report: {file}")
        _check(report)

    def _people(self, environ: dict[str, str]) -> tuple[tuple[str, str], list[tuple[SimulatedAnnotator, str, str]]]:
        """A database with the base model, an owner and the panel of simulated annotators."""
        _manage(environ, "migrate", "--verbosity", "0")
        _manage(environ, "register_model", BASE_MODEL, str(Path(settings.MODELS_DIR) / BASE_MODEL))
        email, password = _manage(environ, "create_account", "owner@demo.localhost", "--operator").split()
        people = []
        for person in from_default_panel(SEED):
            address = f"{person.name}@demo.localhost"
            _, secret = _manage(environ, "create_account", address, "--name", person.name).split()
            people.append((person, address, secret))
        return (email, password), people

    def _loop(
        self,
        base: str,
        owner: tuple[str, str],
        people: list[tuple[SimulatedAnnotator, str, str]],
        environ: dict[str, str],
        prompts: int,
    ) -> dict[str, Any]:
        browser = Client(base)
        browser.sign_in(*owner)
        made = browser.call("POST", "tokens", {"name": "demo", "scopes": ["read", "write", "jobs"]})
        api = Client(base, token=made["secret"])
        guideline = (BASE_DIR / "annotation" / "demo" / "guideline.md").read_text(encoding="utf-8")
        api.call("POST", "projects", {"name": "Demo", "slug": "demo", "overlap": OVERLAP, "guideline": guideline})
        for _, address, _ in people:
            _manage(environ, "create_account", address, "--project", "demo")
        lines = (BASE_DIR / "annotation" / "demo" / "prompts.jsonl").read_bytes().splitlines(keepends=True)
        batch = api.call("POST", "projects/demo/imports?kind=prompts", raw=b"".join(lines[:prompts]))
        self.stdout.write(f"{batch['imported']} prompts imported")
        (policy,) = api.call("GET", "projects/demo/models")["items"]

        with self._station("sample_and_vote"):
            first = api.call("POST", "projects/demo/rounds", {"policies": [policy["id"]], "completions": 2, **SAMPLING})
            self._vote_while(api, base, people, first["id"])
        overview = self._until(
            "votes settled",
            lambda: api.call("GET", "projects/demo/overview"),
            lambda body: body["counts"]["open"] == 0 and body["counts"]["leased"] == 0,
        )
        with self._station("snapshot"):
            snapshot = api.call("POST", "projects/demo/snapshots", {"name": "round 1", "shares": SHARES})
        reward = self._train(api, "reward", snapshot, policy, REWARD)
        dpo = self._train(api, "dpo", snapshot, policy, DPO)
        with self._station("promote"):
            job = api.call("POST", f"projects/demo/jobs/{dpo['id']}/promote", {"name": "demo-dpo"})
            job = self._finished(api, job["id"], "promotion")
            tuned = job["produced"] or api.call("GET", f"projects/demo/jobs/{dpo['id']}")["produced"]
        with self._station("round2"):
            second = api.call(
                "POST",
                "projects/demo/rounds",
                {"policies": [policy["id"], tuned[0]["id"]], "prompts": 10, **SAMPLING, "seed": SEED + 1},
            )
            self._finished(api, second["job"], "round 2")
            second = api.call("GET", f"projects/demo/rounds/{second['id']}")
        points = _points(api, dpo["id"])
        return _report(overview, snapshot, reward, dpo, second, points)

    def _vote_while(
        self, api: Client, base: str, people: list[tuple[SimulatedAnnotator, str, str]], round_id: str
    ) -> None:
        """Let each annotator vote in a thread of its own, as comparisons become ready, until the round is through."""
        over, failures = threading.Event(), list[BaseException]()

        def work(person: SimulatedAnnotator, address: str, password: str) -> None:
            try:
                annotate(Client(base), person, address, password, over)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=row, daemon=True) for row in people]
        for thread in threads:
            thread.start()
        shown = -1
        while True:
            made = api.call("GET", f"projects/demo/rounds/{round_id}")
            if made["completions_done"] != shown:
                shown = made["completions_done"]
                self.stdout.write(
                    f"  sampled {shown} of {made['completions_wanted']}, {made['comparisons']} comparisons"
                )
            if made["status"] in {"failed", "cancelled"}:
                raise CommandError(f"Sampling {made['status']}: {made['error']}")
            if made["status"] == "succeeded" or failures:
                break
            time.sleep(3)
        over.set()
        for thread in threads:
            thread.join(timeout=120)
        if failures:
            raise failures[0]

    def _train(self, api: Client, method: str, snapshot: Any, model: Any, config: dict[str, Any]) -> Any:
        with self._station(method):
            body = {"method": method, "snapshot": snapshot["id"], "model": model["id"], "config": config}
            job = api.call("POST", "projects/demo/jobs", body)
            return self._finished(api, job["id"], method)

    def _finished(self, api: Client, job_id: str, what: str) -> Any:
        """The job when it has succeeded."""
        shown: tuple[Any, ...] = ()

        def look() -> Any:
            nonlocal shown
            job = api.call("GET", f"projects/demo/jobs/{job_id}")
            state = (job["status"], job["step"], job["steps"])
            if state != shown:
                shown = state
                steps = f", step {job['step']} of {job['steps']}" if job["step"] is not None else ""
                self.stdout.write(f"  {what}: {job['status']}{steps}")
            if job["status"] in {"failed", "cancelled"}:
                raise CommandError(f"{what} {job['status']}: {job['reason']}\n{job['error_tail'] or ''}")
            return job

        return self._until(what, look, lambda job: job["status"] == "succeeded")

    def _until(self, what: str, look: Callable[[], Any], is_done: Callable[[Any], bool]) -> Any:
        deadline = time.monotonic() + MOST_SECONDS
        while time.monotonic() < deadline:
            body = look()
            if is_done(body):
                return body
            time.sleep(1)
        raise CommandError(f"{what}: not done within {MOST_SECONDS} s")

    @contextmanager
    def _station(self, name: str) -> Iterator[None]:
        self.stdout.write(f"{name} …")
        self.stdout.flush()
        start = time.monotonic()
        yield
        self._seconds[name] = round(time.monotonic() - start, 1)
        self.stdout.write(f"{name} done in {self._seconds[name]} s")


def annotate(client: Client, person: SimulatedAnnotator, address: str, password: str, over: threading.Event) -> None:
    """Vote until the round is through and nothing is left; the person sees what any annotator sees, and no more."""
    client.sign_in(address, password)
    tab = uuid.uuid4().hex
    while True:
        was_over = over.is_set()  # before asking: what came in the meantime is asked for once more
        queue = client.call("POST", "annotate/projects/demo/queue", {"tab": tab, "n": 3})
        for task in queue["items"]:
            left, right = (utility(text, prompt=task["prompt"], finish="end") for text in task["completions"])
            # The draw is named by what is shown, so the demo gives the same votes on every run of the same texts.
            seed_key = f"{SEED}:{task['prompt'][-1]['content']}:{task['completions'][0]}"
            choice = choose(person, left_utility=left, right_utility=right, seed_key=seed_key)
            path = f"annotate/assignments/{task['assignment']}/vote"
            client.call("POST", path, {"choice": choice, "active_ms": 8000}, key=str(uuid.uuid4()))
        if not queue["items"]:
            if was_over:
                return
            time.sleep(1)


def _report(
    overview: Any, snapshot: Any, reward: Any, dpo: Any, second: Any, points: list[dict[str, Any]]
) -> dict[str, Any]:
    losses = [point["values"]["train/loss"] for point in points if "train/loss" in point["values"]]
    # One step may hold nothing but ties, whose loss stays at ln 2: the last pass over the data is what has fallen.
    last_epoch = losses[-(len(losses) // DPO["batch"]["epochs"]) :]
    counts, agreement = overview["counts"], overview["agreement"]
    scores, drift = reward["metrics"], dpo["metrics"]
    return {
        "counts": {key: counts[key] for key in ("prompts", "completions", "comparisons", "votes")},
        "agreement": {"percent": agreement["percent"]["value"], "alpha": agreement["alpha"]["value"]},
        "snapshot": {
            "hash": snapshot["content_hash"],
            "labels": snapshot["label_policy"]["aggregator"],
            "train": snapshot["counts"]["train"],
            "test": snapshot["counts"]["test"],
        },
        "reward": {
            "accuracy": scores.get("test/accuracy"),
            "low": scores.get("test/accuracy_low"),
            "high": scores.get("test/accuracy_high"),
            "longer_wins": scores.get("test/longer_wins"),
            "vote_accuracy": scores.get("test/vote_accuracy"),
            "human_ceiling": snapshot["ceiling"]["test"]["ceiling"]["value"],
        },
        "dpo": {
            "loss_first": losses[0],
            "loss_last": sum(last_epoch) / len(last_epoch),
            "accuracy": drift.get("test/accuracy"),
            "kl": drift.get("rollout/kl"),
        },
        "round2": {"comparisons": second["comparisons"]},
    }


def _check(report: dict[str, Any]) -> None:
    """What must hold whatever the models learned."""
    first, last = report["dpo"]["loss_first"], report["dpo"]["loss_last"]
    if abs(first - math.log(2)) > 1e-4:
        raise CommandError(f"The first DPO loss is {first}, not ln 2: policy and reference differ at the start.")
    if last >= first:
        raise CommandError(f"The DPO loss did not fall: {first} at first, {last} at last.")
    if not report["round2"]["comparisons"]:
        raise CommandError("Round 2 made no comparisons.")


def _points(api: Client, job_id: str) -> list[dict[str, Any]]:
    """The curve, each step once: a step that comes again replaces the earlier one."""
    points: dict[int, dict[str, Any]] = {}
    after = 0
    while True:
        page = api.call("GET", f"projects/demo/jobs/{job_id}/metrics?after={after}")
        for item in page["items"]:
            points[item["step"]] = {**points.get(item["step"], {}), **item}
        if not page["items"]:
            return [points[step] for step in sorted(points)]
        after = page["next_after"]


def _environment(site: Path, port: int) -> dict[str, str]:
    """The demo's own data and port, embedded whatever this installation uses."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WINNOW_")}
    return {
        **kept,
        "WINNOW_DATA_DIR": str(site),
        "WINNOW_PORT": str(port),
        "WINNOW_MODEL_ROOTS": str(settings.MODELS_DIR),
        "WINNOW_LOG_FORMAT": "text",
        "DJANGO_SETTINGS_MODULE": "winnow.settings",
    }


def _manage(environ: dict[str, str], *arguments: str) -> str:
    """A management command on the demo's data; its standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "django", *arguments],
        cwd=BASE_DIR,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CommandError(f"manage.py {' '.join(arguments)} failed: {done.stderr[-2000:]}")
    return done.stdout


@contextmanager
def _free_port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]
