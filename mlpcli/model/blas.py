"""C <- beta C + alpha A B and y <- y + alpha x, planned for fixed arrays: BLAS's gemm, gemv and axpy.

``numpy.matmul`` calls the same gemm with alpha = 1 and beta = 0, except for very small matrices. With the other two a
sum of products needs no pass over memory of its own. Where numpy's BLAS does not export its names (on Windows, for
one), and for complex numbers, numpy makes the product and then adds it; a run's ``manifest.json`` says so.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any

from numpy.typing import NDArray

from mlpcli.model.input import Input
from mlpcli.model.small_gemm import library, row_blocks

Array = NDArray[Any]
Routine = Callable[..., None]

# As numpy's own wheels name the routines, as other builds with 64-bit integers do, and as all others do. 64-bit Linux
# passes each integer in a register or in eight bytes of the stack, so that 64-bit arguments are right for 32-bit ones.
IS_LINUX64 = sys.platform == "linux" and ctypes.sizeof(ctypes.c_void_p) == 8
NAMES = ("scipy_cblas_{}64_", "cblas_{}64_", *(["cblas_{}"] if IS_LINUX64 else []))
PREFIX = {"f": "s", "d": "d"}
DTYPES = "fdD"  # float32, float64, complex128
CTYPE: dict[str, Any] = {"f": ctypes.c_float, "d": ctypes.c_double}

# Above this many entries OpenBLAS's axpy, which is threaded, beats its axpby, which is not.
AXPY_MIN_THREADED = 32_768

ROW_MAJOR, COLUMN_MAJOR, NO_TRANS, TRANS = 101, 102, 111, 112  # as CBLAS numbers them


class Gemm:
    """C <- beta C + alpha A B for fixed arrays A (M, K), B (K, N), C (M, N), planned once, as FFTW plans a transform.

    A may be an :class:`Input`: its scale is applied and its zero columns are skipped. Each matrix is contiguous by rows
    or by columns, and all have one dtype; raises ``ValueError`` if not, or if the shapes do not fit. A single row is
    multiplied by gemv, which is faster.
    """

    def __init__(self, A: Array | Input, B: Array, C: Array) -> None:
        self.input = A if isinstance(A, Input) else None
        self.scale, self.transposed = 1.0, False
        if isinstance(A, Input):
            self.scale, self.transposed, A = A.scale, A.transposed, A.matrix
        if not A.dtype == B.dtype == C.dtype or C.dtype.char not in DTYPES:
            raise ValueError(f"no product of {A.dtype} and {B.dtype} for {C.dtype}")
        if (len(A), B.shape[1]) != C.shape or A.shape[1] != len(B):
            raise ValueError(f"no product of {A.shape} and {B.shape} for {C.shape}")
        self.arrays = A, B, C
        self.nonzero = 0, len(A) if self.transposed else len(B)  # the rows or columns of A that are multiplied
        self.columns: list[int] = []  # of the input, as they were when ``nonzero`` was set
        self.plans: list[Any] = []
        # Empty arrays have no usable strides.
        is_row = self.input is None and len(A) == 1
        name = "gemv" if is_row else "gemm"
        if (blas := routine(name, C.dtype.char)) is not None and A.size and B.size:
            self.alpha, self.beta = CTYPE[C.dtype.char](), CTYPE[C.dtype.char]()
            blocks = [slice(0, len(A))] if self.transposed else row_blocks(A, B)
            if is_row:
                self.plans = [_GemvPlan(blas, self.alpha, A[0], B, self.beta, C[0])]
            else:
                self.plans = [_GemmPlan(blas, self.alpha, A[rows], B, self.beta, C[rows]) for rows in blocks]
        self.calls = [plan.run for plan in self.plans]

    def __call__(self, alpha: float = 1.0, beta: float = 0.0) -> None:
        """Compute C <- beta C + alpha A B."""
        if self.input is not None:
            self._skip_zero_columns(self.input, beta)
        if self.calls:
            self.alpha.value, self.beta.value = alpha * self.scale, beta
            for call in self.calls:
                call()
            return
        A, B, C = self.arrays
        if self.input is not None:
            part = slice(*self.nonzero)
            A, B, C = (A[part], B, C[part]) if self.transposed else (A[:, part], B[part], C)
        product = A @ B
        product *= alpha * self.scale
        C[...] = beta * C + product if beta else product

    def _skip_zero_columns(self, X: Input, beta: float) -> None:
        """Multiply the nonzero columns of the input alone: a smaller K, or for its transpose a smaller M.

        The rows of C that a smaller M leaves out are multiplied by ``beta`` here.
        """
        if X.columns != self.columns:
            self.columns, self.nonzero = X.columns.copy(), X.nonzero_columns()
            for plan in self.plans:
                plan.move(*self.nonzero, self.transposed)
        if self.transposed and beta != 1.0:
            first, last = self.nonzero
            for margin in (self.arrays[2][:first], self.arrays[2][last:]):
                margin[...] = beta * margin if beta else 0.0


class _GemmPlan:
    """One call of gemm; its ctypes arguments are made once, as making them takes longer than a small product."""

    def __init__(self, gemm: Routine, alpha: Any, A: Array, B: Array, beta: Any, C: Array) -> None:
        order, integer, kind = _order(C), ctypes.c_int64, ctypes.c_int
        self.m, self.k = integer(len(C)), integer(len(B))
        self.start, self.strides = (A.ctypes.data, B.ctypes.data, C.ctypes.data), (A.strides, B.strides, C.strides)
        self.a, self.b, self.c = map(ctypes.c_void_p, self.start)
        lda, ldb, ldc = (integer(_leading_dimension(matrix)) for matrix in (A, B, C))
        transposes = [NO_TRANS if _order(matrix) == order else TRANS for matrix in (A, B)]
        kinds = map(kind, (order, *transposes))
        n = integer(C.shape[1])
        self.run = partial(gemm, *kinds, self.m, n, self.k, alpha, self.a, lda, self.b, ldb, beta, self.c, ldc)

    def move(self, first: int, last: int, transposed: bool) -> None:
        """Multiply A's columns from ``first`` to ``last`` alone, or its rows if A is the transpose of an input."""
        (a, b, c), (A, B, C) = self.start, self.strides
        if transposed:
            self.m.value, self.a.value, self.c.value = last - first, a + first * A[0], c + first * C[0]
        else:
            self.k.value, self.a.value, self.b.value = last - first, a + first * A[1], b + first * B[0]


