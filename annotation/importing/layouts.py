"""One function a layout: what a record of a file brings, in the normal form. docs/FORMATS.md has an example of each.

Nothing here reads the database; ids stay ids until they are loaded. The module is long because the nine layouts stand
beside each other and share their pieces.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from annotation.feedback import LETTERS, FeedbackKind, Form
from annotation.importing import rows
from annotation.importing.reading import FileFormat, Record, read_records
from annotation.importing.rows import (
    BadRow,
    ComparisonRow,
    CompletionRow,
    ImportKind,
    PromptRow,
    Row,
    RowError,
    VoteRow,
    annotator,
    conversation,
    integer,
    listing,
    mapping,
    name_or_number,
    text,
    within,
)
from annotation.models import Arm, Finish, SourceKind

PUBLISHED = "published"  # who preferred `chosen` in a file that does not say
_RESPONSE = re.compile(r"(?:response|answer|completion|output|option|text|generation)[ _-]?([0-9]{1,2}|[a-i])")
_HH = re.compile(r"\n\n(Human|Assistant):")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parts:
    """What a layout makes of a record."""

    prompt: PromptRow | str | None = None
    completions: tuple[CompletionRow, ...] = ()
    comparisons: tuple[ComparisonRow, ...] = ()
    comparison: str = ""
    votes: tuple[VoteRow, ...] = ()


def read_rows(
    path: Path, *, kind: ImportKind, file_format: FileFormat, form: Form, columns: Mapping[str, str] | None = None
) -> Iterator[Row | RowError]:
    """Every row of a file in the normal form, or why it is refused.

    Raises:
        BadFile: the rest of the file cannot be read.
    """
    for record in read_records(path, file_format, columns=columns):
        yield read_row(record, kind=kind, form=form)


def read_row(record: Record, *, kind: ImportKind, form: Form) -> Row | RowError:
    """One record in the normal form, or why it is refused."""
    if isinstance(record.value, BadRow):
        return record.value.at(record.line)
    try:
        parts = _LAYOUTS[kind](record.value, form)
        if len(parts.completions) > rows.MOST_COMPLETIONS_A_ROW:
            rule = f"a row must have at most {rows.MOST_COMPLETIONS_A_ROW} completions"
            raise BadRow("completions", len(parts.completions), rule)
    except BadRow as error:
        return error.at(record.line)
    return Row(
        line=record.line, size_bytes=record.size_bytes, prompt=parts.prompt, completions=parts.completions,
        comparisons=parts.comparisons, comparison=parts.comparison, votes=parts.votes,
    )  # fmt: skip


# --- our own ----------------------------------------------------------------------------------------------------------


def _prompt(record: Mapping[str, Any], *, id_field: str = "id", meta: Mapping[str, Any] | None = None) -> PromptRow:
    return PromptRow(
        messages=rows.prompt_messages(record),
        category=text(record, "category", required=False, most=80),
        language=rows.language(record),
        external_id=name_or_number(record, id_field),
        meta=dict(mapping(record, "meta") if meta is None else meta),
    )


def _where_from(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a line about a comparison says of its prompt."""
    return {key: record[key] for key in ("source", "licence", "license", "context") if record.get(key)}


def _prompt_or_id(record: Mapping[str, Any]) -> PromptRow | str:
    if record.get("prompt_id") is not None and record.get("prompt") is None and record.get("messages") is None:
        return name_or_number(record, "prompt_id", required=True)
    return _prompt(record, id_field="prompt_id")


def _prompts(record: dict[str, Any], form: Form) -> _Parts:
    own = {"id", "prompt", "messages", "category", "language", "meta"}
    beside = {key: value for key, value in record.items() if key not in own and value is not None}
    return _Parts(prompt=_prompt(record, meta=mapping(record, "meta") | beside))


def _completions(record: dict[str, Any], form: Form) -> _Parts:
    given = record.get("completions")
    if given is None:
        body = next((name for name in ("text", "completion", "response") if record.get(name) is not None), "completion")
        return _Parts(prompt=_prompt_or_id(record), completions=(rows.completion(record, body=body),))
    found = _completion_list(listing(record, "completions"), "completions")
    if not found:
        raise BadRow("completions", given, "completions must not be empty")
    return _Parts(prompt=_prompt_or_id(record), completions=tuple(found))


