"""Every metric that the engine writes, by name: unit, meaning, and which way is better.

A run that writes another name is a bug (`files.check_values` refuses it). Plain Python: the web reads this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from training.engine.alarms import ALARMS

Better = Literal["higher", "lower"]

BEST_OF_N = tuple(2**power for power in range(13))
"""n of the curve of best-of-n that have metrics."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What a chart needs to show a number. `better` is None where neither direction is good in itself."""

    unit: str
    help: str
    better: Better | None = None


def _with_interval(name: str, metric: Metric) -> dict[str, Metric]:
    """A metric and the ends of its 95 % interval, clustered by prompt group."""
    ends = ("low", "lower"), ("high", "upper")
    return {
        name: metric,
        **{
            f"{name}_{end}": Metric(
                metric.unit, f"{side} end of the 95 % interval of {name}, clustered by prompt group"
            )
            for end, side in ends
        },
    }


def _evaluated(part: str, where: str) -> dict[str, Metric]:
    """The metrics of one held-out part, `eval` (validation) or `test`."""
    return {
        f"{part}/loss": Metric("nats", f"the loss that is trained, on {where}; a mean as train/loss", "lower"),
        f"{part}/end_probability": Metric(
            "share", f"mean probability of the end token where the texts of {where} end", "higher"
        ),
        **_with_interval(
            f"{part}/accuracy",
            Metric("share", f"decisive pairs of {where} ordered as by the votes (kto: examples, by z0)", "higher"),
        ),
        **_with_interval(
            f"{part}/vote_accuracy",
            Metric("share", f"single decisive votes of {where} that the model agrees with, mean over pairs", "higher"),
        ),
        f"{part}/longer_wins": Metric(
            "share", f"accuracy of “pick the longer completion” on the same pairs of {where}"
        ),
        **_with_interval(
            f"{part}/nll",
            Metric("nats/pair", f"negative log-likelihood of the votes of {where} under σ(Δs)", "lower"),
        ),
        **_with_interval(
            f"{part}/brier",
            Metric("share²", f"mean squared error of σ(Δs) against the votes of {where}", "lower"),
        ),
        f"{part}/calibration_error": Metric(
            "share", f"mean |σ(Δs) − vote share| over equal-mass bins of the pairs of {where}, both orders", "lower"
        ),
        f"{part}/calibration_noise": Metric(
            "share", f"calibration error that a calibrated model on as many pairs as {where} seldom exceeds"
        ),
        f"{part}/temperature": Metric("1", f"τ for which σ(Δs/τ) is likeliest on {where}; above 1: overconfident"),
        f"{part}/length_correlation": Metric("correlation", f"Pearson correlation of score and tokens on {where}"),
        **_by_length(part, where),
        **_by_votes(part, where),
        **_with_interval(
            f"{part}/models_agreement", Metric("share", f"couples of reward models that order a pair of {where} alike")
        ),
        f"{part}/models_correlation": Metric(
            "correlation", f"of the margins of two reward models on {where}, mean over couples"
        ),
        f"{part}/margin": Metric("nats", f"mean margin Δ between chosen and rejected on {where}", "higher"),
        f"{part}/pairs": Metric("pairs", f"decisive pairs (no ties) of {where} that were counted"),
        f"{part}/examples": Metric("examples", f"examples (no pairs) of {where} that were counted"),
        f"{part}/groups": Metric("groups", f"prompt groups among the decisive pairs (kto: examples) of {where}"),
        **_with_interval(
            f"{part}/logp_chosen_change",
            Metric("nats", f"log π − log π_ref of chosen completions of {where}", "higher"),
        ),
        **_with_interval(
            f"{part}/logp_rejected_change", Metric("nats", f"log π − log π_ref of rejected completions of {where}")
        ),
        **_with_interval(
            f"{part}/falling_share", Metric("share", f"chosen completions of {where} that became less likely", "lower")
        ),
        f"{part}/changed_pairs": Metric("pairs", f"pairs of {where} behind the changes of log π"),
    }


