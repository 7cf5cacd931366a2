"""From votes, people, prompts and snapshots to every job, run and model trained on them; and from a model back.

What a snapshot used is read from its own lines: they never change, whatever happens to consensus and people since. Jobs
and models of a project are read whole and walked in memory, so that each answer has a fixed number of queries, however
many generations lie between. Jobs that only read a model (sampling, scores, evaluations, serving) train nothing on it
and are left out. The module is long because both directions are read from one graph and one index of snapshots.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from django.db.models import Q

from annotation.erasure import repeating
from annotation.models import (
    Comparison,
    Completion,
    Erasure,
    ImportBatch,
    Membership,
    Project,
    Prompt,
    Purpose,
    Slot,
    User,
    Vote,
)
from training.models import Job, ModelVersion, PlaygroundQuestion, Round, Run, Snapshot
from training.snapshot_index import SnapshotIndex, index_of

_READS = ("sample", "score", "evaluate", "serve")
_CHUNK = 5000


@dataclass(frozen=True, kw_only=True, slots=True)
class Used:
    """A snapshot that holds comparisons with votes that were asked about, and how many comparisons."""

    snapshot: Snapshot
    comparisons: int


class SourceOfComparisons(StrEnum):
    """What brings comparisons into a project."""

    IMPORT = "import"
    ROUND = "round"
    PLAYGROUND = "playground"
    PAIRING = "pairing"  # of completions that were there; such a batch has no row of its own


@dataclass(frozen=True, kw_only=True, slots=True)
class Brought:
    """How many comparisons of a snapshot came from where. `id` is None for all pairings together."""

    kind: SourceOfComparisons
    id: UUID | None
    name: str
    comparisons: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """That one came of the other, by public ids; no two kinds share an id."""

    start: UUID
    end: UUID


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """What came of some votes: snapshots, then the jobs that trained on them or on what they made, runs, and models."""

    snapshots: list[Used]
    jobs: list[Job]
    runs: list[Run]
    models: list[ModelVersion]
    links: list[Link]


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotReach:
    """What came of a snapshot, and where its comparisons came from."""

    reach: Reach
    sources: list[Brought]


@dataclass(frozen=True, kw_only=True, slots=True)
class VoteReach:
    """What came of one vote. `counts`: whether a slot of its comparison holds it; a surplus vote is used nowhere."""

    vote: Vote
    pseudonym: str
    counts: bool
    reach: Reach


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptReach:
    """What hangs on a prompt, before it is erased and after: rows that hold its text, and what was trained on it.

    Attributes:
        later: prompts of later turns of its chats. They repeat it and are erased with it, so all else counts them too.
        erasure: its tombstone, with what was erased of each snapshot; None: its texts are there.
        frozen: comparisons in a snapshot.
        rounds: those that sampled for it.
    """

    prompt: Prompt
    later: int
    erasure: Erasure | None
    completions: int
    comparisons: int
    frozen: int
    votes: int
    rounds: list[Round]
    reach: Reach


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What a snapshot brought to a model: comparisons, counted votes, and people who gave them."""

    snapshot: Snapshot
    comparisons: int
    votes: int
    people: int
    sources: list[Brought]


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """Somebody whose votes are behind a model, by pseudonym, and how many votes; None where there is no membership."""

    pseudonym: str | None
    votes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What a model was made of: the jobs and models behind it, nearest first, and the votes behind its snapshots."""

    jobs: list[Job]
    runs: list[Run]
    models: list[ModelVersion]
    snapshots: list[Snapshot]
    shares: list[Share]
    comparisons: int
    votes: int
    people: int
    annotators: list[Person]
    links: list[Link]


@dataclass(frozen=True, kw_only=True, slots=True)
class UsedVote:
    """A vote behind a model, and the numbers of the snapshots that brought it."""

    vote: UUID
    comparison: UUID
    pseudonym: str | None
    created_at: datetime
    snapshots: tuple[int, ...]


# --- forward ----------------------------------------------------------------------------------------------------------


def of_vote(vote: Vote) -> VoteReach:
    """Which snapshots used a vote, and what was made of those. Eight queries."""
    project, wanted = vote.project, {vote.comparison.public_id.bytes: vote.created_at}
    counts = vote.purpose == Purpose.WANTED and Slot.objects.filter(vote=vote).exists()
    members = Membership.objects.filter(project=project, user_id=vote.annotator_id)
    names = set(members.values_list("pseudonym", flat=True))
    graph = _Graph(project)
    # Only what is frozen keeps its slots; before that a snapshot has not used the vote.
    used = _used(graph, wanted, without=names) if counts and vote.comparison.frozen_at else []
    return VoteReach(vote=vote, pseudonym=next(iter(names), ""), counts=counts, reach=graph.forward(used))


def of_person(project: Project, user: User) -> Reach:
    """Which snapshots used a person's votes, and what was made of those. Eight queries."""
    graph = _Graph(project)
    names = set(Membership.objects.filter(project=project, user=user).values_list("pseudonym", flat=True))
    return graph.forward(_used(graph, _voted(project, user), without=names))


