"""Every image comes once an epoch, in the epoch's order, as the number of its byte."""

from __future__ import annotations

import tracemalloc
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.config import AugmentationConfig
from mlpcli.datasets.load import Split
from mlpcli.parallel.comm import SERIAL, Serial
from mlpcli.rng import keyed_rng
from mlpcli.training import batches
from mlpcli.training.augment import Augmentation
from mlpcli.training.batches import Batches
from mlpcli.training.margins import Margins
from mlpcli.training.targets import OneHot
from tests.parallel.threads import DataParallel, Exchange, ModelParallel
from tests.training import reference

Array = np.ndarray
CLASSES, SEED = 5, 11


def split_of(count: int, pixels: int = 3) -> Split:
    """Return ``count`` images that all differ, read-only as a data set's are."""
    images = np.empty((count, pixels), np.uint8)
    images[:, 0], images[:, 1], images[:, 2:] = np.arange(count) % 256, np.arange(count) // 256, 255
    labels = (np.arange(count) * 7 % CLASSES).astype(np.uint8)
    images.flags.writeable = labels.flags.writeable = False
    return Split(images, labels)


class Copy(NamedTuple):
    """A batch and the contents of its slot."""

    size: int
    X: Array
    Y: Array
    y: Array
    columns: list[int]
    slot: int


def made(
    split: Split, batch_size: int, comm: Serial = SERIAL, dtype: str = "float64", **more: Any
) -> tuple[Batches, list[Array]]:
    """Return batches and their slots."""
    local = comm.data.shard(batch_size)
    slots = [np.full((local.stop - local.start, split.images.shape[1]), np.nan, dtype) for _ in range(2)]
    of_classes = OneHot(CLASSES).table(more.pop("smoothing", 0.0), dtype)
    return Batches(split, of_classes, batch_size, slots, comm, seed=more.pop("seed", SEED), **more), slots


def epoch_of(split: Split, batch_size: int, comm: Serial = SERIAL, epoch: int = 1, **more: Any) -> list[Copy]:
    """Return copies of the batches of ``epoch``, of this process's rows if processes share a slot."""
    source, slots = made(split, batch_size, comm, **more)
    found = []
    for batch in source.epoch(epoch):
        local = comm.data.shard(batch.size)
        own = comm.model.shard(local.stop - local.start)
        found.append(Copy(batch.size, slots[batch.slot][own].copy(), batch.Y.copy(), batch.y.copy(), *batch[3:]))
    return found


def joined(copies: list[Copy], name: str) -> Array:
    return np.concatenate([getattr(copy, name) for copy in copies])


sizes = st.tuples(st.integers(1, 300), st.integers(1, 330), st.integers(1, 10_000))


@given(sizes, st.integers(1, 9), st.sampled_from(["float32", "float64"]))
def test_every_image_comes_once_in_epoch_order(case: tuple[int, int, int], epoch: int, dtype: str):
    """For any number of batches gathered at a time."""
    count, batch_size, gathered = case
    split = split_of(count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "GATHERED_BYTES", gathered)
        found = epoch_of(split, batch_size, epoch=epoch, dtype=dtype)
    whole, rest = divmod(count, batch_size)
    (source, _), sizes = made(split, batch_size), [batch_size] * whole + [rest] * (rest > 0)
    assert [copy.size for copy in found] == [len(copy.X) for copy in found] == sizes
    assert len(source) == len(found)
    assert set(sizes) <= source.sizes <= {*sizes, batch_size}
    assert [copy.slot for copy in found] == [number % 2 for number in range(len(found))]
    assert all(copy.columns == [0, 3] for copy in found)
    X, Y, y = (joined(found, name) for name in ("X", "Y", "y"))
    assert X.dtype == Y.dtype == dtype
    order = keyed_rng(SEED, "order", epoch).permutation(count)
    assert np.array_equal(X, split.images[order])
    assert np.array_equal(y, split.labels[order])
    assert np.array_equal(Y, np.arange(CLASSES) == y[:, None])


