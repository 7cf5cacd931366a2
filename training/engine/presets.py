"""Published settings as plain dictionaries: what a job form shows and a request overrides. No torch here.

Learning rates are those of ENGINE's sources for 7B-class models with all weights trained (reward: OpenRLHF; DPO: the
DPO paper's appendix B). Two factors change them: ×5 below half a billion parameters, a guess that has not been
measured, and ×10 for LoRA (documentation of TRL).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.engine.config import DataConfig, DpoConfig, ModelsConfig, RewardConfig, RunConfig, to_dict
from training.engine.errors import ConfigError

SMALL_PARAMETERS = 500_000_000
SMALL_FACTOR = 5.0
LORA_FACTOR = 10.0


def default_config(method: str, *, parameters: int | None = None, adapter: str | None = "lora") -> dict[str, Any]:
    """The whole config of a training method but for `models` and the snapshot's path.

    Args:
        parameters: size of the base model; None counts as 7B-class.
        adapter: "lora", or None to train all weights.

    Raises:
        ConfigError: `method` is no training method, or `adapter` is neither.
    """
    nowhere = {"models": ModelsConfig(base=""), "data": DataConfig(snapshot="")}
    config: RunConfig
    if method == "reward":
        config = RewardConfig(**nowhere)  # type: ignore[arg-type]
    elif method == "dpo":
        config = DpoConfig(**nowhere)  # type: ignore[arg-type]
    else:
        raise ConfigError(key="method", value=method, message=f"method must be reward or dpo, got {method!r}")
    if adapter not in ("lora", None):
        raise ConfigError(key="adapter", value=adapter, message=f"adapter must be 'lora' or None, got {adapter!r}")
    defaults = to_dict(config)
    del defaults["models"], defaults["data"]["snapshot"]
    if parameters is not None and parameters < SMALL_PARAMETERS:
        defaults["optim"]["learning_rate"] *= SMALL_FACTOR
    if adapter == "lora":
        defaults["optim"]["learning_rate"] *= LORA_FACTOR
    else:
        defaults["adapter"] = None
    # A product of floats such as 9e-6·5·10 prints as 0.00045000000000000004; twelve digits are enough for a rate.
    defaults["optim"]["learning_rate"] = float(f"{defaults['optim']['learning_rate']:.12g}")
    return defaults


def merge(defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`defaults` with `overrides` laid over it, object by object; anything else in `overrides` replaces.

    Keys that `defaults` lacks are kept, so that `parse_config` refuses them by name.
    """
    merged = dict(defaults)
    for key, value in overrides.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged
