"""The IDX format, read and written: two zero bytes, a type, the number of dimensions, their sizes, then the elements.

    byte 0-1   0, 0
    byte 2     type of an element; 0x08 is an unsigned byte, the only one MNIST uses and the only one read here
    byte 3     number of dimensions n
    4n bytes   the size of each, a big-endian 32-bit number
    the rest   the elements, the last dimension varying fastest

Source: the description on the page MNIST was published on. Files come from anywhere, so nothing in them is believed:
a header's promise is held against what the file can hold before memory is taken for it.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from mlpcli.datasets.bytestream import GZIP_MAGIC, MAX_RATIO, GunzipError, chunks_of, decoded, open_regular
from mlpcli.errors import DataError

UNSIGNED_BYTE = 0x08

Bytes = npt.NDArray[np.uint8]


def encode(array: Bytes) -> bytes:
    """``array`` (uint8, at least one dimension) as IDX."""
    if array.dtype != np.uint8 or not 1 <= array.ndim <= 255:
        raise ValueError(f"IDX here is for uint8 arrays of 1 to 255 dimensions, not {array.dtype} of {array.ndim}")
    return struct.pack(f">HBB{array.ndim}I", 0, UNSIGNED_BYTE, array.ndim, *array.shape) + array.tobytes()


def decode(data: bytes | bytearray | memoryview, where: str, dimensions: int) -> Bytes:
    """``data`` as a read-only uint8 array of ``dimensions`` dimensions: a view, no copy.

    Raises ``DataError``, beginning with ``where``, when ``data`` is not exactly one such array with at least one
    element.
    """
    view = memoryview(data).toreadonly()
    shape = _shape(bytes(view[: _header_size(dimensions)]), where, dimensions)
    _check_length(len(view), shape, where)
    return np.frombuffer(view, np.uint8, offset=_header_size(dimensions)).reshape(shape)


def read(path: Path, dimensions: int) -> tuple[Bytes, str]:
    """The array of the IDX file ``path``, plain or gzip (by its content), and the SHA-256 of its decoded bytes.

    The file is read once and the array is a view on the bytes read. Memory is the array's size, which is at most the
    file's, or 1032 times that for gzip. Raises ``DataError`` as :func:`decode` does, and when the file is missing,
    unreadable or not a regular file.
    """
    where = str(path)
    try:
        with open_regular(path) as file:
            data = _read(file, where, dimensions)
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror or error})") from None
    except GunzipError as error:
        raise DataError(f"{where}: {error}; get the file anew") from None
    return decode(data, where, dimensions), hashlib.sha256(data).hexdigest()


def _read(file: BinaryIO, where: str, dimensions: int) -> bytearray:
    """All of ``file``, decoded, in one buffer of the size its header promises."""
    stream = decoded(chunks_of(file))
    start = bytearray()
    for piece in stream:
        start += piece
        if len(start) >= _header_size(dimensions):
            break
    shape = _shape(bytes(start[: _header_size(dimensions)]), where, dimensions)
    promised = _header_size(dimensions) + math.prod(shape)

    file_size = os.fstat(file.fileno()).st_size
    compressed = os.pread(file.fileno(), len(GZIP_MAGIC), 0) == GZIP_MAGIC
    if promised > file_size * (MAX_RATIO if compressed else 1):
        held = f"{file_size} bytes of gzip" if compressed else f"{file_size}"
        raise DataError(f"{where}: its header promises {promised} bytes, it holds {held}; get the file anew")

    try:
        data = bytearray(promised)
    except MemoryError:
        raise DataError(f"{where}: its {promised} bytes do not fit in memory") from None
    _check_length(len(start), shape, where, complete=False)
    data[: len(start)] = start
    filled = len(start)
    for piece in stream:
        _check_length(filled + len(piece), shape, where, complete=False)
        data[filled : filled + len(piece)] = piece
        filled += len(piece)
    _check_length(filled, shape, where)
    return data


def _header_size(dimensions: int) -> int:
    return 4 + 4 * dimensions


def _shape(header: bytes, where: str, dimensions: int) -> tuple[int, ...]:
    """The sizes in ``header``, which is cut to the length it should have. Raises ``DataError``."""
    if header[:2] != b"\0\0" or len(header) < 4:
        shown = f"it begins with {header[:4].hex(' ')}" if header else "it is empty"
        raise DataError(f"{where}: not an IDX file ({shown}); get the file anew")
    if header[2] != UNSIGNED_BYTE:
        raise DataError(f"{where}: its elements are of type 0x{header[2]:02x}; only 0x08, unsigned bytes, can be read")
    if header[3] != dimensions:
        kinds = {1: "labels", 3: "images"}
        raise DataError(
            f"{where}: has {header[3]} dimensions ({kinds.get(header[3], 'unknown contents')}) where {dimensions} "
            f"({kinds.get(dimensions, 'other contents')}) are wanted; are two files swapped?"
        )
    if len(header) < _header_size(dimensions):
        raise DataError(f"{where}: ends within its header, after {len(header)} bytes; get the file anew")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    if 0 in shape:
        raise DataError(f"{where}: holds nothing, its sizes being {' x '.join(map(str, shape))}; get the file anew")
    return shape


def _check_length(length: int, shape: tuple[int, ...], where: str, *, complete: bool = True) -> None:
    """Raise ``DataError`` where ``length`` bytes are more than header and elements need, or, if ``complete``, fewer."""
    promised = _header_size(len(shape)) + math.prod(shape)
    if length > promised:
        raise DataError(f"{where}: goes on beyond the {promised} bytes its header promises; get the file anew")
    if complete and length < promised:
        raise DataError(f"{where}: cut short: its header promises {promised} bytes, it has {length}; get the file anew")
