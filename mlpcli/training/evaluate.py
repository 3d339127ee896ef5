"""The forward pass over a whole split: its loss, its errors, and how many hidden units are saturated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpcli.datasets.load import Split
from mlpcli.model.activations import SATURATED
from mlpcli.model.build import Architecture, allocate_arrays, build_network
from mlpcli.model.input import Input
from mlpcli.model.memory import aligned
from mlpcli.model.network import Network
from mlpcli.model.parameters import Parameters
from mlpcli.parallel.comm import SERIAL, Serial
from mlpcli.training.batches import INPUT_SCALE
from mlpcli.training.margins import Margins
from mlpcli.training.targets import Targets, count_errors

Array = NDArray[Any]

BATCH_SIZE = 1000


class Evaluator:
    """Evaluates networks of one architecture on one split, in file order; its memory is allocated once.

    ``targets`` are of the split's labels.
    """

    def __init__(self, architecture: Architecture, split: Split, targets: Targets, dtype: str) -> None:
        self._architecture, self._split = architecture, split
        self.examples = len(split)
        self._batch_size = min(BATCH_SIZE, self.examples)
        self._X = aligned((self._batch_size, split.images.shape[1]), dtype)
        self._arrays = allocate_arrays(architecture.sizes, self._batch_size, dtype)
        self._margins = Margins(split.images)
        self._targets, self._table = targets, targets.table(0.0, dtype)

    def batches(self, theta: Parameters, comm: Serial = SERIAL) -> Iterator[tuple[slice, Network]]:
        """Yield (examples, network) after the forward pass of each batch; the network is valid until the next.

        The processes of ``comm`` divide the examples.
        """
        own = comm.shard(self.examples)
        size = 0
        for start in range(own.start, own.stop, self._batch_size):
            examples = slice(start, min(start + self._batch_size, own.stop))
            images = self._split.images[examples]
            if len(images) != size:  # the first batch, and the last if it is smaller
                size = len(images)
                X = Input(self._X[:size], INPUT_SCALE)
                network = build_network(self._architecture, theta, X, self._arrays.first(size), SERIAL)
            np.copyto(X.array, images)
            X.columns[:] = self._margins.columns(np.arange(examples.start, examples.stop)[np.newaxis])[0]
            network.forward()
            yield examples, network

    def loss_and_errors(self, theta: Parameters, comm: Serial = SERIAL) -> tuple[float, int]:
        """Return the mean loss, penalty excluded, and the number of misclassified images. Collective."""
        sums = np.zeros(2)
        for examples, network in self.batches(theta, comm):
            labels = self._split.labels[examples]
            loss = self._loss(network, labels)
            sums += loss, count_errors(self._targets.predicted(network.logits, network.p), labels)
        comm.all_reduce(sums)
        return float(sums[0]) / self.examples, int(sums[1])

    def loss_and_logits(self, theta: Parameters) -> tuple[float, Array]:
        """Return the mean loss, penalty excluded, and the logits z (N, K) of all images, in file order."""
        loss, z = 0.0, np.empty((self.examples, self._architecture.sizes[-1]), theta.vector.dtype)
        for examples, network in self.batches(theta):
            loss += self._loss(network, self._split.labels[examples])
            z[examples] = network.logits
        return loss / self.examples, z

    def saturation(self, theta: Parameters, comm: Serial = SERIAL) -> list[float] | None:
        """Return each hidden layer's fraction of units with |z| > 4.6; None unless they are sigmoids. Collective."""
        if self._architecture.activation.name != "sigmoid":
            return None
        units = self._architecture.sizes[1:-1]
        counts = np.zeros(len(units))
        for _, network in self.batches(theta, comm):
            counts += [np.count_nonzero(np.abs(layer.z) > SATURATED) for layer in network.hidden]
        comm.all_reduce(counts)
        return [int(n) / (self.examples * count) for n, count in zip(counts, units, strict=True)]

    def _loss(self, network: Network, labels: Array) -> float:
        """Return the summed loss of the last forward pass; write p."""
        return float(network.loss(self._table[labels])) * len(labels)


def logits(architecture: Architecture, theta: Parameters, images: Array) -> Array:
    """Return the logits z (N, K) of ``images`` (N, D) without labels: bytes, or numbers from 0 to 1."""
    dtype, size = theta.vector.dtype, min(BATCH_SIZE, len(images))
    scale = INPUT_SCALE if images.dtype == np.uint8 else 1.0
    z = np.empty((len(images), architecture.sizes[-1]), dtype)
    X, arrays = aligned((size, architecture.sizes[0]), dtype), allocate_arrays(architecture.sizes, size, dtype)
    for start in range(0, len(images), BATCH_SIZE):
        batch = images[start : start + BATCH_SIZE]
        X, arrays = X[: len(batch)], arrays.first(len(batch))
        network = build_network(architecture, theta, Input(X, scale), arrays, SERIAL)
        X[...] = batch
        z[start : start + len(batch)] = network.forward()
    return z
