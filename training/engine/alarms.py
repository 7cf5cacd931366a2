"""Alarms: what a person should look at before trusting a run. Names, thresholds, evidence and remedies; no torch.

An alarm is a fact about the figures of one evaluation, so whoever holds a line of `metrics.jsonl` can say why it rang.
A rule whose figures are missing, or rest on too few pairs or completions, stays silent. The thresholds without a named
source are guesses until the learning checks have run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Figures = Mapping[str, float]

LEAST_PAIRS = 30
"""Below this one pair moves a share by more than three points, and alarms would be noise."""
LEAST_COMPLETIONS = 8
"""Below this one completion moves a share by more than the twelve points that separate health from alarm."""
LENGTH_CORRELATION = 0.5
"""A quarter of the variance of the scores is length. Singhal et al. 2023 find length-driven reward models there."""
LENGTH_RATIO = 1.25
"""Runs with equal prompts and random numbers differ by less in mean length when nothing rewards it."""
LENGTH_GAIN_SHARE = 0.5
"""Most of the gain is what the reward model pays for length alone."""
FALLING_SHARE = 0.5
FALL_NATS = -1.0
"""A pair may lose a little where its rejected side loses more; e-fold in the mean is displacement."""
CUSUM_SLACK = 0.5
"""k: half of a shift of one standard error, the classical choice for seeing such a shift soonest (Page 1954)."""
CUSUM_LIMIT = 5.0
"""h: with k = ½ one false alarm in about 930 independent evaluations (Siegmund 1985)."""
PARTING_STREAK = 3
"""Evaluations in a row with proxy up and held-out down: 1 in 64 by chance."""
SCORE_TAIL_SHARE = 0.1
"""Ten times what the training completions have above their 99th percentile: the scores are extrapolated."""
KL_BUDGET_SHARE = 0.8
"""Leaves an evaluation's time to act before the budget ends the run."""
UNFINISHED_SHARE = 0.2
UNFINISHED_RATIO = 2.0
REPETITION_EXCESS = 0.1
"""Beside lying outside the reference's range, the mean must have moved by this: a reference of a few completions that
never repeat has a range of one point, and one repetition would lie outside."""
DISTINCT_RATIO = 0.5
"""Completions of different prompts with half of the reference's distinct bigrams are one text over and over."""
ENTROPY_RATIO = 0.3
CALIBRATION_ERROR = 0.05
EXPLAINED_VARIANCE = 0.0
"""A critic below this is worse than the mean return."""
CRITIC_STEPS = 50
"""Steps that a critic has for getting above the mean return."""
SPREADLESS_SHARE = 0.6
"""Most of the sampling buys no gradient."""
SAMPLER_GAP = 0.02
"""Nats a token: at 50 tokens the weights of two completions differ by a factor e between sampler and trainer."""
CLIP_SHARE = 0.5
"""Most tokens have left the trust region, so most of the batch is without gradient."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a person reads about an alarm, whatever run raised it."""

    title: str
    measures: str
    limit: str
    remedy: str


