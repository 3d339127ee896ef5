"""Distorted images by their definition, in float64, to compare with those that are trained on.

An output pixel at p, from the image's centre, takes the input's value at q = A^-1 (p + d(p) - t), with A = R H S:
rotation, shear and scale as matrices, t a shift and d a displacement. :mod:`mlpcli.training.augment` has the sources.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpcli.config import AugmentationConfig
from mlpcli.datasets.deskew import MIN_VARIANCE, deskewed
from mlpcli.gradcheck.rows import TOLERANCE, Row, relative_error, row
from mlpcli.gradcheck.textbook import generator
from mlpcli.training.augment import Augmentation, strength_in

Array = NDArray[Any]


# Part of what a seed means: the displacements in the pool, of each component; its limit in bytes, for large images; and
# the planes of noise that are drawn at a time.
POOL, POOL_BYTES, PLANES = 2048, 2**28, 64

# Images of an epoch that are compared, at most.
COMPARED = 50
# The rounding error of a coordinate, in units of float32's eps times the largest coordinate on the way to it.
ROUNDINGS = 10.0


def check(
    config: AugmentationConfig, count: int, shape: tuple[int, int], seed: int, epochs: int, checked: Sequence[int]
) -> Row:
    """Return the row of distorted images, of the epochs ``checked``, and of the strength in all ``epochs``.

    The ``count`` images are random, as the empty margins of digits would hide an error at the edges. The error is
    relative to the undistorted images: few pixels may be left of an image.
    """
    images = np.random.default_rng(seed).integers(1, 256, size=(count, math.prod(shape)), dtype=np.uint8)
    chosen = np.arange(count)[:: -(-count // COMPARED)]
    augmentation = Augmentation(config, shape, count, epochs, seed, np.float64)
    size = float(np.linalg.norm(images[chosen].astype(np.float64)))
    error = 0.0
    for epoch in checked:
        augmentation.begin(epoch)
        found = augmentation.distort(images[chosen], chosen, np.empty((len(chosen), math.prod(shape))))
        expected = distorted(config, images, shape, seed, epoch, epochs, chosen)
        difference = float(np.linalg.norm(found - expected))
        error = max(error, difference / size)
    if any(strength_in(config, epoch, epochs) != strength(config, epoch, epochs) for epoch in range(1, epochs + 1)):
        error = math.inf
    steepest = (1 + math.tan(math.radians(config.shear))) / (1 - config.scale)
    reach = (sum(shape) + config.elastic_alpha + config.shift) * steepest
    allowed = {"step": ROUNDINGS * float(np.finfo(np.float32).eps) * reach}
    return row("step images", images.shape, {"step": error}, allowed, images[chosen].size)


def check_deskewing(shape: tuple[int, int], seed: int) -> Row:
    """Return the row of deskewed images: those of random slanted strokes, against the formula in float64."""
    (h, w), rng = shape, np.random.default_rng(seed)
    y, x = (grid.astype(np.float64) for grid in np.mgrid[:h, :w])
    slants = rng.uniform(-1, 1, (COMPARED, 1, 1))
    strokes = np.abs(x - w / 2 - slants * (y - h / 2)) <= w / 8
    images = strokes * rng.integers(1, 256, (COMPARED, h, w)).astype(np.float64)
    expected = np.empty((COMPARED, h * w))
    for out, image in zip(expected, images, strict=True):
        m = image.sum() or 1.0
        x_mean, y_mean = (image * x).sum() / m, (image * y).sum() / m
        mu11, mu02 = (image * (x - x_mean) * (y - y_mean)).sum(), (image * (y - y_mean) ** 2).sum()
        k = mu11 / mu02 if mu02 > MIN_VARIANCE * m else 0.0
        out[...] = _interpolated(image, x + k * (y - y_mean), y).ravel()
    error = relative_error(expected, deskewed(images.reshape(COMPARED, -1), shape))
    return row("deskewed images", expected.shape, {"step": error}, TOLERANCE, expected.size)


def strength(config: AugmentationConfig, epoch: int, epochs: int) -> float:
    """Return the factor of all bounds in ``epoch``, from 1, of ``epochs``."""
    last_epochs = range(epochs - config.final_epochs + 1, epochs + 1)
    return config.final_strength if epoch in last_epochs else 1.0


def distorted(
    config: AugmentationConfig,
    images: Array,
    shape: tuple[int, int],
    seed: int,
    epoch: int,
    epochs: int,
    chosen: Array,
) -> Array:
    """Return ``chosen`` (n,) of the training images (N, D), distorted as in ``epoch``, from 1, of ``epochs``."""
    N, (h, w), bound = len(images), shape, strength(config, epoch, epochs)
    draws = bound * (2 * generator(seed, "affine", epoch).random((N, 6)) - 1)
    d = _displacements(config, N, shape, bound, generator(seed, "elastic", epoch))  # (N, 2, h, w)
    rows, columns = np.mgrid[:h, :w]
    centre = np.array([(w - 1) / 2, (h - 1) / 2])[:, np.newaxis, np.newaxis]
    p = np.stack([columns, rows]) - centre  # (2, h, w)
    result = np.empty((len(chosen), h * w))
    for out, i in zip(result, chosen, strict=True):
        rotation, scale_x, scale_y, shear, shift_x, shift_y = draws[i]
        angle, k = math.radians(config.rotation * rotation), math.tan(math.radians(config.shear * shear))
        # y runs down: a point on the right turns up, and what is further up leans more to the right.
        R = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        H = np.array([[1, -k], [0, 1]])
        S = np.diag([1 + config.scale * scale_x, 1 + config.scale * scale_y])
        # The shift is in the displaced image: first the image is transformed, then warped.
        t = config.shift * np.array([shift_x, shift_y])[:, np.newaxis, np.newaxis]
        q = np.einsum("ab,bij->aij", np.linalg.inv(R @ H @ S), p + d[i] - t) + centre
        out[...] = _interpolated(images[i].reshape(h, w).astype(np.float64), *q).ravel()
    return result


def _displacements(
    config: AugmentationConfig, N: int, shape: tuple[int, int], bound: float, rng: np.random.Generator
) -> Array:
    """Return d (N, 2, h, w): for each image a component in x and one in y, drawn from a pool of smoothed noise."""
    h, w = shape
    if not config.elastic_alpha:
        return np.zeros((N, 2, h, w))
    pool = max(1, min(POOL, N, POOL_BYTES // (8 * h * w)))
    drawn = rng.integers(pool, size=(2, N))
    radius = math.ceil(3 * config.elastic_sigma)
    g = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * config.elastic_sigma**2))
    g /= g.sum()
    count, planes = (h + 2 * radius) * (w + 2 * radius), []
    for start in range(0, 2 * pool, PLANES):
        n = min(PLANES, 2 * pool - start)
        words = rng.bit_generator.random_raw(math.ceil(n * count / 8)).astype("<u8")
        # A byte for each entry: 256 values evenly in (-1, 1).
        noise = (words.view(np.int8)[: n * count].reshape(n, h + 2 * radius, w + 2 * radius) + 0.5) / 128
        for axis in (1, 2):
            noise = np.lib.stride_tricks.sliding_window_view(noise, len(g), axis=axis) @ g
        planes.append(config.elastic_alpha * bound * noise)
    fields = np.concatenate(planes).reshape(2, pool, h, w)
    return np.stack([fields[0][drawn[0]], fields[1][drawn[1]]], axis=1)


def _interpolated(image: Array, x: Array, y: Array) -> Array:
    """Return the bilinear interpolation of ``image`` (h, w) at columns ``x`` and rows ``y``; 0 outside."""
    h, w = image.shape
    left, top = np.floor(x), np.floor(y)
    value = np.zeros_like(x)
    for column in (left, left + 1):
        for line in (top, top + 1):
            inside = (line >= 0) & (line < h) & (column >= 0) & (column < w)
            weight = (1 - np.abs(x - column)) * (1 - np.abs(y - line))
            value[inside] += weight[inside] * image[line[inside].astype(int), column[inside].astype(int)]
    return value