def _completion_list(items: Sequence[Any], name: str) -> list[CompletionRow]:
    found = []
    for i, item in enumerate(items):
        where = f"{name}[{i}]"
        if isinstance(item, str):
            item = {"text": item}  # noqa: PLW2901
        if not isinstance(item, dict):
            raise BadRow(where, item, f"{where} must be a text or an object with a text")
        body = "completion" if item.get("text") is None and item.get("completion") is not None else "text"
        found.append(rows.completion(item, body=body, where=where))
    return found


def _comparisons(record: dict[str, Any], form: Form) -> _Parts:
    prompt = _prompt_or_id(record)
    ids = listing(record, "completion_ids")
    places: tuple[int | str, ...]
    if ids:
        places = tuple(name_or_number({"completion_ids": item}, "completion_ids", required=True) for item in ids)
        completions: list[CompletionRow] = []
    else:
        completions = _completion_list(listing(record, "completions"), "completions")
        places = tuple(range(len(completions)))
    name = "completion_ids" if ids else "completions"
    rows.check_size(len(places), form.size, name)
    if len(set(places)) < len(places):
        raise BadRow(name, ids, f"{name} must be different ones")
    votes = tuple(
        _nested_vote(item, f"votes[{i}]", size=len(places)) for i, item in enumerate(listing(record, "votes"))
    )
    _once_each(votes)
    if not votes:
        _different([completions[i].text for i in range(len(completions))], name)
    comparison = ComparisonRow(
        completions=places,
        overlap=integer(record, "overlap", low=0, high=99),
        full_overlap=rows.boolean(record, "full_overlap") or False,
        arm=rows.one_of(record, "arm", Arm.values, default="") if record.get("arm") else "",
        priority=integer(record, "priority", low=-1000, high=1000) or 0,
        audience=rows.audience(record, prompt),
        external_id=name_or_number(record, "id"),
        votes=votes,
    )
    return _Parts(prompt=prompt, completions=tuple(completions), comparisons=(comparison,))


def _different(texts: Sequence[str], name: str) -> None:
    """Nobody is asked to judge equal texts; people did elsewhere (Tulu's data), so votes on them come in."""
    if len({item.strip() for item in texts}) < len(texts):
        raise BadRow(name, texts[-1], f"{name} must differ from each other where votes are still wanted")


def _nested_vote(item: object, where: str, *, size: int) -> VoteRow:
    if not isinstance(item, dict):
        raise BadRow(where, item, f"{where} must be an object")
    return rows.vote(item, size=size, where=where)


def _once_each(votes: Sequence[VoteRow]) -> None:
    seen = set()
    for i, vote in enumerate(votes):
        key = (vote.annotator, vote.repetition)
        if key in seen and not vote.replaces:
            where = f"votes[{i}].annotator"
            raise BadRow(where, vote.annotator, f"{where} {vote.annotator!r} voted twice on this line")
        seen.add(key)


def _votes(record: dict[str, Any], form: Form) -> _Parts:
    """Two layouts: a comparison with its votes, or (our own export) a vote with the id of its comparison."""
    if record.get("comparison_id") is not None:
        known = name_or_number(record, "comparison_id", required=True)
        return _Parts(comparison=known, votes=(rows.vote({"guideline": None, **record}, size=None),))
    if record.get("completions") is not None or record.get("completion_ids") is not None:
        return _comparisons(record, form)
    a, b = text(record, "response_a"), text(record, "response_b")
    if not isinstance(record.get("votes"), list):
        raise BadRow("votes", record.get("votes"), "votes must be a list")
    votes = tuple(_nested_vote(item, f"votes[{i}]", size=2) for i, item in enumerate(record["votes"]))
    _once_each(votes)
    return _pair(record, form, a, b, votes)


