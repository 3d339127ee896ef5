"""The input matrix of the first layer: bytes as numbers, a scale, and the columns that may be nonzero."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


class Input:
    """The matrix scale * array (B, D), whose entries outside ``columns`` are zero.

    Pixels stay 0 .. 255 in ``array`` and ``scale`` is 1/255, so that no pass over a batch is needed to scale it.
    ``columns`` is [first, last + 1]. It is set anew for each batch, in place: blocks and transposes share it.
    """

    def __init__(
        self,
        array: Array,
        scale: float = 1.0,
        columns: list[int] | None = None,
        first_column: int = 0,
        transposed: bool = False,
    ) -> None:
        self.array, self.scale, self.first_column, self.transposed = array, scale, first_column, transposed
        self.columns = [0, array.shape[1]] if columns is None else columns

    def block(self, columns: slice) -> Input:
        """Return the matrix of these columns alone."""
        return Input(
            self.array[:, columns], self.scale, self.columns, self.first_column + columns.start, self.transposed
        )

    @property
    def T(self) -> Input:
        """The transpose (D, B)."""
        return Input(self.array, self.scale, self.columns, self.first_column, not self.transposed)

    @property
    def matrix(self) -> Array:
        """The unscaled matrix: ``array``, or its transpose."""
        return self.array.T if self.transposed else self.array

    def nonzero_columns(self) -> tuple[int, int]:
        """Return [first, last + 1] of the columns that may be nonzero, counted from this block's first."""
        first, last = self.columns
        width = self.array.shape[1]
        return min(max(first - self.first_column, 0), width), min(max(last - self.first_column, 0), width)
