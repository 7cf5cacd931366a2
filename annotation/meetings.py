"""Which completions of a prompt meet, and in which stored order.

Pure functions of the completions, a seed and what has met before: no database. What is drawn is drawn by content, never
by key, so the same texts in another database meet in the same way.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, assert_never

from annotation.errors import Invalid
from annotation.feedback import MOST_COMPLETIONS
from annotation.models import Arm, Completion, Prompt, content_hash
from annotation.similarity import Shape, is_near, likeness, shape
from annotation.statistics.acquisition import Objective

MOST_POOL = 64  # completions of a prompt that take part, so that looking at every pair stays cheap
MOST_SETS = 5_000  # above so many possible sets of a prompt, random ones are drawn instead of shuffled


class Strategy(StrEnum):
    """How completions are chosen to meet.

    all: every pair; random: drawn; cross_source: those of different sources by index, or of one source as neighbours;
    closest_score: the smallest differences of a scorer, the hard ones; most_different: the least text in common;
    balanced: sources that have met least in the project; information: sources whose meeting tells most about how they
    rank; disagreement: what an ensemble of scorers disagrees on most.
    """

    ALL = "all"
    RANDOM = "random"
    CROSS_SOURCE = "cross_source"
    CLOSEST_SCORE = "closest_score"
    MOST_DIFFERENT = "most_different"
    BALANCED = "balanced"
    INFORMATION = "information"
    DISAGREEMENT = "disagreement"

    @property
    def spans_prompts(self) -> bool:
        """Whether it weighs the pairs of all prompts against each other (`annotation.asking`), not those of each."""
        return self in {Strategy.INFORMATION, Strategy.DISAGREEMENT}


@dataclass(frozen=True, kw_only=True, slots=True)
class Meeting:
    """Completions of a prompt that are judged together, already in stored order.

    `arm`: of a choice by information, else empty.
    """

    prompt: Prompt
    completions: tuple[Completion, ...]
    external_id: str = ""
    arm: Arm | Literal[""] = ""

    def __post_init__(self) -> None:
        if not 1 <= len(self.completions) <= MOST_COMPLETIONS:
            raise Invalid(
                f"completions: 1 to {MOST_COMPLETIONS} meet, got {len(self.completions)}",
                details={"completions": ["count"]},
            )

    @property
    def a(self) -> Completion:
        """The first in stored order."""
        return self.completions[0]

    @property
    def b(self) -> Completion:
        """The second."""
        return self.completions[1]

    @property
    def hash(self) -> str:
        """The same for the same texts of a prompt in any order; an import's own id tells twins apart."""
        return meeting_hash(self.prompt, self.completions, self.external_id)


def Pair(*, prompt: Prompt, a: Completion, b: Completion, external_id: str = "") -> Meeting:  # noqa: N802
    """A meeting of two; named like the value that it makes."""
    return Meeting(prompt=prompt, completions=(a, b), external_id=external_id)


def meeting(
    prompt: Prompt, completions: Iterable[Completion], *, external_id: str = "", arm: Arm | Literal[""] = ""
) -> Meeting:
    """A meeting in an order drawn from its hash, so that the order says nothing about the sources."""
    given = tuple(completions)
    key = meeting_hash(prompt, given, external_id)
    drawn = sorted(given, key=lambda item: hashlib.sha256(f"{key}/{item.content_hash}".encode()).digest())
    return Meeting(prompt=prompt, completions=tuple(drawn), external_id=external_id, arm=arm)


def meeting_hash(prompt: Prompt, completions: Iterable[Completion], external_id: str) -> str:
    return content_hash(prompt.content_hash, *sorted(item.content_hash for item in completions), external_id)