def _pair(record: dict[str, Any], form: Form, a: str, b: str, votes: tuple[VoteRow, ...]) -> _Parts:
    rows.check_size(2, form.size, "response_b")
    if not votes and a.strip() == b.strip():
        raise BadRow("response_b", b, "response_b must differ from response_a where votes are still wanted")
    meta = record["meta"] if isinstance(record.get("meta"), dict) else {}
    prompt = _prompt(record, meta=_where_from(record))
    completions = tuple(
        CompletionRow(text=body, source=str(named or record.get("source") or "imported")[:200])
        for body, named in (
            (a, record.get("source_a") or meta.get("model_a")), (b, record.get("source_b") or meta.get("model_b")),
        )
    )  # fmt: skip
    comparison = ComparisonRow(
        completions=(0, 1), audience=rows.audience(record, prompt), external_id=prompt.external_id, votes=votes,
        priority=integer(record, "priority", low=-1000, high=1000) or 0,
    )  # fmt: skip
    return _Parts(prompt=prompt, completions=completions, comparisons=(comparison,))


# --- ready-made pairs -------------------------------------------------------------------------------------------------


def _pairs(record: dict[str, Any], form: Form) -> _Parts:
    """Two texts to be judged, or a preference (chosen, rejected), which comes in as a vote of who published it."""
    if record.get("chosen") is None and record.get("rejected") is None:
        return _pair(record, form, text(record, "response_a"), text(record, "response_b"), ())
    messages, chosen, rejected = _preference(record)
    named = record.get("annotator") or record.get("label_source") or PUBLISHED
    who = annotator({"annotator": named})
    # Stored order says nothing about which one was preferred.
    swap = hashlib.sha256(chosen.encode() + b"\x00" + rejected.encode()).digest()[0] % 2 == 1
    a, b = (rejected, chosen) if swap else (chosen, rejected)
    sources = {name: record.get(f"{name}_source") or record.get(f"{name}_model") for name in ("chosen", "rejected")}
    first, second = ("rejected", "chosen") if swap else ("chosen", "rejected")
    turned = {**record, "prompt": messages, "source_a": sources[first], "source_b": sources[second]}
    turned.pop("messages", None)
    return _pair(turned, form, a, b, (VoteRow(annotator=who, choice="b" if swap else "a"),))


def _preference(record: Mapping[str, Any]) -> tuple[list[dict[str, str]], str, str]:
    """Prompt, chosen and rejected of TRL's layouts: plain or conversational, with the prompt or with it implied, and
    the transcripts of HH-RLHF."""
    chosen, rejected = _said(record, "chosen"), _said(record, "rejected")
    has_prompt = record.get("prompt") is not None or record.get("messages") is not None
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise BadRow("rejected", record["rejected"], "rejected must be written as chosen is: a text, or turns")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if has_prompt:
            return rows.prompt_messages(record), chosen, rejected
        chosen, rejected = _transcript(chosen, "chosen"), _transcript(rejected, "rejected")
    assert isinstance(chosen, list)
    assert isinstance(rejected, list)
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if not turns or turns[-1]["role"] != "assistant":
            raise BadRow(name, turns, f"{name} must end with a turn of the assistant")
    if has_prompt:
        if len(chosen) > 1 or len(rejected) > 1:
            raise BadRow("chosen", chosen, "chosen and rejected must be one turn each beside a prompt")
        return rows.prompt_messages(record), chosen[0]["content"], rejected[0]["content"]
    if chosen[:-1] != rejected[:-1] or len(chosen) < 2:
        raise BadRow("rejected", rejected, "rejected must have the same turns as chosen but for the last")
    messages = chosen[:-1]
    if messages[-1]["role"] != "user":
        raise BadRow("chosen", messages, "the turn before the last of chosen must be the user's")
    return messages, chosen[-1]["content"], rejected[-1]["content"]


def _said(record: Mapping[str, Any], name: str) -> str | list[dict[str, str]]:
    value = record.get(name)
    return conversation(value, name) if isinstance(value, list) else text(record, name)


def _transcript(said: str, name: str) -> list[dict[str, str]]:
    """`\\n\\nHuman: …\\n\\nAssistant: …` as turns."""
    parts = _HH.split(said if said.startswith("\n\n") else "\n\n" + said)
    if parts[0].strip() or len(parts) < 3:
        raise BadRow("prompt", None, f"prompt is missing, and {name} is no transcript of Human: and Assistant:")
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [
        {"role": roles[who], "content": words.strip()} for who, words in zip(parts[1::2], parts[2::2], strict=True)
    ]
    return conversation(turns, name)


# --- ratings, rankings and pairs of several annotators ----------------------------------------------------------------


def _ratings(record: dict[str, Any], form: Form) -> _Parts:
    """Responses with what people gave them; the project's form says which of it is meant."""
    prompt = _prompt(record, meta=_where_from(record))
    responses = listing(record, "responses")
    keys = []
    completions = []
    for i, item in enumerate(responses):
        where = f"responses[{i}]"
        if not isinstance(item, dict):
            raise BadRow(where, item, f"{where} must be an object with key and text")
        try:
            keys.append(name_or_number(item, "key", required=True))
            source = name_or_number(item, "system") or "imported"
            kind = SourceKind.HUMAN if source == "human" else SourceKind.IMPORT
            completions.append(CompletionRow(text=text(item, "text"), source=source, source_kind=kind))
        except BadRow as error:
            raise within(error, where) from None
    if not keys or len(set(keys)) < len(keys):
        raise BadRow("responses", keys, "responses must have different keys, at least one")
    match form.kind:
        case FeedbackKind.RATING:
            made = _rated(record, form, prompt, keys)
        case FeedbackKind.RANKING:
            rows.check_size(len(keys), form.size, "responses")
            made = [_everybody(prompt, keys, _rankings(record, keys), prompt.external_id)]
        case FeedbackKind.CHOICE | FeedbackKind.SCALE:
            made = _compared(record, prompt, keys, completions)
    return _Parts(prompt=prompt, completions=tuple(completions), comparisons=tuple(made))


def _everybody(
    prompt: PromptRow, keys: Sequence[str], votes: tuple[VoteRow, ...], external_id: str, first: int = 0
) -> ComparisonRow:
    return ComparisonRow(
        completions=tuple(range(first, first + len(keys))), audience=rows.audience({}, prompt),
        external_id=external_id, votes=votes,
    )  # fmt: skip


def _rated(record: Mapping[str, Any], form: Form, prompt: PromptRow, keys: Sequence[str]) -> list[ComparisonRow]:
    """One comparison of all responses, or one of each alone where the form rates one at a time."""
    given: dict[str, dict[str, dict[str, int]]] = {}  # annotator → key → aspect → points
    points = 0
    for i, item in enumerate(listing(record, "ratings")):
        where = f"ratings[{i}]"
        if not isinstance(item, dict):
            raise BadRow(where, item, f"{where} must be an object")
        try:
            key = name_or_number(item, "response", required=True)
            if key not in keys:
                raise BadRow("response", key, f"response must be one of {', '.join(keys)}")
            aspect = text(item, "aspect", required=False, most=60) or "overall"
            value, most = _point(item)
            given.setdefault(annotator(item), {}).setdefault(key, {})[aspect] = value
        except BadRow as error:
            raise within(error, where) from None
        if points not in {0, most}:
            raise BadRow(f"{where}.scale", most, f"{where}.scale must be the same for all ratings of a line")
        points = most
    groups = [[key] for key in keys] if form.size == 1 else [list(keys)]
    made = []
    for group in groups:
        rows.check_size(len(group), form.size, "responses")
        votes = tuple(
            rows.fit_vote(
                VoteRow(
                    annotator=who,
                    body={
                        "points": points,
                        "ratings": {LETTERS[i]: dict(by_key[key]) for i, key in enumerate(group)},
                    },
                ),
                size=len(group),
            )
            for who, by_key in given.items()
            if all(key in by_key for key in group)
        )
        own = f"{prompt.external_id}/{group[0]}"[:200] if form.size == 1 and prompt.external_id else prompt.external_id
        made.append(_everybody(prompt, group, votes, own, first=keys.index(group[0])))
    return made


