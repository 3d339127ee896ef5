"""From labels to classes: a class is the name of a label, its number the index among the names in training.

With several labels per image, (N, K) of 0 and 1, the classes are the columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlpcli.datasets.collection import Bytes, Examples, distinct, readable, shown
from mlpcli.errors import DataError
from mlpcli.files import read

MAX_NAMED = 12  # classes in a message
MAX_TEXT = 64 * 1024  # bytes of a file of names


@dataclass(frozen=True)
class Classes:
    """Classes in order: ``labels`` are their names in the files, ``names`` those to display."""

    labels: tuple[str, ...]
    names: tuple[str, ...]


def classes_of(
    found: Examples, where: str, *, known: Sequence[str] | None = None, names: Sequence[str] | None = None
) -> Classes:
    """Return the classes of the training images ``found``: those that occur, in the order of their labels.

    ``known`` are the names if the number of classes is known without reading; ``names`` are the user's names for them.
    Raises ``DataError``.
    """
    labels = tuple(map(str, range(len(known))) if known is not None else _names_by_label(found, where).values())
    given = names if names is not None else known if known is not None else labels
    if len(given) != len(labels):
        raise DataError(
            f"{where}: data.class_names has {len(given)} names, and there are {len(labels)} classes: {listed(labels)}"
        )
    for name in given:
        if list(given).count(name) > 1:
            raise DataError(f"{where}: two classes are called {name!r}; name them with data.class_names")
    return Classes(labels, tuple(given))


def indices(found: Examples, order: Sequence[str], where: str, split: str) -> Bytes:
    """Return the labels of ``found`` as indices in ``order``, the names of the classes: (N,) uint8, read-only.

    Several labels per image, (N, K), are not changed.

    Raises ``DataError``, opening with ``where``, for a label of this ``split`` that is not in ``order``.
    """
    if found.labels.ndim == 2:
        if found.labels.shape[1] != len(order):
            raise DataError(f"{where}: {found.labels.shape[1]} columns of labels; the network predicts {listed(order)}")
        return found.labels
    values, places = distinct(found.labels)
    place_of = {label: place for place, label in enumerate(order)}
    called = _names_by_label(found, where).values()
    if unknown := [label for label in called if label not in place_of]:
        raise DataError(
            f"{where}: labels outside the classes: the network predicts {listed(order)}; a {split} label is "
            f"{listed(unknown)}"
        )
    table = np.array([place_of[label] for label in called], np.uint8)
    if found.labels.dtype == np.uint8 and np.array_equal(table, values):
        return found.labels  # unchanged
    labels: Bytes = table[places]
    labels.flags.writeable = False
    return labels


def listed(names: Sequence[str]) -> str:
    """Join ``names`` in a line, shortened if there are many."""
    if len(names) <= MAX_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[: MAX_NAMED - 2])}, ... {names[-1]} ({len(names)} classes)"


def compared(test: Examples, classes: Classes, where: str) -> str | None:
    """Return a message if the ``test`` images do not show all ``classes``, else None.

    Raises ``DataError`` if they show others.
    """
    if test.labels.ndim == 2:
        return None
    called = _names_by_label(test, where).values()
    if unknown := [label for label in called if label not in classes.labels]:
        raise DataError(
            f"{where}: {listed(unknown)} in the test images, but not in the training images; leave the test images "
            "out with data.test: false, or add training images"
        )
    absent = [name for label, name in zip(classes.labels, classes.names, strict=True) if label not in called]
    return f"{where}: {listed(absent)} in the training images, but not in the test images" if absent else None


def in_words(label: Any, names: Sequence[str]) -> str:
    """Return the name of the class ``label``; for a row of 0 and 1 (K,) the names of all its classes."""
    row = np.asarray(label)
    if row.ndim == 0:
        return names[int(row)]
    return ", ".join(names[k] for k in np.flatnonzero(row).tolist()) or "none"


def renamed(found: Examples, classes: Classes, where: str) -> Examples:
    """Return ``found`` with the names of ``classes``."""
    names = dict(zip(classes.labels, classes.names, strict=True))
    return replace(
        found, names={value: names.get(label, label) for value, label in _names_by_label(found, where).items()}
    )


def emnist_names(folder: Path, prefix: str) -> Mapping[int, str] | None:
    """Return the names of the labels in EMNIST's PREFIX-mapping.txt in ``folder``, if it is there.

    Each of its lines is a label and the codes of its characters. Raises ``DataError``.
    """
    path = folder / f"{prefix}-mapping.txt"
    if not path.is_file():
        return None
    try:
        lines = read(path, MAX_TEXT).decode("utf-8-sig").splitlines()
        numbers = [[int(word) for word in line.split()[:2]] for line in lines if line.strip()]
        return {label: readable(chr(code)) for label, code in numbers}
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read ({error.strerror or error})") from None
    except (ValueError, OverflowError):
        raise DataError(f"{shown(path)}: is not lines of a label and a character code") from None


def _names_by_label(found: Examples, where: str) -> dict[int, str]:
    """Return the labels that occur in ``found``, in order, with their names. Raises ``DataError``."""
    columns = found.labels.ndim == 2
    values = list(range(found.labels.shape[1])) if columns else distinct(found.labels)[0].tolist()
    if found.names is None:
        return {value: str(value) for value in values}
    for value in values:
        if not found.names.get(value):
            raise DataError(f"{where}: label {value} has no name, but others have")
    return {value: found.names[value] for value in values}
