"""Small numerical helpers that keep the formulas short: maxima and sums of rows, and scalars as 0-d arrays."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]

# From this many rows on, transposing and taking maxima of columns is faster than taking maxima of rows.
COLUMN_MAX_MIN_ROWS = 64


@lru_cache
def scalar_array(value: float, dtype: DTypeLike) -> Array:
    """Return ``value`` as a read-only 0-d array: converting a Python float takes half the time of a small operation."""
    array = np.array(value, dtype)
    array.flags.writeable = False
    return array


def row_max(z: Array) -> Array:
    """Return the largest real part of each row of ``z`` (B, K), as (B, 1)."""
    # numpy reduces short rows several times slower than long columns.
    real = z.real
    maxima: Array = (
        real.T.copy().max(axis=0) if len(z) >= COLUMN_MAX_MIN_ROWS else real[_arange(len(z)), real.argmax(axis=1)]
    )
    return maxima[:, np.newaxis]


def row_sum(p: Array) -> Array:
    """Return the sum of each row of ``p`` (B, K), as (B, 1)."""
    # As a product with ones, which takes a fifth of the time for short rows.
    sums: Array = p.dot(_ones(p.shape[1], p.dtype))
    return sums[:, np.newaxis]


def total(v: Array) -> Any:
    """Return the sum of ``v`` (n,), a scalar."""
    return v.dot(_ones(len(v), v.dtype))


def sum_of_products(u: Array, v: Array) -> Any:
    """Return the sum of u * v, a scalar, for two arrays of one shape."""
    return u.ravel().dot(v.ravel())


@lru_cache
def _arange(count: int) -> NDArray[np.intp]:
    return np.arange(count)


@lru_cache
def _ones(count: int, dtype: np.dtype[Any]) -> Array:
    return np.ones(count, dtype)
