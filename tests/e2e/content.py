"""Projects with some of everything, made as a researcher would: through the API of a running site, with its workers.

What the pages are looked at with: the browser tests walk all routes over it, and `make screens` draws them. Texts,
votes and seeds are always the same; ids and times are the site's. Only simulated people vote here.
"""

from __future__ import annotations

import json
import random
import time
import urllib.parse
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.loop.results import write
from tests import experiment
from tests.e2e.site import Site
from tests.e2e.texts import HARD, ranked
from tests.engine.tiny import tiny_model
from winnow.client import Client
from winnow.env import BASE_DIR

SEED = 11
FULL, EMPTY, HARD_TEXTS, RANK, RATE = "helpfulness", "empty", "hard-texts", "ranking", "rating"
LEARN, PRACTISE, QUALIFY = "newcomers", "practice", "qualification"
SOURCES = ("base-135m", "sft-1", "dpo-2")
# What people see in each of the three, in logits.
QUALITY = {"base-135m": 0.0, "sft-1": 1.3, "dpo-2": 1.7}
CRITERIA = [
    {"key": "accuracy", "label": "Accuracy", "description": "Is what it says true?"},
    {"key": "clarity", "label": "Clarity", "description": "Can it be read once and understood?"},
]
REASONS = [
    {"key": "wrong", "label": "A mistake"},
    {"key": "short", "label": "Something missing"},
    {"key": "style", "label": "Better written"},
]
FORM = {
    "kind": "scale", "points": 5, "allow_both_bad": True, "rationale": "optional", "criteria": CRITERIA,
    "reasons": REASONS,
}  # fmt: skip
GUIDELINE = """# What is a helpful response?

Prefer the response that a person who asked this would rather have got.

## Accuracy before fluency

A response with a false statement loses against a plain one without. Look up what you can check within a minute.

## Length

Longer is not better. What was not asked for counts against a response.

## When both are wrong

Prefer the one that says that it is unsure; if neither does, press **X** for “Both bad”.
"""
RATIONALES = (
    "The other one states something false.", "Says the same in fewer words.", "It answers what was asked.",
    "The example helps.", "", "", "",
)  # fmt: skip
IMPORTED_PEOPLE = ("mori", "okafor", "lind", "haas", "ruiz")
SECONDS_TO_WAIT = 900
# Small enough for the tiny model to end in seconds, long enough for a curve.
REWARD: dict[str, Any] = {"batch": {"pairs": 4, "epochs": 6}, "eval": {"prompts": 1, "every": 12}, "seed": SEED}
DPO: dict[str, Any] = {
    "batch": {"pairs": 4, "epochs": 4}, "eval": {"prompts": 1, "every": 8, "max_new_tokens": 8}, "seed": SEED,
}  # fmt: skip
REWARD_JOB = {
    "method": "reward", "config": REWARD, "title": "Reward model of week 47", "promote_as": "helpful-rm-1",
}  # fmt: skip
DPO_JOB = {
    "method": "dpo", "config": DPO, "title": "DPO on week 47", "promote_as": "helpful-dpo-1", "make_current": True,
}  # fmt: skip
SAMPLING: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 16, "seed": SEED}


@dataclass(frozen=True, kw_only=True, slots=True)
class Filled:
    """What was made: the ids that addresses need."""

    prompt: str
    snapshot: str
    other_snapshot: str
    job: str
    failed_job: str
    other_job: str
    model: str
    evaluation: str
    thread: str
    invitation: str
    experiment: str


