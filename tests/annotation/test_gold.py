"""Gold comparisons: given, built from spoilt completions, promoted; and whether a vote on one is right."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotation import gold, spoiling
from annotation.errors import Invalid
from annotation.feedback import FeedbackKind, Form
from annotation.gold import AlreadyGold, HasCountedVotes, is_right, read_answer, shown_answer
from annotation.gold_texts import KnownComparison, construct, give_texts
from annotation.meetings import Rule, Strategy
from annotation.models import (
    Assignment,
    AssignmentState,
    AuditEvent,
    Comparison,
    Completion,
    Consensus,
    Gold,
    GoldUse,
    Slot,
)
from annotation.pairing import Plan, choose_for
from annotation.spoiling import PASSAGES, Spoilt, language_of, truncate
from tests import builders
from tests.builders import NOW

LONG = (
    "Light from the sun holds every colour. The air scatters blue light more than red light, because its waves are "
    "shorter, and so blue reaches the eye from every direction while the other colours go straight on."
)
FAR = (
    "Knead flour, water, salt and yeast for ten minutes until the dough is smooth; let it rest in a warm place, shape "
    "a loaf, and bake it at two hundred and thirty degrees until the crust is brown and sounds hollow when tapped."
)


def make_gold(comparison, by, answer=None, use=GoldUse.HIDDEN, explanation="Because."):
    return gold.give(
        comparison=comparison, answer=answer or {"choice": "a"}, use=use, explanation=explanation, by=by, now=NOW
    )


# --- right or wrong, without database ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "choice", "right"),
    [
        ({"choice": "a"}, "a", True), ({"choice": "a"}, "b", False), ({"choice": "a"}, "tie", False),
        ({"choice": "b"}, "b", True), ({"choice": "tie"}, "tie", True), ({"choice": "tie"}, "a", False),
        ({"worst": "b"}, "a", True), ({"worst": "b"}, "tie", False),
    ],
)  # fmt: skip
def test_a_pair_is_right_when_it_says_the_same(answer, choice, right):
    assert is_right(answer, choice, {}, size=2) is right


def test_a_scale_is_right_by_its_side_whatever_its_strength():
    for point in (1, 2):
        assert is_right({"choice": "a"}, "a", {"scale": point, "points": 5}, size=2)
    assert not is_right({"choice": "a"}, "tie", {"scale": 3, "points": 5}, size=2)


def test_of_several_only_that_the_broken_one_is_last_counts():
    assert is_right({"worst": "c"}, "", {"ranking": [["b"], ["a"], ["c"]]}, size=3)
    assert is_right({"worst": "c"}, "", {"ranking": [["a", "b"], ["c"]]}, size=3)
    assert not is_right({"worst": "c"}, "", {"ranking": [["a"], ["b", "c"]]}, size=3)


def test_a_rating_is_right_when_the_broken_one_is_below():
    ratings = {"a": {"overall": 2}, "b": {"overall": 4}}
    assert is_right({"choice": "b"}, "b", {"ratings": ratings, "points": 5}, size=2)
    assert not is_right({"choice": "a"}, "b", {"ratings": ratings, "points": 5}, size=2)


@given(st.permutations("abcd"))
def test_a_ranking_is_right_exactly_when_the_pairs_that_it_puts_apart_are_in_order(order):
    """The answer ties b and c, so that two of the 24 strict orders are right."""
    answer = {"ranking": [["a"], ["b", "c"], ["d"]]}
    right = is_right(answer, "", {"ranking": [[letter] for letter in order]}, size=4)
    assert right == ("".join(order) in {"abcd", "acbd"})


def test_an_answer_is_turned_to_the_sides_that_a_person_sees():
    assert shown_answer({"choice": "a"}, sides="ba") == {"choice": "right"}
    assert shown_answer({"choice": "tie"}, sides="ba") == {"choice": "tie"}
    assert shown_answer({"worst": "c"}, sides="cab") == {"worst": "A"}
    assert shown_answer({"ranking": [["b"], ["a", "c"]]}, sides="cab") == {"ranking": [["C"], ["A", "B"]]}


@pytest.mark.parametrize(
    ("answer", "form", "field"),
    [
        ({"choice": "c"}, Form(), "answer.choice"),
        ({"choice": "tie"}, Form(allow_tie=False), "answer.choice"),
        ({"worst": "c"}, Form(), "answer.worst"),
        ({}, Form(), "answer"),
        ({"choice": "a", "worst": "b"}, Form(), "answer"),
        ({"choice": "a"}, Form(kind=FeedbackKind.RANKING, size=3), "answer"),
        ({"ranking": [["a", "b", "c"]]}, Form(kind=FeedbackKind.RANKING, size=3), "answer.ranking"),
        ({"ranking": [["a"], ["b"]]}, Form(kind=FeedbackKind.RANKING, size=3), "answer.ranking"),
        ({"ranking": "abc"}, Form(kind=FeedbackKind.RANKING, size=3), "answer.ranking"),
        ({"ranking": [[1], [2]]}, Form(), "answer.ranking"),
    ],
)
def test_an_answer_that_the_form_does_not_know_is_refused_by_field(answer, form, field):
    with pytest.raises(Invalid) as refused:
        read_answer(answer, form)
    assert set(refused.value.details) == {field}


# --- spoilt texts -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000))
def test_a_truncated_text_is_a_beginning_and_ends_inside_a_sentence(seed):
    cut = truncate(LONG, random.Random(seed))
    assert cut is None or (LONG.startswith(cut) and cut[-1] not in ".!?" and LONG[len(cut)] == " ")
    assert cut is None or 0.15 * len(LONG) < len(cut) <= 0.5 * len(LONG)


def test_a_text_too_short_to_break_off_is_not_cut():
    assert truncate("Yes.", random.Random(0)) is None


def test_each_passage_is_recognised_as_its_own_language():
    assert {name: language_of(text) for name, text in PASSAGES.items()} == {name: name for name in PASSAGES}
    assert language_of("42") == ""


@given(st.sampled_from(sorted(PASSAGES)), st.integers(0, 1000))
def test_a_foreign_passage_is_never_in_the_language_itself(language, seed):
    assert spoiling.foreign_passage(language + "-XX", random.Random(seed)) != PASSAGES[language]


# --- given ------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_comparison_that_becomes_gold_leaves_the_queue_and_the_researcher_is_written_down():
    project = builders.project()
    first, _second = builders.comparisons(project, 2)
    made = make_gold(first, project.created_by)
    assert not Slot.objects.filter(comparison=first).exists()
    assert Slot.objects.count() == 3
    assert make_gold(first, project.created_by) == made
    event = AuditEvent.objects.get(action="gold.given")
    assert (event.by, event.target, event.details["answer"]) == (
        project.created_by,
        str(made.public_id),
        {"choice": "a"},
    )
    with pytest.raises(AlreadyGold):
        make_gold(first, project.created_by, {"choice": "b"})


@pytest.mark.django_db
def test_gold_ends_the_lease_of_who_holds_it_and_keeps_their_late_vote_as_surplus():
    project = builders.project()
    (made,) = builders.comparisons(project)
    (held,) = builders.lease(project, builders.member(project, "ann"))
    make_gold(made, project.created_by)
    assert Assignment.objects.get(pk=held.pk).state == AssignmentState.RELEASED
    assert not Slot.objects.exists()
    assert builders.vote(held).counted is False


@pytest.mark.django_db
def test_a_comparison_with_votes_that_count_is_not_made_gold_by_hand():
    project = builders.project()
    (made,) = builders.comparisons(project)
    builders.vote(builders.lease(project, builders.member(project, "ann"))[0])
    with pytest.raises(HasCountedVotes):
        make_gold(made, project.created_by)
    assert Slot.objects.filter(comparison=made).count() == 3


@pytest.mark.django_db
def test_new_texts_become_gold_without_slots_and_the_same_pair_twice_is_refused_by_its_id():
    project = builders.project()
    given_texts = {
        "project": project, "messages": [{"role": "user", "content": "Is water wet?"}], "texts": ["Yes.", "Mu."],
        "answer": {"choice": "a"}, "use": GoldUse.PRACTICE, "explanation": "It answers.", "by": project.created_by,
        "now": NOW,
    }  # fmt: skip
    made = give_texts(**given_texts)
    assert [place.completion.text for place in made.comparison.places.all()] == ["Yes.", "Mu."]
    assert not Slot.objects.exists()
    assert Consensus.objects.get().comparison == made.comparison
    with pytest.raises(KnownComparison) as refused:
        give_texts(**given_texts)
    assert refused.value.details == {"comparison": str(made.comparison.public_id)}
    assert Completion.objects.count() == 2
    with pytest.raises(Invalid):
        give_texts(**given_texts | {"texts": ["One."]})
    with pytest.raises(Invalid):
        give_texts(**given_texts | {"texts": ["One.", " One."]})


# --- constructed ------------------------------------------------------------------------------------------------------


def articles(project, n=4, **fields):
    """Prompts about `n` different things with two long completions each."""
    words = ["sky", "bread", "tax", "whales", "chess", "rust", "violins", "moss"]
    prompts = []
    for i in range(n):
        thing = words[i]
        x = builders.prompt(project, f"Tell of {thing}, of {thing}s, of {thing} in {thing}.")
        for name, value in fields.items():
            setattr(x, name, value)
        x.save()
        builders.completion(x, f"{thing}: " + " ".join(f"{thing}{i}{j} means {thing}, which lasts." for j in range(9)))
        builders.completion(
            x, f"About {thing}: " + " ".join(f"{j}{thing} or so it is told." for j in range(9)), index=1
        )
        prompts.append(x)
    return prompts


def build(project, kinds=tuple(Spoilt), n=2, seed=0):
    return construct(project=project, kinds=kinds, n=n, seed=seed, use=GoldUse.HIDDEN, by=project.created_by, now=NOW)


def texts_of(made):
    """The good and the broken texts of a gold pair."""
    texts = [place.completion.text for place in made.comparison.places.all()]
    return (texts[0], texts[1]) if made.answer == {"choice": "a"} else (texts[1], texts[0])


@pytest.mark.django_db
def test_spoilt_completions_lose_against_normal_ones_of_the_same_prompt():
    project = builders.project()
    articles(project, 8)
    made = build(project)
    assert len(made) == 6
    assert {row.answer["choice"] for row in made} == {"a", "b"}
    assert all(row.explanation for row in made)
    normal = set(Completion.objects.filter(source__name="policy-1").values_list("text", flat=True))
    for row in made:
        good, broken = texts_of(row)
        own = set(Completion.objects.filter(prompt=row.comparison.prompt).values_list("text", flat=True))
        assert good in normal & own
        if row.explanation == spoiling.EXPLANATION[Spoilt.TRUNCATED]:
            assert good.startswith(broken)
        elif row.explanation == spoiling.EXPLANATION[Spoilt.OFF_TOPIC]:
            assert broken in normal - (own - {broken})
        else:
            assert broken in PASSAGES.values()
            assert broken != PASSAGES["en"]
    assert not Slot.objects.exists()


@pytest.mark.django_db
def test_the_same_seed_builds_nothing_new_and_another_one_does():
    project = builders.project()
    articles(project, 8)
    first = build(project, n=1)
    assert build(project, n=1) == []
    more = [row for seed in range(1, 5) for row in build(project, n=1, seed=seed)]
    assert more
    assert Gold.objects.count() == len(first) + len(more)
    assert AuditEvent.objects.filter(action="gold.constructed").count() == 6


@pytest.mark.django_db
def test_the_wrong_language_comes_from_the_project_where_its_prompts_say_theirs():
    project = builders.project()
    articles(project, 3, language="en")
    german = builders.prompt(project, "Warum ist der Himmel blau?")
    german.language = "de"
    german.save()
    builders.completion(german, PASSAGES["de"])
    made = build(project, kinds=[Spoilt.WRONG_LANGUAGE], n=9)
    broken = {row.comparison.prompt.language: texts_of(row)[1] for row in made}
    assert broken["en"] == PASSAGES["de"]
    assert broken["de"].startswith(("sky", "bread", "tax", "About"))
    assert {row.comparison.audience for row in made} == {"lang:en", "lang:de"}


@pytest.mark.django_db
def test_a_ranking_gets_normal_completions_and_one_that_must_be_last():
    project = builders.project(form=Form(kind=FeedbackKind.RANKING, size=3))
    articles(project, 4)
    for row in build(project, kinds=[Spoilt.TRUNCATED], n=4):
        texts = [place.completion.text for place in row.comparison.places.all()]
        assert len(texts) == 3
        assert min(range(3), key=lambda i: len(texts[i])) == "abc".index(row.answer["worst"])


@pytest.mark.django_db
def test_nothing_is_built_where_one_completion_is_rated_alone_or_texts_are_too_short():
    alone = builders.project(slug="alone", form=Form(kind=FeedbackKind.RATING, size=1))
    with pytest.raises(Invalid):
        build(alone)
    short = builders.project(slug="short")
    builders.comparisons(short, 3)
    assert build(short, kinds=[Spoilt.TRUNCATED]) == []


# --- promoted ---------------------------------------------------------------------------------------------------------


def promoted(project, **fields):
    rule = {"votes": 3, "top_share": 1.0, "most": 10, "use": GoldUse.HIDDEN} | fields
    return gold.promote(project=project, by=project.created_by, now=NOW, **rule)


@pytest.mark.django_db
def test_only_comparisons_on_which_all_votes_agree_are_promoted_and_their_votes_stay():
    project = builders.project()
    sure = builders.settled(project, 2, letters="bbb")
    split = builders.comparisons(project, 1, start=10)
    assert {row.comparison_id for row in promoted(project)} == {row.pk for row in sure}
    assert {row.answer["choice"] for row in Gold.objects.all()} == {"b"}
    assert Slot.objects.filter(comparison__in=sure, state="done").count() == 6
    assert promoted(project) == []
    assert not Gold.objects.filter(comparison__in=split).exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("letters", "rule"), [("aab", {}), ("ttt", {}), ("aaa", {"votes": 4}), ("aab", {"top_share": 0.6})]
)
def test_a_split_a_tie_and_too_few_votes_are_not_promoted(letters, rule):
    project = builders.project()
    builders.settled(project, 2, letters=letters)
    assert promoted(project, **rule) == []


# --- afterwards -------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_retired_gold_stays_with_its_answers_and_another_explanation_is_written_down():
    project = builders.project()
    made = make_gold(builders.comparisons(project)[0], project.created_by)
    gold.explain(gold=made, explanation="Read 2.3.", by=project.created_by, now=NOW)
    gold.retire(gold=made, by=project.created_by, now=NOW)
    gold.retire(gold=made, by=project.created_by, now=NOW)
    assert made.retired_at == NOW
    assert AuditEvent.objects.get(action="gold.explained").details == {"before": "Because.", "after": "Read 2.3."}
    assert AuditEvent.objects.filter(action="gold.retired").count() == 1
    with pytest.raises(AlreadyGold):
        make_gold(made.comparison, project.created_by)
    assert Comparison.objects.get().gold == made


@pytest.mark.django_db
def test_texts_made_for_gold_never_meet_others():
    project = builders.project()
    articles(project, 4)
    build(project, kinds=[Spoilt.TRUNCATED], n=4)
    plan = Plan(project=project, rule=Rule(strategy=Strategy.ALL), prompts=project.prompts.all())
    names = {item.source.name for met in choose_for(plan).meetings for item in met.completions}
    assert names == {"policy-1"}
