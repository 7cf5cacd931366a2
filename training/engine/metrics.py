"""Every metric that the engine writes, by name: unit, meaning, and which way is better.

A run that writes another name is a bug (`loop.MetricsWriter` refuses it). Plain Python: the web reads this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True)
class Metric:
    """What a chart needs to show a number. `better` is None where neither direction is good in itself."""

    unit: str
    help: str
    better: Better | None = None


def _evaluated(part: str, where: str) -> dict[str, Metric]:
    """The metrics of one held-out part, `eval` (validation) or `test`."""
    return {
        f"{part}/loss": Metric("nats/pair", f"mean training loss on {where}", "lower"),
        f"{part}/accuracy": Metric(
            "share", f"decisive pairs of {where} that the model orders as the votes do", "higher"
        ),
        f"{part}/accuracy_low": Metric("share", "lower end of the accuracy's 95 % interval, clustered by prompt group"),
        f"{part}/accuracy_high": Metric(
            "share", "upper end of the accuracy's 95 % interval, clustered by prompt group"
        ),
        f"{part}/vote_accuracy": Metric(
            "share", f"single decisive votes of {where} that the model agrees with, mean over pairs", "higher"
        ),
        f"{part}/vote_accuracy_low": Metric("share", "lower end of its 95 % interval, clustered by prompt group"),
        f"{part}/vote_accuracy_high": Metric("share", "upper end of its 95 % interval, clustered by prompt group"),
        f"{part}/longer_wins": Metric(
            "share", f"accuracy of “pick the longer completion” on the same pairs of {where}"
        ),
        f"{part}/nll": Metric("nats/pair", f"negative log-likelihood of the votes of {where} under σ(Δs)", "lower"),
        f"{part}/brier": Metric("share²", f"mean squared error of σ(Δs) against the votes of {where}", "lower"),
        f"{part}/calibration_error": Metric(
            "share", f"mean |σ(Δs) − vote share| over equal-mass bins of the pairs of {where}, both orders", "lower"
        ),
        f"{part}/length_correlation": Metric("correlation", f"Pearson correlation of score and tokens on {where}"),
        f"{part}/margin": Metric("nats", f"mean margin Δ between chosen and rejected on {where}", "higher"),
        f"{part}/pairs": Metric("pairs", f"decisive pairs (no ties) of {where} that were counted"),
        f"{part}/groups": Metric("groups", f"prompt groups among the decisive pairs of {where}"),
    }


METRICS: dict[str, Metric] = {
    "train/loss": Metric("nats/pair", "loss of the step's batch, weighted mean over its pairs", "lower"),
    "train/accuracy": Metric("share", "decisive pairs of the batch with a positive margin", "higher"),
    "train/margin": Metric("nats", "mean score difference of chosen and rejected in the batch", "higher"),
    "train/score_mean": Metric("nats", "mean score of the batch's completions"),
    "train/score_std": Metric("nats", "spread of the scores of the batch's completions"),
    "train/learning_rate": Metric("1", "learning rate of the step"),
    "train/grad_norm": Metric("1", "global gradient norm before clipping"),
    "train/tokens": Metric("tokens", "prompt + completion tokens seen so far, the prompt counted once per completion"),
    "train/epoch": Metric("epochs", "passes over the training pairs finished so far"),
    "policy/margin": Metric("nats", "mean Δ = d(chosen) − d(rejected), d the log-ratio to the reference", "higher"),
    "policy/logp_chosen_change": Metric("nats", "mean log π(chosen) − log π_ref(chosen)", "higher"),
    "policy/logp_rejected_change": Metric("nats", "mean log π(rejected) − log π_ref(rejected)"),
    "policy/falling_share": Metric("share", "pairs whose chosen completion became less likely", "lower"),
    "rollout/kl": Metric("nats/completion", "KL(π‖π_ref): mean of log π − log π_ref over sampled completions"),
    "rollout/length_mean": Metric("tokens", "mean length of the sampled completions"),
    "rollout/unfinished_share": Metric("share", "sampled completions that hit the token limit", "lower"),
    "rollout/samples": Metric("completions", "sampled completions behind the rollout figures"),
    "data/pairs": Metric("pairs", "training pairs that are used"),
    "data/ties": Metric("pairs", "training pairs whose label is exactly one half"),
    "data/dropped_too_long": Metric("pairs", "training pairs dropped, longer than data.max_tokens", "lower"),
    "time/step": Metric("s", "wall time of the optimizer step"),
    "time/eval": Metric("s", "wall time of the evaluation"),
    "speed/tokens_per_second": Metric("tokens/s", "tokens of the step by its wall time", "higher"),
    "memory/peak_bytes": Metric("bytes", "highest resident (CPU) or allocated (CUDA) memory so far", "lower"),
    "alarm/length_bias": Metric("flag", "scores follow length, or are no better than “pick the longer”", "lower"),
    "alarm/calibration": Metric("flag", "the model's probabilities differ from the vote shares", "lower"),
    "alarm/displacement": Metric("flag", "the chosen completions lose likelihood in training", "lower"),
    **_evaluated("eval", "the validation part"),
    **_evaluated("test", "the test part"),
}
