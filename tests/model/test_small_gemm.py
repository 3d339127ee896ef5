"""Row blocks cover a matrix once, if they save time."""

from __future__ import annotations

import numpy as np
import pytest

from mlpcli.model import small_gemm
from mlpcli.model.memory import aligned
from mlpcli.model.small_gemm import MAX_MNK, MIN_ROWS, row_blocks, uses_small_kernels


@pytest.fixture
def _avx_512(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_gemm, "uses_small_kernels", lambda: True)


def matrices(m: int, k: int, n: int, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    return aligned((m, k), dtype), aligned((n, k), dtype).T


@pytest.mark.usefixtures("_avx_512")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("m", [1, 43, 44, 45, 1000])
def test_blocks_cover_all_rows_in_order(m: int, dtype: str):
    A, B = matrices(m, 784, 29, dtype)
    blocks = row_blocks(A, B)
    assert [row for block in blocks for row in range(m)[block]] == list(range(m))
    rows = max(len(range(m)[block]) for block in blocks)
    assert rows * 784 * 29 <= MAX_MNK
    if len(blocks) > 1:
        assert rows >= MIN_ROWS
        assert all(A[block].ctypes.data % 64 == 0 for block in blocks)


@pytest.mark.usefixtures("_avx_512")
def test_products_without_gain_are_one_block():
    A, B = matrices(1000, 784, 29)
    assert len(row_blocks(A, B)) > 1
    for X, Y in (
        matrices(40, 784, 29),  # small enough
        matrices(1000, 784, 100),  # blocks would have too few rows
        (np.asfortranarray(A), B),
        (A, np.ascontiguousarray(B)),
        (aligned((1000, 785), "float32")[:, 1:], B),
    ):
        assert row_blocks(X, Y) == [slice(0, len(X))]


def test_one_block_without_small_kernels(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(small_gemm, "uses_small_kernels", lambda: False)
    assert row_blocks(*matrices(1000, 784, 29)) == [slice(0, 1000)]


@pytest.mark.parametrize(
    ("core", "threads", "expected"), [(b"SkylakeX", 1, True), (b"SkylakeX", 2, False), (b"Haswell", 1, False)]
)
def test_small_kernels_are_those_of_avx_512_with_one_thread(
    monkeypatch: pytest.MonkeyPatch, core: bytes, threads: int, expected: bool
):
    functions = {"openblas_get_corename": lambda: core, "openblas_get_num_threads": lambda: threads}
    monkeypatch.setattr(small_gemm, "library", lambda: Functions(functions))
    assert uses_small_kernels() is expected


class Functions(dict[str, object]):
    """A library: it has no function under another name, and says so as ctypes does."""

    def __missing__(self, name: str):
        raise AttributeError(name)


def test_unknown_library_has_no_small_kernels(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(small_gemm, "library", lambda: None)
    assert uses_small_kernels() is False
