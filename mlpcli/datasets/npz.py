"""Arrays in an .npz, such as Keras's mnist.npz: only numbers, never pickled objects.

    x_train y_train x_test y_test                              Keras
    train_images train_labels test_images test_labels          MedMNIST; val_images are not used, with a note
    images labels                                              no test images; also x y, data target

An .npz is a zip archive of .npy files. It is untrusted: the size in a header is compared with the member's bytes in the
file before memory is allocated.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mlpcli.datasets.arrays import as_images, to_bytes, to_labels
from mlpcli.datasets.bytestream import CHUNK_BYTES, MAX_RATIO, open_regular
from mlpcli.datasets.collection import NO_IMAGES, Array, Bytes, Collection, Examples, FileSplit, readable, shown
from mlpcli.errors import DataError

MAX_MEMBERS = 1000
MAX_HEADER = 4096
# Possible names, in lower case: of the images, then of their labels.
NAMES: Mapping[FileSplit, tuple[tuple[str, str], ...]] = {
    "train": (
        ("x_train", "y_train"),
        ("train_images", "train_labels"),
        ("train_x", "train_y"),
        ("images", "labels"),
        ("x", "y"),
        ("data", "target"),
    ),
    "test": (("x_test", "y_test"), ("test_images", "test_labels"), ("test_x", "test_y")),
}
VALIDATION = (("x_val", "y_val"), ("val_images", "val_labels"), ("val_x", "val_y"))


class NpzFile(Collection):
    """Images and labels in the .npz ``path``; rows of numbers are images of ``size``, or square."""

    def __init__(self, path: Path, size: tuple[int, int] | None) -> None:
        super().__init__(path.name)
        self._path = path
        self._size = size
        self._names = array_names(path)
        for images, labels in VALIDATION:
            if images in self._names and labels in self._names:
                self.unused = (
                    f"{self.name}: {images} are not used: data.validation takes the last training images; to validate "
                    f"on {images}, append them and {labels} to the training arrays, and set data.validation to their "
                    "number"
                )

    def prepare(self, split: FileSplit) -> bool:
        """See :meth:`Collection.prepare`."""
        return self._pair(split) is not None

    def missing(self, split: FileSplit) -> str:
        """See :meth:`Collection.missing`."""
        found = ", ".join(map(readable, list(self._names.values())[:12])) or "none"
        return (
            f"{shown(self._path)}: has the arrays {found}; for {split} images it needs {' and '.join(NAMES[split][0])}"
        )

    def images(self) -> Bytes:
        """Return the images to predict, with or without labels: the test images if any. Raises ``DataError``."""
        for split in ("test", "train"):
            for name, _ in NAMES[split]:
                if name in self._names:
                    return self._images(self._names[name])
        if len(self._names) == 1:
            return self._images(*self._names.values())
        raise DataError(self.missing("test"))

    def _examples(self, split: FileSplit) -> Examples:
        pair = self._pair(split)
        if pair is None:
            raise DataError(self.missing(split))
        return Examples(self._images(pair[0]), self._labels(pair[1]))

    def labels(self, split: FileSplit) -> Examples:
        """See :meth:`Collection.labels`."""
        pair = self._pair(split)
        return self._examples(split) if pair is None else Examples(NO_IMAGES, self._labels(pair[1]))

    def _labels(self, name: str) -> Array:
        where = f"{shown(self._path)}: {readable(name)}"
        answers = read_array(self._path, name)
        found = to_labels(answers, where) if 0 < answers.ndim < 3 and answers.size else None
        if found is None or (found.ndim == 1 and answers.shape[1:] not in ((), (1,))):
            raise DataError(
                f"{where}: labels are (N,) whole numbers, or (N, K) of 0 and 1; these are "
                f"{' x '.join(map(str, answers.shape))}"
            )
        return found

    def _images(self, name: str) -> Bytes:
        where = f"{shown(self._path)}: {readable(name)}"
        return to_bytes(as_images(read_array(self._path, name), where, self._size), where)

    def _pair(self, split: FileSplit) -> tuple[str, str] | None:
        """Return the names of the arrays of ``split`` in the file."""
        for images, labels in NAMES[split]:
            if images in self._names and labels in self._names:
                return self._names[images], self._names[labels]
        return None


def array_names(path: Path) -> dict[str, str]:
    """Return the names of the arrays in the .npz ``path``: in lower case -> unchanged. Raises ``DataError``."""
    with _opened(path) as file, _archive(file, path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        return {name.lower(): name for name in names}


def read_array(path: Path, name: str) -> Array:
    """Read the array ``name`` of the .npz ``path``, read-only. Raises ``DataError``.

    Memory is the array's size, which is at most that of its bytes in the file, or 1032 times that if compressed.
    """
    where = f"{shown(path)}: {readable(name)}"
    try:
        with _opened(path) as file, _archive(file, path) as archive:
            member = archive.getinfo(f"{name}.npy")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
                raise DataError(f"{where}: is compressed or encrypted in an unsupported way; save it again")
            with archive.open(member) as opened:
                dtype, shape, fortran = _header(opened, where)
                ratio = MAX_RATIO if member.compress_type == zipfile.ZIP_DEFLATED else 1
                size = math.prod(shape) * dtype.itemsize
                if size > member.compress_size * ratio:
                    raise DataError(
                        f"{where}: its header promises {size} bytes, too many for its {member.compress_size} in the "
                        "file; get the file again"
                    )
                data = _filled(opened, size, where)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error) as error:
        raise DataError(f"{where}: is damaged ({str(error)[:80] or type(error).__name__}); get it again") from None
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{where}: cannot be read ({getattr(error, 'strerror', None) or str(error)[:80]})") from None
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    array.flags.writeable = False
    return array


def _opened(path: Path) -> BinaryIO:
    try:
        return open_regular(path)
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read ({error.strerror or error})") from None


def _archive(file: BinaryIO, path: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error, EOFError):
        raise DataError(f"{shown(path)}: is not a zip archive, or is damaged; get the file again") from None
    if len(archive.namelist()) > MAX_MEMBERS:
        raise DataError(f"{shown(path)}: has more than {MAX_MEMBERS} members, the limit")
    return archive


def _header(file: Any, where: str) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """Return type, shape and order of the .npy that ``file`` begins with. Raises ``DataError``."""
    try:
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = reader(file, max_header_size=MAX_HEADER)
    except Exception:  # numpy raises almost anything for damaged bytes
        raise DataError(f"{where}: is not an array as numpy saves it; get the file again") from None
    if dtype.hasobject:
        raise DataError(f"{where}: has pickled objects, which are not read; save numbers")
    if dtype.kind not in "biuf" or dtype.shape or any(side < 0 for side in shape):
        raise DataError(f"{where}: is an array of {dtype}; images and labels are numbers")
    return dtype, shape, fortran


def _filled(file: Any, size: int, where: str) -> bytearray:
    """Read the last ``size`` bytes of ``file``. Raises ``DataError`` if it has more or fewer."""
    try:
        data = bytearray(size)
    except (MemoryError, OverflowError):
        raise DataError(f"{where}: its {size} bytes do not fit in memory") from None
    view, filled = memoryview(data), 0
    while filled < size and (count := file.readinto(view[filled : filled + CHUNK_BYTES])):
        filled += count
    if filled < size or file.read(1):
        raise DataError(f"{where}: does not have the {size} bytes its header promises; get the file again")
    return data
