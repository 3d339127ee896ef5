"""The input matrix: its scale, its blocks, and its nonzero columns."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.model.input import Input


def test_all_columns_may_be_nonzero_at_first():
    X = Input(np.ones((2, 5)))
    assert X.scale == 1.0
    assert X.nonzero_columns() == X.T.nonzero_columns() == (0, 5)


def test_transpose_shares_array_and_columns():
    array = np.arange(10.0).reshape(2, 5)
    X = Input(array, 0.5)
    XT = X.T
    X.columns[:] = [1, 3]
    assert np.shares_memory(XT.matrix, array)
    assert np.array_equal(XT.matrix, array.T)
    assert (XT.scale, XT.nonzero_columns(), XT.transposed, XT.T.transposed) == (0.5, (1, 3), True, False)


@given(st.integers(1, 9), st.data())
def test_block_has_its_nonzero_columns(width, data):
    first, last, start, stop = (data.draw(st.integers(0, width)) for _ in range(4))
    (first, last), (start, stop) = sorted((first, last)), sorted((start, stop))
    array = np.zeros((1, width))
    array[:, first:last] = 1
    X = Input(array, 0.5)
    block = X.block(slice(start, stop))
    X.columns[:] = [first, last]
    for each in (block, block.T, block.T.T):
        own_first, own_last = each.nonzero_columns()
        assert 0 <= own_first <= own_last <= stop - start
        assert block.array.sum() == block.array[:, own_first:own_last].sum() == own_last - own_first
    assert (block.scale, block.columns) == (0.5, X.columns)
