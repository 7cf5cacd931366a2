"""How long the lines of a snapshot are for a model, in its own tokens, without loading the model.

The chat template is rendered and the text tokenised as `engine.text` does, by the two small libraries that are beneath
transformers. Where one of them or the model's files are missing, characters are counted instead, and the result says
so.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.engine.records import iter_lines

CHARACTERS_A_TOKEN = 4.0
"""Of English text in the tokenizers of today's models; a stand-in where the model's own cannot be asked."""
MOST_LINES = 4000
"""A longer part is measured on so many of its lines, spread evenly."""
_TURN_TOKENS = 6
"""What a template adds to a turn, where there is none to render."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """Counts tokens of prompts and completions. `basis` says by what; `is_exact` whether as the engine will."""

    prompt: Callable[[Sequence[Mapping[str, str]]], int]
    completion: Callable[[str], int]
    basis: str
    is_exact: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One thing that is trained on: a prompt with one or several completions, in tokens."""

    prompt: int
    completions: tuple[int, ...]

    @property
    def longest(self) -> int:
        return self.prompt + max(self.completions, default=0)

    @property
    def tokens(self) -> int:
        """As `train/tokens` counts: the prompt once for each completion."""
        return self.prompt * max(len(self.completions), 1) + sum(self.completions)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """The examples of a part of a snapshot, each standing for `weight` of them (1 unless only some were measured)."""

    examples: tuple[Example, ...]
    weight: float
    basis: str
    is_exact: bool


def measure(directory: Path) -> Measure:
    """How the model of a directory counts, as well as it can be known here."""
    try:
        tokens = _tokenizer(directory)
    except Exception:  # the library raises this very class for a file that it cannot read
        return _by_characters("characters, four to a token: the model's tokenizer cannot be read here")
    try:
        render = _template(directory)
        render([{"role": "user", "content": "Name a colour."}])
    except Exception:  # a template is a program of somebody else's, and may fail in any way
        return Measure(
            prompt=lambda messages: sum(tokens(turn["content"], special=True) + _TURN_TOKENS for turn in messages),
            completion=lambda text: tokens(text, special=False),
            basis="the model's tokenizer, without its chat template",
            is_exact=False,
        )
    return Measure(
        prompt=lambda messages: tokens(render(messages), special=True),
        completion=lambda text: tokens(text, special=False),
        basis="the model's tokenizer and chat template",
        is_exact=True,
    )


def _by_characters(basis: str) -> Measure:
    def count(text: str) -> int:
        return round(len(text) / CHARACTERS_A_TOKEN)

    return Measure(
        prompt=lambda messages: sum(count(turn["content"]) + _TURN_TOKENS for turn in messages),
        completion=count,
        basis=basis,
        is_exact=False,
    )


@functools.lru_cache(maxsize=8)
def _loaded(directory: Path, changed_at: int, *, special: bool) -> Any:
    from tokenizers import Tokenizer  # noqa: PLC0415 - comes with the engine, which a web server may lack

    loaded = Tokenizer.from_file(str(directory / "tokenizer.json"))
    # Spelled out in a completion, a special token is plain text; in a rendered template it is meant.
    loaded.encode_special_tokens = not special
    return loaded


def _tokenizer(directory: Path) -> Callable[..., int]:
    changed_at = (directory / "tokenizer.json").stat().st_mtime_ns
    loaded = {special: _loaded(directory, changed_at, special=special) for special in (True, False)}

    def tokens(text: str, *, special: bool) -> int:
        return len(loaded[special].encode(text, add_special_tokens=False).ids)

    return tokens


