"""Which reader a file or folder is for, told by what is in it: the one place that knows all formats."""

from __future__ import annotations

import os
from pathlib import Path

from mlpcli.config import DataConfig
from mlpcli.datasets.collection import Collection, entries, is_folder_entry, shown
from mlpcli.datasets.download import Say
from mlpcli.datasets.idx_files import IdxFiles, sets_in
from mlpcli.datasets.source import is_folder
from mlpcli.errors import DataError

FORMS = "docs/data.md has the forms that are read"
SEVERAL = 8  # names in a message


def exists(path: Path) -> bool:
    """Whether something of the user's can be meant by ``path``: a file, a folder, or files with a prefix in one."""
    return os.path.exists(path) or _with_prefix(path) is not None  # noqa: PTH110 - Path's raises for long names


def open_collection(path: Path, data: DataConfig, say: Say) -> Collection:
    """The labelled images in the file or folder ``path``, none of them read yet. Raises ``DataError``."""
    if is_folder(path):
        return _of_folder(path, data, say)
    if found := _with_prefix(path):
        return found
    raise DataError(f"{shown(path)}: is in no form that is read; {FORMS}")


def _with_prefix(path: Path) -> IdxFiles | None:
    """The IDX files in the folder of ``path`` whose names begin with its last part."""
    if os.path.lexists(path) or not path.name or not is_folder(path.parent):
        return None
    prefix = path.name.lower().rstrip("-_.")
    files = sets_in(path.parent).get(prefix)
    return None if files is None else IdxFiles(path.name, path.parent, files, prefix)


def _of_folder(folder: Path, data: DataConfig, say: Say) -> Collection:
    if found := _idx_files(folder):
        return found
    raise DataError(f"{shown(folder)}: no data set is recognised in it; it has {_contents(folder)}; {FORMS}")


def _idx_files(folder: Path) -> IdxFiles | None:
    """The one data set of IDX files in ``folder``, or below it as torchvision has them. Raises ``DataError``."""
    for places in ([folder], [folder / "raw"], [Path(each.path) / "raw" for each in entries(folder)]):
        found = [
            (prefix, place, files)
            for place in places
            if is_folder(place)
            for prefix, files in sorted(sets_in(place).items())
        ]
        if len(found) > 1:
            names = ", ".join(shown(place / prefix if prefix else place) for prefix, place, _ in found)
            raise DataError(f"{shown(folder)}: has several data sets; name one of {names}")
        for prefix, place, files in found:
            own = place.resolve()
            name = prefix or (own.parent if own.name == "raw" else own).name
            return IdxFiles(name, place, files, prefix)
    return None


def _contents(folder: Path) -> str:
    """What is in ``folder``, in a few words."""
    found = entries(folder)
    names = [f"{shown(each.name)}{'/' if is_folder_entry(each) else ''}" for each in found[:SEVERAL]]
    more = f" and {len(found) - SEVERAL} more" if len(found) > SEVERAL else ""
    return f"{', '.join(names)}{more}" if names else "nothing"
