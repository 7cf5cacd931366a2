"""When two texts are too alike to be compared."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotation.similarity import are_near_identical, edits_within, is_near, likeness, normal_form, shape

LONG = " ".join(f"Sentence number {i} says something of its own." for i in range(40))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Yes.", " yes"),
        ("Ｙｅｓ!", "yes"),
        ("straße", "STRASSE"),
        ("one\n\n two", "One, two"),
        ("!!!", "!!!"),
        (LONG, LONG + " Indeed."),
        (LONG, LONG.replace("number 7", "number 8")),
        ("The quick brown fox jumps over the lazy dog.", "The quick brown fox jumped over the lazy dog."),
        ("你好世界，今天天气很好。我们去公园。", "你好世界, 今天天气很好! 我们去公园"),
    ],
)
def test_these_are_nearly_the_same(one, other):
    assert are_near_identical(one, other)
    assert are_near_identical(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Yes.", "No."), ("-1", "1"), ("x = −2", "x = 2"), ("2 + 2", "2 × 2"), ("!!!", "???"), ("42", "43"),
     (LONG, LONG[: len(LONG) // 2]), ("C", "C++")],
)  # fmt: skip
def test_these_are_not(one, other):
    assert not are_near_identical(one, other)
    assert not are_near_identical(other, one)


def distance(one, other):
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        row, above = [i], row
        for j, b in enumerate(other, start=1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b)))
    return row[-1]


@given(st.text("abc", max_size=12), st.text("abc", max_size=12), st.integers(0, 12))
def test_edits_within_agrees_with_the_table(one, other, most):
    assert edits_within(one, other, most) == (distance(one, other) <= most)


@given(st.text(max_size=60), st.text(max_size=60))
def test_nearness_is_symmetric_and_likeness_a_share(one, other):
    a, b = shape(one), shape(other)
    assert is_near(a, b) == is_near(b, a)
    assert 0 <= likeness(a, b) == likeness(b, a) <= 1
    assert is_near(a, a)
    assert normal_form(normal_form(one)) == normal_form(one) or not normal_form(one)


@given(st.text("abcdefgh ", min_size=20, max_size=120), st.data())
def test_the_shingle_filter_never_hides_a_near_text(one, data):
    """Whatever the shingles say, a text with few enough edits is found."""
    first = shape(one).text
    edited = list(first)
    for _ in range(int(0.05 * len(first))):
        if edited:
            edited[data.draw(st.integers(0, len(edited) - 1))] = "z"
    other = "".join(edited)
    if first and max(len(first), len(shape(other).text)) == len(first) == len(other):
        assert is_near(shape(first), shape(other))


def test_long_texts_are_cheap():
    texts = [" ".join(f"{seed}-{(i * seed) % 977}" for i in range(20_000)) for seed in (3, 5, 7)]
    started = time.perf_counter()
    shapes = [shape(text) for text in texts]
    assert not any(is_near(a, b) for a in shapes for b in shapes if a is not b)
    assert time.perf_counter() - started < 5
