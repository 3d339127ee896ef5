"""Comma-separated values: a row per image, a column per pixel, perhaps one for the label. Plain, gzip, or zip.

    label,pixel0,pixel1,...     Kaggle's train.csv: the column called label, in any position
    5,0,0,...                   mnist_train.csv: no header, one column more than a square number: the label comes first,
                                or last, if only the last column looks like labels
    pixel0,pixel1,...,kind      the only column with a name of another pattern is the label
    pixel0,pixel1,...           Kaggle's test.csv: no label, to be predicted
    label,0,1,...               pandas' to_csv of an array: columns may be called by their numbers

Separators are commas, semicolons or tabs; a column called id or index is ignored. The text is read in chunks.
Chunks of plain numbers below 1000 are parsed by numpy, at 40 to 80 MB/s; others by Python's csv, which gives the row
and the column of an error. Names of the labels are in EMNIST's PREFIX-mapping.txt, if it is beside PREFIX-train.csv.
"""

from __future__ import annotations

import csv
import math
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mlpcli.datasets.arrays import image_shape, to_bytes
from mlpcli.datasets.bytestream import CHUNK_BYTES, GZIP_MAGIC, GunzipError, chunks_of, decoded, open_regular
from mlpcli.datasets.classes import emnist_names
from mlpcli.datasets.collection import (
    MAX_CLASSES,
    MAX_NAME,
    Array,
    Bytes,
    Collection,
    Examples,
    FileSplit,
    readable,
    shown,
)
from mlpcli.datasets.upright import is_emnist
from mlpcli.errors import DataError

LABEL_NAMES = frozenset(("label", "labels", "class", "classes", "target", "y", "digit", "letter"))
IGNORED_COLUMNS = frozenset(("id", "imageid", "image_id", "index", "unnamed: 0", ""))
DELIMITERS = (b",", b";", b"\t")
MAX_LINE = 16 * 1024 * 1024
MAX_RATIO = 64  # of text to its compressed bytes; tables of digits have about 10
MAX_SLACK = 16 * 1024 * 1024
MIN_RISING = 9  # numbers in a header of nothing else: fewer may be the pixels of a tiny image
MAX_FRACTION = 0.95  # of the rows with the same label
ZIP_MAGIC = b"PK\3\4"
EMPTY_ZIP = b"PK\5\6"
SUFFIXES = (".csv", ".csv.gz", ".csv.zip")
_WHOLE = re.compile(r"[+-]?([0-9]+(\.0*)?|[0-9]\.[0-9]{18}e[+-][0-9]{2})")  # others, such as 1e2 and 1_0, are text
_SPLIT = re.compile(
    r"(?:(?P<before>.+)[-_.])?(?P<split>train|test)(?:ing)?(?:[-_.](?P<after>.+))?", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True)
class Table:
    """The location of a table: a file, or a member of a zip archive."""

    path: Path
    member: str | None = None

    @property
    def prefix(self) -> str:
        """Return the name of its set: 'emnist-letters' for 'emnist-letters-train.csv.gz'."""
        parts = _parts(self.member or self.path.name)
        return (parts and parts["before"]) or ""

    def __str__(self) -> str:
        return shown(self.path) + ("" if self.member is None else f": {readable(self.member)}")


@dataclass(frozen=True, eq=False)
class Layout:
    """The columns of a table: ``label`` is the index of the label's, ``pixels`` (D,) those of the pixels."""

    delimiter: bytes
    header: tuple[str, ...] | None
    columns: int
    label: int | None
    pixels: Array
    shape: tuple[int, int]

    def column(self, number: int) -> str:
        """Return the name of the column ``number`` for messages."""
        return f"column {number + 1}" + (f" ({self.header[number]})" if self.header else "")


