"""Parquet files as on the Hugging Face hub: a column of pictures, {bytes, path}, and one of labels, by pyarrow.

    mnist/train-00000-of-00001.parquet  mnist/test-00000-of-00001.parquet     or one file, which is for training

The names of the classes are in the file's metadata, under "huggingface".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlpcli.config import DataConfig
from mlpcli.datasets.arrays import to_labels
from mlpcli.datasets.collection import (
    MAX_CLASSES,
    MAX_NAME,
    Bytes,
    Collection,
    Examples,
    FileSplit,
    readable,
    shown,
)
from mlpcli.datasets.decode_picture import read_picture
from mlpcli.errors import DataError, UsageError

MAGIC = b"PAR1"
ROWS = 1024  # read at a time
MAX_ROWS = 50_000_000
IMAGES = ("image", "img")
MAX_NAMED = 8  # names in a message
_PART = re.compile(r"(?P<name>.+)-[0-9]{5}-of-(?P<count>[0-9]{5})\.parquet", re.DOTALL)
LABELS = ("label", "labels", "fine_label", "class")


class ParquetFiles(Collection):
    """Pictures and labels in Parquet files, those of each split in turn, read by the settings ``data``."""

    pictures = True

    def __init__(self, name: str, files: Mapping[FileSplit, Sequence[Path]], data: DataConfig) -> None:
        super().__init__(name)
        self._files = files
        self._data = data

    def prepare(self, split: FileSplit) -> bool:
        """See :meth:`Collection.prepare`."""
        return bool(self._files.get(split))

    def missing(self, split: FileSplit) -> str:
        """See :meth:`Collection.missing`."""
        return f"{self.name}: has no {split} images"

    def _examples(self, split: FileSplit) -> Examples:
        images: list[Bytes] = []
        labels: list[Any] = []
        names: dict[int, str] | None = None
        for path in self._files[split]:
            try:
                names = _read(path, self._data, images, labels)
            except (DataError, UsageError):
                raise
            except MemoryError:
                raise DataError(f"{shown(path)}: does not fit in memory") from None
            except Exception as error:  # Arrow raises almost anything for damaged bytes
                reason = readable(str(error).partition("\n")[0])[:200]
                raise DataError(f"{shown(path)}: is damaged, or not a Parquet file: {reason}") from None
        if not images:
            raise DataError(f"{self.name}: has no {split} images")
        pixels = np.stack(images)
        pixels.flags.writeable = False
        return Examples(pixels, to_labels(np.array(labels), self.name), names)


def require_all_parts(paths: Sequence[Path]) -> None:
    """Raise ``DataError`` if one of ``paths`` is a part, as train-00000-of-00002.parquet, and others are missing."""
    names = {path.name for path in paths}
    wholes = {(parts["name"], parts["count"]): path for path in paths if (parts := _PART.fullmatch(path.name))}
    for (name, count), path in wholes.items():
        every = [f"{name}-{number:05}-of-{count}.parquet" for number in range(int(count))]
        if missing := [part for part in every if part not in names]:
            listed = readable(", ".join(missing[:MAX_NAMED]))
            more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
            raise DataError(f"{shown(path)}: other parts are missing; add {listed}{more}")


def _read(path: Path, settings: DataConfig, images: list[Bytes], labels: list[Any]) -> dict[int, str] | None:
    """Read pictures and labels of the file ``path``; return the labels' names. Raises ``DataError``."""
    try:
        import pyarrow.parquet as arrow
    except ImportError:
        raise UsageError(f"{shown(path)}: reading Parquet needs pyarrow: pip install 'mlpcli[parquet]'") from None
    with arrow.ParquetFile(path) as file:
        if file.metadata.num_rows > MAX_ROWS:
            raise DataError(f"{shown(path)}: has {file.metadata.num_rows:,} rows, which are too many")
        columns = file.schema_arrow.names
        image = next((name for name in IMAGES if name in columns), None)
        label = next((name for name in LABELS if name in columns), None)
        if image is None or label is None:
            raise DataError(
                f"{shown(path)}: has the columns {readable(', '.join(columns))[:200]}; it needs image, label"
            )
        for batch in file.iter_batches(ROWS, columns=[image, label]):
            for picture, answer in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True):
                row = f"{shown(path)}: row {len(images)}"
                data = picture.get("bytes") if isinstance(picture, dict) else picture
                if not isinstance(data, bytes):
                    raise DataError(f"{row}: has no bytes of a picture in its {image}")
                if type(answer) is not int:
                    raise DataError(f"{row}: its {label} is {readable(repr(answer))[:40]}, not a whole number")
                found = read_picture(data, settings, row)
                if images and found.shape != images[0].shape:
                    sizes = [" x ".join(map(str, shape)) for shape in (found.shape, images[0].shape)]
                    raise DataError(
                        f"{row}: has {sizes[0]} pixels, the first {sizes[1]}; "
                        "give a size to scale them to: data.size: [28, 28]"
                    )
                images.append(found)
                labels.append(answer)
        return _names(file.schema_arrow.metadata, label)


def _names(metadata: Mapping[bytes, bytes] | None, label: str) -> dict[int, str] | None:
    """Return the hub's names of the classes, if there are any."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    if not isinstance(names, list) or len(names) > MAX_CLASSES or not all(isinstance(name, str) for name in names):
        return None
    return {number: readable(name)[:MAX_NAME] for number, name in enumerate(names)}
