"""Simulated annotators: their votes follow the planted probabilities; and the prompts they are shown in the demo."""

from __future__ import annotations

import json
import math
from collections import Counter
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from annotation.simulation import (
    EMPTY,
    TIE_PROBABILITY,
    SimulatedAnnotator,
    choose,
    from_default_panel,
    probability_left,
    utility,
)

PROMPT = "Explain in two sentences why bread dough rises when yeast is added."
GOOD = (
    "Yeast is a living organism that eats the sugar in the dough and gives off carbon dioxide. The gas is caught in "
    "the stretchy bread dough, which therefore rises."
)
DRAWS = 4000
reals = st.floats(-20, 20)


def shares(annotator: SimulatedAnnotator, *, left: float, right: float, seed: int = 0) -> Counter[str]:
    return Counter(
        choose(annotator, left_utility=left, right_utility=right, seed_key=f"{seed}:{i}") for i in range(DRAWS)
    )


def plausible(count: int, n: int, p: float) -> bool:
    """Inside the exact 99.99 % bounds of a binomial; draws come from a hash, so this cannot flicker."""
    return binomtest(count, n, p).pvalue > 1e-4


@pytest.mark.parametrize("skill", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("left_bias", [-0.5, 0.0, 0.5])
@pytest.mark.parametrize("difference", [-1.5, 0.0, 0.7])
def test_the_share_of_left_votes_is_the_logistic_of_the_difference(skill, left_bias, difference):
    annotator = SimulatedAnnotator(name="ann", skill=skill, left_bias=left_bias)
    left = shares(annotator, left=difference + 3, right=3)["left"]
    assert plausible(left, DRAWS, 1 / (1 + math.exp(-(skill * difference + left_bias))))


def test_ties_occur_inside_the_band_only_and_as_often_as_planned():
    annotator = SimulatedAnnotator(name="ann", skill=1.0, tie_band=0.5)
    near, far = shares(annotator, left=0.2, right=0.0), shares(annotator, left=0.5, right=0.0)
    assert plausible(near["tie"], DRAWS, TIE_PROBABILITY)
    assert plausible(near["left"], near["left"] + near["right"], 1 / (1 + math.exp(-0.2)))
    assert far["tie"] == 0


def test_the_same_call_is_the_same_vote_and_other_keys_and_names_are_other_draws():
    ann, ada = (SimulatedAnnotator(name=name, skill=1.0) for name in ("ann", "ada"))

    def votes(annotator: SimulatedAnnotator, seed: int) -> list[str]:
        return [choose(annotator, left_utility=0, right_utility=0, seed_key=f"{seed}:{i}") for i in range(200)]

    assert votes(ann, 1) == votes(ann, 1)
    assert votes(ann, 1) != votes(ann, 2)
    assert votes(ann, 1) != votes(ada, 1)


def test_annotators_err_independently():
    ann, ada = (SimulatedAnnotator(name=name, skill=1.0) for name in ("ann", "ada"))
    equal = sum(
        choose(ann, left_utility=0, right_utility=0, seed_key=str(i))
        == choose(ada, left_utility=0, right_utility=0, seed_key=str(i))
        for i in range(DRAWS)
    )
    assert plausible(equal, DRAWS, 0.5)


@given(skill=st.floats(0, 5), difference=reals)
def test_without_side_bias_swapping_the_sides_swaps_the_probabilities(skill, difference):
    annotator = SimulatedAnnotator(name="ann", skill=skill)
    swapped = probability_left(annotator, difference=-difference)
    assert probability_left(annotator, difference=difference) == pytest.approx(1 - swapped)


def test_without_side_bias_swapped_sides_give_swapped_shares():
    annotator = SimulatedAnnotator(name="ann", skill=1.3, tie_band=0.2)
    p = 1 / (1 + math.exp(-1.3 * 0.6))
    assert plausible(shares(annotator, left=0.6, right=0.0)["left"], DRAWS, p)
    assert plausible(shares(annotator, left=0.0, right=0.6, seed=1)["right"], DRAWS, p)


def test_a_known_draw_stays_what_it_was():
    ann = SimulatedAnnotator(name="ann", skill=1.0)
    votes = [choose(ann, left_utility=0, right_utility=0, seed_key=f"0:{i}") for i in range(8)]
    assert "".join(vote[0] for vote in votes) == "llrlrlrr"  # votes of a published demo stay as they are


@pytest.mark.parametrize("fields", [{"skill": -1.0}, {"skill": math.nan}, {"left_bias": math.inf}, {"tie_band": -0.1}])
def test_an_annotator_without_sense_is_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        SimulatedAnnotator(**{"name": "ann", "skill": 1.0, **fields})


def test_utilities_must_be_numbers():
    with pytest.raises(ValueError, match="utilities"):
        choose(SimulatedAnnotator(name="ann", skill=1.0), left_utility=math.nan, right_utility=0, seed_key="0")


def test_the_default_panel_differs_in_skill_and_bias_and_follows_its_seed():
    panel = from_default_panel(3)
    assert panel == from_default_panel(3)
    assert panel != from_default_panel(4)
    assert [member.name for member in panel] == [member.name for member in from_default_panel(4)]
    assert panel[0].skill > panel[1].skill > panel[2].skill > 0
    assert panel[1].left_bias > 0 > panel[2].left_bias


def test_a_finished_completion_beats_the_same_one_cut_off():
    assert utility(GOOD, prompt=PROMPT, finish="end") > utility(GOOD, prompt=PROMPT, finish="length")


def test_repetition_costs():
    again = " ".join(["Yeast makes the bread dough rise."] * 8)
    assert utility(again, prompt=PROMPT, finish="end") < utility(GOOD, prompt=PROMPT, finish="end") - 2


def test_words_of_the_prompt_count_and_echoing_all_of_it_earns_nothing_more():
    other = "Ships sail across wide blue seas towards harbours far."
    on = "Yeast makes bread dough rises, " + other[0].lower() + other[1:]
    assert utility(on, prompt=PROMPT, finish="end") > utility(other, prompt=PROMPT, finish="end") + 1
    fuller = on[:-1] + " explain sentences when added."
    assert utility(fuller, prompt=PROMPT, finish="end") - utility(on, prompt=PROMPT, finish="end") < 1


def test_utility_is_not_monotone_in_length():
    def of(words: int) -> float:
        return utility(" ".join(f"w{i}" for i in range(words)) + ".", prompt=PROMPT, finish="end")

    assert of(3) < of(12) < of(25) == of(50) == of(75) > of(150) > of(250)


def test_an_empty_completion_is_worst():
    assert utility(" \n", prompt=PROMPT, finish="end") == EMPTY
    assert utility("yes " * 400, prompt=PROMPT, finish="length") > EMPTY - 3


def test_the_topic_of_a_conversation_is_its_last_question():
    messages = [
        {"role": "user", "content": "Name a planet."},
        {"role": "assistant", "content": "Saturn."},
        {"role": "user", "content": PROMPT},
    ]
    assert utility(GOOD, prompt=messages, finish="end") == utility(GOOD, prompt=PROMPT, finish="end")


@given(st.text(max_size=300), st.text(max_size=100), st.sampled_from(["end", "length"]))
def test_utility_is_a_moderate_number_for_any_text(text, prompt, finish):
    assert -8 <= utility(text, prompt=prompt, finish=finish) <= 3


def test_the_demo_has_enough_varied_prompts():
    lines = resources.files("annotation.demo").joinpath("prompts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    categories = Counter(row["category"] for row in rows)
    assert len(rows) >= 120
    assert len(categories) == 10
    assert min(categories.values()) >= 12
    assert len({row["prompt"][-1]["content"].casefold() for row in rows}) == len(rows)
    for row in rows:
        assert set(row) == {"prompt", "category"}
        roles = [message["role"] for message in row["prompt"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        words = sum(len(message["content"].split()) for message in row["prompt"])
        assert 8 <= words <= 120


def test_the_demo_has_a_guideline_of_a_readable_length():
    text = resources.files("annotation.demo").joinpath("guideline.md").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert 450 <= len(text.split()) <= 700
