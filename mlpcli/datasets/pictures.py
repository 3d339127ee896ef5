"""Pictures in folders, one folder per class: train/cat/1.png, train/dog/2.png ..., read by Pillow.

    train/CLASS/...  test/CLASS/...     or training, testing; the test pictures may be missing
    CLASS/...                           no test pictures

Pictures are not inverted: strokes must be lighter than the background. They must have one size; with ``data.size`` they
are scaled to it, and with ``data.centre`` cut out and centred in it. A class's folder may have folders of any depth;
links to folders are not followed there. Pictures are ordered by class, then by path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from mlpcli.config import DataConfig
from mlpcli.datasets.collection import (
    MAX_CLASSES,
    MAX_ENTRIES,
    MAX_NAME,
    NO_IMAGES,
    Bytes,
    Collection,
    Examples,
    FileSplit,
    entries,
    in_order,
    is_folder_entry,
    readable,
    shown,
)
from mlpcli.datasets.decode_picture import read_picture
from mlpcli.datasets.download import Say
from mlpcli.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".heic", ".avif")
FOLDERS_OF: Mapping[FileSplit, tuple[str, ...]] = {"train": ("train", "training"), "test": ("test", "testing")}
MAX_LISTED = 8  # folders in a message
MOSTLY_LIGHT = 128  # mean pixel: paper, not ink, where ink is light


class PictureFolders(Collection):
    """Pictures below ``folders``, one folder per split, which has one per class."""

    pictures = True

    def __init__(self, name: str, folders: Mapping[FileSplit, Path], data: DataConfig, say: Say) -> None:
        super().__init__(name)
        self._folders = folders
        self._data = data
        self._say = say

    def prepare(self, split: FileSplit) -> bool:
        """See :meth:`Collection.prepare`."""
        return split in self._folders

    def missing(self, split: FileSplit) -> str:
        """See :meth:`Collection.missing`."""
        return f"{self.name}: has no folder {' or '.join(FOLDERS_OF[split])}"

    def _examples(self, split: FileSplit) -> Examples:
        folders = self._classes(split)
        if len(folders) > MAX_CLASSES:
            raise DataError(
                f"{shown(self._folders[split])}: has {len(folders)} folders of pictures; at most {MAX_CLASSES} classes "
                "are allowed"
            )
        paths = [(path, label) for label, folder in enumerate(folders.values()) for path in pictures_below(folder)]
        if not paths:
            raise DataError(f"{shown(self._folders[split])}: has no pictures")
        images = self._read([path for path, _ in paths])
        if split == "train" and float(images.mean()) > MOSTLY_LIGHT:
            self._say(f"{self.name}: the pictures are mostly light, like paper; strokes should be light, as in MNIST")
        return Examples(images, np.array([label for _, label in paths], np.uint8), dict(enumerate(folders)))

    def labels(self, split: FileSplit) -> Examples:
        """See :meth:`Collection.labels`."""
        folders = self._classes(split)
        return Examples(NO_IMAGES, np.arange(len(folders)), dict(enumerate(folders)))

    def _classes(self, split: FileSplit) -> dict[str, Path]:
        if split not in self._folders:
            raise DataError(self.missing(split))
        return class_folders(self._folders[split])

    def _read(self, paths: list[Path]) -> Bytes:
        images: Bytes | None = None
        for number, path in enumerate(paths):
            image = read_picture(path, self._data)
            if images is None:
                try:
                    images = np.empty((len(paths), *image.shape), np.uint8)
                except MemoryError:
                    raise DataError(f"{self.name}: {len(paths)} pictures do not fit in memory") from None
            if image.shape != images.shape[1:]:
                sizes = [" x ".join(map(str, shape)) for shape in (image.shape, images.shape[1:])]
                raise DataError(
                    f"{shown(path)}: has {sizes[0]} pixels, {shown(paths[0])} {sizes[1]}; "
                    "give a size to scale them to: data.size: [28, 28]"
                )
            images[number] = image
        assert images is not None
        images.flags.writeable = False
        return images


def picture_folders(folder: Path, data: DataConfig, say: Say) -> PictureFolders | None:
    """Return the pictures in ``folder``, if it has the layout of this module. Raises ``DataError``."""
    by_name = {each.name.lower(): Path(each.path) for each in entries(folder) if is_folder_entry(each)}
    found: dict[FileSplit, Path] = {}
    for split, names in FOLDERS_OF.items():
        for name in names:
            if name in by_name and class_folders(by_name[name]):
                found.setdefault(split, by_name[name])
    if not found and (classes := class_folders(folder)):
        _refuse_data_sets(folder, list(classes.values()))
        found["train"] = folder
    return PictureFolders(folder.resolve().name, found, data, say) if found else None


def _refuse_data_sets(folder: Path, classes: Sequence[Path]) -> None:
    """Raise ``DataError`` if ``classes``, the folders in ``folder``, are data sets: those in them are the classes."""
    names = {name for each in FOLDERS_OF.values() for name in each}
    found: list[Path] = []
    for place in classes:
        for parent, folders, _ in os.walk(place):
            if any(name.lower() in names and class_folders(Path(parent, name)) for name in folders):
                found.append(Path(parent))
                folders.clear()
    if not found and len(classes) == 1:
        place = classes[0]
        while next(_below(place)).parent != place:  # no pictures of its own
            inner = list(class_folders(place).values())
            if len(inner) > 1:
                found.append(place)
                break
            place = inner[0]
    if found:
        listed = ", ".join(map(shown, sorted(found)[:MAX_LISTED]))
        raise DataError(f"{shown(folder)}: has no folder per class, but data sets in folders; name one of {listed}")


def class_folders(folder: Path) -> dict[str, Path]:
    """Return the folders in ``folder`` with a picture in or below them, by the class's name, in order."""
    found: dict[str, Path] = {}
    for each in entries(folder):
        if is_folder_entry(each) and next(_below(Path(each.path)), None) is not None:
            name = readable(each.name)[:MAX_NAME]
            if name in found:
                raise DataError(f"{shown(folder)}: two folders have the same printed name: {name}")
            found[name] = Path(each.path)
    return {name: found[name] for name in in_order(set(found))}


def pictures_below(folder: Path) -> list[Path]:
    """Return the pictures in ``folder`` and below it, by their suffixes, in order. Raises ``DataError``."""
    found = []
    for path in _below(folder):
        found.append(path)
        if len(found) > MAX_ENTRIES:
            raise DataError(f"{shown(folder)}: has more than {MAX_ENTRIES:,} pictures, the limit")
    return sorted(found)


def _below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(f"{shown(error.filename or folder)}: cannot be read ({error.strerror or error})") from None

    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in files:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(place, name)