class CsvFiles(Collection):
    """Images and labels in tables, one table per split; images are of ``size``, or square."""

    def __init__(self, name: str, tables: Mapping[FileSplit, Table], size: tuple[int, int] | None) -> None:
        super().__init__(name)
        self._tables = tables
        self._size = size
        self._layouts: dict[FileSplit, Layout] = {}
        # Kaggle's tables of EMNIST store pixels column by column, as EMNIST's own files do.
        self.transposed = any(is_emnist(_file(table)) for table in tables.values())

    def prepare(self, split: FileSplit) -> bool:
        """See :meth:`Collection.prepare`."""
        return split in self._tables and self._layout(split).label is not None

    def missing(self, split: FileSplit) -> str:
        """See :meth:`Collection.missing`."""
        if split in self._tables:
            predict = f"; to classify them: mlpcli predict RUN {shown(self._tables[split].path)}"
            return f"{self._tables[split]}: its images have no labels{predict if split == 'test' else ''}"
        return f"{self.name}: has no {split} images"

    def images(self) -> Bytes:
        """Return the images to predict, with or without labels: the test images if any. Raises ``DataError``."""
        split: FileSplit = "test" if "test" in self._tables else "train"
        return read(self._tables[split], self._layout(split))[0]

    def _examples(self, split: FileSplit) -> Examples:
        table, layout = self._tables[split], self._layout(split)
        images, labels = read(table, layout)
        if labels is None:
            raise DataError(self.missing(split))
        if isinstance(labels, np.ndarray):
            return Examples(images, labels, emnist_names(table.path.parent, table.prefix))
        names = sorted(set(labels))
        place = {name: number for number, name in enumerate(names)}
        return Examples(images, np.array([place[name] for name in labels]), dict(enumerate(names)))

    def _layout(self, split: FileSplit) -> Layout:
        if split not in self._layouts:
            self._layouts[split] = layout_of(self._tables[split], self._size)
        return self._layouts[split]


