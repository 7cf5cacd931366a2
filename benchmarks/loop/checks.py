"""Whether a completion follows what its prompt asks for in a way that a program can see: the rules of IFEval.

A rule is a pure function of the text and of the arguments that the prompt sets; `RULES` lists them. They follow the
definitions of Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models" (arXiv:2311.07911), in the
strict reading of their published program, quirks included: a horizontal rule of dashes is a bullet, a keyword may be
part of a longer word. Where a result can differ: sentences are told apart by a few rules instead of a trained splitter,
words in capitals by an approximation of the Penn Treebank's tokens, languages by `languages`; and a text without
letters is in no language, while the original counts what its detector cannot read as followed.

It says nothing about whether a completion is any good.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.loop.languages import LANGUAGES, language_of

AT_LEAST, LESS_THAN = "at least", "less than"
CONSTRAINED_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")

_POSTSCRIPTS = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}  # in a text in lowercase

# Where one token ends and the next begins, as far as it can change how many of them are in capitals: at spaces and
# punctuation (hyphens and slashes join), and before the second half of a contraction: "I'M" is two.
_TOKEN_BORDER = re.compile(
    r"""[\s,;:@#$%&?!()\[\]{}<>"“”«»‘’…]+|--+|\.{2,}|(?='(?:s|m|d|ll|re|ve)\b)|(?=n't\b)""", flags=re.IGNORECASE
)

_CLOSING = "\"'”’)]}*_`"
_OPENING = "\"'“‘([{*_`"
# A full stop after one of the first ends no sentence; after one of the second it does where a capital follows.
_BEFORE_A_NAME = frozenset("mr mrs ms dr prof st rev gen sen rep gov col capt lt sgt hon messrs vs e.g i.e cf".split())  # noqa: SIM905
_ABBREVIATIONS = frozenset("etc inc ltd co corp jr sr ph.d u.s u.k d.c a.m p.m jan feb aug sept oct nov dec al".split())  # noqa: SIM905


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One rule with the arguments of one prompt.

    Raises:
        ValueError: the rule is unknown, or its arguments are not exactly the ones it takes, each with a value that it
            can use.
    """

    rule: str
    args: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"unknown rule {self.rule!r}")
        taken = set(inspect.signature(RULES[self.rule]).parameters) - {"text"}
        for name in sorted(self.args.keys() - taken):
            raise ValueError(f"{self.rule} takes no {name}, got {self.args[name]!r}")
        for name in sorted(taken - self.args.keys()):
            raise ValueError(f"{self.rule} needs {name}, got only {dict(self.args)!r}")
        for name in sorted(taken):
            wanted, is_right = _VALUES[name]
            if not is_right(self.args[name]):
                raise ValueError(f"{self.rule}: {name} must be {wanted}, got {self.args[name]!r}")

    def holds(self, text: str) -> bool:
        """Whether the text follows the rule; an empty or blank text follows none, not even one that forbids."""
        return bool(text.strip()) and RULES[self.rule](text, **self.args)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedPrompt:
    """A prompt whose completions a program can check."""

    id: str
    prompt: str
    checks: tuple[Check, ...]


def read_checked_prompts(path: Path) -> list[CheckedPrompt]:
    """The prompts of a JSON Lines file that carry `checks`, in the order of the file; the others are passed over.

    Raises:
        ValueError: a check cannot be used; the message names the prompt.
    """
    prompts = []
    with path.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if not row.get("checks"):
                continue
            try:
                checks = tuple(Check(rule=check["rule"], args=check["args"]) for check in row["checks"])
            except ValueError as error:
                raise ValueError(f"prompt {row['id']}: {error}") from error
            prompts.append(CheckedPrompt(id=row["id"], prompt=row["prompt"], checks=checks))
    return prompts


def checks_share(checks: Sequence[Check], completion: str) -> float:
    """Share of a prompt's checks that hold, from 0 to 1; an empty or blank completion has 0.

    Raises:
        ValueError: there are no checks.
    """
    if not checks:
        raise ValueError("a share of no checks is not a number")
    return sum(check.holds(completion) for check in checks) / len(checks)


# Length


def has_number_of_words(text: str, *, num_words: int, relation: str) -> bool:
    return _compare(len(re.findall(r"\w+", text)), relation, num_words)


def has_number_of_sentences(text: str, *, num_sentences: int, relation: str) -> bool:
    return _compare(count_sentences(text), relation, num_sentences)


def has_number_of_paragraphs(text: str, *, num_paragraphs: int) -> bool:
    """Exactly so many between dividers of three asterisks; a divider may open and close the text."""
    paragraphs = _divided(text, "***")
    return all(paragraphs) and len(paragraphs) == num_paragraphs


def has_first_word_in_paragraph(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Exactly so many paragraphs between empty lines, of which the nth, counted from 1, begins with the word."""
    parts = text.split("\n\n")
    if sum(bool(part.strip()) for part in parts) != num_paragraphs or nth_paragraph > num_paragraphs:
        return False
    # Empty parts count here and not above: three new lines in a row move the numbers, as they do in the original.
    words = parts[nth_paragraph - 1].split()
    if not words:
        return False
    opening = words[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", opening, maxsplit=1)[0].lower() == first_word.lower()


def count_sentences(text: str) -> int:
    """Sentences end with . ? or ! before a space; a new line alone ends none, so that a list without them is one."""
    words = text.split()
    return sum(map(_ends_sentence, words, words[1:])) + bool(words)


def _ends_sentence(word: str, following: str) -> bool:
    bare = word.rstrip(_CLOSING)
    if bare.endswith(("?", "!")):
        return True
    if not bare.endswith("."):
        return False
    stem = bare.lstrip(_OPENING).rstrip(".").lower()
    capital_follows = not following.lstrip(_OPENING)[:1].islower()
    if stem in _BEFORE_A_NAME or (len(stem) == 1 and stem.isalpha()):
        return False
    return capital_follows or not (bare.endswith("..") or stem in _ABBREVIATIONS or stem.isdigit())


# Words and letters


def has_keywords(text: str, *, keywords: Sequence[str]) -> bool:
    """Every one of them, anywhere, also inside of longer words."""
    return all(keyword.lower() in text.lower() for keyword in keywords)


def has_keyword_frequency(text: str, *, keyword: str, frequency: int, relation: str) -> bool:
    return _compare(text.lower().count(keyword.strip().lower()), relation, frequency)


def has_no_forbidden_words(text: str, *, forbidden_words: Sequence[str]) -> bool:
    """None of them as a word of its own; inside of a longer word each is allowed."""
    return not any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, flags=re.IGNORECASE) for word in forbidden_words)


