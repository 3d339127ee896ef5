"""Dropout masks preserve the mean, and any block of one can be drawn alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.model.dropout import draw_mask


def mask_of(rate, shape, rng=None, block=(slice(None), slice(None)), dtype="float64"):
    mask = np.full(np.empty(shape)[block].shape, np.nan, dtype)
    draw_mask(rate, shape, rng or np.random.Generator(np.random.Philox(0)), mask, block)
    return mask


@given(st.floats(1e-5, 0.95), st.integers(1, 9), st.integers(1, 9))
def test_mask_has_zeros_and_one_value_above_1(rate, rows, columns):
    mask = mask_of(rate, (rows, columns), dtype="float32")
    assert set(np.unique(mask)) <= {0.0, np.float32(1 / (1 - rate))}


@pytest.mark.parametrize("rate", [0.001, 0.2, 0.5, 0.9])
def test_mean_is_preserved(rate):
    rng = np.random.Generator(np.random.Philox(0))
    mask = np.concatenate([mask_of(rate, (10, 999), rng) for _ in range(400)])
    assert (mask == 0).mean() == pytest.approx(rate, abs=min(1e-3, 0.3 * rate))
    assert mask.mean() == pytest.approx(1, rel=0.01)
    assert mask.max() == pytest.approx(1 / (1 - rate), rel=1e-12)


def test_masks_differ():
    rng = np.random.Generator(np.random.Philox(0))
    first, second = mask_of(0.5, (50, 40), rng), mask_of(0.5, (50, 40), rng)
    assert (first == second).mean() == pytest.approx(0.5, abs=0.05)


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_block_equals_that_part_of_the_whole_mask(rows, columns, data):
    ends = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in (rows, columns)]
    block = slice(*ends[0]), slice(*ends[1])
    one, other = (np.random.Generator(np.random.Philox(7)) for _ in range(2))
    np.testing.assert_array_equal(
        mask_of(0.5, (rows, columns), one, block), mask_of(0.5, (rows, columns), other)[block]
    )
    assert one.random() == other.random(), "the block decides what is drawn next"
