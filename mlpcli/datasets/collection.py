"""The interface of all readers of formats: labelled images, each split of which is read separately."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlpcli.datasets import idx
from mlpcli.datasets.catalogue import FILE_NAMES, Role
from mlpcli.errors import DataError

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

FileSplit = Literal["train", "test"]  # of files, which do not define validation images
ROLES_OF: Mapping[FileSplit, tuple[Role, Role]] = {
    "train": ("train_images", "train_labels"),
    "test": ("test_images", "test_labels"),
}
MAX_CLASSES = 256  # a label is a byte
MAX_NAME = 100  # characters
MAX_ENTRIES = 1_000_000  # in a folder


@dataclass(frozen=True, eq=False)
class Examples:
    """Images (N, h, w), uint8, and their labels (N,), whole numbers; ``names[label]`` is the name of a label.

    With several labels per image, ``labels`` are (N, K), uint8: 1 for each true class. Without ``names`` the name of a
    label is its number.
    """

    images: Bytes
    labels: Array
    names: Mapping[int, str] | None = None

    def __len__(self) -> int:
        return len(self.labels)


NO_IMAGES = np.empty((0, 1, 1), np.uint8)


class Collection:
    """Labelled images in some files. A reader of a format derives from it and defines the first three methods.

    ``name`` is its name in messages; ``class_names`` is set if the classes are known without reading; ``transposed`` is
    true if rows and columns are swapped in the files; ``pictures`` is true if its images are pictures, which
    ``data.centre`` is for; ``unused`` is a note about images in them that are not read.
    ``hashes`` maps the role's name in the catalogue of each file read to the SHA-256 of its contents as IDX: the same
    images have the same hashes in any format.
    """

    class_names: tuple[str, ...] | None = None
    transposed: bool = False
    pictures: bool = False
    unused: str | None = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.hashes: dict[str, str] = {}

    def prepare(self, split: FileSplit) -> bool:
        """Return True if ``split`` exists, without reading images. Raises ``DataError`` for half of one."""
        raise NotImplementedError

    def missing(self, split: FileSplit) -> str:
        """Return why ``split`` does not exist, and a remedy."""
        raise NotImplementedError

    def _examples(self, split: FileSplit) -> Examples:
        """Read the images and labels of ``split``. Raises ``DataError``."""
        raise NotImplementedError

    def labels(self, split: FileSplit) -> Examples:
        """Read the labels of ``split``, without the images if that is cheaper. Raises ``DataError``."""
        return self._examples(split)

    def read(self, split: FileSplit) -> Examples:
        """Read the images and labels of ``split``, of at most 256 classes. Raises ``DataError``."""
        found = self._examples(split)
        if len(found.images) != len(found.labels):
            raise DataError(f"{self.name}: {len(found.images)} images and {len(found.labels)} labels ({split})")
        classes, indices = distinct(found.labels)
        count = found.labels.shape[1] if found.labels.ndim == 2 else len(classes)
        if count > MAX_CLASSES:
            raise DataError(f"{self.name}: {count} different labels; at most {MAX_CLASSES} classes are allowed")
        images, labels = (FILE_NAMES[role] for role in ROLES_OF[split])
        if images not in self.hashes:
            numbers = indices if classes[0] < 0 or classes[-1] > 255 else found.labels  # a table has 0 and 1
            self.hashes[images] = idx.digest(found.images)
            self.hashes[labels] = idx.digest(numbers.astype(np.uint8, copy=False))
        return found


def distinct(labels: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """Return the different ``labels`` in order, and the index of each label among them."""
    if labels.dtype != np.uint8:
        return np.unique(labels, return_inverse=True)
    # np.unique imports numpy.ma, which takes a fifth of the time of numpy's own import.
    counts = np.bincount(labels.ravel(), minlength=1)
    values = np.flatnonzero(counts)
    index = np.zeros(len(counts), np.intp)
    index[values] = np.arange(len(values))
    return values.astype(np.uint8), index[labels]


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of ``folder`` by name, without hidden files. Raises ``DataError``."""
    found = []
    try:
        with os.scandir(folder) as listing:
            for entry in listing:
                if not entry.name.startswith((".", "__MACOSX")):
                    found.append(entry)
                if len(found) > MAX_ENTRIES:
                    raise DataError(f"{shown(folder)}: has more than {MAX_ENTRIES:,} files, which are not read")
    except (OSError, ValueError) as error:
        raise DataError(f"{shown(folder)}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return sorted(found, key=lambda entry: entry.name)


def is_file(entry: os.DirEntry[str]) -> bool:
    """Return True if ``entry`` is a regular file, or a link to one."""
    try:
        return entry.is_file()
    except OSError:  # links that lead in a circle
        return False


def is_folder_entry(entry: os.DirEntry[str]) -> bool:
    """Return True if ``entry`` is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def shown(path: Path | str) -> str:
    """Return ``path`` as one printable line, for any bytes."""
    return readable(str(path))


def readable(text: str) -> str:
    """Return ``text``, a file's name or from a file, with unprintable characters replaced."""
    return printable(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def printable(text: str) -> str:
    """Return ``text`` with unprintable characters replaced, all lone surrogates among them."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def in_order(names: set[str]) -> list[str]:
    """Sort ``names``: as numbers if all of them are whole numbers, else as text."""
    if all(name.isascii() and name.isdecimal() and len(name) < 19 for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)
