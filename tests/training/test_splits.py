"""Prompt groups: what counts as the same prompt, and that a group keeps its side."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from tests.annotation.statistics.published import rows_of
from training.splits import (
    LONG_COMPLETION,
    PARTS,
    leak_rate,
    member_key,
    near_duplicates,
    normalise,
    part_of,
    prompt_groups,
)

LONG = "This completion is certainly longer than forty characters, so it counts."
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def ask(text: str, *before: tuple[str, str]) -> list[dict[str, str]]:
    return [*({"role": role, "content": content} for role, content in before), {"role": "user", "content": text}]


def groups(*prompts, completions=None):
    return prompt_groups(prompts, completions or [[f"short {i}"] for i in range(len(prompts))])


def test_case_space_and_compatibility_forms_make_no_difference():
    assert normalise("  Ｗhy\n is\tTHE  ﬁrst? ") == "why is the first?"
    first, second, third = groups(ask("Why is THE first?"), ask("why  is the ﬁrst?\n"), ask("Who?"))
    assert first == second != third


def test_near_duplicates_share_a_group():
    base = "Write a short story about a dragon who is afraid of flying and learns to swim"
    other = base + " instead"
    far = "Write a long essay about a knight who is tired of fighting and learns to cook"
    first, second, third = groups(ask(base), ask(other), ask(far))
    assert first == second != third
    # 30 words have 26 shingles: 18 of 34 shared are half and more, 17 of 35 are not.
    words = [f"w{i}" for i in range(30)]
    assert near_duplicates({"a": " ".join(words), "b": " ".join([*words[:22], *(f"v{i}" for i in range(8))])})
    assert not near_duplicates({"a": " ".join(words), "b": " ".join([*words[:21], *(f"v{i}" for i in range(9))])})


def test_conversations_with_one_root_share_a_group():
    followed = ask("And why?", ("user", "Tell me of bees."), ("assistant", "They dance."))
    first, second, third = groups(ask("Tell me of bees."), followed, ask("And why?"))
    assert first == second != third


def test_prompts_with_an_equal_long_completion_share_a_group():
    prompts = [ask("One question?"), ask("Another one?"), ask("A third?")]
    first, second, third = groups(*prompts, completions=[[LONG, "x"], [LONG.upper()], ["x"]])
    assert first == second != third  # "x" is too short to tie two prompts together


def test_groups_are_connected_components():
    prompts = [ask("One question?"), ask("Another one?"), ask("A third?")]
    other = LONG[::-1]
    assert len(set(groups(*prompts, completions=[[LONG], [LONG, other], [other]]))) == 1


def test_the_key_of_a_group_does_not_depend_on_the_order():
    prompts = [ask("One question?"), ask("one  Question?"), ask("A third?")]
    there = dict(zip(map(str, prompts), groups(*prompts), strict=True))
    back = dict(zip(map(str, prompts[::-1]), groups(*prompts[::-1]), strict=True))
    assert there == back
    assert there[str(prompts[2])] == member_key("user: A third?")


def test_sides_follow_the_shares_and_stay_as_groups_come_and_go():
    keys = [member_key(str(i)) for i in range(3000)]
    sides = {key: part_of(key, shares=SHARES, seed=0) for key in keys}
    counts = Counter(sides.values())
    for part, share in SHARES.items():
        low, high = binom.interval(0.999, len(keys), share)
        assert low <= counts[part] <= high
    assert sides == {key: part_of(key, shares=SHARES, seed=0) for key in reversed(keys)}
    assert sides != {key: part_of(key, shares=SHARES, seed=1) for key in keys}
    assert {part_of(key, shares={"train": 1.0, "validation": 0.0, "test": 0.0}, seed=0) for key in keys} == {"train"}
    # A larger train part takes over, and nothing that was in it leaves it.
    wider = {"train": 0.9, "validation": 0.05, "test": 0.05}
    assert all(part_of(key, shares=wider, seed=0) == "train" for key in keys if sides[key] == "train")


texts = st.text(alphabet="ab cß\n", min_size=1, max_size=30).filter(str.strip)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=12))
def test_equal_prompts_and_long_completions_are_never_in_two_groups(items):
    prompts = [ask(prompt) for prompt, _ in items]
    completions = [[text * 40] for _, text in items]
    found = prompt_groups(prompts, completions)
    for kind in (
        [normalise(prompt) for prompt, _ in items],
        [normalise(text * 40) for _, text in items],
    ):
        for key in set(kind):
            assert len({group for group, own in zip(found, kind, strict=True) if own == key}) == 1
    assert all(part_of(group, shares=SHARES, seed=0) in PARTS for group in found)


def test_the_leak_is_the_share_of_held_out_items_with_a_member_in_train():
    members = [{"p", "x"}, {"p", "y"}, {"q", "x"}, {"r", "z"}]
    assert leak_rate(members, ["train", "test", "test", "validation"]) == 2 / 3
    assert leak_rate(members, ["train", "train", "train", "test"]) == 0
    assert leak_rate(members, ["train"] * 4) == 0


def test_a_random_split_of_pandalm_leaks_nearly_all_and_one_by_group_nothing(test_data):
    """STATISTICS 10, row 32: prompts .982 and completions .969 over 200 random 80/20 splits."""
    rows = rows_of(test_data / "statistics" / "pandalm_votes.csv")
    prompts = [{row["prompt_group"]} for row in rows]
    completions = [{row["response_1"], row["response_2"]} for row in rows]
    leaks = []
    for seed in range(200):
        held_out = set(np.random.default_rng(seed).permutation(len(rows))[: round(len(rows) / 5)].tolist())
        parts = ["test" if i in held_out else "train" for i in range(len(rows))]
        leaks.append((leak_rate(prompts, parts), leak_rate(completions, parts)))
    assert np.mean(leaks, axis=0) == pytest.approx([0.982, 0.969], abs=2e-3)


def test_a_group_split_of_pandalm_leaks_no_prompt_and_no_long_completion(test_data):
    file = test_data / "multi_annotator" / "pandalm.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    completions = [[row["response_a"], row["response_b"]] for row in rows]
    found = prompt_groups([ask(row["prompt"]) for row in rows], completions)
    long = [{member_key(text) for text in texts if len(text.strip()) >= LONG_COMPLETION} for texts in completions]
    for seed in range(20):
        parts = [part_of(group, shares={"train": 0.8, "test": 0.2}, seed=seed) for group in found]
        assert {"train", "test"} == set(parts)
        assert leak_rate([{member_key(row["prompt"])} for row in rows], parts) == 0
        assert leak_rate(long, parts) == 0
