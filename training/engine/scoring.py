"""Scores of completions by reward models: s(x, y) = w·h at the last completion token, in log-odds.

N rows of a pack; K completions in it; D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.engine.models import score_head
from training.engine.packing import Pack, hidden_states


def scores(model: Any, pack: Pack) -> Tensor:
    """s of every completion of a pack, [K] fp32: read at its last token, finished or not.

    An empty completion is read at the last token of its prompt.
    """
    return read_scores(model, last_states(model, pack))


def last_states(model: Any, pack: Pack) -> Tensor:
    """The last layer's state at the last token of every completion, [K, D]."""
    return hidden_states(model, pack)[pack.last]


def read_scores(model: Any, states: Tensor) -> Tensor:
    """The reward head on states [K, D], in fp32 whatever they were computed in: [K]."""
    with torch.autocast(states.device.type, enabled=False):
        result: Tensor = (states.float() @ score_head(model).weight.float().T)[:, 0]
    return result
