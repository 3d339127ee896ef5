"""Where arrays that are worked on again and again begin: at the edge of a line of the cache. And numbers as arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# What makes an array, (shape, dtype).
Allocate = Callable[[tuple[int, ...], DTypeLike], NDArray[Any]]

LINE = 64  # bytes, of x86 and most others; Apple's 128 lose little


@lru_cache
def constant(value: float, dtype: DTypeLike) -> NDArray[Any]:
    """A number as an array, which numpy takes up sooner than Python's: on small arrays in half the time."""
    made = np.array(value, dtype)
    made.flags.writeable = False
    return made


def aligned(shape: tuple[int, ...], dtype: DTypeLike, value: float | None = None) -> NDArray[Any]:
    """An array whose first byte begins a cache line, filled with ``value``, or with nothing in particular.

    numpy begins arrays 16 bytes past one, so that every vector of 64 bytes lies in two lines, and two threads that
    share a matrix product write to the same line where their parts meet: a step was up to a fifth slower.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    array = memory[start : start + size].view(dtype).reshape(shape)
    if value is not None:
        array.fill(value)
    return array
