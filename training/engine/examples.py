"""Lines of a snapshot as token ids, for the methods that do not train on pairs (those are in `pairs.py`).

Each loader reads one part of a verified snapshot in order of id, drops what is too long and counts it; a completion is
never cut. An absent part is empty. More than 5 % too long without `data.allow_drop` is a SnapshotError.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from training.engine.errors import ModelError, SnapshotError
from training.engine.models import read_json
from training.engine.packing import Sharing
from training.engine.pairs import E, drop_too_long, label, lines_of, prompt_of
from training.engine.records import canonical_json, iter_lines, read_manifest
from training.engine.sections import DataConfig, DemonstrationsConfig, Labels, PromptsConfig
from training.engine.text import Text

Messages = list[dict[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded(Generic[E]):
    """The examples of one part in order of id, how many were too long, and how many preferences were ties."""

    examples: list[E]
    dropped: int
    ties: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Demonstration:
    """A completion to imitate: the only one of `sharing`.

    In a conversation all assistant turns are imitated: `sharing` then divides before the first of them, and its
    `scored` tells the assistant's tokens from the others. `prompt` is the whole conversation before `text`.
    """

    id: str
    group: str
    sharing: Sharing
    weight: float
    prompt: Messages
    text: str
    finish: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """K completions of one prompt, best first in `ranking`, ties together.

    Indices that the ranking leaves out come after all that it names, in no known order.
    """

    id: str
    group: str
    sharing: Sharing
    ranking: list[list[int]]
    weight: float
    prompt: Messages
    texts: tuple[str, ...]
    finishes: tuple[str, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each completion."""
        return tuple(map(len, self.sharing.completions))