def of_prompt(prompt: Prompt) -> PromptReach:
    """What hangs on a prompt: to be read before it is erased. A fixed number of queries."""
    graph = _Graph(prompt.project)
    prompts = repeating(prompt)
    rows = list(Comparison.objects.filter(prompt__in=prompts).values_list("public_id", "frozen_at"))
    frozen: dict[bytes, datetime | None] = {public_id.bytes: None for public_id, frozen_at in rows if frozen_at}
    completions = Completion.objects.filter(prompt__in=prompts)
    tombstone = Erasure.objects.filter(prompt=prompt).select_related("by")
    return PromptReach(
        prompt=prompt,
        later=len(prompts) - 1,
        erasure=tombstone.prefetch_related("snapshots__snapshot").first(),
        completions=completions.count(),
        comparisons=len(rows),
        frozen=len(frozen),
        votes=Vote.objects.filter(comparison__prompt__in=prompts).count(),
        rounds=list(Round.objects.filter(public_id__in=completions.order_by().values("origin")).order_by("number")),
        reach=graph.forward(_used(graph, frozen)),
    )


def of_snapshot(snapshot: Snapshot) -> SnapshotReach:
    """What was trained on a snapshot, and on what that made; and what brought its comparisons."""
    graph = _Graph(snapshot.project)
    reach = graph.forward([Used(snapshot=snapshot, comparisons=len(index_of(snapshot)))])
    (sources,) = _sources(snapshot.project, _shelves([snapshot]))
    return SnapshotReach(reach=reach, sources=sources)


def _voted(project: Project, user: User) -> dict[bytes, datetime | None]:
    """Comparisons where a vote of the person counts, with its time. Slots of what is frozen stay as they were."""
    slots = Slot.objects.filter(
        project=project, vote__annotator=user, vote__purpose=Purpose.WANTED, comparison__frozen_at__isnull=False
    )
    rows = slots.values_list("comparison__public_id", "vote__created_at")
    return {public_id.bytes: created_at for public_id, created_at in rows}


def _used(graph: _Graph, wanted: Mapping[bytes, datetime | None], *, without: Collection[str] = ()) -> list[Used]:
    """The snapshots that hold these comparisons, if the moment beside each had come when they were frozen.

    Args:
        without: pseudonyms of whose votes they are; a snapshot that left one of them out used none.
    """
    used = []
    for snapshot in graph.snapshots.values() if wanted else ():
        if not set(without).isdisjoint(left_out(snapshot)):
            continue
        held = index_of(snapshot).among(wanted)
        count = sum((moment := wanted[item]) is None or moment <= snapshot.created_at for item in held)
        if count:
            used.append(Used(snapshot=snapshot, comparisons=count))
    return used


def left_out(snapshot: Snapshot) -> frozenset[str]:
    """Pseudonyms of the people whose votes a snapshot left out."""
    return frozenset(snapshot.label_policy.get("excluded_annotators", ()))