ALARMS: dict[str, Alarm] = {
    "length_bias": Alarm(
        "Length bias",
        "scores follow length, or order pairs no better than “pick the longer”",
        f"correlation above {LENGTH_CORRELATION}, or accuracy not above that of “pick the longer”",
        "Balance pairs by length, add length as a covariate, and check what the guideline says about length.",
    ),
    "length_growth": Alarm(
        "Length growth",
        "completions grow, and most of the score's gain is what the reward model pays for length",
        f"above {LENGTH_RATIO} times the reference's length, and above {LENGTH_GAIN_SHARE:.0%} of the score's gain",
        "Use a loss per token (dpo_avg, SimPO), RLOO without division by length, or retrain the reward model.",
    ),
    "displacement": Alarm(
        "Likelihood displacement",
        "the chosen completions lose likelihood in training",
        f"above {FALLING_SHARE:.0%} of the chosen completions, and below {FALL_NATS} nats in the mean",
        "Add the NLL term, leave out the pairs that look most alike (dpo.drop_similar), or lower the learning rate.",
    ),
    "over_optimisation": Alarm(
        "Over-optimisation",
        "the score that is optimised rises while that of a reward model which training never sees does not",
        f"CUSUM above {CUSUM_LIMIT}, or {PARTING_STREAK} evaluations in a row with one up and the other down",
        "Pause, and collect human labels on the completions with the highest scores.",
    ),
    "score_range": Alarm(
        "Score range",
        "scores lie above what the reward model gave in its own training",
        f"above {SCORE_TAIL_SHARE:.0%} of the scores beyond the 99th percentile",
        "Pause, and collect human labels on the completions with the highest scores.",
    ),
    "kl_budget": Alarm(
        "KL budget",
        "the policy's KL from the reference nears its budget",
        f"above {KL_BUDGET_SHARE:.0%} of the budget",
        "Raise β or lower the learning rate.",
    ),
    "end_tokens": Alarm(
        "End tokens",
        "completions do not end before the token limit",
        f"above {UNFINISHED_SHARE:.0%} of the completions, or {UNFINISHED_RATIO:.0f} times the reference's share",
        "Give unfinished completions a low score, or raise the limit.",
    ),
    "repetition": Alarm(
        "Repetition, collapse",
        "completions repeat themselves or each other, or entropy has collapsed",
        f"outside 99 % of the reference's completions, or entropy below {ENTROPY_RATIO:.0%} of the start's",
        "Raise β, or take fewer inner epochs.",
    ),
    "calibration": Alarm(
        "Calibration",
        "the model's probabilities differ from the vote shares",
        f"mean difference above {CALIBRATION_ERROR} and above what sampling explains",
        "Apply the fitted temperature, or collect more data.",
    ),
    "noise_ceiling": Alarm(
        "Noise ceiling",
        "the model agrees with people more than people's agreement among each other allows",
        "the lower end of the agreement with single votes above the ceiling's upper bound",
        "Check the split: held-out prompts or completions were probably in training.",
    ),
    "optimisation": Alarm(
        "Optimisation",
        "the optimiser works on noise: a useless critic, groups without spread, or a sampler that is not the policy",
        f"explained variance below {EXPLAINED_VARIANCE:.0f} after {CRITIC_STEPS} steps, above {SPREADLESS_SHARE:.0%} "
        f"groups without spread, a sampler off by {SAMPLER_GAP} nats a token, or {CLIP_SHARE:.0%} of tokens clipped",
        "Warm up the critic, choose prompts of other difficulty, or sample with the engine's own decoder.",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One way to ring an alarm. `evidence` is a format string over the figures."""

    alarm: str
    needs: tuple[str, ...]
    """Figures without which the rule is silent."""
    fires: Callable[[Figures], bool]
    evidence: str
    counts: str | None = None
    """The figure that says on how many pairs or completions the others rest."""
    least: int = 0


def _pairs(alarm: str, *needs: str, fires: Callable[[Figures], bool], evidence: str) -> Rule:
    return Rule(alarm=alarm, needs=needs, fires=fires, evidence=evidence, counts="eval/pairs", least=LEAST_PAIRS)


def _sampled(alarm: str, *needs: str, fires: Callable[[Figures], bool], evidence: str) -> Rule:
    return Rule(
        alarm=alarm, needs=needs, fires=fires, evidence=evidence, counts="rollout/samples", least=LEAST_COMPLETIONS
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """Why an alarm rings: a sentence, and the figures that it rests on."""

    alarm: str
    text: str
    figures: dict[str, float]


RULES: tuple[Rule, ...] = (
    _pairs(
        "length_bias",
        "eval/length_correlation",
        fires=lambda f: f["eval/length_correlation"] > LENGTH_CORRELATION,
        evidence=f"score and length correlate by {{0[eval/length_correlation]:.2f}} (limit {LENGTH_CORRELATION}).",
    ),
    _pairs(
        "length_bias",
        "eval/accuracy",
        "eval/longer_wins",
        fires=lambda f: f["eval/accuracy"] <= f["eval/longer_wins"],
        evidence="accuracy {0[eval/accuracy]:.1%} is not above “pick the longer”, {0[eval/longer_wins]:.1%}.",
    ),
    _sampled(
        "length_growth",
        "rollout/length_ratio",
        "rollout/length_gain_share",
        fires=lambda f: f["rollout/length_ratio"] > LENGTH_RATIO and f["rollout/length_gain_share"] > LENGTH_GAIN_SHARE,
        evidence=f"completions are {{0[rollout/length_ratio]:.2f}} times as long as the reference's (limit "
        f"{LENGTH_RATIO}), which explains {{0[rollout/length_gain_share]:.0%}} of the score's gain (limit "
        f"{LENGTH_GAIN_SHARE:.0%}).",
    ),
    Rule(
        alarm="displacement",
        needs=("eval/falling_share", "eval/logp_chosen_change"),
        fires=lambda f: f["eval/falling_share"] > FALLING_SHARE and f["eval/logp_chosen_change"] < FALL_NATS,
        evidence=f"{{0[eval/falling_share]:.0%}} of the chosen completions became less likely (limit "
        f"{FALLING_SHARE:.0%}), by {{0[eval/logp_chosen_change]:.2f}} nats in the mean (limit {FALL_NATS}).",
        counts="eval/changed_pairs",
        least=LEAST_PAIRS,
    ),
    _sampled(
        "over_optimisation",
        "rollout/cusum",
        fires=lambda f: f["rollout/cusum"] > CUSUM_LIMIT,
        evidence=f"the score has risen more than the held-out model's, CUSUM {{0[rollout/cusum]:.1f}} (limit "
        f"{CUSUM_LIMIT}).",
    ),
    _sampled(
        "over_optimisation",
        "rollout/parting_streak",
        fires=lambda f: f["rollout/parting_streak"] >= PARTING_STREAK,
        evidence="the score rose and the held-out model's fell {0[rollout/parting_streak]:.0f} evaluations in a row.",
    ),
    _sampled(
        "score_range",
        "rollout/score_above_p99",
        fires=lambda f: f["rollout/score_above_p99"] > SCORE_TAIL_SHARE,
        evidence=f"{{0[rollout/score_above_p99]:.0%}} of the scores lie above the 99th percentile of the reward "
        f"model's training (limit {SCORE_TAIL_SHARE:.0%}).",
    ),
    _sampled(
        "kl_budget",
        "rollout/kl_budget_share",
        fires=lambda f: f["rollout/kl_budget_share"] > KL_BUDGET_SHARE,
        evidence=f"KL has used {{0[rollout/kl_budget_share]:.0%}} of its budget (limit {KL_BUDGET_SHARE:.0%}).",
    ),
    _sampled(
        "end_tokens",
        "rollout/unfinished_share",
        fires=lambda f: f["rollout/unfinished_share"] > UNFINISHED_SHARE,
        evidence=f"{{0[rollout/unfinished_share]:.0%}} of the completions hit the token limit (limit "
        f"{UNFINISHED_SHARE:.0%}).",
    ),
    _sampled(
        "end_tokens",
        "rollout/unfinished_share",
        "rollout/unfinished_share_low",
        "reference/unfinished_share",
        # The lower end must be above the reference too, or two of 16 instead of one would ring.
        fires=lambda f: (
            f["rollout/unfinished_share"] > UNFINISHED_RATIO * f["reference/unfinished_share"]
            and f["rollout/unfinished_share_low"] > f["reference/unfinished_share"]
        ),
        evidence=f"{{0[rollout/unfinished_share]:.0%}} of the completions hit the token limit, more than "
        f"{UNFINISHED_RATIO:.0f} times the reference's {{0[reference/unfinished_share]:.0%}}.",
    ),
    _sampled(
        "repetition",
        "rollout/duplicate_4grams",
        "reference/duplicate_4grams",
        "reference/duplicate_4grams_top",
        fires=lambda f: _beyond(f, "duplicate_4grams"),
        evidence="{0[rollout/duplicate_4grams]:.0%} of the 4-grams of a completion are repeats; 99 % of the "
        "reference's completions have at most {0[reference/duplicate_4grams_top]:.0%}.",
    ),
    _sampled(
        "repetition",
        "rollout/self_bleu",
        "reference/self_bleu",
        "reference/self_bleu_top",
        fires=lambda f: _beyond(f, "self_bleu"),
        evidence="completions of one prompt resemble each other with self-BLEU {0[rollout/self_bleu]:.2f}; 99 % of the "
        "reference's prompts have at most {0[reference/self_bleu_top]:.2f}.",
    ),
    _sampled(
        "repetition",
        "rollout/distinct_2",
        "reference/distinct_2",
        fires=lambda f: f["rollout/distinct_2"] < DISTINCT_RATIO * f["reference/distinct_2"],
        evidence="the completions have {0[rollout/distinct_2]:.2f} distinct bigrams a bigram, the reference's "
        f"{{0[reference/distinct_2]:.2f}} (limit {DISTINCT_RATIO} of it).",
    ),
    _sampled(
        "repetition",
        "rollout/entropy",
        "reference/entropy",
        fires=lambda f: f["rollout/entropy"] < ENTROPY_RATIO * f["reference/entropy"],
        evidence="entropy is {0[rollout/entropy]:.2f} nats a token, at the start it was {0[reference/entropy]:.2f} "
        f"(limit {ENTROPY_RATIO} of it).",
    ),
    _pairs(
        "calibration",
        "eval/calibration_error",
        # Without the noise figure the error is taken as it stands.
        fires=lambda f: f["eval/calibration_error"] > max(CALIBRATION_ERROR, f.get("eval/calibration_noise", 0.0)),
        evidence="probabilities and vote shares differ by {0[eval/calibration_error]:.3f} in the mean (limit "
        f"{CALIBRATION_ERROR}).",
    ),
    _pairs(
        "noise_ceiling",
        "eval/vote_accuracy_low",
        "eval/ceiling_upper",
        fires=lambda f: f["eval/vote_accuracy_low"] > f["eval/ceiling_upper"],
        evidence="the model agrees with at least {0[eval/vote_accuracy_low]:.1%} of single votes, people's agreement "
        "allows at most {0[eval/ceiling_upper]:.1%}.",
    ),
    Rule(
        alarm="optimisation",
        needs=("ppo/explained_variance",),
        fires=lambda f: f["ppo/explained_variance"] < EXPLAINED_VARIANCE,
        evidence="the critic explains {0[ppo/explained_variance]:.2f} of the returns' variance, less than their mean.",
        counts="train/step",
        least=CRITIC_STEPS + 1,
    ),
    Rule(
        alarm="optimisation",
        needs=("rollout/groups_without_spread",),
        fires=lambda f: f["rollout/groups_without_spread"] > SPREADLESS_SHARE,
        evidence="{0[rollout/groups_without_spread]:.0%} of the groups have equal scores and teach nothing (limit "
        f"{SPREADLESS_SHARE:.0%}).",
    ),
    Rule(
        alarm="optimisation",
        needs=("rollout/sampler_gap",),
        fires=lambda f: f["rollout/sampler_gap"] > SAMPLER_GAP,
        evidence="the sampler's log-probabilities are off by {0[rollout/sampler_gap]:.3f} nats a token (limit "
        f"{SAMPLER_GAP}).",
    ),
    Rule(
        alarm="optimisation",
        needs=("ppo/clip_share",),
        fires=lambda f: f["ppo/clip_share"] > CLIP_SHARE,
        evidence=f"{{0[ppo/clip_share]:.0%}} of the tokens are clipped (limit {CLIP_SHARE:.0%}).",
    ),
)


def raised(figures: Figures) -> dict[str, list[str]]:
    """The alarms that figures of one evaluation ring, in the order of `ALARMS`, with a sentence for each reason.

    Args:
        figures: values by metric name; `train/step` besides, where a rule waits for some steps.
    """
    found: dict[str, list[str]] = {name: [] for name in ALARMS}
    for reason in reasons(figures):
        found[reason.alarm].append(reason.text)
    return {name: texts for name, texts in found.items() if texts}


def reasons(figures: Figures) -> list[Reason]:
    """Every rule that rings, in the order of `RULES`; figures as for `raised`."""
    found = []
    for rule in RULES:
        enough = rule.counts is None or figures.get(rule.counts, 0.0) >= rule.least
        if enough and all(name in figures for name in rule.needs) and rule.fires(figures):
            used = rule.needs if rule.counts is None else (*rule.needs, rule.counts)
            shown = {name: figures[name] for name in used}
            found.append(Reason(alarm=rule.alarm, text=rule.evidence.format(figures), figures=shown))
    return found


def _beyond(figures: Figures, name: str) -> bool:
    """The mean lies above 99 % of the reference's single values, and well above their mean."""
    mean = figures[f"rollout/{name}"]
    top, usual = figures[f"reference/{name}_top"], figures[f"reference/{name}"]
    return mean > top and mean > usual + REPETITION_EXCESS