def tables_in_zip(path: Path) -> dict[FileSplit, Table]:
    """Return the tables in the zip archive ``path``: a single one is for training.

    Raises ``DataError`` if it is damaged or has several data sets.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if name.lower().endswith(".csv") and "__MACOSX" not in name]
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read ({error.strerror or error})") from None
    except Exception:  # zipfile raises almost anything for damaged bytes
        raise DataError(f"{shown(path)}: is not a zip archive, or is damaged; get the file again") from None
    hint = "unpack it, and name one of"
    found = splits_of({name: Table(path, name) for name in names}, path, hint)
    if not found and len(names) > 1:
        raise _several(path, hint, names)
    if not found and names:
        return {"train": Table(path, names[0])}
    return found


def sets_of(tables: Mapping[str, Table]) -> dict[str, dict[FileSplit, dict[str, Table]]]:
    """Return the tables with train or test in their file names, by the rest of the name: '' for 'train.csv'.

    'mnist_train.csv' and 'mnist_test.csv' are the set 'mnist'. The tables of a split are by their names without
    '.csv' or '.csv.gz'; there should be one.
    """
    found: dict[str, dict[FileSplit, dict[str, Table]]] = {}
    for name, table in sorted(tables.items(), key=lambda each: (len(each[0]), each[0])):
        if (parts := _parts(name.lower())) and "submission" not in Path(name).name.lower():
            rest = "-".join(filter(None, (parts["before"], parts["after"])))
            split: FileSplit = "train" if parts["split"] == "train" else "test"
            found.setdefault(rest, {}).setdefault(split, {}).setdefault(_bare(name), table)
    return found


def one_each(found: Mapping[FileSplit, Mapping[str, Table]], where: Path, hint: str) -> dict[FileSplit, Table]:
    """Return the one table of each split of a set in ``where``. Raises ``DataError`` for several, with ``hint``."""
    for tables in found.values():
        if len(tables) > 1:
            raise _several(where, hint, [_file(table) for table in tables.values()])
    return {split: table for split, tables in found.items() for table in tables.values()}


def _several(where: Path, hint: str, names: Sequence[str]) -> DataError:
    return DataError(f"{shown(where)}: has several data sets; {hint} {', '.join(map(readable, names[:8]))}")


def _file(table: Table) -> str:
    return table.member or table.path.name


def _bare(name: str) -> str:
    """Return the file name ``name`` without .csv, .csv.gz or .csv.zip."""
    return next((name[: -len(suffix)] for suffix in SUFFIXES if name.lower().endswith(suffix)), name)


def _parts(name: str) -> re.Match[str] | None:
    """Return the parts of the file name ``name``: before 'train' or 'test', that word, and after it."""
    return _SPLIT.fullmatch(_bare(Path(name).name))


def splits_of(tables: Mapping[str, Table], where: Path, hint: str) -> dict[FileSplit, Table]:
    """Return the tables for training and testing in ``where``, which must have one data set.

    Raises ``DataError`` for several; ``hint`` is the remedy, followed by their names.
    """
    sets = sets_of(tables)
    training = [name for name in sets if "train" in sets[name]]
    testing = [name for name in sets if "test" in sets[name]]
    own = [name for name in training or testing if not name] or training or testing
    if len(own) > 1:
        raise _several(where, hint, own)
    found = {split: table for name in own for split, table in sets[name].items()}
    if own and own[0] and "test" not in found and testing:
        # Test images of another name belong to these training images if one name begins with the other.
        akin = [name for name in testing if name.startswith(own[0]) or own[0].startswith(name)]
        if len(akin) != 1:
            every = [table for each in sets.values() for tables in each.values() for table in tables.values()]
            raise _several(where, hint, [_file(table) for table in every])
        found["test"] = sets[akin[0]]["test"]
    return one_each(found, where, hint)


def layout_of(table: Table, size: tuple[int, int] | None) -> Layout:
    """Return the columns of ``table``, from its first line, or from all lines if that is ambiguous."""
    with closing(_lines(table)) as blocks:
        first, _, rest = b"".join(islice(blocks, 2)).partition(b"\n")  # two blocks have at least two lines
    first = first.rstrip(b"\r")
    if not first:
        raise DataError(f"{table}: is empty")
    if b"\0" in first:
        raise DataError(f"{table}: is not text in UTF-8; save it as CSV UTF-8")
    delimiter = max(DELIMITERS, key=first.count)
    fields = _fields(first, delimiter, table, 1)
    second = rest.lstrip(b"\r\n").partition(b"\n")[0].rstrip(b"\r")
    has_header = _is_header(fields, _fields(second, delimiter, table, 2) if second else None)
    header = tuple(readable(field)[:MAX_NAME] for field in fields) if has_header else None
    lower = [name.strip().lower() for name in header or ()]
    kept = [number for number in range(len(fields)) if not header or lower[number] not in IGNORED_COLUMNS]
    label = next((number for number in kept if header and lower[number] in LABEL_NAMES), None)
    if label is None and not _is_image(len(kept), size) and _is_image(len(kept) - 1, size):
        label = _label_by_name(header, kept) if header else None
        if label is None:
            is_last = _label_is_last(table, delimiter, len(fields), header is not None, kept)
            label = kept[-1] if is_last else kept[0]
    pixels = np.array([number for number in kept if number != label])
    if header and not len(pixels):
        raise DataError(f"{table}: has no columns of pixels; it has {', '.join(header[:8])}")
    shape = image_shape(len(pixels), str(table), size)
    return Layout(delimiter, header, len(fields), label, pixels, shape)


def read(table: Table, layout: Layout) -> tuple[Bytes, Array | list[str] | None]:
    """Read the images (N, h, w) of ``table`` and labels (N,): whole numbers, names, or None. Raises ``DataError``."""
    values: list[Array] = []
    labels: list[str] = []
    row = 1 + (layout.header is not None)  # as an editor counts lines
    with closing(_lines(table)) as blocks:
        for number, block in enumerate(blocks):
            text = block.partition(b"\n")[2] if layout.header is not None and number == 0 else block
            found = _plain_numbers(text, layout)
            if found is None:
                found, own = _any_numbers(text, layout, table, row)
            else:
                own = _labels_in(text, layout)
            row += text.count(b"\n")
            if not len(found):
                continue
            values.append(_pixels(found, layout, table, row - text.count(b"\n")))
            labels += own
    if not values:
        raise DataError(f"{table}: has a header and no rows" if layout.header else f"{table}: has no rows")
    kinds = {block.dtype for block in values}
    pixels = np.concatenate(values) if len(kinds) == 1 else np.concatenate([v.astype(np.float32) for v in values])
    images = to_bytes(pixels.reshape(-1, *layout.shape), str(table))
    if layout.label is None:
        return images, None
    numbers = {label: _whole(label) for label in set(labels)}
    if None in numbers.values():
        return images, [readable(label)[:MAX_NAME] for label in labels]
    return images, np.array([numbers[label] for label in labels])


def _pixels(found: Array, layout: Layout, table: Table, row: int) -> Array:
    """Return the pixels of a block: bytes, or float32 with decimal points. Raises ``DataError`` beyond 0 .. 255."""
    first = int(layout.pixels[0])
    is_slice = len(layout.pixels) == int(layout.pixels[-1]) - first + 1
    pixels = found[:, first : first + len(layout.pixels)] if is_slice else found[:, layout.pixels]
    bad = ~((pixels >= 0) & (pixels <= 255))  # also finds NaN
    if bad.any():
        line, number = (int(each[0]) for each in np.nonzero(bad))
        raise DataError(
            f"{table}: row {row + line}, {layout.column(int(layout.pixels[number]))}: {pixels[line, number]:g} is "
            "not a pixel; pixels are numbers from 0 to 255, or from 0 to 1"
        )
    return pixels.astype(np.float32 if pixels.dtype.kind == "f" else np.uint8)


# Numbers in text -----------------------------------------------------------------------------------------------------


def _plain_numbers(block: bytes, layout: Layout) -> Array | None:
    """Parse a block of whole lines (rows, columns) if its numbers have one to three digits; else return None.

    If a number is followed by '.0', all are float32.
    """
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
    points = b".0" in block
    if points:
        block = block.replace(b".0" + layout.delimiter, layout.delimiter).replace(b".0\n", b"\n")
    if not block.endswith(b"\n"):
        block += b"\n"
    digits = np.frombuffer(block, np.uint8) - np.uint8(48)  # characters other than digits are above 9
    ends = np.flatnonzero(digits > 9)
    if len(ends) % layout.columns:
        return None
    marks = digits[ends].reshape(-1, layout.columns)
    wanted = np.uint8((layout.delimiter[0] - 48) % 256), np.uint8((10 - 48) % 256)
    if not ((marks[:, :-1] == wanted[0]).all() and (marks[:, -1] == wanted[1]).all()):
        return None
    lengths = np.diff(ends, prepend=-1) - 1
    if lengths.min() < 1 or lengths.max() > 3:
        return None
    numbers = digits[ends - 1].astype(np.uint16)
    for place in (2, 3):
        longer = np.flatnonzero(lengths >= place)
        # As an array: numpy before 2.0 multiplies bytes by a scalar in bytes.
        numbers[longer] += digits[ends[longer] - place].astype(np.uint16) * 10 ** (place - 1)
    found: Array = numbers.reshape(-1, layout.columns)
    return found.astype(np.float32) if points else found


def _labels_in(block: bytes, layout: Layout) -> list[str]:
    """Return the labels of a block that :func:`_plain_numbers` has parsed, as they are written."""
    if layout.label is None:
        return []
    lines = block.replace(b"\r", b"").removesuffix(b"\n").decode("ascii").split("\n")
    delimiter, after = layout.delimiter.decode(), layout.columns - layout.label
    if layout.label < after:
        return [line.split(delimiter, layout.label + 1)[layout.label] for line in lines]
    return [line.rsplit(delimiter, after)[-after] for line in lines]


def _any_numbers(block: bytes, layout: Layout, table: Table, row: int) -> tuple[Array, list[str]]:
    """Parse the numbers of a block, and its labels, which may be text. Raises ``DataError`` with the row."""
    rows: list[list[float]] = []
    labels: list[str] = []
    for line in block.split(b"\n"):
        if line.strip():
            fields = _fields(line.rstrip(b"\r"), layout.delimiter, table, row)
            if len(fields) != layout.columns:
                raise DataError(
                    f"{table}: row {row} has {len(fields)} values, but the first has {layout.columns} columns"
                )
            try:
                numbers = list(map(float, fields))
            except ValueError:
                numbers = [_checked_number(field, number, layout, table, row) for number, field in enumerate(fields)]
            rows.append(numbers)
            if layout.label is not None:
                label = fields[layout.label].strip()
                if label.lower() in ("", "nan"):
                    raise DataError(f"{table}: row {row}, {layout.column(layout.label)}: the label is missing")
                labels.append(label)
        row += 1
    found = np.array(rows, np.float64).reshape(-1, layout.columns)
    pixels = found[:, layout.pixels]
    if b"." in block or not (np.isfinite(pixels) & (pixels == np.rint(pixels)) & (pixels >= 0)).all():
        return found, labels
    return np.nan_to_num(found).clip(0, 65535).astype(np.uint16), labels


def _checked_number(field: str, number: int, layout: Layout, table: Table, row: int) -> float:
    value = _number(field)
    if value is None and number in layout.pixels:
        what = f"{readable(field)[:40]!r} is not a number" if field.strip() else "the number is missing"
        raise DataError(f"{table}: row {row}, {layout.column(number)}: {what}")
    return 0.0 if value is None else value  # a label, or an ignored column


def _number(field: str) -> float | None:
    try:
        return float(field)
    except ValueError:
        return None


def _whole(label: str) -> int | None:
    """Return ``label`` as a number if it is written as a whole one: 7, 7.0, or numpy's 7.000000000000000000e+00."""
    if not _WHOLE.fullmatch(label):
        return None
    value = float(label)
    return int(value) if value.is_integer() and abs(value) < 2**53 else None


