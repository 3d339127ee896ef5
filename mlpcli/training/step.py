"""One step of training: forward, loss, backward, gradient, update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mlpcli.model.blas import Axpy
from mlpcli.model.dropout import draw_mask
from mlpcli.model.input import Input
from mlpcli.model.network import Gradient, Network, WeightDecay
from mlpcli.model.parameters import Parameters
from mlpcli.parallel.comm import Serial
from mlpcli.training.adversary import Adversary
from mlpcli.training.batches import Batch
from mlpcli.training.optimizers import Optimizer
from mlpcli.training.targets import Targets, count_errors

Array = NDArray[Any]


class Accumulable(Protocol):
    """The gradient of a batch, bound to the vector it is accumulated in."""

    def accumulate(self, alpha: float = 1.0, beta: float = 0.0) -> None:
        """Compute target <- beta * target + alpha * dLoss/dtheta."""


class ReducedGradient:
    """A gradient that is a sum over processes: each computes the term of its examples, the sum is accumulated.

    ``partial`` is bound to ``buffer`` (n,), where the sum is made. ``target`` (n,) may be the same vector: then beta
    must be 0, as the sum replaces what was there.
    """

    def __init__(self, partial: Gradient, buffer: Array, target: Array, comm: Serial) -> None:
        self._partial, self._buffer, self._target, self._comm = partial, buffer, target, comm
        self._add = None if target is buffer else Axpy(buffer, target)

    def accumulate(self, alpha: float = 1.0, beta: float = 0.0) -> None:
        """Compute target <- beta * target + alpha * dLoss/dtheta."""
        assert self._add is not None or beta == 0.0
        self._partial.accumulate(alpha)
        self._comm.all_reduce(self._buffer)
        if self._add is not None:
            if beta != 1.0:
                self._target *= beta
            self._add()


class TrainingStep:
    """The training step for batches of one size in one slot. They are written to ``X``, the input of ``network``.

    ``gradient`` is accumulated in the optimizer's accumulator. ``metrics`` (processes, 2), in shared memory, has a row
    for each process of ``comm.model``. An ``adversary``, if there is one, moves the inputs of each batch first.
    """

    def __init__(
        self,
        network: Network,
        X: Input,
        gradient: Accumulable,
        optimizer: Optimizer,
        targets: Targets,
        metrics: Array,
        comm: Serial,
        adversary: Adversary | None = None,
    ) -> None:
        self.network, self.X, self.gradient, self.optimizer, self.targets = network, X, gradient, optimizer, targets
        self._comm, self._adversary = comm, adversary
        self._own_metrics = metrics[comm.model.rank]
        self._first_metrics, *self._other_metrics = metrics

    def propagate(self, batch: Batch) -> None:
        """Compute loss, errors and dz of ``batch``. Collective."""
        self.X.columns[:] = batch.columns
        if self._adversary is not None:
            self._adversary.perturb(batch.Y)
        self.network.forward()
        self._own_metrics[0] = self.network.loss(batch.Y)
        self._own_metrics[1] = count_errors(self.targets.predicted(self.network.logits, self.network.p), batch.y)
        self.network.backward(batch.Y)

    def update(self, learning_rate: float, number: int) -> tuple[float, int]:
        """Update the parameters after :meth:`propagate`. Steps are numbered from 1. Collective.

        Returns the mean loss of the batch, penalty excluded, and the number of its examples that are misclassified.
        """
        self.gradient.accumulate(*self.optimizer.begin_step(learning_rate, number))
        self.optimizer.step()
        return self._sum_metrics()

    def draw_masks(self, rate: float, hidden: Sequence[int], batch_size: int, rng: np.random.Generator) -> None:
        """Draw the dropout masks of the ``hidden`` units, as far as this process has them and the batch's examples.

        A whole mask is drawn as (H, B), whatever the number of processes and the layout of its layer.
        """
        comm = self._comm
        for layer, units in zip(self.network.hidden, hidden, strict=True):
            block = comm.model.shard(units), comm.data.shard(batch_size)
            if layer.mask is not None:
                draw_mask(rate, (units, batch_size), rng, layer.mask.T, block)

    def _sum_metrics(self) -> tuple[float, int]:
        # In shared memory: a barrier of the backward pass lies between here and where the others wrote their rows.
        # A single row is not copied: the next step writes it anew.
        sums = sum(self._other_metrics, self._first_metrics)
        self._comm.data.all_reduce(sums)
        loss, errors = sums.tolist()
        return loss, int(errors)


def gradient_norms(gradient: Parameters, theta: Parameters, l2: float) -> list[float]:
    """Return each layer's Euclidean norm of ``gradient`` plus the penalty's, over weights and biases; adds it."""
    WeightDecay(l2, theta.weights, gradient.weights).accumulate()

    def square(array: Array) -> float:
        # In float64: the square of a large float32 overflows.
        return float(np.square(array, dtype=np.float64).sum())

    return [math.sqrt(square(dW) + square(db)) for dW, db in zip(gradient.W, gradient.b, strict=True)]
