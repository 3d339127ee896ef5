"""Labels to classes: a class is what a label is called, and its number is its place among those that are trained on.

Where several may be right at once, labels (N, K) of 0 and 1, the classes are the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlpcli.datasets.collection import Bytes, Examples, distinct
from mlpcli.errors import DataError

MOST_NAMED = 12  # classes in a message


@dataclass(frozen=True)
class Classes:
    """Classes in order: what their labels are called in the files, ``labels``, and what they are to be called."""

    labels: tuple[str, ...]
    names: tuple[str, ...]


def classes_of(
    found: Examples, where: str, *, known: Sequence[str] | None = None, names: Sequence[str] | None = None
) -> Classes:
    """The classes of the training images ``found``: those that occur, in the order of their labels.

    ``known`` are the names where labels go from 0 to so many without looking; ``names`` are what the user calls them.
    Raises ``DataError``.
    """
    labels = tuple(map(str, range(len(known))) if known is not None else _called(found, where).values())
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
    """The labels of ``found`` as places in ``order``, which has what they are called: (N,) uint8, read-only.

    Labels of several classes at once, (N, K), are as they are.

    Raises ``DataError``, opening with ``where``, for a label of this ``split`` that ``order`` has not.
    """
    if found.labels.ndim == 2:
        if found.labels.shape[1] != len(order):
            raise DataError(f"{where}: {found.labels.shape[1]} columns of labels; the network tells {listed(order)}")
        return found.labels
    values, places = distinct(found.labels)
    place_of = {label: place for place, label in enumerate(order)}
    called = _called(found, where).values()
    if strangers := [label for label in called if label not in place_of]:
        raise DataError(
            f"{where}: labels outside the classes: the network tells {listed(order)}; a {split} label is "
            f"{listed(strangers)}"
        )
    table = np.array([place_of[label] for label in called], np.uint8)
    if found.labels.dtype == np.uint8 and np.array_equal(table, values):
        return found.labels  # as they are in the file
    labels: Bytes = table[places]
    labels.flags.writeable = False
    return labels


def listed(names: Sequence[str]) -> str:
    """``names`` in a line, shortened where they are many."""
    if len(names) <= MOST_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[: MOST_NAMED - 2])}, ... {names[-1]} ({len(names)} classes)"


def compared(test: Examples, classes: Classes, where: str) -> str | None:
    """Return what there is to say where the ``test`` images do not show all ``classes``.

    Raises ``DataError`` where they show others.
    """
    if test.labels.ndim == 2:
        return None
    called = _called(test, where).values()
    if strangers := [label for label in called if label not in classes.labels]:
        raise DataError(
            f"{where}: of {listed(strangers)} there are test images, and no training images; leave the test images "
            "out with data.test: false, or give training images too"
        )
    absent = [name for label, name in zip(classes.labels, classes.names, strict=True) if label not in called]
    return f"{where}: of {listed(absent)} there are training images, and no test images" if absent else None


def in_words(label: Any, names: Sequence[str]) -> str:
    """Return the name of the class ``label``; of a row of 0 and 1 (K,) those of all classes that are right."""
    row = np.asarray(label)
    if row.ndim == 0:
        return names[int(row)]
    return ", ".join(names[k] for k in np.flatnonzero(row).tolist()) or "none"


def renamed(found: Examples, classes: Classes, where: str) -> Examples:
    """``found`` with its labels called by the names of ``classes``."""
    names = dict(zip(classes.labels, classes.names, strict=True))
    return replace(found, names={value: names.get(label, label) for value, label in _called(found, where).items()})


def _called(found: Examples, where: str) -> dict[int, str]:
    """The labels that occur in ``found``, in order, and what they are called. Raises ``DataError``."""
    columns = found.labels.ndim == 2
    values = list(range(found.labels.shape[1])) if columns else distinct(found.labels)[0].tolist()
    if found.names is None:
        return {value: str(value) for value in values}
    for value in values:
        if not found.names.get(value):
            raise DataError(f"{where}: label {value} has no name, and others have")
    return {value: found.names[value] for value in values}
