"""Distorted images follow the formulas, and are a pure function of seed, epoch and image number."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlpcli.config import AugmentationConfig
from mlpcli.errors import DataError
from mlpcli.rng import keyed_rng
from mlpcli.training import augment
from mlpcli.training.augment import Augmentation, draw_fields, inverses, smoothing, strength_in
from tests.training.reference import AFFINE, ELASTIC, generator

Array = np.ndarray

EVERYTHING = AugmentationConfig(rotation=15, scale=0.15, shear=10, shift=2, elastic_alpha=34, elastic_sigma=4)


def images_of(count: int, shape: tuple[int, int], high: int = 255, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, high + 1, (count, shape[0] * shape[1]), np.uint8)


def distorted(
    config: AugmentationConfig, images: Array, shape: tuple[int, int], *, epoch: int = 1, seed: int = 0, **more: Any
) -> Array:
    """Return all images, distorted, in float32."""
    dtype = more.pop("dtype", np.float32)
    made = Augmentation(config, shape, len(images), more.pop("epochs", 10), seed, dtype)
    made.begin(epoch)
    return made.distort(images, np.arange(len(images)), np.empty(images.shape, dtype))


def with_draws(monkeypatch: pytest.MonkeyPatch, *draws: float) -> None:
    """Let every image draw these fractions of the bounds: rotation, scale x, scale y, shear, shift x, shift y."""

    class Fixed:
        def random(self, size: tuple[int, int]) -> Array:
            return np.broadcast_to((np.array(draws) + 1) / 2, size)

    monkeypatch.setattr(augment, "keyed_rng", lambda seed, purpose, epoch: Fixed())


def bounds(**bounds: float) -> AugmentationConfig:
    return AugmentationConfig(**bounds)


# Against the definition ---------------------------------------------------------------------------


def one_pixel(image: Array, x: float, y: float) -> float:
    """Interpolate bilinearly, by definition, at column ``x`` and row ``y`` of ``image`` (h, w)."""
    h, w = image.shape
    left, top = math.floor(x), math.floor(y)
    value = 0.0
    for row, column in product((top, top + 1), (left, left + 1)):
        if 0 <= row < h and 0 <= column < w:
            value += (1 - abs(x - column)) * (1 - abs(y - row)) * float(image[row, column])
    return value


@settings(max_examples=25)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 6),
    st.sampled_from([0.0, 20.0, 400.0]),
    st.floats(0, 180),
    st.floats(0, 0.9),
    st.floats(0, 80),
    st.floats(0, 20),
    st.integers(1, 3),
    st.integers(1, 2**63 - 1),
)
def test_pixel_is_the_input_interpolated_at_q(h, w, count, alpha, rotation, scale_, shear, shift, epoch, seed):
    assume(rotation or scale_ or shear or shift or alpha)
    config = AugmentationConfig(
        rotation=rotation, scale=scale_, shear=shear, shift=shift, elastic_alpha=alpha, elastic_sigma=1
    )
    images = images_of(count, (h, w))
    made = Augmentation(config, (h, w), count, 3, seed)
    made.begin(epoch)
    out = made.distort(images, np.arange(count), np.empty((count, h * w), np.float32))

    # The same draws, then loops.
    fractions = 2 * generator(seed, AFFINE, epoch).random((count, 6)) - 1
    Ms, ms = inverses(config, fractions, 1.0)
    planes, drawn = np.zeros((2, count, h, w), np.float32), np.zeros((2, count), int)
    if alpha:
        rng = generator(seed, ELASTIC, epoch)
        drawn = rng.integers(count, size=(2, count))
        draw_fields(planes.reshape(-1, h, w), alpha, 1.0, rng)
    for i, (row, column) in product(range(count), product(range(h), range(w))):
        d = np.array([planes[0, drawn[0, i], row, column], planes[1, drawn[1, i], row, column]], float)
        middle = np.array([(w - 1) / 2, (h - 1) / 2])
        q = Ms[i] @ (np.array([column, row]) - middle + d) + ms[i] + middle
        # A rounding of q moves a pixel by no more than the image's steepest slope: 255 a pixel, times that rounding.
        tolerance = 255e-5 * (1 + float(np.abs(q).max()))
        assert out[i, row * w + column] == pytest.approx(one_pixel(images[i].reshape(h, w), *q), abs=tolerance)


def test_inverse_undoes_scale_shear_rotation_and_shift():
    config = AugmentationConfig(rotation=40, scale=0.5, shear=30, shift=7)
    fraction = np.array([[0.5, 0.2, -0.4, 0.75, 0.3, -0.6]])
    (M,), (m,) = inverses(config, fraction, 1.0)
    theta, k = math.radians(20), math.tan(math.radians(22.5))
    # y runs down: turned counter-clockwise, a point on the right goes up; what is further up leans more to the right.
    R = np.array([[math.cos(theta), math.sin(theta)], [-math.sin(theta), math.cos(theta)]])
    H = np.array([[1, -k], [0, 1]])
    S = np.diag([1.1, 0.8])
    for point in np.random.default_rng(0).normal(0, 10, (5, 2)):
        seen_at = R @ H @ S @ point + [2.1, -4.2]
        assert M @ seen_at + m == pytest.approx(point)


# Examples by hand ---------------------------------------------------------------------------------


def test_shift_by_one_pixel(monkeypatch: pytest.MonkeyPatch):
    with_draws(monkeypatch, 0, 0, 0, 0, 0.5, -0.25)
    image = np.array([[0, 0, 0, 0], [0, 10, 20, 0], [0, 30, 40, 255]], np.uint8).reshape(1, 12)
    out = distorted(bounds(shift=2), image, (3, 4)).reshape(3, 4)  # one to the right, half a pixel up
    assert out == pytest.approx(np.array([[0, 0, 5, 10], [0, 0, 20, 30], [0, 0, 15, 20]]))


def test_quarter_turn_is_counter_clockwise(monkeypatch: pytest.MonkeyPatch):
    with_draws(monkeypatch, 0.5, 0, 0, 0, 0, 0)
    images = images_of(3, (28, 28))
    out = distorted(bounds(rotation=180), images, (28, 28))
    turned = np.rot90(images.reshape(3, 28, 28), axes=(1, 2))  # numpy's is counter-clockwise as printed
    assert out.reshape(3, 28, 28) == pytest.approx(turned, abs=0.01)


def test_wider_image_is_read_at_shorter_distances(monkeypatch: pytest.MonkeyPatch):
    with_draws(monkeypatch, 0, 1, 0, 0, 0, 0)
    out = distorted(bounds(scale=0.5), np.array([[0, 30, 90, 30, 0]], np.uint8), (1, 5))
    # 1.5 times as wide: read at 2 + (-2 .. 2) / 1.5 = 2/3, 4/3, 2, 8/3, 10/3
    assert out == pytest.approx(np.array([[20, 50, 90, 50, 20]]), abs=1e-4)


def test_sheared_strokes_lean_to_the_right(monkeypatch: pytest.MonkeyPatch):
    with_draws(monkeypatch, 0, 0, 0, 1, 0, 0)
    upright = np.zeros((5, 5), np.uint8)
    upright[:, 2] = 255
    out = distorted(bounds(shear=45), upright.reshape(1, 25), (5, 5)).reshape(5, 5)
    assert out == pytest.approx(255 * np.fliplr(np.eye(5)), abs=1e-3)


# At strength 0, and outside the image -------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(28, 28), (5, 4), (1, 7), (1, 1), (40, 3)])
def test_strength_of_0_has_no_effect(shape, dtype):
    images = images_of(101, shape)
    out = distorted(replace(EVERYTHING, final_epochs=1, final_strength=0), images, shape, epoch=10, dtype=dtype)
    assert out.dtype == dtype
    assert np.array_equal(out, images)


def test_pixels_stay_in_range_and_black_stays_black():
    wild = AugmentationConfig(rotation=180, scale=0.9, shear=80, shift=20, elastic_alpha=100, elastic_sigma=0.5)
    assert not distorted(wild, np.zeros((50, 784), np.uint8), (28, 28)).any()
    for config in (wild, EVERYTHING):
        for dtype in ("float32", "float64"):
            out = distorted(config, np.full((200, 784), 255, np.uint8), (28, 28), dtype=dtype)
            assert (out.min(), out.max()) == (0.0, 255.0)


def test_pixels_moved_out_are_lost(monkeypatch: pytest.MonkeyPatch):
    for x, y in product((-1, 0, 1), (-1, 0, 1)):
        with monkeypatch.context() as patch:
            with_draws(patch, 0, 0, 0, 0, x, y)
            out = distorted(bounds(shift=28), np.full((1, 784), 255, np.uint8), (28, 28))
        assert out.all() == out.any() == (x == y == 0)


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.integers(1, 100))
def test_distortion_is_linear_in_the_image(seed: int, count: int):
    one, other = images_of(count, (9, 8), 127, seed), images_of(count, (9, 8), 127, seed + 1)
    parts = [distorted(EVERYTHING, each, (9, 8), seed=seed) for each in (one, other, one + other)]
    assert parts[0] + parts[1] == pytest.approx(parts[2], abs=255e-6)


# A pure function of seed, epoch and number --------------------------------------------------------


@settings(max_examples=20)
@given(st.integers(2, 120), st.randoms(use_true_random=False), st.integers(1, 50), st.booleans())
def test_distortion_does_not_depend_on_order_or_batch(count: int, random: Any, batch: int, elastic: bool):
    config = EVERYTHING if elastic else AugmentationConfig(rotation=20, scale=0.1, shift=1)
    shape = (28, 28)
    images = images_of(count, shape)
    together = distorted(config, images, shape, epoch=4, seed=9)

    made = Augmentation(config, shape, count, 10, 9)
    made.begin(2)
    made.begin(4)  # any content
    order = np.array(random.sample(range(count), random.randint(1, count)))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        alone = made.distort(images[chosen], chosen, np.empty((len(chosen), 784), np.float32))
        assert alone.tobytes() == together[chosen].tobytes()


@pytest.mark.parametrize("config", [EVERYTHING, bounds(rotation=15), bounds(elastic_alpha=34)])
def test_seed_epoch_and_number_change_the_distortion(config: AugmentationConfig):
    images = np.repeat(images_of(1, (28, 28)), 3, axis=0)
    runs = [distorted(config, images, (28, 28), epoch=epoch, seed=seed) for epoch, seed in [(1, 7), (2, 7), (1, 8)]]
    assert len({row.tobytes() for run in runs for row in run}) == 9


def displacements(config: AugmentationConfig, count: int, *, epoch: int = 1, epochs: int = 10) -> Array:
    """Return where the middle pixel of each of ``count`` 15 x 15 images is read, relative to itself: (2, count), x, y.

    The images are linear ramps to the right and downwards, so the pixel's value is its displacement.
    """
    slope = np.tile(np.arange(15, dtype=np.uint8) * 10, (15, 1))
    made = Augmentation(config, (15, 15), count, epochs, 0)
    made.begin(epoch)
    found = []
    for image in (slope, slope.T):
        images, out = np.tile(image.ravel(), (500, 1)), np.empty((500, 225), np.float32)
        for numbers in np.array_split(np.arange(count), -(-count // 500)):
            found.append(made.distort(images[: len(numbers)], numbers, out[: len(numbers)])[:, 112].copy())
    return np.concatenate(found).reshape(2, count) / 10 - 7


def test_shifts_are_uniform_and_drawn_per_image():
    shifts = displacements(bounds(shift=3), 4000)
    assert np.abs(shifts).max() <= 3 + 1e-5
    assert np.unique(shifts[0]).size > 3900
    assert shifts.mean(axis=1) == pytest.approx([0, 0], abs=0.1)
    assert shifts.std(axis=1) == pytest.approx([3 / math.sqrt(3)] * 2, rel=0.04)
    assert np.corrcoef(shifts)[0, 1] == pytest.approx(0, abs=0.06)


@pytest.mark.parametrize("bound", [{"shift": 4}, {"elastic_alpha": 30}])
def test_strength_falls_in_the_last_epochs(bound: dict[str, float]):
    config = AugmentationConfig(**bound, final_strength=0.25, final_epochs=2)
    assert [strength_in(config, epoch, 5) for epoch in range(1, 6)] == [1, 1, 1, 0.25, 0.25]
    assert [strength_in(replace(config, final_epochs=0), epoch, 5) for epoch in (1, 5)] == [1, 1]
    strong, weak = (displacements(config, 2000, epoch=epoch, epochs=5).std() for epoch in (3, 4))
    assert strong / weak == pytest.approx(4, rel=0.1)


# The fields ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0, 7.3, 20.0])
def test_gaussian_has_unit_sum_and_its_width(sigma: float):
    G = smoothing(5, sigma)
    radius = math.ceil(3 * sigma)
    assert G.shape == (5, 5 + 2 * radius)
    assert G.sum(axis=1) == pytest.approx(np.ones(5))
    for row in range(5):
        assert np.array_equal(G[row, row : row + 2 * radius + 1], G[0, : 2 * radius + 1])
        assert np.count_nonzero(G[row]) == 2 * radius + 1
    offsets = np.arange(-radius, radius + 1)
    if sigma >= 1:
        assert math.sqrt(G[0, : 2 * radius + 1] @ offsets**2) == pytest.approx(sigma, rel=0.02)


def test_field_is_alpha_times_the_smoothed_noise():
    """Compare with the explicit sum d[r, c] = alpha sum over i, j of g[i] g[j] N[r + i, c + j]."""
    planes = np.empty((3, 4, 5), np.float32)
    draw_fields(planes, 34.0, 1.2, keyed_rng(1, "elastic", 2))
    words = keyed_rng(1, "elastic", 2).bit_generator.random_raw(-(-3 * 12 * 13 // 8))
    N = (np.frombuffer(words.astype("<u8").tobytes(), np.int8)[: 3 * 12 * 13].reshape(3, 12, 13) + 0.5) / 128
    assert -1 < N.min() < -0.95 and 0.95 < N.max() < 1
    g = np.exp(-0.5 * (np.arange(-4, 5) / 1.2) ** 2)
    g /= g.sum()
    for plane, row, column in product(range(3), range(4), range(5)):
        expected = 34 * g @ N[plane, row : row + 9, column : column + 9] @ g
        assert planes[plane, row, column] == pytest.approx(expected, abs=1e-4)


def test_fields_have_the_predicted_size_and_are_smooth():
    alpha, sigma, count = 34.0, 4.0, 4096
    planes = np.empty((count, 28, 28), np.float32)
    draw_fields(planes, alpha, sigma, keyed_rng(0, "elastic", 1))
    g = smoothing(1, sigma)[0]
    predicted = alpha / math.sqrt(3) * float(g @ g)
    assert predicted == pytest.approx(alpha / (2 * math.sqrt(3 * math.pi) * sigma), rel=0.01)
    assert predicted == pytest.approx(1.39, abs=0.01)
    error = predicted / math.sqrt(2 * count)  # of the standard deviation estimated from this many
    everywhere = planes.std(axis=0)
    assert np.abs(everywhere - predicted).max() < 5 * error
    border = np.ones((28, 28), bool)
    border[1:-1, 1:-1] = False
    assert everywhere[border].mean() == pytest.approx(everywhere[10:18, 10:18].mean(), abs=2 * error)
    assert np.abs(planes.mean(axis=0)).max() < 5 * predicted / math.sqrt(count)
    # Smooth: at a distance of 1 the correlation is that of a Gaussian smoothed twice, exp(-1 / (4 sigma^2)).
    for one, other in ((planes[:, 1:], planes[:, :-1]), (planes[:, :, 1:], planes[:, :, :-1])):
        assert np.mean(one * other) / np.mean(planes**2) == pytest.approx(math.exp(-1 / (4 * sigma**2)), abs=0.01)
    # And fields are independent of one another.
    assert np.corrcoef(planes[:, 14, 14][:-1], planes[:, 14, 14][1:])[0, 1] == pytest.approx(0, abs=5 / 64)


def test_fields_are_drawn_from_a_pool_of_2048():
    config = AugmentationConfig(elastic_alpha=10, elastic_sigma=2)
    (x, y), other = displacements(config, 20_000), displacements(config, 3000, epoch=2)
    assert 2000 < len(np.unique(x)) <= 2048 >= len(np.unique(y)) > 2000
    assert len(np.unique([x, y], axis=1).T) > 19_800, "nearly every image has a field of its own"
    assert len(np.intersect1d(x, other[0])) < 20
    assert len(np.unique(displacements(config, 7)[0])) <= 7


def test_memory_is_bounded():
    tracemalloc.start()
    augmentation = Augmentation(EVERYTHING, (512, 512), 60_000, 10, 0)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del augmentation
    assert augment.POOL_BYTES / 2 < used < 1.2 * augment.POOL_BYTES


def test_too_large_images_are_refused():
    with pytest.raises(DataError, match="augmentation: images of 4096 x 4096 pixels are too large to be distorted"):
        Augmentation(EVERYTHING, (4096, 4096), 1, 1, 0)
