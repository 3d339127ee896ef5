"""Four IDX files under any of their usual names: MNIST's, EMNIST's, QMNIST's, Kaggle's, torchvision's folders.

    train-images-idx3-ubyte                     as MNIST was published; also with .gz
    train-images.idx3-ubyte                     a dot for a dash, as one of Kaggle's archives has it
    train-images-idx3-ubyte/train-images-...    in a folder of the file's own name
    emnist-letters-test-images-idx3-ubyte.gz    with a prefix; "test" for "t10k"
    qmnist-train-labels-idx2-int                labels as a table, whose first column is the class
    ROOT/MNIST/raw/...                          below torchvision's root

The names of the classes are read from classes.txt, one per line, or from EMNIST's PREFIX-mapping.txt, if there is one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from mlpcli.datasets import idx
from mlpcli.datasets.catalogue import FILE_NAMES, Role
from mlpcli.datasets.classes import MAX_TEXT, emnist_names
from mlpcli.datasets.collection import (
    MAX_NAME,
    NO_IMAGES,
    ROLES_OF,
    Array,
    Collection,
    Examples,
    FileSplit,
    entries,
    is_file,
    is_folder_entry,
    readable,
    shown,
)
from mlpcli.datasets.upright import is_emnist
from mlpcli.errors import DataError
from mlpcli.files import read

CLASSES = "classes.txt"

_NAME = re.compile(
    r"(?P<prefix>.*?)(?P<split>train|t10k|test)[-_.](?P<kind>images|labels)"
    r"([-_.]idx[1-3]?)?([-_.](ubyte|byte|short|int|float|double)\w*)?(\.gz)?",
    re.IGNORECASE | re.DOTALL,
)

Files = dict[Role, Path]


def sets_in(folder: Path) -> dict[str, Files]:
    """Return the data sets in ``folder``: prefix, '' for none -> the file of each role. Raises ``DataError``."""
    candidates: dict[tuple[str, Role], list[Path]] = {}
    for entry in entries(folder):
        found = _NAME.fullmatch(entry.name)
        if found is None:
            continue
        role: Role = f"{'train' if found['split'].lower() == 'train' else 'test'}_{found['kind'].lower()}"  # type: ignore[assignment]
        key = (found["prefix"].lower().rstrip("-_."), role)
        if is_file(entry):
            candidates.setdefault(key, []).append(Path(entry.path))
        elif is_folder_entry(entry):
            inside = [Path(each.path) for each in entries(Path(entry.path)) if is_file(each)]
            same = [path for path in inside if (named := _NAME.fullmatch(path.name)) and named["kind"] == found["kind"]]
            candidates.setdefault(key, []).extend(same)
    sets: dict[str, Files] = {}
    for (prefix, role), paths in candidates.items():
        if paths:
            sets.setdefault(prefix, {})[role] = min(paths, key=lambda path: _rank(path, role))
    return sets


def _rank(path: Path, role: Role) -> tuple[bool, bool, str]:
    """Rank MNIST's own names first, plain files before .gz."""
    return path.name.removesuffix(".gz") != FILE_NAMES[role], path.suffix == ".gz", str(path)


class IdxFiles(Collection):
    """A data set of the files ``files`` in ``folder``."""

    def __init__(self, name: str, folder: Path, files: Mapping[Role, Path], prefix: str = "") -> None:
        super().__init__(name)
        self.folder = folder
        self.files = files
        # EMNIST has the pixel order of NIST's tapes: column by column.
        self.transposed = is_emnist(prefix)
        self._prefix = prefix

    def prepare(self, split: FileSplit) -> bool:
        """See :meth:`Collection.prepare`."""
        there = [role for role in ROLES_OF[split] if role in self.files]
        if len(there) == 1:
            (absent,) = set(ROLES_OF[split]) - set(there)
            raise DataError(self._not_there(absent))
        return bool(there)

    def missing(self, split: FileSplit) -> str:
        """See :meth:`Collection.missing`."""
        return self._not_there(ROLES_OF[split][0])

    def _not_there(self, role: Role) -> str:
        name = FILE_NAMES[role]
        others = [entry.name for entry in entries(self.folder) if Path(entry.path) not in self.files.values()]
        near = get_close_matches(name, others, 1)
        wanted = f"a data set folder has the files {', '.join(FILE_NAMES.values())}"
        hint = f"is it {shown(near[0])}?" if near else wanted
        return f"{shown(self.folder / name)}: not there, nor with .gz; {hint}"

    def _examples(self, split: FileSplit) -> Examples:
        images, labels = ROLES_OF[split]
        pixels, answers = self._array(images, idx.IMAGES), self._array(labels, idx.LABELS)
        if len(pixels) != len(answers):
            raise DataError(
                f"{shown(self.folder)}: {self.file_name(images)} has {len(pixels)} images and "
                f"{self.file_name(labels)} {len(answers)} labels"
            )
        return Examples(pixels, answers, self._names())

    def labels(self, split: FileSplit) -> Examples:
        """See :meth:`Collection.labels`."""
        return Examples(NO_IMAGES, idx.read(self.files[ROLES_OF[split][1]], idx.LABELS)[0], self._names())

    def file_name(self, role: Role) -> str:
        """Return the name of the file of ``role``."""
        return shown(self.files[role].name) if role in self.files else FILE_NAMES[role]

    def _array(self, role: Role, dimensions: int) -> Array:
        if role not in self.files:
            raise DataError(self._not_there(role))
        array, self.hashes[FILE_NAMES[role]] = idx.read(self.files[role], dimensions)
        return array

    def _names(self) -> Mapping[int, str] | None:
        """Return the names of the classes, if a file has them. Raises ``DataError``."""
        path = self.folder / CLASSES
        if not path.is_file():
            return emnist_names(self.folder, self._prefix)
        try:
            names = names_in(read(path, MAX_TEXT).decode("utf-8-sig"))
        except OSError as error:
            raise DataError(f"{shown(path)}: cannot be read ({error.strerror or error})") from None
        except ValueError:
            raise DataError(f"{shown(path)}: is not UTF-8 text") from None
        return dict(enumerate(names))


def names_in(text: str) -> list[str]:
    """Return the names of the classes in ``text``, of a classes.txt: one a line."""
    return [readable(line.strip())[:MAX_NAME] for line in text.splitlines()]
