"""From a name of the catalogue, or a file or folder, to a data set: arrays of bytes, split, with hashes of the files.

Pixels stay the bytes of the files. If the files have bytes, every array is a read-only view of them, so loading MNIST
takes the memory of its files and no more. For training, ``data.preprocessing`` makes new arrays. A name of the
catalogue means the catalogue's data set even if a folder of that name exists; ``./mnist`` means the folder.
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
from mlpcli.datasets import hold_out
from mlpcli.datasets.catalogue import CATALOGUE, FILE_NAMES, Entry, File, Role
from mlpcli.datasets.classes import Classes, classes_of, compared, indices, renamed
from mlpcli.datasets.collection import ROLES_OF, Array, Collection, Examples, FileSplit
from mlpcli.datasets.deskew import preprocessed
from mlpcli.datasets.download import Downloader, Progress, Say, find, silent
from mlpcli.datasets.idx_files import IdxFiles
from mlpcli.datasets.memory import ARRAYS
from mlpcli.datasets.source import is_folder, named_path
from mlpcli.datasets.upright import upright
from mlpcli.errors import DataError, UnavailableError, shown

BUNDLED = Path(__file__).parent / "sample"

Bytes = npt.NDArray[np.uint8]
SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True, eq=False)
class Split:
    """Images ``(N, D)``, one per row, and their labels ``(N,)``: uint8, C-contiguous, read-only.

    With several labels per image, labels are ``(N, K)``, 1 for each true class.
    """

    images: Bytes
    labels: Bytes

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def multi_label(self) -> bool:
        """Return True if an image may have several labels."""
        return self.labels.ndim == 2


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set for training: its images are preprocessed by ``data.preprocessing``.

    Labels are indices in ``class_names``; ``labels`` are the classes' labels in the files if these are others.
    ``hashes`` maps the name of each file read to the SHA-256 of its decoded bytes, or of its contents as IDX.
    ``has_test`` is false if there are no test images, or they are not to be used.
    """

    name: str
    image_shape: tuple[int, int]
    classes: int
    train: Split
    validation: Split | None
    hashes: dict[str, str]
    fallback_from: str | None
    _read_test: Callable[[], Split] = field(repr=False)
    class_names: tuple[str, ...] = ()
    labels: tuple[str, ...] | None = None
    has_test: bool = True

    @property
    def training_hashes(self) -> dict[str, str]:
        """Return the hashes of the training files, whether or not the test files have been read too."""
        names = [FILE_NAMES[role] for role in ROLES_OF["train"]]
        return {name: self.hashes[name] for name in names if name in self.hashes}

    def test(self) -> Split:
        """Open, verify and read the test files, only when called. Raises ``DataError``."""
        return self._read_test()

    def without_test(self) -> Dataset:
        """Return a copy without a test set, for another process, which has no files."""
        return replace(self, _read_test=_no_test)


@dataclass(frozen=True, eq=False)
class Part:
    """One split of a data set, its images as in the files, without preprocessing.

    Labels are indices in ``class_names``: those requested, the catalogue's, or those in the files.
    """

    name: str
    image_shape: tuple[int, int]
    classes: int
    split: Split
    hashes: dict[str, str]
    fallback_from: str | None
    class_names: tuple[str, ...] = ()


def load_dataset(
    data: DataConfig,
    seed: int = 0,
    *,
    given: Collection | None = None,
    pickles: bool = False,
    say: Say = silent,
    progress: Progress | None = None,
) -> Dataset:
    """Load the data set described by ``data``; missing files are fetched, of the test set too if ``data.test``.

    The test files are not opened here. ``given`` replaces the files; its test images are hashed at once. With
    ``pickles`` a pickle of arrays is read too. ``seed`` draws the validation images if ``data.validation_order`` is
    random. Raises ``UnavailableError`` when files cannot be fetched and there is no ``data.fallback``; ``DataError``
    when they are damaged or do not fit together; ``RunError`` when the data folder cannot be used.
    """

    def load(data: DataConfig) -> Dataset:
        files = given or open_collection(data, say, progress, pickles=pickles)
        _require(files, "train")
        has_test = data.test and files.prepare("test")
        if data.test and not has_test:
            say(f"{files.missing('test')}; there will be no test error")
        if files.unused:
            say(files.unused)
        found = files.read("train")
        size, there = data.image_shape, found.images.shape[1:]
        if size is not None and there != size:
            raise DataError(
                f"{files.name}: the images have {_size(there)} pixels, and data.size is {_size(size)}; leave it out"
            )
        if data.centre and not files.pictures:
            raise DataError(f"{files.name}: data.centre is for pictures, and these images are none; leave it out")
        classes = _classes(files, found, data)
        if has_test and files.class_names is None:
            _compare_classes(files, classes, say)
        if has_test and given is not None:
            files.read("test")  # hashed now, as a run that is resumed could be given other arrays
        everything, shape = _split(found, indices(found, classes.labels, files.name, "training"), files, data, say)
        everything = _preprocessed(everything, shape, data)
        train, validation = held_out(everything, data, seed, files.name)

        def test() -> Split:
            found = files.read("test")
            labels = indices(found, classes.labels, files.name, "test")
            split, test_shape = _split(found, labels, files, data, silent)
            if split.multi_label != train.multi_label:
                raise DataError(f"{files.name}: either the training or the test labels have one class each")
            if test_shape != shape:
                raise DataError(
                    f"{files.name}: the test images have {_size(test_shape)} pixels, the training images {_size(shape)}"
                )
            return _preprocessed(split, shape, data)

        return Dataset(
            name=files.name,
            image_shape=shape,
            classes=len(classes.names),
            train=train,
            validation=validation,
            hashes=files.hashes,
            fallback_from=None,
            _read_test=test,
            class_names=classes.names,
            labels=None if classes.labels == classes.names else classes.labels,
            has_test=has_test,
        )

    return _with_fallback(load, data, say)


