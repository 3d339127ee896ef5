"""The initial parameters: receptive fields of the first layer."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.state import architecture_of
from mlpcli.training.initial import draw_parameters, receptive_fields
from tests.training.small import config_of

SHAPE = (4, 5)


def drawn(*overrides, dtype=None):
    config = config_of(*overrides)
    return draw_parameters(config, architecture_of(config, math.prod(SHAPE), 3), SHAPE, dtype)


class Places:
    """A generator that draws these places, first the rows, then the columns."""

    def __init__(self, rows, columns):
        self._draws = [rows, columns]

    def uniform(self, low, high, count):
        place = np.array(self._draws.pop(0), float)
        assert len(place) == count
        assert ((low <= place) & (place <= high)).all()
        return place


def test_a_receptive_field_worked_by_hand():
    # A row of three pixels, a unit at the middle one, another at the first. With s^2 = 1 / (2 ln 2) a pixel's distance
    # halves g: 1/2, 1, 1/2, of which the mean square is 1/2; and 1, 1/2, 1/16, of mean square (1 + 1/4 + 1/256) / 3.
    s = math.sqrt(1 / (2 * math.log(2)))
    g = receptive_fields((1, 3), 2, s, Places([0, 0], [1, 0]))
    np.testing.assert_allclose(g[:, 0], np.array([1 / 2, 1, 1 / 2]) * math.sqrt(2))
    np.testing.assert_allclose(g[:, 1], np.array([1, 1 / 2, 1 / 16]) / math.sqrt((1 + 1 / 4 + 1 / 256) / 3))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.floats(0.5, 30), st.integers(0, 2**32))
def test_it_is_a_gaussian_of_the_distance_with_mean_square_one(height, width, units, s, seed):
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, height - 1, units), rng.uniform(0, width - 1, units)
    g = receptive_fields((height, width), units, s, Places(*centres))
    assert g.shape == (height * width, units)
    np.testing.assert_allclose((g**2).mean(axis=0), 1)
    for unit, (row, column) in enumerate(zip(*centres, strict=True)):
        pixels = product(range(height), range(width))
        expected = np.array([math.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * s * s)) for y, x in pixels])
        np.testing.assert_allclose(g[:, unit] / g[:, unit].max(), expected / expected.max(), atol=1e-300)


def test_the_places_are_anywhere_in_the_image():
    g = receptive_fields((20, 30), 4000, 1.0, np.random.default_rng(0))
    rows, columns = np.unravel_index(g.argmax(axis=0), (20, 30))
    # Uniform on [0, n - 1]: mean (n - 1) / 2, variance (n - 1)^2 / 12, to which rounding adds 1/12.
    for found, size in ((rows, 20), (columns, 30)):
        assert abs(found.mean() - (size - 1) / 2) < 0.5
        assert abs(found.std() - math.sqrt((size - 1) ** 2 / 12 + 1 / 12)) < 0.3
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.05


def test_the_first_layers_weights_are_multiplied_and_nothing_else():
    without, given_windows = drawn("network.hidden=[6,7]"), drawn("network.hidden=[6,7]", "network.receptive_field=1.5")
    again, other = (drawn("network.hidden=[6,7]", "network.receptive_field=1.5", f"seed={seed}") for seed in (0, 1))
    ratio = given_windows.W[0].astype(float) / without.W[0]
    np.testing.assert_allclose((ratio**2).mean(axis=0), 1, rtol=1e-5)
    assert ratio.min() < 0.1 < 2 < ratio.max()
    for layer in (1, 2):
        np.testing.assert_array_equal(given_windows.W[layer], without.W[layer])
    assert given_windows.vector.tobytes() == again.vector.tobytes() != other.vector.tobytes()


def test_every_dtype_begins_alike():
    single, double = (drawn("network.receptive_field=2", dtype=dtype) for dtype in ("float32", "float64"))
    np.testing.assert_array_equal(single.vector, double.vector.astype(np.float32))


def test_a_wide_window_is_none():
    without, wide = (drawn(f"network.receptive_field={s}", dtype="float64") for s in ("null", 1000))
    np.testing.assert_allclose(wide.vector, without.vector, rtol=1e-4)
