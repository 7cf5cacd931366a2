"""Pairs balanced by length, and what a site's report says of the votes."""

from __future__ import annotations

import pytest

from benchmarks.loop import policies
from benchmarks.loop.experiment import settings_of
from benchmarks.loop.length_bias import METHOD, leaning, length_effect, longer_wins, thinned, weighed
from benchmarks.loop.results import Setting
from benchmarks.loop.steps import Steps
from benchmarks.loop.world import World
from training.engine.alarms import LEAST_COMPLETIONS
from training.engine.config import parse_config
from training.engine.presets import default_config, merge


def line(number: int, *, chosen: int, rejected: int, **others: object) -> dict[str, object]:
    """A preference whose sides have so many characters."""
    names = {"id": f"c{number:03d}", "group": f"g{number}", "prob_chosen": 1.0, "weight": 1.0}
    return {**names, "chosen": "x" * chosen, "rejected": "x" * rejected, **others}


def leaning_lines(*, longer: int, shorter: int, times: int = 2) -> list[dict[str, object]]:
    """So many labels for the longer side and for the shorter one, all of one ratio of lengths."""
    return [line(number, chosen=10 * times, rejected=10) for number in range(longer)] + [
        line(longer + number, chosen=10, rejected=10 * times) for number in range(shorter)
    ]


def test_a_label_leans_by_its_share_of_the_votes():
    assert leaning(line(1, chosen=9, rejected=3)) == 1.0
    assert leaning(line(1, chosen=3, rejected=9, prob_share=0.75)) == -0.5
    assert leaning(line(1, chosen=3, rejected=9, prob_share=0.25)) == 0.5  # most votes are for the rejected side
    assert leaning(line(1, chosen=9, rejected=3, prob_chosen=0.5)) == leaning(line(1, chosen=9, rejected=9)) == 0.0


def test_the_share_of_labels_for_the_longer_side_leaves_out_what_leans_to_none():
    lines = [*leaning_lines(longer=3, shorter=1), line(9, chosen=5, rejected=5), line(10, chosen=9, rejected=3,
             prob_chosen=0.5)]  # fmt: skip
    assert longer_wins(lines).value == 3 / 4


@pytest.mark.parametrize("share", [1.0, 0.8])
def test_weights_take_the_lean_out_of_every_band_and_lose_no_pair(share):
    lines = [
        {**one, "id": f"{times}-{one['id']}", "prob_share": share}
        for times, longer, shorter in ((2, 4, 2), (4, 5, 1), (8, 3, 3))
        for one in leaning_lines(longer=longer, shorter=shorter, times=times)
    ]
    found = weighed(lines)
    assert {one["id"] for one in found} == {one["id"] for one in lines}
    for times in (2, 4, 8):
        band = [one for one in found if one["id"].startswith(f"{times}-")]
        assert sum(one["weight"] * leaning(one) for one in band) == pytest.approx(0.0)
        assert sum(one["weight"] for one in band) == pytest.approx(6.0)
    assert {one["weight"] for one in found if one["id"].startswith("8-")} == {1.0}


def test_a_band_that_leans_one_way_alone_keeps_its_ties_only():
    lines = [*leaning_lines(longer=5, shorter=0), line(99, chosen=20, rejected=10, prob_chosen=0.5)]
    assert [one["id"] for one in weighed(lines)] == [one["id"] for one in thinned(lines)] == ["c099"]


def test_held_out_pairs_are_thinned_to_as_many_for_either_side():
    lines = [
        {**one, "id": f"{times}-{one['id']}"}
        for times, longer, shorter in ((2, 4, 2), (4, 5, 1), (8, 3, 3))
        for one in leaning_lines(longer=longer, shorter=shorter, times=times)
    ]
    found = thinned(lines)
    assert longer_wins(found).value == 1 / 2
    assert len(found) == 4 + 2 + 6 and all(one["weight"] == 1.0 for one in found)
    assert sorted(one["id"] for one in thinned(lines[::-1])) == sorted(one["id"] for one in found)


def test_the_reports_effect_of_length_is_read_with_its_interval():
    def report(value, low, high):
        effects = [{"bias": "position", "effect": {"value": 9.0, "low": 8.0, "high": 10.0}},
                   {"bias": "length", "effect": {"value": value, "low": low, "high": high}}]  # fmt: skip
        return {"effects": effects, "votes": 60}

    found = length_effect(report(0.5, 0.2, 0.8))
    assert (found.value, found.low, found.high, found.n) == (0.5, 0.2, 0.8, 60)
    assert length_effect(report(None, None, None)) is None


@pytest.mark.parametrize("setting", Setting)
def test_the_engine_takes_its_policys_config_and_samples_enough_for_alarms(setting, tmp_path, monkeypatch):
    steps = Steps(directory=tmp_path, base=tmp_path)
    settings = settings_of("length-bias", setting)
    world = World(steps=steps, sft=tmp_path, gold=tmp_path, demonstrations=tmp_path, train=[], held_out=[],
                  settings=settings)  # fmt: skip
    taken = []
    monkeypatch.setattr(policies, "prompts_of", lambda world: tmp_path)
    monkeypatch.setattr(Steps, "policy", lambda self, name, method, **sections: taken.append((method, sections)))
    policies.policy(world, METHOD, seed=1, snapshot=tmp_path, reward=tmp_path)
    method, sections = taken[0]
    parsed = parse_config(merge(default_config(method), {"method": method, **sections}))
    assert parsed.eval.prompts >= LEAST_COMPLETIONS
    assert parsed.sampling.max_new_tokens == settings["new_tokens"]
