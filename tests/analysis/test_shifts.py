"""Images moved by a pixel."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.analysis.shifts import SHIFTS, shifted, with_shifts


def test_image_is_moved_by_hand():
    image = np.arange(1, 7, dtype=np.uint8).reshape(1, 6)
    assert shifted(image, (2, 3), 1, 0).tolist() == [[0, 0, 0, 1, 2, 3]]
    assert shifted(image, (2, 3), 0, -1).tolist() == [[2, 3, 0, 5, 6, 0]]
    assert shifted(image, (2, 3), -1, 1).tolist() == [[0, 4, 5, 0, 0, 0]]


def test_image_comes_before_its_shifts():
    images = np.arange(12, dtype=np.uint8).reshape(2, 6)
    for count in SHIFTS:
        first, *others = with_shifts(images, (2, 3), count)
        assert np.array_equal(first, images)
        assert len({other.tobytes() for other in others} - {images.tobytes()}) == count


def test_shifts_are_the_neighbours():
    for count, shifts in SHIFTS.items():
        assert len(set(shifts)) == count
        assert np.abs(np.array(shifts)).sum(axis=-1).max(initial=0) == {0: 0, 4: 1, 8: 2}[count]
        assert np.sum(shifts) == 0


@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from(SHIFTS[8]), st.integers(0, 2**32 - 1))
def test_shift_equals_a_window_of_the_padded_image(h: int, w: int, shift: tuple[int, int], seed: int):
    images = np.random.default_rng(seed).integers(0, 256, (3, h * w), np.uint8)
    padded = np.pad(images.reshape(3, h, w), ((0, 0), (1, 1), (1, 1)))
    down, right = shift
    expected = padded[:, 1 - down : 1 - down + h, 1 - right : 1 - right + w]
    assert np.array_equal(shifted(images, (h, w), down, right), expected.reshape(3, -1))
