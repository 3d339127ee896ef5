"""Tables of images to predict, and predictions as a table: a row per image, as CSV."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpcli.analysis.evaluation import Outputs
from mlpcli.analysis.predict import Answer, Model
from mlpcli.datasets.classes import in_words
from mlpcli.datasets.collection import readable
from mlpcli.datasets.download import Say, silent
from mlpcli.datasets.images import Images, from_file
from mlpcli.datasets.pictures import pictures_below
from mlpcli.errors import DataError, UsageError, shown


def read_images(
    path: str | os.PathLike[str],
    shape: tuple[int, int] = (28, 28),
    *,
    raw: bool = False,
    transpose: bool | None = None,
) -> NDArray[np.uint8]:
    """Read images for ``Model.predict`` as ``mlpcli predict`` does: (N, rows, columns), bright strokes on dark.

    ``path`` is a picture or photograph of one digit; a folder of pictures; or an IDX file, a table or an ``.npz``. In a
    picture the digit is found, cut out, scaled and centred, unless ``raw``; without a digit the image is all 0. Images
    of the other files are not changed, except that rows and columns are swapped if ``transpose`` is true, or if it is
    None and the file has one of EMNIST's names; to read a file as a run does, give its config's ``data.transpose``.
    ``shape``, (rows, columns), is the ``image_shape`` of the model. Raises ``DataError`` for a file that cannot be read
    or does not fit, ``UsageError`` for a wrong argument, or if Pillow is missing.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"{path!r:.60} is not a file; give the path of a picture, a folder or a table")
    sides = tuple(shape) if isinstance(shape, (tuple, list)) else ()
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise UsageError(f"shape: {shape!r:.60} is not allowed; allowed: (rows, columns)")
    if transpose is not None and not isinstance(transpose, bool):
        raise UsageError(f"transpose: {transpose!r:.60} is not allowed; allowed: True, False or None")
    found = Path(os.fspath(path))
    files = (found.is_dir() and pictures_below(found)) or [found]  # the reader refuses an empty folder
    size = (sides[0], sides[1])
    return np.concatenate([images_of(file, shown(file), size, raw=raw, transpose=transpose).pixels for file in files])


def images_of(
    path: Path,
    name: str,
    shape: tuple[int, int],
    *,
    raw: bool,
    many: bool = False,
    transpose: bool | None = None,
    say: Say = silent,
) -> Images:
    """Read the images in the file ``path``, called ``name`` in messages: of a table, or by :func:`from_file`.

    ``transpose`` is data.transpose; a note is passed to ``say`` if rows and columns are swapped by the file's name.
    """
    if path.is_dir():
        raise DataError(f"{name}: is a folder without pictures, files such as 1.png or 1.jpg")
    found = images_of_table(path, name, shape, transpose, say)
    return found or from_file(path, name, shape, raw=raw, many=many, transpose=transpose, say=say)


def images_of_table(
    path: Path, name: str, shape: tuple[int, int], transpose: bool | None = None, say: Say = silent
) -> Images | None:
    """Read the images in the CSV table or .npz ``path``, called ``name`` in messages; None for another file.

    They must have ``shape``, which is the network's; labels are ignored. Raises ``DataError``.
    """
    if not path.is_file():
        return None
    from mlpcli.datasets.detect import images_in  # imports the readers of all formats

    found = images_in(path, name, shape, transpose, say)
    if found is None:
        return None
    if found.shape[1:] != shape:
        sizes = [" x ".join(map(str, each)) for each in (found.shape[1:], shape)]
        raise DataError(f"{name}: its images have {sizes[0]} pixels, the network takes {sizes[1]}")
    return Images(name, found, np.zeros(len(found), np.bool_), numbered=True)


def table_of(model: Model, answers: Sequence[Answer], columns: str | None = None) -> bytes:
    """Write ``answers`` as CSV: image, predicted, confidence, and p of each class; a blank image has no class.

    With ``columns`` the table has the image's number, from 1, and its class, under these two names, as Kaggle needs it.
    """
    if columns is not None:
        if model.multi_label:
            classes = (answer.words(model.class_names) for answer in answers)
        else:
            classes = ("" if answer.predicted is None else answer.words(model.class_names) for answer in answers)
        return _csv(columns.split(","), enumerate(classes, start=1))
    rows = (
        [
            readable(answer.name) if answer.index is None else f"{readable(answer.name)}[{answer.index}]",
            "" if answer.predicted is None else answer.words(model.class_names),
            "" if answer.predicted is None else repr(answer.confidence),
            *map(repr, answer.p.tolist()),
        ]
        for answer in answers
    )
    return _csv(["image", "predicted", "confidence", *_of_classes(model.class_names)], rows)


def labelled_table(outputs: Outputs, labels: NDArray[Any], class_names: Sequence[str]) -> bytes:
    """Write ``outputs`` for images with ``labels`` (N,) or (N, K) as CSV: image, label, predicted, confidence, p_0."""
    confidence = outputs.confidence.tolist()
    rows = (
        [i, in_words(label, class_names), in_words(predicted, class_names), repr(confidence[i]), *map(repr, p)]
        for i, (label, predicted, p) in enumerate(zip(labels, outputs.predicted, outputs.p.tolist(), strict=True))
    )
    return _csv(["image", "label", "predicted", "confidence", *_of_classes(class_names)], rows)


def _of_classes(class_names: Sequence[str]) -> list[str]:
    return [f"p_{name}" for name in class_names]


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
