"""Aligned arrays are ordinary arrays that begin where a line of the cache does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlpcli.config import Config
from mlpcli.model.memory import LINE, aligned
from mlpcli.training.loop import network_for


@given(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0), st.sampled_from(["f4", "f8", "c16"]), st.just(0.5))
def test_an_array_begins_a_line_and_is_whole(shape: tuple[int, ...], dtype: str, value: float):
    array = aligned(shape, dtype, value)
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    assert array.ctypes.data % LINE == 0 or not array.size
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert (array == value).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_what_two_threads_write_to_begins_a_line(dtype: str):
    network = network_for(Config(), 784, 10)
    t = network.buffers(7, dtype)
    written = [network.parameters(dtype).vector, *t.z, *t.a, *t.dz]
    assert [array.ctypes.data % LINE for array in written] == [0] * len(written)