def _fields(line: bytes, delimiter: bytes, table: Table, row: int) -> list[str]:
    try:
        return next(csv.reader([line.decode("utf-8", "replace")], delimiter=delimiter.decode()))
    except (csv.Error, StopIteration) as error:
        raise DataError(f"{table}: row {row}: cannot be read ({str(error)[:80]})") from None


def _is_image(pixels: int, size: tuple[int, int] | None) -> bool:
    return pixels == math.prod(size) if size else pixels > 0 and math.isqrt(pixels) ** 2 == pixels


def _is_header(fields: Sequence[str], following: Sequence[str] | None) -> bool:
    """Return True if the first row, ``fields``, has names: mostly text, or numbers that count the columns.

    Rows of an image that rises by 1 from pixel to pixel are not headers: the row ``following`` must not count too.
    """
    if 2 * sum(_number(field) is not None for field in fields) < len(fields):
        return True
    return following is not None and _counts(fields) and not _counts(following)


def _counts(fields: Sequence[str]) -> bool:
    """Return True if the numbers in ``fields`` are whole and rise by 1, as 0, 1, 2 and so on."""
    numbers = [field.strip() for field in fields if _number(field) is not None]
    if len(numbers) < MIN_RISING or not re.fullmatch("[0-9]{1,9}", numbers[0]):
        return False
    return numbers == [str(int(numbers[0]) + place) for place in range(len(numbers))]


