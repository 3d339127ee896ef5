"""Objectives at logits far apart, in batches of every size, and at the kinks of the hinge."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlpcli.model.objectives import OBJECTIVES

# Beyond these exp overflows: 88 in float32, 709 in float64.
APART = {"float32": 200.0, "float64": 2000.0}
ROWS = (1, 63, 64, 200)


def forward_and_backward(name: str, z: np.ndarray, Y: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """The mean loss, p and dz."""
    p, dz = np.empty_like(z), np.empty_like(z)
    loss = OBJECTIVES[name].forward(z, Y, p)
    OBJECTIVES[name].backward(z, p, Y, dz, len(Y))
    return float(loss) / len(Y), p, dz


def far_apart(rows: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits (B, 4) of which each one is the row's first, lowest or highest somewhere, and their one-hot labels."""
    rng = np.random.default_rng(0)
    row = APART[dtype] * np.array([-1.0, 0.0, 0.25, 1.0])
    z = np.array([rng.permutation(row) for _ in range(rows)]) + rng.normal(size=(rows, 1))
    return z.astype(dtype), np.eye(4, dtype=dtype)[rng.integers(4, size=rows)]


def log_softmax(row: list[float]) -> list[float]:
    largest = max(row)
    total = math.fsum(math.exp(z - largest) for z in row)
    return [z - largest - math.log(total) for z in row]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", APART)
def test_softmax_of_logits_far_apart(dtype: str, rows: int) -> None:
    z, Y = far_apart(rows, dtype)
    logs = np.array([log_softmax(row) for row in z.astype(float).tolist()])
    loss, p, dz = forward_and_backward("softmax_cross_entropy", z, Y)
    rounding = 10 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(p, np.exp(logs), rtol=rounding * APART[dtype], atol=rounding)
    np.testing.assert_allclose(dz, (np.exp(logs) - Y) / rows, atol=rounding)
    assert loss == pytest.approx(-(logs * Y).sum() / rows, rel=rounding)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", APART)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_logits_far_apart_overflow_nowhere(name: str, dtype: str, rows: int) -> None:
    z, Y = far_apart(rows, dtype)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        loss, p, dz = forward_and_backward(name, z, Y)
    assert math.isfinite(loss)
    assert np.isfinite(p).all()
    assert np.isfinite(dz).all()


@pytest.mark.parametrize("rows", [(1, 63), (63, 64), (64, 200)])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_row_has_the_same_output_in_every_batch(name: str, rows: tuple[int, int]) -> None:
    z, _ = far_apart(max(rows), "float64")
    z /= APART["float64"]
    fewer, more = (np.empty_like(z[:count]) for count in rows)
    for p in (fewer, more):
        OBJECTIVES[name].output(z[: len(p)], p)
    np.testing.assert_allclose(fewer, more[: len(fewer)], rtol=1e-14)


# z_y = 2: class 0 meets its margin exactly, class 2 is short of it, class 3 has more than it needs.
def test_hinge_has_no_gradient_at_the_margin() -> None:
    z, Y = np.array([[1.0, 2.0, 1.5, 0.5]]), np.array([[0.0, 1.0, 0.0, 0.0]])
    loss, _, dz = forward_and_backward("linear_hinge", z, Y)
    assert loss == 0.5
    assert dz.tolist() == [[0.0, -1.0, 1.0, 0.0]]
    active = OBJECTIVES["linear_hinge"].active_set(z, Y)
    assert active is not None
    assert active.tolist() == [[0, 0, 1, 0]]