def _by_length(part: str, where: str) -> dict[str, Metric]:
    found = {
        **_with_interval(
            f"{part}/accuracy_longer_chosen", Metric("share", f"accuracy on {where} where the longer one won", "higher")
        ),
        **_with_interval(
            f"{part}/accuracy_shorter_chosen",
            Metric("share", f"accuracy on {where} where the shorter one won", "higher"),
        ),
        **_with_interval(
            f"{part}/length_slope",
            Metric("nats/token", f"score that a token of length brings within a pair of {where}"),
        ),
    }
    for name, what in (("similar", "below 10 %"), ("moderate", "10–50 %"), ("large", "above 50 %")):
        which = f"pairs of {where} that differ in length by {what} of their mean"
        found |= _with_interval(f"{part}/accuracy_length_{name}", Metric("share", f"accuracy on {which}", "higher"))
        found[f"{part}/pairs_length_{name}"] = Metric("pairs", f"decisive {which}")
        found |= _with_interval(
            f"{part}/longer_overrated_{name}",
            Metric("share", f"probability given to the longer one less its vote share, {which}"),
        )
    return found


def _by_votes(part: str, where: str) -> dict[str, Metric]:
    found = {
        **_with_interval(
            f"{part}/agreement", Metric("share", f"agreeing ones among pairs of decisive votes on a pair of {where}")
        ),
        f"{part}/ceiling": Metric("share", f"best agreement with single votes of {where} that any model can have"),
        f"{part}/ceiling_upper": Metric("share", f"upper bound of that ceiling on {where}, all pairs equally hard"),
        f"{part}/ceiling_share": Metric("share", f"agreement with single votes of {where} by its ceiling", "higher"),
    }
    for name, what in (("close", "up to 2 : 1"), ("clear", "above 2 : 1"), ("unanimous", "unanimous")):
        which = f"pairs of {where} whose votes are {what}"
        found |= _with_interval(f"{part}/accuracy_votes_{name}", Metric("share", f"accuracy on {which}", "higher"))
        found[f"{part}/pairs_votes_{name}"] = Metric("pairs", which)
        found |= _with_interval(
            f"{part}/preferred_overrated_{name}",
            Metric("share", f"probability given to what the votes prefer less their share, {which}"),
        )
    return found


