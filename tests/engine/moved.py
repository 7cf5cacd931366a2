"""A checkpoint of a model that training has moved, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from training.engine import models
from training.engine.checkpoint import save_checkpoint
from training.engine.files import directory_hash
from training.engine.sections import OptimConfig
from training.engine.starting import make_trained
from training.engine.text import load_text


def moved_checkpoint(folder: Path, base: Path, *, kind: str, adapter: bool = True) -> tuple[Path, Any]:
    """A checkpoint with trained weights (or an adapter) that differ from the base, and the model it is of."""
    model = models.load_reward_model(base, seed=1) if kind == "reward" else models.load_policy(base)
    if adapter:
        model = models.add_lora(model, seed=1)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    saved = save_checkpoint(
        folder,
        trained={kind: make_trained(model, OptimConfig(learning_rate=1e-3))},
        text=load_text(base),
        state={},
        tensors={},
        facts={"kind": kind, "base_sha256": directory_hash(base), "reward": {"mean": 0.25}},
        step=7,
        adapter=adapter,
    )
    return saved.path, model