def _point(item: Mapping[str, Any]) -> tuple[int, int]:
    """A rating as a point from 1, and how many points there are. A scale of words counts its words."""
    scale = listing(item, "scale")
    if len(scale) < 2:
        raise BadRow("scale", scale, "scale must have its lowest and its highest point, or its words in order")
    value = item.get("value")
    if all(isinstance(word, str) for word in scale):
        if value not in scale:
            raise BadRow("value", value, f"value must be one of {', '.join(map(str, scale))}")
        return scale.index(value) + 1, len(scale)
    low, high = (integer({"scale": end}, "scale", low=-1000, high=1000) or 0 for end in (scale[0], scale[-1]))
    if not 1 <= high - low <= 99:
        raise BadRow("scale", scale, "scale must have 2 to 100 points")
    found = integer(item, "value", low=low, high=high)
    if found is None:
        raise BadRow("value", None, "value is missing")
    return found - low + 1, high - low + 1


def _rankings(record: Mapping[str, Any], keys: Sequence[str]) -> tuple[VoteRow, ...]:
    """A vote of each annotator: the ranking by `overall`, or by the only aspect there is."""
    given: dict[str, dict[str, dict[str, int]]] = {}
    for i, item in enumerate(listing(record, "rankings")):
        where = f"rankings[{i}]"
        if not isinstance(item, dict):
            raise BadRow(where, item, f"{where} must be an object")
        try:
            ranks = mapping(item, "ranks")
            if sorted(ranks) != sorted(keys):
                raise BadRow("ranks", ranks, f"ranks must have each of {', '.join(keys)}")
            places = {key: integer(ranks, key, low=1, high=99) or 1 for key in keys}
            aspect = text(item, "aspect", required=False, most=60) or "overall"
            given.setdefault(annotator(item), {})[aspect] = places
        except BadRow as error:
            raise within(error, where) from None
    votes = []
    for who, aspects in given.items():
        if "overall" not in aspects and len(aspects) > 1:
            raise BadRow("rankings", list(aspects), "rankings must have the aspect overall, or only one aspect")
        ranks = aspects.get("overall") or next(iter(aspects.values()))
        body: dict[str, Any] = {"ranking": _groups({LETTERS[i]: ranks[key] for i, key in enumerate(keys)})}
        votes.append(rows.fit_vote(VoteRow(annotator=who, body=body), size=len(keys)))
    return tuple(votes)


def _groups(ranks: Mapping[str, int]) -> list[list[str]]:
    """Letters from best to worst, equal ones together, of their ranks."""
    return [sorted(x for x in ranks if ranks[x] == place) for place in sorted(set(ranks.values()))]


def _compared(
    record: Mapping[str, Any], prompt: PromptRow, keys: Sequence[str], completions: Sequence[CompletionRow]
) -> list[ComparisonRow]:
    """The pairs that people judged: `pairwise`, and what rankings say of each pair."""
    votes: dict[tuple[int, int], dict[str, VoteRow]] = {}
    for i, item in enumerate(listing(record, "pairwise")):
        where = f"pairwise[{i}]"
        pair = item.get("pair") if isinstance(item, dict) else None
        if not isinstance(item, dict) or not isinstance(pair, list) or len(pair) != 2 or not set(pair) <= set(keys):
            raise BadRow(where, item, f"{where} must have a pair of two of {', '.join(keys)}")
        if item.get("choice") not in [*pair, "tie"]:
            raise BadRow(f"{where}.choice", item.get("choice"), f"{where}.choice must be one of the pair, or tie")
        who = annotator({"annotator": item.get("annotator") or record.get("source") or PUBLISHED})
        first, second = sorted(keys.index(key) for key in pair)
        choice = "tie" if item["choice"] == "tie" else "a" if item["choice"] == keys[first] else "b"
        votes.setdefault((first, second), {})[who] = VoteRow(annotator=who, choice=choice)
    for vote in _rankings(record, keys):
        place = {letter: i for i, group in enumerate(vote.body["ranking"]) for letter in group}
        for first, second in combinations(range(len(keys)), 2):
            one, other = place[LETTERS[first]], place[LETTERS[second]]
            choice = "a" if one < other else "b" if one > other else "tie"
            votes.setdefault((first, second), {})[vote.annotator] = VoteRow(annotator=vote.annotator, choice=choice)
    own = prompt.external_id
    return [
        ComparisonRow(
            completions=pair, audience=rows.audience({}, prompt), votes=tuple(by.values()),
            external_id=f"{own}/{keys[pair[0]]}-{keys[pair[1]]}"[:200] if own else "",
        )
        for pair, by in sorted(votes.items())
    ]  # fmt: skip


