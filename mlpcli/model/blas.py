"""out <- keep out + scale A B, and out <- out + scale A: as the BLAS that numpy was built on does them.

``numpy.matmul`` calls the same function of the same library, with keep = 0 and scale = 1, but for the smallest. With
the other two a sum of products is made without writing each product to memory first and reading it again. Sums of
vectors are here for the same reason; and BLAS makes long ones in all its threads.

Where numpy's BLAS is not to be found by name (on Windows, for one), numpy makes the product and then adds it. A run's
``manifest.json`` says so; results differ by rounding.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpcli.model.memory import LINE

Array = NDArray[Any]

# As numpy's own wheels name it, as other builds with 64-bit integers do, and as all the rest do. Where each number is
# passed in a register or in eight bytes of the stack, as by 64-bit Linux, 64 bits are right for smaller integers too.
EIGHT_BYTES_EACH = sys.platform == "linux" and ctypes.sizeof(ctypes.c_void_p) == 8
NAMES = ("scipy_cblas_{}64_", "cblas_{}64_", *(["cblas_{}"] if EIGHT_BYTES_EACH else []))
OPENBLAS_NAMES = ("scipy_openblas_{}64_", "openblas_{}64_", "openblas_{}")
LETTERS = {"f": "s", "d": "d", "D": "z"}


class Complex(ctypes.Structure):
    """A complex number, ``value`` its real part; the other stays 0."""

    _fields_ = (("value", ctypes.c_double), ("imaginary", ctypes.c_double))


NUMBERS: dict[str, Any] = {"f": ctypes.c_float, "d": ctypes.c_double, "D": Complex}

# From so many entries on OpenBLAS makes sums sooner in all its threads, as its axpy does and its axpby does not.
SUM_OF_SEVERAL = 32_768

# OpenBLAS makes products of no more than so many multiplications from matrices as they are, without packing them first,
# on processors with AVX-512. A larger one, of one thread, takes a quarter to a half less time in such pieces: where A's
# rows and B's columns have no gaps, and a piece has a multiple of four rows and begins a line of the cache.
# (interface/gemm.c, SMALL_MATRIX_OPT.)
UNPACKED = 1_000_000
UNPACKED_ROWS = 4
LEAST_UNPACKED_ROWS = 16
AVX_512 = (b"SkylakeX", b"Cooperlake", b"SapphireRapids")

ROW_MAJOR, COLUMN_MAJOR, AS_IT_IS, TRANSPOSED = 101, 102, 111, 112

Routine = Callable[..., None]


class Product:
    """A B, of A (M, K) and B (K, N) to be added to ``out`` (M, N), or of A (K,) to be added to ``out`` (N,).

    It is bound to its arrays: finding out where they are takes longer than a small product. Of each matrix the rows or
    the columns are without gaps. All have one dtype: float32, float64 or complex128. Raises ``ValueError`` for others.
    """

    def __init__(self, A: Array, B: Array, out: Array) -> None:
        if not A.dtype == B.dtype == out.dtype or out.dtype.char not in LETTERS:
            raise ValueError(f"no product of {A.dtype} and {B.dtype} for {out.dtype}")
        if (*A.shape, *B.shape[1:]) != (*out.shape[:-1], A.shape[-1], out.shape[-1]) or A.shape[-1] != len(B):
            raise ValueError(f"no product of {A.shape} and {B.shape} for {out.shape}")
        self._arrays = self._taken = A, B, out
        self._pieces = [Product(A[rows], B, out[rows]) for rows in _unpacked(A, B)] if out.ndim == 2 else []
        self._cut = False  # whether the last time it was of some rows or columns alone
        self._call: Callable[[], None] | None = None
        # Where there is nothing there are no strides to go by, and gemv would leave what is there.
        found = routine("gemm" if out.ndim == 2 else "gemv", out.dtype.char) if A.size and B.size else None
        if found is None:
            return
        # Made once, and changed where they change: ctypes takes longer to make them than to pass them.
        number = NUMBERS[out.dtype.char]
        self._scale, self._keep = number(), number()
        scale, keep = map(_argument, (self._scale, self._keep))
        size, place, kind = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
        if out.ndim == 2:
            self._begin = A.ctypes.data, B.ctypes.data, out.ctypes.data
            self._M, self._K = size(len(out)), size(len(B))
            self._at_A, self._at_B, self._at_out = map(place, self._begin)
            major = _major(out)
            arguments: tuple[Any, ...] = (
                *map(kind, (major, *(AS_IT_IS if _major(each) == major else TRANSPOSED for each in (A, B)))),
                *(self._M, size(out.shape[1]), self._K),
                *(scale, self._at_A, size(_leading(A)), self._at_B, size(_leading(B))),
                *(keep, self._at_out, size(_leading(out))),
            )
        else:
            # B^T A, as BLAS knows it.
            transposed = _major(B) == ROW_MAJOR
            arguments = (
                *map(kind, (ROW_MAJOR, TRANSPOSED if transposed else AS_IT_IS)),
                *map(size, B.shape if transposed else B.shape[::-1]),
                *(scale, place(B.ctypes.data), size(_leading(B))),
                *(place(A.ctypes.data), size(A.strides[0] // A.itemsize)),
                *(keep, place(out.ctypes.data), size(out.strides[0] // out.itemsize)),
            )
        self._call = partial(found, *arguments)

    def add(
        self, scale: float = 1.0, keep: float = 0.0, *, rows: slice | None = None, inner: slice | None = None
    ) -> None:
        """Make ``out`` keep times itself plus scale times the product.

        ``rows`` are the rows of A that are not all 0, ``inner`` its columns, by which B's rows are chosen. Either is a
        slice with a beginning and an end; they are for matrices.
        """
        if self._pieces and rows is None:
            for piece in self._pieces:
                piece.add(scale, keep, inner=inner)
            return
        if rows is not None or inner is not None or self._cut:
            self._cut_to(rows, inner, keep)
        if self._call is None:
            _by_numpy(*self._taken, scale, keep)
            return
        self._scale.value, self._keep.value = scale, keep
        self._call()

    def _cut_to(self, rows: slice | None, inner: slice | None, keep: float) -> None:
        """Take these rows and inner ones alone, and do to the other rows of ``out`` what a product of zeros does."""
        A, B, out = self._arrays
        self._cut = rows is not None or inner is not None
        rows, inner = rows or slice(0, len(out)), inner or slice(0, len(B))
        first, last = rows.start, rows.stop
        if keep != 1.0:
            _keep(out[:first], keep)
            _keep(out[last:], keep)
        if self._call is None:
            self._taken = A[rows, inner], B[inner], out[rows]
        else:
            self._M.value, self._K.value = last - first, inner.stop - inner.start
            self._at_A.value = self._begin[0] + first * A.strides[0] + inner.start * A.strides[1]
            self._at_B.value = self._begin[1] + inner.start * B.strides[0]
            self._at_out.value = self._begin[2] + first * out.strides[0]


class Addend:
    """A, to be added to ``out``, of the same shape and dtype, neither with gaps.

    It is bound to its arrays, as a :class:`Product` is. Raises ``ValueError`` for what does not fit.
    """

    def __init__(self, A: Array, out: Array) -> None:
        if A.dtype != out.dtype or A.dtype.char not in LETTERS or A.shape != out.shape:
            raise ValueError(f"no sum of {A.dtype} {A.shape} and {out.dtype} {out.shape}")
        if not (A.flags.c_contiguous and out.flags.c_contiguous):
            raise ValueError("what is added, or added to, has gaps")
        self._arrays = A, out
        number = NUMBERS[out.dtype.char]
        self._scale, keep = number(), number()
        keep.value = 1.0
        one = ctypes.c_int64(1)
        unthreaded = routine("axpby", out.dtype.char) if A.size < SUM_OF_SEVERAL else None
        found = unthreaded or routine("axpy", out.dtype.char)
        before = (ctypes.c_int64(A.size), _argument(self._scale), ctypes.c_void_p(A.ctypes.data), one)
        after = (ctypes.c_void_p(out.ctypes.data), one)
        self._call = found and partial(found, *before, *([_argument(keep)] if unthreaded else []), *after)

    def add(self, scale: float = 1.0) -> None:
        """Add ``scale`` times A."""
        if self._call is None:
            A, out = self._arrays
            out += A if scale == 1.0 else scale * A
            return
        self._scale.value = scale
        self._call()


def _argument(number: Any) -> Any:
    """``number`` as it is passed: complex ones by where they are."""
    return ctypes.byref(number) if isinstance(number, Complex) else number


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


def _unpacked(A: Array, B: Array) -> list[slice]:
    """The pieces of A's rows by which A B is made soonest; none: as a whole."""
    rows = UNPACKED // max(1, B.size) // UNPACKED_ROWS * UNPACKED_ROWS
    if A.dtype != np.float32 or not LEAST_UNPACKED_ROWS <= rows < len(A):
        return []
    in_lines = A.ctypes.data % LINE == UNPACKED_ROWS * A.strides[0] % LINE == 0
    if not in_lines or _major(A) != ROW_MAJOR or _major(B) != COLUMN_MAJOR or not _unpacks():
        return []
    return [slice(first, min(first + rows, len(A))) for first in range(0, len(A), rows)]


