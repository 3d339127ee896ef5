"""Shuffled mini-batches: bytes are gathered, distorted or not, scaled to [0, 1] and given their targets."""

from __future__ import annotations

from collections.abc import Iterator
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
    """Inputs ``X`` (B, D) in [0, 1], targets ``Y`` (B, K), labels ``y`` (B,); valid until the next is made."""

    X: Array
    Y: Array
    y: NDArray[np.uint8]


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
        own = team.rows(batch_size)
        gathered = max(1, GATHERED_BYTES // (np.dtype(dtype).itemsize * inputs * max(1, own)))
        self._gathered = min(gathered, len(self))  # batches at a time
        rows = self._gathered * own
        self._bytes = np.empty((rows, inputs), np.uint8)
        self._X = aligned((rows, inputs), dtype)
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
        size, several = self._batch_size, self._gathered * self._batch_size
        for start in range(0, len(order), several):
            batches = [order[first : first + size] for first in range(start, min(start + several, len(order)), size)]
            shares = [batch[self._team.share(len(batch))] for batch in batches]
            chosen = np.concatenate(shares)
            rows = len(chosen)
            images, labels = self._split.images[start : start + rows], self._split.labels[start : start + rows]
            if gather:
                # mode="clip" lets numpy write straight to out; the indices are in range.
                images = np.take(self._split.images, chosen, axis=0, out=self._bytes[:rows], mode="clip")
                labels = np.take(self._split.labels, chosen, out=self._y[:rows], mode="clip")
            if self._augmentation is None:
                X = scale(images, self._X[:rows])
            else:
                X = self._augmentation.distort(images, chosen, self._X[:rows])
            Y = np.take(self._targets, labels, axis=0, out=self._Y[:rows], mode="clip")
            first = 0
            for share in shares:
                own = slice(first, first + len(share))
                yield Batch(X[own], Y[own], labels[own])
                first = own.stop


def targets(classes: int, smoothing: float) -> NDArray[np.float64]:
    """The target of each class, (K, K): row k is (1 - s) [j = k] + s / K, which is one-hot for s = 0.

    Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision", section 7. As the loss is linear
    in the target, it is 1 - s times that of the label and s times that of a class drawn at random: no probability is
    driven to 0, nor a logit to infinity. The delta stays p - Y.
    """
    one_hot: NDArray[np.float64] = np.eye(classes)
    return (1.0 - smoothing) * one_hot + smoothing / classes


def scale(images: NDArray[np.uint8], out: Array) -> Array:
    """Write the bytes ``images`` (N, D) to ``out`` (N, D), 0 .. 255 becoming 0 .. 1, and return it."""
    # The product is taken in out's own dtype: bytes times a float would go by way of float64, four times slower.
    np.copyto(out, images)
    out *= 1.0 / 255.0
    return out
