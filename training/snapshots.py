"""Freeze preferences into a snapshot: filter, label, split by prompt group, hash, write; and read it back out.

`training.engine.records` owns the layout of the directory; this module decides what goes in. A snapshot is a fact: its
row and its files never change, and rebuilt from the same votes it has the same content hash.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, assert_never

import numpy as np
from django.conf import settings
from django.db import transaction
from django.db.models import Max

from annotation.consensus import settle_due
from annotation.errors import DomainError, Invalid
from annotation.gate import write
from annotation.models import Aggregator, AuditAction, Project, User
from annotation.people import audit
from annotation.preferences import (
    MARGIN_PER_STEP,
    Candidate,
    LabelPolicy,
    Preference,
    Ready,
    lock,
    mark_frozen,
    ready_preferences,
)
from annotation.reports.agreement import agreement
from annotation.reports.cache import fingerprint
from annotation.statistics.agreement import accuracy_ceiling, percent_agreement
from annotation.webhooks import Event, emit
from training.engine.records import Manifest, canonical_json, iter_lines, verify_snapshot, write_snapshot
from training.models import Snapshot
from training.splits import PARTS, leak_rate, member_key, part_of, prompt_groups

SPLIT_SEED = 0
HELD_OUT = ("validation", "test")
_BESIDE = ("prob_chosen", "prob_share", "margin", "weight")  # columns of an export beside the texts


class NoPreferences(DomainError):
    """No comparison is ready, so there is nothing to freeze."""

    code = "no_preferences"


class Layout(Enum):
    """Shapes in which a snapshot's lines leave: TRL's conversational, TRL's plain, and our own."""

    TRL = "trl"
    PLAIN = "plain"
    WINNOW = "winnow"


@dataclass(frozen=True, kw_only=True, slots=True)
class FreezeRule:
    """What to freeze: the label policy, and the shares of the three parts."""

    policy: LabelPolicy = field(default_factory=LabelPolicy)
    shares: dict[str, float] = field(default_factory=lambda: {"train": 0.8, "validation": 0.1, "test": 0.1})

    def __post_init__(self) -> None:
        if self.policy.tie_rule not in {"half", "drop"}:
            raise Invalid(f"tie_rule must be half or drop, got {self.policy.tie_rule!r}")
        if not 1 <= self.policy.min_votes <= 99:
            raise Invalid(f"min_votes must be from 1 to 99, got {self.policy.min_votes}")
        if set(self.shares) != set(PARTS) or min(self.shares.values()) < 0 or abs(sum(self.shares.values()) - 1) > 1e-9:
            raise Invalid(f"shares must name train, validation and test and add up to 1, got {self.shares}")
        if self.shares["train"] <= 0:
            raise Invalid(f"shares.train must be above 0, got {self.shares['train']}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What freezing now would give."""

    preferences: int
    ties: int
    dropped: dict[str, int]
    splits: dict[str, int]


def preview(*, project: Project, rule: FreezeRule, now: datetime) -> Preview:
    """Count what `freeze` would take; writes nothing but consensuses that are due."""
    chosen = _choose(project, rule, now=now)
    return Preview(
        preferences=len(chosen.preferences),
        ties=sum(item.prob == 0.5 for item in chosen.preferences),
        dropped=chosen.dropped,
        splits={part: chosen.parts.count(part) for part in PARTS},
    )


def freeze(*, project: Project, rule: FreezeRule, by: User, name: str = "", now: datetime) -> Snapshot:
    """Freeze every preference that the rule takes. Freezing twice without new votes gives two rows with one hash.

    Reading, marking and the row are one transaction; the files are written aside before it ends and renamed into a
    directory named by the content hash, so a crash leaves either a whole snapshot or nothing that counts.

    Raises:
        NoPreferences: nothing is settled, or the rule drops everything.
    """
    root: Path = settings.SNAPSHOTS_DIR
    root.mkdir(parents=True, exist_ok=True)
    while settle_due(now=now):
        pass
    facts, chosen = fingerprint(project), _choose(project, rule, now=now)  # before the locks: it takes a while
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=root))
    try:
        with write(), transaction.atomic():
            Project.objects.select_for_update(no_key=True).get(pk=project.pk)
            lock(project)
            if fingerprint(project) != facts:
                chosen = _choose(project, rule, now=now)
            if not chosen.preferences:
                raise NoPreferences(_why_nothing(chosen))
            manifest = write_snapshot(
                draft / "snapshot",
                kind="preferences",
                label_policy=chosen.label_policy,
                split=split_rule(rule),
                lines=_lines(chosen),
            )
            place = Path(str(project.public_id)) / manifest.content_hash
            _keep(draft / "snapshot", root / place)
            mark_frozen(chosen.preferences, now=now)
            return _record(project, rule, chosen, manifest, place=place, name=name, by=by, now=now)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _record(
    project: Project,
    rule: FreezeRule,
    chosen: _Chosen,
    manifest: Manifest,
    *,
    place: Path,
    name: str,
    by: User,
    now: datetime,
) -> Snapshot:
    """The snapshot's row, with who froze it, and what others are told of it."""
    number = (Snapshot.objects.filter(project=project).aggregate(last=Max("number"))["last"] or 0) + 1
    snapshot = Snapshot.objects.create(
        project=project,
        number=number,
        name=name,
        content_hash=manifest.content_hash,
        path=str(place),
        counts=manifest.counts,
        dropped=chosen.dropped,
        ties=sum(item.prob == 0.5 for item in chosen.preferences),
        label_policy=chosen.label_policy,
        split=split_rule(rule),
        agreement=_agreement(project, chosen),
        created_at=now,
        created_by=by,
    )
    audit(
        project=project,
        by=by,
        action=AuditAction.SNAPSHOT_FROZEN,
        target=str(snapshot.public_id),
        now=now,
        content_hash=manifest.content_hash,
    )
    payload = {"snapshot": str(snapshot.public_id), "number": number, "counts": manifest.counts}
    emit(project=project, event=Event.SNAPSHOT_FROZEN, payload=payload, now=now)
    return snapshot