# --- logs of an API ---------------------------------------------------------------------------------------------------


def _api_log(record: dict[str, Any], form: Form) -> _Parts:
    """A request and its response in the words of OpenAI's chat completions, or both in one object."""
    request = mapping(record, "request") or mapping(record, "body") or record
    response = mapping(record, "response") or record
    response = mapping(response, "body") or response  # a line of the batch API
    messages = [_logged_turn(turn, f"messages[{i}]") for i, turn in enumerate(listing(request, "messages"))]
    prompt = rows.prompt_messages({"messages": conversation(messages, "messages")})
    choices = listing(response, "choices")
    if not choices:
        raise BadRow("choices", None, "choices is missing: the log has no completion")
    source = text(response, "model", required=False, most=200) or text(request, "model", required=False, most=200)
    limits = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "stop", "presence_penalty",
              "frequency_penalty")  # fmt: skip
    sampling = {key: request[key] for key in limits if request.get(key) is not None}
    usage = mapping(response, "usage")
    completions = []
    for i, choice in enumerate(choices):
        where = f"choices[{i}]"
        if not isinstance(choice, dict):
            raise BadRow(where, choice, f"{where} must be an object")
        said = _logged_turn(mapping(choice, "message"), f"{where}.message")["content"]
        completions.append(
            CompletionRow(
                text=text({f"{where}.message.content": said}, f"{where}.message.content"),
                source=source or "imported",
                finish=Finish.LENGTH if choice.get("finish_reason") == "length" else Finish.END,
                sampling=sampling,
                tokens=integer(usage, "completion_tokens", low=0, high=2**31 - 1) if len(choices) == 1 else None,
            )
        )
    own = name_or_number(record, "custom_id") or name_or_number(response, "id")
    return _Parts(
        prompt=PromptRow(messages=prompt, category=text(record, "category", required=False, most=80), external_id=own),
        completions=tuple(completions),
    )


def _logged_turn(turn: object, where: str) -> dict[str, Any]:
    """A message with its content as one text; parts that are no text, and tools, are not for people to judge."""
    if not isinstance(turn, dict):
        raise BadRow(where, turn, f"{where} must be an object with role and content")
    content = turn.get("content")
    if isinstance(content, list):
        pieces = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if not all(isinstance(piece, str) for piece in pieces):
            raise BadRow(f"{where}.content", content, f"{where}.content must hold texts only")
        content = "".join(map(str, pieces))
    if turn.get("tool_calls") or turn.get("role") in {"tool", "function"}:
        raise BadRow(where, turn.get("role"), f"{where} calls or answers for a tool, which is not read")
    role = {"developer": "system"}.get(str(turn.get("role")), turn.get("role"))
    return {"role": role or "assistant", "content": content}


# --- Label Studio and Argilla -----------------------------------------------------------------------------------------


def _label_studio(record: dict[str, Any], form: Form) -> _Parts:
    """A task of its JSON export: Pairwise and Ranker answers, one annotation a person."""
    data = mapping(record, "data")
    given = {**data, **{key: value for key, value in record.items() if key in {"prompt", "response_a", "response_b"}}}
    prompt = PromptRow(messages=_question(given, "data"), external_id=name_or_number(record, "id"))
    keys, texts = _items(data)
    sources = keys  # the ids of a list are the systems' names as a rule; those of fields are just numbered
    if not keys:
        keys, texts = _responses(given, "data")
    rows.check_size(len(keys), form.size, "data")
    votes: dict[str, VoteRow] = {}
    for i, annotation in enumerate(listing(record, "annotations")):
        where = f"annotations[{i}]"
        if not isinstance(annotation, dict):
            raise BadRow(where, annotation, f"{where} must be an object")
        if annotation.get("was_cancelled"):
            continue
        body = _studio_answer(annotation, keys, where)
        if body is not None:
            choice = body.pop("choice", "")
            who = f"label-studio-{_studio_person(annotation, i)}"[:60]
            votes[who] = rows.fit_vote(VoteRow(annotator=who, choice=choice, body=body), size=len(keys))
    return _elsewhere(prompt, keys, texts, tuple(votes.values()), sources=sources)


