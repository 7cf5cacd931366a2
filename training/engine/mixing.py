"""Several policies in one round: how many completions of a prompt each of them writes, and at what temperature.

No torch: `sampling` and `remote_sampling` ask here.
"""

from __future__ import annotations

from collections.abc import Mapping

from training.engine.config import SampleConfig
from training.engine.errors import SnapshotError


def temperatures(config: SampleConfig) -> dict[str, float]:
    """The temperature of each policy, by name."""
    return {
        policy.name: config.sampling.temperature if policy.temperature is None else policy.temperature
        for policy in config.models.policies
    }


def laws(config: SampleConfig, models: Mapping[str, str]) -> dict[str, str]:
    """What a policy's lines depend on beside the law of all: its model, and a temperature of its own."""
    own = {policy.name: policy.temperature for policy in config.models.policies}
    return {name: said if own[name] is None else f"{said} at {own[name]}" for name, said in models.items()}


def unwanted(config: SampleConfig, counts: Mapping[str, Mapping[str, int] | None]) -> dict[str, set[tuple[str, int]]]:
    """By policy the prompt id and index of the completions that it is not to write, since a prompt wants fewer of it.

    Args:
        counts: by prompt id the completions wanted of each policy; None: `sampling.completions` of each.

    Raises:
        SnapshotError: a prompt wants more than `sampling.completions`.
    """
    most = config.sampling.completions
    found: dict[str, set[tuple[str, int]]] = {policy.name: set() for policy in config.models.policies}
    for prompt_id, wanted in counts.items():
        for name, left_out in found.items():
            count = most if wanted is None else wanted.get(name, 0)
            if count > most:
                raise SnapshotError(f"prompt {prompt_id!r} wants {count} completions, sampling.completions is {most}")
            left_out |= {(prompt_id, index) for index in range(count, most)}
    return found


def are_counts(value: object) -> bool:
    """Whether a prompt's `completions` can be read: {policy: count}."""
    return isinstance(value, dict) and all(type(count) is int and count >= 0 for count in value.values())