# --- who meets whom ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """How the completions of each prompt are to meet.

    Attributes:
        size: completions of a meeting.
        per_prompt: most meetings of a prompt; None: all, or 1 where the strategy picks the best.
        seed: draws what the strategy leaves open; the same seed draws the same.
        total: most meetings in all, for strategies that span prompts; None: what per_prompt allows.
        objective: what `information` is to improve, the order of the sources or their strengths.
        control_share: of the meetings of a strategy that spans prompts, drawn at random as the control; at least one.
    """

    strategy: Strategy = Strategy.CROSS_SOURCE
    size: int = 2
    per_prompt: int | None = None
    seed: int = 1
    total: int | None = None
    objective: Objective = Objective.ORDER
    control_share: float = 0.1

    @property
    def limit(self) -> int:
        """Meetings of a prompt at most."""
        if self.per_prompt is not None:
            return self.per_prompt
        is_whole = self.strategy in {Strategy.ALL, Strategy.CROSS_SOURCE} or self.size == 1
        return MOST_SETS if is_whole else 1


@dataclass(frozen=True, slots=True)
class Met:
    """How often each two sources have met in a project, for `balanced`. Choosing meetings counts on."""

    times: Counter[frozenset[int]] = field(default_factory=Counter)

    def count(self, sources: Iterable[int]) -> None:
        """Note a meeting of these sources."""
        self.times.update(frozenset(pair) for pair in itertools.combinations(sorted(set(sources)), 2))

    def of(self, source: int) -> int:
        """Meetings of a source with any other."""
        return sum(n for pair, n in self.times.items() if source in pair)


def choose(
    prompt: Prompt,
    completions: Iterable[Completion],
    rule: Rule,
    *,
    against: Collection[int] = (),
    scores: Mapping[int, float] | None = None,
    met: Met | None = None,
    known: Collection[str] = (),
) -> list[Meeting]:
    """Meetings among a prompt's completions: different texts, none empty, none nearly the same as another.

    Args:
        against: keys of completions of which each meeting has at least one, beside at least one other (of two, exactly
            one).
        scores: by completion key, for `closest_score`.
        met: what `balanced` evens out; counted on by what is chosen.
        known: hashes of meetings that `balanced` does not choose again; the others choose the same each time.
    """
    pool = _Pool(prompt, completions, rule, against)
    if rule.size == 1:
        sets: Iterable[tuple[int, ...]] = ((i,) for i in range(len(pool.items)))
    else:
        match rule.strategy:
            case Strategy.ALL:
                sets = pool.all_sets()
            case Strategy.RANDOM:
                sets = pool.random_sets()
            case Strategy.CROSS_SOURCE:
                sets = pool.cross_source()
            case Strategy.CLOSEST_SCORE:
                sets = pool.closest(scores or {})
            case Strategy.MOST_DIFFERENT:
                sets = pool.most_different()
            case Strategy.BALANCED:
                sets = pool.balanced(met or Met(), known)
            case Strategy.INFORMATION | Strategy.DISAGREEMENT:
                raise ValueError(f"{rule.strategy} weighs all prompts: use annotation.asking")
            case _:
                assert_never(rule.strategy)
    return pool.take(sets)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Two completions of a prompt that a strategy which spans prompts may choose."""

    pool: _Pool
    places: tuple[int, int]

    @property
    def completions(self) -> tuple[Completion, Completion]:
        """The two, by source."""
        i, j = self.places
        return self.pool.items[i], self.pool.items[j]

    @property
    def prompt(self) -> Prompt:
        """What they answer."""
        return self.pool.prompt

    @property
    def hash(self) -> str:
        """That of the meeting."""
        return self.pool.key(self.places)

    def meeting(self, arm: Arm) -> Meeting | None:
        """The meeting; None if the two are nearly the same text, which is not looked at before."""
        return meeting(self.prompt, self.completions, arm=arm) if self.pool.may_meet(self.places) else None


def candidates(
    prompt: Prompt, completions: Iterable[Completion], rule: Rule, *, against: Collection[int] = ()
) -> list[Candidate]:
    """The pairs of a prompt that a strategy which spans prompts may choose; for `information` of different sources.

    Args:
        against: as in `choose`.
    """
    pool = _Pool(prompt, completions, rule, against)
    pairs = itertools.combinations(range(len(pool.items)), 2)
    found = (Candidate(pool=pool, places=pair) for pair in pairs if pool.teams_meet(pair))
    if rule.strategy is Strategy.DISAGREEMENT:
        return list(found)
    return [item for item in found if len({one.source_id for one in item.completions}) == 2]


