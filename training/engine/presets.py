"""Published settings as plain dictionaries: what a job form shows and a request overrides. No torch here.

Learning rates are those of ENGINE's sources for 7B-class models with all weights trained (reward: OpenRLHF; DPO: the
DPO paper's appendix B; SFT and RL: TRL, N+ and AlpacaFarm). Two factors change the rates of SFT, reward and
preference training: ×5 below half a billion parameters, a guess that has not been measured, and for every method ×10
for LoRA (documentation of TRL).
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.engine.config import METHODS, BestOfNConfig, RunConfig, parse_config, to_dict
from training.engine.errors import ConfigError
from training.engine.files import stored_parameters

SMALL_PARAMETERS = 500_000_000
SMALL_FACTOR = 5.0
LORA_FACTOR = 10.0
_SMALL_RATES = {"sft", "reward", "dpo", "kto", "expert_iteration", "feedme", "binary_conditioning"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A published setting of a method under a name of its own."""

    name: str
    method: str
    help: str
    overrides: Mapping[str, Any]


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="soft",
            method="dpo",
            help="The share of the votes as a soft label: a split vote pulls less.",
            overrides={"dpo": {"labels": "soft", "link": "nll"}},
        ),
        Preset(
            name="smoothed",
            method="dpo",
            help="cDPO: a tenth of the hard labels is assumed to be flipped (Mitchell 2023).",
            overrides={"dpo": {"labels": "hard", "link": "smoothed", "epsilon": 0.1}},
        ),
        Preset(
            name="robust",
            method="dpo",
            help="Unbiased where a tenth of the labels is flipped at random (Chowdhury et al. 2024).",
            overrides={"dpo": {"labels": "hard", "link": "robust", "epsilon": 0.1}},
        ),
        Preset(
            name="hinge",
            method="dpo",
            help="SLiC's hinge on the DPO margin (Zhao et al. 2023).",
            overrides={"dpo": {"link": "hinge"}},
        ),
        Preset(
            name="nll",
            method="dpo",
            help="DPO with the likelihood of the chosen added, against displacement (Pang et al. 2024).",
            overrides={"dpo": {"nll_weight": 1.0}},
        ),
        Preset(
            name="ipo",
            method="dpo",
            help="A squared loss on summed log-ratios (Azar et al. 2023).",
            overrides={"dpo": {"link": "ipo", "tau": 0.1}},
        ),
        Preset(
            name="ipo_avg",
            method="dpo",
            help="The same on log-ratios a token; what TRL calls ipo.",
            overrides={"dpo": {"logit": "dpo_avg", "link": "ipo", "tau": 0.1}},
        ),
        Preset(
            name="dpo_avg",
            method="dpo",
            help="DPO on log-ratios a token, against growing length.",
            overrides={"dpo": {"logit": "dpo_avg", "beta": 5.0}},
        ),
        Preset(
            name="simpo",
            method="dpo",
            help="Without a reference, mean log-probabilities and a margin (Meng et al. 2024).",
            overrides={
                "batch": {"pairs": 128},
                "optim": {"learning_rate": 6e-7},
                "dpo": {"logit": "simpo", "link": "margin", "beta": 2.0, "gamma": 1.0},
            },
        ),
        Preset(
            name="orpo",
            method="dpo",
            help="SFT and an odds ratio in one, without a reference (Hong et al. 2024).",
            overrides={"optim": {"learning_rate": 5e-6}, "dpo": {"logit": "orpo", "odds_weight": 0.1}},
        ),
        Preset(
            name="reinforce",
            method="rloo",
            help="One completion a prompt; the baseline is the mean of the others in the batch.",
            overrides={"batch": {"per_prompt": 1}},
        ),
        Preset(
            name="dr_grpo",
            method="grpo",
            help="GRPO without its two divisions (Liu et al. 2025).",
            overrides={"grpo": {"scale": "none", "average": "constant"}},
        ),
    )
}

MACHINES: dict[str, dict[str, Any]] = {
    "laptop CPU": {"precision": {"dtype": "fp32"}, "memory": {"micro_tokens": 1024}},
    "one GPU": {"precision": {"dtype": "bf16"}, "memory": {"micro_tokens": 16_384}},
    "many GPUs": {"precision": {"dtype": "bf16"}, "memory": {"micro_tokens": 16_384}},
}
"""Precision and positions of a pass that fit a kind of machine; no number of the training depends on them."""