def _label_by_name(header: Sequence[str], kept: Sequence[int]) -> int | None:
    """Return the one column of ``kept`` whose name has not the pattern of all others, such as pixel0, pixel1."""
    patterns = {number: re.sub("[0-9]+", "0", header[number].strip()) for number in kept}
    (common, count), *_ = Counter(patterns.values()).most_common(1)
    if "0" not in common or count < 2 or count != len(kept) - 1:
        return None
    return next(number for number in kept if patterns[number] != common)


def _label_is_last(table: Table, delimiter: bytes, columns: int, header: bool, kept: Sequence[int]) -> bool:
    """Return True if the last of ``kept`` looks like labels, but not the first: a corner's pixel hardly varies."""
    first: Counter[str] = Counter()
    last: Counter[str] = Counter()
    with closing(_lines(table)) as blocks:
        lines = (line for block in blocks for line in block.removesuffix(b"\n").split(b"\n"))
        for row, line in enumerate(islice(lines, int(header), None), start=1 + header):
            if b'"' in line:
                fields = _fields(line.rstrip(b"\r"), delimiter, table, row)
                if len(fields) == columns:
                    first[fields[kept[0]].strip()] += 1
                    last[fields[kept[-1]].strip()] += 1
            elif line.count(delimiter) == columns - 1:
                # A split into all fields takes eight times as long.
                text, comma, after = line.decode("utf-8", "replace"), delimiter.decode(), columns - kept[-1]
                first[text.split(comma, kept[0] + 1)[kept[0]].strip()] += 1
                last[text.rsplit(comma, after)[-after].strip()] += 1
    return _look_like_labels(last) and not _look_like_labels(first)


