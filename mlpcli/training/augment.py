"""Distorted training images, anew each epoch: rotated, scaled, sheared, shifted, and warped by smooth random fields.

An output pixel at p = (x, y), x to the right and y down from the image's centre, takes the input's value at

    q(p) = M (p + d(p)) + m            M (2, 2), m (2,) of this image; d a displacement field

interpolated bilinearly between its four neighbours, 0 (the background) outside. So the image is transformed first, then
warped. The transformation is diag(scale x, scale y), then H(shear), R(rotation) and a shift t, and M and m its inverse:

    M = (R H S)^-1                     m = -M t

R rotates counter-clockwise, H(k) shears strokes to the right by k = tan(shear) for each pixel up, and the two scales
are drawn independently, as in Ciresan, Meier, Gambardella, Schmidhuber 2010, "Deep, big, simple neural nets for
handwritten digit recognition". The fields are those of Simard, Steinkraus, Platt 2003, "Best practices for
convolutional neural networks applied to visual document analysis": each of the two components is alpha times uniform
noise of (-1, 1), smoothed by a Gaussian of standard deviation sigma and unit sum; they have alpha 34 and sigma 4.

    d = alpha G_h N G_w^T              G_n (n, n + 2r): the Gaussian g, truncated at r, shifted by one in each row

The noise N (h + 2r, w + 2r) reaches r pixels beyond the border, so that a displacement at the edge is as large as one
in the middle: its standard deviation is alpha / sqrt(3) sum(g^2), about alpha / (6.14 sigma), in pixels.

How an image is distorted depends only on seed, epoch and the image's number, bit for bit: not on its batch, nor on what
came before.

    B images at a time, N training images, D = h w pixels
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mlpcli.config import AugmentationConfig
from mlpcli.errors import DataError
from mlpcli.rng import keyed_rng

Array = NDArray[Any]

# Smoothing noise is expensive. So an epoch has a pool of 2,048 displacements in x and as many in y, of which each image
# draws one of each: four million fields. The pool is smaller for few images, and limited in memory.
POOL = 2048
POOL_BYTES = 1 << 28

# Pixels, and planes of noise, processed at a time: they stay in a core's cache.
BLOCK_PIXELS = 1 << 16
BLOCK_PLANES = 64

MAX_PIXELS = 1 << 24  # pixels that float32 can count


class Augmentation:
    """Distorts training images of ``shape`` (h, w) as ``config`` says; its memory is allocated once.

    ``examples`` is the number N of training images, ``epochs`` that of all epochs, the last of which are weaker;
    ``dtype`` is that of the pixels; coordinates are always float32. Raises ``DataError`` for
    images of more than 16 million pixels.
    """

    def __init__(
        self,
        config: AugmentationConfig,
        shape: tuple[int, int],
        examples: int,
        epochs: int,
        seed: int,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self._config, self._shape, self._examples, self._epochs, self._seed = config, shape, examples, epochs, seed
        h, w = shape
        # One row and column of background before the image and two after: every neighbour of a clipped point is there.
        padded = (h + 3) * (w + 3)
        if padded > MAX_PIXELS:
            raise DataError(f"augmentation: images of {h} x {w} pixels are too large to be distorted")
        pool = min(POOL, examples, POOL_BYTES // (8 * h * w)) if config.elastic_alpha else 1
        self._pool = np.empty((2, max(1, pool), h * w), np.float32)  # p + d(p), x and y
        self._drawn = np.zeros((2, examples), np.intp)
        self._Mm = np.empty((examples, 2, 3), np.float32)

        rows = max(1, min(BLOCK_PIXELS // padded, examples))
        self._padded = np.zeros((rows, h + 3, w + 3), dtype)
        self._first = np.repeat(np.arange(rows, dtype=np.float32) * padded, h * w).reshape(rows, h * w)
        self._p = np.ones((3, rows, h * w), np.float32)  # p and 1
        self._q = np.empty((2, rows, h * w), np.float32)
        self._int32 = np.empty((rows, h * w), np.int32)
        self._index = np.empty((rows, h * w), np.intp)
        self._left, self._right = np.empty((2, 2, rows, h * w), dtype)

    def begin(self, epoch: int) -> None:
        """Draw the distortions of all images in ``epoch``, from 1."""
        config, (h, w) = self._config, self._shape
        strength = strength_in(config, epoch, self._epochs)
        draws = keyed_rng(self._seed, "affine", epoch).random((self._examples, 6))
        self._Mm[:, :, :2], self._Mm[:, :, 2] = inverses(config, 2 * draws - 1, strength)
        self._Mm[:, :, 2] += [(w + 1) / 2, (h + 1) / 2]  # from here on seen from the padded image's corner
        xs, ys = pools = self._pool.reshape(2, -1, h, w)
        if config.elastic_alpha:
            rng = keyed_rng(self._seed, "elastic", epoch)
            self._drawn[...] = rng.integers(len(xs), size=self._drawn.shape)
            draw_fields(pools.reshape(-1, h, w), config.elastic_alpha * strength, config.elastic_sigma, rng)
        else:
            pools[...] = 0
        xs += from_the_middle(w)
        ys += from_the_middle(h)[:, None]

    def distort(self, images: NDArray[np.uint8], chosen: Array, out: Array) -> Array:
        """Write the bytes ``images`` (B, D), distorted, to ``out`` (B, D), 0 .. 255, and return it.

        ``chosen`` (B,) are the images' numbers among the N: row i is distorted as image ``chosen[i]`` is this epoch.
        """
        rows = len(self._padded)
        for start in range(0, len(images), rows):
            own = slice(start, start + rows)
            self._distort(images[own], chosen[own], out[own])
        return out

    def _distort(self, images: NDArray[np.uint8], chosen: Array, out: Array) -> None:
        B, (h, w) = len(images), self._shape
        self._padded[:B, 1 : h + 1, 1 : w + 1] = images.reshape(B, h, w)

        # q(p) = [M m] [p 1]: one small product for each image, so that its bits do not depend on the others.
        p, q = self._p[:, :B], self._q[:, :B]
        for axis in (0, 1):
            np.take(self._pool[axis], self._drawn[axis, chosen], axis=0, out=p[axis], mode="clip")
        np.matmul(self._Mm[chosen], p.transpose(1, 0, 2), out=q.transpose(1, 0, 2))
        x, y = q
        np.clip(x, np.float32(0), np.float32(w + 1), out=x)
        np.clip(y, np.float32(0), np.float32(h + 1), out=y)

        # The neighbour to the left and above, and how far q is from it: x and y become fractions.
        floor = np.floor(q, out=p[:2])  # p is free for reuse
        q -= floor
        left, top = floor
        top *= np.float32(w + 3)
        top += left
        top += self._first[:B]
        index, int32 = self._index[:B], self._int32[:B]
        np.copyto(int32, top, casting="unsafe")  # twice as fast as directly to the int64 that take needs
        np.copyto(index, int32)

        # The pixels there, in both rows, and those to their right: at constant offsets in one flat array.
        flat, lefts, rights = self._padded.reshape(-1), self._left[:, :B], self._right[:, :B]
        for row, start in enumerate((0, w + 3)):
            # mode="wrap" is the fastest that writes straight to out; the indices are in range.
            np.take(flat[start:], index, out=lefts[row], mode="wrap")
            np.take(flat[start + 1 :], index, out=rights[row], mode="wrap")

        # one + fraction (other - one): exactly one where the fraction is 0.
        rights -= lefts
        rights *= x
        lefts += rights
        upper, lower = lefts
        lower -= upper
        lower *= y
        np.add(upper, lower, out=out)


def strength_in(config: AugmentationConfig, epoch: int, epochs: int) -> float:
    """Return the factor of every bound in ``epoch``, from 1, of ``epochs``: 1, and less in the last few."""
    return config.final_strength if epoch > epochs - config.final_epochs else 1.0


def inverses(config: AugmentationConfig, draws: Array, strength: float) -> tuple[Array, Array]:
    """Return M (N, 2, 2) and m (N, 2), in pixels, from ``draws`` (N, 6), uniform in (-1, 1).

    The draws are those of rotation, scale x, scale y, shear, shift x and shift y, each a fraction of its bound.
    """
    rotation, shear = math.radians(config.rotation), math.radians(config.shear)
    bounds = np.array([rotation, config.scale, config.scale, shear, config.shift, config.shift])
    angle, wider, taller, slant, x, y = (draws * (strength * bounds)).T
    c, s, k = np.cos(angle), np.sin(angle), np.tan(slant)
    M = np.stack([(c + k * s) / (1 + wider), (k * c - s) / (1 + wider), s / (1 + taller), c / (1 + taller)], axis=1)
    M = M.reshape(-1, 2, 2)
    return M, -np.einsum("nij,nj->ni", M, np.stack([x, y], axis=1))


def draw_fields(planes: Array, alpha: float, sigma: float, rng: np.random.Generator) -> None:
    """Fill ``planes`` (P, h, w), float32, each with one component of a displacement field, in pixels."""
    count, h, w = planes.shape
    G_h, G_w = (alpha / 128 * smoothing(h, sigma)).astype(np.float32), smoothing(w, sigma).astype(np.float32)
    H, W = G_h.shape[1], G_w.shape[1]
    N = np.empty((min(BLOCK_PLANES, count), H, W), np.float32)
    for start in range(0, count, BLOCK_PLANES):
        block = planes[start : start + BLOCK_PLANES]
        noise = N[: len(block)]
        # A random word gives eight: 256 values evenly in (-1, 1), here times 128. Each pixel of d sums hundreds.
        words = rng.bit_generator.random_raw(-(-noise.size // 8)).astype("<u8", copy=False)
        np.add(words.view(np.int8)[: noise.size].reshape(noise.shape), np.float32(0.5), out=noise)
        np.matmul(G_h, (noise.reshape(-1, W) @ G_w.T).reshape(-1, H, w), out=block)


def smoothing(size: int, sigma: float) -> NDArray[np.float64]:
    """Return G (size, size + 2r): the Gaussian of ``sigma``, of unit sum, shifted by one in each row.

    It reaches r = 3 sigma pixels, rounded up; 0.3 % of it lies beyond.
    """
    radius = math.ceil(3 * sigma)
    g = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    G: NDArray[np.float64] = np.zeros((size, size + 2 * radius))
    for row in range(size):
        G[row, row : row + len(g)] = g / g.sum()
    return G


def from_the_middle(size: int) -> Array:
    """Return the coordinates of ``size`` pixels, from their middle: (size,)."""
    return (np.arange(size) - (size - 1) / 2).astype(np.float32)
