"""The engine's configs: one frozen dataclass a method, checked when it is made. No torch here.

`parse_config` turns a JSON object into one of them, so that a bad value fails when a job is submitted and not an hour
later. A key that no dataclass has is an error, so a misspelt option can never be ignored. Sections that several methods
share are in `sections.py`; a section that a method does not use is absent from its config. The file is long because the
options of all methods are in it: a reader looks for an option here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, cast

from training.engine.errors import ConfigError
from training.engine.parsing import build, plain, require, show
from training.engine.sections import (
    AdapterConfig,
    BatchConfig,
    CachedMemoryConfig,
    CheckpointConfig,
    Combine,
    DataConfig,
    DecodingConfig,
    DemonstrationsConfig,
    EvalConfig,
    ExamplesConfig,
    KlConfig,
    Labels,
    MemoryConfig,
    ModelsConfig,
    OptimConfig,
    PrecisionConfig,
    PromptsConfig,
    RolloutEvalConfig,
    RolloutsConfig,
    SampledEvalConfig,
    ScoredModelsConfig,
    StopConfig,
    Weights,
    check_seed,
)


class Average(StrEnum):
    """What one unit of weight is, where a loss is a mean over tokens of completions."""

    TOKEN = "token"  # noqa: S105 - a word, no secret
    """Every token of the optimizer batch weighs the same."""
    SEQUENCE = "sequence"
    """Every completion weighs the same, however long."""
    CONSTANT = "constant"
    """Sums of completions by completions × `max_new_tokens` (GRPO)."""


class RankingLink(StrEnum):
    """The law of a ranking of K completions given their scores."""

    BRADLEY_TERRY = "bradley_terry"
    """All pairs of the ranking, their mean."""
    PLACKETT_LUCE = "plackett_luce"
    """The best first, then the best of the rest; no ties."""


class Ties(StrEnum):
    """How a reward model reads a tie."""

    HALF = "half"
    """As a pair with q = ½."""
    RAO_KUPPER = "rao_kupper"
    """As an outcome of its own, with a learned width (Rao & Kupper 1967)."""


class Logit(StrEnum):
    """What the policy says about a pair; formulas in `dpo.py`."""

    DPO = "dpo"
    """β times the difference of the summed log-ratios to the reference."""
    DPO_AVG = "dpo_avg"
    """The same with each sum divided by its number of tokens; wants a β around 5."""
    SIMPO = "simpo"
    """β times the difference of the mean log-probabilities, without a reference (Meng et al. 2024)."""
    ORPO = "orpo"
    """Difference of the log-odds of the mean log-probabilities, without a reference (Hong et al. 2024)."""


class Link(StrEnum):
    """How the votes enter a preference loss; formulas in `losses.py`."""

    NLL = "nll"
    SMOOTHED = "smoothed"
    ROBUST = "robust"
    IPO = "ipo"
    """With logit `dpo_avg` it is what some call IPO too; here that is the preset `ipo_avg`."""
    HINGE = "hinge"
    MARGIN = "margin"


class KlPlace(StrEnum):
    """Where the pull to the reference enters PPO."""

    REWARD = "reward"
    LOSS = "loss"
    """The sequence form of J^KL; its variance grows with length."""


class Critic(StrEnum):
    """What predicts the returns that PPO's advantages are held against."""

    SEPARATE = "separate"
    """A trunk, head and optimizer of its own, from the first reward model."""
    SHARED = "shared"
    """A head on the policy's trunk."""


class Scale(StrEnum):
    """What the advantages of a group are divided by."""

    STD = "std"
    NONE = "none"
    """Dr. GRPO (Liu et al. 2025)."""


class OnlineLabel(StrEnum):
    """What a fresh pair's scores make of its label."""

    SOFT = "soft"
    """q = σ(Δs/τ)."""
    COIN = "coin"
    """A seeded coin with that q."""
    ARGMAX = "argmax"
    """The better score wins: it collapses onto the best completion. For comparisons only."""


class Labeller(StrEnum):
    """Who prefers one of two fresh completions."""

    REWARD_MODEL = "reward_model"
    JUDGE = "judge"
    PEOPLE = "people"
    """The run writes its pairs and ends with status `waiting_for_labels`."""


class Quantiles(StrEnum):
    """Which of the sorted completions Quark trains on."""

    BEST = "best"
    """The top part alone, without a control (AlpacaFarm's default)."""
    ALL = "all"
    """All, each under the control of its part (Lu et al. 2022)."""


