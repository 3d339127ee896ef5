"""Images shifted by a pixel, over which a network's probabilities can be averaged.

N images of D = h w pixels
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# (rows down, columns to the right), by the number of shifts: the neighbours of a pixel at the sides, then the corners.
SIDES = ((-1, 0), (0, -1), (0, 1), (1, 0))
CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
SHIFTS = {0: (), 4: SIDES, 8: (*SIDES, *CORNERS)}


def with_shifts(images: Array, shape: tuple[int, int], shifts: int) -> Iterator[Array]:
    """Yield ``images`` (N, D) of ``shape`` (h, w), then moved by each of their ``shifts`` shifts: none, 4 or 8."""
    yield images
    for down, right in SHIFTS[shifts]:
        yield shifted(images, shape, down, right)


def shifted(images: Array, shape: tuple[int, int], down: int, right: int) -> Array:
    """Return ``images`` (N, D) of ``shape`` (h, w), moved; 0, the background, where there was nothing."""
    h, w = shape
    before = images.reshape(-1, h, w)
    after = np.zeros_like(before)
    after[:, max(down, 0) : h + min(down, 0), max(right, 0) : w + min(right, 0)] = before[
        :, max(-down, 0) : h + min(-down, 0), max(-right, 0) : w + min(-right, 0)
    ]
    return after.reshape(images.shape)
