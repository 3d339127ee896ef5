"""Products that are added to what is there: against numpy's own, whichever library makes them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.model import blas
from mlpcli.model.blas import Addend, Product
from mlpcli.model.memory import aligned

Array = np.ndarray
DTYPES = ("float32", "float64", "complex128")


@pytest.fixture(params=["blas", "numpy"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """BLAS as it was found, and as if it had not been."""
    if request.param == "numpy":
        monkeypatch.setattr(blas, "routine", lambda name, dtype: None)
    elif blas.routine("gemm", "f") is None:
        pytest.skip("numpy's BLAS is not to be found by name here")


def drawn(random: Any, shape: tuple[int, ...], dtype: str, layout: str = "rows") -> Array:
    """Small whole numbers, of which all sums are exact; ``layout`` says how they lie in memory."""
    wide = random.integers(-4, 5, (shape[0], *(length + 3 for length in shape[1:]))).astype(dtype)
    if dtype == "complex128":
        wide += 1j * random.integers(-4, 5, wide.shape)
    part = wide[:, 1 : 1 + shape[1]] if len(shape) == 2 else wide
    if layout == "tight":
        return np.ascontiguousarray(part)
    return np.asfortranarray(part) if layout == "columns" else part


layouts = st.sampled_from(["rows", "columns", "tight"])
lengths = st.integers(1, 9)


@given(
    lengths,
    lengths,
    lengths,
    st.sampled_from(DTYPES),
    layouts,
    layouts,
    st.booleans(),
    st.integers(0, 2**32),
    st.data(),
)
@pytest.mark.usefixtures("library")
def test_a_product_of_matrices_is_added(m, k, n, dtype, of_A, of_B, turned, seed, data):
    random = np.random.default_rng(seed)
    A, B = drawn(random, (m, k), dtype, of_A), drawn(random, (k, n), dtype, of_B)
    out = drawn(random, (n, m), dtype).T if turned else drawn(random, (m, n), dtype)
    around, before = out.base.copy(), out.copy()
    product = Product(A, B, out)
    for scale, keep in ((1.0, 0.0), (-0.5, 0.25), (2.0, 1.0)):
        out[...] = before
        product.add(scale, keep)
        assert np.array_equal(out, keep * before + scale * (A @ B))
    # Nothing beside it has changed.
    out[...] = before
    assert np.array_equal(out.base, around)

    first, last = sorted(data.draw(st.tuples(st.integers(0, m), st.integers(0, m))))
    only = np.zeros_like(A)
    only[first:last] = A[first:last]
    product.add(-0.5, 0.25, rows=slice(first, last))
    assert np.array_equal(out, 0.25 * before - 0.5 * (only @ B))

    out[...] = before
    start, stop = sorted(data.draw(st.tuples(st.integers(0, k), st.integers(0, k))))
    product.add(2.0, 0.5, inner=slice(start, stop))
    assert np.array_equal(out, 0.5 * before + 2.0 * (A[:, start:stop] @ B[start:stop]))

    out[...] = before
    product.add(2.0, 0.5, rows=slice(first, last), inner=slice(start, stop))
    assert np.array_equal(out, 0.5 * before + 2.0 * (only[:, start:stop] @ B[start:stop]))

    product.add()
    assert np.array_equal(out, A @ B)

    # With the same factors as the time before, and what is not lit left as it is.
    out[...] = before
    product.add(2.0, 1.0, rows=slice(first, last))
    product.add(2.0, 1.0)
    assert np.array_equal(out, before + 2.0 * (only @ B) + 2.0 * (A @ B))


@given(lengths, lengths, st.sampled_from(DTYPES), layouts, st.integers(0, 2**32))
@pytest.mark.usefixtures("library")
def test_a_sum_of_rows_is_added(k, n, dtype, layout, seed):
    random = np.random.default_rng(seed)
    A, B, out = drawn(random, (k,), dtype), drawn(random, (k, n), dtype, layout), drawn(random, (n,), dtype)
    before = out.copy()
    product = Product(A, B, out)
    for scale, keep in ((1.0, 0.0), (-0.5, 0.25)):
        out[...] = before
        product.add(scale, keep)
        assert np.array_equal(out, keep * before + scale * (A @ B))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_kept_may_have_been_anything(dtype):
    A, B = np.ones((3, 2), dtype), np.ones((2, 4), dtype)
    out = np.full((3, 4), np.nan, dtype)
    Product(A, B, out).add()
    assert np.array_equal(out, np.full((3, 4), 2))
    out[...] = np.inf
    Product(A, B, out).add(rows=slice(1, 2))
    assert np.array_equal(out, [[0] * 4, [2] * 4, [0] * 4])
    out[...] = np.nan
    Product(A, B, out).add(inner=slice(1, 1))
    assert not out.any()


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("dtype", DTYPES)
def test_of_no_examples_nothing_is_added(dtype):
    out, b = np.full((3, 4), 2, dtype), np.full(4, 2, dtype)
    Product(np.ones((3, 0), dtype), np.ones((0, 4), dtype), out).add(1.0, 0.5)
    Product(np.ones(0, dtype), np.ones((0, 4), dtype), b).add(1.0, 0.5)
    assert np.array_equal(out, np.ones((3, 4)))
    assert np.array_equal(b, np.ones(4))
    Product(np.ones((0, 2), dtype), np.ones((2, 4), dtype), np.ones((0, 4), dtype)).add()
    Product(np.ones((3, 2), dtype), np.ones((2, 0), dtype), np.ones((3, 0), dtype)).add()
    Product(np.ones(3, dtype), np.ones((3, 0), dtype), np.ones(0, dtype)).add()


@given(
    st.sampled_from([0, 1, 7, 10_000, 10_001, blas.SUM_OF_SEVERAL - 1, blas.SUM_OF_SEVERAL, 70_000]),
    st.sampled_from(DTYPES),
    st.integers(0, 2**32),
)
@pytest.mark.usefixtures("library")
def test_a_vector_is_added_to_another(count, dtype, seed):
    random = np.random.default_rng(seed)
    A, around = (drawn(random, (length,), dtype) for length in (count, count + 2))
    before = around.copy()
    addend = Addend(A, around[1:-1])
    for scale in (1.0, -0.5, 0.0, 2.0):
        addend.add(scale)
    assert np.array_equal(around[1:-1], before[1:-1] + 2.5 * A)
    assert np.array_equal(around[[0, -1]], before[[0, -1]])


@pytest.mark.usefixtures("library")
def test_a_matrix_is_added_to_another():
    A, out = np.arange(6.0).reshape(2, 3), np.ones((2, 3))
    Addend(A, out).add(-2.0)
    assert np.array_equal(out, 1 - 2 * A)


def test_sums_of_what_does_not_fit_are_refused():
    ones = np.ones
    for A, out in (
        (ones(3), ones(4)),
        (ones((3, 2)), ones(6)),
        (ones(3, "float32"), ones(3)),
        (ones(3, int), ones(3, int)),
        (ones(6)[::2], ones(3)),
        (ones((2, 3)).T, ones((3, 2))),
    ):
        with pytest.raises(ValueError, match=r"no sum of|has gaps"):
            Addend(A, out)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_products_are_numpys_but_for_rounding(dtype):
    random = np.random.default_rng(0)
    A, B = random.normal(size=(200, 300)).astype(dtype), random.normal(size=(300, 100)).astype(dtype)
    out = random.normal(size=(200, 100)).astype(dtype)
    expected = 0.9 * out.astype("float64") - 0.01 * (A.astype("float64") @ B)
    Product(A, B, out).add(-0.01, 0.9)
    np.testing.assert_allclose(out, expected, atol=30 * np.finfo(dtype).eps)


@given(
    st.integers(1, 40),
    st.integers(2, 9),
    st.integers(2, 9),
    st.integers(1, 400),
    layouts,
    st.integers(0, 2**32),
    st.data(),
)
def test_a_product_made_in_pieces_is_the_same(m, k, n, most, layout, seed, data):
    random = np.random.default_rng(seed)
    A, B = aligned((m, 16), "float32")[:, :k], drawn(random, (k, n), "float32", "columns")
    A[...] = random.integers(-4, 5, A.shape)
    out = drawn(random, (m, n), "float32", layout)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blas, "UNPACKED", most)
        patch.setattr(blas, "LEAST_UNPACKED_ROWS", 1)
        patch.setattr(blas, "_unpacks", lambda: True)
        product = Product(A, B, out)
    rows = most // (k * n) // 4 * 4
    assert len(product._pieces) == (-(-m // rows) if 0 < rows < m else 0)
    before = out.copy()
    product.add(2.0, 1.0)
    assert np.array_equal(out, before + 2 * (A @ B))
    first, last = sorted(data.draw(st.tuples(st.integers(0, k), st.integers(0, k))))
    product.add(1.0, 0.0, inner=slice(first, last))
    assert np.array_equal(out, A[:, first:last] @ B[first:last])
    first, last = sorted(data.draw(st.tuples(st.integers(0, m), st.integers(0, m))))
    product.add(1.0, 0.0, rows=slice(first, last))
    assert np.array_equal(out[first:last], A[first:last] @ B)
    assert not out[:first].any() and not out[last:].any()


def test_what_does_not_fit_is_refused():
    ones = np.ones
    for A, B, out in (
        (ones((3, 2)), ones((2, 4)), ones((4, 3))),
        (ones((3, 2)), ones((3, 4)), ones((3, 4))),
        (ones((3, 2)), ones((2, 4)), ones(4)),
        (ones(3), ones((2, 4)), ones(4)),
        (ones((3, 2), "float32"), ones((2, 4)), ones((3, 4))),
        (ones((3, 2), int), ones((2, 4), int), ones((3, 4), int)),
        (ones((6, 6))[::2, ::2], ones((3, 4)), ones((3, 4))),
        (ones((3, 2)), ones((2, 4)), ones((3, 8))[:, ::2]),
    ):
        with pytest.raises(ValueError, match=r"no product of|have gaps"):
            Product(A, B, out)


@pytest.mark.skipif(os.name != "posix", reason="there, libraries that a library links to are not found through it")
def test_numpys_wheels_let_their_blas_be_found():
    name = np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
    if name != "scipy-openblas":
        pytest.skip(f"this numpy was built on {name}")
    assert all(blas.routine(routine, letter) for routine in ("gemm", "gemv", "axpy", "axpby") for letter in "fdD")