def _no_test() -> Split:
    raise DataError("the test files are not here")


def load_split(
    data: DataConfig,
    split: SplitName,
    seed: int = 0,
    *,
    classes: Sequence[str] | int | None = None,
    labels: Sequence[str] | None = None,
    whole: bool = False,
    say: Say = silent,
    progress: Progress | None = None,
) -> Part:
    """Load one split of the data described by ``data``, only from the files it needs. Raises as :func:`load_dataset`.

    ``classes`` are the names that labels are indices of, or the number of classes, whose names are numbers; ``labels``
    are their labels in files if these are others. A label of another class is a ``DataError``. With ``whole`` a data
    set with a single split is used as a whole.
    """

    def load(data: DataConfig) -> Part:
        files = open_collection(data, say, progress)
        source: FileSplit = "test" if split == "test" else "train"
        everything = False
        if whole and split == "test" and not files.prepare("test") and files.prepare("train"):
            source, everything = "train", True
            say(f"{files.name}: has no separate test images: all of its images are used")
        _require(files, source)
        found = files.read(source)
        own = _classes(files, found, data, split=source, known=classes)
        if labels is not None and not isinstance(classes, int):
            called = dict(zip(labels, classes or (), strict=True))
            own = replace(own, names=tuple(called.get(label, label) for label in own.labels))
        names, order = own.names, own.labels
        if isinstance(classes, int):
            names = order = tuple(map(str, range(classes)))
            found = replace(found, names=None)
        elif classes is not None:
            names = order = tuple(classes)
            found = renamed(found, own, files.name)
        wanted, shape = _split(found, indices(found, order, files.name, split), files, data, say)
        if split != "test" and not everything:
            train, validation = held_out(wanted, data, seed, files.name)
            if split == "validation" and validation is None:
                raise DataError(f"{files.name}: there are no validation images: data.validation is 0")
            wanted = validation if split == "validation" and validation is not None else train
        return Part(files.name, shape, len(names), wanted, files.hashes, None, names)

    return _with_fallback(load, data, say)


def open_collection(
    data: DataConfig, say: Say = silent, progress: Progress | None = None, *, pickles: bool = False
) -> Collection:
    """Open the labelled images described by ``data``, not yet read; files missing in ``prepare`` are fetched.

    Raises ``DataError`` for an unknown format.
    """
    entry, path = locate(data.dataset, data.folder)
    if entry is None:
        from mlpcli.datasets import detect  # imports the readers, which only data of the user's need

        return detect.open_collection(path, data, say, pickles=pickles)
    downloader = None
    if not entry.bundled:
        downloader = Downloader(entry, path, sources=data.sources, offline=data.offline, say=say, progress=progress)
    return _Verified(entry, path, downloader)


def locate(dataset: str, folder: str | Path) -> tuple[Entry | None, Path]:
    """Return the catalogue's entry for ``dataset``, or None for the user's data, and the path of its files.

    Raises ``DataError`` when it is neither.
    """
    entry = CATALOGUE.get(dataset)
    if entry is not None:
        return entry, BUNDLED if entry.bundled else named_path(str(folder)) / entry.name
    if dataset == ARRAYS:
        raise DataError(
            "the run was trained on arrays of a Python program, and there are no files of them: name data with "
            "--data, or resume it by mlpcli.resume(run, data=(X, y), test=(X, y))"
        )
    from mlpcli.datasets import detect

    path = named_path(dataset)
    if detect.exists(path):
        return None, path
    near = get_close_matches(dataset, CATALOGUE, 1)
    hint = f"did you mean {near[0]}?" if near else f"the data sets are {', '.join(CATALOGUE)}"
    raise DataError(f"{shown(dataset)}: neither a data set nor a file or folder; {hint}")


def is_part_of(path: Path, dataset: str, folder: str | Path) -> bool:
    """Return True if there is a file ``path``, and it is where the files of ``dataset`` are."""
    try:
        _, place = locate(dataset, folder)
        if is_folder(place):
            return path.exists() and path.resolve().is_relative_to(place.resolve())
        return path.exists() and path.parent.samefile(place.parent) and path.name.startswith(place.name)
    except (DataError, OSError, ValueError):
        return False


