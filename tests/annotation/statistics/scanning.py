"""A walk through a result that finds numbers which are none and have no reason."""

from __future__ import annotations

import dataclasses
import math

import numpy as np


def assert_every_number_is_there_or_has_a_reason(result: object) -> None:
    """No NaN or inf in a result, but where a `reason` beside it, or one named after it, is not 0."""
    if isinstance(result, tuple):
        for part in result:
            assert_every_number_is_there_or_has_a_reason(part)
    if isinstance(result, float):
        assert math.isfinite(result)
    if not dataclasses.is_dataclass(result):
        return
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    for name, value in fields.items():
        if not (isinstance(value, np.ndarray) and value.dtype.kind == "f"):
            assert_every_number_is_there_or_has_a_reason(value)
            continue
        missing = ~np.isfinite(value)
        reasons = [fields[key] for key in ("reason", f"{name}_reason", f"{name.split('_')[0]}_reason") if key in fields]
        excused = [np.broadcast_to(_aligned(np.asarray(why), value.ndim) != 0, value.shape) for why in reasons]
        assert not missing.any() or any(not np.any(missing & ~fine) for fine in excused), name


def _aligned(reason: np.ndarray, dimensions: int) -> np.ndarray:
    return reason.reshape(reason.shape + (1,) * (dimensions - reason.ndim))
