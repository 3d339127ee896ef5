"""Decoding of pictures to grey pixels, white strokes on black, of their own size or scaled to another."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlpcli.config import DataConfig
from mlpcli.datasets.collection import Bytes, shown
from mlpcli.datasets.images import MAX_BYTES, from_bytes, read_light, scaled
from mlpcli.errors import DataError
from mlpcli.files import read


def read_picture(source: Path | bytes, data: DataConfig, where: str = "") -> Bytes:
    """Read the picture in a file, or in bytes called ``where`` in messages, by ``data.size`` and ``data.centre``.

    Raises as :func:`decode_picture` and :func:`centre_picture` do.
    """
    size = data.image_shape
    return centre_picture(source, size, where) if data.centre and size else decode_picture(source, size, where)


def decode_picture(source: Path | bytes, size: tuple[int, int] | None, where: str = "") -> Bytes:
    """Read the pixels (h, w) of a picture in a file, or in bytes called ``where`` in messages; scale to ``size``.

    As ``mlpcli predict --raw`` reads it: transparent pixels are black. Scaling averages. Raises ``DataError``, and
    ``UsageError`` without Pillow.
    """
    data, where = _bytes_of(source, where)
    light, _ = read_light(data, where, raw=True)
    if size is not None and light.shape != size:
        light = scaled(light, size)
    pixels: Bytes = np.rint(light).astype(np.uint8)
    return pixels


def centre_picture(source: Path | bytes, size: tuple[int, int], where: str = "") -> Bytes:
    """Cut out, scale and centre the picture in ``size`` (h, w) as ``mlpcli predict`` does, white strokes on black.

    Raises ``DataError``, also for a blank picture, and ``UsageError`` without Pillow.
    """
    data, where = _bytes_of(source, where)
    found = from_bytes(data, where, size, raw=False)
    if found.blank.any():
        raise DataError(f"{where}: is blank: it shows no class")
    pixels: Bytes = found.pixels[0]
    return pixels


def _bytes_of(source: Path | bytes, where: str) -> tuple[bytes, str]:
    """Return the bytes of the file ``source``, or ``source``, and their name in messages. Raises ``DataError``."""
    if isinstance(source, bytes):
        return source, where
    where = where or shown(source)
    try:
        return read(source, MAX_BYTES), where
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
