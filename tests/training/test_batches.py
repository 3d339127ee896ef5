"""Every image comes once an epoch, in the order asked for, as the number its byte stands for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.datasets.load import Split
from mlpcli.training import batches
from mlpcli.training.batches import Batch, Batches, lit_pixels

CLASSES = 5


def split_of(count: int, pixels: int = 3) -> Split:
    """``count`` images that all differ, read-only as a data set's are."""
    images = np.empty((count, pixels), np.uint8)
    images[:, 0], images[:, 1], images[:, 2:] = np.arange(count) % 256, np.arange(count) // 256, 255
    labels = (np.arange(count) * 7 % CLASSES).astype(np.uint8)
    images.flags.writeable = labels.flags.writeable = False
    return Split(images, labels)


def all_of(
    split: Split, batch_size: int, order: np.ndarray | slice, *, block: int = 1 << 20, dtype: str = "float64"
) -> list[Batch]:
    """Copies of the batches, made from blocks of ``block`` bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "GATHERED_BYTES", block)
        made = Batches(split, CLASSES, batch_size, dtype)
    return [Batch(b.X.copy(), b.Y.copy(), b.y.copy(), b.lit, b.place) for b in made.in_order(order)]


sizes = st.tuples(st.integers(1, 300), st.integers(1, 330), st.integers(1, 10_000), st.randoms(use_true_random=False))


@given(sizes, st.sampled_from(["float32", "float64"]))
def test_every_image_comes_once_in_the_order_asked_for(case, dtype: str):
    count, batch_size, block, random = case
    split, order = split_of(count), np.array(random.sample(range(count), count))
    made = all_of(split, batch_size, order, block=block, dtype=dtype)

    whole, rest = divmod(count, batch_size)
    assert [len(b.y) for b in made] == [batch_size] * whole + [rest] * (rest > 0)
    assert len(Batches(split, CLASSES, batch_size, dtype)) == len(made)
    X, Y, y = (np.concatenate([getattr(b, name) for b in made]) for name in ("X", "Y", "y"))
    assert X.dtype == Y.dtype == dtype
    assert np.array_equal(X, split.images[order])
    assert np.array_equal(y, split.labels[order])
    assert np.array_equal(Y, np.arange(CLASSES) == y[:, None])


@given(sizes, st.integers(0, 300), st.integers(0, 300))
def test_a_slice_of_the_images_comes_as_in_the_file(case, first: int, last: int):
    count, batch_size, block, _ = case
    split, some = split_of(count), slice(first, last)
    named = all_of(split, batch_size, np.arange(count)[some], block=block)
    plain = all_of(split, batch_size, some, block=block)
    assert len(plain) == len(named)
    for one, other in zip(plain, named, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))


@given(sizes, st.integers(1, 10_000))
def test_batches_do_not_depend_on_how_blocks_are_cut(case, other: int):
    count, batch_size, block, random = case
    split, order = split_of(count), np.array(random.sample(range(count), count))
    for one, another in zip(
        all_of(split, batch_size, order, block=block), all_of(split, batch_size, order, block=other), strict=True
    ):
        assert all(getattr(one, name).tobytes() == getattr(another, name).tobytes() for name in ("X", "Y", "y"))


def test_the_memory_of_a_block_is_bounded():
    made = Batches(split_of(100_000), CLASSES, 10, "float32")
    assert made._bytes.nbytes <= batches.GATHERED_BYTES


def test_a_batch_may_be_larger_than_a_block_and_than_the_split():
    assert [len(b.y) for b in all_of(split_of(7), 1000, np.arange(7), block=1)] == [7]


def strokes(count: int, pixels: int, random: Any) -> Split:
    """Images that are lit between two places, with holes, some of them nowhere."""
    images = np.zeros((count, pixels), np.uint8)
    for image in images:
        first, last = sorted(random.choices(range(pixels + 1), k=2))
        for place in random.sample(range(first, last), (last - first + 1) // 2):
            image[place] = random.randint(1, 255)
    return Split(images, np.zeros(count, np.uint8))


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 9), st.randoms(use_true_random=False))
def test_no_pixel_outside_the_lit_ones_is_lit_in_a_batch(count: int, pixels: int, batch_size: int, random: Any):
    split = strokes(count, pixels, random)
    made = Batches(split, CLASSES, batch_size, "float32", find_lit=True)
    order = np.array(random.sample(range(count), count))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "IMAGES_AT_A_TIME", 7)
        assert all(map(np.array_equal, lit_pixels(split.images), made._lit))
    for batch in made.in_order(order):
        assert 0 <= batch.lit.start <= batch.lit.stop <= pixels
        assert not batch.X[:, : batch.lit.start].any()
        assert not batch.X[:, batch.lit.stop :].any()


def test_lit_pixels_begin_and_end_at_multiples_of_sixteen():
    images = np.zeros((4, 60), np.uint8)
    images[0, 18:40] = images[1, 32] = images[2, 59] = 1
    first, last = lit_pixels(images)
    assert first.tolist() == [1, 2, 3, 0]
    assert last.tolist() == [3, 3, 4, 4]  # where nothing is lit, anything may be
    made = Batches(Split(images, np.zeros(4, np.uint8)), 2, 2, "float32", find_lit=True)
    assert [batch.lit for batch in made.in_order()] == [slice(16, 48), slice(0, 60)]


def test_all_may_be_lit_where_nobody_asks_which_are():
    assert all(batch.lit == slice(None) for batch in all_of(split_of(5), 2, slice(None)))


def test_part_of_a_split_can_be_asked_for_and_an_image_twice():
    made = all_of(split_of(9), 2, np.array([8, 3, 3]))
    assert [b.X[:, 0].tolist() for b in made] == [[8, 3], [3]]