def _rollouts() -> dict[str, Metric]:
    """Figures of completions that the policy writes at an evaluation, and of the reference's on the same prompts."""
    found = {
        **_with_interval(
            "rollout/kl",
            Metric("nats/completion", "KL(π‖π_ref): mean of log π − log π_ref over sampled completions"),
        ),
        "rollout/kl_root": Metric("√nats", "√KL(π‖π_ref), the distance that over-optimisation is drawn against"),
        "rollout/kl_token_max": Metric("nats/token", "largest log π − log π_ref of a sampled token"),
        "rollout/kl_budget_share": Metric("share", "KL(π‖π_ref) by its budget", "lower"),
        **_with_interval("rollout/score", Metric("nats", "mean score of the sampled completions", "higher")),
        **_with_interval(
            "rollout/held_out_score",
            Metric("nats", "mean score by reward models that training never sees", "higher"),
        ),
        "rollout/score_above_p99": Metric(
            "share", "scores above the 99th percentile of the reward model's training scores", "lower"
        ),
        **_with_interval("rollout/length_mean", Metric("tokens", "mean length of the sampled completions")),
        "rollout/length_ratio": Metric("1", "mean length by that of the reference's completions"),
        "rollout/length_gain_share": Metric(
            "share", "share of the score's gain that the reward model pays for length alone"
        ),
        **_with_interval(
            "rollout/unfinished_share", Metric("share", "sampled completions that hit the token limit", "lower")
        ),
        **_with_interval(
            "rollout/duplicate_4grams", Metric("share", "4-grams of a completion that were in it before", "lower")
        ),
        **_with_interval(
            "rollout/self_bleu",
            Metric("1", "BLEU-4 of a completion against the others of its prompt, mean over prompts", "lower"),
        ),
        "rollout/distinct_1": Metric("share", "distinct tokens among those that completions begin with", "higher"),
        "rollout/distinct_2": Metric("share", "distinct bigrams among those that completions begin with", "higher"),
        **_with_interval("rollout/entropy", Metric("nats/token", "entropy of π at the sampled tokens")),
        "rollout/cusum": Metric("1", "CUSUM of (Δscore − Δheld-out score)/SE over the evaluations", "lower"),
        "rollout/parting_streak": Metric(
            "evaluations", "evaluations in a row in which the score rose and the held-out score fell", "lower"
        ),
        "rollout/groups_without_spread": Metric("share", "prompts whose completions all have one score", "lower"),
        "rollout/sampler_gap": Metric("nats/token", "mean |log π_old − log μ|, μ the law that sampled", "lower"),
    }
    return {
        **found,
        "reference/length_mean": Metric("tokens", "mean length of the reference's completions"),
        "reference/length_p95": Metric("tokens", "95th percentile of the lengths of the reference's completions"),
        "reference/unfinished_share": Metric("share", "the reference's completions that hit the token limit"),
        "reference/duplicate_4grams": Metric("share", "repeated 4-grams of the reference's completions, mean"),
        "reference/duplicate_4grams_top": Metric("share", "their 99th percentile over completions"),
        "reference/self_bleu": Metric("1", "self-BLEU of the reference's completions, mean over prompts"),
        "reference/self_bleu_top": Metric("1", "its 99th percentile over prompts"),
        "reference/distinct_2": Metric("share", "distinct bigrams among those of the reference's completions"),
        "reference/entropy": Metric("nats/token", "entropy of π_ref at its own tokens"),
        "reference/score": Metric("nats", "mean score of the reference's completions"),
        "reference/score_std": Metric("nats", "spread of the scores of the reference's completions"),
        "reference/held_out_score_std": Metric("nats", "spread of their scores by the held-out reward models"),
    }


def _held_out_rollouts() -> dict[str, Metric]:
    """Figures of held-out prompts, where `rollout/` is those of the prompts that are trained on."""
    where = "one completion of each held-out prompt"
    return {
        **_with_interval("eval/score", Metric("nats", f"mean score of {where}", "higher")),
        **_with_interval(
            "eval/held_out_score", Metric("nats", "the same by models that training never sees", "higher")
        ),
        **_with_interval("eval/kl", Metric("nats/completion", f"KL(π‖π_ref) by {where}")),
        **_with_interval("eval/entropy", Metric("nats/token", f"entropy of π at the tokens of {where}")),
        **_with_interval("eval/length_mean", Metric("tokens", f"mean length of {where}")),
        "eval/length_p95": Metric("tokens", f"95th percentile of the lengths of {where}"),
        **_with_interval("eval/unfinished_share", Metric("share", f"share that hit the token limit, {where}", "lower")),
        "eval/samples": Metric("completions", "sampled completions behind these figures"),
    }


def _best_of_n() -> dict[str, Metric]:
    """The curve of best-of-n at the powers of two: other n of a run are in its result alone."""
    found: dict[str, Metric] = {}
    for n in BEST_OF_N:
        found |= _with_interval(
            f"best_of_n/score_{n}",
            Metric("nats", f"expected score of the best of {n} completions of a prompt", "higher"),
        )
        found |= _with_interval(
            f"best_of_n/held_out_score_{n}",
            Metric("nats", f"the same completions' score by reward models that chose nothing, best of {n}", "higher"),
        )
    return found


def _wins(name: str, how: str) -> dict[str, Metric]:
    return {
        **_with_interval(f"{name}/win_rate", Metric("share", f"contests won {how}, ties one half", "higher")),
        **_with_interval(
            f"{name}/win_rate_length_controlled",
            Metric("share", f"contests won {how}, had both completions one length", "higher"),
        ),
        f"{name}/contests": Metric("pairs", f"contests {how}"),
    }


