"""Rows of the normal form into the database: a few hundred in one short transaction, and twice is the same as once.

What is there already is found by content: prompts by their hash, completions by prompt, source and text, comparisons by
the hash of their meeting, votes by their person. An id that the file gives tells twins apart. Nothing is kept between
two calls but small caches, so a file may be of any length. The module is long because one transaction writes eight
tables that depend on each other.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from django.db import connection
from django.db.models import Count

from annotation.importing.inserting import insert
from annotation.importing.rows import (
    MOST_COMPLETIONS_A_ROW,
    NEWEST,
    BadRow,
    ComparisonRow,
    CompletionRow,
    PromptRow,
    Row,
    RowError,
    VoteRow,
    fit_vote,
)
from annotation.models import (
    Audience,
    Comparison,
    ComparisonCompletion,
    Completion,
    CompletionScore,
    Consensus,
    Erasure,
    GuidelineVersion,
    ImportBatch,
    Project,
    Prompt,
    Purpose,
    Retraction,
    Slot,
    SlotState,
    Source,
    Vote,
    content_hash,
)
from annotation.overlap import first_overlap, lock
from annotation.people import imported_annotators

_MOST_CACHED = 20_000
_PROMPT = (
    "public_id", "project", "messages", "content_hash", "category", "language", "external_id", "meta", "author",
    "batch", "created_at",
)  # fmt: skip
_PLACE = ("comparison", "completion", "position")
_SLOT = ("project", "comparison", "number", "state", "assignment", "vote", "lease_expires_at", "audience", "priority",
         "rank")  # fmt: skip
_DONE = "UPDATE annotation_slot SET state = 'done', vote_id = %s WHERE id = %s AND state = 'open'"


@dataclass(kw_only=True, slots=True)
class Loaded:
    """What a call brought: how many rows had something new, and the rows that could not be placed."""

    imported: int
    errors: list[RowError]


@dataclass(kw_only=True, slots=True)
class _Known:
    """What the rows of a call name by id, as it is in the project."""

    prompts: dict[str, tuple[int, str]] = field(default_factory=dict)  # id → key, content hash
    completions: dict[str, tuple[int, str, str]] = field(default_factory=dict)  # id → key, the prompt's hash, its own
    comparisons: dict[str, tuple[int, int]] = field(default_factory=dict)  # id → key, size


@dataclass(frozen=True, kw_only=True, slots=True)
class _NewVote:
    """A vote on its way to a comparison; `row` is the place of its row in the call."""

    row: int
    comparison: int
    vote: VoteRow


@dataclass(kw_only=True, slots=True)
class _Slots:
    """The slots of a comparison: those to be inserted, those open, and the number of the last one."""

    comparison: Comparison
    fresh: list[Slot] = field(default_factory=list)
    free: list[Slot] = field(default_factory=list)
    last: int = 0

    def add(self) -> Slot:
        """One more slot, which is not free."""
        self.last += 1
        slot = Slot(
            project_id=self.comparison.project_id, comparison=self.comparison, number=self.last,
            audience=self.comparison.audience, priority=2 * self.comparison.priority, rank=self.comparison.rank,
        )  # fmt: skip
        self.fresh.append(slot)
        return slot


class Loader:
    """Loads the rows of one import. `load` belongs into a transaction; `check` writes nothing."""

    def __init__(self, *, project: Project, batch: ImportBatch, now: datetime) -> None:
        self.project, self.batch, self.now = project, batch, now
        self._sources: dict[tuple[str, str], int] = {}
        self._people: dict[str, int] = {}
        self._guidelines = dict(GuidelineVersion.objects.filter(project=project).values_list("number", "pk"))

    def check(self, rows: Sequence[Row]) -> list[RowError]:
        """Rows that name something which is not there, and votes that do not fit what they are about."""
        return self._resolve(rows)[2]

    def load(self, rows: Sequence[Row], *, first: int) -> Loaded:
        """Write what is new in these rows; to be called inside a transaction.

        Args:
            first: the number of the first row in the file, so that indexes are those of another try.
        """
        good, known, errors = self._resolve(rows)
        lines = {row.line: i for i, row in enumerate(rows)}
        call = _Call(self, [(first + lines[row.line], row) for row in good], known)
        call.run()
        return Loaded(imported=len(call.new), errors=errors + call.errors)

    # --- what rows name by id -----------------------------------------------------------------------------------------

    def _resolve(self, rows: Sequence[Row]) -> tuple[list[Row], _Known, list[RowError]]:
        known = _Known()
        for key, (pk, own) in self._by_id(
            Prompt.objects, [row.prompt for row in rows if isinstance(row.prompt, str)], "pk", "content_hash"
        ):
            known.prompts[key] = (pk, own)
        ids = [x for row in rows for item in row.comparisons for x in item.completions if isinstance(x, str)]
        for key, (pk, prompt, own) in self._by_id(
            Completion.objects, ids, "pk", "prompt__content_hash", "content_hash"
        ):
            known.completions[key] = (pk, prompt, own)
        found = {
            key: pk
            for key, (pk,) in self._by_id(Comparison.objects, [r.comparison for r in rows if r.comparison], "pk")
        }
        sizes = _sizes(found.values())
        known.comparisons = {key: (pk, sizes.get(pk, 0)) for key, pk in found.items()}
        good: list[Row] = []
        errors: list[RowError] = []
        for row in rows:
            try:
                _place(row, known)
            except BadRow as error:
                errors.append(error.at(row.line))
            else:
                good.append(row)
        return good, known, errors

    def _by_id(self, objects: Any, wanted: Iterable[str], *fields: str) -> Iterable[tuple[str, tuple[Any, ...]]]:
        """Rows of the project by the id that a file gives them: its own from an import, else ours."""
        missing = set(wanted)
        if not missing:
            return
        rows = objects.filter(project=self.project)
        for *values, key in (
            rows.filter(external_id__in=set(missing)).order_by("-pk").values_list(*fields, "external_id")
        ):
            missing.discard(key)
            yield key, tuple(values)
        ours = {uuid: key for key in missing if (uuid := _uuid(key)) is not None}
        if ours:
            for *values, uuid in rows.filter(public_id__in=ours).values_list(*fields, "public_id"):
                yield ours[uuid], tuple(values)

    # --- caches -------------------------------------------------------------------------------------------------------

    def source(self, item: CompletionRow) -> int:
        key = (item.source_kind.value, item.source)
        if key not in self._sources:
            if len(self._sources) > _MOST_CACHED:
                self._sources.clear()
            kind, name = key
            self._sources[key] = Source.objects.get_or_create(project=self.project, kind=kind, name=name)[0].pk
        return self._sources[key]

    def people(self, names: set[str]) -> dict[str, int]:
        """The user of each annotator of the file."""
        missing = names - set(self._people)
        if missing:
            if len(self._people) > _MOST_CACHED:
                self._people.clear()
                missing = names
            users = imported_annotators(project=self.project, names=missing, now=self.now)
            self._people |= {name: user.pk for name, user in users.items()}
        return self._people

    def guideline(self, number: int | None) -> int | None:
        if number == NEWEST:
            number = max(self._guidelines, default=None)
        return None if number is None else self._guidelines.get(number)


class _Call:
    """One call of `Loader.load`: prompts, then comparisons with their completions, then votes."""

    def __init__(self, loader: Loader, rows: Sequence[tuple[int, Row]], known: _Known) -> None:
        self.loader, self.known = loader, known
        self.project, self.batch, self.now = loader.project, loader.batch, loader.now
        self.rows = [row for _, row in rows]
        self.numbers = [number for number, _ in rows]
        self.new: set[int] = set()  # places of rows that brought something
        self.errors: list[RowError] = []
        self.prompts: list[tuple[int, str]] = []  # key and content hash of each row's prompt
        self.comparisons: dict[str, int] = {}  # pair hash → key
        self.slots: dict[int, _Slots] = {}

    def run(self) -> None:
        self._load_prompts()
        hashes = [
            [_pair_hash(row, item, self.prompts[i][1], self.known) for item in row.comparisons]
            for i, row in enumerate(self.rows)
        ]
        self._find_comparisons(hashes)
        self._load_comparisons(hashes, self._load_completions(hashes))
        votes = [
            _NewVote(row=i, comparison=self.comparisons[key], vote=vote)
            for i, row in enumerate(self.rows)
            for key, item in zip(hashes[i], row.comparisons, strict=True)
            for vote in item.votes
        ]
        for i, row in enumerate(self.rows):
            if row.comparison:
                pk, size = self.known.comparisons[row.comparison]
                votes += [_NewVote(row=i, comparison=pk, vote=fit_vote(vote, size=size)) for vote in row.votes]
        self._load_votes(votes)
        slots = (slot for each in self.slots.values() for slot in each.fresh)
        insert(Slot, _SLOT, map(_slot_values, slots))

    # --- prompts and completions --------------------------------------------------------------------------------------

    def _load_prompts(self) -> None:
        hashes = [row.prompt.content_hash() if isinstance(row.prompt, PromptRow) else "" for row in self.rows]
        unique: dict[str, int] = {}
        for i, own in enumerate(hashes):
            if own:
                unique.setdefault(own, i)
        there = Prompt.objects.filter(project=self.project, content_hash__in=unique)
        found = dict(there.values_list("content_hash", "pk"))
        missing = [
            (own, i, prompt)
            for own, i in unique.items()
            if own not in found and isinstance(prompt := self.rows[i].prompt, PromptRow)
        ]
        taken = self._taken(Prompt.objects, [prompt.external_id for _, _, prompt in missing])
        insert(Prompt, _PROMPT, (self._prompt(own, prompt, taken) for own, _, prompt in missing))
        if missing and any(row.comparisons or row.completions for row in self.rows):
            found |= dict(there.values_list("content_hash", "pk"))
        self.new |= {i for _, i, _ in missing if not self.rows[i].comparisons and not self.rows[i].completions}
        self.prompts = [
            self.known.prompts[row.prompt] if isinstance(row.prompt, str) else (found.get(own, 0), own)
            for row, own in zip(self.rows, hashes, strict=True)
        ]
        self._leave_erased_alone()

    def _leave_erased_alone(self) -> None:
        """Nothing more comes to a prompt whose texts were erased: its rows count as known."""
        wanted = {pk for pk, _ in self.prompts if pk}
        erased = set(Erasure.objects.filter(prompt__in=wanted).values_list("prompt_id", flat=True))
        if erased:
            self.rows = [
                replace(row, completions=(), comparisons=(), votes=()) if pk in erased else row
                for row, (pk, _) in zip(self.rows, self.prompts, strict=True)
            ]

    def _prompt(self, own: str, prompt: PromptRow, taken: set[str]) -> tuple[Any, ...]:
        return (
            uuid4(), self.project.pk, prompt.messages, own, prompt.category, prompt.language,
            _own_id(prompt.external_id, taken), prompt.meta, None, self.batch.pk, self.now,
        )  # fmt: skip

    def _taken(self, objects: Any, ids: Iterable[str]) -> set[str]:
        """Ids that something else of the project has. An id names one thing, so these are not taken over."""
        wanted = {key for key in ids if key}
        if not wanted:
            return set()
        rows = objects.filter(project=self.project, external_id__in=wanted)
        return set(rows.values_list("external_id", flat=True))

    def _load_completions(self, hashes: Sequence[Sequence[str]]) -> list[list[int]]:
        """The key of each row's completions, made where they are not there.

        A row whose comparisons are all known needs none. A comparison never gets one completion twice, though two of
        its texts be equal.
        """
        wanted = [
            () if row.comparisons and all(key in self.comparisons for key in hashes[i]) else row.completions
            for i, row in enumerate(self.rows)
        ]
        known = self._known_completions(wanted)
        taken = self._taken(Completion.objects, [item.external_id for items in wanted for item in items])
        made: list[Completion] = []
        scores: list[CompletionScore] = []
        places: list[list[Completion | int]] = []
        for i, items in enumerate(wanted):
            own: list[Completion | int] = []
            for k, item in enumerate(items):
                key = (self.prompts[i][0], self.loader.source(item), content_hash(item.text))
                place = _same(item.external_id, known[key], is_taken=item.external_id in taken)
                if place is None or (self.rows[i].comparisons and place in own):
                    index = self.numbers[i] * MOST_COMPLETIONS_A_ROW + k
                    place = self._completion(item, key, _own_id(item.external_id, taken), index)
                    scores += [
                        CompletionScore(completion=place, scorer=scorer, value=value)
                        for scorer, value in item.scores.items()
                    ]
                    known[key].append((place.external_id, "", place))
                    made.append(place)
                    if not self.rows[i].comparisons:
                        self.new.add(i)
                own.append(place)
            places.append(own)
        Completion.objects.bulk_create(made)
        CompletionScore.objects.bulk_create(scores)
        return [[place if isinstance(place, int) else place.pk for place in own] for own in places]

    def _known_completions(
        self, wanted: Sequence[Sequence[CompletionRow]]
    ) -> dict[tuple[int, int, str], list[tuple[str, str, Completion | int]]]:
        """By prompt, source and content hash: the ids and the key of each twin."""
        known: dict[tuple[int, int, str], list[tuple[str, str, Completion | int]]] = defaultdict(list)
        texts = {content_hash(item.text) for items in wanted for item in items}
        if not texts:
            return known
        prompts = {self.prompts[i][0] for i, items in enumerate(wanted) if items}
        there = Completion.objects.filter(prompt_id__in=prompts, content_hash__in=texts).order_by("pk")
        for prompt, source, own, external, public, pk in there.values_list(
            "prompt_id", "source_id", "content_hash", "external_id", "public_id", "pk"
        ):
            known[prompt, source, own].append((external, str(public), pk))
        return known

    def _completion(self, item: CompletionRow, key: tuple[int, int, str], own_id: str, index: int) -> Completion:
        prompt, source, own = key
        return Completion(
            project=self.project, prompt_id=prompt, source_id=source, text=item.text, content_hash=own,
            finish=item.finish, sampling=item.sampling, tokens=item.tokens, logprob=item.logprob,
            origin=self.batch.public_id, index=index, external_id=own_id, created_at=self.now,
        )  # fmt: skip

    # --- comparisons --------------------------------------------------------------------------------------------------

    def _find_comparisons(self, hashes: Sequence[Sequence[str]]) -> None:
        """Those that are there: the same meeting, or our own under the id that our export gave it."""
        wanted = {key for each in hashes for key in each}
        if not wanted:
            return
        rows = Comparison.objects.filter(project=self.project)
        self.comparisons = dict(rows.filter(pair_hash__in=wanted).values_list("pair_hash", "pk"))
        ours: dict[UUID, str] = {}
        for i, row in enumerate(self.rows):
            for key, item in zip(hashes[i], row.comparisons, strict=True):
                uuid = _uuid(item.external_id)
                if uuid is not None and key not in self.comparisons:
                    ours[uuid] = key
        if ours:
            for uuid, pk in rows.filter(public_id__in=ours).values_list("public_id", "pk"):
                self.comparisons[ours[uuid]] = pk

    def _load_comparisons(self, hashes: Sequence[Sequence[str]], completions: Sequence[Sequence[int]]) -> None:
        made: dict[str, tuple[Comparison, list[int]]] = {}
        for i, row in enumerate(self.rows):
            for key, item in zip(hashes[i], row.comparisons, strict=True):
                if key in self.comparisons or key in made:
                    continue
                places = [
                    completions[i][x] if isinstance(x, int) else self.known.completions[x][0] for x in item.completions
                ]
                made[key] = (self._comparison(item, key, self.prompts[i][0]), places)
                self.new.add(i)
        audiences = sorted({row.audience for row, _ in made.values() if row.audience})
        Audience.objects.bulk_create(
            (Audience(project=self.project, key=key) for key in audiences), ignore_conflicts=True
        )
        Comparison.objects.bulk_create(row for row, _ in made.values())
        seats = ((row.pk, pk, position) for row, pks in made.values() for position, pk in enumerate(pks))
        insert(ComparisonCompletion, _PLACE, seats)
        insert(Consensus, *self._open_consensus([row.pk for row, _ in made.values()]))
        for key, (comparison, _) in made.items():
            self.comparisons[key] = comparison.pk
            slots = self.slots[comparison.pk] = _Slots(comparison=comparison)
            slots.free = [slots.add() for _ in range(comparison.overlap)]

    def _open_consensus(self, comparisons: Sequence[int]) -> tuple[list[str], Iterable[list[Any]]]:
        """Fields and values of a consensus for each comparison, all as the model's defaults have it."""
        fields = [field for field in Consensus._meta.concrete_fields if not field.primary_key]
        names = [field.name for field in fields]
        empty = Consensus(project=self.project)
        values = [getattr(empty, field.attname) for field in fields]
        place = names.index("comparison")
        return names, ([*values[:place], pk, *values[place + 1 :]] for pk in comparisons)

    def _comparison(self, item: ComparisonRow, key: str, prompt: int) -> Comparison:
        wanted = sum(
            vote.counted is not False and vote.retracted is None and vote.purpose == Purpose.WANTED
            for vote in item.votes
        )
        overlap, full = (wanted, False) if wanted else first_overlap(self.project, key)
        if item.overlap is not None:
            overlap, full = item.overlap, item.full_overlap
        return Comparison(
            project=self.project, prompt_id=prompt, origin=self.batch.public_id, pair_hash=key, overlap=overlap,
            full_overlap=full, arm=item.arm, audience=item.audience, priority=item.priority, rank=int(key[:8], 16) >> 1,
            external_id=item.external_id, created_at=self.now,
        )  # fmt: skip

    # --- votes --------------------------------------------------------------------------------------------------------

    def _load_votes(self, given: Sequence[_NewVote]) -> None:
        """Votes that are new, in the order of the file. A vote that replaces another comes after what it replaces."""
        votes = self._without_known(given)
        if not votes:
            return
        people = self.loader.people({item.vote.annotator for item in votes})
        there = [item.comparison for item in votes if item.comparison not in self.slots]
        voted = set(
            Vote.objects.filter(comparison_id__in=there).values_list("comparison_id", "annotator_id", "repetition")
        )
        self._lock_slots(there)
        pending: list[tuple[_NewVote, Vote]] = []
        for item in votes:
            key = (item.comparison, people[item.vote.annotator], item.vote.repetition)
            retraction = None
            if item.vote.replaces:
                self._write_votes(pending)
                pending = []
                retraction = self._retraction(item.vote, *key)
                if retraction is None:
                    rule = "replaces must be the id of a vote of this person that was taken back and not replaced yet"
                    self.errors.append(BadRow("replaces", item.vote.replaces, rule).at(self.rows[item.row].line))
                    continue
            elif key in voted:
                continue
            voted.add(key)
            self.new.add(item.row)
            pending.append((item, self._vote(item, key[1], retraction)))
        self._write_votes(pending)
        if self.project.finish_started:
            self._start({item.comparison for item in votes})
        Consensus.objects.filter(comparison_id__in={item.comparison for item in votes}).update(due_at=self.now)

    def _without_known(self, given: Sequence[_NewVote]) -> list[_NewVote]:
        ids = {item.vote.external_id for item in given if item.vote.external_id}
        known = {key for key, _ in self.loader._by_id(Vote.objects, ids, "pk")}
        fresh = []
        for item in given:
            key = item.vote.external_id
            if key and key in known:
                continue
            known.add(key)
            fresh.append(item)
        return fresh

    def _lock_slots(self, comparisons: Sequence[int]) -> None:
        if not comparisons:
            return
        lock(comparisons)
        for row in Comparison.objects.filter(pk__in=set(comparisons)):
            self.slots[row.pk] = _Slots(comparison=row)
        slots = Slot.objects.select_for_update(no_key=True).filter(comparison_id__in=self.slots).order_by("pk")
        for slot in slots:
            own = self.slots[slot.comparison_id]
            own.last = max(own.last, slot.number)
            if slot.state == SlotState.OPEN:
                own.free.append(slot)

    def _vote(self, item: _NewVote, annotator: int, retraction: int | None) -> Vote:
        vote = item.vote
        return Vote(
            project=self.project, comparison_id=item.comparison, annotator_id=annotator, repetition=vote.repetition,
            purpose=vote.purpose, key=uuid4(), choice=vote.choice, body=vote.body,
            body_hash=content_hash(vote.choice, json.dumps(vote.body, sort_keys=True)), active_ms=vote.active_ms,
            guideline_id=self.loader.guideline(vote.guideline), replaces_id=retraction, external_id=vote.external_id,
            created_at=vote.created_at or self.now,
        )  # fmt: skip

    def _write_votes(self, pending: Sequence[tuple[_NewVote, Vote]]) -> None:
        Vote.objects.bulk_create(row for _, row in pending)
        Retraction.objects.bulk_create(
            Retraction(
                project=self.project, vote=row, by_id=row.annotator_id, reason=back.reason,
                created_at=back.at or row.created_at,
            )
            for item, row in pending
            if (back := item.vote.retracted) is not None
        )  # fmt: skip
        done = []
        for item, row in pending:
            vote = item.vote
            if vote.counted is False or vote.retracted is not None or vote.purpose != Purpose.WANTED:
                continue
            slots = self.slots[item.comparison]
            if slots.comparison.frozen_at is not None:
                continue
            if not slots.free and not vote.counted:
                continue  # surplus
            slot = slots.free.pop(0) if slots.free else slots.add()
            slot.state, slot.vote = SlotState.DONE, row
            if slot.pk is not None:
                done.append((row.pk, slot.pk))
        if done:
            with connection.cursor() as cursor:
                cursor.executemany(_DONE, done)

    def _start(self, comparisons: Iterable[int]) -> None:
        """Comparisons with votes go first in this project."""
        for pk in comparisons:
            slots = self.slots[pk]
            priority = 2 * slots.comparison.priority + 1
            for slot in slots.fresh:
                slot.priority = priority
            Slot.objects.filter(comparison_id=pk).update(priority=priority)

    def _retraction(self, vote: VoteRow, comparison: int, annotator: int, repetition: int) -> int | None:
        for _, (pk,) in self.loader._by_id(Vote.objects, [vote.replaces], "pk"):
            rows = Retraction.objects.filter(
                vote_id=pk, vote__comparison_id=comparison, vote__annotator_id=annotator, vote__repetition=repetition,
                replacements__isnull=True,
            )  # fmt: skip
            return rows.values_list("pk", flat=True).first()
        return None


