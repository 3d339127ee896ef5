"""Arrays that begin at the edge of a cache line."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# Allocates an array, given its shape and dtype.
Allocate = Callable[[tuple[int, ...], DTypeLike], NDArray[Any]]

CACHE_LINE_BYTES = 64  # of x86 and most others; on Apple's processors with 128 little is lost


def aligned(shape: tuple[int, ...], dtype: DTypeLike, value: float | None = None) -> NDArray[Any]:
    """Return an array whose first byte begins a cache line, filled with ``value``, or uninitialized.

    numpy begins arrays 16 bytes past one, so every 64-byte vector straddles two lines, and two threads that share a
    matrix product write to the same line where their halves join: steps were up to a fifth slower.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + CACHE_LINE_BYTES, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE_BYTES
    array = memory[start : start + size].view(dtype).reshape(shape)
    if value is not None:
        array.fill(value)
    return array
