"""Gemm and Axpy against numpy's arithmetic, with and without BLAS."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.model import blas, small_gemm
from mlpcli.model.blas import Axpy, Gemm
from mlpcli.model.input import Input
from mlpcli.model.memory import aligned

Array = np.ndarray
DTYPES = ("float32", "float64", "complex128")


@pytest.fixture(params=["blas", "numpy"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "numpy":
        monkeypatch.setattr(blas, "routine", lambda name, dtype: None)
    elif blas.routine("gemm", "f") is None:
        pytest.skip("numpy's BLAS exports no names here")


def integers(random: Any, shape: tuple[int, ...], dtype: str, layout: str = "rows") -> Array:
    """Return small integers, whose sums are exact, as rows of a wider matrix, as a copy, or as columns."""
    wide = random.integers(-4, 5, (shape[0], *(length + 3 for length in shape[1:]))).astype(dtype)
    if dtype == "complex128":
        wide += 1j * random.integers(-4, 5, wide.shape)
    part = wide[:, 1 : 1 + shape[1]] if len(shape) == 2 else wide
    if layout == "tight":
        return np.ascontiguousarray(part)
    return np.asfortranarray(part) if layout == "columns" else part


layouts = st.sampled_from(["rows", "columns", "tight"])
lengths = st.integers(1, 9)
seeds = st.integers(0, 2**32)
FACTORS = ((1.0, 0.0), (-0.5, 0.25), (2.0, 1.0))


@given(lengths, lengths, lengths, st.sampled_from(DTYPES), layouts, layouts, st.booleans(), seeds)
@pytest.mark.usefixtures("library")
def test_gemm_is_beta_C_plus_alpha_AB(m, k, n, dtype, of_A, of_B, transposed, seed):
    random = np.random.default_rng(seed)
    A, B = integers(random, (m, k), dtype, of_A), integers(random, (k, n), dtype, of_B)
    C = integers(random, (n, m), dtype).T if transposed else integers(random, (m, n), dtype)
    around, before = C.base.copy(), C.copy()
    gemm = Gemm(A, B, C)
    for alpha, beta in FACTORS:
        C[...] = before
        gemm(alpha, beta)
        assert np.array_equal(C, beta * before + alpha * (A @ B))
    C[...] = before
    assert np.array_equal(C.base, around), "something beside C has changed"
    gemm()
    assert np.array_equal(C, A @ B)


@given(lengths, lengths, lengths, st.sampled_from(DTYPES), layouts, seeds, st.data())
@pytest.mark.usefixtures("library")
def test_gemm_skips_zero_columns_of_an_input(m, k, n, dtype, layout, seed, data):
    """For x W and x^T dz, and for several inputs with different zero columns. Skipped columns are not even read."""
    random = np.random.default_rng(seed)
    x, W, dz = (integers(random, shape, dtype, layout) for shape in ((m, k), (k, n), (m, n)))
    z, dW = integers(random, (m, n), dtype), integers(random, (k, n), dtype, layout)
    X = Input(x, 0.5)
    forward, backward = Gemm(X, W, z), Gemm(X.T, dz, dW)
    for alpha, beta in (*FACTORS, (2.0, 1.0)):
        columns = sorted(data.draw(st.tuples(st.integers(0, k), st.integers(0, k))))
        X.columns[:] = columns
        nonzero = np.zeros_like(x)
        nonzero[:, slice(*columns)] = x[:, slice(*columns)]
        expected = beta * z + alpha * 0.5 * (nonzero @ W), beta * dW + alpha * 0.5 * (nonzero.T @ dz)
        forward(alpha, beta)
        backward(alpha, beta)
        assert np.array_equal(z, expected[0])
        assert np.array_equal(dW, expected[1])


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("dtype", DTYPES)
def test_gemm_with_beta_0_overwrites_nan_and_inf(dtype):
    x, W, dz = np.ones((3, 2), dtype), np.ones((2, 4), dtype), np.ones((3, 4), dtype)
    z, dW = np.full((3, 4), np.nan, dtype), np.full((2, 4), np.inf, dtype)
    X = Input(x)
    forward, backward = Gemm(X, W, z), Gemm(X.T, dz, dW)
    for columns, value, rows in (([0, 2], 2, [3, 3]), ([1, 2], 1, [0, 3]), ([1, 1], 0, [0, 0])):
        z[...], dW[...], X.columns[:] = np.nan, np.inf, columns
        forward()
        backward()
        assert (z == value).all()
        assert np.array_equal(dW, np.repeat([rows], 4, axis=0).T)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("dtype", DTYPES)
def test_gemm_of_empty_matrices(dtype):
    C = np.full((3, 4), 2, dtype)
    Gemm(np.ones((3, 0), dtype), np.ones((0, 4), dtype), C)(1.0, 0.5)
    assert np.array_equal(C, np.ones((3, 4)))
    Gemm(Input(np.ones((0, 3), dtype)).T, np.ones((0, 4), dtype), C)(1.0, 0.5)
    assert np.array_equal(C, np.full((3, 4), 0.5))
    Gemm(np.ones((0, 2), dtype), np.ones((2, 4), dtype), np.ones((0, 4), dtype))()
    Gemm(np.ones((3, 2), dtype), np.ones((2, 0), dtype), np.ones((3, 0), dtype))()


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_products_equal_numpys(dtype):
    random = np.random.default_rng(0)
    A, B = random.normal(size=(200, 300)).astype(dtype), random.normal(size=(300, 100)).astype(dtype)
    C = random.normal(size=(200, 100)).astype(dtype)
    expected = 0.9 * C.astype("float64") - 0.01 * (A.astype("float64") @ B)
    Gemm(A, B, C)(-0.01, 0.9)
    np.testing.assert_allclose(C, expected, atol=30 * np.finfo(dtype).eps)


@given(st.integers(1, 40), st.integers(2, 9), st.integers(2, 9), st.integers(1, 400), layouts, seeds, st.data())
def test_gemm_in_row_blocks_is_the_same(m, k, n, most, layout, seed, data):
    random = np.random.default_rng(seed)
    A, B = aligned((m, 16), "float32")[:, :k], integers(random, (k, n), "float32", "columns")
    A[...] = random.integers(-4, 5, A.shape)
    C = integers(random, (m, n), "float32", layout)
    X = Input(A)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_gemm, "MAX_MNK", most)
        patch.setattr(small_gemm, "MIN_ROWS", 1)
        patch.setattr(small_gemm, "uses_small_kernels", lambda: True)
        gemm = Gemm(X, B, C)
    before = C.copy()
    gemm(2.0, 1.0)
    assert np.array_equal(C, before + 2 * (A @ B))
    X.columns[:] = first, last = sorted(data.draw(st.tuples(st.integers(0, k), st.integers(0, k))))
    gemm()
    assert np.array_equal(C, A[:, first:last] @ B[first:last])


@pytest.mark.parametrize(
    ("A", "B", "C"),
    [
        (np.ones((3, 2)), np.ones((2, 4)), np.ones((4, 3))),
        (np.ones((3, 2)), np.ones((3, 4)), np.ones((3, 4))),
        (np.ones((3, 2), "float32"), np.ones((2, 4)), np.ones((3, 4))),
        (np.ones((6, 6))[::2, ::2], np.ones((3, 4)), np.ones((3, 4))),
        (np.ones((3, 2)), np.ones((2, 4)), np.ones((3, 8))[:, ::2]),
    ],
)
def test_gemm_refuses_what_does_not_fit(A, B, C):
    with pytest.raises(ValueError, match=r"no product of|are contiguous"):
        Gemm(A, B, C)


@given(
    st.sampled_from([0, 1, 7, 10_001, blas.AXPY_MIN_THREADED - 1, blas.AXPY_MIN_THREADED, 70_000]),
    st.sampled_from(DTYPES),
    seeds,
)
@pytest.mark.usefixtures("library")
def test_axpy_adds_alpha_x(count, dtype, seed):
    random = np.random.default_rng(seed)
    x, around = (integers(random, (length,), dtype) for length in (count, count + 2))
    before = around.copy()
    axpy = Axpy(x, around[1:-1])
    for alpha in (1.0, -0.5, 0.0, 2.0):
        axpy(alpha)
    assert np.array_equal(around[1:-1], before[1:-1] + 2.5 * x)
    assert np.array_equal(around[[0, -1]], before[[0, -1]])


@pytest.mark.usefixtures("library")
def test_axpy_of_matrices():
    x, y = np.arange(6.0).reshape(2, 3), np.ones((2, 3))
    Axpy(x, y)(-2.0)
    assert np.array_equal(y, 1 - 2 * x)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.ones(3), np.ones(4)),
        (np.ones((3, 2)), np.ones(6)),
        (np.ones(3, "float32"), np.ones(3)),
        (np.ones(6)[::2], np.ones(3)),
        (np.ones((2, 3)).T, np.ones((3, 2))),
    ],
)
def test_axpy_refuses_what_does_not_fit(x, y):
    with pytest.raises(ValueError, match=r"no sum of|must be contiguous"):
        Axpy(x, y)


@pytest.mark.skipif(os.name != "posix", reason="elsewhere the names of linked libraries are not found through a module")
def test_numpys_wheels_export_their_blas():
    name = np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
    if name != "scipy-openblas":
        pytest.skip(f"this numpy was built on {name}")
    assert all(blas.routine(routine, char) for routine in ("gemm", "gemv", "axpy", "axpby") for char in "fd")
    assert blas.routine("gemm", "D") is None


@pytest.mark.parametrize("dtype", ["int64", "float16"])
def test_other_dtypes_are_refused(dtype):
    A = np.ones((2, 2), dtype)
    with pytest.raises(ValueError, match="no product of"):
        Gemm(A, A, A.copy())
    with pytest.raises(ValueError, match="no sum of"):
        Axpy(A[0], A[1])
