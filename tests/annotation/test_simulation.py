"""Simulated annotators: their votes follow the planted probabilities; and the prompts they are shown in the demo."""

from __future__ import annotations

import json
import math
import statistics
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
    panel,
    probabilities,
    utility,
)

PROMPT = "Explain in two sentences why bread dough rises when yeast is added."
GOOD = (
    "Yeast is a living organism that eats the sugar in the dough and gives off carbon dioxide. The gas is caught in "
    "the stretchy bread dough, which therefore rises."
)
DRAWS = 4000
reals = st.floats(-20, 20)


def shares(
    annotator: SimulatedAnnotator, *, left: float, right: float, seed: int = 0, length_doublings: float = 0.0
) -> Counter[str]:
    return Counter(
        choose(
            annotator,
            left_utility=left,
            right_utility=right,
            seed_key=f"{seed}:{i}",
            length_doublings=length_doublings,
        )
        for i in range(DRAWS)
    )


def logistic(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def logit_and_error(counts: Counter[str]) -> tuple[float, float]:
    """Log odds of left over right, and their standard error."""
    left, right = counts["left"], counts["right"]
    return math.log(left / right), math.sqrt(1 / left + 1 / right)


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


@pytest.mark.parametrize("lapse", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("tie_width", [0.0, 0.6])
@pytest.mark.parametrize("length_doublings", [-1.0, 0.0, 2.0])
@pytest.mark.parametrize("difference", [-0.8, 0.0, 1.5])
def test_votes_are_as_frequent_as_the_formula_has_them(lapse, tie_width, length_doublings, difference):
    annotator = SimulatedAnnotator(
        name="ann", skill=1.4, left_bias=0.3, length_bias=0.25, tie_width=tie_width, lapse=lapse
    )
    x = 1.4 * difference + 0.3 + 0.25 * length_doublings
    expected = {
        "left": lapse / 2 + (1 - lapse) * logistic(x - tie_width),
        "right": lapse / 2 + (1 - lapse) * logistic(-x - tie_width),
    }
    expected["tie"] = 1 - expected["left"] - expected["right"]
    votes = shares(annotator, left=difference - 2, right=-2, length_doublings=length_doublings)
    for choice, share in expected.items():
        assert plausible(votes[choice], DRAWS, min(1.0, max(0.0, share)))
    stated = probabilities(annotator, left_utility=difference - 2, right_utility=-2, length_doublings=length_doublings)
    assert stated == pytest.approx(expected, abs=1e-12)


def test_the_probabilities_count_the_ties_of_a_band_and_lapses_are_never_ties():
    annotator = SimulatedAnnotator(name="ann", skill=1.0, tie_band=0.5, lapse=0.2)
    stated = probabilities(annotator, left_utility=0.2, right_utility=0.0)
    assert stated["tie"] == pytest.approx(0.8 * TIE_PROBABILITY)
    assert stated["left"] == pytest.approx(0.1 + 0.8 * (1 - TIE_PROBABILITY) * logistic(0.2))
    votes = shares(annotator, left=0.2, right=0.0)
    assert all(plausible(votes[choice], DRAWS, p) for choice, p in stated.items())


@pytest.mark.parametrize("left_bias", [-0.6, 0.0, 0.4])
def test_the_side_bias_is_measured_back_from_pairs_shown_both_ways_round(left_bias):
    """logit P(left | Δ) + logit P(left | −Δ) = 2·bias, whatever the skill."""
    annotator = SimulatedAnnotator(name="ann", skill=1.7, left_bias=left_bias)
    one, error = logit_and_error(shares(annotator, left=0.5, right=0.0))
    other, other_error = logit_and_error(shares(annotator, left=0.0, right=0.5, seed=1))
    assert (one + other) / 2 == pytest.approx(left_bias, abs=4 * math.hypot(error, other_error) / 2)


@pytest.mark.parametrize("length_bias", [-0.3, 0.0, 0.5])
def test_the_length_bias_is_measured_back_a_doubling(length_bias):
    annotator = SimulatedAnnotator(name="ann", skill=1.0, left_bias=0.2, length_bias=length_bias)
    longer, error = logit_and_error(shares(annotator, left=0.3, right=0.0, length_doublings=1.5))
    shorter, other_error = logit_and_error(shares(annotator, left=0.3, right=0.0, seed=1, length_doublings=-1.5))
    assert (longer - shorter) / 3 == pytest.approx(length_bias, abs=4 * math.hypot(error, other_error) / 3)


@pytest.mark.parametrize("width", [0.25, 1.0])
def test_the_tie_width_is_the_log_of_rao_and_kuppers_theta(width):
    """Between equals P(tie) = (θ − 1)/(θ + 1), so log θ = log((1 + ties)/(1 − ties))."""
    annotator = SimulatedAnnotator(name="ann", skill=2.0, tie_width=width)
    theta = math.exp(width)
    votes = shares(annotator, left=1.0, right=1.0)
    assert plausible(votes["tie"], DRAWS, (theta - 1) / (theta + 1))
    assert plausible(votes["left"], votes["left"] + votes["right"], 0.5)


def test_a_lapse_changes_only_the_votes_that_lapse_and_half_of_those_where_all_else_is_certain():
    sure, lapsing = (SimulatedAnnotator(name="ann", skill=100.0, lapse=lapse) for lapse in (0.0, 0.3))
    assert shares(sure, left=1.0, right=0.0) == {"left": DRAWS}
    assert plausible(shares(lapsing, left=1.0, right=0.0)["right"], DRAWS, 0.3 / 2)


@given(
    skill=st.floats(0, 5),
    difference=reals,
    width=st.floats(0, 3),
    lapses=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
)
def test_a_lapse_only_lowers_the_agreement_with_the_better_one_and_with_each_other(skill, difference, width, lapses):
    """Among decided votes, for annotators without biases."""

    def agreement(lapse: float) -> tuple[float, float]:
        ann = SimulatedAnnotator(name="ann", skill=skill, tie_width=width, lapse=lapse)
        p = probabilities(ann, left_utility=difference, right_utility=0.0)
        decided = p["left"] + p["right"]
        better = p["left" if difference > 0 else "right"] / decided if decided else 0.5
        return better, better**2 + (1 - better) ** 2

    (right, together), (right_later, together_later) = map(agreement, lapses)
    assert right_later <= right + 1e-9
    assert together_later <= together + 1e-9


@given(
    skill=st.floats(0, 5),
    difference=reals,
    doublings=st.floats(-5, 5),
    left_bias=st.floats(-3, 3),
    length_bias=st.floats(-2, 2),
    width=st.floats(0, 3),
    lapse=st.floats(0, 1),
)
def test_swapping_the_sides_and_the_side_bias_swaps_the_probabilities(
    skill, difference, doublings, left_bias, length_bias, width, lapse
):
    rest = {"name": "ann", "skill": skill, "length_bias": length_bias, "tie_width": width, "lapse": lapse}
    here = probabilities(
        SimulatedAnnotator(left_bias=left_bias, **rest),
        left_utility=difference,
        right_utility=0.0,
        length_doublings=doublings,
    )
    there = probabilities(
        SimulatedAnnotator(left_bias=-left_bias, **rest),
        left_utility=0.0,
        right_utility=difference,
        length_doublings=-doublings,
    )
    assert [here["left"], here["tie"], here["right"]] == pytest.approx([there["right"], there["tie"], there["left"]])
    assert sum(here.values()) == pytest.approx(1)
    assert all(0 <= p <= 1 for p in here.values())


def test_without_side_bias_swapped_sides_give_swapped_shares():
    annotator = SimulatedAnnotator(name="ann", skill=1.3, tie_band=0.2)
    p = 1 / (1 + math.exp(-1.3 * 0.6))
    assert plausible(shares(annotator, left=0.6, right=0.0)["left"], DRAWS, p)
    assert plausible(shares(annotator, left=0.0, right=0.6, seed=1)["right"], DRAWS, p)


def test_a_known_draw_stays_what_it_was():
    ann = SimulatedAnnotator(name="ann", skill=1.0)
    votes = [choose(ann, left_utility=0, right_utility=0, seed_key=f"0:{i}") for i in range(8)]
    assert "".join(vote[0] for vote in votes) == "llrlrlrr"  # votes of a published demo stay as they are


@pytest.mark.parametrize(
    "fields",
    [
        {"skill": -1.0},
        {"skill": math.nan},
        {"left_bias": math.inf},
        {"tie_band": -0.1},
        {"tie_band": 0.1, "tie_width": 0.1},
        {"tie_width": -0.1},
        {"length_bias": math.nan},
        {"lapse": -0.1},
        {"lapse": 1.1},
        {"lapse": math.nan},
    ],
)
def test_an_annotator_without_sense_is_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        SimulatedAnnotator(**{"name": "ann", "skill": 1.0, **fields})


def test_utilities_must_be_numbers():
    with pytest.raises(ValueError, match="utilities"):
        choose(SimulatedAnnotator(name="ann", skill=1.0), left_utility=math.nan, right_utility=0, seed_key="0")
    with pytest.raises(ValueError, match="length_doublings"):
        choose(
            SimulatedAnnotator(name="ann", skill=1.0),
            left_utility=0,
            right_utility=0,
            seed_key="0",
            length_doublings=math.inf,
        )


def test_the_default_panel_differs_in_skill_and_bias_and_follows_its_seed():
    panel = from_default_panel(3)
    assert panel == from_default_panel(3)
    assert panel != from_default_panel(4)
    assert [member.name for member in panel] == [member.name for member in from_default_panel(4)]
    assert panel[0].skill > panel[1].skill > panel[2].skill > 0
    assert panel[1].left_bias > 0 > panel[2].left_bias


def test_a_panel_follows_its_seed_and_a_larger_one_begins_with_it():
    assert panel(3, 20)[:5] == panel(3, 5)
    assert panel(3, 5) != panel(4, 5)
    assert len({member.name for member in panel(3, 1200)}) == 1200


def test_a_panel_differs_as_it_is_told_to():
    people = 4000
    drawn = panel(
        1,
        people,
        skill=1.5,
        skill_spread=0.4,
        lapse=0.1,
        left_bias=0.1,
        left_bias_spread=0.3,
        length_bias=0.2,
        length_bias_spread=0.05,
        tie_width=0.2,
    )

    def close(values: list[float], *, mean: float, sd: float) -> bool:
        return abs(statistics.fmean(values) - mean) < 4 * sd / math.sqrt(people)

    skills = [member.skill for member in drawn]
    assert close(skills, mean=1.5, sd=1.5 * math.sqrt(math.exp(0.4**2) - 1))
    assert statistics.stdev(map(math.log, skills)) == pytest.approx(0.4, rel=4 / math.sqrt(2 * people))
    for values, mean, sd in (
        ([member.left_bias for member in drawn], 0.1, 0.3),
        ([member.length_bias for member in drawn], 0.2, 0.05),
    ):
        assert close(values, mean=mean, sd=sd)
        assert statistics.stdev(values) == pytest.approx(sd, rel=4 / math.sqrt(2 * people))
    lapses = [member.lapse for member in drawn]
    b = 1 / 0.1 - 1
    assert close(lapses, mean=0.1, sd=math.sqrt(b / ((1 + b) ** 2 * (2 + b))))
    assert statistics.median(lapses) < 0.1
    assert {member.tie_width for member in drawn} == {0.2}


def test_a_panel_told_not_to_differ_does_not():
    same = panel(0, 9, skill=2.0, skill_spread=0, lapse=0, left_bias_spread=0, length_bias_spread=0)
    assert {(m.skill, m.left_bias, m.length_bias, m.lapse) for m in same} == {(2.0, 0.0, 0.0, 0.0)}


@pytest.mark.parametrize(
    ("people", "fields", "name"),
    [
        (0, {}, "people"),
        (3, {"skill": -1.0}, "skill"),
        (3, {"skill_spread": -0.1}, "skill_spread"),
        (3, {"left_bias_spread": math.nan}, "left_bias_spread"),
        (3, {"length_bias_spread": math.inf}, "length_bias_spread"),
        (3, {"lapse": 1.0}, "lapse"),
    ],
)
def test_a_panel_without_sense_is_refused(people, fields, name):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        panel(0, people, **fields)


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
