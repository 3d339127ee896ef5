"""The spread of a few numbers, against published quantiles and simulation."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.runs.spread import MeanInterval, Spread, spread_of, student_t


@pytest.mark.parametrize(
    ("level", "freedom", "t"),
    [
        (0.5, 1, 1.0),
        (0.95, 1, 12.706),
        (0.95, 2, 4.303),
        (0.95, 3, 3.182),
        (0.95, 4, 2.776),
        (0.95, 9, 2.262),
        (0.99, 9, 3.250),
        (0.95, 10, 2.228),
        (0.9, 29, 1.699),
        (0.95, 120, 1.980),
    ],
)
def test_quantiles_equal_published_ones(level: float, freedom: int, t: float):
    assert student_t(level, freedom) == pytest.approx(t, abs=6e-4)


def test_two_and_many_degrees_of_freedom_are_the_closed_forms():
    for level in (0.5, 0.9, 0.95, 0.999):
        assert student_t(level, 2) == pytest.approx(level * math.sqrt(2 / (1 - level**2)), rel=1e-12)
    assert student_t(0.95, 100_001) == pytest.approx(1.959964, rel=1e-4)  # the normal's


def test_spread_by_hand():
    found = spread_of([1.0, 2.0, 6.0])
    assert found is not None and found.interval is not None
    assert (found.mean, found.low, found.high, found.count) == (3.0, 1.0, 6.0, 3)
    assert found.standard_deviation == pytest.approx(math.sqrt(7))
    half = 4.302653 * math.sqrt(7 / 3)
    assert (found.interval.low, found.interval.high) == pytest.approx((3 - half, 3 + half), rel=1e-6)
    assert json.loads(json.dumps(asdict(found)))["interval"]["level"] == 0.95


def test_one_number_has_no_interval_and_none_no_spread():
    assert spread_of([0.5]) == Spread(0.5, 0.5, 0.5, 1, None, None)
    assert spread_of([0.5, 0.5]) == Spread(0.5, 0.5, 0.5, 2, 0.0, MeanInterval(0.5, 0.5, 0.95))
    assert spread_of([]) is None


@pytest.mark.parametrize("count", [2, 3, 10])
def test_interval_covers_the_mean_as_often_as_it_says(count: int):
    samples = np.random.default_rng(count).normal(0.5, 0.1, (2000, count))
    spreads = [spread_of(sample.tolist()) for sample in samples]
    covered = sum(each.interval.low <= 0.5 <= each.interval.high for each in spreads if each and each.interval)
    assert covered / 2000 == pytest.approx(0.95, abs=0.02)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_interval_is_around_the_mean_and_grows_with_the_level(numbers: list[float]):
    narrow, wide = (spread_of(numbers, level) for level in (0.5, 0.95))
    assert narrow is not None and narrow.interval is not None
    assert wide is not None and wide.interval is not None
    assert wide.interval.low <= narrow.interval.low <= wide.mean <= narrow.interval.high <= wide.interval.high
