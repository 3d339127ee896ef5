"""relu at its kink, and next to it on both sides."""

from __future__ import annotations

import numpy as np
import pytest

from mlpcli.model.activations import ACTIVATIONS

TINY = np.finfo(np.float64).tiny
RELU = ACTIVATIONS["relu"]


@pytest.mark.parametrize(
    ("z", "a", "slope"),
    [(-1.0, 0, 0), (-0.01, 0, 0), (-TINY, 0, 0), (0.0, 0, 0), (TINY, TINY, 1), (1e-3, 1e-3, 1), (0.01, 0.01, 1)],
)
def test_relu_near_its_kink(z: float, a: float, slope: float) -> None:
    array, da = np.array([[z]]), np.array([[2.5]])
    value = np.empty_like(array)
    RELU.forward(array, value)
    RELU.backward(value, da, np.empty_like(da))
    assert value.item() == a
    assert da.item() == 2.5 * slope
    branch = RELU.branch(array)
    assert branch is not None
    assert branch.item() == (z > 0)