def _look_like_labels(counts: Counter[str]) -> bool:
    """Return True for at most 256 different values of a column, no fractions, none of them in nearly all rows."""
    if not counts or len(counts) > MAX_CLASSES or max(counts.values()) > MAX_FRACTION * counts.total():
        return False
    numbers = map(_number, counts)
    return all(number is None or number % 1 == 0 for number in numbers)


# Text from files -----------------------------------------------------------------------------------------------------


def _lines(table: Table) -> Generator[bytes, None, None]:
    """Yield the text of ``table``, in blocks of whole lines. Raises ``DataError``."""
    rest, begun = b"", False
    with closing(_text(table)) as chunks:
        for chunk in chunks:
            if not begun:
                chunk, begun = chunk.removeprefix(b"\xef\xbb\xbf"), True
            end = chunk.rfind(b"\n") + 1
            if end:
                yield rest + chunk[:end]
                rest = chunk[end:]
            else:
                rest += chunk
            if len(rest) > MAX_LINE:
                raise DataError(f"{table}: a row is longer than {MAX_LINE >> 20} MiB, the limit for tables")
    if rest:
        yield rest


def _text(table: Table) -> Generator[bytes, None, None]:
    """Yield the bytes of ``table``, decoded, in chunks. Raises ``DataError``."""
    try:
        with open_regular(table.path) as file:
            left = os.fstat(file.fileno()).st_size
            start = os.pread(file.fileno(), len(ZIP_MAGIC), 0)
            if start.startswith(GZIP_MAGIC) or table.member is not None:
                left = left * MAX_RATIO + MAX_SLACK
            chunks = _unzipped(file, table) if table.member is not None else decoded(chunks_of(file))
            for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    raise DataError(f"{table}: unpacks to more than {MAX_RATIO} times its size, the limit for tables")
                yield chunk
    except OSError as error:
        raise DataError(f"{table}: cannot be read ({error.strerror or error})") from None
    except GunzipError as error:
        raise DataError(f"{table}: {error}; get the file again") from None


def _unzipped(file: BinaryIO, table: Table) -> Generator[bytes, None, None]:
    try:
        with zipfile.ZipFile(file) as archive, archive.open(table.member or "") as member:
            while chunk := member.read(CHUNK_BYTES):
                yield chunk
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, KeyError, ValueError) as error:
        raise DataError(f"{table}: is damaged ({str(error)[:80]}); get the file again") from None
