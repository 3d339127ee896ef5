"""The IDX format: two zero bytes, a type, the number of dimensions, their sizes, then the elements.

    byte 0-1   0, 0
    byte 2     type of an element: 0x08 is an unsigned byte, the only one MNIST uses; ELEMENTS has them all
    byte 3     number of dimensions n
    4n bytes   the size of each, a big-endian 32-bit number
    the rest   the elements, big-endian, the last dimension varying fastest

Source: the description on the page MNIST was published on. Files are untrusted: the sizes in a header are compared with
the size of the file before memory is allocated.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mlpcli.datasets.arrays import to_bytes, to_labels
from mlpcli.datasets.bytestream import GZIP_MAGIC, MAX_RATIO, GunzipError, chunks_of, decoded, open_regular
from mlpcli.errors import DataError

ELEMENTS = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
IMAGES, LABELS = 3, 1  # dimensions

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]


def encode(array: Bytes) -> bytes:
    """Encode ``array`` (uint8, at least one dimension) as IDX."""
    return encoded_header(array) + array.tobytes()


def encoded_header(array: Bytes) -> bytes:
    """Return the header of ``array`` (uint8, at least one dimension) as IDX."""
    if array.dtype != np.uint8 or not 1 <= array.ndim <= 255:
        raise ValueError(f"IDX here is for uint8 arrays of 1 to 255 dimensions, not {array.dtype} of {array.ndim}")
    return struct.pack(f">HBB{array.ndim}I", 0, 0x08, array.ndim, *array.shape)


def digest(array: Bytes) -> str:
    """Return the SHA-256 of ``array`` as IDX."""
    found = hashlib.sha256(encoded_header(array))
    found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def decode(data: bytes | bytearray | memoryview, where: str, dimensions: int) -> Array:
    """Decode the array of ``dimensions`` dimensions in ``data``, read-only: a view if its elements are bytes.

    Images (3 dimensions) become bytes by the rule of :mod:`mlpcli.datasets.arrays`; labels (1) are whole numbers, of a
    table (2) its first column. Raises ``DataError``, beginning with ``where``, when ``data`` is not
    exactly one such array with at least one element.
    """
    view = memoryview(data).toreadonly()
    header = _parsed(bytes(view[: _max_header_bytes(dimensions)]), where, dimensions)
    header.check_length(len(view), where, of=len(view))
    array = np.frombuffer(view, header.dtype, offset=header.size).reshape(header.shape)
    if dimensions == IMAGES:
        return to_bytes(array, where)
    return to_labels(array, where) if dimensions == LABELS else array


def read(path: Path, dimensions: int) -> tuple[Array, str]:
    """Read the IDX file ``path``, plain or gzip (by content): the array, and the SHA-256 of the decoded bytes.

    The file is read once and an array of bytes is a view on the bytes read. Memory is the array's size, which is at
    most the file's, or 1032 times that for gzip. Raises ``DataError`` as :func:`decode` does, and when the file is
    missing, unreadable or not a regular file.
    """
    where = str(path)
    try:
        with open_regular(path) as file:
            data = _read(file, where, dimensions)
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror or error})") from None
    except GunzipError as error:
        raise DataError(f"{where}: {error}; get the file again") from None
    return decode(data, where, dimensions), hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class _Header:
    """A parsed header: the type of the elements, the sizes, and the sizes read as little-endian numbers."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    swapped: tuple[int, ...]

    @property
    def size(self) -> int:
        """Return the size of the header in bytes."""
        return 4 + 4 * len(self.shape)

    @property
    def promised(self) -> int:
        """Return the size of the file in bytes."""
        return self.size + self.dtype.itemsize * math.prod(self.shape)

    def check_length(self, length: int, where: str, *, of: int, complete: bool = True) -> None:
        """Raise ``DataError`` if ``length`` is more than the header gives, or, if ``complete``, less.

        ``of`` is the number of bytes the file may have.
        """
        if length > self.promised:
            raise DataError(f"{where}: is longer than the {self.promised} bytes of its header; get the file again")
        if complete and length < self.promised:
            raise DataError(
                f"{where}: cut short: its header promises {self.promised} bytes, it has {length}; {self.remedy(of)}"
            )

    def remedy(self, max_bytes: int) -> str:
        """Return the remedy for a file that is too short, of at most ``max_bytes`` bytes."""
        swapped = self.size + self.dtype.itemsize * math.prod(self.swapped)
        if self.size < swapped <= max_bytes:
            sizes = " x ".join(map(str, self.swapped))
            return f"its sizes, {sizes}, are little-endian: write them big-endian, as IDX has them"
        return "get the file again"


