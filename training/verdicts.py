"""What the judges of evaluations say: win, tie and loss with intervals, how far they agree, and the policies' ranking.

All is said from the side of the first policy: a win is 1, a tie ½, a loss 0. Intervals are clustered by prompt. What
people say is counted from the votes that slots count, on any comparison of the same two texts of the same prompt: a
pair that was compared before is not compared twice. Two completions with one text are compared by nobody and are
counted apart.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import numpy as np
from django.db.models.functions import Length

from annotation.models import Comparison, ComparisonCompletion, Completion, Membership, Project, Slot, SlotState
from annotation.reports.cache import kept
from annotation.statistics.agreement import cohen_kappa, percent_agreement
from annotation.statistics.estimates import Estimate as Statistic
from annotation.vote_arrays import pair_labels
from training import lineage
from training.engine.evaluate import Estimate, clustered_share
from training.engine.win_rates import Contest, length_controlled_win_rate, win_rate
from training.models import Evaluation, JudgeKind, RoundPolicy, Verdict
from training.snapshot_contents import SnapshotUnreadable
from training.snapshot_index import index_of

PLACES = {"first": 1.0, "tie": 0.5, "second": 0.0}  # what a judge's word gives to the completion that it saw first
CLASSES = 3  # win, tie, loss

Figure = dict[str, float | None] | None
Counts = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two completions of a prompt (primary keys), one of each policy. `texts` are their hashes."""

    first: int
    second: int
    prompt: int
    texts: tuple[str, str]
    tokens: int
    other_tokens: int

    @property
    def key(self) -> tuple[int, int]:
        return self.first, self.second


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """The pairs of an evaluation, and how many were left out since both completions have one text."""

    pairs: tuple[Pair, ...]
    identical: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What a machine said of a pair; `outcome` is None where it said nothing that can be read.

    Attributes:
        margin: nats by which a reward model scores the first completion higher.
        orders: which place a judge took with the first completion in front, and with the second.
    """

    first: int
    second: int
    outcome: float | None
    margin: float | None = None
    orders: tuple[str | None, str | None] = (None, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What one judge says of one pair: shares of a win, a tie and a loss, which add up to 1."""

    win: float
    tie: float
    loss: float

    @property
    def outcome(self) -> float:
        return self.win + self.tie / 2

    @property
    def code(self) -> int:
        """0 a win, 1 neither, 2 a loss."""
        return 1 - (self.win > self.loss) + (self.loss > self.win)


Views = Mapping[tuple[int, int], View]


@dataclass(frozen=True, kw_only=True, slots=True)
class People:
    """Counted votes for a win, a tie and a loss, by pair."""

    counts: Mapping[tuple[int, int], Counts] = field(default_factory=dict)
    voters: int = 0

    @property
    def views(self) -> dict[tuple[int, int], View]:
        """Every vote on a pair counts alike, and every pair counts alike, however many votes it has."""
        return {
            key: View(win=a / n, tie=t / n, loss=b / n) for key, (a, t, b) in self.counts.items() if (n := a + t + b)
        }


# --- the pairs --------------------------------------------------------------------------------------------------------


