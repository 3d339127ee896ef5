"""A name of the catalogue, or a folder, to a data set: arrays of bytes, split, with the hashes of what was read.

The pixels stay the bytes of the files, and every array here is a read-only view on them, so that loading MNIST takes
the memory of its files and no more; or they are what ``data.preprocessing`` makes of them, where it is for training. A
name of the catalogue means the catalogue's data set even where a folder of that
name exists; ``./mnist`` means the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from mlpcli.config import DataConfig
from mlpcli.datasets import idx
from mlpcli.datasets.catalogue import CATALOGUE, FILE_NAMES, Entry, File, Role
from mlpcli.datasets.deskew import preprocessed
from mlpcli.datasets.download import Downloader, Progress, Say, find, silent
from mlpcli.datasets.source import is_folder, named_path
from mlpcli.errors import DataError, UnavailableError, shown

BUNDLED = Path(__file__).parent / "sample"
TRAIN: tuple[Role, Role] = ("train_images", "train_labels")
TEST: tuple[Role, Role] = ("test_images", "test_labels")

Bytes = npt.NDArray[np.uint8]
SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True, eq=False)
class Split:
    """Images ``(N, D)``, one a row, and their labels ``(N,)``: uint8, C-contiguous, read-only."""

    images: Bytes
    labels: Bytes

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set as training wants it: its images are what ``data.preprocessing`` makes of those in the files.

    ``hashes`` has file name -> SHA-256 of the decoded bytes of each file read.
    """

    name: str
    image_shape: tuple[int, int]
    classes: int
    train: Split
    validation: Split | None
    hashes: dict[str, str]
    fallback_from: str | None
    _read_test: Callable[[], Split] = field(repr=False)

    def test(self) -> Split:
        """Open, verify and read the test files, now and not before. Raises ``DataError``."""
        return self._read_test()

    def without_test(self) -> Dataset:
        """The same, to be sent to another process: where there are no files, and so no test set."""
        return replace(self, _read_test=_no_test)


@dataclass(frozen=True, eq=False)
class Part:
    """One split of a data set, its images as in the files, for what does its own preprocessing or none.

    ``classes`` are the catalogue's, or for a folder as many as the files read show.
    """

    name: str
    image_shape: tuple[int, int]
    classes: int
    split: Split
    hashes: dict[str, str]
    fallback_from: str | None


def load_dataset(data: DataConfig, *, say: Say = silent, progress: Progress | None = None) -> Dataset:
    """The data set that ``data`` describes, its missing files fetched, those of the test set too if ``data.test``.

    The test files are not opened here. Raises ``UnavailableError`` when files cannot be had, unless ``data.fallback``
    names what to use then; ``DataError`` when they are damaged or do not fit together; ``RunError`` when the data
    folder cannot be used.
    """

    def load(data: DataConfig) -> Dataset:
        files = _Files(data, say, progress)
        files.prepare(TRAIN)
        if data.test:
            files.prepare(TEST)
        everything, shape = files.read(*TRAIN)
        classes = files.classes(everything)
        everything = _preprocessed(everything, shape, data)
        train, validation = _hold_out(everything, data.validation, files.name)

        def test() -> Split:
            split, test_shape = files.read(*TEST)
            if test_shape != shape:
                raise DataError(
                    f"{files.name}: the test images are of {_size(test_shape)} pixels, the training images of "
                    f"{_size(shape)}"
                )
            _check_labels(split, classes, files.name)
            return _preprocessed(split, shape, data)

        return Dataset(files.name, shape, classes, train, validation, files.hashes, None, test)

    return _with_fallback(load, data, say)


def _no_test() -> Split:
    raise DataError("the test files are not here")


def load_split(data: DataConfig, split: SplitName, *, say: Say = silent, progress: Progress | None = None) -> Part:
    """One split of what ``data`` describes, from only the files it needs. Raises as :func:`load_dataset` does."""

    def load(data: DataConfig) -> Part:
        files = _Files(data, say, progress)
        roles = TEST if split == "test" else TRAIN
        files.prepare(roles)
        wanted, shape = files.read(*roles)
        classes = files.classes(wanted)
        if split != "test":
            train, validation = _hold_out(wanted, data.validation, files.name)
            if split == "validation" and validation is None:
                raise DataError(f"{files.name}: there are no validation images: data.validation is 0")
            wanted = validation if split == "validation" and validation is not None else train
        return Part(files.name, shape, classes, wanted, files.hashes, None)

    return _with_fallback(load, data, say)


def locate(dataset: str, folder: str | Path) -> tuple[Entry | None, Path]:
    """The catalogue's entry for ``dataset``, or None for a folder of the user's, and the folder its files are in.

    Raises ``DataError`` when it is neither.
    """
    entry = CATALOGUE.get(dataset)
    if entry is not None:
        return entry, BUNDLED if entry.bundled else named_path(str(folder)) / entry.name
    path = named_path(dataset)
    if is_folder(path):
        return None, path
    near = get_close_matches(dataset, CATALOGUE, 1)
    hint = f"did you mean {near[0]}?" if near else f"the data sets are {', '.join(CATALOGUE)}"
    raise DataError(f"{shown(dataset)}: neither a data set nor a folder; {hint}")


