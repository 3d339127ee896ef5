"""relu at its kink, and next to it on both sides."""

from __future__ import annotations

import numpy as np
import pytest

from mlpcli.model.activations import ACTIVATIONS

TINY = np.finfo(np.float64).tiny
RELU = ACTIVATIONS["relu"]


@pytest.mark.parametrize(
    ("z", "h", "slope"),
    [(-1.0, 0, 0), (-0.01, 0, 0), (-TINY, 0, 0), (0.0, 0, 0), (TINY, TINY, 1), (1e-3, 1e-3, 1), (0.01, 0.01, 1)],
)
def test_relu_near_its_kink(z: float, h: float, slope: float) -> None:
    array, dz = np.array([[z]]), np.array([[2.5]])
    value = np.empty_like(array)
    RELU.forward(array, value)
    RELU.backward(value, dz, np.empty_like(dz))
    assert value.item() == h
    assert dz.item() == 2.5 * slope
    active = RELU.active_set(array)
    assert active is not None
    assert active.item() == (z > 0)
