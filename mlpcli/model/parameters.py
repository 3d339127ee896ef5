"""One flat vector of parameters, with the views W1, W2 ... b1, b2 ... into it, and how their first values are drawn.

Optimizers and reductions use the flat vector, the mathematics the views. Both are the same memory: first all weights,
then all biases, so that weight decay is one sum. The weights of a hidden unit are contiguous: W is column-major, except
the last one, which is row-major, as its rows belong to the hidden units below. So the units that a process owns are
slices of the vector, and products are a few percent faster than with row-major weights. Files have all tensors in C
order, in the order W1, b1, W2, b2 ... (:meth:`Parameters.to_c_order`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from math import sqrt
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mlpcli.model.memory import aligned

Array = NDArray[Any]


class Sharding(Protocol):
    """The processes that share a network, as far as parameters depend on them."""

    rank: int

    def shard(self, count: int) -> slice:
        """Return which of ``count`` units this process owns."""


class Parameters:
    """The parameters of a network, or a gradient of the loss with respect to them.

    ``sizes`` are the units of each layer, (D, H, ..., K). ``W[i]`` of shape (sizes[i], sizes[i+1]) and ``b[i]`` of
    shape (sizes[i+1],), those of layer l = i + 1, are views into ``vector`` (n,), as is ``weights``, all W in one. A
    ``vector`` that is given is used, not copied; raises ``ValueError`` if its length does not fit.
    """

    def __init__(self, sizes: Sequence[int], dtype: DTypeLike, vector: Array | None = None) -> None:
        self.sizes = tuple(sizes)
        shapes = list(pairwise(self.sizes))
        length = sum((rows + 1) * columns for rows, columns in shapes)
        self.vector = aligned((length,), dtype, 0.0) if vector is None else vector
        if self.vector.shape != (length,):
            raise ValueError(f"a network of sizes {self.sizes} has {length} parameters, not {self.vector.shape}")
        self.W: list[Array] = []
        start = 0
        for layer, (rows, columns) in enumerate(shapes, start=1):
            W, start = self.vector[start : start + rows * columns], start + rows * columns
            self.W.append(W.reshape(rows, columns) if layer == len(shapes) else W.reshape(columns, rows).T)
        self.weights = self.vector[:start]
        ends = np.cumsum([start, *self.sizes[1:]])
        self.b = [self.vector[first:last] for first, last in pairwise(ends)]

    def __reduce__(self) -> tuple[Any, ...]:
        return _copy, (self.sizes, self.vector)  # pickled views would be arrays of their own

    def tensors(self) -> Iterator[tuple[str, Array]]:
        """Yield the views by name: ("W1", W1), ("b1", b1), ("W2", W2) ..."""
        for layer, (W, b) in enumerate(zip(self.W, self.b, strict=True), start=1):
            yield f"W{layer}", W
            yield f"b{layer}", b

    def to_c_order(self) -> Array:
        """Return a copy (n,): W1, b1, W2, b2 ..., each in C order."""
        return np.concatenate([tensor.ravel() for _, tensor in self.tensors()])

    def from_c_order(self, vector: Array) -> None:
        """Copy ``vector`` (n,), as :meth:`to_c_order` returns it, into the parameters."""
        start = 0
        for _, tensor in self.tensors():
            tensor[...] = vector[start : start + tensor.size].reshape(tensor.shape)
            start += tensor.size

    def shard(self, comm: Sharding) -> list[tuple[Array, Array]]:
        """Return (W, b) of each layer as far as this process owns them, as views.

        It owns the weights and biases of its hidden units, and those rows of the last W that lead on from them. The
        last b is rank 0's; in the others it is an array of zeros, so that it is added once.
        """
        *hidden, last = [(W, b) for W, b in zip(self.W, self.b, strict=True)]
        owned = [(W[:, units], b[units]) for W, b in hidden for units in [comm.shard(len(b))]]
        W, b = last
        return [*owned, (W[comm.shard(len(W))], b if comm.rank == 0 else np.zeros_like(b))]

    def chunks(self, comm: Sharding, size: int) -> list[slice]:
        """Return the slices of the vector that this process owns, each of at most ``size`` entries."""
        shards = Parameters(self.sizes, np.intp, np.arange(len(self.vector))).shard(comm)
        owned = [W for W, _ in shards] + [b for _, b in (shards if comm.rank == 0 else shards[:-1])]
        spans: list[list[int]] = []
        for indices in (each for each in owned if each.size):
            first, last = int(indices.min()), int(indices.max()) + 1
            if spans and spans[-1][1] == first:
                spans[-1][1] = last
            else:
                spans.append([first, last])
        return [slice(at, min(at + size, last)) for first, last in spans for at in range(first, last, size)]


def _copy(sizes: Sequence[int], vector: Array) -> Parameters:
    parameters = Parameters(sizes, vector.dtype)
    parameters.vector[...] = vector
    return parameters


# Draws the weights (rows, columns) of one layer: rows units below it, columns units of its own, with this activation
# ("linear" in the output layer). Quoted, so that numpy.random is imported only where numbers are drawn.
Scheme = Callable[["np.random.Generator", int, int, str], Array]


def _glorot(rng: np.random.Generator, rows: int, columns: int, activation: str) -> Array:
    gain = 4.0 if activation == "sigmoid" else 1.0
    limit = gain * sqrt(6.0 / (rows + columns))
    return rng.uniform(-limit, limit, (rows, columns))


def _he(rng: np.random.Generator, rows: int, columns: int, activation: str) -> Array:
    return rng.normal(0.0, sqrt(2.0 / rows), (rows, columns))


def _lecun(rng: np.random.Generator, rows: int, columns: int, activation: str) -> Array:
    return rng.normal(0.0, sqrt(1.0 / rows), (rows, columns))


SCHEMES: dict[str, Scheme] = {"glorot": _glorot, "he": _he, "lecun": _lecun, "nielsen": _lecun}


def initialize(
    theta: Parameters,
    scheme: str,
    scale: float,
    activation: str,
    rng: np.random.Generator,
    factors: Iterable[Array] = (),
) -> None:
    """Draw the first values of ``theta``, times ``scale``; in float64, so that every dtype starts alike.

    The weights of the first layers are also multiplied by ``factors``, one array (D, H) each.

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
    draw, of_first_layers = SCHEMES[scheme], iter(factors)
    for layer, (W, b) in enumerate(zip(theta.W, theta.b, strict=True), start=1):
        function = activation if layer < len(theta.W) else "linear"
        drawn = draw(rng, W.shape[0], W.shape[1], function)
        if (factor := next(of_first_layers, None)) is not None:
            drawn *= factor
        W[...] = scale * drawn
        b[...] = scale * rng.normal(0.0, 1.0, b.shape) if scheme == "nielsen" else 0.0
