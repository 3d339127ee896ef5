"""Maxima and sums of rows, and scalars as arrays."""

from __future__ import annotations

import numpy as np
import pytest

from mlpcli.model.numerics import COLUMN_MAX_MIN_ROWS, row_max, row_sum, scalar_array, sum_of_products, total

DTYPES = ("float32", "float64", "complex128")


@pytest.mark.parametrize("dtype", DTYPES)
def test_scalar_array_is_read_only_and_keeps_the_dtype(dtype):
    half = scalar_array(0.5, np.dtype(dtype))
    assert (half.shape, half.dtype, half) == ((), dtype, 0.5)
    with pytest.raises(ValueError, match="read-only"):
        half[...] = 1
    assert (np.ones(2, dtype) * half).dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [0, 1, COLUMN_MAX_MIN_ROWS - 1, COLUMN_MAX_MIN_ROWS, 200])
def test_row_maxima_and_sums(rows, dtype):
    z = np.random.default_rng(rows).normal(size=(rows, 5)).astype(dtype)
    if dtype == "complex128":
        z += 1j
    np.testing.assert_array_equal(row_max(z), z.real.max(axis=1, keepdims=True))
    np.testing.assert_allclose(row_sum(z), z.sum(axis=1, keepdims=True), rtol=1e-5, atol=1e-6)
    assert row_sum(z).dtype == dtype
    assert total(z[:, 0]) == pytest.approx(z[:, 0].sum(), rel=1e-5, abs=1e-5)
    assert sum_of_products(z, z) == pytest.approx((z * z).sum(), rel=1e-5)
