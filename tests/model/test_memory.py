"""Aligned arrays are ordinary arrays that begin at a cache line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlpcli.model.build import allocate_arrays
from mlpcli.model.memory import CACHE_LINE_BYTES, aligned
from mlpcli.model.parameters import Parameters


@given(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0), st.sampled_from(["f4", "f8", "c16"]), st.just(0.5))
def test_array_begins_at_a_cache_line(shape: tuple[int, ...], dtype: str, value: float):
    array = aligned(shape, dtype, value)
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    assert array.ctypes.data % CACHE_LINE_BYTES == 0 or not array.size
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert (array == value).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_arrays_of_a_pass_begin_at_a_cache_line(dtype: str):
    arrays = allocate_arrays((784, 30, 10), 7, dtype)
    written = [Parameters((784, 30, 10), dtype).vector, *arrays.z, *arrays.h, *arrays.partial_da[0], arrays.dlogits]
    assert [array.ctypes.data % CACHE_LINE_BYTES for array in written] == [0] * len(written)
