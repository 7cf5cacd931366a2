from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.engine.tiny import tiny_model
from training.engine.displacement import ches_scores, displacement_metrics, gaining_tokens, hidden_sums
from training.engine.metrics import METRICS
from training.engine.models import load_policy
from training.engine.packing import Sharing, build_pack, hidden_states, use_packed_attention

torch.set_num_threads(1)


def test_changes_of_both_sides_are_told_apart() -> None:
    found = displacement_metrics([-2.0, -4.0, 1.0], [-5.0, -6.0, -1.0], ["a", "b", "c"], part="eval")
    assert found["eval/logp_chosen_change"] == pytest.approx(-5 / 3)
    assert found["eval/logp_rejected_change"] == -4
    assert found["eval/falling_share"] == pytest.approx(2 / 3)
    assert found["eval/logp_chosen_change_low"] < -5 / 3 < found["eval/logp_chosen_change_high"]
    assert set(found) <= set(METRICS)


def test_ches_is_zero_for_equal_sides_and_least_for_opposite_ones() -> None:
    chosen = torch.tensor([[1.0, 2.0]] * 3)
    rejected = torch.tensor([[1.0, 2.0], [-2.0, 1.0], [-1.0, -2.0]])
    assert ches_scores(chosen, rejected).tolist() == [0, -5, -10]


def test_hidden_sums_are_over_the_states_that_predict_the_completion(tmp_path: Path) -> None:
    tiny_model(tmp_path)
    model = load_policy(tmp_path, device="cpu")
    use_packed_attention(model)
    pack = build_pack([Sharing(prompt=(3, 4, 5), completions=((6, 7), (8, 9, 10)))], device=torch.device("cpu"))
    with torch.no_grad():
        hidden = hidden_states(model, pack)
        found = hidden_sums(hidden[pack.rows], pack.owner, completions=2)
        alone = build_pack([Sharing(prompt=(3, 4, 5), completions=((8, 9, 10),))], device=torch.device("cpu"))
        states = hidden_states(model, alone)[2:5]  # the last of the prompt, and all but the last of the completion
    assert found.shape == (2, hidden.shape[1])
    assert torch.allclose(found[1], states.double().sum(dim=0), atol=1e-5)


def test_the_tokens_that_gain_most_come_first() -> None:
    assert gaining_tokens([5, 6, 5, 7], [0.5, 2.0, 1.0, -3.0], count=2) == [(6, 2.0), (5, 1.5)]
