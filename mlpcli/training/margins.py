"""The columns of a batch before its first and after its last nonzero pixel: handwriting leaves the margins free.

Of 32 of MNIST's images a tenth of the pixels comes before the first nonzero one or after the last.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Margins are multiples of a vector register: small products of matrices that begin in between take 1.5 times as long.
MARGIN_ALIGNMENT = 16
IMAGES_AT_A_TIME = 64  # they stay in a core's cache


class Margins:
    """The first and last nonzero pixel of each of the ``images`` (N, D)."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        count, self._width = images.shape
        kind = np.min_scalar_type(-(-self._width // MARGIN_ALIGNMENT))
        self._first, self._last = np.empty(count, kind), np.empty(count, kind)  # in units of MARGIN_ALIGNMENT
        for start in range(0, count, IMAGES_AT_A_TIME):
            part = slice(start, start + IMAGES_AT_A_TIME)
            nonzero = images[part] != 0
            self._first[part] = nonzero.argmax(axis=1) // MARGIN_ALIGNMENT
            end = self._width - nonzero[:, ::-1].argmax(axis=1)
            self._last[part] = -(-end // MARGIN_ALIGNMENT)

    def columns(self, batches: Array) -> list[list[int]]:
        """Return [first, last + 1] of the columns that may be nonzero in each of ``batches`` (n, B), indices."""
        first, last = self._first[batches].min(axis=1), self._last[batches].max(axis=1)
        ends = np.minimum(MARGIN_ALIGNMENT * last.astype(np.intp), self._width)
        columns: list[list[int]] = np.stack([MARGIN_ALIGNMENT * first.astype(np.intp), ends], axis=1).tolist()
        return columns
