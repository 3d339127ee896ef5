"""The rules that convert numbers of any type to pixels, which are bytes, and to labels, which are whole numbers.

    pixels   whole numbers from 0 to 255 are unchanged; true and false become 255 and 0; floating-point numbers are
             multiplied by 255 if all of a file are in 0 .. 1, or by 256 if all are k / 256 below 1, as in
             mnist.pkl.gz; unchanged if all are in 0 .. 255; then rounded
    labels   whole numbers, also in a floating-point type. A table with more than one column, all 0 and 1, has several
             labels per image: a column per class, with 1 for each true class. Of any other table the first column is
             used

Anything else is refused: its meaning would be a guess.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mlpcli.errors import DataError, shown

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

Element = TypeVar("Element", bound=np.generic)

MAX_SIDE = 100_000
BLOCK = 1 << 20  # elements converted at a time


def as_array(values: Any, where: str) -> Array:
    """Return ``values``, which may be of any type, as an array.

    Raises ``DataError``, its message opening with ``where``, if numpy cannot convert them or elements are masked.
    """
    if _has_masked(values) or (isinstance(values, (list, tuple)) and any(map(_has_masked, values))):
        raise DataError(f"{where}: has masked elements, whose values are unknown; fill them, or leave these images out")
    try:
        return np.asarray(values)
    except Exception as error:  # anything that __array__ of another library raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{where}: not an array: {shown(reason, 200)}") from None


def _has_masked(values: Any) -> bool:
    # Of arrays only those of numpy.ma, whose import takes time, have a mask.
    return isinstance(values, np.ndarray) and bool(np.any(getattr(values, "mask", False)))


def to_bytes(values: Array, where: str) -> Bytes:
    """Convert ``values`` of any shape to read-only bytes by the rule for pixels; bytes are not copied.

    Raises ``DataError``, its message opening with ``where``.
    """
    if values.dtype == np.uint8:
        return _read_only(values)
    if values.dtype.kind not in "biuf":
        raise DataError(f"{where}: pixels are numbers; these are {values.dtype}")
    if values.dtype.kind == "b":
        return _read_only(values.astype(np.uint8) * np.uint8(255))
    flat = values.reshape(-1)
    blocks = [flat[start : start + BLOCK] for start in range(0, len(flat), BLOCK)]
    low = float(min((block.min() for block in blocks), default=0))
    high = float(max((block.max() for block in blocks), default=0))
    if any(np.isnan(block).any() for block in blocks):
        raise DataError(f"{where}: pixels are numbers from 0 to 255, or from 0 to 1; there is a NaN")
    if low < 0 or high > 255:
        raise DataError(f"{where}: pixels are numbers from 0 to 255, or from 0 to 1; these go from {low:g} to {high:g}")
    if values.dtype.kind != "f":
        return _read_only(values.astype(np.uint8))
    scale = 1.0
    if high <= 1:
        # k / 255 is of the form n / 256 only for 0 and 1.
        scale = 256.0 if high < 1 and all(_whole(block.astype(np.float64) * 256) for block in blocks) else 255.0
    out = np.empty(len(flat), np.uint8)
    for start, block in zip(range(0, len(flat), BLOCK), blocks, strict=True):
        out[start : start + BLOCK] = np.rint(block.astype(np.float64) * scale)
    return _read_only(out.reshape(values.shape))


def _whole(values: Array) -> bool:
    return bool((values == np.rint(values)).all())


def to_labels(values: Array, where: str) -> Array:
    """Convert ``values`` (N,) or (N, C) to whole numbers (N,), or to bytes 0 and 1 (N, C); bytes are not copied.

    Raises ``DataError``, its message opening with ``where``.
    """
    if values.ndim == 2 and values.shape[1] > 1 and values.dtype.kind in "biuf" and _zeros_and_ones(values):
        return _read_only(np.ascontiguousarray(values, np.uint8))
    column = values if values.ndim == 1 else values[:, 0]
    if column.dtype == np.uint8:
        return _read_only(np.ascontiguousarray(column))
    if column.dtype.kind not in "biuf":
        raise DataError(f"{where}: labels are whole numbers; these are {values.dtype}")
    with np.errstate(invalid="ignore"):
        whole = column.astype(np.int64)
    if not (whole == column).all():
        wrong = int(np.flatnonzero(whole != column)[0])
        raise DataError(f"{where}: labels are whole numbers; that of image {wrong} is {column[wrong]}")
    return _read_only(whole)


def _zeros_and_ones(values: Array) -> bool:
    rows = max(1, BLOCK // values.shape[1])
    return all(np.isin(values[start : start + rows], (0, 1)).all() for start in range(0, len(values), rows))


def as_images(values: Array, where: str, size: tuple[int, ...] | None) -> Array:
    """Return ``values`` (N, h, w), (N, h, w, 1), (N, 1, h, w) or (N, h w) as (N, h, w), not copied.

    For rows of numbers (h, w) is ``size``, or else a square. Raises ``DataError``.
    """
    shape = values.shape
    if len(shape) == 4 and 1 in (shape[1], shape[3]):
        shape = (shape[0], shape[2], shape[3]) if shape[1] == 1 else shape[:3]
    elif len(shape) == 2:
        rows, columns = image_shape(shape[1], where, size)
        shape = (shape[0], rows, columns)
    if len(shape) != 3:
        kind = "; make them grey" if len(shape) == 4 and 3 in shape else ""
        raise DataError(
            f"{where}: images are (N, rows, columns) or (N, pixels); these are {_words(values.shape)}{kind}"
        )
    if 0 in shape:
        raise DataError(f"{where}: is empty: its shape is {_words(values.shape)}")
    if max(shape[1:]) > MAX_SIDE:
        raise DataError(f"{where}: its images have {_words(shape[1:])} pixels; at most {MAX_SIDE} a side are read")
    return values.reshape(shape)


def image_shape(pixels: int, where: str, size: tuple[int, ...] | None) -> tuple[int, int]:
    """Return rows and columns of an image of ``pixels`` pixels: ``size``, or a square's. Raises ``DataError``."""
    side = math.isqrt(pixels)
    rows, columns = size or (side, side)
    if rows * columns != pixels or not pixels:
        hint = f"data.size is {rows} x {columns}" if size else "give data.size: [rows, columns]"
        raise DataError(f"{where}: {pixels} pixels per image are not a square; {hint}")
    return rows, columns


def _read_only(array: npt.NDArray[Element]) -> npt.NDArray[Element]:
    view = array[...]
    view.flags.writeable = False
    return view


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single value"