def _slot_values(slot: Slot) -> tuple[Any, ...]:
    return (
        slot.project_id, slot.comparison_id, slot.number, slot.state, None, slot.vote_id, None, slot.audience,
        slot.priority, slot.rank,
    )  # fmt: skip


def _place(row: Row, known: _Known) -> None:
    """Refuse a row that names what is not there, or something of another prompt."""
    if isinstance(row.prompt, str) and row.prompt not in known.prompts:
        raise BadRow("prompt_id", row.prompt, f"prompt_id: this project has no prompt {row.prompt!r}")
    if row.comparison:
        if row.comparison not in known.comparisons:
            rule = f"comparison_id: this project has no comparison {row.comparison!r}"
            raise BadRow("comparison_id", row.comparison, rule)
        for vote in row.votes:
            fit_vote(vote, size=known.comparisons[row.comparison][1])
    named = [x for item in row.comparisons for x in item.completions if isinstance(x, str)]
    if not named or row.prompt is None:
        return
    own = known.prompts[row.prompt][1] if isinstance(row.prompt, str) else row.prompt.content_hash()
    for x in named:
        if x not in known.completions:
            raise BadRow("completion_ids", x, f"completion_ids: this project has no completion {x!r}")
        if known.completions[x][1] != own:
            raise BadRow("completion_ids", x, f"completion_ids: the completion {x!r} is of another prompt")


