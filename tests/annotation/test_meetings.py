"""Who meets whom: properties of every strategy, and what each one is for. No database."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation.errors import Invalid
from annotation.meetings import MOST_POOL, Meeting, Met, Pair, Rule, Strategy, choose
from annotation.models import Completion, Prompt, content_hash
from annotation.similarity import are_near_identical, likeness, shape

WORDS = ["red", "green", "blue", "amber", "violet", "teal", "ochre", "ivory", "slate", "coral"]


def prompt(number=0):
    return Prompt(pk=number, content_hash=f"{number:064x}", messages=[{"role": "user", "content": "Which?"}])


def completion(pk, text, *, source=1, index=0):
    return Completion(pk=pk, text=text, content_hash=content_hash(text), source_id=source, index=index)


def pool(*texts_by_source):
    """Completions of sources 1, 2, …"""
    keys = itertools.count(1)
    return [
        completion(next(keys), text, source=source, index=index)
        for source, texts in enumerate(texts_by_source, start=1)
        for index, text in enumerate(texts)
    ]


def texts(meetings):
    return {frozenset(item.text for item in made.completions) for made in meetings}


def sources(made):
    return sorted(item.source_id for item in made.completions)


def wordy(i):
    """Texts that have little in common."""
    return " ".join(WORDS[(i * k + k) % len(WORDS)] + str(i) for k in range(1, 7))


completions = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.one_of(
            st.sampled_from(["Yes", "yes.", "No", "", "  ", "It is so.", "it  is so", *map(wordy, range(8))]),
            st.text("ab ", max_size=8),
        ),
    ),
    max_size=14,
).map(lambda rows: [completion(i, text, source=source, index=i) for i, (source, text) in enumerate(rows, start=1)])
rules = st.builds(
    Rule,
    strategy=st.sampled_from([strategy for strategy in Strategy if not strategy.spans_prompts]),
    size=st.integers(1, 5),
    per_prompt=st.one_of(st.none(), st.integers(1, 6)),
    seed=st.integers(0, 3),
)


@settings(max_examples=300, deadline=None)
@given(given_=completions, rule=rules, data=st.data())
def test_whatever_the_rule_only_different_texts_meet_and_each_set_once(given_, rule, data):
    scores = {item.pk: float(item.pk % 5) for item in given_}
    keys = [item.pk for item in given_]
    against = data.draw(st.sets(st.sampled_from(keys))) if keys and rule.size > 1 else set()
    made = choose(prompt(), given_, rule, against=against, scores=scores, met=Met())
    assert len(made) <= rule.limit
    assert len({item.hash for item in made}) == len(made)
    for one in made:
        assert len(one.completions) == rule.size == len({item.pk for item in one.completions})
        assert all(item.text.strip() for item in one.completions)
        for x, y in itertools.combinations(one.completions, 2):
            assert not are_near_identical(x.text, y.text)
        if against:
            assert 0 < sum(item.pk in against for item in one.completions) < rule.size
    again = choose(prompt(), given_[::-1], rule, against=against, scores=scores, met=Met())
    assert [item.hash for item in again] == [item.hash for item in made]
    assert [[c.pk for c in m.completions] for m in again] == [[c.pk for c in m.completions] for m in made] or len(
        {item.content_hash for item in given_}
    ) < len(given_)  # equal texts may stand for each other


@settings(max_examples=100, deadline=None)
@given(given_=completions)
def test_all_pairs_are_all_that_may_meet(given_):
    wanted = {
        frozenset((one.content_hash, other.content_hash))
        for one, other in itertools.combinations(given_, 2)
        if one.text.strip() and other.text.strip() and not are_near_identical(one.text, other.text)
    }
    made = choose(prompt(), given_, Rule(strategy=Strategy.ALL))
    assert {frozenset(item.content_hash for item in one.completions) for one in made} == wanted


def test_random_pairs_are_so_many_and_those_of_the_seed():
    given_ = pool([wordy(i) for i in range(6)])
    drawn = [choose(prompt(), given_, Rule(strategy=Strategy.RANDOM, per_prompt=4, seed=seed)) for seed in range(30)]
    assert {len(made) for made in drawn} == {4}
    assert len({tuple(sorted(m.hash for m in made)) for made in drawn}) > 20
    met = Counter(pair for made in drawn for pair in texts(made))
    assert len(met) == 15  # every pair is drawn by some seed
    assert len(choose(prompt(), given_, Rule(strategy=Strategy.RANDOM, per_prompt=99))) == 15


def test_across_sources_by_index_and_neighbours_of_one():
    one, two, three = ([wordy(10 * s + i) for i in range(3)] for s in range(3))
    rule = Rule(strategy=Strategy.CROSS_SOURCE)
    assert texts(choose(prompt(), pool([*one, wordy(99)]), rule)) == {
        frozenset(one[:2]), frozenset((one[2], wordy(99)))
    }  # fmt: skip
    made = texts(choose(prompt(), pool(one, two[:2], three[:1]), rule))
    assert made == {frozenset(pair) for pair in (
        (one[0], two[0]), (one[1], two[1]), (one[0], three[0]), (two[0], three[0]))}  # fmt: skip


def test_sets_of_more_take_from_every_source_before_they_take_again():
    own = [[wordy(10 * s + i) for i in range(2)] for s in range(4)]
    made = choose(prompt(), pool(*own), Rule(size=4))
    assert texts(made) == {frozenset(row) for row in zip(*own, strict=True)}
    (single,) = choose(prompt(), pool([wordy(i) for i in range(5)]), Rule(size=4))
    assert len(single.completions) == 4


def test_each_completion_meets_the_opponents_in_turn():
    own, human = [wordy(i) for i in range(4)], [wordy(20), wordy(21)]
    made = choose(prompt(), pool(own, human), Rule(), against={5, 6})
    assert texts(made) == {frozenset((own[i], human[i % 2])) for i in range(4)}
    for size in (3, 4):
        for one in choose(prompt(), pool(own, human), Rule(size=size), against={5, 6}):
            assert sum(item.pk in {5, 6} for item in one.completions) == 1
    assert choose(prompt(), pool(own), Rule(), against={99}) == []


def test_the_hardest_are_those_with_the_closest_scores():
    given_ = pool([wordy(i) for i in range(5)])
    scores = dict(zip(range(1, 6), (0.0, 5.0, 2.0, 2.5, 9.0), strict=True))
    rule = Rule(strategy=Strategy.CLOSEST_SCORE, per_prompt=2)
    made = choose(prompt(), given_, rule, scores=scores)
    assert [sorted(item.pk for item in one.completions) for one in made] == [[3, 4], [1, 3]]
    (three,) = choose(prompt(), given_, Rule(strategy=Strategy.CLOSEST_SCORE, size=3), scores=scores)
    assert sorted(item.pk for item in three.completions) == [1, 3, 4]


def test_the_most_different_have_least_in_common():
    base = "alpha beta gamma delta epsilon zeta eta theta iota kappa"
    given_ = pool([base, base.replace("alpha beta gamma", "one two three"), wordy(3)])
    (made,) = choose(prompt(), given_, Rule(strategy=Strategy.MOST_DIFFERENT))
    least = min(itertools.combinations(given_, 2), key=lambda p: likeness(shape(p[0].text), shape(p[1].text)))
    assert {item.pk for item in made.completions} == {item.pk for item in least}
    (three,) = choose(prompt(), given_, Rule(strategy=Strategy.MOST_DIFFERENT, size=3))
    assert len(three.completions) == 3


@pytest.mark.parametrize("size", [2, 3])
def test_balanced_sources_meet_equally_often(size):
    met = Met()
    met.times[frozenset((1, 2))] = 7  # what the project has already
    for number in range(60):
        given_ = pool(*([wordy(100 * number + s)] for s in range(5)))
        (made,) = choose(prompt(number), given_, Rule(strategy=Strategy.BALANCED, size=size), met=met)
        assert len(set(sources(made))) == size
    counts = [met.times[frozenset(pair)] for pair in itertools.combinations(range(1, 6), 2)]
    assert max(counts) - min(counts) <= (1 if size == 2 else 7)
    assert sum(counts) == 7 + 60 * (1 if size == 2 else 3)


def test_balanced_makes_up_for_prompts_where_a_source_is_missing():
    met = Met()
    for number in range(40):
        own = [[wordy(100 * number + s)] for s in range(3 if number % 2 else 2)]
        choose(prompt(number), pool(*own), Rule(strategy=Strategy.BALANCED), met=met)
    assert met.times[frozenset((1, 2))] == 20  # where only they are there
    assert abs(met.times[frozenset((1, 3))] - met.times[frozenset((2, 3))]) <= 1


def test_balanced_does_not_choose_what_is_there():
    given_ = pool([wordy(1)], [wordy(2)], [wordy(3)])
    rule, met, known = Rule(strategy=Strategy.BALANCED), Met(), set()
    for _ in range(3):
        (made,) = choose(prompt(), given_, rule, met=met, known=known)
        known.add(made.hash)
    assert len(known) == 3
    assert choose(prompt(), given_, rule, met=met, known=known) == []


def test_too_many_sets_need_a_number_and_a_large_pool_is_cut():
    given_ = pool([wordy(i) for i in range(40)])
    with pytest.raises(Invalid, match="658008"):
        choose(prompt(), given_, Rule(strategy=Strategy.ALL, size=5))
    made = choose(prompt(), given_, Rule(strategy=Strategy.ALL, size=5, per_prompt=30))
    assert len(made) == 30
    many = pool([f"{wordy(i)} {i * i}" for i in range(90)])
    assert len(choose(prompt(), many, Rule(size=1))) == MOST_POOL
    for opponents, met in ((1, 1), (40, 32), (80, 54)):  # they get half of the room, and more where we need less
        against = {item.pk for item in many[:opponents]}
        assert len(choose(prompt(), many, Rule(), against=against)) == MOST_POOL - met


def test_single_completions_are_meetings_of_their_own():
    made = choose(prompt(), pool(["Yes", "yes", ""], ["No", "Yes"]), Rule(size=1))
    assert sorted(item.a.text for item in made) == ["No", "Yes", "yes"]


def test_stored_order_says_nothing_about_the_source():
    first = 0
    for i in range(400):
        (made,) = choose(prompt(i), pool([f"left {wordy(i)}"], [f"right {wordy(i + 1)}"]), Rule())
        first += made.a.source_id == 1
    assert 161 <= first <= 239  # 3.9 standard deviations of a fair coin


def test_a_meeting_is_the_same_in_any_order():
    x, (one, other) = prompt(), pool(["Yes"], ["No"])
    assert Pair(prompt=x, a=one, b=other).hash == Pair(prompt=x, a=other, b=one).hash
    assert Pair(prompt=x, a=one, b=other).hash != Pair(prompt=x, a=one, b=other, external_id="twin").hash
    for wrong in ((), tuple(pool(map(wordy, range(10))))):
        with pytest.raises(Invalid):
            Meeting(prompt=x, completions=wrong)
