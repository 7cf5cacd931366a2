"""Text to token ids and back, for one model: the chat template, the end token and the stop tokens, found once at load.

Prompt ids = template(messages) with the generation prompt; completion ids = tok(text) + [end] if it finished. The two
are tokenised apart and joined as ids. No mask is ever derived from the pad id: lengths come from here on.
Knows tokenizers and templates; knows nothing of weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer

from training.engine.errors import ModelError

# For tokenizers without a chat template (base models). The end token closes each assistant turn; no system message is
# made up. A model trained with it keeps it, since saving a model writes the template beside the tokenizer.
FALLBACK_TEMPLATE = (
    "{{ bos_token if bos_token and bos_token != eos_token else '' }}"
    "{% for message in messages %}### {{ message['role'] | capitalize }}:\n{{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)
_PROBE = [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Green"}]


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """How one model reads and writes text.

    `end_id` closes an assistant turn: the one token that scoring, training and sampling use. `stop_ids` are all end ids
    of the generation config (`end_id` is among them); a decoder stops at any. `pad_id` may equal `end_id`.
    """

    tokenizer: Any
    end_id: int
    stop_ids: frozenset[int]
    pad_id: int
    template: str
    template_sha256: str
    tokenizer_sha256: str
    is_fallback_template: bool

    def render(self, messages: Sequence[Mapping[str, str]], *, generation_prompt: bool = True) -> str:
        """The template's text; the SmolLM2 template puts its default system message before a bare user turn."""
        return _render(self.tokenizer, self.template, messages, generation_prompt=generation_prompt)

    def prompt_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        ids: list[int] = self.tokenizer(self.render(messages), add_special_tokens=False)["input_ids"]
        return ids

    def completion_ids(self, completion: str, *, finished: bool) -> list[int]:
        """The ids of a completion, with the end token exactly if it finished.

        A special token spelled out in the text is read as plain characters, so no text can end a turn or open one.
        """
        ids: list[int] = self.tokenizer(completion, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [*ids, self.end_id] if finished else list(ids)

    def conversation_ids(
        self, messages: Sequence[Mapping[str, str]], completion: str, *, finished: bool
    ) -> list[tuple[list[int], bool]]:
        """A conversation and its last completion as runs of ids, each with whether it is scored.

        Scored is every assistant turn and its end token, and nothing else. Turns are found by rendering turn by turn,
        not by markers of the template; the first and every second run is a prompt, the others are completions. An
        assistant turn that nothing comes before answers nothing and belongs to the first prompt.

        Raises:
            ModelError: with a later turn the template writes an earlier one differently (it drops old reasoning, say).
        """
        runs: list[tuple[list[int], bool]] = []
        read = ""  # what the template writes for the runs so far
        for number, message in enumerate(messages):
            if number and message["role"] == "assistant":
                asked, turn = self._turn(messages[: number + 1])
                runs += [(self._prompt_tail(asked, read), False), (self.completion_ids(turn, finished=True), True)]
                read = asked + turn + self._end_text
        runs.append((self._prompt_tail(self.render(messages), read), False))
        runs.append((self.completion_ids(completion, finished=finished), True))
        return runs

    def _turn(self, messages: Sequence[Mapping[str, str]]) -> tuple[str, str]:
        """The template's text before the last message, an assistant turn, and that turn's own text."""
        asked, content = self.render(messages[:-1]), messages[-1]["content"]
        answered = self.render(messages, generation_prompt=False)
        for text in (content, content.strip()):  # some templates trim
            if answered.startswith(asked + text + self._end_text):
                return asked, text
        raise ModelError(f"the template renders a prompt as {asked[-80:]!r}, but with its answer as {answered[-80:]!r}")

    def _prompt_tail(self, prompt: str, read: str) -> list[int]:
        if not prompt.startswith(read):
            raise ModelError(f"the template changes earlier turns: {read[-80:]!r} does not begin {prompt[:200]!r}")
        ids: list[int] = self.tokenizer(prompt[len(read) :], add_special_tokens=False)["input_ids"]
        return ids

    @property
    def _end_text(self) -> str:
        return str(self.tokenizer.decode([self.end_id]))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of completion ids; the end token and other special tokens leave no trace."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def load_text(directory: Path) -> Text:
    """Load the tokenizer of a model directory and check that it can be trained and sampled with.

    Raises:
        ModelError: no tokenizer; the template's rendering of prompt + answer does not start with its rendering of the
            prompt; a doubled or missing BOS; an end that is not a single token or not among the generation config's.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{directory}: no tokenizer that can be read: {error}") from error
    return text_of(tokenizer, end_ids=read_end_ids(directory), name=str(directory))


def text_of(tokenizer: Any, *, end_ids: frozenset[int], name: str) -> Text:
    """Check a tokenizer and its template; `end_ids` are those of the generation config, `name` is used in messages."""
    if not tokenizer.is_fast:
        raise ModelError(f"{name}: needs a tokenizer.json (a fast tokenizer)")
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{name}: the tokenizer has no end token (eos_token)")
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        template = template.get("default")
    is_fallback = not template
    template = template or FALLBACK_TEMPLATE
    end_ids = end_ids or frozenset({int(tokenizer.eos_token_id)})
    end_id = _find_end(tokenizer, template, name=name)
    if end_id not in end_ids:
        ours, theirs = tokenizer.decode([end_id]), [tokenizer.decode([i]) for i in sorted(end_ids)]
        raise ModelError(f"{name}: the template ends a turn with {ours!r}, the generation config with {theirs!r}")
    pad_id = end_id if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
    return Text(
        tokenizer=tokenizer,
        end_id=end_id,
        stop_ids=end_ids,
        pad_id=pad_id,
        template=template,
        template_sha256=hashlib.sha256(template.encode()).hexdigest(),
        tokenizer_sha256=hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        is_fallback_template=is_fallback,
    )


def read_end_ids(directory: Path) -> frozenset[int]:
    """The end ids of generation_config.json, else of config.json; empty when neither names one."""
    for name in ("generation_config.json", "config.json"):
        path = directory / name
        if not path.is_file():
            continue
        found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        if found is not None:
            return frozenset(found if isinstance(found, list) else [found])
    return frozenset()


def _find_end(tokenizer: Any, template: str, *, name: str) -> int:
    prompt = _render(tokenizer, template, _PROBE[:1], generation_prompt=True)
    turn = _render(tokenizer, template, _PROBE, generation_prompt=False)
    if not turn.startswith(prompt):
        raise ModelError(f"{name}: the template renders the prompt as {prompt!r}, but with its answer as {turn!r}")
    answer = _PROBE[1]["content"]
    tail = turn[turn.rindex(answer) + len(answer) :]
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
    if not ids or not tail.startswith(tokenizer.decode(ids[:1])) or ids[0] not in tokenizer.all_special_ids:
        raise ModelError(f"{name}: the template closes an answer with {tail!r}, which is not one special token")
    _check_bos(tokenizer, prompt, name=name)
    return int(ids[0])


def _check_bos(tokenizer: Any, prompt: str, *, name: str) -> None:
    """Exactly one BOS at the start where the tokenizer wants one; never two. (SmolLM2's BOS also opens each turn.)"""
    bos = tokenizer.bos_token_id
    if bos is None:
        return
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    wanted = tokenizer("a")["input_ids"][:1] == [bos]
    if ids[:2] == [bos, bos] or (wanted and ids[:1] != [bos]):
        raise ModelError(f"{name}: the prompt {prompt!r} must begin with exactly one {tokenizer.bos_token!r}")


def _render(tokenizer: Any, template: str, messages: Sequence[Mapping[str, str]], *, generation_prompt: bool) -> str:
    try:
        rendered: str = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=generation_prompt,
        )
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ModelError(f"the chat template refuses turns of {roles}: {error}") from error
    return rendered
