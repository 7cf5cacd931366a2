"""Comparisons of a project: what its completions make of a plan, how many votes each wants, who judges it, and when.

Making them is conditional on the hash of a meeting, so it may be repeated. `annotation.meetings` chooses who meets.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from django.db import IntegrityError, connection, transaction
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet

from annotation import asking
from annotation.audience import PERSON
from annotation.errors import Invalid
from annotation.gate import write
from annotation.meetings import Candidate, Meeting, Met, Rule, Strategy, candidates, choose
from annotation.meetings import Pair as Pair  # noqa: PLC0414  (for callers of create_comparisons)
from annotation.models import (
    Audience,
    AuditAction,
    Comparison,
    ComparisonCompletion,
    Completion,
    CompletionScore,
    Consensus,
    OverlapRule,
    Project,
    Prompt,
    Slot,
    SlotState,
    User,
)
from annotation.overlap import EXPERT, first_overlap, is_expert_slot
from annotation.people import audit
from annotation.spoiling import OWN_SOURCES

BATCH = 500
MOST_A_CALL = 20_000
MOST_CANDIDATES = 200_000  # pairs that a strategy which spans prompts weighs, all in memory
_TAG = re.compile(r"[\w.+-]{1,40}")
_MOST_KEY = 120  # characters; the column's
_PROMPTS_A_BATCH = 200
_TRIES = 5


class MissingScores(Invalid):
    """The scorer has not scored every completion that would take part."""

    code = "missing_scores"


def sources_met(project: Project) -> Met:
    """How often each two sources meet in the comparisons that the project has; one query."""
    met = Met()
    pairs = (
        ComparisonCompletion.objects.filter(comparison__project=project)
        .annotate(other=F("comparison__places__completion__source_id"))
        .filter(completion__source_id__lt=F("other"))
    )
    rows = pairs.values_list("completion__source_id", "other").annotate(n=Count("comparison_id", distinct=True))
    for one, other, n in rows:
        met.times[frozenset((one, other))] = n
    return met


# --- for a whole project ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is to meet in a project: a rule, whose completions, and of which prompts.

    Attributes:
        sources: keys; only completions of these take part (and of `against`). None: all.
        against: keys; each meeting has a completion of one of these and one of another source.
        scorers: of the scores: one for `closest_score`, two or more for `disagreement`.
        prompts: the project's, or fewer.
    """

    project: Project
    rule: Rule
    prompts: QuerySet[Prompt]
    sources: frozenset[int] | None = None
    against: frozenset[int] = frozenset()
    scorers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """What a plan comes to. `existing` meetings are comparisons already; `alone` prompts have nothing to meet."""

    meetings: list[Meeting]
    existing: int
    prompts: int
    alone: int


def choose_for(plan: Plan) -> Chosen:
    """The meetings of a plan that are no comparisons yet; writes nothing.

    Raises:
        MissingScores: a scorer has not scored all that would take part. Invalid: too many for one call, or a strategy
            of pairs where more meet.
    """
    for scorer in plan.scorers:
        _require_scores(plan, scorer)
    if plan.rule.strategy.spans_prompts:
        return _choose_across(plan)
    met = sources_met(plan.project) if plan.rule.strategy is Strategy.BALANCED else None
    meetings: list[Meeting] = []
    existing = prompts = alone = 0
    for batch, by_prompt in _prompts(plan):
        scores = _scores(plan.scorers[0], batch) if plan.scorers else {}
        compared = set() if met is None else _compared(batch)
        found: list[Meeting] = []
        for prompt in batch:
            own = by_prompt[prompt.pk]
            opponents = {item.pk for item in own if item.source_id in plan.against}
            if plan.against and not opponents:
                alone += 1
                continue
            chosen = choose(prompt, own, plan.rule, against=opponents, scores=scores, met=met, known=compared)
            alone += not chosen
            found += chosen
        known = _known(plan.project, [item.hash for item in found])
        prompts += len(batch)
        existing += sum(item.hash in known for item in found)
        meetings += [item for item in found if item.hash not in known]
        _check_amount(meetings)
    return Chosen(meetings=meetings, existing=existing, prompts=prompts, alone=alone)


