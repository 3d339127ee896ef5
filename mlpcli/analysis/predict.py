"""Predict the classes of images without labels: arrays from Python, or files one by one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlpcli.analysis.evaluation import (
    LoadedModel,
    Outputs,
    check_average,
    open_model,
    plain_label,
    predictions,
    preprocessed_input,
)
from mlpcli.analysis.shifts import SHIFTS
from mlpcli.config import Config
from mlpcli.datasets.arrays import as_array
from mlpcli.datasets.images import BLANK, SEVERAL_DIGITS, Bytes, Images, Pieces
from mlpcli.errors import DataError, UsageError
from mlpcli.model.parameters import Parameters
from mlpcli.runs.directory import HasPath, path_of

Array = NDArray[Any]

TOP = 3
UNSURE = "the network is unsure: more than 1 bit of entropy"
UNSURE_BITS = 1.0  # the entropy of two equally probable classes


class Model:
    """A trained network, or an ensemble of several, ready to predict; :func:`load` makes it.

    ``path`` is its checkpoint, ``epoch`` the last epoch of training in it, ``config`` the config it was trained with.
    ``image_shape`` is the (rows, columns) of its input, ``classes`` the number K of classes, ``class_names`` their
    names. ``multi_label`` is true if an image may have several labels. ``parameters`` has the weights ``W[0]`` (D, H),
    ``W[1]`` ... and biases ``b[0]`` (H,), ... Of an ensemble these are those of its first network; ``paths`` are the
    checkpoints of all. ``average_shifts`` is the number of shifts of an image that predictions are averaged over.
    """

    def __init__(self, *networks: LoadedModel, average_shifts: int = 0) -> None:
        check_average(networks, average_shifts)
        self._networks, loaded = networks, networks[0]
        self.paths: tuple[Path, ...] = tuple(network.path for network in networks)
        self.average_shifts = average_shifts
        self.path: Path = loaded.path
        self.epoch: int = loaded.checkpoint.epoch
        self.config: Config = loaded.checkpoint.config
        self.image_shape: tuple[int, int] = loaded.checkpoint.image_shape
        self.classes: int = loaded.checkpoint.classes
        self.class_names: tuple[str, ...] = loaded.checkpoint.names
        self.multi_label: bool = loaded.checkpoint.multi_label
        self.parameters: Parameters = loaded.checkpoint.parameters

    def __repr__(self) -> str:
        if len(self.paths) > 1:
            return f"<mlpcli.Model, an ensemble of {len(self.paths)}: {', '.join(map(str, self.paths))}>"
        sizes = "-".join(map(str, self.parameters.sizes))
        return f"<mlpcli.Model {sizes}, {self.config.network.objective}, epoch {self.epoch}: {self.path}>"

    def predict(self, images: ArrayLike) -> Outputs:
        """Predict the classes of ``images``: bright strokes on a dark background. ``data.preprocessing`` is applied.

        They are N images (N, rows, columns) or (N, rows * columns), or one image (rows, columns) or (rows * columns,);
        uint8 from 0 to 255, or floats from 0 to 1. The result has ``predicted`` (N,), indices of ``class_names``, or
        (N, K) of 0 and 1 with several labels per image; ``p`` (N, K) float64, the values of the output unit, which are
        probabilities if ``probabilities`` is true; and ``confidence`` (N,), p of the predicted class. N is 1 for one
        image. Raises ``DataError`` for images of another shape or type, or with values that are not allowed;
        ``RunError`` when the outputs are not finite numbers.
        """
        return predictions(self._networks, self._rows(images), self.average_shifts)

    def preprocessed_input(self, images: Array) -> Array:
        """Return the input of the first network for ``images`` (N, rows, columns), after ``data.preprocessing``."""
        return preprocessed_input(self._networks[0].checkpoint, images.reshape(len(images), -1)).reshape(images.shape)

    def _rows(self, images: ArrayLike) -> Array:
        """Return ``images`` as (N, D), checked."""
        array = as_array(images, "images")
        rows, columns = self.image_shape
        inputs = rows * columns
        if array.shape not in ((rows, columns), (inputs,)) and array.shape[1:] not in ((rows, columns), (inputs,)):
            raise DataError(
                f"images: have the shape {array.shape}; allowed: (N, {rows}, {columns}), (N, {inputs}), "
                f"({rows}, {columns}) or ({inputs},)"
            )
        if array.dtype != np.uint8 and array.dtype.kind != "f":
            how = "convert numbers from 0 to 255 of another type by images.astype('uint8')"
            if array.dtype.kind == "b":
                how = "convert true and false to 255 and 0 by images.astype('uint8') * 255"
            raise DataError(f"images: are {array.dtype}; allowed: uint8 from 0 to 255, or floats from 0 to 1; {how}")
        if array.dtype.kind == "f" and array.size:
            low, high = float(array.min()), float(array.max())
            if not (low >= 0.0 and high <= 1.0):  # also refuses NaN
                raise DataError(
                    f"images: have values from {low:g} to {high:g}; allowed: floats from 0 to 1, or uint8 from 0 to 255"
                )
        return array.reshape(-1, inputs)


def load(
    run: HasPath | str | os.PathLike[str], *others: HasPath | str | os.PathLike[str], average_shifts: int = 0
) -> Model:
    """Load the trained network of a run or of a checkpoint: a ``Run``, or the path of either.

    It takes a run's best checkpoint if it has one, else its last. With ``others`` it is an ensemble, whose
    probabilities are the means of those of its networks. With ``average_shifts`` 4 or 8 the probabilities are the means
    over each image and its shifts by one pixel, 8 with the diagonal ones. Raises ``RunError`` when a file is missing or
    damaged, ``UsageError`` for networks whose outputs cannot be averaged, or another number of shifts.
    """
    if type(average_shifts) is not int or average_shifts not in SHIFTS:
        raise UsageError(f"average_shifts: {average_shifts!r:.60} is not allowed; allowed: 0, 4 or 8")
    return Model(*(open_model(path_of(each)) for each in (run, *others)), average_shifts=average_shifts)


@dataclass(frozen=True, eq=False)
class Answer:
    """A prediction for one image of the file ``name``; ``pixels`` (rows, columns) uint8 are the network's input.

    ``index`` counts the images of an IDX file, or the digits of a row, from 0; it is None for a picture of one digit.
    ``p`` (K,) are the values of the output unit. ``predicted`` is None if the image is blank, and a list if an image
    may have several labels; ``confidence`` is the confidence in it. ``entropy`` is that of p in bits, None if p are not
    probabilities. ``warnings`` are reasons to doubt the prediction.
    """

    name: str
    index: int | None
    pixels: NDArray[np.uint8]
    p: Array
    predicted: int | list[int] | None
    confidence: float
    entropy: float | None
    warnings: tuple[str, ...]

    def words(self, names: Sequence[str]) -> str:
        """Return the name of the predicted class, or the names of all that are predicted."""
        found = self.predicted if isinstance(self.predicted, list) else [self.predicted]
        return ", ".join(names[k] for k in found if k is not None) or "none"

    def top(self, count: int = TOP) -> list[tuple[int, float]]:
        """Return the ``count`` classes of the largest p with their p, the largest first."""
        # If several p round to the same number, the class of the largest logit goes first.
        order = sorted(range(len(self.p)), key=lambda k: (-self.p[k], k != self.predicted))
        return [(k, float(self.p[k])) for k in order[:count]]


def answers(model: Model, images: Images) -> Iterator[Answer]:
    """Yield the prediction for each of ``images``, which have ``model``'s shape; for each digit of a row of digits.

    A blank picture has no prediction. Images of an IDX file always have one: they have the form of training images.
    Raises ``RunError`` as ``predict`` does.
    """
    pixels, blank, remarks = images.pixels, images.blank, images.remarks
    row = [_surest(model, pieces) for pieces in images.row]
    many = images.many and len(row) > 0
    if many:
        pixels = np.concatenate(row)
        blank = np.zeros(len(pixels), np.bool_)
    outputs, shown = model.predict(pixels), model.preprocessed_input(pixels)
    if not many and not model.multi_label and (count := sum(map(len, row))) > 1:
        remarks += (SEVERAL_DIGITS.format(count),)
    confidence = outputs.confidence.tolist()
    bits = np.full(len(outputs.p), np.nan)
    if outputs.probabilities:  # for several labels per image, the sum of their entropies
        answers_of = [np.stack([q, 1 - q], axis=1) for q in outputs.p.T] if model.multi_label else [outputs.p]
        bits = np.sum([entropy(q) for q in answers_of], axis=0)
    for i, is_blank in enumerate(blank.tolist()):
        warnings = (*remarks, *([BLANK] if is_blank else [UNSURE] if bits[i] > UNSURE_BITS else []))
        yield Answer(
            name=images.name,
            index=i if images.numbered or many else None,
            pixels=shown[i],
            p=outputs.p[i],
            predicted=None if is_blank else plain_label(outputs.predicted[i]),
            confidence=confidence[i],
            entropy=None if np.isnan(bits[i]) else float(bits[i]),
            warnings=warnings,
        )


def _surest(model: Model, pieces: Pieces) -> Bytes:
    """Return the digits of a part, (n, rows, columns): of all ways to cut it, the one with the largest sum of log p.

    p is that of each piece's predicted class. Source of the method: O. Matan, C. Burges, Y. LeCun and J. Denker,
    "Multi-digit recognition using a space displacement neural network", NIPS 4, 1992.
    """
    if len(pieces.spans) == 1:
        return pieces.pixels
    certain = np.log(np.clip(model.predict(pieces.pixels).confidence, 1e-12, 1.0)).tolist()
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for i, (start, stop) in enumerate(pieces.spans):
        if start in best:
            total = best[start][0] + certain[i]
            if stop not in best or total > best[stop][0]:
                best[stop] = total, [*best[start][1], i]
    return pieces.pixels[best[pieces.spans[-1][1]][1]]


def entropy(p: Array) -> Array:
    """Compute - sum_k q_k log2 q_k of each row of ``p`` (N, K), q = p / sum_k p_k, in bits (N,); NaN where all p are 0.

    Shannon 1948, "A mathematical theory of communication", section 6. Softmax outputs sum to 1; those of sigmoid units
    need not.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        q = p / p.sum(axis=1, keepdims=True)
        terms = np.where(q > 0, q * np.log2(q), np.where(q == 0, 0.0, np.nan))
    bits: Array = np.abs(terms.sum(axis=1))  # avoids -0.0
    return bits
