"""Critics of PPO: V_t, the expected return before y_t is drawn, read from the row that predicts y_t.

A separate critic is a trunk with a scalar head of its own, begun from the first reward model (Huang et al. 2024, the
N+ implementation details): V = w·h − m, where m is the mean that the reward model stored, so that it starts as the
centred score. A shared one is a vector on the policy's trunk, zero at the start (AlpacaFarm).

C scored tokens of a pack; D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.engine import starting
from training.engine.checkpoint import load_head
from training.engine.config import PpoConfig
from training.engine.files import read_json
from training.engine.loop import Item
from training.engine.models import base_of, load_reward_model, score_head
from training.engine.packing import Pack, hidden_states
from training.engine.rollouts import read_values
from training.engine.scoring import stored_mean
from training.engine.starting import Opening
from training.engine.text import load_text

ROLE = "critic"
VALUE_HEAD = "value_head"


def shared_head(model: Any) -> nn.Parameter:
    """A value head for the policy's trunk, [D] zeros; it goes into `Trained.extra` under VALUE_HEAD."""
    embedding = base_of(model).get_input_embeddings().weight
    return nn.Parameter(torch.zeros(embedding.shape[1], dtype=torch.float32, device=embedding.device))


def source_of(config: PpoConfig, opening: Opening) -> Path:
    """What a separate critic begins from: the first reward model, or the policy's base where that one reads other ids
    or is another kind of model.
    """
    reward = Path(config.models.rewards[0])
    same_ids = load_text(reward).tokenizer_sha256 == opening.text.tokenizer_sha256
    kinds = {read_json(place / "config.json")["model_type"] for place in (reward, opening.base)}
    return reward if same_ids and len(kinds) == 1 else opening.base


def load_critic(config: PpoConfig, opening: Opening, *, prompts: Sequence[Item]) -> tuple[Any, float]:
    """A separate critic in training and the m that is taken off its values; from the checkpoint where there is one.

    Args:
        prompts: what it will read, to find out whether it reads packs exactly.
    """
    saved, source = opening.saved, source_of(config, opening)
    whole = saved is not None and config.adapter is None
    place = saved.path / ROLE / "model" if saved is not None and whole else source
    model = load_reward_model(place, seed=config.seed, device=opening.device.type)
    fresh = source == opening.base
    if fresh and not whole:
        nn.init.zeros_(score_head(model).weight)  # nothing is known of the score; random values would be noise
    model = starting.make_trainable(model, config, saved, role=ROLE)
    score_head(model).weight.requires_grad_(True)
    if saved is not None and not whole:
        load_head(model, saved.path / ROLE)
    starting.choose_layout(model, prompts, config=config, device=opening.device)
    return model, 0.0 if fresh else stored_mean(source)


def values_of(critic: Any, pack: Pack, *, offset: float) -> Tensor:
    """V of every scored token of a pack by a separate critic, [C] fp32, nats."""
    return read_values(hidden_states(critic, pack)[pack.rows], score_head(critic).weight[0]) - offset