def _keep(draft: Path, target: Path) -> None:
    """Move the files into place; the same content frozen before is already there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        verify_snapshot(target)
    else:
        draft.rename(target)


def _why_nothing(chosen: _Chosen) -> str:
    waiting = chosen.dropped.get("open", 0)
    if waiting:
        return f"No comparison is settled yet: {waiting} still want votes. Vote on, or lower the votes wanted."
    if chosen.dropped:
        reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in chosen.dropped.items())
        return f"The rule leaves nothing to freeze: {reasons}."
    return "This project has no comparisons yet: sample a round or import votes."


def label_policy(ready: Ready) -> dict[str, Any]:
    """The label policy as the manifest and the content hash carry it."""
    policy: dict[str, Any] = {
        "aggregator": ready.method,
        "dispute_below": ready.policy.dispute_below,
        "tie_rule": ready.policy.tie_rule,
        "min_votes": ready.policy.min_votes,
        "min_confidence": ready.policy.min_confidence,
        "guideline_versions": ready.guideline_versions,
        "excluded_annotators": ready.excluded_annotators,
        "margin": ready.policy.margin,
    }
    if ready.policy.margin:
        policy["margin_per_step"] = MARGIN_PER_STEP
    return {**policy, "fit": ready.fit} if ready.fit else policy


def split_rule(rule: FreezeRule) -> dict[str, Any]:
    """The split rule as the manifest and the content hash carry it."""
    return {"rule": "prompt-group/blake2b-64", "seed": SPLIT_SEED, "shares": rule.shares}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chosen:
    """What a snapshot will hold: preferences with their labels, and the prompt group and the part of each."""

    preferences: list[Preference]
    groups: list[str]
    parts: list[str]
    dropped: dict[str, int]
    label_policy: dict[str, Any]


def _choose(project: Project, rule: FreezeRule, *, gold_until: datetime | None = None, now: datetime) -> _Chosen:
    """The preferences that the rule takes, split first and labelled then (STATISTICS 9.4)."""
    place: dict[int, tuple[str, str]] = {}

    def split(candidates: Sequence[Candidate]) -> list[bool]:
        texts = [[text for text, _, _ in one.shown] for one in candidates]
        for one, group in zip(candidates, prompt_groups([one.prompt for one in candidates], texts), strict=True):
            place[one.comparison_pk] = (group, part_of(group, shares=rule.shares, seed=SPLIT_SEED))
        return [place[one.comparison_pk][1] == "train" for one in candidates]

    ready = ready_preferences(
        project=project,
        policy=rule.policy,
        is_train=split,
        gold_until=gold_until,
        now=now,
    )
    return _Chosen(
        preferences=ready.preferences,
        groups=[place[item.comparison_pk][0] for item in ready.preferences],
        parts=[place[item.comparison_pk][1] for item in ready.preferences],
        dropped=ready.dropped,
        label_policy=label_policy(ready),
    )


def _lines(chosen: _Chosen) -> dict[str, list[dict[str, Any]]]:
    lines: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for item, group, part in zip(chosen.preferences, chosen.groups, chosen.parts, strict=True):
        lines[part].append(_line(item, group))
    return lines


def _agreement(project: Project, chosen: _Chosen) -> dict[str, Any]:
    """Agreement of the project, what accuracy each held-out part allows a reward model at best, and what leaks.

    A leak is a prompt or a completion of a held-out pair that the training part has too; by the split there is none of
    a prompt, or of a completion long enough to say something.
    """
    found: dict[str, Any] = {key: asdict(value) for key, value in agreement(project).items()}
    prompts = [[member_key(canonical_json(item.prompt))] for item in chosen.preferences]
    texts = [[member_key(item.a), member_key(item.b)] for item in chosen.preferences]
    found["leak"] = {"prompt": leak_rate(prompts, chosen.parts), "completion": leak_rate(texts, chosen.parts)}
    groups = np.unique(np.array(chosen.groups), return_inverse=True)[1]
    votes = np.array([(item.votes_a, item.votes_b) for item in chosen.preferences], dtype=np.float64)
    found["ceiling"] = {}
    for part in HELD_OUT:
        mine = np.array(chosen.parts) == part
        allowed = accuracy_ceiling(percent_agreement(votes[mine], group=groups[mine]))
        found["ceiling"][part] = {"ceiling": asdict(allowed.ceiling), "upper": asdict(allowed.upper)}
    return found


def _line(item: Preference, group: str) -> dict[str, Any]:
    """A preference turned to its chosen side: the one with at least ½, at exactly ½ drawn by a hash of the id."""
    coin = hashlib.sha256(item.id.encode()).digest()[0] % 2 == 0
    a_chosen = coin if item.prob == 0.5 else item.prob > 0.5
    chosen, rejected = ("a", "b") if a_chosen else ("b", "a")
    text, finish = {"a": item.a, "b": item.b}, {"a": item.finish_a, "b": item.finish_b}
    source, votes = {"a": item.source_a, "b": item.source_b}, {"a": item.votes_a, "b": item.votes_b}
    meta: dict[str, Any] = {
        "comparison": item.comparison,
        "votes": {
            "chosen": votes[chosen],
            "tie": item.votes_tie,
            "rejected": votes[rejected],
            "surplus": item.surplus,
        },
        "annotators": item.annotators,
        "sources": {"chosen": source[chosen], "rejected": source[rejected]},
        "category": item.category,
        "label_source": "adjudication" if item.is_ruled else "votes",
    }
    line = {
        "id": item.id,
        "group": group,
        "prompt": item.prompt,
        "chosen": text[chosen],
        "rejected": text[rejected],
        "chosen_finish": finish[chosen],
        "rejected_finish": finish[rejected],
        "prob_chosen": item.prob if a_chosen else 1 - item.prob,
        "weight": item.weight,
        "meta": meta,
    }
    # A ruling outweighs the votes: their share, which training takes before the label, would take it back.
    if item.share is not None and not item.is_ruled:
        line["prob_share"] = item.share if a_chosen else 1 - item.share
    if item.margin is not None:
        line["margin"] = max(0.0, item.margin if a_chosen else -item.margin)
    if item.ranking is not None:
        meta["ranking"] = item.ranking
    if item.p_tie is not None:
        meta["p_tie"] = item.p_tie
    return line


def snapshot_path(snapshot: Snapshot) -> Path:
    """The directory of a snapshot's files."""
    return Path(settings.SNAPSHOTS_DIR) / snapshot.path


