"""The row blocks in which a small matrix product is fastest, on processors with AVX-512.

OpenBLAS multiplies small matrices without packing them first, up to a million multiplications, if it is built for
AVX-512 (interface/gemm.c, SMALL_MATRIX_OPT). A larger product of one thread takes a quarter to a half less time in
blocks of that size, if A's rows and B's columns are contiguous, and a block has a multiple of four rows and begins at
a cache line. Of the shipped configs' networks those of 30 and 100 hidden units gain by it, in evaluation and in
training with several processes (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from functools import lru_cache
from typing import Any

from numpy.typing import NDArray

from mlpcli.model.memory import CACHE_LINE_BYTES

Array = NDArray[Any]

MAX_MNK = 1_000_000
ROW_MULTIPLE = 4
MIN_ROWS = 16
AVX_512 = (b"SkylakeX", b"Cooperlake", b"SapphireRapids")
OPENBLAS_NAMES = ("scipy_openblas_{}64_", "openblas_{}64_", "openblas_{}")


def row_blocks(A: Array, B: Array) -> list[slice]:
    """Return the blocks of A's rows (M, K) by which A B is computed: one, if nothing is gained by more."""
    whole = [slice(0, len(A))]
    rows = MAX_MNK // max(1, B.size) // ROW_MULTIPLE * ROW_MULTIPLE
    if not MIN_ROWS <= rows < len(A):
        return whole
    contiguous = A.strides[1] == A.itemsize and B.strides[0] == B.itemsize
    aligned = A.ctypes.data % CACHE_LINE_BYTES == ROW_MULTIPLE * A.strides[0] % CACHE_LINE_BYTES == 0
    if not (contiguous and aligned and uses_small_kernels()):
        return whole
    return [slice(first, min(first + rows, len(A))) for first in range(0, len(A), rows)]


def uses_small_kernels() -> bool:
    """Return whether BLAS is an OpenBLAS for AVX-512 with one thread."""
    for pattern in OPENBLAS_NAMES:
        with suppress(AttributeError, TypeError):
            core, threads = (library()[pattern.format(name)] for name in ("get_corename", "get_num_threads"))
            core.restype = ctypes.c_char_p
            return core() in AVX_512 and threads() == 1
    return False


@lru_cache
def library() -> Any:
    """Return the library through which numpy's BLAS can be called; None if it can't be opened."""
    module = sys.modules.get("numpy._core._multiarray_umath") or sys.modules["numpy.core._multiarray_umath"]
    try:
        return ctypes.CDLL(str(module.__file__))
    except OSError:
        return None