def _choose_across(plan: Plan) -> Chosen:
    """The meetings that tell most among those of all prompts, beside a random control."""
    asking.check_rule(plan.rule, size=plan.project.feedback.size)
    found: list[Candidate] = []
    scores: dict[str, dict[int, float]] = {scorer: {} for scorer in plan.scorers}
    prompts = alone = 0
    for batch, by_prompt in _prompts(plan):
        for scorer in plan.scorers:
            scores[scorer] |= _scores(scorer, batch)
        fresh: list[Candidate] = []
        for prompt in batch:
            own = by_prompt[prompt.pk]
            opponents = {item.pk for item in own if item.source_id in plan.against}
            pairs = [] if plan.against and not opponents else candidates(prompt, own, plan.rule, against=opponents)
            alone += not pairs
            fresh += pairs
        known = _known(plan.project, [item.hash for item in fresh])
        found += [item for item in fresh if item.hash not in known]
        prompts += len(batch)
        if len(found) > MOST_CANDIDATES:
            raise Invalid(
                f"prompts: more than {MOST_CANDIDATES} pairs to choose from; ask for fewer prompts or fewer sources",
                details={"prompts": [f"more than {MOST_CANDIDATES} pairs"]},
            )
    meetings = asking.choose_across(plan.project, found, plan.rule, scores=scores)
    _check_amount(meetings)
    return Chosen(meetings=meetings, existing=0, prompts=prompts, alone=alone)


def _check_amount(meetings: Sequence[Meeting]) -> None:
    if len(meetings) > MOST_A_CALL:
        raise Invalid(
            f"per_prompt: this makes more than {MOST_A_CALL} comparisons in one call; ask for fewer of a prompt, "
            "or for fewer prompts",
            details={"per_prompt": [f"makes more than {MOST_A_CALL}"]},
        )


def _prompts(plan: Plan) -> Iterator[tuple[list[Prompt], dict[int, list[Completion]]]]:
    """Prompts with their completions, in an order that is the same in another database."""
    rows = plan.prompts.filter(project=plan.project, erasure=None).order_by("content_hash")
    last = ""
    while batch := list(rows.filter(content_hash__gt=last)[:_PROMPTS_A_BATCH]):
        by_prompt: dict[int, list[Completion]] = defaultdict(list)
        for completion in _completions(plan).filter(prompt__in=batch):
            by_prompt[completion.prompt_id].append(completion)
        yield batch, by_prompt
        last = batch[-1].content_hash


def _completions(plan: Plan) -> QuerySet[Completion]:
    """What takes part; texts that were written or spoilt for gold are no answers to be compared."""
    rows = Completion.objects.filter(project=plan.project).exclude(source__name__in=OWN_SOURCES)
    rows = rows.select_related("source")
    return rows if plan.sources is None else rows.filter(source_id__in=plan.sources | plan.against)


def _scores(scorer: str, batch: Sequence[Prompt]) -> dict[int, float]:
    rows = CompletionScore.objects.filter(scorer=scorer, completion__prompt__in=batch)
    return dict(rows.values_list("completion_id", "value"))


def _require_scores(plan: Plan, scorer: str) -> None:
    taking_part = _completions(plan).filter(prompt__in=plan.prompts)
    scored = CompletionScore.objects.filter(completion=OuterRef("pk"), scorer=scorer)
    total, missing = taking_part.count(), taking_part.filter(~Exists(scored)).count()
    if missing:
        raise MissingScores(
            f"scorer: {missing} of {total} completions have no score by {scorer!r}; score them first, or choose "
            "other prompts or sources",
            details={"scorer": [f"{missing} of {total} completions have no score"]},
        )


def _compared(prompts: Sequence[Prompt]) -> set[str]:
    return set(Comparison.objects.filter(prompt__in=prompts).values_list("pair_hash", flat=True))


def _known(project: Project, hashes: Sequence[str]) -> set[str]:
    known: set[str] = set()
    for start in range(0, len(hashes), BATCH):
        rows = Comparison.objects.filter(project=project, pair_hash__in=hashes[start : start + BATCH])
        known.update(rows.values_list("pair_hash", flat=True))
    return known


def pair_up(
    plan: Plan,
    *,
    overlap: int | None = None,
    priority: int = 0,
    language: str | None = None,
    skills: Iterable[str] = (),
    by: User,
    now: datetime,
) -> tuple[UUID, Chosen]:
    """Make the comparisons of a plan. A second call makes what is still missing: nothing, or for `balanced` more.

    Returns:
        Their origin, by which they are found, and what was chosen.

    Raises:
        As `choose_for`; nothing was made then.
    """
    tags = tuple(skills)
    audience_key(language=language or "", skills=tags)
    chosen, origin = choose_for(plan), uuid4()
    # First, since comparisons come in several transactions: what was begun is on record.
    audit(
        project=plan.project, by=by, action=AuditAction.COMPARISONS_MADE, target=str(origin), now=now,
        strategy=plan.rule.strategy.value, comparisons=len(chosen.meetings),
    )  # fmt: skip
    create_comparisons(
        project=plan.project, pairs=chosen.meetings, origin=origin, overlap=overlap, priority=priority,
        language=language, skills=tags, now=now,
    )  # fmt: skip
    return origin, chosen