# --- back -------------------------------------------------------------------------------------------------------------


def origin(model: ModelVersion) -> Origin:
    """What a model was made of. A fixed number of queries; the votes of its project are read once."""
    if model.project is None:  # what the site's operator brought has no history here
        return Origin(
            jobs=[],
            runs=[],
            models=[],
            snapshots=[],
            shares=[],
            comparisons=0,
            votes=0,
            people=0,
            annotators=[],
            links=[],
        )
    graph = _Graph(model.project)
    jobs, models, snapshots = graph.back(model)
    shelves = _shelves(snapshots)
    comparisons: set[bytes] = set()
    for shelf in shelves:
        comparisons.update(shelf.index)
    votes: dict[int, int] = defaultdict(int)
    of_shelf: list[dict[int, int]] = [defaultdict(int) for _ in shelves]
    names = _pseudonyms(model.project)
    for row in _counted(model.project, fields=()) if shelves else ():
        if used := _held_by(shelves, row, names):
            votes[row["vote__annotator_id"]] += 1
            for number in used:
                of_shelf[number][row["vote__annotator_id"]] += 1
    sources = _sources(model.project, shelves)
    return Origin(
        jobs=jobs,
        runs=_runs(jobs),
        models=models,
        snapshots=snapshots,
        shares=[
            Share(
                snapshot=shelf.snapshot,
                comparisons=len(shelf.index),
                votes=sum(of_shelf[number].values()),
                people=len(of_shelf[number]),
                sources=sources[number],
            )
            for number, shelf in enumerate(shelves)
        ],
        comparisons=len(comparisons),
        votes=sum(votes.values()),
        people=len(votes),
        annotators=sorted(
            (Person(pseudonym=names.get(user), votes=count) for user, count in votes.items()),
            key=lambda item: (-item.votes, item.pseudonym or ""),
        ),
        links=graph.links([*jobs, *models, *snapshots, model]),
    )


def snapshots_behind(model: ModelVersion) -> list[Snapshot]:
    """The snapshots that a model was trained on, by way of any model behind it. Five queries, or none."""
    return [] if model.project is None else _Graph(model.project).back(model)[2]


def votes_behind(model: ModelVersion) -> Iterator[UsedVote]:
    """Every vote that a model was trained on, by way of any model or reward model behind it. Rows are streamed."""
    if model.project is None:
        return iter(())
    _, _, snapshots = _Graph(model.project).back(model)
    return _votes(model.project, _shelves(snapshots), _pseudonyms(model.project))


