"""The sections that the configs of several methods share, each checked when it is made. No torch here.

Defaults stand here and in `config.py`, and nowhere else; `presets.py` scales the learning rates and fits machines.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from training.engine.parsing import require


class Target(StrEnum):
    """Which number of a snapshot line is the label q."""

    SHARE = "share"
    """`prob_share`, the share of the votes (where the line has none, `prob_chosen`)."""
    POSTERIOR = "posterior"
    """`prob_chosen`, the aggregator's posterior; it overstates margins on split votes."""


class Labels(StrEnum):
    """What the loss makes of q."""

    SOFT = "soft"
    """q itself."""
    HARD = "hard"
    """1 above one half, 0 below it, one half at a tie: plain Bradley–Terry."""


class Half(StrEnum):
    """Which prompt groups of the train part are used, drawn by a hash of the group."""

    ALL = "all"
    FIRST = "first"
    SECOND = "second"


class Schedule(StrEnum):
    """Learning rate after the warm-up, by optimizer step."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


class Dtype(StrEnum):
    """Arithmetic of the forward and backward passes. Weights, losses and the optimizer are always fp32."""

    FP32 = "fp32"
    BF16 = "bf16"


class Weights(StrEnum):
    """How a decoder holds the weights that it reads."""

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"
    """Weight-only, one scale a row; another sampler than the policy itself (ENGINE §3.8)."""


class Recompute(StrEnum):
    """Whether activations are computed again in the backward pass, which costs a third more and saves most memory."""

    AUTO = "auto"
    """Off until a GPU has run out of memory once; then on, and the checkpoints remember it."""
    ON = "on"
    OFF = "off"


class OnAlarm(StrEnum):
    """What a run does when an alarm is raised at an evaluation."""

    CONTINUE = "continue"
    PAUSE = "pause"
    """Save and end with status `paused`; a resume goes on."""


class Combine(StrEnum):
    """How several reward models make one score."""

    MEAN = "mean"
    WORST = "worst"
    """The least of them (Coste et al. 2023): cautious where they disagree."""


# --- data and models --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelsConfig:
    base: str
    """Directory (safetensors) of the model that training starts from; the reference too, where there is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredModelsConfig:
    """Models of a method that samples and lets reward models score."""

    base: str
    """Directory of the policy that training starts from; the reference too."""
    rewards: tuple[str, ...]
    """Directories of reward models; their scores, each less its stored mean, are combined."""
    combine: Combine = Combine.MEAN
    held_out: tuple[str, ...] = ()
    """Reward models that training never sees, for the over-optimisation alarm at evaluations."""

    def __post_init__(self) -> None:
        require(bool(self.rewards), "rewards", list(self.rewards), "must name at least one reward model")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    snapshot: str
    """Snapshot directory with `manifest.json` (layout in `records.py`). Only its train part is needed."""
    target: Target = Target.SHARE
    """Which number of a line is its label q."""
    max_tokens: int = 1024
    """Longest prompt + completion, tokens. An example with a longer one is dropped and counted, never cut."""
    allow_drop: bool = False
    """Go on although more than 5 % of a part is too long. Otherwise the run is refused (exit 3)."""
    half: Half = Half.ALL
    """Train on half of the prompt groups, so that a second model knows nothing of what the first has seen."""

    def __post_init__(self) -> None:
        require(self.max_tokens >= 2, "max_tokens", self.max_tokens, "must be at least 2")


@dataclass(frozen=True, kw_only=True, slots=True)
class DemonstrationsConfig:
    snapshot: str
    """Snapshot directory of demonstrations (layout in `records.py`). Only its train part is needed."""
    max_tokens: int = 1024
    """Longest prompt + completion, tokens. A longer example is dropped and counted, never cut."""
    allow_drop: bool = False
    """Go on although more than 5 % of a part is too long. Otherwise the run is refused (exit 3)."""

    def __post_init__(self) -> None:
        require(self.max_tokens >= 2, "max_tokens", self.max_tokens, "must be at least 2")


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptsConfig:
    snapshot: str
    """Snapshot directory of any kind; each prompt of it counts once."""
    max_prompt_tokens: int = 512
    """A longer prompt is dropped and counted, never cut."""
    allow_drop: bool = False
    """Go on although more than 5 % of a part is too long. Otherwise the run is refused (exit 3)."""

    def __post_init__(self) -> None:
        require(self.max_prompt_tokens >= 1, "max_prompt_tokens", self.max_prompt_tokens, "must be at least 1")