def _studio_person(annotation: Mapping[str, Any], i: int) -> str:
    """The id of who completed it: an e-mail address is nobody's business here."""
    by = annotation.get("completed_by")
    if isinstance(by, dict):
        by = by.get("id")
    return str(by) if isinstance(by, int | str) else f"unknown-{i}"


def _studio_answer(annotation: Mapping[str, Any], keys: Sequence[str], where: str) -> dict[str, Any] | None:
    body: dict[str, Any] | None = None
    rationale = ""
    for k, result in enumerate(listing(annotation, "result")):
        place = f"{where}.result[{k}]"
        if not isinstance(result, dict):
            raise BadRow(place, result, f"{place} must be an object")
        value = mapping(result, "value")
        match result.get("type"):
            case "pairwise":
                selected = value.get("selected")
                if selected not in ("left", "right", None) or len(keys) != 2:
                    raise BadRow(f"{place}.value.selected", selected, f"{place}.value.selected must be left or right")
                body = {"choice": "a" if selected == "left" else "b" if selected == "right" else "tie"}
            case "ranker":
                body = {"ranking": [[LETTERS[keys.index(key)]] for key in _ranked(value, keys, place)]}
            case "textarea":
                said = value.get("text")
                rationale = " ".join(map(str, said)) if isinstance(said, list) else str(said or "")
            case _:
                pass
    if body is not None and rationale.strip():
        body["rationale"] = rationale[: rows.MOST_RATIONALE]
    return body


def _ranked(value: Mapping[str, Any], keys: Sequence[str], where: str) -> list[str]:
    """The ids in their new order: a list, or a list under the one name that is no bucket."""
    ranker = value.get("ranker")
    lists = [ranker] if isinstance(ranker, list) else list(ranker.values()) if isinstance(ranker, dict) else []
    for order in lists:
        if isinstance(order, list) and sorted(map(str, order)) == sorted(keys):
            return [str(key) for key in order]
    raise BadRow(f"{where}.value.ranker", ranker, f"{where}.value.ranker must order all of {', '.join(keys)}")


