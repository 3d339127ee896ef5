"""Choice of the reader of a file or folder by its contents: only this module depends on all formats."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from mlpcli.config import DataConfig
from mlpcli.datasets.bytestream import GunzipError, chunks_of, decoded, open_regular
from mlpcli.datasets.collection import Bytes, Collection, FileSplit, entries, is_file, is_folder_entry, shown
from mlpcli.datasets.csv_files import (
    DELIMITERS,
    EMPTY_ZIP,
    SUFFIXES,
    ZIP_MAGIC,
    CsvFiles,
    Table,
    one_each,
    sets_of,
    splits_of,
    tables_in_zip,
)
from mlpcli.datasets.download import Say
from mlpcli.datasets.idx import ELEMENTS
from mlpcli.datasets.idx_files import IdxFiles, sets_in
from mlpcli.datasets.npz import NpzFile, array_names
from mlpcli.datasets.parquet import MAGIC, ParquetFiles, require_all_parts
from mlpcli.datasets.pickled import PickledFile
from mlpcli.datasets.pictures import picture_folders
from mlpcli.datasets.source import is_folder
from mlpcli.datasets.upright import is_swapped, upright
from mlpcli.errors import DataError

FORMS = "docs/data.md has the forms that are read"
MAX_NAMED = 8  # names in a message
START = 4096  # bytes by which a format is recognized
CONTROL_CHARACTERS = frozenset(range(32)) - frozenset(b"\t\n\v\f\r\x1a")  # none is in a text
NO_DATA = DataConfig()


def exists(path: Path) -> bool:
    """Return True if ``path`` names a file, a folder, or files with a prefix in a folder."""
    return os.path.exists(path) or _with_prefix(path) is not None  # noqa: PTH110 - Path's raises for long names


def open_collection(path: Path, data: DataConfig, say: Say, *, pickles: bool = False) -> Collection:
    """Open the labelled images in the file or folder ``path``, none of them read yet. Raises ``DataError``."""
    if is_folder(path):
        return _of_folder(path, data, say)
    if found := _with_prefix(path, data):
        return found
    return _of_file(path, data, pickles=pickles)


def is_data(path: Path) -> bool:
    """Return True if ``path`` exists and has data rather than a text with keys, such as a config."""
    if is_folder(path) or _with_prefix(path) is not None:
        return True
    try:
        start = start_of(path)
    except DataError:
        return False
    return b"\0" in start or (is_table(start) and b":" not in start.partition(b"\n")[0])


def images_in(path: Path, name: str, size: tuple[int, int], transpose: bool | None, say: Say) -> Bytes | None:
    """Return the images (N, h, w) in a table or an .npz, rows of numbers having ``size``; None for another file.

    They are upright, by data.transpose or by the file's name (:mod:`mlpcli.datasets.upright`); ``name`` is that in
    messages. Raises ``DataError``.
    """
    start = start_of(path)
    if not start.startswith((ZIP_MAGIC, EMPTY_ZIP)) and not is_table(start):
        _require_utf8(start, shown(path))
        return None
    found = _of_file(path, DataConfig(size=size))
    if is_swapped(transpose, found.transposed):
        found = _of_file(path, DataConfig(size=size[::-1]))  # that in the file
    if not isinstance(found, (CsvFiles, NpzFile)):
        return None
    return upright(found.images(), name, transpose, found.transposed, say)


def start_of(path: Path) -> bytes:
    """Return the first bytes of the file ``path``, decoded if it is gzip. Raises ``DataError``."""
    start = b""
    try:
        with open_regular(path) as file:
            for chunk in decoded(chunks_of(file)):
                start += chunk
                if len(start) >= START:
                    break
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read ({error.strerror or error})") from None
    except GunzipError as error:
        raise DataError(f"{shown(path)}: {error}; get the file again") from None
    return start[:START]


def is_idx(start: bytes) -> bool:
    """Return True if ``start`` begins an IDX file."""
    return start[:2] == b"\0\0" and start[2:3] in map(_byte, ELEMENTS) and start[3:4] not in (b"", b"\0")


def is_table(start: bytes) -> bool:
    """Return True if ``start`` begins a text with columns: one of its first two lines has numbers."""
    # The last character may be incomplete.
    return _has_columns(start) and "\N{REPLACEMENT CHARACTER}" not in start.decode("utf-8", "replace")[:-4]


def _has_columns(start: bytes) -> bool:
    first, _, rest = start.removeprefix(b"\xef\xbb\xbf").partition(b"\n")
    second = rest.lstrip().partition(b"\n")[0]
    if b"\0" in start or not any(delimiter in first for delimiter in DELIMITERS):
        return False
    return not second.strip() or any(character in second for character in b"0123456789")


def _require_utf8(start: bytes, where: str) -> None:
    """Raise ``DataError`` if ``start`` begins a table in another encoding."""
    utf16 = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if utf16 or (_has_columns(start) and not is_table(start) and not set(start) & CONTROL_CHARACTERS):
        encoding = "UTF-16" if utf16 else "an encoding other than UTF-8"
        raise DataError(f"{where}: is text in {encoding}; save it as UTF-8")


def is_pickle(start: bytes, path: Path) -> bool:
    """Return True if ``start`` begins a pickle: by its protocol number, or else by the file's name."""
    return start[:1] == b"\x80" or bool({".pkl", ".pickle"} & set(path.suffixes))


