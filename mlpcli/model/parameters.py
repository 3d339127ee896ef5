"""One flat vector of parameters, with the views W1, b1, W2, b2 ... into it, and how their first values are drawn.

The flat vector is what update rules and messages between processes see; the views are what the mathematics sees. Both
are the same memory. In it the weights of a hidden unit lie side by side: the columns of W, one after the other, but for
the last layer, whose rows belong to the hidden units below it. So a process that has some of the units has stretches
of the vector, and matrix products are a few percent quicker than by rows. Files have all tensors row by row, in
:meth:`Parameters.by_rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mlpcli.model.memory import aligned

Array = NDArray[Any]

# Which of so many rows or columns are meant.
Part = Callable[[int], slice]


def every(count: int) -> slice:
    """All of them."""
    return slice(0, count)


class Parameters:
    """The parameters of a network, or a gradient of the loss with respect to them.

    ``sizes`` are the units of each layer, (D, H, ..., K). ``vector`` is flat; ``W[l]`` of shape (sizes[l], sizes[l+1])
    and ``b[l]`` of shape (sizes[l+1],) are views into it, in the order W1, b1, W2, b2 ..., of all W but the last the
    transposes. A ``vector`` that is given is used, not copied; raises ``ValueError`` if its length does not fit.
    """

    def __init__(self, sizes: Sequence[int], dtype: DTypeLike, vector: Array | None = None) -> None:
        self.sizes = tuple(sizes)
        length = sum((rows + 1) * columns for rows, columns in pairwise(self.sizes))
        self.vector = aligned((length,), dtype, 0.0) if vector is None else vector
        if self.vector.shape != (length,):
            raise ValueError(f"a network of sizes {self.sizes} has {length} parameters, not {self.vector.shape}")
        self.W: list[Array] = []
        self.b: list[Array] = []
        start = 0
        for layer, (rows, columns) in enumerate(pairwise(self.sizes)):
            end = start + rows * columns
            weights = self.vector[start:end]
            hidden = layer < len(self.sizes) - 2
            self.W.append(weights.reshape(columns, rows).T if hidden else weights.reshape(rows, columns))
            self.b.append(self.vector[end : end + columns])
            start = end + columns

    def __reduce__(self) -> tuple[Any, ...]:
        return _copy, (self.sizes, self.vector)  # views that were pickled would be arrays of their own

    def tensors(self) -> Iterator[tuple[str, Array]]:
        """The views by name: ("W1", W1), ("b1", b1), ("W2", W2) ..."""
        for layer, (W, b) in enumerate(zip(self.W, self.b, strict=True), start=1):
            yield f"W{layer}", W
            yield f"b{layer}", b

    def by_rows(self) -> Array:
        """A copy of the vector (n,), all tensors row by row."""
        return np.concatenate([tensor.ravel() for _, tensor in self.tensors()])

    def fill_by_rows(self, vector: Array) -> None:
        """Take the numbers of ``vector`` (n,), all tensors row by row."""
        start = 0
        for _, tensor in self.tensors():
            tensor[...] = vector[start : start + tensor.size].reshape(tensor.shape)
            start += tensor.size

    def layers(self, part: Part = every) -> list[LayerPart]:
        """Of each layer the weights of the ``part`` of the hidden units that is asked for, and that of b; views.

        A hidden layer's W has columns for its units, the last layer's rows for the units below it.
        """
        found = []
        for W, b in zip(self.W, self.b, strict=True):
            rows, columns = map(every, W.shape)
            biases = part(len(b))
            if W is self.W[-1]:
                rows = part(len(W))
            else:
                columns = biases
            found.append(LayerPart(rows, columns, biases, W[rows, columns], b[biases]))
        return found

    def stretches(self, entries: int, part: Part = every) -> list[slice]:
        """Where that ``part`` of all layers is in the flat vector, in order; none of more than so many ``entries``."""
        ranges, start = [[0, 0]], 0
        for W, b, layer in zip(self.W, self.b, self.layers(part), strict=True):
            end = start + W.size
            own, each = (layer.rows, W.shape[1]) if W is self.W[-1] else (layer.columns, len(W))
            for first, last in (
                (start + own.start * each, start + own.stop * each),
                (end + layer.biases.start, end + layer.biases.stop),
            ):
                if first == ranges[-1][1]:
                    ranges[-1][1] = last
                else:
                    ranges.append([first, last])
            start = end + b.size
        return [
            slice(first, min(first + entries, last)) for start, last in ranges for first in range(start, last, entries)
        ]

    def pieces(self, stretches: Iterable[slice]) -> list[Piece]:
        """What is in each of these stretches of the flat vector."""
        found = []
        for own in stretches:
            weights, start = [], 0
            for W, b in zip(self.W, self.b, strict=True):
                first, last = max(start, own.start), min(start + W.size, own.stop)
                if first < last:
                    weights.append(self.vector[first:last])
                start += W.size + b.size
            found.append(Piece(self.vector[own], weights))
        return found


class LayerPart(NamedTuple):
    """Some ``rows`` and ``columns`` of a layer's weights W (D, H), and some ``biases`` of its b (H,)."""

    rows: slice
    columns: slice
    biases: slice
    W: Array
    b: Array


