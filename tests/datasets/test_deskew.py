"""Deskewing against the formula pixel by pixel, and its properties for any image."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.config import DataConfig
from mlpcli.datasets import deskew as module
from mlpcli.datasets.deskew import deskewed, moments, preprocessed
from mlpcli.datasets.load import load_dataset, load_split


def reference(image):
    """I'(x, y) = I(x + mu11 / mu02 (y - ybar), y), one pixel at a time, in exact moments about the centre."""
    h, w = image.shape
    ink = {(x, y): float(image[y, x]) for y in range(h) for x in range(w)}
    mass = sum(ink.values())
    if mass == 0:
        return image.astype(float)
    xbar, ybar = (sum(value * place[axis] for place, value in ink.items()) / mass for axis in (0, 1))
    mu11 = sum(value * (x - xbar) * (y - ybar) for (x, y), value in ink.items())
    mu02 = sum(value * (y - ybar) ** 2 for (x, y), value in ink.items())
    if mu02 / mass < 1e-9:
        return image.astype(float)
    out = np.zeros((h, w))
    for y in range(h):
        for x in range(w):
            at = x + mu11 / mu02 * (y - ybar)
            left = math.floor(at)
            fraction = at - left
            out[y, x] = (1 - fraction) * ink.get((left, y), 0.0) + fraction * ink.get((left + 1, y), 0.0)
    return out


def deskew_one(image):
    return deskewed(image.reshape(1, -1), image.shape).reshape(image.shape)


@st.composite
def images(draw):
    h, w = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    ink = draw(st.lists(st.tuples(st.integers(0, h * w - 1), st.integers(1, 255)), max_size=12))
    image = np.zeros(h * w, np.uint8)
    for place, value in ink:
        image[place] = value
    return image.reshape(h, w)


@given(images())
def test_deskewing_equals_the_formula(image):
    assert np.abs(deskew_one(image) - reference(image)).max() <= 0.5 + 1e-6  # bytes are rounded
    floats = image / 255
    assert np.allclose(deskew_one(floats), reference(floats), atol=1e-6)


def test_slanted_line_becomes_upright_in_place():
    image = np.zeros((9, 15), np.uint8)
    for y in range(9):
        image[y, 11 - y] = 200  # leans to the right, one pixel a row; its middle is (7, 4)
    expected = np.zeros_like(image)
    expected[:, 7] = 200
    assert np.array_equal(deskew_one(image), expected)
    assert moments(image[None].astype(float)) == (np.array([-1.0]), np.array([4.0]))


def test_interpolation_is_linear_and_rounded():
    # mu11 / mu02 = 1/2 about row 1: a row up and down are moved by half a pixel.
    image = np.array([[0, 0, 100, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 100, 0]], np.uint8)
    assert deskew_one(image).tolist() == [[0, 0, 50, 50, 0], [0] * 5, [0, 0, 50, 50, 0]]
    image[image == 100] = 101
    assert deskew_one(image)[0].tolist() == [0, 0, 51, 51, 0]


@given(images(), st.integers(0, 3))
def test_images_without_slant_are_unchanged(image, which):
    h = len(image)
    image = (
        np.zeros_like(image),
        np.where(np.arange(h)[:, None] == h // 2, image, 0).astype(np.uint8),  # ink in one row
        np.maximum(image, image[:, ::-1]),  # mirrored
        np.full_like(image, 77),
    )[which]
    assert np.array_equal(deskew_one(image), image)
    floats = (image / 255).astype(np.float32)
    assert np.allclose(deskew_one(floats), floats, atol=1e-5)


@given(images())
def test_deskewing_commutes_with_mirroring(image):
    # An odd half is rounded up on both sides, so by one at most.
    assert np.abs(deskew_one(image[:, ::-1]).astype(int) - deskew_one(image)[:, ::-1]).max() <= 1


def test_digits_lose_only_their_slant():
    part = load_split(DataConfig(dataset="mnist-sample"), "train")
    before = part.split.images
    after = deskewed(before, part.image_shape)
    (k, row), (k_after, row_after) = (moments(x.reshape(-1, 28, 28).astype(float)) for x in (before, after))
    assert np.quantile(np.abs(k), 0.5) > 0.15
    assert np.quantile(np.abs(k_after), 0.99) < 0.01
    assert np.quantile(np.abs(row - row_after), 0.99) < 0.02
    ink = after.sum(axis=1) / before.sum(axis=1)
    assert np.abs(ink - 1).max() < 0.03
    columns = np.arange(784) % 28
    across = [(x * columns).sum(axis=1) / x.sum(axis=1) for x in (before, after)]
    assert np.quantile(np.abs(across[0] - across[1]), 0.99) < 0.02


@given(st.lists(st.integers(0, 59), min_size=1, max_size=90))
def test_image_does_not_depend_on_the_others(chosen):
    some = np.random.default_rng(0).integers(0, 256, (60, 35), dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_PIXELS", 35 * 7)
        alone = np.concatenate([deskewed(some[i : i + 1], (5, 7)) for i in chosen])
        assert np.array_equal(deskewed(some[chosen], (5, 7)), alone)


def test_dtype_is_preserved_and_input_unchanged():
    some = np.random.default_rng(0).integers(0, 256, (5, 12), dtype=np.uint8)
    some.flags.writeable = False
    for dtype in (np.uint8, np.float32, np.float64):
        out = deskewed(some.astype(dtype), (3, 4))
        assert out.dtype == dtype and out.shape == some.shape
        assert out.flags.c_contiguous and not out.flags.writeable
    assert deskewed(np.empty((0, 12), np.uint8), (3, 4)).shape == (0, 12)
    assert preprocessed(some, (3, 4), None) is some
    assert np.array_equal(preprocessed(some, (3, 4), "deskew"), deskewed(some, (3, 4)))


def test_ink_moved_out_does_not_wrap_around():
    # Nearly level: mu11 / mu02 is far more than the image is wide.
    image = np.zeros((2, 40), np.uint8)
    image[0, :39], image[1, 39] = 255, 1
    out = deskew_one(image)
    assert np.array_equal(out, np.floor(reference(image) + 0.5))


# Loading with deskewing ---------------------------------------------


@pytest.mark.parametrize("validation", [0.0, 0.2])
def test_loaded_images_are_deskewed_with_hashes_of_files(tiny_folder, validation):
    data = DataConfig(dataset=str(tiny_folder), validation=validation)
    plain, made = load_dataset(data), load_dataset(DataConfig(**{**vars(data), "preprocessing": "deskew"}))
    pairs = [(plain.train, made.train), (plain.test(), made.test())]
    if validation:
        pairs.append((plain.validation, made.validation))
    for before, after in pairs:
        assert np.array_equal(after.images, deskewed(before.images, (5, 4)))
        assert not np.array_equal(after.images, before.images)
        assert np.array_equal(after.labels, before.labels)
        assert after.images.flags.c_contiguous and not after.images.flags.writeable
    assert plain.hashes == made.hashes and len(made.hashes) == 4
    # Images loaded later are preprocessed by each network that evaluates them.
    part = load_split(DataConfig(**{**vars(data), "preprocessing": "deskew"}), "train")
    assert np.array_equal(part.split.images, plain.train.images)