def _byte(number: int) -> bytes:
    return bytes([number])


def _of_file(path: Path, data: DataConfig, *, pickles: bool = False) -> Collection:
    where, start = shown(path), start_of(path)
    if not start:
        raise DataError(f"{where}: is empty")
    if start.startswith((ZIP_MAGIC, EMPTY_ZIP)):
        if tables := tables_in_zip(path):
            return CsvFiles(path.name, tables, data.image_shape)
        if array_names(path):
            return NpzFile(path, data.image_shape)
        raise DataError(f"{where}: is a zip archive without .csv or .npy files; unpack it, and name its contents")
    if start.startswith(MAGIC):
        return ParquetFiles(path.name, {"train": [path]}, data)
    if is_table(start):
        return CsvFiles(path.name, {"train": Table(path)}, data.image_shape)
    if is_idx(start):
        raise DataError(f"{where}: is one IDX file; images and labels are two: name the folder that contains both")
    if is_pickle(start, path):
        if pickles:
            return PickledFile(path, data.image_shape)
        raise DataError(f"{where}: is a pickle, which can only be imported: mlpcli data import {where} -o FOLDER")
    _require_utf8(start, where)
    raise DataError(f"{where}: has an unknown format; {FORMS}")


def _with_prefix(path: Path, data: DataConfig = NO_DATA) -> Collection | None:
    """Return the IDX files, or else the tables, in the folder of ``path`` whose names begin with its last part."""
    if os.path.lexists(path) or not path.name or not is_folder(path.parent):
        return None
    prefix = path.name.lower().rstrip("-_.")
    if files := sets_in(path.parent).get(prefix):
        return IdxFiles(path.name, path.parent, files, prefix)
    tables = sets_of(_tables_in(path.parent)).get(prefix) if prefix else None
    return _csv_of(path.name, one_each(tables, path.parent, "name one of"), data) if tables else None


def _of_folder(folder: Path, data: DataConfig, say: Say) -> Collection:
    readers: tuple[Callable[[Path, DataConfig], Collection | None], ...] = (
        _idx_files,
        _npz_file,
        _csv_files,
        _parquet_files,
    )
    for reader in readers:
        if found := reader(folder, data):
            return found
    if pictures := picture_folders(folder, data, say):
        return pictures
    raise DataError(f"{shown(folder)}: no data set recognized; the folder has {_contents(folder)}; {FORMS}")


