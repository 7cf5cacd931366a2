"""Simulated annotators: votes from any utility, for the headless demo, for experiments with a known truth, and tests.

An annotator sees the difference of two utilities through noise and bias; whose utilities they are the caller says, for
example the scores of a gold reward model. What annotators say is not data about anything. The `utility` of this module
is a short list of rules about the surface of a text, written down here so that everybody can see what a model trained
on such votes has learned; it cannot tell whether a completion is true. Never mix these votes with votes of people, and
never report a result on them as one about people.

Pure functions: no database, no clock, no random state. Votes are drawn from a hash, so the same call is the same vote.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

Choice = Literal["left", "right", "tie"]
Finish = Literal["end", "length"]

# A near-equal pair is called a tie this often, so that "tie" is neither automatic nor rare inside the band.
TIE_PROBABILITY = 0.6

# The planted preference, in logits. Each rule is worth about as much as the others at their worst and best.
FINISHED = 1.0
REPETITION = 4.0
ON_TOPIC = 2.0
TOPIC_ENOUGH = 0.4  # share of the prompt's content words that counts as fully on topic; echoing more earns nothing
COMFORTABLE_WORDS = (25, 75)  # neither rewarded nor punished between these
LENGTH = 1.0  # loss per squared doubling outside
LENGTH_AT_MOST = 3.0
EMPTY = -6.0

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_SENTENCE_ENDS = (".", "!", "?", "…", '"', "”", "'", "’", ")", "]", "`", "*", ":", ";", ">", "}")
_FUNCTION_WORDS = frozenset(
    """
    a about all an and any are as at be been but by can could did do does each few for from had has have he her his how
    i if in into is it its just me more most my no nor not of on one only or other our out over own please she should so
    some such than that the their them then there these they this those to too two under up use very was we were what
    when where which while who why will with without would write you your
    """.split()  # noqa: SIM905 -- a hundred quotation marks would not help a reader
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedAnnotator:
    """Somebody who sees the difference of two utilities through noise; with `skill` alone, Bradley and Terry's model.

    Logits are in nats.

    Attributes:
        skill: how strongly a logit of utility moves the choice; 0 is a coin, 1 follows the utility as it is. The
            discrimination of item response theory (Birnbaum 1968).
        left_bias: logits in favour of whatever is on the left (Davidson and Beaver 1977).
        tie_band: utilities closer than this, in logits, may be called a tie; 0 for never. The demo's own rule.
        tie_width: half the width, in logits, of what feels equal to somebody with this skill and these biases: log θ of
            Rao and Kupper (1967); 0 for nothing. Not together with `tie_band`.
        length_bias: logits in favour of the longer one for each doubling of the ratio of lengths, as the bias report
            measures it.
        lapse: share of votes that are a coin between left and right whatever is shown (λ of Wichmann and Hill 2001).
    """

    name: str
    skill: float
    left_bias: float = 0.0
    tie_band: float = 0.0
    tie_width: float = 0.0
    length_bias: float = 0.0
    lapse: float = 0.0

    def __post_init__(self) -> None:
        for field, value in (("left_bias", self.left_bias), ("length_bias", self.length_bias)):
            if not math.isfinite(value):
                raise ValueError(f"{field} must be finite, got {value}")
        for field, value in (("skill", self.skill), ("tie_band", self.tie_band), ("tie_width", self.tie_width)):
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{field} must be finite and not negative, got {value}")
        if not 0 <= self.lapse <= 1:
            raise ValueError(f"lapse must be a share from 0 to 1, got {self.lapse}")
        if self.tie_band and self.tie_width:
            raise ValueError(f"tie_band must be 0 where tie_width is not, got {self.tie_band} and {self.tie_width}")


def panel(
    seed: int,
    people: int,
    *,
    skill: float = 1.0,
    skill_spread: float = 0.5,
    lapse: float = 0.05,
    left_bias: float = 0.0,
    left_bias_spread: float = 0.2,
    length_bias: float = 0.0,
    length_bias_spread: float = 0.2,
    tie_width: float = 0.0,
) -> tuple[SimulatedAnnotator, ...]:
    """Annotators who differ, `simulated-001` and on; the first of a larger panel are the panel of fewer people.

    The distributions are the usual ones; their defaults are assumptions, not measurements of anybody.

    Args:
        skill, skill_spread: mean, and SD of the logarithm; log-normal, as a discrimination is in Mislevy 1986.
        lapse: mean, less than 1; Beta(1, 1/mean − 1), so that most lapse less often than the mean and few far more.
        left_bias, length_bias: means, and SDs of normal distributions, in logits.
        tie_width: everybody's.
    """
    if people < 1:
        raise ValueError(f"people must be 1 or more, got {people}")
    for field, value in (
        ("skill_spread", skill_spread),
        ("left_bias_spread", left_bias_spread),
        ("length_bias_spread", length_bias_spread),
    ):
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{field} must be finite and not negative, got {value}")
    if not 0 <= lapse < 1:
        raise ValueError(f"lapse must be a share from 0 to less than 1, got {lapse}")

    def member(name: str) -> SimulatedAnnotator:
        of_skill, of_lapse, of_side, of_length = _uniforms(f"panel:{seed}", name)
        return SimulatedAnnotator(
            name=name,
            skill=skill * math.exp(skill_spread * _normal(of_skill) - skill_spread**2 / 2),
            left_bias=left_bias + left_bias_spread * _normal(of_side),
            tie_width=tie_width,
            length_bias=length_bias + length_bias_spread * _normal(of_length),
            lapse=1 - (1 - of_lapse) ** (lapse / (1 - lapse)),
        )

    return tuple(member(f"simulated-{number:03d}") for number in range(1, people + 1))


def from_default_panel(seed: int) -> tuple[SimulatedAnnotator, SimulatedAnnotator, SimulatedAnnotator]:
    """Three annotators: a careful one, an average one who leans left, a hasty one who leans right.

    The seed moves each skill by up to 10 % and each bias by up to 0.05 logits, so that panels differ a little.
    """

    def shift(name: str) -> tuple[float, float]:
        first, second, *_ = _uniforms(f"panel:{seed}", name)
        return 1 + 0.2 * (first - 0.5), 0.1 * (second - 0.5)

    def member(name: str, *, skill: float, left_bias: float, tie_band: float) -> SimulatedAnnotator:
        factor, offset = shift(name)
        return SimulatedAnnotator(name=name, skill=skill * factor, left_bias=left_bias + offset, tie_band=tie_band)

    return (
        member("simulated-careful", skill=2.0, left_bias=0.0, tie_band=0.15),
        member("simulated-average", skill=1.2, left_bias=0.2, tie_band=0.3),
        member("simulated-hasty", skill=0.6, left_bias=-0.3, tie_band=0.5),
    )


def choose(
    annotator: SimulatedAnnotator,
    *,
    left_utility: float,
    right_utility: float,
    seed_key: str,
    length_doublings: float = 0.0,
) -> Choice:
    """One vote, drawn with the `probabilities`.

    Args:
        left_utility, right_utility: in logits, from `utility` or anything else.
        seed_key: names the draw, for example f"{seed}:{comparison}"; the same annotator and key give the same vote.
        length_doublings: log2 of the left one's length over the right one's (`statistics.bias.log2_ratio`).
    """
    difference, logit = _seen(annotator, left_utility, right_utility, length_doublings)
    tie_draw, side_draw, lapse_draw, coin_draw = _uniforms(seed_key, annotator.name)
    if lapse_draw < annotator.lapse:
        return "left" if coin_draw < 0.5 else "right"
    if abs(difference) < annotator.tie_band and tie_draw < TIE_PROBABILITY:
        return "tie"
    if side_draw < _logistic(logit - annotator.tie_width):
        return "left"
    return "tie" if side_draw < _logistic(logit + annotator.tie_width) else "right"


def probabilities(
    annotator: SimulatedAnnotator, *, left_utility: float, right_utility: float, length_doublings: float = 0.0
) -> dict[Choice, float]:
    """How likely each vote is.

    With x = skill·(u_left − u_right) + left_bias + length_bias·doublings, half width w and lapses λ:
    P(left) = λ/2 + (1 − λ)·σ(x − w) and P(right) = λ/2 + (1 − λ)·σ(−x − w); the rest are ties. Inside a tie band
    `TIE_PROBABILITY` of the votes that are no lapse are ties, and the others are drawn so with w = 0.
    """
    difference, logit = _seen(annotator, left_utility, right_utility, length_doublings)
    attended = 1 - annotator.lapse
    decided = attended * (1 - TIE_PROBABILITY if abs(difference) < annotator.tie_band else 1)
    left = annotator.lapse / 2 + decided * _logistic(logit - annotator.tie_width)
    right = annotator.lapse / 2 + decided * _logistic(-logit - annotator.tie_width)
    return {"left": left, "tie": max(0.0, 1 - left - right), "right": right}


def utility(text: str, *, prompt: str | Sequence[Mapping[str, str]], finish: Finish) -> float:
    """How much the planted preference likes a completion, in logits.

    Four rules: it is finished rather than cut off; it does not repeat itself; it uses words of the prompt; its length
    is moderate (25 to 75 words lose nothing, shorter and longer lose alike: utility is not monotone in length). What it
    does not see: whether the text is true, follows the form that was asked for, or makes sense.

    Args:
        prompt: the text, or the messages, of which the last one from the user is the topic.
        finish: "end" if the model ended by itself, "length" if it was cut off.
    """
    words = _words(text)
    if not words:
        return EMPTY
    return (
        _finished(text, finish=finish)
        - REPETITION * repeated_share(words)
        + ON_TOPIC * min(1.0, topic_share(words, prompt=prompt) / TOPIC_ENOUGH)
        - _length_loss(len(words))
    )


def repeated_share(words: Sequence[str]) -> float:
    """Share of the three-word sequences that occurred before: 0 in a text that never repeats one."""
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(triples)) / len(triples) if triples else 0.0


def topic_share(words: Sequence[str], *, prompt: str | Sequence[Mapping[str, str]]) -> float:
    """Share of the prompt's content words that the text uses; 1 if the prompt has none."""
    asked = prompt if isinstance(prompt, str) else _last_user_text(prompt)
    topic = {_stem(word) for word in _words(asked) if word not in _FUNCTION_WORDS}
    used = {_stem(word) for word in words}
    return len(topic & used) / len(topic) if topic else 1.0


