"""Over-optimisation: curves, forms and falls with known answers, and the whole experiment on a tiny model."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch

from benchmarks.loop import climbing, overoptimisation
from benchmarks.loop.climbing import HELD_OUT, Trial, Watched, parts_of, sizes_up_to
from benchmarks.loop.experiment import settings_of
from benchmarks.loop.frontiers import (
    Climb,
    Fit,
    Form,
    agreement,
    best_of_n,
    fall,
    fitted,
    kl_of_gain,
    lost_share,
    spread,
)
from benchmarks.loop.results import Setting
from benchmarks.loop.steps import Steps
from benchmarks.loop.world import World, read_lines
from tests.engine.planted import planted_snapshot
from tests.engine.tiny import tiny_model
from training.engine import convert
from training.engine.__main__ import MODULES, main
from training.engine.advantages import best_of_n_curve, best_of_n_kl_bound
from training.engine.config import ConvertConfig, ConvertModelsConfig, parse_config, to_dict
from training.engine.files import write_json
from training.engine.supervision import Supervision


def climb(*, gold, proxy=None, kl=None, form=Form.BEST_OF_N) -> Climb:
    gold = np.asarray(gold, dtype=float)
    return Climb(
        labels=16,
        form=form,
        places=range(1, len(gold) + 1),
        kl=list(range(len(gold))) if kl is None else kl,
        proxy=gold if proxy is None else np.asarray(proxy, dtype=float),
        gold=gold,
    )


# --- best of n --------------------------------------------------------------------------------------------------------


def test_the_judges_score_of_the_proxys_best_is_the_mean_over_all_choices_of_n():
    generator = np.random.default_rng(3)
    proxy, gold = generator.normal(size=(2, 6)), generator.normal(size=(2, 6))
    found = best_of_n(proxy, gold, [1, 2, 4, 6])
    for prompt in range(2):
        for row, n in zip(found[:, prompt], (1, 2, 4, 6), strict=True):
            chosen = [max(some, key=lambda i: proxy[prompt, i]) for some in combinations(range(6), n)]
            assert row == pytest.approx(fmean(gold[prompt, i] for i in chosen))


def test_a_proxy_that_judges_itself_has_the_engines_curve():
    scores = np.random.default_rng(4).normal(size=(3, 9))
    curve = best_of_n_curve(torch.from_numpy(scores), [1, 3, 9]).numpy()
    assert best_of_n(scores, scores, [1, 3, 9]) == pytest.approx(curve.T)


def test_completions_that_the_proxy_cannot_tell_apart_count_with_their_mean():
    proxy, gold = np.array([[0.0, 1.0, 1.0]]), np.array([[5.0, 2.0, 4.0]])
    # Of the three pairs every one holds a completion with score 1: (0, 1) → 2, (0, 2) → 4, (1, 2) → either.
    assert best_of_n(proxy, gold, [2])[0, 0] == pytest.approx((2 + 4 + 3) / 3)
    assert best_of_n(proxy, gold, [3])[0, 0] == pytest.approx(3)


# --- the published forms ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "gain", "peak"),
    [
        (Form.BEST_OF_N, lambda d: d * (1.5 - 0.5 * d), 1.5),  # α/2β
        (Form.RL, lambda d: d * (1.5 - 0.5 * math.log(d)), math.exp(2)),  # e^(α/β − 1)
    ],
)
def test_a_form_finds_its_own_coefficients_and_its_peak(form, gain, peak):
    d = [0.5, 1.0, 2.0, 3.0]
    found = fitted(form, d, [gain(x) for x in d])
    assert (found.alpha, found.beta, found.r2) == pytest.approx((1.5, 0.5, 1.0))
    assert found.peak == pytest.approx(peak)
    assert all(gain(peak) > gain(peak + step) for step in (-0.1, 0.1))


def test_a_form_that_never_turns_has_no_peak():
    assert Fit(form=Form.BEST_OF_N, alpha=1, beta=0, r2=1).peak is None
    assert Fit(form=Form.RL, alpha=1, beta=-0.1, r2=1).peak is None
    assert Fit(form=Form.RL, alpha=1, beta=1e-9, r2=1).peak is None  # at d = e^(10⁹)
    assert Fit(form=Form.BEST_OF_N, alpha=-1, beta=1, r2=1).peak is None


def test_r2_is_what_the_form_leaves_of_the_variance():
    # Through d = 1, 2 and a third place no d(α − βd) goes: the best one leaves the residual (1, −1/2, …) unexplained.
    d, gains = [1.0, 2.0, 3.0], [1.0, 0.0, 1.0]
    found = fitted(Form.BEST_OF_N, d, gains)
    off = sum((y - x * (found.alpha - found.beta * x)) ** 2 for x, y in zip(d, gains, strict=True))
    assert found.r2 == pytest.approx(1 - off / (2 / 3))  # around their mean, 2/3, the squares sum to 2/3
    for other in ((found.alpha + 0.01, found.beta), (found.alpha, found.beta + 0.01)):
        assert sum((y - x * (other[0] - other[1] * x)) ** 2 for x, y in zip(d, gains, strict=True)) > off


def test_a_climb_is_fitted_where_it_has_left_the_start():
    d = [0.0, 0.0, 1.0, 2.0, 3.0]
    gold = [[7.0], [9.0], *([x * (2 - 0.25 * x)] for x in d[2:])]  # noise before it has moved
    found = climb(gold=gold, kl=[0.0, -0.3, 1.0, 4.0, 9.0])
    assert found.d == pytest.approx(d)
    assert (found.fit().alpha, found.fit().beta) == pytest.approx((2, 0.25))
    assert climb(gold=[[0.0], [1.0], [2.0]]).fit() is None


# --- peaks and falls --------------------------------------------------------------------------------------------------


def test_a_fall_is_from_the_place_that_the_other_prompts_have_highest():
    gains = np.array([[0.0, 0.0, 0.0], [4.0, 5.0, 6.0], [1.0, 1.0, 1.0]])
    assert fall(gains).value == pytest.approx(4)  # 3, 4, 5 by prompt
    assert fall(gains).low < 4 < fall(gains).high
    assert fall(gains[:2]).value == 0  # the end is the highest place


def test_noise_alone_falls_by_nothing_in_the_mean():
    generator = np.random.default_rng(5)
    found = [generator.normal(size=(8, 24)) for _ in range(400)]
    means = [gains.mean(axis=1) for gains in found]
    naive = fmean(mean.max() - mean[-1] for mean in means)
    honest = fmean(fall(gains).value for gains in found)
    assert naive > 0.2
    assert abs(honest) < 0.05  # three standard errors of 400 draws


def test_the_lost_share_is_of_the_highest_gain_and_counts_from_what_was_gained_before():
    gains = [0.0, 1.0, 2.0, 1.5, 0.5]
    assert lost_share(gains, 1) == 0
    assert lost_share(gains, 3) == pytest.approx(0.25)
    assert lost_share(gains, 4) == pytest.approx(0.75)
    assert lost_share([0.0, 1.0, 0.0, 4.0], 2) == pytest.approx(0.25)  # 1 of 4, though more comes later
    assert lost_share([0.0, -1.0], 1) is None


def test_the_kl_of_a_gain_lies_on_the_line_between_places():
    found = climb(gold=[[0.0], [2.0], [3.0]], kl=[0.0, 1.0, 2.0])
    assert kl_of_gain(found, 1.0) == pytest.approx(0.5)
    assert kl_of_gain(found, 2.5) == pytest.approx(1.5)
    assert kl_of_gain(found, 3.1) is None
    assert kl_of_gain(found, -0.1) is None


def test_spread_and_agreement_are_within_a_prompt():
    gold = np.array([[0.0, 2.0], [10.0, 14.0]])
    assert spread(gold) == pytest.approx(math.sqrt((2 + 8) / 2))
    assert agreement(gold, gold).value == pytest.approx(1)
    # The prompts are in opposite order, yet within each the scores agree.
    assert agreement(np.array([[9.0, 10.0], [0.0, 1.0]]), gold).value == pytest.approx(1)
    assert agreement(np.array([[1.0, 1.0], [1.0, 2.0]]), gold).value == pytest.approx(0.5)


# --- claims -----------------------------------------------------------------------------------------------------------


def run_of(gold: Sequence[float], *, alarm: int | None, proxy: Sequence[float] | None = None, kl=None) -> Watched:
    """A run whose prompts all gain the same but for a hair."""
    spread = np.array([-0.001, 0.0, 0.001])
    steps = len(gold)
    return Watched(
        climb=climb(
            gold=[g + spread for g in gold],
            proxy=[p + spread for p in (proxy or range(steps))],
            kl=kl,
            form=Form.RL,
        ),
        held_out=np.zeros((steps, 3)),
        cusum=[0.0] * steps,
        alarm=alarm,
    )


RISES_AND_FALLS = [0.0, 1.0, 2.0, 1.9, 1.0]


@pytest.mark.parametrize(
    ("gold", "alarm", "verdict"),
    [
        (RISES_AND_FALLS, 1, True),  # before the peak
        (RISES_AND_FALLS, 3, True),  # a twentieth lost
        (RISES_AND_FALLS, 4, False),  # half lost
        (RISES_AND_FALLS, None, False),
        ([0.0, 1.0, 2.0], None, None),  # nothing to ring for
        ([0.0, 1.0, 2.0], 2, True),
        ([0.0, -1.0, -2.0], 1, None),  # gold never gained, so there is no tenth of it
    ],
)
def test_the_alarm_is_in_time_where_less_than_a_tenth_is_lost(gold, alarm, verdict):
    assert overoptimisation.in_time([run_of(gold, alarm=alarm)]) is verdict


def test_one_late_alarm_is_not_excused_by_another_in_time():
    early, late = run_of(RISES_AND_FALLS, alarm=1), run_of(RISES_AND_FALLS, alarm=4)
    assert overoptimisation.in_time([early, late]) is False


def test_gold_falls_only_from_a_peak_behind_the_start_and_beyond_noise():
    assert overoptimisation.falls(run_of(RISES_AND_FALLS, alarm=None).climb) is True
    assert overoptimisation.falls(run_of([0, 1, 2], alarm=None).climb) is False
    assert overoptimisation.falls(run_of([0, -1, -2], alarm=None).climb) is False
    noisy = climb(gold=[[0.0, 0.0, 0.0], [5.0, 4.0, 3.0], [1.0, 4.4, 2.5]])
    assert overoptimisation.falls(noisy) is None


def test_a_proxy_stays_where_it_ends_highest():
    assert overoptimisation.stays(run_of([0, 0, 0], alarm=None, proxy=[0, 1, 2]).climb) is True
    assert overoptimisation.stays(run_of([0, 0, 0], alarm=None, proxy=[0, 2, 1]).climb) is False


def test_peaks_move_away_where_none_comes_nearer():
    assert overoptimisation.moves_away([0.5, 0.5, 1.0]) is True
    assert overoptimisation.moves_away([0.5, 1.0, 0.7]) is False
    assert overoptimisation.moves_away([2.0, 2.0]) is None


def test_kl_is_held_against_best_of_n_at_the_highest_gain_that_both_have():
    draws = climb(gold=[[0.0], [1.0], [2.0]], kl=[0.0, 0.2, 0.6])
    run = run_of([0, 0, 0, 0], alarm=None, proxy=[0.0, 1.5, 9.0, -1.0], kl=[0.0, 3.0, 8.0, 9.0]).climb
    assert overoptimisation.at_equal_gain(draws, run) == pytest.approx((1.5, 3.0, 0.4))
    assert overoptimisation.at_equal_gain(draws, run_of([0, 0], alarm=None, proxy=[0.0, 9.0]).climb) is None


def test_findings_hold_what_every_climb_has_shown():
    some = Trial(
        seed=1,
        agreements={16: agreement(np.eye(3), np.eye(3))},
        draws=[
            climb(
                gold=[[0.0] * 3, [1.0, 1.1, 0.9], [0.5, 0.6, 0.4]],
                proxy=[[0.0] * 3, [1.0] * 3, [2.5] * 3],
                kl=[0, 0.2, 0.6],
            )
        ],
        # The estimate of its first evaluation says that it has come nearer than at the start.
        runs=[run_of(RISES_AND_FALLS, alarm=1, kl=[0.0, -0.1, 1.0, 2.0, 3.0])],
    )
    found = overoptimisation.findings([some])
    assert [claim.holds for claim in found.claims] == [True, True, None, None, False, True, True]
    assert [row["alarm"] for row in found.tables[1].rows] == [2.0]
    places = [point.x for point in found.charts[2].series[0].points]
    assert places == pytest.approx([0.0, 1.0, math.sqrt(2), math.sqrt(3)])


# --- measuring --------------------------------------------------------------------------------------------------------


def test_values_of_n_go_to_the_whole_pool_by_half_doublings():
    assert sizes_up_to(1) == [1]
    assert sizes_up_to(16) == [1, 2, 3, 4, 6, 8, 11, 16]
    assert sizes_up_to(20) == [1, 2, 3, 4, 6, 8, 11, 16, 20]


def test_smaller_parts_are_in_larger_ones_and_none_shares_a_prompt_with_the_held_out(tmp_path):
    snapshot = tmp_path / "snapshot"
    planted_snapshot(snapshot, train=20, validation=4, test=2)
    parts = parts_of(snapshot, proxies=[3, 9], held_out=8, seed=1)
    trained = {name: [line["id"] for line in part if line["split"] == "train"] for name, part in parts.items()}
    assert {name: len(ids) for name, ids in trained.items()} == {"3 labels": 3, "9 labels": 9, HELD_OUT: 8}
    assert trained["3 labels"] == trained["9 labels"][:3]
    groups = {name: {line["group"] for line in part if line["split"] == "train"} for name, part in parts.items()}
    assert not groups["9 labels"] & groups[HELD_OUT]
    assert all(sum(line["split"] == "validation" for line in part) == 6 for part in parts.values())
    assert parts_of(snapshot, proxies=[3, 9], held_out=8, seed=2) != parts
    with pytest.raises(ValueError, match="9 and 12 labels are asked for, the ballot has 20 to train"):
        parts_of(snapshot, proxies=[3, 9], held_out=12, seed=1)


class StepsHere(Steps):
    """Steps in this process, one at a time: a child would load torch for each."""

    def _engine(self, name: str, command: str, arguments: Sequence[str], out: Path) -> None:
        with self._free:
            if command == "snapshot":
                assert main([command, *arguments, "--out", str(out)]) == 0
            elif command == "convert":
                out.mkdir()
                source, _, base = arguments
                convert.run(ConvertConfig(models=ConvertModelsConfig(source=source, base=base), name="made"), out)
            else:
                config = parse_config(json.loads(Path(arguments[0]).read_text()))
                write_json(out / "config.json", to_dict(config))
                module = importlib.import_module(f"training.engine.{MODULES[config.method]}")
                module.run(config, out, resume=None, supervision=Supervision())


def test_the_whole_experiment_on_a_tiny_model(tmp_path):
    settings = settings_of("overoptimisation", Setting.SMALL) | {
        "dtype": "fp32",
        "adapter": {"rank": 4, "alpha": 8},
        "new_tokens": 6,
        "labels": {"proxies": [4, 8], "held_out": 6},
        "reward": {"batch": {"pairs": 4, "epochs": 9}, "stop": {"max_steps": 3}, "optim": {"learning_rate": 1e-2}},
        "pool": {"prompts": 5, "completions": 4},
    }
    small = {
        "batch": {"iterations": 4, "completions": 8, "per_prompt": 4},
        "optim": {"learning_rate": 1e-2},
        "eval": {"every": 2},
    }
    settings["climbs"] = {"labels": [4], "training": settings["climbs"]["training"] | small}
    prompts = [
        {"id": f"p{n}", "group": f"p{n}", "prompt": [{"role": "user", "content": f"What is dog {n}?"}]}
        for n in range(9)
    ]
    planted_snapshot(tmp_path / "ballot", train=16, validation=4, test=2)
    base = tiny_model(tmp_path / "sft", spread=0.3)
    world = World(
        steps=StepsHere(directory=tmp_path / "steps", base=base, slots=1),
        sft=base,
        gold=tiny_model(tmp_path / "gold", seed=3, spread=0.3, reward=True),
        demonstrations=tmp_path / "none",
        train=prompts[6:],
        held_out=prompts[:6],
        settings=settings,
    )
    trial = climbing.trial(world, tmp_path / "ballot", seed=1)
    for draws, labels in zip(trial.draws, (4, 8), strict=True):
        assert draws.labels == labels
        assert draws.places == [1, 2, 3, 4]
        assert draws.kl == [best_of_n_kl_bound(n) for n in (1, 2, 3, 4)]
        assert draws.proxy[0] == pytest.approx(np.zeros(5))  # the best of one is π^SFT
        assert (np.diff(draws.proxy, axis=0) >= 0).all()
    (run,) = trial.runs
    assert run.climb.places == [0, 2, 4]
    assert run.climb.kl[0] == pytest.approx(0, abs=1e-4)
    assert run.climb.proxy.shape == run.climb.gold.shape == run.held_out.shape == (3, 5)
    # Every figure of the run is what its own evaluations wrote, in the order of the pool's prompts.
    (directory,) = (tmp_path / "steps").glob("rloo*")
    last = {line["prompt_id"]: line for line in read_lines(directory / "samples.jsonl") if line["step"] == 4}
    assert run.climb.kl[-1] == pytest.approx(fmean(line["kl"] for line in last.values()))
    drawn = climbing.pool_of(world, _rewards(tmp_path / "steps"), world.held_out[:5], seed=1)
    scores = drawn.scores["4 labels"]
    gains = [last[f"p{n}"]["score"] - scores[n].mean() for n in range(5)]
    assert run.climb.proxy[-1] * np.sqrt(scores.var(axis=1, ddof=1).mean()) == pytest.approx(np.array(gains))
    assert len(overoptimisation.findings([trial]).claims) == 7


def _rewards(steps: Path) -> dict[str, Path]:
    names = {"4 labels": "reward-4-labels", "8 labels": "reward-8-labels", HELD_OUT: "reward-held-out"}
    return {name: next(steps.glob(f"{start}*")) / "merged" / "model" for name, start in names.items()}