def _items(data: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The list of a Ranker: objects with id and body, html or title."""
    for items in data.values():
        if isinstance(items, list) and items and all(isinstance(item, dict) and "id" in item for item in items):
            texts = [item.get("body") or item.get("html") or item.get("title") for item in items]
            if not all(isinstance(said, str) and said.strip() for said in texts):
                raise BadRow("data", items, "data: each item must have a body, html or title")
            return [str(item["id"]) for item in items], [str(said) for said in texts]
    return [], []


def _question(fields: Mapping[str, Any], where: str) -> list[dict[str, str]]:
    for name in ("prompt", "messages", "instruction", "question", "input", "conversation", "chat"):
        if fields.get(name) is not None:
            return rows.prompt_messages({"prompt": fields[name]})
    raise BadRow(
        where, sorted(fields), f"{where} has no prompt; name its field by columns, such as prompt={where}.task"
    )


def _responses(fields: Mapping[str, Any], where: str) -> tuple[list[str], list[str]]:
    """Fields such as response-1, answer2, text_b in order."""
    found = sorted(
        ((int(match[1]) if match[1].isdigit() else LETTERS.index(match[1]) + 1), name)
        for name in fields
        if (match := _RESPONSE.fullmatch(name.lower()))
    )
    keys = [name for _, name in found]
    if len(keys) < 1:
        raise BadRow(where, sorted(fields), f"{where} has no responses such as response_1 and response_2")
    return keys, [text(fields, name) for name in keys]


def _elsewhere(
    prompt: PromptRow,
    keys: Sequence[str],
    texts: Sequence[str],
    votes: tuple[VoteRow, ...],
    *,
    sources: Sequence[str] = (),
) -> _Parts:
    if not votes:
        _different(texts, "data")
    completions = tuple(
        CompletionRow(text=said, source=source[:200])
        for said, source in zip(texts, sources or ["imported"] * len(texts), strict=True)
    )
    return _Parts(
        prompt=prompt, completions=completions,
        comparisons=(_everybody(prompt, keys, votes, prompt.external_id),),
    )  # fmt: skip


def _argilla(record: dict[str, Any], form: Form) -> _Parts:
    """A record of its export: submitted answers to ranking, rating and label questions about the response fields."""
    fields = mapping(record, "fields")
    prompt = PromptRow(messages=_question(fields, "fields"), external_id=name_or_number(record, "id"))
    keys, texts = _responses(fields, "fields")
    rows.check_size(len(keys), form.size, "fields")
    given: dict[str, dict[str, Any]] = {}
    for question, answers in mapping(record, "responses").items():
        for i, answer in enumerate(answers if isinstance(answers, list) else []):
            where = f"responses.{question}[{i}]"
            if not isinstance(answer, dict):
                raise BadRow(where, answer, f"{where} must be an object")
            if answer.get("status") in {"draft", "discarded"}:
                continue
            who = f"argilla-{answer.get('user_id') or 'unknown'}"[:60]
            _argilla_answer(given.setdefault(who, {}), answer.get("value"), question, keys, form, where)
    votes = []
    for who, body in given.items():
        choice = body.pop("choice", "")
        if choice or body.keys() & {"ranking", "ratings"}:
            votes.append(rows.fit_vote(VoteRow(annotator=who, choice=choice, body=body), size=len(keys)))
    return _elsewhere(prompt, keys, texts, tuple(votes))


def _argilla_answer(
    body: dict[str, Any], value: Any, question: str, keys: Sequence[str], form: Form, where: str
) -> None:
    if isinstance(value, list) and value and all(isinstance(item, dict) and "rank" in item for item in value):
        ranks = {str(item.get("value")): integer(item, "rank", low=1, high=99) or 1 for item in value}
        if sorted(ranks) != sorted(keys):
            raise BadRow(where, value, f"{where} must rank each of {', '.join(keys)}")
        body["ranking"] = _groups({LETTERS[i]: ranks[key] for i, key in enumerate(keys)})
    elif isinstance(value, int) and not isinstance(value, bool):
        if form.kind is FeedbackKind.RATING:
            # `quality-2` or `quality_response-2` rates the second response; a question without a number the only one
            number = re.search(r"[-_ ]?(\d{1,2})$", question)
            place = int(number[1]) - 1 if number and len(keys) > 1 else 0
            if not 0 <= place < len(keys) or (len(keys) > 1 and not number):
                raise BadRow(where, value, f"{where}: the question's name must end with the number of a response")
            aspect = (question[: number.start()] if number and len(keys) > 1 else question)[:60].strip("-_ ")
            aspect = re.sub(r"[-_ ]?response$", "", aspect) or "overall"
            body["points"] = form.points
            row = body.setdefault("ratings", {}).setdefault(LETTERS[place], {})
            row[aspect] = integer({where: value}, where, low=1, high=form.points)
        elif len(keys) == 2 and value in (1, 2):
            body["choice"] = "ab"[value - 1]
    elif isinstance(value, str):
        if len(keys) == 2 and (value in keys or value in {"tie", "equal", "both"}):
            body["choice"] = "ab"[keys.index(value)] if value in keys else "tie"
        elif value.strip() and value not in keys:
            body["rationale"] = value[: rows.MOST_RATIONALE]


_LAYOUTS: dict[ImportKind, Callable[[dict[str, Any], Form], _Parts]] = {
    ImportKind.PROMPTS: _prompts,
    ImportKind.COMPLETIONS: _completions,
    ImportKind.PAIRS: _pairs,
    ImportKind.COMPARISONS: _comparisons,
    ImportKind.VOTES: _votes,
    ImportKind.RATINGS: _ratings,
    ImportKind.API_LOG: _api_log,
    ImportKind.LABEL_STUDIO: _label_studio,
    ImportKind.ARGILLA: _argilla,
}