def _last_user_text(messages: Sequence[Mapping[str, str]]) -> str:
    asked = [message["content"] for message in messages if message["role"] == "user"]
    return asked[-1] if asked else ""


def _finished(text: str, *, finish: Finish) -> float:
    if finish == "length":
        return -FINISHED
    return FINISHED if text.rstrip().endswith(_SENTENCE_ENDS) else FINISHED / 2


def _length_loss(words: int) -> float:
    shortest, longest = COMFORTABLE_WORDS
    doublings = max(0.0, math.log2(shortest / words), math.log2(words / longest))
    return min(LENGTH * doublings**2, LENGTH_AT_MOST)


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _stem(word: str) -> str:
    """The word without a plural s: enough to let "prompts" meet "prompt"."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _seen(
    annotator: SimulatedAnnotator, left_utility: float, right_utility: float, length_doublings: float
) -> tuple[float, float]:
    """u_left − u_right, and the logit of left over right that the annotator makes of it and of what is shown."""
    difference = left_utility - right_utility
    if not math.isfinite(difference):
        raise ValueError(f"utilities must be finite, got {left_utility} and {right_utility}")
    if not math.isfinite(length_doublings):
        raise ValueError(f"length_doublings must be finite, got {length_doublings}")
    return difference, (annotator.skill * difference + annotator.left_bias + annotator.length_bias * length_doublings)


def _logistic(logit: float) -> float:
    # Written with tanh, which does not overflow.
    return (1 + math.tanh(logit / 2)) / 2


def _normal(uniform: float) -> float:
    """The standard normal deviate at this place of a draw in [0, 1)."""
    return NormalDist().inv_cdf(max(uniform, 2**-54))  # 0 would be −∞


def _uniforms(seed_key: str, name: str) -> tuple[float, float, float, float]:
    """Four independent uniforms in [0, 1) that depend on nothing but the arguments."""
    # The length in front keeps ("a", "b:c") and ("a:b", "c") apart.
    digest = hashlib.sha256(f"{len(seed_key)}:{seed_key}:{name}".encode()).digest()
    # 53 bits: what a float holds exactly, so that 1.0 cannot come out.
    first, second, third, fourth = (int.from_bytes(digest[i : i + 8], "big") >> 11 for i in (0, 8, 16, 24))
    return first / 2**53, second / 2**53, third / 2**53, fourth / 2**53