def _pair_hash(row: Row, item: ComparisonRow, prompt: str, known: _Known) -> str:
    """As `meetings.meeting_hash` makes it, without rows."""
    texts = [
        content_hash(row.completions[x].text) if isinstance(x, int) else known.completions[x][2]
        for x in item.completions
    ]
    return content_hash(prompt, *sorted(texts), item.external_id)


def _same(
    own_id: str, twins: Sequence[tuple[str, str, Completion | int]], *, is_taken: bool
) -> Completion | int | None:
    """Of completions with the same content the one with this id. Without an id, or with one that something else has,
    the first that has none itself, or any."""
    for external, public, place in twins:
        if own_id and own_id in {external, public}:
            return place
    if own_id and not is_taken:
        return None
    return next((place for external, _, place in twins if not own_id or not external), None)


def _own_id(given: str, taken: set[str]) -> str:
    if given in taken:
        return ""
    taken.add(given)
    return given


def _sizes(comparisons: Iterable[int]) -> Mapping[int, int]:
    places = ComparisonCompletion.objects.filter(comparison_id__in=list(comparisons)).values_list("comparison_id")
    return dict(places.annotate(n=Count("pk")).order_by())


def _uuid(key: str) -> UUID | None:
    try:
        return UUID(key) if len(key) == 36 else None
    except ValueError:
        return None
