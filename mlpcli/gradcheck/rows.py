"""The result of a check for one tensor: errors by method, allowed errors, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

TOLERANCE = {"complex": 1e-12, "central": 1e-7, "direction": 1e-12, "jacobian": 1e-12, "step": 1e-12}
TOLERANCE["float32"] = 1e-4  # a hundred times what is usual

PASSED, FAILED, NOT_EXERCISED = "passed", "failed", "not exercised"

# Derivatives smaller than this are taken as 0: a dead unit's may be 0 by hand and 1e-84 by the complex step.
NEGLIGIBLE = 1e-30

CHUNK_SIZE = 65_536  # entries that stay in the cache while two vectors are compared


@dataclass(frozen=True)
class Row:
    """The result for one tensor.

    ``checked`` of its entries were compared one by one; ``errors`` has the relative error by each method that applies,
    ``allowed`` what is allowed of it. ``kinks`` names the entries left out of central differences. ``worst`` says where
    the methods differ most, if they differ by more than is allowed.
    """

    name: str
    shape: tuple[int, ...]
    checked: int
    errors: dict[str, float]
    verdict: str
    allowed: dict[str, float] = field(default_factory=dict)
    kinks: tuple[str, ...] = ()
    worst: str = ""


def row(
    name: str,
    shape: tuple[int, ...],
    errors: dict[str, float],
    allowed: Mapping[str, float],
    checked: int = 0,
    exercised: bool = True,
    kinks: tuple[str, ...] = (),
    worst: str = "",
) -> Row:
    """Return the row with its verdict: failed if an error is more than allowed, else passed if ``exercised``."""
    agree = all(error <= allowed[method] for method, error in errors.items())
    verdict = FAILED if not agree else PASSED if exercised else NOT_EXERCISED
    return Row(name, shape, checked, errors, verdict, {method: allowed[method] for method in errors}, kinks, worst)


def relative_error(n: Array, a: Array) -> float:
    """Return ||n - a|| / (||n|| + ||a||) of two arrays of one shape, in float64: infinite if one is not finite.

    It is 0 if the denominator is negligible.
    """
    n, a = np.ravel(n), np.ravel(a)
    sums = [0.0, 0.0, 0.0]
    for start in range(0, n.size, CHUNK_SIZE):
        x, y = (v[start : start + CHUNK_SIZE].astype(np.float64, copy=False) for v in (n, a))
        for i, each in enumerate((x - y, x, y)):
            sums[i] += float(each.dot(each))
    difference, *sizes = map(sqrt, sums)
    scale = sum(sizes)
    if not isfinite(scale):
        return inf
    return difference / scale if scale > NEGLIGIBLE else 0.0


def projection_error(n: float, a: float, vector: Array) -> float:
    """Return |n - a| / (|n| + |a|) of two projections of ``vector`` on a direction drawn by :func:`draw_direction`.

    The denominator is at least twice the root mean square of such projections, so that one that is small by chance does
    not make a large error.
    """
    if not isfinite(n - a):
        return inf
    scale = max(abs(n) + abs(a), 2.0 * float(np.linalg.norm(vector)) / sqrt(12.0))
    return abs(n - a) / scale if scale else 0.0


def draw_direction(rng: np.random.Generator, size: int) -> Array:
    """Return a random direction (size,), each entry uniform in (-1/2, 1/2)."""
    # By dtype: numpy before 2.0 subtracts a float64 scalar from float32 entries in float32.
    direction: Array = np.subtract(rng.random(size, np.float32), 0.5, dtype=np.float64)
    return direction


def without_negligible(values: Array, negligible: float = NEGLIGIBLE) -> Array:
    """Return a copy of ``values`` with 0 in place of what is smaller than ``negligible``."""
    return np.where(np.abs(values) < negligible, 0.0, values)