# --- comparisons ------------------------------------------------------------------------------------------------------


def audience_key(*, language: str = "", skills: Iterable[str] = ()) -> str:
    """The audience of a language and skills: sorted tags; empty for everybody.

    Raises:
        Invalid: a tag has other characters than letters, digits and . + - _.
    """
    tags = [f"lang:{language}"] if language else []
    for name, value in [*([("language", language)] if language else []), *(("skills", skill) for skill in skills)]:
        if not _TAG.fullmatch(value):
            raise Invalid(
                f"{name}: a tag has 1 to 40 letters, digits or . + - _, got {value!r}", details={name: ["not a tag"]}
            )
        tags += [f"skill:{value}"] if name == "skills" else []
    key = " ".join(sorted(set(tags)))
    if len(key) > _MOST_KEY:
        raise Invalid(f"skills: too many for one comparison: {key!r}", details={"skills": ["too many"]})
    return key


def create_comparisons(
    *,
    project: Project,
    pairs: Iterable[Meeting],
    origin: UUID,
    overlap: int | None = None,
    priority: int = 0,
    language: str | None = None,
    skills: Iterable[str] = (),
    audience: str | None = None,
    now: datetime,
) -> list[Comparison]:
    """Comparisons with their slots and an open consensus; a meeting that the project has is left alone: repeatable.

    The place in the queue (`rank`) comes from the meeting's hash: random, and the same when it is built again.

    Args:
        overlap: votes wanted; None: as the project says, which may be adaptive. 0: no slots (gold).
        language: who may judge; None: the language of each prompt.
        audience: the key itself, instead of language and skills.
    """
    unique = {pair.hash: pair for pair in pairs}
    tags = tuple(skills)
    keys = {
        name: audience_key(language=name, skills=tags)
        for name in ({pair.prompt.language for pair in unique.values()} if language is None else {language})
    }
    terms = _Terms(
        project=project, origin=origin, overlap=overlap, priority=priority, language=language, keys=keys,
        audience=audience, now=now,
    )  # fmt: skip
    made: list[Comparison] = []
    hashes = list(unique)
    for start in range(0, len(hashes), BATCH):
        made += _create_batch({key: unique[key] for key in hashes[start : start + BATCH]}, terms)
    return made


def _create_batch(meetings: dict[str, Meeting], terms: _Terms) -> list[Comparison]:
    for attempt in range(_TRIES):
        try:
            with write(), transaction.atomic():
                return _create(meetings, terms)
        except IntegrityError:  # somebody makes one of them in this moment: at the next try it is there
            if attempt == _TRIES - 1:
                raise
    raise AssertionError("unreachable: the last try raises or returns")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Terms:
    """What the comparisons of one call share."""

    project: Project
    origin: UUID
    overlap: int | None
    priority: int
    language: str | None
    keys: Mapping[str, str]
    audience: str | None
    now: datetime

    def audience_of(self, prompt: Prompt) -> str:
        if self.audience is not None:
            return self.audience
        return self.keys[prompt.language if self.language is None else self.language]

    def votes(self, key: str) -> tuple[int, bool]:
        """Slots at first, and whether the comparison is in the share that gets all votes."""
        if self.overlap is not None:
            return self.overlap, False
        return first_overlap(self.project, key)


def _create(meetings: dict[str, Meeting], terms: _Terms) -> list[Comparison]:
    project = terms.project
    known = set(Comparison.objects.filter(project=project, pair_hash__in=meetings).values_list("pair_hash", flat=True))
    rows = []
    for key, item in meetings.items():
        if key in known:
            continue
        overlap, full_overlap = terms.votes(key)
        rows.append(
            Comparison(
                project=project,
                prompt=item.prompt,
                origin=terms.origin,
                pair_hash=key,
                overlap=overlap,
                full_overlap=full_overlap,
                arm=item.arm,
                audience=terms.audience_of(item.prompt),
                priority=terms.priority,
                rank=int(key[:8], 16) >> 1,
                external_id=item.external_id,
                created_at=terms.now,
            )
        )
    keys = {row.audience for row in rows if row.audience}
    Audience.objects.bulk_create((Audience(project=project, key=key) for key in sorted(keys)), ignore_conflicts=True)
    comparisons = Comparison.objects.bulk_create(rows)
    ComparisonCompletion.objects.bulk_create(
        ComparisonCompletion(comparison=comparison, completion=completion, position=position)
        for comparison in comparisons
        for position, completion in enumerate(meetings[comparison.pair_hash].completions)
    )
    Slot.objects.bulk_create(
        _slot(comparison, number) for comparison in comparisons for number in range(1, comparison.overlap + 1)
    )
    Consensus.objects.bulk_create(Consensus(project=project, comparison=comparison) for comparison in comparisons)
    return comparisons