def load_pairs(evaluations: Sequence[Evaluation]) -> dict[int, Compared]:
    """The pairs of evaluations, by primary key. Completions of one index meet; where sets of more are judged, all.

    The rows need `round` and `project`. Two queries.
    """
    written: dict[UUID, dict[int, dict[int, list[_Written]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    rows = Completion.objects.filter(origin__in=[item.round.public_id for item in evaluations]).order_by("index", "pk")
    columns = ("pk", "index", "content_hash", "tokens", "chars", "origin", "prompt_id", "source_id")
    for pk, index, text, tokens, chars, origin, prompt, source in rows.annotate(chars=Length("text")).values_list(
        *columns
    ):
        made = _Written(pk=pk, index=index, text=text, tokens=chars if tokens is None else tokens)
        written[origin][prompt][source].append(made)
    source_of: dict[tuple[int, int], int] = {
        (made, model): source
        for made, model, source in RoundPolicy.objects.filter(
            round__in=[item.round_id for item in evaluations]
        ).values_list("round_id", "model_id", "source_id")
    }
    found = {}
    for item in evaluations:
        sources = source_of[item.round_id, item.first_id], source_of[item.round_id, item.second_id]
        is_matched = item.project.feedback.size <= 2
        found[item.pk] = _compare(written[item.round.public_id], *sources, is_matched=is_matched)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Written:
    pk: int
    index: int
    text: str
    tokens: int


def _compare(
    written: Mapping[int, Mapping[int, Sequence[_Written]]], first: int, second: int, *, is_matched: bool
) -> Compared:
    pairs: dict[tuple[int, str, str], Pair] = {}
    identical = 0
    for prompt in sorted(written):
        by_source = written[prompt]
        for x, y in itertools.product(by_source.get(first, ()), by_source.get(second, ())):
            if is_matched and x.index != y.index:
                continue
            identical += x.text == y.text
            if x.text != y.text:
                made = Pair(
                    first=x.pk, second=y.pk, prompt=prompt, texts=(x.text, y.text), tokens=x.tokens,
                    other_tokens=y.tokens,
                )  # fmt: skip
                pairs.setdefault((prompt, x.text, y.text), made)
    return Compared(pairs=tuple(pairs.values()), identical=identical)


# --- what people say --------------------------------------------------------------------------------------------------


def load_people(evaluations: Sequence[Evaluation], compared: Mapping[int, Compared]) -> dict[int, People]:
    """The votes on the pairs of some evaluations of a project, by primary key; three queries, none without evaluations.

    Votes of excluded people count no more, and neither do those on comparisons of another size.
    """
    if not evaluations:
        return {}
    project = evaluations[0].project
    places: dict[tuple[int, str, str], list[tuple[int, tuple[int, int], bool]]] = defaultdict(list)
    for number, item in compared.items():
        for pair in item.pairs:
            places[pair.prompt, pair.texts[0], pair.texts[1]].append((number, pair.key, True))
            places[pair.prompt, pair.texts[1], pair.texts[0]].append((number, pair.key, False))
    size = project.feedback.size
    origins = [item.round.public_id for item in evaluations]
    shown = {pk: row for pk, row in _shown(project, origins).items() if len(row[1]) == size >= 2}
    votes = [row for row in _counted_votes(project, origins) if row[0] in shown]
    labels = pair_labels([row[2] for row in votes], [row[3] for row in votes], size=max(2, size)).tolist()
    counts: dict[int, dict[tuple[int, int], list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0, 0]))
    voters: dict[int, set[int]] = defaultdict(set)
    for (comparison, voter, _, _), given in zip(votes, labels, strict=True):
        prompt, texts = shown[comparison]
        for (a, b), label in zip(itertools.combinations(texts, 2), given, strict=True):
            for number, key, is_first in places.get((prompt, a, b), ()):
                counts[number][key][label if is_first else 2 - label] += 1
                voters[number].add(voter)
    return {
        number: People(
            counts={key: (n[0], n[1], n[2]) for key, n in counts[number].items()}, voters=len(voters[number])
        )
        for number in compared
    }


def _shown(project: Project, origins: Sequence[UUID]) -> dict[int, tuple[int, list[str]]]:
    """Prompt and text hashes, in stored order, of each comparison of the prompts of these rounds. One query."""
    prompts = Completion.objects.filter(origin__in=origins).values("prompt_id")
    rows = ComparisonCompletion.objects.filter(comparison__project=project, comparison__prompt__in=prompts)
    columns = ("comparison_id", "comparison__prompt_id", "completion__content_hash")
    found: dict[int, tuple[int, list[str]]] = {}
    for comparison, prompt, text in rows.order_by("comparison_id", "position").values_list(*columns).iterator():
        found.setdefault(comparison, (prompt, []))[1].append(text)
    return found


def _counted_votes(project: Project, origins: Sequence[UUID]) -> list[tuple[int, int, str, Any]]:
    """Comparison, person, choice and body of each vote on these prompts that a slot counts. Two queries."""
    excluded = set(
        Membership.objects.filter(project=project, excluded_at__isnull=False).values_list("user_id", flat=True)
    )
    prompts = Completion.objects.filter(origin__in=origins).values("prompt_id")
    rows = Slot.objects.filter(project=project, state=SlotState.DONE, comparison__prompt__in=prompts)
    columns = ("comparison_id", "vote__annotator_id", "vote__choice", "vote__body")
    return [row for row in rows.order_by("comparison_id", "number").values_list(*columns) if row[1] not in excluded]


# --- what machines said -----------------------------------------------------------------------------------------------


def machine_result(compared: Compared, said: Sequence[Said]) -> dict[str, Any]:
    """What a verdict keeps of a machine's words: the figures, how the machine answered, and every pair."""
    prompt_of = {pair.key: pair.prompt for pair in compared.pairs}
    rows = [
        [item.first, item.second, prompt_of[item.first, item.second], item.outcome, item.margin, *item.orders]
        for item in said
    ]
    views = _machine_views(rows)
    return {
        "figures": figures(compared, views),
        "consistency": _consistency(rows),
        "unreadable": sum(item.outcome is None for item in said),
        "unjudged": len(compared.pairs) - len(said),
        "columns": ["first", "second", "prompt", "outcome", "margin", "first_in_front", "second_in_front"],
        "pairs": rows,
    }


def _machine_views(rows: Sequence[Sequence[Any]]) -> dict[tuple[int, int], View]:
    """A judge that goes by the place says nothing of the two: that is a tie."""
    found = {}
    for first, second, _, outcome, *_ in rows:
        if outcome is not None:
            lead = 2 * outcome - 1
            found[first, second] = View(win=max(0.0, lead), tie=1 - abs(lead), loss=max(0.0, -lead))
    return found


def _consistency(rows: Sequence[Sequence[Any]]) -> dict[str, Figure] | None:
    """How often a judge says the same in both orders, and how often it takes the place that it is shown first.

    None for a machine that is not asked in two orders.
    """
    both = [(PLACES[ab], PLACES[ba], str(prompt)) for _, _, prompt, _, _, ab, ba in rows if ab and ba]
    if not both:
        return None
    groups = [prompt for _, _, prompt in both]
    return {
        "orders_agree": _figure(clustered_share([float(ab == 1 - ba) for ab, ba, _ in both], groups)),
        "first_place": _figure(clustered_share([(ab + ba) / 2 for ab, ba, _ in both], groups)),
    }


# --- figures ----------------------------------------------------------------------------------------------------------


def figures(compared: Compared, views: Views) -> dict[str, Any]:
    """Shares of wins, ties and losses of the first policy, and its win rate, plain and at equal length."""
    judged = [(pair, views[pair.key]) for pair in compared.pairs if pair.key in views]
    groups = [str(pair.prompt) for pair, _ in judged]
    contests = [
        Contest(group=group, outcome=view.outcome, tokens=pair.tokens, other_tokens=pair.other_tokens)
        for (pair, view), group in zip(judged, groups, strict=True)
    ]
    some = len(judged) > 0
    return {
        "pairs": len(judged),
        "prompts": len(set(groups)),
        "win": _figure(clustered_share([view.win for _, view in judged], groups)) if some else None,
        "tie": _figure(clustered_share([view.tie for _, view in judged], groups)) if some else None,
        "loss": _figure(clustered_share([view.loss for _, view in judged], groups)) if some else None,
        "win_rate": _figure(win_rate(contests)) if some else None,
        "win_rate_length_controlled": _figure(length_controlled_win_rate(contests)) if some else None,
        "mean_tokens": [
            sum(pair.tokens for pair, _ in judged) / len(judged),
            sum(pair.other_tokens for pair, _ in judged) / len(judged),
        ]
        if some
        else None,
    }


def agreement(pairs: Sequence[tuple[int, View, View]]) -> dict[str, Any]:
    """How far two judges agree on pairs (prompt, what one says, what the other says).

    `agree` is the share of the pairs that both decide where they take the same side; `kappa` is Cohen's, of win, tie
    and loss; `votes` the mean share of the second one's decided answers that the first agrees with: what to hold beside
    the agreement of people with each other, where the second one is people.
    """
    decided = [(prompt, one, other) for prompt, one, other in pairs if one.code != 1 and other.code != 1]
    voted = [(prompt, one, other) for prompt, one, other in pairs if one.code != 1 and other.win + other.loss > 0]
    same = (
        clustered_share(
            [float(one.code == other.code) for _, one, other in decided], [str(prompt) for prompt, _, _ in decided]
        )
        if decided
        else None
    )
    shares = [(other.win if one.code == 0 else other.loss) / (other.win + other.loss) for _, one, other in voted]
    kappa = (
        cohen_kappa(
            [one.code for _, one, _ in pairs],
            [other.code for _, _, other in pairs],
            K=CLASSES,
            group=np.array([prompt for prompt, _, _ in pairs], dtype=np.int64),
        )
        if pairs
        else None
    )
    return {
        "pairs": len(pairs),
        "decided": len(decided),
        "agree": None if same is None else _figure(same),
        "kappa": None if kappa is None else _statistic(kappa),
        "votes": _figure(clustered_share(shares, [str(prompt) for prompt, _, _ in voted])) if voted else None,
    }


def _figure(found: Estimate) -> Figure:
    return {"value": found.value, "low": found.low, "high": found.high}


def _statistic(found: Statistic) -> Figure:
    return None if found.value is None else {"value": found.value, "low": found.low, "high": found.high}


# --- side by side -----------------------------------------------------------------------------------------------------


def side_by_side(evaluation: Evaluation) -> dict[str, Any]:
    """Every verdict's figures by its public id, and how far each two agree; computed once for the same facts.

    The evaluation needs `round`, `project` and its verdicts.
    """
    done = sorted((str(verdict.public_id), verdict.result is not None) for verdict in evaluation.verdicts.all())
    completions = Completion.objects.filter(origin=evaluation.round.public_id).count()
    parameters = (str(evaluation.public_id), done, completions)
    return kept(
        evaluation.project, report="evaluation", parameters=parameters, compute=lambda: _side_by_side(evaluation)
    )  # fmt: skip


def _side_by_side(evaluation: Evaluation) -> dict[str, Any]:
    compared = load_pairs([evaluation])[evaluation.pk]
    people = load_people([evaluation], {evaluation.pk: compared})[evaluation.pk]
    verdicts = list(evaluation.verdicts.all())
    views = {verdict.pk: views_of(verdict, people) for verdict in verdicts}
    return {
        "pairs": len(compared.pairs),
        "identical": compared.identical,
        "trained_prompts": _trained_prompts(evaluation),
        "figures": {
            str(verdict.public_id): _of_people(compared, people)
            if verdict.kind == JudgeKind.PEOPLE
            else _of_machine(verdict)
            for verdict in verdicts
        },
        "agreement": [
            {"first": str(one.public_id), "second": str(other.public_id)}
            | agreement(common(compared, views[one.pk], views[other.pk]))
            for one, other in turned(verdicts)
        ],
    }


def _trained_prompts(evaluation: Evaluation) -> list[int | None]:
    """How many prompts of the evaluation are in the data behind each policy: what it says of those flatters.

    None where the files of a snapshot cannot be read.
    """
    prompts = Completion.objects.filter(origin=evaluation.round.public_id).values("prompt_id")
    asked = Comparison.objects.filter(prompt__in=prompts).values_list("prompt_id", "public_id")
    prompt_of = {public_id.bytes: prompt for prompt, public_id in asked}
    found: list[int | None] = []
    for policy in (evaluation.first, evaluation.second):
        try:
            used = [index_of(snapshot).among(prompt_of) for snapshot in lineage.snapshots_behind(policy)]
        except SnapshotUnreadable:
            found.append(None)
        else:
            found.append(len({prompt_of[item] for ids in used for item in ids}))
    return found


def turned(verdicts: Sequence[Verdict]) -> list[tuple[Verdict, Verdict]]:
    """Every two verdicts once; people are the second, for it is their votes that the other may agree with."""
    return [
        (other, one) if one.kind == JudgeKind.PEOPLE else (one, other)
        for one, other in itertools.combinations(verdicts, 2)
    ]  # fmt: skip


def views_of(verdict: Verdict, people: People) -> Views:
    if verdict.kind == JudgeKind.PEOPLE:
        return people.views
    return {} if verdict.result is None else _machine_views(verdict.result["pairs"])


def common(compared: Compared, one: Views, other: Views) -> list[tuple[int, View, View]]:
    return [
        (pair.prompt, one[pair.key], other[pair.key])
        for pair in compared.pairs
        if pair.key in one and pair.key in other
    ]


def _of_people(compared: Compared, people: People) -> dict[str, Any]:
    """Beside people's figures, how far two of them agree: what no other judge can be expected to surpass by much."""
    shown = [pair for pair in compared.pairs if pair.key in people.counts]
    counts = np.array([people.counts[pair.key] for pair in shown], dtype=np.float64).reshape(-1, CLASSES)
    group = np.array([pair.prompt for pair in shown], dtype=np.int64)
    decided = counts[:, [0, 2]]
    return figures(compared, people.views) | {
        "answers": int(counts.sum()),
        "people": people.voters,
        "people_agree": _statistic(percent_agreement(counts, group=group)) if shown else None,
        "people_agree_decided": _statistic(percent_agreement(decided, group=group)) if shown else None,
        "unreadable": 0,
        "unjudged": len(compared.pairs) - len(shown),
        "orders_agree": None,
        "first_place": None,
    }


def _of_machine(verdict: Verdict) -> dict[str, Any] | None:
    if verdict.result is None:
        return None
    consistency = verdict.result["consistency"] or {"orders_agree": None, "first_place": None}
    answers = len(verdict.result["pairs"]) * (2 if verdict.kind == JudgeKind.JUDGE else 1)
    return {
        **verdict.result["figures"],
        **consistency,
        "answers": answers,
        "people": None,
        "people_agree": None,
        "people_agree_decided": None,
        "unreadable": verdict.result["unreadable"],
        "unjudged": verdict.result["unjudged"],
    }