# --- steps ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchConfig:
    pairs: int = 64
    """Pairs (or ranked prompts) an optimizer step. The last batch of an epoch holds what is left."""
    epochs: int = 1
    """Passes over the training pairs, each in a new order given by the seed."""

    def __post_init__(self) -> None:
        require(self.pairs >= 1, "pairs", self.pairs, "must be at least 1")
        require(self.epochs >= 1, "epochs", self.epochs, "must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExamplesConfig:
    examples: int = 128
    """Completions an optimizer step. The last batch of an epoch holds what is left."""
    epochs: int = 3
    """Passes over the training examples, each in a new order given by the seed."""

    def __post_init__(self) -> None:
        require(self.examples >= 1, "examples", self.examples, "must be at least 1")
        require(self.epochs >= 1, "epochs", self.epochs, "must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutsConfig:
    """An iteration: sample completions, score them, then take optimizer steps on them."""

    iterations: int = 100
    """How often completions are sampled anew."""
    completions: int = 512
    """Completions of an iteration, over all its prompts."""
    per_prompt: int = 1
    """G, completions of each prompt."""
    minibatch: int | None = None
    """Completions of an optimizer step; null: all of the iteration."""
    inner_epochs: int = 1
    """Passes over the completions of an iteration."""

    def __post_init__(self) -> None:
        require(self.iterations >= 1, "iterations", self.iterations, "must be at least 1")
        require(self.completions >= 1, "completions", self.completions, "must be at least 1")
        require(self.per_prompt >= 1, "per_prompt", self.per_prompt, "must be at least 1")
        require(self.inner_epochs >= 1, "inner_epochs", self.inner_epochs, "must be at least 1")
        whole = self.completions % self.per_prompt == 0
        require(whole, "completions", self.completions, f"must be a multiple of per_prompt = {self.per_prompt}")
        size = self.minibatch
        require(size is None or size >= 1, "minibatch", size, "must be at least 1")
        fits = size is None or size % self.per_prompt == 0
        require(fits, "minibatch", size, f"must be a multiple of per_prompt = {self.per_prompt}")

    @property
    def prompts(self) -> int:
        """Prompts of an iteration."""
        return self.completions // self.per_prompt

    @property
    def steps(self) -> int:
        """Optimizer steps of an iteration, when none is skipped."""
        return self.inner_epochs * -(-self.completions // (self.minibatch or self.completions))


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodingConfig:
    """Sampling inside a training run: temperature 1 and the whole vocabulary (ENGINE R12)."""

    max_new_tokens: int = 128
    """Longest completion, tokens; at the limit its `finish` is "length"."""
    batch_size: int = 32
    """Completions decoded at one time."""

    def __post_init__(self) -> None:
        require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "must be at least 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class KlConfig:
    """The pull to the reference policy, KL(π‖π_ref) in nats a completion."""

    beta: float = 0.05
    """Its price, nats of score a nat of KL; the first value where `target` moves it."""
    target: float | None = None
    """KL that an adaptive beta steers to (Ziegler et al. 2019); null: beta stays."""
    horizon: int = 10_000
    """Completions over which beta may change by a factor e^0.2."""
    budget: float | None = 25.0
    """The run ends with status `stopped_kl` above this mean KL; null: never."""

    def __post_init__(self) -> None:
        require(self.beta >= 0, "beta", self.beta, "must not be negative")
        require(self.target is None or self.target > 0, "target", self.target, "must be positive")
        moves = self.target is None or self.beta > 0
        require(moves, "beta", self.beta, "must be positive where kl.target moves it")
        require(self.horizon >= 1, "horizon", self.horizon, "must be at least 1")
        require(self.budget is None or self.budget > 0, "budget", self.budget, "must be positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW. Rates are for 7B-class models with all weights trained; `presets.py` scales them."""

    learning_rate: float
    """Highest learning rate."""
    beta1: float = 0.9
    """How much of the mean gradient a step keeps."""
    beta2: float = 0.999
    """How much of the mean squared gradient a step keeps."""
    eps: float = 1e-8
    """Added to the root of the mean squared gradient, so that a small one is not blown up."""
    weight_decay: float = 0.0
    """Share of every weight that a step takes off, times the learning rate."""
    clip_norm: float = 1.0
    """Largest global gradient norm; larger gradients are scaled down to it."""
    schedule: Schedule = Schedule.COSINE
    warmup_share: float = 0.03
    """Share of the steps with linear warm-up from 0 (at least one step unless 0)."""
    floor_share: float = 0.1
    """The schedule ends at this share of `learning_rate`. `constant` has no use for it and ignores it."""

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "must be positive")
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            require(0 <= value < 1, name, value, "must be in [0, 1)")
        require(self.eps > 0, "eps", self.eps, "must be positive")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "must not be negative")
        require(self.clip_norm > 0, "clip_norm", self.clip_norm, "must be positive")
        require(0 <= self.warmup_share < 1, "warmup_share", self.warmup_share, "must be in [0, 1)")
        require(0 <= self.floor_share <= 1, "floor_share", self.floor_share, "must be in [0, 1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterConfig:
    """LoRA on all linear layers but the head (Hu et al. 2021): W + (alpha/rank)·B·A, no dropout."""

    rank: int = 16
    """Size of the low-rank update: more of it learns more, and takes more memory."""
    alpha: int = 32
    """Scale of the update, divided by `rank`."""
    last_layers: int | None = None
    """Adapt only the last so many layers: the backward pass ends there, which saves time and memory. null: all."""

    def __post_init__(self) -> None:
        require(self.rank >= 1, "rank", self.rank, "must be at least 1")
        require(self.alpha > 0, "alpha", self.alpha, "must be positive")
        last = self.last_layers
        require(last is None or last >= 1, "last_layers", last, "must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionConfig:
    dtype: Dtype = Dtype.FP32
    """bf16 means autocast over fp32 weights. fp16 is refused."""
    deterministic: bool = False
    """CUDA: deterministic kernels only, slower. On CPU fp32 runs are reproducible anyway."""


# --- memory, evaluation, files ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryConfig:
    micro_tokens: int = 1024
    """Most positions of one forward and backward pass; a longer item is a pass of its own. Halve it to save memory."""
    recompute: Recompute = Recompute.AUTO

    def __post_init__(self) -> None:
        require(self.micro_tokens >= 1, "micro_tokens", self.micro_tokens, "must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedMemoryConfig:
    micro_tokens: int = 1024
    """Most positions of one forward and backward pass; a longer item is a pass of its own. Halve it to save memory."""
    recompute: Recompute = Recompute.AUTO
    reference_cache: str | None = None
    """Directory for the reference log-probabilities, shared between runs; null: inside the output directory."""

    def __post_init__(self) -> None:
        require(self.micro_tokens >= 1, "micro_tokens", self.micro_tokens, "must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """Of a method that samples nothing by itself."""

    every: int | None = None
    """Steps between evaluations; null: a quarter of the run. Step 0 and the end are always evaluated."""
    pairs: int = 64
    """Validation examples of an evaluation, the first ones by id. The test part is always taken whole."""
    prompts: int = 4
    """Held-out examples whose completions are written to `samples.jsonl` with their figures at each evaluation."""

    def __post_init__(self) -> None:
        check_eval(self.every, self.pairs, self.prompts)


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledEvalConfig:
    """Of a method whose policy is sampled at evaluations."""

    every: int | None = None
    """Steps between evaluations; null: a quarter of the run. Step 0 and the end are always evaluated."""
    pairs: int = 64
    """Validation examples of an evaluation, the first ones by id. The test part is always taken whole."""
    prompts: int = 8
    """Held-out prompts sampled at temperature 1 at each evaluation, for `rollout/kl`, `samples.jsonl` and alarms."""
    max_new_tokens: int = 48
    """Longest sampled completion, tokens."""

    def __post_init__(self) -> None:
        check_eval(self.every, self.pairs, self.prompts)
        require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutEvalConfig:
    """Of a method that samples in training: held-out prompts are sampled in the same way."""

    every: int | None = None
    """Steps between evaluations; null: a quarter of the run. Step 0 and the end are always evaluated."""
    prompts: int = 16
    """Held-out prompts sampled and scored at each evaluation; their completions go to `samples.jsonl`."""

    def __post_init__(self) -> None:
        check_eval(self.every, 1, self.prompts)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    every: int = 10
    """Steps between checkpoints; the last step always has one."""
    keep: int = 2
    """Newest checkpoints that stay on disk, beside the best one and those asked for by the supervisor."""

    def __post_init__(self) -> None:
        require(self.every >= 1, "every", self.every, "must be at least 1")
        require(self.keep >= 1, "keep", self.keep, "must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class StopConfig:
    max_steps: int | None = None
    """End after this many optimizer steps; the schedule is laid over them. null: all epochs."""
    grace_seconds: float = 20.0
    """After a request to stop, a step that has not ended within this time is dropped (a resume repeats it)."""
    on_alarm: OnAlarm = OnAlarm.CONTINUE

    def __post_init__(self) -> None:
        require(self.max_steps is None or self.max_steps >= 1, "max_steps", self.max_steps, "must be at least 1")
        require(self.grace_seconds >= 0, "grace_seconds", self.grace_seconds, "must not be negative")


def check_seed(seed: int) -> None:
    require(0 <= seed < 2**31, "seed", seed, "must be in [0, 2³¹)")


def check_eval(every: int | None, pairs: int, prompts: int) -> None:
    require(every is None or every >= 1, "every", every, "must be at least 1")
    require(pairs >= 1, "pairs", pairs, "must be at least 1")
    require(prompts >= 0, "prompts", prompts, "must not be negative")
