"""The forward pass over a whole split: its loss, its errors, and how many hidden units are saturated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpcli.datasets.load import Split
from mlpcli.model.activations import SATURATED
from mlpcli.model.memory import aligned
from mlpcli.model.network import Buffers, Network, Pass
from mlpcli.model.parameters import Parameters
from mlpcli.training.batches import UNIT, Batch, Batches
from mlpcli.training.parallel import ALONE, Team

Array = NDArray[Any]

BATCH_SIZE = 1000


class Measure:
    """Measures networks of one form on one split, in file order; its memory is allocated once."""

    def __init__(self, network: Network, split: Split, classes: int, dtype: str) -> None:
        self._network = network
        self.examples = len(split)
        batch_size = min(BATCH_SIZE, self.examples)
        self._batches = Batches(split, classes, batch_size, dtype, find_lit=True)
        self._buffers = network.buffers(batch_size, dtype)
        self._theta: Parameters | None = None
        self._bound: dict[int, Pass] = {}  # to the last theta, by the size of a batch

    def passes(self, theta: Parameters, team: Team = ALONE) -> Iterator[tuple[Batch, Buffers]]:
        """Each batch with what the forward pass left in the buffers; both are valid until the next.

        Only this process's share of the images, where it is in a ``team``.
        """
        if theta is not self._theta:
            self._theta, self._bound = theta, {}
        bound = self._bound
        for batch in self._batches.in_order(team.share(self.examples)):
            size = len(batch.y)
            if size not in bound:
                bound[size] = Pass(self._network, theta, batch.X, self._buffers.rows(slice(0, size)), UNIT)
            bound[size].forward(batch.lit)
            yield batch, bound[size].t

    def loss_and_errors(self, theta: Parameters, team: Team = ALONE) -> tuple[float, int]:
        """The mean loss, penalty excluded, and the number of images whose largest logit is not their label's."""
        loss, wrong = 0.0, 0
        for batch, t in self.passes(theta, team):
            loss += float(self._network.loss(batch.Y, t)) * len(batch.y)
            wrong += errors(t, batch)
        found = np.array([loss, wrong, 0.0])
        team.sum(found)
        return float(found[0]) / self.examples, int(found[1])

    def loss_and_logits(self, theta: Parameters) -> tuple[float, Array]:
        """The mean loss, penalty excluded, and the logits z (N, K) of all images, in file order."""
        loss, z = 0.0, np.empty((self.examples, self._network.sizes[-1]), theta.vector.dtype)
        done = 0
        for batch, t in self.passes(theta):
            loss += float(self._network.loss(batch.Y, t)) * len(batch.y)
            z[done : done + len(batch.y)] = t.z[-1]
            done += len(batch.y)
        return loss / self.examples, z

    def saturation(self, theta: Parameters, team: Team = ALONE) -> list[float] | None:
        """By hidden layer, the share of units with |z| > 4.6 over all images; None where they are not sigmoids."""
        if self._network.activation.name != "sigmoid":
            return None
        flat = np.zeros(len(self._network.sizes) - 1)  # by layer, and an entry for the team
        for _, t in self.passes(theta, team):
            flat[:-1] += [np.count_nonzero(np.abs(z) > SATURATED) for z in t.z[:-1]]
        team.sum(flat)
        return [int(n) / (self.examples * units) for n, units in zip(flat[:-1], self._network.sizes[1:-1], strict=True)]


def logits(network: Network, theta: Parameters, images: Array) -> Array:
    """The logits z (N, K) of ``images`` (N, D) that have no labels: bytes, or numbers from 0 to 1."""
    dtype = theta.vector.dtype
    unit = UNIT if images.dtype == np.uint8 else 1.0
    z = np.empty((len(images), network.sizes[-1]), dtype)
    X = aligned((min(BATCH_SIZE, len(images)), network.sizes[0]), dtype)
    buffers = network.buffers(len(X), dtype)
    bound = Pass(network, theta, X, buffers, unit)
    for first in range(0, len(images), BATCH_SIZE):
        batch = images[first : first + BATCH_SIZE]
        if len(batch) < len(X):
            X = X[: len(batch)]
            bound = Pass(network, theta, X, buffers.rows(slice(0, len(batch))), unit)
        X[...] = batch
        z[first : first + len(batch)] = bound.forward()
    return z


def errors(t: Buffers, batch: Batch) -> int:
    """How many examples of ``batch`` are not classed as their label; the class is that of the largest logit."""
    return int(np.count_nonzero(t.z[-1].argmax(axis=1) != batch.y))
