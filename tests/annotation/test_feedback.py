"""Every kind of answer is stored in the comparison's own order and comes back as the screen showed it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation.feedback import (
    LETTERS,
    Answer,
    BadAnswer,
    BadForm,
    Criterion,
    FeedbackKind,
    Form,
    Rationale,
    ReasonChip,
    pair_classes,
    ranks,
    read_form,
    shown,
    store,
    strength,
)

ACCURACY, CLARITY = Criterion(key="accuracy", label="Accuracy"), Criterion(key="clarity", label="Clarity")
CHIPS = (ReasonChip(key="true", label="It is true"), ReasonChip(key="short", label="It is short"))
SCALE = Form(kind=FeedbackKind.SCALE, points=5, allow_both_bad=True)


def ranking(size: int, *, allow_tie: bool = True) -> Form:
    return Form(kind=FeedbackKind.RANKING, size=size, allow_tie=allow_tie)


@st.composite
def forms(draw) -> Form:
    kind = draw(st.sampled_from(FeedbackKind))
    pair = kind in {FeedbackKind.CHOICE, FeedbackKind.SCALE}
    sizes = {FeedbackKind.RANKING: st.integers(3, 9), FeedbackKind.RATING: st.integers(1, 9)}
    criteria = draw(st.sampled_from([(), (ACCURACY,), (ACCURACY, CLARITY)]))
    reasons = draw(st.sampled_from([(), CHIPS]))
    return Form(
        kind=kind,
        size=draw(sizes.get(kind, st.just(2))),
        allow_tie=draw(st.booleans()),
        allow_both_bad=pair and draw(st.booleans()),
        points=draw(st.sampled_from([5, 7]) if kind is FeedbackKind.RATING else st.integers(2, 7)),
        criteria=criteria,
        rationale=draw(st.sampled_from(Rationale)),
        reasons=reasons,
        reasons_required=bool(reasons) and draw(st.booleans()),
        read_first=kind is not FeedbackKind.RATING and draw(st.booleans()),
        read_points=draw(st.sampled_from([5, 7])),
    )


@st.composite
def answers(draw, form: Form) -> Answer:
    """Some answer that the form allows."""
    letters = [letter.upper() for letter in LETTERS[: form.size]]
    values: dict[str, object] = {}
    if form.kind is FeedbackKind.CHOICE:
        extra = ["tie"] * form.allow_tie + ["both_bad"] * form.allow_both_bad
        values["choice"] = draw(st.sampled_from(["left", "right", *extra]))
    elif form.kind is FeedbackKind.SCALE:
        if form.allow_both_bad and draw(st.booleans()):
            values["choice"] = "both_bad"
        else:
            values["scale"] = draw(st.integers(1, form.points))
    elif form.kind is FeedbackKind.RANKING:
        order = draw(st.permutations(letters))
        groups: list[list[str]] = []
        for letter in order:
            if groups and form.allow_tie and draw(st.booleans()):
                groups[-1].append(letter)
            else:
                groups.append([letter])
        values["ranking"] = [sorted(group) for group in groups]
    else:
        point = st.none() | st.integers(1, form.points)
        rows = st.fixed_dictionaries(dict.fromkeys(form.rated, point)).filter(
            lambda row: any(value is not None for value in row.values())
        )
        values["ratings"] = {letter: draw(rows) for letter in letters}
    if form.criteria and form.kind in {FeedbackKind.CHOICE, FeedbackKind.SCALE}:
        one = (
            st.integers(1, form.points)
            if form.kind is FeedbackKind.SCALE
            else st.sampled_from(["left", "right", "tie"])
        )
        values["criteria"] = {criterion.key: draw(one) for criterion in form.criteria}
    chips = [chip.key for chip in form.reasons]
    values["reasons"] = [key for key in chips if form.reasons_required or draw(st.booleans())]
    if form.rationale is not Rationale.OFF:
        values["rationale"] = "Because." if form.rationale is Rationale.REQUIRED else draw(st.sampled_from(["", "So."]))
    if form.read_first:
        values["first_ratings"] = {letter: draw(st.integers(1, form.read_points)) for letter in letters}
    return Answer(**values)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_what_was_said_comes_back_with_the_same_sides(data):
    form = data.draw(forms())
    answer = data.draw(answers(form))
    sides = "".join(data.draw(st.permutations(LETTERS[: form.size])))
    stored = store(form, answer, sides=sides)
    back = shown(stored.choice, stored.body, sides=sides)
    assert store(form, Answer(**back), sides=sides) == stored
    for name in ("choice", "scale", "ranking", "ratings"):
        assert back.get(name) == getattr(answer, name)
    assert read_form(form.as_dict()) == form


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_same_opinion_is_the_same_vote_whichever_side_it_was_shown_on(data):
    """Seen with other sides, the answer that names the same completions is stored as the same bytes."""
    form = data.draw(forms())
    answer = data.draw(answers(form))
    one = "".join(data.draw(st.permutations(LETTERS[: form.size])))
    other = "".join(data.draw(st.permutations(LETTERS[: form.size])))
    stored = store(form, answer, sides=one)
    again = store(form, Answer(**shown(stored.choice, stored.body, sides=other)), sides=other)
    assert again == stored


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_places_agree_with_the_pairs_and_with_the_choice(data):
    form = data.draw(forms())
    stored = store(form, data.draw(answers(form)), sides=LETTERS[: form.size])
    places = ranks(stored.choice, stored.body, size=form.size)
    assert min(places) == 1
    assert len(places) == form.size
    pairs = pair_classes(places)
    assert len(pairs) == form.size * (form.size - 1) // 2
    for i, j, kind in pairs:
        assert (places[i] < places[j], places[i] == places[j], places[i] > places[j])[kind]
    assert stored.choice == ({0: "a", 1: "tie", 2: "b"}[pairs[0][2]] if form.size == 2 else "")


def test_a_strong_vote_for_the_right_one_is_strong_for_the_completion_that_was_there():
    clearly_right = Answer(scale=5)
    straight, turned = (store(SCALE, clearly_right, sides=sides) for sides in ("ab", "ba"))
    assert (straight.choice, strength(straight.body)) == ("b", -1.0)
    assert (turned.choice, strength(turned.body)) == ("a", 1.0)
    assert strength(store(SCALE, Answer(scale=3), sides="ab").body) == 0.0
    assert strength(store(SCALE, Answer(scale=2), sides="ab").body) == 0.5
    assert strength(store(SCALE, Answer(choice="both_bad"), sides="ab").body) is None


def test_both_bad_is_a_tie_that_says_so():
    stored = store(SCALE, Answer(choice="both_bad"), sides="ba")
    assert (stored.choice, stored.body) == ("tie", {"both_bad": True})
    assert not Form(allow_tie=False).has_tie
    assert Form(allow_tie=False, allow_both_bad=True).has_tie


def test_a_rating_ranks_by_the_mean_of_what_applies():
    form = Form(kind=FeedbackKind.RATING, size=3, criteria=(ACCURACY, CLARITY))
    said = {
        "A": {"accuracy": 2, "clarity": 5},
        "B": {"accuracy": 4, "clarity": None},
        "C": {"accuracy": 3, "clarity": 4},
    }
    stored = store(form, Answer(ratings=said), sides="abc")
    assert ranks(stored.choice, stored.body, size=3) == (2, 1, 2)


@pytest.mark.parametrize(
    ("form", "answer", "field"),
    [
        (Form(allow_tie=False), Answer(choice="tie"), "choice"),
        (Form(), Answer(choice="both_bad"), "choice"),
        (Form(), Answer(), "choice"),
        (Form(), Answer(scale=3), "scale"),
        (SCALE, Answer(scale=6), "scale"),
        (SCALE, Answer(scale=True), "scale"),
        (SCALE, Answer(), "scale"),
        (SCALE, Answer(choice="left"), "choice"),
        (SCALE, Answer(choice="both_bad", scale=1), "scale"),
        (ranking(3), Answer(ranking=[["A"], ["B"]]), "ranking"),
        (ranking(3), Answer(ranking=[["A"], ["B"], ["C"], ["A"]]), "ranking"),
        (ranking(3), Answer(ranking=[["A"], [], ["B", "C"]]), "ranking"),
        (ranking(3, allow_tie=False), Answer(ranking=[["A"], ["B", "C"]]), "ranking"),
        (Form(kind=FeedbackKind.RATING, size=1), Answer(ratings={"A": {"overall": None}}), "ratings.A"),
        (Form(kind=FeedbackKind.RATING, size=1), Answer(ratings={"A": {"overall": 6}}), "ratings.A.overall"),
        (Form(kind=FeedbackKind.RATING, size=1), Answer(ratings={"B": {"overall": 1}}), "ratings"),
        (Form(criteria=(ACCURACY,)), Answer(choice="left"), "criteria"),
        (Form(criteria=(ACCURACY,)), Answer(choice="left", criteria={"accuracy": 3}), "criteria.accuracy"),
        (Form(), Answer(choice="left", criteria={"accuracy": "left"}), "criteria"),
        (Form(reasons=CHIPS, reasons_required=True), Answer(choice="left"), "reasons"),
        (Form(reasons=CHIPS), Answer(choice="left", reasons=["kind"]), "reasons"),
        (Form(reasons=CHIPS), Answer(choice="left", reasons=["true", "true"]), "reasons"),
        (Form(rationale=Rationale.REQUIRED), Answer(choice="left", rationale="  "), "rationale"),
        (Form(rationale=Rationale.OFF), Answer(choice="left", rationale="Why not"), "rationale"),
        (Form(), Answer(choice="left", rationale="x" * 4001), "rationale"),
        (Form(read_first=True), Answer(choice="left"), "first_ratings"),
        (Form(read_first=True), Answer(choice="left", first_ratings={"A": 8, "B": 1}), "first_ratings.A"),
        (Form(), Answer(choice="left", first_ratings={"A": 1, "B": 1}), "first_ratings"),
    ],
)
def test_an_answer_that_the_form_does_not_allow_is_refused_by_field(form, answer, field):
    with pytest.raises(BadAnswer) as refusal:
        store(form, answer, sides=LETTERS[: form.size])
    assert list(refusal.value.details) == [field]
    assert str(refusal.value).startswith(field)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"kind": "stars"}, "kind"),
        ({"kind": ["choice"]}, "kind"),
        ({"colour": "red"}, "colour"),
        ({"size": 3}, "size"),
        ({"size": "2"}, "size"),
        ({"kind": "ranking", "size": 2}, "size"),
        ({"kind": "ranking", "size": 10}, "size"),
        ({"kind": "ranking", "size": 3, "allow_both_bad": True}, "allow_both_bad"),
        ({"kind": "rating", "points": 6}, "points"),
        ({"kind": "rating", "points": 5, "read_first": True}, "read_first"),
        ({"kind": "scale", "points": 8}, "points"),
        ({"allow_tie": 1}, "allow_tie"),
        ({"criteria": [{"key": "A", "label": "A"}]}, "criteria.key"),
        ({"criteria": [{"key": "a", "label": ""}]}, "criteria.label"),
        ({"criteria": [{"key": "a", "label": "A"}, {"key": "a", "label": "B"}]}, "criteria"),
        ({"criteria": [{"key": "a"}]}, "criteria"),
        ({"criteria": "accuracy"}, "criteria"),
        ({"criteria": [{"key": "a", "label": "A", "anchors": ["only one"]}]}, "criteria.anchors"),
        ({"reasons": [{"key": "a", "label": "A", "anchors": []}]}, "reasons"),
        ({"reasons_required": True}, "reasons_required"),
        ({"rationale": "maybe"}, "rationale"),
    ],
)
def test_a_form_that_cannot_be_asked_is_refused_by_field(data, field):
    with pytest.raises(BadForm) as refusal:
        read_form(data)
    assert list(refusal.value.details) == [f"form.{field}"]