# --- options of one method --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class SftOptions:
    average: Average = Average.TOKEN

    def __post_init__(self) -> None:
        known = self.average is not Average.CONSTANT
        require(known, "average", self.average.value, "must be token or sequence")


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardOptions:
    labels: Labels = Labels.SOFT
    link: RankingLink = RankingLink.BRADLEY_TERRY
    ties: Ties = Ties.HALF
    margin: bool = False
    """Ask for the lines' `margin` between the scores (hard labels only: with a soft label it would say it twice)."""
    centring: float = 0.0
    """c of c·mean((s_w + s_l)²), which draws scores towards 0 (0.01 in arXiv 2312.09244); 0 is off."""

    def __post_init__(self) -> None:
        require(self.centring >= 0, "centring", self.centring, "must not be negative")
        hard = self.labels is Labels.HARD
        require(hard or not self.margin, "margin", self.margin, "must be false with soft labels: q says it already")
        simple = self.ties is Ties.HALF or (self.link is RankingLink.BRADLEY_TERRY and not self.margin)
        require(simple, "ties", self.ties.value, "must be half with plackett_luce or margin")


@dataclass(frozen=True, kw_only=True, slots=True)
class DpoOptions:
    labels: Labels = Labels.SOFT
    logit: Logit = Logit.DPO
    link: Link = Link.NLL
    beta: float = 0.1
    """Strength of the pull to the reference, 1/nats. `ipo` has τ in its place; sampled rewards are β·d(y) for any."""
    epsilon: float = 0.0
    """Share of flipped labels assumed by `smoothed` and `robust`; 0 for every other link."""
    tau: float = 0.1
    """τ of `ipo`, 1/nats; the other links do not read it."""
    gamma: float = 0.0
    """γ of `margin`, nats that each side must win by; 0 for every other link."""
    nll_weight: float = 0.0
    """α of the added α·(−log π(y_w)/T_w) over pairs with q > ½."""
    drop_similar: float = 0.0
    """Share of the training pairs left out: those whose completions are most alike to the model that training starts
    from (length-normalised CHES, `similarity.py`), which drive likelihood displacement."""
    odds_weight: float = 0.1
    """λ of `orpo`, whose loss is −log π(y_w)/T_w + λ·link; the other logits do not read it."""
    nll_on_prompt: bool = False
    """`orpo`: its first term is the mean over the tokens of prompts and chosen completions, as in its authors' code."""
    measure_kl: bool = False
    """`simpo` and `orpo` with all weights trained: hold a frozen copy of the start, so that evaluations measure KL.
    With an adapter, and for the other logits, they do so in any case."""

    def __post_init__(self) -> None:
        require(self.beta > 0, "beta", self.beta, "must be positive")
        require(self.tau > 0, "tau", self.tau, "must be positive")
        require(self.nll_weight >= 0, "nll_weight", self.nll_weight, "must not be negative")
        require(0 <= self.drop_similar < 1, "drop_similar", self.drop_similar, "must be in [0, 1)")
        require(self.odds_weight > 0, "odds_weight", self.odds_weight, "must be positive")
        if self.link in (Link.SMOOTHED, Link.ROBUST):
            require(0 < self.epsilon < 0.5, "epsilon", self.epsilon, f"must be in (0, 0.5) for link {self.link}")
        else:
            require(self.epsilon == 0, "epsilon", self.epsilon, f"must be 0 for link {self.link}, which has none")
        if self.link is Link.MARGIN:
            require(self.gamma > 0, "gamma", self.gamma, "must be positive for link margin")
        else:
            require(self.gamma == 0, "gamma", self.gamma, f"must be 0 for link {self.link}, which has none")
        if self.link is Link.ROBUST:
            require(
                self.labels is Labels.HARD,
                "labels",
                self.labels.value,
                "must be hard for link robust: soft labels were denoised once already",
            )
        if self.logit is Logit.ORPO:
            plain_link = self.link in (Link.NLL, Link.SMOOTHED, Link.ROBUST)
            require(plain_link, "link", self.link.value, "must be nll, smoothed or robust for logit orpo")
            require(self.nll_weight == 0, "nll_weight", self.nll_weight, "must be 0 for logit orpo, which has its own")
        else:
            require(not self.nll_on_prompt, "nll_on_prompt", self.nll_on_prompt, "is for logit orpo")
        if self.link is Link.IPO:
            based = self.logit in (Logit.DPO, Logit.DPO_AVG)
            require(based, "logit", self.logit.value, "must be dpo or dpo_avg for link ipo")

    @property
    def needs_reference(self) -> bool:
        return self.logit in (Logit.DPO, Logit.DPO_AVG)