def _slot(comparison: Comparison, number: int, *, started: bool = False) -> Slot:
    return Slot(
        project_id=comparison.project_id,
        comparison=comparison,
        number=number,
        audience=comparison.audience,
        priority=2 * comparison.priority + started,
        rank=comparison.rank,
    )


def change_overlap(*, project: Project, overlap: int, now: datetime) -> int:
    """Give every unfrozen comparison of a project this many wanted votes; how many comparisons changed.

    Lowering removes open slots only: votes and running leases stay, so a comparison may keep more than `overlap`; slots
    that a dispute added for experts stay and come on top. An adaptive project keeps the number for later and changes no
    comparison; gold and a person's chat keep theirs.
    """
    changed = 0
    with write(), transaction.atomic():
        Project.objects.filter(pk=project.pk).update(overlap=overlap)
        if project.overlap_rule == OverlapRule.ADAPTIVE:
            return 0
        experts = Slot.objects.filter(comparison=OuterRef("pk"), audience__contains=EXPERT)
        comparisons = list(
            Comparison.objects.select_for_update(no_key=True, of=("self",))
            .filter(~Q(overlap=overlap) | Exists(experts), project=project, frozen_at__isnull=True, gold__isnull=True)
            .exclude(audience__startswith=PERSON)
            .order_by("pk")
        )
        for start in range(0, len(comparisons), BATCH):
            changed += _resize(project, comparisons[start : start + BATCH], overlap, now)
    return changed


def _resize(project: Project, comparisons: Sequence[Comparison], overlap: int, now: datetime) -> int:
    slots_of: dict[int, list[Slot]] = defaultdict(list)
    for slot in Slot.objects.filter(comparison__in=comparisons).order_by("number"):
        slots_of[slot.comparison_id].append(slot)
    surplus: list[int] = []
    missing: list[Slot] = []
    resized: dict[int, list[int]] = defaultdict(list)
    for comparison in comparisons:
        slots = slots_of[comparison.pk]
        plain = [
            slot
            for slot in slots
            if not is_expert_slot(audience=slot.audience, comparison_audience=comparison.audience)
        ]
        # Open slots with small numbers may remain beside votes with large ones: enough votes are enough.
        free = [slot.pk for slot in plain if slot.state == SlotState.OPEN]
        taken = len(plain) - len(free)
        have = {slot.number for slot in slots}
        fresh = itertools.islice((n for n in itertools.count(1) if n not in have), max(0, overlap - len(plain)))
        surplus += free[max(0, overlap - taken) :]
        missing += [_slot(comparison, n, started=project.finish_started and taken > 0) for n in fresh]
        total = overlap + len(slots) - len(plain)
        if total != comparison.overlap:
            resized[total].append(comparison.pk)
    Slot.objects.filter(pk__in=surplus, state=SlotState.OPEN).delete()
    Slot.objects.bulk_create(missing)
    for total, keys in resized.items():
        Comparison.objects.filter(pk__in=keys).update(overlap=total)
        Consensus.objects.filter(comparison_id__in=keys).update(due_at=now)
    return sum(len(keys) for keys in resized.values())


def set_priority(*, project: Project, comparisons: QuerySet[Comparison], priority: int, by: User, now: datetime) -> int:
    """Give comparisons of the project a priority; how many have changed. The same again changes nothing.

    A slot that somebody votes on in this moment keeps its old one: it is leaving the queue.
    """
    audit(project=project, by=by, action=AuditAction.COMPARISONS_PRIORITISED, target=str(priority), now=now)
    keys = list(comparisons.filter(project=project).exclude(priority=priority).values_list("pk", flat=True))
    changed = 0
    for start in range(0, len(keys), BATCH):
        batch = keys[start : start + BATCH]
        with write(), transaction.atomic():
            # Slots before comparisons, as everywhere, and none that a voter holds: no deadlock.
            slots = Slot.objects.filter(comparison_id__in=batch).exclude(state=SlotState.DONE).order_by("pk")
            if connection.features.has_select_for_update_skip_locked:
                slots = slots.select_for_update(skip_locked=True, no_key=True, of=("self",))
            held = [slot.pk for slot in slots]
            for_now = Slot.objects.filter(pk__in=held)
            for_now.update(priority=2 * priority)
            if project.finish_started:
                begun = Slot.objects.filter(comparison_id=OuterRef("comparison_id")).exclude(state=SlotState.OPEN)
                for_now.filter(Exists(begun)).update(priority=2 * priority + 1)
            changed += Comparison.objects.filter(pk__in=batch).exclude(priority=priority).update(priority=priority)
    return changed
