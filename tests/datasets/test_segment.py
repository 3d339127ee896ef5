"""Digits are found on photographs, in any light, on any paper, with print."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import photos
from mlpcli import config, experiment
from mlpcli.analysis.predict import load
from mlpcli.datasets import segment
from mlpcli.datasets.images import centred, from_bytes

pytestmark = pytest.mark.slow

KINDS = ["ruled", "squared", "form", "fall-150", "shadow", "strip", "desk", "noise-300", "pencil", "jpeg-40", "tight"]


@pytest.fixture(scope="module")
def digits():
    images, labels = photos.test_images("mnist-sample")
    return images[:4], labels[:4]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Train a small network, good enough to distinguish a digit from a line."""
    own = ("data.dataset=mnist-sample", "training.epochs=4", "network.hidden=[32]")
    run = experiment.train(config.load(None, own, {}), out=tmp_path_factory.mktemp("runs") / "run")
    return load(run)


@pytest.fixture(scope="module")
def even(model, digits):
    images, labels = digits
    return photos.readings(model, images, labels, "even")


@pytest.mark.parametrize("kind", KINDS)
def test_photographs_are_read_as_in_even_light(model, digits, even, kind):
    images, labels = digits
    assert photos.as_well(photos.readings(model, images, labels, kind), even) >= len(images) - 1


def test_photograph_of_twelve_megapixels(model, digits):
    found = photos.readings(model, digits[0][:1], digits[1][:1], "phone")
    assert found[0].predicted == found[0].label


def test_photographs_are_deterministic(digits):
    for kind in ("ruled", "noise-300"):
        first = photos.photograph(digits[0][0], kind, 3)
        assert photos.photograph(digits[0][0], kind, 3) == first
        assert photos.photograph(digits[0][0], kind, 4) != first
        assert photos.photograph(digits[0][0], kind, 3, seed=1) != first


# Paper --------------------------------------------------------------------------------------------


def test_paper_under_ink_is_the_maximin_path():
    """By hand: from the ink in the middle, the way out over the right side passes paper of 90 at most."""
    light = np.array([[99, 99, 99, 99], [99, 10, 90, 80], [99, 99, 99, 99]], float)
    dark, _ = segment.paper(light, crossing=False)
    assert dark.tolist() == [[99, 99, 99, 99], [99, 90, 90, 80], [99, 99, 99, 99]]


def test_gradient_of_light_and_shadow_are_paper():
    down, right = np.mgrid[0:60, 0:80]
    for light in (200.0 - 2 * right, 90.0 + down + right, np.where(down > right, 80.0, 220.0)):
        dark, negative = segment.paper(light, crossing=False)
        assert np.array_equal(dark, light)
        assert np.array_equal(-negative, light)


def test_paper_of_the_negative_is_that_of_light_ink():
    light = np.random.default_rng(0).integers(0, 256, (30, 20)).astype(float)
    for crossing in (False, True):
        one, other = (segment.paper(each, crossing=crossing) for each in (light, -light))
        assert np.array_equal(one, other[::-1])


def test_noise_is_measured_beside_strokes():
    random = np.random.default_rng(0)
    light = np.full((100, 100), 200.0)
    light[30:60, 40:46] = 20
    assert segment.noise(light) == 0
    assert segment.noise(light + random.normal(0, 6, light.shape)) == pytest.approx(6, rel=0.1)
    assert segment.noise(light[:2]) == 0


# Parts --------------------------------------------------------------------------------------------


def test_connected_components_by_hand():
    mask = np.array([[1, 0, 0, 1, 1], [0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [1, 0, 1, 0, 1]], bool)
    labels, count = segment.labelled(mask)
    assert count == 4
    assert labels[0, 0] == labels[1, 1] != labels[0, 3] == labels[0, 4]
    assert labels[2, 3] == labels[3, 2] == labels[3, 4]
    assert len({labels[0, 0], labels[0, 3], labels[2, 3], labels[3, 0]}) == 4
    assert not labels[~mask].any()
    assert segment.labelled(np.zeros((3, 4), bool))[1] == 0


def test_components_equal_those_of_a_flood_fill():
    random = np.random.default_rng(1)
    for density in (0.2, 0.4, 0.6):
        mask = random.random((17, 23)) < density
        labels, count = segment.labelled(mask)
        left, parts = {tuple(at) for at in np.argwhere(mask).tolist()}, 0
        while left:
            parts += 1
            reached = [left.pop()]
            own = labels[reached[0]]
            while reached:
                row, column = reached.pop()
                assert labels[row, column] == own
                beside = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
                left -= beside
                reached += beside
        assert parts == count


@pytest.mark.parametrize("thick", [3, 8])
def test_box_around_a_digit_is_removed(digits, thick):
    scene = photos.scene(digits[0][0], np.random.default_rng(0), 200, 200)
    light = np.asarray(scene.picture(), float)
    boxed = np.pad(light, thick, constant_values=15.0)
    expected = centred(light)[0].astype(int)
    assert np.abs(centred(boxed)[0] - expected).mean() < 4
    on_a_page = np.pad(boxed, 40, constant_values=235.0)
    assert np.abs(centred(on_a_page)[0] - expected).mean() < 4


def test_hole_of_a_digit_at_the_border_is_no_digit(digits):
    zero = digits[0][3]
    rows, columns = (np.flatnonzero(zero.any(axis=axis)) for axis in (1, 0))
    tight = np.kron(255 - zero[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], np.ones((6, 6)))
    assert centred(tight)[0][14, 14] < 100
    assert np.abs(centred(tight)[0].astype(int) - centred(zero.astype(float))[0]).mean() < 6


def test_portrait_picture_is_rotated(digits):
    file = photos.photograph(digits[0][0], "exif", 0)
    upright = from_bytes(photos.photograph(digits[0][0], "even", 0), "it", (28, 28), raw=False).pixels.astype(int)
    assert np.abs(from_bytes(file, "it", (28, 28), raw=False).pixels - upright).mean() < 4