@dataclass(frozen=True, kw_only=True, slots=True)
class KtoOptions:
    beta: float = 0.1
    """Strength of the pull to the reference, 1/nats."""
    desirable_weight: float | None = None
    """Weight of a desirable example; null: so that both kinds weigh the same in all."""
    undesirable_weight: float | None = None
    """Weight of an undesirable example; null: so that both kinds weigh the same in all."""

    def __post_init__(self) -> None:
        require(self.beta > 0, "beta", self.beta, "must be positive")
        for name, value in (
            ("desirable_weight", self.desirable_weight),
            ("undesirable_weight", self.undesirable_weight),
        ):
            require(value is None or value > 0, name, value, "must be positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class PpoOptions:
    gamma: float = 1.0
    """Discount of later rewards."""
    lam: float = 0.95
    """λ of generalised advantage estimation: 1 trusts returns, 0 trusts the critic."""
    clip: float = 0.2
    """ε: the ratio π/π_old is trusted within 1 ± ε."""
    value_clip: float = 0.2
    """ε_v: how far a value may move in one iteration, nats."""
    value_weight: float = 0.1
    """c_v of the value loss beside the policy's, for a shared critic."""
    critic: Critic = Critic.SEPARATE
    critic_learning_rate: float = 9e-6
    """Highest learning rate of a separate critic; schedule and the rest as in `optim`."""
    whiten_advantages: bool = True
    """Advantages to mean 0 and spread 1 over all tokens of an iteration."""
    kl_in: KlPlace = KlPlace.REWARD
    missing_end_score: float | None = -1.0
    """Score of a completion that hit the token limit, in place of the reward model's; null: the model's own stands."""
    inner_kl_target: float | None = 0.02
    """Above 1.5 times this KL(π_old‖π) a token the rest of an iteration is skipped; null: never. Nats."""

    def __post_init__(self) -> None:
        require(0 < self.gamma <= 1, "gamma", self.gamma, "must be in (0, 1]")
        require(0 <= self.lam <= 1, "lam", self.lam, "must be in [0, 1]")
        require(0 < self.clip < 1, "clip", self.clip, "must be in (0, 1)")
        require(self.value_clip > 0, "value_clip", self.value_clip, "must be positive")
        require(self.value_weight > 0, "value_weight", self.value_weight, "must be positive")
        rate = self.critic_learning_rate
        require(rate > 0, "critic_learning_rate", rate, "must be positive")
        target = self.inner_kl_target
        require(target is None or target > 0, "inner_kl_target", target, "must be positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class RlooOptions:
    """REINFORCE with the mean of the others as baseline: of the prompt's (G > 1), or of the batch's (G = 1)."""

    clip: float = 0.2
    """ε: the ratio of a whole completion is trusted within 1 ± ε."""
    missing_end_score: float | None = -1.0
    """Score of a completion that hit the token limit, in place of the reward model's; null: the model's own stands."""

    def __post_init__(self) -> None:
        require(0 < self.clip < 1, "clip", self.clip, "must be in (0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class GrpoOptions:
    clip_low: float = 0.2
    """ε: the ratio π/π_old is trusted from 1 − ε on."""
    clip_high: float = 0.28
    """ε_hi above ε keeps unlikely tokens alive (DAPO: Yu et al. 2025)."""
    scale: Scale = Scale.STD
    average: Average = Average.TOKEN
    mask_unfinished: bool = False
    """Completions that hit the token limit give no gradient."""
    missing_end_score: float | None = -1.0
    """Score of a completion that hit the token limit, in place of the reward model's; null: the model's own stands."""

    def __post_init__(self) -> None:
        require(0 < self.clip_low < 1, "clip_low", self.clip_low, "must be in (0, 1)")
        require(self.clip_high > 0, "clip_high", self.clip_high, "must be positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """An OpenAI-compatible server (vLLM is one)."""

    url: str
    """Its base, such as http://127.0.0.1:8000/v1."""
    key_file: str | None = None
    """File that holds the API key; null: none is sent."""
    parallel: int = 8
    """Requests at one time."""
    timeout_seconds: float = 120.0
    """Without a whole answer for so long a request has failed."""
    addresses: tuple[str, ...] = ()
    """IP addresses that connections go to, whatever the name in the URL means now; empty: what it means."""

    def __post_init__(self) -> None:
        ok = self.url.startswith(("http://", "https://"))
        require(ok, "url", self.url, "must begin with http:// or https://")
        require(self.parallel >= 1, "parallel", self.parallel, "must be at least 1")
        require(self.timeout_seconds > 0, "timeout_seconds", self.timeout_seconds, "must be positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeConfig:
    """A model behind an OpenAI-compatible server that is asked in both orders at temperature 0."""

    model: str
    """What the server calls the judge."""
    server: ServerConfig
    prompt: str | None = None
    """Text with {prompt}, {first} and {second} that asks for 1 or 2; null: the built-in one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OnlineOptions:
    beta: float = 0.1
    """Strength of the pull to the reference, 1/nats."""
    labeller: Labeller = Labeller.REWARD_MODEL
    label: OnlineLabel = OnlineLabel.SOFT
    tau: float = 1.0
    """τ of q = σ(Δs/τ), nats."""
    temperature: float = 0.9
    """Of the fresh completions; the loss has no π_old, so it need not be 1."""
    missing_end_score: float | None = -1.0
    """Score of a completion that hit the token limit, in place of the reward model's; null: the model's own stands."""
    judge: JudgeConfig | None = None

    def __post_init__(self) -> None:
        require(self.beta > 0, "beta", self.beta, "must be positive")
        require(self.tau > 0, "tau", self.tau, "must be positive")
        require(self.temperature > 0, "temperature", self.temperature, "must be positive")
        judged = (self.labeller is Labeller.JUDGE) == (self.judge is not None)
        require(judged, "judge", self.judge, "must be set exactly when labeller is judge")
        scored = self.labeller is Labeller.REWARD_MODEL or self.label is OnlineLabel.SOFT
        require(scored, "label", self.label.value, f"must be soft for labeller {self.labeller}, whose answers it is")


@dataclass(frozen=True, kw_only=True, slots=True)
class OnlineModelsConfig:
    base: str
    """Directory of the policy that training starts from; the reference too."""
    rewards: tuple[str, ...] = ()
    """Directories of reward models, for labeller reward_model; with another they only measure."""
    combine: Combine = Combine.MEAN
    held_out: tuple[str, ...] = ()
    """Reward models that training never sees, for the over-optimisation alarm at evaluations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BestOfNOptions:
    n: int = 16
    """Completions of which the best is kept."""
    temperature: float = 1.0
    """Of the completions; above 1 they differ more from each other."""
    samples: int | None = None
    """N ≥ n completions drawn a prompt, for the curve over n; null: n."""

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "must be at least 1")
        require(self.temperature > 0, "temperature", self.temperature, "must be positive")
        enough = self.samples is None or self.samples >= self.n
        require(enough, "samples", self.samples, f"must be at least n = {self.n}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertModelsConfig:
    base: str
    """Directory of the SFT policy: fine-tuning starts from it in every round."""
    policy: str | None = None
    """Directory of the policy that is sampled (the last round's); null: base."""
    rewards: tuple[str, ...]
    """Directories of reward models; their scores, each less its stored mean, are combined."""
    combine: Combine = Combine.MEAN

    def __post_init__(self) -> None:
        require(bool(self.rewards), "rewards", list(self.rewards), "must name at least one reward model")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditioningOptions:
    """Controls are text in a system turn before the prompt; the policy is sampled with `good`."""

    good: str = "Write a good answer."
    """Control of the better side."""
    bad: str = "Write a bad answer."
    """Control of the other side."""

    def __post_init__(self) -> None:
        require(bool(self.good.strip()), "good", self.good, "must not be blank")
        differ = bool(self.bad.strip()) and self.bad != self.good
        require(differ, "bad", self.bad, "must not be blank, and differ from good")


@dataclass(frozen=True, kw_only=True, slots=True)
class QuarkOptions:
    quantiles: Quantiles = Quantiles.BEST
    parts: int = 4
    """Quantiles that the scored completions are cut into."""
    beta: float = 0.05
    """Price of the full-vocabulary KL to the reference, a token."""
    entropy_weight: float = 0.0
    """What an entropy of one nat a token is worth."""
    controls: tuple[str, ...] = ()
    """One text a part, best first, for quantiles all; empty: "Quality: 1 of 4." and so on."""

    def __post_init__(self) -> None:
        require(self.parts >= 2, "parts", self.parts, "must be at least 2")
        require(self.beta >= 0, "beta", self.beta, "must not be negative")
        require(self.entropy_weight >= 0, "entropy_weight", self.entropy_weight, "must not be negative")
        fits = not self.controls or len(set(self.controls)) == len(self.controls) == self.parts
        require(fits, "controls", list(self.controls), f"must be {self.parts} distinct texts, or none")


# --- run configs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class SftConfig:
    """A policy from demonstrations (`sft.py`)."""

    method: Literal["sft"] = "sft"
    seed: int = 1
    """Order of the data, first weights of the adapter, sampled completions."""
    models: ModelsConfig
    data: DemonstrationsConfig
    batch: ExamplesConfig = field(default_factory=ExamplesConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(learning_rate=2e-5))
    adapter: AdapterConfig | None = field(default_factory=AdapterConfig)
    """null: all weights are trained."""
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    eval: SampledEvalConfig = field(default_factory=SampledEvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    sft: SftOptions = field(default_factory=SftOptions)

    def __post_init__(self) -> None:
        check_seed(self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardConfig:
    """A reward model from a snapshot of preferences or rankings (`reward.py`)."""

    method: Literal["reward"] = "reward"
    seed: int = 1
    """Order of the data, first weights of head and adapter."""
    models: ModelsConfig
    data: DataConfig
    batch: BatchConfig = field(default_factory=BatchConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(learning_rate=9e-6, eps=1e-5))
    adapter: AdapterConfig | None = field(default_factory=AdapterConfig)
    """null: all weights are trained."""
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    reward: RewardOptions = field(default_factory=RewardOptions)

    def __post_init__(self) -> None:
        check_seed(self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class DpoConfig:
    """A policy from a snapshot of preferences, without a reward model (`dpo.py`)."""

    method: Literal["dpo"] = "dpo"
    seed: int = 1
    """Order of the data, first weights of the adapter, sampled completions."""
    models: ModelsConfig
    data: DataConfig
    batch: BatchConfig = field(default_factory=BatchConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(learning_rate=1e-6))
    adapter: AdapterConfig | None = field(default_factory=AdapterConfig)
    """null: all weights are trained."""
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    memory: CachedMemoryConfig = field(default_factory=CachedMemoryConfig)
    eval: SampledEvalConfig = field(default_factory=SampledEvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    dpo: DpoOptions = field(default_factory=DpoOptions)

    def __post_init__(self) -> None:
        check_seed(self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class KtoConfig:
    """A policy from completions that are desirable or not (`kto.py`): ratings, or the two sides of preferences."""

    method: Literal["kto"] = "kto"
    seed: int = 1
    """Order of the data, first weights of the adapter, sampled completions."""
    models: ModelsConfig
    data: DataConfig
    batch: ExamplesConfig = field(default_factory=lambda: ExamplesConfig(examples=64, epochs=1))
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(learning_rate=1e-6))
    adapter: AdapterConfig | None = field(default_factory=AdapterConfig)
    """null: all weights are trained."""
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    memory: CachedMemoryConfig = field(default_factory=CachedMemoryConfig)
    eval: SampledEvalConfig = field(default_factory=SampledEvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    kto: KtoOptions = field(default_factory=KtoOptions)

    def __post_init__(self) -> None:
        check_seed(self.seed)


def _check_policy_gradient(kl: KlConfig, batch: RolloutsConfig, *, alone: bool) -> None:
    """Of PPO, RLOO and GRPO.

    Args:
        alone: a completion can learn without another one of its iteration.
    """
    # β moves by at most a fifth of completions / horizon at a time: with a horizon above a batch it stays positive.
    steady = kl.target is None or kl.horizon >= batch.completions
    require(steady, "kl.horizon", kl.horizon, f"must be at least batch.completions = {batch.completions}")
    enough = alone or batch.completions > 1
    require(enough, "batch.completions", batch.completions, "must be at least 2, the baseline is that of the others")


@dataclass(frozen=True, kw_only=True, slots=True)
class PpoConfig:
    """A policy that maximises a reward model's score, with a critic (`ppo.py`)."""

    method: Literal["ppo"] = "ppo"
    seed: int = 1
    """Order of the data, first weights of the adapter, sampled completions."""
    models: ScoredModelsConfig
    data: PromptsConfig
    batch: RolloutsConfig = field(default_factory=lambda: RolloutsConfig(minibatch=64, inner_epochs=4))
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(learning_rate=3e-6, eps=1e-5))
    adapter: AdapterConfig | None = field(default_factory=AdapterConfig)
    """null: all weights are trained."""
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    sampling: DecodingConfig = field(default_factory=DecodingConfig)
    kl: KlConfig = field(default_factory=KlConfig)
    eval: RolloutEvalConfig = field(default_factory=RolloutEvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    ppo: PpoOptions = field(default_factory=PpoOptions)

    def __post_init__(self) -> None:
        check_seed(self.seed)
        _check_policy_gradient(self.kl, self.batch, alone=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class RlooConfig:
    """A policy that maximises a reward model's score, with the other completions as baseline (`rloo.py`)."""

    method: Literal["rloo"] = "rloo"
    seed: int = 1
    """Order of the data, first weights of the adapter, sampled completions."""
    models: ScoredModelsConfig
    data: PromptsConfig
    batch: RolloutsConfig = field(default_factory=lambda: RolloutsConfig(per_prompt=4))
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(learning_rate=1e-6, eps=1e-5))
    adapter: AdapterConfig | None = field(default_factory=AdapterConfig)
    """null: all weights are trained."""
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    sampling: DecodingConfig = field(default_factory=DecodingConfig)
    kl: KlConfig = field(default_factory=KlConfig)
    eval: RolloutEvalConfig = field(default_factory=RolloutEvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    rloo: RlooOptions = field(default_factory=RlooOptions)

    def __post_init__(self) -> None:
        check_seed(self.seed)
        _check_policy_gradient(self.kl, self.batch, alone=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class GrpoConfig:
    """A policy that maximises a reward model's score, relative to its group (`rloo.py`)."""

    method: Literal["grpo"] = "grpo"
    seed: int = 1
    """Order of the data, first weights of the adapter, sampled completions."""
    models: ScoredModelsConfig
    data: PromptsConfig
    batch: RolloutsConfig = field(default_factory=lambda: RolloutsConfig(per_prompt=8))
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(learning_rate=1e-6, eps=1e-5))
    adapter: AdapterConfig | None = field(default_factory=AdapterConfig)
    """null: all weights are trained."""
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    sampling: DecodingConfig = field(default_factory=DecodingConfig)
    kl: KlConfig = field(default_factory=lambda: KlConfig(beta=0.04))
    eval: RolloutEvalConfig = field(default_factory=RolloutEvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    grpo: GrpoOptions = field(default_factory=GrpoOptions)

    def __post_init__(self) -> None:
        check_seed(self.seed)
        _check_policy_gradient(self.kl, self.batch, alone=False)
        several = self.batch.per_prompt > 1
        require(several, "batch.per_prompt", self.batch.per_prompt, "must be at least 2: a group of one has no spread")


@dataclass(frozen=True, kw_only=True, slots=True)
class OnlineDpoConfig:
    """DPO on pairs that are sampled and labelled as it goes (`online.py`)."""

    method: Literal["online_dpo"] = "online_dpo"
    seed: int = 1
    """Order of the data, first weights of the adapter, sampled completions."""
    models: OnlineModelsConfig
    data: PromptsConfig
    batch: RolloutsConfig = field(default_factory=lambda: RolloutsConfig(completions=128, per_prompt=2))
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(learning_rate=5e-7))
    adapter: AdapterConfig | None = field(default_factory=AdapterConfig)
    """null: all weights are trained."""
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    sampling: DecodingConfig = field(default_factory=DecodingConfig)
    eval: RolloutEvalConfig = field(default_factory=RolloutEvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    online_dpo: OnlineOptions = field(default_factory=OnlineOptions)

    def __post_init__(self) -> None:
        check_seed(self.seed)
        batch, rewards = self.batch, self.models.rewards
        require(batch.per_prompt == 2, "batch.per_prompt", batch.per_prompt, "must be 2: a label is of a pair")
        require(batch.inner_epochs == 1, "batch.inner_epochs", batch.inner_epochs, "must be 1: pairs are used fresh")
        whole = batch.minibatch is None
        require(whole, "batch.minibatch", batch.minibatch, "must be null: an iteration is one optimizer step")
        known = self.online_dpo.labeller is not Labeller.REWARD_MODEL or bool(rewards)
        require(known, "models.rewards", list(rewards), "must name a reward model for labeller reward_model")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertIterationConfig:
    """One round of best-of-n, then SFT on what was best (`bestofn.py`)."""

    method: Literal["expert_iteration"] = "expert_iteration"
    seed: int = 1
    """Order of the data, first weights of the adapter, sampled completions."""
    models: ExpertModelsConfig
    data: PromptsConfig
    batch: ExamplesConfig = field(default_factory=ExamplesConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(learning_rate=2e-5))
    adapter: AdapterConfig | None = field(default_factory=AdapterConfig)
    """null: all weights are trained."""
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    sampling: DecodingConfig = field(default_factory=lambda: DecodingConfig(max_new_tokens=300))
    eval: SampledEvalConfig = field(default_factory=SampledEvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    expert_iteration: BestOfNOptions = field(default_factory=BestOfNOptions)

    def __post_init__(self) -> None:
        check_seed(self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedMeConfig:
    """Binary FeedME: SFT on the chosen completion of each comparison (`conditioning.py`)."""

    method: Literal["feedme"] = "feedme"
    seed: int = 1
    """Order of the data, first weights of the adapter, sampled completions."""
    models: ModelsConfig
    data: DataConfig
    batch: ExamplesConfig = field(default_factory=ExamplesConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(learning_rate=2e-5))
    adapter: AdapterConfig | None = field(default_factory=AdapterConfig)
    """null: all weights are trained."""
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    eval: SampledEvalConfig = field(default_factory=SampledEvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    stop: StopConfig = field(default_factory=StopConfig)

    def __post_init__(self) -> None:
        check_seed(self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class BinaryConditioningConfig:
    """SFT on both sides of each comparison, under a control that says which it was (`conditioning.py`)."""

    method: Literal["binary_conditioning"] = "binary_conditioning"
    seed: int = 1
    """Order of the data, first weights of the adapter, sampled completions."""
    models: ModelsConfig
    data: DataConfig
    batch: ExamplesConfig = field(default_factory=ExamplesConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(learning_rate=2e-5))
    adapter: AdapterConfig | None = field(default_factory=AdapterConfig)
    """null: all weights are trained."""
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    eval: SampledEvalConfig = field(default_factory=SampledEvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    binary_conditioning: ConditioningOptions = field(default_factory=ConditioningOptions)

    def __post_init__(self) -> None:
        check_seed(self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuarkConfig:
    """Quantised reward conditioning on fresh completions (`quark.py`; Lu et al. 2022)."""

    method: Literal["quark"] = "quark"
    seed: int = 1
    """Order of the data, first weights of the adapter, sampled completions."""
    models: ScoredModelsConfig
    data: PromptsConfig
    batch: RolloutsConfig = field(default_factory=lambda: RolloutsConfig(iterations=10, minibatch=256))
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(learning_rate=3e-6, eps=1e-5))
    adapter: AdapterConfig | None = field(default_factory=AdapterConfig)
    """null: all weights are trained."""
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    sampling: DecodingConfig = field(default_factory=DecodingConfig)
    eval: RolloutEvalConfig = field(default_factory=RolloutEvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    quark: QuarkOptions = field(default_factory=QuarkOptions)

    def __post_init__(self) -> None:
        check_seed(self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class BestOfNConfig:
    """The best of n completions of each prompt, by reward models (`bestofn.py`). Trains nothing."""

    method: Literal["best_of_n"] = "best_of_n"
    seed: int = 1
    """Sampled completions, and which of equal ones is kept."""
    models: ScoredModelsConfig
    data: PromptsConfig
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    sampling: DecodingConfig = field(default_factory=lambda: DecodingConfig(max_new_tokens=300))
    best_of_n: BestOfNOptions = field(default_factory=BestOfNOptions)

    def __post_init__(self) -> None:
        check_seed(self.seed)


OfflineConfig = SftConfig | RewardConfig | DpoConfig | KtoConfig | FeedMeConfig | BinaryConditioningConfig
"""Trains on a snapshot's lines as they are."""
RolloutConfig = PpoConfig | RlooConfig | GrpoConfig | OnlineDpoConfig | QuarkConfig
"""Samples as it trains."""
RunConfig = OfflineConfig | RolloutConfig | ExpertIterationConfig
"""Everything that trains."""


# --- sampling, scoring, conversion ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyConfig:
    name: str
    """Opaque id of the source; it is copied to every line of the output."""
    path: str
    """Model directory."""
    temperature: float | None = None
    """Of this policy; null is `sampling.temperature`."""

    def __post_init__(self) -> None:
        require(self.name != "", "name", self.name, "must not be empty")
        require(
            self.temperature is None or self.temperature >= 0, "temperature", self.temperature, "must not be negative"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleModelsConfig:
    policies: tuple[PolicyConfig, ...]
    """Every policy answers every prompt."""

    def __post_init__(self) -> None:
        names = [policy.name for policy in self.policies]
        require(bool(names), "policies", names, "must name at least one policy")
        require(len(set(names)) == len(names), "policies", names, "must have distinct names")


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleDataConfig:
    prompts: str
    """JSON Lines file of {id, group, prompt: [{role, content}]}; with {completions: {policy: count}} beside them, so
    many of that prompt by each policy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    completions: int = 2
    """Completions of each prompt by each policy, or the most of them where the prompts say how many."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """Only the fewest most likely tokens that hold this share are drawn; 1 is off."""
    top_k: int = 0
    """Only so many of the most likely tokens are drawn; 0 is off."""
    min_p: float = 0.0
    """Only tokens at least this share as likely as the most likely one are drawn; 0 is off."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion; it is cut before them and counts as finished."""
    max_new_tokens: int = 128
    """Longest completion, tokens; at the limit its `finish` is "length"."""
    batch_size: int = 16
    """Completions decoded at one time."""
    weights: Weights = Weights.FP32
    """How the decoder holds the policy's weights: bf16 and int8 are faster and another policy by a little."""
    server: ServerConfig | None = None
    """A server that samples instead of this process; `models.policies` then names what the server calls its models."""
    first_prompts: int = 2
    """Prompts of the first batch: small, so that the first comparisons are ready soon."""

    def __post_init__(self) -> None:
        require(self.completions >= 1, "completions", self.completions, "must be at least 1")
        require(self.temperature >= 0, "temperature", self.temperature, "must not be negative")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "must be in (0, 1]")
        require(self.top_k >= 0, "top_k", self.top_k, "must not be negative")
        require(0 <= self.min_p < 1, "min_p", self.min_p, "must be in [0, 1)")
        require(all(self.stop), "stop", list(self.stop), "must hold no empty text")
        require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "must be at least 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "must be at least 1")
        require(self.first_prompts >= 1, "first_prompts", self.first_prompts, "must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """Completions of prompts by one or more policies (`sampling.py`)."""

    method: Literal["sample"] = "sample"
    seed: int = 1
    models: SampleModelsConfig
    data: SampleDataConfig
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        check_seed(self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertModelsConfig:
    source: str
    """A GGUF file, a model directory, or a checkpoint directory with an adapter."""
    base: str | None = None
    """Model directory that the adapter was trained on; null for a source that is no adapter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertConfig:
    """Anything that holds a model → one safetensors directory (`convert.py`)."""

    method: Literal["convert"] = "convert"
    models: ConvertModelsConfig
    name: str
    """Name written into the model's `winnow.json`."""

    def __post_init__(self) -> None:
        require(self.name != "", "name", self.name, "must not be empty")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreModelsConfig:
    reward: str
    """Directory of the reward model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionsConfig:
    prompts: str
    """JSON Lines file of {id, group, prompt: [{role, content}]}."""
    completions: str
    """JSON Lines file of {prompt_id, index, text, finish}, such as the `sample` command writes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig:
    """A reward model's scores of given completions (`scoring.py`)."""

    method: Literal["score"] = "score"
    models: ScoreModelsConfig
    data: CompletionsConfig
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    features: bool = False
    """Write the last layer's state of each completion too (`features.safetensors`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairsConfig:
    pairs: str
    """JSON Lines file of {id, prompt: [{role, content}], a, b}."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgePairsConfig:
    """What a judge behind a server says of given pairs of completions (`judging.py`)."""

    method: Literal["judge"] = "judge"
    judge: JudgeConfig
    data: PairsConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateModelsConfig:
    policy: str | None = None
    """Directory of a policy: KL to `reference`, win rate, best-of-n curve."""
    reference: str | None = None
    """Directory of the policy that it is held beside."""
    rewards: tuple[str, ...] = ()
    """Directories of reward models: accuracy and calibration on preferences, judges of the win rate."""
    combine: Combine = Combine.MEAN

    def __post_init__(self) -> None:
        some = self.policy is not None or bool(self.rewards)
        require(some, "policy", self.policy, "must be set where no reward model is")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateDataConfig:
    snapshot: str
    """Snapshot directory: its preferences for accuracy, its prompts for everything that samples."""
    part: Literal["train", "validation", "test"] = "test"
    """Which part of the snapshot."""
    max_tokens: int = 1024
    """Longest prompt + completion, tokens; a longer example is left out and counted."""

    def __post_init__(self) -> None:
        require(self.max_tokens >= 2, "max_tokens", self.max_tokens, "must be at least 2")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateOptions:
    prompts: int = 64
    """Prompts sampled, the first ones by id."""
    samples: int = 1
    """Completions a prompt; above 1 a best-of-n curve is drawn."""
    similarity: bool = False
    """Sample nothing: measure how alike the two completions of each preference are to the policy (CHES)."""

    def __post_init__(self) -> None:
        require(self.prompts >= 1, "prompts", self.prompts, "must be at least 1")
        require(self.samples >= 1, "samples", self.samples, "must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Figures of a policy or of reward models on lines of a snapshot (`evaluation.py`)."""

    method: Literal["evaluate"] = "evaluate"
    seed: int = 1
    """Sampled completions."""
    models: EvaluateModelsConfig
    data: EvaluateDataConfig
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    sampling: DecodingConfig = field(default_factory=DecodingConfig)
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.evaluate.similarity:
            policy, reference = self.models.policy, self.models.reference
            require(policy is not None, "models.policy", policy, "must be set for evaluate.similarity")
            require(reference is None, "models.reference", reference, "must be null for evaluate.similarity")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedPolicyConfig:
    name: str
    """The directory below DIR where its questions and answers lie: letters, digits, - and _."""
    path: str
    """Model directory."""

    def __post_init__(self) -> None:
        is_name = re.fullmatch(r"[A-Za-z0-9_-]{1,100}", self.name) is not None
        require(is_name, "name", self.name, "must be letters, digits, - and _")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeModelsConfig:
    base: str | None = None
    """Directory of the only policy, whose questions lie in DIR itself."""
    policies: tuple[ServedPolicyConfig, ...] = ()
    """In its place several, each with a directory of its own; one that cannot be loaded says so to each question."""
    reward: str | None = None
    """Directory of a reward model that scores every completion; null: none."""

    def __post_init__(self) -> None:
        names = [policy.name for policy in self.policies]
        require(bool(self.base) != bool(names), "base", self.base, "must be set, or policies, and not both")
        require(len(set(names)) == len(names), "policies", names, "must have distinct names")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """Policies that stay loaded and answer questions from a directory (`serving.py`)."""

    method: Literal["serve"] = "serve"
    models: ServeModelsConfig
    weights: Weights = Weights.FP32
    idle_seconds: float = 300.0
    """Without a question for so long it ends."""

    def __post_init__(self) -> None:
        require(self.idle_seconds > 0, "idle_seconds", self.idle_seconds, "must be positive")


AnyConfig = (
    RunConfig
    | BestOfNConfig
    | SampleConfig
    | ScoreConfig
    | JudgePairsConfig
    | EvaluateConfig
    | ServeConfig
    | ConvertConfig
)
METHODS: dict[str, type[AnyConfig]] = {
    "sft": SftConfig,
    "reward": RewardConfig,
    "dpo": DpoConfig,
    "kto": KtoConfig,
    "ppo": PpoConfig,
    "rloo": RlooConfig,
    "grpo": GrpoConfig,
    "online_dpo": OnlineDpoConfig,
    "best_of_n": BestOfNConfig,
    "expert_iteration": ExpertIterationConfig,
    "feedme": FeedMeConfig,
    "binary_conditioning": BinaryConditioningConfig,
    "quark": QuarkConfig,
    "sample": SampleConfig,
    "score": ScoreConfig,
    "judge": JudgePairsConfig,
    "evaluate": EvaluateConfig,
    "serve": ServeConfig,
    "convert": ConvertConfig,
}


# --- JSON ⇄ dataclass -------------------------------------------------------------------------------------------------


def parse_config(raw: Mapping[str, object]) -> AnyConfig:
    """The config that a JSON object describes; absent keys take their defaults.

    Raises:
        ConfigError: unknown or missing key, wrong type, value out of range. Names the dotted key and the value.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(key="", value=raw, message=f"the config must be an object, got {show(raw)}")
    method = raw.get("method")
    if not isinstance(method, str) or method not in METHODS:
        raise ConfigError(
            key="method", value=method, message=f"method must be one of {', '.join(METHODS)}, got {show(method)}"
        )
    return build(METHODS[method], raw, prefix="")


def to_dict(config: AnyConfig) -> dict[str, Any]:
    """The complete config as JSON values: `parse_config(to_dict(c)) == c`."""
    return cast(dict[str, Any], plain(dataclasses.asdict(config)))