def is_there(folder: Path, file: File) -> bool:
    """Return True if ``file`` is in ``folder``, by name and size alone. Raises ``DataError``."""
    try:
        path = find(folder, file.name)
        # The decoded size of a .gz is unknown before it is read.
        return path is not None and (path.suffix == ".gz" or path.stat().st_size == file.size)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from None


class _Verified(IdxFiles):
    """Four files of a data set of the catalogue; missing files and files that do not verify are fetched."""

    def __init__(self, entry: Entry, folder: Path, downloader: Downloader | None) -> None:
        super().__init__(entry.name, folder, {})
        self.class_names = entry.class_names
        self._entry = entry
        self._downloader = downloader

    def prepare(self, split: FileSplit) -> bool:
        """Check that the files exist, by name and size alone, and fetch missing ones."""
        missing = [role for role in ROLES_OF[split] if not is_there(self.folder, self._entry.files[role])]
        if missing and self._downloader:
            self._downloader.fetch(missing)
        elif missing:
            raise DataError(self._not_there(missing[0]))
        return True

    def _array(self, role: Role, dimensions: int) -> Array:
        try:
            return self._verified(role, dimensions)
        except DataError:
            if self._downloader is None:
                raise
            self._downloader.fetch([role])
        return self._verified(role, dimensions)

    def _verified(self, role: Role, dimensions: int) -> Array:
        file = self._entry.files[role]
        try:
            path = find(self.folder, file.name)
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be read ({error.strerror})") from None
        if path is None:
            raise DataError(f"{self.folder / file.name}: not there any more")
        self.files = {**self.files, role: path}
        array = super()._array(role, dimensions)
        if self.hashes[file.name] != file.sha256:
            raise DataError(f"{path}: does not verify: its SHA-256 is not that of {self.name}")
        return array


_Loaded = TypeVar("_Loaded", Dataset, Part)


def _with_fallback(load: Callable[[DataConfig], _Loaded], data: DataConfig, say: Say) -> _Loaded:
    try:
        return load(data)
    except UnavailableError as error:
        if data.fallback is None:
            raise
        say(f"{error}\nusing {data.fallback} instead of {data.dataset}, as data.fallback requests")
        return replace(load(replace(data, dataset=data.fallback)), fallback_from=data.dataset)


def _require(files: Collection, split: FileSplit) -> None:
    if not files.prepare(split):
        raise DataError(files.missing(split))


def _classes(
    files: Collection,
    found: Examples,
    data: DataConfig,
    *,
    split: FileSplit = "train",
    known: Sequence[str] | int | None = None,
) -> Classes:
    """Return the classes of ``found``, ``split`` of ``files``, with the names that ``data`` gives them."""
    own = classes_of(found, files.name, known=files.class_names)
    names = data.class_names
    if names is None or isinstance(known, int):
        return own
    if len(names) != len(own.labels) and split == "test" and files.prepare("train"):
        # Names are in the order of all labels, but the test images may not have all.
        all_of_them = classes_of(files.read("train"), files.name, names=names)
        called = dict(zip(all_of_them.labels, all_of_them.names, strict=True))
        return Classes(own.labels, tuple(called.get(label, label) for label in own.labels))
    if known is not None and len(names) != len(own.labels):
        return own
    return classes_of(found, files.name, known=files.class_names, names=names)


def _compare_classes(files: Collection, classes: Classes, say: Say) -> None:
    """Check the classes of the test images before training, and warn if some are missing. Raises ``DataError``."""
    try:
        test = files.labels("test")
    except DataError:
        return  # if the test files are still damaged when they are read, that raises
    if remark := compared(test, classes, files.name):
        say(remark)


def _split(
    found: Examples, labels: Bytes, files: Collection, data: DataConfig, say: Say
) -> tuple[Split, tuple[int, int]]:
    """Return the images of ``found``, one per row, upright, with ``labels``; and their rows and columns."""
    images = upright(found.images, files.name, data.transpose, files.transposed, say)
    count, rows, columns = images.shape
    return Split(images.reshape(count, rows * columns), labels), (rows, columns)


def _preprocessed(split: Split, shape: tuple[int, int], data: DataConfig) -> Split:
    return replace(split, images=preprocessed(split.images, shape, data.preprocessing))


def held_out(split: Split, data: DataConfig, seed: int, name: str) -> tuple[Split, Split | None]:
    """Divide ``split`` into training and validation images by ``data``. Raises ``DataError``."""
    count = hold_out.how_many(data.validation, len(split), name)
    if not count:
        return split, None
    if data.validation_order == "file":
        kept = len(split) - count
        return Split(split.images[:kept], split.labels[:kept]), Split(split.images[kept:], split.labels[kept:])
    held = np.zeros(len(split), bool)
    held[hold_out.drawn(split.labels, count, data.validation_order, seed)] = True
    return _taken(split, ~held), _taken(split, held)


def _taken(split: Split, chosen: npt.NDArray[np.bool_]) -> Split:
    images, labels = split.images[chosen], split.labels[chosen]
    images.flags.writeable = labels.flags.writeable = False
    return Split(images, labels)


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"
