"""Shuffled mini-batches: bytes are gathered, distorted or not, and given their targets."""

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

# What inputs are multiples of: a byte stands for a number from 0 to 1, and the products by it are scaled instead.
UNIT = 1.0 / 255.0

# Gathering a row costs the same whatever the batch, a call to gather costs as much as many rows: small batches are
# gathered several at a time, as many as stay in a core's cache.
GATHERED_BYTES = 1 << 18

# The lit pixels of a batch begin and end at multiples of so many, but for the end of an image: as vectors of the
# processor do. Of matrices that begin in between small products take 1.5 times as long.
LIT_STEP = 16
IMAGES_AT_A_TIME = 4096

EVERY = slice(None)


class Batch(NamedTuple):
    """Inputs ``X`` (B, D), 0 .. 255, targets ``Y`` (B, K), labels ``y`` (B,); valid until the next is made.

    Pixels that are not ``lit`` are dark in all images of the batch, also in those of other processes. ``place`` says in
    which of the places ``X`` is.
    """

    X: Array
    Y: Array
    y: NDArray[np.uint8]
    lit: slice
    place: int


class Batches:
    """Makes the mini-batches of a split; the memory for them is allocated once.

    Targets are one-hot, or smoothed; images are as they are, or as ``augmentation`` distorts them, whose epoch must
    have been begun. Of each batch it makes the share of this process in the ``team``, which may be empty. With
    ``find_lit`` it finds out which pixels are lit in a batch, once it knows of each image; else, and where images are
    distorted, all may be.
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
        find_lit: bool = False,
        team: Team = ALONE,
    ) -> None:
        self._split = split
        self._team = team
        self._augmentation = augmentation
        self._batch_size = batch_size
        inputs = split.images.shape[1]
        # Rank 0 makes the memory, also of those that are forked later: it has no fewer rows than any of them.
        own = team.rows(batch_size)
        gathered = max(1, GATHERED_BYTES // (inputs * max(1, own)))
        self._gathered = min(gathered, len(self))  # batches at a time
        rows = self._gathered * own
        self._bytes = np.empty((rows, inputs), np.uint8)
        # Where processes share them, one may write the next batch while another still reads this one.
        self._X = [team.allocate((team.rows_held(batch_size), inputs), dtype) for _ in range(min(2, team.sharers))]
        self._Y = aligned((rows, classes), dtype)
        self._y = np.empty(rows, np.uint8)
        self._targets = targets(classes, smoothing).astype(dtype)
        self._lit = lit_pixels(split.images) if find_lit and augmentation is None else None

    def places(self, size: int) -> list[Array]:
        """Where inputs are, of a batch of ``size`` images, that this process makes its gradient from.

        Those of its own rows, or, where processes share memory, of all rows; batches come in each place in turn.
        """
        return [X[: self._team.rows_held(size)] for X in self._X]

    def __len__(self) -> int:
        return -(-len(self._split) // self._batch_size)

    def in_order(self, order: Array | slice = EVERY) -> Iterator[Batch]:
        """The batches of the images ``order`` (N,), indices into the split; the last batch may be smaller.

        A slice: of these images in file order, where nothing need be gathered. It has no step.
        """
        gather, first = self._team.size > 1 or not isinstance(order, slice), 0
        if isinstance(order, slice):
            order = np.arange(len(self._split))[order]
            first = int(order[0]) if len(order) else 0
        several = self._gathered * self._batch_size
        whole = len(order) - len(order) % self._batch_size
        starts = [*range(0, whole, several), *([whole] if whole < len(order) else [])]
        for start, end in pairwise([*starts, len(order)]):
            size = min(self._batch_size, end - start)
            batches = order[start:end].reshape(-1, size)
            chosen = batches[:, self._team.share(size)].ravel()
            rows = len(chosen)
            in_file = slice(first + start, first + start + rows)
            images, labels = self._split.images[in_file], self._split.labels[in_file]
            if gather:
                # mode="clip" lets numpy write straight to out; the indices are in range.
                images = np.take(self._split.images, chosen, axis=0, out=self._bytes[:rows], mode="clip")
                labels = np.take(self._split.labels, chosen, out=self._y[:rows], mode="clip")
            places = [X[self._team.own_rows(size)] for X in self.places(size)]
            Y = np.take(self._targets, labels, axis=0, out=self._Y[:rows], mode="clip")
            lit = self._lit_in(batches)
            each = rows // len(batches)
            for number in range(len(batches)):
                at = slice(number * each, (number + 1) * each)
                place = (start // self._batch_size + number) % len(places)
                X = places[place]
                if self._augmentation is not None:
                    self._augmentation.distort(images[at], chosen[at], X)
                else:
                    np.copyto(X, images[at])
                yield Batch(X, Y[at], labels[at], lit[number], place)

    def _lit_in(self, batches: Array) -> list[slice]:
        """Where the pixels are that are lit in each of ``batches`` (n, B), indices of images."""
        if self._lit is None:
            return [slice(None)] * len(batches)
        first, last = self._lit[0][batches].min(axis=1), self._lit[1][batches].max(axis=1)
        ends = np.minimum(LIT_STEP * last.astype(np.intp), self._X[0].shape[1])
        return list(map(slice, (LIT_STEP * first.astype(np.intp)).tolist(), ends.tolist()))


def lit_pixels(images: NDArray[np.uint8]) -> tuple[Array, Array]:
    """Where the pixels of each image that are not 0 begin and end, (N,) each, in steps of ``LIT_STEP`` pixels.

    Handwriting leaves the margins free: of 32 of MNIST's images a tenth of the pixels is before the first that is lit
    or after the last.
    """
    count, inputs = images.shape
    first, last = np.empty((2, count), np.min_scalar_type(-(-inputs // LIT_STEP)))
    for start in range(0, count, IMAGES_AT_A_TIME):
        own = slice(start, start + IMAGES_AT_A_TIME)
        lit = images[own] != 0
        first[own] = lit.argmax(axis=1) // LIT_STEP
        last[own] = -(-(inputs - lit[:, ::-1].argmax(axis=1)) // LIT_STEP)
    return first, last


def targets(classes: int, smoothing: float) -> NDArray[np.float64]:
    """The target of each class, (K, K): row k is (1 - s) [j = k] + s / K, which is one-hot for s = 0.

    Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision", section 7. As the loss is linear
    in the target, it is 1 - s times that of the label and s times that of a class drawn at random: no probability is
    driven to 0, nor a logit to infinity. The delta stays p - Y.
    """
    one_hot: NDArray[np.float64] = np.eye(classes)
    return (1.0 - smoothing) * one_hot + smoothing / classes