def _read(file: BinaryIO, where: str, dimensions: int) -> bytearray:
    """Read all of ``file``, decoded, into one buffer of the size its header gives."""
    stream = decoded(chunks_of(file))
    start = bytearray()
    for chunk in stream:
        start += chunk
        if len(start) >= _max_header_bytes(dimensions):
            break
    header = _parsed(bytes(start[: _max_header_bytes(dimensions)]), where, dimensions)
    promised = header.promised

    file_size = os.fstat(file.fileno()).st_size
    compressed = os.pread(file.fileno(), len(GZIP_MAGIC), 0) == GZIP_MAGIC
    max_bytes = file_size * (MAX_RATIO if compressed else 1)
    if promised > max_bytes:
        found = f"{file_size} bytes of gzip" if compressed else f"{file_size}"
        raise DataError(f"{where}: its header promises {promised} bytes, it has {found}; {header.remedy(max_bytes)}")

    try:
        data = bytearray(promised)
    except MemoryError:
        raise DataError(f"{where}: its {promised} bytes do not fit in memory") from None
    header.check_length(len(start), where, of=max_bytes, complete=False)
    data[: len(start)] = start
    filled = len(start)
    for chunk in stream:
        header.check_length(filled + len(chunk), where, of=max_bytes, complete=False)
        data[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    header.check_length(filled, where, of=filled)
    return data


def _max_header_bytes(dimensions: int) -> int:
    return 4 + 4 * (dimensions + (dimensions == LABELS))  # labels may be a table


def _parsed(start: bytes, where: str, dimensions: int) -> _Header:
    """Parse the header in ``start``. Raises ``DataError``."""
    if start[:2] != b"\0\0" or len(start) < 4:
        if start[2:4] == b"\0\0" and start[0] in (1, 2, 3) and start[1] in ELEMENTS:
            raise DataError(f"{where}: its numbers are little-endian: write them big-endian, as IDX has them")
        shown = f"it begins with {start[:4].hex(' ')}" if start else "it is empty"
        raise DataError(f"{where}: not an IDX file ({shown}); get the file again")
    if start[2] not in ELEMENTS:
        known = ", ".join(f"0x{each:02X}" for each in ELEMENTS)
        raise DataError(f"{where}: its elements are of type 0x{start[2]:02x}; the types of IDX are {known}")
    found = start[3]
    if found != dimensions and (dimensions, found) != (LABELS, 2):
        kinds = {1: "labels", 3: "images"}
        raise DataError(
            f"{where}: has {found} dimensions ({kinds.get(found, 'unknown contents')}) instead of {dimensions} "
            f"({kinds.get(dimensions, 'other contents')}); are two files swapped?"
        )
    sizes = start[4 : 4 + 4 * found]
    if len(sizes) < 4 * found:
        raise DataError(f"{where}: ends within its header, after {len(start)} bytes; get the file again")
    shape = struct.unpack(f">{found}I", sizes)
    if 0 in shape:
        raise DataError(f"{where}: is empty: its sizes are {' x '.join(map(str, shape))}; get the file again")
    return _Header(np.dtype(ELEMENTS[start[2]]), shape, struct.unpack(f"<{found}I", sizes))