class _Pool:
    """The completions of one prompt that may meet, by place, with what is compared of their texts."""

    def __init__(self, prompt: Prompt, completions: Iterable[Completion], rule: Rule, against: Collection[int]) -> None:
        self.prompt = prompt
        self.rule = rule
        # Drawn by content, never by key: the same texts in another database meet in the same way.
        drawn = sorted(
            (item for item in completions if item.text.strip()), key=lambda item: self.draw(item.content_hash)
        )
        self.items = sorted(_kept(drawn, against), key=lambda item: (item.source_id, item.index, item.content_hash))
        self.teams = [item.pk in against for item in self.items]
        self.has_teams = bool(against)
        self._shapes: dict[int, Shape] = {}
        self._near: dict[tuple[int, int], bool] = {}

    def draw(self, *parts: object) -> bytes:
        """What decides where nothing else does."""
        text = "/".join(str(part) for part in (self.rule.seed, self.prompt.content_hash, *parts))
        return hashlib.sha256(text.encode()).digest()

    def order(self, places: Sequence[int]) -> bytes:
        """The draw of a set."""
        return self.draw(*sorted(self.items[i].content_hash for i in places))

    def key(self, places: Sequence[int]) -> str:
        """The hash of the meeting that a set becomes."""
        return meeting_hash(self.prompt, (self.items[i] for i in places), "")

    def shape(self, i: int) -> Shape:
        if i not in self._shapes:
            self._shapes[i] = shape(self.items[i].text)
        return self._shapes[i]

    def near(self, i: int, j: int) -> bool:
        key = (min(i, j), max(i, j))
        if key not in self._near:
            one, other = self.items[i], self.items[j]
            self._near[key] = one.content_hash == other.content_hash or is_near(self.shape(i), self.shape(j))
        return self._near[key]

    def teams_meet(self, places: Sequence[int]) -> bool:
        """Whether both teams are there, if there are teams."""
        return not self.has_teams or len({self.teams[i] for i in places}) == 2

    def may_meet(self, places: Sequence[int]) -> bool:
        """Whether the teams are both there, and no two texts are nearly the same."""
        return self.teams_meet(places) and not any(self.near(i, j) for i, j in itertools.combinations(places, 2))

    def take(self, sets: Iterable[tuple[int, ...]]) -> list[Meeting]:
        """The first sets that may meet, each once, up to the rule's limit."""
        found: dict[str, Meeting] = {}
        for places in sets:
            if len(found) >= self.rule.limit:
                break
            if len(places) == 1 or self.may_meet(places):
                made = meeting(self.prompt, (self.items[i] for i in places))
                found.setdefault(made.hash, made)
        return list(found.values())

    def all_sets(self) -> Iterator[tuple[int, ...]]:
        n = math.comb(len(self.items), self.rule.size)
        if self.rule.per_prompt is not None:
            return self.random_sets()
        if n > MOST_SETS:
            raise Invalid(
                f"per_prompt: {len(self.items)} completions make {n} sets of {self.rule.size}, more than {MOST_SETS}; "
                "say how many of a prompt you want",
                details={"per_prompt": ["is needed for so many completions"]},
            )
        return itertools.combinations(range(len(self.items)), self.rule.size)

    def random_sets(self) -> Iterator[tuple[int, ...]]:
        """Sets in random order: all of them while they are few, else draws (which may repeat)."""
        places = range(len(self.items))
        if math.comb(len(places), self.rule.size) <= MOST_SETS:
            yield from sorted(itertools.combinations(places, self.rule.size), key=self.order)
            return
        generator = random.Random(self.draw("sets"))  # noqa: S311  (chooses texts, hides nothing)
        for _ in range(50 * self.rule.limit):
            yield tuple(sorted(generator.sample(places, self.rule.size)))

    def cross_source(self) -> Iterator[tuple[int, ...]]:
        groups: dict[tuple[bool, int], list[int]] = defaultdict(list)
        for i, item in enumerate(self.items):
            groups[self.teams[i], item.source_id].append(i)
        if self.rule.size > 2:
            return self._rows(groups)
        if len(groups) == 1:
            (own,) = groups.values()
            return zip(own[::2], own[1::2], strict=False)
        if self.has_teams:  # every completion meets each opponent, whose few are met in turn
            rows = [(own, other) for (is_other, _), own in groups.items() if not is_other
                    for (is_it, _), other in groups.items() if is_it]  # fmt: skip
            return ((i, other[k % len(other)]) for own, other in rows for k, i in enumerate(own))
        rows = [(one, other) for one, other in itertools.combinations(groups.values(), 2)]
        return itertools.chain.from_iterable(zip(one, other, strict=False) for one, other in rows)

    def _rows(self, groups: Mapping[tuple[bool, int], list[int]]) -> Iterator[tuple[int, ...]]:
        """Sets of more than two: the first completions of all sources, then the second …, cut into sets."""
        own = self._distinct(
            i for row in itertools.zip_longest(*(g for (t, _), g in groups.items() if not t)) for i in row
        )
        if not self.has_teams:
            return (tuple(own[i : i + self.rule.size]) for i in range(0, len(own) - self.rule.size + 1, self.rule.size))
        others = [i for (team, _), group in groups.items() if team for i in group]
        if not others:
            return iter(())
        step = self.rule.size - 1
        cuts = [own[i : i + step] for i in range(0, len(own) - step + 1, step)]
        return ((*cut, others[k % len(others)]) for k, cut in enumerate(cuts))

    def _distinct(self, places: Iterable[int | None]) -> list[int]:
        """Without those that are nearly the same as an earlier one."""
        kept: list[int] = []
        for i in places:
            if i is not None and not any(self.near(i, j) for j in kept):
                kept.append(i)
        return kept

    def closest(self, scores: Mapping[int, float]) -> Iterator[tuple[int, ...]]:
        """By the spread of the scores: of two all pairs, of more what is next to each other."""
        value = {i: scores[item.pk] for i, item in enumerate(self.items) if item.pk in scores}
        if self.rule.size == 2:
            sets = list(itertools.combinations(sorted(value), 2))
        else:
            row = sorted(self._distinct(sorted(value)), key=lambda i: (value[i], self.items[i].content_hash))
            sets = [tuple(row[k : k + self.rule.size]) for k in range(len(row) - self.rule.size + 1)]  # type: ignore[misc]

        def spread(places: tuple[int, ...]) -> tuple[float, bytes]:
            found = [value[i] for i in places]
            return max(found) - min(found), self.order(places)

        return iter(sorted(sets, key=spread))

    def most_different(self) -> Iterator[tuple[int, ...]]:
        """The pairs with least text in common, each grown by whoever is least like its likest member."""
        like = {
            (i, j): likeness(self.shape(i), self.shape(j)) for i, j in itertools.combinations(range(len(self.items)), 2)
        }

        def likest(i: int, places: Sequence[int]) -> float:
            return max(like[min(i, j), max(i, j)] for j in places)

        for pair in sorted(like, key=lambda places: (like[places], self.order(places))):
            places = list(pair)
            while len(places) < self.rule.size:
                rest = [i for i in range(len(self.items)) if i not in places and self.may_join(i, places)]
                if not rest:
                    break
                places.append(min(rest, key=lambda i: (likest(i, places), self.items[i].content_hash)))
            if len(places) == self.rule.size:
                yield tuple(sorted(places))

    def may_join(self, i: int, places: Sequence[int]) -> bool:
        return not any(self.near(i, j) for j in places)

    def balanced(self, met: Met, known: Collection[str]) -> Iterator[tuple[int, ...]]:
        """Each time the sources that have met least, with their completions that have been used least here."""
        by_source: dict[int, list[int]] = defaultdict(list)
        for i, item in enumerate(self.items):
            by_source[item.source_id].append(i)
        used: Counter[int] = Counter()
        seen = set(known)
        for _ in range(self.rule.limit):
            for sources in self._least_met(by_source, met):
                found = self._fresh(sources, by_source, used, seen)
                if found is not None:
                    seen.add(self.key(found))
                    used.update(found)
                    met.count(self.items[i].source_id for i in found)
                    yield found
                    break
            else:
                return

    def _least_met(self, by_source: Mapping[int, Sequence[int]], met: Met) -> Iterator[tuple[int, ...]]:
        total = {source: met.of(source) for source in by_source}
        names = {source: min(self.items[i].content_hash for i in own) for source, own in by_source.items()}

        def rank(pair: tuple[int, int]) -> tuple[int, int, bytes]:
            return met.times[frozenset(pair)], total[pair[0]] + total[pair[1]], self.draw(*sorted(map(names.get, pair)))  # type: ignore[type-var]

        for pair in sorted(itertools.combinations(by_source, 2), key=rank):
            sources = list(pair)
            while len(sources) < min(self.rule.size, len(by_source)):
                rest = [source for source in by_source if source not in sources]
                sources.append(
                    min(rest, key=lambda s: (sum(met.times[frozenset((s, o))] for o in sources), total[s], names[s]))
                )
            if len(sources) == self.rule.size:
                yield tuple(sources)

    def _fresh(
        self,
        sources: Sequence[int],
        by_source: Mapping[int, Sequence[int]],
        used: Counter[int],
        seen: Collection[str],
    ) -> tuple[int, ...] | None:
        rows = [sorted(by_source[source], key=lambda i: used[i]) for source in sources]
        for places in itertools.islice(itertools.product(*rows), MOST_SETS):
            found = tuple(sorted(places))
            if self.key(found) not in seen and self.may_meet(found):
                return found
        return None


def _kept(drawn: Sequence[Completion], against: Collection[int]) -> list[Completion]:
    """At most MOST_POOL; with opponents, half of the room is theirs if they need it."""
    theirs = [item for item in drawn if item.pk in against]
    ours = [item for item in drawn if item.pk not in against]
    room = MOST_POOL - min(len(theirs), max(MOST_POOL // 2, MOST_POOL - len(ours)))
    return ours[:room] + theirs[: MOST_POOL - min(len(ours), room)]