METRICS: dict[str, Metric] = {
    "train/loss": Metric(
        "nats", "loss of the step's batch, mean over its pairs, completions or (sft, ppo, grpo, quark) tokens", "lower"
    ),
    "train/token_accuracy": Metric("share", "scored tokens of the batch that the model finds likeliest", "higher"),
    "train/entropy": Metric("nats/token", "entropy of π at the scored tokens of the batch"),
    "train/accuracy": Metric(
        "share", "decisive pairs of the batch with a positive margin (kto: examples on their side of z0)", "higher"
    ),
    "train/margin": Metric("nats", "mean score difference of chosen and rejected in the batch", "higher"),
    "train/tie_width": Metric("nats", "η of a reward model with ties: completions nearer than that tie more than win"),
    "train/score_mean": Metric("nats", "mean score of the batch's completions"),
    "train/score_std": Metric("nats", "spread of the scores of the batch's completions"),
    "train/learning_rate": Metric("1", "learning rate of the step"),
    "train/grad_norm": Metric("1", "global gradient norm before clipping"),
    "train/critic_learning_rate": Metric("1", "learning rate of the critic"),
    "train/critic_grad_norm": Metric("1", "the critic's global gradient norm before clipping"),
    "train/tokens": Metric("tokens", "prompt + completion tokens seen so far, the prompt counted once per completion"),
    "train/epoch": Metric("epochs", "passes over the training pairs finished so far"),
    "policy/margin": Metric(
        "nats",
        "mean Δ = d(chosen) − d(rejected), d the log-ratio to the reference (simpo, orpo: mean logit u)",
        "higher",
    ),
    "policy/logp_chosen_change": Metric("nats", "mean log π − log π_ref of chosen (kto: desirable) ones", "higher"),
    "policy/logp_rejected_change": Metric("nats", "mean log π − log π_ref of rejected (kto: undesirable) ones"),
    "policy/falling_share": Metric("share", "chosen (kto: desirable) completions that became less likely", "lower"),
    "kto/desirable_weight": Metric("1", "weight of a desirable example's loss"),
    "kto/undesirable_weight": Metric("1", "weight of an undesirable example's loss"),
    "kto/reference_point": Metric("nats", "z0: mean log π − log π_ref of mismatched completions, at least 0"),
    "rollout/kl_k3": Metric("nats/completion", "the same KL by an estimator that is never negative: Σ (e^−d − 1 + d)"),
    "rollout/kl_k3_per_token": Metric("nats/token", "rollout/kl_k3 by the tokens of the sampled completions"),
    **_with_interval(
        "rollout/best_score", Metric("nats", "expected best score of n completions of a prompt, n all or `n`", "higher")
    ),
    "rollout/kl_bound": Metric("nats/completion", "most that KL(best of n‖π) can be: log n − (n − 1)/n"),
    "rollout/kl_per_token": Metric("nats/token", "Σ log π − log π_ref of the sampled completions by their tokens"),
    "rollout/length_p95": Metric("tokens", "95th percentile of the lengths of the sampled completions"),
    "rollout/samples": Metric("completions", "sampled completions behind the rollout figures"),
    "ppo/explained_variance": Metric("share", "variance of the returns that the critic explains", "higher"),
    "rollout/reward": Metric(
        "nats", "mean score less β·KL of the sampled completions, the end-token rule applied", "higher"
    ),
    "rollout/advantage_std": Metric("nats", "spread of the advantages of the step's completions (tokens, ppo)"),
    "ppo/beta": Metric("1", "β, the price of a nat of KL(π‖π_ref) in nats of score"),
    "ppo/policy_loss": Metric(
        "nats", "clipped surrogate of the step, mean over its completions (rloo) or tokens", "lower"
    ),
    "ppo/value_loss": Metric("nats²/token", "half the squared error of the values, clipped, mean over tokens", "lower"),
    "ppo/approx_kl": Metric("nats/token", "KL(π_old‖π) since the completions were sampled, by (ρ − 1) − log ρ"),
    "ppo/ratio_max": Metric("1", "largest ratio π/π_old of a token"),
    "ppo/early_stop": Metric(
        "flag", "1 where KL(π_old‖π) was too large: no weight moved, the rest of the iteration is left out"
    ),
    "ppo/clip_share": Metric("share", "tokens (rloo: completions) whose ratio to π_old is clipped"),
    "data/prompts": Metric("prompts", "training prompts that are sampled"),
    "data/held_out_prompts": Metric(
        "prompts", "validation prompts that evaluations ask; 0: they ask training's, and no checkpoint is the best"
    ),
    "data/pairs": Metric("pairs", "training pairs that are used"),
    "data/examples": Metric("examples", "training examples (no pairs) that are used"),
    "data/dropped_empty": Metric("examples", "training examples dropped, they have no token to learn", "lower"),
    "data/rankings": Metric("rankings", "training rankings; data/pairs counts the pairs in them"),
    "data/desirable": Metric("examples", "training examples that are desirable"),
    "data/ties": Metric("pairs", "training pairs whose label is exactly one half (kto: left out)"),
    "data/prompts_too_long": Metric(
        "prompts", "prompts of an evaluation that leave no room for a completion as each policy reads them", "lower"
    ),
    "data/dropped_too_long": Metric("examples", "training pairs or examples dropped for their length", "lower"),
    "data/dropped_similar": Metric(
        "pairs", "training pairs left out because their completions are most alike to the start (dpo.drop_similar)"
    ),
    "online/label_entropy": Metric(
        "nats/pair", "entropy of the probability that a fresh pair's label is, or is drawn with; ln 2 is no opinion"
    ),
    "online/skipped_share": Metric(
        "share", "fresh pairs that say nothing: their texts are equal, or both hit the token limit", "lower"
    ),
    "online/unreadable_share": Metric("share", "pairs of which an answer of the judge could not be read", "lower"),
    "online/judge_agreement": Metric(
        "share", "pairs of which the judge says the same in both orders; the rest goes by place", "higher"
    ),
    "online/judge_first_place": Metric(
        "share", "how often the judge takes what it is shown first, a tie half; ½ has no bias"
    ),
    "online/argmax": Metric("flag", "1 where the better score wins for certain: the policy collapses onto the best"),
    **_best_of_n(),
    "quark/nll": Metric("nats/token", "−log π of the completions trained on, under their controls", "lower"),
    "quark/kl_per_token": Metric(
        "nats/token", "KL(π‖π_ref) over the whole vocabulary at the tokens trained on, the reference without a control"
    ),
    "quark/trained_score": Metric("nats", "mean score of the completions that the step trains on"),
    "quark/pool": Metric("completions", "scored completions that the iteration draws from"),
    "time/step": Metric("s", "wall time of the optimizer step, with the sampling before it"),
    "time/sample": Metric("s", "wall time of sampling the iteration's completions"),
    "time/score": Metric("s", "wall time of scoring them"),
    "time/logprobs": Metric("s", "wall time of the passes for log π_ref, log π_old and the values"),
    "time/train": Metric("s", "wall time of the step's forward and backward passes and its update"),
    "time/eval": Metric("s", "wall time of the evaluation"),
    "speed/tokens_per_second": Metric("tokens/s", "tokens of the step by its wall time", "higher"),
    "memory/peak_bytes": Metric("bytes", "highest resident (CPU) or allocated (CUDA) memory so far", "lower"),
    **{f"alarm/{name}": Metric("flag", alarm.measures, "lower") for name, alarm in ALARMS.items()},
    **_rollouts(),
    **_held_out_rollouts(),
    **_wins("win", "against the reference"),
    **_evaluated("eval", "the validation part"),
    **_evaluated("test", "the test part"),
}
