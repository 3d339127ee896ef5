"""Shuffled batches: images are gathered, distorted if asked for, and written to arrays of the caller, with targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mlpcli.datasets.load import Split
from mlpcli.model.dropout import draw_mask
from mlpcli.model.memory import aligned
from mlpcli.parallel.comm import Serial
from mlpcli.rng import keyed_rng
from mlpcli.training.augment import Augmentation
from mlpcli.training.margins import Margins

Array = NDArray[Any]

# Pixels stay 0 .. 255; the products by them apply this factor.
INPUT_SCALE = 1.0 / 255.0

# A row costs the same to gather whatever the batch, a call as much as many rows: so small batches are gathered several
# at a time, as many as stay in a core's cache. An epoch has two such groups or more, also in gradcheck, of few batches.
GATHERED_BYTES = 1 << 18


class TargetSource(Protocol):
    """A source of targets that depend on the images, not on their labels."""

    def write(self, images: Array, Y: Array) -> None:
        """Write the targets (B, K) of ``images`` (B, D), numbers from 0 to 255, to ``Y``."""


class Batch(NamedTuple):
    """A batch of ``size`` examples, and this process's shard of them; valid until the next one is made.

    Targets ``Y`` (B, K) and labels ``y`` (B,), or (B, K) where several classes may be right, are of the shard; its
    inputs are in the arrays of ``slot``. ``columns`` are [first, last + 1] of the inputs that may be nonzero, in other
    processes' shards too.
    """

    size: int
    Y: Array
    y: NDArray[np.uint8]
    columns: list[int]
    slot: int


class Batches:
    """The batches of ``split`` in each epoch, of at most ``batch_size`` examples.

    ``targets`` is the table of the targets of labels. Inputs are written into ``slots``, arrays (B, D) of the examples
    that the processes which share memory have of a batch, in turn. Images are as they are, or as ``augmentation``
    distorts them; a fraction ``dropout`` of their pixels is dropped. Without ``margins`` all columns may be nonzero. A
    ``teacher`` replaces the targets of the labels by those of the images, before any pixel is dropped.
    """

    def __init__(
        self,
        split: Split,
        targets: Array,
        batch_size: int,
        slots: Sequence[Array],
        comm: Serial,
        *,
        seed: int,
        dropout: float = 0.0,
        augmentation: Augmentation | None = None,
        margins: Margins | None = None,
        teacher: TargetSource | None = None,
    ) -> None:
        self._split, self._targets, self._batch_size = split, targets, batch_size
        self._slots, self._comm, self._seed = slots, comm, seed
        self._dropout, self._augmentation, self._margins, self._teacher = dropout, augmentation, margins, teacher
        inputs, dtype = slots[0].shape[1], slots[0].dtype
        shard = comm.shard(batch_size)
        rows = shard.stop - shard.start
        # The number of batches that are gathered at a time.
        self._batches_per_group = max(1, min(GATHERED_BYTES // (inputs * max(1, rows)), len(self) // 2))
        self._bytes = np.empty((self._batches_per_group * rows, inputs), np.uint8)
        self._labels = np.empty((self._batches_per_group * rows, *split.labels.shape[1:]), np.uint8)
        self._Y = aligned((*self._labels.shape, *targets.shape[1:]), targets.dtype)
        self._mask = aligned((rows if dropout else 0, inputs), dtype)

    def __len__(self) -> int:
        return -(-len(self._split) // self._batch_size)

    @property
    def sizes(self) -> set[int]:
        """The numbers of examples that batches have: the last of an epoch may be smaller."""
        return {self._batch_size, len(self._split) % self._batch_size or self._batch_size}

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of ``epoch``, from 1."""
        order = keyed_rng(self._seed, "order", epoch).permutation(len(self._split))
        dropout_rng = keyed_rng(self._seed, "input dropout", epoch)
        if self._augmentation is not None:
            self._augmentation.begin(epoch)
        slots = {size: [slot[self._rows_in_slot(size)] for slot in self._slots] for size in self.sizes}
        number = 0
        for group in self._groups(order):
            size = group.shape[1]
            chosen = group[:, self._comm.shard(size)]
            images, labels, Y = self._gather(chosen.ravel())
            columns = self._columns(group)
            count = chosen.shape[1]
            for i in range(len(group)):
                rows, slot = slice(i * count, (i + 1) * count), number % len(self._slots)
                X = slots[size][slot]
                self._write(images[rows], chosen[i], X)
                if self._teacher is not None:
                    self._teacher.write(X, Y[rows])
                if self._dropout:
                    self._drop(X, size, dropout_rng)
                yield Batch(size, Y[rows], labels[rows], columns[i], slot)
                number += 1

    def _groups(self, order: Array) -> Iterator[Array]:
        """Yield the indices of several batches of one size, (n, B)."""
        step = self._batches_per_group * self._batch_size
        whole = len(order) - len(order) % self._batch_size
        for start in range(0, whole, step):
            yield order[start : min(start + step, whole)].reshape(-1, self._batch_size)
        if whole < len(order):
            yield order[whole:].reshape(1, -1)

    def _gather(self, chosen: Array) -> tuple[Array, Array, Array]:
        """Return the images (n, D), labels (n,) or (n, K), and targets (n, K) of these indices (n,)."""
        count = len(chosen)
        # mode="clip" lets numpy write straight to out; the indices are in range.
        images = np.take(self._split.images, chosen, axis=0, out=self._bytes[:count], mode="clip")
        labels = np.take(self._split.labels, chosen, axis=0, out=self._labels[:count], mode="clip")
        return images, labels, np.take(self._targets, labels, axis=0, out=self._Y[:count], mode="clip")

    def _columns(self, group: Array) -> list[list[int]]:
        if self._margins is None:
            return [[0, self._slots[0].shape[1]]] * len(group)
        return self._margins.columns(group)

    def _rows_in_slot(self, size: int) -> slice:
        shard = self._comm.data.shard(size)
        return self._comm.model.shard(shard.stop - shard.start)

    def _write(self, images: Array, chosen: Array, X: Array) -> None:
        if self._augmentation is None:
            np.copyto(X, images)
        else:
            self._augmentation.distort(images, chosen, X)

    def _drop(self, X: Array, size: int, rng: np.random.Generator) -> None:
        """Multiply the inputs by their masks: equation (11) for a = X."""
        mask = self._mask[: len(X)]
        draw_mask(self._dropout, (size, X.shape[1]), rng, mask, (self._comm.shard(size), slice(None)))
        X *= mask
