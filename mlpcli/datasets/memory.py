"""Arrays of a Python program as a data set: images of the usual shapes and types, labels of the usual kinds."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Number
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpcli.datasets.arrays import as_array, as_images, to_bytes, to_labels
from mlpcli.datasets.collection import Array, Collection, Examples, FileSplit, in_order, printable
from mlpcli.errors import DataError, UsageError, shown

ARRAYS = "<arrays>"  # the value of data.dataset; an unlikely file name

Pair = tuple[npt.ArrayLike, npt.ArrayLike]  # images and labels


class Arrays(Collection):
    """A data set of ``data`` and perhaps ``test``, each a pair of images and labels; ``size`` is data.size.

    Images are (N, h, w), (N, h, w, 1), (N, 1, h, w) or (N, h w), of numbers up to 255, floats from 0 to 1, or bools.
    Labels are N whole numbers or names, (N,) or (N, 1); or one-hot (N, K); or several per image, (N, K) of 0 and 1.
    Raises ``UsageError`` for anything but pairs, ``DataError`` for other arrays.
    """

    def __init__(self, data: Pair, test: Pair | None, size: tuple[int, int] | None) -> None:
        super().__init__(ARRAYS)
        self._read = {"train": _examples(data, "data", size)}
        if test is not None:
            several = self._read["train"].labels.ndim == 2
            self._read["test"] = _examples(test, "test", size, several=several)

    def prepare(self, split: FileSplit) -> bool:
        """Return True if ``split`` exists."""
        return split in self._read

    def missing(self, split: FileSplit) -> str:
        """Return why ``split`` does not exist."""
        return f"no {split}=(X, y) is given"

    def _examples(self, split: FileSplit) -> Examples:
        return self._read[split]


def _examples(pair: Pair, name: str, size: tuple[int, int] | None, *, several: bool = False) -> Examples:
    """Return the images and labels of ``pair``, the argument ``name``.

    Rows of 0 and 1 with a single 1 each are one-hot, unless an image is known to have ``several`` labels.
    """
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise UsageError(f"{name}: must be a pair (X, y), images and labels; this is {_kind(pair)}")
    X, y = as_array(pair[0], f"{name}: X"), _labels(pair[1], f"{name}: y")
    if X.dtype.kind in "iu" and X.size and X.max() == 1:
        raise DataError(f"{name}: X: whole numbers go from 0 to 255, and these are 0 and 1; give floats or bools")
    images = np.ascontiguousarray(to_bytes(as_images(X, f"{name}: X", size), f"{name}: X"))
    images.flags.writeable = False
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    elif y.ndim == 2 and not several and _is_one_hot(y):
        y = y.argmax(axis=1)
    labels = None if y.ndim not in (1, 2) or y.dtype.kind in "OUST" else to_labels(y, f"{name}: y")
    if y.ndim != 1 and (labels is None or labels.ndim == 1):
        raise DataError(f"{name}: y: labels are (N,), or (N, K) of 0 and 1; these are of the shape {y.shape}")
    if len(images) != len(y):
        raise DataError(f"{name}: X has {len(images)} images and y {len(y)} labels")
    if labels is None:
        return Examples(images, *_of_words(y.tolist(), f"{name}: y"))
    return Examples(images, labels)


def _labels(values: Any, where: str) -> Array:
    """Return the labels ``values`` as an array: of numbers if all are numbers. Raises ``DataError``."""
    y = as_array(values, where)
    if y.dtype.kind in "US" and isinstance(values, (list, tuple)):
        y = np.asarray(values, object)  # numpy has made text of NaN and of numbers
    if y.dtype.kind == "O" and all(isinstance(label, (Number, np.bool_)) for label in y.ravel().tolist()):
        y = np.asarray(y.tolist())
    return y


def _kind(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return "an array" if isinstance(value, np.ndarray) else f"of type {type(value).__name__}"


def _is_one_hot(y: Array) -> bool:
    return y.dtype.kind in "biuf" and bool(((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all())


def _of_words(words: Sequence[Any], where: str) -> tuple[Array, dict[int, str]]:
    """Return labels that are names as indices among them, and the names, with unprintable characters replaced.

    Raises ``DataError`` if one is missing, or if different labels would have one name.
    """
    name_of: dict[Any, str] = {}
    word_of: dict[str, Any] = {}
    for at, word in enumerate(words):
        name = printable(word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word))
        # NaN is not equal to itself.
        if not isinstance(word, (str, bytes, Number)) or word != word or not name:
            raise DataError(f"{where}: image {at} has no label, but {shown(repr(word), 60)}")
        other = word_of.setdefault(name_of.setdefault(word, name), word)
        if name_of[word] != name or other != word:
            raise DataError(
                f"{where}: the labels {shown(repr(other), 60)} and {shown(repr(word), 60)} cannot be told apart; make "
                "all of them whole numbers, or different printable text"
            )
    places = {name: place for place, name in enumerate(in_order(set(word_of)))}
    labels = np.array([places[name_of[word]] for word in words], np.int64)
    labels.flags.writeable = False
    return labels, {place: name for name, place in places.items()}