def _idx_files(folder: Path, data: DataConfig) -> IdxFiles | None:
    """Return the one data set of IDX files in ``folder``, or below it in torchvision's layout. Raises ``DataError``."""
    for places in ([folder], [folder / "raw"], [Path(each.path) / "raw" for each in entries(folder)]):
        found = [
            (prefix, place, files)
            for place in places
            if is_folder(place)
            for prefix, files in sorted(sets_in(place).items())
        ]
        if len(found) > 1:
            raise _several(folder, [place / prefix if prefix else place for prefix, place, _ in found])
        for prefix, place, files in found:
            own = place.resolve()
            name = prefix or (own.parent if own.name == "raw" else own).name
            return IdxFiles(name, place, files, prefix)
    return None


def _npz_file(folder: Path, data: DataConfig) -> NpzFile | None:
    """Return the one .npz in ``folder``, Keras's layout. Raises ``DataError``, also for tables for training."""
    found = [Path(each.path) for each in entries(folder) if is_file(each) and each.name.lower().endswith(".npz")]
    tables = [table for each in sets_of(_tables_in(folder)).values() for table in each.get("train", {}).values()]
    if found and len(found) + len(tables) > 1:
        raise _several(folder, [*found, *(table.path for table in tables)])
    return NpzFile(found[0], data.image_shape) if found else None


def _csv_files(folder: Path, data: DataConfig) -> CsvFiles | None:
    """Return the tables in ``folder``: train.csv and test.csv, or the only one. Raises ``DataError``."""
    tables = _tables_in(folder)
    found = splits_of(tables, folder, f"name one, as {shown(folder / 'NAME')}, of")
    if not found and len(tables) > 1:
        raise _several(folder, [table.path for table in tables.values()])
    if not found:
        found = dict(zip(("train",), tables.values(), strict=False))
    return _csv_of(folder.resolve().name, found, data) if found else None


def _csv_of(name: str, tables: Mapping[FileSplit, Table], data: DataConfig) -> CsvFiles:
    return CsvFiles(name, {split: _inside(table) for split, table in tables.items()}, data.image_shape)


def _tables_in(folder: Path) -> dict[str, Table]:
    """Return the tables in ``folder`` by their file names, not opened yet."""
    found = (each for each in entries(folder) if each.name.lower().endswith(SUFFIXES) and is_file(each))
    return {each.name: Table(Path(each.path)) for each in found}


def _inside(table: Table) -> Table:
    """Return the only table in ``table`` if it is a zip archive, else ``table``. Raises ``DataError``."""
    if not table.path.name.lower().endswith(".zip"):
        return table
    inside = list(tables_in_zip(table.path).values())
    return inside[0] if len(inside) == 1 else table


def _parquet_files(folder: Path, data: DataConfig) -> ParquetFiles | None:
    """Return the Parquet files in ``folder``, or in the only folder below that has any, the hub's layout.

    Raises ``DataError`` if several folders below have some, or if parts of a split are missing.
    """
    below = [Path(each.path) for each in entries(folder) if is_folder_entry(each)]
    paths = _parquet_in(folder)
    if not paths:
        found = {place: inside for place in below if (inside := _parquet_in(place))}
        if len(found) > 1:
            raise _several(folder, list(found))
        paths = [path for inside in found.values() for path in inside]
    require_all_parts(paths)
    test = [path for path in paths if path.name.startswith("test")]
    train = [path for path in paths if path.name.startswith("train")] or [path for path in paths if path not in test]
    return ParquetFiles(folder.resolve().name, {"train": train, "test": test}, data) if paths else None


def _parquet_in(folder: Path) -> list[Path]:
    return [Path(each.path) for each in entries(folder) if is_file(each) and each.name.endswith(".parquet")]


def _several(folder: Path, found: list[Path]) -> DataError:
    names = ", ".join(map(shown, found[:MAX_NAMED]))
    return DataError(f"{shown(folder)}: has several data sets; name one of {names}")


def _contents(folder: Path) -> str:
    """Return the contents of ``folder`` in a few words."""
    found = entries(folder)
    names = [f"{shown(each.name)}{'/' if is_folder_entry(each) else ''}" for each in found[:MAX_NAMED]]
    more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    return f"{', '.join(names)}{more}" if names else "nothing"