class Filler:
    """Makes the projects of one site."""

    def __init__(self, site: Site) -> None:
        self._site, self._now = site, datetime.now(UTC)
        self._api = site.api()
        self._random = random.Random(SEED)

    def fill(self, *, tuned: bool = False) -> Filled:
        """Everything; the jobs run while people vote. `tuned`: also a policy by DPO, which takes longest."""
        api = self._api
        api.call("POST", "projects", {"name": "Empty", "slug": EMPTY})
        api.call(
            "POST", "projects",
            {"name": "Helpfulness v3", "slug": FULL, "overlap": 3, "guideline": GUIDELINE, "form": FORM,
             "question": "Which response is more helpful?", "gold_share": 0.1},
        )  # fmt: skip
        policy = next(row["id"] for row in self._of("models")["items"] if row["kind"] == "policy")
        self._import_past()
        people = {name: self._join(FULL, name) for name in ("ann", "ben", "cem", "ada")}
        self._of("rounds", {"policies": [policy], "prompts": 3, "completions": 2, "name": "First look", **SAMPLING})
        self._until("a snapshot's worth of votes", lambda: self._of("snapshots/preview")["preferences"] >= 20)
        shares = {"train": 0.6, "validation": 0.2, "test": 0.2}
        snapshot = self._of("snapshots", {"name": "week 47", "shares": shares})["id"]
        jobs = self._train(snapshot, policy, [REWARD_JOB, DPO_JOB] if tuned else [REWARD_JOB])
        failed = self._fail(snapshot, policy)
        self._import_present()
        self._give_gold()
        self._vote(people)
        self._judge_quality()
        self._connect()
        self._others()
        judge = self._until("the promotion", lambda: self._model(REWARD_JOB["promote_as"]))
        if tuned:
            other = self._until("the promotion", lambda: self._model(DPO_JOB["promote_as"]))
        else:
            directory = tiny_model(self._site.data_dir / "tiny-2", seed=2)
            other = self._of("models", {"name": "tiny-2", "path": str(directory)})["id"]
        evaluation = self._evaluate(other, policy, judge)
        thread = self._chat(policy)
        self._until("the jobs", self._all_ended)
        self._until("the alarms", lambda: self._of("alarms")["items"])
        other_snapshot = self._of("snapshots", {"name": "with the second batch", "shares": shares})["id"]
        measured = experiment.result()
        write(measured, self._site.data_dir / "experiments")
        return Filled(
            prompt=self._of("prompts")["items"][-1]["id"],
            snapshot=snapshot, other_snapshot=other_snapshot, job=jobs[-1], failed_job=failed,
            other_job=failed if len(jobs) == 1 else jobs[0],
            model=other if tuned else judge, evaluation=evaluation, thread=thread,
            invitation=self._invite(FULL, "viewer"), experiment=f"{measured.experiment}/{measured.setting}",
        )  # fmt: skip

    # --- the API ------------------------------------------------------------------------------------------------------

    def _of(self, path: str, body: Any = None, *, slug: str = FULL, method: str = "") -> Any:
        return self._api.call(method or ("GET" if body is None else "POST"), f"projects/{slug}/{path}", body)

    def _import(
        self, kind: str, rows: list[dict[str, Any]], *, slug: str = FULL, name: str = "", more: str = ""
    ) -> Any:
        raw = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
        query = urllib.parse.urlencode({"kind": kind, "name": name or f"{kind}.jsonl"})
        return self._api.call("POST", f"projects/{slug}/imports?{query}{more}", raw=raw)

    def _until(self, what: str, look: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + SECONDS_TO_WAIT
        while time.monotonic() < deadline:
            found = look()
            if found:
                return found
            time.sleep(0.5)
        raise AssertionError(f"{what}: not there within {SECONDS_TO_WAIT} s")

    def _all_ended(self) -> bool:
        return all(row["status"] in {"succeeded", "failed", "cancelled"} for row in self._of("jobs")["items"])

    def _model(self, name: str) -> str:
        return next((row["id"] for row in self._of("models")["items"] if row["name"] == name), "")

    # --- data ---------------------------------------------------------------------------------------------------------

    def _import_past(self) -> None:
        """Prompts, and the votes that five people gave elsewhere in the last three weeks."""
        demo = (BASE_DIR / "annotation" / "demo" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
        self._import("prompts", [json.loads(line) for line in demo[:40]], name="prompts.jsonl")
        comparisons, votes = [], []
        for row in answered():
            for first, second in (("base-135m", "sft-1"), ("dpo-2", "base-135m"), ("sft-1", "dpo-2")):
                if (first, second) == ("sft-1", "dpo-2") and len(comparisons) % 2:
                    continue
                external = f"{row['id']}:{first}:{second}"
                comparisons.append(_comparison(row, first, second, id=external, overlap=3))
                for name in self._random.sample(IMPORTED_PEOPLE, 3):
                    votes.append(self._past_vote(external, name, first, second))
        self._import("comparisons", comparisons, name="pilot comparisons.jsonl")
        self._import("votes", votes, name="pilot votes.jsonl")

    def _past_vote(self, comparison: str, name: str, first: str, second: str) -> dict[str, Any]:
        noise = 1.8 if name == "ruiz" else 1.0
        lean = QUALITY[second] - QUALITY[first] + self._random.gauss(0, noise)
        point = 3 if abs(lean) < 0.4 else (4 if lean < 1.2 else 5) if lean > 0 else (2 if lean > -1.2 else 1)
        at = self._now - timedelta(days=self._random.uniform(1, 20))
        return {
            "comparison_id": comparison, "annotator": name, "choice": "a" if point < 3 else "b" if point > 3 else "tie",
            "answer": {"scale": point, "points": 5, "rationale": self._random.choice(RATIONALES)},
            "active_ms": int(self._random.lognormvariate(10.4, 0.5)), "created_at": at.isoformat(),
        }  # fmt: skip

    def _import_present(self) -> None:
        """Comparisons that wait for votes, and a file whose bad lines were skipped."""
        rows = [
            _comparison(row, *pair, id=f"{row['id']}:now", overlap=3, priority=5)
            for row, pair in zip(answered(), [("sft-1", "dpo-2"), ("base-135m", "dpo-2")] * 7, strict=True)
        ]
        self._import("comparisons", [row | {"prompt": f"{row['prompt']} (Again, please.)"} for row in rows],
                     name="second batch.jsonl")  # fmt: skip
        bad = [{"prompt": "Fine?"}, {"promt": "Misspelt."}, {"prompt": 7}]
        self._import("prompts", bad, name="hand-written.jsonl", more="&on_error=skip")

    # --- people -------------------------------------------------------------------------------------------------------

    def _invite(self, slug: str, role: str, **fields: Any) -> str:
        made = self._of("invitations", {"role": role, **fields}, slug=slug)
        secret: str = made["secret"]
        return secret

    def _join(self, slug: str, name: str) -> Client:
        """A new person who came in by an invitation, signed in."""
        secret = self._invite(slug, "adjudicator" if name == "ada" else "annotator", languages=["en"])
        client = Client(self._site.url)
        client.call("GET", "session")
        client.call(
            "POST", "invitations/accept",
            {"secret": secret, "email": f"{name}@example.org", "name": name.title(), "password": f"{name} walks home"},
        )  # fmt: skip
        return client

    def _vote(self, people: dict[str, Client]) -> None:
        """Most of what is open, by three people who mostly agree; with a flag and a skip."""
        for number, (name, client) in enumerate(people.items()):
            tab = uuid.uuid4().hex
            for _ in range(3):
                queue = client.call("POST", f"annotate/projects/{FULL}/queue", {"tab": tab, "n": 3})
                for task in queue["items"]:
                    self._answer(client, task, seed=f"{name}:{task['completions'][0]}")
            if number < 2:
                (task, *_) = client.call("POST", f"annotate/projects/{FULL}/queue", {"tab": tab, "n": 1})["items"]
                path = f"annotate/assignments/{task['assignment']}"
                if number == 0:
                    client.call("POST", f"{path}/flag", {"kind": "broken", "note": "Response B stops in mid-sentence."})
                else:
                    client.call("POST", f"{path}/skip", {"reason": "too_long"})

    def _answer(self, client: Client, task: dict[str, Any], *, seed: str) -> None:
        drawn = random.Random(seed)
        left, right = (min(len(text), 400) for text in task["completions"])
        lean = (right - left) / 200 + drawn.gauss(0, 0.9)
        point = max(1, min(5, round(3 + lean)))
        accuracy = max(1, min(5, point + drawn.choice((-1, 0, 1))))
        client.call(
            "POST", f"annotate/assignments/{task['assignment']}/vote",
            {"scale": point, "criteria": {"accuracy": accuracy, "clarity": point},
             "reasons": ["style"] if point > 3 else ["wrong"], "rationale": drawn.choice(RATIONALES),
             "active_ms": int(drawn.lognormvariate(10.4, 0.4))},
            key=str(uuid.uuid4()),
        )  # fmt: skip

    def _give_gold(self) -> None:
        """Two of those that wait; not later, because what has votes cannot become gold in this way."""
        waiting = [row for row in self._of("comparisons?limit=100")["items"] if row["votes_counted"] == 0]
        for row in waiting[:2]:
            gold = {"comparison": row["id"], "answer": {"choice": "a"}, "explanation": "B states something false."}
            self._of("gold", {**gold, "use": "hidden"})

    def _judge_quality(self) -> None:
        """Disputes, and a person who is excluded."""
        settled = [row for row in self._of("comparisons?limit=100")["items"] if row["votes_counted"] == 3]
        self._of("adjudication/send", {"comparisons": [row["id"] for row in settled[:3]], "reason": "Votes are split."})
        members = {row["name"]: row["id"] for row in self._of("members")["items"]}
        self._of(f"members/{members['Cem']}/exclude", {"reason": "Answered without reading."})

    def _connect(self) -> None:
        """A webhook, tokens, invitations that wait, a change of settings and a second guideline."""
        events = ["snapshot.frozen", "job.finished", "alarm.raised"]
        hook = self._of("webhooks", {"url": self._site.hook, "events": events})
        self._of(f"webhooks/{hook['id']}/ping", {})
        for name, scopes in (("notebook", ["read"]), ("nightly import", ["read", "write"])):
            self._api.call("POST", "tokens", {"name": name, "scopes": scopes, "project": FULL, "expires_days": 90})
        self._invite(FULL, "annotator", email="dora@example.org", skills=["law"])
        self._of("guidelines", {"text": GUIDELINE + "\n## Code\n\nRun it, if it runs within a minute.\n"})
        self._api.call("PATCH", f"projects/{FULL}", {"person_cap": 400})

    # --- training -----------------------------------------------------------------------------------------------------

    def _train(self, snapshot: str, policy: str, jobs: list[dict[str, Any]]) -> list[str]:
        rows = {"snapshot": snapshot, "model": policy}
        made = self._of("jobs/chain", {"jobs": [job | rows for job in jobs]})
        by_method = {row["method"]: row["id"] for row in made["items"]}
        return [by_method[job["method"]] for job in jobs]

    def _fail(self, snapshot: str, policy: str) -> str:
        """A run that diverges, which rings an alarm; and one that was cancelled while it waited."""
        body = {"method": "dpo", "snapshot": snapshot, "model": policy, "title": "DPO, far too fast"}
        config = {**DPO, "optim": {"learning_rate": 10.0}}
        failed: str = self._of("jobs", {**body, "config": config})["id"]
        other = self._of("jobs", {**body, "config": DPO, "title": "Not needed"})["id"]
        self._of(f"jobs/{other}/cancel", {})
        return failed

    def _evaluate(self, first: str, second: str, judge: str) -> str:
        body = {
            "first": first, "second": second, "name": "Is the new policy better?", "prompts": 6, "sampling": SAMPLING,
            "judges": [{"kind": "reward", "model": judge}, {"kind": "people", "overlap": 1, "priority": -5}],
        }  # fmt: skip
        made: str = self._of("evaluations", body)["id"]
        return made

    def _chat(self, policy: str) -> str:
        sampling = {"temperature": 1.0, "max_new_tokens": 16}
        self._of("chat", {"enabled": True, "policies": [policy], "sampling": sampling}, method="PUT")
        thread = self._api.call("POST", f"annotate/projects/{FULL}/conversations", {}, key=str(uuid.uuid4()))
        path = f"annotate/projects/{FULL}/conversations/{thread['id']}"
        self._api.call("POST", f"{path}/messages", {"content": "What shall I cook tonight?"}, key=str(uuid.uuid4()))
        identifier: str = thread["id"]
        return identifier

    # --- other projects -----------------------------------------------------------------------------------------------

    def _others(self) -> None:
        """Hard texts, a ranking, ratings, and a project that trains its people before they work."""
        api = self._api
        api.call(
            "POST", "projects", {"name": "Hard texts", "slug": HARD_TEXTS, "overlap": 1, "form": {"kind": "choice"}}
        )
        rows = [
            {"prompt": hard.prompt, "completions": hard.answers, "priority": len(HARD) - number}
            for number, hard in enumerate(HARD)
        ]
        self._import("comparisons", rows, slug=HARD_TEXTS)
        form = {"kind": "ranking", "size": 4}
        api.call("POST", "projects", {"name": "Ranking of four", "slug": RANK, "overlap": 1, "form": form})
        self._import("comparisons", ranked(4), slug=RANK)
        form = {"kind": "rating", "size": 2, "points": 5, "criteria": CRITERIA}
        api.call("POST", "projects", {"name": "Ratings", "slug": RATE, "overlap": 1, "form": form})
        self._import("comparisons", ranked(2), slug=RATE)
        for slug, name, steps in (
            (LEARN, "Newcomers", {"confirm_guideline": True, "practice_items": 2, "qualification_items": 2}),
            (PRACTISE, "Practice", {"practice_items": 2}),
            (QUALIFY, "Qualification", {"qualification_items": 2}),
        ):
            self._learn(slug, name, steps)
        self._api.call("POST", f"annotate/projects/{QUALIFY}/qualification", {})

    def _learn(self, slug: str, name: str, steps: dict[str, Any]) -> None:
        """A project that trains its people before they work, at the first of these steps."""
        guideline = {"guideline": GUIDELINE} if "confirm_guideline" in steps else {}
        self._api.call("POST", "projects", {"name": name, "slug": slug, "overlap": 1, **guideline, **steps})
        rows = [_comparison(row, "base-135m", "dpo-2", id=row["id"]) for row in answered()[:6]]
        self._import("comparisons", rows, slug=slug)
        waiting = self._of("comparisons?limit=100", slug=slug)["items"]
        for row, use in zip(waiting, ("practice", "practice", "qualification", "qualification"), strict=False):
            gold = {"comparison": row["id"], "answer": {"choice": "b"}, "use": use, "explanation": "A is careless."}
            self._of("gold", gold, slug=slug)


def answered() -> list[dict[str, Any]]:
    """Fourteen prompts, each with an answer of each source."""
    lines = (Path(__file__).parent / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _comparison(row: dict[str, Any], first: str, second: str, **fields: Any) -> dict[str, Any]:
    texts = dict(zip(SOURCES, row["answers"], strict=True))
    return {
        "prompt": row["prompt"], "category": row["category"], "language": row["language"],
        "completions": [
            {"text": texts[name], "source": name, "source_kind": "policy"} for name in (first, second)
        ],
        **fields,
    }  # fmt: skip