def has_letter_frequency(text: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _compare(text.lower().count(letter.lower()), let_relation, let_frequency)


def has_capital_word_frequency(text: str, *, capital_frequency: int, capital_relation: str) -> bool:
    return _compare(sum(map(str.isupper, _TOKEN_BORDER.split(text))), capital_relation, capital_frequency)


def is_english_in_capitals(text: str) -> bool:
    return text.isupper() and language_of(text) == "en"


def is_english_in_lowercase(text: str) -> bool:
    return text.islower() and language_of(text) == "en"


def has_no_comma(text: str) -> bool:
    return "," not in text


def is_in_language(text: str, *, language: str) -> bool:
    return language_of(text) == language


# Form


def has_highlighted_sections(text: str, *, num_highlights: int) -> bool:
    """At least so many `*sections*`; one between double asterisks counts too."""
    marked = re.findall(r"\*([^\n*]*)\*", text) + re.findall(r"\*\*([^\n*]*)\*\*", text)
    return sum(bool(section.strip()) for section in marked) >= num_highlights


def has_sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    """At least so many headings of the word and a number: `SECTION 1`."""
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", text)) >= num_sections


def has_bullets(text: str, *, num_bullets: int) -> bool:
    """Exactly so many lines that begin with a dash or with a single asterisk."""
    return len(re.findall(r"^\s*(?:-|\*[^*])", text, flags=re.MULTILINE)) == num_bullets


def has_title(text: str) -> bool:
    return any(title.strip("<>").strip() for title in re.findall(r"<<[^\n]+>>", text))


def is_json(text: str) -> bool:
    """The whole text is JSON, perhaps in a fence of back-ticks."""
    inner = re.sub(r"^```(?:json|Json|JSON)?", "", text.strip()).removesuffix("```")
    try:
        json.loads(inner.strip())
    except (ValueError, RecursionError):  # brackets without end are a fault of the text, not of the reader
        return False
    return True


def has_constrained_answer(text: str) -> bool:
    return any(answer in text for answer in CONSTRAINED_ANSWERS)


def has_placeholders(text: str, *, num_placeholders: int) -> bool:
    """At least so many `[placeholders]`."""
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def has_postscript(text: str, *, postscript_marker: str) -> bool:
    return re.search(_POSTSCRIPTS[postscript_marker], text.lower()) is not None


def is_quoted(text: str) -> bool:
    """Double quotation marks around the whole text."""
    stripped = text.strip()
    return len(stripped) > 1 and stripped[0] == stripped[-1] == '"'


def ends_with_phrase(text: str, *, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def has_two_answers(text: str) -> bool:
    """Two that differ, between them six asterisks, which may also open and close the text."""
    answers = _divided(text, "******")
    return all(answers) and len(answers) == 2 and answers[0] != answers[1]


def repeats_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    """Begins with the request, word for word."""
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


RULES: dict[str, Callable[..., bool]] = {
    "change_case:capital_word_frequency": has_capital_word_frequency,
    "change_case:english_capital": is_english_in_capitals,
    "change_case:english_lowercase": is_english_in_lowercase,
    "combination:repeat_prompt": repeats_prompt,
    "combination:two_responses": has_two_answers,
    "detectable_content:number_placeholders": has_placeholders,
    "detectable_content:postscript": has_postscript,
    "detectable_format:constrained_response": has_constrained_answer,
    "detectable_format:json_format": is_json,
    "detectable_format:multiple_sections": has_sections,
    "detectable_format:number_bullet_lists": has_bullets,
    "detectable_format:number_highlighted_sections": has_highlighted_sections,
    "detectable_format:title": has_title,
    "keywords:existence": has_keywords,
    "keywords:forbidden_words": has_no_forbidden_words,
    "keywords:frequency": has_keyword_frequency,
    "keywords:letter_frequency": has_letter_frequency,
    "language:response_language": is_in_language,
    "length_constraints:nth_paragraph_first_word": has_first_word_in_paragraph,
    "length_constraints:number_paragraphs": has_number_of_paragraphs,
    "length_constraints:number_sentences": has_number_of_sentences,
    "length_constraints:number_words": has_number_of_words,
    "punctuation:no_comma": has_no_comma,
    "startend:end_checker": ends_with_phrase,
    "startend:quotation": is_quoted,
}

# What each argument may be: in words, and as a test.
_WHOLE = ("a whole number, 1 or more", lambda value: type(value) is int and value >= 1)
_TEXT = ("a text that is not blank", lambda value: isinstance(value, str) and bool(value.strip()))
_TEXTS = (
    "a list of texts that are not blank",
    lambda value: isinstance(value, (list, tuple)) and bool(value) and all(map(_TEXT[1], value)),
)
_RELATION = (f"{AT_LEAST!r} or {LESS_THAN!r}", lambda value: value in (AT_LEAST, LESS_THAN))
_VALUES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "capital_frequency": _WHOLE,
    "capital_relation": _RELATION,
    "end_phrase": _TEXT,
    "first_word": _TEXT,
    "forbidden_words": _TEXTS,
    "frequency": _WHOLE,
    "keyword": _TEXT,
    "keywords": _TEXTS,
    "language": ("one of " + ", ".join(sorted(LANGUAGES)), lambda value: _TEXT[1](value) and value in LANGUAGES),
    "let_frequency": _WHOLE,
    "let_relation": _RELATION,
    "letter": ("one character", lambda value: _TEXT[1](value) and len(value) == 1),
    "nth_paragraph": _WHOLE,
    "num_bullets": _WHOLE,
    "num_highlights": _WHOLE,
    "num_paragraphs": _WHOLE,
    "num_placeholders": _WHOLE,
    "num_sections": _WHOLE,
    "num_sentences": _WHOLE,
    "num_words": _WHOLE,
    "postscript_marker": (
        " or ".join(map(repr, _POSTSCRIPTS)),
        lambda value: _TEXT[1](value) and value in _POSTSCRIPTS,
    ),
    "prompt_to_repeat": _TEXT,
    "relation": _RELATION,
    "section_spliter": _TEXT,
}


def _compare(count: int, relation: str, threshold: int) -> bool:
    return count >= threshold if relation == AT_LEAST else count < threshold


def _divided(text: str, divider: str) -> list[str]:
    """The parts between dividers, without a blank one in front of the first and behind the last."""
    parts = [part.strip() for part in text.split(divider)]
    return [part for index, part in enumerate(parts) if part or 0 < index < len(parts) - 1]