def is_there(folder: Path, file: File) -> bool:
    """Whether ``file`` is in ``folder``, by its name and its size alone. Raises ``DataError`` if it cannot be seen."""
    try:
        path = find(folder, file.name)
        # What a .gz holds is not known before it is read.
        return path is not None and (path.suffix == ".gz" or path.stat().st_size == file.size)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from None


class _Files:
    """The four files of a data set, each read once and verified; what is missing or damaged is fetched."""

    def __init__(self, data: DataConfig, say: Say, progress: Progress | None) -> None:
        self.entry, self.folder = locate(data.dataset, data.folder)
        self.name = self.entry.name if self.entry else self.folder.resolve().name
        self.hashes: dict[str, str] = {}
        self._downloader: Downloader | None = None
        if self.entry and not self.entry.bundled:
            self._downloader = Downloader(
                self.entry, self.folder, sources=data.sources, offline=data.offline, say=say, progress=progress
            )

    def prepare(self, roles: Sequence[Role]) -> None:
        """See that the files are there, by name and size alone, and fetch those that are not."""
        missing = [role for role in roles if not self._is_there(role)]
        if missing and self._downloader:
            self._downloader.fetch(missing)
        elif missing:
            name = FILE_NAMES[missing[0]]
            raise DataError(
                f"{self.folder / name}: not there, nor with .gz; a data set folder has the files "
                f"{', '.join(FILE_NAMES.values())}"
            )

    def read(self, images: Role, labels: Role) -> tuple[Split, tuple[int, int]]:
        """The images and labels of two files, and the images' rows and columns. Raises ``DataError``."""
        pixels, answers = self._read(images, 3), self._read(labels, 1)
        count, rows, columns = pixels.shape
        if len(answers) != count:
            raise DataError(
                f"{self.folder}: {FILE_NAMES[images]} has {count} images and {FILE_NAMES[labels]} {len(answers)} labels"
            )
        return Split(pixels.reshape(count, rows * columns), answers), (rows, columns)

    def classes(self, split: Split) -> int:
        """The catalogue's number of classes; for a folder as many as the largest label of ``split`` asks for."""
        return self.entry.classes if self.entry else int(split.labels.max()) + 1

    def _is_there(self, role: Role) -> bool:
        if self.entry is None:
            return self._find(role) is not None
        return is_there(self.folder, self.entry.files[role])

    def _find(self, role: Role) -> Path | None:
        try:
            return find(self.folder, FILE_NAMES[role])
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be read ({error.strerror})") from None

    def _read(self, role: Role, dimensions: int) -> Bytes:
        try:
            return self._read_verified(role, dimensions)
        except DataError:
            if self._downloader is None:
                raise
            self._downloader.fetch([role])
        return self._read_verified(role, dimensions)

    def _read_verified(self, role: Role, dimensions: int) -> Bytes:
        path = self._find(role)
        if path is None:
            raise DataError(f"{self.folder / FILE_NAMES[role]}: not there any more")
        array, digest = idx.read(path, dimensions)
        if self.entry and digest != self.entry.files[role].sha256:
            raise DataError(f"{path}: does not verify: its SHA-256 is not that of {self.name}")
        self.hashes[FILE_NAMES[role]] = digest
        return array


_Loaded = TypeVar("_Loaded", Dataset, Part)


def _with_fallback(load: Callable[[DataConfig], _Loaded], data: DataConfig, say: Say) -> _Loaded:
    try:
        return load(data)
    except UnavailableError as error:
        if data.fallback is None:
            raise
        say(f"{error}\nusing {data.fallback} instead of {data.dataset}, as data.fallback says")
        return replace(load(replace(data, dataset=data.fallback)), fallback_from=data.dataset)


def _preprocessed(split: Split, shape: tuple[int, int], data: DataConfig) -> Split:
    return replace(split, images=preprocessed(split.images, shape, data.preprocessing))


def _hold_out(split: Split, validation: float, name: str) -> tuple[Split, Split | None]:
    """``split`` without its last images, and those; ``validation`` is their share, or from 1 up their number."""
    if validation == 0:
        return split, None
    count = round(validation * len(split)) if validation < 1 else int(validation)
    if not 0 < count < len(split):
        raise DataError(
            f"{name}: data.validation {validation:g} would hold out {count} of {len(split)} training images; "
            f"at least one must be held out (or data.validation be 0) and at least one be left"
        )
    kept = len(split) - count
    return Split(split.images[:kept], split.labels[:kept]), Split(split.images[kept:], split.labels[kept:])


def _check_labels(split: Split, classes: int, name: str) -> None:
    largest = int(split.labels.max())
    if largest >= classes:
        raise DataError(
            f"{name}: labels outside the classes: the training labels go up to {classes - 1}, a test label is {largest}"
        )


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"
