"""Import of any collection as four IDX files under MNIST's names, and classes.txt."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from mlpcli.config import DataConfig
from mlpcli.datasets import idx
from mlpcli.datasets.catalogue import FILE_NAMES
from mlpcli.datasets.collection import MAX_NAME, ROLES_OF, Bytes, FileSplit
from mlpcli.datasets.download import Progress, Say, silent
from mlpcli.datasets.idx_files import CLASSES, names_in
from mlpcli.datasets.load import Split, load_dataset
from mlpcli.errors import DataError, RunError
from mlpcli.files import write_atomically

ROWS = 1024  # images written at a time


@dataclass(frozen=True)
class Imported:
    """The imported data: names of the classes, rows and columns of the images, numbers of training and test images."""

    folder: Path
    class_names: tuple[str, ...]
    image_shape: tuple[int, int]
    train: int
    test: int


def import_data(data: DataConfig, folder: Path, *, say: Say = silent, progress: Progress | None = None) -> Imported:
    """Write the data described by ``data`` as IDX files in the new ``folder``: all of them, or nothing.

    Labels are indices in classes.txt, one name per line. Pickles are read here too. Raises as ``load_dataset`` does,
    and ``RunError`` if ``folder`` is not empty or cannot be written.
    """
    _require_new(folder)  # before data are read in vain
    whole = replace(data, validation=0.0, preprocessing=None, test=True)
    dataset = load_dataset(whole, pickles=True, say=say, progress=progress)
    names = "".join(f"{name}\n" for name in dataset.class_names)
    if (lines := names_in(names)) != list(dataset.class_names):
        changed = next(name for name, line in zip(dataset.class_names, lines, strict=False) if name != line)
        raise DataError(
            f"{dataset.name}: the class name {changed!r:.60} cannot be a line of {CLASSES}: it has blanks around it, "
            f"unprintable characters, or more than {MAX_NAME}; give others with --set data.class_names"
        )
    splits: dict[FileSplit, Split] = {"train": dataset.train}
    if dataset.has_test:
        splits["test"] = dataset.test()
    partial: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".import-"))
        partial.chmod(0o755)
        for split, found in splits.items():
            images, labels = (FILE_NAMES[role] for role in ROLES_OF[split])
            _write(partial / images, found.images.reshape(-1, *dataset.image_shape))
            _write(partial / labels, found.labels)
        write_atomically(partial / CLASSES, [names.encode()])
        os.rename(partial, folder)  # noqa: PTH104 - over an empty folder too
    except OSError as error:
        raise RunError(f"{error.filename or folder}: cannot be written: {error.strerror or error}") from None
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
    test = len(splits["test"]) if dataset.has_test else 0
    return Imported(folder, dataset.class_names, dataset.image_shape, len(dataset.train), test)


def _write(path: Path, array: Bytes) -> None:
    rows = (array[start : start + ROWS].tobytes() for start in range(0, len(array), ROWS))
    write_atomically(path, chain([idx.encoded_header(array)], rows))


def _require_new(folder: Path) -> None:
    try:
        taken = any(folder.iterdir())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise RunError(f"{folder}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
    if taken:
        raise RunError(f"{folder}: exists and is not empty; name another -o")