class Piece(NamedTuple):
    """A stretch of the flat vector, and in ``W`` the weights, not biases, in it, flat; views.

    For what is done to each parameter alone, a piece at a time, while the piece is in the processor's cache.
    """

    vector: Array
    W: list[Array]


def _copy(sizes: Sequence[int], vector: Array) -> Parameters:
    made = Parameters(sizes, vector.dtype)
    made.vector[...] = vector
    return made


# A scheme draws the weights (rows, columns) of one layer: rows units below it, columns units of its own, whose
# activation is named ("linear" for the output layer).
Scheme = Callable[[np.random.Generator, int, int, str], Array]


def _glorot(rng: np.random.Generator, rows: int, columns: int, activation: str) -> Array:
    gain = 4.0 if activation == "sigmoid" else 1.0
    limit = gain * sqrt(6.0 / (rows + columns))
    return rng.uniform(-limit, limit, (rows, columns))


def _he(rng: np.random.Generator, rows: int, columns: int, activation: str) -> Array:
    return rng.normal(0.0, sqrt(2.0 / rows), (rows, columns))


def _lecun(rng: np.random.Generator, rows: int, columns: int, activation: str) -> Array:
    return rng.normal(0.0, sqrt(1.0 / rows), (rows, columns))


SCHEMES: dict[str, Scheme] = {"glorot": _glorot, "he": _he, "lecun": _lecun, "nielsen": _lecun}


def initialize(theta: Parameters, scheme: str, scale: float, activation: str, rng: np.random.Generator) -> None:
    """Draw the first values of ``theta``, times ``scale``. Drawn in float64, so that every dtype starts alike.

    ``glorot``
        W uniform in +-g sqrt(6 / (rows + columns)) (Glorot and Bengio 2010, equation 16), with g = 4 for sigmoid units
        (LISA lab, Deep Learning Tutorials, "Multilayer Perceptron"): the slope of a sigmoid is a quarter of tanh's, for
        which the rule was derived, and without it the signal fades with depth. g = 1 for all others; b = 0.
    ``he``
        W normal with variance 2 / rows (He et al. 2015, equation 10), for relu; b = 0.
    ``lecun``
        W normal with variance 1 / rows (LeCun et al. 1998, "Efficient BackProp", equation 16); b = 0.
    ``nielsen``
        W as lecun's, b normal with variance 1 (Nielsen 2015, "Neural Networks and Deep Learning", chapter 3).
    """
    draw = SCHEMES[scheme]
    for layer, (W, b) in enumerate(zip(theta.W, theta.b, strict=True), start=1):
        own = activation if layer < len(theta.W) else "linear"
        W[...] = scale * draw(rng, W.shape[0], W.shape[1], own)
        b[...] = scale * rng.normal(0.0, 1.0, b.shape) if scheme == "nielsen" else 0.0
