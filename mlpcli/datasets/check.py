"""Check the files of a data set without fetching or changing anything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mlpcli.config import DataConfig
from mlpcli.datasets import idx
from mlpcli.datasets.catalogue import FILE_NAMES, Entry, Role
from mlpcli.datasets.collection import ROLES_OF, Collection, FileSplit
from mlpcli.datasets.download import fault, find
from mlpcli.datasets.idx_files import IdxFiles
from mlpcli.datasets.load import load_dataset, locate, open_collection
from mlpcli.datasets.remarks import Remark, remarks, with_default_validation
from mlpcli.errors import DataError


@dataclass(frozen=True)
class FileState:
    """The state of one file, or of one split in it: its path, and its fault, if any (``detail``)."""

    name: str
    path: Path
    state: Literal["ok", "missing", "damaged"]
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """The state of the files in ``folder``, and faults between files that are good by themselves.

    ``remarks`` are those of training with a default config; none if there is a fault.
    """

    name: str
    folder: Path
    files: tuple[FileState, ...]
    mismatch: str | None = None
    remarks: tuple[Remark, ...] = ()

    @property
    def ok(self) -> bool:
        """Return True if there is no fault."""
        return self.mismatch is None and all(file.state == "ok" for file in self.files)


def check(dataset: str, folder: str | Path) -> Report:
    """Return the state of the files of ``dataset``; the parameters are ``data.dataset`` and ``data.folder``.

    The catalogue's data sets are compared with its hashes; the user's files are read and compared with each other.
    Raises ``DataError`` when ``dataset`` is neither, or of an unknown format.
    """
    entry, path = locate(dataset, folder)
    if entry is not None:
        files = tuple(_verified(path, role, entry) for role in FILE_NAMES)
        return _with_remarks(
            Report(entry.name, path, files), DataConfig(dataset=dataset, folder=str(folder), offline=True)
        )
    data = DataConfig(dataset=dataset)
    collection = open_collection(data)
    if isinstance(collection, IdxFiles):
        files = tuple(_of_idx(collection, role) for role in FILE_NAMES)
    else:
        files = tuple(_of_split(collection, path, split) for split in ROLES_OF)
    return _with_remarks(Report(dataset, path, files), data)


def _with_remarks(report: Report, data: DataConfig) -> Report:
    if not report.ok:
        return report
    try:
        dataset = load_dataset(replace(data, validation=0.0))
        return replace(report, remarks=tuple(remarks(with_default_validation(dataset))))
    except DataError as error:
        return replace(report, mismatch=str(error))


def _verified(folder: Path, role: Role, entry: Entry) -> FileState:
    name = FILE_NAMES[role]
    path = folder / name
    try:
        found = find(folder, name)
        if found is None:
            return FileState(name, path, "missing")
        path = found
        wrong = fault(path, entry.files[role])
    except OSError as error:
        wrong = f"cannot be read ({error.strerror or error})"
    return FileState(name, path, "damaged", wrong) if wrong else FileState(name, path, "ok")


def _of_idx(files: IdxFiles, role: Role) -> FileState:
    name = FILE_NAMES[role]
    path = files.files.get(role)
    if path is None:
        return FileState(name, files.folder / name, "missing")
    try:
        idx.read(path, idx.IMAGES if role.endswith("images") else idx.LABELS)
    except DataError as error:
        return FileState(name, path, "damaged", str(error).removeprefix(f"{path}: "))
    return FileState(name, path, "ok")


def _of_split(collection: Collection, path: Path, split: FileSplit) -> FileState:
    """Return the state of a split of a collection that is not four IDX files."""
    name = f"{split} images"
    try:
        if not collection.prepare(split):
            return FileState(name, path, "missing" if split == "train" else "ok", collection.missing(split))
        found = collection.read(split)
    except DataError as error:
        return FileState(name, path, "damaged", str(error).removeprefix(f"{path}: "))
    return FileState(name, path, "ok", f"{len(found):,} {name}")
