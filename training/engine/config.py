"""The engine's configs: frozen dataclasses, one a method, checked when they are made. No torch here.

`parse_config` turns a JSON object into one of them, so that a bad value fails when a job is submitted and not an hour
later. A key that no dataclass has is an error, so a misspelt option can never be ignored. Defaults stand here and
nowhere else; `presets.py` scales the learning rate. Sections that a method does not use are absent from its config. The
file is long because all options of all methods are in it: a reader looks for an option here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeVar, cast

from training.engine.errors import ConfigError

T = TypeVar("T")


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


class Link(StrEnum):
    """How the votes enter the DPO loss; formulas in `losses.py`."""

    NLL = "nll"
    SMOOTHED = "smoothed"
    ROBUST = "robust"
    IPO = "ipo"
    HINGE = "hinge"


class Schedule(StrEnum):
    """Learning rate after the warm-up, by optimizer step."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


class Dtype(StrEnum):
    """Arithmetic of the forward and backward passes. Weights, losses and the optimizer are always fp32."""

    FP32 = "fp32"
    BF16 = "bf16"


# --- sections ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelsConfig:
    base: str
    """Directory (safetensors) of the model that training starts from; for DPO it is the reference too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    snapshot: str
    """Snapshot directory with `manifest.json` (layout in `records.py`). Only its train part is needed."""
    target: Target = Target.SHARE
    """Which number of a line is its label q."""
    max_tokens: int = 1024
    """Longest prompt + completion, tokens. A pair with a longer one is dropped and counted, never cut."""
    allow_drop: bool = False
    """Go on although more than 5 % of a part's pairs are too long. Otherwise the run is refused (exit 3)."""

    def __post_init__(self) -> None:
        _require(self.max_tokens >= 2, "max_tokens", self.max_tokens, "must be at least 2")


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchConfig:
    pairs: int = 64
    """Pairs an optimizer step. The last batch of an epoch holds what is left, so 24 pairs make one batch of 24."""
    epochs: int = 1
    """Passes over the training pairs, each in a new order given by the seed."""

    def __post_init__(self) -> None:
        _require(self.pairs >= 1, "pairs", self.pairs, "must be at least 1")
        _require(self.epochs >= 1, "epochs", self.epochs, "must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW. Rates are for 7B-class models with all weights trained; `presets.py` scales them."""

    learning_rate: float
    """Highest learning rate."""
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    """Largest global gradient norm; larger gradients are scaled down to it."""
    schedule: Schedule = Schedule.COSINE
    warmup_share: float = 0.03
    """Share of the steps with linear warm-up from 0 (at least one step unless 0)."""
    floor_share: float = 0.1
    """The schedule ends at this share of `learning_rate`. `constant` has no use for it and ignores it."""

    def __post_init__(self) -> None:
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "must be positive")
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            _require(0 <= value < 1, name, value, "must be in [0, 1)")
        _require(self.eps > 0, "eps", self.eps, "must be positive")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "must not be negative")
        _require(self.clip_norm > 0, "clip_norm", self.clip_norm, "must be positive")
        _require(0 <= self.warmup_share < 1, "warmup_share", self.warmup_share, "must be in [0, 1)")
        _require(0 <= self.floor_share <= 1, "floor_share", self.floor_share, "must be in [0, 1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterConfig:
    """LoRA on all linear layers but the head (Hu et al. 2021): W + (alpha/rank)·B·A, no dropout."""

    rank: int = 16
    alpha: int = 32
    """Scale of the update, divided by `rank`."""

    def __post_init__(self) -> None:
        _require(self.rank >= 1, "rank", self.rank, "must be at least 1")
        _require(self.alpha > 0, "alpha", self.alpha, "must be positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionConfig:
    dtype: Dtype = Dtype.FP32
    """bf16 means autocast over fp32 weights. fp16 is refused."""
    deterministic: bool = False
    """CUDA: deterministic kernels only, slower. On CPU fp32 runs are reproducible anyway."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardMemoryConfig:
    micro_tokens: int = 1024
    """Most positions of one forward and backward pass; a longer pair is a pass of its own. Halve it to save memory."""

    def __post_init__(self) -> None:
        _require(self.micro_tokens >= 1, "micro_tokens", self.micro_tokens, "must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class DpoMemoryConfig:
    micro_tokens: int = 1024
    """Most positions of one forward and backward pass; a longer pair is a pass of its own. Halve it to save memory."""
    reference_cache: str | None = None
    """Directory for the reference log-probabilities, shared between runs; null: inside the output directory."""

    def __post_init__(self) -> None:
        _require(self.micro_tokens >= 1, "micro_tokens", self.micro_tokens, "must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardEvalConfig:
    every: int | None = None
    """Steps between evaluations; null: a quarter of the run. Step 0 and the end are always evaluated."""
    pairs: int = 64
    """Validation pairs of an evaluation, the first ones by id. The test part is always taken whole."""
    prompts: int = 4
    """Held-out pairs whose completions are written to `samples.jsonl` with their scores at each evaluation."""

    def __post_init__(self) -> None:
        _check_eval(self.every, self.pairs, self.prompts)


@dataclass(frozen=True, kw_only=True, slots=True)
class DpoEvalConfig:
    every: int | None = None
    """Steps between evaluations; null: a quarter of the run. Step 0 and the end are always evaluated."""
    pairs: int = 64
    """Validation pairs of an evaluation, the first ones by id. The test part is always taken whole."""
    prompts: int = 4
    """Held-out prompts sampled at temperature 1 at each evaluation, for `rollout/kl` and `samples.jsonl`."""
    max_new_tokens: int = 48
    """Longest sampled completion, tokens."""

    def __post_init__(self) -> None:
        _check_eval(self.every, self.pairs, self.prompts)
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    every: int = 10
    """Steps between checkpoints; the last step always has one."""
    keep: int = 2
    """Newest checkpoints that stay on disk, beside the best one and those asked for by the supervisor."""

    def __post_init__(self) -> None:
        _require(self.every >= 1, "every", self.every, "must be at least 1")
        _require(self.keep >= 1, "keep", self.keep, "must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class StopConfig:
    max_steps: int | None = None
    """End after this many optimizer steps; the schedule is laid over them. null: all epochs."""
    grace_seconds: float = 20.0
    """After a request to stop, a step that has not ended within this time is dropped (a resume repeats it)."""

    def __post_init__(self) -> None:
        _require(self.max_steps is None or self.max_steps >= 1, "max_steps", self.max_steps, "must be at least 1")
        _require(self.grace_seconds >= 0, "grace_seconds", self.grace_seconds, "must not be negative")


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardOptions:
    labels: Labels = Labels.SOFT
    centring: float = 0.0
    """c of c·mean((s_w + s_l)²), which draws scores towards 0 (0.01 in arXiv 2312.09244); 0 is off."""

    def __post_init__(self) -> None:
        _require(self.centring >= 0, "centring", self.centring, "must not be negative")


@dataclass(frozen=True, kw_only=True, slots=True)
class DpoOptions:
    labels: Labels = Labels.SOFT
    link: Link = Link.NLL
    beta: float = 0.1
    """Strength of the pull to the reference, 1/nats. `ipo` has τ in its place; sampled rewards are β·d(y) for any."""
    epsilon: float = 0.0
    """Share of flipped labels assumed by `smoothed` and `robust`; 0 for every other link."""
    tau: float = 0.1
    """τ of `ipo`, 1/nats; the other links do not read it."""
    nll_weight: float = 0.0
    """α of the added α·(−log π(y_w)/T_w) over pairs with q > ½."""

    def __post_init__(self) -> None:
        _require(self.beta > 0, "beta", self.beta, "must be positive")
        _require(self.tau > 0, "tau", self.tau, "must be positive")
        _require(self.nll_weight >= 0, "nll_weight", self.nll_weight, "must not be negative")
        if self.link in (Link.SMOOTHED, Link.ROBUST):
            _require(0 < self.epsilon < 0.5, "epsilon", self.epsilon, f"must be in (0, 0.5) for link {self.link}")
        else:
            _require(self.epsilon == 0, "epsilon", self.epsilon, f"must be 0 for link {self.link}, which has none")
        if self.link is Link.ROBUST:
            _require(
                self.labels is Labels.HARD,
                "labels",
                self.labels.value,
                "must be hard for link robust: soft labels were denoised once already",
            )


# --- run configs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardConfig:
    """A reward model from a snapshot of preferences (`reward.py`)."""

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
    memory: RewardMemoryConfig = field(default_factory=RewardMemoryConfig)
    eval: RewardEvalConfig = field(default_factory=RewardEvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    reward: RewardOptions = field(default_factory=RewardOptions)

    def __post_init__(self) -> None:
        _check_seed(self.seed)


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
    memory: DpoMemoryConfig = field(default_factory=DpoMemoryConfig)
    eval: DpoEvalConfig = field(default_factory=DpoEvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    dpo: DpoOptions = field(default_factory=DpoOptions)

    def __post_init__(self) -> None:
        _check_seed(self.seed)


RunConfig = RewardConfig | DpoConfig


# --- sampling and conversion ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyConfig:
    name: str
    """Opaque id of the source; it is copied to every line of the output."""
    path: str
    """Model directory."""

    def __post_init__(self) -> None:
        _require(self.name != "", "name", self.name, "must not be empty")


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleModelsConfig:
    policies: tuple[PolicyConfig, ...]
    """Every policy answers every prompt."""

    def __post_init__(self) -> None:
        names = [policy.name for policy in self.policies]
        _require(bool(names), "policies", names, "must name at least one policy")
        _require(len(set(names)) == len(names), "policies", names, "must have distinct names")


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleDataConfig:
    prompts: str
    """JSON Lines file of {id, group, prompt: [{role, content}]}."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    completions: int = 2
    """Completions of each prompt by each policy."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    max_new_tokens: int = 128
    """Longest completion, tokens; at the limit its `finish` is "length"."""
    batch_size: int = 16
    """Completions decoded at one time."""
    first_prompts: int = 2
    """Prompts of the first batch: small, so that the first comparisons are ready soon."""

    def __post_init__(self) -> None:
        _require(self.completions >= 1, "completions", self.completions, "must be at least 1")
        _require(self.temperature >= 0, "temperature", self.temperature, "must not be negative")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "must be in (0, 1]")
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "must be at least 1")
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "must be at least 1")
        _require(self.first_prompts >= 1, "first_prompts", self.first_prompts, "must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """Completions of prompts by one or more policies (`sampling.py`)."""

    method: Literal["sample"] = "sample"
    seed: int = 1
    models: SampleModelsConfig
    data: SampleDataConfig
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        _check_seed(self.seed)


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
        _require(self.name != "", "name", self.name, "must not be empty")


AnyConfig = RewardConfig | DpoConfig | SampleConfig | ConvertConfig
METHODS: dict[str, type[AnyConfig]] = {
    "reward": RewardConfig,
    "dpo": DpoConfig,
    "sample": SampleConfig,
    "convert": ConvertConfig,
}


# --- JSON ⇄ dataclass -------------------------------------------------------------------------------------------------


def parse_config(raw: Mapping[str, object]) -> AnyConfig:
    """The config that a JSON object describes; absent keys take their defaults.

    Raises:
        ConfigError: unknown or missing key, wrong type, value out of range. Names the dotted key and the value.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(key="", value=raw, message=f"the config must be an object, got {_show(raw)}")
    method = raw.get("method")
    if not isinstance(method, str) or method not in METHODS:
        raise ConfigError(
            key="method", value=method, message=f"method must be one of {', '.join(METHODS)}, got {_show(method)}"
        )
    return _build(METHODS[method], raw, prefix="")


def to_dict(config: AnyConfig) -> dict[str, Any]:
    """The complete config as JSON values: `parse_config(to_dict(c)) == c`."""
    return cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, StrEnum) else value


def _build(cls: type[T], raw: object, *, prefix: str) -> T:
    """One dataclass from one JSON object; `prefix` is the dotted path to it, with its dot."""
    if not isinstance(raw, Mapping):
        key = prefix.rstrip(".")
        raise ConfigError(key=key, value=raw, message=f"{key} must be an object, got {_show(raw)}")
    hints = typing.get_type_hints(cls)
    fields = {item.name: item for item in dataclasses.fields(cast(Any, cls))}
    for name, value in raw.items():
        if name not in fields:
            raise ConfigError(
                key=f"{prefix}{name}",
                value=value,
                message=f"unknown key {prefix}{name} (value {_show(value)}); known here: {', '.join(fields)}",
            )
    values: dict[str, object] = {}
    for name, item in fields.items():
        if name in raw:
            values[name] = _convert(hints[name], raw[name], key=f"{prefix}{name}")
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ConfigError(key=f"{prefix}{name}", value=None, message=f"{prefix}{name} is required")
    try:
        return cls(**values)
    except ConfigError as error:  # from a __post_init__, which knows its own field names only
        raise ConfigError(key=prefix + error.key, value=error.value, message=prefix + error.message) from None


def _convert(hint: Any, value: object, *, key: str) -> object:
    """A JSON value as the type of its field; never a silent conversion but int → float."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType or origin is typing.Union:  # the only unions are `X | None`
        if value is None:
            return None
        return _convert(next(kind for kind in arguments if kind is not type(None)), value, key=key)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise _wrong_type(key, value, "a list")
        return tuple(_convert(arguments[0], item, key=f"{key}.{index}") for index, item in enumerate(value))
    if origin is Literal:
        if value not in arguments:
            raise _wrong_type(key, value, f"one of {', '.join(arguments)}")
        return value
    if dataclasses.is_dataclass(hint):
        return _build(cast(type[object], hint), value, prefix=f"{key}.")
    return _convert_scalar(hint, value, key=key)


def _convert_scalar(hint: type, value: object, *, key: str) -> object:
    if issubclass(hint, StrEnum):
        if not isinstance(value, str) or value not in list(hint):
            raise _wrong_type(key, value, f"one of {', '.join(hint)}")
        return hint(value)
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise _wrong_type(key, value, "a finite number")
        return float(value)
    if hint is int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong_type(key, value, "a whole number")
        return value
    if not isinstance(value, hint):
        raise _wrong_type(key, value, {str: "a text", bool: "true or false"}[hint])
    if isinstance(value, str) and "\0" in value:
        raise _wrong_type(key, value, "a text without NUL")
    return value


def _wrong_type(key: str, value: object, wanted: str) -> ConfigError:
    return ConfigError(key=key, value=value, message=f"{key} must be {wanted}, got {_show(value)}")


def _require(ok: bool, name: str, value: object, message: str) -> None:
    """For `__post_init__`: `_build` adds the path of the section."""
    if not ok:
        raise ConfigError(key=name, value=value, message=f"{name} {message}, got {_show(value)}")


def _check_seed(seed: int) -> None:
    _require(0 <= seed < 2**31, "seed", seed, "must be in [0, 2³¹)")


def _check_eval(every: int | None, pairs: int, prompts: int) -> None:
    _require(every is None or every >= 1, "every", every, "must be at least 1")
    _require(pairs >= 1, "pairs", pairs, "must be at least 1")
    _require(prompts >= 0, "prompts", prompts, "must not be negative")


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