@dataclass(frozen=True, kw_only=True, slots=True)
class Rated:
    """A completion, the only one of `sharing`, that is desirable or not."""

    id: str
    group: str
    sharing: Sharing
    desirable: bool
    weight: float
    prompt: Messages
    text: str
    finish: str

    @property
    def texts(self) -> tuple[str]:
        return (self.text,)

    @property
    def finishes(self) -> tuple[str]:
        return (self.finish,)

    @property
    def length(self) -> int:
        """Tokens of the completion."""
        return len(self.sharing.completions[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptItem:
    """A prompt to sample completions of; `sharing` has none yet."""

    id: str
    group: str
    sharing: Sharing
    prompt: Messages
    weight: float = 1.0

    @property
    def ids(self) -> tuple[int, ...]:
        return self.sharing.prompt


# --- demonstrations ---------------------------------------------------------------------------------------------------


def load_demonstrations(part: str, *, data: DemonstrationsConfig, text: Text) -> Loaded[Demonstration]:
    """The lines of a snapshot of demonstrations; every assistant turn of a line is scored.

    Raises:
        SnapshotError: too many are too long.
        ModelError: the template does not render a conversation turn by turn.
    """
    lines = iter_lines(Path(data.snapshot), part)
    kept, dropped = drop_too_long(
        (_demonstration(line, text) for line in lines), part=part, limit=data.max_tokens, allow_drop=data.allow_drop
    )
    return Loaded(examples=kept, dropped=dropped)


def load_chosen(part: str, *, data: DataConfig, text: Text) -> Loaded[Demonstration]:
    """The better side of each preference as a demonstration (binary FeedME); ties are left out and counted.

    Only the completion is scored, whatever turns its prompt has: the votes were about nothing else.
    """
    decided, ties = _decided(part, data=data)
    made = (_side(line, side, text=text) for line, side, _ in decided)
    kept, dropped = drop_too_long(made, part=part, limit=data.max_tokens, allow_drop=data.allow_drop)
    return Loaded(examples=kept, dropped=dropped, ties=ties)


def load_conditioned(part: str, *, data: DataConfig, good: str, bad: str, text: Text) -> Loaded[Demonstration]:
    """Both sides of each preference, the better one under the control `good`, the other under `bad`; ties left out."""
    decided, ties = _decided(part, data=data)
    made = (
        _side(line, side, text=text, control=control, suffix=True)
        for line, better, worse in decided
        for side, control in ((better, good), (worse, bad))
    )
    kept, dropped = drop_too_long(made, part=part, limit=data.max_tokens, allow_drop=data.allow_drop)
    return Loaded(examples=kept, dropped=dropped, ties=ties)


def with_control(messages: Sequence[Mapping[str, str]], control: str) -> Messages:
    """The messages with a control as their system turn; one that is there already follows it after an empty line."""
    turns = [dict(message) for message in messages]
    if turns and turns[0]["role"] == "system":
        return [{"role": "system", "content": f"{control}\n\n{turns[0]['content']}"}, *turns[1:]]
    return [{"role": "system", "content": control}, *turns]


def control_of(directory: Path) -> str | None:
    """The control that a conditioned policy is sampled under: `control` in its `winnow.json`; None for any other.

    Raises:
        ModelError: it is no text.
    """
    path = directory / "winnow.json"
    control = read_json(path).get("control") if path.is_file() else None
    if control is not None and not isinstance(control, str):
        raise ModelError(f"{path}: control must be a text, got {control!r}")
    return control


def demonstration(
    messages: Messages,
    completion: str,
    *,
    finish: str,
    text: Text,
    id: str,
    group: str,
    weight: float = 1.0,
    token_ids: Sequence[int] | None = None,
) -> Demonstration:
    """One completion to imitate, scored alone; `token_ids` are those that were sampled, where it was."""
    ids = tuple(text.completion_ids(completion, finished=finish == "end") if token_ids is None else token_ids)
    return Demonstration(
        id=id,
        group=group,
        sharing=Sharing(prompt=prompt_of(messages, text=text, id=id), completions=(ids,)),
        weight=weight,
        prompt=messages,
        text=completion,
        finish=finish,
    )


def _demonstration(line: dict[str, Any], text: Text) -> Demonstration:
    finish = line.get("finish", "end")
    runs = text.conversation_ids(line["prompt"], line["completion"], finished=finish == "end")
    (prompt, _), rest = runs[0], runs[1:]
    if not prompt:
        raise SnapshotError(f"the chat template leaves nothing of the prompt of {line['id']}")
    ids = tuple(token for run, _ in rest for token in run)
    flags = tuple(scored for run, scored in rest for _ in run)
    scored = (flags,) if len(rest) > 1 else None
    return Demonstration(
        id=line["id"],
        group=line["group"],
        sharing=Sharing(prompt=tuple(prompt), completions=(ids,), scored=scored),
        weight=float(line.get("weight", 1.0)),
        prompt=line["prompt"],
        text=line["completion"],
        finish=finish,
    )


def _decided(part: str, *, data: DataConfig) -> tuple[list[tuple[dict[str, Any], str, str]], int]:
    """Each preference line with its better and worse side by `data.target`, and how many were ties."""
    decided: list[tuple[dict[str, Any], str, str]] = []
    ties = 0
    for line in lines_of(part, data=data):
        q = label(line, target=data.target, labels=Labels.HARD)
        if q == 0.5:
            ties += 1
        else:
            decided.append((line, "chosen", "rejected") if q else (line, "rejected", "chosen"))
    return decided, ties


def _side(
    line: dict[str, Any], side: str, *, text: Text, control: str | None = None, suffix: bool = False
) -> Demonstration:
    return demonstration(
        line["prompt"] if control is None else with_control(line["prompt"], control),
        line[side],
        finish=line.get(f"{side}_finish", "end"),
        text=text,
        id=f"{line['id']}:{side}" if suffix else line["id"],
        group=line["group"],
        weight=float(line.get("weight", 1.0)),
    )


# --- rankings and ratings ---------------------------------------------------------------------------------------------


def load_rankings(part: str, *, data: DataConfig, text: Text) -> Loaded[Ranked]:
    """The lines of a snapshot of rankings; one is too long if any of its completions is."""
    made = (_ranked(line, text) for line in lines_of(part, data=data))
    kept, dropped = drop_too_long(made, part=part, limit=data.max_tokens, allow_drop=data.allow_drop)
    return Loaded(examples=kept, dropped=dropped)


def _ranked(line: dict[str, Any], text: Text) -> Ranked:
    texts = tuple(line["completions"])
    finishes = tuple(line.get("finishes", ["end"] * len(texts)))
    completions = tuple(
        tuple(text.completion_ids(completion, finished=finish == "end"))
        for completion, finish in zip(texts, finishes, strict=True)
    )
    return Ranked(
        id=line["id"],
        group=line["group"],
        sharing=Sharing(prompt=prompt_of(line["prompt"], text=text, id=line["id"]), completions=completions),
        ranking=line["ranking"],
        weight=float(line.get("weight", 1.0)),
        prompt=line["prompt"],
        texts=texts,
        finishes=finishes,
    )


def load_ratings(part: str, *, data: DataConfig, text: Text) -> Loaded[Rated]:
    """The lines of a snapshot of ratings; or of preferences, whose better side is desirable and whose other is not.

    Ties among the preferences are left out and counted.
    """
    ties = 0
    if read_manifest(data.snapshot).kind == "preferences":
        decided, ties = _decided(part, data=data)
        made: Iterable[Rated] = (
            _rated(_side(line, side, text=text, suffix=True), desirable=side == better)
            for line, better, worse in decided
            for side in (better, worse)
        )
    else:
        made = (_rating(line, text) for line in lines_of(part, data=data))
    kept, dropped = drop_too_long(made, part=part, limit=data.max_tokens, allow_drop=data.allow_drop)
    return Loaded(examples=kept, dropped=dropped, ties=ties)


def _rating(line: dict[str, Any], text: Text) -> Rated:
    found = demonstration(
        line["prompt"],
        line["completion"],
        finish=line.get("finish", "end"),
        text=text,
        id=line["id"],
        group=line["group"],
        weight=float(line.get("weight", 1.0)),
    )
    return _rated(found, desirable=line["desirable"])


def _rated(found: Demonstration, *, desirable: bool) -> Rated:
    return Rated(
        id=found.id,
        group=found.group,
        sharing=found.sharing,
        desirable=desirable,
        weight=found.weight,
        prompt=found.prompt,
        text=found.text,
        finish=found.finish,
    )


# --- prompts ----------------------------------------------------------------------------------------------------------


def load_prompts(part: str, *, data: PromptsConfig, text: Text) -> Loaded[PromptItem]:
    """Every distinct prompt of one part of a snapshot of any kind, under the id of the first line that has it."""
    kept, dropped = drop_too_long(
        _prompts(part, snapshot=data.snapshot, text=text),
        part=part,
        limit=data.max_prompt_tokens,
        allow_drop=data.allow_drop,
        option="data.max_prompt_tokens",
    )
    return Loaded(examples=kept, dropped=dropped)


def _prompts(part: str, *, snapshot: str, text: Text) -> Iterator[PromptItem]:
    seen: set[str] = set()
    for line in iter_lines(Path(snapshot), part):
        key = canonical_json(line["prompt"])
        if key not in seen:
            seen.add(key)
            ids = prompt_of(line["prompt"], text=text, id=line["id"])
            yield PromptItem(
                id=line["id"], group=line["group"], sharing=Sharing(prompt=ids, completions=()), prompt=line["prompt"]
            )
