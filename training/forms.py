"""What a form shows of each method of the engine, read from the engine's own config dataclasses.

A default is the dataclass's, bounds are those of the `require` that would refuse the value, choices are the enum's, a
help text is the docstring under its field (`config_source` reads what a program cannot ask for). Where that speaks to
those who write configs by hand, `form_texts` says it, as it does labels and units. What each method is given is here.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Literal

from training.config_source import NO_BOUNDS, Bounds, bounds_of, docstrings, summary
from training.engine.config import METHODS as CONFIGS
from training.engine.config import parse_config, to_dict
from training.engine.presets import MACHINES, PRESETS, TRAINING, Preset, default_config, merge
from training.engine.records import KINDS
from training.form_texts import CHOICES, HELPS, LABELS, MAIN, UNITS

Kind = Literal["number", "integer", "boolean", "text", "choice", "texts", "section"]
INPUT_PATHS = frozenset(
    {
        *("data.snapshot", "data.prompts", "data.completions"),
        *("memory.reference_cache", "online_dpo.judge.server.key_file", "online_dpo.judge.server.addresses"),
    }
)
"""Places on the server and in its network: the job fills them in, a request never does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One setting. A `section` is an object that may be null: true in a form where it is there."""

    path: str
    label: str
    help: str
    unit: str
    type: Kind
    section: str
    optional: bool
    choices: tuple[str, ...] = ()
    choice_help: tuple[str, ...] = ()
    bounds: Bounds = NO_BOUNDS
    is_main: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A method that people may launch, and what it must be given.

    Attributes:
        kinds: snapshots that it reads; empty: it takes none.
        needs_snapshot, needs_model: refused without one.
        roles: further models by role, with the least and the most of each.
        trains: leaves checkpoints that can be promoted.
    """

    name: str
    title: str
    description: str
    kinds: tuple[str, ...] = ()
    needs_snapshot: bool = True
    needs_model: bool = True
    roles: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    trains: bool = True

    @property
    def fields(self) -> tuple[Field, ...]:
        """Every setting, those that matter most first."""
        return _fields(self.name)

    @property
    def presets(self) -> tuple[Preset, ...]:
        """Published settings of it, by name."""
        return tuple(preset for preset in PRESETS.values() if preset.method == self.name)


MOST_MODELS = 8
_SCORED = {"rewards": (1, MOST_MODELS), "held_out": (0, MOST_MODELS)}
_PREFERENCES = ("preferences",)
METHODS = {
    method.name: method
    for method in (
        Method(
            name="reward",
            title="Reward model",
            description="Learns to score completions so that those people prefer score higher (Bradley–Terry).",
            kinds=("preferences", "rankings"),
        ),
        Method(
            name="dpo",
            title="DPO",
            description="Trains the policy on the preferences directly, held near the base model by beta.",
            kinds=_PREFERENCES,
        ),
        Method(
            name="sft",
            title="Fine-tuning",
            description="Trains the policy to write what demonstrations write (SFT).",
            kinds=("demonstrations",),
        ),
        Method(
            name="kto",
            title="KTO",
            description="Trains the policy on completions that are good or bad, each on its own.",
            kinds=("ratings", "preferences"),
        ),
        Method(
            name="ppo",
            title="PPO",
            description="Samples, lets reward models score, and improves the policy with a critic beside it.",
            kinds=KINDS,
            roles=_SCORED,
        ),
        Method(
            name="rloo",
            title="RLOO",
            description="Samples and improves the policy against the mean score of its other completions; no critic.",
            kinds=KINDS,
            roles=_SCORED,
        ),
        Method(
            name="grpo",
            title="GRPO",
            description="Samples groups of completions and improves the policy by their scores within the group.",
            kinds=KINDS,
            roles=_SCORED,
        ),
        Method(
            name="online_dpo",
            title="Online DPO",
            description="DPO on fresh pairs that reward models, a judge, or people label as it goes.",
            kinds=KINDS,
            roles={"rewards": (0, MOST_MODELS), "held_out": (0, MOST_MODELS)},
        ),
        Method(
            name="expert_iteration",
            title="Expert iteration",
            description="Samples n completions a prompt, keeps the best by reward models, and fine-tunes on them.",
            kinds=KINDS,
            roles={"policy": (0, 1), "rewards": (1, MOST_MODELS)},
        ),
        Method(
            name="best_of_n",
            title="Best of n",
            description="Samples n completions a prompt and keeps the best by reward models; trains nothing.",
            kinds=KINDS,
            roles=_SCORED,
            trains=False,
        ),
        Method(
            name="feedme",
            title="FeedME",
            description="Fine-tunes on the preferred completion of each comparison.",
            kinds=_PREFERENCES,
        ),
        Method(
            name="binary_conditioning",
            title="Conditioning",
            description="Fine-tunes on both sides of each comparison, under a text that says which it was.",
            kinds=_PREFERENCES,
        ),
        Method(
            name="quark",
            title="Quark",
            description="Samples, sorts by reward models, and trains on the best part, or on all under a control.",
            kinds=KINDS,
            roles=_SCORED,
        ),
        Method(
            name="evaluate",
            title="Evaluate",
            description="Held-out figures of reward models, of a policy beside its reference, or of both.",
            kinds=KINDS,
            needs_model=False,
            roles={"reference": (0, 1), "rewards": (0, MOST_MODELS)},
            trains=False,
        ),
        Method(
            name="score",
            title="Score",
            description="A reward model's score of every completion of a round, or of a snapshot.",
            kinds=tuple(kind for kind in KINDS if kind != "prompts"),
            needs_snapshot=False,
            needs_model=False,
            roles={"rewards": (1, 1)},
            trains=False,
        ),
        Method(
            name="serve",
            title="Serve",
            description="Keeps a policy loaded, to answer at once where people chat with it or try it out.",
            needs_snapshot=False,
            trains=False,
        ),
    )
}