def default_config(method: str, *, parameters: int | None = None, adapter: str | None = "lora") -> dict[str, Any]:
    """The whole config of a training method but for `models` and the snapshot's path.

    Args:
        method: a method that trains, or the name of a preset of one.
        parameters: size of the base model; None counts as 7B-class.
        adapter: "lora", or None to train all weights.

    Raises:
        ConfigError: `method` is no training method, or `adapter` is neither.
    """
    preset = PRESETS.get(method)
    name = preset.method if preset is not None else method
    if name not in TRAINING:
        known = ", ".join([*TRAINING, *PRESETS])
        raise ConfigError(key="method", value=method, message=f"method must be one of {known}, got {method!r}")
    if adapter not in ("lora", None):
        raise ConfigError(key="adapter", value=adapter, message=f"adapter must be 'lora' or None, got {adapter!r}")
    defaults = _defaults_of(name)
    if preset is not None:
        defaults = merge(defaults, preset.overrides)
    if "adapter" not in defaults:
        return defaults
    factor = SMALL_FACTOR if parameters is not None and parameters < SMALL_PARAMETERS and name in _SMALL_RATES else 1.0
    if adapter == "lora":
        factor *= LORA_FACTOR
    else:
        defaults["adapter"] = None
    defaults["optim"]["learning_rate"] = _round(defaults["optim"]["learning_rate"] * factor)
    if name == "ppo":
        defaults["ppo"]["critic_learning_rate"] = _round(defaults["ppo"]["critic_learning_rate"] * factor)
    return defaults


TRAINING = [name for name, kind in METHODS.items() if issubclass(kind, RunConfig | BestOfNConfig)]


def config_for(
    method: str,
    *,
    base: Path,
    snapshot: Path,
    rewards: Sequence[Path] = (),
    machine: str = "laptop CPU",
    adapter: str | None = "lora",
) -> dict[str, Any]:
    """A whole config that can be run as it is, with the learning rate that fits the size of the base model.

    Args:
        rewards: reward models, for a method that scores what it samples.
        machine: a name of `MACHINES`.

    Raises:
        ConfigError: unknown method or machine; reward models for a method that has none, or none where it needs one.
        ModelError: `base` holds no weights.
    """
    fits = MACHINES.get(machine)
    if fits is None:
        known = ", ".join(MACHINES)
        raise ConfigError(key="machine", value=machine, message=f"machine must be one of {known}, got {machine!r}")
    config = default_config(method, parameters=stored_parameters(base), adapter=adapter)
    models: dict[str, Any] = {"base": str(base), **({"rewards": [str(path) for path in rewards]} if rewards else {})}
    config = merge(merge(config, {k: v for k, v in fits.items() if k in config}), {"models": models})
    config["data"]["snapshot"] = str(snapshot)
    return to_dict(parse_config(config))


def _defaults_of(method: str) -> dict[str, Any]:
    """Every default of a method's config; what has none (models and data) is left out."""
    kind = METHODS[method]
    required = {"models": _empty(kind, "models"), "data": _empty(kind, "data")}
    defaults = to_dict(kind(**required))
    del defaults["models"], defaults["data"]["snapshot"]
    return defaults


def _empty(kind: type[Any], name: str) -> Any:
    """A section with nothing in its required fields, and a reward model where it can name some."""
    section = typing.get_type_hints(kind)[name]
    filled = {
        item.name: ("",) if item.name == "rewards" else ""
        for item in dataclasses.fields(section)
        if item.name == "rewards"
        or (item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING)
    }
    return section(**filled)


def _round(rate: float) -> float:
    """A product of floats such as 9e-6·5·10 prints as 0.00045000000000000004; twelve digits are enough for a rate."""
    return float(f"{rate:.12g}")


def merge(defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`defaults` with `overrides` laid over it, object by object; anything else in `overrides` replaces.

    Keys that `defaults` lacks are kept, so that `parse_config` refuses them by name.
    """
    merged = dict(defaults)
    for key, value in overrides.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged
