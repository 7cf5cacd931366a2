"""Each alarm is rung by data that deserve it, and silent on data that do not."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from training.engine.alarms import ALARMS, CUSUM_LIMIT, LEAST_COMPLETIONS, RULES, raised
from training.engine.calibration import sigmoid
from training.engine.diagnostics import Cusum, Watch, reward_alarms, rollout_alarms, watch_rollouts
from training.engine.displacement import displacement_metrics
from training.engine.evaluate import Judged, correlation, preference_metrics, probability_metrics
from training.engine.metrics import METRICS
from training.engine.rollout_figures import Limits, Rollout

Scored = tuple[list[Judged], list[float], list[float]]


# --- a world with quality, length and votes ---------------------------------------------------------------------------


def reward_world(
    *, length_weight: float = 0.0, sharpness: float = 1.0, pairs: int = 400, votes: int = 5, leak: bool = False
) -> Scored:
    """Pairs of completions with a true quality and a length that has nothing to do with it, judged by a reward model
    that sees quality + length_weight · length, times `sharpness`; with `leak` it has seen the votes.

    Returns the judged pairs, all scores and all lengths.
    """
    rng = random.Random(7)
    judged, scores, lengths = [], [], []
    for number in range(pairs):
        quality = [rng.gauss(0, 1), rng.gauss(0, 1)]
        tokens = [rng.randint(20, 200), rng.randint(20, 200)]
        wins = sum(rng.random() < sigmoid(quality[0] - quality[1]) for _ in range(votes))
        s = [sharpness * (x + length_weight * t) for x, t in zip(quality, tokens, strict=True)]
        if leak:
            s = [float(wins), float(votes - wins)]
        scores += s
        lengths += [float(t) for t in tokens]
        a, b = (0, 1) if 2 * wins >= votes else (1, 0)
        for_a = wins if a == 0 else votes - wins
        judged.append(
            Judged(
                group=f"g{number // 2}",
                margin=s[a] - s[b],
                q=for_a / votes,
                tokens_chosen=tokens[a],
                tokens_rejected=tokens[b],
                votes=(for_a, votes - for_a),
            )
        )
    return judged, scores, lengths


def alarms_of_reward(world: Scored, *, part: str = "eval") -> list[str]:
    judged, scores, lengths = world
    figures = {
        **preference_metrics(judged, part=part),
        **probability_metrics(judged, part=part),
        f"{part}/length_correlation": correlation(scores, lengths),
    }
    assert set(figures) <= set(METRICS)
    return reward_alarms(figures, part=part)


def test_a_reward_model_that_knows_quality_rings_nothing() -> None:
    assert alarms_of_reward(reward_world()) == []
    assert alarms_of_reward(reward_world(), part="test") == []
    assert alarms_of_reward(reward_world(pairs=80)) == []


def test_scores_that_follow_length_ring() -> None:
    assert "length_bias" in alarms_of_reward(reward_world(length_weight=0.05))


def test_a_model_no_better_than_picking_the_longer_rings_though_it_ignores_length() -> None:
    judged, scores, lengths = reward_world()
    longest = [replace(p, tokens_chosen=90 + i % 9, tokens_rejected=80 + i % 7) for i, p in enumerate(judged)]
    assert alarms_of_reward((longest, scores, lengths)) == ["length_bias"]


def test_probabilities_three_times_too_sure_ring_and_too_few_pairs_do_not_say_so() -> None:
    assert alarms_of_reward(reward_world(sharpness=4)) == ["calibration"]
    assert alarms_of_reward(reward_world(sharpness=4, pairs=20)) == []


def test_a_calibrated_model_seldom_rings_on_few_single_votes() -> None:
    rng = random.Random(3)

    def rings(sharpness: float) -> bool:
        margins = [rng.gauss(0, 1.5) for _ in range(60)]
        pairs = [
            Judged(
                group=str(i),
                margin=sharpness * m,
                q=float(rng.random() < sigmoid(m)),
                tokens_chosen=1,
                tokens_rejected=2,
            )
            for i, m in enumerate(margins)
        ]
        figures = {**probability_metrics(pairs, part="eval"), "eval/pairs": 60.0}
        return "calibration" in reward_alarms(figures, part="eval")

    assert sum(rings(1.0) for _ in range(100)) <= 10


def test_a_model_that_has_seen_the_votes_is_above_the_ceiling() -> None:
    assert "noise_ceiling" in alarms_of_reward(reward_world(leak=True))


# --- displacement -----------------------------------------------------------------------------------------------------


def softmax_policy(features: Sequence[Sequence[float]], *, steps: int) -> tuple[float, float]:
    """Changes of log p of the chosen and the rejected answer after DPO-like ascent on their margin in a linear softmax
    over single-token answers: W rows are answers, the hidden state is that of the prompt (the world of A11)."""
    chosen, rejected = 0, 1
    weights = [0.0] * len(features[0])

    def logp() -> list[float]:
        logits = [sum(w * f for w, f in zip(weights, row, strict=True)) for row in features]
        total = math.log(sum(math.exp(x) for x in logits))
        return [x - total for x in logits]

    start = logp()
    for _ in range(steps):
        for k in range(len(weights)):
            weights[k] += 0.1 * (features[chosen][k] - features[rejected][k])
    end = logp()
    return end[chosen] - start[chosen], end[rejected] - start[rejected]


def displaced(features: Callable[[float], list[list[float]]]) -> dict[str, float]:
    rng = random.Random(5)
    changes = [softmax_policy(features(rng.uniform(0.8, 1.2)), steps=40) for _ in range(60)]
    chosen, rejected = [w for w, _ in changes], [loss for _, loss in changes]
    assert all(w > loss for w, loss in changes)  # the margin grows in every pair, whatever happens
    return displacement_metrics(chosen, rejected, [str(n) for n in range(60)], part="eval")


def test_similar_answers_that_fall_together_ring_and_different_ones_do_not() -> None:
    similar = displaced(lambda x: [[1.0, x], [1.0, 0.5 * x], [2.0, 3.0 * x]])
    assert similar["eval/logp_chosen_change"] < -1
    assert list(raised(similar)) == ["displacement"]
    different = displaced(lambda x: [[x, 0.0], [0.0, x], [-x, -x]])
    assert different["eval/logp_chosen_change"] > 0
    assert list(raised(different)) == []


# --- policies that sample ---------------------------------------------------------------------------------------------

WORDS = 500


def text(rng: random.Random, length: int) -> tuple[int, ...]:
    """Words of unequal frequency, as in prose."""
    return tuple(int(WORDS * rng.random() ** 2) for _ in range(length))


def sampled(
    seed: int = 0,
    *,
    prompts: int = 16,
    per_prompt: int = 2,
    length: int = 60,
    slope: float = 0.0,
    quality: float = 0.0,
    held_out: float = 0.0,
    unfinished: float = 0.05,
    kl: float = 1.0,
    entropy: float = 2.0,
    write: Callable[[random.Random, int], tuple[int, ...]] = text,
) -> list[Rollout]:
    """Completions whose score is quality + slope · length + noise; what a prompt is worth stays over the seeds."""
    rng = random.Random(seed)
    rollouts = []
    for prompt in range(prompts):
        worth = random.Random(prompt).gauss(0, 1)
        for _ in range(per_prompt):
            ids = write(rng, rng.randint(length // 2, length * 3 // 2))
            rollouts.append(
                Rollout(
                    prompt_id=f"p{prompt}",
                    group=f"g{prompt}",
                    token_ids=ids,
                    finished=rng.random() >= unfinished,
                    score=worth + quality + slope * len(ids) + rng.gauss(0, 0.5),
                    held_out_score=worth + held_out + rng.gauss(0, 0.5),
                    kl=kl + rng.gauss(0, 0.3),
                    kl_token_max=0.5,
                    entropy=entropy + rng.gauss(0, 0.1),
                )
            )
    return rollouts


LIMITS = Limits(p99=4.0, kl_budget=25.0)


def alarms_after(*evaluations: list[Rollout], limits: Limits = LIMITS) -> list[str]:
    """Alarms of the last of some evaluations after a healthy first one."""
    watched = watch_rollouts(None, sampled(99), limits=limits, step=0)
    assert watched.alarms == []
    for step, rollouts in enumerate(evaluations, start=1):
        watched = watch_rollouts(watched.state, rollouts, limits=limits, step=step)
        assert set(watched.figures) <= set(METRICS)
    return watched.alarms


def test_a_healthy_policy_rings_nothing() -> None:
    better = [sampled(seed, quality=0.2 * seed, held_out=0.2 * seed, kl=2.0 * seed) for seed in range(8)]
    for upto in range(1, 9):
        assert alarms_after(*better[:upto]) == []


def test_completions_that_grow_because_length_pays_ring() -> None:
    # 60 tokens more at 0.02 nats are 1.2 nats, for both reward models
    assert alarms_after(sampled(1, length=120, slope=0.02, held_out=1.2), limits=Limits()) == ["length_growth"]
    # Longer too, but the score rose for another reason
    assert alarms_after(sampled(1, length=120, quality=1.2, held_out=1.2), limits=Limits()) == []


def test_with_one_completion_a_prompt_the_reward_models_own_slope_decides() -> None:
    long = sampled(1, per_prompt=1, length=120, slope=0.02, held_out=1.2)
    assert alarms_after(long, limits=Limits()) == []
    assert alarms_after(long, limits=Limits(length_slope=0.02)) == ["length_growth"]


def test_a_proxy_that_leaves_the_held_out_model_behind_rings() -> None:
    leaving = [sampled(step, quality=0.5 * step, held_out=0.0) for step in range(1, 8)]
    assert "over_optimisation" in alarms_after(*leaving, limits=Limits())
    together = [sampled(step, quality=0.5 * step, held_out=0.5 * step) for step in range(1, 8)]
    assert alarms_after(*together, limits=Limits()) == []


def test_a_proxy_that_rises_while_the_held_out_model_falls_rings_at_the_third_time() -> None:
    start = sampled(99)

    def parted(step: int) -> list[Rollout]:
        """Half of the prompts gain what the others lose, and a little in the mean: nothing a CUSUM could see."""
        drifts = [0.02 + (0.5 if n % 4 < 2 else -0.5) for n in range(len(start))]
        return [
            replace(r, score=(r.score or 0) + step * d, held_out_score=(r.held_out_score or 0) - step * d)
            for r, d in zip(start, drifts, strict=True)
        ]

    assert alarms_after(parted(1), parted(2), limits=Limits()) == []
    assert alarms_after(parted(1), parted(2), parted(3), limits=Limits()) == ["over_optimisation"]
    assert alarms_after(parted(1), parted(2), start, parted(1), parted(2), limits=Limits()) == []


def test_scores_beyond_those_of_the_reward_models_training_ring() -> None:
    assert "score_range" in alarms_after(sampled(1, quality=3.5, held_out=3.5))


def test_kl_near_its_budget_rings() -> None:
    assert alarms_after(sampled(1, kl=21.0)) == ["kl_budget"]


def test_a_policy_that_forgets_to_end_rings() -> None:
    assert alarms_after(sampled(1, unfinished=0.4)) == ["end_tokens"]


def test_twice_the_unfinished_share_of_the_reference_rings_only_beyond_its_noise() -> None:
    reference = sampled(1, prompts=400, per_prompt=1, unfinished=0.03)
    start = watch_rollouts(None, reference, limits=Limits(), step=0)

    def alarms(prompts: int, share: float) -> list[str]:
        later = sampled(2, prompts=prompts, per_prompt=1, unfinished=share)
        return watch_rollouts(start.state, later, limits=Limits(), step=1).alarms

    assert alarms(400, 0.12) == ["end_tokens"]
    assert alarms(16, 0.08) == []


def loop_of(rng: random.Random, length: int) -> tuple[int, ...]:
    return (text(rng, 7) * length)[:length]


def one_answer(_rng: random.Random, length: int) -> tuple[int, ...]:
    return text(random.Random(1), 200)[:length]


def test_planted_repetition_rings_each_in_its_own_figure() -> None:
    def reasons(**changes: object) -> list[str]:
        start = watch_rollouts(None, sampled(99), limits=LIMITS, step=0)
        later = watch_rollouts(start.state, sampled(1, **changes), limits=LIMITS, step=1)  # type: ignore[arg-type]
        found = raised({**later.figures, **start.state.reference})
        assert list(found) in ([], ["repetition"])
        return [reason.split()[0] for reason in found.get("repetition", [])]

    assert reasons() == []
    repeats = reasons(write=loop_of)
    assert repeats[0].endswith("%")  # "85% of the 4-grams …"
    alike = reasons(write=one_answer)  # to every prompt, so the completions of a prompt are alike too
    assert {"completions", "the"} <= set(alike)
    assert reasons(entropy=0.5) == ["entropy"]


def test_the_optimiser_that_works_on_noise_rings() -> None:
    def alarms(step: int, **figures: float) -> list[str]:
        named = {name.replace("__", "/"): value for name, value in figures.items()}
        start = watch_rollouts(None, sampled(99), limits=LIMITS, step=0)
        return watch_rollouts(start.state, sampled(1), limits=LIMITS, step=step, figures=named).alarms

    rng = random.Random(2)
    returns = [rng.gauss(0, 1) for _ in range(500)]
    useless = [rng.gauss(0, 1) for _ in returns]
    trained = [x + rng.gauss(0, 0.3) for x in returns]

    def explained(values: list[float]) -> float:
        spread = sum((r - sum(returns) / 500) ** 2 for r in returns)
        return 1 - sum((r - v) ** 2 for r, v in zip(returns, values, strict=True)) / spread

    assert alarms(60, ppo__explained_variance=explained(useless)) == ["optimisation"]
    assert alarms(40, ppo__explained_variance=explained(useless)) == []  # it is still learning
    assert alarms(60, ppo__explained_variance=explained(trained)) == []
    # A prompt that is solved in 97 % of the samples gives groups of 8 without spread in 0.97⁸ = 78 %.
    groups = [[rng.random() < 0.97 for _ in range(8)] for _ in range(200)]
    assert alarms(5, rollout__groups_without_spread=sum(len(set(g)) == 1 for g in groups) / 200) == ["optimisation"]
    even = [[rng.random() < 0.5 for _ in range(8)] for _ in range(200)]
    assert alarms(5, rollout__groups_without_spread=sum(len(set(g)) == 1 for g in even) / 200) == []
    # log-probabilities of a sampler rounded to 2⁻⁵ nats, and to 2⁻⁸
    logp = [-rng.expovariate(0.3) for _ in range(1000)]
    for bits, expected in ((3, ["optimisation"]), (8, [])):
        gap = sum(abs(x - round(x * 2**bits) / 2**bits) for x in logp) / len(logp)
        assert alarms(5, rollout__sampler_gap=gap) == expected
    ratios = [math.exp(rng.gauss(0, 0.5)) for _ in range(1000)]
    assert alarms(5, ppo__clip_share=sum(abs(r - 1) > 0.2 for r in ratios) / 1000) == ["optimisation"]
    assert alarms(5, ppo__clip_share=sum(abs(r**0.1 - 1) > 0.2 for r in ratios) / 1000) == []


def test_a_handful_of_completions_rings_nothing() -> None:
    few = sampled(1, prompts=LEAST_COMPLETIONS - 1, per_prompt=1, unfinished=1.0, kl=50.0, write=loop_of)
    start = watch_rollouts(None, sampled(99), limits=LIMITS, step=0)
    assert watch_rollouts(start.state, few, limits=LIMITS, step=1).alarms == []


# --- state ------------------------------------------------------------------------------------------------------------


def test_a_watch_survives_its_checkpoint_to_the_last_bit() -> None:
    evaluations = [sampled(step, quality=0.3 * step, held_out=0.1 * step) for step in range(6)]
    straight = cut = watch_rollouts(None, evaluations[0], limits=LIMITS, step=0)
    for step, rollouts in enumerate(evaluations[1:], start=1):
        straight = watch_rollouts(straight.state, rollouts, limits=LIMITS, step=step)
        stored = Watch.from_dict(json.loads(json.dumps(cut.state.to_dict())))
        cut = watch_rollouts(stored, rollouts, limits=LIMITS, step=step)
        assert cut == straight
    assert straight.state.cusum.value > 0


def test_the_cusum_adds_what_exceeds_its_slack() -> None:
    first = Cusum().update({"a": (0.0, 0.0), "b": (0.0, 0.0), "c": (0.0, 0.0)})
    assert (first.value, first.streak) == (0.0, 0)
    # Gaps 1, 2, 3: mean 2, standard error of three 1/√3, so 2√3 − ½.
    second = first.update({"a": (1.0, 0.0), "b": (2.0, 0.0), "c": (3.0, 0.0)})
    assert second.value == pytest.approx(2 * math.sqrt(3) - 0.5)
    # Standing still takes the slack off, and never below 0.
    for _ in range(10):
        second = second.update(second.last)
    assert second.value == 0.0


def test_pure_noise_seldom_rings_the_cusum() -> None:
    """With independent shifts one alarm in 930 evaluations; consecutive ones share an evaluation, so still fewer."""
    rng = random.Random(11)
    state, rings = Cusum(), 0
    for _ in range(1000):
        state = state.update({str(g): (rng.gauss(0, 1), rng.gauss(0, 1)) for g in range(16)})
        rings += state.value > CUSUM_LIMIT
    assert rings <= 5


# --- the table --------------------------------------------------------------------------------------------------------


def test_every_alarm_has_a_rule_a_remedy_and_figures_that_are_metrics() -> None:
    assert list(dict.fromkeys(rule.alarm for rule in RULES)) == list(ALARMS)
    assert " ".join(ALARMS) == (
        "length_bias length_growth displacement over_optimisation score_range kl_budget end_tokens repetition "
        "calibration noise_ceiling optimisation"
    )
    for rule in RULES:
        assert {*rule.needs} <= set(METRICS), rule
        assert rule.counts is None or rule.counts in METRICS or rule.counts == "train/step"
    assert all(
        f"alarm/{name}" in METRICS and alarm.limit and alarm.remedy.endswith(".") for name, alarm in ALARMS.items()
    )


def test_an_alarm_says_what_it_saw_and_where_its_limit_is() -> None:
    figures = {"rollout/samples": 16.0, "rollout/kl_budget_share": 0.93}
    assert raised(figures) == {"kl_budget": ["KL has used 93% of its budget (limit 80%)."]}
    assert rollout_alarms(figures, step=3) == ["kl_budget"]


def test_a_policy_that_was_not_trained_rings_nothing_whatever_it_writes() -> None:
    start = watch_rollouts(None, sampled(1, unfinished=1.0), limits=LIMITS, step=0)
    assert start.alarms == []
    assert watch_rollouts(start.state, sampled(1, unfinished=1.0), limits=LIMITS, step=1).alarms == ["end_tokens"]