def rebuilt_hash(*, snapshot: Snapshot, now: datetime) -> str:
    """The content hash that the facts of now give under the snapshot's rule: equal while no vote has been added.

    What was made gold later was no gold then, and stays in.
    """
    policy = snapshot.label_policy
    rule = FreezeRule(
        policy=LabelPolicy(
            aggregator=Aggregator(policy["aggregator"].partition("/")[0]),
            dispute_below=policy.get("dispute_below"),
            min_votes=policy["min_votes"],
            tie_rule=policy["tie_rule"],
            min_confidence=policy["min_confidence"],
            margin=policy.get("margin", False),
        ),
        shares=snapshot.split["shares"],
    )
    chosen = _choose(snapshot.project, rule, gold_until=snapshot.created_at, now=now)
    with tempfile.TemporaryDirectory() as directory:
        manifest = write_snapshot(
            Path(directory) / "snapshot",
            kind=snapshot.kind,
            label_policy=chosen.label_policy,
            split=split_rule(rule),
            lines=_lines(chosen),
        )
    return manifest.content_hash


def export_lines(snapshot: Snapshot, *, layout: Layout, part: str | None = None) -> Iterator[str]:
    """The snapshot as JSON Lines in a layout; `part` limits it to one file. Read from the frozen files.

    Raises:
        Invalid: the plain layout was asked for and a prompt has several turns.
    """
    directory = snapshot_path(snapshot)
    parts = [part] if part else [name for name in PARTS if snapshot.counts.get(name)]
    if layout is Layout.PLAIN:
        for name in parts:
            if any(len(record["prompt"]) != 1 for record in _records(directory, name)):
                raise Invalid("layout: plain holds single-turn prompts only; take trl, got 'plain'")
    return (canonical_json(_shape(record, layout)) + "\n" for name in parts for record in _records(directory, name))


def _records(directory: Path, part: str) -> Iterator[dict[str, Any]]:
    return iter(iter_lines(directory, part))


def _shape(record: dict[str, Any], layout: Layout) -> dict[str, Any]:
    beside: dict[str, Any] = {key: record[key] for key in _BESIDE if key in record}
    match layout:
        case Layout.TRL:
            return {
                "prompt": record["prompt"],
                "chosen": [{"role": "assistant", "content": record["chosen"]}],
                "rejected": [{"role": "assistant", "content": record["rejected"]}],
                **beside,
            }
        case Layout.PLAIN:
            return {
                "prompt": record["prompt"][0]["content"],
                "chosen": record["chosen"],
                "rejected": record["rejected"],
                **beside,
            }
        case Layout.WINNOW:
            return record
        case _:
            assert_never(layout)
