"""Whether the files of a data set are there and are what they should be, without fetching or changing anything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mlpcli.config import DataConfig
from mlpcli.datasets import idx
from mlpcli.datasets.catalogue import FILE_NAMES, Entry, Role
from mlpcli.datasets.download import fault, find
from mlpcli.datasets.load import load_dataset, locate
from mlpcli.errors import DataError


@dataclass(frozen=True)
class FileState:
    """One file: where it is or should be, and what is wrong with it (``detail``) unless its ``state`` is ok."""

    name: str
    path: Path
    state: Literal["ok", "missing", "damaged"]
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """The state of the four files in ``folder``, and what is wrong between them where each alone is good."""

    name: str
    folder: Path
    files: tuple[FileState, ...]
    mismatch: str | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.mismatch is None and all(file.state == "ok" for file in self.files)


def check(dataset: str, folder: str | Path) -> Report:
    """What state the files of ``dataset`` are in; both parameters are as ``data.dataset`` and ``data.folder``.

    The catalogue's data sets are held against its hashes; a folder of the user's against the IDX format, and its files
    against one another. Raises ``DataError`` when ``dataset`` is neither.
    """
    entry, path = locate(dataset, folder)
    files = tuple(_state(path, role, entry) for role in FILE_NAMES)
    report = Report(entry.name if entry else dataset, path, files)
    if entry is None and report.ok:
        try:
            load_dataset(DataConfig(dataset=dataset, validation=0.0)).test()
        except DataError as error:
            return replace(report, mismatch=str(error))
    return report


def _state(folder: Path, role: Role, entry: Entry | None) -> FileState:
    name = FILE_NAMES[role]
    path = folder / name
    try:
        found = find(folder, name)
        if found is None:
            return FileState(name, path, "missing")
        path = found
        wrong = _fault_by_format(path, role) if entry is None else fault(path, entry.files[role])
    except OSError as error:
        wrong = f"cannot be read ({error.strerror or error})"
    return FileState(name, path, "damaged", wrong) if wrong else FileState(name, path, "ok")


def _fault_by_format(path: Path, role: Role) -> str | None:
    try:
        idx.read(path, 3 if role.endswith("images") else 1)
    except DataError as error:
        return str(error).removeprefix(f"{path}: ")
    return None