def _unpacks() -> bool:
    """Whether BLAS is an OpenBLAS that takes small matrices as they are, and has one thread."""
    for each in OPENBLAS_NAMES:
        with suppress(AttributeError, TypeError):
            core, threads = (_library()[each.format(name)] for name in ("get_corename", "get_num_threads"))
            core.restype = ctypes.c_char_p
            return core() in AVX_512 and threads() == 1
    return False


def _major(matrix: Array) -> int:
    """Whether the rows of ``matrix`` are without gaps, or its columns."""
    if matrix.strides[1] == matrix.itemsize:
        return ROW_MAJOR
    if matrix.strides[0] == matrix.itemsize:
        return COLUMN_MAJOR
    raise ValueError("rows and columns of a matrix have gaps")


def _leading(matrix: Array) -> int:
    """The entries from one row, or column, of ``matrix`` to the next."""
    across = 0 if _major(matrix) == ROW_MAJOR else 1
    count, length = matrix.shape[across], matrix.shape[1 - across]
    return matrix.strides[across] // matrix.itemsize if count > 1 else max(1, length)


@lru_cache
def routine(name: str, dtype: str) -> Routine | None:
    """BLAS's ``gemm``, ``gemv``, ``axpy`` or ``axpby`` for a dtype's letter, as C sees it; None where there is none."""
    for each in NAMES:
        with suppress(AttributeError, TypeError):
            found: Routine = _library()[each.format(LETTERS[dtype] + name)]
            return found
    return None


@lru_cache
def _library() -> Any:
    """What has numpy's BLAS: what a library of numpy's links to is found through it. None where it can't be opened."""
    module = sys.modules.get("numpy._core._multiarray_umath") or sys.modules["numpy.core._multiarray_umath"]
    try:
        return ctypes.CDLL(str(module.__file__))
    except OSError:
        return None
