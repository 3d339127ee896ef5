"""Several numbers in one: mean, standard deviation, and an interval of the mean by Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

LEVEL = 0.95


@dataclass(frozen=True)
class MeanInterval:
    """A confidence interval of a mean."""

    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Spread:
    """The mean, minimum and maximum of ``count`` numbers.

    ``standard_deviation`` is that of a sample, with the divisor count - 1, and ``interval`` that of the mean; both are
    None for a single number.
    """

    mean: float
    low: float
    high: float
    count: int
    standard_deviation: float | None
    interval: MeanInterval | None


def spread_of(numbers: Sequence[float], level: float = LEVEL) -> Spread | None:
    """Return the spread of ``numbers``; None if there are none.

    Student 1908, "The probable error of a mean": with n numbers, their standard deviation s, and the quantile t of
    n - 1 degrees of freedom, the interval is mean -+ t s / sqrt(n).
    """
    count = len(numbers)
    if not count:
        return None
    middle, low, high = mean(numbers), min(numbers), max(numbers)
    if count == 1:
        return Spread(middle, low, high, count, None, None)
    deviation = stdev(numbers)
    half = student_t(level, count - 1) * deviation / math.sqrt(count)
    return Spread(middle, low, high, count, deviation, MeanInterval(middle - half, middle + half, level))


def student_t(level: float, freedom: int) -> float:
    """Return the t with P(|T| <= t) = ``level`` for T of Student's distribution with ``freedom`` degrees of freedom."""
    low, high = 0.0, math.pi / 2  # of the angle atan(t / sqrt(freedom))
    while low < (angle := (low + high) / 2) < high:
        low, high = (angle, high) if _within(angle, freedom) < level else (low, angle)
    return math.tan(angle) * math.sqrt(freedom)


def _within(angle: float, freedom: int) -> float:
    """Return P(|T| <= sqrt(freedom) tan(angle)), a finite sum: Abramowitz and Stegun 1964, 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine * cosine * (k - 1) / k
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
