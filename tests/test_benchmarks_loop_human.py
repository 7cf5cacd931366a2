"""What reward models make of people's votes: which vote, which pairs, and what a margin is worth."""

from __future__ import annotations

import pytest

from benchmarks.loop.crowd import MAJORITY, POSTERIOR, SINGLE, one_vote, pair_key
from benchmarks.loop.human import LONGER, Pair, Trial, asked, claims_of, difference, drawn, majority, sides_with

PROMPT = [{"role": "user", "content": "Name a bird."}]


def line(chosen: str, rejected: str, **others: object) -> dict[str, object]:
    return {"prompt": PROMPT, "chosen": chosen, "rejected": rejected, **others}


def pair(group: str, votes: tuple[int, int, int], tokens: tuple[int, int] = (3, 3)) -> Pair:
    return Pair(group=group, prompt=PROMPT, texts=("A robin.", "A trout."), votes=votes, tokens=tokens)


# --- votes ------------------------------------------------------------------------------------------------------------


def test_the_one_vote_of_a_pair_is_one_of_its_own_and_the_seeds():
    votes = [{"annotator": f"w{number}", "choice": "a"} for number in range(5)]
    pairs = [{"id": f"c{number}", "votes": votes} for number in range(40)]
    once, again, other = ([one_vote(one, seed=seed) for one in pairs] for seed in (1, 1, 2))
    assert once == again != other
    assert {one["votes"][0]["annotator"] for one in once} == {vote["annotator"] for vote in votes}
    assert all(len(one["votes"]) == 1 for one in once) and len(pairs[0]["votes"]) == 5


def test_a_pair_has_one_name_whichever_side_a_label_prefers():
    assert pair_key(line("A robin.", "A trout.")) == pair_key(line("A trout.", "A robin.", id="another"))
    assert pair_key(line("A robin.", "A trout.")) != pair_key(line("A robin.", "A carp."))


@pytest.mark.parametrize(
    ("votes", "one"),
    [((3, 1, 1), (1, 0, 0)), ((1, 1, 3), (0, 0, 1)), ((1, 3, 1), (0, 1, 0)), ((2, 1, 2), (0, 1, 0)),
     ((2, 2, 1), (0, 1, 0)), ((1, 2, 2), (0, 1, 0))],
)  # fmt: skip
def test_all_votes_are_one_for_the_side_that_leads_alone(votes, one):
    assert majority(votes) == one


def test_a_margin_sides_with_the_votes_for_what_it_prefers():
    assert sides_with(0.1, votes=(3, 1, 1)) == 3 / 4
    assert sides_with(-0.1, votes=(3, 1, 1)) == 1 / 4
    assert sides_with(0.0, votes=(3, 1, 1)) == sides_with(2.0, votes=(0, 2, 0)) == 1 / 2


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_the_pairs_drawn_are_short_and_the_same_in_any_order():
    lines = {f"key{number}": line("x" * number, "") for number in range(30)}
    backwards = dict(reversed(lines.items()))

    def tokens(one):
        return len(one["chosen"])

    found = drawn(lines, count=5, most_tokens=10, tokens=tokens)
    assert found == drawn(backwards, count=5, most_tokens=10, tokens=tokens)
    assert len(found) == 5 and max(map(tokens, found.values())) <= 10
    assert len(drawn(lines, count=50, most_tokens=10, tokens=tokens)) == 11


def test_each_text_is_scored_once_and_found_again():
    pairs = [
        Pair(group="g", prompt=PROMPT, texts=texts, votes=(1, 0, 0), tokens=(1, 1))
        for texts in (("A robin.", "A trout."), ("A crow.", "A robin."))
    ]
    other = Pair(group="h", prompt=[{"role": "user", "content": "?"}], texts=("A crow.", "!"), votes=(1, 0, 0),
                 tokens=(1, 1))  # fmt: skip
    prompts, completions, places = asked([*pairs, other])
    texts = {(row["prompt_id"], row["index"]): row["text"] for row in completions}
    assert [(texts[first], texts[second]) for first, second in places] == [one.texts for one in [*pairs, other]]
    assert len(prompts) == 2 and len(completions) == len(texts) == 5


# --- a trial ----------------------------------------------------------------------------------------------------------


def trial() -> Trial:
    """Four pairs of two groups; one rule is always right, the other never, the length once in two."""
    pairs = [pair("g", (4, 0, 1), (5, 3)), pair("g", (1, 0, 4), (5, 3)), pair("h", (5, 0, 0), (9, 2)),
             pair("h", (2, 1, 2), (2, 9))]  # fmt: skip
    right = [1.0, -1.0, 1.0, 1.0]
    return Trial(
        title="Made up",
        pairs=pairs,
        margins={
            LONGER: [[2.0, 2.0, 7.0, -7.0]],
            MAJORITY: [right, right],
            SINGLE: [[-x for x in right], [-x for x in right]],
        },
        trained={MAJORITY: 10, SINGLE: 10},
    )


def test_agreement_is_with_single_votes_and_accuracy_with_the_majority():
    made = trial()
    assert made.agreement(MAJORITY) == [4 / 5, 4 / 5, 1.0, 1 / 2]
    assert made.agreement(SINGLE) == pytest.approx([1 / 5, 1 / 5, 0.0, 1 / 2])
    assert made.accuracy(MAJORITY).value == 1.0 and made.accuracy(SINGLE).value == 0.0
    assert made.accuracy(LONGER).value == pytest.approx(2 / 3)  # the divided pair has no majority


def test_seeds_that_disagree_count_half_each():
    made = trial()
    mixed = Trial(
        title=made.title,
        pairs=made.pairs,
        margins={POSTERIOR: [made.margins[MAJORITY][0], made.margins[SINGLE][0]]},
        trained={POSTERIOR: 10},
    )
    assert mixed.agreement(POSTERIOR) == [1 / 2] * 4


def test_a_difference_is_taken_pair_by_pair():
    made = trial()
    found = difference(made, MAJORITY, SINGLE)
    assert found.value == pytest.approx((3 / 5 + 3 / 5 + 1.0 + 0.0) / 4)
    assert difference(made, MAJORITY, MAJORITY).low == difference(made, MAJORITY, MAJORITY).high == 0.0


def test_what_beats_nothing_surely_is_a_claim_that_fails_or_stays_open():
    claims = {claim.claim: claim.holds for claim in claims_of(trial())}
    assert claims["Made up: a model of one vote a pair sides with more votes than “pick the longer”, beyond a 95 % "
                  "interval"] is False  # fmt: skip
    assert claims["Made up: the majority of all votes teaches more than one vote a pair"] is None  # of two groups only
