"""Preference lines of a snapshot as token ids. Drops what is too long (and counts it); never cuts a completion."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from unicodedata import normalize

from training.engine.errors import SnapshotError
from training.engine.packing import Sharing
from training.engine.records import Manifest, iter_lines, verify_snapshot
from training.engine.sections import DataConfig, Half, Labels, Target
from training.engine.text import Text

DROP_LIMIT = 0.05
"""Share of a part that may be too long without `data.allow_drop`."""


class HasSharing(Protocol):
    """Whatever has a prompt and completions as ids."""

    @property
    def sharing(self) -> Sharing: ...


E = TypeVar("E", bound=HasSharing)


class HasTexts(Protocol):
    """Completions as texts and as ids, all of whose tokens are scored."""

    @property
    def id(self) -> str: ...
    @property
    def sharing(self) -> Sharing: ...
    @property
    def texts(self) -> Sequence[str]: ...
    @property
    def finishes(self) -> Sequence[str]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A preference ready for training: `sharing` holds the prompt, then chosen, then rejected.

    `votes`: single votes for chosen and for rejected, for evaluation only; zeros where the line does not say.
    """

    id: str
    group: str
    sharing: Sharing
    q: float
    weight: float
    prompt: list[dict[str, str]]
    texts: tuple[str, str]
    finishes: tuple[str, str]
    votes: tuple[int, int] = (0, 0)
    margin: float | None = None
    """Strength that the votes stated, nats; None where the line has none."""
    p_tie: float | None = None
    """Probability that neither is better, as the line's `meta` has it; None where it does not say."""

    @property
    def lengths(self) -> tuple[int, int]:
        """Completion tokens of chosen and rejected."""
        chosen, rejected = self.sharing.completions
        return len(chosen), len(rejected)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The pairs of one part in order of id, and how many were too long."""

    pairs: list[Pair]
    dropped: int


def verify_kind(snapshot: str, *kinds: str) -> Manifest:
    """The manifest of a snapshot that verifies and is of one of the kinds.

    Raises:
        SnapshotError: it does not verify, or is of another kind.
    """
    manifest = verify_snapshot(snapshot)
    if manifest.kind not in kinds:
        raise SnapshotError(f"holds {manifest.kind}, not {' or '.join(kinds)}", file=snapshot)
    return manifest


def load_part(part: str, *, data: DataConfig, labels: Labels, text: Text) -> Part:
    """Read and tokenise one part of a verified snapshot; an absent part is empty.

    Raises:
        SnapshotError: more than `DROP_LIMIT` of the pairs are too long and `data.allow_drop` is off.
    """
    pairs = [_pair(line, data=data, labels=labels, text=text) for line in lines_of(part, data=data)]
    kept, dropped = drop_too_long(pairs, part=part, limit=data.max_tokens, allow_drop=data.allow_drop)
    return Part(pairs=kept, dropped=dropped)


def _pair(line: dict[str, Any], *, data: DataConfig, labels: Labels, text: Text) -> Pair:
    finishes = (line.get("chosen_finish", "end"), line.get("rejected_finish", "end"))
    texts = (line["chosen"], line["rejected"])
    completions = tuple(
        tuple(text.completion_ids(completion, finished=finish == "end"))
        for completion, finish in zip(texts, finishes, strict=True)
    )
    return Pair(
        id=line["id"],
        group=line["group"],
        sharing=Sharing(prompt=prompt_of(line["prompt"], text=text, id=line["id"]), completions=completions),
        q=label(line, target=data.target, labels=labels),
        weight=float(line.get("weight", 1.0)),
        prompt=line["prompt"],
        texts=texts,
        finishes=finishes,
        votes=_votes(line),
        margin=None if line.get("margin") is None else float(line["margin"]),
        p_tie=_p_tie(line),
    )


def prompt_of(messages: Sequence[Mapping[str, str]], *, text: Text, id: str) -> tuple[int, ...]:
    """The prompt's tokens; nothing would predict the first token of a completion of an empty one.

    Raises:
        SnapshotError: the template renders it as nothing.
    """
    ids = tuple(text.prompt_ids(messages))
    if not ids:
        raise SnapshotError(f"the chat template leaves nothing of the prompt of {id}")
    return ids


def lines_of(part: str, *, data: DataConfig) -> Iterator[dict[str, Any]]:
    """The lines of one part in order of id; of the train part only those of the half that is asked for."""
    for line in iter_lines(Path(data.snapshot), part):
        if part != "train" or data.half is Half.ALL or half_of(line["group"]) is data.half:
            yield line


def half_of(group: str) -> Half:
    """The half of the prompt groups that a group is in, by its sha256: the same for every snapshot and seed."""
    return Half.FIRST if hashlib.sha256(group.encode()).digest()[0] < 128 else Half.SECOND


def drop_too_long(
    examples: Iterable[E], *, part: str, limit: int, allow_drop: bool, option: str = "data.max_tokens"
) -> tuple[list[E], int]:
    """The examples whose prompt with its longest completion has at most `limit` tokens, and how many were longer.

    Raises:
        SnapshotError: more than `DROP_LIMIT` of them are too long and `allow_drop` is off.
    """
    kept: list[E] = []
    dropped = 0
    for example in examples:
        longest = max(map(len, example.sharing.completions), default=0)
        if len(example.sharing.prompt) + longest > limit:
            dropped += 1
        else:
            kept.append(example)
    if dropped > DROP_LIMIT * (dropped + len(kept)) and not allow_drop:
        raise SnapshotError(
            f"{dropped} of {dropped + len(kept)} examples are longer than {option} = {limit}; "
            "raise it or set data.allow_drop",
            file=f"{part}.jsonl",
        )
    return kept, dropped


def data_figures(part: Part) -> dict[str, float]:
    """Metrics about the training pairs, for the line of step 0."""
    return {
        "data/pairs": float(len(part.pairs)),
        "data/ties": float(sum(pair.q == 0.5 for pair in part.pairs)),
        "data/dropped_too_long": float(part.dropped),
    }


def _votes(line: dict[str, Any]) -> tuple[int, int]:
    votes = line.get("meta", {}).get("votes")
    if not isinstance(votes, dict):  # a snapshot from elsewhere may mean something else by it
        return 0, 0
    return int(votes.get("chosen", 0)), int(votes.get("rejected", 0))


def _p_tie(line: dict[str, Any]) -> float | None:
    found = line.get("meta", {}).get("p_tie")
    known = isinstance(found, (int, float)) and not isinstance(found, bool) and 0 <= found <= 1
    return float(found) if known else None


def label(line: dict[str, Any], *, target: Target, labels: Labels) -> float:
    """q of a preference line: the share of the votes for its chosen side; hard labels are 0, ½ or 1."""
    posterior = float(line["prob_chosen"])
    q = float(line.get("prob_share", posterior)) if target is Target.SHARE else posterior
    if labels is Labels.SOFT or q == 0.5:
        return q
    return 1.0 if q > 0.5 else 0.0


def check_scored_tokens(examples: Sequence[HasTexts], text: Text) -> None:
    """The scored tokens of four examples are the completions and, where finished, their end token; nothing else.

    Raises:
        SnapshotError: decoding gives another text; both are shown.
    """
    for example in examples[:4]:
        for completion, finish, ids in zip(example.texts, example.finishes, example.sharing.completions, strict=True):
            ended = finish == "end"
            if ended and ids[-1] != text.end_id:
                raise SnapshotError(f"a completion of {example.id} does not end in its end token")
            shown = text.tokenizer.decode(list(ids[:-1] if ended else ids), clean_up_tokenization_spaces=False)
            # Some tokenizers normalise, or drop a first space; a lost or an added word is what this looks for.
            if normalize("NFC", shown).strip() != normalize("NFC", completion).strip():
                raise SnapshotError(
                    f"{example.id}: the tokenizer turns {completion[:80]!r} into {shown[:80]!r}; it is not lossless"
                )
