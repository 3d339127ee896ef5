"""Margins are zero in all images of a batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.training import margins
from mlpcli.training.margins import MARGIN_ALIGNMENT, Margins


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 9), st.integers(0, 2**32))
def test_margins_have_no_nonzero_pixel(count: int, pixels: int, batch_size: int, seed: int):
    """Images have strokes with holes, some are blank; margins are as tight as the alignment allows."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 3, (count, pixels)).astype(np.uint8)
    for image, (first, last) in zip(images, np.sort(random.integers(0, pixels + 1, (count, 2))), strict=True):
        image[:first] = image[last:] = 0
    chosen = random.integers(count, size=(3, batch_size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(margins, "IMAGES_AT_A_TIME", 7)
        found = Margins(images).columns(chosen)
    assert found == Margins(images).columns(chosen)
    for batch, (first, last) in zip(images[chosen], found, strict=True):
        assert 0 <= first <= last <= pixels
        assert not batch[:, :first].any()
        assert not batch[:, last:].any()
        if batch.any(axis=1).all():
            used = np.flatnonzero(batch.any(axis=0))
            assert used[0] - first < MARGIN_ALIGNMENT > last - used[-1] - 1


def test_margins_are_multiples_of_sixteen():
    images = np.zeros((4, 60), np.uint8)
    images[0, 18:40] = images[1, 32] = images[2, 59] = 1
    found = Margins(images).columns(np.array([[0, 1], [0, 2], [1, 1], [0, 3]]))
    assert found == [[16, 48], [16, 60], [32, 48], [0, 60]]  # a black image may have any


def test_margins_of_very_wide_images():
    images = np.zeros((2, 70_000), np.uint8)
    images[0, 66_000] = images[1, 66_016] = 1
    assert Margins(images).columns(np.array([[0, 1]])) == [[66_000, 66_032]]
