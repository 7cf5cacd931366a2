from __future__ import annotations

import pytest

from training.engine.displacement import displacement_metrics
from training.engine.metrics import METRICS


def test_changes_of_both_sides_are_told_apart() -> None:
    found = displacement_metrics([-2.0, -4.0, 1.0], [-5.0, -6.0, -1.0], ["a", "b", "c"], part="eval")
    assert found["eval/logp_chosen_change"] == pytest.approx(-5 / 3)
    assert found["eval/logp_rejected_change"] == -4
    assert found["eval/falling_share"] == pytest.approx(2 / 3)
    assert found["eval/logp_chosen_change_low"] < -5 / 3 < found["eval/logp_chosen_change_high"]
    assert set(found) <= set(METRICS)