def defaults(method: str, *, parameters: int | None, preset: str = "", machine: str = "") -> dict[str, Any]:
    """The complete config of a method without its inputs.

    Args:
        parameters: size of the base model, which sets learning rates; None counts as 7B-class.
        preset: the name of a published setting of the method; `machine`: a name of `MACHINES`.
    """
    whole = to_dict(parse_config({**stand_ins(method), "method": method}))
    config = default_config(preset or method, parameters=parameters) if method in TRAINING else whole
    fits = MACHINES[machine] if machine else {}
    config = merge(config, {name: value for name, value in fits.items() if name in config})
    config.pop("models", None)
    if "combine" in whole["models"]:
        config["models"] = {"combine": whole["models"]["combine"]}
    data = {name: value for name, value in config.pop("data", {}).items() if f"data.{name}" not in INPUT_PATHS}
    if data:
        config["data"] = data
    return config


def stand_ins(method: str, *, counts: Mapping[str, int] | None = None, with_model: bool = True) -> dict[str, Any]:
    """Something in the place of each input, so that a config can be checked before its paths are known.

    Args:
        counts: how many models each role will have; None: one reward model, where the method takes any.
        with_model: whether the request names a model, for `evaluate`, which needs none.
    """
    roles = METHODS[method].roles if method in METHODS else {}
    counted = {"rewards": 1} if counts is None else counts
    named = {role: ["-"] * counted.get(role, 0) for role in roles}
    return engine_inputs(
        method, base="-" if with_model else None, roles=named, snapshot="-", prompts="-", completions="-"
    )


def engine_inputs(
    method: str,
    *,
    base: str | None,
    roles: Mapping[str, list[str]],
    snapshot: str | None,
    prompts: str | None = None,
    completions: str | None = None,
) -> dict[str, Any]:
    """The `models` and `data` of the engine's config, from directories by role."""
    rewards = roles.get("rewards", [])
    if method == "score":
        return {"models": {"reward": rewards[0]}, "data": {"prompts": prompts, "completions": completions}}
    if method == "evaluate":
        named: dict[str, Any] = {"policy": base, "reference": next(iter(roles.get("reference", [])), None)}
        return {"models": {**named, "rewards": rewards}, "data": {"snapshot": snapshot}}
    models: dict[str, Any] = {"base": base}
    for role in METHODS[method].roles if method in METHODS else ():
        found = roles.get(role, [])
        if role != "policy":
            models[role] = found
        elif found:
            models["policy"] = found[0]
    return {"models": models} if method == "serve" else {"models": models, "data": {"snapshot": snapshot}}


def value_at(config: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of a config, None where a section is off."""
    value: Any = config
    for part in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


# --- fields -----------------------------------------------------------------------------------------------------------


@cache
def _fields(method: str) -> tuple[Field, ...]:
    found = list(_walk(CONFIGS[method], prefix="", section=""))
    return tuple(sorted(found, key=lambda field: not field.is_main))


def _walk(cls: type[Any], *, prefix: str, section: str) -> Iterator[Field]:
    hints, texts, bounds = typing.get_type_hints(cls), docstrings(cls), bounds_of(cls)
    for item in dataclasses.fields(cls):
        path = f"{prefix}{item.name}"
        hint, optional = _without_none(hints[item.name])
        is_input = path.startswith("models.") and path != "models.combine"
        if path == "method" or path in INPUT_PATHS or is_input:
            continue
        if dataclasses.is_dataclass(hint):
            name = section or path
            if optional:
                told = texts.get(item.name) or summary(typing.cast(type[Any], hint))
                yield _field(path, hint, section=name, told=told, optional=True)
            yield from _walk(typing.cast(type[Any], hint), prefix=f"{path}.", section=name)
            continue
        told = texts.get(item.name) or (summary(hint) if _is_enum(hint) else "")
        where = section or "run"
        yield _field(path, hint, section=where, told=told, optional=optional, bounds=bounds.get(item.name))


def _field(path: str, hint: Any, *, section: str, told: str, optional: bool, bounds: Bounds | None = None) -> Field:
    """`told`: what the engine says of it."""
    name = path.rpartition(".")[2]
    kind, choices, helps = _type(hint)
    own = CHOICES.get(path, {})
    return Field(
        path=path,
        label=LABELS.get(path) or name.replace("_", " ").capitalize(),
        help=HELPS.get(path, told),
        unit=UNITS.get(path) or UNITS.get(name, ""),
        type=kind,
        section=section,
        optional=optional,
        choices=choices,
        choice_help=tuple(own.get(choice, text) for choice, text in zip(choices, helps, strict=True)),
        bounds=bounds or NO_BOUNDS,
        is_main=path in MAIN,
    )


def _type(hint: Any) -> tuple[Kind, tuple[str, ...], tuple[str, ...]]:
    if _is_enum(hint):
        texts = docstrings(hint)
        return "choice", tuple(member.value for member in hint), tuple(texts.get(member.name, "") for member in hint)
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        return "choice", choices, ("",) * len(choices)
    if typing.get_origin(hint) is tuple:
        return "texts", (), ()
    if dataclasses.is_dataclass(hint):
        return "section", (), ()
    kinds: dict[Any, Kind] = {bool: "boolean", int: "integer", float: "number", str: "text"}
    return kinds[hint], (), ()


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, StrEnum)


def _without_none(hint: Any) -> tuple[Any, bool]:
    if isinstance(hint, types.UnionType):
        return next(kind for kind in typing.get_args(hint) if kind is not type(None)), True
    return hint, False
