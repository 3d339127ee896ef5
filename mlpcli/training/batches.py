"""Shuffled mini-batches: bytes are gathered, distorted or not, scaled to [0, 1] and given their targets."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mlpcli.datasets.load import Split
from mlpcli.model.memory import aligned
from mlpcli.training.augment import Augmentation
from mlpcli.training.parallel import ALONE, Team

Array = NDArray[Any]

# Gathering a row costs the same whatever the batch, a call to gather costs as much as many rows: small batches are
# gathered several at a time, as many as stay in a core's cache.
GATHERED_BYTES = 1 << 20


class Batch(NamedTuple):
    """Inputs ``X`` (B, D) in [0, 1], targets ``Y`` (B, K), labels ``y`` (B,); valid until the next is made.

    ``held`` are the inputs that the gradient is made from: those same rows, or, where processes share memory, all of
    the batch, of which ``X`` are this process's own.
    """

    X: Array
    Y: Array
    y: NDArray[np.uint8]
    held: Array


class Batches:
    """Makes the mini-batches of a split; the memory for them is allocated once.

    Targets are one-hot, or smoothed; images are as they are, or as ``augmentation`` distorts them, whose epoch must
    have been begun. Of each batch it makes the share of this process in the ``team``, which may be empty.
    """

    def __init__(
        self,
        split: Split,
        classes: int,
        batch_size: int,
        dtype: DTypeLike,
        *,
        smoothing: float = 0.0,
        augmentation: Augmentation | None = None,
        team: Team = ALONE,
    ) -> None:
        self._split = split
        self._team = team
        self._augmentation = augmentation
        self._batch_size = batch_size
        inputs = split.images.shape[1]
        # Rank 0 makes the memory, also of those that are forked later: it has no fewer rows than any of them.
        own, held = team.rows(batch_size), team.rows_held(batch_size)
        gathered = max(1, GATHERED_BYTES // (np.dtype(dtype).itemsize * inputs * max(1, own)))
        self._gathered = min(gathered, len(self))  # batches at a time
        rows = self._gathered * own
        self._bytes = np.empty((rows, inputs), np.uint8)
        self._X = team.allocate((self._gathered * held, inputs), dtype)
        self._Y = aligned((rows, classes), dtype)
        self._y = np.empty(rows, np.uint8)
        self._targets = targets(classes, smoothing).astype(dtype)

    def __len__(self) -> int:
        return -(-len(self._split) // self._batch_size)

    def in_order(self, order: Array | None = None) -> Iterator[Batch]:
        """The batches of the images ``order`` (N,), indices into the split; the last batch may be smaller.

        None: of all the images, in file order, where nothing need be gathered.
        """
        gather = order is not None
        order = np.arange(len(self._split)) if order is None else order
        several = self._gathered * self._batch_size
        whole = len(order) - len(order) % self._batch_size
        starts = [*range(0, whole, several), *([whole] if whole < len(order) else [])]
        for start, end in pairwise([*starts, len(order)]):
            size = min(self._batch_size, end - start)
            batches = order[start:end].reshape(-1, size)
            chosen = batches[:, self._team.share(size)].ravel()
            rows = len(chosen)
            images, labels = self._split.images[start : start + rows], self._split.labels[start : start + rows]
            if gather:
                # mode="clip" lets numpy write straight to out; the indices are in range.
                images = np.take(self._split.images, chosen, axis=0, out=self._bytes[:rows], mode="clip")
                labels = np.take(self._split.labels, chosen, out=self._y[:rows], mode="clip")
            count, held = len(batches), self._team.rows_held(size)
            each = rows // count
            X = self._X[: count * held].reshape(count, held, self._X.shape[1])
            own = X[:, self._team.own_rows(size)]
            if self._augmentation is None:
                scale(images.reshape(own.shape), own)
            Y = np.take(self._targets, labels, axis=0, out=self._Y[:rows], mode="clip")
            for number in range(count):
                at = slice(number * each, (number + 1) * each)
                if self._augmentation is not None:
                    self._augmentation.distort(images[at], chosen[at], own[number])
                yield Batch(own[number], Y[at], labels[at], X[number])


def targets(classes: int, smoothing: float) -> NDArray[np.float64]:
    """The target of each class, (K, K): row k is (1 - s) [j = k] + s / K, which is one-hot for s = 0.

    Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision", section 7. As the loss is linear
    in the target, it is 1 - s times that of the label and s times that of a class drawn at random: no probability is
    driven to 0, nor a logit to infinity. The delta stays p - Y.
    """
    one_hot: NDArray[np.float64] = np.eye(classes)
    return (1.0 - smoothing) * one_hot + smoothing / classes


def scale(images: NDArray[np.uint8], out: Array) -> Array:
    """Write the bytes ``images`` (..., D) to ``out`` (..., D), 0 .. 255 becoming 0 .. 1, and return it."""
    # The product is taken in out's own dtype: bytes times a float would go by way of float64, four times slower.
    np.copyto(out, images)
    out *= 1.0 / 255.0
    return out
