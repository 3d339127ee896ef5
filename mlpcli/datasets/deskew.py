"""Deskewing: handwriting is made upright by the moments of its pixels, with ``data.preprocessing: deskew``.

An image I(x, y), x to the right and y down, has the mass m = sum I, the centre (xbar, ybar) = (sum I x, sum I y) / m
and the central moments mu11 = sum I (x - xbar) (y - ybar) and mu02 = sum I (y - ybar)^2. Its slant is
k = mu11 / mu02 pixels per row, the slope of the regression of x on y. Each row is moved back by the slant:

    I'(x, y) = I(x + k (y - ybar), y)

So mu11' = 0, the principal axes are vertical and horizontal, and the centre does not move. Between two pixels of a row
the image is linear, outside it is 0. An image with nonzero pixels in at most one row has no slant and does not change.

LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document recognition", III A, who call it
deslanting: it "shears the image by horizontally shifting the lines so that the principal axis is vertical". Meier,
Ciresan, Gambardella, Schmidhuber 2011, "Better digit recognition with a committee of simple neural nets", also use it.

    N images of D = h w pixels
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Pixels processed at a time, so that all arrays fit into a core's cache.
BLOCK_PIXELS = 1 << 16
# Minimum vertical variance in square pixels: below, all strokes are in one row, except for rounding.
MIN_VARIANCE = 1e-9


def preprocessed(images: Array, shape: tuple[int, int], preprocessing: str | None) -> Array:
    """Return ``images`` (N, D) of ``shape`` (h, w) after ``data.preprocessing``."""
    return deskewed(images, shape) if preprocessing == "deskew" else images


def deskewed(images: Array, shape: tuple[int, int]) -> Array:
    """Make each of ``images`` (N, D) of ``shape`` (h, w) upright: bytes are rounded, other types are kept.

    The result is read-only. For bytes, each image's result is independent of the others, bit for bit.
    """
    h, w = shape
    out = np.empty_like(images, order="C")
    rows = max(1, BLOCK_PIXELS // (h * w))
    # Background on both sides, wide enough for a row to move anywhere.
    padded = np.zeros((rows, h, 3 * w + 1))
    for start in range(0, len(images), rows):
        block = images[start : start + rows].reshape(-1, h, w).astype(np.float64)
        padded[: len(block), :, w : 2 * w] = block
        upright = _moved(padded, *moments(block)).reshape(len(block), -1)
        out[start : start + rows] = np.floor(upright + 0.5) if images.dtype == np.uint8 else upright
    out.flags.writeable = False
    return out


def moments(images: Array) -> tuple[Array, Array]:
    """Return the slant k (B,) and the centre's row ybar (B,) of ``images`` (B, h, w) float64; k is 0 without slant.

    Sums of whole numbers are exact, and sums over rows have a fixed order: a browser computes the same bits.
    """
    rows, columns = (np.arange(size, dtype=np.float64) for size in images.shape[1:])
    ink = images.sum(axis=2)  # (B, h), of each row
    first = images @ columns  # (B, h), its first moment
    mass = ink.sum(axis=1)
    middle = ink @ rows / np.where(mass > 0, mass, 1.0)
    mu11, mu02 = np.zeros((2, len(images)))
    for y in rows:
        above = y - middle
        mu11 += above * first[:, int(y)]  # sum I (x - xbar) (y - ybar): xbar times the sum of I (y - ybar) is 0
        mu02 += above * above * ink[:, int(y)]
    slanted = mu02 > MIN_VARIANCE * mass
    return np.where(slanted, mu11 / np.where(slanted, mu02, 1.0), 0.0), middle


def _moved(padded: Array, k: Array, middle: Array) -> Array:
    """Return the B images in the middle of ``padded`` (>= B, h, 3 w + 1), rows moved by k (y - ybar): (B, h, w)."""
    _, h, wide = padded.shape
    w = wide // 3
    shift = k[:, None] * (np.arange(h) - middle[:, None])  # (B, h)
    np.clip(shift, -w, w, out=shift)  # farther away there is only background
    whole = np.floor(shift)
    # In each row, the w + 1 pixels between which its w new ones lie.
    starts = np.arange(shift.size) * wide + w + whole.ravel().astype(np.intp)
    pixels = np.lib.stride_tricks.sliding_window_view(padded.reshape(-1), w + 1)[starts]
    left, right = pixels[:, :-1], pixels[:, 1:]
    moved: Array = left + (shift - whole).reshape(-1, 1) * (right - left)
    return moved