def _votes(project: Project, shelves: list[_Shelf], names: Mapping[int, str]) -> Iterator[UsedVote]:
    for row in _counted(project, fields=("vote__public_id",)) if shelves else ():
        if used := _held_by(shelves, row, names):
            yield UsedVote(
                vote=row["vote__public_id"],
                comparison=row["comparison__public_id"],
                pseudonym=names.get(row["vote__annotator_id"]),
                created_at=row["vote__created_at"],
                snapshots=tuple(shelves[number].snapshot.number for number in used),
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shelf:
    """A snapshot with what it holds."""

    snapshot: Snapshot
    index: SnapshotIndex
    held: frozenset[bytes]
    left_out: frozenset[str]


def _shelves(snapshots: Iterable[Snapshot]) -> list[_Shelf]:
    found = []
    for snapshot in snapshots:
        index = index_of(snapshot)
        found.append(_Shelf(snapshot=snapshot, index=index, held=frozenset(index), left_out=left_out(snapshot)))
    return found


def _sources(project: Project, shelves: list[_Shelf]) -> list[list[Brought]]:
    """What brought the comparisons of each snapshot, most first; four queries, or none."""
    if not shelves:
        return []
    counts: list[dict[UUID, int]] = [defaultdict(int) for _ in shelves]
    frozen = Comparison.objects.filter(project=project, frozen_at__isnull=False).order_by("pk")
    for public_id, origin in frozen.values_list("public_id", "origin").iterator(chunk_size=_CHUNK):
        for number, shelf in enumerate(shelves):
            if public_id.bytes in shelf.held:
                counts[number][origin] += 1
    origins = {origin for counted in counts for origin in counted}
    named: dict[UUID, tuple[SourceOfComparisons, str]] = {}
    for batch in ImportBatch.objects.filter(public_id__in=origins).only("public_id", "name"):
        named[batch.public_id] = (SourceOfComparisons.IMPORT, batch.name)
    for made in Round.objects.filter(public_id__in=origins).only("public_id", "number", "name"):
        named[made.public_id] = (SourceOfComparisons.ROUND, made.name or str(made.number))
    for asked in PlaygroundQuestion.objects.filter(public_id__in=origins).only("public_id"):
        named[asked.public_id] = (SourceOfComparisons.PLAYGROUND, "")
    return [_brought(counted, named) for counted in counts]


def _brought(counted: Mapping[UUID, int], named: Mapping[UUID, tuple[SourceOfComparisons, str]]) -> list[Brought]:
    known = [
        Brought(kind=named[origin][0], id=origin, name=named[origin][1], comparisons=count)
        for origin, count in counted.items()
        if origin in named
    ]
    paired = sum(count for origin, count in counted.items() if origin not in named)
    if paired:
        known.append(Brought(kind=SourceOfComparisons.PAIRING, id=None, name="", comparisons=paired))
    return sorted(known, key=lambda item: (-item.comparisons, str(item.id)))


def _held_by(shelves: list[_Shelf], row: Mapping[str, Any], names: Mapping[int, str]) -> list[int]:
    """Which of the snapshots used the vote in a row."""
    comparison = row["comparison__public_id"].bytes
    return [
        number
        for number, shelf in enumerate(shelves)
        if comparison in shelf.held
        and row["vote__created_at"] <= shelf.snapshot.created_at
        and names.get(row["vote__annotator_id"]) not in shelf.left_out
    ]


def _counted(project: Project, *, fields: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The counted votes of frozen comparisons, a row each; one query, read as a stream."""
    slots = Slot.objects.filter(
        project=project, vote__purpose=Purpose.WANTED, comparison__frozen_at__isnull=False
    ).order_by("pk")
    rows = slots.values("comparison__public_id", "vote__annotator_id", "vote__created_at", *fields)
    yield from rows.iterator(chunk_size=_CHUNK)


def _pseudonyms(project: Project) -> dict[int, str]:
    return dict(Membership.objects.filter(project=project).values_list("user_id", "pseudonym"))


# --- the graph --------------------------------------------------------------------------------------------------------

_Node = tuple[str, int]


class _Graph:
    """Snapshots, jobs and models of a project, and which came of which. Five queries."""

    def __init__(self, project: Project) -> None:
        self.snapshots = {row.pk: row for row in Snapshot.objects.filter(project=project).order_by("number")}
        jobs = Job.objects.filter(project=project).exclude(method__in=_READS).select_related("checkpoint__run")
        heavy = ("config", "progress", "checkpoint__run__result", "checkpoint__run__error_tail")
        self._jobs = {row.pk: row for row in jobs.defer(*heavy).order_by("pk")}
        models = ModelVersion.objects.filter(Q(project=project) | Q(project=None)).select_related("checkpoint__run")
        self._models = {row.pk: row for row in models.defer(*heavy[2:]).order_by("pk")}
        self._parents: dict[_Node, list[_Node]] = defaultdict(list)
        for job in self._jobs.values():
            self._of_job(job)
        for job_id, model_id in Job.uses.through.objects.filter(job__project=project).values_list(
            "job_id", "modelversion_id"
        ):
            self._parents["job", job_id].append(("model", model_id))
        # A promotion that waits for the job it depends on has no checkpoint yet, but will be of that job's.
        waiting = Job.depends_on.through.objects.filter(
            from_job__project=project, from_job__method="convert", from_job__checkpoint=None
        )
        for job_id, before in waiting.values_list("from_job_id", "to_job_id"):
            self._parents["job", job_id].append(("job", before))
        for model in self._models.values():
            if model.checkpoint is not None:
                self._parents["model", model.pk].append(("job", model.checkpoint.run.job_id))
            if model.base_id is not None:
                self._parents["model", model.pk].append(("model", model.base_id))

    def _of_job(self, job: Job) -> None:
        parents = self._parents["job", job.pk]
        if job.snapshot_id is not None:
            parents.append(("snapshot", job.snapshot_id))
        if job.model_id is not None:
            parents.append(("model", job.model_id))
        if job.checkpoint is not None:
            parents.append(("job", job.checkpoint.run.job_id))
        named = {ref["job"] for ref in _references(job.inputs) if "job" in ref}
        if named:
            parents += [("job", row.pk) for row in self._jobs.values() if str(row.public_id) in named]

    def back(self, model: ModelVersion) -> tuple[list[Job], list[ModelVersion], list[Snapshot]]:
        """Jobs and models behind a model, nearest first, and snapshots by number."""
        found = _reached([("model", model.pk)], self._parents)[1:]
        snapshots = [self.snapshots[pk] for kind, pk in found if kind == "snapshot" and pk in self.snapshots]
        return (
            [self._jobs[pk] for kind, pk in found if kind == "job" and pk in self._jobs],
            [self._models[pk] for kind, pk in found if kind == "model" and pk in self._models],
            sorted(snapshots, key=lambda item: item.number),
        )

    def forward(self, used: list[Used]) -> Reach:
        """What came of snapshots; one query, for the runs."""
        children: dict[_Node, list[_Node]] = defaultdict(list)
        for node, parents in self._parents.items():
            for parent in parents:
                children[parent].append(node)
        found = set(_reached([("snapshot", item.snapshot.pk) for item in used], children))
        jobs = [row for pk, row in self._jobs.items() if ("job", pk) in found]
        models = [row for pk, row in self._models.items() if ("model", pk) in found]
        links = self.links([*(item.snapshot for item in used), *jobs, *models])
        return Reach(snapshots=used, jobs=jobs, runs=_runs(jobs), models=models, links=links)

    def links(self, rows: Iterable[Snapshot | Job | ModelVersion]) -> list[Link]:
        """Which of these rows came of which, without the way from a base model to what a job among them made of it."""
        ids = {_node(row): row.public_id for row in rows}
        found: dict[Link, None] = {}
        for node, end in ids.items():
            parents = [parent for parent in self._parents.get(node, ()) if parent in ids]
            has_job = any(kind == "job" for kind, _ in parents)
            for parent in parents:
                if not (node[0] == "model" and parent[0] == "model" and has_job):
                    found[Link(start=ids[parent], end=end)] = None
        return list(found)


def _node(row: Snapshot | Job | ModelVersion) -> _Node:
    match row:
        case Snapshot():
            return "snapshot", row.pk
        case Job():
            return "job", row.pk
        case ModelVersion():
            return "model", row.pk


def _reached(start: Iterable[_Node], edges: Mapping[_Node, list[_Node]]) -> list[_Node]:
    """Nodes by breadth: those of the start first."""
    found = dict.fromkeys(start)
    waiting = deque(found)
    while waiting:
        for node in edges.get(waiting.popleft(), ()):
            if node not in found:
                found[node] = None
                waiting.append(node)
    return list(found)


def _references(inputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The references of a job's inputs, whatever their role."""
    for value in inputs.values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                yield item


def _runs(jobs: list[Job]) -> list[Run]:
    """Attempts at these jobs, one query."""
    known = {job.pk: job for job in jobs}
    rows = Run.objects.filter(job__in=list(known)).defer("result", "error_tail").order_by("job_id", "attempt")
    runs = list(rows)
    for run in runs:
        run.job = known[run.job_id]
    return runs
