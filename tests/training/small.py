"""What a real run needs, small: a policy, two reward models, snapshots of preferences and of demonstrations; and wishes
that fit every method, with settings that end in a second or two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from annotation.models import Project
from tests import builders
from tests.engine.planted import LABEL_POLICY, SPLIT, planted_snapshot
from tests.engine.tiny import tiny_model
from training.engine.files import directory_hash
from training.engine.records import read_manifest, write_snapshot
from training.forms import METHODS
from training.launching import Wish
from training.models import ModelKind, ModelSource, ModelVersion, Snapshot
from training.registry import count_parameters

LONG = "and the dog is red " * 90


@pytest.fixture(scope="session")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model directories `policy`, `reward`, `other`; snapshot directories `preferences`, `demonstrations`."""
    root = tmp_path_factory.mktemp("small")
    tiny_model(root / "policy")
    tiny_model(root / "reward", seed=1, reward=True)
    tiny_model(root / "other", seed=2, reward=True)
    planted_snapshot(root / "preferences", ties=3)
    turns = [{"role": "user", "content": "What is the name of the dog?"}]
    lines = [
        {"id": f"d{n:02d}", "group": f"g{n}", "prompt": turns, "completion": f"It is {n}.", "finish": "end"}
        for n in range(21)
    ]
    lines[4]["completion"] = LONG  # longer than 256 tokens: left out
    write_snapshot(
        root / "demonstrations",
        kind="demonstrations",
        label_policy=LABEL_POLICY,
        split=SPLIT,
        lines={"train": lines, "validation": [], "test": []},
    )
    return root


@dataclass(frozen=True, kw_only=True, slots=True)
class Small:
    """Rows for those directories."""

    project: Project
    policy: ModelVersion
    reward: ModelVersion
    other: ModelVersion
    snapshots: dict[str, Snapshot]

    def wish(self, method: str, overrides: dict[str, Any] | None = None, **fields: Any) -> Wish:
        """What the method needs and no more, with settings that end soon; `overrides` replace the settings."""
        known = METHODS[method]
        kind = "demonstrations" if method == "sft" else "preferences"
        takes = {role: [{"model": str(self.reward.public_id)}] for role in known.roles if role == "rewards"}
        values: dict[str, Any] = {
            "method": method,
            "snapshot": self.snapshots[kind] if known.kinds else None,
            "model": self.policy if known.needs_model or method == "evaluate" else None,
            "inputs": takes,
            "overrides": QUICK.get(method, {}) if overrides is None else overrides,
        }
        return Wish(**values | fields)


_OFFLINE = {"batch": {"epochs": 2}, "eval": {"prompts": 1}}
_ROLLOUTS = {
    "batch": {"iterations": 2, "completions": 8},
    "sampling": {"max_new_tokens": 6},
    "eval": {"prompts": 1},
    "data": {"allow_drop": True},
}
QUICK: dict[str, dict[str, Any]] = {
    "sft": {**_OFFLINE, "batch": {"examples": 8, "epochs": 2}, "data": {"max_tokens": 256}},
    "reward": {**_OFFLINE, "batch": {"pairs": 7, "epochs": 2}},
    "dpo": {**_OFFLINE, "batch": {"pairs": 7, "epochs": 2}, "stop": {"max_steps": 5}},
    "kto": {**_OFFLINE, "batch": {"examples": 9, "epochs": 1}},
    "feedme": {**_OFFLINE, "batch": {"examples": 5, "epochs": 2}},
    "binary_conditioning": {**_OFFLINE, "batch": {"examples": 5, "epochs": 1}},
    "expert_iteration": {
        "batch": {"examples": 5, "epochs": 1},
        "sampling": {"max_new_tokens": 6},
        "eval": {"prompts": 1},
        "expert_iteration": {"n": 2},
    },
    "best_of_n": {"sampling": {"max_new_tokens": 6}, "best_of_n": {"n": 2}},
    "ppo": {**_ROLLOUTS, "batch": {"iterations": 2, "completions": 8, "minibatch": 4, "inner_epochs": 2}},
    "rloo": {**_ROLLOUTS, "batch": {"iterations": 3, "completions": 8, "minibatch": 4}, "stop": {"max_steps": 5}},
    "grpo": _ROLLOUTS,
    "online_dpo": _ROLLOUTS,
    "quark": {**_ROLLOUTS, "batch": {"iterations": 2, "completions": 8, "minibatch": 3}, "quark": {"parts": 2}},
    "evaluate": {"evaluate": {"prompts": 2}, "sampling": {"max_new_tokens": 6}},
    "serve": {"idle_seconds": 0.2},
}


def _model(directory: Path, kind: ModelKind, project: Project | None = None) -> ModelVersion:
    return ModelVersion.objects.create(
        project=project,
        name=directory.name,
        kind=kind,
        source=ModelSource.LOCAL,
        path=str(directory),
        sha256=directory_hash(directory),
        parameters=count_parameters(directory),
    )


@pytest.fixture
def small(directories: Path, settings: Any, db: None) -> Small:
    """The rows, with the snapshots where the settings look for them."""
    project = builders.project()
    Path(settings.SNAPSHOTS_DIR).mkdir(parents=True, exist_ok=True)
    snapshots = {}
    for number, kind in enumerate(("preferences", "demonstrations"), start=1):
        (Path(settings.SNAPSHOTS_DIR) / kind).symlink_to(directories / kind)
        manifest = read_manifest(directories / kind)
        snapshots[kind] = Snapshot.objects.create(
            project=project,
            number=number,
            kind=kind,
            content_hash=manifest.content_hash,
            path=kind,
            counts=manifest.counts,
            label_policy={},
            split={},
            created_by=project.created_by,
        )
    return Small(
        project=project,
        policy=_model(directories / "policy", ModelKind.POLICY),
        reward=_model(directories / "reward", ModelKind.REWARD),
        other=_model(directories / "other", ModelKind.REWARD, project),
        snapshots=snapshots,
    )