class _GemvPlan:
    """One call of gemv: c <- beta c + alpha B^T a."""

    def __init__(self, gemv: Routine, alpha: Any, a: Array, B: Array, beta: Any, c: Array) -> None:
        integer, kind, pointer = ctypes.c_int64, ctypes.c_int, ctypes.c_void_p
        transposed = _order(B) == ROW_MAJOR
        rows, columns = map(integer, B.shape if transposed else B.shape[::-1])
        self.run = partial(
            gemv,
            kind(ROW_MAJOR),
            kind(TRANS if transposed else NO_TRANS),
            rows,
            columns,
            alpha,
            *(pointer(B.ctypes.data), integer(_leading_dimension(B))),
            *(pointer(a.ctypes.data), integer(a.strides[0] // a.itemsize)),
            beta,
            *(pointer(c.ctypes.data), integer(c.strides[0] // c.itemsize)),
        )


class Axpy:
    """y <- y + alpha x for fixed contiguous arrays of one shape and dtype; raises ``ValueError`` for others."""

    def __init__(self, x: Array, y: Array) -> None:
        if x.dtype != y.dtype or x.shape != y.shape or x.dtype.char not in DTYPES:
            raise ValueError(f"no sum of {x.dtype} {x.shape} and {y.dtype} {y.shape}")
        if not (x.flags.c_contiguous and y.flags.c_contiguous):
            raise ValueError("x and y must be contiguous")
        self.arrays, self.call = (x, y), None
        threaded = x.size >= AXPY_MIN_THREADED
        if (axpy := routine("axpy" if threaded else "axpby", x.dtype.char)) is not None:
            self.alpha, one, stride = CTYPE[x.dtype.char](), CTYPE[x.dtype.char](1.0), ctypes.c_int64(1)
            pointers = [ctypes.c_void_p(array.ctypes.data) for array in self.arrays]
            beta = () if threaded else (one,)
            self.call = partial(
                axpy, ctypes.c_int64(x.size), self.alpha, pointers[0], stride, *beta, pointers[1], stride
            )

    def __call__(self, alpha: float = 1.0) -> None:
        """Compute y <- y + alpha x."""
        if self.call is None:
            x, y = self.arrays
            y += alpha * x
        else:
            self.alpha.value = alpha
            self.call()


def _order(matrix: Array) -> int:
    """Return ``ROW_MAJOR`` if the rows of ``matrix`` are contiguous, ``COLUMN_MAJOR`` if its columns are."""
    if matrix.strides[1] == matrix.itemsize:
        return ROW_MAJOR
    if matrix.strides[0] == matrix.itemsize:
        return COLUMN_MAJOR
    raise ValueError("neither the rows nor the columns of a matrix are contiguous")


def _leading_dimension(matrix: Array) -> int:
    """Return the number of entries from one row, or column, of ``matrix`` to the next."""
    across = 0 if _order(matrix) == ROW_MAJOR else 1
    count, length = matrix.shape[across], matrix.shape[1 - across]
    return matrix.strides[across] // matrix.itemsize if count > 1 else max(1, length)


@lru_cache
def routine(name: str, dtype: str) -> Routine | None:
    """Return BLAS's ``gemm``, ``gemv``, ``axpy`` or ``axpby`` for a dtype's character; None if there is none."""
    for pattern in NAMES if dtype in PREFIX else ():
        with suppress(AttributeError, TypeError):
            found: Routine = library()[pattern.format(PREFIX[dtype] + name)]
            return found
    return None