def test_memory_of_gathered_batches_is_bounded():
    split = split_of(100_000)
    tracemalloc.start()
    source, _ = made(split, 10, dtype="float32")
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(source) == 10_000
    assert used < 12 * batches.GATHERED_BYTES  # their bytes, labels and targets, of 3, 1 and 20 bytes


def test_smoothed_targets_sum_to_one():
    np.testing.assert_allclose(OneHot(4).table(0.2), 0.8 * np.eye(4) + 0.05, rtol=1e-15)
    np.testing.assert_array_equal(OneHot(4).table(0.0, "float32"), np.eye(4, dtype="float32"))
    found = epoch_of(split_of(9), 4, smoothing=0.5)
    np.testing.assert_allclose(joined(found, "Y"), 0.5 * np.eye(5)[joined(found, "y")] + 0.1)


def test_dropped_inputs_are_zero_and_the_others_scaled():
    split = Split(np.full((4000, 10), 100, np.uint8), np.zeros(4000, np.uint8))
    one, again, other = (joined(epoch_of(split, 64, epoch=epoch, dropout=0.25), "X") for epoch in (1, 1, 2))
    assert np.array_equal(one, again)
    assert sorted(set(one.ravel())) == pytest.approx([0, 100 / 0.75])
    assert (one == 0).mean() == pytest.approx(0.25, abs=0.01)
    assert ((one == 0) & (other == 0)).mean() == pytest.approx(0.25**2, abs=0.01)
    assert ((one[:64] == 0) & (one[64:128] == 0)).mean() == pytest.approx(0.25**2, abs=0.04)


@pytest.mark.parametrize("seed", [1, 2**40])
def test_dropped_inputs_are_those_of_the_seed_and_epoch(seed: int):
    split = Split(np.full((43, 10), 100, np.uint8), np.zeros(43, np.uint8))
    for epoch in (1, 3):
        rng = reference.generator(seed, reference.INPUT_DROPOUT, epoch)
        expected = np.concatenate([reference.mask(0.25, size, 10, rng) for size in (16, 16, 11)])
        np.testing.assert_allclose(
            joined(epoch_of(split, 16, epoch=epoch, dropout=0.25, seed=seed), "X"), 100 * expected
        )


def test_distortion_depends_on_the_image_number():
    split, config = split_of(30, 12), AugmentationConfig(shift=1)
    augmentation = Augmentation(config, (3, 4), 30, 5, SEED, "float64")
    found = epoch_of(split, 7, epoch=2, augmentation=augmentation)
    augmentation.begin(2)
    everything = augmentation.distort(split.images, np.arange(30), np.empty((30, 12)))
    assert np.array_equal(joined(found, "X"), everything[keyed_rng(SEED, "order", 2).permutation(30)])


def test_columns_exclude_the_margins():
    images = np.zeros((20, 60), np.uint8)
    images[:, 20:30] = 9
    images[:3, 50] = 9
    found = epoch_of(Split(images, np.zeros(20, np.uint8)), 4, margins=Margins(images))
    assert {tuple(copy.columns) for copy in found} == {(16, 32), (16, 60)}
    for copy in found:
        first, last = copy.columns
        assert not copy.X[:, :first].any()
        assert not copy.X[:, last:].any()


@pytest.mark.parametrize("kind", [DataParallel, ModelParallel])
@pytest.mark.parametrize("size", [2, 3, 9])
def test_processes_get_their_shards_of_each_batch(kind: type, size: int):
    """With dropped inputs and distortions: an example does not depend on the process that owns it."""
    split = split_of(43, 12)

    def of(comm: Serial) -> list[Copy]:
        augmentation = Augmentation(AugmentationConfig(rotation=20), (3, 4), 43, 5, SEED, "float64")
        return epoch_of(split, 8, comm, dropout=0.3, augmentation=augmentation)

    single, exchange = of(SERIAL), Exchange(size)
    shards = [of(kind(rank, exchange)) for rank in range(size)]
    for number, batch in enumerate(single):
        own = [shard[number] for shard in shards]
        assert {copy.size for copy in own} == {batch.size}
        for name in ("X", "Y", "y"):
            assert np.array_equal(joined(own, name), getattr(batch, name)), name