def _template(directory: Path) -> Callable[[Sequence[Mapping[str, str]]], str]:
    """The model's chat template with a generation prompt, as transformers renders it."""
    from jinja2.ext import loopcontrols  # noqa: PLC0415 - as above
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    file = directory / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
    if not isinstance(template, str):
        raise ValueError("no single chat template")
    special = {
        name: _token(config[name]) for name in ("bos_token", "eos_token", "pad_token", "unk_token") if config.get(name)
    }

    def refuse(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    compiled = environment.from_string(template)
    return lambda messages: compiled.render(messages=[*messages], add_generation_prompt=True, **special)


def _token(value: Any) -> str:
    return str(value["content"]) if isinstance(value, Mapping) else str(value)


# --- lines ------------------------------------------------------------------------------------------------------------


def measured(
    directory: Path, *, parts: Sequence[str], config: Mapping[str, Any], method: str, measure: Measure
) -> Lengths:
    """What a method makes of these parts of a snapshot: its examples before those that are too long are dropped."""
    made: list[Texts] = []
    for part in parts:
        examples_of = _prompts_once() if "max_prompt_tokens" in config["data"] else _examples(method, config)
        for line in iter_lines(directory, part):
            if _is_of_half(line, part=part, config=config):
                made += examples_of(line)
    step = max(1, -(-len(made) // MOST_LINES))
    taken = made[::step]
    found = tuple(
        Example(
            prompt=measure.prompt(messages),
            completions=tuple(measure.completion(text) + (finish == "end") for text, finish in completions),
        )
        for messages, completions in taken
    )
    weight = len(made) / len(found) if found else 1.0
    basis = measure.basis if step == 1 else f"{measure.basis}, on {len(found)} of {len(made)} examples"
    return Lengths(examples=found, weight=weight, basis=basis, is_exact=measure.is_exact and step == 1)


Texts = tuple[Sequence[Mapping[str, str]], list[tuple[str, str]]]
"""A prompt, and (text, finish) of each completion."""


def _is_of_half(line: Mapping[str, Any], *, part: str, config: Mapping[str, Any]) -> bool:
    """As `engine.pairs.lines_of`: by the sha256 of the prompt group."""
    half = config["data"].get("half", "all")
    if part != "train" or half == "all":
        return True
    is_first = hashlib.sha256(line["group"].encode()).digest()[0] < 128
    return is_first if half == "first" else not is_first


def _prompts_once() -> Callable[[Mapping[str, Any]], Iterator[Texts]]:
    seen: set[str] = set()

    def examples(line: Mapping[str, Any]) -> Iterator[Texts]:
        key = json.dumps(line["prompt"], sort_keys=True)
        if key not in seen:
            seen.add(key)
            yield line["prompt"], []

    return examples


def _examples(method: str, config: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Iterator[Texts]]:
    def examples(line: Mapping[str, Any]) -> Iterator[Texts]:
        prompt = line["prompt"]
        if "completion" in line:
            yield prompt, [(line["completion"], line.get("finish", "end"))]
        elif "completions" in line:
            texts = line["completions"]
            yield prompt, list(zip(texts, line.get("finishes", ["end"] * len(texts)), strict=True))
        elif "chosen" in line:
            sides = [(line[side], line.get(f"{side}_finish", "end")) for side in ("chosen", "rejected")]
            yield from _sides(method, config, line, prompt, sides)
        else:
            yield prompt, []

    return examples


def _sides(
    method: str,
    config: Mapping[str, Any],
    line: Mapping[str, Any],
    prompt: Sequence[Mapping[str, str]],
    sides: list[tuple[str, str]],
) -> Iterator[Texts]:
    """Of a preference: the pair, both sides on their own, or the better one; ties are no examples but of pairs."""
    if method not in ("kto", "feedme", "binary_conditioning"):
        yield prompt, sides
        return
    posterior = float(line["prob_chosen"])
    q = float(line.get("prob_share", posterior)) if config["data"].get("target") == "share" else posterior
    if q == 0.5:
        return
    better, worse = sides if q > 0.5 else sides[::-1]
    options = config.get("binary_conditioning") or {}
    yield _controlled(prompt, options.get("good")), [better]
    if method != "feedme":
        yield _controlled(prompt, options.get("bad")), [worse]


def _controlled(prompt: Sequence[Mapping[str, str]], control: str | None) -> Sequence[Mapping[str, str]]:
    """As `engine.examples.with_control`."""
    if control is None:
        return prompt
    if prompt and prompt[0]["role"] == "system":
        return [{"role": "system", "content": f"{control}\n\n{prompt[0]['content']}"}, *prompt[1:]]
    return [{"role": "system", "content": control}, *prompt]
