"""out <- keep out + scale A B: the product as the BLAS that numpy was built on does it.

``numpy.matmul`` calls the same function of the same library, with keep = 0 and scale = 1, but for the smallest. With
the other two a sum of products, or a momentum, which is one, is made without writing each product to memory first and
reading it again.

Where numpy's BLAS is not to be found by name (on Windows, for one), numpy makes the product and then adds it. A run's
``manifest.json`` says so; results differ by rounding.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# As numpy's own wheels name it, as other builds with 64-bit integers do, and as all the rest do. Where each number is
# passed in a register or in eight bytes of the stack, as by 64-bit Linux, 64 bits are right for smaller integers too.
EIGHT_BYTES_EACH = sys.platform == "linux" and ctypes.sizeof(ctypes.c_void_p) == 8
NAMES = ("scipy_cblas_{}64_", "cblas_{}64_", *(["cblas_{}"] if EIGHT_BYTES_EACH else []))
LETTERS = {"f": "s", "d": "d", "D": "z"}
NUMBERS: dict[str, Any] = {"f": ctypes.c_float, "d": ctypes.c_double, "D": ctypes.c_double * 2}

ROW_MAJOR, AS_IT_IS, TRANSPOSED = 101, 111, 112

Routine = Callable[..., None]


class Product:
    """A B, of A (M, K) and B (K, N) to be added to ``out`` (M, N), or of A (K,) to be added to ``out`` (N,).

    It is bound to its arrays: finding out where they are takes longer than a small product. Rows of ``out`` (M, N), of
    A or of its transpose, and of B or of its transpose are without gaps. All have one dtype: float32, float64 or
    complex128. Raises ``ValueError`` for others.
    """

    def __init__(self, A: Array, B: Array, out: Array) -> None:
        if not A.dtype == B.dtype == out.dtype or out.dtype.char not in LETTERS:
            raise ValueError(f"no product of {A.dtype} and {B.dtype} for {out.dtype}")
        if (*A.shape, *B.shape[1:]) != (*out.shape[:-1], A.shape[-1], out.shape[-1]) or A.shape[-1] != len(B):
            raise ValueError(f"no product of {A.shape} and {B.shape} for {out.shape}")
        self._arrays = A, B, out
        self._all_rows, self._all_inner = slice(0, len(out)), slice(0, len(B))
        self._cut = False  # whether the last time it was of some rows or columns alone
        if out.ndim == 2 and out.size and _order(out) != AS_IT_IS:
            raise ValueError("the rows of what is added to have gaps")
        # Where there is nothing there are no strides to go by, and gemv would leave what is there.
        self._routine = routine("gemm" if out.ndim == 2 else "gemv", out.dtype.char) if A.size and B.size else None
        if self._routine is None:
            return
        # Made once, and changed where they change: ctypes takes longer to make them than to pass them.
        number = NUMBERS[out.dtype.char]
        self._scale, self._keep = number(), number()
        size, place, kind = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
        if out.ndim == 2:
            self._begin = A.ctypes.data, B.ctypes.data, out.ctypes.data
            self._M, self._K = size(len(out)), size(len(B))
            self._at_A, self._at_B, self._at_out = map(place, self._begin)
            self._arguments: tuple[Any, ...] = (
                *map(kind, (ROW_MAJOR, _order(A), _order(B))),
                *(self._M, size(out.shape[1]), self._K),
                *(self._scale, self._at_A, size(_leading(A)), self._at_B, size(_leading(B))),
                *(self._keep, self._at_out, size(_leading(out))),
            )
        else:
            # B^T A, as BLAS knows it.
            transposed = _order(B) == AS_IT_IS
            self._arguments = (
                *map(kind, (ROW_MAJOR, TRANSPOSED if transposed else AS_IT_IS)),
                *map(size, B.shape if transposed else B.shape[::-1]),
                *(self._scale, place(B.ctypes.data), size(_leading(B))),
                *(place(A.ctypes.data), size(A.strides[0] // A.itemsize)),
                *(self._keep, place(out.ctypes.data), size(out.strides[0] // out.itemsize)),
            )

    def add(
        self, scale: float = 1.0, keep: float = 0.0, *, rows: slice | None = None, inner: slice | None = None
    ) -> None:
        """Make ``out`` keep times itself plus scale times the product.

        ``rows`` are the rows of A that are not all 0, ``inner`` its columns, by which B's rows are chosen. Either is a
        slice with a beginning and an end; they are for matrices.
        """
        A, B, out = self._arrays
        cut = rows is not None or inner is not None
        if cut or self._cut:
            self._cut = cut
            rows, inner = rows or self._all_rows, inner or self._all_inner
            first, last = rows.start, rows.stop
            if first:
                _keep(out[:first], keep)
            if last < len(out):
                _keep(out[last:], keep)
            if self._routine is None:
                A, B, out = A[rows, inner], B[inner], out[rows]
            else:
                self._M.value, self._K.value = last - first, inner.stop - inner.start
                self._at_A.value = self._begin[0] + first * A.strides[0] + inner.start * A.strides[1]
                self._at_B.value = self._begin[1] + inner.start * B.strides[0]
                self._at_out.value = self._begin[2] + first * out.strides[0]
        if self._routine is None:
            _by_numpy(A, B, out, scale, keep)
            return
        _set(self._scale, scale)
        _set(self._keep, keep)
        self._routine(*self._arguments)


def _by_numpy(A: Array, B: Array, out: Array, scale: float, keep: float) -> None:
    product = np.dot if out.ndim == 1 else np.matmul
    if keep:
        _keep(out, keep)
        more = product(A, B)
        if scale != 1.0:
            more *= scale
        out += more
    else:
        product(A, B, out=out)
        if scale != 1.0:
            out *= scale


def _keep(out: Array, keep: float) -> None:
    if keep == 1.0:
        return
    if keep:
        out *= keep
    else:
        out[...] = 0.0  # whatever it was, as BLAS has it


def _set(number: Any, value: float) -> None:
    if isinstance(number, ctypes.Array):
        number[0] = value  # of a complex number, the real part
    else:
        number.value = value


def _order(matrix: Array) -> int:
    """Whether the rows of ``matrix`` are without gaps, or its columns."""
    if matrix.strides[1] == matrix.itemsize:
        return AS_IT_IS
    if matrix.strides[0] == matrix.itemsize:
        return TRANSPOSED
    raise ValueError("rows and columns of a matrix have gaps")


def _leading(matrix: Array) -> int:
    """The entries from one row, or column, of ``matrix`` to the next."""
    across = 0 if _order(matrix) == AS_IT_IS else 1
    count, length = matrix.shape[across], matrix.shape[1 - across]
    return matrix.strides[across] // matrix.itemsize if count > 1 else max(1, length)


@lru_cache
def routine(name: str, dtype: str) -> Routine | None:
    """BLAS's ``gemm`` or ``gemv`` for a dtype's letter, as C sees it; None where it is not to be found."""
    # What a library of numpy's links to is found through it.
    module = sys.modules.get("numpy._core._multiarray_umath") or sys.modules["numpy.core._multiarray_umath"]
    try:
        library = ctypes.CDLL(str(module.__file__))
    except OSError:
        return None
    for each in NAMES:
        with suppress(AttributeError):
            found: Routine = library[each.format(LETTERS[dtype] + name)]
            return found
    return None
